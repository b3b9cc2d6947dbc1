"""What `make fuzz` runs holds for its seeds, and its inputs mean what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "fuzz"))

from targets import TARGETS, put_together, taken_apart


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds(name: str) -> None:
    target, seeds = TARGETS[name]
    for seed in seeds():
        target(seed)


def test_an_input_says_how_it_is_cut() -> None:
    assert taken_apart(put_together(3, (5, 300), b"stream")) == (3, [5, 300], b"stream")
    assert taken_apart(put_together(0x90, (), b"abcd")) == (0x90, [0, 2], b"abcd")
    assert taken_apart(b"") == taken_apart(b"\x03") == (0, [], b"")
