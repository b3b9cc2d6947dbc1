"""The checks of numbers; what the options make of them is in tests/test_options.py."""

from types import SimpleNamespace

import pytest

from wsframe.core.checks import LONGEST, check_counts, check_seconds


@pytest.mark.parametrize("value", [1, 0.001, LONGEST])
def test_time_is_accepted(value):
    check_seconds(SimpleNamespace(wait=value), "wait")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), LONGEST * 1.01])
def test_number_that_is_no_time_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^wait must be above 0"):
        check_seconds(SimpleNamespace(wait=value), "wait")


@pytest.mark.parametrize("value", ["1", None, True, 1j])
def test_what_is_no_number_is_refused_by_name(value):
    given = SimpleNamespace(wait=value)
    with pytest.raises(TypeError, match=r"^wait is a number of seconds"):
        check_seconds(given, "wait")
    with pytest.raises(TypeError, match=r"^wait is a whole number"):
        check_counts(given, "wait")


@pytest.mark.parametrize(("value", "text"), [(0, "at least 1"), (-3, "at least 1"), (8, "at most")])
def test_count_out_of_its_bounds_is_refused_by_name(value, text):
    with pytest.raises(ValueError, match=rf"^wait must be {text}"):
        check_counts(SimpleNamespace(wait=value), "wait", most=7)


@pytest.mark.parametrize("check", [check_counts, check_seconds])
def test_none_is_accepted_where_it_means_something_and_nothing_else_is(check):
    check(SimpleNamespace(wait=None), optional=("wait",))
    check(SimpleNamespace(wait=7), optional=("wait",))
    with pytest.raises(ValueError, match=r"^wait\b"):
        check(SimpleNamespace(wait=0), optional=("wait",))
