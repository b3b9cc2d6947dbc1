"""Whole frames in and out: the fast lane of the data path (RFC 6455 §5.2).

`decode` takes all complete messages out of what was read: those that are one frame, not compressed
and valid in every respect. It goes through the bytes by offset, once, and makes no object for a
frame. Whatever it does not recognise it leaves where it is, for a full parser to judge, so that it
never has to say what is wrong with a frame. `Partial` takes a large frame as it comes.
"""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder
from collections.abc import Callable
from struct import Struct
from typing import Final

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Message",
    "Partial",
    "decode",
    "frame_end",
    "frame_head",
    "mask_payload",
    "message_head",
    "partial",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

Message = str | bytes
"""A message: str is a text message, bytes a binary one."""

Masker = Callable[[bytes, bytes], bytes | bytearray]
"""Masks a payload with a key of four bytes, which is the same as to unmask it."""

_MASKED: Final = 0x80
_FIN: Final = 0x80
_FINAL_TEXT: Final = _FIN | TEXT
_FINAL_BINARY: Final = _FIN | BINARY
_WHOLE: Final = frozenset((_FINAL_TEXT, _FINAL_BINARY))

SHORT: Final = 512
"""Bytes below which one XOR of big integers is faster than a native masker with its set-up."""

_from_bytes: Final = int.from_bytes

