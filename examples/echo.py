"""Echo: the server sends back what it gets, the client says something and listens.

python examples/echo.py            both, in one process
python examples/echo.py server     the server alone, on port 8765
python examples/echo.py client     the client alone, to that server
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from wsframe import connect, serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def talk(uri):
    async with connect(uri) as connection:
        for message in ("Hello!", "Grüß Gott!", b"\x00\x01\x02"):
            await connection.send(message)
            print(f"sent {message!r}, received {await connection.recv()!r}")
        print(f"a ping took {await connection.ping() * 1000:.2f} ms")


async def main(reactor, role="both"):
    if role == "client":
        await talk("ws://127.0.0.1:8765")
        return
    port = 8765 if role == "server" else 0
    async with serve(echo, f"tcp:{port}:interface=127.0.0.1") as server:
        if role == "server":
            print(f"listening on {server.addresses[0]}")
            await Deferred()  # until Ctrl-C
        await talk(f"ws://127.0.0.1:{server.addresses[0].port}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
