"""The way to a host: directly, or by the first of several chains of proxies that leads there."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from wsframe.clock import monotonic_clock
from wsframe.core.proxy import Failover, Route, Way
from wsframe.core.uri import format_host_port
from wsframe.endpoints.link import all_of, with_deadline
from wsframe.endpoints.proxy import ProxyTLS, endpoint_through
from wsframe.errors import (
    NameLookupFailed,
    OpenError,
    OpenTimeout,
    ProxyError,
    ProxyRefused,
)
from wsframe.options import ClientOptions

__all__ = ["FailoverEndpoint", "endpoint_by"]


def endpoint_by(
    reactor: Any,
    route: Route,
    failover: Failover,
    *,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
) -> IStreamClientEndpoint:
    """Return what connects to the route's target by the ways of the route."""
    ways = {
        way: endpoint_through(
            reactor, way[-1] if way else None, route.host, route.port, proxy_tls, options
        )
        for way in route.ways
    }
    if len(ways) == 1:
        return next(iter(ways.values()))
    what = format_host_port(route.host, route.port)
    return FailoverEndpoint(reactor, ways, failover, options.open_timeout, what)


@implementer(IStreamClientEndpoint)
class FailoverEndpoint:
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
                if not _is_the_targets(error):
                    self._failover.failed(way, self._now())
            else:
                self._failover.worked(way)
                return protocol
        raise all_of(errors)


_LEADS_ON: Final = (NameLookupFailed, ProxyError, OpenTimeout)
"""The failures of one way after which the next is tried."""


def _is_the_targets(error: OpenError) -> bool:
    """Return whether a way failed because of the target, as far as can be told."""
    # The proxy's own name would have made it a ProxyUnreachable.
    return isinstance(error, NameLookupFailed | ProxyRefused)
