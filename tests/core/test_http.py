"""The parts of HTTP heads, and the reader of a request's."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http import (
    Headers,
    Request,
    RequestHeadError,
    RequestHeadReader,
    Response,
    check_header,
    check_reason,
    check_target,
    check_token,
    phrase,
)
from wsframe.errors import InvalidHeader

SEARCHED = settings(max_examples=200, deadline=None, database=None)

HEAD = (
    b"GET /chat?token=s3cret HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nCookie: a=1\r\n\r\n"
)
REST = b"\x81\x85\x00\x00\x00\x00hello\r\n\r\n"


def outcome(pieces, max_size=1024, max_count=10):
    """Feed the pieces; return the status of the error, or the request with its bytes, or None."""
    reader = RequestHeadReader(max_size, max_count, "192.0.2.1")
    for index, piece in enumerate(pieces):
        try:
            complete = reader.receive(piece)
        except RequestHeadError as error:
            return error.status
        if complete is not None:
            request, head, rest = complete
            return request, head, rest + b"".join(pieces[index + 1 :])
    return None


def status_of(head, **limits):
    """Return the status that a head is refused with."""
    result = outcome([head], **limits)
    assert isinstance(result, int), result
    return result


def with_lines(*lines):
    """Return a good head with further header lines."""
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


# ------------------------------------------------------------------ the checks of the parts


@pytest.mark.parametrize("token", ["GET", "x", "Sec-WebSocket-Key", "!#$%&'*+-.^_`|~09azAZ"])
def test_token_is_returned(token):
    """What RFC 9110 §5.6.2 allows is returned as it is."""
    assert check_token(token, "name") == token


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "a:b", "a,b", "é", "a\x00", '"a"', "a/b"])
def test_what_is_no_token_is_refused(text):
    """The error says what the text was to be."""
    with pytest.raises(InvalidHeader, match="the name"):
        check_token(text, "the name")


def test_refused_token_is_not_repeated():
    """A header written as one text has its value in it; only the character at fault is shown."""
    with pytest.raises(InvalidHeader, match="has ':'") as caught:
        check_token("Authorization: Bearer s3cret", "header name")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "char", [chr(n) for n in (*range(9), *range(10, 32), 0x7F, 0x85)] + ["\u2028", "\u2029", "€"]
)
def test_header_value_with_a_line_end_or_control_is_refused(char):
    """Every character that any reader takes for the end of a line is refused, and not repeated."""
    with pytest.raises(InvalidHeader, match="'X-Token'") as caught:
        check_header("X-Token", f"s3cret{char}more")
    assert "s3cret" not in str(caught.value)


def test_header_value_loses_outer_blanks_only():
    """Blanks around a value are not part of it (RFC 9110 §5.5); those within are, as is a tab."""
    assert check_header("A", " \t b\tc é\xa0\t ") == ("A", "b\tc é\xa0")


@pytest.mark.parametrize("reason", ["", "Not Found", "tab\there", "Größe"])
def test_reason_phrase_is_returned(reason):
    """A reason phrase may be empty, and may have blanks and ISO 8859-1."""
    assert check_reason(reason) == reason


@pytest.mark.parametrize("reason", ["a\r\nSet-Cookie: b", "\x1b[31m", "\x00", "\x7f", "\x85", "€"])
def test_reason_phrase_that_cannot_be_sent_is_refused(reason):
    """A reason phrase ends its line only where the line ends."""
    with pytest.raises(InvalidHeader, match="reason phrase"):
        check_reason(reason)


@pytest.mark.parametrize("target", ["/", "//a", "/a?b=%20&c", "/[::1]/~"])
def test_target_is_returned(target):
    """A path with a query in visible ASCII is a request target."""
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target", ["", "*", "a", "http://x/", "/ ", "/\r\nX: y", "/\x00", "/é", "/\x7f", "/a#b", "/\t"]
)
def test_target_that_is_no_path_is_refused(target):
    """Anything else would be another request, or none."""
    with pytest.raises(InvalidHeader, match="request target"):
        check_target(target)


def test_refused_target_is_not_repeated():
    """A query may be a secret."""
    with pytest.raises(InvalidHeader) as caught:
        check_target("/?token=s3cret more")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("status", "text"), [(101, "Switching Protocols"), (404, "Not Found")])
def test_phrase_of_a_registered_status(status, text):
    """The phrase is that of the registry."""
    assert phrase(status) == text


def test_phrase_of_an_unknown_status_is_empty():
    """A status without a name has no phrase."""
    assert phrase(599) == ""


# ------------------------------------------------------------------ Headers


def test_headers_are_found_in_any_case():
    """Field names do not know case (RFC 9110 §5.1)."""
    headers = Headers({"X-One": "1"})
    assert headers["x-ONE"] == "1"
    assert "x-one" in headers
    assert "x-two" not in headers
    assert 1 not in headers


def test_repeated_headers_are_joined_and_kept_apart():
    """`headers[name]` joins, `get_all` does not, `pairs` keeps order and case."""
    pairs = (("A", "1"), ("b", "2"), ("a", "3"))
    headers = Headers(pairs)
    assert headers["a"] == "1, 3"
    assert headers.get_all("A") == ["1", "3"]
    assert headers.get_all("c") == []
    assert headers.pairs == pairs
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2


def test_missing_header_is_a_key_error():
    """As with any mapping."""
    with pytest.raises(KeyError):
        Headers()["a"]


def test_tokens_are_split_at_commas_over_all_fields():
    """Lists may be spread over fields, and have empty members (RFC 9110 §5.6.1)."""
    headers = Headers([("A", " b ,, c\t"), ("a", "d"), ("A", "")])
    assert headers.tokens("A") == ["b", "c", "d"]


def test_headers_are_equal_by_their_pairs():
    """Equal headers have equal hashes; a plain mapping is no Headers."""
    assert Headers({"A": "1"}) == Headers([("A", "1")])
    assert hash(Headers({"A": "1"})) == hash(Headers([("A", "1")]))
    assert Headers({"A": "1"}) != Headers({"A": "2"})
    assert Headers({"A": "1"}) != {"a": "1"}


def test_headers_show_names_only():
    """Values may be secrets."""
    assert repr(Headers({"Cookie": "s3cret", "B": "c"})) == "<Headers Cookie, B>"


# ------------------------------------------------------------------ Request


def test_request_takes_its_target_apart():
    """The path is decoded, the query is not."""
    request = Request("GET", "/a%20b/%C3%A9?c=%20?d", Headers())
    assert (request.path, request.query) == ("/a b/é", "c=%20?d")


def test_request_repr_has_no_query_and_no_line_end():
    """A query may be a secret, and a decoded path may have anything in it."""
    shown = repr(Request("GET", "/a%0d%0a%1b[31m?token=s3cret", Headers(), "192.0.2.1"))
    assert shown == r"<Request GET '/a\r\n\x1b[31m' from 192.0.2.1>"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Upgrade", "websocket"), ("Connection", "Upgrade")], True),
        ([("Upgrade", "h2c, WebSocket"), ("Connection", "keep-alive, UPGRADE")], True),
        ([("Upgrade", "websocket"), ("Connection", "a"), ("Connection", "upgrade")], True),
        ([("Upgrade", "websocket")], False),
        ([("Connection", "Upgrade")], False),
        ([("Upgrade", "websockets"), ("Connection", "Upgrade")], False),
        ([("Upgrade", "websocket"), ("Connection", "keep-alive")], False),
    ],
)
def test_request_is_an_upgrade(headers, expected):
    """Both headers have to name it, as one member of a list, in any case."""
    assert Request("GET", "/", Headers(headers)).is_upgrade is expected


def test_request_subprotocols_keep_their_order():
    """The client's order is its preference."""
    headers = Headers([("Sec-WebSocket-Protocol", "b, a"), ("sec-websocket-protocol", "c")])
    assert Request("GET", "/", headers).subprotocols == ("b", "a", "c")


