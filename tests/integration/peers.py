"""Real peers: programs that are found or said to be missing, and processes that are ended by id.

A process is ready when it says so, or when its port accepts a connection; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from twisted.internet import defer
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from .raw import WAIT, within

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent / "peers" / "node_modules"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def missing(what: str) -> Any:
    """Skip the test for want of a peer; where everything must be there, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing: {what}")
    pytest.skip(f"missing: {what}")


def program(name: str) -> str:
    """Return the path of a program."""
    return shutil.which(name, path=SEARCHED) or missing(name)


def _ports() -> Iterator[int]:
    """Go round the ports that the kernel gives to nobody who leaves the choice to it.

    Such as a client has, or who listens on port 0. Processes that test at the same time begin far
    from each other. Where the kernel gives all ports, that is 0.
    """
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    low, high = 11_000, int(given.split()[0])  # below are some that browsers refuse
    for number in itertools.count(os.getpid() * 211):
        yield low + number % (high - low) if low < high else 0


_PORTS: Final = _ports()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody has, and nobody else is about to be given."""
    for port in itertools.islice(_PORTS, 1000):
        with contextlib.suppress(OSError), socket.socket(_family(host)) as probe:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise AssertionError(f"no port of {host} is free")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def has_ipv6() -> bool:
    """Return whether ::1 can be listened on."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Daemon:
    """A program that serves a port of an address; `port` is the one it got.

    `command` takes the port and returns the arguments.
    """

    def __init__(
        self, command: Callable[[int], list[str]], log: Path, host: str = "127.0.0.1"
    ) -> None:
        self._host = host
        for _ in range(5):
            self.port = free_port(host)
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command(self.port),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if self._is_ready():
                return
            self.stop()
        raise AssertionError(f"{command(0)[0]} does not start:\n{log.read_text(errors='replace')}")

    def _is_ready(self) -> bool:
        end = time.monotonic() + WAIT
        while self.process.poll() is None and time.monotonic() < end:
            with socket.socket(_family(self._host)) as probe:
                if probe.connect_ex((self._host, self.port)) == 0:
                    return True
            time.sleep(0.005)
        return False

    def stop(self) -> None:
        """End this process, and no other."""
        if self.process.poll() is None:
            self.process.kill()  # squid takes a second to end in order, and has nothing to lose
        self.process.wait()


class PeerError(Exception):
    """The peer process could not do what it was told."""


class Peer(ProcessProtocol):
    """A process that carries out one command after the other: a line of JSON in, one out.

    The commands are described in `peer_websockets.py`; the Node peer knows the same ones.
    """

    def __init__(self, *command: str) -> None:
        from twisted.internet import reactor

        self._command = command
        self._buffer = b""
        self._answers: list[defer.Deferred[Any]] = []
        self._ended: defer.Deferred[None] = defer.Deferred()
        self._errors = b""
        spawner: Any = reactor
        environment = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
        self._process = spawner.spawnProcess(self, command[0], command, environment)

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def outReceived(self, data: bytes) -> None:
        self._buffer += data
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            answer = json.loads(line)
            waiting = self._answers.pop(0)
            if "error" in answer:
                waiting.errback(PeerError(answer["error"]))
            else:
                waiting.callback(answer)

    def errReceived(self, data: bytes) -> None:
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        waiting, self._answers = self._answers, []
        for answer in waiting:
            answer.errback(PeerError(f"the peer ended: {self._errors.decode(errors='replace')}"))
        self._ended.callback(None)

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Have a command carried out; fires with its answer."""
        answer: defer.Deferred[Any] = defer.Deferred()
        self._answers.append(answer)
        line = json.dumps({"do": command, **arguments})
        self._process.write(line.encode() + b"\n")
        return within(answer)

    def signal(self, number: int) -> None:
        """Send this process a signal."""
        os.kill(self.pid, number)

    async def stop(self) -> None:
        """End this process."""
        with contextlib.suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")
        await within(self._ended)


def websockets_peer() -> Peer:
    """Start a peer that speaks with the `websockets` library."""
    pytest.importorskip("websockets")
    return Peer(sys.executable, str(HERE / "peer_websockets.py"))


def node_peer() -> Peer:
    """Start a peer that speaks with Node's `ws` library."""
    node = program("node")
    if not (NODE_MODULES / "ws").is_dir():
        missing("the Node packages: npm ci --ignore-scripts, in tests/peers")
    return Peer(node, str(HERE / "node_peer.mjs"))
