"""Twisted's Agent, its pool, and treq, through real proxies by `ProxiedAgentEndpointFactory`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from treq.client import HTTPClient
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.protocols.policies import WrappingFactory
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.resource import Resource
from twisted.web.server import Site

from wsframe import FROM_ENVIRONMENT, ProxiedAgentEndpointFactory, ProxySettings
from wsframe.errors import (
    InvalidURI,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyRefused,
    ProxyTLSFailed,
    ProxyUnreachable,
    TLSFailed,
)

from .certificates import Authority, ServerTLS, bad_certificate
from .peers import free_port
from .proxies import ENCODED, PASSWORD, USER, Proxies, RecordingProxy
from .raw import Raw, RawServer, Stepped, within

KINDS = {"tinyproxy": "http", "squid": "http", "microsocks": "socks5h", "dante": "socks4"}


class Page(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"the page " + request.uri

    def render_POST(self, request: Any) -> bytes:
        return b"posted " + request.content.read()


class Connections(WrappingFactory):
    """A factory that knows its connections: `count` are all, `protocols` those that are open."""

    noisy = False
    count = 0

    def buildProtocol(self, address: Any) -> Any:
        self.count += 1
        return super().buildProtocol(address)

    def end(self) -> None:
        for protocol in list(self.protocols):
            protocol.abortConnection()


@asynccontextmanager
async def site(certificate: ServerTLS | None = None) -> AsyncIterator[tuple[Connections, str]]:
    """Serve pages; give the connections and the address, which is https with a certificate."""
    from twisted.internet import reactor

    connections = Connections(Site(Page()))
    endpoint: Any = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    if certificate is not None:
        endpoint = SSL4ServerEndpoint(reactor, 0, certificate, interface="127.0.0.1")
    port = await endpoint.listen(connections)
    scheme = "http" if certificate is None else "https"
    try:
        yield connections, f"{scheme}://localhost:{port.getHost().port}"
    finally:
        await port.stopListening()
        connections.end()


def agent(authority: Authority | None = None, pool: Any = None, **arguments: Any) -> Agent:
    from twisted.internet import reactor

    reactor = arguments.pop("reactor", reactor)
    tls = None if authority is None else BrowserLikePolicyForHTTPS(trustRoot=authority.root)
    factory = ProxiedAgentEndpointFactory(reactor, tls=tls, **arguments)
    return Agent.usingEndpointFactory(reactor, factory, pool)


async def fetch(agent: Agent, url: str) -> bytes:
    response = await within(agent.request(b"GET", url.encode()))
    assert response.code == 200
    raw = Raw()  # Twisted's readBody warns of a transport of Twisted's own
    response.deliverBody(raw)
    return await raw.read_all()


@pytest.mark.parametrize("auth", [False, True], ids=["open", "auth"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_page_is_fetched_through_a_real_proxy(
    proxies: Proxies, authority: Authority, kind: str, secure: bool, auth: bool
) -> None:
    """https:// is verified for the target, http:// tunnelled all the same."""
    scheme = KINDS[kind]
    if auth and scheme == "socks4":
        scheme = "socks5"  # SOCKS4 has no password
    by = proxies.running(kind, auth=auth).url(scheme, auth=auth)
    async with site(authority.issue("localhost") if secure else None) as (connections, address):
        body = await fetch(agent(authority, proxies={address.split(":")[0]: by}), f"{address}/a?b")
        assert body == b"the page /a?b"
        assert connections.count == 1


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_pool_uses_a_tunnel_again(
    proxies: Proxies, authority: Authority, secure: bool
) -> None:
    """And opens another one when the server has ended it."""
    from twisted.internet import reactor

    pool = HTTPConnectionPool(reactor)
    async with (
        RecordingProxy() as proxy,
        site(authority.issue("localhost") if secure else None) as (connections, address),
    ):
        pooled = agent(authority, pool, proxies=proxy.url)
        for number in range(3):
            assert await fetch(pooled, f"{address}/{number}") == f"the page /{number}".encode()
        assert (connections.count, len(proxy.requests)) == (1, 1)
        connections.end()
        assert await fetch(pooled, f"{address}/again") == b"the page /again"
        assert (connections.count, len(proxy.requests)) == (2, 2)
        await within(pool.closeCachedConnections())
    assert all(head.startswith("CONNECT localhost:") for head in proxy.requests)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest_twisted.ensureDeferred
