"""ws-broadcast: every message goes to all other clients."""

from __future__ import annotations

from twisted.application.service import IService

from wsframe.connection import Connection
from wsframe.fanout import broadcast
from wsframe.services.listening import ListeningOptions, ListeningService

__all__ = ["Options", "makeService"]


class Options(ListeningOptions):
    """The options of `twistd ws-broadcast`."""

    synopsis = "[--listen ENDPOINT]... [--token-file FILE] [options]"


class Room:
    """The clients that hear each other."""

    def __init__(self) -> None:
        self._members: set[Connection] = set()

    async def join(self, connection: Connection) -> None:
        """Hand on every message of this client, for as long as it stays."""
        self._members.add(connection)
        try:
            async for message in connection:
                await broadcast(self._members - {connection}, message)
        finally:
            self._members.discard(connection)


def makeService(options: Options) -> IService:
    """Return the service (called by twistd)."""
    room = Room()
    return ListeningService(options, room.join, {"/": lambda _: None}, guarded=frozenset({"/"}))
