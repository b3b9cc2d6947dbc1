"""TCP to a host: every turn that the race of its addresses can take, on a clock that stands still.

No socket is opened: an address answers, or fails, when the test says so.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from integration.names import Resolver, address_of
from integration.raw import Raw
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.defer import AlreadyCalledError, Deferred
from twisted.internet.error import ConnectBindError, ConnectError, ConnectionDone, getConnectError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from wsframe.core.happy_eyeballs import MAX_ADDRESSES
from wsframe.core.timing import PhaseDone
from wsframe.endpoints import HostEndpoint, HTTPConnectEndpoint
from wsframe.endpoints.host import SocketEndpoint
from wsframe.endpoints.link import with_deadline
from wsframe.errors import (
    AddressFailure,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyTimeout,
    ProxyUnreachable,
    TCPConnectFailed,
)

SIX, FOUR, SIX_B, FOUR_B = "2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"
ADDRESSES = (SIX, SIX_B, FOUR, FOUR_B)
IN_TURN = [SIX, FOUR, SIX_B, FOUR_B]
REFUSED = "Connection refused"
PATH = "/run/proxy.sock"


class Network(MemoryReactorClock):  # type: ignore[misc]
    """A reactor with a resolver of the test's own; `broken` is raised by every connectTCP."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Resolver()
        self.broken: Exception | None = None

    def connectTCP(self, *args: Any, **kwargs: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        return super().connectTCP(*args, **kwargs)


class Building(Factory):
    """Builds protocols that record; `then` is called with each when it is built."""

    noisy = False

    def __init__(self, then: Callable[[Raw], Any] = lambda protocol: protocol) -> None:
        self.built: list[Raw] = []
        self._then = then

    def buildProtocol(self, _: Any) -> Any:
        self.built.append(Raw())
        return self._then(self.built[-1])


class Opening:
    """One `connect`, and the network as the test plays it."""

    def __init__(
        self,
        answers: tuple[Any, ...] | None = ADDRESSES,
        host: str = "target.test",
        *,
        reactor: Network | None = None,
        wrap: Callable[[Network, Deferred[Any]], Deferred[Any]] = lambda _, connecting: connecting,
        then: Callable[[Raw], Any] = lambda protocol: protocol,
        connect: Callable[[Opening], Any] | None = None,
        **arguments: Any,
    ) -> None:
        self.reactor = reactor or Network()
        self.resolver: Resolver = self.reactor.nameResolver
        self.resolver.answers = answers
        self.told: list[PhaseDone] = []
        self.transports: dict[str, Any] = {}
        self.ended: set[str] = set()
        self.factory = Building(then)
        self.results: list[Any] = []
        arguments = {"observe": self.told.append, **arguments}
        if connect is None:
            endpoint: Any = HostEndpoint(self.reactor, host, 80, **arguments)
            self.connecting = endpoint.connect(self.factory)
        else:
            self.connecting = connect(self)
        self.connecting = wrap(self.reactor, self.connecting)
        self.connecting.addBoth(self.results.append)

    @property
    def tried(self) -> list[str]:
        """The addresses tried, in order."""
        clients = [client[0] for client in self.reactor.tcpClients]
        return [*clients, *(client[0] for client in self.reactor.unixClients)]

    @property
    def hanging(self) -> list[str]:
        """Those that neither connected nor failed, and are not given up."""
        return [
            host
            for host, connector in zip(self.tried, self.reactor.connectors, strict=True)
            if not connector.stoppedConnecting and host not in {*self.transports, *self.ended}
        ]

    def _factory_of(self, host: str) -> Any:
        if self.reactor.unixClients:
            return self.reactor.unixClients[0][1]
        return self.reactor.tcpClients[self.tried.index(host)][2]

    def accept(self, host: str) -> Any:
        """Let an address connect, as the reactor does it; return its transport.

        One that was given up connects on no reactor of Twisted's, and Twisted's endpoint stumbles
        over it. Ours holds here, too.
        """
        address: Any = UNIXAddress(host) if "/" in host else address_of(host, 80)
        transport = self.transports[host] = StringTransport(peerAddress=address)
        protocol = self._factory_of(host).buildProtocol(address)
        transport.protocol = protocol
        given_up = self.reactor.connectors[self.tried.index(host)].stoppedConnecting
        with pytest.raises(AlreadyCalledError) if given_up else nullcontext():
            protocol.makeConnection(transport)
        return transport

    def refuse(self, host: str, number: int = errno.ECONNREFUSED) -> None:
        """Let an address fail."""
        self.fail(host, getConnectError((number, "whatever")))

    def fail(self, host: str, error: Exception) -> None:
        self.ended.add(host)
        self._factory_of(host).clientConnectionFailed(None, Failure(error))

    def wait(self, seconds: float) -> None:
        self.reactor.advance(seconds)

    @property
    def result(self) -> Any:
        """The protocol or the error; nothing is left but its transport."""
        (result,) = self.results
        assert self.hanging == []
        assert self.reactor.getDelayedCalls() == []
        return result.value if isinstance(result, Failure) else result


def shown(host: str) -> str:
    return f"[{host}]:80" if ":" in host else f"{host}:80"


def failures(*hosts: str, reason: str = REFUSED) -> tuple[AddressFailure, ...]:
    return tuple(AddressFailure(shown(host), reason) for host in hosts)


# ---------------------------------------------------------------- which address when


@pytest.mark.parametrize("host", [FOUR, SIX, "fe80::1%eth0"])
def test_address_needs_no_look_up(host: str) -> None:
    opening = Opening(host=host)
    assert opening.resolver.asked == []
    assert opening.tried == [host]
    opening.wait(0.5)
    opening.accept(host)
    assert opening.result is opening.factory.built[0]
    assert opening.told == [PhaseDone("tcp", shown(host), 0.5)]


def test_name_is_looked_up_anew_for_every_connect() -> None:
    opening = Opening()
    endpoint = HostEndpoint(opening.reactor, "target.test", 80)
    for count in (2, 3):
        endpoint.connect(Factory()).addErrback(lambda _: None).cancel()
        assert opening.resolver.asked == ["target.test"] * count
    opening.connecting.cancel()


def test_name_is_looked_up_in_ascii() -> None:
    opening = Opening(host="Bücher.test")
    assert opening.resolver.asked == ["xn--bcher-kva.test"]
    opening.connecting.cancel()


def test_each_address_has_a_head_start_on_the_next_of_the_other_family() -> None:
    opening = Opening()
    for count in range(1, 5):
        assert opening.tried == IN_TURN[:count]
        opening.wait(0.125)
        assert opening.tried == IN_TURN[:count]
        opening.wait(0.125)
    opening.wait(1000.0)  # no attempt has a timeout of its own
    assert opening.hanging == IN_TURN
    assert opening.results == []
    opening.accept(SIX)
    assert opening.result is opening.factory.built[0]


def test_failure_lets_the_next_begin_at_once() -> None:
    opening = Opening()
    opening.refuse(SIX)
    assert opening.tried == IN_TURN[:2]
    opening.wait(0.125)
    opening.refuse(FOUR)
    assert opening.tried == IN_TURN[:3]
    opening.wait(0.125)
    assert opening.tried == IN_TURN[:3]
    opening.wait(0.125)
    assert opening.tried == IN_TURN
    opening.connecting.cancel()


def test_timer_that_is_early_waits_for_the_rest() -> None:
    """The reactor's clock need not be the one that the delay is measured with."""

    class Hasty(Network):
        def callLater(self, seconds: float, *args: Any, **kwargs: Any) -> Any:
            return super().callLater(seconds * 0.75, *args, **kwargs)

    opening = Opening(reactor=Hasty())
    opening.wait(0.1875)
    assert opening.tried == [SIX]
    opening.wait(0.0625)
    assert opening.tried == [SIX, FOUR]
    opening.connecting.cancel()


def test_zone_of_a_found_address_is_kept() -> None:
    opening = Opening((IPv6Address("TCP", "fe80::1", 80, 0, 3), IPv6Address("TCP", "::2", 80)))
    opening.refuse("fe80::1%3")
    assert opening.tried == ["fe80::1%3", "::2"]
    opening.connecting.cancel()


# ---------------------------------------------------------------- success


def test_first_to_connect_is_taken_and_the_others_are_given_up() -> None:
    opening = Opening()
    opening.refuse(SIX, errno.ENETUNREACH)
    opening.wait(0.25)
    assert opening.hanging == [FOUR, SIX_B]
    opening.wait(0.125)
    transport = opening.accept(SIX_B)
    assert opening.result is opening.factory.built[0]
    assert opening.result.transport is transport
    assert not transport.disconnecting
    before = f"{shown(SIX)}: Network is unreachable; {shown(FOUR)}: no answer in 0.375 s"
    assert opening.told == [
        PhaseDone("dns", "target.test:80", 0.0, ", ".join(ADDRESSES)),
        PhaseDone("tcp", shown(SIX_B), 0.375, before),
    ]


def test_nobody_need_observe() -> None:
    opening = Opening(observe=None)
    opening.accept(SIX)
    assert opening.result is opening.factory.built[0]


def test_phases_are_timed_apart() -> None:
    opening = Opening(None)
    opening.wait(2.0)
    assert opening.tried == []
    opening.resolver.answer(FOUR)
    opening.wait(0.125)
    opening.accept(FOUR)
    assert [(done.phase, done.seconds) for done in opening.told] == [("dns", 2.0), ("tcp", 0.125)]


def test_second_that_connects_in_the_same_turn_is_aborted_and_not_built() -> None:
    opening = Opening()
    opening.wait(0.25)
    winner = opening.accept(FOUR)
    loser = opening.accept(SIX)
    assert opening.result.transport is winner
    assert loser.disconnected
    assert not winner.disconnecting
    assert len(opening.factory.built) == 1
    loser.protocol.dataReceived(b"x")
    loser.protocol.connectionLost(Failure(ConnectionDone()))
    assert opening.factory.built[0].received == b""
    assert opening.factory.built[0].lost is None


def test_protocol_hears_the_transport() -> None:
    opening = Opening(host=FOUR)
    transport = opening.accept(FOUR)
    transport.protocol.dataReceived(b"x")
    assert opening.result.received == b"x"
    transport.protocol.connectionLost(Failure(ConnectionDone()))
    assert opening.result.lost.check(ConnectionDone)


# ---------------------------------------------------------------- failure


def test_when_all_fail_the_error_lists_each_with_its_reason() -> None:
    opening = Opening()
    for _ in range(3):
        opening.wait(0.25)
    opening.refuse(FOUR_B)
    opening.refuse(SIX, errno.EHOSTUNREACH)
    opening.refuse(FOUR)
    assert opening.results == []
    opening.refuse(SIX_B, errno.ETIMEDOUT)
    error = opening.result
    assert isinstance(error, TCPConnectFailed)
    assert error.attempts == (
        AddressFailure(shown(FOUR_B), REFUSED),
        AddressFailure(shown(SIX), "No route to host"),
        AddressFailure(shown(FOUR), REFUSED),
        AddressFailure(shown(SIX_B), "Connection timed out"),
    )
    listed = "; ".join(map(str, error.attempts))
    assert str(error) == f"no address of target.test:80 accepted a connection: {listed}"
    assert opening.factory.built == []
    assert [done.phase for done in opening.told] == ["dns"]


@pytest.mark.parametrize("host", [FOUR, SIX])
def test_failure_of_an_address_names_it_once(host: str) -> None:
    opening = Opening(host=host)
    opening.refuse(host)
    assert isinstance(opening.result, TCPConnectFailed)
    assert str(opening.result) == f"{shown(host)}: {REFUSED}"
    assert opening.result.attempts == failures(host)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectBindError(errno.EADDRNOTAVAIL, "x"), "Cannot assign requested address"),
        (
            ConnectError(string="something else"),
            "An error occurred while connecting: something else",
        ),
        (RuntimeError("Something else."), "Something else"),
    ],
)
def test_reason_is_the_systems_word_for_it_or_else_the_errors(
    error: Exception, reason: str
) -> None:
    opening = Opening(host=FOUR)
    opening.fail(FOUR, error)
    assert opening.result.attempts == failures(FOUR, reason=reason)


