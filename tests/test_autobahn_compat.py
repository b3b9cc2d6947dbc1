"""Autobahn applications on wsframe's classes, unchanged but for the import."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted import websocket as stock
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from autobahn.websocket.types import ConnectionDeny
from memory import BINARY, TEXT, Peer, Recorder, frame, masked_frame, opened_server
from twisted.internet import defer
from twisted.internet.protocol import ReconnectingClientFactory
from twisted.internet.task import Clock

from wsframe import protocol as ours
from wsframe.errors import HandshakeRefused
from wsframe.options import ServerOptions

EXAMPLE = Path(__file__).parents[1] / "examples" / "autobahn_echo.py"
IMPORT = {"ours": "wsframe.protocol", "stock": "autobahn.twisted.websocket"}
MODULES: dict[str, Any] = {"ours": ours, "stock": stock}
PAIRS = [("ours", "stock"), ("stock", "ours"), ("ours", "ours"), ("stock", "stock")]


def the_reactor() -> Any:
    from twisted.internet import reactor

    return reactor


# ------------------------------------------------------------------------------------ the example


def program(tmp_path: Path, library: str) -> Path:
    """Return the example with that library's import."""
    source = EXAMPLE.read_text(encoding="utf-8")
    assert source.count("from wsframe.protocol import") == source.count("wsframe.protocol") == 1
    path = tmp_path / f"{library}.py"
    path.write_text(source.replace("wsframe.protocol", IMPORT[library]), encoding="utf-8")
    return path


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-W", "error", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.parametrize(("server", "client"), PAIRS)
def test_the_same_program_on_either_library(tmp_path: Path, server: str, client: str) -> None:
    serving = start(program(tmp_path, server), "server", "0")
    try:
        assert serving.stdout is not None
        port = serving.stdout.readline().split()[-1]
        asking = start(program(tmp_path, client), "client", port)
        output, errors = asking.communicate(timeout=30)
        assert (asking.returncode, errors) == (0, "")
        assert output.splitlines() == [
            "client: connected",
            "client: received Grüß Gott!",
            r"client: received b'\x00\x00\x00'",
            "client: closed True 1000",
        ]
        lines = [serving.stdout.readline().strip() for _ in range(2)]
        assert lines == ["server: a client connects to /echo", "server: closed True 1000"]
    finally:
        serving.terminate()
        _, errors = serving.communicate(timeout=30)
    assert errors == ""


def test_the_example_is_short_and_does_both_in_one_process() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "client: closed True 1000" in done.stdout
    assert "server: closed True 1000" in done.stdout


# ------------------------------------------------------------------------- one library with another


class Pair:
    """A server and its client, of one library each, on loopback."""

    def __init__(self, server: str, client: str) -> None:
        self.server_library: Any = MODULES[server]
        self.client_library: Any = MODULES[client]
        self.closed: defer.Deferred[list[Any]] = defer.Deferred()
        self.server_events: list[Any] = []
        self.client_events: list[Any] = []
        self.ports: list[Any] = []

    def server_factory(self, members: dict[str, Any], **arguments: Any) -> Any:
        factory = self.server_library.WebSocketServerFactory(**arguments)
        factory.protocol = self._protocol(
            self.server_library.WebSocketServerProtocol, self.server_events, members
        )
        return factory

    def client_factory(self, members: dict[str, Any], port: int, **arguments: Any) -> Any:
        url = f"ws://127.0.0.1:{port}"
        factory = self.client_library.WebSocketClientFactory(url, **arguments)
        factory.protocol = self._protocol(
            self.client_library.WebSocketClientProtocol, self.client_events, members, self.closed
        )
        return factory

    @staticmethod
    def _protocol(base: Any, events: list[Any], members: dict[str, Any], closed: Any = None) -> Any:
        def on_close(self: Any, clean: bool, code: int, reason: str) -> None:
            events.append(("close", clean, code, reason))
            if closed is not None and not closed.called:
                closed.callback(events)

        def on_message(self: Any, payload: bytes, isBinary: bool) -> None:
            events.append(payload)

        return type(
            "Application", (base,), {"onClose": on_close, "onMessage": on_message, **members}
        )

    async def run(
        self, server: Any, members: dict[str, Any], prepare: Any = None, **arguments: Any
    ) -> list[Any]:
        """Serve, connect, wait for the client's end; return what the client was told."""
        listening = self.listen(server)
        factory = self.client_factory(members, listening.getHost().port, **arguments)
        if prepare is not None:
            prepare(factory)
        self.client_library.connectWS(factory)
        return await self.closed.addTimeout(10, the_reactor())

    def listen(self, factory: Any) -> Any:
        factory.port = 0  # any
        port = self.server_library.listenWS(factory, interface="127.0.0.1")
        self.ports.append(port)
        return port


