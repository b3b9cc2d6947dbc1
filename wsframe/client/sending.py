"""The outbox of a client, at work: messages go to the connection there is, or wait for the next."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, quiet_errback
from wsframe.connection import Connection, Message
from wsframe.core import events
from wsframe.core.outbox import Outbox
from wsframe.errors import ConnectionClosed, NotSent, OutboxFull, WSFrameError
from wsframe.options import ServiceOptions

__all__ = ["Sending"]


class _Entry:
    """One message, and who waits for it to be sent."""

    __slots__ = ("message", "sent")

    def __init__(self, message: Message, sent: Awaitable[None]) -> None:
        self.message = message
        self.sent = sent


class Sending:
    """Sends in order what is given to it, on one connection after the other.

    To know what has arrived it pings, at most once in `options.confirm_interval` seconds while
    anything is in flight; not at all where `pings` is false. `tell` is given `Undelivered` and its
    fields.
    """

    def __init__(
        self,
        options: ServiceOptions,
        reactor: IReactorTime,
        tell: Callable[..., None],
        *,
        pings: bool,
    ) -> None:
        self._outbox: Outbox[_Entry] = Outbox(
            max_messages=options.outbox_messages,
            max_bytes=options.outbox_bytes,
            policy=options.outbox_policy,
        )
        self._confirm_interval = options.confirm_interval if pings else None
        self._reactor = reactor
        self._tell = tell
        self._connection: Connection | None = None
        self._pushing: Awaitable[None] | None = None
        self._confirming: IDelayedCall | Awaitable[float] | None = None  # a wait, or a ping

    def send(self, message: Message | bytearray | memoryview) -> Awaitable[None]:
        """Send, now or later."""
        if isinstance(message, bytearray | memoryview):
            message = bytes(message)
        elif not isinstance(message, str | bytes):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        sent: Awaitable[None] = Awaitable(lambda _: self._take_back(entry))
        entry = _Entry(message, sent)
        size = len(message.encode()) if isinstance(message, str) else len(message)
        try:
            dropped = self._outbox.put(entry, size)
        except OutboxFull as error:
            quiet_errback(sent, Failure(error))
            return sent
        if dropped:
            self._give_back("dropped", dropped)
            for each in dropped:
                _fail(each, OutboxFull("newer messages took its place in the outbox"))
        self._push()
        return sent

    def _take_back(self, entry: _Entry) -> None:
        # What the connection has is no longer ours to take back; its sender just stops waiting.
        if self._pushing is None or self._outbox.first() is not entry:
            self._outbox.remove(entry)

    def opened(self, connection: Connection) -> None:
        """Note that there is a connection; what waits goes out."""
        self._connection = connection
        self._push()

    def _push(self) -> None:
        """Hand over what waits until the connection makes us wait."""
        connection = self._connection
        while connection is not None and self._pushing is None:
            entry = self._outbox.first()
            if entry is None:
                return
            handed = connection.send(entry.message)
            if not handed.called:
                self._pushing = handed
                handed.addCallbacks(self._pushed, self._not_pushed)
                return
            if isinstance(handed.result, Failure):
                handed.addErrback(lambda _: None)  # it waits for the next connection
                return
            self._sent()
            connection = self._connection

    def _pushed(self, _: object) -> None:
        self._pushing = None
        self._sent()
        self._push()

    def _not_pushed(self, failure: Failure) -> None:
        # It waited in the connection, was not sent, and waits here still.
        failure.trap(WSFrameError)
        self._pushing = None

    def _sent(self) -> None:
        entry = self._outbox.sent()
        self._confirm_soon()
        if not entry.sent.called:
            entry.sent.callback(None)

    # ---------------------------------------------------------------- what has arrived

    def _confirm_soon(self) -> None:
        if self._confirming is None and self._confirm_interval is not None:
            self._confirming = self._reactor.callLater(self._confirm_interval, self._confirm)

    def _confirm(self) -> None:
        self._confirming = None
        connection = self._connection
        if connection is None or not self._outbox.in_flight:
            return
        mark = self._outbox.mark()
        ping = connection.ping()
        self._confirming = ping

        def ponged(_: float) -> None:
            self._confirming = None
            self._outbox.confirmed(mark)
            if self._outbox.in_flight:
                self._confirm_soon()

        def failed(_: Failure) -> None:
            self._confirming = None

        ping.addCallbacks(ponged, failed)

    # ---------------------------------------------------------------- the end

    def flush(self) -> None:
        """Give the connection all that waits, as far as it takes it: it is about to be closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        entries = list(self._outbox)
        if self._pushing is not None:
            del entries[0]  # it is with the connection already
        for entry in entries:
            handed = connection.send(entry.message)
            refused = handed.called and isinstance(handed.result, Failure)
            # In the order they were sent, so that it is always the first of the outbox.
            handed.addCallbacks(lambda _: self._sent(), lambda _: None)
            if refused:
                return

    def lost(self, outcome: ConnectionClosed) -> None:
        """Note that the connection has ended; report what was in flight."""
        self._connection = None
        self._stop_confirming()
        if outcome.clean and outcome.by == "local":
            # The peer has answered our Close frame, which went out behind all messages.
            self._outbox.confirmed(self._outbox.mark())
        self._give_back("in flight", self._outbox.lost())

    def ended(self, why: str) -> None:
        """Note that no connection will come: what waits is given back."""
        entries = self._outbox.clear()
        self._give_back("stopped", entries)
        for entry in entries:
            _fail(entry, NotSent(why))

    def _give_back(self, why: str, entries: list[_Entry]) -> None:
        if entries:
            messages = tuple(entry.message for entry in entries)
            self._tell(events.Undelivered, why=why, messages=messages)

    def _stop_confirming(self) -> None:
        confirming, self._confirming = self._confirming, None
        if confirming is not None:
            confirming.cancel()


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.sent.called:
        quiet_errback(entry.sent, Failure(error))
