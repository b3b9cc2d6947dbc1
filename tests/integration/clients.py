"""A client that stays connected, on a clock that stands still, with all that its events told."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from wsframe.client import WebSocketClientService
from wsframe.connection import Connection
from wsframe.core.events import Event
from wsframe.core.retry import RETRY, RetryPolicy
from wsframe.options import ClientOptions

from .raw import RawServer, Stepped, eventually

QUIET = ClientOptions(ping_interval=None)
RETRIES = RetryPolicy(first_delay=1.0, factor=2.0, max_delay=8.0, stable_after=10.0)
ENDLESS = dataclasses.replace(RETRIES, judge=lambda _: RETRY)
"""For tests of what comes between two attempts: there is always another one."""

E = TypeVar("E", bound=Event)


async def hold(connection: Connection) -> None:
    """Do nothing until the connection ends."""
    await connection.when_closed()


class Client:
    """A service on a clock that stands still, with the longest wait drawn each time."""

    def __init__(
        self, port: int, handler: Any = hold, *, path: str = "/", **arguments: Any
    ) -> None:
        self.clock = Stepped()
        self.handled: list[Connection] = []

        def handle(connection: Connection) -> Any:
            self.handled.append(connection)
            return handler(connection)

        uri = arguments.pop("uri", f"ws://127.0.0.1:{port}{path}")
        self.service = WebSocketClientService(
            uri,
            handle,
            **{"options": QUIET, "retry": RETRIES, "reactor": self.clock, **arguments},
        )
        self.service._draw = lambda: 1.0
        self.told: list[Event] = []
        self.service.events.subscribe(self.told.append)

    @property
    def waits(self) -> list[float]:
        """Seconds until each delayed call."""
        now = self.clock.seconds()
        return [round(call.getTime() - now, 6) for call in self.clock.getDelayedCalls()]

    async def until(self, condition: Callable[[], object], step: float = 0) -> None:
        """Let the reactor go round; for the service `step` seconds pass with each look."""

        def look() -> object:
            if not condition():
                self.clock.advance(step)
            return condition()

        await eventually(look)

    async def until_waiting(self, step: float = 0) -> float:
        """Wait until the next attempt is scheduled; return in how many seconds."""
        await self.until(lambda: self.service.connection is None and self.retry is not None, step)
        assert self.retry is not None
        return self.retry

    def told_of(self, kind: type[E]) -> list[E]:
        """The events of that kind, so far."""
        return [event for event in self.told if isinstance(event, kind)]

    @property
    def story(self) -> list[str]:
        """The kinds of all events, so far."""
        return [type(event).__name__ for event in self.told]

    @property
    def retry(self) -> float | None:
        """Seconds until the next attempt, None while none is scheduled."""
        calls = [call for call in self.clock.getDelayedCalls() if "waited" in str(call)]
        assert len(calls) <= 1
        return round(calls[0].getTime() - self.clock.seconds(), 6) if calls else None

    async def stop(self) -> None:
        stopped = self.service.stopService()
        await self.until(lambda: stopped.called)
        await stopped
        self.clock.advance(0)
        assert self.waits == []
        assert self.service.connection is None


@asynccontextmanager
async def client(
    server: RawServer | int, handler: Any = hold, **arguments: Any
) -> AsyncIterator[Client]:
    """Give a client that is started, and stop it at the end."""
    this = Client(server if isinstance(server, int) else server.port, handler, **arguments)
    this.service.startService()
    try:
        yield this
    finally:
        await this.stop()
