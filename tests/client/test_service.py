"""The service that keeps a WebSocket open: it comes back after every end, and it can be stopped.

The sockets are real. Where a wait is to be measured the clock stands still until it is advanced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from integration.clients import ENDLESS, QUIET, Client, client, hold
from integration.peers import free_port
from integration.proxies import RecordingProxy
from integration.raw import (
    Raw,
    RawServer,
    accept_raw,
    close_frame,
    frame,
    header,
    switching,
    turns,
    within,
)
from twisted.internet import defer

from wsframe.client import WebSocketClientService
from wsframe.connection import Connection, State
from wsframe.errors import (
    BadHandshake,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeRefused,
    InvalidProxy,
    InvalidURI,
    NameLookupFailed,
    OpenError,
    OpenTimeout,
    TCPConnectFailed,
)

Logged = Callable[[], str]

HAPPY_EYEBALLS = 0.3
"""Seconds in which Twisted waits for an address before it tries the next, or knows of no other."""


async def answer_close(raw: Raw) -> tuple[int | None, str]:
    """Complete the closing handshake as a server; return the client's code and reason."""
    code, reason = await raw.read_close()
    raw.write(close_frame(code, masked=False))
    raw.finish()
    return code, reason


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"uri": "http://127.0.0.1/"}, InvalidURI),
        ({"uri": "ws://127.0.0.1/", "proxies": "proxy:3128"}, InvalidProxy),
        ({"uri": "ws://127.0.0.1/", "proxies": {"http": "http://p:1"}}, InvalidProxy),
        ({"uri": "ws://127.0.0.1/", "headers": {"X": "a\r\nb"}}, ValueError),
        ({"uri": "ws://127.0.0.1/", "subprotocols": ["a b"]}, ValueError),
    ],
)
def test_what_is_wrong_is_said_when_it_is_made(arguments: Any, error: type[Exception]) -> None:
    """Not by an attempt that is repeated for ever."""
    with pytest.raises(error):
        WebSocketClientService(handler=hold, **arguments)


# ---------------------------------------------------------------- when_open


@pytest_twisted.ensureDeferred
async def test_when_open_fires_with_the_connection(logged: Logged) -> None:
    async with RawServer() as server:
        this = Client(server.port)
        before = this.service.when_open()
        async with client(server) as other:
            assert other.service.last_failure is None
            during = other.service.when_open()
            assert not during.called
            raw = await accept_raw(server)
            await other.until(lambda: during.called)
            connection = await during
            assert connection is other.service.connection
            assert connection.state is State.OPEN
            # At once, while it is open.
            assert await within(other.service.when_open()) is connection
            await other.until(lambda: other.handled == [connection])
            assert f"Connected to ws://127.0.0.1:{server.port}/" in logged()
            answered = defer.ensureDeferred(answer_close(raw))
            await other.stop()
            assert (await within(answered)) == (1000, "")
        assert not before.called
        with pytest.raises(defer.CancelledError):
            await within(other.service.when_open())


@pytest_twisted.ensureDeferred
async def test_when_open_waits_over_failures_and_ends_with_the_service() -> None:
    async with client(free_port()) as this:
        first, second = this.service.when_open(), this.service.when_open()
        await this.until_waiting(HAPPY_EYEBALLS)
        assert not first.called
        # Whoever does not want to wait any longer does not disturb the other.
        first.cancel()
        with pytest.raises(defer.CancelledError):
            await within(first)
        assert not second.called
    with pytest.raises(defer.CancelledError):
        await within(second)


# ---------------------------------------------------------------- coming back

Script = Callable[[RawServer, Client], Awaitable[object]]


def closes(code: int | None, reason: str = "") -> Script:
    async def script(server: RawServer, this: Client) -> None:
        raw = await accept_raw(server)
        raw.write(close_frame(code, reason, masked=False))
        await raw.read_close()
        raw.finish()

    return script


def answers(text: str) -> Script:
    async def script(server: RawServer, this: Client) -> None:
        raw = await server.accepted()
        await raw.read_head()
        raw.write(text.encode())
        raw.finish()

    return script


