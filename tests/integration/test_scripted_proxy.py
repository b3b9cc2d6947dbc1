"""A proxy, or a server, that dies, hangs or stammers at any byte: one result, nothing left.

That no socket and no timer is left is checked after every test, by a fixture of them all.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.endpoints import HTTPConnectEndpoint
from wsframe.errors import (
    BadHandshake,
    BadProxyAnswer,
    HandshakeRefused,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRequired,
    ProxyRefused,
    ProxyTimeout,
)
from wsframe.protocol import WebSocketClientFactory, WebSocketClientProtocol

from .certificates import Authority
from .peers import missing
from .proxies import RecordingProxy
from .raw import Raw, RawServer, Stepped, eventually, frame, switching, turns, within
from .test_proxy import echo_server

GRANTED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n"
ASKS = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
    b"Content-Length: 6\r\n\r\nplease"
)
REFUSES = b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n0\r\n\r\n"


def body_start(answer: bytes) -> int:
    return answer.index(b"\r\n\r\n") + 4


async def outcome_of(answer: bytes, ending: str) -> OpenError | Connection:
    """Connect through a proxy that says so much, and then does that."""

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(answer)
        if ending == "stop":
            raw.finish()
        elif ending == "reset":
            # The bytes are to arrive first, as they would over a network.
            await turns(2)
            raw.reset()

    async with RawServer(script) as proxy:
        url, through = "ws://127.0.0.1:9/", f"http://127.0.0.1:{proxy.port}"
        return await settle(proxy, ending, url, through)


async def settle(
    server: RawServer,
    ending: str,
    url: str,
    proxy: str | None,
    said: Callable[[], object] = lambda: True,
) -> Any:
    """Connect, wait for the one result, and see that the server is left.

    `said` tells whether a server that is to hang has said all that it is to say before.
    """
    reactor = Stepped()
    results: list[Any] = []
    opening = connect(url, proxies=proxy, reactor=reactor)  # type: ignore[arg-type]
    opening.addBoth(results.append)
    raw: Raw = await server.accepted()
    if ending == "hang":
        await raw.until(lambda: raw.total)
        await eventually(said)
        await turns(5)
        reactor.advance(9.9)
        await turns()
        if not results:
            reactor.advance(0.1)
    await eventually(lambda: results)
    await within(raw.ended())
    assert len(server.connections) == 1
    assert reactor.getDelayedCalls() == []
    (result,) = results
    return result.value


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest.mark.parametrize("answer", [GRANTED, ASKS, REFUSES], ids=["200", "407", "502"])
@pytest_twisted.ensureDeferred
async def test_every_offset_of_the_answer_gives_one_typed_error(answer: bytes, ending: str) -> None:
    offsets = range(len(answer) + 1)
    waiting = [defer.ensureDeferred(outcome_of(answer[:end], ending)) for end in offsets]
    head = body_start(answer)
    for end, outcome in zip(offsets, await defer.gatherResults(waiting), strict=True):
        cut = answer[:end]
        if end < head and ending == "hang":
            assert (type(outcome), outcome.phase) == (ProxyTimeout, "proxy"), cut
        elif end < head:
            assert (type(outcome), outcome.phase) == (BadProxyAnswer, "proxy"), cut
            assert outcome.status is None
        elif answer is GRANTED:
            expected = OpenTimeout if ending == "hang" else OpenError
            assert (type(outcome), outcome.phase) == (expected, "handshake"), cut
        elif end < len(answer) and ending == "hang":
            assert (type(outcome), outcome.phase) == (ProxyTimeout, "proxy"), cut
        else:
            # The status is known: that its body breaks off takes nothing from it.
            expected = ProxyAuthRequired if answer is ASKS else ProxyRefused
            assert type(outcome) is expected, cut
            assert outcome.status == (407 if answer is ASKS else 502)
            assert (b"please" if answer is ASKS else b"nope").startswith(outcome.body)
            if end == len(answer):
                assert len(outcome.body) in {4, 6}


async def stammer(raw: Raw, data: bytes) -> None:
    for byte in data:
        raw.write(bytes([byte]))
        await turns()


@pytest.mark.parametrize("answer", [ASKS, REFUSES], ids=["407", "502"])
@pytest_twisted.ensureDeferred
async def test_refusal_that_comes_one_byte_at_a_time_is_the_same(answer: bytes) -> None:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        await stammer(raw, answer)

    async with RawServer(script) as proxy:
        expected = ProxyAuthRequired if answer is ASKS else ProxyRefused
        with pytest.raises(expected) as caught:
            await connect("ws://127.0.0.1:9/", proxies=f"http://127.0.0.1:{proxy.port}")
        assert caught.value.body == (b"please" if answer is ASKS else b"nope")


@pytest_twisted.ensureDeferred
async def test_tunnel_handshake_and_message_one_byte_at_a_time() -> None:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        await stammer(raw, b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + GRANTED)
        answer = switching(await raw.read_head())
        await stammer(raw, answer + frame(1, "é".encode(), masked=False))

    async with RawServer(script) as proxy:
        connection = await connect("ws://127.0.0.1:9/", proxies=f"http://127.0.0.1:{proxy.port}")
        assert await connection.recv(10) == "é"
        connection.abort()
        await connection.when_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x01\x02\x03 garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken line\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x0bb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x85b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:24]),
)
@pytest_twisted.ensureDeferred
async def test_answer_that_is_none_is_bad_proxy_answer(answer: bytes) -> None:
    outcome = await outcome_of(answer, "stop")
    assert (type(outcome), outcome.phase) == (BadProxyAnswer, "proxy")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 204 Fine\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=repr,
)
@pytest_twisted.ensureDeferred
async def test_bytes_behind_the_answer_are_delivered_verbatim(head: bytes) -> None:
    """CVE-2022-24801: a length in the answer to a CONNECT means nothing; all 2xx open it."""
    first = b"220 the server speaks first\r\n\r\n\x00\xff" + bytes(range(256)) * 10

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(head + first)

    from twisted.internet import reactor

    async with RawServer(script) as proxy:
        endpoint = HTTPConnectEndpoint(
            reactor, f"http://127.0.0.1:{proxy.port}", "target.example", 25, timeout=5
        )
        inner = await endpoint.connect(Factory.forProtocol(Raw))
        assert await inner.read(len(first)) == first
        inner.write(b"EHLO\r\n")
        assert await proxy.connections[0].read_until(b"\r\n") == b"EHLO\r\n"
        await inner.drop()


@pytest_twisted.ensureDeferred
async def test_plain_protocol_hears_of_the_end_of_its_tunnel_once() -> None:
    from twisted.internet import reactor

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(GRANTED + b"bye")
        raw.finish()

    async with RawServer(script) as proxy:
        endpoint = HTTPConnectEndpoint(
            reactor, f"http://127.0.0.1:{proxy.port}", "target.example", 25
        )
        inner = await endpoint.connect(Factory.forProtocol(Raw))
        assert await inner.read_all() == b"bye"


@pytest_twisted.ensureDeferred
async def test_no_protocol_is_built_before_the_tunnel_is_open() -> None:
    from twisted.internet import reactor

    built: list[Any] = []
    factory = Factory()
    factory.buildProtocol = built.append  # type: ignore[assignment]

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(REFUSES)

    async with RawServer(script) as proxy:
        endpoint = HTTPConnectEndpoint(reactor, f"http://127.0.0.1:{proxy.port}", "h", 1)
        with pytest.raises(ProxyRefused):
            await endpoint.connect(factory)
        assert built == []


@pytest_twisted.ensureDeferred
async def test_factory_that_builds_no_protocol_leaves_nothing() -> None:
    from twisted.internet import reactor

    factory = Factory()
    factory.buildProtocol = lambda address: None  # type: ignore[assignment]

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(GRANTED)

    async with RawServer(script) as proxy:
        endpoint = HTTPConnectEndpoint(reactor, f"http://127.0.0.1:{proxy.port}", "h", 1)
        with pytest.raises(OpenError, match="no protocol"):
            await endpoint.connect(factory)
        await within(proxy.connections[0].ended())


@pytest_twisted.ensureDeferred
async def test_autobahn_named_factory_through_the_tunnel() -> None:
    from twisted.internet import reactor

    class Chat(WebSocketClientProtocol):  # type: ignore[misc]
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            said.callback(payload)

    said: defer.Deferred[bytes] = defer.Deferred()
    async with RecordingProxy() as proxy, echo_server() as port:
        factory = WebSocketClientFactory(f"ws://127.0.0.1:{port}/chat")
        factory.protocol = Chat
        endpoint = HTTPConnectEndpoint(reactor, proxy.url, "127.0.0.1", port)
        protocol = await endpoint.connect(factory)
        await within(protocol.is_open)
        protocol.sendMessage(b"hello", isBinary=True)
        assert await within(said) == b"hello"
        protocol.sendClose(1000)
        await within(protocol.is_closed)
        assert len(proxy.requests) == 1


@pytest_twisted.ensureDeferred
async def test_deadline_of_the_endpoint_alone() -> None:
    from twisted.internet import reactor

    async with RawServer() as proxy:
        endpoint = HTTPConnectEndpoint(
            reactor, f"http://127.0.0.1:{proxy.port}", "h", 1, timeout=0.05
        )
        with pytest.raises(OpenTimeout) as caught:
            await endpoint.connect(Factory.forProtocol(Raw))
        assert caught.value.phase == "proxy"
        await within(proxy.connections[0].ended())


# ------------------------------------------------------------------ cancellation


def opening_in(phase: str, authority: Authority, port: int) -> Any:
    scheme = "wss" if phase == "tls" else "ws"
    tls = authority.client("localhost") if phase == "tls" else None
    host = "localhost" if phase == "dns" else "127.0.0.1"  # an address is not looked up
    return connect(f"{scheme}://localhost:9/", proxies=f"http://{host}:{port}", tls=tls)


async def reach(phase: str, proxy: RawServer) -> Raw | None:
    """Bring the attempt into that phase; return the proxy's side of it."""
    if phase == "dns":
        return None
    raw: Raw = await proxy.accepted()
    await raw.read_head()
    if phase == "proxy":
        raw.write(GRANTED[:20])
        return raw
    raw.write(GRANTED)
    await raw.until(lambda: raw.received)  # a ClientHello, or the opening handshake
    if phase == "handshake":
        raw.write(b"HTTP/1.1 101 Switching")
    return raw


