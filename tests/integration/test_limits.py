"""Bad input, to an open connection and to the opening handshake: refused, and by its code."""

from __future__ import annotations

import re
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
import pytest_twisted
from autobahn.websocket.compress import PerMessageDeflateOfferAccept
from twisted.internet.endpoints import TCP4ServerEndpoint

from wsframe.client import connect
from wsframe.core.http import Request
from wsframe.errors import HandshakeRefused
from wsframe.options import ServerOptions
from wsframe.protocol import WebSocketServerFactory, WebSocketServerProtocol

from .interop import serving
from .raw import Raw, connect_raw, frame, open_raw, turns, upgrade, within
from .test_close import ROLES, Both, pair

# ------------------------------------------------------------------ frames


async def closed_with(both: Both, code: int) -> str:
    """See that both sides know of the end by that code; return the reason."""
    got, reason = await both.raw.read_close()
    assert got == code, reason
    both.raw.finish()
    outcome = await within(both.ours.when_closed())
    assert (outcome.code, outcome.by) == (code, "local")
    return reason


@ROLES
@pytest.mark.parametrize("declared", [1_000_001, 2**31, 2**62])
@pytest_twisted.ensureDeferred
async def test_length_over_the_limit_is_1009_on_the_header(role: str, declared: int) -> None:
    """CVE-2026-44545: not a byte of the payload is waited for, or kept."""
    async with pair(role, max_message_size=1_000_000) as both:
        both.raw.write(both.frame(2, b"", length=declared))
        await closed_with(both, 1009)


@ROLES
@pytest_twisted.ensureDeferred
async def test_flood_behind_a_length_over_the_limit_is_not_kept(role: str) -> None:
    async with pair(role, max_message_size=1000) as both:
        both.raw.write(both.frame(2, b"", length=2**40))
        for _ in range(50):
            both.raw.write(bytes(65536))
            await turns()
        wire: Any = both.ours._wire
        assert len(wire.data) == 0
        await closed_with(both, 1009)


@ROLES
@pytest_twisted.ensureDeferred
async def test_message_of_the_limit_is_taken_and_one_byte_more_is_not(role: str) -> None:
    async with pair(role, max_message_size=1000) as both:
        both.raw.write(both.frame(2, bytes(600), fin=False) + both.frame(0, bytes(400)))
        assert await both.ours.recv(10) == bytes(1000)
        both.raw.write(both.frame(2, bytes(600), fin=False) + both.frame(0, b"", length=401))
        await closed_with(both, 1009)


@ROLES
@pytest_twisted.ensureDeferred
async def test_million_empty_fragments_are_1008(role: str) -> None:
    """CVE-2026-48779, CVE-2026-12151."""
    async with pair(role, max_fragments=100) as both:
        empty = b"\x00\x80\0\0\0\0" if both.masked else b"\x00\x00"
        both.raw.write(both.frame(1, b"", fin=False) + empty * 1_000_000)
        assert "fragments" in await closed_with(both, 1008)
        assert not both.ours._messages


@ROLES
@pytest_twisted.ensureDeferred
async def test_as_many_fragments_as_allowed_are_one_message(role: str) -> None:
    async with pair(role, max_fragments=100) as both:
        middle = both.frame(0, b"y", fin=False)
        whole = both.frame(1, b"x", fin=False) + middle * 98 + both.frame(0, b"z")
        both.raw.write(whole * 2)  # counted for each message anew
        for _ in range(2):
            assert await both.ours.recv(10) == "x" + "y" * 98 + "z"


INVALID_UTF8 = [
    [b"\xff"],
    [b"\xc0\xaf"],
    [b"\xed\xa0\x80"],
    [b"\xf4\x90\x80\x80"],
    [b"abc\xe2\x82"],
    [b"\xe2", b"\x28\xa1"],
    [b"\xf0\x9f", b"", b"\x98"],
]


