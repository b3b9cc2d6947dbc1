"""`wsframe connect` between pipes: what it sends and prints, how it ends, and with what status."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from integration.certificates import Authority
from integration.interop import LISTEN, serving, url_of
from integration.peers import free_port
from integration.proxies import Proxies
from integration.raw import Raw, RawServer, eventually, within
from services.processes import TOKEN, Process, token_file
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread

from cli.running import COMMAND, wsframe
from wsframe.cli import main
from wsframe.connection import Connection
from wsframe.errors import Reject
from wsframe.options import ServerOptions
from wsframe.server import serve

MIB = 1024 * 1024
SECRET = "s3cret-and-long"

ECHO = """
import asyncio
from websockets.asyncio.server import serve

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with serve(echo, "127.0.0.1", 0) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def echoing(kind: str = "wsframe") -> AsyncIterator[str]:
    """Serve what sends back each message; give its URI."""
    if kind == "wsframe":

        async def echo(connection: Connection) -> None:
            async for message in connection:
                await connection.send(message)

        async with serve(echo, LISTEN) as server:
            yield url_of(server)
        return
    process = Process(sys.executable, "-c", ECHO)
    try:
        port = (await process.says(r"port (\d+)"))[1]
        yield f"ws://127.0.0.1:{port}/"
    finally:
        await process.kill()


