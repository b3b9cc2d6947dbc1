"""The credentials of proxies out of a netrc file."""

from __future__ import annotations

import os
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Final, cast

from wsframe.core.credentials import ProxyCredentials
from wsframe.core.proxy import Proxy
from wsframe.errors import InvalidTokenFile
from wsframe.private_file import open_private, read_private

__all__ = ["netrc_credentials"]

MAX_NETRC: Final = 64 * 1024
"""Bytes of a netrc file: several hundred machines. Python's parser takes some 20 ms for them, in
which nothing else happens."""


def netrc_credentials(
    path: str | os.PathLike[str] | None = None,
) -> Callable[[Proxy], ProxyCredentials | None]:
    """Return a callable for `Proxy.credentials` that looks the proxy's host up in a netrc file.

    `path` is the file's; None is what the environment variable NETRC says, or else ~/.netrc. The
    file is read at each call, by Python's own `netrc`, so that a change holds from the next tunnel
    on. The entry is that of the machine with the name of the proxy's host, in any case, or else the
    default; without either there are no credentials. The port says nothing in such a file.

    The file must be a regular one of at most 64 KiB that only its owner can write, and that no
    other user can read (mode 600 or 640). The callable raises `InvalidTokenFile` when it is not,
    or is malformed, or not there; the text has nothing of the file in it.
    """
    if path is not None:
        path = os.fspath(path)

    def look_up(proxy: Proxy) -> ProxyCredentials | None:
        return _find(_read(_path() if path is None else path), proxy.host)

    return look_up


def _path() -> str:
    return os.environ.get("NETRC") or str(Path("~/.netrc").expanduser())


def _read(path: str) -> dict[str, tuple[str, str, str]]:
    wrong = ""
    try:
        with open_private(path, most=MAX_NETRC) as file:
            read_private(file, path)
            # The module reads by name or descriptor; what it says is wrong quotes the file.
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            return netrc(cast(Any, os.dup(file.fileno()))).hosts
    except NetrcParseError as error:
        wrong = f"{path}, line {error.lineno}: it is not as a netrc file is"
    except OSError as error:
        wrong = f"{path} cannot be read: {error.strerror}"
    raise InvalidTokenFile(wrong)


def _find(hosts: dict[str, tuple[str, str, str]], host: str) -> ProxyCredentials | None:
    by_name = {name.lower(): entry for name, entry in hosts.items()}
    entry = by_name.get(host) or hosts.get("default")
    return None if entry is None else ProxyCredentials(entry[0], entry[2])
