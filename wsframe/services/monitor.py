"""ws-monitor: agents report at /agent, dashboards watch at /feed, the page is at /."""

from __future__ import annotations

import math
from dataclasses import replace

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.python import usage

from wsframe.clock import global_reactor
from wsframe.connection import Connection
from wsframe.core.http import Headers, Request, Response
from wsframe.monitor.page import PAGE, PAGE_HEADERS
from wsframe.monitor.station import FEED, Station
from wsframe.services.listening import ListeningOptions, ListeningService, seconds

__all__ = ["MonitorService", "Options", "makeService"]


class Options(ListeningOptions):
    """The options of `twistd ws-monitor`."""

    synopsis = "[--listen ENDPOINT]... [--token-file FILE] [--client-timeout SECONDS] [options]"

    optParameters = [  # noqa: RUF012 - Twisted's way
        ["client-timeout", None, 30.0, "Seconds of silence after which an agent is gone."],
    ]

    def postOptions(self) -> None:
        """Check the options of this service, too."""
        super().postOptions()
        self.client_timeout = seconds(self, "client-timeout")
        if not (math.isfinite(self.client_timeout) and 0 < self.client_timeout <= 86400):
            raise usage.UsageError("--client-timeout must be above 0 and at most 86400 seconds")


def _page(request: Request) -> Response | None:
    return None if request.is_upgrade else Response(200, Headers(PAGE_HEADERS), PAGE)


def _upgrade(_: Request) -> None:
    return None


class MonitorService(ListeningService):
    """The monitor: a `Station` behind a listening service."""

    def __init__(self, options: Options) -> None:
        self._station = Station(options.client_timeout, global_reactor())
        super().__init__(
            options,
            self._handle,
            {"/": _page, "/agent": _upgrade, "/feed": _upgrade},
            guarded=frozenset({"/agent", "/feed"}),
            server_options=replace(options.server_options, subprotocols=(FEED,)),
        )

    async def _handle(self, connection: Connection) -> None:
        if connection.request.path == "/agent":
            await self._station.agent(connection)
        elif connection.request.path == "/feed":
            await self._station.dashboard(connection)
        else:
            await connection.close(1008, "there is a page here, and no WebSocket")

    def startService(self) -> None:
        """Begin to listen, and to look for silent agents."""
        super().startService()
        self._station.start()

    def stopService(self) -> Deferred[None]:
        """Drain and end."""
        self._station.stop()
        return super().stopService()


def makeService(options: Options) -> IService:
    """Return the service (called by twistd)."""
    return MonitorService(options)