def saying(*messages: str | bytes, code: int = 1000, reason: str = "") -> Any:
    """Return a server that sends these messages, and closes."""

    async def say(connection: Connection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.close(code, reason)

    return serve(say, LISTEN)


def lines(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


# --- what is sent, and what is printed ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wsframe", "websockets"])
@pytest_twisted.ensureDeferred
async def test_answer_to_the_last_line_is_printed(kind: str) -> None:
    """The connection is closed behind it, in order; the URI is told without its query."""
    async with echoing(kind) as uri:
        done = await wsframe("connect", uri, stdin=b"hello\n")
    assert (done.status, done.out) == (0, "hello\n")
    opened, closed = done.err.splitlines()
    assert opened == f"Connected to {uri.partition('?')[0]}"
    assert closed == "Closed by this side with code 1000"


@pytest.mark.parametrize("kind", ["wsframe", "websockets"])
@pytest_twisted.ensureDeferred
async def test_answers_to_many_lines_are_all_printed(kind: str) -> None:
    text = "".join(f"{number} {'x' * (number % 500)}\n" for number in range(10_000))
    async with echoing(kind) as uri:
        done = await wsframe("connect", uri, "-q", stdin=text.encode())
    assert (done.status, done.err) == (0, "")
    assert done.out == text


@pytest_twisted.ensureDeferred
async def test_each_line_is_a_text_message() -> None:
    """An empty one too, and the last without an end; no other character ends a line."""
    async with serving() as (_, uri, handled):
        running = deferToThread(wsframe_now, "connect", uri, stdin="a\n\nä\r\x0b b\nlast".encode())
        connection = await handled.next()
        got = [await within(connection.recv()) for _ in range(4)]
        assert got == ["a", "", "ä\r\x0b b", "last"]
        assert (await within(connection.when_closed())).code == 1000
        assert await within(running) == 0


def wsframe_now(*arguments: str, stdin: bytes) -> int:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, check=False
    ).returncode


@pytest_twisted.ensureDeferred
async def test_binary_sends_the_input_as_one_message() -> None:
    payload = os.urandom(200_000)
    async with echoing() as uri:
        done = await wsframe("connect", uri, "--binary", "--json", stdin=payload)
    _, message, _ = lines(done.out)
    assert message["type"] == "binary"
    assert base64.b64decode(message["data"]) == payload


@pytest_twisted.ensureDeferred
async def test_binary_prints_bytes_as_they_are() -> None:
    async with saying(b"\x00\xff\n", "text", b"\x01") as server:
        done = await wsframe("connect", url_of(server), "--binary", "--wait", "inf")
    assert done.out.encode("utf-8", "surrogateescape") == b"\x00\xff\ntext\x01"


@pytest_twisted.ensureDeferred
async def test_chunk_sends_messages_of_a_size() -> None:
    async with echoing() as uri:
        done = await wsframe("connect", uri, "--binary", "--chunk", "4", "--json", stdin=b"0123456")
    sent = [base64.b64decode(each["data"]) for each in lines(done.out)[1:-1]]
    assert sent == [b"0123", b"456"]


@pytest_twisted.ensureDeferred
async def test_messages_are_printed_as_they_are_with_an_end_of_line() -> None:
    async with saying("\x1b[31m", b"\xff", "a\nb") as server:
        done = await wsframe("connect", url_of(server), "--wait", "inf")
    assert done.out.encode("utf-8", "surrogateescape") == b"\x1b[31m\n\xff\na\nb\n"


@pytest_twisted.ensureDeferred
async def test_json_has_the_opening_the_messages_and_the_end() -> None:
    async with saying("a\nb\x1bä", b"\xff", code=4001, reason="so") as server:
        uri = url_of(server)
        done = await wsframe("connect", uri, "--json", "--wait", "inf")
    opened, text, binary, closed = lines(done.out)
    assert done.out.isascii()
    assert (opened["type"], opened["uri"]) == ("open", uri.partition("?")[0])
    assert opened["subprotocol"] is None
    assert ["Upgrade", "WebSocket"] in opened["headers"]
    assert text == {"type": "text", "data": "a\nb\x1bä"}
    assert binary == {"type": "binary", "data": "/w=="}
    assert closed == {"type": "close", "code": 4001, "reason": "so", "by": "remote", "clean": True}
    assert done.status == 3


@pytest_twisted.ensureDeferred
async def test_wait_goes_on_until_the_server_closes() -> None:
    """Though the input has ended, and a silence is longer than a ping."""
    async with serving() as (_, uri, handled):
        process = Process(*COMMAND, "connect", uri, "--wait", "inf")
        connection = await handled.next()
        process.write(b"last\n")
        process.end_input()
        assert await within(connection.recv()) == "last"
        for _ in range(5):
            await within(connection.ping())
        await connection.send("later")
        await within(connection.close())
        assert await process.ended() == 0
    assert "later\n" in process.output


@pytest_twisted.ensureDeferred
async def test_wait_of_no_time_closes_at_once() -> None:
    async with echoing() as uri:
        done = await wsframe("connect", uri, "--wait", "0", stdin=b"x\n")
    assert (done.status, done.err.count("\n")) == (0, 2)


@pytest_twisted.ensureDeferred
async def test_commands_of_the_manual_print_what_it_says() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs/command.md").read_text(encoding="utf-8")
    found = re.findall(r"^\$ (.*) \| (wsframe connect ws://127.*)\n((?:.+\n)+?)```", manual, re.M)
    assert len(found) == 2
    async with echoing() as uri:
        for before, command, text in found:
            given = shlex.split(command.replace("ws://127.0.0.1:8765/", uri))
            stdin = subprocess.run(before, shell=True, capture_output=True, check=True).stdout  # noqa: S602
            done = await wsframe(*given[1:], stdin=stdin)
            said = (done.err + done.out).replace(uri.partition("?")[0], "ws://127.0.0.1:8765/")
            # The two streams have no order between them; "..." stands for what differs.
            for line, pattern in zip(
                sorted(said.splitlines()), sorted(text.splitlines()), strict=True
            ):
                assert re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), line)


# --- the opening handshake ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_headers_origin_subprotocols_and_token_are_sent(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("X-Three: 3\r\n\nX-Four: 4: four\n")
    options = ServerOptions(subprotocols=("b",), origins=("https://a.example",))
    async with serving(options=options) as (_, uri, handled):
        given = ["--header", "X-One: 1", "--header", f"@{file}", "--header", "x-two;"]
        given += ["--origin", "https://a.example", "--subprotocol", "a", "--subprotocol", "b"]
        given += ["--token-file", token_file(tmp_path)]
        done = await wsframe("connect", uri, *given)
        connection = await handled.next()
    headers = connection.request.headers
    names = ("X-One", "X-Three", "X-Four", "X-Two", "Origin", "Authorization")
    assert [headers[name] for name in names] == [
        "1",
        "3",
        "4: four",
        "",
        "https://a.example",
        f"Bearer {TOKEN}",
    ]
    assert connection.request.subprotocols == ("a", "b")
    assert done.err.startswith(f"Connected to {uri.partition('?')[0]}, b\n")


