"""A peer that says exactly what a test tells it to: bytes, and frames written out by hand.

It shares no code with wsframe, so that the same mistake is not made on both sides.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet import defer
from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

WAIT = 30.0
"""Seconds that any wait of a helper may take: a safety net, never what a test measures.

A machine that has more to do than it can takes ten times as long as one that idles."""

Frame = tuple[int, bytes]
"""Opcode and payload of a frame that was received."""


def within(deferred: Any, seconds: float = WAIT) -> Any:
    """Bound a wait of the test's own."""
    from twisted.internet import reactor

    return deferred.addTimeout(seconds, reactor)


async def turns(count: int = 1) -> None:
    """Let the reactor go round."""
    from twisted.internet import reactor

    for _ in range(count):
        done: defer.Deferred[None] = defer.Deferred()
        reactor.callLater(0, done.callback, None)  # type: ignore[attr-defined]
        await done


async def eventually(condition: Callable[[], object], seconds: float = WAIT) -> None:
    """Wait for what no event announces: look again at every turn of the reactor."""
    from twisted.internet import reactor

    clock: Any = reactor
    end = clock.seconds() + seconds
    while not condition():
        assert clock.seconds() < end, "it did not come about in time"
        done: defer.Deferred[None] = defer.Deferred()
        clock.callLater(0.002, done.callback, None)
        await done


