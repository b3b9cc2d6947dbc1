"""The monitor's connections: agents that report, dashboards that watch, and the clock between.

The registry decides; this sends, closes, and looks at the clock.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from wsframe.clock import monotonic_clock
from wsframe.connection import Connection
from wsframe.fanout import broadcast
from wsframe.handling import safe_text
from wsframe.monitor.registry import Registry, ReportRefused, Update
from wsframe.monitor.report import InvalidReport, decode

__all__ = ["FEED", "Station"]

_log = Logger(namespace="wsframe.monitor")

FEED = "wsframe.feed"
"""The subprotocol of dashboards; it stands beside the one that carries a page's token."""


class Station:
    """One monitor. `client_timeout` is the seconds of silence after which an agent is gone."""

    def __init__(self, client_timeout: float, reactor: IReactorTime) -> None:
        self._client_timeout = client_timeout
        self._registry = Registry(client_timeout=client_timeout)
        self._agents: dict[str, Connection] = {}
        self._dashboards: set[Connection] = set()
        self._monotonic = monotonic_clock(reactor)
        # Epoch seconds that never jump: a corrected system clock makes nobody silent.
        self._epoch = time.time() - self._monotonic()
        self._watch: Any = LoopingCall(self._find_silent)
        self._watch.clock = reactor

    def start(self) -> None:
        """Begin to look for silent agents."""
        self._watch.start(min(1.0, self._client_timeout / 4), now=False)

    def stop(self) -> None:
        """Stop looking."""
        if self._watch.running:
            self._watch.stop()

    def _now(self) -> float:
        return self._epoch + self._monotonic()

    async def agent(self, connection: Connection) -> None:
        """Take an agent's reports until it leaves or says something that is none."""
        key = str(connection.id)
        self._agents[key] = connection
        self._registry.connected(key, self._now())
        reason = "the connection ended"
        name = None
        try:
            async for message in connection:
                update = self._registry.report(
                    key, connection.principal, connection.peer, decode(message), self._now()
                )
                if name is None:
                    name = update.agent.name
                    _log.info("Agent {name} is here: {peer!r}", name=name, peer=connection.peer)
                self._publish(update)
        except InvalidReport as error:
            reason = "it sent an invalid report"
            _log.warn(
                "Invalid report from {peer!r}: {error}", peer=connection.peer, error=str(error)
            )
            connection.close(1007, "invalid report")
        except ReportRefused as error:
            reason = "its report was refused"
            _log.warn("Refused {peer!r}: {error}", peer=connection.peer, error=safe_text(error))
            connection.close(1008, "report refused: the name is taken, or there are too many")
        finally:
            del self._agents[key]
            self._gone(key, reason)

    async def dashboard(self, connection: Connection) -> None:
        """Send the current state, then every change, until the dashboard leaves."""
        await connection.send(self._registry.state_message(self._now()))
        self._dashboards.add(connection)
        try:
            async for _ in connection:
                pass  # a dashboard has nothing to say
        finally:
            self._dashboards.discard(connection)

    def _publish(self, update: Update) -> None:
        for message in update.messages:
            broadcast(self._dashboards, message)
        if update.replaced is not None and update.replaced in self._agents:
            self._agents[update.replaced].close(1001, "the agent is connected anew")

    def _gone(self, key: str, reason: str) -> None:
        update = self._registry.gone(key, reason, self._now())
        if update is not None:
            _log.info("Agent {name} is gone: {reason}", name=update.agent.name, reason=reason)
            self._publish(update)

    def _find_silent(self) -> None:
        for key in self._registry.expired(self._now()):
            reason = f"silent for {self._client_timeout:g} s"
            self._gone(key, reason)
            if key in self._agents:
                self._agents[key].close(1001, reason)
