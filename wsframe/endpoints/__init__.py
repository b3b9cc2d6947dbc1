"""The client endpoints: the links of the chain that ends in an open WebSocket.

    HostEndpoint ─▶ HTTPConnectEndpoint ─▶ TLSEndpoint ─▶ WebSocketEndpoint
                    or SOCKSEndpoint

Each link is an `IStreamClientEndpoint` over the one before it, and keeps four promises: its
Deferred fires only when its own handshake is complete; on failure, timeout and cancellation the
transport is aborted and nothing is left; the protocol inside is built only after success; and the
failure is an `OpenError` that says its phase.

The links are public: any Twisted protocol can be carried through an `HTTPConnectEndpoint` or a
`SOCKSEndpoint`, and `tunnel_endpoint` puts them together as `wsframe.connect` does.
"""

from __future__ import annotations

from wsframe.endpoints.host import HostEndpoint
from wsframe.endpoints.proxy import HTTPConnectEndpoint, ProxyTLS, SOCKSEndpoint
from wsframe.endpoints.route import explain_route
from wsframe.endpoints.tls import TLSEndpoint
from wsframe.endpoints.tls_options import TLSOptions
from wsframe.endpoints.tunnel import tunnel_endpoint
from wsframe.endpoints.websocket import ConnectionProtocol, WebSocketEndpoint

__all__ = [
    "ConnectionProtocol",
    "HTTPConnectEndpoint",
    "HostEndpoint",
    "ProxyTLS",
    "SOCKSEndpoint",
    "TLSEndpoint",
    "TLSOptions",
    "WebSocketEndpoint",
    "explain_route",
    "tunnel_endpoint",
]
