"""The fast lane in its protocol: what it takes, what it leaves to Autobahn's parser, and when."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import pytest_twisted
from integration.raw import connect_raw, eventually, turns, upgrade
from memory import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Peer,
    answer,
    frame,
    masked_close,
    masked_frame,
    request,
)
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock

from wsframe.awaiting import run
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosedOK
from wsframe.options import Deflate, ServerOptions
from wsframe.protocol import (
    ConnectionServerFactory,
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from wsframe.protocol.deflate import accept_offer
from wsframe.protocol.receiving import INFLATED, LARGE_FRAME, PARSED_A_TURN, TAKEN_A_TURN
from wsframe.protocol.tcp import is_reading

CONTINUATION = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Noting:
    """Notes its messages, and how many frames Autobahn's parser was given."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[bytes, bool]] = []
        self.parsed = 0

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.got.append((payload, isBinary))

    def processControlFrame(self) -> Any:
        self.parsed += 1
        return super().processControlFrame()  # type: ignore[misc]


class Server(Noting, WebSocketServerProtocol):
    pass


class Client(Noting, WebSocketClientProtocol):
    pass


class Frames(Server):
    """Wants to see frames."""

    def onMessageFrame(self, payload: Any) -> None:
        self.got.append((b"".join(payload), self.message_is_binary))
        super().onMessageFrame(payload)


def served(clock: Clock, kind: type = Server, **options: Any) -> Peer:
    factory = WebSocketServerFactory(reactor=clock)
    factory.protocol = kind
    factory.setProtocolOptions(**options)
    peer = Peer(factory, clock)
    peer.send(request())
    peer.transport.take()
    return peer


def connected(clock: Clock) -> Peer:
    factory = WebSocketClientFactory("ws://localhost/", reactor=clock)
    factory.protocol = Client
    peer = Peer(factory, clock)
    peer.send(answer(peer.transport.take()))
    return peer


def deflating(clock: Clock) -> Peer:
    """Return a server with which permessage-deflate was agreed on."""
    factory = WebSocketServerFactory(reactor=clock)
    factory.protocol = Server
    factory.setProtocolOptions(perMessageCompressionAccept=accept_offer(Deflate(), 1 << 20))
    peer = Peer(factory, clock)
    peer.send(request(("Sec-WebSocket-Extensions", "permessage-deflate")))
    peer.transport.take()
    return peer


def compressed(opcode: int, *payloads: bytes) -> list[bytes]:
    """Return a frame for each of these messages; they share a window."""
    compressor = zlib.compressobj(wbits=-12)
    return [masked_frame(opcode, deflated(each, compressor), rsv=4) for each in payloads]


def deflated(payload: bytes, compressor: Any = None) -> bytes:
    """Return the payload of a compressed message."""
    compressor = compressor or zlib.compressobj(wbits=-12)
    compressed: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed[:-4]


def no_parser(protocol: Any) -> None:
    """Fail the test if Autobahn's parser is asked."""

    def asked() -> None:
        raise AssertionError(f"parsed {protocol.data!r}")

    protocol.processData = asked


def test_messages_do_not_meet_the_parser(clock: Clock) -> None:
    peer = served(clock)
    no_parser(peer.protocol)
    messages = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * 2000, b"e" * 70_000]

    peer.send(b"".join(masked_frame(BINARY, each) for each in messages))
    peer.send(masked_frame(TEXT, "größer".encode()))

    assert peer.protocol.got == [
        *((each, True) for each in messages),
        ("größer".encode(), False),
    ]


def test_compressed_messages_do_not_meet_the_parser(clock: Clock) -> None:
    """With lengths of one byte, of two and of eight, and plain ones between them."""
    peer = deflating(clock)
    no_parser(peer.protocol)
    words = b"the same again, "
    long, longer = random.Random(1).randbytes(300), random.Random(2).randbytes(70_000)
    messages = [words, words, b"", long, longer, words]
    peer.send(masked_frame(TEXT, b"1").join(compressed(BINARY, *messages)))
    peer.send(b"".join(compressed(TEXT, "größer".encode())))
    expected = [each for one in messages for each in ((one, True), (b"1", False))]
    assert peer.protocol.got == [*expected[:-1], ("größer".encode(), False)]


