"""DEFLATE for single messages (RFC 7692 §7.2): compressors, those that are shared, whole inflation.

A message that refers to nothing before it can be made by any compressor whose history is empty,
and every peer understands it, whatever was agreed on about context takeover. One compressor for
each pair of window and memory level makes all of those, and forgets after each message (zlib's
full flush): no connection needs one of its own for them.

With the extra `wsframe[speedups]` (ISA-L) compressing takes half the time for 1 KiB of JSON and a
tenth for 64 KiB, for messages that are a tenth longer. Decompressing stays with zlib: ISA-L's takes
twice as long for short messages, and five times the memory.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, Final

__all__ = [
    "LONG_MESSAGE",
    "TAIL",
    "Compression",
    "CorruptDeflate",
    "Inflation",
    "InflationTooLong",
    "compress_alone",
    "most_overhead",
    "new_compressor",
]

TAIL: Final = b"\x00\x00\xff\xff"
"""What a flush ends with, and what is left out of a message (§7.2.1)."""

LONG_MESSAGE: Final = 64 * 1024
"""Bytes compressed at a time where others must not wait: 1 to 4 ms with zlib."""

_MOST_ENDS: Final = 8
"""Final blocks in one message. A sender whose flush cannot do without makes one (§7.2.3.4); each
costs a new decompressor and a copy of the rest."""

_LEAN: Final = 5
"""The memory level below which somebody wants little memory. ISA-L takes 62 KiB for a compressor,
whatever the window and the level; zlib 37 with the defaults of `Deflate`, and 9 at the least."""

_ISAL_LEVEL: Final = 1
"""Half the memory of ISA-L's own default and less time, for messages of the same length."""

_shared: Final[dict[tuple[int, int], Any]] = {}
"""At most one for each pair of seven windows and nine memory levels."""


@cache
def _isal() -> Any:
    """Return ISA-L's module, None where the extra is not installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


def new_compressor(window_bits: int, mem_level: int) -> Any:
    """Return a compressor with an empty history, with zlib's `compress` and `flush`."""
    fast = _isal() if mem_level >= _LEAN else None
    if fast is not None:
        return fast.compressobj(_ISAL_LEVEL, zlib.DEFLATED, -window_bits, mem_level)
    return zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -window_bits, mem_level)


def compress_alone(payload: bytes, window_bits: int, mem_level: int) -> bytes:
    """Return the message compressed by a shared compressor, with references into itself only."""
    key = window_bits, mem_level
    # Taken out for the while: one that failed half-way is not used again.
    compressor = _shared.pop(key, None) or new_compressor(window_bits, mem_level)
    compressed: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
    _shared[key] = compressor
    return compressed[:-4]


def most_overhead(length: int) -> int:
    """Return the bytes of so many compressed ones that may be more than the message has itself.

    What cannot be compressed becomes longer: with little memory by an eighth at most (zlib's
    `deflateBound`), and a fragment of nothing has some bytes, too.
    """
    return length // 8 + 64


class Compression:
    """A long message that is compressed in pieces, with references into itself only."""

    def __init__(self, payload: bytes, window_bits: int, mem_level: int) -> None:
        self._rest = memoryview(payload)
        self._compressor = new_compressor(window_bits, mem_level)
        self._parts: list[bytes] = []

    def step(self) -> bytes | None:
        """Compress the next piece; return the compressed message after the last one."""
        piece, self._rest = self._rest[:LONG_MESSAGE], self._rest[LONG_MESSAGE:]
        self._parts.append(self._compressor.compress(piece))
        if self._rest:
            return None
        self._parts.append(self._compressor.flush(zlib.Z_SYNC_FLUSH)[:-4])
        return b"".join(self._parts)


class CorruptDeflate(Exception):
    """What was received cannot be decompressed."""


class InflationTooLong(Exception):
    """A message is longer than allowed once it is decompressed."""


class Inflation:
    """The decompressor of one direction of a connection, with the history that it keeps."""

    __slots__ = ("_decompressor", "_ended", "_ends", "_window_bits")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor: Any = zlib.decompressobj(-window_bits)
        self._ends = 0
        self._ended = False

    def feed(self, data: bytes | bytearray, limit: int | None) -> bytes:
        """Decompress a part of a message; `limit` is in bytes, None for no limit.

        Raises `InflationTooLong` when more would come out, and `CorruptDeflate`.
        """
        # One byte more than is allowed tells what fits exactly from what does not; 0 would mean
        # no limit at all.
        most = 0 if limit is None else max(0, limit) + 1
        output = self._inflate(data, most)
        while self._decompressor.eof and not (most and len(output) >= most):
            rest = self._begin_anew(output)
            output += self._inflate(rest, most and most - len(output))
        if most and (len(output) >= most or self._decompressor.unconsumed_tail):
            raise InflationTooLong
        return output

    def end(self) -> None:
        """Decompress what the sender left out at the end of a message.

        Raises `CorruptDeflate` when that brings more of a message: it ended in the middle.
        """
        self._ends = 0
        if not self._ended and self._inflate(TAIL, 1):
            raise CorruptDeflate("the message does not end with a flush")

    def _begin_anew(self, output: bytes) -> bytes:
        """Go on behind a final block (§7.2.3.4); return what has come of the next one.

        zlib would take all that follows for garbage, and keep it for ever. The history goes on as
        far as this part of the message reaches; a sender that ends a stream begins a new one.
        """
        self._ends += 1
        if self._ends > _MOST_ENDS:
            raise CorruptDeflate("too many final blocks")
        rest: bytes = self._decompressor.unused_data
        history = output[-(1 << self._window_bits) :]
        self._decompressor = zlib.decompressobj(-self._window_bits, zdict=history)
        self._ended = True
        return rest

    def _inflate(self, data: bytes | bytearray, most: int) -> bytes:
        if data:
            self._ended = False  # a block has begun, and the end of it was left out
        try:
            return bytes(self._decompressor.decompress(data, most))
        except zlib.error as error:
            raise CorruptDeflate(f"invalid permessage-deflate data: {error}") from None
