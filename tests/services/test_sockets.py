"""One port for several workers: what is reserved, for whom, and how it is given up."""

from __future__ import annotations

import gc
import os
import socket
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port, has_ipv6, missing
from integration.raw import eventually, turns, within
from twisted.internet.address import UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol

from wsframe.services.sockets import Reservation, inherited_endpoint, stop_accepting


def tcp(port: int = 0, host: str = "127.0.0.1") -> str:
    return f"tcp:{port}:interface={host}"


@contextmanager
def reserved(description: str, workers: int = 2) -> Iterator[tuple[list[socket.socket], int]]:
    reservation = Reservation(description, workers, 64)
    (port,) = {bound.getsockname()[1] for bound in reservation.sockets}
    try:
        yield reservation.sockets, port
    finally:
        reservation.close()


def refuses(description: str) -> str:
    """Return what is said of an address that cannot be had; no socket is left."""
    with pytest.raises(CannotListenError) as caught:
        Reservation(description, 2, 64)
    gc.collect()  # one that is not closed is a ResourceWarning
    return str(caught.value)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_every_worker_has_a_socket_of_its_own_for_one_port_and_nobody_listens() -> None:
    with reserved(tcp(), 3) as (sockets, port):
        assert len({bound.fileno() for bound in sockets}) == 3
        assert port > 0
        assert not accepts(port)
        sockets[1].listen()
        assert accepts(port)


def test_the_kernel_spreads_connections_over_those_that_listen() -> None:
    with reserved(tcp()) as (sockets, port):
        for bound in sockets:
            bound.setblocking(False)
            bound.listen(64)
        assert all(accepted(sockets, port).values())
        stop_accepting(sockets[0])
        assert set(accepted(sockets, port)) == {1}
        sockets[0].listen(64)
        assert all(accepted(sockets, port).values())
        for bound in sockets:
            stop_accepting(bound)
        assert not accepts(port)


def accepted(sockets: list[socket.socket], port: int) -> Counter[int]:
    """Connect 32 times; return how many each socket got. 0 would be 1 in 2 to the 32."""
    for _ in range(32):
        assert accepts(port)
    got: Counter[int] = Counter()
    for place, bound in enumerate(sockets):
        while True:
            try:
                bound.accept()[0].close()
            except OSError:
                break
            got[place] += 1
    assert got.total() == 32
    return got


def test_a_port_on_which_another_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refuses(tcp(port)).startswith(f"Couldn't listen on 127.0.0.1:{port}: ")
        assert "in use" in refuses(tcp(port, "0.0.0.0"))


@pytest.mark.parametrize("listening", [False, True])
def test_a_reserved_port_is_reserved(listening: bool) -> None:
    """The second time would go through if only its workers' sockets were asked for."""
    with reserved(tcp(free_port())) as (sockets, port):
        for bound in sockets if listening else []:
            bound.listen()
        assert "in use" in refuses(tcp(port))
        assert "in use" in refuses(tcp(port, "0.0.0.0"))
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
    with reserved(tcp(port)):
        pass


def test_connections_of_an_earlier_server_that_linger_are_no_obstacle() -> None:
    with reserved(tcp(free_port())) as (sockets, port):
        sockets[0].listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            server = sockets[0].accept()[0]
            server.close()  # first: it is in TIME_WAIT from then on
            assert client.recv(1) == b""
    with reserved(tcp(port)) as (sockets, again):
        assert again == port
        sockets[0].listen()


def test_what_cannot_be_bound_is_said_as_twisted_says_it() -> None:
    assert refuses(tcp(1, "192.0.2.1")).startswith("Couldn't listen on 192.0.2.1:1: ")


def test_ipv6() -> None:
    if not has_ipv6():
        missing("IPv6 on loopback")
    with reserved(r"tcp6:0:interface=\:\:1") as (sockets, port):
        assert sockets[0].getsockname()[:2] == ("::1", port)
        assert sockets[0].family == socket.AF_INET6


