"""Lists of proxies: the order of trying, what leads on to the next, and what is remembered."""

from __future__ import annotations

import os
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import WebSocketClientService, connect
from wsframe.core.proxy import FROM_ENVIRONMENT, Proxy, ProxySettings
from wsframe.errors import (
    BadHandshake,
    OpenCancelled,
    OpenTimeout,
    ProxyAuthRequired,
    ProxyError,
    ProxyUnreachable,
)
from wsframe.options import ClientOptions, RetryPolicy

from .certificates import self_signed
from .origins import echo_server
from .peers import free_port
from .proxies import RecordingProxy
from .raw import Raw, RawServer, Stepped, eventually, turns, within


def down() -> str:
    return f"http://127.0.0.1:{free_port()}"


def answering(answer: bytes) -> RawServer:
    async def script(raw: Raw) -> None:
        await raw.read_head()
        raw.write(answer)
        raw.finish()

    return RawServer(script)


async def works(port: int, proxies: Any) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", proxies=proxies) as connection:
        await connection.send("x")
        assert await connection.recv() == "x"


@pytest_twisted.ensureDeferred
async def test_first_proxy_that_works_is_used() -> None:
    async with RecordingProxy() as first, RecordingProxy() as second, echo_server() as port:
        await works(port, [first.url, second.url])
        assert (len(first.requests), len(second.requests)) == (1, 0)
        await works(port, [down(), first.url, second.url])
        assert (len(first.requests), len(second.requests)) == (2, 0)
        await works(port, {"ws": [down(), Proxy("127.0.0.1", second.port)]})
        assert (len(first.requests), len(second.requests)) == (2, 1)


@pytest.mark.parametrize(
    ("answer", "remembered"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", True),
        (b"garbage\r\n\r\n", True),
        (b"", True),
    ],
    ids=["refused", "auth", "garbage", "empty"],
)
@pytest_twisted.ensureDeferred
async def test_failure_of_a_proxy_leads_to_the_next_and_is_remembered(
    answer: bytes, remembered: bool
) -> None:
    """A refusal is not: that may be the target's fault."""
    async with answering(answer) as bad, RecordingProxy() as good, echo_server() as port:
        settings = ProxySettings([f"http://127.0.0.1:{bad.port}", good.url])
        await works(port, settings)
        await works(port, settings)
        assert len(good.requests) == 2
        assert len(bad.connections) == (1 if remembered else 2)


@pytest_twisted.ensureDeferred
async def test_certificate_of_a_proxy_leads_to_the_next() -> None:
    async with RecordingProxy(self_signed("localhost")) as bad, RecordingProxy() as good:
        async with echo_server() as port:
            await works(port, [bad.secure_url, good.url])
        assert (len(bad.requests), len(good.requests)) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_proxy_that_hangs_has_its_share_of_the_time_and_is_remembered() -> None:
    async with RawServer() as hangs, RecordingProxy() as good, echo_server() as port:
        settings = ProxySettings([f"http://127.0.0.1:{hangs.port}", good.url])
        reactor = Stepped()
        for number in range(2):
            opened: list[Any] = []
            opening = connect(
                f"ws://127.0.0.1:{port}/",
                proxies=settings,
                reactor=reactor,  # type: ignore[arg-type]
            )
            opening.addBoth(opened.append)
            if number == 0:
                raw: Raw = await hangs.accepted()
                await raw.read_head()
                reactor.advance(4.9)
                await turns(3)
                assert good.requests == []
                reactor.advance(0.1)
                await within(raw.ended())
            await eventually(lambda opened=opened: opened)
            opened[0].abort()
            await opened[0].when_closed()
        assert (len(hangs.connections), len(good.requests)) == (1, 2)


