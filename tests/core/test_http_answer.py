"""Answers to a CONNECT or to an opening handshake, whole, cut, hostile, and broken off."""

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http_answer import MAX_INTERIM, Answer, AnswerReader, BadAnswer

SEARCHED = settings(max_examples=200, deadline=None, database=None)

INTERIM = b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"
OPEN = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 p\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
TUNNELLED = b"\x16\x03\x01\r\n\r\nHTTP/1.1 407 x\r\n\r\n\x00"


def outcome(pieces, *, tunnel=True, end=False, max_head=400, max_body=50):
    """Feed the pieces; return the answer with all that follows it, "bad", or None."""
    reader = AnswerReader(tunnel=tunnel, max_head=max_head, max_body=max_body)
    pieces = [piece for piece in pieces if piece]
    for index, piece in enumerate([*pieces, b""] if end else pieces):
        try:
            answer = reader.receive(piece)
        except BadAnswer:
            return "bad"
        if answer is not None:
            rest = b"".join(pieces[index + 1 :]) if answer.switched else b""
            return (
                answer.status,
                answer.reason,
                answer.headers.pairs,
                answer.body,
                answer.trailing + rest,
            )
    return None


def cut_at(data, cuts):
    """Return the data in pieces."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def refused(status, body=b"", *headers):
    """Return the bytes of a complete refusal."""
    lines = [b"HTTP/1.1 %d No" % status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


COMPLETE = {
    "tunnel": (True, OPEN + TUNNELLED, (200, b"", TUNNELLED)),
    "tunnel after interim": (True, INTERIM * 3 + OPEN + TUNNELLED, (200, b"", TUNNELLED)),
    "tunnel, HTTP/1.0": (True, b"HTTP/1.0 200 OK\r\n\r\nab", (200, b"", b"ab")),
    "tunnel, no reason": (True, b"HTTP/1.1 200\r\n\r\nab", (200, b"", b"ab")),
    "tunnel, another 2xx": (True, b"HTTP/1.1 299 x\r\n\r\nab", (299, b"", b"ab")),
    "tunnel, length ignored": (
        True,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
        (200, b"", b"ab"),
    ),
    "tunnel, chunked ignored": (
        True,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab",
        (200, b"", b"2\r\nab"),
    ),
    "407 with body": (True, refused(407, b"who?") + b"next", (407, b"who?", b"")),
    "401": (True, refused(401, b""), (401, b"", b"")),
    "chunked body": (
        True,
        b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\n\r\n",
        (502, b"abcde", b""),
    ),
    "body over the limit": (True, refused(500, b"x" * 51), (500, b"x" * 50, b"")),
    "body at the limit": (True, refused(500, b"x" * 50), (500, b"x" * 50, b"")),
    "upgrade": (False, SWITCH + TUNNELLED, (101, b"", TUNNELLED)),
    "upgrade after interim": (False, INTERIM + SWITCH + b"\x81", (101, b"", b"\x81")),
    "upgrade refused": (False, INTERIM + refused(403, b"no"), (403, b"no", b"")),
    "upgrade answered 200": (False, refused(200, b"page"), (200, b"page", b"")),
    "upgrade answered 204": (False, b"HTTP/1.1 204 x\r\n\r\n", (204, b"", b"")),
}


@pytest.mark.parametrize(("tunnel", "data", "expected"), COMPLETE.values(), ids=COMPLETE)
def test_answer_is_the_same_at_every_split_point(tunnel, data, expected):
    """Whole, cut in two anywhere, and byte by byte: one result, and the rest verbatim."""
    whole = outcome([data], tunnel=tunnel)
    assert (whole[0], *whole[3:]) == expected
    for cut in range(len(data)):
        assert outcome(cut_at(data, [cut]), tunnel=tunnel) == whole
    assert outcome(cut_at(data, range(len(data))), tunnel=tunnel) == whole


BAD = {
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\x10\r\n\r\n",
    "empty line": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "bare line feed first": b"\nHTTP/1.1 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "no version": b"HTTP 200 OK\r\n\r\n",
    "header without colon": b"HTTP/1.1 200 OK\r\nabc\r\n\r\n",
    "blank before the colon": b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
    "two lengths": b"HTTP/1.1 407 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "unknown coding": b"HTTP/1.1 407 x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n",
    "escape in a header": b"HTTP/1.1 200 OK\r\nA: \x1b[31m\r\n\r\n",
    "0x85 in a header": b"HTTP/1.1 200 OK\r\nA: b\x85c\r\n\r\n",
    "0x85 in the header of a refusal": b"HTTP/1.1 403 x\r\nA: b\x85c\r\nContent-Length: 0\r\n\r\n",
    "escape in the reason": b"HTTP/1.1 200 \x1b[31m\r\n\r\n",
    "bare carriage return": b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 400,
    "endless first line": b"H" * 401,
    "head over the limit": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 400 + b"\r\n\r\n",
    "endless interim": INTERIM * (MAX_INTERIM + 1),
    "interim head over the limit": INTERIM[:-4] + b"b" * 400 + b"\r\n\r\n" + OPEN,
}


@pytest.mark.parametrize("tunnel", [True, False])
@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_answer_is_refused_at_every_split_point(data, tunnel):
    """One typed error, whole, cut in two anywhere, and byte by byte."""
    for cut in range(len(data)):
        assert outcome(cut_at(data, [cut]), tunnel=tunnel) == "bad"
    assert outcome(cut_at(data, range(len(data))), tunnel=tunnel) == "bad"


def test_101_does_not_answer_a_connect():
    """A tunnel that was not asked for is not opened."""
    assert outcome([SWITCH]) == "bad"


def test_200_does_not_answer_an_upgrade():
    """It is a refusal whose body is read, not a switch."""
    reader = AnswerReader(tunnel=False, max_head=400, max_body=50)
    assert reader.receive(OPEN) is None
    answer = reader.receive(b"")
    assert (answer.status, answer.switched) == (200, False)


def test_interim_answers_up_to_the_limit_are_skipped():
    """MAX_INTERIM of them are no fault."""
    assert outcome([INTERIM * MAX_INTERIM + OPEN])[0] == 200


@pytest.mark.parametrize("tunnel", [True, False])
def test_head_limit_is_exact(tunnel):
    """A head of max_head bytes is read, in one piece or not; with one byte more it is not."""
    head = (OPEN if tunnel else SWITCH) + b""
    for cuts in ([], [len(head) - 1], range(len(head))):
        for rest in (b"", TUNNELLED * 9):
            pieces = [*cut_at(head, cuts), rest]
            good = outcome(pieces, tunnel=tunnel, max_head=len(head))
            assert good[4] == rest
            assert outcome(pieces, tunnel=tunnel, max_head=len(head) - 1) == "bad"


@pytest.mark.parametrize("data", [b"H" * 401, b"HTTP/1.1 200 OK\r\nA: " + b"b" * 400 + b"\r\n\r\n"])
def test_head_over_the_limit_is_said_to_be(data):
    """And not taken for one that broke off."""
    with pytest.raises(BadAnswer, match="too large"):
        AnswerReader(tunnel=True, max_head=400, max_body=50).receive(data)


@pytest.mark.parametrize("tunnel", [True, False])
def test_bytes_behind_the_answer_may_be_more_than_a_head(tunnel):
    """All of them come out, in order, when one read brings them with the head."""
    rest = bytes(range(256)) * 256
    assert outcome([INTERIM + (OPEN if tunnel else SWITCH) + rest], tunnel=tunnel)[4] == rest


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 407 x\r\nContent-Length: 9\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 407 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", b"abc"),
        (b"HTTP/1.1 407 x\r\nTransfer-Encoding: chunked\r\n\r\n5", b""),
        (b"HTTP/1.1 407 x\r\nConnection: close\r\n\r\nabc", b"abc"),
        (b"HTTP/1.0 407 x\r\n\r\n", b""),
    ],
)
def test_body_that_breaks_off_ends_the_answer(data, body):
    """The status is known, so the end of the connection ends no more than the body."""
    assert outcome([data]) is None
    assert outcome([data], end=True)[3] == body
    assert outcome(cut_at(data, range(len(data))), end=True)[3] == body


def test_malformed_body_ends_the_answer():
    """The status is known, so a bad chunk ends no more than the body."""
    data = b"HTTP/1.1 407 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX"
    assert outcome([data])[3] == b"ab"


@pytest.mark.parametrize("chunk", [b"1;" + b"x" * 90 + b"\r\na\r\n", b"1\r\na\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_long_chunked_body_is_read_to_its_limit(chunk, size):
    """Many chunks in one piece, more than a head may have, are no mistake of ours."""
    data = b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 200
    result = outcome(cut_at(data, range(0, len(data), size)), max_head=100, max_body=150)
    assert result[3] == b"a" * 150


def test_endless_body_is_kept_to_its_limit():
    """A refusal with a body of a terabyte is complete at max_body."""
    head = b"HTTP/1.1 502 x\r\nContent-Length: 1000000000000\r\n\r\n"
    reader = AnswerReader(tunnel=True, max_head=400, max_body=50)
    assert reader.receive(head) is None
    assert reader.receive(b"x" * 49) is None
    assert reader.receive(b"x" * 100_000).body == b"x" * 50


@pytest.mark.parametrize("data", [b"", b"H", b"HTTP/1.1 200 OK\r\n", INTERIM, INTERIM + b"HTTP"])
@pytest.mark.parametrize("tunnel", [True, False])
def test_end_before_the_answer_is_said(data, tunnel):
    """The proxy dies at any byte of its head: the error says so."""
    reader = AnswerReader(tunnel=tunnel, max_head=400, max_body=50)
    if data:
        assert reader.receive(data) is None
    with pytest.raises(BadAnswer, match="ended before"):
        reader.receive(b"")


def test_reader_that_failed_goes_on_failing():
    """Bytes after a bad answer, or its end, are no answer."""
    for data in (b"HTTP/1.1 101 x\r\nA: b\x85\r\n\r\n", b"garbage\r\n\r\n"):
        reader = AnswerReader(tunnel=False, max_head=400, max_body=50)
        for piece in (data, SWITCH, b""):
            with pytest.raises(BadAnswer):
                reader.receive(piece)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 403 x\r\nSet-Cookie: s3cret\x00\r\n\r\n",
        b"HTTP/1.1 403 x\r\nSet-Cookie: s3cret\x85\r\n\r\n",
        b"HTTP/1.1 403 x\r\nSet-Cookie s3cret\r\n\r\n",
        b"HTTP/1.1 403 x\r\nContent-Length: s3cret\r\n\r\n",
        b"HTTP/1.1 403 x\r\nTransfer-Encoding: s3cret\r\n\r\n",
    ],
)
def test_errors_repeat_no_header(data):
    """What an answer says may be a secret; neither the error nor what it hangs on to repeats it."""
    with pytest.raises(BadAnswer) as caught:
        AnswerReader(tunnel=False, max_head=400, max_body=50).receive(data)
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_answer_repr_has_no_body():
    """The bytes behind an answer are the tunnel's."""
    reader = AnswerReader(tunnel=True, max_head=400, max_body=50)
    assert "s3cret" not in repr(reader.receive(OPEN + b"s3cret"))


