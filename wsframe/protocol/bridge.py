"""The bridge from Autobahn's hooks to a `Listener`: where camelCase ends.

`Wire` is what a `Connection` sees of its protocol, `Listener` what the protocol sees of the
connection. Neither knows more of the other.
"""

from __future__ import annotations

from collections.abc import Awaitable as AwaitableABC
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, cast

from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import run
from wsframe.core import frames
from wsframe.core.frames import Message
from wsframe.core.http import Headers, HeadersLike, Request, Response
from wsframe.core.keepalive import RoundTrip
from wsframe.core.opening import RequestHeaders
from wsframe.core.uri import WebSocketURI
from wsframe.errors import ConnectionClosed, Reject, Side
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.protocol.client import WebSocketClientFactory, WebSocketClientProtocol
from wsframe.protocol.common import CommonProtocol
from wsframe.protocol.deflate import accept_answer, accept_offer, offer
from wsframe.protocol.server import WebSocketServerFactory, WebSocketServerProtocol
from wsframe.protocol.shared import SharedMessage
from wsframe.protocol.tcp import send_at_once, write

__all__ = [
    "OPEN",
    "Accept",
    "ConnectionClientFactory",
    "ConnectionServerFactory",
    "Listener",
    "ProcessRequest",
    "Wire",
]

_log = Logger(namespace="wsframe.server")

OPEN: Final[int] = WebSocketProtocol.STATE_OPEN
"""`Wire.state` while messages can be sent."""


class Accept:
    """What `process_request` may return to admit a client and say more about it.

    `principal` is the name that the client proved, None for nobody; it becomes
    `Connection.principal`. `headers` are added to the answer.
    """

    __slots__ = ("headers", "principal")

    def __init__(self, principal: str | None = None, headers: HeadersLike = ()) -> None:
        self.principal = principal
        self.headers = Headers(headers)


Answer = Accept | Response | None
ProcessRequest = Callable[[Request], Answer | AwaitableABC[Answer]]
"""Judges a request: returns None or an `Accept` to go on, a `Response` to answer with that, raises
`Reject` to refuse; or an awaitable of these."""


class Listener(Protocol):
    """What a protocol tells the connection that it carries."""

    def messages_received(self, messages: list[Message], octets: int) -> None:
        """Complete messages came, of so many bytes in all; `deliver` follows."""

    def deliver(self) -> None:
        """All messages of a read from the transport are there."""

    def pong_received(self, payload: bytes) -> None:
        """A pong came that is not for the keepalive."""

    def transport_unblocked(self) -> None:
        """The send buffer is empty again."""

    def sending_ended(self) -> None:
        """Nothing that is not with the transport will be sent any more."""

    def transport_lost(self, outcome: ConnectionClosed) -> None:
        """The transport is gone; nothing follows."""


