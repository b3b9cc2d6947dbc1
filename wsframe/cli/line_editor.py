"""One line that is edited with the keys of a terminal: bytes in, whole lines and a picture out.

It knows no terminal. What is typed goes into `feed`; `picture` is the line as it is to be shown, in
one row of the screen however long it is. So what is printed above it disturbs nothing: the row is
erased, the text is printed, and the row is drawn again.

The keys are those of Emacs, as in a shell, without search and undo. What is pasted (in "bracketed
paste" mode) is text, line breaks too.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Final

from wsframe.errors import printable

__all__ = ["END", "LineEditor", "shown"]

END: Final = object()
"""What `feed` yields for Ctrl-D on an empty line."""

MAX_LINE: Final = 1024 * 1024
"""Characters of a line; what is pasted beyond them is lost. As `max_message_size`."""

MAX_HISTORY: Final = 1000
"""Lines that are remembered: more than anybody goes back by pressing a key."""

_CONTEXT: Final = 8
"""Columns before the cursor that are shown at the least, for the eye to see where it is."""

_MAX_SEQUENCE: Final = 32
"""Characters of an escape sequence; a longer one is no key."""

_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_PASTED: Final = re.compile(r"[^\x1b]+")
_SEQUENCE: Final = re.compile(r"\x1b+(\[[0-?]*[ -/]*[@-~]|O.|[^\[O\x1b])", re.DOTALL)
_BEGINNING: Final = re.compile(r"\x1b+(\[[0-?]*[ -/]*|O)?")
_WORD: Final = re.compile(r"\W*\w*")
_PASTE: Final = "\x1b[200~"
_PASTE_END: Final = "\x1b[201~"


def shown(text: str) -> str:
    """Return text without anything that a terminal would obey, in one row."""
    return "".join(char if char.isprintable() else printable(char) for char in text)


def _columns(char: str) -> int:
    """Return the columns that a character takes as it is shown."""
    if not char.isprintable():
        return len(shown(char))
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _word_length(text: str) -> int:
    """Return the length of the first word, with what is before it."""
    return len(text) - len(_WORD.sub("", text, count=1))


class LineEditor:
    """A line, the cursor in it, and the lines before it."""

    def __init__(self) -> None:
        self.clears_screen = False
        """Whether Ctrl-L was typed; whoever draws sets it back."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = ""  # an escape sequence that is not complete
        self._pasting = False
        self._line = ""
        self._cursor = 0
        self._left = 0  # the first character that is shown
        self._killed = ""
        self._history: list[str] = []
        self._place = 0  # in the history; its length for the new line
        self._new_line = ""

    # ---------------------------------------------------------------- what is typed

    def feed(self, data: bytes) -> Iterator[object]:
        """Take what was typed; yield each line that was entered, and `END` for the end."""
        text, self._pending = self._pending + self._decode(data), ""
        place = 0
        while place < len(text):
            found = _SEQUENCE.match(text, place)
            if found is not None:
                place = found.end()
                self._escape(f"\x1b{found[1]}")
                continue
            if len(text) - place <= _MAX_SEQUENCE and _BEGINNING.fullmatch(text, place):
                self._pending = text[place:]
                return
            found = (_PASTED if self._pasting else _TEXT).match(text, place)
            if found is not None:
                place = found.end()
                # A terminal sends a line break as the key that makes one.
                self._insert(found[0].replace("\r\n", "\n").replace("\r", "\n"))
                continue
            char = text[place]
            place += 1
            if char in "\r\n":
                yield self._enter()
            elif char == "\x04" and not self._line:
                yield END
            else:
                self._control(char)

    def _escape(self, sequence: str) -> None:
        if sequence == _PASTE:
            self._pasting = True
        elif sequence == _PASTE_END:
            self._pasting = False
        elif not self._pasting:
            action = _ESCAPES.get(sequence)
            if action is not None:
                action(self)

    def _control(self, char: str) -> None:
        action = _CONTROLS.get(char)
        if action is not None:
            action(self)

    def _enter(self) -> str:
        line = self._line
        if line and not line.startswith(" ") and line not in self._history[-1:]:
            self._history.append(line)
            del self._history[:-MAX_HISTORY]
        self._place = len(self._history)
        self._new_line = ""
        self._set("")
        return line

    # ---------------------------------------------------------------- editing

    def _set(self, line: str) -> None:
        self._line = line
        self._cursor = len(line)

    def _insert(self, text: str) -> None:
        text = text[: MAX_LINE - len(self._line)]
        self._line = self._line[: self._cursor] + text + self._line[self._cursor :]
        self._cursor += len(text)

    def _cut(self, start: int, end: int) -> str:
        cut = self._line[start:end]
        self._line = self._line[:start] + self._line[end:]
        self._cursor = start
        return cut

    def _kill(self, start: int, end: int) -> None:
        self._killed = self._cut(start, end) or self._killed

    def _word_end(self) -> int:
        return self._cursor + _word_length(self._line[self._cursor :])

    def _word_start(self) -> int:
        return self._cursor - _word_length(self._line[: self._cursor][::-1])

    def _blank_before(self) -> int:
        return self._line[: self._cursor].rstrip().rfind(" ") + 1

    def _home(self) -> None:
        self._cursor = 0

    def _end(self) -> None:
        self._cursor = len(self._line)

    def _backward(self) -> None:
        self._cursor = max(0, self._cursor - 1)

    def _forward(self) -> None:
        self._cursor = min(len(self._line), self._cursor + 1)

    def _word_backward(self) -> None:
        self._cursor = self._word_start()

    def _word_forward(self) -> None:
        self._cursor = self._word_end()

    def _backspace(self) -> None:
        self._cut(max(0, self._cursor - 1), self._cursor)

    def _delete(self) -> None:
        self._cut(self._cursor, self._cursor + 1)

    def _kill_to_start(self) -> None:
        self._kill(0, self._cursor)

    def _kill_to_end(self) -> None:
        self._kill(self._cursor, len(self._line))

    def _kill_word_before(self) -> None:
        self._kill(self._word_start(), self._cursor)

    def _kill_word_after(self) -> None:
        self._kill(self._cursor, self._word_end())

    def _kill_to_blank(self) -> None:
        self._kill(self._blank_before(), self._cursor)

    def _yank(self) -> None:
        self._insert(self._killed)

    def _clear_screen(self) -> None:
        self.clears_screen = True

    def _older(self) -> None:
        self._go(self._place - 1)

    def _newer(self) -> None:
        self._go(self._place + 1)

    def _go(self, place: int) -> None:
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._new_line = self._line
        self._place = place
        self._set(self._history[place] if place < len(self._history) else self._new_line)

    # ---------------------------------------------------------------- how it looks

    def picture(self, columns: int) -> tuple[str, int]:
        """Return what is shown in so many columns, and the column of the cursor.

        A line that is longer is shown in part, with the cursor in it.
        """
        room = max(1, columns - 1)  # the cursor may stand behind the last character
        self._left = max(self._start(room), min(self._left, self._start(min(room, _CONTEXT))))
        column = sum(map(_columns, self._line[self._left : self._cursor]))
        parts = []
        used = 0
        for char in self._line[self._left : self._left + room]:
            used += _columns(char)
            if used > room:
                break
            parts.append(shown(char))
        return "".join(parts), column

    def _start(self, columns: int) -> int:
        """Return the first character from which to the cursor it is no more than these columns."""
        start = self._cursor
        while start > 0:
            columns -= _columns(self._line[start - 1])
            if columns < 0:
                break
            start -= 1
        return start


