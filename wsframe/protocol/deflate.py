"""permessage-deflate (RFC 7692) in Autobahn's terms: what is offered, and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)

from wsframe.options import Deflate

__all__ = ["accept_answer", "accept_offer", "offer"]

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
