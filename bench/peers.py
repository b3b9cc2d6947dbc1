"""Who is measured: the programs of each library, and what each needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
NODE_MODULES = HERE.parent / "tests" / "peers" / "node_modules"


@dataclass(frozen=True)
class Peer:
    """A library, with a program of the same name in servers/ and in clients/."""

    name: str
    program: str
    modules: tuple[str, ...]  # without one of them it cannot be measured
    distributions: tuple[str, ...]  # whose versions matter
    arguments: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        return self.name.startswith("wsframe")

    def missing(self) -> str | None:
        """Return what is not installed of it, None when all is there."""
        if self.program.endswith(".js"):
            if shutil.which("node") is None:
                return "node"
            return None if (NODE_MODULES / "ws").is_dir() else "ws for Node"
        return next((module for module in self.modules if find_spec(module) is None), None)

    def server(self, certificate: Path) -> list[str]:
        """Return the command of the server; it prints its ports as JSON."""
        return [*self._command("servers"), str(certificate), *self.arguments]

    def client(self, port: int, connections: int) -> list[str]:
        """Return the command of the client."""
        return [*self._command("clients"), str(port), str(connections), *self.arguments]

    def _command(self, role: str) -> list[str]:
        program = str(HERE / role / self.program)
        if program.endswith(".js"):
            return ["node", "--expose-gc", program]
        return [sys.executable, program]


_CORKED = "wsframe.reactor"

PEERS = (
    Peer("wsframe corked", "wsframe_async.py", ("wsframe", _CORKED), ("wsframe",), ("corked",)),
    Peer(
        "wsframe.protocol corked",
        "autobahn_names.py",
        ("wsframe", _CORKED),
        ("wsframe",),
        ("wsframe.protocol", "corked"),
    ),
    Peer("wsframe", "wsframe_async.py", ("wsframe",), ("wsframe",)),
    Peer(
        "wsframe.protocol", "autobahn_names.py", ("wsframe",), ("wsframe",), ("wsframe.protocol",)
    ),
    Peer(
        "Autobahn",
        "autobahn_names.py",
        ("autobahn",),
        ("autobahn", "twisted"),
        ("autobahn.twisted.websocket",),
    ),
    Peer("twisted.web", "twisted_web.py", ("twisted", "wsproto"), ("twisted", "wsproto")),
    Peer("websockets", "websockets_uvloop.py", ("websockets", "uvloop"), ("websockets", "uvloop")),
    Peer("aiohttp", "aiohttp_uvloop.py", ("aiohttp", "uvloop"), ("aiohttp", "uvloop")),
    Peer("picows", "picows_uvloop.py", ("picows", "uvloop"), ("picows", "aiofastnet", "uvloop")),
    Peer("Node ws", "node_ws.js", (), ()),
)
PEERS_BY_NAME = {peer.name: peer for peer in PEERS}


def node_versions() -> dict[str, str]:
    """Return the versions of Node and its `ws`."""
    script = "console.log(process.version, require(process.argv[1]).version)"
    done = subprocess.run(
        ["node", "-e", script, NODE_MODULES / "ws" / "package.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    node, ws = done.stdout.split()
    return {"node": node.removeprefix("v"), "ws": ws}
