"""The data path: what a message, a handshake and an idle connection cost, beside the peers.

    python bench/data.py [--rounds 5] [--rows TEXT …] [--servers NAME …] [--scale 1] [--json FILE]
    python bench/data.py --smoke          seconds; the figures mean nothing

The server has the last core, the load the first. All servers run at once and take turns, row by
row, in every round; the next round has new ones. Rows are chosen by any part of their name. With
`--json FILE`, a table (.md) and a chart (.png) are written beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import certificate
import chart
import generator
import machine
import report
from measuring import Bench, Server, measure_client, measure_idle, measure_server
from peers import PEERS, PEERS_BY_NAME, Peer, node_versions
from rows import ROWS, WARMING, Row
from serving import LOAD_CORE, Failed

SMOKE_SCALE, SMOKE_CONNECTIONS = 0.05, 30
MANY = 10_000  # connections: as many as any row has
OTHER_FILES = 100  # open files of a process that are no connections


@dataclass
class Run:
    """The measurements of one run: by row and peer, one for each round."""

    bench: Bench
    peers: list[Peer]
    warming: Row
    measured: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row, peer: Peer, result: dict[str, float]) -> None:
        self.measured.setdefault(row.name, {}).setdefault(peer.name, []).append(result)

    def round(self, rows: list[Row], number: int) -> None:
        """Measure each row once; the peers in turns, every other round the other way around."""
        peers = self.peers[:: -1 if number % 2 else 1]
        rows = [row for row in rows if row.rounds is None or number < row.rounds]
        self._servers([row for row in rows if row.kind == "server"], peers)
        for row in rows:
            if row.kind == "client":
                self._clients(row, peers)
            elif row.kind == "idle":
                self._idle(row, peers)

    def _servers(self, rows: list[Row], peers: list[Peer]) -> None:
        with ExitStack() as stack:
            servers: dict[Peer, Server] = {}
            for peer in peers if rows else ():
                self._start(peer, servers, stack)
            # What leaves the most behind in a process comes last.
            for row in sorted(rows, key=lambda row: row.connections):
                progress(row.name)
                for peer in peers:
                    if peer not in servers or not servers[peer].can(row):
                        continue
                    try:
                        self.add(row, peer, measure_server(self.bench, row, servers[peer]))
                    except Failed as failure:
                        self.failures[f"{row.name}, {peer.name}"] = str(failure)
                        servers.pop(peer).program.end()
                        self._start(peer, servers, stack)

    def _start(self, peer: Peer, servers: dict[Peer, Server], stack: ExitStack) -> None:
        try:
            server = stack.enter_context(self.bench.start_server(peer))
            measure_server(self.bench, self.warming, server)
            servers[peer] = server
        except Failed as failure:
            self.failures[f"start of {peer.name}"] = str(failure)

    def _clients(self, row: Row, peers: list[Peer]) -> None:
        progress(row.name)
        for peer in peers:
            try:
                self.add(row, peer, measure_client(self.bench, row, peer))
            except Failed as failure:
                self.failures[f"{row.name}, {peer.name}"] = str(failure)

    def _idle(self, row: Row, peers: list[Peer]) -> None:
        progress(row.name)
        results, failures = measure_idle(self.bench, row, peers)
        for name, result in results.items():
            self.add(row, PEERS_BY_NAME[name], result)
        for name, failure in failures.items():
            self.failures[f"{row.name}, {name}"] = failure

    def rows(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return the rows, each with the medians of its rounds by peer."""
        return [
            {
                "row": row.name,
                "unit": row.unit,
                "goals": dict(row.goals),
                "at most": row.most,
                "peers": {
                    name: summary(results)
                    for name, results in self.measured.get(row.name, {}).items()
                },
            }
            for row in rows
        ]


def summary(results: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians of the rounds, and the figure of each."""

    def middle(what: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(what, results)), 4)

    made = {
        "figure": middle(lambda one: one["figure"]),
        "rounds": [round(one["figure"], 4) for one in results],
        "a second": middle(lambda one: one["count"] / one["seconds"]),
        "load busy": middle(lambda one: one["load CPU"] / one["seconds"]),
    }
    if "idle CPU" in results[0]:
        made["idle CPU"] = middle(lambda one: one["idle CPU"])
    return made


def progress(text: str) -> None:
    """Tell a person who waits where we are."""
    if sys.stderr.isatty():
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def parse(rows: tuple[Row, ...]) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--rows", nargs="+", metavar="TEXT", help="; ".join(r.name for r in rows))
    parser.add_argument("--servers", nargs="+", metavar="NAME", choices=PEERS_BY_NAME)
    parser.add_argument("--scale", type=float, default=1, help="of the times that are measured")
    parser.add_argument("--connections", type=int, metavar="N", help="at most, in any row")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--smoke", action="store_true", help="see that it works, in seconds")
    return parser.parse_args()


def choose(texts: list[str]) -> list[Row]:
    """Return the rows with these names, or with these texts in their names."""
    names = {row.name for row in ROWS}
    return [
        row
        for row in ROWS
        if any(text == row.name or (text not in names and text in row.name) for text in texts)
    ]


def allow_connections() -> int | None:
    """Let us and our children open all the files we may; return the connections they allow."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return None if most == resource.RLIM_INFINITY else most - OTHER_FILES


def described(peers: list[Peer]) -> dict[str, Any]:
    names = dict.fromkeys(name for peer in peers for name in peer.distributions)
    result = machine.described(*names)
    if any(peer.program.endswith(".js") for peer in peers):
        result["versions"] |= node_versions()
    return result


def main() -> None:
    arguments = parse(ROWS)
    rows = choose(arguments.rows or [""])
    allowed = allow_connections()
    most = min(count for count in (allowed, arguments.connections, MANY) if count is not None)
    if arguments.smoke:
        arguments.rounds, arguments.scale, most = 1, SMOKE_SCALE, SMOKE_CONNECTIONS
    rows = [row.shortened(arguments.scale, most) for row in rows]
    wanted = [peer for peer in PEERS if not arguments.servers or peer.name in arguments.servers]
    missing = {peer.name: what for peer in wanted if (what := peer.missing()) is not None}
    peers = [peer for peer in wanted if peer.name not in missing]
    result = described(peers)
    result |= {
        "smoke": arguments.smoke,
        "rounds": arguments.rounds,
        "scale": arguments.scale,
        "most connections": most,
        "not installed": missing,
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # runs what is to be cleaned up
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        pem = place / "server.pem"
        pem.write_bytes(certificate.self_signed())
        run = Run(
            Bench(generator.compiled(place), pem), peers, WARMING.shortened(arguments.scale, most)
        )
        for number in range(arguments.rounds):
            run.round(rows, number)
    result |= {"rows": run.rows(rows), "failed": run.failures}
    text = report.as_markdown(result, [peer.name for peer in peers])
    print(text, end="")
    if arguments.json:
        machine.write(arguments.json, result)
        arguments.json.with_suffix(".md").write_text(text, encoding="utf-8")
        if find_spec("matplotlib"):
            chart.draw(result, [peer.name for peer in peers], arguments.json.with_suffix(".png"))
    if run.failures:
        sys.exit("\n".join(f"failed: {what}: {why}" for what, why in run.failures.items()))


if __name__ == "__main__":
    main()
