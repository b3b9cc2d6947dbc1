"""What is told of an opening that failed: as JSON knows it, or in lines, without our secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from wsframe.core.proxy import Way
from wsframe.core.uri import basic_credentials
from wsframe.errors import WSFrameError, printable

__all__ = ["basic_secrets", "described", "lines_of", "secrets_of"]

MAX_LINE: Final = 200
"""Characters that are shown of a body's first line; a page may have no second one."""


def described(error: Exception, secrets: Iterable[str]) -> dict[str, Any]:
    """Return the error as JSON knows it; the peer's words in it may repeat what it was told."""
    longest_first = sorted(set(secrets) - {""}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, "***")
        return printable(text)

    message = str(error)
    for secret in longest_first:  # as a whole word: a short one is a part of many of our own
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", message)
    body: bytes = getattr(error, "body", b"")
    lines = body.decode(errors="backslashreplace").split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    return {
        "kind": type(error).__name__,
        "message": message,
        "phase": getattr(error, "phase", None),
        "proxy": getattr(error, "proxy", None),
        "status": getattr(error, "status", None),
        "code": getattr(error, "code", None) if isinstance(error, WSFrameError) else None,
        "headers": [[name, clean(value)] for name, value in getattr(error, "headers", ())],
        "body": clean(first)[:MAX_LINE],
        "attempts": [attempt._asdict() for attempt in getattr(error, "attempts", ())],
    }


def lines_of(error: dict[str, Any]) -> Iterator[str]:
    """Yield what `described` has beside the message, a line each."""
    for attempt in error["attempts"]:
        yield f"tried {attempt['address']}: {attempt['reason']}"
    if error["status"] is not None:
        yield f"status {error['status']}"
    if error["code"] is not None:
        yield f"code {error['code']}"
    for name, value in error["headers"]:
        yield f"{name}: {value}"
    if error["body"]:
        yield f"body: {error['body']}"


def secrets_of(way: Way) -> Iterator[str]:
    """Yield what goes out to the proxies of a way and is not to be shown."""
    for proxy in way:
        yield from (proxy.user or "", proxy.password or "", proxy.token or "")
        if proxy.user is not None:
            yield from basic_secrets(proxy.user, proxy.password or "")


def basic_secrets(user: str, password: str) -> Iterator[str]:
    """Yield the parts of credentials that are sent with Basic, and the form they are sent in."""
    yield from (user, password)
    with suppress(ValueError):  # what Basic cannot say, SOCKS may
        yield basic_credentials(user, password).removeprefix("Basic ")
