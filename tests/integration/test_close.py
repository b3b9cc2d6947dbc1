"""How connections end: every code, both directions, all orders; nothing is lost or hangs."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection, State
from wsframe.errors import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ReceiveTimeout,
)
from wsframe.options import ClientOptions, ServerOptions
from wsframe.server import serve

from .interop import LISTEN, serving
from .raw import (
    Raw,
    RawServer,
    Stepped,
    accept_raw,
    close_frame,
    connect_raw,
    eventually,
    frame,
    open_raw,
    turns,
    upgrade,
    within,
)

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
ROLES = pytest.mark.parametrize("role", ["client", "server"])


class Both:
    """A wsframe connection and the raw peer at its other end, which masks as its role demands."""

    def __init__(self, ours: Connection, raw: Raw, masked: bool) -> None:
        self.ours = ours
        self.raw = raw
        self.masked = masked

    def frame(self, opcode: int, payload: bytes = b"", **more: Any) -> bytes:
        return frame(opcode, payload, masked=self.masked, **more)

    def close_frame(self, code: int | None, reason: str = "") -> bytes:
        return close_frame(code, reason, masked=self.masked)


@asynccontextmanager
async def pair(role: str, **options: Any) -> AsyncIterator[Both]:
    """Open a connection in which wsframe has that role; both ends are gone at the end."""
    if role == "client":
        async with RawServer() as server:
            url = f"ws://127.0.0.1:{server.port}/"
            opening = connect(url, options=ClientOptions(**options))
            raw = await accept_raw(server)
            both = Both(await within(opening), raw, masked=False)
            yield both
            both.ours.abort()
            await within(both.ours.when_closed())
        return
    async with serving(options=ServerOptions(**options)) as (server, _, handled):
        raw = await open_raw(server.addresses[0].port)
        both = Both(await handled.next(), raw, masked=True)
        yield both
        await raw.drop()


@ROLES
@pytest.mark.parametrize("code", CODES)
@pytest_twisted.ensureDeferred
async def test_code_of_this_side(role: str, code: int) -> None:
    async with pair(role) as both:
        closing = both.ours.close(code, "because")
        assert both.ours.state is State.CLOSING
        assert await both.raw.read_close() == (code, "because")
        both.raw.write(both.close_frame(code))
        if role == "client":
            both.raw.finish()
        await within(closing)
        outcome = await both.ours.when_closed()
        assert (outcome.code, outcome.reason) == (code, "because")
        assert (outcome.by, outcome.clean) == ("local", True)
        assert both.ours.state is State.CLOSED
        await within(both.raw.ended())


@ROLES
@pytest.mark.parametrize("code", [*CODES, None])
@pytest_twisted.ensureDeferred
async def test_code_of_the_peer_is_told_and_answered(role: str, code: int | None) -> None:
    ok = code in {1000, 1001, None}
    async with pair(role) as both:
        reason = "bye" if code else ""
        both.raw.write(both.close_frame(code, reason))
        # The answer repeats the code and not the reason.
        assert await both.raw.read_close() == (code, "")
        if role == "client":
            both.raw.finish()  # the server ends TCP first (RFC 6455 §7.1.1)
        with pytest.raises(ConnectionClosedOK if ok else ConnectionClosedError) as caught:
            await both.ours.recv(10)
        error = caught.value
        assert (error.code, error.reason) == (code or 1005, reason)
        assert (error.by, error.clean) == ("remote", True)


@ROLES
@pytest.mark.parametrize("how", ["finish", "reset"])
@pytest_twisted.ensureDeferred
async def test_end_without_a_close_frame_is_1006(role: str, how: str) -> None:
    async with pair(role) as both:
        getattr(both.raw, how)()
        with pytest.raises(ConnectionClosedError) as caught:
            await both.ours.recv(10)
        error = caught.value
        assert (error.code, error.by, error.clean) == (1006, None, False)


@ROLES
@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535])
@pytest_twisted.ensureDeferred
async def test_code_that_may_not_be_sent_is_1002(role: str, code: int) -> None:
    async with pair(role) as both:
        both.raw.write(both.frame(8, struct.pack("!H", code)))
        assert (await both.raw.read_close())[0] == 1002
        both.raw.finish()
        outcome = await within(both.ours.when_closed())
        assert (outcome.code, outcome.by) == (1002, "local")


@ROLES
@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (struct.pack("!H", 1000) + b"\xc3\x28", 1007)]
)
@pytest_twisted.ensureDeferred
async def test_close_frame_that_is_malformed(role: str, payload: bytes, code: int) -> None:
    async with pair(role) as both:
        both.raw.write(both.frame(8, payload))
        assert (await both.raw.read_close())[0] == code
        both.raw.finish()
        await within(both.ours.when_closed())


@pytest_twisted.ensureDeferred
async def test_both_close_at_once() -> None:
    async with serving() as (_, url, handled):
        client = await connect(url)
        server = await handled.next()
        ends = [client.close(3001, "mine"), server.close(3002, "no, mine")]
        await within(defer.gatherResults(ends))
        for connection, code in ((client, 3001), (server, 3002)):
            outcome = await connection.when_closed()
            assert (outcome.code, outcome.by, outcome.clean) == (code, "local", True)


@ROLES
@pytest_twisted.ensureDeferred
async def test_close_again_waits_for_the_same_end(role: str) -> None:
    async with pair(role) as both:
        ends = [both.ours.close(3001), both.ours.close(3002), both.ours.close()]
        assert await both.raw.read_close() == (3001, "")
        both.raw.write(both.close_frame(3001))
        both.raw.finish()
        await within(defer.gatherResults(ends))
        await within(both.raw.ended())
        assert not both.raw.received
        await within(both.ours.close())


@ROLES
@pytest_twisted.ensureDeferred
async def test_cancelled_close_goes_on(role: str) -> None:
    async with pair(role) as both:
        closing = both.ours.close()
        closing.addErrback(lambda failure: failure.trap(defer.CancelledError))
        closing.cancel()
        assert await both.raw.read_close() == (1000, "")
        both.raw.write(both.close_frame(1000))
        both.raw.finish()
        assert (await within(both.ours.when_closed())).clean


# ------------------------------------------------------------------ peers that do not do their part


@pytest.mark.parametrize("read_on", [True, False], ids=["reads", "reads nothing"])
@ROLES
@pytest_twisted.ensureDeferred
async def test_peer_that_never_answers_close_ends_at_close_timeout(
    role: str, read_on: bool
) -> None:
    async with pair(role, close_timeout=0.1) as both:
        if not read_on:
            both.raw.transport.pauseProducing()  # type: ignore[union-attr]
            await both.ours.send(bytes(8_000_000))  # the Close frame stays behind it
        await within(both.ours.close(1000), 5)
        outcome = await both.ours.when_closed()
        assert (outcome.code, outcome.by, outcome.clean) == (1000, "local", False)
        both.raw.transport.resumeProducing()  # type: ignore[union-attr]


@ROLES
@pytest_twisted.ensureDeferred
async def test_peer_that_closes_and_keeps_tcp_open_ends_at_close_timeout(role: str) -> None:
    """Autobahn's client starts no timer there, and hangs."""
    async with pair(role, close_timeout=0.1) as both:
        both.raw.write(both.close_frame(1001))
        outcome = await within(both.ours.when_closed(), 5)
        assert (outcome.code, outcome.by) == (1001, "remote")


