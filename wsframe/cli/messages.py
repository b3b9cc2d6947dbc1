"""How a message that came is written: for a program, as JSON, or for a terminal that obeys."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

from wsframe.cli.line_editor import shown
from wsframe.connection import Message

__all__ = ["Write", "as_bytes", "as_json", "as_line", "json_line", "on_terminal"]

Write = Callable[[Message], bytes]
"""A way to write a message."""

MAX_SHOWN: Final = 32
"""Bytes of a binary message that are shown on a terminal: a row or two."""


def json_line(value: dict[str, Any]) -> bytes:
    """Return one line of JSON, in ASCII: no terminal obeys it."""
    return json.dumps(value).encode() + b"\n"


def as_json(message: Message) -> bytes:
    """Return one line of JSON with the type and the data of the message; binary is in Base64."""
    if isinstance(message, str):
        return json_line({"type": "text", "data": message})
    return json_line({"type": "binary", "data": base64.b64encode(message).decode()})


def as_bytes(message: Message) -> bytes:
    """Return the message and nothing else."""
    return message.encode() if isinstance(message, str) else message


def as_line(message: Message) -> bytes:
    """Return the message and the end of a line."""
    return as_bytes(message) + b"\n"


def on_terminal(message: Message, prefix: str = "") -> bytes:
    """Return lines that a terminal shows and does not obey (CVE-2020-7694).

    Those after the first are indented by as much as the prefix: none looks like a message of its
    own. Of a binary message the length and its beginning are shown, in hexadecimal.
    """
    if isinstance(message, str):
        lines = [shown(line) for line in message.split("\n")]
        return (prefix + ("\n" + " " * len(prefix)).join(lines) + "\n").encode()
    more = " ..." if len(message) > MAX_SHOWN else ""
    return f"{prefix}binary, {len(message)} bytes: {message[:MAX_SHOWN].hex(' ')}{more}\n".encode()
