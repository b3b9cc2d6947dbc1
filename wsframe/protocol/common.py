"""What both roles need beyond Autobahn: bounds, timers, the closing handshake, backpressure.

Autobahn parses frames and negotiates; this mixin stands before it and decides what it is fed, what
its decisions lead to, and when a connection ends. It is the place where Autobahn's weak spots are
mended, each said where it is mended.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final, cast

from autobahn.exception import Disconnected
from autobahn.twisted.util import create_transport_details
from autobahn.websocket.protocol import PreparedMessage, WebSocketProtocol
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]
from OpenSSL import SSL
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.awaiting import quiet_errback, run
from wsframe.clock import BLOCKED, loop_watch, monotonic_clock
from wsframe.core import frames
from wsframe.core.closing import Closing, check_close, is_valid_code, truncate_reason
from wsframe.core.keepalive import Action, Keepalive
from wsframe.core.trace import Role
from wsframe.errors import OpenError, OpenTimeout, Side
from wsframe.options import ConnectionOptions
from wsframe.protocol.tcp import set_keepalive, set_no_delay, unsent_bytes
from wsframe.trace import Tap, Trace

_log: Final = Logger(namespace="wsframe.protocol")

EARLY_BYTES: Final = 64 * 1024
"""Bytes kept of what a peer sends before the application has decided; then reading pauses."""

SLICE: Final = 128 * 1024
"""Bytes given to the transport at a time: what Twisted gives to the kernel at a time."""

MANY_PARTS: Final = 4096
"""Parts of a frame, as they were read, that are kept apart; more are joined, because a peer that
drips its bytes would have us hold a hundred times as much memory as it sends."""

_LONG_PAYLOAD: Final = 1024
"""Bytes from which Autobahn's native masker, with its set-up, beats one XOR of big integers."""


class _ProtocolLog(Logger):
    """Autobahn's `self.log`, which applications use, too: Twisted's logger without debug lines.

    Autobahn writes several of those for every message, and they would cost more than its work.
    """

    def __get__(self, instance: object, owner: type | None = None) -> _ProtocolLog:
        """Be the same for every protocol; Twisted's would make a new logger at each access."""
        return self

    def debug(self, format: str | None = None, **fields: object) -> None:  # noqa: A002 - Twisted's name
        """Drop the line."""

    trace = debug


class ReactorTimer:
    """Autobahn's `call_later` on the factory's own reactor, exact and not in batches of 0.2 s."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> IDelayedCall:
        """Call the function in `delay` seconds."""
        return self._reactor.callLater(delay, function, *args)


def apply_mask(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked, by the fastest means for its size."""
    if len(payload) < _LONG_PAYLOAD:
        return frames.mask_payload(payload, key)
    return cast(bytes, create_xor_masker(key, len(payload)).process(payload))


