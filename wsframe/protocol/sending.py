"""Bytes out: frames, masks, and what waits while the transport takes no more."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, cast

from autobahn.exception import Disconnected
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from wsframe.core import frames
from wsframe.core.frames import message_head
from wsframe.protocol.base import Base
from wsframe.protocol.deflate import compress_message
from wsframe.protocol.masking import apply_mask, mask_key
from wsframe.protocol.tcp import send_large, write

__all__ = ["Outgoing", "Sending"]

LARGE: Final = 4096
"""Bytes of a payload from which it is not copied to stand behind its head: the transport joins
what it is given once more in any case."""

SLICE: Final = 128 * 1024
"""Bytes given to the transport at a time: what Twisted gives to the kernel at a time."""


@implementer(IPushProducer)
class Outgoing:
    """The transport's view of us: it says when its buffer is full, and when it is empty again."""

    __slots__ = ("protocol",)

    def __init__(self, protocol: Sending) -> None:
        self.protocol = protocol

    def pauseProducing(self) -> None:
        """The buffer is full. Twisted says so again at every write."""
        if not self.protocol.blocked:
            self.protocol.blocked = True
            self.protocol.sending_blocked()
        if self.protocol.app_producer is not None:
            self.protocol.app_producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The buffer is empty."""
        self.protocol.blocked = False
        self.protocol.sending_resumed()
        self.protocol.write_waiting(SLICE)
        if not self.protocol.blocked:
            self.protocol.unblocked()
        # What was owed may have filled the buffer again.
        if self.protocol.app_producer is not None and not self.protocol.blocked:
            self.protocol.app_producer.resumeProducing()

    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""
        self.protocol.stop_app_producer()


class Sending(Base):
    """The part of a protocol that writes."""

    masks = False
    """Whether the frames sent are masked."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """Take the application's producer; it is paused and resumed with the transport."""
        if self.app_producer is not None:
            raise RuntimeError("a producer is registered already; unregister it first")
        if not streaming:
            raise ValueError("only push (streaming) producers are supported")
        self.app_producer = producer
        if self.blocked:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Let the application's producer go."""
        self.app_producer = None

    def stop_app_producer(self) -> None:
        """Tell the application's producer, once, that nothing can be sent any more."""
        producer, self.app_producer = self.app_producer, None
        if producer is not None:
            producer.stopProducing()

    def sending_blocked(self) -> None:
        """The transport's buffer is full: from now on the peer has to take some of it."""
        self._unsent = None
        self.keepalive.sending_blocked(self._now())
        self._arm_keepalive()

    def sending_resumed(self) -> None:
        """The transport's buffer is empty again."""
        self.keepalive.sending_resumed(self._now())

    def unblocked(self) -> None:
        """The transport's buffer is empty again: the pong that is still owed goes first."""
        owed, self._owed_pong = self._owed_pong, None
        if owed is not None and self.state == WebSocketProtocol.STATE_OPEN:
            self.sendFrame(frames.PONG, owed)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn: write bytes. Above the limit on what may wait, the connection is failed."""
        if self._discarding:
            return  # nothing follows a Close frame, or the end
        if chopsize or self.send_queue:
            if not self.send_queue:
                self.send_queue = deque()
            super().sendData(data, sync, chopsize)  # type: ignore[misc]
            return
        if not self.blocked:
            if self.tap is not None:
                self.tap.sent(data)
            write(self.transport, data)
            return
        self.backlog += len(data)
        self._waiting.append(data)
        if self.backlog > self.options.send_buffer and not self.failedByMe:
            self._fail_connection(1008, "the peer reads too slowly: send buffer full")

    def write_waiting(self, most: int | None = None) -> None:
        """Give the transport what waits: about so many bytes, None all of it."""
        while self._waiting and not (most is not None and self.blocked):
            part: list[bytes] = []
            size = 0
            while self._waiting and (most is None or size < most):
                part.append(self._waiting.popleft())
                size += len(part[-1])
            self.backlog -= size
            joined = b"".join(part)
            if self.tap is not None:
                self.tap.sent(joined)
            self.transport.write(joined)

    def drop_waiting(self) -> None:
        """Let go of what waits to be sent."""
        self._owed_pong = None
        if self.backlog:
            self._waiting.clear()
            self.backlog = 0
        if self.send_queue:
            self.send_queue.clear()

    def _send(self) -> None:
        """Autobahn: write the next chopped piece; on our reactor, not on a global one."""
        queue = self.send_queue
        if not queue or self.state == WebSocketProtocol.STATE_CLOSED:
            queue.clear()
            self.triggered = False
            return
        chopped = queue.popleft()[0]
        if self.tap is not None:
            self.tap.sent(chopped)
        self.transport.write(chopped)
        self.factory.reactor.callLater(0, self._send)

    def sendFrame(
        self,
        opcode: int,
        payload: bytes = b"",
        fin: bool = True,
        rsv: int = 0,
        mask: bytes | None = None,
        payload_len: int | None = None,
        chopsize: int | None = None,
        sync: bool = False,
    ) -> None:
        """Autobahn: send one frame; the mask comes from the system's random source (§10.3)."""
        if payload_len is not None:
            payload = (payload * (payload_len // max(1, len(payload)) + 1))[:payload_len]
        key = mask or self._mask_key()
        head = frames.frame_head(opcode, len(payload), fin=fin, rsv=rsv, key=key)
        if opcode <= frames.BINARY:
            self.trafficStats.outgoingWebSocketFrames += 1
        self.sendData(head + (apply_mask(payload, key) if key else payload), sync, chopsize)

    def begin_sending(self) -> None:
        """Begin, when the WebSocket is open: only now is it known what the application set."""
        if self.maskServerFrames if self.factory.isServer else self.maskClientFrames:
            self.masks = True

    def _mask_key(self) -> bytes:
        return mask_key() if self.masks else b""

    def send_whole(self, opcode: int, payload: bytes, rsv: int = 0) -> None:
        """Send a message as one frame: the fast lane out. `rsv` is 4 when it is compressed."""
        if self.masks:
            key = mask_key()
            head = frames.frame_head(opcode, len(payload), rsv=rsv, key=key)
            self.sendData(head + apply_mask(payload, key))
            return
        if rsv:
            head = frames.frame_head(opcode, len(payload), rsv=rsv)
        else:
            head = message_head(opcode, len(payload))
        if self.blocked or self.tap is not None or self._discarding or self.send_queue:
            self.sendData(head + payload)
        elif len(payload) < LARGE:
            write(self.transport, head + payload)
        else:
            if len(payload) > SLICE:
                send_large(self.transport)
            self.transport.writeSequence((head, payload))

    def sendMessage(
        self,
        payload: bytes,
        isBinary: bool = False,
        fragmentSize: int | None = None,
        sync: bool = False,
        doNotCompress: bool = False,
    ) -> None:
        """Autobahn: send a message. The limit on received messages does not bind those sent."""
        if not isinstance(payload, bytes):
            raise TypeError(f"a payload is bytes, not {type(payload).__name__}")
        if self.state != WebSocketProtocol.STATE_OPEN:
            raise Disconnected("the WebSocket is not open")
        stats = self.trafficStats
        stats.outgoingWebSocketMessages += 1
        stats.outgoingOctetsAppLevel += len(payload)
        rsv = 0
        compress = self._perMessageCompress
        if len(payload) < self.factory.compress_from:
            doNotCompress = True
        if compress is not None and not doNotCompress:
            payload = compress_message(compress, payload)
            rsv = 4
        stats.outgoingOctetsWebSocketLevel += len(payload)
        opcode = frames.BINARY if isBinary else frames.TEXT
        size = fragmentSize or self.autoFragmentSize or len(payload)
        if len(payload) <= size and not sync:
            stats.outgoingWebSocketFrames += 1
            self.send_whole(opcode, payload, rsv)
            return
        if size < 0:
            raise ValueError(f"a fragment has at least 1 byte, not {size}")
        if len(payload) <= size:
            self.sendFrame(opcode, payload, rsv=rsv, sync=sync)
            return
        for start in range(0, len(payload), size):
            fin = start + size >= len(payload)
            self.sendFrame(opcode, payload[start : start + size], fin=fin, rsv=rsv, sync=sync)
            opcode, rsv = frames.CONTINUATION, 0

    def beginMessageFrame(self, length: int) -> None:
        """Autobahn: begin a frame of a streamed message; its mask, too, is unpredictable."""
        this = cast(Any, self)
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        begun = this.send_state == WebSocketProtocol.SEND_STATE_MESSAGE_BEGIN
        if not begun and this.send_state != WebSocketProtocol.SEND_STATE_INSIDE_MESSAGE:
            raise RuntimeError("beginMessageFrame is called outside a message")
        if not 0 <= length < 1 << 63:
            raise ValueError(f"{length!r} is not the length of a frame")
        key = self._mask_key()
        self.streamed = True
        this.send_message_frame_length = length
        this.send_message_frame_mask = key or None
        this.send_message_frame_masker = create_xor_masker(key or b"\0\0\0\0", length)
        opcode = this.send_message_opcode if begun else frames.CONTINUATION
        rsv = 4 if begun and this.send_compressed else 0
        self.trafficStats.outgoingWebSocketFrames += 1
        self.sendData(frames.frame_head(opcode, length, fin=False, rsv=rsv, key=key))
        this.send_state = WebSocketProtocol.SEND_STATE_INSIDE_MESSAGE_FRAME

    def sendPong(self, payload: bytes | None = None) -> None:
        """Autobahn: send a pong. While the peer does not read only the latest is owed (§5.5.3)."""
        if self.blocked:
            self._owed_pong = payload or b""
        else:
            super().sendPong(payload)  # type: ignore[misc]
