"""Answers to a 407: what a proxy's challenges are, which one is answered, how, and how often."""

import contextlib
import hashlib
import re
import time
import traceback
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.http import Headers, check_header
from wsframe.core.proxy import Proxy
from wsframe.core.proxy_auth import (
    BadChallenge,
    Challenge,
    Credentials,
    ProxyAuth,
    digest_credentials,
    parse_challenges,
)
from wsframe.errors import BadProxyAnswer, InvalidProxy

SEARCHED = settings(max_examples=200, deadline=None, database=None)
TARGET = "example.org:443"
BASIC = 'Basic realm="r"'
DIGEST = 'Digest realm="r", nonce="n1", qop="auth"'
SHA_256 = f"{DIGEST}, algorithm=SHA-256"
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
needs_sha512_256 = pytest.mark.skipif(
    "sha512_256" not in hashlib.algorithms_available, reason="OpenSSL has no SHA-512/256 here"
)


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324 - Digest's own


def auth(user="alice", password="s3cret", **options):
    proxy = Proxy("proxy.example", 3128, user, password, **options)
    return ProxyAuth(proxy, TARGET, cnonce=lambda: "c")


def asked(*values, more=()):
    """Return the headers of a 407."""
    return Headers([*(("Proxy-Authenticate", value) for value in values), *more])


def answered(this, *values):
    """Return the scheme of the answer, None when there is none."""
    credentials = this.answer(asked(*values))
    return None if credentials is None else credentials.value.partition(" ")[0]


def params(value):
    """Return the parameters of an answer as an independent reader finds them."""
    scheme, _, rest = value.partition(" ")
    assert scheme == "Digest"
    return urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))


def digest(challenge, user="Mufasa", password="Circle of Life", **options):
    (parsed,) = parse_challenges([challenge])
    request = {"method": "GET", "uri": "/dir/index.html", "cnonce": "c", **options}
    return digest_credentials(parsed, user=user, password=password, **request)


# --- challenges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "challenges"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["Basic"], [("basic", {}, "")]),
        (["Basic, NTLM,Negotiate"], [("basic", {}, ""), ("ntlm", {}, ""), ("negotiate", {}, "")]),
        (['BASIC REALM="a, b"'], [("basic", {"realm": "a, b"}, "")]),
        (['Basic realm="a\\"b\\\\c", x=y'], [("basic", {"realm": 'a"b\\c', "x": "y"}, "")]),
        (
            ["Basic realm = x ,\tcharset\t=\tUTF-8"],
            [("basic", {"realm": "x", "charset": "UTF-8"}, "")],
        ),
        (["Basic realm=My Proxy"], [("basic", {"realm": "My Proxy"}, "")]),
        (["Digest opaque=abc==, nonce="], [("digest", {"opaque": "abc==", "nonce": ""}, "")]),
        (["NTLM TlRMTVNTUAACAAAA=="], [("ntlm", {}, "TlRMTVNTUAACAAAA==")]),
        (
            ['New a="1", b=2, Negotiate abc=, Basic realm="r"', 'Digest nonce="n"'],
            [
                ("new", {"a": "1", "b": "2"}, ""),
                ("negotiate", {}, "abc="),
                ("basic", {"realm": "r"}, ""),
                ("digest", {"nonce": "n"}, ""),
            ],
        ),
        (['Basic realm="gr\xc3\xbc\xc3\x9fe"'], [("basic", {"realm": "gr\xc3\xbc\xc3\x9fe"}, "")]),
    ],
)
def test_challenges(values, challenges):
    """Several fields, several challenges in one field, in order; names are in lower case."""
    assert parse_challenges(values) == tuple(Challenge(*parts) for parts in challenges)


