"""`python -m wsframe`: the `wsframe` command."""

from __future__ import annotations

import sys

from wsframe.cli import main

if __name__ == "__main__":
    sys.exit(main())