async def test_treq_fetches_and_posts(proxies: Proxies, authority: Authority, secure: bool) -> None:
    from twisted.internet import reactor

    by = proxies.running("tinyproxy", auth=True).url("http", auth=True)
    pool = HTTPConnectionPool(reactor)
    async with site(authority.issue("localhost") if secure else None) as (connections, address):
        client = HTTPClient(agent(authority, pool, proxies=by))
        response = await within(client.get(f"{address}/a", params={"b": "c"}))
        assert (response.code, await response.text()) == (200, "the page /a?b=c")
        response = await within(client.post(address, data=b"x" * 100_000))
        assert await response.content() == b"posted " + b"x" * 100_000
        assert connections.count == 1
        await within(pool.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_page_is_fetched_through_an_https_proxy(
    proxies: Proxies, authority: Authority, targets: Authority
) -> None:
    """TLS within TLS, each with its own name and authority."""
    by = proxies.running("stunnel").url("https", host="localhost")
    async with site(targets.issue("localhost")) as (_, address):
        trusted = agent(targets, proxies=by, proxy_tls=authority.verify_proxy)
        assert await fetch(trusted, address) == b"the page /"
        with pytest.raises(ProxyTLSFailed):
            await fetch(agent(targets, proxies=by), address)


@pytest_twisted.ensureDeferred
async def test_environment_decides_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    async with (
        RecordingProxy() as proxy,
        site(authority.issue("localhost")) as (_, secure),
        site() as (_, plain),
    ):
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", proxy.url)
        asking = agent(authority, proxies=FROM_ENVIRONMENT)
        for url in (secure, plain):
            assert await fetch(asking, url) == b"the page /"
        assert [head.split(" ")[1] for head in proxy.requests] == [secure.removeprefix("https://")]
        assert await fetch(agent(authority), secure) == b"the page /"
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("kind", ["wrong name", "expired", "self-signed", "unknown authority"])
@pytest_twisted.ensureDeferred
async def test_wrong_certificate_is_tls_failed_and_no_request_is_sent(
    authority: Authority, kind: str
) -> None:
    """Not even the bytes of a request reach the server's side of TLS."""
    certificate, text = bad_certificate(kind, authority)
    async with RecordingProxy() as proxy, RawServer(certificate=certificate) as origin:
        with pytest.raises(TLSFailed, match=text) as caught:
            await fetch(agent(authority, proxies=proxy.url), f"https://localhost:{origin.port}/")
        assert caught.value.phase == "tls"
        await within(origin.connections[0].ended())
        assert origin.connections[0].total == 0


@pytest_twisted.ensureDeferred
async def test_failures_reach_the_application_as_they_are(
    proxies: Proxies, logged: Callable[[], str]
) -> None:
    """And the credentials reach neither it nor the log."""
    squid = proxies.get("squid", auth=True)
    closed = free_port()
    url = f"http://127.0.0.1:{closed}/"
    for by, error in [
        (f"http://127.0.0.1:{closed}", ProxyUnreachable),
        (f"http://{USER}:planted@127.0.0.1:{squid}", ProxyAuthRefused),
        (f"http://{USER}:{ENCODED}@127.0.0.1:{squid}", ProxyRefused),
    ]:
        plain = agent(proxies=by)
        for get in (
            partial(plain.request, b"GET", url.encode()),
            partial(HTTPClient(plain).get, url),
        ):
            with pytest.raises(error) as caught:
                await within(get())
            assert isinstance(caught.value, OpenError)
            assert "planted" not in str(caught.value)
    for secret in ("planted", ENCODED, PASSWORD, USER):
        assert secret not in logged()


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_fetched_is_said_at_once() -> None:
    with pytest.raises(InvalidURI):
        await agent().request(b"GET", b"https://h:0/")
    with pytest.raises(SchemeNotSupported):
        await agent().request(b"GET", b"ftp://h/")


@pytest_twisted.ensureDeferred
async def test_timeout_covers_the_tls_handshake_too(authority: Authority) -> None:
    reactor = Stepped()
    async with RecordingProxy() as proxy, RawServer() as origin:
        slow = agent(authority, proxies=proxy.url, timeout=7, reactor=reactor)
        attempt = slow.request(b"GET", f"https://localhost:{origin.port}/".encode())
        raw: Raw = await origin.accepted()
        await raw.until(lambda: raw.received)
        reactor.advance(7.1)
        with pytest.raises(OpenTimeout, match="not open after 7 s, in phase tls"):
            await within(attempt)
        await within(raw.ended())
        assert reactor.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_request_is_cancelled_while_the_tunnel_is_opened() -> None:
    async with RawServer() as proxy:
        attempt = agent(proxies=f"http://127.0.0.1:{proxy.port}").request(b"GET", b"http://h/")
        raw: Raw = await proxy.accepted()
        await raw.read_head()
        attempt.cancel()
        with pytest.raises(OpenCancelled):
            await within(attempt)
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_dead_proxy_of_a_list_is_tried_once_for_all_requests() -> None:
    """The factory remembers it; or what shares its settings does."""

    async def refuse(raw: Raw) -> None:
        raw.finish()

    async with RawServer(refuse) as dead, RecordingProxy() as good, site() as (_, address):
        settings = ProxySettings([f"http://127.0.0.1:{dead.port}", good.url])
        one = agent(proxies=[f"http://127.0.0.1:{dead.port}", good.url])
        for client in (one, one, agent(proxies=settings), agent(proxies=settings)):
            assert await fetch(client, address) == b"the page /"
        assert (len(dead.connections), len(good.requests)) == (2, 4)
