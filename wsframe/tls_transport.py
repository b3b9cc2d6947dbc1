"""TLS transports: Twisted's, with fewer steps between the bytes of a message and OpenSSL.

`TLSFactory` is Twisted's `TLSMemoryBIOFactory`, and what it builds a `TLSMemoryBIOProtocol` with
all of its interfaces. The handshake, the alerts, the end of either direction, certificates, ALPN,
producers and every error are left to Twisted's own code. Replaced is what runs for each message
once the handshake is complete, and until an end begins:

- OpenSSL is called directly, on a buffer that all connections of a thread share. pyOpenSSL takes a
  new one of 32 KiB for every call, and Twisted asks it for data until an error says that there is
  none; here the bytes that are left are counted.
- What is written while data is delivered is encrypted when all of it was; what is written otherwise
  in the next turn, by one delayed call for all connections of a reactor. Twisted makes a delayed
  call for each, every time. As there, small writes are joined.
- The data of records that came together is delivered together, and records that are written
  together are given to the transport below as one.

OpenSSL's calls and a connection's pointers have no public names in pyOpenSSL, and some of Twisted's
steps none in Twisted. Whether all are there is looked at once for the classes, and for each
connection. Where one is missing, and where a connection is no plain `OpenSSL.SSL.Connection`,
Twisted's own code runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, ref

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IOpenSSLContextFactory,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from wsframe.clock import global_reactor

__all__ = ["TLSFactory", "TLSListener", "TLSTransport"]

_log: Final = Logger(namespace="wsframe.tls_transport")

_RECORD: Final = 16 * 1024
"""Bytes of data in a record at most (RFC 8446 §5.1)."""

_SEALED: Final = 5 * _RECORD
"""Bytes that are encrypted before they are given to the transport below: a message of 64 KiB with
its head. OpenSSL keeps that much memory for a connection that wrote as much."""

_BUFFER: Final = _SEALED + 5 * 512
"""Bytes of the buffer that is read into: as many with what encryption adds to each record, which
is 256 bytes at most in TLS 1.3 (RFC 8446 §5.2) and 325 before (RFC 5246 §6.2.3)."""

_JOINED: Final = 64_000
"""Bytes that are written until they are encrypted at once: as many as Twisted joins."""

_lib: Final[Any] = getattr(SSL, "_lib", None)
_ffi: Final[Any] = getattr(SSL, "_ffi", None)

_OF_OPENSSL: Final = ("BIO_get_mem_data", "BIO_read", "BIO_write", "SSL_read", "SSL_write")
_OF_PYOPENSSL: Final = ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error")
_OF_TWISTED: Final = (
    *("_bufferedWrite", "_flushReceiveBIO", "_handshakeDone", "_lostTLSConnection"),
    *("_shutdownTLS", "_tlsShutdownFinished", "_write"),
)

_is_known: Final = (
    _ffi is not None
    and all(hasattr(_lib, name) for name in _OF_OPENSSL)
    and all(hasattr(TLSMemoryBIOProtocol, name) for name in _OF_TWISTED)
)
"""Whether OpenSSL and Twisted have all that is used here."""


class _Buffer:
    """What OpenSSL reads into, before the bytes are Python's."""

    __slots__ = ("memory", "pointer", "view")

    def __init__(self) -> None:
        self.memory: Any = _ffi.new("char[]", _BUFFER)
        self.view: Any = _ffi.buffer(self.memory)
        self.pointer: Any = _ffi.new("char **")


class _Buffers(threading.local):
    """A buffer for each thread: OpenSSL's calls run without Python's lock.

    Within a thread one call ends before the next begins. What a callback of Python's does within
    one is over before any data is written here.
    """

    def __init__(self) -> None:
        self.mine = _Buffer()


_buffers: Final[Any] = _Buffers() if _is_known else None


