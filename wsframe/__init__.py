"""wsframe: WebSockets and proxy tunnels for Twisted."""

from __future__ import annotations

from wsframe.auth import basic_auth, bearer_auth, load_tokens
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
    ProxiedAgentEndpointFactory,
    ProxyTLS,
    SOCKSEndpoint,
    TLSEndpoint,
    TLSOptions,
    WebSocketEndpoint,
    explain_route,
    tunnel_endpoint,
)
from wsframe.endpoints.netrc import netrc_credentials
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
from wsframe.server import Server, WebSocketResource, WebSocketServerService, serve
from wsframe.signals import trace_on_signal
from wsframe.trace import Trace


def __getattr__(name: str) -> str:
    """Give `__version__`, which is looked up only when somebody asks."""
    if name == "__version__":
        from importlib.metadata import version

        return version("wsframe")
    raise AttributeError(f"module 'wsframe' has no attribute {name!r}")


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
