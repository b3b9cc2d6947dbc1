"""The servers of the tunnel bench, each a process of its own: an origin, and a way that is long.

    python bench/loopback.py origin
    python bench/loopback.py relay SECONDS PORT...

Each prints the ports that it serves. The origin speaks as much HTTP/1.0 as curl needs: GET /1000
is answered with so many bytes, PUT is read to its end. The relay hands on to each PORT what it is
sent, half of a round trip of SECONDS later, and back again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import threading

HOST = "127.0.0.1"
CHUNK = 1 << 18


def answer_head(size: int) -> bytes:
    """Return what the origin says before so many bytes."""
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size


def listening() -> socket.socket:
    return socket.create_server((HOST, 0), backlog=64)


def origin() -> None:
    with listening() as server:
        print(server.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()


def answer(connection: socket.socket) -> None:
    buffer = bytearray(CHUNK)
    with connection, contextlib.suppress(ConnectionError):  # the client goes when it has all
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(CHUNK)
            if not received:
                return
            head += received
        head, _, begun = head.partition(b"\r\n\r\n")
        if head.startswith(b"GET /"):
            left = int(head.split()[1][1:])
            connection.sendall(answer_head(left))
            while left:
                left -= connection.send(memoryview(buffer)[:left])
        else:
            sizes = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            left = int(sizes[1]) - len(begun) if sizes else 0
            while left > 0:
                received_size = connection.recv_into(buffer)
                if not received_size:
                    return
                left -= received_size
            connection.sendall(answer_head(0))


def no_delay(writer: asyncio.StreamWriter) -> None:
    """Send at once what is written, without waiting for an acknowledgement (Nagle)."""
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def relay(round_trip: float, ports: list[int]) -> None:
    """Serve a way to each port.

    The kernel answers the handshake of TCP at once, which over a long way takes a round trip: the
    first bytes are charged with it, as every client here speaks first.
    """

    async def hand_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, made: float
    ) -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    break
                writer.write(data)
            writer.close()

        delivery = asyncio.ensure_future(deliver())
        data = b"-"
        while data:
            try:
                data = await reader.read(CHUNK)
            except ConnectionError:
                data = b""
            await queue.put((max(loop.time(), made) + round_trip / 2, data))
        await delivery

    def way_to(port: int):
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made = asyncio.get_running_loop().time() + round_trip
            no_delay(writer)  # asyncio does so of itself only where the socket names its protocol
            there, back = await asyncio.open_connection(HOST, port)
            no_delay(back)
            await asyncio.gather(hand_on(reader, back, made), hand_on(there, writer, 0.0))

        return serve

    servers = [await asyncio.start_server(way_to(port), sock=listening()) for port in ports]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Future()


if __name__ == "__main__":
    if sys.argv[1] == "origin":
        origin()
    else:
        asyncio.run(relay(float(sys.argv[2]), list(map(int, sys.argv[3:]))))
