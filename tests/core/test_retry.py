"""Staying connected: what a failure means, the waits, their limits, what a server may ask for."""

import asyncio
import re
import string
import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import wsframe
from wsframe import errors
from wsframe.core.closing import is_valid_code
from wsframe.core.retry import GIVE_UP, RETRY, Retry, RetryPolicy, Verdict, judge, retry_after
from wsframe.errors import (
    BadHandshake,
    BadProxyAnswer,
    ConcurrencyError,
    ConnectionClosed,
    HandshakeRefused,
    InvalidHeader,
    InvalidProxy,
    InvalidTokenFile,
    InvalidURI,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyRefused,
    ProxyTimeout,
    ProxyTLSFailed,
    ProxyUnreachable,
    TargetUnreachable,
    TCPConnectFailed,
    TLSFailed,
)

SEARCHED = settings(max_examples=200, deadline=None, database=None)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "staying-connected.md"

DEFAULT = RetryPolicy()
ENDLESS = {"max_attempts": None, "max_elapsed": None}
NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
WALL = NOON.timestamp()
PROXY = {"proxy": "http://proxy:3128"}


def refused(status, *headers):
    return HandshakeRefused(status, "Because", headers, b"")


def proxy_refused(status, *headers, kind=ProxyRefused):
    return kind("no", **PROXY, status=status, headers=headers)


def closed(code, by="remote"):
    return ConnectionClosed.of(code, "", by=by, clean=True)


def verdict(failure, policy=DEFAULT, wall_now=WALL):
    return judge(policy, failure, wall_now)


# ---------------------------------------------------------------- the table, here and in the docs

KINDS = [
    (
        "The name has no address, or the name service does not answer",
        [NameLookupFailed("x")],
    ),
    ("No address accepts a connection", [TCPConnectFailed("x")]),
    (
        "The certificate is not accepted: name, authority, expired",
        [TLSFailed("x", certificate=True), ProxyTLSFailed("x", **PROXY, certificate=True)],
    ),
    (
        "The TLS handshake is cut off, or ends in another error",
        [TLSFailed("x"), ProxyTLSFailed("x", **PROXY)],
    ),
    (
        "The proxy is not reached",
        [
            ProxyUnreachable("x", **PROXY, phase="dns"),
            ProxyUnreachable("x", **PROXY, phase="tcp"),
        ],
    ),
    ("The proxy does not reach the target", [TargetUnreachable("x", **PROXY, code=5)]),
    ("The proxy's answer is no answer, or is cut short", [BadProxyAnswer("x", **PROXY)]),
    (
        "The proxy asks for credentials, or does not take them",
        [
            ProxyAuthRequired("x", **PROXY),
            ProxyAuthRefused("x", **PROXY),
            proxy_refused(407, kind=ProxyAuthRequired),
            proxy_refused(407, kind=ProxyAuthRefused),
            proxy_refused(401, kind=ProxyAuthRefused),
        ],
    ),
    (
        "The credentials for the proxy are not to be had",
        [ProxyCredentialsFailed("x", **PROXY)],
    ),
    ("The server's answer is not that of a WebSocket server", [BadHandshake("x")]),
    ("The connection is lost in the opening handshake", [OpenError("x", phase="handshake")]),
    ("The deadline passes", [OpenTimeout("x"), ProxyTimeout("x", **PROXY, phase="tcp")]),
    ("The attempt is cancelled", [OpenCancelled("x")]),
    (
        "The URI, a header, the proxy or a token file cannot be used",
        [InvalidURI("x"), InvalidHeader("x"), InvalidProxy("x"), InvalidTokenFile("x")],
    ),
]
"""What fails, and the errors for it. Those of one row have one verdict."""

SOCKS_CODES = [*range(1, 9), *range(91, 93), 200]
STATUSES = range(200, 600)
CLOSE_CODES = [code for code in range(1000, 5000) if is_valid_code(code) or code in {1005, 1006}]


