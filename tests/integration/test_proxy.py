"""Which proxy is taken, which is an error, and what is not looked at."""

from __future__ import annotations

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.errors import (
    HandshakeRefused,
    InvalidHeader,
    InvalidProxy,
    ProxyUnreachable,
)

from .origins import echo_server
from .peers import free_port
from .proxies import RecordingProxy
from .raw import Raw, RawServer


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
async def test_proxy_authorization_for_the_origin_is_refused_before_a_byte_is_sent() -> None:
    async with RawServer() as origin:
        url = f"ws://127.0.0.1:{origin.port}/"
        with pytest.raises(InvalidHeader, match="Proxy-Authorization"):
            connect(url, headers={"Proxy-Authorization": "Basic eDp5"})
        assert origin.connections == []


@pytest_twisted.ensureDeferred
async def test_407_of_the_origin_through_the_tunnel_is_the_origins() -> None:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 407 Odd\r\nContent-Length: 4\r\n\r\nnope")

    async with RawServer(script) as origin, RecordingProxy() as proxy:
        with pytest.raises(HandshakeRefused) as caught:
            await connect(f"ws://127.0.0.1:{origin.port}/", proxies=proxy.url)
        assert (caught.value.status, caught.value.body) == (407, b"nope")
        assert len(proxy.requests) == 1
