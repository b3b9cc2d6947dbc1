"""The code on the page about tracing is run, and writes what the page shows."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port
from integration.raw import Raw, RawServer, eventually, frame, open_raw, within
from twisted.internet.defer import ensureDeferred

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "tracing.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(SHOWN,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
KEY = re.compile(r"(Sec-WebSocket-Key: ).*")


def run(mark: str, port: int = 8765) -> dict[str, Any]:
    """Run the only block with that in it; return its names."""
    (code,) = [text for text in PYTHON if mark in text]
    names: dict[str, Any] = {}
    exec("from wsframe import Trace", names)  # noqa: S102 - as the first block has it
    exec(code.replace("8765", str(port)), names)  # noqa: S102 - our own page
    return names


def test_every_block_is_run() -> None:
    assert len(PYTHON) == 3


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_shown_as_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 502 Bad Gateway\r\nserver: edge\r\nContent-Length: 17\r\n\r\n")
        raw.write(b"no upstream for \n")

    async with RawServer(script) as server:
        await within(ensureDeferred(run("HandshakeRefused", server.port)["main"]()))
        await eventually(lambda: "[ended]" in (tmp_path / "handshake.txt").read_text())
        written = (tmp_path / "handshake.txt").read_text().splitlines()
        shown = SHOWN.replace("8765", str(server.port)).splitlines()
    without_times = [KEY.sub(r"\1", line.partition(" ")[2]) for line in written]
    assert without_times == [KEY.sub(r"\1", line) for line in shown]


def test_the_trace_of_frames_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    trace = run("max_payload=64")["trace"]
    tap = trace.tap(trace, "client", secure=False)
    tap.join("peer", sent_left=0, received_left=0)
    tap.sent(frame(1, b"hello"))
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert messages[1]["_webSocketMessages"][0]["data"] == "hello"


@pytest_twisted.ensureDeferred
async def test_a_signal_switches_the_trace_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    names = run("trace_on_signal", port)
    service = names["service"]
    service.startService()
    try:
        await within(service.when_listening())
        raw = await open_raw(port)
        os.kill(os.getpid(), signal.SIGUSR2)
        await eventually(lambda: service.trace)
        raw.write(frame(1, b"hello"))
        assert await raw.read_frame() == (1, b"hello")
        await raw.drop()
        assert "1 > [text fin, 5 bytes] hello\n" in (tmp_path / "service.txt").read_text()
    finally:
        names["stop"]()
        await within(service.stopService())
        service.trace.close()
