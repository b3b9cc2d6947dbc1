"""Close codes and reasons, and what both sides' Close frames amount to."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import EXTERNAL_CLOSE_CODES

from wsframe.core.closing import MAX_REASON, Closing, check_close, is_valid_code, truncate_reason
from wsframe.errors import ConnectionClosedError, ConnectionClosedOK

SEARCHED = settings(max_examples=200, deadline=None, database=None)


def test_valid_codes_are_those_of_an_independent_implementation():
    """The registered ones that may travel, and the ranges for libraries and applications."""
    valid = {code for code in range(-1, 70_000) if is_valid_code(code)}
    assert valid == set(EXTERNAL_CLOSE_CODES) | set(range(3000, 5000))


@pytest.mark.parametrize("code", [-1, 1004, 1005, 1006, 1015, 1016, 65536])
def test_code_that_may_not_travel_is_refused(code):
    """Some codes are only said locally."""
    with pytest.raises(ValueError, match="may not be sent"):
        check_close(code, "")


@pytest.mark.parametrize(
    ("code", "reason"),
    [(True, ""), (1000.0, ""), ("1000", ""), (None, ""), (1000, b""), (1000, None)],
)
def test_close_of_other_types_is_a_type_error(code, reason):
    """A code is an int, a reason a str."""
    with pytest.raises(TypeError, match="a close"):
        check_close(code, reason)


def test_reason_is_encoded():
    """In UTF-8."""
    assert check_close(1000, "größe") == "größe".encode()


def test_reason_limit_is_exact_in_bytes():
    """123 bytes fit a control frame beside the code (RFC 6455 §5.5)."""
    assert len(check_close(1000, "x" + "é" * 61)) == MAX_REASON == 123
    with pytest.raises(ValueError, match="at most 123 bytes"):
        check_close(1000, "é" * 62)


def test_reason_that_is_no_text_is_refused():
    """A lone surrogate has no UTF-8."""
    with pytest.raises(ValueError, match="surrogates"):
        check_close(1000, "\ud800")


@SEARCHED
@given(st.text(st.sampled_from("aé€😀\ud800"), min_size=20, max_size=200))
@example("a" * 123)
@example("a" * 124)
@example("a" * 122 + "é")
def test_truncated_reason_is_the_longest_that_fits(reason):
    """Whole characters, at most 123 bytes, and not one character less than could be."""
    cut = truncate_reason(reason)
    assert len(cut) <= MAX_REASON
    text, whole = cut.decode(), reason.encode(errors="replace").decode()
    assert whole.startswith(text)
    if text != whole:
        assert len((text + whole[len(text)]).encode()) > MAX_REASON


def test_nothing_known_is_1006():
    """The transport was lost without a word."""
    error = Closing().settle()
    assert (error.code, error.reason, error.by, error.clean) == (1006, "", None, False)


STEPS = {
    "sent": lambda closing: closing.begin("local", 1000, "ours"),
    "received": lambda closing: closing.begin("remote", 4001, "theirs"),
    "received without code": lambda closing: closing.begin("remote", None, ""),
    "lost": lambda closing: closing.lose(None, "reset"),
    "given up": lambda closing: closing.lose("local", "timeout"),
}
OUTCOMES = {
    "sent": (1000, "ours", "local"),
    "received": (4001, "theirs", "remote"),
    "received without code": (1005, "", "remote"),
    "lost": (1006, "reset", None),
    "given up": (1006, "timeout", "local"),
}


@pytest.mark.parametrize(
    "steps",
    [steps for length in (1, 2, 3) for steps in itertools.permutations(STEPS, length)],
    ids=", ".join,
)
def test_first_that_names_a_side_decides(steps):
    """In every order of frames and losses; a loss that nobody began gives way to what comes."""
    closing = Closing()
    for step in steps:
        STEPS[step](closing)
    decisive = next((step for step in steps if step != "lost"), "lost")
    error = closing.settle()
    assert (error.code, error.reason, error.by) == OUTCOMES[decisive]
    received = any(step.startswith("received") for step in steps)
    assert error.clean is closing.clean is ("sent" in steps and received)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, ConnectionClosedOK),
        (1001, ConnectionClosedOK),
        (None, ConnectionClosedOK),
        (1002, ConnectionClosedError),
        (1011, ConnectionClosedError),
        (4000, ConnectionClosedError),
    ],
)
def test_kind_of_the_outcome_follows_the_code(code, kind):
    """1000, 1001 and no code are a normal end."""
    closing = Closing()
    closing.begin("remote", code, "")
    assert type(closing.settle()) is kind


def test_each_outcome_is_an_exception_of_its_own():
    """One that is raised twice would grow a traceback."""
    closing = Closing()
    assert closing.settle() is not closing.settle()
