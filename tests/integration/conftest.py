"""An outer time limit for every integration test, so that a hang is a failure; and fixtures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer

from .names import Resolver

LIMIT = 30.0
"""Seconds; a safety net only. No test waits for it to pass."""


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        from twisted.internet import reactor

        return defer.ensureDeferred(function(*args, **kwargs)).addTimeout(LIMIT, reactor)

    # Marked for pytest-twisted by the attributes that `wraps` copies; it takes a Deferred, too.
    limited.__dict__.pop("_pytest_twisted_mark", None)
    return limited


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if getattr(pyfuncitem.obj, "_pytest_twisted_mark", None) == "async_test":
        pyfuncitem.obj = _limited(pyfuncitem.obj)


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    """Give what answers for names while the test runs."""
    from twisted.internet import reactor

    ours = Resolver()
    that: Any = reactor
    before = that.installNameResolver(ours)
    yield ours
    that.installNameResolver(before)
