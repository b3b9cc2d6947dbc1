"""Fuzz one target, or show again what it found.

    python tests/fuzz TARGET [FILE] [-max_total_time=SECONDS] [libFuzzer's other options]

The corpus grows in .fuzz/TARGET. What is found is printed, and kept as a file in .fuzz that the
same command takes to show it again.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTRUMENTED = [
    "autobahn.websocket.protocol",
    "h11",
    "wsframe.connection",
    "wsframe.core.frames",
    "wsframe.core.http",
    "wsframe.core.http_answer",
    "wsframe.protocol.ending",
    "wsframe.protocol.receiving",
]
"""Whose branches guide the fuzzer; to instrument everything would take a minute at each start."""

sys.path[:0] = [str(HERE), str(HERE.parent)]


def main() -> int:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from targets import TARGETS

    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"{__doc__}\nTargets: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    name, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    found = HERE.parent.parent / ".fuzz"
    corpus = found / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    if all(option.startswith("-") for option in options):  # no FILE to be shown again
        options.append(str(corpus))
    # Inputs up to 4 KiB: what is longer only takes more time to go through.
    given = [f"-artifact_prefix={found}/{name}-", "-max_len=4096", *options]
    atheris.Setup([sys.argv[0], *given], target)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
