"""One of several processes that serve together: what it does from its first line on.

Standard output carries its log to the parent, a JSON object a line, and one line that says that it
listens. The pipe over which the parent talks to it ends with the parent, and then so does it. A
third one tells the parent that the reactor turns.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny

from wsframe.services.jsonlog import JSONLog
from wsframe.services.listening import ListeningOptions, ListeningService
from wsframe.services.sockets import inherited_endpoint
from wsframe.services.worker_start import ALIVE, CONTROL

__all__ = ["FIRST_SOCKET", "LISTENS", "run"]

_log: Final = Logger(namespace="wsframe.services")

FIRST_SOCKET: Final = ALIVE + 1
"""The file descriptor of the first endpoint's socket; the others follow."""

LISTENS: Final = '{"listens": true}'
"""The line of output that is none of the log."""


def run(given: dict[str, Any], rest: bytes) -> int:
    """Serve as the parent's first line says, until it says otherwise; return the exit status.

    `rest` is what came behind that line.
    """
    # Files, lines and functions, no values; by C code, as a loop that is blocked runs no Python.
    faulthandler.register(signal.SIGQUIT, file=2, all_threads=True, chain=False)
    output = sys.stdout
    globalLogBeginner.beginLoggingTo([JSONLog(output)])
    status = 1
    try:
        namedAny(given["reactor"]).install()
        worker = _Worker(given, rest)
        worker.serve(lambda: output.write(f"{LISTENS}\n") and output.flush())
        status = worker.status
    except usage.UsageError as error:
        _log.critical("{error}", error=str(error))
    except Exception:  # noqa: BLE001 - whatever it is, the parent's log is where it is read
        _log.failure("The worker cannot serve")
    return status


class _Worker:
    def __init__(self, given: dict[str, Any], rest: bytes) -> None:
        from twisted.internet import reactor

        self.status = 0
        self._reactor: Any = reactor
        self._options = _options(given)
        self._options.endpoints = [
            inherited_endpoint(
                description,
                _inherited(FIRST_SOCKET + place),
                self._options.server_options.backlog,
                reactor,
            )
            for place, description in enumerate(self._options["listen"])
        ]
        self._service: ListeningService = namedAny(given["build"])(self._options)
        self._tracing: bool = given["tracing"]
        self._heartbeat: float | None = given["heartbeat"]
        self._control = _Control(self, rest)

    def serve(self, tell: Callable[[], object]) -> None:
        """Serve until the end; `tell` is called when the service listens."""
        # Not before the reactor runs: only then does SIGTERM drain, and not end us.
        self._service.when_listening().addCallbacks(
            lambda _: self._reactor.callLater(0, tell), self._cannot
        )
        self._service.privilegedStartService()
        self._service.startService()
        self.trace(self._tracing)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._service.stopService)
        if self._heartbeat is not None:
            os.set_blocking(ALIVE, False)
            beating = LoopingCall(_beat)
            beating.clock = self._reactor
            beating.start(self._heartbeat)
        self._control.startReading()
        self._reactor.callWhenRunning(self._control.look)
        self._reactor.run()

    def _cannot(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:  # it has been logged
            self.status = 1
            self.stop()

    def trace(self, wanted: bool) -> None:
        """Write the trace, or not; nothing where none is asked for."""
        trace = self._options.tracing.trace
        if trace is not None:
            self._service.trace = trace if wanted else None

    def stop(self) -> None:
        """Drain and end."""
        with suppress(ReactorNotRunning):
            self._reactor.callWhenRunning(self._reactor.stop)


class _Control(FileDescriptor):
    """What the parent says, and that it is still there."""

    def __init__(self, worker: _Worker, rest: bytes) -> None:
        super().__init__(worker._reactor)
        os.set_blocking(CONTROL, False)
        self._worker = worker
        self._data = rest

    def fileno(self) -> int:
        return CONTROL

    def doRead(self) -> Any:
        try:
            data = os.read(CONTROL, 65536)
        except BlockingIOError:
            return None
        if not data:
            return CONNECTION_DONE
        self._data += data
        self.look()
        return None

    def look(self) -> None:
        """Do what whole lines say."""
        *lines, self._data = self._data.split(b"\n")
        for line in lines:
            self._worker.trace(json.loads(line)["tracing"])

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        if reason.check(ConnectionDone):  # and not by the reactor's end
            _log.warn("The parent process is gone")
            self._worker.stop()


def _beat() -> None:
    with suppress(OSError):  # the parent does not read, or is gone
        os.write(ALIVE, b".")


def _inherited(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    return socket.socket(fileno=number)


def _options(given: dict[str, Any]) -> ListeningOptions:
    """Parse the command line once more, where the parent did so: paths may be relative."""
    options = cast(ListeningOptions, namedAny(given["options"])())
    options.number = given["number"]
    here = Path.cwd()
    with suppress(OSError):  # it may be closed to the user that we are by now
        os.chdir(given["directory"])
    try:
        options.parseOptions(given["arguments"])
    finally:
        os.chdir(here)
    return options
