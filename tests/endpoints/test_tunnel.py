"""`tunnel_endpoint` as it is made: by which proxies, and what is refused at once."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from zope.interface.verify import verifyObject

import wsframe
from wsframe import FROM_ENVIRONMENT, ClientOptions, Proxy, ProxySettings, tunnel_endpoint
from wsframe.core.uri import WebSocketURI, parse_uri
from wsframe.endpoints.tunnel import DeadlineEndpoint, FailoverEndpoint, settings_of
from wsframe.errors import InvalidHeader, InvalidProxy, InvalidURI

BOTH = {"wss": "http://secure:1", "ws": "http://plain:1"}


def tunnel(target: Any = "example.org:443", **arguments: Any) -> Any:
    return tunnel_endpoint(MemoryReactorClock(), target, **arguments)


def test_it_is_public_and_an_endpoint() -> None:
    assert "tunnel_endpoint" in wsframe.__all__
    verifyObject(IStreamClientEndpoint, tunnel())


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("example.org:22", "example.org:22 through http://secure:1"),
        ("[::1]:443", "[::1]:443 through http://secure:1"),
        ("wss://example.org/a", "example.org:443 through http://secure:1"),
        ("https://example.org/a", "example.org:443 through http://secure:1"),
        ("ws://example.org/a", "example.org:80 through http://plain:1"),
        ("http://example.org:8080", "example.org:8080 through http://plain:1"),
        (parse_uri("ws://example.org:81/a"), "example.org:81 through http://plain:1"),
        (WebSocketURI(True, "EXAMPLE.org", 1, "?"), "example.org:1 through http://secure:1"),
    ],
)
def test_proxies_are_chosen_by_the_target(target: Any, text: str) -> None:
    """host:port alone goes the way of TLS."""
    assert text in repr(tunnel(target, proxies=BOTH))


@pytest.mark.parametrize(
    ("proxies", "text"),
    [
        (None, "HostEndpoint"),
        ("socks5h://p", "SOCKSEndpoint example.org:443 through socks5h://p:1080"),
        (Proxy("p", 1), "through http://p:1"),
        (["http://a:1", "http://b:1"], "by the first of 2 ways"),
        ({"wss://example.org:443": "http://one:1", "all": None}, "through http://one:1"),
        (ProxySettings("http://p:1", no_proxy="example.org"), "HostEndpoint"),
    ],
)
def test_proxies_are_given_as_to_connect(proxies: Any, text: str) -> None:
    assert text in repr(tunnel(proxies=proxies))


@pytest.mark.parametrize(
    ("variables", "target", "text"),
    [
        ({"https_proxy": "http://p:1"}, "example.org:443", "through http://p:1"),
        ({"https_proxy": "http://p:1"}, "https://example.org", "through http://p:1"),
        ({"https_proxy": "http://p:1"}, "http://example.org", "HostEndpoint"),
        ({"http_proxy": "p:1"}, "http://example.org", "through http://p:1"),
        ({"all_proxy": "http://p:1", "no_proxy": ".org"}, "example.org:443", "HostEndpoint"),
        ({}, "example.org:443", "HostEndpoint"),
    ],
)
def test_environment_is_read_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], target: str, text: str
) -> None:
    for name in ("http", "https", "all", "no", "ws", "wss"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert text in repr(tunnel(target, proxies=FROM_ENVIRONMENT))
    assert "HostEndpoint" in repr(tunnel(target))


def test_settings_are_the_same_ones_where_they_are_given() -> None:
    """With them goes the memory of what failed."""
    settings = ProxySettings("http://p:1")
    assert settings_of(settings) is settings


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"target": "example.org"}, InvalidURI),
        ({"target": "ftp://example.org/"}, InvalidURI),
        ({"target": WebSocketURI(True, "a b", 1, "/")}, InvalidURI),
        ({"target": WebSocketURI(True, "h", 0, "/")}, InvalidURI),
        ({"target": WebSocketURI(True, "h", 1, "/", unix_path="/run/a.sock")}, InvalidURI),
        ({"target": "ws+unix://%2Frun%2Fa.sock"}, InvalidURI),
        ({"target": b"example.org:443"}, TypeError),
        ({"proxies": "planted"}, InvalidProxy),
        ({"proxies": {"https": "http://p:1"}}, InvalidProxy),
        ({"proxies": "http://us3r:planted@p:port"}, InvalidProxy),
        ({"target": "[fe80::1%25eth0]:1", "proxies": "http://us3r:planted@p:1"}, InvalidHeader),
        ({"target": "[::1]:1", "proxies": "socks4://p"}, InvalidProxy),
        ({"timeout": 0}, ValueError),
        ({"timeout": "30"}, TypeError),
    ],
)
def test_what_is_wrong_is_said_when_it_is_made(arguments: Any, error: type[Exception]) -> None:
    """Nothing is connected to, and no password is repeated."""
    reactor = MemoryReactorClock()
    arguments = {"target": "example.org:443", **arguments}
    with pytest.raises(error) as caught:
        tunnel_endpoint(reactor, arguments.pop("target"), **arguments)
    # The traceback quotes lines of this file, none of which has the word.
    assert "planted" not in "".join(traceback.format_exception(caught.value))
    assert reactor.tcpClients == []
    assert reactor.getDelayedCalls() == []


def test_repr_has_no_credentials() -> None:
    for proxies in ("http://us3r:planted@p:1", ["http://us3r:planted@p:1", "socks5://a:planted@q"]):
        text = repr(tunnel("https://us3r:planted@example.org/planted", proxies=proxies))
        assert "planted" not in text
        assert "us3r" not in text


def test_ways_share_the_timeout_and_without_one_the_options() -> None:
    """Where the caller has the deadline, each proxy still leaves time for the next."""
    two = ["http://a:1", "http://b:1"]
    for arguments, seconds in [
        ({"timeout": 7.0}, 7.0),
        ({}, 30.0),
        ({"timeout": None, "options": ClientOptions(open_timeout=4)}, 4),
    ]:
        outer = tunnel(proxies=two, **arguments)
        assert isinstance(outer, DeadlineEndpoint)
        inner = outer._endpoint
        assert isinstance(inner, FailoverEndpoint)
        assert inner._seconds == seconds
