"""Tunnels through real proxies: bytes a second beside other clients, and round trips to open.

    python bench/tunnel.py [--rounds 7] [--size 64] [--json FILE] [--smoke]

The clients take turns, in another order each round, because a machine is not equally fast all the
time; the tables have the medians, and the ratios are the medians of each round's. The clients run
on the first core, origin and proxies on the others. README.md, beside this file, says how to read
the tables. It takes the environment of the tests, which `make peers` makes in .venv.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

try:
    import pytest
except ModuleNotFoundError:
    sys.exit(
        "bench/tunnel.py starts its proxies as the tests do, and takes their environment: "
        "`make peers` makes it, in .venv"
    )

import machine
import setup_time
from integration.certificates import Authority
from integration.proxies import PASSWORD, USER, Proxies
from loopback import HOST
from throughput import CLIENTS, MIB, Transfer
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from wsframe import Proxy

GOAL = 0.95
"""Bytes a second, as a share of what a plain socket moves through the same proxy."""

PROXIES = {"squid": "http", "tinyproxy": "http", "dante": "socks5h", "microsocks": "socks5h"}
HOPS = 3


@contextlib.contextmanager
def loopback(*arguments: object) -> Iterator[list[int]]:
    """Run a server of loopback.py; give its ports."""
    command = [sys.executable, str(Path(__file__).with_name("loopback.py")), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield list(map(int, process.stdout.readline().split()))
        finally:
            process.kill()


@contextlib.contextmanager
def on_other_cores() -> Iterator[None]:
    """Start processes on all cores but the first, which is the clients'."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {min(cores)} or cores)
    yield
    os.sched_setaffinity(0, cores)


def if_installed(start: Callable[[], int]) -> int | None:
    """Return the port of what is started, or None, which is said, when it is not installed."""
    try:
        return start()
    except pytest.skip.Exception as missing:
        print(f"left out: {missing}", file=sys.stderr)
        return None


# --- throughput -----------------------------------------------------------------------------------


async def measure_throughput(reactor: Any, rounds: int, size: int) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        with on_other_cores():
            proxies = Proxies()
            stack.callback(proxies.stop)
            (origin,) = stack.enter_context(loopback("origin"))
            ports = {name: if_installed(partial(proxies.get, name, auth=False)) for name in PROXIES}
        file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "upload")
        with file.open("wb") as zeros:
            zeros.truncate(size)
        cores = os.sched_getaffinity(0)
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, {min(cores)})
        transfers = {
            (name, "up" if upload else "down"): Transfer(
                PROXIES[name], port, origin, upload=upload, size=size, file=file
            )
            for name, port in ports.items()
            if port is not None
            for upload in (False, True)
        }
        clients = [name for name in CLIENTS if name != "curl" or shutil.which("curl")]
        figures: dict[Any, dict[str, list[Any]]] = {
            key: {client: [] for client in clients} for key in transfers
        }
        for turn in range(rounds):
            for key, transfer in transfers.items():
                for place in range(len(clients)):
                    client = clients[(place + turn) % len(clients)]
                    figures[key][client].append(await CLIENTS[client](reactor, transfer))
        return [
            {"proxy": proxy, "direction": direction, **_row(of_clients, size / MIB)}
            for (proxy, direction), of_clients in figures.items()
        ]


def _row(figures: dict[str, list[Any]], mib: float) -> dict[str, Any]:
    """Return the medians of one transfer."""
    ours = [figure.seconds for figure in figures["wsframe"]]
    ratios = {
        client: statistics.median(
            theirs.seconds / own for own, theirs in zip(ours, of_client, strict=True)
        )
        for client, of_client in figures.items()
        if client != "wsframe"
    }
    return {
        "MiB a second": {
            client: statistics.median(mib / figure.seconds for figure in of_client)
            for client, of_client in figures.items()
        },
        "wsframe to": ratios,
        "CPU microseconds a MiB": {
            client: statistics.median(figure.cpu / mib * 1e6 for figure in of_client)
            for client, of_client in figures.items()
            if of_client[0].cpu is not None
        },
    }


def print_throughput(rows: list[dict[str, Any]], *, goals: bool) -> None:
    if not rows:
        return
    clients = list(rows[0]["MiB a second"])
    peers = list(rows[0]["wsframe to"])
    cpus = list(rows[0]["CPU microseconds a MiB"])
    print("\nThroughput through one proxy")
    print(f"{'':15} {'MiB/s':{8 * len(clients)}} {'wsframe to':{8 * len(peers)}} client CPU us/MiB")
    print(
        f"{'':15} "
        + " ".join("".join(f"{n:>8}" for n in names) for names in (clients, peers, cpus))
    )
    for row in rows:
        cells = [
            "".join(f"{row['MiB a second'][name]:8.0f}" for name in clients),
            "".join(f"{row['wsframe to'][name]:8.2f}" for name in peers),
            "".join(f"{row['CPU microseconds a MiB'][name]:8.0f}" for name in cpus),
        ]
        below = "  below the goal" if goals and row["wsframe to"]["socket"] < GOAL else ""
        print(f"{row['proxy']:10} {row['direction']:4} " + " ".join(cells) + below)
    if goals:
        print(f"The goal is {GOAL} of the socket.")


