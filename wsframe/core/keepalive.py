"""The keepalive state machine: when to ping, when a peer is dead, and how long a pong took.

The time comes in as `now` (seconds of a monotonic clock) and the next deadline comes out, so that
one timer can serve a connection and a test needs none. A ping is due `interval` seconds after the
last one was answered. Four waits may give a connection up, each of them optional:

- silence: after a ping nothing at all was received. Bytes of a long message are as good a sign of
  life as the pong that has to wait behind them; so is progress in sending while the ping itself has
  to wait behind what the peer is slow to read.
- the pong: whatever else is received, our own ping has to be answered.
- messages: the application has to receive one.
- sending: the transport has to take some of what waits.

A wait counts only while we were there to see its end. A blocked loop or a suspended machine wakes
late, with what the peer said meanwhile still unread. Hence a wait goes in steps, so that a late
wake-up costs one of them and not all; one that is late by more than a step begins anew, after
silence with another ping; and before the end there is a last look, after the transport was read
once more. It begins anew once until its sign comes: a loop that is always late does not keep dead
peers for ever. While the application has reading paused, silence, pong and messages wait, too.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Action", "Keepalive", "RoundTrip"]

_STEPS: Final = 4
"""Wake-ups in one wait; they are needed only where a sign takes longer than a quarter of it."""


class Action(enum.Enum):
    """What `Keepalive.wake` asks its caller to do; all but the first two end the connection."""

    NOTHING = enum.auto()
    PING = enum.auto()
    PEER_SILENT = enum.auto()
    PONG_OVERDUE = enum.auto()
    NO_MESSAGE = enum.auto()
    SENDING_STUCK = enum.auto()


@dataclass(slots=True)
class RoundTrip:
    """Round trips of pings in seconds: the last, and smoothed as TCP does it (RFC 6298 §2).

    All are None before the first. `variation` is how far they stray from `smoothed`, on average.
    """

    last: float | None = field(default=None, init=False)
    smoothed: float | None = field(default=None, init=False)
    variation: float | None = field(default=None, init=False)

    def sample(self, seconds: float) -> float:
        """Note a round trip; return it, never below zero."""
        seconds = max(0.0, seconds)
        self.last = seconds
        if self.smoothed is None or self.variation is None:
            self.smoothed, self.variation = seconds, seconds / 2
        else:
            strayed = abs(self.smoothed - seconds)
            self.variation = 0.75 * self.variation + 0.25 * strayed
            self.smoothed = 0.875 * self.smoothed + 0.125 * seconds
        return seconds


class _Verdict(enum.Enum):
    GOES_ON = enum.auto()
    ANEW = enum.auto()
    OVER = enum.auto()


@dataclass(slots=True)
class _Wait:
    """A wait of `limit` seconds for a sign, begun `since`; `seen` is when one came last.

    It is there while somebody waits, and not made before: an idle connection waits for nothing.
    """

    limit: float
    since: float
    seen: float
    deadline: float
    _steps: int = field(default=0, init=False)
    _began_anew: bool = field(default=False, init=False)

    @classmethod
    def begun(cls, limit: float | None, now: float) -> _Wait | None:
        """Return a wait that begins now; None for one that would be for ever."""
        return None if limit is None else cls(limit, now, now, now + limit / _STEPS)

    def shift(self, seconds: float) -> None:
        """Leave a time out of account in which no sign could be seen."""
        self.deadline += seconds
        self.since += seconds
        self.seen += seconds

    def wake(self, now: float) -> _Verdict:
        if now < self.deadline:
            return _Verdict.GOES_ON
        step = self.limit / _STEPS
        late = now - self.deadline > step
        if self.seen > self.since:
            self._began_anew = False
            self.since = self.seen
            self._steps = 0
            self.deadline = self.seen + step
            if now < self.deadline:
                return _Verdict.GOES_ON
        if late and not self._began_anew:
            self._began_anew = True
            self.since = self.seen = now
            self._steps = 0
            self.deadline = now + step
            return _Verdict.ANEW
        self._steps += 1
        if self._steps > _STEPS:
            return _Verdict.OVER
        # The last look comes at once: the loop reads from the transports before it.
        self.deadline = now if self._steps == _STEPS else now + step
        return _Verdict.GOES_ON


class Keepalive:
    """One connection's keepalive.

    All times are seconds. `interval` None sends no pings. `timeout` bounds the silence after one,
    `pong_timeout` the wait for its pong, `message_timeout` the wait for a message and
    `write_timeout` that for progress in sending; None is for ever. `round_trip` is what the
    answered pings took.

    Whoever receives sets `heard` to when bytes came from the peer last, and calls `message` where
    `awaits_messages`: for every read and message, calls would cost more than what they do.
    """

    __slots__ = (
        "_blocked",
        "_message_timeout",
        "_messages",
        "_paused",
        "_ping_due",
        "_pinged",
        "_pong",
        "_pong_timeout",
        "_round_trip",
        "_running",
        "_sending",
        "_silence",
        "_timed",
        "_timeout",
        "_write_timeout",
        "awaits_messages",
        "heard",
        "interval",
    )

    def __init__(
        self,
        interval: float | None,
        timeout: float | None,
        *,
        pong_timeout: float | None = None,
        message_timeout: float | None = None,
        write_timeout: float | None = None,
    ) -> None:
        self.interval = interval
        self._timeout = timeout
        self._pong_timeout = pong_timeout
        self._message_timeout = message_timeout
        self._write_timeout = write_timeout
        self._round_trip: RoundTrip | None = None
        self._silence: _Wait | None = None
        self._pong: _Wait | None = None
        self._messages: _Wait | None = None
        self._sending: _Wait | None = None
        self.awaits_messages = message_timeout is not None
        self.heard = 0.0
        self._running = False
        self._blocked = False
        self._paused: float | None = None
        self._ping_due: float | None = None
        self._pinged: float | None = None
        self._timed = False

    @property
    def round_trip(self) -> RoundTrip:
        """What the answered pings took."""
        if self._round_trip is None:
            self._round_trip = RoundTrip()
        return self._round_trip

    @property
    def deadline(self) -> float | None:
        """When `wake` wants to be called next, None when it does not."""
        if not self._running:
            return None
        earliest = math.inf if self._ping_due is None else self._ping_due
        waits = [self._sending]
        if self._paused is None:
            waits += [self._silence, self._pong, self._messages]
        for wait in waits:
            if wait is not None and wait.deadline < earliest:
                earliest = wait.deadline
        return None if earliest == math.inf else earliest

    def start(self, now: float) -> None:
        """Begin, when the connection is open."""
        self._running = True
        self.heard = now
        self._ping_due = None if self.interval is None else now + self.interval
        self._messages = _Wait.begun(self._message_timeout, now)

    def stop(self) -> None:
        """End, when the connection closes; nothing begins it again."""
        self._running = False

    # ---------------------------------------------------------------- what happened

    def message(self) -> None:
        """Note that the bytes that came last made a message complete."""
        if self._messages is not None:
            self._messages.seen = self.heard

    def ponged(self, now: float) -> float | None:
        """Note the pong to our last ping; return the round trip in seconds.

        None when it was not timed, because reading was paused meanwhile.
        """
        pinged, self._pinged = self._pinged, None
        self._silence = self._pong = None
        self.heard = now
        if self.interval is not None:
            self._ping_due = now + self.interval
        return self.round_trip.sample(now - pinged) if pinged is not None and self._timed else None

    def reading_paused(self, now: float) -> None:
        """Note that nothing is heard from now on, because we do not listen."""
        self._paused = now
        self._timed = False
        if self._ping_due is None and self.interval is not None:
            self._ping_due = now + self.interval

    def reading_resumed(self, now: float) -> None:
        """Note that we listen again; the time in which we did not is nobody's fault."""
        if self._paused is None:
            return
        away = now - self._paused
        self._paused = None
        for wait in (self._messages, self._pong):
            if wait is not None:
                wait.shift(away)
        self.heard = now
        if self._pinged is not None:
            self._after_ping(now)

    def sending_blocked(self, now: float) -> None:
        """Note that the transport takes no more for now."""
        if not self._blocked:
            self._blocked = True
            self._sending = _Wait.begun(self._write_timeout, now)

    def sent(self, now: float) -> None:
        """Note that something of what waits to be sent went out."""
        if self._blocked:
            self.heard = now
            if self._sending is not None:
                self._sending.seen = now

    def sending_resumed(self, now: float) -> None:
        """Note that nothing waits any more."""
        self.sent(now)
        self._blocked = False
        self._sending = None

    # ---------------------------------------------------------------- what is to be done

    def wake(self, now: float) -> Action:
        """Say what is to be done; call it at `deadline`, or at any other time."""
        if not self._running:
            return Action.NOTHING
        waits = [(self._sending, Action.SENDING_STUCK)]
        if self._paused is None:
            waits += [(self._messages, Action.NO_MESSAGE), (self._pong, Action.PONG_OVERDUE)]
        for wait, action in waits:
            if wait is not None and wait.wake(now) is _Verdict.OVER:
                self.stop()
                return action
        if self._paused is None and self._silence is not None:
            self._silence.seen = max(self._silence.seen, self.heard)
            verdict = self._silence.wake(now)
            if verdict is _Verdict.OVER:
                self.stop()
                return Action.PEER_SILENT
            if verdict is _Verdict.ANEW:
                # Whatever became of the first ping: the pong of this one tells the round trip.
                self._pinged, self._timed = now, True
                return Action.PING
        if self._ping_due is not None and now >= self._ping_due:
            return self._ping(now)
        return Action.NOTHING

    def _ping(self, now: float) -> Action:
        unsent = self._blocked and self._pinged is not None
        if not unsent:
            self._pinged, self._timed = now, self._paused is None
        self._after_ping(now)
        return Action.NOTHING if unsent else Action.PING

    def _after_ping(self, now: float) -> None:
        if self._paused is not None or (self._timeout is None and self._pong_timeout is None):
            # Nobody waits for the pong: pings go on for the sake of those on the way, and of the
            # reset with which a peer that is gone may answer.
            self._ping_due = None if self.interval is None else now + self.interval
            return
        self._ping_due = None
        self._silence = _Wait.begun(self._timeout, now)
        if self._pong is None:
            self._pong = _Wait.begun(self._pong_timeout, now)
