"""What holds for both roles: limits, failing, closing, timers, backpressure, faulty applications.

`stock` in the name of a test says that it shows what Autobahn itself does, so that we learn when
that changes.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from autobahn.exception import Disconnected
from autobahn.twisted import websocket as stock
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    Recorder,
    answer,
    close_frame,
    frame,
    masked_frame,
    opened_client,
    opened_server,
    parse,
    request,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wsframe.clock import loop_watch
from wsframe.deadlines import deadlines_of
from wsframe.options import ClientOptions, ServerOptions
from wsframe.protocol import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)

MASK = b"\x0a\x0b\x0c\x0d"


class ServerProtocol(Recorder, WebSocketServerProtocol):
    pass


class ClientProtocol(Recorder, WebSocketClientProtocol):
    pass


class StockServer(Recorder, stock.WebSocketServerProtocol):
    pass


class StockClient(Recorder, stock.WebSocketClientProtocol):
    pass


@dataclass
class Role:
    """One side of a connection: how it is made, and how its peer's frames look."""

    name: str
    protocol: Any
    stock: Any
    clock: Clock

    def factory(self, protocol: Any = None, **options: Any) -> Any:
        if self.name == "server":
            factory: Any = WebSocketServerFactory(
                reactor=self.clock, options=ServerOptions(**options)
            )
        else:
            factory = WebSocketClientFactory(
                "ws://localhost", reactor=self.clock, options=ClientOptions(**options)
            )
        factory.protocol = protocol or self.protocol
        return factory

    def stock_factory(self) -> Any:
        if self.name == "server":
            factory: Any = stock.WebSocketServerFactory(reactor=self.clock)
        else:
            factory = stock.WebSocketClientFactory("ws://localhost", reactor=self.clock)
        factory.protocol = self.stock
        return factory

    def unopened(self, factory: Any = None) -> Peer:
        return Peer(factory or self.factory(), self.clock)

    def opened(self, protocol: Any = None, **options: Any) -> Peer:
        return self.open(self.factory(protocol, **options))

    def open(self, factory: Any) -> Peer:
        return opened_server(factory) if self.name == "server" else opened_client(factory)

    def subclass(self, **members: Any) -> Any:
        return type("Application", (self.protocol,), members)

    def frame(self, opcode: int, payload: bytes = b"", **fields: Any) -> bytes:
        return frame(opcode, payload, mask=MASK if self.name == "server" else b"", **fields)

    def close(self, code: int | None = 1000, reason: bytes = b"") -> bytes:
        return close_frame(code, reason, mask=MASK if self.name == "server" else b"")

    def our_mask(self, frame: Frame) -> bool:
        return bool(frame.mask) is (self.name == "client")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest, clock: Clock) -> Role:
    if request.param == "server":
        return Role("server", ServerProtocol, StockServer, clock)
    return Role("client", ClientProtocol, StockClient, clock)


@pytest.fixture(autouse=True)
def no_timer_on_the_global_reactor() -> Iterator[None]:
    """Everything here runs on a Clock: a call on the reactor would be somebody else's timer."""
    from twisted.internet import reactor

    this: Any = reactor
    before = set(this.getDelayedCalls())
    yield
    assert set(this.getDelayedCalls()) == before


# ------------------------------------------------------------------------------- limits by default


def test_stock_has_no_limits_and_no_keepalive(role: Role) -> None:
    factory = role.stock_factory()

    assert factory.maxMessagePayloadSize == factory.maxFramePayloadSize == 0
    assert factory.autoPingInterval == factory.autoPingTimeout == 0
    assert factory.failByDrop is True


def test_limits_and_keepalive_are_on_by_default(role: Role) -> None:
    factory = role.factory()

    assert factory.maxMessagePayloadSize == 1024 * 1024
    assert (factory.autoPingInterval, factory.autoPingTimeout) == (20, 20)
    assert factory.failByDrop is False
    assert factory.closeHandshakeTimeout == 10


def test_stock_leaves_small_messages_waiting_for_more(role: Role) -> None:
    """It means to switch Nagle's algorithm off, and reads the option before it is there."""
    factory = role.stock_factory()
    assert factory.tcpNoDelay is True
    assert not role.open(factory).transport.no_delay


def test_small_messages_are_sent_at_once(role: Role) -> None:
    assert role.unopened().transport.no_delay
    factory = role.factory()
    factory.setProtocolOptions(tcpNoDelay=False)
    assert not role.unopened(factory).transport.no_delay
    assert not role.unopened(role.factory(role.subclass(tcpNoDelay=False))).transport.no_delay


def test_a_message_over_the_limit_is_refused_on_its_header(role: Role) -> None:
    peer = role.opened(max_message_size=1000)

    peer.send(role.frame(BINARY, length=1001))

    assert [(f.opcode, f.code) for f in peer.frames()] == [(CLOSE, 1009)]
    assert peer.protocol.messages == []


def test_a_message_of_the_limit_is_received(role: Role) -> None:
    peer = role.opened(max_message_size=1000)

    peer.send(role.frame(BINARY, b"x" * 1000))

    assert peer.protocol.messages == [b"x" * 1000]


def test_the_limit_counts_a_message_and_not_a_frame(role: Role) -> None:
    peer = role.opened(max_message_size=1000)

    peer.send(role.frame(BINARY, b"x" * 600, fin=False), role.frame(0, length=401))

    assert peer.frames()[0].code == 1009


def test_a_huge_length_that_is_dripped_costs_no_memory(role: Role) -> None:
    peer = role.opened(protocol=None)
    peer.send(role.frame(BINARY, length=1 << 40))
    chunk = bytes(64 * 1024)
    tracemalloc.start()
    try:
        for _ in range(200):  # 12.5 MiB
            peer.send(chunk)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 256 * 1024
    assert peer.frames()[0].code == 1009


@pytest.mark.parametrize("size", [0, 1, 2])
def test_more_fragments_than_the_limit_are_refused(role: Role, size: int) -> None:
    peer = role.opened(max_fragments=10)

    peer.send(
        role.frame(TEXT, b"a" * size, fin=False), *[role.frame(0, b"a" * size, fin=False)] * 9
    )
    assert peer.frames() == []
    peer.send(role.frame(0, b"a" * size))

    assert peer.frames()[0].code == 1008
    assert peer.protocol.messages == []


