"""One run of the suite: a testee and a fuzzer as two processes, and their report in a folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["REPORTS", "ROOT", "Configuration", "Failed", "Results", "results", "run", "said", "why"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REPORTS = HERE / "reports"
PYTHON27 = ROOT / ".venv27/bin/python"

START = 30.0
"""Seconds until a process says that it listens."""

Results = Mapping[str, Mapping[str, Any]]
"""What `index.json` says of an agent, by case."""


class Failed(Exception):
    """A run did not come to its end."""


@dataclass(frozen=True)
class Configuration:
    """What is tested."""

    role: str
    api: str
    reactor: str

    def __str__(self) -> str:
        return f"{self.role}-{self.api}-{self.reactor}"

    @property
    def folder(self) -> Path:
        return REPORTS / str(self)


async def run(configuration: Configuration, spec: Mapping[str, Any], limit: float) -> None:
    """Run the cases of the specification; the reports and logs are in the configuration's folder.

    `limit` is the seconds that it may take. Every case of the suite has a limit of its own, too.
    Raises Failed when that does not come to its end, and then some cases may be there.
    """
    shutil.rmtree(configuration.folder, ignore_errors=True)
    configuration.folder.mkdir(parents=True)
    spec = {**spec, "outdir": str(configuration.folder)}
    try:
        async with asyncio.timeout(limit):
            status = await RUNS[configuration.role](configuration, spec)
    except TimeoutError:
        raise Failed(f"not at its end after {limit:.0f} s") from None
    if status:
        last = (configuration.folder / "fuzzer.log").read_text(errors="replace").splitlines()[-3:]
        raise Failed("\n  ".join([f"ended with {status}; Autobahn's last words:", *last]))


async def fuzz_server(configuration: Configuration, spec: dict[str, Any]) -> int:
    async with testee(configuration) as (server, log):
        url = f"ws://127.0.0.1:{await port_in(log, server)}"
        spec["servers"] = [{"agent": str(configuration), "url": url}]
        async with fuzzer(configuration, spec) as (client, _):
            return await client.wait()


async def fuzz_client(configuration: Configuration, spec: dict[str, Any]) -> int:
    async with fuzzer(configuration, spec) as (server, log):
        port = await port_in(log, server)
        async with testee(configuration, port, str(configuration)) as (client, _):
            return await client.wait()


RUNS = {"server": fuzz_server, "client": fuzz_client}


# ------------------------------------------------------------------------------- the processes

Running = AsyncIterator[tuple[asyncio.subprocess.Process, Path]]
"""A process, and the file that it writes its output to."""


@asynccontextmanager
async def running(log: Path, *command: str | Path) -> Running:
    """Run a program; on leaving it is ended."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{HERE.parent}", "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process, log
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def testee(configuration: Configuration, *fuzzer: str) -> Running:
    """Run what is tested; its warnings are errors."""
    what = (configuration.role, configuration.api, configuration.reactor, *fuzzer)
    command = (sys.executable, "-W", "error", "-m", "conformance.testee", *what)
    async with running(configuration.folder / "testee.log", *command) as process:
        yield process


@asynccontextmanager
async def fuzzer(configuration: Configuration, spec: Mapping[str, Any]) -> Running:
    """Run Autobahn's side."""
    path = configuration.folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    role = "client" if configuration.role == "server" else "server"
    command = (PYTHON27, HERE / "fuzzer.py", role, path)
    async with running(configuration.folder / "fuzzer.log", *command) as process:
        yield process


async def port_in(log: Path, process: asyncio.subprocess.Process) -> str:
    """Wait for a process to write in its log on which port it listens."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.returncode is None:
        found = re.search(r"^listening on (\d+)$", log.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found[1]
        await asyncio.sleep(0.05)
    raise Failed(f"does not listen: {log.read_text(errors='replace')[-2000:]}")


# ------------------------------------------------------------------------------ what they left


def results(configuration: Configuration) -> Results:
    """Return the results of the last run, none where there is no report."""
    index = configuration.folder / "index.json"
    if not index.exists():
        return {}
    report: dict[str, Results] = json.loads(index.read_text(encoding="utf-8"))
    return report.get(str(configuration), {})


def why(configuration: Configuration, result: Mapping[str, Any]) -> str:
    """Return the suite's own words on a result."""
    path = configuration.folder / result["reportfile"]
    report = json.loads(path.read_text(encoding="utf-8"))
    return f"{report['result']} {report['resultClose']}"


def said(configuration: Configuration) -> tuple[str, list[str]]:
    """Return the testee's reactor, and all that it wrote beside that and its port."""
    log = configuration.folder / "testee.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    reactor = lines[0].removeprefix("reactor ") if lines else "none"
    return reactor, [line for line in lines[1:] if not line.startswith("listening on ")]