@pytest.mark.parametrize(
    "value",
    [
        'Basic realm="',
        'Basic realm="a\\"',
        'Basic realm="a" b',
        'Basic "a"',
        'Basic realm="a"b"',
        "realm=x",
        '"Basic"',
        "=x",
        "Basic a b",
        "Basic =x",
        'Digest realm="a", realm="b"',
        'Digest nonce="a", NONCE="b"',
        "NTLM abc==, realm=x",
        "Basic realm=a\0",
        'Basic realm="a\r\nX: y"',
        'Basic realm="a\n"',
        'Basic realm="\x85"',
        'Basic realm="\x7f"',
        'Basic realm="\x1b[31m"',
        'Basic realm="\u0100"',
        "Basic @",
        "B\xe4sic",
    ],
)
def test_malformed_challenge_is_refused(value):
    """What has two readings or none; the error quotes nothing of it."""
    with pytest.raises(BadChallenge) as caught:
        parse_challenges([BASIC, value])
    assert re.fullmatch(r"(a|the) challenges? [a-z ]+", str(caught.value))


def test_challenges_have_a_limit_together():
    """A real one has some hundred characters."""
    assert len(parse_challenges(["a" * 8192, "b" * 8192])) == 2
    with pytest.raises(BadChallenge, match="too large"):
        parse_challenges(["a" * 8192, "b" * 8193])


@pytest.mark.parametrize(
    "part", ['"', "\\", '"\\', "a", "a=", ",", " ", '"",', '""', "a b", 'a="\\"', "=", "a ,", "\t="]
)
def test_hostile_challenge_takes_linear_time(part):
    """However it is repeated: hundredths of a second, and seconds where it were quadratic."""
    text = (part * 16_384)[:16_384]
    start = time.process_time()
    for value in (text, f"Basic {text}", f'Basic a="{text}', f'Basic a="{text}"'):
        with contextlib.suppress(BadChallenge):
            parse_challenges([value[:16_384]])
    assert time.process_time() - start < 1


