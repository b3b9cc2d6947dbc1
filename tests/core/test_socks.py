"""The SOCKS handshakes: what is sent, what opens the tunnel, and what every other answer is."""

import traceback
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.proxy import Proxy
from wsframe.core.socks import SOCKS4, SOCKS5
from wsframe.core.tunnel import Step
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    ProxyRefused,
    TargetUnreachable,
)

SEARCHED = settings(max_examples=200, deadline=None, database=None)
TLS = b"\x16\x03\x01\x05\x00"
"""What may come through the tunnel at once; it has bytes that SOCKS knows, too."""

OPEN_4 = b"\0\x5a\x01\xbb\xc0\0\2\1"
BOUND = [
    b"\1\xc0\0\2\1\x01\xbb",
    b"\4" + bytes(range(16)) + b"\x01\xbb",
    b"\3\0\x01\xbb",
    b"\3\x01a\x01\xbb",
    b"\3\xff" + b"\5" * 255 + b"\x01\xbb",
]
"""Bound addresses of every type."""

OPEN_5 = b"\5\0\5\0\0" + BOUND[0]
OPEN_5_WITH_LOGIN = b"\5\2\1\0\5\0\0" + BOUND[0]


def four(host="192.0.2.1", port=443, *, scheme="socks4", user=None, password=None):
    return SOCKS4(Proxy("proxy.example", 1080, user, password, scheme), host, port)


def five(host="192.0.2.1", port=443, *, scheme="socks5", user=None, password=None):
    return SOCKS5(Proxy("proxy.example", 1080, user, password, scheme), host, port)


def with_login():
    return five(user="us3r", password="s3cret")


def outcome(handshake, pieces):
    """Return all that is sent, and the leftover or the error, for an answer in these pieces."""
    sent, leftover = handshake.request, None
    try:
        for piece in pieces:
            if leftover is not None:
                leftover += piece
                continue
            step = handshake.receive(piece)
            sent += step.send
            leftover = step.leftover
    except ProxyError as error:
        return sent, (type(error), str(error), error.code)
    return sent, leftover


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "options", "request_"),
    [
        ("192.0.2.1", {}, b"\4\1\x01\xbb\xc0\0\2\1\0"),
        ("192.0.2.1", {"user": "älice"}, b"\4\1\x01\xbb\xc0\0\2\1\xc3\xa4lice\0"),
        ("0.0.0.0", {}, b"\4\1\x01\xbb\0\0\0\0\0"),
        ("192.0.2.1", {"scheme": "socks4a"}, b"\4\1\x01\xbb\xc0\0\2\1\0"),
        ("Example.ORG", {"scheme": "socks4a"}, b"\4\1\x01\xbb\0\0\0\1\0example.org\0"),
        ("a.b", {"scheme": "socks4a", "user": "u"}, b"\4\1\x01\xbb\0\0\0\1u\0a.b\0"),
    ],
)
def test_socks4_request(host, options, request_):
    """An address goes as it is; a name follows the user id, announced by 0.0.0.1."""
    assert four(host, **options).request == request_


@pytest.mark.parametrize(
    ("host", "scheme", "address"),
    [
        ("192.0.2.1", "socks5", b"\1\xc0\0\2\1"),
        ("192.0.2.1", "socks5h", b"\1\xc0\0\2\1"),
        ("2001:DB8::1", "socks5", b"\4\x20\x01\x0d\xb8" + bytes(11) + b"\1"),
        ("2001:DB8::1", "socks5h", b"\4\x20\x01\x0d\xb8" + bytes(11) + b"\1"),
        ("::ffff:192.0.2.1", "socks5", b"\4" + bytes(10) + b"\xff\xff\xc0\0\2\1"),
        ("Example.ORG", "socks5h", b"\3\x0bexample.org"),
        ("bücher.example", "socks5h", b"\3\x15xn--bcher-kva.example"),
        ("example.org.", "socks5h", b"\3\x0cexample.org."),
        ("3.2.0.192.example", "socks5h", b"\3\x113.2.0.192.example"),
    ],
)
def test_socks5_request(host, scheme, address):
    """An address is never sent as a name, nor a name as an address."""
    handshake = five(host, 8443, scheme=scheme)
    assert handshake.request == b"\5\1\0"
    assert handshake.receive(b"\5\0") == Step(b"\5\1\0" + address + b"\x20\xfb")


def test_longest_name_is_sent_whole():
    """Its length is one byte."""
    name = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert five(name, scheme="socks5h").receive(b"\5\0").send[3:5] == b"\3\xfd"
    assert four(name, scheme="socks4a").request.endswith(name.encode() + b"\0")


def test_methods_without_credentials():
    """Only no authentication is offered."""
    assert five().request == b"\5\1\0"


