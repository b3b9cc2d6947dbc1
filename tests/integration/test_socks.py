"""Through SOCKS proxies: address by address, names without one, and answers that are wrong."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.endpoints import SOCKSEndpoint
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyRefused,
    ProxyUnreachable,
    TargetUnreachable,
)

from .names import Resolver
from .origins import echo_server
from .peers import free_port
from .proxies import Proxies
from .raw import Raw, RawServer, eventually, turns, within


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
@pytest_twisted.ensureDeferred
async def test_name_that_is_resolved_here_is_tried_address_by_address(
    proxies: Proxies, resolver: Resolver, scheme: str
) -> None:
    """SOCKS4 is not told of the IPv6 address; SOCKS5 goes on from one that does not answer."""
    resolver.answers = ["::1", "127.0.0.1"]
    proxy = proxies.running("dante").url(scheme)
    async with AsyncExitStack() as stack:
        # A port that is ours alone: where nobody listens on ::1, and nobody comes to.
        nobody = stack.enter_context(socket.socket(socket.AF_INET6))
        for _ in range(5):
            port = await stack.enter_async_context(echo_server())
            with suppress(OSError):
                nobody.bind(("::1", port))
                break
        async with connect(f"ws://target.test:{port}/", proxies=proxy) as connection:
            await connection.send("x")
            assert await connection.recv() == "x"
    assert resolver.asked == ["target.test"]


@pytest_twisted.ensureDeferred
async def test_when_no_address_is_reached_the_error_lists_them(
    proxies: Proxies, resolver: Resolver
) -> None:
    resolver.answers = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    port = free_port()
    proxy = proxies.running("microsocks").url("socks5")
    with pytest.raises(TargetUnreachable) as caught:
        await connect(f"ws://target.test:{port}/", proxies=proxy)
    for host in resolver.answers:
        assert str(caught.value).count(f"{host}:{port}") == 1


@pytest.mark.parametrize(
    ("scheme", "answers"), [("socks5", []), ("socks4", []), ("socks4", ["::1"])]
)
@pytest_twisted.ensureDeferred
async def test_name_without_a_usable_address_is_name_lookup_failed(
    resolver: Resolver, scheme: str, answers: list[str]
) -> None:
    resolver.answers = answers
    async with RawServer() as proxy:
        with pytest.raises(NameLookupFailed) as caught:
            await connect("ws://target.test/", proxies=f"{scheme}://127.0.0.1:{proxy.port}")
        assert caught.value.phase == "dns"
        assert "target.test" in str(caught.value)
        assert proxy.connections == []


@pytest.mark.parametrize("expected", [OpenCancelled, OpenTimeout])
@pytest_twisted.ensureDeferred
async def test_look_up_that_does_not_end_is_given_up(
    resolver: Resolver, expected: type[OpenError]
) -> None:
    from twisted.internet import reactor

    resolver.answers = None
    async with RawServer() as proxy:
        timeout = 0.05 if expected is OpenTimeout else None
        endpoint = SOCKSEndpoint(
            reactor, f"socks5://127.0.0.1:{proxy.port}", "target.test", 1, timeout=timeout
        )
        opening = endpoint.connect(Factory.forProtocol(Raw))
        if expected is OpenCancelled:
            opening.cancel()
        with pytest.raises(expected) as caught:
            await opening
        assert caught.value.phase == "dns"
        (receiver,) = resolver.receivers
        receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", 1))
        receiver.resolutionComplete()  # too late for anybody
        await turns(3)
        assert proxy.connections == []


@pytest_twisted.ensureDeferred
async def test_proxy_that_is_down_is_proxy_unreachable_and_not_a_direct_connection() -> None:
    down = f"socks5h://127.0.0.1:{free_port()}"
    async with RawServer() as origin:
        with pytest.raises(ProxyUnreachable) as caught:
            await connect(f"ws://127.0.0.1:{origin.port}/", proxies=down)
        assert caught.value.phase == "tcp"
        assert origin.connections == []


@pytest.mark.parametrize(
    ("proxy", "host", "port"),
    [
        ("http://127.0.0.1", "h", 1),
        ("socks5h://127.0.0.1", "a b", 1),
        ("socks5h://127.0.0.1", "h", 0),
        ("socks5://127.0.0.1", "h", 65536),
        ("socks4://127.0.0.1", "::1", 1),
        ("socks4a://127.0.0.1", "0.0.0.1", 1),
        ("socks5h://127.0.0.1", "fe80::1%eth0", 1),
        ("socks5h://127.0.0.1", "x" * 256, 1),
    ],
)
def test_argument_that_cannot_be_sent_is_said_at_once(proxy: str, host: str, port: int) -> None:
    with pytest.raises(InvalidProxy):
        SOCKSEndpoint(object(), proxy, host, port)


def test_repr_shows_no_credentials() -> None:
    endpoint = SOCKSEndpoint(object(), "socks5h://planted:secret@192.0.2.1", "::1", 1)
    assert repr(endpoint) == "<SOCKSEndpoint [::1]:1 through socks5h://192.0.2.1:1080>"


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\4\0", b"\5\1", b"\5\0\5\1"]
)
@pytest_twisted.ensureDeferred
async def test_answer_that_is_wrong_is_one_proxy_error(answer: bytes) -> None:
    async with RawServer() as server:
        proxy = f"socks5h://127.0.0.1:{server.port}"
        opening = connect("ws://target.test:9/", proxies=proxy)
        raw: Raw = await server.accepted()
        await raw.read(3)
        raw.write(answer)
        with pytest.raises((BadProxyAnswer, ProxyRefused)) as caught:
            await opening
        assert caught.value.phase == "proxy"
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_cancelled_between_two_addresses_leaves_nothing(resolver: Resolver) -> None:
    resolver.answers = ["192.0.2.1", "192.0.2.2"]
    async with RawServer() as server:
        opening = connect("ws://target.test:9/", proxies=f"socks4://127.0.0.1:{server.port}")
        first: Raw = await server.accepted()
        await first.read(9)
        first.write(b"\0\x5b" + bytes(6))
        second: Raw = await server.accepted()
        await within(first.ended())
        opening.cancel()
        with pytest.raises(OpenCancelled) as caught:
            await opening
        assert caught.value.phase in {"tcp", "proxy"}
        await eventually(lambda: second.lost)
        assert len(server.connections) == 2
