"""Several processes that serve one service, and the parent that starts, replaces and ends them.

The parent serves nobody. It holds the addresses, writes the one log, and is what signals are sent
to. A worker learns all it needs over a pipe, never by its arguments, and ends when that pipe does:
so a parent that is killed leaves none behind. The first worker that ends before any has ever
listened ends the service, as there is then something wrong with it; those that end later are
replaced, as `WorkerOptions` says.

A worker whose loop is blocked for good does not end, and the kernel goes on to give it its share of
the connections. So each tells the parent time and again that its reactor turns, and one that has
been silent for too long says where it is, if it still can, and is killed. The parent waits for that
sign as a connection's keepalive waits for a message: while it was itself stopped, suspended or
blocked it counts nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import InvalidLogLevelError, Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny

from wsframe.clock import global_reactor, use_monotonic_clock
from wsframe.core.keepalive import Action, Keepalive
from wsframe.options import DEFAULT_WORKER_OPTIONS, WorkerOptions
from wsframe.services import worker_start
from wsframe.services.listening import ListeningOptions, ListeningService, cut_on_next_signal
from wsframe.services.sockets import Reservation
from wsframe.services.worker import FIRST_SOCKET, LISTENS
from wsframe.services.worker_start import ALIVE, CONTROL

__all__ = ["Workers", "in_workers"]

_log: Final = Logger(namespace="wsframe.services")

MAX_LINE: Final = 1024 * 1024
"""Bytes of one line of a worker's output; what is longer is cut. The JSON log's own are shorter."""

HEARTBEATS: Final = 10
"""Signs of life that a worker gives within `silence_timeout`, any of which will do: with the
default one in three seconds, which costs nothing."""

Options = TypeVar("Options", bound=ListeningOptions)


def in_workers(
    options: Options,
    build: Callable[[Options], ListeningService],
    limits: WorkerOptions = DEFAULT_WORKER_OPTIONS,
) -> IService:
    """Return the service for twistd: the one that is built, or with `--workers` many of it.

    `build` is a function of a module, as is the class of the options: each worker finds both by
    their names, parses the same command line, and runs what `build` returns. The parent does not
    call it.

    Raises TypeError where one of them has no such name, ValueError for options that were not
    parsed.
    """
    if options.workers == 1:
        return build(options)
    return Workers(options, build, limits)


class Workers(Service):
    """So many processes, each with the service that `build` returns; made by `in_workers`."""

    def __init__(
        self,
        options: Options,
        build: Callable[[Options], ListeningService],
        limits: WorkerOptions = DEFAULT_WORKER_OPTIONS,
    ) -> None:
        if options.arguments is None:
            raise ValueError("the workers parse the command line that parseOptions was given")
        self._given: dict[str, Any] = {
            "options": _name(type(options)),
            "build": _name(build),
            "arguments": options.arguments,
            "directory": options.directory,
        }
        self._listen: list[str] = options["listen"]
        self._signalled = options.tracing.asked_for
        self._tracing = options.tracing.at_once
        self._drain_timeout = options.server_options.drain_timeout
        self._backlog = options.server_options.backlog
        self.limits = limits
        self.reactor: Any = global_reactor()
        self._reservations: list[Reservation] = []
        self._places = [_Place(number, self) for number in range(1, options.workers + 1)]
        self._ever_listened = False
        self._failed = False
        self._stopping: Deferred[None] | None = None
        self._restore: list[Callable[[], object]] = []

    def privilegedStartService(self) -> None:
        """Bind, while the process may still open low ports."""
        self._reserve()
        super().privilegedStartService()

    def startService(self) -> None:
        """Have the workers started as soon as the reactor runs."""
        self._reserve()
        use_monotonic_clock(self.reactor)
        reactor_module = type(self.reactor).__module__
        if not hasattr(namedAny(reactor_module), "install"):
            raise RuntimeError(f"{reactor_module} has no install() for the workers to call")
        if not os.access(sys.executable, os.X_OK, effective_ids=True):
            # Also after chroot.
            raise RuntimeError(f"the workers cannot run {sys.executable} as user {os.geteuid()}")
        self._given["reactor"] = reactor_module
        self._ever_listened = self._failed = False
        self._take_trace_signal()
        super().startService()
        self.reactor.callWhenRunning(self._begin)

    def _reserve(self) -> None:
        if self._reservations:
            return
        try:
            for description in self._listen:
                self._reservations.append(
                    Reservation(description, len(self._places), self._backlog)
                )
        except Exception as error:
            _log.error("Cannot listen: {error}", error=str(error))
            self._release()
            raise

    def _release(self) -> None:
        reservations, self._reservations = self._reservations, []
        for reservation in reservations:
            reservation.close()

    def _begin(self) -> None:
        if self.running and self._stopping is None:
            for place in self._places:
                if not place.occupied:
                    place.start()

    # ---------------------------------------------------------------- for the places

    def sockets(self, number: int) -> list[socket.socket]:
        """Return the sockets of the worker with that number, one for each endpoint."""
        return [reservation.sockets[number - 1] for reservation in self._reservations]

    def first_line(self, number: int) -> dict[str, Any]:
        """Return what the worker with that number is told first."""
        limit = self.limits.silence_timeout
        return {
            **self._given,
            "number": number,
            "path": list(map(str, sys.path)),
            "tracing": self._tracing,
            "heartbeat": None if limit is None else limit / HEARTBEATS,
        }

    def listens(self) -> None:
        """Note that a worker has come as far as that."""
        self._ever_listened = True

    def exited(self, place: _Place) -> None:
        """Have nobody wait for a worker whose end is not complete: it accepts no more."""
        for reservation in self._reservations:
            reservation.vacate(place.number)

    def ended(self, place: _Place, what: str) -> None:
        """Have a worker that ended replaced, or see what its end means."""
        if self._failed or self._stopping is not None:
            _log.info("Worker {worker} {what}", worker=place.number, what=what)
            self._look()
            return
        if not self._ever_listened:
            self._fail(f"Worker {place.number} {what}, before any worker listened")
        elif all(each.failures >= self.limits.max_failures for each in self._places):
            self._fail(f"Worker {place.number} {what}, like the last {self.limits.max_failures}")
        else:
            delay = place.next_delay()
            _log.error(
                "Worker {worker} {what}; the next one starts in {delay:.1f} s",
                worker=place.number,
                what=what,
                delay=delay,
            )
            place.start_in(delay)

    def _fail(self, what: str) -> None:
        self._failed = True
        _log.critical("{what}: the service ends", what=what)
        # twistd knows no failure of a service that has started, and would return 0. What was
        # registered before this is not called; nothing of twistd's is among that.
        atexit.register(os._exit, 1)
        with suppress(ReactorNotRunning):
            self.reactor.stop()

    # ---------------------------------------------------------------- the trace

    def _take_trace_signal(self) -> None:
        if not self._signalled:
            return

        def received(_: int, __: FrameType | None) -> None:
            self.reactor.callFromThread(self._switch_trace)

        with suppress(ValueError):  # not the main thread: then the signals are somebody else's
            previous = signal.signal(signal.SIGUSR2, received)
            self._restore.append(lambda: signal.signal(signal.SIGUSR2, previous or signal.SIG_DFL))

    def _switch_trace(self) -> None:
        # A signal that was handed on would kill a worker that cannot take it yet, and a worker
        # that is replaced would do the opposite of the others from then on.
        self._tracing = not self._tracing
        _log.info("The trace is {state}", state="on" if self._tracing else "off")
        for place in self._places:
            place.tell({"tracing": self._tracing})

    # ---------------------------------------------------------------- the end

    def stopService(self) -> Deferred[None]:
        """Drain all workers; fires when none is left. A second SIGTERM meanwhile is immediate."""
        if self._stopping is not None:
            return self._stopping
        super().stopService()
        self._release()  # the workers hold their own, and stop accepting
        stopped = self._stopping = Deferred()
        for place in self._places:
            place.stop()
        self._kill_in(self._drain_timeout + self.limits.drain_grace)
        self._restore.append(cut_on_next_signal(self._cut))
        self._look()
        return stopped

    def _cut(self) -> None:
        for place in self._places:
            place.signal(signal.SIGTERM)
        self._kill_in(self.limits.cut_grace)

    def _kill_in(self, seconds: float) -> None:
        call: IDelayedCall = self.reactor.callLater(seconds, self._kill)
        self._restore.append(lambda: call.cancel() if call.active() else None)

    def _kill(self) -> None:
        for place in self._places:
            if place.signal(signal.SIGKILL):
                _log.warn("Worker {worker} did not end in time: killed", worker=place.number)

    def _look(self) -> None:
        """See whether the last worker is gone that `stopService` waits for."""
        if self._stopping is None or any(place.occupied for place in self._places):
            return
        stopped, self._stopping = self._stopping, None
        restoring, self._restore = self._restore, []
        for restore in restoring:
            restore()
        stopped.callback(None)


class _Place:
    """Where there is to be a worker: the one that is there, and how those before it ended."""

    def __init__(self, number: int, workers: Workers) -> None:
        self.number = number
        self.workers = workers
        self._process: _Process | None = None
        self._call: IDelayedCall | None = None
        self._deaths = 0
        self._since: float | None = None
        self._until: float | None = None
        """When one that was killed for its silence was heard last."""
        self._life: Keepalive | None = None

    @property
    def occupied(self) -> bool:
        """Whether a process is there."""
        return self._process is not None

    @property
    def failures(self) -> int:
        """How many workers in a row died here, before or soon after they served."""
        return 0 if self._is_stable else self._deaths

    @property
    def _is_stable(self) -> bool:
        if self._since is None:
            return False
        until = self.workers.reactor.seconds() if self._until is None else self._until
        return bool(until - self._since >= self.workers.limits.stable_after)

    def start(self) -> None:
        """Start a worker."""
        workers = self.workers
        self._call = None
        process = _Process(self)
        sockets = workers.sockets(self.number)
        fds: dict[int, Any] = {1: "r", 2: "r", CONTROL: "w", ALIVE: "r"}
        fds |= {FIRST_SOCKET + place: one.fileno() for place, one in enumerate(sockets)}
        command = [sys.executable, "-P", str(worker_start.__file__)]
        try:
            with Path(os.devnull).open() as nothing:
                workers.reactor.spawnProcess(
                    process, sys.executable, command, None, childFDs={0: nothing.fileno(), **fds}
                )
        except OSError as error:  # no more processes, or files
            self.ended(f"could not be started ({error})")
            return
        self._process = process
        self.tell(workers.first_line(self.number))
        self._call = workers.reactor.callLater(workers.limits.start_timeout, self._too_late)
        _log.info("Worker {worker} is process {pid}", worker=self.number, pid=process.pid)

    def start_in(self, seconds: float) -> None:
        """Start a worker after so many seconds."""
        self._call = self.workers.reactor.callLater(seconds, self.start)

    def next_delay(self) -> float:
        """Draw how long to wait after the deaths so far."""
        if self._deaths == 0:
            return 0.0
        limits = self.workers.limits
        largest = min(limits.first_delay, limits.max_delay)
        for _ in range(self._deaths - 1):
            largest = min(largest * limits.factor, limits.max_delay)
        return random.uniform(largest / 2, largest)  # noqa: S311 - nobody gains by guessing it

    def _too_late(self) -> None:
        self._call = None
        _log.error("Worker {worker} does not listen: killed", worker=self.number)
        self.signal(signal.SIGKILL)

    def _cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def listens(self) -> None:
        """From the process: it serves."""
        if self._since is not None:
            return
        self._cancel()
        self._since = self.workers.reactor.seconds()
        self._life = Keepalive(None, None, message_timeout=self.workers.limits.silence_timeout)
        self._life.start(self._since)
        self._wait_for_life()
        self.workers.listens()
        _log.info("Worker {worker} listens", worker=self.number)

    def lives(self) -> None:
        """From the process: its reactor turns."""
        if self._life is not None:
            self._life.heard = self.workers.reactor.seconds()
            self._life.message()

    def _wait_for_life(self) -> None:
        deadline = None if self._life is None else self._life.deadline
        if deadline is not None:
            reactor = self.workers.reactor
            self._call = reactor.callLater(max(0.0, deadline - reactor.seconds()), self._look)

    def _look(self) -> None:
        self._call = None
        if self._life is None or self._life.wake(self.workers.reactor.seconds()) is Action.NOTHING:
            self._wait_for_life()
            return
        self._until = self._life.heard
        limits = self.workers.limits
        if self.signal(signal.SIGQUIT):
            _log.error(
                "Worker {worker} has given no sign of life for {seconds:g} s: killed",
                worker=self.number,
                seconds=limits.silence_timeout,
            )
            self._call = self.workers.reactor.callLater(limits.cut_grace, self._kill)

    def _kill(self) -> None:
        self._call = None
        self.signal(signal.SIGKILL)

    def ended(self, what: str) -> None:
        """From the process: it is gone."""
        self._cancel()
        self._deaths = 0 if self._is_stable else self._deaths + 1
        self._process = self._since = self._until = self._life = None
        self.workers.ended(self, what)

    def stop(self) -> None:
        """Have the worker drain, and start no other."""
        self._cancel()
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to the process; return whether there is one."""
        return self._process is not None and self._process.signal(number)

    def tell(self, what: dict[str, Any]) -> None:
        """Send a line to the process, where there is one."""
        if self._process is not None:
            self._process.tell(what)


