"""The bridge from the protocols to a `Listener`: `process_request`, principals, what is told."""

from __future__ import annotations

import gc
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
    answer,
    frame,
    masked_close,
    masked_frame,
    parse,
    request,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from wsframe.core.http import Response
from wsframe.core.uri import parse_uri
from wsframe.errors import ConnectionClosed, Reject
from wsframe.options import ClientOptions, ServerOptions
from wsframe.protocol import (
    Accept,
    ConnectionClientFactory,
    ConnectionServerFactory,
    SharedMessage,
)
from wsframe.trace import Trace


class Listener:
    """Notes what it is told."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.events: list[Any] = []

    def messages_received(self, messages: list[Any], octets: int) -> None:
        self.events += messages

    def deliver(self) -> None:
        self.delivered = len(self.events)

    def pong_received(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def transport_unblocked(self) -> None:
        self.events.append("unblocked")

    def sending_ended(self) -> None:
        self.events.append("sending ended")

    def transport_lost(self, outcome: ConnectionClosed) -> None:
        self.events.append(outcome)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def serve(clock: Clock, process_request: Any = None, **options: Any) -> Any:
    return ConnectionServerFactory(
        Listener, reactor=clock, options=ServerOptions(**options), process_request=process_request
    )


def asked(clock: Clock, process_request: Any, data: bytes | None = None) -> Peer:
    peer = Peer(serve(clock, process_request), clock)
    peer.send(request() if data is None else data)
    return peer


def status(peer: Peer) -> int:
    head = peer.transport.written.decode("latin-1")
    return int(head.split(" ")[1]) if head else 0


def opened(clock: Clock, **options: Any) -> Peer:
    peer = Peer(serve(clock, **options), clock)
    peer.send(request())
    assert status(peer) == 101
    peer.transport.take()
    return peer


def connected(clock: Clock, **options: Any) -> Peer:
    factory = ConnectionClientFactory(
        Listener,
        parse_uri("ws://localhost/x"),
        headers=(("X-A", "1"),),
        origin=None,
        subprotocols=("a",),
        reactor=clock,
        options=ClientOptions(**options),
    )
    peer = Peer(factory, clock)
    peer.send(answer(peer.transport.take(), ("Sec-WebSocket-Protocol", "a")))
    return peer


def ends_with_nothing_left(peer: Peer) -> None:
    assert peer.transport.ending
    peer.end()
    assert peer.timers() == []
    gc.collect()


# --------------------------------------------------------------------------------- process_request


def test_without_a_judge_everyone_is_admitted(clock: Clock) -> None:
    peer = opened(clock)

    assert peer.protocol.listener.wire is peer.protocol
    assert peer.protocol.principal is None
    assert peer.protocol.subprotocol is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_accept_names_the_principal_and_adds_headers(clock: Clock, asynchronous: bool) -> None:
    verdict = Accept("alice", headers=[("Set-Cookie", "a=1"), ("X", "y"), ("Set-Cookie", "b=2")])

    async def later(request: Any) -> Accept:
        return verdict

    peer = asked(clock, later if asynchronous else lambda request: verdict)

    assert status(peer) == 101
    head = peer.transport.take().decode()
    assert head.count("Set-Cookie: ") == 2
    assert "X: y\r\n" in head
    assert peer.protocol.principal == "alice"
    assert peer.protocol.response.headers["X"] == "y"


def test_the_judge_sees_the_request(clock: Clock) -> None:
    seen: list[Any] = []

    asked(clock, seen.append, request(("Cookie", "c=1"), target="/p?q=1"))

    (found,) = seen
    assert (found.path, found.query, found.headers["cookie"]) == ("/p", "q=1", "c=1")
    assert found.peer == "tcp4:192.0.2.1:54321"
    assert found.is_upgrade


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_response_answers_what_is_no_upgrade(clock: Clock, method: str) -> None:
    data = f"{method} /health HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    peer = asked(clock, lambda request: Response(200, body=b"fine"), data)

    assert status(peer) == 200
    assert b"Content-Length: 4\r\n" in peer.transport.written
    assert peer.transport.written.endswith(b"fine") is (method == "GET")
    ends_with_nothing_left(peer)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_letting_a_plain_request_through_is_a_426(clock: Clock, method: str) -> None:
    data = f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    peer = asked(clock, lambda request: None, data)

    assert status(peer) == 426
    ends_with_nothing_left(peer)


def test_a_response_answers_an_upgrade_too(clock: Clock) -> None:
    peer = asked(clock, lambda request: Response(302, [("Location", "/there")]))

    assert status(peer) == 302
    assert b"Location: /there\r\n" in peer.transport.written
    ends_with_nothing_left(peer)


def test_a_reject_says_status_headers_and_body(clock: Clock) -> None:
    def judge(request: Any) -> None:
        raise Reject(429, "slowly", {"Retry-After": "7"})

    peer = asked(clock, judge)

    assert status(peer) == 429
    assert b"Retry-After: 7\r\n" in peer.transport.written
    assert peer.transport.written.endswith(b"\r\n\r\nslowly\n")
    ends_with_nothing_left(peer)


def test_a_reject_without_a_body_says_the_phrase(clock: Clock) -> None:
    async def judge(request: Any) -> None:
        raise Reject(403)

    peer = asked(clock, judge)

    assert peer.transport.written.endswith(b"\r\n\r\n403 Forbidden\n")


def test_a_reject_with_500_keeps_its_own_body(clock: Clock) -> None:
    async def judge(request: Any) -> None:
        raise Reject(500, "our database is down")

    assert asked(clock, judge).transport.written.endswith(b"our database is down\n")


def raises(error: Exception) -> Callable[..., None]:
    def judge(*given: Any) -> None:
        raise error

    return judge


@pytest.mark.parametrize(
    "judge",
    [
        pytest.param(raises(ValueError("secret")), id="an exception"),
        pytest.param(lambda request: "secret", id="a text"),
        pytest.param(lambda request: True, id="True"),
        pytest.param(lambda request: False, id="False"),
        pytest.param(lambda request: Response(101), id="an interim status"),
        pytest.param(lambda request: Response(200, [("X", "secret\r\nY: z")]), id="CR LF"),
        pytest.param(lambda request: Accept("a", {"X": "secret\r\nY: z"}), id="CR LF in Accept"),
        pytest.param(raises(Reject(403, "no", {"X": "secret\r\nY: z"})), id="CR LF in Reject"),
        pytest.param(raises(Reject(403, "no", {"X": 5})), id="a number"),  # type: ignore[dict-item]
        pytest.param(raises(CancelledError()), id="cancelled by itself"),
    ],
)
def test_a_judge_that_fails_is_a_500_without_details(
    clock: Clock, judge: Any, logged: Callable[[], str]
) -> None:
    peer = asked(clock, judge)

    assert status(peer) == 500
    assert b"secret" not in peer.transport.written
    assert b"Y: z" not in peer.transport.written
    assert b"close\r\n" in peer.transport.written
    assert "peer" in logged() or "process_request" in logged() or "refuse" in logged()
    ends_with_nothing_left(peer)
    assert "Unhandled" not in logged()


def test_a_client_that_leaves_cancels_the_judge(clock: Clock, logged: Callable[[], str]) -> None:
    cancelled: list[Any] = []
    peer = asked(clock, lambda request: Deferred(cancelled.append))

    peer.end()

    assert len(cancelled) == 1
    assert peer.transport.take() == b""
    assert peer.timers() == []
    assert logged() == ""  # it is nobody's fault


def test_a_judge_that_takes_too_long_is_cancelled(clock: Clock, logged: Callable[[], str]) -> None:
    cancelled: list[Any] = []
    peer = asked(clock, lambda request: Deferred(cancelled.append))

    clock.advance(10.1)
    assert peer.transport.aborted
    peer.end()

    assert len(cancelled) == 1
    assert peer.timers() == []
    assert "Error" not in logged()


@pytest.mark.parametrize("verdict", [None, Accept("late"), Response(200), Reject(403), "odd"])
def test_a_judge_that_will_not_be_cancelled_decides_nothing(
    clock: Clock, verdict: Any, logged: Callable[[], str]
) -> None:
    wait: Deferred[None] = Deferred()

    async def stubborn(request: Any) -> Any:
        with suppress(CancelledError):
            await wait
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    peer = asked(clock, stubborn)
    peer.end()

    assert peer.transport.take() == b""
    assert peer.protocol.listener is None
    assert peer.timers() == []
    assert "Error" not in logged()
    assert "not an answer" not in logged()


def test_frames_that_come_while_the_judge_thinks_are_kept_in_order(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    peer = asked(clock, lambda request: thinking, request() + masked_frame(TEXT, b"1"))

    peer.send(masked_frame(TEXT, b"2")[:4], masked_frame(TEXT, b"2")[4:])
    assert peer.protocol.listener is None
    thinking.callback(None)

    assert peer.protocol.listener.events == ["1", "2"]


def test_what_comes_while_the_judge_thinks_is_bounded(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    peer = asked(clock, lambda request: thinking)
    sent = 0
    while peer.transport.reading:
        peer.send(masked_frame(BINARY, b"x" * 1000))
        sent += 1
        assert sent < 200

    thinking.callback(None)

    assert peer.transport.reading
    assert len(peer.protocol.listener.events) == sent


def test_the_first_of_our_subprotocols_is_taken(clock: Clock) -> None:
    peer = Peer(serve(clock, subprotocols=("x", "b", "a")), clock)

    peer.send(request(("Sec-WebSocket-Protocol", "a, b")))

    assert peer.protocol.subprotocol == "b"
    assert b"Sec-WebSocket-Protocol: b\r\n" in peer.transport.written


# ---------------------------------------------------------------------------------- what is told


def test_a_client_tells_its_listener_the_same(clock: Clock) -> None:
    peer = connected(clock)

    peer.send(frame(TEXT, b"t"), frame(BINARY, b"b"))

    wire = peer.protocol
    assert wire.listener.events == ["t", b"b"]
    assert wire.subprotocol == "a"
    assert wire.request.headers["X-A"] == "1"
    assert wire.response.status == 101


def test_frames_behind_a_servers_answer_find_the_listener(clock: Clock) -> None:
    factory = connected(clock).protocol.factory
    peer = Peer(factory, clock)

    peer.send(answer(peer.transport.take()) + frame(BINARY, b"first"))

    assert peer.protocol.listener.events == [b"first"]


def test_pongs_reach_the_listener_and_the_keepalive(clock: Clock) -> None:
    peer = opened(clock, ping_interval=5)
    clock.advance(5)
    (ping,) = peer.frames()
    clock.advance(0.5)

    peer.send(masked_frame(PONG, ping.payload), masked_frame(PONG, b"other"))

    assert peer.protocol.round_trip.last == pytest.approx(0.5)
    assert peer.protocol.listener.events == [("pong", ping.payload), ("pong", b"other")]


def test_sending_through_the_wire(clock: Clock) -> None:
    peer = opened(clock)

    peer.protocol.send_message(b"t", False)
    peer.protocol.send_ping(b"p")
    assert peer.protocol.send_shared(SharedMessage(b"ready made", True))
    peer.send(masked_frame(PING, b"q"))

    assert [(f.opcode, f.payload) for f in peer.frames()] == [
        (TEXT, b"t"),
        (PING, b"p"),
        (BINARY, b"ready made"),
        (PONG, b"q"),
    ]


def test_a_client_masks_what_servers_share(clock: Clock) -> None:
    peer = connected(clock)

    assert peer.protocol.send_shared(SharedMessage(b"shared", True))

    (found,) = peer.frames()
    assert found.payload == b"shared"
    assert found.mask


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("why", ["blocked", "traced"])
def test_what_would_call_somebody_is_not_sent_quietly(clock: Clock, role: str, why: str) -> None:
    peer = opened(clock) if role == "server" else connected(clock)
    assert peer.protocol.send_shared(SharedMessage(b"1", True), quietly=True)
    if why == "traced":
        peer.protocol.use_trace(Trace(lambda _: None, frames=True))
    else:
        peer.transport.stalled = True
        peer.protocol.send_message(bytes(100_000), True)
        assert peer.protocol.blocked

    assert not peer.protocol.send_shared(SharedMessage(b"2", True), quietly=True)
    assert peer.protocol.send_shared(SharedMessage(b"3", True))

    peer.transport.stalled = False
    sent = peer.transport.drain() + peer.transport.take()
    payloads = [found.payload for found in parse(sent)]
    assert (payloads[0], payloads[-1]) == (b"1", b"3")
    assert b"2" not in payloads


def test_the_messages_of_one_read_are_delivered_together(clock: Clock) -> None:
    peer = opened(clock)

    peer.send(masked_frame(TEXT, b"1") + masked_frame(TEXT, b"2"))

    assert peer.protocol.listener.delivered == 2


def test_the_listener_is_told_when_the_buffer_is_empty_again(clock: Clock) -> None:
    peer = opened(clock)
    peer.transport.stalled = True
    peer.protocol.send_message(b"x" * 100_000, True)
    assert peer.protocol.blocked

    peer.transport.drain()

    assert peer.protocol.listener.events == ["unblocked"]
    assert not peer.protocol.blocked


def test_the_end_is_told_once_with_all_that_is_known(clock: Clock) -> None:
    peer = opened(clock)
    peer.send(masked_close(1001, b"bye"))
    assert not peer.protocol.can_send
    listener = peer.protocol.listener

    peer.end()

    *before, outcome = listener.events
    assert before == ["sending ended"]
    assert (outcome.code, outcome.reason, outcome.by, outcome.clean) == (
        1001,
        "bye",
        "remote",
        True,
    )
    assert peer.timers() == []


def test_failing_sends_the_code_and_tells_the_listener(clock: Clock) -> None:
    peer = opened(clock)

    peer.protocol.fail(1008, "enough")

    assert [(f.opcode, f.code) for f in peer.frames()] == [(CLOSE, 1008)]
    listener = peer.protocol.listener
    peer.end()
    *before, outcome = listener.events
    assert before == ["sending ended"]
    assert (outcome.code, outcome.by, outcome.clean) == (1008, "local", False)


def test_an_abort_is_told(clock: Clock) -> None:
    peer = opened(clock)

    peer.protocol.abort("local", "no longer wanted")
    assert peer.transport.aborted
    listener = peer.protocol.listener
    peer.end()

    *before, outcome = listener.events
    assert before == ["sending ended"]
    assert (outcome.code, outcome.by) == (1006, "local")
    assert peer.timers() == []


def test_a_listener_that_is_broken_ends_its_connection_alone(
    clock: Clock, logged: Callable[[], str]
) -> None:
    peer = opened(clock)
    peer.protocol.listener.messages_received = raises(ZeroDivisionError("planted"))

    peer.send(masked_frame(TEXT, b"x"))

    assert [f.code for f in peer.frames()] == [1011]
    assert "messages_received" in logged()
    ends_with_nothing_left(peer)


def test_messages_are_paused_and_resumed(clock: Clock) -> None:
    peer = opened(clock)

    peer.protocol.pause_reading()
    assert not peer.transport.reading
    peer.protocol.start_close(1000, b"")

    assert peer.transport.reading  # or the answer would never be read
    assert peer.frames()[0].code == 1000
