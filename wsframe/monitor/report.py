"""What an agent says about its machine, and its two encodings.

An agent sends one `Report` per WebSocket message: a text message carries it as JSON, a binary
message in the layout below. Both carry the same figures and decode to equal reports.

JSON is an object with one member per field of `Report`. Members this version does not know are
ignored, so that a newer agent can talk to an older server; a missing or a repeated member is not.

The binary layout, version 1, in network byte order and without padding:

==========  =======================================================================
type        content
==========  =======================================================================
u8          version, 1
text        name
text        hostname
text        platform
f64         time
f64         interval
f64         cpu_percent
u16         cpu_count
u64         memory_total
u64         memory_used
u64         memory_available
u64         swap_total
u64         swap_used
f64 f64 f64 load
u64         disk_total
u64         disk_used
f64         net_sent
f64         net_received
u32         processes
f64         uptime
u16         n, the number of items of per_cpu
n * f64     per_cpu
==========  =======================================================================

`text` is a u8 length in bytes and that many bytes of UTF-8; `f64` is an IEEE 754 double. Nothing
follows the last item. A change of this layout is a new version, never a new meaning of an old
one.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass, fields
from typing import Any, Final, NoReturn, Protocol

from wsframe.errors import WSFrameError

__all__ = [
    "MAX_REPORT",
    "InvalidReport",
    "Report",
    "check_field",
    "decode",
    "encode_binary",
    "encode_json",
]

MAX_REPORT: Final = 64 * 1024
"""The largest report, in bytes of the message.