def in_words(numbers):
    """Return "1, 2, 5 to 9" for sorted numbers."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(n) for n in run]
    return ", ".join(parts)


def said(found):
    """Return a verdict as the page says it."""
    if found.gives_up:
        return "give up"
    return f"retry, after {found.after:g} s or more" if found.after else "retry"


def by_verdict(numbers, failure):
    """Return {verdict in words: the numbers it is given for}."""
    groups = {}
    for number in numbers:
        groups.setdefault(said(verdict(failure(number))), []).append(number)
    return groups


def what_is_retried():
    """Return the table of the page, from what the code does."""
    lines = ["| What happens | Error | Verdict |", "|---|---|---|"]
    for what, failures in KINDS:
        names = ", ".join(dict.fromkeys(f"`{type(failure).__name__}`" for failure in failures))
        (found,) = {said(verdict(failure)) for failure in failures}
        lines.append(f"| {what} | {names} | {found} |")

    def asks(status):
        return refused(status, ("Retry-After", "7"))

    # Of two groups one is told in numbers, and the other as the rest.
    few, rest = sorted(by_verdict(STATUSES, asks).items(), key=lambda group: group[0] == "give up")
    for found, statuses in (few[0], in_words(few[1])), (rest[0], "any other status"):
        words = found.replace("after 7 s or more", "after Retry-After where it is given")
        names = "`HandshakeRefused`, `ProxyRefused`"
        lines.append(f"| The server or an HTTP proxy answers {statuses} | {names} | {words} |")
    groups = by_verdict(SOCKS_CODES, lambda code: ProxyRefused("x", **PROXY, code=code))
    few, rest = sorted(groups.items(), key=lambda group: len(group[1]))
    for found, codes in (few[0], in_words(few[1])), (rest[0], "any other code"):
        lines.append(f"| A SOCKS proxy answers {codes} | `ProxyRefused` | {found} |")
    for found, codes in by_verdict(CLOSE_CODES, closed).items():
        what = f"The connection ends with close code {in_words(codes)}"
        lines.append(f"| {what} | `ConnectionClosed` | {found} |")
    for name in ("`ValueError`, `TypeError` and other mistakes of a program", "any other"):
        found = said(verdict(TypeError() if "`" in name else OSError()))
        lines.append(f"| A function of the application raises | {name} | {found} |")
    return "\n".join(lines) + "\n"


def test_page_says_what_the_code_does():
    """The table of the page is the one that is made here; paste it there when it changes."""
    (section,) = re.findall(r"^## What is retried\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    table = "".join(line for line in section.splitlines(True) if line.startswith("|"))
    assert table == what_is_retried()


def test_example_of_the_page_is_a_policy():
    """What is shown can be written."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (source,) = [text for text in blocks if "def judge" in text]
    names = {}
    exec(source, names)  # noqa: S102 - our own page
    policy = names["policy"]
    assert verdict(closed(4004), policy) == GIVE_UP
    assert verdict(closed(4600), policy) == GIVE_UP
    assert verdict(refused(404), policy) == retry_after(60)
    assert verdict(TLSFailed("x", certificate=True), policy) == retry_after(300)
    assert verdict(TLSFailed("x"), policy) == RETRY


def test_every_error_of_an_attempt_or_a_connection_is_in_the_table():
    """A new kind of error is given its verdict on purpose."""
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, OpenError | ConnectionClosed)
    }
    abstract = {errors.ProxyError}
    told = {type(failure) for _, failures in KINDS for failure in failures}
    told |= {HandshakeRefused, ProxyRefused, *ConnectionClosed.__subclasses__(), ConnectionClosed}
    assert kinds - abstract == told - {InvalidURI, InvalidHeader, InvalidProxy, InvalidTokenFile}


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006, 1011, 1012, 1014])
@pytest.mark.parametrize("by", ["local", "remote", None])
def test_close_code_is_retried(code, by):
    """A Close frame of the server does not end the loop, nor does one of ours."""
    assert verdict(closed(code, by)) == RETRY


