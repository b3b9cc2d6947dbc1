"""NTLM and Negotiate: with squid, and with an acceptor that really checks the password."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.core.proxy import Proxy

from .negotiating import NegotiatingProxy, accounts
from .proxies import PASSWORD, USER, Proxies
from .raw import header
from .test_proxy import echo_server

__all__ = ["accounts"]


@pytest.fixture(scope="module")
def proxies() -> Iterator[Proxies]:
    running = Proxies()
    yield running
    running.stop()


def known(port: int, auth: Any = "ntlm", user: str = USER, **fields: Any) -> Proxy:
    return Proxy("127.0.0.1", port, user, PASSWORD, auth=auth, **fields)


async def works(port: int, proxies: Any) -> None:
    async with connect(f"ws://127.0.0.1:{port}/", proxies=proxies) as connection:
        await connection.send(bytes(100_000))
        assert await connection.recv() == bytes(100_000)


@pytest_twisted.ensureDeferred
async def test_ntlm_through_squid(proxies: Proxies) -> None:
    async with echo_server() as port:
        await works(port, known(proxies.get("squid_ntlm", auth=True)))


@pytest.mark.parametrize("scheme", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("user", [USER, f"DOM\\{USER}"])
@pytest.mark.usefixtures("accounts")
@pytest_twisted.ensureDeferred
async def test_password_is_proved_on_one_connection(scheme: str, user: str) -> None:
    async with NegotiatingProxy(scheme) as proxy, echo_server() as port:
        await works(port, known(proxy.port, scheme.lower(), user))
        values = [header(head, "Proxy-Authorization") for head in proxy.requests]
        print(values)
        assert len(proxy.connections) == 1
