"""The server: `serve()` and `WebSocketServerService`."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IReactorCore,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import AsyncOnly, Awaitable, failed, fired, not_awaited, relay
from wsframe.clock import global_reactor
from wsframe.connection import Connection
from wsframe.core.closing import check_close
from wsframe.handling import Handler, check_handler, handle
from wsframe.options import DEFAULT_SERVER_OPTIONS, Deflate, ServerOptions, check_compression
from wsframe.protocol import ConnectionServerFactory, Listener, ProcessRequest, Wire
from wsframe.tls_transport import TLSListener
from wsframe.trace import Trace, check_trace

__all__ = ["Connections", "Listen", "Server", "Serving", "WebSocketServerService", "serve"]

_log = Logger(namespace="wsframe.server")

Listen = str | IStreamServerEndpoint | Sequence[str | IStreamServerEndpoint]
"""An endpoint description such as "tcp:8765:interface=127.0.0.1", an endpoint, or several."""


class Connections:
    """The connections of one server, each with its handler; they end together.

    `factory` builds their protocols.
    """

    def __init__(
        self,
        handler: Handler,
        options: ServerOptions,
        reactor: IReactorTime,
        process_request: ProcessRequest | None,
        compression: Deflate | None,
        trace: Trace | None,
    ) -> None:
        _check_arguments(handler, options)
        self.factory = ConnectionServerFactory(
            self.opened,
            reactor=reactor,
            options=options,
            process_request=process_request,
            compression=check_compression(compression),
        )
        cast(Any, self.factory).noisy = False
        self.factory.trace = check_trace(trace)
        self.factory.left = self._look
        self._handler = handler
        self._options = options
        self.reactor = reactor
        self._handling: dict[Connection, Deferred[None] | None] = {}
        self._starting: list[Connection] = []
        self._drained: Deferred[None] | None = None
        self._code: int | None = None

    def opened(self, wire: Wire) -> Listener:
        """From the protocol: a client's WebSocket is open."""
        connection = Connection(wire)
        # The handler starts in the next turn: the client must have our answer before a message,
        # and the protocol its listener.
        if not self._starting:
            self.reactor.callLater(0, self._start_all)
        self._starting.append(connection)
        self._handling[connection] = None
        return connection

    def _start_all(self) -> None:
        """Start the handlers of all connections that opened in the turn before."""
        starting, self._starting = self._starting, []
        for connection in starting:
            self._start(connection)

    def _start(self, connection: Connection) -> None:
        if self._code is not None:
            connection.close(self._code)
        handling = handle(self._handler, connection)
        self._handling[connection] = handling
        # One wait after the other: while the handler runs, nobody needs to wait for the rest.
        handling.addBoth(self._handled, connection)

    def _handled(self, _: object, connection: Connection) -> None:
        if connection in self._handling:
            self._handling[connection] = None
            connection.when_closed().addBoth(self._ended, connection)

    def _ended(self, _: object, connection: Connection) -> None:
        self._handling.pop(connection, None)
        self._look()

    def _look(self) -> None:
        """See whether the last one is gone that `drain` waits for."""
        if self._drained is not None and not (self._handling or self.factory.opening):
            drained, self._drained = self._drained, None
            drained.callback(None)

    @property
    def open(self) -> frozenset[Connection]:
        """The connections that are open or closing."""
        return frozenset(self._handling)

    @property
    def trace(self) -> Trace | None:
        """What the connections are written down in."""
        return self.factory.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self.factory.trace = check_trace(trace)
        for connection in self._handling:
            connection.trace = trace

    def drain(self, code: int, reason: str) -> Deferred[None]:
        """Close all; fires when every handler has ended, within `options.drain_timeout`.

        Clients that have not finished their opening handshake are answered 503, and waited for.
        """
        self._code = code
        for connection in list(self._handling):
            connection.close(code, reason)
        self.factory.turn_away()
        if not (self._handling or self.factory.opening):
            return fired(None)
        waited_for = self._drained
        self._drained = drained = Awaitable[None]()
        if waited_for is not None:  # the first deadline holds
            drained.addBoth(waited_for.callback)
            return drained
        call: IDelayedCall = self.reactor.callLater(self._options.drain_timeout, self._cut)
        drained.addBoth(lambda _: call.cancel() if call.active() else None)
        return drained

    def _cut(self) -> None:
        _log.warn(
            "{count} connections did not end in time",
            count=len(self._handling) + len(self.factory.opening),
        )
        for connection, handling in list(self._handling.items()):
            connection.abort()
            if handling is not None:
                handling.cancel()
                if self._handling.get(connection) is handling:
                    self._handled(None, connection)  # nobody waits for one that goes on
        for wire in list(self.factory.opening):
            wire.abort("local", "the server is closing")


