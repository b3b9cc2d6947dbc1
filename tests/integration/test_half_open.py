"""Peers that vanish: stopped, killed, silent. Found by the keepalive, and only when they are."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.clock import loop_watch
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosedError
from wsframe.options import ClientOptions, ServerOptions, TCPKeepalive
from wsframe.protocol.tcp import socket_below, unsent_bytes
from wsframe.server import serve

from .certificates import Authority
from .interop import LISTEN, CoreSet
from .origins import echo_server
from .peers import Peer, websockets_peer
from .proxies import Proxies, RecordingProxy
from .raw import Raw, RawServer, Stepped, accept_raw, eventually, frame, open_raw, turns, within
from .test_close import ROLES
from .test_close import pair as raw_pair

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


@pytest_twisted.ensureDeferred
async def test_stopped_process_is_found_also_while_messages_are_sent_to_it(process: Peer) -> None:
    """Its kernel takes them for a long time; that is no sign of life."""

    async def send_on(connection: Connection) -> None:
        while True:
            await connection.send(bytes(1000))
            await turns(5)

    keepalive = {"ping_interval": 0.15, "ping_timeout": 0.2}
    async with pair(process, "server", ours=keepalive) as both:
        process.signal(signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionClosedError) as caught:
                await within(defer.ensureDeferred(send_on(both.ours)))
        finally:
            process.signal(signal.SIGCONT)
        assert (caught.value.code, caught.value.reason) == (1011, "keepalive ping timeout")


BLOCKED = 1.2
"""Seconds: six times the timeout below."""


async def block_with_a_ping_out(connection: Connection, process: Peer) -> None:
    """Block the loop when a ping went out, and have the peer answer it meanwhile.

    The peer is stopped until then: how many turns a ping takes to go out is the reactor's affair.
    """
    from twisted.internet import reactor

    wire: Any = connection._wire
    blocked: defer.Deferred[None] = defer.Deferred()
    send_frame = wire.sendFrame

    def block() -> None:
        assert wire._ping_payload is not None
        process.signal(signal.SIGCONT)
        time.sleep(BLOCKED)
        blocked.callback(None)

    def send(opcode: int, *rest: Any, **more: Any) -> None:
        if opcode == 9:
            process.signal(signal.SIGSTOP)
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                pass
        send_frame(opcode, *rest, **more)
        if opcode == 9:
            del wire.sendFrame
            reactor.callLater(0, block)  # type: ignore[attr-defined]

    wire.sendFrame = send
    await within(blocked)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_blocked_loop_loses_no_connection_and_is_reported(
    process: Peer, role: str, logged: Callable[[], str]
) -> None:
    """The pong, or a message, sits unread while every timer runs out."""
    from twisted.internet import reactor

    watch = loop_watch(reactor)  # type: ignore[arg-type]
    count = watch.count
    waits = {"ping_interval": 0.15, "ping_timeout": 0.2, "message_timeout": 0.5}
    async with pair(process, role, ours=waits) as both:
        for _ in range(2):
            asked = process("send", text="in the meantime")
            await block_with_a_ping_out(both.ours, process)
            assert await both.ours.recv(10) == "in the meantime"
            await asked
        await both.ours.send("still there")
        assert (await process("recv"))["text"] == "still there"
        # That may have come in the very turn whose timers are still to run.
        await eventually(lambda: watch.count >= count + 2)
    assert watch.last > 0.5
    assert logged().count("The event loop was blocked") <= 1  # the next line in a minute


@pytest_twisted.ensureDeferred
async def test_dead_peer_is_found_after_a_blocked_loop(process: Peer) -> None:
    keepalive = {"ping_interval": 0.15, "ping_timeout": 0.2}
    async with pair(process, "client", ours=keepalive) as both:
        process.signal(signal.SIGSTOP)
        try:
            time.sleep(BLOCKED)
            await turns(2)
            assert both.ours.close_code is None
            assert (await within(both.ours.when_closed())).code == 1011
        finally:
            process.signal(signal.SIGCONT)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_peer_that_sends_no_message_is_told_3008(process: Peer, role: str) -> None:
    """Its pongs come in time all the while."""
    waits = {"ping_interval": 0.02, "message_timeout": 0.3}
    async with pair(process, role, ours=waits) as both:
        closed = process("closed")
        with pytest.raises(ConnectionClosedError) as caught:
            await both.ours.recv(10)
        outcome = caught.value
        assert (outcome.code, outcome.reason) == (3008, "no message for 0.3 s")
        assert (outcome.by, both.ours.rtt is not None) == ("local", True)
        assert await closed == {"code": 3008, "reason": "no message for 0.3 s"}


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
        url = proxies.running(kind).url("http")
        async with echo_server() as target:
            connection = await connect(f"ws://127.0.0.1:{target}/", proxies=url)
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
            before = wire.keepalive.heard
            both.raw.write(b"\0")
            await both.advance(2)
            await eventually(lambda: wire.keepalive.heard > before)  # noqa: B023
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

    options = ServerOptions(ping_interval=0.05, ping_timeout=0.1)
    async with serving(options=options) as (server, _, handled):
        raw = await open_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        connection = await handled.next()
        outcome = await within(connection.when_closed(), 5)
        assert (outcome.code, outcome.by) == (1011, "local")
        await within(raw.ended())


# ------------------------------------------------------------------ peers that do not read


CHUNK = bytes(64 * 1024)


@pytest_twisted.ensureDeferred
async def test_peer_that_never_reads_cannot_hold_a_handler_that_echoes() -> None:
    """It sends as much as it gets rid of; all that is bounded, and so is the time."""
    handled: list[Connection] = []
    most = 0

    async def echo(connection: Connection) -> None:
        handled.append(connection)
        async for message in connection:
            await connection.send(message)

    options = ServerOptions(write_timeout=0.4, ping_interval=0.1, ping_timeout=0.1)
    async with serve(echo, LISTEN, options=options) as server:
        raw = await open_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        for _ in range(400):  # 25 MiB there: more than any kernel buffers on loopback
            raw.write(frame(2, CHUNK))
        await eventually(lambda: handled)
        connection = handled[0]

        def ended() -> bool:
            nonlocal most
            transport: Any = connection._wire.transport  # type: ignore[attr-defined]
            held = len(transport.dataBuffer) + transport._tempDataLen
            most = max(most, held + connection._bytes + connection._waiting_bytes)
            return connection.close_code is not None

        await eventually(ended)
        outcome = await within(connection.when_closed())
        assert (outcome.code, outcome.by) == (1006, "local")
        assert "took nothing" in outcome.reason
        assert most < 3 * options.receive_buffer
        raw.transport.resumeProducing()  # type: ignore[union-attr]
        await within(raw.ended())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a peer took")
@pytest_twisted.ensureDeferred
async def test_peer_that_reads_slowly_is_left_alone_until_it_stops() -> None:
    """Within one large message, of which the transport is never rid."""
    async with kept(ping_interval=None, write_timeout=60) as both:
        both.raw.transport.pauseProducing()  # type: ignore[union-attr]
        both.ours.send(bytes(40_000_000))
        wire: Any = both.ours._wire
        for _ in range(10):
            await eventually(lambda: wire.blocked)
            await both.advance(50, step=5)
            read = both.raw.total + 2_000_000
            both.raw.transport.resumeProducing()  # type: ignore[union-attr]
            await both.raw.until(lambda: both.raw.total >= read)  # noqa: B023 - awaited here
            both.raw.transport.pauseProducing()  # type: ignore[union-attr]
        assert both.ours.close_code is None
        await both.advance(100, step=5)
        outcome = await within(both.ours.when_closed())
        assert (outcome.code, outcome.by) == (1006, "local")


# ------------------------------------------------------------------ what the kernel is asked


def set_on(connection: Connection) -> dict[int, int]:
    """Return what the socket of a connection says of keepalive."""
    tcp = socket_below(connection._wire.transport)  # type: ignore[attr-defined]
    assert tcp is not None
    names = (
        socket.TCP_KEEPIDLE,
        socket.TCP_KEEPINTVL,
        socket.TCP_KEEPCNT,
        socket.TCP_USER_TIMEOUT,
        socket.TCP_NODELAY,
    )
    told = {name: tcp.getsockopt(socket.IPPROTO_TCP, name) for name in names}
    return {0: tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), **told}


def wanted(idle: int, interval: int, count: int, deadline: int) -> dict[int, int]:
    return {
        0: 1,
        socket.TCP_KEEPIDLE: idle,
        socket.TCP_KEEPINTVL: interval,
        socket.TCP_KEEPCNT: count,
        socket.TCP_USER_TIMEOUT: deadline * 1000,
        socket.TCP_NODELAY: 1,
    }


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the names differ")


@LINUX
@ROLES
@pytest_twisted.ensureDeferred
async def test_kernel_probes_idle_connections_of_both_roles(role: str) -> None:
    async with raw_pair(role) as both:
        assert set_on(both.ours) == wanted(60, 15, 4, 120)
    probes = TCPKeepalive(idle=7, interval=3, count=2)
    async with raw_pair(role, tcp_keepalive=probes, write_timeout=30) as both:
        assert set_on(both.ours) == wanted(7, 3, 2, 30)


@LINUX
@pytest_twisted.ensureDeferred
async def test_kernel_probes_the_socket_below_tls_and_a_tunnel() -> None:
    authority = Authority()
    probes = TCPKeepalive(idle=7, interval=3, count=2)
    async with (
        echo_server(certificate=authority.issue("localhost")) as port,
        RecordingProxy() as proxy,
        connect(
            f"wss://localhost:{port}/",
            tls=authority.client("localhost"),
            proxies=proxy.url,
            options=ClientOptions(tcp_keepalive=probes),
        ) as connection,
    ):
        assert set_on(connection) == wanted(7, 3, 2, 60)
        # Not what the last layer of TLS would give.
        assert unsent_bytes(connection._wire.transport) is not None  # type: ignore[attr-defined]
