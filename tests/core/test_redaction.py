"""Planted secrets are found nowhere; everything else stays as it was."""

import base64
import re
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.redaction import MAX_SECRETS, Redaction
from wsframe.core.trace import Body, End, Frame, Head

SEARCHED = settings(max_examples=300, deadline=None, database=None)
SECRET = "pl4nted-S3cret.0123"
ENCODED = base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")
BASIC = base64.b64encode(f"user:{SECRET}".encode()).decode()


def head(raw):
    return Head(0.0, True, True, raw.encode("latin-1"), True, False)


def redacted(raw, redaction=None):
    """Return what is left of a head."""
    return (redaction or Redaction()).apply(head(raw)).raw.decode("latin-1")


def line(header):
    """Return what is left of one header."""
    start = "GET / HTTP/1.1\r\n"
    shown = redacted(f"{start}{header}\r\n\r\n")
    assert shown.startswith(start)
    assert shown.endswith("\r\n\r\n")
    return shown[len(start) : -4]


HIDDEN = {
    f"Authorization: Bearer {SECRET}": "Authorization: Bearer ***",
    f"aUTHORIZATION:Bearer {SECRET}": "aUTHORIZATION:Bearer ***",
    f"Authorization:\t {SECRET} ": "Authorization:\t ***",
    f"Authorization : Basic {BASIC}": "Authorization : Basic ***",
    f'Authorization: Digest username="u", response="{SECRET}"': "Authorization: Digest ***",
    f"Proxy-Authorization: Negotiate {ENCODED}": "Proxy-Authorization: Negotiate ***",
    f"Cookie: a={SECRET}; b=c=d; {SECRET}": "Cookie: a=***; b=***; ***",
    f'Cookie: a="x;{SECRET}"; {SECRET}=': "Cookie: a=***;***; ***",
    f"Cookie: {SECRET}==": "Cookie: ***",
    f"Set-Cookie: {SECRET}==; Secure": "Set-Cookie: ***; Secure",
    f"Set-Cookie: sid=; Max-Age=0; {SECRET}=": "Set-Cookie: sid=; Max-Age=0; ***",
    f"Set-Cookie: sid={SECRET}; Path=/; Max-Age=5; HttpOnly; {SECRET}": (
        "Set-Cookie: sid=***; Path=/; Max-Age=5; HttpOnly; ***"
    ),
    f"X-Monitor-Token: {SECRET}": "X-Monitor-Token: ***",
    f"X-Api-Key: {SECRET}": "X-Api-Key: ***",
    f"apikey: {SECRET}": "apikey: ***",
    f"api_key: {SECRET}": "api_key: ***",
    f"Cf-Access-Jwt-Assertion: {SECRET}": "Cf-Access-Jwt-Assertion: ***",
    f"X-Session-Id: {SECRET}": "X-Session-Id: ***",
    f"X-Password: {SECRET}": "X-Password: ***",
    f"X-CSRF: {SECRET}": "X-CSRF: ***",
    f"Authentication-Info: rspauth={SECRET}": "Authentication-Info: ***",
    f"Sec-WebSocket-Protocol: chat, bearer.{ENCODED}": "Sec-WebSocket-Protocol: chat, bearer.***",
    f"Sec-WebSocket-Protocol: access_token, {SECRET}, chat": (
        "Sec-WebSocket-Protocol: access_token, ***, chat"
    ),
    f"sec-websocket-protocol: base64url.bearer.authorization.k8s.io.{ENCODED},v4": (
        "sec-websocket-protocol: base64url.bearer.authorization.***,v4"
    ),
    f"Sec-WebSocket-Protocol: {SECRET}{SECRET}": "Sec-WebSocket-Protocol: ***",
    f"Sec-WebSocket-Protocol: realtime, api-key.{SECRET}": (
        "Sec-WebSocket-Protocol: realtime, api-key.***"
    ),
    f"Location: https://b/path?code={SECRET}&state=": "Location: https://b/path?code=***&***",
    f"Location: //user:{SECRET}@b/#access_token={SECRET}": "Location: //***@b/#***",
    f"Referer: https://a/?{SECRET}": "Referer: https://a/?***",
    f"X-Original-URI: /ws?token={SECRET}": "X-Original-URI: /ws?token=***",
    f"Link: <https://a/?a={SECRET}>; rel=next": "Link: <https://a/?a=***",
    f"X-Error: bad Bearer {SECRET}, sorry": "X-Error: bad Bearer ***, sorry",
    f"WWW-Authenticate: Negotiate {ENCODED}": "WWW-Authenticate: Negotiate ***",
}


