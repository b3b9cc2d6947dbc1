"""Autobahn's WebSocket protocols and factories, under its own names, with safe defaults.

An Autobahn application moves over by changing the import::

    from wsframe.protocol import WebSocketServerFactory, WebSocketServerProtocol

Its hooks (`onConnect`, `onOpen`, `onMessage`, `onClose` …) are called as Autobahn calls them, and
may be `async def`. What differs is listed in docs/autobahn.md: limits and keepalive are on, the
peer is told the right close code, pages of other sites are refused, no timer is left behind.
"""

from __future__ import annotations

from wsframe.protocol.bridge import (
    OPEN,
    Accept,
    ConnectionClientFactory,
    ConnectionServerFactory,
    Listener,
    ProcessRequest,
    Wire,
)
from wsframe.protocol.client import WebSocketClientFactory, WebSocketClientProtocol, connectWS
from wsframe.protocol.server import WebSocketServerFactory, WebSocketServerProtocol, listenWS
from wsframe.protocol.shared import SharedMessage

__all__ = [
    "OPEN",
    "Accept",
    "ConnectionClientFactory",
    "ConnectionServerFactory",
    "Listener",
    "ProcessRequest",
    "SharedMessage",
    "WebSocketClientFactory",
    "WebSocketClientProtocol",
    "WebSocketServerFactory",
    "WebSocketServerProtocol",
    "Wire",
    "connectWS",
    "listenWS",
]
