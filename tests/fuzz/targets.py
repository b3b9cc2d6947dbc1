"""What is fuzzed: functions of bytes that raise when something does not hold, and their seeds.

The first bytes of an input say in what role and how the rest is cut; so a fuzzer can change that
like anything else. `tests/test_fuzz_targets.py` runs every target over its seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from heads import check_answer, check_request
from streams import (
    DEFLATED,
    LIMIT,
    ROLES,
    STREAMS,
    Said,
    deflated,
    outcome,
    received,
    wire,
)

HEADS: Final = (
    b"GET /chat?a=b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81",
    b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x0bC: d\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 9 + b"\r\n",
    b"\x16\x03\x01\x02\x00",
)
ANSWERS: Final = (
    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
    b"HTTP/1.1 200 Connection established\r\n\r\ntunnel",
    b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 407 y\r\nContent-Length: 4\r\n\r\nbody",
    b"HTTP/1.1 401 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"HTTP/1.0 500 x\r\nA: b\r\n\r\nto the end",
    b"HTTP/1.1 204 x\r\n\r\n",
    b"SSH-2.0-x\r\n",
)


def taken_apart(data: bytes) -> tuple[int, list[int], bytes]:
    """Return the flags, the cuts and the stream of an input."""
    flags, count, rest = (data[0], data[1] & 15, data[2:]) if len(data) > 1 else (0, 0, b"")
    cuts = [int.from_bytes(rest[at : at + 2]) for at in range(0, 2 * count, 2)]
    stream = rest[2 * count :]
    if flags & 0x80:
        cuts = list(range(0, len(stream), 1 + (flags >> 4 & 7)))
    return flags, cuts, stream


def put_together(flags: int, cuts: tuple[int, ...], stream: bytes) -> bytes:
    """Return the input that is taken apart into these."""
    return bytes([flags, len(cuts)]) + b"".join(cut.to_bytes(2) for cut in cuts) + stream


def lane(data: bytes) -> None:
    """The fast lane against Autobahn's parser, in both roles, through Autobahn's hooks."""
    flags, cuts, stream = taken_apart(data)
    role, deflate = ROLES[flags & 1], bool(flags & 2)
    laned = outcome(role, "lane", stream, cuts, deflate=deflate)
    assert laned == outcome(role, "parser", stream, cuts, deflate=deflate)
    if not deflate:
        assert laned == outcome(role, "lane", stream)


def connection(data: bytes) -> None:
    """The same through a `Connection`: messages, pauses of reading, answers, the end."""
    flags, cuts, stream = taken_apart(data)
    role, deflate = ROLES[flags & 1], bool(flags & 2)
    laned = received(role, "lane", stream, cuts, deflate=deflate)
    assert laned == received(role, "parser", stream, cuts, deflate=deflate)


def deflate(data: bytes) -> None:
    """Anything as the payload of compressed frames: a message within the limit, or 1007 or 1009."""
    flags, cuts, stream = taken_apart(data)
    role = ROLES[flags & 1]
    fin = not flags & 4
    said = [Said(1 if flags & 8 else 2, stream, fin=fin, rsv=4)]
    if not fin:
        said.append(Said(0, deflated(stream, zlib.compressobj(wbits=-15))))
    laned = outcome(role, "lane", wire(said, masked=role == "server"), cuts, deflate=True)
    for event in laned.events:
        assert event[0] != "message" or len(event[1]) <= LIMIT
        assert event[0] != "close frame" or event[1] in {1007, 1009}


def request(data: bytes) -> None:
    """The guard of raw heads: within its limits, however cut, and as h11 has it."""
    _, cuts, stream = taken_apart(data)
    check_request(stream, cuts)


def answer(data: bytes) -> None:
    """The reader of answers, to a CONNECT and to an upgrade."""
    flags, cuts, stream = taken_apart(data)
    check_answer(stream, cuts, tunnel=bool(flags & 1), end=bool(flags & 2))


def seeds_of_streams() -> Iterator[bytes]:
    """Yield the streams that have a name, for both roles."""
    for place, items in enumerate(STREAMS.values()):
        for role in ROLES:
            stream = wire(items, masked=role == "server")
            yield put_together(ROLES.index(role), (place, 2 * place), stream)
    for items in DEFLATED.values():
        for role in ROLES:
            yield put_together(2 | ROLES.index(role), (5,), wire(items, masked=role == "server"))


def seeds_of_deflate() -> Iterator[bytes]:
    """Yield payloads: good ones, bombs, and broken ones."""
    for place, payload in enumerate(
        (b"", b"hello hello", bytes(LIMIT), bytes(100_000), b"\xff" * 9)
    ):
        whole = deflated(payload, zlib.compressobj(wbits=-15))
        yield put_together(place & 1, (), whole)
        yield put_together(4 | 8 | place & 1, (3,), whole[: len(whole) // 2])
        yield put_together(8, (2, 9), whole + b"\xff\xff\xff")


def seeds_of_requests() -> Iterator[bytes]:
    """Yield heads of requests."""
    for head in HEADS:
        yield put_together(0, (), head)
        yield put_together(0x80, (), head)


def seeds_of_answers() -> Iterator[bytes]:
    """Yield answers."""
    for place, head in enumerate(ANSWERS):
        yield put_together(place & 1 | 2, (), head)
        yield put_together(place & 1 ^ 1 | 0x80, (), head)


TARGETS: Final[dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]]] = {
    "lane": (lane, seeds_of_streams),
    "connection": (connection, seeds_of_streams),
    "deflate": (deflate, seeds_of_deflate),
    "request": (request, seeds_of_requests),
    "answer": (answer, seeds_of_answers),
}
