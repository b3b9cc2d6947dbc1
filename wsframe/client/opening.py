"""`connect()`: one connection, and what its arguments are."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, cast

from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime

from wsframe.awaiting import AsyncOnly, Awaitable, not_awaited, relay
from wsframe.clock import global_reactor
from wsframe.connection import Connection
from wsframe.core.opening import RequestHeaders, check_subprotocols
from wsframe.core.proxy import Proxies, ProxySettings
from wsframe.core.timing import Observe
from wsframe.core.uri import WebSocketURI, parse_uri
from wsframe.endpoints import ProxyTLS, TLSOptions, WebSocketEndpoint
from wsframe.endpoints.tunnel import settings_of
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions, Deflate
from wsframe.trace import Trace

__all__ = ["ConnectArguments", "Opening", "check_names", "connect", "endpoint_for"]


class ConnectArguments(TypedDict, total=False):
    """The arguments of `connect`, where they are handed on; each may be left out."""

    uri: str | WebSocketURI
    headers: RequestHeaders | None
    origin: str | None
    subprotocols: tuple[str, ...] | list[str]
    cookies: CookieJar | None
    compression: Deflate | None
    proxies: Proxies | ProxySettings
    tls: IOpenSSLClientConnectionCreator | TLSOptions | None
    proxy_tls: ProxyTLS | None
    bind_address: tuple[str, int] | None
    trace: Trace | None
    options: ClientOptions


def check_names(given: Mapping[str, Any], whose: str = "") -> ConnectArguments:
    """Return the arguments; raise TypeError for names that `connect` does not have."""
    unknown = sorted(str(name) for name in given.keys() - ConnectArguments.__annotations__.keys())
    if unknown:
        raise TypeError(f"{whose}unexpected arguments: {', '.join(unknown)}")
    return cast(ConnectArguments, given)


class Opening(AsyncOnly, Awaitable[Connection]):
    """What `connect` returns: await it for the `Connection`, or open it with `async with`.

    ``async with`` closes the connection at the end of the block.
    """

    _connection: Connection

    if not TYPE_CHECKING:  # a type checker would take any name for one of ours

        def __getattr__(self, name: str) -> NoReturn:
            """Say what was forgotten."""
            raise not_awaited("connect", Connection, self, name)

    async def __aenter__(self) -> Connection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(kind, error, traceback)


def endpoint_for(
    uri: str | WebSocketURI,
    *,
    headers: RequestHeaders | None = None,
    subprotocols: tuple[str, ...] | list[str] = (),
    proxies: Proxies | ProxySettings = None,
    options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    reactor: Any,
    observe: Observe | None = None,
    **others: Any,
) -> WebSocketEndpoint:
    """Return the chain of endpoints for these arguments of `connect`; raises what is wrong."""
    parsed = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
    if not isinstance(options, ClientOptions):
        raise TypeError(f"options is a ClientOptions, not {type(options).__name__}")
    return WebSocketEndpoint(
        reactor,
        parsed,
        headers=headers or (),
        subprotocols=check_subprotocols(subprotocols),
        proxies=settings_of(proxies),
        options=options,
        observe=observe,
        **others,
    )


def connect(
    uri: str | WebSocketURI,
    *,
    headers: RequestHeaders | None = None,
    origin: str | None = None,
    subprotocols: tuple[str, ...] | list[str] = (),
    cookies: CookieJar | None = None,
    compression: Deflate | None = None,
    proxies: Proxies | ProxySettings = None,
    tls: IOpenSSLClientConnectionCreator | TLSOptions | None = None,
    proxy_tls: ProxyTLS | None = None,
    bind_address: tuple[str, int] | None = None,
    trace: Trace | None = None,
    options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    reactor: IReactorTime | None = None,
) -> Opening:
    """Open a WebSocket.

    `uri` is ws:// or wss://, or ws+unix://%2Frun%2Fapp.sock/path for a Unix socket; user
    information in it is sent with Basic. `headers` are those of the opening handshake, in their
    order and case: additions, and what is said instead of the generated ones, or not at all
    (None). `origin` is the Origin header, None sends none. `subprotocols` are offered, the
    preferred first. `cookies` is a jar for the Cookie and Set-Cookie headers. `compression` offers
    permessage-deflate, None does not.

    `proxies` is the URL of an HTTP or SOCKS proxy, or a mapping with the keys "ws", "wss" and
    "all", see `ProxySettings`; None connects directly. The environment is looked at when it is
    `FROM_ENVIRONMENT`, and only then. `tls` is a `TLSOptions`, or what
    `twisted.internet.ssl.optionsForClientTLS(host, trustRoot=...)` returns; None verifies the
    server against the system's authorities. `proxy_tls` says the same for https proxies: a
    `TLSOptions`, or a function that is called with the `Proxy`. `bind_address` is the local
    address and port of TCP, None leaves them to the system. `trace` is what the opening handshake
    is written down in, and if that is asked for the frames. `reactor` None is the installed one.
    docs/connecting.md has each of them in full.

    The Deferred returned fires with a `Connection` when the WebSocket is open, within
    `options.open_timeout` seconds; it fails with an `OpenError` that says in which phase. It can
    be awaited, used with ``async with``, and cancelled at any moment.

    Raises `InvalidURI`, `InvalidProxy` and `InvalidHeader` before anything is sent.
    """
    endpoint = endpoint_for(
        uri,
        headers=headers,
        origin=origin,
        subprotocols=subprotocols,
        cookies=cookies,
        compression=compression,
        proxies=proxies,
        tls=tls,
        proxy_tls=proxy_tls,
        bind_address=bind_address,
        trace=trace,
        options=options,
        reactor=reactor or global_reactor(),
    )
    opening = Opening(lambda _: attempt.cancel())
    opening.untaken = Connection.abort
    attempt = endpoint.open()
    relay(attempt, opening)
    return opening
