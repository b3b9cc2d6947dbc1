"""The client endpoints: the links of the chain that ends in an open WebSocket.

    HostnameEndpoint ─▶ HTTPConnectEndpoint ─▶ TLSEndpoint ─▶ WebSocketEndpoint
                        or SOCKSEndpoint

Each link is an `IStreamClientEndpoint` over the one before it, and keeps four promises: its
Deferred fires only when its own handshake is complete; on failure, timeout and cancellation the
transport is aborted and nothing is left; the protocol inside is built only after success; and the
failure is an `OpenError` that says its phase.

The links are public: any Twisted protocol can be carried through an `HTTPConnectEndpoint` or a
`SOCKSEndpoint`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import DNSLookupError, UserError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IHostResolution,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions, optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.awaiting import Awaitable, relay
from wsframe.clock import monotonic_clock
from wsframe.connection import Connection
from wsframe.core.http import Headers, HeadersLike
from wsframe.core.http_connect import HTTPConnect
from wsframe.core.opening import build_request
from wsframe.core.proxy import Failover, Proxy, ProxySettings, Way
from wsframe.core.socks import SOCKS4, SOCKS5
from wsframe.core.tunnel import TunnelHandshake
from wsframe.core.uri import WebSocketURI, format_host_port, to_ascii_host
from wsframe.errors import (
    BadProxyAnswer,
    ConnectionClosed,
    InvalidProxy,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    Phase,
    ProxyError,
    ProxyRefused,
    TCPConnectFailed,
    TLSFailed,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions
from wsframe.protocol import ConnectionClientFactory, Listener, Wire

__all__ = [
    "ConnectionProtocol",
    "HTTPConnectEndpoint",
    "SOCKSEndpoint",
    "TLSEndpoint",
    "WebSocketEndpoint",
]

_ABSURD: Final = 366 * 24 * 3600
"""Seconds; given to Twisted as its own timeout for each address, where our deadline decides."""


def with_deadline(
    reactor: IReactorTime, attempt: Deferred[Any], seconds: float | None
) -> Deferred[Any]:
    """Cancel the attempt after so many seconds (None: never); then it fails with `OpenTimeout`."""
    if seconds is None:
        return attempt
    timed_out = False

    def give_up() -> None:
        nonlocal timed_out
        timed_out = True
        attempt.cancel()

    call: IDelayedCall = reactor.callLater(seconds, give_up)

    def done(result: object) -> object:
        if call.active():
            call.cancel()
        error = result.value if isinstance(result, Failure) else None
        if timed_out and isinstance(error, OpenCancelled):
            phase = error.phase
            waited = f" in phase {phase}" if phase else ""
            text = f"not open after {seconds:g} s{waited}"
            return Failure(OpenTimeout(text, phase=phase))
        return result

    return attempt.addBoth(done)


class HostEndpoint:
    """The first link: TCP to a host by name or address, as Twisted's `HostnameEndpoint` does it.

    Its failures are `NameLookupFailed`, `TCPConnectFailed` and, when cancelled, `OpenCancelled`.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._where = format_host_port(host, port)
        self._endpoint = self._twisteds(reactor, host, port)

    @staticmethod
    def _twisteds(reactor: Any, host: str, port: int) -> Any:
        kind: Any = HostnameEndpoint
        if isIPAddress(host):
            # Neither a look-up nor a second address to wait for: what is refused is told at once.
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        return kind(reactor, host, port, timeout=_ABSURD)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        cancelled = False

        def cancel(_: Deferred[IProtocol]) -> None:
            nonlocal cancelled
            cancelled = True
            attempt.cancel()

        def failed(failure: Failure) -> Failure:
            error = failure.value
            phase: Phase = "dns" if isinstance(error, DNSLookupError | UnicodeError) else "tcp"
            if cancelled:
                return Failure(OpenCancelled(f"cancelled, {self._where}", phase=phase))
            if phase == "dns":
                return Failure(NameLookupFailed(f"no address for {self._where}"))
            text = f"{self._where}: {failure.getErrorMessage().rstrip('.')}"
            return Failure(TCPConnectFailed(text))

        result: Deferred[IProtocol] = Deferred(cancel)
        attempt = self._endpoint.connect(factory)
        attempt.addErrback(failed).addBoth(result.callback)
        return result


