"""The CONNECT handshake: what is sent, what opens the tunnel, and what every other answer is."""

import base64
import traceback
from itertools import pairwise

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http_connect import HTTPConnect
from wsframe.core.proxy import Proxy
from wsframe.core.tunnel import Step
from wsframe.errors import (
    BadProxyAnswer,
    InvalidHeader,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    ProxyRefused,
    status_text,
)

SEARCHED = settings(max_examples=150, deadline=None, database=None)
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"
PLAIN = Proxy("proxy.example", 3128)
WITH_PASSWORD = Proxy("proxy.example", 3128, "alice", "s3cret")


def connect(proxy=PLAIN, host="example.org", port=443, **options):
    """Return a CONNECT with limits for tests."""
    return HTTPConnect(proxy, host, port, max_head=400, max_body=20, **options)


def read_by_h11(request):
    """Return the request as an independent server reads it."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(request)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.trailing_data == (b"", False)
    return event


def test_request_bytes():
    """The target is host and port, in the request line and in Host."""
    assert connect().request == (
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("Example.ORG", b"example.org:443"),
        ("192.0.2.1", b"192.0.2.1:443"),
        ("2001:DB8::1", b"[2001:db8::1]:443"),
        ("bücher.example", b"xn--bcher-kva.example:443"),
    ],
)
def test_request_target_of_each_kind_of_host(host, target):
    """IPv6 has its brackets, a name is in ASCII; an independent server reads the same."""
    request = read_by_h11(connect(host=host).request)
    assert (request.method, request.target) == (b"CONNECT", target)
    assert dict(request.headers)[b"host"] == target


def test_credentials_are_sent_with_the_request():
    """Basic, in UTF-8 (RFC 7617 §2.1)."""
    proxy = Proxy("proxy.example", 3128, "älice", "pä:ß")
    value = dict(read_by_h11(connect(proxy).request).headers)[b"proxy-authorization"]
    scheme, _, encoded = value.partition(b" ")
    assert scheme == b"Basic"
    assert base64.b64decode(encoded).decode() == "älice:pä:ß"


def test_user_without_password_sends_an_empty_one():
    """Some proxies take a key as the user name."""
    value = dict(read_by_h11(connect(Proxy("p", 1, "key")).request).headers)
    assert base64.b64decode(value[b"proxy-authorization"].partition(b" ")[2]) == b"key:"


def test_no_credentials_are_sent_without_a_user():
    """Nothing is made up."""
    assert b"authorization" not in connect().request.lower()


def test_extra_headers_follow_in_order():
    """Headers for the proxy keep their order and case."""
    request = connect(headers=[("X-One", "1"), ("User-agent", "test")]).request
    assert request.endswith(b"\r\nX-One: 1\r\nUser-agent: test\r\n\r\n")


@pytest.mark.parametrize(
    "options",
    [
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"host": "a\x00"},
        {"host": ""},
        {"host": "a/b"},
        {"host": "a@b"},
        {"host": "a:80"},
        {"host": "127.1"},
        {"host": "a" * 300},
        {"host": "fe80::1%eth0"},
        {"port": 0},
        {"port": 65536},
        {"port": -1},
        {"headers": {"A": "b\r\nC: d"}},
        {"headers": {"A B": "c"}},
        {"headers": {"Host": "other"}},
        {"headers": {"PROXY-authorization": "Basic x"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
    ],
)
def test_request_that_would_not_be_what_was_meant_is_refused(options):
    """Before a byte is sent."""
    with pytest.raises(InvalidHeader):
        connect(**options)


@pytest.mark.parametrize("cut", range(len(OPEN) + 1))
def test_tunnel_opens_with_the_bytes_behind_the_answer(cut):
    """The first bytes of the tunnel come out verbatim, wherever the answer was cut."""
    data = OPEN + b"\x16\x03\x01\r\n\r\n"
    tunnel = connect()
    if 0 < cut < len(OPEN):
        assert tunnel.receive(data[:cut]) == Step()
        data = data[cut:]
    assert tunnel.receive(data) == Step(leftover=b"\x16\x03\x01\r\n\r\n")


def test_tunnel_may_open_without_bytes():
    """An open tunnel is b"", which is not None."""
    assert connect().receive(OPEN).leftover == b""


@pytest.mark.parametrize(
    ("proxy", "status", "kind"),
    [
        (PLAIN, 407, ProxyAuthRequired),
        (WITH_PASSWORD, 407, ProxyAuthRefused),
        (PLAIN, 401, ProxyRefused),
        (WITH_PASSWORD, 401, ProxyAuthRefused),
        (PLAIN, 403, ProxyRefused),
        (PLAIN, 302, ProxyRefused),
        (PLAIN, 502, ProxyRefused),
    ],
)
def test_refusal_is_typed_and_complete(proxy, status, kind):
    """A 401 is about the proxy's credentials only where some were sent: tinyproxy says it so."""
    answer = b"HTTP/1.1 %d No Way\r\nA: b\r\nContent-Length: 3\r\n\r\nwhy" % status
    with pytest.raises(ProxyError) as caught:
        connect(proxy).receive(answer)
    error = caught.value
    assert type(error) is kind
    assert str(error) == (
        f"http://proxy.example:3128 answered {status_text(status)} to CONNECT example.org:443"
    )
    assert (error.phase, error.proxy, error.status) == ("proxy", str(proxy), status)
    assert (error.headers, error.body) == ((("A", "b"), ("Content-Length", "3")), b"why")


