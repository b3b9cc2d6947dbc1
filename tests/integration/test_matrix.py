"""Every real proxy, in every way that it is used: the matrix, refusals, and chains of two and more.

What each of them does, and where they differ:

| program    | spoken                  | names it resolves | passwords      | when one is wrong | a target that refuses |
| ---------- | ----------------------- | ----------------- | -------------- | ----------------- | --------------------- |
| tinyproxy  | http                    | all               | Basic          | 401, not 407      | 500                   |
| squid      | http                    | all               | Basic, Digest  | 407               | 503                   |
| privoxy    | http                    | all               | none           |                   | 503                   |
| stunnel    | https, bytes to squid   | squid's           | squid's Basic  | 407               | 503                   |
| haproxy    | https, HTTP to squid    | squid's           | squid's Digest | 407               | 503                   |
| dante      | socks4, socks5, socks5h | socks5h's         | accounts       | no method's code  | 91; 5                 |
| microsocks | socks5, socks5h         | socks5h's         | its own        | no method's code  | 5                     |
| Twisted    | socks4a                 | all               | none           |                   | 91                    |

Dante takes no socks4a. SOCKS4 has no IPv6, whoever speaks it.

Each proxy says in its log which target it was asked for, dante by its address alone. The names of
the targets and of the proxies are known to the proxies, and to the resolver of the test; that is
asked for those which are resolved on this side, and for no other.
"""  # noqa: E501

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from wsframe.client import WebSocketClientService, connect
from wsframe.errors import (
    InvalidProxy,
    NameLookupFailed,
    OpenError,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyRefused,
    TargetUnreachable,
)
from wsframe.options import ClientOptions

from .certificates import Authority
from .names import NAMES, Resolver
from .namespaces import may_unshare
from .origins import echo_server, echoes
from .peers import free_port, missing
from .proxies import USER, Proxies, Running, TwistedSOCKS4, chain
from .raw import RawServer, eventually, within

OPEN = [
    ("tinyproxy", "http"),
    ("squid", "http"),
    ("privoxy", "http"),
    ("stunnel", "https"),
    ("haproxy", "https"),
    ("dante", "socks4"),
    ("dante", "socks5"),
    ("dante", "socks5h"),
    ("microsocks", "socks5"),
    ("microsocks", "socks5h"),
]
WITH_PASSWORD = [
    ("tinyproxy", "http"),
    ("squid", "http"),
    ("squid_digest", "http"),
    ("stunnel", "https"),
    ("haproxy", "https"),
    ("dante", "socks5"),
    ("dante", "socks5h"),
    ("microsocks", "socks5"),
    ("microsocks", "socks5h"),
]
KINDS = [(*kind, False) for kind in OPEN] + [(*kind, True) for kind in WITH_PASSWORD]
TARGETS = ["127.0.0.1", "::1", *NAMES]
REACHED = ["127.0.0.1", "::1", "four.test"]
"""Names and addresses by which a proxy is reached, on this address or that."""
MESSAGES = ("Grüße, 世界", bytes(range(256)) * 280)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def need_names() -> None:
    """Say so where the proxies cannot be given the names."""
    if not may_unshare():
        missing("the right to give the proxies names (root)")


def started(
    proxies: Proxies, program: str, spoken: str, auth: bool, reached: str = "127.0.0.1"
) -> tuple[Running, str]:
    """Return a running proxy, and its URL by the name or the address given."""
    proxy = proxies.running(program, auth=auth, host=NAMES.get(reached, reached))
    return proxy, proxy.url(spoken, auth=auth, host=reached)


CASES = [
    (*kind, target, reached)
    for kind in KINDS
    for target in TARGETS
    for reached in REACHED
    if not (kind[1] == "socks4" and NAMES.get(target, target) == "::1")
]


