"""The fast lane against Autobahn's parser: for every stream and every split of it, the same.

`receive_frames` takes what it knows and leaves the rest to the parser. A protocol that hands
everything to the parser is what it is held against, and so is Autobahn's own, up to the first
Close frame: what follows a fault is where wsframe means to differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from memory import BINARY, CLOSE, PING, PONG, TEXT
from streams import (
    DEFLATED,
    EURO,
    FRAGMENTS,
    LARGE_LIMIT,
    LIMIT,
    ROLES,
    STREAMS,
    Item,
    Said,
    binary,
    close,
    deflated,
    outcome,
    received,
    sized,
    split,
    text,
    wire,
)

from wsframe.trace import Trace

# ------------------------------------------------------------------- every split of short streams

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
def test_a_compressed_message_of_the_limit_is_received_however_it_is_cut(role: str) -> None:
    stream = wire([binary(bytes(LIMIT), deflated=True)], masked=role == "server")
    whole = outcome(role, "lane", stream, deflate=True)
    assert ("message", bytes(LIMIT), True) in whole.events
    dripped = outcome(role, "lane", stream, range(len(stream)), deflate=True)
    assert dripped == whole


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_the_limit_is_that_of_the_message_and_not_of_its_compressed_bytes(
    role: str, size: int
) -> None:
    """Also where these are more, in one frame or in fragments of which the last has nothing."""
    compressed = deflated(bytes(size), zlib.compressobj(0, wbits=-15))
    assert len(compressed) > size
    fragments = split(compressed, 150, len(compressed) - 1, rsv=4)
    for items in ([Said(BINARY, compressed, rsv=4)], fragments):
        stream = wire(items, masked=role == "server")
        whole = outcome(role, "lane", stream, deflate=True)
        assert [event[0] for event in whole.events].count("message") == (size == LIMIT)
        assert (("close frame", 1009) in whole.events) is (size > LIMIT)
        assert outcome(role, "lane", stream, range(len(stream)), deflate=True) == whole


@pytest.mark.parametrize("role", ROLES)
def test_a_compressed_frame_that_is_far_too_long_is_refused_on_its_head(role: str) -> None:
    head = wire([Said(BINARY, rsv=4, length=2 * LIMIT, width=2)], masked=role == "server")
    assert ("close frame", 1009) in outcome(role, "lane", head, deflate=True).events


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
    assert laned == outcome(role, "lane", stream, deflate=deflate)


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
    "lowers its limit": lambda protocol: setattr(protocol, "maxMessagePayloadSize", 5),
    "lifts its limit": lambda protocol: setattr(protocol, "maxMessagePayloadSize", 0),
    "begins a trace": trace,
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in ACTS.items()])
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


@pytest.mark.parametrize("role", ROLES)
def test_listeners_of_messages_are_told_as_by_the_parser(role: str) -> None:
    """Autobahn's `protocol.on("message", ...)`."""
    stream = wire(BUSY, masked=role == "server")
    members = {"at": 1, "act": listen}
    parsed = outcome(role, "parser", stream, **members)
    assert ("heard", b"second") in parsed.events
    assert outcome(role, "lane", stream, **members) == parsed


# ------------------------------------------------------------------------------- through Connection


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
