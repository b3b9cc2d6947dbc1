"""Whole frames out: the bytes of a WebSocket frame, with or without a mask (RFC 6455 §5.2)."""

from __future__ import annotations

from typing import Final

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "frame_head", "mask_payload"]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_MASKED: Final = 0x80


def frame_head(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, key: bytes = b""
) -> bytes:
    """Return a frame's head: `rsv` is 0 to 7, `key` the four mask bytes or empty for no mask."""
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    masked = _MASKED if key else 0
    if length < 126:
        return bytes((first, masked | length)) + key
    if length < 0x10000:
        return bytes((first, masked | 126)) + length.to_bytes(2) + key
    return bytes((first, masked | 127)) + length.to_bytes(8) + key


def mask_payload(payload: bytes, key: bytes) -> bytes:
    """Return the payload XORed with the key (RFC 6455 §5.3), as one operation on big integers."""
    size = len(payload)
    if not size:
        return b""
    repeated = key * (size // 4 + 1)
    return (int.from_bytes(payload) ^ int.from_bytes(repeated[:size])).to_bytes(size)
