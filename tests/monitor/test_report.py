"""Reports, their two encodings, and everything that is not one."""

from __future__ import annotations

import json
import struct
import tracemalloc
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsframe.errors import WSFrameError
from wsframe.monitor.report import (
    MAX_REPORT,
    InvalidReport,
    Report,
    check_field,
    decode,
    encode_binary,
    encode_json,
)

VALID: dict[str, Any] = {
    "name": "web-1.example_x",
    "time": 1700000000.25,
    "interval": 2.0,
    "cpu_percent": 12.5,
    "cpu_count": 2,
    "per_cpu": (10.0, 15.0),
    "memory_total": 100,
    "memory_used": 60,
    "memory_available": 40,
    "swap_total": 10,
    "swap_used": 1,
    "load": (0.1, 0.2, 0.3),
    "disk_total": 1000,
    "disk_used": 10,
    "net_sent": 1.5,
    "net_received": 2.5,
    "processes": 7,
    "uptime": 99.0,
    "hostname": "höst",
    "platform": "Linux 6 x86_64",
}
REPORT = Report(**VALID)
JSON = encode_json(REPORT)
BINARY = encode_binary(REPORT)

LARGEST = Report(
    name="n" * 64,
    time=253402300798.12345,
    interval=0.0010000000000000002,
    cpu_percent=99.99999999999999,
    cpu_count=2**16 - 1,
    per_cpu=(2.2250738585072014e-308,) * 1024,
    memory_total=2**63 - 1,
    memory_used=2**63 - 1,
    memory_available=2**63 - 1,
    swap_total=2**63 - 1,
    swap_used=2**63 - 1,
    load=(2.2250738585072014e-308,) * 3,
    disk_total=2**63 - 1,
    disk_used=2**63 - 1,
    net_sent=2.2250738585072014e-308,
    net_received=2.2250738585072014e-308,
    processes=2**32 - 1,
    uptime=253402300798.12345,
    hostname='"' * 255,
    platform="\\" * 255,
)

percents = st.floats(0, 100)
sizes = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 253402300799)
loads = st.floats(0, 1e6)
texts = st.text(max_size=255).filter(str.isprintable).filter(lambda text: len(text.encode()) <= 255)
reports = st.builds(
    Report,
    name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    time=seconds,
    interval=st.floats(0.001, 86400),
    cpu_percent=percents,
    cpu_count=st.integers(0, 2**16 - 1),
    per_cpu=st.lists(percents, max_size=20).map(tuple),
    memory_total=sizes,
    memory_used=sizes,
    memory_available=sizes,
    swap_total=sizes,
    swap_used=sizes,
    load=st.tuples(loads, loads, loads),
    disk_total=sizes,
    disk_used=sizes,
    net_sent=st.floats(0, 1e15),
    net_received=st.floats(0, 1e15),
    processes=st.integers(0, 2**32 - 1),
    uptime=seconds,
    hostname=texts,
    platform=texts,
)


def changed(**changes: Any) -> str:
    """Return the JSON of the valid report with some members changed or added."""
    return json.dumps({**VALID, **changes})


def read(message: str | bytes) -> Report | None:
    """Return the report, or None if it is refused: anything else that is raised fails the test."""
    try:
        return decode(message)
    except InvalidReport:
        return None


@given(reports)
def test_encodings_decode_to_the_report_they_were_made_of(report: Report) -> None:
    """Both of them, and they agree."""
    assert decode(encode_json(report)) == report
    assert decode(encode_binary(report)) == report


def test_largest_report_fits() -> None:
    """Half of the limit is left for what newer agents may add."""
    for message in (encode_json(LARGEST), encode_binary(LARGEST)):
        assert len(message) < MAX_REPORT / 2
        assert decode(message) == LARGEST


def test_binary_is_the_documented_layout() -> None:
    """Byte by byte."""
    expected = (
        b"\x01"
        b"\x0fweb-1.example_x"
        b"\x05h\xc3\xb6st"
        b"\x0eLinux 6 x86_64"
        + struct.pack("!ddd", 1700000000.25, 2.0, 12.5)
        + struct.pack("!H", 2)
        + struct.pack("!QQQQQ", 100, 60, 40, 10, 1)
        + struct.pack("!ddd", 0.1, 0.2, 0.3)
        + struct.pack("!QQ", 1000, 10)
        + struct.pack("!dd", 1.5, 2.5)
        + struct.pack("!I", 7)
        + struct.pack("!d", 99.0)
        + struct.pack("!Hdd", 2, 10.0, 15.0)
    )
    assert expected == BINARY


def test_binary_is_smaller_than_json() -> None:
    """Which is what it is for."""
    assert len(encode_binary(LARGEST)) < len(encode_json(LARGEST)) / 2


def test_json_has_one_member_per_field() -> None:
    """And is an object that anyone can read."""
    assert json.loads(JSON) == {**VALID, "per_cpu": [10.0, 15.0], "load": [0.1, 0.2, 0.3]}
    assert list(json.loads(JSON)) == [field.name for field in fields(Report)]


