"""The clock that durations are measured with, and what it tells of an event loop that was blocked.

The clock is monotonic, also where the reactor's own is not. Twisted's reactors tell wall time: a
step of the system clock would make a latency of an hour, or a negative one. A test's `Clock`, and
any reactor with a clock of its own, is taken at its word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.runtime import seconds as wall_seconds

__all__ = ["LoopWatch", "global_reactor", "loop_watch", "monotonic_clock", "use_monotonic_clock"]

_log: Final = Logger(namespace="wsframe.clock")

BLOCKED: Final = 1.0
"""Seconds that a timer comes late from which on the loop was blocked: far more than a busy loop
takes for a turn, and still harmless to a keepalive."""

_QUIET: Final = 60.0
"""Seconds between two lines in the log: a loop that is always blocked says so once a minute."""


def monotonic_clock(reactor: IReactorTime) -> Callable[[], float]:
    """Return a function that tells seconds and never goes back, for use beside that reactor."""
    own = reactor.seconds
    return time.monotonic if own in (wall_seconds, time.time) else own


def use_monotonic_clock(reactor: Any) -> None:
    """Have a reactor of Twisted's run its timers on the monotonic clock, those that wait included.

    On wall time, as they come, a system clock that is set back an hour stops every timer for an
    hour, keepalives among them, and one that is set forward makes them all due at once. For a
    program whose reactor is its own: then `reactor.seconds()` is no time of day any more, and the
    access log of a `twisted.web` site would take it for one. The services for twistd call it.

    A reactor that has a clock of its own, such as asyncio's, keeps it.
    """
    if reactor.seconds not in (wall_seconds, time.time):
        return
    step = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.time += step
        call.seconds = time.monotonic
    reactor.seconds = time.monotonic


def global_reactor() -> IReactorTime:
    """Return the installed reactor; called where a caller gave None, never at import."""
    from twisted.internet import reactor

    return cast(IReactorTime, reactor)


class LoopWatch:
    """How long a reactor's loop was blocked, as far as the timers of connections noticed.

    It has no timer of its own: a block between two timers is not noticed, and what is noticed
    lasted at least that long. A stopped process looks the same. `count` is how often, `last` and
    `longest` are seconds, 0.0 for never.
    """

    __slots__ = ("_logged", "_unlogged", "_until", "count", "last", "longest")

    def __init__(self) -> None:
        self.count = 0
        self.last = 0.0
        self.longest = 0.0
        self._until = float("-inf")
        self._logged = float("-inf")
        self._unlogged = 0

    def late(self, due: float, now: float) -> None:
        """Note that a timer that was due came only now; both in monotonic seconds.

        The first timer after a block was due first; those that follow tell nothing new.
        """
        if now - due < BLOCKED or due <= self._until:
            return
        self._until = now
        self.count += 1
        self.last = now - due
        self.longest = max(self.longest, self.last)
        if now - self._logged < _QUIET:
            self._unlogged += 1
            return
        _log.warn(
            "The event loop was blocked for at least {seconds:.1f} s, in which nothing was read or"
            " sent ({unlogged} more times since the last such line)",
            seconds=self.last,
            unlogged=self._unlogged,
        )
        self._logged = now
        self._unlogged = 0


_watches: Final[WeakKeyDictionary[Any, LoopWatch]] = WeakKeyDictionary()


def loop_watch(reactor: IReactorTime) -> LoopWatch:
    """Return the one watch of a reactor, for its connections and for those who show it."""
    return _watches.setdefault(reactor, LoopWatch())
