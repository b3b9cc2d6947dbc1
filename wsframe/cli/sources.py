"""What is sent: the lines of the input, its bytes, or what is typed at a terminal."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from wsframe.cli.line_editor import END
from wsframe.cli.streams import Input
from wsframe.cli.terminal import Terminal
from wsframe.connection import Message

__all__ = ["BytesSource", "InputError", "LineSource", "Source", "TypedSource"]

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of one message of the input: more than servers take, and less than a machine has."""


class InputError(Exception):
    """The input cannot be sent."""


class Source(Protocol):
    """Gives messages, one after the other."""

    async def next(self) -> Message | None:
        """Return the next message, None at the end. Raises `InputError` and OSError."""


class LineSource:
    """Gives each line as a text message, without its end; what is after the last end is a line."""

    def __init__(self, source: Input) -> None:
        self._input = source
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._size = 0
        self._number = 0
        self._ended = False

    async def next(self) -> Message | None:
        """Return the next line."""
        while not self._lines:
            if self._ended:
                return None
            self._take(await self._input.read())
        self._number += 1
        line = self._lines.popleft()
        wrong = ""
        try:
            return line.decode()
        except UnicodeDecodeError:
            wrong = f"line {self._number} of the input is not UTF-8; see --binary"
        raise InputError(wrong)

    def _take(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        self._rest.append(first)
        self._size += len(first)
        if self._size > MAX_MESSAGE:
            raise InputError(f"a line of the input has more than {MAX_MESSAGE} bytes")
        if data and not others:
            return
        self._ended = not data
        line = b"".join(self._rest)
        if line or others:
            self._lines.append(line)
        if others:
            *whole, last = others
            self._lines.extend(whole)
            self._rest, self._size = [last], len(last)
        else:
            self._rest, self._size = [], 0


class BytesSource:
    """Gives the bytes of the input as one binary message, or one for each `size` of them."""

    def __init__(self, source: Input, size: int | None) -> None:
        self._input = source
        self._size = size
        self._held = bytearray()
        self._ended = False

    async def next(self) -> Message | None:
        """Return the next bytes; those of the last message may be fewer."""
        while not self._ended and (self._size is None or len(self._held) < self._size):
            data = await self._input.read()
            self._ended = not data
            self._held += data
            if self._size is None and len(self._held) > MAX_MESSAGE:
                raise InputError(f"the input has more than {MAX_MESSAGE} bytes; see --chunk")
        if not self._held:
            return None
        message = bytes(self._held[: self._size])
        del self._held[: self._size]
        return message


class TypedSource:
    """Gives what is typed: lines as text or, where `binary`, of hexadecimal digits.

    An empty line is none.
    """

    def __init__(self, source: Input, terminal: Terminal, *, binary: bool) -> None:
        self._input = source
        self._terminal = terminal
        self._binary = binary
        self._messages: deque[Message] = deque()
        self._ended = False

    async def next(self) -> Message | None:
        """Return the next line."""
        while not self._messages:
            if self._ended:
                return None
            data = await self._input.read()
            self._ended = not data  # the terminal is gone
            for line in self._terminal.editor.feed(data):
                if isinstance(line, str):
                    self._enter(line)
                elif line is END:
                    self._ended = True
                    break
            self._terminal.draw()
        return self._messages.popleft()

    def _enter(self, line: str) -> None:
        if not line:
            return
        self._terminal.entered(line)
        if not self._binary:
            self._messages.append(line)
            return
        try:
            self._messages.append(bytes.fromhex(line))
        except ValueError:
            self._terminal.above(b"  not sent: it is not hexadecimal\n")
