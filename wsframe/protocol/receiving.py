"""Bytes in: who reads them, how many, and what they amount to."""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Any, Final, cast

from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from wsframe.core import frames
from wsframe.core.deflate import most_overhead
from wsframe.core.frames import MANY_PARTS, Message, Partial, decode, frame_end, partial
from wsframe.protocol.attributes import limits_are_watched
from wsframe.protocol.base import Base
from wsframe.protocol.deflate import MessageDeflate
from wsframe.protocol.ending import NOT_UTF8
from wsframe.protocol.masking import apply_mask, mask_long
from wsframe.protocol.tcp import Gone, is_reading, read_large

__all__ = ["EARLY_BYTES", "Receiving"]

_CONNECTING: Final = WebSocketProtocol.STATE_CONNECTING
_OPEN: Final = WebSocketProtocol.STATE_OPEN
_CLOSED: Final = WebSocketProtocol.STATE_CLOSED

EARLY_BYTES: Final = 64 * 1024
"""Bytes kept of what a peer sends before the application has decided; then reading pauses."""

PARSED_A_TURN: Final = 64
"""Frames that Autobahn's parser is given in one turn of the reactor: a millisecond, at 15 µs for
each. 64 KiB hold 9,000 fragments or pings, for which all other connections would wait, and there
may be many such peers. More turns cost the peer himself some per cent."""

INFLATED: Final = 16 * 1024
"""Bytes that came out of compressed frames and count as one more: 1 MiB in a turn, in 6 ms."""

TAKEN_A_TURN: Final = 4096
"""Messages that the fast lane takes in one turn: at less than 1 µs each it is that much faster."""

LARGE_FRAME: Final = 32 * 1024
"""Bytes of a frame from which on more is read from its connection at a time."""

_PARSER_HOOKS: Final = (
    "consumeData",
    "processData",
    "onFrameBegin",
    "onFrameData",
    "onFrameEnd",
    "_onMessageBegin",
    "_onMessageFrameBegin",
    "_onMessageFrameData",
    "_onMessageFrameEnd",
    "_onMessageFrame",
    "_onMessageEnd",
    "onMessageBegin",
    "onMessageFrameBegin",
    "onMessageFrameData",
    "onMessageFrameEnd",
    "onMessageFrame",
    "onMessageEnd",
    "logRxFrame",
)
"""What Autobahn's parser calls for a frame: a protocol that overrides one of them wants to see
frames, and not only messages."""

_UNLIMITED: Final = 1 << 63

_TEXT: Final = 0x81
"""The first byte of a text in one frame."""

_COMPRESSED_TEXT: Final = 0xC1
_COMPRESSED: Final = frozenset((_COMPRESSED_TEXT, 0xC2))
"""The first byte of a compressed message in one frame: final, with the bit RSV1 (RFC 7692 §6)."""

_LEAST: Final = {126: 126, 127: 0x10000}
"""Bytes that a payload has at least whose length is in two bytes, or in eight (RFC 6455 §5.2)."""


