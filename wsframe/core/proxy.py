"""Proxies: one proxy's address and credentials, and which proxy a URI goes through.

The keys of a mapping are those that apply to WebSockets: `ws`, `wss` and `all`. A mapping that
has only `http` or `https` is refused, because where such a one is accepted its users go direct
without noticing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from wsframe.core.uri import (
    WebSocketURI,
    basic_credentials,
    format_host_port,
    split_authority,
    to_ascii_host,
)
from wsframe.errors import InvalidProxy

__all__ = ["Proxies", "Proxy", "ProxySettings"]

_PORTS: Final = {"http": 80}
_KEYS: Final = ("ws", "wss", "all")
_BEHIND_AUTHORITY: Final = frozenset("/?#")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Proxy:
    """One HTTP proxy that opens tunnels with CONNECT (RFC 9110 §9.3.6).

    `host` is as in `WebSocketURI`. `user` and `password` are decoded; None when there are none.
    `str()` and `repr()` show neither: with some proxies the user name is the key.
    """

    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    scheme: str = "http"

    def __post_init__(self) -> None:
        if self.scheme not in _PORTS:
            raise InvalidProxy(f"a proxy's scheme is http, not {self.scheme!r}")
        if not 0 < self.port < 65536:
            raise InvalidProxy(f"a proxy's port is from 1 to 65535, not {self.port}")
        if self.user is None and self.password is not None:
            raise InvalidProxy("the proxy has a password and no user name")
        try:
            object.__setattr__(self, "host", to_ascii_host(self.host))
        except ValueError:
            raise InvalidProxy("the proxy has a malformed host") from None
        try:
            basic_credentials(self.user or "", self.password or "")
        except ValueError as error:
            raise InvalidProxy(f"the proxy {error}") from None

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Return the proxy of a URL such as http://user:password@host:8080.

        The port may be left out when it is 80. Credentials are percent-decoded.

        Raises `InvalidProxy`; its text never repeats the URL, which may hold a password.
        """
        if not isinstance(url, str):
            raise TypeError(f"a proxy is a URL or a Proxy, not {type(url).__name__}")
        if _FORBIDDEN.search(url):
            raise InvalidProxy("the proxy URL has a blank or a control character")
        scheme, colon, rest = url.partition("://")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise InvalidProxy("the proxy URL has no scheme; it begins with http://")
        scheme = scheme.lower()
        if scheme not in _PORTS:
            raise InvalidProxy(f"a proxy's scheme is http, not {scheme!r}")
        if not _BEHIND_AUTHORITY.isdisjoint(rest.removesuffix("/")):
            raise InvalidProxy(
                "a proxy URL has no path, query or fragment;"
                " in its credentials, '/', '?' and '#' are percent-encoded"
            )
        try:
            user, password, host, port = split_authority(rest.removesuffix("/"))
        except ValueError as error:
            raise InvalidProxy(f"the proxy URL {error}") from None
        return cls(host, _PORTS[scheme] if port is None else port, user, password, scheme)

    def __str__(self) -> str:
        """Return the proxy's URL without its credentials."""
        return f"{self.scheme}://{format_host_port(self.host, self.port)}"


Proxies = str | Proxy | Mapping[str, str | Proxy | None] | None
"""A URL or Proxy for everything, or a mapping with the keys `ws`, `wss` and `all`; None: direct."""


class ProxySettings:
    """The proxies set once for a client, and the choice among them for each URI.

    In a mapping, `ws` or `wss` go before `all`; a value of None says "direct" and ends the
    search. Every value is parsed when the settings are made.

    Raises `InvalidProxy`.
    """

    __slots__ = ("_by_key",)

    def __init__(self, proxies: Proxies = None) -> None:
        if proxies is None:
            given: Mapping[str, str | Proxy | None] = {}
        elif isinstance(proxies, Mapping):
            given = proxies
        else:
            given = {"all": proxies}
        unknown = [key for key in given if key not in _KEYS]
        if unknown:
            names = ", ".join(repr(key) for key in unknown)
            raise InvalidProxy(
                f"the keys {names} do not apply to WebSockets; use 'ws', 'wss' or 'all'"
            )
        self._by_key: dict[str, Proxy | None] = {
            key: value if value is None or isinstance(value, Proxy) else Proxy.parse(value)
            for key, value in given.items()
        }

    def choose(self, uri: WebSocketURI) -> Proxy | None:
        """Return the proxy for the URI, or None when it is reached directly."""
        for key in (uri.scheme, "all"):
            if key in self._by_key:
                return self._by_key[key]
        return None

    def __repr__(self) -> str:
        routes = ", ".join(f"{key}={proxy or 'direct'}" for key, proxy in self._by_key.items())
        return f"<ProxySettings {routes or 'direct'}>"
