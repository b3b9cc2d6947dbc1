"""A client is told to stop in every turn of the reactor of a whole cycle, in every way.

The cycle is: a hook, an attempt that is refused, a wait, a hook, an attempt, a hook, an open
connection with a handler and messages, its end, a wait, and from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from integration.clients import ENDLESS, Client
from integration.raw import Raw, RawServer, close_frame, eventually, switching, turns
from twisted.internet import defer
from twisted.python.failure import Failure

from wsframe.client import Attempt
from wsframe.connection import Connection
from wsframe.core.events import Event
from wsframe.core.reconnect import State as Doing
from wsframe.errors import NotSent

TURNS = 60
"""More than a cycle takes; that a cycle fits is tested, too."""


class Cycle:
    """A client in the cycle, its server, and all that was promised to somebody."""

    def __init__(self, server: RawServer) -> None:
        self.client = Client(
            server.port,
            self._handle,
            retry=ENDLESS,
            before_attempt=self._prepare,
            on_open=self._resume,
        )
        self.service = self.client.service
        self.promised: list[defer.Deferred[Any]] = []
        self.results: list[object] = []
        self.seen: set[Doing] = set()

    async def _prepare(self, attempt: Attempt) -> None:
        await turns(2)

    async def _resume(self, connection: Connection) -> None:
        await connection.send("subscribe")
        await turns(2)

    async def _handle(self, connection: Connection) -> None:
        self.promise(self.service.send("one"))
        await connection.recv()
        await turns(2)

    def promise(self, deferred: defer.Deferred[Any]) -> None:
        """Note what has to come to a result, and once."""
        self.promised.append(deferred)
        deferred.addBoth(self.results.append)

    def stop(self) -> None:
        self.promise(self.service.stopService())

    def start(self) -> None:
        self.service.startService()
        self.promise(self.service.when_open())
        self.promise(self.service.send("waits"))
        self.promise(self.service.when_stopped())

    async def turn(self) -> None:
        """Let one turn of the reactor pass, and all waits."""
        self.seen.add(self.service.doing)
        await turns(1)
        self.client.clock.advance(1.0)


async def serve(raw: Raw, number: int) -> None:
    """Refuse the first and every second, close the others after a message."""
    head = await raw.read_head()
    if number % 2:
        raw.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        return
    raw.write(switching(head))
    await raw.read_frame()
    await turns(3)
    raw.write(bytes([0x81, 1]) + b"x")
    await turns(3)
    raw.write(close_frame(1012, masked=False))
    await raw.read_close()
    raw.finish()


async def accept(raw: Raw) -> None:
    """Do no more than what opens and closes a connection."""
    raw.write(switching(await raw.read_head()))
    code, _ = await raw.read_close()
    raw.write(close_frame(code, masked=False))
    raw.finish()


def peer() -> Callable[[Raw], Any]:
    numbers = iter(range(1, 1_000_000))
    return lambda raw: serve(raw, next(numbers))


def stop(cycle: Cycle) -> None:
    cycle.stop()


def stop_twice(cycle: Cycle) -> None:
    cycle.stop()
    cycle.stop()


def stop_and_start(cycle: Cycle) -> None:
    cycle.stop()
    cycle.start()


def start_twice(cycle: Cycle) -> None:
    cycle.start()
    cycle.start()


def stop_start_stop(cycle: Cycle) -> None:
    stop_and_start(cycle)
    cycle.stop()


def stop_start_stop_start(cycle: Cycle) -> None:
    stop_and_start(cycle)
    stop_and_start(cycle)


WAYS = [stop, stop_twice, stop_and_start, start_twice, stop_start_stop, stop_start_stop_start]
RUN_ON = {stop_and_start, start_twice, stop_start_stop_start}
"""Ways after which the client runs on."""


async def finish(cycle: Cycle) -> None:
    """Stop for good; all is then told, once, and nothing is left but a socket that has ended."""
    await cycle.client.stop()
    await eventually(lambda: len(cycle.results) == len(cycle.promised))
    assert cycle.service.doing is Doing.STOPPED
    assert cycle.client.clock.getDelayedCalls() == []
    told = cycle.client.story
    assert told.count("Opened") == told.count("Closed")
    assert told[-1] == "Stopped"
    assert told.count("Started") <= told.count("Stopped")
    kinds = {type(result.value) for result in cycle.results if isinstance(result, Failure)}
    assert kinds <= {defer.CancelledError, NotSent}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest_twisted.ensureDeferred
async def test_it_can_be_told_in_every_turn(way: Callable[[Cycle], None]) -> None:
    seen: set[Doing] = set()
    for count in range(TURNS):
        async with RawServer(peer()) as server:
            cycle = Cycle(server)
            cycle.start()
            for _ in range(count):
                await cycle.turn()
            seen.add(cycle.service.doing)
            way(cycle)
            if way in RUN_ON:
                opened = cycle.client.story.count("Opened")
                while cycle.client.story.count("Opened") <= opened:
                    await cycle.turn()
            else:
                stopped = [each for each in cycle.promised if not each.called]
                await cycle.client.until(lambda: all(each.called for each in stopped))  # noqa: B023
                assert cycle.service.doing is Doing.STOPPED
            await finish(cycle)
    assert seen >= {Doing.PREPARING, Doing.CONNECTING, Doing.RESUMING, Doing.OPEN, Doing.WAITING}


@pytest.mark.parametrize("again", [False, True], ids=["stop", "stop and start"])
@pytest_twisted.ensureDeferred
async def test_it_can_be_told_by_who_hears_any_event(again: bool) -> None:
    """The n-th event of the cycle, for every n; with an observer that raises beside it."""
    for number in range(1, 16):
        async with RawServer(peer()) as server:
            cycle = Cycle(server)
            heard: list[Event] = []

            def act(event: Event, cycle: Cycle = cycle, heard: list[Event] = heard) -> None:
                heard.append(event)
                if len(heard) == number:  # noqa: B023
                    (stop_and_start if again else stop)(cycle)
                raise LookupError("an observer's mistake")

            cycle.service.events.subscribe(act)
            cycle.start()
            while len(heard) < number:
                await cycle.turn()
            if again:
                opened = cycle.client.story.count("Opened")
                while cycle.client.story.count("Opened") <= opened:
                    await cycle.turn()
            await finish(cycle)
            assert heard == cycle.client.told


@pytest_twisted.ensureDeferred
async def test_hook_and_handler_that_will_not_be_cancelled_hold_up_nothing() -> None:
    begun: list[str] = []

    async def stubborn(name: str) -> None:
        begun.append(name)
        for _ in range(5):
            try:
                await defer.Deferred()
            except defer.CancelledError:
                continue

    async with RawServer(accept) as server:
        for which in ("before_attempt", "on_open"):
            this = Client(server.port, **{which: lambda _, name=which: stubborn(name)})
            this.service.startService()
            await this.until(lambda: which in begun)  # noqa: B023
            await this.stop()
        this = Client(server.port, lambda _: stubborn("handler"))
        for count in range(1, 4):
            this.service.startService()
            await this.until(lambda: begun.count("handler") == count)  # noqa: B023
            this.handled[-1].close(1012)
            this.clock.advance(await this.until_waiting())
            await this.until(lambda: begun.count("handler") == count + 1)  # noqa: B023
            await this.stop()
            begun.remove("handler")
