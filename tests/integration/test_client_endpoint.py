"""A `WebSocketEndpoint` under Twisted's own `ClientService`: connected means that it is open."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.application.internet import ClientService
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from wsframe import ConnectionProtocol, WebSocketEndpoint
from wsframe.connection import State
from wsframe.core.uri import parse_uri
from wsframe.errors import ConnectionClosed, HandshakeRefused, OpenError

from .peers import free_port
from .raw import RawServer, accept_raw, close_frame, eventually, turns, within


class Told(ConnectionProtocol):
    """Keeps the Failure that it was lost with."""

    lost: Failure | None = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


def endpoint_to(port: int) -> Any:
    from twisted.internet import reactor

    return WebSocketEndpoint(reactor, parse_uri(f"ws://127.0.0.1:{port}/"))


@pytest_twisted.ensureDeferred
async def test_service_connects_hears_of_the_end_comes_back_and_says_close() -> None:
    async with RawServer() as server:
        service = ClientService(
            endpoint_to(server.port), Factory.forProtocol(Told), retryPolicy=lambda _: 0
        )
        service.startService()
        raw = await accept_raw(server)
        first: Any = await within(service.whenConnected())
        assert first.connection.state is State.OPEN
        assert first.transport.getPeer() == f"tcp4:127.0.0.1:{server.port}"
        raw.write(close_frame(1012, "deploy", masked=False))
        await raw.read_close()
        raw.finish()
        await eventually(lambda: first.lost)
        outcome = first.lost.value
        assert isinstance(outcome, ConnectionClosed)
        assert (outcome.code, outcome.reason) == (1012, "deploy")
        raw = await accept_raw(server)
        second: Any = await within(service.whenConnected())
        assert second.connection is not first.connection
        await turns()  # the service is told nothing from within what it tells
        stopped = service.stopService()
        assert await raw.read_close() == (1000, "")
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await within(stopped)
        assert second.lost.value.code == 1000


@pytest_twisted.ensureDeferred
async def test_refused_handshake_is_a_failed_attempt() -> None:
    async with RawServer() as server:
        connecting = endpoint_to(server.port).connect(Factory.forProtocol(Told))
        raw = await server.accepted()
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        with pytest.raises(HandshakeRefused):
            await within(connecting)


@pytest_twisted.ensureDeferred
async def test_factory_that_builds_nothing_leaves_no_connection() -> None:
    class Builder(Factory):
        def buildProtocol(self, addr: object) -> None:
            return None

    async with RawServer() as server:
        connecting = endpoint_to(server.port).connect(Builder())
        raw = await accept_raw(server)
        with pytest.raises(OpenError, match="built no protocol"):
            await within(connecting)
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_protocol_can_end_its_connection_without_a_close_frame() -> None:
    async with RawServer() as server:
        connecting = endpoint_to(server.port).connect(Factory.forProtocol(Told))
        raw = await accept_raw(server)
        protocol: Any = await within(connecting)
        protocol.transport.abortConnection()
        await within(raw.ended())
        assert not raw.lost.check(ConnectionDone)  # type: ignore[union-attr]
        await eventually(lambda: protocol.lost)
        assert protocol.lost.value.code == 1006


@pytest_twisted.ensureDeferred
async def test_nobody_there_is_an_open_error() -> None:
    with pytest.raises(OpenError):
        await endpoint_to(free_port()).connect(Factory.forProtocol(Told))
