"""What is asked of the socket below a transport: no delay, probes, how much is read and unsent."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Final

from twisted.internet.abstract import FileDescriptor
from twisted.protocols.policies import ProtocolWrapper

from wsframe.options import ConnectionOptions

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ
else:  # pragma: no cover - elsewhere nothing is asked
    TIOCOUTQ = None

__all__ = ["read_large", "set_keepalive", "set_no_delay", "socket_below", "unsent_bytes"]

LARGE_READ: Final = 256 * 1024
"""Bytes read at a time from a peer that sends large frames. With the 64 KiB of Twisted a frame of
64 KiB takes two reads, and one of 1 MiB takes half as much time again."""

# macOS has another name for it, and Windows may have none.
_IDLE: Final = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_INTERVAL: Final = getattr(socket, "TCP_KEEPINTVL", None)
_COUNT: Final = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


def socket_below(transport: object) -> socket.socket | None:
    """Return the socket below a transport, through all layers of TLS; None where there is none."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    # Not getHandle: once TLS was started on a transport, that is OpenSSL's object.
    found = getattr(transport, "socket", None)
    return found if isinstance(found, socket.socket) else None


def set_no_delay(transport: object) -> None:
    """Have small messages sent at once (TCP_NODELAY), where the transport is TCP."""
    set_it = getattr(transport, "setTcpNoDelay", None)
    if set_it is not None:
        with contextlib.suppress(OSError):  # a Unix socket, or a peer that has left already
            set_it(True)


def set_keepalive(transport: object, options: ConnectionOptions) -> None:
    """Set what the options say of TCP; a system that cannot is left as it is."""
    tcp = socket_below(transport)
    if tcp is None or tcp.family not in (socket.AF_INET, socket.AF_INET6):
        return
    keepalive = options.tcp_keepalive
    wanted: list[tuple[int, int | None, float]] = []
    if keepalive is not None:
        wanted = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, _IDLE, keepalive.idle),
            (socket.IPPROTO_TCP, _INTERVAL, keepalive.interval),
            (socket.IPPROTO_TCP, _COUNT, keepalive.count),
        ]
    if options.write_timeout is not None:
        # This deadline also takes the place of the count of probes: not earlier than they end.
        longest = max(options.write_timeout, keepalive.longest if keepalive is not None else 0)
        wanted.append((socket.IPPROTO_TCP, _USER_TIMEOUT, min(longest * 1000, 0x7FFFFFFF)))
    for level, name, value in wanted:
        if name is not None:
            with contextlib.suppress(OSError):  # such as a peer that has left already
                tcp.setsockopt(level, name, max(1, int(value)))


def read_large(transport: object) -> None:
    """Have more read at a time from now on, through all layers of TLS.

    Twisted has one attribute for that and for the bytes that wait until its transport is full: so
    that `send` waits above this, too.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    if isinstance(transport, FileDescriptor):
        transport.bufferSize = LARGE_READ


def unsent_bytes(transport: object) -> int | None:
    """Return the bytes that the peer has not acknowledged yet; None where that is not told."""
    tcp = socket_below(transport)
    if tcp is None or TIOCOUTQ is None:
        return None
    try:
        return int(struct.unpack("i", ioctl(tcp, TIOCOUTQ, bytes(4)))[0])
    except (OSError, ValueError):  # the socket is gone
        return None
