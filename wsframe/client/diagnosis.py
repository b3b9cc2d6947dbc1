"""`diagnose`: what a server answers 101 to, found by changing one thing at a time.

Some servers refuse an opening handshake for a single header, and answer 502 or close: a subprotocol
offered that they do not know, an Origin that is missing, a User-Agent that they take for a robot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from twisted.internet.interfaces import IReactorTime

from wsframe.awaiting import Awaitable, run
from wsframe.client.opening import ConnectArguments, check_names, endpoint_for
from wsframe.clock import global_reactor, monotonic_clock
from wsframe.connection import Connection
from wsframe.core.opening import RequestHeaders
from wsframe.core.proxy import Route
from wsframe.core.timing import PhaseDone
from wsframe.core.uri import WebSocketURI, format_host_port, parse_uri
from wsframe.errors import HandshakeRefused, OpenCancelled, OpenError
from wsframe.options import DEFAULT_CLIENT_OPTIONS, Deflate

__all__ = ["Diagnosis", "Trial", "diagnose", "lines"]

BROWSER: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
"""A User-Agent that nobody takes for a program's."""

SUBPROTOCOL: Final = "chat"
"""What is offered where nothing was: the RFC's own example (RFC 6455 §1.3)."""

CLOSE_WAIT: Final = 1.0
"""Seconds that a server has to answer the Close frame of a trial that has opened."""

_SECRETS: Final = ("authorization", "cookie")


@dataclass(frozen=True)
class Trial:
    """One opening handshake. `change` is what was changed for it, "" for none.

    `opened` says whether the server answered 101, `error` what came instead, `status` its status
    where it was one. `phases` are those that were done; `seconds` is for all of it.
    """

    change: str
    opened: bool
    seconds: float
    phases: tuple[PhaseDone, ...] = ()
    status: int | None = None
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "change": self.change,
            "opened": self.opened,
            "status": self.status,
            "seconds": self.seconds,
            "phases": [dataclasses.asdict(phase) for phase in self.phases],
            "error": None if self.error is None else type(self.error).__name__,
            "message": None if self.error is None else str(self.error),
        }


@dataclass(frozen=True)
class Diagnosis:
    """What was tried, and what came of it; the first trial is with nothing changed.

    `route` is how the server is reached. `str()` is all of it in words.
    """

    uri: str
    route: Route
    trials: tuple[Trial, ...]

    @property
    def opened(self) -> bool:
        """Whether the server answers 101 as it is."""
        return self.trials[0].opened

    @property
    def cures(self) -> tuple[str, ...]:
        """The single changes that make the server answer 101."""
        return tuple(trial.change for trial in self.trials[1:] if trial.opened)

    @property
    def finding(self) -> str:
        """The result in a sentence."""
        first = self.trials[0]
        if first.opened:
            return "the server answers 101; nothing had to be changed"
        if self.cures:
            return f"the server answers 101 with one change: {', or '.join(self.cures)}"
        if len(self.trials) > 1:
            return "no single change makes the server answer 101"
        return "the handshake was not reached; nothing about it was tried"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return {
            "uri": self.uri,
            "route": self.route.as_dict(),
            "opened": self.opened,
            "cures": list(self.cures),
            "finding": self.finding,
            "trials": [trial.as_dict() for trial in self.trials],
        }

    def __str__(self) -> str:
        table = [line for trial in self.trials for line in lines(trial)]
        return "\n".join([self.route.explain(), *table, self.finding])


def lines(trial: Trial, outcome: str | None = None) -> Iterator[str]:
    """Yield a trial as lines, that with nothing changed with its phases.

    `outcome` stands in the place of the error's own text.
    """
    if outcome is None:
        outcome = "101" if trial.opened else str(trial.error)
    yield f"{trial.seconds * 1000:>9.1f} ms  {trial.change or 'as it is'}: {outcome}"
    if not trial.change:
        for done in trial.phases:
            detail = f" ({done.detail})" if done.detail else ""
            yield f"{done.seconds * 1000:>9.1f} ms    {done.phase}: {done.to}{detail}"


def diagnose(
    uri: str | WebSocketURI,
    *,
    on_trial: Callable[[Trial], object] = lambda _: None,
    reactor: IReactorTime | None = None,
    **arguments: Any,
) -> Awaitable[Diagnosis]:
    """Open a WebSocket, phase by phase; where the handshake is refused, find the reason.

    The arguments are those of `connect`. When the server answers with anything but a 101, or ends
    the connection instead, up to a dozen further handshakes follow, one after the other, each
    different in one thing: a subprotocol, the Origin, an extension, the User-Agent, the token.
    Every one of them is a connection of its own, within `options.open_timeout` seconds, and is
    closed at once. `on_trial` is called with each `Trial`.

    The Deferred fires with the `Diagnosis`; it fails only when it is cancelled. Raises what
    `connect` raises for wrong arguments.
    """
    given = check_names(arguments)
    parsed = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
    reactor = reactor or global_reactor()
    route = endpoint_for(parsed, reactor=reactor, **cast(Any, given)).route
    return run(_diagnose, parsed, route, given, on_trial, reactor)