async def ends_tcp(server: RawServer, this: Client) -> None:
    (await accept_raw(server)).finish()


async def resets_tcp(server: RawServer, this: Client) -> None:
    raw = await accept_raw(server)
    await this.until(lambda: this.service.connection)
    raw.reset()


async def resets_before_the_answer(server: RawServer, this: Client) -> None:
    raw = await server.accepted()
    await raw.read_head()
    raw.reset()


async def closes_with_the_answer(server: RawServer, this: Client) -> None:
    """All in one packet: the WebSocket is open for no time at all."""
    raw = await server.accepted()
    head = await raw.read_head()
    raw.write(switching(head) + frame(1, b"last", masked=False) + close_frame(1013, masked=False))
    raw.finish()


async def breaks_the_rules(server: RawServer, this: Client) -> None:
    raw = await accept_raw(server)
    raw.write(frame(3, b"", masked=False))
    await raw.read_close()
    raw.finish()


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        *[
            (closes(code, "so it is"), ConnectionClosed, f"{code}: 'so it is'")
            for code in (1000, 1001, 1002, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999)
        ],
        (closes(None), ConnectionClosedOK, "1005"),
        (ends_tcp, ConnectionClosedError, "1006"),
        (resets_tcp, ConnectionClosedError, "1006"),
        (closes_with_the_answer, ConnectionClosedError, "1013"),
        (breaks_the_rules, ConnectionClosedError, "1002"),
        (resets_before_the_answer, OpenError, "handshake|lost"),
        (
            answers("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"),
            HandshakeRefused,
            "401 Unauthorized",
        ),
        (
            answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
            HandshakeRefused,
            "503 Service Unavailable",
        ),
        (answers("SSH-2.0-x\r\n\r\n"), BadHandshake, ""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_it_is_back_after_every_end_and_says_why(
    script: Script, error: type[Exception], text: str, logged: Logged
) -> None:
    """The wait is that of a first failure; who ended it, and how, makes no difference."""
    async with RawServer() as server, client(server, retry=ENDLESS) as this:
        await script(server, this)
        assert await this.until_waiting() == 1.0
        failure = this.service.last_failure
        assert isinstance(failure, error)
        assert any(part in str(failure) for part in text.split("|")), failure
        line = f"Not connected to ws://127.0.0.1:{server.port}/: {failure}. Next attempt in 1.0 s"
        assert line in logged()
        this.clock.advance(0.99)
        await turns(3)
        assert server._queue.pending == []
        this.clock.advance(0.01)
        again = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        await again.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_what_came_before_the_end_reaches_the_handler() -> None:
    received: list[Any] = []

    async def handler(connection: Connection) -> None:
        received.append(await connection.recv())

    async with RawServer() as server, client(server, handler) as this:
        await closes_with_the_answer(server, this)
        await this.until_waiting()
        await this.until(lambda: received == ["last"])


@pytest_twisted.ensureDeferred
async def test_it_waits_for_a_server_that_is_not_there_yet() -> None:
    port = free_port()
    async with client(port) as this:
        for expected in (1.0, 2.0, 4.0, 8.0, 8.0, 8.0):
            assert await this.until_waiting(HAPPY_EYEBALLS) == expected
            assert isinstance(this.service.last_failure, TCPConnectFailed)
            this.clock.advance(expected)


@pytest_twisted.ensureDeferred
async def test_a_name_that_does_not_resolve_is_looked_up_again() -> None:
    async with client(0, uri="ws://name.invalid/") as this:
        for expected in (1.0, 2.0):
            assert await this.until_waiting() == expected
            assert isinstance(this.service.last_failure, NameLookupFailed)
            this.clock.advance(expected)
            await this.until(lambda: this.retry is None)


@pytest_twisted.ensureDeferred
async def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    async with RawServer() as server, client(server) as this:
        raw = await server.accepted()
        await raw.read_head()
        this.clock.advance(QUIET.open_timeout)
        assert await this.until_waiting() == 1.0
        assert isinstance(this.service.last_failure, OpenTimeout)
        await within(raw.ended())


# ---------------------------------------------------------------- how long it waits


async def flap(server: RawServer, this: Client, open_for: float) -> float:
    """Accept, drop after so many seconds, and return the wait that follows."""
    raw = await accept_raw(server)
    await this.until(lambda: this.service.connection)
    this.clock.advance(open_for)
    await raw.drop()
    wait = await this.until_waiting()
    this.clock.advance(wait)
    return wait


@pytest_twisted.ensureDeferred
async def test_the_waits_grow_against_a_server_that_accepts_and_drops() -> None:
    """Twisted's own count forgets such a server at every success, and hammers it."""
    async with RawServer() as server, client(server) as this:
        waits = [await flap(server, this, open_for=9.99) for _ in range(6)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


@pytest_twisted.ensureDeferred
async def test_failures_are_forgotten_only_after_the_stable_period() -> None:
    async with RawServer() as server, client(server) as this:
        assert [await flap(server, this, open_for=time) for time in (0, 9.9, 10.1, 0, 3600)] == [
            1.0,
            2.0,
            1.0,
            2.0,
            1.0,
        ]


@pytest_twisted.ensureDeferred
async def test_each_wait_is_drawn_evenly_up_to_the_largest() -> None:
    """Full jitter: with another's draw the wait is another one, and zero is one of them."""
    async with RawServer() as server, client(server) as this:
        draws = iter([0.0, 0.5, 0.25])
        this.service._retry._draw = lambda: next(draws)
        assert [await flap(server, this, 0) for _ in range(3)] == [0.0, 1.0, 1.0]


# ---------------------------------------------------------------- handlers


@pytest_twisted.ensureDeferred
async def test_a_handler_that_returns_closes_with_1000_and_the_next_follows() -> None:
    async def handler(connection: Connection) -> None:
        await connection.send("only this")

    async with RawServer() as server, client(server, handler) as this:
        for count in (1, 2):
            raw = await accept_raw(server)
            await this.until(lambda: len(this.handled) == count)  # noqa: B023
            assert await raw.read_frame() == (1, b"only this")
            assert await answer_close(raw) == (1000, "")
            this.clock.advance(await this.until_waiting())
        raw = await accept_raw(server)
        await this.until(lambda: len(this.handled) == 3)
        await answer_close(raw)
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_a_handler_that_raises_closes_with_1011_and_is_logged(logged: Logged) -> None:
    def handler(connection: Connection) -> None:
        raise LookupError("mistake of the application")

    async with RawServer() as server, client(server, handler) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        assert (await answer_close(raw))[0] == 1011
        await this.until_waiting()
    assert "LookupError: mistake of the application" in logged()
    assert f"peer 'tcp4:127.0.0.1:{server.port}'" in logged()


@pytest_twisted.ensureDeferred
async def test_a_handler_that_hangs_is_cancelled_before_the_next_begins() -> None:
    """It may outlive its connection, to clean up; two never run at once."""
    events: list[str] = []

    async def handler(connection: Connection) -> None:
        number = len(this.handled)
        events.append(f"begin {number}")
        try:
            await defer.Deferred()
        finally:
            events.append(f"end {number}")

    async with RawServer() as server:
        this = Client(server.port, handler)
        this.service.startService()
        await flap(server, this, 0)
        assert events == ["begin 1"]
        raw = await accept_raw(server)
        await this.until(lambda: len(this.handled) == 2)
        assert events == ["begin 1", "end 1", "begin 2"]
        answered = defer.ensureDeferred(answer_close(raw))
        await this.stop()
        assert events == ["begin 1", "end 1", "begin 2", "end 2"]
        await within(answered)


@pytest_twisted.ensureDeferred
async def test_a_handler_may_be_a_function_that_returns_a_deferred() -> None:
    done: defer.Deferred[None] = defer.Deferred()
    async with RawServer() as server, client(server, lambda _: done) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        done.callback(None)
        assert (await answer_close(raw))[0] == 1000
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_a_handler_may_stop_the_service() -> None:
    async def handler(connection: Connection) -> None:
        await this.service.stopService()

    async with RawServer() as server:
        this = Client(server.port, handler)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        assert (await answer_close(raw))[0] == 1000
        await this.until(lambda: this.service.connection is None)
        await this.stop()
        assert not this.service.running


# ---------------------------------------------------------------- stopping


@pytest_twisted.ensureDeferred
async def test_stopping_before_the_start_is_nothing() -> None:
    this = Client(free_port())
    await this.stop()
    await this.stop()
    with pytest.raises(defer.CancelledError):
        await within(this.service.when_open())


@pytest_twisted.ensureDeferred
async def test_stopping_while_connecting_ends_the_attempt() -> None:
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await server.accepted()
        await raw.read_head()
        opened = this.service.when_open()
        await this.stop()
        await within(raw.ended())
        assert this.service.last_failure is None  # to be told to stop is no failure
        with pytest.raises(defer.CancelledError):
            await within(opened)


@pytest_twisted.ensureDeferred
async def test_stopping_while_waiting_ends_the_wait(logged: Logged) -> None:
    this = Client(free_port())
    this.service.startService()
    await this.until_waiting(HAPPY_EYEBALLS)
    lines = logged().count("Not connected")
    await this.stop()
    assert logged().count("Not connected") == lines == 1


@pytest_twisted.ensureDeferred
async def test_stopping_sends_a_close_frame_and_waits_for_the_end(logged: Logged) -> None:
    """Twisted's ClientService drops TCP."""
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        stopping = this.service.stopService()
        again = this.service.stopService()
        assert await raw.read_close() == (1000, "")
        assert not stopping.called
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await this.until(lambda: stopping.called and again.called)
        assert raw.lost
        await this.stop()
    assert "Not connected" not in logged()
    assert isinstance(this.service.last_failure, ConnectionClosedOK)


@pytest_twisted.ensureDeferred
async def test_stopping_is_bounded_when_the_server_does_not_answer_the_close() -> None:
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        stopping = this.service.stopService()
        await raw.read_close()
        this.clock.advance(QUIET.close_timeout - 0.01)
        await turns(3)
        assert not stopping.called
        this.clock.advance(0.02)
        await this.until(lambda: stopping.called)
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_stopping_while_the_connection_closes_waits_for_its_end() -> None:
    async def handler(connection: Connection) -> None:
        connection.close(4000, "done")

    async with RawServer() as server:
        this = Client(server.port, handler)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        assert await raw.read_close() == (4000, "done")
        stopping = this.service.stopService()
        assert not stopping.called
        raw.write(close_frame(4000, masked=False))
        raw.finish()
        await this.until(lambda: stopping.called)
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_a_handler_is_not_begun_once_the_service_is_stopped() -> None:
    """Stopped by whoever heard first that it is open."""
    async with RawServer() as server:
        this = Client(server.port)
        stopping: list[Any] = []
        this.service.when_open().addCallback(lambda _: stopping.append(this.service.stopService()))
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: stopping)
        assert (await answer_close(raw))[0] == 1000
        await this.until(lambda: stopping[0].called)
        assert this.handled == []
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again() -> None:
    async with RawServer() as server:
        this = Client(server.port)
        for count in (1, 2, 3):
            this.service.startService()
            raw = await accept_raw(server)
            await this.until(lambda: len(this.handled) == count)  # noqa: B023
            answered = defer.ensureDeferred(answer_close(raw))
            await this.stop()
            await within(answered)
            assert this.service._retry.failures == 0 or count > 1


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again_before_it_has_ended() -> None:
    """The old connection ends in order, and a new one follows it."""
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        stopping = this.service.stopService()
        this.service.startService()
        assert (await answer_close(raw))[0] == 1000
        await this.until(lambda: stopping.called)
        again = await accept_raw(server)
        await this.until(lambda: len(this.handled) == 2)
        assert this.service.running
        assert this.service.connection is this.handled[1]
        answered = defer.ensureDeferred(answer_close(again))
        await this.stop()
        await within(answered)


@pytest.mark.parametrize("phase", ["connecting", "waiting"])
@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again_at_once_in_every_phase(phase: str) -> None:
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        first = await server.accepted()
        if phase == "waiting":
            await first.drop()
            await this.until_waiting()
        stopping = this.service.stopService()
        this.service.startService()
        await this.until(lambda: stopping.called)
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        answered = defer.ensureDeferred(answer_close(raw))
        await this.stop()
        await within(answered)


# ---------------------------------------------------------------- what is said, and what is not

SECRETS = ("pr0xy.Secret", "t0ken.Secret", "uri.Secret", "query.Secret")


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 101 Switching",
        "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: /?x\r\nContent-Length: 0\r\n\r\n",
        "nothing",
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_secret_is_logged(answer: str, logged: Logged) -> None:
    """Not the proxy's password, the token, the URI's password or its query, whatever happens."""
    proxy_secret, token, password, query = SECRETS
    async with RawServer() as server, RecordingProxy() as proxy:
        uri = f"ws://user:{password}@127.0.0.1:{server.port}/path?key={query}"
        async with client(
            0,
            uri=uri,
            retry=ENDLESS,
            headers={"X-Token": token},
            proxies=f"http://puser:{proxy_secret}@127.0.0.1:{proxy.port}",
        ) as this:
            raw = await server.accepted()
            head = await raw.read_head()
            # They do travel, each to whom it is for.
            assert header(head, "X-Token") == token
            assert (header(head, "Authorization") or "").startswith("Basic ")
            assert query in head
            assert proxy_secret not in head
            assert "Proxy-Authorization: Basic " in proxy.requests[0]
            if answer == "HTTP/1.1 101 Switching":
                raw.write(switching(head))
                await this.until(lambda: this.handled)
            elif answer != "nothing":
                raw.write(answer.encode())
            raw.finish()
            await this.until_waiting()
            shown = f"{this.service.last_failure!r} {this.handled} {vars(this.service)}"
    for secret in SECRETS:
        assert secret not in logged()
        assert secret not in shown
    assert f"Not connected to ws://127.0.0.1:{server.port}/path: " in logged()


@pytest.mark.parametrize("status", ["407 Who are you", "403 No", "502 Bad"])
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_refuses_is_named_without_its_password(
    status: str, logged: Logged
) -> None:
    async def refuse(raw: Raw) -> None:
        await raw.read_head()
        raw.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        raw.finish()

    async with RawServer(refuse) as proxy:
        url = f"http://puser:{SECRETS[0]}@127.0.0.1:{proxy.port}"
        async with client(1, proxies=url, retry=ENDLESS) as this:
            await this.until_waiting()
    assert f"http://127.0.0.1:{proxy.port}" in logged()
    assert status.split(maxsplit=1)[0] in logged()
    assert SECRETS[0] not in logged()
    assert "puser" not in logged()


@pytest_twisted.ensureDeferred
async def test_what_a_peer_says_cannot_forge_a_line_of_the_log(logged: Logged) -> None:
    async with RawServer() as server, client(server) as this:
        await closes(4000, "bye\nWARN all is well \x1b[2J")(server, this)
        await this.until_waiting()
        lines = [line for line in logged().splitlines() if "all is well" in line]
    assert lines
    assert all("Not connected" in line for line in lines)
    assert "\x1b" not in logged()


@pytest_twisted.ensureDeferred
async def test_what_waited_for_the_end_may_tell_it_anything_at_once() -> None:
    """Start it, stop it, ask it: whoever hears of the end is not in the middle of it."""
    heard: list[Any] = []

    async def follow(service: WebSocketClientService) -> None:
        await service.stopService()
        await service.stopService()
        service.startService()
        opened = service.when_open()
        stopping = service.stopService()
        with pytest.raises(defer.CancelledError):
            await within(opened)
        await within(stopping)
        heard.append(service.running)

    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        followed = defer.ensureDeferred(follow(this.service))
        await answer_close(raw)
        await this.until(lambda: followed.called)
        await followed
        assert heard == [0]
        await this.stop()
