"""The library works under every reactor, and installs none by being imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

TALK = """
import sys
from importlib import import_module
name = sys.argv[1]
import_module(name).install()
from twisted.internet.task import react
from wsframe import connect, serve

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main(reactor):
    async with serve(echo, "tcp:0:interface=127.0.0.1") as server:
        uri = f"ws://127.0.0.1:{server.addresses[0].port}"
        async with connect(uri) as connection:
            await connection.send("x" * 300_000)
            text = await connection.recv()
            latency = await connection.ping()
    print(type(reactor).__name__, len(text), 0 <= latency < 10)

react(main)
"""

PLAIN = """
import sys
import wsframe, wsframe.protocol, wsframe.reactor, wsframe.services.monitor, wsframe.services.agent
print("twisted.internet.reactor" in sys.modules)
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("twisted.internet.selectreactor", "SelectReactor"),
        ("twisted.internet.pollreactor", "PollReactor"),
        ("twisted.internet.epollreactor", "EPollReactor"),
        ("twisted.internet.asyncioreactor", "AsyncioSelectorReactor"),
        ("wsframe.reactor", "CorkedReactor"),
    ],
)
def test_a_client_and_a_server_talk_under_the_reactor(module: str, name: str) -> None:
    """A long message goes there and back, and a ping is answered."""
    assert run(TALK, module) == f"{name} 300000 True\n"


def test_importing_installs_no_reactor() -> None:
    """The application chooses; an import must not choose before it."""
    assert run(PLAIN) == "False\n"
