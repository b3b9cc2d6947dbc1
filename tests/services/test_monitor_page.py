"""The live page in a real browser: the table, the token, and what happens when the monitor goes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_twisted
from integration.browser import Browser, browsing, serve_page
from integration.peers import free_port
from integration.raw import RawServer

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.monitor.report import Report, encode_json

from .processes import TOKEN, Listening, running, token_file
from .test_monitor import report

ROW = "document.querySelector('[data-agent=\"web1\"]')"
FORM = "!document.getElementById('token-form').hidden"
STATE = "document.body.dataset.state"


async def shown(browser: Browser, field: str) -> str:
    """Return what the agent's row has in that field."""
    return str(
        await browser.evaluate(f"{ROW}.querySelector('[data-text=\"{field}\"]').textContent")
    )


@asynccontextmanager
async def agent(monitor: Listening, token: str | None = None) -> AsyncIterator[Connection]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with connect(monitor.url("/agent"), headers=headers) as connection:
        yield connection


def figures(cpu: float) -> str:
    given: Report = report("web1", cpu_percent=cpu, hostname="host.example", processes=1234)
    return encode_json(given)


@pytest_twisted.ensureDeferred
async def test_the_table_is_live_and_survives_a_restart(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser, running("ws-monitor") as monitor:
        page = f"http://127.0.0.1:{monitor.port}/"
        await browser.open(page)
        await browser.wait(f"{STATE} === 'live'")
        assert await browser.evaluate("document.getElementById('table').hidden")
        assert not await browser.evaluate(FORM)
        async with agent(monitor) as connection:
            await connection.send(figures(12.3))
            await browser.wait(f"{ROW} && {ROW}.dataset.status === 'online'")
            assert await shown(browser, "cpu") == "12.3 %"
            assert await shown(browser, "host") == "host.example"
            assert await shown(browser, "processes") == "1,234"
            await connection.send(figures(45.6))
            await browser.wait(f"{ROW}.textContent.includes('45.6 %')")
        await browser.wait(f"{ROW}.dataset.status === 'gone'")
        assert await browser.problems() == []
        # One that looks right, too: see it with `--basetemp`.
        path = tmp_path / "page.png"
        async with agent(monitor) as connection:
            await connection.send(figures(78.9))
            await browser.wait(f"{ROW}.textContent.includes('78.9 %')")
            await browser("screenshot", path=str(path), width=1400, height=500)
        assert path.stat().st_size > 10_000

        await monitor.process.kill()
        await browser.wait(f"{STATE} === 'waiting'")
        await monitor.restart()
        began = time.monotonic()
        await browser.wait(f"{STATE} === 'live'")
        took = time.monotonic() - began
        print(f"the page was live again after {took:.2f} s")
        assert took < 10, f"the page was live again after {took:.2f} s"
        # The new monitor knows no agents: the row is gone.
        await browser.wait(f"!{ROW}")
        async with agent(monitor) as connection:
            await connection.send(figures(1.5))
            await browser.wait(f"{ROW} && {ROW}.textContent.includes('1.5 %')")
        refused = f"WebSocket connection to 'ws://127.0.0.1:{monitor.port}/feed' failed"
        assert await browser.problems(refused) == []


@pytest_twisted.ensureDeferred
async def test_the_token_comes_by_fragment_or_by_the_form(tmp_path: Path) -> None:
    tokens = token_file(tmp_path)
    async with browsing(tmp_path) as browser, running("ws-monitor", "--token-file", tokens) as this:
        page = f"http://127.0.0.1:{this.port}/"
        async with agent(this, TOKEN) as connection:
            await connection.send(figures(12.3))
            await browser.open(f"{page}#token={TOKEN}")
            await browser.wait(f"{STATE} === 'live' && {ROW}")
            # It is nowhere to be seen.
            assert await browser.evaluate("location.href") == page
            assert await browser.evaluate("history.length") <= 2
            shown = await browser.evaluate("document.documentElement.outerHTML")
            assert TOKEN not in shown
            assert await browser.problems() == []

            # Another tab knows nothing of it, and asks.
            await browser.open(page)
            await browser.wait(FORM)
            assert await browser.evaluate(f"{ROW}") is None
            assert await browser.evaluate(STATE) != "live"
            await browser("fill", selector="#token", text="wrong.token")
            await browser("press", selector="#token", key="Enter")
            await browser.wait(f"!({FORM})")
            await browser.wait(FORM)
            await browser("fill", selector="#token", text=TOKEN)
            await browser("press", selector="#token", key="Enter")
            await browser.wait(f"{STATE} === 'live' && {ROW}")
            assert not await browser.evaluate(FORM)
            assert await browser.evaluate("location.href") == page
            assert await browser.problems("HTTP Authentication failed") == []
        assert TOKEN not in this.process.output


EVIL = """<!doctype html><title>elsewhere</title><link rel="icon" href="data:,">"""
CONNECT = """new Promise((resolve) => {
  const socket = new WebSocket(%s, ["wsframe.feed"]);
  socket.onopen = () => resolve("open");
  socket.onclose = (event) => resolve(`closed ${event.code}`);
})"""

BLOCKED = """new Promise((resolve) => {
  addEventListener("securitypolicyviolation", (event) => resolve(event.violatedDirective));
  try { new WebSocket(%s); } catch { /* the event says it */ }
})"""


@pytest_twisted.ensureDeferred
async def test_a_page_from_elsewhere_cannot_connect(tmp_path: Path) -> None:
    """Neither one of another port, nor one that reached us by a name that is not ours."""
    async with browsing(tmp_path) as browser, running("ws-monitor") as monitor:
        async with RawServer(serve_page(EVIL)) as elsewhere:
            await browser.open(f"http://127.0.0.1:{elsewhere.port}/")
            for path in ("/feed", "/agent"):
                script = CONNECT % json.dumps(monitor.url(path))
                assert await browser.evaluate(script) == "closed 1006"
            refusals = [one for one in await browser.problems() if "403" in one]
            assert len(refusals) == 2
            assert all("Unexpected response code: 403" in one for one in refusals)
        # The same script where it may: it is not the script that fails.
        await browser.open(f"http://127.0.0.1:{monitor.port}/")
        assert await browser.evaluate(CONNECT % json.dumps(monitor.url("/feed"))) == "open"
        # And the page's own policy keeps it at home.
        other = f"ws://127.0.0.1:{free_port()}/"
        assert await browser.evaluate(BLOCKED % json.dumps(other)) == "connect-src"
        assert any("CSP: connect-src" in one for one in await browser.problems())
