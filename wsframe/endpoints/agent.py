"""How `twisted.web.client.Agent`, and treq on top of it, reach their hosts through proxies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from wsframe.core.proxy import FromEnvironment, Proxies, ProxySettings, from_environment
from wsframe.core.uri import format_host_port, target_uri
from wsframe.endpoints.proxy import ProxyTLS
from wsframe.endpoints.tls import TLSEndpoint
from wsframe.endpoints.tunnel import DeadlineEndpoint, settings_of, tunnel_endpoint
from wsframe.errors import InvalidProxy
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions

__all__ = ["ProxiedAgentEndpointFactory"]

_SECURE: Final = {b"http": False, b"https": True, b"ws": False, b"wss": True}
_KEY: Final = re.compile(r"(?P<scheme>https?|wss?|all)(?P<host>://[^@]*)?")
_AS_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_WEBSOCKETS_OWN: Final = frozenset({"ws_proxy", "wss_proxy"})


@implementer(IAgentEndpointFactory)
class ProxiedAgentEndpointFactory:
    """Tells an `Agent` how to connect: `Agent.usingEndpointFactory(reactor, factory, pool)`.

    `proxies` is all that `connect` takes: a URL, a `Proxy`, a list of them to try in order, a
    mapping, `ProxySettings`, `FROM_ENVIRONMENT`, or None, which connects directly. The keys of a
    mapping may be those of an HTTP client, "http", "https", "http://example.org" and
    "https://example.org"; they mean the same as "ws", "wss" and so on. The environment is read when
    the factory is made; of it `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say how pages
    are reached, and `wss_proxy` and `ws_proxy` do not. What failed lately is remembered for all
    requests.

    Pages are fetched through a tunnel in any case, with CONNECT for http:// too. For https:// TLS
    is spoken to the target within it. `tls` is what an `Agent` takes for that, such as
    `BrowserLikePolicyForHTTPS(trustRoot=...)`; None verifies against the system's authorities.
    `proxy_tls` says how https proxies are verified, as in `HTTPConnectEndpoint`. `timeout` is
    seconds for everything up to the request, from the first name look-up to the end of the TLS
    handshake; None waits for ever, and a list of proxies then shares `options.open_timeout`. What
    `options` say of proxies applies, and nothing else in them.

    ws:// and wss:// are understood, too, for Twisted's own `WebSocketClientEndpoint`.

    `Agent.request` fails with an `OpenError` when there is no connection; then nothing of the
    request was sent. It raises `InvalidURI`, and `InvalidProxy` for a malformed variable.

    Raises `InvalidProxy` when made.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        proxies: Proxies | ProxySettings = None,
        tls: IPolicyForHTTPS | None = None,
        proxy_tls: ProxyTLS | None = None,
        timeout: float | None = 30.0,
        options: ClientOptions = DEFAULT_CLIENT_OPTIONS,
    ) -> None:
        if tls is None:
            from twisted.web.client import BrowserLikePolicyForHTTPS

            tls = BrowserLikePolicyForHTTPS()
        elif not IPolicyForHTTPS.providedBy(tls):
            raise TypeError(
                "tls is an IPolicyForHTTPS such as BrowserLikePolicyForHTTPS(trustRoot=...), "
                f"not {type(tls).__name__}"
            )
        if timeout is not None:  # what the ways share; a wrong one is said now
            options = replace(options, open_timeout=timeout)
        self._reactor = reactor
        if isinstance(proxies, Mapping):
            proxies = _in_websocket_terms(proxies)
        self._for_websockets = self._for_pages = settings_of(proxies)
        if isinstance(proxies, FromEnvironment):
            others = {k: v for k, v in os.environ.items() if k.lower() not in _WEBSOCKETS_OWN}
            self._for_pages = from_environment(others)
        self._tls = tls
        self._proxy_tls = proxy_tls
        self._timeout = timeout
        self._options = options

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        """Twisted: return what connects to the host of a `twisted.web.client.URI`."""
        secure = _SECURE.get(uri.scheme)
        if secure is None:
            raise SchemeNotSupported(f"Unsupported scheme: {uri.scheme!r}")
        target = target_uri(uri.host.decode("ascii"), uri.port, secure=secure)
        endpoint = tunnel_endpoint(
            self._reactor,
            target,
            proxies=self._for_websockets if uri.scheme.startswith(b"ws") else self._for_pages,
            proxy_tls=self._proxy_tls,
            timeout=None,  # one deadline, over the TLS handshake too
            options=self._options,
        )
        if secure:
            creator = self._tls.creatorForNetloc(target.host.encode("ascii"), target.port)
            endpoint = TLSEndpoint(creator, endpoint, clock=self._reactor)
        what = format_host_port(target.host, target.port)
        return DeadlineEndpoint(self._reactor, endpoint, self._timeout, what)


def _in_websocket_terms(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the keys that `ProxySettings` knows."""
    result: dict[str, Any] = {}
    for name, value in given.items():
        found = _KEY.fullmatch(name)
        if found is None:
            # Not quoted: it may be a URL with a password, when key and value were exchanged.
            raise InvalidProxy(
                "a key of the proxies is 'http', 'https' or 'all', or for one host "
                "'https://example.org'"
            )
        key = _AS_WEBSOCKET.get(found["scheme"], found["scheme"]) + (found["host"] or "")
        if key in result:
            raise InvalidProxy(
                "the keys 'http' and 'ws' are the same, and so are 'https' and 'wss'; give one"
            )
        result[key] = value
    return result
