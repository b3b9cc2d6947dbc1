"""`WebSocketResource` in a real site, on real sockets, beside ordinary pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from integration.certificates import Authority
from memory import (
    BINARY,
    TEXT,
    masked_close,
    masked_frame,
    parse,
    request,
)
from twisted.internet import defer
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from wsframe import (
    Accept,
    HandshakeRefused,
    Reject,
    Response,
    ServerOptions,
    WebSocketResource,
    connect,
)


class Page(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"page " + request.uri

    def render_POST(self, request: Any) -> bytes:
        return b"posted " + request.content.read()


class SlowPage(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> int:
        deferLater(the_reactor(), 0.05, self.finish, request)
        return NOT_DONE_YET

    def finish(self, request: Any) -> None:
        request.write(b"slow")
        request.finish()


def the_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


async def echo(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


class Raw(Protocol):
    """A client that says exactly what it is told to."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False
        self.waiting: list[tuple[Callable[[], bool], defer.Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.look()

    def look(self) -> None:
        for entry in list(self.waiting):
            if entry[0]():
                self.waiting.remove(entry)
                entry[1].callback(None)

    def until(self, condition: Callable[[], bool]) -> defer.Deferred[None]:
        done: defer.Deferred[None] = defer.Deferred()
        self.waiting.append((condition, done))
        self.look()
        return done.addTimeout(10, the_reactor())

    async def head(self) -> bytes:
        await self.until(lambda: b"\r\n\r\n" in self.received)
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        return head

    async def take(self, size: int) -> bytes:
        await self.until(lambda: len(self.received) >= size)
        data, self.received = self.received[:size], self.received[size:]
        return data

    async def end(self) -> None:
        await self.until(lambda: self.lost)


class Served:
    """A site on a port of its own, with what was opened to it."""

    def __init__(self, handler: Any = echo, *, timeout: float = 60, **arguments: Any) -> None:
        self.resource = WebSocketResource(handler, **arguments)
        root = Resource()
        root.putChild(b"ws", self.resource)
        root.putChild(b"page", Page())
        root.putChild(b"slow", SlowPage())
        below = Resource()
        below.putChild(b"deep", self.resource)
        root.putChild(b"sub", below)
        self.site = Site(root, timeout=timeout)
        self.port = the_reactor().listenTCP(0, self.site, interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.uri = f"ws://127.0.0.1:{self.number}/ws"
        self.clients: list[Raw] = []

    async def raw(self) -> Raw:
        endpoint = TCP4ClientEndpoint(the_reactor(), "127.0.0.1", self.number)
        client: Raw = await connectProtocol(endpoint, Raw())
        self.clients.append(client)
        return client

    async def __aenter__(self) -> Served:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for client in self.clients:
            client.transport.loseConnection()  # type: ignore[union-attr]
            await client.end()
        await self.resource.close()
        await self.port.stopListening()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


UPGRADE = request(target="/ws")


@pytest_twisted.ensureDeferred
async def test_pages_and_websockets_on_the_same_port() -> None:
    async with Served() as served, connect(served.uri) as connection:
        await connection.send("hello")
        assert await connection.recv() == "hello"
        client = await served.raw()
        client.transport.write(get("/page"))
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert len(served.resource.connections) == 1


@pytest_twisted.ensureDeferred
async def test_over_tls(certificate: Any) -> None:
    offered, trusted = certificate
    resource = WebSocketResource(echo)
    root = Resource()
    root.putChild(b"ws", resource)
    root.putChild(b"page", Page())
    from twisted.protocols.tls import TLSMemoryBIOFactory

    factory = TLSMemoryBIOFactory(offered, False, Site(root))
    port = the_reactor().listenTCP(0, factory, interface="127.0.0.1")
    uri = f"wss://localhost:{port.getHost().port}/ws"

    async with connect(uri, tls=trusted) as connection:
        await connection.send(b"x" * 200_000)
        assert await connection.recv() == b"x" * 200_000
    await resource.close()
    await port.stopListening()


@pytest.fixture(scope="module")
def certificate() -> Any:
    authority = Authority()
    return authority.issue("localhost"), authority.client("localhost")


@pytest_twisted.ensureDeferred
async def test_an_upgrade_after_pages_on_the_same_connection() -> None:
    async with Served() as served:
        client = await served.raw()
        for _ in range(2):
            client.transport.write(get("/page"))
            assert b"200 OK" in await client.head()
            assert (await client.until(lambda: client.received.endswith(b"page"))) is None
            client.received = b""
        client.transport.write(
            b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
        )
        await client.until(lambda: b"posted body" in client.received)
        client.received = b""
        client.transport.write(UPGRADE)
        assert b" 101 " in await client.head()
        client.transport.write(masked_frame(TEXT, b"after pages"))

        assert parse(await client.take(13))[0].payload == b"after pages"


@pytest_twisted.ensureDeferred
async def test_an_upgrade_pipelined_behind_a_slow_page() -> None:
    async with Served() as served:
        client = await served.raw()

        client.transport.write(get("/slow") + UPGRADE + masked_frame(TEXT, b"patient"))

        await client.until(lambda: b"HTTP/1.1 101 " in client.received)
        page, _, client.received = client.received.partition(b"HTTP/1.1 101 ")
        assert b"slow" in page
        await client.head()
        assert parse(await client.take(9))[0].payload == b"patient"


@pytest_twisted.ensureDeferred
async def test_frames_in_the_same_segment_as_the_handshake() -> None:
    async with Served() as served:
        client = await served.raw()

        client.transport.write(
            UPGRADE + masked_frame(TEXT, b"one") + masked_frame(BINARY, b"x" * 100_000)
        )
        client.transport.write(masked_frame(TEXT, b"two"))

        assert b" 101 " in await client.head()
        frames = parse(await client.take(5 + 100_010 + 5))
        assert [f.payload for f in frames] == [b"one", b"x" * 100_000, b"two"]


@pytest_twisted.ensureDeferred
async def test_a_handshake_dripped_byte_by_byte() -> None:
    async with Served() as served:
        client = await served.raw()
        for byte in UPGRADE:
            client.transport.write(bytes([byte]))
            await deferLater(the_reactor(), 0, lambda: None)

        assert b" 101 " in await client.head()


@pytest_twisted.ensureDeferred
async def test_in_a_path_below() -> None:
    seen: list[str] = []
    async with Served(process_request=lambda request: seen.append(request.target)) as served:
        uri = served.uri.replace("/ws", "/sub/deep/and/more?q=1")
        async with connect(uri) as connection:
            await connection.send("x")
            assert await connection.recv() == "x"

    assert seen == ["/sub/deep/and/more?q=1"]


@pytest_twisted.ensureDeferred
async def test_the_closing_handshake() -> None:
    async with Served() as served:
        client = await served.raw()
        client.transport.write(UPGRADE)
        await client.head()
        client.transport.write(masked_close(1000))

        assert parse(await client.take(4))[0].code == 1000
        await client.end()
        assert not served.resource.connections


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_is_forgotten() -> None:
    ended: defer.Deferred[Any] = defer.Deferred()

    async def handler(connection: Any) -> None:
        ended.callback(await connection.when_closed())

    async with Served(handler) as served:
        client = await served.raw()
        client.transport.write(UPGRADE)
        await client.head()
        client.transport.abortConnection()

        outcome = await ended
        assert outcome.code == 1006
        await client.end()
    assert not served.resource.connections


@pytest_twisted.ensureDeferred
async def test_the_sites_own_timeout_does_not_end_a_websocket() -> None:
    async with Served(timeout=0.05) as served:
        idle = await served.raw()
        async with connect(served.uri) as connection:
            await idle.end()  # the site has timed out a connection that says nothing
            await deferLater(the_reactor(), 0.1, lambda: None)
            await connection.send("still here")
            assert await connection.recv() == "still here"


@pytest_twisted.ensureDeferred
async def test_backpressure_reaches_the_client() -> None:
    """The site's channel is the transport's producer at first; two cannot be registered."""
    started: defer.Deferred[Any] = defer.Deferred()

    async def deaf(connection: Any) -> None:
        started.callback(connection)
        await connection.when_closed()

    options = ServerOptions(receive_queue=4)
    async with Served(deaf, options=options) as served:
        client = await served.raw()
        client.transport.write(UPGRADE)
        connection = await started
        client.transport.write(masked_frame(BINARY, b"x" * 5000) * 2000)
        await deferLater(the_reactor(), 0.05, lambda: None)

        assert connection._wire._reading_paused
        assert len(connection._messages) < 200
        client.transport.abortConnection()


# ------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize("verdict", [Reject(401, "who?", {"X-Why": "none"}), Response(503)])
@pytest_twisted.ensureDeferred
async def test_process_request_refuses(verdict: Any) -> None:
    async def judge(request: Any) -> Any:
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async with Served(process_request=judge) as served:
        with pytest.raises(HandshakeRefused) as caught:
            await connect(served.uri)

    assert caught.value.status == verdict.status
    if caught.value.status == 401:
        assert caught.value.body == b"who?\n"
        assert ("X-Why", "none") in caught.value.headers


@pytest_twisted.ensureDeferred
async def test_process_request_names_the_principal() -> None:
    seen: defer.Deferred[Any] = defer.Deferred()

    async def handler(connection: Any) -> None:
        seen.callback((connection.principal, connection.request.headers["x-token"]))

    async with Served(handler, process_request=lambda request: Accept("alice")) as served:
        connection = await connect(served.uri, headers={"X-Token": "t"})
        assert await seen == ("alice", "t")
        await connection.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(get("/ws"), 426, id="no upgrade"),
        pytest.param(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), 426, id="HTTP/1.0"),
        pytest.param(
            b"POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab", 405, id="POST"
        ),
        pytest.param(UPGRADE.replace(b"13\r\n", b"12\r\n"), 400, id="version"),
        pytest.param(
            UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"),
            403,
            id="origin",
        ),
        pytest.param(
            UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nab"), 413, id="body"
        ),
        pytest.param(
            UPGRADE.replace(b"\r\n\r\n", b"\r\nX: a\x85Y: b\r\n\r\n"), 400, id="control byte"
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_handshake_is_refused(data: bytes, status: int) -> None:
    async with Served() as served:
        client = await served.raw()
        client.transport.write(data)

        assert int((await client.head()).split(b" ")[1]) == status
        assert not served.resource.connections


@pytest_twisted.ensureDeferred
async def test_the_limit_on_connections_is_the_resources_own() -> None:
    async with Served(options=ServerOptions(max_connections=1)) as served, connect(served.uri):
        with pytest.raises(HandshakeRefused) as caught:
            await connect(served.uri)
        client = await served.raw()
        client.transport.write(get("/page"))
        assert b"200 OK" in await client.head()

    assert caught.value.status == 503


# --------------------------------------------------------------------------------------- closing


@pytest_twisted.ensureDeferred
async def test_close_ends_every_connection_with_its_code() -> None:
    async with Served() as served:
        connections = [await connect(served.uri) for _ in range(3)]

        await served.resource.close(1012, "back soon")

        assert [c.close_code for c in connections] == [1012] * 3
        assert {c.close_reason for c in connections} == {"back soon"}
        assert not served.resource.connections
        for connection in connections:
            await connection.close()


@pytest_twisted.ensureDeferred
async def test_close_can_be_called_while_it_is_under_way() -> None:
    async with Served() as served:
        connection = await connect(served.uri)

        first, second = served.resource.close(), served.resource.close()
        await first
        await second

        assert connection.close_code == 1001
        await served.resource.close()
        await connection.close()


@pytest_twisted.ensureDeferred
async def test_who_comes_after_close_is_sent_away() -> None:
    async with Served() as served:
        await served.resource.close(1013)
        async with connect(served.uri) as connection:
            outcome = await connection.when_closed()

    assert outcome.code == 1013


@pytest.mark.parametrize("code", [999, 1006])
def test_close_checks_its_code(code: int) -> None:
    with pytest.raises(ValueError, match="may not be sent"):
        WebSocketResource(echo, reactor=Clock()).close(code)


# ----------------------------------------------------------------------------------- taking over


class Channel:
    """What a site's channel looks like to the resource."""

    def __init__(self) -> None:
        self.transport = None


class WebRequest:
    def __init__(self, protocol: bytes = b"HTTP/1.1", channel: Any = None) -> None:
        self.clientproto = protocol
        self.channel = channel
        self.code = 0
        self.headers: dict[bytes, bytes] = {}

    def setResponseCode(self, code: int) -> None:
        self.code = code

    def setHeader(self, name: bytes, value: bytes) -> None:
        self.headers[name] = value


class Transported(Channel):
    def __init__(self) -> None:
        self.transport: Any = object()


@pytest.mark.parametrize(
    "web", [WebRequest(b"HTTP/2", Transported()), WebRequest(channel=Channel())]
)
def test_what_has_no_transport_to_take_over_is_told_so(web: Any) -> None:
    body = WebSocketResource(echo, reactor=Clock()).render(web)

    assert web.code == 426
    assert web.headers == {b"upgrade": b"websocket"}
    assert b"WebSocket" in body


@pytest.mark.parametrize("gone", ["channel", "transport"])
def test_a_client_that_is_gone_before_the_take_over(gone: str) -> None:
    clock = Clock()
    web = WebRequest(channel=Transported())
    assert WebSocketResource(echo, reactor=clock).render(web) == NOT_DONE_YET

    if gone == "channel":
        web.channel = None  # what twisted.web does when the connection is lost
    else:
        web.channel.transport = None
    clock.advance(0)

    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_resets_behind_its_handshake() -> None:
    async with Served() as served:
        for _ in range(5):
            client = await served.raw()
            client.transport.write(UPGRADE)
            await deferLater(the_reactor(), 0, lambda: None)
            client.transport.abortConnection()
            await client.end()
        async with connect(served.uri) as connection:
            await connection.send("fine")
            assert await connection.recv() == "fine"


def test_a_transport_of_an_unknown_kind_is_an_error() -> None:
    from wsframe.resource import _replace_protocol

    with pytest.raises(RuntimeError, match="unknown kind"):
        _replace_protocol(object(), object(), object())