class SocketEndpoint(HostEndpoint):
    """The first link when it is a Unix socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._where = path
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=_ABSURD)


class _Link(Protocol):
    """A protocol that shakes hands, and then hands its transport to the protocol inside.

    A subclass gives `begin`, `advance` (bytes in; the leftover bytes out once done, None before)
    and `ended` (the error for a transport that is lost too early).
    """

    phase: Phase

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        self._inner: IProtocol | None = None
        self._finished = False
        self.result: Deferred[IProtocol] = Deferred(self._cancel)

    def begin(self) -> None:
        """Send what begins the handshake."""

    def advance(self, data: bytes) -> bytes | None:
        """Take bytes in."""
        raise NotImplementedError

    def ended(self, reason: Failure) -> Exception:
        """Return the error for a loss during the handshake."""
        raise NotImplementedError

    def connectionMade(self) -> None:
        self.begin()

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self._finished:
            try:
                leftover = self.advance(data)
            except OpenError as error:
                self.fail(error)
                return
            if leftover is not None:
                self.succeed(leftover)

    def succeed(self, leftover: bytes) -> None:
        """Build the protocol inside; the bytes that came already are its first."""
        transport = cast(ITransport, self.transport)
        try:
            inner = self._factory.buildProtocol(transport.getPeer())
            if inner is None:
                raise OpenError("the factory built no protocol", phase=self.phase)
            self._inner = inner
            inner.makeConnection(transport)
        except Exception as error:  # noqa: BLE001 - the application's factory and protocol
            self._inner = None
            self.fail(error)
            return
        self._finished = True
        self.result.callback(inner)
        if leftover:
            inner.dataReceived(leftover)

    def fail(self, error: Exception) -> None:
        """Fail once, and abort."""
        if self._finished:
            return
        self._finished = True
        if self.transport is not None:
            cast(Any, self.transport).abortConnection()
        self.result.errback(Failure(error))

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        self.fail(OpenCancelled(f"cancelled in phase {self.phase}", phase=self.phase))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self._finished:
            self.fail(self.ended(reason))


def _connect_link(
    endpoint: IStreamClientEndpoint,
    link: _Link,
    wrap: Callable[[IProtocolFactory], IProtocolFactory] = lambda factory: factory,
) -> Deferred[IProtocol]:
    """Connect the link over the endpoint; fires when the link's handshake is complete."""
    factory: Any = Factory.forProtocol(cast(Any, lambda: link))
    factory.noisy = False
    below: Deferred[Any] = endpoint.connect(wrap(factory))
    # Cancelled, it cancels whichever of the two it is waiting for.
    return cast("Deferred[IProtocol]", below.addCallback(lambda _: link.result))


class _ConnectAgainError(OpenError):
    """The handshake with a proxy goes on, on a new connection. Seen by no caller of ours."""


class _TunnelLink(_Link):
    phase = "proxy"

    def __init__(self, factory: IProtocolFactory, handshake: TunnelHandshake, proxy: Proxy) -> None:
        super().__init__(factory)
        self._handshake = handshake
        self._proxy = str(proxy)

    def begin(self) -> None:
        cast(ITransport, self.transport).write(self._handshake.request)

    def advance(self, data: bytes) -> bytes | None:
        step = self._handshake.receive(data)
        if step.reconnect:
            raise _ConnectAgainError("the handshake goes on elsewhere", phase="proxy")
        if step.send:
            cast(ITransport, self.transport).write(step.send)
        return step.leftover

    def ended(self, reason: Failure) -> Exception:
        # The end of the connection may be what completes a refusal; it never opens a tunnel.
        try:
            self.advance(b"")
        except OpenError as error:
            return error
        return BadProxyAnswer(f"{self._proxy}: the connection ended", proxy=self._proxy)


