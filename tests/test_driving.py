"""Coroutines driven by `Driver`: what they may wait for, and how they are cancelled."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest
from twisted.internet import defer
from twisted.python.failure import Failure

from wsframe.awaiting import run
from wsframe.driving import SUSPENDED, Driver, driving, suspended


class Odd:
    """Yields what no driver knows."""

    def __await__(self) -> Any:
        yield self


def driven(coroutine: Any) -> tuple[Driver, list[Any]]:
    ended: list[Any] = []
    driver = Driver(coroutine, ended.append)
    driver.resume(None)
    return driver, ended


async def wait() -> Any:
    return await suspended(lambda: None, lambda driver: None)


def test_a_wait_is_resumed_with_what_it_is_told() -> None:
    async def twice() -> Any:
        return [await wait(), await wait()]

    driver, ended = driven(twice())
    driver.resume(1)
    assert ended == []
    driver.resume(2)
    assert ended == [[1, 2]]


def test_a_wait_fails_with_what_it_is_told() -> None:
    async def fails() -> Any:
        with pytest.raises(ZeroDivisionError):
            await wait()
        return "caught"

    driver, ended = driven(fails())
    driver.errback(Failure(ZeroDivisionError()))
    assert ended == ["caught"]


def test_deferreds_are_waited_for() -> None:
    """That have fired, that fire later, and that fired and are paused."""
    later: defer.Deferred[int] = defer.Deferred()
    paused = defer.succeed(3)
    paused.pause()

    async def three() -> Any:
        return [await defer.succeed(1), await later, await paused]

    _, ended = driven(three())
    later.callback(2)
    assert ended == []
    paused.unpause()
    assert ended == [[1, 2, 3]]


def test_what_ends_the_coroutine_is_told() -> None:
    async def raises() -> None:
        raise KeyboardInterrupt

    _, (failure,) = driven(raises())
    failure.trap(KeyboardInterrupt)


def test_what_is_no_deferred_is_refused() -> None:
    """Where it is awaited, so that the coroutine can say where that was."""

    async def awaits() -> Any:
        with pytest.raises(TypeError, match="awaits Odd"):
            await Odd()
        return "caught"

    assert driven(awaits())[1] == ["caught"]


def test_only_the_driver_right_behind_is_told() -> None:
    found: list[Any] = []

    async def inner() -> None:
        found.append(driving())

    async def outer() -> None:
        found.append(driving())
        await defer.ensureDeferred(inner())  # Twisted's trampoline, in a copy of our context
        await run(inner)
        await inner()

    driver, _ = driven(outer())
    assert driving() is None
    own, twisted, nested, direct = found
    assert own is direct is driver
    assert twisted is None
    assert nested not in (None, driver)


def test_a_wait_that_another_drives_is_told_so() -> None:
    """By Twisted's trampoline, begun by the coroutine and outliving its step; or by nobody's."""
    told: list[Any] = []
    begun: list[Any] = []
    forgotten: list[None] = []
    later: defer.Deferred[None] = defer.Deferred()

    async def other() -> None:
        told.append(await suspended(lambda: forgotten.append(None), begun.append))
        await later
        told.append(await suspended(lambda: forgotten.append(None), begun.append))

    async def outer() -> Any:
        defer.ensureDeferred(other())
        return await wait()

    driver, ended = driven(outer())
    assert told == [SUSPENDED]
    assert (begun, forgotten) == ([driver], [None])  # taken back, as soon as it was known
    cancel_wait = driver.cancel_wait
    later.callback(None)
    assert told == [SUSPENDED] * 2
    assert driver.cancel_wait is cancel_wait is not None
    driver.resume("done")
    assert ended == ["done"]
    defer.ensureDeferred(other())
    assert told[2:] == [SUSPENDED] * 2


def test_cancelling_ends_a_suspended_wait() -> None:
    cancelled: list[str] = []

    async def waits() -> Any:
        with pytest.raises(defer.CancelledError):
            await suspended(lambda: cancelled.append("cancelled"), lambda driver: None)
        return "caught"

    driver, ended = driven(waits())
    driver.cancel()
    assert cancelled == ["cancelled"]
    assert ended == ["caught"]


def test_cancelling_ends_the_wait_for_a_deferred() -> None:
    waiting: defer.Deferred[None] = defer.Deferred()
    driver, (ended) = driven(_awaiting(waiting))
    driver.cancel()
    assert waiting.called
    ended[0].trap(defer.CancelledError)


async def _awaiting(deferred: Any) -> Any:
    return await deferred


@pytest.mark.parametrize("kind", ["suspended", "deferred"])
def test_cancelling_a_running_coroutine_ends_its_next_wait(kind: str) -> None:
    async def cancels_itself() -> Any:
        driver = driving()
        assert driver is not None
        driver.cancel()
        with pytest.raises(defer.CancelledError):
            await (wait() if kind == "suspended" else defer.Deferred())
        return "caught"

    assert driven(cancels_itself())[1] == ["caught"]


def test_the_context_is_kept_from_wait_to_wait() -> None:
    """And nobody else sees what the coroutine sets."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    async def sets() -> Any:
        variable.set("inside")
        await wait()
        return variable.get()

    driver, ended = driven(sets())
    assert variable.get() == "outside"
    driver.resume(None)
    assert ended == ["inside"]


def test_many_waits_that_are_over_need_no_stack() -> None:
    async def many() -> int:
        for _ in range(5000):
            paused = defer.succeed(None)
            paused.pause()
            paused.unpause()
            await paused
        return 5000

    assert driven(many())[1] == [5000]
