"""The way to a host: directly, or by the first of several chains of proxies that leads there."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from wsframe.clock import monotonic_clock
from wsframe.core.proxy import (
    Failover,
    FromEnvironment,
    Proxies,
    ProxySettings,
    Route,
    Way,
    from_environment,
)
from wsframe.core.timing import Observe
from wsframe.core.uri import WebSocketURI, format_host_port, parse_target, target_uri
from wsframe.endpoints.host import SocketEndpoint
from wsframe.endpoints.link import all_of, with_deadline
from wsframe.endpoints.proxy import ProxyTLS, endpoint_through
from wsframe.endpoints.tls import TLSEndpoint
from wsframe.endpoints.tls_options import TLSOptions
from wsframe.errors import (
    InvalidURI,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyError,
    ProxyRefused,
)
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions

__all__ = [
    "DeadlineEndpoint",
    "FailoverEndpoint",
    "endpoint_by",
    "endpoint_to",
    "settings_of",
    "tunnel_endpoint",
]


def settings_of(proxies: Proxies | ProxySettings) -> ProxySettings:
    """Return the settings that a `proxies=` stands for; the environment is read now."""
    if isinstance(proxies, ProxySettings):
        return proxies
    if isinstance(proxies, FromEnvironment):
        return from_environment(os.environ)
    return ProxySettings(proxies)


def tunnel_endpoint(
    reactor: Any,
    target: str | WebSocketURI,
    *,
    proxies: Proxies | ProxySettings = None,
    proxy_tls: ProxyTLS | None = None,
    timeout: float | None = 30.0,
    options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    observe: Observe | None = None,
) -> IStreamClientEndpoint:
    """Return an endpoint that gives any protocol a byte stream to a host, by the proxies set.

    `target` is "example.org:443", "[::1]:443", a ws://, wss://, http:// or https:// URI, of which
    nothing but scheme, host and port is looked at, or a `WebSocketURI`. The stream is plain: TLS to
    the target is the business of what is put on top, such as a `TLSEndpoint`.

    `proxies` is all that `connect` takes: a URL, a `Proxy`, a list of them to try in order, a
    mapping, `ProxySettings`, `FROM_ENVIRONMENT`, or None, which connects directly. The keys "wss"
    and `https_proxy` decide for wss://, https:// and plain host:port, the keys "ws" and
    `http_proxy` for ws:// and http://. `proxy_tls` says how https proxies are verified, as in
    `HTTPConnectEndpoint`. `timeout` is seconds for everything, from the first name look-up to the
    open tunnel; None leaves it to the caller, and a list of proxies then shares
    `options.open_timeout`. What `options` say of proxies applies, and nothing else in them.
    `observe` is called with a `PhaseDone` for each phase that succeeds.

    `connect` of the endpoint fires with the protocol that the factory built, once the tunnel is
    open; it fails with an `OpenError`, can be cancelled at any moment, and leaves nothing behind.

    Raises `InvalidURI`, `InvalidProxy`, or `InvalidHeader` for a target that cannot be asked of
    the proxy, before anything is sent.
    """
    if isinstance(target, WebSocketURI) and target.unix_path is not None:
        raise InvalidURI("no tunnel leads to a Unix socket; connect to it directly")
    uri = (
        target_uri(target.host, target.port, secure=target.secure)
        if isinstance(target, WebSocketURI)
        else parse_target(target)
    )
    if timeout is not None:  # what the ways share; a wrong one is said now
        options = replace(options, open_timeout=timeout)
    settings = settings_of(proxies)
    endpoint = endpoint_by(
        reactor,
        settings.choose(uri),
        settings.failover,
        proxy_tls=proxy_tls,
        options=options,
        observe=observe,
    )
    return DeadlineEndpoint(reactor, endpoint, timeout, format_host_port(uri.host, uri.port))


@implementer(IStreamClientEndpoint)
class DeadlineEndpoint:
    """Connects as the endpoint below does, or fails with `OpenTimeout` after `seconds`.

    None waits for as long as the endpoint below does. `what` is connected to, as an error names it.
    """

    def __init__(
        self, reactor: Any, endpoint: IStreamClientEndpoint, seconds: float | None, what: str
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._seconds = seconds
        self._what = what

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        attempt = self._endpoint.connect(factory)
        return with_deadline(self._reactor, attempt, self._seconds, self._what)

    def __repr__(self) -> str:
        return f"<DeadlineEndpoint {self._what} over {self._endpoint!r}>"


def endpoint_by(
    reactor: Any,
    route: Route,
    failover: Failover,
    *,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    observe: Observe | None = None,
    bind_address: tuple[str, int] | None = None,
) -> IStreamClientEndpoint:
    """Return what connects to the route's target by the ways of the route."""
    ways = {
        way: endpoint_through(
            reactor,
            way[-1] if way else None,
            route.host,
            route.port,
            proxy_tls,
            options,
            observe,
            bind_address,
        )
        for way in route.ways
    }
    if len(ways) == 1:
        return next(iter(ways.values()))
    what = format_host_port(route.host, route.port)
    return FailoverEndpoint(reactor, ways, failover, options.open_timeout, what)


