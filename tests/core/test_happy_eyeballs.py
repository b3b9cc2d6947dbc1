"""Which address is tried when: RFC 8305's order, its delay, and what is said about each address."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsframe.core.happy_eyeballs import ATTEMPT_DELAY, MAX_ADDRESSES, Attempts, in_turn
from wsframe.errors import AddressFailure

HOSTS = st.lists(st.sampled_from([f"192.0.2.{n}" for n in range(9)] + [f"::{n}" for n in range(9)]))


def is_ipv6(host: str) -> bool:
    return ":" in host


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("", ""),
        ("::1", "::1"),
        ("::1 ::2 1.1.1.1 2.2.2.2", "::1 1.1.1.1 ::2 2.2.2.2"),
        ("1.1.1.1 2.2.2.2 ::1 ::2", "1.1.1.1 ::1 2.2.2.2 ::2"),
        ("::1 ::2 ::3 1.1.1.1", "::1 1.1.1.1 ::2 ::3"),
        ("::1 1.1.1.1 2.2.2.2 3.3.3.3", "::1 1.1.1.1 2.2.2.2 3.3.3.3"),
        ("2.2.2.2 1.1.1.1", "2.2.2.2 1.1.1.1"),
        ("::1 1.1.1.1 ::1 1.1.1.1 ::2", "::1 1.1.1.1 ::2"),
        ("fe80::1%2 fe80::1%3 1.1.1.1", "fe80::1%2 1.1.1.1 fe80::1%3"),
    ],
)
def test_families_take_turns_and_the_first_address_stays_the_first(
    found: str, expected: str
) -> None:
    assert in_turn(found.split()) == tuple(expected.split())


@given(HOSTS)
def test_order_keeps_every_address_once_and_the_order_within_a_family(found: list[str]) -> None:
    ordered = in_turn(found)
    once = list(dict.fromkeys(found))
    assert ordered[:1] == tuple(once[:1])
    for family in (True, False):
        assert [h for h in ordered if is_ipv6(h) is family] == [
            h for h in once if is_ipv6(h) is family
        ]


@given(HOSTS)
def test_no_family_follows_itself_while_the_other_has_addresses_left(found: list[str]) -> None:
    ordered = in_turn(found)
    for place, (one, next_one) in enumerate(pairwise(ordered), start=1):
        if is_ipv6(one) == is_ipv6(next_one):
            assert len({is_ipv6(host) for host in ordered[place:]}) == 1


def test_first_attempt_is_due_at_once_and_the_others_after_the_delay() -> None:
    attempts = Attempts(("a", "b", "c"), 10.0)
    assert attempts.deadline == 10.0
    assert attempts.start(10.0) == "a"
    assert attempts.start(10.0) is None
    assert attempts.deadline == 10.0 + ATTEMPT_DELAY
    assert attempts.start(10.2) is None
    assert attempts.start(10.25) == "b"
    assert attempts.deadline == 10.5
    assert attempts.start(11.0) == "c"
    assert attempts.deadline is None
    assert attempts.start(99.0) is None
    assert not attempts.lost


def test_failure_makes_the_next_due_at_once() -> None:
    attempts = Attempts(("a", "b", "c"), 0.0)
    attempts.start(0.0)
    attempts.failed("a", "refused", 0.1)
    assert attempts.deadline == 0.1
    assert attempts.start(0.1) == "b"
    assert attempts.deadline == 0.1 + ATTEMPT_DELAY


def test_it_is_lost_when_the_last_one_has_failed() -> None:
    attempts = Attempts(("a", "b"), 0.0)
    attempts.start(0.0)
    attempts.start(0.25)
    attempts.failed("b", "no route", 0.3)
    assert attempts.deadline is None
    assert not attempts.lost
    attempts.failed("a", "refused", 0.4)
    assert attempts.lost
    assert attempts.failures == (AddressFailure("b", "no route"), AddressFailure("a", "refused"))


def test_no_other_starts_once_one_is_connected() -> None:
    attempts = Attempts(("a", "b", "c"), 0.0)
    attempts.start(0.0)
    attempts.start(0.25)
    attempts.connected("b")
    assert attempts.deadline is None
    assert attempts.start(99.0) is None
    assert attempts.so_far(0.5) == (AddressFailure("a", "no answer in 0.5 s"),)
    attempts.failed("a", "given up", 0.5)
    assert attempts.deadline is None


def test_what_hangs_is_told_after_what_failed() -> None:
    attempts = Attempts(("a", "b", "c"), 0.0)
    assert attempts.so_far(0.0) == ()
    attempts.start(0.0)
    attempts.start(0.25)
    attempts.failed("b", "refused", 0.3)
    assert attempts.so_far(2.0) == (
        AddressFailure("b", "refused"),
        AddressFailure("a", "no answer in 2 s"),
    )


def test_only_so_many_addresses_are_tried() -> None:
    attempts = Attempts(tuple(f"192.0.2.{n}" for n in range(MAX_ADDRESSES + 3)), 0.0)
    assert attempts.left_out == 3
    for n in range(MAX_ADDRESSES):
        assert attempts.start(0.0) == f"192.0.2.{n}"
        attempts.failed(f"192.0.2.{n}", "refused", 0.0)
    assert attempts.lost


def test_without_addresses_it_is_lost_from_the_beginning() -> None:
    attempts = Attempts((), 0.0)
    assert attempts.lost
    assert attempts.deadline is None


STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.125, 0.25, 1.0]), st.none() | st.integers(0, 7)), max_size=40
)


@given(st.integers(1, 8), STEPS)
def test_each_address_starts_once_in_order_and_in_time(
    count: int, steps: list[tuple[float, int | None]]
) -> None:
    addresses = tuple("abcdefgh"[:count])
    attempts = Attempts(addresses, 0.0)
    now, last, failed = 0.0, -1.0, -1.0
    started: list[str] = []
    hanging: list[str] = []
    for seconds, failing in steps:
        now += seconds
        if hanging and failing is not None:
            attempts.failed(hanging.pop(failing % len(hanging)), "refused", now)
            failed = now
        due = attempts.deadline is not None and now >= attempts.deadline
        address = attempts.start(now)
        assert (address is not None) == due
        if address is not None:
            assert not started or now - last >= ATTEMPT_DELAY or failed >= last
            started.append(address)
            hanging.append(address)
            last = now
        assert (attempts.deadline is None) == (len(started) == count)
        assert attempts.lost == (len(started) == count and not hanging)
        assert sorted(told.address for told in attempts.so_far(now)) == sorted(started)
    assert tuple(started) == addresses[: len(started)]
