"""What a client sends, and whom a server admits."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http import Headers, Request
from wsframe.core.opening import (
    RESERVED,
    Refusal,
    build_request,
    check_subprotocols,
    judge_request,
    parse_host,
    parse_origin,
)
from wsframe.errors import InvalidHeader
from wsframe.options import ServerOptions

SEARCHED = settings(max_examples=200, deadline=None, database=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.org", ("example.org", None)),
        ("EXAMPLE.org:8080", ("example.org", 8080)),
        ("example.org:", ("example.org", None)),
        ("example.org.", ("example.org.", None)),
        ("a_b-c", ("a_b-c", None)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]", ("::1", None)),
        ("[::1]:80", ("::1", 80)),
        ("[0:0:0:0:0:0:0:1]", ("::1", None)),
        ("[2001:DB8::A]", ("2001:db8::a", None)),
        ("[fe80::1%25eth0]:80", ("fe80::1", 80)),
        ("[fe80::1%eth0]", ("fe80::1", None)),
        ("", None),
        (":80", None),
        ("a:0", None),
        ("a:65536", None),
        ("a:000080", None),
        ("a:-1", None),
        ("a:x", None),
        ("a:²", None),
        ("a:80:80", None),
        ("a b", None),
        ("a,b", None),
        ("a, b", None),
        ("a/b", None),
        ("u@a", None),
        ("a\t", None),
        ("-a", None),
        ("a..", None),
        (".", None),
        ("é", None),
        ("::1", None),
        ("[::1", None),
        ("[::1]80", None),
        ("[::1]x:80", None),
        ("[127.0.0.1]", None),
        ("[a]", None),
        ("[::1%]", None),
        ("[::1%a b]", None),
        ("[::1%a]b]", None),
    ],
)
def test_host_header_is_taken_apart(text, expected):
    """Host and port, or None for what is no host (RFC 9110 §7.2)."""
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org", ("https", "example.org", 443)),
        ("HTTP://EXAMPLE.ORG", ("http", "example.org", 80)),
        ("http://example.org:80", ("http", "example.org", 80)),
        ("http://[::1]:8080", ("http", "::1", 8080)),
        ("chrome-extension://abcdef", ("chrome-extension", "abcdef", None)),
        ("null", None),
        ("", None),
        ("example.org", None),
        ("//example.org", None),
        ("://example.org", None),
        ("https://", None),
        ("https:example.org", None),
        ("https://example.org/", None),
        ("https://example.org/a", None),
        ("https://example.org?a", None),
        ("https://example.org#a", None),
        ("https://u@example.org", None),
        ("https://exa\tmple.org", None),
        ("https://a https://b", None),
        ("https://a, https://b", None),
        ("https://*.example.org", None),
        ("https://example.org:0", None),
        ("ht tp://example.org", None),
        ("*", None),
    ],
)
def test_origin_header_is_taken_apart(text, expected):
    """Scheme, host and port, or None for "null" and anything odd."""
    assert parse_origin(text) == expected


@SEARCHED
@given(st.text(max_size=30), st.sampled_from(["", "[", "https://", "a:"]))
def test_any_text_is_a_host_an_origin_or_neither(text, start):
    """Nothing is raised, and what is a host has no byte that another reader could trip over."""
    for found in (parse_host(start + text), parse_origin(start + text)):
        if found is not None:
            host = found[-2]
            assert host.isascii()
            assert not set(host) & set(" /@[]%,\t")


def judge(host, *origins, **options):
    """Return the status that a request with these headers is refused with, or None."""
    headers = [("Host", host), *(("Origin", origin) for origin in origins)]
    headers += [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    defaults = {"origins": (), "hosts": None, "require_origin": False}
    refusal = judge_request(Request("GET", "/", Headers(headers)), **{**defaults, **options})
    return None if refusal is None else refusal.status


EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        # no browser
        ("example.org", None, None),
        ("anything.example:1234", None, None),
        # the same origin, by address or local name
        ("localhost", "http://localhost", None),
        ("localhost", "https://localhost", None),
        ("localhost:80", "http://localhost", None),
        ("localhost", "http://localhost:80", None),
        ("localhost:443", "https://localhost", None),
        ("localhost:8080", "http://localhost:8080", None),
        ("LOCALHOST:8080", "HTTP://LocalHost:8080", None),
        ("localhost.", "http://localhost.", None),
        ("sub.localhost", "http://sub.localhost", None),
        ("127.0.0.1:9000", "http://127.0.0.1:9000", None),
        ("192.0.2.1", "https://192.0.2.1", None),
        ("[::1]:9000", "http://[::1]:9000", None),
        ("[0:0::1]", "http://[::1]", None),
        # another port, name or scheme is another origin
        ("localhost:8080", "http://localhost", 403),
        ("localhost:8080", "http://localhost:3000", 403),
        ("localhost:443", "http://localhost", 403),
        ("localhost", "http://localhost:8080", 403),
        ("localhost", "http://127.0.0.1", 403),
        ("localhost", "http://localhost.", 403),
        ("localhost", "http://sub.localhost", 403),
        ("[::1]", "http://[::2]", 403),
        ("localhost", EVIL, 403),
        ("localhost", "http://localhost.evil.example", 403),
        ("localhost", "null", 403),
        ("localhost", "", 403),
        ("localhost", "http://localhost/", 403),
        ("localhost", "http://localhost, http://evil.example", 403),
        ("localhost", "capacitor://localhost", 403),
        ("localhost", "localhost", 403),
        # DNS rebinding: the page's name leads to us, and is not ours
        ("evil.example", EVIL, 421),
        ("evil.example:8080", "http://evil.example:8080", 421),
        ("localhost.evil.example", "http://localhost.evil.example", 421),
        ("evillocalhost", "http://evillocalhost", 421),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 421),
        ("127.1", "http://127.1", 421),
        # no host
        ("", "http://localhost", 400),
        ("a b", None, 400),
        ("a, b", None, 400),
        ("user@localhost", "http://localhost", 400),
    ],
)
def test_request_is_judged_by_default(host, origin, status):
    """Without configuration: local pages and no browsers are admitted, the rest is refused."""
    origins = () if origin is None else (origin,)
    assert judge(host, *origins) == status


OWN = {"hosts": ("Example.org", "[::1]", "localhost.")}
LISTED = {"origins": ("https://app.example", "http://app.example:8080", "chrome-extension://abc")}


@pytest.mark.parametrize(
    ("options", "host", "origin", "status"),
    [
        (OWN, "example.org", None, None),
        (OWN, "EXAMPLE.ORG.:80", None, None),
        (OWN, "example.org", "https://example.org", None),
        (OWN, "example.org:8080", "http://example.org:8080", None),
        (OWN, "[0:0:0::1]", "http://[::1]", None),
        (OWN, "localhost", "http://localhost", None),
        (OWN, "example.org", EVIL, 403),
        (OWN, "other.example", None, 421),
        (OWN, "sub.example.org", None, 421),
        (OWN, "evil.example", EVIL, 421),
        (OWN, "127.0.0.1", "http://127.0.0.1", 421),
        (LISTED, "ours.example", "https://app.example", None),
        (LISTED, "ours.example", "https://app.example:443", None),
        (LISTED, "ours.example", "HTTPS://APP.EXAMPLE", None),
        (LISTED, "ours.example", "http://app.example:8080", None),
        (LISTED, "ours.example", "chrome-extension://abc", None),
        (LISTED, "ours.example", "http://app.example", 403),
        (LISTED, "ours.example", "https://app.example:8443", 403),
        (LISTED, "ours.example", "https://app.example.evil.example", 403),
        (LISTED, "ours.example", "null", 403),
        (LISTED, "evil.example", EVIL, 421),
        ({"origins": ("*",)}, "ours.example", EVIL, None),
        ({"origins": ("*",)}, "ours.example", "null", None),
        ({"origins": ("*",), **OWN}, "other.example", EVIL, 421),
        ({"require_origin": True}, "localhost", None, 403),
        ({"require_origin": True}, "localhost", "http://localhost", None),
        ({"require_origin": True, "origins": ("*",)}, "localhost", None, 403),
    ],
)
def test_request_is_judged_by_the_options(options, host, origin, status):
    """Hosts and origins given are what is admitted; the options themselves accept them."""
    ServerOptions(**options)
    origins = () if origin is None else (origin,)
    assert judge(host, *origins, **options) == status


@pytest.mark.parametrize("options", [{}, {"origins": ("*",)}, {"origins": ("http://localhost",)}])
def test_several_origins_are_refused(options):
    """No browser sends two; which of them would count is anybody's guess."""
    assert judge("localhost", "http://localhost", "http://localhost", **options) == 403


