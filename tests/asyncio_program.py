"""A program on the asyncio reactor: checks of `Awaitable` under both kinds of driver.

Started by test_awaiting.py. It runs every `check_…` below and prints, as JSON, for each name None
or the traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet import asyncioreactor

loop = asyncio.new_event_loop()
asyncioreactor.install(loop)

from twisted.internet import reactor  # noqa: E402 - after the installation
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred  # noqa: E402
from twisted.internet.protocol import Factory, Protocol  # noqa: E402
from twisted.internet.task import deferLater  # noqa: E402

from wsframe import ConnectionClosedOK, OpenCancelled, ReceiveTimeout, connect, serve  # noqa: E402
from wsframe.awaiting import Awaitable, failed, fired, run  # noqa: E402

that: Any = reactor


def soon(value: object = "value", seconds: float = 0.01) -> Awaitable[Any]:
    result: Awaitable[Any] = Awaitable(lambda _: call.cancel())
    call = that.callLater(seconds, result.callback, value)
    return result


@contextmanager
def raises(kind: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def twisted_coroutine() -> Any:
    first = await soon("twisted")
    await deferLater(that, 0.001, lambda: None)  # a plain Deferred: only Twisted can drive this
    return first


# ---------------------------------------------------------------- who drives


async def check_awaiting_in_an_asyncio_task() -> None:
    assert await soon() == "value"
    assert await fired("there") == "there"
    await asyncio.sleep(0)  # this is a task indeed


async def check_a_failure_in_an_asyncio_task() -> None:
    with raises(ZeroDivisionError):
        await failed(ZeroDivisionError())
    late: Awaitable[None] = Awaitable()
    that.callLater(0.01, late.errback, ZeroDivisionError())
    with raises(ZeroDivisionError):
        await late


async def check_awaiting_in_a_twisted_coroutine() -> None:
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    that.callLater(0, lambda: ensureDeferred(twisted_coroutine()).addCallback(done.set_result))
    assert await done == "twisted"


async def check_a_twisted_coroutine_started_in_an_asyncio_task() -> None:
    deferred = ensureDeferred(twisted_coroutine())
    assert await deferred.asFuture(asyncio.get_running_loop()) == "twisted"


async def check_an_asyncio_task_inside_a_twisted_coroutine() -> None:
    async def inner() -> Any:
        await asyncio.sleep(0)
        return await soon("inner")

    async def outer() -> Any:
        await soon()
        return await Deferred.fromFuture(asyncio.ensure_future(inner()))

    outcome = run(outer)
    assert await outcome == "inner"


async def check_nested_coroutines_of_an_asyncio_task() -> None:
    async def inner() -> Any:
        return await soon("deep")

    async def middle() -> Any:
        return [await inner() async for _ in numbers()]

    async def numbers() -> Any:
        yield await soon(1)
        yield await soon(2)

    assert await middle() == ["deep", "deep"]


async def check_gather_and_wait_for() -> None:
    assert await asyncio.gather(soon(1), soon(2), twisted_in_task(3)) == [1, 2, 3]
    assert await asyncio.wait_for(soon(4), 5) == 4


async def twisted_in_task(value: object) -> Any:
    return await run(lambda: soon(value))


# ---------------------------------------------------------------- cancelling


async def check_cancelling_the_task_cancels_the_deferred_at_once() -> None:
    cancelled: list[Any] = []
    waiting: Awaitable[None] = Awaitable(cancelled.append)

    async def wait() -> None:
        await waiting

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    assert cancelled == [waiting]  # not in the next turn: what arrives until then would be lost
    with raises(asyncio.CancelledError):
        await task


async def check_cancelling_the_deferred_fails_the_await() -> None:
    waiting: Awaitable[None] = Awaitable()
    that.callLater(0.01, waiting.cancel)
    with raises(CancelledError):
        await waiting


async def check_cancelling_run_reaches_the_innermost_wait() -> None:
    seen: list[str] = []
    innermost: Awaitable[None] = Awaitable(lambda _: seen.append("deferred"))

    async def inner() -> None:
        await innermost

    async def outer() -> None:
        try:
            await inner()
        finally:
            seen.append("coroutine")

    running = run(outer)
    running.cancel()
    assert seen == ["deferred", "coroutine"]
    with raises(CancelledError):
        await running


async def check_cancelling_run_reaches_an_asyncio_task() -> None:
    seen: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("task")
            raise

    running = run(lambda: asyncio.ensure_future(inner()))
    await asyncio.sleep(0)
    running.cancel()
    with raises(CancelledError):
        await running
    await asyncio.sleep(0)
    assert seen == ["task"]


async def check_a_task_that_was_cancelled_fails_run_as_twisted_says_it() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    running = run(lambda: task)
    await asyncio.sleep(0)
    task.cancel()
    with raises(CancelledError):
        await running


async def check_asyncio_timeout() -> None:
    cancelled: list[Any] = []
    with raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Awaitable(cancelled.append)
    assert len(cancelled) == 1
    async with asyncio.timeout(5):
        assert await soon() == "value"


async def check_task_group() -> None:
    cancelled: list[Any] = []

    async def fail_soon() -> None:
        await soon()
        raise ZeroDivisionError

    async def wait() -> None:
        await Awaitable(cancelled.append)

    with raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail_soon())
    assert len(cancelled) == 1


async def check_a_result_that_a_cancelled_task_never_saw_is_handed_back() -> None:
    given_back: list[Any] = []
    waiting: Awaitable[str] = Awaitable()
    waiting.untaken = given_back.append

    async def wait() -> None:
        await waiting

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.callback("precious")
    task.cancel()
    with raises(asyncio.CancelledError):
        await task
    assert given_back == ["precious"]


async def check_a_result_that_itself_cancelled_the_task_is_handed_back() -> None:
    given_back: list[Any] = []
    waiting: Awaitable[str] = Awaitable()
    waiting.untaken = given_back.append
    waiting.addCallback(lambda result: (task.cancel(), result)[1])

    async def wait() -> None:
        await waiting

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.callback("precious")
    with raises(asyncio.CancelledError):
        await task
    assert given_back == ["precious"]


async def check_a_result_that_was_seen_is_not_handed_back() -> None:
    given_back: list[Any] = []
    waiting = soon()
    waiting.untaken = given_back.append
    assert await waiting == "value"
    assert given_back == []


# ---------------------------------------------------------------- wsframe from asyncio


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


def echo_in_a_task(connection: Any) -> Any:
    async def echo_slowly() -> None:
        async for message in connection:
            await asyncio.sleep(0)
            await connection.send(message)

    return asyncio.ensure_future(echo_slowly())


LISTEN = "tcp:0:interface=127.0.0.1"


async def check_client_and_server_entirely_from_asyncio() -> None:
    for handler in (echo, echo_in_a_task):
        async with serve(handler, LISTEN) as server:
            uri = f"ws://127.0.0.1:{server.addresses[0].port}"
            async with connect(uri) as connection:
                await connection.send("one")
                assert await connection.recv() == "one"
                await asyncio.gather(*(connection.send(str(i)) for i in range(10)))
                assert [await connection.recv() for _ in range(10)] == [str(i) for i in range(10)]
                assert await connection.ping() > 0
            assert connection.close_code == 1000


async def check_iterating_ends_with_the_connection() -> None:
    async def greet(connection: Any) -> None:
        for word in ("a", "b", "c"):
            await connection.send(word)

    async with serve(greet, LISTEN) as server:
        connection = await connect(f"ws://127.0.0.1:{server.addresses[0].port}")
        assert [message async for message in connection] == ["a", "b", "c"]
        with raises(ConnectionClosedOK):
            await connection.recv()
        await connection.close()


async def check_a_cancelled_recv_loses_no_message() -> None:
    async with serve(echo, LISTEN) as server:
        uri = f"ws://127.0.0.1:{server.addresses[0].port}"
        async with connect(uri) as connection:
            with raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connection.recv()
            with raises(ReceiveTimeout):
                await connection.recv(timeout=0.01)

            async def receive() -> Any:
                return await connection.recv()

            task = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            connection.messages_received([b"first"], 5)
            connection.deliver()  # the task's future has its result, but the task has not run
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            await connection.send(b"second")
            assert await connection.recv() == b"first"
            assert await connection.recv() == b"second"


async def check_a_recv_is_cancelled_when_the_handler_has_left_its_message() -> None:
    async with serve(echo, LISTEN) as server:
        uri = f"ws://127.0.0.1:{server.addresses[0].port}"
        async with connect(uri) as connection:

            async def receive() -> Any:
                return await connection.recv()

            task = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            connection.messages_received([b"first"], 5)
            connection.deliver()  # the task's future has its result, but the task has not run
            connection.close()
            connection.drop_messages()
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            with raises(ConnectionClosedOK):
                await connection.recv()


async def check_a_twisted_coroutine_that_awaits_a_future_is_told_the_way() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(0.01)

    (error,) = await asyncio.gather(run(sleeps), return_exceptions=True)
    assert isinstance(error, TypeError), error
    assert "awaits Future" in str(error), error
    assert "give it as lambda connection: asyncio.ensure_future(" in str(error), error
    assert "under the asyncio reactor" not in str(error), "it is"


async def check_a_connection_attempt_is_cancelled_with_its_task() -> None:
    silent = that.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")

    async def attempt() -> None:
        await connect(f"ws://127.0.0.1:{silent.getHost().port}")

    task = asyncio.ensure_future(attempt())
    await asyncio.sleep(0.05)
    task.cancel()
    with raises(asyncio.CancelledError):
        await task
    pending = connect(f"ws://127.0.0.1:{silent.getHost().port}")
    that.callLater(0.02, pending.cancel)
    with raises(OpenCancelled):
        await pending
    silent.stopListening()


async def check_two_tasks_on_one_connection() -> None:
    async with serve(echo, LISTEN) as server:
        uri = f"ws://127.0.0.1:{server.addresses[0].port}"
        async with connect(uri) as connection:
            received: list[Any] = []

            async def receive() -> None:
                async for message in connection:
                    received.append(message)
                    if len(received) == 100:
                        return

            async def send() -> None:
                for i in range(100):
                    await connection.send(str(i))

            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(receive())
                group.create_task(send())
            assert received == [str(i) for i in range(100)]


async def main() -> None:
    results: dict[str, str | None] = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                async with asyncio.timeout(15):
                    # In a task of its own: the TaskGroup of Python 3.11.2 leaves its parent marked
                    # as being cancelled, and then `asyncio.timeout` raises no TimeoutError.
                    await asyncio.create_task(check())
                results[name] = None
            except BaseException:  # noqa: BLE001 - reported
                results[name] = traceback.format_exc()
    await asyncio.sleep(0.05)
    results["delayed calls"] = repr(that.getDelayedCalls()) if that.getDelayedCalls() else None
    print(json.dumps(results))
    that.stop()


if __name__ == "__main__":
    loop.set_debug("--debug" in sys.argv)
    running = [loop.create_task(main())]
    that.run()
