"""One proxy's address and credentials, the choice of a route, and fail-over."""

import dataclasses
import json
import math
import os
import traceback
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.credentials import ProxyCredentials
from wsframe.core.no_proxy import NoProxy
from wsframe.core.proxy import (
    FROM_ENVIRONMENT,
    MAX_HOPS,
    Failover,
    Proxy,
    ProxySettings,
    Route,
    from_environment,
)
from wsframe.core.uri import parse_uri
from wsframe.errors import InvalidProxy

WS = parse_uri("ws://example.org/")
WSS = parse_uri("wss://example.org/")
A = Proxy("a", 1)
B = Proxy("b", 2)
C = Proxy("c", 3)
DIRECT = ((),)
SEARCHED = settings(max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://proxy.example:3128/", Proxy("proxy.example", 3128)),
        ("HTTP://Proxy.Example", Proxy("proxy.example", 80)),
        ("http://[::1]:8080", Proxy("::1", 8080)),
        ("http://alice:secret@p:1", Proxy("p", 1, "alice", "secret")),
        ("http://alice@p:1", Proxy("p", 1, "alice")),
        ("http://:secret@p:1", Proxy("p", 1, "", "secret")),
        ("http://a%40b:c%3A%2F%23@p:1", Proxy("p", 1, "a@b", "c:/#")),
        ("http://a:b@c@p:1", Proxy("p", 1, "a", "b@c")),
        ("http://DOMAIN\\alice:secret@p:1", Proxy("p", 1, "DOMAIN\\alice", "secret")),
        ("https://p", Proxy("p", 443, scheme="https")),
        ("HTTPS://a:b@[::1]/", Proxy("::1", 443, "a", "b", "https")),
        ("socks4://a@p", Proxy("p", 1080, "a", scheme="socks4")),
        ("socks4a://p:9", Proxy("p", 9, scheme="socks4a")),
        ("socks5://p", Proxy("p", 1080, scheme="socks5")),
        ("Socks5H://a:b@[::1]", Proxy("::1", 1080, "a", "b", "socks5h")),
        ("socks5://a%3Ab:c@p", Proxy("p", 1080, "a:b", "c", "socks5")),
        ("http+unix://%2Frun%2Fp.sock", Proxy("localhost", 80, path="/run/p.sock")),
        ("HTTP+Unix://%2frun%2Fp.sock/", Proxy("localhost", 80, path="/run/p.sock")),
        ("http+unix://a:b@%2Fr", Proxy("localhost", 80, "a", "b", path="/r")),
        ("http+unix://%2Fa%20%3F%23%3A%40b", Proxy("localhost", 80, path="/a ?#:@b")),
        ("https+unix://%2Fr", Proxy("localhost", 443, scheme="https", path="/r")),
        ("socks5h+unix://%2Fr", Proxy("localhost", 1080, scheme="socks5h", path="/r")),
        (
            "socks5h://localhost/run/tor",
            Proxy("localhost", 1080, scheme="socks5h", path="/run/tor"),
        ),
        ("socks4a://LocalHost/r%20s:", Proxy("localhost", 1080, scheme="socks4a", path="/r s:")),
        ("socks5://a:b@localhost/r", Proxy("localhost", 1080, "a", "b", "socks5", path="/r")),
    ],
)
def test_proxy_url_is_parsed(url, proxy):
    """Credentials are decoded, the port may be the scheme's own."""
    parsed = Proxy.parse(url)
    assert parsed == proxy
    assert (parsed.user, parsed.password) == (proxy.user, proxy.password)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example:3128",
        "proxy.example",
        "://p",
        "http:p",
        "http://",
        "http://:3128",
        "http://a:b@",
        "http://a:b@:80",
        "ftp://p",
        "socks://p",
        "socks5x://p",
        "http+tls://p",
        "http+://p",
        "http+unix+unix://%2Fr",
        "http+unix://",
        "http+unix:///run/p.sock",
        "http+unix://p",
        "http+unix://run%2Fp.sock",
        "http+unix://%2Frun/p.sock",
        "http+unix://%2Frun%2Fp.sock:80",
        "http+unix://%2Frun?x",
        "http+unix://%2Fa%FF",
        "http+unix://%2Fa%00",
        "http+unix://%2Fa%0A",
        "http+unix://a:b@",
        "http+unix://%2F" + "a" * 107,
        "http://localhost/run/p.sock",
        "https://localhost/run/p.sock",
        "socks5h://localhost:1/run/p.sock",
        "socks5h://127.0.0.1/run/p.sock",
        "socks5h://localhost/run#p",
        "socks5h://localhost/run?p",
        "socks5h://localhost/a@p",
        "http://a:b/@p",
        "http://a:b?@p",
        "http://a#:b@p",
        "socks5h://localhost//",
        "socks4://a:b@p",
        "socks4a://a:@p",
        "socks4://@p",
        "socks5://:b@p",
        "socks5://a@p",
        "socks5://a:@p",
        "socks5://a:b%00@p",
        "socks5://a:%FF@p",
        "socks5://a:" + "b" * 256 + "@p",
        "socks5://p/x",
        "http://p:0",
        "http://p:65536",
        "http://p:x",
        "http://p/path",
        "http://p//",
        "http://p/?a",
        "http://p?a",
        "http://p#a",
        "http://::1:80",
        "http://[::1",
        "http://[::1]x",
        "http://p q",
        "http://p\r\nX: y",
        "http://p\x00",
        "http://127.1",
        "http://a\x7f@p",
        "http://a:\udcff@p",
        "http://a%3Ab:c@p",
        "http://a:%0d%0a@p",
        "http://a:%FF@p",
    ],
)
def test_proxy_url_is_refused(url):
    """What is not the URL of a proxy, or cannot be sent to one."""
    with pytest.raises(InvalidProxy):
        Proxy.parse(url)