class Server(AsyncOnly):
    """A running server; made by `serve`."""

    def __init__(self, connections: Connections, ports: list[IListeningPort]) -> None:
        self._connections = connections
        self._ports = ports
        self._closing: Deferred[Any] | None = None
        # Ctrl-C, too, is to end with Close frames; a reactor without shutdown is a test's clock.
        self._reactor: Any = connections.reactor
        self._trigger: Any = None
        if IReactorCore.providedBy(self._reactor):
            trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)
            self._trigger = trigger

    @property
    def addresses(self) -> tuple[IAddress, ...]:
        """The addresses listened on, in the order of `listen`; Twisted's, with host and port."""
        return tuple(port.getHost() for port in self._ports)

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that are open, or closing."""
        return self._connections.open

    @property
    def trace(self) -> Trace | None:
        """What the connections are written down in, None for nothing.

        It may be set at any moment, and holds for the open connections, too.
        """
        return self._connections.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._connections.trace = trace

    def close(self, code: int = 1001, reason: str = "") -> Awaitable[None]:
        """Stop accepting, close every connection with the code, and wait for the handlers.

        Fires when all has ended: within `options.drain_timeout` seconds, after which handlers are
        cancelled and TCP is aborted. Called again it waits for the same end. A handler does not
        await it: it would be waiting for itself.

        Raises TypeError and ValueError for a code or reason that may not be sent.
        """
        check_close(code, reason)
        if self._closing is None:
            stopping: list[Deferred[Any]] = [
                maybeDeferred(port.stopListening) for port in self._ports
            ]
            stopping.append(self._connections.drain(code, reason))
            self._forget_trigger()
            self._closing = gatherResults(stopping, consumeErrors=True)
        result: Awaitable[None] = Awaitable()
        self._closing.addBoth(_inform, result)
        return result

    def _forget_trigger(self) -> None:
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)

    def _shut_down(self) -> Awaitable[None]:
        self._trigger = None  # it has fired: to remove it would be an error
        return self.close()

    def abort(self) -> None:
        """End every connection at once, without a Close frame."""
        self._connections._cut()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _inform(value: object, waiter: Awaitable[None]) -> object:
    """Tell one of several who wait for the same end."""
    if not waiter.called:
        waiter.callback(None)
    return value


class Serving(AsyncOnly, Awaitable[Server]):
    """What `serve` returns: await it for the `Server`, or hold it open with `async with`."""

    failure: Failure | None = None
    """Why it will not listen; known before what listened already has ended."""

    _server: Server

    if not TYPE_CHECKING:  # a type checker would take any name for one of ours

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was forgotten."""
            raise not_awaited("serve", Server, self, name)

    async def __aenter__(self) -> Server:
        self._server = await self
        return self._server

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.close()


