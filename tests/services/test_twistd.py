"""The services as `twistd` runs them: real processes, real sockets, real signals."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port, websockets_peer
from integration.raw import (
    RawServer,
    accept_raw,
    close_frame,
    connect_raw,
    eventually,
    open_raw,
    switching,
    turns,
    upgrade,
    within,
)
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol

from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.endpoints import TLSOptions
from wsframe.errors import ConnectionClosed, HandshakeRefused

from .processes import (
    LOCAL,
    TERMINATED,
    TOKEN,
    Listening,
    Process,
    get,
    running,
    service,
    token_file,
    try_upgrade,
    twistd,
)
from .test_options import certificate

LISTENING = ["ws-echo", "ws-broadcast", "ws-monitor"]
PATHS = {"ws-echo": "/", "ws-broadcast": "/", "ws-monitor": "/feed"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


async def expect_close(connection: Connection) -> ConnectionClosed:
    """Read up to the end of the connection; return what it was."""
    while True:
        try:
            await within(connection.recv())
        except ConnectionClosed as error:
            return error


# ---------------------------------------------------------------- what they do


@pytest.mark.parametrize("name", LISTENING)
@pytest_twisted.ensureDeferred
async def test_it_starts_answers_healthz_and_ends(name: str) -> None:
    async with running(name) as this:
        status, head, body = await get(this.port, "/healthz")
        assert (status, body) == (200, "ok\n")
        assert "Server:" not in head
        assert (await get(this.port, "/nothing/here"))[0] == 404
        assert (await get(this.port, "/healthz/"))[0] == 404
        expected = 200 if name == "ws-monitor" else 426
        assert (await get(this.port, "/"))[0] == expected
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
        assert "Traceback" not in this.process.output


@pytest_twisted.ensureDeferred
async def test_echo_sends_back_text_and_binary() -> None:
    peer = websockets_peer()
    try:
        async with running("ws-echo") as this:
            await peer("open", url=this.url())
            await peer("send", text="Grüße, 世界\x00")
            assert (await peer("recv"))["text"] == "Grüße, 世界\x00"
            await peer("send", hex="00ff80")
            answer = await peer("recv")
            assert (answer["kind"], answer["size"]) == ("binary", 3)
            await peer("send", size=1024 * 1024)
            assert (await peer("recv"))["size"] == 1024 * 1024
            await peer("send", size=1024 * 1024 + 1)
            assert (await peer("closed"))["code"] == 1009
    finally:
        await peer.stop()


@pytest_twisted.ensureDeferred
async def test_max_message_size_is_what_it_says() -> None:
    async with (
        running("ws-echo", "--max-message-size", "5") as this,
        connect(this.url()) as connection,
    ):
        await connection.send("12345")
        assert await within(connection.recv()) == "12345"
        await connection.send("123456")
        assert (await expect_close(connection)).code == 1009


@pytest_twisted.ensureDeferred
async def test_broadcast_sends_to_all_others_text_as_text_and_binary_as_binary() -> None:
    peer = websockets_peer()
    try:
        async with running("ws-broadcast") as this:
            await peer("open", url=this.url())
            async with connect(this.url()) as first, connect(this.url()) as second:
                # Who has been answered is a member: the echo of a ping comes after its handler.
                for connection in (first, second):
                    await within(connection.ping())
                await peer("ping", text="here")
                await first.send("text")
                assert await within(second.recv()) == "text"
                answer = await peer("recv")
                assert (answer["kind"], answer["text"]) == ("text", "text")
                await second.send(b"\x00\xff")
                assert await within(first.recv()) == b"\x00\xff"
                assert (await peer("recv"))["kind"] == "binary"
                await peer("send", text="from the peer")
                assert await within(first.recv()) == "from the peer"
                # Had anyone been sent its own message, it would have come before.
                assert await within(second.recv()) == "from the peer"
                await second.close()
                await first.send("after")
                assert (await peer("recv"))["text"] == "after"
    finally:
        await peer.stop()


@pytest_twisted.ensureDeferred
async def test_keepalive_finds_a_client_that_is_gone() -> None:
    arguments = ("--ping-interval", "0.1", "--ping-timeout", "0.1")
    async with running("ws-echo", *arguments) as this:
        raw = await open_raw(this.port)
        assert (await raw.read_frame())[0] == 9
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_origin_admits_pages_of_that_site_alone() -> None:
    async with running("ws-echo", "--origin", "https://app.example") as this:
        for origin, status in (
            ("https://app.example", 101),
            ("https://other.example", 403),
            (f"http://127.0.0.1:{this.port}", 101),
            (f"http://127.0.0.1:{this.port + 1}", 403),
            ("null", 403),
        ):
            host = f"127.0.0.1:{this.port}"
            raw = await connect_raw(this.port)
            raw.write(upgrade(f"Origin: {origin}", host=host))
            head = await raw.read_head()
            assert head.split(" ")[1] == str(status), origin
            await raw.drop()


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("name", LISTENING)
@pytest_twisted.ensureDeferred
async def test_with_a_token_file_a_token_is_needed(name: str, tmp_path: Path) -> None:
    path = PATHS[name]
    async with running(name, "--token-file", token_file(tmp_path)) as this:
        for headers, expected, challenge in (
            ((), 401, 'Bearer realm="wsframe"'),
            (
                (f"Authorization: Bearer {TOKEN}x",),
                401,
                'Bearer realm="wsframe", error="invalid_token"',
            ),
            (("X-Monitor-Token: wrong",), 401, 'Bearer realm="wsframe", error="invalid_token"'),
            ((f"Authorization: Bearer {TOKEN}",), 101, None),
            ((f"Authorization: bearer {TOKEN}",), 101, None),
            ((f"X-Monitor-Token: {TOKEN}",), 101, None),
        ):
            status, given, raw = await try_upgrade(this.port, path, *headers)
            assert (status, given) == (expected, challenge)
            await raw.drop()
        assert (await get(this.port, "/healthz"))[0] == 200
        assert (await get(this.port, "/nothing"))[0] == 404
        if name == "ws-monitor":
            assert (await get(this.port, "/"))[0] == 200
            assert (await try_upgrade(this.port, "/agent"))[0] == 401
            # Written otherwise it is the same path.
            assert (await try_upgrade(this.port, "/%61gent"))[0] == 401
            for other in ("//agent", "/agent/", "/AGENT", "/./agent", "/agent%00", "/feed;x"):
                assert (await try_upgrade(this.port, other))[0] == 404
        assert TOKEN not in this.process.output
        assert "Refused 'tcp4:127.0.0.1:" in this.process.output


@pytest_twisted.ensureDeferred
async def test_tokens_of_a_file_that_is_public_are_not_used(tmp_path: Path) -> None:
    path = token_file(tmp_path)
    Path(path).chmod(0o644)
    process = service("ws-echo", "--token-file", path)
    assert await process.ended() == 1
    assert re.search(r"--token-file: .*mode 644", process.output)
    assert "Traceback" not in process.output
    assert TOKEN not in process.output


# ---------------------------------------------------------------- where they listen


@pytest_twisted.ensureDeferred
async def test_over_tls(tmp_path: Path) -> None:
    pem = tmp_path / "both.pem"
    certificate(pem)
    port = free_port()
    listen = f"ssl:{port}:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
    process = service("ws-echo", "--listen", listen)
    try:
        await process.says("Listening on")
        # As every browser does, ours offers a protocol (ALPN), and TLS agrees on it.
        url, tls = f"wss://localhost:{port}/", TLSOptions(ca=str(pem))
        async with connect(url, tls=tls) as connection:
            await connection.send("over TLS")
            assert await within(connection.recv()) == "over TLS"
            process.signal(signal.SIGTERM)
            assert (await expect_close(connection)).code == 1001
        assert await process.ended() in TERMINATED
    finally:
        await process.kill()


@pytest_twisted.ensureDeferred
async def test_on_a_unix_socket_and_a_port_at_once(tmp_path: Path) -> None:
    from integration.raw import Raw
    from twisted.internet import reactor

    path = str(tmp_path / "socket")
    async with running("ws-broadcast", "--listen", f"unix:{path}") as this:
        await this.process.says(re.escape(path))
        raw = await within(connectProtocol(UNIXClientEndpoint(reactor, path), Raw()))
        raw.write(upgrade())
        assert (await raw.read_head()).startswith("HTTP/1.1 101 ")
        await turns(3)
        async with connect(this.url()) as connection:
            await connection.send("across")
            assert await raw.read_frame() == (1, b"across")
            this.process.signal(signal.SIGTERM)
            assert (await expect_close(connection)).code == 1001
        assert (await raw.read_close())[0] == 1001
        raw.write(close_frame(1001))
        assert await this.process.ended() in TERMINATED
        assert not Path(path).exists()


@pytest_twisted.ensureDeferred
async def test_two_ports_are_one_service() -> None:
    second = free_port()
    async with running("ws-broadcast", "--listen", LOCAL.format(port=second)) as this:
        await this.process.says(f"port={second}")
        async with connect(this.url()) as one, connect(f"ws://127.0.0.1:{second}/") as other:
            await within(one.ping())
            await other.send("across")
            assert await within(one.recv()) == "across"


@pytest.mark.parametrize("order", ["only", "first", "second"])
@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_ends_it_with_a_message(order: str) -> None:
    async with running("ws-echo") as other:
        taken, free = LOCAL.format(port=other.port), LOCAL.format(port=free_port())
        listen = {"only": [taken], "first": [taken, free], "second": [free, taken]}[order]
        process = service("ws-echo", *(part for one in listen for part in ("--listen", one)))
        try:
            assert await process.ended() == 1
        finally:
            await process.kill()
        text = rf"Cannot listen: Couldn't listen on 127.0.0.1:{other.port}: .*in use"
        assert len(re.findall(text, process.output)) == 1
        # The other one's clients notice nothing.
        assert (await get(other.port, "/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("listen", "text"),
    [("tcp:0", "without --token-file"), ("nothing:0", "nothing"), ("haproxy:tcp:0", "reachable")],
)
@pytest_twisted.ensureDeferred
async def test_what_it_may_not_listen_on_ends_it_with_a_message(listen: str, text: str) -> None:
    process = service("ws-echo", "--listen", listen)
    try:
        assert await process.ended() == 1
    finally:
        await process.kill()
    assert text in process.output


# ---------------------------------------------------------------- how they end


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, signal.SIGTERM) for name in LISTENING), ("ws-echo", signal.SIGINT)],
)
@pytest_twisted.ensureDeferred
async def test_a_signal_closes_every_client_with_1001(name: str, number: int) -> None:
    async with running(name) as this:
        clients = [await connect(this.url(PATHS[name])) for _ in range(5)]
        half = await connect_raw(this.port)
        half.write(b"GET / HTTP/1.1\r\n")
        await within(clients[0].ping())
        began = time.monotonic()
        this.process.signal(number)
        for client in clients:
            error = await expect_close(client)
            assert (error.code, error.by, error.clean) == (1001, "remote", True)
        status = await this.process.ended()
        took = time.monotonic() - began
        await half.drop()
        print(f"{name} ended {took:.2f} s after the signal")
        assert status in {0, -number}
        assert took < 5, f"it took {took:.2f} s"
        assert "Traceback" not in this.process.output
        assert "did not end in time" not in this.process.output
        with pytest.raises(Exception, match="refused"):
            await connect_raw(this.port)


@pytest_twisted.ensureDeferred
async def test_what_was_sent_before_the_signal_is_still_answered() -> None:
    async with running("ws-echo") as this:
        async with connect(this.url()) as connection:
            await within(connection.ping())
            for number in range(100):
                await connection.send(str(number))
            # Its answer says that all before it is answered, too.
            assert await within(connection.recv()) == "0"
            this.process.signal(signal.SIGTERM)
            received = ["0", *[message async for message in connection]]
            assert connection.close_code == 1001
        assert received == [str(number) for number in range(len(received))]
        assert await this.process.ended() in TERMINATED


@pytest_twisted.ensureDeferred
async def test_a_second_signal_is_immediate() -> None:
    """While a client refuses to close: the drain alone would take ten seconds."""
    async with running("ws-echo") as this:
        raw = await open_raw(this.port)
        this.process.signal(signal.SIGTERM)
        assert (await raw.read_close())[0] == 1001
        # It is still there, and waits.
        assert this.process.status is None
        began = time.monotonic()
        this.process.signal(signal.SIGTERM)
        status = await this.process.ended()
        took = time.monotonic() - began
        assert status in TERMINATED
        assert took < 5, f"it took {took:.2f} s"
        assert "every connection is cut" in this.process.output
        await within(raw.ended())


@pytest_twisted.ensureDeferred
async def test_a_client_that_refuses_to_close_is_not_waited_for_longer_than_the_deadline() -> None:
    async with running("ws-echo") as this:
        raw = await open_raw(this.port)
        began = time.monotonic()
        this.process.signal(signal.SIGTERM)
        assert (await raw.read_close())[0] == 1001
        assert await this.process.ended(15) in TERMINATED
        took = time.monotonic() - began
        assert 9 < took < 14, f"it took {took:.2f} s"


@pytest_twisted.ensureDeferred
async def test_the_agent_ends_with_a_close_frame() -> None:
    async with RawServer() as monitor:
        url = f"ws://127.0.0.1:{monitor.port}/"
        process = service("ws-agent", "--server", url, "--interval", "60")
        try:
            raw = await accept_raw(monitor)
            assert (await raw.read_frame())[0] == 2
            process.signal(signal.SIGTERM)
            assert (await raw.read_close())[0] == 1000
            # It waits for the answer, unless it is told once more.
            assert process.status is None
            process.signal(signal.SIGTERM)
            assert await process.ended(5) in TERMINATED
            assert "Traceback" not in process.output
        finally:
            await process.kill()


@pytest_twisted.ensureDeferred
async def test_the_agent_ends_at_once_where_it_is_not_connected() -> None:
    process = service("ws-agent", "--server", f"ws://127.0.0.1:{free_port()}/")
    try:
        await process.says(r"Not connected to ws://127\.0\.0\.1:\d+/agent: .*refused.*Next attempt")
        process.signal(signal.SIGTERM)
        assert await process.ended(5) in TERMINATED
    finally:
        await process.kill()


# ---------------------------------------------------------------- logs


@pytest.mark.parametrize("logger", ["text", "json", "file"])
@pytest_twisted.ensureDeferred
async def test_it_lives_when_nothing_can_be_logged(logger: str, tmp_path: Path) -> None:
    """The disk is full: every write to the log fails."""
    options = {
        "text": (),
        "json": ("--logger=wsframe.services.jsonlog.stdout",),
        "file": ("--logfile=/dev/full",),
    }[logger]
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        this = Listening("ws-echo", stdout=full, twistd_options=options)
    finally:
        os.close(full)
    try:

        async def connected() -> Connection:
            while True:
                try:
                    return await connect(this.url())
                except Exception:  # noqa: BLE001 - it is not there yet
                    assert this.process.status is None, this.process.output
                    await turns(20)

        from twisted.internet import defer

        connection = await within(defer.ensureDeferred(connected()))
        for _ in range(3):
            # What is refused is logged.
            raw = await connect_raw(this.port)
            raw.write(upgrade("Origin: http://elsewhere.example"))
            assert (await raw.read_head()).startswith("HTTP/1.1 403")
            await raw.drop()
        await connection.send("still here")
        assert await within(connection.recv()) == "still here"
        this.process.signal(signal.SIGTERM)
        assert (await expect_close(connection)).code == 1001
        assert await this.process.ended() in TERMINATED
    finally:
        await this.process.kill()


JSON = ("--logger=wsframe.services.jsonlog.stdout",)


@pytest_twisted.ensureDeferred
async def test_the_json_log_is_one_object_a_line(tmp_path: Path) -> None:
    arguments = ("--token-file", token_file(tmp_path))
    async with running("ws-monitor", *arguments, twistd_options=JSON) as this:
        for hostile in (
            b"GET /\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\x0bb\r\n\r\n",
            b'GET /\n{"level": "forged"} HTTP/1.1\r\n\r\n',
            b"\x16\x03\x01\n\n\n",
        ):
            raw = await connect_raw(this.port)
            raw.write(hostile)
            await raw.read_all()
        status, _, raw = await try_upgrade(this.port, "/agent", "X-Monitor-Token: a\xa0b\xff")
        await raw.drop()
        status, _, raw = await try_upgrade(this.port, "/agent", f"X-Monitor-Token: {TOKEN}")
        assert status == 101
        raw.write(b"\x81\x80\0\0\0\0")
        assert (await raw.read_close())[0] == 1007
        await raw.drop()
        this.process.signal(signal.SIGTERM)
        assert await this.process.ended() in TERMINATED
        lines = this.process.lines
    assert all({"time", "level", "namespace", "message"} <= set(line) for line in lines)
    assert {line["level"] for line in lines} <= {"info", "warn"}
    assert any(line["message"].startswith("Listening on") for line in lines)
    (invalid,) = [line for line in lines if "Invalid report" in line["message"]]
    assert invalid["namespace"] == "wsframe.monitor"
    assert invalid["peer"].startswith("tcp4:127.0.0.1:")
    assert not CONTROL.search(this.process.output)
    assert TOKEN not in this.process.output


@pytest.mark.parametrize("options", [(), JSON], ids=["text", "json"])
@pytest_twisted.ensureDeferred
async def test_what_a_hostile_server_says_cannot_forge_the_log(options: tuple[str, ...]) -> None:
    """Its reasons end up in the agent's log: as they are, but escaped."""
    forged = "x\nFORGED\r\n\x1b[31mFORGED\u2028FORGED\x85\x9b2J"
    async with RawServer() as monitor:
        url = f"ws://127.0.0.1:{monitor.port}/"
        process = service("ws-agent", "--server", url, twistd_options=options)
        try:
            raw = await accept_raw(monitor)
            raw.write(close_frame(4000, forged, masked=False))
            raw.finish()
            await process.says("code 4000")
            raw = await monitor.accepted()
            await raw.read_head()
            raw.write(
                "HTTP/1.1 503 \xff\x9b2JFORGED\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
            )
            raw.finish()
            await process.says("answered 503")
            raw = await monitor.accepted()
            head = await raw.read_head()
            raw.write(switching(head).replace(b"\r\n\r\n", b"\r\nX: \x1b]0;FORGED\r\n\r\n"))
            raw.finish()
            await process.says("(?s)answered 503.*Not connected")
        finally:
            await process.kill()
        assert not CONTROL.search(process.output.replace("\r", "\\r")), process.output
        if options:
            assert all("FORGED" not in line["level"] for line in process.lines)
        else:
            for line in process.output.splitlines():
                assert "FORGED" not in line or "Not connected to" in line


