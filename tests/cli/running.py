"""The command as a process: run to its end, or with a screen and somebody at the keys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios
from typing import Any, NamedTuple

from integration.proxies import ENCODED, PASSWORD
from integration.raw import WAIT, eventually
from services.processes import Process
from twisted.internet.threads import deferToThread

COMMAND = (sys.executable, "-m", "wsframe")


class Done(NamedTuple):
    """How a process ended, and all that it said."""

    status: int
    out: str
    err: str


async def wsframe(*arguments: str, stdin: bytes = b"", **environ: str) -> Done:
    """Run the command; none of its output, and none of a traceback, has a password."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    ran: Any = await deferToThread(
        subprocess.run,
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        timeout=2 * WAIT,
        env={**kept, **environ},
        check=False,
    )
    out, err = ran.stdout.decode("utf-8", "surrogateescape"), ran.stderr.decode()
    assert PASSWORD not in out + err
    assert ENCODED not in out + err
    assert "Traceback" not in err
    return Done(ran.returncode, out, err)


class Screen:
    """What a terminal of so many columns shows; it knows what the command uses, and no more."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows = [""]
        self.column = 0
        self.pastes = False
        """Whether the terminal is to mark what is pasted."""
        self._rest = ""

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows)

    @property
    def last(self) -> tuple[str, int]:
        """The row with the cursor, and where that is."""
        return self.rows[-1].rstrip(), self.column

    def feed(self, text: str) -> None:
        text = self._rest + text
        place = 0
        while place < len(text):
            found = re.compile(r"\x1b\[(\??\d*)([A-Za-z])").match(text, place)
            if found is not None:
                self._control(found[1], found[2])
                place = found.end()
                continue
            if text[place] == "\x1b" and len(text) - place < 8:
                break
            self._character(text[place])
            place += 1
        self._rest = text[place:]

    def _character(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.rows.append("")
        else:
            assert char.isprintable(), f"the terminal would obey {char!r}"
            if self.column == self.columns:
                self.rows.append("")
                self.column = 0
            row = self.rows[-1].ljust(self.column)
            self.rows[-1] = row[: self.column] + char + row[self.column + 1 :]
            self.column += 1

    def _control(self, number: str, final: str) -> None:
        if final == "K":
            self.rows[-1] = self.rows[-1][: self.column]
        elif final == "C":
            self.column += int(number or 1)
        elif final == "J":
            self.rows, self.column = [""], 0
        elif number == "?2004":
            self.pastes = final == "h"
        else:
            assert final == "H", f"unknown: {number}{final}"


class Seated(Process):
    """The command at a terminal of 40 columns."""

    def __init__(self, *arguments: str) -> None:
        self.screen = Screen(40)
        super().__init__(*COMMAND, *arguments, terminal=True)
        terminal: Any = self._process
        self._fd = int(terminal.fileno())
        termios.tcsetwinsize(self._fd, (24, 40))
        self.mode_before = termios.tcgetattr(self._fd)

    def childDataReceived(self, child_fd: int, data: bytes) -> None:
        self.screen.feed(data.decode())
        super().childDataReceived(child_fd, data)

    @property
    def mode(self) -> list[Any]:
        return termios.tcgetattr(self._fd)

    @mode.setter
    def mode(self, mode: list[Any]) -> None:
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)

    def type(self, keys: str) -> None:
        terminal: Any = self._process
        terminal.write(keys.encode())

    async def shows(self, row: str, column: int) -> None:
        """Wait until the last row is this one, with the cursor in that column."""
        await self._until(lambda: self.screen.last == (row, column))

    async def has(self, text: str) -> None:
        """Wait until there is a row with just this text."""
        await self._until(lambda: text in self.screen.text.split("\n"))

    async def prompts(self) -> None:
        """Wait until it awaits a line."""
        await self.shows(">", 2)

    async def _until(self, condition: Any) -> None:
        try:
            await eventually(lambda: condition() or self.status is not None)
        except AssertionError:
            raise AssertionError(f"the screen is\n{self.screen.text}\n{self.screen.last}") from None
        assert condition(), f"it ended with {self.status}\n{self.screen.text}"
