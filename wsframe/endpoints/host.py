"""The first link: TCP to a host by name or address, or a Unix socket."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.core.uri import format_host_port
from wsframe.errors import (
    NameLookupFailed,
    OpenCancelled,
    Phase,
    TCPConnectFailed,
)

__all__ = ["HostEndpoint", "SocketEndpoint", "look_up"]


_ABSURD: Final = 366 * 24 * 3600
"""Seconds; given to Twisted as its own timeout for each address, where our deadline decides."""


class HostEndpoint:
    """The first link: TCP to a host by name or address, as Twisted's `HostnameEndpoint` does it.

    Its failures are `NameLookupFailed`, `TCPConnectFailed` and, when cancelled, `OpenCancelled`.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._where = format_host_port(host, port)
        self._endpoint = self._twisteds(reactor, host, port)

    @staticmethod
    def _twisteds(reactor: Any, host: str, port: int) -> Any:
        kind: Any = HostnameEndpoint
        if isIPAddress(host):
            # Neither a look-up nor a second address to wait for: what is refused is told at once.
            kind = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        return kind(reactor, host, port, timeout=_ABSURD)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built."""
        cancelled = False

        def cancel(_: Deferred[IProtocol]) -> None:
            nonlocal cancelled
            cancelled = True
            attempt.cancel()

        def failed(failure: Failure) -> Failure:
            error = failure.value
            phase: Phase = "dns" if isinstance(error, DNSLookupError | UnicodeError) else "tcp"
            if cancelled:
                return Failure(OpenCancelled(f"cancelled, {self._where}", phase=phase))
            if phase == "dns":
                return Failure(NameLookupFailed(f"no address for {self._where}"))
            text = f"{self._where}: {failure.getErrorMessage().rstrip('.')}"
            return Failure(TCPConnectFailed(text))

        result: Deferred[IProtocol] = Deferred(cancel)
        attempt = self._endpoint.connect(factory)
        attempt.addErrback(failed).addBoth(result.callback)
        return result


class SocketEndpoint(HostEndpoint):
    """The first link when it is a Unix socket."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._where = path
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=_ABSURD)


def look_up(reactor: Any, host: str, port: int) -> Deferred[tuple[str, ...]]:
    """Resolve a name as Twisted's `HostnameEndpoint` does; fires with one address or more."""
    result: Deferred[tuple[str, ...]] = Deferred(
        lambda _: result.errback(Failure(OpenCancelled(f"cancelled, {host}", phase="dns")))
    )
    found: list[str] = []

    @implementer(IResolutionReceiver)
    class Receiver:
        def resolutionBegan(self, resolution: IHostResolution) -> None:
            """Nothing: Twisted's own resolution cannot be cancelled, only not be waited for."""

        def addressResolved(self, address: IAddress) -> None:
            if isinstance(address, IPv4Address | IPv6Address) and address.host not in found:
                found.append(address.host)

        def resolutionComplete(self) -> None:
            if result.called:
                return
            if found:
                result.callback(tuple(found))
            else:
                result.errback(
                    Failure(NameLookupFailed(f"no address for {format_host_port(host, port)}"))
                )

    reactor.nameResolver.resolveHostName(Receiver(), host, port)
    return result
