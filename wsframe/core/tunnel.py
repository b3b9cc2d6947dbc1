"""What every handshake that opens a tunnel has in common, whichever language the proxy speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Step", "TunnelHandshake"]


@dataclass(frozen=True)
class Step:
    """What follows from some of the proxy's bytes.

    `send` is what to send to the proxy now, possibly nothing. `leftover` is None until the tunnel
    is open, and then the bytes that already came through it: they belong to the protocol inside
    and were not looked at. `send` goes out first where there are both. `detail` is then how the
    proxy agreed, such as "HTTP 200, Basic", without a secret.

    `repr()` shows neither: the one may hold credentials, the other is nobody's business.
    """

    send: bytes = field(default=b"", repr=False)
    leftover: bytes | None = field(default=None, repr=False)
    reconnect: bool = field(default=False, repr=False)
    detail: str = field(default="", repr=False, compare=False)


class TunnelHandshake(Protocol):
    """A handshake with one proxy for one tunnel, as bytes in and bytes out.

    Send `request`, which is never empty, as soon as the proxy is connected. Give what it answers
    to `receive`, however it is cut, and `b""` when the connection ends; do what the `Step` says.
    After a step with a `leftover`, and after an error, the handshake is over and is not asked
    again. It has no clock: a proxy that stays silent is the caller's to give up.

    `receive` raises `ProxyError` of the fitting kind, and nothing else.
    """

    @property
    def request(self) -> bytes:
        """The first bytes to send."""
        ...

    def receive(self, data: bytes) -> Step:
        """Take the proxy's bytes in (`b""`: the end); return what follows from them."""
        ...
