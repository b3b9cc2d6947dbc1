"""Backoff: how long to wait before the next attempt (full jitter, and a stable period)."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """The waits of one client that stays connected.

    After the nth failure in a row the wait is drawn evenly from 0 to min(first * factor**(n-1),
    cap) seconds. Failures are forgotten only once a connection has been open for `stable_after`
    seconds: a server that accepts and drops at once is a failing one. `draw` gives an even number
    from 0 to 1; the default is good enough where no secret depends on it.
    """

    __slots__ = (
        "_cap",
        "_draw",
        "_factor",
        "_first",
        "_largest",
        "_opened",
        "_stable_after",
        "failures",
    )

    def __init__(
        self,
        *,
        first: float,
        factor: float,
        cap: float,
        stable_after: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._first = min(first, cap)
        self._largest = self._first
        self._factor = factor
        self._cap = cap
        self._stable_after = stable_after
        self._draw = draw
        self._opened: float | None = None
        self.failures = 0

    def opened(self, now: float) -> None:
        """Note that an attempt succeeded."""
        self._opened = now

    def next_delay(self, now: float) -> float:
        """Note that an attempt failed or a connection ended; return the seconds to wait."""
        if self._opened is not None and now - self._opened >= self._stable_after:
            self.failures = 0
            self._largest = self._first
        self._opened = None
        self.failures += 1
        delay = self._largest * self._draw()
        # By steps rather than by a power, which overflows after a thousand failures.
        self._largest = min(self._largest * self._factor, self._cap)
        return delay