@pytest.mark.parametrize("value", [None, 3, b"http://p"])
def test_proxy_of_another_type_is_a_type_error(value):
    """A mistake in the program."""
    with pytest.raises(TypeError, match="a proxy is a URL"):
        Proxy.parse(value)


@pytest.mark.parametrize(
    "fields",
    [
        {"scheme": "ftp"},
        {"scheme": "HTTP"},
        {"scheme": "http+unix"},
        {"scheme": "socks4", "user": "a", "password": ""},
        {"scheme": "socks5", "user": "ä" * 128, "password": "b"},
        {"scheme": "socks5", "user": "a", "password": "\udcff"},
        {"scheme": "socks5", "token": "abc"},
        {"scheme": "socks5h", "headers": {"X-A": "b"}},
        {"token": "abc", "user": "a"},
        {"token": ""},
        {"token": "a b"},
        {"token": "a\r\nX: y"},
        {"token": "ä"},
        {"token": "==="},
        {"headers": {"X": "a\r\nb"}},
        {"headers": {"X Y": "a"}},
        {"headers": {"proxy-Authorization": "Basic eA=="}},
        {"headers": [("A", "b"), ("Host", "c")]},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"path": ""},
        {"path": "run/p.sock"},
        {"path": "/run/"},
        {"path": "/"},
        {"path": "/a\x00"},
        {"path": "/a\udcff"},
        {"path": "/" + "ä" * 54},
        {"path": "/a", "via": Proxy("q", 1)},
        {"host": "fe80::1%eth0", "via": Proxy("q", 1)},
        {"host": "::1", "via": Proxy("q", 1, scheme="socks4")},
        {"host": "::1", "via": Proxy("q", 1, scheme="socks4a")},
        {"port": 0},
        {"port": 65536},
        {"host": ""},
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"host": "[::1]"},
        {"user": "a:b"},
        {"user": "a\n"},
        {"user": "a", "password": "\x00"},
        {"user": "a", "password": "\udcff"},
        {"password": "b"},
    ],
)
def test_proxy_made_by_hand_is_checked_too(fields):
    """A Proxy that exists can be used."""
    with pytest.raises(InvalidProxy):
        Proxy(**{"host": "p", "port": 1, **fields})


def test_proxy_host_is_in_ascii():
    """As in a URI."""
    assert Proxy("Bücher.example", 1).host == "xn--bcher-kva.example"


def shown_of(error):
    """Return all that may be printed of an error, and of what it hangs on to."""
    text = "".join(traceback.format_exception(error))
    context = error
    while context is not None:
        text += f"{context!r} {vars(context)} {getattr(context, 'object', '')}"
        context = context.__context__
    return text


@pytest.mark.parametrize(
    "url",
    [
        "http://us3r:s3cret@p:1",
        "us3r:s3cret@p:1",
        "us3r:s3cret@http://p:1",
        "http://us3r:s3cret@p:x",
        "http://us3r:s3cret@p/x",
        "http://us3r:s3cret#@p",
        "http://us3r:s3cret/@p",
        "http://us3r:s3cret?@p",
        "http://us3r:s3cret@-",
        "http://us3r:s3cret%FF@p",
        "http://us3r:s3cret\udcff@p",
        "https://us3r:s3cret@p",
        "us3r://s3cret",
        "us3r+s3cret://p",
        "socks5://us3r:s3cret@p",
        "socks4://us3r:s3cret@p",
        "socks4://us3r@p",
        "socks5://us3r:s3cret%00@p",
        "socks5://us3r:s3cret@p/x",
        "socks5://us3r:s3cret/@localhost/x",
        "socks5h://us3r:s3cret@localhost/x",
        "socks5://localhost/us3r:s3cret@p",
        "http+unix://us3r:s3cret@%2Fr",
        "http+unix://us3r:s3cret@/r",
        "http+unix://us3r:s3cret/@%2Fr",
        "socks5://us3r:s3cret" + "x" * 256 + "@p",
    ],
)
def test_proxy_keeps_its_secrets(url):
    """In no str, repr or traceback, nor in what an error hangs on to: nor the user's name."""
    try:
        proxy = Proxy.parse(url)
        given = ProxySettings({"ws": [url, Proxy("q", 1, via=proxy)]})
        route = given.choose(WS)
        shown = f"{proxy} {proxy!r} {ProxySettings(proxy)!r} {given!r} {route} {route!r}"
        shown += f"{route.explain()} {[route.hops(way) for way in route.ways]}"
    except InvalidProxy as error:
        shown = shown_of(error)
    with_name = {"ALL_PROXY": url}
    found = from_environment(with_name)
    shown += repr(found)
    try:
        shown += found.choose(WS).explain()
    except InvalidProxy as error:
        shown += shown_of(error)
    assert "s3cret" not in shown
    assert "us3r" not in shown


def test_proxy_is_shown_as_a_url():
    """Without credentials, with its port."""
    assert str(Proxy("::1", 80, "a", "b")) == "http://[::1]:80"
    assert str(Proxy("h", 443, "a", "b", "https", via=A)) == "https://h:443"
    assert str(Proxy("h", 1, path="/r/a b")) == "http+unix://%2Fr%2Fa%20b"
    assert repr(Proxy("h", 443, "a", "b", "https", via=A)) == "<Proxy http://a:1 > https://h:443>"


