"""Redirects: where an answer to an opening handshake sends its client.

Nobody is sent from TLS to plain text, nor to a Unix socket, and no credentials are taken from a
server's answer. What may be said to the next server is `core.opening.headers_elsewhere`'s to say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urljoin

from wsframe.core.uri import WebSocketURI, format_host_port, parse_uri
from wsframe.errors import InvalidURI

__all__ = ["REDIRECTS", "follow", "http_url", "same_origin"]

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""The statuses that send a client elsewhere (RFC 9110 §15.4); a handshake is a GET in all cases."""

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def http_url(uri: WebSocketURI) -> str:
    """Return the URI as HTTP sees it: http for ws, https for wss, without credentials."""
    scheme = "https" if uri.secure else "http"
    return f"{scheme}://{format_host_port(uri.host.replace('%', '%25'), uri.port)}{uri.target}"


def same_origin(one: WebSocketURI, other: WebSocketURI) -> bool:
    """Return whether both are of one scheme, host and port (RFC 6454 §5), and of one socket."""
    return (one.secure, one.host, one.port, one.unix_path) == (
        other.secure,
        other.host,
        other.port,
        other.unix_path,
    )


def follow(uri: WebSocketURI, location: str | None) -> WebSocketURI:
    """Return where the Location of an answer from `uri` leads (RFC 9110 §10.2.2).

    It may be relative, and http for ws. Within the origin the credentials of `uri` and its Unix
    socket are kept, whatever credentials the Location has.

    Raises ValueError with a text that says why it is not followed, and does not repeat it.
    """
    if not location:
        raise ValueError("there is no Location")
    try:
        joined = urljoin(http_url(uri), location).partition("#")[0]
    except ValueError:
        joined = ""
    scheme, colon, rest = joined.partition("://")
    scheme = _SCHEMES.get(scheme.lower(), "")
    parsed = None
    if scheme and colon:
        try:
            parsed = parse_uri(f"{scheme}://{rest}")
        except InvalidURI:
            parsed = None
    if parsed is None:
        raise ValueError("its Location is not one for a WebSocket")
    if uri.secure and not parsed.secure:
        raise ValueError("it leads from wss to ws")
    parsed = replace(parsed, user=None, password=None)
    within = replace(parsed, user=uri.user, password=uri.password, unix_path=uri.unix_path)
    return within if same_origin(within, uri) else parsed