class _Process(ProcessProtocol):
    """One process: what it says goes to the log, what becomes of it to its place."""

    transport: Any

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._output = {1: _Lines(self._said), 2: _Lines(self._cried)}
        self._closing: IDelayedCall | None = None
        self.pid = 0

    def connectionMade(self) -> None:
        transport: IProcessTransport = self.transport
        self.pid = transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == ALIVE:
            self._place.lives()
        else:
            self._output[childFD].received(data)

    def _said(self, line: str) -> None:
        if line == LISTENS:
            self._place.listens()
        else:
            _hand_on(self._place.number, line)

    def _cried(self, line: str) -> None:
        _log.error("Worker {worker}: {line}", worker=self._place.number, line=line)

    def tell(self, what: dict[str, Any]) -> None:
        """Send a line; nothing where nobody is left to read it."""
        if CONTROL in self.transport.pipes:
            self.transport.writeToChild(CONTROL, json.dumps(what).encode() + b"\n")

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; return whether there was a process to get it."""
        try:
            self.transport.signalProcess(int(number))
        except ProcessExitedAlready:
            return False
        return True

    def processExited(self, reason: Failure) -> None:
        # It has ended only when its output has, for which its own children might never let go.
        workers = self._place.workers
        workers.exited(self._place)
        self._closing = workers.reactor.callLater(workers.limits.cut_grace, self._close)

    def _close(self) -> None:
        self._closing = None
        for fd in list(self.transport.pipes):
            self.transport.closeChildFD(fd)

    def processEnded(self, reason: Failure) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.cancel()
        for lines in self._output.values():
            lines.ended()
        error: Any = reason.value
        if error.signal is not None:
            what = f"(process {self.pid}) was ended by {_signal_name(error.signal)}"
        else:
            what = f"(process {self.pid}) ended with status {error.exitCode}"
        self._place.ended(what)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time ones have none
        return f"signal {number}"


class _Lines:
    """Bytes as they come, handed on in lines."""

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take = take
        self._parts: list[bytes] = []
        self._size = 0

    def received(self, data: bytes) -> None:
        """Take bytes."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            self.ended()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        kept = part[: MAX_LINE - self._size]
        if kept:
            self._parts.append(kept)
            self._size += len(kept)

    def ended(self) -> None:
        """Hand on what there is, as a line."""
        line = b"".join(self._parts).decode(errors="backslashreplace")
        self._parts.clear()
        self._size = 0
        if line:
            self._take(line)


