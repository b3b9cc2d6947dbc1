"""The server as a service: it listens everywhere or nowhere, and it ends within its deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port
from integration.raw import (
    Stepped,
    close_frame,
    connect_raw,
    eventually,
    open_raw,
    turns,
    upgrade,
    within,
)
from twisted.internet import defer
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from zope.interface import implementer

from wsframe.client.opening import connect
from wsframe.connection import Connection
from wsframe.options import ClientOptions, ServerOptions
from wsframe.resource import WebSocketResource
from wsframe.server import Server, WebSocketServerService, serve

LISTEN = "tcp:0:interface=127.0.0.1"
QUIET = ServerOptions(ping_interval=None)
Logged = Callable[[], str]


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


def listen_on(port: int) -> str:
    return f"tcp:{port}:interface=127.0.0.1"


def ports_of(server: Server) -> list[int]:
    return [address.port for address in server.addresses]  # type: ignore[attr-defined]


async def is_open(port: int) -> bool:
    try:
        raw = await connect_raw(port)
    except Exception:  # noqa: BLE001 - whatever it is, nobody listens
        return False
    await raw.drop()
    return True


@implementer(IStreamServerEndpoint)
class Slow:
    """An endpoint that listens when the test says so."""

    def __init__(self) -> None:
        self.asked: defer.Deferred[Any] = defer.Deferred()
        self.port: Any = None

    def listen(self, factory: Any) -> Any:
        from twisted.internet import reactor

        async def listen() -> Any:
            await self.asked
            endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            self.port = await endpoint.listen(factory)
            return self.port

        return defer.ensureDeferred(listen())


# ---------------------------------------------------------------- starting


def test_a_description_that_is_none_is_an_error_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="nothing"):
        WebSocketServerService(echo, "nothing:0")
    with pytest.raises(ValueError, match="no endpoint"):
        WebSocketServerService(echo, [])


def no_port(*arguments: Any, **named: Any) -> WebSocketResource:
    """A resource has no port of its own; the other arguments are the same."""
    handler, _ = arguments
    return WebSocketResource(handler, **named)


@pytest.mark.parametrize("serves", [serve, WebSocketServerService, no_port])
def test_what_is_no_handler_and_what_are_no_options_is_said_at_the_call(serves: Any) -> None:
    """And not to every client with 1011."""
    for handler in (None, "x", 5):
        with pytest.raises(TypeError, match=f"handler is a function, not {type(handler).__name__}"):
            serves(handler, LISTEN)
    for options in (ClientOptions(), {"backlog": 5}, None):
        text = f"options is a ServerOptions, not {type(options).__name__}"
        with pytest.raises(TypeError, match=text):
            serves(echo, LISTEN, options=options)


@pytest_twisted.ensureDeferred
async def test_what_was_not_awaited_says_so() -> None:
    """A forgotten `await` is met on the way to the first program."""
    serving: Any = serve(echo, LISTEN)
    with pytest.raises(AttributeError, match=r"'addresses'; serve\(\) has still to be"):
        serving.addresses  # noqa: B018
    with pytest.raises(TypeError, match="Serving is used with `async with`"), serving:
        pass
    async with serving as server:
        opening: Any = connect(f"ws://127.0.0.1:{ports_of(server)[0]}")
        with pytest.raises(AttributeError, match="awaited for the Connection, or opened with `asy"):
            opening.send("x")
        for other in ("sendMessage", "_wire"):
            with pytest.raises(
                AttributeError, match=f"'Opening' object has no attribute '{other}'$"
            ):
                getattr(opening, other)
        with pytest.raises(TypeError, match="Opening is used with `async with`"), opening:
            pass
        connection: Any = await opening
        for each in (connection, server):
            with pytest.raises(TypeError, match="is used with `async with`, not"), each:
                pass
        with pytest.raises(TypeError, match="iterated over with `async for`"):
            list(connection)
        await within(connection.close())


@pytest_twisted.ensureDeferred
async def test_it_listens_from_start_to_stop_and_again(logged: Logged) -> None:
    service = WebSocketServerService(echo, LISTEN)
    assert service.server is None
    for _ in range(3):
        waiting = service.when_listening()
        service.startService()
        server = await within(waiting)
        assert service.server is server
        assert await within(service.when_listening()) is server
        (port,) = ports_of(server)
        raw = await open_raw(port)
        raw.write(b"\x81\x80\0\0\0\0")
        assert await raw.read_frame() == (1, b"")
        stopping = service.stopService()
        assert service.server is None
        assert (await raw.read_close())[0] == 1001
        assert not await is_open(port)
        raw.write(close_frame(1001))
        await within(stopping)
        assert raw.lost or await within(raw.ended()) is None
        assert f"port={port}" in logged()


@pytest_twisted.ensureDeferred
async def test_privileged_start_listens_once() -> None:
    """That is how twistd starts services: before it gives up its rights, and once more after."""
    service = WebSocketServerService(echo, LISTEN)
    service.privilegedStartService()
    server = await within(service.when_listening())
    service.startService()
    assert service.server is server
    assert service.running
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_raised_and_nothing_is_left(logged: Logged) -> None:
    async with serve(echo, LISTEN) as other:
        (taken,) = ports_of(other)
        free = free_port()
        # The first is free, so that there is something to take back.
        service = WebSocketServerService(echo, [listen_on(free), listen_on(taken)])
        early = service.when_listening()
        with pytest.raises(CannotListenError, match=str(taken)):
            service.startService()
        assert not service.running
        assert service.server is None
        with pytest.raises(CannotListenError):
            await within(early)
        with pytest.raises(CannotListenError):
            await within(service.when_listening())
        await turns(2)
        assert not await is_open(free)
        assert logged().count("Cannot listen: Couldn't listen on 127.0.0.1") == 1
        await within(service.stopService())
    # It is not lost for good: with the port free it starts.
    service.startService()
    assert ports_of(await within(service.when_listening())) == [free, taken]
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_an_endpoint_may_take_its_time() -> None:
    slow = Slow()
    service = WebSocketServerService(echo, [LISTEN, slow])
    service.startService()
    waiting = service.when_listening()
    assert service.server is None
    slow.asked.callback(None)
    server = await within(waiting)
    assert len(ports_of(server)) == 2
    for port in ports_of(server):
        assert await is_open(port)
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_fails_later_takes_the_others_back(logged: Logged) -> None:
    slow = Slow()
    port = free_port()
    service = WebSocketServerService(echo, [listen_on(port), slow])
    service.startService()
    waiting = service.when_listening()
    assert await is_open(port)
    slow.asked.errback(CannotListenError("nowhere", 0, "no reason"))
    with pytest.raises(CannotListenError):
        await within(waiting)
    assert not await is_open(port)
    assert "Cannot listen: Couldn't listen on nowhere" in logged()
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_stopped_while_it_begins_it_listens_nowhere() -> None:
    slow = Slow()
    port = free_port()
    service = WebSocketServerService(echo, [listen_on(port), slow])
    service.startService()
    waiting = service.when_listening()
    stopping = service.stopService()
    with pytest.raises(defer.CancelledError):
        await within(waiting)
    assert not stopping.called
    slow.asked.callback(None)
    await within(stopping)
    assert service.server is None
    assert not await is_open(port)
    assert not await is_open(slow.port.getHost().port if slow.port.connected else port)


@pytest_twisted.ensureDeferred
async def test_when_listening_can_be_cancelled() -> None:
    service = WebSocketServerService(echo, LISTEN)
    first, second = service.when_listening(), service.when_listening()
    first.cancel()
    with pytest.raises(defer.CancelledError):
        await within(first)
    service.startService()
    assert await within(second) is service.server
    await within(service.stopService())


@pytest_twisted.ensureDeferred
async def test_what_started_raises_stops_it_before_anyone_can_connect() -> None:
    ports: list[int] = []

    class Strict(WebSocketServerService):
        def started(self, server: Server) -> None:
            ports.extend(ports_of(server))
            raise RuntimeError("not like this")

    service = Strict(echo, [LISTEN, LISTEN])
    with pytest.raises(RuntimeError, match="not like this"):
        service.startService()
    assert not service.running
    assert service.server is None
    await turns(2)
    assert [await is_open(port) for port in ports] == [False, False]


# ---------------------------------------------------------------- stopping


@pytest_twisted.ensureDeferred
async def test_stopping_before_the_start_is_nothing() -> None:
    service = WebSocketServerService(echo, LISTEN)
    await within(service.stopService())
    await within(service.stopService())


class Draining:
    """A service whose time stands still, with one client, whose handler is the test's."""

    def __init__(self, handler: Any, **options: Any) -> None:
        self.clock = Stepped()
        self.began: list[Connection] = []

        def handle(connection: Connection) -> Any:
            self.began.append(connection)
            return handler(connection)

        options = {"ping_interval": None, "drain_timeout": 5.0, "close_timeout": 60.0, **options}
        self.service = WebSocketServerService(
            handle, LISTEN, options=ServerOptions(**options), reactor=self.clock
        )

    async def open(self, count: int = 1) -> list[Any]:
        """Start, and connect so many clients."""
        self.service.startService()
        (self.port,) = ports_of(await within(self.service.when_listening()))
        clients = [await open_raw(self.port) for _ in range(count)]
        await self.until(lambda: len(self.began) == count)
        return clients

    async def until(self, condition: Callable[[], object]) -> None:
        def look() -> object:
            if not condition():
                self.clock.advance(0)
            return condition()

        await eventually(look)

    async def cut_at_the_deadline(self, stopping: Any) -> None:
        """It fires at `drain_timeout`, and not before."""
        self.clock.advance(4.99)
        await turns(3)
        assert not stopping.called
        self.clock.advance(0.02)
        await self.until(lambda: stopping.called)
        assert [str(call) for call in self.clock.getDelayedCalls()] == []


