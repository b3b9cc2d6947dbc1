"""`wsframe connect`: sends what is typed or piped into it, and prints what comes."""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from functools import partial
from typing import Any, Final

from wsframe.cli import arguments, handshake

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Open a WebSocket, send what comes from standard input, and print what the server sends.

At a terminal each line that is typed is a text message; the line is edited with the usual keys, and
the arrow keys bring back earlier ones. Ctrl-D on an empty line closes the connection.

Otherwise each line of the input is a text message, and each message that comes is printed with an
end of line. At the end of the input the connection is closed once the server is silent: when a ping
comes back, and no message has come since the ping before it. What the server sends at once, in
answer to the last line, is printed; one that takes its time needs --wait."""

EPILOG: Final = """\
exit status:
  0    the connection was closed with code 1000 or 1001, or without one
  1    it did not open, or the input or output failed
  2    an argument, or a variable of the environment, cannot be used
  3    the connection was closed with another code, or was lost
  130  Ctrl-C
  141  the reader of the output has gone
  143  SIGTERM"""


def add_to(verbs: Any) -> None:
    """Add the verb to the command."""
    parser = verbs.add_parser(
        "connect",
        help="send what is typed or piped in, and print what comes",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    arguments.add_uri(parser)
    group = handshake.add_to(parser)
    arguments.add_timeout(group)
    arguments.add_trust(group)
    arguments.add_proxies(parser)
    group = parser.add_argument_group("trace")
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="write the opening handshake, as it was sent and received, to a file; no secrets",
    )
    group.add_argument("--trace-frames", action="store_true", help="and the frames")
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line: the opening, each message, the end",
    )
    group.add_argument(
        "--binary",
        action="store_true",
        help="send the input as one binary message, and print messages as they are, with nothing "
        "between them; at a terminal, lines are hexadecimal",
    )
    group.add_argument(
        "--chunk",
        metavar="BYTES",
        type=arguments.value_of(_count),
        help="with --binary: send a message for each so many bytes of the input",
    )
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        type=arguments.value_of(_wait),
        help="at the end of the input, go on receiving for so long, whether or not the server is "
        "silent; inf: until it closes",
    )
    group.add_argument(
        "--ping",
        metavar="SECONDS",
        type=arguments.value_of(_seconds),
        help="send a keepalive ping this often; 0: none [default: 20]",
    )
    group.add_argument(
        "--max-size",
        metavar="BYTES",
        type=arguments.value_of(_count),
        help="the largest message that is taken [default: 1048576]",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="do not say how it was opened and closed"
    )
    parser.set_defaults(run=partial(_run, parser))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 2**40):
        raise ValueError("it is not a number of bytes")
    return int(text)


def _wait(text: str) -> float:
    seconds = float("nan")
    with suppress(ValueError):
        seconds = float(text)
    if not seconds >= 0:
        raise ValueError("it is not a number of seconds")
    return seconds


def _seconds(text: str) -> float:
    seconds = _wait(text)
    if seconds == math.inf:
        raise ValueError("it is not a number of seconds")
    return seconds


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    # Half a second, for Autobahn and TLS; --help and a wrong argument do not wait for it.
    from wsframe.cli.session import run

    return run(parser, options)
