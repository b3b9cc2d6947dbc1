"""DEFLATE for messages: what peers understand, exact limits, ends of streams, both libraries."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsframe.core import deflate
from wsframe.core.deflate import (
    LONG_MESSAGE,
    TAIL,
    Compression,
    CorruptDeflate,
    Inflation,
    InflationTooLong,
    compress_alone,
    most_overhead,
    new_compressor,
)

WINDOWS = range(9, 16)
LEVELS = (1, 5, 8, 9)
TEXT = b"the same words again and again, " * 40


def news(count: int, size: int = 1000) -> list[bytes]:
    """Return messages that have much in common with each other."""
    chance = random.Random(7)
    names = [chance.randbytes(6).hex() for _ in range(20)]
    made = []
    for number in range(count):
        rows = [{"name": chance.choice(names), "n": chance.random()} for _ in range(size // 50)]
        made.append(json.dumps({"number": number, "rows": rows}).encode())
    return made


@pytest.fixture(params=["zlib", "isal"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have one of the two libraries compress."""
    if request.param == "zlib":
        monkeypatch.setattr(deflate, "_isal", lambda: None)
    monkeypatch.setattr(deflate, "_shared", {})
    kind = type(new_compressor(12, 5)).__module__
    assert kind.startswith(request.param), "the extra `speedups` is not installed"
    return str(request.param)


def inflated(data: bytes, bits: int) -> bytes:
    return zlib.decompressobj(-bits).decompress(data + TAIL)


# ------------------------------------------------------------------------------- compressing


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bits", WINDOWS)
def test_a_message_by_the_shared_compressor_refers_to_nothing_before_it(
    library: str, bits: int, level: int
) -> None:
    """Each is inflated with an empty history, in which any reference back would be an error."""
    for message in [*news(20), b"", b"", TEXT, TEXT, b"x", *news(3, 100_000), *news(3)]:
        assert inflated(compress_alone(message, bits, level), bits) == message


@pytest.mark.parametrize("bits", WINDOWS)
def test_a_compressor_keeps_to_its_window_and_its_history(library: str, bits: int) -> None:
    compressor, decompressor = new_compressor(bits, 5), zlib.decompressobj(-bits)
    alone = together = 0
    for message in [*news(30), b"", b"", *news(2, 200_000)]:
        data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(TAIL)
        assert decompressor.decompress(data) == message
        together += len(data)
        alone += len(compress_alone(message, bits, 5))
    assert together < alone


def test_shared_and_own_messages_are_one_stream_for_the_peer(library: str) -> None:
    """With context takeover, as long as a new compressor follows on each shared message."""
    peer = zlib.decompressobj(-12)
    own = new_compressor(12, 5)
    chance = random.Random(1)
    for message in news(300):
        if chance.random() < 0.4:
            data = compress_alone(message, 12, 5)
            own = new_compressor(12, 5)
        else:
            data = (own.compress(message) + own.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert peer.decompress(data + TAIL) == message


def test_a_compressor_that_goes_on_after_a_shared_message_would_mislead_the_peer() -> None:
    """Why it must begin anew."""
    peer, own = zlib.decompressobj(-12), new_compressor(12, 1)
    first, second = news(2)
    data = own.compress(first) + own.flush(zlib.Z_SYNC_FLUSH)
    assert peer.decompress(data) == first
    assert peer.decompress(compress_alone(TEXT, 12, 1) + TAIL) == TEXT
    data = own.compress(second) + own.flush(zlib.Z_SYNC_FLUSH)
    assert peer.decompress(data) != second


@pytest.mark.parametrize("size", [LONG_MESSAGE + 1, 2 * LONG_MESSAGE, 5 * LONG_MESSAGE + 7])
def test_a_long_message_is_compressed_in_pieces(library: str, size: int) -> None:
    message = (b"".join(news(400)) * (size // 100_000 + 1))[:size]
    pressing = Compression(message, 12, 5)
    steps = 1
    while (data := pressing.step()) is None:
        steps += 1
    assert steps == -(-size // LONG_MESSAGE)
    assert inflated(data, 12) == message
    assert len(data) < size / 2


def test_a_compressor_that_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def compress(self, _: bytes) -> bytes:
            raise MemoryError

    monkeypatch.setattr(deflate, "_shared", {(12, 5): Broken()})
    with pytest.raises(MemoryError):
        compress_alone(TEXT, 12, 5)
    assert inflated(compress_alone(TEXT, 12, 5), 12) == TEXT


# ----------------------------------------------------------------------------- decompressing


def deflated(message: bytes, bits: int = 15, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -bits, 8)
    return (compressor.compress(message) + compressor.flush(flush)).removesuffix(TAIL)


def fed(inflation: Inflation, data: bytes, limit: int | None, size: int | None = None) -> bytes:
    """Feed a whole message in parts of that size, with what the limit leaves for each."""
    output = b""
    for start in range(0, len(data), size or len(data) or 1):
        left = None if limit is None else limit - len(output)
        output += inflation.feed(data[start : start + (size or len(data))], left)
    inflation.end()
    return output


@given(st.binary(max_size=2000), st.integers(1, 50), st.sampled_from([1, 2, 7, 5000]))
def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    unit: bytes, times: int, size: int
) -> None:
    """However it is cut, and whether it is one long match or noise."""
    message = unit * times
    data = deflated(message)
    assert fed(Inflation(15), data, None, size) == message
    assert fed(Inflation(15), data, len(message), size) == message
    if message:
        with pytest.raises(InflationTooLong):
            fed(Inflation(15), data, len(message) - 1, size)


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = deflated(bytes(50_000_000))
    inflation = Inflation(15)
    with pytest.raises(InflationTooLong):
        inflation.feed(bomb, 1000)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x07", deflated(TEXT)[:-3] + b"\xff" * 9])
def test_what_is_no_deflate_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptDeflate):
        fed(Inflation(15), data, 10_000)


def test_a_message_that_ends_in_the_middle_of_a_block_is_corrupt() -> None:
    """The bytes that a sender leaves out would be taken for a part of it."""
    data = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_FIXED)
    whole = data.compress(b"abcdef") + data.flush(zlib.Z_SYNC_FLUSH)
    cut = [whole[:end] for end in range(1, len(whole) - 5)]
    assert cut
    for part in cut:
        with pytest.raises(CorruptDeflate):
            fed(Inflation(15), part, 1000)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("f248cdc9c90700", b"Hello"),
        ("f200110000", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f248050000 00ffffcac9c90700", b"Hello"),
    ],
    ids=["one block", "shared window", "no compression", "final block", "two blocks"],
)
def test_the_examples_of_the_rfc(example: str, message: bytes) -> None:
    """Section 7.2.3; the second one refers to the first."""
    inflation = Inflation(15)
    if example == "f200110000":
        assert fed(inflation, bytes.fromhex("f248cdc9c90700"), 100) == message
    assert fed(inflation, bytes.fromhex(example), 100) == message


