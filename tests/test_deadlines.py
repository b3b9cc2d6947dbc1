"""One delayed call for all deadlines: exact where they are few, gathered where they are many."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from wsframe.clock import loop_watch
from wsframe.deadlines import GATHER, MANY, PARTS, Deadlines, deadlines_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(clock)


def test_few_are_kept_to_the_moment_and_in_order(clock: Clock, deadlines: Deadlines) -> None:
    told: list[tuple[str, float]] = []

    def tell(name: str) -> Callable[[], None]:
        return lambda: told.append((name, clock.seconds()))

    for name, when in (("c", 3.25), ("a", 1.25), ("b", 2.5), ("also b", 2.5)):
        deadlines.call_at(when, tell(name))
    clock.pump([0.125] * 40)

    assert told == [("a", 1.25), ("b", 2.5), ("also b", 2.5), ("c", 3.25)]


def test_there_is_one_delayed_call_and_none_when_nothing_is_to_come(
    clock: Clock, deadlines: Deadlines
) -> None:
    made = [deadlines.call_later(delay, lambda: None) for delay in range(1, 500)]
    assert len(clock.getDelayedCalls()) == 1
    assert len(deadlines) == len(made)
    for deadline in made:
        deadline.cancel()
    assert clock.getDelayedCalls() == []
    assert len(deadlines) == 0


def test_an_earlier_one_comes_first_though_it_was_added_later(
    clock: Clock, deadlines: Deadlines
) -> None:
    told: list[str] = []
    deadlines.call_later(10, lambda: told.append("late"))
    deadlines.call_later(1, lambda: told.append("early"))
    clock.advance(1)
    assert told == ["early"]


def test_what_is_called_off_does_not_come(clock: Clock, deadlines: Deadlines) -> None:
    """Also not when another, due in the same moment, calls it off."""
    told: list[str] = []
    deadlines.call_at(1, lambda: [each.cancel() for each in (later,)])
    later = deadlines.call_at(1, lambda: told.append("called off"))
    last = deadlines.call_at(1, lambda: told.append("last"))
    clock.advance(1)
    last.cancel()  # it is over: nothing happens
    assert told == ["last"]
    assert [later.active(), last.active()] == [False, False]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, GeneratorExit])
def test_one_that_fails_is_logged_and_the_others_have_theirs(
    clock: Clock,
    deadlines: Deadlines,
    logged: Callable[[], str],
    error: type[BaseException],
) -> None:
    """A reactor survives whatever its calls raise, and so do the deadlines behind one of them."""
    told: list[str] = []

    def fail() -> None:
        raise error

    deadlines.call_at(1, fail)
    deadlines.call_at(1, lambda: told.append("next"))
    deadlines.call_at(2, lambda: told.append("later"))
    clock.advance(1)
    assert told == ["next"]
    deadlines.call_at(1.5, lambda: told.append("added afterwards"))
    clock.pump([0.5, 0.5])
    assert told == ["next", "added afterwards", "later"]
    assert error.__name__ in logged()


def test_what_is_due_at_once_comes_in_the_next_turn(clock: Clock, deadlines: Deadlines) -> None:
    """Between two of them the loop reads from the transports."""
    told: list[str] = []

    def first() -> None:
        told.append("first")
        deadlines.call_at(clock.seconds(), lambda: told.append("second"))
        clock.callLater(0, told.append, "between")

    deadlines.call_at(1, first)
    clock.advance(1)
    assert told == ["first", "between", "second"]


def test_many_that_are_due_together_come_in_parts_and_within_half_a_second(
    clock: Clock, deadlines: Deadlines
) -> None:
    """So many connections that opened in one moment do not ping in one moment."""
    count = 10_000
    told: list[float] = []
    for _ in range(count):
        deadlines.call_at(20, lambda: told.append(clock.seconds()))
    clock.advance(20)
    assert len(told) == count // PARTS
    clock.pump([GATHER] * PARTS)
    assert len(told) == count
    assert min(told) >= 20
    assert max(told) <= 20.5
    assert loop_watch(clock).count == 0


def test_many_that_are_due_one_after_the_other_share_a_wake_up(
    clock: Clock, deadlines: Deadlines
) -> None:
    """None of them early, and none later than the wake-ups are apart."""
    count = 10 * MANY
    late: list[float] = []
    for number in range(count):
        when = 1 + number / count
        deadlines.call_at(when, lambda when=when: late.append(clock.seconds() - when))  # type: ignore[misc]
    deadlines.call_at(50, lambda: None)
    for _ in range(2 * MANY):
        deadlines.call_at(100, lambda: None)  # they stay many until the end
    wakes = 0
    while len(late) < count:
        (call,) = clock.getDelayedCalls()
        clock.advance(call.getTime() - clock.seconds())
        wakes += 1
    assert wakes <= 1 / GATHER + 2
    assert min(late) >= 0
    assert max(late) <= GATHER + 1e-6


def test_those_that_are_added_put_off_none_that_are_due_before(
    clock: Clock, deadlines: Deadlines
) -> None:
    """Where many are added all the time, each of them to come soon."""
    for _ in range(2 * MANY):
        deadlines.call_at(1000, lambda: None)
    late: list[float] = []
    for _ in range(200):
        when = clock.seconds() + 0.75 * GATHER
        deadlines.call_at(when, lambda when=when: late.append(clock.seconds() - when))  # type: ignore[misc]
        clock.advance(GATHER / 5)
    assert len(late) > 190
    assert min(late) >= 0
    assert max(late) <= GATHER + 1e-6


def test_a_wake_up_that_was_late_is_told_to_the_watch(clock: Clock, deadlines: Deadlines) -> None:
    deadlines.call_at(1, lambda: None)
    clock.advance(8)
    assert loop_watch(clock).last == 7


def test_what_was_called_off_is_forgotten_before_it_is_most_of_all(deadlines: Deadlines) -> None:
    """A server that opens and ends connections all day arms a wait of seconds for each."""
    kept = [deadlines.call_at(1000, lambda: None) for _ in range(10)]
    for _ in range(10_000):
        deadlines.call_at(500, lambda: None).cancel()
    assert len(deadlines._heap) <= 2 * len(kept) + MANY + 1
    assert len(deadlines) == len(kept)


def test_all_connections_of_a_reactor_share_theirs_and_nobody_keeps_the_reactor() -> None:
    one, other = Clock(), Clock()
    of_one, of_other = deadlines_of(one), deadlines_of(other)
    assert deadlines_of(one) is of_one
    assert of_one is not of_other
    gone = weakref.ref(one)
    del one, of_one
    gc.collect()
    assert gone() is None
