"""What a client sends, and whom a server admits."""

from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http import Headers, Request
from wsframe.core.opening import (
    GENERATED,
    GENERATED_NAMES,
    Refusal,
    accept_key,
    build_request,
    check_headers,
    check_subprotocols,
    headers_elsewhere,
    is_beyond_doubt,
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


HANDSHAKE = ["Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]


def names_sent(**options):
    """Return the names of the headers in the order and case of the wire."""
    _, raw = build(**options)
    return [line.partition(":")[0] for line in raw.decode().split("\r\n")[1:-2]]


def test_generated_headers_go_first_in_their_order():
    """All of them, when there is something to say in each."""
    names = names_sent(
        headers=[("X", "1")],
        origin="https://a",
        subprotocols=["a"],
        extensions=["x"],
        user_agent="u",
        authorization="Basic eDp5",
        cookie="a=b",
    )
    assert names == [*GENERATED_NAMES, "X"]


def test_user_agent_in_headers_takes_the_place_of_ours():
    """It is not sent twice."""
    request, _ = build(user_agent="ours", headers={"user-agent": "theirs"})
    assert request.headers.get_all("User-Agent") == ["theirs"]


def test_headers_are_sent_in_the_order_and_case_given():
    """Those that are generated, too, when all are named: as a browser sends them, say."""
    given = [
        ("Host", GENERATED),
        ("connection", "keep-alive, Upgrade"),
        ("Pragma", "no-cache"),
        ("user-AGENT", "Browser/1"),
        ("UPGRADE", GENERATED),
        ("Origin", GENERATED),
        ("sec-websocket-version", GENERATED),
        ("Accept-Encoding", "gzip"),
        ("X-A", "1"),
        ("x-a", "2"),
        ("sec-websocket-key", GENERATED),
        ("sec-websocket-extensions", GENERATED),
        ("Sec-WebSocket-Protocol", GENERATED),
    ]
    _, raw = build(
        headers=given, origin="https://a.example", user_agent="ours", extensions=["permessage-x"]
    )
    assert raw == (
        b"GET / HTTP/1.1\r\n"
        b"Host: example.org\r\n"
        b"connection: keep-alive, Upgrade\r\n"
        b"Pragma: no-cache\r\n"
        b"user-AGENT: Browser/1\r\n"
        b"UPGRADE: websocket\r\n"
        b"Origin: https://a.example\r\n"
        b"sec-websocket-version: 13\r\n"
        b"Accept-Encoding: gzip\r\n"
        b"X-A: 1\r\n"
        b"x-a: 2\r\n"
        b"sec-websocket-key: abc==\r\n"
        b"sec-websocket-extensions: permessage-x\r\n\r\n"
    )


@pytest.mark.parametrize("name", GENERATED_NAMES)
def test_any_generated_header_can_be_left_out(name):
    """Also one that RFC 6455 asks for, to see what a server makes of it."""
    everything = {
        "origin": "https://a",
        "subprotocols": ["a"],
        "extensions": ["x"],
        "user_agent": "u",
        "authorization": "Basic eDp5",
        "cookie": "a=b",
    }
    names = names_sent(headers={name.lower(): None, "X": None}, **everything)
    assert names == [each for each in GENERATED_NAMES if each != name]


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ([("Host", "other"), ("X", "1")], [*HANDSHAKE, "X"]),
        ([("X", "1"), ("Host", "other")], [*HANDSHAKE[1:], "X", "Host"]),
        ([("Host", None), ("X", "1")], [*HANDSHAKE[1:], "X"]),
        ([("host", GENERATED), ("X", "1"), ("upgrade", GENERATED)], None),
    ],
)
def test_a_host_that_begins_the_headers_begins_the_request(headers, names):
    """RFC 9110 §7.2 asks for it as the first; given elsewhere it is sent there."""
    names = names or ["host", *HANDSHAKE[2:], "X", "upgrade"]
    assert names_sent(headers=headers) == names


