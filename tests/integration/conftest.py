"""What integration tests share: proxies, certificates, names; and an outer time limit for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import defer

from .certificates import Authority
from .names import Resolver
from .proxies import Proxies

LIMIT = 100.0
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


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Issue certificates, those of the proxies among them."""
    return Authority()


@pytest.fixture(scope="session")
def targets() -> Authority:
    """Issue the targets' certificates where neither authority is to go for the other."""
    return Authority("targets' CA")


@pytest.fixture(scope="session")
def proxies(authority: Authority) -> Iterator[Proxies]:
    """Give the real proxies, which run to the end of the session."""
    running = Proxies(authority)
    yield running
    running.stop()


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    """Put a resolver of the test's own in the place of the reactor's."""
    from twisted.internet import reactor

    ours = Resolver()
    that: Any = reactor
    before = that.installNameResolver(ours)
    yield ours
    that.installNameResolver(before)
