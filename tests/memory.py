"""A TCP transport in memory, frames taken apart by hand, and protocols that are fed from tests.

Nothing here runs by itself: a test delivers bytes, drains the buffer and advances the clock, so
that every order of events can be had, and the same one every time.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableDescriptor, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(b"0123456789abcdef").decode()
ACCEPT = "BACScCJPNqyz+UBoqMH89VmURoA="  # for KEY, RFC 6455 §4.2.2
BUFFER = 64 * 1024


@implementer(ITCPTransport, IHalfCloseableDescriptor)
class MemoryTransport:
    """What a protocol writes to. The peer reads at once, or, while `stalled`, only with `drain`."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.written = bytearray()
        self.waiting = bytearray()
        self.stalled = False
        self.producer: Any = None
        self.producer_paused = False
        self.reading = True
        self.pauses = 0
        self.losing = False
        self.half_closed = False
        self.aborted = False
        self.lost = False
        self.no_delay = False

    # what Twisted's transports do

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.lost or self.aborted or (self.half_closed and not self.waiting):
            return  # until everything is out, Twisted's take more behind the end
        if not self.stalled:
            self.written += data
            return
        self.waiting += data
        if len(self.waiting) > BUFFER and self.producer is not None:
            self.producer_paused = True
            self.producer.pauseProducing()  # at every write, as Twisted does it

    def writeSequence(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("Cannot register two producers")
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False
        self.pauses += 1

    def resumeProducing(self) -> None:
        assert not self.lost
        self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        self.losing = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 54321)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", 80)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = bool(enabled)

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False

    # what the peer and the network do

    @property
    def ending(self) -> bool:
        """Whether this side has begun to end TCP in any way."""
        return self.losing or self.half_closed or self.aborted or self.lost

    def take(self) -> bytes:
        """Return what was sent since the last call."""
        data = bytes(self.written)
        self.written.clear()
        return data

    def drain(self) -> bytes:
        """Read everything that waits; the producer is told."""
        self.written += self.waiting
        self.waiting.clear()
        if self.producer is not None and self.producer_paused:
            self.producer_paused = False
            self.producer.resumeProducing()
        return self.take()

    def lose(self, error: Exception | None = None) -> None:
        """End TCP: cleanly, or with the error."""
        if self.lost:
            return
        self.lost = True
        self.reading = False
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        if error is None:
            error = ConnectionAborted() if self.aborted else ConnectionDone()
        self.protocol.connectionLost(Failure(error))

    def reset(self) -> None:
        """End TCP with a reset."""
        self.lose(ConnectionLost())


@dataclass(frozen=True)
class Frame:
    """A frame on the wire, its payload without the mask."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes = b""

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return int.from_bytes(self.payload[:2])


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes = b"",
    length: int | None = None,
) -> bytes:
    """Return the bytes of a frame; `length` says something else than the truth."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if mask else 0
    if size < 126:
        head += bytes([flag | size])
    elif size < 65536:
        head += bytes([flag | 126]) + size.to_bytes(2)
    else:
        head += bytes([flag | 127]) + size.to_bytes(8)
    return head + mask + _masked(payload, mask)


def masked_frame(opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
    """Return the bytes of a client's frame."""
    return frame(opcode, payload, mask=b"\x11\x22\x33\x44", **fields)


def close_frame(code: int | None, reason: bytes = b"", *, mask: bytes = b"") -> bytes:
    """Return the bytes of a Close frame."""
    return frame(CLOSE, (b"" if code is None else code.to_bytes(2)) + reason, mask=mask)


def masked_close(code: int | None, reason: bytes = b"") -> bytes:
    """Return the bytes of a client's Close frame."""
    return close_frame(code, reason, mask=b"\x55\x66\x77\x88")


def _masked(payload: bytes, mask: bytes) -> bytes:
    if not mask:
        return payload
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


def parse(data: bytes) -> list[Frame]:
    """Take apart what must be whole frames."""
    found = []
    while data:
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4]), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10]), 10
        mask = b""
        if data[1] & 0x80:
            mask, at = data[at : at + 4], at + 4
        assert len(data) >= at + size, "a frame is cut short"
        payload = _masked(data[at : at + size], mask)
        first = data[0]
        found.append(Frame(first & 15, payload, bool(first & 0x80), first >> 4 & 7, mask))
        data = data[at + size :]
    return found


def request(
    *headers: tuple[str, str],
    target: str = "/",
    method: str = "GET",
    host: str = "localhost",
    leave_out: str = "",
) -> bytes:
    """Return an opening handshake's request."""
    pairs = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        *headers,
    ]
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in pairs if name != leave_out]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def accept_for(request: bytes) -> str:
    """Return the Sec-WebSocket-Accept that answers a request."""
    import hashlib

    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key")
    )
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")  # noqa: S324 - RFC 6455
    return base64.b64encode(digest.digest()).decode()


def answer(request: bytes, *headers: tuple[str, str]) -> bytes:
    """Return a server's 101 to that request."""
    pairs = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_for(request)),
        *headers,
    ]
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Peer:
    """A protocol on a memory transport, seen from its peer."""

    def __init__(self, factory: Any, clock: Clock) -> None:
        self.clock = clock
        self.transport = MemoryTransport()
        self.protocol = factory.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self.protocol
        self.protocol.makeConnection(self.transport)

    def send(self, *parts: bytes) -> None:
        """Deliver each part as one read."""
        for part in parts:
            if not self.transport.lost and not self.transport.aborted:
                self.protocol.dataReceived(part)

    def send_bytes(self, data: bytes, size: int = 1) -> None:
        """Deliver the data in reads of that size."""
        self.send(*(data[i : i + size] for i in range(0, len(data), size)))

    def frames(self) -> list[Frame]:
        """Return the frames that were sent since the last call."""
        return parse(self.transport.take())

    def end(self) -> None:
        """End TCP as the network would, once this side has asked for it or the peer has left."""
        self.transport.lose()

    def timers(self) -> list[Any]:
        """Return the delayed calls."""
        return list(self.clock.getDelayedCalls())


class Recorder:
    """Mixed into an Autobahn protocol: notes what its hooks are told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []

    def onOpen(self) -> Any:
        self.events.append(("open",))

    def onMessage(self, payload: bytes, isBinary: bool) -> Any:
        self.events.append(("message", payload, isBinary))

    def onClose(self, wasClean: bool, code: int, reason: str) -> Any:
        self.events.append(("close", wasClean, code, reason))

    @property
    def messages(self) -> list[bytes]:
        """The payloads received."""
        return [event[1] for event in self.events if event[0] == "message"]

    @property
    def closed(self) -> tuple[Any, ...] | None:
        """What `onClose` was told."""
        return next((event[1:] for event in self.events if event[0] == "close"), None)


def opened_server(factory: Any, *headers: tuple[str, str]) -> Peer:
    """Return the open server side of a connection."""
    peer = Peer(factory, factory.reactor)
    peer.send(request(*headers))
    head, _, rest = peer.transport.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    peer.transport.written += rest
    return peer


def opened_client(factory: Any, *headers: tuple[str, str]) -> Peer:
    """Return the open client side of a connection."""
    peer = Peer(factory, factory.reactor)
    peer.send(answer(peer.transport.take(), *headers))
    return peer


Setup = Callable[..., Peer]
