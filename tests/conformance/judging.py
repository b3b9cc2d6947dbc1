"""The verdict on a report of Autobahn's testsuite: every case must be there, and be good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CASES", "Verdict", "judge"]

CASES: Final = {
    "1": 16,
    "2": 11,
    "3": 7,
    "4": 10,
    "5": 20,
    "6": 145,
    "7": 37,
    "9": 54,
    "10": 1,
    "12": 90,
    "13": 126,
}
"""How many cases the sections of version 25.10.1 have; 8 and 11 have none."""

_GOOD: Final = {"OK", "INFORMATIONAL"}


@dataclass(frozen=True)
class Verdict:
    """What is in a report, and what is wrong with it."""

    counts: Mapping[str, int]
    """How many cases were OK, how many INFORMATIONAL, and how many are "bad"."""

    miscounts: tuple[str, ...]
    """The sections of which cases are missing, or too many."""

    bad: Mapping[str, str]
    """The cases that behaved or closed in another way, and in which."""

    @property
    def passed(self) -> bool:
        return not self.miscounts and not self.bad


def judge(results: Mapping[str, Any], cases: Mapping[str, int]) -> Verdict:
    """Judge what `index.json` says of one agent; `cases` is how many there are to be by section."""
    there = Counter(case.partition(".")[0] for case in results)
    miscounts = tuple(
        f"section {section}: {there[section]} cases, not {cases.get(section, 0)}"
        for section in sorted({*cases, *there}, key=int)
        if there[section] != cases.get(section, 0)
    )
    counts: Counter[str] = Counter()
    bad = {}
    for case in sorted(results, key=lambda case: [int(number) for number in case.split(".")]):
        behavior, close = results[case]["behavior"], results[case]["behaviorClose"]
        if behavior in _GOOD and close in _GOOD:
            counts[behavior] += 1
        else:
            counts["bad"] += 1
            bad[case] = f"{behavior}, its close {close}"
    return Verdict(counts, miscounts, bad)