@pytest.mark.parametrize("phase", ["dns", "proxy", "tls", "handshake"])
@pytest_twisted.ensureDeferred
async def test_cancelled_attempt_says_its_phase_and_leaves_nothing(phase: str) -> None:
    async with RawServer() as proxy:
        opening = opening_in(phase, Authority(), proxy.port)
        raw = await reach(phase, proxy)
        results: list[Any] = []
        opening.addBoth(results.append)
        opening.cancel()
        (result,) = results  # at once
        assert result.type is OpenCancelled
        assert result.value.phase == phase
        opening.cancel()
        if raw is not None:
            await within(raw.ended())


@pytest.mark.parametrize("phase", ["dns", "proxy", "tls", "handshake"])
@pytest_twisted.ensureDeferred
async def test_cancelled_coroutine_leaves_nothing(phase: str) -> None:
    async with RawServer() as proxy:

        async def use() -> None:
            async with opening_in(phase, Authority(), proxy.port):
                raise AssertionError("it never opens")

        using = defer.ensureDeferred(use())
        raw = await reach(phase, proxy)
        using.cancel()
        with pytest.raises((OpenCancelled, defer.CancelledError)):
            await using
        if raw is not None:
            await within(raw.ended())


@contextmanager
def full_port() -> Iterator[int]:
    """Give a port whose queue of connections is full: a further one is neither taken nor refused.

    Nobody has to be unreachable for that; Linux drops the SYN.
    """
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
            _, connected, _ = select.select([], [waiting], [], 0.1)
            if not connected:
                yield listening.getsockname()[1]
                return
        missing("a kernel whose queue of connections can be filled")


