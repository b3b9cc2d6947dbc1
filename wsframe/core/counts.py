"""What went over a connection, counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counts"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What went over a connection: messages and their bytes, each way, Close and pings apart."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
