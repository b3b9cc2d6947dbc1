"""Proxies that are spoken to within TLS: stunnel before tinyproxy, and one that writes all down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.protocol import Factory

from wsframe.client import WebSocketClientService, connect
from wsframe.core.proxy import Proxy
from wsframe.endpoints import HostEndpoint, HTTPConnectEndpoint, ProxyTLS
from wsframe.errors import (
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    TLSFailed,
)
from wsframe.options import ClientOptions

from .certificates import Authority, ServerTLS, self_signed
from .interop import LISTEN
from .proxies import ENCODED, USER, Proxies, RecordingProxy
from .raw import Raw, RawServer, turns, within
from .test_proxy import echo_server


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    running = Proxies()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Issue the proxies' certificates."""
    return Authority("proxies' CA")


@pytest.fixture(scope="module")
def targets() -> Authority:
    """Issue the targets' certificates: another one, so that neither goes for the other."""
    return Authority("targets' CA")


def trusting(authority: Authority) -> ProxyTLS:
    def proxy_tls(proxy: Proxy) -> Any:
        return ssl.optionsForClientTLS(proxy.host, trustRoot=authority.root)

    return proxy_tls


@pytest.fixture(scope="module")
def stunnel(proxies: Proxies, authority: Authority) -> dict[bool, int]:
    """Give the ports of stunnels before tinyproxy, with and without a password."""
    certificate = authority.issue("localhost", "127.0.0.1")
    return {
        auth: proxies.tls_before(proxies.get("tinyproxy", auth=auth), certificate)
        for auth in (False, True)
    }


@pytest.mark.parametrize("auth", [False, True], ids=["open", "basic"])
@pytest.mark.parametrize("proxy_host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest_twisted.ensureDeferred
async def test_opens_through_a_real_https_proxy(
    stunnel: dict[bool, int],
    authority: Authority,
    targets: Authority,
    scheme: str,
    proxy_host: str,
    auth: bool,
) -> None:
    """With wss there is TLS inside TLS, verified by an authority of its own each."""
    from twisted.internet import reactor

    where: Any = LISTEN
    tls = None
    if scheme == "wss":
        where = SSL4ServerEndpoint(reactor, 0, targets.issue("localhost"), interface="127.0.0.1")
        tls = targets.client("localhost")
    login = f"{USER}:{ENCODED}@" if auth else ""
    proxy = f"https://{login}{proxy_host}:{stunnel[auth]}"
    async with echo_server(where) as port:
        async with connect(
            f"{scheme}://localhost:{port}/", proxies=proxy, tls=tls, proxy_tls=trusting(authority)
        ) as connection:
            for message in ("through both", bytes(300_000)):
                await connection.send(message)
                assert await connection.recv() == message
        assert (await connection.when_closed()).clean


@pytest_twisted.ensureDeferred
async def test_wrong_password_is_refused(stunnel: dict[bool, int], authority: Authority) -> None:
    with pytest.raises(ProxyAuthRefused) as caught:
        await connect(
            "ws://127.0.0.1:9/",
            proxies=f"https://{USER}:wr0ng-planted@localhost:{stunnel[True]}",
            proxy_tls=trusting(authority),
        )
    assert caught.value.phase == "proxy"
    assert caught.value.proxy == f"https://localhost:{stunnel[True]}"


def bad_certificate(kind: str, authority: Authority) -> tuple[ServerTLS, str]:
    if kind == "wrong name":
        return authority.issue("other.example"), "not for this host name"
    if kind == "expired":
        return authority.issue("localhost", expired=True), "expired"
    if kind == "self-signed":
        return self_signed("localhost"), "self[- ]signed"
    return Authority("other CA").issue("localhost"), "unable to get local issuer certificate"


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "stunnel"])
@pytest.mark.parametrize("kind", ["wrong name", "expired", "self-signed", "unknown authority"])
@pytest_twisted.ensureDeferred
async def test_bad_certificate_of_the_proxy_is_tls_failed_in_phase_proxy_tls(
    proxies: Proxies, authority: Authority, kind: str, real: bool
) -> None:
    """CVE-2021-28363, CVE-2016-9015; and no credential has gone out."""
    certificate, text = bad_certificate(kind, authority)
    async with RecordingProxy(certificate) as proxy, RawServer() as origin:
        port = proxies.tls_before(origin.port, certificate) if real else proxy.port
        with pytest.raises(TLSFailed, match=text) as caught:
            await connect(
                f"ws://localhost:{origin.port}/",
                proxies=f"https://{USER}:planted@localhost:{port}",
                proxy_tls=trusting(authority),
            )
        assert caught.value.phase == "proxy-tls"
        assert caught.value.certificate
        assert "planted" not in str(caught.value)
        assert proxy.requests == []
        assert all(raw.total == 0 for raw in origin.connections)


