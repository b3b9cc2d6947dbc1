"""Autobahn's prepared messages: one frame and one compression for many, straight to the kernel."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import pytest_twisted
from autobahn.websocket.compress import PerMessageDeflateOfferAccept
from integration.raw import connect_raw, eventually, turns, upgrade
from memory import BINARY, TEXT, Frame, Peer, opened_server
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock

from wsframe.options import ServerOptions
from wsframe.protocol import WebSocketServerFactory, WebSocketServerProtocol, prepared, shared
from wsframe.protocol.tcp import send_at_once

WORDS = b"one message to all of them " * 40
OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Any, **options: Any) -> WebSocketServerFactory:
    factory = WebSocketServerFactory(reactor=clock, options=ServerOptions(ping_interval=None))
    factory.protocol = WebSocketServerProtocol
    factory.setProtocolOptions(**options)
    return factory


def accepting(**agreed: Any) -> dict[str, Any]:
    """Return the option that accepts a client's first offer of deflate."""
    return {
        "perMessageCompressionAccept": lambda offers: PerMessageDeflateOfferAccept(
            offers[0], **agreed
        )
    }


@pytest.fixture
def presses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note what is compressed for many."""
    made: list[bytes] = []
    compress_alone = shared.compress_alone

    def compress(payload: bytes, *kind: int) -> bytes:
        made.append(payload)
        return compress_alone(payload, *kind)

    monkeypatch.setattr(shared, "compress_alone", compress)
    return made


def test_it_is_compressed_once_and_the_same_for_all(clock: Clock, presses: list[bytes]) -> None:
    factory = make(clock, **accepting())
    peers = [opened_server(factory, OFFER) for _ in range(3)]
    plain = opened_server(factory)
    message = factory.prepareMessage(WORDS, isBinary=True)
    for peer in (*peers, plain):
        peer.protocol.sendPreparedMessage(message)
    assert presses == [WORDS]
    assert plain.frames() == [Frame(BINARY, WORDS)]
    (sent,), *others = (peer.frames() for peer in peers)
    assert others == [[sent], [sent]]
    assert sent.rsv == 4
    assert zlib.decompress(sent.payload + b"\0\0\xff\xff\3\0", -15) == WORDS


def test_mixed_with_others_it_is_one_stream_for_the_peer(clock: Clock) -> None:
    """Nothing sent refers to what the peer's window does not hold."""
    factory = make(clock, **accepting())
    peer = opened_server(factory, OFFER)
    payloads = [b"%d " % number + WORDS[: 50 * number + 1] for number in range(20)]
    for number, payload in enumerate(payloads):
        if number % 3:
            peer.protocol.sendPreparedMessage(factory.prepareMessage(payload))
        else:
            peer.protocol.sendMessage(payload)
    window = zlib.decompressobj(-15)
    assert [window.decompress(f.payload + b"\0\0\xff\xff") for f in peer.frames()] == payloads


def test_what_is_not_to_be_compressed_is_not(clock: Clock, presses: list[bytes]) -> None:
    factory = make(clock, **accepting())
    factory.compress_from = 10
    peer = opened_server(factory, OFFER)
    peer.protocol.sendPreparedMessage(factory.prepareMessage(WORDS, doNotCompress=True))
    peer.protocol.sendPreparedMessage(factory.prepareMessage(b"short"))
    assert peer.frames() == [Frame(TEXT, WORDS), Frame(TEXT, b"short")]
    assert presses == []


def test_fragments_that_were_asked_for_are_made(clock: Clock, presses: list[bytes]) -> None:
    factory = make(clock, **accepting(), autoFragmentSize=10)
    peer = opened_server(factory, OFFER)
    peer.protocol.sendPreparedMessage(factory.prepareMessage(WORDS))
    assert len(peer.frames()) > 1
    assert presses == []


def test_what_was_sent_compressed_is_counted(clock: Clock) -> None:
    factory = make(clock, **accepting())
    one, other = opened_server(factory, OFFER), opened_server(factory, OFFER)
    one.protocol.sendPreparedMessage(factory.prepareMessage(WORDS))
    other.protocol.sendMessage(WORDS)  # nothing came before: the same bytes
    assert one.protocol.trafficStats.__json__() == other.protocol.trafficStats.__json__()