@ROLES
@pytest.mark.parametrize("split", [False, True], ids=["one read", "byte by byte"])
@pytest.mark.parametrize("parts", INVALID_UTF8, ids=repr)
@pytest_twisted.ensureDeferred
async def test_invalid_utf8_is_1007(role: str, parts: list[bytes], split: bool) -> None:
    async with pair(role) as both:
        last = len(parts) - 1
        data = b"".join(
            both.frame(0 if index else 1, part, fin=index == last)
            for index, part in enumerate(parts)
        )
        if split:
            for byte in data:
                both.raw.write(bytes([byte]))
                await turns()
        else:
            both.raw.write(data)
        await closed_with(both, 1007)
        assert not both.ours._messages


@ROLES
@pytest_twisted.ensureDeferred
async def test_characters_cut_by_fragments_and_reads_are_whole(role: str) -> None:
    text = "aé€😀" * 3
    async with pair(role) as both:
        encoded = text.encode()
        parts = [encoded[n : n + 1] for n in range(len(encoded))]
        for index, part in enumerate(parts):
            data = both.frame(0 if index else 1, part, fin=index == len(parts) - 1)
            for byte in data:
                both.raw.write(bytes([byte]))
                await turns()
        assert await both.ours.recv(10) == text


def malformed(kind: str, both: Both) -> bytes:
    frames = {
        "rsv1": both.frame(1, b"x", rsv=4),
        "rsv2": both.frame(1, b"x", rsv=2),
        "rsv3": both.frame(1, b"x", rsv=1),
        "opcode 3": both.frame(3, b"x"),
        "opcode 7": both.frame(7, b"x"),
        "opcode 11": both.frame(11, b"x"),
        "opcode 15": both.frame(15, b"x"),
        "wrong masking": frame(1, b"x", masked=not both.masked),
        "ping too long": both.frame(9, bytes(126)),
        "ping in fragments": both.frame(9, b"x", fin=False),
        "close in fragments": both.frame(8, b"\x03\xe8", fin=False),
        "continuation of nothing": both.frame(0, b"x"),
        "message inside a message": both.frame(1, b"x", fin=False) + both.frame(1, b"y"),
        "16 bit length for 10 bytes": both.frame(2, bytes(10)).replace(
            bytes([both.masked << 7 | 10]), bytes([both.masked << 7 | 126, 0, 10]), 1
        ),
        "length of 2**63": bytes([0x82, both.masked << 7 | 127]) + struct.pack("!Q", 1 << 63),
    }
    # The head is complete also where a key belongs to it.
    return frames[kind] + (b"\0\0\0\0" if kind == "length of 2**63" and both.masked else b"")


