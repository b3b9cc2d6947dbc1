"""How a connection ends: the closing handshake, `linger`, or `abort`; one timer bounds them all."""

from __future__ import annotations

from typing import Any, Final, cast

from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.interfaces import ISSLTransport
from twisted.logger import Logger

from wsframe.core import frames
from wsframe.core.closing import check_close, is_valid_code, truncate_reason
from wsframe.errors import OpenTimeout, Side
from wsframe.protocol.base import Base

__all__ = ["NOT_UTF8", "Ending"]

NOT_UTF8: Final = "the text is not UTF-8"
"""The reason of a Close frame with 1007."""

_log: Final = Logger(namespace="wsframe.protocol")


class Ending(Base):
    """The part of a protocol that ends the connection."""

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        """Autobahn: fail the connection (§7.1.7): tell the peer why, then read nothing more."""
        if self.failedByMe or self.state == WebSocketProtocol.STATE_CLOSED:
            return
        self.failedByMe = True
        cast(Any, self).wasNotCleanReason = reason
        _log.info(
            "Failing the connection of {peer!r} with {code}: {reason!r}",
            peer=self.peer,
            code=code,
            reason=reason,
        )
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendCloseFrame(code, truncate_reason(reason))
        self.linger()

    def _protocol_violation(self, reason: str) -> bool:
        self._fail_connection(1002, reason)
        return True  # Autobahn: parse no further

    def _invalid_payload(self, reason: str) -> bool:
        # Whichever parser found it, and wherever, the peer is told the same.
        self._fail_connection(1007, NOT_UTF8 if "UTF-8" in reason else reason)
        return True

    def onOpenHandshakeTimeout(self) -> None:
        """Autobahn: the opening handshake took longer than `openHandshakeTimeout` seconds."""
        if self.state == WebSocketProtocol.STATE_CONNECTING:
            text = "the opening handshake was not finished in time"
            self.open_error = OpenTimeout(text, phase="handshake")
            cast(Any, self).wasOpenHandshakeTimeout = True
            cast(Any, self).wasNotCleanReason = text
            self.dropConnection(abort=True)

    def sendClose(self, code: int | None = None, reason: str | None = None) -> None:
        """Autobahn: begin the closing handshake; Autobahn's own refuses 1001 to 2999.

        A reason that is too long is cut off, as Autobahn does it.
        """
        if code is None and reason is not None:
            raise ValueError("a close reason needs a close code")
        encoded = truncate_reason(reason or "")
        if code is not None:
            check_close(code, encoded.decode())
        self.start_close(code, encoded)

    def start_close(self, code: int | None, reason: bytes) -> None:
        """Begin the closing handshake, with any code that a frame may carry."""
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.sendCloseFrame(code, reason)
            self.resume_reading()

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Autobahn: send a Close frame. From then on one timer bounds everything that follows."""
        this = cast(Any, self)
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        reason = reasonUtf8 or b""
        self.sendFrame(frames.CLOSE, (b"" if code is None else code.to_bytes(2)) + reason)
        self.state = WebSocketProtocol.STATE_CLOSING
        this.closedByMe = not isReply
        this.localCloseCode, this.localCloseReason = code, reasonUtf8
        self.closing.begin("local", code, reason.decode())
        self._stop_keepalive()
        self._arm_abort()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        """Autobahn: a Close frame came. Whatever follows it is not looked at (§5.5.1)."""
        this = cast(Any, self)
        if code is not None and not is_valid_code(code):
            return self._protocol_violation(f"invalid close code {code}")
        try:
            reason = (reasonRaw or b"").decode()
        except UnicodeDecodeError:
            return self._invalid_payload("the close reason is not UTF-8")
        this.remoteCloseCode, this.remoteCloseReason = code, reason
        self.closing.begin("remote", code, reason)
        if self.state == WebSocketProtocol.STATE_OPEN:
            echoed = reasonRaw if this.echoCloseCodeReason else None
            self.sendCloseFrame(code, echoed, isReply=True)
        this.wasClean = self.closing.clean
        self.resume_reading()  # or the end of TCP would not be seen
        self._discarding = True
        self.drop_rest()
        if self.factory.isServer:
            # The server ends TCP first (§7.1.1), so that its side holds the TIME_WAIT.
            self.transport.unregisterProducer()
            self.write_waiting()
            self.transport.loseConnection()
        return True

    def linger(self) -> None:
        """Read no more, let the last bytes go out, and end TCP: politely, then by the deadline.

        Where it can be, only our direction is closed and what still comes in is thrown away:
        closing a socket with unread bytes would reset it, and the peer might never see why.
        """
        self._stop_keepalive()
        self.resume_reading()
        self._discarding = True
        self.drop_rest()
        self.transport.unregisterProducer()
        self.write_waiting()
        secure = ISSLTransport.providedBy(self.transport)
        if hasattr(self.transport, "loseWriteConnection") and not secure:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()
        self._arm_abort()

    def dropConnection(self, abort: bool = False) -> None:
        """Autobahn: end TCP without a closing handshake."""
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return
        cast(Any, self).droppedByMe = True
        self.tell_closed()
        self._stop_keepalive()
        if abort:
            self.abort("local", cast(Any, self).wasNotCleanReason or "dropped")
        else:
            self.linger()

    def abort(self, by: Side, reason: str) -> None:
        """End TCP at once; what waits to be sent is lost."""
        self.closing.lose(by, reason)
        self._discarding = True
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.state = WebSocketProtocol.STATE_CLOSING  # whatever is sent would not go out
            self._stop_keepalive()
        self.drop_rest()
        self.drop_waiting()
        self.transport.unregisterProducer()
        abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
        abort()

    def _arm_abort(self) -> None:
        if self._abort_call is None:
            self._abort_call = self.factory.deadlines.call_later(
                self.closeHandshakeTimeout or self.options.close_timeout, self._close_timed_out
            )

    def _close_timed_out(self) -> None:
        self._abort_call = None
        cast(Any, self).wasClean = False
        cast(Any, self).wasCloseHandshakeTimeout = True
        self.abort("local", "the closing handshake was not finished in time")
