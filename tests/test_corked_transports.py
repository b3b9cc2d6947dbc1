"""What the corked reactor does in the place of Twisted's `doRead` and `doWrite` has their outcome.

Each case is played twice: as it is, and with no transport taken for a plain one, so that the
installed Twisted does it all. A release of Twisted that does something else fails here. The socket
of a transport is a real one, whose `send` and `recv` are scripted; outcomes are what left, what the
application heard and was told, how the connection ended, and all that the transport remembers.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from integration.certificates import Authority
from test_corked_reactor import Halves, Noting, Turns
from twisted.internet import error, tcp
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python import log
from twisted.python.failure import Failure

import wsframe.reactor

LIMIT = tcp.Server.SEND_LIMIT


class Script:
    """A socket with room for so many bytes, and an error then; it also fails to be read."""

    family = socket.AF_INET

    def __init__(self, end: socket.socket, room: int, then: int, read: bytes | int) -> None:
        self._end, self._room, self._then, self._read = end, room, then, read
        self.lost = False
        self.sent = b""
        self.asked: list[int] = []

    def fileno(self) -> int:
        return -1 if self.lost else self._end.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)

    def send(self, data: bytes) -> int:
        if self.lost:
            raise OSError(errno.EBADF, "scripted")
        if not self._room and data:
            code = self._then
            if code == errno.EINTR:
                self._then = errno.EWOULDBLOCK
            elif code == errno.ECONNRESET:
                self._then = errno.EPIPE
            raise OSError(code, "scripted")
        taken = bytes(data[: self._room])
        self._room -= len(taken)
        self.sent += taken
        return len(taken)

    def recv(self, size: int) -> bytes:
        if self.lost:
            raise OSError(errno.EBADF, "scripted")
        self.asked.append(size)
        if isinstance(self._read, bytes):
            return self._read
        raise OSError(self._read, "scripted")


class Producer:
    """Notes what it is told; it may write, or close, or fail, when it is resumed."""

    def __init__(self, resumed: Callable[[], object] = lambda: None) -> None:
        self.told: list[str] = []
        self._resumed = resumed

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        if len(self.told) < 5:
            self._resumed()

    def stopProducing(self) -> None:
        self.told.append("stop")


class Stage(Turns):
    """Turns whose transports have scripted sockets."""

    def __init__(self, *, twisteds: bool) -> None:
        super().__init__()
        self._before = wsframe.reactor._PLAIN
        self._twisteds = twisteds
        self._ends: list[socket.socket] = []
        self.errors: list[type[BaseException]] = []
        log.addObserver(self._observe)

    def _observe(self, event: dict[str, Any]) -> None:
        if event.get("isError"):
            self.errors.append(event["failure"].type)

    def __enter__(self) -> Stage:
        if self._twisteds:
            wsframe.reactor._PLAIN = frozenset()  # type: ignore[misc]
        return self

    def __exit__(self, *_: object) -> None:
        wsframe.reactor._PLAIN = self._before  # type: ignore[misc]
        log.removeObserver(self._observe)
        self.close()
        for end in self._ends:
            end.close()

    def put(
        self,
        protocol: Protocol,
        room: int = 1 << 30,
        then: int = errno.EWOULDBLOCK,
        read: bytes | int = errno.EWOULDBLOCK,
        kind: type[tcp.Server] = tcp.Server,
    ) -> tuple[Any, Script, socket.socket]:
        """Return a transport of that protocol's, its socket, and the other end of it."""
        end, peer = socket.socketpair()
        self._ends.append(end)
        script: Any = Script(end, room, then, read)
        transport = kind(script, protocol, ("peer", 1), None, 0, self.reactor)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        self._sockets.append(peer)
        return transport, script, peer

    def turn(self) -> None:
        self.reactor.doIteration(0)
        self.end_turn()


def remembered(stage: Stage, transport: Any) -> dict[str, Any]:
    """Return what a transport remembers, and what the reactor knows of it."""
    names = ("connected", "disconnected", "disconnecting", "producerPaused", "streamingProducer")
    private = ("_writeDisconnecting", "_writeDisconnected", "_aborting", "_tempDataLen", "offset")
    # What is left of a connection that is lost is no one's, and in which buffer it is.
    left = (transport._tempDataBuffer, transport.dataBuffer) if transport.connected else None
    return {
        **{name: getattr(transport, name) for name in names},
        **{name: getattr(transport, name) for name in private if left is not None},
        "left": left,
        "producer": transport.producer is not None,
        "open": hasattr(transport, "socket"),
        "reads": transport in stage.reactor.getReaders(),
        "writes": transport in stage.reactor.getWriters(),
        "pending": transport in stage.reactor._pending,
        "errors": list(stage.errors),
    }


# --- writing --------------------------------------------------------------------------------------