@pytest.mark.parametrize(
    ("proxies", "ws", "wss"),
    [
        (None, None, None),
        ({}, None, None),
        (A, A, A),
        ("http://a:1", A, A),
        ({"all": A}, A, A),
        ({"ws": A}, A, None),
        ({"wss": "http://b:2"}, None, B),
        ({"ws": A, "wss": B, "all": C}, A, B),
        ({"ws": A, "all": C}, A, C),
        ({"wss": None, "all": C}, C, None),
        ({"ws": None, "all": None}, None, None),
        ({"ws": A, "all://example.org": B, "all": C}, B, B),
        ({"wss://example.org": A, "all://example.org": B}, B, A),
        ({"all://example.org:443": A, "all://example.org": B}, B, A),
        ({"wss://example.org:443": A, "wss://example.org": B}, None, A),
        ({"wss://example.org:444": A, "wss": B}, None, B),
        ({"wss://example.org": A, "all://example.org:443": B}, None, A),
        ({"wss://example.org": None, "all": C}, C, None),
        ({"all://example.org": None, "ws": A, "all": C}, None, None),
    ],
)
def test_proxy_is_chosen(proxies, ws, wss):
    """The scheme's key goes before "all", and None says direct."""
    given = ProxySettings(proxies)
    assert given.choose(WS).ways == (DIRECT if ws is None else ((ws,),))
    assert given.choose(WSS).ways == (DIRECT if wss is None else ((wss,),))
    assert given.choose(WS).direct == (ws is None)


@pytest.mark.parametrize(
    "key",
    [
        *["http", "https", "no_proxy", "WS", "", None, 3, "http://h", "https://h", "wss://"],
        *["wss:h", "wss://h/path", "wss://h?a", "wss://us3r:s3cret@h", "http://us3r:s3cret@h"],
        *["ws\n", "Wss", "all:", "socks5://h"],
    ],
)
def test_key_that_does_not_apply_is_refused(key):
    """Where it is accepted, its users go direct without noticing."""
    with pytest.raises(InvalidProxy, match="use 'ws', 'wss' or 'all'") as caught:
        ProxySettings({key: "http://a:1", "all": "http://b:2"})
    assert "s3cret" not in shown_of(caught.value)
    assert "us3r" not in shown_of(caught.value)


@pytest.mark.parametrize(
    "proxies",
    [
        *["", "a:1", {"ws": ""}, {"wss": "http://a:0"}, [], (), ["http://a:1", "b:2"], [A, None]],
        *[{"all": []}, {"wss://a b": A}, {"wss://-": A}, {"wss://h:0": A}, {"wss://h:x": A}],
        *[{"wss://::1": A}, {"all://*.example.org": A}, {"wss://h": A, "wss://H.": B}],
        {"ws://[::1]": A, "ws://[0::1]/": A},
    ],
)
def test_settings_are_checked_when_made(proxies):
    """Not hours later."""
    with pytest.raises(InvalidProxy):
        ProxySettings(proxies)


def test_settings_are_a_copy():
    """What happens to the mapping afterwards changes nothing."""
    proxies = {"all": A}
    given = ProxySettings(proxies)
    proxies["ws"] = B
    assert given.choose(WS).ways == ((A,),)


def test_settings_are_shown_as_routes():
    """Without credentials."""
    assert repr(ProxySettings()) == "<ProxySettings direct>"
    shown = repr(ProxySettings({"ws": None, "all": Proxy("p", 1, "us3r", "s3cret")}))
    assert shown == "<ProxySettings ws=direct, all=http://p:1>"
    shown = repr(ProxySettings([A, Proxy("b", 2, via=C)], no_proxy="a b"))
    assert shown == (
        "<ProxySettings all=http://a:1 | http://c:3 > http://b:2, but 2 entries in no_proxy>"
    )


@pytest.mark.parametrize("proxies", [3, b"http://p", [3], {"all": 3}, {"all": {"ws": A}}, {A}])
def test_settings_of_another_type_are_a_type_error(proxies):
    """A mistake in the program."""
    with pytest.raises(TypeError, match="a proxy is a URL"):
        ProxySettings(proxies)


def test_via_of_another_type_is_a_type_error():
    """It is not parsed: where it is given, a Proxy is built anyway."""
    with pytest.raises(TypeError, match="via is a Proxy"):
        Proxy("p", 1, via="http://q:1")


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Proxy.parse("socks://p"), "write socks5h:// or socks4a://"),
        (lambda: Proxy.parse("p:1"), "begins with http://"),
        (lambda: Proxy.parse("ftp://p"), "http, https, socks4, socks4a, socks5 or socks5h"),
        (lambda: Proxy.parse("http+unix:///run/p"), "percent-encoded: http\\+unix://%2Frun"),
        (lambda: Proxy("p", 1, headers={"Proxy-Authorization": "x"}), "user and password"),
        (lambda: Proxy("p", 1, "a", "b", "socks4"), "SOCKS5 has both"),
    ],
)
def test_error_says_what_would_be_right(make, hint):
    """It is read by the one who has to correct the setting."""
    with pytest.raises(InvalidProxy, match=hint):
        make()


def test_longest_path_and_credentials():
    """107 bytes are what a Unix socket's name holds on Linux, 255 what one byte counts."""
    assert Proxy("p", 1, path="/" + "a" * 106).path == "/" + "a" * 106
    long = "b" * 255
    assert Proxy.parse(f"socks5://{long}:{long}@p").password == long


def source(proxy):
    """Return the credentials of a proxy."""
    return ProxyCredentials("us3r", "s3cret")


def test_callable_is_compared_and_hashed_with_the_proxy():
    """Two lists of ways, one proxy with two callables: these are two ways."""
    one, same = Proxy("p", 1, credentials=source), Proxy.parse("http://p:1", credentials=source)
    other = Proxy("p", 1, credentials=lambda proxy: None)
    assert (one == same, one == other, one == Proxy("p", 1)) == (True, False, False)
    assert len({one, same, other, Proxy("p", 1)}) == 3
    assert ProxySettings([one, other]).choose(WS).ways == ((one,), (other,))


