"""Each code block of docs/connecting.md is run against servers of the test's own."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.certificates import Authority, self_signed
from integration.interop import serving
from integration.origins import echo_server
from integration.raw import Raw, header, switching
from integration.test_redirects import Server, redirect
from twisted.internet import defer

from wsframe import Deflate
from wsframe.connection import Connection
from wsframe.core.opening import GENERATED_NAMES
from wsframe.endpoints import TLSOptions
from wsframe.options import ClientOptions
from wsframe.server import serve

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "connecting.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

# Something that only one block has; each is run by a test below.
MARKS = (
    "Accept-Language",
    "error.status",
    "CookieJar()",
    "from somebody known",
    "TLSOptions(fingerprint",
    "max_redirects",
    "from next door",
    "Deflate(server",
)


def block(mark: str) -> str:
    """Return the only block with that in it."""
    (found,) = [text for text in BLOCKS if mark in text]
    return found


async def run(mark: str, **replaced: str) -> list[str]:
    """Run the block with the mark in it; return what it prints."""
    code = block(mark)
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *args: printed.append(" ".join(map(str, args)))}
    exec(BLOCKS[0], names)  # noqa: S102 - our own page
    for old, new in replaced.items():
        name = {"chat": "ws://chat.example.org", "address": "127.0.0.1:8443"}.get(old, old)
        assert name in code
        code = code.replace(name, new)
    compiled = compile(code, mark, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    made = eval(compiled, names)  # noqa: S307 - our own page
    if made is not None:
        await made
    return printed


async def aborting(raw: Raw) -> None:
    await raw.read_close()
    raw.finish()


class ClosingServer(Server):
    """Opens the WebSocket, or answers otherwise, and then takes part in the closing handshake."""

    async def _serve(self, raw: Raw) -> None:
        await super()._serve(raw)
        await aborting(raw)


def say(answer: bytes) -> Callable[[str], bytes]:
    return lambda head: answer


@pytest_twisted.ensureDeferred
async def test_headers_block_is_what_arrives() -> None:
    async with ClosingServer(switching) as server:
        printed = await run("Accept-Language", chat=server.url)
        lines = server.heads[0].split("\r\n")[1:-2]
        assert [line.partition(":")[0] for line in lines] == [
            "Host",
            "Connection",
            "User-Agent",
            "Upgrade",
            "Origin",
            "Sec-WebSocket-Version",
            "Accept-Language",
            "Sec-WebSocket-Key",
        ]
        assert "('Accept-Language', 'en')" in printed[0]
        assert header(server.heads[1], "User-Agent") is None
        assert header(server.heads[1], "X-Tenant") == "blue"


def test_page_names_the_generated_headers_in_their_order() -> None:
    text = " ".join(PAGE.split())
    assert f"in this order: {', '.join(GENERATED_NAMES)};" in text


@pytest_twisted.ensureDeferred
async def test_refusal_block_prints_the_refusal() -> None:
    answer = b"HTTP/1.1 403 Forbidden\r\nX: 1\r\nContent-Length: 2\r\n\r\nno"
    async with Server(say(answer)) as server:
        (printed,) = await run("error.status", chat=server.url)
        assert printed.startswith("403 (('X', '1')")
        assert printed.endswith("b'no'")


@pytest_twisted.ensureDeferred
async def test_cookies_block_prints_the_names() -> None:
    cookie = "Set-Cookie: session=1"
    async with ClosingServer(lambda head: switching(head, cookie)) as server:
        assert await run("CookieJar()", chat=server.url) == ["['session']"]


@pytest_twisted.ensureDeferred
async def test_tls_block_is_verified_on_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    authority = Authority()
    server = authority.issue("chat.example.org")
    server.demand(authority)
    Path("ca.pem").write_bytes(authority.pem)
    Path("client.pem").write_bytes(authority.issue("somebody known").pem())
    async with echo_server(certificate=server, handler=(received := Received())) as port:
        await run("from somebody known", address=f"127.0.0.1:{port}")
        assert await received.first == "from somebody known"
        assert server.clients == ["somebody known"]


class Received:
    """A handler that keeps the first message."""

    def __init__(self) -> None:
        self.first: defer.Deferred[object] = defer.Deferred()

    async def __call__(self, connection: Connection) -> None:
        self.first.callback(await connection.recv())


@pytest_twisted.ensureDeferred
async def test_fingerprint_block_connects() -> None:
    server = self_signed("nobody.example")
    async with echo_server(certificate=server) as port:
        pin = server.fingerprint()
        await run("TLSOptions(fingerprint", address=f"127.0.0.1:{port}", **{"AB:CD:…": pin})


def test_table_has_the_fields() -> None:
    fields = {name for name in TLSOptions.__dataclass_fields__ if not name.startswith("_")}
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields


@pytest_twisted.ensureDeferred
async def test_redirects_block_prints_where_it_led() -> None:
    def answer(head: str) -> bytes:
        return redirect("/new") if head.startswith("GET /old ") else switching(head)

    async with ClosingServer(answer) as server:
        assert await run("max_redirects", chat=server.url) == [f"{server.url}/new"]


@pytest_twisted.ensureDeferred
async def test_unix_block_reaches_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    received = Received()
    async with serve(received, f"unix:{path}"):
        await run("from next door", **{"%2Frun%2Fapp.sock": str(path).replace("/", "%2F")})
        assert await received.first == "from next door"


@pytest_twisted.ensureDeferred
async def test_compression_block_prints_what_was_agreed_on() -> None:
    async with serving(compression=Deflate()) as (_, url, _handled):
        printed = await run("Deflate(server", chat=url.removesuffix("/chat?room=1"))
        assert printed[0].startswith("permessage-deflate; server_max_window_bits=10")


def test_page_speaks_of_the_defaults() -> None:
    assert ClientOptions().max_redirects == 0
    assert ClientOptions().user_agent == "wsframe"


def test_every_block_was_run() -> None:
    """A block that is added without a test fails here; the first one is run with each other."""
    assert [block(mark) for mark in MARKS] == BLOCKS[1:]
