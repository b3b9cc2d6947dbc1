"""Who is told what: everything that each proxy and the origin receive, and the secrets in it.

Each secret is a word of its own. The way is one proxy of every kind, another behind it within TLS,
and an origin within TLS, so that whatever a party can read was meant for it, or is a leak.
"""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.core.proxy import Proxy
from wsframe.errors import (
    HandshakeRefused,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyRefused,
)
from wsframe.options import ClientOptions

from .certificates import Authority
from .proxies import RecordingProxy, RecordingSOCKS, chain
from .raw import Raw, RawServer, header, switching

DIGEST = (
    b'HTTP/1.1 407 Who\r\nProxy-Authenticate: Digest realm="r", nonce="n", qop="auth", '
    b"algorithm=SHA-256\r\nContent-Length: 4\r\n\r\nplea"
)
BEARER = b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"
BASIC = b'HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm="r"\r\nContent-Length: 0\r\n\r\n'
UNAUTHORIZED = b'HTTP/1.1 401 Who\r\nWWW-Authenticate: Basic realm="r"\r\nContent-Length: 0\r\n\r\n'
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"

ORIGINS = {"origin-user", "origin-password", "origin-cookie", "origin-query", "origin-header"}
WORDS = ORIGINS | {
    f"{hop}-{word}"
    for hop in ("first", "second")
    for word in ("user", "password", "token", "header")
}

KINDS: dict[str, tuple[str, bytes, set[str]]] = {
    "basic": ("http", BASIC, {"user", "password", "header"}),
    "digest": ("http", DIGEST, {"user", "header"}),
    "bearer": ("http", BEARER, {"token", "header"}),
    "socks4": ("socks4", b"", {"user"}),
    "socks4a": ("socks4a", b"", {"user"}),
    "socks5": ("socks5", b"", {"user", "password"}),
    "socks5h": ("socks5h", b"", {"user", "password"}),
}
"""What is spoken, what the proxy says to one who tells it nothing, and what it is to be told."""
HTTP = [kind for kind in KINDS if KINDS[kind][0] == "http"]


def words(transcript: bytes) -> set[str]:
    """Return the secrets that can be read in it, also those in Basic."""
    text = transcript.decode("latin-1")
    for encoded in re.findall("Basic ([A-Za-z0-9+/=]+)", text):
        text += base64.b64decode(encoded).decode()
    return {word for word in WORDS if word in text}


def server_of(kind: str, **arguments: Any) -> RecordingProxy:
    spoken, question, _ = KINDS[kind]
    if spoken == "http":
        return RecordingProxy(question=question, **arguments)
    return RecordingSOCKS(**arguments)


def proxy_of(kind: str, hop: str, port: int, *, secure: bool = False) -> Proxy:
    spoken, _, told = KINDS[kind]
    user, password, token = (
        f"{hop}-{word}" if word in told or (kind == "digest" and word == "password") else None
        for word in ("user", "password", "token")
    )
    headers = {"X-Extra": f"{hop}-header"} if spoken == "http" else {}
    scheme = "https" if secure else spoken
    return Proxy("127.0.0.1", port, user, password, scheme, token=token, headers=headers)


def told(kind: str, hop: str, *, unasked: bool = False) -> set[str]:
    """Return what it is to be told; a password that is told unasked is told in Basic."""
    more = {"password"} if unasked and kind == "digest" else set()
    return {f"{hop}-{word}" for word in KINDS[kind][2] | more}


class Origin(RawServer):
    """An origin within TLS that writes down what it is told, and opens or says `refusal`."""

    def __init__(self, authority: Authority, refusal: bytes = b"") -> None:
        self.authority = authority
        super().__init__(self._serve, certificate=authority.issue("127.0.0.1"))
        self.heads: list[str] = []
        self._refusal = refusal

    async def _serve(self, raw: Raw) -> None:
        self.heads.append(await raw.read_head())
        raw.write(self._refusal or switching(self.heads[-1]))

    @property
    def transcript(self) -> bytes:
        rest = b"".join(bytes(raw.received) for raw in self.connections)
        return "".join(self.heads).encode("latin-1") + rest

    async def open(self, proxies: Any, proxy_tls: Any = None, *, unasked: bool = False) -> None:
        """Connect to it by these proxies, with all the secrets that are meant for it."""
        connection = await connect(
            f"wss://origin-user:origin-password@127.0.0.1:{self.port}/?token=origin-query",
            headers={"Cookie": "a=origin-cookie", "X-Extra": "origin-header"},
            proxies=proxies,
            tls=self.authority.client("127.0.0.1"),
            proxy_tls=proxy_tls,
            options=ClientOptions(proxy_auth_unasked=unasked),
        )
        await connection.send("x")
        connection.abort()
        await connection.when_closed()


