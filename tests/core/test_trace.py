"""What a capture makes of the bytes of both directions, however they are cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame_head, mask_payload
from wsframe.core.trace import MAX_HEAD, Body, Broken, Capture, Frame, Head

SEARCHED = settings(max_examples=200, deadline=None, database=None)

REQUEST = b"GET /feed HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
KEY = b"\x01\x02\x03\x04"


def capture(role="client", *, frames=True, max_payload=20):
    return Capture(role, secure=False, frames=frames, max_payload=max_payload)


def opened(**options):
    """Return a client's capture, both heads of which have passed."""
    this = capture(**options)
    this.sent(REQUEST, 1.0)
    this.received(SWITCHED, 2.0)
    return this


def frame(opcode, payload, *, fin=True, rsv=0, masked=False):
    key = KEY if masked else b""
    body = mask_payload(payload, key) if masked else payload
    return frame_head(opcode, len(payload), fin=fin, rsv=rsv, key=key) + body


def shown(records):
    """Return the kind and the bytes of each record."""
    kinds = {Head: "head", Body: "body", Frame: "frame", Broken: "broken"}
    return [
        (kinds[type(record)], getattr(record, "raw", getattr(record, "start", None)))
        for record in records
    ]


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("role", ["client", "server"])
def test_each_head_is_the_bytes_that_passed_in_the_direction_they_went(role):
    this = capture(role)
    ours, theirs = (REQUEST, SWITCHED) if role == "client" else (SWITCHED, REQUEST)
    (sent,) = this.sent(ours, 1.5)
    (received,) = this.received(theirs, 2.5)
    assert (sent.raw, sent.at, sent.is_sent, sent.complete) == (ours, 1.5, True, True)
    assert (received.raw, received.at, received.is_sent) == (theirs, 2.5, False)
    assert sent.is_request is (role == "client")
    assert received.is_request is (role == "server")


def test_a_head_may_end_with_line_feeds_alone():
    answer = b"HTTP/1.1 101 x\nA: b\n\n"
    assert shown(capture().received(answer + frame(PING, b""), 0)) == [
        ("head", answer),
        ("frame", b""),
    ]


def test_interim_answers_are_heads_of_their_own():
    records = capture().received(INTERIM * 2 + SWITCHED + frame(TEXT, b"hi"), 0)
    assert shown(records) == [
        ("head", INTERIM),
        ("head", INTERIM),
        ("head", SWITCHED),
        ("frame", b"hi"),
    ]


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x00\xa5", b"HTTP/1.1 200", b"\r\n"]
)
def test_what_never_becomes_a_head_is_shown_at_the_end(garbage):
    this = capture()
    assert this.received(garbage, 1) == []
    (head,) = this.ended(2)
    assert (head.raw, head.complete, head.at) == (garbage, False, 2)
    assert this.ended(3) == []


def test_a_head_without_end_is_kept_up_to_the_limit_and_no_more_is_looked_at():
    this = capture()
    records = this.received(b"x" * (MAX_HEAD - 1), 0) + this.received(b"yz" * 1000, 0)
    (head,) = records
    assert head.raw == b"x" * (MAX_HEAD - 1) + b"y"
    assert not head.complete
    assert this.received(b"\r\n\r\n" + frame(TEXT, b"hi"), 0) == []
    assert this.ended(0) == []


def test_a_head_of_exactly_the_limit_is_complete():
    head = b"HTTP/1.1 101 x\r\nA: " + b"b" * (MAX_HEAD - 23) + b"\r\n\r\n"
    assert len(head) == MAX_HEAD
    assert [record.complete for record in capture().received(head, 0)] == [True]


def test_a_head_that_drips_is_put_together():
    this = capture()
    head = SWITCHED.replace(b"upgrade", b"x" * 1000)
    records = [
        record
        for index in range(len(head))
        for record in this.received(head[index : index + 1], index)
    ]
    assert [(record.raw, record.at) for record in records] == [(head, len(head) - 1)]


# ---------------------------------------------------------------- bodies


def test_the_body_of_a_refusal_is_shown_as_soon_as_it_is_complete():
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\n"
    records = capture().received(head + b"sorry", 0)
    assert shown(records) == [("head", head), ("body", b"sorry")]
    assert not records[1].cut


@pytest.mark.parametrize(
    "header", [b"Server: x\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"]
)
def test_a_body_of_unknown_length_is_shown_at_the_end_of_the_connection(header):
    this = capture()
    this.received(b"HTTP/1.1 403 No\r\n" + header + b"\r\nno", 0)
    assert this.received(b"pe", 1) == []
    (body,) = this.ended(2)
    assert (body.start, body.cut, body.is_request) == (b"nope", False, False)


def test_a_long_body_is_shown_when_so_much_is_there_as_is_kept():
    this = capture(max_payload=3)
    head = b"HTTP/1.1 403 No\r\n\r\n"
    records = this.received(head + b"nope", 0)
    assert shown(records) == [("head", head), ("body", b"nop")]
    assert records[1].cut
    assert this.received(b"and more", 0) == []
    assert this.ended(0) == []


