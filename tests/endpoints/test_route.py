"""By which route a URI is reached, asked without connecting."""

from __future__ import annotations

from typing import Any

import pytest

import wsframe
from wsframe import FROM_ENVIRONMENT, Proxy, ProxySettings, explain_route
from wsframe.core.uri import parse_uri
from wsframe.errors import InvalidProxy, InvalidURI

URI = "wss://example.org/"


def test_no_proxies_are_direct_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with `connect`."""
    monkeypatch.setenv("wss_proxy", "http://p:1")
    route = explain_route(URI)
    assert (route.direct, route.rule) == (True, "default")


def test_environment_is_asked_where_it_is_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("wss_proxy", "http://p:1")
    route = explain_route(URI, FROM_ENVIRONMENT)
    assert (route.ways, route.name) == (((Proxy("p", 1),),), "wss_proxy")


def test_environment_can_be_given() -> None:
    route = explain_route(URI, FROM_ENVIRONMENT, environ={"all_proxy": "q", "no_proxy": "x"})
    assert (route.ways, route.name) == (((Proxy("q", 80),),), "all_proxy")


def test_environment_that_is_given_and_not_asked_is_an_error() -> None:
    with pytest.raises(ValueError, match="FROM_ENVIRONMENT"):
        explain_route(URI, "http://p:1", environ={"all_proxy": "q"})


@pytest.mark.parametrize(
    "proxies", ["http://p:1", Proxy("p", 1), {"wss": "http://p:1"}, ProxySettings("http://p:1")]
)
def test_proxies_are_all_that_connect_takes(proxies: Any) -> None:
    assert explain_route(parse_uri(URI), proxies).ways == ((Proxy("p", 1),),)


def test_hops_say_who_looks_up_what() -> None:
    (way,) = (route := explain_route(URI, "socks5h://p")).ways
    assert route.hops(way) == (
        wsframe.Hop("socks5h://p:1080", "here"),
        wsframe.Hop("example.org:443", "proxy", "socks5h://p:1080"),
    )
    assert isinstance(route, wsframe.Route)


def test_wrong_uri_and_wrong_proxy_are_typed_errors() -> None:
    with pytest.raises(InvalidURI):
        explain_route("https://example.org/")
    with pytest.raises(InvalidProxy):
        explain_route(URI, "ftp://p")
    with pytest.raises(InvalidProxy, match="wss_proxy"):
        explain_route(URI, FROM_ENVIRONMENT, environ={"wss_proxy": "ftp://p"})
