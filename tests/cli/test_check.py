"""`wsframe route --check` as a process, through real proxies and such as misbehave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.certificates import Authority
from integration.peers import free_port
from integration.proxies import ENCODED, PASSWORD, USER, Proxies, RecordingProxy
from integration.raw import WAIT, Raw, RawServer, Stepped, header, turns, within
from twisted.internet import defer
from twisted.internet.error import ConnectionDone

from cli.running import wsframe
from wsframe.cli.check import GOODBYE, check
from wsframe.core.proxy import ProxySettings, Route
from wsframe.core.timing import PhaseDone
from wsframe.core.uri import parse_uri
from wsframe.errors import OpenCancelled
from wsframe.options import DEFAULT_CLIENT_OPTIONS


async def check_of(*arguments: str, status: int, **environ: str) -> Any:
    """Return what `--check --json` says of the only way."""
    done = await wsframe("route", "--check", "--json", *arguments, **environ)
    assert (done.status, done.err) == (status, "")
    (checked,) = json.loads(done.out)["checks"]
    assert checked["ok"] == (status == 0)
    return checked


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    running = Proxies()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def ca(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a file with the tests' authority, behind another one."""
    file: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    file.write_bytes(Authority("another CA").pem + b"some text\n" + authority.pem)
    return str(file)


@pytest_twisted.ensureDeferred
async def test_says_how_long_each_phase_took(
    proxies: Proxies, authority: Authority, ca: str
) -> None:
    """Through the environment's proxy, with a password, to a server within TLS."""
    proxy = proxies.get("tinyproxy", auth=True)
    async with RawServer(certificate=authority.issue("localhost")) as target:
        uri = f"wss://localhost:{target.port}/"
        variable = f"http://{USER}:{ENCODED}@127.0.0.1:{proxy}"
        done = await wsframe("route", uri, "--check", "--ca", ca, https_proxy=variable)
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0].endswith("because of the environment variable https_proxy")
        phases = [line.split() for line in lines[3:-1]]
        assert [(phase, to) for phase, _, _, to, *_ in phases] == [
            ("tcp", f"127.0.0.1:{proxy}"),
            ("proxy", f"http://127.0.0.1:{proxy}"),
            ("tls", f"localhost:{target.port}"),
        ]
        assert "(HTTP 200, Basic)" in done.out
        assert "(TLSv1.3, TLS_" in done.out
        assert lines[-1].startswith("  open after 0.")
        (raw,) = target.connections
        await within(raw.ended())
        assert raw.lost is not None
        assert raw.lost.check(ConnectionDone)  # an end in order
        assert raw.received == b""  # and no WebSocket


@pytest_twisted.ensureDeferred
async def test_json_has_the_phases_of_a_chain(
    proxies: Proxies, authority: Authority, ca: str
) -> None:
    plain = proxies.get("tinyproxy", auth=False)
    secure = proxies.tls_before(plain, authority.issue("localhost"))
    socks = proxies.get("dante", auth=False)
    async with RawServer() as target:
        checked = await check_of(
            f"ws://127.0.0.1:{target.port}/",
            "--proxy",
            f"socks5h://127.0.0.1:{socks},https://localhost:{secure}",
            "--proxy-ca",
            ca,
            status=0,
        )
    assert [(phase["phase"], phase["to"]) for phase in checked["phases"]] == [
        ("tcp", f"127.0.0.1:{socks}"),
        ("proxy", f"socks5h://127.0.0.1:{socks}"),
        ("proxy-tls", f"https://localhost:{secure}"),
        ("proxy", f"https://localhost:{secure}"),
    ]
    assert checked["error"] is None
    assert sum(phase["seconds"] for phase in checked["phases"]) <= checked["seconds"] < WAIT