# --- set-up time ----------------------------------------------------------------------------------


def chains(proxies: list[Proxies], authority: Authority) -> dict[str, list[Proxy]]:
    """Return for each kind of hop one proxy from each of the sets, apart from each other."""
    certificate = authority.issue(HOST)

    def start(each: Proxies, name: str, login: bool, tls: bool) -> int:
        port = each.get(name, auth=login)
        return each.tls_before(port, certificate) if tls else port

    found: dict[str, list[Proxy]] = {}
    for kind in setup_time.COSTS:
        scheme, _, login = kind.partition(", ")
        name = {"socks4a": "dante", "socks5h": "microsocks"}.get(scheme, "squid")
        user, password = (USER, PASSWORD) if login else (None, None)
        for each in proxies:
            port = if_installed(partial(start, each, name, bool(login), scheme == "https"))
            if port is None:
                break
            found.setdefault(kind, []).append(Proxy(HOST, port, user, password, scheme))
    return found


def reached_by(port: int, hops: list[Proxy]) -> Proxy:
    """Return the last of the hops, reached through those before; the first is at that port."""
    last: Proxy | None = None
    for hop in hops:
        own = port if last is None else hop.port
        last = Proxy(HOST, own, hop.user, hop.password, hop.scheme, via=last)
    return last


async def measure_setup(reactor: Any, rounds: int, round_trip: float) -> list[dict[str, Any]]:
    with contextlib.ExitStack() as stack:
        authority = Authority()
        proxies = []
        for _ in range(HOPS):  # some connect to no proxy that they are themselves
            proxies.append(Proxies())
            stack.callback(proxies[-1].stop)
        hops = chains(proxies, authority)
        (origin,) = stack.enter_context(loopback("origin"))
        first = [origin, *(hop[0].port for hop in hops.values())]
        direct, *far = stack.enter_context(loopback("relay", round_trip, *first))
        ways = {("direct", 0): (direct, None)}
        for (kind, each), port in zip(hops.items(), far, strict=True):
            for count in range(1, HOPS + 1):
                ways[kind, count] = (origin, reached_by(port, each[:count]))
        units = []
        figures: dict[Any, list[float]] = {key: [] for key in ways}
        for _ in range(rounds):
            units.append(setup_time.by_socket(direct) / setup_time.UNAVOIDABLE)
            for key, (port, chain) in ways.items():
                figures[key].append(
                    await setup_time.by_wsframe(
                        reactor, port, chain, lambda proxy: authority.client(proxy.host)
                    )
                )
    unit = statistics.median(units)
    rows = []
    for (kind, count), seconds in figures.items():
        cost = setup_time.UNAVOIDABLE + setup_time.COSTS.get(kind, 0) * count
        took = statistics.median(seconds)
        rows.append(
            {
                "proxies": kind,
                "hops": count,
                "must cost": cost,
                "round trips": took / unit,
                "milliseconds more": (took - cost * unit) * 1e3,
            }
        )
    return rows


def print_setup(rows: list[dict[str, Any]], round_trip: float) -> None:
    print(f"\nFrom connect to the first answer, in round trips of {round_trip * 1e3:.0f} ms")
    print(
        f"{'proxies':16} {'hops':>4} {'must cost':>9} {'measured':>9} {'ratio':>6} {'ms more':>8}"
    )
    for row in rows:
        ratio = row["round trips"] / row["must cost"]
        print(
            f"{row['proxies']:16} {row['hops']:4} {row['must cost']:9} {row['round trips']:9.2f} "
            f"{ratio:6.2f} {row['milliseconds more']:8.1f}"
        )


async def bench(reactor: Any, arguments: argparse.Namespace) -> None:
    result = machine.described("wsframe", "twisted", "pyopenssl")
    if arguments.smoke:
        print(machine.SMOKE)
    print(machine.as_text(result))
    rounds, size, round_trip = arguments.rounds, arguments.size, 0.04
    if arguments.smoke:
        rounds, size, round_trip = 1, 1, 0.01
    result |= {"smoke": arguments.smoke, "rounds": rounds, "MiB": size}
    result["throughput"] = await measure_throughput(reactor, rounds, size * MIB)
    print_throughput(result["throughput"], goals=not arguments.smoke)
    result["setup"] = await measure_setup(reactor, rounds, round_trip)
    print_setup(result["setup"], round_trip)
    if arguments.json:
        machine.write(arguments.json, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=64, help="MiB of each transfer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="as little as shows that it works")
    arguments = parser.parse_args()
    react(lambda reactor: ensureDeferred(bench(reactor, arguments)))


if __name__ == "__main__":
    main()
