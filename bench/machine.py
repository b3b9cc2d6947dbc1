"""What the figures of a bench depend on, versions and the machine, and the report with both."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

SMOKE = "A smoke run: it shows that the bench works, and its figures mean nothing."


def described(*distributions: str) -> dict[str, Any]:
    """Return the machine, and the versions of these distributions."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*: (.*)$", cpus, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in distributions},
    }


def as_text(machine: dict[str, Any]) -> str:
    """Return two lines that say the same."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"load {machine['load before']} before\nPython {machine['python']}, {versions}"
    )


def write(report: Path, result: dict[str, Any]) -> None:
    """Write the result of a bench as JSON."""
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