@pytest_twisted.ensureDeferred
async def test_close_timeout_is_exact_and_leaves_no_timer() -> None:
    reactor = Stepped()
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            reactor=reactor,  # type: ignore[arg-type]
            options=ClientOptions(close_timeout=7),
        )
        raw = await accept_raw(server)
        connection = await within(opening)
        closing = connection.close()
        await raw.read_close()
        reactor.advance(6.9)
        await turns(3)
        assert not closing.called
        reactor.advance(0.2)
        await within(closing)
        assert reactor.getDelayedCalls() == []


@ROLES
@pytest_twisted.ensureDeferred
async def test_peer_that_trickles_on_after_our_close_ends_at_close_timeout(role: str) -> None:
    async with pair(role, close_timeout=0.15) as both:
        closing = both.ours.close()
        while not closing.called:
            both.raw.write(both.frame(1, b"la"))
            await turns(2)
        outcome = await both.ours.when_closed()
        assert (outcome.code, outcome.clean) == (1000, False)


@ROLES
@pytest_twisted.ensureDeferred
async def test_data_behind_the_close_frame_is_not_looked_at(role: str) -> None:
    async with pair(role) as both:
        both.raw.write(
            both.frame(1, b"before")
            + both.close_frame(1000)
            + both.frame(1, b"after")
            + b"\xff" * 50
        )
        assert await both.raw.read_close() == (1000, "")
        if role == "client":
            both.raw.finish()
        assert await both.ours.recv(10) == "before"
        with pytest.raises(ConnectionClosedOK):
            await both.ours.recv(10)


