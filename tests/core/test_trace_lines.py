"""What records look like, in text and in JSON, and that no peer writes a line of its own."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.trace import Body, Broken, End, Frame, Head, Start
from wsframe.core.trace_lines import LINES, escape, limit_line

SEARCHED = settings(max_examples=300, deadline=None, database=None)
AT = 1_700_000_000.25
TIME = "2023-11-14T22:13:20.250Z"
REQUEST = b"GET /a?b=c HTTP/1.1\r\nhOST: example.org\r\nX:  y z \r\n\r\n"
REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\nA:\r\nno colon\r\n\r\n"


def head(raw, *, is_request=True, complete=True, secure=False):
    return Head(AT, is_request, is_request, raw, complete, secure)


def frame(opcode, start, *, length=None, is_sent=False, fin=True, rsv=0, masked=False, text=False):
    length = len(start) if length is None else length
    cut = length > len(start)
    return Frame(AT, is_sent, opcode, fin, rsv, masked, length, start, cut, text)


def text(record):
    """Return the lines without what all of them begin with."""
    lines = LINES["text"](7, record)
    assert all(line.startswith(f"{TIME} 7 ") for line in lines)
    return [line.removeprefix(f"{TIME} 7 ") for line in lines]


def as_json(record):
    (line,) = LINES["json"](7, record)
    fields = json.loads(line)
    assert fields.pop("_connection") == 7
    return fields


# ---------------------------------------------------------------- text


def test_a_head_is_a_line_for_each_of_its_own():
    assert text(head(REQUEST)) == [
        "> GET /a?b=c HTTP/1.1",
        "> hOST: example.org",
        "> X:  y z ",
        ">",
    ]
    assert text(head(b"SSH-2.0\x00\r\n", is_request=False, complete=False)) == [
        "< SSH-2.0\\x00",
        "< [the head is incomplete]",
    ]
    assert text(head(b"a\n\nb", is_request=False)) == ["< a", "<", "< b"]


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (Start(AT, "client", "tcp4:192.0.2.1:80", False), "[connected] to tcp4:192.0.2.1:80"),
        (Start(AT, "server", "unix:x\n", True), "[open] from unix:x\\n"),
        (Body(AT, False, False, b"sorry\n", False), "< [body] sorry\\n"),
        (Body(AT, True, True, b"\xff\x1b[2J", True), "> [body] \\xff\\x1b[2J ..."),
        (frame(1, b"hi", text=True), "< [text fin, 2 bytes] hi"),
        (frame(1, b"", text=True), "< [text fin, 0 bytes]"),
        (frame(1, "Grüße, 世界".encode(), text=True), "< [text fin, 15 bytes] Grüße, 世界"),
        (frame(0, b"x", fin=False, is_sent=True), "> [continuation, 1 byte] 78"),
        (frame(2, b"\x00\xff", masked=True), "< [binary fin masked, 2 bytes] 00ff"),
        (frame(1, b"\x01", rsv=4), "< [text fin rsv1, 1 byte] 01"),
        (frame(11, b"", rsv=7), "< [opcode 11 fin rsv1 rsv2 rsv3, 0 bytes]"),
        (frame(2, b"\x01", length=1000), "< [binary fin, 1000 bytes] 01 ..."),
        (frame(8, b"\x03\xe8bye\n"), "< [close fin, 6 bytes] 1000 bye\\n"),
        (frame(8, b""), "< [close fin, 0 bytes]"),
        (frame(8, b"\x03"), "< [close fin, 1 byte] 03"),
        (frame(9, b"ab"), "< [ping fin, 2 bytes] 6162"),
        (Broken(AT, False, 3), "< [the frame's last 3 bytes did not come]"),
        (Broken(AT, True, None), "> [the frame's head did not come]"),
        (End(AT, 1000, "", "local", True), "[ended] 1000 cleanly by local"),
        (End(AT, 1006, "lost\x1b", None, False), "[ended] 1006 not cleanly lost\\x1b"),
    ],
)
def test_everything_else_is_one_line(record, line):
    assert text(record) == [line]


@pytest.mark.parametrize("size", range(1, 10))
def test_a_text_that_is_cut_off_ends_with_a_whole_character(size):
    whole = "aé€😀".encode()
    cut = frame(1, whole[:size], length=20, text=True)
    shown = whole[:size].decode(errors="ignore")
    assert text(cut) == [f"< [text fin, 20 bytes] {shown} ..."]
    assert as_json(cut)["_webSocketMessages"][0]["data"] == shown


@pytest.mark.parametrize("payload", [b"\x80\x80\x80\x80\x80", b"a\xff"])
def test_a_text_that_is_no_utf8_is_shown_byte_by_byte(payload):
    shown = payload.decode("ascii", "backslashreplace")
    assert text(frame(1, payload, length=9, text=True))[0].startswith(
        f"< [text fin, 9 bytes] {shown}" if payload[-1] == 0x80 else "< [text fin, 9 bytes] a"
    )
    (message,) = as_json(frame(1, payload, text=True))["_webSocketMessages"]
    assert base64.b64decode(message["data"]) == payload
    assert message["_encoding"] == "base64"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("plain ä 世", "plain ä 世"),
        ("a\\nb", "a\\\\nb"),
        ("\n\r\t\0\x1b\x7f", "\\n\\r\\t\\x00\\x1b\\x7f"),
        ("\x85\u2028\u202e\ufeff", "\\u0085\\u2028\\u202e\\ufeff"),
        ("\U000e0001", "\\U000e0001"),
        (b"\xff".decode("utf-8", "surrogateescape"), "\\xff"),
    ],
)
def test_what_is_not_printable_is_escaped(given, expected):
    assert escape(given) == expected


# ---------------------------------------------------------------- JSON


def test_a_request_is_in_the_words_of_har():
    assert as_json(head(REQUEST, secure=True)) == {
        "request": {
            "_time": AT,
            "method": "GET",
            "url": "wss://example.org/a?b=c",
            "httpVersion": "HTTP/1.1",
            "headers": [
                {"name": "hOST", "value": "example.org"},
                {"name": "X", "value": "y z"},
            ],
            "headersSize": len(REQUEST),
        }
    }


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "/"),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "http://b/"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "/"),
        (b"GET / HTTP/1.1\r\nHost: a:81\r\n\r\n", "ws://a:81/"),
    ],
)
def test_the_url_is_absolute_where_the_head_says_the_host(raw, url):
    assert as_json(head(raw))["request"]["url"] == url


def test_an_answer_is_in_the_words_of_har():
    assert as_json(head(REFUSAL, is_request=False)) == {
        "response": {
            "_time": AT,
            "status": 502,
            "statusText": "Bad Gateway",
            "httpVersion": "HTTP/1.1",
            "headers": [{"name": "A", "value": ""}, {"name": "", "value": "no colon"}],
            "headersSize": len(REFUSAL),
        }
    }
    garbage = as_json(head(b"SSH-2.0-x\r\n", is_request=False, complete=False))["response"]
    assert (garbage["status"], garbage["statusText"]) == (0, "SSH-2.0-x")
    assert garbage["_incomplete"] is True


def test_a_frame_is_as_chrome_writes_it():
    assert as_json(frame(1, b"hi", is_sent=True, masked=True, text=True)) == {
        "_webSocketMessages": [
            {
                "type": "send",
                "time": AT,
                "opcode": 1,
                "data": "hi",
                "_fin": True,
                "_rsv": 0,
                "_masked": True,
                "_length": 2,
                "_cut": False,
            }
        ]
    }
    (message,) = as_json(frame(2, b"\xff", length=9))["_webSocketMessages"]
    assert (message["type"], message["data"], message["_encoding"]) == ("receive", "/w==", "base64")
    assert (message["_length"], message["_cut"]) == (9, True)


def test_the_lines_of_a_connection_together_are_an_entry():
    assert as_json(Start(AT, "client", "peer", False)) == {
        "startedDateTime": TIME,
        "_role": "client",
        "_peer": "peer",
        "_open": False,
    }
    assert as_json(Body(AT, False, False, b"no", True)) == {
        "response": {"content": {"text": "no", "_cut": True}}
    }
    assert as_json(Body(AT, True, True, b"\xff", False)) == {
        "request": {"content": {"text": "/w==", "encoding": "base64", "_cut": False}}
    }
    assert as_json(Broken(AT, False, 3))["_broken"] == {"time": AT, "type": "receive", "missing": 3}
    assert as_json(End(AT, 1001, "bye", "remote", True))["_end"] == {
        "time": AT,
        "code": 1001,
        "reason": "bye",
        "by": "remote",
        "clean": True,
    }


def test_the_last_line_tells_of_the_limit():
    assert limit_line("text", AT, 5) == f"{TIME} - [the trace ends: max_bytes=5 is reached]"
    assert json.loads(limit_line("json", AT, 5)) == {"_limit": {"time": AT, "max_bytes": 5}}


# ---------------------------------------------------------------- whatever a peer sends

ANY_TEXT = st.text()
RECORDS = st.one_of(
    st.builds(head, st.binary(), is_request=st.booleans(), complete=st.booleans()),
    st.binary().map(lambda raw: head(b"HTTP/1.1 \xb2\xb2\xb2 " + raw, is_request=False)),
    st.builds(Body, st.just(AT), st.booleans(), st.booleans(), st.binary(), st.booleans()),
    st.builds(
        frame,
        st.integers(0, 15),
        st.one_of(st.binary(), ANY_TEXT.map(lambda t: t.encode("utf-8", "surrogatepass"))),
        length=st.integers(300, 400),
        text=st.booleans(),
    ),
    st.builds(Start, st.just(AT), st.just("client"), ANY_TEXT, st.booleans()),
    st.builds(End, st.just(AT), st.integers(), ANY_TEXT, st.none(), st.booleans()),
)


@SEARCHED
@given(RECORDS)
def test_a_line_of_text_begins_as_ours_and_has_nothing_that_is_not_printable(record):
    for line in LINES["text"](7, record):
        assert line.startswith(f"{TIME} 7 ")
        assert line.isprintable()


@SEARCHED
@given(RECORDS)
def test_a_line_of_json_is_one_object_in_visible_ascii(record):
    (line,) = LINES["json"](7, record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["_connection"] == 7


@SEARCHED
@given(st.binary(), st.binary())
def test_different_bytes_look_different(one, other):
    shown = [escape(data.decode("utf-8", "surrogateescape")) for data in (one, other)]
    assert (shown[0] == shown[1]) == (one == other)