@pytest.mark.parametrize("expected", [OpenTimeout, OpenCancelled])
@pytest_twisted.ensureDeferred
async def test_deadline_and_cancellation_in_phase_tcp(expected: type[OpenError]) -> None:
    with full_port() as port:
        reactor = Stepped()
        results: list[Any] = []
        opening = connect(f"ws://127.0.0.1:{port}/", reactor=reactor)  # type: ignore[arg-type]
        opening.addBoth(results.append)
        await eventually(lambda: connecting(port))
        if expected is OpenCancelled:
            opening.cancel()
        else:
            reactor.advance(10)
        await eventually(lambda: results)
        (result,) = results
        assert (result.type, result.value.phase) == (expected, "tcp")
        assert reactor.getDelayedCalls() == []
        assert not connecting(port)


def connecting(port: int) -> bool:
    """Return whether this process is about to connect to the port."""
    from twisted.internet import reactor

    writers: Any = reactor.getWriters()  # type: ignore[attr-defined]
    return any(getattr(writer, "addr", None) == ("127.0.0.1", port) for writer in writers)


@pytest_twisted.ensureDeferred
async def test_cancelling_an_open_connection_does_nothing() -> None:
    async with echo_server() as port:
        opening = connect(f"ws://127.0.0.1:{port}/")
        connection = await opening
        opening.cancel()
        await connection.send("still here")
        assert await connection.recv() == "still here"
        await connection.close()


