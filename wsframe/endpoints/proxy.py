"""The links of proxies: HTTP CONNECT and SOCKS, over whatever reaches the proxy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.core.http import Headers, HeadersLike
from wsframe.core.http_connect import HTTPConnect
from wsframe.core.proxy import Proxy
from wsframe.core.socks import SOCKS4, SOCKS5
from wsframe.core.timing import Observe
from wsframe.core.tunnel import Step, TunnelHandshake
from wsframe.core.uri import format_host_port, to_ascii_host
from wsframe.endpoints.credentials import with_credentials
from wsframe.endpoints.host import HostEndpoint, SocketEndpoint, look_up
from wsframe.endpoints.link import (
    Link,
    Watch,
    all_of,
    checked_timeout,
    connect_link,
    with_deadline,
)
from wsframe.endpoints.negotiate import SpnegoContext, check_installed
from wsframe.endpoints.tls import TLSEndpoint
from wsframe.endpoints.tls_options import TLSOptions
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    ProxyError,
    ProxyRefused,
    ProxyTLSFailed,
    ProxyUnreachable,
    TCPConnectFailed,
    TLSFailed,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions

__all__ = ["HTTPConnectEndpoint", "ProxyTLS", "SOCKSEndpoint", "endpoint_through"]


class _ConnectAgainError(OpenError):
    """The handshake with a proxy goes on, on a new connection. Seen by no caller of ours."""


class _TunnelLink(Link):
    phase = "proxy"

    def __init__(
        self,
        reactor: Any,
        factory: IProtocolFactory,
        watch: Watch,
        handshake: TunnelHandshake,
        proxy: Proxy,
    ) -> None:
        super().__init__(factory, watch, str(proxy))
        self._reactor = reactor
        self._handshake = handshake
        self.proxy = str(proxy)
        self._working = False
        self._held = b""  # what came while working; not much, as reading is paused
        self._lost: Failure | None = None

    def begin(self) -> None:
        cast(ITransport, self.transport).write(self._handshake.request)

    def advance(self, data: bytes) -> bytes | None:
        if self._working:
            self._held += data
            return None
        return self._follow(self._handshake.receive(data))

    def _follow(self, step: Step) -> bytes | None:
        if step.work is not None:
            self._work(step.work)
            return None
        if step.reconnect:
            raise _ConnectAgainError("the handshake goes on elsewhere", phase="proxy")
        if step.send and self._lost is None:
            cast(ITransport, self.transport).write(step.send)
        self.detail = step.detail
        return step.leftover

    def _work(self, work: Callable[[], Callable[[], Step]]) -> None:
        self._working = True
        if self._lost is None:
            cast(Any, self.transport).pauseProducing()
        pool = self._reactor.getThreadPool()
        done: Deferred[Callable[[], Step]] = deferToThreadPool(self._reactor, pool, work)
        done.addCallback(self._worked)
        done.addErrback(lambda failure: self.fail(cast(Exception, failure.value)))

    def _worked(self, resume: Callable[[], Step]) -> None:
        self._working = False
        if self._finished:  # cancelled: nobody waits for it any more
            return
        self._follow(resume())
        if self._lost is None:
            cast(Any, self.transport).resumeProducing()
        held, self._held = self._held, b""
        if held:
            self.dataReceived(held)
        if self._lost is not None:
            self.connectionLost(self._lost)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone; what is being worked out may go on elsewhere."""
        if self._inner is not None or self._finished:
            super().connectionLost(reason)
            return
        self._lost = reason
        self.transport = None  # to abort one of TLS that is lost is an error
        if not self._working:
            error = self.ended(reason)
            if not self._working:  # the end may complete an answer that asks for more
                self.fail(error)

    def refusal(self) -> ProxyError | None:
        return None if self._working else self._handshake.refusal()

    def ended(self, reason: Failure) -> Exception:
        proxy = cast(str, self.proxy)
        # The end of the connection may be what completes a refusal; it never opens a tunnel.
        try:
            self.advance(b"")
        except OpenError as error:
            return error
        return BadProxyAnswer(f"{proxy}: the connection ended", proxy=proxy)