# ---------------------------------------------------------------- Unix sockets


@contextmanager
def reserved_file(path: Path, *options: str) -> Iterator[Reservation]:
    reservation = Reservation(":".join([f"unix:{path}", *options]), 2, 64)
    try:
        yield reservation
    finally:
        reservation.close()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def test_all_workers_have_one_unix_socket_which_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with reserved_file(path, "mode=600") as reservation:
        first, second = reservation.sockets
        assert first is second
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert connects(path)
        reservation.vacate(1)
        assert connects(path)
    assert list(tmp_path.iterdir()) == []
    assert reservation.sockets == []


def test_a_unix_socket_that_is_in_use_is_refused_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with reserved_file(path):
        assert "Cannot acquire lock" in refuses(f"unix:{path}")
        assert "in use" in refuses(f"unix:{path}:lockfile=0")
        assert connects(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
    with reserved_file(path, "lockfile=0"):
        assert [each.name for each in tmp_path.iterdir()] == ["socket"]
        assert "in use" in refuses(f"unix:{path}")
        assert connects(path)
    assert list(tmp_path.iterdir()) == []


def leave_lock(path: Path) -> None:
    """Leave the lock that a process has which was killed."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    Path(f"{path}.lock").symlink_to(str(dead.pid))


def test_what_is_left_of_one_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    leave_lock(path)
    with reserved_file(path):
        assert connects(path)
    leave_lock(path)
    with reserved_file(path):
        assert connects(path)


def test_a_file_that_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    leave_lock(path)
    assert "in use" in refuses(f"unix:{path}")
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "No such file" in refuses(f"unix:{tmp_path}/none/socket")


def test_a_socket_file_that_was_removed_meanwhile_is_said_and_no_more(
    tmp_path: Path, logged: Callable[[], str]
) -> None:
    path = tmp_path / "socket"
    with reserved_file(path) as reservation:
        (_, shared) = reservation.sockets
        path.unlink()
    assert (
        f"What remains of a Unix socket: [Errno 2] No such file or directory: '{path}'" in logged()
    )
    assert shared.fileno() == -1
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stops_accepting_from_a_unix_socket_leaves_it_to_the_others(
    tmp_path: Path,
) -> None:
    from twisted.internet import reactor

    path = tmp_path / "socket"
    description = f"unix:{path}:mode=600"
    accepted = [0, 0]

    class Counting(Protocol):
        def connectionMade(self) -> None:
            assert isinstance(self.factory, Factory)
            accepted[ports.index(self.transport.server)] += 1  # type: ignore[union-attr]
            self.transport.loseConnection()  # type: ignore[union-attr]

    with reserved_file(path, "mode=600") as reservation:
        ports: list[Any] = []
        for shared in reservation.sockets:
            endpoint = inherited_endpoint(description, shared.dup(), 64, reactor)
            ports.append(await within(endpoint.listen(Factory.forProtocol(Counting))))
        assert ports[0].getHost() == ports[1].getHost() == UNIXAddress(os.fsencode(path))
        first, second = ports
        first.stopReading()
        for _ in range(3):
            assert connects(path)
        await eventually(lambda: accepted == [0, 3])
        first.startReading()
        await within(second.stopListening())
        assert connects(path)
        await eventually(lambda: accepted == [1, 3])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await within(first.stopListening())
        assert connects(path)  # waits for a replacement
        await turns(2)
        assert accepted == [1, 3]


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_stopped_refuses_though_others_hold_its_socket() -> None:
    from twisted.internet import reactor

    with reserved(tcp()) as (sockets, port):
        endpoint = inherited_endpoint(tcp(), sockets[0].dup(), 64, reactor)
        listening = await within(endpoint.listen(Factory.forProtocol(Protocol)))
        assert listening.getHost().port == port
        assert accepts(port)
        await turns(2)
        await within(listening.stopListening())
        assert not accepts(port)
        # Until a replacement listens.
        sockets[0].listen()
        assert accepts(port)