ProxyTLS = Callable[[Proxy], IOpenSSLClientConnectionCreator]
"""What says how an https proxy is verified. A function of the proxy, as there may be several."""


def _verify_by_default(proxy: Proxy) -> IOpenSSLClientConnectionCreator:
    """Verify the proxy's own name against the system's authorities."""
    return optionsForClientTLS(proxy.host)


_SOCKS: Final = {"socks4": SOCKS4, "socks4a": SOCKS4, "socks5": SOCKS5, "socks5h": SOCKS5}


def _spoken(proxy: str | Proxy, *schemes: str) -> Proxy:
    """Return the proxy when an endpoint that speaks these schemes can speak to it."""
    if not isinstance(proxy, Proxy):
        proxy = Proxy.parse(proxy)
    if proxy.scheme not in schemes:
        raise InvalidProxy(f"the scheme here is {' or '.join(schemes)}, not {proxy.scheme}")
    return proxy


def _endpoint_of(
    reactor: Any,
    proxy: Proxy | None,
    host: str,
    port: int,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
) -> IStreamClientEndpoint:
    """Return what connects to a host through the proxy, and those it is reached by; or directly."""
    if proxy is None:
        return cast(IStreamClientEndpoint, HostEndpoint(reactor, host, port))
    kind: Any = SOCKSEndpoint if proxy.scheme in _SOCKS else HTTPConnectEndpoint
    endpoint: IStreamClientEndpoint = kind(
        reactor, proxy, host, port, timeout=None, proxy_tls=proxy_tls, options=options
    )
    return endpoint


def _way_to(
    reactor: Any, proxy: Proxy, proxy_tls: ProxyTLS | None, options: ClientOptions
) -> IStreamClientEndpoint:
    """Return what reaches the proxy: its Unix socket, or its address, through the one before it."""
    if proxy.path is not None:
        return cast(IStreamClientEndpoint, SocketEndpoint(reactor, proxy.path))
    return _endpoint_of(reactor, proxy.via, proxy.host, proxy.port, proxy_tls, options)