def test_a_listener_that_comes_with_a_message_hears_the_compressed_one_behind_it(
    clock: Clock,
) -> None:
    """Autobahn's parser is what tells those."""
    peer = deflating(clock)
    heard: list[bytes] = []

    def received(payload: bytes, isBinary: bool) -> None:
        if not heard and payload == b"first":
            peer.protocol.on("message", lambda payload, **_: heard.append(payload))

    peer.protocol.onMessage = received
    peer.send(masked_frame(BINARY, b"first") + compressed(BINARY, b"second")[0])
    assert heard == [b"first", b"second"]  # it is fired behind `onMessage`


def test_a_client_takes_what_is_not_masked(clock: Clock) -> None:
    peer = connected(clock)
    no_parser(peer.protocol)
    peer.send(frame(BINARY, b"a") + frame(TEXT, b"b" * 300))
    assert peer.protocol.got == [(b"a", True), (b"b" * 300, False)]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000, LARGE_FRAME])
def test_large_messages_come_together_from_any_reads(clock: Clock, step: int) -> None:
    peer = served(clock)
    text = "ä€𝄞" * (LARGE_FRAME // 9 + 1 if step > 100 else 20)
    stream = masked_frame(TEXT, text.encode()) + masked_frame(BINARY, text.encode())
    for start in range(0, len(stream), step):
        peer.send(stream[start : start + step])
    assert peer.protocol.got == [(text.encode(), False), (text.encode(), True)]


def test_the_lane_goes_on_behind_a_control_frame(clock: Clock) -> None:
    """The parser gets that one frame."""
    peer = served(clock)
    peer.send(
        masked_frame(BINARY, b"1")
        + masked_frame(PING, b"p")
        + masked_frame(PONG, b"q")
        + masked_frame(BINARY, b"2")
        + masked_frame(PING, b"r")
    )
    assert peer.protocol.got == [(b"1", True), (b"2", True)]
    assert peer.protocol.parsed == 3
    assert [f.payload for f in peer.frames()] == [b"p", b"r"]


@pytest.mark.parametrize("cut", range(1, 60))
def test_fragments_and_messages_alternate_wherever_reads_end(clock: Clock, cut: int) -> None:
    peer = served(clock)
    stream = (
        masked_frame(BINARY, b"1")
        + masked_frame(TEXT, b"ab", fin=False)
        + masked_frame(PING, b"p")
        + masked_frame(CONTINUATION, b"cd")
        + masked_frame(TEXT, b"2")
        + masked_frame(BINARY, b"3" * 10)
    )
    peer.send(stream[:cut])
    peer.send(stream[cut:])
    assert peer.protocol.got == [
        (b"1", True),
        (b"abcd", False),
        (b"2", False),
        (b"3" * 10, True),
    ]
    no_parser(peer.protocol)
    peer.send(masked_frame(BINARY, b"4"))
    assert peer.protocol.got[-1] == (b"4", True)


def test_a_message_within_a_fragmented_one_is_refused(clock: Clock) -> None:
    """The lane is closed as long as one is under way."""
    peer = served(clock)
    peer.send(masked_frame(TEXT, b"ab", fin=False) + masked_frame(BINARY, b"1"))
    assert peer.protocol.got == []
    assert peer.frames()[-1].code == 1002


@pytest.mark.parametrize("split", [None, 8, 40])
def test_text_that_is_not_utf8_is_refused_after_what_came_before(
    clock: Clock, split: int | None
) -> None:
    peer = served(clock)
    bad = masked_frame(TEXT, b"x" * 20 + b"\xff" + b"y" * 20)
    peer.send(masked_frame(BINARY, b"before") + bad[:split])
    if split is not None:
        peer.send(bad[split:])
    assert peer.protocol.got == [(b"before", True)]
    (close,) = peer.frames()
    assert (close.code, close.payload[2:]) == (1007, b"the text is not UTF-8")


def test_a_frame_over_the_limit_is_refused_on_its_head(clock: Clock) -> None:
    peer = served(clock, maxMessagePayloadSize=1000)
    peer.send(masked_frame(BINARY, b"x" * 1000) + masked_frame(BINARY, b"x" * 1001)[:8])
    assert peer.protocol.got == [(b"x" * 1000, True)]
    assert peer.frames()[-1].code == 1009


def test_the_smaller_limit_holds(clock: Clock) -> None:
    peer = served(clock, maxMessagePayloadSize=1000, maxFramePayloadSize=10)
    peer.send(masked_frame(BINARY, b"x" * 10) + masked_frame(BINARY, b"x" * 11))
    assert peer.protocol.got == [(b"x" * 10, True)]
    assert peer.frames()[-1].code == 1009


class Small(Server):
    maxMessagePayloadSize = 5


class Asked(Server):
    limit = 5

    @property
    def maxMessagePayloadSize(self) -> int:
        return self.limit

    @maxMessagePayloadSize.setter
    def maxMessagePayloadSize(self, limit: int) -> None:
        self.limit = limit


@pytest.mark.parametrize("name", ["maxMessagePayloadSize", "maxFramePayloadSize"])
def test_a_limit_that_is_changed_between_reads_holds(clock: Clock, name: str) -> None:
    peer = served(clock)
    for limit in (10, 0, 5):
        setattr(peer.protocol, name, limit)
        assert getattr(peer.protocol, name) == limit
        peer.send(masked_frame(BINARY, b"x" * (limit or 2_000)))
    peer.send(masked_frame(BINARY, b"x" * 6))
    assert [len(payload) for payload, _ in peer.protocol.got] == [10, 2_000, 5]
    assert peer.frames()[-1].code == 1009


@pytest.mark.parametrize("kind", [Small, Asked])
def test_a_limit_of_the_class_holds_until_it_is_changed(clock: Clock, kind: type) -> None:
    """By attribute or by property: there the lane asks anew for each frame."""
    peer = served(clock, kind)
    no_parser(peer.protocol)
    peer.send(masked_frame(BINARY, b"x" * 5))
    peer.protocol.maxMessagePayloadSize = 10
    peer.send(masked_frame(BINARY, b"x" * 10))
    peer.protocol.maxMessagePayloadSize = 3
    del peer.protocol.processData
    peer.send(masked_frame(BINARY, b"x" * 4))
    assert [len(payload) for payload, _ in peer.protocol.got] == [5, 10]
    assert peer.frames()[-1].code == 1009


def test_a_frame_that_has_begun_is_not_judged_anew(clock: Clock) -> None:
    peer = served(clock)
    begun = masked_frame(BINARY, b"x" * 100)
    peer.send(begun[:50])
    peer.protocol.maxMessagePayloadSize = 10
    peer.send(begun[50:] + masked_frame(BINARY, b"y" * 11))
    assert peer.protocol.got == [(b"x" * 100, True)]
    assert peer.frames()[-1].code == 1009


def test_a_protocol_that_wants_frames_has_the_parser(clock: Clock) -> None:
    assert Server.lane
    assert not Frames.lane
    peer = served(clock, Frames)
    peer.send(masked_frame(BINARY, b"x"))
    assert peer.protocol.got == [(b"x", True), (b"x", True)]


@pytest.mark.parametrize("attribute", [("logFrames", True), ("applyMask", False)])
def test_options_that_concern_frames_close_the_lane(
    clock: Clock, attribute: tuple[str, bool]
) -> None:
    class Odd(Server):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, *attribute)

    assert served(clock).protocol.lane
    assert not served(clock, Odd).protocol.lane


