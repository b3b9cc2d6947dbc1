"""NO_PROXY: the hosts that are reached without a proxy.

There is no standard. The rules are those of curl and of Go (golang.org/x/net/http/httpproxy) where
the two agree, and otherwise those of this table:

=========================== ============================= ======================= ===============
written                     curl                          Go                      here
=========================== ============================= ======================= ===============
a.example                   itself and what is below      the same                the same
.a.example                  itself and what is below      only what is below      as curl
*.a.example                 never matches                 only what is below      as Go
*                           only as the whole text        anywhere in the list    as Go
a.example:8443              never matches                 that port alone         as Go
10.0.0.1:8443, [::1]:8443   never matches                 that port alone         as Go
a.example:                  never matches                 every port              as Go
10.1.2.3/8                  bits behind the prefix do     the same                the same
                            not matter
0.0.0.0/0, ::/0             that one address              all of that family      as Go
::1, 0:0:0:0:0:0:0:1        the same address              the same                the same
[::1]                       never matches                 the same address        as Go
::ffff:10.0.0.1             another address than 10.0.0.1 the same as 10.0.0.1    as Go
fe80::1 for fe80::1%eth0    matches                       matches                 matches
fe80::1%eth0                never matches                 never matches           that zone alone
bücher.example              depends on the build          is xn--bcher-kva        as Go
a.example. or host with "." the dot says nothing          a name of its own       as curl
between entries             commas, blanks around them    the same                commas or blanks
localhost, 127.0.0.1, ::1   like any other                always direct           as curl
=========================== ============================= ======================= ===============

What neither of the two knows, a zone in a network, a port behind `*` or a network, or a star that
is not the first label, is not understood here either. The list is shared with other programs, so
such an entry is passed over and not an error; it is reported in `NoProxy.ignored`. A host that is
an address is compared with addresses and networks alone, never as a text: nothing in its zone can
look like the end of a name (CVE-2025-22870).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

from wsframe.core.uri import to_ascii_host

__all__ = ["Host", "IgnoredEntry", "NoProxy", "canonical_host"]

Host = str | IPv4Address | IPv6Address
"""A host as it is compared: a name in lower-case ASCII without the root's dot, or an address."""

_SEPARATORS: Final = re.compile(r"[\s,]+")
_BITS: Final = re.compile(r"[0-9]{1,3}")
_HOST_PORT: Final = re.compile(
    r"(?P<host>\[[^\[\]]*:[^\[\]]*\]|[^\[\]:]+)(?::(?P<port>[0-9]{0,5}))?"
)


def canonical_host(host: str) -> Host:
    """Return the one form of a host that all of its spellings share.

    IPv6 is given without brackets and keeps its zone; an IPv4-mapped address is the IPv4 address
    that is connected to. Raises ValueError as `to_ascii_host` does.
    """
    text = to_ascii_host(host)
    if ":" in text:
        address = IPv6Address(text)
        return address.ipv4_mapped or address
    try:
        return IPv4Address(text)
    except ValueError:
        return text.removesuffix(".")


@dataclass(frozen=True)
class IgnoredEntry:
    """An entry that was passed over: its place in the list (from 1), the entry, and why.

    `text` is empty when the list has an "@": somebody put a proxy's URL there, and any part of
    it may be a piece of the password.
    """

    number: int
    text: str
    reason: str

    def __str__(self) -> str:
        text = f" {self.text!r}" if self.text else ""
        return f"entry {self.number}{text} {self.reason}"


