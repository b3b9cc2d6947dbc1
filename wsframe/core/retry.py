"""Staying connected: the verdict on a failure, and how long to wait before the next attempt.

`RetryPolicy` says what holds, `judge` what a failure means under it, and `Retry` keeps count for
one client. The waits have full jitter: each is drawn evenly from zero to the largest, which grows
with every failure in a row, so that the clients of a server that died do not come back as one.

By default a failure that may pass is retried for ever, and one that would repeat ends the loop.
Where that cannot be told, it is retried: who retries in vain pays one attempt in `max_delay` and
says so each time; who gives up in error is away until somebody notices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final

from wsframe.core.checks import LONGEST, check_counts, check_seconds
from wsframe.errors import (
    BadHandshake,
    ConcurrencyError,
    ConnectionClosed,
    HandshakeRefused,
    OpenCancelled,
    OpenError,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    TLSFailed,
)

__all__ = [
    "GIVE_UP",
    "RETRY",
    "Decision",
    "Retry",
    "RetryPolicy",
    "Verdict",
    "judge",
    "retry_after",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a failure: `RETRY`, `GIVE_UP`, or what `retry_after` returns.

    `after` is the seconds to wait at the least, 0 where `gives_up` is true.
    """

    after: float = 0.0
    gives_up: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.after, bool) or not isinstance(self.after, int | float):
            raise TypeError(f"a verdict's wait is a number of seconds, not {self.after!r}")
        if not 0 <= self.after <= LONGEST:
            raise ValueError(f"a verdict's wait is from 0 to a year of seconds, not {self.after}")
        if self.after and self.gives_up:
            raise ValueError("a verdict that gives up has no wait")

    def __repr__(self) -> str:
        if self.gives_up:
            return "GIVE_UP"
        return f"retry_after({self.after:g})" if self.after else "RETRY"


RETRY: Final = Verdict()
"""Try again, after the wait that the policy draws."""

GIVE_UP: Final = Verdict(gives_up=True)
"""Try no more."""


