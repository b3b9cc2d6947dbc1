"""The client's opening handshake: what it sends, what it takes for an answer, and its masks."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from autobahn.twisted import websocket as stock
from autobahn.websocket.types import ConnectingRequest
from memory import (
    BINARY,
    CLOSE,
    Peer,
    Recorder,
    answer,
    frame,
    opened_client,
    parse,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wsframe.errors import BadHandshake, HandshakeRefused, OpenError
from wsframe.options import ClientOptions
from wsframe.protocol import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    connectWS,
    masking,
)


class Client(Recorder, WebSocketClientProtocol):
    pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, url: str = "ws://localhost", **arguments: Any) -> Any:
    options = {
        k: arguments.pop(k) for k in list(arguments) if k in ClientOptions.__dataclass_fields__
    }
    factory = WebSocketClientFactory(
        url, reactor=clock, options=ClientOptions(**options), **arguments
    )
    factory.protocol = Client
    return factory


def sent_head(factory: Any, clock: Clock) -> list[str]:
    data = Peer(factory, clock).transport.take().decode("latin-1")
    assert data.endswith("\r\n\r\n")
    return data.split("\r\n")[:-2]


def failure_of(peer: Peer) -> Any:
    """End the connection; return why it did not open."""
    failures: list[Any] = []
    peer.protocol.is_open.addErrback(failures.append)
    peer.end()
    assert peer.timers() == []
    assert [event[0] for event in peer.protocol.events] == ["close"]
    return failures[0].value


def subclass(factory: Any, **members: Any) -> Any:
    factory.protocol = type("Application", (Client,), members)
    return factory


# ------------------------------------------------------------------------------------- the request


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ws://example.org", "example.org"),
        ("ws://example.org:80", "example.org"),
        ("wss://example.org", "example.org"),
        ("wss://example.org:443/x", "example.org"),
        ("ws://example.org:443", "example.org:443"),
        ("wss://example.org:80", "example.org:80"),
        ("ws://example.org:8080", "example.org:8080"),
        ("ws://[2001:db8::1]", "[2001:db8::1]"),
        ("ws://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
    ],
)
def test_the_host_header(clock: Clock, url: str, host: str) -> None:
    assert f"Host: {host}" in sent_head(make(clock, url), clock)


def test_stock_always_sends_the_port_and_no_brackets(clock: Clock) -> None:
    factory = stock.WebSocketClientFactory("ws://[2001:db8::1]", reactor=clock)
    factory.protocol = stock.WebSocketClientProtocol
    peer = Peer(factory, clock)

    assert b"Host: 2001:db8::1:80\r\n" in peer.transport.take()
    peer.end()


def test_what_the_request_says(clock: Clock) -> None:
    factory = make(
        clock,
        "ws://example.org/chat?room=1",
        origin="https://example.org",
        protocols=["a", "b"],
        useragent="mine",
        headers={"X-One": "1"},
    )

    start, *lines = sent_head(factory, clock)

    assert start == "GET /chat?room=1 HTTP/1.1"
    assert {
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: a, b",
        "Origin: https://example.org",
        "User-Agent: mine",
        "X-One: 1",
    } < set(lines)


def test_no_subprotocol_header_when_none_is_offered(clock: Clock) -> None:
    assert not [line for line in sent_head(make(clock), clock) if "Protocol" in line]


def test_every_key_is_new(clock: Clock) -> None:
    factory = make(clock)
    keys = {
        line for _ in range(5) for line in sent_head(factory, clock) if "Sec-WebSocket-Key" in line
    }

    assert len(keys) == 5


BAD = [
    {"headers": {"X": "a\r\nCookie: stolen"}},
    {"headers": {"X": "a\nb"}},
    {"headers": {"X\r\nY": "a"}},
    {"headers": {"X": "a\x00b"}},
    {"headers": {"Content-Length": "1"}},
    {"origin": "a\r\nb"},
    {"useragent": "a\r\nb"},
    {"protocols": ["a\r\nb"]},
    {"protocols": ["a b"]},
]


@pytest.mark.parametrize("arguments", BAD)
def test_what_may_not_be_sent_is_refused_before_a_byte_leaves(clock: Clock, arguments: Any) -> None:
    peer = Peer(make(clock, **arguments), clock)

    assert peer.transport.take() == b""
    assert peer.transport.aborted
    error = failure_of(peer)
    assert isinstance(error, BadHandshake)
    assert "stolen" not in str(error)


def test_stock_sends_line_breaks_in_headers(clock: Clock) -> None:
    factory = stock.WebSocketClientFactory(headers={"X": "a\r\nCookie: stolen"}, reactor=clock)
    factory.protocol = stock.WebSocketClientProtocol
    peer = Peer(factory, clock)

    assert b"\r\nCookie: stolen\r\n" in peer.transport.take()
    peer.end()


PROXY = {"host": "proxy.example", "port": 3128}


@pytest.mark.parametrize(
    "give",
    [
        lambda clock: WebSocketClientFactory("ws://localhost", proxy=PROXY, reactor=clock),
        lambda clock: WebSocketClientFactory(None, None, None, None, None, PROXY, reactor=clock),
        lambda clock: make(clock).setSessionParameters("ws://localhost", proxy=PROXY),
        lambda clock: make(clock).setSessionParameters(None, None, None, None, None, PROXY),
    ],
)
def test_autobahns_proxy_is_refused(clock: Clock, give: Callable[[Clock], None]) -> None:
    with pytest.raises(ValueError, match="HTTPConnectEndpoint"):
        give(clock)


def test_session_parameters_can_be_set_anew(clock: Clock) -> None:
    factory = make(clock)

    factory.setSessionParameters("ws://other.example/x", protocols=["p"])

    head = sent_head(factory, clock)
    assert head[0] == "GET /x HTTP/1.1"
    assert "Host: other.example" in head


# ---------------------------------------------------------------------- onConnecting and onConnect


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_application_says_how_to_connect(clock: Clock, asynchronous: bool) -> None:
    thinking: Deferred[Any] = Deferred()
    wanted = ConnectingRequest(
        host="other.example", port=80, resource="/there", headers={"Authorization": "x"}
    )

    factory = subclass(make(clock), onConnecting=lambda self, details: thinking)
    if not asynchronous:
        thinking.callback(wanted)
    peer = Peer(factory, clock)
    if asynchronous:
        assert peer.transport.take() == b""
        thinking.callback(wanted)

    head = peer.transport.take().decode()
    assert head.startswith("GET /there HTTP/1.1\r\nHost: other.example\r\n")
    assert "Authorization: x\r\n" in head
    peer.send(answer(head.encode()))
    assert peer.protocol.events == [("open",)]


def test_an_error_in_on_connecting_is_logged_and_ends_the_attempt(
    clock: Clock, logged: Callable[[], str]
) -> None:
    async def broken(self: Any, details: Any) -> None:
        raise ZeroDivisionError("planted")

    peer = Peer(subclass(make(clock), onConnecting=broken), clock)

    assert peer.transport.aborted
    assert isinstance(failure_of(peer), OpenError)
    assert "planted" in logged()


def test_a_connection_lost_while_on_connecting_thinks(clock: Clock) -> None:
    thinking: Deferred[Any] = Deferred()
    peer = Peer(subclass(make(clock), onConnecting=lambda self, details: thinking), clock)

    peer.end()
    thinking.callback(None)

    assert peer.transport.take() == b""
    assert peer.timers() == []


def test_on_connect_is_told_of_the_answer(clock: Clock) -> None:
    told: list[Any] = []
    factory = make(clock, protocols=["a", "b"])
    subclass(factory, onConnect=lambda self, response: told.append(response))

    peer = opened_client(factory, ("Sec-WebSocket-Protocol", "b"), ("X-More", "1"))

    assert told[0].protocol == "b"
    assert told[0].headers["x-more"] == "1"
    assert peer.protocol.response.headers["X-More"] == "1"
    assert peer.protocol.request.subprotocols == ("a", "b")


def test_frames_that_come_while_on_connect_thinks_are_kept_in_order(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()

    async def on_connect(self: Any, response: Any) -> None:
        await thinking

    peer = Peer(subclass(make(clock), onConnect=on_connect), clock)
    peer.send(answer(peer.transport.take()) + frame(BINARY, b"1"), frame(BINARY, b"2"))
    peer.send_bytes(frame(BINARY, b"3"))
    assert peer.protocol.events == []
    thinking.callback(None)

    assert peer.protocol.events[0] == ("open",)
    assert peer.protocol.messages == [b"1", b"2", b"3"]


def test_what_comes_while_on_connect_thinks_is_bounded(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    factory = subclass(make(clock), onConnect=lambda self, response: thinking)
    peer = opened_client(factory)
    sent = 0

    while peer.transport.reading:
        peer.send(frame(BINARY, b"x" * 1000))
        sent += 1
        assert sent < 200
    thinking.callback(None)

    assert peer.transport.reading
    assert len(peer.protocol.messages) == sent


def test_a_connection_lost_while_on_connect_thinks_never_opens(
    clock: Clock, logged: Callable[[], str]
) -> None:
    thinking: Deferred[None] = Deferred()
    peer = opened_client(subclass(make(clock), onConnect=lambda self, response: thinking))

    error = failure_of(peer)
    thinking.callback(None)
    gc.collect()

    assert isinstance(error, OpenError)
    assert [event[0] for event in peer.protocol.events] == ["close"]
    assert "Unhandled" not in logged()


def test_keepalive_runs_also_when_on_connect_took_longer_than_its_interval(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    factory = subclass(make(clock, ping_interval=5), onConnect=lambda self, response: thinking)
    peer = opened_client(factory)
    clock.advance(6)
    thinking.callback(None)

    clock.advance(5)

    assert [f.opcode for f in peer.frames()] == [9]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_in_on_connect_is_logged_and_closes_with_1011(
    clock: Clock, asynchronous: bool, logged: Callable[[], str]
) -> None:
    def broken(self: Any, response: Any) -> None:
        raise ZeroDivisionError("planted")

    async def broken_later(self: Any, response: Any) -> None:
        raise ZeroDivisionError("planted")

    factory = subclass(make(clock), onConnect=broken_later if asynchronous else broken)
    peer = opened_client(factory)

    assert [(f.opcode, f.code) for f in peer.frames()] == [(CLOSE, 1011)]
    assert isinstance(failure_of(peer), BadHandshake)
    assert "planted" in logged()


def test_an_error_in_on_open_closes_a_connection_that_did_open(
    clock: Clock, logged: Callable[[], str]
) -> None:
    def broken(self: Any) -> None:
        raise ZeroDivisionError("planted")

    peer = opened_client(subclass(make(clock), onOpen=broken))
    opened: list[Any] = []
    peer.protocol.is_open.addCallback(opened.append)

    assert opened == [None]
    assert [f.code for f in peer.frames()] == [1011]
    gc.collect()
    assert "Unhandled" not in logged()


# -------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_answer_may_come_in_pieces_with_frames_behind_it(clock: Clock, size: int) -> None:
    peer = Peer(make(clock), clock)
    data = answer(peer.transport.take()) + frame(BINARY, b"first")

    peer.send_bytes(data, size)

    assert peer.protocol.messages == [b"first"]


REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nX-Why: token\r\nContent-Length: 7\r\n\r\nexpired"


def test_an_answer_may_have_headers_in_latin_1(clock: Clock) -> None:
    """As RFC 9112 §5.5 lets them. Autobahn reads the head as UTF-8 as well, and would raise."""
    told: list[Any] = []
    factory = subclass(make(clock), onConnect=lambda _, response: told.append(response))
    values = ("caf\xe9", "plain")
    peer = opened_client(factory, *(("Server", value) for value in values), ("Via", "\xc3\xa9"))
    assert peer.protocol.is_open.called
    assert told[0].headers["server"] == peer.protocol.http_headers["server"] == ", ".join(values)
    assert told[0].headers["via"] == "\xc3\xa9"
    assert told[0].headers["upgrade"] == "websocket"


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_refusal_tells_status_headers_and_body(clock: Clock, size: int) -> None:
    peer = Peer(make(clock), clock)

    peer.send_bytes(REFUSAL, size)

    assert peer.transport.aborted
    error = failure_of(peer)
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.reason, error.body) == (401, "Unauthorized", b"expired")
    assert ("X-Why", "token") in error.headers


def test_a_refusal_that_ends_with_the_connection(clock: Clock) -> None:
    peer = Peer(make(clock), clock)

    peer.send(b"HTTP/1.1 503 Busy\r\n\r\ntry la")

    error = failure_of(peer)
    assert (error.status, error.body) == (503, b"try la")


def test_the_body_of_a_refusal_is_bounded(clock: Clock) -> None:
    peer = Peer(make(clock, max_refusal_body=100), clock)

    peer.send(b"HTTP/1.1 503 Busy\r\n\r\n", *[b"x" * 64] * 100)

    assert peer.transport.aborted
    assert len(failure_of(peer).body) == 100


def without(header: bytes) -> Callable[[bytes], bytes]:
    return lambda data: b"\r\n".join(
        line for line in data.split(b"\r\n") if not line.startswith(header)
    )


INVALID = [
    pytest.param(lambda data: b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="not HTTP"),
    pytest.param(lambda data: data.replace(b"Accept: ", b"Accept: x"), id="wrong accept"),
    pytest.param(without(b"Sec-WebSocket-Accept"), id="no accept"),
    pytest.param(without(b"Upgrade"), id="no upgrade"),
    pytest.param(without(b"Connection"), id="no connection"),
    pytest.param(
        lambda data: data.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: x\r\n\r\n"),
        id="a subprotocol that was not offered",
    ),
    pytest.param(
        lambda data: data.replace(
            b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        ),
        id="an extension that was not offered",
    ),
    pytest.param(
        lambda data: data.replace(b"\r\n\r\n", b"\r\nX: a\x0bY: b\r\n\r\n"), id="a control byte"
    ),
    pytest.param(
        lambda data: data.replace(b"\r\n\r\n", b"\r\nX: a\x85Y: b\r\n\r\n"), id="a next line byte"
    ),
    pytest.param(
        lambda data: data.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"),
        id="a head too large",
    ),
]


@pytest.mark.parametrize("spoil", INVALID)
def test_an_invalid_answer_fails_is_open(clock: Clock, spoil: Any) -> None:
    peer = Peer(make(clock), clock)

    peer.send(spoil(answer(peer.transport.take())))

    assert peer.transport.aborted
    assert isinstance(failure_of(peer), BadHandshake)


def test_an_endless_head_is_bounded(clock: Clock) -> None:
    peer = Peer(make(clock, max_head_size=1000), clock)

    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nX: ", *[b"y" * 100] * 20)

    assert peer.transport.aborted
    assert "too large" in str(failure_of(peer))


def test_a_masked_frame_of_a_server_can_be_allowed(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(acceptMaskedServerFrames=True)
    peer = opened_client(factory)

    peer.send(frame(BINARY, b"x", mask=b"abcd"))

    assert peer.protocol.messages == [b"x"]


# ------------------------------------------------------------------------------------------- masks


@pytest.fixture
def urandom(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Note what `os.urandom` gives; masks that were drawn before are gone."""
    given: list[bytes] = []
    original = os.urandom

    def noting(size: int) -> bytes:
        given.append(original(size))
        return given[-1]

    monkeypatch.setattr(os, "urandom", noting)
    masking._drawn.clear()
    yield given
    masking._drawn.clear()