_REPEATED: Final = tuple(_from_bytes(b"\0\0\0\1" * words) for words in range(SHORT // 4 + 1))
"""What a key, as a number, is multiplied by to stand there so many times."""

MANY_PARTS: Final = 4096
"""Parts of a frame, as they were read, that are kept apart; more are joined, because a peer that
drips its bytes would have us hold a hundred times as much memory as it sends."""


# ------------------------------------------------------------------------------------ out


def frame_head(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, key: bytes = b""
) -> bytes:
    """Return a frame's head: `rsv` is 0 to 7, `key` the four mask bytes or empty for no mask."""
    first = (_FIN if fin else 0) | (rsv << 4) | opcode
    masked = _MASKED if key else 0
    if length < 126:
        return bytes((first, masked | length)) + key
    if length < 0x10000:
        return bytes((first, masked | 126)) + length.to_bytes(2) + key
    return bytes((first, masked | 127)) + length.to_bytes(8) + key


def _short_heads(opcode: int) -> tuple[bytes, ...]:
    return tuple(bytes((_FIN | opcode, length)) for length in range(126))


_SHORT_HEADS: Final = {opcode: _short_heads(opcode) for opcode in (TEXT, BINARY)}
_MEDIUM_HEAD: Final = Struct(">BBH").pack


def message_head(opcode: int, length: int) -> bytes:
    """Return the head of a message in one frame without a mask, as a server sends it."""
    if length < 126:
        return _SHORT_HEADS[opcode][length]
    if length < 0x10000:
        return _MEDIUM_HEAD(_FIN | opcode, 126, length)
    return frame_head(opcode, length)


def mask_payload(payload: bytes, key: bytes) -> bytes:
    """Return the payload XORed with the key (RFC 6455 §5.3), as one operation on big integers."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (_from_bytes(payload) ^ _from_bytes(repeated)).to_bytes(size)


# ------------------------------------------------------------------------------------- in


def decode(
    data: bytes,
    start: int,
    *,
    masked: bool,
    most: int,
    many: int = sys.maxsize,
    mask: Masker = mask_payload,
) -> tuple[list[Message], int, int]:
    """Take the messages out of `data` from `start` on, as far as each is one plain, whole frame.

    `masked` is whether frames have to be (a client's have, a server's must not), `most` the bytes
    of a payload up to which it is taken, `many` the messages that are taken at most, and `mask`
    what unmasks payloads that are not `SHORT`.

    Returns the messages, the bytes of their payloads, and where the first frame begins that was
    not taken: the end of `data` when all were.
    """
    messages: list[Message] = []
    size = len(data)
    octets = 0
    at = start
    head = 6 if masked else 2
    while size - at >= head:
        first = data[at]
        if first not in _WHOLE:
            break
        length = data[at + 1]
        if masked:
            length -= _MASKED
        if 0 <= length < 126:
            body = at + head
        elif length == 126:
            body = at + head + 2
            if body > size:
                break
            length = data[at + 2] << 8 | data[at + 3]
            if length < 126:
                break
        elif length == 127:
            body = at + head + 8
            if body > size:
                break
            length = _from_bytes(data[at + 2 : at + 10])
            if length < 0x10000:
                break
        else:
            break  # masked, and should not be, or the other way round
        end = body + length
        if end > size or length > most:
            break
        payload: bytes | bytearray = data[body:end]
        if masked:
            if length < SHORT:  # as `mask_payload`, without its call
                key = _from_bytes(data[body - 4 : body])
                if spare := -length & 3:
                    key = key * _REPEATED[(length + 3) >> 2] >> 8 * spare
                else:
                    key *= _REPEATED[length >> 2]
                payload = (_from_bytes(payload) ^ key).to_bytes(length)
            else:
                payload = mask(data[body:end], data[body - 4 : body])
        if first == _FINAL_BINARY:
            messages.append(payload if type(payload) is bytes else bytes(payload))
        else:
            try:
                messages.append(str(payload, "utf-8"))
            except UnicodeDecodeError:
                break
        octets += length
        at = end
        if at == size or len(messages) == many:
            break
    return messages, octets, at


def frame_end(data: bytes, start: int) -> int | None:
    """Return where the frame that begins at `start` ends, which may be beyond what is there.

    None when not even its head is complete.
    """
    size = len(data)
    if size - start < 2:
        return None
    second = data[start + 1]
    length = second & 0x7F
    body = start + (6 if second & _MASKED else 2)
    if length == 126:
        body += 2
    elif length == 127:
        body += 8
    if body > size:
        return None
    if length == 126:
        length = int.from_bytes(data[start + 2 : start + 4])
    elif length == 127:
        length = int.from_bytes(data[start + 2 : start + 10])
    return body + length


def partial(data: bytes, start: int, *, masked: bool, most: int) -> tuple[Partial, int] | None:
    """Return the message that begins at `start` and where its payload does; it is not whole.

    None when the head is not complete, or is one that `decode` would not take.
    """
    first = data[start]
    end = frame_end(data, start)
    if end is None or first not in _WHOLE:
        return None
    second = data[start + 1]
    if masked != (second >= _MASKED):
        return None
    extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
    body = start + 2 + extended + (4 if masked else 0)
    length = end - body
    if length > most or (extended and length < (126 if extended == 2 else 0x10000)):
        return None
    key = data[body - 4 : body] if masked else b""
    return Partial(is_text=first == _FINAL_TEXT, key=key, length=length), body


class Partial:
    """A message in one frame that arrives over several reads: `take` them until `missing` is 0.

    Every part is unmasked as it comes, while it is in the processor's cache, and a text is checked
    at once, so that one that is not UTF-8 is refused early (RFC 6455 §8.1). `length` and `missing`
    are bytes.
    """

    __slots__ = ("_decode", "_key", "_parts", "length", "missing")

    def __init__(self, *, is_text: bool, key: bytes, length: int) -> None:
        self._key = key
        self._parts: list[bytes | bytearray] | list[str] = []
        self._decode = getincrementaldecoder("utf-8")().decode if is_text else None
        self.length = length
        self.missing = length

    def take(self, data: bytes, mask: Masker = mask_payload) -> None:
        """Add bytes of the payload, not more than are missing.

        Raises UnicodeDecodeError for a text that is not UTF-8, whatever may follow.
        """
        part: bytes | bytearray = data
        if self._key:
            turn = (self.length - self.missing) & 3
            key = self._key[turn:] + self._key[:turn] if turn else self._key
            part = mask(data, key) if len(data) >= SHORT else mask_payload(data, key)
        self.missing -= len(data)
        parts: list[object] = self._parts  # type: ignore[assignment]
        if self._decode is None:
            parts.append(part)
        else:
            parts.append(self._decode(part, not self.missing))
        if len(parts) > MANY_PARTS:
            parts[:] = [self.message()]

    def message(self) -> Message:
        """Return what has come so far: when nothing is missing, the message."""
        joined: Message = ("" if self._decode else b"").join(self._parts)  # type: ignore[arg-type]
        return joined