def test_refusal_shows_no_terminal_escape():
    """A C1 control is legal in a reason, and obeyed by terminals."""
    with pytest.raises(ProxyRefused) as caught:
        connect().receive(b"HTTP/1.1 403 \x9b31m\r\nContent-Length: 0\r\n\r\n")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("answer", [b"SSH-2.0\r\n\r\n", b"\x15\x03", b"H" * 401, b""])
def test_bad_answer_is_typed(answer):
    """Not HTTP, over the limit, or nothing at all: it has no status."""
    with pytest.raises(BadProxyAnswer, match=r"^http://proxy\.example:3128: ") as caught:
        connect().receive(answer)
    assert (caught.value.status, caught.value.proxy) == (None, "http://proxy.example:3128")


@SEARCHED
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=4), st.booleans())
def test_any_bytes_give_a_tunnel_or_a_proxy_error(pieces, good):
    """Whatever comes: a tunnel or a ProxyError, at the end one of them, and nothing more to say."""
    tunnel = connect()
    given_ = [b"HTTP/1.1 ", *pieces] if good else pieces
    try:
        results = [tunnel.receive(piece) for piece in [*given_, b""]]
    except ProxyError:
        return
    assert results[-1].leftover is not None
    assert not any(step.send for step in results)


def cut(data, places):
    """Return the data in pieces, none of them empty."""
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def outcome(handshake, pieces):
    """Return the leftover or the error, for an answer in these pieces and the end behind them."""
    leftover = None
    try:
        for piece in [*pieces, b""]:
            if leftover is not None:
                leftover += piece
                continue
            step = handshake.receive(piece)
            assert (step.send, step.reconnect) == (b"", False)
            leftover = step.leftover
    except BadProxyAnswer:
        return BadProxyAnswer  # h11 names the first fault that it sees: that is no promise of ours
    except ProxyError as error:
        return type(error), str(error), error.status, error.headers, error.body
    return leftover


LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 407 Who\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n",
        b"HTTP/1.1 abc\r\n",
        b"Proxy-Authenticate: Basic realm=x\r\n",
        b"Connection: close\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 300\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: " + b"a" * 200 + b"\r\n",
        b" folded\r\n",
        b"\r\n",
        b"\n",
        b"why",
        b"3\r\nwhy\r\n",
        b"30\r\n" + b"x" * 48 + b"\r\n",
        b"0\r\n\r\n",
    ]
)
"""What answers are made of, and what breaks them."""
ANSWERS = st.lists(LINES | st.binary(max_size=20), max_size=9).map(b"".join)
PLACES = st.lists(st.integers(1, 600), max_size=8)
PROXIES = st.sampled_from([PLAIN, WITH_PASSWORD, Proxy("proxy.example", 3128, token="tok.en")])


