"""A proxy, or a server, that dies, hangs or stammers at any byte: one result, nothing left.

That no socket and no timer is left is checked after every test, by a fixture of them all.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.endpoints import HTTPConnectEndpoint, SOCKSEndpoint
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
    ProxyTLSFailed,
)
from wsframe.options import ClientOptions
from wsframe.protocol import WebSocketClientFactory, WebSocketClientProtocol

from .certificates import Authority, ServerTLS
from .origins import echo_server
from .peers import missing
from .proxies import RecordingProxy
from .raw import (
    Raw,
    RawServer,
    Stepped,
    connect_raw,
    eventually,
    frame,
    switching,
    turns,
    within,
)

GRANTED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n"
ASKS = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
    b"Content-Length: 6\r\n\r\nplease"
)
REFUSES = b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnope\r\n0\r\n\r\n"
HEAD = None
URL = "ws://127.0.0.1:9/"
LOGIN = "anna:s3cret"
ASKED = ClientOptions(proxy_auth_unasked=False)


@dataclass(frozen=True)
class Talk:
    """What a proxy reads (so many bytes, or an HTTP head) and answers, in turn, to open a tunnel.

    With `asked` it has said that before, and kept the connection or, with `ends`, not.
    """

    scheme: str
    shares: tuple[tuple[int | None, bytes], ...]
    login: str = ""
    asked: bytes = b""
    ends: bool = False

    @property
    def size(self) -> int:
        """The bytes that it says, less those before."""
        return sum(len(answer) for _, answer in self.shares)

    def behind(self, data: bytes) -> Talk:
        """Return the same talk, with these bytes behind the last answer."""
        wanted, answer = self.shares[-1]
        return replace(self, shares=(*self.shares[:-1], (wanted, answer + data)))

    def url(self, port: int) -> str:
        """Return the URL of the proxy, which listens on that port."""
        return f"{self.scheme}://{self.login and self.login + '@'}127.0.0.1:{port}"


TALKS = {
    "http": Talk("http", ((HEAD, GRANTED),)),
    "https": Talk("https", ((HEAD, GRANTED),)),
    "http asked": Talk("http", ((HEAD, GRANTED),), LOGIN, ASKS),
    "http asked and ended": Talk("http", ((HEAD, GRANTED),), LOGIN, ASKS, ends=True),
    "https asked": Talk("https", ((HEAD, GRANTED),), LOGIN, ASKS),
    "socks4": Talk("socks4", ((9, b"\0\x5a" + bytes(6)),)),
    "socks4a": Talk("socks4a", ((9, b"\0\x5a" + bytes(6)),)),
    "socks5": Talk("socks5", ((3, b"\5\0"), (10, b"\5\0\0\1" + bytes(6)))),
    "socks5h name": Talk("socks5h", ((3, b"\5\0"), (10, b"\5\0\0\3\2gw\0\0"))),
    "socks5 login": Talk(
        "socks5", ((4, b"\5\2"), (13, b"\1\0"), (10, b"\5\0\0\4" + bytes(18))), LOGIN
    ),
}


class Scripted(RawServer):
    """A proxy that has a talk, up to `end` bytes of it, and then does what `ending` says.

    "stop", "reset", "hang"; "stammer" is to say all one byte at a time, and to open the WebSocket
    so, too. `done` has a connection for each that it has nothing more to say on.
    """

    def __init__(
        self, talk: Talk, ending: str, end: int | None = None, certificate: ServerTLS | None = None
    ) -> None:
        super().__init__(self._play, certificate=certificate if talk.scheme == "https" else None)
        self.talk = talk
        self.ending = ending
        self.left = talk.size if end is None else end
        self.done: list[Raw] = []

    @property
    def url(self) -> str:
        return self.talk.url(self.port)

    async def _play(self, raw: Raw) -> None:
        talk = self.talk
        if talk.asked and len(self.connections) == 1:
            await raw.read_head()
            raw.write(talk.asked)
            if talk.ends:
                raw.finish()
                return
        for wanted, answer in talk.shares:
            await (raw.read_head() if wanted is HEAD else raw.read(wanted))
            await self._say(raw, answer[: self.left])
            self.left -= len(answer)
            if self.left < 0:
                break
        if self.left == 0 and self.ending != "none":
            head = await raw.read_head()  # the tunnel is open
            if self.ending == "stammer":
                await self._say(raw, switching(head) + frame(1, "é".encode(), masked=False))
        self.done.append(raw)
        if self.ending == "stop":
            raw.finish()
        elif self.ending == "reset":
            await turns(2)  # the bytes are to arrive first, as they would over a network
            raw.reset()

    async def _say(self, raw: Raw, answer: bytes) -> None:
        pieces = [bytes([byte]) for byte in answer] if self.ending == "stammer" else [answer]
        for piece in filter(None, pieces):
            raw.write(piece)
            await turns()


class Turning(Stepped):
    """A clock that stands still, but for the next turn: there Twisted's TLS sends what it has."""

    def __init__(self) -> None:
        super().__init__()
        later = self.callLater

        def call_later(delay: float, *args: Any, **kwargs: Any) -> Any:
            return (later if delay else self._reactor.callLater)(delay, *args, **kwargs)

        self.callLater = call_later


