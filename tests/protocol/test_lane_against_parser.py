"""The fast lane against Autobahn's parser: for every stream and every split of it, the same.

`receive_frames` takes what it knows and leaves the rest to the parser. A protocol that hands
everything to the parser is what it is held against, and so is Autobahn's own, up to the first
Close frame: what follows a fault is where wsframe means to differ.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import pytest
from autobahn.twisted import websocket as stock
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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
from wsframe.protocol.common import ReactorTimer
from wsframe.protocol.deflate import accept_answer, accept_offer, offer
from wsframe.trace import Trace

LIMIT: Final = 300
"""Bytes of a message; both forms of a length but the longest are below it."""

LARGE_LIMIT: Final = 70_000
"""Bytes of a message where the longest form of a length is to be below it, too."""

FRAGMENTS: Final = 4
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


class Streaming:
    """Mixed in before a protocol: notes Autobahn's hooks of frames, which see messages grow."""

    events: list[tuple[Any, ...]]

    def onMessageBegin(self, isBinary: bool) -> None:
        self.events.append(("begin", isBinary))
        super().onMessageBegin(isBinary)  # type: ignore[misc]

    def onMessageFrameBegin(self, length: int) -> None:
        self.events.append(("frame", length))
        super().onMessageFrameBegin(length)  # type: ignore[misc]

    def onMessageFrameData(self, payload: bytes) -> None:
        self.events.append(("data", payload))
        super().onMessageFrameData(payload)  # type: ignore[misc]

    def onMessageFrameEnd(self) -> None:
        self.events.append(("frame end",))
        super().onMessageFrameEnd()  # type: ignore[misc]

    def onMessageFrame(self, payload: list[bytes]) -> None:
        self.events.append(("whole frame", b"".join(payload)))
        super().onMessageFrame(payload)  # type: ignore[misc]

    def onMessageEnd(self) -> None:
        self.events.append(("end",))
        super().onMessageEnd()  # type: ignore[misc]


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
        made._batched_timer = ReactorTimer(clock)
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
    with patch("os.urandom", lambda size: (KEYS[0] * size)[:size]):
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


# ------------------------------------------------------------------- every split of short streams

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

CASES: Final = [
    *(pytest.param(items, False, id=name) for name, items in STREAMS.items()),
    *(pytest.param(items, False, id=f"deflate not agreed on: {name}") for name, items in [
        ("one", DEFLATED["one"]),
        ("in fragments", DEFLATED["in fragments"]),
    ]),
    *(pytest.param(items, True, id=f"deflate: {name}") for name, items in DEFLATED.items()),
]  # fmt: skip


def edges(items: Sequence[Item], *, masked: bool, near: Iterable[int]) -> list[int]:
    """Return the places in a stream that are so near to the begin of a frame."""
    starts = [len(wire(items[:place], masked=masked)) for place in range(len(items) + 1)]
    places = {start + offset for start in starts for offset in near}
    return sorted(place for place in places if 0 < place < starts[-1])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("items", "deflate"), CASES)
