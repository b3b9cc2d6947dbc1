"""TLS transports of ours have the outcome of Twisted's, for every way that bytes can come.

Each case is played twice, with `TLSFactory` and with Twisted's own factory. The peer is OpenSSL;
between the two there is no socket, but what the case makes of the bytes. Outcomes are what the
application heard and was told, what was asked of the transport below, and what the peer read.
"""

from __future__ import annotations

import gc
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from weakref import ref

import pytest
import pytest_twisted
from integration.certificates import Authority
from OpenSSL import SSL
from test_corked_reactor import Turns
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

import wsframe.tls_transport
from wsframe import Connection, TLSOptions, connect, serve
from wsframe.tls_transport import TLSFactory, TLSTransport

WAIT = 20
AUTHORITY = Authority()
SERVER = AUTHORITY.issue("localhost")
RECORD = 16 * 1024

Received = Callable[["Application", bytes], object]


class Below:
    """The transport below: keeps what is written, and what else it is asked for."""

    disconnecting = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.producer: Any = None
        self.writes: list[bytes] = []
        self.written: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.written()

    def taken(self) -> bytes:
        data = b"".join(self.writes)
        self.writes.clear()
        return data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.asked.append("lose")

    def abortConnection(self) -> None:
        self.asked.append("abort")


@implementer(IHandshakeListener)
class Application(Protocol):
    """Notes what it is told; it answers as the case says."""

    def __init__(self, received: Received) -> None:
        self.told: list[Any] = []
        self.deliveries: list[bytes] = []
        self._received = received

    def handshakeCompleted(self) -> None:
        self.told.append("secure")

    @property
    def heard(self) -> bytes:
        return b"".join(self.deliveries)

    def dataReceived(self, data: bytes) -> None:
        self.deliveries.append(data)
        self._received(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.told.append((reason.type, str(reason.value)))


class Peer:
    """OpenSSL at the other end."""

    def __init__(self, version: int, *, serves: bool) -> None:
        method = SSL.TLS_SERVER_METHOD if serves else SSL.TLS_CLIENT_METHOD
        context = SERVER._context if serves else SSL.Context(method)
        if not serves:
            context.set_max_proto_version(version)
        self.connection = SSL.Connection(context, None)
        if serves:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        self.heard = b""
        self.ends: list[str] = []

    def sealed(self, data: bytes) -> bytes:
        """Return records with the data, and whatever else is to be sent."""
        while data:
            data = data[self.connection.send(data) :]
        return self.out()

    def closed(self) -> bytes:
        """Return the alert of a close."""
        with suppress(SSL.Error):
            self.connection.shutdown()
        return self.out()

    def out(self) -> bytes:
        found = b""
        with suppress(SSL.WantReadError):
            while True:
                found += self.connection.bio_read(1 << 16)
        return found

    def take(self, data: bytes) -> None:
        """Read what came."""
        if data:
            self.connection.bio_write(data)
        try:
            while True:
                self.heard += self.connection.recv(1 << 16)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ends = ["closed"]
        except SSL.Error as error:
            self.ends.append(repr(error))


class Stage:
    """A transport and its peer, connected, with the handshake done."""

    def __init__(
        self,
        kind: type[TLSMemoryBIOFactory],
        received: Received = lambda application, data: None,
        version: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self.clock = Clock()
        self.application = Application(received)
        factory = kind(SERVER, False, Factory.forProtocol(lambda: self.application), self.clock)
        self.tls: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        self.below = Below()
        self.peer = Peer(version, serves=False)
        self.tls.makeConnection(self.below)
        while not self.tls._handshakeDone:
            with suppress(SSL.WantReadError):
                self.peer.connection.do_handshake()
            self.tls.dataReceived(self.peer.out())
            self.turn()

    def turn(self) -> None:
        """Run what is due, and let the peer read what was sent."""
        self.clock.advance(0)
        self.peer.take(self.below.taken())

    def give(self, *reads: bytes) -> None:
        """Let the transport receive; then take a turn."""
        for data in filter(None, reads):
            self.tls.dataReceived(data)
        self.turn()

    def lose(self) -> None:
        self.tls.connectionLost(Failure(connectionDone.value))
        self.turn()

    def outcome(self) -> Any:
        return (
            self.application.heard,
            self.application.told,
            self.below.asked,
            self.peer.heard,
            self.peer.ends,
            self.clock.getDelayedCalls(),
        )


VERSIONS = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


def both(
    play: Callable[[Stage], object],
    received: Received = lambda application, data: None,
    version: int = SSL.TLS1_3_VERSION,
) -> Stage:
    """Play a case with Twisted's transport and with ours; return the stage of ours."""
    stages = []
    for kind in (TLSMemoryBIOFactory, TLSFactory):
        stage = Stage(kind, received, version)
        play(stage)
        stages.append(stage)
    assert type(stages[0].tls) is BufferingTLSTransport
    assert type(stages[1].tls) is TLSTransport
    assert stages[1].outcome() == stages[0].outcome()
    return stages[1]


def echo(application: Application, data: bytes) -> None:
    application.transport.write(data)  # type: ignore[union-attr]


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


# --- reading --------------------------------------------------------------------------------------


@VERSIONS
def test_a_record_split_in_any_place_is_read(version: int) -> None:
    """Each byte is once the last of a read, and once the first."""

    def play(stage: Stage) -> None:
        length = len(stage.peer.sealed(b""))
        for cut in range(1, 200):
            record = stage.peer.sealed(b"one message")
            length = len(record)
            stage.give(record[: cut % length], record[cut % length :])

    stage = both(play, echo, version)
    assert stage.peer.heard == b"one message" * 199


@VERSIONS
def test_a_record_that_comes_byte_by_byte_is_read(version: int) -> None:
    def play(stage: Stage) -> None:
        record = stage.peer.sealed(b"slow") + stage.peer.sealed(b"ly")
        stage.give(*(record[i : i + 1] for i in range(len(record))))

    assert both(play, echo, version).peer.heard == b"slowly"


@VERSIONS
@pytest.mark.parametrize("size", [1, RECORD - 1, RECORD, RECORD + 1, 5 * RECORD, 400_000])
def test_every_size_is_echoed(size: int, version: int) -> None:
    """Less than a record, exactly one, many, more than the buffer holds."""
    data = pattern(size)[:size]

    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(data))
        stage.give(stage.peer.sealed(data))

    assert both(play, echo, version).peer.heard == data + data


def test_records_that_came_together_are_delivered_together() -> None:
    stage = Stage(TLSFactory)
    stage.give(b"".join(stage.peer.sealed(b"%d," % number) for number in range(10)))
    assert stage.application.deliveries == [b"0,1,2,3,4,5,6,7,8,9,"]


def test_a_part_of_a_record_keeps_nothing_back() -> None:
    """Whole records before it are delivered at once, and nothing of it."""
    stage = Stage(TLSFactory)
    whole, part = stage.peer.sealed(b"whole"), stage.peer.sealed(b"part")
    stage.give(whole + part[:9])
    assert stage.application.heard == b"whole"
    stage.give(part[9:])
    assert stage.application.heard == b"wholepart"


def test_reading_that_is_paused_in_a_delivery_loses_nothing() -> None:
    """What has come is delivered, as by Twisted's; no more is read below."""

    def pause(application: Application, data: bytes) -> None:
        application.transport.pauseProducing()  # type: ignore[union-attr]

    def play(stage: Stage) -> None:
        stage.below.pauseProducing = lambda: stage.below.asked.append("pause")  # type: ignore[attr-defined]
        stage.give(stage.peer.sealed(pattern(200_000)))
        stage.below.asked = [*dict.fromkeys(stage.below.asked)]

    stage = both(play, pause)
    assert (stage.application.heard, stage.below.asked) == (pattern(200_000), ["pause"])


def test_what_the_application_raises_goes_to_the_transport() -> None:
    """Which ends the connection; what was written before is not forgotten."""

    def fail(application: Application, data: bytes) -> None:
        echo(application, data)
        raise ZeroDivisionError

    def play(stage: Stage) -> None:
        with pytest.raises(ZeroDivisionError):
            stage.give(stage.peer.sealed(b"x"))
        stage.turn()

    assert both(play, fail).peer.heard == b"x"


def test_an_application_that_is_called_while_it_is_called_hears_all() -> None:
    """The transport below may deliver what comes in the middle of a write."""
    stage = Stage(TLSFactory, echo)
    more = [stage.peer.sealed(b"first"), stage.peer.sealed(b"second")]
    stage.below.written = lambda: more and stage.tls.dataReceived(more.pop(0))
    stage.give(more.pop(0))
    stage.turn()
    assert stage.application.heard == b"firstsecond"
    assert stage.peer.heard == b"firstsecond"


# --- ends -----------------------------------------------------------------------------------------


def ending(how: str) -> Received:
    def end(application: Application, data: bytes) -> None:
        transport: Any = application.transport
        transport.write(b"last words")
        getattr(transport, how)()
        transport.write(b"too late")

    return end


@VERSIONS
@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest.mark.parametrize("behind", [b"", b"more", pattern(300_000)])
def test_an_application_that_ends_in_a_delivery(behind: bytes, how: str, version: int) -> None:
    """With more records in hand, and without."""
    heard = []

    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(b"end") + stage.peer.sealed(behind))
        heard.append(len(stage.application.deliveries) > 0)
        stage.give(stage.peer.closed())
        stage.lose()
        stage.application.deliveries.clear()  # what is delivered behind the end is nobody's promise

    stage = both(play, ending(how), version)
    assert heard == [True, True]
    assert (stage.peer.heard == b"last words") == (how == "loseConnection")