def test_unknown_json_members_are_ignored() -> None:
    """A newer agent may say more."""
    assert decode(changed(gpu={"name": "\x00", "load": [1, None]})) == REPORT


@pytest.mark.parametrize("name", list(VALID))
def test_missing_json_member_is_refused_by_name(name: str) -> None:
    """Every field must be there."""
    with pytest.raises(InvalidReport) as caught:
        decode(json.dumps({key: value for key, value in VALID.items() if key != name}))
    assert (caught.value.field, caught.value.reason) == (name, "missing")


@pytest.mark.parametrize(
    "message",
    [
        JSON[:-1] + ',"name":"b"}',
        JSON[:-1] + ',"n\\u0061me":"b"}',
        JSON[:-1] + ',"x":{"a":1,"a":1}}',
    ],
)
def test_repeated_json_member_is_refused(message: str) -> None:
    """At any depth, and however it is spelt."""
    with pytest.raises(InvalidReport, match="repeated"):
        decode(message)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("member", ['"cpu_percent":12.5', '"x":0'])
def test_number_that_is_not_finite_is_refused(number: str, member: str) -> None:
    """Also in members that would be ignored."""
    known = (JSON[:-1] + ',"x":0}').replace(member, member.split(":", maxsplit=1)[0] + ":" + number)
    assert number in known
    with pytest.raises(InvalidReport):
        decode(known)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", [None, 1, "", "a" * 65, "a b", "a\n", "é", "a/b", ["a"]]),
        ("time", [None, True, "1", -1, -0.1, 2.6e11, 10**400, [1.0]]),
        ("interval", [None, 0, 0.0009, 86401]),
        ("cpu_percent", [None, False, -0.1, 100.1, {}]),
        ("cpu_count", [None, True, 1.0, -1, 2**16]),
        ("per_cpu", [None, 1.0, "12", [True], ["1"], [-1], [100.5], [[1]], [0] * 1025, {}]),
        ("memory_total", [None, True, 1.0, -1, 2**63, "1"]),
        ("memory_used", [None, -1, 2**63]),
        ("memory_available", [None, -1, 2**63]),
        ("swap_total", [None, -1, 2**63]),
        ("swap_used", [None, -1, 2**63]),
        ("load", [None, [], [1, 2], [1, 2, 3, 4], [1, 2, -1], [1, 2, 1e7], [1, 2, "3"], "123"]),
        ("disk_total", [None, -1, 2**63]),
        ("disk_used", [None, -1, 2**63]),
        ("net_sent", [None, -1, 1.1e15]),
        ("net_received", [None, -1, 1.1e15]),
        ("processes", [None, 1.5, -1, 2**32]),
        ("uptime", [None, -1, 2.6e11]),
        ("hostname", [None, 1, "a" * 256, "é" * 128, "a\x00", "\x1b[31m", "\x7f", "\x9b", "\n"]),
        ("platform", [None, 1, "a" * 256, "\ud800", "\u2028", "\u202e", "\u200b", "\r"]),
    ],
)
def test_value_that_a_field_does_not_allow_is_refused(field: str, values: list[Any]) -> None:
    """In a message and in Python alike; the error names the field."""
    for value in values:
        with pytest.raises(InvalidReport) as caught:
            decode(changed(**{field: value}))
        assert caught.value.field == field
        with pytest.raises(InvalidReport):
            Report(**{**VALID, field: value})
        with pytest.raises(InvalidReport):
            check_field(field, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["time", "interval", "cpu_percent", "net_sent", "uptime"])
def test_binary_number_that_is_not_finite_is_refused(field: str, value: float) -> None:
    """A double can be anything."""
    packed = struct.pack("!d", VALID[field])
    assert BINARY.count(packed) == 1
    with pytest.raises(InvalidReport) as caught:
        decode(BINARY.replace(packed, struct.pack("!d", value)))
    assert caught.value.field == field