# ------------------------------------------------------------------ Response


def test_response_text_says_the_phrase():
    """Without a body, the status speaks for itself."""
    response = Response.text(404)
    assert response.body == b"404 Not Found\n"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_response_text_keeps_a_content_type_given():
    """What the caller says goes before the default."""
    response = Response.text(200, "{}", {"content-type": "application/json"})
    assert response.headers.get_all("Content-Type") == ["application/json"]


def test_response_bytes():
    """An answer says its length, and that it is the last."""
    response = Response(403, Headers({"A": "b"}), b"no")
    assert response.encode() == (
        b"HTTP/1.1 403 Forbidden\r\nA: b\r\nX-Content-Type-Options: nosniff\r\n"
        b"Content-Length: 2\r\nConnection: close\r\n\r\nno"
    )
    assert response.encode(with_body=False) == response.encode()[:-2]


def test_response_has_one_length_only():
    """Framing is never what the application says it is."""
    given = [("Content-Length", "999"), ("Transfer-Encoding", "chunked"), ("CONNECTION", "x")]
    head = Response(200, Headers(given), b"no").encode().lower()
    assert head.count(b"content-length") == head.count(b"connection:") == 1
    assert b"content-length: 2\r\n" in head
    assert b"transfer-encoding" not in head


def test_response_keeps_the_option_that_was_given():
    """X-Content-Type-Options is said once."""
    response = Response(200, Headers({"x-content-type-options": "other"}))
    assert response.encode().lower().count(b"x-content-type-options") == 1


