"""What a signal switches on a running service: its trace."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wsframe.clock import global_reactor
from wsframe.trace import Trace

__all__ = ["Traceable", "trace_on_signal"]

_log: Final = Logger(namespace="wsframe.trace")


class Traceable(Protocol):
    """A service, a server or a connection: what has a `trace` that can be set."""

    trace: Trace | None


def trace_on_signal(
    service: Traceable,
    trace: Trace,
    signum: int = signal.SIGUSR2,
    reactor: IReactorTime | None = None,
) -> Callable[[], None]:
    """Let each signal switch the trace of a service on, or off again.

    `service` is a client's or server's service, a `Server` or a `Connection`. `reactor` None is the
    installed one. Returns a function that gives the signal back to whoever had it, and leaves the
    trace as it is.

    Raises ValueError outside of the main thread.
    """
    loop: Any = reactor or global_reactor()

    def switch() -> None:
        service.trace = None if service.trace is trace else trace
        _log.info("The trace is {state}", state="off" if service.trace is None else "on")

    def received(_: int, __: FrameType | None) -> None:
        loop.callFromThread(switch)

    previous = signal.signal(signum, received)

    def restore() -> None:
        if signal.getsignal(signum) is received:
            signal.signal(signum, previous or signal.SIG_DFL)

    return restore