class Unhashable:
    """A callable that is compared by its value."""

    __hash__ = None

    def __call__(self, proxy):
        return None


@pytest.mark.parametrize(
    ("wrong", "text"), [("s3cret", "a callable, not str"), (Unhashable(), "can be hashed")]
)
def test_callable_of_another_type_is_a_type_error(wrong, text):
    """A mistake in the program."""
    with pytest.raises(TypeError, match=text) as caught:
        Proxy("p", 1, credentials=wrong)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_callable_is_not_shown():
    """It may be a method of something that shows the token."""
    proxy = Proxy("p", 1, credentials=source)
    route = ProxySettings(proxy).choose(WS)
    shown = f"{proxy} {proxy!r} {ProxySettings(proxy)!r} {route} {route.explain()}"
    assert "source" not in shown
    assert "function" not in shown


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("http://us3r@p:1", {}),
        ("http://us3r:s3cret@p:1", {}),
        ("http://p:1", {"token": "s3cret"}),
        ("socks4a://us3r@p", {}),
        ("socks5h://us3r:s3cret@p", {}),
    ],
)
def test_callable_and_credentials_exclude_each_other(url, fields):
    """Nobody could say which of them is meant."""
    with pytest.raises(InvalidProxy, match="it takes one") as caught:
        Proxy.parse(url, credentials=source, **fields)
    assert "s3cret" not in shown_of(caught.value)


@pytest.mark.parametrize(
    ("proxy", "given", "expected"),
    [
        (A, None, A),
        (A, ProxyCredentials(), A),
        (A, ProxyCredentials("u", "p"), Proxy("a", 1, "u", "p")),
        (A, ProxyCredentials(token="t"), Proxy("a", 1, token="t")),
        (Proxy("p", 1, scheme="socks4"), ProxyCredentials("u"), Proxy("p", 1, "u", None, "socks4")),
        (
            Proxy("p", 1, headers={"A": "b"}, via=A, auth="negotiate"),
            ProxyCredentials("u", "p"),
            Proxy("p", 1, "u", "p", headers={"A": "b"}, via=A, auth="negotiate"),
        ),
        (Proxy("p", 1, path="/r"), ProxyCredentials("u"), Proxy("p", 1, "u", path="/r")),
    ],
)
def test_credentials_take_the_place_of_the_callable(proxy, given, expected):
    """All else is as it was."""
    asked = dataclasses.replace(proxy, credentials=source)
    assert asked.with_credentials(given) == expected


@pytest.mark.parametrize(
    ("scheme", "given"),
    [
        ("http", ProxyCredentials(None, "s3cret")),
        ("http", ProxyCredentials("us3r", token="s3cret")),
        ("http", ProxyCredentials("us3r:s3cret")),
        ("http", ProxyCredentials("us3r", "s3cret\n")),
        ("https", ProxyCredentials(token="s3cret\n")),
        ("socks4", ProxyCredentials("us3r", "s3cret")),
        ("socks5", ProxyCredentials(token="s3cret")),
        ("socks5h", ProxyCredentials("us3r", "s3cret" * 50)),
        ("socks5h", ProxyCredentials("", "s3cret")),
    ],
)
def test_credentials_that_do_not_fit_are_refused(scheme, given):
    """As they are in a URL."""
    proxy = Proxy("p", 1, scheme=scheme, credentials=source)
    with pytest.raises(InvalidProxy) as caught:
        proxy.with_credentials(given)
    shown = shown_of(caught.value)
    assert "s3cret" not in shown
    assert "us3r" not in shown


@pytest.mark.parametrize("auth", ["negotiate", "ntlm"])
def test_scheme_is_a_part_of_the_proxy(auth):
    """It is compared, and not shown; a callable may give what it takes."""
    proxy = Proxy("p", 1, "u", "p", auth=auth)
    assert proxy == Proxy.parse("http://u:p@p:1", auth=auth)
    assert proxy != Proxy("p", 1, "u", "p")
    assert str(proxy) == "http://p:1"
    assert Proxy("p", 1, credentials=source, auth=auth).with_credentials(source(None)).user


def test_ticket_needs_no_user():
    """Kerberos knows who runs the program, or takes the ticket of the user named."""
    assert Proxy("p", 1, auth="negotiate").user is None
    assert Proxy("p", 1, "u", auth="negotiate").password is None


@pytest.mark.parametrize(
    "fields",
    [
        {"auth": "ntlm"},
        {"auth": "ntlm", "user": "us3r"},
        {"auth": "ntlm", "token": "s3cret"},
        {"auth": "negotiate", "token": "s3cret"},
        {"auth": "basic", "user": "us3r", "password": "s3cret"},
        {"auth": "NTLM", "user": "us3r", "password": "s3cret"},
        {"auth": "s3cret"},
        {"auth": ["ntlm"], "user": "us3r", "password": "s3cret"},
        {"auth": "negotiate", "scheme": "socks5h"},
        {"auth": "negotiate", "scheme": "socks4"},
    ],
)
def test_scheme_that_does_not_fit_is_refused(fields):
    """A scheme that is not known, credentials that it does not take, a proxy that has none."""
    with pytest.raises(InvalidProxy) as caught:
        Proxy("p", 1, **fields)
    assert "s3cret" not in shown_of(caught.value).replace("auth='s3cret'", "")


def test_ntlm_without_what_the_callable_owes_is_refused():
    """There is nobody to be."""
    with pytest.raises(InvalidProxy, match="takes a user name and password"):
        Proxy("p", 1, credentials=source, auth="ntlm").with_credentials(None)


