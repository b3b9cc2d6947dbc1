"""The program that a worker is, up to where it can import wsframe; run by its path.

Not by ``-m``, which would have to find the package first: what the parent found, also from a
directory that it has left, is in the `sys.path` it hands over. Imports the standard library only.
"""

import json
import os
import sys

CONTROL = 3
"""The file descriptor on which the parent talks to a worker, in JSON, a line each."""

ALIVE = 4
"""The file descriptor on which a worker says that it lives. Not its output: there a line that
something else began would swallow it, and a parent that does not read would block it."""


def main() -> None:
    """Take the parent's first line, and become a worker."""
    # Ctrl-C in a terminal goes to all processes of a session. The parent gets it, and tells us.
    os.setsid()
    for descriptor in (CONTROL, ALIVE):
        os.set_inheritable(descriptor, False)
    first, rest = b"", b""
    while b"\n" not in first:
        data = os.read(CONTROL, 65536)
        if not data:
            return  # the parent is gone already
        first += data
    first, _, rest = first.partition(b"\n")
    given = json.loads(first)
    sys.path[:] = given["path"]
    from wsframe.services.worker import run

    sys.exit(run(given, rest))


if __name__ == "__main__":
    main()
