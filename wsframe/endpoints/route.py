"""By which route a URI is reached, asked without connecting."""

from __future__ import annotations

from collections.abc import Mapping

from wsframe.core.proxy import FROM_ENVIRONMENT, Proxies, ProxySettings, Route, from_environment
from wsframe.core.uri import WebSocketURI, parse_uri
from wsframe.endpoints.tunnel import settings_of

__all__ = ["explain_route"]


def explain_route(
    uri: str | WebSocketURI,
    proxies: Proxies | ProxySettings = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Route:
    """Return the route by which `connect` would reach a URI with these proxies, and why.

    `proxies` is all that `connect` takes; None is direct. `environ` is the environment for
    `FROM_ENVIRONMENT`, and None this process's own. Nothing is connected to or looked up.

    `Route.explain()` is the answer in words, `Route.as_dict()` for JSON; neither has credentials.

    Raises `InvalidURI` and `InvalidProxy`, as `connect` does.
    """
    if environ is not None and proxies is not FROM_ENVIRONMENT:
        raise ValueError("environ= is given, but proxies= is not FROM_ENVIRONMENT")
    parsed = uri if isinstance(uri, WebSocketURI) else parse_uri(uri)
    settings = settings_of(proxies) if environ is None else from_environment(environ)
    return settings.choose(parsed)
