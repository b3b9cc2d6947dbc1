"""Each code block of docs/tunnels.md is run, and its tables say what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from test_readme import ROOT, block, blocks_of
from twisted.internet.endpoints import connectProtocol
from twisted.web.client import BrowserLikePolicyForHTTPS

import wsframe
from wsframe import OpenError, ProxySettings, connect, tunnel_endpoint
from wsframe.core.proxy import Proxy
from wsframe.core.uri import parse_target
from wsframe.endpoints.description import _NAMES
from wsframe.errors import ProxyError, ProxyTLSFailed

from .certificates import Authority, ServerTLS
from .origins import echo_server
from .proxies import Proxies, RecordingProxy
from .raw import Raw, RawServer, header, within
from .test_agent import site
from .test_tunnel import echo

PAGE = "docs/tunnels.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
BLOCKS = blocks_of(PAGE)

# Something that only one block has; each is run by a test below.
MARKS = (
    '"wss://partner.example:8443"',
    "async def connect_plain",
    "tunnel:example.org:22:proxy=",
    "quoteStringArgument",
    "def agent_by",
    "async def page",
    "proxy-ca.pem",
    "client.pem",
    "def proxy_tls_by_name",
    "async def told",
    "async def fresh",
)


def names_of(mark: str, **replaced: str) -> dict[str, Any]:
    """Run a block, with other addresses in the place of those on the page; return its names."""
    return names_of_all([mark], **replaced)


def names_of_all(marks: list[str], **replaced: str) -> dict[str, Any]:
    """Run blocks that build on one another."""
    names: dict[str, Any] = {}
    for mark in marks:
        text = block(mark, BLOCKS)
        for old, new in replaced.items():
            text = text.replace(HOSTS[old], new)
        exec(text, names)  # noqa: S102 - our own page
    return names


HOSTS = {
    "gateway": "gateway.example:3128",
    "plain": "example.org:22",
    "uri": "https://example.org/",
    "target": "example.org:443",
    "target_name": '"example.org"',
}


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table that begins with that heading."""
    lines = TEXT.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_every_block_is_run_by_a_test() -> None:
    """A block that is added without a test fails here."""
    assert len(BLOCKS) == len(MARKS)
    for mark in MARKS:
        block(mark, BLOCKS)


def test_kinds_of_proxies_are_as_the_table_says() -> None:
    for url, port, _, who in table("URL"):
        proxy = Proxy.parse(f"{url.strip('`')}proxy.example")
        assert proxy.port == int(port)
        assert proxy.resolves is (who == "the proxy")


def test_parts_of_a_description_are_those_that_are_taken() -> None:
    named = [name for row in table("Part") for name in re.findall(r"`(\w+)`", row[0])]
    assert named == list(_NAMES)


def test_errors_are_all_in_the_table() -> None:
    """Each is public, its phase is the one in the row, and none of a tunnel is left out."""
    rows = table("Error")
    listed = [row[0].strip("`") for row in rows]
    for name, row in zip(listed, rows, strict=True):
        kind = getattr(wsframe, name)
        assert issubclass(kind, OpenError)
        if kind.phase is not None and name not in {"ProxyUnreachable", "ProxyTimeout"}:
            assert row[1] == f"`{kind.phase}`"

    def below(kind: type[Exception]) -> set[str]:
        return {kind.__name__}.union(*(below(each) for each in kind.__subclasses__()))

    ours = {name for name in below(OpenError) if not name.startswith("_")}
    websockets_own = {"HandshakeRefused", "BadHandshake"}
    assert ours - set(listed) - websockets_own == {"OpenError", "ProxyError"}


def test_mapping_is_chosen_from_as_the_text_says() -> None:
    settings = ProxySettings(names_of(MARKS[0])["proxies"])
    for target, ways in [
        ("example.org:443", [["http://one.example:3128"], ["http://two.example:3128"]]),
        ("https://example.org/", [["http://one.example:3128"], ["http://two.example:3128"]]),
        (
            "wss://partner.example:8443/x",
            [["https://outer.example:443", "socks5h://inner.example:1080"]],
        ),
        ("https://intranet.example/", [[]]),
        ("http://example.org/", [["socks5h://gate.example:1080"]]),
    ]:
        route = settings.choose(parse_target(target))
        assert [[str(proxy) for proxy in way] for way in route.ways] == ways


@pytest_twisted.ensureDeferred
async def test_protocol_is_connected_plain_and_within_tls(authority: Authority) -> None:
    from twisted.internet import reactor

    async with (
        RecordingProxy() as proxy,
        RawServer(echo) as plain,
        RawServer(echo, certificate=authority.issue("localhost")) as secure,
    ):
        names = names_of(
            "async def connect_plain",
            gateway=f"127.0.0.1:{proxy.port}",
            plain=f"127.0.0.1:{plain.port}",
            uri=f"https://localhost:{secure.port}/",
            target_name='"localhost"',
        )
        raw = await names["connect_plain"](reactor, Raw())
        raw.write(b"plain")
        assert await raw.read(5) == b"plain"
        await raw.drop()
        raw = await names["connect_tls"](reactor, Raw(), authority.root)
        raw.write(b"secure")
        assert await raw.read(6) == b"secure"
        await raw.drop()
        assert len(proxy.requests) == 2
        assert b"secure" not in proxy.seen


