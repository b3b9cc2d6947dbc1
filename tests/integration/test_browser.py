"""A browser as the client: headless Chromium against `serve` and the Autobahn-named classes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import defer

from wsframe.auth import bearer_auth
from wsframe.connection import Connection
from wsframe.options import Deflate, ServerOptions
from wsframe.protocol import WebSocketServerFactory, WebSocketServerProtocol
from wsframe.protocol.deflate import accept_offer
from wsframe.server import serve

from .browser import Browser, browsing, serve_page
from .interop import LISTEN
from .raw import RawServer

PAGE = """<!doctype html><title>talk</title><link rel="icon" href="data:,"><script>
function payload(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at++) bytes[at] = (at * 7 + (at >> 8)) & 255;
  return bytes;
}

// Says one thing after the other, each when the echo of the last is there, and tells what came.
function talk(url, { protocols = [], says = [], end = null }) {
  return new Promise((resolve) => {
    const told = { opened: false, echoes: [] };
    const left = says.map((what) => (typeof what === "number" ? payload(what) : what));
    let waiting = null;
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    const next = () => {
      waiting = left.shift();
      if (waiting !== undefined) socket.send(waiting);
      else if (end !== null) socket.close(...end);
    };
    socket.onopen = () => {
      Object.assign(told, {
        opened: true, protocol: socket.protocol, extensions: socket.extensions });
      next();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") told.echoes.push(data === waiting ? "text" : "another text");
      else {
        const came = new Uint8Array(data);
        const same = waiting instanceof Uint8Array && came.length === waiting.length
          && came.every((byte, at) => byte === waiting[at]);
        told.echoes.push(same ? "binary" : "another binary");
      }
      next();
    };
    socket.onclose = ({ code, reason, wasClean }) =>
      resolve({ ...told, code, reason, clean: wasClean });
  });
}
</script>"""

MIB = 1 << 20
TOKEN = "tok.Secret_0123456789"
WAYS = pytest.mark.parametrize("way", ["serve", "protocol"])
TEXTS = ["hello", "", "späť €", "𝄞 🂡 👩‍🚀", "\u0000 \ufeff \u2028", "x" * 126, "🂡" * 20_000]


@pytest_twisted.async_yield_fixture(scope="module")
async def page(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Browser, str]]:
    """Give a browser with the page open, and the page's origin."""
    directory: Path = tmp_path_factory.mktemp("browser")
    async with browsing(directory) as browser:
        async with RawServer(serve_page(PAGE)) as server:
            origin = f"http://127.0.0.1:{server.port}"
            await browser.open(f"{origin}/")
        yield browser, origin


Talk = Callable[..., Any]