@implementer(IPushProducer)
class _Outgoing:
    """The transport's view of us: it says when its buffer is full, and when it is empty again."""

    __slots__ = ("protocol",)

    def __init__(self, protocol: CommonProtocol) -> None:
        self.protocol = protocol

    def pauseProducing(self) -> None:
        """The buffer is full. Twisted says so again at every write."""
        if not self.protocol.blocked:
            self.protocol.blocked = True
            self.protocol.sending_blocked()
        if self.protocol.app_producer is not None:
            self.protocol.app_producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The buffer is empty."""
        self.protocol.blocked = False
        self.protocol.sending_resumed()
        self.protocol.write_waiting(SLICE)
        if not self.protocol.blocked:
            self.protocol.unblocked()
        # What was owed may have filled the buffer again.
        if self.protocol.app_producer is not None and not self.protocol.blocked:
            self.protocol.app_producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""
        self.protocol.stop_app_producer()


class CommonProtocol:
    """Mixed in before Autobahn's protocol of either role.

    The subclass gives `receive_opening` (bytes before the WebSocket is open) and the role's own
    end of an unsuccessful opening handshake.
    """

    # What Autobahn gives; it has no type information.
    factory: Any
    transport: Any
    state: int
    data: bytes
    trafficStats: Any
    is_open: Any
    is_closed: Any
    peer: str | None
    maxMessagePayloadSize: int
    autoPingInterval: float
    autoPingTimeout: float
    autoPingPendingCall: IDelayedCall | None
    closeHandshakeTimeout: float
    maskClientFrames: bool
    maskServerFrames: bool

    log: ClassVar[_ProtocolLog] = _ProtocolLog(namespace="wsframe.protocol")

    blocked = False
    """Whether the transport's buffer is full."""

    backlog = 0
    """Bytes that wait here until the transport takes more."""

    app_producer: IPushProducer | None = None
    """The application's own producer, when it registered one."""

    open_error: OpenError | None = None
    """Why the WebSocket did not open, once that is known."""

    tap: Tap | None = None
    """What every byte is told to, while the connection is traced."""

    streamed = False
    """Whether the application ever sent a frame in parts."""

    # ---------------------------------------------------------------- from the transport

    def connectionMade(self) -> None:
        """Twisted: the transport is connected; the opening handshake begins."""
        self._now = monotonic_clock(self.factory.reactor)
        self.closing = Closing()
        self._discarding = False
        self._reading_paused = False
        self._fragments = 0
        self._owed_pong: bytes | None = None
        self._ping_payload: bytes | None = None
        self._abort_call: IDelayedCall | None = None
        self._waiting: deque[bytes] = deque()
        self.keepalive = Keepalive(None, None)
        self._wake_at = math.inf
        self._unsent: int | None = None
        if getattr(self, "tcpNoDelay", self.factory.tcpNoDelay):
            # Autobahn asks for it before it has copied the option, and drops the AttributeError.
            set_no_delay(self.transport)
        set_keepalive(self.transport, self.options)
        self.transport.registerProducer(_Outgoing(self), True)
        if self.factory.trace is not None:
            self.tap = self._new_tap(self.factory.trace)
            # Autobahn finds out the peer, and sends, in the same breath.
            details = create_transport_details(self.transport, self.factory.isServer)
            self.tap.begin(details.peer or "unknown")
        super().connectionMade()  # type: ignore[misc]

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the peer."""
        if self.tap is not None:
            self.tap.received(data)
        if self._discarding:
            return
        if self.state == WebSocketProtocol.STATE_CONNECTING:
            self.receive_opening(data)
        else:
            self.keepalive.received(self._now())
            self._dataReceived(data)  # type: ignore[attr-defined]

    def consumeData(self) -> None:
        """Autobahn: parse what has come."""
        try:
            super().consumeData()  # type: ignore[misc]
        except Exception:  # noqa: BLE001 - raised by one of the application's frame hooks
            self.application_failed(Failure())

    def receive_opening(self, data: bytes) -> None:
        """Take bytes of the opening handshake."""
        raise NotImplementedError

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone. Every timer ends here."""
        self._discarding = True
        self._reading_paused = False
        self.stop_app_producer()
        for name in ("_abort_call", "openHandshakeTimeoutCall", "autoPingPendingCall"):
            self._cancel(name)
        self.closing.lose(None, _lost_text(reason))
        if self.tap is not None:
            self.tap.ended(self.closing.settle())
            self.tap = None
        if not self.is_open.called:
            error = self.open_error or OpenError(
                f"the connection was lost: {self.closing.reason}", phase="handshake"
            )
            quiet_errback(self.is_open, Failure(error))
        if reason.check(SSL.Error):
            text = "TLS with {peer!r} failed: {error}"
            _log.info(text, peer=self.peer, error=reason.getErrorMessage())
        cast(Any, self)._connectionLost(reason)

    def _cancel(self, name: str) -> None:
        call = getattr(self, name, None)
        setattr(self, name, None)
        if call is not None and call.active():
            call.cancel()

    # ---------------------------------------------------------------- to the transport

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Take the application's producer; it is paused and resumed with the transport."""
        if self.app_producer is not None:
            raise RuntimeError("a producer is registered already; unregister it first")
        if not streaming:
            raise ValueError("only push (streaming) producers are supported")
        self.app_producer = producer
        if self.blocked:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Let the application's producer go."""
        self.app_producer = None

    def stop_app_producer(self) -> None:
        """Tell the application's producer, once, that nothing can be sent any more."""
        producer, self.app_producer = self.app_producer, None
        if producer is not None:
            producer.stopProducing()

    def pause_reading(self) -> None:
        """Read no more from the transport until `resume_reading`."""
        if not self._reading_paused and not self._discarding:
            self._reading_paused = True
            self.keepalive.reading_paused(self._now())
            self._arm_keepalive()
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again. The time in which we did not listen is not held against the peer."""
        if self._reading_paused:
            self._reading_paused = False
            self.keepalive.reading_resumed(self._now())
            self._arm_keepalive()
            self.transport.resumeProducing()

    def sending_blocked(self) -> None:
        """The transport's buffer is full: from now on the peer has to take some of it."""
        self._unsent = None
        self.keepalive.sending_blocked(self._now())
        self._arm_keepalive()

    def sending_resumed(self) -> None:
        """The transport's buffer is empty again."""
        self.keepalive.sending_resumed(self._now())

    def unblocked(self) -> None:
        """The transport's buffer is empty again: the pong that is still owed goes first."""
        owed, self._owed_pong = self._owed_pong, None
        if owed is not None and self.state == WebSocketProtocol.STATE_OPEN:
            self.sendFrame(frames.PONG, owed)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn: write bytes. Above the limit on what may wait, the connection is failed."""
        if self._discarding:
            return  # nothing follows a Close frame, or the end
        if chopsize or cast(Any, self).send_queue:
            super().sendData(data, sync, chopsize)  # type: ignore[misc]
            return
        if not self.blocked:
            if self.tap is not None:
                self.tap.sent(data)
            self.transport.write(data)
            return
        self.backlog += len(data)
        self._waiting.append(data)
        if self.backlog > self.options.send_buffer and not self.failedByMe:
            self._fail_connection(1008, "the peer reads too slowly: send buffer full")

    def write_waiting(self, most: int | None = None) -> None:
        """Give the transport what waits: about so many bytes, None all of it."""
        while self._waiting and not (most is not None and self.blocked):
            part: list[bytes] = []
            size = 0
            while self._waiting and (most is None or size < most):
                part.append(self._waiting.popleft())
                size += len(part[-1])
            self.backlog -= size
            joined = b"".join(part)
            if self.tap is not None:
                self.tap.sent(joined)
            self.transport.write(joined)

    def _send(self) -> None:
        """Autobahn: write the next chopped piece; on our reactor, not on a global one."""
        queue = cast(Any, self).send_queue
        if not queue or self.state == WebSocketProtocol.STATE_CLOSED:
            queue.clear()
            cast(Any, self).triggered = False
            return
        chopped = queue.popleft()[0]
        if self.tap is not None:
            self.tap.sent(chopped)
        self.transport.write(chopped)
        self.factory.reactor.callLater(0, self._send)

    @property
    def options(self) -> ConnectionOptions:
        """The limits that Autobahn has no names for."""
        return cast(ConnectionOptions, self.factory.options)

    # ---------------------------------------------------------------- tracing

    def use_trace(self, trace: Trace | None) -> None:
        """Trace the open WebSocket from here on, or, with None, no longer."""
        if self.tap is not None and self.tap.trace is trace:
            return
        self.tap = None
        is_open = self.state in {WebSocketProtocol.STATE_OPEN, WebSocketProtocol.STATE_CLOSING}
        if trace is not None and is_open:
            self.tap = self._new_tap(trace)
            request = getattr(self, "request", None)
            if request is not None:
                self.tap.learn(request)
            sent_left, received_left = self._sent_left(), self._received_left()
            self.tap.join(self.peer or "unknown", sent_left=sent_left, received_left=received_left)
            self.tap.received(self.data)  # it has come, and is not parsed yet

    def _new_tap(self, trace: Trace) -> Tap:
        role: Role = "server" if self.factory.isServer else "client"
        return trace.tap(self, role, secure=ISSLTransport.providedBy(self.transport))

    def _sent_left(self) -> int | None:
        """Return how much the transport has still to be given of a frame; None if nobody knows."""
        this = cast(Any, self)
        if this.send_queue or (self.streamed and self._waiting):
            return None
        if this.send_state != WebSocketProtocol.SEND_STATE_INSIDE_MESSAGE_FRAME:
            return 0
        return cast(int, this.send_message_frame_length - this.send_message_frame_masker.pointer())

    def _received_left(self) -> int:
        """Return how much is still to be parsed of a frame that has begun."""
        this = cast(Any, self)
        if this.current_frame is None:
            return 0
        return cast(int, this.current_frame.length - this.current_frame_masker.pointer())

    # ---------------------------------------------------------------- frames out

    def sendFrame(
        self,
        opcode: int,
        payload: bytes = b"",
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = None,
        payload_len: int | None = None,
        chopsize: int | None = None,
        sync: bool = False,
    ) -> None:
        """Autobahn: send one frame; the mask comes from the system's random source (§10.3)."""
        if payload_len is not None:
            payload = (payload * (payload_len // max(1, len(payload)) + 1))[:payload_len]
        key = mask or self._mask_key()
        head = frames.frame_head(opcode, len(payload), fin=fin, rsv=rsv, key=key)
        if opcode <= frames.BINARY:
            self.trafficStats.outgoingWebSocketFrames += 1
        self.sendData(head + (apply_mask(payload, key) if key else payload), sync, chopsize)

    def _mask_key(self) -> bytes:
        masked = self.maskServerFrames if self.factory.isServer else self.maskClientFrames
        return os.urandom(4) if masked else b""

    def sendMessage(
        self,
        payload: bytes,
        isBinary: bool = False,
        fragmentSize: int | None = None,
        sync: bool = False,
        doNotCompress: bool = False,
    ) -> None:
        """Autobahn: send a message. The limit on received messages does not bind those sent."""
        if not isinstance(payload, bytes):
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
        if self.state != WebSocketProtocol.STATE_OPEN:
            raise Disconnected("the WebSocket is not open")
        stats = self.trafficStats
        stats.outgoingWebSocketMessages += 1
        stats.outgoingOctetsAppLevel += len(payload)
        rsv = 0
        compress = cast(Any, self)._perMessageCompress
        if len(payload) < self.factory.compress_from:
            doNotCompress = True
        if compress is not None and not doNotCompress:
            compress.start_compress_message()
            payload = compress.compress_message_data(payload) + compress.end_compress_message()
            rsv = 4
        stats.outgoingOctetsWebSocketLevel += len(payload)
        opcode = frames.BINARY if isBinary else frames.TEXT
        size = fragmentSize or cast(Any, self).autoFragmentSize or len(payload)
        if size < 0:
            raise ValueError(f"a fragment has at least 1 byte, not {size}")
        if len(payload) <= size:
            self.sendFrame(opcode, payload, rsv=rsv, sync=sync)
            return
        for start in range(0, len(payload), size):
            fin = start + size >= len(payload)
            self.sendFrame(opcode, payload[start : start + size], fin=fin, rsv=rsv, sync=sync)
            opcode, rsv = frames.CONTINUATION, 0

    def beginMessageFrame(self, length: int) -> None:
        """Autobahn: begin a frame of a streamed message; its mask, too, is unpredictable."""
        this = cast(Any, self)
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        begun = this.send_state == WebSocketProtocol.SEND_STATE_MESSAGE_BEGIN
        if not begun and this.send_state != WebSocketProtocol.SEND_STATE_INSIDE_MESSAGE:
            raise RuntimeError("beginMessageFrame is called outside a message")
        if not 0 <= length < 1 << 63:
            raise ValueError(f"{length!r} is not the length of a frame")
        key = self._mask_key()
        self.streamed = True
        this.send_message_frame_length = length
        this.send_message_frame_mask = key or None
        this.send_message_frame_masker = create_xor_masker(key or b"\0\0\0\0", length)
        opcode = this.send_message_opcode if begun else frames.CONTINUATION
        rsv = 4 if begun and this.send_compressed else 0
        self.trafficStats.outgoingWebSocketFrames += 1
        self.sendData(frames.frame_head(opcode, length, fin=False, rsv=rsv, key=key))
        this.send_state = WebSocketProtocol.SEND_STATE_INSIDE_MESSAGE_FRAME

    def sendPong(self, payload: bytes | None = None) -> None:
        """Autobahn: send a pong. While the peer does not read only the latest is owed (§5.5.3)."""
        if self.blocked:
            self._owed_pong = payload or b""
        else:
            super().sendPong(payload)  # type: ignore[misc]

    # ---------------------------------------------------------------- frames in

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = 0
        super()._onMessageBegin(isBinary)  # type: ignore[misc]

    def _onMessageFrameBegin(self, length: int) -> None:
        super()._onMessageFrameBegin(length)  # type: ignore[misc]
        self._fragments += 1
        if self._fragments > self.options.max_fragments:
            self._fail_connection(1008, "the message has too many fragments")

    def _onMessageFrameData(self, payload: bytes) -> None:
        super()._onMessageFrameData(payload)  # type: ignore[misc]
        parts = getattr(self, "frame_data", None)
        if parts is not None and len(parts) > MANY_PARTS:
            parts[:] = [b"".join(parts)]

    def _onMessageEnd(self) -> None:
        self.keepalive.message()
        super()._onMessageEnd()  # type: ignore[misc]

    def _onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.call_application(cast(Any, self).onMessage, payload, isBinary)

    def _onPing(self, payload: bytes) -> None:
        self.call_application(cast(Any, self).onPing, payload)

    def _onPong(self, payload: bytes) -> None:
        if payload == self._ping_payload:
            self._ping_payload = None
            latency = self.keepalive.ponged(self._now())
            self._arm_keepalive()
            if latency is not None:
                self._on_latency(latency, payload)
        self.call_application(cast(Any, self).onPong, payload)

    def _on_latency(self, latency: float, payload: bytes) -> None:
        """Tell an Autobahn application, in its own units, of the answered ping."""
        received = int(self._now() * 1e9)
        sent = received - int(latency * 1e9)
        sequence = int.from_bytes(payload[:4])
        self.call_application(
            cast(Any, self).onAutoPong, sent, sequence, received, int(latency * 1000), payload
        )

    def _onOpen(self) -> None:
        if cast(Any, self)._transport_details.is_secure:
            # The certificate and the channel's ID are known now that TLS has shaken hands.
            this = cast(Any, self)
            this._transport_details = create_transport_details(self.transport, this.is_server)
        # Only now is it known what the application set for this connection.
        options = self.options
        self.keepalive = Keepalive(
            self.autoPingInterval or None,
            self.autoPingTimeout or None,
            pong_timeout=options.pong_timeout,
            message_timeout=options.message_timeout,
            write_timeout=options.write_timeout,
        )
        self.keepalive.start(self._now())
        self._cancel("autoPingPendingCall")  # Autobahn's own
        if self.blocked:
            self.sending_blocked()
        self._arm_keepalive()
        if self.tap is None and self.factory.trace is not None:
            self.use_trace(self.factory.trace)  # it was set during the opening handshake
        self.call_application(cast(Any, self).onOpen)

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Autobahn: report the end; the code and reason are what really was (not just 1006)."""
        outcome = self.closing.settle()
        self.call_application(cast(Any, self).onClose, outcome.clean, outcome.code, outcome.reason)

    def call_application(self, hook: Callable[..., object], *args: object) -> None:
        """Call application code: an exception ends this connection with 1011 and is logged."""
        try:
            result = hook(*args)
        except Exception:  # noqa: BLE001 - whatever the application raises
            self.application_failed(Failure())
        else:
            if result is not None:
                run(lambda: result).addErrback(self.application_failed)

    def application_failed(self, failure: Failure) -> None:
        """Log what application code raised, and close with 1011."""
        _log.failure("Error in the application, peer {peer!r}", failure, peer=self.peer)
        self._fail_connection(1011, "internal error")

    # ---------------------------------------------------------------- keepalive

    def _arm_keepalive(self) -> None:
        """See to it that the timer runs out by the deadline; earlier does no harm."""
        deadline = self.keepalive.deadline
        if deadline is None or (self.autoPingPendingCall and self._wake_at <= deadline):
            return
        self._cancel("autoPingPendingCall")
        self._wake_at = deadline
        delay = max(0.0, deadline - self._now())
        self.autoPingPendingCall = self.factory.reactor.callLater(delay, self._sendAutoPing)

    def _sendAutoPing(self) -> None:
        """Autobahn: the keepalive timer it starts at the opening has run out."""
        now = self._now()
        call, self.autoPingPendingCall = self.autoPingPendingCall, None
        if now - self._wake_at > BLOCKED and call is not None:
            # By the reactor's clock, too: one that was set back is no blocked loop.
            reactor = self.factory.reactor
            late = min(now - self._wake_at, reactor.seconds() - call.getTime())
            loop_watch(reactor).late(now - late, now)
        if self.blocked:
            unsent, before = unsent_bytes(self.transport), self._unsent
            self._unsent = unsent
            if before is not None and unsent != before:
                self.keepalive.sent(now)
        action = self.keepalive.wake(now)
        if action is Action.PING:
            self._ping_payload = os.urandom(8)
            self.sendFrame(frames.PING, self._ping_payload)
        elif action is not Action.NOTHING:
            self._give_up(action)
            return
        self._arm_keepalive()

    def _give_up(self, action: Action) -> None:
        options = self.options
        if action is Action.PEER_SILENT:
            cast(Any, self).onAutoPingTimeout()
        elif action is Action.PONG_OVERDUE:
            self.closing.begin("local", 1011, "keepalive pong timeout")
            self.dropConnection(abort=True)
        elif action is Action.NO_MESSAGE:
            self.start_close(3008, f"no message for {options.message_timeout:g} s".encode())
        else:
            reason = f"the peer took nothing that waits to be sent for {options.write_timeout:g} s"
            cast(Any, self).wasNotCleanReason = reason
            self.dropConnection(abort=True)

    def onAutoPingTimeout(self) -> None:
        """Autobahn: the peer did not answer a ping; it is dead, and TCP is aborted."""
        self.closing.begin("local", 1011, "keepalive ping timeout")
        self.dropConnection(abort=True)

    # ---------------------------------------------------------------- closing

    failedByMe = False

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """Autobahn: fail the connection (§7.1.7): tell the peer why, then read nothing more."""
        if self.failedByMe or self.state == WebSocketProtocol.STATE_CLOSED:
            return
        self.failedByMe = True
        cast(Any, self).wasNotCleanReason = reason
        _log.info(
            "Failing the connection of {peer!r} with {code}: {reason!r}",
            peer=self.peer,
            code=code,
            reason=reason,
        )
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendCloseFrame(code, truncate_reason(reason))
        self.linger()

    def _protocol_violation(self, reason: str) -> bool:
        self._fail_connection(1002, reason)
        return True  # Autobahn: parse no further

    def _invalid_payload(self, reason: str) -> bool:
        self._fail_connection(1007, reason)
        return True

    def onOpenHandshakeTimeout(self) -> None:
        """Autobahn: the opening handshake took longer than `openHandshakeTimeout` seconds."""
        if self.state == WebSocketProtocol.STATE_CONNECTING:
            text = "the opening handshake was not finished in time"
            self.open_error = OpenTimeout(text, phase="handshake")
            cast(Any, self).wasOpenHandshakeTimeout = True
            cast(Any, self).wasNotCleanReason = text
            self.dropConnection(abort=True)

    def sendClose(self, code: int | None = None, reason: str | None = None) -> None:
        """Autobahn: begin the closing handshake; Autobahn's own refuses 1001 to 2999.

        A reason that is too long is cut off, as Autobahn does it.
        """
        if code is None and reason is not None:
            raise ValueError("a close reason needs a close code")
        encoded = truncate_reason(reason or "")
        if code is not None:
            check_close(code, encoded.decode())
        self.start_close(code, encoded)

    def start_close(self, code: int | None, reason: bytes) -> None:
        """Begin the closing handshake, with any code that a frame may carry."""
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendCloseFrame(code, reason)
            self.resume_reading()

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Autobahn: send a Close frame. From then on one timer bounds everything that follows."""
        this = cast(Any, self)
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        reason = reasonUtf8 or b""
        self.sendFrame(frames.CLOSE, (b"" if code is None else code.to_bytes(2)) + reason)
        self.state = WebSocketProtocol.STATE_CLOSING
        this.closedByMe = not isReply
        this.localCloseCode, this.localCloseReason = code, reasonUtf8
        self.closing.begin("local", code, reason.decode())
        self._stop_keepalive()
        self._arm_abort()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """Autobahn: a Close frame came. Whatever follows it is not looked at (§5.5.1)."""
        this = cast(Any, self)
        if code is not None and not is_valid_code(code):
            return self._protocol_violation(f"invalid close code {code}")
        try:
            reason = (reasonRaw or b"").decode()
        except UnicodeDecodeError:
            return self._invalid_payload("the close reason is not UTF-8")
        this.remoteCloseCode, this.remoteCloseReason = code, reason
        self.closing.begin("remote", code, reason)
        if self.state == WebSocketProtocol.STATE_OPEN:
            echoed = reasonRaw if this.echoCloseCodeReason else None
            self.sendCloseFrame(code, echoed, isReply=True)
        this.wasClean = self.closing.clean
        self.resume_reading()  # or the end of TCP would not be seen
        self._discarding = True
        self.data = b""
        if self.factory.isServer:
            # The server ends TCP first (§7.1.1), so that its side holds the TIME_WAIT.
            self.transport.unregisterProducer()
            self.write_waiting()
            self.transport.loseConnection()
        return True

    def linger(self) -> None:
        """Read no more, let the last bytes go out, and end TCP: politely, then by the deadline.

        Where it can be, only our direction is closed and what still comes in is thrown away:
        closing a socket with unread bytes would reset it, and the peer might never see why.
        """
        self._stop_keepalive()
        self.resume_reading()
        self._discarding = True
        self.data = b""
        self.transport.unregisterProducer()
        self.write_waiting()
        secure = ISSLTransport.providedBy(self.transport)
        if hasattr(self.transport, "loseWriteConnection") and not secure:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()
        self._arm_abort()

    def dropConnection(self, abort: bool = False) -> None:
        """Autobahn: end TCP without a closing handshake."""
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return
        cast(Any, self).droppedByMe = True
        self.state = WebSocketProtocol.STATE_CLOSED
        self.is_closed.callback(self)
        self._stop_keepalive()
        if abort:
            self.abort("local", cast(Any, self).wasNotCleanReason or "dropped")
        else:
            self.linger()

    def abort(self, by: Side, reason: str) -> None:
        """End TCP at once; what waits to be sent is lost."""
        self.closing.lose(by, reason)
        self._discarding = True
        self._waiting.clear()
        self.transport.unregisterProducer()
        abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
        abort()

    def _stop_keepalive(self) -> None:
        self.keepalive.stop()
        self._cancel("autoPingPendingCall")

    def _arm_abort(self) -> None:
        if self._abort_call is None:
            self._abort_call = self.factory.reactor.callLater(
                self.closeHandshakeTimeout or self.options.close_timeout, self._close_timed_out
            )

    def _close_timed_out(self) -> None:
        self._abort_call = None
        cast(Any, self).wasClean = False
        cast(Any, self).wasCloseHandshakeTimeout = True
        self.abort("local", "the closing handshake was not finished in time")


class CommonFactory:
    """Mixed in before Autobahn's factory of either role."""

    reactor: IReactorTime
    isServer: bool
    options: ConnectionOptions

    trace: Trace | None = None
    """What the connections that come are written down in."""

    compress_from = 0
    """Bytes from which a message is compressed, where compression was agreed on."""

    def use_options(self, options: ConnectionOptions) -> None:
        """Put the options into the attributes that Autobahn reads."""
        self.options = options
        this = cast(Any, self)
        this.maxMessagePayloadSize = options.max_message_size
        this.maxFramePayloadSize = 0  # a frame is part of a message
        this.autoPingInterval = options.ping_interval or 0
        this.autoPingTimeout = options.ping_timeout or 0
        this.closeHandshakeTimeout = options.close_timeout
        this.failByDrop = False  # the peer is told what was wrong
        this._batched_timer = ReactorTimer(self.reactor)

    def prepareMessage(
        self, payload: bytes, isBinary: bool = False, doNotCompress: bool = False
    ) -> PreparedMessage:
        """Autobahn: a message to be sent many times; a client's has an unpredictable mask."""
        prepared = PreparedMessage(payload, isBinary, False, doNotCompress)
        if not self.isServer:
            key = os.urandom(4)
            opcode = frames.BINARY if isBinary else frames.TEXT
            head = frames.frame_head(opcode, len(payload), key=key)
            prepared.payloadHybi = head + apply_mask(payload, key)
        return prepared


def _lost_text(reason: Failure) -> str:
    """Return what a loss of the transport means, in a few words and without addresses."""
    if reason.check(type(connectionDone.value)):
        return "the peer ended TCP without a Close frame"
    return str(reason.getErrorMessage()).rstrip(".")


__all__ = ["EARLY_BYTES", "CommonFactory", "CommonProtocol", "ReactorTimer", "apply_mask"]
