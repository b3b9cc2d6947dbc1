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
    """A wait of `limit` seconds (None: for ever) for a sign; `seen` is when one came last."""

    limit: float | None
    deadline: float | None = field(default=None, init=False)
    seen: float = field(default=0.0, init=False)
    _since: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _began_anew: bool = field(default=False, init=False)

    def begin(self, now: float) -> None:
        self._began_anew = False
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = self.seen = now
        self._steps = 0
        self.deadline = None if self.limit is None else now + self.limit / _STEPS

    def end(self) -> None:
        self.deadline = None

    def shift(self, seconds: float) -> None:
        """Leave a time out of account in which no sign could be seen."""
        if self.deadline is not None:
            self.deadline += seconds
            self._since += seconds
            self.seen += seconds

    def wake(self, now: float) -> _Verdict:
        if self.limit is None or self.deadline is None or now < self.deadline:
            return _Verdict.GOES_ON
        step = self.limit / _STEPS
        late = now - self.deadline > step
        if self.seen > self._since:
            self._began_anew = False
            self._since = self.seen
            self._steps = 0
            self.deadline = self.seen + step
            if now < self.deadline:
                return _Verdict.GOES_ON
        if late and not self._began_anew:
            self._began_anew = True
            self._begin(now)
            return _Verdict.ANEW
        self._steps += 1
        if self._steps > _STEPS:
            self.deadline = None
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
    """

    __slots__ = (
        "_blocked",
        "_messages",
        "_paused",
        "_ping_due",
        "_pinged",
        "_pong",
        "_running",
        "_sending",
        "_silence",
        "_timed",
        "interval",
        "round_trip",
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
        self.round_trip = RoundTrip()
        self._silence = _Wait(timeout)
        self._pong = _Wait(pong_timeout)
        self._messages = _Wait(message_timeout)
        self._sending = _Wait(write_timeout)
        self._running = False
        self._blocked = False
        self._paused: float | None = None
        self._ping_due: float | None = None
        self._pinged: float | None = None
        self._timed = False

    @property
    def deadline(self) -> float | None:
        """When `wake` wants to be called next, None when it does not."""
        if not self._running:
            return None
        due = [self._ping_due, self._sending.deadline]
        if self._paused is None:
            due += [self._silence.deadline, self._pong.deadline, self._messages.deadline]
        return min((time for time in due if time is not None), default=None)

    def start(self, now: float) -> None:
        """Begin, when the connection is open."""
        self._running = True
        self._silence.seen = now
        self._ping_due = None if self.interval is None else now + self.interval
        self._messages.begin(now)

    def stop(self) -> None:
        """End, when the connection closes; nothing begins it again."""
        self._running = False

    # ---------------------------------------------------------------- what happened

    def received(self, now: float) -> None:
        """Note that bytes came from the peer."""
        self._silence.seen = now

    def message(self) -> None:
        """Note that the bytes that came last made a message complete."""
        self._messages.seen = self._silence.seen

    def ponged(self, now: float) -> float | None:
        """Note the pong to our last ping; return the round trip in seconds.

        None when it was not timed, because reading was paused meanwhile.
        """
        pinged, self._pinged = self._pinged, None
        self._silence.end()
        self._pong.end()
        self._silence.seen = now
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
        self._messages.shift(away)
        self._pong.shift(away)
        self._silence.seen = now
        if self._pinged is not None:
            self._after_ping(now)

    def sending_blocked(self, now: float) -> None:
        """Note that the transport takes no more for now."""
        if not self._blocked:
            self._blocked = True
            self._sending.begin(now)

    def sent(self, now: float) -> None:
        """Note that something of what waits to be sent went out."""
        if self._blocked:
            self._sending.seen = self._silence.seen = now

    def sending_resumed(self, now: float) -> None:
        """Note that nothing waits any more."""
        self.sent(now)
        self._blocked = False
        self._sending.end()

    # ---------------------------------------------------------------- what is to be done

    def wake(self, now: float) -> Action:
        """Say what is to be done; call it at `deadline`, or at any other time."""
        if not self._running:
            return Action.NOTHING
        waits = [(self._sending, Action.SENDING_STUCK)]
        if self._paused is None:
            waits += [(self._messages, Action.NO_MESSAGE), (self._pong, Action.PONG_OVERDUE)]
        for wait, action in waits:
            if wait.wake(now) is _Verdict.OVER:
                self.stop()
                return action
        if self._paused is None:
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
        if self._paused is not None or (self._silence.limit is None and self._pong.limit is None):
            # Nobody waits for the pong: pings go on for the sake of those on the way, and of the
            # reset with which a peer that is gone may answer.
            self._ping_due = None if self.interval is None else now + self.interval
            return
        self._ping_due = None
        self._silence.begin(now)
        if self._pong.deadline is None:
            self._pong.begin(now)
