"""Streams of frames, good and bad, and what comes of them: by the fast lane, and by parsers.

`wire` makes the bytes of a stream, `outcome` and `received` feed them, cut anywhere, to a protocol
on a transport in memory, of either role, and return all that can be seen of it.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from autobahn.twisted import websocket as stock
from memory import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    Recorder,
    frame,
    opened_client,
    opened_server,
)
from twisted.internet.task import Clock

from wsframe.connection import Connection
from wsframe.core.uri import parse_uri
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.protocol import (
    ConnectionClientFactory,
    ConnectionServerFactory,
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from wsframe.protocol.deflate import accept_answer, accept_offer, offer

LIMIT: Final = 300
"""Bytes of a message; both forms of a length but the longest are below it."""

LARGE_LIMIT: Final = 70_000
"""Bytes of a message where the longest form of a length is to be below it, too."""

FRAGMENTS: Final = 4


class Timers:
    """What stock Autobahn takes its timers from; its own are batched, on a global reactor."""

    def __init__(self, clock: Clock) -> None:
        self.call_later = clock.callLater


DEFLATE: Final = Deflate(client_max_window_bits=15, server_max_window_bits=15)
KEYS: Final = (b"\x11\x22\x33\x44", b"\0\0\0\0", b"\xff\x00\x80\x7f", b"\xff\xff\xff\xff")

# ------------------------------------------------------------------------------- the streams


@dataclass(frozen=True)
class Said:
    """One frame: as it should be, unless a field says otherwise.

    `width` is how many bytes say the length (None: as few as can), `length` what they say,
    `unmask` whether the mask is there where it must not be, and not where it must. A `deflated`
    payload is compressed with what the earlier ones left in the window.
    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    width: int | None = None
    length: int | None = None
    unmask: bool = False
    deflated: bool = False


Item = Said | bytes
"""A frame, or bytes that are none."""


def text(payload: bytes | str, **fields: Any) -> Said:
    return Said(TEXT, payload if isinstance(payload, bytes) else payload.encode(), **fields)


def binary(payload: bytes | int, **fields: Any) -> Said:
    """Return a binary message; a number is its size."""
    return Said(BINARY, sized(payload) if isinstance(payload, int) else payload, **fields)


def more(payload: bytes = b"", **fields: Any) -> Said:
    return Said(0, payload, **fields)


def close(code: int | None = None, reason: bytes = b"", **fields: Any) -> Said:
    return Said(CLOSE, (b"" if code is None else code.to_bytes(2)) + reason, **fields)