@SEARCHED
@given(PROXIES, ANSWERS, PLACES)
def test_outcome_depends_on_the_bytes_alone(proxy, answer, places):
    """However they are cut: the same leftover, or the same refusal with all that it has."""
    whole = outcome(connect(proxy), [answer] if answer else [])
    assert outcome(connect(proxy), cut(answer, places) if answer else []) == whole
    assert outcome(connect(proxy), [bytes([byte]) for byte in answer]) == whole
    assert whole is not None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_credentials_are_in_no_error(answer):
    """Neither in the text, nor in the repr, nor in the traceback."""
    tunnel = connect(Proxy("proxy.example", 3128, "us3r", "s3cret"))
    encoded = base64.b64encode(b"us3r:s3cret").decode()
    with pytest.raises(ProxyError) as caught:
        tunnel.receive(answer)
    shown = repr(tunnel) + repr(caught.value) + "".join(traceback.format_exception(caught.value))
    for secret in ("us3r", "s3cret", encoded):
        assert secret not in shown


# ------------------------------------------------------------------ answers to a 407


def asks(*challenges, body=b"no", extra=b""):
    """Return a 407 with these challenges."""
    lines = b"".join(b"Proxy-Authenticate: " + each + b"\r\n" for each in challenges)
    head = b"HTTP/1.1 407 Who\r\n" + lines + extra
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


DIGEST = b'Digest realm="r", nonce="n1", qop="auth"'
STALE = b'Digest realm="r", nonce="n2", qop="auth", stale=true'


def said(request):
    """Return the scheme of the credentials in a request, "" where there are none."""
    headers = dict(read_by_h11(request).headers)
    return headers.get(b"proxy-authorization", b"").partition(b" ")[0].decode()


def test_password_waits_for_the_question_where_it_is_told_to():
    """Basic as the answer to a 407 and not before."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    assert said(handshake.request) == ""
    step = handshake.receive(asks(b'Basic realm="r"'))
    assert said(step.send) == "Basic"
    assert (step.leftover, step.reconnect) == (None, False)
    assert handshake.receive(OPEN + b"x") == Step(leftover=b"x")


def test_token_is_sent_as_bearer():
    """A token in place of user and password."""
    handshake = connect(Proxy("p", 1, token="tok.en"))
    headers = dict(read_by_h11(handshake.request).headers)
    assert headers[b"proxy-authorization"] == b"Bearer tok.en"
    with pytest.raises(ProxyAuthRefused):
        handshake.receive(asks(b"Bearer"))


@pytest.mark.parametrize("unasked", [True, False])
def test_digest_is_answered_on_the_same_connection(unasked):
    """The proxy keeps the connection: the next CONNECT goes out on it."""
    handshake = connect(WITH_PASSWORD, unasked=unasked)
    step = handshake.receive(asks(DIGEST))
    assert said(step.send) == "Digest"
    assert step.send == handshake.request
    assert b"s3cret" not in step.send
    assert handshake.receive(OPEN) == Step(leftover=b"")


@pytest.mark.parametrize(
    "question",
    [
        asks(DIGEST, extra=b"Connection: close\r\n"),
        asks(DIGEST, extra=b"Proxy-Connection: close\r\n"),
        asks(DIGEST).replace(b"HTTP/1.1", b"HTTP/1.0"),
        asks(DIGEST, body=b"x" * 21),
        asks(DIGEST) + b"more than was asked for",
    ],
    ids=["close", "proxy-close", "1.0", "body over the limit", "more behind it"],
)
def test_digest_is_answered_on_a_new_connection_when_the_proxy_ends_this_one(question):
    """Nothing is sent on the old one, and the request is the one with the answer."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    step = handshake.receive(question)
    assert step == Step(reconnect=True)
    assert said(handshake.request) == "Digest"
    assert handshake.receive(OPEN) == Step(leftover=b"")


def test_question_that_breaks_off_is_answered_on_a_new_connection():
    handshake = connect(WITH_PASSWORD, unasked=False)
    assert handshake.receive(asks(DIGEST)[:-1]) == Step()
    assert handshake.receive(b"") == Step(reconnect=True)
    assert said(handshake.request) == "Digest"


