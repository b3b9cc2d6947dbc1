"""A `Connection` on a transport in memory: order, fairness, limits, undisturbed ends."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from memory import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    frame,
    masked_close,
    masked_frame,
    opened_server,
    parse,
)
from twisted.internet import defer
from twisted.internet.task import Clock

from wsframe.awaiting import run
from wsframe.connection import BURST, WAITING_SEND, Connection, State
from wsframe.errors import (
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    SendBufferFull,
)
from wsframe.fanout import broadcast
from wsframe.handling import handle
from wsframe.options import ServerOptions
from wsframe.protocol import ConnectionServerFactory
from wsframe.protocol.receiving import MANY_PARTS


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Opened:
    """An open connection of a server, and its peer."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.made: list[Connection] = []
        self.factory = ConnectionServerFactory(
            self._opened, reactor=clock, options=ServerOptions(**options)
        )
        self.peer: Peer = opened_server(self.factory)
        self.connection = self.made[0]

    def _opened(self, wire: Any) -> Connection:
        self.made.append(Connection(wire))
        return self.made[-1]

    def block(self) -> None:
        """Let the peer read no more, and fill the transport's buffer."""
        self.peer.transport.stalled = True
        self.connection.send(b"x" * 100_000)

    def payloads(self) -> list[bytes]:
        """What the peer reads when it reads everything."""
        data = b""
        while self.peer.transport.waiting:
            data += self.peer.transport.drain()
        return [f.payload for f in parse(data) if f.opcode in {TEXT, BINARY}]


def ignore(_: object) -> None:
    return None


def cancel(other: Any) -> Callable[[object], None]:
    return lambda _: other.cancel()


def test_a_waiter_that_cancels_another_one_disturbs_no_end(clock: Clock) -> None:
    """Two tasks of one program: the failure of one is the end of the other."""
    this = Opened(clock)
    this.block()
    second: list[Any] = []
    for wait in (
        lambda: this.connection.send("x"),
        this.connection.ping,
        this.connection.when_closed,
    ):
        first = wait()
        second.append(wait())
        first.addBoth(cancel(second[-1]))
        second[-1].addErrback(ignore)
    received: list[Any] = []
    this.connection.recv().addErrback(received.append)

    this.peer.end()

    assert received[0].check(ConnectionClosed)
    assert this.factory.countConnections == 0
    assert all(waiter.called for waiter in second)
    assert this.peer.timers() == []


def test_a_pong_whose_news_cancel_another_ping_is_no_fault(clock: Clock) -> None:
    """One pong answers both; the second wait is gone when its turn comes."""
    this = Opened(clock)
    first, second = this.connection.ping(b"1"), this.connection.ping(b"2")
    first.addBoth(cancel(second))
    second.addErrback(ignore)

    this.peer.send(masked_frame(PONG, b"2"))

    assert [f.opcode for f in this.peer.frames()] == [PING, PING]
    assert this.connection.close_code is None


def test_latency_is_what_was_measured_last(clock: Clock) -> None:
    """By `ping` or by the keepalive, whichever came later."""
    this = Opened(clock, ping_interval=5.0)
    this.connection.ping(b"1")
    clock.advance(1)
    this.peer.send(masked_frame(PONG, b"1"))
    assert this.connection.latency == pytest.approx(1)
    this.peer.frames()
    clock.advance(4)
    (ping,) = this.peer.frames()
    clock.advance(3)
    this.peer.send(masked_frame(PONG, ping.payload))
    assert this.connection.latency == pytest.approx(3)


def test_round_trips_of_both_kinds_are_smoothed(clock: Clock) -> None:
    """By the constants of RFC 6298."""
    this = Opened(clock, ping_interval=None)
    assert (this.connection.rtt, this.connection.rtt_variation) == (None, None)
    for seconds in (1, 2):
        this.connection.ping(b"1")
        clock.advance(seconds)
        this.peer.send(masked_frame(PONG, b"1"))
    assert this.connection.rtt == pytest.approx(0.875 * 1 + 0.125 * 2)
    assert this.connection.rtt_variation == pytest.approx(0.75 * 0.5 + 0.25 * 1)


def test_a_broadcast_follows_what_waits_in_send(clock: Clock) -> None:
    """State, then its update: never the other way round."""
    this = Opened(clock)
    this.block()
    for text in ("1", "2"):
        this.connection.send(text)
    broadcast([this.connection], "3")
    assert this.payloads()[1:] == [b"1", b"2", b"3"]