def test_a_body_that_breaks_off_says_so():
    this = capture()
    this.received(b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nno", 0)
    (body,) = this.ended(0)
    assert (body.start, body.cut) == (b"no", True)


def test_an_empty_body_is_none():
    this = capture()
    head = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    assert shown(this.received(head, 0) + this.ended(0)) == [("head", head)]


def test_what_follows_a_request_for_no_websocket_is_a_body():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    records = capture("server").received(head + b"\x81\x02hi", 0)
    assert shown(records) == [("head", head), ("body", b"\x81\x02hi")]
    assert records[1].is_request


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_frame_is_shown_without_its_mask(size, masked):
    payload = bytes(range(256)) * (size // 256 + 1)
    this = opened()
    (record,) = this.received(frame(BINARY, payload[:size], masked=masked), 7.0)
    assert record == Frame(
        7.0,
        False,
        BINARY,
        True,
        0,
        masked,
        size,
        start=payload[: min(size, 20)],
        cut=size > 20,
        is_text=False,
    )
    assert this.ended(0) == []


def test_fragments_control_frames_between_them_and_compression_are_as_they_came():
    data = (
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"b")
        + frame(TEXT, b"\x01\x02", rsv=4)
        + frame(CONTINUATION, b"?", rsv=2)
    )
    records = opened().received(data, 0)
    assert [(r.opcode, r.fin, r.rsv, r.start, r.is_text) for r in records] == [
        (TEXT, False, 0, b"a", True),
        (PING, True, 0, b"p", False),
        (CONTINUATION, True, 0, b"b", True),
        (TEXT, True, 4, b"\x01\x02", False),
        (CONTINUATION, True, 2, b"?", False),
    ]


def test_frames_of_a_binary_message_are_no_text():
    records = opened().sent(frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b"), 0)
    assert [record.is_text for record in records] == [False, False]


def test_a_frame_that_nobody_may_send_is_shown_all_the_same():
    (record,) = opened().received(b"\x7b\x02hi", 0)
    assert (record.opcode, record.fin, record.rsv, record.start) == (11, False, 7, b"hi")


def test_a_close_frame_is_shown_whole():
    payload = b"\x03\xe8" + b"r" * 123
    (record,) = opened(max_payload=1).sent(frame(CLOSE, payload, masked=True), 0)
    assert (record.start, record.cut) == (payload, False)


def test_a_long_frame_is_shown_when_its_beginning_is_there():
    this = opened(max_payload=2)
    data = frame(BINARY, b"x" * 1000)
    assert this.received(data[:5], 0) == []
    (record,) = this.received(data[5:6], 3.0)
    assert (record.at, record.start, record.length, record.cut) == (3.0, b"xx", 1000, True)
    assert this.received(data[6:], 0) == []
    assert len(this.received(frame(PING, b""), 0)) == 1


def test_the_end_within_a_frame_says_what_is_missing():
    this = opened()
    this.received(frame(TEXT, b"hello")[:4], 0)
    this.sent(frame(TEXT, b"hello")[:1], 0)
    broken_head, half, broken = this.ended(9.0)
    assert broken_head == Broken(9.0, True, None)
    assert (half.start, half.length, half.cut) == (b"he", 5, True)
    assert broken == Broken(9.0, False, 3)


def test_without_frames_only_heads_and_bodies_are_looked_at():
    this = capture(frames=False)
    assert shown(this.sent(REQUEST + frame(TEXT, b"a"), 0)) == [("head", REQUEST)]
    assert shown(this.received(SWITCHED + frame(TEXT, b"a")[:2], 0)) == [("head", SWITCHED)]
    assert this.received(frame(TEXT, b"a"), 0) == this.ended(0) == []


def test_early_frames_behind_the_request_are_frames_before_the_answer():
    records = capture("server").received(REQUEST + frame(TEXT, b"a", masked=True), 0)
    assert shown(records) == [("head", REQUEST), ("frame", b"a")]


# ---------------------------------------------------------------- joining


def test_joined_within_a_frame_the_rest_of_it_is_passed_over():
    this = capture()
    this.join(sent_left=3, received_left=0)
    assert shown(this.sent(b"abc" + frame(TEXT, b"next"), 0)) == [("frame", b"next")]
    assert shown(this.received(frame(TEXT, b"first"), 0)) == [("frame", b"first")]


def test_joined_where_nobody_knows_nothing_is_shown():
    this = capture()
    this.join(sent_left=None, received_left=0)
    assert this.sent(frame(TEXT, b"a"), 0) == []
    assert shown(this.received(frame(TEXT, b"b"), 0)) == [("frame", b"b")]


def test_joined_without_frames_nothing_is_shown():
    this = capture(frames=False)
    this.join(sent_left=0, received_left=5)
    assert this.sent(frame(TEXT, b"a"), 0) == this.received(b"x", 0) == this.ended(0) == []


# ---------------------------------------------------------------- in any pieces


def pieces(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([TEXT, BINARY, CONTINUATION, PING, CLOSE, 11]),
        st.binary(max_size=200),
        fin=st.booleans(),
        rsv=st.integers(0, 7),
        masked=st.booleans(),
    )
).map(b"".join)
STREAMS = st.one_of(
    st.binary(),
    FRAMES.map(lambda frames: INTERIM + SWITCHED + frames),
    FRAMES.map(lambda frames: SWITCHED + frames[: len(frames) // 2]),
    st.binary().map(lambda body: b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n" + body),
    st.binary().map(lambda body: b"HTTP/1.1 500 No\r\n\r\n" + body),
)


@SEARCHED
@given(STREAMS, st.lists(st.integers(0, 500)))
def test_the_records_depend_on_the_bytes_alone_and_not_on_how_they_are_cut(data, cuts):
    whole, cut = capture(), capture()
    expected = [*whole.received(data, 0), *whole.ended(0)]
    records = [record for part in pieces(data, cuts) for record in cut.received(part, 0)]
    assert [*records, *cut.ended(0)] == expected


def test_no_record_shows_bytes_in_its_repr():
    this = opened()
    records = [
        *capture().sent(b"GET / HTTP/1.1\r\nA: s3cret\r\n\r\n", 0),
        *capture().received(b"HTTP/1.1 401 No\r\nContent-Length: 6\r\n\r\ns3cret", 0),
        *this.received(frame(TEXT, b"s3cret"), 0),
    ]
    assert len(records) == 4
    assert "s3cret" not in repr(records)
