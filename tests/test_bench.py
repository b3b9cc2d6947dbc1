"""The bench of tunnels still runs: every proxy, client and chain of it, once, and a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from integration.peers import program

BENCH = Path(__file__).parent.parent / "bench"


def test_bench_of_tunnels_measures_every_way(tmp_path: Path) -> None:
    """The figures mean nothing; that they are there does."""
    for name in ("squid", "tinyproxy", "danted", "microsocks", "stunnel4", "curl"):
        program(name)
    report = tmp_path / "results" / "tunnel.json"
    done = subprocess.run(
        [sys.executable, "-W", "error", BENCH / "tunnel.py", "--smoke", "--json", report],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(report.read_text())
    assert [(row["proxy"], row["direction"]) for row in result["throughput"]] == [
        (proxy, direction)
        for proxy in ("squid", "tinyproxy", "dante", "microsocks")
        for direction in ("down", "up")
    ]
    for row in result["throughput"]:
        assert set(row["wsframe to"]) == {"socket", "twisted", "curl"}
        assert min(row["MiB a second"].values()) > 0
    must_cost = {(row["proxies"], row["hops"]): row["must cost"] for row in result["setup"]}
    assert must_cost.pop(("direct", 0)) == 2
    assert must_cost == {
        (kind, hops): 2 + each * hops
        for kind, each in {
            "http": 1,
            "https": 2,
            "socks4a": 1,
            "socks5h": 2,
            "socks5h, login": 3,
        }.items()
        for hops in (1, 2, 3)
    }
    assert min(row["round trips"] for row in result["setup"]) > 0
    assert "below the goal" not in done.stdout
