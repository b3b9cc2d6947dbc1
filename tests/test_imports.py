"""What is imported by what: nobody waits for, or holds in memory, what is of no use to them.

Time is not measured here. What is named takes most of it, and comes back with one careless import.
"""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import wsframe

EVERYTHING = {"autobahn", "cryptography", "h11", "OpenSSL", "twisted", "zope"}

# What of ours makes up the other side.
CLIENT = {"wsframe.client", "wsframe.endpoints", "wsframe.core.proxy", "wsframe.core.events", "h11"}
SERVER = {"wsframe.server", "wsframe.resource", "wsframe.auth"}
SELDOM = {
    "importlib.metadata",
    "psutil",
    "spnego",
    "twisted.internet.reactor",
    "twisted.spread",
    "twisted.web.client",
    "twisted.web.server",
    "wsframe.core.trace",
}


ROUTE = """\
from wsframe.cli import main
main(["route", "wss://host.example", "--proxy", "http://proxy.example:3128"])
"""


def imported_by(program: str) -> set[str]:
    """Run a program; return the names of the modules that it has imported."""
    program += "\nimport sys\nprint('\\n', *sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return {*ran.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("import wsframe", EVERYTHING | SERVER | CLIENT | SELDOM),
        ("from wsframe import ClientOptions, Proxy, RetryPolicy", EVERYTHING),
        ("from wsframe import serve", CLIENT | SELDOM),
        ("from wsframe import WebSocketServerService, broadcast", CLIENT | SELDOM),
        ("from wsframe import connect", SERVER | SELDOM),
        ("from wsframe import WebSocketClientService, explain_route", SERVER | SELDOM),
        ("import wsframe.reactor", {"autobahn"} | SERVER | CLIENT | SELDOM),
        ("import wsframe.services.echo, wsframe.services.broadcast", CLIENT | SELDOM),
        ("import wsframe.services.monitor", CLIENT | SELDOM),
        ("import wsframe.cli", EVERYTHING | SERVER | SELDOM | {"wsframe.client"}),
        (ROUTE, EVERYTHING | SERVER | SELDOM | {"wsframe.client"}),
        ("import twisted.plugins.wsframe_plugins", {"wsframe", "autobahn", "OpenSSL"}),
    ],
)
def test_what_is_of_no_use_is_not_imported(program: str, unwanted: set[str]) -> None:
    assert imported_by(program) & unwanted == set()


def test_the_names_that_are_imported_late_have_the_homes_that_type_checkers_read() -> None:
    """The two lists in `wsframe/__init__.py` say the same."""
    tree = ast.parse(Path(wsframe.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    said = {
        alias.name: "wsframe.core.events" if alias.name == "events" else each.module
        for each in block.body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    assert said == wsframe._HOMES


def test_every_public_name_is_there_however_it_is_asked_for() -> None:
    names: dict[str, object] = {}
    exec("from wsframe import *", names)  # noqa: S102
    for name in wsframe.__all__:
        assert names[name] is getattr(wsframe, name)
        assert name in dir(wsframe)
    assert {*wsframe._HOMES} <= {*wsframe.__all__}


def test_a_name_that_is_asked_for_once_is_asked_for_no_more() -> None:
    """From then on it is an attribute like any other."""
    program = "import wsframe\nwsframe.serve\nprint('serve' in vars(wsframe), end='')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout == b"True"


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'wsframe' has no attribute 'conect'"):
        wsframe.conect  # noqa: B018


def test_public_classes_and_functions_can_be_pickled() -> None:
    """By their own modules, which are imported where they are read."""
    for name in ("ClientOptions", "Request", "connect", "WebSocketClientService"):
        public = getattr(wsframe, name)
        assert pickle.loads(pickle.dumps(public)) is public  # noqa: S301