class _Most:
    """Bytes that a frame may have, by the options; connections keep it where these are watched."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        frame, message = instance.maxFramePayloadSize, instance.maxMessagePayloadSize
        return min(frame or _UNLIMITED, message or _UNLIMITED)


class Receiving(Base):
    """The part of a protocol that reads."""

    counts_traffic = True
    """Whether what is received is counted in Autobahn's `trafficStats`."""

    lane = True
    """Whether messages may be taken without Autobahn's parser."""

    _most: Any = _Most()
    """Bytes that a frame may have."""

    _reading: tuple[bytes, int, bool] | None = None
    """What is being received, and where it goes on behind what is in hand; or, for the lane, where
    the frames begin of which `_handed` were handed to the application."""

    _handed = 0

    _parsing = False
    """Whether Autobahn's parser is at work."""

    _rest: bytes = b""
    """What was read and is left for a later turn; as long as there is some, nothing is read."""

    _rest_call: IDelayedCall | None = None

    _held = False
    """Whether it is us who have the transport paused."""

    _lost: Failure | None = None
    """The end of the transport, when it came while there was a rest."""

    _inflated = 0
    """Bytes that came out of compressed frames since that was last looked at."""

    _partial: Partial | None = None
    """A message of which not all bytes have come, when the lane takes it."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.lane = all(_is_ours(cls, name) for name in _PARSER_HOOKS)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the peer."""
        if self.tap is not None:
            self.tap.received(data)
        if self._discarding:
            return
        if self.state == _CONNECTING:
            self.receive_opening(data)
        else:
            self.keepalive.heard = self._now()
            self.receive_frames(data)

    def receive_frames(self, data: bytes) -> None:
        """Take bytes of the open WebSocket: by the fast lane what it takes, by Autobahn the rest.

        Autobahn's parser is given one frame at a time, as far as it is there, so that what follows
        it can be taken by the lane again.
        """
        if self.counts_traffic and self.state == _OPEN:
            self.trafficStats.incomingOctetsWireLevel += len(data)
        if self.logOctets:
            self.logRxOctets(data)  # type: ignore[attr-defined]
        if self._rest:
            self._rest += data  # a layer of TLS had it in hand when we paused
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self.current_frame is None and self.data:
            data, self.data = self.data + data, b""  # the head of a frame was not complete
        at, size = 0, len(data)
        parsed = 0
        try:
            if self._partial is not None:
                at = min(size, self._partial.missing)
                self._reading = data, at, False
                self._take_part(self._partial, data[:at] if at < size else data)
            while at < size and not self._discarding:
                if self.current_frame is not None:
                    end = at + self.current_frame.length - self.current_frame_masker.pointer()
                elif self._reading_paused or parsed >= PARSED_A_TURN:
                    self._leave(data[at:])
                    return
                else:
                    if (
                        self.lane
                        and self.state == _OPEN
                        and not self.inside_message
                        and self._listeners is None  # of Autobahn's event "message"
                    ):
                        self._reading = data, at, True
                        messages, octets, at = decode(
                            data,
                            at,
                            masked=self.factory.isServer,
                            most=self._most,
                            many=TAKEN_A_TURN,
                            mask=mask_long,
                        )
                        if messages:
                            self._count(len(messages), octets)
                            self.messages_received(messages, octets)
                        if at == size or self._discarding:
                            return
                        if len(messages) == TAKEN_A_TURN:
                            self._leave(data[at:])
                            return
                        if (taken := self._take_compressed(data, at)) is not None:
                            at = taken
                            parsed += 1 + self._inflated // INFLATED
                            self._inflated = 0
                            continue
                        if self._begin_part(data, at):
                            return
                    end = frame_end(data, at) or size
                self._reading = data, end, False
                self.data = data[at:end]
                at = end
                self.consumeData()
                parsed += 1 + self._inflated // INFLATED
                self._inflated = 0
        except Exception:  # noqa: BLE001 - a listener is broken: it ends its own connection
            self.application_failed(Failure())
        finally:
            self._reading = None

    def _leave(self, rest: bytes) -> None:
        """Leave what was read for the next turn, or until the application reads again."""
        self._rest = rest
        if not self._reading_paused:
            if is_reading(self.transport):  # or the application has it paused, and it stays so
                self._hold()
            self._go_on_soon()

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self.transport.pauseProducing()

    def _release(self) -> None:
        if self._held:
            self._held = False
            self.transport.resumeProducing()

    def _go_on_soon(self) -> None:
        if self._rest_call is None:
            self._rest_call = self.factory.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._rest_call = None
        if not self._discarding:
            if self._reading_paused:
                return
            rest, self._rest = self._rest, b""
            self._release()  # nothing is read before this returns
            self._take(rest)
            self.read_taken()
        if self._lost is not None and (self._discarding or not self._rest):
            lost, self._lost = self._lost, None
            self.connectionLost(lost)

    def await_rest(self, lost: Failure) -> bool:
        """Return whether the end of the transport waits for what was read before it.

        TLS hands out what it has in hand though it is paused, and then its end. Without TLS both
        would wait in the kernel. A reset takes with it what was not read, there and here. Whoever
        waits until he can send goes on, as he may have to before he reads: it goes nowhere.
        """
        if not self._rest or self._discarding or not lost.check(ConnectionDone):
            return False
        self._lost = lost
        self.transport = Gone(self.transport)
        self.drop_waiting()
        if self.blocked:
            self.blocked = False
            self.sending_resumed()
            self.unblocked()
        if not self._reading_paused:
            self._go_on_soon()
        return True

    def drop_rest(self) -> None:
        """Look at nothing more of what was read; the end of TCP is to be seen, though."""
        self._rest = b""
        self._cancel("_rest_call")
        self._release()
        if self._lost is not None:
            self._go_on_soon()
        self.drop_received()

    def drop_received(self) -> None:
        """Let go of what was read and is no message yet, and of what it would be inflated with."""
        this: Any = self
        self._rest = self.data = b""
        self._partial = None
        if self._parsing:
            return  # it goes when the parser is through
        self._perMessageCompress = None
        if self.inside_message:
            this.message_data = this.frame_data = None
        if self.current_frame is not None:
            this.control_frame_data = None

    def read_taken(self) -> None:
        """All that can be taken of a read is taken."""

    def unparsed(self) -> bytes:
        """Return what has come and was not handed to the application yet."""
        if self._reading is None:
            return self.data + self._rest
        data, at, by_lane = self._reading
        for _ in range(self._handed if by_lane else 0):
            at = frame_end(data, at) or len(data)
        return self.data + data[at:]

    def begin_lane(self) -> None:
        """Begin, when the WebSocket is open: only now is it known what the application set."""
        this: Any = self
        self.lane = self.lane and this.applyMask and not this.logFrames
        if limits_are_watched(type(self)):
            self._most = self._most

    def limits_changed(self) -> None:
        """From the options: the application set one of those that `_most` follows from."""
        try:
            del self._most
        except AttributeError:
            return  # it is not kept
        self._most = self._most

    def _begin_part(self, data: bytes, at: int) -> bool:
        """Take what is there of a frame that does not arrive in one read, if the lane can."""
        if self.state != _OPEN or (data[at] == _TEXT and not self.utf8validateIncoming):
            return False
        begun = partial(data, at, masked=self.factory.isServer, most=self._most)
        if begun is None or begun[0].missing <= len(data) - begun[1]:
            return False
        self._partial, body = begun
        if self._partial.length >= LARGE_FRAME:
            read_large(self.transport, self._partial.length)
        self._take_part(self._partial, data[body:])
        return True

    def _take_part(self, part: Partial, data: bytes) -> None:
        """Take bytes of a frame that does not arrive in one read."""
        try:
            part.take(data, mask_long)
        except UnicodeDecodeError:
            self._partial = None
            self._invalid_payload(NOT_UTF8)
            return
        if not part.missing:
            self._partial = None
            self._count(1, part.length)
            self.messages_received([part.message()], part.length)

    def _take_compressed(self, data: bytes, at: int) -> int | None:
        """Take a compressed message that is one frame, and there; return where the frame ends.

        None when that is not what begins at `at`, or not by all the rules: it is for the parser.
        What only decompressing shows to be wrong is refused here, as the parser would.
        """
        compress = self._perMessageCompress
        if type(compress) is not MessageDeflate or data[at] not in _COMPRESSED:
            return None
        if self.state != _OPEN or self._listeners is not None:  # what came before has changed it
            return None
        end = frame_end(data, at)
        if end is None or end > len(data):
            return None
        masked, short = divmod(data[at + 1], 0x80)
        body = at + (2 if short < 126 else 4 if short == 126 else 10) + 4 * masked
        length = end - body
        if masked != self.factory.isServer or not _LEAST.get(short, 0) <= length <= self._most:
            return None
        is_text = data[at] == _COMPRESSED_TEXT
        if is_text and not self.utf8validateIncoming:
            return None
        self._reading = data, end, False
        sent = data[body:end]
        payload = apply_mask(sent, data[body - 4 : body]) if masked else sent
        decompressed = self._decompressed(compress, payload, is_text)
        if decompressed is not None:
            message, octets = decompressed
            self._count(1, octets, length)
            self.messages_received([message], octets)
        return end

    def _decompressed(
        self, compress: MessageDeflate, payload: bytes | bytearray, is_text: bool
    ) -> tuple[Message, int] | None:
        """Return a message and its bytes; None when it was not valid, and the connection failed."""
        this: Any = self
        limit = self.maxMessagePayloadSize
        try:
            compress.start_decompress_message()
            inflated = compress.decompress_message_data(payload, limit if limit > 0 else None)
            message: Message = inflated
            size = read = len(inflated)
            self._inflated += size
            if is_text:
                message, read = utf_8_decode(inflated, "strict", False)
            compress.end_decompress_message()
        except PayloadExceededError:
            this.wasMaxMessagePayloadSizeExceeded = True
            reason = f"received WebSocket message exceeds payload limit of {limit} octets"
            this._max_message_size_exceeded(limit, limit, f"{reason} after decompression")
        except PayloadCorruptError as error:
            self._invalid_payload(f"received WebSocket message cannot be decompressed: {error}")
        except UnicodeDecodeError:
            self._invalid_payload(NOT_UTF8)
        else:
            if read == size:
                return message, size
            self._invalid_payload(NOT_UTF8)  # it ends within a character
        return None

    def _count(self, messages: int, octets: int, sent: int | None = None) -> None:
        if self.keepalive.awaits_messages:
            self.keepalive.message()
        if self.counts_traffic and self.state == _OPEN:
            stats = self.trafficStats
            stats.incomingWebSocketFrames += messages
            stats.incomingWebSocketMessages += messages
            stats.incomingOctetsWebSocketLevel += octets if sent is None else sent
            stats.incomingOctetsAppLevel += octets

    def messages_received(self, messages: list[Message], octets: int) -> None:
        """Give messages that came, `octets` bytes in all, to the application."""
        this: Any = self
        for place, message in enumerate(messages, 1):
            if self._discarding or self.state == _CLOSED:
                return
            payload = message if isinstance(message, bytes) else message.encode()
            if place > 1 and len(payload) > self._most:
                # The limit was lowered when the lane had it already; the parser says what is wrong.
                self.data = self.unparsed()
                self.consumeData()
                return
            self._handed = place
            # As `call_application`, for every message.
            try:
                result = this.onMessage(payload, payload is message)
            except Exception:  # noqa: BLE001 - whatever the application raises
                self.application_failed(Failure())
            else:
                if result is not None:
                    self.await_application(result)
            if self._listeners is not None:
                self._fire_message(payload, payload is message)

    def _fire_message(self, payload: bytes, is_binary: bool) -> None:
        """Tell those who began to listen to Autobahn's event when the lane had the message."""
        told = cast(Any, self).fire("message", payload, is_binary=is_binary)
        told.addErrback(lambda _: None)  # logged where it was raised

    def receive_opening(self, data: bytes) -> None:
        """Take bytes of the opening handshake."""
        raise NotImplementedError

    def consumeData(self) -> None:
        """Autobahn: parse what has come; what came behind the opening handshake is as any read."""
        if self._reading is None and self.state != _CONNECTING:
            data, self.data = self.data, b""
            self._take(data)
            self.read_taken()
            return
        self._parsing = True
        try:
            super().consumeData()  # type: ignore[misc]
        except Exception:  # noqa: BLE001 - raised by one of the application's frame hooks
            self.application_failed(Failure())
        finally:
            self._parsing = False
        if self._discarding:
            self.drop_received()

    def pause_reading(self) -> None:
        """Read no more from the transport until `resume_reading`."""
        if not self._reading_paused and not self._discarding:
            self._reading_paused = True
            self.keepalive.reading_paused(self._now())
            self._arm_keepalive()
            self._hold()

    def resume_reading(self) -> None:
        """Read again. The time in which we did not listen is not held against the peer."""
        if self._reading_paused:
            self._reading_paused = False
            self.keepalive.reading_resumed(self._now())
            self._arm_keepalive()
            if self._rest:
                self._go_on_soon()
            else:
                self._release()

    def _onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = 0
        super()._onMessageBegin(isBinary)  # type: ignore[misc]

    def _onMessageFrameBegin(self, length: int) -> None:
        this: Any = self
        if this._isMessageCompressed:
            # Autobahn counts the frame as if it were inflated already; `onFrameData` does it right.
            inflated = getattr(this, "message_data_total_length", 0)
            this.message_data_total_length = inflated - most_overhead(length)
            super()._onMessageFrameBegin(length)  # type: ignore[misc]
            this.message_data_total_length = inflated
        else:
            super()._onMessageFrameBegin(length)  # type: ignore[misc]
        self._fragments += 1
        if self._fragments > self.options.max_fragments:
            self._fail_connection(1008, "the message has too many fragments")

    def onFrameData(self, payload: bytes) -> bool | None:
        """Autobahn: bytes of a frame. What they inflate to takes their place in what it counts."""
        this: Any = self
        if self.current_frame.opcode <= frames.BINARY and this._isMessageCompressed:
            this.message_data_total_length += len(payload)
        more: bool | None = super().onFrameData(payload)  # type: ignore[misc]
        return more

    def _onMessageFrameData(self, payload: bytes) -> None:
        this: Any = self
        if this._isMessageCompressed:
            self._inflated += len(payload)
        super()._onMessageFrameData(payload)  # type: ignore[misc]
        parts = getattr(self, "frame_data", None)
        if parts is not None and len(parts) > MANY_PARTS:
            parts[:] = [b"".join(parts)]

    def _onMessageEnd(self) -> None:
        self.keepalive.message()
        super()._onMessageEnd()  # type: ignore[misc]

    def _onMessage(self, payload: bytes, isBinary: bool) -> None:
        this: Any = self
        self.call_application(this.onMessage, payload, isBinary)


def _is_ours(cls: type, name: str) -> bool:
    """Whether a method is Autobahn's or wsframe's, and no application's."""
    defined = next((each for each in cls.__mro__ if name in vars(each)), Receiving)
    return defined.__module__.partition(".")[0] in {"autobahn", "wsframe"}