async def settle(
    server: RawServer, ending: str, done: Sequence[Raw], proxy: str | None, **arguments: Any
) -> Any:
    """Connect, wait for the one result, and see that the server is left; return the result.

    `done` tells whether a server that is to hang has said all that it is to say before.
    """
    reactor = Turning()
    result: defer.Deferred[Any] = defer.Deferred()
    url = URL if proxy else f"ws://127.0.0.1:{server.port}/"
    opening = connect(url, proxies=proxy, reactor=reactor, **arguments)  # type: ignore[arg-type]
    opening.addBoth(result.callback)
    if ending == "hang":
        await eventually(lambda: done or result.called)
        await turns(5)
        reactor.advance(9.9)
        await turns()
        if not result.called:
            reactor.advance(0.1)
    outcome = await within(result.addErrback(lambda failure: failure.value))
    for raw in server.connections:
        await within(raw.ended())
    assert reactor.getDelayedCalls() == []
    return outcome


async def outcome_of(
    talk: Talk,
    ending: str,
    end: int | None = None,
    certificate: ServerTLS | None = None,
    proxy_tls: Any = None,
) -> Any:
    """Connect through a proxy that says so much, and then does that."""
    async with Scripted(talk, ending, end, certificate) as proxy:
        outcome = await settle(
            proxy, ending, proxy.done, proxy.url, proxy_tls=proxy_tls, options=ASKED
        )
        assert len(proxy.connections) == 1 + talk.ends
    return outcome


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest.mark.parametrize("name", list(TALKS))
@pytest_twisted.ensureDeferred
async def test_every_offset_of_the_answer_gives_one_typed_error(
    authority: Authority, name: str, ending: str
) -> None:
    talk = TALKS[name]
    # A connection that was kept and ends before a byte more is replaced: see test_proxy_auth.
    kept = talk.asked and not talk.ends
    offsets = range(1 if kept else 0, talk.size + 1)
    tls = authority.issue("127.0.0.1"), authority.verify_proxy
    waiting = [defer.ensureDeferred(outcome_of(talk, ending, end, *tls)) for end in offsets]
    for end, outcome in zip(offsets, await defer.gatherResults(waiting), strict=True):
        open_ = end == talk.size
        if ending == "hang":
            expected: type[OpenError] = OpenTimeout if open_ else ProxyTimeout
        else:
            expected = OpenError if open_ else BadProxyAnswer
        phase = "handshake" if open_ else "proxy"
        assert (type(outcome), outcome.phase) == (expected, phase), end
        assert getattr(outcome, "status", None) is None


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest.mark.parametrize("answer", [ASKS, REFUSES], ids=["407", "502"])
@pytest_twisted.ensureDeferred
async def test_every_offset_of_a_refusal_gives_one_typed_error(answer: bytes, ending: str) -> None:
    talk = Talk("http", ((HEAD, answer + b"x"),))  # one more, so that it is never said whole
    offsets = range(len(answer) + 1)
    waiting = [defer.ensureDeferred(outcome_of(talk, ending, end)) for end in offsets]
    head = answer.index(b"\r\n\r\n") + 4
    for end, outcome in zip(offsets, await defer.gatherResults(waiting), strict=True):
        cut = answer[:end]
        if end < head and ending == "hang":
            assert (type(outcome), outcome.phase) == (ProxyTimeout, "proxy"), cut
        elif end < head:
            assert (type(outcome), outcome.phase) == (BadProxyAnswer, "proxy"), cut
            assert outcome.status is None
        else:
            # The status is known: that its body breaks off or hangs takes nothing from it.
            expected = ProxyAuthRequired if answer is ASKS else ProxyRefused
            assert type(outcome) is expected, cut
            assert outcome.status == (407 if answer is ASKS else 502)
            assert (b"please" if answer is ASKS else b"nope").startswith(outcome.body)
            if end == len(answer):
                assert len(outcome.body) in {4, 6}


