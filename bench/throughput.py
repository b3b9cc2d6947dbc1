"""Bytes through one proxy, as four clients move them: the half of the tunnel bench about speed.

Every client asks the same origin, through the same proxy, for the same bytes, and is timed from
its question, when the tunnel is open, to the last byte of the answer:

- socket: a blocking socket that says the handshake with the proxy by hand;
- twisted: a Twisted protocol that does the same, and so has nothing between it and its transport;
- wsframe: a Twisted protocol at the end of `tunnel_endpoint`;
- curl: timed by itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopback import CHUNK, HOST, answer_head
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe import tunnel_endpoint

MIB = 1 << 20
LIMIT = 30.0
"""Seconds for one transfer; it takes less than one."""


@dataclass(frozen=True)
class Transfer:
    """So many bytes, to or from the origin behind a proxy; `file` has them, for curl."""

    scheme: str
    proxy: int
    origin: int
    upload: bool
    size: int
    file: Path = Path(os.devnull)

    @property
    def proxy_url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.proxy}"

    @property
    def question(self) -> bytes:
        if self.upload:
            return b"PUT / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % self.size
        return b"GET /%d HTTP/1.0\r\n\r\n" % self.size

    @property
    def answer_size(self) -> int:
        if self.upload:
            return len(answer_head(0))
        return len(answer_head(self.size)) + self.size

    def handshake(self) -> Iterator[tuple[bytes, Callable[[bytes], bool]]]:
        """Yield what is said to the proxy, and what tells that it has answered."""
        if self.scheme == "http":
            target = f"{HOST}:{self.origin}"
            request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
            yield request, lambda answer: answer.endswith(b"\r\n\r\n")
        else:
            yield b"\x05\x01\x00", lambda answer: len(answer) == 2
            request = b"\x05\x01\x00\x01" + socket.inet_aton(HOST) + self.origin.to_bytes(2)
            yield request, lambda answer: len(answer) == 10


@dataclass(frozen=True)
class Figure:
    """How long a transfer took, and how much of this process's CPU time; None is not known."""

    seconds: float
    cpu: float | None = None


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> Figure:
        return Figure(time.perf_counter() - self._began[0], time.process_time() - self._began[1])


async def by_socket(_: Any, transfer: Transfer) -> Figure:
    buffer = bytearray(CHUNK)
    with socket.create_connection((HOST, transfer.proxy), timeout=LIMIT) as connection:
        for request, answered in transfer.handshake():
            connection.sendall(request)
            answer = b""
            while not answered(answer):
                answer += received(connection.recv(CHUNK))
        watch = Stopwatch()
        connection.sendall(transfer.question)
        left = transfer.size if transfer.upload else 0
        while left:
            left -= connection.send(memoryview(buffer)[:left])
        left = transfer.answer_size
        while left:
            left -= received(connection.recv_into(buffer))
        return watch.stop()


def received(something: Any) -> Any:
    if not something:
        raise SystemExit("the connection ended early")
    return something


@implementer(IPullProducer)
class Client(Protocol):
    """Asks as soon as it is connected; `done` fires with the figure."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.to_send = transfer.size if transfer.upload else 0
        self.to_receive = transfer.answer_size
        self.chunk = bytes(CHUNK)
        self.done: Deferred[Figure] = Deferred()

    def connectionMade(self) -> None:
        self.watch = Stopwatch()
        self.transport.write(self.transfer.question)
        if self.to_send:
            self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        chunk = self.chunk[: self.to_send]  # the same object, but for the last
        self.to_send -= len(chunk)
        self.transport.write(chunk)
        if not self.to_send:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""

    def dataReceived(self, data: bytes) -> None:
        self.to_receive -= len(data)
        if not self.to_receive:
            self.done.callback(self.watch.stop())
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.errback(reason)


class ByHand(Client):
    """The same, behind a handshake of its own; after that nothing is left of it."""

    def connectionMade(self) -> None:
        self.steps = self.transfer.handshake()
        self.answer = b""
        self.step()

    def step(self) -> None:
        request, self.answered = next(self.steps, (b"", None))
        if request:
            self.transport.write(request)
        else:
            self.dataReceived = super().dataReceived
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self.answer += data
        if self.answered(self.answer):
            self.answer = b""
            self.step()


async def by_twisted(reactor: Any, transfer: Transfer) -> Figure:
    endpoint = TCP4ClientEndpoint(reactor, HOST, transfer.proxy)
    client = await connectProtocol(endpoint, ByHand(transfer))
    return await client.done.addTimeout(LIMIT, reactor)


async def by_wsframe(reactor: Any, transfer: Transfer) -> Figure:
    target = f"{HOST}:{transfer.origin}"
    endpoint = tunnel_endpoint(reactor, target, proxies=transfer.proxy_url)
    client = await connectProtocol(endpoint, Client(transfer))
    return await client.done.addTimeout(LIMIT, reactor)


async def by_curl(_: Any, transfer: Transfer) -> Figure:
    url = f"http://{HOST}:{transfer.origin}/{transfer.size}"
    command = ["curl", "-q", "-sS", "--max-time", f"{LIMIT:g}", "--noproxy", "", "--proxytunnel"]
    command += ["--proxy", transfer.proxy_url, "--output", "/dev/null", "--http1.0"]
    command += ["--write-out", "%{time_total} %{time_pretransfer}", "--header", "Expect:", url]
    if transfer.upload:
        command += ["--upload-file", str(transfer.file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total, before = map(float, done.stdout.split())
    return Figure(total - before)


CLIENTS = {"socket": by_socket, "twisted": by_twisted, "wsframe": by_wsframe, "curl": by_curl}
