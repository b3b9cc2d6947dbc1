"""The services, the endpoint description and the reactor that Twisted offers with wsframe.

There is no ``__init__.py`` in this directory or above it: one would replace Twisted's own package.
Each service is named by a dotted string, and the parser imported when a description is its own, so
listing them imports none of wsframe.
"""

from typing import Any

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

ws_echo = ServiceMaker(
    "ws-echo",
    "wsframe.services.echo",
    "Echo every WebSocket message to its sender.",
    "ws-echo",
)

ws_broadcast = ServiceMaker(
    "ws-broadcast",
    "wsframe.services.broadcast",
    "Send every WebSocket message to all other clients.",
    "ws-broadcast",
)

ws_monitor = ServiceMaker(
    "ws-monitor",
    "wsframe.services.monitor",
    "Collect what agents report and show it on a live page.",
    "ws-monitor",
)

ws_agent = ServiceMaker(
    "ws-agent",
    "wsframe.services.agent",
    "Report this machine to a monitor, through a proxy where one is set.",
    "ws-agent",
)

corked_reactor = Reactor(
    "corked",
    "wsframe.reactor",
    "epoll(7) based reactor, which writes at the end of each turn.",
)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class TunnelDescription:
    """The client endpoints `tunnel:host:port:proxy=...`; see `wsframe.endpoints.description`."""

    prefix = "tunnel"

    # Positional, as a description may have any name; mypy-zope takes the interface's `self` away.
    def parseStreamClient(  # type: ignore[override]
        self, reactor: Any, /, *args: Any, **kwargs: Any
    ) -> IStreamClientEndpoint:
        """Twisted: return the endpoint of a description."""
        from wsframe.endpoints.description import parse_tunnel

        return parse_tunnel(reactor, *args, **kwargs)


tunnel_description = TunnelDescription()