@pytest_twisted.ensureDeferred
async def test_systems_authorities_are_the_default() -> None:
    async with RecordingProxy(self_signed("localhost")) as proxy:
        with pytest.raises(TLSFailed, match=r"self[- ]signed") as caught:
            await connect("ws://localhost:9/", proxies=proxy.secure_url)
        assert caught.value.phase == "proxy-tls"


@pytest_twisted.ensureDeferred
async def test_targets_creator_is_not_used_for_the_proxy_nor_the_other_way_round(
    authority: Authority, targets: Authority
) -> None:
    from twisted.internet import reactor

    where = SSL4ServerEndpoint(reactor, 0, targets.issue("localhost"), interface="127.0.0.1")
    async with RecordingProxy(authority.issue("localhost")) as proxy, echo_server(where) as port:
        url = f"wss://localhost:{port}/"
        for tls, proxy_tls, phase in [
            (targets.client("localhost"), trusting(targets), "proxy-tls"),
            (targets.client("localhost"), None, "proxy-tls"),
            (authority.client("localhost"), trusting(authority), "tls"),
            (None, trusting(authority), "tls"),
        ]:
            with pytest.raises(TLSFailed) as caught:
                await connect(url, proxies=proxy.secure_url, tls=tls, proxy_tls=proxy_tls)
            assert caught.value.phase == phase


@pytest_twisted.ensureDeferred
async def test_sni_is_the_proxys_outside_and_the_targets_inside(
    authority: Authority, targets: Authority
) -> None:
    from twisted.internet import reactor

    outer, inner = authority.issue("proxy.test"), targets.issue("localhost")
    where = SSL4ServerEndpoint(reactor, 0, inner, interface="127.0.0.1")
    async with RecordingProxy(outer) as proxy, echo_server(where) as port:
        endpoint = HTTPConnectEndpoint(
            reactor,
            f"https://proxy.test:{proxy.port}",
            "localhost",
            port,
            endpoint=HostEndpoint(reactor, "127.0.0.1", proxy.port),  # type: ignore[arg-type]
            proxy_tls=trusting(authority),
        )
        from wsframe.endpoints import TLSEndpoint

        both = TLSEndpoint(targets.client("localhost"), endpoint, clock=reactor)  # type: ignore[arg-type]
        protocol = await both.connect(Factory.forProtocol(Raw))
        assert (outer.names, inner.names) == (["proxy.test"], ["localhost"])
        await protocol.drop()


@pytest_twisted.ensureDeferred
async def test_service_connects_through_an_https_proxy(
    stunnel: dict[bool, int], authority: Authority
) -> None:
    said: Deferred[object] = Deferred()

    async def handler(connection: Any) -> None:
        await connection.send("hello")
        said.callback(await connection.recv())
        await connection.when_closed()

    async with echo_server() as port:
        service = WebSocketClientService(
            f"ws://localhost:{port}/",
            handler,
            proxies=f"https://localhost:{stunnel[False]}",
            proxy_tls=trusting(authority),
        )
        service.startService()
        assert await within(said) == "hello"
        await service.stopService()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b""]
)
@pytest_twisted.ensureDeferred
async def test_proxy_that_speaks_no_tls_is_tls_failed(authority: Authority, answer: bytes) -> None:
    async def script(raw: Raw) -> None:
        await raw.until(lambda: raw.received)
        raw.write(answer)
        raw.finish()

    async with RawServer(script) as proxy:
        with pytest.raises(TLSFailed) as caught:
            await connect(
                "ws://localhost:9/",
                proxies=f"https://localhost:{proxy.port}",
                proxy_tls=trusting(authority),
            )
        assert caught.value.phase == "proxy-tls"
        assert not caught.value.certificate
        await within(proxy.connections[0].ended())


@pytest.mark.parametrize("expected", [OpenTimeout, OpenCancelled])
@pytest_twisted.ensureDeferred
async def test_proxy_that_never_answers_the_hello_is_given_up(
    authority: Authority, expected: type[OpenError]
) -> None:
    async with RawServer() as proxy:
        opening = connect(
            "ws://localhost:9/",
            proxies=f"https://localhost:{proxy.port}",
            proxy_tls=trusting(authority),
            options=ClientOptions(open_timeout=0.1),
        )
        raw: Raw = await proxy.accepted()
        if expected is OpenCancelled:
            await raw.until(lambda: raw.total)
            await turns()
            opening.cancel()
        with pytest.raises(expected) as caught:
            await opening
        assert caught.value.phase == "proxy-tls"
        await within(raw.ended())
