"""Frames in and out, judged byte by byte and by an independent parser."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from wsframe.core.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MANY_PARTS,
    PING,
    PONG,
    SHORT,
    TEXT,
    Partial,
    decode,
    frame_end,
    frame_head,
    mask_payload,
    message_head,
    partial,
)

SEARCHED = settings(max_examples=200, deadline=None, database=None)
KEY = b"\x00\x7f\x80\xff"
LENGTHS = [0, 1, 3, 4, 5, 125, 126, 127, 65535, 65536, 65537]


def parsed(data, *, masked):
    """Return the frame that the independent parser reads; it has to use up all bytes."""
    stream = StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    steps = Frame.parse(stream.read_exact, mask=masked, max_size=None)
    with pytest.raises(StopIteration) as caught:
        next(steps)
    assert not stream.buffer
    return caught.value.value


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (2**63 - 1, b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"),
    ],
)
def test_head_uses_the_shortest_length(length, head):
    """At each border (RFC 6455 §5.2), with and without a mask."""
    assert frame_head(BINARY, length) == head
    masked = bytes((head[0], head[1] | 0x80)) + head[2:] + KEY
    assert frame_head(BINARY, length, key=KEY) == masked


@pytest.mark.parametrize(
    ("opcode", "fin", "rsv", "first"),
    [
        (CONTINUATION, False, 0, 0x00),
        (CONTINUATION, True, 0, 0x80),
        (TEXT, True, 0, 0x81),
        (TEXT, False, 4, 0x41),
        (BINARY, True, 7, 0xF2),
        (CLOSE, True, 0, 0x88),
        (PING, True, 0, 0x89),
        (PONG, True, 0, 0x8A),
    ],
)
def test_head_begins_with_fin_rsv_and_opcode(opcode, fin, rsv, first):
    """The first byte of RFC 6455 §5.2."""
    assert frame_head(opcode, 5, fin=fin, rsv=rsv) == bytes((first, 5))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("key", [b"", KEY])
def test_frame_is_understood_by_an_independent_parser(length, key):
    """The payload comes back, at every border of the length."""
    payload = bytes(i % 251 for i in range(length))
    sent = mask_payload(payload, key) if key else payload
    frame = parsed(frame_head(BINARY, length, key=key) + sent, masked=bool(key))
    assert (frame.opcode, frame.data, frame.fin) == (BINARY, payload, True)


@SEARCHED
@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_the_xor_of_the_standard(payload, key):
    """Byte i with key byte i mod 4 (RFC 6455 §5.3)."""
    model = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    assert mask_payload(payload, key) == model


@pytest.mark.parametrize("length", LENGTHS)
def test_mask_twice_is_the_payload(length):
    """Also where the payload, or the key, begins with zeros."""
    payload = bytes(length)
    assert mask_payload(mask_payload(payload, KEY), KEY) == payload
    assert mask_payload(payload, bytes(4)) == payload


# ------------------------------------------------------------------------------ the fast lane in

MOST = 1 << 20
MESSAGES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100),
    st.sampled_from([b"", "", b"a" * 125, b"b" * 126, "é" * 63, b"c" * (SHORT - 1), b"d" * SHORT]),
    st.sampled_from([b"e" * 65535, b"f" * 65536, "g" * 65537]),
)


def encoded(message, *, masked=True, key=KEY):
    """Return a message as one frame."""
    opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
    if not masked:
        return frame_head(opcode, len(payload)) + payload
    return frame_head(opcode, len(payload), key=key) + mask_payload(payload, key)


@SEARCHED
@given(st.lists(MESSAGES, max_size=6), st.booleans(), st.data())
def test_all_whole_messages_are_taken_wherever_the_read_ends(messages, masked, data):
    """And the next one begins where the lane stopped."""
    frames = [encoded(message, masked=masked) for message in messages]
    stream = b"".join(frames)
    cut = data.draw(st.integers(0, len(stream)))
    whole = [end for end in _ends(frames) if end <= cut]
    taken = messages[: len(whole)]

    found, octets, at = decode(b"??" + stream[:cut], 2, masked=masked, most=MOST)

    assert found == taken
    assert [type(message) for message in found] == [type(message) for message in taken]
    assert at - 2 == (whole[-1] if whole else 0)
    assert octets == sum(_size(message) for message in taken)


def _ends(frames):
    return [sum(map(len, frames[: place + 1])) for place in range(len(frames))]


def _size(message):
    return len(message.encode() if isinstance(message, str) else message)


@pytest.mark.parametrize("length", [SHORT - 1, SHORT, 70_000])
def test_long_payloads_are_unmasked_by_the_masker_given(length):
    """Below `SHORT` bytes its set-up would cost more than it saves."""
    asked = []

    def mask(payload, key):
        asked.append((len(payload), key))
        return bytearray(mask_payload(payload, key))

    for message in (b"x" * length, "x" * length):
        assert decode(encoded(message), 0, masked=True, most=MOST, mask=mask)[0] == [message]
    assert asked == ([] if length < SHORT else [(length, KEY)] * 2)


REFUSED = {
    "a ping": frame_head(PING, 1, key=KEY) + b"x",
    "a pong": frame_head(PONG, 0, key=KEY),
    "a Close frame": frame_head(CLOSE, 2, key=KEY) + b"xx",
    "a first fragment": frame_head(TEXT, 1, fin=False, key=KEY) + b"x",
    "a continuation": frame_head(CONTINUATION, 1, key=KEY) + b"x",
    "a compressed message": frame_head(TEXT, 1, rsv=4, key=KEY) + b"x",
    "another reserved bit": frame_head(BINARY, 1, rsv=1, key=KEY) + b"x",
    "a reserved opcode": frame_head(3, 1, key=KEY) + b"x",
    "no mask": frame_head(BINARY, 10) + b"x" * 10,
    "two bytes for a length below 126": b"\x82\xfe\x00\x7d" + KEY + b"x" * 125,
    "eight bytes for a length below 65536": b"\x82\xff" + struct.pack("!Q", 300) + KEY + b"x" * 300,
    "a length beyond 63 bits": b"\x82\xff" + struct.pack("!Q", 1 << 63) + KEY + b"x" * 300,
    "a frame over the limit": encoded(b"x" * (MOST + 1)),
    "a text that is not UTF-8": frame_head(TEXT, 3, key=KEY) + mask_payload(b"a\xffb", KEY),
    "a long text that is not UTF-8": (
        frame_head(TEXT, SHORT, key=KEY) + mask_payload(b"\xc3" * SHORT, KEY)
    ),
    "a text that ends within a character": (
        frame_head(TEXT, 2, key=KEY) + mask_payload("aé".encode()[:2], KEY)
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_a_plain_message_is_left_where_it_is(what):
    """With what stands behind it, for a parser that can say what is wrong."""
    before, behind = encoded(b"before"), encoded(b"behind")
    data = before + REFUSED[what] + behind
    assert decode(data, 0, masked=True, most=MOST) == ([b"before"], 6, len(before))


def test_a_server_must_not_mask():
    """What is masked is left, and what is not is taken, on the client's side."""
    masked = encoded(b"x")
    assert decode(masked, 0, masked=False, most=MOST) == ([], 0, 0)
    assert decode(encoded(b"x", masked=False), 0, masked=False, most=MOST)[0] == [b"x"]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_end_of_a_frame_is_known_from_its_head(length, masked):
    """And not before the head is complete."""
    head = frame_head(PING, length, key=KEY if masked else b"")
    for cut in range(len(head)):
        assert frame_end(b"?" + head[:cut], 1) is None
    assert frame_end(b"?" + head, 1) == 1 + len(head) + length


