"""NTLM and Negotiate: with squid, and with an acceptor that really checks the password."""

from __future__ import annotations

import base64
import importlib.util
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from wsframe.client import connect
from wsframe.core.credentials import ProxyCredentials
from wsframe.core.negotiate import MAX_LEGS
from wsframe.core.proxy import Proxy
from wsframe.endpoints import HTTPConnectEndpoint, negotiate
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    OpenCancelled,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyRefused,
    ProxyTimeout,
)

from .certificates import Authority
from .negotiating import NegotiatingProxy, accounts
from .origins import echo_server
from .proxies import PASSWORD, USER, Proxies, RecordingProxy
from .raw import Raw, RawServer, Stepped, eventually, header, turns, within

__all__ = ["accounts"]

pytest.importorskip("spnego")
SCHEMES = ["NTLM", "Negotiate"]
WRONG = "wr0ng-planted"


def known(port: int, auth: Any = "ntlm", user: str = USER, **fields: Any) -> Proxy:
    return Proxy("127.0.0.1", port, user, PASSWORD, auth=auth.lower(), **fields)


async def works(port: int, proxies: Any, **options: Any) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", proxies=proxies, **options) as connection:
        await connection.send(bytes(100_000))
        assert await connection.recv() == bytes(100_000)


def said(proxy: RecordingProxy) -> list[str | None]:
    return [header(head, "Proxy-Authorization") for head in proxy.requests]


def decoded(value: str | None) -> bytes:
    return base64.b64decode((value or "").partition(" ")[2])


# --- the way it goes ------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [USER, f"DOM\\{USER}"])
@pytest_twisted.ensureDeferred
async def test_ntlm_through_squid(proxies: Proxies, user: str) -> None:
    """All legs, on the connection that squid keeps; its helper takes every password."""
    async with echo_server() as port:
        await works(port, known(proxies.get("squid_ntlm", auth=True), user=user))