@pytest.mark.parametrize("status", [101, 204, 304])
def test_response_without_a_body_by_its_status(status):
    """These end with their head, and what follows would be another answer (RFC 9110 §6.4.1)."""
    encoded = Response(status, body=b"HTTP/1.1 200 OK").encode()
    assert encoded.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in encoded


def test_response_with_upgrade_names_it_in_connection():
    """RFC 9110 §7.8; 426 has to say what to upgrade to."""
    encoded = Response.text(426, headers={"Upgrade": "websocket"}).encode()
    assert b"\r\nConnection: Upgrade, close\r\n" in encoded


def test_response_uses_the_reason_given():
    """A reason of one's own takes the place of the phrase; an empty one too."""
    assert Response(200, reason="Fine").encode().startswith(b"HTTP/1.1 200 Fine\r\n")
    assert Response(200, reason="").encode().startswith(b"HTTP/1.1 200 \r\n")


@pytest.mark.parametrize("headers", [{"A": "b"}, [("A", "b")]])
def test_response_accepts_pairs_and_mappings(headers):
    """They are checked like any other headers."""
    assert Response(200, headers).headers == Headers({"A": "b"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response(99),
        lambda: Response(600),
        lambda: Response(200, {"A": "b\r\nC: d"}),
        lambda: Response(200, reason="a\r\nb"),
        lambda: Response(200, reason="→"),
        lambda: Response.text(200, headers={"A\r\n": "b"}),
    ],
)
def test_response_that_cannot_be_sent_is_refused_when_made(make):
    """Nothing is left to go wrong in `encode`."""
    with pytest.raises(ValueError, match=r"."):
        make()


def test_response_body_is_bytes():
    """A text would fail only after the head was written."""
    with pytest.raises(TypeError, match="bytes, not str"):
        Response(200, body="text")


# ------------------------------------------------------------------ RequestHeadReader


def test_reader_returns_request_head_and_rest():
    """What is behind the head is not looked at."""
    request, head, rest = outcome([HEAD + REST])
    assert (request.method, request.target, request.peer) == (
        "GET",
        "/chat?token=s3cret",
        "192.0.2.1",
    )
    assert request.headers["connection"] == "keep-alive, Upgrade"
    assert (head, rest) == (HEAD, REST)


def test_reader_gives_the_same_at_every_split_point():
    """Two pieces, cut anywhere, and single bytes: the same request and the same rest."""
    whole = outcome([HEAD + REST])
    data = HEAD + REST
    for cut in range(len(data) + 1):
        assert outcome([data[:cut], data[cut:]]) == whole
    assert outcome([data[i : i + 1] for i in range(len(data))]) == whole


FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\n",
        b"POST /a HTTP/1.0\r\n",
        b"Host: x\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"A: b\x85\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 1\r\n",
        b" folded\r\n",
        b"X" * 40,
        b"\x16\x03\x01",
    ]
)
BYTES = st.one_of(st.binary(max_size=60), st.lists(FRAGMENTS, max_size=8).map(b"".join))


@SEARCHED
@given(BYTES, st.lists(st.integers(0, 130), max_size=5))
def test_reader_gives_the_same_for_any_bytes_however_cut(data, cuts):
    """Any bytes give a request, nothing, or a RequestHeadError, the same for every split."""
    limits = {"max_size": 100, "max_count": 3}
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole = outcome([data], **limits)
    assert outcome(pieces, **limits) == whole
    assert whole is None or isinstance(whole, tuple) or 400 <= whole < 600


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (with_lines(b"Host: y"), 400),
        (with_lines(b"no colon"), 400),
        (with_lines(b" folded: x"), 400),
        (with_lines(b"A : b"), 400),
        (with_lines(b": b"), 400),
        (with_lines(b"A: b\x00"), 400),
        (with_lines(b"A: b\nC: d"), 400),
        (with_lines(b"A: b\rC: d"), 400),
        (with_lines(b"A: b\x85C: d"), 400),
        (with_lines(b"A: b\x0bC: d"), 400),
        (with_lines(b"A: b\x1cC: d"), 400),
        (with_lines(b"A\xe9: b"), 400),
        (with_lines(b"Transfer-Encoding: chunked"), 501),
        (with_lines(b"Transfer-Encoding: identity", b"Content-Length: 0"), 501),
        (with_lines(b"Content-Length: 5"), 413),
        (with_lines(b"Content-Length: 0", b"Content-Length: 5"), 413),
        (with_lines(b"Content-Length: +0"), 413),
        (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTX/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\r\nHost: x\r\n\r\n", 400),
        (b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ],
)
def test_reader_refuses(head, status):
    """Each malformed or unwanted head has its status."""
    assert status_of(head) == status


