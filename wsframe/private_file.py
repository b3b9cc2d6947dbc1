"""Opening a small file of secrets, which must be a regular one and closed to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from wsframe.errors import InvalidTokenFile

__all__ = ["MAX_PRIVATE_FILE", "open_private", "read_private"]

MAX_PRIVATE_FILE: Final = 1024 * 1024
"""Bytes of a file of secrets: ten thousand tokens; a larger one is some other file."""


@contextmanager
def open_private(path: str | os.PathLike[str], *, most: int = MAX_PRIVATE_FILE) -> Iterator[TextIO]:
    """Open a file in UTF-8 that only its owner can write, and that no other user can read.

    It has at most so many bytes.

    Raises `InvalidTokenFile`, whose text has nothing of the file in it, and OSError.
    """
    # "sig": some editors begin UTF-8 with a mark, which would become a part of the first name.
    with open(path, encoding="utf-8-sig", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidTokenFile(f"{path} is not a regular file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise InvalidTokenFile(f"{path} has mode {mode:o}; make it private: chmod 600 {path}")
        if status.st_size > most:
            raise InvalidTokenFile(f"{path} is larger than {most} bytes")
        yield file


def read_private(file: TextIO, path: str | os.PathLike[str]) -> str:
    """Return the text of a file that was opened so.

    Raises `InvalidTokenFile`.
    """
    text = None
    with suppress(UnicodeDecodeError):  # it holds the bytes: nothing is raised in its handler
        text = file.read(MAX_PRIVATE_FILE)
    if text is None:
        raise InvalidTokenFile(f"{path} is not UTF-8")
    return text


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a FIFO in its place must not hold us up before it is refused."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
