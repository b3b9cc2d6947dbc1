"""Slow readers on either side: who waits, what is bounded, and that others lose nothing.

What is measured is the length of queues, never time.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import ConnectionClosedError, SendBufferFull
from wsframe.fanout import broadcast
from wsframe.options import ClientOptions, ServerOptions

from .interop import serving
from .raw import Raw, eventually, frame, open_raw, turns, within
from .test_close import ROLES, Both, pair

CHUNK = bytes(64 * 1024)


def waiting_in_transport(connection: Connection) -> int:
    """Return the bytes that the transport holds in this process, not those in the kernel."""
    transport: Any = connection._wire.transport  # type: ignore[attr-defined]
    return len(transport.dataBuffer) + transport._tempDataLen


async def stalled(value: Any) -> None:
    """Wait until a number has not changed for many turns of the reactor."""
    last, same = value(), 0
    while same < 30:
        await turns()
        now = value()
        same = same + 1 if now == last else 0
        last = now


@ROLES
@pytest_twisted.ensureDeferred
async def test_peer_that_does_not_read_makes_send_wait(role: str) -> None:
    total = 300  # 19 MiB: more than any kernel buffers on loopback
    sent = 0

    async def send_all(connection: Connection) -> None:
        nonlocal sent
        for _ in range(total):
            await connection.send(CHUNK)
            sent += 1

    async with pair(role) as both:
        both.raw.transport.pauseProducing()  # type: ignore[union-attr]
        sending = defer.ensureDeferred(send_all(both.ours))
        await stalled(lambda: sent)
        assert sent < total
        assert waiting_in_transport(both.ours) <= 2 * len(CHUNK) + 100
        assert len(both.ours._senders) == 1
        both.raw.transport.resumeProducing()  # type: ignore[union-attr]
        await within(sending)
        assert sent == total
        size = total * (len(CHUNK) + 10 + (4 if role == "client" else 0))
        await both.raw.until(lambda: len(both.raw.received) >= size)


@ROLES
@pytest_twisted.ensureDeferred
async def test_application_that_does_not_recv_pauses_the_peer(role: str) -> None:
    total = 20_000
    payload = bytes(1000)
    async with pair(role, receive_queue=10, receive_buffer=20_000) as both:
        both.raw.write(both.frame(2, payload) * total)
        transport: Any = both.raw.transport
        await stalled(lambda: len(transport.dataBuffer) - transport.offset)
        assert (
            transport.dataBuffer
        )  # 20 MB do not fit into the kernel: the peer cannot get rid of it
        # One read from the transport may exceed the limit once.
        assert len(both.ours._messages) <= 10 + 65536 // len(payload) + 1
        assert both.ours._bytes <= 20_000 + 65536 + len(payload)
        longest = 0
        for _ in range(total):
            assert await both.ours.recv(10) == payload
            longest = max(longest, len(both.ours._messages))
        assert longest <= 10 + 65536 // len(payload) + 1
        assert both.ours._bytes == 0


@pytest_twisted.ensureDeferred
async def test_slow_reader_slows_a_fast_sender_of_our_own() -> None:
    """Both ends are wsframe's: memory is bounded on both."""
    total = 2000
    sent = 0

    async def produce(connection: Connection) -> None:
        nonlocal sent
        for number in range(total):
            await connection.send(number.to_bytes(4) + bytes(20_000))
            sent += 1

    async with serving() as (_, url, handled):
        client = await connect(url, options=ClientOptions(receive_queue=4))
        server = await handled.next()
        producing = defer.ensureDeferred(produce(server))
        await stalled(lambda: sent)
        assert sent < total
        assert len(client._messages) <= 4 + 4
        assert waiting_in_transport(server) < 200_000
        for number in range(total):
            assert (await client.recv(10))[:4] == number.to_bytes(4)
        await within(producing)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_slow_consumer_of_a_broadcast_is_closed_1008_and_others_get_everything() -> None:
    options = ServerOptions(send_buffer=300_000, close_timeout=5)
    count = 200
    async with serving(options=options) as (server, url, handled):
        port = server.addresses[0].port  # type: ignore[attr-defined]
        slow = await open_raw(port)
        slow_side = await handled.next()
        slow.transport.pauseProducing()  # type: ignore[union-attr]
        quick = [await connect(url) for _ in range(3)]
        for _ in quick:
            await handled.next()
        for number in range(count):
            broadcast(server.connections, number.to_bytes(4) + CHUNK)
            for client in quick:
                assert (await client.recv(10))[:4] == number.to_bytes(4)
            # Never more than the limit, the last write, and what the transport takes by itself.
            assert waiting_in_transport(slow_side) <= 300_000 + 3 * len(CHUNK)
        assert slow_side.close_code == 1008
        slow.transport.resumeProducing()  # type: ignore[union-attr]
        code, reason = await slow.read_close()
        assert code == 1008
        assert "slowly" in reason
        await slow.drop()
        for client in quick:
            await client.close()