class _Told(Failure):
    """A failure of another process, of which there is only its text."""

    def __init__(self, traceback: str) -> None:
        lines = traceback.strip().splitlines()
        super().__init__(RuntimeError(lines[-1] if lines else ""))
        self._told = traceback

    def getTraceback(self, *_: object, **__: object) -> str:
        """Return the text."""
        return self._told


def _hand_on(worker: int, line: str) -> None:
    """Log what a worker logged, at its time, level and place, with its number."""
    try:
        told = json.loads(line)
        namespace, message = str(told.pop("namespace")), str(told.pop("message"))
        level = told.pop("level")
        event: dict[str, Any] = {
            "log_time": datetime.fromisoformat(told.pop("time")).timestamp(),
            "log_level": LogLevel.levelWithName(level),
        }
    except (ValueError, LookupError, TypeError, AttributeError, InvalidLogLevelError):
        # Something wrote to its standard output without asking.
        _log.info("Worker {worker}: {line}", worker=worker, line=line)
        return
    system = "-" if namespace == "log_legacy" else f"{namespace}#{level}"  # as in a text log
    event |= {
        "log_namespace": namespace,
        "log_system": f"{system} worker {worker}",
        "log_format": message.replace("{", "{{").replace("}", "}}"),
    }
    traceback = told.pop("traceback", None)
    if traceback is not None:
        event["log_failure"] = _Told(str(traceback))
    for name, value in told.items():
        if not name.startswith("log_") and name not in {"isError", "format", "system", "time"}:
            event[name] = value
    globalLogPublisher({**event, "worker": worker})


def _name(of: Any) -> str:
    """Return the name by which another process finds a class or function."""
    name = f"{of.__module__}.{of.__qualname__}"
    found: Any = None
    with suppress(Exception):  # whatever importing it raises
        found = namedAny(name)
    if found is not of or name.startswith("__main__."):
        raise TypeError(f"{name} cannot be imported by that name, as a worker has to")
    return name
