"""The outbox of a client: what is sent without a connection, and what is told of what was lost."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from integration.clients import Client, client
from integration.peers import free_port
from integration.raw import RawServer, accept_raw, close_frame, frame, turns, within
from twisted.internet import defer

from wsframe.client.sending import FULL_WAIT
from wsframe.connection import Connection
from wsframe.core import events
from wsframe.core.reconnect import State as Doing
from wsframe.errors import NotSent, OutboxFull
from wsframe.options import ClientOptions, ServiceOptions


def limits(**changes: Any) -> ServiceOptions:
    return ServiceOptions(**changes)


@pytest_twisted.ensureDeferred
async def test_what_waits_goes_out_in_order_after_the_reopen_hook() -> None:
    async def subscribe(connection: Connection) -> None:
        await connection.send("subscribe")

    async with RawServer() as server, client(server, on_open=subscribe) as this:
        sent = [this.service.send(message) for message in ("one", b"two", bytearray(b"three"))]
        assert not any(each.called for each in sent)
        raw = await accept_raw(server)
        frames = [await raw.read_frame() for _ in range(4)]
        assert frames == [(1, b"subscribe"), (1, b"one"), (2, b"two"), (2, b"three")]
        for each in sent:
            assert await within(each) is None
        assert this.service.send("at once").called
        assert await raw.read_frame() == (1, b"at once")
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_what_no_connection_took_goes_out_on_the_next() -> None:
    """The first connection's buffer is full; it ends with messages waiting on both sides of it."""
    big = b"x" * 1_000_000
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        messages = []
        for _ in range(20):
            messages.append(this.service.send(big))
            if not messages[-1].called:
                break
        last = this.service.send("last")
        assert not messages[-1].called
        raw.transport.abortConnection()  # type: ignore[union-attr]
        this.clock.advance(await this.until_waiting())
        again = await accept_raw(server)
        assert await again.read_frame() == (2, big)
        assert await again.read_frame() == (1, b"last")
        await within(last)
        # What the first connection took is reported, and not sent twice.
        reported = this.told_of(events.Undelivered)
        assert [(event.why, event.count) for event in reported] == [
            ("in flight", min(len(messages) - 1, 4))
        ]
        await again.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_pong_confirms_what_was_sent_before_the_ping() -> None:
    async with (
        RawServer() as server,
        client(server, options=ClientOptions(ping_interval=1000)) as this,
    ):
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        await this.service.send("arrived")
        assert await raw.read_frame() == (1, b"arrived")
        this.clock.advance(1)
        opcode, payload = await raw.read_frame()
        assert opcode == 9
        await this.service.send("unknown")
        raw.write(frame(10, payload, masked=False))
        await this.until(lambda: this.service._sending._outbox.in_flight == 1)
        await raw.drop()
        await this.until_waiting()
        (lost,) = this.told_of(events.Undelivered)
        assert (lost.why, lost.messages, lost.count) == ("in flight", ("unknown",), 1)
        assert "unknown" not in repr(lost)
        assert this.story[-3:] == ["Undelivered", "Closed", "Waiting"]


@pytest_twisted.ensureDeferred
async def test_no_ping_is_sent_where_pinging_is_off() -> None:
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        await this.service.send("one")
        assert this.waits == []
        this.clock.advance(5)
        await this.service.send("two")
        assert [await raw.read_frame() for _ in range(2)] == [(1, b"one"), (1, b"two")]
        await raw.drop()
        await this.until_waiting()
        assert this.told_of(events.Undelivered)[0].messages == ("one", "two")


@pytest_twisted.ensureDeferred
async def test_a_close_that_the_peer_answered_confirms_everything() -> None:
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        await this.service.send("arrived")
        connection = this.service.connection
        assert connection is not None
        connection.close(1000)
        await raw.read_close()
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await this.until_waiting()
        assert this.told_of(events.Undelivered) == []


@pytest_twisted.ensureDeferred
async def test_outbox_refuses_what_is_too_much() -> None:
    async with client(free_port(), service_options=limits(outbox_messages=2)) as this:
        first, second = this.service.send("1"), this.service.send("2")
        with pytest.raises(OutboxFull, match="2 messages, 2 bytes"):
            await this.service.send("3")
        await this.until_waiting()
        assert not first.called
        assert not second.called
    for each in (first, second):
        with pytest.raises(NotSent, match="stopped"):
            await within(each)
    assert this.told_of(events.Undelivered)[-1].messages == ("1", "2")
    assert this.told_of(events.Undelivered)[-1].why == "stopped"


