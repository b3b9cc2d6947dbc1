"""The server's protocol and factory: the guard before Autobahn's opening handshake.

The raw head is read and judged here, within limits, before Autobahn sees a byte of it; what is
refused gets a complete HTTP answer and a connection that ends in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from autobahn.twisted import websocket as autobahn
from autobahn.websocket.compress import PERMESSAGE_COMPRESSION_EXTENSION
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.awaiting import run
from wsframe.clock import global_reactor
from wsframe.core.http import (
    HeadersLike,
    Request,
    RequestHeadError,
    RequestHeadReader,
    Response,
    check_header,
    phrase,
)
from wsframe.core.opening import accept_key, is_beyond_doubt, judge_request
from wsframe.options import DEFAULT_SERVER_OPTIONS, ServerOptions
from wsframe.protocol.asked import Asked
from wsframe.protocol.attributes import add_settings
from wsframe.protocol.common import CommonFactory, CommonProtocol
from wsframe.protocol.receiving import EARLY_BYTES

__all__ = ["WebSocketServerFactory", "WebSocketServerProtocol", "listenWS"]

_log = Logger(namespace="wsframe.protocol")

# Autobahn's annotations contradict each other where its classes are combined.
_AutobahnProtocol: Any = autobahn.WebSocketServerProtocol
_AutobahnFactory: Any = autobahn.WebSocketServerFactory
_COMPRESSIONS: dict[str, Any] = PERMESSAGE_COMPRESSION_EXTENSION

TURNED_AWAY: Final = 64
"""Clients over the limit that are being told so, each of which holds a file descriptor until it has
heard it; the next ones are cut without a word."""


@add_settings
class WebSocketServerProtocol(Asked, CommonProtocol, _AutobahnProtocol):  # type: ignore[misc]
    """Autobahn's server protocol with wsframe's bounds; see the package's docstring.

    `request` is the opening handshake's request once it has been read.
    """

    _head: RequestHeadReader | None = None
    factory: WebSocketServerFactory

    def connectionMade(self) -> None:
        """Twisted: a client connected."""
        super().connectionMade()
        options = self.factory.options
        self._head = RequestHeadReader(
            options.max_head_size, options.max_head_count, self.peer or ""
        )
        limit = cast(Any, self).maxConnections
        too_many = self.factory.countConnections - limit if limit > 0 else 0
        if too_many > TURNED_AWAY:
            self.abort("local", "too many connections")
        elif too_many > 0:
            # Now, not after a head that may never come: each connection holds a file descriptor.
            self.failHandshake("too many connections", 503, [("Retry-After", "5")])

    def _connectionMade(self) -> None:
        super()._connectionMade()
        self.factory.countConnections += 1

    def _connectionLost(self, reason: Failure) -> None:
        super()._connectionLost(reason)
        self.factory.countConnections -= 1

    def receive_opening(self, data: bytes) -> None:
        """Collect the head; once it is complete, judge it. More bytes wait for the decision."""
        if self._head is None or self.request is not None:
            self.data += data
            if len(self.data) > EARLY_BYTES:
                self.pause_reading()
            return
        try:
            complete = self._head.receive(data)
        except RequestHeadError as error:
            allow = [("Allow", "GET, HEAD")] if error.status == 405 else None
            self.failHandshake(str(error), error.status, allow)
            return
        if complete is None:
            return
        self.request, _, self.data = complete
        if not self.factory.own_origin_check:
            options = self.factory.options
            refusal = judge_request(
                self.request,
                origins=options.origins,
                hosts=options.hosts,
                require_origin=options.require_origin,
            )
            null_admitted = (
                self.factory.null_admitted and self.request.headers.get("Origin") == "null"
            )
            if refusal is not None and not (refusal.status == 403 and null_admitted):
                self.failHandshake(refusal.reason, refusal.status)
                return
        self.admit(self.request)

    def admit(self, request: Request) -> None:
        """Go on with a request that was judged: to the WebSocket, if that is what it asks for."""
        if not (request.is_upgrade and request.method == "GET"):
            self.failHandshake("this is a WebSocket server", 426, [("Upgrade", "websocket")])
            return
        head, self._head = cast(RequestHeadReader, self._head), None
        if self._is_plain(request):
            self.choose(request)
        else:
            self.data = head.raw + self.data
            self.processHandshake()

    def _is_plain(self, request: Request) -> bool:
        """Return whether nothing is left for Autobahn to judge, by the rules or by its options."""
        this = cast(Any, self)
        factory = self.factory
        return not (
            factory.own_origin_check
            or factory.externalPort
            or this.trustXForwardedFor
            or 13 not in this.versions
            or 0 < this.maxConnections < factory.countConnections
        ) and is_beyond_doubt(request)

    def choose(self, request: Request) -> None:
        """Have the application say what it accepts; by default anything, without a subprotocol."""
        if type(self).onConnect is _AutobahnProtocol.onConnect:
            self.succeedHandshake(None)
            return
        chosen = run(cast(Any, self).onConnect, self.connection_request())
        chosen.addCallbacks(self.succeedHandshake, self._not_chosen)

    def _not_chosen(self, failure: Failure) -> None:
        error: Any = failure.value
        if isinstance(error, ConnectionDeny):
            self.failHandshake(error.reason or phrase(error.code), error.code)
            return
        _log.failure("Error in the application's onConnect, peer {peer!r}", failure, peer=self.peer)
        self.failHandshake("the application's onConnect failed", 500)

    def succeedHandshake(self, res: object) -> None:
        """Autobahn: the application accepted; its headers are checked before they are sent."""
        if self.state != WebSocketProtocol.STATE_CONNECTING or self._discarding:
            return  # the client left, or the time ran out, while the application thought
        try:
            subprotocol, headers = res if isinstance(res, tuple) else (res, {})
            answer = self._answer(subprotocol, _checked(headers or {}))
        except _BadOffer as error:
            self.failHandshake(str(error))
            return
        except Exception:  # noqa: BLE001 - the application's answer is not one
            failure = Failure()
            _log.failure("Cannot answer as onConnect wants, peer {peer!r}", failure, peer=self.peer)
            self.failHandshake("the answer of onConnect is not one", 500)
            return
        self.sendData(answer)
        self.state = WebSocketProtocol.STATE_OPEN
        self._cancel("openHandshakeTimeoutCall")
        cast(Request, self.request).headers.pack()
        try:
            self._onOpen()
        except Exception:  # noqa: BLE001 - raised by whoever takes the connection over
            self.application_failed(Failure())
        self.tell_open()
        self.resume_reading()
        if self.data:
            self.consumeData()

    def _answer(self, subprotocol: object, headers: dict[str, list[str]]) -> bytes:
        """Return the bytes of the 101."""
        request, factory = cast(Request, self.request), cast(Any, self.factory)
        lines = ["HTTP/1.1 101 Switching Protocols"]
        if factory.server:
            lines.append(f"Server: {factory.server}")
        lines += ["Upgrade: WebSocket", "Connection: Upgrade"]
        for given in (_checked(factory.headers), headers):
            lines += [f"{name}: {value}" for name, values in given.items() for value in values]
        if subprotocol is not None:
            if subprotocol not in request.subprotocols:
                raise ValueError("the subprotocol accepted is none of those that were offered")
            self.websocket_protocol_in_use = str(subprotocol)
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        lines.append(f"Sec-WebSocket-Accept: {accept_key(request.headers['Sec-WebSocket-Key'])}")
        if "Sec-WebSocket-Extensions" in request.headers:
            accepted = self._compression()
            if accepted is not None:
                lines.append(f"Sec-WebSocket-Extensions: {accepted}")
        return "\r\n".join([*lines, "", ""]).encode()

    def _compression(self) -> str | None:
        """Choose among the client's offers of compression; return what the answer says of it."""
        this = cast(Any, self)
        offers = []
        for name, parameters in this.websocket_extensions:
            if name in _COMPRESSIONS:
                try:
                    offer = _COMPRESSIONS[name]["Offer"].parse(parameters)
                except Exception as error:  # noqa: BLE001 - Autobahn's are plain Exceptions
                    raise _BadOffer(str(error)) from None
                offers.append(offer)
        accepted = this.perMessageCompressionAccept(offers) if offers else None
        if accepted is None:
            return None
        kind = _COMPRESSIONS[accepted.EXTENSION_NAME]["PMCE"]
        self._perMessageCompress = kind.create_from_offer_accept(True, accepted)
        self.websocket_extensions_in_use.append(self._perMessageCompress)
        return str(accepted.get_extension_string())

    def failHandshake(
        self, reason: str, code: int = 400, responseHeaders: HeadersLike | None = None
    ) -> None:
        """Autobahn: refuse the client with a complete HTTP answer.

        For a fault of the application's (500) the client is not told which.
        """
        if code == 500:
            _log.warn(
                "The opening handshake failed, peer {peer!r}: {reason!r}",
                peer=self.peer,
                reason=reason,
            )
            reason = phrase(500)
        self.refuse_with(code, reason, responseHeaders or ())

    def refuse_with(self, status: int, body: str | None, headers: HeadersLike) -> None:
        """Refuse with what the application gave; with 500 when it cannot be sent."""
        try:
            response = Response.text(status, body, headers)
        except (ValueError, TypeError) as error:
            _log.error("Cannot refuse {peer!r} like that: {error}", peer=self.peer, error=error)
            response = Response.text(500)
        self.refuse(response, body or f"refused with {response.status}")

    def refuse(self, response: Response, reason: str) -> None:
        """Answer with something else than 101, and end the connection in order."""
        if self._discarding or self.state != WebSocketProtocol.STATE_CONNECTING:
            return
        cast(Any, self).wasNotCleanReason = reason
        self.closing.lose("local", reason)
        with_body = self.request is None or self.request.method != "HEAD"
        self.sendData(response.encode(with_body=with_body))
        self.linger()


