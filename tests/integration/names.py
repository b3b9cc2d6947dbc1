"""Names of the test's own, and what looks them up: in the reactor's place, and a DNS server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from zope.interface import implementer

NAMES = {"four.test": "127.0.0.1", "six.test": "::1"}
"""Names that no name service of this machine knows, and the address of each."""


@implementer(IHostnameResolver)
class Resolver:
    """A name resolver that writes down what it is asked.

    It knows `NAMES`; for all others it has `answers`, None: it never answers.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: Sequence[Any] | None = ()
        self.receivers: list[Any] = []

    def resolveHostName(
        self, receiver: Any, name: str, portNumber: int = 0, *_: Any, **__: Any
    ) -> Any:
        self.asked.append(name)
        self.receivers.append(receiver)
        receiver.resolutionBegan(None)
        answers = [NAMES[name]] if name in NAMES else self.answers
        if answers is not None:
            self.answer(*answers, port=portNumber)

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
