"""The corked reactor: Twisted's epoll reactor, which writes at the end of a turn.

Under Twisted's own, data that is written waits for the next turn: the descriptor is registered with
epoll for writing, epoll is asked, the data is sent, and the registration taken back. Here the
descriptor is noted, and tried when the turn ends; epoll hears only of what the kernel did not take.
Applications see the same as ever, a turn earlier. A turn is, in order:

1. Epoll is asked which descriptors are ready, and waits for the next timer at most. At most
   `_EVENTS` of them are served in a turn; the kernel names the others first in the next.
2. Those are read, and those that could not finish earlier are written.
3. Calls from other threads run, then the timers that are due, and the shutdown when one was asked.
4. Descriptors with something to write are tried, once each. Who finished is done. Who has more
   than the kernel takes is registered with epoll. What is written meanwhile, such as by a producer
   that was resumed, waits for the next turn, which does not wait in 1.

When a write fails in 4, what the peer sent before it went is read first, as in 2. Only descriptors
of Twisted's own (`twisted.internet.abstract.FileDescriptor`) are tried in 4: it says nothing of
being writable, and another descriptor may take it for a proof that its connection came about.

Most of what Twisted spends on a small message are calls of one another's methods. For its plain
TCP transports (`tcp.Server` and `tcp.Client` themselves, also those below TLS) the common case is
therefore taken over, in `_read` and `_write`: what `doRead` does, and what `doWrite` does when
there is only data to send, none left over from earlier, and nothing to be done once it is sent. In
all other cases, for subclasses, and where `doRead`, `doWrite` or `writeSomeData` of a transport was
set to something else, Twisted's methods are called. The outcome is theirs; the tests compare.

Two more things differ. The context of the log, by which `twisted.python.log.msg` says whose data is
handled, is not built for every event but looked up when something is logged; what such an event
starts in a thread says ``-``. And `seconds` is the monotonic clock: a system clock that is set
moves no timer, and the times of day in the access log of a `twisted.web` site are wrong.

    import wsframe.reactor
    wsframe.reactor.install()   # before anything imports twisted.internet.reactor

or ``twistd --reactor=corked``. Importing this module installs nothing.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionFdescWentAway
from twisted.internet.interfaces import (
    IConnector,
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocolFactory,
    IWriteDescriptor,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST, installReactor
from twisted.logger import Logger
from twisted.python import context, log, threadable

from wsframe.tls_transport import TLSFactory, TLSListener

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:

    class EPollReactor:  # type: ignore[no-redef]
        """In the place of Twisted's, where the system has no epoll."""

        def __init__(self) -> None:
            raise ImportError("this system has no epoll")


__all__ = ["CorkedReactor", "install"]

_log: Final = Logger(namespace="wsframe.reactor")

_EVENTS: Final = 256
"""Descriptors that are served in a turn: what they write waits for its end, so turns are to be
short; and among 256 the one question to epoll costs next to nothing already."""

_NO_DESCRIPTOR: Final = ConnectionFdescWentAway("File descriptor lost")

_PLAIN: Final = frozenset({tcp.Server, tcp.Client})
"""The classes of the transports that `_read` and `_write` know. Those of Unix sockets are none of
them: they also pass descriptors."""

_TRY_AGAIN: Final = frozenset({errno.EWOULDBLOCK, errno.ENOBUFS, errno.EINTR})

_DO_READ: Final[Any] = tcp.Connection.doRead
_DO_WRITE: Final[Any] = tcp.Connection.doWrite
_WRITE_SOME_DATA: Final[Any] = tcp.Connection.writeSomeData


