"""Each code block of the README is run, on ports of the test's own, and does what the text says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.certificates import Authority
from integration.peers import free_port
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect
from websockets.sync.server import ServerConnection, serve

ROOT = Path(__file__).resolve().parents[1]


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return the code blocks of a page: the language and the text of each."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks_of("README.md")

# Something that only one block has; each is run by a test below.
MARKS = (
    "make demo",
    "env/bin/pip install .",
    "async def echo",
    'await connection.send("Hello!")\n        print(await',
    "TLSOptions(",
    'listen = "ssl:',
    "Hello from asyncio!",
    "async def slow_echo",
    "ProxyError",
    "WebSocketClientService(",
    "twistd --nodaemon ws-echo",
    "WebSocketResource(greet)",
    "+from wsframe.protocol",
    "ServerOptions(",
)

WAIT = 30.0
"""Seconds that a process gets to do what is waited for; they are used only when it fails."""


def block(mark: str, blocks: list[tuple[str, str]] = BLOCKS) -> str:
    """Return the only block with that in it."""
    found = [text for _, text in blocks if mark in text]
    assert len(found) == 1, f"{len(found)} blocks have {mark!r}"
    return found[0]


def until(what: str, condition: object) -> object:
    """Call the condition until it returns something true; connection errors count as not yet."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            result = condition()  # type: ignore[operator]
            if result:
                return result
        time.sleep(0.02)
    pytest.fail(f"not in {WAIT:g} s: {what}")


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def running(
    *command: str, cwd: Path = ROOT, stop: signal.Signals = signal.SIGINT
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process group of its own, and stop that at the end."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, stop)
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"{command} did not end by {stop.name}")
        finally:
            if process.stdout is not None:
                process.stdout.close()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what a process prints, line by line; it is killed when a line takes too long."""
    assert process.stdout is not None
    while True:
        watchdog = threading.Timer(2 * WAIT, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        watchdog.join()
        if not line:
            return
        yield line


def python(code: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return running(sys.executable, "-c", code)


def test_every_block_is_run_by_a_test() -> None:
    """A block that is added without a test fails here."""
    assert len(BLOCKS) == len(MARKS)
    for mark in MARKS:
        block(mark)


def test_the_server_and_the_client_talk() -> None:
    """The client's block prints what the server's block sent back."""
    port = free_port()
    with python(block("async def echo").replace("8765", str(port))):
        until("the server listens", lambda: listens(port))
        client = block('await connection.send("Hello!")\n        print(await')
        with python(client.replace("8765", str(port))) as process:
            output, _ = process.communicate(timeout=WAIT)
        assert output == "Hello!\n"
        assert process.returncode == 0
        assert said_from_asyncio(port) == "Hello from asyncio!\n"


def said_from_asyncio(port: int) -> str:
    """Return what the client's block for asyncio prints, with a server on that port."""
    with python(block("Hello from asyncio!").replace("8765", str(port))) as process:
        output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    return output


def test_the_handler_that_waits_for_asyncio_echoes() -> None:
    """Within asyncio's loop, both sides."""
    port = free_port()
    with python(block("async def slow_echo").replace("8765", str(port))):
        until("the server listens", lambda: listens(port))
        assert said_from_asyncio(port) == "Hello from asyncio!\n"


def test_ctrl_c_ends_the_server_with_close_frames() -> None:
    """A client that is connected hears 1001."""
    port = free_port()
    with python(block("async def echo").replace("8765", str(port))) as process:
        until("the server listens", lambda: listens(port))
        with connect(f"ws://127.0.0.1:{port}/") as client:
            process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed):
                client.recv(WAIT)
            assert client.close_code == 1001
        assert process.wait(WAIT) is not None


def test_an_authority_of_ones_own_is_trusted(tmp_path: Path) -> None:
    """The block's `tls` opens a connection that the system's authorities would not."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "server.pem").write_bytes(authority.issue("localhost").pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    with serve(lambda connection: connection.send("safe"), "localhost", 0, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            uri = f"wss://localhost:{server.socket.getsockname()[1]}/"
            code = block("TLSOptions(") + TRUSTING.format(uri=uri)
            with running(sys.executable, "-c", code, cwd=tmp_path) as process:
                output, _ = process.communicate(timeout=WAIT)
        finally:
            server.shutdown()
            thread.join()
    assert output == "safe\n"


TRUSTING = """
from twisted.internet.task import react
from wsframe import connect

async def main(reactor):
    async with connect("{uri}", tls=tls) as connection:
        print(await connection.recv())

react(main)
"""


def test_a_server_speaks_tls_at_the_endpoint_of_the_block(tmp_path: Path) -> None:
    """The client's `tls` verifies it, and both agree on http/1.1."""
    authority, port = Authority(), free_port()
    certificate = authority.issue("localhost").pem()
    for name, content in (("ca", authority.pem), ("key", certificate), ("cert", certificate)):
        (tmp_path / f"{name}.pem").write_bytes(content)
    code = block('listen = "ssl:').replace("8443", str(port)) + GREETING
    with running(sys.executable, "-c", code, cwd=tmp_path):
        until("the server listens", lambda: listens(port))
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=WAIT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.selected_alpn_protocol() == "http/1.1"
        trusting = block("TLSOptions(") + TRUSTING.format(uri=f"wss://localhost:{port}/")
        with running(sys.executable, "-c", trusting, cwd=tmp_path) as process:
            output, _ = process.communicate(timeout=WAIT)
    assert output == "safe\n"


GREETING = """
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from wsframe import serve

async def main(reactor):
    async with serve(lambda connection: connection.send("safe"), listen):
        await Deferred()

react(main)
"""