def test_methods_with_credentials():
    """The proxy may choose; the credentials are sent when it asks for them, and not before."""
    handshake = five(user="älice", password="pä:ß")
    assert handshake.request == b"\5\2\0\2"
    assert handshake.receive(b"\5\2") == Step("\1\6älice\6pä:ß".encode())
    assert handshake.receive(b"\1\0") == Step(b"\5\1\0\1\xc0\0\2\1\x01\xbb")


def test_credentials_are_not_sent_to_a_proxy_that_asks_for_none():
    """It chose no authentication."""
    sent, leftover = outcome(with_login(), [OPEN_5])
    assert leftover == b""
    assert b"s3cret" not in sent


def test_credentials_may_have_255_bytes_each():
    """Their lengths are one byte each."""
    sent = five(user="ä" * 127 + "a", password="b" * 255).receive(b"\5\2").send
    assert sent == b"\1\xff" + ("ä" * 127 + "a").encode() + b"\xff" + b"b" * 255


# --- what is refused before a byte is sent --------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "a" * 256,
        ".".join(["a" * 63] * 4),
        ".".join(["a" * 60] * 10),
        "ü" * 100 + ".example",
        "",
        "a b",
        "a\0b",
        "a\r\nb",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "fe80::1%eth0",
        "1::2::3",
    ],
)
@pytest.mark.parametrize(
    "make", [lambda host: four(host, scheme="socks4a"), lambda host: five(host, scheme="socks5h")]
)
def test_host_that_cannot_be_sent_is_refused(make, host):
    """Too long (CVE-2023-38545), malformed, or a matter of the reader's taste."""
    with pytest.raises(ValueError, match=r"^(the tunnel's target host|the zone of an IPv6)"):
        make(host)


@pytest.mark.parametrize(("make", "better"), [(four, "socks4a"), (five, "socks5h")])
@pytest.mark.parametrize("host", ["example.org", "a" * 60, "localhost", "1.2.3.4.example"])
def test_name_is_refused_where_this_side_looks_up(make, better, host):
    """An address was to be given; the error says what would take the name."""
    with pytest.raises(ValueError, match=f"takes an address; {better} lets the proxy"):
        make(host)


@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_socks4_has_no_ipv6(scheme):
    """Nor is an address sent as a name."""
    with pytest.raises(ValueError, match="SOCKS4 has no IPv6"):
        four("2001:db8::1", scheme=scheme)


def test_socks4_address_that_would_announce_a_name():
    """0.0.0.x says that a name follows: the proxy would wait for it."""
    with pytest.raises(ValueError, match=r"0\.0\.0\.0/24"):
        four("0.0.0.255")


@pytest.mark.parametrize("port", [0, -1, 65536])
@pytest.mark.parametrize("make", [four, five])
def test_port_is_checked(make, port):
    with pytest.raises(ValueError, match="from 1 to 65535"):
        make(port=port)


@pytest.mark.parametrize(
    ("make", "scheme"), [(four, "socks5"), (four, "http"), (five, "socks4a"), (five, "http")]
)
def test_proxy_of_another_kind_is_refused(make, scheme):
    """The scheme says who looks names up: it has to be one of ours."""
    with pytest.raises(ValueError, match=f"not {scheme}$"):
        make(scheme=scheme)