def test_headers_are_kept_in_order():
    """As pairs, whatever they were given as; a Proxy with them can be compared and hashed."""
    proxy = Proxy("p", 1, headers={"X-B": " 1", "X-A": "2"})
    assert proxy.headers == (("X-B", "1"), ("X-A", "2"))
    assert proxy == Proxy.parse("http://p:1", headers=[("X-B", "1"), ("X-A", "2")])
    assert len({proxy, dataclasses.replace(proxy), Proxy("p", 1)}) == 2


def test_headers_and_token_are_secrets():
    """Neither is shown, whether they are good or bad."""
    proxy = Proxy("p", 1, token="s3cret", headers={"X-Key": "s3cret"})
    route = ProxySettings(proxy).choose(WS)
    assert "s3cret" not in f"{proxy} {proxy!r} {ProxySettings(proxy)!r} {route} {route.explain()}"
    for wrong in (
        {"token": "s3cret\n"},
        {"headers": {"X": "s3cret\n"}},
        {"headers": {"s3cret\n": "x"}},
        {"token": "s3cret", "user": "a"},
        {"host": "us3r:s3cret@h"},
        {"host": "s3cret\xdf"},
        {"host": "s3cret\xe4" * 20},
        {"scheme": "s3cret"},
        {"scheme": "socks5", "user": "a", "password": "s3cret\udcff"},
        {"user": "a", "password": "s3cret\udcff"},
        {"path": "s3cret"},
    ):
        with pytest.raises(InvalidProxy) as caught:
            Proxy(**{"host": "p", "port": 1, **wrong})
        assert "s3cret" not in shown_of(caught.value).replace("            ", "")


def test_chain_is_told_from_its_beginning():
    """The hop that is connected to is the first."""
    c = Proxy.parse("socks5h://c", via=Proxy("b", 2, via=A))
    assert [str(hop) for hop in c.hops] == ["http://a:1", "http://b:2", "socks5h://c:1080"]
    assert ProxySettings(c).choose(WS).ways == (c.hops,)


def test_chain_has_a_limit():
    """A program that extends one for ever is stopped; a Proxy cannot be in its own chain."""
    proxy = Proxy("p", 1)
    for _ in range(MAX_HOPS - 1):
        proxy = Proxy("p", 1, via=proxy)
    assert len(proxy.hops) == MAX_HOPS
    with pytest.raises(InvalidProxy, match=f"more than {MAX_HOPS}"):
        Proxy("p", 1, via=proxy)


def test_list_is_the_order_of_fail_over():
    """In place of one proxy, anywhere."""
    for proxies in (["http://a:1", B], ("http://a:1", B), {"ws": [A, "http://b:2"]}):
        assert ProxySettings(proxies).choose(WS).ways == ((A,), (B,))


@pytest.mark.parametrize(
    ("key", "uri"),
    [
        ("wss://Example.ORG", "wss://example.org"),
        ("WSS://example.org./", "wss://example.org"),
        ("wss://example.org", "wss://EXAMPLE.org.:443"),
        ("all://bücher.example", "ws://xn--bcher-kva.example"),
        ("ws://xn--bcher-kva.example", "ws://Bücher.example"),
        ("ws://[::1]", "ws://[0:0::1]"),
        ("ws://[0:0::1]:8080", "ws://[::1]:8080"),
        ("ws://10.0.0.1", "ws://[::ffff:10.0.0.1]"),
        ("ws://[fe80::1%25eth0]", "ws://[fe80::1%25eth0]"),
        ("ws://h:80", "ws://h"),
        ("ws://h", "ws://h:81"),
    ],
)
def test_key_of_a_host_applies_in_any_spelling(key, uri):
    """The host is what is compared, not its letters; without a port, all ports are meant."""
    route = ProxySettings({key: A}).choose(parse_uri(uri))
    assert (route.ways, route.rule, route.name) == (((A,),), "key", key)


@pytest.mark.parametrize(
    ("key", "uri"),
    [
        ("ws://example.org", "ws://www.example.org"),
        ("ws://example.org", "ws://notexample.org"),
        ("ws://example.org", "wss://example.org"),
        ("all://example.org:81", "ws://example.org"),
        ("ws://[fe80::1]", "ws://[fe80::1%25eth0]"),
        ("ws://[fe80::1%25eth0]", "ws://[fe80::1%25eth1]"),
        ("ws://[::1]", "ws://127.0.0.1"),
    ],
)
def test_key_of_another_host_does_not_apply(key, uri):
    """The match is exact: what is below a host is another one."""
    assert ProxySettings({key: A}).choose(parse_uri(uri)).rule == "default"


def test_no_proxy_goes_before_the_keys():
    """Given as a text or parsed; the route names the entry."""
    for no_proxy in ("a.example .ORG:80", NoProxy.parse("a.example .ORG:80")):
        given = ProxySettings({"ws://example.org": A, "all": B}, no_proxy=no_proxy)
        route = given.choose(WS)
        assert route.direct
        assert (route.rule, route.name, route.entry) == ("no_proxy", "no_proxy", ".ORG:80")
        assert given.choose(WSS).ways == ((B,),)


def test_uri_made_by_hand_gets_a_route():
    """Whatever is in it; what it is connected with refuses it later."""
    uri = dataclasses.replace(WS, host="a b")
    route = ProxySettings({"ws": A}, no_proxy="*").choose(uri)
    assert route.ways == ((A,),)
    assert "a b" in route.explain()


