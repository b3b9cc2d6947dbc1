"""A 407 and its answers, with proxies that keep the connection, end it, or ask for ever."""

from __future__ import annotations

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.errors import (
    BadProxyAnswer,
    OpenCancelled,
    ProxyAuthRefused,
)
from wsframe.options import ClientOptions

from .proxies import ENCODED, PASSWORD, USER
from .raw import Raw, RawServer, header, switching, turns, within

ASKED = ClientOptions(proxy_auth_unasked=False)


QUESTION = (
    b"HTTP/1.1 407 Who\r\n"
    b'Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256\r\n'
)
LENGTH = b"Content-Length: 4\r\n"
GRANTED = b"HTTP/1.1 200 OK\r\n\r\n"


async def serve_origin(raw: Raw) -> None:
    raw.write(GRANTED)
    raw.write(switching(await raw.read_head()))


class Asking(RawServer):
    """A proxy that asks with `question`, then does `then`, and is the origin once answered."""

    def __init__(self, question: bytes, then: str, answers: int = 1) -> None:
        super().__init__(self._serve)
        self.question = question
        self.then = then
        self.answers = answers
        self.heads: list[str] = []

    async def _serve(self, raw: Raw) -> None:
        while True:
            self.heads.append(await raw.read_head())
            if len(self.heads) > self.answers:
                await serve_origin(raw)
                return
            raw.write(self.question)
            if self.then == "close":
                raw.finish()
                return
            if self.then == "reset":
                await turns(2)
                raw.reset()
                return


@pytest.mark.parametrize(
    ("question", "then", "connections"),
    [
        (QUESTION + LENGTH + b"\r\nplea", "keep", 1),
        (QUESTION + b"Transfer-Encoding: chunked\r\n\r\n4\r\nplea\r\n0\r\n\r\n", "keep", 1),
        (QUESTION + LENGTH + b"Connection: close\r\n\r\nplea", "close", 2),
        (QUESTION + LENGTH + b"Proxy-Connection: close\r\n\r\nplea", "keep", 2),
        (QUESTION + LENGTH + b"\r\nplea", "close", 2),
        (QUESTION + LENGTH + b"\r\nplea", "reset", 2),
        (QUESTION + LENGTH + b"\r\npl", "close", 2),
        (QUESTION + b"\r\nto the end", "close", 2),
        (QUESTION.replace(b"1.1", b"1.0") + LENGTH + b"\r\nplea", "keep", 2),
        (QUESTION + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000, "keep", 2),
    ],
    ids=[
        "kept",
        "kept, chunked",
        "closed as said",
        "closed as said by Proxy-Connection",
        "closed and not said",
        "reset and not said",
        "closed within the body",
        "body to the end",
        "HTTP/1.0",
        "body over the limit",
    ],
)
@pytest_twisted.ensureDeferred
async def test_answer_goes_out_on_the_connection_that_the_proxy_keeps_or_on_a_new_one(
    question: bytes, then: str, connections: int
) -> None:
    async with Asking(question, then) as proxy:
        through = f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}"
        connection = await connect("ws://127.0.0.1:9/", proxies=through, options=ASKED)
        connection.abort()
        await connection.when_closed()
        assert len(proxy.connections) == connections
        first, second = (header(head, "Proxy-Authorization") for head in proxy.heads)
        assert first is None
        assert (second or "").startswith(f'Digest username="{USER}"')
        assert 'uri="127.0.0.1:9"' in (second or "")
        assert PASSWORD not in "".join(proxy.heads)
        for raw in proxy.connections:
            await within(raw.ended())


@pytest.mark.parametrize("then", ["keep", "close", "reset"])
@pytest.mark.parametrize("unasked", [True, False])
@pytest_twisted.ensureDeferred
async def test_proxy_that_asks_for_ever_is_given_up(then: str, unasked: bool) -> None:
    """Even when it says each time that only the nonce was stale."""
    closing = b"Connection: close\r\n" if then == "close" else b""
    async with Asking(b"", then, answers=1000) as proxy:

        async def serve(raw: Raw) -> None:
            while True:
                proxy.heads.append(await raw.read_head())
                fresh = b'nonce="%d", stale=true' % len(proxy.heads)
                raw.write(QUESTION.replace(b'nonce="n"', fresh) + closing + LENGTH + b"\r\nplea")
                if then == "close":
                    raw.finish()
                    return

        proxy._script = serve
        with pytest.raises(ProxyAuthRefused) as caught:
            await connect(
                "ws://127.0.0.1:9/",
                proxies=f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}",
                options=ClientOptions(proxy_auth_unasked=unasked),
            )
        assert caught.value.status == 407
        assert len(proxy.heads) == 3
        assert len(proxy.connections) == (3 if then == "close" else 1)


@pytest_twisted.ensureDeferred
async def test_connection_that_is_always_ended_is_bad_proxy_answer() -> None:
    """It says that it keeps the connection, and never answers the second request."""

    async def script(raw: Raw) -> None:
        head = await raw.read_head()
        if header(head, "Proxy-Authorization") is None:
            raw.write(QUESTION + LENGTH + b"\r\nplea")
            await raw.read_head()
        raw.finish()

    async with RawServer(script) as proxy:
        with pytest.raises(BadProxyAnswer):
            await connect(
                "ws://127.0.0.1:9/",
                proxies=f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}",
                options=ASKED,
            )
        assert len(proxy.connections) == 2


@pytest_twisted.ensureDeferred
async def test_cancelled_between_two_connections_leaves_nothing() -> None:
    async with Asking(QUESTION + LENGTH + b"Connection: close\r\n\r\nplea", "close") as proxy:
        opening = connect(
            "ws://127.0.0.1:9/",
            proxies=f"http://{USER}:{ENCODED}@127.0.0.1:{proxy.port}",
            options=ASKED,
        )
        first: Raw = await proxy.accepted()
        await within(first.ended())
        opening.cancel()
        with pytest.raises(OpenCancelled) as caught:
            await opening
        assert caught.value.phase in {"tcp", "proxy", "handshake"}
