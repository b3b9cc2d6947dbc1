"""The clock that durations are measured with: monotonic, also where the reactor's own is not.

Twisted's reactors tell wall time: a step of the system clock would make a latency of an hour, or a
negative one. A test's `Clock`, and any reactor with a clock of its own, is taken at its word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.python.runtime import seconds as wall_seconds

__all__ = ["global_reactor", "monotonic_clock"]


def monotonic_clock(reactor: IReactorTime) -> Callable[[], float]:
    """Return a function that tells seconds and never goes back, for use beside that reactor."""
    own = reactor.seconds
    return time.monotonic if own in (wall_seconds, time.time) else own


def global_reactor() -> IReactorTime:
    """Return the installed reactor; called where a caller gave None, never at import."""
    from twisted.internet import reactor

    return cast(IReactorTime, reactor)
