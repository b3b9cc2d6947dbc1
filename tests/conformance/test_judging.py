"""What a report must have in it to pass, from small ones that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from .judging import CASES, judge
from .runs import Configuration, results

SECTIONS = {"1": 2, "10": 1}


def report(**changed: tuple[str, str]) -> dict[str, Any]:
    """Return three good results, and those that differ: the case 1.1.1 is written `c1_1_1`."""
    kinds = dict.fromkeys(("1.1.1", "1.1.2", "10.1.1"), ("OK", "OK"))
    kinds |= {name[1:].replace("_", "."): kind for name, kind in changed.items()}
    return {
        case: {"behavior": behavior, "behaviorClose": close}
        for case, (behavior, close) in kinds.items()
    }


def test_good_cases_in_the_right_number_pass() -> None:
    informational = ("INFORMATIONAL", "INFORMATIONAL")
    verdict = judge(report(c1_1_2=informational), SECTIONS)
    assert verdict.passed
    assert verdict.counts == {"OK": 2, "INFORMATIONAL": 1}
    assert (verdict.miscounts, verdict.bad) == ((), {})


@pytest.mark.parametrize(
    "kind",
    [
        ("FAILED", "OK"),
        ("UNIMPLEMENTED", "OK"),
        ("NON-STRICT", "OK"),
        ("OK", "FAILED"),
        ("OK", "WRONG CODE"),
        ("OK", "UNCLEAN"),
        ("OK", "FAILED BY CLIENT"),
        ("OK", "NON-STRICT"),
        ("a word of a later version", "OK"),
    ],
)
def test_any_other_behavior_fails(kind: tuple[str, str]) -> None:
    verdict = judge(report(c1_1_2=kind), SECTIONS)
    assert not verdict.passed
    assert verdict.counts == {"OK": 2, "bad": 1}
    assert verdict.bad == {"1.1.2": f"{kind[0]}, its close {kind[1]}"}


def test_missing_cases_fail() -> None:
    found = report()
    del found["1.1.2"]
    verdict = judge(found, SECTIONS)
    assert not verdict.passed
    assert verdict.miscounts == ("section 1: 1 cases, not 2",)


def test_cases_nobody_expected_fail() -> None:
    """A newer suite is looked at before its number of cases is taken for complete."""
    verdict = judge(report(c11_1=("OK", "OK")), SECTIONS)
    assert verdict.miscounts == ("section 11: 1 cases, not 0",)
    assert not verdict.passed


def test_report_of_nothing_fails() -> None:
    verdict = judge({}, CASES)
    assert not verdict.passed
    assert len(verdict.miscounts) == len(CASES)
    assert sum(CASES.values()) == 517


def test_bad_cases_are_named_in_the_order_of_the_suite() -> None:
    failed = ("FAILED", "FAILED")
    verdict = judge(report(c10_1_1=failed, c1_1_2=failed), SECTIONS)
    assert list(verdict.bad) == ["1.1.2", "10.1.1"]


def test_run_that_left_no_report_has_no_results() -> None:
    assert results(Configuration("server", "async", "no such reactor")) == {}
