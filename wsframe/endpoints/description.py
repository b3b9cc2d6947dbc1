"""The endpoint description `tunnel:host:port:proxy=...`, for `clientFromString` and operators."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IStreamClientEndpoint

from wsframe.core.proxy import FROM_ENVIRONMENT, Proxies, Proxy
from wsframe.core.uri import target_uri
from wsframe.endpoints.tunnel import tunnel_endpoint

__all__ = ["parse_tunnel"]

_NAMES: Final = ("host", "port", "proxy", "via", "timeout")
_PORT: Final = re.compile("[0-9]{1,5}")
_ENVIRONMENT: Final = "environment"


def parse_tunnel(reactor: Any, /, *args: str, **kwargs: str) -> IStreamClientEndpoint:
    r"""Return the endpoint of a description, as Twisted's parser has taken it apart.

    `tunnel:example.org:443:proxy=http\://user\:password@gateway\:8080`, with colons within a value
    escaped as in every description. The parts are those of `tunnel_endpoint`:

    - `host` and `port` of the target, by their place or by name; IPv6 with or without brackets.
    - `proxy` is the URL of a proxy, or several with blanks between them, to be tried in order; or
      the word `environment`. It has to be said: nothing reads the environment unasked, and a
      tunnel that nobody set would go direct in silence.
    - `via` is the URL of the proxy by which the others are reached, or several with blanks between
      them: a chain, the one that is connected to first at the beginning.
    - `timeout` is seconds for everything; 30 when it is not said.

    For plain host:port `environment` is asked as for https://.

    Raises ValueError; its text repeats neither the proxies nor what may be a part of them.
    """
    # A colon that was not escaped makes parts of a password into values and names.
    if len(args) > 2:
        raise ValueError(
            r"tunnel: only host and port stand without a name; a colon in a value is written '\:'"
        )
    given = dict(zip(_NAMES[:2], args, strict=False))
    if not kwargs.keys() <= set(_NAMES):
        raise ValueError(f"tunnel: takes the names {', '.join(_NAMES)}, and no other")
    if given.keys() & kwargs.keys():
        raise ValueError("tunnel: host and port are given once each")
    given |= kwargs
    for name in ("host", "port"):
        if not given.get(name):
            raise ValueError(f"tunnel: has no {name}; it begins with tunnel:example.org:443")
    if not given.get("proxy", "").split():
        raise ValueError(r"tunnel: has no proxy; add proxy=http\://gateway\:8080, or environment")
    if not _PORT.fullmatch(given["port"]):
        raise ValueError("tunnel: port is a number from 1 to 65535")
    host = given["host"]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return tunnel_endpoint(
        reactor,
        target_uri(host, int(given["port"])),
        proxies=_proxies(given["proxy"], given.get("via", "")),
        timeout=_seconds(given.get("timeout", "30")),
    )


def _proxies(text: str, via: str) -> Proxies:
    before: Proxy | None = None
    for url in via.split():
        before = Proxy.parse(url, via=before)
    if text == _ENVIRONMENT:
        if before is not None:
            raise ValueError("tunnel: via is for proxies that are given, not for the environment")
        return FROM_ENVIRONMENT
    return [Proxy.parse(url, via=before) for url in text.split()]


def _seconds(text: str) -> float:
    seconds = 0.0
    with suppress(ValueError):
        seconds = float(text)
    if not seconds > 0:
        raise ValueError("tunnel: timeout is a number of seconds above 0")
    return seconds