@implementer(IStreamClientEndpoint)
class HTTPConnectEndpoint:
    """Connects to a host through an HTTP proxy, with CONNECT (RFC 9110 §9.3.6).

    `proxy` is a URL such as "http://user:password@proxy:3128" or a `Proxy`; its credentials are
    sent to the proxy alone, in Basic, Bearer or Digest; see `options.proxy_auth_unasked`. `host`
    and `port` are the target's; the proxy resolves the name. `headers` are added to the CONNECT,
    behind the proxy's own. `timeout` is seconds for everything, None leaves it to the caller.
    `endpoint` is what reaches the proxy; None is TCP to its address, or its Unix socket, through
    the proxies that it is reached by (`Proxy.via`).

    To an https proxy TLS is spoken, over whatever reaches it, and its own name verified, in the
    phase "proxy-tls". `proxy_tls` is called with the `Proxy` and returns what is verified, such as
    `optionsForClientTLS(proxy.host, trustRoot=...)`; None takes the system's authorities.

    Raises `InvalidProxy` or `InvalidHeader` when made; `connect` fails with an `OpenError`.
    """

    def __init__(
        self,
        reactor: Any,
        proxy: str | Proxy,
        host: str,
        port: int,
        *,
        headers: HeadersLike = (),
        timeout: float | None = 30.0,
        endpoint: IStreamClientEndpoint | None = None,
        proxy_tls: ProxyTLS | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    ) -> None:
        self._reactor = reactor
        self._proxy = _spoken(proxy, "http", "https")
        self._target = (host, port)
        self._headers = (*Headers(self._proxy.headers).pairs, *Headers(headers).pairs)
        self._timeout = timeout
        self._options = options
        self._endpoint = endpoint or _way_to(reactor, self._proxy, proxy_tls, options)
        if self._proxy.scheme == "https":
            creator = (proxy_tls or _verify_by_default)(self._proxy)
            self._endpoint = TLSEndpoint(creator, self._endpoint, clock=reactor, phase="proxy-tls")
        self._handshake()  # what is wrong with the arguments is said now

    def _handshake(self) -> HTTPConnect:
        return HTTPConnect(
            self._proxy,
            *self._target,
            headers=self._headers,
            unasked=self._options.proxy_auth_unasked,
            max_head=self._options.max_head_size,
            max_body=self._options.max_refusal_body,
        )

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open the tunnel; fires with the protocol that the factory built, connected through it."""
        attempt = ensureDeferred(self._connect(factory))
        return with_deadline(self._reactor, attempt, self._timeout)

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        handshake = self._handshake()
        while True:  # it asks for a new connection only as often as it has another answer to a 407
            link = _TunnelLink(factory, handshake, self._proxy)
            with suppress(_ConnectAgainError):
                return await _connect_link(self._endpoint, link)

    def __repr__(self) -> str:
        return f"<HTTPConnectEndpoint {format_host_port(*self._target)} through {self._proxy}>"


@implementer(IStreamClientEndpoint)
class SOCKSEndpoint:
    """Connects to a host through a SOCKS proxy: SOCKS4, SOCKS4a, SOCKS5 (RFC 1928).

    `proxy` is a URL such as "socks5h://user:password@proxy:1080" or a `Proxy`; its credentials are
    sent to the proxy alone. `host` and `port` are the target's. Under `socks4a` and `socks5h` the
    proxy resolves the name, and no name service hears of it here. Under `socks4` and `socks5` it
    is resolved here, through the reactor's name resolver, and the proxy is asked for one address
    after the other, each on a connection of its own, until it reaches one; SOCKS4 knows only IPv4.

    `timeout` is seconds for everything, None leaves it to the caller. `endpoint` is what reaches
    the proxy; None is TCP to its address, or its Unix socket, through the proxies that it is
    reached by (`Proxy.via`). `proxy_tls` and `options` are for those, as in `HTTPConnectEndpoint`.

    Raises `InvalidProxy` when made; `connect` fails with an `OpenError`.
    """

    def __init__(
        self,
        reactor: Any,
        proxy: str | Proxy,
        host: str,
        port: int,
        *,
        timeout: float | None = 30.0,
        endpoint: IStreamClientEndpoint | None = None,
        proxy_tls: ProxyTLS | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    ) -> None:
        self._reactor = reactor
        self._proxy = _spoken(proxy, *_SOCKS)
        self._port = port
        self._timeout = timeout
        self._endpoint = endpoint or _way_to(reactor, self._proxy, proxy_tls, options)
        try:
            self._host = to_ascii_host(host)
        except ValueError:
            raise InvalidProxy("the tunnel's target host is malformed") from None
        is_name = not (isIPAddress(self._host) or ":" in self._host)
        self._lookup = is_name and not self._proxy.resolves
        # What is wrong with the arguments is said now; any address stands for those to be found.
        wrong = self._handshake("192.0.2.1" if self._lookup else self._host)
        if isinstance(wrong, ValueError):
            raise InvalidProxy(str(wrong))

    def _handshake(self, host: str) -> TunnelHandshake | ValueError:
        """Return the handshake for that host, or why the proxy cannot be told of it."""
        try:
            return _SOCKS[self._proxy.scheme](self._proxy, host, self._port)
        except ValueError as error:
            return error

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open the tunnel; fires with the protocol that the factory built, connected through it."""
        attempt = ensureDeferred(self._connect(factory))
        return with_deadline(self._reactor, attempt, self._timeout)

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        hosts: tuple[str, ...] = (self._host,)
        if self._lookup:
            hosts = await _look_up(self._reactor, self._host, self._port)
        refusals: list[OpenError] = []
        for host in hosts:
            handshake = self._handshake(host)
            if isinstance(handshake, ValueError):
                continue  # SOCKS4 and an IPv6 address
            link = _TunnelLink(factory, handshake, self._proxy)
            try:
                return await _connect_link(self._endpoint, link)
            except ProxyRefused as error:
                refusals.append(error)
        if refusals:
            raise _all_of(refusals)
        raise NameLookupFailed(f"{self._host} has no address that {self._proxy} can be told")

    def __repr__(self) -> str:
        target = format_host_port(self._host, self._port)
        return f"<SOCKSEndpoint {target} through {self._proxy}>"


