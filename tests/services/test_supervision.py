"""When the parent starts a worker, replaces, kills and gives up: on a clock, without processes."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from wsframe.options import WorkerOptions
from wsframe.services import echo
from wsframe.services.worker import LISTENS
from wsframe.services.workers import Workers, in_workers

LIMITS = WorkerOptions(
    first_delay=1.0,
    factor=3.0,
    max_delay=5.0,
    stable_after=10.0,
    max_failures=3,
    start_timeout=60.0,
    silence_timeout=40.0,
    drain_grace=5.0,
    cut_grace=1.0,
)


def install() -> None:
    """What a worker would call, as the fake below is of this module."""


class Child:
    """A process, as far as the parent sees it."""

    pid = 4711

    def __init__(self, protocol: Any, descriptors: dict[int, Any]) -> None:
        self.pipes = {fd: object() for fd in (1, 2, 3, 4)}
        self.told: list[dict[str, Any]] = []
        self.signals: list[str] = []
        self.alive = True
        assert {fd: kind for fd, kind in descriptors.items() if isinstance(kind, str)} == {
            1: "r",
            2: "r",
            3: "w",
            4: "r",
        }
        self._protocol = protocol
        protocol.makeConnection(self)

    def writeToChild(self, fd: int, data: bytes) -> None:
        assert fd in self.pipes
        self.told += map(json.loads, data.splitlines())

    def signalProcess(self, number: int) -> None:
        if not self.alive:
            raise ProcessExitedAlready
        self.signals.append(signal.Signals(number).name.removeprefix("SIG"))

    def listens(self) -> None:
        self._protocol.childDataReceived(1, f"{LISTENS}\n".encode())

    def lives(self) -> None:
        self._protocol.childDataReceived(4, b".")

    def exits(self, number: int | None = None) -> None:
        """End, while something else still has its output open."""
        self.alive = False
        self._error = ProcessDone(0) if number is None else ProcessTerminated(signal=number)
        for fd in (3, 4):
            del self.pipes[fd]
        self._protocol.processExited(Failure(self._error))

    def lets_go(self) -> None:
        """Come to the end of its output."""
        self._protocol.processEnded(Failure(self._error))

    def ends(self, number: int | None = None) -> None:
        self.exits(number)
        self.lets_go()


class FakeReactor(Clock):
    """Starts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[Child] = []
        self.refuses = False
        self.stopped = 0

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        function()

    callFromThread = callWhenRunning

    def spawnProcess(self, protocol: Any, *_: Any, childFDs: dict[int, Any]) -> None:
        if self.refuses:
            raise BlockingIOError(11, "no more processes")
        self.children.append(Child(protocol, childFDs))

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Collect what would be called at the end of the process."""
    collected: list[tuple[Any, ...]] = []
    spied = SimpleNamespace(register=lambda *call: collected.append(call))
    monkeypatch.setattr("wsframe.services.workers.atexit", spied)
    return collected


@pytest.fixture
def made(exits: list[Any]) -> Iterator[Workers]:
    """Give two workers on a clock, started, of which none listens."""
    options = echo.Options()
    listen = ["--listen", "tcp:0:interface=127.0.0.1"]
    options.parseOptions(["--workers", "2", *listen, "--trace-on-signal", "trace"])
    workers = in_workers(options, echo.build, LIMITS)
    assert isinstance(workers, Workers)
    workers.reactor = FakeReactor()
    workers.startService()
    yield workers
    stopping = workers.stopService()
    for child in workers.reactor.children:
        if child.alive:
            child.ends()
    assert stopping.called
    assert workers.reactor.getDelayedCalls() == []


def listening(workers: Workers) -> list[Child]:
    first, second = workers.reactor.children
    first.listens()
    second.listens()
    return [first, second]


def test_each_is_told_what_it_is(made: Workers) -> None:
    for number, child in enumerate(made.reactor.children, 1):
        (told,) = child.told
        assert told["number"] == number
        assert told["build"] == "wsframe.services.echo.build"
        assert told["options"] == "wsframe.services.echo.Options"
        assert told["arguments"][:2] == ["--workers", "2"]
        assert told["reactor"] == __name__


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGRTMIN + 6])  # that one has no name
def test_one_that_served_long_enough_is_replaced_at_once(made: Workers, number: int) -> None:
    first, _ = listening(made)
    made.reactor.advance(10)
    first.ends(number)
    made.reactor.advance(0)
    assert len(made.reactor.children) == 3


def test_one_that_dies_again_and_again_is_replaced_later_and_later(made: Workers) -> None:
    first, _ = listening(made)
    made.reactor.advance(9.9)
    for largest in (1.0, 3.0, 5.0, 5.0, 5.0):
        count = len(made.reactor.children)
        first.ends(signal.SIGSEGV)
        made.reactor.advance(largest / 2 - 0.01)
        assert len(made.reactor.children) == count
        made.reactor.advance(largest / 2 + 0.02)
        assert len(made.reactor.children) == count + 1
        first = made.reactor.children[-1]
    # The other one serves: it goes on for ever.
    assert made.reactor.stopped == 0
    first.listens()
    made.reactor.advance(10)
    first.ends()
    made.reactor.advance(0)
    assert len(made.reactor.children) == 8


def test_when_every_one_has_died_so_often_the_service_ends(made: Workers, exits: list[Any]) -> None:
    first, second = listening(made)
    for death in range(3):
        assert made.reactor.stopped == 0, death
        first.ends(signal.SIGKILL)
        second.ends(signal.SIGKILL)
        made.reactor.advance(5)
        first, second = made.reactor.children[-2:]
    assert made.reactor.stopped == 1
    ((_, status),) = exits
    assert status == 1


def test_one_that_ends_before_any_has_listened_ends_the_service(
    made: Workers, exits: list[Any]
) -> None:
    for child in made.reactor.children:
        child.ends()
    assert made.reactor.stopped == len(exits) == 1
    made.reactor.advance(100)
    assert len(made.reactor.children) == 2


def test_one_that_does_not_listen_in_time_is_killed_and_replaced(made: Workers) -> None:
    first, second = made.reactor.children
    first.listens()
    made.reactor.advance(59)
    assert second.signals == []
    made.reactor.advance(1)
    assert (first.signals, second.signals) == ([], ["KILL"])
    second.ends(signal.SIGKILL)
    made.reactor.advance(1)
    assert len(made.reactor.children) == 3


def pass_time(workers: Workers, seconds: float, *alive: Child) -> None:
    """Let time pass in small steps, in which these give signs of life."""
    while seconds > 0:
        step = min(seconds, 2.0)
        workers.reactor.advance(step)
        seconds -= step
        for child in alive:
            child.lives()


def test_one_that_gives_no_sign_of_life_is_killed_and_replaced(
    made: Workers, logged: Callable[[], str]
) -> None:
    first, second = listening(made)
    assert first.told[0]["heartbeat"] == 4.0
    pass_time(made, 100, first, second)
    pass_time(made, 39.9, first)
    assert (first.signals, second.signals) == ([], [])
    pass_time(made, 0.1, first)
    assert (first.signals, second.signals) == ([], ["QUIT"])
    assert "Worker 2 has given no sign of life for 40 s: killed" in logged()
    pass_time(made, 1, first)
    assert (first.signals, second.signals) == ([], ["QUIT", "KILL"])
    second.ends(signal.SIGKILL)
    pass_time(made, 1, first)
    assert len(made.reactor.children) == 3
    pass_time(made, 59, first)  # the new one starts, and need not say anything
    assert made.reactor.children[-1].signals == []


def test_one_whose_parent_was_away_is_given_its_time_again(made: Workers) -> None:
    """What it said meanwhile is not read yet when the timers run."""
    first, second = listening(made)
    for _ in range(3):
        pass_time(made, 20, first, second)
        made.reactor.advance(1000)
        pass_time(made, 36)
        assert (first.signals, second.signals) == ([], [])
        first.lives()
        second.lives()


def test_one_that_is_silent_is_found_though_the_parent_is_always_late(made: Workers) -> None:
    first, second = listening(made)
    for _ in range(8):
        made.reactor.advance(25)
        first.lives()
    assert (first.signals, second.signals) == ([], ["QUIT", "KILL"])


def test_time_in_silence_was_no_service(made: Workers, exits: list[Any]) -> None:
    """Such that hang as soon as they listen are replaced later and later, and end it at last."""
    children = listening(made)
    for _ in range(3):
        assert made.reactor.stopped == 0
        pass_time(made, 41)
        for child in children:
            assert child.signals == ["QUIT", "KILL"]
            child.ends(signal.SIGKILL)
        count = len(made.reactor.children)
        made.reactor.advance(0.49)
        assert len(made.reactor.children) == count
        made.reactor.advance(5)
        children = made.reactor.children[count:]
        for child in children:
            child.listens()
    assert made.reactor.stopped == len(exits) == 1


def test_one_that_served_before_it_fell_silent_is_replaced_at_once(made: Workers) -> None:
    first, second = listening(made)
    pass_time(made, 12, first, second)
    pass_time(made, 41, second)
    first.ends(signal.SIGKILL)
    made.reactor.advance(0)
    assert len(made.reactor.children) == 3


def test_what_drains_with_the_service_has_its_own_deadline(made: Workers) -> None:
    first, second = listening(made)
    pass_time(made, 35)
    made.stopService()
    made.reactor.advance(14.9)
    assert (first.signals, second.signals) == (["TERM"], ["TERM"])


def test_none_waits_for_ever(made: Workers) -> None:
    made.limits = replace(LIMITS, silence_timeout=None)
    first, second = listening(made)
    pass_time(made, 1000)
    assert (first.signals, second.signals) == ([], [])
    first.ends(signal.SIGKILL)
    made.reactor.advance(1)
    assert made.reactor.children[-1].told[0]["heartbeat"] is None


def test_one_that_cannot_be_started_is_tried_again(made: Workers) -> None:
    first, _ = listening(made)
    made.reactor.refuses = True
    first.ends(signal.SIGKILL)
    made.reactor.advance(1)
    made.reactor.advance(3)
    assert len(made.reactor.children) == 2
    made.reactor.refuses = False
    made.reactor.advance(5)
    assert len(made.reactor.children) == 3


def test_all_are_told_to_end_and_what_remains_at_the_deadline_is_killed(made: Workers) -> None:
    first, second = listening(made)
    stopping = made.stopService()
    assert made.stopService() is stopping
    first.ends()
    made.reactor.advance(14.9)
    assert (first.signals, second.signals) == (["TERM"], ["TERM"])
    assert not stopping.called
    made.reactor.advance(0.1)
    assert (first.signals, second.signals) == (["TERM"], ["TERM", "KILL"])
    second.ends(signal.SIGKILL)
    assert stopping.called


def accept(bound: socket.socket) -> bool:
    return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_a_dead_one_whose_output_is_still_open_accepts_no_more(made: Workers) -> None:
    (first,), (second,) = made.sockets(1), made.sockets(2)
    for bound in (first, second):
        bound.listen()
    child, _ = listening(made)
    child.exits(signal.SIGKILL)
    assert not accept(first)
    assert accept(second)
    assert len(made.reactor.children) == 2
    child.lets_go()
    made.reactor.advance(1)
    assert len(made.reactor.children) == 3


def test_a_dead_one_whose_output_is_still_open_keeps_no_other_from_being_told(
    made: Workers, logged: Callable[[], str]
) -> None:
    first, second = listening(made)
    first.exits(signal.SIGKILL)
    signal.raise_signal(signal.SIGUSR2)
    assert "The trace is on" in logged()
    assert [len(first.told), second.told[1:]] == [1, [{"tracing": True}]]
    first.lets_go()
    made.reactor.advance(1)
    assert made.reactor.children[-1].told[0]["tracing"] is True


def test_the_addresses_are_kept_until_the_end(made: Workers) -> None:
    for child in listening(made):
        child.ends(signal.SIGKILL)
    (port,) = {bound.getsockname()[1] for bound in made.sockets(1) + made.sockets(2)}
    with pytest.raises(OSError, match="in use"), socket.socket() as other:
        other.bind(("127.0.0.1", port))
    made.stopService()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
