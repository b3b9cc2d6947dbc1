"""Autobahn's attributes: on the class where most connections never change them, or made on demand.

Autobahn copies some thirty options and thirty more values onto every connection, and makes objects
that an idle one never uses. The attributes are here under the same names, may be set on a
connection or in its class as before, and cost nothing where they are not. An instance on which few
attributes are ever set also stays below the number (30) up to which Python lets all instances of a
class share one table of names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, overload
from weakref import WeakSet

from autobahn.twisted.util import create_transport_details
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.defer import Deferred, succeed

from wsframe.core.closing import Closing
from wsframe.core.keepalive import Keepalive
from wsframe.errors import OpenError

if TYPE_CHECKING:
    from wsframe.tap import Tap

__all__ = [
    "Attributes",
    "Limit",
    "Made",
    "Setting",
    "add_settings",
    "limits_are_watched",
    "settings_of",
    "share_names",
]

T = TypeVar("T")
Class = TypeVar("Class", bound=type)


class Made(Generic[T]):
    """An attribute that is made when it is first asked for, or set."""

    __slots__ = ("_make", "_name")

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Made[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object, owner: type) -> Made[T] | T:
        """Make it, once."""
        if instance is None:
            return self
        made = self._make(instance)
        # Not through the instance's __dict__: to ask for it gives it a table of its own for good.
        setattr(instance, self._name, made)
        return made


class Setting:
    """An option of the factory, as it was when the connection was made, unless set closer to it.

    There is no `__set__`: what an application sets on a connection, or in its class, goes first.
    """

    __slots__ = ("_name", "_place")

    def __init__(self, name: str, place: int) -> None:
        self._name = name
        self._place = place

    def __get__(self, instance: Any, owner: type) -> Any:
        """Return the option; there is none before the connection is made, as with Autobahn."""
        if instance is None:
            return self
        settings = instance._settings
        if settings is None:
            raise AttributeError(self._name)
        return settings[self._place]


class Limit(Setting):
    """A setting from which something follows that a connection keeps; to set it there drops that.

    Where an application has the name in its class, as a value or a property, that goes first and
    nobody learns of changes: then nothing is to be kept.
    """

    __slots__ = ("_own",)

    def __init__(self, name: str, place: int) -> None:
        super().__init__(name, place)
        self._own = f"_own_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        """Return what was set on the connection, or else the option."""
        if instance is not None:
            own = getattr(instance, self._own, None)
            if own is not None:
                return own
        return super().__get__(instance, owner)

    def __set__(self, instance: Any, value: int) -> None:
        """Set it on the connection; it holds from the next frame on."""
        setattr(instance, self._own, value)
        instance.limits_changed()


_LIMITS: Final = ("maxFramePayloadSize", "maxMessagePayloadSize")


def limits_are_watched(cls: type) -> bool:
    """Return whether instances learn of every change of their limits."""
    return all(isinstance(getattr(cls, name), Limit) for name in _LIMITS)


_NAMES = (
    *("factory", "connected", "transport", "peer", "_now", "_settings", "state", "data"),
    *("logOctets", "autoFragmentSize", "openHandshakeTimeoutCall", "autoPingPendingCall"),
    *("keepalive", "trafficStats", "lane", "_most", "request", "_head", "listener"),
    *("current_frame", "current_frame_masker", "control_frame_data", "_ping_payload", "_is_open"),
    *("_reading", "_handed", "_parsing"),
)
"""What an idle connection has of its own, sooner or later."""

_shared: WeakSet[type] = WeakSet()


def share_names(cls: type, names: Iterable[str]) -> None:
    """Have all instances of a class share one table of these names, whenever they set them.

    CPython puts into that table what the first instances set, and less with every one that is made:
    an attribute that is first set when there are thirty would cost each a table of its own, which
    is as much again as all the rest. One that is made for this sets them all at once.
    """
    if cls not in _shared:
        _shared.add(cls)
        first: Any = object.__new__(cls)
        for name in names:
            with suppress(AttributeError):  # an application made a property of it
                object.__setattr__(first, name, None)


def add_settings(cls: Class) -> Class:
    """Decorate a protocol's class: Autobahn's options, its `CONFIG_ATTRS`, become settings."""
    names: Any = cls.CONFIG_ATTRS  # type: ignore[attr-defined]
    for place, name in enumerate(names):
        setattr(cls, name, (Limit if name in _LIMITS else Setting)(name, place))
    cls._read_settings = staticmethod(attrgetter(*names))  # type: ignore[attr-defined]
    return cls


def settings_of(protocol: Any) -> tuple[Any, ...]:
    """Return the options of the protocol's factory, of which all connections share one copy.

    Options may be changed in many ways, and by assignment, too: they are read each time, and what
    is the same as before is kept once.
    """
    factory = protocol.factory
    share_names(type(protocol), _NAMES)
    settings: tuple[Any, ...] = protocol._read_settings(factory)
    if settings != factory.settings:
        factory.settings = settings
    kept: tuple[Any, ...] = factory.settings
    return kept


class Attributes:
    """What a connection begins with. Only the attributes that change are ever on the instance."""

    # Autobahn's, as its `__init__` and its `_connectionMade` set them.
    _valid_events: Any = ("message",)
    _settings: tuple[Any, ...] | None = None
    state: int = WebSocketProtocol.STATE_CONNECTING
    send_state: int = WebSocketProtocol.SEND_STATE_GROUND
    data: bytes = b""
    inside_message = False
    current_frame: Any = None
    triggered = False
    send_queue: Any = ()
    trackedTimings: Any = None
    websocket_version = 13
    websocket_protocol_in_use: str | None = None
    _perMessageCompress: Any = None
    wasMaxFramePayloadSizeExceeded = False
    wasMaxMessagePayloadSizeExceeded = False
    wasServerConnectionDropTimeout = False
    wasOpenHandshakeTimeout = False
    wasCloseHandshakeTimeout = False
    wasServingFlashSocketPolicyFile = False
    wasClean = False
    wasNotCleanReason: str | None = None
    closedByMe = False
    failedByMe = False
    droppedByMe = False
    localCloseCode: int | None = None
    localCloseReason: bytes | None = None
    remoteCloseCode: int | None = None
    remoteCloseReason: str | None = None
    serverConnectionDropTimeoutCall: Any = None
    openHandshakeTimeoutCall: Any = None
    closeHandshakeTimeoutCall: Any = None
    autoPingTimeoutCall: Any = None
    autoPingPending: Any = None
    autoPingPendingCall: Any = None
    autoPingPendingSeq = 0
    autoPingPendingSent: Any = None

    _results: Made[dict[str, Any]] = Made(lambda _: {"message": None})
    trafficStats: Made[Any] = Made(lambda _: TrafficStats())
    utf8validator: Made[Any] = Made(lambda _: Utf8Validator())
    websocket_extensions_in_use: Made[list[Any]] = Made(lambda _: [])
    _transport_details: Made[Any] = Made(
        lambda this: create_transport_details(this.transport, this.is_server)
    )

    # Ours.
    closing: Made[Closing] = Made(lambda _: Closing())
    keepalive: Made[Keepalive] = Made(lambda _: Keepalive(None, None))
    _waiting: Made[deque[bytes]] = Made(lambda _: deque())
    _discarding = False
    _reading_paused = False
    _fragments = 0
    _owed_pong: bytes | None = None
    _ping_payload: bytes | None = None
    _abort_call: Any = None
    _unsent: int | None = None

    blocked = False
    """Whether the transport's buffer is full."""

    backlog = 0
    """Bytes that wait here until the transport takes more."""

    open_error: OpenError | None = None
    """Why the WebSocket did not open, once that is known."""

    tap: Tap | None = None
    """What every byte is told to, while the connection is traced."""

    streamed = False
    """Whether the application ever sent a frame in parts."""

    _opened: Deferred[None] | None = None
    _is_open = False
    _closed: Deferred[Any] | None = None

    _read_settings: ClassVar[Callable[[Any], tuple[Any, ...]]]

    def __init__(self) -> None:
        """Set nothing; Autobahn's own is not called, which would set what is here already."""

    @property
    def is_open(self) -> Deferred[None]:
        """Autobahn: fires when the WebSocket is open, or fails."""
        if self._opened is None:
            self._opened = Deferred()
            if self._is_open:
                self._opened.callback(None)
        return self._opened

    @property
    def opened_once(self) -> bool:
        """Whether the WebSocket was ever open, or `is_open` has failed."""
        return self._is_open or (self._opened is not None and self._opened.called)

    def tell_open(self) -> None:
        """Fire `is_open`, for those who have asked for it and for those who will."""
        self._is_open = True
        if self._opened is not None:
            self._opened.callback(None)

    @property
    def is_closed(self) -> Deferred[Any]:
        """Autobahn: fires with the protocol when it is closed."""
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return succeed(self)  # not kept, because it keeps us
        if self._closed is None:
            self._closed = Deferred()
        return self._closed

    def tell_closed(self) -> None:
        """Note that the WebSocket is closed, and fire `is_closed` for those who have asked."""
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self.state = WebSocketProtocol.STATE_CLOSED
            closed, self._closed = self._closed, None
            if closed is not None:
                closed.callback(self)
