"""A name resolver that says what a test tells it to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from zope.interface import implementer


@implementer(IHostnameResolver)
class Resolver:
    """A name resolver that writes down what it is asked; `answers` None: it never answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: Sequence[Any] | None = ()
        self.receivers: list[Any] = []

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *_: Any, **__: Any) -> Any:
        self.asked.append(name)
        self.receivers.append(receiver)
        receiver.resolutionBegan(None)
        if self.answers is not None:
            self.answer(*self.answers, port=port)

    def answer(self, *hosts: Any, port: int = 0) -> None:
        """Answer the last question, with hosts or Twisted's addresses."""
        for host in hosts:
            self.receivers[-1].addressResolved(address_of(host, port))
        self.receivers[-1].resolutionComplete()


def address_of(host: Any, port: int) -> Any:
    """Return Twisted's address for a host."""
    if not isinstance(host, str):
        return host
    kind: Any = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)
