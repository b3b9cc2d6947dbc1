"""Peers that vanish: stopped, killed, silent. Found by the keepalive, and only when they are."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosedError
from wsframe.options import ClientOptions, ServerOptions

from .interop import CoreSet
from .peers import Peer, websockets_peer
from .proxies import Proxies
from .raw import Raw, RawServer, Stepped, accept_raw, eventually, frame, turns, within
from .test_proxy import echo_server

pair = CoreSet().pair


@pytest.fixture
def process() -> Any:
    """Give a peer process that the test may stop or kill."""
    peer = websockets_peer()
    yield peer
    pytest_twisted.blockon(defer.ensureDeferred(peer.stop()))


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_stopped_process_is_found_within_interval_and_timeout(
    process: Peer, role: str
) -> None:
    from twisted.internet import reactor

    clock: Any = reactor
    keepalive = {"ping_interval": 0.15, "ping_timeout": 0.2}
    async with pair(process, role, ours=keepalive) as both:
        await both.ours.send("are you there?")
        await process("recv")
        process.signal(signal.SIGSTOP)
        try:
            stopped = clock.seconds()
            with pytest.raises(ConnectionClosedError) as caught:
                await both.ours.recv(10)
            took = clock.seconds() - stopped
        finally:
            process.signal(signal.SIGCONT)
        assert (caught.value.code, caught.value.by) == (1011, "local")
        assert "keepalive" in caught.value.reason
        assert took < 2  # 0.35, and what a busy machine adds


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_killed_process_is_1006_at_once(process: Peer, role: str) -> None:
    async with pair(process, role) as both:
        waiting = both.ours.recv(10)
        process.signal(signal.SIGKILL)
        with pytest.raises(ConnectionClosedError) as caught:
            await waiting
        assert (caught.value.code, caught.value.by) == (1006, None)


@pytest.mark.parametrize("kind", ["tinyproxy", "squid"])
@pytest_twisted.ensureDeferred
async def test_killed_proxy_ends_both_sides_of_the_tunnel(kind: str) -> None:
    proxies = Proxies()
    try:
        port = proxies.get(kind, auth=False)
        async with echo_server() as target:
            connection = await connect(
                f"ws://127.0.0.1:{target}/", proxies=f"http://127.0.0.1:{port}"
            )
            await connection.send("x")
            assert await connection.recv(10) == "x"
            proxies.stop()
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv(10)
            assert caught.value.code == 1006
    finally:
        proxies.stop()


# ------------------------------------------------------------------ with the clock in hand


class Kept:
    """A client's connection whose keepalive clock the test moves."""

    def __init__(self, ours: Connection, raw: Raw, reactor: Stepped) -> None:
        self.ours = ours
        self.raw = raw
        self._reactor = reactor

    async def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass in steps, as it does, and the reactor go round in between."""
        for _ in range(round(seconds / step)):
            self._reactor.advance(step)
            await turns(2)


@asynccontextmanager
async def kept(**options: Any) -> AsyncIterator[Kept]:
    """Open a connection with a ping after 20 s and a timeout of 10 s."""
    reactor = Stepped()
    given: dict[str, Any] = {"ping_interval": 20, "ping_timeout": 10, **options}
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            reactor=reactor,  # type: ignore[arg-type]
            options=ClientOptions(**given),
        )
        raw = await accept_raw(server)
        ours = await within(opening)
        yield Kept(ours, raw, reactor)
        ours.abort()
        await within(ours.when_closed())
    assert reactor.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_silent_peer_is_given_up_at_interval_and_timeout() -> None:
    async with kept() as both:
        await both.advance(19.5)
        assert not both.raw.received
        await both.advance(1)
        opcode, _ = await both.raw.read_frame()
        assert opcode == 9
        await both.advance(9)
        assert both.ours.close_code is None
        await both.advance(1)
        outcome = await within(both.ours.when_closed())
        assert (outcome.code, outcome.by, outcome.clean) == (1011, "local", False)


@pytest_twisted.ensureDeferred
async def test_peer_that_answers_lives_and_its_latency_is_known() -> None:
    async with kept() as both:
        for _ in range(5):
            await both.advance(20)
            opcode, payload = await both.raw.read_frame()
            assert opcode == 9
            await both.advance(2)
            both.raw.write(frame(10, payload, masked=False))
            wire: Any = both.ours._wire
            await eventually(lambda: wire._ping_payload is None)  # noqa: B023 - awaited here
            assert both.ours.latency == pytest.approx(2, abs=0.5)
        assert both.ours.close_code is None


@pytest_twisted.ensureDeferred
async def test_peer_whose_messages_keep_coming_lives_without_a_pong() -> None:
    async with kept() as both:
        for number in range(50):
            both.raw.write(frame(1, b"%d" % number, masked=False))
            assert await both.ours.recv(10) == str(number)
            await both.advance(2)
        assert both.ours.close_code is None
        assert both.raw.received  # it was pinged


@pytest_twisted.ensureDeferred
async def test_bytes_of_one_long_message_are_a_sign_of_life() -> None:
    async with kept() as both:
        wire: Any = both.ours._wire
        both.raw.write(frame(2, b"", length=1000, masked=False))
        for _ in range(50):
            before = wire.keepalive._heard
            both.raw.write(b"\0")
            await both.advance(2)
            await eventually(lambda: wire.keepalive._heard > before)  # noqa: B023 - awaited here
        assert both.ours.close_code is None


@pytest_twisted.ensureDeferred
async def test_wrong_pong_is_a_sign_of_life_and_not_an_answer() -> None:
    async with kept() as both:
        await both.advance(20)
        await both.raw.read_frame()
        both.raw.write(frame(10, b"unasked", masked=False))
        await turns(5)
        assert both.ours.latency is None
        await both.advance(8)
        assert both.ours.close_code is None


@pytest_twisted.ensureDeferred
async def test_peer_that_we_do_not_read_from_is_not_given_up() -> None:
    async with kept(receive_queue=1) as both:
        both.raw.write(frame(1, b"x", masked=False) * 20)
        await eventually(lambda: both.ours._messages)
        for _ in range(5):
            await both.advance(40)  # it may answer as it likes: nothing is read
        assert both.ours.close_code is None
        for _ in range(20):
            assert await both.ours.recv(10) == "x"
        # Now it is listened to again, and silence counts.
        await both.advance(80)
        assert (await within(both.ours.when_closed())).code == 1011


@pytest_twisted.ensureDeferred
async def test_clock_that_jumps_costs_one_ping_and_no_connection() -> None:
    """A laptop that slept: the peer may have answered meanwhile."""
    async with kept() as both:
        for _ in range(3):
            both._reactor.advance(3600)
            await turns(3)
            assert both.ours.close_code is None
            opcode, payload = await both.raw.read_frame()
            assert opcode == 9
            wire: Any = both.ours._wire
            both.raw.write(frame(10, payload, masked=False))
            await eventually(lambda: wire._ping_payload is None)  # noqa: B023 - awaited here


@pytest_twisted.ensureDeferred
async def test_without_an_interval_nothing_is_ever_sent() -> None:
    async with kept(ping_interval=None) as both:
        await both.advance(10_000, step=100)
        assert both.ours.close_code is None
        assert not both.raw.received


@pytest_twisted.ensureDeferred
async def test_without_a_timeout_a_silent_peer_is_kept() -> None:
    async with kept(ping_timeout=None) as both:
        await both.advance(10_000, step=100)
        assert both.ours.close_code is None


@pytest_twisted.ensureDeferred
async def test_server_finds_a_silent_client() -> None:
    from .interop import serving
    from .raw import open_raw

    options = ServerOptions(ping_interval=0.05, ping_timeout=0.1)
    async with serving(options=options) as (server, _, handled):
        raw = await open_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        connection = await handled.next()
        outcome = await within(connection.when_closed(), 5)
        assert (outcome.code, outcome.by) == (1011, "local")
        await within(raw.ended())