@VERSIONS
def test_a_close_alert_that_comes_alone_is_answered(version: int) -> None:
    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(b"bye"))
        stage.give(stage.peer.closed())
        stage.lose()

    stage = both(play, echo, version)
    assert stage.peer.heard == b"bye"
    assert stage.peer.ends == ["closed"]


@VERSIONS
def test_a_close_alert_in_the_same_read_as_data(version: int) -> None:
    """The data is delivered, then the connection ends. Our answer to it is sent, too."""

    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(b"bye") + stage.peer.closed())
        stage.lose()

    assert both(play, lambda *_: None, version).application.heard == b"bye"
    answering = Stage(TLSFactory, echo, version)
    play(answering)
    assert (answering.peer.heard, answering.peer.ends) == (b"bye", ["closed"])


@VERSIONS
def test_data_after_a_close_alert_is_not_delivered(version: int) -> None:
    def play(stage: Stage) -> None:
        stage.give(stage.peer.closed() + b"\x17\x03\x03\x00\x20" + bytes(32))
        stage.give(b"\x17\x03\x03\x00\x20" + bytes(32))
        stage.lose()

    assert both(play, echo, version).application.heard == b""


@VERSIONS
@pytest.mark.parametrize("together", [True, False])
def test_a_record_that_was_tampered_with_ends_the_connection(together: bool, version: int) -> None:
    """With the same reason, behind the data before it."""

    def play(stage: Stage) -> None:
        good, bad = stage.peer.sealed(b"good"), bytearray(stage.peer.sealed(b"bad"))
        bad[-1] ^= 1
        if together:
            stage.give(good + bad)
        else:
            stage.give(good)
            stage.give(bytes(bad))
        stage.give(b"ignored")
        stage.lose()

    received: Received = (lambda *_: None) if together else echo
    stage = both(play, received, version)
    assert stage.application.heard == b"good"
    assert stage.application.told[-1][0] is SSL.Error