@pytest_twisted.ensureDeferred
async def test_first_proxy_is_returned_to_after_its_time() -> None:
    async with RecordingProxy() as first, RecordingProxy() as second, echo_server() as port:
        way = (Proxy("127.0.0.1", first.port),)
        settings = ProxySettings([first.url, second.url])
        from twisted.internet import reactor

        from wsframe.clock import monotonic_clock

        now = monotonic_clock(reactor)
        settings.failover.failed(way, now())
        await works(port, settings)
        assert (len(first.requests), len(second.requests)) == (0, 1)
        settings.failover.failed(way, now() - 60)
        await works(port, settings)
        assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_when_all_fail_the_error_is_the_last_and_lists_each() -> None:
    """And nothing goes direct."""
    urls = [down(), down()]
    async with RawServer() as origin, answering(b"garbage\r\n\r\n") as last:
        urls.append(f"http://127.0.0.1:{last.port}")
        with pytest.raises(ProxyError) as caught:
            await connect(f"ws://127.0.0.1:{origin.port}/", proxies=urls)
        for url in urls:
            assert url.removeprefix("http://") in str(caught.value)
        assert origin.connections == []
    with pytest.raises(ProxyUnreachable):
        await connect("ws://127.0.0.1:9/", proxies=[down(), down()])


@pytest_twisted.ensureDeferred
async def test_failure_of_the_target_itself_does_not_lead_to_the_next() -> None:
    async with (
        answering(b"SSH-2.0\r\n\r\n") as origin,
        RecordingProxy() as first,
        RecordingProxy() as second,
    ):
        with pytest.raises(BadHandshake):
            await connect(f"ws://127.0.0.1:{origin.port}/", proxies=[first.url, second.url])
        assert (len(first.requests), len(second.requests)) == (1, 0)


@pytest.mark.parametrize("expected", [OpenCancelled, OpenTimeout])
@pytest_twisted.ensureDeferred
async def test_attempt_given_up_at_the_second_proxy_leaves_nothing(expected: type) -> None:
    async with RawServer() as hangs:
        options = ClientOptions(open_timeout=0.1)
        proxies = [down(), f"http://127.0.0.1:{hangs.port}"]
        opening = connect("ws://127.0.0.1:9/", proxies=proxies, options=options)
        raw: Raw = await hangs.accepted()
        if expected is OpenCancelled:
            opening.cancel()
        with pytest.raises(expected):
            await opening
        await within(raw.ended())
        assert len(hangs.connections) == 1


@pytest_twisted.ensureDeferred
async def test_service_remembers_from_connection_to_connection() -> None:
    bad = answering(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n")
    async with bad, RecordingProxy() as good, echo_server() as port:
        done: defer.Deferred[None] = defer.Deferred()
        count = 0

        async def handler(connection: Any) -> None:
            nonlocal count
            count += 1
            if count == 3:
                done.callback(None)

        service = WebSocketClientService(
            f"ws://127.0.0.1:{port}/",
            handler,
            proxies=[f"http://127.0.0.1:{bad.port}", good.url],
            retry=RetryPolicy(first_delay=0.01),
        )
        service.startService()
        await within(done)
        await service.stopService()
        assert len(bad.connections) == 1
        assert len(good.requests) >= 3


@pytest_twisted.ensureDeferred
async def test_single_failure_says_no_more_than_itself() -> None:
    async with answering(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        with pytest.raises(ProxyAuthRequired) as caught:
            await connect("ws://127.0.0.1:9/", proxies=[url, url])
        assert ";" not in str(caught.value)
        assert len(proxy.connections) == 1


@pytest_twisted.ensureDeferred
async def test_environment_decides_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    async with RecordingProxy() as proxy, echo_server() as port:
        monkeypatch.setenv("WS_PROXY", proxy.url)
        await works(port, None)
        assert proxy.requests == []
        await works(port, FROM_ENVIRONMENT)
        assert len(proxy.requests) == 1
        monkeypatch.setenv("no_proxy", f"127.0.0.1:{port}")
        await works(port, FROM_ENVIRONMENT)
        assert len(proxy.requests) == 1
