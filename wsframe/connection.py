"""One open WebSocket: send, receive, iterate, ping, close, with backpressure both ways."""

from __future__ import annotations

import enum
import os
from collections import OrderedDict, deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from uuid import UUID, uuid4

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from wsframe.awaiting import AsyncOnly, Awaitable, failed, fired, relay
from wsframe.core.closing import check_close
from wsframe.core.counts import Counts
from wsframe.core.frames import Message
from wsframe.core.http import Request, Response
from wsframe.core.uri import WebSocketURI
from wsframe.driving import SUSPENDED, Driver, suspended
from wsframe.errors import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedOK,
    ReceiveTimeout,
    SendBufferFull,
)
from wsframe.protocol import OPEN, SharedMessage, Wire
from wsframe.trace import Trace, check_trace

__all__ = ["Connection", "Message", "State"]

_RESUME_PART: Final = 4
"""Reading resumes when the receive queue has drained to this part of its limit: often enough that
the peer does not stall, seldom enough that pausing is not done for every message."""


BURST: Final = 64
"""Messages handed out in one turn of the reactor; then the other connections have theirs."""


WAITING_SEND: Final = 400
"""Bytes that a call of `send` that waits holds beside its payload, as measured on CPython 3.11: a
Deferred, its place in the queue, the payload's own head. If they were not counted, small messages
would wait without a limit."""


_BYTES: Final = (bytes, bytearray, memoryview)

_NOTHING: Final[deque[Any]] = cast("deque[Any]", ())
"""Stands for a deque to which nothing was added yet."""

_NO_SENDERS: Final[OrderedDict[Any, Any]] = cast("OrderedDict[Any, Any]", ())
"""Stands for the calls of `send` that wait, while there are none."""