@pytest.mark.parametrize(
    ("scheme", "user", "password"),
    [
        ("socks5", "", "s3cret"),
        ("socks5", "s3cret", ""),
        ("socks5", "s3cret", None),
        ("socks5", "s3cret" + "ä" * 125, "p"),
        ("socks5", "u", "s3cret" + "ä" * 125),
        ("socks5", "s3cret\ud800", "p"),
        ("socks5", "u", "s3cret\ud800"),
        ("socks4", "", None),
        ("socks4", "s3cret" + "ä" * 125, None),
        ("socks4", "s3cret\ud800", None),
        ("socks4", "s3cret\0", None),
        ("socks4", "u", "s3cret"),
        ("socks4", "u", ""),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused(scheme, user, password):
    """Whatever the proxy let through. They are not in the error, nor in what it hangs on to."""
    proxy = Proxy("proxy.example", 1080, scheme=scheme)
    object.__setattr__(proxy, "user", user)
    object.__setattr__(proxy, "password", password)
    with pytest.raises(InvalidProxy) as caught:
        (SOCKS4 if scheme == "socks4" else SOCKS5)(proxy, "192.0.2.1", 443)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None  # an encoding error has the whole text in it


# --- what opens the tunnel ------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(len(OPEN_4) + 1))
def test_socks4_tunnel_opens_with_the_bytes_behind_the_answer(cut):
    """The first bytes of the tunnel come out verbatim, wherever the answer was cut."""
    data = OPEN_4 + TLS
    pieces = [piece for piece in (data[:cut], data[cut:]) if piece]
    assert outcome(four(), pieces)[1] == TLS


@pytest.mark.parametrize("bound", BOUND)
def test_socks5_tunnel_opens_behind_an_address_of_any_type(bound):
    """Not a byte more is taken, and not one less, wherever the answer was cut."""
    for prefix in (b"\5\0", b"\5\2\1\0"):
        data = prefix + b"\5\0\0" + bound + TLS
        whole = outcome(with_login(), [data])
        assert whole[1] == TLS
        for cut in range(1, len(data)):
            assert outcome(with_login(), [data[:cut], data[cut:]]) == whole


@pytest.mark.parametrize("make", [four, five, with_login])
def test_tunnel_opens_with_the_last_byte(make):
    """Not before, and an open tunnel without bytes is b"", which is not None."""
    answer = {four: OPEN_4, five: OPEN_5, with_login: OPEN_5_WITH_LOGIN}[make]
    handshake = make()
    for byte in answer[:-1]:
        assert handshake.receive(bytes([byte])).leftover is None
    assert handshake.receive(answer[-1:]).leftover == b""


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (four, b"\4" + OPEN_4[1:]),
        (five, b"\5\0\5\0\xff" + BOUND[0]),
        (five, b"\5\0\5\0\1" + BOUND[0]),
        (with_login, b"\5\2\5\0\5\0\0" + BOUND[0]),
    ],
)
def test_what_real_servers_do_otherwise_is_accepted(make, answer):
    """Their own version where another is due, and a reserved byte that is not zero."""
    assert outcome(make(), [answer])[1] == b""


