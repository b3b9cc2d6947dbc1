"""The program on the page about the corked reactor runs on it."""

from __future__ import annotations

from integration.peers import free_port
from test_readme import WAIT, block, blocks_of, listens, python, until
from websockets.sync.client import connect

PROGRAM = block("import wsframe.reactor", blocks_of("docs/reactor.md"))


def test_the_program_serves_on_the_corked_reactor() -> None:
    port = free_port()
    tells = PROGRAM.replace("8765", str(port)).replace("(message)", "(type(reactor).__name__)")
    with python(tells):
        until("the server listens", lambda: listens(port))
        with connect(f"ws://127.0.0.1:{port}/") as client:
            client.send("Who are you?")
            assert client.recv(WAIT) == "CorkedReactor"


def test_too_late_an_installation_fails_as_the_page_says() -> None:
    with python(f"from twisted.internet import reactor\n{PROGRAM}") as process:
        output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    error = "twisted.internet.error.ReactorAlreadyInstalledError: reactor already installed"
    assert output.endswith(f"{error}\n")