def test_the_event_message_is_fired(clock: Clock) -> None:
    """For those who asked for it, by the parser."""
    peer = served(clock)
    fired: list[Any] = []
    peer.protocol.on("message", lambda payload, is_binary: fired.append((payload, is_binary)))
    peer.send(masked_frame(TEXT, b"x"))
    assert fired == [(b"x", False)] == peer.protocol.got


def test_a_listener_that_fails_harms_nobody(clock: Clock) -> None:
    """Whether the lane fires the event, as for these two, or the parser."""
    failed: list[Deferred[Any]] = []

    def listener(payload: bytes, is_binary: bool) -> Deferred[Any]:
        failed.append(fail(RuntimeError("planted")))
        return failed[-1]

    class Listening(Server):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            if len(self.got) == 1:
                self.on("message", listener)

    peer = served(clock, Listening)
    peer.send(masked_frame(BINARY, b"1") + masked_frame(BINARY, b"2"))
    assert [payload for payload, _ in peer.protocol.got] == [b"1", b"2"]
    assert peer.frames() == []
    assert len(failed) == 2
    for each in failed:
        each.addErrback(lambda _: None)


def test_nothing_is_taken_behind_the_end(clock: Clock) -> None:
    peer = served(clock)
    peer.send(masked_frame(BINARY, b"1") + masked_close(1000) + masked_frame(BINARY, b"2"))
    peer.send(masked_frame(BINARY, b"3"))
    assert peer.protocol.got == [(b"1", True)]
    assert [f.opcode for f in peer.frames()] == [CLOSE]


