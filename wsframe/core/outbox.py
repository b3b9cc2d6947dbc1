"""What an application wants sent, while there is no connection and until it is known to be there.

A message is in one of two places. It waits, in order, until a connection has sent it. The first of
those that wait may be with a connection already, which has no room for them yet: these are neither
dropped nor taken out, for they may be sent at any moment. Once sent, a message is in flight, until
the pong to a later ping shows that the peer's WebSocket has read past it: frames arrive in the
order they were sent (RFC 6455 §5.5.3 has pongs answer in order as well). What is in flight when a
connection is lost may have arrived or not; nobody knows, so it is handed back, to be reported, and
never sent twice.

The outbox has no clock and no socket. It is bounded in messages and in bytes, in both places.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, Literal, TypeVar

from wsframe.errors import OutboxFull

__all__ = ["OUTBOX_POLICIES", "Outbox", "OutboxPolicy"]

OutboxPolicy = Literal["refuse", "drop-oldest"]
"""What to do with a message too many: refuse it, or drop the oldest that wait to make room."""

OUTBOX_POLICIES: Final = ("refuse", "drop-oldest")

T = TypeVar("T")


class Outbox(Generic[T]):
    """A queue of entries with sizes in bytes; what an entry is, is the caller's matter.

    `max_messages` and `max_bytes` bound what waits, and again what is in flight.
    """

    __slots__ = (
        "_in_flight",
        "_in_flight_bytes",
        "_lent",
        "_max_bytes",
        "_max_messages",
        "_policy",
        "_sent",
        "_waiting",
        "_waiting_bytes",
        "forgotten",
    )

    def __init__(self, *, max_messages: int, max_bytes: int, policy: OutboxPolicy) -> None:
        if policy not in OUTBOX_POLICIES:
            raise ValueError(f"the policy is one of {', '.join(OUTBOX_POLICIES)}, not {policy!r}")
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._policy = policy
        self._waiting: deque[tuple[T, int]] = deque()
        self._waiting_bytes = 0
        self._lent = 0
        self._in_flight: deque[tuple[T, int]] = deque()
        self._in_flight_bytes = 0
        self._sent = 0
        self.forgotten = 0

    def __len__(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[T]:
        """Iterate over what waits, the oldest first."""
        return (entry for entry, _ in self._waiting)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of what waits."""
        return self._waiting_bytes

    def put(self, entry: T, size: int) -> list[T]:
        """Let an entry wait; return what was dropped to make room for it.

        Raises `OutboxFull` when it is refused, and nothing is dropped then: always where it is
        larger than `max_bytes` alone, or what was lent leaves no room for it.
        """
        if size > self._max_bytes:
            raise OutboxFull(f"a message of {size} bytes; the outbox has {self._max_bytes}")
        count, total = len(self._waiting), self._waiting_bytes
        droppable = iter(range(self._lent, count))
        drop = 0
        while count >= self._max_messages or total + size > self._max_bytes:
            place = next(droppable, None)
            if place is None or self._policy == "refuse":
                raise OutboxFull(
                    f"{len(self._waiting)} messages, {self._waiting_bytes} bytes wait already"
                )
            count, total, drop = count - 1, total - self._waiting[place][1], drop + 1
        dropped = [self._take(self._lent) for _ in range(drop)]
        self._waiting.append((entry, size))
        self._waiting_bytes += size
        return dropped

    def _take(self, place: int) -> T:
        entry, size = self._waiting[place]
        del self._waiting[place]
        self._waiting_bytes -= size
        return entry

    def lend(self) -> T | None:
        """Return what is to be sent next, None when there is nothing; a connection has it now.

        It goes on waiting until `sent` or `returned`; one of them follows for each.
        """
        if self._lent == len(self._waiting):
            return None
        entry = self._waiting[self._lent][0]
        self._lent += 1
        return entry

    def returned(self) -> None:
        """Note that the connection will not send the last of what it has."""
        self._lent -= 1

    @property
    def lent(self) -> int:
        """How many of those that wait a connection has."""
        return self._lent

    def sent(self) -> T:
        """Note that the connection has sent the first of what it has; that is in flight now.

        What is in flight beyond the limits is forgotten, the oldest first, and counted in
        `forgotten`: it will not be reported.
        """
        if not self._lent:
            raise IndexError("no connection has anything of the outbox")
        size = self._waiting[0][1]
        entry = self._take(0)
        self._lent -= 1
        self._in_flight.append((entry, size))
        self._in_flight_bytes += size
        self._sent += 1
        while len(self._in_flight) > self._max_messages or self._in_flight_bytes > self._max_bytes:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
            self.forgotten += 1
        return entry

    def remove(self, entry: T) -> bool:
        """Take out an entry that waits here; return whether it did."""
        for place, (each, _) in enumerate(self._waiting):
            if each is entry and place >= self._lent:
                self._take(place)
                return True
        return False

    def mark(self) -> int:
        """Return a mark for all that was sent so far, for `confirmed`."""
        return self._sent

    def confirmed(self, mark: int) -> None:
        """Note that all before the mark has arrived."""
        keep = self._sent - mark
        while len(self._in_flight) > keep:
            self._in_flight_bytes -= self._in_flight.popleft()[1]

    @property
    def in_flight(self) -> int:
        """How many entries are in flight."""
        return len(self._in_flight)

    def lost(self) -> list[T]:
        """Note that the connection is gone; return what was in flight, the oldest first."""
        entries = [entry for entry, _ in self._in_flight]
        self._in_flight.clear()
        self._in_flight_bytes = 0
        return entries

    def clear(self) -> list[T]:
        """Take out all that waits here, the oldest first."""
        return [self._take(self._lent) for _ in range(len(self._waiting) - self._lent)]