def test_try_again_later_is_later():
    """1013, as long as the policy says."""
    assert verdict(closed(1013)) == retry_after(30)
    assert verdict(closed(1013), RetryPolicy(later=90)) == retry_after(90)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003])
def test_close_code_is_final(code):
    """It would come again."""
    assert verdict(closed(code)) == GIVE_UP


@pytest.mark.parametrize("code", [1004, 1015, 2999, 3001, 3008, 3999, 4000, 4004, 4500, 4999])
def test_close_code_without_a_known_meaning_is_retried(code):
    """Only a code that is known to be final ends the loop."""
    assert verdict(closed(code)) == RETRY


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 511, 599])
def test_status_is_retried(status):
    """The server's and the proxy's."""
    assert verdict(refused(status)) == verdict(proxy_refused(status)) == RETRY


@pytest.mark.parametrize(
    "status", [200, 204, 301, 302, 400, 401, 403, 404, 407, 410, 426, 451, 999]
)
def test_status_is_final(status):
    """Retry-After changes nothing."""
    assert verdict(refused(status)) == verdict(proxy_refused(status)) == GIVE_UP
    assert verdict(refused(status, ("Retry-After", "5"))) == GIVE_UP


@pytest.mark.parametrize(("code", "expected"), [(1, RETRY), (2, GIVE_UP), (7, GIVE_UP)])
def test_socks_code(code, expected):
    """A general failure may pass; a rule does not."""
    assert verdict(ProxyRefused("x", **PROXY, code=code)) == expected


@pytest.mark.parametrize("code", [3, 4, 5, 6])
def test_target_that_a_proxy_does_not_reach_is_retried(code):
    """As one is that is not reached directly."""
    assert verdict(TargetUnreachable("x", **PROXY, code=code)) == RETRY


