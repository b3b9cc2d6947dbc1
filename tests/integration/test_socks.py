"""Through SOCKS proxies: dante, microsocks, and scripted ones; who resolves which name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.protocol import Factory

from wsframe.client import WebSocketClientService, connect
from wsframe.core.proxy import Proxy
from wsframe.endpoints import SOCKSEndpoint
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyRefused,
    ProxyTimeout,
    ProxyUnreachable,
    TargetUnreachable,
)

from .certificates import Authority
from .interop import LISTEN
from .names import Resolver
from .peers import free_port, has_ipv6, missing
from .proxies import ENCODED, PASSWORD, USER, Proxies, TwistedSOCKS4
from .raw import Raw, RawServer, eventually, frame, switching, turns, within
from .test_proxy import echo_server
from .test_scripted_proxy import settle, stammer


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    running = Proxies()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


REAL = [
    *(("dante", scheme, False) for scheme in ("socks4", "socks5", "socks5h")),
    *(("microsocks", scheme, auth) for scheme in ("socks5", "socks5h") for auth in (False, True)),
    ("dante", "socks5", True),
    ("dante", "socks5h", True),
]


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize(("kind", "socks", "auth"), REAL)
@pytest_twisted.ensureDeferred
async def test_opens_through_a_real_proxy(
    proxies: Proxies,
    authority: Authority,
    kind: str,
    socks: str,
    auth: bool,
    scheme: str,
    target: str,
) -> None:
    from twisted.internet import reactor

    host = target.strip("[]")
    if host == "::1" and not has_ipv6():
        missing("IPv6 on loopback")
    where: Any = LISTEN
    tls = None
    interface = "::1" if host == "::1" else "127.0.0.1"
    if scheme == "wss":
        where = SSL4ServerEndpoint(reactor, 0, authority.issue(host), interface=interface)
        tls = authority.client(host)
    elif host == "::1":
        where = TCP6ServerEndpoint(reactor, 0, interface="::1")
    proxy_port = proxies.get(kind, auth=auth)
    login = f"{USER}:{ENCODED}@" if auth else ""
    proxy = f"{socks}://{login}127.0.0.1:{proxy_port}"
    async with echo_server(where) as port:
        url = f"{scheme}://{target}:{port}/x"
        if host == "::1" and socks.startswith("socks4"):
            with pytest.raises(InvalidProxy, match="IPv6"):
                connect(url, proxies=proxy, tls=tls)
            return
        async with connect(url, proxies=proxy, tls=tls) as connection:
            assert connection.peer == f"tcp4:127.0.0.1:{proxy_port}"
            for message in ("through the tunnel", bytes(300_000)):
                await connection.send(message)
                assert await connection.recv() == message
        assert (await connection.when_closed()).clean


@pytest.mark.parametrize("kind", ["dante", "microsocks"])
@pytest_twisted.ensureDeferred
async def test_wrong_password_is_refused(proxies: Proxies, kind: str) -> None:
    proxy_port = proxies.get(kind, auth=True)
    async with RawServer() as origin:
        with pytest.raises(ProxyAuthRefused) as caught:
            await connect(
                f"ws://127.0.0.1:{origin.port}/",
                proxies=f"socks5h://{USER}:wr0ng-planted@127.0.0.1:{proxy_port}",
            )
        assert origin.connections == []
    assert caught.value.proxy == f"socks5h://127.0.0.1:{proxy_port}"
    assert "wr0ng-planted" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("kind", ["dante", "microsocks"])
@pytest_twisted.ensureDeferred
async def test_no_password_is_proxy_auth_required(proxies: Proxies, kind: str) -> None:
    proxy_port = proxies.get(kind, auth=True)
    with pytest.raises(ProxyAuthRequired):
        await connect("ws://127.0.0.1:9/", proxies=f"socks5h://127.0.0.1:{proxy_port}")


@pytest.mark.parametrize(
    ("kind", "scheme", "expected"),
    [
        ("microsocks", "socks5h", TargetUnreachable),
        ("dante", "socks5h", TargetUnreachable),
        ("dante", "socks4", ProxyRefused),
    ],
)
@pytest_twisted.ensureDeferred
async def test_target_that_refuses_is_told_by_its_code(
    proxies: Proxies, kind: str, scheme: str, expected: type[OpenError]
) -> None:
    proxy_port = proxies.get(kind, auth=False)
    with pytest.raises(expected) as caught:
        await connect(
            f"ws://127.0.0.1:{free_port()}/", proxies=f"{scheme}://127.0.0.1:{proxy_port}"
        )
    assert isinstance(caught.value, ProxyRefused)
    assert caught.value.code == (91 if scheme == "socks4" else 5)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_opens_through_a_socks4a_proxy(authority: Authority, scheme: str, host: str) -> None:
    from twisted.internet import reactor

    where: Any = LISTEN
    tls = None
    if scheme == "wss":
        where = SSL4ServerEndpoint(reactor, 0, authority.issue(host), interface="127.0.0.1")
        tls = authority.client(host)
    async with TwistedSOCKS4() as proxy, echo_server(where) as port:
        url, through = f"{scheme}://{host}:{port}/", f"socks4a://{USER}@127.0.0.1:{proxy.port}"
        async with connect(url, proxies=through, tls=tls) as connection:
            await connection.send(bytes(300_000))
            assert await connection.recv() == bytes(300_000)
        assert proxy.names == (["localhost"] if host == "localhost" else [])


@pytest_twisted.ensureDeferred
async def test_name_that_a_socks5_proxy_resolves_is_not_looked_up_here(
    proxies: Proxies, resolver: Resolver
) -> None:
    """CVE-2023-38545: not even when the proxy cannot resolve it."""
    proxy = f"socks5h://127.0.0.1:{proxies.get('dante', auth=False)}"
    async with echo_server() as port:
        async with connect(f"ws://localhost:{port}/", proxies=proxy):
            pass
        with pytest.raises(ProxyRefused):
            await connect(f"ws://no-such-host.invalid:{port}/", proxies=proxy)
    assert resolver.asked == []


@pytest_twisted.ensureDeferred
async def test_name_that_a_socks4a_proxy_resolves_is_not_looked_up_here(resolver: Resolver) -> None:
    async with TwistedSOCKS4() as server, echo_server() as port:
        proxy = f"socks4a://127.0.0.1:{server.port}"
        async with connect(f"ws://localhost:{port}/", proxies=proxy):
            pass
        with pytest.raises(ProxyRefused):
            await connect(f"ws://no-such-host.invalid:{port}/", proxies=proxy)
        assert server.names == ["localhost", "no-such-host.invalid"]
    assert resolver.asked == []


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
@pytest_twisted.ensureDeferred
async def test_name_that_is_resolved_here_is_tried_address_by_address(
    proxies: Proxies, resolver: Resolver, scheme: str
) -> None:
    """SOCKS4 is not told of the IPv6 address; SOCKS5 goes on from one that does not answer."""
    resolver.answers = ["::1", "127.0.0.1"]
    proxy = f"{scheme}://127.0.0.1:{proxies.get('dante', auth=False)}"
    async with (
        echo_server() as port,
        connect(f"ws://target.test:{port}/", proxies=proxy) as connection,
    ):
        await connection.send("x")
        assert await connection.recv() == "x"
    assert resolver.asked == ["target.test"]


@pytest_twisted.ensureDeferred
async def test_when_no_address_is_reached_the_error_lists_them(
    proxies: Proxies, resolver: Resolver
) -> None:
    resolver.answers = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    port = free_port()
    proxy = f"socks5://127.0.0.1:{proxies.get('microsocks', auth=False)}"
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


@pytest_twisted.ensureDeferred
async def test_service_connects_through_socks(proxies: Proxies) -> None:
    proxy = f"socks5h://{USER}:{ENCODED}@127.0.0.1:{proxies.get('microsocks', auth=True)}"
    async with echo_server() as port:
        said: defer.Deferred[object] = defer.Deferred()

        async def handler(connection: Any) -> None:
            await connection.send("hello")
            said.callback(await connection.recv())
            await connection.when_closed()

        service = WebSocketClientService(f"ws://localhost:{port}/", handler, proxies=proxy)
        service.startService()
        assert await within(said) == "hello"
        await service.stopService()


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


# ------------------------------------------------------------------ scripted proxies

GREETING = b"\5\1\0"
ADDRESS = b"\1\x7f\0\0\1\0\x09"
"""127.0.0.1, port 9, as a request for it ends."""
TALKS = {
    "socks4": ([(9, b"\0\x5a" + bytes(6))], None),
    "socks5": ([(3, b"\5\0"), (10, b"\5\0\0\1" + bytes(6))], None),
    "socks5 name": ([(3, b"\5\0"), (10, b"\5\0\0\3\2gw\0\0")], None),
    "socks5 login": (
        [(4, b"\5\2"), (15, b"\1\0"), (10, b"\5\0\0\4" + bytes(18))],
        f"{USER}:{PASSWORD[:8]}",
    ),
}
"""What each proxy reads, in bytes, and answers, in turn; and the credentials it is given."""


def cut_at(talk: list[tuple[int, bytes]], end: int) -> list[tuple[int, bytes]]:
    """Return the part of the talk in which the proxy says `end` bytes in all."""
    kept = []
    for size, answer in talk:
        kept.append((size, answer[:end]))
        end -= len(answer)
        if end <= 0:
            break
    return kept


async def play(raw: Raw, talk: list[tuple[int, bytes]], ending: str) -> None:
    for size, answer in talk:
        await raw.read(size)
        if ending == "stammer":
            await stammer(raw, answer)
        elif answer:
            raw.write(answer)
    if ending == "stop":
        raw.finish()
    elif ending == "reset":
        await turns(2)
        raw.reset()


@pytest.mark.parametrize("ending", ["stop", "reset", "hang"])
@pytest.mark.parametrize("name", list(TALKS))
@pytest_twisted.ensureDeferred
async def test_every_offset_of_the_answer_gives_one_typed_error(name: str, ending: str) -> None:
    talk, login = TALKS[name]
    total = sum(len(answer) for _, answer in talk)

    async def outcome_of(end: int) -> Any:
        part = cut_at(talk, end)
        said: list[None] = []

        async def script(raw: Raw) -> None:
            await play(raw, part, ending)
            said.append(None)

        async with RawServer(script) as server:
            scheme, at = name.split(maxsplit=1)[0], f"{login}@" if login else ""
            proxy = f"{scheme}://{at}127.0.0.1:{server.port}"
            url = "ws://127.0.0.1:9/"
            return await settle(server, ending, url, proxy, lambda: said)

    waiting = [defer.ensureDeferred(outcome_of(end)) for end in range(total + 1)]
    for end, outcome in enumerate(await defer.gatherResults(waiting)):
        open_ = end == total
        if ending == "hang":
            expected: type[OpenError] = OpenTimeout if open_ else ProxyTimeout
        else:
            expected = OpenError if open_ else BadProxyAnswer
        phase = "handshake" if open_ else "proxy"
        assert (type(outcome), outcome.phase) == (expected, phase), end


@pytest.mark.parametrize("name", list(TALKS))
@pytest_twisted.ensureDeferred
async def test_tunnel_handshake_and_message_one_byte_at_a_time(name: str) -> None:
    talk, login = TALKS[name]

    async def script(raw: Raw) -> None:
        await play(raw, talk, "stammer")
        answer = switching(await raw.read_head())
        await stammer(raw, answer + frame(1, "é".encode(), masked=False))

    async with RawServer(script) as server:
        at = f"{login}@" if login else ""
        proxy = f"{name.split(maxsplit=1)[0]}://{at}127.0.0.1:{server.port}"
        connection = await connect("ws://127.0.0.1:9/", proxies=proxy)
        assert await connection.recv(10) == "é"
        connection.abort()
        await connection.when_closed()


@pytest.mark.parametrize("name", list(TALKS))
@pytest_twisted.ensureDeferred
async def test_bytes_behind_the_answer_are_delivered_verbatim(name: str) -> None:
    from twisted.internet import reactor

    talk, login = TALKS[name]
    first = b"220 the server speaks first\r\n\r\n\x00\xff" + bytes(range(256)) * 10
    size, answer = talk[-1]

    async def script(raw: Raw) -> None:
        await play(raw, [*talk[:-1], (size, answer + first)], "none")

    async with RawServer(script) as server:
        at = f"{login}@" if login else ""
        proxy = Proxy.parse(f"{name.split(maxsplit=1)[0]}://{at}127.0.0.1:{server.port}")
        endpoint = SOCKSEndpoint(reactor, proxy, "127.0.0.1", 9, timeout=5)
        inner = await endpoint.connect(Factory.forProtocol(Raw))
        assert await inner.read(len(first)) == first
        inner.write(b"EHLO\r\n")
        assert await server.connections[0].read_until(b"\r\n") == b"EHLO\r\n"
        await inner.drop()


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
async def test_credentials_and_names_go_to_the_proxy_alone() -> None:
    async with RawServer() as server:
        proxy = f"socks5h://{USER}:{ENCODED}@127.0.0.1:{server.port}"
        opening = connect("ws://max:origin-secret@target.test:9/", proxies=proxy)
        raw: Raw = await server.accepted()
        assert await raw.read(4) == b"\5\2\0\2"
        raw.write(b"\5\2")
        login = bytes([1, len(USER)]) + USER.encode()
        login += bytes([len(PASSWORD)]) + PASSWORD.encode()
        assert await raw.read(len(login)) == login
        raw.write(b"\1\0")
        assert await raw.read(18) == b"\5\1\0\3\x0btarget.test\0\x09"
        raw.write(b"\5\0\0\1" + bytes(6))
        head = await raw.read_head()
        assert PASSWORD not in head
        assert "Proxy-Authorization" not in head
        raw.write(switching(head))
        connection = await opening
        connection.abort()
        await connection.when_closed()


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
