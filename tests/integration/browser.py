"""A real browser: headless Chromium, driven through `browser.mjs`; and pages for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .peers import HERE, NODE_MODULES, Peer, missing, program
from .raw import Raw, Script


class Browser:
    """A Chromium of the test's own, without a window."""

    def __init__(self, directory: Path) -> None:
        node, chromium = program("node"), chromium_path()
        if not (NODE_MODULES / "playwright-core").is_dir():
            missing("the Node packages: npm ci --ignore-scripts, in tests/peers")
        self._do = Peer(node, str(HERE / "browser.mjs"))
        self._launch = {"executable": chromium, "directory": str(directory)}

    async def launch(self) -> None:
        await self._do("launch", **self._launch)

    async def open(self, url: str) -> None:
        assert (await self._do("open", url=url))["status"] == 200

    async def wait(self, script: str, seconds: float = 25) -> Any:
        """Wait until the expression is true; return what it is."""
        return (await self._do("wait", script=script, seconds=seconds))["value"]

    async def evaluate(self, script: str) -> Any:
        return (await self._do("evaluate", script=script))["value"]

    async def problems(self, *expected: str) -> list[str]:
        """Return what the console complains about, except for lines with an expected text."""
        problems = (await self._do("problems"))["problems"]
        return [one for one in problems if not any(text in one for text in expected)]

    async def __call__(self, command: str, **arguments: Any) -> Any:
        return await self._do(command, **arguments)

    async def close(self) -> None:
        try:
            await self._do("close")
        finally:
            await self._do.stop()  # a browser whose driver is gone ends by itself


def chromium_path() -> str:
    if os.access("/usr/bin/chromium", os.X_OK):
        return "/usr/bin/chromium"
    return program("chromium")


@asynccontextmanager
async def browsing(directory: Path) -> AsyncIterator[Browser]:
    browser = Browser(directory / "profile")
    try:
        await browser.launch()
        yield browser
    finally:
        await browser.close()


def serve_page(page: str) -> Script:
    """Return a script for a `RawServer` that answers every request with that page."""

    async def answer(raw: Raw) -> None:
        await raw.read_head()
        body = page.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n"
        raw.write(head.encode() + body)
        raw.finish()

    return answer