def serve(
    handler: Handler,
    listen: Listen,
    *,
    process_request: ProcessRequest | None = None,
    compression: Deflate | None = None,
    trace: Trace | None = None,
    options: ServerOptions = DEFAULT_SERVER_OPTIONS,
    reactor: IReactorTime | None = None,
) -> Serving:
    """Serve WebSockets.

    `handler` is ``async def handler(connection)``; it runs for each connection, which is closed
    when it returns (1000) or raises (1011); messages that it left are dropped then. It is a Twisted
    coroutine; one that is to use asyncio's own waits is given as
    ``lambda connection: asyncio.ensure_future(handler(connection))``.
    `listen` is an endpoint description, an endpoint, or several. `process_request` is called with
    every `Request`, also one that asks for no WebSocket, and may be async: it returns None or an
    `Accept` to go on, a `Response` to answer with that, or raises `Reject`. `compression` accepts
    permessage-deflate from clients that offer it, None does not. `trace` is what the connections
    are written down in, None for nothing. `reactor` None is the installed one.

    The Deferred returned fires with the `Server` when it listens everywhere; it fails as the
    endpoint does, or when it is cancelled, and then listens nowhere.

    Raises ValueError for a description that is none, and TypeError for a handler that cannot be
    called.
    """
    _check_arguments(handler, options)
    reactor = reactor or global_reactor()
    endpoints = _endpoints(reactor, listen, options)
    connections = Connections(handler, options, reactor, process_request, compression, trace)
    serving = Serving(lambda _: listening.cancel())
    ports: list[IListeningPort] = []

    async def listen_everywhere() -> Server:
        try:
            for endpoint in endpoints:
                port = await endpoint.listen(cast(Any, connections.factory))
                ports.append(port)
        except BaseException:
            serving.failure = Failure()
            await gatherResults([maybeDeferred(port.stopListening) for port in ports])
            raise
        return Server(connections, ports)

    serving.untaken = Server.close
    listening = Deferred.fromCoroutine(listen_everywhere())
    relay(listening, serving)
    return serving


def _check_arguments(handler: object, options: object) -> None:
    check_handler(handler)
    if not isinstance(options, ServerOptions):
        raise TypeError(f"options is a ServerOptions, not {type(options).__name__}")


def _endpoints(
    reactor: IReactorTime, listen: Listen, options: ServerOptions
) -> list[IStreamServerEndpoint]:
    given = (
        [listen] if isinstance(listen, str) or not isinstance(listen, Sequence) else list(listen)
    )
    if not given:
        raise ValueError("listen names no endpoint")
    return [_endpoint(reactor, item, options) for item in cast("list[Any]", given)]


def _endpoint(reactor: IReactorTime, given: Any, options: ServerOptions) -> IStreamServerEndpoint:
    example = "such as 'tcp:8765:interface=127.0.0.1'"
    if isinstance(given, str):
        listener = TLSListener(reactor) if given.startswith("ssl:") else reactor
        try:
            described: IStreamServerEndpoint = serverFromString(
                listener, with_backlog(given, options.backlog)
            )
            return described
        except (ValueError, TypeError) as error:
            raise ValueError(f"{error}; listen takes endpoint descriptions {example}") from None
    if not hasattr(given, "listen"):
        raise TypeError(f"listen takes endpoints and descriptions {example}, not {given!r}")
    endpoint: IStreamServerEndpoint = given
    return endpoint


def with_backlog(description: str, backlog: int) -> str:
    """Add our backlog to a description that names none: Twisted's 50 loses clients in a rush."""
    kind = description.partition(":")[0]
    if kind not in {"tcp", "tcp6", "ssl", "unix"} or ":backlog=" in description:
        return description
    return f"{description}:backlog={backlog}"