def _all_of(errors: list[OpenError]) -> OpenError:
    """Return the last error, with the text of them all."""
    errors[-1].args = ("; ".join(dict.fromkeys(map(str, errors))),)
    return errors[-1]


def _look_up(reactor: Any, host: str, port: int) -> Deferred[tuple[str, ...]]:
    """Resolve a name as Twisted's `HostnameEndpoint` does; fires with one address or more."""
    result: Deferred[tuple[str, ...]] = Deferred(
        lambda _: result.errback(Failure(OpenCancelled(f"cancelled, {host}", phase="dns")))
    )
    found: list[str] = []

    @implementer(IResolutionReceiver)
    class Receiver:
        def resolutionBegan(self, resolution: IHostResolution) -> None:
            """Nothing: Twisted's own resolution cannot be cancelled, only not be waited for."""

        def addressResolved(self, address: IAddress) -> None:
            if isinstance(address, IPv4Address | IPv6Address) and address.host not in found:
                found.append(address.host)

        def resolutionComplete(self) -> None:
            if result.called:
                return
            if found:
                result.callback(tuple(found))
            else:
                result.errback(
                    Failure(NameLookupFailed(f"no address for {format_host_port(host, port)}"))
                )

    reactor.nameResolver.resolveHostName(Receiver(), host, port)
    return result


