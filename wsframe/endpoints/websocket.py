"""The last link, and the whole chain: the opening handshake, and the open connection."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import UserError
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.awaiting import Awaitable, relay
from wsframe.connection import Connection
from wsframe.core.http import HeadersLike
from wsframe.core.opening import build_request
from wsframe.core.proxy import ProxySettings
from wsframe.core.timing import Observe
from wsframe.core.uri import WebSocketURI, format_host_port
from wsframe.endpoints.link import Watch, with_deadline
from wsframe.endpoints.proxy import ProxyTLS
from wsframe.endpoints.tunnel import endpoint_to
from wsframe.errors import (
    ConnectionClosed,
    OpenCancelled,
    OpenError,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions
from wsframe.protocol import ConnectionClientFactory, Listener, Wire

__all__ = ["ConnectionProtocol", "WebSocketEndpoint"]


class ConnectionProtocol(Protocol):
    """What a `WebSocketEndpoint` connects: a protocol with an open `connection`.

    Its `connectionLost` is called when the connection has ended, with a Failure that holds the
    `ConnectionClosed`. Messages are the connection's matter.
    """

    @property
    def connection(self) -> Connection:
        """The open connection."""
        return cast(ConnectionTransport, self.transport).connection


class ConnectionTransport:
    """The transport of a `ConnectionProtocol`: it can end the connection, and no more."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def loseConnection(self) -> None:
        """Begin the closing handshake."""
        self.connection.close()

    def abortConnection(self) -> None:
        """End TCP at once."""
        self.connection.abort()

    def getPeer(self) -> str:
        """Return the peer's address."""
        return self.connection.peer


@implementer(IStreamClientEndpoint)
class WebSocketEndpoint:
    """The last link, and the whole chain: connects to a WebSocket server and opens the WebSocket.

    The arguments are those of `wsframe.connect`. `connect(factory)` takes a factory that builds
    `ConnectionProtocol`s; `open()` gives the `Connection` itself. `observe` is called with a
    `PhaseDone` for each phase that succeeds, in order; again where one is gone through again, as
    with the next of several proxies.
    """

    def __init__(
        self,
        reactor: Any,
        uri: WebSocketURI,
        *,
        headers: HeadersLike = (),
        origin: str | None = None,
        subprotocols: tuple[str, ...] = (),
        proxies: ProxySettings | None = None,
        tls: IOpenSSLClientConnectionCreator | None = None,
        proxy_tls: ProxyTLS | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
        observe: Observe | None = None,
    ) -> None:
        self._reactor = reactor
        self._watch = Watch(reactor, observe)
        self._uri = uri
        self._to = format_host_port(uri.host, uri.port)
        self._handshake = {"headers": headers, "origin": origin, "subprotocols": subprotocols}
        self._options = options
        build_request(  # what is wrong with the arguments is said now
            host=uri.host,
            port=uri.port,
            secure=uri.secure,
            target=uri.target,
            key="",
            **cast(Any, self._handshake),
        )
        if proxies is None:
            proxies = ProxySettings()
        if tls is not None and not uri.secure:
            raise ValueError("tls= is given, but a ws:// URI has no TLS; use wss://")
        self.proxies = proxies
        self.route = proxies.choose(uri)
        self._endpoint = endpoint_to(
            reactor,
            uri,
            self.route,
            proxies.failover,
            tls=tls,
            proxy_tls=proxy_tls,
            options=options,
            observe=observe,
        )

    def open(self) -> Awaitable[Connection]:
        """Open; fires with the `Connection`, within `options.open_timeout` seconds."""
        opened: list[Connection] = []

        def connection_of(wire: Wire) -> Listener:
            opened.append(Connection(wire))
            return opened[0]

        factory = ConnectionClientFactory(
            connection_of,
            self._uri,
            reactor=self._reactor,
            options=self._options,
            **cast(Any, self._handshake),
        )
        factory.noisy = False
        protocols: list[Any] = []

        def handshake(protocol: Any) -> Deferred[object]:
            protocols.append(protocol)
            since = self._watch.now()
            is_open = cast("Deferred[object]", protocol.is_open)
            return is_open.addCallback(lambda _: done(since))

        def done(since: float) -> Connection:
            self._watch.done("handshake", self._to, since, opened[0].subprotocol or "")
            return opened[0]

        def cancel(_: Deferred[Connection]) -> None:
            if protocols:
                protocols[0].cancel_open()
            else:
                below.cancel()

        below: Deferred[Any] = self._endpoint.connect(factory)
        attempt: Deferred[Any] = Deferred(cancel)
        relay(below.addCallback(handshake), attempt)
        with_deadline(self._reactor, attempt, self._options.open_timeout, str(self._uri))
        result: Awaitable[Connection] = Awaitable(lambda _: attempt.cancel())
        relay(attempt.addErrback(_as_open_error), result)
        return result

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open; fires with the `ConnectionProtocol` that the factory built."""

        def opened(connection: Connection) -> IProtocol:
            protocol = factory.buildProtocol(cast(IAddress, self._uri))
            if protocol is None:
                connection.abort()
                raise OpenError("the factory built no protocol", phase="handshake")
            protocol.makeConnection(cast(ITransport, ConnectionTransport(connection)))
            connection.when_closed().addCallback(lost, protocol)
            return protocol

        def lost(outcome: ConnectionClosed, protocol: IProtocol) -> None:
            protocol.connectionLost(Failure(outcome))

        return self.open().addCallback(opened)


def _as_open_error(failure: Failure) -> Failure:
    """Let no cancellation out that does not say what it was."""
    if failure.check(CancelledError, UserError):
        return Failure(OpenCancelled("cancelled"))
    return failure