@pytest.mark.parametrize("value", ["other.example:1", ""])
def test_the_host_can_be_given(value):
    """What is connected to, and verified, is the URI's all the same."""
    request, _ = build(headers={"Host": value})
    assert request.headers.get_all("Host") == [value]


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length",
        "Proxy-Authorization",
        "Sec-WebSocket-Accept",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Protocol",
        "Transfer-Encoding",
    ],
)
@pytest.mark.parametrize("case", [str, str.lower])
def test_header_that_contradicts_the_handshake_cannot_be_given(name, case):
    """In any case; what it would say is not repeated."""
    with pytest.raises(InvalidHeader, match="cannot be given") as caught:
        build(headers={case(name): "s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", [1, b"1", ["1"], True])
def test_header_of_another_type_is_refused(value):
    """A number is written as text by who knows how."""
    with pytest.raises(TypeError, match="a str, GENERATED or None"):
        build(headers={"X": value})


@pytest.mark.parametrize("headers", ["X: y", b"X: y"])
def test_one_text_is_no_header(headers):
    """It would be as many of them as it has characters."""
    with pytest.raises(TypeError, match="not one text"):
        build(headers=headers)


@pytest.mark.parametrize("name", GENERATED_NAMES)
def test_generated_header_is_not_given_twice(name):
    """Not even to leave it out the second time."""
    with pytest.raises(InvalidHeader, match="twice"):
        build(headers=[(name, None), (name.upper(), None)])


def test_what_is_not_generated_cannot_be_asked_for():
    """A typing error would leave it out in silence."""
    with pytest.raises(InvalidHeader, match="X-Key is not a header that is generated"):
        build(headers={"X-Key": GENERATED})


def test_elsewhere_no_header_is_said_that_was_given_for_one_server():
    """The order, the case and what is left out stay; a token goes under any name."""
    given = check_headers(
        [
            ("host", GENERATED),
            ("Upgrade", "WebSocket"),
            ("Authorization", "s3cret"),
            ("Cookie", "s3cret"),
            ("X-Api-Key", "s3cret"),
            ("User-Agent", "u"),
            ("Origin", "https://a"),
            ("Sec-WebSocket-Extensions", None),
        ]
    )
    assert headers_elsewhere(given) == (
        ("host", GENERATED),
        ("Upgrade", "WebSocket"),
        ("User-Agent", "u"),
        ("Origin", "https://a"),
        ("Sec-WebSocket-Extensions", None),
    )
    assert headers_elsewhere(check_headers({"Host": "inner.example"})) == ()


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


# --------------------------------------------------------------------------------- the upgrade


def upgrade(*headers: tuple[str, str], leave_out: str = "", target: str = "/") -> Request:
    pairs = [
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    kept = [pair for pair in pairs if pair[0] != leave_out]
    return Request("GET", target, Headers([*kept, *headers]))


def test_the_answer_to_a_key_is_that_of_the_rfc() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Origin", "https://example.com"),),
        (("Sec-WebSocket-Protocol", "a, b"), ("Sec-WebSocket-Protocol", "c")),
        (("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),),
    ],
)
def test_an_upgrade_as_everybody_sends_it_is_beyond_doubt(headers: Any) -> None:
    assert is_beyond_doubt(upgrade(*headers))


@pytest.mark.parametrize(
    ("leave_out", "headers"),
    [
        ("Sec-WebSocket-Version", ()),
        ("Sec-WebSocket-Version", (("Sec-WebSocket-Version", "8"),)),
        ("Sec-WebSocket-Version", (("Sec-WebSocket-Version", "13, 8"),)),
        ("", (("Sec-WebSocket-Version", "13"),)),
        ("Sec-WebSocket-Key", ()),
        ("Sec-WebSocket-Key", (("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ="),)),
        ("Sec-WebSocket-Key", (("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ!=="),)),
        ("Sec-WebSocket-Key", (("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==\n"),)),
        ("", (("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),)),
        ("", (("Origin", "null"),)),
        ("", (("Origin", "https://example.com"), ("Origin", "https://example.com"))),
        ("", (("Sec-WebSocket-Protocol", "a, a"),)),
        ("", (("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "a"))),
        ("", (("Sec-WebSocket-Protocol", "a,,b"),)),
        ("", (("Sec-WebSocket-Protocol", ""),)),
        ("", (("Sec-WebSocket-Extensions", "a"), ("Sec-WebSocket-Extensions", "b"))),
    ],
)
def test_an_upgrade_with_anything_odd_is_left_to_who_knows_the_answer(
    leave_out: str, headers: Any
) -> None:
    if any("\n" in value for _, value in headers):
        with pytest.raises(InvalidHeader):
            upgrade(*headers, leave_out=leave_out)
        return
    assert not is_beyond_doubt(upgrade(*headers, leave_out=leave_out))


def test_a_target_that_looks_like_another_hosts_is_left_to_who_knows_the_answer() -> None:
    assert not is_beyond_doubt(upgrade(target="//example.com/x"))