# ------------------------------------------------------------------ the server's answer


async def server_outcome(cut: int | None, ending: str) -> OpenError | Connection:
    async def script(raw: Raw) -> None:
        raw.write(switching(await raw.read_head())[:cut])
        if ending == "stop":
            raw.finish()
        elif ending == "reset":
            await turns(2)
            raw.reset()

    async with RawServer(script) as server:
        return await settle(server, ending, f"ws://127.0.0.1:{server.port}/", None)


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest_twisted.ensureDeferred
async def test_every_offset_of_the_servers_answer_gives_one_typed_error(ending: str) -> None:
    size = len(switching("GET\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
    waiting = [defer.ensureDeferred(server_outcome(cut, ending)) for cut in range(size)]
    for cut, outcome in enumerate(await defer.gatherResults(waiting)):
        assert isinstance(outcome, OpenError), cut
        assert outcome.phase == "handshake", cut
        assert isinstance(outcome, OpenTimeout) == (ending == "hang"), cut


WRONG_KEY = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: d3Jvbmc=\r\n\r\n"
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", HandshakeRefused),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\n\r\n", HandshakeRefused),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", HandshakeRefused),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", BadHandshake),
        (WRONG_KEY, BadHandshake),
        (b"\x15\x03\x01\x00\x02\x02\x46", BadHandshake),
        (b"HTTP/1.1 200 OK\r\nX: a\x0bY: z\r\n\r\n", BadHandshake),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 17_000, BadHandshake),
    ],
    ids=["404", "302", "200", "no key", "wrong key", "TLS", "control byte", "head too large"],
)
@pytest_twisted.ensureDeferred
async def test_answer_other_than_a_right_101_is_typed(
    answer: bytes, expected: type[OpenError]
) -> None:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(answer)
        raw.finish()

    async with RawServer(script) as server:
        with pytest.raises(expected):
            await connect(f"ws://127.0.0.1:{server.port}/")


@pytest_twisted.ensureDeferred
async def test_message_right_behind_the_101_is_received() -> None:
    async def script(raw: Raw) -> None:
        answer = switching(await raw.read_head())
        raw.write(answer + frame(1, b"first", masked=False) + frame(1, b"second", masked=False))

    async with RawServer(script) as server:
        connection = await connect(f"ws://127.0.0.1:{server.port}/")
        assert [await connection.recv(10), await connection.recv(10)] == ["first", "second"]
        connection.abort()
        await connection.when_closed()
