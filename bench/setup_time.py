"""The time in which a tunnel opens, in round trips: the half of the tunnel bench about waiting.

The way to the first proxy is made long, so that what counts is how often it is gone. It is timed
from `connect` to the first answer of the origin, which costs every client a round trip for TCP and
one for the question; between them is what the proxies cost. The unit is half of what a plain socket
needs for the same without a proxy.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from loopback import CHUNK, HOST
from throughput import LIMIT, Client, Transfer, received
from twisted.internet.endpoints import connectProtocol

from wsframe import Proxy, tunnel_endpoint
from wsframe.endpoints import ProxyTLS

COSTS = {
    "http": 1,  # CONNECT
    "https": 2,  # TLS 1.3 (RFC 8446 §2), CONNECT
    "socks4a": 1,
    "socks5h": 2,  # the methods, the request (RFC 1928)
    "socks5h, login": 3,  # the password between them (RFC 1929)
}
"""Round trips of each kind of hop."""

UNAVOIDABLE = 2
"""Round trips without a proxy: TCP, and the question with its answer."""

QUESTION = Transfer("", 0, 0, upload=False, size=1)


def by_socket(port: int) -> float:
    """Return the seconds of a plain socket, directly."""
    began = time.perf_counter()
    with socket.create_connection((HOST, port), timeout=LIMIT) as connection:
        connection.sendall(QUESTION.question)
        left = QUESTION.answer_size
        while left:
            left -= received(len(connection.recv(CHUNK)))
    return time.perf_counter() - began


async def by_wsframe(
    reactor: Any, port: int, chain: Proxy | None, proxy_tls: ProxyTLS | None
) -> float:
    """Return the seconds of a tunnel to a port, through a chain of proxies or none."""
    began = time.perf_counter()
    endpoint = tunnel_endpoint(reactor, f"{HOST}:{port}", proxies=chain, proxy_tls=proxy_tls)
    client = await connectProtocol(endpoint, Client(QUESTION))
    await client.done.addTimeout(LIMIT, reactor)
    return time.perf_counter() - began