# --- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "ws", "wss"),
    [
        ({}, None, None),
        ({"wss_proxy": "1", "https_proxy": "2", "all_proxy": "3"}, "all_proxy", "wss_proxy"),
        ({"https_proxy": "2", "all_proxy": "3"}, "all_proxy", "https_proxy"),
        ({"ws_proxy": "1", "http_proxy": "2", "all_proxy": "3"}, "ws_proxy", "all_proxy"),
        ({"http_proxy": "2", "all_proxy": "3"}, "http_proxy", "all_proxy"),
        ({"ALL_PROXY": "1"}, "ALL_PROXY", "ALL_PROXY"),
        ({"all_proxy": "1", "ALL_PROXY": "2"}, "all_proxy", "all_proxy"),
        ({"WSS_PROXY": "1", "https_proxy": "2"}, None, "WSS_PROXY"),
        ({"HTTPS_PROXY": "1", "HTTP_PROXY": "2"}, "HTTP_PROXY", "HTTPS_PROXY"),
        ({"WS_PROXY": "1", "WSS_PROXY": "1"}, "WS_PROXY", "WSS_PROXY"),
        ({"ws_proxy": "", "WS_PROXY": "1", "http_proxy": "2"}, "WS_PROXY", None),
        ({"ws_proxy": " ", "http_proxy": "", "all_proxy": "3"}, "all_proxy", "all_proxy"),
        ({"Ws_Proxy": "1", "socks_proxy": "2", "proxy": "3", "PROXY": "4"}, None, None),
    ],
)
def test_variable_is_chosen(environ, ws, wss):
    """The scheme's own, then that of HTTP, then all; lower case first; empty is not set."""
    found = from_environment(
        {name: f"p{each}:8" if each.strip() else each for name, each in environ.items()}
    )
    for uri, name in ((WS, ws), (WSS, wss)):
        route = found.choose(uri)
        assert route.name == name
        if name is None:
            assert (route.ways, route.rule) == (DIRECT, "default")
        else:
            assert (route.ways, route.rule) == (((Proxy(f"p{environ[name]}", 8),),), "variable")


@pytest.mark.parametrize(
    ("value", "proxy"),
    [
        ("proxy", Proxy("proxy", 80)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("proxy:3128/", Proxy("proxy", 3128)),
        ("a:b@[::1]:3128", Proxy("::1", 3128, "a", "b")),
        ("socks5h://p", Proxy("p", 1080, scheme="socks5h")),
    ],
)
def test_value_of_a_variable_may_lack_its_scheme(value, proxy):
    """It is http:// then, as with curl."""
    assert from_environment({"ALL_PROXY": value}).choose(WS).ways == ((proxy,),)


@pytest.mark.parametrize(
    "value", ["socks://p:1", "http://", "p:x", "p q", "p\n", "p/x", "//p", "-"]
)
def test_malformed_variable_is_an_error_where_it_decides(value):
    """Other variables may be meant for other programs."""
    found = from_environment({"HTTPS_PROXY": value, "http_proxy": "a:1", "all_proxy": value})
    assert found.choose(WS).ways == ((A,),)
    assert "HTTPS_PROXY=invalid" in repr(found)
    for _ in range(2):
        with pytest.raises(InvalidProxy, match="environment variable HTTPS_PROXY: ") as caught:
            found.choose(WSS)
    assert value not in str(caught.value).replace("http://", "") or value in "http:// -"
    assert from_environment({"https_proxy": value, "no_proxy": "*"}).choose(WSS).direct


@pytest.mark.parametrize("method", ["GET", ""])
def test_header_of_a_request_is_not_taken_for_a_variable(method):
    """CVE-2016-5385: in CGI, HTTP_PROXY is the client's "Proxy:" header."""
    cgi = {"REQUEST_METHOD": method, "HTTP_PROXY": "evil:1"}
    route = from_environment(cgi).choose(WS)
    assert route.direct
    assert "HTTP_PROXY" in route.explain()
    assert "evil" not in route.explain()
    assert from_environment({"HTTP_PROXY": "a:1"}).choose(WS).ways == ((A,),)
    for name in ("http_proxy", "ws_proxy", "WS_PROXY", "all_proxy", "ALL_PROXY"):
        assert from_environment({**cgi, name: "a:1"}).choose(WS).ways == ((A,),)
    for name in ("https_proxy", "HTTPS_PROXY", "wss_proxy", "WSS_PROXY", "ALL_PROXY"):
        assert from_environment({**cgi, name: "a:1"}).choose(WSS).ways == ((A,),)
    both = {**cgi, "ALL_PROXY": "a:1", "NO_PROXY": "example.org"}
    assert from_environment(both).choose(WS).name == "NO_PROXY"


class CaselessNames(dict):
    """An environment as on Windows: names are stored in upper case and looked up in any."""

    def __getitem__(self, name):
        return super().__getitem__(name.upper())

    def __contains__(self, name):
        return super().__contains__(name.upper())

    def get(self, name, default=None):
        return super().get(name.upper(), default)


def test_header_of_a_request_is_not_taken_for_a_variable_where_names_have_no_case():
    """There http_proxy is HTTP_PROXY."""
    assert CaselessNames(HTTP_PROXY="a:1")["http_proxy"] == "a:1"
    assert from_environment(CaselessNames(HTTP_PROXY="a:1")).choose(WS).ways == ((A,),)
    cgi = CaselessNames(REQUEST_METHOD="GET", HTTP_PROXY="a:1")
    assert from_environment(cgi).choose(WS).direct


def test_variable_no_proxy_is_read():
    """Lower case first, an empty one is none, and what is passed over is noted."""
    environ = {"ALL_PROXY": "a:1", "NO_PROXY": "example.org,a:b"}
    route = from_environment(environ).choose(WS)
    assert (route.rule, route.name, route.entry) == ("no_proxy", "NO_PROXY", "example.org")
    assert route.notes == ("NO_PROXY: entry 2 'a:b' has a malformed host or port; passed over",)
    assert from_environment({**environ, "no_proxy": ""}).choose(WS).direct
    assert from_environment({**environ, "no_proxy": "other"}).choose(WS).ways == ((A,),)


def test_environment_is_read_once():
    """And only what is given: the process's own is not looked at."""
    environ = {"ws_proxy": "a:1"}
    found = from_environment(environ)
    environ["ws_proxy"] = "b:2"
    assert found.choose(WS).ways == ((A,),)


def test_process_environment_is_not_looked_at(monkeypatch):
    """Neither by the settings, nor by an empty environment."""
    for name in ("ALL_PROXY", "WS_PROXY", "ws_proxy", "http_proxy"):
        monkeypatch.setitem(os.environ, name, "http://a:1")
    assert ProxySettings().choose(WS).direct
    assert from_environment({}).choose(WS).direct
    assert from_environment(os.environ).choose(WS).name == "ws_proxy"


def test_from_environment_is_a_word_and_not_settings():
    """What it stands for is resolved by those who have an environment."""
    assert repr(FROM_ENVIRONMENT) == "FROM_ENVIRONMENT"
    with pytest.raises(TypeError, match="from_environment"):
        ProxySettings(FROM_ENVIRONMENT)


# --- why ------------------------------------------------------------------------------------------


def test_route_explains_itself():
    """What decided, each way, and who looks up each name; never a secret."""
    given = ProxySettings(
        {
            "wss": [
                Proxy.parse("socks5h://us3r:s3cret@a", via=Proxy("b", 2, "us3r", "s3cret")),
                Proxy.parse("socks5://c", via=Proxy.parse("socks4://d")),
                Proxy.parse("http://[::1]:8080"),
                Proxy.parse("socks4a+unix://%2Frun%2Ftor"),
            ]
        }
    )
    assert given.choose(parse_uri("wss://u:s3cret@example.org/?s3cret")).explain() == (
        "wss://example.org:443: 4 ways, in order, because of the key 'wss' of the proxies given\n"
        "  1. http://b:2 (name resolved here)"
        " > socks5h://a:1080 (name resolved by http://b:2)"
        " > example.org:443 (name resolved by socks5h://a:1080)\n"
        "  2. socks4://d:1080 (name resolved here)"
        " > socks5://c:1080 (name resolved here)"
        " > example.org:443 (name resolved here)\n"
        "  3. http://[::1]:8080 > example.org:443 (name resolved by http://[::1]:8080)\n"
        "  4. socks4a+unix://%2Frun%2Ftor"
        " > example.org:443 (name resolved by socks4a+unix://%2Frun%2Ftor)"
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (ProxySettings(), "direct, because no proxy is set for it"),
        (ProxySettings({"ws": None}), "direct, because of the key 'ws' of the proxies given"),
        (ProxySettings(A), "1 way, because of the key 'all' of the proxies given"),
        (
            from_environment({"WS_PROXY": "a"}),
            "1 way, because of the environment variable WS_PROXY",
        ),
        (
            from_environment({"NO_PROXY": "org"}),
            "direct, because of the entry 'org' of NO_PROXY",
        ),
    ],
)
def test_route_says_what_decided(given, text):
    """In one line."""
    assert given.choose(WS).explain().splitlines()[0] == f"ws://example.org:80: {text}"


