"""A service in several processes: who serves, who replaces whom, and that none is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import pytest_twisted
from integration.peers import free_port, has_ipv6, missing
from integration.raw import Raw, close_frame, eventually, frame, open_raw, within
from twisted.internet import ssl
from twisted.internet.task import deferLater

from wsframe.client import connect

from .own_service import LIMITS, tac
from .processes import LOCAL, TERMINATED, TOKEN, Process, get, service, token_file, twistd
from .test_options import certificate
from .test_twistd import JSON, gone

ANY = "tcp:0:interface=127.0.0.1"
SILENCE = 1.5
"""Seconds, in the tests of those that hang."""


def connections(pid: int, port: int) -> list[int]:
    """Return the clients' ports of the connections that a process has on its own port."""
    return [
        each.raddr.port
        for each in psutil.Process(pid).net_connections(kind="tcp")
        if each.raddr and each.laddr.port == port
    ]


class Served:
    """A service in workers, as `process` is their parent."""

    def __init__(self, process: Process, workers: int) -> None:
        self.process = process
        self.workers = workers

    @property
    def pids(self) -> dict[int, int]:
        """The process of each worker, as the log has it."""
        found = re.findall(r"Worker (\d+) is process (\d+)", self.process.output)
        return {int(worker): int(pid) for worker, pid in found}

    @property
    def port(self) -> int:
        """The port that all of them listen on."""
        (port,) = set(re.findall(r"Listening on .*port=(\d+)", self.process.output))
        return int(port)

    async def ready(self) -> None:
        """Wait until every worker listens."""
        for worker in range(1, self.workers + 1):
            await self.process.says(f"Worker {worker} listens")

    async def replaced(self, worker: int) -> None:
        """Wait until there is a second worker of that number, and listens."""
        await self.process.says(f"(?s)Worker {worker} listens.*Worker {worker} listens")

    def connections(self) -> Counter[int]:
        """Count the open connections of each worker's process."""
        return Counter({pid: len(connections(pid, self.port)) for pid in self.pids.values()})

    async def open(self, count: int = 24) -> list[Raw]:
        """Open so many WebSockets; that all are with one of two is as likely as 2 to the -23."""
        return [await open_raw(self.port) for _ in range(count)]

    def all_gone(self) -> bool:
        found = re.findall(r"is process (\d+)", self.process.output)
        return all(gone(int(pid)) for pid in found)


@asynccontextmanager
async def served(process: Process, workers: int = 2, *, wait: bool = True) -> AsyncIterator[Served]:
    """Wait until the workers listen; end all whatever happens, and see that none is left."""
    this = Served(process, workers)
    try:
        if wait:
            await this.ready()
        yield this
    finally:
        await process.kill()
        await eventually(this.all_gone)


def echo(
    *arguments: str, workers: int = 2, twistd_options: tuple[str, ...] = (), **spawn: Any
) -> Process:
    listen = () if "--listen" in arguments else ("--listen", ANY)
    count = ("--workers", str(workers))
    return service("ws-echo", *count, *listen, *arguments, twistd_options=twistd_options, **spawn)


def own(directory: Path, *arguments: str, reactor: str = "epoll", workers: int = 2) -> Process:
    count = ("--workers", str(workers), "--listen", ANY)
    script = tac(directory, *count, *arguments)
    options = ("--nodaemon", "--pidfile=", f"--reactor={reactor}", f"--python={script}")
    return Process(twistd(), *options)


async def expect_1001(raw: Raw) -> None:
    assert (await raw.read_close())[0] == 1001
    raw.write(close_frame(1001))
    await within(raw.ended())


# ---------------------------------------------------------------- who serves


@pytest_twisted.ensureDeferred
async def test_workers_share_one_port_and_drain_together() -> None:
    async with served(echo(workers=3), 3) as this:
        opened = await this.open(60)
        counted = this.connections()
        print(f"connections of the workers: {sorted(counted.values())}")
        assert len(counted) == 3
        assert all(counted.values())
        parent = psutil.Process(this.process.pid)
        assert connections(this.process.pid, this.port) == []
        assert {child.pid for child in parent.children(recursive=True)} == set(this.pids.values())
        for _ in range(10):
            assert (await get(this.port, "/healthz"))[0] == 200
        this.process.signal(signal.SIGTERM)
        for raw in opened:
            await expect_1001(raw)
        assert await this.process.ended() in TERMINATED
        assert this.all_gone()
        assert "Traceback" not in this.process.output
        assert "killed" not in this.process.output


