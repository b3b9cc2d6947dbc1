"""Run an application's handler for a connection, and end the connection as the handler ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from wsframe.awaiting import run
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosed

__all__ = ["Handler", "handle", "safe_text"]

_log = Logger(namespace="wsframe.handler")

Handler = Callable[[Connection], object]
"""`async def handler(connection)`; it may also return a Deferred."""


async def handle(handler: Handler, connection: Connection) -> None:
    """Run the handler, then close: with 1000 when it returns, with 1011 when it raises.

    What it raises is logged with the peer, except `ConnectionClosed`, which is how a handler
    usually learns of the end, and never travels on: the service lives.
    """
    code = 1000
    try:
        await run(handler, connection)
    except ConnectionClosed:
        pass
    except (CancelledError, asyncio.CancelledError):
        code = 1001
    except BaseException:  # noqa: BLE001 - also what ends other programs: it ends this handler
        _log.failure("Error in the handler, peer {peer!r}", peer=connection.peer)
        code = 1011
    connection.close(code)


def safe_text(value: object) -> str:
    """Return a text for a log line with control characters escaped: a peer may have chosen it."""
    return str(value).encode("unicode_escape").decode("ascii")