def test_a_message_handler_that_fails_ends_the_read(clock: Clock) -> None:
    class Failing(Server):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            raise RuntimeError("planted")

    peer = served(clock, Failing)
    peer.send(masked_frame(BINARY, b"1") + masked_frame(BINARY, b"2"))
    assert peer.protocol.got == [(b"1", True)]
    assert peer.frames()[-1].code == 1011


def test_traffic_is_counted_as_the_parser_does(clock: Clock) -> None:
    class Parsed(Server):
        def receive_frames(self, data: bytes) -> None:
            self._dataReceived(data)

    counted = []
    for kind in (Server, Parsed):
        peer = served(clock, kind)
        peer.send(masked_frame(TEXT, b"ab") + masked_frame(BINARY, b"x" * 300)[:100])
        peer.send(masked_frame(BINARY, b"x" * 300)[100:])
        peer.protocol.sendMessage(b"back")
        counted.append(peer.protocol.trafficStats.__json__())
    assert counted[0] == counted[1]
    assert counted[0]["incomingOctetsAppLevel"] == 302


# ------------------------------------------------------------------- what is left for a later turn


@pytest.mark.parametrize("fragments", [False, True])
def test_nothing_is_handed_out_while_reading_is_paused(clock: Clock, fragments: bool) -> None:
    """Whatever a read brought: it goes on where it was, once reading is resumed."""

    class Pausing(Server):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            self.pause_reading()

    peer = served(clock, Pausing)
    message = masked_frame(BINARY, b"1")
    if fragments:
        message = masked_frame(BINARY, b"", fin=False) + masked_frame(CONTINUATION, b"1")
    # A control frame in between ends what the lane takes at once.
    peer.send((message + masked_frame(PONG, b"")) * 3)
    for count in (1, 2, 3):
        assert len(peer.protocol.got) == count
        assert not peer.transport.reading
        clock.advance(0)
        assert len(peer.protocol.got) == count
        peer.protocol.resume_reading()
        assert len(peer.protocol.got) == count  # nobody is called back while he calls
        clock.advance(0)
    assert peer.transport.reading


@pytest.mark.parametrize(
    ("frames", "a_turn"),
    [
        ([masked_frame(PING, b"")], PARSED_A_TURN),
        ([masked_frame(BINARY, b"x")], TAKEN_A_TURN),
        (compressed(BINARY, b"x"), PARSED_A_TURN),
        (
            [masked_frame(TEXT, b"a", fin=False), masked_frame(CONTINUATION, b"b")],
            PARSED_A_TURN,
        ),
    ],
)
def test_a_read_of_many_frames_is_taken_in_several_turns(
    clock: Clock, frames: list[bytes], a_turn: int
) -> None:
    """Nothing is read meanwhile, nothing lost, and the order is kept."""
    peer = deflating(clock)
    turns = 4
    times = turns * a_turn // len(frames)
    peer.send(b"".join(frames) * times + masked_frame(BINARY, b"last"))
    assert not peer.transport.reading
    assert peer.protocol.parsed + len(peer.protocol.got) == times // turns
    clock.advance(0)  # runs what is due until nothing is
    assert peer.transport.pauses == turns
    assert peer.transport.reading
    assert peer.protocol.got[-1] == (b"last", True)
    assert peer.protocol.parsed + len(peer.protocol.got) - 1 == times


def test_what_a_layer_of_tls_still_has_comes_behind_the_rest(clock: Clock) -> None:
    peer = served(clock)
    peer.send(masked_frame(PING, b"") * PARSED_A_TURN + masked_frame(BINARY, b"1"))
    peer.protocol.dataReceived(masked_frame(BINARY, b"2"))
    assert peer.protocol.got == []
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True), (b"2", True)]


def test_what_is_left_is_counted_once(clock: Clock) -> None:
    peer = served(clock)
    stream = masked_frame(PING, b"") * PARSED_A_TURN * 3 + masked_frame(BINARY, b"1")
    peer.send(stream)
    peer.protocol.dataReceived(stream)
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True)] * 2
    assert peer.protocol.trafficStats.incomingOctetsWireLevel == 2 * len(stream)


