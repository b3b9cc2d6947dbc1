"""What every test gets: a check that it leaves nothing behind, and fixed examples in CI."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from twisted.internet import defer
from twisted.logger import globalLogPublisher

# Who runs the tests in the background has them ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


def _leftovers() -> list[str]:
    from twisted.internet import reactor

    this: Any = reactor
    internal = {"_UnixWaker", "_SIGCHLDWaker", "_SocketWaker", "_FDWaker"}
    readers = [r for r in this.getReaders() if type(r).__name__ not in internal]
    return [
        *(f"delayed call {call}" for call in this.getDelayedCalls()),
        *(f"reader {reader}" for reader in readers),
        *(f"writer {writer}" for writer in this.getWriters()),
    ]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a delayed call, a socket or an unhandled Deferred error behind.

    The last bytes of a connection may need some turns of the reactor to go.
    """
    unhandled: list[str] = []

    def observe(event: Any) -> None:
        if "log_failure" in event and event.get("log_namespace") == "twisted.internet.defer":
            unhandled.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    before = set(_leftovers())
    try:
        yield
        pytest_twisted.blockon(_settle(before))
        gc.collect(0)
    finally:
        globalLogPublisher.removeObserver(observe)
    left = [item for item in _leftovers() if item not in before]
    if left:
        pytest.fail("left behind: " + "; ".join(left))
    if unhandled:
        pytest.fail("unhandled error in a Deferred:\n" + "\n".join(unhandled))


async def _turn() -> None:
    from twisted.internet import reactor

    done: defer.Deferred[None] = defer.Deferred()
    that: Any = reactor
    that.callLater(0, done.callback, None)
    await done


def _settle(before: set[str]) -> defer.Deferred[None]:
    async def turns() -> None:
        for _ in range(200):
            if not [item for item in _leftovers() if item not in before]:
                return
            await _turn()

    return defer.ensureDeferred(turns())


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """Give a function that returns everything logged so far, formatted, as one text."""
    from twisted.logger import eventAsText

    lines: list[str] = []

    def observe(event: Any) -> None:
        lines.append(eventAsText(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield lambda: "\n".join(lines)
    finally:
        globalLogPublisher.removeObserver(observe)


@pytest.fixture
def private(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "secrets"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    return write
