"""The testee in the API to await: `serve` and `connect`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from wsframe import (
    ClientOptions,
    Connection,
    ConnectionClosed,
    Deflate,
    ServerOptions,
    connect,
    serve,
)

from .testee import LIMITS

COMPRESSION = Deflate(threshold=0)  # short messages, too


async def send_back(connection: Connection) -> None:
    with suppress(ConnectionClosed):  # with what codes, the suite judges
        async for message in connection:
            await connection.send(message)


async def listen(reactor: Any) -> int:
    server = await serve(
        send_back,
        "tcp:0:interface=127.0.0.1",
        compression=COMPRESSION,
        options=ServerOptions(**LIMITS),
        reactor=reactor,
    )
    return int(server.addresses[0].port)  # type: ignore[attr-defined]


async def echo(reactor: Any, uri: str) -> None:
    async with connect(
        uri, compression=COMPRESSION, options=ClientOptions(**LIMITS), reactor=reactor
    ) as connection:
        await send_back(connection)


async def ask(reactor: Any, uri: str) -> str:
    async with connect(uri, reactor=reactor) as connection:
        return str(await connection.recv())
