"""What is asked of the socket below a transport: no delay, probes, how much is read and unsent."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from functools import cache
from typing import Any, Final
from weakref import WeakKeyDictionary

from twisted.internet.abstract import FileDescriptor
from twisted.internet.tcp import Client, Server
from twisted.protocols.policies import ProtocolWrapper

from wsframe.options import ConnectionOptions
from wsframe.protocol.attributes import share_names

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ
else:  # pragma: no cover - elsewhere nothing is asked
    TIOCOUTQ = None

__all__ = [
    "Gone",
    "is_reading",
    "keep_memory",
    "read_large",
    "send_at_once",
    "send_large",
    "set_no_delay",
    "set_tcp_options",
    "share_transport_names",
    "socket_below",
    "unsent_bytes",
    "write",
]

LARGE_READ: Final = 260 * 1024
"""Bytes read at a time from a peer that sends large frames. With the 64 KiB of Twisted a frame of
64 KiB takes two reads. The 4 KiB are for heads: a frame's last bytes shall not take one more."""

LARGEST_READ: Final = 1028 * 1024
"""The same when frames are larger than that: 1 MiB, what a message has at most by default."""

LARGE_SEND: Final = 1028 * 1024
"""Bytes given to the kernel at a time when messages are large. With the 128 KiB of Twisted one of
1 MiB takes nine calls and, where its reactor or ours asks epoll between them, eight more."""

KEPT: Final = 16 * 1024 * 1024
"""Bytes at the end of the heap that are not given back to the system when messages are large."""

# macOS has another name for it, and Windows may have none.
_IDLE: Final = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_INTERVAL: Final = getattr(socket, "TCP_KEEPINTVL", None)
_COUNT: Final = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


_TRANSPORT_NAMES: Final = (
    *("reactor", "_tempDataBuffer", "_tempDataLen", "socket", "fileno", "protocol", "server"),
    *("client", "sessionno", "hostname", "logstr", "repstr", "connected", "producer"),
    *("streamingProducer", "dataBuffer", "offset", "producerPaused", "disconnecting"),
    *("disconnected", "_addressType", "bufferSize"),
)


def _below(transport: object) -> object:
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def socket_below(transport: object) -> socket.socket | None:
    """Return the socket below a transport, through all layers of TLS; None where there is none."""
    transport = _below(transport)
    # Not getHandle: once TLS was started on a transport, that is OpenSSL's object.
    found = getattr(transport, "socket", None)
    return found if isinstance(found, socket.socket) else None


def share_transport_names(transport: object) -> None:
    """Have the transports of Twisted's servers share one table for what they set when they write.

    They begin to when many have been accepted, and then each has a table of its own.
    """
    if type(_below(transport)) is Server:
        share_names(Server, _TRANSPORT_NAMES)


def set_no_delay(transport: object) -> None:
    """Have small messages sent at once (TCP_NODELAY), where the transport is TCP."""
    set_it = getattr(transport, "setTcpNoDelay", None)
    if set_it is not None:
        with contextlib.suppress(OSError):  # a Unix socket, or a peer that has left already
            set_it(True)


Wanted = tuple[tuple[int, int, int], ...]
"""Level, name and value of socket options."""


def _wanted(options: ConnectionOptions, no_delay: bool) -> Wanted:
    keepalive = options.tcp_keepalive
    wanted: list[tuple[int, int | None, float]] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
    ]
    if keepalive is not None:
        wanted += [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, _IDLE, max(1, keepalive.idle)),
            (socket.IPPROTO_TCP, _INTERVAL, max(1, keepalive.interval)),
            (socket.IPPROTO_TCP, _COUNT, max(1, keepalive.count)),
        ]
    if options.write_timeout is not None:
        # This deadline also takes the place of the count of probes: not earlier than they end.
        longest = max(options.write_timeout, keepalive.longest if keepalive is not None else 0)
        milliseconds = min(max(longest * 1000, 1), 0x7FFFFFFF)
        wanted.append((socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds))
    return tuple((level, name, int(value)) for level, name, value in wanted if name is not None)


def _set_all(tcp: socket.socket, wanted: Wanted) -> None:
    for level, name, value in wanted:
        with contextlib.suppress(OSError):  # such as a peer that has left already
            tcp.setsockopt(level, name, value)


_inherited: Final[WeakKeyDictionary[object, tuple[ConnectionOptions, Wanted]]] = WeakKeyDictionary()
"""What was set on the listening sockets, so that what they accept has it from the beginning."""