@pytest.mark.parametrize(
    "error",
    [
        TypeError(),
        KeyError("token"),
        AttributeError(),
        ZeroDivisionError(),
        ModuleNotFoundError(),
        SyntaxError(),
        AssertionError(),
        NameError(),
        UnicodeDecodeError("utf-8", b"", 0, 1, ""),
        ConcurrencyError("x"),
        NotImplementedError(),
        asyncio.CancelledError(),
        SystemExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_mistake_of_a_program_is_final(error):
    """It would be made again; so is what is to end the program or the task."""
    assert verdict(error) == GIVE_UP


@pytest.mark.parametrize(
    "error",
    [OSError(), ConnectionResetError(), TimeoutError(), EOFError(), RuntimeError(), Exception()],
    ids=lambda error: type(error).__name__,
)
def test_other_error_of_an_application_is_retried(error):
    """A token's server may be down as any other; and not all networks' errors are OSErrors."""
    assert verdict(error) == RETRY


# ---------------------------------------------------------------- the policy says otherwise


def test_users_table_of_close_codes_goes_before_the_default():
    """For the codes of the RFC, too."""
    table = {1000: GIVE_UP, 1008: RETRY, 1013: RETRY, 4001: GIVE_UP, 4002: retry_after(5)}
    policy = RetryPolicy(close_codes=table)
    assert {code: verdict(closed(code), policy) for code in table} == table
    assert verdict(closed(4003), policy) == RETRY
    assert verdict(closed(1002), policy) == GIVE_UP


def test_users_table_of_statuses_goes_before_the_default():
    """For the server's answers and for a proxy's, credentials included."""
    policy = RetryPolicy(statuses={401: retry_after(60), 407: RETRY, 503: GIVE_UP})
    assert verdict(refused(401), policy) == retry_after(60)
    assert verdict(refused(503, ("Retry-After", "5")), policy) == GIVE_UP
    assert verdict(proxy_refused(503), policy) == GIVE_UP
    assert verdict(proxy_refused(407, kind=ProxyAuthRefused), policy) == RETRY
    assert verdict(refused(403), policy) == GIVE_UP


def test_longer_of_the_two_waits_holds():
    """That of the user's table, and that of the server."""
    policy = RetryPolicy(statuses={404: retry_after(60)})
    assert verdict(refused(404, ("Retry-After", "5")), policy) == retry_after(60)
    assert verdict(refused(404, ("Retry-After", "90")), policy) == retry_after(90)


def test_users_judge_goes_before_all_and_is_asked_once():
    """None leaves it to the tables."""
    asked = []
    answers = iter([GIVE_UP, retry_after(3), None, None])

    def say(failure):
        asked.append(failure)
        return next(answers)

    policy = RetryPolicy(judge=say, close_codes={4000: GIVE_UP})
    failures = [closed(1006), TLSFailed("x", certificate=True), closed(4000), closed(4001)]
    found = [verdict(failure, policy) for failure in failures]
    assert found == [GIVE_UP, retry_after(3), GIVE_UP, RETRY]
    assert asked == failures


def test_users_judge_is_not_asked_to_hold_up_the_end_of_the_program():
    """What is no Exception is nobody's to judge."""
    assert verdict(SystemExit(), RetryPolicy(judge=lambda _: RETRY)) == GIVE_UP


@pytest.mark.parametrize("nonsense", [True, 5, "retry", retry_after])
def test_users_judge_that_returns_something_else_is_told(nonsense):
    """And the failure is not counted."""
    retry = Retry(RetryPolicy(judge=lambda _: nonsense), 0.0)
    with pytest.raises(TypeError, match="judge returns a Verdict or None"):
        retry.failed(closed(1006), 1.0, WALL)
    assert retry.failures == 0


def test_tables_are_copies():
    """Nobody changes a policy through what it was made of."""
    table = {4000: GIVE_UP}
    policy = RetryPolicy(close_codes=table)
    table[4001] = GIVE_UP
    assert verdict(closed(4001), policy) == RETRY
    with pytest.raises(TypeError):
        policy.close_codes[4001] = GIVE_UP
    assert policy == RetryPolicy(close_codes={4000: GIVE_UP}) != RetryPolicy()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"close_codes": [4000]}, TypeError),
        ({"close_codes": {"4000": GIVE_UP}}, TypeError),
        ({"close_codes": {True: GIVE_UP}}, TypeError),
        ({"close_codes": {4000: False}}, TypeError),
        ({"close_codes": {4000: retry_after}}, TypeError),
        ({"close_codes": {999: RETRY}}, ValueError),
        ({"close_codes": {5000: RETRY}}, ValueError),
        ({"statuses": {101: RETRY}}, ValueError),
        ({"statuses": {1000: RETRY}}, ValueError),
        ({"statuses": {404: None}}, TypeError),
        ({"judge": RETRY}, TypeError),
    ],
)
def test_table_that_would_never_match_is_refused_by_name(arguments, error):
    """Where it was written, and not when the connection ends."""
    (name,) = arguments
    with pytest.raises(error, match=rf"^{name}\b"):
        RetryPolicy(**arguments)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_verdict_has_a_wait_that_ends(seconds):
    """And that is not before now."""
    with pytest.raises(ValueError, match="0 to a year"):
        retry_after(seconds)


def test_verdict_is_what_it_says():
    """A wait of none is the policy's own; a wait is a number; who gives up does not wait."""
    assert retry_after(0) == RETRY
    assert [repr(found) for found in (RETRY, GIVE_UP, retry_after(2.5))] == [
        "RETRY",
        "GIVE_UP",
        "retry_after(2.5)",
    ]
    for nonsense in ("5", None, True):
        with pytest.raises(TypeError):
            retry_after(nonsense)
    with pytest.raises(ValueError, match="no wait"):
        Verdict(after=1.0, gives_up=True)


def test_public_names_are_these():
    """A policy is written with `wsframe` alone."""
    assert wsframe.RetryPolicy is RetryPolicy
    assert (wsframe.RETRY, wsframe.GIVE_UP, wsframe.retry_after(0)) == (RETRY, GIVE_UP, RETRY)


# ---------------------------------------------------------------- Retry-After


