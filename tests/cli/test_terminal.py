"""`wsframe connect` at a terminal: what is typed, what is shown, and how the terminal is left."""

from __future__ import annotations

import signal
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_twisted
from integration.interop import serving
from integration.raw import eventually, within

from cli.running import Seated
from wsframe.cli.messages import on_terminal
from wsframe.connection import Connection

LEFT, UP = "\x1b[D", "\x1b[A"


@asynccontextmanager
async def seated(*arguments: str) -> AsyncIterator[tuple[Seated, Connection]]:
    """Connect at a terminal; give it when it prompts, with the server's end."""
    async with serving() as (_, uri, handled):
        person = Seated("connect", uri, *arguments)
        try:
            connection = await handled.next()
            await person.prompts()
            yield person, connection
        finally:
            if person.status is None:
                await person.kill()


@pytest_twisted.ensureDeferred
async def test_line_that_is_edited_arrives_as_it_was_entered() -> None:
    async with seated() as (person, connection):
        person.type("hllo" + LEFT * 3 + "e")
        await person.shows("> hello", 4)
        person.type("\r")
        assert await within(connection.recv()) == "hello"
        await person.has("> hello")
        await person.prompts()


@pytest_twisted.ensureDeferred
async def test_earlier_lines_come_back() -> None:
    async with seated() as (person, connection):
        person.type("one\rtwo\r\r")
        person.type(UP + UP)
        await person.shows("> one", 5)
        person.type("!\r")
        assert [await within(connection.recv()) for _ in range(3)] == ["one", "two", "one!"]


@pytest_twisted.ensureDeferred
async def test_message_is_shown_above_the_line_that_is_typed() -> None:
    """Which stays as it is, however long it is."""
    async with seated() as (person, connection):
        line = "0123456789" * 6
        person.type(line)
        await person.shows("> " + line[-37:], 39)
        person.type(LEFT)
        await person.shows("> " + line[-37:], 38)
        await connection.send("first")
        await connection.send("two\nlines")
        await connection.send(b"\x00\xff")
        await person.has("< binary, 2 bytes: 00 ff")
        await person.shows("> " + line[-37:], 38)
        assert person.screen.text.split("\n")[1:-1] == [
            "< first",
            "< two",
            "  lines",
            "< binary, 2 bytes: 00 ff",
        ]
        person.type("x\r")
        assert await within(connection.recv()) == line[:-1] + "x" + line[-1]


@pytest_twisted.ensureDeferred
async def test_message_cannot_make_the_terminal_obey() -> None:
    """The screen of the test refuses what it would (CVE-2020-7694)."""
    async with seated() as (person, connection):
        await connection.send("\x1b[2J\r\x07\x9b31mred\u202e\x7f")
        await person.has(r"< \x1b[2J\r\x07\x9b31mred\u202e\x7f")
        assert "\x1b[2J" not in person.output


@pytest_twisted.ensureDeferred
async def test_what_is_pasted_is_one_message() -> None:
    async with seated() as (person, connection):
        assert person.screen.pastes
        person.type("\x1b[200~{\r}\x1b[201~\r")
        assert await within(connection.recv()) == "{\n}"
        await person.has(r"> {\n}")


@pytest_twisted.ensureDeferred
async def test_binary_lines_are_hexadecimal() -> None:
    async with seated("--binary") as (person, connection):
        person.type("no\r00 fF\r")
        assert await within(connection.recv()) == b"\x00\xff"
        await person.has("  not sent: it is not hexadecimal")


@pytest_twisted.ensureDeferred
async def test_json_is_shown_above_the_line_too() -> None:
    async with seated("--json") as (person, connection):
        person.type("draft")
        await connection.send("\x1b")
        await person.has(r'{"type": "text", "data": "\u001b"}')
        await person.shows("> draft", 7)


@pytest_twisted.ensureDeferred
async def test_screen_is_cleared_around_the_line() -> None:
    async with seated() as (person, _):
        person.type("draft\x0c")
        await eventually(lambda: person.screen.rows == ["> draft"])


@pytest.mark.parametrize(("key", "status"), [("\x04", 0), ("\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
@pytest_twisted.ensureDeferred
async def test_key_that_ends_it_closes_in_order_and_restores_the_terminal(
    key: str, status: int
) -> None:
    async with seated() as (person, connection):
        assert not person.mode[3] & termios.ICANON
        person.type(key)
        assert (await within(connection.when_closed())).code == 1000
        await eventually(lambda: person.mode == person.mode_before)
        assert await person.ended() == status
        assert not person.screen.pastes
        assert ">" not in [row.strip() for row in person.screen.rows]


@pytest_twisted.ensureDeferred
async def test_end_by_the_server_is_told_when_the_terminal_is_restored() -> None:
    async with seated() as (person, connection):
        person.type("draft")
        await person.shows("> draft", 7)
        await within(connection.close(1012, "back soon"))
        assert await person.ended() == 3
        shown = "".join(person.screen.rows[-3:])  # it is longer than a row
        assert shown == "Closed by the peer with code 1012: 'back soon'"
        assert "draft" not in person.screen.text


@pytest_twisted.ensureDeferred
async def test_terminal_is_set_again_when_it_was_stopped() -> None:
    """As the shell does between Ctrl-Z and `fg`."""
    async with seated() as (person, connection):
        person.type("draft")
        await person.shows("> draft", 7)
        person.signal(signal.SIGSTOP)
        person.mode = person.mode_before
        person.screen.feed("\r\n$ fg\r\n")
        person.signal(signal.SIGCONT)
        await person.shows("> draft", 7)
        await eventually(lambda: not person.mode[3] & termios.ICANON)
        person.type("!\r")
        assert await within(connection.recv()) == "draft!"


def test_binary_message_is_shown_in_part() -> None:
    assert on_terminal(b"\x01" * 33) == b"binary, 33 bytes: " + b"01 " * 32 + b"...\n"