The largest valid report (1024 processors, every number at full length) is below 32 KiB of JSON; as
much again is left for members that a newer agent may add.
"""


class InvalidReport(WSFrameError, ValueError):
    """A report that breaks the rules of this module.

    `field` is the field at fault, or None when the message as a whole is. `reason` says what is
    wrong in words of this module only: it never quotes the message, so it is safe to log.
    """

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason if field is None else f"{field}: {reason}")
        self.reason = reason
        self.field = field


class _Rule(Protocol):
    def __call__(self, field: str, value: object) -> object:
        """Return the value in the type of the field, or raise InvalidReport."""


@dataclass(frozen=True, slots=True)
class _Text:
    """Printable text of at most `limit` bytes of UTF-8 that matches `pattern`, where there is one.

    Printable leaves out control characters, lone surrogates, line separators and the marks that
    reverse the direction of text: such a name could misrepresent itself in a log or on the page.
    """

    limit: int
    pattern: re.Pattern[str] | None = None

    def __call__(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidReport("must be text", field)
        # The characters are counted first, because encoding a huge string costs its size again.
        if len(value) > self.limit or not value.isprintable():
            raise InvalidReport(f"must be at most {self.limit} bytes of printable text", field)
        if len(value.encode()) > self.limit:
            raise InvalidReport(f"must be at most {self.limit} bytes of printable text", field)
        if self.pattern is not None and self.pattern.fullmatch(value) is None:
            raise InvalidReport(f"must match {self.pattern.pattern}", field)
        return value


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole number from 0 to `high`, both included."""

    high: int

    def __call__(self, field: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidReport("must be a whole number", field)
        if not 0 <= value <= self.high:
            raise InvalidReport(f"must be from 0 to {self.high}", field)
        return value


@dataclass(frozen=True, slots=True)
class _Real:
    """A number from `low` to `high`, both included, which leaves out NaN and the infinities."""

    low: float
    high: float

    def __call__(self, field: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidReport("must be a number", field)
        if not self.low <= value <= self.high:
            raise InvalidReport(f"must be from {self.low:g} to {self.high:g}", field)
        return float(value)


@dataclass(frozen=True, slots=True)
class _Reals:
    """From `least` to `most` numbers, each of which keeps the rule `item`."""

    least: int
    most: int
    item: _Real

    def __call__(self, field: str, value: object) -> tuple[float, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidReport("must be a list of numbers", field)
        if not self.least <= len(value) <= self.most:
            raise InvalidReport(f"must have {self.least} to {self.most} numbers", field)
        return tuple(self.item(field, one) for one in value)


# The last second of the year 9999: whatever is below can be turned into a date in any language.
_SECONDS: Final = _Real(0.0, 253402300799.0)
_PERCENT: Final = _Real(0.0, 100.0)
# Readers in other languages hold sizes in a signed 64-bit integer.
_BYTES: Final = _Whole(2**63 - 1)
# A thousand times the fastest network interface there is.
_RATE: Final = _Real(0.0, 1e15)

_RULES: Final[dict[str, _Rule]] = {
    "name": _Text(64, re.compile(r"[A-Za-z0-9._-]{1,64}")),
    "time": _SECONDS,
    "interval": _Real(0.001, 86400.0),
    "cpu_percent": _PERCENT,
    "cpu_count": _Whole(2**16 - 1),
    "per_cpu": _Reals(0, 1024, _PERCENT),
    "memory_total": _BYTES,
    "memory_used": _BYTES,
    "memory_available": _BYTES,
    "swap_total": _BYTES,
    "swap_used": _BYTES,
    "load": _Reals(3, 3, _Real(0.0, 1e6)),
    "disk_total": _BYTES,
    "disk_used": _BYTES,
    "net_sent": _RATE,
    "net_received": _RATE,
    "processes": _Whole(2**32 - 1),
    "uptime": _SECONDS,
    # The longest DNS name has 253 characters; 255 bytes is what the length octet can count.
    "hostname": _Text(255),
    "platform": _Text(255),
}


def check_field(field: str, value: object) -> Any:
    """Return `value` in the type of that field of `Report`.

    A whole number becomes a float where the field is one, a list becomes a tuple. Raises
    `InvalidReport` if the field does not allow the value, and `KeyError` if there is no such field.
    """
    return _RULES[field](field, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one machine at one moment.

    Every field is checked and brought into its type as by `check_field`, so a report in hand is a
    valid one; a field that is not allowed raises `InvalidReport`. A figure that the machine cannot
    give is zero, or empty.

    name: the agent's name, 1 to 64 of the characters `A-Z a-z 0-9 . _ -`.
    time: when the figures were taken, in seconds since the epoch, by the agent's clock.
    interval: seconds between two reports, from 0.001 to 86400.
    cpu_percent: how busy the whole machine was since the report before, 0 to 100.
    cpu_count: the number of logical processors.
    per_cpu: how busy each logical processor was, 0 to 100; at most 1024 of them.
    memory_total, memory_used, memory_available: main memory, in bytes.
    swap_total, swap_used: swap space, in bytes.
    load: runnable processes on average over 1, 5 and 15 minutes.
    disk_total, disk_used: the root file system, in bytes.
    net_sent, net_received: bytes per second, over all interfaces but loopback.
    processes: the number of processes.
    uptime: seconds since the machine started.
    hostname, platform: printable text of at most 255 bytes of UTF-8 each.
    """

    name: str
    time: float
    interval: float
    cpu_percent: float
    cpu_count: int
    per_cpu: tuple[float, ...]
    memory_total: int
    memory_used: int
    memory_available: int
    swap_total: int
    swap_used: int
    load: tuple[float, float, float]
    disk_total: int
    disk_used: int
    net_sent: float
    net_received: float
    processes: int
    uptime: float
    hostname: str
    platform: str

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, check_field(name, getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready to be encoded as JSON."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS: Final = tuple(field.name for field in fields(Report))

_VERSION: Final = 1
_TEXTS: Final = ("name", "hostname", "platform")
# The fixed part of the layout: what follows the texts and comes before the items of per_cpu.
_NUMBERS: Final = struct.Struct("!dddH5Q3d2Q2dIdH")
_MALFORMED: Final = "does not follow the binary layout"


def encode_json(report: Report) -> str:
    """Return the report as the JSON of a text message."""
    return json.dumps(report.as_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode_binary(report: Report) -> bytes:
    """Return the report in the binary layout of this module."""
    parts = [bytes((_VERSION,))]
    for name in _TEXTS:
        text = getattr(report, name).encode()
        parts += bytes((len(text),)), text
    parts.append(
        _NUMBERS.pack(
            report.time,
            report.interval,
            report.cpu_percent,
            report.cpu_count,
            report.memory_total,
            report.memory_used,
            report.memory_available,
            report.swap_total,
            report.swap_used,
            *report.load,
            report.disk_total,
            report.disk_used,
            report.net_sent,
            report.net_received,
            report.processes,
            report.uptime,
            len(report.per_cpu),
        )
    )
    parts.append(struct.pack(f"!{len(report.per_cpu)}d", *report.per_cpu))
    return b"".join(parts)


def decode(message: str | bytes) -> Report:
    """Return the report that a message carries: JSON if it is text, else the binary layout.

    Raises `InvalidReport`, and nothing else, whatever the message is.
    """
    if isinstance(message, str):
        return _decode_json(message)
    if isinstance(message, bytes):
        return _decode_binary(message)
    raise InvalidReport("must be str or bytes")


def _check_size(size: int) -> None:
    if size > MAX_REPORT:
        raise InvalidReport(f"longer than {MAX_REPORT} bytes")


def _decode_json(text: str) -> Report:
    _check_size(len(text))
    try:
        _check_size(len(text.encode()))
        found = _parse(text)
    except InvalidReport:
        raise
    except (ValueError, RecursionError):
        # Without its cause: the errors of the parser quote the message.
        raise InvalidReport("not JSON") from None
    if not isinstance(found, dict):
        raise InvalidReport("must be a JSON object")
    missing = next((name for name in _FIELDS if name not in found), None)
    if missing is not None:
        raise InvalidReport("missing", missing)
    return Report(**{name: found[name] for name in _FIELDS})


def _parse(text: str) -> object:
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_refuse_constant,
        parse_float=_finite,
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # RFC 8259 section 4 leaves open which of two equal names counts: two readers could disagree.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidReport("has a repeated member")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidReport("has NaN or Infinity, which are not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidReport("has a number that is too large")
    return value


def _decode_binary(data: bytes) -> Report:
    _check_size(len(data))
    if data[:1] != bytes((_VERSION,)):
        raise InvalidReport("has an unknown version")
    try:
        return _unpack(data, 1)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise InvalidReport(_MALFORMED) from None


def _unpack(data: bytes, offset: int) -> Report:
    texts = []
    for _ in _TEXTS:
        end = offset + 1 + data[offset]
        # A text that is cut short leaves too few bytes for the numbers, which are read next.
        texts.append(data[offset + 1 : end].decode())
        offset = end
    (
        time,
        interval,
        cpu_percent,
        cpu_count,
        memory_total,
        memory_used,
        memory_available,
        swap_total,
        swap_used,
        load_1,
        load_5,
        load_15,
        disk_total,
        disk_used,
        net_sent,
        net_received,
        processes,
        uptime,
        count,
    ) = _NUMBERS.unpack_from(data, offset)
    offset += _NUMBERS.size
    if len(data) - offset != 8 * count:
        raise InvalidReport(_MALFORMED)
    name, hostname, platform = texts
    return Report(
        name=name,
        time=time,
        interval=interval,
        cpu_percent=cpu_percent,
        cpu_count=cpu_count,
        per_cpu=struct.unpack_from(f"!{count}d", data, offset),
        memory_total=memory_total,
        memory_used=memory_used,
        memory_available=memory_available,
        swap_total=swap_total,
        swap_used=swap_used,
        load=(load_1, load_5, load_15),
        disk_total=disk_total,
        disk_used=disk_used,
        net_sent=net_sent,
        net_received=net_received,
        processes=processes,
        uptime=uptime,
        hostname=hostname,
        platform=platform,
    )