def asked(*headers, policy=DEFAULT, wall_now=WALL):
    """Return the seconds that the headers of a 503 make a client wait at the least."""
    found = verdict(refused(503, *headers), policy, wall_now)
    assert not found.gives_up
    return found.after


IN_100_SECONDS = [
    "Sun, 01 Mar 2026 12:01:40 GMT",
    "Sunday, 01-Mar-26 12:01:40 GMT",  # RFC 850
    "Sun Mar  1 12:01:40 2026",  # asctime()
    formatdate(WALL + 100, usegmt=True),
    format_datetime(datetime.fromtimestamp(WALL + 100, UTC), usegmt=True),
    format_datetime(datetime.fromtimestamp(WALL + 100, UTC)),
]


@pytest.mark.parametrize("value", ["100", "0100", *dict.fromkeys(IN_100_SECONDS)])
@pytest.mark.parametrize("name", ["Retry-After", "retry-after"])
def test_retry_after_in_every_form(name, value):
    """Seconds, or a date in the three forms of RFC 9110 §5.6.7; a proxy's as a server's."""
    assert asked((name, value)) == 100
    assert verdict(proxy_refused(503, (name, value))).after == 100


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 504])
def test_retry_after_holds_for_every_status_that_is_retried(status):
    assert verdict(refused(status, ("Retry-After", "7"))) == retry_after(7)


def test_retry_after_date_is_compared_with_the_servers_own():
    """So that a wrong clock here does not matter."""
    headers = [("Retry-After", IN_100_SECONDS[0]), ("Date", "Sun, 01 Mar 2026 12:01:10 GMT")]
    for wall_now in (0.0, WALL, WALL + 10**6):
        assert asked(*headers, wall_now=wall_now) == 30
        assert asked(*reversed(headers), wall_now=wall_now) == 30
    assert asked(headers[0], ("Date", "yesterday")) == 100


@pytest.mark.parametrize(
    "value", ["0", "Sun, 01 Mar 2026 11:59:00 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_retry_after_that_is_past_asks_for_nothing(value):
    assert asked(("Retry-After", value)) == 0


@pytest.mark.parametrize(
    "value",
    [
        "3601",
        "99999999999",
        "9" * 5000,
        "Sun, 01 Mar 2027 12:00:00 GMT",
        "Fri Dec 31 23:59:59 9999",
    ],
)
def test_retry_after_is_bounded(value):
    """A mistake of the server keeps nobody away for ever."""
    assert asked(("Retry-After", value)) == 3600
    assert asked(("Retry-After", value), policy=RetryPolicy(max_retry_after=10)) == 10


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-5",
        "+5",
        "5.5",
        "5 s",
        "1e3",
        "0x10",
        "\u0665",  # a digit to Python, and to no server
        "\u00b2",
        "soon",
        "Sun",
        "Sun, 32 Mar 2026 12:00:00 GMT",
        "Sun, 01 Mar 2026 25:00:00 GMT",
        "Sun, 01 Mar 99999 12:00:00 GMT",
        "Sun, 01 Mar 2026 12:01:40 +999999999999999999999",
        "2026-03-01T12:01:40Z",
        "01 Mar 2026 12:01:40 GMT",
    ],
)
def test_retry_after_that_is_malformed_is_ignored(value):
    assert asked(("Retry-After", value)) == 0
    assert asked(("Retry-After", value), ("Retry-After", "9")) == 9


def test_longest_of_several_retry_after_holds():
    """A server and a proxy before it may both have said something."""
    assert asked(("Retry-After", "3"), ("Retry-After", "9"), ("Retry-After", "5")) == 9
    both = [("Retry-After", "900"), ("Retry-After", IN_100_SECONDS[0])]
    assert asked(*both) == asked(*reversed(both)) == 900