# ------------------------------------------------------------------ the server's handlers


@pytest_twisted.ensureDeferred
async def test_handler_that_returns_closes_with_1000() -> None:
    async def handler(connection: Connection) -> None:
        await connection.send("bye")

    async with serve(handler, LISTEN) as server:
        connection = await connect(f"ws://127.0.0.1:{server.addresses[0].port}/")  # type: ignore[attr-defined]
        assert [message async for message in connection] == ["bye"]
        outcome = await connection.when_closed()
        assert (outcome.code, outcome.by, outcome.clean) == (1000, "remote", True)


@pytest_twisted.ensureDeferred
async def test_handler_that_raises_closes_with_1011_and_is_logged_with_its_peer(
    logged: Callable[[], str],
) -> None:
    async def handler(connection: Connection) -> None:
        if await connection.recv() == "fail":
            raise ZeroDivisionError("the planted fault")
        await connection.send("fine")

    async with serve(handler, LISTEN) as server:
        url = f"ws://127.0.0.1:{server.addresses[0].port}/"  # type: ignore[attr-defined]
        async with connect(url) as other:
            connection = await connect(url)
            await connection.send("fail")
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert (caught.value.code, caught.value.by) == (1011, "remote")
            assert "planted" not in caught.value.reason
            await other.send("and the others?")
            assert await other.recv() == "fine"
    text = logged()
    assert "the planted fault" in text
    assert "peer 'tcp4:127.0.0.1:" in text


@pytest_twisted.ensureDeferred
async def test_async_with_closes_with_1000_or_1011() -> None:
    async with serving() as (_, url, handled):
        async with connect(url):
            server = await handled.next()
        assert (await within(server.when_closed())).code == 1000

        async def fail() -> None:
            async with connect(url):
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        server = await handled.next()
        assert (await within(server.when_closed())).code == 1011


@pytest_twisted.ensureDeferred
async def test_close_of_the_server_drains_with_1001() -> None:
    told: list[ConnectionClosed] = []

    async def handler(connection: Connection) -> None:
        try:
            await connection.recv()
        except ConnectionClosed as closed:
            told.append(closed)

    server = await serve(handler, LISTEN)
    url = f"ws://127.0.0.1:{server.addresses[0].port}/"  # type: ignore[attr-defined]
    clients = [await connect(url) for _ in range(5)]
    await eventually(lambda: len(server.connections) == 5)
    await within(server.close(1001, "restart"))
    assert server.connections == frozenset()
    for client in clients:
        outcome = await client.when_closed()
        assert (outcome.code, outcome.reason) == (1001, "restart")
        assert (outcome.by, outcome.clean) == ("remote", True)
    assert [(closed.code, closed.by) for closed in told] == [(1001, "local")] * 5
    from wsframe.errors import TCPConnectFailed

    with pytest.raises(TCPConnectFailed):
        await connect(url)


@pytest_twisted.ensureDeferred
async def test_handler_that_ignores_the_end_is_cancelled_at_drain_timeout() -> None:
    cancelled: list[Connection] = []

    async def handler(connection: Connection) -> None:
        try:
            await defer.Deferred()
        except defer.CancelledError:
            cancelled.append(connection)
            raise

    server = await serve(handler, LISTEN, options=ServerOptions(drain_timeout=0.1))
    client = await connect(f"ws://127.0.0.1:{server.addresses[0].port}/")  # type: ignore[attr-defined]
    await eventually(lambda: server.connections)
    closing = server.close()
    assert (await within(client.when_closed())).code == 1001
    assert not closing.called
    assert cancelled == []
    await within(closing, 5)
    assert len(cancelled) == 1
    assert server.connections == frozenset()


@pytest_twisted.ensureDeferred
async def test_client_that_ignores_the_close_is_aborted_at_drain_timeout() -> None:
    async def handler(connection: Connection) -> None:
        await connection.when_closed()

    server = await serve(handler, LISTEN, options=ServerOptions(drain_timeout=0.1))
    raw = await open_raw(server.addresses[0].port)  # type: ignore[attr-defined]
    await eventually(lambda: server.connections)
    await within(server.close(), 5)
    await within(raw.ended())
    assert server.connections == frozenset()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", upgrade()[:-2]], ids=["nothing", "a", "most"])
