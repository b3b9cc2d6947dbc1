"""Programs that see other files in /etc than this machine has, or a network of their own.

Each has namespaces of its own (unshare(1)); nothing outside notices. It takes the rights of root.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from .peers import missing, program


@functools.cache
def may_unshare(*, network: bool = False) -> bool:
    """Return whether this user may give a program namespaces of its own."""
    probe = ["mount", "--bind", "/etc/hosts", "/etc/hosts"]
    command = [program("unshare"), "-m", *(["-n"] if network else []), *probe]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def seeing(directory: Path, files: dict[str, str], *, network: bool = False) -> list[str]:
    """Return a command in front of another, which then sees these texts as files of /etc.

    They are kept in `directory`. With `network` it has a loopback interface alone, and all ports
    of that for itself.
    """
    if not may_unshare(network=network):
        missing("the right to unshare namespaces (root)")
    directory.mkdir(mode=0o755, exist_ok=True)
    steps = ["ip link set lo up"] if network else []
    for name, text in files.items():
        copy = directory / name
        copy.touch(mode=0o600 if name == "shadow" else 0o644)
        copy.write_text(text)
        # A link, as resolv.conf may be one, would have the file that it leads to replaced.
        steps.append(f"mount --bind {copy} $(readlink -f /etc/{name})")
    script = " && ".join([*steps, 'exec "$@"'])
    return ["unshare", "-m", *(["-n"] if network else []), "sh", "-c", script, "sh"]