@pytest_twisted.ensureDeferred
async def test_outbox_drops_the_oldest_where_told_to_and_says_which() -> None:
    options = limits(outbox_messages=2, outbox_policy="drop-oldest")
    async with RawServer() as server, client(server, service_options=options) as this:
        sent = [this.service.send(str(number)) for number in range(4)]
        for each in sent[:2]:
            with pytest.raises(OutboxFull, match="newer"):
                await each
        assert [event.messages for event in this.told_of(events.Undelivered)] == [("0",), ("1",)]
        raw = await accept_raw(server)
        assert [await raw.read_frame() for _ in range(2)] == [(1, b"2"), (1, b"3")]
        await raw.drop()
        await this.until_waiting()


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest_twisted.ensureDeferred
async def test_what_the_connection_has_is_not_dropped_for_newer_ones(limit: int) -> None:
    """It is sent as soon as the peer reads; what was dropped, and only that, is not."""
    big = b"x" * 1_000_000
    options = limits(outbox_messages=limit, outbox_policy="drop-oldest")
    async with RawServer() as server, client(server, service_options=options) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        count = 1
        while (held := this.service.send(big)).called:
            count += 1
        texts = [str(number) for number in range(4)]
        sent = [this.service.send(text) for text in texts]
        assert not held.called
        raw.transport.resumeProducing()  # type: ignore[union-attr]
        kept = limit - 1
        expected = [(2, big)] * count + [(1, text.encode()) for text in texts[4 - kept :]]
        assert [await raw.read_frame() for _ in expected] == expected
        assert await within(held) is None
        for number, each in enumerate(sent):
            if number >= 4 - kept:
                assert await within(each) is None
            else:
                with pytest.raises(OutboxFull):
                    await each
        await this.service.send("next")
        assert await raw.read_frame() == (1, b"next")
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_message_that_the_connection_has_is_sent_though_its_sender_waits_no_more() -> None:
    big = b"x" * 1_000_000
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        count = 1
        while (held := this.service.send(big)).called:
            count += 1
        taken, kept = this.service.send("taken"), this.service.send("kept")
        for each in (held, taken):
            each.cancel()
            with pytest.raises(defer.CancelledError):
                await each
        raw.transport.resumeProducing()  # type: ignore[union-attr]
        expected = [(2, big)] * count + [(1, b"kept")]
        assert [await raw.read_frame() for _ in expected] == expected
        await within(kept)
        await raw.drop()
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_what_finds_the_connection_full_of_others_messages_goes_out_after_them() -> None:
    big = b"x" * 1_000_000
    options = ClientOptions(ping_interval=None, send_buffer=len(big))
    async with RawServer() as server, client(server, options=options) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        connection = this.service.connection
        assert connection is not None
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        count = 1
        while (last := connection.send(big)).called:
            count += 1
        late = this.service.send("late")
        assert FULL_WAIT in this.waits
        raw.transport.resumeProducing()  # type: ignore[union-attr]
        await within(last)
        this.clock.advance(FULL_WAIT)
        expected = [(2, big)] * count + [(1, b"late")]
        assert [await raw.read_frame() for _ in expected] == expected
        await within(late)
        assert FULL_WAIT not in this.waits
        await raw.drop()
        await this.until_waiting()


@pytest.mark.parametrize("end", ["lost", "stopped"])
@pytest_twisted.ensureDeferred
async def test_end_of_a_connection_full_of_others_messages_leaves_no_timer(end: str) -> None:
    big = b"x" * 1_000_000
    options = ClientOptions(ping_interval=None, send_buffer=len(big))
    async with RawServer() as server, client(server, options=options) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        connection = this.service.connection
        assert connection is not None
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        while (last := connection.send(big)).called:
            pass
        last.addErrback(lambda _: None)
        late = this.service.send("late")
        if end == "lost":
            raw.transport.abortConnection()  # type: ignore[union-attr]
            this.clock.advance(await this.until_waiting())
            again = await accept_raw(server)
            assert await again.read_frame() == (1, b"late")
            await within(late)
            await again.drop()
            await this.until_waiting()
        else:
            stopping = this.service.stopService()
            assert FULL_WAIT not in this.waits
            raw.transport.abortConnection()  # type: ignore[union-attr]
            await this.until(lambda: stopping.called)
            with pytest.raises(NotSent):
                await late