def test_question_without_a_length_is_answered_before_the_connection_ends():
    """Some proxies send no body, and wait."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    question = asks(DIGEST).replace(b"Content-Length: 2\r\n", b"")
    assert handshake.receive(question) == Step(reconnect=True)
    assert said(handshake.request) == "Digest"


def test_question_without_a_length_and_without_an_answer_is_told_with_its_body():
    handshake = connect()
    question = asks(DIGEST).replace(b"Content-Length: 2\r\n", b"")
    assert handshake.refusal() is None
    assert handshake.receive(question) == Step()
    assert handshake.receive(b"more") == Step()
    refusal = handshake.refusal()
    assert isinstance(refusal, ProxyAuthRequired)
    assert refusal.body.endswith(b"more")
    with pytest.raises(ProxyAuthRequired) as caught:
        handshake.receive(b"")
    assert (caught.value.status, caught.value.body) == (407, refusal.body)


def test_tunnel_that_is_open_has_no_refusal():
    handshake = connect()
    assert handshake.receive(OPEN) == Step(leftover=b"")
    assert handshake.refusal() is None


def test_connection_that_was_to_be_kept_and_is_not_is_replaced_once():
    """The end before a byte of the second answer; but not again, and not within the answer."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    assert handshake.receive(asks(DIGEST)).send
    assert handshake.receive(b"") == Step(reconnect=True)
    assert said(handshake.request) == "Digest"
    with pytest.raises(BadProxyAnswer):
        handshake.receive(b"")
    handshake = connect(WITH_PASSWORD, unasked=False)
    assert handshake.receive(asks(DIGEST)).send
    assert handshake.receive(b"H") == Step()
    with pytest.raises(BadProxyAnswer):
        handshake.receive(b"")


def test_stale_nonce_is_answered_once_more_and_then_no_more():
    """A proxy that asks for ever is given up."""
    handshake = connect(WITH_PASSWORD)
    assert said(handshake.receive(asks(DIGEST)).send) == "Digest"
    assert b'nonce="n2"' in handshake.receive(asks(STALE)).send
    with pytest.raises(ProxyAuthRefused) as caught:
        handshake.receive(asks(STALE.replace(b"n2", b"n3")))
    assert caught.value.status == 407


def test_password_is_not_told_after_its_digest_was_refused():
    """Basic beside Digest in the second question is passed over."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    assert said(handshake.receive(asks(DIGEST, b"Basic")).send) == "Digest"
    with pytest.raises(ProxyAuthRefused):
        handshake.receive(asks(DIGEST, b"Basic"))


def test_question_for_what_there_is_not_is_auth_required():
    """Nothing that fits was sent, so nothing was refused."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    with pytest.raises(ProxyAuthRequired):
        handshake.receive(asks(b"Negotiate"))


def test_401_without_credentials_sent_is_no_refusal_of_them():
    """And it gets none (CVE-2026-86414)."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    with pytest.raises(ProxyRefused):
        handshake.receive(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")


def test_malformed_question_is_bad_proxy_answer_only_where_there_is_an_answer():
    """Who has no credentials need not understand the question."""
    broken = asks(b'Digest realm="')
    with pytest.raises(BadProxyAnswer) as caught:
        connect(WITH_PASSWORD, unasked=False).receive(broken)
    assert caught.value.status == 407
    with pytest.raises(ProxyAuthRequired):
        connect().receive(broken)


@given(PLACES, PLACES, st.booleans())
@SEARCHED
def test_question_and_answer_cut_anywhere_are_the_same(questions, answers, kept):
    """What follows depends on the bytes alone; each answer has a place that it ends at."""
    handshake = connect(WITH_PASSWORD, unasked=False)
    question = asks(DIGEST, extra=b"" if kept else b"Connection: close\r\n")
    *before, last = [handshake.receive(piece) for piece in cut(question, questions)]
    assert all(step == Step() for step in before)
    assert (bool(last.send), last.reconnect) == (kept, not kept)
    assert said(handshake.request) == "Digest"
    assert outcome(handshake, cut(OPEN + b"\x16\x03", answers)) == b"\x16\x03"