# --- Digest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_of_rfc_7616(algorithm, response):
    """The examples of §3.9.1."""
    opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"
    value = digest(
        f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, '
        f'nonce="{NONCE}", opaque="{opaque}"',
        cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    assert value == (
        'Digest username="Mufasa", realm="http-auth@example.org", '
        f'nonce="{NONCE}", uri="/dir/index.html", algorithm={algorithm}, qop=auth, nc=00000001, '
        f'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", response="{response}", '
        f'opaque="{opaque}"'
    )


@needs_sha512_256
@pytest.mark.parametrize(
    ("userhash", "username"),
    [
        (
            ", userhash=true",
            'username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"',
        ),
        ("", "username*=UTF-8''J%C3%A4s%C3%B8n%20Doe"),
    ],
)
def test_digest_of_rfc_7616_with_a_name_beyond_ascii(userhash, username):
    """The example of §3.9.2, with the values of erratum 4897."""
    value = digest(
        'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
        'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
        f'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8{userhash}',
        user="Jäsøn Doe",
        password="Secret, or not?",
        uri="/doe.json",
        cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
    )
    assert value.startswith(f"Digest {username}, realm=")
    assert value.endswith(userhash)
    response = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    assert params(value)["response"] == response


def test_digest_of_rfc_2617():
    """The example of §3.5, which has no algorithm: none is said in the answer."""
    value = digest(
        'Digest realm="testrealm@host.com", qop="auth,auth-int", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"',
        password="Circle Of Life",
        cnonce="0a4f113b",
    )
    assert params(value)["response"] == "6629fae49393a05397450978507c4ef1"
    assert "algorithm" not in params(value)


def test_digest_without_qop():
    """As in RFC 2069: neither a count nor a nonce of ours."""
    value = digest('Digest realm="r", nonce="n"', user="u", password="p")
    response = md5(f"{md5('u:r:p')}:n:{md5('GET:/dir/index.html')}")
    assert value == (
        f'Digest username="u", realm="r", nonce="n", uri="/dir/index.html", response="{response}"'
    )


@pytest.mark.parametrize(("name", "function"), [("MD5", "md5"), ("sha-256", "sha256")])
def test_digest_of_a_session(name, function):
    """The digest of the password is bound to both nonces (RFC 7616 §3.4.2)."""

    def hashed(text):
        return hashlib.new(function, text.encode()).hexdigest()

    value = digest(
        f'Digest realm="r", nonce="n", qop=auth, algorithm={name}-sess', user="u", password="p"
    )
    first = hashed(f"{hashed('u:r:p')}:n:c")
    response = hashed(f"{first}:n:00000001:c:auth:{hashed('GET:/dir/index.html')}")
    assert params(value)["response"] == response
    assert f"algorithm={name.upper()}-sess," in value


def test_digest_counts_the_uses_of_a_nonce():
    """In eight digits, in hexadecimal."""
    one, many = digest(DIGEST), digest(DIGEST, count=0x1A)
    assert params(many)["nc"] == "0000001a"
    assert params(one)["response"] != params(many)["response"]


@pytest.mark.parametrize(
    ("challenge", "user", "said"),
    [
        ('Digest realm="r", nonce="n"', "älice", 'username="\xc3\xa4lice"'),
        ('Digest realm="r", nonce="n", charset=UTF-8', "älice", "username*=UTF-8''%C3%A4lice"),
        ('Digest realm="r", nonce="n", charset=UTF-8', 'a"b\\', 'username="a\\"b\\\\"'),
        ('Digest realm="r\\"\\\\", nonce="n"', "u", 'realm="r\\"\\\\"'),
        ('Digest realm="r", nonce="n", opaque=""', "u", 'opaque=""'),
        ('Digest realm="gr\xc3\xbcn", nonce="n"', "u", 'realm="gr\xc3\xbcn"'),
    ],
)
def test_digest_can_be_put_into_a_header(challenge, user, said):
    """Quoted as it was, and what is beyond ASCII as the bytes it is."""
    value = digest(challenge, user=user)
    assert f"{said}," in f"{value},"
    assert check_header("Proxy-Authorization", value)[1] == value


def test_digest_is_of_the_bytes_of_realm_and_name():
    """In UTF-8, as the proxy counts them."""
    value = digest('Digest realm="gr\xc3\xbcn", nonce="n"', user="älice", password="pä")
    response = md5(f"{md5('älice:grün:pä')}:n:{md5('GET:/dir/index.html')}")
    assert params(value)["response"] == response


@pytest.mark.parametrize(
    "challenge",
    [
        'Digest realm="r"',
        'Digest realm="r", nonce=""',
        'Digest nonce="n"',
        f"{DIGEST}, algorithm=SHA-1",
        f"{DIGEST}, algorithm=",
        f"{DIGEST}, algorithm=-sess",
        'Digest realm="r", nonce="n", qop="auth-int"',
        'Digest realm="r", nonce="n", qop=""',
        'Digest realm="r", nonce="n", algorithm=MD5-sess',
    ],
)
def test_digest_that_cannot_be_answered(challenge):
    """What is missing, and what is not known."""
    with pytest.raises(BadChallenge):
        digest(challenge)


@pytest.mark.parametrize("name", ["realm", "nonce", "opaque"])
@pytest.mark.parametrize("bad", ["a\r\nX: y", "a\n", "a\0", "\x85", "\u0100"])
def test_digest_carries_no_header_of_the_proxys_into_the_request(name, bad):
    """Also when the challenge was not parsed here."""
    challenge = Challenge("digest", {"realm": "r", "nonce": "n", name: bad})
    with pytest.raises(BadChallenge):
        digest_credentials(challenge, user="u", password="p", method="M", uri="x", cnonce="c")


class Judge(urllib.request.AbstractDigestAuthHandler):
    """Digest as Python's own library does it."""

    def get_cnonce(self, nonce):
        return "c"

    def get_algorithm_impls(self, algorithm):
        def hashed(text):
            return hashlib.new(algorithm.replace("-", "").lower(), text.encode()).hexdigest()

        return hashed, lambda secret, data: hashed(f"{secret}:{data}")


PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12)


