"""One attempt of a client that stays connected: which URI, the hook before it, and the opening."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable as AwaitableABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import Awaitable, run
from wsframe.client.opening import ConnectArguments, check_names, endpoint_for
from wsframe.core.proxy import Route
from wsframe.core.retry import RetryPolicy, Verdict
from wsframe.core.timing import PhaseDone
from wsframe.core.uri import WebSocketURI, parse_uri
from wsframe.endpoints import WebSocketEndpoint
from wsframe.errors import HookTimeout
from wsframe.trace import Trace, check_trace

__all__ = ["Attempt", "Attempts", "BeforeAttempt", "Opened", "URIs", "guarded", "in_time"]

_log: Final = Logger(namespace="wsframe.client")

URIs = str | WebSocketURI | Sequence[str | WebSocketURI]
"""A URI, or several in the order in which they are to be tried."""


@dataclass(frozen=True)
class Attempt:
    """An attempt that is about to begin, as the hook before it is told.

    `number` counts from 1 since the start. `uri` is what will be tried. `failure` is why there is
    no connection: what the last attempt failed with, or what ended the last connection; None at the
    start. `failures` counts them, without a stable connection in between.
    """

    number: int
    uri: WebSocketURI
    failure: Exception | None
    failures: int


BeforeAttempt = Callable[[Attempt], AwaitableABC[ConnectArguments | None] | ConnectArguments | None]
"""What is called before every attempt, and may be a coroutine function. The arguments that it
returns take the place of the client's own in this attempt; "uri" among them of the one to try."""


@dataclass
class Opened:
    """What has become of one attempt so far."""

    number: int
    uri: WebSocketURI
    route: Route | None = None
    phases: list[PhaseDone] = field(default_factory=list)


def guarded(policy: RetryPolicy) -> RetryPolicy:
    """Return the policy with a judge that raises nothing: what yours raises is logged.

    The failure that it was asked about is then judged by the tables.
    """
    judge = policy.judge
    if judge is None:
        return policy

    def guard(failure: Exception) -> Verdict | None:
        try:
            verdict = judge(failure)
            if verdict is None or isinstance(verdict, Verdict):
                return verdict
            raise TypeError(f"judge returns a Verdict or None, not {type(verdict).__name__}")
        except Exception:  # noqa: BLE001 - the application's own
            _log.failure("Error in the judge of a retry policy")
            return None

    return dataclasses.replace(policy, judge=guard)


def in_time(
    reactor: IReactorTime, hook: Awaitable[Any], seconds: float | None, name: str
) -> Awaitable[Any]:
    """Bound a hook in time: after so many seconds (None: never) it fails with `HookTimeout`."""
    if hook.called or seconds is None:
        return hook
    result: Awaitable[Any] = Awaitable(lambda _: hook.cancel())

    def late() -> None:
        result.errback(Failure(HookTimeout(f"{name} took more than {seconds:g} s")))
        hook.cancel()

    call = reactor.callLater(seconds, late)

    def ended(outcome: object) -> None:
        if call.active():
            call.cancel()
        if not result.called:
            result.callback(outcome)

    hook.addBoth(ended)
    return result


class Attempts:
    """The attempts of one client: what they have in common, and whose turn it is.

    After a failure the next of the URIs is tried, and after a connection that the server ended
    before it was stable; any other that was open is tried again first. One whose failure would
    repeat is left out until a connection has opened.
    """

    def __init__(
        self,
        uris: URIs,
        arguments: ConnectArguments,
        before_attempt: BeforeAttempt | None,
        hook_timeout: float | None,
        reactor: IReactorTime,
    ) -> None:
        untyped: Any = uris
        if not isinstance(untyped, str | WebSocketURI | Sequence):
            raise TypeError(f"uri is a URI or a list of them, not {type(untyped).__name__}")
        hook: Any = before_attempt
        if hook is not None and not callable(hook):
            raise TypeError(f"before_attempt is a function or None, not {type(hook).__name__}")
        given = [uris] if isinstance(uris, str | WebSocketURI) else list(uris)
        if not given:
            raise ValueError("a client needs a URI")
        self.uris = [uri if isinstance(uri, WebSocketURI) else parse_uri(uri) for uri in given]
        self.number = 0
        self._arguments = dict(arguments)
        self._hook = before_attempt
        self._hook_timeout = hook_timeout
        self._reactor = reactor
        self._turn = 0
        self._final: set[int] = set()  # the places of those that are left out
        for uri in self.uris:
            endpoint = self._endpoint(uri, {}, None)  # what is wrong is said now
            # Parsed once: the memory of which proxy failed is that of all attempts.
            self._arguments["proxies"] = endpoint.proxies

    def _endpoint(
        self, uri: WebSocketURI, changes: ConnectArguments, observe: Any
    ) -> WebSocketEndpoint:
        arguments = {**self._arguments, **changes}
        arguments.pop("uri", None)
        return endpoint_for(uri, observe=observe, reactor=self._reactor, **cast(Any, arguments))

    @property
    def trace(self) -> Trace | None:
        """What the attempts to come are written down in."""
        return cast("Trace | None", self._arguments.get("trace"))

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._arguments["trace"] = check_trace(trace)

    @property
    def uri(self) -> WebSocketURI:
        """The URI whose turn it is."""
        return self.uris[self._turn]

    @property
    def elsewhere(self) -> bool:
        """Whether another URI is left to be tried."""
        return len(self._final | {self._turn}) < len(self.uris)

    def failed(self, *, is_final: bool = False) -> None:
        """Note that the attempt failed, for good or not: the next URI has its turn."""
        if is_final:
            self._final.add(self._turn)
        count = len(self.uris)
        following = [(self._turn + step) % count for step in range(1, count + 1)]
        self._turn = next((each for each in following if each not in self._final), following[0])

    def opened(self) -> None:
        """Note that the attempt succeeded."""
        self._final.clear()

    def restart(self) -> None:
        """Count anew from the next attempt on, and leave none of the URIs out."""
        self.number = 0
        self._final.clear()

    def prepare(self, failure: Exception | None, failures: int) -> Awaitable[ConnectArguments]:
        """Begin an attempt with the hook; fires with what it changes, fails as the hook does."""
        self.number += 1
        attempt = Attempt(self.number, self.uri, failure, failures)
        preparing = run(self._prepare, attempt)
        return in_time(self._reactor, preparing, self._hook_timeout, "before_attempt")

    async def _prepare(self, attempt: Attempt) -> ConnectArguments:
        changes = None if self._hook is None else await run(self._hook, attempt)
        if changes is None:
            return {}
        if not isinstance(changes, dict):
            raise TypeError(
                f"before_attempt returns a dict of arguments or None, not {type(changes).__name__}"
            )
        return check_names(changes, "before_attempt returned ")

    def begin(self, changes: ConnectArguments) -> tuple[WebSocketEndpoint, Opened]:
        """Make the chain of endpoints of this attempt, and the record that it fills.

        Raises what is wrong with the arguments.
        """
        uri = changes.get("uri", self.uri)
        if not isinstance(uri, WebSocketURI):
            uri = parse_uri(uri)
        record = Opened(self.number, uri)
        endpoint = self._endpoint(uri, changes, record.phases.append)
        record.route = endpoint.route
        return endpoint, record
