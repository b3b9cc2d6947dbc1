"""Links over endpoints and under protocols that are not wsframe's, against scripted proxies."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer
from twisted.internet.endpoints import ProcessEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.logger import capturedLogs
from zope.interface import implementer

from wsframe.core.proxy import ProxySettings
from wsframe.core.timing import PhaseDone
from wsframe.endpoints import HTTPConnectEndpoint, SOCKSEndpoint
from wsframe.endpoints.tunnel import tunnel_endpoint
from wsframe.errors import BadProxyAnswer, OpenCancelled, ProxyRefused, ProxyTimeout

from .peers import program
from .raw import Raw, RawServer, within

GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"


class Silent:
    """An endpoint that never connects, and does not know how to be cancelled."""

    def connect(self, factory: Any) -> Any:
        return defer.Deferred()


def through(endpoint: Any, **more: Any) -> Any:
    from twisted.internet import reactor

    given = HTTPConnectEndpoint(reactor, "http://p:1", "h", 1, endpoint=endpoint, **more)
    return given.connect(Factory.forProtocol(Raw))


async def grant(raw: Raw) -> None:
    await raw.read_head()
    raw.write(GRANTED)


# --- below ----------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_deadline_of_a_foreign_endpoint_is_a_proxy_timeout() -> None:
    with pytest.raises(ProxyTimeout) as caught:
        await through(Silent(), timeout=0.02)
    assert (caught.value.phase, caught.value.proxy) == ("tcp", "http://p:1")


@pytest_twisted.ensureDeferred
async def test_cancelling_a_foreign_endpoint_is_open_cancelled() -> None:
    from twisted.internet import reactor

    for endpoint in (Silent(), TCP4ClientEndpoint(reactor, "127.0.0.1", 9)):
        attempt = through(endpoint)
        attempt.cancel()
        with pytest.raises(OpenCancelled) as caught:
            await attempt
        assert (caught.value.phase, caught.value.proxy) == ("tcp", "http://p:1")


@pytest_twisted.ensureDeferred
async def test_transport_that_cannot_abort_is_left() -> None:
    """A process; this one says what it is told, which is no answer."""
    from twisted.internet import reactor

    with pytest.raises(BadProxyAnswer):
        await within(through(ProcessEndpoint(reactor, program("cat"), ["cat"])))


@pytest.mark.parametrize("kind", [HTTPConnectEndpoint, SOCKSEndpoint])
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "1", True])
def test_timeout_that_is_none_is_refused_when_given(kind: Any, timeout: Any) -> None:
    from twisted.internet import reactor

    url = "http://p:1" if kind is HTTPConnectEndpoint else "socks5h://p:1"
    with pytest.raises((TypeError, ValueError), match=r"^timeout"):
        kind(reactor, url, "h", 1, timeout=timeout)


# --- above ----------------------------------------------------------------------------------------


@implementer(IHalfCloseableProtocol)
class Answering(Raw):
    """Answers when the other side has said all that it has to say."""

    def readConnectionLost(self) -> None:
        self.write(bytes(self.received) + b" heard")
        self.finish()

    def writeConnectionLost(self) -> None:
        """Nothing."""


async def half_closed(protocol: type[Raw]) -> bytes:
    """Return what comes through a tunnel of whose two directions one has ended."""
    from twisted.internet import reactor

    async with RawServer(grant) as proxy:
        endpoint = tunnel_endpoint(reactor, "h:1", proxies=f"http://127.0.0.1:{proxy.port}")
        opened: Any = await endpoint.connect(Factory.forProtocol(protocol))
        raw = proxy.connections[0]
        raw.write(b"all")
        raw.transport.loseWriteConnection()  # type: ignore[union-attr]
        received = await raw.read_all()
        await within(opened.ended())
        return received


@pytest_twisted.ensureDeferred
async def test_protocol_that_knows_of_half_a_close_still_answers() -> None:
    assert await half_closed(Answering) == b"all heard"


@pytest_twisted.ensureDeferred
async def test_protocol_that_does_not_hears_of_an_end() -> None:
    assert await half_closed(Raw) == b""


# --- beside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["tcp", "proxy"])
@pytest_twisted.ensureDeferred
async def test_observer_that_raises_is_logged_and_the_tunnel_opens(
    phase: str,
) -> None:
    from twisted.internet import reactor

    def observe(done: PhaseDone) -> None:
        if done.phase == phase:
            raise ZeroDivisionError

    with capturedLogs() as logs:
        async with RawServer(grant) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            endpoint = HTTPConnectEndpoint(reactor, url, "h", 1, observe=observe)
            opened: Any = await within(endpoint.connect(Factory.forProtocol(Raw)))
            await opened.drop()
    failures = [event["log_failure"] for event in logs if "log_failure" in event]
    assert [failure.type for failure in failures] == [ZeroDivisionError]


@pytest_twisted.ensureDeferred
async def test_deadline_of_the_last_way_tells_of_those_before() -> None:
    from twisted.internet import reactor

    async def refuse(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(refuse) as first, RawServer() as last:
        proxies = [f"http://127.0.0.1:{proxy.port}" for proxy in (first, last)]
        endpoint = tunnel_endpoint(reactor, "h:1", proxies=proxies, timeout=0.2)
        with pytest.raises(ProxyTimeout) as caught:
            await endpoint.connect(Factory.forProtocol(Raw))
    (before,) = caught.value.others
    assert isinstance(before, ProxyRefused)
    assert "answered 403 Forbidden" in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_way_whose_refusal_does_not_end_is_waited_for_once() -> None:
    from twisted.internet import reactor

    async def hang(raw: Raw) -> None:
        await raw.read_head()
        raw.write(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\n")

    async with RawServer(hang) as first, RawServer(grant) as last:
        settings = ProxySettings([f"http://127.0.0.1:{proxy.port}" for proxy in (first, last)])
        for _ in range(2):
            endpoint = tunnel_endpoint(reactor, "h:1", proxies=settings, timeout=0.2)
            opened: Any = await endpoint.connect(Factory.forProtocol(Raw))
            await opened.drop()
        assert (len(first.connections), len(last.connections)) == (1, 2)