def test_route_decided_by_an_option_of_a_command_says_so():
    route = dataclasses.replace(ProxySettings(A).choose(WS), rule="option", name="--proxy")
    assert route.why == "the option --proxy"


def test_route_as_a_dict_is_json_with_the_hops_of_each_way_and_no_secret():
    last = Proxy("a", 1, "us3r", "s3cret", "socks5h", via=Proxy("::1", 2, token="t0ken"))
    route = ProxySettings([last, B], no_proxy="x y/0").choose(WSS)
    found = json.loads(json.dumps(route.as_dict()))
    assert found["ways"][0] == [
        {"to": "http://[::1]:2", "lookup": "none", "by": None},
        {"to": "socks5h://a:1", "lookup": "proxy", "by": "http://[::1]:2"},
        {"to": "example.org:443", "lookup": "proxy", "by": "socks5h://a:1"},
    ]
    assert len(found["ways"]) == 2
    del found["ways"]
    assert found.pop("why") == route.why
    assert found.pop("notes") == list(route.notes)
    assert len(route.notes) == 1
    assert found == {
        "scheme": "wss",
        "host": "example.org",
        "port": 443,
        "direct": False,
        "rule": "key",
        "name": "all",
        "entry": None,
    }
    for secret in ("us3r", "s3cret", "t0ken"):
        assert secret not in str(route.as_dict())


def test_hops_to_an_address_need_no_name():
    """Nobody is asked."""
    hops = Route("ws", "::1", 80, ((A,),)).hops((Proxy("10.0.0.1", 1), A))
    assert [(hop.to, hop.lookup, hop.by) for hop in hops] == [
        ("http://10.0.0.1:1", "none", None),
        ("http://a:1", "proxy", "http://10.0.0.1:1"),
        ("[::1]:80", "none", None),
    ]


# --- fail-over ------------------------------------------------------------------------------------

WAYS = ((A,), (B,), (C,))


def test_way_that_failed_goes_behind_and_comes_back():
    """For its time, and not a moment longer."""
    memory = Failover(retry_after=60)
    assert memory.order(WAYS, 0) == WAYS
    memory.failed((A,), 0)
    assert memory.order(WAYS, 0) == ((B,), (C,), (A,))
    assert memory.order(WAYS, 59.9) == ((B,), (C,), (A,))
    assert memory.order(WAYS, 60) == WAYS
    memory.failed((A,), 60)
    assert memory.order(WAYS, 119) == ((B,), (C,), (A,))


def test_way_that_works_again_is_first_at_once():
    """As soon as somebody has seen it work."""
    memory = Failover()
    memory.failed((A,), 0)
    memory.worked((A,))
    memory.worked((B,))
    assert memory.order(WAYS, 0) == WAYS


