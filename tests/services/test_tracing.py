"""The services' traces: what the command line asks for, and real signals to real processes."""

from __future__ import annotations

import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.raw import RawServer, accept_raw, close_frame, eventually, frame, open_raw, within
from twisted.python import usage

from wsframe.services import agent, echo, monitor

from .processes import TOKEN, running, service, token_file

TEXT = 1


async def written(path: Path, text: str) -> str:
    """Wait until the file has the text in it; return all of it."""
    await eventually(lambda: path.exists() and text in path.read_text())
    return path.read_text()


def parsed(module: Any, *arguments: str) -> Any:
    options = module.Options()
    server = ["--server", "ws://127.0.0.1:1/"] if module is agent else []
    options.parseOptions([*server, *arguments])
    return options


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("module", [agent, echo, monitor])
def test_without_the_options_there_is_no_trace(module: Any) -> None:
    assert parsed(module).tracing.trace is None


@pytest.mark.parametrize("module", [agent, echo, monitor])
@pytest.mark.parametrize("option", ["--trace", "--trace-on-signal"])
def test_the_file_is_opened_while_somebody_reads_the_answer(
    module: Any, option: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace.txt"
    options = parsed(module, option, str(path), "--trace-frames")
    assert options.tracing.trace.frames
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(usage.UsageError, match=f"{option}: .*No such file"):
        parsed(module, option, str(tmp_path / "missing" / "trace.txt"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trace-frames"], "--trace-frames needs --trace or --trace-on-signal"),
        (["--trace", "a", "--trace-on-signal", "b"], "are given both"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], text: str) -> None:
    with pytest.raises(usage.UsageError, match=text):
        parsed(echo, *arguments)


# ---------------------------------------------------------------- processes


@pytest_twisted.ensureDeferred
async def test_a_trace_is_written_from_the_start_and_has_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    tokens = token_file(tmp_path)
    async with running("ws-echo", "--trace", str(path), "--token-file", str(tokens)) as this:
        raw = await open_raw(this.port, f"Authorization: Bearer {TOKEN}")
        raw.write(frame(TEXT, b"not shown"))
        await raw.read_frame()
        raw.write(close_frame(1000))
        await within(raw.ended())
        text = await written(path, "[ended] 1000 cleanly by remote")
        this.process.signal(signal.SIGUSR2)
        await this.process.says("The trace is off")
        await (await open_raw(this.port, f"Authorization: Bearer {TOKEN}")).drop()
        assert path.read_text().count("[connected]") == text.count("[connected]")
    assert "Authorization: Bearer ***" in text
    assert "not shown" not in text
    assert TOKEN not in path.read_text()


@pytest_twisted.ensureDeferred
async def test_a_signal_switches_the_trace_of_a_running_server_on_and_off(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    async with running("ws-echo", "--trace-on-signal", str(path), "--trace-frames") as this:
        raw = await open_raw(this.port)
        for text, state in ((b"before", "on"), (b"while", "off"), (b"after", None)):
            raw.write(frame(TEXT, text))
            assert await raw.read_frame() == (TEXT, text)
            if state is not None:
                this.process.signal(signal.SIGUSR2)
                await this.process.says(f"The trace is {state}")
        await raw.drop()
    lines = [line.partition(" ")[2] for line in path.read_text().splitlines()]
    assert lines[0].startswith("1 [open] from tcp4:127.0.0.1:")
    assert lines[1:] == [
        "1 < [text fin masked, 5 bytes] while",
        "1 > [text fin, 5 bytes] while",
    ]


@pytest_twisted.ensureDeferred
async def test_a_signal_switches_the_trace_of_a_running_agent_on(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    async with RawServer() as server:
        process = service(
            "ws-agent",
            *("--server", f"ws://127.0.0.1:{server.port}/", "--interval", "0.05"),
            *("--trace-on-signal", str(path), "--trace-frames"),
        )
        try:
            raw = await accept_raw(server)
            await raw.read_frame()
            assert path.read_text() == ""
            process.signal(signal.SIGUSR2)
            await written(path, "1 > [binary fin masked, ")
            raw.write(close_frame(1001, masked=False))
            raw.finish()
            again = await accept_raw(server)
            text = await written(path, "2 < HTTP/1.1 101 Switching Protocols")
            assert "1 < [close fin, 2 bytes] 1001\n" in text
            assert "2 > GET /agent HTTP/1.1\n" in text
            await again.drop()
        finally:
            await process.kill()