@ROLES
@pytest.mark.parametrize(
    "kind",
    [
        "rsv1", "rsv2", "rsv3", "opcode 3", "opcode 7", "opcode 11", "opcode 15", "wrong masking",
        "ping too long", "ping in fragments", "close in fragments", "continuation of nothing",
        "message inside a message", "16 bit length for 10 bytes", "length of 2**63",
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_malformed_frame_is_1002_after_what_came_before(role: str, kind: str) -> None:
    async with pair(role) as both:
        both.raw.write(both.frame(1, b"good") + malformed(kind, both) + both.frame(1, b"never"))
        assert await both.ours.recv(10) == "good"
        await closed_with(both, 1002)
        assert not both.ours._messages


@pytest_twisted.ensureDeferred
async def test_masks_differ_and_are_not_of_the_seeded_generator() -> None:
    """CVE-2025-10148."""
    import random

    keys = []
    async with pair("client") as both:
        for _ in range(2):
            random.seed(1)
            await both.ours.send(bytes(4))
            head = await both.raw.read(2)
            assert head == b"\x82\x84"
            key = await both.raw.read(4)
            assert await both.raw.read(4) == key  # of zeros
            keys.append(key)
    assert keys[0] != keys[1]


def bomb(corrupt: bool) -> bytes:
    """Return 64 MiB of zeros, deflated as one message (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64))
    data += compressor.flush(zlib.Z_SYNC_FLUSH)
    return (data[:500] + b"\xff" * 500 if corrupt else data)[:-4]


@pytest.mark.parametrize("pieces", [1, 50], ids=["whole", "fragments"])
@pytest.mark.parametrize("corrupt", [False, True], ids=["bomb", "corrupt tail"])
@pytest_twisted.ensureDeferred
async def test_deflate_bomb_is_stopped_at_the_limit(corrupt: bool, pieces: int) -> None:
    """CVE-2018-1000518, GHSA-hxp9-w8x3-p566, CVE-2026-85024; deflate is on only where asked for."""
    got: list[bytes] = []

    class Server(WebSocketServerProtocol):  # type: ignore[misc]
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            got.append(payload)

    from twisted.internet import reactor

    factory = WebSocketServerFactory(options=ServerOptions(max_message_size=100_000))
    factory.noisy = False
    factory.protocol = Server
    factory.setProtocolOptions(
        perMessageCompressionAccept=lambda offers: PerMessageDeflateOfferAccept(offers[0])
    )
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    raw = await open_raw(port.getHost().port, "Sec-WebSocket-Extensions: permessage-deflate")
    data = bomb(corrupt)
    size = -(-len(data) // pieces)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    tracemalloc.start()
    try:
        for index, part in enumerate(parts):
            fin = index == len(parts) - 1
            raw.write(frame(0 if index else 2, part, fin=fin, rsv=0 if index else 4))
        code, _ = await raw.read_close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code in ({1007, 1009} if corrupt else {1009})
    assert peak < 4_000_000  # of 64 MiB
    assert got == []
    await raw.drop()
    await port.stopListening()


# ------------------------------------------------------------------ the opening handshake


class Refusals:
    """A server whose application is never reached; `ask` sends bytes and takes the answer."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, data: bytes) -> tuple[int, str, str]:
        """Return the status, the head and the body of the answer; the connection must end."""
        raw = await connect_raw(self._port)
        raw.write(data)
        answer = (await raw.read_all()).decode("latin-1")
        head, _, body = answer.partition("\r\n\r\n")
        found = re.match(r"HTTP/1\.1 (\d{3}) ", head)
        assert found, answer
        assert "\r\nConnection: " in head
        return int(found[1]), head, body


def line_is_answered(**options: Any) -> Any:
    seen: list[Request] = []
    return seen, serving(process_request=seen.append, options=ServerOptions(**options))


async def status_of(data: bytes, **options: Any) -> int:
    """Return the status that the server answers with; the application must not be asked."""
    seen, context = line_is_answered(**options)
    async with context as (server, _, _handled):
        status, _, _ = await Refusals(server.addresses[0].port).ask(data)
        assert seen == []
        assert server.connections == frozenset()
        return status


@pytest.mark.parametrize("byte", list("\0\1\n\v\f\r\x1c\x1d\x1e\x7f\x85"), ids=repr)
@pytest.mark.parametrize(
    "where", ["X-A: a{}b", "X-A: a{}X-Smuggled: b", "X-A{}: b", "Origin: http://a{}b"]
)
@pytest_twisted.ensureDeferred
async def test_control_byte_in_a_header_is_400(byte: str, where: str) -> None:
    """CVE-2026-44546."""
    assert await status_of(upgrade(where.format(byte))) == 400


@pytest.mark.parametrize("byte", ["\x00", "\x0b", "\n", "\r", "\x85", "\t", " ", "\xff"], ids=repr)
@pytest_twisted.ensureDeferred
async def test_control_byte_in_the_request_line_is_400(byte: str) -> None:
    assert await status_of(upgrade(path=f"/a{byte}b")) == 400


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["X-A: b", " folded"], 400),
        (["X-A: b", "\tfolded"], 400),
        (["X-A : b"], 400),
        ([": b"], 400),
        (["no colon"], 400),
        (["Host: other"], 400),
        (["Host: localhost"], 400),
        (["Transfer-Encoding: chunked"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Content-Length: 5"], 413),
        (["Content-Length: 0", "Content-Length: 5"], 413),
        (["Content-Length: -1"], 413),
        (["Content-Length: 0, 5"], 413),
        (["X-A: " + "a" * 17_000], 431),
        (["X-A: b"] * 100, 431),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest_twisted.ensureDeferred
async def test_head_that_is_refused(lines: list[str], status: int) -> None:
    """CVE-2022-24801, CVE-2024-37890."""
    assert await status_of(upgrade(*lines)) == status


@pytest_twisted.ensureDeferred
async def test_content_length_of_zero_is_no_body() -> None:
    async with serving() as (server, _, handled):
        raw = await open_raw(server.addresses[0].port, "Content-Length: 0")
        await handled.next()
        await raw.drop()


@pytest_twisted.ensureDeferred
async def test_missing_host_is_400() -> None:
    assert await status_of(upgrade(host=None)) == 400


@pytest.mark.parametrize("host", ["", "a b", "[::1", "a:99999", "a/b", "user@a", "a,b", "é"])
@pytest_twisted.ensureDeferred
async def test_malformed_host_is_400(host: str) -> None:
    assert await status_of(upgrade(host=host)) == 400


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest_twisted.ensureDeferred
async def test_start_that_is_no_handshake(start: bytes, status: int) -> None:
    assert await status_of(start) == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Version: 13", b"Version: 8"), 400),
        ((b"Version: 13", b"Version: x"), 400),
        ((b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), 400),
        ((b"Sec-WebSocket-Key", b"X-Key"), 400),
        ((b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        ((b"Connection: Upgrade", b"Connection: keep-alive"), 426),
    ],
    ids=repr,
)
@pytest_twisted.ensureDeferred
async def test_upgrade_that_is_not_right(change: tuple[bytes, bytes], status: int) -> None:
    async with serving() as (server, _, _handled):
        data = upgrade().replace(*change)
        got, _, _ = await Refusals(server.addresses[0].port).ask(data)  # type: ignore[attr-defined]
        assert got == status


@pytest_twisted.ensureDeferred
async def test_refusal_reaches_a_client_that_is_still_sending() -> None:
    """Closing a socket with unread bytes would reset it, and take the answer along."""
    async with serving() as (server, _, _handled):
        refusals = Refusals(server.addresses[0].port)  # type: ignore[attr-defined]
        status, _, body = await refusals.ask(upgrade("X-A: " + "a" * 3_000_000))
        assert status == 431
        assert body


@pytest_twisted.ensureDeferred
async def test_head_that_is_dripped_is_closed_at_open_timeout() -> None:
    options = ServerOptions(open_timeout=0.2)
    async with serving(options=options) as (server, _, _handled):
        raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        head = b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000
        position = 0
        while raw.lost is None:
            raw.write(head[position : position + 1])
            position += 1
            await turns(3)
        assert position < len(head)
        assert b"101" not in raw.received


@pytest_twisted.ensureDeferred
async def test_client_that_says_nothing_is_closed_at_open_timeout() -> None:
    async with serving(options=ServerOptions(open_timeout=0.05)) as (server, _, _handled):
        raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        await within(raw.ended(), 5)


@pytest_twisted.ensureDeferred
async def test_decision_that_never_comes_is_closed_at_open_timeout_and_cancelled() -> None:
    from twisted.internet import defer

    cancelled: list[object] = []

    def decide(request: Request) -> defer.Deferred[None]:
        return defer.Deferred(cancelled.append)

    options = ServerOptions(open_timeout=0.05)
    async with serving(process_request=decide, options=options) as (server, _, _handled):
        raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        raw.write(upgrade())
        await within(raw.ended(), 5)
        assert len(cancelled) == 1


@pytest_twisted.ensureDeferred
async def test_head_byte_by_byte_and_message_right_behind_it() -> None:
    async with serving() as (server, _, handled):
        raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        data = upgrade() + frame(1, b"early")
        for byte in data[:-30]:
            raw.write(bytes([byte]))
            await turns()
        raw.write(data[-30:])
        assert (await raw.read_head()).startswith("HTTP/1.1 101")
        assert await (await handled.next()).recv(10) == "early"
        await raw.drop()


ORIGINS = [
    # origin, host, options, status
    (None, "anything.example", {}, 101),
    (None, "localhost", {"require_origin": True}, 403),
    ("null", "localhost", {}, 403),
    ("http://evil.example", "localhost", {}, 403),
    ("http://localhost", "localhost", {}, 101),
    ("https://localhost", "localhost", {}, 101),
    ("http://localhost:81", "localhost", {}, 403),
    ("http://localhost.evil.example", "localhost", {}, 403),
    ("http://evil.example", "evil.example", {}, 421),  # DNS rebinding
    ("http://ours.example", "ours.example", {"hosts": ("ours.example",)}, 101),
    ("http://evil.example", "evil.example", {"hosts": ("ours.example",)}, 421),
    (None, "evil.example", {"hosts": ("ours.example",)}, 421),
    ("http://app.example", "localhost", {"origins": ("http://app.example",)}, 101),
    ("https://app.example", "localhost", {"origins": ("http://app.example",)}, 403),
    ("null", "localhost", {"origins": ("*",)}, 101),
]


@pytest.mark.parametrize(("origin", "host", "options", "status"), ORIGINS)
@pytest_twisted.ensureDeferred
async def test_origin_and_host_are_judged(
    origin: str | None, host: str, options: dict[str, Any], status: int
) -> None:
    """CVE-2019-13611: cross-site use, and DNS rebinding."""
    async with serving(options=ServerOptions(**options)) as (server, _, handled):
        raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        raw.write(upgrade(*([f"Origin: {origin}"] if origin else []), host=host))
        assert (await raw.read_head()).split(" ")[1] == str(status)
        if status == 101:
            await handled.next()
        await raw.drop()


@pytest_twisted.ensureDeferred
async def test_two_origins_are_403() -> None:
    lines = ["Origin: http://localhost", "Origin: http://localhost"]
    assert await status_of(upgrade(*lines)) == 403


@pytest_twisted.ensureDeferred
async def test_connection_over_the_limit_is_503_and_the_next_one_is_admitted() -> None:
    async with serving(options=ServerOptions(max_connections=3)) as (server, url, handled):
        clients = [await connect(url) for _ in range(3)]
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url)
        assert caught.value.status == 503
        assert "Retry-After" in dict(caught.value.headers)
        silent: Raw = await connect_raw(server.addresses[0].port)  # type: ignore[attr-defined]
        assert (await silent.read_head()).startswith("HTTP/1.1 503")
        await silent.drop()
        await clients.pop().close()
        clients.append(await connect(url))
        for _ in range(4):
            await handled.next()
        for client in clients:
            await client.send("all of them work")
            await client.close()


@pytest.mark.parametrize("status", [300, 302, 400, 401, 403, 404, 408, 426, 429, 500, 503, 599])
@pytest_twisted.ensureDeferred
async def test_refusal_of_the_application_reaches_the_client_whole(status: int) -> None:
    from wsframe.errors import Reject

    def judge(request: Request) -> None:
        raise Reject(status, "the whole text", {"Retry-After": "7"})

    async with serving(process_request=judge) as (_, url, _handled):
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url)
        assert caught.value.status == status
        assert caught.value.body == b"the whole text\n"
        assert ("Retry-After", "7") in caught.value.headers


@pytest_twisted.ensureDeferred
async def test_process_request_that_raises_is_500_and_says_nothing() -> None:
    def judge(request: Request) -> None:
        raise ValueError("planted secret")

    async with serving(process_request=judge) as (_, url, _handled):
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url)
        assert caught.value.status == 500
        assert b"planted" not in caught.value.body


@pytest_twisted.ensureDeferred
async def test_far_over_the_limit_clients_are_cut_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are being told 503 are bounded, too; so are the file descriptors they hold."""
    monkeypatch.setattr("wsframe.protocol.server.TURNED_AWAY", 1)
    async with serving(options=ServerOptions(max_connections=1)) as (server, url, handled):
        client = await connect(url)
        await handled.next()
        port: int = server.addresses[0].port  # type: ignore[attr-defined]
        told, cut = await connect_raw(port), await connect_raw(port)
        assert (await told.read_head()).startswith("HTTP/1.1 503")
        assert await cut.read_all() == b""
        await told.drop()
        await client.close()