def endpoint_to(
    reactor: Any,
    uri: WebSocketURI,
    route: Route,
    failover: Failover,
    *,
    tls: IOpenSSLClientConnectionCreator | TLSOptions | None,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    observe: Observe | None = None,
    bind_address: tuple[str, int] | None = None,
) -> IStreamClientEndpoint:
    """Return what connects to the server of a URI: by the route, and for wss within TLS.

    A Unix socket is connected to directly. `tls` None verifies the server by its own name.
    """
    endpoint: IStreamClientEndpoint
    if uri.unix_path is not None:
        endpoint = SocketEndpoint(reactor, uri.unix_path, observe=observe)
    else:
        endpoint = endpoint_by(
            reactor,
            route,
            failover,
            proxy_tls=proxy_tls,
            options=options,
            observe=observe,
            bind_address=bind_address,
        )
    if not uri.secure:
        return endpoint
    if tls is None or isinstance(tls, TLSOptions):
        tls = (tls or TLSOptions()).for_host(uri.host)
    to = format_host_port(uri.host, uri.port)
    return TLSEndpoint(tls, endpoint, clock=reactor, observe=observe, to=to)


@implementer(IStreamClientEndpoint)
class FailoverEndpoint:
    """Connects by the first of several ways that leads to the target.

    Each way but the last has an equal share of the time that is left, so that a proxy that hangs
    leaves some for the others. A refusal leads on to the next way, too: another proxy may be able
    to do what this one cannot. It is not held against the proxy, which did answer, in time.
    """

    def __init__(
        self,
        reactor: Any,
        ways: dict[Way, IStreamClientEndpoint],
        failover: Failover,
        seconds: float,
        what: str,
    ) -> None:
        self._reactor = reactor
        self._now = monotonic_clock(reactor)
        self._ways = ways
        self._failover = failover
        self._seconds = seconds
        self._what = what

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
                protocol: IProtocol = await with_deadline(self._reactor, attempt, share, self._what)
            except _LEADS_ON as error:
                errors.append(error)
                if error.at_deadline or not _is_the_targets(error):
                    self._failover.failed(way, self._now())
            except OpenCancelled as error:
                error.others = tuple(errors)  # a deadline tells what the ways before it came to
                raise
            else:
                self._failover.worked(way)
                return protocol
        raise all_of(errors)

    def __repr__(self) -> str:
        return f"<FailoverEndpoint {self._what} by the first of {len(self._ways)} ways>"


_LEADS_ON: Final = (NameLookupFailed, ProxyError, OpenTimeout)
"""The failures of one way after which the next is tried."""


def _is_the_targets(error: OpenError) -> bool:
    """Return whether a way failed because of the target, as far as can be told."""
    # The proxy's own name would have made it a ProxyUnreachable.
    return isinstance(error, NameLookupFailed | ProxyRefused)