class CorkedReactor(EPollReactor):
    """Twisted's `EPollReactor`, with writes at the end of the turn; see the module.

    Raises ImportError where the system has no epoll.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self) -> None:
        # The descriptors that are to be tried, in the order they came, with the turn in which
        # they came. None of them is registered with epoll for writing.
        self._pending: dict[IWriteDescriptor, int] = {}
        self._turn = 0
        self._log_context = _LogContext()
        super().__init__()

    # --- who is to be written ---------------------------------------------------------------------

    def addWriter(self, writer: IWriteDescriptor) -> None:
        """Twisted: try to write at the end of this turn, then whenever epoll says so."""
        if writer in self._pending:
            return
        if type(writer) in _PLAIN and (fd := writer.fileno()) >= 0:
            if fd not in self._writes:  # epoll takes every socket: there is no other poll to ask
                self._pending[writer] = self._turn
        elif not isinstance(writer, FileDescriptor) or (fd := writer.fileno()) < 0:
            super().addWriter(writer)
        elif fd not in self._writes and not self._continuousPolling.isWriting(writer):
            self._pending[writer] = self._turn

    def removeWriter(self, writer: IWriteDescriptor) -> None:
        """Twisted: write no more, neither at the end of this turn nor later."""
        if self._pending.pop(writer, None) is None:
            super().removeWriter(writer)

    def getWriters(self) -> list[IWriteDescriptor]:
        """Twisted: return all that wait to be written."""
        return [*super().getWriters(), *self._pending]

    def removeAll(self) -> list[Any]:
        """Twisted: forget all descriptors but the reactor's own, and return them, each once."""
        pending = [*self._pending]
        self._pending.clear()
        return [*dict.fromkeys([*super().removeAll(), *pending])]

    # --- TLS --------------------------------------------------------------------------------------

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Twisted: listen for TLS; the transports are those of `wsframe.tls_transport`."""
        return TLSListener(self).listenSSL(port, factory, contextFactory, backlog, interface)

    def connectSSL(
        self,
        host: str,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """Twisted: connect for TLS, with the same transports."""
        encrypted = TLSFactory(contextFactory, True, factory, clock=self)
        return self.connectTCP(host, port, encrypted, timeout, bindAddress)

    # --- the turn ---------------------------------------------------------------------------------

    def mainLoop(self) -> None:
        """Twisted: take turns until the reactor is stopped."""
        context.call({log.ILogContext: self._log_context}, super().mainLoop)

    def doPoll(self, timeout: float | None) -> None:
        """Twisted: wait for events for at most that many seconds, None for ever, and serve them."""
        if self._pending or self._justStopped:
            timeout = 0
        elif timeout is None:
            timeout = -1
        try:
            events = self._poller.poll(timeout, _EVENTS)
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise

        log_context = self._log_context
        selectables = self._selectables
        readable, writable = self._POLL_IN, self._POLL_OUT
        plain = readable | writable
        try:
            for fd, event in events:
                selectable = selectables.get(fd)
                if selectable is None:
                    continue  # it went while others were served
                log_context.selectable = selectable
                if event & ~plain:
                    log.callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
                    continue
                why: Any = None
                is_read = False
                try:
                    if event == readable:
                        why = self._read(selectable)
                        is_read = True
                    elif selectable.fileno() == -1:
                        why = _NO_DESCRIPTOR
                    else:
                        if event & readable:
                            why = selectable.doRead()
                            is_read = True
                        if event & writable and not why:
                            why = selectable.doWrite()
                            is_read = False
                except BaseException:  # noqa: BLE001 - what an application raises ends its connection
                    why = sys.exception()
                    log.err()
                if why:
                    self._disconnect(selectable, why, is_read)
        finally:
            log_context.selectable = None

    doIteration = doPoll

    def runUntilCurrent(self) -> None:
        """Twisted: run what is due; then write."""
        super().runUntilCurrent()
        if self._pending:
            try:
                self._write_pending()
            finally:
                self._log_context.selectable = None

    def _write_pending(self) -> None:
        log_context = self._log_context
        pending = self._pending
        turn = self._turn
        self._turn = later = turn + 1
        for writer in [*pending]:
            if pending.get(writer, later) > turn:
                continue  # removed since, and perhaps noted again
            log_context.selectable = writer
            why: Any = None
            is_read = False
            try:
                why = self._write(writer)
                if pending.get(writer, later) <= turn:  # it did not finish, or failed
                    if why:
                        why, is_read = self._what_ends(writer, why)
                    else:
                        del pending[writer]
                        super().addWriter(writer)
            except BaseException:  # noqa: BLE001 - as above
                why = sys.exception()
                log.err()
            if why:
                self._disconnect(writer, why, is_read)

    def _read(self, transport: Any) -> Any:
        """Do what `doRead` does, and return what it returns."""
        if (
            type(transport) not in _PLAIN
            or getattr(transport.doRead, "__func__", None) is not _DO_READ
        ):
            return _NO_DESCRIPTOR if transport.fileno() == -1 else transport.doRead()
        try:
            data = transport.socket.recv(transport.bufferSize)
        except OSError as error:
            if error.args[0] == errno.EWOULDBLOCK:
                return None
            return _NO_DESCRIPTOR if transport.fileno() == -1 else CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        transport.protocol.dataReceived(data)
        return None

    def _write(self, transport: Any) -> Any:
        """Do what `doWrite` does, and return what it returns.

        Much to send, something left over from earlier, and what is to be done once all is sent:
        that is left to it, before anything is changed.
        """
        if (
            type(transport) not in _PLAIN
            or transport.dataBuffer
            or (size := transport._tempDataLen) > transport.SEND_LIMIT
            or transport.disconnecting
            or transport._writeDisconnecting
            or transport.producerPaused
            or (transport.producer is not None and not transport.streamingProducer)
            or getattr(transport.doWrite, "__func__", None) is not _DO_WRITE
            or getattr(transport.writeSomeData, "__func__", None) is not _WRITE_SOME_DATA
        ):
            return _NO_DESCRIPTOR if transport.fileno() == -1 else transport.doWrite()
        data = b"".join(transport._tempDataBuffer)
        try:
            sent = transport.socket.send(data)
        except OSError as error:
            if error.args[0] in _TRY_AGAIN:
                return transport.doWrite()
            return _NO_DESCRIPTOR if transport.fileno() == -1 else CONNECTION_LOST
        transport._tempDataBuffer = []
        transport._tempDataLen = 0
        if sent < size:
            transport.dataBuffer = data
            transport.offset = sent
        else:
            del self._pending[transport]
        return None

    def _what_ends(self, writer: Any, why: Any) -> tuple[Any, bool]:
        """Return what ends a descriptor whose write failed, and whether that was found in reading.

        What the peer sent before it went is read first. An end that is found then is the truth,
        but for TCP: there the write took the news of a reset away, and leaves a mere end to read.
        """
        if writer.fileno() not in self._reads:
            return why, False
        end = writer.doRead()
        if writer not in self._pending:
            return None, False  # the application has closed it meanwhile
        family = getattr(getattr(writer, "socket", None), "family", None)
        if end and family not in (socket.AF_INET, socket.AF_INET6):
            return end, True
        return why, False

    def _disconnect(self, selectable: Any, why: Any, is_read: bool) -> None:
        # What `connectionLost` raises is logged, and harms nobody else.
        log.callWithLogger(selectable, self._disconnectSelectable, selectable, why, is_read)


class _LogContext(dict[str, Any]):
    """What `twisted.python.log` adds to every line: here, who is served at the moment.

    Twisted looks it up when something is logged, and copies it.
    """

    selectable: Any = None

    def __init__(self) -> None:
        super().__init__(system="-")

    def __getitem__(self, key: str) -> Any:
        return self.copy()[key]

    def copy(self) -> dict[str, Any]:
        """Return the context as it is now: a thread that began with it has nobody to serve."""
        copied = dict(self)
        if self.selectable is not None and threadable.isInIOThread():
            try:
                copied["system"] = self.selectable.logPrefix()
            except Exception:  # noqa: BLE001 - a line is being logged: it says what Twisted would say
                copied["system"] = "(buggy logPrefix method)"
        return copied


def install() -> None:
    """Install the corked reactor as `twisted.internet.reactor`.

    Where the system has no epoll, a warning is logged and Twisted's default reactor installed.

    Raises `twisted.internet.error.ReactorAlreadyInstalledError` when there is a reactor already.
    """
    try:
        reactor = CorkedReactor()
    except ImportError as error:
        _log.warn("No corked reactor, but Twisted's default one: {error}", error=error)
        from twisted.internet import default

        default.install()
        return
    installReactor(reactor)