@pytest_twisted.ensureDeferred
async def test_ntlm_is_not_answered_where_it_is_not_asked_for(proxies: Proxies) -> None:
    """It takes the word of the application, not only that of the proxy."""
    port = proxies.get("squid_ntlm", auth=True)
    for wrong in (
        Proxy("127.0.0.1", port),
        Proxy("127.0.0.1", port, USER, PASSWORD),
        known(port, "negotiate"),
    ):
        with pytest.raises((ProxyAuthRequired, ProxyAuthRefused)):
            await connect("ws://127.0.0.1:9/", proxies=wrong)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("user", [USER, f"DOM\\{USER}"])
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_password_is_proved_on_one_connection(scheme: str, user: str) -> None:
    async with NegotiatingProxy(scheme) as proxy, echo_server() as port:
        await works(port, known(proxy.port, scheme, user))
        first, second, third = said(proxy)
        assert first is None
        for value in (second, third):
            assert (value or "").startswith(f"{scheme} ")
        assert (len(proxy.connections), proxy.refused) == (1, 0)
        assert USER.encode("utf-16-le") in decoded(third)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_wrong_password_is_refused_and_tried_once(
    scheme: str, logged: Callable[[], str]
) -> None:
    """Directories lock an account after some wrong ones."""
    async with NegotiatingProxy(scheme) as proxy:
        wrong = Proxy("127.0.0.1", proxy.port, USER, WRONG, auth=scheme.lower())  # type: ignore[arg-type]
        with pytest.raises(ProxyAuthRefused) as caught:
            await connect("ws://127.0.0.1:9/", proxies=wrong)
        error = caught.value
        assert (error.status, error.proxy, proxy.refused) == (407, str(wrong), 1)
        shown = f"{error!r} {vars(error)} {''.join(traceback.format_exception(error))} {logged()}"
        assert WRONG not in shown
        assert USER not in shown


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_wrong_password_is_sent_once_to_a_proxy_that_hangs_up(scheme: str) -> None:
    async with NegotiatingProxy(scheme, dropping={2}) as proxy:
        wrong = Proxy("127.0.0.1", proxy.port, USER, WRONG, auth=scheme.lower())  # type: ignore[arg-type]
        with pytest.raises(ProxyAuthRefused):
            await connect("ws://127.0.0.1:9/", proxies=wrong)
        assert proxy.refused == 1

    async def hang_up(raw: Raw) -> None:
        for answer in (b"", b" " + CHALLENGE):
            await raw.read_head()
            raw.write(QUESTION % answer)
        await raw.read_head()
        raw.finish()

    async with RawServer(hang_up) as server:
        with pytest.raises(BadProxyAnswer):
            await connect("ws://127.0.0.1:9/", proxies=known(server.port))
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("closing", "dropping", "connections"),
    [({0}, (), 2), ({1}, (), 2), ({0, 1}, (), 3), ((), {0}, 2), ({0, 1, 2, 3}, (), 5)],
)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_connection_that_ends_in_between_starts_all_again(
    scheme: str, closing: Any, dropping: Any, connections: int
) -> None:
    async with (
        NegotiatingProxy(scheme, closing=closing, dropping=dropping) as proxy,
        echo_server() as port,
    ):
        await works(port, known(proxy.port, scheme))
        assert (len(proxy.connections), proxy.refused) == (connections, 0)


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_proxy_that_always_ends_the_connection_is_given_up() -> None:
    async with NegotiatingProxy("NTLM", closing=range(1000)) as proxy:
        with pytest.raises(ProxyAuthRefused):
            await connect("ws://127.0.0.1:9/", proxies=known(proxy.port))
        assert len(proxy.requests) == MAX_LEGS + 1


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_large_page_of_a_407_is_read_past() -> None:
    async with NegotiatingProxy("NTLM") as proxy, echo_server() as port:
        proxy.body = b"x" * 40_000
        await works(port, known(proxy.port))
        assert len(proxy.connections) == 1


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_callable_gives_what_is_proved() -> None:
    async with NegotiatingProxy("NTLM") as proxy, echo_server() as port:
        source = [ProxyCredentials(USER, WRONG), ProxyCredentials(USER, PASSWORD)]
        through = Proxy(
            "127.0.0.1", proxy.port, auth="ntlm", credentials=lambda proxy: source.pop(0)
        )
        with pytest.raises(ProxyAuthRefused):
            await works(port, through)
        await works(port, through)
    through = Proxy("127.0.0.1", 9, auth="ntlm", credentials=lambda proxy: None)
    with pytest.raises(ProxyCredentialsFailed, match="takes a user name and password"):
        await connect("ws://127.0.0.1:9/", proxies=through)


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_no_party_sees_what_is_not_for_it() -> None:
    """NTLM at both hops of a chain, TLS to the second; and nothing at the origin."""
    authority = Authority()
    certificate = authority.issue("localhost")
    async with (
        NegotiatingProxy("NTLM") as first,
        NegotiatingProxy("Negotiate", certificate=certificate) as second,
        echo_server() as port,
    ):
        hop = known(first.port)
        proxy = Proxy("localhost", second.port, USER, PASSWORD, "https", auth="negotiate", via=hop)
        await works(port, proxy, proxy_tls=authority.verify_proxy)
        values = [value for value in said(first) + said(second) if value]
        assert len(values) == 4
        through = bytes(second.seen)
        assert b"GET / HTTP/1.1" in through
        for seen in (bytes(first.seen), through):
            assert b"Proxy-Authorization" not in seen
            assert not [value for value in values if value.encode() in seen]
        everything = b"".join(map(decoded, values)) + "".join(first.requests).encode()
        for planted in (PASSWORD.encode(), PASSWORD.encode("utf-16-le")):
            assert planted not in everything


# --- what goes wrong ------------------------------------------------------------------------------

CHALLENGE = base64.b64encode(
    b"NTLMSSP\0\2\0\0\0" + bytes(8) + (0x02088207).to_bytes(4, "little") + bytes(24)
)
"""A challenge of the smallest kind: unicode, NTLM, extended session security, no target."""

QUESTION = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: NTLM%s\r\nContent-Length: 0\r\n\r\n"


def asking(*answers: bytes) -> RawServer:
    """Return a proxy that gives these answers, one to each request, and then waits."""

    async def script(raw: Raw) -> None:
        for answer in answers:
            await raw.read_head()
            raw.write(answer)

    return RawServer(script)


@pytest.mark.parametrize(
    "token",
    [
        b"AAAA",
        b"!!!",
        b"abc",
        base64.b64encode(b"NTLMSSP\0\2\0\0\0"),
        base64.b64encode(b"NTLMSSP\0\1\0\0\0" + bytes(40)),
        CHALLENGE[:-8],
        b"A" * 12_000,
        b"A" * 20_000,
    ],
)
@pytest_twisted.ensureDeferred
async def test_token_that_cannot_be_used_is_a_bad_answer(
    token: bytes, logged: Callable[[], str]
) -> None:
    async with asking(QUESTION % b"", QUESTION % (b" " + token)) as server:
        with pytest.raises(BadProxyAnswer) as caught:
            await connect("ws://127.0.0.1:9/", proxies=known(server.port))
        error = caught.value
        shown = "".join(traceback.format_exception(error)) + f"{vars(error)} {logged()}"
        assert PASSWORD not in shown
        assert USER not in shown
        assert len(server.connections) == 1


