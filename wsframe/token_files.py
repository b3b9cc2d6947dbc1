"""Files of secrets for both sides: a token a line, or one user and password."""

from __future__ import annotations

import os
import re
from typing import Final

from wsframe.errors import InvalidTokenFile
from wsframe.private_file import open_private, read_private

__all__ = ["load_password", "load_tokens"]

MIN_TOKEN: Final = 16
"""Characters of a token; what is shorter can be guessed over the network."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1


def _secret_lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Return the numbered lines of a private file, without empty ones and comments."""
    with open_private(path) as file:
        lines = read_private(file, path).splitlines()
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def load_password(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Read a file with one ``user:password``; it must be as private as a token file.

    Raises `InvalidTokenFile`, whose text has no password in it, and OSError.
    """
    lines = _secret_lines(path)
    user, colon, password = lines[0][1].partition(":") if lines else ("", "", "")
    if len(lines) != 1 or not user or not colon:
        raise InvalidTokenFile(f"{path} does not have one line user:password")
    return user, password


def load_tokens(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a token file: one ``name:token`` a line; empty lines and lines with # are passed over.

    Names are 1 to 64 letters, digits, dots, underscores and hyphens; tokens have at least 16
    characters of RFC 6750. The file must be a regular one that only its owner can write, and that
    no other user can read (mode 600 or 640).

    Raises `InvalidTokenFile`, whose text has no token in it, and OSError.
    """
    tokens: dict[str, str] = {}
    for number, text in _secret_lines(path):
        name, colon, token = text.partition(":")
        token = token.strip()
        if not colon or not _NAME.fullmatch(name.strip()):
            raise InvalidTokenFile(f"{path}, line {number}: it is not name:token")
        if not _TOKEN.fullmatch(token) or len(token) < MIN_TOKEN:
            raise InvalidTokenFile(
                f"{path}, line {number}: a token has at least {MIN_TOKEN} characters, "
                "letters, digits and -._~+/"
            )
        if name.strip() in tokens or token in tokens.values():
            raise InvalidTokenFile(f"{path}, line {number}: the name or token is there twice")
        tokens[name.strip()] = token
    if not tokens:
        raise InvalidTokenFile(f"{path} has no token in it")
    return tokens
