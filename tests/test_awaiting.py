"""Awaitables under Twisted's driver here, and under asyncio's in a program of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, inlineCallbacks
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, failed, fired, quiet_errback, relay, run

PROGRAM = Path(__file__).with_name("asyncio_program.py")
CHECKS = re.findall(r"^async def (check_\w+)", PROGRAM.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    """Run the program once; give what became of each check."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), "--debug"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "never" not in done.stderr, done.stderr  # awaited, retrieved
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("check", [*CHECKS, "delayed calls"])
def test_on_the_asyncio_reactor(results: dict[str, str | None], check: str) -> None:
    assert results[check] is None, results[check]


# ------------------------------------------------------------------------------------- Twisted only


def result_of(deferred: Deferred[Any]) -> Any:
    """Return the result that a Deferred has; raise its failure."""
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    assert outcome, "it has no result yet"
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


def test_a_twisted_coroutine_awaits() -> None:
    waiting: Awaitable[str] = Awaitable()

    async def wait() -> str:
        return await waiting

    deferred = ensureDeferred(wait())
    waiting.callback("done")

    assert result_of(deferred) == "done"


def test_inline_callbacks_wait_too() -> None:
    waiting: Awaitable[str] = Awaitable()

    @inlineCallbacks
    def wait() -> Any:
        return (yield waiting)

    deferred = wait()
    waiting.callback("done")

    assert result_of(deferred) == "done"


def test_fired_and_failed() -> None:
    async def wait(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    assert result_of(ensureDeferred(wait(fired(5)))) == 5
    with pytest.raises(ZeroDivisionError):
        result_of(ensureDeferred(wait(failed(ZeroDivisionError()))))


def test_callbacks_and_awaiting_go_together() -> None:
    waiting: Awaitable[int] = Awaitable()
    waiting.addCallback(lambda value: value + 1)

    async def wait() -> int:
        return await waiting

    deferred = ensureDeferred(wait())
    waiting.callback(1)

    assert result_of(deferred) == 2


# --------------------------------------------------------------------------------------------- run


class ByHand:
    """An awaitable that is neither a coroutine nor a Deferred."""

    def __init__(self, wait: Awaitable[Any]) -> None:
        self.wait = wait

    def __await__(self) -> Any:
        return self.wait.__await__()


async def coroutine(value: object) -> object:
    return await fired(value)


def iter_to(value: object) -> Any:
    result = yield fired(value)
    return result


CALLABLES = [
    pytest.param(lambda value: value, id="function"),
    pytest.param(coroutine, id="coroutine function"),
    pytest.param(partial(coroutine), id="function that returns a coroutine"),
    pytest.param(fired, id="function that returns a Deferred"),
    pytest.param(lambda value: ByHand(fired(value)), id="function that returns an awaitable"),
    pytest.param(inlineCallbacks(iter_to), id="inlineCallbacks"),
    pytest.param(type("Object", (), {"__call__": lambda self, v: coroutine(v)})(), id="object"),
]


@pytest.mark.parametrize("function", CALLABLES)
def test_run_gives_the_final_result(function: Callable[..., object]) -> None:
    assert result_of(run(function, "value")) == "value"


def broken(*_: object) -> None:
    raise ZeroDivisionError


async def broken_later() -> None:
    await fired(None)
    raise ZeroDivisionError


def broken_deferred() -> Deferred[None]:
    return Deferred.fromCoroutine(broken_later())


@pytest.mark.parametrize(
    "function", [broken, broken_later, lambda: failed(ZeroDivisionError()), broken_deferred]
)
def test_run_fails_with_what_was_raised(function: Callable[..., object]) -> None:
    with pytest.raises(ZeroDivisionError):
        result_of(run(function))


def test_run_of_a_future() -> None:
    loop = asyncio.new_event_loop()
    try:
        future: asyncio.Future[str] = loop.create_future()
        running = run(lambda: future)
        future.set_result("done")
        loop.run_until_complete(asyncio.sleep(0))
        assert result_of(running) == "done"
    finally:
        loop.close()


def test_cancelling_reaches_the_innermost_wait() -> None:
    cancelled: list[Any] = []
    waiting: Awaitable[None] = Awaitable(cancelled.append)

    async def inner() -> None:
        await waiting

    async def outer() -> None:
        await run(inner)

    running = run(outer)
    running.cancel()

    assert cancelled == [waiting]
    with pytest.raises(CancelledError):
        result_of(running)


def test_who_ignores_the_cancellation_finishes_for_nobody() -> None:
    wait: Deferred[None] = Deferred()
    finished: list[int] = []

    async def stubborn() -> None:
        try:
            await Deferred()
        except CancelledError:
            await wait
            finished.append(1)
            raise ZeroDivisionError from None

    running = run(stubborn)
    running.cancel()
    with pytest.raises(CancelledError):
        result_of(running)
    wait.callback(None)

    assert finished == [1]  # and its error is nobody's either


def test_relay_does_not_mind_a_target_that_was_cancelled() -> None:
    source: Deferred[int] = Deferred()
    target: Awaitable[int] = Awaitable()
    relay(source, target)
    target.cancel()
    source.callback(1)

    with pytest.raises(CancelledError):
        result_of(target)


def test_a_failure_is_raised_by_each_await_of_it_and_logged_by_none() -> None:
    """Nor does its traceback keep what it is the traceback of."""

    async def awaits(times: int) -> int:
        deferred = failed(ZeroDivisionError("planted"))
        raised = 0
        for _ in range(times):
            try:
                await deferred
            except ZeroDivisionError:
                raised += 1
        return raised

    assert result_of(run(awaits, 2)) == 2


def test_a_coroutine_that_raised_is_freed_with_what_it_had() -> None:
    class Thing:
        pass

    things: list[ref[Thing]] = []

    async def raises() -> None:
        thing = Thing()
        things.append(ref(thing))
        await failed(ZeroDivisionError("planted"))

    gc.collect()
    gc.disable()
    try:
        run(raises).addErrback(lambda failure: failure.trap(ZeroDivisionError) and None)
        assert [thing() for thing in things] == [None]
    finally:
        gc.enable()


# --------------------------------------------------------------------------------- quiet_errback


@pytest.mark.parametrize("listening", [False, True])
def test_a_failure_nobody_listens_to_is_not_logged(
    listening: bool, logged: Callable[[], str]
) -> None:
    deferred: Deferred[None] = Deferred()
    heard: list[Any] = []
    if listening:
        deferred.addErrback(heard.append)

    quiet_errback(deferred, Failure(ZeroDivisionError()))
    del deferred
    gc.collect()

    assert logged() == ""
    assert len(heard) == int(listening)


def test_a_late_listener_still_hears_the_failure() -> None:
    deferred: Deferred[None] = Deferred()
    quiet_errback(deferred, Failure(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        result_of(deferred)


# --------------------------------------------------------------------------------- a foreign loop


FOREIGN = """
import asyncio
from wsframe import connect

async def main():
    try:
        await connect("ws://127.0.0.1:9")
    except RuntimeError as error:
        print("asyncioreactor.install" in str(error))

asyncio.run(main())
"""


def test_a_loop_that_is_not_the_reactors_is_an_error_and_not_a_wait_for_ever() -> None:
    """What a program that knows asyncio alone does first."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_what_a_coroutine_returns_is_awaited_too() -> None:
    """As where one check hands on to another: `async def check(request): return auth(request)`."""
    inner: Deferred[str] = Deferred()

    async def outer() -> Deferred[str]:
        return inner

    outcome = run(outer)
    assert not outcome.called
    inner.callback("the answer")
    assert result_of(outcome) == "the answer"
