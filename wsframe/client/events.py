"""Where the events of a client go: to callbacks, and to loops that read them."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, failed, fired
from wsframe.core.events import Event
from wsframe.errors import ConcurrencyError

__all__ = ["EVENTS_KEPT", "EventStream", "Events"]

_log: Final = Logger(namespace="wsframe.client")

EVENTS_KEPT: Final = 1024
"""Events that wait for one loop to read them; then the oldest are dropped and counted. A client
that fails at once, and waits half a second, takes minutes to say so much."""


class Events:
    """The events of one client, the same for everyone who asks.

    ``async for event in service.events`` reads them from then on; `subscribe` calls a function with
    each, at once and in order.
    """

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: list[list[Callable[[Event], object]]] = []

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call the function with every event to come; call what is returned to end that.

        What it raises is logged, and changes nothing else.
        """
        entry = [callback]  # an entry of its own, where a function is given twice
        self._subscribers.append(entry)

        def unsubscribe() -> None:
            entry.clear()
            self._subscribers = [each for each in self._subscribers if each]

        return unsubscribe

    def tell(self, event: Event) -> None:
        """Tell everyone."""
        for subscriber in list(self._subscribers):
            try:
                for callback in subscriber:  # one, or none where it has unsubscribed just now
                    callback(event)
            except Exception:  # noqa: BLE001 - an observer's fault is not the connection's
                _log.failure("Error in a callback for {event!r}", event=event)

    def __aiter__(self) -> EventStream:
        return EventStream(self)


class EventStream:
    """The events from the moment that the loop began; read by one loop.

    `missed` counts what was dropped because the loop was `EVENTS_KEPT` events behind. A loop that
    was left needs no `close`.
    """

    def __init__(self, events: Events) -> None:
        self.missed = 0
        self._kept: deque[Event] = deque()
        self._closed = False
        self._reader: Awaitable[Event] | None = None
        # While it waits here, the loop may be known to nobody else; while it does not, who has
        # left it is not to be kept events for.
        waiting: list[EventStream] = []
        self._waiting = waiting
        this = weakref.ref(self)

        def take(event: Event) -> None:
            stream = waiting[0] if waiting else this()
            if stream is not None:
                stream._take(event)

        self._unsubscribe = events.subscribe(take)
        weakref.finalize(self, self._unsubscribe).atexit = False

    def _take(self, event: Event) -> None:
        reader = self._reader
        if reader is not None:
            self._forget_reader(reader)
            reader.callback(event)
            return
        self._kept.append(event)
        if len(self._kept) > EVENTS_KEPT:
            self._kept.popleft()
            self.missed += 1

    def __aiter__(self) -> EventStream:
        return self

    def __anext__(self) -> Awaitable[Event]:
        if self._reader is not None:
            return failed(ConcurrencyError("another loop waits for the next event"))
        if self._kept:
            return fired(self._kept.popleft())
        if self._closed:
            return failed(StopAsyncIteration())
        self._reader = Awaitable(self._forget_reader)
        self._reader.untaken = self._kept.appendleft
        self._waiting.append(self)
        return self._reader

    def _forget_reader(self, _: object) -> None:
        self._reader = None
        self._waiting.clear()

    def close(self) -> None:
        """Read no more: the loop ends."""
        self._closed = True
        self._unsubscribe()
        self._kept.clear()
        reader = self._reader
        if reader is not None:
            self._forget_reader(reader)
            reader.errback(Failure(StopAsyncIteration()))
