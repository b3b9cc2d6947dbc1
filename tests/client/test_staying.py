"""What a client that stays connected lets others see and decide: events, hooks, giving up.

The sockets are real, the clock stands still until it is advanced.
"""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import pytest_twisted
from integration.clients import RETRIES, Client, client
from integration.peers import free_port
from integration.raw import (
    RawServer,
    accept_raw,
    close_frame,
    eventually,
    frame,
    header,
    turns,
    within,
)
from twisted.internet import defer

from wsframe.client import Attempt, ConnectArguments, WebSocketClientService
from wsframe.client import opening as opening_module
from wsframe.client.events import EVENTS_KEPT, Events
from wsframe.connection import Connection
from wsframe.core import events
from wsframe.core.reconnect import State as Doing
from wsframe.core.retry import GIVE_UP, RETRY, RetryPolicy
from wsframe.errors import (
    ConcurrencyError,
    ConnectionClosed,
    HandshakeRefused,
    HookTimeout,
    InvalidHeader,
    InvalidURI,
    OpenError,
    TCPConnectFailed,
)
from wsframe.options import ServiceOptions


def policy(**changes: Any) -> RetryPolicy:
    return dataclasses.replace(RETRIES, **changes)


async def refuse(server: RawServer, status: str = "401 No") -> str:
    """Refuse one opening handshake; return its head."""
    raw = await server.accepted()
    head: str = await raw.read_head()
    raw.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    raw.finish()
    return head


# ---------------------------------------------------------------- events


@pytest_twisted.ensureDeferred
async def test_every_change_is_told_once_and_in_order() -> None:
    async with RawServer() as server, client(server) as this:
        await refuse(server, "503 Busy")
        this.clock.advance(await this.until_waiting())
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        this.clock.advance(3)
        raw.write(frame(1, b"hello", masked=False) + frame(2, b"\0\1", masked=False))
        await eventually(lambda: this.handled[0].counts.received == 2)
        await this.handled[0].send("answer")
        raw.write(close_frame(1012, "deploy", masked=False))
        await raw.read_close()
        raw.finish()
        await this.until_waiting()
        assert this.story == [
            "Started",
            "Connecting",
            "Failed",
            "Waiting",
            "Connecting",
            "Opened",
            "Closed",
            "Waiting",
        ]
        uri = f"ws://127.0.0.1:{server.port}/"
        assert {event.uri for event in this.told} == {uri}
        assert [event.attempt for event in this.told] == [0, 1, 1, 1, 2, 2, 2, 2]
        connecting = this.told_of(events.Connecting)[0]
        assert connecting.route.direct
        failed = this.told_of(events.Failed)[0]
        assert isinstance(failed.error, HandshakeRefused)
        assert failed.error.status == 503
        assert this.told_of(events.Opened)[0].seconds >= 0
        closed = this.told_of(events.Closed)[0]
        assert (closed.error.code, closed.error.reason, closed.error.by) == (
            1012,
            "deploy",
            "remote",
        )
        assert closed.seconds == pytest.approx(3)
        assert closed.counts == events.Counts(sent=1, sent_bytes=6, received=2, received_bytes=7)
        assert [(event.seconds, event.failures) for event in this.told_of(events.Waiting)] == [
            (1.0, 1),
            (2.0, 2),
        ]
    assert this.story[-1] == "Stopped"


@pytest_twisted.ensureDeferred
async def test_query_and_user_of_the_uri_are_in_no_event() -> None:
    async with RawServer() as server:
        uri = f"ws://user:s3cret@127.0.0.1:{server.port}/path?token=s3cret"
        async with client(server, uri=uri) as this:
            await refuse(server, "503 Busy")
            await this.until_waiting()
        assert this.told[1].uri == f"ws://127.0.0.1:{server.port}/path"
        assert "s3cret" not in repr(this.told)


@pytest_twisted.ensureDeferred
async def test_callback_that_raises_is_logged_and_disturbs_nobody(logged: Any) -> None:
    def mistake(event: events.Event) -> None:
        raise LookupError("mistake of the observer")

    async with RawServer() as server:
        this = Client(server.port)
        this.service.events.subscribe(mistake)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        assert this.story == ["Started", "Connecting", "Opened"]
        await raw.drop()
        await this.until_waiting()
        await this.stop()
    assert "LookupError: mistake of the observer" in logged()