@pytest.mark.parametrize("size", [10, 200_000])
def test_an_answer_to_data_before_an_error_does_not_hide_its_reason(size: int) -> None:
    def answer(application: Application, data: bytes) -> None:
        application.transport.write(bytes(size))  # type: ignore[union-attr]

    stage = Stage(TLSFactory, answer)
    good, bad = stage.peer.sealed(b"good"), bytearray(stage.peer.sealed(b"bad"))
    bad[-1] ^= 1
    stage.give(good + bad)
    stage.lose()
    assert stage.application.heard == b"good"
    assert "bad record mac" in stage.application.told[-1][1]


@VERSIONS
@pytest.mark.parametrize("cut", [0, 3, 20])
def test_an_end_without_an_alert_is_a_lost_connection(cut: int, version: int) -> None:
    """Such as a reset; also in the middle of a record."""

    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(b"heard"))
        stage.give(stage.peer.sealed(b"unheard")[:cut])
        stage.lose()
        stage.tls.write(b"nobody listens")
        stage.turn()

    stage = both(play, lambda *_: None, version)
    assert stage.application.told[-1][0].__name__ == "ConnectionLost"


def test_a_failure_of_encryption_is_told_to_the_application() -> None:
    """As where the connection was shut behind the transport's back."""

    def play(stage: Stage) -> None:
        stage.tls.getHandle().shutdown()
        stage.tls.write(b"x")
        stage.turn()
        stage.lose()

    assert both(play).application.told[-1][0] is SSL.Error


