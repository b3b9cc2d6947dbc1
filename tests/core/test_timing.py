"""What those who watch an opening are told."""

import dataclasses

import pytest

from wsframe.core.timing import PhaseDone


def test_value_does_not_change_after_it_was_told() -> None:
    done = PhaseDone("dns", "example.org:443", 0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        done.seconds = 1.0  # type: ignore[misc]


def test_nothing_to_say_is_the_empty_detail() -> None:
    assert PhaseDone("tcp", "192.0.2.1:80", 0.0).detail == ""
