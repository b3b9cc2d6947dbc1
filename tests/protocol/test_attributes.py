"""What a connection has of its own: few attributes, as they are Autobahn's, and what they cost."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from autobahn.twisted import websocket as stock
from memory import PONG, TEXT, Peer, masked_frame, opened_server, request
from twisted.internet.task import Clock

from wsframe.connection import Connection
from wsframe.options import ServerOptions
from wsframe.protocol import (
    ConnectionServerFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from wsframe.protocol.attributes import Made, Setting, settings_of, share_names


@pytest.fixture
def clock() -> Clock:
    return Clock()


def size_of(protocol: Any, *shared: Any) -> int:
    """Return the bytes of all that is reached from a protocol and not from what it shares."""
    seen = {id(each) for each in shared}
    todo, size = [protocol], 0
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, type | type(sys) | type(size_of)):
            continue
        seen.add(id(each))
        size += sys.getsizeof(each)
        todo += gc.get_referents(each)
    return size


def idle(peers: Iterable[Peer]) -> None:
    """Answer the first ping of each."""
    for peer in peers:
        peer.clock.advance(0)
        for ping in peer.frames():
            peer.send(masked_frame(PONG, ping.payload))


def cost(factory: Any, count: int = 60) -> float:
    """Return the bytes that one more connection of a factory takes, after its first ping.

    Of which those that it shares with the others are left out, and so is the transport.
    """
    peers = [opened_server(factory) for _ in range(count)]
    factory.reactor.advance(20)
    idle(peers)
    last, other = peers[-1], peers[-2]
    common = [factory, factory.reactor, factory.deadlines, factory.options, last.transport]
    reached_by_other: set[int] = set()
    todo: list[Any] = [other.protocol]
    stop = {id(each) for each in (*common, other.transport)}
    while todo:
        each = todo.pop()
        if id(each) in reached_by_other or id(each) in stop:
            continue
        if isinstance(each, type | type(sys) | type(size_of)):
            continue
        reached_by_other.add(id(each))
        todo += gc.get_referents(each)
    keep = [each for each in gc.get_objects() if id(each) in reached_by_other]
    size = size_of(last.protocol, *common, *keep)
    for peer in peers:
        peer.end()
    return size


def test_an_idle_connection_of_an_autobahn_application_is_small(clock: Clock) -> None:
    """Autobahn's own takes some nine thousand bytes."""
    assert cost(WebSocketServerFactory(reactor=clock)) < 2_500


def test_an_idle_connection_of_the_api_is_small(clock: Clock) -> None:
    """Without its handler, of which the size is the application's."""
    factory = ConnectionServerFactory(Connection, reactor=clock, options=ServerOptions())
    assert cost(factory) < 3_500


def test_no_connection_has_a_table_of_names_of_its_own(clock: Clock) -> None:
    """Also not for what it first sets when there are many others."""
    factory = WebSocketServerFactory(reactor=clock)
    peers = [opened_server(factory) for _ in range(60)]
    clock.advance(20)
    idle(peers)
    for peer in peers:
        assert not [each for each in gc.get_referents(peer.protocol) if type(each) is dict]
        peer.end()


def test_what_most_never_need_is_made_when_it_is_asked_for() -> None:
    class Having:
        made = Made(lambda _: [])

    one, other = Having(), Having()
    assert one.made is one.made
    assert one.made is not other.made
    one.made = [1]
    assert one.made == [1]
    assert isinstance(Having.made, Made)


# ----------------------------------------------------------------------------- Autobahn's options


def test_options_are_those_that_the_factory_had_when_the_connection_was_made(clock: Clock) -> None:
    factory = WebSocketServerFactory(reactor=clock)
    one = opened_server(factory)
    before = one.protocol.autoPingSize
    factory.setProtocolOptions(autoPingSize=99)
    factory.autoFragmentSize = 7  # by assignment, too
    other = opened_server(factory)

    assert (one.protocol.autoPingSize, one.protocol.autoFragmentSize) == (before, 0)
    assert (other.protocol.autoPingSize, other.protocol.autoFragmentSize) == (99, 7)
    one.end()
    other.end()


