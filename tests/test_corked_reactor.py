"""The corked reactor: writes leave at the end of the turn, and all else is as under Twisted's.

Most tests make a reactor of their own and take its turns one by one; the other end of a connection
is a plain socket. What has to be installed runs in a process of its own.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.raw import within
from services.processes import running, twistd
from twisted.internet import error
from twisted.internet.abstract import FileDescriptor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Factory, ProcessProtocol, Protocol
from twisted.python import context, log
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.client import connect
from wsframe.clock import monotonic_clock, use_monotonic_clock
from wsframe.reactor import CorkedReactor

ROOT = Path(__file__).resolve().parents[1]
WAIT = 20.0
BIG = b"0123456789abcdef" * 500_000


class CountedPoller:
    """An epoll object that notes what it is told."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.told: list[str] = []
        self.waits: list[float] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.told.append(name)
            return getattr(self._poller, name)(*arguments)

        return call

    def poll(self, timeout: float, most: int) -> Any:
        self.waits.append(timeout)
        return self._poller.poll(timeout, most)


@implementer(IHalfCloseableProtocol)
class Halves(Protocol):
    """Notes the end of each direction."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def readConnectionLost(self) -> None:
        self.ends.append("read")

    def writeConnectionLost(self) -> None:
        self.ends.append("write")


class Noting(Protocol):
    """Notes what it hears, and does what it is told then."""

    def __init__(self, received: Callable[[Noting], object] = lambda _: None) -> None:
        self.heard = b""
        self.lost: list[type[BaseException]] = []
        self._received = received

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self._received(self)

    def connectionLost(self, reason: Failure = error.ConnectionDone) -> None:  # type: ignore[assignment]
        self.lost.append(reason.type)


class Turns:
    """A reactor that is not installed, with its connections."""

    def __init__(self, kind: type[Any] = CorkedReactor) -> None:
        self.reactor: Any = kind()
        self.poller = self.reactor._poller = CountedPoller(self.reactor._poller)
        self._sockets: list[socket.socket] = []

    def join(
        self, protocol: Protocol, family: socket.AddressFamily = socket.AF_INET
    ) -> tuple[Any, socket.socket]:
        """Connect a protocol of this reactor's with a socket; return both ends."""
        if family is socket.AF_UNIX:
            ours, peer = socket.socketpair(family)
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                peer = socket.create_connection(server.getsockname())
                ours = server.accept()[0]
        peer.settimeout(WAIT)
        ours.setblocking(False)
        factory = Factory.forProtocol(lambda: protocol)
        self.reactor.adoptStreamConnection(ours.fileno(), family, factory)
        ours.close()
        self._sockets.append(peer)
        self.poller.told.clear()
        return protocol.transport, peer

    def end_turn(self) -> None:
        """Take the part of a turn in which timers run and writes leave."""
        self.reactor.runUntilCurrent()

    def until(self, condition: Callable[[], object]) -> None:
        """Take turns until something holds."""
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end
            self.reactor.iterate(0.01)

    def close(self) -> None:
        for peer in self._sockets:
            peer.close()
        self.reactor.disconnectAll()
        for reader in self.reactor._internalReaders:
            reader.connectionLost(None)
        self.reactor._poller.close()


@pytest.fixture
def turns() -> Iterator[Turns]:
    this = Turns()
    yield this
    this.close()


@pytest.fixture(params=[CorkedReactor, EPollReactor])
def either(request: pytest.FixtureRequest) -> Iterator[Turns]:
    """Turns of our reactor, and of the one whose behaviour is kept."""
    this = Turns(request.param)
    yield this
    this.close()


