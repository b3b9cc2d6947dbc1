"""What is asked of the socket below a transport, on sockets of our own."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from memory import MemoryTransport
from twisted.internet.abstract import FileDescriptor
from twisted.protocols.policies import ProtocolWrapper

from wsframe.options import ConnectionOptions, TCPKeepalive
from wsframe.protocol.tcp import (
    LARGE_READ,
    read_large,
    set_keepalive,
    set_no_delay,
    socket_below,
    unsent_bytes,
)

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")


class Transport:
    """What a transport of Twisted's is here."""

    def __init__(self, sock: Any) -> None:
        self.socket = sock

    def getHandle(self) -> object:
        raise AssertionError("after startTLS that is no socket")


def wrapped(transport: object) -> ProtocolWrapper:
    wrapper: Any = ProtocolWrapper(None, None)  # type: ignore[arg-type]
    wrapper.transport = transport
    return wrapper  # type: ignore[no-any-return]


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    with one, other:
        yield one, other


def user_timeout(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_the_socket_is_found_below_any_number_of_wrappers() -> None:
    with socket.socket() as sock:
        transport: Any = Transport(sock)
        for _ in range(3):
            assert socket_below(transport) is sock
            transport = wrapped(transport)


def test_a_transport_without_a_socket_is_left_alone() -> None:
    for transport in (MemoryTransport(), None, Transport(None), wrapped(MemoryTransport())):
        assert socket_below(transport) is None
        assert unsent_bytes(transport) is None
        set_keepalive(transport, ConnectionOptions())
        set_no_delay(transport)


def test_a_transport_that_cannot_hurry_is_no_error() -> None:
    """A Unix socket's has the method, and it fails."""

    class Unix(MemoryTransport):
        def setTcpNoDelay(self, enabled: bool) -> None:
            raise OSError(95, "not supported")

    set_no_delay(Unix())


def test_a_unix_socket_is_left_alone() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        set_keepalive(Transport(one), ConnectionOptions())
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_socket_that_is_closed_is_no_error() -> None:
    sock = socket.socket()
    sock.close()
    set_keepalive(Transport(sock), ConnectionOptions())
    assert unsent_bytes(Transport(sock)) is None


def test_no_keepalive_leaves_the_systems_setting(tcp: tuple[socket.socket, socket.socket]) -> None:
    one, _ = tcp
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    set_keepalive(Transport(one), ConnectionOptions(tcp_keepalive=None, write_timeout=None))
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == before


@LINUX
@pytest.mark.parametrize(
    ("keepalive", "write_timeout", "milliseconds"),
    [
        (TCPKeepalive(), 60.0, 120_000),
        (TCPKeepalive(idle=5, interval=2, count=3), 60.0, 60_000),
        (None, 0.25, 250),
        (None, 0.0001, 1),
        (None, 366 * 24 * 3600, 2**31 - 1),
        (TCPKeepalive(), None, 0),
    ],
)
def test_what_is_not_acknowledged_has_a_deadline_that_leaves_the_probes_their_time(
    tcp: tuple[socket.socket, socket.socket],
    keepalive: TCPKeepalive | None,
    write_timeout: float | None,
    milliseconds: int,
) -> None:
    one, _ = tcp
    options = ConnectionOptions(tcp_keepalive=keepalive, write_timeout=write_timeout)
    set_keepalive(Transport(one), options)
    assert user_timeout(one) == milliseconds


@LINUX
def test_unsent_bytes_are_those_that_the_peer_has_no_room_for(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    one, other = tcp
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(100_000))
    full = unsent_bytes(Transport(one))
    assert full
    assert unsent_bytes(Transport(one)) == full
    other.settimeout(10)
    while unsent_bytes(Transport(one)):
        other.recv(1_000_000)


def test_more_is_read_at_a_time_below_any_number_of_wrappers() -> None:
    lowest = FileDescriptor(reactor=object())  # type: ignore[arg-type]
    read_large(wrapped(wrapped(lowest)))
    assert lowest.bufferSize == LARGE_READ > FileDescriptor.bufferSize
    read_large(MemoryTransport())  # which has no say in it
