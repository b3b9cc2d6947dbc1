"""Records as lines: text for the eye, or JSON in the words of HAR 1.2 for programs.

No byte of a peer's can begin a line, end one, or speak to a terminal: what is not printable is
escaped, and so is the backslash.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from wsframe.core.frames import CLOSE
from wsframe.core.trace import Body, Broken, End, Frame, Head, Record, Start

__all__ = ["LINES", "Style", "escape", "limit_line"]

Style = Literal["text", "json"]
"""How a trace is written."""

_OPCODES: Final = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
_LINE_END: Final = re.compile(b"\r?\n")


def escape(text: str) -> str:
    r"""Return the text in printable characters only: ``\n``, ``\x1b``, ``\u202e``, ``\\``.

    A byte that is no UTF-8 (decoded with "surrogateescape") becomes ``\xff``.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _show(data: bytes, encoding: str = "utf-8") -> str:
    return escape(data.decode(encoding, "surrogateescape"))


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _whole_characters(frame: Frame) -> bytes:
    """Return what is shown of a payload; of a text without a last character that is cut in two."""
    start = frame.start
    if not (frame.is_text and frame.cut):
        return start
    for back in range(1, min(4, len(start)) + 1):
        byte = start[-back]
        if byte & 0xC0 != 0x80:  # where the last character begins
            size = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return start if size <= back else start[:-back]
    return start


# ---------------------------------------------------------------- text


def _text(number: int, record: Record) -> list[str]:
    prefix = f"{_time(record.at)} {number}"
    if isinstance(record, Start | End):
        return [f"{prefix} {_text_of_end(record)}"]
    prefix += " >" if record.is_sent else " <"
    match record:
        case Head():
            lines = _LINE_END.split(record.raw)
            if lines[-1] == b"":
                del lines[-1]
            shown = [f"{prefix} {_show(line, 'ascii')}" if line else prefix for line in lines]
            return shown if record.complete else [*shown, f"{prefix} [the head is incomplete]"]
        case Body():
            more = " ..." if record.cut else ""
            return [f"{prefix} [body] {_show(record.start)}{more}"]
        case Frame():
            return [f"{prefix} {_text_of_frame(record)}".rstrip()]
        case Broken():
            missing = "head" if record.missing is None else f"last {record.missing} bytes"
            return [f"{prefix} [the frame's {missing} did not come]"]


def _text_of_end(record: Start | End) -> str:
    if isinstance(record, Start):
        to = "to" if record.role == "client" else "from"
        state = "open" if record.is_open else "connected"
        return f"[{state}] {to} {escape(record.peer)}"
    cleanly = "cleanly" if record.clean else "not cleanly"
    by = "" if record.by is None else f" by {record.by}"
    return f"[ended] {record.code} {cleanly}{by} {escape(record.reason)}".rstrip()


def _text_of_frame(frame: Frame) -> str:
    words = [_OPCODES.get(frame.opcode, f"opcode {frame.opcode}")]
    words += ["fin"] if frame.fin else []
    words += [f"rsv{bit}" for bit, mask in ((1, 4), (2, 2), (3, 1)) if frame.rsv & mask]
    words += ["masked"] if frame.masked else []
    size = f"{frame.length} byte{'' if frame.length == 1 else 's'}"
    start = _whole_characters(frame)
    more = " ..." if frame.cut else ""
    if frame.opcode == CLOSE and len(start) >= 2:
        shown = f"{int.from_bytes(start[:2])} {_show(start[2:])}"
    else:
        shown = _show(start) if frame.is_text else start.hex()
    return f"[{' '.join(words)}, {size}] {shown}{more}"


# ---------------------------------------------------------------- JSON


def _json(number: int, record: Record) -> list[str]:
    return [_dump({"_connection": number, **_fields(record)})]


def _dump(value: dict[str, Any]) -> str:
    # JSON escapes what is below a blank, and ASCII is asked for; that leaves DEL.
    return json.dumps(value).replace("\x7f", "\\u007f")


def _fields(record: Record) -> dict[str, Any]:
    match record:
        case Start():
            return {
                "startedDateTime": _time(record.at),
                "_role": record.role,
                "_peer": record.peer,
                "_open": record.is_open,
            }
        case Head():
            return _json_of_head(record)
        case Body():
            kind = "request" if record.is_request else "response"
            return {
                kind: {
                    "content": {
                        **_data(record.start, True, ("text", "encoding")),
                        "_cut": record.cut,
                    }
                }
            }
        case Frame():
            return {"_webSocketMessages": [_json_of_frame(record)]}
        case Broken():
            kind = "send" if record.is_sent else "receive"
            return {"_broken": {"time": record.at, "type": kind, "missing": record.missing}}
        case End():
            return {
                "_end": {
                    "time": record.at,
                    "code": record.code,
                    "reason": record.reason,
                    "by": record.by,
                    "clean": record.clean,
                }
            }


def _json_of_head(head: Head) -> dict[str, Any]:
    line, *rest = head.raw.decode("latin-1").replace("\r\n", "\n").split("\n")
    headers = [_header(field) for field in rest if field]
    first, _, others = line.partition(" ")
    fields: dict[str, Any]
    if head.is_request:
        target, _, version = others.rpartition(" ")
        hosts = [item["value"] for item in headers if item["name"].lower() == "host"]
        scheme = "wss" if head.secure else "ws"
        absolute = target.startswith("/") and len(hosts) == 1
        url = f"{scheme}://{hosts[0]}{target}" if absolute else target
        fields = {"method": first, "url": url, "httpVersion": version}
    else:
        status, _, reason = others.partition(" ")
        known = status.isascii() and status.isdigit() and len(status) == 3
        fields = {
            "status": int(status) if known else 0,
            "statusText": reason if known else line,
            "httpVersion": first if known else "",
        }
    fields |= {"headers": headers, "headersSize": len(head.raw)}
    if not head.complete:
        fields["_incomplete"] = True
    return {"request" if head.is_request else "response": {"_time": head.at, **fields}}


def _header(field: str) -> dict[str, str]:
    name, colon, value = field.partition(":")
    if not colon:
        return {"name": "", "value": field}
    return {"name": name, "value": value.strip(" \t")}


def _data(data: bytes, is_text: bool, names: tuple[str, str]) -> dict[str, str]:
    """Return the data, and where it is no text how it is encoded, under these names."""
    if is_text:
        try:
            return {names[0]: data.decode()}
        except UnicodeDecodeError:
            pass
    return {names[0]: base64.b64encode(data).decode(), names[1]: "base64"}


def _json_of_frame(frame: Frame) -> dict[str, Any]:
    start = _whole_characters(frame)
    return {
        "type": "send" if frame.is_sent else "receive",
        "time": frame.at,
        "opcode": frame.opcode,
        **_data(start, frame.is_text, ("data", "_encoding")),
        "_fin": frame.fin,
        "_rsv": frame.rsv,
        "_masked": frame.masked,
        "_length": frame.length,
        "_cut": frame.cut,
    }


LINES: Final[dict[Style, Callable[[int, Record], list[str]]]] = {"text": _text, "json": _json}
"""For each style what makes lines, without their ends, of a connection's number and a record."""


def limit_line(style: Style, at: float, max_bytes: int) -> str:
    """Return the last line of a trace that has reached its limit."""
    if style == "json":
        return _dump({"_limit": {"time": at, "max_bytes": max_bytes}})
    return f"{_time(at)} - [the trace ends: max_bytes={max_bytes} is reached]"