@pytest.mark.parametrize("offered", [b"Basic realm=x", b"Digest realm=x, nonce=n", b"Bearer"])
@pytest_twisted.ensureDeferred
async def test_proxy_cannot_talk_us_down(offered: bytes) -> None:
    """Not before the first leg, and not after it."""
    weaker = QUESTION.replace(b"NTLM%s", offered)
    for answers, kind in (
        ([weaker], ProxyAuthRequired),
        ([QUESTION % b"", weaker], ProxyAuthRefused),
    ):
        heads: list[str] = []

        async def script(raw: Raw, answers: list[bytes] = answers, heads: Any = heads) -> None:
            for answer in answers:
                heads.append(await raw.read_head())
                raw.write(answer)

        async with RawServer(script) as server:
            with pytest.raises(kind):
                await connect("ws://127.0.0.1:9/", proxies=known(server.port))
        assert "Basic" not in "".join(heads)
        assert "Digest" not in "".join(heads)


@pytest_twisted.ensureDeferred
async def test_context_that_cannot_begin_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here for want of a ticket; what Kerberos says of it is not shown."""
    monkeypatch.setenv("NTLM_USER_FILE", "/nonexistent")
    monkeypatch.setenv("KRB5CCNAME", "FILE:/nonexistent")
    monkeypatch.setattr(negotiate, "check_installed", lambda proxy: None)
    monkeypatch.setattr("wsframe.endpoints.proxy.check_installed", lambda proxy: None)
    async with asking(QUESTION.replace(b"NTLM%s", b"Negotiate")) as server:
        proxy = Proxy("127.0.0.1", server.port, USER, auth="negotiate")
        with pytest.raises(
            ProxyCredentialsFailed, match=r"cannot begin: BadMechanismError, \w+Error"
        ) as caught:
            await connect("ws://127.0.0.1:9/", proxies=proxy)
        assert USER not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("missing", "fields", "hint"),
    [
        ("spnego", {"auth": "ntlm", "user": USER, "password": PASSWORD}, r"wsframe\[negotiate\]"),
        ("spnego", {"auth": "negotiate"}, r"wsframe\[negotiate\]"),
        ("gssapi", {"auth": "negotiate"}, r"pyspnego\[kerberos\]"),
        ("krb5", {"auth": "negotiate", "user": USER}, r"pyspnego\[kerberos\]"),
    ],
)
def test_what_is_not_installed_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, missing: str, fields: Any, hint: str
) -> None:
    from twisted.internet import reactor

    find = importlib.util.find_spec
    monkeypatch.setattr(
        negotiate, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(InvalidProxy, match=hint):
        HTTPConnectEndpoint(reactor, Proxy("p", 1, **fields), "example.org", 443)
    HTTPConnectEndpoint(reactor, Proxy("p", 1, USER, PASSWORD), "example.org", 443)


# --- in the thread --------------------------------------------------------------------------------


class Blocking:
    """Has the contexts' steps wait in their threads until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = 0
        self.ended = 0
        step = negotiate.SpnegoContext.step

        def blocking(context: Any, token: bytes | None) -> bytes | None:
            self.begun += 1
            self.thread = threading.current_thread()
            self.go.wait(30)
            try:
                return step(context, token)
            finally:
                self.ended += 1

        monkeypatch.setattr(negotiate.SpnegoContext, "step", blocking)


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocking]:
    made = Blocking(monkeypatch)
    yield made
    made.go.set()


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_step_blocks_nobody_else(blocking: Blocking) -> None:
    """The reactor goes round meanwhile."""
    async with NegotiatingProxy("NTLM") as proxy, echo_server() as port:
        opening = connect(f"ws://127.0.0.1:{port}/", proxies=known(proxy.port))
        await eventually(lambda: blocking.begun)
        assert blocking.thread is not threading.current_thread()
        await works(port, None)
        blocking.go.set()
        connection = await within(opening)
        await connection.close()


