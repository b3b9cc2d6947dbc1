"""What a client does after each close code, status and SOCKS code is what `judge` says of it.

Each failure is told once, as the exception object that was judged.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_twisted
from integration.certificates import BAD_CERTIFICATES, Authority, bad_certificate
from integration.clients import RETRIES, Client, client
from integration.peers import free_port
from integration.raw import Raw, RawServer, accept_raw, close_frame

from wsframe.core import events
from wsframe.core.reconnect import State as Doing
from wsframe.core.retry import judge
from wsframe.errors import (
    BadHandshake,
    BadProxyAnswer,
    ConnectionClosed,
    HandshakeRefused,
    NameLookupFailed,
    OpenError,
    OpenTimeout,
    ProxyError,
    TCPConnectFailed,
    TLSFailed,
)

CODES = [*range(1000, 1004), *range(1004, 1007), *range(1007, 1016), 2999, 3000, 3003, 4000, 4999]
STATUSES = [200, 302, 400, 401, 403, 404, 407, 408, 410, 425, 426, 429, 500, 501, 502, 503, 504]
WAITS = ["", "Retry-After: 7\r\n", "Retry-After: Thu, 01 Jan 2026 00:00:09 GMT\r\n"]
DATE = "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"


async def judged(this: Client, kind: type[Exception]) -> Exception:
    """Wait for what follows from the one failure; return it when that is what `judge` says."""
    await this.until(lambda: this.service.doing in (Doing.WAITING, Doing.GAVE_UP), 0.05)
    told = [each for each in this.told if isinstance(each, events.Failed | events.Closed)]
    (failure,) = told
    assert isinstance(failure.error, kind)
    assert this.service.last_failure is failure.error
    verdict = judge(RETRIES, failure.error, time.time())
    assert (this.service.doing is Doing.GAVE_UP) == verdict.gives_up
    waits = [event.seconds for event in this.told_of(events.Waiting)]
    # The longest draw: the first wait, or as long again as was asked for.
    spread = max(RETRIES.first_delay, min(verdict.after, RETRIES.max_delay))
    assert waits == ([] if verdict.gives_up else [pytest.approx(verdict.after + spread)])
    return failure.error


@pytest.mark.parametrize("code", CODES)
@pytest_twisted.ensureDeferred
async def test_close_code(code: int) -> None:
    async with RawServer() as server, client(server) as this:
        raw = await accept_raw(server)
        await this.until(lambda: this.service.connection)
        raw.write(close_frame(code, masked=False))
        await raw.read_close()
        raw.finish()
        error = await judged(this, ConnectionClosed)
        # What may not travel is a protocol error.
        allowed = code >= 3000 or code in {*range(1000, 1004), *range(1007, 1015)}
        assert getattr(error, "code", None) == (code if allowed else 1002)


@pytest.mark.parametrize("wait", WAITS, ids=["at will", "seconds", "date"])
@pytest.mark.parametrize(
    ("who", "status"),
    # From a proxy 200 is the tunnel.
    [*[("server", each) for each in STATUSES], *[("proxy", each) for each in STATUSES[1:]]],
)
@pytest_twisted.ensureDeferred
async def test_status(who: str, status: int, wait: str) -> None:
    async def answer(raw: Raw) -> None:
        await raw.read_head()
        raw.write(f"HTTP/1.1 {status} So\r\n{DATE}{wait}Content-Length: 0\r\n\r\n".encode())
        raw.finish()

    async with RawServer(answer) as peer:
        arguments = {"proxies": f"http://127.0.0.1:{peer.port}"} if who == "proxy" else {}
        async with client(free_port() if who == "proxy" else peer, **arguments) as this:
            error = await judged(this, HandshakeRefused if who == "server" else ProxyError)
            assert getattr(error, "status", None) == status


@pytest.mark.parametrize("code", range(1, 10))
@pytest_twisted.ensureDeferred
async def test_socks_code(code: int) -> None:
    async def answer(raw: Raw) -> None:
        await raw.read(3)
        raw.write(b"\5\0")
        await raw.read(10)
        raw.write(bytes([5, code, 0, 1]) + bytes(6))
        raw.finish()

    async with (
        RawServer(answer) as proxy,
        client(free_port(), proxies=f"socks5://127.0.0.1:{proxy.port}") as this,
    ):
        error = await judged(this, ProxyError)
        assert isinstance(error, BadProxyAnswer) or getattr(error, "code", None) == code


@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
@pytest.mark.parametrize("who", ["server", "proxy"])
@pytest_twisted.ensureDeferred
async def test_certificate_that_is_not_accepted_is_final(who: str, kind: str) -> None:
    authority = Authority()
    certificate, _ = bad_certificate(kind, authority)
    async with RawServer(certificate=certificate) as peer:
        arguments: dict[str, Any] = {"uri": f"wss://localhost:{peer.port}/"}
        arguments["tls"] = authority.client("localhost")
        if who == "proxy":
            arguments = {
                "proxies": f"https://localhost:{peer.port}",
                "proxy_tls": authority.verify_proxy,
            }
        async with client(free_port(), **arguments) as this:
            error = await judged(this, TLSFailed)
            assert this.service.doing is Doing.GAVE_UP
            assert isinstance(error, TLSFailed)
            assert error.certificate


@pytest_twisted.ensureDeferred
async def test_tls_handshake_that_is_cut_may_pass() -> None:
    async def cut(raw: Raw) -> None:
        await raw.read(5)
        raw.reset()

    async with RawServer(cut) as peer:
        tls = Authority().client("localhost")
        async with client(0, uri=f"wss://127.0.0.1:{peer.port}/", tls=tls) as this:
            await judged(this, TLSFailed)
            assert this.service.doing is Doing.WAITING


@pytest.mark.parametrize(
    ("answer", "kind", "final"),
    [
        (b"SSH-2.0-x\r\n\r\n", BadHandshake, True),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: no\r\n\r\n", BadHandshake, True),
        (b"", OpenError, False),
        (b"HTTP/1.1 1", OpenError, False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_answer_that_is_none(answer: bytes, kind: type[Exception], final: bool) -> None:
    async def say(raw: Raw) -> None:
        await raw.read_head()
        raw.write(answer)
        raw.finish()

    async with RawServer(say) as peer, client(peer) as this:
        await judged(this, kind)
        assert (this.service.doing is Doing.GAVE_UP) == final


@pytest_twisted.ensureDeferred
async def test_deadline_name_and_refused_connection_are_retried() -> None:
    async with RawServer() as silent:
        for arguments, kind in (
            ({"uri": f"ws://127.0.0.1:{silent.port}/"}, OpenTimeout),
            ({"uri": "ws://name.invalid/"}, NameLookupFailed),
            ({"uri": f"ws://127.0.0.1:{free_port()}/"}, TCPConnectFailed),
        ):
            async with client(0, **arguments) as this:
                await judged(this, kind)
                assert this.service.doing is Doing.WAITING