def test_whole_number_is_a_number() -> None:
    """JSON does not tell 5 from 5.0; the field does."""
    report = decode(changed(cpu_percent=5, load=[1, 2, 3]))
    assert isinstance(report.cpu_percent, float)
    assert all(isinstance(load, float) for load in report.load)
    assert report == decode(changed(cpu_percent=5.0, load=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize("text", ["", " ", "{", "null", "1", '"a"', "[]", "[1]", "{}", JSON + "x"])
def test_text_that_is_no_json_object_of_a_report_is_refused(text: str) -> None:
    """Whatever else it may be."""
    with pytest.raises(InvalidReport):
        decode(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        '{"a":' * 12_000,
        '{"a":[' * 10_000,
        JSON[:-1] + ',"x":' + "[" * 30_000 + "]" * 30_000 + "}",
        "9" * 60_000,
        JSON[:-1] + ',"x":' + "9" * 60_000 + "}",
        JSON[:-1] + ',"x":-0.' + "9" * 60_000 + "e-" + "9" * 400 + "}",
    ],
    ids=lambda text: text[:8],
)
def test_hostile_json_within_the_limit_is_one_error_or_a_report(text: str) -> None:
    """Depth and huge numbers end in InvalidReport, not in RecursionError or a stall."""
    assert len(text) <= MAX_REPORT
    assert read(text) in (None, REPORT)


@pytest.mark.parametrize(
    "message",
    [
        JSON + " " * MAX_REPORT,
        "é" * (MAX_REPORT // 2 + 1),
        b"\x01" + bytes(MAX_REPORT),
        "[" * 10_000_000,
    ],
    ids=["spaces", "two bytes each", "binary", "deep"],
)
def test_message_over_the_limit_is_refused_unread(message: str | bytes) -> None:
    """The limit is in bytes, and comes before the parser: no memory is spent."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidReport, match="longer than 65536 bytes"):
            decode(message)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_REPORT
    finally:
        tracemalloc.stop()


def test_message_of_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    assert decode(JSON + " " * (MAX_REPORT - len(JSON.encode()))) == REPORT


@pytest.mark.parametrize("message", [None, 1, bytearray(BINARY), memoryview(BINARY), REPORT])
def test_message_of_another_type_is_refused(message: Any) -> None:
    """Text and bytes are all a WebSocket carries."""
    with pytest.raises(InvalidReport):
        decode(message)


@pytest.mark.parametrize("cut", range(len(BINARY)))
def test_truncated_binary_is_refused(cut: int) -> None:
    """At every byte."""
    with pytest.raises(InvalidReport):
        decode(BINARY[:cut])


@pytest.mark.parametrize("extra", [b"\x00", bytes(7), bytes(8), BINARY])
def test_bytes_after_a_binary_report_are_refused(extra: bytes) -> None:
    """Also when they would make one more item."""
    with pytest.raises(InvalidReport):
        decode(BINARY + extra)


@pytest.mark.parametrize("version", [0, 2, 123, 255])
def test_binary_of_another_version_is_refused(version: int) -> None:
    """Its layout is not known."""
    with pytest.raises(InvalidReport, match="version"):
        decode(bytes((version,)) + BINARY[1:])


def test_binary_text_that_is_not_utf8_is_refused() -> None:
    """The name, the host name and the platform are text."""
    with pytest.raises(InvalidReport):
        decode(BINARY.replace(b"h\xc3\xb6st", b"h\xc3\xc3st"))


@given(st.text() | st.binary())
@example("\ud800")
@example('{"a":"\\ud800"}')
@example(b"\x01\xff")
def test_arbitrary_message_raises_nothing_but_invalid_report(message: str | bytes) -> None:
    """Whatever text or bytes arrive."""
    read(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(VALID)) | st.text(), json_values, max_size=5))
def test_report_with_arbitrary_members_is_a_report_or_invalid(changes: dict[str, Any]) -> None:
    """What is taken can be encoded again in both ways."""
    found = read(changed(**changes))
    if found is not None:
        assert decode(encode_json(found)) == decode(encode_binary(found)) == found


edits = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 4), st.binary(max_size=4)),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Replace some bytes at each place by others."""
    for place, count, new in edits:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + count :]
    return data


@given(edits)
def test_mutated_binary_report_is_a_report_or_invalid(edits: list[tuple[int, int, bytes]]) -> None:
    """What is taken is encoded to the very bytes it came from, but for the sign of a zero."""
    found = read(mutated(BINARY, edits))
    if found is not None:
        assert decode(encode_binary(found)) == found


@given(edits)
def test_mutated_json_report_is_a_report_or_invalid(edits: list[tuple[int, int, bytes]]) -> None:
    """What is taken can be encoded again in both ways."""
    found = read(mutated(JSON.encode(), edits).decode(errors="surrogateescape"))
    if found is not None:
        assert decode(encode_json(found)) == decode(encode_binary(found)) == found


def test_error_does_not_quote_the_message() -> None:
    """Neither its text nor a cause carries what a peer sent: it is safe to log."""
    for message in (changed(hostname="\x1bsecret"), "secret", changed(cpu_count="secret")):
        with pytest.raises(InvalidReport) as caught:
            decode(message)
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_error_is_one_of_wsframe_and_a_value_error() -> None:
    """It says the field and the reason."""
    with pytest.raises(ValueError, match=r"^cpu_count: must be a whole number$") as caught:
        Report(**{**VALID, "cpu_count": 1.5})
    assert isinstance(caught.value, InvalidReport)
    assert isinstance(caught.value, WSFrameError)


def test_unknown_field_is_a_key_error() -> None:
    """A mistake of the caller, not of an agent."""
    with pytest.raises(KeyError):
        check_field("nonsense", 1)


def test_report_cannot_be_changed() -> None:
    """What was checked stays as it was."""
    with pytest.raises(FrozenInstanceError):
        REPORT.cpu_percent = 5.0  # type: ignore[misc]
