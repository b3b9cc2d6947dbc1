"""Broadcasts over real sockets: to other implementations, with compression, to many at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe import fanout
from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.fanout import broadcast
from wsframe.options import Deflate
from wsframe.server import serve
from wsframe.services.broadcast import Room

from .interop import serving
from .peers import Peer, node_peer, websockets_peer
from .raw import eventually, within

WORDS = "the same words again and again, " * 30


@pytest.fixture(scope="module", params=["websockets", "node"])
def peer(request: Any) -> Iterator[Peer]:
    process = websockets_peer() if request.param == "websockets" else node_peer()
    yield process
    pytest_twisted.blockon(defer.ensureDeferred(process.stop()))


@pytest.mark.parametrize(
    "compression",
    [
        None,
        Deflate(),
        Deflate(threshold=0, server_max_window_bits=15, mem_level=8),
        Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
        Deflate(threshold=0, server_max_window_bits=9, mem_level=1),
    ],
    ids=["none", "default", "largest", "no takeover", "smallest"],
)
@pytest_twisted.ensureDeferred
async def test_peer_understands_broadcasts_and_sends_in_any_mix(
    peer: Peer, compression: Deflate | None
) -> None:
    """Each message repeats what the one before it said, whichever way that went."""
    async with serving(compression=compression) as (_, url, handled):
        about = await peer("open", url=url)
        assert ("sec-websocket-extensions" in about["headers"]) == (compression is not None)
        connection: Connection = await handled.next()
        for number in range(40):
            message = f"{number} {WORDS[: number * 23]} {number}"
            if number % 5 in {0, 1, 3}:
                await broadcast([connection], message)
            else:
                await connection.send(message)
            received = await peer("recv")
            assert received["sha"] == hashlib.sha256(message.encode()).hexdigest(), number
        long = "".join(f"{number} {WORDS}" for number in range(300))
        done = broadcast([connection], long)
        await connection.send("behind it")
        for message in (long, "behind it"):
            received = await peer("recv")
            assert received["sha"] == hashlib.sha256(message.encode()).hexdigest()
        await within(done)
        closed = peer("closed")
        broadcast([connection], "last")
        await connection.close()
        assert (await closed)["code"] == 1000


@pytest.mark.parametrize("compression", [None, Deflate(), Deflate(server_no_context_takeover=True)])
@pytest_twisted.ensureDeferred
async def test_a_hundred_get_everything_in_order_over_many_turns(
    compression: Deflate | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one leaves, and messages of their own go to some."""
    for name in ("FIRST", "SHORTEST", "LONGEST"):
        monkeypatch.setattr(fanout, name, 0.0005)
    monkeypatch.setattr(fanout, "UNTIMED", 16)
    monkeypatch.setattr(fanout, "AT_A_TIME", 2)
    looks = count()
    monkeypatch.setattr(fanout, "monotonic", lambda: next(looks) * 0.0001)
    async with serving(compression=compression) as (server, url, handled):
        clients = [await connect(url, compression=Deflate()) for _ in range(100)]
        sides = [await handled.next() for _ in clients]
        pending = 0
        for number in range(30):
            done = broadcast(server.connections, f"{number} {WORDS}")
            pending += not done.called
            sides[number].send(f"only for you {number}")
            if number == 20:
                sides[-1].close(1000, "enough")
            if number % 10 == 9:
                await within(done)
        await within(done)
        assert pending
        for place, client in enumerate(clients[:-1]):
            for number in range(30):
                assert (await client.recv(10)) == f"{number} {WORDS}"
                if place == number:
                    assert (await client.recv(10)) == f"only for you {number}"
        told = [message async for message in clients[-1]]
        assert told == [f"{number} {WORDS}" for number in range(21)]
        for client in clients:
            await client.close()


@pytest_twisted.ensureDeferred
async def test_the_service_hands_on_what_comes_as_fast_as_it_can() -> None:
    room = Room()
    async with serve(room.join, "tcp:0:interface=127.0.0.1") as server:
        url = f"ws://127.0.0.1:{server.addresses[0].port}/"  # type: ignore[attr-defined]
        talker, listener = await connect(url), await connect(url)
        await eventually(lambda: len(server.connections) == 2)
        for number in range(300):
            await talker.send(str(number))
        assert [await listener.recv(10) for _ in range(300)] == [str(n) for n in range(300)]
        await talker.close()
        await listener.close()