def test_a_pause_while_something_is_left_holds_it(clock: Clock) -> None:
    peer = served(clock)
    peer.send(masked_frame(PING, b"") * PARSED_A_TURN + masked_frame(BINARY, b"1"))
    peer.protocol.pause_reading()
    clock.advance(0)
    assert peer.protocol.got == []
    peer.protocol.resume_reading()
    assert not peer.transport.reading
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True)]
    assert peer.transport.reading


def test_a_connection_that_fails_reads_on_to_the_end_of_tcp(clock: Clock) -> None:
    """What was left is thrown away."""
    peer = served(clock)
    peer.send(masked_frame(PING, b"") * PARSED_A_TURN + masked_frame(BINARY, b"1"))
    peer.protocol._fail_connection(1011, "of another fault")
    assert peer.transport.reading
    clock.advance(0)
    assert peer.protocol.got == []


class Ending(Server):
    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.got.append((wasClean, code))


LEFT = masked_frame(PING, b"") * PARSED_A_TURN + masked_frame(BINARY, b"1")


def test_an_end_waits_for_what_was_left(clock: Clock) -> None:
    """TLS hands out what it has though it is paused, and then the end, which may be in there."""
    peer = served(clock, Ending)
    peer.send(LEFT + masked_close(1000))
    peer.protocol.dataReceived(masked_frame(BINARY, b"behind the end"))
    peer.end()
    assert peer.protocol.got == []
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True), (True, 1000)]
    assert peer.timers() == []


def test_an_end_waits_for_a_reader_that_pauses(clock: Clock) -> None:
    peer = served(clock, Ending)
    peer.send(LEFT)
    peer.protocol.pause_reading()
    peer.end()
    clock.advance(0)
    assert peer.protocol.got == []
    peer.protocol.sendMessage(b"to nobody")
    assert peer.protocol.transport.getPeer() == peer.transport.getPeer()
    peer.protocol.resume_reading()
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True), (False, 1006)]
    assert peer.timers() == []


def test_a_reset_takes_what_was_left_with_it(clock: Clock) -> None:
    peer = served(clock, Ending)
    peer.send(LEFT)
    peer.protocol.pause_reading()
    peer.transport.reset()
    assert peer.protocol.got == [(False, 1006)]
    assert peer.timers() == []


def test_who_waits_to_send_before_he_reads_does_not_hold_the_end_up(clock: Clock) -> None:
    made: list[Connection] = []

    def opened(wire: Any) -> Connection:
        made.append(Connection(wire))
        return made[-1]

    options = ServerOptions(ping_interval=None, receive_queue=1)
    factory = ConnectionServerFactory(opened, reactor=clock, options=options)
    peer = Peer(factory, clock)
    peer.send(request())
    peer.transport.stalled = True
    (connection,) = made
    came = []

    async def echo() -> None:
        async for message in connection:
            came.append(len(message))
            with suppress(ConnectionClosedOK):
                await connection.send(message)

    done = run(echo)
    large = masked_frame(BINARY, bytes(100_000))
    peer.send(large * 2 + LEFT + masked_close(1000))
    assert not done.called
    peer.end()
    clock.advance(0)
    assert done.called
    assert came == [100_000, 100_000, 1]
    assert connection.close_code == 1000
    assert peer.timers() == []


def test_an_end_waits_no_longer_when_the_connection_is_given_up(clock: Clock) -> None:
    peer = served(clock, Ending)
    peer.send(LEFT)
    peer.protocol.pause_reading()
    peer.end()
    peer.protocol.dropConnection(abort=True)
    clock.advance(0)
    assert peer.protocol.got == [(False, 1006)]
    assert peer.timers() == []


@pytest.mark.parametrize("last", [masked_close(1000), b"\xff"], ids=["close", "fault"])
def test_an_end_met_in_a_later_turn_has_the_end_of_tcp_read(clock: Clock, last: bytes) -> None:
    peer = served(clock)
    peer.send(masked_frame(BINARY, b"") * TAKEN_A_TURN + masked_frame(BINARY, b"1") + last)
    assert not peer.transport.reading
    clock.advance(0)
    assert len(peer.protocol.got) == TAKEN_A_TURN + 1
    assert peer.transport.reading