def received(peer: socket.socket, size: int) -> bytes:
    """Read that many bytes, or what there is before the end."""
    parts = []
    while size and (data := peer.recv(min(size, 1 << 20))):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def everything(peer: socket.socket) -> bytes:
    return received(peer, 1 << 62)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def logged_errors(caught: list[dict[str, Any]]) -> list[type[BaseException]]:
    return [event["failure"].type for event in caught if event.get("isError")]


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """Give the list of all that is logged, as Twisted's older observers see it."""
    seen: list[dict[str, Any]] = []
    log.addObserver(seen.append)
    yield seen
    log.removeObserver(seen.append)


# --- when data leaves -----------------------------------------------------------------------------


def test_an_answer_leaves_in_the_turn_of_the_question_and_epoll_hears_nothing(turns: Turns) -> None:
    _, peer = turns.join(Noting(lambda this: this.transport.write(b"answer")))
    peer.sendall(b"question")
    turns.reactor.doIteration(WAIT)
    turns.end_turn()
    assert received(peer, 6) == b"answer"
    assert (turns.poller.told, len(turns.poller.waits)) == ([], 1)


def test_the_writes_of_a_turn_leave_as_one(turns: Turns) -> None:
    """Corked: one call of the kernel, one packet."""
    transport, peer = turns.join(Noting())
    calls = []
    send = transport.writeSomeData
    transport.writeSomeData = lambda data: calls.append(bytes(data)) or send(data)
    transport.write(b"one ")
    turns.reactor.callLater(0, transport.write, b"two ")
    transport.writeSequence([b"thr", b"ee"])
    turns.end_turn()
    assert calls == [b"one threetwo "]
    assert received(peer, 13) == b"one threetwo "
    assert turns.poller.told == []


def test_what_does_not_fit_is_registered_until_it_is_sent(turns: Turns) -> None:
    transport, peer = turns.join(Noting())
    transport.write(BIG)
    assert turns.poller.told == []
    turns.end_turn()
    turns.until(lambda: not turns.reactor.doIteration(0) and peer.recv(1, socket.MSG_PEEK))
    assert turns.poller.told == ["modify"]
    assert turns.reactor.getWriters() == [transport]
    heard = []
    turns.until(lambda: heard.append(received(peer, 64_000)) or not turns.reactor.getWriters())
    transport.loseConnection()
    turns.end_turn()
    assert b"".join(heard) + everything(peer) == BIG
    assert turns.poller.told.count("modify") == 2


def test_a_registered_writer_is_not_tried_at_the_end_of_the_turn(turns: Turns) -> None:
    """Epoll will say when there is room; nothing is asked twice."""
    transport, _ = turns.join(Noting())
    transport.write(BIG)
    turns.end_turn()
    turns.until(lambda: turns.reactor._poller._poller.poll(0) == [])  # the kernel is full
    tried = []
    transport.doWrite = lambda: tried.append(1)
    transport.write(b"more")
    turns.end_turn()
    assert (tried, turns.poller.told.count("modify")) == ([], 1)


def test_what_is_written_while_writing_waits_for_the_next_turn(turns: Turns) -> None:
    """A producer that always has something starves nobody, and no turn waits for events."""

    class Endless:
        count = 0

        def resumeProducing(self) -> None:
            self.count += 1
            transport.write(b"x" * 10)

        def stopProducing(self) -> None:
            pass

    endless = Endless()
    transport, peer = turns.join(Noting())
    asking, other = turns.join(Noting())
    transport.registerProducer(endless, False)
    for turn in range(1, 4):
        assert endless.count == turn
        turns.end_turn()
        turns.poller.waits.clear()
        turns.reactor.doIteration(WAIT)
        assert turns.poller.waits == [0]
    other.sendall(b"and me?")
    turns.until(lambda: asking.protocol.heard == b"and me?")
    assert received(peer, 30) == b"x" * 30
    transport.unregisterProducer()


