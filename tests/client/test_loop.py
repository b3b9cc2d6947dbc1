"""The loop over connections: closed, waited and opened again, and nothing behind its back."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from integration.clients import QUIET, RETRIES
from integration.peers import free_port
from integration.raw import RawServer, Stepped, accept_raw, close_frame, eventually, turns, within
from twisted.internet import defer

from wsframe.client import Reconnecting, reconnecting
from wsframe.connection import Connection, State
from wsframe.errors import (
    ConnectionClosed,
    HandshakeRefused,
    HookTimeout,
    InvalidURI,
    OpenCancelled,
    OpenError,
    TCPConnectFailed,
)


class Loop:
    """A loop on a clock that stands still; `body` is called with each connection."""

    def __init__(self, port: int, body: Any, **arguments: Any) -> None:
        self.clock = Stepped()
        self.connections: list[Connection] = []
        self.over = reconnecting(
            arguments.pop("uri", f"ws://127.0.0.1:{port}/"),
            **{
                "retry": RETRIES,
                "options": QUIET,
                "reactor": self.clock,
                **arguments,
            },
        )
        self._body = body
        self.running = defer.ensureDeferred(self._run())

    async def _run(self) -> None:
        async for connection in self.over:
            self.connections.append(connection)
            if await self._body(connection) == "break":
                break

    async def until(self, condition: Any) -> None:
        """Go round, and let what waits wait for no time."""

        def look() -> object:
            if not condition():
                self.clock.advance(0)
            return condition()

        await eventually(look)

    async def until_waiting(self) -> float:
        await self.until(self.waits)
        (call,) = self.waits()
        return float(call.getTime() - self.clock.seconds())

    def waits(self) -> list[Any]:
        calls = self.clock.getDelayedCalls()
        return [call for call in calls if "callback" in str(call.func)]


async def read_all(connection: Connection) -> None:
    async for _ in connection:
        pass


@pytest_twisted.ensureDeferred
async def test_one_connection_comes_after_the_other_with_growing_waits() -> None:
    async with RawServer() as server:
        loop = Loop(server.port, read_all)
        waits = []
        for _ in range(3):
            raw = await accept_raw(server)
            raw.write(close_frame(1001, masked=False))
            await raw.read_close()
            raw.finish()
            waits.append(await loop.until_waiting())
            self_draw = loop.clock
            self_draw.advance(waits[-1])
        raw = await accept_raw(server)
        await loop.until(lambda: len(loop.connections) == 4)
        assert all(0 <= wait <= largest for wait, largest in zip(waits, (1, 2, 4), strict=True))
        assert isinstance(loop.over.last_failure, ConnectionClosed)
        loop.running.cancel()
        with pytest.raises(defer.CancelledError):
            await loop.running
        loop.connections[-1].abort()
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_connection_that_the_body_leaves_open_is_closed_first() -> None:
    async def leave(connection: Connection) -> None:
        await connection.send("only this")

    async with RawServer() as server:
        loop = Loop(server.port, leave)
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"only this")
        assert await raw.read_close() == (1000, "")
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await loop.until_waiting()
        assert loop.connections[0].state is State.CLOSED
        loop.running.cancel()
        with pytest.raises(defer.CancelledError):
            await loop.running


@pytest_twisted.ensureDeferred
async def test_after_a_break_there_is_the_connection_and_nothing_else() -> None:
    async def once(connection: Connection) -> str:
        return "break"

    async with RawServer() as server:
        loop = Loop(server.port, once)
        raw = await accept_raw(server)
        await loop.until(lambda: loop.running.called)
        assert loop.clock.getDelayedCalls() == []
        assert loop.connections[0].state is State.OPEN
        closing = loop.over.close()
        assert await raw.read_close() == (1000, "")
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await within(closing)
        loop.clock.advance(0)
        await turns(2)
        assert loop.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_block_closes_the_last_connection() -> None:
    async with RawServer() as server:

        async def main() -> Connection:
            uri = f"ws://127.0.0.1:{server.port}/"
            async with reconnecting(uri, options=QUIET) as connections:
                async for connection in connections:
                    return connection
            raise AssertionError

        running = defer.ensureDeferred(main())
        raw = await accept_raw(server)
        await raw.read_close()
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        assert (await within(running)).state is State.CLOSED


@pytest_twisted.ensureDeferred
async def test_loop_ends_with_what_the_policy_gives_up_for() -> None:
    async def refuse(raw: Any) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        raw.finish()

    async with RawServer(refuse) as server:
        loop = Loop(server.port, read_all)
        with pytest.raises(HandshakeRefused) as caught:
            await within(loop.running)
        assert caught.value.status == 403
        assert loop.over.last_failure is caught.value
        assert loop.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_failed_attempts_are_waited_out() -> None:
    loop = Loop(free_port(), read_all)
    for _ in range(3):
        loop.clock.advance(await loop.until_waiting())
    assert isinstance(loop.over.last_failure, TCPConnectFailed)
    await loop.until_waiting()
    loop.running.cancel()
    with pytest.raises(defer.CancelledError):
        await loop.running
    assert loop.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_cancelled_while_it_opens_it_ends_and_leaves_nothing() -> None:
    async with RawServer() as server:
        loop = Loop(server.port, read_all)
        raw = await server.accepted()
        await raw.read_head()
        loop.running.cancel()
        with pytest.raises(OpenCancelled):
            await within(loop.running)
        await within(raw.ended())
        assert loop.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_hook_before_an_attempt_is_told_and_asked() -> None:
    attempts: list[Any] = []

    async def refresh(attempt: Any) -> Any:
        attempts.append(attempt)
        return {"headers": {"X-Attempt": str(attempt.number)}}

    async with RawServer() as server:
        loop = Loop(server.port, read_all, before_attempt=refresh)
        raw = await server.accepted()
        assert "X-Attempt: 1\r\n" in await raw.read_head()
        await raw.drop()
        loop.clock.advance(await loop.until_waiting())
        raw = await server.accepted()
        assert "X-Attempt: 2\r\n" in await raw.read_head()
        assert isinstance(attempts[1].failure, OpenError)
        loop.running.cancel()
        with pytest.raises(OpenCancelled):
            await within(loop.running)


@pytest_twisted.ensureDeferred
async def test_hook_that_hangs_is_a_failed_attempt() -> None:
    loop = Loop(free_port(), read_all, before_attempt=lambda _: defer.Deferred(), hook_timeout=5)
    loop.clock.advance(5)
    await loop.until_waiting()
    assert isinstance(loop.over.last_failure, HookTimeout)
    loop.running.cancel()
    with pytest.raises(defer.CancelledError):
        await loop.running
    assert loop.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"uri": "http://x/"}, InvalidURI),
        ({"uri": "ws://x/", "header": {}}, TypeError),
        ({"uri": "ws://x/", "retry": 5}, TypeError),
    ],
)
def test_what_is_wrong_is_said_when_it_is_made(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        reconnecting(**arguments)


@pytest_twisted.ensureDeferred
async def test_closing_what_was_never_open_is_nothing() -> None:
    over = reconnecting("ws://127.0.0.1/")
    assert isinstance(over, Reconnecting)
    await over.close()