@pytest_twisted.ensureDeferred
async def test_file_gives_the_password(proxies: Proxies, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.touch(mode=0o600)
    file.write_text(f"{USER}:{PASSWORD}\n")
    async with RawServer() as target:
        await check_of(
            f"ws://127.0.0.1:{target.port}/",
            "--proxy",
            f"socks5://127.0.0.1:{proxies.get('microsocks', auth=True)}",
            "--proxy-auth-file",
            str(file),
            status=0,
        )


@pytest_twisted.ensureDeferred
async def test_refusal_is_told_with_all_that_came_with_it(proxies: Proxies) -> None:
    proxy = proxies.get("squid", auth=True)
    done = await wsframe(
        "route", "ws://127.0.0.1:9/", "--check", "--proxy", f"http://127.0.0.1:{proxy}"
    )
    assert (done.status, done.err) == (1, "")
    lines = done.out.splitlines()
    assert any(line.startswith("  failed in phase proxy after 0.") for line in lines)
    assert "ProxyAuthRequired" in done.out
    assert "    status 407" in lines
    assert any(line.lower().startswith("    proxy-authenticate: basic") for line in lines)
    assert any(line.startswith("    body: <!DOCTYPE") for line in lines)


@pytest_twisted.ensureDeferred
async def test_reply_code_of_a_socks_proxy_is_told(proxies: Proxies) -> None:
    given = [f"ws://127.0.0.1:{free_port()}/", "--check"]
    proxy = f"socks5h://127.0.0.1:{proxies.get('dante', auth=False)}"
    done = await wsframe("route", *given, "--proxy", proxy)
    assert done.status == 1
    assert "TargetUnreachable" in done.out
    assert "    code 5\n" in done.out


@pytest_twisted.ensureDeferred
async def test_what_a_proxy_repeats_of_the_credentials_is_not_shown() -> None:
    """Neither plain nor as they were sent."""

    async def script(raw: Raw) -> None:
        said = header(await raw.read_head(), "Proxy-Authorization")
        body = f"\n  {USER} / {PASSWORD} sent \x1b[31m{said}\nsecond line"
        head = f"HTTP/1.1 403 No {said}\r\nX-Said: {said}\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.write(f"{head}{body}".encode())

    async with RawServer(script) as proxy:
        checked = await check_of(
            "ws://127.0.0.1:9/",
            "--proxy",
            f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}",
            status=1,
        )
    error = checked["error"]
    assert (error["kind"], error["phase"], error["status"]) == ("ProxyRefused", "proxy", 403)
    assert "answered 403 Forbidden to" in error["message"]
    assert error["body"] == "*** / *** sent \\x1b[31mBasic ***"
    assert ["X-Said", "Basic ***"] in error["headers"]
    assert error["proxy"] == f"http://127.0.0.1:{proxy.port}"


@pytest_twisted.ensureDeferred
async def test_addresses_that_refuse_are_each_told() -> None:
    port = free_port()
    done = await wsframe("route", f"ws://127.0.0.1:{port}/", "--check")
    assert done.status == 1
    assert "TCPConnectFailed" in done.out
    assert f"    tried 127.0.0.1:{port}: Connection refused\n" in done.out


@pytest_twisted.ensureDeferred
async def test_every_way_is_tried_and_one_that_works_is_enough(proxies: Proxies) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    good = f"http://127.0.0.1:{proxies.get('tinyproxy', auth=False)}"
    async with RawServer() as target:
        uri = f"ws://127.0.0.1:{target.port}/"
        for first, second in ((down, good), (good, down)):
            done = await wsframe("route", uri, "--check", "--proxy", first, "--proxy", second)
            assert done.status == 0
            parts = done.out.partition("check of 1.\n")[2].split("check of 2.\n")
            assert ["open after" in part for part in parts] == [first is good, second is good]
        done = await wsframe("route", uri, "--check", "--proxy", down, "--proxy", down)
        assert done.status == 1