def test_connections_with_the_same_options_share_them(clock: Clock) -> None:
    factory = WebSocketServerFactory(reactor=clock)
    one, other = opened_server(factory), opened_server(factory)
    assert one.protocol._settings is other.protocol._settings
    assert settings_of(one.protocol) is one.protocol._settings
    one.end()
    other.end()


def test_what_is_set_on_a_connection_or_in_its_class_goes_before_the_factorys(
    clock: Clock,
) -> None:
    class Own(WebSocketServerProtocol):
        closeHandshakeTimeout = 3.5

        def __init__(self) -> None:
            super().__init__()
            self.autoPingInterval = 4.5

    factory = WebSocketServerFactory(reactor=clock)
    factory.protocol = Own
    peer = opened_server(factory)
    assert peer.protocol.closeHandshakeTimeout == 3.5
    assert peer.protocol.autoPingInterval == 4.5
    clock.advance(4.5)
    assert len(peer.frames()) == 1
    peer.protocol.echoCloseCodeReason = True
    assert peer.protocol.echoCloseCodeReason is True
    peer.end()


def test_there_are_no_options_before_the_connection_is_made() -> None:
    assert not hasattr(WebSocketServerProtocol(), "autoPingInterval")


@pytest.mark.parametrize("ours", [WebSocketServerProtocol, WebSocketClientProtocol])
def test_every_option_of_autobahns_is_one(ours: Any, clock: Clock) -> None:
    for name in ours.CONFIG_ATTRS:
        assert isinstance(getattr(ours, name), Setting), name


# ------------------------------------------------------------------------- Autobahn's attributes


def attributes_of(protocol_class: Any, factory: Any) -> tuple[set[str], Any]:
    factory.protocol = protocol_class
    peer = Peer(factory, factory.reactor)
    peer.send(request(("Sec-WebSocket-Protocol", "a, b"), ("X", "y"), target="/p/q?a=1&a=2&b"))
    return set(vars(peer.protocol)), peer


def test_an_open_connection_has_every_attribute_that_autobahns_has(clock: Clock) -> None:
    """With the same values, whether they are on the instance or made when asked for."""
    stocks = stock.WebSocketServerFactory(reactor=clock)
    stocks._batched_timer = clock
    clock.call_later = clock.callLater  # type: ignore[attr-defined]
    names, theirs = attributes_of(stock.WebSocketServerProtocol, stocks)
    _, ours = attributes_of(WebSocketServerProtocol, WebSocketServerFactory(reactor=clock))
    missing = {name for name in names if not hasattr(ours.protocol, name)}
    assert missing == {"_wskey", "http_response_data"}  # of no use to anybody any more
    for name in names:
        if name.startswith(("http_request_", "http_headers", "http_status", "websocket_", "was")):
            assert getattr(ours.protocol, name) == getattr(theirs.protocol, name), name
    for peer in (theirs, ours):
        peer.end()
    for call in clock.getDelayedCalls():
        call.cancel()


def test_a_connection_that_got_messages_still_has_its_request(clock: Clock) -> None:
    factory = ConnectionServerFactory(Connection, reactor=clock, options=ServerOptions())
    peer = Peer(factory, clock)
    peer.send(request(("Cookie", "a=b"), ("Cookie", "c=d"), target="/x?y"))
    peer.send(masked_frame(TEXT, b"hello"))
    seen = peer.protocol.listener.request
    assert (seen.path, seen.query, seen.headers["cookie"]) == ("/x", "y", "a=b, c=d")
    assert seen.headers.get_all("Cookie") == ["a=b", "c=d"]
    peer.end()


def test_an_attribute_that_an_application_made_a_property_of_is_left_to_it() -> None:
    class Odd:
        @property
        def name(self) -> str:
            return "mine"

    share_names(Odd, ["name", "other"])
    assert Odd().name == "mine"
    assert not hasattr(Odd(), "other")