# --- writing --------------------------------------------------------------------------------------


@VERSIONS
def test_small_writes_go_out_together_in_the_next_turn(version: int) -> None:
    def play(stage: Stage) -> None:
        for number in range(100):
            stage.tls.write(b"%d," % number)
        stage.tls.writeSequence([b"end", b"."])
        assert not stage.below.writes
        stage.clock.advance(0)
        assert len(stage.below.writes) == 1

        stage.turn()

    both(play, version=version)


def test_connections_of_a_reactor_share_a_delayed_call() -> None:
    clock = Clock()
    stages = [Stage(TLSFactory) for _ in range(3)]
    for stage in stages:
        stage.tls._lane._flushes = wsframe.tls_transport._flushes_of(clock)
        stage.tls.write(b"x")
    assert len(clock.getDelayedCalls()) == 1
    stages[0].tls.loseConnection()
    stages[1].tls.abortConnection()
    stages[1].lose()
    assert len(clock.getDelayedCalls()) == 1
    stages[2].lose()
    assert clock.getDelayedCalls() == []


def test_one_transport_that_fails_to_write_harms_no_other() -> None:
    clock = Clock()
    stages = [Stage(TLSFactory) for _ in range(2)]

    def fail() -> None:
        raise ZeroDivisionError

    stages[0].below.written = fail
    for stage in stages:
        stage.tls._lane._flushes = wsframe.tls_transport._flushes_of(clock)
        stage.tls.write(b"x")
    clock.advance(0)
    stages[1].turn()
    assert stages[1].peer.heard == b"x"


def test_what_is_written_in_a_delivery_leaves_with_it() -> None:
    """Without a delayed call."""
    stage = Stage(TLSFactory, echo)
    stage.tls.dataReceived(stage.peer.sealed(b"now"))
    assert stage.clock.getDelayedCalls() == []
    stage.peer.take(stage.below.taken())
    assert stage.peer.heard == b"now"


@VERSIONS
def test_a_huge_write_is_sent_whole(version: int) -> None:
    data = pattern(5_000_000)

    def play(stage: Stage) -> None:
        stage.tls.write(b"small")
        stage.tls.write(data)
        stage.tls.write(b"small")
        stage.turn()

    assert both(play, version=version).peer.heard == b"small" + data + b"small"


def test_other_than_bytes_is_refused() -> None:
    def play(stage: Stage) -> None:
        for wrong in ("text", None, 1, memoryview(b"x")):
            with pytest.raises(TypeError):
                stage.tls.write(wrong)
        changing = bytearray(b"as it was")
        stage.tls.write(changing)
        changing[:] = b"later...."
        stage.turn()

    assert both(play).peer.heard == b"as it was"


class Producer:
    """Notes what it is told, and does something when it is paused."""

    def __init__(self, paused: Callable[[], object] = lambda: None) -> None:
        self.told: list[str] = []
        self._paused = paused

    def pauseProducing(self) -> None:
        self.told.append("pause")
        self._paused()

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_a_producer_is_paused_by_the_transport_below() -> None:
    producers: list[Producer] = []

    def play(stage: Stage) -> None:
        producers.append(Producer())
        stage.tls.registerProducer(producers[-1], True)
        stage.below.written = stage.below.producer.pauseProducing
        stage.tls.write(pattern(300_000))
        stage.turn()
        stage.below.producer.resumeProducing()
        stage.below.written = lambda: None
        stage.tls.unregisterProducer()
        stage.tls.loseConnection()
        stage.turn()
        stage.lose()

    stage = both(play)
    assert [producer.told for producer in producers] == [["pause", "resume"]] * 2
    assert stage.peer.heard == pattern(300_000)


