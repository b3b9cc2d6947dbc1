"""Close codes, and what the Close frames of both sides amount to (RFC 6455 §7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wsframe.errors import ConnectionClosed, Side

__all__ = ["Closing", "check_close", "is_valid_code", "truncate_reason"]

_DEFINED: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""Codes of the IANA registry that may travel in a frame; 1004 to 1006 and 1015 may not."""

MAX_REASON: Final = 123
"""Bytes of a reason: a control frame's 125 less two for the code (RFC 6455 §5.5)."""


def is_valid_code(code: int) -> bool:
    """Return whether a Close frame may carry the code (RFC 6455 §7.4)."""
    return code in _DEFINED or 3000 <= code <= 4999


def check_close(code: int, reason: str) -> bytes:
    """Return the reason in UTF-8 when code and reason may be sent in a Close frame.

    Raises TypeError and ValueError.
    """
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code is an int, not {type(code).__name__}")
    if not is_valid_code(code):
        raise ValueError(f"{code} may not be sent in a Close frame (RFC 6455 §7.4)")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {type(reason).__name__}")
    encoded = reason.encode()
    if len(encoded) > MAX_REASON:
        raise ValueError(f"a close reason has at most {MAX_REASON} bytes in UTF-8")
    return encoded


def truncate_reason(reason: str) -> bytes:
    """Return as much of the reason in UTF-8 as a Close frame holds, in whole characters."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore").encode()


@dataclass
class Closing:
    """What is known of a connection's end: the Close frame that began it, and the answer.

    `begin` is called for each Close frame, sent or received; the first one decides. `settle` gives
    the outcome when the transport is gone.
    """

    by: Side | None = None
    code: int = 1006
    reason: str = ""
    _sent: bool = False
    _received: bool = False

    def begin(self, by: Side, code: int | None, reason: str) -> None:
        """Note a Close frame of that side; code None is one without a code (1005)."""
        if self.by is None:
            self.by = by
            self.code = 1005 if code is None else code
            self.reason = reason
        if by == "local":
            self._sent = True
        else:
            self._received = True

    def lose(self, by: Side | None, reason: str) -> None:
        """Note why there was or will be no Close frame (1006); does nothing after one."""
        if self.by is None:
            self.by = by
            self.reason = reason

    @property
    def clean(self) -> bool:
        """Whether both Close frames were seen (RFC 6455 §7.1.4)."""
        return self._sent and self._received

    def settle(self) -> ConnectionClosed:
        """Return the outcome as the exception that `recv` and `send` raise from now on."""
        return ConnectionClosed.of(self.code, self.reason, by=self.by, clean=self.clean)
