"""Heads that are drawn: the guard of requests and the reader of answers, held against h11.

h11 reads them in one piece and without our limits; ours get them cut anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http import RequestHeadError, RequestHeadReader
from wsframe.core.http_answer import Answer, AnswerReader, BadAnswer

SEARCHED = settings(max_examples=150, deadline=None)
MAX_HEAD = 400
MAX_COUNT = 8
MAX_BODY = 60

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
FAULTS = st.lists(FAULTY, max_size=1)
RESTS = st.sampled_from([b"", b"\x81\x80\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"x" * 2 * MAX_HEAD])
CUTS = st.one_of(
    st.just([]),
    st.lists(st.integers(0, 2 * MAX_HEAD), max_size=8),
    st.integers(1, 9).map(lambda size: list(range(0, 3 * MAX_HEAD, size))),
)


def lines(fields: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read_by_h11(data: bytes, connection: h11.Connection) -> list[Any]:
    """Return the events of what h11 is given in one piece; the last may be its error."""
    events: list[Any] = []
    try:
        connection.receive_data(data)
        while not events or events[-1] not in (h11.NEED_DATA, h11.PAUSED):
            events.append(connection.next_event())
            if type(events[-1]) in (h11.EndOfMessage, h11.ConnectionClosed):
                break
    except h11.RemoteProtocolError as error:
        events.append(error)
    return events


def same(pairs: Iterable[tuple[bytes, bytes]], ours: Any) -> bool:
    """Whether h11's pairs are those of our headers."""
    theirs = [(name.lower().decode(), value.decode("latin-1")) for name, value in pairs]
    return theirs == [(name.lower(), value) for name, value in ours.pairs]


# ---------------------------------------------------------------------------------------- requests

METHODS = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "get", "G ET", "\x16\x03"])
TARGETS = st.sampled_from(["/", "/a?b=c%20d", "/" + "x" * 50, "*", "//x", "/a b", "/\x7f", "/é"])
VERSIONS = st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1"])
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


def judged(pieces: list[bytes], reader: RequestHeadReader) -> Any:
    """Return the status of a refusal, or the request with what it is made of, or None."""
    taken = 0
    for place, piece in enumerate(pieces):
        try:
            complete = reader.receive(piece)
        except RequestHeadError as error:
            return error.status
        taken += len(piece)
        if complete is not None:
            request, head, rest = complete
            assert len(head) <= MAX_HEAD
            return request, head, rest + b"".join(pieces[place + 1 :])
        assert taken <= MAX_HEAD, "more is held than a head may have"
    return None


def request_of(data: bytes, cuts: Iterable[int] = ()) -> Any:
    return judged(cut_at(data, cuts), RequestHeadReader(MAX_HEAD, MAX_COUNT))


@SEARCHED
@given(REQUESTS, CUTS)
def test_a_request_is_judged_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    """Within its limits; and what is admitted is to h11 the very same request."""
    found = request_of(data)
    assert request_of(data, cuts) == found
    if not isinstance(found, tuple):
        assert found is None or 400 <= found < 600
        return
    request, head, rest = found
    assert head + rest == data
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10 * MAX_HEAD)
    theirs = read_by_h11(head, connection)[0]
    assert isinstance(theirs, h11.Request)
    assert theirs.method == request.method.encode()
    assert theirs.target == request.target.encode()
    assert same(theirs.headers.raw_items(), request.headers)


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


def answered(data: bytes, cuts: Iterable[int] = (), *, tunnel: bool, end: bool) -> Any:
    """Return the answer with all that followed it, "bad", or None."""
    reader = AnswerReader(tunnel=tunnel, max_head=MAX_HEAD, max_body=MAX_BODY)
    pieces = [piece for piece in cut_at(data, cuts) if piece]
    for place, piece in enumerate([*pieces, b""] if end else pieces):
        try:
            answer = reader.receive(piece)
        except BadAnswer:
            return "bad"
        if answer is not None:
            assert len(answer.body) <= MAX_BODY
            trailing = answer.trailing + b"".join(pieces[place + 1 :]) * answer.switched
            return answer.status, answer.reason, answer.headers, answer.body, trailing, answer
    return None


def asked(tunnel: bool) -> h11.Connection:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * MAX_HEAD)
    if tunnel:
        request = h11.Request(method="CONNECT", target="x:1", headers=[("Host", "x:1")])
    else:
        upgrade = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
        request = h11.Request(method="GET", target="/", headers=upgrade)
    connection.send(request)
    connection.send(h11.EndOfMessage())
    return connection


@SEARCHED
@given(ANSWERS, CUTS, st.booleans(), st.booleans())
def test_an_answer_is_read_the_same_however_it_is_cut(
    data: bytes, cuts: list[int], tunnel: bool, end: bool
) -> None:
    """Within its limits; its head, its body and what follows are as h11 has them."""
    found = answered(data, tunnel=tunnel, end=end)
    again = answered(data, cuts, tunnel=tunnel, end=end)
    assert (again[:5] if isinstance(again, tuple) else again) == (
        found[:5] if isinstance(found, tuple) else found
    )
    if not isinstance(found, tuple):
        return
    status, reason, headers, body, trailing, answer = found
    assert isinstance(answer, Answer)
    connection = asked(tunnel)
    events = read_by_h11(data, connection)
    heads = [one for one in events if isinstance(one, h11.InformationalResponse | h11.Response)]
    theirs = heads[-1]
    assert (theirs.status_code, theirs.reason.decode("latin-1")) == (status, reason)
    assert same(theirs.headers.raw_items(), headers)
    if answer.switched:
        assert trailing == connection.trailing_data[0]
    else:
        sent = b"".join(bytes(one.data) for one in events if isinstance(one, h11.Data))
        assert sent[:MAX_BODY] == body


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