def test_date_means_utc_wherever_this_machine_is(monkeypatch):
    """That of asctime() names no zone."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "XXX-09")
        time.tzset()
        found = [asked(("Retry-After", value)) for value in IN_100_SECONDS]
    time.tzset()
    assert set(found) == {100}


DATE_LIKE = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "Sun, ", "Sunday, ", "Sun "]),
    st.text(string.digits + " :-+,.()" + "MarGT", max_size=40),
    st.sampled_from(["", " GMT", " 2026", " -0000", " +9999"]),
)


@SEARCHED
@given(DATE_LIKE | st.text(max_size=40), DATE_LIKE | st.text(max_size=40))
def test_no_header_breaks_the_judgement(value, date):
    """Whatever a server sends, it is a wait within the bounds."""
    assert 0 <= asked(("Retry-After", value), ("Date", date)) <= 3600


@SEARCHED
@given(st.integers(0, 3600))
def test_date_and_seconds_mean_the_same(seconds):
    assert asked(("Retry-After", formatdate(WALL + seconds, usegmt=True))) == seconds
    assert asked(("Retry-After", str(seconds))) == seconds


# ---------------------------------------------------------------- the waits

LOST = closed(1006, None)


def counting(draw=lambda: 1.0, now=0.0, **fields):
    """Return a count whose draws are the largest, so that the bounds show."""
    return Retry(RetryPolicy(**fields), now, draw=draw)


def wait(retry, now=0.0, failure=LOST):
    """Fail, and return the seconds until the next attempt, None when it gives up."""
    return retry.failed(failure, now, WALL).delay


def test_largest_wait_grows_by_the_factor_up_to_the_cap():
    """min(first_delay * factor**(n-1), max_delay) after the nth failure."""
    retry = counting()
    expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert [wait(retry) for _ in expected] == expected


@pytest.mark.parametrize("draw", [0.0, 0.25, 1.0])
def test_wait_is_the_draw_times_the_largest(draw):
    """Full jitter: from nothing to the largest; a given draw gives a given wait."""
    retry = counting(lambda: draw)
    assert [wait(retry) for _ in range(3)] == [0.5 * draw, 1.0 * draw, 2.0 * draw]


def test_one_draw_is_made_for_each_wait():
    """So that a given sequence of draws gives a given sequence of waits."""
    draws = iter([0.1, 0.2, 0.3])
    retry = counting(lambda: next(draws), first_delay=1.0, factor=1.0)
    assert [wait(retry) for _ in range(3)] == [0.1, 0.2, 0.3]


def test_first_wait_is_capped_too():
    """A cap below the first wait holds."""
    assert wait(counting(first_delay=60.0)) == 30.0


@pytest.mark.parametrize("factor", [1.0, 1.5, 10.0])
def test_ten_thousand_failures(factor):
    """No overflow, and no wait over the cap."""
    retry = counting(factor=factor)
    assert max(wait(retry, float(now)) for now in range(10_000)) == (0.5 if factor == 1.0 else 30)
    assert retry.failures == 10_000


def test_stable_connection_forgets_the_failures():
    """Open for stable_after seconds, and the next wait is the first."""
    retry = counting()
    for _ in range(5):
        wait(retry)
    retry.opened(100.0)
    assert wait(retry, 110.0) == 0.5
    assert retry.failures == 0
    assert wait(retry, 111.0) == 1.0
    assert retry.failures == 1


def test_short_connection_is_a_failure():
    """A server that accepts and drops at once is a failing one."""
    retry = counting()
    delays = []
    for now in range(5):
        retry.opened(float(now * 10))
        delays.append(wait(retry, now * 10 + 9.9))
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert retry.failures == 5


def test_stable_connection_counts_once():
    """Failed attempts after it do not profit from its time."""
    retry = counting()
    retry.opened(0.0)
    assert [wait(retry, now) for now in (20.0, 40.0, 60.0)] == [0.5, 1, 2]


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 20), (0.5, 30), (1.0, 40)])
def test_jitter_comes_above_what_was_asked_for(draw, expected):
    """Those who are told to come back later are told the same: they are spread, and never early."""
    assert wait(counting(lambda: draw, later=20), failure=closed(1013)) == expected


def test_jitter_above_what_was_asked_for_is_bounded():
    """By the policy's own wait from below, by max_delay from above."""
    assert wait(counting(), failure=refused(503, ("Retry-After", "3600"))) == 3630
    assert wait(counting(first_delay=4.0), failure=refused(503, ("Retry-After", "1"))) == 5


