"""Deferreds that can be awaited from Twisted coroutines and from asyncio tasks alike.

A plain Deferred cannot be awaited in an asyncio task: the task gets an object that it does not
know. `Awaitable` looks who is driving the coroutine that awaits it, and gives an asyncio task a
future. Both kinds of coroutine may run under the asyncio reactor, even one inside the other.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable as AwaitableABC
from collections.abc import Callable, Coroutine, Generator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

from twisted.internet import defer
from twisted.python.failure import Failure

from wsframe.driving import DRIVERS, Driver

__all__ = [
    "AsyncOnly",
    "Awaitable",
    "failed",
    "fired",
    "not_awaited",
    "quiet_errback",
    "relay",
    "run",
    "start",
]

T = TypeVar("T")


def _driving_task() -> asyncio.Task[Any] | None:
    """Return the asyncio task that drives the running coroutine, None when Twisted does.

    The frames from here outwards are those of the coroutines that await each other, and then the
    driver's: either Twisted's trampoline, or the frame of the task's own coroutine is met first.
    """
    if asyncio._get_running_loop() is None:
        return None
    task = asyncio.current_task()
    if task is None:
        return None
    outermost = getattr(task.get_coro(), "cr_frame", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame is outermost:
            return task
        if frame.f_code in DRIVERS:
            return None
        frame = frame.f_back
    return task


_NOTHING: Final[Generator[Any, None, Any]] = iter(())  # type: ignore[assignment]
"""What an await of it gives is None, at once."""


class Awaitable(defer.Deferred[T]):
    """A Deferred that an asyncio task may await, too.

    Cancelling that task cancels the Deferred. In all else it is a Deferred.
    """

    untaken: Callable[[T], object] | None = None
    """Given the result when it came just before the task that waits for it was cancelled: such a
    task never sees it (a Twisted coroutine, which goes on at once, always does)."""

    def __await__(self) -> Generator[Any, None, T]:
        if self.called and not self.paused:
            if self.result is None:  # as from `send`, for every message
                return _NOTHING
            if isinstance(self.result, Failure):
                return _raise(self)
        elif _driving_task() is not None:
            return self._wait_in_task()
        return self.__iter__()

    def _wait_in_task(self) -> Generator[Any, None, T]:
        _check_loop()
        future = _Future(self)
        self.addCallbacks(future.succeed, future.fail)
        try:
            return (yield from future)
        except asyncio.CancelledError:
            if self.untaken is not None and future.succeeded:
                self.untaken(future.result())
            raise


def _raise(failed: Awaitable[Any]) -> Generator[Any, None, Any]:
    """Raise what a Deferred has failed with, as an await of it does.

    The traceback refers to this frame and not to Twisted's, which would refer to the exception.
    """
    failure = cast(Failure, failed.result)
    _seen(failed)
    try:
        yield from ()
        raise cast(BaseException, failure.value).with_traceback(failure.tb)
    finally:
        del failed, failure


def _check_loop() -> None:
    """Refuse to wait in an asyncio loop that is not the reactor's: nothing would ever happen."""
    from twisted.internet import reactor

    if getattr(reactor, "_asyncioEventloop", None) is not asyncio.get_running_loop():
        raise RuntimeError(
            "the reactor does not run in this asyncio loop; before anything of Twisted is used, "
            "call twisted.internet.asyncioreactor.install(asyncio.get_running_loop())"
        )


class AsyncOnly:
    """Mixed in where `async with` is meant, so that `with` says so."""

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker is to find that by itself

        def __enter__(self) -> NoReturn:
            raise TypeError(f"{type(self).__name__} is used with `async with`, not with `with`")

        def __exit__(self, *exc_info: object) -> None:
            """Never called."""


def not_awaited(maker: str, made: type, asked: object, name: str) -> AttributeError:
    """Return the error for an attribute that an `Awaitable` has not, but what it fires with has."""
    text = f"{type(asked).__name__!r} object has no attribute {name!r}"
    if not name.startswith("_") and hasattr(made, name):
        kind = made.__name__
        text += f"; {maker}() has still to be awaited for the {kind}, or opened with `async with`"
    return AttributeError(text, name=name, obj=asked)


