"""A thousand reconnects in every way there is, and nothing of them is left but the count.

`make soak` runs the same for longer.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.clients import ENDLESS, QUIET, Client
from integration.proxies import RecordingProxy
from integration.raw import (
    Raw,
    RawServer,
    Stepped,
    accept_raw,
    close_frame,
    eventually,
    frame,
    turns,
    within,
)
from twisted.internet import defer
from twisted.logger import Logger, LogLevel, globalLogPublisher

from wsframe.client import Attempt, reconnecting
from wsframe.connection import Connection, State
from wsframe.core import events
from wsframe.errors import (
    BadHandshake,
    ConnectionClosed,
    HandshakeRefused,
    OpenError,
    OpenTimeout,
)

ROUNDS = int(os.environ.get("WSFRAME_SOAK_ROUNDS", "1000"))
SLACK = 20
"""Objects of one type by which two looks may differ: those of the last few rounds, whose sockets
may still be ending. In a thousand rounds every way is taken fifty times between the looks."""

BLOCKS = 2000
"""Memory blocks by which two looks may differ, less than 100 KB. What is left of a round has
several."""


_log = Logger(namespace="tests")


class Hook(Exception):
    """What a hook of the test's own raises."""


class Soak:
    """A client that is brought to an end again and again, and what has become of it so far."""

    def __init__(self, server: RawServer, proxy: RecordingProxy | None = None) -> None:
        self.server = server
        self.proxy = proxy
        self.way: Way | None = None
        self.counts: Counter[str] = Counter()
        self.connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.raised = 0
        self.expected: type[Exception] = Exception
        self.last: Exception | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return {"proxies": self.proxy.url} if self.proxy else {}

    def before_attempt(self, _: Attempt) -> None:
        if self.way is hook_raises:
            raise Hook

    def forget(self) -> None:
        """Let go of what the test's own peers remember."""
        self.server.connections.clear()
        if self.proxy is not None:
            for connections in (self.proxy.connections, self.proxy.origins, self.proxy.requests):
                connections.clear()
            self.proxy.seen.clear()
            for failure in self.proxy.errors:
                failure.trap(AssertionError)  # its client went away, as it was to
            self.proxy.errors.clear()
            while self.proxy._queue.pending:
                self.proxy._queue.get()


