"""`wsframe diagnose`: how far an opening gets, and which change a server wants that refuses it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from wsframe.cli import arguments, handshake, reactor
from wsframe.cli.failure import described, lines_of, secrets_of
from wsframe.errors import InvalidHeader, InvalidProxy

if TYPE_CHECKING:
    from wsframe.client import Diagnosis, Trial

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Open a WebSocket, say how long each phase took, and close it. Where the server refuses the opening
handshake, it is tried again with one thing changed at a time: without a subprotocol, with one, with
another Origin or none, without or with the extension, with another User-Agent or none, without the
token. What it then answers 101 to is what it wanted. Each of these is a connection of its own, one
after the other, up to a dozen."""

EPILOG: Final = """\
exit status:
  0    the server answers 101 as it is
  1    it does not, or cannot be reached
  2    an argument, or a variable of the environment, cannot be used
  3    it does with one change, which is named
  130  Ctrl-C"""

FAILED: Final = 1
CURED: Final = 3


def add_to(verbs: Any) -> None:
    """Add the verb to the command."""
    parser = verbs.add_parser(
        "diagnose",
        help="find out why a server refuses the opening handshake",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    arguments.add_uri(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    group = handshake.add_to(parser)
    arguments.add_timeout(group)
    arguments.add_trust(group)
    arguments.add_proxies(parser)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    wrong = ""
    try:
        settings = arguments.proxy_settings(options)
        route = arguments.chosen_route(options, settings)
        said = handshake.said(options)
    except (InvalidHeader, InvalidProxy, handshake.Contradiction) as error:
        wrong = str(error)
    if wrong:
        parser.error(wrong)
    secrets = {*handshake.secrets(options)}
    for way in route.ways:
        secrets.update(secrets_of(way))
    if not options.json:
        _print(route.explain())

    # Half a second, for Autobahn and TLS; --help and a wrong argument do not wait for it.
    from wsframe.client import diagnose

    async def run(this: Any) -> Diagnosis:
        return await diagnose(
            options.uri,
            **said,
            proxies=settings,
            tls=arguments.tls(options),
            proxy_tls=arguments.proxy_tls(options),
            options=options.client_options,
            reactor=this,
            on_trial=_ignore if options.json else partial(_print_trial, secrets),
        )

    diagnosis = reactor.run(run)
    if options.json:
        result = diagnosis.as_dict()
        result["route"] = route.as_dict()
        for trial, told in zip(diagnosis.trials, result["trials"], strict=True):
            told["error"] = None if trial.error is None else described(trial.error, secrets)
            told.pop("message")
        print(json.dumps(result, indent=2))
    else:
        _print(diagnosis.finding)
    if diagnosis.opened:
        return 0
    return CURED if diagnosis.cures else FAILED


def _ignore(_: Trial) -> None:
    pass


def _print(line: str) -> None:
    """Print a line at once; what cannot be written is said at the end, when it is tried again."""
    with suppress(OSError):
        print(line, flush=True)


def _print_trial(secrets: Iterable[str], trial: Trial) -> None:
    from wsframe.client.diagnosis import lines  # by now it is there

    if trial.error is None:
        table = [*lines(trial)]
    else:
        told = described(trial.error, secrets)
        table = [*lines(trial, f"{told['kind']}: {told['message']}")]
        if not trial.change:
            table += (f"{'':>16}{line}" for line in lines_of(told))
    for line in table:
        _print(line)