@SEARCHED
@given(
    PLAIN,
    PLAIN,
    *[PLAIN.filter(lambda text: not set('"\\') & set(text))] * 2,
    st.sampled_from([None, "auth"]),
    st.sampled_from(["MD5", "SHA-256"]),
)
def test_digest_is_that_of_another_implementation(user, password, realm, nonce, qop, algorithm):
    """Over names, passwords, realms and nonces of any kind."""
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, "http://example.org/x", user, password)
    challenge = {"realm": realm, "nonce": nonce, "algorithm": algorithm}
    if qop is not None:
        challenge["qop"] = qop
    said = Judge(passwords).get_authorization(
        urllib.request.Request("http://example.org/x", method="CONNECT"), dict(challenge)
    )
    judged = re.search(r'response="([0-9a-f]+)"', said)
    value = digest_credentials(
        Challenge("digest", challenge),
        user=user,
        password=password,
        method="CONNECT",
        uri="/x",
        cnonce="c",
    )
    assert params(value)["response"] == judged[1]


# --- the choice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([BASIC], "Basic "),
        (["Basic"], "Basic "),
        ([BASIC, DIGEST], "Digest "),
        ([f"{DIGEST}, {BASIC}"], "Digest "),
        ([BASIC, DIGEST, SHA_256], "algorithm=SHA-256,"),
        ([SHA_256, DIGEST], "algorithm=SHA-256,"),
        ([f"{DIGEST}, algorithm=MD5-sess", f"{SHA_256}-sess", BASIC], "algorithm=SHA-256-sess,"),
        ([f"{DIGEST}, algorithm=SHA-1", BASIC], "Basic "),
        ([f"{DIGEST}, algorithm=SHA-1", f"{DIGEST}, algorithm=md5"], "algorithm=MD5,"),
        (['Digest realm="r", nonce="n", qop="auth-int"', BASIC], "Basic "),
        (["Negotiate, NTLM", BASIC], "Basic "),
        (["Bearer", BASIC], "Basic "),
        (["Bearer"], None),
        (["Negotiate", "NTLM abc=="], None),
        ([], None),
    ],
)
def test_strongest_scheme_is_answered(values, said):
    """Of those there are credentials for; the order in which they are offered says nothing."""
    credentials = auth().answer(asked(*values))
    if said is None:
        assert credentials is None
    else:
        assert said in credentials.value


@needs_sha512_256
def test_sha_256_is_preferred_to_sha_512_256():
    """Which has two meanings in the field."""
    values = [f"{DIGEST}, algorithm=SHA-512-256", SHA_256, DIGEST]
    assert "algorithm=SHA-256," in auth().answer(asked(*values)).value
    assert "algorithm=SHA-512-256," in auth().answer(asked(values[0], DIGEST)).value


@pytest.mark.parametrize("scheme", ["ntlm", "negotiate"])
def test_nothing_is_answered_where_another_scheme_is_asked_for(scheme):
    """The password is not for these."""
    this = auth(auth=scheme)
    assert this.unasked() is None
    assert this.answer(asked(BASIC, DIGEST, "NTLM", "Negotiate")) is None
    assert not this.sent


def test_answer_is_for_the_connect():
    """Its method, and host and port as they are in the request line."""
    said = params(auth().answer(asked(DIGEST)).value)
    assert (said["uri"], said["nc"], said["cnonce"]) == (TARGET, "00000001", "c")
    first, second = md5("alice:r:s3cret"), md5("CONNECT:example.org:443")
    assert said["response"] == md5(f"{first}:n1:00000001:c:auth:{second}")


