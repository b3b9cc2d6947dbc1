"""Over real sockets, with and without TLS: what ended is gone, without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import ref

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosed

from .certificates import Authority
from .origins import echo_server
from .proxies import RecordingProxy
from .raw import eventually


@pytest.fixture(autouse=True)
def without_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def close(connection: Connection) -> None:
    await connection.close()


async def too_long(connection: Connection) -> None:
    """The server says 1009."""
    await connection.send(bytes(1 << 21))
    await connection.when_closed()


async def abort(connection: Connection) -> None:
    connection.abort()
    await connection.when_closed()


async def leave(connection: Connection) -> None:
    """The server closes."""
    await connection.send("close")
    with suppress(ConnectionClosed):
        while True:
            await connection.recv()


@pytest.mark.parametrize("end", [close, too_long, abort, leave])
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_both_sides_of_a_connection_are_gone_when_it_ended(
    authority: Authority,
    secure: bool,
    proxied: bool,
    end: Callable[[Connection], Awaitable[None]],
) -> None:
    seen: list[ref[Any]] = []

    async def handler(connection: Connection) -> None:
        seen.extend([ref(connection), ref(connection._wire)])
        async for message in connection:
            if message == "close":
                return
            await connection.send(message)

    certificate = authority.issue("localhost") if secure else None
    async with (
        echo_server(certificate=certificate, handler=handler) as port,
        RecordingProxy() as proxy,
    ):
        connection = await connect(
            f"{'wss' if secure else 'ws'}://localhost:{port}/",
            tls=authority.client("localhost") if secure else None,
            proxies=proxy.url if proxied else None,
        )
        seen.extend([ref(connection), ref(connection._wire)])
        await connection.send("x")
        await connection.recv()
        await end(connection)
        del connection
        await eventually(lambda: not [each for each in seen if each() is not None])
        assert len(seen) == 4