@pytest.mark.parametrize("kind", [events.Started, events.Connecting, events.Opened, events.Closed])
@pytest_twisted.ensureDeferred
async def test_observer_may_stop_the_service_at_any_event(kind: type[events.Event]) -> None:
    async with RawServer() as server:
        this = Client(server.port)
        stopped: list[Any] = []

        def stop(event: events.Event) -> None:
            if isinstance(event, kind):
                stopped.append(this.service.stopService())

        this.service.events.subscribe(stop)
        this.service.startService()
        if kind in (events.Opened, events.Closed):
            raw = await accept_raw(server)
            if kind is events.Closed:
                await this.until(lambda: this.handled)
                await raw.drop()
            else:
                await raw.read_close()
                await raw.drop()
        await this.until(lambda: stopped and stopped[0].called)
        assert this.service.doing is Doing.STOPPED
        assert this.story[-1] == "Stopped"
        this.clock.advance(0)
        assert this.waits == []


@pytest_twisted.ensureDeferred
async def test_events_can_be_read_in_a_loop_from_then_on() -> None:
    async with RawServer() as server, client(server) as this:
        read: list[str] = []

        async def loop() -> None:
            async for event in this.service.events:
                read.append(type(event).__name__)
                if isinstance(event, events.Closed):
                    return

        reading = defer.ensureDeferred(loop())
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        await raw.drop()
        await within(reading)
        assert read == ["Opened", "Closed"]


@pytest_twisted.ensureDeferred
async def test_loop_that_lags_misses_the_oldest_and_knows_how_many() -> None:
    told = Events()
    stream = told.__aiter__()
    for number in range(EVENTS_KEPT + 5):
        told.tell(events.Event(attempt=number))
    assert stream.missed == 5
    assert (await stream.__anext__()).attempt == 5
    stream.close()


@pytest_twisted.ensureDeferred
async def test_waits_for_an_event_can_be_cancelled_and_have_one_at_a_time() -> None:
    told = Events()
    stream = told.__aiter__()
    waiting = stream.__anext__()
    with pytest.raises(ConcurrencyError):
        await stream.__anext__()
    waiting.cancel()
    with pytest.raises(defer.CancelledError):
        await waiting
    told.tell(events.Started())
    assert await stream.__anext__() == events.Started()


def test_subscription_ends_where_it_is_told_to_and_twice_is_nothing() -> None:
    told = Events()
    heard: list[events.Event] = []
    first, second = told.subscribe(heard.append), told.subscribe(heard.append)
    first()
    first()
    told.tell(events.Started())
    assert len(heard) == 1
    second()
    told.tell(events.Started())
    assert len(heard) == 1


@pytest_twisted.ensureDeferred
async def test_loop_that_was_left_is_kept_no_events_for() -> None:
    told = Events()
    for _ in range(3):
        stream = told.__aiter__()
        told.tell(events.Started())
        assert await stream.__anext__() == events.Started()
    assert len(told._subscribers) == 1
    del stream
    assert told._subscribers == []


@pytest_twisted.ensureDeferred
async def test_loop_that_nobody_else_knows_hears_the_next_event() -> None:
    told = Events()
    heard: list[events.Event] = []

    async def loop() -> None:
        async for event in told:
            heard.append(event)  # noqa: PERF401 - each at once

    defer.ensureDeferred(loop())
    gc.collect()
    told.tell(events.Started())
    gc.collect()
    told.tell(events.Stopped())
    assert heard == [events.Started(), events.Stopped()]


@pytest.mark.parametrize("waiting", [False, True])
@pytest_twisted.ensureDeferred
async def test_loop_over_a_stream_that_is_closed_ends(waiting: bool) -> None:
    stream = Events().__aiter__()

    async def loop() -> str:
        async for _ in stream:
            pass
        return "ended"

    if not waiting:
        stream.close()
    looping = defer.ensureDeferred(loop())
    stream.close()
    assert await within(looping) == "ended"


# ---------------------------------------------------------------- giving up


