"""The first link: TCP to a host by name or address (Happy Eyeballs), or a Unix socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.clock import monotonic_clock
from wsframe.core.happy_eyeballs import Attempts, in_turn
from wsframe.core.timing import Observe, PhaseDone
from wsframe.core.uri import format_host_port, to_ascii_host
from wsframe.endpoints.link import Link, connect_link, tell
from wsframe.errors import NameLookupFailed, OpenCancelled, TCPConnectFailed

__all__ = ["HostEndpoint", "SocketEndpoint", "look_up"]


_ABSURD: Final = 366 * 24 * 3600
"""Seconds; given to Twisted as its own timeout for each address, where our deadline decides."""


@implementer(IStreamClientEndpoint)
class HostEndpoint:
    """The first link: TCP to a host by name or address, with Happy Eyeballs (RFC 8305).

    A name is looked up anew for every `connect`. Its addresses are tried as in
    `wsframe.core.happy_eyeballs`; the first that connects is taken, the others are given up. An
    address, also one with a zone ("fe80::1%eth0"), needs no look-up. No attempt has a timeout of
    its own.

    `observe` is called when the phases "dns" and "tcp" are done; None tells nobody. `bind_address`
    is the local address and port of the connection, an empty address for any and port 0 for any;
    only addresses of its family are tried. None leaves both to the system. A port other than 0 is
    bound by one attempt at a time; another that starts meanwhile fails.

    Raises ValueError for a `bind_address` that cannot be used. `connect` fails with
    `NameLookupFailed`, `TCPConnectFailed`, and `OpenCancelled` when cancelled; with what the
    factory raises; or with `OpenError` when that builds no protocol.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        *,
        observe: Observe | None = None,
        bind_address: tuple[str, int] | None = None,
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._observe = observe
        self._bind_address = bind_address
        self._usable: Callable[[str], bool] = _is_address
        if bind_address is not None and bind_address[0]:
            self._usable = isIPv6Address if ":" in bind_address[0] else isIPAddress
            if not self._usable(bind_address[0]):
                raise ValueError(f"bind_address has no IP address: {bind_address[0]!r}")
            if _is_address(host) and not self._usable(host):
                raise ValueError(f"{host} cannot be reached from {bind_address[0]}")

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built, which is built only then."""
        return ensureDeferred(self._connect(factory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        where = format_host_port(self._host, self._port)
        hosts: tuple[str, ...] = (self._host,)
        if not _is_address(self._host):
            found = await look_up(self._reactor, self._host, self._port, self._observe)
            hosts = in_turn(filter(self._usable, found))
            if not hosts:
                text = f"no address of {where} can be reached from {self._bind_address}: "
                raise NameLookupFailed(text + ", ".join(found))
        endpoints = {format_host_port(host, self._port): self._endpoint(host) for host in hosts}
        return await _Race(self._reactor, where, endpoints, factory, self._observe).result

    def _endpoint(self, host: str) -> IStreamClientEndpoint:
        kind: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        endpoint: IStreamClientEndpoint = kind(
            self._reactor, host, self._port, timeout=_ABSURD, bindAddress=self._bind_address
        )
        return endpoint

    def __repr__(self) -> str:
        return f"<HostEndpoint {format_host_port(self._host, self._port)}>"


@implementer(IStreamClientEndpoint)
class SocketEndpoint:
    """The first link when it is a Unix socket.

    `observe` is called when the phase "tcp" is done; None tells nobody. `connect` fails as that of
    `HostEndpoint`.
    """

    def __init__(self, reactor: Any, path: str, *, observe: Observe | None = None) -> None:
        self._reactor = reactor
        self._path = path
        self._observe = observe

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fires with the protocol that the factory built, which is built only then."""
        path = self._path
        endpoints = {path: UNIXClientEndpoint(self._reactor, path, timeout=_ABSURD)}
        return _Race(self._reactor, path, endpoints, factory, self._observe).result

    def __repr__(self) -> str:
        return f"<SocketEndpoint {self._path}>"