def test_a_streaming_producer_is_paused_and_resumed(turns: Turns) -> None:
    class Streaming:
        calls: list[str] = []  # noqa: RUF012 - one object

        def pauseProducing(self) -> None:
            self.calls.append("pause")

        def resumeProducing(self) -> None:
            self.calls.append("resume")
            transport.write(b"end")

        def stopProducing(self) -> None:
            self.calls.append("stop")

    producer = Streaming()
    transport, peer = turns.join(Noting())
    transport.registerProducer(producer, True)
    transport.write(b"x" * 70_000)
    assert producer.calls == ["pause"]
    turns.end_turn()
    assert producer.calls == ["pause", "resume"]
    turns.end_turn()
    assert received(peer, 70_003) == b"x" * 70_000 + b"end"
    transport.unregisterProducer()


def test_a_turn_serves_a_bounded_number_of_descriptors(turns: Turns) -> None:
    """The others are first in the next."""
    heard: list[Noting] = []
    peers = [turns.join(Noting(heard.append))[1] for _ in range(300)]
    for peer in peers:
        peer.send(b"x")
    turns.reactor.doIteration(0)
    assert len(heard) == 256
    turns.reactor.doIteration(0)
    assert len(heard) == len(set(heard)) == 300


# --- who waits to be written ----------------------------------------------------------------------


def test_a_pending_writer_is_a_writer(turns: Turns) -> None:
    """It is listed, and removed with all others, once."""
    transport, _ = turns.join(Noting())
    transport.write(b"x")
    transport.write(b"y")
    assert turns.reactor.getWriters() == [transport]
    assert turns.reactor.removeAll() == [transport]
    assert turns.reactor.getWriters() == turns.reactor.getReaders()[1:] == []
    turns.reactor.addReader(transport)


def test_a_pending_writer_that_is_removed_writes_nothing(turns: Turns) -> None:
    transport, peer = turns.join(Noting())
    transport.write(b"x")
    transport.stopWriting()
    turns.end_turn()
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    assert (turns.reactor.getWriters(), turns.poller.told) == ([], [])


def test_a_writer_may_remove_or_add_another_while_the_turn_ends(turns: Turns) -> None:
    first, _ = turns.join(Noting())
    second, two = turns.join(Noting())
    third, three = turns.join(Noting())

    class Meddling:
        def resumeProducing(self) -> None:
            first.unregisterProducer()
            second.stopWriting()
            third.write(b"3")

        def stopProducing(self) -> None:
            pass

    first.registerProducer(Meddling(), True)
    first.producerPaused = True
    first.write(b"1")
    second.write(b"2")
    turns.end_turn()
    assert turns.reactor.getWriters() == [third]
    turns.end_turn()
    assert received(three, 1) == b"3"
    two.setblocking(False)
    with pytest.raises(BlockingIOError):
        two.recv(1)


def test_shutdown_disconnects_pending_writers(turns: Turns) -> None:
    transport, _ = turns.join(noting := Noting())
    transport.write(b"x")
    turns.reactor.disconnectAll()
    assert noting.lost == [error.ConnectionLost]
    assert turns.reactor.getWriters() == []


def test_a_descriptor_that_is_not_twisteds_is_written_when_epoll_says_so(turns: Turns) -> None:
    """It may take the call for a proof that a connection came about."""

    class Foreign:
        def __init__(self, end: socket.socket) -> None:
            self.fileno = end.fileno
            self.written = 0

        def doWrite(self) -> None:
            self.written += 1
            turns.reactor.removeWriter(self)

        def logPrefix(self) -> str:
            return "foreign"

        def connectionLost(self, reason: Failure) -> None:
            pass

    one, other = socket.socketpair()
    with one, other:
        turns.reactor.addWriter(foreign := Foreign(one))
        turns.end_turn()
        assert (foreign.written, turns.reactor.getWriters()) == (0, [foreign])
        turns.reactor.doIteration(WAIT)
        assert (foreign.written, turns.reactor.getWriters()) == (1, [])


