"""The benches still run: every server, proxy, client and chain of them, once, and a report."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.peers import NODE_MODULES, missing, program
from websockets.sync.server import serve

BENCH = Path(__file__).parent.parent / "bench"
SMOKE = "A smoke run: it shows that the bench works, and its figures mean nothing."


def require_compiler() -> None:
    program("cc")
    for path in (Path("/usr/include/openssl/ssl.h"), Path("/usr/include/zlib.h")):
        if not path.exists():
            missing(str(path))


def smoke(name: str, report: Path) -> tuple[str, Any]:
    """Run a bench; return what it printed, and its JSON. The figures mean nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", BENCH / f"{name}.py", "--smoke", "--json", report],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, json.loads(report.read_text())


def test_bench_of_the_data_path_measures_every_row_of_every_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that the tests have installed; of the others it says that they are left out."""
    require_compiler()
    program("node")
    if not (NODE_MODULES / "ws").is_dir():
        missing("ws for Node")
    report = tmp_path / "results" / "data.json"
    printed, result = smoke("data", report)
    assert result["failed"] == {}
    must_be = {"wsframe", "wsframe.protocol", "Autobahn", "Node ws"}
    assert not must_be & set(result["not installed"])
    servers = must_be | {"wsframe corked", "wsframe.protocol corked"} - set(result["not installed"])
    assert len(result["rows"]) == 20
    for row in result["rows"]:
        assert servers <= set(row["peers"]), row["row"]
        assert f"| {row['row']} | {row['unit']} |" in printed
        if not row["row"].startswith("memory"):  # of thirty connections, it can be none
            for values in row["peers"].values():
                assert min(values["figure"], values["a second"], *values["rounds"]) > 0
    assert printed.splitlines()[2] == SMOKE
    assert "Goals met: " not in printed
    assert report.with_suffix(".md").read_text() == printed
    monkeypatch.syspath_prepend(BENCH)
    as_markdown = runpy.run_path(str(BENCH / "report.py"))["as_markdown"]
    in_earnest = as_markdown(result | {"smoke": False}, list(result["rows"][0]["peers"]))
    assert "Goals met: " in in_earnest
    assert SMOKE not in in_earnest


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_compiler()
    compiled: Callable[[Path], Path] = runpy.run_path(str(BENCH / "generator.py"))["compiled"]
    return compiled(tmp_path_factory.mktemp("load"))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda message: message, ""),
        (lambda message: [message[:50], message[50:]], ""),
        (lambda message: message[:-1], "shorter"),
        (lambda message: message + b"x", "longer"),
        (lambda message: message[::-1], "with another content"),
        (lambda message: "x" * len(message), "with another opcode"),
    ],
    ids=["same", "fragmented", "shorter", "longer", "another", "text"],
)
def test_load_of_the_bench_refuses_answers_that_are_wrong(
    load: Path, answer: Callable[[bytes], Any], complaint: str
) -> None:
    """Otherwise a server could be fast by doing something else."""

    def echo(connection: Any) -> None:
        for message in connection:
            connection.send(answer(message))

    with serve(echo, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        try:
            done = subprocess.run(
                [load, "echo", "--port", str(port), "--connections", "3", "--seconds", "0.05"],
                input="go\n",
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            server.shutdown()
            thread.join()
    assert done.returncode == bool(complaint)
    if complaint:
        assert done.stderr.endswith(f" came back {complaint}\n")
    else:
        assert done.stderr == ""
        assert json.loads(done.stdout.splitlines()[1])["count"] > 0


def test_bench_of_tunnels_measures_every_way(tmp_path: Path) -> None:
    """The figures mean nothing; that they are there does."""
    for name in ("squid", "tinyproxy", "danted", "microsocks", "stunnel4", "curl"):
        program(name)
    printed, result = smoke("tunnel", tmp_path / "results" / "tunnel.json")
    assert [(row["proxy"], row["direction"]) for row in result["throughput"]] == [
        (proxy, direction)
        for proxy in ("squid", "tinyproxy", "dante", "microsocks")
        for direction in ("down", "up")
    ]
    for row in result["throughput"]:
        assert set(row["wsframe to"]) == {"socket", "twisted", "curl"}
        assert min(row["MiB a second"].values()) > 0
    must_cost = {(row["proxies"], row["hops"]): row["must cost"] for row in result["setup"]}
    assert must_cost.pop(("direct", 0)) == 2
    assert must_cost == {
        (kind, hops): 2 + each * hops
        for kind, each in {
            "http": 1,
            "https": 2,
            "socks4a": 1,
            "socks5h": 2,
            "socks5h, login": 3,
        }.items()
        for hops in (1, 2, 3)
    }
    assert min(row["round trips"] for row in result["setup"]) > 0
    assert "below the goal" not in printed
    assert printed.startswith(SMOKE)


def test_bench_of_tunnels_says_which_environment_it_takes(tmp_path: Path) -> None:
    """Where pytest is missing, as in the environment of a user."""
    (tmp_path / "pytest.py").write_text("raise ModuleNotFoundError('pytest')\n")
    done = subprocess.run(
        [sys.executable, BENCH / "tunnel.py", "--smoke"],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "`make peers` makes it" in done.stderr
    assert "Traceback" not in done.stderr