def name_of(case: tuple[str, str, bool, str, str]) -> str:
    program, spoken, auth, target, reached = case
    return f"{program}-{spoken}{'-password' * auth}-to-{target}-by-{reached}"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_opens_through(
    proxies: Proxies,
    authority: Authority,
    targets: Authority,
    resolver: Resolver,
    case: tuple[str, str, bool, str, str],
    scheme: str,
) -> None:
    program, spoken, auth, target, reached = case
    if {target, reached} & set(NAMES):
        need_names()
    proxy, proxy_url = started(proxies, program, spoken, auth, reached)
    address = NAMES.get(target, target)
    secure = scheme == "wss"
    certificate = targets.issue(target) if secure else None
    async with echo_server(address, certificate) as port:
        connection = await echoes(
            f"{scheme}://{bracketed(target)}:{port}/x",
            *MESSAGES,
            proxies=proxy_url,
            tls=targets.client(target) if secure else None,
            proxy_tls=authority.verify_proxy,
        )
        assert connection.peer.endswith(f":{proxy.port}")
        resolved_here = spoken in {"socks4", "socks5"}
        told = address if resolved_here or program == "dante" else target
        await eventually(lambda: proxy.has_named(told, port))
    asked = {target} if resolved_here else set()
    assert set(resolver.asked) == {reached, *asked} & set(NAMES)