def test_a_descriptor_without_a_file_is_refused(either: Turns) -> None:
    """The mistake is told where it is made."""
    with pytest.raises(ValueError, match="negative"):
        either.reactor.addWriter(FileDescriptor(either.reactor))


def test_a_transport_that_is_lost_is_refused(either: Turns) -> None:
    transport, _ = either.join(noting := Noting())
    transport.abortConnection()
    either.until(lambda: noting.lost)
    with pytest.raises(ValueError, match="negative"):
        transport.loseWriteConnection()


class IntoFile(FileDescriptor):
    """Writes to a regular file, which epoll refuses, at most so many bytes at a time."""

    connected = True

    def __init__(self, reactor: Any, fd: int, most: int) -> None:
        super().__init__(reactor)
        self._fd, self._most = fd, most

    def fileno(self) -> int:
        return self._fd

    def writeSomeData(self, data: bytes) -> int:
        return os.write(self._fd, data[: self._most])


@pytest.mark.parametrize(("most", "refused"), [(100, []), (30, ["register"])])
def test_a_regular_file_is_written(
    turns: Turns, tmp_path: Path, most: int, refused: list[str]
) -> None:
    """At the end of the turn; what is left is polled for, as Twisted does it."""
    with (tmp_path / "file").open("wb") as file:
        writer = IntoFile(turns.reactor, file.fileno(), most)
        writer.write(b"x" * 100)
        assert turns.reactor.getWriters() == [writer]
        turns.end_turn()
        assert turns.poller.told == refused
        if refused:
            writer.write(b"x" * 100)
            assert turns.reactor.getWriters() == [writer]
        turns.until(lambda: not turns.reactor.getWriters())
        assert turns.reactor.getDelayedCalls() == []
    assert (tmp_path / "file").read_bytes() == b"x" * (200 if refused else 100)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_connection_that_is_closed_first_sends_all(
    either: Turns, family: socket.AddressFamily
) -> None:
    transport, peer = either.join(noting := Noting(), family)
    transport.write(BIG)
    transport.loseConnection()
    heard: list[bytes] = []
    peer.setblocking(False)

    def read() -> bool:
        try:
            heard.append(peer.recv(1 << 20))
        except BlockingIOError:
            return False
        return not heard[-1]

    either.until(read)
    assert b"".join(heard) == BIG
    either.until(lambda: noting.lost == [error.ConnectionDone])


def test_closing_without_data_takes_one_turn(turns: Turns) -> None:
    transport, peer = turns.join(noting := Noting())
    transport.loseConnection()
    turns.end_turn()
    assert noting.lost == [error.ConnectionDone]
    assert everything(peer) == b""
    assert turns.reactor.getReaders() == [turns.reactor.waker]


def test_one_direction_is_closed_behind_the_data(either: Turns) -> None:
    transport, peer = either.join(halves := Halves())
    transport.write(b"last")
    transport.loseWriteConnection()
    either.until(lambda: halves.ends == ["write"])
    assert everything(peer) == b"last"
    peer.shutdown(socket.SHUT_WR)
    either.until(lambda: halves.ends == ["write", "read"])
    transport.loseConnection()


def test_what_a_peer_closes_first_is_its_direction_alone(either: Turns) -> None:
    transport, peer = either.join(halves := Halves())
    peer.shutdown(socket.SHUT_WR)
    either.until(lambda: halves.ends)
    assert halves.ends == ["read"]
    transport.write(b"still here")
    either.until(lambda: not either.reactor.getWriters())
    assert received(peer, 10) == b"still here"
    transport.loseConnection()
    either.until(lambda: not transport.connected)