def test_request_without_host_is_refused():
    """As malformed, not with a KeyError."""
    refusal = judge_request(
        Request("GET", "/", Headers()), origins=(), hosts=None, require_origin=False
    )
    assert refusal == Refusal(400, "the Host header is malformed")


def test_subprotocols_are_returned_in_order():
    """As a tuple."""
    assert check_subprotocols(["b", "a"]) == ("b", "a")


@pytest.mark.parametrize("names", [["a", "a"], ["a b"], [""], ["a,b"], ["a\r\nX: y"]])
def test_subprotocols_that_cannot_be_offered_are_refused(names):
    """Each is a token, and none occurs twice (RFC 6455 §4.1)."""
    with pytest.raises(InvalidHeader):
        check_subprotocols(names)


def test_one_text_is_no_sequence_of_subprotocols():
    """The text "chat" would be four of them."""
    with pytest.raises(TypeError, match="not one text"):
        check_subprotocols("chat")


def build(**options):
    """Return the request and its bytes, with defaults."""
    defaults = {"host": "example.org", "port": 443, "secure": True, "target": "/", "key": "abc=="}
    return build_request(**{**defaults, **options})


def test_request_bytes_in_full():
    """Every part, in its place, as an independent server reads it."""
    request, raw = build(
        port=8443,
        target="/chat?a=b",
        headers=[("Authorization", "Bearer x"), ("X-two", "2"), ("X-two", "3")],
        origin="https://app.example",
        subprotocols=["b", "a"],
        extensions=["permessage-deflate; client_max_window_bits"],
        user_agent="test/1",
    )
    assert raw == (
        b"GET /chat?a=b HTTP/1.1\r\n"
        b"Host: example.org:8443\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: abc==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: b, a\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Origin: https://app.example\r\n"
        b"User-Agent: test/1\r\n"
        b"Authorization: Bearer x\r\n"
        b"X-two: 2\r\n"
        b"X-two: 3\r\n\r\n"
    )
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    event = server.next_event()
    read = tuple((name.decode(), value.decode()) for name, value in event.headers.raw_items())
    assert read == request.headers.pairs
    assert event.target == request.target.encode()


