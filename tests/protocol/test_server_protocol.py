"""The server's opening handshake: the guard before Autobahn, refusals, limits, the application."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from autobahn.twisted import websocket as stock
from autobahn.websocket.protocol import parseHttpHeader
from autobahn.websocket.types import ConnectionDeny
from memory import (
    ACCEPT,
    BINARY,
    CLOSE,
    TEXT,
    Frame,
    Peer,
    Recorder,
    frame,
    masked_close,
    masked_frame,
    opened_server,
    request,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from wsframe.errors import InvalidHeader
from wsframe.options import ServerOptions
from wsframe.protocol import WebSocketServerFactory, WebSocketServerProtocol, listenWS


class Server(Recorder, WebSocketServerProtocol):
    def onConnect(self, request: Any) -> Any:
        self.events.append(("connect", request.path, request.protocols))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, on_connect: Any = None, **options: Any) -> WebSocketServerFactory:
    factory = WebSocketServerFactory(reactor=clock, options=ServerOptions(**options))
    members = {} if on_connect is None else {"onConnect": lambda self, request: on_connect(request)}
    factory.protocol = type("Application", (Server,), members)
    return factory


def ask(clock: Clock, data: bytes, factory: Any = None) -> tuple[int, dict[str, str], str, Peer]:
    """Send the bytes to a new connection; return status, headers and body of the answer."""
    peer = Peer(factory or make(clock), clock)
    peer.send(data)
    status, headers, body = response(peer)
    return status, headers, body, peer


def response(peer: Peer) -> tuple[int, dict[str, str], str]:
    head, separator, body = peer.transport.take().decode("latin-1").partition("\r\n\r\n")
    assert separator, "no complete answer"
    start, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return int(start.split(" ")[1]), headers, body


def refused(peer: Peer) -> None:
    """Check that a refused connection ends in order, and leaves nothing."""
    assert peer.transport.half_closed
    peer.send(b"more", masked_frame(TEXT, b"more"))
    assert peer.transport.take() == b""
    peer.clock.advance(10.1)
    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []
    assert peer.protocol.factory.countConnections == 0
    assert all(event[0] not in ("open", "message") for event in peer.protocol.events)


# ----------------------------------------------------------------------------------- the handshake


def test_a_handshake_is_accepted(clock: Clock) -> None:
    status, headers, _, peer = ask(clock, request(target="/a%20b?c=d"))

    assert status == 101
    assert headers["sec-websocket-accept"] == ACCEPT
    assert headers["upgrade"].lower() == "websocket"
    assert "server" not in headers
    assert peer.protocol.events == [("connect", "/a%20b", []), ("open",)]
    assert peer.protocol.request.path == "/a b"
    assert peer.protocol.request.query == "c=d"


def test_a_handshake_may_come_byte_by_byte_with_frames_behind_it(clock: Clock) -> None:
    peer = Peer(make(clock), clock)

    peer.send_bytes(request() + masked_frame(BINARY, b"early"))

    assert response(peer)[0] == 101
    assert peer.protocol.messages == [b"early"]


def test_a_handshake_with_frames_in_the_same_read(clock: Clock) -> None:
    peer = Peer(make(clock), clock)

    peer.send(request() + masked_frame(BINARY, b"one") + masked_frame(BINARY, b"two"))

    assert peer.protocol.events[1:] == [
        ("open",),
        ("message", b"one", True),
        ("message", b"two", True),
    ]


@pytest.mark.parametrize(
    ("leave_out", "status"),
    [
        ("Host", 400),
        ("Upgrade", 426),
        ("Connection", 426),
        ("Sec-WebSocket-Key", 400),
        ("Sec-WebSocket-Version", 400),
    ],
)
def test_a_handshake_without_a_required_header_is_refused(
    clock: Clock, leave_out: str, status: int
) -> None:
    found, headers, body, peer = ask(clock, request(leave_out=leave_out))

    assert found == status
    assert headers["connection"].endswith("close")
    assert int(headers["content-length"]) == len(body)
    refused(peer)


def test_another_version_is_told_ours(clock: Clock) -> None:
    data = request().replace(b"Version: 13", b"Version: 8")

    status, headers, _, peer = ask(clock, data)

    assert status == 400
    assert headers["sec-websocket-version"] == "13"
    refused(peer)


def test_a_get_that_is_no_upgrade_is_answered_426(clock: Clock) -> None:
    status, headers, body, peer = ask(clock, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert status == 426
    assert headers["upgrade"] == "websocket"
    assert body
    refused(peer)


def test_a_head_is_answered_without_a_body(clock: Clock) -> None:
    status, headers, body, peer = ask(clock, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert status == 426
    assert int(headers["content-length"]) > 0
    assert body == ""
    refused(peer)


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 0x7F, 0x85])
def test_control_bytes_in_a_header_smuggle_nothing(clock: Clock, byte: int) -> None:
    smuggled = b"X-Note: a" + bytes([byte]) + b"Origin: https://evil.example"
    data = request().replace(b"\r\n\r\n", b"\r\n" + smuggled + b"\r\n\r\n")

    status, _, _, peer = ask(clock, data)

    assert status == 400
    refused(peer)


def test_stock_takes_some_control_bytes_for_the_end_of_a_line() -> None:
    data = b"GET / HTTP/1.1\r\nX-Note: a\x85Origin: https://evil.example\r\n\r\n"

    _, headers, _ = parseHttpHeader(data)

    assert headers["origin"] == "https://evil.example"


@pytest.mark.parametrize("options", [{"max_head_size": 1000}, {"max_head_count": 20}])
def test_a_head_over_the_limit_is_refused_before_it_ends(clock: Clock, options: Any) -> None:
    peer = Peer(make(clock, **options), clock)

    for i in range(60):
        peer.send(b"GET / HTTP/1.1\r\n" if i == 0 else b"X-Header-%d: some value\r\n" % i)

    if "max_head_count" in options:
        peer.send(b"\r\n")
    assert response(peer)[0] == 431
    refused(peer)


def test_a_dripped_head_is_cut_off_at_the_deadline(clock: Clock) -> None:
    peer = Peer(make(clock, open_timeout=5), clock)

    for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "[:26]:
        peer.send(bytes([byte]))
        clock.advance(0.2)

    assert peer.transport.aborted
    peer.end()
    assert peer.timers() == []


@pytest.mark.parametrize(
    ("header", "status"), [(("Transfer-Encoding", "chunked"), 501), (("Content-Length", "5"), 413)]
)
def test_a_handshake_with_a_body_is_refused(
    clock: Clock, header: tuple[str, str], status: int
) -> None:
    found, _, _, peer = ask(clock, request(header) + b"GET /x")

    assert found == status
    refused(peer)


def test_the_web_status_page_never_redirects(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(webStatus=True)
    data = b"GET /?redirect=https://evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n"

    status, headers, body, peer = ask(clock, data, factory)

    assert status == 426
    assert "location" not in headers
    assert "evil" not in body
    refused(peer)


def stock_factory(clock: Clock) -> Any:
    factory = stock.WebSocketServerFactory(reactor=clock)
    factory.protocol = stock.WebSocketServerProtocol
    return factory


def test_stock_redirects_wherever_it_is_told_to(clock: Clock) -> None:
    peer = Peer(stock_factory(clock), clock)

    peer.send(b"GET /?redirect=https://evil.example HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert b"Location: https://evil.example" in peer.transport.take()
    peer.end()


# -------------------------------------------------------------------------------- whom it admits

FOREIGN = ("Origin", "https://evil.example")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:81", "x"])
def test_pages_of_other_sites_are_refused(clock: Clock, origin: str) -> None:
    status, _, _, peer = ask(clock, request(("Origin", origin)))

    assert status == 403
    refused(peer)


def test_stock_admits_every_page(clock: Clock) -> None:
    opened_server(stock_factory(clock), FOREIGN).end()


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({}, request()),
        ({}, request(("Origin", "http://localhost"))),
        ({"origins": ("https://app.example",)}, request(("Origin", "https://app.example"))),
        ({"origins": ("*",)}, request(FOREIGN)),
        ({"hosts": ("ws.example",)}, request(host="ws.example:8080")),
    ],
)
def test_whom_the_options_admit(clock: Clock, options: Any, data: bytes) -> None:
    assert ask(clock, data, make(clock, **options))[0] == 101


@pytest.mark.parametrize(
    ("options", "data", "status"),
    [
        ({"require_origin": True}, request(), 403),
        ({"hosts": ("ws.example",)}, request(host="other.example"), 421),
        ({}, request(("Origin", "http://rebound.example"), host="rebound.example"), 421),
    ],
)
def test_whom_the_options_refuse(clock: Clock, options: Any, data: bytes, status: int) -> None:
    found, _, _, peer = ask(clock, data, make(clock, **options))

    assert found == status
    refused(peer)


@pytest.mark.parametrize("options", [{}, {"maxConnections": 5}, {"autoPingInterval": 3}])
def test_setting_other_options_does_not_touch_origins(
    clock: Clock, options: dict[str, Any]
) -> None:
    factory = make(clock)
    before = vars(factory).copy()

    factory.setProtocolOptions(**options)

    changed = {name for name, value in vars(factory).items() if before[name] != value}
    assert changed == set(options)
    assert ask(clock, request(FOREIGN), factory)[0] == 403
    assert ask(clock, request(("Origin", "http://localhost")), factory)[0] == 101


def test_stock_turns_null_origins_off_when_anything_is_set(clock: Clock) -> None:
    factory = stock.WebSocketServerFactory(reactor=clock)
    assert factory.allowNullOrigin

    factory.setProtocolOptions()

    assert not factory.allowNullOrigin


@pytest.mark.parametrize(
    ("options", "origin", "status"),
    [
        ({"allowedOrigins": ["https://app.example:443"]}, "https://app.example", 101),
        ({"allowedOrigins": ["https://app.example:443"]}, "https://evil.example", 400),
        ({"allowedOrigins": ["https://app.example:443"]}, "null", 400),
        ({"allowedOrigins": ["*"], "allowNullOrigin": True}, "null", 101),
        ({"allowedOrigins": ["*"]}, "null", 400),
        ({"allowNullOrigin": True}, "null", 101),
        ({"allowNullOrigin": True}, "https://evil.example", 403),
        ({"allowNullOrigin": False}, "null", 403),
        ({"allowNullOrigin": False}, "https://evil.example", 403),
        ({"allowNullOrigin": False}, "http://localhost", 101),
    ],
)
def test_origins_set_in_autobahns_way(clock: Clock, options: Any, origin: str, status: int) -> None:
    factory = make(clock)
    factory.setProtocolOptions(**options)
    factory.setProtocolOptions(autoPingInterval=5)  # said once, it stays

    assert ask(clock, request(("Origin", origin)), factory)[0] == status


def test_a_null_origin_still_needs_a_host_that_is_ours(clock: Clock) -> None:
    factory = make(clock, hosts=("ws.example",))
    factory.setProtocolOptions(allowNullOrigin=True)

    assert ask(clock, request(("Origin", "null"), host="other.example"), factory)[0] == 421


def test_options_can_be_reset(clock: Clock) -> None:
    factory = make(clock, max_message_size=77)
    factory.setProtocolOptions(
        allowedOrigins=["*"], allowNullOrigin=True, maxMessagePayloadSize=5, autoPingInterval=1
    )

    factory.resetProtocolOptions()

    assert (factory.maxMessagePayloadSize, factory.autoPingInterval) == (77, 20)
    assert ask(clock, request(FOREIGN), factory)[0] == 403
    assert ask(clock, request(("Origin", "null")), factory)[0] == 403


def test_too_many_connections_are_told_so_at_once(clock: Clock) -> None:
    factory = make(clock, max_connections=2)
    first, second = opened_server(factory), opened_server(factory)

    third = Peer(factory, clock)  # has not sent a byte

    status, headers, _ = response(third)
    assert status == 503
    assert int(headers["retry-after"]) > 0
    third.send(request())
    assert third.transport.take() == b""
    third.end()
    first.end()
    assert Peer(factory, clock).transport.take() == b""
    second.end()


def test_the_limit_on_connections_can_be_set_in_autobahns_way(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(maxConnections=1)
    opened_server(factory)

    assert response(Peer(factory, clock))[0] == 503


# --------------------------------------------------------------------------------- the application


def test_the_application_chooses_a_subprotocol_and_headers(clock: Clock) -> None:
    factory = make(clock, lambda request: ("b", {"X-One": "1", "X-Two": ["2", "3"]}))
    peer = Peer(factory, clock)

    peer.send(request(("Sec-WebSocket-Protocol", "a, b")))

    lines = peer.transport.take().decode().split("\r\n")
    assert "Sec-WebSocket-Protocol: b" in lines
    assert {"X-One: 1", "X-Two: 2", "X-Two: 3"} < set(lines)


def test_headers_of_the_factory_and_the_server_header(clock: Clock) -> None:
    factory = WebSocketServerFactory(server="mine", headers={"X-A": "1"}, reactor=clock)

    _, headers, _ = response(fed(factory, clock, request()))

    assert headers["server"] == "mine"
    assert headers["x-a"] == "1"


def fed(factory: Any, clock: Clock, data: bytes) -> Peer:
    peer = Peer(factory, clock)
    peer.send(data)
    return peer


BAD_ANSWERS = [
    pytest.param(lambda _: (None, {"X": "a\r\nSet-Cookie: b"}), id="CR LF in a value"),
    pytest.param(lambda _: (None, {"X": ["fine", "a\nb"]}), id="LF in one of several values"),
    pytest.param(lambda _: (None, {"X\r\nY": "a"}), id="CR LF in a name"),
    pytest.param(lambda _: (None, {"X": "€"}), id="beyond ISO 8859-1"),
    pytest.param(lambda _: "not offered", id="a subprotocol that was not offered"),
    pytest.param(lambda _: (None,), id="a tuple of one"),
    pytest.param(lambda _: 1 / 0, id="an exception"),
]


@pytest.mark.parametrize("on_connect", BAD_ANSWERS)
def test_what_cannot_be_answered_is_a_500_without_details(
    clock: Clock, on_connect: Any, logged: Callable[[], str]
) -> None:
    status, headers, body, peer = ask(clock, request(), make(clock, on_connect))

    assert status == 500
    assert body == "Internal Server Error\n"
    assert "set-cookie" not in headers
    refused(peer)
    del peer
    gc.collect()
    assert "Traceback" in logged()
    assert "Unhandled" not in logged()


def test_cr_lf_in_a_header_of_the_factory_is_refused(clock: Clock) -> None:
    factory = make(clock)
    factory.headers = {"X": "a\r\nSet-Cookie: b"}

    status, headers, _, peer = ask(clock, request(), factory)

    assert status == 500
    assert "set-cookie" not in headers
    refused(peer)


def deny(*args: Any) -> Callable[[Any], None]:
    def on_connect(request: Any) -> None:
        raise ConnectionDeny(*args)

    return on_connect


def test_the_application_denies_a_client(clock: Clock) -> None:
    factory = make(clock, deny(403, "not you\r\nSet-Cookie: b"))

    status, headers, body, peer = ask(clock, request(), factory)

    assert status == 403
    assert body == "not you\r\nSet-Cookie: b\n"  # in the body it is but text
    assert "set-cookie" not in headers
    refused(peer)
    assert peer.protocol.closed[:2] == (False, 1006)


def test_denying_with_what_is_no_status_is_a_500(clock: Clock) -> None:
    status, _, _, peer = ask(clock, request(), make(clock, deny(42, "no")))

    assert status == 500
    refused(peer)


def test_frames_that_come_while_on_connect_thinks_are_kept_in_order(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    peer = Peer(make(clock, lambda request: thinking), clock)

    peer.send(request() + masked_frame(BINARY, b"1"), masked_frame(BINARY, b"2")[:3])
    peer.send(masked_frame(BINARY, b"2")[3:], masked_frame(BINARY, b"3"))
    assert peer.protocol.events == []
    assert peer.transport.take() == b""
    thinking.callback(None)

    assert response(peer)[0] == 101
    assert peer.protocol.events[0] == ("open",)
    assert peer.protocol.messages == [b"1", b"2", b"3"]


def test_what_comes_while_on_connect_thinks_is_bounded(clock: Clock) -> None:
    thinking: Deferred[None] = Deferred()
    peer = Peer(make(clock, lambda request: thinking), clock)
    peer.send(request())
    sent = 0

    while peer.transport.reading:
        peer.send(masked_frame(BINARY, b"x" * 1000))
        sent += 1
        assert sent < 200
    thinking.callback(None)

    assert 60 < sent < 80
    assert peer.transport.reading
    assert len(peer.protocol.messages) == sent


def test_an_async_on_connect_decides_later(clock: Clock) -> None:
    thinking: Deferred[str] = Deferred()

    async def on_connect(request: Any) -> Any:
        return await thinking, {"X-Who": "me"}

    peer = Peer(make(clock, on_connect), clock)
    peer.send(request(("Sec-WebSocket-Protocol", "chat")))
    thinking.callback("chat")

    _, headers, _ = response(peer)
    assert headers["sec-websocket-protocol"] == "chat"
    assert headers["x-who"] == "me"


@pytest.mark.parametrize("how", ["lost", "timeout"])
@pytest.mark.parametrize("outcome", [None, ValueError("late")])
def test_a_client_that_is_gone_when_on_connect_decides(
    clock: Clock, how: str, outcome: Any, logged: Callable[[], str]
) -> None:
    thinking: Deferred[Any] = Deferred()
    peer = Peer(make(clock, lambda request: thinking), clock)
    peer.send(request())

    if how == "timeout":
        clock.advance(10.1)
        assert peer.transport.aborted
    peer.end()
    if outcome is None:
        thinking.callback(None)
    else:
        thinking.errback(outcome)

    assert [event[0] for event in peer.protocol.events] == ["close"]
    assert peer.transport.take() == b""
    assert peer.timers() == []
    assert "Unhandled" not in logged()


def test_closing_in_on_open_is_a_close_behind_the_answer(clock: Clock) -> None:
    factory = make(clock)
    factory.protocol = type(
        "Busy", (Server,), {"onOpen": lambda self: self.sendClose(1013, "busy")}
    )

    peer = opened_server(factory)

    assert peer.frames() == [Frame(CLOSE, (1013).to_bytes(2) + b"busy")]
    peer.send(masked_close(1013))
    assert peer.transport.losing
    peer.end()
    assert peer.timers() == []


def test_the_address_behind_a_trusted_proxy(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(trustXForwardedFor=1)

    peer = opened_server(factory, ("X-Forwarded-For", "198.51.100.1, 203.0.113.9"))

    assert peer.protocol.peer == "203.0.113.9"
    assert peer.protocol.request.peer == "tcp4:192.0.2.1:54321"


def test_an_unmasked_frame_can_be_allowed(clock: Clock) -> None:
    factory = make(clock)
    factory.setProtocolOptions(requireMaskedClientFrames=False)
    peer = opened_server(factory)

    peer.send(frame(BINARY, b"bare"))

    assert peer.protocol.messages == [b"bare"]


# -------------------------------------------------------------------------------------- factories


def test_a_prepared_message_is_the_frame_itself(clock: Clock) -> None:
    factory = make(clock)
    one, other = opened_server(factory), opened_server(factory)
    prepared = factory.prepareMessage(b"for all", isBinary=True)

    one.protocol.sendPreparedMessage(prepared)
    other.protocol.sendPreparedMessage(prepared)

    assert one.frames() == other.frames() == [Frame(BINARY, b"for all")]


def test_connections_are_counted(clock: Clock) -> None:
    factory = make(clock)
    peers = [opened_server(factory), opened_server(factory), Peer(factory, clock)]
    assert factory.getConnectionCount() == 3

    for peer in peers:
        peer.end()

    assert factory.getConnectionCount() == 0


def test_a_server_header_with_a_line_break_is_refused() -> None:
    with pytest.raises(InvalidHeader):
        ServerOptions(server_header="a\r\nb")


class Listening:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def listenTCP(self, *args: Any) -> str:
        self.calls.append(("tcp", *args))
        return "port"

    def listenSSL(self, *args: Any) -> str:
        self.calls.append(("ssl", *args))
        return "port"


def test_listening_where_the_url_says() -> None:
    reactor: Any = Listening()
    plain = WebSocketServerFactory("ws://localhost:9000", reactor=reactor)
    secure = WebSocketServerFactory("wss://localhost:9001", reactor=reactor)
    context = object()

    assert listenWS(plain) == "port"
    listenWS(secure, context, backlog=7, interface="127.0.0.1")
    with pytest.raises(ValueError, match="contextFactory"):
        listenWS(secure)

    assert reactor.calls == [
        ("tcp", 9000, plain, 1024, ""),
        ("ssl", 9001, secure, context, 7, "127.0.0.1"),
    ]
