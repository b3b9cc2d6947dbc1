"""One address for several processes: sockets that one binds, and on which each listens or accepts.

The kernel spreads connections over all sockets that listen on an address with SO_REUSEPORT. The
parent binds them all before it gives up its rights: so a port below 1024, and a port 0, is the same
for every worker, now and later, and a worker that is replaced takes the socket of the one before.
Workers that bound theirs themselves could do so under the same effective user only.

A Unix socket knows no such thing. The parent listens on it, and all workers accept from its queue:
what a worker that died or hangs does not accept another one does, and where there is none at the
moment it waits. The file, its mode and its lock are the parent's affair alone. The same goes for a
socket that systemd opened, of whatever kind: there is but one.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, cast

from twisted.internet import tcp, unix
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.lockfile import FilesystemLock
from zope.interface import implementer

from wsframe.server import with_backlog
from wsframe.tls_transport import TLSFactory

__all__ = ["SHAREABLE", "Reservation", "endpoint_kind", "inherited_endpoint", "stop_accepting"]


_log: Final = Logger(namespace="wsframe.services")

SHAREABLE: Final = frozenset({"tcp", "tcp6", "ssl", "unix", "systemd"})
"""The kinds of endpoints whose addresses several processes can have."""


def endpoint_kind(description: str) -> str:
    """Return what an endpoint description begins with."""
    return description.partition(":")[0]


class Reservation:
    """The address of an endpoint description, kept for so many workers.

    `sockets` are bound, one for each worker, and nobody listens on them yet. A Unix socket, and one
    of systemd's, is one and the same for all, and listens: the former with `backlog` where the
    description names none.

    Raises `CannotListenError`, and what the description's own parser raises.
    """

    def __init__(self, description: str, workers: int, backlog: int) -> None:
        self.sockets: list[socket.socket] = []
        self._workers = workers
        self._is_shared = False
        self._held = ExitStack()
        # What the description means is left to Twisted's endpoints: they ask us for a port.
        endpoint = serverFromString(cast(Any, self), with_backlog(description, backlog))
        failures: list[Any] = []
        endpoint.listen(Factory()).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> None:
        """From the endpoint: bind."""
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        with ExitStack() as opened:
            try:
                address: Any = (interface, port)
                if family == socket.AF_INET6:  # a scope is a part of it
                    flags = socket.AI_NUMERICHOST
                    address = socket.getaddrinfo(interface, port, family, flags=flags)[0][4]
                # This one keeps everybody else away: where one listened that allows no other on
                # the port, and which still allows none, the kernel looks at every socket that
                # is bound, and not only at whether all of them allow it.
                keeper = opened.enter_context(_bound(family, address, reuse_port=False))
                keeper.listen(1)
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                address = keeper.getsockname()
                for _ in range(self._workers):
                    bound = _bound(family, address, reuse_port=True)
                    self.sockets.append(opened.enter_context(bound))
                stop_accepting(keeper)
            except OSError as error:
                self.sockets.clear()
                raise CannotListenError(interface, port, error) from None
            self._held = opened.pop_all()

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> None:
        """From the endpoint: bind; what is encrypted is the workers' affair."""
        self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> None:
        """From the endpoint: bind and listen, with a lock and a mode as Twisted's port has them."""
        path = Path(address)
        with ExitStack() as made:
            try:
                if wantPID:
                    lock = FilesystemLock(f"{address}.lock")
                    if not lock.lock():
                        raise CannotListenError(None, address, "Cannot acquire lock")
                    made.callback(lock.unlock)
                    if not lock.clean and path.is_socket():
                        path.unlink()  # of one that was killed
                shared = made.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                shared.bind(address)
                made.callback(path.unlink)
                path.chmod(mode)
                shared.setblocking(False)
                shared.listen(backlog)
            except OSError as error:
                raise CannotListenError(None, address, error) from None
            self._held = made.pop_all()
        self.sockets += [shared] * self._workers
        self._is_shared = True

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> None:
        """From the endpoint, which closes its own after that: keep what systemd opened."""
        adopted = socket.fromfd(fileDescriptor, addressFamily, socket.SOCK_STREAM)
        self._held.enter_context(adopted)
        self.sockets += [adopted] * self._workers
        self._is_shared = True

    def vacate(self, number: int) -> None:
        """Have nobody wait for the worker with that number, which is gone."""
        if not self._is_shared:
            stop_accepting(self.sockets[number - 1])

    def close(self) -> None:
        """Give the address up."""
        self.sockets.clear()
        try:
            self._held.close()
        except OSError as error:  # somebody was faster, or it is not ours to remove any more
            _log.warn("What remains of a Unix socket: {error}", error=str(error))