@pytest.mark.parametrize("how", ["deadline", "cancel"])
@pytest_twisted.ensureDeferred
async def test_step_that_blocks_is_given_up(blocking: Blocking, how: str) -> None:
    """At once; what comes of it later is dropped."""
    async with asking(QUESTION % b"") as server:
        reactor = Stepped()
        opening = connect(
            "ws://127.0.0.1:9/",
            proxies=known(server.port),
            reactor=reactor,  # type: ignore[arg-type]
        )
        await eventually(lambda: blocking.begun)
        if how == "deadline":
            reactor.advance(10)
            with pytest.raises(ProxyTimeout) as timed_out:
                await opening
            assert timed_out.value.phase == "proxy"
        else:
            opening.cancel()
            with pytest.raises(OpenCancelled):
                await opening
        (raw,) = server.connections
        await within(raw.ended())
        assert blocking.ended == 0
        before = raw.total
        blocking.go.set()
        await eventually(lambda: blocking.ended)
        await turns(5)
        assert (raw.total, len(server.connections), blocking.begun) == (before, 1, 1)
        assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("ending", ["finish", "reset"])
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_connection_that_ends_during_a_step_starts_again(
    blocking: Blocking, ending: str
) -> None:
    """On a new one, from the first leg."""
    async with NegotiatingProxy("NTLM") as proxy, echo_server() as port:
        opening = connect(f"ws://127.0.0.1:{port}/", proxies=known(proxy.port))
        await eventually(lambda: blocking.begun)
        getattr(proxy.connections[0], ending)()
        await within(proxy.connections[0].ended())
        blocking.go.set()
        connection = await within(opening)
        await connection.close()
        assert len(proxy.connections) == 2


@pytest_twisted.ensureDeferred
async def test_bytes_that_come_during_a_step_are_kept_for_the_answer(blocking: Blocking) -> None:
    """A proxy that loses patience says so before it is told anything."""

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(QUESTION % b"")
        await eventually(lambda: blocking.begun)
        raw.write(b"HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n")
        raw.finish()
        await turns(5)
        blocking.go.set()

    async with RawServer(script) as server:
        with pytest.raises(ProxyRefused) as caught:
            await connect("ws://127.0.0.1:9/", proxies=known(server.port))
        assert caught.value.status == 408


@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_tls_that_ends_during_a_step_starts_again(blocking: Blocking) -> None:
    """Its end comes with the answer, however little is read."""
    authority = Authority()

    async def script(raw: Raw) -> None:
        head = await raw.read_head()
        raw.write(QUESTION % b"" if "NTLM" not in head else b"HTTP/1.1 408 Slow\r\n\r\n")
        raw.finish()

    async with RawServer(script, certificate=authority.issue("localhost")) as server:
        proxy = Proxy("localhost", server.port, USER, PASSWORD, "https", auth="ntlm")
        opening = connect("ws://127.0.0.1:9/", proxies=proxy, proxy_tls=authority.verify_proxy)
        await eventually(lambda: blocking.begun)
        await within(server.connections[0].ended())
        assert not opening.called
        blocking.go.set()
        with pytest.raises(ProxyRefused) as refused:
            await opening
        assert refused.value.status == 408
        assert len(server.connections) == 2


class Unpausable:
    """Reaches a proxy whose bytes come whether they are wanted or not."""

    def connect(self, factory: Any) -> Any:
        self.transport = StringTransport()
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return defer.succeed(self.protocol)


@pytest.mark.parametrize("lost", [False, True])
@pytest_twisted.ensureDeferred
async def test_bytes_that_come_in_spite_of_the_pause_are_kept(
    blocking: Blocking, lost: bool
) -> None:
    from twisted.internet import reactor

    reached: Any = Unpausable()
    endpoint = HTTPConnectEndpoint(reactor, known(1), "example.org", 443, endpoint=reached)
    opening = endpoint.connect(Factory.forProtocol(Raw))
    reached.protocol.dataReceived(QUESTION % b"")
    await eventually(lambda: blocking.begun)
    assert reached.transport.producerState == "paused"
    for byte in b"HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n":
        reached.protocol.dataReceived(bytes([byte]))
    if lost:
        reached.protocol.connectionLost(Failure(ConnectionDone()))
    before = reached.transport.value()
    assert not opening.called
    blocking.go.set()
    with pytest.raises(ProxyRefused) as refused:
        await opening
    assert refused.value.status == 408
    assert (reached.transport.value() == before) == lost


@pytest_twisted.ensureDeferred
async def test_question_that_ends_with_the_connection_is_answered_on_another() -> None:
    """The step is made when there is no connection any more."""
    heads: list[str] = []

    async def script(raw: Raw) -> None:
        heads.append(await raw.read_head())
        raw.write((QUESTION % b"").replace(b"Content-Length: 0\r\n", b"") + b"to the end")
        raw.finish()

    async with RawServer(script) as server:
        with pytest.raises(ProxyAuthRefused):
            await connect("ws://127.0.0.1:9/", proxies=known(server.port))
        first, second = (header(head, "Proxy-Authorization") for head in heads)
        assert first is None
        assert (second or "").startswith("NTLM ")