def echo(self: Any, payload: bytes, isBinary: bool) -> None:
    self.sendMessage(payload, isBinary)


@pytest.fixture(params=PAIRS[:3], ids=" to ".join)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(*request.param)
    yield pair
    for port in pair.ports:
        pytest_twisted.blockon(defer.maybeDeferred(port.stopListening))


@pytest_twisted.ensureDeferred
async def test_subprotocol_and_headers(pair: Pair) -> None:
    def choose(self: Any, request: Any) -> Any:
        assert request.protocols == ["b", "a"]
        assert request.headers["x-ask"] == "1"
        return "a", {"X-Answer": "2"}

    def chosen(self: Any, response: Any) -> None:
        pair.client_events.append((response.protocol, response.headers["x-answer"]))

    server = pair.server_factory({"onConnect": choose}, protocols=["a"])
    events = await pair.run(
        server,
        {"onConnect": chosen, "onOpen": lambda self: self.sendClose(1000)},
        protocols=["b", "a"],
        headers={"X-Ask": "1"},
    )

    assert events[0] == ("a", "2")
    assert events[-1][:3] == ("close", True, 1000)


@pytest_twisted.ensureDeferred
async def test_a_client_is_denied(pair: Pair) -> None:
    def deny(self: Any, request: Any) -> None:
        raise ConnectionDeny(ConnectionDeny.FORBIDDEN, "not today")

    def keep(self: Any, *_: Any) -> None:
        protocols.append(self)

    protocols: list[Any] = []
    events = await pair.run(pair.server_factory({"onConnect": deny}), {"onConnecting": keep})

    assert [event[:3] for event in events] == [("close", False, 1006)]
    if pair.client_library is ours:
        failures: list[Any] = []
        protocols[0].is_open.addErrback(failures.append)
        assert isinstance(failures[0].value, HandshakeRefused)
        assert failures[0].value.status == 403
        if pair.server_library is ours:
            assert failures[0].value.body == b"not today\n"


@pytest_twisted.ensureDeferred
async def test_close_codes_reach_the_other_side_without_on_close_frame(pair: Pair) -> None:
    server = pair.server_factory({})
    events = await pair.run(server, {"onOpen": lambda self: self.sendClose(3005, "why")})

    assert events[-1][1] is True
    assert pair.server_events[-1] == ("close", True, 3005, "why")


@pytest_twisted.ensureDeferred
async def test_a_prepared_message_goes_both_ways(pair: Pair) -> None:
    def greet(self: Any) -> None:
        self.sendPreparedMessage(self.factory.prepareMessage(b"from here"))

    def answer(self: Any, payload: bytes, isBinary: bool) -> None:
        pair.client_events.append(payload)
        self.sendClose(1000)

    server = pair.server_factory({"onOpen": greet})
    await pair.run(server, {"onOpen": greet, "onMessage": answer})

    assert pair.client_events[0] == pair.server_events[0] == b"from here"


