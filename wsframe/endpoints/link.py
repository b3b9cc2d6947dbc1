"""What all links of the chain have in common: one handshake, one result, one deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsframe.clock import global_reactor, monotonic_clock
from wsframe.core.checks import LONGEST
from wsframe.core.timing import Observe, PhaseDone
from wsframe.errors import (
    OpenCancelled,
    OpenError,
    OpenTimeout,
    Phase,
    ProxyError,
    ProxyTimeout,
)

__all__ = ["Link", "Watch", "all_of", "checked_timeout", "connect_link", "tell", "with_deadline"]

_log = Logger(namespace="wsframe.observe")


def checked_timeout(seconds: float | None) -> float | None:
    """Return the seconds given as a `timeout=`; raise TypeError or ValueError for what is none."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"timeout is a number of seconds, or None, not {seconds!r}")
    if not 0 < seconds <= LONGEST:  # NaN is neither
        raise ValueError(f"timeout must be above 0 and at most a year of seconds, not {seconds}")
    return seconds


def with_deadline(
    reactor: IReactorTime, attempt: Deferred[Any], seconds: float | None, what: str
) -> Deferred[Any]:
    """Cancel the attempt after so many seconds (None: never); then it fails with `OpenTimeout`.

    `what` is to be opened, as the error names it: host:port or a URI.
    """
    if seconds is None:
        return attempt
    timed_out = False

    def give_up() -> None:
        nonlocal timed_out
        timed_out = True
        attempt.cancel()

    call: IDelayedCall = reactor.callLater(seconds, give_up)

    def done(result: object) -> object:
        if call.active():
            call.cancel()
        error = result.value if isinstance(result, Failure) else None
        if not (timed_out and isinstance(error, OpenCancelled)):
            return result
        text = f"{what}: not open after {seconds:g} s"
        if error.phase is not None:
            text += f", in phase {error.phase}"
        if error.proxy is not None:
            text += f" with {error.proxy}"
        if error.attempts:
            text += ": " + "; ".join(map(str, error.attempts))
        late: OpenError
        if error.refusal is not None:
            late = error.refusal
        elif error.proxy is None:
            late = OpenTimeout(text, phase=error.phase, attempts=error.attempts)
        else:
            late = ProxyTimeout(text, proxy=error.proxy, phase=error.phase, attempts=error.attempts)
        late.at_deadline = True
        return Failure(all_of([*error.others, late]))

    return attempt.addBoth(done)


def tell(observe: Observe, done: PhaseDone) -> None:
    """Tell an observer; what it raises is logged, and the attempt that it watches goes on."""
    try:
        observe(done)
    except Exception:  # noqa: BLE001 - the application's; in the way of a reactor it would hang us
        _log.failure("Error in what observes an opening, phase {phase}", phase=done.phase)


class Watch:
    """Takes the time of phases for whoever observes an opening; `observe` None: for nobody.

    `reactor` None is the installed one.
    """

    def __init__(self, reactor: IReactorTime | None, observe: Observe | None) -> None:
        self._observe = observe
        self._now = None if observe is None else monotonic_clock(reactor or global_reactor())

    def now(self) -> float:
        """Return the time in seconds, 0 where nobody wants to know."""
        return 0.0 if self._now is None else self._now()

    def done(self, phase: Phase, to: str, since: float, detail: str = "") -> None:
        """Tell of a phase that began at `since`, in the time of `now`, and has succeeded."""
        if self._observe is not None:
            tell(self._observe, PhaseDone(phase, to, self.now() - since, detail))


NOBODY: Final = Watch(None, None)