class Cut(RawServer):
    """What lets so many bytes of a server through to its client, and then does that."""

    def __init__(self, port: int, ending: str, end: int | None) -> None:
        super().__init__(self._pass_on)
        self.behind = port
        self.ending = ending
        self.end = end
        self.passed = 0
        self.done: list[Raw] = []
        self._server: Raw | None = None

    async def _pass_on(self, client: Raw) -> None:
        self._server = server = await connect_raw(self.behind)

        def from_server(data: bytes) -> None:
            share = data if self.end is None else data[: self.end - self.passed]
            self.passed += len(share)
            if share:
                client.write(share)
            if self.passed == self.end and not self.done:
                self.done.append(client)
                if self.ending == "stop":
                    client.finish()
                elif self.ending == "reset":
                    client.reset()

        server.dataReceived = from_server  # type: ignore[method-assign]
        client.dataReceived = server.write  # type: ignore[method-assign]
        server.write(client._take(len(client.received)))
        if self.end == 0:
            from_server(b"")

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        if self._server is not None:
            await self._server.drop()


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest_twisted.ensureDeferred
async def test_every_part_of_the_tls_of_a_proxy_gives_one_typed_error(
    authority: Authority, ending: str
) -> None:
    """The bytes on the wire are cut here, not those within."""
    certificate = authority.issue("127.0.0.1")
    tls = {"proxy_tls": authority.verify_proxy}

    async def outcome_at(end: int) -> Any:
        async with (
            Scripted(TALKS["https"], "hang", certificate=certificate) as proxy,
            Cut(proxy.port, ending, end) as cut,
        ):
            return await settle(cut, ending, cut.done, TALKS["https"].url(cut.port), **tls)

    async with (
        Scripted(TALKS["https"], "hang", certificate=certificate) as proxy,
        Cut(proxy.port, "hang", None) as cut,
    ):
        await settle(cut, "hang", proxy.done, TALKS["https"].url(cut.port), **tls)
        size = cut.passed - 64  # signatures and session tickets vary by so much
    offsets = [*range(0, size, 23), *range(size - 30, size)]
    waiting = [defer.ensureDeferred(outcome_at(end)) for end in offsets]
    outcomes = await defer.gatherResults(waiting)
    for end, outcome in zip(offsets, outcomes, strict=True):
        during = (ProxyTimeout,) if ending == "hang" else (ProxyTLSFailed, BadProxyAnswer)
        assert type(outcome) in during, end
    phases = [outcome.phase for outcome in outcomes]
    shaken = phases.index("proxy")  # and from there on it stays so
    assert set(phases[:shaken]) == {"proxy-tls"}
    assert set(phases[shaken:]) == {"proxy"}


@pytest.mark.parametrize("answer", [ASKS, REFUSES], ids=["407", "502"])
@pytest_twisted.ensureDeferred
async def test_refusal_that_comes_one_byte_at_a_time_is_the_same(answer: bytes) -> None:
    expected = ProxyAuthRequired if answer is ASKS else ProxyRefused
    outcome = await outcome_of(Talk("http", ((HEAD, answer),)), "stammer")
    assert type(outcome) is expected
    assert outcome.body == (b"please" if answer is ASKS else b"nope")


@pytest.mark.parametrize("name", list(TALKS))
@pytest_twisted.ensureDeferred
async def test_tunnel_handshake_and_message_one_byte_at_a_time(
    authority: Authority, name: str
) -> None:
    async with Scripted(TALKS[name], "stammer", certificate=authority.issue("127.0.0.1")) as proxy:
        connection = await connect(
            URL, proxies=proxy.url, proxy_tls=authority.verify_proxy, options=ASKED
        )
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
    outcome = await outcome_of(Talk("http", ((HEAD, answer + b"x"),)), "stop", len(answer))
    assert (type(outcome), outcome.phase) == (BadProxyAnswer, "proxy")


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 204 Fine\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
]
"""Answers that open a tunnel all the same."""


@pytest.mark.parametrize(
    "talk",
    [*TALKS.values(), *(Talk("http", ((HEAD, head),)) for head in HEADS)],
    ids=[*TALKS, *map(repr, HEADS)],
)
@pytest_twisted.ensureDeferred
async def test_bytes_behind_the_answer_are_delivered_verbatim(
    authority: Authority, talk: Talk
) -> None:
    """CVE-2022-24801: a length in the answer to a CONNECT means nothing; all 2xx open it."""
    from twisted.internet import reactor

    first = b"220 the server speaks first\r\n\r\n\x00\xff" + bytes(range(256)) * 10
    certificate = authority.issue("127.0.0.1")
    async with Scripted(talk.behind(first), "none", certificate=certificate) as server:
        kind: Any = SOCKSEndpoint if talk.scheme.startswith("socks") else HTTPConnectEndpoint
        endpoint = kind(
            reactor,
            server.url,
            "127.0.0.1",
            9,
            timeout=5,
            proxy_tls=authority.verify_proxy,
            options=ASKED,
        )
        inner = await endpoint.connect(Factory.forProtocol(Raw))
        assert await inner.read(len(first)) == first
        inner.write(b"EHLO\r\n")
        assert await server.connections[-1].read_until(b"\r\n") == b"EHLO\r\n"
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
    done: list[Raw] = []

    async def script(raw: Raw) -> None:
        raw.write(switching(await raw.read_head())[:cut])
        done.append(raw)
        if ending == "stop":
            raw.finish()
        elif ending == "reset":
            await turns(2)
            raw.reset()

    async with RawServer(script) as server:
        return await settle(server, ending, done, None)


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
