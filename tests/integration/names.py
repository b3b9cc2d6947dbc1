"""Names of the test's own, and what looks them up: in the reactor's place, and a DNS server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet import defer
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from twisted.names import dns
from twisted.names.error import DNSServerError, DomainError
from twisted.names.server import DNSServerFactory
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


class DNSServer:
    """A DNS server on port 53 of an address, over UDP and TCP; `asked` are the names in order.

    It knows `NAMES` and proxy.test. `answers` has for a name what comes instead, one look-up after
    the other, the last for all that follow: an address, "refused" (there is no such name), "failed"
    or "silent".
    """

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[str]] = {}
        self._address = address

    def query(self, query: dns.Query, timeout: Any = None) -> defer.Deferred[Any]:
        """Twisted: answer one question."""
        name = query.name.name.decode()
        self.asked.append(name)
        known = {**NAMES, "proxy.test": "127.0.0.1"}
        answers = self.answers.get(name, [known.get(name, "refused")])
        # IPv4 and IPv6 are asked for at once; it is the former that counts as the look-up.
        answer = answers.pop(0) if query.type == dns.A and len(answers) > 1 else answers[0]
        if answer == "silent":
            return defer.Deferred()
        if answer == "refused":
            return defer.fail(DomainError())
        if answer == "failed":
            return defer.fail(DNSServerError())
        kind: Any = dns.Record_AAAA if ":" in answer else dns.Record_A
        records = [dns.RRHeader(name.encode(), kind.TYPE, payload=kind(answer))]
        return defer.succeed((records if query.type == kind.TYPE else [], [], []))

    async def __aenter__(self) -> DNSServer:
        from twisted.internet import reactor

        that: Any = reactor
        factory = DNSServerFactory(clients=[self])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        protocol.noisy = False  # type: ignore[attr-defined]
        self._ports = [
            that.listenUDP(53, protocol, interface=self._address),
            that.listenTCP(53, factory, interface=self._address),
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for port in self._ports:
            await defer.maybeDeferred(port.stopListening)