@pytest_twisted.ensureDeferred
async def test_refusal_is_told_without_what_it_repeats(tmp_path: Path) -> None:
    def refuse(request: Any) -> None:
        said = request.headers["Authorization"]
        raise Reject(403, f"\n{said} \x1b[31m is nobody\nsecond", {"X-Said": said})

    path = token_file(tmp_path)
    async with serving(process_request=refuse) as (_, uri, _handled):
        for given in (["--token-file", path], ["--header", f"Authorization: Bearer {TOKEN}"]):
            done = await wsframe("connect", uri, "--json", *given)
            assert done.status == 1
            assert TOKEN not in done.out + done.err
            first, *rest = done.err.splitlines()
            assert first.startswith("wsframe: failed in phase handshake: HandshakeRefused: ")
            assert "  status 403" in rest
            assert "  X-Said: ***" in rest
            assert rest[-1] == r"  body: *** \x1b[31m is nobody"
            (error,) = lines(done.out)
            assert (error["type"], error["status"]) == ("error", 403)


@pytest_twisted.ensureDeferred
async def test_credentials_in_the_uri_are_not_shown() -> None:
    def refuse(request: Any) -> None:
        raise Reject(401, f"{request.headers['Authorization']} is nobody")

    async with serving(process_request=refuse) as (_, uri, _handled):
        done = await wsframe("connect", uri.replace("//", f"//user:{SECRET}@"))
    assert done.status == 1
    assert "  body: Basic *** is nobody" in done.err.splitlines()
    assert SECRET not in done.err


@pytest_twisted.ensureDeferred
async def test_proxy_and_authorities_can_be_given(tmp_path: Path) -> None:
    authority, proxies = Authority(), Proxies()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    try:
        proxy = f"http://127.0.0.1:{proxies.get('tinyproxy', auth=False)}"

        async def refuse(raw: Raw) -> None:
            await raw.read_head()
            raw.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

        async with RawServer(refuse, certificate=authority.issue("localhost")) as target:
            uri = f"wss://localhost:{target.port}/"
            trusted = await wsframe("connect", uri, "--proxy", proxy, "--ca", str(ca))
            distrusted = await wsframe("connect", uri, "--proxy", proxy)
        down = f"http://127.0.0.1:{free_port()}"
        unreachable = await wsframe("connect", "ws://a.example/", all_proxy=down)
    finally:
        proxies.stop()
    assert [each.status for each in (trusted, distrusted, unreachable)] == [1, 1, 1]
    assert "in phase handshake: HandshakeRefused" in trusted.err
    assert "in phase tls: TLSFailed" in distrusted.err
    assert f"in phase tcp with proxy {down}: ProxyUnreachable" in unreachable.err


