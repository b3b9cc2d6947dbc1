"""The code on the page about staying connected is run, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port
from integration.raw import RawServer, accept_raw, eventually, header, switching, within
from twisted.internet import defer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "staying-connected.md").read_text()


def block(mark: str, **ports: int) -> str:
    """Return the only block with that in it, for ports of the test's own."""
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.S) if mark in text]
    for port, own in ports.items():
        found = found.replace(port.removeprefix("p"), str(own))
    return found


class Tokens:
    """What the page leaves to the reader."""

    def __init__(self) -> None:
        self.current = 1

    async def get(self, *, fresh: bool) -> str:
        self.current += fresh
        return f"token{self.current}"


@pytest_twisted.ensureDeferred
async def test_service_with_hooks_and_its_events(capsys: pytest.CaptureFixture[str]) -> None:
    async with RawServer() as second:
        names: dict[str, Any] = {"tokens": Tokens()}
        exec(block("before_attempt=authorize", p8765=free_port(), p8766=second.port), names)  # noqa: S102
        exec(block("def watch"), names)  # noqa: S102
        service = names["service"]
        service.send("what waits")
        service.startService()
        raw = await second.accepted()
        assert header(await raw.read_head(), "Authorization") == "Bearer token1"
        raw.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        raw = await second.accepted()
        head = await raw.read_head()
        assert header(head, "Authorization") == "Bearer token2"
        raw.write(switching(head))
        assert await raw.read_frame() == (1, b'{"subscribe": "prices"}')
        assert await raw.read_frame() == (1, b"what waits")
        await raw.drop()
        await within(service.stopService())
    said = capsys.readouterr().out
    assert "server answered 401 Unauthorized" in said
    assert "'handshake " in said
    assert "1 in flight" in said


@pytest_twisted.ensureDeferred
async def test_loop_goes_on_with_the_next_connection_and_ends_with_break(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with RawServer() as server:
        names: dict[str, Any] = {}
        exec(block("async def main", p8765=server.port), names)  # noqa: S102
        running = defer.ensureDeferred(names["main"]())
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"hello")
        await raw.drop()
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"hello")
        raw.write(b"\x81\x05world")
        await within(running)
        assert capsys.readouterr().out == "world\n"
        await raw.drop()
        await eventually(lambda: raw.lost is not None)