def test_as_many_fragments_as_the_limit_are_received_and_counted_anew(role: Role) -> None:
    peer = role.opened(max_fragments=3)

    for _ in range(2):
        peer.send(role.frame(TEXT, b"a", fin=False), role.frame(0, b"b", fin=False))
        peer.send(role.frame(0, b"c"))

    assert peer.protocol.messages == [b"abc", b"abc"]


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_over_125_bytes_is_refused_on_its_header(role: Role, opcode: int) -> None:
    peer = role.opened()

    peer.send(role.frame(opcode, length=126)[:2])  # not even the mask is waited for

    assert peer.frames()[0].code == 1002
    peer.send(bytes(100_000))
    assert len(peer.protocol.data) == 0


# ---------------------------------------------------------------------------------------- failing


FAULTS = [
    pytest.param(lambda r: r.frame(3), 1002, id="reserved data opcode"),
    pytest.param(lambda r: r.frame(11), 1002, id="reserved control opcode"),
    pytest.param(lambda r: r.frame(TEXT, rsv=1), 1002, id="rsv without an extension"),
    pytest.param(lambda r: r.frame(TEXT, rsv=4), 1002, id="compression not agreed on"),
    pytest.param(lambda r: r.frame(PING, fin=False), 1002, id="fragmented control frame"),
    pytest.param(lambda r: r.frame(0, b"x"), 1002, id="continuation of nothing"),
    pytest.param(
        lambda r: r.frame(TEXT, b"x", fin=False) + r.frame(TEXT, b"y"), 1002, id="not continued"
    ),
    pytest.param(lambda r: r.frame(CLOSE, b"\x03"), 1002, id="close with one byte"),
    pytest.param(lambda r: r.close(1005), 1002, id="close code that may not travel"),
    pytest.param(lambda r: r.close(999), 1002, id="close code below 1000"),
    pytest.param(lambda r: r.close(5000), 1002, id="close code above 4999"),
    pytest.param(lambda r: r.close(1000, b"\xff"), 1007, id="close reason that is not UTF-8"),
    pytest.param(lambda r: r.frame(TEXT, b"\xff"), 1007, id="text that is not UTF-8"),
    pytest.param(lambda r: r.frame(TEXT, b"\xe2\x82"), 1007, id="text that ends in a character"),
    pytest.param(
        lambda r: r.frame(TEXT, b"\xe2\x82", fin=False) + r.frame(0, b"A"),
        1007,
        id="UTF-8 broken across fragments",
    ),
    pytest.param(
        lambda r: (
            b"\x82\x7e\x00\x05" + b"x" * 5
            if r.name == "client"
            else b"\x82\xfe\x00\x05" + MASK + b"x" * 5
        ),
        1002,
        id="length longer than needed",
    ),
    pytest.param(
        lambda r: frame(TEXT, b"x", mask=b"" if r.name == "server" else MASK), 1002, id="mask"
    ),
]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_the_peer_is_told_what_was_wrong(
    role: Role, fault: Callable[[Role], bytes], code: int
) -> None:
    peer = role.opened()

    peer.send(fault(role))

    frames = peer.frames()
    assert [(f.opcode, f.code) for f in frames] == [(CLOSE, code)]
    assert role.our_mask(frames[0])
    assert peer.transport.half_closed
    assert not peer.transport.aborted


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_after_a_fault_nothing_more_is_parsed(
    role: Role, fault: Callable[[Role], bytes], code: int
) -> None:
    peer = role.opened()

    peer.send(fault(role) + role.frame(BINARY, b"late") + role.frame(PING, b"late"))
    peer.send(role.frame(BINARY, b"later"), role.close(1000))

    assert len(peer.frames()) == 1
    assert peer.protocol.messages == []
    peer.end()
    assert peer.protocol.closed is not None
    assert peer.protocol.closed[:2] == (False, code)
    assert peer.timers() == []


def test_stock_drops_tcp_without_a_word(role: Role) -> None:
    peer = role.open(role.stock_factory())

    peer.send(role.frame(TEXT, b"\xff"))

    assert peer.transport.take() == b""
    assert peer.transport.aborted
    peer.end()


def test_a_fault_is_told_while_text_is_still_incomplete(role: Role) -> None:
    peer = role.opened()
    raw = role.frame(TEXT, b"ok\xffnot yet all of it")

    peer.send(raw[:-5])

    assert peer.frames()[0].code == 1007


def test_a_second_fault_is_not_a_second_close(role: Role) -> None:
    peer = role.opened()

    peer.protocol._fail_connection(1002, "first")
    peer.protocol._fail_connection(1008, "second")

    assert [f.code for f in peer.frames()] == [1002]


def test_a_fault_while_closing_ends_tcp_in_order(role: Role) -> None:
    peer = role.opened()
    peer.protocol.sendClose(1000)

    peer.send(role.frame(3))

    assert [f.code for f in peer.frames()] == [1000]
    assert peer.transport.half_closed
    peer.end()
    assert peer.protocol.closed[:2] == (False, 1000)
    assert peer.timers() == []


# ---------------------------------------------------------------------------------------- closing


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1012, 1013, 1014, 3000, 4999])
def test_every_code_that_may_travel_can_be_sent(role: Role, code: int) -> None:
    peer = role.opened()

    peer.protocol.sendClose(code, "why")

    assert peer.frames()[0].payload == code.to_bytes(2) + b"why"
    peer.send(role.close(code))
    peer.end()
    assert peer.protocol.closed == (True, code, "why")


def test_stock_sends_only_some_codes(role: Role) -> None:
    peer = role.open(role.stock_factory())

    with pytest.raises(Exception, match="invalid close code 1001"):
        peer.protocol.sendClose(1001)
    peer.end()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_a_code_that_may_not_travel_is_not_sent(role: Role, code: int) -> None:
    peer = role.opened()

    with pytest.raises(ValueError, match="may not be sent"):
        peer.protocol.sendClose(code)

    assert peer.frames() == []


def test_a_reason_needs_a_code_and_is_cut_in_whole_characters(role: Role) -> None:
    peer = role.opened()

    with pytest.raises(ValueError, match="needs a close code"):
        peer.protocol.sendClose(None, "why")
    peer.protocol.sendClose(1000, "€" * 100)

    assert peer.frames()[0].payload[2:] == "€".encode() * 41


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1011, 1012, 1013, 1014, 3000, 4999])
def test_every_code_that_may_travel_can_be_received(role: Role, code: int) -> None:
    peer = role.opened()

    peer.send(role.close(code, "wäre".encode()))

    assert peer.frames()[0].code == code
    peer.end()
    assert peer.protocol.closed == (True, code, "wäre")


