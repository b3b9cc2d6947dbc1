"""The load generator: a C program, compiled from load/ when the bench starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "load"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror")
LIBRARIES = ("-lssl", "-lcrypto", "-lz")


def compiled(into: Path) -> Path:
    """Return the program, compiled into this directory; exit with a message when that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("The load is a C program: it takes a compiler (apt-get install gcc).")
    program = into / "load"
    sources = sorted(SOURCES.glob("*.c"))
    done = subprocess.run(
        [compiler, *FLAGS, *sources, *LIBRARIES, "-o", program],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        hint = "It takes apt-get install gcc libc6-dev libssl-dev zlib1g-dev."
        raise SystemExit(f"The load does not compile. {hint}\n{done.stderr}")
    return program
