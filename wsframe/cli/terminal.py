"""The terminal of an interactive session: a prompt in the last row, and what comes above it."""

from __future__ import annotations

import os
import signal
import termios
from typing import Any, Final

from wsframe.cli.line_editor import LineEditor, shown
from wsframe.cli.streams import Output

__all__ = ["Terminal", "is_terminal"]

PROMPT: Final = "> "
MAX_ECHO: Final = 4096
"""Characters of a line that stay on the screen when it has been entered: a screenful."""

_ERASE_ROW: Final = "\r\x1b[K"
_CLEAR: Final = "\x1b[H\x1b[2J"
_PASTES_ON: Final = b"\x1b[?2004h"
_PASTES_OFF: Final = b"\r\x1b[K\x1b[?2004l"

_LFLAG: Final = 3
_IFLAG: Final = 0
_CC: Final = 6


def is_terminal() -> bool:
    """Return whether a person sits before the command, at a terminal that can move its cursor."""
    return os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb"


class Terminal:
    """Draws the line of an editor; in `with`, the terminal gives every key at once.

    The keys that send signals go on to do so.
    """

    def __init__(self, reactor: Any, output: Output) -> None:
        self.editor = LineEditor()
        self._reactor = reactor
        self._output = output
        self._before: list[Any] = []
        self._before_continued: Any = None

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(0)
        self._before_continued = signal.signal(signal.SIGCONT, self._continued)
        self._resume()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the terminal as it was, whatever is still to be drawn."""
        signal.signal(signal.SIGCONT, self._before_continued)
        self._output.put(_PASTES_OFF)
        termios.tcsetattr(0, termios.TCSANOW, self._before)

    def _continued(self, *_: object) -> None:
        # After Ctrl-Z the shell has set the terminal to its own liking.
        self._reactor.callFromThread(self._resume)

    def _resume(self) -> None:
        mode = termios.tcgetattr(0)
        mode[_IFLAG] = (mode[_IFLAG] | termios.ICRNL) & ~termios.IXON
        mode[_LFLAG] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        mode[_CC] = [*mode[_CC]]
        mode[_CC][termios.VMIN], mode[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        self._output.put(_PASTES_ON)
        self.draw()

    def draw(self) -> None:
        """Draw the row with the prompt again."""
        clear = _CLEAR if self.editor.clears_screen else ""
        self.editor.clears_screen = False
        self._output.put((clear + self._row()).encode())

    def _row(self) -> str:
        text, column = self.editor.picture(_columns() - len(PROMPT))
        return f"\r{PROMPT}{text}\x1b[K\r\x1b[{column + len(PROMPT)}C"

    def entered(self, line: str) -> None:
        """Leave a line that was entered on the screen."""
        more = " ..." if len(line) > MAX_ECHO else ""
        self.above(f"{PROMPT}{shown(line[:MAX_ECHO])}{more}\n".encode())

    def above(self, lines: bytes) -> None:
        """Print whole lines above the prompt."""
        self._output.put(_ERASE_ROW.encode() + lines + self._row().encode())


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