@pytest_twisted.ensureDeferred
async def test_one_worker_is_no_process_of_its_own() -> None:
    async with served(echo(workers=1), wait=False) as this:
        await this.process.says("Listening on")
        assert psutil.Process(this.process.pid).children() == []
        assert (await get(this.port, "/healthz"))[0] == 200
        assert "orker" not in this.process.output


@pytest_twisted.ensureDeferred
async def test_over_tls_on_several_ports(tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    certificate(pem)
    trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(pem.read_bytes())])
    ports = [free_port(), free_port()]
    secure = f"ssl:{ports[0]}:privateKey={pem}:interface=127.0.0.1"
    if not has_ipv6():
        missing("IPv6 on loopback")
    other = rf"tcp6:{ports[1]}:interface=\:\:1"
    async with served(echo("--listen", secure, "--listen", other)) as this:
        tls = ssl.optionsForClientTLS("localhost", trustRoot=trust)
        async with connect(f"wss://localhost:{ports[0]}/", tls=tls) as connection:
            await connection.send("over TLS")
            assert await within(connection.recv()) == "over TLS"
        async with connect(f"ws://[::1]:{ports[1]}/") as connection:
            await connection.send("beside it")
            assert await within(connection.recv()) == "beside it"
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED


@pytest.mark.parametrize(
    ("reactor", "name"), [("asyncio", "AsyncioSelectorReactor"), ("corked", "CorkedReactor")]
)
@pytest_twisted.ensureDeferred
async def test_a_service_of_ones_own_runs_in_workers_with_the_reactor_of_the_parent(
    tmp_path: Path, reactor: str, name: str
) -> None:
    async with served(own(tmp_path, reactor=reactor)) as this:
        said = re.findall(r"worker (\d)\] The reactor is (\w+)", this.process.output)
        assert sorted(said) == [("1", name), ("2", name)]
        (raw,) = await this.open(1)
        await expect_echo(raw)
        this.process.signal(signal.SIGTERM)
        await expect_1001(raw)
        assert await this.process.ended() in TERMINATED


@pytest_twisted.ensureDeferred
async def test_each_worker_reads_the_tokens_and_no_argument_or_variable_has_them(
    tmp_path: Path,
) -> None:
    async with served(echo("--token-file", token_file(tmp_path))) as this:
        for pid in this.pids.values():
            of = Path(f"/proc/{pid}")
            assert (
                TOKEN.encode() not in (of / "cmdline").read_bytes() + (of / "environ").read_bytes()
            )
        async with connect(
            f"ws://127.0.0.1:{this.port}/", headers={"Authorization": f"Bearer {TOKEN}"}
        ) as connection:
            await connection.send("admitted")
            assert await within(connection.recv()) == "admitted"
        assert (await get(this.port, "/"))[0] == 401
        assert TOKEN not in this.process.output


# ---------------------------------------------------------------- who replaces whom


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_killed_is_replaced_and_the_others_serve_meanwhile() -> None:
    async with served(echo()) as this:
        opened = await this.open()
        first, second = this.pids[1], this.pids[2]
        os.kill(first, signal.SIGKILL)
        await this.process.says(rf"Worker 1 \(process {first}\) was ended by SIGKILL; the next one")
        # Nobody waits for the dead one.
        for _ in range(10):
            assert (await get(this.port, "/healthz"))[0] == 200
        await this.replaced(1)
        assert this.pids[2] == second
        more = await this.open()
        assert this.connections()[this.pids[1]]
        for raw in [*opened, *more]:
            await raw.drop()


async def expect_echo(raw: Raw) -> None:
    """See that whoever has the connection serves it."""
    raw.write(frame(1, b"still there"))
    assert await raw.read_frame() == (1, b"still there")


