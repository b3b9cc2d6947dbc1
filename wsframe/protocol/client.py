"""The client's protocol and factory: a request built with care, an answer read within limits.

The request is built by `core.opening` and the answer read by `core.http_answer`; Autobahn sees the
head of a 101 only, and checks key, subprotocol and extensions.
"""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any, cast

from autobahn.exception import Disconnected
from autobahn.twisted import websocket as autobahn
from autobahn.websocket.types import ConnectingRequest, ConnectionResponse
from twisted.internet.interfaces import IConnector, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import quiet_errback, run
from wsframe.clock import global_reactor
from wsframe.core.http import BadAnswer, Request, Response
from wsframe.core.opening import build_request
from wsframe.errors import (
    BadHandshake,
    HandshakeRefused,
    InvalidHeader,
    OpenCancelled,
    OpenError,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions
from wsframe.protocol.attributes import add_settings
from wsframe.protocol.common import CommonFactory, CommonProtocol
from wsframe.protocol.receiving import EARLY_BYTES

if TYPE_CHECKING:
    from wsframe.core.http_answer import Answer

__all__ = ["WebSocketClientFactory", "WebSocketClientProtocol", "connectWS"]

_log = Logger(namespace="wsframe.protocol")


# Autobahn's annotations contradict each other where its classes are combined.
_AutobahnProtocol: Any = autobahn.WebSocketClientProtocol
_AutobahnFactory: Any = autobahn.WebSocketClientFactory


@add_settings
class WebSocketClientProtocol(CommonProtocol, _AutobahnProtocol):  # type: ignore[misc]
    """Autobahn's client protocol with wsframe's bounds; see the package's docstring.

    `request` and `response` are the opening handshake's, once sent and received. `is_open` fails
    with an `OpenError` when the WebSocket does not open; so `await protocol.is_open` never hangs.
    """

    request: Request | None = None
    response: Response | None = None
    _accepted = False
    factory: WebSocketClientFactory

    def connectionMade(self) -> None:
        """Twisted: the transport is connected."""
        # Ten milliseconds, for h11. A server has no use for it; `wsframe.connect` has it by now.
        from wsframe.core.http_answer import AnswerReader

        options = self.factory.options
        self._answer = AnswerReader(
            tunnel=False, max_head=options.max_head_size, max_body=options.max_refusal_body
        )
        super().connectionMade()

    def _connectionMade(self) -> None:
        super()._connectionMade()
        self.startHandshake()

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the server. While `onConnect` still thinks, frames wait for it."""
        if self.response is None or self._accepted or self._discarding:
            super().dataReceived(data)
            return
        self.data += data
        if len(self.data) > EARLY_BYTES:
            self.pause_reading()

    def startHandshake(self) -> None:
        """Autobahn: ask the application's `onConnecting`, then send the opening handshake."""
        this = cast(Any, self)
        asked = run(this.onConnecting, this.transport_details)
        asked.addCallback(self._start_handshake).addErrback(self._connecting_failed)

    def _start_handshake(self, request_options: ConnectingRequest | None) -> None:
        if self._discarding:
            return  # the connection was lost while the application thought
        given = self.factory
        self._actuallyStartHandshake(
            request_options
            or ConnectingRequest(
                host=given.host,
                port=given.port,
                resource=given.resource,
                headers=given.headers,
                useragent=given.useragent,
                origin=given.origin,
                protocols=given.protocols,
            )
        )

    def _connecting_failed(self, failure: Failure) -> None:
        text = "Error in the application's onConnecting, peer {peer!r}"
        _log.failure(text, failure, peer=self.peer)
        self.fail_open(OpenError("the application's onConnecting failed", phase="handshake"))

    def _actuallyStartHandshake(self, request_options: Any) -> None:
        """Autobahn: send the opening handshake."""
        this = cast(Any, self)
        key = base64.b64encode(os.urandom(16)).decode()
        try:
            self.request, raw = build_request(
                host=request_options.host,
                port=request_options.port,
                secure=self.factory.isSecure,
                target=request_options.resource,
                key=key,
                headers=request_options.headers or {},
                origin=request_options.origin or None,
                subprotocols=request_options.protocols or (),
                extensions=[o.get_extension_string() for o in this.perMessageCompressionOffers],
                user_agent=request_options.useragent or None,
                authorization=self.factory.authorization,
                cookie=self.factory.cookie,
            )
        except InvalidHeader as error:
            self.fail_open(BadHandshake(f"the opening handshake cannot be sent: {error}"))
            return
        # What the server's answer is checked against is what was sent.
        self.websocket_key = self.request.headers.get("Sec-WebSocket-Key", key).encode("latin-1")
        this.http_request_data = raw
        self.sendData(raw)

    def receive_opening(self, data: bytes) -> None:
        """Read the answer; a 101 goes on to Autobahn, with the bytes that came behind it."""
        try:
            answer = self._answer.receive(data)
        except BadAnswer as error:
            self.fail_open(BadHandshake(f"the server's answer is not valid: {error}"))
            return
        if answer is None:
            return
        if not answer.switched:
            self.fail_open(_refusal(answer))
            return
        request = cast(Request, self.request)
        chosen = answer.headers.get("Sec-WebSocket-Protocol")
        if chosen and (
            chosen not in self.factory.protocols or "Sec-WebSocket-Protocol" not in request.headers
        ):
            # Autobahn's text has the whole list, in which one may carry a token.
            self.fail_open(BadHandshake("the server chose a subprotocol that was not offered"))
            return
        extensions = "Sec-WebSocket-Extensions"
        if answer.headers.get(extensions) and extensions not in request.headers:
            self.fail_open(BadHandshake("the server chose an extension that was not offered"))
            return
        self.response = Response(answer.status, answer.headers, reason=answer.reason)
        # Autobahn reads a head of its own; this one has no byte that it could misread. It takes it
        # for UTF-8 and for Latin-1, so what is not ASCII is "?" there until `_onConnect`.
        lines = ["HTTP/1.1 101 Switching Protocols"]
        lines += [f"{name}: {value}" for name, value in answer.headers.pairs]
        self.data = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii", "replace") + answer.trailing
        cast(Any, self).processHandshake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone; that may be how the answer ends."""
        if self.open_error is None and self.response is None:
            self.open_error = self._refused_so_far()
        super().connectionLost(reason)

    def cancel_open(self) -> None:
        """Wait no longer. A refusal of which only the end of the body is missing is told."""
        text = "cancelled in phase handshake"
        self.fail_open(self._refused_so_far() or OpenCancelled(text, phase="handshake"))

    def _refused_so_far(self) -> HandshakeRefused | None:
        try:
            answer = self._answer.receive(b"")
        except BadAnswer:
            return None
        return None if answer is None or answer.switched else _refusal(answer)

    def failHandshake(self, reason: str) -> None:
        """Autobahn: the server's answer is not what the request asked for."""
        self.fail_open(BadHandshake(reason))

    def fail_open(self, error: OpenError) -> None:
        """Fail `is_open` with the error, and abort."""
        self.open_error = error
        cast(Any, self).wasNotCleanReason = str(error)
        if not self.is_open.called:
            quiet_errback(self.is_open, Failure(error))
        self.dropConnection(abort=True)

    def _onConnect(self, response: ConnectionResponse) -> Any:
        """Autobahn: ask the application; what it raises stays here (it is not sent to the peer)."""
        pairs = [] if self.response is None else self.response.headers.pairs
        for name in {name for name, value in pairs if not value.isascii()}:
            values = [value for other, value in pairs if other.lower() == name.lower()]
            response.headers[name.lower()] = ", ".join(values)
        asked = run(self.onConnect, response)
        return asked.addCallbacks(self._connect_accepted, self._connect_failed)

    def _connect_accepted(self, _: object) -> None:
        self._accepted = True
        if self._discarding:
            raise Disconnected("the connection ended while onConnect was thinking")
        self.resume_reading()

    def _connect_failed(self, failure: Failure) -> Failure:
        self.application_failed(failure)
        return failure

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        super()._fail_connection(code, reason)
        if not self._accepted and not self.is_open.called:
            error = BadHandshake("the application did not accept the server's answer")
            quiet_errback(self.is_open, Failure(error))


def _refusal(answer: Answer) -> HandshakeRefused:
    return HandshakeRefused(answer.status, answer.reason, answer.headers.pairs, answer.body)


class WebSocketClientFactory(CommonFactory, _AutobahnFactory):  # type: ignore[misc]
    """Autobahn's client factory with wsframe's defaults.

    `options` are the limits; `reactor` None is the installed one. Autobahn's `proxy` argument is
    refused: it authenticates nowhere and reads bytes before TLS. Connect through
    `wsframe.HTTPConnectEndpoint`, or use `wsframe.connect(uri, proxies=...)`.
    """

    protocol = WebSocketClientProtocol
    options: ClientOptions

    authorization: str | None = None
    """The Authorization header, unless `headers` have one."""

    cookie: str | None = None
    """The Cookie header, unless `headers` have one."""

    def __init__(
        self,
        url: str | None = None,
        origin: str | None = None,
        protocols: list[str] | None = None,
        useragent: str | None = None,
        headers: dict[str, str] | None = None,
        proxy: object = None,
        *,
        reactor: IReactorTime | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    ) -> None:
        self.options = options
        super().__init__(
            url,
            origin,
            protocols,
            useragent or options.user_agent,
            headers,
            proxy,
            reactor=reactor or global_reactor(),
        )

    def setSessionParameters(self, *args: Any, **parameters: Any) -> None:
        """Autobahn: where to connect, and what to say there."""
        if parameters.get("proxy") is not None or args[5:] not in ((), (None,)):
            raise ValueError("proxy= is not supported; connect through an HTTPConnectEndpoint")
        super().setSessionParameters(*args, **parameters)

    def resetProtocolOptions(self) -> None:
        """Autobahn: back to the defaults, which are those of `options`."""
        super().resetProtocolOptions()
        self.use_options(self.options)
        cast(Any, self).openHandshakeTimeout = self.options.open_timeout


def connectWS(
    factory: WebSocketClientFactory,
    contextFactory: Any = None,
    timeout: float = 30,
    bindAddress: tuple[str, int] | None = None,
) -> IConnector:
    """Autobahn: connect to the factory's URL; returns the connector.

    `timeout` is seconds for TCP. For a `wss` URL the server's certificate is verified against its
    host name, unless `contextFactory` says otherwise; Autobahn's own verifies nothing.
    """
    this = cast(Any, factory)
    where = (this.host.strip("[]"), this.port, factory)
    if this.isSecure:
        context = contextFactory or optionsForClientTLS(where[0])
        return cast(IConnector, this.reactor.connectSSL(*where, context, timeout, bindAddress))
    return cast(IConnector, this.reactor.connectTCP(*where, timeout, bindAddress))
