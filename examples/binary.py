"""Binary: a file goes over in pieces, with backpressure, and its checksum comes back as text."""

import hashlib
import sys

from twisted.internet.task import react

from wsframe import connect, serve

PIECE = 64 * 1024


async def receive_file(connection):
    digest, size = hashlib.sha256(), 0
    async for message in connection:
        if isinstance(message, bytes):  # a piece
            digest.update(message)
            size += len(message)
        else:  # "end", as text
            await connection.send(f"{size} {digest.hexdigest()}")


async def send_file(uri, path):
    digest = hashlib.sha256()
    async with connect(uri) as connection:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                await connection.send(piece)  # waits while the other side is slow
        await connection.send("end")
        size, received = (await connection.recv()).split()
    same = "the same" if received == digest.hexdigest() else "NOT the same"
    print(f"{size} bytes went over, the checksum is {same}")


async def main(reactor, path=sys.executable):
    async with serve(receive_file, "tcp:0:interface=127.0.0.1") as server:
        await send_file(f"ws://127.0.0.1:{server.addresses[0].port}", path)


if __name__ == "__main__":
    react(main, sys.argv[1:])