@dataclass(frozen=True)
class _Rule:
    """One entry. `what` is a name, a network (of one, for an address), or None for everything."""

    entry: str
    what: str | IPv4Network | IPv6Network | None
    itself: bool = True
    zone: str | None = None
    port: int | None = None

    def covers(self, host: Host, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.what is None:
            return True
        if isinstance(self.what, str):
            if not isinstance(host, str):
                return False
            return host.endswith(f".{self.what}") or (self.itself and host == self.what)
        if isinstance(host, str):
            return False
        if self.zone is not None and self.zone != getattr(host, "scope_id", None):
            return False
        return host in self.what


class _NotUnderstoodError(Exception):
    """Why an entry is passed over, as a predicate that repeats nothing of it."""


@dataclass(frozen=True, repr=False)
class NoProxy:
    """A parsed list of hosts that are reached without a proxy; see the module for its rules."""

    rules: tuple[_Rule, ...] = ()
    ignored: tuple[IgnoredEntry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> NoProxy:
        """Return the list that the text holds; it raises nothing, see `ignored`."""
        rules, ignored = [], []
        entries = [entry for entry in _SEPARATORS.split(text) if entry]
        for number, entry in enumerate(entries, 1):
            try:
                rules.append(_rule(entry))
            except _NotUnderstoodError as error:
                shown = "" if "@" in text else entry
                ignored.append(IgnoredEntry(number, shown, str(error)))
        return cls(tuple(rules), tuple(ignored))

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries that are understood, as they were written."""
        return tuple(rule.entry for rule in self.rules)

    def matches(self, host: str, port: int) -> str | None:
        """Return the first entry that covers host and port, as it was written, or None.

        The host may be spelled in any way, an IPv6 address with or without brackets. What is no
        host at all is covered by nothing.
        """
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        try:
            canonical = canonical_host(host)
        except ValueError:
            return None
        for rule in self.rules:
            if rule.covers(canonical, port):
                return rule.entry
        return None

    def __repr__(self) -> str:
        return f"<NoProxy {len(self.rules)} entries, {len(self.ignored)} ignored>"


def _rule(entry: str) -> _Rule:
    if entry == "*":
        return _Rule(entry, None)
    if "@" in entry or "://" in entry:
        raise _NotUnderstoodError("is a URL and not a host")
    if "/" in entry:
        return _Rule(entry, _network(entry))
    if entry.count(":") > 1 and not entry.startswith("["):
        entry_host, port = entry, ""
    else:
        found = _HOST_PORT.fullmatch(entry)
        if found is None:
            raise _NotUnderstoodError("has a malformed host or port")
        entry_host, port = found["host"], found["port"] or ""
    if port and not 0 < int(port) < 65536:
        raise _NotUnderstoodError("has a port that is not from 1 to 65535")
    name = entry_host.removeprefix("*").removeprefix(".")
    if entry_host.startswith("*") and not entry_host.startswith("*."):
        raise _NotUnderstoodError("has a star that stands for less than labels")
    try:
        host = canonical_host(name[1:-1] if name.startswith("[") else name)
    except ValueError:
        raise _NotUnderstoodError("has a malformed host") from None
    number = int(port) if port else None
    if isinstance(host, str):
        return _Rule(entry, host, itself=not entry_host.startswith("*"), port=number)
    if name != entry_host:
        raise _NotUnderstoodError("is an address, below which there are no names")
    if isinstance(host, IPv4Address):
        return _Rule(entry, IPv4Network(host), port=number)
    return _Rule(entry, IPv6Network(int(host)), zone=host.scope_id, port=number)


def _network(entry: str) -> IPv4Network | IPv6Network:
    text, _, bits = entry.partition("/")
    if "%" in text:
        raise _NotUnderstoodError("is a network with a zone")
    try:
        address = ip_address(text)
    except ValueError:
        raise _NotUnderstoodError("is not a network: ADDRESS/BITS") from None
    if not _BITS.fullmatch(bits) or int(bits) > address.max_prefixlen:
        raise _NotUnderstoodError("has a prefix that is no number of the address' bits")
    length = int(bits)
    if isinstance(address, IPv4Address):
        return IPv4Network((address, length), strict=False)
    if address.ipv4_mapped is not None and length >= 96:
        return IPv4Network((address.ipv4_mapped, length - 96), strict=False)
    return IPv6Network((address, length), strict=False)