@pytest_twisted.ensureDeferred
async def test_every_client_is_told_and_the_handlers_are_waited_for() -> None:
    cleaned: defer.Deferred[None] = defer.Deferred()

    async def handler(connection: Connection) -> None:
        await connection.when_closed()
        await cleaned

    this = Draining(handler)
    clients = await this.open(3)
    stopping = this.service.stopService()
    for raw in clients:
        assert (await raw.read_close())[0] == 1001
        raw.write(close_frame(1001))
        await within(raw.ended())
    await turns(3)
    assert not stopping.called
    cleaned.callback(None)
    await this.until(lambda: stopping.called)
    assert this.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_answer_is_cut_at_the_deadline(logged: Logged) -> None:
    this = Draining(echo)
    (raw,) = await this.open()
    stopping = this.service.stopService()
    await raw.read_close()
    await this.cut_at_the_deadline(stopping)
    await within(raw.ended())
    assert "1 connections did not end in time" in logged()


@pytest.mark.parametrize("stubborn", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_handler_that_ignores_the_close_is_cancelled_at_the_deadline(
    stubborn: bool,
) -> None:
    """And where it will not even be cancelled, nobody waits for it."""
    cancelled: list[Connection] = []
    never: defer.Deferred[None] = defer.Deferred()

    async def handler(connection: Connection) -> None:
        try:
            await defer.Deferred()
        except defer.CancelledError:
            cancelled.append(connection)
            if stubborn:
                await never

    this = Draining(handler)
    (raw,) = await this.open()
    stopping = this.service.stopService()
    await raw.read_close()
    raw.write(close_frame(1001))
    await within(raw.ended())
    await this.cut_at_the_deadline(stopping)
    assert cancelled == this.began
    never.callback(None)


@pytest_twisted.ensureDeferred
async def test_abort_ends_the_wait_at_once() -> None:
    """What a second SIGTERM does."""
    this = Draining(echo)
    clients = await this.open(2)
    server = this.service.server
    assert server is not None
    stopping = this.service.stopService()
    for raw in clients:
        await raw.read_close()
    server.abort()
    await this.until(lambda: stopping.called)
    for raw in clients:
        await within(raw.ended())
    assert this.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_stopping_twice_waits_for_the_same_end() -> None:
    this = Draining(echo)
    (raw,) = await this.open()
    server = this.service.server
    assert server is not None
    stopping, closing = this.service.stopService(), server.close()
    await raw.read_close()
    assert not stopping.called
    assert not closing.called
    raw.write(close_frame(1001))
    await this.until(lambda: stopping.called and closing.called)


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
@pytest_twisted.ensureDeferred
async def test_who_has_not_finished_the_opening_handshake_is_turned_away(sent: bytes) -> None:
    """Nothing is left of a server that has ended, and no handler begins afterwards."""
    this = Draining(echo)
    await this.open(0)
    raw = await connect_raw(this.port)
    raw.write(sent)
    await turns(5)
    stopping = this.service.stopService()
    await this.until(lambda: stopping.called)
    raw.write(upgrade()[len(sent) :])
    answer = await raw.read_all()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert this.began == []
    await turns(2)
    assert [str(call) for call in this.clock.getDelayedCalls()] == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_being_judged_is_turned_away() -> None:
    decision: defer.Deferred[None] = defer.Deferred()
    service = WebSocketServerService(echo, LISTEN, process_request=lambda _: decision)
    service.startService()
    (port,) = ports_of(await within(service.when_listening()))
    raw = await connect_raw(port)
    raw.write(upgrade())
    await turns(5)
    await within(service.stopService())
    answer = await raw.read_all()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")


@pytest_twisted.ensureDeferred
async def test_serve_that_is_cancelled_listens_nowhere() -> None:
    """The endpoint that listens already is closed; the leak check would find its port."""
    from twisted.internet import reactor
    from twisted.internet.endpoints import serverFromString

    class Never:
        def listen(self, factory: object) -> defer.Deferred[None]:
            return defer.Deferred()

    ready: Any = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
    serving = serve(lambda _: None, [ready, Never()])  # type: ignore[list-item]
    serving.cancel()
    with pytest.raises(defer.CancelledError):
        await serving


@pytest.mark.parametrize(
    ("listen", "kind"),
    [("8765", ValueError), ("tcp", ValueError), (8765, TypeError), (("127.0.0.1", 80), ValueError)],
)
def test_what_is_no_endpoint_is_said_with_an_example(listen: Any, kind: type[Exception]) -> None:
    """At once, and before anything listens."""
    with pytest.raises(kind, match="such as 'tcp:8765:"):
        serve(lambda _: None, listen)
