"""What every handshake that opens a tunnel has in common, whichever language the proxy speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from wsframe.errors import ProxyError

__all__ = ["Step", "TunnelHandshake"]


@dataclass(frozen=True)
class Step:
    """What follows from some of the proxy's bytes.

    `send` is what to send to the proxy now, possibly nothing. `leftover` is None until the tunnel
    is open, and then the bytes that already came through it: they belong to the protocol inside
    and were not looked at. `send` goes out first where there are both. `detail` is then how the
    proxy agreed, such as "HTTP 200, Basic", without a secret. `reconnect` says that the handshake
    goes on with `request`, on a new connection.

    `work`, where it is not None, is all that there is to do: it may block, so it is called off the
    reactor, and what it returns is called on the reactor for the step that follows; that one may
    raise as `receive` does. In between, nothing is given to the handshake. Neither is called when
    the handshake is given up.

    `repr()` shows no bytes: the ones may hold credentials, the others are nobody's business.
    """

    send: bytes = field(default=b"", repr=False)
    leftover: bytes | None = field(default=None, repr=False)
    reconnect: bool = field(default=False, repr=False)
    detail: str = field(default="", repr=False, compare=False)
    work: Callable[[], Callable[[], Step]] | None = field(default=None, repr=False)


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

    def refusal(self) -> ProxyError | None:
        """Return the refusal that has begun to come and is clear already, None for none."""
        ...