def test_attempts_that_fail_before_they_begin_are_listed() -> None:
    """An unknown zone is one."""
    reactor = Network()
    reactor.broken = OSError(errno.EMFILE, "no more")
    opening = Opening(reactor=reactor)
    assert isinstance(opening.result, TCPConnectFailed)
    assert opening.result.attempts == failures(*IN_TURN, reason="[Errno 24] no more")


def test_addresses_beyond_the_limit_are_counted_and_not_tried() -> None:
    hosts = tuple(f"192.0.2.{n}" for n in range(MAX_ADDRESSES + 2))
    opening = Opening(hosts)
    for host in hosts[:MAX_ADDRESSES]:
        opening.refuse(host)
    assert opening.result.attempts == failures(*hosts[:MAX_ADDRESSES])
    assert str(opening.result).endswith(f"{hosts[15]}:80: {REFUSED}; 2 more were not tried")


def test_name_without_an_address_is_name_lookup_failed() -> None:
    opening = Opening(())
    assert isinstance(opening.result, NameLookupFailed)
    assert str(opening.result) == "no address for target.test:80"
    assert opening.told == []


@pytest.mark.parametrize("host", ["", "a b", "a..b", "x" * 64 + ".test", "fe80::zz", "127.1"])
def test_what_is_no_name_is_not_looked_up(host: str) -> None:
    opening = Opening(host=host)
    assert isinstance(opening.result, NameLookupFailed)
    assert repr(host) in str(opening.result)
    assert opening.resolver.asked == []