class _Flushes:
    """What is to be encrypted in the next turn of a reactor, and the delayed call for it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock: Any = ref(clock)
        self._waiting: dict[_Lane, None] = {}
        self._call: IDelayedCall | None = None

    def add(self, lane: _Lane) -> None:
        self._waiting[lane] = None
        if self._call is None:
            self._call = self._clock().callLater(0, self._flush)

    def remove(self, lane: _Lane) -> None:
        self._waiting.pop(lane, None)
        if not self._waiting and self._call is not None:
            call, self._call = self._call, None
            call.cancel()

    def _flush(self) -> None:
        self._call = None
        waiting, self._waiting = self._waiting, {}
        for lane in waiting:
            try:
                lane.flush()
            except Exception:  # noqa: BLE001 - one transport's failure is none of the others'
                _log.failure("a TLS transport could not be written to")


_all_flushes: Final[WeakKeyDictionary[Any, _Flushes]] = WeakKeyDictionary()


def _flushes_of(clock: IReactorTime) -> _Flushes:
    found = _all_flushes.get(clock)
    if found is None:
        found = _all_flushes[clock] = _Flushes(clock)
    return found


class _Lane:
    """What a transport does for every message: it joins writes and, while open, calls OpenSSL.

    An object of its own, because each look at an attribute of a `TLSMemoryBIOProtocol` takes
    several times as long as here: its class has a `__getattr__`.
    """

    __slots__ = (
        *("_below", "_buffer", "_decrypting", "_encrypted", "_flushes", "_is_noted", "_size"),
        *("_tls", "_to_decrypt", "_written", "ssl"),
    )

    def __init__(self, tls: TLSTransport, flushes: _Flushes) -> None:
        self._tls: Any = tls
        self._flushes = flushes
        self._written: list[bytes] = []
        self._size = 0
        self._is_noted = False
        """Whether `flush` is called in the next turn."""
        self._decrypting = False
        """Whether it is called when all that was received is delivered."""
        self.ssl: Any = None
        """OpenSSL's connection while the lane is open; else all data takes Twisted's way."""

    def open(self) -> None:
        """Take the data over, if all is there that this takes."""
        connection = self._tls.getHandle()
        if type(connection) is SSL.Connection and all(
            hasattr(connection, name) for name in _OF_PYOPENSSL
        ):
            self.ssl = connection._ssl
            # These two are a part of it: who uses them holds it.
            self._to_decrypt, self._encrypted = connection._into_ssl, connection._from_ssl
            self._below: Any = self._tls.transport
            self._buffer: _Buffer = _buffers.mine

    def close(self) -> None:
        """Leave the data to Twisted."""
        self.ssl = self._to_decrypt = self._encrypted = self._below = None

    def end(self) -> None:
        """Forget everything: the connection is lost."""
        self.close()
        self._forget_written()
        self._tls = None

    # --- writing ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Twisted: write bytes; small ones go out together.

        Raises TypeError for what is not bytes.
        """
        if type(data) is not bytes:
            data = bytes(data + b"")  # as it is now, where it may change
        self._written.append(data)
        self._size += len(data)
        if self._size > _JOINED:
            self.flush()
        elif not (self._decrypting or self._is_noted):
            self._note()

    def _note(self) -> None:
        self._is_noted = True
        self._flushes.add(self)

    def _forget_written(self) -> None:
        self._written = []
        self._size = 0
        if self._is_noted:
            self._is_noted = False
            self._flushes.remove(self)

    def flush(self) -> None:
        """Encrypt what was written, and have it sent."""
        written = self._written
        if not written:
            return
        data = written[0] if len(written) == 1 else b"".join(written)
        self._forget_written()
        ssl = self.ssl
        if ssl is None:
            if self._tls is not None:
                TLSMemoryBIOProtocol.write(self._tls, data)
            return
        begin, end, unsent = 0, len(data), 0
        while begin < end:
            # A call encrypts one record, as pyOpenSSL sets its connections up.
            part = data[begin : begin + _RECORD]
            taken = _lib.SSL_write(ssl, part, len(part))
            if taken <= 0:
                self._not_written(ssl, taken, data[begin:])
                break
            begin += taken
            unsent += taken
            if unsent > _SEALED - _RECORD or begin == end:
                unsent = 0
                self._send()
                if self.ssl is None:  # a producer that was paused has closed
                    self._tls._write(data[begin:])
                    break

    def _send(self) -> None:
        """Send what OpenSSL has encrypted."""
        memory, view = self._buffer.memory, self._buffer.view
        encrypted, below = self._encrypted, self._below
        while (read := _lib.BIO_read(encrypted, memory, _BUFFER)) > 0:
            below.write(view[:read])
            if read < _BUFFER:
                break

    def _not_written(self, ssl: Any, result: int, data: bytes) -> None:
        """Do what Twisted does: keep the data where something is to be read first, or end."""
        tls = self._tls
        self.close()
        try:
            tls.getHandle()._raise_ssl_error(ssl, result)
        except SSL.WantReadError:
            tls._bufferedWrite(data)
        except SSL.Error:
            tls._tlsShutdownFinished(Failure())

    # --- reading ----------------------------------------------------------------------------------

    def decrypt(self, data: bytes) -> None:
        """Deliver what comes of data that was received."""
        tls, ssl, encrypted = self._tls, self.ssl, self._to_decrypt
        memory, view, pointer = self._buffer.memory, self._buffer.view, self._buffer.pointer
        if _lib.BIO_write(encrypted, data, len(data)) != len(data):
            raise MemoryError
        self._decrypting = True
        try:
            filled = 0
            while True:
                into = memory + filled if filled else memory
                read = _lib.SSL_read(ssl, into, _BUFFER - filled)
                if read <= 0:
                    self._not_read(ssl, read, view[:filled])
                    break
                filled += read
                # A record always fits, so that nothing of this one is left.
                left = _lib.BIO_get_mem_data(encrypted, pointer)
                if left and filled <= _BUFFER - _RECORD:
                    continue
                received, filled = view[:filled], 0
                tls.wrappedProtocol.dataReceived(received)
                if self.ssl is None:  # it is closing, or lost
                    tls._flushReceiveBIO()
                    break
                if not left:
                    break
        except BaseException:
            if self._written and not self._is_noted:
                self._note()
            raise
        finally:
            self._decrypting = False
        if self._written:
            self.flush()
        elif self.ssl is not None:
            self._send()  # what was read may have an answer of its own, such as to new keys

    def _not_read(self, ssl: Any, result: int, received: bytes) -> None:
        """Deliver what was read before; then do what Twisted does: wait, answer an alert, or end.

        What is wrong is asked first: the answer is gone when OpenSSL is called again.
        """
        tls = self._tls
        wrong: Failure | None = None
        closes = False
        try:
            tls.getHandle()._raise_ssl_error(ssl, result)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            closes = True
        except SSL.Error:
            wrong = Failure()
            self.close()
            tls._lostTLSConnection = True  # no use in writing
        if received:
            tls.wrappedProtocol.dataReceived(received)
        if closes and not tls._lostTLSConnection:
            self.flush()
            self.close()
            tls._shutdownTLS()
            tls._tlsShutdownFinished(None)
        elif wrong is not None and tls.connected:
            tls._tlsShutdownFinished(wrong)


