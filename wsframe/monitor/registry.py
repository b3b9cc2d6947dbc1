"""Which agents there are: who is online, who is gone and why.

No I/O and no clock: the service tells the registry what happened and when, and does what the
returned `Update` says. The rules:

* an agent's name belongs to the live connection that reported it first;
* a second connection of the same principal takes the name over, because an agent that was killed
  may be back before anyone noticed; of another principal it is refused (`NameTaken`);
* a connection that lost its name in this way may not report any more (`NameTaken`);
* a connection keeps its name for life (`NameChanged`);
* an agent whose connection is gone stays listed, with the time and the reason, until it is back;
* there are at most `max_agents`: the longest gone are dropped to make room, and when all are
  online a new one is refused (`TooManyAgents`).

Where clients are not authenticated every principal is None, and None equals None: anyone may take
over any name.

`now` is in seconds since the epoch throughout. Silence is measured with it, so it should advance
with a monotonic clock: were it to step forward by an hour, every agent would be overdue at once.

The feed for dashboards is JSON text. Each message has a `type` and the `now` it was made at:

===========  ==========================  ==================================================
type         member                      meaning
===========  ==========================  ==================================================
`state`    `agents`, a list          all agents there are; replaces what was known
`report`   `agent`                   this agent is online and has reported
`gone`     `agent`                   this agent is gone
`dropped`  `name`                    this agent was gone and is no longer listed
===========  ==========================  ==================================================

An agent is an object as `Agent.as_dict` returns it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from wsframe.errors import WSFrameError
from wsframe.monitor.report import Report

__all__ = [
    "MAX_AGENTS",
    "Agent",
    "NameChanged",
    "NameTaken",
    "Registry",
    "ReportRefused",
    "TooManyAgents",
    "Update",
]

MAX_AGENTS: Final = 1000
"""Agents listed by default, online and gone together: about 1 MB of state for each dashboard."""


class ReportRefused(WSFrameError):
    """A valid report that the registry does not take: `name` is the agent's name in it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class NameTaken(ReportRefused):
    """The name belongs to a live connection, of another principal or newer than this one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"the agent name {name} belongs to another connection")


class NameChanged(ReportRefused):
    """A connection reported under a second name: `first` is the name it has."""

    def __init__(self, name: str, first: str) -> None:
        super().__init__(name, f"the agent {first} may not change its name to {name}")
        self.first = first


class TooManyAgents(ReportRefused):
    """There is no room for a new agent: all `limit` of them are online."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(name, f"no room for the agent {name}: {limit} are online")
        self.limit = limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What is known of one agent.

    `principal` is who it authenticated as, None where clients are not authenticated; `peer` the
    address it connects from. `since` is when it came online or, if it is gone, when it went;
    `last_report` when its last report arrived: both by the server's clock, in seconds since the
    epoch. `reason` says why it is gone, and is None while it is online.
    """

    name: str
    status: Literal["online", "gone"]
    principal: str | None
    peer: str
    since: float
    last_report: float
    reason: str | None
    report: Report

    def as_dict(self) -> dict[str, Any]:
        """Return the agent as the object that the feed carries."""
        return {
            "name": self.name,
            "status": self.status,
            "principal": self.principal,
            "peer": self.peer,
            "since": self.since,
            "last_report": self.last_report,
            "reason": self.reason,
            "report": self.report.as_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What changed, and what is to be done about it.

    `agent` is the agent as it is now. `messages` are for the feed, in this order. `replaced`
    is the id of the connection that lost its name to this one and is to be closed, None when there
    is none.
    """

    agent: Agent
    messages: tuple[str, ...]
    replaced: str | None = None


@dataclass(slots=True)
class _Connection:
    last_heard: float
    name: str | None = None
    replaced: bool = False


