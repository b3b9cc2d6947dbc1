"""WebSocket URIs: what they come to, what is refused, and that they keep their secrets."""

import base64
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.uri import (
    WebSocketURI,
    basic_credentials,
    format_host_port,
    parse_target,
    parse_uri,
    split_authority,
    target_uri,
    to_ascii_host,
)
from wsframe.errors import InvalidURI

SEARCHED = settings(max_examples=300, deadline=None, database=None)


@pytest.mark.parametrize(
    ("text", "secure", "host", "port", "target"),
    [
        ("ws://example.org", False, "example.org", 80, "/"),
        ("wss://example.org", True, "example.org", 443, "/"),
        ("WSS://EXAMPLE.org:8443/A", True, "example.org", 8443, "/A"),
        ("ws://example.org:", False, "example.org", 80, "/"),
        ("ws://example.org:00080/", False, "example.org", 80, "/"),
        ("ws://example.org:65535/", False, "example.org", 65535, "/"),
        ("ws://example.org./", False, "example.org.", 80, "/"),
        ("ws://h?a=b", False, "h", 80, "/?a=b"),
        ("ws://h/?", False, "h", 80, "/?"),
        ("ws://h/a?b?c/d@e:f", False, "h", 80, "/a?b?c/d@e:f"),
        ("ws://h/a@b:1/c", False, "h", 80, "/a@b:1/c"),
        ("ws://h//a/../b", False, "h", 80, "//a/../b"),
        ("ws://h/é?ü=€", False, "h", 80, "/%C3%A9?%C3%BC=%E2%82%AC"),
        ("ws://h/%20%zz?%41", False, "h", 80, "/%20%zz?%41"),
        ('ws://h/<"^`{|}>', False, "h", 80, "/%3C%22%5E%60%7B%7C%7D%3E"),
        ("ws://h/\x85\u2028\x9b", False, "h", 80, "/%C2%85%E2%80%A8%C2%9B"),
        ("ws://under_score.x-y.example/", False, "under_score.x-y.example", 80, "/"),
        ("ws://127.0.0.1:9000/", False, "127.0.0.1", 9000, "/"),
        ("ws://[::1]:9000/", False, "::1", 9000, "/"),
        ("ws://[2001:DB8::A]/", False, "2001:db8::a", 80, "/"),
        ("ws://[::ffff:192.0.2.1]/", False, "::ffff:192.0.2.1", 80, "/"),
        ("ws://[fe80::1%25eth0]/", False, "fe80::1%eth0", 80, "/"),
        ("ws://[fe80::1%25Eth0.1]:1/", False, "fe80::1%Eth0.1", 1, "/"),
        ("ws://bücher.example/", False, "xn--bcher-kva.example", 80, "/"),
        ("ws://b%C3%BCcher.example/", False, "xn--bcher-kva.example", 80, "/"),
        ("ws://\uff11\uff12\uff17.0.0.1/", False, "127.0.0.1", 80, "/"),
        ("ws://a。example/", False, "a.example", 80, "/"),
        ("ws://0x7f.example/", False, "0x7f.example", 80, "/"),
    ],
)
def test_uri_is_taken_apart(text, secure, host, port, target):
    """Each part as it is connected to and sent."""
    assert parse_uri(text) == WebSocketURI(secure, host, port, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ws:",
        "ws://",
        "ws:///path",
        "ws://?a",
        "ws://:80/",
        "ws://@/",
        "ws:example.org",
        "ws:/example.org",
        "//example.org",
        "example.org",
        "example.org:80",
        "http://example.org",
        "https://example.org",
        "file:///etc/passwd",
        "wsx://example.org",
        # characters
        " ws://h/",
        "ws://h/ ",
        "ws://h/a b",
        "ws://h/\r\nX: y",
        "ws://h\r\n/",
        "ws://h\n/",
        "ws://h/\t",
        "ws://h/\x00",
        "ws://h\x00/",
        "ws://h/\x7f",
        "ws://h\\@evil.example/",
        "ws://h/\\",
        "ws://h/\udcff",
        "ws://\udcff/",
        "\ufeffws://h/",
        # fragment (RFC 6455 §3)
        "ws://h/#",
        "ws://h/#a",
        "ws://h#a",
        "ws://h/?a#b",
        # ports
        "ws://h:0/",
        "ws://h:65536/",
        "ws://h:-1/",
        "ws://h:+1/",
        "ws://h:1e1/",
        "ws://h:\uff18\uff10/",
        "ws://h:80:80/",
        "ws://h:999999999999999999999/",
        "ws://h: 80/",
        # hosts
        "ws://-h/",
        "ws://a..b/",
        "ws://.a/",
        "ws://a,b/",
        "ws://a%2Fb/",
        "ws://a%00b/",
        "ws://a%0d%0ab/",
        "ws://a%20b/",
        "ws://a%40b/",
        "ws://a%3A80/",
        "ws://a%25b/",
        "ws://%FF/",
        "ws://℀.example/",
        "ws://a\uff1a80/",
        "ws://a\uff20b/",
        "ws://*/",
        "ws://" + "a" * 64 + "/",
        "ws://" + "a." * 128 + "/",
        "ws://" + "ü" * 300 + "/",
        # numbers that are an address to some and a name to others
        "ws://127.1/",
        "ws://2130706433/",
        "ws://0x7f000001/",
        "ws://0x7f.1/",
        "ws://0X7F.0.0.1/",
        "ws://0x/",
        "ws://127.0.0.0x1/",
        "ws://0177.0.0.1/",
        "ws://127.0.0.1./",
        "ws://256.0.0.1/",
        "ws://1.2.3.4.5/",
        "ws://example.1/",
        "ws://%31%32%37.1/",
        # IDNA 2003 and 2008 lead to two different hosts
        "ws://faß.example/",
        "ws://fa%C3%9F.example/",
        "ws://βόλος.example/",
        "ws://a\u200db.example/",
        # IPv6
        "ws://::1/",
        "ws://[::1/",
        "ws://::1]/",
        "ws://[::1]a/",
        "ws://a[::1]/",
        "ws://[::1]evil.example/",
        "ws://[[::1]]/",
        "ws://[]/",
        "ws://[::g]/",
        "ws://[127.0.0.1]/",
        "ws://[example.org]/",
        "ws://[v1.a]/",
        "ws://[::1%25]/",
        "ws://[::1%25a%20b]/",
        "ws://[::1%25a%0d%0a]/",
        "ws://[::1%25a/b]/",
        # credentials that Basic cannot carry
        "ws://a%3Ab:c@h/",
        "ws://a:%0d%0a@h/",
        "ws://a%00@h/",
        "ws://a:%FF@h/",
    ],
)
def test_uri_is_refused(text):
    """What cannot be connected to, or could be two different things, is an InvalidURI."""
    with pytest.raises(InvalidURI):
        parse_uri(text)


