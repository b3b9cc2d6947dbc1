"""The server's protocol and factory: the guard before Autobahn's opening handshake.

The raw head is read and judged here, within limits, before Autobahn sees a byte of it; what is
refused gets a complete HTTP answer and a connection that ends in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from autobahn.twisted import websocket as autobahn
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

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
from wsframe.core.opening import judge_request
from wsframe.options import DEFAULT_SERVER_OPTIONS, ServerOptions
from wsframe.protocol.attributes import add_settings
from wsframe.protocol.common import CommonFactory, CommonProtocol
from wsframe.protocol.receiving import EARLY_BYTES

__all__ = ["WebSocketServerFactory", "WebSocketServerProtocol", "listenWS"]

_log = Logger(namespace="wsframe.protocol")

# Autobahn's annotations contradict each other where its classes are combined.
_AutobahnProtocol: Any = autobahn.WebSocketServerProtocol
_AutobahnFactory: Any = autobahn.WebSocketServerFactory


TURNED_AWAY: Final = 64
"""Clients over the limit that are being told so, each of which holds a file descriptor until it has
heard it; the next ones are cut without a word."""


@add_settings
class WebSocketServerProtocol(CommonProtocol, _AutobahnProtocol):  # type: ignore[misc]
    """Autobahn's server protocol with wsframe's bounds; see the package's docstring.

    `request` is the opening handshake's request once it has been read.
    """

    request: Request | None = None
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
        if self._head is None:
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
        self._head = None
        self.request, head, rest = complete
        self.data = head + rest
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
        if request.is_upgrade and request.method == "GET":
            self.processHandshake()
        else:
            self.failHandshake("this is a WebSocket server", 426, [("Upgrade", "websocket")])

    def succeedHandshake(self, res: object) -> None:
        """Autobahn: the application accepted; its headers are checked before they are sent."""
        if self.state != WebSocketProtocol.STATE_CONNECTING or self._discarding:
            return  # the client left, or the time ran out, while the application thought
        try:
            subprotocol, headers = res if isinstance(res, tuple) else (res, {})
            checked = _checked(headers or {})
            _checked(self.factory.headers)
            super().succeedHandshake((subprotocol, checked))
        except Exception:  # noqa: BLE001 - the application's answer is not one, or a hook raised
            failure = Failure()
            if self.state != WebSocketProtocol.STATE_CONNECTING:
                self.application_failed(failure)
                return
            _log.failure("Cannot answer as onConnect wants, peer {peer!r}", failure, peer=self.peer)
            self.failHandshake("the answer of onConnect is not one", 500)
        self.resume_reading()

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


def _checked(headers: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the headers of an Autobahn application, one value or several for each name."""
    return {
        name: [check_header(name, str(item))[1] for item in _several(value)]
        for name, value in headers.items()
    }


def _several(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


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
