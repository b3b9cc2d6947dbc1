"""The client: `connect()` for one connection, `WebSocketClientService` to stay connected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, cast

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, failed, fired, relay, run
from wsframe.clock import global_reactor, monotonic_clock
from wsframe.connection import Connection, State
from wsframe.core.http import Headers, HeadersLike
from wsframe.core.opening import check_subprotocols
from wsframe.core.proxy import Proxies, ProxySettings
from wsframe.core.retry import RETRY, Retry, RetryPolicy
from wsframe.core.uri import WebSocketURI, basic_credentials, parse_uri
from wsframe.endpoints import ConnectionProtocol, ProxyTLS, WebSocketEndpoint
from wsframe.endpoints.tunnel import settings_of
from wsframe.handling import Handler, handle, safe_text
from wsframe.options import DEFAULT_CLIENT_OPTIONS, DEFAULT_RETRY_POLICY, ClientOptions

__all__ = ["Opening", "WebSocketClientService", "connect"]

_log = Logger(namespace="wsframe.client")


class Opening(Awaitable[Connection]):
    """What `connect` returns: await it for the `Connection`, or open it with `async with`.

    ``async with`` closes the connection at the end of the block.
    """

    _connection: Connection

    async def __aenter__(self) -> Connection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(kind, error, traceback)


def _endpoint(
    uri: str | WebSocketURI,
    *,
    headers: HeadersLike | None,
    origin: str | None,
    subprotocols: tuple[str, ...] | list[str],
    proxies: Proxies | ProxySettings,
    tls: IOpenSSLClientConnectionCreator | None,
    proxy_tls: ProxyTLS | None,
    options: ClientOptions,
    reactor: Any,
) -> WebSocketEndpoint:
    parsed = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
    if not isinstance(options, ClientOptions):
        raise TypeError(f"options is a ClientOptions, not {type(options).__name__}")
    given = Headers(headers or ())
    if parsed.user is not None and "Authorization" not in given:
        credentials = basic_credentials(parsed.user, parsed.password or "")
        given = Headers((*given.pairs, ("Authorization", credentials)))
    return WebSocketEndpoint(
        reactor,
        parsed,
        headers=given.pairs,
        origin=origin,
        subprotocols=check_subprotocols(subprotocols),
        proxies=settings_of(proxies),
        tls=tls,
        proxy_tls=proxy_tls,
        options=options,
    )


def connect(
    uri: str | WebSocketURI,
    *,
    headers: HeadersLike | None = None,
    origin: str | None = None,
    subprotocols: tuple[str, ...] | list[str] = (),
    proxies: Proxies | ProxySettings = None,
    tls: IOpenSSLClientConnectionCreator | None = None,
    proxy_tls: ProxyTLS | None = None,
    options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    reactor: IReactorTime | None = None,
) -> Opening:
    """Open a WebSocket.

    `uri` is ws:// or wss://; user information in it is sent with Basic. `headers` are added to
    the opening handshake, in order. `origin` is the Origin header, None sends none.
    `subprotocols` are offered, the preferred first. `proxies` is the URL of an HTTP or SOCKS
    proxy, or a mapping with the keys "ws", "wss" and "all", see `ProxySettings`; None connects
    directly. The environment is looked at when it is `FROM_ENVIRONMENT`, and only then. `tls` is
    what `twisted.internet.ssl.optionsForClientTLS(host, trustRoot=...)` returns; None verifies the
    server against the system's authorities. `proxy_tls` says the same for https proxies: a function
    that is called with the `Proxy`. `reactor` None is the installed one.

    The Deferred returned fires with a `Connection` when the WebSocket is open, within
    `options.open_timeout` seconds; it fails with an `OpenError` that says in which phase. It can
    be awaited, used with ``async with``, and cancelled at any moment.

    Raises `InvalidURI`, `InvalidProxy` and `InvalidHeader` before anything is sent.
    """
    endpoint = _endpoint(
        uri,
        headers=headers,
        origin=origin,
        subprotocols=subprotocols,
        proxies=proxies,
        tls=tls,
        proxy_tls=proxy_tls,
        options=options,
        reactor=reactor or global_reactor(),
    )
    opening = Opening(lambda _: attempt.cancel())
    opening.untaken = Connection.abort
    attempt = endpoint.open()
    relay(attempt, opening)
    return opening


class WebSocketClientService(Service):
    """A service that keeps a WebSocket open: Twisted's `ClientService` over a `WebSocketEndpoint`.

    `handler` is called with every connection and runs until the connection ends, or ends the
    connection by returning (code 1000) or raising (1011). Then the next attempt follows, after a
    wait of `reconnect` (full jitter); it never gives up. The other arguments are those of
    `connect`; they, the proxies among them, hold for every connection.

    `stopService` sends a Close frame and waits for the end within `options.close_timeout` seconds.
    """

    def __init__(
        self,
        uri: str | WebSocketURI,
        handler: Handler,
        *,
        headers: HeadersLike | None = None,
        origin: str | None = None,
        subprotocols: tuple[str, ...] | list[str] = (),
        proxies: Proxies | ProxySettings = None,
        tls: IOpenSSLClientConnectionCreator | None = None,
        proxy_tls: ProxyTLS | None = None,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
        reconnect: RetryPolicy = DEFAULT_RETRY_POLICY,
        reactor: IReactorTime | None = None,
    ) -> None:
        self._reactor = reactor or global_reactor()
        self._now = monotonic_clock(self._reactor)
        self._uri = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
        self._handler = handler
        self._connection: Connection | None = None
        self._handling: Awaitable[None] = fired(None)
        self._waiting: list[Awaitable[Connection]] = []
        self._stopped = False
        # This service never gives up: what is final is tried again, as everything else is.
        endless = replace(reconnect, judge=lambda _: RETRY, max_attempts=None, max_elapsed=None)
        self._backoff = Retry(endless, self._now())
        self._last_failure: Exception | None = None
        endpoint = _endpoint(
            self._uri,
            headers=headers,
            origin=origin,
            subprotocols=subprotocols,
            proxies=proxies,
            tls=tls,
            proxy_tls=proxy_tls,
            options=options,
            reactor=self._reactor,
        )
        self._client = _QuietClientService(
            cast(IStreamClientEndpoint, _Reporting(endpoint, self._attempt_failed)),
            Factory.forProtocol(lambda: _ServiceProtocol(self)),
            retryPolicy=self._delay,
            clock=self._reactor,
        )

    @property
    def connection(self) -> Connection | None:
        """The open connection, None while there is none."""
        return self._connection

    @property
    def last_failure(self) -> Exception | None:
        """Why the last attempt or connection ended: `OpenError`, `ConnectionClosed`, or None."""
        return self._last_failure

    def when_open(self) -> Awaitable[Connection]:
        """Return a Deferred that fires with the open connection, or the next one to open.

        It fails with CancelledError when the service is stopped before.
        """
        if self._stopped:
            return failed(CancelledError())
        if self._connection is not None and self._connection.state is State.OPEN:
            return fired(self._connection)
        waiter: Awaitable[Connection] = Awaitable(self._forget_waiter)
        self._waiting.append(waiter)
        return waiter

    def _forget_waiter(self, cancelled: Any) -> None:
        self._waiting = [waiter for waiter in self._waiting if waiter is not cancelled]

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()
        self._stopped = False
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        """Close the connection with a Close frame, or stop trying; fires when all has ended."""
        super().stopService()
        self._stopped = True
        for waiter in list(self._waiting):
            waiter.cancel()
        handling = self._handling
        # At once, and not when the connection has ended: we may be started again before.
        stopping: Deferred[Any] = self._client.stopService()
        result: Awaitable[None] = Awaitable()

        def ended() -> None:
            handling.cancel()
            if not result.called:
                result.callback(None)

        if stopping.called:
            ended()
        else:
            # In the next turn: until then the ClientService can be told nothing.
            stopping.addBoth(lambda _: self._reactor.callLater(0, ended))
        return result

    def _attempt_failed(self, failure: Failure) -> None:
        self._last_failure = cast(Exception, failure.value)

    def _delay(self, _: int) -> float:
        """ClientService: how long to wait. Its own count forgets a server that flaps."""
        failure = cast(Exception, self._last_failure)
        decision = self._backoff.failed(failure, self._now(), self._reactor.seconds())
        delay = cast(float, decision.delay)
        if self.running:
            _log.warn(
                "Not connected to {uri}: {error}. Next attempt in {delay:.1f} s",
                uri=str(self._uri),
                error=safe_text(self._last_failure),
                delay=delay,
            )
        return delay

    def opened(self, connection: Connection) -> None:
        """From the protocol: a connection is open."""
        self._backoff.opened(self._now())
        self._connection = connection
        _log.info("Connected to {uri}", uri=str(self._uri))
        # In the next turn, when the ClientService, too, knows that it is connected: the handler
        # may stop us at once.
        self._reactor.callLater(0, self._handle, connection)

    def _handle(self, connection: Connection) -> None:
        # A handler may outlive its connection, to clean up, but not into the next one's time.
        self._handling.cancel()
        if connection.state is State.OPEN:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                if not waiter.called:  # cancelled by one that came before
                    waiter.callback(connection)
        if not self.running:
            return  # stopped before it began
        self._handling = run(handle, self._handler, connection)

    def closed(self, connection: Connection, outcome: Exception) -> None:
        """From the protocol: the connection has ended."""
        self._last_failure = outcome
        self._connection = None


class _QuietClientService(ClientService):
    """Twisted's, without its log lines: they name a count and not the reason; ours say both."""

    _log = Logger(namespace="wsframe.client", observer=cast(Any, lambda _: None))


class _ServiceProtocol(ConnectionProtocol):
    """Tells the service of its connection's beginning and end."""

    def __init__(self, service: WebSocketClientService) -> None:
        self._service = service

    def connectionMade(self) -> None:
        self._service.opened(self.connection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._service.closed(self.connection, cast(Exception, reason.value))


class _Reporting:
    """An endpoint that tells of its failures; ClientService keeps them to itself."""

    def __init__(self, endpoint: WebSocketEndpoint, report: Callable[[Failure], None]) -> None:
        self._endpoint = endpoint
        self._report = report

    def connect(self, factory: Any) -> Deferred[Any]:
        def failed(failure: Failure) -> Failure:
            self._report(failure)
            return failure

        return self._endpoint.connect(factory).addErrback(failed)