def test_stock_takes_1014_for_a_fault(role: Role) -> None:
    peer = role.open(role.stock_factory())

    peer.send(role.close(1014))
    peer.end()

    assert peer.protocol.closed[:2] == (False, 1006)


def test_a_close_without_a_code_is_1005(role: Role) -> None:
    peer = role.opened()

    peer.send(role.close(None))

    assert peer.frames()[0].payload == b""
    peer.end()
    assert peer.protocol.closed == (True, 1005, "")


def test_what_follows_a_close_is_ignored(role: Role) -> None:
    peer = role.opened()

    peer.send(role.close(1000) + role.frame(BINARY, b"late"), role.frame(BINARY, b"later"))
    peer.send(b"\xff" * 100)

    assert [f.opcode for f in peer.frames()] == [CLOSE]
    assert peer.protocol.messages == []
    assert peer.protocol.data == b""


def test_a_close_is_answered_also_when_reading_was_paused_meanwhile(role: Role) -> None:
    def pause(self: Any, payload: bytes, isBinary: bool) -> None:
        self.pause_reading()

    peer = role.opened(role.subclass(onMessage=pause))

    peer.send(role.frame(BINARY, b"x") + role.close(1000))

    assert peer.frames()[0].code == 1000
    assert peer.transport.reading or peer.transport.losing  # else the end would never be seen


def test_only_the_server_ends_tcp(role: Role) -> None:
    peer = role.opened()

    peer.send(role.close(1000))

    assert peer.transport.losing is (role.name == "server")


@pytest.mark.parametrize("answered", [False, True])
def test_a_peer_that_keeps_tcp_open_is_aborted_after_our_close(role: Role, answered: bool) -> None:
    peer = role.opened(close_timeout=3)
    peer.protocol.sendClose(1000)
    if answered:
        peer.send(role.close(1000))

    peer.clock.advance(2.9)
    assert not peer.transport.aborted
    peer.clock.advance(0.2)

    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []
    assert peer.protocol.closed[1] == 1000


def test_a_peer_that_keeps_tcp_open_is_aborted_after_its_own_close(role: Role) -> None:
    peer = role.opened(close_timeout=3)
    peer.send(role.close(1001))

    peer.clock.advance(3.1)

    assert peer.transport.aborted
    peer.end()
    assert peer.protocol.closed[:2] == (True, 1001)
    assert peer.timers() == []


def test_a_peer_that_keeps_tcp_open_is_aborted_after_a_fault(role: Role) -> None:
    peer = role.opened(close_timeout=3)
    peer.send(role.frame(3))

    peer.clock.advance(3.1)

    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []


def test_stock_client_waits_for_ever_after_the_servers_close(clock: Clock) -> None:
    role = Role("client", ClientProtocol, StockClient, clock)
    peer = role.open(role.stock_factory())

    peer.send(role.close(1000))
    clock.advance(3600)

    assert not peer.transport.ending
    peer.end()


def test_a_peer_that_drips_data_does_not_put_the_end_off(role: Role) -> None:
    peer = role.opened(close_timeout=3)
    peer.protocol.sendClose(1000)

    for _ in range(31):
        peer.send(role.frame(BINARY, b"x"))
        peer.clock.advance(0.1)

    assert peer.transport.aborted
    peer.end()


def test_an_unclean_end_reports_the_code_that_is_known(role: Role) -> None:
    peer = role.opened()

    peer.protocol.sendClose(4001, "mine")
    peer.transport.reset()

    assert peer.protocol.closed == (False, 4001, "mine")


def test_the_end_without_a_close_frame_is_1006(role: Role) -> None:
    peer = role.opened()

    peer.transport.reset()

    clean, code, reason = peer.protocol.closed
    assert (clean, code) == (False, 1006)
    assert "lost in a non-clean fashion" in reason
    assert peer.timers() == []


def test_the_peers_code_is_reported_when_tcp_breaks_behind_it(role: Role) -> None:
    peer = role.opened()

    peer.send(role.close(1012, b"restart"))
    peer.transport.reset()

    assert peer.protocol.closed == (True, 1012, "restart")


def test_both_sides_closing_at_once_is_clean(role: Role) -> None:
    peer = role.opened()

    peer.protocol.sendClose(1000)
    peer.send(role.close(1001))
    peer.end()

    assert peer.protocol.closed == (True, 1000, "")
    assert [f.code for f in peer.frames()] == [1000]


def test_is_closed_fires_once(role: Role) -> None:
    peer = role.opened()
    closed: list[Any] = []
    peer.protocol.is_closed.addCallback(closed.append)

    peer.protocol.dropConnection(abort=True)
    peer.protocol.dropConnection(abort=True)
    peer.end()

    assert closed == [peer.protocol]
    assert peer.transport.aborted


def test_dropping_politely_lets_the_last_bytes_out(role: Role) -> None:
    peer = role.opened(close_timeout=3)

    peer.protocol.sendMessage(b"last")
    peer.protocol.dropConnection(abort=False)

    assert [f.payload for f in peer.frames()] == [b"last"]
    assert peer.transport.half_closed
    peer.clock.advance(3.1)
    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []


# ----------------------------------------------------------------------------------------- timers

