"""`wsframe route`: by which proxies a URI is reached and why, and whether they lead there."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from wsframe.cli import arguments, reactor
from wsframe.cli.failure import lines_of
from wsframe.core.proxy import Route
from wsframe.core.timing import PhaseDone
from wsframe.errors import InvalidProxy

if TYPE_CHECKING:
    from wsframe.cli.check import Checked

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Say by which proxies a ws:// or wss:// URI is reached, what decided that, and who looks up which
name. Nothing is connected to or looked up, unless --check is given."""

CHECK: Final = """\
Each way is opened in turn: the tunnel, and for wss:// the TLS to the server within it. The
WebSocket itself is not opened. Printed is how long each phase took, or what failed. The exit
status is 0 when at least one way leads to the server."""


def add_to(verbs: Any) -> None:
    """Add the verb to the command."""
    parser = verbs.add_parser(
        "route",
        help="say by which proxies a URI is reached, and check them",
        description=DESCRIPTION,
    )
    arguments.add_uri(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments.add_proxies(parser)
    group = parser.add_argument_group("check", CHECK)
    group.add_argument("--check", action="store_true", help="open the tunnel, and TLS")
    arguments.add_timeout(group)
    arguments.add_trust(group)
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        route = arguments.chosen_route(options, arguments.proxy_settings(options))
    except InvalidProxy as error:
        parser.error(str(error))
    if not options.json:
        print(route.explain(), flush=True)
    checks: list[Checked] = []
    if options.check:
        checks = reactor.run(lambda this: _check_all(this, options, route))
    if options.json:
        result = route.as_dict()
        if options.check:
            result["checks"] = [checked.as_dict() for checked in checks]
        print(json.dumps(result, indent=2))
    works = any(checked.error is None for checked in checks)
    return 0 if works or not options.check else 1


async def _check_all(this: Any, options: argparse.Namespace, route: Route) -> list[Checked]:
    # Half a second, for Autobahn and TLS; a route that is only explained does not wait for it.
    from wsframe.cli.check import check

    checks = []
    for number, way in enumerate(route.ways, 1):
        if not options.json:
            _print(f"check of {number}.")
        checked = await check(
            this,
            options.uri,
            replace(route, ways=(way,)),
            tls=arguments.tls(options),
            proxy_tls=arguments.proxy_tls(options),
            options=options.client_options,
            said=_ignore if options.json else _print_phase,
        )
        if not options.json:
            _print_end(checked)
        checks.append(checked)
    return checks


def _ignore(_: PhaseDone) -> None:
    pass


def _print(line: str) -> None:
    """Print a line at once; what cannot be written is said at the end, when it is tried again."""
    with suppress(OSError):
        print(line, flush=True)


def _print_phase(done: PhaseDone) -> None:
    detail = f" ({done.detail})" if done.detail else ""
    _print(f"  {done.phase:<9}{done.seconds * 1000:>9.1f} ms  {done.to}{detail}")


def _print_end(checked: Checked) -> None:
    error = checked.error
    if error is None:
        _print(f"  open after {checked.seconds:.3f} s")
        return
    where = "" if error["phase"] is None else f" in phase {error['phase']}"
    _print(f"  failed{where} after {checked.seconds:.3f} s: {error['kind']}: {error['message']}")
    for line in lines_of(error):
        _print(f"    {line}")
