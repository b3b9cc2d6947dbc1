"""Both opening handshakes and the frames of real connections, as a trace shows them."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.web.server import Site

from wsframe.client import WebSocketClientService, connect, reconnecting
from wsframe.errors import BadHandshake, HandshakeRefused, OpenError
from wsframe.options import ClientOptions, Deflate
from wsframe.resource import WebSocketResource
from wsframe.server import Server, WebSocketServerService, serve
from wsframe.signals import trace_on_signal
from wsframe.trace import Trace

from .certificates import Authority
from .clients import client
from .origins import echo, listening
from .raw import (
    Raw,
    RawServer,
    accept_raw,
    close_frame,
    connect_raw,
    eventually,
    frame,
    header,
    open_raw,
    switching,
    turns,
    upgrade,
    within,
)

SECRET = "pl4nted-S3cret.0123"
TEXT, BINARY, PING = 1, 2, 9


class Lines(list[str]):
    """A sink; what it keeps is compared without times."""

    def trace(self, **options: Any) -> Trace:
        return Trace(self.append, **options)

    @property
    def shown(self) -> list[str]:
        """The lines without their times."""
        return [line.partition(" ")[2] for line in self]

    def of(self, number: int, direction: str = "") -> list[str]:
        """The lines of one connection, in one direction, without what they begin with."""
        prefix = f"{number} {direction}"
        return [line.removeprefix(prefix) for line in self.shown if line.startswith(prefix)]

    async def until(self, text: str, times: int = 1) -> None:
        await eventually(lambda: "\n".join(self.shown).count(text) >= times)


def port_of(server: Server) -> int:
    address: Any = server.addresses[0]
    return int(address.port)


def local(handler: Any = echo, **arguments: Any) -> Any:
    return serve(handler, "tcp:0:interface=127.0.0.1", **arguments)


# ---------------------------------------------------------------- a client's handshakes


@pytest_twisted.ensureDeferred
async def test_both_handshakes_are_shown_as_they_were_on_the_wire() -> None:
    lines = Lines()
    said: list[str] = []

    async def script(raw: Raw) -> None:
        said.append(await raw.read_head())
        raw.write(switching(said[0], "x-ODD:  case ", "Sec-WebSocket-Protocol: chat"))
        await raw.read_close()
        raw.write(close_frame(1000, "bye", masked=False))
        raw.finish()

    async with RawServer(script) as server:
        uri = f"ws://127.0.0.1:{server.port}/feed"
        headers = {"x-FIRST": "1", "Second": "2"}
        trace = lines.trace()
        async with connect(uri, headers=headers, subprotocols=["chat"], trace=trace) as connection:
            assert connection.trace is trace
        request = said[0].split("\r\n")[:-1]
        answer = switching(said[0], "x-ODD:  case ", "Sec-WebSocket-Protocol: chat").decode()
        assert lines.shown == [
            f"1 [connected] to tcp4:127.0.0.1:{server.port}",
            *(f"1 > {line}".rstrip() for line in request),
            *(f"1 < {line}" if line else "1 <" for line in answer.split("\r\n")[:-1]),
            "1 [ended] 1000 cleanly by local",
        ]
        assert "1 > x-FIRST: 1" in lines.shown
        assert "1 < x-ODD:  case " in lines.shown


@pytest_twisted.ensureDeferred
async def test_a_platform_that_refuses_a_header_is_seen_to_have_been_sent_it() -> None:
    lines = Lines()
    body = f"upstream said no to Bearer {SECRET}\n"

    async def script(raw: Raw) -> None:
        head = await raw.read_head()
        status = "502 Bad Gateway" if header(head, "Sec-WebSocket-Protocol") else "426 Other"
        length = f"Content-Length: {len(body)}"
        raw.write(f"HTTP/1.1 {status}\r\nServer: edge\r\n{length}\r\n\r\n{body}".encode())

    async with RawServer(script) as server:
        uri = f"ws://127.0.0.1:{server.port}/?key={SECRET}"
        headers = {"Authorization": f"Bearer {SECRET}"}
        with pytest.raises(HandshakeRefused):
            await connect(uri, headers=headers, subprotocols=["chat"], trace=lines.trace())
    sent = lines.of(1, "> ")
    assert sent[0] == "GET /?key=*** HTTP/1.1"
    assert {"Sec-WebSocket-Protocol: chat", "Authorization: Bearer ***"} <= set(sent)
    assert lines.of(1, "< ") == [
        "HTTP/1.1 502 Bad Gateway",
        "Server: edge",
        f"Content-Length: {len(body)}",
        "[body] upstream said no to Bearer ***\\n",
    ]
    assert lines.shown[-1].startswith("1 [ended] 1006 not cleanly by local ")
    assert SECRET not in "\n".join(lines)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_no_http_is_shown_escaped() -> None:
    lines = Lines()

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"SSH-2.0-OpenSSH\x1b[2J\r\n2026-01-01T00:00:00.000Z 9 > forged\r\n\r\n")

    async with RawServer(script) as server:
        with pytest.raises(BadHandshake):
            await connect(f"ws://127.0.0.1:{server.port}/", trace=lines.trace())
    assert lines.of(1, "<") == [
        " SSH-2.0-OpenSSH\\x1b[2J",
        " 2026-01-01T00:00:00.000Z 9 > forged",
        "",
    ]


@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks_off_shows_what_had_come() -> None:
    lines = Lines()

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 101 Switching\r\nUpgr")
        raw.finish()

    async with RawServer(script) as server:
        with pytest.raises(OpenError):
            await connect(f"ws://127.0.0.1:{server.port}/", trace=lines.trace())
    assert lines.shown[-1].startswith("1 [ended] 1006")
    assert lines.of(1, "< ") == ["HTTP/1.1 101 Switching", "Upgr", "[the head is incomplete]"]


@pytest_twisted.ensureDeferred
async def test_every_redirect_is_a_connection_of_its_own() -> None:
    lines = Lines()

    async def script(raw: Raw) -> None:
        head = await raw.read_head()
        if head.startswith("GET /old"):
            raw.write(b"HTTP/1.1 302 Found\r\nLocation: /new?code=")
            raw.write(f"{SECRET}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            raw.write(switching(head))

    options = ClientOptions(max_redirects=1)
    async with RawServer(script) as server:
        uri = f"ws://127.0.0.1:{server.port}/old"
        connection = await connect(uri, options=options, trace=lines.trace())
        assert "Location: /new?code=***" in lines.of(1, "< ")
        assert lines.of(2, "> ")[0] == "GET /new?code=*** HTTP/1.1"
        connection.abort()
        await lines.until("2 [ended]")


@pytest_twisted.ensureDeferred
async def test_a_loop_over_connections_takes_a_trace_too() -> None:
    lines = Lines()
    async with local() as server:
        uri = f"ws://127.0.0.1:{port_of(server)}/"
        async with reconnecting(uri, trace=lines.trace()) as connections:
            async for _ in connections:
                break
        assert lines.of(1, "> ")[0] == "GET / HTTP/1.1"


# ---------------------------------------------------------------- frames


@pytest_twisted.ensureDeferred
async def test_frames_are_shown_as_they_were_sent_and_received() -> None:
    lines = Lines()
    async with RawServer() as server:
        opening = connect(f"ws://127.0.0.1:{server.port}/", trace=lines.trace(frames=True))
        raw = await accept_raw(server)
        connection = await within(opening)
        before = len(lines)
        raw.write(frame(TEXT, "Grü".encode(), fin=False, masked=False))
        raw.write(frame(PING, b"p", masked=False) + frame(0, "ße".encode(), masked=False))
        assert await within(connection.recv()) == "Grüße"
        await connection.send(b"\x00\x01")
        raw.write(b"\xf1\x01x")  # all of its reserved bits are set
        await within(connection.when_closed())
    assert lines.shown[before:-1] == [
        "1 < [text, 4 bytes] Grü",
        "1 < [ping fin, 1 byte] 70",
        "1 < [continuation fin, 3 bytes] ße",
        "1 > [pong fin masked, 1 byte] 70",
        "1 > [binary fin masked, 2 bytes] 0001",
        "1 < [text fin rsv1 rsv2 rsv3, 1 byte] 78",
        "1 > [close fin masked, 37 bytes] 1002 RSV = 7 and no extension negotiated",
    ]


@pytest_twisted.ensureDeferred
async def test_compressed_messages_are_shown_compressed() -> None:
    ours, theirs = Lines(), Lines()
    deflate = Deflate(threshold=1)
    async with local(compression=deflate, trace=theirs.trace(frames=True)) as server:
        uri = f"ws://127.0.0.1:{port_of(server)}/"
        trace = ours.trace(frames=True)
        async with connect(uri, compression=deflate, trace=trace) as connection:
            await connection.send("a" * 1000)
            assert await within(connection.recv()) == "a" * 1000
    (sent,) = [line for line in ours.of(1, "> ") if line.startswith("[text")]
    (received,) = [line for line in theirs.of(1, "< ") if line.startswith("[text")]
    assert sent == received
    assert re.fullmatch(r"\[text fin rsv1 masked, \d\d? bytes\] [0-9a-f]+", sent)


# ---------------------------------------------------------------- a server


@pytest_twisted.ensureDeferred
async def test_a_server_shows_what_came_and_what_it_answered() -> None:
    lines = Lines()
    async with local(trace=lines.trace(frames=True)) as server:
        assert server.trace is not None
        raw = await open_raw(port_of(server), "X-Mine: 1", f"Cookie: sid={SECRET}")
        raw.write(frame(TEXT, b"hi"))
        assert await raw.read_frame() == (TEXT, b"hi")
        raw.write(close_frame(1000))
        await within(raw.ended())
        await lines.until("[ended]")
    assert re.fullmatch(r"1 \[connected\] from tcp4:127\.0\.0\.1:\d+", lines.shown[0])
    asked = upgrade("X-Mine: 1", "Cookie: sid=***").decode().split("\r\n")[:-2]
    assert lines.of(1, "< ") == [
        *asked,
        "[text fin masked, 2 bytes] hi",
        "[close fin masked, 2 bytes] 1000",
    ]
    sent = lines.of(1, "> ")
    assert sent[0] == "HTTP/1.1 101 Switching Protocols"
    assert sent[-2:] == ["[text fin, 2 bytes] hi", "[close fin, 2 bytes] 1000"]
    assert lines.shown[-1] == "1 [ended] 1000 cleanly by remote"


@pytest_twisted.ensureDeferred
async def test_a_server_shows_whom_it_turned_away() -> None:
    lines = Lines()
    async with local(trace=lines.trace()) as server:
        raw = await connect_raw(port_of(server))
        raw.write(upgrade("Origin: https://elsewhere.example"))
        await raw.read_head()
        await within(raw.ended())
        await lines.until("[ended]")
    assert "1 < Origin: https://elsewhere.example" in lines.shown
    assert "1 > HTTP/1.1 403 Forbidden" in lines.shown
    assert lines.of(1, "> [body]") == [" this Origin is not admitted; see the option origins\\n"]


@pytest_twisted.ensureDeferred
async def test_through_tls_it_is_what_is_within() -> None:
    ours, theirs = Lines(), Lines()
    authority = Authority()
    listen = listening("127.0.0.1", authority.issue("127.0.0.1"))
    async with serve(echo, listen, trace=theirs.trace(style="json")) as server:
        uri = f"wss://127.0.0.1:{port_of(server)}/secure"
        tls = authority.client("127.0.0.1")
        trace = ours.trace(style="json")
        async with connect(uri, tls=tls, trace=trace, compression=Deflate()) as connection:
            await connection.send("hello")
            await within(connection.recv())
        await eventually(lambda: "_end" in theirs[-1])
    for lines in (ours, theirs):
        records = [json.loads(line) for line in lines]
        assert len(records) == 4
        assert records[1]["request"]["url"] == uri
        assert records[2]["response"]["status"] == 101
        assert records[3]["_end"]["clean"] is True


@pytest_twisted.ensureDeferred
async def test_a_resource_of_a_site_is_traced_too() -> None:
    from twisted.internet import reactor

    lines = Lines()
    resource = WebSocketResource(echo, trace=lines.trace(frames=True))
    site = Site(resource)
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[attr-defined]
    try:
        raw = await open_raw(port.getHost().port, "X-Mine: 1")
        raw.write(frame(TEXT, b"hi"))
        assert await raw.read_frame() == (TEXT, b"hi")
        resource.trace = None
        raw.write(frame(TEXT, b"hidden"))
        assert await raw.read_frame() == (TEXT, b"hidden")
        await raw.drop()
        await within(resource.close())
    finally:
        await defer.maybeDeferred(port.stopListening)
    assert lines.of(1, "< ")[0] == "GET / HTTP/1.1"
    assert "X-Mine: 1" in lines.of(1, "< ")
    assert lines.shown[-1] == "1 > [text fin, 2 bytes] hi"


# ---------------------------------------------------------------- on a running service


@pytest_twisted.ensureDeferred
async def test_a_running_client_is_traced_from_the_moment_it_is_set() -> None:
    lines = Lines()
    trace = lines.trace(frames=True)
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        connection: Any = this.service.connection
        this.service.trace = trace
        raw.write(frame(TEXT, b"shown", masked=False))
        assert await within(connection.recv()) == "shown"
        this.service.trace = None
        raw.write(frame(TEXT, b"hidden", masked=False))
        assert await within(connection.recv()) == "hidden"
        this.service.trace = trace
        raw.finish()
        await this.until_waiting()
        this.clock.advance(10)
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        assert lines.of(2, "> ")[0] == "GET / HTTP/1.1"
        assert "shown" in "\n".join(lines)
        assert "hidden" not in "\n".join(lines)
        await raw.drop()
        await this.until_waiting()
        assert this.service.trace is trace


@pytest_twisted.ensureDeferred
async def test_a_trace_that_is_set_during_an_opening_begins_when_it_is_open() -> None:
    lines = Lines()
    trace = lines.trace(frames=True)
    async with RawServer() as server, client(server) as this:
        raw: Raw = await server.accepted()
        head = await raw.read_head()
        this.service.trace = trace
        raw.write(switching(head))
        await this.until(lambda: this.service.connection)
        assert lines.shown == [f"1 [open] to tcp4:127.0.0.1:{server.port}"]
        this.service.trace = trace
        assert len(lines) == 1
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_a_running_server_is_traced_from_the_moment_it_is_set() -> None:
    lines = Lines()
    trace = lines.trace(frames=True)
    service = WebSocketServerService(echo, "tcp:0:interface=127.0.0.1")
    service.startService()
    server = await within(service.when_listening())
    first = await open_raw(port_of(server))
    await turns()
    service.trace = trace
    assert server.trace is trace
    first.write(frame(TEXT, b"one"))
    await first.read_frame()
    second = await open_raw(port_of(server))
    service.trace = None
    first.write(frame(TEXT, b"not this"))
    await first.read_frame()
    third = await open_raw(port_of(server))
    for raw in (first, second, third):
        await raw.drop()
    await within(service.stopService())
    assert lines.of(1, "> ") == ["[text fin, 3 bytes] one"]
    assert lines.of(2, "> ")[0] == "HTTP/1.1 101 Switching Protocols"
    assert lines.of(3) == []
    assert "not this" not in "\n".join(lines)


@pytest_twisted.ensureDeferred
async def test_a_trace_that_is_switched_on_later_hides_the_secrets_of_the_handshake() -> None:
    lines = Lines()
    server = await within(local())
    uri = f"ws://127.0.0.1:{port_of(server)}/?key={SECRET}"
    connection = await within(connect(uri, headers={"X-Token": "0ther-S3cret"}))
    trace = lines.trace(frames=True)
    connection.trace = trace
    for each in server.connections:
        each.trace = trace
    await within(connection.send(f"{SECRET} and 0ther-S3cret"))
    await within(connection.recv())
    await within(connection.close(1000, SECRET))
    await within(server.close())
    text = "\n".join(lines)
    assert text.count("*** and ***") == 4
    assert SECRET not in text
    assert "0ther-S3cret" not in text


@pytest_twisted.ensureDeferred
async def test_a_server_takes_the_trace_that_was_set_before_it_listened() -> None:
    service = WebSocketServerService(echo, "tcp:0:interface=127.0.0.1")
    service.trace = trace = Lines().trace()
    service.startService()
    server = await within(service.when_listening())
    assert server.trace is trace
    await within(service.stopService())


@pytest.mark.parametrize("given", ["trace.txt", open])
@pytest_twisted.ensureDeferred
async def test_what_is_no_trace_is_refused_before_anything_is_sent(given: Any) -> None:
    makers: list[Any] = [
        lambda: connect("ws://127.0.0.1:1/", trace=given),
        lambda: local(trace=given),
        lambda: reconnecting("ws://127.0.0.1:1/", trace=given),
        lambda: WebSocketClientService("ws://127.0.0.1:1/", echo, trace=given),
        lambda: WebSocketServerService(echo, "tcp:0", trace=given),
        lambda: setattr(WebSocketServerService(echo, "tcp:0"), "trace", given),
        lambda: setattr(WebSocketClientService("ws://127.0.0.1:1/", echo), "trace", given),
    ]
    for make in makers:
        with pytest.raises(TypeError, match="trace is a Trace"):
            make()


@pytest_twisted.ensureDeferred
async def test_each_signal_switches_it_on_or_off() -> None:
    trace = Lines().trace()
    service = WebSocketServerService(echo, "tcp:0:interface=127.0.0.1")
    before = signal.getsignal(signal.SIGUSR1)
    restore = trace_on_signal(service, trace, signal.SIGUSR1)
    try:
        for expected in (trace, None, trace):
            os.kill(os.getpid(), signal.SIGUSR1)
            await eventually(lambda expected=expected: service.trace is expected)  # type: ignore[misc]
    finally:
        restore()
    assert signal.getsignal(signal.SIGUSR1) == before
    restore()


@pytest_twisted.ensureDeferred
async def test_a_signal_that_somebody_took_since_is_not_given_back() -> None:
    service = WebSocketServerService(echo, "tcp:0:interface=127.0.0.1")
    before = signal.getsignal(signal.SIGUSR1)
    restore = trace_on_signal(service, Lines().trace(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    restore()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    signal.signal(signal.SIGUSR1, before)
    await defer.succeed(None)