def test_masks_come_from_the_systems_random_source(clock: Clock, urandom: list[bytes]) -> None:
    peer = opened_client(make(clock))
    protocol = peer.protocol

    protocol.sendMessage(b"short")
    protocol.sendMessage(b"long" * 1000, isBinary=True)
    protocol.sendMessage(b"fragments", fragmentSize=5)
    protocol.sendPing(b"p")
    protocol.sendFrame(BINARY, b"f")
    protocol.beginMessage()
    protocol.beginMessageFrame(8)
    protocol.sendMessageFrameData(b"stre")
    protocol.sendMessageFrameData(b"amed")
    protocol.endMessage()
    protocol.sendPreparedMessage(peer.protocol.factory.prepareMessage(b"prepared"))
    protocol.sendPreparedMessage(peer.protocol.factory.prepareMessage(b"P" * 2000, isBinary=True))
    protocol.sendClose(1000)

    frames = peer.frames()
    drawn = b"".join(urandom)
    assert all(f.mask in drawn for f in frames)
    assert len({f.mask for f in frames}) == len(frames) == 11
    assert b"streamed" in [f.payload for f in frames]
    assert b"P" * 2000 in [f.payload for f in frames]


def test_stock_takes_masks_from_a_guessable_source(clock: Clock, urandom: list[bytes]) -> None:
    factory = stock.WebSocketClientFactory(reactor=clock)
    factory.protocol = stock.WebSocketClientProtocol
    peer = opened_client(factory)

    peer.protocol.sendMessage(b"x")

    assert [len(given) for given in urandom] == [16]  # the handshake's key alone
    peer.end()