def test_resolver_that_raises_is_name_lookup_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no resolver today")

    monkeypatch.setattr(Resolver, "resolveHostName", broken)
    opening = Opening()
    assert isinstance(opening.result, NameLookupFailed)
    assert str(opening.result) == "no address for target.test:80: no resolver today"


def test_resolver_that_raises_after_its_answer_is_too_late() -> None:
    class Late(Resolver):
        def resolveHostName(self, *args: Any, **kwargs: Any) -> None:
            super().resolveHostName(*args, **kwargs)
            raise RuntimeError("too late")

    reactor = Network()
    reactor.nameResolver = Late()
    opening = Opening(reactor=reactor)
    opening.accept(SIX)
    assert opening.result is opening.factory.built[0]


def test_answer_that_is_no_ip_address_is_passed_over() -> None:
    opening = Opening((UNIXAddress(PATH), FOUR))
    assert opening.tried == [FOUR]
    opening.connecting.cancel()


def fail_to_build(_: Raw) -> Any:
    raise RuntimeError("not today")


def build_nothing(_: Raw) -> None:
    return None


def build_what_raises(protocol: Raw) -> Raw:
    protocol.connectionMade = lambda: fail_to_build(protocol)  # type: ignore[method-assign]
    return protocol


@pytest.mark.parametrize(
    ("then", "expected", "text"),
    [
        (fail_to_build, RuntimeError, "not today"),
        (build_what_raises, RuntimeError, "not today"),
        (build_nothing, OpenError, "the factory built no protocol"),
    ],
)
def test_failure_of_the_factory_ends_it_and_no_other_address_is_tried(
    then: Callable[[Raw], Any], expected: type[Exception], text: str
) -> None:
    opening = Opening(then=then)
    opening.wait(0.25)
    transport = opening.accept(SIX)
    assert isinstance(opening.result, expected)
    assert str(opening.result) == text
    assert transport.disconnected
    assert opening.tried == [SIX, FOUR]
    assert len(opening.factory.built) == 1