@pytest_twisted.ensureDeferred
async def test_it_gives_up_where_the_policy_says_so_and_tells_everyone(logged: Any) -> None:
    async with RawServer() as server:
        this = Client(server.port)
        opened, ended = this.service.when_open(), this.service.when_stopped()
        this.service.startService()
        await refuse(server)
        await this.until(lambda: ended.called)
        failure = await ended
        assert isinstance(failure, HandshakeRefused)
        assert this.service.last_failure is failure
        assert this.service.doing is Doing.GAVE_UP
        assert this.story == ["Started", "Connecting", "Failed", "GaveUp"]
        (gave_up,) = this.told_of(events.GaveUp)
        assert gave_up.why == "HandshakeRefused with status 401 is not retried"
        with pytest.raises(HandshakeRefused):
            await opened
        with pytest.raises(HandshakeRefused):
            await this.service.when_open()
        assert await this.service.when_stopped() is failure
        assert this.waits == []
        await this.stop()
        assert "Given up" in logged()


@pytest_twisted.ensureDeferred
async def test_it_can_be_started_again_after_it_gave_up() -> None:
    async with RawServer() as server, client(server) as this:
        await refuse(server)
        await this.until(lambda: this.service.doing is Doing.GAVE_UP)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        assert this.told_of(events.Opened)[0].attempt == 1
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_attempts_are_counted_to_the_limit() -> None:
    async with client(free_port(), retry=policy(max_attempts=3)) as this:
        while this.service.doing is not Doing.GAVE_UP:
            await this.until(lambda: this.retry is not None or this.service.doing is Doing.GAVE_UP)
            this.clock.advance(this.retry or 0)
        assert len(this.told_of(events.Failed)) == 3
        assert isinstance(this.service.last_failure, TCPConnectFailed)


@pytest_twisted.ensureDeferred
async def test_when_stopped_fires_with_none_for_a_stop() -> None:
    async with RawServer() as server:
        this = Client(server.port)
        ended = this.service.when_stopped()
        forgotten = this.service.when_stopped()
        this.service.startService()
        forgotten.cancel()
        with pytest.raises(defer.CancelledError):
            await forgotten
        await this.stop()
        assert await within(ended) is None
        assert await within(this.service.when_stopped()) is None, "it is over"


@pytest_twisted.ensureDeferred
async def test_a_judge_that_raises_is_logged_and_the_tables_decide(logged: Any) -> None:
    def judge(failure: BaseException) -> Any:
        raise LookupError("mistake of the judge")

    async with RawServer() as server, client(server, retry=policy(judge=judge)) as this:
        await refuse(server, "503 Busy")
        assert await this.until_waiting() == 1.0
    assert "LookupError: mistake of the judge" in logged()


@pytest_twisted.ensureDeferred
async def test_retry_after_is_waited_for() -> None:
    async with RawServer() as server, client(server, retry=policy(judge=None)) as this:
        raw = await server.accepted()
        await raw.read_head()
        raw.write(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        assert await this.until_waiting() >= 7


# ---------------------------------------------------------------- the hook before an attempt


@pytest_twisted.ensureDeferred
async def test_hook_is_told_the_failure_and_may_bring_a_new_token() -> None:
    attempts: list[Attempt] = []

    async def refresh(attempt: Attempt) -> ConnectArguments | None:
        attempts.append(attempt)
        if isinstance(attempt.failure, HandshakeRefused) and attempt.failure.status == 401:
            return {"headers": {"Authorization": "Bearer new"}}
        return None

    arguments: Any = {
        "retry": policy(statuses={401: RETRY}),
        "before_attempt": refresh,
        "headers": {"Authorization": "Bearer old"},
    }
    async with RawServer() as server, client(server, **arguments) as this:
        assert header(await refuse(server), "Authorization") == "Bearer old"
        this.clock.advance(await this.until_waiting())
        raw = await server.accepted()
        assert header(await raw.read_head(), "Authorization") == "Bearer new"
        await raw.drop()
        # The client's own arguments are as they were.
        this.clock.advance(await this.until_waiting())
        assert header(await refuse(server), "Authorization") == "Bearer old"
        await this.until_waiting()
    assert [(attempt.number, attempt.failures) for attempt in attempts] == [(1, 0), (2, 1), (3, 2)]
    assert attempts[0].failure is None
    assert isinstance(attempts[2].failure, OpenError)


@pytest_twisted.ensureDeferred
async def test_hook_may_lead_elsewhere() -> None:
    async with RawServer() as first, RawServer() as second:

        def elsewhere(attempt: Attempt) -> ConnectArguments:
            return {"uri": f"ws://127.0.0.1:{second.port}/else", "subprotocols": ["chat"]}

        async with client(first, before_attempt=elsewhere) as this:
            raw = await second.accepted()
            head = await raw.read_head()
            assert head.startswith("GET /else ")
            assert header(head, "Sec-WebSocket-Protocol") == "chat"
            await raw.drop()
            await this.until_waiting()
            assert this.told_of(events.Connecting)[0].uri.endswith("/else")
            assert first.connections == []


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ({"uri": "http://wrong/"}, InvalidURI),
        ({"headers": {"X": "a\r\nb"}}, InvalidHeader),
        ({"header": {}}, TypeError),
        ("ws://127.0.0.1/", TypeError),
    ],
)
@pytest_twisted.ensureDeferred
async def test_hook_that_returns_what_is_wrong_ends_the_client(
    returned: Any, error: type[Exception]
) -> None:
    """It would return it again."""
    async with client(free_port(), before_attempt=lambda _: returned) as this:
        await this.until(lambda: this.service.doing is Doing.GAVE_UP)
        assert isinstance(this.told_of(events.Failed)[0].error, error)