class Echo(WebSocketServerProtocol):
    """Echoes, and does what a text beginning with "!" wants, as `echo` does."""

    def onConnect(self, request: Any) -> Any:
        offered = request.protocols
        if self.factory.wants_token and bearer() not in offered:
            raise ConnectionDeny(401)
        return next((name for name in ("chat.v2", "chat.v1") if name in offered), None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary or not payload.startswith(b"!"):
            self.sendMessage(payload, isBinary)
        elif payload == b"!abort":
            self.dropConnection(abort=True)
        else:
            code, _, reason = payload[1:].decode().partition(" ")
            self.sendClose(int(code), reason)


async def echo(connection: Connection) -> None:
    async for message in connection:
        if isinstance(message, bytes) or not message.startswith("!"):
            await connection.send(message)
        elif message == "!abort":
            connection.abort()
        else:
            code, _, reason = message[1:].partition(" ")
            await connection.close(int(code), reason)


def bearer() -> str:
    """Return the token as a subprotocol: a page can send no other header."""
    return "bearer." + base64.urlsafe_b64encode(TOKEN.encode()).rstrip(b"=").decode()


@asynccontextmanager
async def talking(
    page: tuple[Browser, str], way: str, *, compression: Deflate | None = None, token: bool = False
) -> AsyncIterator[Talk]:
    """Run a server that echoes; yield what has the page talk with it."""
    from twisted.internet import reactor

    browser, origin = page
    options = ServerOptions(origins=(origin,), subprotocols=("chat.v2", "chat.v1"))

    def talk_with(port: int) -> Talk:
        def talk(**what: Any) -> Any:
            url = f"ws://127.0.0.1:{port}/"
            return browser.evaluate(f"talk({json.dumps(url)}, {json.dumps(what)})")

        return talk

    if way == "serve":
        judge = bearer_auth({"anna": TOKEN}, subprotocol=True) if token else None
        given: dict[str, Any] = {"options": options, "process_request": judge}
        async with serve(echo, LISTEN, compression=compression, **given) as server:
            yield talk_with(server.addresses[0].port)  # type: ignore[attr-defined]
        return
    factory: Any = WebSocketServerFactory(options=options)
    factory.protocol = Echo
    factory.wants_token = token
    if compression is not None:
        factory.perMessageCompressionAccept = accept_offer(compression, options.max_message_size)
    listening: Any = reactor
    port = listening.listenTCP(0, factory, interface="127.0.0.1")
    try:
        yield talk_with(port.getHost().port)
    finally:
        await defer.maybeDeferred(port.stopListening)


@WAYS
@pytest.mark.parametrize("compression", [None, Deflate()], ids=["plain", "deflate"])
@pytest_twisted.ensureDeferred
async def test_text_and_a_mebibyte_come_back_as_they_were_sent(
    page: tuple[Browser, str], way: str, compression: Deflate | None
) -> None:
    """Characters beyond the first plane among them, and sizes about the lengths' borders."""
    says = [*TEXTS, 0, 1, 125, 126, 65535, 65536, MIB]
    async with talking(page, way, compression=compression) as talk:
        told = await talk(says=says, end=[1000, "done"])

    assert told["echoes"] == ["text"] * len(TEXTS) + ["binary"] * 7
    assert (told["code"], told["clean"]) == (1000, True)
    assert ("permessage-deflate" in told["extensions"]) is (compression is not None)


@WAYS
@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "going away"), (1008, "not like that"), (3008, "späť"), (4321, "🂡")],
)
@pytest_twisted.ensureDeferred
async def test_the_page_learns_the_servers_code_and_reason(
    page: tuple[Browser, str], way: str, code: int, reason: str
) -> None:
    async with talking(page, way) as talk:
        told = await talk(says=[f"!{code} {reason}"])

    assert (told["code"], told["reason"], told["clean"]) == (code, reason, True)


@WAYS
@pytest.mark.parametrize("compression", [None, Deflate()], ids=["plain", "deflate"])
@pytest_twisted.ensureDeferred
async def test_a_message_that_is_too_large_is_told_to_be(
    page: tuple[Browser, str], way: str, compression: Deflate | None
) -> None:
    """Though most of it is still on its way when the server closes."""
    async with talking(page, way, compression=compression) as talk:
        told = await talk(says=["before", 8 * MIB])

    assert told["echoes"] == ["text"]
    assert told["code"] == 1009


@WAYS
@pytest_twisted.ensureDeferred
async def test_an_abort_is_1006_to_the_page(page: tuple[Browser, str], way: str) -> None:
    async with talking(page, way) as talk:
        told = await talk(says=["!abort"])

    assert (told["opened"], told["code"], told["clean"]) == (True, 1006, False)


@WAYS
@pytest_twisted.ensureDeferred
async def test_the_page_closes_without_a_code(page: tuple[Browser, str], way: str) -> None:
    async with talking(page, way) as talk:
        told = await talk(end=[])

    assert (told["code"], told["clean"]) == (1005, True)


@WAYS
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [([], ""), (["chat.v1", "chat.v2"], "chat.v2"), (["chat.v1"], "chat.v1")],
)
@pytest_twisted.ensureDeferred
async def test_the_server_chooses_the_subprotocol_that_it_prefers(
    page: tuple[Browser, str], way: str, offered: list[str], chosen: str
) -> None:
    async with talking(page, way) as talk:
        told = await talk(protocols=offered, end=[1000])

    assert (told["protocol"], told["code"]) == (chosen, 1000)


@WAYS
@pytest_twisted.ensureDeferred
async def test_a_page_without_the_token_is_refused(page: tuple[Browser, str], way: str) -> None:
    """To a page every refusal is 1006; with the token the same server lets it in."""
    async with talking(page, way, token=True) as talk:
        refused = await talk(protocols=["chat.v1"])
        admitted = await talk(protocols=["chat.v1", bearer()], end=[1000])

    assert (refused["opened"], refused["code"]) == (False, 1006)
    assert (admitted["opened"], admitted["protocol"]) == (True, "chat.v1")


@WAYS
@pytest_twisted.ensureDeferred
async def test_a_page_of_another_origin_is_refused(page: tuple[Browser, str], way: str) -> None:
    """The page is let in by its origin alone."""
    browser, _ = page
    async with talking((browser, "https://elsewhere.example"), way) as talk:
        told = await talk()

    assert (told["opened"], told["code"]) == (False, 1006)
