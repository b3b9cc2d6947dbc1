"""The log in JSON: each line is one valid object, whatever is logged."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from wsframe.services.jsonlog import MAX_TEXT, JSONLog


class Log:
    """A logger, and the lines that it wrote."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.observer = JSONLog(self.stream)
        self.publisher = LogPublisher(self.observer)
        self.logger = Logger(namespace="wsframe.test", observer=self.publisher)

    def line(self) -> dict[str, Any]:
        """Return the only line."""
        text = self.stream.getvalue()
        assert text.endswith("\n")
        assert text.count("\n") == 1
        return dict(json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")))


def test_it_is_an_observer() -> None:
    assert verifyObject(ILogObserver, JSONLog(io.StringIO()))


def test_an_event_is_one_line_with_its_fields() -> None:
    log = Log()
    log.logger.warn("{count} of {what}", count=3, what="them", ratio=0.5, on=True, none=None)
    line = log.line()
    time = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert line == {
        "level": "warn",
        "namespace": "wsframe.test",
        "message": "3 of them",
        "count": 3,
        "what": "them",
        "ratio": 0.5,
        "on": True,
        "none": None,
    }


@pytest.mark.parametrize("text", ["a\nb", "\r\n", "\x1b[2J", "\x00", "\u2028\x85", "\ud800", '"\\'])
def test_no_value_breaks_the_line_or_reaches_a_terminal(text: str) -> None:
    log = Log()
    log.logger.info("said {text}", text=text)
    assert log.stream.getvalue().isascii()
    assert log.stream.getvalue()[:-1].isprintable()
    line = log.line()
    assert (line["message"], line["text"]) == (f"said {text}", text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_texts(number: float) -> None:
    log = Log()
    log.logger.info("n", number=number)
    assert log.line()["number"] == str(number)


def test_other_objects_are_left_out_and_reserved_names_are_kept_ours() -> None:
    log = Log()
    own = {"log_time": 1.0, "log_level": LogLevel.info, "log_format": "m"}
    forged = {"level": "forged", "time": "never", "message": "other", "traceback": "x"}
    log.publisher({**own, **forged, "thing": object(), "data": b"x"})
    line = log.line()
    assert "thing" not in line
    assert "data" not in line
    assert (line["level"], line["message"]) == ("info", "m")
    assert line["time"] != "never"
    assert "traceback" not in line


def test_long_texts_are_cut() -> None:
    log = Log()
    log.logger.info("{text}", text="x" * 10 * MAX_TEXT)
    line = log.line()
    assert len(line["text"]) == len(line["message"]) == MAX_TEXT


def test_a_failure_has_its_traceback() -> None:
    log = Log()
    try:
        raise LookupError("what was wrong\nwith it")
    except LookupError:
        log.logger.failure("It failed", Failure())
    line = log.line()
    assert (line["level"], line["message"]) == ("critical", "It failed")
    assert "LookupError: what was wrong\nwith it" in line["traceback"]


def test_an_event_of_the_old_kind_is_one_too() -> None:
    log = Log()
    log.publisher({"log_time": 0.0, "log_format": "{log_text}", "log_text": "old", "system": "-"})
    line = log.line()
    assert (line["message"], line["level"], line["namespace"]) == ("old", "info", "-")
    assert line["time"].startswith("1970-01-01T00:00:00")


def test_a_stream_that_fails_harms_nobody_else() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    lines: list[Any] = []
    publisher = LogPublisher(JSONLog(Full()), lines.append)
    Logger(observer=publisher).info("still heard")
    assert lines[0]["log_format"] == "still heard"