def test_what_comes_behind_the_opening_handshake_is_bounded_like_any_read(clock: Clock) -> None:
    factory = WebSocketServerFactory(reactor=clock)
    factory.protocol = Server
    peer = Peer(factory, clock)
    peer.send(request() + masked_frame(PING, b"") * PARSED_A_TURN + masked_frame(BINARY, b"1"))
    assert peer.protocol.parsed == PARSED_A_TURN
    assert peer.protocol.got == []
    clock.advance(0)
    assert peer.protocol.got == [(b"1", True)]


def test_what_inflates_to_much_is_bounded_in_a_turn(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KiB of it would be 64 MiB for the application, in one turn."""
    due: list[Callable[[], None]] = []
    size = 256 * 1024
    peer = deflating(clock)
    monkeypatch.setattr(clock, "callLater", lambda _, function: due.append(function))
    payload = deflated(bytes(size))
    whole = masked_frame(BINARY, payload, rsv=4)
    parts = masked_frame(BINARY, payload[:9], rsv=4, fin=False) + masked_frame(0, payload[9:])
    peer.send(whole * 40 + parts * 40)
    a_turn = PARSED_A_TURN * INFLATED // size
    seen = [len(peer.protocol.got)]
    while due:
        due.pop(0)()
        seen.append(len(peer.protocol.got))
    assert seen[-1] == 80
    assert max(after - before for before, after in pairwise([0, *seen])) <= a_turn


def test_texts_that_are_not_checked_may_come_in_parts(clock: Clock) -> None:
    peer = served(clock, utf8validateIncoming=False)
    frame = masked_frame(TEXT, "gr\xfc\xdfe".encode("latin-1"))
    peer.send(frame + frame[:-2])
    peer.send(frame[-2:])
    assert peer.protocol.got == [(b"gr\xfc\xdfe", False)] * 2


def test_an_application_may_hear_on_in_another_way(clock: Clock) -> None:
    """Set in the middle of a read it holds from the next message on, as for the parser."""
    heard: list[bytes] = []

    class LoggingIn(Server):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            super().onMessage(payload, isBinary)
            self.onMessage = lambda payload, _: heard.append(payload)  # type: ignore[method-assign]

    peer = served(clock, LoggingIn)
    peer.send(b"".join(masked_frame(BINARY, payload) for payload in (b"name", b"1", b"2")))
    assert peer.protocol.got == [(b"name", True)]
    assert heard == [b"1", b"2"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("count", [10, 3 * TAKEN_A_TURN])
async def test_an_application_that_pauses_its_transport_is_not_overruled(count: int) -> None:
    from twisted.internet import reactor

    made: list[Any] = []

    class Pausing(Server):
        def onOpen(self) -> None:
            made.append(self)

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            if not self.got:
                self.transport.pauseProducing()
            super().onMessage(payload, isBinary)

    factory = WebSocketServerFactory(reactor=reactor)
    factory.protocol = Pausing
    listening: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    client = await connect_raw(listening.getHost().port)
    try:
        client.write(upgrade())
        await client.read_head()
        made[0].dataReceived(masked_frame(BINARY, b"") * count)
        await eventually(lambda: len(made[0].got) == count)
        await turns(3)
        assert not is_reading(made[0].transport)
    finally:
        await client.drop()
        made[0].transport.resumeProducing()
        await eventually(lambda: factory.getConnectionCount() == 0)
        await listening.stopListening()


def test_a_read_of_small_bombs_fills_no_more_than_the_queue(clock: Clock) -> None:
    """64 KiB of them would inflate to 64 MiB."""
    compressor = zlib.compressobj(9, wbits=-12)
    payload = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    made: list[Connection] = []

    def opened(wire: Any) -> Connection:
        made.append(Connection(wire))
        return made[-1]

    factory = ConnectionServerFactory(
        opened, reactor=clock, options=ServerOptions(), compression=Deflate()
    )
    peer = Peer(factory, clock)
    peer.send(request(("Sec-WebSocket-Extensions", "permessage-deflate")))
    bomb = masked_frame(BINARY, payload[:-4], rsv=4)
    peer.send(bomb * (65536 // len(bomb)))
    (connection,) = made
    assert len(connection._messages) == 1
    peer.end()
