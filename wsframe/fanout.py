"""One message to many connections, in slices, so that no turn of the reactor is long.

A broadcast is handed out at once as far as the time of this turn allows. To each connection that
is left it is then noted that it owes the message, and the rest follows in later turns; whatever is
sent on such a connection meanwhile sends first what is owed. So every connection gets everything
in the order of the calls, whichever turn it is served in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from wsframe.awaiting import Awaitable, fired
from wsframe.connection import Connection, Message
from wsframe.protocol import SharedMessage

__all__ = ["broadcast"]

_log: Final = Logger(namespace="wsframe.fanout")

TURN: Final = 0.030
"""Seconds that a turn of the reactor is to take with its broadcasts and all that follows from them,
so that turns stay below 50 ms, which nobody notices. What the transports are given goes to the
kernel in the same turn, and takes up to twenty times as long there: so a slice is measured by
what turns took."""

FIRST: Final = 0.002
"""Seconds of the first slice, before any turn was measured: right where the kernel takes fifteen
times as long."""

GROWTH: Final = 1.25
"""How much longer than the one before it a slice may be: a turn in which the kernel happened to
take nothing says little about the next one."""

SHORTEST: Final = 0.001
"""Seconds that a slice has at least, however long the turns are for other reasons."""

LONGEST: Final = 0.020
"""Seconds that a slice has at most: two thirds of the turn."""

UNTIMED: Final = 256
"""Deliveries of small messages, less than a millisecond's work, before the clock is looked at."""

AT_A_TIME: Final = 32
"""Deliveries of small messages between two looks at the clock."""

HEAVY: Final = 4096
"""Bytes of a frame that are as much work as one more delivery, where they are copied, masked, or
encrypted."""

DENSE: Final = 256
"""Bytes of a message that are as much work as one more delivery, where they are compressed."""

MOST_PENDING: Final = 32
"""Broadcasts that may be pending. Each holds its message once, within the connections' own limit
`send_buffer`, and some bytes for each connection that has not had it."""


def broadcast(connections: Iterable[Connection], message: Message) -> Awaitable[None]:
    """Send one message to many connections, each once, without waiting for any peer.

    The frame is built once for all clients of a server, also where it is compressed; a client
    masks its own. Connections that are closing are passed over. One whose peer reads too slowly,
    so that `options.send_buffer` would be exceeded, is closed with 1008, and one that fails is
    aborted; the others go on.

    A broadcast takes so much of a turn of the reactor that the turn stays below 50 ms, and what
    does not fit follows in the next turns; each connection gets everything in the order of the
    calls. The Deferred fires when all have been handed the message. Who publishes faster than that
    should wait for it: when 32 broadcasts are pending, or more bytes of messages than
    `options.send_buffer`, the oldest one is finished before this returns, however long that takes.
    Nobody has to wait, and it never fails; cancelling it ends the wait and not the broadcast.

    Raises TypeError for a message that is not str or bytes, and for what is no `Connection`.
    """
    if isinstance(message, str):
        shared = SharedMessage(message.encode(), False)
    elif isinstance(message, bytes):
        shared = SharedMessage(message, True)
    else:
        raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
    # A copy, because what happens meanwhile may change what was given; a set has nobody twice.
    if isinstance(connections, set | frozenset):
        targets = list(connections)
    else:
        targets = list(dict.fromkeys(connections))
    for kind in set(map(type, targets)):
        if not issubclass(kind, Connection):
            raise TypeError(f"a broadcast goes to connections, not to {kind.__name__}")
    if not targets:
        return fired(None)
    wire = targets[0]._wire
    return _fan_out(wire.reactor).publish(shared, targets, wire.options.send_buffer)


class _Pending:
    """A broadcast that not all have been handed yet; those who are left owe it."""

    __slots__ = ("done", "left", "shared")

    def __init__(self, shared: SharedMessage, left: list[Connection]) -> None:
        self.shared = shared
        self.left = left
        self.done: Awaitable[None] = Awaitable()