@implementer(IHalfCloseableProtocol)
class Link(Protocol):
    """A protocol that shakes hands, and then hands its transport to the protocol inside.

    A subclass gives `begin`, `advance` (bytes in; the leftover bytes out once done, None before)
    and `ended` (the error for a transport that is lost too early). `proxy` is the proxy that it
    shakes hands with, without its password, None where that is not a proxy. `watch` is told of the
    success; `to` is then what was shaken hands with, and `detail` what came of it.
    """

    phase: Phase
    proxy: str | None = None
    detail: str = ""

    def __init__(self, factory: IProtocolFactory, watch: Watch = NOBODY, to: str = "") -> None:
        self._factory = factory
        self._watch = watch
        self._to = to
        self._since = 0.0
        self._inner: IProtocol | None = None
        self._finished = False
        self.result: Deferred[IProtocol] = Deferred(self._cancel)

    def begin(self) -> None:
        """Send what begins the handshake."""

    def advance(self, data: bytes) -> bytes | None:
        """Take bytes in."""
        raise NotImplementedError

    def ended(self, reason: Failure) -> Exception:
        """Return the error for a loss during the handshake."""
        raise NotImplementedError

    def connectionMade(self) -> None:
        """Twisted: the transport below is connected; begin."""
        self._since = self._watch.now()
        self.begin()

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes for the handshake, and then for the protocol inside."""
        if self._inner is not None:
            self._inner.dataReceived(data)
        elif not self._finished:
            try:
                leftover = self.advance(data)
            except OpenError as error:
                self.fail(error)
                return
            if leftover is not None:
                self.succeed(leftover)

    def succeed(self, leftover: bytes) -> None:
        """Build the protocol inside; the bytes that came already are its first."""
        self._watch.done(self.phase, self._to, self._since, self.detail)
        if self.result.called:  # cancelled by who observes
            return
        transport = cast(ITransport, self.transport)
        self._factory.doStart()
        try:
            inner = self._factory.buildProtocol(transport.getPeer())
            if inner is None:
                raise OpenError("the factory built no protocol", phase=self.phase)
            self._inner = inner
            inner.makeConnection(transport)
        except Exception as error:  # noqa: BLE001 - the application's factory and protocol
            self._inner = None
            self._factory.doStop()
            self.fail(error)
            return
        if self._finished:  # cancelled meanwhile, by the factory or the protocol
            return
        self._finished = True
        self.result.callback(inner)
        if leftover:
            inner.dataReceived(leftover)

    def fail(self, error: Exception) -> None:
        """Fail once, and abort."""
        if self._finished:
            return
        self._finished = True
        if self.transport is not None:
            # Not every transport can: a process, for one, can only be left.
            transport = cast(Any, self.transport)
            getattr(transport, "abortConnection", transport.loseConnection)()
        self.result.errback(Failure(error))

    def refusal(self) -> ProxyError | None:
        """Return what is to be told at a deadline in place of a timeout, None for nothing."""
        return None

    def _cancel(self, _: Deferred[IProtocol]) -> None:
        text = f"cancelled in phase {self.phase}"
        refusal = self.refusal()
        self.fail(OpenCancelled(text, phase=self.phase, proxy=self.proxy, refusal=refusal))

    def readConnectionLost(self) -> None:
        """Twisted: the other side has ended its direction; for most protocols that is the end."""
        inner: Any = self._inner
        if IHalfCloseableProtocol.providedBy(inner):
            inner.readConnectionLost()
        else:
            # What the transport does by itself where a protocol does not ask to be told.
            cast(Any, self.transport).connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        """Twisted: this side has ended its direction."""
        inner: Any = self._inner
        if IHalfCloseableProtocol.providedBy(inner):
            inner.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone; before the end of the handshake that is a failure."""
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connectionLost(reason)
            self._factory.doStop()
        elif not self._finished:
            self.fail(self.ended(reason))


def connect_link(
    endpoint: IStreamClientEndpoint,
    link: Link,
    wrap: Callable[[IProtocolFactory], IProtocolFactory] = lambda factory: factory,
) -> Deferred[IProtocol]:
    """Connect the link over the endpoint; fires when the link's handshake is complete."""
    factory: Any = Factory.forProtocol(cast(Any, lambda: link))
    factory.noisy = False
    below: Deferred[Any] = endpoint.connect(wrap(factory))
    # Cancelled, it cancels whichever of the two it is waiting for.
    return cast("Deferred[IProtocol]", below.addCallback(lambda _: link.result))


def all_of(errors: list[OpenError]) -> OpenError:
    """Return the last error, with the text of them all, and the others beside it."""
    *others, last = errors
    last.others = tuple(others)
    last.args = ("; ".join(dict.fromkeys(map(str, errors))),)
    return last
