"""The services twistd offers once wsframe is installed.

There is no ``__init__.py`` in this directory or above it: one would replace Twisted's own package.
Each service is named by a dotted string, so listing them imports none of them.
"""

from twisted.application.service import ServiceMaker

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
