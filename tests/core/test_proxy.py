"""One proxy's address and credentials, and the choice of a proxy."""

import traceback

import pytest

from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.core.uri import parse_uri
from wsframe.errors import InvalidProxy

WS = parse_uri("ws://example.org/")
WSS = parse_uri("wss://example.org/")
A = Proxy("a", 1)
B = Proxy("b", 2)
C = Proxy("c", 3)


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
        "https://p",
        "socks5://p",
        "ftp://p",
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
    """What is not the URL of an HTTP proxy, or cannot be sent to one."""
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
        {"scheme": "https"},
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
    ],
)
def test_proxy_keeps_its_secrets(url):
    """In no str, repr or traceback, nor in what an error hangs on to: nor the user's name."""
    try:
        proxy = Proxy.parse(url)
        shown = f"{proxy} {proxy!r} {ProxySettings(proxy)!r} {ProxySettings({'ws': url})!r}"
    except InvalidProxy as error:
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__)
    assert "s3cret" not in shown
    assert "us3r" not in shown


def test_proxy_is_shown_as_a_url():
    """Without credentials, with its port."""
    assert str(Proxy("::1", 80, "a", "b")) == "http://[::1]:80"


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
    ],
)
def test_proxy_is_chosen(proxies, ws, wss):
    """The scheme's key goes before "all", and None says direct."""
    settings = ProxySettings(proxies)
    assert settings.choose(WS) == ws
    assert settings.choose(WSS) == wss


@pytest.mark.parametrize("key", ["http", "https", "no_proxy", "WS", "", None])
def test_key_that_does_not_apply_is_refused(key):
    """Where it is accepted, its users go direct without noticing."""
    with pytest.raises(InvalidProxy, match="use 'ws', 'wss' or 'all'"):
        ProxySettings({key: "http://a:1", "all": "http://b:2"})


@pytest.mark.parametrize("proxies", ["", "a:1", {"ws": ""}, {"wss": "http://a:0"}])
def test_settings_are_checked_when_made(proxies):
    """Not hours later."""
    with pytest.raises(InvalidProxy):
        ProxySettings(proxies)


def test_settings_are_a_copy():
    """What happens to the mapping afterwards changes nothing."""
    proxies = {"all": A}
    settings = ProxySettings(proxies)
    proxies["ws"] = B
    assert settings.choose(WS) == A


def test_settings_are_shown_as_routes():
    """Without credentials."""
    assert repr(ProxySettings()) == "<ProxySettings direct>"
    shown = repr(ProxySettings({"ws": None, "all": Proxy("p", 1, "us3r", "s3cret")}))
    assert shown == "<ProxySettings ws=direct, all=http://p:1>"
