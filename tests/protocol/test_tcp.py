"""What is asked of the socket below a transport, on sockets of our own."""

from __future__ import annotations

import contextlib
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from memory import MemoryTransport
from twisted.internet.abstract import FileDescriptor
from twisted.internet.tcp import Server
from twisted.protocols.policies import ProtocolWrapper

from wsframe.options import ConnectionOptions, TCPKeepalive
from wsframe.protocol.tcp import (
    LARGE_READ,
    LARGE_SEND,
    LARGEST_READ,
    read_large,
    send_at_once,
    send_large,
    set_no_delay,
    set_tcp_options,
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
        set_tcp_options(transport, ConnectionOptions(), no_delay=True)
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
        set_tcp_options(Transport(one), ConnectionOptions(), no_delay=True)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_socket_that_is_closed_is_no_error() -> None:
    sock = socket.socket()
    sock.close()
    set_tcp_options(Transport(sock), ConnectionOptions(), no_delay=True)
    assert unsent_bytes(Transport(sock)) is None


def test_no_keepalive_leaves_the_systems_setting(tcp: tuple[socket.socket, socket.socket]) -> None:
    one, _ = tcp
    before = one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    set_tcp_options(
        Transport(one), ConnectionOptions(tcp_keepalive=None, write_timeout=None), no_delay=True
    )
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
    set_tcp_options(Transport(one), options, no_delay=True)
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


@pytest.mark.parametrize(
    ("length", "reads"),
    [(40_000, LARGE_READ), (1 << 18, LARGE_READ), (1 << 20, LARGEST_READ), (1 << 40, LARGEST_READ)],
)
def test_more_is_read_at_a_time_below_any_number_of_wrappers(length: int, reads: int) -> None:
    """A frame of 256 KiB or 1 MiB comes in one read, with its head."""
    lowest = FileDescriptor(reactor=object())  # type: ignore[arg-type]
    read_large(wrapped(wrapped(lowest)), length)
    assert lowest.bufferSize == reads > FileDescriptor.bufferSize
    assert reads >= min(length + 14, LARGEST_READ)
    read_large(MemoryTransport(), length)  # which has no say in it


def test_a_smaller_frame_does_not_have_less_read_again() -> None:
    lowest = FileDescriptor(reactor=object())  # type: ignore[arg-type]
    for length in (1 << 20, 40_000):
        read_large(lowest, length)
    assert lowest.bufferSize == LARGEST_READ


def test_more_is_sent_at_a_time_below_any_number_of_wrappers() -> None:
    lowest = FileDescriptor(reactor=object())  # type: ignore[arg-type]
    for _ in range(2):
        send_large(wrapped(wrapped(lowest)))
    assert lowest.SEND_LIMIT == LARGE_SEND > FileDescriptor.SEND_LIMIT
    send_large(MemoryTransport())  # which has no say in it


@pytest.fixture
def accepted() -> Iterator[tuple[Any, socket.socket]]:
    """Return a server's transport, which notes what it is given to write, and its peer."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        transport: Any = object.__new__(Server)
        transport.socket, transport.connected, transport._tempDataBuffer = one, 1, []
        transport.written = []
        transport.write = transport.written.append
        yield transport, other


def test_what_waits_for_nothing_is_sent_at_once(accepted: tuple[Any, socket.socket]) -> None:
    transport, peer = accepted
    assert send_at_once(transport, b"now")
    assert peer.recv(10) == b"now"
    assert transport.written == []


def test_the_transport_gets_what_the_kernel_does_not_take(
    accepted: tuple[Any, socket.socket],
) -> None:
    transport, peer = accepted
    data = bytes(range(256)) * 8192
    assert send_at_once(transport, data)
    (rest,) = transport.written
    assert 0 < len(rest) < len(data)
    assert send_at_once(transport, b"more")  # nothing is taken: in truth, it would wait by now
    assert transport.written == [rest, b"more"]
    peer.close()
    assert send_at_once(transport, b"lost")  # the transport finds out
    assert transport.written[2:] == [b"lost"]


@pytest.mark.parametrize(
    "state",
    [
        {"TLS": True},
        {"_tempDataBuffer": [b"first"]},
        {"dataBuffer": b"first"},
        {"disconnecting": 1},
        {"connected": 0},
    ],
)
def test_what_has_to_wait_is_left_to_the_transport(
    accepted: tuple[Any, socket.socket], state: dict[str, Any]
) -> None:
    transport, _ = accepted
    vars(transport).update(state)
    assert not send_at_once(transport, b"later")
    assert not send_at_once(MemoryTransport(), b"later")
    assert transport.written == []


FAULTS = """
import resource, sys
from wsframe.protocol.tcp import keep_memory

if sys.argv[1:]:
    keep_memory()
for number in range(40):
    if number == 20:  # what there is to be learned is learned
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    several = [bytearray(1 << 20) for _ in range(4)]
    several.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_memory_of_large_messages_is_kept_for_the_next_ones() -> None:
    def faults(*told: str) -> int:
        command = [sys.executable, "-c", FAULTS, *told]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    pages = 20 * 4 * (1 << 20) // resource.getpagesize()
    assert faults() > pages / 2
    assert faults("keep") < pages / 50


class Accepted(Transport):
    """A transport of a server's, which knows its port."""

    def __init__(self, sock: Any, server: Any) -> None:
        super().__init__(sock)
        self.server = server


@LINUX
def test_what_is_accepted_has_the_options_of_the_listening_socket() -> None:
    """From the second on: nothing is left to be set, and one question finds that out."""
    options = ConnectionOptions(tcp_keepalive=TCPKeepalive(idle=7, interval=3, count=2))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = Transport(listening)
        asked: list[int] = []

        class Counting(socket.socket):
            def setsockopt(self, *args: Any) -> None:
                asked.append(args[1])
                super().setsockopt(*args)

        def accept() -> socket.socket:
            with socket.create_connection(listening.getsockname()):
                accepted, _ = listening.accept()
            counted = Counting(fileno=accepted.detach())
            set_tcp_options(wrapped(Accepted(counted, port)), options, no_delay=True)
            return counted

        with accept():
            assert len(asked) == 6
        asked.clear()
        with accept() as second:
            assert asked == []
            for level, name, value in (
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
            ):
                assert second.getsockopt(level, name) == value


@LINUX
def test_what_was_accepted_before_the_listening_socket_had_them_gets_them_itself() -> None:
    options = ConnectionOptions()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = Transport(listening)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
        accepted = [listening.accept()[0] for _ in clients]
        for sock in accepted:
            set_tcp_options(Accepted(sock, port), options, no_delay=True)
            assert user_timeout(sock) == 120_000
        for sock in (*clients, *accepted):
            sock.close()


@LINUX
def test_a_connection_may_want_the_delay_that_its_port_does_not() -> None:
    options = ConnectionOptions()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = Transport(listening)
        for no_delay in (True, False, True):
            with socket.create_connection(listening.getsockname()):
                sock, _ = listening.accept()
            with sock:
                set_tcp_options(Accepted(sock, port), options, no_delay=no_delay)
                assert bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is no_delay