class TLSTransport(TLSMemoryBIOProtocol):
    """Twisted's `TLSMemoryBIOProtocol`, which joins small writes; see the module."""

    def __init__(
        self,
        factory: TLSMemoryBIOFactory,
        wrappedProtocol: IProtocol,
        _connectWrapped: bool = True,
    ) -> None:
        super().__init__(factory, wrappedProtocol, _connectWrapped)
        clock = getattr(factory, "_clock", None) or global_reactor()
        self._lane = _Lane(self, _flushes_of(clock))
        self.write = self._lane.write  # type: ignore[method-assign]

    def dataReceived(self, data: bytes) -> None:
        """Twisted: decrypt, and deliver what comes of it."""
        lane = self._lane
        if lane.ssl is not None:
            lane.decrypt(data)
            return
        super().dataReceived(data)
        if (
            self._handshakeDone
            and not (self.disconnecting or self._lostTLSConnection)
            and not self._appSendBuffer
        ):
            lane.open()

    def writeSequence(self, sequence: Iterable[bytes]) -> None:
        """Twisted: write several."""
        self.write(b"".join(sequence))

    def loseConnection(self) -> None:
        """Twisted: send what was written, then the alert."""
        self._lane.flush()
        self._lane.close()
        super().loseConnection()

    def abortConnection(self) -> None:
        """Twisted: end at once; nothing more is delivered."""
        self._lane.close()
        super().abortConnection()

    def unregisterProducer(self) -> None:
        """Twisted: forget the producer. What it wrote comes before an end that waited for it."""
        self._lane.flush()
        super().unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: hand out what has come, and tell the application."""
        self._lane.flush()
        self._lane.close()
        super().connectionLost(reason)
        self._lane.end()


class TLSFactory(TLSMemoryBIOFactory):
    """Twisted's `TLSMemoryBIOFactory`, of `TLSTransport`."""

    protocol = TLSTransport if _is_known else TLSMemoryBIOFactory.protocol


class TLSListener:
    """A reactor for an endpoint that listens: `listenSSL` makes our transports, all else is its."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: IOpenSSLContextFactory,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Twisted: listen for TLS."""
        encrypted = TLSFactory(contextFactory, False, factory, clock=self._reactor)
        listening: Any = self._reactor.listenTCP(port, encrypted, backlog, interface)
        listening._type = "TLS"  # what its lines in the log say
        return cast(IListeningPort, listening)