@pytest_twisted.ensureDeferred
async def test_silent_server_is_given_up() -> None:
    async with RawServer() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        done = await wsframe("connect", uri, "--timeout", "0.05")
    assert done.status == 1
    assert "in phase handshake: OpenTimeout" in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--header", SECRET], "a header is written as 'Name: value'"),
        (["--header", f"X: {SECRET}\r\nY: 1"], "control character"),
        (["--header", "@/nowhere/at/all"], "No such file"),
        (["--header", f"Proxy-Authorization: {SECRET}"], "Proxy-Authorization"),
        (["--subprotocol", "a", "--subprotocol", "a"], "named twice"),
        (["--subprotocol", "a b"], "which no token has"),
        (["--origin", "\n"], "control character"),
        (["--token-file", "/nowhere/at/all"], "No such file"),
        (["--chunk", "5"], "--chunk is for --binary"),
        (["--binary", "--chunk", "0"], "not a number of bytes"),
        (["--wait", "-1"], "not a number of seconds"),
        (["--ping", "inf"], "not a number of seconds"),
        (["--max-size", "1k"], "not a number of bytes"),
        (["--proxy", f"ftp://u:{SECRET}@p"], "proxy"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    said = refused(capsys, "ws://127.0.0.1:9/", *arguments)
    assert text in said
    assert SECRET not in said


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what is said of a command that cannot be carried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("wsframe.cli.reactor.run")  # this process has the tests' reactor
        with pytest.raises(SystemExit) as caught:
            main(["connect", *arguments])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_token_file_with_several_tokens_or_beside_others_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = token_file(tmp_path)
    for uri, *given in (
        ("ws://127.0.0.1:9/", "--header", "authorization: x"),
        ("ws://u:p@127.0.0.1:9/",),
    ):
        assert "other credentials" in refused(capsys, uri, *given, "--token-file", path)
    path = token_file(tmp_path, anna=TOKEN, bob=TOKEN[::-1])
    said = refused(capsys, "ws://127.0.0.1:9/", "--token-file", path)
    assert "several tokens" in said
    assert TOKEN not in said


# --- how it ends ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"), [(1000, 0), (1001, 0), (1012, 3), (1011, 3), (4000, 3)]
)
@pytest_twisted.ensureDeferred
async def test_status_says_how_it_was_closed(code: int, status: int) -> None:
    async with saying("last", code=code, reason="be\x1b[31m back") as server:
        done = await wsframe("connect", url_of(server), "--wait", "inf")
    assert (done.status, done.out) == (status, "last\n")
    said = rf"Closed by the peer with code {code}: 'be\x1b[31m back'"
    assert done.err.splitlines()[-1] == said


@pytest_twisted.ensureDeferred
async def test_lost_connection_is_a_failure() -> None:
    async with serving() as (_, uri, handled):
        process = Process(*COMMAND, "connect", uri)
        await process.says("Connected")
        (await handled.next()).abort()
        assert await process.ended() == 3
    assert "Lost with code 1006" in process.output


@pytest_twisted.ensureDeferred
async def test_message_over_the_limit_is_refused() -> None:
    async with saying("12345") as server:
        done = await wsframe("connect", url_of(server), "--max-size", "4", "--wait", "inf")
    assert (done.status, done.out) == (3, "")
    assert "code 1009" in done.err


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)], ids=["Ctrl-C", "SIGTERM"])
@pytest_twisted.ensureDeferred
async def test_signal_closes_in_order(number: int, status: int) -> None:
    async with serving() as (_, uri, handled):
        process = Process(*COMMAND, "connect", uri)
        connection = await handled.next()
        await process.says("Connected")
        process.signal(number)
        assert (await within(connection.when_closed())).code == 1000
        assert await process.ended() == status
    assert "Traceback" not in process.output


@pytest_twisted.ensureDeferred
async def test_signal_ends_an_opening() -> None:
    async with RawServer() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        process = Process(*COMMAND, "connect", uri, "--timeout", "600")
        raw = await server.accepted()
        await raw.read_head()
        process.signal(15)
        assert await process.ended() == 143
        await within(raw.ended())
    assert process.output == ""


@pytest_twisted.ensureDeferred
async def test_input_that_is_no_text_ends_it() -> None:
    async with echoing() as uri:
        done = await wsframe("connect", uri, stdin=b"good\nb\xffd\n")
    assert done.status == 1
    assert "wsframe: line 2 of the input is not UTF-8; see --binary" in done.err.splitlines()


@pytest_twisted.ensureDeferred
async def test_reader_that_has_gone_ends_it() -> None:
    """What is received is not lost in silence: the status is that of SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    async with serving() as (_, uri, handled):
        process = Process(*COMMAND, "connect", uri, "-q", stdout=writing)
        os.close(writing)
        connection = await handled.next()
        await connection.send("to nobody")
        assert (await within(connection.when_closed())).code == 1000
        assert await process.ended() == 141
    assert process.output == ""


@pytest.mark.parametrize(
    ("redirection", "status", "text"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, "x\n"),
        (">/dev/full", 1, "No space left"),
        ("<.", 1, "directory"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_streams_that_are_closed_or_cannot_be_used(
    redirection: str, status: int, text: str
) -> None:
    """A socket does not get the number of a stream that is closed."""
    async with echoing() as uri:
        ran: Any = await deferToThread(
            subprocess.run,
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, "connect", "-q", uri],
            input=b"x\n",
            capture_output=True,
            check=False,
        )
    assert ran.returncode == status
    assert text in (ran.stdout + ran.stderr).decode()
    if not status:
        assert (ran.stdout + ran.stderr).decode() == text


# --- backpressure ---------------------------------------------------------------------------------


def peak_memory(process: Process) -> int:
    """Return the most bytes of memory that a process has had so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


