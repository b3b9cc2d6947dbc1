"""Bytes in: who reads them, how many, and what they amount to."""

from __future__ import annotations

from typing import Any, Final, cast

from autobahn.websocket.protocol import WebSocketProtocol
from twisted.python.failure import Failure

from wsframe.protocol.base import Base

__all__ = ["EARLY_BYTES", "MANY_PARTS", "Receiving"]

EARLY_BYTES: Final = 64 * 1024
"""Bytes kept of what a peer sends before the application has decided; then reading pauses."""

MANY_PARTS: Final = 4096
"""Parts of a frame, as they were read, that are kept apart; more are joined, because a peer that
drips its bytes would have us hold a hundred times as much memory as it sends."""


class Receiving(Base):
    """The part of a protocol that reads."""

    _fragments: int

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the peer."""
        if self.tap is not None:
            self.tap.received(data)
        if self._discarding:
            return
        if self.state == WebSocketProtocol.STATE_CONNECTING:
            self.receive_opening(data)
        else:
            self.keepalive.received(self._now())
            self.receive_frames(data)

    def receive_frames(self, data: bytes) -> None:
        """Take bytes of the open WebSocket."""
        self._dataReceived(data)  # type: ignore[attr-defined]

    def receive_opening(self, data: bytes) -> None:
        """Take bytes of the opening handshake."""
        raise NotImplementedError

    def consumeData(self) -> None:
        """Autobahn: parse what has come."""
        try:
            super().consumeData()  # type: ignore[misc]
        except Exception:  # noqa: BLE001 - raised by one of the application's frame hooks
            self.application_failed(Failure())

    def pause_reading(self) -> None:
        """Read no more from the transport until `resume_reading`."""
        if not self._reading_paused and not self._discarding:
            self._reading_paused = True
            self.keepalive.reading_paused(self._now())
            self._arm_keepalive()
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again. The time in which we did not listen is not held against the peer."""
        if self._reading_paused:
            self._reading_paused = False
            self.keepalive.reading_resumed(self._now())
            self._arm_keepalive()
            self.transport.resumeProducing()

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = 0
        super()._onMessageBegin(isBinary)  # type: ignore[misc]

    def _onMessageFrameBegin(self, length: int) -> None:
        super()._onMessageFrameBegin(length)  # type: ignore[misc]
        self._fragments += 1
        if self._fragments > self.options.max_fragments:
            self._fail_connection(1008, "the message has too many fragments")

    def _onMessageFrameData(self, payload: bytes) -> None:
        super()._onMessageFrameData(payload)  # type: ignore[misc]
        parts = getattr(self, "frame_data", None)
        if parts is not None and len(parts) > MANY_PARTS:
            parts[:] = [b"".join(parts)]

    def _onMessageEnd(self) -> None:
        self.keepalive.message()
        super()._onMessageEnd()  # type: ignore[misc]

    def _onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.call_application(cast(Any, self).onMessage, payload, isBinary)