@pytest.mark.parametrize(
    ("refusal", "unasked"),
    [(b"", True), (b"", False), (UNAUTHORIZED, False)],
    ids=["unasked", "asked", "401"],
)
@pytest.mark.parametrize("second", HTTP)
@pytest.mark.parametrize("first", list(KINDS))
@pytest_twisted.ensureDeferred
async def test_each_party_is_told_its_own_secrets_and_no_others(
    authority: Authority, targets: Authority, first: str, second: str, refusal: bytes, unasked: bool
) -> None:
    """CVE-2014-1830, CVE-2023-32681; a 401 of the origin changes nothing, and is not answered."""
    async with (
        server_of(first) as one,
        server_of(second, certificate=authority.issue("127.0.0.1")) as two,
        Origin(targets, refusal) as origin,
    ):
        way = chain(
            proxy_of(first, "first", one.port), proxy_of(second, "second", two.port, secure=True)
        )
        if refusal:
            with pytest.raises(HandshakeRefused):
                await origin.open(way, authority.verify_proxy)
        else:
            await origin.open(way, authority.verify_proxy, unasked=unasked)
        assert words(one.transcript) == told(first, "first", unasked=unasked)
        assert words(two.transcript) == told(second, "second", unasked=unasked)
        assert words(origin.transcript) == ORIGINS
        assert "roxy-" not in origin.heads[0]
        assert [len(party.connections) for party in (one, two, origin)] == [1, 1, 1]


@pytest.mark.parametrize("second", list(KINDS))
@pytest.mark.parametrize(
    ("first", "refusal"),
    [
        ("basic", BASIC),
        ("digest", BASIC),
        ("bearer", BEARER),
        ("basic", BUSY),
        ("basic", UNAUTHORIZED),
        ("digest", b"garbage\r\n\r\n"),
    ],
    ids=["basic 407", "digest 407", "bearer 407", "503", "401", "garbage"],
)
@pytest_twisted.ensureDeferred
async def test_next_proxy_of_a_list_is_told_nothing_of_the_one_before(
    targets: Authority, first: str, refusal: bytes, second: str
) -> None:
    async with (
        server_of(first, refusal=refusal) as one,
        server_of(second) as two,
        Origin(targets) as origin,
    ):
        await origin.open(
            [proxy_of(first, "first", one.port), proxy_of(second, "second", two.port)]
        )
        assert words(one.transcript) == told(first, "first")
        assert words(two.transcript) == told(second, "second")
        assert words(origin.transcript) == ORIGINS


@pytest.mark.parametrize("refusal", [BASIC, UNAUTHORIZED], ids=["407", "401"])
@pytest.mark.parametrize("unasked", [True, False])
@pytest.mark.parametrize("kind", HTTP)
@pytest_twisted.ensureDeferred
async def test_proxy_that_refuses_is_told_nothing_more(
    targets: Authority, kind: str, refusal: bytes, unasked: bool
) -> None:
    """CVE-2026-86414: its 401 gets nothing of the origin's, and not its own a second time."""
    async with server_of(kind, refusal=refusal) as proxy, Origin(targets) as origin:
        with pytest.raises(ProxyAuthRefused):
            await origin.open(proxy_of(kind, "first", proxy.port), unasked=unasked)
        assert words(proxy.transcript) == told(kind, "first", unasked=unasked)
        assert proxy.seen == b""
        assert len(proxy.requests) <= 2
        assert origin.connections == []


@pytest_twisted.ensureDeferred
async def test_proxy_without_credentials_that_asks_is_told_none(targets: Authority) -> None:
    """Not those of the origin, whose URI may have the only ones that there are."""
    async with (
        RecordingProxy(refusal=BASIC) as asks,
        RecordingProxy(refusal=UNAUTHORIZED) as refuses,
        Origin(targets) as origin,
    ):
        for proxy, expected in ((asks, ProxyAuthRequired), (refuses, ProxyRefused)):
            with pytest.raises(expected):
                await origin.open(proxy.url)
            assert words(proxy.transcript) == set()
            assert len(proxy.requests) == len(proxy.connections) == 1
        assert origin.connections == []


@pytest.mark.parametrize("kind", list(KINDS))
@pytest_twisted.ensureDeferred
async def test_without_tls_the_proxy_is_still_told_nothing_of_the_origin_to_itself(
    kind: str,
) -> None:
    """It can read along then, but in the tunnel alone."""
    heads: list[str] = []

    async def script(raw: Raw) -> None:
        heads.append(await raw.read_head())
        raw.write(switching(heads[0]))

    async with server_of(kind) as proxy, RawServer(script) as origin:
        connection = await connect(
            f"ws://origin-user:origin-password@127.0.0.1:{origin.port}/?token=origin-query",
            headers={"Cookie": "a=origin-cookie"},
            proxies=proxy_of(kind, "first", proxy.port),
            options=ClientOptions(proxy_auth_unasked=False),
        )
        connection.abort()
        await connection.when_closed()
        assert words("".join(proxy.requests).encode("latin-1")) == told(kind, "first")
        assert bytes(proxy.seen).startswith(heads[0].encode())
        assert header(heads[0], "Proxy-Authorization") is None
        assert words(heads[0].encode()) == ORIGINS - {"origin-header"}