def test_whole_and_at_every_split_it_is_as_the_parser_has_it(
    role: str, items: Sequence[Item], deflate: bool
) -> None:
    """In one read, in two of every length (but within long payloads), and byte by byte."""
    masked = role == "server"
    stream = wire(items, masked=masked)
    parsed = outcome(role, "parser", stream, deflate=deflate)

    assert outcome(role, "lane", stream, deflate=deflate) == parsed
    splits: Iterable[int] = range(1, len(stream))
    if len(stream) > 100:
        splits = edges(items, masked=masked, near=range(-1, 16))
    for cut in splits:
        laned = outcome(role, "lane", stream, [cut], deflate=deflate)
        assert laned == parsed, f"split at {cut}"
    cuts = list(range(len(stream)))
    dripped = outcome(role, "lane", stream, cuts, deflate=deflate)
    assert dripped == parsed
    assert dripped == outcome(role, "parser", stream, cuts, deflate=deflate)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("items", "deflate"),
    [case for case in CASES if case.id != "too many fragments"],  # Autobahn counts none
)
def test_until_the_first_close_frame_it_is_as_autobahn_has_it(
    role: str, items: Sequence[Item], deflate: bool
) -> None:
    """Without wsframe's own bounds; those are tested elsewhere."""
    stream = wire(items, masked=role == "server")
    told = outcome(role, "stock", stream, deflate=deflate).until_close
    for cuts in ([], [len(stream) // 2], range(len(stream))):
        assert outcome(role, "lane", stream, cuts, deflate=deflate).until_close == told


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.xfail(
    strict=True, reason="Autobahn counts what is not inflated yet of a frame as if it had been"
)
def test_a_compressed_message_of_the_limit_is_received_however_it_is_cut(role: str) -> None:
    stream = wire([binary(bytes(LIMIT), deflated=True)], masked=role == "server")
    whole = outcome(role, "lane", stream, deflate=True)
    assert ("message", bytes(LIMIT), True) in whole.events
    dripped = outcome(role, "lane", stream, range(len(stream)), deflate=True)
    assert dripped == whole


GOOD: Final = [
    case
    for case in CASES
    if case.id
    in {
        "empty messages",
        "small messages",
        "up to the two bytes of a length",
        "message of the limit",
        "fragments",
        "empty fragments",
        "control frames between fragments",
        "pings and pongs",
        "many small messages",
        "deflate: one",
        "deflate: between plain ones",
    }
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("items", "deflate"), GOOD)
def test_messages_are_counted_as_by_the_parser(
    role: str, items: Sequence[Item], deflate: bool
) -> None:
    """Once they are there: whole ones, and what they are in all."""
    stream = wire(items, masked=role == "server")
    parsed = outcome(role, "parser", stream, deflate=deflate)
    assert parsed.counts["incomingWebSocketMessages"]
    for cuts in ([], [len(stream) // 2], range(len(stream))):
        assert outcome(role, "lane", stream, cuts, deflate=deflate).counts == parsed.counts


LARGE: Final[dict[str, Sequence[Item]]] = {
    "about the longest length": [binary(65535), binary(65536), binary(65537), text("x")],
    "of the limit": [text("x"), binary(LARGE_LIMIT), text("y")],
    "over the limit": [text("x"), binary(LARGE_LIMIT + 1), text("y")],
    "length in eight bytes that fits in two": [text("x"), binary(65535, width=8), text("y")],
    "text with a bad byte at its end": [text("x"), text(sized(65536) + b"\xff"), text("y")],
    "text with a bad byte at its begin": [text("x"), text(b"\xff" + sized(65536)), text("y")],
    "text of long characters": [text("x"), text(EURO * 22_000), text("y")],
    "fragments": [text("x"), *split(sized(LARGE_LIMIT), 65536, 65537), text("y")],
    "fragments over the limit": [*split(sized(LARGE_LIMIT + 1), 65536, 65537), text("y")],
    "many": [binary(size) for size in (1, 4000, 0, 65536, 125, 66000, 126)],
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("items", [pytest.param(v, id=k) for k, v in LARGE.items()])
def test_large_ones_are_as_the_parser_has_them(role: str, items: Sequence[Item]) -> None:
    """Cut at their heads and ends, and in reads such as sockets give."""
    masked = role == "server"
    stream = wire(items, masked=masked)
    parsed = outcome(role, "parser", stream, limit=LARGE_LIMIT)

    assert outcome(role, "lane", stream, limit=LARGE_LIMIT) == parsed
    near = (-1, 0, 1, 2, 9, 10, 13, 14, 15)
    splits = [[cut] for cut in edges(items, masked=masked, near=near)]
    splits += [list(range(0, len(stream), size)) for size in (999, 4096, 65536)]
    for cuts in splits:
        laned = outcome(role, "lane", stream, cuts, limit=LARGE_LIMIT)
        assert laned == parsed, cuts[:2]


# --------------------------------------------------------------------------- streams that are drawn

SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 299, 300, 301])
TEXTS = st.one_of(
    st.text(max_size=20).map(str.encode),
    SIZES.map(sized),
    st.sampled_from([b"\xff", EURO[:1], EURO[:2], b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]),
)
BINARIES = SIZES.map(sized) | st.binary(max_size=40)
MESSAGES = st.builds(text, TEXTS) | st.builds(binary, BINARIES)
CONTROLS = st.builds(
    Said, st.sampled_from([PING, PONG]), st.sampled_from([0, 1, 5, 125]).map(sized)
)
CODES = st.sampled_from([None, 1000, 1001, 1002, 1005, 1006, 1015, 1016, 3000, 4999, 5000, 0])
CLOSES = st.builds(close, CODES, st.sampled_from([b"", b"why", EURO, b"\xff"]))
FAULTS = st.builds(
    Said,
    st.sampled_from([TEXT, BINARY, 0, 3, 7, CLOSE, PING, PONG, 11, 15]),
    SIZES.map(sized),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 1, 2, 4, 7]),
    width=st.sampled_from([None, None, 2, 8]),
    unmask=st.booleans(),
)
LENGTHS = st.builds(
    lambda length, payload: binary(payload, length=length, width=8),
    st.sampled_from([0, 125, 126, 300, 301, 65535, 65536, 1 << 32, (1 << 63) - 1, 1 << 63]),
    st.binary(max_size=20),
)


@st.composite
def fragmented(draw: st.DrawFn, *, compressed: bool = False) -> list[Item]:
    """A message in fragments, with control frames between them, now and then unfinished."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(TEXTS if opcode == TEXT else BINARIES)
    rsv = 0
    if compressed:
        payload, rsv = deflated(payload, zlib.compressobj(wbits=-15)), 4
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), min_size=1, max_size=4)))
    items: list[Item] = []
    for part in split(payload, *cuts, opcode=opcode, rsv=rsv):
        items += [part, *draw(st.lists(CONTROLS, max_size=1))]
    return items if draw(st.integers(0, 9)) else items[:-1]


@st.composite
def deflating(draw: st.DrawFn) -> list[Item]:
    """A compressed message that needs no window, so that it fits at any place."""
    payload = deflated(draw(BINARIES), zlib.compressobj(wbits=-15))
    if not draw(st.integers(0, 5)):
        payload = payload[: draw(st.integers(0, len(payload)))] + draw(st.binary(max_size=3))
    return [Said(draw(st.sampled_from([TEXT, BINARY])), payload, rsv=4)]


ONE = st.one_of(MESSAGES, MESSAGES, MESSAGES, CONTROLS).map(lambda item: [item])
ODD = st.one_of(CLOSES, FAULTS, LENGTHS, st.binary(max_size=20)).map(lambda item: [item])
GROUPS = st.one_of(ONE, ONE, ONE, fragmented(), fragmented(compressed=True), deflating(), ODD)
ITEMS = st.lists(GROUPS, max_size=8).map(lambda groups: [item for one in groups for item in one])
CUTS = st.one_of(
    st.just([]),
    st.lists(st.integers(0, 4000), max_size=12),
    st.integers(1, 40).map(lambda size: list(range(0, 4000, size))),
)
MUTATIONS = st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=3)
ROLE = st.sampled_from(ROLES)
DRAWN = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def mutated(stream: bytes, mutations: Iterable[tuple[int, int]]) -> bytes:
    changed = bytearray(stream)
    for place, bits in mutations:
        if changed:
            changed[place % len(changed)] ^= bits
    return bytes(changed)


@DRAWN
@given(ROLE, ITEMS, st.just([]) | MUTATIONS, CUTS, st.booleans())
def test_whatever_comes_however_cut_the_lane_is_as_the_parser(
    role: str,
    items: list[Item],
    mutations: list[tuple[int, int]],
    cuts: list[int],
    deflate: bool,
) -> None:
    stream = mutated(wire(items, masked=role == "server"), mutations)
    laned = outcome(role, "lane", stream, cuts, deflate=deflate)

    assert laned == outcome(role, "parser", stream, cuts, deflate=deflate)
    whole = outcome(role, "lane", stream, deflate=deflate)
    assert laned == whole


@settings(DRAWN, max_examples=100)
@given(ROLE, st.binary(max_size=200), CUTS, st.booleans())
def test_any_bytes_are_to_the_lane_what_they_are_to_the_parser(
    role: str, stream: bytes, cuts: list[int], deflate: bool
) -> None:
    laned = outcome(role, "lane", stream, cuts, deflate=deflate)

    assert laned == outcome(role, "parser", stream, cuts, deflate=deflate)


FEWER = st.lists(ONE | fragmented().filter(lambda items: len(items) <= FRAGMENTS), max_size=8)


@settings(DRAWN, max_examples=100)
@given(ROLE, FEWER, ODD | st.just([]), CUTS)
def test_until_the_first_close_frame_autobahn_has_the_same(
    role: str, good: list[list[Item]], odd: list[Item], cuts: list[int]
) -> None:
    stream = wire([*(item for one in good for item in one), *odd], masked=role == "server")
    told = outcome(role, "stock", stream, cuts).until_close

    assert outcome(role, "lane", stream, cuts).until_close == told


# --------------------------------------------------------- applications that do something meanwhile

BUSY: Final[Sequence[Item]] = [
    binary(b"first"),
    text("second"),
    Said(PING, b"p"),
    *split(b"third", 2),
    text("fourth"),
    binary(130),
    close(1000, b"done"),
    text("late"),
]


def fail(protocol: Any) -> None:
    raise ZeroDivisionError


def trace(protocol: Any) -> None:
    def note(line: str) -> None:
        protocol.said.append(line.partition(" ")[2])  # without the time

    protocol.use_trace(Trace(note, frames=True))


ACTS: Final[dict[str, Callable[[Any], Any]]] = {
    "answers": lambda protocol: protocol.sendMessage(b"answer", True),
    "closes": lambda protocol: protocol.sendClose(1000, "enough"),
    "closes and talks on": lambda protocol: (protocol.sendClose(), protocol.sendPing(b"x")),
    "fails": fail,
    "drops": lambda protocol: protocol.dropConnection(),
    "aborts": lambda protocol: protocol.dropConnection(abort=True),
    "loses TCP": lambda protocol: protocol.transport.lose(),
    "pauses": lambda protocol: protocol.pause_reading(),
    "lowers its limit": lambda protocol: setattr(protocol, "maxMessagePayloadSize", 5),
    "lifts its limit": lambda protocol: setattr(protocol, "maxMessagePayloadSize", 0),
    "begins a trace": trace,
}
OPEN: Final = {
    "lowers its limit": "the lane keeps the limit that it had when the WebSocket opened",
    "begins a trace": "what the lane has of a read is not told to a trace that begins meanwhile",
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(
            act, id=name, marks=[pytest.mark.xfail(reason=OPEN.get(name, ""))] * (name in OPEN)
        )
        for name, act in ACTS.items()
    ],
)
def test_what_an_application_does_meanwhile_counts_from_the_next_frame_on(
    role: str, at: int, act: Callable[[Any], Any]
) -> None:
    """The lane has a whole read in its hands when the application is called."""
    stream = wire(BUSY, masked=role == "server")
    members = {"at": at, "act": act}
    for cuts in ([], [9], range(0, len(stream), 11), range(len(stream))):
        parsed = outcome(role, "parser", stream, cuts, **members)
        assert parsed.events
        assert outcome(role, "lane", stream, cuts, **members) == parsed


@pytest.mark.parametrize("role", ROLES)
def test_hooks_of_frames_are_called_as_by_the_parser(role: str) -> None:
    """Who overrides them reads messages as they grow."""
    stream = wire(BUSY, masked=role == "server")
    for cuts in ([], [9], range(0, len(stream), 11), range(len(stream))):
        parsed = outcome(role, "parser", stream, cuts, mixin=Streaming)
        assert ("data", b"first") in parsed.events or cuts
        assert outcome(role, "lane", stream, cuts, mixin=Streaming) == parsed


def listen(protocol: Any) -> None:
    protocol.on("message", lambda payload, **_: protocol.events.append(("heard", payload)))


@pytest.mark.xfail(reason="messages that the lane has taken already are not told to a new listener")
@pytest.mark.parametrize("role", ROLES)
def test_listeners_of_messages_are_told_as_by_the_parser(role: str) -> None:
    """Autobahn's `protocol.on("message", ...)`."""
    stream = wire(BUSY, masked=role == "server")
    members = {"at": 1, "act": listen}
    parsed = outcome(role, "parser", stream, **members)
    assert ("heard", b"second") in parsed.events
    assert outcome(role, "lane", stream, **members) == parsed


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
    with patch("os.urandom", lambda size: (KEYS[0] * size)[:size]):
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


@settings(DRAWN, max_examples=100)
@given(ROLE, ITEMS, CUTS, st.booleans())
@example("server", [binary(1)] * 200, [], False)
@example("client", [binary(1)] * 200, [300], False)
def test_a_connection_receives_what_the_parser_gives_it(
    role: str, items: list[Item], cuts: list[int], deflate: bool
) -> None:
    """Messages, pauses of reading, answers and the end."""
    stream = wire(items, masked=role == "server")

    laned = received(role, "lane", stream, cuts, deflate=deflate)

    assert laned == received(role, "parser", stream, cuts, deflate=deflate)