def _bound(family: int, address: Any, *, reuse_port: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As Twisted does: connections of an earlier server that are still closing are no obstacle.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        made.bind(address)
    except BaseException:
        made.close()
        raise
    return made


def stop_accepting(listening: socket.socket) -> None:
    """Have the kernel refuse connections for this socket, whoever else holds it; it stays bound.

    Closing it would not do: it listens until its last holder is gone, and what nobody accepts
    waits.
    """
    with suppress(OSError):
        if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.shutdown(socket.SHUT_RD)


def inherited_endpoint(
    description: str, bound: socket.socket, backlog: int, reactor: Any
) -> IStreamServerEndpoint:
    """Return the endpoint of a description that listens on a socket which is bound already.

    The socket is the endpoint's from then on, and closed with its port. `backlog` holds where the
    description names none.
    """
    if endpoint_kind(description) == "systemd":  # it means something to the parent only
        return _Adopted(bound, reactor)
    listening = cast(Any, _Listening(bound, reactor))
    described: IStreamServerEndpoint = serverFromString(
        listening, with_backlog(description, backlog)
    )
    return described


class _Listening:
    """What such an endpoint takes for the reactor that it asks for a port."""

    def __init__(self, bound: socket.socket, reactor: Any) -> None:
        self._bound = bound
        self._reactor = reactor

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        self._bound.setblocking(False)
        self._bound.listen(backlog)
        adopted = self._reactor.adoptStreamPort(self._bound.fileno(), self._bound.family, factory)
        return _Port(adopted, self._bound)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        return _accepting(self._bound, factory, self._reactor)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        encrypted = TLSFactory(contextFactory, False, factory)
        return self.listenTCP(port, encrypted, backlog, interface)


@implementer(IStreamServerEndpoint)
class _Adopted:
    """The endpoint of a socket that listens already."""

    def __init__(self, shared: socket.socket, reactor: Any) -> None:
        self._shared = shared
        self._reactor = reactor

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept; fires at once with the port."""
        return execute(_accepting, self._shared, factory, self._reactor)


def _accepting(shared: socket.socket, factory: IProtocolFactory, reactor: Any) -> IListeningPort:
    """Return a port that accepts from a socket as others do, which it leaves as it is."""
    port: IListeningPort
    if shared.family == socket.AF_UNIX:
        port = _SharedPort(shared, factory, reactor)
        port.startListening()
    else:
        port = reactor.adoptStreamPort(shared.fileno(), shared.family, factory)
        shared.close()
    return port


class _SharedPort(unix.Port):
    """A port that only accepts: all that Twisted's does else would be done to the others, too.

    Also one that was adopted sets the file's mode, removes it, and shuts the socket down.
    """

    _shouldShutdown = False

    def __init__(self, shared: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(os.fsencode(shared.getsockname()), factory, reactor=reactor)
        self.socket = shared

    def startListening(self) -> None:
        tcp._reservedFD.reserve()  # with it a connection is refused for which there is no file left
        factory: Any = self.factory
        factory.doStart()
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.startReading()

    def doRead(self) -> None:
        self.numberAccepts = 1  # whoever has time takes the next one
        super().doRead()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


@implementer(IListeningPort)
class _Port:
    """A port whose socket the parent holds, too: to stop takes more than to close it."""

    def __init__(self, adopted: IListeningPort, bound: socket.socket) -> None:
        self._adopted = adopted
        self._bound = bound

    def startListening(self) -> None:
        """It does already."""

    def stopListening(self) -> Deferred[None] | None:
        """Stop; fires when the port is closed."""
        stopping = self._adopted.stopListening()
        stop_accepting(self._bound)  # after the reactor has let go of it
        self._bound.close()
        return stopping

    def getHost(self) -> IAddress:
        """Return the address that is listened on."""
        return self._adopted.getHost()
