"""TLSOptions: what they verify, what they show, and what they make of files that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import TLSVersion, platformTrust

from wsframe.client import connect
from wsframe.endpoints import HostEndpoint, TLSEndpoint, TLSOptions
from wsframe.errors import InvalidTLSOptions, OpenError, ProxyTLSFailed, TLSFailed

from .certificates import Authority, ServerTLS, self_signed
from .origins import echo_server
from .proxies import RecordingProxy
from .raw import Raw, RawServer, within


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def client() -> ServerTLS:
    return Authority("authority of clients").issue("robot-7")


async def opens(tls: TLSOptions, port: int, host: str = "localhost") -> None:
    async with connect(f"wss://{host}:{port}/", tls=tls) as connection:
        await connection.send("over TLS")
        assert await connection.recv() == "over TLS"


# ------------------------------------------------------------------------------------- authorities


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "trust root", "several"])
@pytest_twisted.ensureDeferred
async def test_authority_of_ones_own_is_trusted(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    ca: Any = {
        "path": file,
        "text": str(file),
        "bytes": authority.pem,
        "trust root": authority.root,
        "several": b"a comment\n" + Authority("other").pem + authority.pem,
    }[kind]
    async with echo_server(certificate=authority.issue("localhost")) as port:
        await opens(TLSOptions(ca=ca), port)


@pytest.mark.parametrize("ca", [None, Authority("other").pem], ids=["system", "other"])
@pytest_twisted.ensureDeferred
async def test_other_authorities_are_not_trusted(authority: Authority, ca: bytes | None) -> None:
    async with echo_server(certificate=authority.issue("localhost")) as port:
        with pytest.raises(TLSFailed, match="local issuer") as caught:
            await opens(TLSOptions(ca=ca), port)
        assert caught.value.phase == "tls"


@pytest_twisted.ensureDeferred
async def test_name_is_verified_whatever_the_authority(authority: Authority) -> None:
    async with echo_server(certificate=authority.issue("other.example")) as port:
        with pytest.raises(TLSFailed, match="not for this host name"):
            await opens(TLSOptions(ca=authority.pem), port)


@pytest_twisted.ensureDeferred
async def test_files_that_changed_are_read_again(authority: Authority, tmp_path: Path) -> None:
    """Also when they were broken in between, which is said and leaves nothing hanging."""
    file = tmp_path / "ca.pem"
    file.write_bytes(Authority("old").pem)
    tls = TLSOptions(ca=file)
    async with echo_server(certificate=authority.issue("localhost")) as port:
        with pytest.raises(TLSFailed, match="local issuer"):
            await opens(tls, port)
        replaced(file, authority.pem)
        await opens(tls, port)
        replaced(file, b"half of a fi")
        with pytest.raises(TLSFailed, match="ca is not PEM") as caught:
            await opens(tls, port)
        # To be tried again: who replaces a file may be in the middle of it.
        assert (caught.value.phase, caught.value.certificate) == ("tls", False)
        file.unlink()
        with pytest.raises(TLSFailed, match="cannot be read"):
            await opens(tls, port)
        replaced(file, authority.pem)
        await opens(tls, port)


def replaced(file: Path, data: bytes) -> None:
    """Replace a file in the way of who rotates certificates."""
    new = file.with_suffix(".new")
    new.write_bytes(data)
    new.replace(file)


@pytest_twisted.ensureDeferred
async def test_files_that_did_not_change_are_not_read_again(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    tls = TLSOptions(ca=file)
    async with echo_server(certificate=authority.issue("localhost")) as port:
        await opens(tls, port)
        creator = tls.creator("localhost")
        await opens(tls, port)
        assert tls.creator("localhost") is creator
        os.utime(file, (1, 1))
        assert tls.creator("localhost") is not creator


def test_what_was_loaded_is_kept_for_few_hosts(authority: Authority) -> None:
    tls = TLSOptions(ca=authority.pem)
    first = tls.creator("host-0")
    for number in range(1, 100):
        tls.creator(f"host-{number}")
    assert len(tls._made) < 50
    assert tls.creator("host-0") is not first


# ------------------------------------------------------------------------------ client certificate


@pytest.mark.parametrize("kind", ["one file", "two files", "bytes", "password", "function"])
@pytest_twisted.ensureDeferred
async def test_client_certificate_is_seen_by_the_server(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    clients = Authority("authority of clients")
    robot = clients.issue("robot-7")
    both, certificate, key = (tmp_path / name for name in ("both.pem", "cert.pem", "key.pem"))
    both.write_bytes(robot.pem())
    certificate.write_bytes(robot.certificate_pem())
    key.write_bytes(
        robot.key_pem("s3cret") if kind in {"password", "function"} else robot.key_pem()
    )
    given: dict[str, Any] = {
        "one file": {"certificate": both},
        "two files": {"certificate": certificate, "key": key},
        "bytes": {"certificate": robot.certificate_pem(), "key": robot.key_pem()},
        "password": {"certificate": certificate, "key": key, "key_password": "s3cret"},
        "function": {"certificate": certificate, "key": key, "key_password": lambda: b"s3cret"},
    }[kind]
    server = authority.issue("localhost")
    server.demand(clients)
    async with echo_server(certificate=server) as port:
        await opens(TLSOptions(ca=authority.pem, **given), port)
        assert server.clients == ["robot-7"]


@pytest.mark.parametrize("certificate", [None, "another authority's"])
@pytest_twisted.ensureDeferred
async def test_server_that_demands_a_certificate_refuses_without_it(
    authority: Authority, certificate: str | None
) -> None:
    server = authority.issue("localhost")
    server.demand(Authority("authority of clients"))
    pem = authority.issue("robot-7").pem() if certificate else None
    async with echo_server(certificate=server) as port:
        with pytest.raises(OpenError) as caught:
            await opens(TLSOptions(ca=authority.pem, certificate=pem), port)
        assert "alert" in str(caught.value)
        assert caught.value.phase == "handshake"  # TLS 1.3: it has shaken hands by then
        assert server.clients == []


# ----------------------------------------------------------------------------------- fingerprints


def pins(server: ServerTLS) -> dict[str, Any]:
    whole, key = server.fingerprint(), server.key_fingerprint()
    return {
        "certificate": whole,
        "without colons": whole.replace(":", "").lower(),
        "key": key,
        "one of two": (whole, "00" * 32),
    }


@pytest.mark.parametrize("kind", list(pins(self_signed("x"))))
@pytest.mark.parametrize("issued", [False, True], ids=["alone", "with ca"])
@pytest_twisted.ensureDeferred
async def test_server_with_the_fingerprint_is_connected_to(
    authority: Authority, kind: str, issued: bool
) -> None:
    server = authority.issue("localhost") if issued else self_signed("another.example")
    tls = TLSOptions(ca=authority.pem if issued else None, fingerprint=pins(server)[kind])
    async with echo_server(certificate=server) as port:
        await opens(tls, port)
        assert server.names == ["localhost"]
        await opens(tls, port)


@pytest.mark.parametrize("issued", [False, True], ids=["alone", "with ca"])
@pytest.mark.parametrize("kind", ["certificate", "key"])
@pytest_twisted.ensureDeferred
async def test_server_with_another_fingerprint_is_told_nothing(
    authority: Authority, kind: str, issued: bool
) -> None:
    """Though its certificate is for this name, by a trusted authority."""
    expected, server = authority.issue("localhost"), authority.issue("localhost")
    tls = TLSOptions(ca=authority.pem if issued else None, fingerprint=pins(expected)[kind])
    async with RawServer(certificate=server) as raw:
        with pytest.raises(TLSFailed, match="not the one of the fingerprint") as caught:
            await connect(f"wss://localhost:{raw.port}/?token=planted", tls=tls)
        assert (caught.value.phase, caught.value.certificate) == ("tls", True)
        await within(raw.connections[0].ended())
        assert raw.connections[0].total == 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("wrong name", "not for this host name"),
        ("expired", "expired"),
        ("self-signed", "self[- ]signed"),
        ("system", "local issuer"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_with_an_authority_the_fingerprint_excuses_nothing(
    authority: Authority, kind: str, text: str
) -> None:
    server = authority.issue("localhost", expired=kind == "expired")
    if kind == "wrong name":
        server = authority.issue("other.example")
    elif kind == "self-signed":
        server = self_signed("localhost")
    ca: Any = platformTrust() if kind == "system" else authority.pem
    tls = TLSOptions(ca=ca, fingerprint=server.fingerprint())
    async with echo_server(certificate=server) as port:
        with pytest.raises(TLSFailed, match=text) as caught:
            await opens(tls, port)
        assert caught.value.certificate


@pytest.mark.parametrize("right", [True, False])
@pytest_twisted.ensureDeferred
async def test_fingerprint_is_verified_where_twisted_connects(
    authority: Authority, right: bool
) -> None:
    """It is no matter of our own endpoints alone."""
    from twisted.internet import reactor

    server = self_signed("localhost")
    pinned = server if right else self_signed("localhost")
    creator: Any = TLSOptions(fingerprint=pinned.fingerprint()).for_host("localhost")
    async with RawServer(certificate=server) as raw:
        endpoint = wrapClientTLS(creator, HostnameEndpoint(reactor, b"localhost", raw.port))
        client = await within(connectProtocol(endpoint, Raw()))
        client.write(b"hello")
        if right:
            accepted = await raw.accepted()
            assert await accepted.read(5) == b"hello"
            await client.drop()
        else:
            await within(client.ended())
            assert b"hello" not in raw.connections[0].received


# ---------------------------------------------------------------------------- names, ALPN, version


@pytest_twisted.ensureDeferred
async def test_server_name_is_asked_for_and_verified(authority: Authority) -> None:
    server = authority.issue("inner.example")
    async with echo_server(certificate=server) as port:
        await opens(TLSOptions(ca=authority.pem, server_name="inner.example"), port, "127.0.0.1")
        assert server.names == ["inner.example"]
        with pytest.raises(TLSFailed, match="not for this host name"):
            await opens(TLSOptions(ca=authority.pem, server_name="b.example"), port, "127.0.0.1")
        assert server.names[1:] == ["b.example"]


@pytest.mark.parametrize("pinned", [False, True])
@pytest_twisted.ensureDeferred
async def test_the_roots_dot_is_no_part_of_the_name(authority: Authority, pinned: bool) -> None:
    """RFC 6066 §3: neither asked for nor in a certificate."""
    from twisted.internet import reactor

    server = authority.issue("localhost")
    tls = TLSOptions(ca=authority.pem, fingerprint=server.fingerprint() if pinned else None)
    async with RawServer(certificate=server) as raw:
        tcp: Any = HostEndpoint(reactor, "127.0.0.1", raw.port)
        endpoint = TLSEndpoint(tls.for_host("localhost."), tcp)
        client = await within(connectProtocol(endpoint, Raw()))
        assert server.names == ["localhost"]
        await client.drop()


def test_server_name_is_encoded() -> None:
    assert TLSOptions(server_name="BÜCHER.example.").server_name == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({}, [["http/1.1"]]),
        ({"alpn": ["x/1", "http/1.1"]}, [["x/1", "http/1.1"]]),
        ({"alpn": ()}, []),
    ],
)
@pytest_twisted.ensureDeferred
async def test_alpn_offers_what_was_asked_for(
    authority: Authority, options: Any, offered: list[list[str]]
) -> None:
    """A server that would rather speak h2 chooses what a WebSocket can be opened in."""
    server = authority.issue("localhost")
    server.choose("h2", "http/1.1")
    async with echo_server(certificate=server) as port:
        await opens(TLSOptions(ca=authority.pem, **options), port)
        assert server.offered == offered


@pytest_twisted.ensureDeferred
async def test_minimum_version_is_kept(authority: Authority) -> None:
    server = authority.issue("localhost")
    server.at_most(SSL.TLS1_2_VERSION)
    async with echo_server(certificate=server) as port:
        await opens(TLSOptions(ca=authority.pem), port)
        with pytest.raises(TLSFailed):
            await opens(TLSOptions(ca=authority.pem, minimum_version=TLSVersion.TLSv1_3), port)


# ------------------------------------------------------------------------------------ https proxies


@pytest_twisted.ensureDeferred
async def test_https_proxy_has_an_authority_a_certificate_and_a_name_of_its_own(
    authority: Authority,
) -> None:
    proxies, clients = Authority("authority of proxies"), Authority("authority of clients")
    proxy_certificate, server = proxies.issue("localhost"), authority.issue("localhost")
    proxy_certificate.demand(clients)
    proxy_tls = TLSOptions(ca=proxies.pem, certificate=clients.issue("robot-7").pem())
    async with echo_server(certificate=server) as port, RecordingProxy(proxy_certificate) as proxy:
        url = f"https://localhost:{proxy.port}"
        async with connect(
            f"wss://localhost:{port}/",
            tls=TLSOptions(ca=authority.pem),
            proxies=url,
            proxy_tls=proxy_tls,
        ):
            pass
        assert proxy_certificate.clients == ["robot-7"]
        assert proxy_certificate.names == server.names == ["localhost"]
        with pytest.raises(ProxyTLSFailed, match="local issuer"):
            await connect(
                f"wss://localhost:{port}/",
                tls=TLSOptions(ca=authority.pem),
                proxies=url,
                proxy_tls=TLSOptions(ca=authority.pem),
            )


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ca": "/nowhere/ca.pem"}, "ca: '/nowhere/ca.pem' cannot be read: No such file"),
        ({"ca": "/"}, "ca: '/' cannot be read: Is a directory"),
        ({"ca": "a\0b"}, "ca: .* cannot be read"),
        ({"ca": b""}, "ca is not PEM"),
        ({"ca": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}, "ca is not PEM"),
        ({"ca": 5}, "ca is PEM or a trust root, not int"),
        ({"certificate": b"nothing"}, "certificate is not PEM"),
        ({"certificate": "/nowhere/c.pem"}, "certificate: .* cannot be read"),
        ({"key": b"planted"}, "without its certificate"),
        ({"key_password": "planted"}, "without its certificate"),
        ({"server_name": "a b"}, "server_name"),
        ({"server_name": ""}, "server_name"),
        ({"server_name": 1}, "server_name"),
        ({"alpn": "http/1.1"}, "alpn"),
        ({"alpn": None}, "alpn"),
        ({"fingerprint": 5}, "fingerprint"),
        ({"certificate": 5}, "certificate is a path or PEM, not int"),
        ({"alpn": [""]}, "alpn"),
        ({"alpn": ["é"]}, "alpn"),
        ({"alpn": ["a" * 256]}, "alpn"),
        ({"alpn": [b"h2"]}, "alpn"),
        ({"fingerprint": ""}, "fingerprint"),
        ({"fingerprint": ()}, "fingerprint is empty"),
        ({"fingerprint": "00" * 31}, "fingerprint"),
        ({"fingerprint": "00" * 20}, "fingerprint"),
        ({"fingerprint": "zz" * 32}, "fingerprint"),
        ({"fingerprint": "sha256//" + "00" * 32}, "fingerprint"),
        ({"fingerprint": ["00" * 32, 1]}, "fingerprint"),
        ({"minimum_version": TLSVersion.TLSv1_1}, "minimum_version"),
        ({"minimum_version": "TLSv1.2"}, "minimum_version"),
    ],
)
def test_options_that_cannot_be_used_are_refused_when_made(options: Any, text: str) -> None:
    with pytest.raises(InvalidTLSOptions, match=text) as caught:
        TLSOptions(**options)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "password"),
    [
        (b"nothing", None),
        ("another's", None),
        ("encrypted", None),
        ("encrypted", "planted"),
        ("encrypted", "planted" * 1000),
    ],
)
def test_key_that_is_not_the_certificates_is_refused_when_made(
    client: ServerTLS, key: Any, password: str | None
) -> None:
    """And nobody is asked for a password at the terminal."""
    key = {
        "another's": self_signed("x").key_pem(),
        "encrypted": client.key_pem("the right one"),
    }.get(key, key)
    with pytest.raises(InvalidTLSOptions, match=r"\bkey\b") as caught:
        TLSOptions(certificate=client.certificate_pem(), key=key, key_password=password)
    assert "planted" not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"


def test_options_show_no_key(client: ServerTLS) -> None:
    """Nor a password, nor a fingerprint; just what was given."""
    tls = TLSOptions(
        certificate=client.certificate_pem(), key=client.key_pem("planted"), key_password="planted"
    )
    assert repr(tls) == str(tls) == "<TLSOptions certificate, key>"
    assert repr(TLSOptions()) == "<TLSOptions by default>"


def test_options_for_another_origin_prove_nothing_to_it(client: ServerTLS) -> None:
    """What verifies the other one stays."""
    fingerprint = client.fingerprint()
    tls = TLSOptions(certificate=client.pem(), server_name="a.example", fingerprint=fingerprint)
    assert tls.elsewhere() == TLSOptions(fingerprint=fingerprint)
    assert TLSOptions().elsewhere() == TLSOptions()