def test_a_send_that_is_cancelled_takes_its_message_out_and_no_other(clock: Clock) -> None:
    this = Opened(clock)
    this.block()
    sent = [this.connection.send(text) for text in "12345"]
    for each in (sent[2], sent[0], sent[4]):
        each.addErrback(ignore)
        each.cancel()
    assert this.payloads()[1:] == [b"2", b"4"]
    assert this.connection._waiting_bytes == 0


def test_cancelling_a_send_costs_the_same_however_many_wait(clock: Clock) -> None:
    """A program that gives up on thousands at once must not stop for half a minute."""
    calls = []
    for waiting in (10, 1000):
        this = Opened(clock)
        this.block()
        sent = [this.connection.send("x") for _ in range(waiting)]
        sent[5].addErrback(ignore)
        calls.append(calls_of(sent[5].cancel))
    assert calls[0] == calls[1]


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions were entered, a generator's at each of its items."""
    entered = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize("message", ["", b"", "x"])
def test_the_send_buffer_limits_how_many_small_messages_wait(clock: Clock, message: Any) -> None:
    """A waiting call weighs more than most messages, and an empty one is not nothing."""
    this = Opened(clock, send_buffer=100_000)
    this.block()
    waiting = 0
    while not (sending := this.connection.send(message)).called:
        waiting += 1
        assert waiting < 1000
    failures: list[Any] = []
    sending.addErrback(failures.append)
    assert [failure.type for failure in failures] == [SendBufferFull]
    assert waiting == 100_000 // (WAITING_SEND + len(message))
    assert len(this.payloads()) == 1 + waiting
    assert this.connection._waiting_bytes == 0


def test_a_call_of_send_that_waits_holds_what_it_is_counted_for(clock: Clock) -> None:
    this = Opened(clock)
    this.block()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5000):
            this.connection.send("x")
        held = (tracemalloc.get_traced_memory()[0] - before) / 5000
    finally:
        tracemalloc.stop()
    assert WAITING_SEND / 2 < held < WAITING_SEND * 1.25


def test_close_sends_what_waits_in_send_before(clock: Clock) -> None:
    """As leaving an `async with` block does."""
    this = Opened(clock)
    this.block()
    sent = [this.connection.send(text) for text in ("1", "2")]
    this.connection.close()
    assert all(waiting.called for waiting in sent)
    assert this.payloads()[1:] == [b"1", b"2"]


def test_a_subscriber_that_reads_is_not_taken_for_a_slow_one(clock: Clock) -> None:
    """Far more than the limit goes through, and never more than a part of it waits."""
    this = Opened(clock, send_buffer=1_000_000)
    this.block()
    for _ in range(40):
        done = broadcast([this.connection], b"y" * 100_000)
        while not done.called:  # the turns of the fan-out
            clock.advance(0)
        this.peer.transport.drain()
    assert this.connection.close_code is None
    for _ in range(11):
        done = broadcast([this.connection], b"y" * 100_000)
        while not done.called:
            clock.advance(0)
    assert this.connection.close_code == 1008


def test_ten_thousand_messages_of_one_read_are_no_recursion_and_no_single_turn(
    clock: Clock,
) -> None:
    """The classic loop of callbacks gets at most a burst of them in a turn."""
    this = Opened(clock, ping_interval=None)
    got: list[Any] = []

    def take(message: Any) -> None:
        got.append(message)
        this.connection.recv().addCallbacks(take, ignore)

    this.connection.recv().addCallback(take)
    this.peer.send(masked_frame(TEXT, b"z") * 10_000)
    assert len(got) <= BURST
    turns = 0
    while len(got) < 10_000:
        (turn,) = this.peer.timers()  # a Clock would run all of them in one go
        before = len(got)
        function = turn.func
        turn.cancel()
        function()
        turns += 1
        assert len(got) <= before + BURST
    assert turns >= 10_000 // BURST - 1
    this.peer.end()


BURSTS = 5 * BURST
"""Messages of more than a turn, and more than the end itself has still handed out."""


async def takes_by_loop(connection: Connection, got: list[Any]) -> None:
    async for message in connection:
        got.append(message)  # noqa: PERF401 - one at a time is what is tested


async def takes_by_recv(connection: Connection, got: list[Any]) -> None:
    with suppress(ConnectionClosed):
        while True:
            got.append(await connection.recv())