@pytest.mark.parametrize("how", ["stopped", "blocked"])
@pytest_twisted.ensureDeferred
async def test_a_worker_that_hangs_is_replaced_and_the_others_serve_meanwhile(
    tmp_path: Path, how: str
) -> None:
    async with served(own(tmp_path, "--silence", str(SILENCE))) as this:
        first, second = this.pids[1], this.pids[2]
        opened = await this.open()
        of_first = connections(first, this.port)
        hung = [raw for raw in opened if raw.transport.getHost().port in of_first]
        others = [raw for raw in opened if raw not in hung]
        if how == "stopped":
            os.kill(first, signal.SIGSTOP)
        else:
            hung[0].write(frame(1, b"block"))
        for raw in others:
            await expect_echo(raw)
        await this.process.says(f"Worker 1 has given no sign of life for {SILENCE:g} s: killed")
        await this.process.says(rf"Worker 1 \(process {first}\) was ended by SIGKILL; the next one")
        for raw in hung:
            await within(raw.ended())
        await this.replaced(1)
        more = await this.open()
        assert all(this.connections().values())
        for raw in [*others, *more]:
            await expect_echo(raw)
            await raw.drop()
        assert this.pids[2] == second
        assert this.process.output.count(": killed") == 1
        where = r'Worker 1:   File ".*own_service.py", line \d+ in echo'
        assert len(re.findall(where, this.process.output)) == (how == "blocked")


@pytest_twisted.ensureDeferred
async def test_a_service_that_was_suspended_kills_none_of_its_workers(tmp_path: Path) -> None:
    """The parent goes on first, and hears nothing of its workers at first."""
    from twisted.internet import reactor

    async with served(own(tmp_path, "--silence", str(SILENCE))) as this:
        workers = list(this.pids.values())
        opened = await this.open(4)
        for away in ([this.process.pid], [*workers, this.process.pid]):
            for pid in away:
                os.kill(pid, signal.SIGSTOP)
            await deferLater(reactor, 2 * SILENCE)  # type: ignore[arg-type]
            for pid in reversed(away):
                os.kill(pid, signal.SIGCONT)
                await deferLater(reactor, SILENCE / 3)  # type: ignore[arg-type]
            for raw in opened:
                await expect_echo(raw)
        await deferLater(reactor, 2 * SILENCE)  # type: ignore[arg-type]
        assert list(this.pids.values()) == workers
        assert "killed" not in this.process.output
        # It has an eye on them all the same.
        os.kill(workers[1], signal.SIGSTOP)
        await this.replaced(2)
        for raw in opened:
            await raw.drop()


@asynccontextmanager
async def with_children(directory: Path, *arguments: str) -> AsyncIterator[tuple[Served, int]]:
    """Have two workers with a child each, which keeps their output open, and kill the first.

    Gives the service, and the child that is left, when the parent knows of the death.
    """
    process = own(directory, "--manner", "bear", "--grace", "60", *arguments)
    try:
        async with served(process) as this:
            parent = psutil.Process(process.pid)
            files = parent.num_fds()

            def known() -> bool:
                opened = parent.net_connections(kind="tcp")
                accepting = [each for each in opened if each.status == psutil.CONN_LISTEN]
                return len(accepting) == 1 and parent.num_fds() == files - 2  # CONTROL, ALIVE

            os.kill(this.pids[1], signal.SIGKILL)
            await eventually(known)
            left = await process.says(r"worker 1\] The child is (\d+)")
            yield this, int(left[1])
            assert "Traceback" not in process.output
    finally:
        for pid in re.findall(r"The child is (\d+)", process.output):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest_twisted.ensureDeferred
async def test_nobody_waits_for_a_dead_worker_whose_output_is_still_open(tmp_path: Path) -> None:
    async with with_children(tmp_path) as (this, left):
        for raw in await this.open():
            await expect_echo(raw)
            await raw.drop()
        assert "ended by SIGKILL" not in this.process.output
        os.kill(left, signal.SIGKILL)
        await this.process.says(r"Worker 1 \(process \d+\) was ended by SIGKILL; the next one")
        await this.replaced(1)