@pytest.mark.parametrize("end", ["stopped", "has given up"])
@pytest_twisted.ensureDeferred
async def test_nothing_waits_for_a_client_that_has_ended(end: str) -> None:
    """Nobody would ever send it, or say that it was not sent."""
    async with RawServer() as server:
        this = Client(server.port)
        before = this.service.send("before the start")
        this.service.startService()
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"before the start")
        await within(before)
        if end == "stopped":
            stopping = this.service.stopService()
            with pytest.raises(NotSent, match=end):
                await this.service.send("while it stops")
            await raw.drop()
            await this.until(lambda: stopping.called)
        else:
            raw.write(close_frame(1008, masked=False))
            await raw.read_close()
            raw.finish()
            await this.until(lambda: this.service.doing is Doing.GAVE_UP)
        with pytest.raises(NotSent, match=end):
            await this.service.send("late")
        this.service.send("nobody has to look")
        with pytest.raises(TypeError):
            this.service.send(None)  # type: ignore[arg-type]
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_what_is_sent_after_a_restart_goes_out_on_the_connection_that_follows() -> None:
    """The stop before it is not meant for that, though the old connection has yet to end."""
    async with RawServer() as server:
        this = Client(server.port)
        this.service.startService()
        raw = await accept_raw(server)
        await this.until(lambda: this.handled)
        stopping = this.service.stopService()
        this.service.startService()
        sent = this.service.send("for the next")
        await raw.read_close()
        await raw.drop()
        await this.until(lambda: stopping.called)
        again = await accept_raw(server)
        assert await again.read_frame() == (1, b"for the next")
        await within(sent)
        await again.drop()
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_sender_that_hears_of_the_end_may_start_the_client_and_send_again() -> None:
    async with RawServer() as server:
        this = Client(server.port)
        again: list[Any] = []

        def restart(failure: Any) -> None:
            this.service.startService()
            again.append(this.service.send("again"))

        this.service.send("once").addErrback(restart)
        this.service.startService()
        raw = await server.accepted()
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        await this.until(lambda: again)
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"again")
        await within(again[0])
        assert this.story.count("Started") == 2
        assert this.told_of(events.Opened)[0].attempt == 1
        await raw.drop()
        await this.stop()


@pytest_twisted.ensureDeferred
async def test_nobody_has_to_look_at_what_send_returns() -> None:
    """The events say it; the autouse check would find an unhandled error."""
    async with client(free_port(), service_options=limits(outbox_messages=1)) as this:
        this.service.send("1")
        this.service.send("2")
        await this.until_waiting()


@pytest_twisted.ensureDeferred
async def test_message_that_waits_can_be_taken_back() -> None:
    async with RawServer() as server, client(server) as this:
        taken, kept = this.service.send("taken"), this.service.send("kept")
        taken.cancel()
        with pytest.raises(defer.CancelledError):
            await taken
        raw = await accept_raw(server)
        assert await raw.read_frame() == (1, b"kept")
        await within(kept)
        await raw.drop()
        await this.until_waiting()


@pytest.mark.parametrize("message", [None, 1, ["a"]])
def test_only_text_and_bytes_are_messages(message: Any) -> None:
    with pytest.raises(TypeError, match="str or bytes"):
        Client(1).service.send(message)


@pytest_twisted.ensureDeferred
async def test_stop_sends_what_waits_before_the_close_frame() -> None:
    big = b"x" * 1_000_000
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.transport.pauseProducing()  # type: ignore[union-attr]
        count = 0
        while this.service.send(big).called:
            count += 1
        this.service.send("last")
        stopping = defer.ensureDeferred(this.stop())
        await turns(2)
        raw.transport.resumeProducing()  # type: ignore[union-attr]
        for _ in range(count + 1):
            assert await raw.read_frame() == (2, big)
        assert await raw.read_frame() == (1, b"last")
        assert (await raw.read_close())[0] == 1000
        raw.write(close_frame(1000, masked=False))
        raw.finish()
        await within(stopping)
        assert this.told_of(events.Undelivered) == []
