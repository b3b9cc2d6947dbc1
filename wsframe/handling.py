"""Run an application's handler for a connection, and end the connection as the handler ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import start
from wsframe.connection import Connection
from wsframe.driving import in_asyncio
from wsframe.errors import ConnectionClosed

__all__ = ["Handler", "check_handler", "handle", "safe_text"]

_log = Logger(namespace="wsframe.handler")

Handler = Callable[[Connection], object]
"""`async def handler(connection)`; it may also return a Deferred."""


def check_handler(handler: object) -> None:
    """Raise TypeError for what cannot be called: it would fail with every connection."""
    if not callable(handler):
        raise TypeError(f"handler is a function, not {type(handler).__name__}")


def handle(handler: Handler, connection: Connection) -> Deferred[None]:
    """Run the handler, then close: with 1000 when it returns, with 1011 when it raises.

    What it raises is logged with the peer, except `ConnectionClosed`, which is how a handler
    usually learns of the end, and never travels on: the service lives. Messages that it left are
    dropped. Cancelling the Deferred cancels the handler.
    """
    # Callbacks and no coroutine around the handler's: this waits as long as the connection lasts.
    handling = start(handler, connection)
    handling.addCallbacks(_returned, _raised, callbackArgs=(connection,), errbackArgs=(connection,))
    return handling


def _returned(_: object, connection: Connection) -> None:
    _end(connection, 1000)


def _raised(failure: Failure, connection: Connection) -> None:
    code = 1011
    if failure.check(ConnectionClosed):
        code = 1000
    elif failure.check(CancelledError, asyncio.CancelledError):
        code = 1001
    else:
        text = "Error in the handler, peer {peer!r}{hint}"
        _log.failure(text, failure, peer=connection.peer, hint=_hint(failure))
    _end(connection, code)


def _hint(failure: Failure) -> str:
    """Return what helps where asyncio has refused to wait: it has no loop here, or no task."""
    at = failure.getTracebackObject()
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    module = "" if at is None else str(at.tb_frame.f_globals.get("__name__"))
    if failure.check(RuntimeError) and module.partition(".")[0] == "asyncio":
        return f"; {in_asyncio()}"
    return ""


def _end(connection: Connection, code: int) -> None:
    connection.close(code)
    connection.drop_messages()


def safe_text(value: object) -> str:
    """Return a text for a log line with control characters escaped: a peer may have chosen it."""
    return str(value).encode("unicode_escape").decode("ascii")
