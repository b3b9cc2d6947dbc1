"""Which proxy is taken, which is an error, and whom a 401 or a 407 is for."""

from __future__ import annotations

import re

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.errors import (
    HandshakeRefused,
    InvalidHeader,
    InvalidProxy,
    ProxyAuthRefused,
    ProxyRefused,
    ProxyUnreachable,
)

from .origins import echo_server
from .peers import free_port
from .proxies import ENCODED, PASSWORD, USER, RecordingProxy, basic
from .raw import Raw, RawServer, header, switching


@pytest_twisted.ensureDeferred
async def test_proxy_that_is_down_is_proxy_unreachable_and_not_a_direct_connection() -> None:
    down = f"http://127.0.0.1:{free_port()}"
    async with RawServer() as origin:
        url = f"ws://127.0.0.1:{origin.port}/"
        for proxies in (down, {"ws": down}, {"all": down}, {"all": None, "ws": down}):
            with pytest.raises(ProxyUnreachable) as caught:
                await connect(url, proxies=proxies)
            assert caught.value.proxy == down
            assert caught.value.phase == "tcp"
            assert down.removeprefix("http://") in str(caught.value)
        assert origin.connections == []


@pytest.mark.parametrize(
    ("keys", "through"),
    [
        ({"ws": True}, True),
        ({"all": True}, True),
        ({"wss": False, "all": True}, True),
        ({"ws": None, "all": True}, False),
        ({"wss": True}, False),
        ({"all": None}, False),
        ({}, False),
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_key_of_the_mapping_decides(keys: dict[str, bool | None], through: bool) -> None:
    async with RecordingProxy() as proxy, echo_server() as port:
        where = {True: proxy.url, False: f"http://127.0.0.1:{free_port()}", None: None}
        mapping = {key: where[value] for key, value in keys.items()}
        async with connect(f"ws://127.0.0.1:{port}/", proxies=mapping) as connection:
            await connection.send("x")
            assert await connection.recv() == "x"
        assert len(proxy.requests) == through


@pytest_twisted.ensureDeferred
async def test_settings_and_proxy_objects_are_taken() -> None:
    async with RecordingProxy() as proxy, echo_server() as port:
        given = Proxy("127.0.0.1", proxy.port)
        for proxies in (given, ProxySettings(given), ProxySettings({"ws": given})):
            async with connect(f"ws://127.0.0.1:{port}/", proxies=proxies):
                pass
        assert len(proxy.requests) == 3


@pytest.mark.parametrize("key", ["http", "https", "HTTP", "socks", "no", ""])
@pytest_twisted.ensureDeferred
async def test_key_that_would_go_direct_silently_is_an_error(key: str) -> None:
    async with RawServer() as origin:
        with pytest.raises(InvalidProxy, match="'ws', 'wss' or 'all'"):
            connect(f"ws://127.0.0.1:{origin.port}/", proxies={key: "http://127.0.0.1:1"})
        assert origin.connections == []


@pytest_twisted.ensureDeferred
async def test_environment_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2016-5385: HTTP_PROXY may come from a request."""
    for name in ("http_proxy", "HTTP_PROXY", "ws_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with echo_server() as port, connect(f"ws://127.0.0.1:{port}/"):
        pass


@pytest_twisted.ensureDeferred
async def test_each_party_sees_its_own_credentials_only() -> None:
    """CVE-2014-1830, CVE-2023-32681: what the proxy is sent, and what goes through the tunnel."""
    heads: list[str] = []

    async def origin_script(raw: Raw) -> None:
        heads.append(await raw.read_head())
        raw.write(switching(heads[0]))

    async with RecordingProxy() as proxy, RawServer(origin_script) as origin:
        connection = await connect(
            f"ws://max:origin-secret@127.0.0.1:{origin.port}/path?token=query-secret",
            headers={"Cookie": "session=cookie-secret"},
            proxies=f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}",
        )
        connection.abort()
        await connection.when_closed()
    (connect_head,) = proxy.requests
    (origin_head,) = heads
    assert header(connect_head, "Proxy-Authorization") == basic(USER, PASSWORD)
    assert connect_head.startswith(f"CONNECT 127.0.0.1:{origin.port} HTTP/1.1\r\n")
    for secret in ("\r\nAuthorization", basic("max", "origin-secret"), "secret\r", "query-secret"):
        assert secret not in connect_head
    assert "Cookie" not in connect_head
    assert header(origin_head, "Authorization") == basic("max", "origin-secret")
    assert header(origin_head, "Cookie") == "session=cookie-secret"
    assert not re.search("proxy-authorization", origin_head, re.IGNORECASE)
    assert basic(USER, PASSWORD) not in origin_head
    assert bytes(proxy.seen).startswith(origin_head.encode())


@pytest_twisted.ensureDeferred
async def test_proxy_authorization_for_the_origin_is_refused_before_a_byte_is_sent() -> None:
    async with RawServer() as origin:
        url = f"ws://127.0.0.1:{origin.port}/"
        with pytest.raises(InvalidHeader, match="Proxy-Authorization"):
            connect(url, headers={"Proxy-Authorization": "Basic eDp5"})
        assert origin.connections == []


@pytest_twisted.ensureDeferred
async def test_401_of_the_proxy_never_gets_the_credentials_of_the_origin() -> None:
    """CVE-2026-86414: only a 407 asks for anything, and even that is not answered twice."""
    seen: list[str] = []

    async def script(raw: Raw) -> None:
        seen.append(await raw.read_head())
        raw.write(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n"
            b"Content-Length: 0\r\n\r\n"
        )

    async with RawServer(script) as proxy:
        with pytest.raises(ProxyRefused) as caught:
            await connect(
                "ws://max:origin-secret@127.0.0.1:9/", proxies=f"http://127.0.0.1:{proxy.port}"
            )
        assert caught.value.status == 401
        assert len(proxy.connections) == len(seen) == 1
        assert "uthorization" not in seen[0]


@pytest_twisted.ensureDeferred
async def test_407_for_ever_is_asked_once() -> None:
    async def script(raw: Raw) -> None:
        while raw.lost is None:
            await raw.read_head()
            raw.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(script) as proxy:
        with pytest.raises(ProxyAuthRefused):
            await connect("ws://127.0.0.1:9/", proxies=f"http://a:b@127.0.0.1:{proxy.port}")
        assert len(proxy.connections) == 1


@pytest_twisted.ensureDeferred
async def test_401_of_the_origin_through_the_tunnel_is_the_origins() -> None:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 407 Odd\r\nContent-Length: 4\r\n\r\nnope")

    async with RawServer(script) as origin, RecordingProxy() as proxy:
        with pytest.raises(HandshakeRefused) as caught:
            await connect(f"ws://127.0.0.1:{origin.port}/", proxies=proxy.url)
        assert (caught.value.status, caught.value.body) == (407, b"nope")
        assert len(proxy.requests) == 1
