"""The last link, and the whole chain: the opening handshake, and the open connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from http.cookiejar import CookieJar
from typing import Any, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
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
from wsframe.core.http import Headers
from wsframe.core.opening import (
    GivenHeaders,
    RequestHeaders,
    build_request,
    check_headers,
    check_subprotocols,
    headers_elsewhere,
)
from wsframe.core.proxy import ProxySettings, Route
from wsframe.core.redirect import REDIRECTS, follow, same_origin
from wsframe.core.timing import Observe
from wsframe.core.uri import WebSocketURI, basic_credentials, format_host_port
from wsframe.endpoints.cookies import cookie_header, store_cookies
from wsframe.endpoints.link import Watch, with_deadline
from wsframe.endpoints.proxy import ProxyTLS
from wsframe.endpoints.tls_options import TLSOptions
from wsframe.endpoints.tunnel import endpoint_to
from wsframe.errors import (
    ConnectionClosed,
    HandshakeRefused,
    OpenCancelled,
    OpenError,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions, Deflate, check_compression
from wsframe.protocol import ConnectionClientFactory, Listener, Wire
from wsframe.trace import Trace, check_trace

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


@dataclass(frozen=True, repr=False)
class _Target:
    """A server, and what it may be told: that which was given for it, and not for another."""

    uri: WebSocketURI
    headers: GivenHeaders
    tls: IOpenSSLClientConnectionCreator | TLSOptions | None

    @property
    def authorization(self) -> str | None:
        """The Authorization header that the URI's credentials make."""
        uri = self.uri
        return None if uri.user is None else basic_credentials(uri.user, uri.password or "")

    def redirected(self, uri: WebSocketURI) -> _Target:
        """Return the target that this one redirects to; raise ValueError where it cannot be."""
        if same_origin(uri, self.uri):
            return replace(self, uri=uri)
        tls = self.tls
        if isinstance(tls, TLSOptions):
            tls = tls.elsewhere()
        elif tls is not None:
            raise ValueError("it leads to another origin than tls= is for; TLSOptions are for all")
        return _Target(uri, headers_elsewhere(self.headers), tls)


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
        headers: RequestHeaders = (),
        origin: str | None = None,
        subprotocols: tuple[str, ...] = (),
        cookies: CookieJar | None = None,
        compression: Deflate | None = None,
        proxies: ProxySettings | None = None,
        tls: IOpenSSLClientConnectionCreator | TLSOptions | None = None,
        proxy_tls: ProxyTLS | None = None,
        bind_address: tuple[str, int] | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
        trace: Trace | None = None,
        observe: Observe | None = None,
    ) -> None:
        if cookies is not None and not isinstance(cookies, CookieJar):
            raise TypeError(f"cookies is a CookieJar, not {type(cookies).__name__}")
        if tls is not None and not uri.secure and not options.max_redirects:
            raise ValueError("tls= is given, but a ws:// URI has no TLS; use wss://")
        self._reactor = reactor
        self._observe = observe
        self._watch = Watch(reactor, observe)
        self._first = _Target(uri, check_headers(headers), tls)
        self._said = {"origin": origin, "subprotocols": check_subprotocols(subprotocols)}
        self._cookies = cookies
        self._compression = check_compression(compression)
        self.proxies = ProxySettings() if proxies is None else proxies
        self._proxy_tls = proxy_tls
        self._bind_address = _checked_address(bind_address)
        self._options = options
        self._trace = check_trace(trace)
        build_request(  # what is wrong with the arguments is said now
            host=uri.host,
            port=uri.port,
            secure=uri.secure,
            target=uri.target,
            key="",
            headers=self._first.headers,
            **cast(Any, self._said),
        )
        self.route = self.proxies.choose(uri)
        self._endpoint = self._chain(self._first, self.route)

    def _chain(self, target: _Target, route: Route) -> IStreamClientEndpoint:
        """Return the links that lead to a target, up to the WebSocket's own."""
        return endpoint_to(
            self._reactor,
            target.uri,
            route,
            self.proxies.failover,
            tls=target.tls,
            proxy_tls=self._proxy_tls,
            options=self._options,
            observe=self._observe,
            bind_address=self._bind_address,
        )

    def open(self) -> Awaitable[Connection]:
        """Open; fires with the `Connection`, within `options.open_timeout` seconds."""
        cancelled = False

        def cancel(_: Deferred[Connection]) -> None:
            nonlocal cancelled
            cancelled = True
            running.cancel()

        async def open_following() -> Connection:
            target, endpoint, followed = self._first, self._endpoint, 0
            while True:
                try:
                    return cast(Connection, await self._attempt(target, endpoint))
                except HandshakeRefused as error:
                    # At the deadline a refusal is told, even where it is a redirect.
                    if cancelled or not self._redirects(error):
                        raise
                    target, endpoint = self._next(target, error, followed)
                followed += 1

        attempt: Deferred[Any] = Deferred(cancel)
        running = Deferred.fromCoroutine(open_following())
        relay(running, attempt)
        with_deadline(self._reactor, attempt, self._options.open_timeout, str(self._first.uri))
        result: Awaitable[Connection] = Awaitable(lambda _: attempt.cancel())
        relay(attempt.addErrback(_as_open_error), result)
        return result

    def _redirects(self, error: HandshakeRefused) -> bool:
        return error.status in REDIRECTS and self._options.max_redirects > 0

    def _next(
        self, target: _Target, error: HandshakeRefused, followed: int
    ) -> tuple[_Target, IStreamClientEndpoint]:
        """Return what a refusal redirects to and the way there, or raise it with why not."""
        note = f"this redirect comes after {followed}, and no more are followed"
        if followed < self._options.max_redirects:
            location = Headers(error.headers).get("Location")
            try:
                redirected = target.redirected(follow(target.uri, location))
                route = self.proxies.choose(redirected.uri)
                return redirected, self._chain(redirected, route)
            except ValueError as reason:  # of the Location, or of the way there
                note = f"the redirect is not followed: {reason}"
        raise HandshakeRefused(
            error.status, error.reason, error.headers, error.body, note=note
        ) from None

    def _attempt(self, target: _Target, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """Open at one target; fires with the `Connection`."""
        opened: list[Connection] = []
        jar = self._cookies

        def connection_of(wire: Wire) -> Listener:
            opened.append(Connection(wire))
            return opened[0]

        factory = ConnectionClientFactory(
            connection_of,
            target.uri,
            headers=target.headers,
            authorization=target.authorization,
            cookie=None if jar is None else cookie_header(jar, target.uri),
            compression=self._compression,
            reactor=self._reactor,
            options=self._options,
            **cast(Any, self._said),
        )
        factory.noisy = False
        factory.trace = self._trace
        protocols: list[Any] = []

        def handshake(protocol: Any) -> Deferred[object]:
            protocols.append(protocol)
            since = self._watch.now()
            is_open = cast("Deferred[object]", protocol.is_open)
            return is_open.addCallback(lambda _: done(since))

        def done(since: float) -> Connection:
            to = format_host_port(target.uri.host, target.uri.port)
            connection = opened.pop()  # the factory does not keep it
            self._watch.done("handshake", to, since, connection.subprotocol or "")
            return connection

        def cancel(_: Deferred[Connection]) -> None:
            if protocols:
                protocols[0].cancel_open()
            else:
                below.cancel()

        def store(outcome: object) -> object:
            headers: tuple[tuple[str, str], ...] = ()
            if isinstance(outcome, Connection):
                headers = outcome.response.headers.pairs
            elif isinstance(outcome, Failure) and isinstance(outcome.value, HandshakeRefused):
                headers = outcome.value.headers
            if jar is not None:
                store_cookies(jar, target.uri, headers)
            return outcome

        below: Deferred[Any] = endpoint.connect(factory)
        attempt: Deferred[Any] = Deferred(cancel)
        relay(below.addCallback(handshake), attempt)
        return attempt.addBoth(store)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open; fires with the `ConnectionProtocol` that the factory built."""

        def opened(connection: Connection) -> IProtocol:
            protocol = factory.buildProtocol(cast(IAddress, connection.uri))
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


def _checked_address(address: object) -> tuple[str, int] | None:
    """Return the host and port to bind to; raise for what is not that."""
    if address is None:
        return None
    if not (isinstance(address, tuple | list) and len(address) == 2):
        raise TypeError("bind_address is a pair of host and port")
    host, port = address
    if not isinstance(host, str) or isinstance(port, bool) or not isinstance(port, int):
        raise TypeError("bind_address is a pair of host and port")
    if host and not (isIPAddress(host) or isIPv6Address(host)):
        raise ValueError("bind_address has the address of a local interface, or an empty one")
    if not 0 <= port < 65536:
        raise ValueError("bind_address has a port from 0 (any) to 65535")
    return host, port
