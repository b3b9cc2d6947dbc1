"""The keys that edit a line, and what is shown of it."""

from __future__ import annotations

import pytest

from wsframe.cli.line_editor import END, MAX_HISTORY, MAX_LINE, LineEditor, shown

LEFT, RIGHT, UP, DOWN = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
HOME, END_KEY, DELETE = "\x1b[H", "\x1b[F", "\x1b[3~"


def typed(*keys: str) -> list[object]:
    """Return the lines that come of keys, and of Enter behind them."""
    return list(LineEditor().feed(("".join(keys) + "\r").encode()))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello", "hello"),
        ("ab" + LEFT + "X", "aXb"),
        ("ab\x02X", "aXb"),
        ("ab" + HOME + "X" + END_KEY + "Y", "XabY"),
        ("ab\x01X\x05Y", "XabY"),
        ("ab\x1bOHX\x1bOFY", "XabY"),
        ("ab\x1b[1~X\x1b[4~Y", "XabY"),
        ("abc" + LEFT + LEFT + RIGHT + "X", "abXc"),
        ("abc\x01\x06X", "aXbc"),
        ("abc\x7f\x08X", "aX"),
        ("\x7fa" + LEFT + LEFT + "\x7f", "a"),
        ("abc" + HOME + DELETE, "bc"),
        ("abc\x01\x04", "bc"),
        ("abc" + DELETE + RIGHT, "abc"),
        ("one two" + LEFT + "\x15", "o"),
        ("one two\x01\x06\x0b", "o"),
        ("one two.three \x17X", "one X"),
        ("one two.three\x1b\x7fX", "one two.X"),
        ("one two\x01\x1bd", " two"),
        ("one two\x1bbX\x01\x1bfY", "oneY Xtwo"),
        ("one two\x1b[1;5DX\x01\x1b[1;5CY", "oneY Xtwo"),
        ("one two\x17\x01\x19 ", "two one "),
        ("ü\N{GRINNING FACE}" + LEFT + "\x7f", "\N{GRINNING FACE}"),
        ("a\x00\x07\x1c\x1b[99~\x1bx\x1b[200;5Rb", "ab"),
        ("ab\x1b\x1b[DX", "aXb"),
        ("a\x1b[1\x01b", "ba[1"),
    ],
)
def test_keys_edit_the_line(keys: str, line: str) -> None:
    assert typed(keys) == [line]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_keys_may_come_in_parts(size: int) -> None:
    """A character in UTF-8 and an escape sequence, too."""
    data = f"äb{LEFT}\N{GRINNING FACE}\x1b[1;5DX\r".encode()
    editor = LineEditor()
    lines = [line for at in range(0, len(data), size) for line in editor.feed(data[at : at + size])]
    assert lines == ["Xä\N{GRINNING FACE}b"]


def test_what_is_no_utf8_is_replaced() -> None:
    assert list(LineEditor().feed(b"a\xffb\n")) == ["a\N{REPLACEMENT CHARACTER}b"]


def test_sequence_without_an_end_is_no_key_and_is_not_kept() -> None:
    editor = LineEditor()
    assert list(editor.feed(b"\x1b[" + b"1" * 100)) == []
    assert len(editor._pending) <= 40
    assert list(editor.feed(b"\r")) == ["[" + "1" * 100]


def test_end_is_asked_for_on_an_empty_line_alone() -> None:
    assert list(LineEditor().feed(b"a\x04\x7f\x04")) == [END]


def test_several_lines_at_once_are_each_a_line() -> None:
    assert list(LineEditor().feed(b"a\n\nb\rc")) == ["a", "", "b"]


def test_what_is_pasted_is_text_with_its_line_breaks() -> None:
    """Its keys do nothing."""
    assert typed("a\x1b[200~{\r\n\t1\r\x04\x1b[A}\x1b[201~b") == ["a{\n\t1\n\x04}b"]


def test_line_is_bounded() -> None:
    editor = LineEditor()
    (line,) = editor.feed(b"x" * (MAX_LINE + 10) + b"\r")
    assert line == "x" * MAX_LINE


# --- history --------------------------------------------------------------------------------------


def test_earlier_lines_come_back_and_the_new_one_too() -> None:
    editor = LineEditor()
    assert list(editor.feed(b"one\rtwo\r")) == ["one", "two"]
    lines = list(editor.feed(f"new{UP}{UP}{UP}{DOWN}!\r".encode()))
    assert lines == ["two!"]
    assert list(editor.feed(f"draft{UP}\x10{DOWN}\x0e{DOWN}\r".encode())) == ["draft"]


def test_what_is_not_remembered() -> None:
    """Empty lines, the same line again, and what begins with a blank."""
    editor = LineEditor()
    list(editor.feed(b"one\r\rone\r secret\r"))
    assert list(editor.feed(f"{UP}{UP}{UP}\r".encode())) == ["one"]
    assert editor._history == ["one"]


def test_history_is_bounded() -> None:
    editor = LineEditor()
    list(editor.feed("".join(f"{number}\r" for number in range(MAX_HISTORY + 5)).encode()))
    assert len(editor._history) == MAX_HISTORY
    assert editor._history[0] == "5"


# --- the picture ----------------------------------------------------------------------------------


def picture(keys: str, columns: int = 11) -> tuple[str, int]:
    editor = LineEditor()
    assert list(editor.feed(keys.encode())) == []
    return editor.picture(columns)


def test_line_and_cursor_are_shown() -> None:
    assert picture("") == ("", 0)
    assert picture("abc") == ("abc", 3)
    assert picture("abc" + LEFT) == ("abc", 2)


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert picture("世界" + LEFT) == ("世界", 2)
    assert picture("e\N{COMBINING ACUTE ACCENT}x") == ("e\N{COMBINING ACUTE ACCENT}x", 2)
    assert picture("世界世界世界") == ("界世界世界", 10)


def test_what_a_terminal_would_obey_is_shown_escaped() -> None:
    assert picture("\x1b[200~a\n\x01\x1b[201~") == (r"a\n\x01", 7)
    assert shown("a\x1b\x9b\u202e\xa0ä") == r"a\x1b\x9b\u202e\xa0ä"


def test_long_line_is_shown_in_part_with_the_cursor_in_it() -> None:
    line = "0123456789abcdef"
    assert picture(line) == ("6789abcdef", 10)
    assert picture(line + HOME) == ("0123456789", 0)


def test_window_stays_where_it_is_while_the_cursor_is_in_it() -> None:
    editor = LineEditor()
    list(editor.feed(b"x" * 50 + b"0123456789"))
    assert editor.picture(21) == ("xxxxxxxxxx0123456789", 20)
    list(editor.feed((LEFT * 10).encode()))
    assert editor.picture(21) == ("xxxxxxxxxx0123456789", 10)
    list(editor.feed((LEFT * 5).encode()))
    assert editor.picture(21) == ("x" * 13 + "0123456", 8)  # with some columns before the cursor


@pytest.mark.parametrize("columns", [-5, 0, 1, 2])
def test_terminal_without_room_is_no_error(columns: int) -> None:
    text, column = picture("世界ab", columns)
    assert len(text) <= 1
    assert column <= 1


def test_clearing_the_screen_is_asked_for() -> None:
    editor = LineEditor()
    list(editor.feed(b"a\x0c"))
    assert editor.clears_screen
    assert editor.picture(10) == ("a", 1)