def test_request_sends_no_header_that_was_not_asked_for():
    """Some platforms answer 502 because Sec-WebSocket-Protocol is there at all."""
    request, _ = build()
    assert sorted(request.headers) == [
        "connection",
        "host",
        "sec-websocket-key",
        "sec-websocket-version",
        "upgrade",
    ]


@pytest.mark.parametrize(
    ("host", "port", "secure", "expected"),
    [
        ("h", 443, True, "h"),
        ("h", 80, False, "h"),
        ("h", 80, True, "h:80"),
        ("h", 443, False, "h:443"),
        ("h", 8080, False, "h:8080"),
        ("::1", 443, True, "[::1]"),
        ("::1", 80, True, "[::1]:80"),
        ("fe80::1%eth0", 80, False, "[fe80::1]"),
    ],
)
def test_host_header(host, port, secure, expected):
    """Only a port of its own, brackets, and no zone; and our own server understands it."""
    request, _ = build(host=host, port=port, secure=secure)
    assert request.headers["Host"] == expected
    assert parse_host(expected) is not None


def test_user_agent_in_headers_takes_the_place_of_ours():
    """It is not sent twice."""
    request, _ = build(user_agent="ours", headers={"user-agent": "theirs"})
    assert request.headers.get_all("User-Agent") == ["theirs"]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_header_of_the_handshake_cannot_be_given(name):
    """In any case; a second one would contradict the first."""
    with pytest.raises(InvalidHeader, match="by the handshake itself"):
        build(headers={name.title(): "x"})


@pytest.mark.parametrize(
    "options",
    [
        {"origin": "https://a", "headers": {"origin": "https://b"}},
        {"headers": [("Origin", "https://a"), ("Origin", "https://b")]},
        {"headers": {"proxy-authorization": "Basic s3cret"}},
        {"headers": {"A": "s3cret\r\nC: d"}},
        {"headers": {"A\r\nB": "c"}},
        {"headers": {"A:": "c"}},
        {"origin": "https://a\r\nB: c"},
        {"user_agent": "a\nb"},
        {"subprotocols": ["a\r\nb"]},
        {"subprotocols": ["a", "a"]},
        {"extensions": ["a\r\nb"]},
        {"key": "a\r\nb"},
        {"target": "/\r\nA: b"},
        {"target": "/ s3cret"},
        {"target": "s3cret"},
        {"target": ""},
        {"host": "a\r\nb"},
        {"host": "a\x00"},
    ],
)
def test_request_that_would_not_be_what_was_meant_is_refused(options):
    """Before a byte is sent, and without repeating a value."""
    with pytest.raises(InvalidHeader) as caught:
        build(**options)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("host", "refused"), [("10.0.0.7:8765", False), ("evil.example", True)])
def test_a_health_check_comes_by_an_address_whatever_the_hosts_are(host, refused):
    """It is no handshake; a name that is not ours is refused all the same."""
    request = Request("GET", "/healthz", Headers([("Host", host)]))
    refusal = judge_request(request, origins=(), hosts=("ours.example",), require_origin=False)
    assert (refusal is not None) is refused
