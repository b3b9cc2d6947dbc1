"""Broadcasts on transports in memory: order, slices, limits, what is shared, what goes wrong."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from memory import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Frame,
    Peer,
    masked_frame,
    opened_client,
    opened_server,
    parse,
)
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from wsframe import fanout
from wsframe.awaiting import start
from wsframe.connection import BURST, Connection
from wsframe.core.uri import parse_uri
from wsframe.errors import ConnectionClosed
from wsframe.fanout import FIRST, GROWTH, LONGEST, MOST_PENDING, SHORTEST, TURN, broadcast
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.protocol import ConnectionClientFactory, ConnectionServerFactory
from wsframe.protocol.deflate import MessageDeflate
from wsframe.trace import Trace

EXTENSIONS = "Sec-WebSocket-Extensions"
WORDS = "the same words again and again, " * 20
SLICE = 0.010
"""Seconds of each turn, where the test is not about how long a slice is."""

MANY = 48
"""More than are handed a message without a look at the clock."""


class Time:
    """The time that work takes: every delivery that a transport takes costs some of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cost = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(fanout, "monotonic", time)
    for name in ("FIRST", "SHORTEST", "LONGEST"):
        monkeypatch.setattr(fanout, name, SLICE)
    monkeypatch.setattr(fanout, "UNTIMED", 16)
    monkeypatch.setattr(fanout, "AT_A_TIME", 2)
    return time


class Subscriber:
    """A connection of a server, and what its peer gets."""

    def __init__(self, peer: Peer, connection: Connection, time: Time) -> None:
        self.peer = peer
        self.connection = connection
        self._write, self._time = peer.transport.write, time
        peer.transport.write = self._take_time  # type: ignore[method-assign]

    def _take_time(self, data: bytes) -> None:
        self._time.now += self._time.cost
        self._write(data)

    def frames(self) -> list[Frame]:
        return self.peer.frames()

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.frames()]


Subscribe = Callable[..., list[Subscriber]]


@pytest.fixture
def subscribe(clock: Clock, time: Time) -> Subscribe:
    def subscribe(
        count: int, compression: Deflate | None = None, offer: str = "", **options: Any
    ) -> list[Subscriber]:
        made: list[Connection] = []

        def opened(wire: Any) -> Connection:
            made.append(Connection(wire))
            return made[-1]

        factory = ConnectionServerFactory(
            opened,
            reactor=clock,
            options=ServerOptions(ping_interval=None, **options),
            compression=compression,
        )
        headers = [(EXTENSIONS, offer)] if offer else []
        peers = [opened_server(factory, *headers) for _ in range(count)]
        return [
            Subscriber(peer, connection, time) for peer, connection in zip(peers, made, strict=True)
        ]

    return subscribe


def connections(subscribers: list[Subscriber]) -> list[Connection]:
    return [subscriber.connection for subscriber in subscribers]


def turn(clock: Clock) -> None:
    """Make one turn of the reactor: what is called for the next turn waits for that."""
    due = [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]
    for call in due:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


def turns(clock: Clock, done: Any) -> int:
    """Return how many turns it takes."""
    count = 0
    while not done.called:
        turn(clock)
        count += 1
        assert count < 10_000
    return count


def block(subscriber: Subscriber) -> None:
    """Let the peer read no more, and fill the transport's buffer."""
    subscriber.peer.transport.stalled = True
    subscriber.connection.send(b"x" * 100_000)


def drained(subscriber: Subscriber) -> list[bytes]:
    data = b""
    while subscriber.peer.transport.waiting:
        data += subscriber.peer.transport.drain()
    return [frame.payload for frame in parse(data)]


# ------------------------------------------------------------------------------ who gets what


@pytest.mark.parametrize(
    "given", [list, tuple, set, frozenset, dict.fromkeys, iter, lambda some: (one for one in some)]
)
def test_everybody_gets_it_once_whatever_it_was_given_in(
    subscribe: Subscribe, given: Callable[[Any], Any]
) -> None:
    subscribers = subscribe(3)
    done = broadcast(given(connections(subscribers)), "news")
    assert done.called
    assert [s.frames() for s in subscribers] == [[Frame(TEXT, b"news")]] * 3


def test_who_is_named_twice_gets_it_once(subscribe: Subscribe) -> None:
    first, second = subscribe(2)
    broadcast([first.connection, second.connection, first.connection], b"news")
    assert [s.frames() for s in (first, second)] == [[Frame(BINARY, b"news")]] * 2