def test_all_ways_that_failed_are_still_tried():
    """First the one that failed first; direct is never added."""
    memory = Failover()
    for now, proxy in enumerate((B, C, A)):
        memory.failed((proxy,), now)
    assert memory.order(WAYS, 3) == ((B,), (C,), (A,))
    assert memory.order(DIRECT, 3) == DIRECT


def test_memory_is_bounded():
    """The failure that is longest ago is forgotten first."""
    memory = Failover(max_remembered=2)
    for now, proxy in enumerate((A, B, A, C)):
        memory.failed((proxy,), now)
    assert memory.order(WAYS, 4) == ((B,), (A,), (C,))
    assert repr(memory) == "<Failover 2 failed>"


def test_chains_are_remembered_as_a_whole():
    """That a chain failed says nothing of its proxies alone."""
    memory = Failover()
    memory.failed((A, B), 0)
    ways = ((A, B), (A,), (B,))
    assert memory.order(ways, 0) == ((A,), (B,), (A, B))


@pytest.mark.parametrize(
    "wrong",
    [*({"retry_after": each} for each in (0, -1, math.nan, math.inf)), {"max_remembered": 0}],
)
def test_fail_over_arguments_are_checked(wrong):
    """Nonsense is refused when it is given."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Failover(**wrong)


EVENT = st.tuples(st.sampled_from(["failed", "worked"]), st.sampled_from(WAYS), st.integers(0, 50))


@SEARCHED
@given(st.lists(EVENT), st.integers(1, 3))
def test_order_is_always_one_of_all_ways(events, most):
    """None is lost, whatever happened; those that did not fail lately keep their order."""
    memory = Failover(retry_after=60, max_remembered=most)
    now = 0
    for kind, way, seconds in events:
        now += seconds
        memory.failed(way, now) if kind == "failed" else memory.worked(way)
        assert sorted(memory.order(WAYS, now), key=WAYS.index) == list(WAYS)
    assert memory.order(WAYS, now + 60) == WAYS


# --- anything at all ------------------------------------------------------------------------------

URLS = st.one_of(
    st.text(),
    st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "https", "socks4", "socks5h", "http+unix", "socks5+unix", "x"]),
        st.one_of(st.just(""), st.text(max_size=8).map("{}@".format)),
        st.one_of(st.sampled_from(["p", "[::1]", "localhost", "%2Fr"]), st.text(max_size=8)),
        st.one_of(st.sampled_from(["", "/", ":1", "/r"]), st.text(max_size=4)),
    ),
)


@SEARCHED
@given(URLS)
def test_any_text_is_a_proxy_or_invalid(text):
    """Nothing else is raised; what is shown of a proxy is read as the same one again."""
    try:
        proxy = Proxy.parse(text)
    except InvalidProxy:
        return
    assert str(proxy).isprintable()
    bare = dataclasses.replace(proxy, user=None, password=None)
    assert Proxy.parse(str(proxy)) == bare
    assert str(bare) == str(proxy)


@SEARCHED
@given(st.dictionaries(st.one_of(st.text(), st.sampled_from(["ws", "all://h"])), URLS))
def test_any_mapping_is_settings_or_invalid(mapping):
    """Nothing else is raised, and there is always a way."""
    with suppress(InvalidProxy):
        assert ProxySettings(mapping).choose(WS).ways


NAMES = st.sampled_from(
    ["ws_proxy", "WS_PROXY", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy", "REQUEST_METHOD"]
)


@SEARCHED
@given(st.dictionaries(NAMES, URLS))
def test_any_environment_gives_a_route_or_invalid(environ):
    """Nothing else is raised, and not before a route is asked for."""
    found = from_environment(environ)
    with suppress(InvalidProxy):
        assert found.choose(WS).explain()


SECRET = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=10).map("s3cret{}".format)
URL_FORMS = [
    "{}://{}:{}@p",
    "{}://{}:{}@p:x",
    "{}://{}:{}@p/x",
    "{}://{}:{}@",
    "{}+unix://{}:{}@%2Fr",
]


@SEARCHED
@given(
    st.sampled_from(["http", "https", "socks4", "socks5", "socks5h", "ftp", ""]),
    SECRET,
    SECRET,
    st.sampled_from([*URL_FORMS, "{}:{}:{}", "{}{}:{}@p", "{}://h/{}:{}@p"]),
    st.booleans(),
)
def test_planted_password_appears_nowhere(scheme, user, password, form, encode):
    """Whatever the URL around it looks like, whether it is one or not."""
    if encode:
        user, password = quote(user, safe=""), quote(password, safe="")
    url = form.format(scheme, user, password)
    shown = ""
    for make in (
        Proxy.parse,
        ProxySettings,
        lambda url: ProxySettings({"wss": url}).choose(WSS),
        lambda url: ProxySettings({url: "http://p"}).choose(WSS),
        lambda url: ProxySettings("http://p", no_proxy=url).choose(WSS).explain(),
        lambda url: from_environment({"wss_proxy": url, "no_proxy": "x"}),
        lambda url: from_environment({"wss_proxy": url}).choose(WSS).explain(),
    ):
        try:
            made = make(url)
        except InvalidProxy as error:
            made = shown_of(error)
        shown += f"{made} {made!r}"
    if "@" in url:  # without one, nobody can tell a NO_PROXY entry from a secret
        assert "s3cret" not in shown


def test_a_unix_socket_is_reached_directly():
    """Whatever is set, and however wrong that is: a proxy could not reach it."""
    uri = parse_uri("ws+unix://%2Frun%2Fapp.sock/")
    for made in (ProxySettings("http://p:1"), from_environment({"ws_proxy": "planted://"})):
        route = made.choose(uri)
        assert route.direct
        assert route.explain() == (
            "ws+unix://%2Frun%2Fapp.sock: direct, because the server is on a Unix socket,"
            " to which no proxy leads\n  1. /run/app.sock"
        )