@pytest_twisted.ensureDeferred
async def test_descriptions_are_as_they_are_written(
    authority: Authority, proxies: Proxies, tmp_path: Path
) -> None:
    from twisted.internet import reactor
    from twisted.internet.endpoints import clientFromString

    written = block("tunnel:example.org:22:proxy=", BLOCKS).strip()
    assert "example.org:22 through http://gateway.example:3128" in repr(
        clientFromString(reactor, written)
    )
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    by = proxies.running("tinyproxy", auth=True).url("http", auth=True)
    async with RawServer(echo, certificate=authority.issue("localhost")) as origin:
        names = names_of("quoteStringArgument", target=f"localhost:{origin.port}")
        raw: Raw = await connectProtocol(names["endpoint_of"](reactor, by, tmp_path), Raw())
        raw.write(b"described")
        assert await raw.read(9) == b"described"
        await raw.drop()
    # And the same written out, with the system's authorities, which is not connected.
    written = re.search(r"^`(tls:\S+)`\.$", TEXT, re.MULTILINE)[1]  # type: ignore[index]
    wrapped: Any = clientFromString(reactor, written)
    assert "example.org:443 through http://gateway.example:3128" in repr(wrapped._wrappedEndpoint)


@pytest_twisted.ensureDeferred
async def test_page_is_fetched_with_an_agent_and_with_treq(authority: Authority) -> None:
    from twisted.internet import reactor

    async with RecordingProxy() as proxy, site(authority.issue("localhost")) as (_, address):
        names = names_of_all(["def agent_by", "async def page"], gateway=f"127.0.0.1:{proxy.port}")
        tls = BrowserLikePolicyForHTTPS(trustRoot=authority.root)
        agent = names["agent_by"](reactor, tls=tls)
        for _ in range(2):
            assert await names["page"](agent, f"{address}/a") == "the page /a"
        await within(agent._pool.closeCachedConnections())
        assert len(proxy.requests) == 1


@pytest.fixture
def trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Authority
) -> tuple[Authority, Path]:
    """Make the file of the blocks, with the authority that issues the proxy's certificate."""
    (tmp_path / "proxy-ca.pem").write_bytes(authority.pem)
    monkeypatch.chdir(tmp_path)
    return authority, tmp_path


async def works_by(certificate: ServerTLS, host: str, proxy_tls: Any) -> None:
    async with RecordingProxy(certificate) as proxy, echo_server() as port:
        by = f"https://{host}:{proxy.port}"
        async with connect(f"ws://127.0.0.1:{port}/", proxies=by, proxy_tls=proxy_tls) as opened:
            await opened.send("through")
            assert await opened.recv() == "through"


@pytest_twisted.ensureDeferred
async def test_https_proxy_is_verified_by_an_authority_of_ones_own(
    trusted: tuple[Authority, Path],
) -> None:
    authority, _ = trusted
    proxy_tls = names_of("proxy-ca.pem")["proxy_tls"]
    await works_by(authority.issue("localhost"), "localhost", proxy_tls)
    with pytest.raises(ProxyTLSFailed):
        await works_by(Authority().issue("localhost"), "localhost", proxy_tls)


# Twisted gives pyOpenSSL a client's certificate in a form that the latter has deprecated.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL PKey objects:DeprecationWarning")
@pytest_twisted.ensureDeferred
async def test_https_proxy_is_shown_a_certificate(trusted: tuple[Authority, Path]) -> None:
    """A proxy that asks for one takes nobody without."""
    authority, directory = trusted
    (directory / "client.pem").write_bytes(authority.issue("a client").pem())
    asking = authority.issue("localhost")
    asking._context.load_verify_locations(str(directory / "proxy-ca.pem"))
    asking._context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    names = names_of_all(["proxy-ca.pem", "client.pem"])
    await works_by(asking, "localhost", names["proxy_tls_with_certificate"])
    with pytest.raises(ProxyError):
        await works_by(asking, "localhost", authority.verify_proxy)


@pytest_twisted.ensureDeferred
async def test_https_proxy_is_asked_for_by_another_name(trusted: tuple[Authority, Path]) -> None:
    authority, _ = trusted
    certificate = authority.issue("proxy.example")
    names = names_of_all(["proxy-ca.pem", "def proxy_tls_by_name"])
    await works_by(certificate, "127.0.0.1", names["proxy_tls_by_name"])
    assert certificate.names == ["proxy.example"]
    with pytest.raises(ProxyTLSFailed, match="not for this host name"):
        await works_by(certificate, "127.0.0.1", names["proxy_tls"])


@pytest_twisted.ensureDeferred
async def test_credentials_are_asked_for_before_each_tunnel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login puser password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))

    async def refuse(raw: Raw) -> None:
        said.append(header(await raw.read_head(), "Proxy-Authorization"))
        raw.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        raw.finish()

    async def new_token(host: str) -> str:
        return f"token{len(said)}-{host}"

    said: list[str | None] = []
    async with RawServer(refuse) as server:
        text = block("async def fresh", BLOCKS)
        for host in ("gateway", "spare"):
            text = text.replace(f"{host}.example:3128", f"localhost:{server.port}")
        names: dict[str, Any] = {"new_token": new_token}
        exec(text, names)  # noqa: S102 - our own page
        for _ in range(2):
            with pytest.raises(ProxyError):
                await connect("ws://localhost:9/", proxies=names["proxies"])
    basic = "Basic cHVzZXI6c2VjcmV0"
    assert said == ["Bearer token0-localhost", basic, "Bearer token2-localhost", basic]


@pytest_twisted.ensureDeferred
async def test_errors_are_told_apart() -> None:
    from twisted.internet import reactor

    told = names_of("async def told")["told"]

    async def refuse(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(refuse) as proxy:
        by = f"http://127.0.0.1:{proxy.port}"
        endpoint: Any = tunnel_endpoint(reactor, "h:1", proxies=by)
        assert await told(connectProtocol(endpoint, Raw())) == f"{by} did not: 403 None (proxy)"
        port = proxy.port
    endpoint = tunnel_endpoint(reactor, f"127.0.0.1:{port}")
    assert (await told(connectProtocol(endpoint, Raw()))).startswith("not connected: 127.0.0.1")