def sized(size: int) -> bytes:
    """Return so many bytes, which are ASCII and differ."""
    return (b"0123456789abcdefghijklmnopqrstuvwxyz" * (size // 36 + 1))[:size]


def split(payload: bytes, *cuts: int, opcode: int = BINARY, **first: Any) -> tuple[Said, ...]:
    """Return a message in fragments, cut at those places."""
    places = [0, *cuts, len(payload)]
    parts = [payload[a:b] for a, b in itertools.pairwise(places)]
    return (
        Said(opcode, parts[0], fin=False, **first),
        *(more(part, fin=False) for part in parts[1:-1]),
        more(parts[-1]),
    )


def deflated(payload: bytes, compress: Any) -> bytes:
    return (compress.compress(payload) + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(
        b"\x00\x00\xff\xff"
    )


def wire(items: Iterable[Item], *, masked: bool) -> bytes:
    """Return the bytes of the items, as a client (`masked`) or a server sends them."""
    compress = zlib.compressobj(wbits=-15)
    made = []
    for place, item in enumerate(items):
        if isinstance(item, bytes):
            made.append(item)
            continue
        payload, rsv = item.payload, item.rsv
        if item.deflated:
            payload, rsv = deflated(payload, compress), rsv | 4
        mask = KEYS[place % len(KEYS)] if masked is not item.unmask else b""
        whole = frame(item.opcode, payload, fin=item.fin, rsv=rsv, mask=mask)
        if item.width is not None or item.length is not None:
            length = len(payload) if item.length is None else item.length
            width = item.width if item.width is not None else (0 if length < 126 else 8)
            short = length if width == 0 else {2: 126, 8: 127}[width]
            size = b"" if width == 0 else length.to_bytes(width)
            behind = len(mask) + len(payload)
            tail = whole[len(whole) - behind :] if behind else b""
            whole = bytes([whole[0], (0x80 if mask else 0) | short]) + size + tail
        made.append(whole)
    return b"".join(made)


# ------------------------------------------------------------------------------- the protocols


class Application(Recorder):
    """Notes what its hooks are told, and does `act` at message number `at`."""

    at = 0
    act: Callable[[Any], None]

    def onMessage(self, payload: bytes, isBinary: bool) -> Any:
        super().onMessage(payload, isBinary)
        if len(self.messages) == self.at:
            type(self).act(self)

    def onPing(self, payload: bytes) -> None:
        self.events.append(("ping", payload))
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        this: Any = self
        if this.state == this.STATE_OPEN:
            self.events.append(("close frame", None if isReply else code))
        super().sendCloseFrame(code, reasonUtf8, isReply)  # type: ignore[misc]


class Parsed:
    """Mixed in before a protocol: the lane is off, the parser has it all."""

    def receive_frames(self, data: bytes) -> None:
        self._dataReceived(data)  # type: ignore[attr-defined]


class LaneServer(Application, WebSocketServerProtocol):
    pass


class LaneClient(Application, WebSocketClientProtocol):
    pass


class ParserServer(Application, Parsed, WebSocketServerProtocol):
    pass


class ParserClient(Application, Parsed, WebSocketClientProtocol):
    pass


class StockServer(Application, stock.WebSocketServerProtocol):
    pass


class StockClient(Application, stock.WebSocketClientProtocol):
    pass


ROLES: Final = ("server", "client")
PROTOCOLS: Final[dict[tuple[str, str], Any]] = {
    ("server", "lane"): LaneServer,
    ("server", "parser"): ParserServer,
    ("server", "stock"): StockServer,
    ("client", "lane"): LaneClient,
    ("client", "parser"): ParserClient,
    ("client", "stock"): StockClient,
}
EXTENSION: Final = ("Sec-WebSocket-Extensions", "permessage-deflate")


def options_of(role: str, limit: int) -> Any:
    kind: Any = ServerOptions if role == "server" else ClientOptions
    return kind(max_message_size=limit, max_fragments=FRAGMENTS)


def factory_of(role: str, way: str, *, deflate: bool, limit: int, clock: Clock) -> Any:
    """Return a factory of the Autobahn-named classes, or of Autobahn's own."""
    made: Any
    if way == "stock":
        kind = stock.WebSocketServerFactory if role == "server" else stock.WebSocketClientFactory
        made = kind("ws://localhost", reactor=clock)
        made._batched_timer = Timers(clock)
        made.setProtocolOptions(
            maxMessagePayloadSize=limit,
            failByDrop=False,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )
    elif role == "server":
        made = WebSocketServerFactory(reactor=clock, options=options_of(role, limit))
    else:
        made = WebSocketClientFactory(
            "ws://localhost", reactor=clock, options=options_of(role, limit)
        )
    if deflate:
        if role == "server":
            made.perMessageCompressionAccept = accept_offer(DEFLATE, limit)
        else:
            made.perMessageCompressionOffers = [offer(DEFLATE)]
            made.perMessageCompressionAccept = accept_answer(DEFLATE, limit)
    made.protocol = PROTOCOLS[role, way]
    return made


def opened(role: str, factory: Any, *, deflate: bool) -> Peer:
    headers = [EXTENSION] if deflate else []
    peer = (opened_server if role == "server" else opened_client)(factory, *headers)
    compress = peer.protocol._perMessageCompress
    assert (compress is not None) is deflate
    return peer


@dataclass
class Outcome:
    """What came of a stream.

    `counts` are Autobahn's; the lane counts a message when it is complete, the parser its bytes as
    they come, and neither looks the same at the end of a connection that fails.
    """

    events: list[Any]
    sent: bytes
    ended: tuple[bool, ...]
    said: list[str]
    counts: dict[str, int] = field(compare=False)

    @property
    def until_close(self) -> list[Any]:
        """The events up to the first Close frame that was sent."""
        until: list[Any] = []
        for event in self.events:
            if event[0] == "close":
                break  # TCP ended; Autobahn's own says other codes
            until.append(event)
            if event[0] == "close frame":
                break
        return until


@contextmanager
def same_masks() -> Iterator[None]:
    """Have the same bytes be random, and save what Autobahn formats for a line that nobody reads.

    That would take a third of the time.
    """
    with (
        patch("os.urandom", lambda size: (KEYS[0] * size)[:size]),
        patch("wsframe.protocol.masking._drawn", bytearray()),
        patch("autobahn.websocket.protocol.pformat", id),
    ):
        yield


def pieces(stream: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} - {0, len(stream)})
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        yield stream[start:end]


def outcome(
    role: str,
    way: str,
    stream: bytes,
    cuts: Iterable[int] = (),
    *,
    deflate: bool = False,
    limit: int = LIMIT,
    mixin: Any = None,
    **members: Any,
) -> Outcome:
    """Feed a stream, cut at those places, to a protocol that was opened anew."""
    clock = Clock()
    factory = factory_of(role, way, deflate=deflate, limit=limit, clock=clock)
    if members or mixin is not None:
        bases = (factory.protocol,) if mixin is None else (mixin, factory.protocol)
        factory.protocol = type("Acting", bases, members)
    said: list[str] = []
    with same_masks():
        peer = opened(role, factory, deflate=deflate)
        peer.protocol.said = said
        for piece in pieces(stream, cuts):
            peer.send(piece)
        transport = peer.transport
        ended = (transport.losing, transport.half_closed, transport.aborted, transport.reading)
        counts = {
            name: value
            for name, value in vars(peer.protocol.trafficStats).items()
            if name.startswith("incoming")
        }
        sent = bytes(transport.written)
        peer.end()
    if way != "stock":
        assert clock.getDelayedCalls() == []
    return Outcome(peer.protocol.events, sent, ended, said, counts)


# ------------------------------------------------------------------------------- by their names

EURO: Final = "€".encode()
STREAMS: Final[dict[str, Sequence[Item]]] = {
    "empty messages": [binary(0), text(b""), binary(0)],
    "small messages": [binary(1), text("a€"), binary(5), text("🂡")],
    "up to the two bytes of a length": [binary(125), binary(126), binary(127)],
    "message of the limit": [binary(300), text(sized(300))],
    "message over the limit": [binary(1), binary(301), binary(1)],
    "a length that is never kept": [binary(0, length=1 << 40), binary(1)],
    "a length with its highest bit": [binary(0, length=1 << 63), binary(1)],
    "length in two bytes that fits in none": [binary(1), binary(125, width=2), binary(1)],
    "length in eight bytes that fits in none": [binary(5, width=8), binary(1)],
    "length in eight bytes that fits in two": [binary(126, width=8), binary(1)],
    "fragments": [binary(1), *split(sized(130), 3, 127), binary(2)],
    "empty fragments": [*split(b"", 0, 0), *split(b"x", 0), text(b"y")],
    "as many fragments as may be": [*split(sized(8), 1, 2, 3), *split(sized(8), 1, 2, 3), text("")],
    "too many fragments": [text("a"), *split(sized(9), 1, 2, 3, 4), text("b")],
    "fragments over the limit together": [*split(sized(301), 150), binary(1)],
    "control frames between fragments": [
        Said(TEXT, b"a", fin=False),
        Said(PING, b"1"),
        more(b"b", fin=False),
        Said(PONG, b"2"),
        Said(PING),
        more(b"c"),
        binary(1),
    ],
    "pings and pongs": [
        Said(PING, b"1"),
        binary(1),
        Said(PING, sized(125)),
        Said(PONG),
        text("x"),
        Said(PONG, b"2"),
    ],
    "close": [binary(1), close(), binary(2)],
    "close with a code": [binary(1), close(1000), binary(2)],
    "close with a reason": [close(4000, "späť".encode()), Said(PING, b"late")],
    "close between fragments": [binary(1, fin=False), close(1001, b"bye"), more(b"x")],
    "close with a code that may not travel": [binary(1), close(1005), binary(2)],
    "close with half a code": [binary(1), Said(CLOSE, b"\x03"), binary(2)],
    "close with a reason that is not UTF-8": [binary(1), close(1000, b"\xff"), binary(2)],
    "close in fragments": [close(1000, fin=False), binary(1)],
    "ping in fragments": [Said(PING, b"a", fin=False), binary(1)],
    "ping over 125 bytes": [binary(1), Said(PING, sized(126)), binary(1)],
    "text that is not UTF-8": [text("a"), text(b"ok \xff not"), text("b")],
    "text that ends within a character": [text("a"), text(EURO[:2]), text(EURO[2:])],
    "text with a surrogate": [text("a"), text(b"\xed\xa0\x80"), text("b")],
    "text beyond Unicode": [text(b"\xf4\x90\x80\x80")],
    "text with a NUL and a byte order mark": [text(b"\0"), text("\ufeff")],
    "text cut within a character": [*split(b"a" + EURO, 2, 3, opcode=TEXT), text("b")],
    "text cut into what is not UTF-8": [*split(b"a\xe2\x28", 2, opcode=TEXT), text("b")],
    "text whose last fragment ends in a character": [*split(EURO[:2], 1, opcode=TEXT), text("b")],
    "binary that is not UTF-8": [binary(b"\xff\xfe"), text(b"x")],
    "reserved bit 1": [text("a"), text("b", rsv=4), text("c")],
    "reserved bit 2": [text("a"), text("b", rsv=2), text("c")],
    "reserved bit 3": [text("a"), binary(b"b", rsv=1), text("c")],
    "reserved bit of a ping": [text("a"), Said(PING, b"", rsv=4), text("c")],
    "reserved data opcode": [text("a"), Said(3, b"b"), text("c")],
    "reserved data opcode, empty": [Said(7), text("c")],
    "reserved control opcode": [text("a"), Said(11), text("c")],
    "wrong mask bit": [binary(2), binary(2, unmask=True), binary(2)],
    "wrong mask bit of an empty frame": [text(""), text("", unmask=True), text("")],
    "wrong mask bit of a ping": [text("a"), Said(PING, b"b", unmask=True), text("c")],
    "continuation of nothing": [text("a"), more(b"b"), text("c")],
    "continuation of nothing, empty and more to come": [more(b"", fin=False), text("c")],
    "message within a message": [text("a", fin=False), text("b"), more(b"c")],
    "fragment within a message": [binary(1, fin=False), binary(1, fin=False), more(b"c")],
    "a message that does not end": [text("a"), text("b", fin=False), Said(PING, b"x")],
    "a frame that does not end": [text("a"), binary(b"bcd", length=9)],
    "a frame of two bytes' length that does not end": [text("a"), binary(b"b" * 20, length=200)],
    "bad text that does not end": [text("a"), text(b"\xff\xff", length=9)],
    "a head that does not end": [text("a"), b"\x82"],
    "noise": [binary(1), bytes(range(0x70, 0x90)), binary(1)],
    "zeros": [bytes(40)],
    "many small messages": [binary(n % 3) for n in range(30)],
}

DEFLATED: Final[dict[str, Sequence[Item]]] = {
    "one": [text(b"hello hello hello", deflated=True)],
    "with those before it": [text(b"hello", deflated=True), text(b"hello", deflated=True)],
    "between plain ones": [
        binary(3),
        text(b"hello", deflated=True),
        binary(126),
        text(b"hello", deflated=True),
        Said(PING, b"x"),
        text("plain"),
    ],
    "empty": [binary(b"", deflated=True), binary(b"x", deflated=True)],
    "below the limit": [binary(bytes(290), deflated=True), text("b")],
    "over the limit": [text("a"), binary(bytes(301), deflated=True), text("b")],
    "in fragments": [
        text("a"),
        *split(deflated(b"hello hello", zlib.compressobj(wbits=-15)), 2, 5, opcode=TEXT, rsv=4),
        text("b"),
    ],
    "in fragments with a ping": [
        Said(BINARY, deflated(b"hello", zlib.compressobj(wbits=-15))[:3], fin=False, rsv=4),
        Said(PING, b"x"),
        more(deflated(b"hello", zlib.compressobj(wbits=-15))[3:]),
    ],
    "plain fragments": [*split(sized(9), 4), text(b"x", deflated=True)],
    "not UTF-8": [text(b"\xff\xff\xff\xff", deflated=True), text("b")],
    "corrupt": [text("a"), binary(b"\xff\xff\xff\xff", rsv=4), text("b")],
    "cut short": [text("a"), binary(b"\x02", rsv=4), text("b")],
    "bit of a continuation": [binary(2, fin=False), more(b"x", rsv=4), text("b")],
    "bit of a ping": [text("a"), Said(PING, b"", rsv=4), text("b")],
    "another reserved bit": [text("a"), text("b", rsv=6), text("c")],
}

# ------------------------------------------------------------------------------- through Connection


def received(role: str, way: str, stream: bytes, cuts: Iterable[int], *, deflate: bool) -> Any:
    """Feed a stream to a `Connection`; return what `recv` gave, what was sent, and the end."""
    clock = Clock()
    made: list[Connection] = []

    def begin(protocol: Any) -> Connection:
        made.append(Connection(protocol))
        return made[0]

    given: dict[str, Any] = {"reactor": clock, "options": options_of(role, LIMIT)}
    given["compression"] = DEFLATE if deflate else None
    factory: Any
    if role == "server":
        factory = ConnectionServerFactory(begin, **given)
    else:
        uri = parse_uri("ws://localhost")
        given |= {"headers": (), "origin": None, "subprotocols": ()}
        factory = ConnectionClientFactory(begin, uri, **given)
    if way == "parser":
        factory.protocol = type("Parsing", (Parsed, factory.protocol), {})
    messages: list[Any] = []
    with same_masks():
        peer = opened(role, factory, deflate=deflate)
        connection = made[0]
        for piece in pieces(stream, cuts):
            peer.send(piece)
            messages.append(peer.transport.reading)
            messages += taken(connection, clock)
        sent = bytes(peer.transport.written)
        peer.end()
        messages += taken(connection, clock)
    return messages, sent, connection.close_code, connection.close_reason, connection.counts


def taken(connection: Connection, clock: Clock) -> list[Any]:
    """Return what waits for `recv`."""
    found: list[Any] = []
    before = -1
    while len(found) > before:
        before = len(found)
        waited = connection.recv()
        waited.addCallbacks(found.append, lambda _: None)
        clock.advance(0)
        waited.cancel()
    return found
