"""Checks of numbers that are given: seconds, and counts."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST", "check_counts", "check_seconds"]

LONGEST: Final = 366 * 24 * 3600.0
"""Seconds; a time beyond a year is a mistake in units, and select() loops overflow with it."""


def check_seconds(owner: object, *names: str, optional: tuple[str, ...] = ()) -> None:
    """Raise TypeError or ValueError for an attribute that is not a time; an `optional` may be None.

    The text begins with the attribute's name.
    """
    for name in (*names, *optional):
        value = getattr(owner, name)
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is a number of seconds, not {value!r}")
        if not 0 < value <= LONGEST:  # NaN is neither
            raise ValueError(f"{name} must be above 0 and at most a year of seconds, not {value}")


def check_counts(
    owner: object,
    *names: str,
    optional: tuple[str, ...] = (),
    least: int = 1,
    most: int | None = None,
) -> None:
    """Raise TypeError or ValueError for an attribute that is no count; an `optional` may be None.

    A count is at least `least` and, where that is given, at most `most`. The text begins with the
    attribute's name.
    """
    for name in (*names, *optional):
        value = getattr(owner, name)
        if value is None and name in optional:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is a whole number, not {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
        if most is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, not {value}")
