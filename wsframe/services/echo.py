"""ws-echo: every message goes back to its sender."""

from __future__ import annotations

from twisted.application.service import IService

from wsframe.connection import Connection
from wsframe.services.listening import ListeningOptions, ListeningService
from wsframe.services.workers import in_workers

__all__ = ["Options", "makeService"]


class Options(ListeningOptions):
    """The options of `twistd ws-echo`."""

    synopsis = "[--listen ENDPOINT]... [--token-file FILE] [--workers N] [options]"

    shares_nothing = True


async def echo(connection: Connection) -> None:
    """Send every message back, text as text and binary as binary."""
    async for message in connection:
        await connection.send(message)


def build(options: Options) -> ListeningService:
    """Return the service that one process runs."""
    return ListeningService(options, echo, {"/": lambda _: None}, guarded=frozenset({"/"}))


def makeService(options: Options) -> IService:
    """Return the service (called by twistd)."""
    return in_workers(options, build)
