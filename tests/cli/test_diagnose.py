"""`wsframe diagnose`: as a process, against servers that want one thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytest_twisted
from integration.peers import free_port
from integration.picky import Picky, Rule, has, has_not
from integration.raw import header

from cli.running import Done, wsframe
from wsframe.cli import main

SECRET = "s3cretT0ken-of-some-length"


async def run(*arguments: str) -> Done:
    """Run the command in a process of its own."""
    return await wsframe("diagnose", *arguments)


@pytest.mark.parametrize(
    ("rule", "arguments", "status", "finding"),
    [
        (lambda head: True, [], 0, "nothing had to be changed"),
        (
            has_not("Sec-WebSocket-Protocol"),
            ["--subprotocol", "v1"],
            3,
            "with one change: no subprotocol",
        ),
        (has("Origin"), [], 3, "with one change: the server's own Origin (http://127.0.0.1:"),
        (has_not("User-Agent"), [], 3, "with one change: no User-Agent"),
        (lambda head: False, [], 1, "no single change makes the server answer 101"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_server_that_answers_502_for_one_header_is_diagnosed(
    rule: Rule, arguments: list[str], status: int, finding: str
) -> None:
    async with Picky(rule) as server:
        code, out, err = await run(f"ws://127.0.0.1:{server.port}/x", *arguments)
    assert (code, err) == (status, "")
    assert finding in out.splitlines()[-1]
    assert ("502 Bad Gateway" in out) == (status != 0)
    assert "tcp" in out
    assert "as it is" in out


@pytest_twisted.ensureDeferred
async def test_json_has_every_trial_and_no_secret(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"me:{SECRET}\n")
    token.chmod(0o600)
    async with Picky(has_not("Authorization")) as server:
        uri = f"ws://127.0.0.1:{server.port}/x"
        code, out, _ = await run(uri, "--json", "--token-file", str(token))
        assert header(server.heads[0], "Authorization") == f"Bearer {SECRET}"
    said = json.loads(out)
    assert code == 3
    assert said["cures"] == ["no token, password or cookie"]
    assert said["trials"][0]["error"]["status"] == 502
    assert said["trials"][0]["error"]["body"] == "nope"
    assert said["route"]["rule"] == "default"
    assert SECRET not in out


@pytest_twisted.ensureDeferred
async def test_refusal_that_repeats_the_token_does_not_show_it(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"me:{SECRET}\n")
    token.chmod(0o600)
    refusal = (
        f"HTTP/1.1 403 not {SECRET}\r\nX: {SECRET}\r\nContent-Length: {len(SECRET)}\r\n\r\n{SECRET}"
    )
    async with Picky(lambda head: False, refusal.encode()) as server:
        for more in ((), ("--json",)):
            _, out, err = await run(
                f"ws://127.0.0.1:{server.port}/", "--token-file", str(token), *more
            )
            assert "403" in out
            assert SECRET not in out + err


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        (f"?ticket={SECRET}", ()),
        ("", ("--header", f"X-Api-Key: {SECRET}")),
        ("", ("--header", f"Cookie: a=b; sid={SECRET}")),
        ("", ("--subprotocol", f"bearer.{SECRET}")),
    ],
)
@pytest_twisted.ensureDeferred
async def test_refusal_that_repeats_what_a_trace_hides_does_not_show_it(
    query: str, arguments: tuple[str, ...]
) -> None:
    refusal = f"HTTP/1.1 403 not {SECRET}\r\nX: {SECRET}\r\n\r\nno {SECRET}"
    async with Picky(lambda head: False, refusal.encode()) as server:
        for more in ((), ("--json",)):
            uri = f"ws://127.0.0.1:{server.port}/{query}"
            _, out, err = await run(uri, *arguments, *more)
            assert "403" in out
            assert SECRET not in out + err


@pytest_twisted.ensureDeferred
async def test_server_that_is_not_there_is_told_with_each_address() -> None:
    port = free_port()
    code, out, _ = await run(f"ws://127.0.0.1:{port}/")
    assert code == 1
    assert "TCPConnectFailed" in out
    assert f"tried 127.0.0.1:{port}: " in out
    assert "the handshake was not reached" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["http://x/"], "ws://"),
        (["ws://x/", "--header", "no colon"], "a header is written as 'Name: value'"),
        (["ws://x/", "--header", "Content-Length: 3"], "Content-Length"),
        (["ws://x/", "--proxy", "ftp://x"], "scheme"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_sent(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("wsframe.cli.reactor.run")  # this process has the tests' reactor
        with pytest.raises(SystemExit) as caught:
            main(["diagnose", *arguments])
    assert caught.value.code == 2
    assert text.lower() in capsys.readouterr().err.lower()
