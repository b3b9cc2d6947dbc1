"""The services as processes: started by `twistd`, watched by what they log, ended by their id."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from integration.peers import free_port, missing
from integration.raw import WAIT, Raw, connect_raw, header, upgrade, within
from twisted.internet import defer
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

LOCAL = "tcp:{port}:interface=127.0.0.1"
TOKEN = "tok.Secret_0123456789"


def twistd() -> str:
    """Return the `twistd` of this very interpreter's environment."""
    beside = Path(sys.executable).with_name("twistd")
    return str(beside) if beside.exists() else (shutil.which("twistd") or missing("twistd"))


class Process(ProcessProtocol):
    """A program that runs, and all that it says; with `terminal`, at one of its own."""

    def __init__(self, *command: str, stdout: int | None = None, terminal: bool = False) -> None:
        from twisted.internet import reactor

        self.output = ""
        self.status: int | None = None
        """Its exit status; negative for the signal that ended it. None while it runs."""
        self._waiting: list[tuple[Callable[[], object], defer.Deferred[None]]] = []
        self._ended: list[defer.Deferred[None]] = []
        spawner: Any = reactor
        fds: dict[int, Any] = {0: "w", 1: "r" if stdout is None else stdout, 2: "r"}
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        # Warnings are errors here, too, where it is us who is warned: Twisted's TLS has some.
        warnings = "error::DeprecationWarning:twisted.internet.base"
        environment = {**kept, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": warnings}
        where: dict[str, Any] = {"childFDs": fds}
        if terminal:
            where = {"usePTY": True}
            environment["TERM"] = "xterm"
        self._process = spawner.spawnProcess(self, command[0], command, environment, **where)
        self.pid = int(self._process.pid)

    def childDataReceived(self, child_fd: int, data: bytes) -> None:
        self.output += data.decode(errors="replace")
        self._look()

    def processEnded(self, reason: Failure) -> None:
        error: Any = reason.value
        self.status = -error.signal if error.signal is not None else error.exitCode
        self._look()
        ended, self._ended = self._ended, []
        for done in ended:
            done.callback(None)

    def _look(self) -> None:
        for entry in list(self._waiting):
            condition, done = entry
            if condition():
                self._waiting.remove(entry)
                done.callback(None)
            elif self.status is not None:
                self._waiting.remove(entry)
                done.errback(AssertionError(f"it ended with {self.status}:\n{self.output}"))

    async def says(self, pattern: str, seconds: float = WAIT) -> re.Match[str]:
        """Wait until the output has a match of the pattern; return the first."""
        done: defer.Deferred[None] = defer.Deferred()
        self._waiting.append((lambda: re.search(pattern, self.output), done))
        self._look()
        try:
            await within(done, seconds)
        except defer.TimeoutError:
            raise AssertionError(f"it does not say {pattern!r}:\n{self.output}") from None
        found = re.search(pattern, self.output)
        assert found is not None
        return found

    async def ended(self, seconds: float = WAIT) -> int:
        """Wait until it has ended; return its status."""
        if self.status is None:
            done: defer.Deferred[None] = defer.Deferred()
            self._ended.append(done)
            await within(done, seconds)
        assert self.status is not None
        return self.status

    def write(self, data: bytes) -> None:
        """Write to its input, as far as it takes it; the rest waits."""
        self._process.write(data)

    @property
    def input_pending(self) -> int:
        """Bytes that were written and that it has not taken."""
        pipe = self._process.pipes[0]
        return len(pipe.dataBuffer) - pipe.offset + pipe._tempDataLen

    def end_input(self) -> None:
        self._process.closeStdin()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """End it as a power cut would."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        await self.ended()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of a log in JSON; what is no JSON fails the test."""
        return [json.loads(line) for line in self.output.splitlines()]


def service(
    name: str, *arguments: str, twistd_options: tuple[str, ...] = (), **spawn: Any
) -> Process:
    """Start a service in the foreground."""
    return Process(twistd(), "--nodaemon", "--pidfile=", *twistd_options, name, *arguments, **spawn)


class Listening:
    """A listening service that runs on `port` of 127.0.0.1, as `process`."""

    def __init__(self, name: str, *arguments: str, port: int | None = None, **spawn: Any) -> None:
        self.port = free_port() if port is None else port
        self._start = lambda: service(
            name, "--listen", LOCAL.format(port=self.port), *arguments, **spawn
        )
        self.process = self._start()

    def url(self, path: str = "/") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    async def ready(self) -> None:
        await self.process.says(f"Listening on .*port={self.port}")

    async def restart(self) -> None:
        """Start it again, where it was."""
        self.process = self._start()
        await self.ready()


@asynccontextmanager
async def running(name: str, *arguments: str, **options: Any) -> AsyncIterator[Listening]:
    """Start a listening service, and end it whatever happens."""
    this = Listening(name, *arguments, **options)
    try:
        for _ in range(2):
            try:
                await this.ready()
            except AssertionError:
                if "Address already in use" not in this.process.output:
                    raise
                this = Listening(name, *arguments, **options)  # somebody else was faster
            else:
                break
        yield this
    finally:
        await this.process.kill()


async def get(port: int, path: str, *headers: str) -> tuple[int, str, str]:
    """Ask for a page; return the status, the head and the body."""
    raw = await connect_raw(port)
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers]
    raw.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    head, _, body = (await raw.read_all()).decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), head, body


async def try_upgrade(port: int, path: str, *headers: str) -> tuple[int, str | None, Raw]:
    """Ask for a WebSocket; return the status, the challenge, and the connection."""
    raw = await connect_raw(port)
    raw.write(upgrade(*headers, path=path))
    head = await raw.read_head()
    return int(head.split(" ")[1]), header(head, "WWW-Authenticate"), raw


def token_file(directory: Path, **tokens: str) -> str:
    """Write a private file of tokens."""
    path = directory / "tokens"
    lines = [f"{name}:{token}\n" for name, token in (tokens or {"anna": TOKEN}).items()]
    path.write_text("".join(lines))
    path.chmod(0o600)
    return str(path)


TERMINATED = {0, -signal.SIGTERM}
"""How a service ends that was told to: with 0, or by the signal that twistd raises again."""
