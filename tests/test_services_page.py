"""The service of one's own on the page about services is found by twistd, and serves."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

from integration.peers import free_port
from test_readme import WAIT, block, blocks_of, listens, running, until
from websockets.sync.client import connect

BLOCKS = blocks_of("docs/services.md")


def test_a_service_of_ones_own_runs_in_workers(tmp_path: Path) -> None:
    """With its module and its plugin, by the command that the page shows."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (tmp_path / "shout.py").write_text(block("async def shout", BLOCKS))
    (plugins / "shout_plugin.py").write_text(block("ServiceMaker", BLOCKS))
    port = free_port()
    path, *command = shlex.split(block("ws-shout --listen", BLOCKS).replace("8765", str(port)))
    assert path == "PYTHONPATH=."
    path = os.pathsep.join([path, *filter(None, [os.environ.get("PYTHONPATH")])])
    with running("env", path, *command, cwd=tmp_path, stop=signal.SIGTERM):
        until("the service listens", lambda: listens(port))
        with connect(f"ws://127.0.0.1:{port}/") as client:
            client.send("hello")
            assert client.recv(WAIT) == "HELLO"