@pytest_twisted.ensureDeferred
async def test_server_that_is_not_trusted_fails_in_phase_tls(authority: Authority) -> None:
    async with RawServer(certificate=authority.issue("localhost")) as target:
        checked = await check_of(f"wss://localhost:{target.port}/", status=1)
    assert (checked["error"]["kind"], checked["error"]["phase"]) == ("TLSFailed", "tls")
    assert [phase["phase"] for phase in checked["phases"]] == ["dns", "tcp"]


@pytest_twisted.ensureDeferred
async def test_proxy_that_is_silent_is_given_up() -> None:
    async with RawServer() as proxy:
        given = ["--proxy", f"http://127.0.0.1:{proxy.port}", "--timeout", "0.05"]
        checked = await check_of("ws://127.0.0.1:9/", *given, status=1)
    assert (checked["error"]["kind"], checked["error"]["phase"]) == ("ProxyTimeout", "proxy")


@pytest_twisted.ensureDeferred
async def test_server_with_a_trailing_dot_has_the_certificate_of_its_name(
    authority: Authority, ca: str
) -> None:
    """As without --ca, where it is verified as `connect` does it."""
    async with RecordingProxy() as proxy, RawServer(certificate=authority.issue("name")) as target:
        given = [f"wss://name.:{target.port}/", "--proxy", proxy.url, "--ca", ca]
        checked = await check_of(*given, status=0)
    assert checked["error"] is None


@pytest_twisted.ensureDeferred
async def test_user_of_a_socks_proxy_may_have_a_colon() -> None:
    given = ["--proxy", f"socks5h://us%3Aer:x@127.0.0.1:{free_port()}"]
    checked = await check_of("ws://127.0.0.1:9/", *given, status=1)
    assert checked["error"]["kind"] == "ProxyUnreachable"


@pytest_twisted.ensureDeferred
async def test_way_that_cannot_be_gone_is_a_failure_of_that_way() -> None:
    """No certificate has such a name; SOCKS4 has no IPv6."""
    checked = await check_of("wss://a_b.example/", status=1)
    assert (checked["error"]["phase"], checked["error"]["code"]) == (None, None)
    checked = await check_of("ws://[::1]/", "--proxy", "socks4://127.0.0.1:9", status=1)
    assert checked["error"]["kind"] == "InvalidProxy"


# --- in this process ------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_server_that_does_not_end_is_cut_off(authority: Authority) -> None:
    """It answers no end of TLS."""
    reactor = Stepped()
    tls_is_done: defer.Deferred[None] = defer.Deferred()

    def said(done: PhaseDone) -> None:
        if done.phase == "tls":
            for raw in target.connections:
                raw.transport.pauseProducing()  # type: ignore[union-attr]
            tls_is_done.callback(None)

    async with RawServer(certificate=authority.issue("localhost")) as target:
        uri = parse_uri(f"wss://localhost:{target.port}/")
        checking = defer.ensureDeferred(
            check(
                reactor,
                uri,
                Route(uri.scheme, uri.host, uri.port),
                tls=authority.client("localhost"),
                proxy_tls=None,
                options=DEFAULT_CLIENT_OPTIONS,
                said=said,
            )
        )
        await within(tls_is_done)
        await turns(5)
        assert not checking.called
        reactor.advance(GOODBYE)
        assert (await within(checking)).error is None


@pytest_twisted.ensureDeferred
async def test_check_that_is_cancelled_has_no_result() -> None:
    from twisted.internet import reactor

    async with RawServer() as proxy:
        uri = parse_uri("ws://127.0.0.1:9/")
        settings = ProxySettings(f"http://127.0.0.1:{proxy.port}")
        checking = defer.ensureDeferred(
            check(
                reactor,
                uri,
                settings.choose(uri),
                tls=None,
                proxy_tls=None,
                options=DEFAULT_CLIENT_OPTIONS,
            )
        )
        raw = await proxy.accepted()
        checking.cancel()
        with pytest.raises(OpenCancelled):
            await checking
        await within(raw.ended())
