"""Chains of proxies of any kind, and proxies on Unix sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.core.proxy import Proxy
from wsframe.endpoints import HTTPConnectEndpoint, SOCKSEndpoint
from wsframe.errors import (
    InvalidHeader,
    InvalidProxy,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyRefused,
    ProxyTLSFailed,
    ProxyUnreachable,
)
from wsframe.options import ClientOptions

from .names import Resolver
from .origins import echo_server, echoes
from .peers import free_port
from .proxies import USER, Proxies, RecordingProxy, basic, chain
from .raw import Raw, RawServer, header, within


@pytest_twisted.ensureDeferred
async def test_name_of_the_next_hop_is_resolved_by_the_one_before(
    proxies: Proxies, resolver: Resolver
) -> None:
    first, second = proxies.running("dante"), proxies.running("microsocks")
    way = chain(first.url("socks5h"), second.url("socks5h", host="localhost"))
    async with echo_server() as port:
        await echoes(f"ws://localhost:{port}/", proxies=way)
    assert resolver.asked == []


@pytest_twisted.ensureDeferred
async def test_failure_names_the_hop_that_it_happened_at(proxies: Proxies) -> None:
    http = Proxy.parse(proxies.running("tinyproxy").url("http"))
    secure = Proxy.parse(proxies.running("stunnel").url("https"))
    down = Proxy("127.0.0.1", free_port())
    socks = proxies.running("microsocks", auth=True)
    wrong = Proxy(socks.host, socks.port, USER, "wr0ng", "socks5h")
    for way, expected, named in [
        ((down, http), ProxyUnreachable, down),
        ((http, down), ProxyRefused, http),
        ((http, wrong), ProxyAuthRefused, wrong),
        ((wrong, http), ProxyAuthRefused, wrong),
        ((http, secure), ProxyTLSFailed, secure),
    ]:
        with pytest.raises(expected) as caught:
            await connect("ws://localhost:9/", proxies=chain(*way))
        assert caught.value.proxy == str(named)
        assert str(named) in str(caught.value)


@pytest.mark.parametrize("expected", [OpenTimeout, OpenCancelled])
@pytest_twisted.ensureDeferred
async def test_second_hop_that_hangs_is_given_up(expected: type[OpenError]) -> None:
    async with RecordingProxy() as first, RawServer() as second:
        inner = Proxy(
            "127.0.0.1", second.port, scheme="socks5h", via=Proxy("127.0.0.1", first.port)
        )
        options = ClientOptions(open_timeout=0.1)
        opening = connect("ws://localhost:9/", proxies=inner, options=options)
        raw: Raw = await second.accepted()
        await raw.read(3)
        if expected is OpenCancelled:
            opening.cancel()
        with pytest.raises(expected) as caught:
            await opening
        assert caught.value.phase == "proxy"
        await within(raw.ended())


def test_hop_that_cannot_be_told_to_the_one_before_is_said_at_once() -> None:
    outer = Proxy("127.0.0.1", 1, scheme="socks4a")
    with pytest.raises((InvalidProxy, InvalidHeader)):
        HTTPConnectEndpoint(object(), Proxy("0.0.0.1", 1, via=outer), "h", 1)


# ------------------------------------------------------------------ Unix sockets


@pytest.fixture
def socket_path() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="wsframe-") as directory:
        yield str(Path(directory, "proxy sock"))


class OnSocket(RecordingProxy):
    """A proxy on a Unix socket."""

    def __init__(self, path: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._path = path

    async def __aenter__(self) -> OnSocket:
        from twisted.internet import reactor

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build  # type: ignore[method-assign]
        self._port = await UNIXServerEndpoint(reactor, self._path).listen(factory)
        return self


@pytest_twisted.ensureDeferred
async def test_opens_through_a_proxy_on_a_unix_socket(socket_path: str) -> None:
    url = "http+unix://anna:pw@" + socket_path.replace("/", "%2F").replace(" ", "%20")
    async with OnSocket(socket_path) as proxy, echo_server() as port:
        async with connect(f"ws://localhost:{port}/", proxies=url) as connection:
            assert socket_path in connection.peer or connection.peer.startswith("unix")
            await connection.send("x")
            assert await connection.recv() == "x"
        assert header(proxy.requests[0], "Proxy-Authorization") == basic("anna", "pw")


@pytest_twisted.ensureDeferred
async def test_chain_may_begin_at_a_unix_socket(proxies: Proxies, socket_path: str) -> None:
    way = chain(
        Proxy("localhost", 80, path=socket_path), proxies.running("microsocks").url("socks5h")
    )
    async with OnSocket(socket_path), echo_server() as port:
        await echoes(f"ws://localhost:{port}/", proxies=way)


@pytest_twisted.ensureDeferred
async def test_unix_socket_that_is_not_there_is_proxy_unreachable(socket_path: str) -> None:
    proxy = Proxy("localhost", 1080, scheme="socks5h", path=socket_path)
    with pytest.raises(ProxyUnreachable) as caught:
        await connect("ws://localhost:9/", proxies=proxy)
    assert caught.value.phase == "tcp"
    assert socket_path in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_endpoint_given_takes_the_place_of_the_way_to_the_proxy() -> None:
    from twisted.internet import reactor

    from wsframe.endpoints import HostEndpoint

    async with RawServer() as server:
        proxy = Proxy("unused.invalid", 1, scheme="socks5h", via=Proxy("unused.invalid", 2))
        endpoint = SOCKSEndpoint(
            reactor,
            proxy,
            "h",
            1,
            endpoint=HostEndpoint(reactor, "127.0.0.1", server.port),  # type: ignore[arg-type]
        )
        opening = endpoint.connect(Factory.forProtocol(Raw))
        raw: Raw = await server.accepted()
        assert await raw.read(3) == b"\5\1\0"
        opening.cancel()
        with pytest.raises(OpenCancelled):
            await opening