def retry_after(seconds: float) -> Verdict:
    """Return the verdict to try again, not before so many seconds.

    Jitter comes on top: up to as many seconds again, or to those of the policy's own wait where
    these are more, and never above `RetryPolicy.max_delay`.

    Raises TypeError and ValueError.
    """
    return Verdict(after=seconds)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a client that stays connected tries again, and when it gives up.

    What is retried by default is in docs/staying-connected.md. `judge` goes before the two tables,
    and these before the default.
    """

    first_delay: float = 0.5
    """Seconds: the largest wait after the first failure. Each wait is drawn evenly from zero to
    the largest ("full jitter"), so that thousands of clients do not come back as one."""

    factor: float = 2.0
    """What the largest wait is multiplied by after each further failure in a row, from 1 to 10."""

    max_delay: float = 30.0
    """Seconds: the largest wait of all, where nobody asked for a longer one. A service that is
    back is found within half a minute."""

    stable_after: float = 10.0
    """Seconds that a connection must have been open for the failures to be forgotten. A server
    that accepts and drops at once is a failing server."""

    max_attempts: int | None = None
    """Attempts that may fail in a row before the client gives up; None tries for ever, for a
    service that is to be there whenever its server is. One whose connection ended within
    `stable_after` has failed; the end of a stable connection is no failed attempt."""

    max_elapsed: float | None = None
    """Seconds since the first attempt, or the end of the last stable connection, within which an
    attempt may begin; None tries for ever. A client that would begin its next one later gives up
    at once, and does not wait for that."""

    later: float = 30.0
    """Seconds to wait at the least after close code 1013 (try again later), which has no field to
    say how long. As much as the longest of the other waits: the server is there, and full."""

    max_retry_after: float = 3600.0
    """Seconds that a Retry-After header can make the client wait; more counts as this much. Honest
    servers ask for minutes; milliseconds taken for seconds, or a date in the wrong year, keep a
    client away for an hour and not for good."""

    close_codes: Mapping[int, Verdict] = field(default_factory=dict, hash=False)
    """Verdicts by close code, from 1000 to 4999, for those that differ from the default. The codes
    from 3000 on mean what your server says they mean: `{4001: GIVE_UP}`, or
    `dict.fromkeys(range(4500, 5000), GIVE_UP)` for many."""

    statuses: Mapping[int, Verdict] = field(default_factory=dict, hash=False)
    """Verdicts by HTTP status, from 200 to 999, for those that differ from the default; they hold
    for the server's answers and for those of HTTP proxies. What is retried waits for as long as
    a Retry-After header says, too."""

    judge: Callable[[Exception], Verdict | None] | None = None
    """Your own say on each failure, an error of `wsframe.errors` or what an application's function
    raised: a verdict, or None for the one by the tables. It is called once for each failure."""

    def __post_init__(self) -> None:
        check_seconds(
            self,
            "first_delay",
            "max_delay",
            "stable_after",
            "later",
            "max_retry_after",
            optional=("max_elapsed",),
        )
        check_counts(self, optional=("max_attempts",))
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float):
            raise TypeError(f"factor is a number, not {self.factor!r}")
        if not 1 <= self.factor <= 10:
            raise ValueError(f"factor must be from 1 to 10, not {self.factor!r}")
        self._keep_table("close_codes", range(1000, 5000))
        self._keep_table("statuses", range(200, 1000))
        if self.judge is not None and not callable(self.judge):
            raise TypeError(f"judge is a function or None, not {self.judge!r}")

    def _keep_table(self, name: str, numbers: range) -> None:
        """Check a table, and keep a copy that nobody changes."""
        given = getattr(self, name)
        if not isinstance(given, Mapping):
            raise TypeError(f"{name} is a mapping of numbers to verdicts, not {given!r}")
        for number, verdict in given.items():
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name}: {number!r} is not a whole number")
            if number not in numbers:
                raise ValueError(f"{name}: {number} is not from {numbers[0]} to {numbers[-1]}")
            if not isinstance(verdict, Verdict):
                raise TypeError(f"{name}: {verdict!r} is not a Verdict, such as GIVE_UP")
        object.__setattr__(self, name, MappingProxyType(dict(given)))


# --- the default, as data -------------------------------------------------------------------------

_FINAL_CODES: Final = frozenset({1002, 1003, *range(1007, 1011), 3000, 3003})
"""Close codes that would come again. Two sides that do not understand each other (1002, 1003, 1007,
1010), a message or a conduct that is not accepted (1008, 1009); and the two of the IANA registry
that stand for HTTP's 401 and 403.

