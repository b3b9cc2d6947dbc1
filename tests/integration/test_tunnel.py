"""`tunnel_endpoint` and `tunnel:` descriptions through real proxies, and its four promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import clientFromString, connectProtocol, quoteStringArgument
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.internet.utils import getProcessOutputAndValue
from zope.interface import implementer

from wsframe import Proxy, ProxySettings, TLSEndpoint, tunnel_endpoint
from wsframe.errors import (
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyError,
    ProxyRefused,
    ProxyTimeout,
    ProxyUnreachable,
    TCPConnectFailed,
    TLSFailed,
)

from .certificates import Authority
from .peers import free_port, has_ipv6, missing
from .proxies import ENCODED, USER, Proxies, RecordingProxy
from .raw import Raw, RawServer, Stepped, eventually, within


async def echo(raw: Raw) -> None:
    raw.dataReceived = raw.write  # type: ignore[method-assign]


def tunnel(target: Any, **arguments: Any) -> Any:
    from twisted.internet import reactor

    return tunnel_endpoint(arguments.pop("reactor", reactor), target, **arguments)


async def works(endpoint: Any) -> None:
    """Send something there and back, and end the connection."""
    raw: Raw = await within(connectProtocol(endpoint, Raw()))
    raw.write(b"there and back")
    assert await raw.read(14) == b"there and back"
    await raw.drop()


@pytest.mark.parametrize("target", ["localhost:{}", "127.0.0.1:{}", "http://localhost:{}/path"])
@pytest.mark.parametrize("kind", ["tinyproxy", "squid", "microsocks", "dante", None])
@pytest_twisted.ensureDeferred
async def test_any_protocol_is_carried_through_a_real_proxy(
    proxies: Proxies, kind: str | None, target: str
) -> None:
    """And without one, when none is set."""
    by: Any = None
    if kind is not None:
        scheme = "socks5h" if kind in {"microsocks", "dante"} else "http"
        by = proxies.running(kind, auth=True).url(scheme, auth=True)
    async with RawServer(echo) as origin:
        await works(tunnel(target.format(origin.port), proxies=by))


@pytest_twisted.ensureDeferred
async def test_tls_to_the_target_is_put_on_top(proxies: Proxies, authority: Authority) -> None:
    """The certificate is the target's, and a wrong one is a failure of phase tls."""
    by = proxies.running("tinyproxy").url("http")
    async with RawServer(echo, certificate=authority.issue("localhost")) as origin:
        through = tunnel(f"localhost:{origin.port}", proxies=by)
        await works(TLSEndpoint(authority.client("localhost"), through))
        with pytest.raises(TLSFailed, match="not for this host name"):
            await works(TLSEndpoint(authority.client("other.example"), through))


