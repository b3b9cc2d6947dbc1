"""Where a trace's lines go, within which limits, and that its failure harms no connection."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from memory import (
    TEXT,
    Peer,
    close_frame,
    frame,
    masked_close,
    masked_frame,
    opened_client,
    opened_server,
    request,
)
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from wsframe.connection import Connection
from wsframe.errors import ConnectionClosed
from wsframe.fanout import broadcast
from wsframe.options import ServerOptions
from wsframe.protocol import (
    ConnectionServerFactory,
    WebSocketClientFactory,
    WebSocketServerFactory,
)
from wsframe.tap import Tap
from wsframe.trace import MIN_BYTES, Trace

SECRET = "pl4nted-S3cret.0123"


class Served:
    """Connections of a server on transports in memory, and the lines of their trace."""

    def __init__(self, trace: Trace | None = None, **options: Any) -> None:
        self.made: list[Connection] = []
        self.clock = Clock()
        self.factory = ConnectionServerFactory(
            self._opened, reactor=self.clock, options=ServerOptions(**options)
        )
        self.factory.trace = trace

    def _opened(self, wire: Any) -> Connection:
        self.made.append(Connection(wire))
        return self.made[-1]

    def open(self, *headers: tuple[str, str]) -> tuple[Connection, Peer]:
        peer = opened_server(self.factory, *headers)
        return self.made[-1], peer


def after_time(lines: list[str]) -> list[str]:
    """Return the lines without their times."""
    return [line.partition(" ")[2] for line in lines]


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """Give what is logged for a trace."""
    events: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "wsframe.trace":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"sink": None}, TypeError),
        ({"sink": 5}, TypeError),
        ({"sink": io.BytesIO()}, TypeError),
        ({"frames": 1}, TypeError),
        ({"secrets": "no"}, TypeError),
        ({"style": "xml"}, ValueError),
        ({"max_bytes": MIN_BYTES - 1}, ValueError),
        ({"max_bytes": 1e6}, TypeError),
        ({"max_payload": 0}, ValueError),
    ],
)
def test_arguments_that_are_none_are_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Trace(**{"sink": print, **arguments})


def test_its_repr_says_whether_it_is_active() -> None:
    trace = Trace(print, style="json")
    assert repr(trace) == "<Trace in json, active>"
    trace.close()
    assert repr(trace) == "<Trace in json, ended>"


# ---------------------------------------------------------------- sinks


def test_a_file_is_made_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    for _ in range(2):
        with Trace(path) as trace:
            Served(trace).open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = after_time(path.read_text().splitlines())
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    assert lines[1] == "1 < GET / HTTP/1.1"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "trace.txt"
    path.touch()
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"has mode {mode:o}; make it private: chmod 600"):
        Trace(path)


def test_a_link_a_fifo_and_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo", ".", "missing/trace.txt"):
        with pytest.raises((OSError, ValueError)):
            Trace(tmp_path / name)
    assert not (tmp_path / "target").exists()


def test_a_file_is_closed_with_its_trace(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    closed, forgotten = Trace(tmp_path / "a"), Trace(tmp_path / "b")
    assert descriptors() == before + 2
    closed.close()
    closed.close()
    assert descriptors() == before + 1
    del forgotten
    gc.collect()
    assert descriptors() == before


def test_a_text_file_and_a_function_get_the_same_lines() -> None:
    file = io.StringIO()
    lines: list[str] = []
    Served(Trace(file)).open()
    Served(Trace(lines.append)).open()
    assert after_time(file.getvalue().splitlines()) == after_time(lines)
    assert file.getvalue().endswith("\n")
    assert not file.closed


def test_a_file_object_is_flushed_with_every_line(tmp_path: Path) -> None:
    with (tmp_path / "trace.txt").open("w") as file:
        Served(Trace(file)).open()
        assert "1 < GET / HTTP/1.1" in (tmp_path / "trace.txt").read_text()


def test_every_connection_has_its_number() -> None:
    lines: list[str] = []
    server = Served(Trace(lines.append))
    for _ in range(3):
        server.open()
    starts = [line for line in after_time(lines) if "[connected]" in line]
    assert [line[0] for line in starts] == ["1", "2", "3"]


# ---------------------------------------------------------------- limits and failures


@pytest.mark.parametrize("style", ["text", "json"])
def test_at_its_limit_a_last_line_says_so_and_nothing_follows(
    tmp_path: Path, style: Any, logged: list[LogEvent]
) -> None:
    path = tmp_path / "trace"
    trace = Trace(path, style=style, max_bytes=2000)
    server = Served(trace)
    for _ in range(20):
        server.open()
    assert not trace.active
    assert path.stat().st_size <= 2000
    lines = path.read_text().splitlines()
    mark = "_limit" if style == "json" else "max_bytes=2000 is reached"
    assert [mark in line for line in lines].index(True) == len(lines) - 1
    assert [event["log_format"] for event in logged] == [
        "The trace ends: max_bytes={max_bytes} is reached"
    ]


def test_what_the_file_has_already_counts(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("x" * 2000)
    path.chmod(0o600)
    trace = Trace(path, max_bytes=2000)
    _, peer = Served(trace).open()
    assert not trace.active
    assert path.read_text() == "x" * 2000
    peer.send(masked_close(1000))


def test_a_long_payload_is_cut() -> None:
    lines: list[str] = []
    connection, _ = Served(Trace(lines.append, frames=True, max_payload=4)).open()
    connection.send("abcdefgh")
    assert after_time(lines)[-1] == "1 > [text fin, 8 bytes] abcd ..."


class Failing:
    """A sink of every kind of trouble."""

    errors: ClassVar[list[Exception]] = [
        OSError(errno.ENOSPC, "No space left on device", SECRET),
        ValueError(f"I/O operation on closed file {SECRET}"),
        RecursionError(),
    ]

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, line: str) -> None:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("error", Failing.errors, ids=lambda error: type(error).__name__)
def test_a_sink_that_fails_is_logged_once_and_the_connection_lives(
    error: Exception, logged: list[LogEvent]
) -> None:
    sink = Failing(error)
    trace = Trace(sink, frames=True)
    connection, peer = Served(trace).open()
    peer.send(masked_frame(TEXT, b"in"))
    connection.send("out")
    assert [found.payload for found in peer.frames()] == [b"out"]
    assert sink.calls == 1
    assert not trace.active
    (event,) = logged
    assert event["kind"] == type(error).__name__
    assert SECRET not in str(event)


def test_a_disk_that_is_full_ends_the_trace(logged: list[LogEvent]) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        trace = Trace(full)
        connection, _ = Served(trace).open()
        assert connection.state.value == "open"
        assert not trace.active
        assert [event["why"] for event in logged] == ["No space left on device"]
        with pytest.raises(OSError, match="No space"):
            full.close()


def test_a_file_that_was_closed_ends_the_trace() -> None:
    file = io.StringIO()
    trace = Trace(file)
    file.close()
    Served(trace).open()
    assert not trace.active


def test_a_closed_trace_writes_nothing_more() -> None:
    lines: list[str] = []
    trace = Trace(lines.append, frames=True)
    connection, peer = Served(trace).open()
    count = len(lines)
    trace.close()
    connection.send("more")
    peer.send(masked_close(1000))
    peer.end()
    assert len(lines) == count


def test_a_sink_that_sends_its_lines_over_the_traced_connection_does_not_go_round() -> None:
    lines: list[str] = []
    connections: list[Connection] = []

    def sink(line: str) -> None:
        lines.append(line)
        if connections:
            connections[0].send(line)

    connection, peer = Served(Trace(sink, frames=True)).open()
    peer.transport.take()
    connections.append(connection)
    connection.send("hello")
    assert after_time(lines)[-1] == "1 > [text fin, 5 bytes] hello"
    assert sorted(len(found.payload) for found in peer.frames()) == sorted([5, len(lines[-1])])


# ---------------------------------------------------------------- what a connection tells


def test_without_a_trace_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("a tap was called")

    for name in ("__init__", "begin", "join", "sent", "received", "ended"):
        monkeypatch.setattr(Tap, name, called)
    connection, peer = Served().open()
    connection.send("out")
    peer.send(masked_frame(TEXT, b"in"), masked_close(1000))
    peer.end()
    assert connection.close_code == 1000


def test_secrets_are_shown_only_where_that_is_asked_for() -> None:
    for secrets in (False, True):
        lines: list[str] = []
        server = Served(Trace(lines.append, secrets=secrets))
        server.open(("Authorization", f"Bearer {SECRET}"), ("Cookie", f"a={SECRET}"))
        text = "\n".join(lines)
        assert text.count(SECRET) == (2 if secrets else 0)
        assert f"Authorization: Bearer {SECRET if secrets else '***'}" in text


def test_a_broadcast_is_shown_for_every_connection() -> None:
    lines: list[str] = []
    server = Served(Trace(lines.append, frames=True))
    opened = [server.open()[0] for _ in range(2)]
    broadcast(opened, "to all")
    assert after_time(lines)[-2:] == [
        "1 > [text fin, 6 bytes] to all",
        "2 > [text fin, 6 bytes] to all",
    ]


def test_what_waits_for_the_peer_is_shown_when_it_goes_out() -> None:
    lines: list[str] = []
    connection, peer = Served(Trace(lines.append, frames=True)).open()
    peer.transport.stalled = True
    connection.send(b"x" * 100_000)
    connection.send("waits")
    broadcast([connection], "behind it")
    before = len(lines)
    assert "100000 bytes" in lines[-1]
    while peer.transport.waiting:
        peer.transport.drain()
    assert [line.partition("] ")[2] for line in lines[before:]] == ["waits", "behind it"]


def test_the_whole_of_a_connection_in_json() -> None:
    lines: list[str] = []
    connection, peer = Served(Trace(lines.append, style="json", frames=True)).open()
    peer.send(masked_frame(TEXT, b"hi"), masked_close(1001, b"bye"))
    peer.end()
    records = [json.loads(line) for line in lines]
    assert {record["_connection"] for record in records} == {1}
    assert records[0]["_role"] == "server"
    assert records[1]["request"]["method"] == "GET"
    assert records[2]["response"]["status"] == 101
    messages = [record["_webSocketMessages"][0] for record in records[3:6]]
    assert [(m["type"], m["opcode"]) for m in messages] == [
        ("receive", 1),
        ("receive", 8),
        ("send", 8),
    ]
    assert records[6]["_end"] | {"time": 0} == {
        "time": 0,
        "code": 1001,
        "reason": "bye",
        "by": "remote",
        "clean": True,
    }
    assert isinstance(connection.close_code, int)


def test_what_is_not_admitted_is_shown_with_its_answer() -> None:
    lines: list[str] = []
    server = Served(Trace(lines.append))
    peer = Peer(server.factory, server.clock)
    peer.send(b"\x16\x03\x01\x02\x00")
    peer.end()
    assert after_time(lines)[1:] == [
        "1 > HTTP/1.1 400 Bad Request",
        "1 > Content-Type: text/plain; charset=utf-8",
        "1 > X-Content-Type-Options: nosniff",
        "1 > Content-Length: 28",
        "1 > Connection: close",
        "1 >",
        "1 > [body] this is not an HTTP request\\n",
        "1 < \\x16\\x03\\x01\\x02\\x00",
        "1 < [the head is incomplete]",
        "1 [ended] 1006 not cleanly by local this is not an HTTP request",
    ]


# ---------------------------------------------------------------- at any moment


def test_it_can_be_switched_on_and_off_for_an_open_connection() -> None:
    lines: list[str] = []
    trace = Trace(lines.append, frames=True)
    connection, peer = Served().open()
    connection.send("before")
    assert connection.trace is None
    connection.trace = trace
    assert connection.trace is trace
    connection.send("while")
    peer.send(masked_frame(TEXT, b"too"))
    connection.trace = None
    connection.send("after")
    connection.trace = trace
    connection.send("again")
    assert [line for line in after_time(lines) if "[open]" not in line] == [
        "1 > [text fin, 5 bytes] while",
        "1 < [text fin masked, 3 bytes] too",
        "1 > [text fin, 5 bytes] again",
    ]
    peer.send(masked_close(1000))
    peer.end()
    assert connection.trace is None
    connection.trace = trace  # there is nothing any more, and no harm done
    assert "[ended] 1000" in lines[-1]


@pytest.mark.parametrize("given", ["trace.txt", True])
def test_what_is_no_trace_is_refused(given: Any) -> None:
    connection, _ = Served().open()
    with pytest.raises(TypeError, match="trace is a Trace"):
        connection.trace = given


@pytest.mark.parametrize("size", [10, 200, 70_000])
def test_switched_on_anywhere_in_what_is_received_the_next_frame_is_the_first(size: int) -> None:
    data = masked_frame(TEXT, b"x" * size)
    behind = masked_frame(TEXT, b"next")
    cuts = [1, 2, 5, len(data) // 2, len(data) - 1]
    for cut in cuts:
        lines: list[str] = []
        connection, peer = Served().open()
        peer.send(data[:cut])
        connection.trace = Trace(lines.append, frames=True, max_payload=8)
        peer.send(data[cut:] + behind)
        shown = after_time(lines)[1:]
        assert shown[-1] == "1 < [text fin masked, 4 bytes] next"
        # A frame of which the head was not read yet is shown, too.
        assert len(shown) in {1, 2}
        assert all("[text fin masked" in line for line in shown)


def test_switched_on_by_a_message_what_was_read_with_it_is_shown() -> None:
    lines: list[str] = []
    trace = Trace(lines.append, frames=True)

    class Switching(WebSocketServerFactory.protocol):  # type: ignore[misc]
        def onMessage(self, payload: bytes, is_binary: bool) -> None:
            if payload == b"on":
                self.use_trace(trace)

    factory = WebSocketServerFactory(reactor=Clock())
    factory.protocol = Switching
    peer = opened_server(factory)
    peer.send(b"".join(masked_frame(TEXT, text) for text in (b"on", b"a", b"b")))
    peer.send(masked_frame(TEXT, b"c"))
    assert [line[-1] for line in lines[1:]] == ["a", "b", "c"]


def streaming(**options: Any) -> tuple[Any, Peer]:
    """Return an Autobahn protocol that has begun a frame of ten bytes, and sent four of them."""
    factory = WebSocketServerFactory(reactor=Clock())
    peer = opened_server(factory)
    protocol = peer.protocol
    protocol.beginMessage(isBinary=False)
    protocol.beginMessageFrame(10)
    protocol.sendMessageFrameData(b"0123")
    return protocol, peer


def test_switched_on_within_a_frame_that_is_sent_in_parts() -> None:
    lines: list[str] = []
    protocol, _ = streaming()
    protocol.use_trace(Trace(lines.append, frames=True))
    protocol.sendMessageFrameData(b"456789")
    protocol.endMessage()
    protocol.sendMessage(b"next")
    assert after_time(lines)[1:] == [
        "1 > [continuation fin, 0 bytes]",
        "1 > [text fin, 4 bytes] next",
    ]


def test_switched_on_where_parts_wait_nothing_that_is_sent_is_shown() -> None:
    lines: list[str] = []
    protocol, peer = streaming()
    peer.transport.stalled = True
    protocol.sendMessageFrameData(b"456789")
    protocol.sendMessageFrame(b"x" * 100_000)
    protocol.endMessage()
    protocol.use_trace(Trace(lines.append, frames=True))
    while peer.transport.waiting:
        peer.transport.drain()
    peer.send(masked_frame(TEXT, b"in"))
    assert after_time(lines)[1:] == ["1 < [text fin masked, 2 bytes] in"]


def test_pieces_that_autobahn_chops_are_shown_as_the_frame_they_are() -> None:
    lines: list[str] = []
    factory = WebSocketServerFactory(reactor=Clock())
    factory.trace = Trace(lines.append, frames=True)
    peer = opened_server(factory)
    peer.protocol.sendFrame(TEXT, b"abcdef", chopsize=3)
    for _ in range(4):
        factory.reactor.advance(1)
    assert after_time(lines)[-1] == "1 > [text fin, 6 bytes] abcdef"


def test_set_during_the_opening_handshake_it_begins_with_the_open_websocket() -> None:
    lines: list[str] = []
    server = Served()
    peer = Peer(server.factory, server.clock)
    whole = request()
    peer.send(whole[:20])
    server.factory.trace = Trace(lines.append, frames=True)
    peer.send(whole[20:] + masked_frame(TEXT, b"early"))
    server.made[0].send("hello")
    shown = after_time(lines)
    assert shown[0].startswith("1 [open] from ")
    assert shown[1:] == [
        "1 < [text fin masked, 5 bytes] early",
        "1 > [text fin, 5 bytes] hello",
    ]


def test_an_autobahn_client_is_traced_by_its_factory() -> None:
    lines: list[str] = []
    factory = WebSocketClientFactory("ws://localhost/", reactor=Clock())
    factory.trace = Trace(lines.append, frames=True)
    peer = opened_client(factory)
    peer.send(frame(TEXT, b"hi"), close_frame(1000))
    peer.end()
    shown = after_time(lines)
    assert shown[0].startswith("1 [connected] to ")
    assert shown[1] == "1 > GET / HTTP/1.1"
    assert shown[-4:] == [
        "1 < [text fin, 2 bytes] hi",
        "1 < [close fin, 2 bytes] 1000",
        "1 > [close fin masked, 2 bytes] 1000",
        "1 [ended] 1000 cleanly by remote",
    ]


def test_the_end_is_what_the_application_hears() -> None:
    lines: list[str] = []
    connection, peer = Served(Trace(lines.append)).open()
    told: list[ConnectionClosed] = []
    connection.when_closed().addCallback(told.append)
    peer.transport.reset()
    (outcome,) = told
    assert after_time(lines)[-1] == f"1 [ended] 1006 not cleanly {outcome.reason}"
