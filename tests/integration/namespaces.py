"""Programs that see other files in /etc than this machine has, or a network of their own.

Each has namespaces of its own (unshare(1)); nothing outside notices. It takes the rights of root.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from .peers import missing, program

MACHINE = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""Options for a network of its own, and for processes that end with the one that is started."""


@functools.cache
def may_unshare(*, machine: bool = False) -> bool:
    """Return whether this user may give a program namespaces of its own."""
    probe = ["mount", "--bind", "/etc/hosts", "/etc/hosts"]
    command = [program("unshare"), "--mount", *(MACHINE if machine else []), *probe]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def seeing(directory: Path, files: dict[str, str], *, machine: bool = False) -> list[str]:
    """Return a command in front of another, which then sees these texts as files of /etc.

    They are kept in `directory`. As a `machine` it has a loopback interface alone, and all ports
    of that for itself; and when it ends, so does everything that it started.
    """
    if not may_unshare(machine=machine):
        missing("the right to unshare namespaces (root)")
    directory.mkdir(mode=0o755, exist_ok=True)
    steps = ["ip link set lo up"] if machine else []
    # The cache of names would be asked through its socket, from within any network.
    steps.append("{ [ ! -d /run/nscd ] || mount -t tmpfs none /run/nscd; }")
    for name, text in files.items():
        copy = directory / name
        copy.touch(mode=0o600 if name == "shadow" else 0o644)
        copy.write_text(text)
        # A link, as resolv.conf may be one, would have the file that it leads to replaced.
        mount = f"mount --bind {copy} $(readlink -f /etc/{name})"
        steps.append(f"{{ [ ! -e /etc/{name} ] || {mount}; }}")
    script = " && ".join([*steps, 'exec "$@"'])
    options = ["--mount", *(MACHINE if machine else [])]
    return [program("unshare"), *options, "sh", "-c", script, "sh"]
