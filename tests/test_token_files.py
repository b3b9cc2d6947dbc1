"""Files of tokens, and of one password: what is read, and that others cannot read it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsframe.errors import InvalidTokenFile
from wsframe.private_file import MAX_PRIVATE_FILE
from wsframe.token_files import MIN_TOKEN, load_password, load_tokens

TOKEN = "tok.Secret_0123456789"
OTHER = "another.Secret~abcdef="
TOKENS = {"anna": TOKEN, "bert": OTHER}

Private = Callable[..., Path]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_tokens_with_comments_blanks_and_any_end_of_line(private: Private, end: str) -> None:
    lines = ["# all of us", "", f"anna:{TOKEN}", f"  bert : {OTHER}  ", "   # no more"]
    assert load_tokens(private((end or "\n").join(lines) + end)) == TOKENS


def test_a_byte_order_mark_is_no_part_of_the_first_name(private: Private) -> None:
    assert load_tokens(private(b"\xef\xbb\xbf" + f"anna:{TOKEN}".encode())) == {"anna": TOKEN}
    assert load_password(private(b"\xef\xbb\xbfanna:pass")) == ("anna", "pass")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_private_modes_are_taken(private: Private, mode: int) -> None:
    path = private(f"anna:{TOKEN}\n", mode)
    assert load_tokens(path) == {"anna": TOKEN}


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o666, 0o777])
@pytest.mark.parametrize("load", [load_tokens, load_password])
def test_modes_that_let_others_in_are_refused(private: Private, mode: int, load: Any) -> None:
    with pytest.raises(InvalidTokenFile, match=f"mode {mode:o}.*chmod 600"):
        load(private(f"anna:{TOKEN}\n", mode))


def test_a_symbolic_link_is_judged_by_its_target(private: Private, tmp_path: Path) -> None:
    """That is how secrets are mounted into containers."""
    link = tmp_path / "link"
    link.symlink_to(private(f"anna:{TOKEN}\n"))
    assert load_tokens(link) == {"anna": TOKEN}
    private(f"anna:{TOKEN}\n", 0o644)
    with pytest.raises(InvalidTokenFile, match="mode 644"):
        load_tokens(link)


@pytest.mark.parametrize("load", [load_tokens, load_password])
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path, load: Any) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    with pytest.raises(InvalidTokenFile, match="not a regular file"):
        load(path)


@pytest.mark.parametrize("load", [load_tokens, load_password])
def test_devices_directories_and_missing_files_are_errors(tmp_path: Path, load: Any) -> None:
    with pytest.raises(InvalidTokenFile, match="not a regular file"):
        load("/dev/zero")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


def test_a_file_that_is_too_large_is_refused(private: Private) -> None:
    line = f"anna:{TOKEN}\n"
    largest = line + "#" * (MAX_PRIVATE_FILE - len(line))
    assert load_tokens(private(largest)) == {"anna": TOKEN}
    with pytest.raises(InvalidTokenFile, match=f"larger than {MAX_PRIVATE_FILE}"):
        load_tokens(private(largest + "#"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "no token in it"),
        ("# nothing\n\n", "no token in it"),
        (f"anna={TOKEN}", "line 1: it is not name:token"),
        (f"\n:{TOKEN}", "line 2: it is not name:token"),
        (f"an na:{TOKEN}", "line 1: it is not name:token"),
        (f"{'n' * 65}:{TOKEN}", "line 1: it is not name:token"),
        (f"zoë:{TOKEN}", "line 1: it is not name:token"),
        (f"anna:{'s' * (MIN_TOKEN - 1)}", f"line 1: a token has at least {MIN_TOKEN}"),
        ("anna:", "line 1: a token has at least"),
        (f"anna:{TOKEN} x", "line 1: a token has at least"),
        (f"anna:{TOKEN}\x00", "line 1: a token has at least"),
        (f"anna:{TOKEN}\nanna:{OTHER}", "line 2: the name or token is there twice"),
        (f"anna:{TOKEN}\nbert:{TOKEN}", "line 2: the name or token is there twice"),
        (b"anna:\xff\xfe" + TOKEN.encode(), "is not UTF-8"),
    ],
)
def test_a_malformed_token_file_is_an_error_without_the_token(
    private: Private, content: Any, text: str
) -> None:
    with pytest.raises(InvalidTokenFile, match=text) as caught:
        load_tokens(private(content))
    shown = str(caught.value) + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    assert "sss" not in shown


def test_the_shortest_token(private: Private) -> None:
    assert load_tokens(private(f"a:{'s' * MIN_TOKEN}")) == {"a": "s" * MIN_TOKEN}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("anna:pass\n", ("anna", "pass")),
        ("# the proxy's\nanna:p:a:s:s\r\n", ("anna", "p:a:s:s")),
        ("zoë:Grüße", ("zoë", "Grüße")),
        ("anna:", ("anna", "")),
    ],
)
def test_a_password_file(private: Private, content: str, expected: tuple[str, str]) -> None:
    assert load_password(private(content)) == expected


@pytest.mark.parametrize("content", ["", "#x\n", "my.secret", ":my.secret", "a:my.secret\nb:c\n"])
def test_a_malformed_password_file_is_an_error_without_the_password(
    private: Private, content: str
) -> None:
    with pytest.raises(InvalidTokenFile, match="one line user:password") as caught:
        load_password(private(content))
    assert "my.secret" not in "".join(traceback.format_exception(caught.value))
