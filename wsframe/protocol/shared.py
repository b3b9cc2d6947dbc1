"""A message for many connections: its frame, built once for each way that they agreed on."""

from __future__ import annotations

from wsframe.core import frames
from wsframe.core.deflate import LONG_MESSAGE, Compression, compress_alone
from wsframe.protocol.deflate import MessageDeflate

__all__ = ["SharedMessage"]


class SharedMessage:
    """A message whose frames are the same bytes for many connections of a server.

    Compressed, it refers to nothing before it, so that one compression serves all connections with
    the same window, and a connection's own compressor begins anew after it: the peer's window holds
    what that has never seen (RFC 7692 §7.2.3.2).
    """

    __slots__ = (
        *("_compressed", "_compressing", "at_once"),
        *("frame", "is_binary", "payload", "size"),
    )

    def __init__(self, payload: bytes, is_binary: bool) -> None:
        self.payload = payload
        self.is_binary = is_binary
        self.size = len(payload)
        self.at_once = False
        """Whether nothing is expected to follow soon that could share a packet with it."""
        self.frame = self._build(payload, 0)
        self._compressed: dict[tuple[int, int], bytes] = {}
        self._compressing: dict[tuple[int, int], Compression] = {}

    @property
    def is_long(self) -> bool:
        """Whether it is to be compressed in pieces, before it is handed to anybody."""
        return self.size > LONG_MESSAGE

    def prepare(self, compress: MessageDeflate) -> None:
        """Note that a connection will take it compressed; `step` then works on that."""
        key = compress.kind
        if key not in self._compressed and key not in self._compressing:
            self._compressing[key] = Compression(self.payload, *key)

    @property
    def unfinished(self) -> bool:
        """Whether there is something left for `step`."""
        return bool(self._compressing)

    def step(self) -> None:
        """Compress a piece of what was noted."""
        self._step(next(iter(self._compressing)))

    def _step(self, key: tuple[int, int]) -> None:
        compressed = self._compressing[key].step()
        if compressed is not None:
            del self._compressing[key]
            self._compressed[key] = self._build(compressed, 4)

    def compressed_for(self, compress: MessageDeflate) -> bytes:
        """Return the frame for a connection, which thereby has sent it."""
        key = compress.kind
        while key in self._compressing:
            self._step(key)
        frame = self._compressed.get(key)
        if frame is None:
            frame = self._build(compress_alone(self.payload, *key), 4)
            self._compressed[key] = frame
        compress.forget()
        return frame

    def _build(self, payload: bytes, rsv: int) -> bytes:
        opcode = frames.BINARY if self.is_binary else frames.TEXT
        return frames.frame_head(opcode, len(payload), rsv=rsv) + payload