@implementer(IStreamClientEndpoint)
class _FailoverEndpoint:
    """Connects by the first of several ways that leads to the target.

    Each way but the last has an equal share of the time that is left, so that a proxy that hangs
    leaves some for the others. A refusal leads on to the next way, too: another proxy may be able
    to do what this one cannot. It is not held against the proxy, which did answer.
    """

    def __init__(
        self,
        reactor: Any,
        ways: dict[Way, IStreamClientEndpoint],
        failover: Failover,
        seconds: float,
    ) -> None:
        self._reactor = reactor
        self._now = monotonic_clock(reactor)
        self._ways = ways
        self._failover = failover
        self._seconds = seconds

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        return ensureDeferred(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        end = self._now() + self._seconds
        ways = self._failover.order(tuple(self._ways), self._now())
        errors: list[OpenError] = []
        for tried, way in enumerate(ways):
            left = len(ways) - tried
            share = max(end - self._now(), 0.0) / left if left > 1 else None
            attempt = self._ways[way].connect(factory)
            try:
                protocol: IProtocol = await with_deadline(self._reactor, attempt, share)
            except _LEADS_ON as error:
                errors.append(error)
                if not _is_the_targets(error, way):
                    self._failover.failed(way, self._now())
            else:
                self._failover.worked(way)
                return protocol
        raise _all_of(errors)


_LEADS_ON: Final = (NameLookupFailed, TCPConnectFailed, TLSFailed, ProxyError, OpenTimeout)
"""The failures of one way after which the next is tried."""


def _is_the_targets(error: OpenError, way: Way) -> bool:
    """Return whether a way failed because of the target, as far as can be told."""
    if isinstance(error, NameLookupFailed):
        return not way[-1].resolves
    return isinstance(error, ProxyRefused)


@implementer(IHandshakeListener)
class _TLSLink(_Link):
    def __init__(self, factory: IProtocolFactory, phase: Phase) -> None:
        super().__init__(factory)
        self.phase = phase

    def handshakeCompleted(self) -> None:
        if not self._finished:
            self.succeed(b"")

    def advance(self, data: bytes) -> bytes | None:
        raise TLSFailed("data before the end of the TLS handshake", phase=self.phase)

    def ended(self, reason: Failure) -> Exception:
        text = _tls_text(reason)
        verified = _verification_text(cast(Any, self.transport).getHandle())
        if verified and isinstance(reason.value, SSL.Error):
            text = f"the certificate is not accepted: {verified}"
        return TLSFailed(f"TLS handshake failed: {text}", phase=self.phase)


def _tls_text(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, VerificationError):
        return "the certificate is not for this host name"
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return "; ".join(entry[-1] for entry in error.args[0])
    return str(reason.getErrorMessage())


def _verification_text(connection: Any) -> str:
    """Return what OpenSSL found wrong with the certificate ("certificate has expired"), or "".

    pyOpenSSL says "certificate verify failed" for everything. It has no public name for the
    reason, and a verification callback would take the place of the user's own: hence its private
    ones, without which the text is just poorer.
    """
    try:
        library, ffi = cast(Any, SSL)._lib, cast(Any, SSL)._ffi
        code = library.SSL_get_verify_result(connection._ssl)
        if code == 0:
            return ""
        return str(ffi.string(library.X509_verify_cert_error_string(code)).decode())
    except AttributeError:
        return ""


@implementer(IStreamClientEndpoint)
class TLSEndpoint:
    """Speaks TLS over what another endpoint connects; fires when the handshake is complete.

    Twisted's `wrapClientTLS` fires before it, and a wrong certificate comes as a lost connection.
    `creator` says what is verified; see `twisted.internet.ssl.optionsForClientTLS`. `phase` is what
    its errors say: "tls", or "proxy-tls" where a proxy is spoken to.

    Raises TypeError for a creator that does not verify the host name. `connect` fails with
    `TLSFailed`, or as the endpoint below does.
    """

    def __init__(
        self,
        creator: IOpenSSLClientConnectionCreator,
        endpoint: IStreamClientEndpoint,
        *,
        clock: IReactorTime | None = None,
        phase: Phase = "tls",
    ) -> None:
        creates = IOpenSSLClientConnectionCreator.providedBy(creator)
        if not creates or isinstance(creator, CertificateOptions):
            # CertificateOptions would connect, and compare no host name.
            raise TypeError(
                "TLS is given by twisted.internet.ssl.optionsForClientTLS(host, trustRoot=...), "
                f"not by {type(creator).__name__}"
            )
        self._creator = creator
        self._endpoint = endpoint
        self._clock = clock
        self._phase = phase

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        return _connect_link(
            self._endpoint,
            _TLSLink(factory, self._phase),
            lambda inner: TLSMemoryBIOFactory(self._creator, True, inner, clock=self._clock),
        )


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
    `ConnectionProtocol`s; `open()` gives the `Connection` itself.
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
    ) -> None:
        self._reactor = reactor
        self._uri = uri
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
        ways = {
            way: _endpoint_of(
                reactor, way[-1] if way else None, uri.host, uri.port, proxy_tls, options
            )
            for way in proxies.choose(uri).ways
        }
        endpoint = next(iter(ways.values()))
        if len(ways) > 1:
            endpoint = _FailoverEndpoint(reactor, ways, proxies.failover, options.open_timeout)
        if uri.secure:
            creator = tls if tls is not None else optionsForClientTLS(uri.host)
            endpoint = TLSEndpoint(creator, endpoint, clock=reactor)
        elif tls is not None:
            raise ValueError("tls= is given, but a ws:// URI has no TLS; use wss://")
        self._endpoint = endpoint

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
            return cast("Deferred[object]", protocol.is_open)

        def cancel(_: Deferred[Connection]) -> None:
            if protocols:
                protocols[0].cancel_open()
            else:
                below.cancel()

        below: Deferred[Any] = self._endpoint.connect(factory)
        attempt: Deferred[Any] = Deferred(cancel)
        relay(below.addCallback(handshake).addCallback(lambda _: opened[0]), attempt)
        with_deadline(self._reactor, attempt, self._options.open_timeout)
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