async def takes_with_a_timeout(connection: Connection, got: list[Any]) -> None:
    with suppress(ConnectionClosed):
        while True:
            got.append(await connection.recv(timeout=0 if got else 1))


async def takes_by_callbacks(connection: Connection, got: list[Any]) -> None:
    def take(message: Any) -> None:
        got.append(message)
        connection.recv().addCallbacks(take, ended.callback)

    ended: defer.Deferred[Any] = defer.Deferred()
    connection.recv().addCallback(take)
    (await ended).trap(ConnectionClosed)


@pytest.mark.parametrize("closes", [True, False], ids=["Close", "end of TCP"])
@pytest.mark.parametrize("runs", [run, lambda *call: defer.ensureDeferred(call[0](*call[1:]))])
@pytest.mark.parametrize(
    "takes", [takes_by_loop, takes_by_recv, takes_with_a_timeout, takes_by_callbacks]
)
def test_what_came_before_the_end_is_delivered_however_much_it_is(
    clock: Clock, takes: Any, runs: Any, closes: bool
) -> None:
    """The loop waits for its next turn when TCP ends; that is not a wait for the peer."""
    this = Opened(clock, ping_interval=None)
    got: list[Any] = []
    done = runs(takes, this.connection, got)
    end = masked_close(1000) if closes else b""
    sent = [str(place) for place in range(BURSTS)]
    this.peer.send(b"".join(masked_frame(TEXT, each.encode()) for each in sent) + end)
    this.peer.end()
    assert len(got) < BURSTS, "the other connections had no turn"
    clock.advance(0)
    assert got == sent
    assert done.called
    done.addErrback(lambda failure: failure.trap(ConnectionClosed))


def ended_in_a_burst(clock: Clock) -> tuple[Opened, Any, int]:
    """Return a connection behind its end, a `recv` that waits for its turn, and who is next."""
    this = Opened(clock, ping_interval=None)
    frames = [masked_frame(TEXT, str(place).encode()) for place in range(BURSTS)]
    this.peer.send(b"".join(frames) + masked_close(1000))
    this.peer.end()
    taken = 0
    while (receiving := this.connection.recv()).called:
        taken += 1
    assert taken == BURST
    return this, receiving, taken


def test_a_recv_that_is_cancelled_behind_the_end_loses_no_message(clock: Clock) -> None:
    this, receiving, following = ended_in_a_burst(clock)
    receiving.addErrback(ignore)
    receiving.cancel()
    clock.advance(0)
    assert this.connection.recv().result == str(following)


def test_a_recv_behind_the_end_fails_when_all_was_delivered(clock: Clock) -> None:
    this, receiving, following = ended_in_a_burst(clock)
    clock.advance(0)
    assert receiving.result == str(following)
    for each in range(following + 1, BURSTS):
        received = this.connection.recv()
        clock.advance(0)
        assert received.result == str(each)
    failures: list[Any] = []
    this.connection.recv().addErrback(failures.append)
    assert [failure.type for failure in failures] == [ConnectionClosedOK]


def test_a_recv_that_waits_for_its_turn_fails_when_the_messages_are_dropped(clock: Clock) -> None:
    """A task of a handler that has left: there is nothing any more that it could be given."""
    this = Opened(clock, ping_interval=None)
    this.peer.send(b"".join(masked_frame(TEXT, b"x") for _ in range(BURSTS)))
    while (receiving := this.connection.recv()).called:
        pass
    failures: list[Any] = []
    receiving.addErrback(failures.append)
    run(handle, lambda _: None, this.connection)
    this.peer.send(masked_close(1000))
    this.peer.end()
    clock.advance(0)
    assert [failure.type for failure in failures] == [ConnectionClosedOK]
    assert not this.connection._messages


def test_an_aborted_connection_is_not_open_and_takes_nothing_more(clock: Clock) -> None:
    """From the call on, and not only when the transport has told of its end."""
    this = Opened(clock)
    this.connection.abort()
    assert this.connection.state is State.CLOSING
    assert (this.connection.close_code, this.connection.close_reason) == (1006, "aborted")
    failures: list[Any] = []
    for refused in (this.connection.send("x"), this.connection.ping()):
        refused.addErrback(failures.append)
    broadcast([this.connection], "x")
    assert [failure.type for failure in failures] == [ConnectionClosedError] * 2
    assert all((each.value.by, each.value.code) == ("local", 1006) for each in failures)
    assert this.connection.counts.sent == 0
    assert this.peer.timers() == [], "it is still kept alive"
    ended = this.connection.close()
    this.peer.end()
    assert ended.called
    assert this.connection.state is State.CLOSED
    assert this.connection.close_code == 1006
    assert this.peer.frames() == []