# ---------------------------------------------------------------- cancelled, and too late


def test_cancelled_while_the_name_is_looked_up() -> None:
    opening = Opening(None)
    opening.connecting.cancel()
    error = opening.result
    assert isinstance(error, OpenCancelled)
    assert (error.phase, error.attempts) == ("dns", ())
    assert "target.test:80" in str(error)
    opening.resolver.answer(FOUR)  # too late for anybody
    assert opening.tried == []
    assert opening.result is error


def test_cancelled_while_addresses_are_tried() -> None:
    opening = Opening()
    opening.wait(0.25)
    opening.refuse(SIX)
    opening.wait(0.125)
    opening.connecting.cancel()
    error = opening.result
    assert isinstance(error, OpenCancelled)
    assert error.phase == "tcp"
    assert error.attempts == (
        AddressFailure(shown(SIX), REFUSED),
        AddressFailure(shown(FOUR), "no answer in 0.125 s"),
        AddressFailure(shown(SIX_B), "no answer in 0.125 s"),
    )
    assert str(error) == "cancelled, target.test:80: " + "; ".join(map(str, error.attempts))
    late = opening.accept(FOUR)
    assert late.disconnected
    assert opening.factory.built == []


@pytest.mark.parametrize("moment", ["buildProtocol", "connectionMade"])
def test_cancelled_by_what_the_factory_builds(moment: str) -> None:
    """The transport is connected, and the caller does not know it yet."""

    def then(protocol: Raw) -> Raw:
        if moment == "buildProtocol":
            opening.connecting.cancel()
        else:
            protocol.connectionMade = opening.connecting.cancel  # type: ignore[method-assign]
        return protocol

    opening = Opening(then=then)
    transport = opening.accept(SIX)
    assert isinstance(opening.result, OpenCancelled)
    assert str(opening.result) == "cancelled, target.test:80"
    assert opening.result.phase == "tcp"
    assert transport.disconnected
    (built,) = opening.factory.built
    transport.protocol.connectionLost(Failure(ConnectionDone()))
    assert built.lost is not None  # it was connected, and hears of the end


