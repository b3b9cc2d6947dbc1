"""TLS: what is verified, what is said when it is not right, and an end that does not hang."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import defer, ssl
from twisted.internet.endpoints import (
    HostnameEndpoint,
    SSL4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.protocol import Factory

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.endpoints import HostEndpoint, HTTPConnectEndpoint, TLSEndpoint
from wsframe.errors import OpenTimeout, TLSFailed
from wsframe.options import ClientOptions
from wsframe.server import serve

from .certificates import BAD_CERTIFICATES, Authority, bad_certificate, self_signed
from .origins import echo_server
from .proxies import RecordingProxy
from .raw import Raw, RawServer, eventually, within


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_good_certificate_opens(authority: Authority, host: str) -> None:
    async with (
        echo_server(certificate=authority.issue(host)) as port,
        connect(f"wss://{host}:{port}/", tls=authority.client(host)) as connection,
    ):
        await connection.send("x" * 100_000)
        assert await connection.recv() == "x" * 100_000


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
@pytest_twisted.ensureDeferred
async def test_bad_certificate_is_tls_failed_and_says_why(
    authority: Authority, kind: str, proxied: bool
) -> None:
    """CVE-2021-28363, CVE-2016-9015."""
    certificate, text = bad_certificate(kind, authority)
    handled: list[Connection] = []
    async with (
        echo_server(certificate=certificate, handler=handled.append) as port,
        RecordingProxy() as proxy,
    ):
        with pytest.raises(TLSFailed, match=text) as caught:
            await connect(
                f"wss://localhost:{port}/?token=planted",
                tls=authority.client("localhost"),
                proxies=proxy.url if proxied else None,
            )
        assert caught.value.phase == "tls"
        assert caught.value.certificate
        assert "Error" not in str(caught.value)
        assert "planted" not in str(caught.value)
        assert handled == []
        assert len(proxy.requests) == proxied


@pytest_twisted.ensureDeferred
async def test_a_port_that_speaks_no_tls_is_named_as_that() -> None:
    """OpenSSL calls it a wrong version number, which leads nobody to the letter too many."""
    async with echo_server() as port:
        with pytest.raises(TLSFailed, match=r"\(perhaps it speaks no TLS, but ws:// or http://\)"):
            await connect(f"wss://localhost:{port}/")


@pytest_twisted.ensureDeferred
async def test_systems_authorities_are_the_default() -> None:
    async with echo_server(certificate=self_signed("localhost")) as port:
        with pytest.raises(TLSFailed, match=r"self[- ]signed"):
            await connect(f"wss://localhost:{port}/")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest_twisted.ensureDeferred
async def test_sni_is_the_targets_also_through_a_proxy(authority: Authority, host: str) -> None:
    certificate = authority.issue(host)
    async with echo_server(certificate=certificate) as port, RecordingProxy() as proxy:
        url = f"wss://{host}:{port}/"
        async with connect(url, tls=authority.client(host), proxies=proxy.url):
            pass
        # An address is no name to ask for (RFC 6066 §3).
        assert certificate.names == ["localhost" if host == "localhost" else None]


@pytest_twisted.ensureDeferred
async def test_nothing_of_the_handshake_is_readable_by_the_proxy(authority: Authority) -> None:
    async with (
        echo_server(certificate=authority.issue("localhost")) as port,
        RecordingProxy() as proxy,
    ):
        async with connect(
            f"wss://localhost:{port}/secret-path",
            headers={"Authorization": "Bearer planted"},
            tls=authority.client("localhost"),
            proxies=proxy.url,
        ) as connection:
            await connection.send("planted message")
            await connection.recv()
        assert proxy.seen[0] == 0x16  # a TLS handshake record is the first byte
        for secret in (b"planted", b"secret-path", b"Upgrade"):
            assert secret not in proxy.seen
            assert secret not in proxy.requests[0].encode()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28", b""]
)
@pytest_twisted.ensureDeferred
async def test_server_that_speaks_no_tls_is_tls_failed(authority: Authority, answer: bytes) -> None:
    async def script(raw: Raw) -> None:
        await raw.until(lambda: raw.received)
        raw.write(answer)
        raw.finish()

    async with RawServer(script) as server:
        with pytest.raises(TLSFailed) as caught:
            await connect(f"wss://localhost:{server.port}/", tls=authority.client("localhost"))
        assert caught.value.phase == "tls"
        assert not caught.value.certificate
        assert str(caught.value).isprintable()
        await within(server.connections[0].ended())


@pytest_twisted.ensureDeferred
async def test_server_that_never_answers_the_hello_is_open_timeout(authority: Authority) -> None:
    async with RawServer() as server:
        with pytest.raises(OpenTimeout) as caught:
            await connect(
                f"wss://localhost:{server.port}/",
                tls=authority.client("localhost"),
                options=ClientOptions(open_timeout=0.1),
            )
        assert caught.value.phase == "tls"
        await within(server.connections[0].ended())


class Hole(RecordingProxy):
    """A proxy that, when told so, lets nothing more through in either direction."""

    def cut(self) -> None:
        for raw in (*self.connections, *self.origins):
            raw.dataReceived = lambda data: None  # type: ignore[method-assign]


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_peer_that_never_answers_close_notify_does_not_hang_close(
    authority: Authority, role: str
) -> None:
    from twisted.internet import reactor

    from wsframe.options import ServerOptions

    handled: defer.Deferred[Connection] = defer.Deferred()

    async def handler(connection: Connection) -> None:
        handled.callback(connection)
        await connection.when_closed()

    endpoint = SSL4ServerEndpoint(reactor, 0, authority.issue("localhost"), interface="127.0.0.1")
    short = ServerOptions(close_timeout=0.1)
    async with serve(handler, endpoint, options=short) as server, Hole() as proxy:
        port = server.addresses[0].port  # type: ignore[attr-defined]
        client = await connect(
            f"wss://localhost:{port}/",
            tls=authority.client("localhost"),
            proxies=proxy.url,
            options=ClientOptions(close_timeout=0.1),
        )
        ours = client if role == "client" else await within(handled)
        proxy.cut()
        await within(ours.close(), 5)
        outcome = await ours.when_closed()
        assert (outcome.code, outcome.by, outcome.clean) == (1000, "local", False)
        other = client if role == "server" else await within(handled)
        other.abort()
        await within(other.when_closed(), 5)


@pytest_twisted.ensureDeferred
async def test_wrong_certificate_fails_our_endpoint_but_not_twisteds() -> None:
    """The trap: `wrapClientTLS` fires before the TLS handshake; ours after it."""
    from twisted.internet import reactor

    authority = Authority()
    async with echo_server(certificate=self_signed("localhost")) as port:
        creator = authority.client("localhost")
        theirs = wrapClientTLS(creator, HostnameEndpoint(reactor, b"localhost", port))
        inner = await connectProtocol(theirs, Raw())  # no error
        await within(inner.ended())

        built: list[Raw] = []

        class Noted(Raw):
            def __init__(self) -> None:
                super().__init__()
                built.append(self)

        ours = TLSEndpoint(creator, HostEndpoint(reactor, "localhost", port), clock=reactor)
        with pytest.raises(TLSFailed):
            await connectProtocol(ours, Noted())
        built.clear()
        from twisted.internet.protocol import Factory

        with pytest.raises(TLSFailed):
            await ours.connect(Factory.forProtocol(Noted))
        assert built == []


@pytest_twisted.ensureDeferred
async def test_rotated_certificate_is_used_for_the_next_handshake(authority: Authority) -> None:
    certificate = authority.issue("localhost")
    renewed = authority.issue("localhost")
    async with echo_server(certificate=certificate) as port:
        url = f"wss://localhost:{port}/"
        async with connect(url, tls=authority.client("localhost")) as held:
            certificate.renew(renewed)
            async with connect(url, tls=authority.client("localhost")) as fresh:
                await fresh.send("new")
                assert await fresh.recv() == "new"
            await held.send("old")
            assert await held.recv() == "old"
        assert renewed.names == ["localhost"]
        certificate.renew(authority.issue("localhost", expired=True))
        with pytest.raises(TLSFailed, match="expired"):
            await connect(url, tls=authority.client("localhost"))


@pytest_twisted.ensureDeferred
async def test_plain_client_on_a_tls_port_is_refused(authority: Authority) -> None:
    from wsframe.errors import OpenError

    async with echo_server(certificate=authority.issue("localhost")) as port:
        with pytest.raises(OpenError) as caught:
            await connect(f"ws://localhost:{port}/")
        assert caught.value.phase == "handshake"


@pytest_twisted.ensureDeferred
async def test_tls_client_on_a_plain_port_is_tls_failed(authority: Authority) -> None:
    from .interop import serving

    async with serving() as (server, _, _handled):
        port = server.addresses[0].port  # type: ignore[attr-defined]
        with pytest.raises(TLSFailed):
            await connect(f"wss://localhost:{port}/", tls=authority.client("localhost"))
        await eventually(lambda: not server.connections)


def test_tls_options_that_compare_no_host_name_are_refused() -> None:
    """Twisted's CertificateOptions would connect to whoever has any certificate."""
    with pytest.raises(TypeError, match="optionsForClientTLS"):
        connect("wss://localhost:9/", tls=ssl.CertificateOptions())


@pytest_twisted.ensureDeferred
async def test_a_protocol_that_fails_to_begin_is_told_at_once() -> None:
    """Its own exception, and the transport is aborted: nobody waits for a deadline."""
    from twisted.internet import reactor

    class Broken(Raw):
        def connectionMade(self) -> None:
            raise ZeroDivisionError("planted")

    async with RecordingProxy() as proxy, RawServer() as origin:
        endpoint = HTTPConnectEndpoint(reactor, proxy.url, "127.0.0.1", origin.port, timeout=None)
        with pytest.raises(ZeroDivisionError):
            await within(endpoint.connect(Factory.forProtocol(Broken)))