class WebSocketServerService(Service):
    """`serve` as a service: it listens from `startService` on; `stopService` drains with 1001.

    The arguments are those of `serve`. `startService` raises what keeps it from listening, where
    that is known at once, and `when_listening` fails with it.
    """

    def __init__(
        self,
        handler: Handler,
        listen: Listen,
        *,
        process_request: ProcessRequest | None = None,
        compression: Deflate | None = None,
        trace: Trace | None = None,
        options: ServerOptions = DEFAULT_SERVER_OPTIONS,
        reactor: IReactorTime | None = None,
    ) -> None:
        _check_arguments(handler, options)
        self.reactor = reactor or global_reactor()
        _endpoints(self.reactor, listen, options)  # what is wrong with it is said now
        check_compression(compression)
        self._arguments: dict[str, Any] = {
            "process_request": process_request,
            "compression": compression,
            "trace": check_trace(trace),
            "options": options,
            "reactor": self.reactor,
        }
        self._handler = handler
        self._listen = listen
        self._serving: Serving | None = None
        self._listening: list[Awaitable[Server]] = []
        self._server: Server | None = None
        self._failure: Failure | None = None

    @property
    def server(self) -> Server | None:
        """The running server, None while there is none."""
        return self._server

    @property
    def trace(self) -> Trace | None:
        """What the connections are written down in, None for nothing.

        It may be set at any moment, and holds for the open connections, too.
        """
        return cast("Trace | None", self._arguments["trace"])

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._arguments["trace"] = check_trace(trace)
        if self._server is not None:
            self._server.trace = trace

    def when_listening(self) -> Awaitable[Server]:
        """Return a Deferred that fires with the `Server` when it listens, or fails as it does.

        It fails with CancelledError when the service is stopped before.
        """
        if self._server is not None:
            return fired(self._server)
        if self._failure is not None:
            return failed(cast(BaseException, self._failure.value))
        waiter: Awaitable[Server] = Awaitable(lambda _: self._forget(waiter))
        self._listening.append(waiter)
        return waiter

    def _forget(self, waiter: Awaitable[Server]) -> None:
        self._listening = [other for other in self._listening if other is not waiter]

    def privilegedStartService(self) -> None:
        """Begin to listen while the process may still open low ports."""
        self._start()
        super().privilegedStartService()

    def startService(self) -> None:
        """Begin to listen, if that has not happened yet."""
        self._start()
        super().startService()

    def _start(self) -> None:
        if self._serving is not None:
            return
        self._failure = None
        self._serving = serving = serve(self._handler, self._listen, **self._arguments)
        serving.addCallback(self._listens, serving).addErrback(self._not_started, serving)
        if serving.failure is not None:
            self._not_started(serving.failure, serving)
        failure = cast("Failure | None", self._failure)
        if failure is not None:
            # A port that is taken is known at once: whoever starts us learns of it.
            failure.raiseException()

    def _listens(self, server: Server, serving: Serving) -> Any:
        if self._serving is not serving:
            return server.close()  # stopped meanwhile
        server.trace = self.trace
        try:
            self.started(server)
        except Exception:
            server.close()
            raise
        return None

    def started(self, server: Server) -> None:
        """The service listens. What this raises stops it."""
        self._server = server
        for address in server.addresses:
            _log.info("Listening on {address}", address=str(address))
        waiting, self._listening = self._listening, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(server)

    def _not_started(self, failure: Failure, serving: Serving) -> None:
        if self._serving is not serving:
            return  # it is known, or we were stopped meanwhile
        _log.error("Cannot listen: {error}", error=failure.getErrorMessage())
        self._server = self._serving = None
        self._failure = failure
        waiting, self._listening = self._listening, []
        for waiter in waiting:
            if not waiter.called:
                waiter.errback(failure)

    def stopService(self) -> Deferred[None]:
        """Drain and end; fires when all has ended."""
        super().stopService()
        server, serving = self._server, self._serving
        self._server = self._serving = self._failure = None
        for waiter in list(self._listening):
            waiter.cancel()
        if server is not None:
            return server.close(1001)
        stopped: Awaitable[None] = fired(None) if serving is None else Awaitable()
        if serving is not None:  # it has still to begin, and then ends
            relay(serving, stopped)
        return stopped