def test_an_abort_drops_what_is_pending(either: Turns) -> None:
    transport, peer = either.join(noting := Noting())
    transport.write(b"never sent")
    transport.abortConnection()
    either.until(lambda: noting.lost == [error.ConnectionAborted])
    with pytest.raises(ConnectionResetError):
        peer.recv(1)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_the_last_words_of_a_peer_are_read_although_writing_to_it_fails(
    either: Turns, family: socket.AddressFamily
) -> None:
    """A Close frame, say, that tells why."""
    transport, peer = either.join(noting := Noting(), family)
    peer.sendall(b"bye")
    reset(peer)
    transport.write(b"unheard")
    either.until(lambda: noting.lost)
    assert noting.heard == b"bye"
    assert noting.lost == [error.ConnectionLost]
    assert either.reactor.getReaders() == [either.reactor.waker]


@pytest.mark.parametrize(
    ("family", "ends"),
    [(socket.AF_INET, error.ConnectionLost), (socket.AF_UNIX, error.ConnectionDone)],
)
def test_writing_to_a_peer_that_is_gone_ends_as_reading_would(
    either: Turns, family: socket.AddressFamily, ends: type[BaseException]
) -> None:
    """TCP: a reset. Unix: it closed."""
    transport, peer = either.join(noting := Noting(), family)
    reset(peer)
    transport.write(b"unheard")
    either.until(lambda: noting.lost)
    assert noting.lost == [ends]


def test_last_words_may_close_the_connection(either: Turns) -> None:
    """What the application did is not done again."""
    noting = Noting(lambda this: this.transport.abortConnection())
    transport, peer = either.join(noting)
    peer.sendall(b"bye")
    reset(peer)
    transport.write(b"unheard")
    either.until(lambda: noting.lost)
    assert (noting.heard, noting.lost) == (b"bye", [error.ConnectionAborted])


def test_a_failed_write_of_one_who_does_not_read_ends_it(either: Turns) -> None:
    transport, peer = either.join(noting := Noting())
    transport.stopReading()
    peer.sendall(b"not asked for")
    reset(peer)
    transport.write(b"unheard")
    either.until(lambda: noting.lost)
    assert (noting.heard, noting.lost) == (b"", [error.ConnectionLost])


class Broken(Exception):
    """What an application raises."""


def raises(*_: object) -> None:
    raise Broken


def test_an_exception_while_writing_ends_that_connection_alone(
    either: Turns, events: list[dict[str, Any]]
) -> None:
    class Producer:
        resumeProducing = stopProducing = raises

    noting = Noting()
    bad, _ = either.join(noting)
    good, peer = either.join(Noting())
    bad.producer, bad.streamingProducer = Producer(), False
    bad.write(b"x")
    good.write(b"fine")
    bad.producer.stopProducing = lambda: None  # type: ignore[method-assign]
    either.until(lambda: noting.lost)
    assert noting.lost == [Broken]
    assert received(peer, 4) == b"fine"
    assert logged_errors(events) == [Broken]


def test_an_exception_while_reading_ends_that_connection_alone(
    either: Turns, events: list[dict[str, Any]]
) -> None:
    _, peer = either.join(noting := Noting(raises))
    _, other = either.join(fine := Noting())
    peer.sendall(b"x")
    other.sendall(b"y")
    either.until(lambda: noting.lost and fine.heard)
    assert (noting.lost, fine.lost) == ([Broken], [])
    assert logged_errors(events) == [Broken]


def test_what_connection_lost_raises_is_logged(either: Turns, events: list[dict[str, Any]]) -> None:
    bad, peer = either.join(noting := Noting())
    good, other = either.join(Noting())
    noting.connectionLost = raises  # type: ignore[method-assign]
    peer.close()
    bad.loseConnection()
    good.write(b"fine")
    either.until(lambda: events)
    assert received(other, 4) == b"fine"
    assert logged_errors(events) == [Broken]


# --- connecting -----------------------------------------------------------------------------------


class Connecting(ClientFactory):
    """Notes how an attempt ends."""

    protocol = Noting

    def __init__(self) -> None:
        self.ended: list[object] = []

    def buildProtocol(self, address: Any) -> Any:
        self.ended.append("connected")
        return super().buildProtocol(address)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.ended.append(reason.type)