def test_client_nonce_is_unpredictable():
    """Of 128 bits, anew for each answer."""
    proxy = Proxy("p", 1, "u", "p")
    nonces = {
        params(ProxyAuth(proxy, TARGET).answer(asked(DIGEST)).value)["cnonce"] for _ in range(50)
    }
    assert len(nonces) == 50
    assert {len(nonce) for nonce in nonces} == {32}


def test_token_is_sent_to_bearer_alone():
    """There is no password that could be asked for."""
    this = auth(None, None, token="t0ken")
    assert answered(this, BASIC, DIGEST) is None
    assert this.answer(asked(BASIC, "Bearer")).value == "Bearer t0ken"
    assert answered(this, "Bearer") is None


def test_without_credentials_nothing_is_answered():
    """And nothing was sent."""
    this = auth(None, None)
    assert this.unasked() is None
    assert answered(this, BASIC, DIGEST, "Bearer") is None
    assert not this.sent


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, "Basic YWxpY2U6czNjcmV0"),
        ({"user": "key", "password": None}, "Basic a2V5Og=="),
        ({"user": None, "password": None, "token": "t0ken"}, "Bearer t0ken"),
    ],
)
def test_credentials_unasked(options, value):
    """They count as sent: the same are not sent again."""
    this = auth(**options)
    assert not this.sent
    assert this.unasked() == value
    assert this.sent
    assert answered(this, BASIC, "Bearer") is None


# --- how often ------------------------------------------------------------------------------------


def test_each_scheme_is_answered_once():
    """Basic, unasked or asked; then Digest, where it is offered; then no more."""
    for begin in (ProxyAuth.unasked, lambda this: this.answer(asked(BASIC))):
        this = auth()
        begin(this)
        assert answered(this, BASIC) is None
        assert answered(this, BASIC, DIGEST) == "Digest"
        assert answered(this, BASIC, SHA_256, DIGEST) is None


def test_password_is_not_told_to_whom_its_digest_was_refused():
    """No way leads down."""
    this = auth()
    assert answered(this, DIGEST) == "Digest"
    assert answered(this, BASIC) is None
    assert answered(this, 'Digest realm="r", nonce="n2"', BASIC) is None


def test_stale_nonce_is_replaced_once():
    """The password was right, says the proxy; but not for ever."""
    this = auth()
    assert answered(this, DIGEST) == "Digest"
    said = params(this.answer(asked(f"{DIGEST.replace('n1', 'n2')}, stale=TRUE")).value)
    assert (said["nonce"], said["nc"]) == ("n2", "00000001")
    assert answered(this, f"{DIGEST.replace('n1', 'n3')}, stale=true") is None
    assert answered(this, f"{DIGEST.replace('n1', 'n4')}, stale=true", BASIC) is None


@pytest.mark.parametrize(
    "challenge",
    [
        f"{DIGEST}, stale=true",
        DIGEST.replace("n1", "n2"),
        f"{DIGEST.replace('n1', 'n2')}, stale=false",
    ],
)
def test_what_is_not_stale_is_refused(challenge):
    """The same nonce, or one that is new without a word about the old one."""
    this = auth()
    answered(this, DIGEST)
    assert answered(this, challenge) is None


def test_stale_at_first_is_a_challenge_like_any_other():
    """It takes none of the tries away."""
    this = auth()
    assert answered(this, f"{DIGEST}, stale=true") == "Digest"
    assert answered(this, f"{DIGEST.replace('n1', 'n2')}, stale=true") == "Digest"
    assert answered(this, f"{DIGEST.replace('n1', 'n3')}, stale=true") is None


SCHEMES = st.sampled_from([BASIC, "Bearer", "NTLM", "Digest"])


