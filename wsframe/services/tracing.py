"""What the services say on the command line about their trace, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.python import usage

from wsframe.signals import Traceable, trace_on_signal
from wsframe.trace import Trace

__all__ = ["TRACE_FLAGS", "TRACE_PARAMETERS", "Tracing"]

TRACE_PARAMETERS: Final[list[list[Any]]] = [
    [
        "trace",
        None,
        None,
        "File to write every opening handshake to, without secrets; SIGUSR2 turns it off and on.",
    ],
    ["trace-on-signal", None, None, "The same, but nothing is written before the first SIGUSR2."],
]
TRACE_FLAGS: Final[list[list[Any]]] = [
    ["trace-frames", None, "Write every frame, too."],
]


class Tracing:
    """The trace that the options of a service ask for; the file is opened at once.

    `suffix` is added to the file's name; `opens` False only checks the options, for a process whose
    workers write the trace.

    Raises UsageError.
    """

    def __init__(self, options: usage.Options, *, suffix: str = "", opens: bool = True) -> None:
        at_once, later = options["trace"], options["trace-on-signal"]
        if at_once is not None and later is not None:
            raise usage.UsageError("--trace and --trace-on-signal are given both; use one of them")
        name = "trace" if later is None else "trace-on-signal"
        path = options[name]
        if path is None and options["trace-frames"]:
            raise usage.UsageError("--trace-frames needs --trace or --trace-on-signal")
        self.trace: Trace | None = None
        if path is not None and opens:
            try:
                self.trace = Trace(f"{path}{suffix}", frames=bool(options["trace-frames"]))
            except (ValueError, OSError) as error:
                raise usage.UsageError(f"--{name}: {error}") from None
        self.asked_for = path is not None
        self.at_once = at_once is not None
        self._restore: Callable[[], None] = lambda: None

    def start(self, service: Traceable) -> None:
        """Begin with the service: write, or wait for the signal."""
        if self.trace is None:
            return
        if self.at_once:
            service.trace = self.trace
        with suppress(ValueError):  # not the main thread: then the signals are somebody else's
            self._restore = trace_on_signal(service, self.trace)

    def stop(self) -> None:
        """Give the signal back."""
        restore, self._restore = self._restore, lambda: None
        restore()