def test_default_draw_spreads():
    """Two clients do not come back together."""
    retry = Retry(RetryPolicy(first_delay=30.0), 0.0)
    assert len({wait(retry) for _ in range(20)}) > 10


ROWS = [failure for _, failures in KINDS for failure in failures]
NUMBERED = [
    *(closed(code) for code in (1000, 1002, 1006, 1008, 1013, 3000, 4000)),
    *(refused(status, ("Retry-After", "100")) for status in (200, 401, 429, 503)),
    *(proxy_refused(status) for status in (403, 502)),
]
FAILURES = st.sampled_from([*ROWS, *NUMBERED])
POLICIES = st.builds(
    RetryPolicy,
    first_delay=st.floats(0.001, 100),
    factor=st.floats(1, 10),
    max_delay=st.floats(0.001, 1000),
    stable_after=st.floats(0.001, 100),
    later=st.floats(0.001, 1000),
    max_attempts=st.none() | st.integers(1, 20),
    max_elapsed=st.none() | st.floats(0.001, 1000),
)
HISTORY = st.lists(st.tuples(st.booleans(), st.floats(0, 200), FAILURES), max_size=60)


@SEARCHED
@given(POLICIES, HISTORY)
def test_wait_is_never_outside_its_bounds(policy, history):
    """With the real draw: from the floor to max_delay above it, whatever happened."""
    retry = Retry(policy, 0.0)
    now = 0.0
    for opens, seconds, failure in history:
        if opens:
            retry.opened(now)
        now += seconds
        decision = retry.failed(failure, now, WALL)
        floor = verdict(failure, policy).after
        if decision.delay is not None:
            assert floor <= decision.delay <= floor + policy.max_delay


@SEARCHED
@given(POLICIES, HISTORY)
def test_policy_without_limits_gives_up_on_final_failures_only(policy, history):
    """Whatever happened before."""
    endless = RetryPolicy(**{**vars(policy), **ENDLESS})
    retry = Retry(endless, 0.0)
    now = 0.0
    for opens, seconds, failure in history:
        if opens:
            retry.opened(now)
        now += seconds
        decision = retry.failed(failure, now, WALL)
        assert decision.gives_up == verdict(failure, endless).gives_up


# ---------------------------------------------------------------- the limits


@pytest.mark.parametrize("most", [1, 2, 5])
def test_so_many_attempts_and_no_more(most):
    """Of which each failed; the number of the next one is told."""
    retry = counting(max_attempts=most)
    decisions = [retry.failed(LOST, 0.0, WALL) for _ in range(most)]
    assert [decision.gives_up for decision in decisions] == [False] * (most - 1) + [True]
    assert [decision.attempt for decision in decisions] == list(range(2, most + 2))
    assert decisions[-1].why == f"close code 1006 was attempt {most} of at most {most}"


def test_end_of_a_stable_connection_is_no_failed_attempt():
    """One attempt at a time is allowed, and each is good: it goes on for ever."""
    retry = counting(max_attempts=1)
    for now in range(0, 1000, 100):
        retry.opened(now)
        decision = retry.failed(LOST, now + 50, WALL)
        assert (decision.delay, decision.attempt) == (0.5, 1)
    assert retry.failed(LOST, 1000.0, WALL).gives_up


def test_short_connections_use_the_attempts_up():
    """A server that flaps is not tried for ever."""
    retry = counting(max_attempts=2)
    retry.opened(0.0)
    assert wait(retry, 1.0) is not None
    retry.opened(2.0)
    assert wait(retry, 3.0) is None