@pytest.mark.parametrize("phase", ["dns", "tcp"])
def test_cancelled_by_who_observes(phase: str) -> None:
    def observe(done: PhaseDone) -> None:
        if done.phase == phase:
            opening.connecting.cancel()

    opening = Opening(None, observe=observe)
    opening.resolver.answer(FOUR, SIX)
    if phase == "tcp":
        assert opening.accept(FOUR).disconnected
    assert isinstance(opening.result, OpenCancelled)
    assert opening.factory.built == []


def test_deadline_tells_what_hung_and_what_failed() -> None:
    opening = Opening(
        wrap=lambda reactor, it: with_deadline(reactor, it, 0.375, "ws://target.test/")
    )
    opening.wait(0.25)
    opening.refuse(FOUR)
    opening.refuse(SIX_B)
    opening.wait(0.125)
    error = opening.result
    assert isinstance(error, OpenTimeout)
    assert error.attempts == (
        *failures(FOUR, SIX_B),
        AddressFailure(shown(SIX), "no answer in 0.375 s"),
        AddressFailure(shown(FOUR_B), "no answer in 0.125 s"),
    )
    assert str(error) == "ws://target.test/: not open after 0.375 s, in phase tcp: " + "; ".join(
        map(str, error.attempts)
    )


def test_deadline_in_another_phase_tells_no_addresses() -> None:
    opening = Opening(None, wrap=lambda reactor, it: with_deadline(reactor, it, 1.0, "x"))
    opening.wait(1.0)
    assert isinstance(opening.result, OpenTimeout)
    assert opening.result.attempts == ()
    assert str(opening.result) == "x: not open after 1 s, in phase dns"


# ---------------------------------------------------------------- the way to a proxy


def through_a_proxy(opening: Opening) -> Any:
    proxy = "http://u:secret@proxy.test:80"
    endpoint = HTTPConnectEndpoint(opening.reactor, proxy, "target.test", 443, timeout=0.5)
    return endpoint.connect(opening.factory)


def test_proxy_that_is_not_reached_has_the_attempts() -> None:
    opening = Opening((FOUR, SIX), connect=through_a_proxy)
    assert opening.resolver.asked == ["proxy.test"]
    opening.refuse(FOUR)
    opening.refuse(SIX)
    assert isinstance(opening.result, ProxyUnreachable)
    assert opening.result.attempts == failures(FOUR, SIX)
    for failure in failures(FOUR, SIX):
        assert str(failure) in str(opening.result)
    assert "secret" not in str(opening.result)


def test_proxy_that_does_not_answer_in_time_has_the_attempts() -> None:
    opening = Opening((FOUR, SIX), connect=through_a_proxy)
    opening.refuse(FOUR)
    opening.wait(0.5)
    error = opening.result
    assert isinstance(error, ProxyTimeout)
    assert error.phase == "tcp"
    assert error.attempts == (*failures(FOUR), AddressFailure(shown(SIX), "no answer in 0.5 s"))
    assert str(error).endswith(
        f"in phase tcp with {error.proxy}: " + "; ".join(map(str, error.attempts))
    )
    assert "secret" not in str(error)


# ---------------------------------------------------------------- where from


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        (("192.0.2.9", 0), [FOUR, FOUR_B]),
        (("2001:db8::9", 0), [SIX, SIX_B]),
        (("", 4321), IN_TURN),
        (None, IN_TURN),
    ],
)
def test_only_addresses_of_the_bound_family_are_tried(
    bind: tuple[str, int] | None, expected: list[str]
) -> None:
    opening = Opening(bind_address=bind)
    for _ in range(3):
        opening.wait(0.25)
    assert opening.tried == expected
    assert {client[4] for client in opening.reactor.tcpClients} == {bind}
    opening.connecting.cancel()