@pytest_twisted.ensureDeferred
async def test_the_json_log_has_tracebacks_of_failures() -> None:
    async with running("ws-echo") as other:
        process = service("ws-echo", "--listen", LOCAL.format(port=other.port), twistd_options=JSON)
        try:
            assert await process.ended() == 1
        finally:
            await process.kill()
    messages = [line["message"] for line in process.lines]
    assert any(message.startswith("Cannot listen: ") for message in messages)


# ---------------------------------------------------------------- as a daemon


@pytest_twisted.ensureDeferred
async def test_as_a_daemon_with_a_pidfile(tmp_path: Path) -> None:
    pidfile, log, port = tmp_path / "pid", tmp_path / "log", free_port()
    starter = Process(
        twistd(),
        f"--pidfile={pidfile}",
        f"--logfile={log}",
        f"--rundir={tmp_path}",
        "ws-echo",
        "--listen",
        LOCAL.format(port=port),
    )
    assert await starter.ended() == 0, starter.output
    pid = int(pidfile.read_text())
    try:
        async with connect(f"ws://127.0.0.1:{port}/") as connection:
            await connection.send("from afar")
            assert await within(connection.recv()) == "from afar"
            os.kill(pid, signal.SIGTERM)
            assert (await expect_close(connection)).code == 1001
        await eventually(lambda: not pidfile.exists())
        assert f"port={port}" in log.read_text()
        await eventually(lambda: gone(pid))
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_cannot_listen_says_so_where_it_was_started(tmp_path: Path) -> None:
    async with running("ws-echo") as other:
        pidfile = tmp_path / "pid"
        starter = Process(
            twistd(),
            f"--pidfile={pidfile}",
            f"--logfile={tmp_path / 'log'}",
            f"--rundir={tmp_path}",
            "ws-echo",
            "--listen",
            LOCAL.format(port=other.port),
        )
        assert await starter.ended() == 1
        assert "Couldn't listen on" in starter.output
        await eventually(lambda: not pidfile.exists())


def gone(pid: int) -> bool:
    """Return whether there is no such process, or only what is left of it."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


# ---------------------------------------------------------------- refusals, as a client sees them


@pytest_twisted.ensureDeferred
async def test_a_client_is_told_why_it_is_refused(tmp_path: Path) -> None:
    async with running("ws-echo", "--token-file", token_file(tmp_path)) as this:
        for headers, text in (
            (None, b"a token is required\n"),
            ({"Authorization": "Bearer wrong"}, b"this token is not valid\n"),
        ):
            headers_given: Any = headers
            with pytest.raises(HandshakeRefused) as caught:
                await connect(this.url(), headers=headers_given)
            assert (caught.value.status, caught.value.body) == (401, text)
