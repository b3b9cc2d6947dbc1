"""A refusal whose body never ends is told at the deadline, and not taken for a timeout."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory, Protocol

from wsframe import ClientOptions, HandshakeRefused, OpenTimeout, connect


class Answering(Protocol):
    """Sends its answer and then holds the connection open."""

    answer = b""

    def connectionMade(self) -> None:
        self.transport.write(self.answer)


async def refusal_of(answer: bytes) -> Exception:
    from twisted.internet import reactor

    kind = type("Kind", (Answering,), {"answer": answer})
    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(
        Factory.forProtocol(kind)
    )
    try:
        uri = f"ws://127.0.0.1:{port.getHost().port}"
        with pytest.raises((HandshakeRefused, OpenTimeout)) as caught:
            await connect(uri, options=ClientOptions(open_timeout=0.2))
        return caught.value
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_refusal_without_an_end_is_told_at_the_deadline() -> None:
    """Status, headers and what came of the body are there."""
    error = await refusal_of(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\nlater")
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.body) == (503, b"later")
    assert ("Retry-After", "7") in error.headers


@pytest_twisted.ensureDeferred
async def test_half_a_head_at_the_deadline_is_a_timeout() -> None:
    """Without a complete head there is nothing to tell."""
    error = await refusal_of(b"HTTP/1.1 503 Busy\r\nRetry-")
    assert isinstance(error, OpenTimeout)
    assert error.phase == "handshake"