def test_name_without_an_address_of_the_bound_family_is_name_lookup_failed() -> None:
    opening = Opening((SIX, SIX_B), bind_address=("192.0.2.9", 0))
    assert isinstance(opening.result, NameLookupFailed)
    for told in ("target.test:80", SIX, SIX_B, "192.0.2.9"):
        assert told in str(opening.result)
    assert opening.tried == []


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        (FOUR, "2001:db8::9"),
        (SIX, "192.0.2.9"),
        ("target.test", "localhost"),
        ("target.test", "fe80::zz"),
    ],
)
def test_bind_address_that_cannot_be_used_is_told_when_given(host: str, bind: str) -> None:
    with pytest.raises(ValueError, match=bind):
        HostEndpoint(Network(), host, 80, bind_address=(bind, 0))


# ---------------------------------------------------------------- Unix sockets


def through_a_socket(opening: Opening) -> Any:
    endpoint: Any = SocketEndpoint(opening.reactor, PATH, observe=opening.told.append)
    return endpoint.connect(opening.factory)


def test_unix_socket_connects() -> None:
    opening = Opening(connect=through_a_socket)
    opening.wait(0.125)
    transport = opening.accept(PATH)
    assert opening.result is opening.factory.built[0]
    assert opening.result.transport is transport
    assert opening.told == [PhaseDone("tcp", PATH, 0.125)]


def test_unix_socket_that_is_not_there_is_listed() -> None:
    opening = Opening(connect=through_a_socket)
    opening.refuse(PATH, errno.ENOENT)
    assert isinstance(opening.result, TCPConnectFailed)
    assert str(opening.result) == f"{PATH}: No such file or directory"
    assert opening.result.attempts == (AddressFailure(PATH, "No such file or directory"),)


def test_unix_socket_that_hangs_can_be_cancelled() -> None:
    opening = Opening(connect=through_a_socket)
    opening.wait(2.0)
    opening.connecting.cancel()
    assert isinstance(opening.result, OpenCancelled)
    assert opening.result.attempts == (AddressFailure(PATH, "no answer in 2 s"),)


def test_endpoints_say_where_they_lead() -> None:
    assert repr(HostEndpoint(Network(), SIX, 80)) == f"<HostEndpoint [{SIX}]:80>"
    assert repr(SocketEndpoint(Network(), PATH)) == f"<SocketEndpoint {PATH}>"


# ---------------------------------------------------------------- whatever happens

EVENTS = st.lists(
    st.one_of(
        st.sampled_from([0.0, 0.125, 0.25, 1.0]),
        st.tuples(st.sampled_from(["accept", "refuse"]), st.integers(0, 5)),
        st.just("cancel"),
    ),
    max_size=20,
)
SOME = st.lists(st.sampled_from([*ADDRESSES, "2001:db8::3", "192.0.2.3"]), min_size=1, max_size=6)


@given(SOME, EVENTS)
def test_there_is_one_result_one_protocol_and_nothing_left(
    answers: list[str], events: list[Any]
) -> None:
    opening = Opening(tuple(answers))
    once = set(answers)
    refused: list[str] = []
    winner = None
    cancelled = False
    for event in events:
        over = bool(opening.results)
        tried = opening.tried
        assert len(tried) == len(set(tried))
        if event == "cancel":
            opening.connecting.cancel()
            cancelled = cancelled or not over
        elif isinstance(event, float):
            opening.wait(event)
        else:
            kind, place = event
            host = tried[place % len(tried)]
            if host in {*opening.transports, *opening.ended}:
                continue
            if kind == "refuse" and not over:
                opening.refuse(host)
                refused.append(host)
            elif kind == "accept":  # also when it is too late
                transport = opening.accept(host)
                winner = winner or (not over and transport) or None
                assert transport.disconnected == (transport is not winner)
        assert len(opening.results) == (winner is not None or cancelled or set(refused) == once)
        assert len(opening.factory.built) == (winner is not None)
        assert [done.phase for done in opening.told] == ["dns", "tcp"][: 1 + (winner is not None)]
        if over:
            assert opening.tried == tried
        if opening.results:
            result = opening.result  # with nothing left
            if winner is not None:
                assert result.transport is winner
            elif cancelled:
                assert isinstance(result, OpenCancelled)
                assert {attempt.address for attempt in result.attempts} == set(
                    map(shown, opening.tried)
                )
            else:
                assert isinstance(result, TCPConnectFailed)
                assert result.attempts == failures(*refused)
    opening.connecting.cancel()
    assert opening.result is not None