class _FanOut:
    """The broadcasts under one reactor: the time they take of this turn, and what is pending."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = ref(reactor)
        self._pending: deque[_Pending] = deque()
        self._bytes = 0
        self._work = 0
        self._slice = FIRST
        self._began = 0.0
        self._until: float | None = None
        """When this turn's time is over; None while it is not taken. Then a next turn is due."""
        self._busy = False
        self._calls = 0
        """Broadcasts of this turn."""
        self._alone = True
        """Whether there was no more than one in the last turn that was timed."""

    def publish(
        self, shared: SharedMessage, targets: list[Connection], most_bytes: int
    ) -> Awaitable[None]:
        """Hand a message out as far as the turn allows, and keep the rest for the next ones."""
        if shared.is_long:
            for connection in targets:
                connection.prepare_shared(shared)
        weight = 1 + shared.size // HEAVY
        self._count(len(targets) * weight + shared.size // DENSE)
        # One that comes alone goes to the kernel right away, which takes half the work in between.
        # Where several come in a turn they share a call, and a packet, at its end.
        self._calls += 1
        shared.at_once = self._alone and self._calls == 1 and self._until is not None
        if not (self._busy or self._pending or shared.unfinished):
            targets = self._hand_out(shared, targets, max(1, AT_A_TIME // weight))
        if not (targets or self._pending):
            return fired(None)
        for connection in targets:
            connection.owe(shared)
        targets.reverse()  # the first of them is taken from the end
        pending = _Pending(shared, targets)
        self._pending.append(pending)
        self._bytes += shared.size
        while len(self._pending) > 1 and (
            len(self._pending) > MOST_PENDING or self._bytes > most_bytes
        ):
            self._serve(self._pending[0], None)
        self._go_on()
        return pending.done

    def _count(self, work: int) -> None:
        self._work += work
        if self._until is None and self._work > UNTIMED:
            self._take_time()

    def _take_time(self) -> None:
        self._began = monotonic()
        self._until = self._began + self._slice
        reactor: Any = self._reactor()
        reactor.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        took = monotonic() - self._began
        if self._pending or took > TURN:
            # The slice was used up: from this turn follows how long the next one's may be.
            wanted = self._slice * min(GROWTH, TURN / max(took, self._slice))
            self._slice = min(LONGEST, max(SHORTEST, wanted))
        self._work = 0
        self._until = None
        self._alone = self._calls <= 1
        self._calls = 0
        if self._pending:
            self._take_time()
            self._go_on()

    def _hand_out(
        self, shared: SharedMessage, targets: list[Connection], step: int
    ) -> list[Connection]:
        """Hand a message to those who owe nothing; return those who are left.

        Left are also those where it may call somebody: who is called may send something himself,
        to those who have not had the message either, and must find noted who owes what.
        """
        until = self._until
        left: list[Connection] = []
        self._busy = True
        try:
            for start in range(0, len(targets), step):
                if until is not None and monotonic() >= until:
                    return left + targets[start:]
                for connection in targets[start : start + step]:
                    try:
                        if not connection.send_shared(shared):
                            left.append(connection)
                    except Exception:  # noqa: BLE001 - whatever it is, the others go on
                        _give_up(connection)
        finally:
            self._busy = False
        return left

    def _go_on(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            while self._pending and self._serve(self._pending[0], self._until):
                pass
        finally:
            self._busy = False

    def _serve(self, pending: _Pending, until: float | None) -> bool:
        """Go on with the oldest broadcast until then; return whether it is finished.

        What fires on the way may publish, and have this very one finished from within.
        """
        shared, left = pending.shared, pending.left
        step = max(1, AT_A_TIME // (1 + shared.size // HEAVY))
        while shared.unfinished or left:
            if until is not None and monotonic() >= until:
                return False
            if shared.unfinished:
                shared.step()
                continue
            for _ in range(min(step, len(left))):
                if not left:  # finished from within
                    break
                connection = left.pop()
                try:
                    connection.send_owed(shared)
                except Exception:  # noqa: BLE001 - whatever it is, the others go on
                    _give_up(connection)
        if self._pending and self._pending[0] is pending:
            self._pending.popleft()
            self._bytes -= shared.size
            pending.done.callback(None)
        return True


def _give_up(connection: Connection) -> None:
    _log.failure("A broadcast failed at {peer!r}", peer=connection.peer)
    try:
        connection.abort()
    except Exception:  # noqa: BLE001 - its transport may be what is broken
        _log.failure("Cannot abort {peer!r}", peer=connection.peer)


_fan_outs: Final[WeakKeyDictionary[Any, _FanOut]] = WeakKeyDictionary()


def _fan_out(reactor: IReactorTime) -> _FanOut:
    """Return the one of a reactor."""
    found = _fan_outs.get(reactor)
    if found is None:
        found = _fan_outs[reactor] = _FanOut(reactor)
    return found
