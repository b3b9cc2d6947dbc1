"""`ProxiedAgentEndpointFactory` as it is made: the keys of HTTP clients, and what is refused."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface.verify import verifyObject

import wsframe
from wsframe import FROM_ENVIRONMENT, ProxiedAgentEndpointFactory, ProxySettings
from wsframe.endpoints import TLSEndpoint
from wsframe.errors import InvalidProxy, InvalidURI


def factory(**arguments: Any) -> ProxiedAgentEndpointFactory:
    return ProxiedAgentEndpointFactory(MemoryReactorClock(), **arguments)


def way(uri: bytes, **arguments: Any) -> str:
    """Return the repr of what is below TLS, if there is TLS, for a URI."""
    endpoint: Any = factory(**arguments).endpointForURI(URI.fromBytes(uri))._endpoint
    assert isinstance(endpoint, TLSEndpoint) is uri.startswith((b"https", b"wss"))
    return repr(endpoint._endpoint if isinstance(endpoint, TLSEndpoint) else endpoint)


def test_it_is_public_and_what_an_agent_takes() -> None:
    assert "ProxiedAgentEndpointFactory" in wsframe.__all__
    verifyObject(IAgentEndpointFactory, factory())


@pytest.mark.parametrize(
    ("http", "https"), [("http", "https"), ("ws", "wss"), ("http", "wss"), ("ws", "https")]
)
def test_keys_of_http_clients_mean_those_of_websockets(http: str, https: str) -> None:
    proxies = {
        http: "http://plain:1",
        https: "http://secure:1",
        f"{https}://one.example:8443": "socks5h://one:1",
        f"{http}://[::1]": None,
        "all://all.example": "socks5h://all:1",
    }
    assert "example.org:80 through http://plain:1" in way(b"http://example.org/", proxies=proxies)
    assert "through http://secure:1" in way(b"https://example.org:1/", proxies=proxies)
    assert "through socks5h://one:1" in way(b"https://one.example:8443/a", proxies=proxies)
    assert "through http://secure:1" in way(b"https://one.example/a", proxies=proxies)
    assert "HostEndpoint" in way(b"http://[::1]:8080/", proxies=proxies)
    assert "through socks5h://all:1" in way(b"http://all.example/", proxies=proxies)


@pytest.mark.parametrize(
    "proxies", ["http://p:1", {"all": "http://p:1"}, ProxySettings("http://p:1")]
)
def test_other_forms_are_those_of_connect(proxies: Any) -> None:
    for scheme in (b"http", b"https", b"ws", b"wss"):
        uri = scheme + b"://example.org/"
        assert "through http://p:1" in way(uri, proxies=proxies)
    assert "HostEndpoint" in way(b"https://example.org/")


@pytest.mark.parametrize(
    ("proxies", "text"),
    [
        ({"http": None, "ws": None}, "the same"),
        ({"wss": None, "https": None}, "the same"),
        ({"https://h": None, "wss://h": None}, "the same"),
        ({"https://h": None, "wss://H.": None}, "the same"),
        ({"ftp": None}, "'https'"),
        ({"http://us3r:planted@p:1": "https"}, "a key of the proxies is"),
        ({"https": "http://us3r:planted@p:port"}, "malformed"),
        ({"https": []}, "empty list"),
    ],
)
def test_wrong_proxies_are_invalid_proxy_at_once(proxies: Any, text: str) -> None:
    """Both forms of one key are two answers to one question."""
    with pytest.raises(InvalidProxy, match=text) as caught:
        factory(proxies=proxies)
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_environment_is_that_of_an_http_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for WebSockets alone says nothing about pages, but all about WebSockets."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("wss_proxy", "http://websockets:1")
    monkeypatch.setenv("WS_PROXY", "http://websockets:1")
    monkeypatch.setenv("https_proxy", "http://secure:1")
    monkeypatch.setenv("http_proxy", "http://plain:1")
    monkeypatch.setenv("no_proxy", "direct.example")
    assert "through http://secure:1" in way(b"https://h/", proxies=FROM_ENVIRONMENT)
    assert "through http://plain:1" in way(b"http://h/", proxies=FROM_ENVIRONMENT)
    assert "HostEndpoint" in way(b"https://direct.example/", proxies=FROM_ENVIRONMENT)
    assert "through http://websockets:1" in way(b"wss://h/", proxies=FROM_ENVIRONMENT)
    assert "through http://websockets:1" in way(b"ws://h/", proxies=FROM_ENVIRONMENT)


def test_malformed_variable_is_said_when_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "nonsense://us3r:planted@p")
    made = factory(proxies=FROM_ENVIRONMENT)
    with pytest.raises(InvalidProxy, match="https_proxy") as caught:
        made.endpointForURI(URI.fromBytes(b"https://h/"))
    assert "planted" not in str(caught.value)


def test_other_schemes_are_not_supported() -> None:
    """`Agent.request` makes a failure of that error."""
    with pytest.raises(SchemeNotSupported):
        factory().endpointForURI(URI.fromBytes(b"ftp://example.org/"))


@pytest.mark.parametrize(
    "uri", [b"https://", b"http://a b/", b"http://us3r:planted@h/", b"http://h:0/"]
)
def test_host_that_cannot_be_connected_to_is_invalid_uri(uri: bytes) -> None:
    with pytest.raises(InvalidURI) as caught:
        factory(proxies="http://p:1").endpointForURI(URI.fromBytes(uri))
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_tls_is_a_policy_and_not_what_is_for_one_host() -> None:
    creator = BrowserLikePolicyForHTTPS().creatorForNetloc(b"example.org", 443)
    with pytest.raises(TypeError, match="BrowserLikePolicyForHTTPS"):
        factory(tls=creator)


def test_timeout_is_checked_and_none_waits() -> None:
    with pytest.raises(ValueError, match="above 0"):
        factory(timeout=0)
    uri = URI.fromBytes(b"https://h/")
    for arguments, seconds in [({}, 30), ({"timeout": 2.5}, 2.5), ({"timeout": None}, None)]:
        endpoint: Any = factory(**arguments).endpointForURI(uri)
        assert endpoint._seconds == seconds