def test_a_dripped_message_costs_what_it_weighs(clock: Clock) -> None:
    """Its parts are joined before there are too many of them."""
    this = Opened(clock)
    data = masked_frame(BINARY, b"a" * 60_000)
    most = 0
    for start in range(0, len(data) - 2, 2):
        this.peer.send(data[start : start + 2])
        partial = this.peer.protocol._partial
        most = max(most, 0 if partial is None else len(partial._parts))
    assert 0 < most <= MANY_PARTS + 1
    this.peer.send(data[len(data) - 2 :])
    (message,) = this.connection._messages
    assert message == b"a" * 60_000


def test_a_peer_that_we_do_not_read_from_is_pinged_all_the_same(clock: Clock) -> None:
    """The reset that answers for a peer that is gone is how we learn of it."""
    this = Opened(clock, receive_queue=1)
    this.peer.send(masked_frame(TEXT, b"x") * 2)
    assert not this.peer.transport.reading
    clock.advance(20)
    clock.advance(20)
    assert [f.opcode for f in this.peer.frames()] == [PING, PING]
    assert this.connection.close_code is None


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_ends_the_program_ends_its_connection(
    clock: Clock, ending: BaseException, logged: Callable[[], str]
) -> None:
    """With 1011, and a line in the log; the service lives."""

    async def broken(_: Connection) -> None:
        raise ending

    this = Opened(clock)
    handling = handle(broken, this.connection)
    assert handling.called
    assert [f.code for f in this.peer.frames() if f.opcode == CLOSE] == [1011]
    assert type(ending).__name__ in logged()


@pytest.mark.parametrize("seconds", [0, 0.01], ids=["its turn", "its loop"])
def test_a_handler_that_waits_as_asyncio_does_is_told_the_way(
    clock: Clock, seconds: float, logged: Callable[[], str]
) -> None:
    """Whichever of the two refuses it: here is no asyncio loop, so there is more to say."""

    async def sleeps(_: Connection) -> None:
        await asyncio.sleep(seconds)

    this = Opened(clock)
    handle(sleeps, this.connection)
    assert [f.code for f in this.peer.frames() if f.opcode == CLOSE] == [1011]
    assert "run it under the asyncio reactor" in logged()
    assert "lambda connection: asyncio.ensure_future(handler(connection))" in logged()


def test_an_error_of_the_handlers_own_gets_no_advice(
    clock: Clock, logged: Callable[[], str]
) -> None:
    async def fails(_: Connection) -> None:
        raise RuntimeError("out of paper")

    handle(fails, Opened(clock).connection)
    assert "out of paper" in logged()
    assert "asyncio" not in logged().replace(__file__, "")


def test_connections_fit_into_a_weak_set(clock: Clock) -> None:
    """An everyday way to keep track of them."""
    this = Opened(clock)
    assert this.connection in weakref.WeakSet([this.connection])


def test_the_helpers_speak_to_a_server() -> None:
    """A client's frame is masked."""
    assert masked_frame(TEXT, b"x") != frame(TEXT, b"x")


def test_a_loop_over_messages_in_a_coroutine_of_twisteds_own(clock: Clock) -> None:
    """Which is begun by a handler, and not driven by what drives the handler."""
    this = Opened(clock)
    got: list[Any] = []

    async def reads() -> None:
        async for message in this.connection:
            got.append(message)  # noqa: PERF401 - one at a time is what is tested

    async def handler() -> None:
        await defer.ensureDeferred(reads())

    done = run(handler)
    for each in (b"1", b"2"):
        this.peer.send(masked_frame(BINARY, each))
    assert got == [b"1", b"2"]
    this.peer.send(masked_close(1000))
    this.peer.end()
    assert done.called


def test_a_handler_that_is_cancelled_between_messages_frees_the_connection(clock: Clock) -> None:
    this = Opened(clock)

    async def reads() -> None:
        async for _ in this.connection:
            pass

    handler = run(reads)
    this.peer.send(masked_frame(BINARY, b"1"))
    failures: list[Any] = []
    handler.addErrback(failures.append)
    handler.cancel()
    assert [failure.type for failure in failures] == [defer.CancelledError]
    this.peer.send(masked_frame(BINARY, b"2"))
    assert this.connection.recv().result == b"2"
    this.peer.end()
