"""A log of one JSON object a line: `twistd --nodaemon --logger=wsframe.services.jsonlog.stdout`.

Each line has `time` (ISO 8601, UTC), `level`, `namespace` and `message`, and the event's own fields
that are numbers, texts, booleans or None; an exception is under `traceback`. JSON escapes control
characters, so that no peer can write a line of its own into the log.
"""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

__all__ = ["JSONLog", "stdout"]

MAX_TEXT: Final = 8192
"""Characters kept of any one text: a traceback fits, a message somebody sent us need not."""

_RESERVED: Final = frozenset({"time", "level", "namespace", "message", "traceback"})


@implementer(ILogObserver)
class JSONLog:
    """Writes events to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": event["log_level"].name if "log_level" in event else "info",
            "namespace": event.get("log_namespace") or event.get("system") or "-",
            "message": formatEvent(event)[:MAX_TEXT],
        }
        failure = event.get("log_failure")
        if failure is not None:
            line["traceback"] = failure.getTraceback()[-MAX_TEXT:]
        for name, value in event.items():
            if name.startswith("log_") or name in _RESERVED or name in {"system", "format"}:
                continue
            if isinstance(value, float) and not math.isfinite(value):
                line[name] = str(value)  # JSON has no such numbers
            elif isinstance(value, str):
                line[name] = value[:MAX_TEXT]
            elif value is None or isinstance(value, bool | int | float):
                line[name] = value
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def stdout() -> JSONLog:
    """Return the observer for `twistd --logger=`; it writes to standard output."""
    # The stream as it is now: twistd redirects sys.stdout into the log afterwards.
    return JSONLog(sys.stdout)