class _Race:
    """Connects to the first of several addresses that answers; `result` fires once.

    The addresses are the keys of `endpoints`, as errors name them, in the order in which they are
    tried. `where` is what they are addresses of.
    """

    def __init__(
        self,
        reactor: Any,
        where: str,
        endpoints: Mapping[str, IStreamClientEndpoint],
        factory: IProtocolFactory,
        observe: Observe | None,
    ) -> None:
        self._reactor = reactor
        self._now = monotonic_clock(reactor)
        self._begun = self._now()
        self._where = where
        self._endpoints = endpoints
        self._factory = factory
        self._observe = observe
        self._attempts = Attempts(tuple(endpoints), self._begun)
        self._pending: dict[str, Deferred[IProtocol]] = {}
        self._winner: _FirstLink | None = None
        self._over = False
        self._timer: IDelayedCall | None = None
        self.result: Deferred[IProtocol] = Deferred(self._cancel)
        self._go_on()

    def _go_on(self) -> None:
        """Start what is due, and come back when more is."""
        while (address := self._attempts.start(self._now())) is not None:
            link = _FirstLink(self, address, self._factory)
            attempt = self._pending[address] = connect_link(self._endpoints[address], link)
            attempt.addCallbacks(self.result.callback, self._failed, errbackArgs=(address,))
        self._stop_timer()  # an attempt that failed at once has been here, too
        if self._attempts.deadline is not None:
            # The reactor's clock is another one; woken too early, this waits for the rest.
            wait = max(self._attempts.deadline - self._now(), 0.0)
            self._timer = self._reactor.callLater(wait, self._go_on)

    def _failed(self, failure: Failure, address: str) -> None:
        if self._winner is not None and self._winner.address == address:
            if not self.result.called:  # not cancelled: the caller's factory or protocol failed
                self.result.errback(failure)
        elif not self._over:
            del self._pending[address]
            self._attempts.failed(address, _reason(failure), self._now())
            if self._attempts.lost:
                self.result.errback(Failure(self._error()))
            else:
                self._go_on()

    def won(self, link: _FirstLink) -> bool:
        """Return whether the link is the first that is connected; if so, give the others up.

        Also false when the one who observes has cancelled.
        """
        if self._over:
            return False
        self._winner = link
        self._pending.pop(link.address, None)
        self._attempts.connected(link.address)
        before = "; ".join(map(str, self._attempts.so_far(self._now())))
        self._stop()
        if self._observe is not None:
            seconds = self._now() - self._begun
            tell(self._observe, PhaseDone("tcp", link.address, seconds, before))
        return not self.result.called

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        attempts = self._attempts.so_far(self._now())
        text = f"cancelled, {self._where}"
        if attempts:
            text += ": " + "; ".join(map(str, attempts))
        error = OpenCancelled(text, phase="tcp", attempts=attempts)
        self._stop()
        if self._winner is not None:
            self._winner.fail(error)
        self.result.errback(Failure(error))

    def _stop(self) -> None:
        self._over = True
        self._stop_timer()
        for attempt in self._pending.values():
            attempt.cancel()
        self._pending.clear()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _error(self) -> TCPConnectFailed:
        failures = self._attempts.failures
        text = "; ".join(map(str, failures))
        if self._where not in self._endpoints:
            text = f"no address of {self._where} accepted a connection: {text}"
        if self._attempts.left_out:
            text += f"; {self._attempts.left_out} more were not tried"
        return TCPConnectFailed(text, attempts=failures)


class _FirstLink(Link):
    """One attempt; its handshake is TCP's, so that it is done when it begins."""

    phase = "tcp"

    def __init__(self, race: _Race, address: str, factory: IProtocolFactory) -> None:
        super().__init__(factory)
        self._race = race
        self.address = address

    def begin(self) -> None:
        race = self._race
        del self._race  # the connection outlives it
        if race.won(self):
            self.succeed(b"")
        else:
            self._finished = True  # nobody waits for it any more
            cast(Any, self.transport).abortConnection()


def _reason(failure: Failure) -> str:
    error = failure.value
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return failure.getErrorMessage().rstrip(".")


def _is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)


def look_up(
    reactor: Any, host: str, port: int, observe: Observe | None = None
) -> Deferred[tuple[str, ...]]:
    """Resolve a name with the reactor's resolver; fires with one address or more, each once.

    `observe` is called before, when the phase "dns" is done; None tells nobody. Fails with
    `NameLookupFailed`, or `OpenCancelled`.
    """
    now = monotonic_clock(reactor)
    begun = now()
    where = format_host_port(host, port)
    result: Deferred[tuple[str, ...]] = Deferred(
        lambda _: result.errback(Failure(OpenCancelled(f"cancelled, {where}", phase="dns")))
    )
    found: dict[str, None] = {}

    def fail(text: str) -> None:
        if not result.called:
            result.errback(Failure(NameLookupFailed(text)))

    @implementer(IResolutionReceiver)
    class Receiver:
        def resolutionBegan(self, resolution: IHostResolution) -> None:
            """Nothing: Twisted's own resolution cannot be cancelled, only not be waited for."""

        def addressResolved(self, address: IAddress) -> None:
            if isinstance(address, IPv6Address) and address.scopeID and "%" not in address.host:
                found[f"{address.host}%{address.scopeID}"] = None
            elif isinstance(address, IPv4Address | IPv6Address):
                found[address.host] = None

        def resolutionComplete(self) -> None:
            if not found:
                fail(f"no address for {where}")
            if observe is not None and not result.called:
                tell(observe, PhaseDone("dns", where, now() - begun, ", ".join(found)))
            if not result.called:  # nor cancelled by who observes
                result.callback(tuple(found))

    try:
        name = to_ascii_host(host)  # Twisted's resolver never answers for what is no name
    except ValueError as error:
        fail(f"{host!r} is not a host name: {error}")
        return result
    try:
        reactor.nameResolver.resolveHostName(Receiver(), name, port)
    except Exception as error:  # noqa: BLE001 - a resolver can be the application's
        fail(f"no address for {where}: {error}")
    return result
