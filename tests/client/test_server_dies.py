"""Many clients of a server that dies and returns, or hangs: all come back, and not as one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from integration.clients import Client, hold
from integration.peers import Peer, free_port, node_peer, websockets_peer
from integration.raw import eventually
from twisted.internet import defer

from wsframe.client import WebSocketClientService
from wsframe.core import events
from wsframe.core.retry import RetryPolicy
from wsframe.errors import ConnectionClosed
from wsframe.options import ClientOptions
from wsframe.server import Server, serve

CLIENTS = 60
PEERS: dict[str, Callable[[], Peer]] = {"node": node_peer, "websockets": websockets_peer}


async def listen(port: int) -> Server:
    return await serve(hold, f"tcp:{port}:interface=127.0.0.1")


def are_open(clients: list[Client]) -> bool:
    for this in clients:
        this.clock.advance(0)
    return all(this.service.connection for this in clients)


@pytest_twisted.ensureDeferred
async def test_clients_of_a_server_that_dies_come_back_spread_over_the_time() -> None:
    """Each with a draw of its own. The clocks stand still, so that a wait is what was drawn."""
    policy = RetryPolicy(first_delay=8.0, max_delay=8.0)
    port = free_port()
    clients = [Client(port, retry=policy) for _ in range(CLIENTS)]
    for this in clients:
        this.service._draw = WebSocketClientService("ws://127.0.0.1/", hold)._draw
    server = await listen(port)
    for this in clients:
        this.service.startService()
    await eventually(lambda: are_open(clients))
    await server.close()
    waits = [await this.until_waiting() for this in clients]
    assert all(0 <= wait <= 8.0 for wait in waits)
    seconds = [sum(int(wait) == second for wait in waits) for second in range(8)]
    # Of 60 in 8 s: one second without any, or with a half of all, has a chance below 1 in 300.
    assert max(seconds) < CLIENTS // 2
    assert sum(count > 0 for count in seconds) >= 6
    # It is not back yet: those who try too early wait again.
    early = min(clients, key=lambda this: this.retry or 0)
    early.clock.advance(min(waits) + 0.001)
    assert await early.until_waiting(0.3) <= 8.0
    assert len(early.told_of(events.Failed)) == 1
    server = await listen(port)
    for this in clients:
        this.clock.advance(8.0)
    await eventually(lambda: are_open(clients))
    for this in clients:
        assert len(this.told_of(events.Opened)) == 2
        assert len(this.told_of(events.Closed)) == 1
        await this.stop()
    await server.close()


@pytest.fixture(params=PEERS)
def process(request: Any) -> Iterator[Peer]:
    peer = PEERS[request.param]()
    yield peer
    pytest_twisted.blockon(defer.ensureDeferred(peer.stop()))


@pytest_twisted.ensureDeferred
async def test_server_that_is_stopped_is_found_and_returned_to_when_it_goes_on(
    process: Peer,
) -> None:
    """Attempts in between end at their deadline: its kernel accepts them, and nobody answers."""
    port = (await process("listen"))["port"]
    closed: defer.Deferred[events.Closed] = defer.Deferred()
    failed: defer.Deferred[events.Failed] = defer.Deferred()

    def hear(event: events.Event) -> None:
        if isinstance(event, events.Closed) and not closed.called:
            closed.callback(event)
        if isinstance(event, events.Failed) and not failed.called:
            failed.callback(event)

    service = WebSocketClientService(
        f"ws://127.0.0.1:{port}/",
        hold,
        options=ClientOptions(
            ping_interval=0.2, ping_timeout=0.3, open_timeout=0.3, close_timeout=0.3
        ),
        retry=RetryPolicy(first_delay=0.05, max_delay=0.1),
    )
    service.events.subscribe(hear)
    service.startService()
    try:
        await service.when_open()
        process.signal(signal.SIGSTOP)
        try:
            found = await closed
            assert isinstance(found.error, ConnectionClosed)
            assert (found.error.code, found.error.by) == (1011, "local")
            assert "keepalive" in found.error.reason
            assert found.seconds < 3  # 0.8 with the wait for a Close frame, and a busy machine's
            assert isinstance((await failed).error, TimeoutError)
        finally:
            process.signal(signal.SIGCONT)
        connection = await service.when_open()
        assert await connection.ping() >= 0
    finally:
        await service.stopService()
