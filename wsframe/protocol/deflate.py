"""permessage-deflate (RFC 7692) in Autobahn's terms: offers, answers, and messages whole."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket.compress import (
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)

from wsframe.core.deflate import (
    CorruptDeflate,
    Inflation,
    InflationTooLong,
    compress_alone,
    new_compressor,
)
from wsframe.options import Deflate

__all__ = ["MessageDeflate", "accept_answer", "accept_offer", "compress_message", "offer", "whole"]

_LARGEST = 15
"""Window bits; what is not restricted to fewer has these (RFC 7692 §7.1.2)."""


def offer(deflate: Deflate) -> Any:
    """Return what a client offers."""
    bits = deflate.server_max_window_bits
    return PerMessageDeflateOffer(
        accept_no_context_takeover=True,
        accept_max_window_bits=True,
        request_no_context_takeover=deflate.server_no_context_takeover,
        request_max_window_bits=0 if bits == _LARGEST else bits,
    )


def accept_answer(deflate: Deflate, max_message_size: int) -> Callable[[Any], Any]:
    """Return what judges a server's answer to the offer; it returns None to refuse it."""

    def judge(answer: Any) -> Any:
        if not isinstance(answer, PerMessageDeflateResponse):
            return None
        # A restriction that was asked for and is not confirmed does not hold (§7.1.1.1, §7.1.2.1).
        if deflate.server_no_context_takeover and not answer.server_no_context_takeover:
            return None
        if (answer.server_max_window_bits or _LARGEST) > deflate.server_max_window_bits:
            return None
        allowed = answer.client_max_window_bits or _LARGEST
        return PerMessageDeflateResponseAccept(
            answer,
            no_context_takeover=(
                answer.client_no_context_takeover or deflate.client_no_context_takeover
            ),
            window_bits=min(allowed, deflate.client_max_window_bits),
            mem_level=deflate.mem_level,
            max_message_size=max_message_size,
        )

    return judge


def accept_offer(deflate: Deflate, max_message_size: int) -> Callable[[Any], Any]:
    """Return what chooses among a client's offers; it returns None to compress nothing."""

    def judge(offers: list[Any]) -> Any:
        for made in offers:
            if isinstance(made, PerMessageDeflateOffer):
                bits = deflate.client_max_window_bits
                return PerMessageDeflateOfferAccept(
                    made,
                    # A client that cannot restrict itself is not asked to (§7.1.2.2).
                    request_no_context_takeover=(
                        deflate.client_no_context_takeover and made.accept_no_context_takeover
                    ),
                    request_max_window_bits=(
                        bits if bits < _LARGEST and made.accept_max_window_bits else 0
                    ),
                    no_context_takeover=(
                        made.request_no_context_takeover or deflate.server_no_context_takeover
                    ),
                    window_bits=min(
                        made.request_max_window_bits or _LARGEST, deflate.server_max_window_bits
                    ),
                    mem_level=deflate.mem_level,
                    max_message_size=max_message_size,
                )
        return None

    return judge


class MessageDeflate(PerMessageDeflate):
    """Autobahn's extension processor, with no object that lives longer than it is needed.

    Where a side agreed to begin every message anew it holds no compressor, or no decompressor,
    between two messages. What ends in a final block does not end the connection's stream.
    """

    _compressor: Any
    _inflation: Inflation | None

    def __init__(self, agreed: PerMessageDeflate) -> None:
        super().__init__(
            agreed._is_server,
            agreed.server_no_context_takeover,
            agreed.client_no_context_takeover,
            agreed.server_max_window_bits,
            agreed.client_max_window_bits,
            agreed.mem_level,
            agreed.max_message_size,
        )
        ours = agreed.server_no_context_takeover, agreed.server_max_window_bits
        theirs = agreed.client_no_context_takeover, agreed.client_max_window_bits
        if not agreed._is_server:
            ours, theirs = theirs, ours
        self._forgets, self.window_bits = ours
        self._peer_forgets, self._peer_window_bits = theirs
        self._inflation = None
        self.kind = self.window_bits, self.mem_level
        """Whoever shares it can be sent the same bytes."""

    def compress_message(self, payload: bytes) -> bytes:
        """Return a whole message compressed."""
        if self._forgets:
            return compress_alone(payload, *self.kind)
        compressor = self._compressor
        if compressor is None:
            compressor = self._compressor = new_compressor(*self.kind)
        compressed: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return compressed[:-4]

    def forget(self) -> None:
        """Let the next message refer to nothing before it.

        The peer's window holds a message that our own compressor has not seen: distances into what
        was before would be wrong (§7.2.3.2 lets any message refer to itself only).
        """
        self._compressor = None

    def start_compress_message(self) -> None:
        """Autobahn: a message follows, maybe in parts."""
        if self._compressor is None or self._forgets:
            self._compressor = new_compressor(*self.kind)

    def end_compress_message(self) -> bytes:
        """Autobahn: the message is complete; return the last of it."""
        data = bytes(super().end_compress_message())
        if self._forgets:
            self._compressor = None
        return data

    def start_decompress_message(self) -> None:
        """Autobahn: a message follows."""
        if self._inflation is None:
            self._inflation = Inflation(self._peer_window_bits)
        self._decompress_message_size = 0

    def decompress_message_data(
        self, data: bytes | bytearray, max_output_len: int | None = None
    ) -> bytes:
        """Autobahn: return what a part of a message amounts to; the smaller limit holds."""
        limit = max_output_len
        if self.max_message_size is not None:
            left = self.max_message_size - self._decompress_message_size
            limit = left if limit is None else min(left, limit)
        if self._inflation is None:
            raise PayloadCorruptError("no message has begun")
        try:
            output = self._inflation.feed(data, limit)
        except InflationTooLong:
            raise PayloadExceededError("the message is too long when decompressed") from None
        except CorruptDeflate as error:
            raise PayloadCorruptError(str(error)) from None
        self._decompress_message_size += len(output)
        return output

    def end_decompress_message(self) -> None:
        """Autobahn: the message is complete."""
        if self._inflation is None:
            raise PayloadCorruptError("no message has begun")
        try:
            self._inflation.end()
        except CorruptDeflate as error:
            raise PayloadCorruptError(str(error)) from None
        if self._peer_forgets:
            self._inflation = None


def whole(agreed: Any) -> Any:
    """Return what does the work of Autobahn's extension processor: ours for its deflate."""
    return MessageDeflate(agreed) if type(agreed) is PerMessageDeflate else agreed


def compress_message(compress: Any, payload: bytes) -> bytes:
    """Return a whole message compressed by any of Autobahn's extension processors."""
    if isinstance(compress, MessageDeflate):
        return compress.compress_message(payload)
    compress.start_compress_message()
    return bytes(compress.compress_message_data(payload) + compress.end_compress_message())
