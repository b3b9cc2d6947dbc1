"""Every example runs to its end, says what it promises, and is short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

EXPECTED = {
    "echo.py": ["received 'Grüß Gott!'", r"received b'\x00\x01\x02'", "a ping took"],
    "binary.py": ["bytes went over, the checksum is the same"],
    "token_auth.py": [
        "Alice was told: Hello, alice!",
        "Mallory was refused: 401, this token is not valid",
        "Nobody was refused: 401, a token is required",
    ],
    "chat.py": ["Grace hears Ada: I am Ada.", "Ada hears Edsger: I am Edsger."],
    "monitor.py": ["this-machine: CPU"],
    "fetch_through_proxy.py": ["200 A page from /"],
}

ELSEWHERE = {"autobahn_echo.py"}
"""Examples with a test of their own."""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_runs_and_says_what_it_promises(name: str) -> None:
    """Its output has the promised lines, and nothing is on standard error."""
    output = run(name)
    for line in EXPECTED[name]:
        assert line in output


def test_the_binary_example_takes_a_file_of_more_than_one_piece(tmp_path: Path) -> None:
    """A file of 1 MiB and a byte arrives whole."""
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 4096 + b"!")
    assert "1048577 bytes went over, the checksum is the same" in run("binary.py", str(file))


def test_the_proxy_example_takes_a_page_and_a_proxy() -> None:
    """There is nothing at that port, and the password is not printed."""
    output = run("fetch_through_proxy.py", "http://localhost/", "http://user:planted@127.0.0.1:9")
    assert "no connection, in phase tcp: the proxy http://127.0.0.1:9 is not reached" in output
    assert "planted" not in output


def test_every_example_is_tested() -> None:
    """No example is without a test."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*EXPECTED, *ELSEWHERE}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_has_at_most_60_lines(path: Path) -> None:
    """What is longer is not read."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
