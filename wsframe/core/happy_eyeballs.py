"""Happy Eyeballs (RFC 8305): which address of a host is tried when, and what came of each.

A host often has several addresses, and some of them may lead nowhere: an IPv6 route that swallows
packets, a dead machine behind a name. Hence they are not tried one after the other but staggered:
each has a head start, and then the next is tried beside it. The first that connects is taken.

The addresses come in the resolver's order, which is that of RFC 6724: IPv6 first, where there is a
route for it. The time comes in as `now` (seconds of a monotonic clock) and the next deadline comes
out. All addresses of a name are taken to come at once, as `getaddrinfo` gives them, so that there
is no resolution delay (RFC 8305 §3) to wait for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Final

from wsframe.errors import AddressFailure

__all__ = ["ATTEMPT_DELAY", "MAX_ADDRESSES", "Attempts", "in_turn"]

ATTEMPT_DELAY: Final = 0.25
"""Seconds from the start of one attempt to that of the next (RFC 8305 §8)."""

MAX_ADDRESSES: Final = 16
"""Addresses tried of one host. Each may hold a socket until the end, and who answers for a name can
make up any number of them. The last one starts after 3.75 s at most, within the usual deadlines;
large services answer with eight of each family."""


def in_turn(hosts: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses in the order of RFC 8305 §4: each once, the families in turn.

    The first remains the first, and within a family the order remains.
    """
    families: dict[bool, list[str]] = {}
    for host in dict.fromkeys(hosts):
        families.setdefault(":" in host, []).append(host)
    turns = zip_longest(*families.values())  # the family of the first address is the first key
    return tuple(host for host in chain.from_iterable(turns) if host is not None)


class Attempts:
    """The attempts to connect to one of several addresses, which are texts that errors can show.

    `deadline` is when `start` wants to be called next, None when it does not. `failures` are those
    of the attempts that have ended, in the order of their ends. `left_out` is how many addresses
    are beyond the limit and not tried.
    """

    def __init__(self, addresses: Sequence[str], now: float) -> None:
        self._waiting = deque(addresses[:MAX_ADDRESSES])
        self.left_out = len(addresses) - len(self._waiting)
        self._started: dict[str, float] = {}
        self.failures: tuple[AddressFailure, ...] = ()
        self.deadline: float | None = now if self._waiting else None

    @property
    def lost(self) -> bool:
        """Whether all addresses were tried, and all failed."""
        return not self._waiting and not self._started

    def start(self, now: float) -> str | None:
        """Return the address that is to be tried now, None when it is not yet time for another."""
        if self.deadline is None or now < self.deadline:
            return None
        address = self._waiting.popleft()
        self._started[address] = now
        self.deadline = now + ATTEMPT_DELAY if self._waiting else None
        return address

    def failed(self, address: str, reason: str, now: float) -> None:
        """Note that an attempt has failed; another need not wait for its time."""
        del self._started[address]
        self.failures += (AddressFailure(address, reason),)
        if self._waiting:
            self.deadline = now

    def connected(self, address: str) -> None:
        """Note that an attempt has succeeded; no other starts."""
        del self._started[address]
        self._waiting.clear()
        self.deadline = None

    def so_far(self, now: float) -> tuple[AddressFailure, ...]:
        """Return the failures, and after them what has neither failed nor connected."""
        return self.failures + tuple(
            AddressFailure(address, f"no answer in {now - started:.3g} s")
            for address, started in self._started.items()
        )
