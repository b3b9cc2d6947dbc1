"""Cookies of an opening handshake, kept in Python's own `http.cookiejar` (RFC 6265).

The jar decides which cookies are for which URI and what it takes; to it, ws is http and wss https.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any, cast
from urllib.request import Request

from wsframe.core.redirect import http_url
from wsframe.core.uri import WebSocketURI

__all__ = ["cookie_header", "store_cookies"]


class _Answer:
    """An answer, as a cookie jar wants to see it."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self._headers = Message()
        for name, value in headers:
            if name.lower() == "set-cookie":
                self._headers[name] = value

    def info(self) -> Message:
        return self._headers


def _request(uri: WebSocketURI) -> Request:
    return Request(http_url(uri))  # noqa: S310 - nothing is opened


def cookie_header(jar: CookieJar, uri: WebSocketURI) -> str | None:
    """Return the Cookie header that the jar has for the URI, None for none."""
    request = _request(uri)
    jar.add_cookie_header(request)
    return request.get_header("Cookie")


def store_cookies(jar: CookieJar, uri: WebSocketURI, headers: Iterable[tuple[str, str]]) -> None:
    """Give the jar the cookies that an answer from the URI sets."""
    jar.extract_cookies(cast(Any, _Answer(headers)), _request(uri))
