"""The monitor in this process: who may report what, what a dashboard is sent, who is gone when."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from integration.raw import eventually, turns, within
from twisted.internet.task import Clock
from twisted.python.runtime import seconds as wall_seconds

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosed, HandshakeRefused
from wsframe.monitor.report import MAX_REPORT, Report, encode_binary, encode_json
from wsframe.monitor.sampler import Sampler
from wsframe.monitor.station import FEED, Station
from wsframe.services import monitor

from .processes import TOKEN, token_file

Logged = Callable[[], str]
ENCODINGS = [encode_json, encode_binary]


def report(name: str = "web1", **changes: Any) -> Report:
    return replace(Sampler(name, 1.0).sample(), **changes)


class Monitor:
    """A monitor that listens."""

    def __init__(self, *arguments: str) -> None:
        options = monitor.Options()
        options.parseOptions(["--listen", "tcp:0:interface=127.0.0.1", *arguments])
        self.service = monitor.MonitorService(options)
        self.service.startService()
        assert self.service.server is not None
        self.port: int = self.service.server.addresses[0].port  # type: ignore[attr-defined]

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def agent(self, token: str | None = None, **arguments: Any) -> Any:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return connect(self.url("/agent"), **{"headers": headers, **arguments})

    def dashboard(self, **arguments: Any) -> Any:
        return connect(self.url("/feed"), **{"subprotocols": [FEED], **arguments})


@asynccontextmanager
async def monitoring(*arguments: str) -> AsyncIterator[Monitor]:
    this = Monitor(*arguments)
    try:
        yield this
    finally:
        await within(this.service.stopService())


async def told(dashboard: Connection, kind: str, seconds: float = 5) -> dict[str, Any]:
    """Return the next message of the feed, which is of that type."""
    message = json.loads(await within(dashboard.recv(), seconds))
    assert message["type"] == kind, message
    return dict(message)


async def ending(connection: Connection) -> tuple[int, str]:
    """Wait for the end of a connection; return the code and reason."""
    try:
        while True:
            await within(connection.recv())
    except ConnectionClosed as error:
        return error.code, error.reason


# ---------------------------------------------------------------- reports


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest_twisted.ensureDeferred
async def test_a_report_goes_to_every_dashboard(encode: Any) -> None:
    async with (
        monitoring() as this,
        this.dashboard() as one,
        this.dashboard() as other,
        this.agent() as agent,
    ):
        assert one.subprotocol == FEED
        for dashboard in (one, other):
            assert (await told(dashboard, "state"))["agents"] == []
        for cpu in (1.5, 99.0):
            sent = report(cpu_percent=cpu)
            await agent.send(encode(sent))
            for dashboard in (one, other):
                shown = (await told(dashboard, "report"))["agent"]
                assert shown["report"] == json.loads(encode_json(sent))
                assert (shown["name"], shown["status"]) == ("web1", "online")
                assert shown["principal"] is None


@pytest_twisted.ensureDeferred
async def test_a_new_dashboard_first_gets_the_state() -> None:
    async with (
        monitoring() as this,
        this.agent() as first,
        this.agent() as second,
        this.dashboard() as old,
    ):
        await told(old, "state")
        await first.send(encode_json(report("web1")))
        await second.send(encode_binary(report("web2")))
        await told(old, "report")
        await told(old, "report")
        await second.close()
        await told(old, "gone")
        async with this.dashboard() as new:
            state = await told(new, "state")
            assert [(one["name"], one["status"]) for one in state["agents"]] == [
                ("web1", "online"),
                ("web2", "gone"),
            ]
            assert abs(state["now"] - time.time()) < 60
            await first.send(encode_json(report("web1")))
            await told(new, "report")


@pytest.mark.parametrize(
    "message",
    ["", "{}", "[1]", "x", "\ud7ff", '{"name": "web1"}', b"", b"\x01", b"\x02abc", b"\xff" * 99],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_report_is_closed_with_1007(message: str | bytes, logged: Logged) -> None:
    async with monitoring() as this:
        async with this.dashboard() as dashboard, this.agent() as agent:
            await told(dashboard, "state")
            await agent.send(encode_json(report()))
            await told(dashboard, "report")
            await agent.send(message)
            assert await ending(agent) == (1007, "invalid report")
            gone = (await told(dashboard, "gone"))["agent"]
            assert gone["reason"] == "it sent an invalid report"
        assert "Invalid report from 'tcp4:127.0.0.1:" in logged()
        # Nobody else suffers.
        async with this.agent() as agent, this.dashboard() as dashboard:
            await told(dashboard, "state")
            await agent.send(encode_json(report()))
            assert (await told(dashboard, "report"))["agent"]["status"] == "online"


@pytest_twisted.ensureDeferred
async def test_a_report_that_is_too_large_is_closed() -> None:
    async with monitoring() as this, this.agent() as agent:
        await agent.send(" " * (MAX_REPORT + 1))
        assert (await ending(agent))[0] in {1007, 1009}


@pytest_twisted.ensureDeferred
async def test_a_name_belongs_to_its_principal(tmp_path: Any, logged: Logged) -> None:
    other = TOKEN + ".other"
    tokens = token_file(tmp_path, anna=TOKEN, bert=other)
    async with monitoring("--token-file", tokens) as this:
        headers = {"X-Monitor-Token": TOKEN}
        async with (
            this.dashboard(headers=headers) as dashboard,
            this.agent(TOKEN) as first,
            this.agent(other) as thief,
        ):
            await told(dashboard, "state")
            await first.send(encode_json(report()))
            assert (await told(dashboard, "report"))["agent"]["principal"] == "anna"
            await thief.send(encode_json(report()))
            code, reason = await ending(thief)
            assert code == 1008
            assert "taken" in reason
            # The first does not notice.
            await first.send(encode_json(report()))
            assert (await told(dashboard, "report"))["agent"]["principal"] == "anna"
            # The principal itself may come back before anyone has noticed that it was gone.
            async with this.agent(TOKEN) as again:
                await again.send(encode_json(report()))
                assert (await told(dashboard, "report"))["agent"]["status"] == "online"
                assert (await ending(first))[0] == 1001
                await again.send(encode_json(report()))
                assert (await told(dashboard, "report"))["agent"]["status"] == "online"
        assert "Refused 'tcp4:127.0.0.1:" in logged()


@pytest_twisted.ensureDeferred
async def test_an_agent_keeps_its_name() -> None:
    async with monitoring() as this, this.agent() as agent:
        await agent.send(encode_json(report("web1")))
        await agent.send(encode_json(report("web2")))
        assert (await ending(agent))[0] == 1008


@pytest.mark.parametrize("path", ["/agent", "/feed"])
@pytest_twisted.ensureDeferred
async def test_agents_and_dashboards_need_a_token_where_there_are_tokens(
    path: str, tmp_path: Any
) -> None:
    async with monitoring("--token-file", token_file(tmp_path)) as this:
        for headers in ({}, {"Authorization": "Bearer x"}, {"X-Monitor-Token": TOKEN[:-1]}):
            with pytest.raises(HandshakeRefused, match="401"):
                await connect(this.url(path), headers=headers)
        for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"X-Monitor-Token": TOKEN}):
            async with connect(this.url(path), headers=headers) as connection:
                assert connection.state.value == "open"


@pytest_twisted.ensureDeferred
async def test_there_is_no_websocket_at_the_page() -> None:
    async with monitoring() as this, connect(this.url("/")) as connection:
        assert (await ending(connection))[0] == 1008


@pytest_twisted.ensureDeferred
async def test_a_dashboard_has_nothing_to_say_and_may_come_and_go(logged: Logged) -> None:
    async with monitoring() as this:
        async with this.agent() as agent:
            for _ in range(5):
                dashboard = await this.dashboard()
                await dashboard.send("what?")
                dashboard.abort()
            await agent.send(encode_json(report()))
            async with this.dashboard() as last:
                assert (await told(last, "state"))["agents"] != []
        await eventually(lambda: not this.service._station._dashboards)
        assert "Error" not in logged()


@pytest_twisted.ensureDeferred
async def test_a_dashboard_that_leaves_as_it_comes_is_no_error(logged: Logged) -> None:
    """It is gone before it could be sent the state."""
    from integration.raw import close_frame, connect_raw, upgrade

    async with monitoring() as this:
        for _ in range(3):
            raw = await connect_raw(this.port)
            raw.write(upgrade(path="/feed") + close_frame(1000))
            await raw.read_all()
        await turns(3)
    assert "Error" not in logged()


# ---------------------------------------------------------------- silence


@pytest_twisted.ensureDeferred
async def test_a_silent_agent_is_closed_with_1001_and_gone() -> None:
    async with (
        monitoring("--client-timeout", "0.4") as this,
        this.dashboard() as dashboard,
        this.agent() as silent,
        this.agent() as other,
    ):
        await told(dashboard, "state")
        await silent.send(encode_json(report("silent")))
        await told(dashboard, "report")
        began = time.monotonic()
        while True:
            # Whoever reports is not silent.
            await other.send(encode_binary(report("other")))
            message = json.loads(await within(dashboard.recv()))
            if message["type"] == "gone":
                break
            assert message["agent"]["name"] == "other"
        assert time.monotonic() - began >= 0.3
        assert (message["agent"]["name"], message["agent"]["status"]) == ("silent", "gone")
        assert message["agent"]["reason"] == "silent for 0.4 s"
        assert await ending(silent) == (1001, "silent for 0.4 s")
        # It may come back.
        async with this.agent() as again:
            await again.send(encode_json(report("silent")))
            while (message := json.loads(await within(dashboard.recv())))["type"] != "report":
                pass
            assert message["agent"]["status"] == "online"


@pytest_twisted.ensureDeferred
async def test_an_agent_that_never_reports_is_closed_too() -> None:
    async with monitoring("--client-timeout", "0.2") as this, this.agent() as agent:
        assert await ending(agent) == (1001, "silent for 0.2 s")


class _Quiet:
    """A connection that says nothing, for a station of the test's own."""

    def __init__(self, key: str) -> None:
        from twisted.internet.defer import Deferred

        self.id = key
        self.peer = "tcp4:127.0.0.1:1"
        self.principal = None
        self.closed: list[tuple[int, str]] = []
        self._messages: list[str] = []
        self._waiting: Deferred[None] = Deferred()

    def say(self, message: str) -> None:
        from twisted.internet.defer import Deferred

        self._messages.append(message)
        waiting, self._waiting = self._waiting, Deferred()
        waiting.callback(None)

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def __aiter__(self) -> _Quiet:
        return self

    async def __anext__(self) -> str:
        await self._waiting
        return self._messages.pop(0)