@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
def test_a_producer_that_ends_the_connection_when_it_is_paused(how: str) -> None:
    """In the middle of a write, which leaves whole, and once; Twisted's own sends it twice."""
    stage = Stage(TLSFactory)
    stage.tls.registerProducer(Producer(getattr(stage.tls, how)), True)
    stage.below.written = lambda: stage.below.producer and stage.below.producer.pauseProducing()
    stage.tls.write(pattern(300_000))
    stage.turn()
    stage.tls.unregisterProducer()
    stage.turn()
    stage.lose()
    assert stage.peer.ends == ["closed"]
    if how == "loseConnection":
        assert stage.peer.heard == pattern(300_000)
    else:
        assert pattern(300_000).startswith(stage.peer.heard)


def test_what_a_producer_wrote_comes_before_the_end_that_waited_for_it() -> None:
    """Twisted's own loses it."""
    stage = Stage(TLSFactory)
    stage.tls.registerProducer(Producer(), True)
    stage.tls.loseConnection()
    stage.tls.write(b"the end")
    stage.tls.unregisterProducer()
    stage.turn()
    assert (stage.peer.heard, stage.peer.ends) == (b"the end", ["closed"])


# --- other keys -----------------------------------------------------------------------------------


def test_new_keys_are_answered() -> None:
    """OpenSSL's own client asks for a key update (RFC 8446 §4.6.3), between two messages."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.settimeout(WAIT)
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            try:
                accepted = listening.accept()[0]
                with accepted:
                    _serve_keys(accepted, client)
            finally:
                client.kill()
                client.communicate()


def _serve_keys(accepted: socket.socket, client: Any) -> None:
    accepted.settimeout(WAIT)
    application = Application(echo)
    factory = TLSFactory(SERVER, False, Factory.forProtocol(lambda: application), Clock())
    tls: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
    below = Below()
    tls.makeConnection(below)

    def until(arrived: Callable[[], bool]) -> None:
        while not arrived():
            tls.dataReceived(accepted.recv(1 << 16))
            accepted.sendall(below.taken())

    until(lambda: tls._handshakeDone)
    for line in (b"before\n", b"K\n", b"after\n", b"K\n", b"K\n", b"at last\n"):
        client.stdin.write(line)
        client.stdin.flush()
        if line == b"K\n":
            tls.dataReceived(accepted.recv(1 << 16))
            accepted.sendall(below.taken())
        else:
            until(lambda line=line: application.heard.endswith(line))  # type: ignore[misc]
    assert application.heard == b"before\nafter\nat last\n"
    seen = b""
    while b"at last" not in seen:
        seen += client.stdout.read1()
    assert seen.index(b"before\n") < seen.index(b"after\n")


@pytest.mark.parametrize("kind", [TLSMemoryBIOFactory, TLSFactory])
def test_a_renegotiation_loses_no_data(kind: type[TLSMemoryBIOFactory]) -> None:
    """In TLS 1.2, asked for by the server. What is written meanwhile comes in order."""
    application, below = Application(lambda *_: None), Below()
    creator = AUTHORITY.client("localhost")
    factory = kind(creator, True, Factory.forProtocol(lambda: application), clock := Clock())
    tls: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
    tls.makeConnection(below)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_privatekey(SERVER._key)
    context.use_certificate(SERVER._certificate)
    peer = Peer(SSL.TLS1_2_VERSION, serves=True)
    peer.connection = SSL.Connection(context, None)
    peer.connection.set_accept_state()

    def exchange() -> None:
        for _ in range(8):
            peer.take(below.taken())
            if data := peer.out():
                tls.dataReceived(data)
            clock.advance(0)

    exchange()
    assert application.told == ["secure"]
    sent = b""
    for number in range(20):
        if number % 5 == 4:
            assert peer.connection.renegotiate()
            with suppress(SSL.WantReadError):
                peer.connection.do_handshake()
            tls.dataReceived(peer.out())
        for text in (b"%d," % number, pattern(30_000)):
            tls.write(text)
            sent += text
        clock.advance(0)
        exchange()
    assert peer.connection.total_renegotiations() == 4
    assert peer.heard == sent


# --- who has them ---------------------------------------------------------------------------------


# Of pyOpenSSL, about a call of Twisted's own for a description of an endpoint.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_server_and_client_have_them_on_every_reactor(tmp_path: Path) -> None:
    """`serve` from a description, and `connect`; the listening port is Twisted's as ever."""
    path = tmp_path / "server.pem"
    path.write_bytes(SERVER.pem())
    kinds: list[type] = []

    async def handler(connection: Connection) -> None:
        kinds.append(type(cast(Any, connection)._wire.transport))
        await connection.send(await connection.recv())

    description = f"ssl:0:interface=127.0.0.1:privateKey={path}:certKey={path}"
    async with serve(handler, description) as server:
        uri = f"wss://localhost:{cast(Any, server.addresses[0]).port}/"
        async with connect(uri, tls=TLSOptions(ca=AUTHORITY.pem)) as connection:
            kinds.append(type(cast(Any, connection)._wire.transport))
            await connection.send("safely")
            assert await connection.recv() == "safely"
    assert kinds == [TLSTransport, TLSTransport]


