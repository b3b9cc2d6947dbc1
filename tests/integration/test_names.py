"""Who looks a name up: every query for one is counted, on a machine of the test's own.

The client runs in a network and with files of its own, so that no query of it goes anywhere but to
a DNS server that counts; the proxies have another. A look-up that no part of wsframe knows of, in
the C library or in a thread, would be seen here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer

from .namespaces import seeing
from .peer_names import OURS, files
from .peers import HERE, Peer, program


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    for name in ("tinyproxy", "squid", "privoxy", "danted", "microsocks"):
        program(name)
    prefix = seeing(tmp_path_factory.mktemp("etc"), files(OURS), machine=True)
    path = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
    peer = Peer(
        *prefix, "env", f"PYTHONPATH={path}", sys.executable, "-m", "integration.peer_names"
    )
    yield peer
    pytest_twisted.blockon(defer.ensureDeferred(peer.stop()))


@pytest.mark.parametrize(
    ("proxy", "ours", "theirs"),
    [
        (None, 1, 0),
        (["tinyproxy", "http"], 0, 1),
        (["squid", "http"], 0, 1),
        (["privoxy", "http"], 0, 1),
        (["dante", "socks5h"], 0, 1),
        (["microsocks", "socks5h"], 0, 1),
        (["twisted", "socks4a"], 0, 0),  # it knows the name by itself
        (["dante", "socks4"], 1, 0),
        (["dante", "socks5"], 1, 0),
        (["microsocks", "socks5"], 1, 0),
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_name_of_the_target_is_asked_for_where_the_scheme_says(
    machine: Peer, proxy: list[str] | None, ours: int, theirs: int
) -> None:
    assert await machine("open", proxy=proxy) == {
        "outcome": "open",
        "phase": None,
        "ours": ["four.test"] * ours,
        "theirs": ["four.test"] * theirs,
    }


@pytest.mark.parametrize(
    "proxy",
    [
        ["tinyproxy", "http"],
        ["squid", "http"],
        ["privoxy", "http"],
        ["dante", "socks5h"],
        ["microsocks", "socks5h"],
        ["twisted", "socks4a"],
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_name_that_the_proxy_does_not_find_is_not_asked_for_here(
    machine: Peer, proxy: list[str]
) -> None:
    """CVE-2023-38545: there is no second way."""
    answer = await machine("open", proxy=proxy, name="none.test")
    assert answer["outcome"] in {"ProxyRefused", "TargetUnreachable"}
    assert answer["phase"] == "proxy"
    assert answer["ours"] == []


@pytest.mark.parametrize("proxy", [["privoxy", "http"], ["microsocks", "socks5h"]], ids=str)
@pytest_twisted.ensureDeferred
async def test_name_of_the_proxy_is_the_only_one_asked_for_here(
    machine: Peer, proxy: list[str]
) -> None:
    answer = await machine("open", proxy=proxy, reached="proxy.test")
    assert (answer["outcome"], answer["ours"]) == ("open", ["proxy.test"])


@pytest.fixture
def failing(machine: Peer) -> Iterator[Any]:
    """Give what has the DNS server answer otherwise, for one test."""

    async def answer(answers: Any) -> None:
        await machine("answer", **{"with": answers})

    yield answer
    pytest_twisted.blockon(defer.ensureDeferred(answer({})))


@pytest.mark.parametrize("proxy", [None, ["microsocks", "socks5"]], ids=str)
@pytest.mark.parametrize("how", ["refused", "failed"])
@pytest_twisted.ensureDeferred
async def test_look_up_that_fails_is_name_lookup_failed(
    machine: Peer, failing: Any, how: str, proxy: list[str] | None
) -> None:
    await failing({"four.test": [how]})
    answer = await machine("open", proxy=proxy)
    assert (answer["outcome"], answer["phase"]) == ("NameLookupFailed", "dns")
    assert answer["ours"] == ["four.test"]


@pytest.mark.parametrize("proxy", [None, ["microsocks", "socks5"]], ids=str)
@pytest_twisted.ensureDeferred
async def test_look_up_that_takes_too_long_ends_at_the_deadline(
    machine: Peer, failing: Any, proxy: list[str] | None
) -> None:
    await failing({"four.test": ["silent"]})
    answer = await machine("open", proxy=proxy, wait=0.2)
    assert (answer["outcome"], answer["phase"]) == ("OpenTimeout", "dns")


@pytest_twisted.ensureDeferred
async def test_name_is_looked_up_anew_at_each_attempt(machine: Peer, failing: Any) -> None:
    """It was not known, then of an address that nobody listens on, then of the right one."""
    await failing({"four.test": ["refused", "failed", "127.0.0.9", "127.0.0.1"]})
    asked = (await machine("stay"))["asked"]
    assert set(asked) == {"four.test"}
    assert len(asked) >= 4