PRODUCERS = ("none", "streaming", "paused", "pull", "paused and gone")
CLOSING = ("open", "disconnecting", "half-closing", "half-closed", "aborted", "aborted, then more")
LEFT_OVER = (b"", b"left", b"l" * (LIMIT + 5))
WRITTEN: tuple[tuple[bytes, ...], ...] = (
    (),
    (b"one",),
    (b"one", b"two"),
    (b"a" * (LIMIT - 1), b"b"),
    (b"a" * LIMIT, b"b"),
)
KERNELS = {
    "takes all": (1 << 30, errno.EWOULDBLOCK),
    "takes a part": (2, errno.EWOULDBLOCK),
    "is full": (0, errno.EWOULDBLOCK),
    "has no buffers": (0, errno.ENOBUFS),
    "is interrupted": (0, errno.EINTR),
    "says broken pipe": (0, errno.EPIPE),
    "says reset": (0, errno.ECONNRESET),
    "says reset after a part": (2, errno.ECONNRESET),
    "lost the descriptor": (1 << 30, errno.EWOULDBLOCK),
}
RESUMED = ("nothing", "write", "close")


def play_writing(
    kernel: str,
    producer: str,
    closing: str,
    left: bytes,
    parts: tuple[bytes, ...],
    resumed: str,
    stage: Stage,
) -> Any:
    protocol = Halves() if closing.startswith("half") else Noting()
    transport, script, peer = stage.put(protocol, *KERNELS[kernel])
    told = Producer(
        {
            "nothing": lambda: None,
            "write": lambda: transport.write(b"more"),
            "close": transport.loseConnection,
        }[resumed]
    )
    if producer != "none":
        transport.producer, transport.streamingProducer = told, producer != "pull"
        transport.producerPaused = producer.startswith("paused")
    if producer == "paused and gone":
        transport.unregisterProducer()
    if left:
        transport.dataBuffer, transport.offset = b"gone" + left, 4
        transport.startWriting()
    transport.writeSequence(parts)
    if closing == "disconnecting":
        transport.loseConnection()
    elif closing == "half-closing":
        transport.loseWriteConnection()
    elif closing == "half-closed":
        transport._writeDisconnected = True
    elif closing.startswith("aborted"):
        transport.abortConnection()
    if closing == "aborted, then more":
        transport.write(b"more")
    outcome = []
    script.lost = kernel == "lost the descriptor"
    peer.send(b"x")
    for _ in range(3):
        stage.end_turn()
        heard = getattr(protocol, "lost", None), getattr(protocol, "ends", None)
        outcome.append((remembered(stage, transport), list(told.told), repr(heard)))
        stage.reactor.doIteration(0)
    return outcome, script.sent


def both(play: Callable[[Stage], Any]) -> tuple[Any, Any]:
    """Play a case as it is, and by Twisted's own."""
    outcomes = []
    for twisteds in (False, True):
        with Stage(twisteds=twisteds) as stage:
            outcomes.append(play(stage))
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize("closing", CLOSING)
@pytest.mark.parametrize("kernel", KERNELS)
def test_writing_ends_as_by_twisteds_own(kernel: str, closing: str) -> None:
    for producer, left, parts, resumed in itertools.product(PRODUCERS, LEFT_OVER, WRITTEN, RESUMED):
        if resumed != "nothing" and producer not in ("paused", "pull"):
            continue
        case = kernel, producer, closing, left, parts, resumed
        ours, twisteds = both(partial(play_writing, *case))
        assert ours == twisteds, (case[:3], len(left), [len(part) for part in parts], resumed)


def test_a_connection_whose_descriptor_went_away_is_lost_for_that() -> None:
    with Stage(twisteds=False) as stage:
        writing, written_to, _ = stage.put(writer := Noting())
        _, read_from, peer = stage.put(reader := Noting())
        writing.write(b"x")
        written_to.lost = read_from.lost = True
        peer.send(b"x")
        stage.turn()
        assert writer.lost == reader.lost == [error.ConnectionFdescWentAway]


class Sub(tcp.Server):
    """Writes in its own way."""

    def writeSomeData(self, data: bytes) -> int:
        return super().writeSomeData(data.upper())  # type: ignore[return-value]


@pytest.mark.parametrize("method", ["doWrite", "writeSomeData"])
@pytest.mark.parametrize("callable_object", [False, True])
def test_what_is_set_in_the_place_of_a_method_is_called(method: str, callable_object: bool) -> None:
    """By an application; Twisted itself does it when it connects and aborts."""
    with Stage(twisteds=False) as stage:
        transport, script, _ = stage.put(Noting())
        called = []

        def instead(*_: object) -> int:
            called.append(method)
            transport.stopWriting()
            return 0

        setattr(transport, method, Callable_(instead) if callable_object else instead)
        transport.write(b"x")
        stage.end_turn()
        assert (called, script.sent) == ([method], b"")