@pytest_twisted.ensureDeferred
async def test_broadcast_passes_over_those_that_close() -> None:
    async with serving() as (server, url, handled):
        clients = [await connect(url) for _ in range(3)]
        sides = [await handled.next() for _ in clients]
        sides[1].close(1000)
        broadcast(server.connections, "news")
        assert [await clients[n].recv(10) for n in (0, 2)] == ["news", "news"]
        with pytest.raises(Exception, match="1000"):
            await clients[1].recv(10)
        for client in clients:
            await client.close()


async def flooded(both: Both, count: int) -> None:
    both.raw.transport.pauseProducing()  # type: ignore[union-attr]
    # More than the kernel takes on the way to the peer, so that no pong gets out.
    wire: Any = both.ours._wire
    wire.send_message(bytes(16_000_000), True)
    before = waiting_in_transport(both.ours)
    for number in range(count):
        both.raw.write(both.frame(9, number.to_bytes(8)))
        if number % 1000 == 0:
            await turns()
    await eventually(lambda: wire._owed_pong == (count - 1).to_bytes(8))
    assert wire.blocked
    assert waiting_in_transport(both.ours) <= before


@ROLES
@pytest_twisted.ensureDeferred
async def test_ping_flood_from_a_peer_that_never_reads_owes_the_latest_pong_only(
    role: str,
) -> None:
    """CVE-2026-11586; RFC 6455 §5.5.3."""
    count = 10_000
    async with pair(role) as both:
        await flooded(both, count)
        both.raw.transport.resumeProducing()  # type: ignore[union-attr]
        pongs = []
        while not pongs or pongs[-1] != (count - 1).to_bytes(8):
            opcode, payload = await both.raw.read_frame()
            if opcode == 10:
                pongs.append(payload)
        assert len(pongs) < 10


@pytest_twisted.ensureDeferred
async def test_senders_that_do_not_wait_meet_the_send_buffer() -> None:
    async with pair("server", send_buffer=100_000) as both:
        both.raw.transport.pauseProducing()  # type: ignore[union-attr]
        waiting = []

        async def send_on() -> None:
            for _ in range(1000):
                sending = both.ours.send(CHUNK)
                if sending.called:
                    await sending
                else:
                    waiting.append(sending)
                    sending.addErrback(lambda failure: failure.trap(ConnectionClosedError))

        with pytest.raises(SendBufferFull):
            await send_on()
        assert both.ours._waiting_bytes <= 100_000 + len(CHUNK)
        assert len(waiting) <= 3
        both.ours.abort()
        await within(both.ours.when_closed())
        assert all(sending.called for sending in waiting)


@pytest_twisted.ensureDeferred
async def test_cancelled_send_takes_its_message_out() -> None:
    async with pair("server") as both:
        both.raw.transport.pauseProducing()  # type: ignore[union-attr]
        while both.ours.send(CHUNK).called:
            await turns()
        doomed = both.ours.send("doomed")
        last = both.ours.send("last")
        doomed.cancel()
        with pytest.raises(defer.CancelledError):
            await doomed
        both.raw.transport.resumeProducing()  # type: ignore[union-attr]
        await within(last)
        texts = []
        while "last" not in texts:
            opcode, payload = await both.raw.read_frame()
            if opcode == 1:
                texts.append(payload.decode())
        assert texts == ["last"]


@pytest_twisted.ensureDeferred
async def test_close_is_not_stopped_by_a_full_receive_queue() -> None:
    """Reading is paused when we close; the answer to our Close frame is read all the same."""
    async with pair("client", receive_queue=1) as both:
        both.raw.write(both.frame(1, b"x") * 500)
        await eventually(lambda: both.ours._messages)
        closing = both.ours.close()
        await both.raw.read_close()
        both.raw.write(both.close_frame(1000))
        both.raw.finish()
        await within(closing)
        assert (await both.ours.when_closed()).clean


@pytest_twisted.ensureDeferred
async def test_end_of_the_peer_is_seen_once_the_queue_is_read() -> None:
    async with pair("client", receive_queue=1) as both:
        both.raw.write(both.frame(1, b"x") * 3 + both.close_frame(4001))
        assert [await both.ours.recv(10) for _ in range(3)] == ["x", "x", "x"]
        await both.raw.read_close()
        both.raw.finish()
        with pytest.raises(ConnectionClosedError) as caught:
            await both.ours.recv(10)
        assert caught.value.code == 4001


@pytest_twisted.ensureDeferred
async def test_early_data_of_a_client_that_waits_for_its_admission_is_bounded() -> None:
    deciding: defer.Deferred[None] = defer.Deferred()
    async with serving(process_request=lambda request: deciding) as (server, _, handled):
        from .raw import connect_raw, upgrade

        raw: Raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        message = frame(2, bytes(10_000))
        raw.write(upgrade() + message * 2000)
        transport: Any = raw.transport
        await stalled(lambda: len(transport.dataBuffer) - transport.offset)
        assert transport.dataBuffer  # the rest has to wait where it comes from
        deciding.callback(None)
        connection = await handled.next()
        for _ in range(2000):
            assert len(await connection.recv(10)) == 10_000
        await raw.drop()
