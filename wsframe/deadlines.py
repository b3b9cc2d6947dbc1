"""The deadlines of all connections of a reactor, behind one delayed call of it.

Few deadlines are kept exactly. Where there are many, one wake-up serves all that fall due in some
twenty milliseconds, and what falls due in the same moment is served in parts, so that ten thousand
connections that opened together do not ping together. Nothing is ever called early.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, ref

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from wsframe.clock import loop_watch, monotonic_clock

__all__ = ["Deadline", "Deadlines", "deadlines_of"]

_log: Final = Logger(namespace="wsframe.clock")

MANY: Final = 100
"""Deadlines from which they are gathered: with fewer, to be exact costs next to nothing."""

GATHER: Final = 0.02
"""Seconds between two wake-ups where there are many: less than a round trip across a country, and a
thousandth of the default time between pings."""

PARTS: Final = 25
"""Into how many wake-ups it is divided when all are due at once: they are through in half a second,
which is half of what passes for a blocked loop."""


class Deadline(list[Any]):
    """A call that is to come, once: when, its number, the function (None: over), whose it is.

    A list, because a heap compares lists without a call into Python.
    """

    __slots__ = ()

    @property
    def when(self) -> float:
        """The monotonic second from which it is due."""
        return cast(float, self[0])

    def active(self) -> bool:
        """Return whether it is still to come; as of Twisted's delayed calls."""
        return self[2] is not None

    def cancel(self) -> None:
        """Call it off; does nothing when it is over."""
        if self[2] is not None:
            self[2] = None
            self[3].cancelled()


class Deadlines:
    """What is to be called when, by the monotonic clock beside one reactor."""

    __slots__ = (
        "__weakref__",
        "_call",
        "_due",
        "_heap",
        "_live",
        "_numbers",
        "_part",
        "_reactor",
        "now",
    )

    def __init__(self, reactor: IReactorTime) -> None:
        self.now = monotonic_clock(reactor)
        self._reactor = reactor
        self._heap: list[Deadline] = []
        self._live = 0
        self._numbers = count()
        self._call: IDelayedCall | None = None
        self._due = math.inf
        self._part = 0

    def __len__(self) -> int:
        """Return how many are still to come."""
        return self._live

    def call_at(self, when: float, function: Callable[[], object]) -> Deadline:
        """Call the function at that monotonic second, or soon after it."""
        deadline = Deadline((when, next(self._numbers), function, self))
        heappush(self._heap, deadline)
        self._live += 1
        if when < self._due:
            self._wake_up(when)
        return deadline

    def call_later(self, delay: float, function: Callable[[], object]) -> Deadline:
        """Call the function in `delay` seconds; Autobahn's name for it."""
        return self.call_at(self.now() + delay, function)

    def cancelled(self) -> None:
        """From a deadline: it was called off."""
        self._live -= 1
        if not self._live:
            self._heap.clear()
            self._rest()
        elif len(self._heap) > 2 * self._live + MANY:
            # What was called off stays until its time comes, or until it is most of all.
            self._heap = [deadline for deadline in self._heap if deadline[2] is not None]
            heapify(self._heap)

    def _wake_up(self, when: float) -> None:
        """Have the delayed call come then, or for many somewhat later, and never put it off."""
        now = self.now()
        due = max(when, now + GATHER) if self._live > MANY else when
        if due < self._due:
            self._rest()
            self._due = due
            self._call = self._reactor.callLater(max(0.0, due - now), self._wake)

    def _rest(self) -> None:
        call, self._call = self._call, None
        self._due = math.inf
        if call is not None:
            call.cancel()

    def _wake(self) -> None:
        now = self.now()
        call, self._call = self._call, None
        if call is not None:
            # By the reactor's clock, too: one that was set back is no blocked loop.
            late = min(now - self._due, self._reactor.seconds() - call.getTime())
            loop_watch(self._reactor).late(now - late, now)
        self._due = -math.inf  # what is added meanwhile needs no call of its own
        for deadline in self._take_due(now):
            function = deadline[2]
            if function is None:
                continue  # called off by one before it
            deadline[2] = None
            self._live -= 1
            try:
                function()
            except BaseException:  # noqa: BLE001 - as a reactor's calls: the others have theirs
                _log.failure("Error at a deadline")
        while self._heap and not self._heap[0].active():
            heappop(self._heap)
        self._rest()
        if self._heap:
            self._wake_up(self._heap[0].when)

    def _take_due(self, now: float) -> list[Deadline]:
        """Return what is due, or the part of it that comes first."""
        heap = self._heap
        due: list[Deadline] = []
        # Of one size until all is done, or each part would be smaller than the one before.
        self._part = max(MANY, self._part, self._live // PARTS)
        while heap and heap[0][0] <= now:
            if len(due) == self._part:
                return due
            deadline = heappop(heap)
            if deadline[2] is not None:
                due.append(deadline)
        self._part = 0
        return due


# Weak both ways: what is kept for a reactor must not keep it.
_all: Final[WeakKeyDictionary[Any, ref[Deadlines]]] = WeakKeyDictionary()


def deadlines_of(reactor: IReactorTime) -> Deadlines:
    """Return the deadlines of a reactor, which all its connections share."""
    known = _all.get(reactor)
    found = None if known is None else known()
    if found is None:
        found = Deadlines(reactor)
        _all[reactor] = ref(found)
    return found
