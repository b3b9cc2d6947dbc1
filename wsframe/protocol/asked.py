"""What Autobahn says of a client's request, made from our `Request` when somebody asks.

An application finds `http_headers`, `http_request_path` and the others in `onConnect` and after it;
kept for every connection they would be a third of what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import ParseResult, parse_qs, urlparse

from autobahn.websocket.types import ConnectionRequest

from wsframe.core.http import Request
from wsframe.protocol.attributes import Made

__all__ = ["Asked"]


def _made_of(what: Callable[[Request], Any]) -> Made[Any]:
    return Made(lambda protocol: what(_request(protocol)))


def _request(protocol: Asked) -> Request:
    if protocol.request is None:
        raise AttributeError("the request has not been read yet")
    return protocol.request


def _extensions(protocol: Asked) -> list[tuple[str, dict[str, list[Any]]]]:
    offered = _request(protocol).headers.get("Sec-WebSocket-Extensions")
    parsed: list[Any] = [] if offered is None else protocol._parseExtensionsHeader(offered)
    return parsed


def _url(request: Request) -> ParseResult:
    return urlparse(request.target)


def _status_line(request: Request) -> str:
    return f"{request.method} {request.target} HTTP/1.1"


def _raw(request: Request) -> bytes:
    lines = [_status_line(request), *(f"{name}: {value}" for name, value in request.headers.pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _host(request: Request) -> str:
    host = request.headers.get("Host", "")
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host


class Asked:
    """The part of a server's protocol that remembers the request, under Autobahn's names."""

    request: Request | None = None
    """The opening handshake's request, once it has been read."""

    peer: str | None
    _parseExtensionsHeader: Callable[[str], list[Any]]

    http_status_line = _made_of(_status_line)
    http_request_data = _made_of(_raw)
    http_headers = _made_of(lambda request: dict(request.headers))
    http_request_host = _made_of(_host)
    http_request_uri = _made_of(lambda request: request.target)
    http_request_path = _made_of(lambda request: _url(request).path)
    http_request_params = _made_of(lambda request: parse_qs(_url(request).query))
    websocket_origin = _made_of(lambda request: request.headers.get("Origin", ""))
    websocket_protocols = _made_of(lambda request: list(request.subprotocols))
    websocket_extensions = Made(_extensions)

    def connection_request(self) -> ConnectionRequest:
        """Return what `onConnect` is asked with."""
        return ConnectionRequest(
            self.peer,
            self.http_headers,
            self.http_request_host,
            self.http_request_path,
            self.http_request_params,
            13,
            self.websocket_origin,
            self.websocket_protocols,
            self.websocket_extensions,
        )
