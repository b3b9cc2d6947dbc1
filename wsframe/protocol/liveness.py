"""Whether the peer is there: `core.keepalive` with a timer, pings and an end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, cast

from wsframe.core import frames
from wsframe.core.keepalive import Action, Keepalive
from wsframe.protocol.base import Base
from wsframe.protocol.tcp import unsent_bytes

__all__ = ["Liveness"]


_PONG: Final = bytes((0x80 | frames.PONG,))


def _is_pong(data: bytes, payload: bytes, *, masked: bool) -> bool:
    """Return whether the data is one pong with that payload, and nothing else."""
    size = len(payload)
    if not masked:
        return data == _PONG + bytes((size,)) + payload
    return (
        len(data) == 6 + size
        and data[1] == 0x80 | size
        and frames.mask_payload(data[6:], data[2:6]) == payload
    )


class Liveness(Base):
    """The part of a protocol that pings."""

    lane: bool
    _onPong: Callable[[bytes], None]

    def begin_keepalive(self) -> None:
        """Begin, when the WebSocket is open: only now is it known what the application set."""
        options = self.options
        self.keepalive = Keepalive(
            self.autoPingInterval or None,
            self.autoPingTimeout or None,
            pong_timeout=options.pong_timeout,
            message_timeout=options.message_timeout,
            write_timeout=options.write_timeout,
        )
        self.keepalive.start(self._now())
        self._cancel("autoPingPendingCall")  # Autobahn's own
        if self.blocked:
            self.sending_blocked()
        self._arm_keepalive()

    def _arm_keepalive(self) -> None:
        """See to it that the timer runs out by the deadline; earlier does no harm."""
        deadline = self.keepalive.deadline
        call = self.autoPingPendingCall
        if deadline is None or (call is not None and call.when <= deadline):
            return
        if call is not None:
            call.cancel()
        self.autoPingPendingCall = self.factory.deadlines.call_at(deadline, self._sendAutoPing)

    def _sendAutoPing(self) -> None:
        """Autobahn: the keepalive timer it starts at the opening has run out."""
        now = self._now()
        self.autoPingPendingCall = None
        if self.blocked:
            unsent, before = unsent_bytes(self.transport), self._unsent
            self._unsent = unsent
            if before is not None and unsent != before:
                self.keepalive.sent(now)
        action = self.keepalive.wake(now)
        if action is Action.PING:
            self._ping_payload = os.urandom(8)
            self.sendFrame(frames.PING, self._ping_payload)
        elif action is not Action.NOTHING:
            self._give_up(action)
            return
        self._arm_keepalive()

    def consumeData(self) -> None:
        """Autobahn: parse what has come. The pong to our ping, all that idle peers send, is known.

        It is one frame, with a mask if a client sent it; any other way to say it is for the parser.
        """
        ping = self._ping_payload
        if (
            ping is not None
            and self.data[:1] == _PONG
            and self.lane
            and self.current_frame is None
            and _is_pong(self.data, ping, masked=self.factory.isServer)
        ):
            self.data = b""
            self._onPong(ping)
        else:
            super().consumeData()  # type: ignore[misc]

    def _give_up(self, action: Action) -> None:
        options = self.options
        if action is Action.PEER_SILENT:
            cast(Any, self).onAutoPingTimeout()
        elif action is Action.PONG_OVERDUE:
            self.closing.begin("local", 1011, "keepalive pong timeout")
            self.dropConnection(abort=True)
        elif action is Action.NO_MESSAGE:
            self.start_close(3008, f"no message for {options.message_timeout:g} s".encode())
        else:
            reason = f"the peer took nothing that waits to be sent for {options.write_timeout:g} s"
            cast(Any, self).wasNotCleanReason = reason
            self.dropConnection(abort=True)

    def _on_latency(self, latency: float, payload: bytes) -> None:
        """Tell an Autobahn application, in its own units, of the answered ping."""
        received = int(self._now() * 1e9)
        sent = received - int(latency * 1e9)
        sequence = int.from_bytes(payload[:4])
        self.call_application(
            cast(Any, self).onAutoPong, sent, sequence, received, int(latency * 1000), payload
        )

    def onAutoPingTimeout(self) -> None:
        """Autobahn: the peer did not answer a ping; it is dead, and TCP is aborted."""
        self.closing.begin("local", 1011, "keepalive ping timeout")
        self.dropConnection(abort=True)

    def _stop_keepalive(self) -> None:
        self.keepalive.stop()
        self._cancel("autoPingPendingCall")
