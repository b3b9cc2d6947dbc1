"""Echo of 128 bytes over 100 connections: the server's CPU time a message, beside its peers'.

    python bench/echo.py [--rounds 5] [--messages 20000] [--json FILE]

Every server runs alone on one core, the load on another; the load generator is the same for all
and speaks frames it has built before. The rounds of the servers are interleaved, because a machine
is not equally fast all the time; the table has the medians, and for each peer its CPU time divided
by ours: above 1 we are faster.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import machine
import psutil

CONNECTIONS = 100
PAYLOAD = b"x" * 128
MASK = b"\x01\x02\x03\x04"
FRAME = b"\x82\xfe" + len(PAYLOAD).to_bytes(2) + MASK
FRAME += bytes(byte ^ MASK[place % 4] for place, byte in enumerate(PAYLOAD))
ANSWER = 4 + len(PAYLOAD)  # bytes of the frame that comes back, unmasked

WSFRAME = """
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from wsframe import serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main(reactor):
    async with serve(echo, "tcp:0:interface=127.0.0.1:backlog=512") as server:
        print(server.addresses[0].port, flush=True)
        await Deferred()

react(main)
"""

PROTOCOL = """
from twisted.internet import reactor
from {module} import WebSocketServerFactory, WebSocketServerProtocol

class Echo(WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)

factory = WebSocketServerFactory()
factory.protocol = Echo
print(reactor.listenTCP(0, factory, 512, "127.0.0.1").getHost().port, flush=True)
reactor.run()
"""

WEBSOCKETS = """
import asyncio
from websockets.asyncio.server import serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()

asyncio.run(main())
"""

SERVERS = {
    "wsframe": WSFRAME,
    "wsframe.protocol": PROTOCOL.format(module="wsframe.protocol"),
    "autobahn": PROTOCOL.format(module="autobahn.twisted.websocket"),
    "websockets": WEBSOCKETS,
}


def open_connection(port: int) -> socket.socket:
    """Return a socket on which the opening handshake is done."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    if b" 101 " not in head:
        raise SystemExit(f"the server answered {head!r}")
    connection.setblocking(False)
    return connection


def exchange(connections: list[socket.socket], messages: int, in_flight: int) -> None:
    """Send so many messages in all, `in_flight` at a time on each connection; await the echoes."""
    burst, expected = FRAME * in_flight, ANSWER * in_flight
    left = max(1, messages // (len(connections) * in_flight))
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, [0, left - 1])
            connection.sendall(burst)
        unfinished = len(connections)
        while unfinished:
            for key, _ in selector.select(60):
                state = key.data
                state[0] += len(key.fileobj.recv(1 << 20))
                if state[0] < expected:
                    continue
                state[0] = 0
                if state[1]:
                    state[1] -= 1
                    key.fileobj.sendall(burst)
                else:
                    selector.unregister(key.fileobj)
                    unfinished -= 1


def measure(code: str, messages: int, in_flight: int) -> float:
    """Return the server's CPU time a message, in microseconds."""
    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        os.sched_setaffinity(process.pid, {cores[-1]})
        port = int(process.stdout.readline())
        connections = [open_connection(port) for _ in range(CONNECTIONS)]
        exchange(connections, messages // 10, in_flight)  # warm up
        server = psutil.Process(process.pid)
        before = sum(server.cpu_times()[:2])
        exchange(connections, messages, in_flight)
        spent = sum(server.cpu_times()[:2]) - before
        for connection in connections:
            connection.close()
        return spent / messages * 1e6
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    described = machine.described("wsframe", "autobahn", "twisted", "websockets")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    rows = {}
    for in_flight in (1, 32):
        figures: dict[str, list[float]] = {name: [] for name in SERVERS}
        for _ in range(arguments.rounds):
            for name, code in SERVERS.items():
                figures[name].append(measure(code, arguments.messages, in_flight))
        rows[in_flight] = {name: statistics.median(values) for name, values in figures.items()}
    print(machine.as_text(described))
    print(f"{'server':18} {'1 in flight':>18} {'32 in flight':>18}")
    for name in SERVERS:
        cells = [
            f"{rows[n][name]:6.1f} us ({rows[n][name] / rows[n]['wsframe']:4.2f})" for n in rows
        ]
        print(f"{name:18} {cells[0]:>18} {cells[1]:>18}")
    if arguments.json:
        machine.write(arguments.json, described | {"microseconds": rows})


if __name__ == "__main__":
    sys.exit(main())
