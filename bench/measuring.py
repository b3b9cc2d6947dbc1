"""One measurement: the load against one server or client, and what that cost it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers import Peer
from rows import Row
from serving import LOAD_CORE, SERVER_CORE, Failed, Program

SETTLED = 0.5  # seconds that memory is given to come to rest


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the load, and a certificate."""

    load: Path
    certificate: Path

    def start_server(self, peer: Peer) -> Server:
        """Return the server of a peer, once it listens."""
        program = Program(peer.server(self.certificate), SERVER_CORE)
        try:
            return Server(program, json.loads(program.line()))
        except ValueError as error:
            program.end()
            raise Failed(f"{peer.name} did not say its ports: {error}") from None
        except BaseException:
            program.end()
            raise

    def start_load(self, row: Row, port: int | None = None) -> Program:
        told = [] if port is None else ["--port", str(port)]
        return Program([self.load, *row.arguments, *told], LOAD_CORE)


@dataclass(frozen=True)
class Server:
    """A server that runs, and where it listens."""

    program: Program
    ports: dict[str, int]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.end()

    def can(self, row: Row) -> bool:
        """Tell whether it has what the row is about."""
        return row.port in self.ports


def _run(load: Program, measured: Program) -> dict[str, float]:
    """Have the load do what it is set up for; return its counts, and the CPU time of the other."""
    if load.line() != "ready":
        raise Failed("the load is not ready")
    measured.settle()
    before = measured.cpu()
    load.tell("go")
    result: dict[str, float] = json.loads(load.line())
    spent = measured.cpu() - before
    result["CPU"] = spent
    result["figure"] = spent / result["count"] * 1e6
    return result


def measure_server(bench: Bench, row: Row, server: Server) -> dict[str, float]:
    """Return what a row costs a server."""
    with bench.start_load(row, server.ports[row.port]) as load:
        result = _run(load, server.program)
        load.wait()
    server.program.settle()
    return result


def measure_client(bench: Bench, row: Row, peer: Peer) -> dict[str, float]:
    """Return what a row costs a client."""
    with bench.start_load(row) as load:
        port = int(load.line())
        with Program(peer.client(port, row.connections), SERVER_CORE) as client:
            try:
                return _run(load, client)
            except Failed as failure:
                raise Failed(f"{failure}; the client: {client.last_words()}") from None


@contextmanager
def _idle(bench: Bench, row: Row, server: Server) -> Iterator[dict[str, float]]:
    """Hold idle connections; give the memory that they take."""
    with bench.start_load(row, server.ports[row.port]) as load:
        if load.line() != "ready":
            raise Failed("the load is not ready")
        server.program.settle()
        before = server.program.memory()
        load.tell("go")
        result: dict[str, float] = json.loads(load.line())
        time.sleep(SETTLED)
        server.program.settle()
        result["figure"] = (server.program.memory() - before) / result["count"] / 1024
        yield result


def measure_idle(
    bench: Bench, row: Row, peers: Sequence[Peer]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return what idle connections take of each server, each a new one; and which ones failed.

    Without TLS, also the share of a core that they take: all servers wait through the same seconds.
    """
    results: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    with ExitStack() as held:
        waiting: dict[str, Server] = {}
        for peer in peers:
            with ExitStack() as own:
                try:
                    server = own.enter_context(bench.start_server(peer))
                    if not server.can(row):
                        continue
                    results[peer.name] = own.enter_context(_idle(bench, row, server))
                except Failed as failure:
                    failures[peer.name] = str(failure)
                    continue
                if not row.tls:
                    waiting[peer.name] = server
                    held.push(own.pop_all())
        before = {name: server.program.cpu() for name, server in waiting.items()}
        if waiting:
            time.sleep(row.seconds)
        for name, server in waiting.items():
            spent = server.program.cpu() - before[name]
            results[name]["idle CPU"] = spent / row.seconds
    return results, failures
