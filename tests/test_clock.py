"""The monotonic clock beside a reactor, and the watch over its loop."""

import time

import pytest
from twisted.internet.task import Clock
from twisted.python.runtime import seconds as wall_seconds

from wsframe.clock import LoopWatch, loop_watch, monotonic_clock


class WallReactor:
    """A reactor whose clock is the system's, as Twisted's are."""

    def __init__(self, seconds):
        self.seconds = seconds


@pytest.mark.parametrize("wall", [wall_seconds, time.time])
def test_wall_time_is_not_trusted(wall):
    """Where a reactor tells wall time we ask the system's monotonic clock."""
    assert monotonic_clock(WallReactor(wall)) is time.monotonic


def test_a_clock_of_its_own_is_taken_at_its_word():
    """A test's, or a monotonic reactor's."""
    clock = Clock()
    clock.advance(42)
    assert monotonic_clock(clock)() == 42


def test_each_reactor_has_one_watch():
    """Shared by all its connections; a test's clock has another one."""
    one, other = Clock(), Clock()
    assert loop_watch(one) is loop_watch(one)
    assert loop_watch(one) is not loop_watch(other)


def test_a_watch_begins_with_nothing():
    """No block, no seconds."""
    watch = LoopWatch()
    assert (watch.count, watch.last, watch.longest) == (0, 0.0, 0.0)


def test_a_busy_loop_is_not_a_blocked_one(logged):
    """A timer is always a little late."""
    watch = LoopWatch()
    watch.late(100.0, 100.9)
    assert watch.count == 0
    assert "blocked" not in logged()


def test_many_late_timers_are_one_block(logged):
    """Ten thousand connections write one line."""
    watch = LoopWatch()
    for number in range(10_000):
        watch.late(100.0 + number / 1000, 130.0 + number / 100_000)
    assert (watch.count, watch.last, watch.longest) == (1, 30.0, 30.0)
    assert logged().count("The event loop was blocked for at least 30.0 s") == 1


def test_the_longest_block_is_kept(logged):
    """The last one, too."""
    watch = LoopWatch()
    watch.late(100.0, 105.0)
    watch.late(200.0, 202.0)
    assert (watch.count, watch.last, watch.longest) == (2, 2.0, 5.0)
    assert logged().count("was blocked") == 2


def test_a_loop_that_is_always_blocked_says_so_once_a_minute(logged):
    """And how often it was."""
    watch = LoopWatch()
    for number in range(40):
        watch.late(100.0 + 2 * number, 101.9 + 2 * number)
    assert watch.count == 40
    assert logged().count("was blocked") == 2
    assert "(29 more times since the last such line)" in logged()
