"""`WebSocketClientService`: a WebSocket that stays open; `core.reconnect` says what comes next.

Twisted's `ClientService` is not underneath. It forgets its failures as soon as a connection comes
about, knows how many there were and not which, and cannot give up.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, failed, fired, quiet_errback, run
from wsframe.client.attempt import Attempts, BeforeAttempt, Opened, URIs, guarded, in_time
from wsframe.client.events import Events
from wsframe.client.opening import ConnectArguments, check_names
from wsframe.client.sending import Sending
from wsframe.clock import global_reactor, monotonic_clock
from wsframe.connection import Connection, Message, State
from wsframe.core import events
from wsframe.core.reconnect import Input, Output, Reconnect
from wsframe.core.reconnect import State as Doing
from wsframe.core.retry import Decision, Retry, RetryPolicy
from wsframe.errors import ConnectionClosed
from wsframe.handling import Handler, check_handler, handle, safe_text
from wsframe.options import (
    DEFAULT_CLIENT_OPTIONS,
    DEFAULT_RETRY_POLICY,
    DEFAULT_SERVICE_OPTIONS,
    ServiceOptions,
)
from wsframe.trace import Trace

__all__ = ["OnOpen", "WebSocketClientService"]

_log: Final = Logger(namespace="wsframe.client")

OnOpen = Callable[[Connection], object]
"""What is called with every connection before anybody else has it, such as `async def`."""

_STOPPED: Final = "the client was stopped"
_GAVE_UP: Final = "the client has given up"

_ENDING: Final = frozenset({Doing.STOPPING, Doing.RESTARTING})


class _Cancellable(Protocol):
    def cancel(self) -> None: ...


class WebSocketClientService(Service):
    """A service that keeps a WebSocket open, for months.

    `uri` is a URI, or a list of them to be tried in order. `handler` is called with every
    connection and runs until the connection ends, or ends the connection by returning (code 1000)
    or raising (1011). Then the next attempt follows, when and as long as `retry` says so; a Close
    frame of the server is an end like any other. The arguments of `connect` are taken, too; they,
    the proxies among them, hold for every connection.

    `before_attempt` is called with an `Attempt` before each one, and may return arguments of
    `connect` for it, as a dict: another URI, or headers with a new token, when the last attempt
    failed with 401. `on_open` is called with each connection before the handler, and before what
    waits in `send` goes out: to subscribe again, for example. Both may be coroutine functions, and
    have `service_options.hook_timeout` seconds. What they raise is judged by `retry`.

    `events` tells every change, and every failure once.

    `stopService` sends a Close frame and waits for the end within `options.close_timeout` seconds.
    """

    def __init__(
        self,
        uri: URIs,
        handler: Handler,
        *,
        retry: RetryPolicy = DEFAULT_RETRY_POLICY,
        before_attempt: BeforeAttempt | None = None,
        on_open: OnOpen | None = None,
        service_options: ServiceOptions = DEFAULT_SERVICE_OPTIONS,
        reactor: IReactorTime | None = None,
        **arguments: Any,
    ) -> None:
        given = check_names(arguments)
        check_handler(handler)
        if on_open is not None and not callable(on_open):
            raise TypeError(f"on_open is a function or None, not {type(on_open).__name__}")
        if not isinstance(service_options, ServiceOptions):
            raise TypeError(
                f"service_options is a ServiceOptions, not {type(service_options).__name__}"
            )
        self._reactor = reactor or global_reactor()
        self._now = monotonic_clock(self._reactor)
        self._attempts = Attempts(
            uri, given, before_attempt, service_options.hook_timeout, self._reactor
        )
        self._handler = handler
        self._on_open = on_open
        self._options = service_options
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {type(retry).__name__}")
        self._policy = guarded(retry)
        self._draw = random.random
        self._retry = self._first_retry()
        self._machine = Reconnect()
        self._do: dict[Output, Callable[[], None]] = {
            Output.PREPARE: self._prepare,
            Output.CONNECT: self._connect,
            Output.RESUME: self._resume,
            Output.SERVE: self._serve,
            Output.WAIT: self._wait,
            Output.CANCEL: self._cancel,
            Output.CLOSE: self._close,
            Output.STOPPED: self._say_stopped,
            Output.GAVE_UP: self._say_gave_up,
        }
        self.events = Events()
        self.events.subscribe(_LogLines().take)
        self._turn = _Turn(self.events)
        options = given.get("options", DEFAULT_CLIENT_OPTIONS)
        self._sending = Sending(
            service_options,
            self._reactor,
            self._tell,
            pings=options.ping_interval is not None,
        )
        self._operation: _Cancellable | None = None  # what CANCEL cancels
        self._changes: ConnectArguments = {}
        self._uri = self._attempts.uri
        self._record: Opened | None = None
        self._connection: Connection | None = None
        self._new_trace = False  # set since the attempt began
        self._began_at = 0.0
        self._opened_at = 0.0
        self._hook_failure: Exception | None = None
        self._handling: Deferred[None] = fired(None)
        self._decision = Decision(None, 0, "")
        self._last_failure: Exception | None = None
        self._waiting: list[Awaitable[Connection]] = []
        self._stopping: list[Awaitable[None]] = []
        self._told_to_stop = False
        self._ends: list[Awaitable[Exception | None]] = []

    # ---------------------------------------------------------------- what it is

    @property
    def doing(self) -> Doing:
        """What it is doing: a state of `wsframe.core.reconnect`."""
        return self._machine.state

    @property
    def connection(self) -> Connection | None:
        """The open connection, None while there is none."""
        return self._connection if self._machine.state is Doing.OPEN else None

    @property
    def trace(self) -> Trace | None:
        """What the connections are written down in, None for nothing.

        It may be set at any moment, and holds for the open connection, too.
        """
        return self._attempts.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._attempts.trace = trace
        self._new_trace = True
        if self._connection is not None:
            self._connection.trace = trace

    @property
    def last_failure(self) -> Exception | None:
        """Why the last attempt or connection ended: `OpenError`, `ConnectionClosed`, or None."""
        return self._last_failure

    def when_open(self) -> Awaitable[Connection]:
        """Return a Deferred that fires with the open connection, or the next one to open.

        It fails with CancelledError when the service is stopped before, and with what it gave up
        for when it has given up.
        """
        if self._machine.state is Doing.GAVE_UP:
            return failed(cast(Exception, self._last_failure))
        if self._told_to_stop:
            return failed(CancelledError())
        connection = self.connection
        if connection is not None and connection.state is State.OPEN:
            return fired(connection)
        waiter: Awaitable[Connection] = Awaitable(lambda it: _forget(self._waiting, it))
        self._waiting.append(waiter)
        return waiter

    def when_stopped(self) -> Awaitable[Exception | None]:
        """Return a Deferred that fires when the service has come to its end.

        With None when it was stopped, and with the failure when it gave up. It fires at once when
        that has been; before the first start it waits.
        """
        if self._machine.state is Doing.GAVE_UP:
            return fired(self._last_failure)
        if self._told_to_stop and self._machine.state is Doing.STOPPED:
            return fired(None)
        waiter: Awaitable[Exception | None] = Awaitable(lambda it: _forget(self._ends, it))
        self._ends.append(waiter)
        return waiter

    def send(self, message: Message | bytearray | memoryview) -> Awaitable[None]:
        """Send a message on the open connection, or on the next.

        Fires when the message is with a transport. Until then it waits, in order, in an outbox
        with limits (`service_options`). Cancelling takes it out. Which messages were on their way
        when a connection ended, so that nobody knows whether they arrived, an `Undelivered` event
        says; they are not sent twice.

        Fails with `OutboxFull` when there is no room, or newer messages took its place, and with
        `NotSent` when the service stops or gives up before, or has done so and was not started
        again. Raises TypeError for anything but text and bytes.
        """
        with self._turn:
            if self._machine.state is Doing.GAVE_UP:
                return self._sending.refuse(message, _GAVE_UP)
            if self._told_to_stop:
                return self._sending.refuse(message, _STOPPED)
            return self._sending.send(message)

    # ---------------------------------------------------------------- from the parent

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()
        self._told_to_stop = False
        with self._turn:
            self._feed(Input.START)

    def stopService(self) -> Deferred[None]:
        """Close the connection with a Close frame, or stop trying; fires when all has ended."""
        super().stopService()
        self._told_to_stop = True
        stopped: Awaitable[None] = Awaitable()
        self._stopping.append(stopped)
        waiting, self._waiting = self._waiting, []
        with self._turn:
            if self._machine.state is not Doing.OPEN:
                self._sending.ended(_STOPPED)
            self._feed(Input.STOP)
            # Only now: who waits may start us at once.
            for waiter in waiting:
                waiter.cancel()
        return stopped

    # ---------------------------------------------------------------- the table's bidding

    def _feed(self, what: Input) -> None:
        for output in self._machine.feed(what):
            self._do[output]()

    def _begin(self, operation: Deferred[Any], state: Doing, then: Callable[[Any], None]) -> None:
        """Go on with `then` when the operation, begun in `state`, has ended; CANCEL ends it."""
        if self._machine.state is state:
            self._operation = operation
        else:
            # While it began it called stopService, and there was nothing to cancel yet.
            operation.cancel()

        def ended(result: Any) -> None:
            with self._turn:
                self._operation = None
                then(result)

        operation.addBoth(ended)

    def _cancel(self) -> None:
        operation, self._operation = self._operation, None
        if operation is not None:
            operation.cancel()

    def _prepare(self) -> None:
        self._record = None
        self._uri = self._attempts.uri
        if self._attempts.number == 0:
            self._retry = self._first_retry()
            self._last_failure = None
            self._tell(events.Started)
        preparing = self._attempts.prepare(self._last_failure, self._retry.failures)

        def prepared(result: Any) -> None:
            if self._machine.state in _ENDING:
                self._feed(Input.ENDED)
            elif isinstance(result, Failure):
                self._attempt_failed(cast(Exception, result.value))
            else:
                self._changes = result
                self._feed(Input.PREPARED)

        self._begin(preparing, Doing.PREPARING, prepared)

    def _connect(self) -> None:
        try:
            endpoint, self._record = self._attempts.begin(self._changes)
        except Exception as error:  # noqa: BLE001 - of the hook's making; judged like any other
            self._attempt_failed(error)
            return
        self._new_trace = False
        self._uri = self._record.uri
        self._tell(events.Connecting, route=endpoint.route)
        self._began_at = self._now()

        def connected(result: Any) -> None:
            if self._machine.state in _ENDING:
                if not isinstance(result, Failure):
                    result.abort()
                self._feed(Input.ENDED)
            elif isinstance(result, Failure):
                self._attempt_failed(cast(Exception, result.value))
            else:
                self._opened(result)

        self._begin(endpoint.open(), Doing.CONNECTING, connected)

    def _attempt_failed(self, error: Exception) -> None:
        phases = () if self._record is None else tuple(self._record.phases)
        self._tell(events.Failed, error=error, phases=phases)
        self._decide(error, elsewhere=self._attempts.elsewhere)
        self._attempts.failed(is_final=self._decision.is_final)
        self._follow()

    def _decide(self, error: Exception, *, elsewhere: bool = False) -> None:
        """Let the policy decide what follows from a failure."""
        self._last_failure = error
        self._decision = self._retry.failed(error, self._now(), time.time(), elsewhere=elsewhere)

    def _follow(self) -> None:
        self._feed(Input.GIVE_UP if self._decision.gives_up else Input.RETRY)

    def _first_retry(self) -> Retry:
        return Retry(self._policy, self._now(), draw=self._draw)

    def _opened(self, connection: Connection) -> None:
        self._connection = connection
        if self._new_trace:
            connection.trace = self.trace
        self._opened_at = self._now()
        self._retry.opened(self._opened_at)
        self._attempts.opened()
        self._tell(
            events.Opened,
            seconds=self._opened_at - self._began_at,
            phases=tuple(cast(Opened, self._record).phases),
            subprotocol=connection.subprotocol,
        )
        self._feed(Input.OPENED)
        connection.when_closed().addCallback(self._lost, connection)

    def _resume(self) -> None:
        if self._on_open is None:
            self._feed(Input.RESUMED)
            return
        connection = cast(Connection, self._connection)

        def resumed(result: Any) -> None:
            if self._machine.state is not Doing.RESUMING or self._connection is not connection:
                return  # what counts is the end of the connection
            if isinstance(result, Failure):
                self._hook_failure = cast(Exception, result.value)
                connection.close(1011)  # with whose end it is judged
            else:
                self._feed(Input.RESUMED)

        hook = run(self._on_open, connection)
        resuming = in_time(self._reactor, hook, self._options.hook_timeout, "on_open")
        self._begin(resuming, Doing.RESUMING, resumed)

    def _serve(self) -> None:
        connection = cast(Connection, self._connection)
        self._sending.opened(connection)
        # In the next turn: the handler, and who waits, may stop us at once.
        self._reactor.callLater(0, self._handle, connection)

    def _handle(self, connection: Connection) -> None:
        # A handler may outlive its connection, to clean up, but not into the next one's time.
        self._handling.cancel()
        # Each may stop us, close it, or cancel another.
        while self._waiting and connection.state is State.OPEN:
            self._waiting.pop(0).callback(connection)
        if not self.running:
            return  # stopped before it began
        self._handling = handle(self._handler, connection)

    def _lost(self, outcome: ConnectionClosed, connection: Connection) -> None:
        with self._turn:
            self._connection = None
            cause, self._hook_failure = self._hook_failure, None
            self._cancel()  # the hook: its connection is gone
            self._sending.lost(outcome)
            self._tell(
                events.Closed,
                error=outcome,
                seconds=self._now() - self._opened_at,
                counts=connection.counts,
                cause=cause,
            )
            self._last_failure = outcome
            if self._machine.state in _ENDING:
                self._feed(Input.ENDED)
            else:
                self._decide(outcome if cause is None else cause)
                if self._retry.failures and outcome.by != "local":
                    self._attempts.failed()  # a server that accepts and drops is a failing one
                self._follow()

    def _close(self) -> None:
        connection = cast(Connection, self._connection)
        self._sending.flush()
        self._sending.ended(_STOPPED)
        connection.close()

    def _wait(self) -> None:
        delay = cast(float, self._decision.delay)
        self._tell(
            events.Waiting, seconds=delay, failures=self._retry.failures, why=self._decision.why
        )

        def waited() -> None:
            with self._turn:
                self._operation = None
                self._feed(Input.WAITED)

        self._operation = self._reactor.callLater(delay, waited)

    def _say_stopped(self) -> None:
        self._ended(None)
        self._tell(events.Stopped)

    def _say_gave_up(self) -> None:
        self._tell(events.GaveUp, why=self._decision.why)
        self._sending.ended(_GAVE_UP)
        self._ended(cast(Exception, self._last_failure))

    def _ended(self, failure: Exception | None) -> None:
        """Tell those who wait, and begin from the beginning when started again."""
        self._attempts.restart()
        waiting: list[Awaitable[Connection]] = []
        if failure is not None:
            waiting, self._waiting = self._waiting, []
        stopping, self._stopping = self._stopping, []
        ends, self._ends = self._ends, []
        handling = self._handling

        def tell() -> None:
            handling.cancel()
            for waiter in waiting:
                if not waiter.called:
                    quiet_errback(waiter, Failure(failure))
            for end in ends:
                if not end.called:
                    end.callback(failure)
            for stopped in stopping:
                if not stopped.called:
                    stopped.callback(None)

        # In the next turn: who waits may start or stop us at once.
        self._reactor.callLater(0, tell)

    def _tell(self, kind: type[events.Event], **fields: Any) -> None:
        self._turn.tell(kind(attempt=self._attempts.number, uri=str(self._uri), **fields))


class _Turn:
    """Holds events back until all that belongs to a change is done: who hears of it may call us."""

    __slots__ = ("_depth", "_events", "_told")

    def __init__(self, told: Events) -> None:
        self._depth = 0
        self._events = told
        self._told: deque[events.Event] = deque()

    def tell(self, event: events.Event) -> None:
        self._told.append(event)

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        if self._depth == 1:
            # A call from within has its events told behind these.
            while self._told:
                self._events.tell(self._told.popleft())
        self._depth -= 1


class _LogLines:
    """The log of a client is one of those who hear its events."""

    def __init__(self) -> None:
        self._failure: Exception | None = None

    def take(self, event: events.Event) -> None:
        match event:
            case events.Failed(error=error):
                self._failure = error
            case events.Closed(error=error, cause=cause):
                self._failure = cause or error
            case events.Opened():
                _log.info("Connected to {uri}", uri=event.uri)
            case events.Waiting():
                _log.warn(
                    "Not connected to {uri}: {error}. Next attempt in {delay:.1f} s",
                    uri=event.uri,
                    error=safe_text(self._failure),
                    delay=event.seconds,
                )
            case events.GaveUp():
                _log.error(
                    "Given up {uri}: {error} ({why})",
                    uri=event.uri,
                    error=safe_text(self._failure),
                    why=event.why,
                )
            case events.Undelivered():
                _log.warn(
                    "{count} messages to {uri}: {why}",
                    count=event.count,
                    uri=event.uri,
                    why=event.why,
                )
            case _:
                pass


def _forget(waiters: list[Awaitable[Any]], waiter: Any) -> None:
    waiters[:] = [each for each in waiters if each is not waiter]
