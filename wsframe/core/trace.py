"""What passes between two peers, as records: heads, bodies, frames.

A `Capture` reads the bytes of both directions with a parser of its own, which judges nothing: it
shows also what wsframe refuses to read. What it keeps of them is bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from wsframe.core.frames import CLOSE, CONTINUATION, PONG, TEXT, mask_payload

__all__ = ["Body", "Broken", "Capture", "End", "Frame", "Head", "Record", "Role", "Start"]

Role = Literal["client", "server"]
"""Which side of the connection is ours."""

MAX_HEAD: Final = 64 * 1024
"""Bytes kept of one head: four times what options admit by default. Where more come without an
end, the rest of that direction is not looked at."""

MAX_CLOSE: Final = 125
"""Bytes of a Close frame's payload (RFC 6455 §5.5), which is always shown whole."""

_HEAD_END: Final = re.compile(rb"\n\r?\n")  # h11, too, takes a line feed alone
_STATUS: Final = re.compile(rb"HTTP/\d\.\d +(\d{3})")
_UPGRADE: Final = re.compile(rb"^upgrade[ \t]*:[^\n]*websocket", re.IGNORECASE | re.MULTILINE)
_LENGTH: Final = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.I | re.MULTILINE)
_CHUNKED: Final = re.compile(rb"^transfer-encoding[ \t]*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Start:
    """The capture of a connection begins; `at`, as everywhere, is seconds since 1970.

    `is_open` says that the WebSocket was open already, so that there is no handshake to be shown.
    """

    at: float
    role: Role
    peer: str
    is_open: bool


@dataclass(frozen=True)
class Head:
    """One head of the opening handshake, in the bytes that were sent or received.

    `complete` is False for what ended before its empty line, or is too long, or is no HTTP at all.
    `secure` says that it went through TLS.
    """

    at: float
    is_sent: bool
    is_request: bool
    raw: bytes = field(repr=False)
    complete: bool
    secure: bool


@dataclass(frozen=True)
class Body:
    """How the body begins that follows a head. `cut` says that there is, or may be, more of it."""

    at: float
    is_sent: bool
    is_request: bool
    start: bytes = field(repr=False)
    cut: bool


@dataclass(frozen=True)
class Frame:
    """One frame: its head (RFC 6455 §5.2), and how its payload begins, without the mask.

    It is made when so much of the payload is there as is shown; `cut` says that there is more.
    `is_text` says that the payload is a part of a text message, and not compressed.
    """

    at: float
    is_sent: bool
    opcode: int
    fin: bool
    rsv: int
    masked: bool
    length: int
    start: bytes = field(repr=False)
    cut: bool
    is_text: bool


@dataclass(frozen=True)
class Broken:
    """The connection ended within a frame; `missing` bytes of its payload, None for its head."""

    at: float
    is_sent: bool
    missing: int | None


@dataclass(frozen=True)
class End:
    """The connection has ended: the fields are those of `ConnectionClosed`."""

    at: float
    code: int
    reason: str
    by: str | None
    clean: bool


Record = Start | Head | Body | Frame | Broken | End


class Capture:
    """Both directions of one connection.

    `sent` and `received` take the bytes, cut anywhere, and return the records that are complete by
    them; `ended` returns what is incomplete at the end. `frames` says whether frames are looked
    at, `max_payload` how many bytes of a payload, or of a body, are kept.
    """

    __slots__ = ("_received", "_sent")

    def __init__(self, role: Role, *, secure: bool, frames: bool, max_payload: int) -> None:
        is_client = role == "client"
        self._sent: Final = _Direction(True, is_client, secure, frames, max_payload)
        self._received: Final = _Direction(False, not is_client, secure, frames, max_payload)

    def join(self, *, sent_left: int | None, received_left: int | None) -> None:
        """Begin with an open WebSocket: so many bytes are left of a frame that has begun.

        None says that nobody knows; then nothing of that direction is shown.
        """
        self._sent.join(sent_left)
        self._received.join(received_left)

    def sent(self, data: bytes, at: float) -> list[Record]:
        """Take bytes that were sent."""
        return self._sent.take(data, at)

    def received(self, data: bytes, at: float) -> list[Record]:
        """Take bytes that were received."""
        return self._received.take(data, at)

    def ended(self, at: float) -> list[Record]:
        """Take the end of both directions."""
        return [*self._sent.end(at), *self._received.end(at)]


_Reading = Literal["head", "body", "frame", "payload", "nothing"]


class _Direction:
    """What one side says to the other: heads, then a body or frames."""

    __slots__ = (
        "_buffer",
        "_frame",
        "_frames",
        "_is_request",
        "_is_sent",
        "_key",
        "_left",
        "_max_payload",
        "_message_is_text",
        "_reading",
        "_searched",
        "_secure",
        "_wanted",
    )

    def __init__(
        self, is_sent: bool, is_request: bool, secure: bool, frames: bool, max_payload: int
    ) -> None:
        self._is_sent = is_sent
        self._is_request = is_request
        self._secure = secure
        self._frames = frames
        self._max_payload = max_payload
        self._reading: _Reading = "head"
        self._buffer = bytearray()  # of a head, or of what is shown of a body or payload
        self._searched = 0
        self._left = 0  # bytes of the body or payload that have not come
        self._wanted = 0  # how many of it are shown; 0 once they are
        self._frame: tuple[int, bool, int, bool, int] | None = None
        self._key = b""
        self._message_is_text = False

    def join(self, left: int | None) -> None:
        self._reading = "payload" if left else "frame"
        self._left = left or 0
        if left is None or not self._frames:
            self._reading = "nothing"

    def take(self, data: bytes, at: float) -> list[Record]:
        records: list[Record] = []
        position = 0
        while position < len(data) and self._reading != "nothing":
            if self._reading == "head":
                position = self._take_head(data, position, at, records)
            elif self._reading == "frame":
                position = self._take_frame_head(data, position, at, records)
            else:
                position = self._take_payload(data, position, at, records)
        return records

    def end(self, at: float) -> list[Record]:
        records: list[Record] = []
        if self._reading == "head" and self._buffer:
            records.append(self._head(at, complete=False))
        elif self._reading == "body" and self._buffer:
            self._left = max(0, self._left)  # a body of unknown length ends here
            self._show(at, records)
        elif self._reading == "frame" and self._buffer:
            records.append(Broken(at, self._is_sent, None))
        elif self._reading == "payload":
            if self._wanted:
                self._show(at, records)
            records.append(Broken(at, self._is_sent, self._left))
        self._reading = "nothing"
        self._buffer = bytearray()
        return records

    # ---------------------------------------------------------------- heads

    def _take_head(self, data: bytes, position: int, at: float, records: list[Record]) -> int:
        before = len(self._buffer)
        self._buffer += data[position : position + MAX_HEAD + 1 - before]
        found = _HEAD_END.search(self._buffer, self._searched)
        if found is None:
            # The empty line may be cut in two: search again from its possible start.
            self._searched = max(0, len(self._buffer) - 2)
            if len(self._buffer) > MAX_HEAD:
                del self._buffer[MAX_HEAD:]
                records.append(self._head(at, complete=False))
                self._reading = "nothing"
            return len(data)
        del self._buffer[found.end() :]
        head = self._head(at, complete=True)
        records.append(head)
        self._after(head.raw)
        return position + found.end() - before

    def _head(self, at: float, *, complete: bool) -> Head:
        raw = bytes(self._buffer)
        self._buffer = bytearray()
        self._searched = 0
        return Head(at, self._is_sent, self._is_request, raw, complete, self._secure)

    def _after(self, head: bytes) -> None:
        """Decide what follows a head."""
        found = _STATUS.match(head)
        status = int(found[1]) if found else 0
        if _UPGRADE.search(head) if self._is_request else status == 101:
            self._reading = "frame" if self._frames else "nothing"
        elif self._is_request or not 100 <= status < 200:
            length = _LENGTH.search(head)
            self._reading = "body"
            self._left = -1 if length is None or _CHUNKED.search(head) else int(length[1])
            self._wanted = self._max_payload
            if not self._left or not self._wanted:
                self._reading = "nothing"

    # ---------------------------------------------------------------- bodies and frames

    def _take_frame_head(self, data: bytes, position: int, at: float, records: list[Record]) -> int:
        head = self._buffer
        part = data[position : position + _head_size(head) - len(head)]
        head += part
        if len(head) < 2 or len(head) < _head_size(head):
            return position + len(part)
        masked = bool(head[1] & 0x80)
        end = len(head) - (4 if masked else 0)
        self._key = bytes(head[end:])
        self._left = int.from_bytes(head[2:end]) if end > 2 else head[1] & 0x7F
        opcode, rsv = head[0] & 0x0F, (head[0] & 0x70) >> 4
        if opcode not in {CONTINUATION, *range(CLOSE, PONG + 1)}:
            self._message_is_text = opcode == TEXT and not rsv
        self._frame = opcode, bool(head[0] & 0x80), rsv, masked, self._left
        self._buffer = bytearray()
        shown = MAX_CLOSE if opcode == CLOSE else self._max_payload
        self._wanted = min(self._left, shown)
        if not self._wanted:
            self._show(at, records)
        self._reading = "payload" if self._left else "frame"
        return position + len(part)

    def _take_payload(self, data: bytes, position: int, at: float, records: list[Record]) -> int:
        size = len(data) - position
        if self._left >= 0:  # a body's end may be unknown
            size = min(size, self._left)
            self._left -= size
        if self._wanted:
            missing = self._wanted - len(self._buffer)
            self._buffer += data[position : position + min(size, missing)]
            if len(self._buffer) == self._wanted or not self._left:
                self._show(at, records)
        if self._frame is None and self._reading == "body":
            if not self._wanted:
                self._reading = "nothing"
        elif not self._left:
            self._reading = "frame"
        return position + size

    def _show(self, at: float, records: list[Record]) -> None:
        """Make the record of the body or frame that has begun."""
        start = bytes(self._buffer)
        self._buffer = bytearray()
        self._wanted = 0
        if self._frame is None:
            records.append(Body(at, self._is_sent, self._is_request, start, self._left != 0))
            return
        opcode, fin, rsv, masked, length = self._frame
        if masked:
            start = mask_payload(start, self._key)
        is_text = self._message_is_text and opcode <= TEXT
        cut = len(start) < length
        records.append(
            Frame(at, self._is_sent, opcode, fin, rsv, masked, length, start, cut, is_text)
        )


def _head_size(head: bytearray) -> int:
    """Return how long a frame's head is, as far as its first bytes tell."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)
