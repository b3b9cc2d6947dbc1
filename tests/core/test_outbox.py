"""The outbox: what waits, what is in flight, and its limits."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsframe.core.outbox import Outbox
from wsframe.errors import NotSent, OutboxFull


def outbox(*, messages: int = 3, size: int = 10, policy: Any = "refuse") -> Outbox[str]:
    return Outbox(max_messages=messages, max_bytes=size, policy=policy)


def filled(box: Outbox[str], *entries: str) -> Outbox[str]:
    for entry in entries:
        assert box.put(entry, len(entry)) == []
    return box


def send(box: Outbox[str], count: int = 1) -> list[str]:
    for _ in range(count):
        box.lend()
    return [box.sent() for _ in range(count)]


def test_what_waits_comes_in_order_and_goes_when_it_is_sent() -> None:
    box = filled(outbox(), "a", "b")
    assert (box.lend(), list(box), len(box), box.waiting_bytes) == ("a", ["a", "b"], 2, 2)
    assert box.sent() == "a"
    assert (box.lend(), box.in_flight) == ("b", 1)
    box.sent()
    assert (box.lend(), len(box), box.waiting_bytes) == (None, 0, 0)


def test_what_a_connection_has_is_neither_dropped_nor_taken_out() -> None:
    box = filled(outbox(policy="drop-oldest"), "a", "b", "c")
    assert (box.lend(), box.lend(), box.lent) == ("a", "b", 2)
    assert box.put("d", 1) == ["c"]
    assert not box.remove("a")
    assert box.clear() == ["d"]
    assert send(filled(box, "e"), 0) == []
    assert [box.sent(), box.sent()] == ["a", "b"]
    assert list(box) == ["e"]


def test_what_finds_no_room_beside_what_a_connection_has_is_refused_and_drops_nothing() -> None:
    box = filled(outbox(policy="drop-oldest"), "aaaaaa", "bb")
    box.lend()
    with pytest.raises(OutboxFull, match="2 messages, 8 bytes"):
        box.put("ccccc", 5)
    assert list(box) == ["aaaaaa", "bb"]


def test_what_a_connection_gives_back_is_next_again() -> None:
    box = filled(outbox(), "a", "b")
    assert [box.lend(), box.lend()] == ["a", "b"]
    box.returned()
    assert (box.lent, box.lend()) == (1, "b")
    box.returned()
    box.returned()
    assert box.lend() == "a"


def test_what_no_connection_has_is_not_sent_by_one() -> None:
    with pytest.raises(IndexError):
        filled(outbox(), "a").sent()


@pytest.mark.parametrize("entry", ["d", "0123456789"])
def test_what_exceeds_a_limit_is_refused_and_nothing_else_is_lost(entry: str) -> None:
    box = filled(outbox(), "a", "b", "c")
    with pytest.raises(OutboxFull, match="3 messages, 3 bytes wait already"):
        box.put(entry, len(entry))
    assert list(box) == ["a", "b", "c"]


def test_oldest_are_dropped_where_the_policy_says_so_as_few_as_need_be() -> None:
    box = filled(outbox(policy="drop-oldest"), "aaa", "bbb", "ccc")
    assert box.put("dd", 2) == ["aaa"]
    assert box.put("eeeeeee", 7) == ["bbb", "ccc"]
    assert list(box) == ["dd", "eeeeeee"]
    assert box.waiting_bytes == 9


@pytest.mark.parametrize("policy", ["refuse", "drop-oldest"])
def test_what_is_larger_than_the_outbox_is_refused_and_drops_nothing(policy: str) -> None:
    box = filled(outbox(policy=policy), "a")
    with pytest.raises(OutboxFull, match="11 bytes; the outbox has 10"):
        box.put("x" * 11, 11)
    assert list(box) == ["a"]


def test_full_outbox_is_a_kind_of_not_sent() -> None:
    assert issubclass(OutboxFull, NotSent)


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="refuse, drop-oldest"):
        outbox(policy="drop-newest")


def test_what_was_sent_before_the_mark_is_confirmed_by_it() -> None:
    box = filled(outbox(), "a", "b")
    send(box)
    mark = box.mark()
    send(box)
    box.confirmed(mark)
    assert box.lost() == ["b"]
    assert box.lost() == []


def test_confirmation_that_comes_after_the_loss_changes_nothing() -> None:
    box = filled(outbox(), "a", "b")
    send(box)
    mark = box.mark()
    assert box.lost() == ["a"]
    send(box)
    box.confirmed(mark)
    assert box.lost() == ["b"]


def test_flight_is_bounded_and_what_is_forgotten_is_counted() -> None:
    box = outbox()
    for entry in ("a", "b", "c", "d", "0123456789"):
        send(filled(box, entry))
    assert box.forgotten == 4
    assert box.lost() == ["0123456789"]


def test_entry_is_taken_out_by_identity() -> None:
    twins: Outbox[list[int]] = Outbox(max_messages=9, max_bytes=99, policy="refuse")
    first, second = [1], [1]
    twins.put(first, 5)
    twins.put(second, 7)
    assert twins.remove(second)
    assert not twins.remove(second)
    assert next(iter(twins)) is first
    assert twins.waiting_bytes == 5


def test_clear_gives_back_what_waits_and_leaves_what_is_in_flight() -> None:
    box = filled(outbox(), "a", "b", "c")
    send(box)
    assert box.clear() == ["b", "c"]
    assert (len(box), box.waiting_bytes, box.in_flight) == (0, 0, 1)


class Model(RuleBasedStateMachine):
    """Against two plain queues: nothing is lost, sent twice or out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Outbox[int] = Outbox(max_messages=4, max_bytes=20, policy="drop-oldest")
        self.waiting: deque[tuple[int, int]] = deque()
        self.flight: deque[tuple[int, int]] = deque()
        self.lent = 0
        self.count = 0
        self.marks: list[tuple[int, int]] = []

    @rule(size=st.integers(0, 20))
    def put(self, size: int) -> None:
        self.count += 1
        lent = list(self.waiting)[: self.lent]
        if len(lent) >= 4 or sum(each for _, each in lent) + size > 20:
            with pytest.raises(OutboxFull):
                self.box.put(self.count, size)
            return
        dropped = self.box.put(self.count, size)
        for entry in dropped:
            assert self.waiting[self.lent][0] == entry
            del self.waiting[self.lent]
        self.waiting.append((self.count, size))

    @precondition(lambda self: len(self.waiting) > self.lent)
    @rule()
    def lend(self) -> None:
        assert self.box.lend() == self.waiting[self.lent][0]
        self.lent += 1

    @precondition(lambda self: self.lent)
    @rule()
    def give_back(self) -> None:
        self.box.returned()
        self.lent -= 1

    @precondition(lambda self: self.waiting)
    @rule(place=st.integers(0, 3))
    def remove(self, place: int) -> None:
        place %= len(self.waiting)
        assert self.box.remove(self.waiting[place][0]) == (place >= self.lent)
        if place >= self.lent:
            del self.waiting[place]

    @precondition(lambda self: self.lent)
    @rule()
    def send(self) -> None:
        self.lent -= 1
        entry = self.waiting.popleft()
        assert self.box.sent() == entry[0]
        self.flight.append(entry)
        while len(self.flight) > 4 or sum(size for _, size in self.flight) > 20:
            self.flight.popleft()

    @rule()
    def mark(self) -> None:
        last = self.flight[-1][0] if self.flight else 0
        self.marks.append((self.box.mark(), last))

    @precondition(lambda self: self.marks)
    @rule()
    def confirm(self) -> None:
        mark, last = self.marks.pop()
        self.box.confirmed(mark)
        while self.flight and self.flight[0][0] <= last:
            self.flight.popleft()

    @rule()
    def lose(self) -> None:
        assert self.box.lost() == [entry for entry, _ in self.flight]
        self.flight.clear()

    @invariant()
    def same(self) -> None:
        assert list(self.box) == [entry for entry, _ in self.waiting]
        assert self.box.waiting_bytes == sum(size for _, size in self.waiting) <= 20
        assert self.box.in_flight == len(self.flight)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40)
