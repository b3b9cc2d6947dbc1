"""What an observer of an opening is told: each phase once, in order, with its own time."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.core.timing import PhaseDone
from wsframe.core.uri import parse_uri
from wsframe.endpoints import (
    HTTPConnectEndpoint,
    SOCKSEndpoint,
    TLSEndpoint,
    WebSocketEndpoint,
    tunnel_endpoint,
)
from wsframe.errors import HandshakeRefused, OpenCancelled
from wsframe.options import ClientOptions

from .certificates import Authority
from .names import Resolver
from .origins import echo_server
from .proxies import PASSWORD, USER, Proxies
from .raw import Raw, RawServer, Stepped, switching


async def opened(
    uri: str, proxies: Any = None, reactor: Any = None, **arguments: Any
) -> list[PhaseDone]:
    """Open a WebSocket, close it, and return what its observer was told."""
    from twisted.internet import reactor as installed

    told: list[PhaseDone] = []
    endpoint = WebSocketEndpoint(
        reactor or installed,
        parse_uri(uri),
        proxies=ProxySettings(proxies),
        observe=told.append,
        **arguments,
    )
    connection = await endpoint.open()
    connection.abort()
    await connection.when_closed()
    return told


def phases(told: list[PhaseDone]) -> list[tuple[str, str]]:
    return [(done.phase, done.to) for done in told]


@pytest_twisted.ensureDeferred
async def test_direct_opening_is_name_connection_tls_and_handshake(
    authority: Authority, resolver: Resolver
) -> None:
    resolver.answers = ("127.0.0.1",)
    async with echo_server(certificate=authority.issue("localhost")) as port:
        told = await opened(f"wss://localhost:{port}/", tls=authority.client("localhost"))
    assert phases(told) == [
        ("dns", f"localhost:{port}"),
        ("tcp", f"127.0.0.1:{port}"),
        ("tls", f"localhost:{port}"),
        ("handshake", f"localhost:{port}"),
    ]
    assert [done.detail for done in told[:2]] == ["127.0.0.1", ""]
    assert told[2].detail.startswith("TLSv1.3, TLS_")
    assert told[3].detail == ""
    assert all(done.seconds >= 0 for done in told)


@pytest_twisted.ensureDeferred
async def test_chain_tells_of_each_hop(
    proxies: Proxies, authority: Authority, resolver: Resolver
) -> None:
    """In the order of the wire, each with what it was about, and nobody's credentials."""
    resolver.answers = ("127.0.0.1",)
    first = Proxy("127.0.0.1", proxies.get("tinyproxy", auth=True), USER, PASSWORD)
    plain = proxies.get("tinyproxy", auth=False)
    port = proxies.tls_before(plain, authority.issue("localhost"))
    second = Proxy("localhost", port, scheme="https", via=first)
    last = Proxy(
        "127.0.0.1", proxies.get("microsocks", auth=True), USER, PASSWORD, "socks5", via=second
    )
    async with echo_server(certificate=authority.issue("localhost")) as port:
        told = await opened(
            f"wss://localhost:{port}/",
            last,
            tls=authority.client("localhost"),
            proxy_tls=authority.verify_proxy,
        )
    assert phases(told) == [
        ("dns", f"localhost:{port}"),  # socks5 is told an address
        ("tcp", f"127.0.0.1:{first.port}"),
        ("proxy", str(first)),
        ("proxy-tls", str(second)),
        ("proxy", str(second)),
        ("proxy", str(last)),
        ("tls", f"localhost:{port}"),
        ("handshake", f"localhost:{port}"),
    ]
    assert [done.detail for done in told if done.phase == "proxy"] == [
        "HTTP 200, Basic",
        "HTTP 200",
        "SOCKS5, user name and password",
    ]
    assert told[0].detail == "127.0.0.1"
    assert resolver.asked == ["localhost"]
    assert PASSWORD not in repr(told)
    assert USER not in repr(told)