@pytest_twisted.ensureDeferred
async def test_hook_that_raises_is_a_failed_attempt() -> None:
    async def broken(attempt: Attempt) -> None:
        raise OSError("token server is down")

    async with client(free_port(), before_attempt=broken) as this:
        assert await this.until_waiting() == 1.0
        this.clock.advance(1.0)
        assert await this.until_waiting() == 2.0
        assert [str(event.error) for event in this.told_of(events.Failed)] == [
            "token server is down"
        ] * 2


@pytest.mark.parametrize("which", ["before_attempt", "on_open"])
@pytest_twisted.ensureDeferred
async def test_hook_that_takes_too_long_is_cancelled(which: str) -> None:
    cancelled: list[bool] = []

    def hang(_: object) -> defer.Deferred[None]:
        return defer.Deferred(lambda _: cancelled.append(True))

    options = ServiceOptions(hook_timeout=5)
    async with (
        RawServer() as server,
        client(server, service_options=options, **{which: hang}) as this,
    ):
        if which == "on_open":
            raw = await accept_raw(server)
            await this.until(lambda: this.service.doing is Doing.RESUMING)
            this.clock.advance(5)
            assert (await raw.read_close())[0] == 1011
            raw.finish()
        else:
            this.clock.advance(5)
        assert await this.until_waiting() == 1.0
        assert isinstance(this.service.last_failure, HookTimeout)
        assert cancelled == [True]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("which", ["before_attempt", "on_open", "waiting before_attempt"])
@pytest_twisted.ensureDeferred
async def test_hook_may_stop_and_start_the_service(which: str, again: bool) -> None:
    calls: list[object] = []
    stopped: list[Any] = []

    def hook(_: object) -> object:
        calls.append(_)
        if len(calls) > 1:
            return None
        stopped.append(this.service.stopService())
        if again:
            this.service.startService()
        return defer.Deferred() if which.startswith("waiting") else None

    async with RawServer() as server:
        this = Client(server.port, **{which.removeprefix("waiting "): hook})
        this.service.startService()
        if which == "on_open":
            raw = await accept_raw(server)
            await raw.read_close()
            await raw.drop()
        await this.until(lambda: stopped[0].called)
        if again:
            raw = await accept_raw(server)
            await this.until(lambda: this.service.connection)
            await raw.drop()
        else:
            assert this.service.doing is Doing.STOPPED
        await this.stop()


# ---------------------------------------------------------------- several URIs


@pytest_twisted.ensureDeferred
async def test_uris_are_tried_in_turn_and_the_one_that_was_open_again_first() -> None:
    async with RawServer() as first, RawServer() as second:
        uris = [f"ws://127.0.0.1:{server.port}/" for server in (first, second)]
        async with client(0, uri=uris) as this:
            await refuse(first, "503 Busy")
            this.clock.advance(await this.until_waiting())
            raw = await accept_raw(second)
            await this.until(lambda: this.service.connection)
            this.clock.advance(RETRIES.stable_after)
            await raw.drop()
            this.clock.advance(await this.until_waiting())
            await refuse(second, "503 Busy")
            this.clock.advance(await this.until_waiting())
            raw = await accept_raw(first)
            await this.until(lambda: this.service.connection)
            await raw.drop()
            await this.until_waiting()
        assert [event.uri for event in this.told_of(events.Connecting)] == [
            uris[0],
            uris[1],
            uris[1],
            uris[0],
        ]


