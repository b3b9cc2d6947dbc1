"""wsframe: WebSockets and proxy tunnels for Twisted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from wsframe.errors import (
    AddressFailure,
    BadHandshake,
    BadProxyAnswer,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeRefused,
    HookTimeout,
    InvalidHeader,
    InvalidProxy,
    InvalidTLSOptions,
    InvalidTokenFile,
    InvalidURI,
    NameLookupFailed,
    NotSent,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    OutboxFull,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyError,
    ProxyRefused,
    ProxyTimeout,
    ProxyTLSFailed,
    ProxyUnreachable,
    ReceiveTimeout,
    Reject,
    SendBufferFull,
    TargetUnreachable,
    TCPConnectFailed,
    TLSFailed,
    WSFrameError,
)

if TYPE_CHECKING:  # what type checkers and editors read; at run time, `_HOMES`
    from wsframe.auth import basic_auth, bearer_auth
    from wsframe.client import (
        Attempt,
        ConnectArguments,
        Diagnosis,
        Trial,
        WebSocketClientService,
        connect,
        diagnose,
        reconnecting,
    )
    from wsframe.clock import use_monotonic_clock
    from wsframe.connection import Connection, Message, State
    from wsframe.core import events
    from wsframe.core.credentials import ProxyCredentials
    from wsframe.core.http import Headers, Request, Response
    from wsframe.core.opening import GENERATED
    from wsframe.core.proxy import FROM_ENVIRONMENT, Hop, Proxies, Proxy, ProxySettings, Route
    from wsframe.core.retry import GIVE_UP, RETRY, RetryPolicy, Verdict, retry_after
    from wsframe.core.timing import Observe, PhaseDone
    from wsframe.endpoints import (
        ConnectionProtocol,
        HTTPConnectEndpoint,
        ProxyTLS,
        SOCKSEndpoint,
        TLSEndpoint,
        TLSOptions,
        WebSocketEndpoint,
        explain_route,
        tunnel_endpoint,
    )
    from wsframe.endpoints.agent import ProxiedAgentEndpointFactory
    from wsframe.endpoints.netrc import netrc_credentials
    from wsframe.fanout import broadcast
    from wsframe.options import (
        ClientOptions,
        ConnectionOptions,
        Deflate,
        ServerOptions,
        ServiceOptions,
        TCPKeepalive,
    )
    from wsframe.protocol import Accept
    from wsframe.resource import WebSocketResource
    from wsframe.server import Server, WebSocketServerService, serve
    from wsframe.signals import trace_on_signal
    from wsframe.token_files import load_tokens
    from wsframe.trace import Trace

    __version__: str

__all__ = [
    "FROM_ENVIRONMENT",
    "GENERATED",
    "GIVE_UP",
    "RETRY",
    "Accept",
    "AddressFailure",
    "Attempt",
    "BadHandshake",
    "BadProxyAnswer",
    "ClientOptions",
    "ConcurrencyError",
    "ConnectArguments",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionOptions",
    "ConnectionProtocol",
    "Deflate",
    "Diagnosis",
    "HTTPConnectEndpoint",
    "HandshakeRefused",
    "Headers",
    "HookTimeout",
    "Hop",
    "InvalidHeader",
    "InvalidProxy",
    "InvalidTLSOptions",
    "InvalidTokenFile",
    "InvalidURI",
    "Message",
    "NameLookupFailed",
    "NotSent",
    "Observe",
    "OpenCancelled",
    "OpenError",
    "OpenTimeout",
    "OutboxFull",
    "PhaseDone",
    "ProxiedAgentEndpointFactory",
    "Proxies",
    "Proxy",
    "ProxyAuthRefused",
    "ProxyAuthRequired",
    "ProxyCredentials",
    "ProxyCredentialsFailed",
    "ProxyError",
    "ProxyRefused",
    "ProxySettings",
    "ProxyTLS",
    "ProxyTLSFailed",
    "ProxyTimeout",
    "ProxyUnreachable",
    "ReceiveTimeout",
    "Reject",
    "Request",
    "Response",
    "RetryPolicy",
    "Route",
    "SOCKSEndpoint",
    "SendBufferFull",
    "Server",
    "ServerOptions",
    "ServiceOptions",
    "State",
    "TCPConnectFailed",
    "TCPKeepalive",
    "TLSEndpoint",
    "TLSFailed",
    "TLSOptions",
    "TargetUnreachable",
    "Trace",
    "Trial",
    "Verdict",
    "WSFrameError",
    "WebSocketClientService",
    "WebSocketEndpoint",
    "WebSocketResource",
    "WebSocketServerService",
    "basic_auth",
    "bearer_auth",
    "broadcast",
    "connect",
    "diagnose",
    "events",
    "explain_route",
    "load_tokens",
    "netrc_credentials",
    "reconnecting",
    "retry_after",
    "serve",
    "trace_on_signal",
    "tunnel_endpoint",
    "use_monotonic_clock",
]

_HOMES: Final = {
    "FROM_ENVIRONMENT": "wsframe.core.proxy",
    "GENERATED": "wsframe.core.opening",
    "GIVE_UP": "wsframe.core.retry",
    "RETRY": "wsframe.core.retry",
    "Accept": "wsframe.protocol",
    "Attempt": "wsframe.client",
    "ClientOptions": "wsframe.options",
    "ConnectArguments": "wsframe.client",
    "Connection": "wsframe.connection",
    "ConnectionOptions": "wsframe.options",
    "ConnectionProtocol": "wsframe.endpoints",
    "Deflate": "wsframe.options",
    "Diagnosis": "wsframe.client",
    "HTTPConnectEndpoint": "wsframe.endpoints",
    "Headers": "wsframe.core.http",
    "Hop": "wsframe.core.proxy",
    "Message": "wsframe.connection",
    "Observe": "wsframe.core.timing",
    "PhaseDone": "wsframe.core.timing",
    "ProxiedAgentEndpointFactory": "wsframe.endpoints.agent",
    "Proxies": "wsframe.core.proxy",
    "Proxy": "wsframe.core.proxy",
    "ProxyCredentials": "wsframe.core.credentials",
    "ProxySettings": "wsframe.core.proxy",
    "ProxyTLS": "wsframe.endpoints",
    "Request": "wsframe.core.http",
    "Response": "wsframe.core.http",
    "RetryPolicy": "wsframe.core.retry",
    "Route": "wsframe.core.proxy",
    "SOCKSEndpoint": "wsframe.endpoints",
    "Server": "wsframe.server",
    "ServerOptions": "wsframe.options",
    "ServiceOptions": "wsframe.options",
    "State": "wsframe.connection",
    "TCPKeepalive": "wsframe.options",
    "TLSEndpoint": "wsframe.endpoints",
    "TLSOptions": "wsframe.endpoints",
    "Trace": "wsframe.trace",
    "Trial": "wsframe.client",
    "Verdict": "wsframe.core.retry",
    "WebSocketClientService": "wsframe.client",
    "WebSocketEndpoint": "wsframe.endpoints",
    "WebSocketResource": "wsframe.resource",
    "WebSocketServerService": "wsframe.server",
    "basic_auth": "wsframe.auth",
    "bearer_auth": "wsframe.auth",
    "broadcast": "wsframe.fanout",
    "connect": "wsframe.client",
    "diagnose": "wsframe.client",
    "events": "wsframe.core.events",
    "explain_route": "wsframe.endpoints",
    "load_tokens": "wsframe.token_files",
    "netrc_credentials": "wsframe.endpoints.netrc",
    "reconnecting": "wsframe.client",
    "retry_after": "wsframe.core.retry",
    "serve": "wsframe.server",
    "trace_on_signal": "wsframe.signals",
    "tunnel_endpoint": "wsframe.endpoints",
    "use_monotonic_clock": "wsframe.clock",
}
"""The module of each name that is imported when somebody asks for it.

All of them together take half a second of a slow machine's time, most of it for Autobahn and TLS. A
server has no use for proxies, nor the command for either while it only explains a route.
"""

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import what was asked for, once."""
        if name == "__version__":
            from importlib.metadata import version

            return version("wsframe")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'wsframe' has no attribute {name!r}")
        found = import_module(home)
        if not home.endswith(f".{name}"):  # not the module itself
            found = getattr(found, name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