def set_tcp_options(transport: object, options: ConnectionOptions, *, no_delay: bool) -> None:
    """Set what the options say of TCP; a system that cannot is left as it is.

    For a server it is set on the listening socket, too, whence Linux gives it to those accepted
    later. One question to each then tells whether it has it: the last of the options, which are
    set in order, was set when all were. It has not when it came before they were set.
    """
    tcp = socket_below(transport)
    if tcp is None or tcp.family not in (socket.AF_INET, socket.AF_INET6):
        if no_delay:
            set_no_delay(transport)
        return
    port = getattr(_below(transport), "server", None)
    known = None if port is None else _inherited.get(port)
    if known is not None and known[0] is options and known[1][0][2] == no_delay:
        wanted = known[1]
        level, name, value = wanted[-1]
        with contextlib.suppress(OSError):
            if tcp.getsockopt(level, name) == value:
                return
    else:
        wanted = _wanted(options, no_delay)
        listening = getattr(port, "socket", None)
        if isinstance(listening, socket.socket) and (known is None or known[0] is not options):
            _set_all(listening, wanted)
            _inherited[port] = (options, wanted)
    _set_all(tcp, wanted)


@cache
def keep_memory() -> None:
    """Have the C library keep the memory of large messages for the next ones.

    By itself it gives each back to the system, which clears every page before it lends it again:
    for messages of 1 MiB that takes more time than all the rest. glibc learns from what is freed
    (mallopt(3), M_MMAP_THRESHOLD): it keeps twice the largest block. One is freed here; it is never
    touched, and so never had. Elsewhere this does nothing.
    """
    bytes(KEPT // 2)


def read_large(transport: object, length: int) -> None:
    """Have more read at a time from now on, through all layers of TLS, for frames of that length.

    Twisted has one attribute for that and for the bytes that wait until its transport is full: so
    that `send` waits above this, too.
    """
    lowest = _below(transport)
    if isinstance(lowest, FileDescriptor):
        keep_memory()
        size = LARGE_READ if length < LARGE_READ else LARGEST_READ
        lowest.bufferSize = max(lowest.bufferSize, size)


def send_large(transport: object) -> None:
    """Have more given to the kernel at a time from now on, through all layers of TLS."""
    lowest = _below(transport)
    if isinstance(lowest, FileDescriptor) and lowest.SEND_LIMIT < LARGE_SEND:
        keep_memory()
        lowest.SEND_LIMIT = LARGE_SEND


def send_at_once(transport: Any, data: bytes) -> bool:
    """Give bytes to the kernel, and what it does not take to the transport, without a next turn.

    Returns whether it could be: only for a TCP connection without TLS in which nothing waits.
    """
    if (
        type(transport) is not Server
        or transport.TLS
        or transport._tempDataBuffer
        or transport.dataBuffer
        or transport.disconnecting
        or not transport.connected
    ):
        return False
    try:
        taken = transport.socket.send(data)
    except OSError:  # full, or an end, which the transport finds out for itself
        taken = 0
    if taken != len(data):
        transport.write(data[taken:])
    return True


_PLAIN: Final = frozenset({Server, Client})


def write(transport: Any, data: bytes) -> None:
    """Write to a transport, as its `write` does.

    Twisted takes six calls for a message. For plain TCP that has room it takes one here, and what
    they amount to; all else is left to them.
    """
    if (
        type(transport) not in _PLAIN
        or transport.TLS
        or not transport.connected
        or transport._writeDisconnected
        or len(transport.dataBuffer) + transport._tempDataLen + len(data) > transport.bufferSize
    ):
        transport.write(data)
        return
    transport._tempDataBuffer.append(data)
    transport._tempDataLen += len(data)
    transport.reactor.addWriter(transport)


def is_reading(transport: object) -> bool:
    """Return whether something is read from a transport; True where that cannot be told."""
    lowest = _below(transport)
    return not isinstance(lowest, FileDescriptor) or lowest in lowest.reactor.getReaders()


class Gone:
    """Stands for a transport that is gone, while what it had in hand is still being taken.

    Nothing is done to it any more. What else it knows, such as its addresses, it still tells.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _nothing(self, *_: object) -> None:
        pass

    write = writeSequence = pauseProducing = resumeProducing = stopProducing = _nothing
    loseConnection = loseWriteConnection = abortConnection = _nothing
    registerProducer = unregisterProducer = _nothing


def unsent_bytes(transport: object) -> int | None:
    """Return the bytes that the peer has not acknowledged yet; None where that is not told."""
    tcp = socket_below(transport)
    if tcp is None or TIOCOUTQ is None:
        return None
    try:
        return int(struct.unpack("i", ioctl(tcp, TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):  # the socket is gone
        return None
