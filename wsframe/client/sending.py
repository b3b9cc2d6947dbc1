"""The outbox of a client, at work: messages go to the connection there is, or wait for the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, quiet_errback
from wsframe.connection import Connection, Message
from wsframe.core import events
from wsframe.core.outbox import Outbox
from wsframe.errors import ConnectionClosed, NotSent, OutboxFull, SendBufferFull, WSFrameError
from wsframe.options import ServiceOptions

__all__ = ["FULL_WAIT", "Sending"]

FULL_WAIT: Final = 0.1
"""Seconds after which a connection whose `send_buffer` is full is asked again. Only what goes past
the outbox fills it."""


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
        self._again: IDelayedCall | None = None
        self._confirming: IDelayedCall | Awaitable[float] | None = None  # a wait, or a ping

    def send(self, message: Message | bytearray | memoryview) -> Awaitable[None]:
        """Send, now or later."""
        message = _checked(message)
        sent: Awaitable[None] = Awaitable(lambda _: self._take_back(entry))
        entry = _Entry(message, sent)
        # The connection encodes it; until then its size is known without that, as a rule.
        size = len(message)
        if isinstance(message, str) and not message.isascii():
            size = len(message.encode())
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

    def refuse(self, message: Message | bytearray | memoryview, why: str) -> Awaitable[None]:
        """Return what `send` does where no connection will come."""
        _checked(message)
        refused: Awaitable[None] = Awaitable()
        quiet_errback(refused, Failure(NotSent(why)))
        return refused

    def _take_back(self, entry: _Entry) -> None:
        # What a connection has stays there; its sender just stops waiting.
        self._outbox.remove(entry)

    def opened(self, connection: Connection) -> None:
        """Note that there is a connection; what waits goes out."""
        self._connection = connection
        self._push()

    def _push(self) -> None:
        """Hand over what waits until the connection makes us wait."""
        while self._connection is not None and not self._outbox.lent and self._again is None:
            if not self._hand_over(self._connection):
                return

    def _hand_over(self, connection: Connection) -> bool:
        """Hand over the next of what waits; return whether there was one and it was taken."""
        entry = self._outbox.lend()
        if entry is None:
            return False
        handed = connection.send(entry.message)
        refused = handed.called and isinstance(handed.result, Failure)
        if handed.called and not refused:
            self._sent()  # and no recursion through a thousand that wait
        else:
            handed.addCallbacks(self._sent_at_last, self._not_sent)
        return not refused

    def _not_sent(self, failure: Failure) -> None:
        # It waits here still, for the next connection.
        failure.trap(WSFrameError)
        self._outbox.returned()
        if failure.check(SendBufferFull) and self._connection is not None:
            # With what others have sent; nobody says when there is room again.
            self._again = self._reactor.callLater(FULL_WAIT, self._push_again)

    def _push_again(self) -> None:
        self._again = None
        self._push()

    def _sent(self) -> None:
        entry = self._outbox.sent()
        self._confirm_soon()
        if not entry.sent.called:
            entry.sent.callback(None)

    def _sent_at_last(self, _: object) -> None:
        self._sent()
        self._push()

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
            if self._connection is not None:  # too many pings are out: another time
                self._confirm_soon()

        ping.addCallbacks(ponged, failed)

    # ---------------------------------------------------------------- the end

    def flush(self) -> None:
        """Give the connection all that waits, as far as it takes it: it is about to be closed."""
        connection, self._connection = self._connection, None
        self._push_no_more()
        while connection is not None and self._hand_over(connection):
            pass

    def _push_no_more(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            again.cancel()

    def lost(self, outcome: ConnectionClosed) -> None:
        """Note that the connection has ended; report what was in flight."""
        self._connection = None
        self._push_no_more()
        self._stop_confirming()
        if outcome.clean and outcome.by == "local":
            # The peer has answered our Close frame, which went out behind all messages.
            self._outbox.confirmed(self._outbox.mark())
        self._give_back("in flight", self._outbox.lost())

    def ended(self, why: str) -> None:
        """Note that no connection will come: what waits is given back."""
        entries = self._outbox.clear()
        self._give_back("stopped", entries)

        def tell() -> None:
            for entry in entries:
                _fail(entry, NotSent(why))

        if entries:
            # In the next turn: who waits may start or stop the client at once.
            self._reactor.callLater(0, tell)

    def _give_back(self, why: str, entries: list[_Entry]) -> None:
        if entries:
            messages = tuple(entry.message for entry in entries)
            self._tell(events.Undelivered, why=why, messages=messages)

    def _stop_confirming(self) -> None:
        confirming, self._confirming = self._confirming, None
        if confirming is not None:
            confirming.cancel()


def _checked(message: object) -> Message:
    if isinstance(message, bytearray | memoryview):
        return bytes(message)
    if not isinstance(message, str | bytes):
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
    return message


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.sent.called:
        quiet_errback(entry.sent, Failure(error))
