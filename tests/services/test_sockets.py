"""One port for several workers: what is reserved, for whom, and how it is given up."""

from __future__ import annotations

import gc
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import pytest_twisted
from integration.peers import free_port, has_ipv6, missing
from integration.raw import turns, within
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol

from wsframe.services.sockets import Reservation, inherited_endpoint, stop_accepting


def tcp(port: int = 0, host: str = "127.0.0.1") -> str:
    return f"tcp:{port}:interface={host}"


@contextmanager
def reserved(description: str, workers: int = 2) -> Iterator[tuple[list[socket.socket], int]]:
    reservation = Reservation(description, workers)
    (port,) = {bound.getsockname()[1] for bound in reservation.sockets}
    try:
        yield reservation.sockets, port
    finally:
        reservation.close()


def refuses(description: str) -> str:
    """Return what is said of an address that cannot be had; no socket is left."""
    with pytest.raises(CannotListenError) as caught:
        Reservation(description, 2)
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