@SEARCHED
@given(MESSAGES.filter(bool), st.booleans(), st.data())
def test_message_comes_together_from_any_parts(message, masked, data):
    """Whatever the parts are, also one within a character or within the mask."""
    frame = encoded(message, masked=masked)
    head = frame_end(frame, 0) - _size(message)
    cuts = sorted(data.draw(st.lists(st.integers(head, len(frame)), max_size=8)))

    begun = partial(frame[:head], 0, masked=masked, most=MOST)
    assert begun is not None
    message_so_far, body = begun
    assert (body, message_so_far.length) == (head, _size(message))
    for start, end in zip([head, *cuts], [*cuts, len(frame)], strict=True):
        message_so_far.take(frame[start:end])
        assert message_so_far.missing == len(frame) - end
    assert message_so_far.message() == message


@pytest.mark.parametrize("what", [each for each in REFUSED if " text " not in each])
def test_no_part_is_taken_of_what_is_not_a_plain_message(what):
    """Its head says so; a text is looked at when it comes."""
    assert partial(REFUSED[what], 0, masked=True, most=MOST) is None


def test_no_part_is_taken_before_the_head_is_complete():
    """Nobody knows yet how much is missing."""
    for cut in range(1, 8):
        assert partial(encoded(b"x" * 200)[:cut], 0, masked=True, most=MOST) is None
    assert partial(encoded(b"x" * 200)[:8], 0, masked=True, most=MOST) is not None


def test_text_that_is_not_utf8_is_refused_with_the_part_it_is_in():
    """And not when the message is complete, which may be much later (RFC 6455 §8.1)."""
    text = Partial(is_text=True, key=b"", length=1000)
    text.take(b"a\xc3")
    text.take(b"\xa9")
    with pytest.raises(UnicodeDecodeError):
        text.take(b"\xff")


def test_text_must_not_end_within_a_character():
    """Which is known only at the end."""
    text = Partial(is_text=True, key=b"", length=2)
    text.take(b"a")
    with pytest.raises(UnicodeDecodeError):
        text.take(b"\xc3")


@pytest.mark.parametrize("is_text", [True, False])
def test_parts_of_a_dripped_message_are_joined(is_text):
    """A part has the overhead of an object, which may be a hundred times its byte."""
    dripped = Partial(is_text=is_text, key=KEY, length=MANY_PARTS * 3)
    for byte in mask_payload(b"x" * MANY_PARTS * 3, KEY):
        dripped.take(bytes((byte,)))
        assert len(dripped._parts) <= MANY_PARTS + 1
    whole = "x" * MANY_PARTS * 3
    assert dripped.message() == (whole if is_text else whole.encode())


@pytest.mark.parametrize("length", LENGTHS)
def test_head_of_a_servers_message_is_the_same(length):
    """Those of short messages are made once."""
    for opcode in (TEXT, BINARY):
        assert message_head(opcode, length) == frame_head(opcode, length)