def test_a_connection_that_is_still_being_made_is_left_alone(turns: Turns) -> None:
    """Trying it early neither makes nor ends it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the queue of the server is full: further attempts hang
            filler.setblocking(False)
            assert filler.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
        factory = Connecting()
        connector = turns.reactor.connectTCP("127.0.0.1", port, factory)
        for _ in range(5):
            turns.reactor.iterate(0)
        assert factory.ended == []
        assert turns.reactor.getWriters() == [connector.transport]
        connector.stopConnecting()
        assert factory.ended == [error.UserError]
        assert turns.reactor.getWriters() == []
        for filler in fillers:
            filler.close()


def test_a_connection_that_is_made_at_once_is_noticed_in_the_turn(turns: Turns) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        factory = Connecting()
        connector = turns.reactor.connectTCP("127.0.0.1", server.getsockname()[1], factory)
        turns.end_turn()
        assert factory.ended == ["connected"]
        connector.disconnect()
        turns.end_turn()


def test_a_connection_that_is_refused_fails(either: Turns) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    factory = Connecting()
    either.reactor.connectTCP("127.0.0.1", port, factory)
    either.until(lambda: factory.ended)
    assert factory.ended == [error.ConnectionRefusedError]


# --- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["stop", "crash"])
def test_a_reactor_that_is_stopped_while_writing_stops(turns: Turns, ending: str) -> None:
    """It does not wait for an event that may never come."""
    transport, _ = turns.join(Noting())

    class Ending:
        def resumeProducing(self) -> None:
            transport.unregisterProducer()
            getattr(turns.reactor, ending)()

        def stopProducing(self) -> None:
            pass

    transport.registerProducer(Ending(), True)
    transport.producerPaused = True
    turns.reactor.callWhenRunning(transport.write, b"x")
    late: list[int] = []
    turns.reactor.callLater(WAIT, lambda: (late.append(1), turns.reactor.crash()))
    turns.reactor.run(installSignalHandlers=False)
    assert late == []


def test_a_timer_that_is_set_while_writing_is_on_time(turns: Turns) -> None:
    transport, _ = turns.join(Noting())

    class Timing:
        def resumeProducing(self) -> None:
            transport.unregisterProducer()
            turns.reactor.callLater(0, turns.reactor.stop)

        def stopProducing(self) -> None:
            pass

    transport.registerProducer(Timing(), True)
    transport.producerPaused = True
    turns.reactor.callWhenRunning(transport.write, b"x")
    late = turns.reactor.callLater(WAIT, turns.reactor.crash)
    turns.reactor.run(installSignalHandlers=False)
    assert late.active()
    late.cancel()


def test_a_process_is_fed_and_ends(turns: Turns) -> None:
    """Its pipes are written like sockets, more than they hold at once."""
    heard: list[bytes] = []
    ended: list[Failure] = []

    class Cat(ProcessProtocol):
        def connectionMade(self) -> None:
            self.transport.write(BIG)
            self.transport.closeStdin()

        def outReceived(self, data: bytes) -> None:
            heard.append(data)

        def processEnded(self, reason: Failure) -> None:
            ended.append(reason)
            turns.reactor.stop()

    turns.reactor.callWhenRunning(turns.reactor.spawnProcess, Cat(), "cat", ["cat"], os.environ)
    turns.reactor.callLater(WAIT, turns.reactor.crash)
    turns.reactor.run(installSignalHandlers=False)
    assert b"".join(heard) == BIG


# --- the clock and the log ------------------------------------------------------------------------


def test_the_clock_is_monotonic(turns: Turns) -> None:
    """And taken for a clock of its own."""
    assert turns.reactor.seconds is time.monotonic
    assert monotonic_clock(turns.reactor) is time.monotonic
    call = turns.reactor.callLater(5, lambda: None)
    due = call.getTime()
    use_monotonic_clock(turns.reactor)
    assert call.getTime() == due
    assert 0 < due - time.monotonic() <= 5


class Named(Noting):
    """Is named in the log."""

    def logPrefix(self) -> str:
        return "The Name"


def test_lines_say_whose_data_is_handled(either: Turns, events: list[dict[str, Any]]) -> None:
    """As under Twisted's; a timer is nobody's."""

    def say(this: Noting) -> None:
        log.msg("reading")
        log.msg("looked up", system=context.get(log.ILogContext)["system"])
        log.callWithContext({"extra": 1}, log.msg, "nested")
        this.transport.write(b"x")
        either.reactor.callLater(0, log.msg, "timed")
        this.transport.producer, this.transport.streamingProducer = Writing(), False
        if this.heard == b"raise":
            raise Broken

    class Writing:
        def resumeProducing(self) -> None:
            transport.producer = None
            log.msg("writing")
            transport.loseConnection()

        def stopProducing(self) -> None:
            pass

    class Lost(Named):
        def connectionLost(self, reason: Failure = error.ConnectionDone) -> None:  # type: ignore[assignment]
            log.msg("lost")
            either.reactor.callLater(0, either.reactor.crash)

    transport, peer = either.join(Lost(say))
    peer.sendall(b"x")
    either.reactor.callLater(WAIT, either.reactor.crash)
    either.reactor.run(installSignalHandlers=False)
    said = {"".join(e["message"]): e["system"] for e in events if e["message"]}
    name = said["reading"]
    assert name.startswith("The Name,")
    assert {said[what] for what in ("looked up", "nested", "writing", "lost")} == {name}
    assert said["timed"] == "-"


def test_an_error_says_whose_data_was_handled(either: Turns, events: list[dict[str, Any]]) -> None:
    def fail(_: Noting) -> None:
        either.reactor.callLater(0, either.reactor.crash)
        raise Broken

    _, peer = either.join(Named(fail))
    peer.sendall(b"x")
    either.reactor.callLater(WAIT, either.reactor.crash)
    either.reactor.run(installSignalHandlers=False)
    (failed,) = [event for event in events if event.get("isError")]
    assert failed["system"].startswith("The Name,")


def test_a_thread_that_was_started_while_reading_is_nobodys(
    turns: Turns, events: list[dict[str, Any]]
) -> None:
    """Whoever is served when it logs has nothing to do with it."""

    def start(_: Noting) -> None:
        logged = threading.Event()
        turns.reactor.callInThread(lambda: (log.msg("in a thread"), logged.set()))
        assert logged.wait(WAIT)
        turns.reactor.stop()

    _, peer = turns.join(Named(start))
    peer.sendall(b"x")
    turns.reactor.callLater(WAIT, turns.reactor.crash)
    turns.reactor.run(installSignalHandlers=False)
    assert [e["system"] for e in events if "in a thread" in e["message"]] == ["-"]


def test_a_name_that_cannot_be_told_costs_no_line(
    turns: Turns, events: list[dict[str, Any]]
) -> None:
    class Nameless(Noting):
        pass

    transport, peer = turns.join(
        Nameless(lambda _: (log.msg("a line"), turns.reactor.callLater(0, turns.reactor.crash)))
    )
    transport.logPrefix = raises
    peer.sendall(b"x")
    turns.reactor.callLater(WAIT, turns.reactor.crash)
    turns.reactor.run(installSignalHandlers=False)
    assert [e["system"] for e in events if "a line" in e["message"]] == ["(buggy logPrefix method)"]


# --- installed ------------------------------------------------------------------------------------


def run(code: str, *arguments: str) -> str:
    """Run a program that sees the tests, too, and return what it prints."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INSTALL = """
