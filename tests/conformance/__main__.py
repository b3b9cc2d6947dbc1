"""Run Autobahn's testsuite against every role, API and reactor of wsframe, and judge the reports.

With `--quick` each of the cases 12 and 13 exchanges 10 messages and not 1000, which takes minutes
and not hours.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from .judging import CASES, judge
from .runs import REPORTS, ROOT, Configuration, Failed, results, run, said, why

ROLES = ("server", "client")
APIS = ("async", "autobahn")
REACTORS = {"default": "EPollReactor", "corked": "CorkedReactor"}

QUICK_MESSAGES = 10

LIMIT, QUICK_LIMIT = 7200.0, 1200.0
"""Seconds that one configuration may take: some five times what it takes on two idle cores."""

KINDS = ("OK", "INFORMATIONAL", "bad")
HEADINGS = ("role  ", "API     ", "reactor", "cases", *KINDS, "seconds")


async def judged(configuration: Configuration, spec: Mapping[str, Any], limit: float) -> list[str]:
    """Run a configuration, print its row, and return what is wrong."""
    wrong = []
    begun = time.monotonic()
    try:
        await run(configuration, spec, limit)
    except Failed as error:
        wrong.append(str(error))
    seconds = time.monotonic() - begun
    reactor, lines = said(configuration)
    if reactor != REACTORS[configuration.reactor]:
        wrong.append(f"its reactor was {reactor}")
    if lines:
        wrong.append("\n  ".join(["it wrote", *lines[-20:]]))
    found = results(configuration)
    verdict = judge(found, CASES)
    wrong += verdict.miscounts
    wrong += [
        f"{case} {bad}: {why(configuration, found[case])}" for case, bad in verdict.bad.items()
    ]
    print_row(
        *(configuration.role, configuration.api, configuration.reactor, len(found)),
        *(verdict.counts.get(kind, 0) for kind in KINDS),
        round(seconds),
    )
    return wrong


def print_row(*cells: object) -> None:
    texts = [f"{cell!s:{len(heading)}}" for cell, heading in zip(cells[:3], HEADINGS, strict=False)]
    texts += [f"{cell!s:>{len(h)}}" for cell, h in zip(cells[3:], HEADINGS[3:], strict=True)]
    print("  ".join(texts), flush=True)


async def run_all(
    configurations: Sequence[Configuration], spec: Mapping[str, Any], limit: float, jobs: int
) -> bool:
    """Run so many configurations at a time; return whether nothing is wrong with any."""
    task: Any = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    places = asyncio.Semaphore(jobs)

    async def in_turn(configuration: Configuration) -> list[str]:
        async with places:
            return await judged(configuration, spec, limit)

    print_row(*HEADINGS)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_turn(configuration)) for configuration in configurations]
    for configuration, done in zip(configurations, tasks, strict=True):
        for complaint in done.result():
            print(f"{configuration}: {complaint}")
    return not any(done.result() for done in tasks)


def main() -> None:
    known = {str(c): c for c in (Configuration(*p) for p in product(ROLES, APIS, REACTORS))}
    parser = argparse.ArgumentParser(
        prog="conformance", description=__doc__, epilog=f"CONFIGURATION: {', '.join(known)}"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="so many at a time")
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help="none: all of them")
    arguments = parser.parse_args()
    unknown = ", ".join(name for name in arguments.names if name not in known)
    if unknown:
        parser.error(f"no such configuration: {unknown}")
    spec: dict[str, Any] = {"cases": ["*"]}
    if arguments.quick:
        spec["messages"] = QUICK_MESSAGES
        print(f"quick: {QUICK_MESSAGES} messages in each of the cases 12 and 13, not 1000")
    chosen = [known[name] for name in arguments.names or known]
    limit = QUICK_LIMIT if arguments.quick else LIMIT
    try:
        passed = asyncio.run(run_all(chosen, spec, limit, arguments.jobs))
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.exit("ended before it was through")
    print(f"{'passed' if passed else 'FAILED'}; the reports are in {REPORTS.relative_to(ROOT)}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
