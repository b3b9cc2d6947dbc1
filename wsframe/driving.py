"""Drives coroutines as Twisted does, and lets one that waits for a message be resumed directly.

Twisted's own trampoline takes a Deferred for every wait, with a chain of callbacks that nobody adds
to. That is most of what a message costs whose handler waits for each. `Driver` takes Deferreds as
well; and a wait that knows that a `Driver` is right behind it, by `driving`, is `suspended`
instead, and the driver told to `resume` when its time has come.
"""

from __future__ import annotations

import contextvars
import sys
import types
from asyncio import _get_running_loop, isfuture
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, cast

from twisted.internet import defer
from twisted.python.failure import Failure

from wsframe.errors import ConnectionClosed

__all__ = ["DRIVERS", "SUSPENDED", "Driver", "driving", "in_asyncio", "suspended"]

SUSPENDED: Final = object()
"""Yielded by a wait that is not for a Deferred; somebody will call `resume`."""

_current: contextvars.ContextVar[Driver] = contextvars.ContextVar("_current")


class Driver:
    """Runs one coroutine to its end, in a copy of the context it was begun in.

    `ended` is called once with what it returned, or with a Failure.
    """

    __slots__ = (
        "_cancelled",
        "_context",
        "_coroutine",
        "_ended",
        "_result",
        "_waits",
        "cancel_wait",
        "is_running",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], ended: Callable[[object], object]
    ) -> None:
        self._coroutine = coroutine
        self._ended = ended
        self._context = contextvars.copy_context()
        self._context.run(_current.set, self)
        self._waits: defer.Deferred[Any] | None = None
        self.is_running = False
        self._cancelled = False
        self._result: list[object] = []
        self.cancel_wait: Callable[[], object] | None = None

    def resume(self, value: object) -> None:
        """Begin (with None), or go on with what was waited for: a result or a Failure."""
        self._waits = self.cancel_wait = None
        while True:
            self.is_running = True
            try:
                if isinstance(value, Failure):
                    throw = self._coroutine.throw
                    waits = self._context.run(throw, _raisable(value))
                else:
                    waits = self._context.run(self._coroutine.send, value)
            except StopIteration as stop:
                outcome: object = stop.value
                break
            except BaseException:  # noqa: BLE001 - whatever ends the coroutine is its outcome
                outcome = Failure()
                break
            finally:
                self.is_running = False
            if waits is SUSPENDED:
                if self._cancelled:
                    self._cancel_if_asked()
                return
            if not isinstance(waits, defer.Deferred):
                value = Failure(TypeError(_not_ours(waits)))
                continue
            self.is_running = True
            waits.addBoth(self._fired)
            self.is_running = False
            if not self._result:
                self._waits = waits
                self._cancel_if_asked()
                return
            value = self._result.pop()  # it had fired, and was paused or chained before
        # Without the collector of garbage we, and all that the coroutine had, are to go now: the
        # context refers to us, `_ended` may, and the traceback of what was raised to this frame.
        ended = self._ended
        del self._coroutine, self._context, self._ended
        value = waits = None
        try:
            ended(outcome)
        finally:
            del outcome

    def _fired(self, result: object) -> None:
        if self.is_running:
            self._result.append(result)
        else:
            self.resume(result)

    callback = errback = resume
    """As of a Deferred, for who tells a wait of its end."""

    def cancel(self) -> None:
        """Cancel what is waited for, or the next wait; the coroutine learns of it as that fails."""
        self._cancelled = True
        if not self.is_running:
            self._cancel_if_asked()

    def _cancel_if_asked(self) -> None:
        if not self._cancelled:
            return
        self._cancelled = False
        if self.cancel_wait is not None:
            self.cancel_wait()
            self.resume(Failure(defer.CancelledError()))
        elif self._waits is not None:
            self._waits.cancel()


def in_asyncio() -> str:
    """Return what lets a coroutine use asyncio's own waits under the reactor that runs."""
    remedy = "lambda connection: asyncio.ensure_future(handler(connection))"
    where = "" if _get_running_loop() is not None else "run it under the asyncio reactor, and "
    return f"to use asyncio's own waits in a handler, {where}give it as {remedy}"


def _not_ours(waits: object) -> str:
    """Return what is wrong with a wait; that of `asyncio.sleep(0)` is None."""
    text = f"a coroutine awaits {type(waits).__name__}, and Twisted drives it"
    return f"{text}; {in_asyncio()}" if waits is None or isfuture(waits) else text


def _raisable(failure: Failure) -> BaseException:
    """Return what is to be raised in a coroutine for a Failure.

    For the end of a connection it is another exception than the Failure's. That one is referred to
    by frames of Twisted's until these return; the traceback of what is raised refers to them, by
    way of the coroutine's frame, if the coroutine ends meanwhile. All would wait for the collector
    of garbage, and the connection with them.
    """
    error = cast(BaseException, failure.value)
    if isinstance(error, ConnectionClosed):
        return error.again()
    return error.with_traceback(failure.tb)


@types.coroutine
def suspended(cancel_wait: Callable[[], object], begin: Callable[[Driver], object]) -> Any:
    """Wait until the `Driver` right behind is told to `resume`; return what it was told.

    `begin` is given that driver, and `cancel_wait` called when it is cancelled. Returns
    `SUSPENDED`, after `cancel_wait`, where something else drives: then wait for a Deferred.
    """
    driver = _current.get(None)
    if driver is None or not driver.is_running:
        return SUSPENDED
    if _get_running_loop() is not None and driving() is None:
        return SUSPENDED
    driver.cancel_wait = cancel_wait
    begin(driver)
    # The context that told us of the driver is inherited by what its coroutine begins. Twisted's
    # trampoline sends back what is no Deferred; and asyncio's tasks were ruled out above.
    told = yield SUSPENDED
    if told is SUSPENDED:
        driver.cancel_wait = None
        cancel_wait()
    return told


DRIVERS: Final = frozenset(
    {
        Driver.resume.__code__,
        getattr(defer, "_inlineCallbacks").__code__,  # noqa: B009 - private
    }
)
"""The code of those who drive coroutines that may wait for Deferreds."""


def driving() -> Driver | None:
    """Return the `Driver` right behind the coroutine that calls; None when another drives it."""
    driver = _current.get(None)
    if driver is None:
        return None
    # The context is inherited by what the coroutine begins; the frames are not.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code in DRIVERS:
            return driver if code is Driver.resume.__code__ else None
        frame = frame.f_back
    return None