ENDINGS: dict[str, Callable[[Role, Peer], None]] = {
    "lost while open": lambda _, p: p.transport.reset(),
    "lost after our close": lambda _, p: (p.protocol.sendClose(1000), p.end())[1],
    "lost after their close": lambda r, p: (p.send(r.close(1000)), p.end())[1],
    "clean": lambda r, p: (p.protocol.sendClose(1000), p.send(r.close(1000)), p.end())[2],
    "fault": lambda r, p: (p.send(r.frame(3)), p.end())[1],
    "aborted": lambda _, p: (p.protocol.abort("local", "x"), p.end())[1],
    "dropped": lambda _, p: (p.protocol.dropConnection(), p.end())[1],
    "dropped with abort": lambda _, p: (p.protocol.dropConnection(abort=True), p.end())[1],
    "closing timed out": lambda _, p: (p.protocol.sendClose(), p.clock.advance(11), p.end())[2],
    "keepalive timed out": lambda _, p: (p.clock.pump([5] * 12), p.end())[1],
    "ping unanswered": lambda _, p: (p.clock.advance(21), p.end())[1],
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_timer_is_left(role: Role, ending: str) -> None:
    peer = role.opened()
    assert peer.timers() != []

    ENDINGS[ending](role, peer)

    assert peer.timers() == []
    assert [event[0] for event in peer.protocol.events].count("close") == 1


def test_no_timer_is_left_of_a_handshake_that_breaks_off(role: Role) -> None:
    peer = role.unopened()
    assert peer.timers() != []

    peer.transport.reset()

    assert peer.timers() == []


def test_stock_leaves_the_timer_of_the_closing_handshake(role: Role) -> None:
    # Its timers are batched on txaio's loop, so the Clock has to be made that loop.
    import txaio

    before = txaio.config.loop
    txaio.config.loop = role.clock
    try:
        peer = role.open(role.stock_factory())
        peer.protocol.sendClose(1000)
        peer.transport.reset()

        assert peer.timers() != []
        role.clock.advance(2)
    finally:
        txaio.config.loop = before


def test_the_opening_handshake_has_a_deadline(role: Role) -> None:
    peer = role.unopened(role.factory(open_timeout=4))

    peer.clock.advance(3.9)
    assert not peer.transport.aborted
    peer.clock.advance(0.2)

    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []


# ---------------------------------------------------------------------------------------- is_open


def test_is_open_fires_when_open(role: Role) -> None:
    peer = role.opened()

    opened: list[Any] = []
    peer.protocol.is_open.addCallback(opened.append)

    assert opened == [None]


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("ending", ["lost", "timeout", "dropped"])
def test_is_open_fails_and_never_hangs(
    role: Role, ending: str, listening: bool, logged: Callable[[], str]
) -> None:
    peer = role.unopened()
    failures: list[Any] = []
    if listening:
        peer.protocol.is_open.addErrback(failures.append)

    if ending == "timeout":
        peer.clock.advance(11)
    elif ending == "dropped":
        peer.protocol.dropConnection(abort=True)
    peer.end()

    assert peer.protocol.is_open.called
    assert len(failures) == int(listening)
    del peer
    gc.collect()
    assert "Unhandled" not in logged()


def test_a_late_listener_hears_why_it_did_not_open(role: Role) -> None:
    peer = role.unopened()
    peer.clock.advance(11)
    peer.end()

    failures: list[Any] = []
    peer.protocol.is_open.addErrback(failures.append)

    assert type(failures[0].value).__name__ == "OpenTimeout"


def test_stock_never_fires_is_open_when_it_does_not_open(role: Role) -> None:
    peer = role.unopened(role.stock_factory())

    peer.transport.reset()

    assert not peer.protocol.is_open.called


# ------------------------------------------------------------------------- the application's faults


HOOKS = ["onMessage", "onPing", "onPong", "onOpen", "onMessageBegin", "onMessageFrameData"]


def provoke(role: Role, peer: Peer) -> None:
    peer.send(role.frame(PING), role.frame(PONG), role.frame(BINARY, b"x"))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_a_hook_closes_with_1011_and_is_logged(
    role: Role, hook: str, logged: Callable[[], str]
) -> None:
    def broken(self: Any, *args: Any) -> None:
        raise ZeroDivisionError("planted")

    peer = role.opened(role.subclass(**{hook: broken}))
    provoke(role, peer)

    assert [f.code for f in peer.frames() if f.opcode == CLOSE] == [1011]
    assert "planted" in logged()
    assert "192.0.2.1" in logged()
    peer.end()
    assert peer.timers() == []


def test_the_peer_is_not_told_what_the_exception_was(role: Role) -> None:
    def broken(self: Any, payload: bytes, isBinary: bool) -> None:
        raise RuntimeError("a secret")

    peer = role.opened(role.subclass(onMessage=broken))
    provoke(role, peer)

    assert b"secret" not in b"".join(f.payload for f in peer.frames())


def test_stock_lets_an_exception_of_on_message_out(role: Role) -> None:
    factory = role.stock_factory()
    factory.protocol = type(
        "Broken", (role.stock,), {"onMessage": lambda *_: (_ for _ in ()).throw(ZeroDivisionError)}
    )
    peer = role.open(factory)

    with pytest.raises(ZeroDivisionError):
        peer.send(role.frame(BINARY, b"x"))
    peer.end()


def test_an_exception_in_on_close_is_logged_and_nothing_else(
    role: Role, logged: Callable[[], str]
) -> None:
    def broken(self: Any, *args: Any) -> None:
        raise ZeroDivisionError("planted")

    peer = role.opened(role.subclass(onClose=broken))
    peer.transport.reset()

    assert "planted" in logged()
    assert peer.timers() == []


@pytest.mark.parametrize("hook", ["onMessage", "onOpen", "onPing", "onPong", "onClose"])
def test_hooks_may_be_async(role: Role, hook: str) -> None:
    waiting: Deferred[None] = Deferred()
    done: list[str] = []

    async def think(self: Any, *args: Any) -> None:
        done.append("began")
        await waiting
        done.append("ended")

    peer = role.opened(role.subclass(**{hook: think}))
    provoke(role, peer)
    peer.end()
    assert done == ["began"]
    waiting.callback(None)

    assert done == ["began", "ended"]


@pytest.mark.parametrize("hook", ["onMessage", "onOpen"])
def test_an_exception_in_an_async_hook_closes_with_1011(
    role: Role, hook: str, logged: Callable[[], str]
) -> None:
    waiting: Deferred[None] = Deferred()

    async def think(self: Any, *args: Any) -> None:
        await waiting
        raise ZeroDivisionError("planted")

    peer = role.opened(role.subclass(**{hook: think}))
    provoke(role, peer)
    waiting.callback(None)

    assert [f.code for f in peer.frames() if f.opcode == CLOSE] == [1011]
    assert "planted" in logged()


def test_stock_never_awaits_an_async_on_message(role: Role) -> None:
    began: list[int] = []

    async def think(self: Any, payload: bytes, isBinary: bool) -> None:
        began.append(1)

    factory = role.stock_factory()
    factory.protocol = type("Async", (role.stock,), {"onMessage": think})
    peer = role.open(factory)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        peer.send(role.frame(BINARY, b"x"))  # freed, and warned of, at once

    assert began == []
    peer.end()


def test_what_autobahns_hooks_are_told(role: Role) -> None:
    peer = role.opened()

    peer.send(role.frame(TEXT, "ä".encode()), role.frame(BINARY, b"\xff"), role.close(3000, b"bye"))
    peer.end()

    assert peer.protocol.events == [
        ("open",),
        ("message", "ä".encode(), False),
        ("message", b"\xff", True),
        ("close", True, 3000, "bye"),
    ]


# ---------------------------------------------------------------------------------------- sending


def test_messages_are_framed_for_the_role(role: Role) -> None:
    peer = role.opened()

    peer.protocol.sendMessage(b"text")
    peer.protocol.sendMessage(b"\x00" * 70_000, isBinary=True)
    peer.protocol.sendMessage(b"")
    peer.protocol.sendPing(b"p")

    frames = peer.frames()
    assert all(role.our_mask(f) for f in frames)
    assert [(f.opcode, f.payload) for f in frames] == [
        (TEXT, b"text"),
        (BINARY, b"\x00" * 70_000),
        (TEXT, b""),
        (PING, b"p"),
    ]


def test_a_message_is_sent_in_fragments(role: Role) -> None:
    peer = role.opened()

    peer.protocol.sendMessage(b"abcde", fragmentSize=2)

    assert [(f.opcode, f.payload, f.fin) for f in peer.frames()] == [
        (TEXT, b"ab", False),
        (0, b"cd", False),
        (0, b"e", True),
    ]


def test_a_message_is_streamed(role: Role) -> None:
    peer = role.opened()
    protocol = peer.protocol

    protocol.beginMessage(isBinary=True)
    protocol.beginMessageFrame(4)
    assert protocol.sendMessageFrameData(b"ab") == 2
    assert protocol.sendMessageFrameData(b"cdX") == -1
    protocol.beginMessageFrame(0)
    protocol.sendMessageFrameData(b"")
    protocol.sendMessageFrame(b"ef")
    protocol.endMessage()

    assert [(f.opcode, f.payload, f.fin) for f in peer.frames()] == [
        (BINARY, b"abcd", False),
        (0, b"", False),
        (0, b"ef", False),
        (0, b"", True),
    ]


def test_streaming_out_of_turn_is_an_error(role: Role) -> None:
    peer = role.opened()

    with pytest.raises(RuntimeError, match="outside a message"):
        peer.protocol.beginMessageFrame(1)
    peer.protocol.beginMessage()
    with pytest.raises(ValueError, match="length of a frame"):
        peer.protocol.beginMessageFrame(-1)


def test_chopped_data_keeps_its_order_and_runs_on_our_reactor(role: Role) -> None:
    peer = role.opened(ping_interval=None)

    peer.protocol.sendFrame(BINARY, b"abcd", chopsize=1)
    peer.protocol.sendMessage(b"next")
    peer.clock.pump([0] * 20)

    assert [f.payload for f in peer.frames()] == [b"abcd", b"next"]
    assert peer.timers() == []


def test_sending_is_refused_when_not_open(role: Role) -> None:
    peer = role.opened()
    peer.protocol.sendClose(1000)
    peer.transport.take()

    with pytest.raises(Disconnected):
        peer.protocol.sendMessage(b"late")
    peer.protocol.sendPing()
    peer.protocol.beginMessage()

    assert peer.transport.take() == b""


@pytest.mark.parametrize("payload", ["text", bytearray(b"x"), None])
def test_a_payload_is_bytes(role: Role, payload: Any) -> None:
    peer = role.opened()

    with pytest.raises(TypeError, match="bytes"):
        peer.protocol.sendMessage(payload)


def test_a_message_over_the_limit_on_received_ones_can_be_sent(role: Role) -> None:
    peer = role.opened(max_message_size=10)

    peer.protocol.sendMessage(b"x" * 11)

    assert len(peer.frames()[0].payload) == 11


# ----------------------------------------------------------------------------------- backpressure


class Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def fill(peer: Peer) -> None:
    """Let the transport's buffer be full."""
    peer.transport.stalled = True
    peer.protocol.sendMessage(b"x" * 100_000, isBinary=True)
    assert peer.protocol.blocked


def test_the_applications_producer_is_paused_and_resumed(role: Role) -> None:
    peer = role.opened()
    producer = Producer()
    peer.protocol.registerProducer(producer, True)

    fill(peer)
    assert producer.calls == ["pause"]
    peer.transport.drain()
    assert producer.calls == ["pause", "resume"]
    peer.end()

    assert producer.calls == ["pause", "resume", "stop"]


def test_a_producer_registered_while_the_buffer_is_full_is_paused(role: Role) -> None:
    peer = role.opened()
    producer = Producer()

    fill(peer)
    peer.protocol.registerProducer(producer, True)

    assert producer.calls == ["pause"]


def test_an_unregistered_producer_is_left_alone(role: Role) -> None:
    peer = role.opened()
    producer = Producer()
    peer.protocol.registerProducer(producer, True)
    peer.protocol.unregisterProducer()

    fill(peer)
    peer.end()

    assert producer.calls == []


def test_a_producer_is_stopped_once_also_after_a_fault(role: Role) -> None:
    peer = role.opened()
    producer = Producer()
    peer.protocol.registerProducer(producer, True)

    peer.send(role.frame(3))
    peer.end()

    assert producer.calls == ["stop"]


def test_a_producer_is_not_resumed_when_the_buffer_is_full_again(role: Role) -> None:
    peer = role.opened()
    producer = Producer()
    peer.protocol.registerProducer(producer, True)
    fill(peer)
    type(peer.protocol).unblocked = lambda self: self.sendMessage(b"y" * 100_000)  # type: ignore[method-assign]
    try:
        peer.transport.drain()
    finally:
        del type(peer.protocol).unblocked

    assert peer.protocol.blocked
    assert "resume" not in producer.calls


def test_there_is_one_push_producer(role: Role) -> None:
    peer = role.opened()
    with pytest.raises(ValueError, match="push"):
        peer.protocol.registerProducer(Producer(), False)
    peer.protocol.registerProducer(Producer(), True)

    with pytest.raises(RuntimeError, match="unregister"):
        peer.protocol.registerProducer(Producer(), True)


def test_what_may_wait_to_be_sent_is_bounded(role: Role) -> None:
    peer = role.opened(send_buffer=50_000)
    fill(peer)

    for _ in range(5):
        peer.protocol.sendMessage(b"y" * 9_000)
    assert not peer.transport.ending
    peer.protocol.sendMessage(b"y" * 9_000)
    assert peer.transport.half_closed
    with pytest.raises(Disconnected):
        peer.protocol.sendMessage(b"y")

    assert parse(peer.transport.drain())[-1].code == 1008
    peer.end()
    assert peer.protocol.closed[:2] == (False, 1008)
    assert peer.timers() == []


def test_the_bound_holds_within_a_fragmented_message(role: Role) -> None:
    peer = role.opened(send_buffer=10_000)
    fill(peer)

    peer.protocol.sendMessage(b"y" * 1_000_000, fragmentSize=1000)

    assert len(peer.transport.waiting) < 100_000 + 12_000
    frames = parse(peer.transport.drain())
    assert frames[-1].opcode == CLOSE  # and no fragment follows it


def test_a_drained_buffer_counts_anew(role: Role) -> None:
    peer = role.opened(send_buffer=50_000)

    for _ in range(20):
        fill(peer)
        peer.protocol.sendMessage(b"y" * 40_000)
        peer.transport.drain()

    assert not peer.transport.ending


def test_pings_are_ponged(role: Role) -> None:
    peer = role.opened()

    peer.send(role.frame(PING, b"a"), role.frame(PING), role.frame(PING, b"x" * 125))

    frames = peer.frames()
    assert [(f.opcode, f.payload) for f in frames] == [
        (PONG, b"a"),
        (PONG, b""),
        (PONG, b"x" * 125),
    ]
    assert all(role.our_mask(f) for f in frames)


def test_a_ping_inside_a_fragmented_message_is_ponged_at_once(role: Role) -> None:
    peer = role.opened()

    peer.send(role.frame(TEXT, b"a", fin=False), role.frame(PING, b"p"))
    assert [f.opcode for f in peer.frames()] == [PONG]
    peer.send(role.frame(0, b"b"))

    assert peer.protocol.messages == [b"ab"]


def test_a_ping_flood_from_a_peer_that_does_not_read_owes_one_pong(role: Role) -> None:
    peer = role.opened()
    fill(peer)
    waiting = len(peer.transport.waiting)

    for i in range(1000):
        peer.send(role.frame(PING, b"%d" % i))

    assert len(peer.transport.waiting) == waiting
    peer.transport.drain()
    assert [(f.opcode, f.payload) for f in parse(peer.transport.drain())] == [(PONG, b"999")]
    assert peer.transport.drain() == b""


def test_stock_queues_every_pong(role: Role) -> None:
    peer = role.open(role.stock_factory())
    peer.transport.stalled = True

    for _ in range(100):
        peer.send(role.frame(PING, b"x" * 100))

    assert len(peer.transport.waiting) > 100 * 100
    peer.end()


def test_an_owed_pong_is_not_sent_behind_a_close(role: Role) -> None:
    peer = role.opened()
    fill(peer)
    peer.send(role.frame(PING, b"late"))

    peer.protocol.sendClose(1000)
    frames = parse(peer.transport.drain() + peer.transport.drain())

    assert [f.opcode for f in frames[1:]] == [CLOSE]


def test_reading_is_paused_and_resumed_once(role: Role) -> None:
    peer = role.opened()

    peer.protocol.pause_reading()
    peer.protocol.pause_reading()
    assert not peer.transport.reading
    assert peer.transport.pauses == 1
    peer.protocol.resume_reading()

    assert peer.transport.reading


def test_reading_is_not_resumed_on_a_transport_that_is_gone(role: Role) -> None:
    peer = role.opened()
    peer.protocol.pause_reading()

    peer.end()
    peer.protocol.resume_reading()  # the transport would object


# -------------------------------------------------------------------------------------- keepalive


def test_a_ping_is_sent_and_its_latency_measured(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=5)

    peer.clock.advance(6.9)
    assert peer.frames() == []
    peer.clock.advance(0.2)
    (ping,) = peer.frames()
    assert ping.opcode == PING
    peer.clock.advance(0.25)
    peer.send(role.frame(PONG, ping.payload))

    assert peer.protocol.keepalive.round_trip.last == pytest.approx(0.25)
    peer.clock.advance(6.9)
    assert peer.frames() == []
    peer.clock.advance(0.2)
    assert [f.opcode for f in peer.frames()] == [PING]


def test_the_payloads_of_pings_cannot_be_guessed(role: Role) -> None:
    peer = role.opened(ping_interval=7)
    payloads = set()

    for _ in range(3):
        peer.clock.advance(7)
        (ping,) = peer.frames()
        payloads.add(ping.payload)
        peer.send(role.frame(PONG, ping.payload))

    assert len(payloads) == 3


def test_a_silent_peer_is_given_up(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=4)

    peer.clock.advance(7)
    peer.clock.pump([0.25] * 15)
    assert not peer.transport.aborted
    peer.clock.pump([0.25] * 2)

    assert peer.transport.aborted
    peer.end()
    assert peer.protocol.closed == (False, 1011, "keepalive ping timeout")
    assert peer.timers() == []


def test_a_pong_that_nobody_asked_for_is_no_answer(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=4)

    peer.clock.advance(7)
    peer.send(role.frame(PONG, b"unasked"))
    assert peer.protocol.keepalive.round_trip.last is None
    peer.clock.pump([0.5] * 10)

    assert peer.transport.aborted


def test_a_peer_that_sends_is_alive_though_its_pong_is_late(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=4)

    peer.clock.advance(7)
    for byte in role.frame(BINARY, b"x" * 60):  # one long message, dripped
        peer.clock.advance(0.2)
        peer.send(bytes([byte]))

    assert not peer.transport.ending
    assert peer.protocol.messages == [b"x" * 60]


def test_time_in_which_we_did_not_read_is_not_held_against_the_peer(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=4)

    peer.protocol.pause_reading()
    peer.clock.pump([0.5] * 60)
    assert not peer.transport.ending
    peer.protocol.resume_reading()
    peer.clock.pump([0.5] * 30)

    assert peer.transport.aborted


def test_no_interval_means_no_ping(role: Role) -> None:
    peer = role.opened(ping_interval=None)

    peer.clock.pump([60] * 60)

    assert peer.frames() == []
    assert peer.timers() == []


def test_no_timeout_means_pinging_and_waiting_for_ever(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=None)

    peer.clock.pump([3.5] * 100)

    assert [f.opcode for f in peer.frames()] == [PING] * 50
    assert not peer.transport.ending


def test_a_pong_that_is_overdue_ends_a_connection_whose_bytes_flow(role: Role) -> None:
    peer = role.opened(ping_interval=7, ping_timeout=4, pong_timeout=32)

    for _ in range(38):
        assert not peer.transport.aborted
        peer.clock.advance(1)
        peer.send(role.frame(BINARY, b"x"))
    peer.clock.advance(1)

    assert peer.transport.aborted
    peer.end()
    assert peer.protocol.closed == (False, 1011, "keepalive pong timeout")


def test_a_peer_that_sends_no_message_is_told_so(role: Role) -> None:
    """Its pongs, and what is not a whole message, do not count."""
    peer = role.opened(ping_interval=7, message_timeout=96)

    for byte in role.frame(BINARY, bytes(60))[:47]:
        peer.send(bytes([byte]))
        peer.clock.advance(2)
    assert not [f for f in peer.frames() if f.opcode == CLOSE]
    peer.clock.advance(2)

    (close,) = [f for f in peer.frames() if f.opcode == CLOSE]
    assert (close.code, close.payload[2:]) == (3008, b"no message for 96 s")
    peer.end()
    assert peer.protocol.closed == (False, 3008, "no message for 96 s")
    assert peer.timers() == []


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_message_in_time_keeps_the_connection(role: Role, fragments: int) -> None:
    peer = role.opened(ping_interval=None, message_timeout=100)

    for _ in range(10):
        peer.clock.pump([9] * 11)
        for number in range(fragments):
            opcode = 0 if number else TEXT
            peer.send(role.frame(opcode, b"x", fin=number == fragments - 1))

    assert peer.frames() == []
    assert len(peer.protocol.messages) == 10


def test_a_peer_that_takes_nothing_is_given_up(role: Role) -> None:
    """However much it sends."""
    peer = role.opened(ping_interval=None, write_timeout=60)

    fill(peer)
    for _ in range(59):
        peer.clock.advance(1)
        peer.send(role.frame(TEXT, b"and I talk"))
    assert not peer.transport.ending
    peer.clock.advance(1)

    assert peer.transport.aborted
    peer.end()
    reason = "the peer took nothing that waits to be sent for 60 s"
    assert peer.protocol.closed == (False, 1006, reason)
    assert peer.protocol.closing.settle().by == "local"
    assert peer.timers() == []


def test_a_peer_that_reads_in_time_is_kept(role: Role) -> None:
    """Each time it takes what was waiting, it has the whole time again; at the end nobody waits."""
    peer = role.opened(ping_interval=None, write_timeout=60)

    for _ in range(10):
        fill(peer)
        peer.clock.pump([5] * 11)
        peer.transport.drain()
    peer.clock.pump([5] * 60)

    assert not peer.transport.ending
    assert peer.timers() == []


def test_a_full_buffer_from_before_the_opening_counts(clock: Clock) -> None:
    factory = Role("client", ClientProtocol, StockClient, clock).factory(
        ping_interval=None, write_timeout=60
    )
    peer = Peer(factory, clock)
    head = peer.transport.take()
    peer.transport.stalled = True
    peer.transport.write(bytes(100_000))
    assert peer.protocol.blocked

    peer.send(answer(head))
    clock.pump([5] * 13)

    assert peer.transport.aborted
    peer.end()


def test_no_write_timeout_means_waiting_for_ever(role: Role) -> None:
    peer = role.opened(ping_interval=None, write_timeout=None)

    fill(peer)

    assert peer.timers() == []


def test_a_ping_that_reading_was_paused_for_is_no_latency(role: Role) -> None:
    told: list[Any] = []
    protocol = role.subclass(onAutoPong=lambda self, *args: told.append(args))
    peer = role.opened(protocol, ping_interval=7)
    peer.clock.advance(7)
    (ping,) = peer.frames()
    peer.protocol.pause_reading()
    peer.clock.advance(5)
    peer.protocol.resume_reading()

    peer.send(role.frame(PONG, ping.payload))

    assert told == []
    assert peer.protocol.keepalive.round_trip.last is None
    peer.clock.advance(7)
    assert [f.opcode for f in peer.frames()] == [PING]


def test_a_blocked_loop_is_reported_once_and_ends_no_connection(
    role: Role, logged: Callable[[], str]
) -> None:
    """For all connections together; the timers come first, and then what was unread."""
    factory = role.factory(ping_interval=20, ping_timeout=20, message_timeout=30, write_timeout=30)
    peers = [role.open(factory) for _ in range(20)]
    for peer in peers:
        fill(peer)
        peer.transport.stalled = False
    role.clock.pump([0.5] * 40)

    role.clock.advance(65)
    for peer in peers:
        peer.transport.drain()
        peer.send(role.frame(TEXT, b"said meanwhile"))

    role.clock.pump([1] * 15)
    assert not any(peer.transport.ending for peer in peers)
    assert logged().count("The event loop was blocked for at least 6") == 1
    watch = loop_watch(role.clock)
    assert watch.count == 1
    assert 60 <= watch.last <= 65
    for peer in peers:
        peer.end()


def test_after_a_blocked_loop_the_dead_are_found(role: Role) -> None:
    peer = role.opened(ping_interval=20, ping_timeout=20)
    role.clock.advance(20)

    role.clock.advance(60)
    assert not peer.transport.ending
    assert [f.opcode for f in peer.frames()] == [PING, PING]
    role.clock.pump([1] * 21)

    assert peer.transport.aborted
    peer.end()


def test_a_system_clock_that_is_set_back_is_no_blocked_loop(role: Role) -> None:
    """Timers that go by it run out late by the monotonic clock, and in time by their own."""
    peer = role.opened(ping_interval=20)
    ahead = 0.0
    deadlines = deadlines_of(role.clock)
    deadlines.now = peer.protocol._now = lambda: role.clock.seconds() + ahead
    ahead = 3600.0

    role.clock.advance(20)

    assert [f.opcode for f in peer.frames()] == [PING]
    assert loop_watch(role.clock).count == 0
    peer.end()


def test_the_pong_to_our_ping_needs_no_parser(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one read or in several; one with another payload does."""
    told: list[bytes] = []
    protocol = role.subclass(onPong=lambda self, payload: told.append(payload))
    peer = role.opened(protocol, ping_interval=7)
    peer.clock.advance(7)
    (ping,) = peer.frames()
    parsed: list[bytes] = []
    original = type(peer.protocol).processData
    monkeypatch.setattr(
        type(peer.protocol),
        "processData",
        lambda self: (parsed.append(self.data), original(self))[1],
    )
    pong = role.frame(PONG, ping.payload)
    peer.send(pong[:3], pong[3:] + role.frame(PONG, b"another"))
    assert told == [ping.payload, b"another"]
    assert not any(ping.payload in data for data in parsed)
    peer.end()


def test_all_connections_share_one_delayed_call(role: Role) -> None:
    factory = role.factory(ping_interval=20, ping_timeout=20)
    peers = [role.open(factory) for _ in range(100)]
    assert len(role.clock.getDelayedCalls()) == 1
    role.clock.advance(20)
    assert [[f.opcode for f in peer.frames()] for peer in peers] == [[PING]] * 100
    assert len(role.clock.getDelayedCalls()) == 1
    for peer in peers[:50]:
        peer.protocol.sendClose(1000)  # these wait for the answer
    assert len(role.clock.getDelayedCalls()) == 1
    for peer in peers:
        peer.end()
    assert role.clock.getDelayedCalls() == []


def test_no_ping_is_sent_while_closing(role: Role) -> None:
    peer = role.opened(ping_interval=1, close_timeout=10)
    peer.protocol.sendClose(1000)
    peer.transport.take()

    peer.clock.pump([1] * 5)

    assert peer.frames() == []


def test_an_autobahn_application_is_told_of_the_latency(role: Role) -> None:
    told: list[Any] = []
    protocol = role.subclass(onAutoPong=lambda self, *args: told.append(args))
    peer = role.opened(protocol, ping_interval=7)
    peer.clock.advance(7)
    (ping,) = peer.frames()
    peer.clock.advance(0.125)

    peer.send(role.frame(PONG, ping.payload))

    ((sent, _, received, milliseconds, payload),) = told
    assert received - sent == 125_000_000
    assert milliseconds == 125
    assert payload == ping.payload


def test_intervals_can_be_set_on_the_factory_and_on_the_protocol(role: Role) -> None:
    factory = role.factory()
    factory.setProtocolOptions(autoPingInterval=3, autoPingTimeout=2)
    one = role.open(factory)
    factory.protocol = role.subclass(autoPingInterval=50)
    other = role.open(factory)

    role.clock.advance(3)

    assert [f.opcode for f in one.frames()] == [PING]
    assert other.frames() == []
    role.clock.advance(47)
    assert [f.opcode for f in other.frames()] == [PING]


# ----------------------------------------------------------------------------------- whole streams

PAYLOADS = st.binary(max_size=200) | st.text(max_size=40).map(str.encode)
FRAMES = st.builds(
    lambda opcode, payload, fin, rsv: masked_frame(opcode, payload, fin=fin, rsv=rsv),
    st.sampled_from([TEXT, BINARY, BINARY, 0, PING, PONG, CLOSE, 3, 11]),
    PAYLOADS,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0, 0, 0, 0, 0, 4]),
)
GOOD = st.builds(masked_frame, st.sampled_from([BINARY, PING, PONG]), st.binary(max_size=120))
FRAGMENTED = st.lists(st.binary(max_size=50), min_size=2, max_size=5).map(
    lambda parts: b"".join(
        masked_frame(0 if i else BINARY, part, fin=i == len(parts) - 1)
        for i, part in enumerate(parts)
    )
)
STREAMS = st.lists(
    st.one_of(GOOD, GOOD, FRAGMENTED, FRAMES, st.binary(max_size=30)), max_size=12
).map(b"".join)


def outcome(stream: bytes, cuts: list[int], pause: float = 0) -> tuple[Any, ...]:
    """Feed the stream, cut at those places; return what came out."""
    clock = Clock()
    factory = WebSocketServerFactory(
        reactor=clock, options=ServerOptions(max_message_size=300, max_fragments=4)
    )
    factory.protocol = ServerProtocol
    peer = opened_server(factory)
    places = sorted({min(cut, len(stream)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        peer.send(stream[start:end])
        clock.advance(pause)
    sent = parse(peer.transport.take())
    peer.end()
    assert clock.getDelayedCalls() == []
    assert peer.protocol.data == b"" or peer.protocol.closed[1] == 1006
    return peer.protocol.events, sent


@settings(max_examples=150)
@given(STREAMS, st.lists(st.integers(0, 1500), max_size=20))
@example(masked_frame(BINARY, b"x", fin=False) + masked_frame(0, b"y" * 300), [3])
@example(b"\x88\xff", [1])
@example(masked_frame(CLOSE) + b"\x00", [2, 5])
def test_any_stream_cut_anywhere_gives_the_same(stream: bytes, cuts: list[int]) -> None:
    """Nothing is raised, no timer is left, and the cutting makes no difference."""
    assert outcome(stream, cuts) == outcome(stream, [])


@settings(max_examples=40)
@given(STREAMS)
def test_any_stream_byte_by_byte_gives_the_same(stream: bytes) -> None:
    assert outcome(stream, list(range(len(stream)))) == outcome(stream, [])


@settings(max_examples=60)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_any_bytes_before_the_handshake_are_survived(data: bytes, cuts: list[int]) -> None:
    clock = Clock()
    for factory, prefix in (
        (WebSocketServerFactory(reactor=clock), b"GET / HTTP/1.1\r\n"),
        (WebSocketClientFactory("ws://localhost", reactor=clock), b"HTTP/1.1 101 x\r\n"),
    ):
        for stream in (data, prefix + data + b"\r\n\r\n"):
            peer = Peer(factory, clock)
            places = sorted({min(cut, len(stream)) for cut in cuts})
            for start, end in zip([0, *places], [*places, len(stream)], strict=True):
                peer.send(stream[start:end])
            peer.end()
            assert peer.protocol.is_open.called
            assert clock.getDelayedCalls() == []


def test_what_an_application_logs_appears_without_its_debug_lines(
    role: Role, logged: Callable[[], str]
) -> None:
    """`self.log` is Twisted's logger, with Autobahn's flood of debug lines stopped."""

    def say(self: Any, *_: object) -> None:
        self.log.info("a line for {whom}", whom="everybody")
        self.log.debug("a line for nobody")

    role.opened(role.subclass(onMessage=say)).send(role.frame(TEXT, b"x"))
    assert "a line for everybody" in logged()
    assert "nobody" not in logged()


def test_the_helpers_make_what_the_rfc_shows() -> None:
    """RFC 6455 §5.7."""
    key = b"\x37\xfa\x21\x3d"
    assert frame(TEXT, b"Hello", mask=key).hex() == "818537fa213d7f9f4d5158"
    assert parse(bytes.fromhex("818537fa213d7f9f4d5158")) == [Frame(TEXT, b"Hello", mask=key)]
    assert answer(request()).startswith(b"HTTP/1.1 101")
