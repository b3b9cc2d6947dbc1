"""The monitor with an agent for this machine, in one process: `make demo`."""

from __future__ import annotations

import sys
from typing import cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver

from wsframe.services import agent, monitor

__all__ = ["main"]

PORT = 8765


async def run(reactor: IReactorCore) -> None:
    """Run until the process is stopped."""
    station = _listening_monitor()
    server = await station.when_listening()
    port = cast(IPv4Address, server.addresses[0]).port
    options = agent.Options()
    options.parseOptions(["--server", f"ws://127.0.0.1:{port}/agent", "--interval", "1"])
    reporter = agent.AgentService(options)
    reporter.startService()
    print(
        f"\n  The monitor is open at  http://127.0.0.1:{port}/\n\n  Ctrl-C ends it.\n", flush=True
    )
    stop = Deferred[None]()
    ended = Deferred[None]()

    def shut_down() -> Deferred[None]:
        stop.callback(None)
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", shut_down)
    await stop
    await reporter.stopService()
    await station.stopService()
    ended.callback(None)


def _listening_monitor() -> monitor.MonitorService:
    """Return a monitor on the usual port, or on a free one when that is taken."""
    for port in (PORT, 0):
        options = monitor.Options()
        options.parseOptions(["--listen", f"tcp:{port}:interface=127.0.0.1"])
        service = monitor.MonitorService(options)
        try:
            service.startService()
        except CannotListenError:
            continue
        return service
    raise CannotListenError("127.0.0.1", PORT, "no port is free")


def main() -> None:
    """Run the demo."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    react(run)


if __name__ == "__main__":
    main()