@pytest_twisted.ensureDeferred
async def test_uri_that_refuses_for_good_is_left_out_while_there_is_another() -> None:
    async with RawServer() as one, RawServer() as two:
        uris = [f"ws://127.0.0.1:{server.port}/" for server in (one, two)]
        this = Client(0, uri=uris)
        this.service.startService()
        await refuse(one, "404 No")
        await this.until_waiting()
        (waiting,) = this.told_of(events.Waiting)
        assert waiting.why == "HandshakeRefused with status 404 is not retried, but another URI is"
        for _ in range(2):
            this.clock.advance(8)
            await refuse(two, "503 Later")
            await this.until_waiting()
        this.clock.advance(8)
        await refuse(two, "404 No")
        await this.until(lambda: this.service.doing is Doing.GAVE_UP)
        assert [event.uri for event in this.told_of(events.Failed)] == [uris[0], *[uris[1]] * 3]
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_server_that_accepts_and_drops_gives_the_next_uri_its_turn() -> None:
    async with RawServer() as one, RawServer() as two:
        this = Client(0, uri=[f"ws://127.0.0.1:{server.port}/" for server in (one, two)])
        this.service.startService()
        raw = await accept_raw(one)
        await this.until(lambda: this.service.connection)
        await raw.drop()
        await this.until_waiting()
        this.clock.advance(8)
        raw = await accept_raw(two)
        await this.until(lambda: this.service.connection)
        await raw.drop()
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_what_follows_from_a_failure_is_told_of_the_uri_that_failed(logged: Any) -> None:
    async with RawServer() as first, RawServer() as second:
        uris = [f"ws://127.0.0.1:{server.port}/" for server in (first, second)]
        async with client(0, uri=uris) as this:
            await refuse(first, "404 No")
            this.clock.advance(await this.until_waiting())
            await refuse(second, "403 No")
            await this.until(lambda: this.service.doing is Doing.GAVE_UP)
        assert [event.uri for event in this.told[1:]] == [uris[0]] * 3 + [uris[1]] * 4
        assert f"Not connected to {uris[0]}: " in logged()
        assert f"Given up {uris[1]}: " in logged()


@pytest_twisted.ensureDeferred
async def test_failure_of_the_hook_has_nothing_of_the_connection_before() -> None:
    calls: list[Attempt] = []

    def broken_later(attempt: Attempt) -> None:
        calls.append(attempt)
        if attempt.number > 1:
            raise OSError("token server is down")

    async with RawServer() as server, client(server, before_attempt=broken_later) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        await raw.drop()
        this.clock.advance(await this.until_waiting())
        await this.until_waiting()
        assert this.told_of(events.Opened)[0].phases
        assert this.told_of(events.Failed)[0].phases == ()


@pytest_twisted.ensureDeferred
async def test_client_that_is_started_again_has_failed_at_nothing() -> None:
    attempts: list[Attempt] = []
    async with client(free_port(), before_attempt=attempts.append) as this:
        await this.until_waiting(0.3)
        assert this.service.last_failure is not None
        await this.stop()
        assert this.service.last_failure is not None
        this.service.startService()
        await this.until(lambda: len(attempts) == 2)
        assert (attempts[1].number, attempts[1].failure, attempts[1].failures) == (1, None, 0)


@pytest.mark.parametrize("end", ["stopped", "given up"])
@pytest_twisted.ensureDeferred
async def test_who_waited_for_a_connection_may_start_the_client_again(end: str) -> None:
    async with RawServer() as server:
        this = Client(server.port)
        opened: list[Any] = []

        def restart(failure: Any) -> None:
            this.service.startService()
            opened.append(this.service.when_open())

        this.service.when_open().addErrback(restart)
        this.service.startService()
        if end == "stopped":
            raw = await server.accepted()
            await raw.read_head()
            this.service.stopService()
        else:
            await refuse(server)
        await this.until(lambda: opened)
        raw = await accept_raw(server)
        await this.until(lambda: opened[0].called)
        assert this.service.connection is await opened[0]
        assert this.service.running
        assert this.story.count("Started") == 2
        await raw.drop()
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_who_is_behind_one_that_closes_waits_for_the_next() -> None:
    async with RawServer() as server, client(server) as this:

        def close(connection: Connection) -> None:
            connection.close()

        this.service.when_open().addCallback(close)
        second, third = this.service.when_open(), this.service.when_open()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        await raw.read_close()
        raw.finish()
        this.clock.advance(await this.until_waiting())
        assert not second.called
        third.cancel()
        with pytest.raises(defer.CancelledError):
            await third
        raw = await accept_raw(server)
        await this.until(lambda: second.called)
        assert (await second) is this.service.connection
        await raw.drop()
        await this.until_waiting()