Any other code from 3000 on is retried. Its meaning is private, and conventions contradict each
other: 4000 to 4099 are final with Pusher, 4500 to 4999 with Centrifugo, single codes with Discord;
4004 is final with the one and to be retried with the other. Who knows better has `close_codes`."""

_PASSING_STATUSES: Final = frozenset({408, 425, 429, *range(500, 600)})
"""HTTP statuses that say "not now": too slow, too early, too often, and what servers and proxies
answer while they fail or are deployed. A redirect that was not followed is final, as is a 2xx,
which comes from something that speaks no WebSocket."""

_FINAL_SOCKS: Final = frozenset({2, 7, 8, 92})
"""SOCKS codes by which the proxy refuses and would again: not allowed, command and address type
that it does not know (RFC 1928 §6), no identd here (SOCKS4). A general failure (1, and 91 with
SOCKS4) may be anything, and is retried."""

_FINAL_KINDS: Final = (
    # Whoever cancelled it wants no other.
    OpenCancelled,
    ProxyAuthRequired,
    ProxyAuthRefused,
    # Something answers there, and it is not this WebSocket server: another port, another protocol,
    # another idea of the handshake. An answer that was cut short is no BadHandshake.
    BadHandshake,
    # What a program or its settings do wrong they will do again; among them InvalidURI,
    # InvalidHeader, InvalidProxy and InvalidTokenFile, which are ValueErrors.
    ConcurrencyError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    SyntaxError,
    TypeError,
    ValueError,
)


def judge(policy: RetryPolicy, failure: BaseException, wall_now: float) -> Verdict:
    """Return what follows from the failure under the policy.

    `failure` is why an attempt or a connection ended. `wall_now` is the time of day in seconds
    since 1970, UTC; a Retry-After date is compared with it where the answer has no Date of its own.

    Raises TypeError when `policy.judge` returns neither a verdict nor None, and what it raises.
    """
    if not isinstance(failure, Exception):  # the program is to end, or the task
        return GIVE_UP
    if policy.judge is not None:
        said = policy.judge(failure)
        if isinstance(said, Verdict):
            return said
        if said is not None:
            raise TypeError(f"judge returns a Verdict or None, not {said!r}")
    others = failure.others if isinstance(failure, OpenError) else ()
    verdicts = [_by_default(policy, each, wall_now) for each in (*others, failure)]
    # Of several ways one that may be open again is enough, and the first to be so.
    passing = [verdict for verdict in verdicts if not verdict.gives_up]
    return min(passing, key=lambda verdict: verdict.after) if passing else GIVE_UP


def _by_default(policy: RetryPolicy, failure: BaseException, wall_now: float) -> Verdict:
    if isinstance(failure, ConnectionClosed):
        return _by_close_code(policy, failure.code)
    if isinstance(failure, HandshakeRefused | ProxyError) and failure.status is not None:
        return _by_status(policy, failure.status, failure.headers, wall_now)
    if isinstance(failure, ProxyError) and failure.code in _FINAL_SOCKS:
        return GIVE_UP
    if isinstance(failure, TLSFailed) and failure.certificate:
        return GIVE_UP
    return GIVE_UP if isinstance(failure, _FINAL_KINDS) else RETRY


def _by_close_code(policy: RetryPolicy, code: int) -> Verdict:
    verdict = policy.close_codes.get(code)
    if verdict is not None:
        return verdict
    if code == 1013:
        return retry_after(policy.later)
    return GIVE_UP if code in _FINAL_CODES else RETRY


def _by_status(
    policy: RetryPolicy, status: int, headers: tuple[tuple[str, str], ...], wall_now: float
) -> Verdict:
    verdict = policy.statuses.get(status)
    if verdict is None:
        verdict = RETRY if status in _PASSING_STATUSES else GIVE_UP
    if verdict.gives_up:
        return verdict
    asked = min(_asked_to_wait(headers, wall_now), policy.max_retry_after)
    return retry_after(max(verdict.after, asked))


def _asked_to_wait(headers: tuple[tuple[str, str], ...], wall_now: float) -> float:
    """Return the seconds that Retry-After asks for (RFC 9110 §10.2.3), the most where it repeats.

    It is seconds or a date. A date is the server's, and so compared with the server's own Date
    (§6.6.1): the clock here may be wrong. What is malformed asks for nothing.
    """
    dates = [_date(value) for name, value in headers if name.lower() == "date"]
    server_now = next((date for date in dates if date is not None), wall_now)
    asked = 0.0
    for name, value in headers:
        if name.lower() != "retry-after":
            continue
        if value.isascii() and value.isdigit():
            asked = max(asked, float(value))  # of any length; beyond the largest it is infinite
        elif (date := _date(value)) is not None:
            asked = max(asked, date - server_now)
    return asked


def _date(text: str) -> float | None:
    """Return an HTTP date (RFC 9110 §5.6.7, obsolete forms too) in seconds since 1970, or None."""
    if not text[:1].isalpha():  # a weekday begins each of the forms; the parser takes others, too
        return None
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # The form of asctime() names no zone, and means UTC.
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


# --- the count ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """What a client does after a failure.

    `delay` is the seconds until the next attempt, None when it gives up. `attempt` is the number
    of that attempt, or of the one that will not be made: 1 for the first since the client began or
    a stable connection ended. `why` says what decided; it holds nothing that a peer sent but
    numbers. `is_final` says that this failure would repeat; there may be another URI to try.
    """

    delay: float | None
    attempt: int
    why: str
    is_final: bool = False

    @property
    def gives_up(self) -> bool:
        """Whether there is no next attempt."""
        return self.delay is None


class Retry:
    """The attempts of one client under a policy: how many failed, and what follows.

    `now` is seconds of a monotonic clock, here the time of the first attempt. `draw` gives even
    numbers from 0 to 1; the default is good enough where no secret depends on it. `failures` is
    the number of attempts that failed in a row.
    """

    __slots__ = ("_draw", "_largest", "_opened", "_policy", "_since", "failures")

    def __init__(
        self, policy: RetryPolicy, now: float, *, draw: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._draw = draw
        self._opened: float | None = None
        self._begin(now)

    def _begin(self, now: float) -> None:
        self.failures = 0
        self._since = now
        self._largest = min(self._policy.first_delay, self._policy.max_delay)

    def opened(self, now: float) -> None:
        """Note that an attempt succeeded."""
        self._opened = now

    def failed(
        self, failure: BaseException, now: float, wall_now: float, *, elsewhere: bool = False
    ) -> Decision:
        """Note that an attempt failed or a connection ended; return what follows.

        `wall_now` and the errors are those of `judge`. After an error nothing has been noted.
        `elsewhere` says that another URI is left to be tried: then one that fails for good does
        not end the client.
        """
        policy = self._policy
        verdict = judge(policy, failure, wall_now)
        opened, self._opened = self._opened, None
        if opened is not None and now - opened >= policy.stable_after:
            self._begin(now)
        else:
            self.failures += 1
        attempt = self.failures + 1
        what = _name(failure)
        is_final = verdict.gives_up
        if is_final and not (elsewhere and _is_of_the_uri(failure)):
            return Decision(None, attempt, f"{what} is not retried", is_final)
        if policy.max_attempts is not None and attempt > policy.max_attempts:
            why = f"{what} was attempt {self.failures} of at most {policy.max_attempts}"
            return Decision(None, attempt, why, is_final)
        delay = self._next_delay(verdict.after)
        elapsed = now + delay - self._since
        if policy.max_elapsed is not None and elapsed > policy.max_elapsed:
            why = f"after {what} the next attempt would begin at {elapsed:.1f} s"
            why += f" of at most {policy.max_elapsed:g} s"
            return Decision(None, attempt, why, is_final)
        why = f"{what} is not retried, but another URI is" if is_final else f"{what} is retried"
        if verdict.after:
            why += f" after {verdict.after:g} s or more"
        return Decision(delay, attempt, why, is_final)

    def _next_delay(self, floor: float) -> float:
        # Those who are told when to come back are told the same: they, too, are to be spread.
        spread = max(self._largest, min(floor, self._policy.max_delay))
        # By steps rather than by a power, which overflows after a thousand failures.
        self._largest = min(self._largest * self._policy.factor, self._policy.max_delay)
        return floor + spread * self._draw()


def _is_of_the_uri(failure: BaseException) -> bool:
    """Return whether another URI may do better than this one did."""
    return isinstance(failure, OpenError) and not isinstance(failure, OpenCancelled)


def _name(failure: BaseException) -> str:
    """Name the failure by its kind and number; its text may be long, and say too much."""
    name = type(failure).__name__
    if isinstance(failure, ConnectionClosed):
        return f"close code {failure.code}"
    if isinstance(failure, HandshakeRefused | ProxyError) and failure.status is not None:
        return f"{name} with status {failure.status}"
    if isinstance(failure, ProxyError) and failure.code is not None:
        return f"{name} with SOCKS code {failure.code}"
    if isinstance(failure, TLSFailed) and failure.certificate:
        return f"{name} for the certificate"
    return name