class State(enum.Enum):
    """Where a connection is in its life."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Connection(AsyncOnly):
    """An open WebSocket, client's or server's; made by `connect`, `serve` and the services.

    Every method that takes time returns a Deferred that can be awaited, in Twisted coroutines and
    in asyncio tasks alike.
    """

    __slots__ = (
        "__weakref__",
        "_burst",
        "_bytes",
        "_closed_waiters",
        "_counts",
        "_id",
        "_messages",
        "_options",
        "_outcome",
        "_owed",
        "_paused",
        "_pings",
        "_receiver",
        "_senders",
        "_waiting_bytes",
        "_wire",
    )

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._options = wire.options
        self._id: UUID | None = None
        # Made when something comes or waits: a deque has room for 64 from the beginning.
        self._messages: deque[Message] = _NOTHING
        self._counts = [0, 0, 0, 0]
        self._burst = 0
        self._bytes = 0
        self._paused = False
        self._receiver: Awaitable[Message] | Driver | None = None
        self._senders: OrderedDict[Awaitable[None], tuple[bytes, bool]] = _NO_SENDERS
        self._waiting_bytes = 0
        self._owed: list[SharedMessage] | None = None
        self._pings: dict[bytes, tuple[float, Awaitable[float]]] = {}
        self._outcome: ConnectionClosed | None = None
        self._closed_waiters: list[Awaitable[ConnectionClosed]] = []

    # ---------------------------------------------------------------- what it is

    @property
    def id(self) -> UUID:
        """A random identifier of this connection, for logs and registries."""
        if self._id is None:
            self._id = uuid4()
        return self._id

    @property
    def state(self) -> State:
        """OPEN, CLOSING from the first Close frame or `abort` on, CLOSED once TCP has ended."""
        if self._outcome is not None:
            return State.CLOSED
        return State.OPEN if self._wire.can_send else State.CLOSING

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that began the end (1005: none in it, 1006: no frame).

        None while the connection is open.
        """
        return None if self.state is State.OPEN else self._end().code

    @property
    def close_reason(self) -> str | None:
        """The reason of that Close frame; None while the connection is open."""
        return None if self.state is State.OPEN else self._end().reason

    @property
    def latency(self) -> float | None:
        """The last round trip measured, by the keepalive or by `ping`, in seconds; None before."""
        return self._wire.round_trip.last

    @property
    def rtt(self) -> float | None:
        """The round trip in seconds, smoothed over all that were measured; None before the first.

        Smoothed as TCP does it: each new one counts for an eighth (RFC 6298 §2, SRTT).
        """
        return self._wire.round_trip.smoothed

    @property
    def rtt_variation(self) -> float | None:
        """How far round trips stray from `rtt`, in seconds (RFC 6298 §2, RTTVAR); None before."""
        return self._wire.round_trip.variation

    @property
    def counts(self) -> Counts:
        """The messages and bytes that went over it so far, each way."""
        sent, sent_bytes, received, received_bytes = self._counts
        return Counts(
            sent=sent, sent_bytes=sent_bytes, received=received, received_bytes=received_bytes
        )

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, None for none."""
        return self._wire.subprotocol

    @property
    def principal(self) -> str | None:
        """On a server: whom `process_request` recognised, None for nobody."""
        return self._wire.principal

    @property
    def request(self) -> Request:
        """The opening handshake's request, as sent or received."""
        return cast(Request, self._wire.request)

    @property
    def response(self) -> Response:
        """The opening handshake's answer: on a server what `process_request` added to it."""
        return cast(Response, self._wire.response)

    @property
    def uri(self) -> WebSocketURI | None:
        """Where a client is connected to, after all redirects; None on a server."""
        return self._wire.uri

    @property
    def peer(self) -> str:
        """The peer's address, such as "tcp4:192.0.2.1:443"; the proxy's where there is one."""
        return self._wire.peer or "unknown"

    @property
    def trace(self) -> Trace | None:
        """What the connection is written down in, None for nothing.

        It may be set at any moment, and holds from the next frame on.
        """
        tap = self._wire.tap
        return None if tap is None else tap.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._wire.use_trace(check_trace(trace))

    def __repr__(self) -> str:
        return f"<Connection {self.id} with {self.peer}, {self.state.value}>"

    # ---------------------------------------------------------------- sending

    def send(self, message: Message | bytearray | memoryview) -> Awaitable[None]:
        """Send a message: str as text, bytes as binary.

        Fires when the message is with the transport, which is at once unless its buffer (64 KiB)
        is full: then this waits for the peer to read. Calls are served in order. Cancelling a
        call that waits takes its message out.

        Fails with `ConnectionClosed` when the connection is not open (a message that still waited
        was not sent), and with `SendBufferFull` when more than `options.send_buffer` bytes wait,
        where each call counts 400 more than its message has.

        Raises TypeError for anything but text and bytes.
        """
        if isinstance(message, str):
            payload, is_binary = message.encode(), False
        elif isinstance(message, _BYTES):
            payload, is_binary = bytes(message), True
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        wire = self._wire
        if self._owed is not None:
            self._send_owed()
        if wire.state != OPEN:
            return failed(self._end())
        if not wire.blocked and not self._senders:
            counts = self._counts
            counts[0] += 1
            counts[1] += len(payload)
            wire.send_message(payload, is_binary)
            return fired(None)
        weight = len(payload) + WAITING_SEND
        if self._waiting_bytes + weight > wire.options.send_buffer and self._senders:
            return failed(SendBufferFull(f"{self._waiting_bytes} bytes wait to be sent already"))
        waiting: Awaitable[None] = Awaitable(self._forget_sender)
        if not self._senders:
            self._senders = OrderedDict()
        self._senders[waiting] = payload, is_binary
        self._waiting_bytes += weight
        return waiting

    def _forget_sender(self, cancelled: Any) -> None:
        if cancelled in self._senders:  # and is not about to fail with the others
            payload, _ = self._senders.pop(cancelled)
            self._waiting_bytes -= len(payload) + WAITING_SEND

    def transport_unblocked(self) -> None:
        """From the protocol: the transport takes more; the calls that wait go on."""
        while self._senders and not self._wire.blocked and self._wire.can_send:
            self._send_first()

    def sending_ended(self) -> None:
        """From the protocol: what waits will not be sent."""
        self._fail_senders()

    def _send_first(self) -> None:
        waiting, (payload, is_binary) = self._senders.popitem(last=False)
        self._waiting_bytes -= len(payload) + WAITING_SEND
        self._hand_over(payload, is_binary)
        _settle(waiting, None)

    def _hand_over(self, payload: bytes, is_binary: bool) -> None:
        counts = self._counts
        counts[0] += 1
        counts[1] += len(payload)
        self._wire.send_message(payload, is_binary)

    def prepare_shared(self, shared: SharedMessage) -> None:
        """From `broadcast`: tell what will be asked of a message that takes time to compress."""
        self._wire.prepare_shared(shared)

    def send_shared(self, shared: SharedMessage) -> bool:
        """From `broadcast`: send, and return True; False, not sent, where that may call somebody.

        Such as calls of `send` that wait, a handler that hears of the end because the buffer is
        full, and who is given what is traced. False also when this is not open.
        """
        if self._senders or not self._wire.send_shared(shared, quietly=True):
            return False
        counts = self._counts
        counts[0] += 1
        counts[1] += shared.size
        return True

    def _hand_over_shared(self, shared: SharedMessage) -> None:
        if self._wire.send_shared(shared):
            counts = self._counts
            counts[0] += 1
            counts[1] += shared.size

    def owe(self, shared: SharedMessage) -> None:
        """From `broadcast`: send this before anything else; `send_owed` will see to it."""
        if self._owed is None:
            self._owed = [shared]
        else:
            self._owed.append(shared)

    def send_owed(self, shared: SharedMessage) -> None:
        """From `broadcast`: send what is owed, unless that was done meanwhile."""
        owed = self._owed
        if owed is None or shared not in owed:
            return
        if self._senders or len(owed) > 1:
            self._send_owed(shared)
        else:
            self._owed = None
            self._hand_over_shared(shared)

    def _send_owed(self, last: SharedMessage | None = None) -> None:
        """Send what is owed, up to this one or all of it, behind what waits in `send` already."""
        while self._owed is not None:
            if self._senders and self._wire.can_send:
                self._send_first()  # what goes on then may have sent all that is owed
                continue
            shared = self._owed.pop(0)
            if not self._owed:
                self._owed = None
            self._hand_over_shared(shared)
            if shared is last:
                return

    def ping(self, payload: bytes | None = None) -> Awaitable[float]:
        """Send a ping; fires with the round trip in seconds when its pong arrives.

        `payload` is at most 125 bytes; None takes random ones. The pong of a later ping answers
        the earlier ones, too (RFC 6455 §5.5.3). Cancelling stops the wait.

        Fails with `ConnectionClosed` when the connection closes before, and with
        `ConcurrencyError` for a payload that is already waited for, or when
        `options.pending_pings` are.
        """
        if payload is None:
            payload = os.urandom(8)
        if not isinstance(payload, bytes):
            raise TypeError(f"a ping's payload is bytes, not {type(payload).__name__}")
        if len(payload) > 125:
            raise ValueError(f"a ping's payload has at most 125 bytes, not {len(payload)}")
        if self._owed is not None:
            self._send_owed()
        if not self._wire.can_send:
            return failed(self._end())
        if payload in self._pings or len(self._pings) >= self._wire.options.pending_pings:
            return failed(ConcurrencyError("too many pings, or this very one, wait for a pong"))
        ponged: Awaitable[float] = Awaitable(lambda _: self._forget_ping(payload))
        self._pings[payload] = (self._wire.now(), ponged)
        self._wire.send_ping(payload)
        return ponged

    def _forget_ping(self, payload: bytes) -> None:
        self._pings.pop(payload, None)

    def pong_received(self, payload: bytes) -> None:
        """From the protocol: a pong came."""
        if payload not in self._pings:
            return
        now = self._wire.now()
        for sent_payload in list(self._pings):
            answered = self._pings.pop(sent_payload, None)
            if answered is None:
                continue  # cancelled by what the pong before it set going
            sent, ponged = answered
            if sent_payload == payload:
                self._wire.round_trip.sample(now - sent)
            _settle(ponged, now - sent)
            if sent_payload == payload:
                return

    # ---------------------------------------------------------------- receiving

    def recv(self, timeout: float | None = None) -> Awaitable[Message]:
        """Receive the next message: fires with str for text, bytes for binary.

        `timeout` is seconds, None waits for ever; when it passes, this fails with
        `ReceiveTimeout` and no message is lost, and so it is when the call is cancelled.

        What was received before the end is delivered first; then this fails with
        `ConnectionClosed`. A second call while one waits fails with `ConcurrencyError`.
        """
        if self._receiver is not None:
            return failed(ConcurrencyError("another recv is waiting on this connection"))
        if self._messages and self._burst < BURST:
            return fired(self._take())
        if self._outcome is not None and not self._messages:
            return failed(self._end())
        receiver: Awaitable[Message] = Awaitable(self._forget_receiver)
        receiver.untaken = self._put_back
        self._receiver = receiver
        if self._messages:
            # One read may have brought ten thousand messages: the other connections come first.
            self._wire.reactor.callLater(0, self.deliver)
        if timeout is not None:
            call = self._wire.reactor.callLater(
                max(0.0, timeout), self._receive_timed_out, receiver
            )
            receiver.addBoth(_cancel_call, call)
        return receiver

    def _receive_timed_out(self, receiver: Awaitable[Message]) -> None:
        if self._messages:
            self.deliver()  # it was the other connections' turn, and not for want of a message
            return
        self._receiver = None
        receiver.errback(Failure(ReceiveTimeout("no message arrived in time")))

    def _forget_receiver(self, _: object = None) -> None:
        self._receiver = None

    def _set_receiver(self, receiver: Driver) -> None:
        self._receiver = receiver

    def _put_back(self, message: Message) -> None:
        if self._messages is _NOTHING:
            return  # the handler has left: what came is for nobody
        self._messages.appendleft(message)
        self._bytes += _size(message)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.callback(self._take())

    def _take(self) -> Message:
        messages = self._messages
        message = messages.popleft()
        self._burst += 1
        plain = type(message) is bytes or message.isascii()
        self._bytes -= len(message) if plain else _size(message)
        if self._paused:
            options = self._options
            if (
                len(messages) <= options.receive_queue // _RESUME_PART
                and self._bytes <= options.receive_buffer // _RESUME_PART
            ):
                self._paused = False
                self._wire.resume_reading()
        return message

    def messages_received(self, messages: list[Message], octets: int) -> None:
        """From the protocol: messages came; `deliver` follows when all of a read are there."""
        wire = self._wire
        if wire.state != OPEN:
            # This side has begun to close: like a browser's, its application hears no more.
            return
        waiting = self._messages
        if waiting is _NOTHING:
            waiting = self._messages = deque()
        waiting.extend(messages)
        self._bytes += octets
        counts = self._counts
        counts[2] += len(messages)
        counts[3] += octets
        options = self._options
        if len(waiting) >= options.receive_queue or self._bytes >= options.receive_buffer:
            self._paused = True
            wire.pause_reading()

    def deliver(self) -> None:
        """From the protocol: a read is taken apart; whoever waits in `recv` goes on.

        Not before: a loop over many messages then runs through them without waiting in between.
        """
        receiver = self._receiver
        self._burst = 0
        if receiver is not None and self._messages:
            self._receiver = None
            receiver.callback(self._take())

    def __aiter__(self) -> Connection:
        """Iterate over the messages; ends when the connection closes normally.

        Raises `ConnectionClosedError` when it closes otherwise.
        """
        return self

    if not TYPE_CHECKING:  # a type checker is to find that by itself

        def __iter__(self) -> NoReturn:
            raise TypeError("a Connection's messages are iterated over with `async for`")

    async def __anext__(self) -> Message:
        if self._messages and self._receiver is None and self._burst < BURST:
            return self._take()
        try:
            if self._messages or self._receiver or self._outcome:
                return await self.recv()
            message: Message = await suspended(self._forget_receiver, self._set_receiver)
            return await self.recv() if message is SUSPENDED else message
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    # ---------------------------------------------------------------- closing

    def close(self, code: int = 1000, reason: str = "") -> Awaitable[None]:
        """Close the connection; fires when TCP has ended, within `options.close_timeout` seconds.

        `code` is 1000 to 1003, 1007 to 1014, or 3000 to 4999; `reason` has at most 123 bytes in
        UTF-8. Does nothing more on a connection that closes already, and never fails. Messages
        that came before are still there for `recv`; later ones are dropped. What waits in `send` is
        sent before.

        Raises TypeError and ValueError for a code or reason that may not be sent.
        """
        encoded = check_close(code, reason)
        if self._owed is not None:
            self._send_owed()
        while self._senders and self._wire.can_send:
            self._send_first()
        self._wire.start_close(code, encoded)
        self._fail_senders()
        done: Awaitable[None] = Awaitable()
        relay(self.when_closed().addCallback(lambda _: None), done)
        return done

    def abort(self) -> None:
        """End TCP at once, without a Close frame; what waits to be sent is lost."""
        self._wire.abort("local", "aborted")

    def when_closed(self) -> Awaitable[ConnectionClosed]:
        """Return a Deferred that fires with the outcome (as a value) when TCP has ended."""
        if self._outcome is not None:
            return fired(self._end())
        waiter: Awaitable[ConnectionClosed] = Awaitable(self._forget_waiter)
        self._closed_waiters.append(waiter)
        return waiter

    def _forget_waiter(self, cancelled: Any) -> None:
        if cancelled in self._closed_waiters:
            self._closed_waiters.remove(cancelled)

    def _end(self) -> ConnectionClosed:
        """Return a new exception: one that is raised twice would grow its traceback for ever."""
        return (self._outcome or self._wire.outcome).again()

    def _fail_senders(self) -> None:
        senders, self._senders = self._senders, _NO_SENDERS
        self._waiting_bytes = 0
        for waiting in senders:
            _settle(waiting, Failure(self._end()))

    def drop_messages(self) -> None:
        """From who ran the handler: it left before the end, and what came is for nobody.

        Behind the end it stays: a handler may wait for that while others receive.
        """
        if self._outcome is None:
            self._messages = _NOTHING
            self._bytes = 0

    def transport_lost(self, outcome: ConnectionClosed) -> None:
        """From the protocol: the transport is gone."""
        self.deliver()
        self._outcome = outcome
        self._owed = None
        self._fail_senders()
        pings, self._pings = self._pings, {}
        for _, ponged in pings.values():
            _settle(ponged, Failure(self._end()))
        if self._receiver is not None and not self._messages:
            # Where there are some it waits for the next turn only, in which it gets one.
            receiver, self._receiver = self._receiver, None
            receiver.errback(Failure(self._end()))
        waiters, self._closed_waiters = self._closed_waiters, []
        for waiter in waiters:
            _settle(waiter, self._end())

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: with 1000, or with 1011 when the block ended with an exception."""
        await self.close(1000 if kind is None else 1011)


def _size(message: Message) -> int:
    """Return the bytes of a message; most texts need not be encoded for that."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())


def _settle(waiting: Awaitable[Any], outcome: object) -> None:
    """Fire one of several waits, unless what an earlier one did has cancelled it."""
    if not waiting.called:
        waiting.callback(outcome)


def _cancel_call(result: Any, call: IDelayedCall) -> Any:
    if call.active():
        call.cancel()
    return result