async def _diagnose(
    uri: WebSocketURI,
    route: Route,
    given: ConnectArguments,
    on_trial: Callable[[Trial], object],
    reactor: IReactorTime,
) -> Diagnosis:
    trials: list[Trial] = []

    async def attempt(change: str, changed: ConnectArguments) -> Trial:
        trial = await _attempt(change, uri, {**given, **changed}, reactor)
        trials.append(trial)
        on_trial(trial)
        return trial

    first = await attempt("", {})
    if not first.opened and getattr(first.error, "phase", None) == "handshake":
        for change, changed in _changes(uri, given):
            await attempt(change, changed)
    return Diagnosis(str(uri), route, tuple(trials))


async def _attempt(
    change: str, uri: WebSocketURI, arguments: ConnectArguments, reactor: IReactorTime
) -> Trial:
    phases: list[PhaseDone] = []
    now = monotonic_clock(reactor)
    began = now()
    arguments = {**arguments}
    uri = cast(WebSocketURI, arguments.pop("uri", uri))
    options = arguments.get("options", DEFAULT_CLIENT_OPTIONS)
    shortest = min(options.close_timeout, CLOSE_WAIT)
    arguments["options"] = dataclasses.replace(options, close_timeout=shortest)
    try:
        endpoint = endpoint_for(uri, observe=phases.append, reactor=reactor, **cast(Any, arguments))
        opening = endpoint.open()
        opening.untaken = Connection.abort
        connection = await opening
    except OpenCancelled:
        raise
    except OpenError as error:
        status = error.status if isinstance(error, HandshakeRefused) else None
        return Trial(change, False, now() - began, tuple(phases), status, error)
    took = now() - began
    await connection.close()
    return Trial(change, True, took, tuple(phases), 101)


# --- one change at a time -------------------------------------------------------------------------


def _changes(uri: WebSocketURI, given: ConnectArguments) -> Iterator[tuple[str, ConnectArguments]]:
    """Yield what is changed, in words, and the arguments that change it."""
    headers = _pairs(given.get("headers"))
    subprotocols = tuple(given.get("subprotocols") or ())
    if subprotocols:
        yield "no subprotocol", {"subprotocols": ()}
    count = len(subprotocols)
    for number, name in enumerate(subprotocols[:MAX_SUBPROTOCOLS] if count > 1 else (), 1):
        # By its number: one of them may carry a token.
        yield f"subprotocol {number} of {count} alone", {"subprotocols": (name,)}
    if not subprotocols:
        yield f"a subprotocol ({SUBPROTOCOL})", {"subprotocols": (SUBPROTOCOL,)}

    own = _origin(uri)
    origin = given.get("origin") or _value(headers, "origin")
    plain: ConnectArguments = {"headers": _without(headers, "origin"), "origin": None}
    if origin is not None:
        yield "no Origin", plain
    if origin != own:
        yield f"the server's own Origin ({own})", {**plain, "origin": own}

    if given.get("compression") is not None:
        yield "no extension", {"compression": None}
    else:
        yield "the extension permessage-deflate", {"compression": Deflate()}

    others = _without(headers, "user-agent")
    yield "a browser's User-Agent", {"headers": [*others, ("User-Agent", BROWSER)]}
    yield "no User-Agent", {"headers": [*others, ("User-Agent", None)]}

    secret = [name for name in _SECRETS if _value(headers, name) is not None]
    if secret or uri.user is not None or given.get("cookies") is not None:
        anonymous: ConnectArguments = {
            "headers": _without(headers, *_SECRETS),
            "cookies": None,
            "uri": dataclasses.replace(uri, user=None, password=None),
        }
        yield "no token, password or cookie", anonymous


MAX_SUBPROTOCOLS: Final = 4
"""Subprotocols that are tried alone; a server that knows none of four is not looking for one."""


def _pairs(headers: RequestHeaders | None) -> list[tuple[str, Any]]:
    if headers is None:
        return []
    return list(headers.items() if hasattr(headers, "items") else headers)


def _value(headers: list[tuple[str, Any]], name: str) -> Any:
    return next((value for each, value in headers if each.lower() == name), None)


def _without(headers: list[tuple[str, Any]], *names: str) -> list[tuple[str, Any]]:
    return [(each, value) for each, value in headers if each.lower() not in names]


def _origin(uri: WebSocketURI) -> str:
    """Return the Origin of a page of the server's own (RFC 6454 §6.1)."""
    default = 443 if uri.secure else 80
    port = None if uri.port == default else uri.port
    return f"{'https' if uri.secure else 'http'}://{format_host_port(uri.host, port)}"