@pytest.mark.parametrize("value", [None, b"ws://h/", 3])
def test_uri_of_another_type_is_a_type_error(value):
    """A mistake in the program, not in the URI."""
    with pytest.raises(TypeError, match="a URI is a str"):
        parse_uri(value)


@pytest.mark.parametrize(("scheme", "hint"), [("http", "ws://"), ("HTTPS", "wss://")])
def test_http_uri_gets_a_hint(scheme, hint):
    """The commonest mistake is answered with what would be right."""
    with pytest.raises(InvalidURI, match=f"use {hint} instead"):
        parse_uri(f"{scheme}://example.org/")


@pytest.mark.parametrize(
    ("userinfo", "user", "password"),
    [
        ("", None, None),
        ("a@", "a", None),
        ("a:@", "a", ""),
        (":b@", "", "b"),
        ("a:b@", "a", "b"),
        ("a:b:c@", "a", "b:c"),
        ("a%40b:c%2F%3A%25@", "a@b", "c/:%"),
        ("%C3%A4:€@", "ä", "€"),
        ("a@b:c@", "a@b", "c"),
    ],
)
def test_credentials_are_decoded(userinfo, user, password):
    """Percent-encoding is undone; the first colon and the last @ divide."""
    uri = parse_uri(f"ws://{userinfo}h/")
    assert (uri.user, uri.password, uri.host) == (user, password, "h")


HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9-]{0,8}[a-z]){0,3}\.?", fullmatch=True),
    st.ip_addresses().map(str),
)
TARGETS = st.from_regex(r"/[!$%&'()*+,./:;=?@\[\]_a-zA-Z0-9~-]{0,20}", fullmatch=True)


@SEARCHED
@given(st.booleans(), HOSTS, st.integers(1, 65535), TARGETS)
def test_uri_round_trips(secure, host, port, target):
    """The parts put together are taken apart to the same parts."""
    uri = WebSocketURI(secure, host, port, target)
    text = f"{uri.scheme}://{format_host_port(host, port)}{target}"
    assert parse_uri(text) == uri
    without_query = WebSocketURI(secure, host, port, target.partition("?")[0])
    assert parse_uri(str(uri)) == without_query


@SEARCHED
@given(st.one_of(st.text(), st.text().map("ws://{}".format), st.text().map("wss://h/{}".format)))
def test_any_text_gives_a_safe_uri_or_invalid_uri(text):
    """Nothing else is raised, and host and target have no byte that ends a line or a word."""
    try:
        uri = parse_uri(text)
    except InvalidURI:
        return
    for part in (uri.host, uri.target):
        assert part
        assert part.isascii()
        assert part.isprintable()
        assert not set(part) & set(' \\#"<>')
    assert not set(uri.host) & set("/?@[]")
    assert 0 < uri.port < 65536


