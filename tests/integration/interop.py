"""The core set of an interoperability test, the same with every peer, in both directions.

A subclass in a test module of its own gives the fixture `peer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from wsframe.client import connect
from wsframe.connection import Connection, State
from wsframe.core.http import Request
from wsframe.errors import (
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeRefused,
    Reject,
)
from wsframe.options import ClientOptions, ServerOptions
from wsframe.server import Server, serve

from .peers import Peer
from .raw import within

MIB = 1024 * 1024
TEXT = "Grüße, 世界 🌍"
LISTEN = "tcp:0:interface=127.0.0.1"


def digest(message: str | bytes) -> str:
    data = message.encode() if isinstance(message, str) else message
    return hashlib.sha256(data).hexdigest()


class Handled:
    """A handler that gives its connections to the test, and lets it end them."""

    def __init__(self) -> None:
        self._queue: defer.DeferredQueue[Connection] = defer.DeferredQueue()

    async def __call__(self, connection: Connection) -> None:
        self._queue.put(connection)
        await connection.when_closed()

    def next(self) -> Any:
        return within(self._queue.get())


@asynccontextmanager
async def serving(**arguments: Any) -> AsyncIterator[tuple[Server, str, Handled]]:
    handled = Handled()
    async with serve(handled, LISTEN, **arguments) as server:
        yield server, url_of(server), handled


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.addresses[0].port}/chat?room=1"  # type: ignore[attr-defined]


class Pair:
    """A wsframe connection, and the peer at its other end."""

    def __init__(self, ours: Connection, about: dict[str, Any]) -> None:
        self.ours = ours
        self.about = about


class CoreSet:
    """What any two implementations must agree on; `role` is wsframe's."""

    @pytest.fixture
    def peer(self) -> Peer:
        raise NotImplementedError

    @asynccontextmanager
    async def pair(
        self,
        peer: Peer,
        role: str,
        *,
        ours: dict[str, Any] | None = None,
        theirs: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        subprotocols: tuple[list[str], list[str]] = ([], []),
    ) -> AsyncIterator[Pair]:
        """Open a connection. `subprotocols` are the client's and the server's."""
        offered, spoken = subprotocols
        if role == "client":
            listening = await peer("listen", subprotocols=spoken or None, **(theirs or {}))
            connection = await connect(
                f"ws://127.0.0.1:{listening['port']}/chat?room=1",
                headers=headers,
                subprotocols=offered,
                options=ClientOptions(**(ours or {})),
            )
            about = await peer("accepted")
            yield Pair(connection, about)
            await connection.close()
            return
        options = ServerOptions(subprotocols=tuple(spoken), **(ours or {}))
        async with serving(options=options) as (_, url, handled):
            about = await peer(
                "open", url=url, subprotocols=offered, headers=headers or {}, **(theirs or {})
            )
            yield Pair(await handled.next(), about)

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest.mark.parametrize("message", [TEXT, b"\x00\xff\x80", "", b""], ids=repr)
    @pytest_twisted.ensureDeferred
    async def test_message_arrives_as_sent_in_both_directions(
        self, peer: Peer, role: str, message: str | bytes
    ) -> None:
        async with self.pair(peer, role) as pair:
            await pair.ours.send(message)
            got = await peer("recv")
            kind = "text" if isinstance(message, str) else "binary"
            assert (got["kind"], got["sha"]) == (kind, digest(message))
            if isinstance(message, str):
                await peer("send", text=message)
            else:
                await peer("send", hex=message.hex())
            assert await pair.ours.recv() == message

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_message_of_1_mib_in_both_directions(self, peer: Peer, role: str) -> None:
        message = bytes(range(256)) * (MIB // 256)
        async with self.pair(peer, role) as pair:
            await pair.ours.send(message)
            got = await peer("recv")
            assert (got["size"], got["sha"]) == (MIB, digest(message))
            await peer("send", size=MIB)
            assert await pair.ours.recv() == bytes(MIB)

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_fragments_of_the_peer_become_one_message(self, peer: Peer, role: str) -> None:
        parts = [TEXT, "", " and ", TEXT]
        async with self.pair(peer, role) as pair:
            await peer("send", parts=parts)
            assert await pair.ours.recv() == "".join(parts)

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_our_fragments_become_one_message(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            wire: Any = pair.ours._wire
            wire.sendMessage(TEXT.encode(), False, fragmentSize=3)  # cuts characters, too
            assert (await peer("recv"))["text"] == TEXT

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_ping_is_answered_in_both_directions(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            await peer("ping", text="are you there?")
            rtt = await pair.ours.ping(b"and you?")
            assert 0 <= rtt < 10
            assert pair.ours.latency == rtt

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_subprotocol_is_agreed_on(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role, subprotocols=(["v1", "v2"], ["v2"])) as pair:
            assert pair.ours.subprotocol == pair.about["subprotocol"] == "v2"

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_headers_target_and_host_arrive(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role, headers={"X-Tenant": "blue"}) as pair:
            if role == "client":
                assert pair.about["headers"]["x-tenant"] == "blue"
                assert pair.about["path"] == "/chat?room=1"
            else:
                request = pair.ours.request
                assert request.headers["X-Tenant"] == "blue"
                assert (request.path, request.query) == ("/chat", "room=1")

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_close_of_this_side_is_clean(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            closing = pair.ours.close(4321, TEXT)
            assert await peer("closed") == {"code": 4321, "reason": TEXT}
            await closing
            outcome = await pair.ours.when_closed()
            assert (outcome.code, outcome.reason) == (4321, TEXT)
            assert (outcome.by, outcome.clean) == ("local", True)

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_close_of_the_peer_is_clean(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            theirs = peer("close", code=3456, reason=TEXT)
            with pytest.raises(ConnectionClosedError) as caught:
                await pair.ours.recv()
            assert (caught.value.code, caught.value.reason) == (3456, TEXT)
            assert (caught.value.by, caught.value.clean) == ("remote", True)
            assert (await theirs)["code"] == 3456

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_normal_close_ends_an_iteration(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            await peer("send", text="last")
            theirs = peer("close", code=1000)
            assert [message async for message in pair.ours] == ["last"]
            with pytest.raises(ConnectionClosedOK):
                await pair.ours.send("late")
            await theirs

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_peer_that_aborts_is_1006(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            await peer("abort")
            with pytest.raises(ConnectionClosedError) as caught:
                await pair.ours.recv()
            assert (caught.value.code, caught.value.by, caught.value.clean) == (1006, None, False)
            assert pair.ours.state is State.CLOSED

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_too_large_for_us_tells_the_peer_1009(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role, ours={"max_message_size": 1000}) as pair:
            sent = peer("send", size=1001)
            assert (await peer("closed"))["code"] == 1009
            await sent
            outcome = await pair.ours.when_closed()
            assert (outcome.code, outcome.by) == (1009, "local")

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_too_large_for_the_peer_tells_us_1009(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role, theirs={"max_size": 1000}) as pair:
            await pair.ours.send(bytes(1001))
            with pytest.raises(ConnectionClosedError) as caught:
                await pair.ours.recv()
            assert (caught.value.code, caught.value.by) == (1009, "remote")

    @pytest.mark.parametrize("role", ["client", "server"])
    @pytest_twisted.ensureDeferred
    async def test_invalid_utf8_tells_the_peer_1007(self, peer: Peer, role: str) -> None:
        async with self.pair(peer, role) as pair:
            await peer("send", hex="6869ff", as_text=True)
            assert (await peer("closed"))["code"] == 1007
            assert (await pair.ours.when_closed()).code == 1007

    @pytest_twisted.ensureDeferred
    async def test_wrong_token_at_the_peer_is_handshake_refused(self, peer: Peer) -> None:
        port = (await peer("listen", token="right"))["port"]
        url = f"ws://127.0.0.1:{port}/"
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url, headers={"Authorization": "Bearer wrong"})
        assert (caught.value.status, caught.value.phase) == (401, "handshake")
        async with connect(url, headers={"Authorization": "Bearer right"}):
            await peer("accepted")

    @pytest_twisted.ensureDeferred
    async def test_wrong_token_at_our_server_is_401(self, peer: Peer) -> None:
        def judge(request: Request) -> None:
            if request.headers.get("Authorization") != "Bearer right":
                raise Reject(401, "wrong token")

        async with serving(process_request=judge) as (_, url, handled):
            refused = await peer("open", url=url, headers={"Authorization": "Bearer wrong"})
            assert refused == {"refused": 401}
            await peer("open", url=url, headers={"Authorization": "Bearer right"})
            await handled.next()
