"""Read the answer to a CONNECT or to an opening handshake, on h11, within limits.

h11 knows what is hard about it: interim answers (1xx) are skipped, a body is framed by its length,
its chunks or the end of the connection, and the bytes behind an answer that switches protocols are
kept apart, untouched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import h11

from wsframe.core.http import BadAnswer, Headers, check_reason
from wsframe.errors import InvalidHeader

__all__ = ["Answer", "AnswerReader", "BadAnswer"]

MAX_INTERIM: Final = 16
"""Interim answers (1xx) before the final one; real servers send one or two."""


@dataclass(frozen=True)
class Answer:
    """A complete answer. `trailing` is what followed an answer that switched protocols.

    `reusable` says that the answer was read to its end, that the other side keeps the connection,
    and that nothing followed: another request can be sent on it.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes = field(default=b"", repr=False)
    trailing: bytes = field(default=b"", repr=False)
    switched: bool = False
    reusable: bool = False


class AnswerReader:
    """Collect the bytes of one answer.

    `tunnel` says what was asked for: True a CONNECT, which any 2xx grants (RFC 9110 §9.3.6), False
    an upgrade, which 101 grants. `receive(data)` returns the `Answer` when it is complete and None
    before; `b""` says that the connection ended. A head has at most `max_head` bytes. The body is
    kept up to `max_body` bytes: a longer one counts as complete there, and so does one that breaks
    off. What comes out depends on the bytes alone, not on how they were cut.

    Raises `BadAnswer`.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_ended",
        "_held",
        "_interim",
        "_max_body",
        "_max_head",
        "_response",
    )

    def __init__(self, *, tunnel: bool, max_head: int, max_body: int) -> None:
        # h11 looks at its limit only while a head is incomplete; see _advance for the other half.
        self._connection: Final = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_head - 1)
        self._max_head = max_head
        self._max_body = max_body
        self._held = 0
        self._ended = False
        self._interim = 0
        self._response: tuple[int, str, Headers] | None = None
        self._body = bytearray()
        # h11 reads an answer in the light of the request. Ours is written elsewhere, with full
        # control over its bytes; this one tells h11 only what kind it was, and is thrown away.
        if tunnel:
            request = h11.Request(method="CONNECT", target="x:1", headers=[("Host", "x:1")])
        else:
            upgrade = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
            request = h11.Request(method="GET", target="/", headers=upgrade)
        self._connection.send(request)
        self._connection.send(h11.EndOfMessage())

    def receive(self, data: bytes) -> Answer | None:
        """Take bytes in (`b""`: the end); return the answer when it is complete."""
        fault = ""
        self._ended = not data
        try:
            return self._advance(data)
        except h11.RemoteProtocolError as error:
            if self._response is None:
                fault = "the head is too large" if error.error_status_hint == 431 else _cause(error)
        except InvalidHeader as error:
            fault = str(error)
        # Outside of the handlers: h11's own errors quote the answer, which may hold secrets.
        if fault and data:
            raise BadAnswer(fault)
        # Where the head is good, a body that is not ends here.
        return self._answer()

    def so_far(self) -> Answer | None:
        """Return the answer without what is missing of its body, None before the end of its head.

        It is not to be asked after the answer was complete.
        """
        return None if self._response is None else self._answer()

    @property
    def endless(self) -> bool:
        """Whether the head is there, and nothing but the end of the connection ends the body."""
        if self._response is None:
            return False
        headers = self._response[2]
        return "content-length" not in headers and "transfer-encoding" not in headers

    def _advance(self, data: bytes) -> Answer | None:
        # h11 is never given more than it may hold. In one piece with its end, it would accept a
        # head of any size.
        position = 0
        while True:
            if self._held >= self._max_head:
                self._held = len(self._connection.trailing_data[0])
            part = data[position : position + self._max_head - self._held]
            position += len(part)
            self._held += len(part)
            self._connection.receive_data(part)
            while (event := self._connection.next_event()) is not h11.NEED_DATA:
                if self._take(event):
                    return self._answer(data[position:])
            if position >= len(data):
                return None

    def _take(self, event: h11.Event | type[h11.NEED_DATA | h11.PAUSED]) -> bool:
        """Note one event of h11's; return whether the answer is complete."""
        if isinstance(event, h11.InformationalResponse | h11.Response):
            return self._take_head(event)
        if isinstance(event, h11.Data):
            self._body += event.data[: self._max_body - len(self._body)]
            return len(self._body) >= self._max_body
        return True

    def _take_head(self, event: h11.InformationalResponse | h11.Response) -> bool:
        reason = check_reason(event.reason.decode("latin-1"))
        pairs = event.headers.raw_items()
        headers = Headers(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs
        )
        switched = self._connection.their_state is h11.SWITCHED_PROTOCOL
        if isinstance(event, h11.InformationalResponse) and not switched:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise BadAnswer("too many interim answers")
            return False
        self._response = event.status_code, reason, headers
        return switched

    def _answer(self, unread: bytes = b"") -> Answer:
        if self._response is None:
            raise BadAnswer("the connection ended before the answer was complete")
        status, reason, headers = self._response
        switched = self._connection.their_state is h11.SWITCHED_PROTOCOL
        rest = self._connection.trailing_data[0] + unread
        trailing = rest if switched else b""
        # h11 knows no difference between a body that ends with the connection and any other.
        kept = self._connection.their_state is h11.DONE and not self._ended
        reusable = kept and not rest
        return Answer(status, reason, headers, bytes(self._body), trailing, switched, reusable)


def _cause(error: h11.RemoteProtocolError) -> str:
    """Return what h11 found wrong, without the bytes that it found to be so."""
    return str(error).partition(":")[0]
