"""The keepalive, with a clock that only the tests move."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.keepalive import Action, Keepalive, RoundTrip

SEARCHED = settings(max_examples=200, deadline=None, database=None)
ENDS = {
    Action.PEER_SILENT,
    Action.PONG_OVERDUE,
    Action.NO_MESSAGE,
    Action.SENDING_STUCK,
}


class Run:
    """A connection's keepalive and a clock; timers fire at the deadline, or late by `late`."""

    def __init__(self, interval=20.0, timeout=20.0, now=1000.0, **timeouts):
        self.now = now
        self.keepalive = Keepalive(interval, timeout, **timeouts)
        self.keepalive.start(now)

    def wake(self, late=0.0):
        """Go on to the deadline, and `late` seconds further; return the action."""
        assert self.keepalive.deadline is not None
        self.now = max(self.now, self.keepalive.deadline) + late
        return self.keepalive.wake(self.now)

    def silence(self, late=0.0, most=50, end=Action.PEER_SILENT):
        """Wake until the peer is given up; return the actions before."""
        actions = []
        while (action := self.wake(late)) not in ENDS:
            actions.append(action)
            assert len(actions) < most
        assert action is end
        return actions

    def until(self, now):
        """Wake up to that time, and go on to it; return what was to be done."""
        actions = []
        while self.keepalive.deadline is not None and self.keepalive.deadline <= now:
            actions.append(self.wake())
        self.now = now
        return [action for action in actions if action is not Action.NOTHING]

    def happens(self, name):
        """Tell the keepalive, now, what its method of that name, or "received", stands for."""
        if name == "received":
            self.keepalive.heard = self.now
        else:
            getattr(self.keepalive, name)(self.now)


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
    assert run.keepalive.round_trip.last == 0.25
    assert run.keepalive.deadline == run.now + 0.25 + 20.0
    assert run.wake() is Action.PING


def test_latency_is_none_before_the_first_pong():
    """Nothing is made up."""
    run = Run()
    run.wake()
    assert run.keepalive.round_trip.last is None


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
        run.keepalive.heard = heard
    assert set(run.silence()) == {Action.NOTHING}
    assert run.now == pytest.approx(heard + 20.0)


def test_traffic_before_the_ping_does_not_answer_it():
    """Silence is counted from the ping on."""
    run = Run()
    run.keepalive.heard = 1019.0
    run.silence()
    assert run.now == pytest.approx(1040.0)


@pytest.mark.parametrize("pinged", [False, True])
def test_peer_that_is_not_listened_to_is_pinged_and_not_given_up(pinged):
    """While reading is paused nothing can be heard; then the peer has its whole time again."""
    run = Run(20.0, 20.0, pong_timeout=30.0)
    if pinged:
        run.wake()
    run.keepalive.reading_paused(run.now)
    paused = run.now
    assert run.until(paused + 1000.0) == [Action.PING] * 50
    run.keepalive.reading_resumed(run.now)
    run.silence()
    assert run.now == pytest.approx(paused + 1020.0)


def test_reading_that_was_not_paused_can_be_resumed():
    """A connection may open while its reading is paused."""
    run = Run()
    run.keepalive.reading_resumed(run.now + 10.0)
    assert run.keepalive.deadline == run.now + 20.0


def test_pong_that_had_to_wait_for_us_is_no_sample():
    """It tells how long the application paused."""
    run = Run()
    run.wake()
    run.keepalive.reading_paused(run.now)
    run.keepalive.reading_resumed(run.now + 100.0)
    assert run.keepalive.ponged(run.now + 100.0) is None
    assert run.keepalive.round_trip.last is None
    assert run.keepalive.deadline == run.now + 120.0


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
        run.keepalive.heard = run.now + 1.0


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


def test_without_timeout_pings_go_on_and_nobody_is_given_up():
    """They keep the connection in the memory of what is on the way."""
    run = Run(20.0, None)
    assert run.until(1100.0) == [Action.PING] * 5
    assert run.keepalive.ponged(1101.0) == 1.0
    assert run.keepalive.deadline == 1121.0


def test_pings_do_not_pile_up_behind_what_waits():
    """One in the queue says as much as a hundred."""
    run = Run(20.0, None)
    run.keepalive.sending_blocked(run.now)
    assert run.until(2000.0) == [Action.PING]
    run.keepalive.sending_resumed(run.now)
    assert run.until(2020.0) == [Action.PING]


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


# ------------------------------------------------------------------ round trips


def test_round_trips_are_smoothed_as_tcp_does_it():
    """RFC 6298 §2: the first as it is, with half of it for the variation; then 1/8 and 1/4."""
    trips = RoundTrip()
    assert (trips.last, trips.smoothed, trips.variation) == (None, None, None)
    trips.sample(0.8)
    assert (trips.last, trips.smoothed, trips.variation) == (0.8, 0.8, 0.4)
    trips.sample(1.6)
    assert trips.last == 1.6
    assert trips.variation == pytest.approx(0.75 * 0.4 + 0.25 * 0.8)
    assert trips.smoothed == pytest.approx(0.9)