# --- every other answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "meaning"),
    [
        (1, ProxyRefused, "general failure"),
        (2, ProxyRefused, "not allowed by its rules"),
        (3, TargetUnreachable, "network unreachable"),
        (4, TargetUnreachable, "host unreachable"),
        (5, TargetUnreachable, "connection refused"),
        (6, TargetUnreachable, "TTL expired"),
        (7, ProxyRefused, "command not supported"),
        (8, ProxyRefused, "address type not supported"),
        (9, ProxyRefused, "no known reason"),
        (255, ProxyRefused, "no known reason"),
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\0", b"\0\1" + bytes(6), b"\0\0"])
def test_socks5_refusal(code, kind, meaning, rest):
    """It is known by its code, whatever comes behind, also when nothing does."""
    with pytest.raises(ProxyRefused) as caught:
        five("example.org", scheme="socks5h").receive(b"\5\0\5" + bytes([code]) + rest)
    error = caught.value
    assert type(error) is kind
    assert str(error) == (
        "socks5h://proxy.example:1080 opens no tunnel to example.org:443: "
        f"{meaning} (SOCKS5 code {code})"
    )
    assert (error.proxy, error.code) == ("socks5h://proxy.example:1080", code)
    assert (error.phase, error.status, error.headers, error.body) == ("proxy", None, (), b"")


@pytest.mark.parametrize(
    ("code", "user", "kind", "meaning"),
    [
        (91, None, ProxyRefused, "refused or failed"),
        (92, "u", ProxyRefused, "it cannot ask identd on this host"),
        (93, None, ProxyAuthRequired, "identd on this host names another user"),
        (93, "u", ProxyAuthRefused, "identd on this host names another user"),
        (0, None, ProxyRefused, "no known reason"),
        (94, None, ProxyRefused, "no known reason"),
    ],
)
@pytest.mark.parametrize("version", [0, 4])
def test_socks4_refusal(code, user, kind, meaning, version):
    """It is known by its code."""
    with pytest.raises(ProxyError) as caught:
        four(user=user).receive(bytes([version, code]))
    error = caught.value
    assert type(error) is kind
    assert str(error) == (
        f"socks4://proxy.example:1080 opens no tunnel to 192.0.2.1:443: {meaning} "
        f"(SOCKS4 code {code})"
    )
    assert (error.proxy, error.code) == ("socks4://proxy.example:1080", code)


@pytest.mark.parametrize(
    ("make", "answer", "kind", "text"),
    [
        (five, b"\5\xff", ProxyAuthRequired, "asks for authentication"),
        (five, b"\5\2", ProxyAuthRequired, "asks for a user name and password"),
        (with_login, b"\5\xff", ProxyAuthRequired, "asks for other authentication"),
        (with_login, b"\5\2\1\1", ProxyAuthRefused, "did not accept the user name"),
        (with_login, b"\5\2\1\xff", ProxyAuthRefused, "did not accept the user name"),
        (with_login, b"\5\2\5\1", ProxyAuthRefused, "did not accept the user name"),
        (five, b"\5\1", BadProxyAnswer, "method 1, which was not offered"),
        (with_login, b"\5\1", BadProxyAnswer, "method 1, which was not offered"),
        (with_login, b"\5\x03", BadProxyAnswer, "method 3, which was not offered"),
        (five, b"\4\0", BadProxyAnswer, "version 4, which is not SOCKS5's"),
        (five, b"\0\x5a", BadProxyAnswer, "version 0, which is not SOCKS5's"),
        (five, b"HT", BadProxyAnswer, "version 72, which is not SOCKS5's"),
        (five, b"\5\0\4\0", BadProxyAnswer, "version 4, which is not SOCKS5's"),
        (with_login, b"\5\2\0\0", BadProxyAnswer, "version 0, not 1"),
        (with_login, b"\5\2\2\0", BadProxyAnswer, "version 2, not 1"),
        (five, b"\5\0\5\0\0\0", BadProxyAnswer, "unknown type 0"),
        (five, b"\5\0\5\0\0\2", BadProxyAnswer, "unknown type 2"),
        (four, b"\5\x5a", BadProxyAnswer, "version 5, which is not SOCKS4's"),
        (four, b"\5\xff", BadProxyAnswer, "version 5, which is not SOCKS4's"),
        (four, b"HT", BadProxyAnswer, "version 72, which is not SOCKS4's"),
    ],
)
def test_other_answer_is_typed_as_soon_as_it_is_known(make, answer, kind, text):
    """With its last byte, and not before; it has no reply code."""
    handshake = make()
    for byte in answer[:-1]:
        assert handshake.receive(bytes([byte])).leftover is None
    with pytest.raises(ProxyError, match=text) as caught:
        handshake.receive(answer[-1:])
    error = caught.value
    assert type(error) is kind
    assert str(error).startswith(error.proxy)
    assert (error.code, error.status, error.phase) == (None, None, "proxy")


@pytest.mark.parametrize("make", [four, five, with_login])
def test_end_at_any_byte_is_typed(make):
    """The answer was cut short."""
    answer = {four: OPEN_4, five: OPEN_5, with_login: OPEN_5_WITH_LOGIN}[make]
    for cut in range(len(answer)):
        handshake = make()
        if cut:
            handshake.receive(answer[:cut])
        with pytest.raises(BadProxyAnswer, match="ended before the answer was complete"):
            handshake.receive(b"")


@pytest.mark.parametrize("answer", [b"", b"\5\1", OPEN_5])
def test_handshake_that_is_over_opens_no_tunnel(answer):
    """Neither after an error nor a second time."""
    handshake = five()
    outcome(handshake, [answer])
    with pytest.raises(RuntimeError, match="over"):
        handshake.receive(OPEN_5)


# --- any bytes ------------------------------------------------------------------------------------

MAKERS = st.sampled_from([four, five, with_login])
BEGINNINGS = st.sampled_from(
    [b"", b"\0", b"\0\x5a", b"\5\0", b"\5\2", b"\5\2\1\0", b"\5\0\5\0\0", b"\5\2\1\0\5\0\0\3"]
)


@SEARCHED
@given(MAKERS, BEGINNINGS, st.binary(max_size=300), st.lists(st.integers(0, 320), max_size=6))
def test_outcome_depends_on_the_bytes_alone(make, beginning, data, cuts):
    """However they are cut: the same bytes sent, the same leftover, the same error.

    Where it is an error, what was still to be said before it is left unsaid, in the same piece.
    """
    data = beginning + data
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(places)]
    sent, end = outcome(make(), pieces)
    sent_at_once, end_at_once = outcome(make(), [data] if data else [])
    assert end == end_at_once
    assert sent.startswith(sent_at_once) if isinstance(end, tuple) else sent == sent_at_once


@SEARCHED
@given(MAKERS, BEGINNINGS, st.lists(st.binary(min_size=1, max_size=30), max_size=6))
def test_any_bytes_give_a_tunnel_or_a_proxy_error(make, beginning, pieces):
    """Whatever comes: one of the two, and at the end never neither."""
    result = outcome(make(), [*filter(None, [beginning]), *pieces, b""])[1]
    assert result is not None


@pytest.mark.parametrize(
    "answer",
    [b"\5\xff", b"\5\2\1\1", b"\5\2\1\0\5\1", b"\5\2\2", b"\5\2", b"\5\2\1\0\5\0\0\2", b"garbage"],
)
def test_credentials_are_in_no_error(answer):
    """Neither in the text, nor in the repr, nor in the traceback."""
    handshake = with_login()
    with pytest.raises(ProxyError) as caught:
        [handshake.receive(data) for data in (answer, b"")]
    shown = repr(handshake) + repr(caught.value)
    shown += "".join(traceback.format_exception(caught.value))
    for secret in ("us3r", "s3cret"):
        assert secret not in shown