@pytest_twisted.ensureDeferred
async def test_a_dead_worker_whose_output_is_still_open_keeps_no_other_from_the_trace(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace"
    async with with_children(tmp_path, "--trace-on-signal", str(trace)) as (this, left):
        this.process.signal(signal.SIGUSR2)
        await this.process.says("The trace is on")
        while "GET /" not in Path(f"{trace}.2").read_text():
            await get(this.port, "/")
        os.kill(left, signal.SIGKILL)
        await this.replaced(1)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_told_to_end_drains_and_is_replaced() -> None:
    async with served(echo()) as this:
        opened = await this.open(2)
        for pid in this.pids.values():
            os.kill(pid, signal.SIGTERM)
        for raw in opened:
            await expect_1001(raw)
        for worker in (1, 2):
            await this.replaced(worker)
        assert (await get(this.port, "/healthz"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_workers_that_die_again_and_again_end_the_service(tmp_path: Path) -> None:
    process = own(tmp_path, "--manner", "die")
    async with served(process, wait=False):
        assert await process.ended() == 1
    starts = len(re.findall("is process", process.output))
    assert 2 * LIMITS.max_failures <= starts < 10 * LIMITS.max_failures
    assert "ended by SIGKILL, like the last 3: the service ends" in process.output


@pytest_twisted.ensureDeferred
async def test_workers_that_cannot_serve_at_all_end_it_at_once(tmp_path: Path) -> None:
    process = own(tmp_path, "--manner", "refuse")
    async with served(process, wait=False):
        assert await process.ended() == 1
    assert len(re.findall("is process", process.output)) == 2
    assert "ZeroDivisionError" in process.output
    assert "ended with status 1, before any worker listened: the service ends" in process.output


# ---------------------------------------------------------------- how they end


@pytest_twisted.ensureDeferred
async def test_a_second_signal_is_immediate_also_for_a_worker_that_hangs() -> None:
    async with served(echo()) as this:
        opened = await this.open()
        os.kill(this.pids[1], signal.SIGSTOP)
        counted = this.connections()
        this.process.signal(signal.SIGTERM)
        told = 0
        for raw in opened:
            if raw.transport.getHost().port in connections(this.pids[2], this.port):
                assert (await raw.read_close())[0] == 1001
                told += 1
        assert told == counted[this.pids[2]]
        assert this.process.status is None
        began = time.monotonic()
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
        took = time.monotonic() - began
        assert took < 5, f"it took {took:.2f} s"
        assert "Worker 1 did not end in time: killed" in this.process.output
        assert this.all_gone()
        for raw in opened:
            await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_a_worker_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    async with served(own(tmp_path)) as this:
        os.kill(this.pids[2], signal.SIGSTOP)
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
        assert "Worker 2 did not end in time: killed" in this.process.output
        assert this.all_gone()


@pytest_twisted.ensureDeferred
async def test_a_parent_that_is_killed_leaves_no_worker() -> None:
    async with served(echo()) as this:
        opened = await this.open()
        this.process.signal(signal.SIGKILL)
        for raw in opened:
            await expect_1001(raw)
        await eventually(this.all_gone)


@pytest_twisted.ensureDeferred
async def test_ctrl_c_in_a_terminal_drains() -> None:
    async with served(echo(terminal=True)) as this:
        opened = await this.open(4)
        this.process.write(b"\x03")
        for raw in opened:
            await expect_1001(raw)
        assert await this.process.ended() in {0, -signal.SIGINT}
        assert "every connection is cut" not in this.process.output


# ---------------------------------------------------------------- where they listen


def at(path: Path) -> str:
    return f"ws+unix://{quote(str(path), safe='')}/"


async def speaks(url: str) -> None:
    async with connect(url) as connection:
        await connection.send("who is there?")
        assert await within(connection.recv()) == "who is there?"


@pytest_twisted.ensureDeferred
async def test_on_a_unix_socket_whoever_is_there_accepts(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with served(echo("--listen", f"unix:{path}:mode=600")) as this:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for pid in this.pids.values():
            os.kill(pid, signal.SIGSTOP)
            for _ in range(3):
                await speaks(at(path))
            os.kill(pid, signal.SIGCONT)
        # One that ends takes nothing with it.
        os.kill(this.pids[1], signal.SIGTERM)
        await this.replaced(1)
        os.kill(this.pids[2], signal.SIGSTOP)
        await speaks(at(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        # Where there is nobody, one waits for those that are to come.
        for pid in this.pids.values():
            os.kill(pid, signal.SIGKILL)
        await this.process.says(r"(?s)Worker 1 .*ended by SIGKILL.*ended by SIGKILL")
        await speaks(at(path))
        async with connect(at(path)) as connection:
            this.process.signal(signal.SIGTERM)
            assert (await within(connection.when_closed())).code == 1001
        assert await this.process.ended() in TERMINATED
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in this.process.output


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_goes_from_a_parent_that_was_killed_to_the_next(
    tmp_path: Path,
) -> None:
    """Though workers of the first one are still there."""
    path = tmp_path / "socket"
    listen = ("--listen", f"unix:{path}")
    async with served(echo(*listen)) as this:
        refused = echo(*listen)
        assert await refused.ended() == 1
        assert "Cannot acquire lock" in refused.output
        os.kill(this.pids[1], signal.SIGSTOP)
        await this.process.kill()
        async with served(echo(*listen)) as other:
            await speaks(at(path))
            os.kill(this.pids[1], signal.SIGCONT)
            await eventually(this.all_gone)
            await speaks(at(path))
            other.process.signal(signal.SIGTERM)
            assert await other.process.ended() in TERMINATED
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_ends_it_at_once() -> None:
    """Although the kernel would let it in beside workers of the same user."""
    async with served(echo()) as this:
        process = echo("--listen", LOCAL.format(port=this.port))
        assert await process.ended() == 1
        text = f"Cannot listen: Couldn't listen on 127.0.0.1:{this.port}: .*in use"
        assert len(re.findall(text, process.output)) == 1
        assert "is process" not in process.output
        assert (await get(this.port, "/healthz"))[0] == 200


SYSTEMD = """
import os, socket, sys
kind, command = sys.argv[1], sys.argv[2:]
if kind == "UNIX":
    opened = socket.socket(socket.AF_UNIX)
    opened.bind("socket")
    os.chmod("socket", 0o600)
else:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
opened.listen(16)
os.dup2(opened.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "ours"}
os.execv(command[0], command)
"""
"""Opens a socket and passes it on, as systemd does."""


@pytest.mark.parametrize("kind", ["INET", "UNIX"])
@pytest_twisted.ensureDeferred
async def test_whoever_is_there_accepts_from_a_socket_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command = (twistd(), "--nodaemon", "--pidfile=", "ws-echo", "--workers", "2")
    listen = f"systemd:domain={kind}:name=ours"
    process = Process(sys.executable, "-c", SYSTEMD, kind, *command, "--listen", listen)
    async with served(process) as this:
        url = at(tmp_path / "socket") if kind == "UNIX" else f"ws://127.0.0.1:{this.port}/"
        for pid in this.pids.values():
            os.kill(pid, signal.SIGSTOP)
            for _ in range(3):
                await speaks(url)
            os.kill(pid, signal.SIGCONT)
        os.kill(this.pids[1], signal.SIGTERM)
        await this.replaced(1)
        os.kill(this.pids[2], signal.SIGSTOP)
        await speaks(url)
        os.kill(this.pids[2], signal.SIGCONT)
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
    assert "Traceback" not in process.output
    if kind == "UNIX":  # it is not ours
        assert [each.name for each in tmp_path.iterdir()] == ["socket"]
        assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600


def interpreter() -> str:
    """Return an interpreter like this one that every user can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable), Path("/usr/bin") / version):
        try:
            real = candidate.resolve(strict=True)
            ways = [real, *real.parents, *candidate.parents]
        except OSError:
            continue
        if all(way.stat().st_mode & stat.S_IXOTH for way in ways):
            return str(candidate)
    return str(missing(f"a {version} that every user can run"))


def as_nobody(*arguments: str) -> Process:
    """Start an echo service that becomes another user once it has its addresses."""
    import twisted

    packages = [str(Path(twisted.__file__).parents[1]), str(Path(__file__).parents[2])]
    code = f"import sys; sys.path[:0] = {packages!r}; from twisted.scripts.twistd import run; run()"
    options = ("--nodaemon", "--pidfile=", "--uid=65534", "--gid=65534", "--rundir=/")
    return Process(interpreter(), "-c", code, *options, "ws-echo", "--workers", "2", *arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest_twisted.ensureDeferred
async def test_workers_have_the_rights_of_another_user_and_a_port_below_1024() -> None:
    port = next(port for port in range(700, 1024) if free(port))
    async with served(as_nobody("--listen", LOCAL.format(port=port))) as this:
        assert this.port == port
        for pid in [this.process.pid, *this.pids.values()]:
            ids = psutil.Process(pid)
            assert set(ids.uids()) == set(ids.gids()) == {65534}
        opened = await this.open()
        assert all(this.connections().values())
        # A replacement, too, though nobody who is left may bind that port.
        os.kill(this.pids[1], signal.SIGKILL)
        await this.replaced(1)
        opened += await this.open()
        assert all(this.connections().values())
        for raw in opened:
            await raw.drop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_where_that_user_may_not_write_stays_and_the_next_one_takes_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    for _ in range(2):
        async with served(as_nobody("--listen", f"unix:{path}")) as this:
            await speaks(at(path))
            this.process.signal(signal.SIGTERM)
            assert await this.process.ended() in TERMINATED
        assert "What remains of a Unix socket: [Errno 13] Permission denied" in this.process.output
        assert "Traceback" not in this.process.output
        assert path.is_socket()


def free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# ---------------------------------------------------------------- what they log


@pytest_twisted.ensureDeferred
async def test_the_json_log_names_the_worker() -> None:
    async with served(echo(twistd_options=JSON), wait=False) as this:
        await this.process.says('(?s)"Worker (1|2) listens.*"Worker (1|2) listens')
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
    lines = this.process.lines
    assert all({"time", "level", "namespace", "message"} <= set(line) for line in lines)
    listening = [line for line in lines if line["message"].startswith("Listening on")]
    assert sorted(line["worker"] for line in listening) == [1, 2]
    assert {line["namespace"] for line in listening} == {"wsframe.server"}


@pytest_twisted.ensureDeferred
async def test_whatever_a_worker_says_is_in_the_log(tmp_path: Path) -> None:
    async with served(own(tmp_path, "--manner", "talk", workers=2)) as this:
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
    output = this.process.output
    for worker in (1, 2):
        assert f"Worker {worker}: written past the log\n" in output
        assert f"Worker {worker}: \\xff\n" in output
        assert f"[wsframe.services#error] Worker {worker}: Fatal Python error\n" in output
        assert f'Worker {worker}: {{"level": "critical"}}\n' in output
        assert re.search(rf"\[stdout#info worker {worker}\] printed\n", output)
        assert re.search(rf"\[own#info worker {worker}\] braces {{}} \n", output)
        failed = (
            rf"\[own#critical worker {worker}\] It failed\n\s*Traceback .*\n(.*\n)+?.*a failure"
        )
        assert re.search(failed, output)
    assert max(len(line) for line in output.splitlines()) < 1_100_000


@pytest_twisted.ensureDeferred
async def test_as_a_daemon_it_has_one_pidfile_and_one_log_which_is_rotated(tmp_path: Path) -> None:
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    options = (f"--pidfile={pidfile}", f"--logfile={log}", f"--rundir={tmp_path}")
    starter = Process(twistd(), *options, "ws-echo", "--workers", "2", "--listen", ANY)
    assert await starter.ended() == 0, starter.output
    pid = int(pidfile.read_text())
    try:
        await eventually(lambda: len(re.findall("Worker . listens", log.read_text())) == 2)
        before = log.read_text()
        port = int(re.findall(r"port=(\d+)", before)[0])
        os.kill(pid, signal.SIGUSR1)
        await eventually(lambda: Path(f"{log}.1").exists())
        raw = await open_raw(port)
        raw.write(b"\x83\x80\0\0\0\0")  # which is logged
        await raw.read_close()
        await raw.drop()
        os.kill(pid, signal.SIGTERM)
        await eventually(lambda: not pidfile.exists())
        workers = [int(each) for each in re.findall(r"is process (\d+)", before)]
        await eventually(lambda: all(map(gone, [pid, *workers])))
        assert len(re.findall(r"#info worker \d\] Listening", before)) == 2
        assert "ended with status 0" in log.read_text() or "was ended by SIGTERM" in log.read_text()
        assert "worker" in log.read_text()
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest_twisted.ensureDeferred
async def test_each_worker_writes_a_trace_which_one_signal_to_the_parent_switches(
    tmp_path: Path,
) -> None:
    trace = tmp_path / "trace"

    def traced() -> int:
        return sum(
            path.read_text().count("GET /") for path in (Path(f"{trace}.1"), Path(f"{trace}.2"))
        )

    async with served(echo("--trace-on-signal", str(trace))) as this:
        await get(this.port, "/healthz")
        assert traced() == 0
        this.process.signal(signal.SIGUSR2)
        await this.process.says("The trace is on")
        os.kill(this.pids[1], signal.SIGKILL)
        await this.replaced(1)  # which has it on, too
        for raw in await this.open():
            await raw.drop()
        await eventually(lambda: traced() == 24)
        assert all(Path(f"{trace}.{worker}").stat().st_size for worker in (1, 2))
        this.process.signal(signal.SIGUSR2)
        await this.process.says("The trace is off")
        assert not trace.exists()


# ---------------------------------------------------------------- what is refused


@pytest_twisted.ensureDeferred
async def test_a_service_that_shares_state_refuses_to_be_several() -> None:
    process = service("ws-broadcast", "--workers", "2")
    assert await process.ended() == 1
    assert "there is no backplane" in process.output
    assert "Traceback" not in process.output
