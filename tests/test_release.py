"""What a connection holds once it is failed, and that nothing but its users keeps one that ended.

Without the garbage collector: that may run a minute later, and attackers need less.
"""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest
from memory import (
    BINARY,
    TEXT,
    Peer,
    Recorder,
    close_frame,
    frame,
    opened_client,
    opened_server,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from wsframe.connection import Connection
from wsframe.core.uri import parse_uri
from wsframe.errors import ConnectionClosed
from wsframe.handling import handle
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.protocol import (
    ConnectionClientFactory,
    ConnectionServerFactory,
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from wsframe.protocol.deflate import accept_answer, accept_offer, offer

SIZE = 100_000
"""Bytes of what is unfinished."""

LEFT = SIZE / 4
"""Bytes that may be left: of the request, and 20 KiB that all of Autobahn's validators share."""

ROLES = ["server", "client"]
APIS = ["autobahn", "connection"]


@pytest.fixture(autouse=True)
def without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Server(Recorder, WebSocketServerProtocol):
    pass


class Client(Recorder, WebSocketClientProtocol):
    pass


class Ending:
    """A protocol of either role and either API, seen from its peer, in which it ends."""

    def __init__(self, role: str, api: str) -> None:
        self.clock = Clock()
        self.connections: list[Connection] = []
        self.mask = b"\x11\x22\x33\x44" if role == "server" else b""
        deflate = Deflate(client_max_window_bits=15, server_max_window_bits=15)

        def opened(wire: Any) -> Any:
            self.connections.append(Connection(wire))
            return self.connections[0]

        kind: Any = ServerOptions if role == "server" else ClientOptions
        given: dict[str, Any] = {"reactor": self.clock, "options": kind(max_message_size=2 * SIZE)}
        factory: Any
        if api == "connection" and role == "server":
            factory = ConnectionServerFactory(opened, compression=deflate, **given)
        elif api == "connection":
            given |= {"headers": (), "origin": None, "subprotocols": ()}
            uri = parse_uri("ws://localhost")
            factory = ConnectionClientFactory(opened, uri, compression=deflate, **given)
        elif role == "server":
            factory = WebSocketServerFactory(**given)
            factory.protocol = Server
            factory.perMessageCompressionAccept = accept_offer(deflate, 2 * SIZE)
        else:
            factory = WebSocketClientFactory("ws://localhost", **given)
            factory.protocol = Client
            factory.perMessageCompressionOffers = [offer(deflate)]
            factory.perMessageCompressionAccept = accept_answer(deflate, 2 * SIZE)
        self.factory = factory
        extension = ("Sec-WebSocket-Extensions", "permessage-deflate")
        self.peer: Peer = (opened_server if role == "server" else opened_client)(factory, extension)
        self.protocol: Any = self.peer.protocol

    def say(self, opcode: int, payload: bytes = b"", **fields: Any) -> None:
        self.peer.send(frame(opcode, payload, mask=self.mask, **fields))

    def begin(self, whole: bytes) -> None:
        """Send a frame but for its last byte, in reads of 1,000 bytes."""
        for start in range(0, len(whole) - 1, 1000):
            self.peer.send(whole[start : min(start + 1000, len(whole) - 1)])

    @property
    def held(self) -> int:
        """The bytes of all texts and buffers that are reached from the protocol."""
        return held(self.protocol, self.factory, self.clock, self.peer.transport)


def held(root: Any, *shared: Any) -> int:
    seen = {id(each) for each in shared}
    todo, size = [root], 0
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type | type(gc) | type(held)):
            continue
        seen.add(id(each))
        if isinstance(each, bytes | bytearray | str):
            size += len(each)
        todo += gc.get_referents(each)
    return size


COMPRESSOR = zlib.compressobj(0, wbits=-15)
STORED = COMPRESSOR.compress(b"x" * SIZE) + COMPRESSOR.flush(zlib.Z_SYNC_FLUSH)

UNFINISHED: dict[str, Callable[[Ending], object]] = {
    "nothing": lambda it: None,
    "fragments": lambda it: it.say(BINARY, bytes(SIZE), fin=False),
    "a frame of a fragment": lambda it: it.begin(
        frame(BINARY, bytes(SIZE), fin=False, mask=it.mask)
    ),
    "a frame that the lane takes": lambda it: it.begin(frame(BINARY, bytes(SIZE), mask=it.mask)),
    "a text that the lane takes": lambda it: it.begin(frame(TEXT, b"x" * SIZE, mask=it.mask)),
    "compressed fragments": lambda it: it.say(BINARY, STORED, fin=False, rsv=4),
    "a compressed frame": lambda it: it.begin(frame(BINARY, STORED, rsv=4, mask=it.mask)),
}


def fail(it: Ending) -> None:
    it.protocol._fail_connection(1011, "planted")


ENDS: dict[str, Callable[[Ending], object]] = {
    "failed": fail,
    "aborted": lambda it: it.protocol.abort("local", "planted"),
    "dropped": lambda it: it.protocol.dropConnection(abort=True),
    "lost": lambda it: it.peer.transport.reset(),
}
"""At any moment."""


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
@pytest.mark.parametrize("unfinished", UNFINISHED.values(), ids=list(UNFINISHED))
def test_what_is_unfinished_goes_at_the_end_and_the_protocol_with_tcp(
    role: str,
    api: str,
    unfinished: Callable[[Ending], object],
    end: Callable[[Ending], object],
) -> None:
    it = Ending(role, api)
    unfinished(it)
    assert it.held > SIZE / 2 or unfinished is UNFINISHED["nothing"]
    end(it)
    assert it.held < LEFT
    ends(it)


FAULTS: dict[str, Callable[[Ending], object]] = {
    "1009, on a head": lambda it: it.say(0, bytes(SIZE + 1)),
    "1009, inflated": lambda it: it.say(0, bytes(2 * SIZE)),
    "1008": lambda it: [it.say(0, b"x", fin=False) for _ in range(1024)],
    "1007": lambda it: it.say(0, b"\xff"),
    "1002": lambda it: it.say(BINARY, b"x"),
    "a Close frame": lambda it: it.peer.send(close_frame(1000, mask=it.mask)),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
@pytest.mark.parametrize("compressed", [False, True])
def test_a_fault_in_the_middle_of_a_message_leaves_nothing_of_it(
    role: str, api: str, fault: Callable[[Ending], object], compressed: bool
) -> None:
    it = Ending(role, api)
    if compressed:
        it.say(TEXT, STORED, fin=False, rsv=4)
    else:
        it.say(TEXT, b"x" * SIZE, fin=False)
    fault(it)
    assert it.protocol.state == it.protocol.STATE_CLOSING
    assert it.held < LEFT
    ends(it)


def ends(it: Ending) -> None:
    """TCP ends, and with its last user the protocol is gone."""
    it.peer.end()
    assert it.peer.timers() == []
    assert held(it.protocol, it.factory, it.clock, it.peer.transport) < LEFT
    freed = [ref(each) for each in (it.protocol, *it.connections)]
    it.connections.clear()
    it.peer.transport.protocol = it.peer.protocol = it.protocol = None
    for each in freed:
        assert each() is None, gc.get_referrers(each())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("end", [*ENDS.values()], ids=[*ENDS])
def test_what_waits_to_be_sent_goes_with_the_end(
    role: str, end: Callable[[Ending], object]
) -> None:
    """But for what the transport was given; and those who wait learn of it."""
    it = Ending(role, "connection")
    it.peer.transport.stalled = True
    (connection,) = it.connections
    waits = [connection.send(os.urandom(SIZE)) for _ in range(3)]
    assert it.held >= SIZE
    end(it)
    assert it.held < LEFT
    it.peer.end()
    assert [type(wait.result) for wait in waits[1:]] == [Failure, Failure]
    for wait in waits:
        wait.addErrback(lambda failure: failure.trap(ConnectionClosed) and None)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_whoever_asked_for_the_end_is_told_and_keeps_nobody(
    role: str, end: Callable[[Ending], object]
) -> None:
    """Autobahn's `is_closed`, asked for before and after, and what else it promises afterwards."""
    it = Ending(role, "autobahn")
    told: list[Any] = []
    it.protocol.is_closed.addCallback(told.append)
    it.protocol.is_open.addCallback(told.append)
    it.say(BINARY, b"message")
    it.protocol.on("message", it.protocol.onMessage)
    end(it)
    it.peer.end()
    it.protocol.is_closed.addCallback(told.append)
    assert told == [None, it.protocol, it.protocol]
    assert it.protocol.wasClean is False
    assert it.protocol.remoteCloseCode is None
    assert it.protocol.trafficStats.incomingWebSocketMessages == 1
    assert it.protocol.messages == [b"message"]
    assert it.protocol.closed is not None
    told.clear()
    ends(it)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_a_connection_says_after_its_end_what_it_said_before(
    role: str, end: Callable[[Ending], object]
) -> None:
    """As long as somebody has it."""
    it = Ending(role, "connection")
    (connection,) = it.connections
    before = connection.request, connection.response, connection.peer, connection.id
    it.say(BINARY, b"message")
    it.say(BINARY, b"half", fin=False)
    closed = connection.when_closed()
    end(it)
    it.peer.end()
    outcome = closed.result
    assert isinstance(outcome, ConnectionClosed)
    assert (connection.close_code, connection.close_reason) == (outcome.code, outcome.reason)
    assert before == (connection.request, connection.response, connection.peer, connection.id)
    assert connection.counts.received == 1
    assert connection.recv().result == b"message"
    for ended in (connection.recv(), connection.send(b"x"), connection.ping()):
        assert isinstance(ended.result, Failure)
        ended.addErrback(lambda failure: failure.trap(ConnectionClosed) and None)
    del connection, closed, outcome, ended, before
    ends(it)


async def iterates(connection: Connection) -> None:
    async for _ in connection:
        pass


async def receives(connection: Connection) -> None:
    while True:
        await connection.recv(timeout=60)


async def pings(connection: Connection) -> None:
    await connection.ping()


async def closes(connection: Connection) -> None:
    await connection.recv()
    await connection.close()


async def raises(connection: Connection) -> None:
    try:
        await connection.recv()
        await connection.recv()
    except ConnectionClosed as error:
        raise error.again() from error


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("handler", [iterates, receives, pings, closes, raises])
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_a_handler_that_ended_keeps_nobody(
    role: str, handler: Callable[[Connection], Any], end: Callable[[Ending], object]
) -> None:
    """Nor does who drove it, nor what was raised in it."""
    it = Ending(role, "connection")
    handling = handle(handler, it.connections[0])
    it.say(BINARY, b"message")
    end(it)
    it.peer.end()
    assert handling.called
    assert handling.result is None
    ends(it)


@pytest.mark.parametrize("role", ROLES)
def test_what_a_handler_has_not_received_goes_with_it(role: str) -> None:
    """Throughout the closing handshake, in which nobody is left to receive it."""

    async def leaves(connection: Connection) -> None:
        await connection.recv()

    it = Ending(role, "connection")
    it.peer.send(b"".join(frame(BINARY, bytes(SIZE), mask=it.mask) for _ in range(3)))
    assert it.held > 2 * SIZE
    handle(leaves, it.connections[0])
    assert it.held < LEFT
    ends(it)