@SEARCHED
@given(st.lists(st.floats(0, 1000), min_size=1))
def test_smoothed_round_trip_is_between_the_shortest_and_the_longest(samples):
    """Whatever was measured."""
    trips = RoundTrip()
    for sample in samples:
        trips.sample(sample)
    assert min(samples) - 1e-6 <= trips.smoothed <= max(samples) + 1e-6
    assert 0 <= trips.variation <= max(samples) + 1e-6


# ------------------------------------------------------------------ the other waits


def stream(run, seconds):
    """Receive some bytes every second, for so long."""
    for _ in range(round(seconds)):
        assert run.until(run.now + 1.0) == []
        run.keepalive.heard = run.now


def test_pong_that_never_comes_ends_a_connection_whose_bytes_flow():
    """Only where that was asked for."""
    run = Run(20.0, 20.0, pong_timeout=60.0)
    run.wake()
    stream(run, 59)
    run.silence(end=Action.PONG_OVERDUE)
    assert run.now == pytest.approx(1080.0)


def test_pong_in_time_is_not_overdue():
    """And the next one has its own time."""
    run = Run(20.0, 20.0, pong_timeout=60.0)
    for _ in range(20):
        assert run.wake() is Action.PING
        stream(run, 59)
        run.keepalive.ponged(run.now)


def test_time_in_which_we_did_not_listen_does_not_make_a_pong_overdue():
    """It may have been there all the time."""
    run = Run(20.0, 20.0, pong_timeout=60.0)
    run.wake()
    stream(run, 50)
    run.keepalive.reading_paused(run.now)
    run.until(run.now + 1000.0)
    run.keepalive.reading_resumed(run.now)
    stream(run, 9)
    run.silence(end=Action.PONG_OVERDUE)
    assert run.now == pytest.approx(2080.0)


def test_application_that_hears_nothing_is_told():
    """Pongs, and bytes of a message that is never complete, are none."""
    run = Run(20.0, 20.0, message_timeout=100.0)
    run.now = 1050.0
    run.keepalive.heard = run.now
    run.keepalive.message()
    while run.now < 1149.0:
        run.now += 1.0
        assert run.keepalive.wake(run.now) in {Action.NOTHING, Action.PING}
        run.keepalive.ponged(run.now)
        run.keepalive.heard = run.now
    run.silence(end=Action.NO_MESSAGE)
    assert run.now == pytest.approx(1150.0)


def test_messages_are_waited_for_without_pings():
    """The one does not need the other."""
    run = Run(None, None, message_timeout=100.0)
    assert set(run.silence(end=Action.NO_MESSAGE)) == {Action.NOTHING}
    assert run.now == pytest.approx(1100.0)


def test_time_in_which_the_application_paused_is_none_without_messages():
    """It would not have heard any."""
    run = Run(None, None, message_timeout=100.0)
    run.until(1090.0)
    run.keepalive.reading_paused(run.now)
    assert run.until(5090.0) == []
    run.keepalive.reading_resumed(run.now)
    run.silence(end=Action.NO_MESSAGE)
    assert run.now == pytest.approx(5100.0)


def test_blocked_loop_does_not_end_the_wait_for_messages():
    """What came meanwhile is still unread."""
    run = Run(None, None, message_timeout=100.0)
    assert run.wake(late=400.0) is Action.NOTHING
    run.keepalive.heard = run.now
    run.keepalive.message()
    heard = run.now
    run.silence(end=Action.NO_MESSAGE)
    assert run.now == pytest.approx(heard + 100.0)


def test_peer_that_takes_nothing_is_given_up():
    """However much it sends, and whether we listen or not."""
    run = Run(20.0, 20.0, write_timeout=60.0)
    run.now = 1005.0
    run.keepalive.sending_blocked(run.now)
    run.keepalive.reading_paused(run.now)
    run.keepalive.sending_blocked(run.now + 1.0)  # Twisted says so at every write
    run.silence(end=Action.SENDING_STUCK)
    assert run.now == pytest.approx(1065.0)


def test_peer_that_takes_something_is_not():
    """Slow is no fault."""
    run = Run(None, None, write_timeout=60.0)
    run.keepalive.sending_blocked(run.now)
    for _ in range(100):
        assert run.until(run.now + 50.0) == []
        run.keepalive.sent(run.now)
    taken = run.now
    run.silence(end=Action.SENDING_STUCK)
    assert run.now == pytest.approx(taken + 60.0)


def test_empty_send_buffer_is_waited_for_by_nobody():
    """And the next full one has its whole time."""
    run = Run(None, None, write_timeout=60.0)
    run.keepalive.sending_blocked(run.now)
    run.until(1050.0)
    run.keepalive.sending_resumed(run.now)
    assert run.keepalive.deadline is None
    run.keepalive.sending_blocked(run.now)
    run.silence(end=Action.SENDING_STUCK)
    assert run.now == pytest.approx(1110.0)