@pytest.mark.parametrize("head", [with_lines(b"Content-Length: 0"), HEAD.replace(b"GET", b"HEAD")])
def test_reader_accepts(head):
    """A length of nothing is no body; HEAD is for health checks."""
    assert isinstance(outcome([head]), tuple)


@pytest.mark.parametrize("start", [b"\x16\x03\x01", b"\r\n", b"get /", b" GET", b"\x00"])
def test_reader_refuses_at_the_first_byte(start):
    """What cannot be a request need not be waited for."""
    assert status_of(start[:1]) == status_of(start) == 400


def test_reader_limits_the_size_exactly():
    """A head of max_size bytes is read, one more byte is 431; the bytes behind do not count."""
    assert isinstance(outcome([HEAD + REST * 9], max_size=len(HEAD)), tuple)
    assert status_of(HEAD, max_size=len(HEAD) - 1) == 431


def test_reader_refuses_an_endless_head_at_the_limit():
    """As soon as the limit is passed, whatever is still to come."""
    reader = RequestHeadReader(100, 10)
    assert reader.receive(b"G" * 100) is None
    with pytest.raises(RequestHeadError) as caught:
        reader.receive(b"G")
    assert caught.value.status == 431


def test_reader_limits_the_number_of_fields_exactly():
    """max_count fields are read, one more is 431."""
    assert isinstance(outcome([with_lines(b"A: b")], max_count=2), tuple)
    assert status_of(with_lines(b"A: b", b"C: d"), max_count=2) == 431


def test_reader_errors_repeat_no_value():
    """The errors are sent to the client and logged."""
    for line in (b"Cookie: s3cret\x00", b"Cookie : s3cret", b"Cookie s3cret"):
        with pytest.raises(RequestHeadError) as caught:
            RequestHeadReader(1024, 10).receive(with_lines(line))
        assert "s3cret" not in str(caught.value)


class CountingBuffer(bytearray):
    """A buffer that counts the bytes that searches have to look at."""

    looked_at = 0

    def find(self, what, start=0):
        """Count what is behind `start`."""
        self.looked_at += len(self) - start
        return super().find(what, start)


def test_reader_time_is_linear_in_a_dripped_head():
    """Dripped byte by byte, each byte is searched at most a few times."""
    reader = RequestHeadReader(20_000, 10)
    buffer = reader._data = CountingBuffer()
    for _ in range(10_000):
        assert reader.receive(b"G") is None
    assert reader._data is buffer
    assert buffer.looked_at <= 5 * 10_000


# ---------------------------------------------------------------------------------- packed heads

PAIRS = (
    ("Host", "a:1"),
    ("X-Empty", ""),
    ("Cookie", "a=b: c"),
    ("cookie", "d"),
    ("X", "\xe9 \t y"),
)


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1], ()])
def test_packed_headers_say_the_same_in_less_room(pairs: Any) -> None:
    packed, plain = Headers(pairs), Headers(pairs)
    packed.pack()
    packed.pack()

    assert packed == plain
    assert hash(packed) == hash(plain)
    assert packed.pairs == pairs
    assert dict(packed) == dict(plain)
    assert list(packed) == list(plain)
    assert len(packed) == len(plain)
    assert repr(packed) == repr(plain)
    assert packed.get_all("COOKIE") == plain.get_all("COOKIE")
    assert packed.tokens("Cookie") == plain.tokens("Cookie")
    assert ("host" in packed) == ("host" in plain)
    assert packed._pairs == ()  # nothing was unpacked for good
    assert packed._index is None


@given(
    st.lists(
        st.tuples(
            st.text("ab-Z_!", min_size=1, max_size=5),
            st.text(st.characters(max_codepoint=0xFF), max_size=8),
        ),
        max_size=6,
    )
)
def test_the_lines_of_a_head_are_read_as_their_pairs_are_checked(
    pairs: list[tuple[str, str]],
) -> None:
    """The quick way for a line that is good is no other way."""
    lines = [f"{name}:{value}" for name, value in pairs]

    def outcome(make: Any) -> Any:
        try:
            return make().pairs
        except InvalidHeader as error:
            return str(error)

    assert outcome(lambda: Headers.parse(lines)) == outcome(lambda: Headers(pairs))


def test_a_line_without_a_colon_is_no_header() -> None:
    with pytest.raises(InvalidHeader, match="no colon"):
        Headers.parse(["Host: a", "nothing"])


def test_the_head_is_there_once_it_is_complete() -> None:
    reader = RequestHeadReader(1000, 10)
    reader.receive(b"GET / HTTP/1.1\r\nHo")
    assert reader.raw == b""
    reader.receive(b"st: a\r\n\r\nrest")
    assert reader.raw == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