def test_a_step_of_the_system_clock_makes_nobody_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour forward or back: only time that has passed counts."""
    from twisted.internet import defer

    wall, monotonic = [1_700_000_000.0], [1000.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "monotonic", lambda: monotonic[0])

    class Reactor(Clock):
        seconds = staticmethod(wall_seconds)  # type: ignore[assignment]

    station = Station(30, Reactor())
    quiet: Any = _Quiet("1")
    defer.ensureDeferred(station.agent(quiet))
    quiet.say(encode_json(report()))
    for step in (3600, -7200, 86400 * 365):
        wall[0] += step
        monotonic[0] += 1
        station._find_silent()
        assert quiet.closed == []
        assert abs(station._now() - 1_700_000_000.0) < 10
    monotonic[0] += 26.9
    station._find_silent()
    assert quiet.closed == []
    monotonic[0] += 0.2
    station._find_silent()
    assert quiet.closed == [(1001, "silent for 30 s")]


def test_the_look_out_begins_and_ends_with_the_service() -> None:
    clock = Clock()
    station = Station(30, clock)
    station.stop()
    for _ in range(2):
        station.start()
        assert [round(call.getTime() - clock.seconds(), 6) for call in clock.calls] == [1.0]
        station.stop()
        assert clock.calls == []


# ---------------------------------------------------------------- the agent's own manners


@pytest_twisted.ensureDeferred
async def test_the_agent_reports_at_its_interval_whatever_it_is_told() -> None:
    """A server that answers every report must not make it send the next at once."""
    from integration.raw import RawServer, accept_raw, close_frame, frame

    from wsframe.services import agent

    async with RawServer() as server:
        options = agent.Options()
        options.parseOptions(
            ["--server", f"ws://127.0.0.1:{server.port}/", "--interval", "0.3", "--name", "web1"]
        )
        service = agent.AgentService(options)
        service.startService()
        raw = await accept_raw(server)
        times = []
        for _ in range(3):
            assert (await raw.read_frame())[0] == 2
            times.append(time.monotonic())
            raw.write(frame(1, b"hello", masked=False) * 3)
        assert times[2] - times[0] >= 0.5
        stopping = service.stopService()
        assert (await raw.read_close())[0] == 1000
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await within(stopping)