def test_the_package_installs_into_an_environment_of_ones_own(tmp_path: Path) -> None:
    """From a copy of the sources; then `twistd` of that environment has the services."""
    ignored = shutil.ignore_patterns(".*", "node_modules", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "wsframe", ignore=ignored)
    for line in block("env/bin/pip install .").splitlines():
        subprocess.run(shlex.split(line), cwd=tmp_path / "wsframe", check=True)
    done = subprocess.run(
        ["env/bin/twistd", "--help"], cwd=tmp_path / "wsframe", capture_output=True, check=True
    )
    assert b"ws-monitor" in done.stdout


def test_the_proxy_block_asks_the_proxy_and_tells_its_refusal() -> None:
    """The CONNECT arrives with the credentials, and the 407 is told as such."""
    heard: list[bytes] = []

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        with python(block("ProxyError").replace("3128", str(port))) as process:
            output, _ = process.communicate(timeout=WAIT)
        thread.join()
    assert heard[0].startswith(b"CONNECT localhost:8443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n" in heard[0]
    assert output.startswith("407 proxy ")
    assert "password" not in output


def test_the_service_comes_back_and_closes_when_it_is_stopped() -> None:
    """It subscribes again after the server's Close, prints what it hears, and leaves with 1000."""
    visits: list[str] = []
    left = threading.Event()
    codes: list[int | None] = []

    def handle(connection: ServerConnection) -> None:
        visits.append(str(connection.recv()))
        connection.send(f"news {len(visits)}")
        if len(visits) == 1:
            connection.close(1001)
            return
        with contextlib.suppress(Exception):
            connection.recv()
        codes.append(connection.close_code)
        left.set()

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = server.socket.getsockname()[1]
            with python(block("WebSocketClientService(").replace("8765", str(port))) as process:
                printed = (line for line in lines(process) if line.startswith("news "))
                assert (next(printed), next(printed)) == ("news 1\n", "news 2\n")
            assert left.wait(WAIT)
        finally:
            server.shutdown()
            thread.join()
    assert visits == ["subscribe", "subscribe"]
    assert codes == [1000]


def test_the_twistd_commands_start_the_four_services(tmp_path: Path) -> None:
    """Each command of the block runs as it stands, on other ports, and its service works."""
    echo_port, monitor_port = free_port(), free_port()
    token = "a-token-for-the-test"
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"web1:{token}\n", encoding="ascii")
    commands = block("twistd --nodaemon ws-echo")
    for old, new in (
        ("8765", echo_port),
        ("8766", monitor_port),
        ("/tmp/broadcast.sock", tmp_path / "broadcast.sock"),
    ):
        commands = commands.replace(old, str(new))
    lines = commands.splitlines()
    assert len(lines) == 4
    with contextlib.ExitStack() as stack:
        for number, line in enumerate(lines):
            words = shlex.split(line)
            words.insert(1, f"--pidfile={tmp_path / str(number)}.pid")
            stack.enter_context(running(*words, cwd=tmp_path, stop=signal.SIGTERM))
        for port in (echo_port, monitor_port):
            until(
                "the service is healthy", lambda port=port: get(f"http://127.0.0.1:{port}/healthz")
            )
        with connect(f"ws://127.0.0.1:{echo_port}/") as client:
            client.send("Hello!")
            assert client.recv(WAIT) == "Hello!"
        path = str(tmp_path / "broadcast.sock")
        until("the socket is there", lambda: Path(path).exists())
        with unix_connect(path) as one, unix_connect(path) as other:
            assert other.ping().wait(WAIT)
            one.send(b"for the others")
            assert other.recv(WAIT) == b"for the others"
        headers = {"Authorization": f"Bearer {token}"}
        with connect(f"ws://127.0.0.1:{monitor_port}/feed", additional_headers=headers) as feed:
            while True:
                message = json.loads(feed.recv(WAIT))
                if message["type"] == "report":
                    break
        assert message["agent"]["name"] == "web1"
        assert message["agent"]["principal"] == "web1"


def test_the_site_serves_its_page_and_the_websocket_on_one_port() -> None:
    """GET / is the page, and /ws greets."""
    port = free_port()
    with python(block("WebSocketResource(greet)").replace("8080", str(port))):
        page = until("the page is served", lambda: get(f"http://127.0.0.1:{port}/"))
        assert page == "<h1>A page</h1>"
        with connect(f"ws://127.0.0.1:{port}/ws") as client:
            assert client.recv(WAIT) == "You asked for /ws"


def test_both_sides_of_the_autobahn_diff_are_imports_that_work() -> None:
    """The names are the same on both sides."""
    old, new = block("+from wsframe.protocol").splitlines()
    assert old[1:].partition(" import ")[2] == new[1:].partition(" import ")[2]
    for line in (old, new):
        with python(line[1:]) as process:
            assert process.wait(WAIT) == 0


def test_the_options_block_makes_options() -> None:
    """The values are those of the block."""
    names: dict[str, object] = {}
    exec(block("ServerOptions("), names)  # noqa: S102 - our own README
    assert names["options"].max_message_size == 16 * 1024 * 1024  # type: ignore[attr-defined]


def test_make_demo_serves_the_page_and_ends_with_ctrl_c() -> None:
    """It prints the address; the page is there, an agent reports, and Ctrl-C ends it."""
    assert block("make demo") == "make demo\nmake test\n"
    with running("make", "demo") as process:
        address = None
        for line in lines(process):
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            if found:
                address = found
                break
        assert address is not None
        assert "<table" in get(address[0])
        with connect(f"ws://127.0.0.1:{address[1]}/feed") as feed:
            while json.loads(feed.recv(WAIT))["type"] != "report":
                pass


def test_make_test_is_a_target() -> None:
    """Its recipe runs pytest; a run within this run would not end, so it is read only."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    assert "-m pytest" in recipe[1]
