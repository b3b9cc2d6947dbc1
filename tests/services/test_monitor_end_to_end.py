"""Monitor, agent, a real proxy between them, and a dashboard; and each of them killed in turn.

Everything is a process of its own but the dashboard. The agent knows its way through the proxy
alone; the proxy's log says that it took it.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest_twisted
from integration.peers import free_port, program
from integration.proxies import ENCODED, PASSWORD, USER
from integration.raw import connect_raw, turns, within
from twisted.internet import defer

from wsframe.client import WebSocketClientService
from wsframe.connection import Connection
from wsframe.monitor.station import FEED
from wsframe.options import RetryPolicy

from .processes import TOKEN, Listening, Process, service, token_file

BOUND = 10.0
"""Seconds within which everything is back, from when what was killed runs again."""


class Dashboard:
    """A dashboard that comes back; `messages` is the feed, `states` counts its beginnings."""

    def __init__(self, url: str, token: str) -> None:
        self.queue: defer.DeferredQueue[dict[str, Any]] = defer.DeferredQueue()
        self.service = WebSocketClientService(
            url,
            self._watch,
            headers={"X-Monitor-Token": token},
            subprotocols=[FEED],
            retry=RetryPolicy(first_delay=0.1, max_delay=0.5),
        )

    async def _watch(self, connection: Connection) -> None:
        async for message in connection:
            self.queue.put(json.loads(message))

    async def next(self, kind: str, seconds: float = 30) -> dict[str, Any]:
        """Return the next message of that type."""
        while True:
            message: dict[str, Any] = await within(self.queue.get(), seconds)
            if message["type"] == kind:
                return message

    def forget(self) -> None:
        """Throw away what has come so far."""
        self.queue.pending.clear()


class World:
    """The whole set-up."""

    def __init__(self, directory: Path, **agent_options: Any) -> None:
        self.directory = directory
        self.tokens = token_file(directory, web1=TOKEN, watcher=TOKEN + ".2")
        self.monitor = Listening("ws-monitor", "--token-file", self.tokens, "--client-timeout", "3")
        self.proxy_port = free_port()
        self.config = directory / "tinyproxy.conf"
        self.config.write_text(
            f"Port {self.proxy_port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\n"
            f"BasicAuth {USER} {PASSWORD}\nLogLevel Connect\n"
        )
        self.credentials = directory / "credentials"
        self.credentials.write_text(f"{USER}:{PASSWORD}\n")
        self.credentials.chmod(0o600)
        self.processes: list[Process] = [self.monitor.process]
        self.dashboard = Dashboard(self.monitor.url("/feed"), TOKEN + ".2")

    async def start_proxy(self) -> None:
        self.proxy = Process(program("tinyproxy"), "-d", "-c", str(self.config))
        self.processes.append(self.proxy)
        while True:
            try:
                raw = await connect_raw(self.proxy_port)
            except Exception:  # noqa: BLE001 - it is not there yet
                assert self.proxy.status is None, self.proxy.output
                await turns(5)
            else:
                await raw.drop()
                return

    def start_agent(self) -> None:
        self.agent = service(
            "ws-agent",
            *("--server", self.monitor.url("/agent")),
            *("--token-file", self.tokens),
            *("--name", "web1"),
            *("--interval", "0.2"),
            *("--proxy", f"http://127.0.0.1:{self.proxy_port}"),
            *("--proxy-auth-file", str(self.credentials)),
        )
        self.processes.append(self.agent)

    async def start(self) -> None:
        await self.monitor.ready()
        await self.start_proxy()
        self.start_agent()
        self.dashboard.service.startService()

    async def reports_within(self, seconds: float, what: str, began: float) -> float:
        """Wait for a report of the agent; return how long it took, and say so."""
        message = await self.dashboard.next("report")
        took = time.monotonic() - began
        assert (message["agent"]["name"], message["agent"]["status"]) == ("web1", "online")
        print(f"{what}: reports again after {took:.2f} s")
        assert took < seconds, f"{what}: reports again after {took:.2f} s, not within {seconds} s"
        return took

    async def stop(self) -> None:
        await within(self.dashboard.service.stopService())
        for process in (*self.processes, self.monitor.process):
            await process.kill()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    program("tinyproxy")
    this = World(directory)
    try:
        await this.start()
        yield this
    finally:
        await this.stop()


def near(given: float, expected: float, part: float) -> bool:
    return abs(given - expected) <= part * max(expected, 1)


@pytest_twisted.ensureDeferred
async def test_real_figures_come_through_the_proxy(tmp_path: Path) -> None:
    async with world(tmp_path) as this:
        await this.dashboard.next("state")
        message = await this.dashboard.next("report")
        shown = message["agent"]
        figures = shown["report"]
        assert (shown["name"], shown["principal"]) == ("web1", "web1")
        memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
        assert figures["memory_total"] == memory.total
        assert near(figures["memory_used"], memory.used, 0.5)
        assert near(figures["memory_available"], memory.available, 0.5)
        assert figures["disk_total"] == disk.total
        assert near(figures["disk_used"], disk.used, 0.2)
        assert figures["cpu_count"] == len(figures["per_cpu"]) == psutil.cpu_count()
        assert near(figures["load"][0], psutil.getloadavg()[0], 1)
        assert near(figures["processes"], len(psutil.pids()), 0.5)
        assert abs(figures["uptime"] - (time.time() - psutil.boot_time())) < 60
        assert abs(figures["time"] - time.time()) < 60
        assert figures["interval"] == 0.2
        # They are taken anew each time.
        later = [(await this.dashboard.next("report"))["agent"]["report"] for _ in range(3)]
        assert figures["time"] < later[0]["time"] < later[1]["time"] < later[2]["time"]
        # The way was through the proxy: it has been asked, and the monitor sees its connection.
        await this.proxy.says(rf"CONNECT 127\.0\.0\.1:{this.monitor.port} HTTP/1\.1")
        peer = int(shown["peer"].rpartition(":")[2])
        connections = psutil.Process(this.proxy.pid).net_connections()
        assert peer in {one.laddr.port for one in connections}
        agents = psutil.Process(this.agent.pid).net_connections()
        assert {one.raddr.port for one in agents if one.raddr} == {this.proxy_port}
        output = this.agent.output + this.monitor.process.output + this.proxy.output
        for secret in (TOKEN, PASSWORD, ENCODED):
            assert secret not in output


@pytest_twisted.ensureDeferred
async def test_all_is_back_within_ten_seconds_whoever_is_killed(tmp_path: Path) -> None:
    async with world(tmp_path) as this:
        await this.dashboard.next("report")

        await this.monitor.process.kill()
        await this.agent.says("Not connected to .*Next attempt")
        this.dashboard.forget()
        await this.monitor.restart()
        began = time.monotonic()
        # The new one knows nobody yet, and says so first.
        assert (await this.dashboard.next("state"))["type"] == "state"
        await this.reports_within(BOUND, "monitor killed and restarted", began)

        said = this.agent.output.count("Not connected to")
        await this.proxy.kill()
        gone = (await this.dashboard.next("gone"))["agent"]
        assert gone["name"] == "web1"
        await this.agent.says(rf"(?s)(.*Not connected to){{{said + 1}}}")
        await this.start_proxy()
        began = time.monotonic()
        await this.reports_within(BOUND, "proxy killed and restarted", began)

        await this.agent.kill()
        gone = (await this.dashboard.next("gone"))["agent"]
        assert gone["status"] == "gone"
        began = time.monotonic()
        this.start_agent()
        await this.reports_within(BOUND, "agent killed and restarted", began)


@pytest_twisted.ensureDeferred
async def test_an_agent_that_is_stopped_is_gone_and_comes_back(tmp_path: Path) -> None:
    """Its machine is suspended: TCP stays, and nothing comes."""
    import signal

    async with world(tmp_path) as this:
        await this.dashboard.next("report")
        began = time.monotonic()
        this.agent.signal(signal.SIGSTOP)
        gone = (await this.dashboard.next("gone"))["agent"]
        assert gone["reason"] == "silent for 3 s"
        assert 2 < time.monotonic() - began < BOUND
        this.dashboard.forget()
        began = time.monotonic()
        this.agent.signal(signal.SIGCONT)
        await this.reports_within(BOUND, "agent suspended and woken", began)
        assert "code 1001: 'silent for 3 s'" in this.agent.output


@pytest_twisted.ensureDeferred
async def test_the_agent_says_why_it_is_not_connected(tmp_path: Path) -> None:
    async with world(tmp_path) as this:
        await this.dashboard.next("report")
        attempts = {
            "answered 401 Unauthorized": ("--token-file", wrong_tokens(tmp_path)),
            "407": ("--proxy", f"http://127.0.0.1:{this.proxy_port}"),
            "refused": ("--proxy", f"http://127.0.0.1:{free_port()}"),
        }
        url = this.monitor.url("/agent")
        # All at once: each of them is on its own.
        processes = {
            text: service("ws-agent", "--server", url, *arguments)
            for text, arguments in attempts.items()
        }
        this.processes += processes.values()
        for text, process in processes.items():
            await process.says(f"Not connected to {url}: .*{text}.*Next attempt in")


def wrong_tokens(directory: Path) -> str:
    path = directory / "wrong"
    path.write_text("all:wrong.token.0123456789\n")
    path.chmod(0o600)
    return str(path)