@pytest.mark.parametrize("header", HIDDEN)
def test_a_header_loses_its_secret_and_nothing_else(header):
    assert line(header) == HIDDEN[header]
    for planted in (SECRET, ENCODED, BASIC):
        assert planted not in HIDDEN[header]


@pytest.mark.parametrize(
    "header",
    [
        "Host: example.org:8080",
        "hOST:   example.org",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: graphql-transport-ws, v12.stomp,chat",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Origin: https://app.example.org",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) what?",
        'WWW-Authenticate: Bearer realm="a Bearer token", error="invalid_token"',
        'Proxy-Authenticate: Basic realm="proxy"',
        "WWW-Authenticate: Negotiate",
        "Sec-CH-UA-Mobile: ?0",
        "Location: /elsewhere",
        "X-Empty-Token: ",
        "Cookie:",
        "Server: nginx/1.25",
        "no colon here",
        "Retry-After: 5",
    ],
)
def test_a_header_without_a_secret_is_as_it_was(header):
    assert line(header) == header


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/a?", "/a?"),
        ("/a?b=1&c=2", "/a?b=***&c=***"),
        (f"/a?token={SECRET}", "/a?token=***"),
        (f"/a?{SECRET}", "/a?***"),
        (f"/a?{ENCODED}==", "/a?***"),
        (f"/a?b='{SECRET}\">?c", "/a?b=***"),
        ("/a?b=&c", "/a?***&***"),
        (f"ws://u:{SECRET}@a/", "ws://***@a/"),
        ("*", "*"),
    ],
)
def test_the_request_target_keeps_its_path_and_the_names_of_its_query(target, shown):
    assert redacted(f"GET {target} HTTP/1.1\r\n\r\n") == f"GET {shown} HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\r\n ", "\n\t", "\r\n\t:"])
def test_a_secret_goes_on_behind_what_only_some_parsers_take_for_the_end(end):
    shown = redacted(
        f"GET / HTTP/1.1\r\nAuthorization: Bearer abcdefgh{end}{SECRET}\r\nA: b\r\n\r\n"
    )
    assert "abcdefgh" not in shown
    assert SECRET not in shown
    assert shown.endswith("A: b\r\n\r\n")


@pytest.mark.parametrize("value", ["", " chat,", " access_token,", "\t"])
@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "Cookie", "Authorization"])
@pytest.mark.parametrize("end", ["\x85", "\r\n ", "\n\t"])
def test_a_secret_may_stand_on_a_folded_line_alone(name, value, end):
    shown = redacted(f"GET / HTTP/1.1\r\n{name}:{value}{end}{SECRET}\r\nA: b \r\n\r\n")
    assert SECRET not in shown
    assert shown.endswith("***\r\nA: b \r\n\r\n")


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x85", "\n"])
def test_a_header_that_only_some_parsers_see_is_redacted_too(end):
    shown = redacted(f"GET / HTTP/1.1\r\nX: y{end}Cookie: a={SECRET}\r\n\r\n")
    assert shown == f"GET / HTTP/1.1\r\nX: y{end}Cookie: a=***\r\n\r\n"


def test_a_status_line_may_have_a_secret_too():
    raw = f"HTTP/1.1 401 Not Bearer {SECRET}\r\n\r\n"
    assert redacted(raw) == "HTTP/1.1 401 Not Bearer ***\r\n\r\n"


# ---------------------------------------------------------------- said again


