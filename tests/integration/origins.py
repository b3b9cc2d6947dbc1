"""What is at the far end of a tunnel: servers that say again what they are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
)

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.server import serve

from .certificates import ServerTLS


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


def listening(host: str, certificate: ServerTLS | None = None) -> Any:
    """Return an endpoint on a port of that address; with a certificate it speaks TLS."""
    from twisted.internet import reactor

    if certificate is not None:
        return SSL4ServerEndpoint(reactor, 0, certificate, interface=host)
    kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    return kind(reactor, 0, interface=host)


@asynccontextmanager
async def echo_server(
    host: str = "127.0.0.1", certificate: ServerTLS | None = None, handler: Any = echo
) -> AsyncIterator[int]:
    """Serve, and give the port."""
    async with serve(handler, listening(host, certificate)) as server:
        yield server.addresses[0].port  # type: ignore[attr-defined]


async def echoes(url: str, *messages: str | bytes, **arguments: Any) -> Connection:
    """Connect, have the messages said again, close in order; return the closed connection."""
    async with connect(url, **arguments) as connection:
        for message in messages or ("x",):
            await connection.send(message)
            assert await connection.recv() == message
    assert (await connection.when_closed()).clean
    return connection