import sys
import wsframe.reactor
print("twisted.internet.reactor" in sys.modules)
wsframe.reactor.install()
from twisted.internet import reactor
print(type(reactor).__name__, isinstance(reactor, wsframe.reactor.CorkedReactor))
wsframe.reactor.install()
"""


def test_it_is_installed_by_a_call_and_once() -> None:
    """Importing it installs nothing; a second reactor is an error, as with Twisted's."""
    code = INSTALL.replace(
        "wsframe.reactor.install()\n",
        "try: wsframe.reactor.install()\nexcept Exception as e: print(type(e).__name__)\n",
    )
    assert run(code).splitlines() == [
        "False",
        "CorkedReactor True",
        "ReactorAlreadyInstalledError",
    ]


NO_EPOLL = """
import select
del select.epoll
from twisted.logger import globalLogPublisher, eventAsText
globalLogPublisher.addObserver(lambda event: print(event["log_level"].name, eventAsText(event)))
from wsframe import reactor
try:
    reactor.CorkedReactor()
except ImportError as error:
    print(error)
reactor.install()
from twisted.internet import reactor
print(type(reactor).__name__)
"""


def test_without_epoll_it_says_so_and_the_default_serves() -> None:
    refused, warned, kind = run(NO_EPOLL).splitlines()
    assert refused == "this system has no epoll"
    assert warned.startswith("warn ")
    assert "No corked reactor, but Twisted's default one: this system has no epoll" in warned
    assert kind == "PollReactor"


