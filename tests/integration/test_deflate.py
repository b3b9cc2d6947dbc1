"""permessage-deflate: what is agreed on, what is compressed, and with whom it works."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.errors import BadHandshake
from wsframe.options import ClientOptions, Deflate, ServerOptions
from wsframe.resource import WebSocketResource
from wsframe.server import WebSocketServerService, serve

from .interop import LISTEN, serving
from .peers import Peer, node_peer, websockets_peer
from .raw import Raw, RawServer, connect_raw, frame, header, mix, switching, upgrade

EXTENSIONS = "Sec-WebSocket-Extensions"
BY_DEFAULT = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
LARGEST = Deflate(client_max_window_bits=15, server_max_window_bits=15)
TEXT = "the same words again and again, " * 40


def inflate(payload: bytes, bits: int = 15) -> bytes:
    return zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff")


def deflated(payload: bytes) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (press.compress(payload) + press.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


# ----------------------------------------------------------------------------- what is agreed on


@pytest.mark.parametrize(
    ("compression", "offer"),
    [
        (None, None),
        (LARGEST, BY_DEFAULT),
        (
            Deflate(server_no_context_takeover=True, server_max_window_bits=10),
            f"{BY_DEFAULT}; server_no_context_takeover; server_max_window_bits=10",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_client_offers_what_it_was_told_to(
    compression: Deflate | None, offer: str | None
) -> None:
    """And goes on without it where the server does not take it."""
    async with RawServer() as server:
        opening = connect(f"ws://127.0.0.1:{server.port}/", compression=compression)
        raw = await server.accepted()
        head = await raw.read_head()
        assert header(head, EXTENSIONS) == offer
        raw.write(switching(head))
        connection = await opening
        await connection.send(TEXT)
        assert await raw.read_frame() == (1, TEXT.encode())
        connection.abort()


@pytest.mark.parametrize(
    ("compression", "answer"),
    [
        (Deflate(server_no_context_takeover=True), "permessage-deflate; server_max_window_bits=12"),
        (Deflate(), "permessage-deflate"),
        (Deflate(), "permessage-deflate; server_max_window_bits=13"),
        (Deflate(), "permessage-deflate; server_max_window_bits=7"),
        (Deflate(), "permessage-deflate; unheard_of"),
        (Deflate(), "permessage-deflate; server_max_window_bits=12, permessage-deflate"),
        (Deflate(), "permessage-bzip2"),
        (None, "permessage-deflate"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_answer_that_does_not_keep_to_the_offer_is_refused(
    compression: Deflate | None, answer: str
) -> None:
    async with RawServer() as server:
        opening = connect(f"ws://127.0.0.1:{server.port}/", compression=compression)
        raw = await server.accepted()
        raw.write(switching(await raw.read_head(), f"{EXTENSIONS}: {answer}"))
        with pytest.raises(BadHandshake):
            await opening


@pytest.mark.parametrize(
    ("compression", "offer", "answer"),
    [
        (None, "permessage-deflate", None),
        (Deflate(), None, None),
        (Deflate(), "permessage-bzip2", None),
        (Deflate(), "permessage-deflate", "permessage-deflate"),
        (
            Deflate(),
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=12",
        ),
        (
            Deflate(client_no_context_takeover=True),
            "permessage-deflate; client_max_window_bits=11; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits=10; " + BY_DEFAULT[20:] + "=12",
        ),
        (
            LARGEST,
            "permessage-deflate; server_no_context_takeover; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_server_accepts_what_it_was_told_to(
    compression: Deflate | None, offer: str | None, answer: str | None
) -> None:
    async with serving(compression=compression) as (server, _, _handled):
        raw = await opened(server, offer)
        assert raw.answer == answer  # type: ignore[attr-defined]
        await raw.drop()


async def opened(server: Any, offer: str | None) -> Raw:
    raw = await connect_raw(server.addresses[0].port)
    raw.write(upgrade(*([f"{EXTENSIONS}: {offer}"] if offer else [])))
    head = await raw.read_head()
    assert head.startswith("HTTP/1.1 101 "), head
    raw.answer = header(head, EXTENSIONS)  # type: ignore[attr-defined]
    return raw


# ---------------------------------------------------------------------------- what is compressed


async def read_message(raw: Raw) -> tuple[bool, bytes]:
    """Take one frame; return whether it is compressed, and its payload."""
    first, second = await raw.read(2)
    length = second & 0x7F
    if length == 126:
        length = int.from_bytes(await raw.read(2))
    key = await raw.read(4) if second & 0x80 else b""
    payload = await raw.read(length)
    return bool(first & 0x40), mix(payload, key) if key else payload


@pytest.mark.parametrize("size", [99, 100])
@pytest_twisted.ensureDeferred
async def test_small_messages_are_sent_as_they_are(size: int) -> None:
    message = ("ab" * size)[:size]
    async with serving(compression=Deflate(threshold=100)) as (server, _, handled):
        raw = await opened(server, "permessage-deflate")
        connection = await handled.next()
        await connection.send(message)
        compressed, payload = await read_message(raw)
        assert compressed is (size >= 100)
        assert (inflate(payload) if compressed else payload) == message.encode()
        await raw.drop()


@pytest.mark.parametrize("takeover", [True, False])
@pytest_twisted.ensureDeferred
async def test_window_is_kept_between_messages_unless_told_otherwise(takeover: bool) -> None:
    compression = Deflate(server_no_context_takeover=not takeover, server_max_window_bits=9)
    async with serving(compression=compression) as (server, _, handled):
        raw = await opened(server, "permessage-deflate")
        connection = await handled.next()
        payloads = []
        for _ in range(2):
            await connection.send(TEXT)
            payloads.append((await read_message(raw))[1])
        assert inflate(payloads[0], 9) == TEXT.encode()
        assert (len(payloads[1]) < len(payloads[0])) is takeover
        await raw.drop()


@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_message_that_grows_beyond_the_limit_is_1009(role: str) -> None:
    """CVE-2018-1000518: a few bytes that would become many."""
    bomb = deflated(bytes(4 * 1024 * 1024))
    assert len(bomb) < 8192
    if role == "server":
        options = ServerOptions(max_message_size=10_000)
        async with serving(compression=LARGEST, options=options) as (server, _, _handled):
            raw = await opened(server, "permessage-deflate")
            raw.write(frame(2, bomb, rsv=4))
            assert (await raw.read_close())[0] == 1009
            await raw.drop()
        return
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            compression=LARGEST,
            options=ClientOptions(max_message_size=10_000),
        )
        raw = await server.accepted()
        raw.write(switching(await raw.read_head(), f"{EXTENSIONS}: permessage-deflate"))
        connection: Connection = await opening
        raw.write(frame(2, bomb, rsv=4, masked=False))
        assert (await raw.read_close())[0] == 1009
        raw.finish()
        assert (await connection.when_closed()).code == 1009


@pytest_twisted.ensureDeferred
async def test_compressed_message_where_nothing_was_agreed_on_is_1002() -> None:
    async with serving(compression=LARGEST) as (server, _, _handled):
        raw = await opened(server, None)
        raw.write(frame(1, deflated(b"hello"), rsv=4))
        assert (await raw.read_close())[0] == 1002
        await raw.drop()


@pytest.mark.parametrize("ours", [Deflate(), LARGEST, Deflate(server_no_context_takeover=True)])
@pytest_twisted.ensureDeferred
async def test_both_ends_of_ours_agree(ours: Deflate) -> None:
    async with (
        serving(compression=Deflate()) as (_, url, handled),
        connect(url, compression=ours) as connection,
    ):
        there = await handled.next()
        assert (str(connection.uri), there.uri) == (url.partition("?")[0], None)
        for message in (TEXT, TEXT, "x", b"", TEXT.encode() * 100):
            await connection.send(message)
            assert await there.recv() == message
            await there.send(message)
            assert await connection.recv() == message


@pytest.mark.parametrize(
    "make",
    [
        lambda wrong: connect("ws://127.0.0.1:9/", compression=wrong),
        lambda wrong: serve(print, LISTEN, compression=wrong),
        lambda wrong: WebSocketServerService(print, LISTEN, compression=wrong),
        lambda wrong: WebSocketResource(print, compression=wrong),
    ],
    ids=["connect", "serve", "service", "resource"],
)
def test_what_is_no_deflate_is_refused_at_once(make: Any) -> None:
    with pytest.raises(TypeError, match="compression is a Deflate"):
        make("deflate")


# --------------------------------------------------------------------------------- with whom


@pytest.fixture(scope="module", params=["websockets", "node"])
def peer(request: Any) -> Iterator[Peer]:
    process = websockets_peer() if request.param == "websockets" else node_peer()
    yield process
    pytest_twisted.blockon(defer.ensureDeferred(process.stop()))


@pytest.mark.parametrize(
    "compression",
    [
        Deflate(),
        LARGEST,
        Deflate(client_no_context_takeover=True, server_no_context_takeover=True, mem_level=1),
        Deflate(client_max_window_bits=9, server_max_window_bits=9, threshold=0),
    ],
    ids=["default", "largest", "no takeover", "smallest"],
)
@pytest.mark.parametrize("role", ["client", "server"])
@pytest_twisted.ensureDeferred
async def test_peer_understands_and_is_understood(
    peer: Peer, role: str, compression: Deflate
) -> None:
    if role == "client":
        listening = await peer("listen", deflate=True)
        connection = await connect(f"ws://127.0.0.1:{listening['port']}/", compression=compression)
        await peer("accepted")
        assert connection.response.headers[EXTENSIONS].startswith("permessage-deflate")
        await exchange(peer, connection)
        return
    async with serving(compression=compression) as (_, url, handled):
        about = await peer("open", url=url)
        assert about["headers"][EXTENSIONS.lower()].startswith("permessage-deflate")
        await exchange(peer, await handled.next())


async def exchange(peer: Peer, connection: Connection) -> None:
    for message in (TEXT, TEXT, "x", TEXT * 40):
        await connection.send(message)
        received = await peer("recv")
        assert (received["size"], received["text"]) == (len(message), message[:1000])
        await peer("send", text=message)
        assert await connection.recv() == message
    closed = peer("closed")
    await connection.close()
    assert (await closed)["code"] == 1000
