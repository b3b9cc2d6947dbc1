"""What becomes of a client that stays connected, one frozen value for each change.

Every failure comes to pass in one of them and in no other, as an exception object: of an attempt in
`Failed`, of a connection in `Closed`. `Waiting` and `GaveUp` say what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wsframe.core.counts import Counts
from wsframe.core.proxy import Route
from wsframe.core.timing import PhaseDone
from wsframe.errors import ConnectionClosed

__all__ = [
    "Closed",
    "Connecting",
    "Counts",
    "Event",
    "Failed",
    "GaveUp",
    "Opened",
    "Started",
    "Stopped",
    "Undelivered",
    "Waiting",
]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change.

    `attempt` counts the attempts since the client was started, from 1; 0 is before the first.
    `uri` is the URI in question, without user information and query; "" where there is none yet.
    """

    attempt: int = 0
    uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The client was started."""


@dataclass(frozen=True, kw_only=True)
class Connecting(Event):
    """An attempt begins, by this route: the proxies in order, and why they are taken."""

    route: Route


@dataclass(frozen=True, kw_only=True)
class Opened(Event):
    """The WebSocket is open. `seconds` is what the attempt took, `phases` each phase of it."""

    seconds: float
    phases: tuple[PhaseDone, ...] = ()
    subprotocol: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """An attempt failed: an `OpenError`, what the hook before it raised, or a wrong argument.

    `phases` are those that were done before.
    """

    error: Exception
    phases: tuple[PhaseDone, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Closed(Event):
    """An open connection has ended: with which code and reason, and who began, says `error`.

    `seconds` is how long it was open. `cause` is what the reopen hook raised, where that is why.
    """

    error: ConnectionClosed
    seconds: float
    counts: Counts
    cause: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Undelivered(Event):
    """Messages of `send` of which nobody knows whether they arrived, or that were dropped.

    `why` is "in flight": the connection ended before the peer was known to have read them; they
    are not sent again. Or it is "dropped": newer ones took their place in the outbox. Or
    "stopped": they still waited when the client ended. `repr()` shows how many.
    """

    why: str
    messages: tuple[str | bytes, ...] = field(repr=False)
    count: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.messages))


@dataclass(frozen=True, kw_only=True)
class Waiting(Event):
    """The next attempt follows in `seconds`. `failures` counts those in a row."""

    seconds: float
    failures: int
    why: str


@dataclass(frozen=True, kw_only=True)
class GaveUp(Event):
    """No further attempt follows; `why` is the rule of the policy that says so."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Stopped(Event):
    """The client was stopped, and nothing of it is left."""