@pytest.mark.parametrize("ending", [b"", b"\0"], ids=["bare", "as in the RFC"])
@pytest.mark.parametrize("size", [None, 1])
def test_messages_that_end_in_a_final_block_do_not_end_the_stream(
    ending: bytes, size: int | None
) -> None:
    """Zlib alone would give nothing for all that follows, and keep it in memory."""
    inflation = Inflation(12)
    for message in [*news(20), TEXT, b""]:
        data = deflated(message, 12, zlib.Z_FINISH) + ending
        assert fed(inflation, data, len(message), size) == message
        assert fed(inflation, deflated(TEXT, 12), len(TEXT), size) == TEXT
    assert inflation._decompressor.unused_data == b""


def test_the_history_goes_on_behind_a_final_block() -> None:
    """The stream begins anew there, the window does not."""
    (message,) = news(1)
    behind = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=message)
    again = behind.compress(message) + behind.flush(zlib.Z_SYNC_FLUSH)
    assert len(again) < len(message) / 10
    data = deflated(message, flush=zlib.Z_FINISH) + again.removesuffix(TAIL)
    assert fed(Inflation(15), data, 2 * len(message)) == 2 * message


def test_a_limit_holds_across_a_final_block() -> None:
    data = deflated(TEXT, flush=zlib.Z_FINISH) + deflated(TEXT)
    assert fed(Inflation(15), data, 2 * len(TEXT)) == 2 * TEXT
    for less in (1, len(TEXT) - 1, len(TEXT), len(TEXT) + 1, len(TEXT) + 30):
        with pytest.raises(InflationTooLong):
            fed(Inflation(15), data, 2 * len(TEXT) - less)


def test_a_message_of_many_final_blocks_is_corrupt() -> None:
    """Each costs a copy of all that follows it: two bytes of a peer for a mebibyte of ours."""
    block = deflated(b"", flush=zlib.Z_FINISH)
    assert fed(Inflation(15), block * 8, 1000) == b""
    inflation = Inflation(15)
    assert [fed(inflation, block * 8, 1000) for _ in range(3)] == [b""] * 3
    with pytest.raises(CorruptDeflate):
        fed(Inflation(15), block * 9, 1000)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 300_000])
def test_what_cannot_be_compressed_is_not_longer_than_is_allowed_for(level: int, size: int) -> None:
    noise = random.Random(7).randbytes(size)
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY):
        compressor = zlib.compressobj(1, zlib.DEFLATED, -9, level, strategy)
        length = len(compressor.compress(noise) + compressor.flush(zlib.Z_SYNC_FLUSH))
        assert length - most_overhead(length) <= size