def test_no_uri_is_an_error() -> None:
    with pytest.raises(ValueError, match="a client needs a URI"):
        Client(0, uri=[])


@pytest.mark.parametrize(
    "arguments",
    [{"header": {}}, {"reconnect": RETRIES}],
)
def test_argument_of_no_such_name_is_an_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(arguments))):
        Client(0, **arguments)


@pytest.mark.parametrize("uri", [None, {"ws://127.0.0.1/"}, 5])
def test_what_is_no_uri_and_no_list_is_an_error(uri: Any) -> None:
    with pytest.raises(TypeError, match="uri is a URI or a list of them"):
        Client(0, uri=uri)


@pytest.mark.parametrize("name", ["before_attempt", "on_open", "service_options"])
def test_hook_that_is_no_function_is_an_error_at_once(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is a .*not int"):
        Client(0, **{name: 5})


def test_handler_that_is_no_function_is_an_error_at_once() -> None:
    handler: Any = None
    with pytest.raises(TypeError, match="handler is a function, not NoneType"):
        WebSocketClientService("ws://127.0.0.1/", handler)


def test_arguments_are_those_of_connect() -> None:
    """The names are listed twice, for type checkers; that they agree is tested."""
    listed = set(ConnectArguments.__annotations__)
    taken = set(opening_module.connect.__annotations__) - {"reactor", "return"}
    assert listed == taken


# ---------------------------------------------------------------- the hook after the opening


@pytest_twisted.ensureDeferred
async def test_reopen_hook_runs_before_the_handler_and_who_waits_have_the_connection() -> None:
    order: list[str] = []
    ready: defer.Deferred[None] = defer.Deferred()

    async def subscribe(connection: Connection) -> None:
        order.append("hook")
        await connection.send("subscribe")
        await ready
        order.append("hook done")

    async def handler(connection: Connection) -> None:
        order.append("handler")
        await connection.when_closed()

    async with RawServer() as server, client(server, handler, on_open=subscribe) as this:
        opened = this.service.when_open()
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"subscribe")
        await turns(3)
        assert this.service.doing is Doing.RESUMING
        assert this.service.connection is None
        assert not opened.called
        ready.callback(None)
        await this.until(lambda: opened.called)
        assert order == ["hook", "hook done", "handler"]
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_reopen_hook_that_raises_closes_and_is_judged() -> None:
    async def broken(connection: Connection) -> None:
        raise OSError("no such channel")

    async with RawServer() as server, client(server, on_open=broken) as this:
        raw = await accept_raw(server)
        assert (await raw.read_close())[0] == 1011
        raw.write(close_frame(1011, masked=False))
        raw.finish()
        assert await this.until_waiting() == 1.0
        closed = this.told_of(events.Closed)[0]
        assert str(closed.cause) == "no such channel"
        assert this.service.last_failure is closed.cause
        assert this.handled == []


@pytest_twisted.ensureDeferred
async def test_end_of_the_connection_cancels_the_reopen_hook() -> None:
    cancelled: list[bool] = []

    def hang(_: object) -> defer.Deferred[None]:
        return defer.Deferred(lambda _: cancelled.append(True))

    async with RawServer() as server, client(server, on_open=hang) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.doing is Doing.RESUMING)
        await raw.drop()
        await this.until_waiting()
        assert cancelled == [True]
        assert isinstance(this.service.last_failure, ConnectionClosed)


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("code", "table", "gives_up"),
    [
        (1000, {}, False),
        (1008, {}, True),
        (1008, {1008: RETRY}, False),
        (4001, {}, False),
        (4001, {4001: GIVE_UP}, True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_close_code_decides_by_the_table(
    code: int, table: dict[int, Any], gives_up: bool
) -> None:
    async with RawServer() as server, client(server, retry=policy(close_codes=table)) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.write(close_frame(code, masked=False))
        await raw.read_close()
        raw.finish()
        await this.until(lambda: this.service.doing in (Doing.WAITING, Doing.GAVE_UP))
        assert (this.service.doing is Doing.GAVE_UP) == gives_up