FRAGMENTS = st.sampled_from(
    [
        INTERIM,
        OPEN,
        SWITCH,
        b"HTTP/1.1 407 x\r\n",
        b"HTTP/1.0 500 x\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"A: b\x85\r\n",
        b"\r\n",
        b"\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"x" * 30,
    ]
)
BYTES = st.one_of(st.binary(max_size=40), st.lists(FRAGMENTS, max_size=8).map(b"".join))


@SEARCHED
@given(BYTES, st.lists(st.integers(0, 250), max_size=6), st.booleans(), st.booleans())
def test_any_bytes_give_one_outcome_however_cut(data, cuts, tunnel, end):
    """An answer, nothing yet, or BadAnswer; and never anything else, in any cut."""
    options = {"tunnel": tunnel, "end": end, "max_head": 120, "max_body": 20}
    whole = outcome([data], **options)
    assert outcome(cut_at(data, cuts), **options) == whole
    if end:
        assert whole is not None


def test_dripped_head_is_not_copied_for_every_byte(monkeypatch):
    """What h11 holds is asked for once a head, not once a byte: the time stays linear."""
    copies = []
    kept = h11.Connection.trailing_data
    counted = property(lambda self: copies.append(1) or kept.fget(self))
    monkeypatch.setattr(h11.Connection, "trailing_data", counted)
    reader = AnswerReader(tunnel=True, max_head=8000, max_body=50)
    head = b"HTTP/1.1 200 OK\r\nA: " + b"b" * 5000 + b"\r\n\r\n"
    answers = [reader.receive(head[i : i + 1]) for i in range(len(head))]
    assert isinstance(answers[-1], Answer)
    assert len(copies) < 5


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (b"HTTP/1.1 407 A\r\nContent-Length: 2\r\n\r\nno", True),
        (b"HTTP/1.1 407 A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 407 A\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", False),
        (b"HTTP/1.0 407 A\r\nContent-Length: 2\r\n\r\nno", False),
        (b"HTTP/1.1 407 A\r\nContent-Length: 2\r\n\r\nno!", False),
        (b"HTTP/1.1 407 A\r\nContent-Length: 5\r\n\r\nno", False),
        (b"HTTP/1.1 407 A\r\n\r\nno", False),
        (b"HTTP/1.1 407 A\r\nContent-Length: 99\r\n\r\n" + b"x" * 99, False),
    ],
)
def test_connection_is_reusable_after_an_answer_that_leaves_it_so(answer, reusable):
    """It ends by its own measure, is read to its end, and nothing follows."""
    reader = AnswerReader(tunnel=True, max_head=400, max_body=20)
    result = reader.receive(answer) or reader.receive(b"")
    assert result is not None
    assert result.reusable is reusable