class Stepped:
    """The reactor, with a clock that stands still until `advance` is called.

    Sockets are the reactor's own. A deadline can be reached at once, and with certainty.
    """

    def __init__(self) -> None:
        from twisted.internet import reactor

        self._reactor: Any = reactor
        self._clock = Clock()
        self.callLater = self._clock.callLater
        self.seconds = self._clock.seconds
        self.advance = self._clock.advance
        self.getDelayedCalls = self._clock.getDelayedCalls
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class Raw(Protocol):
    """A connection of the test's own; `received` is everything that came and was not yet taken."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.total = 0
        self.lost: Failure | None = None
        self.made = defer.Deferred[None]()
        self._waiting: list[tuple[Callable[[], object], defer.Deferred[None]]] = []

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.total += len(data)
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self._look()

    def _look(self) -> None:
        for entry in list(self._waiting):
            condition, done = entry
            if condition():
                self._waiting.remove(entry)
                done.callback(None)
            elif self.lost is not None:
                self._waiting.remove(entry)
                done.errback(AssertionError(f"lost, having received {bytes(self.received)!r}"))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; it is looked at whenever bytes come or the end does."""
        done: defer.Deferred[None] = defer.Deferred()
        self._waiting.append((condition, done))
        self._look()
        await within(done)

    async def read_until(self, end: bytes) -> bytes:
        """Take everything up to and with `end`."""
        await self.until(lambda: end in self.received)
        size = self.received.index(end) + len(end)
        return self._take(size)

    async def read(self, size: int) -> bytes:
        """Take so many bytes."""
        await self.until(lambda: len(self.received) >= size)
        return self._take(size)

    async def read_head(self) -> str:
        """Take one HTTP head."""
        return (await self.read_until(b"\r\n\r\n")).decode("latin-1")

    async def read_all(self) -> bytes:
        """Take everything up to the end of the connection."""
        await within(self.ended())
        return self._take(len(self.received))

    def ended(self) -> defer.Deferred[None]:
        """Fire when the connection has ended, in whatever way."""
        done: defer.Deferred[None] = defer.Deferred()
        if self.lost is not None:
            done.callback(None)
        else:
            self._waiting.append((lambda: self.lost is not None, done))
        return done

    def _take(self, size: int) -> bytes:
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    async def read_frame(self) -> Frame:
        """Take one frame; a mask is removed."""
        first, second = await self.read(2)
        length = second & 0x7F
        if length == 126:
            length = struct.unpack("!H", await self.read(2))[0]
        elif length == 127:
            length = struct.unpack("!Q", await self.read(8))[0]
        key = await self.read(4) if second & 0x80 else b""
        payload = await self.read(length)
        if key:
            payload = mix(payload, key)
        return first & 0x0F, payload

    async def read_close(self) -> tuple[int | None, str]:
        """Take frames up to the Close frame; return its code and reason."""
        opcode, payload = await self.read_frame()
        while opcode != 8:
            opcode, payload = await self.read_frame()
        if not payload:
            return None, ""
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def finish(self) -> None:
        """End the connection in order."""
        self.transport.loseConnection()  # type: ignore[union-attr]

    def reset(self) -> None:
        """End it with RST: Twisted's abort sets SO_LINGER to zero seconds."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    async def drop(self) -> None:
        """Abort, and wait for the end."""
        if self.lost is None:
            self.reset()
        await within(self.ended())


async def connect_raw(port: int) -> Raw:
    """Connect to a port of this machine."""
    from twisted.internet import reactor

    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return await within(connectProtocol(endpoint, Raw()))


Script = Callable[[Raw], Awaitable[object]]


class RawServer:
    """Listens, and plays a script with every connection; use it with ``async with``.

    With a certificate it speaks TLS.
    """

    def __init__(
        self,
        script: Script | None = None,
        interface: str = "127.0.0.1",
        certificate: Any = None,
    ) -> None:
        self._certificate = certificate
        self._script = script
        self._interface = interface
        self.connections: list[Raw] = []
        self.errors: list[Failure] = []
        self._queue: defer.DeferredQueue[Raw] = defer.DeferredQueue()

    def accepted(self) -> Any:
        """Wait for the next connection."""
        return within(self._queue.get())

    async def __aenter__(self) -> RawServer:
        from twisted.internet import reactor

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build  # type: ignore[method-assign]
        endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface=self._interface)
        if self._certificate is not None:
            endpoint = SSL4ServerEndpoint(reactor, 0, self._certificate, interface=self._interface)
        self._port: Any = await endpoint.listen(factory)
        self.port: int = self._port.getHost().port
        return self

    def _build(self, address: Any) -> Raw:
        raw = Raw()
        self.connections.append(raw)

        def made(_: None) -> None:
            self._queue.put(raw)
            if self._script is not None:
                played = defer.ensureDeferred(self._script(raw))  # type: ignore[arg-type]
                played.addErrback(self.errors.append)

        raw.made.addCallback(made)
        return raw

    async def __aexit__(self, *exc_info: object) -> None:
        await defer.maybeDeferred(self._port.stopListening)
        for raw in self.connections:
            await raw.drop()
        if exc_info[0] is None:
            for failure in self.errors:
                if not failure.check(AssertionError, defer.TimeoutError):
                    failure.raiseException()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Return a frame; `length` declares another one than the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mix(payload, key)


def mix(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked, or unmasked (RFC 6455 §5.3)."""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


def close_frame(code: int | None, reason: str = "", *, masked: bool = True) -> bytes:
    """Return a Close frame."""
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(8, payload, masked=masked)


def upgrade(*extra: str, host: str | None = "localhost", path: str = "/") -> bytes:
    """Return the opening handshake of a client; `extra` are header lines."""
    lines = [f"GET {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *extra,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def switching(request: str, *extra: str) -> bytes:
    """Return a server's 101 for that request."""
    key = header(request, "Sec-WebSocket-Key")
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
        *extra,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def header(head: str, name: str) -> str | None:
    """Return the value of a header of a head, None where there is none."""
    for line in head.split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name.lower():
            return value.strip()
    return None


async def open_raw(port: int, *extra: str) -> Raw:
    """Open a WebSocket by hand, as a client."""
    raw = await connect_raw(port)
    raw.write(upgrade(*extra))
    head = await raw.read_head()
    assert head.startswith("HTTP/1.1 101 "), head
    return raw


async def accept_raw(server: RawServer) -> Raw:
    """Open a WebSocket by hand, as a server."""
    raw: Raw = await server.accepted()
    raw.write(switching(await raw.read_head()))
    return raw
