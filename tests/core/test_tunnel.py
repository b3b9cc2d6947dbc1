"""What the handshakes have in common: the steps, and that each one is a tunnel handshake."""

import pytest

from wsframe.core.http_connect import HTTPConnect
from wsframe.core.proxy import Proxy
from wsframe.core.socks import SOCKS4, SOCKS5
from wsframe.core.tunnel import Step, TunnelHandshake

HTTP = HTTPConnect(Proxy("p", 1), "192.0.2.1", 443, max_head=400, max_body=20)
FOUR = SOCKS4(Proxy("p", 1, scheme="socks4"), "192.0.2.1", 443)
FIVE = SOCKS5(Proxy("p", 1, scheme="socks5"), "192.0.2.1", 443)


def test_step_without_arguments_is_to_wait():
    """Nothing to send, and no tunnel yet."""
    assert (Step().send, Step().leftover, Step().work) == (b"", None, None)


def test_step_shows_nothing_of_its_bytes():
    """Credentials go out in one of them."""
    assert repr(Step(b"s3cret", b"s3cret", work=lambda: lambda: Step(b"s3cret"))) == "Step()"


@pytest.mark.parametrize(
    ("handshake", "answers"),
    [
        (HTTP, [b"HTTP/1.1 200 OK\r\n\r\n"]),
        (FOUR, [b"\0\x5a" + bytes(6)]),
        (FIVE, [b"\5\0", b"\5\0\0\1" + bytes(6)]),
    ],
)
def test_one_caller_drives_them_all(handshake: TunnelHandshake, answers):
    """Send the request, then what each step says, until there is a leftover."""
    assert handshake.request
    *first, last = answers
    for answer in first:
        assert handshake.receive(answer).leftover is None
    assert handshake.receive(last + b"\x16\x03") == Step(leftover=b"\x16\x03")