class _BadOffer(Exception):
    """A client's offer of an extension is malformed."""


def _checked(headers: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the headers of an Autobahn application, one value or several for each name."""
    return {
        name: [check_header(name, str(item))[1] for item in _several(value)]
        for name, value in headers.items()
    }


def _several(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


@implementer(IProtocolNegotiationFactory)
class WebSocketServerFactory(CommonFactory, _AutobahnFactory):  # type: ignore[misc]
    """Autobahn's server factory with wsframe's defaults.

    `options` are the limits; `reactor` None is the installed one. `setProtocolOptions` goes over
    the options it has names for. Origins are judged by the options until `allowedOrigins` is set;
    then Autobahn's own check rules. `allowNullOrigin=True` admits the origin "null" in either case.
    """

    protocol = WebSocketServerProtocol
    options: ServerOptions

    def __init__(
        self,
        url: str | None = None,
        protocols: list[str] | None = None,
        server: str | None = None,
        headers: dict[str, str] | None = None,
        externalPort: int | None = None,
        *,
        reactor: IReactorTime | None = None,
        options: ServerOptions = DEFAULT_SERVER_OPTIONS,
    ) -> None:
        self.options = options
        super().__init__(
            url,
            protocols,
            server or options.server_header,
            headers,
            externalPort,
            reactor=reactor or global_reactor(),
        )

    def acceptableProtocols(self) -> list[bytes]:
        """Twisted: what TLS may agree on (ALPN). Without it, who offers anything is refused."""
        return [b"http/1.1"]

    def resetProtocolOptions(self) -> None:
        """Autobahn: back to the defaults, which are those of `options`."""
        super().resetProtocolOptions()
        this = cast(Any, self)
        self.use_options(self.options)
        self.own_origin_check = False
        self.null_admitted = False
        this.webStatus = False  # an open redirect
        this.versions = [13]
        this.allowNullOrigin = True  # judged before, by the options
        this.openHandshakeTimeout = self.options.open_timeout
        this.maxConnections = self.options.max_connections

    def setProtocolOptions(self, *, allowNullOrigin: bool | None = None, **options: Any) -> None:
        """Autobahn: set options by name; what is not named stays as it is."""
        if options.get("allowedOrigins") is not None:
            self.own_origin_check = True
        if allowNullOrigin is not None:
            self.null_admitted = bool(allowNullOrigin)
        # Where our own check rules, Autobahn's comes after it and admits all.
        null = self.null_admitted or not self.own_origin_check
        super().setProtocolOptions(allowNullOrigin=null, **options)


def listenWS(
    factory: WebSocketServerFactory,
    contextFactory: Any = None,
    backlog: int = 1024,
    interface: str = "",
) -> IListeningPort:
    """Autobahn: listen on the port of the factory's URL; returns the listening port.

    `contextFactory` is what a `wss` URL needs. New code says where to listen with an endpoint.
    """
    this = cast(Any, factory)
    if this.isSecure:
        if contextFactory is None:
            raise ValueError("a wss URL needs a contextFactory")
        return cast(
            IListeningPort,
            this.reactor.listenSSL(this.port, factory, contextFactory, backlog, interface),
        )
    return cast(IListeningPort, this.reactor.listenTCP(this.port, factory, backlog, interface))