@pytest.mark.parametrize(
    ("kind", "auth", "scheme", "detail"),
    [
        ("dante", False, "socks4", "SOCKS4"),
        ("dante", False, "socks5h", "SOCKS5"),
        ("squid_digest", True, "http", "HTTP 200, Digest"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_proxy_is_told_of_with_how_it_agreed(
    proxies: Proxies, kind: str, auth: bool, scheme: str, detail: str
) -> None:
    login = (USER, PASSWORD) if auth else (None, None)
    proxy = Proxy("127.0.0.1", proxies.get(kind, auth=auth), *login, scheme)
    options = ClientOptions(proxy_auth_unasked=False)
    async with echo_server() as port:
        told = await opened(f"ws://127.0.0.1:{port}/", proxy, options=options)
    assert [(done.phase, done.detail) for done in told if done.phase == "proxy"] == [
        ("proxy", detail)
    ]


@pytest_twisted.ensureDeferred
async def test_each_phase_has_its_own_time() -> None:
    """The proxy takes 3 s, the server 2 s; a clock that is moved by hand says so."""
    reactor = Stepped()

    async def script(raw: Raw) -> None:
        await raw.read_head()
        reactor.advance(3.0)
        raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
        request = await raw.read_head()
        reactor.advance(2.0)
        raw.write(switching(request, "Sec-WebSocket-Protocol: chat"))

    async with RawServer(script) as proxy:
        told = await opened(
            "ws://127.0.0.1:9/",
            f"http://127.0.0.1:{proxy.port}",
            reactor,
            subprotocols=("chat",),
        )
    assert [(done.phase, done.seconds, done.detail) for done in told] == [
        ("tcp", 0.0, ""),
        ("proxy", 3.0, "HTTP 200"),
        ("handshake", 2.0, "chat"),
    ]


@pytest.mark.parametrize("last", ["dns", "tcp", "proxy-tls", "proxy", "tls", "handshake"])
@pytest_twisted.ensureDeferred
async def test_who_observes_may_cancel(proxies: Proxies, authority: Authority, last: str) -> None:
    """At any phase; the result is one error, and nothing is left."""
    from twisted.internet import reactor

    plain = proxies.get("tinyproxy", auth=False)
    port = proxies.tls_before(plain, authority.issue("localhost"))
    told: list[str] = []

    def observe(done: PhaseDone) -> None:
        told.append(done.phase)
        if done.phase == last:
            opening.cancel()

    async with echo_server(certificate=authority.issue("localhost")) as target:
        opening = WebSocketEndpoint(
            reactor,
            parse_uri(f"wss://localhost:{target}/"),
            proxies=ProxySettings(f"https://localhost:{port}"),
            tls=authority.client("localhost"),
            proxy_tls=authority.verify_proxy,
            observe=observe,
        ).open()
        with pytest.raises(OpenCancelled):
            await opening
    assert told[-1] == last


@pytest_twisted.ensureDeferred
async def test_phase_that_fails_is_not_told_of() -> None:
    from twisted.internet import reactor

    told: list[PhaseDone] = []

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(script) as server:
        uri = parse_uri(f"ws://127.0.0.1:{server.port}/")
        with pytest.raises(HandshakeRefused):
            await WebSocketEndpoint(reactor, uri, observe=told.append).open()
    assert phases(told) == [("tcp", f"127.0.0.1:{server.port}")]


@pytest_twisted.ensureDeferred
async def test_next_way_is_told_of_behind_the_one_that_failed(proxies: Proxies) -> None:
    from twisted.internet import reactor

    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    good = f"http://127.0.0.1:{proxies.get('tinyproxy', auth=False)}"
    told: list[PhaseDone] = []
    async with RawServer(script) as bad, RawServer() as target:
        ways = [f"http://127.0.0.1:{bad.port}", good]
        address = f"127.0.0.1:{target.port}"
        endpoint = tunnel_endpoint(reactor, address, proxies=ways, observe=told.append)
        await through(endpoint)
    assert [done.phase for done in told] == ["tcp", "tcp", "proxy"]
    assert told[2].to == good


async def through(endpoint: Any) -> None:
    """Connect, and end the connection."""
    from twisted.internet.endpoints import connectProtocol

    raw: Raw = await connectProtocol(endpoint, Raw())
    await raw.drop()


@pytest_twisted.ensureDeferred
async def test_links_alone_tell_of_their_phases(proxies: Proxies, authority: Authority) -> None:
    """In any chain that somebody builds by hand."""
    from twisted.internet import reactor

    http = f"http://127.0.0.1:{proxies.get('tinyproxy', auth=False)}"
    socks = f"socks5h://127.0.0.1:{proxies.get('dante', auth=False)}"
    async with RawServer(certificate=authority.issue("localhost")) as target:
        for kind, proxy in ((HTTPConnectEndpoint, http), (SOCKSEndpoint, socks)):
            told: list[PhaseDone] = []
            endpoint: Any = kind(reactor, proxy, "localhost", target.port, observe=told.append)
            creator = authority.client("localhost")
            await through(TLSEndpoint(creator, endpoint, observe=told.append, to="the target"))
            assert phases(told)[1:] == [("proxy", proxy), ("tls", "the target")]


@pytest_twisted.ensureDeferred
async def test_tls_is_told_of_with_the_protocol_that_was_agreed_on(authority: Authority) -> None:
    from twisted.internet import reactor, ssl
    from twisted.internet.endpoints import TCP4ClientEndpoint

    told: list[PhaseDone] = []
    certificate = authority.issue("localhost")
    certificate._context.set_alpn_select_callback(lambda _, offered: offered[0])
    creator = ssl.optionsForClientTLS(
        "localhost", trustRoot=authority.root, acceptableProtocols=[b"http/1.1"]
    )
    async with RawServer(certificate=certificate) as target:
        below = TCP4ClientEndpoint(reactor, "127.0.0.1", target.port)
        await through(TLSEndpoint(creator, below, observe=told.append))
    assert told[0].detail.endswith(", ALPN http/1.1")