@pytest_twisted.ensureDeferred
async def test_bytes_that_came_with_the_answer_are_the_protocols_first() -> None:
    async def at_once(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-first\r\n")

    async with RawServer(at_once) as proxy:
        raw: Raw = await within(
            connectProtocol(tunnel("h:22", proxies=f"http://127.0.0.1:{proxy.port}"), Raw())
        )
        assert await raw.read(15) == b"SSH-2.0-first\r\n"
        await raw.drop()


@pytest_twisted.ensureDeferred
async def test_protocol_is_built_when_the_tunnel_is_open_and_not_before() -> None:
    built: list[object] = []

    def build() -> Raw:
        built.append(1)
        return Raw()

    factory = Factory.forProtocol(build)  # type: ignore[arg-type]
    factory.noisy = False
    async with RawServer() as proxy:
        attempt = tunnel("h:1", proxies=f"http://127.0.0.1:{proxy.port}").connect(factory)
        raw: Raw = await proxy.accepted()
        await raw.read_head()
        assert built == []
        assert not attempt.called
        raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
        protocol = await within(attempt)
        assert built == [1]
        await protocol.drop()
        attempt = tunnel("h:1", proxies=f"http://127.0.0.1:{proxy.port}").connect(factory)
        raw = await proxy.accepted()
        raw.finish()
        with pytest.raises(OpenError):
            await within(attempt)
        assert built == [1]


@pytest_twisted.ensureDeferred
async def test_deadline_covers_everything_and_leaves_nothing() -> None:
    reactor = Stepped()
    async with RawServer() as proxy:
        by = f"http://127.0.0.1:{proxy.port}"
        attempt = tunnel("h:1", proxies=by, reactor=reactor, timeout=7).connect(Factory())
        raw: Raw = await proxy.accepted()
        await raw.read_head()
        reactor.advance(6.9)
        assert not attempt.called
        reactor.advance(0.2)
        with pytest.raises(ProxyTimeout, match="not open after 7 s") as caught:
            await within(attempt)
        assert (caught.value.phase, caught.value.proxy) == ("proxy", by)
        await within(raw.ended())
        assert reactor.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_without_a_timeout_the_deadline_is_the_callers() -> None:
    reactor = Stepped()
    async with RawServer() as proxy:
        by = f"http://127.0.0.1:{proxy.port}"
        attempt = tunnel("h:1", proxies=by, reactor=reactor, timeout=None).connect(Factory())
        raw: Raw = await proxy.accepted()
        await raw.read_head()
        assert reactor.getDelayedCalls() == []
        attempt.cancel()
        with pytest.raises(OpenCancelled):
            await within(attempt)
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_first_of_two_ways_has_half_of_the_timeout() -> None:
    """Of the timeout given, not of the options' own."""
    reactor = Stepped()
    async with RawServer() as silent, RecordingProxy() as good, RawServer(echo) as origin:
        settings = ProxySettings([f"http://127.0.0.1:{silent.port}", good.url])
        target = f"127.0.0.1:{origin.port}"
        endpoint = tunnel(target, proxies=settings, reactor=reactor, timeout=30.0)
        attempt = connectProtocol(endpoint, Raw())
        raw: Raw = await silent.accepted()
        await raw.read_head()
        reactor.advance(14.9)
        assert good.requests == []
        assert not raw.lost
        reactor.advance(0.2)
        protocol: Any = await within(attempt)
        await protocol.drop()
        # The settings remember; another endpoint by the same ones goes to the good one at once.
        await works(tunnel(target, proxies=settings, reactor=reactor))
        assert (len(silent.connections), len(good.requests)) == (1, 2)


@pytest.mark.parametrize("tried", [0, 1])
@pytest_twisted.ensureDeferred
async def test_cancelled_at_either_way_it_leaves_nothing(tried: int) -> None:
    async with RawServer() as first, RawServer() as second:
        servers = (first, second)
        by = [f"http://127.0.0.1:{server.port}" for server in servers]
        attempt = tunnel("h:1", proxies=by).connect(Factory())
        for server in servers[:tried]:
            (await server.accepted()).finish()
        raw: Raw = await servers[tried].accepted()
        await raw.read_head()
        attempt.cancel()
        with pytest.raises(OpenCancelled):
            await within(attempt)
        await within(raw.ended())
        assert len(second.connections) == tried


@pytest_twisted.ensureDeferred
async def test_cancelled_before_anything_is_connected() -> None:
    async with RawServer(echo) as origin:
        attempt = tunnel(f"localhost:{origin.port}").connect(Factory())
        attempt.cancel()
        with pytest.raises(OpenCancelled):
            await within(attempt)


@pytest_twisted.ensureDeferred
async def test_failures_are_typed(proxies: Proxies) -> None:
    squid = proxies.get("squid", auth=True)
    closed = free_port()
    for by, error, phase in [
        (None, TCPConnectFailed, "tcp"),
        (f"http://127.0.0.1:{closed}", ProxyUnreachable, "tcp"),
        (f"http://{USER}:wrong@127.0.0.1:{squid}", ProxyAuthRefused, "proxy"),
        (f"http://{USER}:{ENCODED}@127.0.0.1:{squid}", ProxyRefused, "proxy"),
        (
            [f"http://{USER}:wrong@127.0.0.1:{squid}", f"http://127.0.0.1:{closed}"],
            ProxyError,
            "tcp",
        ),
    ]:
        with pytest.raises(error) as caught:
            await within(tunnel(f"127.0.0.1:{closed}", proxies=by).connect(Factory()))
        assert isinstance(caught.value, OpenError)
        assert caught.value.phase == phase


@pytest_twisted.ensureDeferred
async def test_protocol_hears_of_the_end_of_the_tunnel() -> None:
    async with RecordingProxy() as proxy, RawServer() as origin:
        endpoint = tunnel(f"127.0.0.1:{origin.port}", proxies=Proxy("127.0.0.1", proxy.port))
        raw: Raw = await within(connectProtocol(endpoint, Raw()))
        (await origin.accepted()).finish()
        await within(raw.ended())
        assert raw.lost is not None
        assert raw.lost.check(ConnectionDone)


# --- descriptions ---------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path: Path, authority: Authority) -> Path:
    """Give a directory as Twisted's trustRoots= takes it."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    return tmp_path


def escaped(*parts: str) -> str:
    return ":".join(quoteStringArgument(part) for part in parts)


PROGRAM = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

class Client(Protocol):
    def connectionMade(self):
        self.echoed = Deferred()
        self.transport.write(b"Hello, description!")

    def dataReceived(self, data):
        self.transport.loseConnection()
        self.echoed.callback(data)

async def main(reactor, description):
    endpoint = clientFromString(reactor, description)
    client = await connectProtocol(endpoint, Client())
    print((await client.echoed).decode())

react(main, sys.argv[1:])
"""


@pytest.mark.parametrize("host", ["localhost", "::1"])
@pytest_twisted.ensureDeferred
async def test_twisted_program_reaches_a_tls_server_by_a_description(
    proxies: Proxies, authority: Authority, roots: Path, host: str
) -> None:
    """It knows nothing of wsframe; the plugin is found, and Twisted's tls: is around it."""
    if host == "::1" and not has_ipv6():
        missing("IPv6 on loopback")
    interface = "::1" if host == "::1" else "127.0.0.1"
    proxy = proxies.running("tinyproxy", auth=True).url("http", auth=True)
    async with RawServer(echo, interface, certificate=authority.issue(host)) as origin:
        port = str(origin.port)
        inner = f"{escaped('tunnel', host, port)}:proxy={quoteStringArgument(proxy)}"
        outer = f"{escaped('tls', host, port)}:trustRoots={roots}"
        description = f"{outer}:endpoint={quoteStringArgument(inner)}"
        output, errors, code = await getProcessOutputAndValue(
            sys.executable, ["-W", "error", "-c", PROGRAM, description], env=None
        )
        assert (output, errors, code) == (b"Hello, description!\n", b"", 0)


@pytest_twisted.ensureDeferred
async def test_description_goes_through_a_chain_to_the_first_proxy_that_works(
    proxies: Proxies,
) -> None:
    from twisted.internet import reactor

    first = proxies.running("microsocks").url("socks5h")
    down = f"http://127.0.0.1:{free_port()}"
    async with RecordingProxy() as good, RawServer(echo) as origin:
        via, by = quoteStringArgument(first), quoteStringArgument(f"{down} {good.url}")
        description = f"tunnel:localhost:{origin.port}:proxy={by}:via={via}:timeout=20"
        await works(clientFromString(reactor, description))
        assert [head.split(" ")[1] for head in good.requests] == [f"localhost:{origin.port}"]


@pytest_twisted.ensureDeferred
async def test_timeout_of_a_description_is_kept() -> None:
    reactor = Stepped()
    async with RawServer() as proxy:
        by = quoteStringArgument(f"http://127.0.0.1:{proxy.port}")
        endpoint = clientFromString(reactor, f"tunnel:h:1:proxy={by}:timeout=2.5")
        attempt = endpoint.connect(Factory())
        raw: Raw = await proxy.accepted()
        await raw.read_head()
        reactor.advance(2.6)
        with pytest.raises(OpenTimeout, match=r"after 2\.5 s"):
            await within(attempt)


@implementer(IHalfCloseableProtocol)
class HalfCloser(Raw):
    """A protocol that wants to know of each direction by itself, as netcat's would."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def readConnectionLost(self) -> None:
        self.heard.append("read")

    def writeConnectionLost(self) -> None:
        self.heard.append("write")


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest_twisted.ensureDeferred
async def test_one_direction_can_end_before_the_other(hops: int) -> None:
    """As it can under Twisted's own endpoints, where the protocol asks for it."""
    async with RawServer() as end:
        by: Proxy | None = None
        for _ in range(hops):
            by = Proxy("127.0.0.1", end.port, via=by)
        endpoint = tunnel(f"127.0.0.1:{end.port}", proxies=by)
        connecting = connectProtocol(endpoint, HalfCloser())
        raw: Raw = await end.accepted()
        for _ in range(hops):
            # All of the hops are one connection of the test's own.
            await raw.read_head()
            raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
        this = await within(connecting)
        raw.write(b"all there is")
        raw.transport.loseWriteConnection()  # type: ignore[union-attr]
        await eventually(lambda: this.heard == ["read"])
        assert await this.read(12) == b"all there is"
        assert this.lost is None
        this.write(b"and the answer")
        assert await raw.read(14) == b"and the answer"
        this.transport.loseWriteConnection()
        await within(raw.ended())
        assert this.heard == ["read", "write"]
        this.finish()
        await within(this.ended())


@pytest_twisted.ensureDeferred
async def test_protocol_that_knows_no_directions_hears_of_the_end() -> None:
    async with RawServer() as end:
        connecting = connectProtocol(tunnel(f"127.0.0.1:{end.port}"), Raw())
        raw: Raw = await end.accepted()
        this = await within(connecting)
        raw.transport.loseWriteConnection()  # type: ignore[union-attr]
        await within(this.ended())
        await raw.drop()


@pytest.mark.parametrize("hops", [0, 1])
@pytest_twisted.ensureDeferred
async def test_factory_is_started_and_stopped_as_under_twisteds_endpoints(hops: int) -> None:
    told: list[str] = []

    class Told(Factory):
        protocol = Raw
        noisy = False

        def startFactory(self) -> None:
            told.append("start")

        def buildProtocol(self, addr: object) -> Any:
            told.append("build")
            return super().buildProtocol(addr)  # type: ignore[arg-type]

        def stopFactory(self) -> None:
            told.append("stop")

    async with RawServer(echo) as origin, RecordingProxy() as proxy:
        by = proxy.url if hops else None
        raw: Any = await within(tunnel(f"127.0.0.1:{origin.port}", proxies=by).connect(Told()))
        assert told == ["start", "build"]
        await raw.drop()
        await eventually(lambda: told == ["start", "build", "stop"])