class ServiceSoak(Soak):
    """With the service."""

    def __init__(self, server: RawServer, proxy: RecordingProxy | None = None) -> None:
        super().__init__(server, proxy)
        self.this = Client(
            server.port,
            self.handle,
            retry=ENDLESS,
            before_attempt=self.before_attempt,
            on_open=self.on_open,
            **self.arguments,
        )
        self.clock = self.this.clock

    async def handle(self, connection: Connection) -> None:
        if self.way is handler_raises:
            raise LookupError("mistake of the application")
        async for _ in connection:
            pass

    async def on_open(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self.way is on_open_raises:
            raise Hook

    def start(self) -> None:
        self.this.service.startService()

    @property
    def is_open(self) -> bool:
        return self.this.service.connection is not None

    async def until_ended(self) -> None:
        """Wait for the end, count what was told of it, and let the next attempt begin."""
        service = self.this.service
        wait = await self.this.until_waiting()
        assert wait <= ENDLESS.max_delay
        failures = [
            event for event in self.this.told if isinstance(event, events.Failed | events.Closed)
        ]
        (failure,) = failures
        error = getattr(failure, "cause", None) or failure.error
        assert isinstance(error, self.expected), error
        assert error is service.last_failure
        assert error is not self.last
        self.last = error
        self.counts.update(self.this.story)
        self.this.told.clear()
        self.this.handled.clear()
        self.clock.advance(wait)

    async def stop(self) -> None:
        await self.this.stop()
        self.counts.update(self.this.story)


class LoopSoak(Soak):
    """With the loop."""

    def __init__(self, server: RawServer, proxy: RecordingProxy | None = None) -> None:
        super().__init__(server, proxy)
        self.clock = Stepped()
        self.over = reconnecting(
            f"ws://127.0.0.1:{server.port}/",
            retry=ENDLESS,
            before_attempt=self.before_attempt,
            options=QUIET,
            reactor=self.clock,
            **self.arguments,
        )
        self.current: weakref.ref[Connection] | None = None
        self.running: defer.Deferred[None] | None = None

    def start(self) -> None:
        self.running = defer.ensureDeferred(self._run())

    async def _run(self) -> None:
        async for connection in self.over:
            self.connections.add(connection)
            self.current = weakref.ref(connection)
            self.counts["Opened"] += 1
            try:
                async for _ in connection:
                    pass
            except ConnectionClosed:
                self.counts["Closed"] += 1
            else:
                self.counts["Closed"] += 1

    @property
    def is_open(self) -> bool:
        connection = self.current() if self.current else None
        return connection is not None and connection.state is State.OPEN

    def _wait(self) -> float | None:
        calls = [call for call in self.clock.getDelayedCalls() if "callback" in str(call.func)]
        return calls[0].getTime() - self.clock.seconds() if calls else None

    async def until_ended(self) -> None:
        def waits() -> bool:
            self.clock.advance(0)
            return self._wait() is not None

        await eventually(waits)
        error = self.over.last_failure
        assert isinstance(error, self.expected), error
        assert error is not self.last
        self.last = error
        self.counts["Failed"] += not isinstance(error, ConnectionClosed)
        self.clock.advance(self._wait())

    async def stop(self) -> None:
        assert self.running is not None
        self.running.addErrback(lambda _: None)
        self.running.cancel()
        await turns(3)
        self.clock.advance(0)


Way = Callable[[Any], Awaitable[object]]
"""What brings one attempt, or one connection, to its end."""


async def accept(soak: Soak) -> Raw:
    raw = await accept_raw(soak.server)

    def is_open() -> bool:
        soak.clock.advance(0)  # type: ignore[attr-defined]
        return soak.is_open  # type: ignore[attr-defined]

    await eventually(is_open)
    return raw


async def answer(soak: Soak, text: bytes) -> None:
    raw = await soak.server.accepted()
    await raw.read_head()
    raw.write(text)
    raw.finish()
    await within(raw.ended())


async def closes(soak: Soak) -> None:
    raw = await accept(soak)
    raw.write(close_frame(1012, "deploy", masked=False))
    await raw.read_close()
    raw.finish()


async def resets(soak: Soak) -> None:
    await (await accept(soak)).drop()


async def ends(soak: Soak) -> None:
    (await accept(soak)).finish()


async def breaks_the_rules(soak: Soak) -> None:
    raw = await accept(soak)
    raw.write(frame(3, b"", masked=False))
    await raw.read_close()
    raw.finish()


async def refuses(soak: Soak) -> None:
    await answer(soak, b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")


async def babbles(soak: Soak) -> None:
    await answer(soak, b"SSH-2.0-x\r\n\r\n")


async def ends_in_the_answer(soak: Soak) -> None:
    await answer(soak, b"HTTP/1.1 101 Switching")


async def hangs(soak: Any) -> None:
    raw = await soak.server.accepted()
    await raw.read_head()
    soak.clock.advance(QUIET.open_timeout)
    await within(raw.ended())


async def hook_raises(soak: Soak) -> None:
    """Nothing reaches the server."""


async def closes_on_its_own(soak: Any) -> None:
    """The client closes."""
    raw = await accept(soak)
    connection = soak.this.service.connection
    connection.close(3001)
    del connection
    assert (await raw.read_close())[0] == 3001
    raw.write(close_frame(3001, masked=False))
    raw.finish()


async def on_open_raises(soak: Soak) -> None:
    raw = await accept_raw(soak.server)
    assert (await raw.read_close())[0] == 1011
    raw.write(close_frame(1011, masked=False))
    raw.finish()


async def handler_raises(soak: Any) -> None:
    raw = await accept_raw(soak.server)
    await soak.this.until(lambda: soak.this.handled)
    assert (await raw.read_close())[0] == 1011
    raw.write(close_frame(1011, masked=False))
    raw.finish()
    soak.raised += 1


async def loses_messages(soak: Any) -> None:
    """Of three that were sent two are answered for by a pong, and one is lost."""
    service = soak.this.service
    for text in ("one", "two"):
        service.send(text)
    raw = await accept(soak)
    assert [(await raw.read_frame())[1] for _ in range(2)] == [b"one", b"two"]
    service.send("three")
    assert await raw.read_frame() == (1, b"three")
    await raw.drop()


async def loses_what_it_has(soak: Any) -> None:
    """The connection is full when it ends; the last message goes out on the next, and is lost."""
    raw = await accept(soak)
    raw.transport.pauseProducing()  # type: ignore[union-attr]
    while soak.this.service.send(bytes(2_000_000)).called:
        pass
    raw.transport.abortConnection()  # type: ignore[union-attr]


WAYS: dict[Way, type[Exception]] = {
    closes: ConnectionClosed,
    resets: ConnectionClosed,
    ends: ConnectionClosed,
    breaks_the_rules: ConnectionClosed,
    refuses: HandshakeRefused,
    babbles: BadHandshake,
    ends_in_the_answer: OpenError,
    hangs: OpenTimeout,
    hook_raises: Hook,
}
SERVICE_WAYS: dict[Way, type[Exception]] = {
    **WAYS,
    closes_on_its_own: ConnectionClosed,
    on_open_raises: Hook,
    handler_raises: ConnectionClosed,
    loses_messages: ConnectionClosed,
    loses_what_it_has: ConnectionClosed,
}
OPENED = {
    closes,
    resets,
    ends,
    breaks_the_rules,
    closes_on_its_own,
    on_open_raises,
    handler_raises,
    loses_messages,
    loses_what_it_has,
}


class Look:
    """What there is, at one moment."""

    def __init__(self) -> None:
        gc.collect()
        self.types = Counter(type(each).__name__ for each in gc.get_objects())
        self.blocks = sys.getallocatedblocks()
        self.files = len(list(Path("/proc/self/fd").iterdir()))

    def check(self, before: Look) -> None:
        """Compare with an earlier look."""
        more = {
            name: (before.types[name], count)
            for name, count in self.types.items()
            if count - before.types[name] > SLACK
        }
        assert more == {}
        assert self.files - before.files <= 2  # a socket or two of the last round
        assert self.blocks - before.blocks < BLOCKS


ROUTES = [("direct", ROUNDS), ("proxy", ROUNDS // 4)]


async def look() -> Look:
    """Look when all has ended that is to end."""
    from twisted.internet import reactor

    # Twisted keeps the last 200 lines, until it is told where to log to, with all they know.
    for _ in range(200):
        _log.info("this line takes the place of another")
    # It keeps calls that were cancelled, with all they know, until there are enough.
    for _ in range(200):
        reactor.callLater(1000, gc.collect).cancel()  # type: ignore[attr-defined]
    await turns(5)
    return Look()


@pytest.fixture
def lines() -> Iterator[Counter[tuple[str, str]]]:
    """Count the lines that wsframe logs, by namespace and level."""
    counts: Counter[tuple[str, str]] = Counter()

    def observe(event: Any) -> None:
        namespace = event["log_namespace"]
        if namespace.startswith("wsframe") and event["log_level"] >= LogLevel.info:
            counts[namespace, event["log_level"].name] += 1

    globalLogPublisher.addObserver(observe)
    yield counts
    globalLogPublisher.removeObserver(observe)


@asynccontextmanager
async def soaking(kind: Any, way: str) -> AsyncIterator[Any]:
    async with RawServer() as server:
        if way == "direct":
            yield kind(server)
            return
        async with RecordingProxy() as proxy:
            yield kind(server, proxy)


async def go_round(soak: Any, ways: dict[Way, type[Exception]], rounds: int) -> Counter[Way]:
    """Go through the rounds; return how often each way was taken."""
    taken: Counter[Way] = Counter()
    order = list(ways)
    before: Look | None = None
    # After the same way as the last round's, whose failure and its traceback are still known.
    first_look = rounds * 3 // 10 // len(order) * len(order) + (rounds - 1) % len(order)
    soak.way = order[0]
    soak.start()
    for number in range(rounds):
        way = soak.way
        soak.expected = ways[way]
        await way(soak)
        taken[way] += 1
        soak.way = order[(number + 1) % len(order)]  # before the attempt begins
        await soak.until_ended()
        soak.forget()
        if number == first_look:
            before = await look()
    assert before is not None
    (await look()).check(before)
    assert len(soak.connections) <= 1  # the last, in the traceback of `last_failure`
    await soak.stop()
    assert soak.clock.getDelayedCalls() == []
    return taken


@pytest.mark.parametrize(("route", "rounds"), ROUTES)
@pytest_twisted.ensureDeferred
async def test_service_leaves_nothing_of_a_thousand_reconnects(
    route: str, rounds: int, lines: Counter[tuple[str, str]]
) -> None:
    async with soaking(ServiceSoak, route) as soak:
        taken = await go_round(soak, SERVICE_WAYS, rounds)
        counts = soak.counts
    opened = sum(count for way, count in taken.items() if way in OPENED)
    assert counts["Opened"] == counts["Closed"] == opened
    assert counts["Failed"] == rounds - opened
    assert counts["Waiting"] == rounds
    # The attempt that the end of the last round began is stopped, and that is no failure.
    assert counts["Connecting"] in (rounds - taken[hook_raises], rounds - taken[hook_raises] + 1)
    assert (counts["Started"], counts["Stopped"], counts["GaveUp"]) == (1, 1, 0)
    assert counts["Undelivered"] == taken[loses_messages] + 2 * taken[loses_what_it_has]
    # As many lines as events say, and not one more.
    assert lines == {
        ("wsframe.client", "info"): counts["Opened"],
        ("wsframe.client", "warn"): counts["Waiting"] + counts["Undelivered"],
        ("wsframe.handler", "critical"): soak.raised,
        ("wsframe.protocol", "info"): taken[breaks_the_rules],
    }
    assert soak.raised == taken[handler_raises]


@pytest.mark.parametrize(("route", "rounds"), ROUTES)
@pytest_twisted.ensureDeferred
async def test_loop_leaves_nothing_of_a_thousand_reconnects(
    route: str, rounds: int, lines: Counter[tuple[str, str]]
) -> None:
    async with soaking(LoopSoak, route) as soak:
        taken = await go_round(soak, WAYS, rounds)
        counts = soak.counts
    opened = sum(count for way, count in taken.items() if way in OPENED)
    assert counts["Opened"] == counts["Closed"] == opened
    assert counts["Failed"] == rounds - opened
    assert lines == {("wsframe.protocol", "info"): taken[breaks_the_rules]}
