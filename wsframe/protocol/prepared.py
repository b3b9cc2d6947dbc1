"""Autobahn's prepared messages: one frame, and one compression, that a server sends to many.

The application calls for each connection, so nobody knows beforehand how many there will be. When
a message has gone to `MANY` it is taken for one to all, and where it is the only such message of
its turn, it goes on straight to the kernel: that takes half the work. Where several come in a turn,
they share a call, and a packet, at its end.
"""

from __future__ import annotations

from typing import Any, Final

from autobahn.websocket.protocol import PreparedMessage, WebSocketProtocol
from twisted.internet.interfaces import IReactorTime

from wsframe.protocol.base import Base
from wsframe.protocol.deflate import MessageDeflate
from wsframe.protocol.shared import SharedMessage
from wsframe.protocol.tcp import send_at_once, write

__all__ = ["Prepared", "SendingPrepared", "Turns"]

_HEADS: Final = {126: 4, 127: 10}
"""Bytes of a head without a mask, by its second byte."""

MANY: Final = 32
"""Connections after which a message is taken for one to all."""


class Turns:
    """Whether messages to many come one in a turn of the reactor, or several."""

    __slots__ = ("_alone", "_begun", "_reactor")

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._alone = True
        self._begun = 0

    def begin(self) -> bool:
        """Note another one; return whether it is the only one of a turn, as far as can be told."""
        self._begun += 1
        if self._begun == 1:
            self._reactor.callLater(0, self._end)
        return self._begun == 1 and self._alone

    def _end(self) -> None:
        self._alone = self._begun == 1
        self._begun = 0


class Prepared(PreparedMessage):
    """A server's prepared message."""

    def __init__(
        self, payload: bytes, is_binary: bool, do_not_compress: bool, turns: Turns
    ) -> None:
        super().__init__(payload, is_binary, False, do_not_compress)
        self.shared = SharedMessage(payload, is_binary)
        self.shared.frame = self.payloadHybi
        self._turns = turns
        self._sent = 0

    def goes_at_once(self) -> bool:
        """Note that it is sent once more; return whether it goes straight to the kernel."""
        self._sent += 1
        if self._sent == MANY:
            self.shared.at_once = self._turns.begin()
        return self.shared.at_once


class SendingPrepared(Base):
    """The part of a protocol that sends what was prepared."""

    def sendPreparedMessage(self, preparedMsg: PreparedMessage) -> None:
        """Autobahn: send a message that was prepared; where the WebSocket is not open, nothing.

        A server's, compressed, refers to nothing before it, and is the same for all that compress
        alike.
        """
        if self.state != WebSocketProtocol.STATE_OPEN:
            return  # stock Autobahn sends it behind the Close frame, which §5.5.1 forbids
        compress = self._perMessageCompress
        if (
            type(preparedMsg) is not Prepared
            or self.blocked
            or self.tap is not None
            or self.send_queue
            or self._discarding
        ):
            super().sendPreparedMessage(preparedMsg)  # type: ignore[misc]
            return
        frame: bytes = preparedMsg.payloadHybi
        if compress is not None and not preparedMsg.doNotCompress:
            this: Any = self
            shared = preparedMsg.shared
            if (
                type(compress) is not MessageDeflate
                or self.autoFragmentSize
                or self.maskServerFrames
                or shared.size < self.factory.compress_from
            ):
                this.sendMessage(preparedMsg.payload, preparedMsg.binary)
                return
            frame = shared.compressed_for(compress)
            stats = self.trafficStats
            stats.outgoingWebSocketMessages += 1
            stats.outgoingWebSocketFrames += 1
            stats.outgoingOctetsAppLevel += shared.size
            stats.outgoingOctetsWebSocketLevel += len(frame) - _HEADS.get(frame[1], 2)
        if not (preparedMsg.goes_at_once() and send_at_once(self.transport, frame)):
            write(self.transport, frame)