SECRET_URIS = [
    "wss://us3r:s3cret@example.org/path?token=s3cret",
    "us3r:s3cret@example.org",
    "us3r:s3cret://example.org",
    "s3cret://example.org",
    "http://us3r:s3cret@example.org/?s3cret",
    "ws://us3r:s3cret@h:port/",
    "ws://us3r:s3cret/more@h/",
    "ws://us3r:s3cret?more@h/",
    "ws://us3r:s3cret#more@h/",
    "ws://us3r:s3cret@-h/",
    "ws://us3r:s3cret%FF@h/",
    "ws://us3r%3A:s3cret@h/",
    "ws://us3r:s3cret%00@h/",
    "ws://us3r:s3cret@h:0/",
    "ws://us3r:s3cret@/",
    "ws://h/?token=s3cret more",
    "ws://us3r:s3cret[::1]@[/",
]


@pytest.mark.parametrize("text", SECRET_URIS)
def test_uri_keeps_its_secrets(text):
    """Credentials and query are in no str, repr or traceback, nor in what an error hangs on to."""
    try:
        uri = parse_uri(text)
    except InvalidURI as error:
        context = error.__context__
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(context)
        assert context is None or context.__context__ is None
        # The traceback quotes this file's line, which holds no secret.
    else:
        shown = f"{uri} {uri!r} {uri.scheme}"
    assert "s3cret" not in shown
    assert "us3r" not in shown


@pytest.mark.parametrize(
    ("text", "secure", "host", "port"),
    [
        ("example.org:443", True, "example.org", 443),
        ("EXAMPLE.org:22", True, "example.org", 22),
        ("[::1]:80", True, "::1", 80),
        ("[FE80::1%25eth0]:80", True, "fe80::1%eth0", 80),
        ("127.0.0.1:65535", True, "127.0.0.1", 65535),
        ("b\u00fccher.example:1", True, "xn--bcher-kva.example", 1),
        ("wss://example.org", True, "example.org", 443),
        ("ws://example.org", False, "example.org", 80),
        ("https://example.org", True, "example.org", 443),
        ("http://example.org/", False, "example.org", 80),
        ("HTTPS://example.org:8443/a:1/b?c:2#d@e:3", True, "example.org", 8443),
        ("http://example.org?a/b", False, "example.org", 80),
        ("https://example.org#a:1", True, "example.org", 443),
        ("https://us3r:s3cret@[2001:DB8::A]:444/", True, "2001:db8::a", 444),
    ],
)
def test_target_is_host_and_port_and_by_whose_proxies_it_is_reached(text, secure, host, port):
    """Whatever else a URI has is left out; host:port alone is taken for TLS."""
    assert parse_target(text) == WebSocketURI(secure, host, port, "/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "example.org:",
        ":443",
        "::1:443",
        "[::1]",
        "example.org:0",
        "example.org:65536",
        "example.org:https",
        "example.org:443/",
        "example.org:443?",
        "us3r@example.org:443",
        "//example.org:443",
        "ftp://example.org/",
        "s3cret://example.org",
        "us3r:s3cret://example.org",
        "https://",
        "https:///a",
        "https://us3r:s3cret@/",
        "https://us3r:s3cret@h:port/",
        "https://us3r:s3cret%FF@h/",
        "https://h/a b",
        "h:443\r\n",
        "a b:443",
        "0x7f.1:443",
    ],
)
def test_target_that_leads_nowhere_is_refused_without_its_text(text):
    """What is wrong is said; a URL may have a password in any place."""
    with pytest.raises(InvalidURI, match="the target") as caught:
        parse_target(text)
    context = caught.value.__context__
    assert context is None or context.__context__ is None
    for secret in ("s3cret", "us3r"):
        assert secret not in repr(caught.value) + repr(context)


def test_target_is_a_text():
    with pytest.raises(TypeError, match="not bytes"):
        parse_target(b"example.org:443")


@SEARCHED
@given(st.one_of(st.text(), st.text().map("https://{}".format), st.text().map("{}:1".format)))
def test_any_text_gives_a_target_that_can_be_connected_to_or_invalid_uri(text):
    try:
        uri = parse_target(text)
    except InvalidURI:
        return
    assert to_ascii_host(uri.host) == uri.host
    assert 0 < uri.port < 65536