class _Future(asyncio.Future[T]):
    """What an asyncio task waits on. Cancelling it cancels the Deferred at once.

    That of `Deferred.asFuture` does so in the loop's next turn; what arrives before is lost.
    """

    succeeded = False

    def __init__(self, deferred: Awaitable[T]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._deferred = deferred

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._deferred.cancel()
        return cancelled

    def succeed(self, result: T) -> None:
        if not self.done():
            self.succeeded = True
            self.set_result(result)
        elif self._deferred.untaken is not None:
            self._deferred.untaken(result)  # the task was cancelled by what came before us

    def fail(self, failure: Failure) -> None:
        if not self.done():
            self.set_exception(cast(BaseException, failure.value))


def fired(value: T) -> Awaitable[T]:
    """Return an `Awaitable` that already has a result."""
    # What `callback` amounts to where nobody has added one yet; every message sent comes by here.
    result: Awaitable[T] = Awaitable()
    result.called = True
    result.result = value
    return result


def failed(error: BaseException) -> Awaitable[Any]:
    """Return an `Awaitable` that already has failed."""
    result: Awaitable[Any] = Awaitable()
    result.errback(Failure(error))
    return result


def run(function: Callable[..., object], *args: object) -> Awaitable[Any]:
    """Call a function that may be a coroutine function, or return a Deferred or other awaitable.

    The Deferred returned fires with the final result, or fails with what was raised. A coroutine
    function is run, never silently dropped. Cancelling reaches the innermost wait.
    """
    result: Awaitable[Any] = Awaitable(lambda _: inner.cancel())
    inner = start(function, *args)
    relay(inner, result)
    return result


def start(function: Callable[..., object], *args: object) -> defer.Deferred[Any]:
    """Call a function as `run` does, for less: no asyncio task may await the Deferred returned."""
    return defer.maybeDeferred(_start, function, args)


def _start(function: Callable[..., object], args: tuple[object, ...]) -> object:
    outcome = function(*args)
    if inspect.iscoroutine(outcome):
        return _drive(outcome)
    if isinstance(outcome, defer.Deferred):
        return outcome
    if asyncio.isfuture(outcome):
        return defer.Deferred.fromFuture(outcome).addErrback(_as_twisted)
    if inspect.isawaitable(outcome):
        return _drive(_await(outcome))
    return outcome


def _as_twisted(failure: Failure) -> Failure:
    """Give asyncio's cancellation, which is no Exception, as Twisted's."""
    if failure.check(asyncio.CancelledError):
        return Failure(defer.CancelledError())
    return failure


def _drive(coroutine: Coroutine[Any, Any, object]) -> Awaitable[Any]:
    """Run a coroutine, and what it returns, too, when that is yet to come."""
    running: list[Any] = []
    result: Awaitable[Any] = Awaitable(lambda _: running[-1].cancel())

    def ended(outcome: object) -> None:
        if inspect.isawaitable(outcome) and not result.called:
            running.append(run(lambda: outcome))
            relay(running[-1], result)
        else:
            _pass_on(outcome, result)

    running.append(Driver(coroutine, ended))
    running[0].resume(None)
    return result


async def _await(awaitable: AwaitableABC[T]) -> T:
    return await awaitable


def relay(source: defer.Deferred[Any], target: defer.Deferred[Any]) -> None:
    """Give the result or failure of one Deferred to another, unless that was cancelled before."""
    source.addBoth(_pass_on, target)


def _pass_on(outcome: object, target: defer.Deferred[Any]) -> None:
    if not target.called:
        target.callback(outcome)


def quiet_errback(deferred: defer.Deferred[Any], failure: Failure) -> None:
    """Fail a Deferred that nobody may be listening to, without a log entry when nobody is."""
    deferred.errback(failure)
    if getattr(deferred, "result", None) is failure:
        _seen(deferred)


def _seen(failed: defer.Deferred[Any]) -> None:
    """Say that a failure was seen. Twisted's own way is private; it goes so when one is awaited."""
    private: Any = failed
    if private._debugInfo is not None:
        private._debugInfo.failResult = None
