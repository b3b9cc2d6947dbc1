"""Standard input and output in threads: the reactor never waits, and both stay blocking.

To make them non-blocking, as Twisted's `StandardIO` does, would do so to every process that shares
them: the shell's terminal, and whatever else writes into the same pipe. Files and devices work in
the same way as pipes. Each side has one thread at work at a time, and bounded memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

__all__ = ["Input", "Output", "open_standard"]

READ: Final = 64 * 1024
"""Bytes that one read asks for: what a pipe holds."""

WRITE: Final = 64 * 1024
"""Bytes that may wait to be written before `Output.write` does, and the peer with it."""


def open_standard() -> None:
    """Open the standard descriptors that are closed, so that no socket takes their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


class Input:
    """A descriptor that is read from, piece by piece, when somebody asks."""

    def __init__(self, reactor: Any, number: int) -> None:
        self._reactor = reactor
        self._number = number

    def read(self) -> Deferred[bytes]:
        """Fire with what is there, at least one byte, or with none at the end."""
        return _in_thread(self._reactor, os.read, self._number, READ)


class Output:
    """A descriptor that is written to, in order; what comes meanwhile goes out together."""

    def __init__(self, reactor: Any, number: int) -> None:
        self._reactor = reactor
        self._number = number
        self._parts: list[bytes] = []
        self._size = 0  # bytes in parts
        self._busy = 0  # bytes that a thread is writing
        self._waiting: list[Deferred[None]] = []
        self._error: OSError | None = None
        self.failed: Callable[[], object] = lambda: None
        """Called when the descriptor cannot be written to, also when nobody waits for that."""

    async def write(self, data: bytes) -> None:
        """Write, now or soon; wait while too much is to be written. Raises OSError."""
        self.put(data)
        await self._until(WRITE)

    async def flush(self) -> None:
        """Wait until all is written. Raises OSError."""
        await self._until(0)

    def put(self, data: bytes) -> None:
        """Write, now or soon, without waiting: for what a person makes, who is slow."""
        self._parts.append(data)
        self._size += len(data)
        if not self._busy:
            self._write()

    async def _until(self, left: int) -> None:
        while self._size + self._busy > left and self._error is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
        self.check()

    def check(self) -> None:
        """Raise the OSError, if there was one."""
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._busy, self._size = self._size, 0
        if data and self._error is None:
            written = _in_thread(self._reactor, _write_all, self._number, data)
            written.addCallbacks(self._written, self._failed)
        else:
            self._busy = 0

    def _written(self, _: None) -> None:
        self._write()
        self._wake()

    def _failed(self, failure: Failure) -> None:
        failure.trap(OSError)
        error: Any = failure.value
        self._error = error
        self._parts.clear()
        self._size = self._busy = 0
        self._wake()
        self.failed()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


def _in_thread(reactor: Any, call: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), call, *arguments)


def _write_all(number: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]