TALK = """
import sys
from urllib.parse import quote
from wsframe import reactor
reactor.install()
from integration.certificates import Authority
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.task import react
from wsframe import connect, serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def talk(uri, **how):
    async with connect(uri, **how) as connection:
        for n in range(3):
            await connection.send(bytes([n]) * 1_000_000)
            print(await connection.recv() == bytes([n]) * 1_000_000)
    for n in range(50):  # connections that come and go
        async with connect(uri, **how) as connection:
            await connection.send(str(n))
            assert await connection.recv() == str(n)

async def main(this):
    authority = Authority()
    path = sys.argv[1]
    tls = SSL4ServerEndpoint(this, 0, authority.issue("localhost"), interface="127.0.0.1")
    async with serve(echo, ["tcp:0:interface=127.0.0.1", f"unix:{path}", tls]) as server:
        plain, _, sealed = server.addresses
        await talk(f"ws://127.0.0.1:{plain.port}")
        await talk(f"ws+unix://{quote(path, safe='')}/")
        await talk(f"wss://localhost:{sealed.port}", tls=authority.client("localhost"))
    print(type(this).__name__, this.getWriters(), this.getDelayedCalls())

react(main)
"""


def test_clients_and_servers_talk_over_tcp_unix_and_tls(tmp_path: Path) -> None:
    """Much at once, many times, and nothing is left."""
    assert run(TALK, str(tmp_path / "socket")) == "True\n" * 9 + "CorkedReactor [] []\n"


def test_twistd_lists_it_in_one_line() -> None:
    done = subprocess.run(
        [twistd(), "--help-reactors"], capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "corked" in line]
    assert re.fullmatch(r"\s+corked\s+epoll\(7\) based reactor, .*turn\.", line)


@pytest_twisted.ensureDeferred
async def test_a_service_runs_on_it() -> None:
    """`twistd --reactor=corked`, and its clock is left alone."""
    async with running("ws-echo", twistd_options=("--reactor=corked",)) as this:
        async with connect(this.url()) as connection:
            await connection.send("hello")
            assert await within(connection.recv()) == "hello"
            await connection.send(BIG[:900_000])
            assert await within(connection.recv()) == BIG[:900_000]
        assert "CorkedReactor" in this.process.output


def test_twisteds_own_tests_pass() -> None:
    """Those of connections; `make conformance` runs all that have to do with a reactor."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "scripts/reactor-conformance",
            "twisted.internet.test.test_fdset",
            "twisted.internet.test.test_tcp",
            "twisted.internet.test.test_unix",
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 fail on the corked one alone" in done.stdout
