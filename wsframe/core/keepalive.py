"""The keepalive state machine: when to ping, when a peer is dead, and how long a pong took.

The time comes in as `now` (seconds of a monotonic clock) and the next deadline comes out, so that
one timer can serve a connection and a test needs none. A ping is due `interval` seconds after the
last one was answered. A peer is dead when, for `timeout` seconds after a ping, nothing at all was
received from it: bytes of a long message are as good a sign of life as the pong that has to wait
behind them.

Silence counts only while we listened. A blocked loop or a suspended machine wakes late, with what
the peer said meanwhile still unread. Hence the timeout is waited for in steps, so that a late
wake-up costs one of them and not all; and one that is late by more than a step begins anew, with
another ping. It does so once until the peer is heard: a loop that is always late does not keep dead
peers for ever.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Action", "Keepalive"]

_STEPS: Final = 4
"""Wake-ups in one timeout; they are needed only where a pong takes longer than a quarter of it."""


class Action(enum.Enum):
    """What `Keepalive.wake` asks its caller to do."""

    NOTHING = enum.auto()
    PING = enum.auto()
    GIVE_UP = enum.auto()


@dataclass(slots=True)
class Keepalive:
    """One connection's keepalive.

    `interval` and `timeout` are seconds; interval None sends no pings, timeout None waits for a
    pong for ever. `deadline` is when `wake` wants to be called next, None when it does not.
    `latency` is the round trip of the last answered ping in seconds, None before the first.
    """

    interval: float | None
    timeout: float | None
    deadline: float | None = field(default=None, init=False)
    latency: float | None = field(default=None, init=False)
    _running: bool = field(default=False, init=False)
    _pinged: float | None = field(default=None, init=False)
    _heard: float = field(default=0.0, init=False)
    _silent_since: float = field(default=0.0, init=False)
    _silent_steps: int = field(default=0, init=False)
    _restarted: bool = field(default=False, init=False)

    def start(self, now: float) -> None:
        """Begin, when the connection is open."""
        self._running = True
        self._heard = now
        self._pinged = None
        self.deadline = None if self.interval is None else now + self.interval

    def stop(self) -> None:
        """End, when the connection closes; no pong begins it again."""
        self._running = False
        self.deadline = None

    def received(self, now: float) -> None:
        """Note that bytes came from the peer."""
        self._heard = now

    def wake(self, now: float) -> Action:
        """Say what is to be done; call it at `deadline`, or at any other time."""
        if self.deadline is None or now < self.deadline:
            return Action.NOTHING
        if self._pinged is None or self.timeout is None:
            self._restarted = False
            return self._ping(now)
        step = self.timeout / _STEPS
        late = now - self.deadline > step
        if self._heard > self._silent_since:
            self._restarted = False
            self._silent_since = self._heard
            self._silent_steps = 0
            self.deadline = self._heard + step
            if now < self.deadline:
                return Action.NOTHING
        if late and not self._restarted:
            self._restarted = True
            return self._ping(now)
        self._silent_steps += 1
        if self._silent_steps >= _STEPS:
            self.stop()
            return Action.GIVE_UP
        self.deadline = now + step
        return Action.NOTHING

    def _ping(self, now: float) -> Action:
        self._pinged = now
        self._silent_since = now
        self._silent_steps = 0
        self.deadline = None if self.timeout is None else now + self.timeout / _STEPS
        return Action.PING

    def ponged(self, now: float) -> float:
        """Note the pong to our last ping; return the round trip in seconds."""
        pinged = now if self._pinged is None else self._pinged
        self._pinged = None
        self._heard = now
        self.latency = max(0.0, now - pinged)
        if self._running and self.interval is not None:
            self.deadline = now + self.interval
        return self.latency

    def excuse(self, now: float) -> None:
        """Note that nothing could be heard because we did not listen (reading was paused)."""
        self._heard = now
