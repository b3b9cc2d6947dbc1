"""wsframe with libwebsockets, in C, at the other end, both ways: its own test server and client."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosedOK
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.server import serve

from .interop import LISTEN
from .peers import Daemon, program
from .raw import within

COUNTS = "dumb-increment-protocol"
"""Sends a number, and the next one 20 times a second, for ever. It has a buffer of 10 bytes,
and no pong for a ping that is longer."""

MIRRORS = "lws-mirror-protocol"
"""Sends what one says to all, who draw it. The client draws circles: "c #RRGGBB x y radius;"."""

OFFERS = pytest.mark.parametrize(
    "compression", [None, Deflate()], ids=["no offer", "deflate offered"]
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = program("libwebsockets-test-server")
    log = tmp_path_factory.mktemp("lws") / "server.log"
    daemon = Daemon(lambda port: [path, f"--port={port}"], log)
    yield f"ws://127.0.0.1:{daemon.port}/"
    daemon.stop()


@contextmanager
def their_client(port: int, log: Path) -> Iterator[None]:
    """Run its client, which opens a connection for each of the two protocols."""
    command = [program("libwebsockets-test-client"), "127.0.0.1", f"--port={port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@OFFERS
@pytest_twisted.ensureDeferred
async def test_its_server_counts_and_closes_in_order(url: str, compression: Deflate | None) -> None:
    async with connect(url, subprotocols=[COUNTS], compression=compression) as connection:
        assert connection.subprotocol == COUNTS
        assert [await connection.recv(10) for _ in range(3)] == ["0", "1", "2"]
        assert await within(connection.ping()) < 10
        await connection.send("reset\n")
        while await connection.recv(10) != "0":
            pass
        await connection.close(1000, "enough")
    assert isinstance(await connection.when_closed(), ConnectionClosedOK)
    assert (await connection.when_closed()).clean


@OFFERS
@pytest_twisted.ensureDeferred
async def test_its_server_closes_when_asked_to(url: str, compression: Deflate | None) -> None:
    connection = await connect(url, subprotocols=[COUNTS], compression=compression)
    await connection.send("closeme\n")
    outcome = await within(connection.when_closed())
    assert (outcome.by, outcome.clean) == ("remote", True)


@OFFERS
@pytest_twisted.ensureDeferred
async def test_its_server_says_to_one_what_another_has_said(
    url: str, compression: Deflate | None
) -> None:
    arguments: dict[str, Any] = {"subprotocols": [MIRRORS], "compression": compression}
    async with connect(url, **arguments) as one, connect(url, **arguments) as other:
        # As Debian builds it, it agrees to no extension.
        assert one.response.headers.get("Sec-WebSocket-Extensions") is None
        for number in range(20):
            text = f"c #00ff00 {number} {number} 5;"
            await one.send(text)
            assert await other.recv(10) == text
            assert await one.recv(10) == text


@pytest_twisted.ensureDeferred
async def test_its_server_answers_the_keepalive(url: str) -> None:
    options = ClientOptions(ping_interval=0.05, pong_timeout=5)
    async with connect(url, subprotocols=[MIRRORS], options=options) as connection:
        while connection.rtt is None:
            with pytest.raises(TimeoutError):
                await connection.recv(0.05)


class Opened:
    """A handler that gives the first connection of each subprotocol."""

    def __init__(self) -> None:
        self.first: dict[str, defer.Deferred[Connection]] = {
            COUNTS: defer.Deferred(),
            MIRRORS: defer.Deferred(),
        }

    async def __call__(self, connection: Connection) -> None:
        first = self.first[str(connection.subprotocol)]
        if not first.called:
            first.callback(connection)
        await connection.when_closed()


async def close(connection: Connection) -> None:
    await within(connection.close(1000, "enough"))
    outcome = await connection.when_closed()
    assert (outcome.code, outcome.by, outcome.clean) == (1000, "local", True)


@pytest_twisted.ensureDeferred
async def test_its_client_takes_numbers_answers_pings_and_closes_in_order(tmp_path: Path) -> None:
    opened = Opened()
    options = ServerOptions(subprotocols=(COUNTS, MIRRORS))
    async with serve(opened, LISTEN, options=options) as server:
        port = server.addresses[0].port  # type: ignore[attr-defined]
        with their_client(port, tmp_path / "client.log"):
            counts = await within(opened.first[COUNTS])
            for number in range(5):
                await counts.send(str(number))
            assert await within(counts.ping()) < 10
            await close(counts)


@pytest.mark.parametrize("compression", [None, Deflate(threshold=0)], ids=["plain", "deflate"])
@pytest_twisted.ensureDeferred
async def test_its_client_draws_and_closes_in_order(
    tmp_path: Path, compression: Deflate | None
) -> None:
    """Where it has agreed to compress, it falls silent after a message that is not compressed."""
    opened = Opened()
    options = ServerOptions(subprotocols=(COUNTS, MIRRORS))
    async with serve(opened, LISTEN, options=options, compression=compression) as server:
        port = server.addresses[0].port  # type: ignore[attr-defined]
        with their_client(port, tmp_path / "client.log"):
            mirrors = await within(opened.first[MIRRORS])
            for _ in range(20):
                drawn = await mirrors.recv(10)
                assert isinstance(drawn, str)
                assert drawn.startswith("c #")
                await mirrors.send(drawn)
            await close(mirrors)