def test_target_of_a_host_and_a_port_is_checked():
    assert target_uri("EXAMPLE.org", 1) == WebSocketURI(True, "example.org", 1, "/")
    assert target_uri("::1", 80, secure=False) == WebSocketURI(False, "::1", 80, "/")
    for host, port in [("", 1), ("[::1]", 1), ("a b", 1), ("h", 0), ("h", 65536), ("us3r:x@h", 1)]:
        with pytest.raises(InvalidURI, match="the target has a") as caught:
            target_uri(host, port)
        assert caught.value.__context__ is None


def test_uri_is_shown_without_its_default_port():
    """The shortest form that leads to the same server."""
    assert str(parse_uri("wss://[::1]:443/a?b")) == "wss://[::1]/a"
    assert str(parse_uri("ws://h:443")) == "ws://h:443/"
    assert repr(parse_uri("ws://h")) == "<WebSocketURI ws://h/>"


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("h", None, "h"), ("h", 1, "h:1"), ("::1", None, "[::1]"), ("::1", 1, "[::1]:1")],
)
def test_host_and_port_are_put_together(host, port, text):
    """IPv6 gets its brackets."""
    assert format_host_port(host, port) == text


def test_basic_credentials_are_utf_8():
    """The example of RFC 7617 §2.1."""
    assert basic_credentials("test", "123£") == "Basic dGVzdDoxMjPCow=="
    assert base64.b64decode(basic_credentials("a", "b:c")[6:]) == b"a:b:c"


@pytest.mark.parametrize(
    ("user", "password"),
    [("a:b", "s3cret"), ("a\r\n", "s3cret"), ("a", "s3cret\x7f"), ("a", "s3cret\udcff")],
)
def test_credentials_that_basic_cannot_carry_are_refused(user, password):
    """A ValueError that does not repeat them, not even in its arguments."""
    with pytest.raises(ValueError, match="has a c") as caught:
        basic_credentials(user, password)
    assert "s3cret" not in repr(caught.value)


def test_authority_is_taken_apart():
    """Both URIs and proxies have one."""
    assert split_authority("a:b@[::1]:80") == ("a", "b", "::1", 80)
    assert split_authority("h") == (None, None, "h", None)


@pytest.mark.parametrize("length", [253, 254])
def test_longest_name(length):
    """253 characters is what the name service can carry; the root's dot is not counted."""
    name = ("a" * 49 + ".") * 5 + "b" * (length - 250)
    if length == 253:
        assert to_ascii_host(name) == name
        assert to_ascii_host(name + ".") == name + "."
    else:
        with pytest.raises(ValueError, match="malformed"):
            to_ascii_host(name)


@pytest.mark.parametrize(
    ("text", "secure", "path", "target"),
    [
        ("ws+unix://%2Frun%2Fapp.sock", False, "/run/app.sock", "/"),
        ("WS+UNIX://%2Frun%2Fapp.sock/chat?room=1", False, "/run/app.sock", "/chat?room=1"),
        ("wss+unix://%2Frun%2Fa%20b%3A%C3%A9/x", True, "/run/a b:é", "/x"),
        (f"ws+unix://%2F{'a' * 106}/", False, "/" + "a" * 106, "/"),
    ],
)
def test_server_on_a_unix_socket(text, secure, path, target):
    """Its path stands, percent-encoded, where the host would; the server is localhost."""
    uri = parse_uri(text)
    port = 443 if secure else 80
    assert uri == WebSocketURI(secure, "localhost", port, target, unix_path=path)
    assert parse_uri(str(uri)).unix_path == path
    assert "room=1" not in str(uri) + repr(uri)


def test_server_on_a_unix_socket_may_have_credentials():
    """As any server."""
    uri = parse_uri("ws+unix://u:s3cret@%2Frun%2Fapp.sock/")
    assert (uri.user, uri.password, uri.unix_path) == ("u", "s3cret", "/run/app.sock")
    assert "s3cret" not in str(uri) + repr(uri)


@pytest.mark.parametrize(
    "text",
    [
        "ws+unix:///run/app.sock:/path",
        "ws+unix:///run/app.sock",
        "ws+unix://run%2Fapp.sock/",
        "ws+unix://%2Frun%2Fapp.sock:80/",
        "ws+unix://%2Frun%2F%00/",
        "ws+unix://%2Frun%2F%ff/",
        f"ws+unix://%2F{'a' * 107}/",
        "ws+tcp://%2Frun%2Fapp.sock/",
        "http+unix://%2Frun%2Fapp.sock/",
        "ws+://%2Frun%2Fapp.sock/",
    ],
)
def test_unix_socket_that_cannot_be_connected_to_is_refused(text):
    """Also in the spelling in which nobody can tell the socket's path from the request's."""
    with pytest.raises(InvalidURI):
        parse_uri(text)
