"""What the parts of a protocol share: Autobahn's attributes, ours, and calls of the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsframe.awaiting import run
from wsframe.errors import Side
from wsframe.options import ConnectionOptions
from wsframe.protocol.attributes import Attributes

__all__ = ["Base"]

_log: Final = Logger(namespace="wsframe.protocol")


class _ProtocolLog(Logger):
    """Autobahn's `self.log`, which applications use, too: Twisted's logger without debug lines.

    Autobahn writes several of those for every message, and they would cost more than its work.
    """

    def __get__(self, instance: object, owner: type | None = None) -> _ProtocolLog:
        """Be the same for every protocol; Twisted's would make a new logger at each access."""
        return self

    def debug(self, format: str | None = None, **fields: object) -> None:  # noqa: A002 - Twisted's name
        """Drop the line."""

    trace = debug


class Base(Attributes):
    """What every part finds on the protocol, whichever part it comes from."""

    # What Autobahn gives; it has no type information.
    factory: Any
    transport: Any
    peer: str | None
    maxMessagePayloadSize: int
    maxFramePayloadSize: int
    autoPingInterval: float
    autoPingTimeout: float
    closeHandshakeTimeout: float
    maskClientFrames: bool
    maskServerFrames: bool
    autoFragmentSize: int
    utf8validateIncoming: bool
    logOctets: bool
    current_frame: Any
    current_frame_masker: Any
    inside_message: bool
    send_queue: Any
    _listeners: Any
    _perMessageCompress: Any

    log: ClassVar[_ProtocolLog] = _ProtocolLog(namespace="wsframe.protocol")

    # What one part has and another needs.
    sendFrame: Callable[..., None]
    resume_reading: Callable[[], None]
    connectionLost: Callable[[Failure], None]
    drop_rest: Callable[[], None]
    drop_received: Callable[[], None]
    write_waiting: Callable[[], None]
    drop_waiting: Callable[[], None]
    sending_blocked: Callable[[], None]
    sending_resumed: Callable[[], None]
    unblocked: Callable[[], None]
    start_close: Callable[[int | None, bytes], None]
    dropConnection: Callable[..., None]
    abort: Callable[[Side, str], None]
    _now: Callable[[], float]
    _arm_keepalive: Callable[[], None]
    _stop_keepalive: Callable[[], None]
    _fail_connection: Callable[[int, str], None]
    _invalid_payload: Callable[[str], bool]

    app_producer: IPushProducer | None = None
    """The application's own producer, when it registered one."""

    @property
    def options(self) -> ConnectionOptions:
        """The limits that Autobahn has no names for."""
        options: ConnectionOptions = self.factory.options
        return options

    def call_application(self, hook: Callable[..., object], *args: object) -> None:
        """Call application code: an exception ends this connection with 1011 and is logged."""
        try:
            result = hook(*args)
        except Exception:  # noqa: BLE001 - whatever the application raises
            self.application_failed(Failure())
        else:
            if result is not None:
                self.await_application(result)

    def await_application(self, result: object) -> None:
        """Await what application code returned: a coroutine is run, never dropped."""
        run(lambda: result).addErrback(self.application_failed)

    def application_failed(self, failure: Failure) -> None:
        """Log what application code raised, and close with 1011."""
        _log.failure("Error in the application, peer {peer!r}", failure, peer=self.peer)
        self._fail_connection(1011, "internal error")

    def _cancel(self, name: str) -> None:
        call = getattr(self, name)
        if call is not None:
            setattr(self, name, None)
            call.cancel()
