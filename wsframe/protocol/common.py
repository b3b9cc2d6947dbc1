"""What both roles need beyond Autobahn, put together; and what their factories share.

Autobahn parses frames and negotiates; this mixin stands before it and decides what it is fed, what
its decisions lead to, and when a connection ends. Its parts are the places where Autobahn's weak
spots are mended, each said where it is mended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from autobahn.twisted.util import create_transport_details, peer2str
from autobahn.websocket.protocol import PreparedMessage, Timings, WebSocketProtocol
from OpenSSL import SSL
from twisted.internet.interfaces import IReactorTime, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import quiet_errback
from wsframe.core import frames
from wsframe.deadlines import Deadline, Deadlines, deadlines_of
from wsframe.errors import OpenError
from wsframe.options import ConnectionOptions
from wsframe.protocol.attributes import settings_of
from wsframe.protocol.deflate import whole
from wsframe.protocol.ending import Ending
from wsframe.protocol.liveness import Liveness
from wsframe.protocol.masking import apply_mask
from wsframe.protocol.prepared import Prepared, SendingPrepared, Turns
from wsframe.protocol.receiving import Receiving
from wsframe.protocol.sending import Outgoing, Sending
from wsframe.protocol.tcp import set_tcp_options, share_transport_names
from wsframe.trace import Trace

if TYPE_CHECKING:
    from wsframe.core.trace import Role
    from wsframe.tap import Tap

__all__ = ["CommonFactory", "CommonProtocol"]

_log = Logger(namespace="wsframe.protocol")


class _Timer:
    """Autobahn's `call_later`, on the factory's own reactor and not in batches of 0.2 s."""

    __slots__ = ("_factory",)

    def __init__(self, factory: CommonFactory) -> None:
        self._factory = factory

    def call_later(self, delay: float, function: Callable[[], object]) -> Deadline:
        """Call the function in `delay` seconds."""
        return self._factory.deadlines.call_later(delay, function)


class CommonProtocol(Receiving, Sending, SendingPrepared, Liveness, Ending):
    """Mixed in before Autobahn's protocol of either role.

    The subclass gives `receive_opening` (bytes before the WebSocket is open) and the role's own
    end of an unsuccessful opening handshake.
    """

    def connectionMade(self) -> None:
        """Twisted: the transport is connected; the opening handshake begins."""
        share_transport_names(self.transport)
        self._settings = settings_of(self)
        self._now = self.factory.deadlines.now
        no_delay = bool(cast(Any, self).tcpNoDelay)
        set_tcp_options(self.transport, self.options, no_delay=no_delay)
        self.transport.registerProducer(Outgoing(self), True)
        self.peer = peer2str(self.transport)
        if self.factory.trace is not None:
            self.tap = self._new_tap(self.factory.trace)
            # On a client the opening handshake is sent in the same breath.
            self.tap.begin(self.peer or "unknown")
        self._connectionMade()

    def _connectionMade(self) -> None:
        """Autobahn: begin; what it sets on every connection is on the class."""
        this = cast(Any, self)
        if this.trackTimings:
            self.trackedTimings = Timings()
        # Read for every read and every frame: closer at hand than the other settings.
        this.logOctets, this.autoFragmentSize = this.logOctets, this.autoFragmentSize
        if this.openHandshakeTimeout > 0:
            self.openHandshakeTimeoutCall = self.factory.deadlines.call_later(
                this.openHandshakeTimeout, self.onOpenHandshakeTimeout
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone. Every timer ends here."""
        if self.await_rest(reason):
            return
        self._discarding = True
        self._reading_paused = False
        self.stop_app_producer()
        self.drop_received()
        self.drop_waiting()
        if ISSLTransport.providedBy(self.transport):
            cast(Any, self.transport).unregisterProducer()  # TLS keeps it, and with it us
        for name in (
            "_abort_call",
            "_rest_call",
            "openHandshakeTimeoutCall",
            "autoPingPendingCall",
        ):
            self._cancel(name)
        self.closing.lose(None, _lost_text(reason))
        if self.tap is not None:
            self.tap.ended(self.closing.settle())
            self.tap = None
        if not self.opened_once:
            error = self.open_error or OpenError(
                f"the connection was lost: {self.closing.reason}", phase="handshake"
            )
            quiet_errback(self.is_open, Failure(error))
        if reason.check(SSL.Error):
            text = "TLS with {peer!r} failed: {error}"
            _log.info(text, peer=self.peer, error=reason.getErrorMessage())
        self._connectionLost(reason)

    def _connectionLost(self, reason: Failure) -> None:
        """Autobahn: the connection is closed, if it was not before; the application is told."""
        self.tell_closed()
        if not (self.wasClean or self.droppedByMe) and self.wasNotCleanReason is None:
            self.wasNotCleanReason = "peer dropped TCP without a WebSocket closing handshake"
        self._onClose(self.wasClean, self.remoteCloseCode, self.remoteCloseReason)
        self._listeners = None  # often our own methods

    def _onOpen(self) -> None:
        if ISSLTransport.providedBy(self.transport):
            # The certificate and the channel's ID are known now that TLS has shaken hands.
            this = cast(Any, self)
            this._transport_details = create_transport_details(self.transport, this.is_server)
        if self._perMessageCompress is not None:
            self._perMessageCompress = whole(self._perMessageCompress)
        self.begin_keepalive()
        self.begin_lane()
        self.begin_sending()
        if self.tap is None and self.factory.trace is not None:
            self.use_trace(self.factory.trace)  # it was set during the opening handshake
        self.call_application(cast(Any, self).onOpen)

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

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Autobahn: report the end; the code and reason are what really was (not just 1006)."""
        outcome = self.closing.settle()
        self.call_application(cast(Any, self).onClose, outcome.clean, outcome.code, outcome.reason)

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
            self.tap.received(self.unparsed())

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

    def _received_left(self) -> int | None:
        """Return how much is still to come of a frame that has begun; None if nobody knows."""
        this = cast(Any, self)
        if self._discarding:
            return None
        if self._partial is not None:
            return self._partial.missing
        if this.current_frame is None:
            return 0
        return cast(int, this.current_frame.length - this.current_frame_masker.pointer())


class CommonFactory:
    """Mixed in before Autobahn's factory of either role."""

    reactor: IReactorTime
    isServer: bool
    options: ConnectionOptions

    settings: tuple[Any, ...] = ()
    """The values of Autobahn's options, shared by the connections that were made with them."""

    trace: Trace | None = None
    """What the connections that come are written down in."""

    compress_from = 0
    """Bytes from which a message is compressed, where compression was agreed on."""

    @cached_property
    def deadlines(self) -> Deadlines:
        """What wakes the connections."""
        return deadlines_of(self.reactor)

    @cached_property
    def turns(self) -> Turns:
        """How messages that were prepared come."""
        return Turns(self.reactor)

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
        this._batched_timer = _Timer(self)

    def prepareMessage(
        self, payload: bytes, isBinary: bool = False, doNotCompress: bool = False
    ) -> PreparedMessage:
        """Autobahn: a message to be sent many times; a client's has an unpredictable mask."""
        if self.isServer:
            return Prepared(payload, isBinary, doNotCompress, self.turns)
        prepared = PreparedMessage(payload, isBinary, False, doNotCompress)
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