class Wire(CommonProtocol):
    """Mixed in before the role's protocol: everything goes to the listener, in snake_case.

    It is all that a connection sees of its protocol; `peer`, `request`, `response`, `blocked`,
    `pause_reading`, `resume_reading`, `start_close` and `abort` are inherited.
    """

    counts_traffic = False  # a `Connection` has counts of its own

    listener: Listener | None = None
    principal: str | None = None
    request: Request | None
    response: Response | None

    @property
    def uri(self) -> WebSocketURI | None:
        """Where a client is connected to, None on a server."""
        return None

    def opened(self) -> None:
        """Set `listener`: messages may follow at once."""
        raise NotImplementedError

    @property
    def can_send(self) -> bool:
        """Whether messages can be sent: open, and no Close frame sent or received."""
        return self.state == OPEN

    @property
    def outcome(self) -> ConnectionClosed:
        """What the end is, as far as it is known."""
        return self.closing.settle()

    @property
    def round_trip(self) -> RoundTrip:
        """What pings and their pongs took."""
        return self.keepalive.round_trip

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on."""
        return cast("str | None", cast(Any, self).websocket_protocol_in_use)

    @property
    def reactor(self) -> IReactorTime:
        """The reactor that timers run on."""
        return cast(IReactorTime, self.factory.reactor)

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._now()

    def send_message(self, payload: bytes, is_binary: bool) -> None:
        """Send a message; the transport buffers it."""
        if self._perMessageCompress is None:
            self.send_whole(frames.BINARY if is_binary else frames.TEXT, payload)
        else:
            self.sendMessage(payload, is_binary)

    def send_ping(self, payload: bytes) -> None:
        """Send a ping."""
        self.sendFrame(frames.PING, payload)

    def send_shared(self, shared: SharedMessage, quietly: bool = False) -> bool:
        """Send a message that many get, and return True; or False when this is not open.

        `quietly` sends it only where that calls nobody. False, not sent, where the peer reads too
        slowly, so that the connection may be failed for it, or where there is a trace.
        """
        if not self.can_send or (quietly and (self.blocked or self.tap is not None)):
            return False
        self.send_message(shared.payload, shared.is_binary)
        return True

    def prepare_shared(self, shared: SharedMessage) -> None:
        """Tell a message that is long whether it will be sent compressed, and how."""

    def fail(self, code: int, reason: str) -> None:
        """Fail the connection: a Close frame with that code, then nothing more is read."""
        self._fail_connection(code, reason)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        # What came before is handed out before the connection is failed, so that it is answered.
        if self.listener is not None and self.state == OPEN:
            self.listener.deliver()
        super()._fail_connection(code, reason)
        if self.state != OPEN:
            self._tell_sending_ended()

    def abort(self, by: Side, reason: str) -> None:
        """End TCP at once; what waits to be sent is lost."""
        super().abort(by, reason)
        self._tell_sending_ended()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """Autobahn: a Close frame came."""
        seen = super().onCloseFrame(code, reasonRaw)
        self._tell_sending_ended()
        return seen

    def _tell_sending_ended(self) -> None:
        if self.listener is not None:
            self.listener.sending_ended()

    def _onOpen(self) -> None:
        super()._onOpen()
        self.opened()

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the peer."""
        super().dataReceived(data)
        if self.listener is not None:
            self.listener.deliver()

    def read_taken(self) -> None:
        """All that can be taken of a read is taken."""
        if self.listener is not None:
            self.listener.deliver()

    def _onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.messages_received([payload if isBinary else payload.decode()], len(payload))

    def messages_received(self, messages: list[Message], octets: int) -> None:
        """Give messages that came to the listener."""
        if self.listener is not None:
            self.listener.messages_received(messages, octets)

    def _onPong(self, payload: bytes) -> None:
        super()._onPong(payload)
        if self.listener is not None:
            self.listener.pong_received(payload)

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            try:
                listener.transport_lost(self.closing.settle())
            except Exception:  # noqa: BLE001 - the server's books must be kept all the same
                _log.failure("Error at the end of {peer!r}", peer=self.peer)

    def unblocked(self) -> None:
        """The send buffer is empty again: what waits goes on."""
        super().unblocked()
        if self.listener is not None:
            self.listener.transport_unblocked()


_NOTHING_ADDED: Final = Response(101)
"""The answer that most connections of a server have got."""


class ServerWire(Wire, WebSocketServerProtocol):
    """The protocol of a connection that `serve` accepted."""

    factory: ConnectionServerFactory
    response: Response | None = _NOTHING_ADDED
    _deciding: Deferred[None] | None = None
    _answer_headers: Headers | None = None

    def connectionMade(self) -> None:
        self.factory.opening.add(self)
        super().connectionMade()

    def connectionLost(self, *args: Any) -> None:
        super().connectionLost(*args)
        if self._deciding is not None:
            self._deciding.cancel()
        if self in self.factory.opening:
            self.factory.opening.remove(self)
            self.factory.left()

    def admit(self, request: Request) -> None:
        """Ask `process_request`; a WebSocket follows only when it lets the client through."""
        process_request = self.factory.process_request
        if process_request is None:
            super().admit(request)
            return
        self._deciding = run(process_request, request)
        self._deciding.addCallbacks(self._decided, self._undecided, callbackArgs=(request,))

    def _decided(self, decision: object, request: Request) -> None:
        self._deciding = None
        if self._discarding:
            return  # the client left, or the time ran out
        if isinstance(decision, Response) and decision.status >= 200:
            self.refuse(decision, f"answered with {decision.status}")
            return
        if isinstance(decision, Accept):
            self.principal = decision.principal
            self._answer_headers = decision.headers
        elif decision is not None:
            # Critical, to be seen also where nobody has begun to log: every client is refused.
            _log.critical(
                "process_request returned {kind}, and not an Accept, a Response or None",
                kind=type(decision).__name__,
            )
            self.failHandshake("", 500)
            return
        super().admit(request)

    def _undecided(self, failure: Failure) -> None:
        self._deciding = None
        error = failure.value
        if isinstance(error, Reject):
            _log.info(
                "Refused {peer!r} with {status}: {reason!r}",
                peer=self.peer,
                status=error.status,
                reason=error.body or "",
            )
            self.refuse_with(error.status, error.body, error.headers)
        elif not self._discarding:
            _log.failure("Error in process_request, peer {peer!r}", failure, peer=self.peer)
            self.failHandshake("", 500)

    def onConnect(self, request: ConnectionRequest) -> tuple[str | None, dict[str, list[str]]]:
        """Autobahn: choose the subprotocol, for a request that had to be judged by it."""
        return self._choice(request.protocols)

    def choose(self, request: Request) -> None:
        self.succeedHandshake(self._choice(request.subprotocols))

    def _choice(self, offered: Collection[str]) -> tuple[str | None, dict[str, list[str]]]:
        """Return the first of our subprotocols that the client offers, and what is added."""
        ours = self.factory.options.subprotocols
        subprotocol = next((name for name in ours if name in offered), None)
        headers: dict[str, list[str]] = {}
        if self._answer_headers is not None:
            for name, value in self._answer_headers.pairs:
                headers.setdefault(name, []).append(value)
            self.response = Response(101, self._answer_headers)
        return subprotocol, headers

    def opened(self) -> None:
        self.factory.opening.discard(self)
        self.listener = self.factory.opened(self)

    def send_shared(self, shared: SharedMessage, quietly: bool = False) -> bool:
        # A subscriber costs hardly more than what is done here: no call that is not needed.
        if self.state != OPEN or self._discarding:
            return False
        is_plain = not (self.blocked or self.tap is not None or self.send_queue)
        if quietly and not is_plain:
            return False
        frame = shared.frame
        if self._perMessageCompress is not None and shared.size >= self.factory.compress_from:
            frame = shared.compressed_for(self._perMessageCompress)
        if not is_plain:
            self.sendData(frame)
        elif not (shared.at_once and send_at_once(self.transport, frame)):
            write(self.transport, frame)
        return True

    def prepare_shared(self, shared: SharedMessage) -> None:
        if self._perMessageCompress is not None and shared.size >= self.factory.compress_from:
            shared.prepare(self._perMessageCompress)


