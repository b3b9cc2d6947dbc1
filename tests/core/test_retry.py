"""Backoff: its bounds, what resets it, and that it lasts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.retry import Backoff

SEARCHED = settings(max_examples=100, deadline=None, database=None)


def backoff(draw=lambda: 1.0, **options):
    """Return a backoff whose draws are the largest, so that the bounds show."""
    return Backoff(
        **{"first": 0.5, "factor": 2.0, "cap": 30.0, "stable_after": 10.0, **options}, draw=draw
    )


def test_largest_wait_grows_by_the_factor_up_to_the_cap():
    """min(first * factor**(n-1), cap) after the nth failure."""
    waits = backoff()
    expected = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert [waits.next_delay(0.0) for _ in expected] == expected


@pytest.mark.parametrize("draw", [0.0, 0.25, 1.0])
def test_wait_is_the_draw_times_the_largest(draw):
    """Full jitter: from nothing to the largest; a given draw gives a given wait."""
    waits = backoff(lambda: draw)
    assert [waits.next_delay(0.0) for _ in range(3)] == [0.5 * draw, 1.0 * draw, 2.0 * draw]


def test_one_draw_is_made_for_each_wait():
    """So that a given sequence of draws gives a given sequence of waits."""
    draws = iter([0.1, 0.2, 0.3])
    waits = backoff(lambda: next(draws), first=1.0, factor=1.0)
    assert [waits.next_delay(0.0) for _ in range(3)] == [0.1, 0.2, 0.3]


def test_first_wait_is_capped_too():
    """A cap below the first wait holds."""
    assert backoff(first=60.0).next_delay(0.0) == 30.0


@pytest.mark.parametrize("factor", [1.0, 1.5, 10.0])
def test_ten_thousand_failures(factor):
    """No overflow, and no wait over the cap."""
    waits = backoff(factor=factor)
    delays = [waits.next_delay(float(now)) for now in range(10_000)]
    assert max(delays) == (0.5 if factor == 1.0 else 30.0)
    assert waits.failures == 10_000


def test_stable_connection_forgets_the_failures():
    """Open for stable_after seconds, and the next failure is the first."""
    waits = backoff()
    for _ in range(5):
        waits.next_delay(0.0)
    waits.opened(100.0)
    assert waits.next_delay(110.0) == 0.5
    assert waits.failures == 1
    assert waits.next_delay(111.0) == 1.0


def test_short_connection_is_a_failure():
    """A server that accepts and drops at once is a failing one."""
    waits = backoff()
    delays = []
    for now in range(5):
        waits.opened(float(now * 10))
        delays.append(waits.next_delay(now * 10 + 9.9))
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_stable_connection_counts_once():
    """Failed attempts after it do not profit from its time."""
    waits = backoff()
    waits.opened(0.0)
    assert [waits.next_delay(20.0), waits.next_delay(40.0), waits.next_delay(60.0)] == [0.5, 1, 2]


@SEARCHED
@given(
    st.floats(0.001, 100),
    st.floats(1, 10),
    st.floats(0.001, 1000),
    st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60),
)
def test_wait_is_never_outside_its_bounds(first, factor, cap, history):
    """With the real draw: from zero to the cap, whatever happened."""
    waits = Backoff(first=first, factor=factor, cap=cap, stable_after=10.0)
    now = 0.0
    for opens, seconds in history:
        if opens:
            waits.opened(now)
        now += seconds
        assert 0.0 <= waits.next_delay(now) <= cap


def test_default_draw_spreads():
    """Two clients do not come back together."""
    waits = [backoff(first=30.0), Backoff(first=30.0, factor=2.0, cap=30.0, stable_after=10.0)]
    assert len({waits[1].next_delay(0.0) for _ in range(20)}) > 10