def test_peer_that_reads_is_alive_though_our_ping_waits_behind_what_it_reads():
    """It cannot answer what it has not got."""
    run = Run(20.0, 20.0, write_timeout=60.0)
    run.keepalive.sending_blocked(run.now)
    assert run.until(1020.0) == [Action.PING]
    for _ in range(50):
        run.keepalive.sent(run.now)
        assert run.until(run.now + 19.0) == []
    run.keepalive.sending_resumed(run.now)
    unblocked = run.now
    run.silence()
    assert run.now == pytest.approx(unblocked + 20.0)


def test_what_went_out_while_nothing_waited_is_no_sign_of_life():
    """The kernel takes a while to fill."""
    run = Run()
    run.wake()
    run.keepalive.sent(run.now + 19.0)
    run.silence()
    assert run.now == pytest.approx(1040.0)


@pytest.mark.parametrize("late", [0.0, 4.9, 60.0])
def test_sign_that_is_read_before_the_last_look_saves_the_connection(late):
    """The timers of a loop come before its sockets: the end of a wait is not yet the end."""
    run = Run()
    run.wake()
    for _ in range(3 if late < 60.0 else 0):
        run.wake()
    run.wake(late)
    run.keepalive.ponged(run.now)  # what was unread
    assert run.keepalive.deadline == run.now + 20.0


# ------------------------------------------------------------------ any history

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "wake",
                "late",
                "received",
                "ponged",
                "message",
                "reading_paused",
                "reading_resumed",
                "sending_blocked",
                "sent",
                "sending_resumed",
            ]
        ),
        st.floats(0, 100),
    ),
    max_size=60,
)
LIMITS = {"pong_timeout": 50.0, "message_timeout": 90.0, "write_timeout": 30.0}


class Books:
    """What a history amounts to, kept by other means than the state machine's."""

    def __init__(self, now):
        self.listening = True
        self.blocked = False
        self.heard = self.told = self.taken = now
        self.pinged = None

    def note(self, name, now):
        if name == "reading_paused":
            self.listening = False
        elif name == "reading_resumed":
            if not self.listening:
                self.heard = now
            self.listening = True
        elif name == "sending_blocked":
            if not self.blocked:
                self.taken = now
            self.blocked = True
        elif name in {"sent", "sending_resumed"}:
            if self.blocked:
                self.taken = self.heard = now
            self.blocked = self.blocked and name == "sent"
        else:
            self.heard = now
            if name == "ponged":
                self.pinged = None
            if name == "message":
                self.told = now

    def allows(self, end, now):
        """Tell whether the end may come: the wait was long enough, at least by the clock."""
        if end is Action.SENDING_STUCK:
            return self.blocked and now - self.taken >= 30.0 - 1e-6
        if not self.listening:
            return False
        if end is Action.NO_MESSAGE:
            return now - self.told >= 90.0 - 1e-6
        if self.pinged is None:
            return False
        if end is Action.PONG_OVERDUE:
            return now - self.pinged >= 50.0 - 1e-6
        return now - max(self.pinged, self.heard) >= 20.0 - 1e-6


@SEARCHED
@given(EVENTS, st.booleans())
def test_no_connection_is_given_up_before_its_time(events, with_all):
    """A peer that was heard within the timeout lives, whatever else happens, and however late."""
    run = Run(20.0, 20.0, **(LIMITS if with_all else {}))
    books = Books(run.now)
    for name, seconds in events:
        if name in {"wake", "late"}:
            if run.keepalive.deadline is None:
                continue
            action = run.wake(seconds if name == "late" else 0.0)
            if action is Action.PING:
                books.pinged = books.pinged or run.now
                books.pinged = max(books.pinged, run.now) if not with_all else books.pinged
            elif action is not Action.NOTHING:
                assert books.allows(action, run.now)
                assert run.keepalive.deadline is None
                return
            assert run.keepalive.deadline is None or run.keepalive.deadline >= run.now
            continue
        run.now += min(seconds, 4.0)
        if name in {"received", "ponged", "message"} and not books.listening:
            continue
        books.note(name, run.now)
        if name == "message":
            run.happens("received")
            run.keepalive.message()
        elif name != "wake":
            run.happens(name)


@SEARCHED
@given(EVENTS)
def test_silence_after_any_history_is_found_within_interval_and_timeout(events):
    """Where the loop is not blocked from then on, and the peer is listened to."""
    run = Run(20.0, 20.0)
    for name, seconds in events:
        if name in {"wake", "late"}:
            if run.wake(seconds if name == "late" else 0.0) in ENDS:
                return
        elif name == "message":
            run.keepalive.message()
        else:
            run.now += min(seconds, 4.0)
            run.happens(name)
    run.keepalive.reading_resumed(run.now)
    last = run.now = max(run.now, run.keepalive.deadline)
    run.silence()
    # A wait that was under way when the loop was late may have begun anew once.
    assert run.now <= last + 40.0 + 20.0 + 1e-6
