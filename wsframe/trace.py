"""`Trace`: what passes on the wire, written down as it passes; on a running service, too.

`wsframe.tap` has the bytes taken apart, `core.redaction` hides what is secret, `core.trace_lines`
says it in lines. Here is where they go, and that nothing of it harms a connection.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO
from weakref import WeakKeyDictionary, finalize

from twisted.logger import Logger

from wsframe.core.checks import check_counts

# What takes bytes apart and writes them down is a fiftieth of what importing wsframe takes. It is
# imported with the first trace: every process knows of traces, and few have one.
if TYPE_CHECKING:
    from wsframe.core.redaction import Redaction
    from wsframe.core.trace import Record, Role
    from wsframe.core.trace_lines import Style
    from wsframe.tap import Tap

__all__ = ["Trace", "TraceSink", "check_trace"]

_log: Final = Logger(namespace="wsframe.trace")

TraceSink = str | os.PathLike[str] | TextIO | Callable[[str], object]
"""Where lines go: a file's path, an open text file, or what is called with each line."""

LAST_LINE: Final = 128
"""Bytes that are left for the last line, which tells of the limit."""

MIN_BYTES: Final = 1024
"""Bytes that a trace may at least have: one that is for less is a mistake in units."""


class Trace:
    """A capture of opening handshakes and, if asked, of frames, for `connect` and for servers.

    `sink` is a path, whose file is made with mode 600 and appended to; an open text file; or a
    function of a line. `frames` adds every frame. `style` is "text", or "json" for one JSON object
    a line in the words of HAR 1.2. Secrets are hidden unless `secrets` is true: credentials,
    cookies and tokens of the heads, and the values of queries; frames are what the application
    says, in which only those same secrets are hidden.

    `max_bytes` is how large the trace may become, the file's earlier content included; then one
    last line says so. The default of 16 MiB is a thousand handshakes and more, and no full disk.
    `max_payload` bytes are shown of each payload and body.

    One trace may be given to any number of connections, each of which has a number in it. A sink
    that fails is logged once, and ends the trace; the connections live.

    Raises TypeError and ValueError for arguments that are none, and OSError for a file that cannot
    be opened; ValueError also for one that is not regular, or that others may read.
    """

    def __init__(
        self,
        sink: TraceSink,
        *,
        frames: bool = False,
        style: Style = "text",
        secrets: bool = False,
        max_bytes: int = 16 * 1024 * 1024,
        max_payload: int = 1024,
    ) -> None:
        for name, value in (("frames", frames), ("secrets", secrets)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} is True or False, not {type(value).__name__}")
        from wsframe.core.trace_lines import LINES

        if style not in LINES:
            raise ValueError(f'style is "text" or "json", not {style!r}')
        self.frames: Final = frames
        self.style: Final = style
        self.secrets: Final = secrets
        self.max_bytes: Final = max_bytes
        self.max_payload: Final = max_payload
        check_counts(self, "max_bytes", "max_payload")
        if max_bytes < MIN_BYTES:
            raise ValueError(f"max_bytes must be at least {MIN_BYTES}, not {max_bytes}")
        self._lines: Final = LINES[style]
        self._used = 0
        self._close: Callable[[], object] = lambda: None
        self._write: Callable[[str], object] | None = self._writer(sink)
        self._writing = False
        self._last = 0
        self._numbers: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Trace in {self.style}, {'active' if self.active else 'ended'}>"

    @property
    def active(self) -> bool:
        """Whether lines are still written: not closed, within its limit, and the sink works."""
        return self._write is not None

    def close(self) -> None:
        """Write nothing more, and close the file when it was given by its path."""
        self._write = None
        self._close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writer(self, sink: Any) -> Callable[[str], object]:
        if isinstance(sink, str | os.PathLike):
            fd = _open(sink)
            self._used = os.fstat(fd).st_size
            self._close = finalize(self, os.close, fd)
            return lambda line: _write_all(fd, f"{line}\n".encode())
        if isinstance(sink, io.RawIOBase | io.BufferedIOBase):
            raise TypeError("sink is a text file, and not one of bytes")
        if hasattr(sink, "write"):
            flush = getattr(sink, "flush", lambda: None)
            return lambda line: (sink.write(f"{line}\n"), flush())
        if callable(sink):
            function: Callable[[str], object] = sink
            return function
        raise TypeError(f"sink is a path, a file or a function, not {type(sink).__name__}")

    # ---------------------------------------------------------------- from the protocols

    def tap(self, connection: object, role: Role, *, secure: bool) -> Tap:
        """From a protocol: return what takes its bytes. The same connection keeps its number."""
        from wsframe.tap import Tap

        number = self._numbers.get(connection)
        if number is None:
            number = self._last = self._last + 1
            self._numbers[connection] = number
        return Tap(self, number, role, secure)

    def write(self, number: int, redaction: Redaction, records: list[Record]) -> None:
        """From a tap: write the records of the connection with that number."""
        if self._writing:
            return  # a sink that sends its lines over a traced connection would never end
        self._writing = True
        try:
            for record in records:
                shown = record if self.secrets else redaction.apply(record)
                for line in self._lines(number, shown):
                    self._write_line(line, record.at)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises; a connection must live
            self.close()
            # Not its text, nor a traceback: they may have the line in it.
            _log.error(
                "The trace ends, as it cannot be written: {kind} {why}",
                kind=type(error).__name__,
                why=(isinstance(error, OSError) and error.strerror) or "",
            )
        finally:
            self._writing = False

    def _write_line(self, line: str, at: float) -> None:
        if self._write is None:
            return
        size = len(line.encode()) + 1
        if self._used + size + LAST_LINE <= self.max_bytes:
            self._used += size
            self._write(line)
            return
        _log.warn("The trace ends: max_bytes={max_bytes} is reached", max_bytes=self.max_bytes)
        from wsframe.core.trace_lines import limit_line

        last = limit_line(self.style, at, self.max_bytes)
        if self._used + len(last) < self.max_bytes:
            self._write(last)
        self.close()


def check_trace(given: object) -> Trace | None:
    """Return what was given as `trace=` when it can be: a `Trace`, or None."""
    if given is not None and not isinstance(given, Trace):
        raise TypeError(f"trace is a Trace, not {type(given).__name__}")
    return given


def _open(path: str | os.PathLike[str]) -> int:
    """Open a private file to append to. A symbolic link could lead our bytes anywhere."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISREG(status.st_mode) and not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return fd
    os.close(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{os.fspath(path)} is not a regular file")
    raise ValueError(f"{os.fspath(path)} has mode {mode:o}; make it private: chmod 600")


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