def test_attempt_may_begin_at_the_end_of_the_time_and_not_later():
    """It is not waited for in vain."""
    assert wait(counting(now=100.0, max_elapsed=60), 159.5) == 0.5
    retry = counting(now=100.0, max_elapsed=60)
    decision = retry.failed(LOST, 159.6, WALL)
    assert decision.gives_up
    assert decision.why == (
        "after close code 1006 the next attempt would begin at 60.1 s of at most 60 s"
    )


def test_time_begins_anew_at_the_end_of_a_stable_connection():
    """And at the end of no other."""
    retry = counting(max_elapsed=60, first_delay=1.0, factor=1.0)
    retry.opened(50.0)
    assert wait(retry, 1000.0) == 1.0
    retry.opened(1050.0)
    assert wait(retry, 1059.0) == 1.0
    assert wait(retry, 1060.0) is None


def test_server_that_asks_for_more_time_than_is_left_is_not_waited_for():
    """The limit is the user's, and holds for what a server asks."""
    late = refused(503, ("Retry-After", "100"))
    assert wait(counting(max_elapsed=90), failure=late) is None
    assert wait(counting(lambda: 0.0, max_elapsed=100), failure=late) == 100


@SEARCHED
@given(POLICIES, HISTORY)
def test_limits_hold_whatever_happens(policy, history):
    """No attempt over the count, and none that begins too late."""
    retry = Retry(policy, 0.0)
    now = since = 0.0
    attempts = 1
    for opens, seconds, failure in history:
        began = now
        if opens:
            retry.opened(began)
        now += seconds
        decision = retry.failed(failure, now, WALL)
        if opens and now - began >= policy.stable_after:
            attempts, since = 0, now
        attempts += 1
        assert decision.attempt == attempts
        if decision.delay is None:
            break
        assert policy.max_attempts is None or attempts <= policy.max_attempts
        now += decision.delay
        assert policy.max_elapsed is None or now - since <= policy.max_elapsed + 1e-9


@SEARCHED
@given(POLICIES, HISTORY, st.integers(0, 2**32))
def test_same_draws_give_the_same_decisions(policy, history, seed):
    """Nothing else is drawn, and no clock is looked at."""
    import random

    assume(history)

    def run():
        retry = Retry(policy, 0.0, draw=random.Random(seed).random)
        return [retry.failed(failure, 0.0, WALL) for _, _, failure in history]

    assert run() == run()


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (closed(1008), "close code 1008 is not retried"),
        (closed(1012), "close code 1012 is retried"),
        (closed(1013), "close code 1013 is retried after 30 s or more"),
        (refused(401), "HandshakeRefused with status 401 is not retried"),
        (proxy_refused(502), "ProxyRefused with status 502 is retried"),
        (ProxyRefused("x", **PROXY, code=2), "ProxyRefused with SOCKS code 2 is not retried"),
        (TLSFailed("x", certificate=True), "TLSFailed for the certificate is not retried"),
        (TLSFailed("x"), "TLSFailed is retried"),
    ],
)
def test_decision_says_why(failure, why):
    """In kinds and numbers."""
    assert counting().failed(failure, 0.0, WALL).why == why


def test_decision_repeats_nothing_that_was_said_to_us():
    """Reasons and bodies may hold secrets, or a terminal's commands."""
    failures = [
        ConnectionClosed.of(4000, "planted", by="remote", clean=True),
        HandshakeRefused(503, "planted", (("Retry-After", "planted"),), b"planted"),
        ValueError("planted"),
        proxy_refused(403, ("X", "planted")),
    ]
    for failure in failures:
        assert "planted" not in repr(counting().failed(failure, 0.0, WALL))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], GIVE_UP),
        ([proxy_refused(403)], GIVE_UP),
        ([proxy_refused(503)], RETRY),
        (
            [proxy_refused(503, ("Retry-After", "9")), proxy_refused(503, ("Retry-After", "4"))],
            retry_after(4),
        ),
    ],
)
def test_of_several_ways_one_that_may_be_open_again_is_enough(others, expected):
    """A list of proxies: the last was final, an earlier one was down for a moment."""
    failure = proxy_refused(403)
    failure.others = tuple(others)
    assert verdict(failure) == expected
