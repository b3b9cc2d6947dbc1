"""wsframe with Node's `ws` at the other end, in a process of its own, both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import defer

from .interop import CoreSet
from .peers import Peer, node_peer


@pytest.fixture(scope="module")
def process() -> Iterator[Peer]:
    peer = node_peer()
    yield peer
    pytest_twisted.blockon(defer.ensureDeferred(peer.stop()))


class TestCoreSet(CoreSet):
    @pytest.fixture
    def peer(self, process: Peer) -> Peer:
        return process
