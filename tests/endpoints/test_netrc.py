"""Credentials out of a netrc file: whose entry it is, which files are taken, and no secrets out."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsframe.core.proxy import Proxy
from wsframe.endpoints.netrc import MAX_NETRC, netrc_credentials
from wsframe.errors import InvalidTokenFile

Private = Callable[..., Path]

FILE = """# the proxies
machine proxy.example login anna password p:a"ss
machine Other.Example
    login bert
    account ignored
    password "with blank"
machine alone login carl
machine ::1 login six password pass
"""


def of(path: Any, host: str, **fields: Any) -> tuple[str | None, str | None] | None:
    found = netrc_credentials(path)(Proxy(host, 1, **fields))
    return None if found is None else (found.user, found.password)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("proxy.example", ("anna", 'p:a"ss')),
        ("PROXY.example", ("anna", 'p:a"ss')),
        ("other.example", ("bert", "with blank")),
        ("alone", ("carl", "")),
        ("::1", ("six", "pass")),
        ("sub.proxy.example", None),
        ("example", None),
    ],
)
def test_entry_is_that_of_the_host(
    private: Private, host: str, expected: tuple[str, str] | None
) -> None:
    """In any case, and not of what is below it."""
    assert of(private(FILE), host) == expected


def test_default_is_for_all_others(private: Private) -> None:
    path = private(FILE + "default login any password word\n")
    assert of(path, "unknown") == ("any", "word")
    assert of(path, "proxy.example") == ("anna", 'p:a"ss')


def test_port_and_scheme_say_nothing(private: Private) -> None:
    assert of(private(FILE), "proxy.example", scheme="socks5h") == ("anna", 'p:a"ss')


def test_file_is_read_anew_at_each_call(private: Private) -> None:
    look_up = netrc_credentials(private("machine p login a password one"))
    first = look_up(Proxy("p", 1))
    private("machine p login a password two")
    second = look_up(Proxy("p", 1))
    assert [found.password for found in (first, second) if found] == ["one", "two"]


def test_file_is_that_of_the_environment_or_the_home(
    private: Private, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at when it is asked, not when it is made."""
    look_up = netrc_credentials()
    monkeypatch.setenv("NETRC", str(private("machine p login of-variable password x")))
    found = look_up(Proxy("p", 1))
    assert found is not None
    assert found.user == "of-variable"
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InvalidTokenFile, match=r"/\.netrc cannot be read: No such file"):
        look_up(Proxy("p", 1))
    private("machine p login of-home password x").rename(tmp_path / ".netrc")
    found = look_up(Proxy("p", 1))
    assert found is not None
    assert found.user == "of-home"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620])
def test_file_that_lets_others_in_is_refused(private: Private, mode: int) -> None:
    with pytest.raises(InvalidTokenFile, match=f"mode {mode:o}.*chmod 600"):
        of(private(FILE, mode), "proxy.example")


def test_file_that_is_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidTokenFile, match="none cannot be read: No such file"):
        of(tmp_path / "none", "p")
    with pytest.raises(InvalidTokenFile, match="cannot be read: Is a directory"):
        of(tmp_path, "p")
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(InvalidTokenFile, match="not a regular file"):
        of(tmp_path / "fifo", "p")


def test_file_that_is_too_large_is_refused(private: Private) -> None:
    line = "machine p login a password b\n"
    largest = line + "#" * (MAX_NETRC - len(line))
    assert of(private(largest), "p") == ("a", "b")
    with pytest.raises(InvalidTokenFile, match=f"larger than {MAX_NETRC}"):
        of(private(largest + "#"), "p")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("s3cret", "line 1"),
        ("machine p login a password b s3cret", "line 1"),
        ("\nmachine p login a word s3cret", "line 2"),
        ("machine", "line 1"),
        ("macdef s3cret\ns3cret", "line"),
        (b"machine p login a password s3cret\xff", "is not UTF-8"),
    ],
)
def test_malformed_file_is_an_error_without_its_content(
    private: Private, content: Any, text: str
) -> None:
    with pytest.raises(InvalidTokenFile, match=text) as caught:
        of(private(content), "p")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_no_descriptor_is_left(private: Private) -> None:
    path = private(FILE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    of(path, "proxy.example")
    with pytest.raises(InvalidTokenFile):
        of(private("bad"), "proxy.example")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_callable_shows_no_secret(private: Private) -> None:
    look_up: Callable[..., Any] = netrc_credentials(private(FILE))
    assert "anna" not in f"{look_up!r} {look_up(Proxy('proxy.example', 1))!r}"