@pytest.mark.parametrize("target", ["127.0.0.1", "four.test"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest_twisted.ensureDeferred
async def test_opens_through_twisteds_socks4a(
    targets: Authority, resolver: Resolver, scheme: str, target: str
) -> None:
    secure = scheme == "wss"
    certificate = targets.issue(target) if secure else None
    async with TwistedSOCKS4() as proxy, echo_server("127.0.0.1", certificate) as port:
        await echoes(
            f"{scheme}://{target}:{port}/",
            *MESSAGES,
            proxies=f"socks4a://{USER}@127.0.0.1:{proxy.port}",
            tls=targets.client(target) if secure else None,
        )
        assert proxy.names == [target] * (target in NAMES)
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("spoken", "target", "expected"),
    [
        ("socks4", "[::1]", InvalidProxy),
        ("socks4a", "[::1]", InvalidProxy),
        ("socks4", "six.test", NameLookupFailed),
    ],
)
@pytest_twisted.ensureDeferred
async def test_ipv6_is_not_asked_of_socks4(
    resolver: Resolver, spoken: str, target: str, expected: type[Exception]
) -> None:
    async with RawServer() as proxy:
        with pytest.raises(expected, match=r"no IPv6|no address that socks4://127"):
            await connect(f"ws://{target}:9/", proxies=f"{spoken}://127.0.0.1:{proxy.port}")
        assert proxy.connections == []


@pytest.mark.parametrize(("program", "spoken"), WITH_PASSWORD[:5])
@pytest_twisted.ensureDeferred
async def test_password_may_wait_until_it_is_asked_for(
    proxies: Proxies, authority: Authority, program: str, spoken: str
) -> None:
    _, url = started(proxies, program, spoken, auth=True)
    async with echo_server() as port:
        await echoes(
            f"ws://127.0.0.1:{port}/",
            proxies=url,
            proxy_tls=authority.verify_proxy,
            options=ClientOptions(proxy_auth_unasked=False),
        )


@pytest.mark.parametrize("unasked", [True, False])
@pytest.mark.parametrize(("program", "spoken"), WITH_PASSWORD)
@pytest_twisted.ensureDeferred
async def test_wrong_password_is_refused_and_told_to_nobody_else(
    proxies: Proxies, authority: Authority, program: str, spoken: str, unasked: bool
) -> None:
    """Tinyproxy says 401 where it should say 407; the error is the same."""
    running = proxies.running(program, auth=True)
    async with RawServer() as origin:
        with pytest.raises(ProxyAuthRefused) as caught:
            await connect(
                f"ws://127.0.0.1:{origin.port}/",
                proxies=f"{spoken}://{USER}:wr0ng-planted@127.0.0.1:{running.port}",
                proxy_tls=authority.verify_proxy,
                options=ClientOptions(proxy_auth_unasked=unasked),
            )
        assert origin.connections == []
    error = caught.value
    status = {"tinyproxy": 401, "dante": None, "microsocks": None}.get(program, 407)
    assert (error.status, error.phase) == (status, "proxy")
    assert error.proxy == running.url(spoken)
    assert "wr0ng-planted" not in f"{error} {error!r} {error.proxy}"


@pytest.mark.parametrize(("program", "spoken"), WITH_PASSWORD)
@pytest_twisted.ensureDeferred
async def test_password_that_is_missing_is_required(
    proxies: Proxies, authority: Authority, program: str, spoken: str
) -> None:
    url = proxies.running(program, auth=True).url(spoken)
    with pytest.raises(ProxyAuthRequired) as caught:
        await connect("ws://127.0.0.1:9/", proxies=url, proxy_tls=authority.verify_proxy)
    asks = {name.lower() for name, _ in caught.value.headers} & {"proxy-authenticate"}
    http = spoken.startswith("http")
    assert (caught.value.status, bool(asks)) == ((407, True) if http else (None, False))


@pytest.mark.parametrize(("program", "spoken"), OPEN)
@pytest_twisted.ensureDeferred
async def test_target_that_refuses_is_told_by_its_code(
    proxies: Proxies, authority: Authority, program: str, spoken: str
) -> None:
    expected: type[OpenError] = TargetUnreachable if "socks5" in spoken else ProxyRefused
    with pytest.raises(expected) as caught:
        await connect(
            f"ws://127.0.0.1:{free_port()}/",
            proxies=proxies.running(program).url(spoken),
            proxy_tls=authority.verify_proxy,
        )
    error = caught.value
    assert isinstance(error, ProxyRefused)
    if spoken.startswith("http"):
        assert error.status == (500 if program == "tinyproxy" else 503)
        assert 0 < len(error.body) <= 8192
    else:
        assert error.code == (91 if spoken == "socks4" else 5)


@pytest.mark.parametrize(
    ("program", "spoken", "auth"), [("haproxy", "https", True), ("microsocks", "socks5h", True)]
)
@pytest_twisted.ensureDeferred
async def test_service_connects_through(
    proxies: Proxies, authority: Authority, program: str, spoken: str, auth: bool
) -> None:
    said: Deferred[object] = Deferred()

    async def handler(connection: Any) -> None:
        await connection.send("hello")
        said.callback(await connection.recv())
        await connection.when_closed()

    _, url = started(proxies, program, spoken, auth)
    async with echo_server() as port:
        service = WebSocketClientService(
            f"ws://localhost:{port}/", handler, proxies=url, proxy_tls=authority.verify_proxy
        )
        service.startService()
        assert await within(said) == "hello"
        await service.stopService()


# ------------------------------------------------------------------ two proxies and more

HOPS = {
    "http": ("tinyproxy", "http", False),
    "privoxy": ("privoxy", "http", False),
    "basic": ("squid", "http", True),
    "digest": ("squid_digest", "http", True),
    "https": ("stunnel", "https", False),
    "https digest": ("haproxy", "https", True),
    "socks4": ("dante", "socks4", False),
    "socks5": ("microsocks", "socks5", True),
    "socks5h": ("dante", "socks5h", False),
}
CHAINS = [
    *((first, second) for first in HOPS for second in HOPS),
    ("https", "https digest", "https"),
    ("socks5", "digest", "socks4", "https", "basic"),
    ("http", "socks5h", "http", "socks5h", "http", "socks5h", "http", "socks5h"),
]


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("kinds", CHAINS, ids="+".join)
@pytest_twisted.ensureDeferred
async def test_opens_through_a_chain(
    proxies: Proxies, authority: Authority, targets: Authority, kinds: tuple[str, ...], scheme: str
) -> None:
    """Every other one is on ::1: some connect to no proxy that they are themselves."""
    secure = scheme == "wss"
    certificate = targets.issue("localhost") if secure else None
    urls: list[str] = []
    way: list[Running] = []
    for number, kind in enumerate(kinds):
        program, spoken, auth = HOPS[kind]
        running = proxies.running(program, auth=auth, host="127.0.0.1" if number % 2 else "::1")
        urls.append(running.url(spoken, auth=auth))
        way.append(running)
    async with echo_server("127.0.0.1", certificate) as port:
        await echoes(
            f"{scheme}://localhost:{port}/",
            *MESSAGES,
            proxies=chain(*urls),
            tls=targets.client("localhost") if secure else None,
            proxy_tls=authority.verify_proxy,
        )
        for number, running in enumerate(way):
            following = way[number + 1] if number + 1 < len(way) else None
            told = (following.host, following.port) if following else (None, port)
            hosts = [told[0]] if following else ["localhost", "127.0.0.1"]
            await eventually(
                lambda running=running, hosts=hosts, told=told: any(
                    running.has_named(host, told[1]) for host in hosts
                )
            )
