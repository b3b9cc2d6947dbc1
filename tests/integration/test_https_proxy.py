"""Proxies that are spoken to within TLS: what is verified, by whom, and what is not told."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.endpoints import HostEndpoint, HTTPConnectEndpoint, TLSEndpoint
from wsframe.errors import (
    OpenCancelled,
    OpenError,
    OpenTimeout,
    TLSFailed,
)
from wsframe.options import ClientOptions

from .certificates import BAD_CERTIFICATES, Authority, bad_certificate, self_signed
from .origins import echo_server
from .proxies import USER, Proxies, RecordingProxy
from .raw import Raw, RawServer, turns, within


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "stunnel"])
@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
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
                proxy_tls=authority.verify_proxy,
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
    outer, inner = authority.issue("localhost"), targets.issue("localhost")
    async with RecordingProxy(outer) as proxy, echo_server(certificate=inner) as port:
        url = f"wss://localhost:{port}/"
        for tls, proxy_tls, phase in [
            (targets.client("localhost"), targets.verify_proxy, "proxy-tls"),
            (targets.client("localhost"), None, "proxy-tls"),
            (authority.client("localhost"), authority.verify_proxy, "tls"),
            (None, authority.verify_proxy, "tls"),
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
    async with RecordingProxy(outer) as proxy, echo_server(certificate=inner) as port:
        endpoint = HTTPConnectEndpoint(
            reactor,
            f"https://proxy.test:{proxy.port}",
            "localhost",
            port,
            endpoint=HostEndpoint(reactor, "127.0.0.1", proxy.port),  # type: ignore[arg-type]
            proxy_tls=authority.verify_proxy,
        )
        both = TLSEndpoint(targets.client("localhost"), endpoint, clock=reactor)  # type: ignore[arg-type]
        protocol = await both.connect(Factory.forProtocol(Raw))
        assert (outer.names, inner.names) == (["proxy.test"], ["localhost"])
        await protocol.drop()


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
                proxy_tls=authority.verify_proxy,
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
            proxy_tls=authority.verify_proxy,
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
