"""Opening a way to a server, as far as the WebSocket: how long each phase took, or what failed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from twisted.internet import defer
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from wsframe.cli.failure import described, secrets_of
from wsframe.clock import monotonic_clock
from wsframe.core.proxy import Failover, Route
from wsframe.core.timing import PhaseDone
from wsframe.core.uri import WebSocketURI
from wsframe.endpoints import ProxyTLS, TLSOptions
from wsframe.endpoints.link import with_deadline
from wsframe.endpoints.tunnel import endpoint_to
from wsframe.errors import OpenCancelled, WSFrameError
from wsframe.options import ClientOptions

__all__ = ["Checked", "check"]

GOODBYE: Final = 1.0
"""Seconds for an orderly end of what was opened; who does not answer by then is cut off."""


@dataclass(frozen=True)
class Checked:
    """What came of a way: the phases that succeeded, how long it took, and the error if any.

    `error` is as JSON knows it. It has the proxy's own words, without any secret of ours in them.
    """

    phases: tuple[PhaseDone, ...]
    seconds: float
    error: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "ok": self.error is None,
            "seconds": self.seconds,
            "phases": [asdict(phase) for phase in self.phases],
            "error": self.error,
        }


class _Opened(Protocol):
    """What is connected, and says nothing."""

    def __init__(self) -> None:
        self.ended: defer.Deferred[None] = defer.Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the connection has ended."""
        if not self.ended.called:
            self.ended.callback(None)


async def check(
    reactor: Any,
    uri: WebSocketURI,
    route: Route,
    *,
    tls: IOpenSSLClientConnectionCreator | TLSOptions | None,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    said: Callable[[PhaseDone], object] = lambda _: None,
) -> Checked:
    """Open the tunnel of a route with one way, for wss also TLS, and end both in order.

    `said` is called with each phase when it is done; the other arguments are those of `connect`.
    """
    phases: list[PhaseDone] = []

    def observe(phase: PhaseDone) -> None:
        phases.append(phase)
        said(phase)

    (way,) = route.ways
    factory: Any = Factory.forProtocol(_Opened)
    factory.noisy = False
    now = monotonic_clock(reactor)
    began = now()
    try:
        endpoint = endpoint_to(
            reactor,
            uri,
            route,
            Failover(),
            tls=tls,
            proxy_tls=proxy_tls,
            options=options,
            observe=observe,
        )
        attempt = endpoint.connect(factory)
        opened: Any = await with_deadline(reactor, attempt, options.open_timeout, str(uri))
    except OpenCancelled:
        raise
    except (WSFrameError, ValueError) as error:  # ValueError: a host that no certificate has
        return Checked(tuple(phases), now() - began, described(error, secrets_of(way)))
    took = now() - began
    opened.transport.loseConnection()
    with suppress(defer.TimeoutError):
        await opened.ended.addTimeout(GOODBYE, reactor)
    opened.transport.abortConnection()
    return Checked(tuple(phases), took)
