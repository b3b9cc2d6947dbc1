"""Frames out, judged byte by byte and by an independent parser."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.streams import StreamReader

from wsframe.core.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame_head,
    mask_payload,
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