_Action = Callable[[LineEditor], None]

_CONTROLS: Final[dict[str, _Action]] = {
    "\x01": LineEditor._home,
    "\x02": LineEditor._backward,
    "\x04": LineEditor._delete,
    "\x05": LineEditor._end,
    "\x06": LineEditor._forward,
    "\x08": LineEditor._backspace,
    "\x0b": LineEditor._kill_to_end,
    "\x0c": LineEditor._clear_screen,
    "\x0e": LineEditor._newer,
    "\x10": LineEditor._older,
    "\x15": LineEditor._kill_to_start,
    "\x17": LineEditor._kill_to_blank,
    "\x19": LineEditor._yank,
    "\x7f": LineEditor._backspace,
}

_ESCAPES: Final[dict[str, _Action]] = {
    **{
        f"\x1b{kind}{final}": action
        for kind in "[O"
        for final, action in (
            ("A", LineEditor._older),
            ("B", LineEditor._newer),
            ("C", LineEditor._forward),
            ("D", LineEditor._backward),
            ("H", LineEditor._home),
            ("F", LineEditor._end),
        )
    },
    "\x1b[1~": LineEditor._home,
    "\x1b[7~": LineEditor._home,
    "\x1b[4~": LineEditor._end,
    "\x1b[8~": LineEditor._end,
    "\x1b[3~": LineEditor._delete,
    "\x1b[1;5C": LineEditor._word_forward,
    "\x1b[1;3C": LineEditor._word_forward,
    "\x1b[1;5D": LineEditor._word_backward,
    "\x1b[1;3D": LineEditor._word_backward,
    "\x1bf": LineEditor._word_forward,
    "\x1bb": LineEditor._word_backward,
    "\x1bd": LineEditor._kill_word_after,
    "\x1b\x7f": LineEditor._kill_word_before,
    "\x1b\x08": LineEditor._kill_word_before,
}