class Endless:
    """A push producer that sends whenever it may."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.paused = 0
        self.sent = 0
        self.running = True
        self.stopped = False

    def pauseProducing(self) -> None:
        self.running = False
        self.paused += 1

    def resumeProducing(self) -> None:
        self.running = True
        while self.running and self.sent < 400:
            self.sent += 1
            self.protocol.sendMessage(bytes(10_000), isBinary=True)
        if self.sent == 400 and self.running:
            self.protocol.unregisterProducer()
            self.protocol.sendClose(1000)

    def stopProducing(self) -> None:
        self.stopped = True


@pytest_twisted.ensureDeferred
async def test_a_producer_is_driven_by_the_transport(pair: Pair) -> None:
    producers: list[Endless] = []

    def produce(self: Any) -> None:
        producer = Endless(self)
        producers.append(producer)
        self.registerProducer(producer, True)
        producer.resumeProducing()

    events = await pair.run(pair.server_factory({"onOpen": produce}), {})

    assert len([event for event in events if isinstance(event, bytes)]) == 400
    assert events[-1][:3] == ("close", True, 1000)
    assert producers[0].paused > 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_reconnects(pair: Pair) -> None:
    opened: list[Any] = []
    closed: list[tuple[Any, ...]] = []
    over: defer.Deferred[None] = defer.Deferred()

    class Client(pair.client_library.WebSocketClientProtocol):  # type: ignore[misc]
        def onOpen(self) -> None:
            opened.append(self)
            self.factory.resetDelay()
            if len(opened) == 2:
                self.factory.stopTrying()

        def onClose(self, *outcome: Any) -> None:
            closed.append(outcome)
            if len(opened) == 2:
                over.callback(None)

    class Factory(pair.client_library.WebSocketClientFactory, ReconnectingClientFactory):  # type: ignore[misc]
        protocol = Client
        initialDelay = maxDelay = 0.01

    listening = pair.listen(
        pair.server_factory({"onOpen": lambda self: self.sendClose(3000, "again")})
    )
    pair.client_library.connectWS(Factory(f"ws://127.0.0.1:{listening.getHost().port}"))
    await over.addTimeout(10, the_reactor())

    assert [outcome[1] for outcome in closed] == [3000, 3000]


# ------------------------------------------------------------------------------------- compression


def accept_offer(offers: list[Any]) -> Any:
    return next(
        (PerMessageDeflateOfferAccept(o) for o in offers if isinstance(o, PerMessageDeflateOffer)),
        None,
    )


def accept_response(response: Any) -> Any:
    assert isinstance(response, PerMessageDeflateResponse)
    return PerMessageDeflateResponseAccept(response)


def offer_deflate(factory: Any) -> None:
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=accept_response,
    )


@pytest_twisted.ensureDeferred
async def test_messages_are_compressed_both_ways(pair: Pair) -> None:
    def begin(self: Any) -> None:
        assert [e.EXTENSION_NAME for e in self.websocket_extensions_in_use] == [
            "permessage-deflate"
        ]
        self.sendMessage(b"a" * 100_000)
        self.sendMessage(b"b" * 100_000, isBinary=True, fragmentSize=50)
        self.sendMessage(b"c" * 100, doNotCompress=True)
        self.sendPreparedMessage(self.factory.prepareMessage(b"d" * 1000))
        self.beginMessage()
        self.sendMessageFrame(b"e" * 500)
        self.sendMessageFrame(b"f" * 500)
        self.endMessage()

    def collect(self: Any, payload: bytes, isBinary: bool) -> None:
        pair.client_events.append(payload)
        if len(pair.client_events) == 5:
            self.sendClose(1000)

    server = pair.server_factory({"onMessage": echo})
    server.setProtocolOptions(perMessageCompressionAccept=accept_offer)
    events = await pair.run(server, {"onOpen": begin, "onMessage": collect}, offer_deflate)

    assert events[:5] == [
        b"a" * 100_000,
        b"b" * 100_000,
        b"c" * 100,
        b"d" * 1000,
        b"e" * 500 + b"f" * 500,
    ]
    assert events[5][:3] == ("close", True, 1000)


@pytest_twisted.ensureDeferred
async def test_without_an_agreement_nothing_is_compressed(pair: Pair) -> None:
    def begin(self: Any) -> None:
        assert self.websocket_extensions_in_use == []
        self.sendMessage(b"plain")

    def end(self: Any, payload: bytes, isBinary: bool) -> None:
        pair.client_events.append(payload)
        self.sendClose(1000)

    server = pair.server_factory({"onMessage": echo})  # accepts no offer
    events = await pair.run(server, {"onOpen": begin, "onMessage": end}, offer_deflate)

    assert events[0] == b"plain"


LIMIT = 256 * 1024


class Server(Recorder, ours.WebSocketServerProtocol):
    pass


def compressed(*headers: tuple[str, str]) -> Peer:
    factory = ours.WebSocketServerFactory(
        reactor=Clock(), options=ServerOptions(max_message_size=LIMIT)
    )
    factory.protocol = Server
    factory.setProtocolOptions(perMessageCompressionAccept=accept_offer)
    return opened_server(factory, ("Sec-WebSocket-Extensions", "permessage-deflate"), *headers)


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-15)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int) -> bytes:
    """Return what inflates to so many bytes, without ever holding them."""
    deflate = zlib.compressobj(9, wbits=-15)
    parts = [deflate.compress(bytes(65536)) for _ in range(size // 65536)]
    return (b"".join(parts) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def whole(data: bytes) -> list[bytes]:
    return [masked_frame(BINARY, data, rsv=4)]


def in_fragments(data: bytes) -> list[bytes]:
    size = len(data) // 50 + 1
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    return [
        masked_frame(0 if i else BINARY, part, rsv=0 if i else 4, fin=i == len(parts) - 1)
        for i, part in enumerate(parts)
    ]


# A frame is counted with its compressed bytes until it is inflated, so that the last fragment of a
# message of exactly the limit is one too many.
@pytest.mark.parametrize(("cut", "size"), [(whole, LIMIT), (in_fragments, LIMIT - 100)])
def test_a_message_of_the_limit_inflates(cut: Callable[[bytes], list[bytes]], size: int) -> None:
    peer = compressed()

    peer.send(*cut(deflated(bytes(size))))

    assert peer.protocol.messages == [bytes(size)]


@pytest.mark.parametrize("cut", [whole, in_fragments])
@pytest.mark.parametrize("tail", [b"", b"\xff" * 200])
def test_a_deflate_bomb_is_stopped_at_the_limit(
    cut: Callable[[bytes], list[bytes]], tail: bytes
) -> None:
    peer = compressed()
    data = bomb(32 * 1024 * 1024)
    frames = cut(data + tail)
    assert len(data) < LIMIT
    tracemalloc.start()
    try:
        peer.send(*frames)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3 * LIMIT
    assert [f.code for f in peer.frames()] == [1009]
    assert peer.protocol.messages == []
    peer.end()
    assert peer.timers() == []


@pytest.mark.parametrize("cut", [whole, in_fragments])
def test_a_corrupt_stream_is_1007(cut: Callable[[bytes], list[bytes]]) -> None:
    peer = compressed()
    data = deflated(bytes(range(256)) * 40)

    peer.send(*cut(data + b"\x07" * 10))

    assert [f.code for f in peer.frames()] == [1007]
    assert peer.protocol.messages == []
    peer.end()
    assert peer.timers() == []


def test_compressed_text_is_checked_for_utf8() -> None:
    peer = compressed()

    peer.send(masked_frame(TEXT, deflated(b"\xff"), rsv=4))

    assert [f.code for f in peer.frames()] == [1007]


def test_the_compressed_bit_is_checked_where_it_may_not_be() -> None:
    for data in (
        masked_frame(9, b"x", rsv=4),
        masked_frame(BINARY, deflated(b"x"), rsv=4, fin=False) + masked_frame(0, b"x", rsv=4),
    ):
        peer = compressed()
        peer.send(data)
        assert [f.code for f in peer.frames()] == [1002]


def test_a_message_may_still_come_uncompressed() -> None:
    peer = compressed()

    peer.send(masked_frame(BINARY, b"plain"))

    assert peer.protocol.messages == [b"plain"]


def test_what_the_documented_names_are() -> None:
    """Every class and function that Autobahn's users import for plain WebSockets is here."""
    for name in (
        "WebSocketClientFactory",
        "WebSocketClientProtocol",
        "WebSocketServerFactory",
        "WebSocketServerProtocol",
        "connectWS",
        "listenWS",
    ):
        assert isinstance(ours, ModuleType)
        assert name in ours.__all__
        assert hasattr(stock, name)
    assert frame(TEXT, b"x") == b"\x81\x01x"
