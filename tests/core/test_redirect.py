"""Redirects: where a Location leads, what is kept of the URI before, and where nobody is led."""

import pytest

from wsframe.core.redirect import follow, http_url, same_origin
from wsframe.core.uri import parse_uri

HERE = "wss://example.org/a/b?c=d"


@pytest.mark.parametrize(
    ("start", "location", "leads_to"),
    [
        (HERE, "/x", "wss://example.org/x"),
        (HERE, "x?y=z", "wss://example.org/a/x?y=z"),
        (HERE, "?y", "wss://example.org/a/b?y"),
        (HERE, "../x", "wss://example.org/x"),
        (HERE, "//other.example/x", "wss://other.example/x"),
        (HERE, "https://other.example:8443/x", "wss://other.example:8443/x"),
        (HERE, "wss://other.example/x", "wss://other.example/x"),
        (HERE, "HTTPS://EXAMPLE.org:443/x#part", "wss://example.org/x"),
        (HERE, "/é", "wss://example.org/%C3%A9"),
        ("ws://example.org/", "http://example.org:8080/x", "ws://example.org:8080/x"),
        ("ws://example.org/", "https://example.org/x", "wss://example.org/x"),
        ("ws://example.org/", "ws://[::1]:1/", "ws://[::1]:1/"),
        ("ws://[::1]:9000/a", "/x", "ws://[::1]:9000/x"),
        ("ws://[fe80::1%25eth0]/a", "x", "ws://[fe80::1%25eth0]/x"),
        # a server on a Unix socket knows itself as localhost
        ("ws+unix://%2Frun%2Fa.sock/a", "/x", "ws+unix://%2Frun%2Fa.sock/x"),
        ("ws+unix://%2Frun%2Fa.sock/a", "http://localhost/x", "ws+unix://%2Frun%2Fa.sock/x"),
        ("ws+unix://%2Frun%2Fa.sock/a", "http://localhost:81/x", "ws://localhost:81/x"),
    ],
)
def test_location_leads_to(start, location, leads_to):
    assert follow(parse_uri(start), location) == parse_uri(leads_to)


@pytest.mark.parametrize(
    ("start", "location", "why"),
    [
        (HERE, None, "no Location"),
        (HERE, "", "no Location"),
        (HERE, "http://example.org/", "from wss to ws"),
        (HERE, "ws://example.org/", "from wss to ws"),
        (HERE, "ftp://s3cret.example/", "not one for a WebSocket"),
        (HERE, "file:///s3cret", "not one for a WebSocket"),
        (HERE, "javascript:s3cret", "not one for a WebSocket"),
        (HERE, "ws+unix://%2Frun%2Fs3cret.sock/", "not one for a WebSocket"),
        (HERE, "/s3cret x", "not one for a WebSocket"),
        (HERE, "https://[s3cret/", "not one for a WebSocket"),
        (HERE, "https://example.org:s3cret/", "not one for a WebSocket"),
        (HERE, "\\\\s3cret", "not one for a WebSocket"),
    ],
)
def test_nobody_is_led_there(start, location, why):
    """The Location, which may hold a token, is not repeated."""
    with pytest.raises(ValueError, match=why) as caught:
        follow(parse_uri(start), location)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "user"),
    [
        ("/x", "u"),
        ("wss://example.org/x", "u"),
        ("wss://evil:evil@example.org/x", "u"),
        ("wss://other.example/x", None),
        ("wss://u:p@other.example/x", None),
        ("wss://example.org:8443/x", None),
        ("wss://sub.example.org/x", None),
        ("wss://example.org./x", None),
    ],
)
def test_credentials_stay_within_the_origin(location, user):
    """And those that a server writes into its Location are nobody's."""
    followed = follow(parse_uri("wss://u:p@example.org/"), location)
    assert (followed.user, followed.password) == (user, user and "p")


def test_an_upgrade_to_tls_is_another_origin():
    """Where plain text was spoken, anybody may have written the Location."""
    followed = follow(parse_uri("ws://u:p@example.org/"), "https://example.org/")
    assert (followed.secure, followed.user) == (True, None)


def test_origin_is_scheme_host_and_port():
    """And the socket; the path and the credentials are not part of it."""
    one = parse_uri("wss://u:p@example.org/a?b")
    assert same_origin(one, parse_uri("wss://EXAMPLE.org:443/c"))
    for other in (
        "ws://example.org:443",
        "wss://example.org:1",
        "wss://a.example",
        "wss+unix://%2Fa",
    ):
        assert not same_origin(one, parse_uri(other))


def test_http_url_has_no_credentials():
    """It is for cookie jars, and to join a Location to."""
    assert http_url(parse_uri("wss://u:p@example.org/a?b")) == "https://example.org:443/a?b"
    assert http_url(parse_uri("ws://[::1]:8080/")) == "http://[::1]:8080/"