def test_the_corked_reactor_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every application, with what it was asked for."""
    turns = Turns()
    asked: list[Any] = []
    port = SimpleNamespace()
    monkeypatch.setattr(turns.reactor, "listenTCP", lambda *args: asked.append(args) or port)
    monkeypatch.setattr(turns.reactor, "connectTCP", lambda *args: asked.append(args))
    try:
        inner = ClientFactory()
        assert turns.reactor.listenSSL(443, inner, SERVER, interface="::1") is port
        turns.reactor.connectSSL("localhost", 443, inner, AUTHORITY.client("localhost"), 7)
    finally:
        turns.close()
    (*listening, backlog, interface), (host, *connecting, timeout, bind) = asked
    assert (listening[0], backlog, interface, port._type) == (443, 50, "::1", "TLS")
    assert (host, connecting[0], timeout, bind) == ("localhost", 443, 7, None)
    for factory in listening[1], connecting[1]:
        assert type(factory) is TLSFactory
        assert factory.wrappedFactory is inner


# --- memory, and what is missing ------------------------------------------------------------------


def test_nothing_is_left_of_a_connection_that_ended() -> None:
    """No cycle keeps it until the garbage collector comes."""
    gc.disable()
    try:
        stage = Stage(TLSFactory, echo)
        stage.give(stage.peer.sealed(b"x"), stage.peer.closed())
        stage.lose()
        stage.application.transport = None
        left = ref(stage.tls)
        vars(stage).clear()
        assert left() is None
    finally:
        gc.enable()


def test_memory_does_not_grow_with_the_messages() -> None:
    stage = Stage(TLSFactory, lambda application, data: application.deliveries.clear())
    data = pattern(200_000)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])

    def exchange(times: int) -> None:
        for _ in range(times):
            stage.tls.write(data)
            stage.give(stage.peer.sealed(data))
            stage.peer.heard = b""

    exchange(50)
    before = resident()
    exchange(500)  # 200 MB
    assert (resident() - before) * 4096 < 20_000_000


@pytest.mark.parametrize("missing", ["_raise_ssl_error", "_ssl"])
def test_without_what_is_private_twisteds_own_code_runs(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (*wsframe.tls_transport._OF_PYOPENSSL, f"{missing}_renamed")
    monkeypatch.setattr(wsframe.tls_transport, "_OF_PYOPENSSL", names)
    data = pattern(100_000)

    def play(stage: Stage) -> None:
        stage.give(stage.peer.sealed(data))
        stage.give(stage.peer.sealed(b"x") + stage.peer.closed())
        stage.lose()

    stage = both(play, lambda application, data: None)
    assert stage.application.heard == data + b"x"
    answering = Stage(TLSFactory, echo)
    answering.give(answering.peer.sealed(data))
    assert answering.peer.heard == data
    assert answering.tls._lane.ssl is None


def test_all_that_is_private_is_there() -> None:
    """With the installed versions the fast way is taken."""
    assert wsframe.tls_transport._is_known
    assert TLSFactory.protocol is TLSTransport
    assert Stage(TLSFactory).tls._lane.ssl is not None