def test_nobody_at_all_is_no_error() -> None:
    assert broadcast([], "news").called


@pytest.mark.parametrize("message", [None, 1, bytearray(b"x"), ["x"]])
def test_what_is_no_message_is_refused(subscribe: Subscribe, message: Any) -> None:
    with pytest.raises(TypeError, match="a message is str or bytes"):
        broadcast(connections(subscribe(1)), message)


def test_who_is_no_connection_is_refused_before_anything_is_sent(subscribe: Subscribe) -> None:
    (subscriber,) = subscribe(1)
    with pytest.raises(TypeError, match="not to str"):
        broadcast([subscriber.connection, "somebody"], "news")  # type: ignore[list-item]
    assert subscriber.frames() == []


def test_what_is_broadcast_is_counted(subscribe: Subscribe) -> None:
    (subscriber,) = subscribe(1)
    broadcast({subscriber.connection}, "né")
    assert (subscriber.connection.counts.sent, subscriber.connection.counts.sent_bytes) == (1, 3)


def test_who_closes_or_was_aborted_is_passed_over_and_not_counted(subscribe: Subscribe) -> None:
    closing, aborted, lost, open_ = subscribe(4)
    closing.connection.close()
    aborted.connection.abort()
    lost.peer.end()
    broadcast(connections([closing, aborted, lost, open_]), "news")
    assert [frame.opcode for frame in closing.frames()] == [CLOSE]
    assert [aborted.frames(), lost.frames(), open_.payloads()] == [[], [], [b"news"]]
    assert [s.connection.counts.sent for s in (closing, aborted, lost, open_)] == [0, 0, 0, 1]


def test_a_client_masks_its_own(clock: Clock, subscribe: Subscribe) -> None:
    """Together with connections of a server, which do not."""
    made: list[Connection] = []

    def opened(wire: Any) -> Connection:
        made.append(Connection(wire))
        return made[-1]

    def client() -> Peer:
        uri = parse_uri("ws://localhost/")
        options = ClientOptions(ping_interval=None)
        factory = ConnectionClientFactory(
            opened, uri, headers=(), origin=None, subprotocols=(), reactor=clock, options=options
        )
        return opened_client(factory)

    peers = [client(), client()]
    (served,) = subscribe(1)
    broadcast([*made, served.connection], "news")
    (first,), (second,) = peers[0].frames(), peers[1].frames()
    assert (first.payload, second.payload, served.payloads()) == (b"news", b"news", [b"news"])
    assert first.mask != second.mask


def test_one_that_fails_is_aborted_and_stops_none_of_the_others(
    subscribe: Subscribe, logged: Callable[[], str]
) -> None:
    first, broken, last = subscribe(3)

    def fail(_: bytes) -> None:
        raise OSError("the transport is broken")

    broken.peer.transport.write = fail  # type: ignore[method-assign]
    assert broadcast(connections([first, broken, last]), "news").called
    assert [first.payloads(), last.payloads()] == [[b"news"], [b"news"]]
    assert broken.peer.transport.aborted
    assert "the transport is broken" in logged()


# ------------------------------------------------------------------------------------- slices