@pytest.mark.parametrize("ended", ["closed", "aborted"])
def test_nothing_is_sent_behind_the_end(clock: Clock, ended: str) -> None:
    factory = make(clock)
    peer = opened_server(factory)
    if ended == "closed":
        peer.protocol.sendClose(1000)
    else:
        peer.protocol.dropConnection(abort=True)
    before = bytes(peer.transport.written)
    peer.protocol.sendPreparedMessage(factory.prepareMessage(b"late"))
    assert bytes(peer.transport.written) == before


def test_while_the_peer_does_not_read_it_waits_behind_the_rest(clock: Clock) -> None:
    factory = make(clock)
    peer = opened_server(factory)
    peer.transport.stalled = True
    large = bytes(200_000)
    peer.protocol.sendMessage(large, isBinary=True)
    peer.protocol.sendPreparedMessage(factory.prepareMessage(b"behind"))
    peer.protocol.sendMessage(b"last")
    assert peer.protocol.backlog > 0
    sent = peer.transport.drain()
    while peer.transport.waiting:
        sent += peer.transport.drain()
    assert sent[-len(b"??behind??last") :] == b"\x81\x06behind\x81\x04last"


# ------------------------------------------------------------------------ one for many, or several


def went_at_once(peers: list[Peer], factory: Any, payload: bytes) -> list[bool]:
    """Send it to all, and return to which of them it was to go straight to the kernel."""
    message = factory.prepareMessage(payload)
    told = []
    for peer in peers:
        peer.protocol.sendPreparedMessage(message)
        told.append(message.shared.at_once)
    return told


def test_only_one_to_many_goes_straight_to_the_kernel(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was last is expected again: who publishes much pays for one call in a turn."""
    monkeypatch.setattr(prepared, "MANY", 3)
    factory = make(clock)
    peers = [opened_server(factory) for _ in range(4)]
    few, alone, several = [False] * 2, [False, False, True, True], [False] * 4

    assert went_at_once(peers[:2], factory, b"few") == few
    assert not clock.getDelayedCalls()
    assert went_at_once(peers, factory, b"1") == alone
    assert went_at_once(peers, factory, b"2") == several
    clock.advance(0)
    assert went_at_once(peers, factory, b"3") == several
    clock.advance(0)
    assert went_at_once(peers, factory, b"4") == alone
    clock.advance(0)
    assert not clock.getDelayedCalls()
    assert peers[3].frames() == [Frame(TEXT, b"%d" % number) for number in range(1, 5)]


@pytest_twisted.ensureDeferred
async def test_over_tcp_everybody_gets_everything_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(prepared, "MANY", 2)
    sent_at_once: list[bool] = []

    def noting(transport: Any, data: bytes) -> bool:
        sent_at_once.append(send_at_once(transport, data))
        return sent_at_once[-1]

    monkeypatch.setattr(prepared, "send_at_once", noting)
    opened: list[Any] = []

    class Subscriber(WebSocketServerProtocol):
        def onOpen(self) -> None:
            opened.append(self)

    factory = make(reactor)
    factory.protocol = Subscriber
    listening: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    clients = [await connect_raw(listening.getHost().port) for _ in range(4)]
    try:
        for client in clients:
            client.write(upgrade())
            await client.read_head()
        for number in range(10):
            for name in (b"to all", b"to all again")[: 1 + number % 2]:
                message = factory.prepareMessage(b"%d %s" % (number, name))
                for each in opened:
                    each.sendMessage(b"%d before" % number)
                    each.sendPreparedMessage(message)
            await turns()
            message = factory.prepareMessage(b"%d alone" % number)
            for each in opened:
                each.sendPreparedMessage(message)
            await turns()
        expected = []
        for number in range(10):
            for name in (b"to all", b"to all again")[: 1 + number % 2]:
                expected += [b"%d before" % number, b"%d %s" % (number, name)]
            expected.append(b"%d alone" % number)
        for client in clients:
            assert [await client.read_frame() for _ in expected] == [(TEXT, e) for e in expected]
        # What was sent before a message waits for the end of the turn, and the message behind it.
        assert {True, False} == set(sent_at_once)
    finally:
        for client in clients:
            await client.drop()
        await eventually(lambda: factory.getConnectionCount() == 0)
        await listening.stopListening()
