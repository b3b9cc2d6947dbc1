"""Heads that are drawn: the guard of requests and the reader of answers, held against h11.

h11 reads them in one piece and without our limits; ours get them cut anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from heads import MAX_BODY, MAX_COUNT, MAX_HEAD, check_answer, check_request, cut_at, request_of
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http_answer import AnswerReader, BadAnswer

SEARCHED = settings(max_examples=150, deadline=None)

TOKENS = st.text(st.sampled_from("!#$%&'*+-.^_`|~059AZaz"), min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF).filter(
        lambda char: not 0x7F <= ord(char) <= 0x9F
    ),
    max_size=30,
) | st.sampled_from(["", " ", "\t", "a\tb", "websocket", "keep-alive, Upgrade"])
OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade"}
FIELDS = st.lists(
    st.tuples(TOKENS.filter(lambda name: name.lower() not in OURS), VALUES), max_size=9
)
FAULTY = st.sampled_from(
    [
        b"Host: again\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b" folded\r\n",
        b"\tfolded\r\n",
        b"no colon\r\n",
        b"name : blank\r\n",
        b": nameless\r\n",
        b"A: \x00\r\n",
        b"A: b\rC: d\r\n",
        b"A: b\nC: d\r\n",
        b"A: b\x0bC: d\r\n",
        b"A: b\x85C: d\r\n",
        b"A: \x7f\r\n",
        b"A\xe4: b\r\n",
        b"\n",
        b"\r\n",
        b"X" * MAX_HEAD + b": y\r\n",
        b"X: y\r\n" * (MAX_COUNT + 1),
    ]
)
FAULTS = st.just([]) | FAULTY.map(lambda fault: [fault])
RESTS = st.sampled_from([b"", b"\x81\x80\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"x" * 2 * MAX_HEAD])
CUTS = st.one_of(
    st.just([]),
    st.lists(st.integers(0, 2 * MAX_HEAD), max_size=8),
    st.integers(1, 9).map(lambda size: list(range(0, 3 * MAX_HEAD, size))),
)


def lines(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


# ---------------------------------------------------------------------------------------- requests

METHODS = st.sampled_from(
    ["GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "get", "G ET", "\x16\x03"]
)
TARGETS = st.sampled_from(
    ["/", "/", "/", "/", "/a?b=c%20d", "/" + "x" * 50, "*", "//x", "/a b", "/\x7f", "/é"]
)
VERSIONS = st.sampled_from(
    ["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1"]
)
REQUESTS = st.builds(
    lambda start, fields, faults, end, rest: (
        " ".join(start).encode("latin-1")
        + b"\r\nHost: x\r\n"
        + lines(fields)
        + b"".join(faults)
        + end
        + rest
    ),
    st.tuples(METHODS, TARGETS, VERSIONS),
    FIELDS,
    FAULTS,
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"", b"\r"]),
    RESTS,
)


@SEARCHED
@given(REQUESTS, CUTS)
def test_a_request_is_judged_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    """Within its limits; and what is admitted is to h11 the very same request."""
    check_request(data, cuts)


@SEARCHED
@given(st.sampled_from(["/", "/a?b"]), FIELDS, RESTS, CUTS)
def test_a_good_request_is_admitted_up_to_the_limits(
    target: str, fields: list[tuple[str, str]], rest: bytes, cuts: list[int]
) -> None:
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\n".encode() + lines(fields) + b"\r\n"
    fits = len(head) <= MAX_HEAD and len(fields) < MAX_COUNT

    found = request_of(head + rest, cuts)

    assert found[1:] == (head, rest) if fits else found == 431


# ----------------------------------------------------------------------------------------- answers

STARTS = st.sampled_from(
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        b"HTTP/1.1 200 Connection established\r\n",
        b"HTTP/1.0 200 \r\n",
        b"HTTP/1.1 407 x\r\nContent-Length: 4\r\n",
        b"HTTP/1.1 403 Nein, \xe4h\r\nContent-Length: 100\r\n",
        b"HTTP/1.1 401 x\r\nTransfer-Encoding: chunked\r\n",
        b"HTTP/1.0 500 x\r\n",
        b"HTTP/1.1 204 x\r\n",
        b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 x\r\n",
        b"HTTP/1.1 99 x\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 \x00\r\n",
    ]
)
BODIES = st.sampled_from(
    [b"", b"abcd", b"abcdefg", b"2\r\nab\r\n0\r\n\r\n", b"2\r\nab\r\n0\r\n\r\nmore", b"z" * 200]
)
ANSWERS = st.builds(
    lambda start, fields, faults, end, body: start + lines(fields) + b"".join(faults) + end + body,
    STARTS,
    FIELDS,
    FAULTS,
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"", b"\r"]),
    BODIES,
)


@SEARCHED
@given(ANSWERS, CUTS, st.booleans(), st.booleans())
def test_an_answer_is_read_the_same_however_it_is_cut(
    data: bytes, cuts: list[int], tunnel: bool, end: bool
) -> None:
    """Within its limits; its head, its body and what follows are as h11 has them."""
    check_answer(data, cuts, tunnel=tunnel, end=end)


@SEARCHED
@given(st.binary(min_size=1, max_size=3), st.integers(1, 50), st.booleans())
def test_a_head_without_an_end_is_refused_at_its_limit(
    noise: bytes, size: int, tunnel: bool
) -> None:
    """Whatever is dripped: no more than the limit is ever taken in."""
    reader = AnswerReader(tunnel=tunnel, max_head=MAX_HEAD, max_body=MAX_BODY)
    endless = b"HTTP/1.1 200 x\r\nA: " + noise.replace(b"\n", b"x").replace(b"\r", b"y") * 1000
    taken = 0
    for piece in cut_at(endless, range(0, len(endless), size)):
        try:
            assert reader.receive(piece) is None
        except BadAnswer:
            break
        taken += len(piece)
        assert taken <= MAX_HEAD
    else:
        raise AssertionError("it was never refused")