def test_a_broadcast_is_handed_out_in_slices(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """No turn takes longer than its time and what is done between two looks at the clock."""
    subscribers = subscribe(MANY)
    time.cost = SLICE / 10
    began = time.now
    done = broadcast(connections(subscribers), "news")
    spent = [time.now - began]
    while not done.called:
        began = time.now
        turn(clock)
        spent.append(time.now - began)
    assert len(spent) == 5
    assert max(spent) == pytest.approx(SLICE)
    assert [s.payloads() for s in subscribers] == [[b"news"]] * MANY
    clock.advance(0)
    assert clock.getDelayedCalls() == []


@pytest.fixture
def measured(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have slices that are as long as the turns before them let them be."""
    for name, value in (("FIRST", FIRST), ("SHORTEST", SHORTEST), ("LONGEST", LONGEST)):
        monkeypatch.setattr(fanout, name, value)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("kernel", [0.0, 3.0, 8.0, 15.0, 100.0])
def test_slices_are_as_long_as_the_turns_allow(
    clock: Clock, time: Time, subscribe: Subscribe, kernel: float
) -> None:
    """The kernel takes so many times what the transports take, at the end of each turn."""
    subscribers = subscribe(MANY)
    time.cost = 0.0001
    took = []
    done: Any = None
    for number in range(20 * MANY):
        began = time.now
        turn(clock)
        if done is None or done.called:
            done = broadcast(connections(subscribers), str(number))
        if number % 5:  # now and then the kernel takes it all at once
            time.now += kernel * (time.now - began)
        took.append(time.now - began)
    settled = took[len(took) // 2 :]
    if kernel <= 15:
        assert max(took) <= 0.050
    if 8 <= kernel <= 15:
        assert max(settled) > 0.5 * TURN
    turns(clock, done)


@pytest.mark.usefixtures("measured")
def test_a_turn_that_was_too_long_shortens_the_slices_at_once_and_short_ones_lengthen_them_slowly(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(256)
    time.cost = 0.0001
    step = 2 * time.cost  # between two looks at the clock
    done: Any = None

    def slices(count: int, kernel: float) -> list[float]:
        """Make turns that never have enough time; return what each spent on broadcasts.

        At its end the kernel takes so many times that.
        """
        nonlocal done
        spent = []
        for _ in range(count):
            began = time.now
            turn(clock)
            if done is None or done.called:
                done = broadcast(connections(subscribers), "news")
            spent.append(time.now - began)
            time.now += kernel * spent[-1]
        return spent

    def assert_lengthened(slices: list[float]) -> None:
        assert slices[-1] == pytest.approx(LONGEST, abs=step)
        assert all(one < other + step for one, other in pairwise(slices))
        assert all(other < GROWTH * one + 2 * step for one, other in pairwise(slices))

    rising = slices(20, kernel=0)
    assert rising[0] == pytest.approx(FIRST, abs=step)
    assert_lengthened(rising)
    for kernel in (3, 15):
        (last,) = slices(1, kernel)
        assert last * (1 + kernel) > 2 * TURN
        shortened = slices(20, kernel)
        turns_took = [spent * (1 + kernel) for spent in shortened]
        assert all(0.8 * TURN < took < 1.2 * TURN for took in turns_took)
        assert_lengthened(slices(20, kernel=0))
    slices(1, kernel=1000)
    assert slices(20, kernel=1000) == pytest.approx([SHORTEST] * 20, abs=step)
    turns(clock, done)


@pytest.mark.usefixtures("measured")
def test_a_turn_that_was_too_long_though_all_was_handed_out_shortens_them_too(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY)
    time.cost = FIRST / 60
    assert broadcast(connections(subscribers), "all at once").called
    time.now += 2 * TURN  # what the kernel takes for it
    turn(clock)
    began = time.now
    done = broadcast(connections(subscribers), "in two")
    assert not done.called
    assert time.now - began == pytest.approx(SHORTEST, abs=2 * time.cost)
    turns(clock, done)


def test_a_turn_without_broadcasts_ends_what_the_one_before_it_began(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """The next small one is neither timed nor late."""
    subscribers = subscribe(MANY)
    time.cost = SLICE
    turns(clock, broadcast(connections(subscribers), "1"))
    turn(clock)
    assert clock.getDelayedCalls() == []
    assert broadcast(connections(subscribers[:3]), "2").called
    assert [s.payloads() for s in subscribers[:3]] == [[b"1", b"2"]] * 3
    assert clock.getDelayedCalls() == []


def test_many_small_broadcasts_share_the_time_of_a_turn(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """A room of ten, in which everybody speaks at once."""
    subscribers = subscribe(10)
    time.cost = SLICE / 100
    sent = [broadcast(connections(subscribers), str(number)) for number in range(40)]
    assert 0 < sum(done.called for done in sent) < 40
    assert time.now < 2 * SLICE
    turns(clock, sent[-1])
    expected = [str(number).encode() for number in range(40)]
    assert [s.payloads() for s in subscribers] == [expected] * 10


def test_one_that_comes_alone_goes_at_once_and_several_share_a_call(
    clock: Clock, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was last is expected again: who publishes much pays for one call in a turn."""
    subscribers = subscribe(MANY)
    went: dict[bytes, bool] = {}
    send_shared = Connection.send_shared

    def noting(connection: Connection, shared: Any) -> bool:
        went[shared.payload] = shared.at_once
        return send_shared(connection, shared)

    monkeypatch.setattr(Connection, "send_shared", noting)
    for messages in ("1", "2", "345", "67", "8", "9"):
        for message in messages:
            broadcast(connections(subscribers), message)
        turn(clock)
    broadcast(connections(subscribers[:3]), "small")
    assert [key for key, at_once in went.items() if at_once] == [b"1", b"2", b"3", b"9"]
    expected = [*(b"%d" % number for number in range(1, 10)), b"small"]
    assert [s.payloads() for s in subscribers] == [expected] * 3 + [expected[:-1]] * (MANY - 3)


def test_a_heavy_message_is_timed_from_the_first_delivery(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """A mebibyte is masked, encrypted or copied for everybody."""
    subscribers = subscribe(10)
    time.cost = SLICE
    done = broadcast(connections(subscribers), bytes(1 << 20))
    assert [len(s.frames()) for s in subscribers].count(1) == 1
    assert turns(clock, done) == 9


def test_what_is_sent_meanwhile_comes_behind(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY)
    time.cost = SLICE
    done = broadcast(connections(subscribers), "1")
    assert not done.called
    late = [s for s in subscribers if not s.peer.transport.written]
    sends, pings, closes, quiet = late[0], late[1], late[2], late[3]
    second = broadcast([s.connection for s in (sends, quiet, subscribers[0])], "2")
    sends.connection.send("3")
    pings.connection.ping(b"3").addErrback(lambda _: None)
    closes.connection.close(1000)
    assert sends.payloads() == [b"1", b"2", b"3"]
    assert [(f.opcode, f.payload) for f in pings.frames()] == [(TEXT, b"1"), (PING, b"3")]
    assert [f.opcode for f in closes.frames()] == [TEXT, CLOSE]
    assert quiet.frames() == []
    turns(clock, second)
    assert quiet.payloads() == [b"1", b"2"]
    assert subscribers[0].payloads() == [b"1", b"2"]
    assert [len(s.frames()) for s in (sends, pings, closes)] == [0, 0, 0]
    assert all(s.payloads() == [b"1"] for s in subscribers[1:] if s not in (*late[:4],))


def test_who_leaves_meanwhile_is_passed_over_and_owes_nothing(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY)
    time.cost = SLICE
    done = broadcast(connections(subscribers), "news")
    late = [s for s in subscribers if not s.peer.transport.written]
    late[0].peer.end()
    late[1].connection.abort()
    turns(clock, done)
    assert [late[0].frames(), late[1].frames(), late[2].payloads()] == [[], [], [b"news"]]
    assert all(s.connection._owed is None for s in subscribers)


def test_what_becomes_of_the_set_meanwhile_does_not_matter(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY)
    members = set(connections(subscribers))
    time.cost = SLICE
    done = broadcast(members, "news")
    members.clear()
    turns(clock, done)
    assert all(s.payloads() == [b"news"] for s in subscribers)


def test_calls_that_wait_in_send_go_first_and_may_send_more(
    clock: Clock, subscribe: Subscribe
) -> None:
    """What goes on when they are served finds the broadcast before what it sends itself."""
    first, second, third = subscribe(3)
    for subscriber in (first, second, third):
        block(subscriber)

    def answer(_: object) -> None:
        for subscriber in (first, second, third):
            subscriber.connection.send("4")
        broadcast(connections([first, second, third]), "5")

    waiting = first.connection.send("2")
    waiting.addCallback(answer)
    second.connection.send("2")
    broadcast(connections([first, second, third]), "3")
    assert waiting.called
    # What was sent when the wait was over was sent behind the broadcast, on whichever connection.
    assert drained(first)[1:] == [b"2", b"3", b"4", b"5"]
    assert drained(second)[1:] == [b"2", b"3", b"4", b"5"]
    assert drained(third)[1:] == [b"3", b"4", b"5"]


def test_a_handler_that_a_full_buffer_wakes_sends_behind_the_broadcast(
    subscribe: Subscribe,
) -> None:
    """It hears of the last message in the middle of the broadcast that ends its connection."""
    subscribers = subscribe(4, send_buffer=100_000)
    first, slow, third, last = subscribers

    async def answer(connection: Connection) -> None:
        async for message in connection:
            if message == "last":
                broadcast(connections([first, third, last]), "2")
                last.connection.send("3")

    start(answer, slow.connection)
    slow.peer.send(masked_frame(TEXT) * BURST + masked_frame(TEXT, b"last"))
    block(slow)
    large = "1" * 100_001
    assert broadcast(connections(subscribers), large).called
    assert slow.connection.close_code == 1008
    assert first.payloads() == third.payloads() == [large.encode(), b"2"]
    assert last.payloads() == [large.encode(), b"2", b"3"]


def test_who_is_given_what_is_traced_sends_behind_the_broadcast(subscribe: Subscribe) -> None:
    """Such as one who shows the traffic of one connection on others."""
    subscribers = subscribe(3)
    first, traced, last = subscribers

    def show(_: str) -> None:
        for subscriber in (first, last):
            subscriber.connection.send("2")
        broadcast(connections([first, last]), "3")

    traced.connection.trace = Trace(show, frames=True)
    assert first.payloads() == last.payloads() == [b"2", b"3"]  # for the line that begins it
    assert broadcast(connections(subscribers), "1").called
    assert first.payloads() == last.payloads() == [b"1", b"2", b"3"]
    assert traced.payloads() == [b"1"]


def test_a_publisher_that_waits_is_never_ahead_and_starves_nobody(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    from twisted.internet.defer import ensureDeferred

    subscribers = subscribe(MANY)
    time.cost = SLICE / 10
    published = 0

    async def publish() -> None:
        nonlocal published
        for number in range(20):
            await broadcast(connections(subscribers), str(number))
            published += 1

    running: Any = ensureDeferred(publish())
    counts = []
    while not running.called:
        counts.append(published)
        turn(clock)
    assert len(counts) > 20
    assert max(after - before for before, after in pairwise(counts)) <= 1
    assert subscribers[-1].payloads() == [str(number).encode() for number in range(20)]


def test_a_publisher_that_does_not_wait_pays_for_it_itself(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """Never more than a few are pending; the oldest is finished in its call."""
    subscribers = subscribe(MANY)
    time.cost = SLICE
    sent = []
    for number in range(MOST_PENDING + 10):
        sent.append(broadcast(connections(subscribers), str(number)))
        assert sum(not done.called for done in sent) <= MOST_PENDING
    assert [done.called for done in sent] == [True] * 10 + [False] * MOST_PENDING
    turns(clock, sent[-1])
    expected = [str(number).encode() for number in range(MOST_PENDING + 10)]
    assert all(s.payloads() == expected for s in subscribers)


def test_pending_messages_are_bounded_in_bytes(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """Each counts once, however many are to get it; one may always be pending."""
    subscribers = subscribe(MANY, send_buffer=1_000_000)
    time.cost = SLICE
    sent = [broadcast(connections(subscribers), bytes(400_000)) for _ in range(5)]
    assert [done.called for done in sent] == [True, True, True, False, False]
    turns(clock, sent[-1])
    alone = broadcast(connections(subscribers), bytes(2_000_000))
    assert not alone.called
    turns(clock, alone)


def test_nobody_has_to_wait_for_it_and_who_does_may_cancel(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    """Cancelling ends the wait; the message goes to everybody all the same."""
    subscribers = subscribe(MANY)
    time.cost = SLICE
    failed: list[Any] = []
    done = broadcast(connections(subscribers), "news")
    done.addErrback(failed.append)
    done.cancel()
    assert failed[0].check(CancelledError)
    last = broadcast(connections(subscribers), "more")
    turns(clock, last)
    del done, last
    gc.collect()
    assert all(s.payloads() == [b"news", b"more"] for s in subscribers)


def test_a_slow_subscriber_meets_its_own_limit_and_nobody_elses(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY, send_buffer=1_000_000)
    slow = subscribers[MANY // 2]
    block(slow)
    time.cost = SLICE / 10
    for _ in range(10):
        turns(clock, broadcast(connections(subscribers), bytes(150_000)))
    assert slow.connection.close_code == 1008
    assert all(len(s.frames()) == 10 for s in subscribers if s is not slow)
    assert [s.connection.close_code for s in subscribers if s is not slow] == [None] * (MANY - 1)


# -------------------------------------------------------------------------------- compression


def inflating(bits: int = 15) -> Callable[[Frame], bytes]:
    """Return what a peer makes of frames, with one history for all of them."""
    history = zlib.decompressobj(-bits)

    def read(frame: Frame) -> bytes:
        if frame.rsv != 4:
            return frame.payload
        return history.decompress(frame.payload + b"\0\0\xff\xff")

    return read


def compress_of(subscriber: Subscriber) -> MessageDeflate:
    compress: MessageDeflate = subscriber.peer.protocol._perMessageCompress
    return compress


@pytest.fixture
def presses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note each compression that is made for all."""
    from wsframe.core.deflate import compress_alone
    from wsframe.protocol import shared

    made: list[tuple[int, int]] = []

    def compress(payload: bytes, bits: int, level: int) -> bytes:
        made.append((bits, level))
        return compress_alone(payload, bits, level)

    monkeypatch.setattr(shared, "compress_alone", compress)
    return made


def test_one_compression_serves_all_with_the_same_window(
    subscribe: Subscribe, presses: list[tuple[int, int]]
) -> None:
    plain = subscribe(2)
    common = subscribe(3, Deflate(), "permessage-deflate")
    small = subscribe(2, Deflate(), "permessage-deflate; server_max_window_bits=10")
    broadcast(connections([*plain, *common, *small]), WORDS)
    assert sorted(presses) == [(10, 5), (12, 5)]
    assert [s.frames() for s in plain] == [[Frame(TEXT, WORDS.encode())]] * 2
    for bits, subscribers in ((12, common), (10, small)):
        sent = [s.frames() for s in subscribers]
        assert all(frames == sent[0] for frames in sent)
        ((frame,), *_) = sent
        assert (frame.rsv, frame.opcode) == (4, TEXT)
        assert inflating(bits)(frame) == WORDS.encode()
        assert len(frame.payload) < len(WORDS) / 5


def test_who_only_gets_broadcasts_has_no_compressor(subscribe: Subscribe) -> None:
    (subscriber,) = subscribe(1, Deflate(), "permessage-deflate")
    for _ in range(3):
        broadcast([subscriber.connection], WORDS)
    assert compress_of(subscriber)._compressor is None
    subscriber.connection.send(WORDS)
    assert compress_of(subscriber)._compressor is not None


def test_the_threshold_holds_for_broadcasts(subscribe: Subscribe) -> None:
    (subscriber,) = subscribe(1, Deflate(threshold=len(WORDS)), "permessage-deflate")
    broadcast([subscriber.connection], WORDS[1:])
    broadcast([subscriber.connection], WORDS)
    assert [frame.rsv for frame in subscriber.frames()] == [0, 4]


@pytest.mark.parametrize(
    ("ours", "offer"),
    [
        (Deflate(threshold=0), "permessage-deflate"),
        (Deflate(threshold=100), "permessage-deflate; server_max_window_bits=9"),
        (Deflate(server_no_context_takeover=True), "permessage-deflate"),
        (Deflate(mem_level=1), "permessage-deflate; server_no_context_takeover"),
    ],
)
def test_broadcasts_and_sends_mixed_are_one_stream_for_the_peer(
    subscribe: Subscribe, ours: Deflate, offer: str
) -> None:
    """Whatever came before, each refers only to what the peer's window holds."""
    (subscriber,) = subscribe(1, ours, offer)
    sent = []
    for number in range(60):
        message = f"{number} {WORDS} {number * number}"[: 20 + 37 * (number % 30)]
        sent.append(message.encode())
        if number % 7 in {0, 3, 4}:
            broadcast([subscriber.connection], message)
        else:
            subscriber.connection.send(message)
    read = inflating()
    assert [read(frame) for frame in subscriber.frames()] == sent


def test_a_message_too_long_for_one_turn_is_compressed_in_many(
    clock: Clock, time: Time, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a connection that sends before it is ready finishes it for itself."""
    from wsframe.core.deflate import LONG_MESSAGE, Compression

    step = Compression.step

    def slow(self: Compression) -> bytes | None:
        time.now += SLICE / 2
        return step(self)

    monkeypatch.setattr(Compression, "step", slow)
    message = WORDS.encode() * (10 * LONG_MESSAGE // len(WORDS) + 1)
    subscribers = subscribe(3, Deflate(), "permessage-deflate")
    plain = subscribe(1)
    done = broadcast(connections([*subscribers, *plain]), message)
    assert [s.frames() for s in subscribers] == [[]] * 3
    turn(clock)
    assert time.now == pytest.approx(2 * SLICE)
    subscribers[0].connection.send("later")
    read = inflating()
    assert [read(frame) for frame in subscribers[0].frames()] == [message, b"later"]
    turns(clock, done)
    for subscriber in subscribers[1:]:
        assert [inflating()(frame) for frame in subscriber.frames()] == [message]
    assert plain[0].payloads() == [message]
    assert subscribers[0].frames() == []


def test_a_closed_connection_says_so_also_when_it_owed_something(
    clock: Clock, time: Time, subscribe: Subscribe
) -> None:
    subscribers = subscribe(MANY)
    time.cost = SLICE
    done = broadcast(connections(subscribers), "news")
    late = [s for s in subscribers if not s.peer.transport.written]
    late[0].peer.end()
    failed: list[Any] = []
    late[0].connection.send("x").addErrback(failed.append)
    assert failed[0].check(ConnectionClosed)
    turns(clock, done)