class ConnectionServerFactory(WebSocketServerFactory):
    """Builds the protocols of a server; `opened` is told of each open one.

    `opened` takes the `Wire` and returns its `Listener`. `process_request` None admits everyone
    whom the options admit. `opening` are the clients that are connected and not yet open; `left`
    is called when one of them is gone.
    """

    protocol = ServerWire

    def __init__(
        self,
        opened: Callable[[Wire], Listener],
        *,
        reactor: IReactorTime,
        options: ServerOptions,
        process_request: ProcessRequest | None = None,
        compression: Deflate | None = None,
    ) -> None:
        super().__init__(reactor=reactor, options=options)
        if compression is not None:
            self.compress_from = compression.threshold
            cast(Any, self).perMessageCompressionAccept = accept_offer(
                compression, options.max_message_size
            )
        self.opened = opened
        self.process_request = process_request
        self.opening: set[ServerWire] = set()
        self.left: Callable[[], None] = lambda: None

    def turn_away(self) -> None:
        """Answer 503 to the clients that have not finished their opening handshake."""
        for wire in list(self.opening):
            wire.failHandshake("the server is closing", 503)


class ClientWire(Wire, WebSocketClientProtocol):
    """The protocol of a connection that `connect` opens."""

    factory: ConnectionClientFactory

    @property
    def uri(self) -> WebSocketURI:
        return self.factory.uri

    def opened(self) -> None:
        self.listener = self.factory.opened(self)


class ConnectionClientFactory(WebSocketClientFactory):
    """Builds the protocol of one client connection; `opened` as for a server."""

    protocol = ClientWire

    def __init__(
        self,
        opened: Callable[[Wire], Listener],
        uri: WebSocketURI,
        *,
        headers: RequestHeaders,
        origin: str | None,
        subprotocols: tuple[str, ...],
        authorization: str | None = None,
        cookie: str | None = None,
        compression: Deflate | None = None,
        reactor: IReactorTime,
        options: ClientOptions,
    ) -> None:
        super().__init__(reactor=reactor, options=options)
        self.uri = uri
        this = cast(Any, self)
        this.isSecure, this.host, this.port, this.resource = (
            uri.secure,
            uri.host,
            uri.port,
            uri.target,
        )
        this.headers, this.origin, this.protocols = headers, origin, list(subprotocols)
        this.openHandshakeTimeout = 0  # the deadline is the whole chain's
        self.authorization, self.cookie = authorization, cookie
        if compression is not None:
            self.compress_from = compression.threshold
            this.perMessageCompressionOffers = [offer(compression)]
            this.perMessageCompressionAccept = accept_answer(compression, options.max_message_size)
        self.opened = opened