class _ReachingEndpoint:
    """What connects to a proxy; its failures say that it is the proxy which was not reached."""

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy) -> None:
        self._endpoint = endpoint
        self._proxy = str(proxy)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        return self._endpoint.connect(factory).addErrback(self._say)

    def _say(self, failure: Failure) -> Failure:
        error = failure.value
        proxy = self._proxy
        if isinstance(error, ProxyError):  # the one before it on a chain
            return failure
        if isinstance(error, OpenCancelled) and error.proxy is None:
            error.proxy = proxy
        elif isinstance(error, CancelledError | ConnectingCancelledError):
            return Failure(OpenCancelled("cancelled in phase tcp", phase="tcp", proxy=proxy))
        elif isinstance(error, TLSFailed):
            text = f"{proxy}: {error}"
            return Failure(ProxyTLSFailed(text, proxy=proxy, certificate=error.certificate))
        elif isinstance(error, NameLookupFailed | DNSLookupError):
            text = f"the proxy {proxy} is not reached: {error}"
            return Failure(ProxyUnreachable(text, proxy=proxy, phase="dns"))
        elif isinstance(error, TCPConnectFailed | ConnectError):
            text = f"the proxy {proxy} is not reached: {error}"
            attempts = getattr(error, "attempts", ())
            return Failure(ProxyUnreachable(text, proxy=proxy, phase="tcp", attempts=attempts))
        return failure


def _reaching(endpoint: IStreamClientEndpoint, proxy: Proxy) -> IStreamClientEndpoint:
    return cast(IStreamClientEndpoint, _ReachingEndpoint(endpoint, proxy))


ProxyTLS = Callable[[Proxy], IOpenSSLClientConnectionCreator] | TLSOptions
"""What says how an https proxy is verified: for all the same, or a function of the proxy."""


def _creator_for(proxy: Proxy, given: ProxyTLS | None) -> IOpenSSLClientConnectionCreator:
    """Return what TLS with the proxy is spoken by; None verifies it by the system's authorities."""
    if given is None or isinstance(given, TLSOptions):
        return (given or TLSOptions()).for_host(proxy.host)
    return given(proxy)


_SOCKS: Final = {"socks4": SOCKS4, "socks4a": SOCKS4, "socks5": SOCKS5, "socks5h": SOCKS5}


def _spoken(proxy: str | Proxy, *schemes: str) -> Proxy:
    """Return the proxy when an endpoint that speaks these schemes can speak to it."""
    if not isinstance(proxy, Proxy):
        proxy = Proxy.parse(proxy)
    if proxy.scheme not in schemes:
        raise InvalidProxy(f"the scheme here is {' or '.join(schemes)}, not {proxy.scheme}")
    return proxy


def endpoint_through(
    reactor: Any,
    proxy: Proxy | None,
    host: str,
    port: int,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    observe: Observe | None = None,
    bind_address: tuple[str, int] | None = None,
) -> IStreamClientEndpoint:
    """Return what connects to a host through the proxy, and those it is reached by; or directly."""
    if proxy is None:
        direct = HostEndpoint(reactor, host, port, observe=observe, bind_address=bind_address)
        return cast(IStreamClientEndpoint, direct)
    kind: Any = SOCKSEndpoint if proxy.scheme in _SOCKS else HTTPConnectEndpoint
    endpoint: IStreamClientEndpoint = kind(
        reactor,
        proxy,
        host,
        port,
        timeout=None,
        proxy_tls=proxy_tls,
        bind_address=bind_address,
        options=options,
        observe=observe,
    )
    return endpoint


def _way_to(
    reactor: Any,
    proxy: Proxy,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    observe: Observe | None,
    bind_address: tuple[str, int] | None,
) -> IStreamClientEndpoint:
    """Return what reaches the proxy: its Unix socket, or its address, through the one before it."""
    if proxy.path is not None:
        return cast(IStreamClientEndpoint, SocketEndpoint(reactor, proxy.path, observe=observe))
    return endpoint_through(
        reactor, proxy.via, proxy.host, proxy.port, proxy_tls, options, observe, bind_address
    )