def test_masking_can_be_turned_off(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(maskClientFrames=False)
    peer = opened_client(factory)

    peer.protocol.sendMessage(b"bare")
    peer.protocol.beginMessage()
    peer.protocol.beginMessageFrame(4)
    peer.protocol.sendMessageFrameData(b"bare")
    peer.protocol.endMessage()

    assert [f.mask for f in peer.frames()] == [b"", b"", b""]


# ------------------------------------------------------------------------------------- connecting


class Connecting:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def connectTCP(self, *args: Any) -> str:
        self.calls.append(("tcp", *args))
        return "connector"

    def connectSSL(self, *args: Any) -> str:
        self.calls.append(("ssl", *args))
        return "connector"


def test_connecting_where_the_url_says() -> None:
    reactor: Any = Connecting()
    plain = WebSocketClientFactory("ws://[::1]:9000", reactor=reactor)
    secure = WebSocketClientFactory("wss://example.org", reactor=reactor)
    context = object()

    assert connectWS(plain, timeout=5, bindAddress=("127.0.0.1", 0)) == "connector"
    connectWS(secure)
    connectWS(secure, context)

    assert reactor.calls[0] == ("tcp", "::1", 9000, plain, 5, ("127.0.0.1", 0))
    assert reactor.calls[1][:4] == ("ssl", "example.org", 443, secure)
    verifying = reactor.calls[1][4]
    assert verifying._hostnameASCII == "example.org"
    assert reactor.calls[2][4] is context


def test_parsing_frames_is_strict() -> None:
    with pytest.raises(AssertionError):
        parse(b"\x82\x05abc")


def test_a_token_among_the_subprotocols_offered_is_in_no_error(clock: Clock) -> None:
    """Autobahn's text for a subprotocol that was not offered has the whole list."""
    factory = WebSocketClientFactory(
        "ws://localhost", protocols=["feed", "bearer.planted"], reactor=clock
    )
    peer = Peer(factory, clock)
    failures: list[Any] = []
    peer.protocol.is_open.addErrback(failures.append)
    peer.send(answer(peer.transport.take(), ("Sec-WebSocket-Protocol", "other")))
    assert "not offered" in str(failures[0].value)
    assert "planted" not in str(failures[0].value)
    peer.end()
