"""The opening handshake under full control: the bytes on the wire, and how a server is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from wsframe import GENERATED
from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.endpoints import TLSOptions
from wsframe.errors import BadHandshake, HandshakeRefused, TCPConnectFailed
from wsframe.options import ClientOptions, Deflate
from wsframe.server import serve

from .certificates import Authority
from .interop import serving, url_of
from .origins import echo
from .proxies import RecordingProxy
from .raw import RawServer, accept_raw, header, switching, within

# -------------------------------------------------------------------------------- the exact bytes


async def head_sent(**arguments: Any) -> list[str]:
    """Return the lines of the request, the key replaced, after the WebSocket has opened."""
    async with RawServer() as server:
        opening = connect(f"ws://127.0.0.1:{server.port}/x?y=z", **arguments)
        raw = await server.accepted()
        head = await raw.read_head()
        raw.write(switching(head))
        connection: Connection = await opening
        assert [f"{name}: {value}" for name, value in connection.request.headers.pairs] == (
            head.split("\r\n")[1:-2]
        )
        connection.abort()
        key = header(head, "Sec-WebSocket-Key") or "?"
        return head.replace(key, "KEY").replace(str(server.port), "PORT").split("\r\n")[:-2]


@pytest_twisted.ensureDeferred
async def test_without_arguments_the_request_says_what_it_must_and_its_name() -> None:
    assert await head_sent() == [
        "GET /x?y=z HTTP/1.1",
        "Host: 127.0.0.1:PORT",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: KEY",
        "Sec-WebSocket-Version: 13",
        "User-Agent: wsframe",
    ]


OFFER = "permessage-deflate; client_no_context_takeover; client_max_window_bits"


@pytest_twisted.ensureDeferred
async def test_order_and_case_are_the_callers() -> None:
    """Every byte of it, as a browser would send it, say; and the WebSocket opens."""
    headers = [
        ("Host", "chat.example"),
        ("connection", "keep-alive, Upgrade"),
        ("User-Agent", "Browser/1"),
        ("Upgrade", GENERATED),
        ("Origin", "https://chat.example"),
        ("sec-websocket-version", GENERATED),
        ("x-A", "1"),
        ("Cookie", "a=b; c=d"),
        ("X-a", "2"),
        ("SEC-WEBSOCKET-KEY", GENERATED),
        ("Sec-WebSocket-Protocol", GENERATED),
        ("Sec-WebSocket-Extensions", GENERATED),
    ]
    compression = Deflate(server_max_window_bits=15)
    assert await head_sent(headers=headers, subprotocols=["v2", "v1"], compression=compression) == [
        "GET /x?y=z HTTP/1.1",
        "Host: chat.example",
        "connection: keep-alive, Upgrade",
        "User-Agent: Browser/1",
        "Upgrade: websocket",
        "Origin: https://chat.example",
        "sec-websocket-version: 13",
        "x-A: 1",
        "Cookie: a=b; c=d",
        "X-a: 2",
        "SEC-WEBSOCKET-KEY: KEY",
        "Sec-WebSocket-Protocol: v2, v1",
        f"Sec-WebSocket-Extensions: {OFFER}",
    ]


@pytest_twisted.ensureDeferred
async def test_header_is_left_out() -> None:
    headers = {"user-agent": None, "Origin": None, "Sec-WebSocket-Protocol": None}
    lines = await head_sent(headers=headers, origin="https://a.example", subprotocols=["a"])
    assert [line.partition(":")[0] for line in lines[1:]] == [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
    ]


@pytest.mark.parametrize(
    "name", ["Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host"]
)
@pytest_twisted.ensureDeferred
async def test_what_a_server_makes_of_a_missing_header_can_be_seen(name: str) -> None:
    """That is what leaving out what RFC 6455 asks for is good for; our own server refuses."""
    async with serving() as (_, url, _handled):
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url, headers={name: None})
        assert caught.value.status in {400, 426}
        assert caught.value.body


@pytest.mark.parametrize("key", ["dGhlIHNhbXBsZSBub25jZQ==", "x3JJHMbDL1EzLkh9GBhXDw=="])
@pytest_twisted.ensureDeferred
async def test_key_of_ones_own_is_what_the_answer_is_checked_against(key: str) -> None:
    assert "Sec-WebSocket-Key: KEY" in await head_sent(headers={"Sec-WebSocket-Key": key})


@pytest_twisted.ensureDeferred
async def test_credentials_of_the_uri_are_a_header_like_the_others() -> None:
    """They are generated, so that they can be placed, replaced and left out."""
    async with RawServer() as server:
        for headers, expected in (
            (None, "Basic dTpw"),
            ([("authorization", GENERATED)], "Basic dTpw"),
            ({"Authorization": "Bearer x"}, "Bearer x"),
            ({"Authorization": None}, None),
        ):
            uri = f"ws://u:p@127.0.0.1:{server.port}/"
            opening = connect(uri, headers=headers)
            raw = await server.accepted()
            head = await raw.read_head()
            assert header(head, "Authorization") == expected
            raw.write(switching(head))
            (await opening).abort()


@pytest.mark.parametrize(
    ("name", "value"),
    [("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Extensions", "permessage-deflate")],
)
@pytest_twisted.ensureDeferred
async def test_answer_to_what_was_left_out_is_no_answer(name: str, value: str) -> None:
    async with RawServer() as server:
        opening = connect(
            f"ws://127.0.0.1:{server.port}/",
            subprotocols=["a"],
            compression=Deflate(),
            headers={name: None},
        )
        raw = await server.accepted()
        raw.write(switching(await raw.read_head(), f"{name}: {value}"))
        with pytest.raises(BadHandshake, match="not offered"):
            await opening


# ----------------------------------------------------------------------------------- Unix sockets


def unix_uri(path: Path, rest: str = "/") -> str:
    return f"ws+unix://{str(path).replace('/', '%2F')}{rest}"


@pytest_twisted.ensureDeferred
async def test_server_on_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    async with (
        serve(echo, f"unix:{path}") as _,
        connect(unix_uri(path, "/chat?room=1"), proxies="http://127.0.0.1:9") as connection,
    ):
        await connection.send("locally")
        assert await connection.recv() == "locally"
        assert connection.request.headers["Host"] == "localhost"
        assert connection.request.target == "/chat?room=1"
        assert connection.uri is not None
        assert connection.uri.unix_path == str(path)


@pytest_twisted.ensureDeferred
async def test_unix_socket_that_is_not_there_is_tcp_connect_failed(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with pytest.raises(TCPConnectFailed, match=r"none\.sock"):
        await connect(unix_uri(path))


@pytest_twisted.ensureDeferred
async def test_tls_over_a_unix_socket_verifies_localhost(tmp_path: Path) -> None:
    from twisted.internet import reactor
    from twisted.internet.endpoints import UNIXServerEndpoint
    from twisted.protocols.tls import TLSMemoryBIOFactory

    authority = Authority()
    path = tmp_path / "app.sock"
    certificate = authority.issue("localhost")

    class Listening:
        """Twisted has no server endpoint for TLS over a Unix socket."""

        def listen(self, factory: Any) -> Any:
            wrapped = TLSMemoryBIOFactory(certificate, False, factory)
            return UNIXServerEndpoint(reactor, str(path)).listen(wrapped)

    uri = unix_uri(path).replace("ws+", "wss+")
    async with (
        serve(echo, Listening()),  # type: ignore[arg-type]
        connect(uri, tls=TLSOptions(ca=authority.pem)) as connection,
    ):
        await connection.send("safely")
        assert await connection.recv() == "safely"
    assert certificate.names == ["localhost"]


# ------------------------------------------------------------------------------------ bind address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest_twisted.ensureDeferred
async def test_client_comes_from_the_address_it_binds_to(host: str) -> None:
    async with serving() as (server, _, handled):
        url = url_of(server).replace("127.0.0.1", host)
        async with connect(url, bind_address=("127.0.0.2", 0)):
            connection = await handled.next()
            assert connection.peer.startswith("tcp4:127.0.0.2:")


@pytest_twisted.ensureDeferred
async def test_first_hop_is_the_one_that_binds() -> None:
    async with (
        serving() as (_, url, handled),
        RecordingProxy() as proxy,
        connect(url, proxies=proxy.url, bind_address=("127.0.0.2", 0)),
    ):
        transport: Any = proxy.connections[0].transport
        assert transport.getPeer().host == "127.0.0.2"
        connection = await handled.next()
        assert connection.peer.startswith("tcp4:127.0.0.1:")


# Twisted leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest_twisted.ensureDeferred
async def test_address_that_is_not_ours_is_tcp_connect_failed() -> None:
    async with RawServer() as server:
        with pytest.raises(TCPConnectFailed):
            await connect(f"ws://127.0.0.1:{server.port}/", bind_address=("192.0.2.1", 0))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "0"), (None, 0), ("a.example", 0)],
)
def test_what_cannot_be_bound_to_is_refused_at_once(address: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="bind_address"):
        connect("ws://127.0.0.1:9/", bind_address=address)


# --------------------------------------------------------------------------------------- refusals


@pytest_twisted.ensureDeferred
async def test_refusal_has_status_headers_and_body() -> None:
    async with RawServer() as server:
        opening = connect(f"ws://127.0.0.1:{server.port}/")
        raw = await server.accepted()
        await raw.read_head()
        raw.write(
            b"HTTP/1.1 401 Who are you\r\nX-a: 1\r\nx-A: 2\r\nContent-Length: 9\r\n\r\nno token\n"
        )
        with pytest.raises(HandshakeRefused, match="401 Unauthorized") as caught:
            await opening
        error = caught.value
        assert (error.status, error.reason, error.body) == (401, "Who are you", b"no token\n")
        assert error.headers[:2] == (("X-a", "1"), ("x-A", "2"))


@pytest_twisted.ensureDeferred
async def test_service_takes_the_same_arguments() -> None:
    """Each of them is for every connection."""
    from wsframe.client import WebSocketClientService

    async with RawServer() as server:
        service = WebSocketClientService(
            f"ws://127.0.0.1:{server.port}/",
            lambda connection: connection.when_closed(),
            headers=[("Host", "first.example"), ("User-Agent", None)],
            compression=Deflate(),
            bind_address=("127.0.0.2", 0),
            options=ClientOptions(max_redirects=1),
        )
        service.startService()
        raw = await accept_raw(server)
        transport: Any = raw.transport
        assert transport.getPeer().host == "127.0.0.2"
        connection = await within(service.when_open())
        names = [name for name, _ in connection.request.headers.pairs]
        assert (names[0], names[-1]) == ("Host", "Sec-WebSocket-Extensions")
        assert "User-Agent" not in names
        stopped = service.stopService()
        await raw.read_close()
        raw.finish()
        await within(stopped)