class Registry:
    """Keeps the agents and says what to tell the dashboards.

    `client_timeout` is how many seconds a connection may be silent, more than 0; `max_agents` how
    many agents are listed at most, online and gone together. `ValueError` for other values.
    """

    def __init__(self, *, client_timeout: float, max_agents: int = MAX_AGENTS) -> None:
        if not 0 < client_timeout < math.inf:
            raise ValueError("client_timeout must be more than 0 seconds")
        if max_agents < 1:
            raise ValueError("max_agents must be at least 1")
        self._client_timeout = client_timeout
        self._max_agents = max_agents
        self._connections: dict[str, _Connection] = {}
        self._owners: dict[str, str] = {}
        self._online: dict[str, Agent] = {}
        # In the order in which they went: the first is the one to drop.
        self._gone: dict[str, Agent] = {}

    @property
    def online(self) -> int:
        """How many agents are online."""
        return len(self._online)

    def agents(self) -> tuple[Agent, ...]:
        """Return all agents, online and gone, by name."""
        return tuple(
            sorted((*self._online.values(), *self._gone.values()), key=lambda agent: agent.name)
        )

    def connected(self, connection_id: str, now: float) -> None:
        """Note a new connection, which is silent from now on.

        Raises `ValueError` if that connection is known already.
        """
        if connection_id in self._connections:
            raise ValueError("the connection is known already")
        self._connections[connection_id] = _Connection(now)

    def report(
        self, connection_id: str, principal: str | None, peer: str, report: Report, now: float
    ) -> Update:
        """Take in a report that arrived on a connection, and return what it changed.

        `principal` is None where clients are not authenticated. A connection that `connected` was
        not told of is noted. A refused report changes nothing and raises `NameTaken`, `NameChanged`
        or `TooManyAgents`; the connection counts as silent all the same.
        """
        name = report.name
        connection = self._connections.setdefault(connection_id, _Connection(now))
        if connection.name is not None and connection.name != name:
            raise NameChanged(name, connection.name)
        if connection.replaced:
            raise NameTaken(name)
        before = self._online.get(name)
        replaced = None
        if before is not None and self._owners[name] != connection_id:
            if before.principal != principal:
                raise NameTaken(name)
            replaced = self._owners[name]
        messages = self._make_room(name, now)
        if replaced is not None:
            self._connections[replaced].replaced = True
        connection.name = name
        connection.last_heard = now
        agent = Agent(
            name=name,
            status="online",
            principal=principal,
            peer=peer,
            since=now if before is None or replaced is not None else before.since,
            last_report=now,
            reason=None,
            report=report,
        )
        self._gone.pop(name, None)
        self._online[name] = agent
        self._owners[name] = connection_id
        messages.append(_message("report", now, agent=agent.as_dict()))
        return Update(agent=agent, messages=tuple(messages), replaced=replaced)

    def gone(self, connection_id: str, reason: str, now: float) -> Update | None:
        """Note that a connection is no more, and for which reason.

        Returns None if no agent went with it: it never reported, lost its name to another
        connection, or was not known.
        """
        connection = self._connections.pop(connection_id, None)
        if connection is None or connection.name is None or connection.replaced:
            return None
        name = connection.name
        del self._owners[name]
        agent = replace(self._online.pop(name), status="gone", since=now, reason=reason)
        self._gone[name] = agent
        return Update(agent=agent, messages=(_message("gone", now, agent=agent.as_dict()),))

    def expired(self, now: float) -> list[str]:
        """Return the ids of the connections that were silent for `client_timeout` or longer.

        Nothing changes: a connection is returned again and again until `gone` is called for it.
        """
        return [
            connection_id
            for connection_id, connection in self._connections.items()
            if now - connection.last_heard >= self._client_timeout
        ]

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the content of a `state` message: all agents, by name."""
        agents = [agent.as_dict() for agent in self.agents()]
        return {"type": "state", "now": now, "agents": agents}

    def state_message(self, now: float) -> str:
        """Return the `state` message, which a dashboard is sent when it connects."""
        return _encode(self.snapshot(now))

    def _make_room(self, name: str, now: float) -> list[str]:
        if name in self._online or name in self._gone:
            return []
        if len(self._online) + len(self._gone) < self._max_agents:
            return []
        oldest = next(iter(self._gone), None)
        if oldest is None:
            raise TooManyAgents(name, self._max_agents)
        del self._gone[oldest]
        return [_message("dropped", now, name=oldest)]


def _message(kind: Literal["report", "gone", "dropped"], now: float, **content: object) -> str:
    return _encode({"type": kind, "now": now, **content})


def _encode(message: dict[str, Any]) -> str:
    # ASCII, so that no principal or reason can make a text that UTF-8 cannot carry.
    return json.dumps(message, allow_nan=False, separators=(",", ":"))
