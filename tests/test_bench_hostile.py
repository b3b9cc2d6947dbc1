"""The bench of attacks still runs: one attack of every kind, small, and a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"
ATTACKS = (
    "message over the limit",  # said, over and over
    "pings, never reads",  # over connections that are held
    "length of the limit, dripped",
    "heads dripped (slowloris)",
    "control bytes in heads",  # asked
    "more connections than may be",  # that wait
    "resets at any moment",
)


def test_bench_of_attacks_judges_every_kind(tmp_path: Path) -> None:
    """The figures of a smoke test mean nothing; what the attackers were told does."""
    report = tmp_path / "results" / "hostile.json"
    command = [sys.executable, "-W", "error", str(BENCH / "hostile.py"), "--smoke", "--json"]
    command += [str(report)]
    for name in ATTACKS:
        command += ["--only", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    rows = {row["attack"]: row for row in json.loads(report.read_text())["rows"]}
    assert set(rows) == set(ATTACKS)
    assert "1009" in rows["message over the limit"]["told"]
    assert "400" in rows["control bytes in heads"]["told"]
    for row in rows.values():
        assert row["faults"] == []
        assert row["alive"]
        assert row["innocents_lost"] == 0
        assert min(*row["before"].values(), *row["during"].values()) > 0
