"""What verbs that open a WebSocket have in common: what is said in the opening handshake."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from wsframe.cli import arguments
from wsframe.cli.failure import basic_secrets
from wsframe.core.http import check_header
from wsframe.core.opening import build_request
from wsframe.core.uri import WebSocketURI
from wsframe.errors import InvalidTokenFile
from wsframe.token_files import load_tokens

__all__ = ["Contradiction", "add_to", "said", "secrets"]

_SENSITIVE: Final = frozenset({"authorization", "cookie"})


class Contradiction(Exception):
    """Two arguments say different things about one header."""


def add_to(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the arguments; return their group."""
    group = parser.add_argument_group(
        "opening handshake",
        "What stands in an argument, the URI too, can be seen by all users of this machine.",
    )
    group.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        action="extend",
        default=[],
        type=arguments.value_of(_headers),
        help="send a header, in place of the usual one of that name; may be repeated. 'NAME:' "
        "leaves one out, 'NAME;' sends it empty. @FILE: those of a file, a line each",
    )
    group.add_argument("--origin", metavar="ORIGIN", help="send the header Origin")
    group.add_argument(
        "--subprotocol",
        metavar="NAME",
        action="append",
        default=[],
        help="offer a subprotocol; may be repeated, the preferred first",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        type=arguments.value_of(_token),
        help="a private file (chmod 600) with one name:token; the token is sent as Bearer",
    )
    return group


def _headers(text: str) -> list[tuple[str, str | None]]:
    if not text.startswith("@"):
        return [_header(text)]
    lines = Path(text[1:]).read_text("utf-8", "replace").split("\n")
    return [_header(line) for line in lines if line.strip()]


def _header(line: str) -> tuple[str, str | None]:
    """Read a header as curl does: with an empty value it is left out, with ";" it is empty."""
    line = line.strip()
    name, colon, value = line.partition(":")
    if not colon and line.endswith(";"):
        return check_header(line[:-1], "")
    if not colon:
        raise ValueError("a header is written as 'Name: value'")
    name, value = check_header(name, value)
    return name, value or None


def _token(path: str) -> str:
    tokens = load_tokens(path)
    if len(tokens) != 1:
        raise InvalidTokenFile(f"{path} has several tokens; give a file with one")
    (token,) = tokens.values()
    return token


def said(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `connect` that say what is said.

    Raises `InvalidHeader` and `Contradiction`, while there is no reactor yet.
    """
    headers: list[tuple[str, str | None]] = list(options.header)
    if options.token_file is not None:
        named = any(name.lower() == "authorization" for name, _ in headers)
        if options.uri.user is not None or named:
            raise Contradiction("--token-file is given, and other credentials too")
        headers.append(("Authorization", f"Bearer {options.token_file}"))
    result = {"headers": headers, "origin": options.origin, "subprotocols": options.subprotocol}
    uri: WebSocketURI = options.uri
    build_request(
        host=uri.host, port=uri.port, secure=uri.secure, target=uri.target, key="", **result
    )
    return result


def secrets(options: argparse.Namespace) -> Iterator[str]:
    """Yield what a refusal may repeat, and nobody is to read over a shoulder."""
    if options.uri.user is not None:
        yield from basic_secrets(options.uri.user, options.uri.password or "")
    if options.token_file is not None:
        yield from (options.token_file, f"Bearer {options.token_file}")
    # A tenth of what --help takes, for what it knows of traces.
    from wsframe.core.redaction import Redaction

    redaction = Redaction()
    given = [(name, value) for name, value in options.header if value is not None]
    offered = ", ".join(options.subprotocol)
    redaction.learn_request(options.uri.target, [*given, ("Sec-WebSocket-Protocol", offered)])
    yield from redaction.learnt
    for name, value in given:
        if name.lower() in _SENSITIVE:  # the short ones, too
            yield value
            yield value.partition(" ")[2]
