"""The monotonic clock beside a reactor, and the watch over its loop."""

import subprocess
import sys
import time

import pytest
from twisted.internet.task import Clock
from twisted.python.runtime import seconds as wall_seconds

from wsframe.clock import LoopWatch, loop_watch, monotonic_clock, use_monotonic_clock


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


JUMPS = """
import sys, time
real, step = time.time, 0.0
time.time = lambda: real() + step  # what Twisted takes for its clock when it is imported

from twisted.internet import reactor
from wsframe.clock import use_monotonic_clock

fired = []
reactor.callLater(0.05, fired.append, "before")
reactor.callLater(3600, fired.append, "in an hour")
if sys.argv[1] == "monotonic":
    use_monotonic_clock(reactor)
    use_monotonic_clock(reactor)
reactor.callLater(0.1, fired.append, "after")
step = float(sys.argv[2])

end = time.monotonic() + 0.5
while time.monotonic() < end:
    reactor.runUntilCurrent()
    time.sleep(0.01)
print(*fired, sep=", ")
"""


@pytest.mark.parametrize(
    ("clock", "step", "fired"),
    [
        ("monotonic", 7200, "before, after"),
        ("monotonic", -7200, "before, after"),
        ("wall", 7200, "before, after, in an hour"),
        ("wall", -7200, ""),
    ],
)
def test_timers_run_on_while_the_system_clock_is_set(clock: str, step: int, fired: str) -> None:
    """As they come, Twisted's stand still, or all fire."""
    done = subprocess.run(
        [sys.executable, "-c", JUMPS, clock, str(step)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == fired


def test_reactor_with_a_clock_of_its_own_keeps_it() -> None:
    clock = Clock()
    own = clock.seconds
    use_monotonic_clock(clock)
    assert clock.seconds == own
