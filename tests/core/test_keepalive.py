"""The keepalive, with a clock that only the tests move."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.keepalive import Action, Keepalive

SEARCHED = settings(max_examples=200, deadline=None, database=None)


class Run:
    """A connection's keepalive and a clock; timers fire at the deadline, or late by `late`."""

    def __init__(self, interval=20.0, timeout=20.0, now=1000.0):
        self.now = now
        self.keepalive = Keepalive(interval, timeout)
        self.keepalive.start(now)

    def wake(self, late=0.0):
        """Go on to the deadline, and `late` seconds further; return the action."""
        assert self.keepalive.deadline is not None
        self.now = max(self.now, self.keepalive.deadline) + late
        return self.keepalive.wake(self.now)

    def silence(self, late=0.0, most=50):
        """Wake until the peer is given up; return the actions before."""
        actions = []
        while (action := self.wake(late)) is not Action.GIVE_UP:
            actions.append(action)
            assert len(actions) < most
        return actions


def test_first_ping_is_due_after_the_interval():
    """Not before."""
    run = Run(interval=20.0)
    assert run.keepalive.deadline == 1020.0
    assert run.keepalive.wake(1019.9) is Action.NOTHING
    assert run.keepalive.wake(1020.0) is Action.PING


def test_pong_gives_the_latency_and_the_next_deadline():
    """The next ping is an interval after the answer."""
    run = Run()
    run.wake()
    assert run.keepalive.ponged(run.now + 0.25) == 0.25
    assert run.keepalive.latency == 0.25
    assert run.keepalive.deadline == run.now + 0.25 + 20.0
    assert run.wake() is Action.PING


def test_latency_is_none_before_the_first_pong():
    """Nothing is made up."""
    run = Run()
    run.wake()
    assert run.keepalive.latency is None


@pytest.mark.parametrize(("interval", "timeout"), [(20.0, 20.0), (5.0, 1.0), (0.3, 0.7)])
def test_dead_peer_is_found_within_interval_and_timeout(interval, timeout):
    """One ping, then silence."""
    run = Run(interval, timeout)
    assert run.silence().count(Action.PING) == 1
    assert run.now - 1000.0 == pytest.approx(interval + timeout)


def test_peer_that_was_given_up_is_not_waited_for():
    """The deadline is gone, whatever comes later."""
    run = Run()
    run.silence()
    run.keepalive.ponged(run.now)
    assert run.keepalive.deadline is None
    assert run.keepalive.wake(run.now + 1e6) is Action.NOTHING


def test_traffic_keeps_a_peer_alive_whose_pong_waits():
    """A long message is a sign of life for as long as its bytes come, and no longer."""
    run = Run(20.0, 20.0)
    run.wake()
    heard = run.now
    for _ in range(50):
        heard += 15.0
        while run.keepalive.deadline <= heard:
            assert run.wake() is Action.NOTHING
        run.keepalive.received(heard)
    assert set(run.silence()) == {Action.NOTHING}
    assert run.now == pytest.approx(heard + 20.0)


def test_traffic_before_the_ping_does_not_answer_it():
    """Silence is counted from the ping on."""
    run = Run()
    run.keepalive.received(1019.0)
    run.silence()
    assert run.now == pytest.approx(1040.0)


def test_excuse_gives_the_peer_its_time_again():
    """While reading was paused nothing could be heard."""
    run = Run()
    run.wake()
    for _ in range(20):
        run.now = run.keepalive.deadline
        run.keepalive.excuse(run.now)
        assert run.keepalive.wake(run.now) is Action.NOTHING
    excused = run.now
    run.silence()
    assert run.now == pytest.approx(excused + 20.0)


def test_suspended_while_idle_pings_first():
    """After an hour's sleep nobody is given up before a ping had its time."""
    run = Run()
    assert run.wake(late=3600.0) is Action.PING
    woken = run.now
    run.silence()
    assert run.now == pytest.approx(woken + 20.0)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_suspended_while_a_ping_is_out_pings_again(steps):
    """At any moment of the wait: a ping is sent, and its whole timeout waited for."""
    run = Run()
    assert run.wake() is Action.PING
    for _ in range(steps):
        assert run.wake() is Action.NOTHING
    assert run.wake(late=3600.0) is Action.PING
    woken = run.now
    assert set(run.silence()) == {Action.NOTHING}
    assert run.now == pytest.approx(woken + 20.0)