def learnt():
    """Return a redaction that has seen one head with secrets of every kind."""
    redaction = Redaction()
    redaction.apply(
        head(
            f"GET /?q={quote('quer y+s3cret')}&transport=websocket HTTP/1.1\r\n"
            f"Authorization: Basic {BASIC}\r\nCookie: sid=C00kie-value\r\n"
            f"Sec-WebSocket-Protocol: bearer.{base64.b64encode(b'subprotocol').decode()}\r\n\r\n"
        )
    )
    return redaction


SAID_AGAIN = [SECRET, BASIC, f"user:{SECRET}", "C00kie-value", "quer y+s3cret", "subprotocol"]


@pytest.mark.parametrize("secret", SAID_AGAIN)
def test_what_was_secret_in_a_head_is_secret_in_the_answer_and_behind_it(secret):
    redaction = learnt()
    body = f"no entry with {secret}!".encode()
    assert redaction.apply(Body(0.0, False, False, body, False)).start == b"no entry with ***!"
    frame = Frame(0.0, False, 1, True, 0, False, len(body), body, False, True)
    assert redaction.apply(frame).start == b"no entry with ***!"
    answer = f"HTTP/1.1 401 {secret}\r\nX-Echo: {secret}\r\nUpgrade: websocket\r\n\r\n"
    assert redacted(answer, redaction) == (
        "HTTP/1.1 401 ***\r\nX-Echo: ***\r\nUpgrade: websocket\r\n\r\n"
    )


@pytest.mark.parametrize("size", range(1, len(SECRET)))
def test_a_secret_that_is_cut_off_does_not_show_its_beginning(size):
    body = f"token: {SECRET[:size]}".encode()
    cut = learnt().apply(Body(0.0, False, False, body, True))
    assert cut.start == b"token: "
    whole = learnt().apply(Body(0.0, False, False, body, False))
    assert whole.start == body  # it is not the secret


def test_a_common_word_is_not_taken_for_a_secret():
    body = b"use the transport websocket"
    assert learnt().apply(Body(0.0, False, False, body, False)).start == body


@pytest.mark.parametrize("name", ["token", "password", "api_key", "apikey", "access_token", "key"])
def test_a_word_is_a_secret_where_its_name_says_so(name):
    redaction = Redaction()
    redacted(f"GET /?{name}=swordfish HTTP/1.1\r\n\r\n", redaction)
    shown = redaction.apply(Body(0.0, False, False, b"no swordfish here", False))
    assert shown.start == b"no *** here"


def test_the_reason_of_the_end_repeats_no_secret():
    redaction = Redaction()
    redacted(f"GET / HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\n\r\n", redaction)
    end = redaction.apply(End(0.0, 1008, f"not {SECRET}, \xe9", "remote", True))
    assert end.reason == "not ***, \xe9"


def test_secrets_that_are_learnt_are_bounded():
    redaction = Redaction()
    cookies = "; ".join(f"n={index:06}" for index in range(MAX_SECRETS * 2))
    shown = redacted(f"GET / HTTP/1.1\r\nCookie: {cookies}\r\n\r\n", redaction)
    assert not re.search("[0-9]{6}", shown)
    assert repr(redaction) == f"<Redaction of {MAX_SECRETS} secrets>"


@SEARCHED
@given(st.binary(max_size=300))
def test_any_bytes_are_taken_and_what_is_short_stays(raw):
    shown = Redaction().apply(Head(0.0, False, False, raw, False, False)).raw
    assert len(shown) <= len(raw) * 3 + 3


# An equals sign behind it would make it a name, and names are shown.
AROUND = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n="), max_size=20)
BEFORE = ["Authorization: ", "Cookie: a=", "Set-Cookie: a=", "X-Token: ", "Location: /?a="]


@SEARCHED
@given(st.sampled_from(BEFORE), AROUND, AROUND)
def test_nothing_around_it_gives_a_planted_secret_away(name, before, after):
    raw = f"GET / HTTP/1.1\r\n{name}{before}{SECRET}{after}\r\nA: b\r\n\r\n"
    assert SECRET not in redacted(raw)
