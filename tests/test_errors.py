"""The exceptions: their tree, their attributes, and what they show."""

import re

import pytest

from wsframe import errors
from wsframe.errors import (
    BadHandshake,
    BadProxyAnswer,
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeRefused,
    InvalidHeader,
    InvalidProxy,
    InvalidTokenFile,
    InvalidURI,
    NameLookupFailed,
    OpenCancelled,
    OpenError,
    OpenTimeout,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    ProxyRefused,
    ProxyTLSFailed,
    ReceiveTimeout,
    Reject,
    SendBufferFull,
    TargetUnreachable,
    TCPConnectFailed,
    TLSFailed,
    WSFrameError,
)


def drawn_tree():
    """Return {name: name of the parent} as the module's docstring draws it."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r" {4}([│ ]*)(?:[├└]── )?([A-Z]\w+)", line)
        if found:
            depth = len(found[1]) // 4 + ("──" in line)
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else None
    return parents


def test_tree_is_the_one_that_is_drawn():
    """Every exception is in the drawing, below its parent, and is public."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    parents = {kind.__name__: kind.__bases__[0].__name__ for kind in kinds}
    assert drawn_tree() == {**parents, "WSFrameError": None}
    assert {kind.__name__ for kind in kinds} <= set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InvalidURI, ValueError),
        (InvalidHeader, ValueError),
        (InvalidProxy, ValueError),
        (InvalidTokenFile, ValueError),
        (OpenTimeout, TimeoutError),
        (ReceiveTimeout, TimeoutError),
        (ConcurrencyError, RuntimeError),
        (SendBufferFull, WSFrameError),
    ],
)
def test_error_is_caught_as_the_builtin_it_is(kind, builtin):
    """Whoever knows only Python's own errors can catch it, and read its text."""
    with pytest.raises(builtin, match=r"^the text$"):
        raise kind("the text")


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (OpenError("x"), None),
        (OpenError("x", phase="tcp"), "tcp"),
        (NameLookupFailed("x"), "dns"),
        (TCPConnectFailed("x"), "tcp"),
        (TLSFailed("x"), "tls"),
        (TLSFailed("x", phase="proxy-tls"), "proxy-tls"),
        (ProxyError("x", proxy="p"), "proxy"),
        (HandshakeRefused(403, "", (), b""), "handshake"),
        (BadHandshake("x"), "handshake"),
        (OpenTimeout("x", phase="proxy"), "proxy"),
        (OpenCancelled("x", phase="dns"), "dns"),
    ],
)
def test_phase_says_where_opening_ended(error, phase):
    """Each kind has its own; where there are several, it is given."""
    assert error.phase == phase


@pytest.mark.parametrize("certificate", [False, True])
def test_tls_failure_says_whether_it_was_the_certificate(certificate):
    """The proxy's or the target's; a handshake that was cut off is another matter."""
    for error in (
        TLSFailed("x", certificate=certificate),
        ProxyTLSFailed("x", proxy="p", certificate=certificate),
    ):
        assert error.certificate is certificate
    assert not TLSFailed("x").certificate
    assert not ProxyTLSFailed("x", proxy="p").certificate
    assert ProxyTLSFailed("x", proxy="p").phase == "proxy-tls"


def test_phase_of_one_error_is_not_that_of_its_kind():
    """It is kept on the instance."""
    TLSFailed("x", phase="proxy-tls")
    assert TLSFailed("x").phase == "tls"


@pytest.mark.parametrize(
    "kind",
    [
        ProxyError,
        ProxyAuthRequired,
        ProxyAuthRefused,
        ProxyRefused,
        TargetUnreachable,
        BadProxyAnswer,
    ],
)
def test_proxy_error_carries_the_answer(kind):
    """And has none where there was none."""
    error = kind("text", proxy="http://p:1", status=502, headers=(("A", "s3cret"),), body=b"why")
    assert (error.proxy, error.status, error.body) == ("http://p:1", 502, b"why")
    assert error.headers == (("A", "s3cret"),)
    assert "s3cret" not in repr(error) + str(error)
    bare = kind("text", proxy="http://p:1")
    assert (bare.status, bare.headers, bare.body, bare.code) == (None, (), b"", None)
    assert kind("text", proxy="socks5://p:1", code=2).code == 2


def test_refused_handshake_carries_the_answer():
    """Header values and body are attributes, not text."""
    error = HandshakeRefused(401, "No", (("Set-Cookie", "s3cret"),), b"s3cret")
    assert (error.status, error.reason, error.body) == (401, "No", b"s3cret")
    assert error.headers == (("Set-Cookie", "s3cret"),)
    assert str(error) == "server answered 401 Unauthorized"
    assert "s3cret" not in repr(error)


@pytest.mark.parametrize(
    ("status", "text"), [(403, "server answered 403 Forbidden"), (799, "server answered 799")]
)
@pytest.mark.parametrize("reason", ["", "Größe", "s3cret", "a\r\nb", "\x1b]0;x\x07", "\u202egpj"])
def test_text_of_a_refusal_has_none_of_the_servers_words(status, text, reason):
    """They may repeat a token, or be what a terminal obeys; the attribute is as it came."""
    error = HandshakeRefused(status, reason, (), b"")
    assert str(error) == text
    assert error.reason == reason


@pytest.mark.parametrize(
    ("code", "reason", "by", "clean", "text"),
    [
        (1000, "", "local", True, "closed by this side with code 1000"),
        (1000, "bye", "remote", True, "closed by the peer with code 1000: 'bye'"),
        (1006, "", None, False, "lost with code 1006"),
        (1006, "reset", None, False, "lost with code 1006: 'reset'"),
        (
            1011,
            "a\r\nb\x1b",
            "remote",
            False,
            r"closed by the peer with code 1011: 'a\r\nb\x1b' (closing handshake not completed)",
        ),
    ],
)
def test_closed_says_who_and_why(code, reason, by, clean, text):
    """In the text, escaped, and in attributes."""
    error = ConnectionClosed(code, reason, by=by, clean=clean)
    assert str(error) == text
    assert (error.code, error.reason, error.by, error.clean) == (code, reason, by, clean)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1005, 1006, 1011, 1012, 1015, 3000, 4000])
def test_closed_of_a_code_is_ok_or_an_error(code):
    """1000, 1001 and no code (1005) are a normal end, all others are not."""
    error = ConnectionClosed.of(code, "r", by="remote", clean=True)
    kind = ConnectionClosedOK if code in {1000, 1001, 1005} else ConnectionClosedError
    assert type(error) is kind
    assert (error.code, error.reason, error.by, error.clean) == (code, "r", "remote", True)


def test_reject_carries_the_answer():
    """The headers are a copy."""
    headers = {"A": "s3cret"}
    error = Reject(403, "no", headers)
    headers["B"] = "c"
    assert (error.status, error.body, error.headers) == (403, "no", {"A": "s3cret"})
    assert str(error) == "refused with 403"
    assert "s3cret" not in repr(error)
    assert (Reject(300).body, Reject(599).headers) == (None, {})


@pytest.mark.parametrize("status", [0, 101, 200, 299, 600])
def test_reject_does_not_accept(status):
    """A status below 300 would be no refusal."""
    with pytest.raises(ValueError, match="from 300 to 599"):
        Reject(status)


def test_the_same_end_can_be_raised_again() -> None:
    error = ConnectionClosed.of(4000, "r", by="remote", clean=False)
    again = error.again()
    assert again is not error
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
