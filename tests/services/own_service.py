"""A service of somebody's own, whose workers fail as they are told to; run by `twistd --python`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from twisted.application.service import Application
from twisted.logger import Logger

from wsframe.connection import Connection
from wsframe.options import ServerOptions, WorkerOptions
from wsframe.services.listening import ListeningOptions, ListeningService
from wsframe.services.workers import in_workers

LIMITS = WorkerOptions(
    first_delay=0.02, max_delay=0.1, max_failures=3, start_timeout=20.0, drain_grace=0.5
)
_log = Logger(namespace="own")


class Options(ListeningOptions):
    """As any other, with a shorter drain."""

    shares_nothing = True

    optParameters = [  # noqa: RUF012
        ["manner", None, "serve", "What the workers do."],
        ["silence", None, 30.0, "Seconds of it until one is killed.", float],
        ["grace", None, 1.0, "Seconds that the output of a dead one is waited for.", float],
    ]

    def build_options(self) -> ServerOptions:
        return replace(super().build_options(), drain_timeout=0.5)


async def echo(connection: Connection) -> None:
    async for message in connection:
        if message == "block":
            threading.Event().wait()
        await connection.send(message)


def build(options: Options) -> ListeningService:
    from twisted.internet import reactor

    manners: dict[str, Callable[[], object]] = {
        "refuse": lambda: 1 / 0,
        "die": lambda: reactor.callLater(0.1, os.kill, os.getpid(), signal.SIGKILL),  # type: ignore[attr-defined]
        "talk": talk,
        "bear": bear,
        "serve": lambda: None,
    }
    manners[options["manner"]]()
    _log.info("The reactor is {name}", name=type(reactor).__name__)
    return ListeningService(options, echo, {"/": lambda _: None}, guarded=frozenset({"/"}))


def talk() -> None:
    print("printed")
    os.write(1, b"written past the log\n\xff\n" + b"x" * 3_000_000 + b"\n")
    os.write(1, b'{"level": "critical"}\n[1]\n{"level": "info", "namespace": "n"}\n')
    os.write(2, b"Fatal Python error\n")
    _log.info("braces {{}} {text}", text="\n{forged} \x1b[31m", number=7, worker=99)
    try:
        raise RuntimeError("a failure of the worker")
    except RuntimeError:
        _log.failure("It failed")


def bear() -> None:
    """Start a child that has the same output."""
    _log.info("The child is {pid}", pid=os.posix_spawnp("sleep", ["sleep", "60"], os.environ))


def application(arguments: list[str]) -> Application:
    options = Options()
    options.parseOptions(arguments)
    made = Application("own")
    limits = replace(LIMITS, silence_timeout=options["silence"], cut_grace=options["grace"])
    in_workers(options, build, limits).setServiceParent(made)
    return made


def tac(directory: Path, *arguments: str) -> str:
    """Write what `twistd --python` runs; return its path."""
    path = directory / "own.tac"
    tests = str(Path(__file__).parents[1])
    path.write_text(
        f"import sys\nsys.path.insert(0, {tests!r})\n"
        "from services.own_service import application as make\n"
        f"application = make({list(arguments)!r})\n"
    )
    return str(path)
