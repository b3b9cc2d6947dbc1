"""The reactor of a command: installed when needed, run until a coroutine ends, or a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["Terminated", "run"]

T = TypeVar("T")

TICK: Final = 0.1
"""Seconds between two looks for a signal. Python runs the function for one when the reactor wakes;
it may come just as that goes to sleep, and nothing else may wake it before the deadline."""


class Terminated(BaseException):
    """SIGTERM has ended what ran, as Ctrl-C does with KeyboardInterrupt."""


def run(main: Callable[[Any], Coroutine[Deferred[Any], Any, T]]) -> T:
    """Run the reactor until `main(reactor)` ends; return its result, or raise what it raised.

    Ctrl-C cancels what it waits for, and raises KeyboardInterrupt when it has ended; SIGTERM does
    so with `Terminated`. A second signal ends the process at once.
    """
    # Twisted takes a fifth of a second; what runs no reactor does not wait for it.
    from twisted.internet import reactor as installed
    from twisted.internet.defer import ensureDeferred
    from twisted.python.failure import Failure

    reactor: Any = installed
    # A look-up that hangs, in a thread that nobody can stop, is not waited for at the end.
    reactor.getThreadPool().threadFactory = partial(Thread, daemon=True)
    outcome: list[Any] = []
    ended_by: type[BaseException] | None = None
    attempt: Deferred[T]

    def start() -> None:
        nonlocal attempt
        attempt = ensureDeferred(main(reactor))
        attempt.addBoth(ended)

    def ended(result: object) -> None:
        outcome.append(result)
        # Not `stop`: that waits for the threads.
        reactor.callLater(0, reactor.crash)

    def tick() -> None:
        reactor.callLater(TICK, tick)

    def interrupt(number: int, _: object) -> None:
        nonlocal ended_by
        ended_by = KeyboardInterrupt if number == signal.SIGINT else Terminated
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        reactor.callFromThread(cancel)

    def cancel() -> None:
        attempt.cancel()

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        reactor.callWhenRunning(tick)
        reactor.callWhenRunning(start)
        reactor.run(installSignalHandlers=False)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if ended_by is not None:
        raise ended_by
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]
