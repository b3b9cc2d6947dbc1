"""`Tap`: what one connection tells a trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from wsframe.core.http import Request
from wsframe.core.redaction import Redaction
from wsframe.core.trace import Capture, End, Record, Role, Start
from wsframe.errors import ConnectionClosed

if TYPE_CHECKING:
    from wsframe.trace import Trace

__all__ = ["Tap"]


class Tap:
    """What one connection tells a trace: its bytes as they are sent and received, and its end."""

    __slots__ = ("_capture", "_number", "_redaction", "_role", "trace")

    def __init__(self, trace: Trace, number: int, role: Role, secure: bool) -> None:
        self.trace: Final = trace
        self._number: Final = number
        self._role: Final = role
        self._redaction: Final = Redaction()
        self._capture: Final = Capture(
            role, secure=secure, frames=trace.frames, max_payload=trace.max_payload
        )

    def learn(self, request: Request) -> None:
        """Take the request of a WebSocket that is open: what was secret in it stays so."""
        self._redaction.learn_request(request.target, request.headers.pairs)

    def begin(self, peer: str) -> None:
        """Take the beginning of a connection of which all bytes will follow."""
        self._tell([Start(time.time(), self._role, peer, is_open=False)])

    def join(self, peer: str, *, sent_left: int | None, received_left: int | None) -> None:
        """Take a WebSocket that is open; the arguments are those of `Capture.join`."""
        self._capture.join(sent_left=sent_left, received_left=received_left)
        self._tell([Start(time.time(), self._role, peer, is_open=True)])

    def sent(self, data: bytes) -> None:
        """Take bytes that were given to the transport."""
        if self.trace.active:
            self._tell(self._capture.sent(data, time.time()))

    def received(self, data: bytes) -> None:
        """Take bytes that came from the transport."""
        if self.trace.active:
            self._tell(self._capture.received(data, time.time()))

    def ended(self, outcome: ConnectionClosed) -> None:
        """Take the end of the connection."""
        now = time.time()
        end = End(now, outcome.code, outcome.reason, outcome.by, outcome.clean)
        self._tell([*self._capture.ended(now), end])

    def _tell(self, records: list[Record]) -> None:
        if records and self.trace.active:
            self.trace.write(self._number, self._redaction, records)