@implementer(IStreamClientEndpoint)
class HTTPConnectEndpoint:
    """Connects to a host through an HTTP proxy, with CONNECT (RFC 9110 §9.3.6).

    `proxy` is a URL such as "http://user:password@proxy:3128" or a `Proxy`; its credentials are
    sent to the proxy alone, in Basic, Bearer or Digest (see `options.proxy_auth_unasked`), or in
    what `Proxy.auth` says: each of its steps is made in a thread of the reactor's pool. `host`
    and `port` are the target's; the proxy resolves the name. `headers` are added to the CONNECT,
    behind the proxy's own. `timeout` is seconds for everything, None leaves it to the caller.
    `endpoint` is what reaches the proxy; None is TCP to its address, or its Unix socket, through
    the proxies that it is reached by (`Proxy.via`).

    To an https proxy TLS is spoken, over whatever reaches it, and its own name verified, in the
    phase "proxy-tls". `proxy_tls` is a `TLSOptions`, or is called with the `Proxy` and returns what
    is verified, such as `optionsForClientTLS(proxy.host, trustRoot=...)`; None takes the system's
    authorities. `bind_address` is the local host and port of TCP, None leaves them to the system.

    `observe` is called with a `PhaseDone` for each phase that succeeds; those of an `endpoint`
    that is given are its own matter.

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
        bind_address: tuple[str, int] | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
        observe: Observe | None = None,
    ) -> None:
        self._reactor = reactor
        self._proxy = _spoken(proxy, "http", "https")
        check_installed(self._proxy)
        self._target = (host, port)
        self._headers = (*Headers(self._proxy.headers).pairs, *Headers(headers).pairs)
        self._timeout = checked_timeout(timeout)
        self._options = options
        self._watch = Watch(reactor, observe)
        self._endpoint = endpoint or _way_to(
            reactor, self._proxy, proxy_tls, options, observe, bind_address
        )
        if self._proxy.scheme == "https":
            self._endpoint = TLSEndpoint(
                _creator_for(self._proxy, proxy_tls),
                self._endpoint,
                clock=reactor,
                phase="proxy-tls",
                observe=observe,
                to=str(self._proxy),
            )
        self._endpoint = _reaching(self._endpoint, self._proxy)
        self._handshake(self._proxy)  # what is wrong with the arguments is said now

    def _handshake(self, proxy: Proxy) -> HTTPConnect:
        return HTTPConnect(
            proxy,
            *self._target,
            headers=self._headers,
            unasked=self._options.proxy_auth_unasked,
            max_head=self._options.max_head_size,
            max_body=self._options.max_refusal_body,
            new_context=lambda: SpnegoContext(proxy),
        )

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open the tunnel; fires with the protocol that the factory built, connected through it."""
        attempt = ensureDeferred(self._connect(factory))
        return with_deadline(self._reactor, attempt, self._timeout, format_host_port(*self._target))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        handshake = self._handshake(await with_credentials(self._proxy))
        while True:  # it asks for a new connection only as often as it has another answer to a 407
            link = _TunnelLink(self._reactor, factory, self._watch, handshake, self._proxy)
            with suppress(_ConnectAgainError):
                return await connect_link(self._endpoint, link)

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
    reached by (`Proxy.via`). `proxy_tls`, `bind_address` and `options` are for those, as in
    `HTTPConnectEndpoint`. `observe` is as there; the look-up of the target is a phase "dns", too.

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
        bind_address: tuple[str, int] | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
        observe: Observe | None = None,
    ) -> None:
        self._reactor = reactor
        self._proxy = _spoken(proxy, *_SOCKS)
        self._port = port
        self._timeout = checked_timeout(timeout)
        self._observe = observe
        self._watch = Watch(reactor, observe)
        reaches = endpoint or _way_to(
            reactor, self._proxy, proxy_tls, options, observe, bind_address
        )
        self._endpoint = _reaching(reaches, self._proxy)
        try:
            self._host = to_ascii_host(host)
        except ValueError:
            raise InvalidProxy("the tunnel's target host is malformed") from None
        is_name = not (isIPAddress(self._host) or ":" in self._host)
        self._lookup = is_name and not self._proxy.resolves
        # What is wrong with the arguments is said now; any address stands for those to be found.
        wrong = self._handshake(self._proxy, "192.0.2.1" if self._lookup else self._host)
        if isinstance(wrong, ValueError):
            raise InvalidProxy(str(wrong))

    def _handshake(self, proxy: Proxy, host: str) -> TunnelHandshake | ValueError:
        """Return the handshake for that host, or why the proxy cannot be told of it."""
        try:
            return _SOCKS[proxy.scheme](proxy, host, self._port)
        except ValueError as error:
            return error

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open the tunnel; fires with the protocol that the factory built, connected through it."""
        attempt = ensureDeferred(self._connect(factory))
        what = format_host_port(self._host, self._port)
        return with_deadline(self._reactor, attempt, self._timeout, what)

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        proxy = await with_credentials(self._proxy)
        hosts: tuple[str, ...] = (self._host,)
        if self._lookup:
            hosts = await look_up(self._reactor, self._host, self._port, self._observe)
        refusals: list[OpenError] = []
        for host in hosts:
            handshake = self._handshake(proxy, host)
            if isinstance(handshake, ValueError):
                continue  # SOCKS4 and an IPv6 address
            link = _TunnelLink(self._reactor, factory, self._watch, handshake, proxy)
            try:
                return await connect_link(self._endpoint, link)
            except ProxyRefused as error:
                refusals.append(error)
        if refusals:
            raise all_of(refusals)
        raise NameLookupFailed(f"{self._host} has no address that {self._proxy} can be told")

    def __repr__(self) -> str:
        target = format_host_port(self._host, self._port)
        return f"<SOCKSEndpoint {target} through {self._proxy}>"