@SEARCHED
@given(st.booleans(), st.lists(st.lists(st.tuples(SCHEMES, st.booleans()), max_size=3), max_size=9))
def test_no_proxy_is_answered_for_ever(unasked, rounds):
    """Whatever it offers, in whatever order: at most Basic, Digest, and Digest once more."""
    this = auth()
    sent = [this.unasked()] if unasked else []
    for number, offered in enumerate(rounds):
        values = [
            f'Digest realm="r", nonce="{number}", stale={stale}' if scheme == "Digest" else scheme
            for scheme, stale in offered
        ]
        credentials = this.answer(asked(*values))
        sent += [] if credentials is None else [credentials.value]
    schemes = [value.partition(" ")[0] for value in sent]
    assert schemes in (
        [],
        ["Basic"],
        *[["Basic"][:n] + ["Digest"] * m for n in (0, 1) for m in (1, 2)],
    )
    assert len(set(sent)) == len(sent)
    assert this.sent == bool(sent)


# --- on which connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "complete", "same"),
    [
        ((), True, True),
        ((), False, False),
        ([("Connection", "keep-alive")], True, True),
        ([("Connection", "keep-alive, Close")], True, False),
        ([("Connection", "x"), ("connection", "close")], True, False),
        ([("Proxy-Connection", "close")], True, False),
        ([("Proxy-Connection", "Keep-Alive")], True, True),
    ],
)
def test_same_connection_unless_the_proxy_closes_it(more, complete, same):
    """It says so, or its answer has no end."""
    credentials = auth().answer(asked(BASIC, more=more), complete=complete)
    assert credentials == Credentials("Basic YWxpY2U6czNjcmV0", same)


# --- bad input, and what is shown -----------------------------------------------------------------


@pytest.mark.parametrize("value", ['Basic realm="', "x=y", "a" * 16_385])
def test_malformed_challenge_is_a_bad_answer(value):
    """Typed, with the answer it was part of, and nothing is sent."""
    this = auth()
    headers = asked(BASIC, value)
    with pytest.raises(BadProxyAnswer, match=r"^http://proxy\.example:3128: ") as caught:
        this.answer(headers)
    assert (caught.value.status, caught.value.headers) == (407, headers.pairs)
    assert caught.value.__context__ is None
    assert not this.sent


VALUES = st.text(
    st.characters(max_codepoint=0xFF, exclude_characters=[*map(chr, (*range(9), *range(10, 32)))]),
    max_size=60,
).filter(lambda text: "\x7f" not in text and "\x85" not in text)
PIECES = st.sampled_from(
    [
        "Basic ",
        "Digest ",
        "realm=",
        "nonce=",
        '"',
        "\\",
        ",",
        " ",
        "a",
        '"r"',
        "stale=true",
        "=",
        "ä",
    ]
)


@SEARCHED
@given(st.lists(VALUES | st.lists(PIECES, max_size=12).map("".join), max_size=3))
def test_any_challenge_gives_an_answer_none_or_a_typed_error(values):
    """Whatever a proxy says; and the answer can be sent as it is."""
    this = auth()
    try:
        credentials = this.answer(asked(*values))
    except BadProxyAnswer:
        return
    if credentials is not None:
        assert check_header("Proxy-Authorization", credentials.value)[1] == credentials.value


@SEARCHED
@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_text_gives_challenges_or_a_typed_error(values):
    """Also what no header has."""
    try:
        challenges = parse_challenges(values)
    except BadChallenge:
        return
    assert all(challenge.scheme for challenge in challenges)


def test_credentials_that_no_scheme_can_send_are_refused():
    """And are not in the error."""
    proxy = Proxy("proxy.example", 3128, "u", "p")
    object.__setattr__(proxy, "password", "s3cret\r\nX: y")
    with pytest.raises(InvalidProxy, match="control character") as caught:
        ProxyAuth(proxy, TARGET)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("values", [[BASIC], [DIGEST]])
def test_credentials_are_not_shown(values):
    """Neither by what holds them nor by the answer."""
    this = auth("us3r", "s3cret")
    shown = repr(this) + repr(this.answer(asked(*values)))
    assert "us3r" not in shown
    assert "s3cret" not in shown
    assert "dXMzcjpzM2NyZXQ" not in shown
    assert "response" not in shown
