"""A host with several addresses, over real sockets: some listen, some refuse, some never answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.core.timing import PhaseDone
from wsframe.endpoints import HostEndpoint
from wsframe.endpoints.host import SocketEndpoint
from wsframe.endpoints.link import with_deadline
from wsframe.errors import AddressFailure, OpenCancelled, OpenTimeout, TCPConnectFailed

from .names import Resolver
from .origins import echo_server
from .peers import free_port, has_ipv6, missing
from .raw import Raw, RawServer, Stepped, eventually, turns, within

SYN_SENT = b"\x02"
"""TCP_SYN_SENT of Linux' tcp_states.h."""


@pytest.fixture(autouse=True)
def ipv6() -> None:
    if not has_ipv6():
        missing("IPv6 on loopback")


def state_of(client: socket.socket) -> bytes:
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)


@contextmanager
def hole(host: str, port: int = 0) -> Iterator[int]:
    """Give a port that swallows connections: it listens, and its queue is full.

    Linux then drops every SYN. What arrives on loopback arrives before `connect` returns.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    filling: list[socket.socket] = []
    with socket.socket(kind) as listening:
        # The port may be free on this address but for a connection that has ended (TIME_WAIT).
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(0)
        try:
            while not filling or state_of(filling[-1]) != SYN_SENT:
                filling.append(socket.socket(kind))
                filling[-1].setblocking(False)
                filling[-1].connect_ex(listening.getsockname()[:2])
            yield listening.getsockname()[1]
        finally:
            for client in filling:
                client.close()


class Recording(Factory):
    """Builds protocols that record, and keeps them."""

    noisy = False

    def __init__(self) -> None:
        self.protocols: list[Raw] = []

    def buildProtocol(self, _: Any) -> Raw:
        self.protocols.append(Raw())
        return self.protocols[-1]


def endpoint_to(port: int, told: list[PhaseDone], host: str = "two.test", **arguments: Any) -> Any:
    from twisted.internet import reactor

    return HostEndpoint(
        arguments.pop("reactor", reactor), host, port, observe=told.append, **arguments
    )


@pytest.mark.parametrize("answers", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"]])
@pytest.mark.parametrize("listening", ["::1", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_the_address_that_listens_is_found(
    resolver: Resolver, answers: list[str], listening: str
) -> None:
    resolver.answers = answers
    told: list[PhaseDone] = []
    async with RawServer(interface=listening) as server:
        raw = await within(connectProtocol(endpoint_to(server.port, told), Raw()))
        accepted = await server.accepted()
        accepted.write(b"hello")
        await raw.read_until(b"hello")
        assert raw.transport.getPeer().host == listening
        assert len(server.connections) == 1
        await raw.drop()
    dns, tcp = told
    assert (dns.phase, dns.detail) == ("dns", ", ".join(answers))
    assert tcp.phase == "tcp"
    (refused,) = {"::1", "127.0.0.1"} - {listening}
    assert ("Connection refused" in tcp.detail) == (answers[0] == refused)


@pytest_twisted.ensureDeferred
async def test_ipv6_that_leads_nowhere_does_not_hide_ipv4(resolver: Resolver) -> None:
    resolver.answers = ["::1", "127.0.0.1"]
    async with echo_server() as port:
        with hole("::1", port):
            connection = await within(connect(f"ws://two.test:{port}/"))
            async with connection:
                assert "127.0.0.1" in connection.peer
                await connection.send("x")
                assert await connection.recv() == "x"


@pytest_twisted.ensureDeferred
async def test_deadline_tells_which_address_hung_and_which_refused(resolver: Resolver) -> None:
    resolver.answers = ["127.0.0.1", "::1"]
    clock: Any = Stepped()
    with hole("::1", free_port()) as port:
        attempt = endpoint_to(port, [], reactor=clock).connect(Recording())
        opening = with_deadline(clock, attempt, 5.0, "two.test")
        await eventually(lambda: len(clock.getDelayedCalls()) == 1)  # the last attempt has begun
        clock.advance(5.0)
        with pytest.raises(OpenTimeout) as caught:
            await within(opening)
    assert caught.value.attempts == (
        AddressFailure(f"127.0.0.1:{port}", "Connection refused"),
        AddressFailure(f"[::1]:{port}", "no answer in 5 s"),
    )
    for attempt in caught.value.attempts:
        assert str(attempt) in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_two_that_connect_in_the_same_turn_are_one_connection(resolver: Resolver) -> None:
    resolver.answers = ["::1", "127.0.0.1"]
    clock: Any = Stepped()
    built = Recording()
    with (
        socket.create_server(("::1", free_port("::1")), family=socket.AF_INET6) as six,
        socket.create_server(("127.0.0.1", six.getsockname()[1])) as four,
    ):
        connecting = endpoint_to(six.getsockname()[1], [], reactor=clock).connect(built)
        clock.advance(0.25)  # the second begins before the first could
        raw = await within(connecting)
        assert built.protocols == [raw]
        ends = [server.accept()[0] for server in (six, four)]
        raw.write(b"x")
        await turns(2)
        received = []
        for end in ends:
            with end:
                received.append(end.recv(10, socket.MSG_DONTWAIT))
        assert sorted(received) == [b"", b"x"]
        await raw.drop()


@pytest.mark.parametrize("moment", ["look-up", "connect", "hanging", "second"])
@pytest_twisted.ensureDeferred
async def test_cancelled_at_any_moment_leaves_nothing(resolver: Resolver, moment: str) -> None:
    """No socket is left for the fixture that looks for them to find."""
    resolver.answers = None if moment == "look-up" else ["::1", "127.0.0.1"]
    clock: Any = Stepped()
    built = Recording()
    with hole("::1") as port, hole("127.0.0.1", port):
        opening = endpoint_to(port, [], reactor=clock).connect(built)
        if moment in ("hanging", "second"):
            await turns(3)
        if moment == "second":
            clock.advance(0.25)
            await turns(3)
        opening.cancel()
        with pytest.raises(OpenCancelled) as caught:
            await within(opening)
        assert len(caught.value.attempts) == {"look-up": 0, "second": 2}.get(moment, 1)
    assert clock.getDelayedCalls() == []
    assert built.protocols == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::1%1"])
@pytest_twisted.ensureDeferred
async def test_addresses_are_not_looked_up(resolver: Resolver, host: str) -> None:
    async with RawServer(interface=host.partition("%")[0]) as server:
        raw = await within(connectProtocol(endpoint_to(server.port, [], host), Raw()))
        await server.accepted()
        await raw.drop()
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "Connection refused"),
        ("::1", "Connection refused"),
        ("fe80::1%no-such-interface", "Name or service not known"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_address_that_fails_has_its_reason(host: str, reason: str) -> None:
    with pytest.raises(TCPConnectFailed) as caught:
        await within(connectProtocol(endpoint_to(free_port(), [], host), Raw()))
    (attempt,) = caught.value.attempts
    assert host in attempt.address
    assert reason in attempt.reason


@pytest_twisted.ensureDeferred
async def test_local_address_is_bound(resolver: Resolver) -> None:
    resolver.answers = ["::1", "127.0.0.1"]
    async with RawServer() as server:
        endpoint = endpoint_to(server.port, [], bind_address=("127.0.0.9", 0))
        raw = await within(connectProtocol(endpoint, Raw()))
        accepted = await server.accepted()
        assert accepted.transport.getPeer().host == "127.0.0.9"
        await raw.drop()


@pytest.mark.parametrize("reason", ["No such file or directory", "Connection refused"])
@pytest_twisted.ensureDeferred
async def test_unix_socket_that_nobody_listens_on_has_its_reason(
    tmp_path: Path, reason: str
) -> None:
    from twisted.internet import reactor

    path = str(tmp_path / "socket")
    if reason == "Connection refused":
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)  # the file remains
    endpoint: Any = SocketEndpoint(reactor, path)
    with pytest.raises(TCPConnectFailed) as caught:
        await within(connectProtocol(endpoint, Raw()))
    assert caught.value.attempts == (AddressFailure(path, reason),)