@pytest_twisted.ensureDeferred
async def test_client_that_is_not_open_yet_does_not_outlive_the_server(sent: bytes) -> None:
    async def handler(connection: Connection) -> None:
        await connection.when_closed()

    server = await serve(handler, LISTEN, options=ServerOptions(drain_timeout=5))
    raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
    raw.write(sent)
    held = await open_raw(server.addresses[0].port)  # type: ignore[attr-defined]
    await eventually(lambda: server.connections)
    closing = server.close()
    assert await held.read_close() == (1001, "")
    held.write(close_frame(1001))
    assert (await raw.read_head()).startswith("HTTP/1.1 503 ")
    await raw.drop()
    await within(closing, 2)
    await within(held.ended())


@pytest_twisted.ensureDeferred
async def test_client_that_is_not_open_and_stays_is_aborted_at_drain_timeout() -> None:
    async def handler(connection: Connection) -> None:
        await connection.when_closed()

    server = await serve(handler, LISTEN, options=ServerOptions(drain_timeout=0.1))
    raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
    raw.write(b"GET")
    await turns(5)
    raw.transport.pauseProducing()  # type: ignore[union-attr]
    await within(server.close(), 5)
    raw.transport.resumeProducing()  # type: ignore[union-attr]
    await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_client_whose_admission_is_undecided_does_not_outlive_the_server() -> None:
    cancelled: list[object] = []

    def decide(request: object) -> defer.Deferred[None]:
        return defer.Deferred(cancelled.append)

    server = await serve(lambda connection: None, LISTEN, process_request=decide)
    opening = connect(f"ws://127.0.0.1:{server.addresses[0].port}/")  # type: ignore[attr-defined]
    results: list[Any] = []
    opening.addBoth(results.append)
    await eventually(lambda: server._connections.factory.opening)
    await turns(5)
    await within(server.close())
    await eventually(lambda: results)
    assert results[0].value.status == 503
    assert len(cancelled) == 1


# ------------------------------------------------------------------ receiving


@ROLES
@pytest_twisted.ensureDeferred
async def test_messages_before_the_close_are_delivered_first(role: str) -> None:
    async with pair(role) as both:
        many = b"".join(both.frame(1, b"%d" % number) for number in range(20))
        both.raw.write(many + both.close_frame(4000, "end"))
        if role == "client":
            await both.raw.read_close()
            both.raw.finish()
        await within(both.ours.when_closed())
        assert [await both.ours.recv() for _ in range(20)] == [str(n) for n in range(20)]
        for _ in range(2):
            with pytest.raises(ConnectionClosedError) as caught:
                await both.ours.recv()
            assert caught.value.code == 4000


@ROLES
@pytest_twisted.ensureDeferred
async def test_recv_timeout_loses_nothing(role: str) -> None:
    async with pair(role) as both:
        with pytest.raises(ReceiveTimeout):
            await both.ours.recv(0.01)
        with pytest.raises(TimeoutError):
            await both.ours.recv(0)
        both.raw.write(both.frame(1, b"one") + both.frame(2, b"two"))
        assert await both.ours.recv(10) == "one"
        assert await both.ours.recv(0) == b"two"


@ROLES
@pytest_twisted.ensureDeferred
async def test_cancelled_recv_loses_nothing(role: str) -> None:
    async with pair(role) as both:
        receiving = both.ours.recv()
        receiving.cancel()
        with pytest.raises(defer.CancelledError):
            await receiving
        both.raw.write(both.frame(1, b"one"))
        assert await both.ours.recv(10) == "one"


@ROLES
@pytest_twisted.ensureDeferred
async def test_two_recv_are_a_concurrency_error(role: str) -> None:
    async with pair(role) as both:
        first = both.ours.recv()
        with pytest.raises(ConcurrencyError):
            await both.ours.recv()
        both.raw.write(both.frame(1, b"for the first"))
        assert await within(first) == "for the first"


@ROLES
@pytest_twisted.ensureDeferred
async def test_send_and_ping_after_the_end_say_how_it_ended(role: str) -> None:
    async with pair(role) as both:
        waiting = both.ours.ping()
        both.raw.reset()
        await within(both.ours.when_closed())
        with pytest.raises(ConnectionClosedError):
            await waiting
        for attempt in (both.ours.send("x"), both.ours.ping()):
            with pytest.raises(ConnectionClosedError) as caught:
                await attempt
            assert caught.value.code == 1006
