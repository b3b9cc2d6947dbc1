"""The `wsframe` command: its verbs, a module each, and how it ends.

A verb's module has `add_to(verbs)`, which adds its parser; the parser's default `run` is a function
of the parsed arguments that returns the exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import wsframe
from wsframe.cli import connect, diagnose, route
from wsframe.cli.arguments import Parser
from wsframe.cli.reactor import Terminated

__all__ = ["main"]

VERBS: Final = (connect, diagnose, route)

FAILED: Final = 1
INTERRUPTED: Final = 130
"""Of a shell's command that SIGINT ended: 128 and its number."""
PIPE_CLOSED: Final = 141
"""The same for SIGPIPE: the reader of the output has gone, as `head` does."""
TERMINATED: Final = 143
"""The same for SIGTERM, which `timeout` sends."""

EPILOG: Final = """\
exit status:
  0    it was done, and what was checked works
  1    it failed
  2    the command, or a variable of the environment, cannot be used
  130  Ctrl-C
  141  the reader of the output has gone
  143  SIGTERM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: the process's own); return the exit status.

    Raises SystemExit where argparse does: after --help and --version, and for wrong usage.
    """
    try:
        try:
            options, unknown = _parser().parse_known_args(argv)
            if unknown:  # said with the usage of the verb, and not of the command
                options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            status: int = options.run(options)
        finally:
            print(end="", flush=True)  # what cannot be written is to be known here
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except OSError as error:
        # Whatever is left in the buffer is not tried again at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return PIPE_CLOSED
        print(f"wsframe: {error}", file=sys.stderr)
        return FAILED
    return status


class _Version(argparse.Action):
    """Says the version. argparse's own would have it looked up for every command."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, help="show program's version number and exit", **arguments)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"wsframe {wsframe.__version__}")
        parser.exit()


def _parser() -> Parser:
    parser = Parser(
        prog="wsframe",
        description="WebSockets and the proxies on the way to them.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=_Version)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_to(verbs)
    for each in verbs.choices.values():
        each.set_defaults(parser=each)
    return parser