class Callable_:
    """A callable without what functions have."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)


def test_a_subclass_writes_in_its_own_way() -> None:
    with Stage(twisteds=False) as stage:
        transport, script, _ = stage.put(Noting(), kind=Sub)
        transport.write(b"loud")
        stage.end_turn()
        assert script.sent == b"LOUD"


def test_a_lowered_limit_on_what_is_sent_at_once_holds() -> None:
    def play(stage: Stage) -> Any:
        transport, script, _ = stage.put(Noting())
        transport.SEND_LIMIT = 3
        transport.write(b"abc")
        transport.write(b"de")
        stage.end_turn()
        return script.sent, remembered(stage, transport)

    ours, twisteds = both(play)
    assert ours == twisteds
    assert ours[0] == b"abc"


# --- reading --------------------------------------------------------------------------------------

READS: dict[str, bytes | int] = {
    "data": b"data",
    "the end": b"",
    "nothing yet": errno.EWOULDBLOCK,
    "reset": errno.ECONNRESET,
    "timed out": errno.ETIMEDOUT,
    "interrupted": errno.EINTR,
    "the descriptor is lost": b"unread",
}


class Broken(Exception):
    """What an application raises."""


def raises(what: BaseException) -> Any:
    raise what


DOES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda this: None,
    "answers": lambda this: this.transport.write(b"answer"),
    "returns something": lambda this: CONNECTION_LOST,
    "raises": lambda this: raises(Broken()),
    "raises what a socket would": lambda this: raises(BlockingIOError(errno.EWOULDBLOCK, "mine")),
    "closes": lambda this: this.transport.loseConnection(),
    "answers and closes": lambda this: (
        this.transport.write(b"bye"),
        this.transport.loseConnection(),
    ),
    "closes one direction": lambda this: this.transport.loseWriteConnection(),
    "aborts": lambda this: this.transport.abortConnection(),
    "aborts, and reads on": lambda this: (
        this.transport.abortConnection(),
        this.transport.startReading(),
    ),
    "pauses": lambda this: this.transport.pauseProducing(),
    "reads more at a time": lambda this: setattr(this.transport, "bufferSize", 7),
}


class Told(Noting):
    """Does something with data, and returns what that returned."""

    def dataReceived(self, data: bytes) -> Any:
        self.heard += data
        return self._received(self)


class HalvesTold(Halves):
    """The same, which also hears of the end of each direction."""

    def __init__(self, does: Callable[[Any], object]) -> None:
        super().__init__()
        self.heard, self.lost = b"", []  # type: ignore[var-annotated]
        self._does = does

    def dataReceived(self, data: bytes) -> Any:
        self.heard += data
        return self._does(self)

    def connectionLost(self, reason: Failure = error.ConnectionDone) -> None:  # type: ignore[assignment]
        self.lost.append(reason.type)


def play_reading(
    read: str, kind: Callable[[Any], Any], does: Callable[[Any], object], stage: Stage
) -> Any:
    transport, script, peer = stage.put(protocol := kind(does), read=READS[read])
    peer.send(b"x")
    script.lost = read == "the descriptor is lost"
    outcome = []
    for _ in range(3):
        stage.reactor.doIteration(0)
        told = protocol.heard, list(protocol.lost), repr(getattr(protocol, "ends", None))
        outcome.append((remembered(stage, transport), told))
        stage.end_turn()
    return outcome, script.sent, script.asked


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("kind", [Told, HalvesTold])
def test_reading_ends_as_by_twisteds_own(read: str, kind: Callable[[Any], Any]) -> None:
    for what, does in DOES.items():
        ours, twisteds = both(partial(play_reading, read, kind, does))
        assert ours == twisteds, what


def test_what_is_set_in_the_place_of_do_read_is_called() -> None:
    with Stage(twisteds=False) as stage:
        transport, script, peer = stage.put(noting := Noting(), read=b"data")
        transport.doRead = lambda: CONNECTION_LOST
        peer.send(b"x")
        stage.turn()
        assert (noting.lost, script.asked) == ([error.ConnectionLost], [])


# --- TLS ------------------------------------------------------------------------------------------

SIZES = (1, 70_000, 1_000_000)


class Sealed(Noting):
    """An echo; or one who asks, and closes behind the last answer."""

    def __init__(self, sizes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._sizes = sizes

    def connectionMade(self) -> None:
        for size in self._sizes:
            self.transport.write(bytes([size % 251]) * size)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if not self._sizes:
            self.transport.write(data)
        elif len(self.heard) == sum(self._sizes):
            self.transport.loseConnection()


def test_below_tls_all_is_as_by_twisteds_own() -> None:
    """Each byte, and the end of both sides."""
    authority = Authority()
    contexts = authority.issue("localhost"), authority.client("localhost")

    def play(stage: Stage) -> Any:
        both_ends = Sealed(), Sealed(SIZES)
        transports = []
        for place, end in enumerate(socket.socketpair()):
            factory = TLSMemoryBIOFactory(
                contexts[place],
                bool(place),
                Factory.forProtocol(partial(both_ends.__getitem__, place)),
                clock=stage.reactor,
            )
            sealing = factory.buildProtocol(None)  # type: ignore[arg-type]
            transports.append(tcp.Server(end, sealing, ("peer", 1), None, 0, stage.reactor))  # type: ignore[arg-type]
            sealing.makeConnection(transports[-1])
        stage.until(lambda: all(protocol.lost for protocol in both_ends))
        left = [remembered(stage, transport) for transport in transports]
        return [protocol.heard for protocol in both_ends], [p.lost for p in both_ends], left

    ours, twisteds = both(play)
    assert ours == twisteds
    sent = b"".join(bytes([size % 251]) * size for size in SIZES)
    assert ours[0] == [sent, sent]