TOTAL = 128 * MIB
PART = 64 * 1024
ALLOWED = 32 * MIB


async def stalled(progress: Callable[[], int], enough: int) -> None:
    """Wait until it gets no further in a hundred turns of the reactor, or has got to the end."""
    last, same = -1, 0

    def look() -> bool:
        nonlocal last, same
        now = progress()
        same = same + 1 if now == last and now > 0 else 0
        last = now
        return same > 100 or now >= enough

    await eventually(look)


@pytest_twisted.ensureDeferred
async def test_output_that_is_not_read_makes_the_server_wait() -> None:
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        while sent < TOTAL:
            await connection.send(b"x" * PART)
            sent += PART
        await connection.close()

    reading, writing = os.pipe()
    async with serve(flood, LISTEN) as server:
        process = Process(
            *COMMAND, "connect", url_of(server), "--binary", "--wait", "inf", stdout=writing
        )
        os.close(writing)
        await process.says("Connected")
        before = peak_memory(process)
        await stalled(lambda: sent, TOTAL)
        assert sent < TOTAL
        assert peak_memory(process) - before < ALLOWED
        assert await within(deferToThread(read_all, reading)) == TOTAL
        assert await process.ended() == 0


def read_all(reading: int) -> int:
    with os.fdopen(reading, "rb", buffering=0) as file:
        total = 0
        while data := file.read(MIB):
            total += len(data)
        return total


@pytest_twisted.ensureDeferred
async def test_server_that_does_not_read_makes_the_input_wait() -> None:
    reading: list[Connection] = []
    go_on: list[Any] = []

    async def slow(connection: Connection) -> None:
        reading.append(connection)
        await go_on[0]
        async for _ in connection:
            pass

    go_on.append(Deferred())
    async with serve(slow, LISTEN) as server:
        process = Process(*COMMAND, "connect", url_of(server), "--binary", "--chunk", str(PART))
        await process.says("Connected")
        before = peak_memory(process)
        written = 0

        def write() -> int:
            nonlocal written
            if process.input_pending < MIB and written < TOTAL:
                process.write(b"x" * MIB)
                written += MIB
            return written

        await stalled(write, TOTAL)
        assert written < TOTAL
        assert peak_memory(process) - before < ALLOWED
        go_on[0].callback(None)
        process.end_input()
        assert await process.ended() == 0
    (connection,) = reading
    assert connection.counts.received_bytes == written


# --- the trace, and headers left out --------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_trace_has_both_heads_without_secrets_and_frames_where_asked(
    tmp_path: Path,
) -> None:
    token = token_file(tmp_path)
    for frames in ((), ("--trace-frames",)):
        file = tmp_path / f"trace{len(frames)}"
        async with echoing() as uri:
            given = ("--token-file", str(token), "--trace", str(file), *frames)
            status, out, _ = await wsframe("connect", uri, *given, stdin=b"hello trace\n")
        assert (status, out) == (0, "hello trace\n")
        text = file.read_text()
        assert "> GET /" in text
        assert "101 Switching Protocols" in text
        assert TOKEN not in text
        assert ("hello trace" in text) == bool(frames)


@pytest_twisted.ensureDeferred
async def test_header_can_be_left_out_or_sent_empty() -> None:
    async with RawServer() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        given = ("--header", "user-agent:", "--header", "X-Empty;")
        running = ensureDeferred(wsframe("connect", uri, *given))
        raw = await server.accepted()
        head = await raw.read_head()
        assert "user-agent" not in head.lower()
        assert "X-Empty: \r\n" in head or "X-Empty:\r\n" in head
        await raw.drop()
        status, _, _ = await running
        assert status == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--trace-frames"], "is for --trace"), (["--trace", "/nowhere/at/all"], "No such file")],
)
def test_trace_that_cannot_be_is_refused(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refused(capsys, "ws://127.0.0.1/", *arguments)
