"""`reconnecting`: the loop for those who like loops: one connection after the other."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsframe.awaiting import Awaitable
from wsframe.client.attempt import Attempts, BeforeAttempt, URIs, guarded
from wsframe.client.opening import ConnectArguments, check_names
from wsframe.clock import global_reactor, monotonic_clock
from wsframe.connection import Connection
from wsframe.core.retry import Decision, Retry, RetryPolicy
from wsframe.errors import OpenCancelled
from wsframe.options import DEFAULT_RETRY_POLICY, DEFAULT_SERVICE_OPTIONS

__all__ = ["Reconnecting", "reconnecting"]


class Reconnecting:
    """What `reconnecting` returns: an iterator over connections, each of them open when it comes.

    Nothing runs behind the loop's back: between two turns of it there is the connection, and after
    a `break` there is no more than that; `async with` closes that one, too.
    """

    def __init__(
        self,
        uri: URIs,
        *,
        retry: RetryPolicy,
        before_attempt: BeforeAttempt | None,
        hook_timeout: float | None,
        reactor: IReactorTime,
        arguments: ConnectArguments,
    ) -> None:
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {type(retry).__name__}")
        self._reactor = reactor
        self._now = monotonic_clock(reactor)
        self._attempts = Attempts(uri, arguments, before_attempt, hook_timeout, reactor)
        self._policy = guarded(retry)
        self._retry: Retry | None = None
        self._connection: Connection | None = None
        self._last_failure: Exception | None = None

    @property
    def last_failure(self) -> Exception | None:
        """Why the last attempt or connection ended: `OpenError`, `ConnectionClosed`, or None."""
        return self._last_failure

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> Connection:
        """Close the last connection where it is open, wait, and open the next.

        Raises what the policy gives up for.
        """
        retry = self._retry
        if retry is None:
            retry = self._retry = Retry(self._policy, self._now())
        last, self._connection = self._connection, None
        if last is not None:
            last.close()
            outcome = await last.when_closed()
            decision = self._decide(retry, outcome)
            if retry.failures and outcome.by != "local":
                self._attempts.failed()  # a server that accepts and drops is a failing one
            await self._wait(decision, outcome)
        while True:
            try:
                changes = await self._attempts.prepare(self._last_failure, retry.failures)
                endpoint, _ = self._attempts.begin(changes)
                opening = endpoint.open()
                opening.untaken = Connection.abort
                self._connection = await opening
            except (CancelledError, OpenCancelled):
                raise  # whoever drives the loop wants no more of it
            except Exception as error:  # noqa: BLE001 - the policy's to judge
                decision = self._decide(retry, error, elsewhere=self._attempts.elsewhere)
                self._attempts.failed(is_final=decision.is_final)
                await self._wait(decision, error)
            else:
                retry.opened(self._now())
                self._attempts.opened()
                return self._connection

    def _decide(self, retry: Retry, failure: Exception, *, elsewhere: bool = False) -> Decision:
        self._last_failure = failure
        return retry.failed(failure, self._now(), time.time(), elsewhere=elsewhere)

    async def _wait(self, decision: Decision, failure: Exception) -> None:
        if decision.delay is None:
            self._retry = None
            self._attempts.restart()
            raise failure
        call: IDelayedCall
        waited: Awaitable[None] = Awaitable(lambda _: call.cancel())
        call = self._reactor.callLater(decision.delay, waited.callback, None)
        await waited

    def close(self) -> Deferred[None]:
        """Close the connection that is open, if any; fires when it has ended."""
        if self._connection is None:
            done: Awaitable[None] = Awaitable()
            done.callback(None)
            return done
        return self._connection.close()

    async def __aenter__(self) -> Reconnecting:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def reconnecting(
    uri: URIs,
    *,
    retry: RetryPolicy = DEFAULT_RETRY_POLICY,
    before_attempt: BeforeAttempt | None = None,
    hook_timeout: float | None = DEFAULT_SERVICE_OPTIONS.hook_timeout,
    reactor: IReactorTime | None = None,
    **arguments: Any,
) -> Reconnecting:
    """Return an iterator over connections, for ``async for connection in``: one after the other.

    The body has an open connection and leaves it, with `continue` or at its end, for the next: it
    is closed where it is still open. `arguments` are those of `connect`; `retry` and
    `before_attempt` are as in `WebSocketClientService`, and the hook has `hook_timeout` seconds
    (None: as long as it likes). The loop ends by `break`, or by the exception that the policy
    gives up for. Cancelling what drives it ends it at any moment.

    A `ConnectionClosed` that the body does not catch ends the loop, like any other exception.
    """
    given = check_names(arguments)
    return Reconnecting(
        uri,
        retry=retry,
        before_attempt=before_attempt,
        reactor=reactor or global_reactor(),
        hook_timeout=hook_timeout,
        arguments=given,
    )
