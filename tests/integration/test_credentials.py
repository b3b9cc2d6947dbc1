"""Credentials from a callable: when it is asked, what becomes of its answer, and who sees it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe import ProxyCredentials, netrc_credentials
from wsframe.client import connect
from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.endpoints.credentials import with_credentials
from wsframe.errors import (
    OpenCancelled,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyTimeout,
)

from .certificates import Authority
from .origins import echo_server
from .proxies import PASSWORD, USER, Proxies, RecordingProxy, basic
from .raw import RawServer, Stepped, header, turns

KNOWN = ProxyCredentials(USER, PASSWORD)


async def works(port: int, proxies: Any, **options: Any) -> None:
    async with connect(f"ws://localhost:{port}/", proxies=proxies, **options) as connection:
        await connection.send("x")
        assert await connection.recv() == "x"


def at_once(proxy: Proxy) -> ProxyCredentials:
    return KNOWN


async def coroutine(proxy: Proxy) -> ProxyCredentials:
    await turns(2)
    return KNOWN


def deferred(proxy: Proxy) -> defer.Deferred[ProxyCredentials]:
    return defer.ensureDeferred(coroutine(proxy))


class Later:
    """An awaitable of a kind of its own, by a callable object."""

    def __call__(self, proxy: Proxy) -> Later:
        return self

    def __await__(self) -> Any:
        return (yield from coroutine(None).__await__())  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [at_once, coroutine, deferred, Later()])
@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ("http", "squid"),
        ("http", "squid_digest"),
        ("socks5", "microsocks"),
        ("socks5h", "dante"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_opens_through_a_real_proxy(
    proxies: Proxies, scheme: str, kind: str, source: Callable[..., Any]
) -> None:
    proxy = Proxy("127.0.0.1", proxies.get(kind, auth=True), scheme=scheme, credentials=source)
    async with echo_server() as port:
        await works(port, proxy)


@pytest_twisted.ensureDeferred
async def test_it_is_asked_with_the_proxy_before_each_tunnel() -> None:
    asked: list[Proxy] = []

    def source(proxy: Proxy) -> ProxyCredentials:
        asked.append(proxy)
        return ProxyCredentials(token=f"token.{len(asked)}")

    async with RecordingProxy() as recording, echo_server() as port:
        proxy = Proxy.parse(recording.url, credentials=source)
        settings = ProxySettings(proxy)
        await works(port, settings)
        await works(port, settings)
        assert asked == [proxy, proxy]
        said = [header(head, "Proxy-Authorization") for head in recording.requests]
        assert said == ["Bearer token.1", "Bearer token.2"]


@pytest_twisted.ensureDeferred
async def test_what_was_refused_is_asked_for_anew_with_the_next_attempt(proxies: Proxies) -> None:
    """And within one attempt only once, however often the proxy asks."""
    asked: list[None] = []

    def source(proxy: Proxy) -> ProxyCredentials:
        asked.append(None)
        return ProxyCredentials(USER, "outdated") if len(asked) == 1 else KNOWN

    proxy = Proxy("127.0.0.1", proxies.get("squid_digest", auth=True), credentials=source)
    async with echo_server() as port:
        with pytest.raises(ProxyAuthRefused):
            await works(port, proxy)
        assert len(asked) == 1
        await works(port, proxy)
        assert len(asked) == 2


@pytest.mark.parametrize("nothing", [None, ProxyCredentials()])
@pytest_twisted.ensureDeferred
async def test_none_is_for_no_credentials(proxies: Proxies, nothing: Any) -> None:
    async with RecordingProxy() as recording, echo_server() as port:
        await works(port, Proxy.parse(recording.url, credentials=lambda proxy: nothing))
        assert header(recording.requests[0], "Proxy-Authorization") is None
    proxy = Proxy("127.0.0.1", proxies.get("squid", auth=True), credentials=lambda proxy: nothing)
    with pytest.raises(ProxyAuthRequired):
        await connect("ws://127.0.0.1:9/", proxies=proxy)


@pytest_twisted.ensureDeferred
async def test_each_hop_is_given_its_own_and_no_other() -> None:
    """Neither the first proxy, nor what passes through it, nor the origin."""
    authority = Authority()
    asked: list[str] = []

    def source(proxy: Proxy) -> ProxyCredentials:
        asked.append(str(proxy))
        return ProxyCredentials("name", f"s3cret-of-{proxy.scheme}")

    async with (
        RecordingProxy() as first,
        RecordingProxy(authority.issue("localhost")) as second,
        echo_server() as port,
    ):
        hop = Proxy.parse(first.url, credentials=source)
        proxy = Proxy.parse(second.secure_url, credentials=source, via=hop)
        await works(port, proxy, proxy_tls=authority.verify_proxy)
        assert sorted(asked) == sorted([str(hop), str(proxy)])
        for recording, scheme in ((first, "http"), (second, "https")):
            (head,) = recording.requests
            assert header(head, "Proxy-Authorization") == basic("name", f"s3cret-of-{scheme}")
        through = bytes(second.seen)
        assert b"GET / HTTP/1.1" in through
        for seen in (bytes(first.seen), through):
            assert b"s3cret" not in seen
            assert b"Proxy-Authorization" not in seen
            assert basic("name", "s3cret-of-http").encode() not in seen


@pytest_twisted.ensureDeferred
async def test_hop_whose_credentials_fail_leaves_the_others_unasked() -> None:
    """The one nearest to the target is asked first, and nothing is connected to."""
    asked: list[Proxy] = []

    def fails(proxy: Proxy) -> ProxyCredentials:
        raise KeyError

    def first(proxy: Proxy) -> None:
        asked.append(proxy)

    async with RecordingProxy() as recording:
        hop = Proxy.parse(recording.url, credentials=first)
        with pytest.raises(ProxyCredentialsFailed):
            await connect(
                "ws://127.0.0.1:9/", proxies=Proxy("localhost", 9, credentials=fails, via=hop)
            )
        assert recording.connections == []
        assert asked == []


def raising(error: BaseException) -> Callable[[Proxy], Any]:
    def source(proxy: Proxy) -> Any:
        raise error

    return source


def failing(error: Exception) -> Callable[[Proxy], Any]:
    return lambda proxy: defer.fail(error)


class SecretError(Exception):
    """What a vault's client may raise."""


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (raising(SecretError("s3cret")), "raised SecretError"),
        (failing(SecretError("s3cret")), "raised SecretError"),
        (raising(OSError("s3cret")), "raised OSError"),
        (raising(TimeoutError("s3cret")), "raised TimeoutError"),
        (raising(asyncio.CancelledError("s3cret")), "raised CancelledError"),
        (failing(defer.CancelledError("s3cret")), "raised CancelledError"),
        (raising(OpenCancelled("of another connection")), "raised OpenCancelled: of another"),
        (netrc_credentials("/nonexistent/netrc"), "netrc cannot be read: No such file"),
        (lambda proxy: "s3cret", "ProxyCredentials or None were due, not str"),
        (lambda proxy: ("us3r", "s3cret"), "not tuple"),
        (lambda proxy: False, "not bool"),
        (lambda: KNOWN, "raised TypeError"),
        (lambda proxy: ProxyCredentials(None, "s3cret"), "a password and no user name"),
        (lambda proxy: ProxyCredentials("us3r", token="s3cret"), "it takes one of them"),
        (lambda proxy: ProxyCredentials("us3r\r\nX=s3cret"), "control character"),
        (lambda proxy: ProxyCredentials(token="s3cret s3cret"), "RFC 6750"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_source_that_fails_is_a_typed_error_and_nothing_is_sent(
    source: Any, said: str, logged: Callable[[], str]
) -> None:
    async with RawServer() as server:
        for scheme in ("http", "socks5h"):
            proxy = Proxy("127.0.0.1", server.port, scheme=scheme, credentials=source)
            with pytest.raises(ProxyCredentialsFailed) as caught:
                await connect("ws://127.0.0.1:9/", proxies=proxy)
            error = caught.value
            assert (error.phase, error.proxy) == ("proxy", str(proxy))
            if scheme == "http":
                assert said in str(error)
            shown = f"{error!r} {vars(error)} {error.__cause__!r} {error.__context__!r}"
            shown += "".join(traceback.format_exception(error))
            for secret in ("s3cret", "us3r"):
                assert secret not in shown + logged()
        assert server.connections == []


@pytest_twisted.ensureDeferred
async def test_interrupt_is_left_as_it_is() -> None:
    """It is nobody's answer about credentials."""
    proxy = Proxy("127.0.0.1", 9, credentials=lambda proxy: defer.fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        await with_credentials(proxy)


@pytest_twisted.ensureDeferred
async def test_failure_leads_on_to_the_next_proxy() -> None:
    async with RecordingProxy() as good, echo_server() as port:
        bad = Proxy.parse(good.url, credentials=raising(SecretError("s3cret")))
        await works(port, [bad, Proxy.parse(good.url, credentials=at_once)])
        (head,) = good.requests
        assert header(head, "Proxy-Authorization") == basic(USER, PASSWORD)


class Waiting:
    """A source that waits until it is cancelled, in one of several manners."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.cancelled = 0
        self.held: defer.Deferred[ProxyCredentials] = defer.Deferred(self._cancel)

    def _cancel(self, held: defer.Deferred[ProxyCredentials]) -> None:
        self.cancelled += 1
        if self.manner == "answers":
            held.callback(KNOWN)
        elif self.manner == "fails":
            held.errback(SecretError("s3cret"))

    def __call__(self, proxy: Proxy) -> Any:
        return self.held if self.manner != "coroutine" else self._wait()

    async def _wait(self) -> ProxyCredentials:
        try:
            return await self.held
        except defer.CancelledError:
            return KNOWN


MANNERS = ["plain", "coroutine", "answers", "fails"]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("manner", MANNERS)
@pytest_twisted.ensureDeferred
async def test_deadline_holds_for_the_source(manner: str, scheme: str) -> None:
    """Whatever it makes of being cancelled, and nothing is sent."""
    source = Waiting(manner)
    async with RawServer() as server:
        reactor = Stepped()
        proxy = Proxy("127.0.0.1", server.port, scheme=scheme, credentials=source)
        opening = connect(
            "ws://127.0.0.1:9/",
            proxies=proxy,
            reactor=reactor,  # type: ignore[arg-type]
        )
        await turns(2)
        assert not opening.called
        reactor.advance(10)
        with pytest.raises(ProxyTimeout) as caught:
            await opening
        assert isinstance(caught.value, OpenTimeout)
        assert (caught.value.phase, caught.value.proxy) == ("proxy", str(proxy))
        await turns(2)
        assert (server.connections, reactor.getDelayedCalls(), source.cancelled) == ([], [], 1)


@pytest.mark.parametrize("manner", MANNERS)
@pytest_twisted.ensureDeferred
async def test_cancelling_reaches_the_source(manner: str) -> None:
    source = Waiting(manner)
    async with RawServer() as server:
        proxy = Proxy("127.0.0.1", server.port, credentials=source)
        opening = connect("ws://127.0.0.1:9/", proxies=proxy)
        opening.cancel()
        with pytest.raises(OpenCancelled) as caught:
            await opening
        assert caught.value.phase == "proxy"
        await turns(2)
        assert (server.connections, source.cancelled) == ([], 1)


@pytest_twisted.ensureDeferred
async def test_netrc_file_is_a_source(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.touch(mode=0o600)
    file.write_text(f"machine localhost login {USER} password {PASSWORD}\n")
    async with RecordingProxy() as recording, echo_server() as port:
        await works(port, Proxy("localhost", recording.port, credentials=netrc_credentials(file)))
        assert header(recording.requests[0], "Proxy-Authorization") == basic(USER, PASSWORD)