def test_suspended_connection_that_answers_goes_on():
    """The pong to the second ping is as good as any."""
    run = Run()
    run.wake()
    run.wake(late=3600.0)
    assert run.keepalive.ponged(run.now + 0.5) == 0.5
    assert run.wake() is Action.PING


def test_suspended_often_pings_again_each_time_the_peer_was_heard():
    """Between two sleeps the peer was alive."""
    run = Run()
    run.wake()
    for _ in range(5):
        assert run.wake(late=3600.0) is Action.PING
        run.keepalive.received(run.now + 1.0)


def test_blocked_loop_costs_one_step_of_the_wait():
    """Late by less than a step: what is unread may be the pong, and there is time to read it."""
    run = Run(20.0, 20.0)
    run.wake()
    run.wake()
    run.wake()
    assert run.wake(late=4.9) is Action.NOTHING
    assert run.keepalive.deadline == run.now + 5.0


def test_loop_that_is_always_late_still_finds_the_dead():
    """The second ping is the last; the wait ends even when every wake-up is late."""
    run = Run()
    assert run.silence(late=60.0).count(Action.PING) == 2


def test_new_ping_may_be_repeated_once_more():
    """What one ping was granted does not count against the next."""
    run = Run()
    for _ in range(3):
        assert run.wake() is Action.PING
        assert run.wake(late=60.0) is Action.PING
        run.keepalive.ponged(run.now)


def test_without_interval_nothing_is_sent():
    """An interval of None switches it off."""
    keepalive = Keepalive(None, 20.0)
    keepalive.start(0.0)
    assert keepalive.deadline is None
    assert keepalive.wake(1e9) is Action.NOTHING
    keepalive.ponged(1.0)
    assert keepalive.deadline is None


def test_without_timeout_a_pong_is_waited_for_for_ever():
    """A timeout of None never gives up, and sends no second ping."""
    run = Run(20.0, None)
    assert run.wake() is Action.PING
    assert run.keepalive.deadline is None
    assert run.keepalive.wake(1e9) is Action.NOTHING
    run.keepalive.ponged(2000.0)
    assert run.keepalive.deadline == 2020.0


def test_pong_after_the_end_begins_nothing():
    """After a Close frame no ping may be sent (RFC 6455 §5.5.1), and no timer is left."""
    run = Run()
    run.wake()
    run.keepalive.stop()
    assert run.keepalive.ponged(run.now + 0.5) == 0.5
    assert run.keepalive.deadline is None
    assert run.keepalive.wake(1e9) is Action.NOTHING


def test_clock_that_steps_back_gives_no_negative_latency():
    """Even a monotonic clock may give the same time twice; less than nothing is never shown."""
    run = Run()
    run.wake()
    assert run.keepalive.ponged(run.now - 5.0) == 0.0


EVENTS = st.lists(
    st.tuples(st.sampled_from(["wake", "late", "received", "ponged", "excuse"]), st.floats(0, 100)),
    max_size=40,
)


@SEARCHED
@given(EVENTS)
def test_any_history_ends_in_time_and_never_without_a_ping(events):
    """A peer is given up only after a whole timeout of silence behind a ping, and then it is."""
    run = Run(20.0, 20.0)
    last_sign, pinged = run.now, None
    for name, seconds in events:
        if name in {"wake", "late"}:
            action = run.wake(seconds if name == "late" else 0.0)
            if action is Action.PING:
                pinged = run.now
            if action is Action.GIVE_UP:
                assert pinged is not None
                assert run.now - max(pinged, last_sign) >= 20.0 - 1e-6
                return
            assert run.keepalive.deadline > run.now
        else:
            run.now += min(seconds, 4.0)
            last_sign = run.now
            getattr(run.keepalive, name)(run.now)
            if name == "ponged":
                pinged = None
    run.silence()
    assert math.isfinite(run.now)
    assert run.now <= max(last_sign, pinged or 0.0, 1000.0) + 40.0 + 100.0 * len(events) + 1e-6
