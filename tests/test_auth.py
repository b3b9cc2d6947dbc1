"""Bearer and Basic: who is admitted, what the others are told, and that no secret gets out."""

from __future__ import annotations

import base64
import gc
import hmac
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.checkers import FilePasswordDB, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.internet import defer
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from wsframe.auth import (
    BearerToken,
    IBearerToken,
    PasswordChecker,
    TokenChecker,
    basic_auth,
    bearer_auth,
)
from wsframe.core.http import Request
from wsframe.errors import Reject
from wsframe.protocol import Accept

TOKEN = "tok.Secret_0123456789"
OTHER = "another.Secret~abcdef="
TOKENS = {"anna": TOKEN, "bert": OTHER}
PASSWORDS = {"anna": "p:w:Grüße", "bert": "plain.pass", "zoë": ""}


def request(*headers: tuple[str, str]) -> Request:
    from wsframe.core.http import Headers

    return Request("GET", "/", Headers((("Host", "localhost"), *headers)), "tcp4:127.0.0.1:1")


def outcome(check: Callable[[Request], Any], *headers: tuple[str, str]) -> Accept | Reject:
    """Return what the check decides, be it raised or the result of its Deferred."""
    results: list[Any] = []
    defer.maybeDeferred(check, request(*headers)).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        assert isinstance(result.value, Reject), result
        return result.value
    assert isinstance(result, Accept)
    return result


def principal(check: Callable[[Request], Any], *headers: tuple[str, str]) -> str | None:
    decided = outcome(check, *headers)
    assert isinstance(decided, Accept), decided.body
    return decided.principal


def refusal(check: Callable[[Request], Any], *headers: tuple[str, str]) -> Reject:
    decided = outcome(check, *headers)
    assert isinstance(decided, Reject), decided.principal
    return decided


def basic(user: str | bytes, password: str | bytes = b"") -> tuple[str, str]:
    parts = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return "Authorization", "Basic " + base64.b64encode(b":".join(parts)).decode()


def coded(token: str) -> str:
    return "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


# ---------------------------------------------------------------- bearer


@pytest.mark.parametrize(
    "value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}", f"Bearer   {TOKEN} "]
)
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_bearer_admits_in_any_case_and_with_more_blanks(name: str, value: str) -> None:
    """Header names and schemes are compared without regard to case (RFC 9110 §11.1)."""
    assert principal(bearer_auth(TOKENS), (name, value)) == "anna"


def test_principal_is_the_name_of_the_token() -> None:
    assert principal(bearer_auth(TOKENS), ("Authorization", f"Bearer {OTHER}")) == "bert"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Basic YTpi", TOKEN, f"Bearer\t{TOKEN}", f"Bear {TOKEN}", "="],
)
def test_bearer_asks_for_a_token_where_none_is_given(value: str) -> None:
    """Without credentials the challenge has no error (RFC 6750 §3.1)."""
    error = refusal(bearer_auth(TOKENS, realm="the realm"), ("Authorization", value))
    assert (error.status, error.headers) == (
        401,
        {"WWW-Authenticate": 'Bearer realm="the realm"'},
    )


@pytest.mark.parametrize(
    "token", ["wrong.token.0123456", TOKEN[:-1], TOKEN + "x", TOKEN.lower(), "x" * 9000, "\xff"]
)
def test_bearer_says_that_a_wrong_token_is_invalid(token: str) -> None:
    error = refusal(bearer_auth(TOKENS), ("Authorization", f"Bearer {token}"))
    challenge = 'Bearer realm="wsframe", error="invalid_token"'
    assert (error.status, error.headers["WWW-Authenticate"]) == (401, challenge)
    assert token not in str(error) + str(error.body)


@pytest.mark.parametrize("check", [bearer_auth(TOKENS), basic_auth(PASSWORDS)])
@pytest.mark.parametrize("first", [f"Bearer {TOKEN}", basic("bert", "plain.pass")[1], "x"])
def test_several_authorization_headers_are_refused(
    check: Callable[[Request], Any], first: str
) -> None:
    """A proxy in front may have judged the other one."""
    good = f"Bearer {TOKEN}", basic("bert", "plain.pass")[1]
    for second in good:
        error = refusal(check, ("Authorization", first), ("authorization", second))
        assert error.status == 400


def test_the_custom_header_is_read_only_where_it_is_named() -> None:
    header = ("X-Monitor-Token", TOKEN)
    assert refusal(bearer_auth(TOKENS), header).status == 401
    check = bearer_auth(TOKENS, header="x-monitor-token")
    assert principal(check, header) == "anna"
    assert refusal(check, ("X-Monitor-Token", "")).status == 401
    assert refusal(check, ("X-Monitor-Token", f"Bearer {TOKEN}")).status == 401
    # Repeated it is one value with a comma, which no token has.
    assert refusal(check, header, header).status == 401


def test_authorization_goes_before_the_custom_header() -> None:
    check = bearer_auth(TOKENS, header="X-Monitor-Token")
    both = ("Authorization", f"Bearer {TOKEN}"), ("X-Monitor-Token", OTHER)
    assert principal(check, *both) == "anna"
    wrong = ("Authorization", "Bearer wrong"), ("X-Monitor-Token", OTHER)
    assert refusal(check, *wrong).status == 401
    # Basic is another's: a proxy's, say.
    assert principal(check, basic("x", "y"), ("X-Monitor-Token", OTHER)) == "bert"


def test_the_subprotocol_form_is_read_only_where_it_is_asked_for() -> None:
    offered = ("Sec-WebSocket-Protocol", f"wsframe.feed, {coded(OTHER)}")
    assert refusal(bearer_auth(TOKENS), offered).status == 401
    check = bearer_auth(TOKENS, subprotocol=True)
    assert principal(check, offered) == "bert"


def test_the_subprotocol_form_carries_any_text() -> None:
    check = bearer_auth({"anna": "Grüße, 世界"}, subprotocol=True)
    assert principal(check, ("Sec-WebSocket-Protocol", coded("Grüße, 世界"))) == "anna"


@pytest.mark.parametrize(
    "offered", ["bearer", "bearer.", "bearer.A", "bearer.____", "bearer.=", "Bearer.x", "x.y", ""]
)
def test_a_malformed_subprotocol_form_is_refused(offered: str) -> None:
    check = bearer_auth(TOKENS, subprotocol=True)
    assert refusal(check, ("Sec-WebSocket-Protocol", offered)).status == 401


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer "),
        ("X-Token", ""),
        ("Sec-WebSocket-Protocol", "bearer."),
        ("Sec-WebSocket-Protocol", "bearer.="),
    ],
)
def test_an_empty_token_admits_nobody_even_where_one_is_configured(header: Any) -> None:
    """Such a mapping comes from a variable that was not set."""
    check = bearer_auth({"nobody": ""}, header="X-Token", subprotocol=True)
    assert refusal(check, header).status == 401


def test_no_tokens_admit_nobody() -> None:
    assert refusal(bearer_auth({}), ("Authorization", f"Bearer {TOKEN}")).status == 401


@pytest.mark.parametrize("make", [bearer_auth, basic_auth])
@pytest.mark.parametrize("realm", ['a"b', "a\\b", "a\r\nSet-Cookie: x", "ä", "\x7f"])
def test_a_realm_cannot_break_out_of_the_challenge(make: Any, realm: str) -> None:
    with pytest.raises(ValueError, match="realm"):
        make({}, realm=realm)


# ---------------------------------------------------------------- Basic


@pytest.mark.parametrize("user", ["anna", "bert", "zoë"])
def test_basic_admits_with_colons_and_utf8_in_the_password(user: str) -> None:
    """Only a user name has no colon (RFC 7617 §2)."""
    assert principal(basic_auth(PASSWORDS), basic(user, PASSWORDS[user])) == user


def test_basic_reads_the_scheme_in_any_case() -> None:
    name, value = basic("bert", "plain.pass")
    for scheme in ("basic", "BASIC", "bAsIc"):
        assert principal(basic_auth(PASSWORDS), (name, value.replace("Basic", scheme))) == "bert"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("anna", "plain.pass"),
        ("bert", "p:w:Grüße"),
        ("bert", ""),
        ("", "plain.pass"),
        ("", ""),
        ("anna", "p:w:Grüße ".encode()),
        ("anna", "p:w:Grüße".encode("latin-1")),
        ("Bert", "plain.pass"),
        ("carl", "x" * 9000),
        (b"\xff\x00", b"\xfe"),
    ],
)
def test_basic_refuses_what_is_wrong(user: Any, password: Any) -> None:
    error = refusal(basic_auth(PASSWORDS, realm="R"), basic(user, password))
    challenge = {"WWW-Authenticate": 'Basic realm="R", charset="UTF-8"'}
    assert (error.status, error.headers) == (401, challenge)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YW5uYQ==",  # no colon in it
        "Basic YTp",
        "Basic YTp i",
        "Basic \xff",
        f"Bearer {TOKEN}",
        base64.b64encode(b"bert:plain.pass").decode(),
    ],
)
def test_basic_asks_where_the_credentials_are_malformed(value: str) -> None:
    error = refusal(basic_auth(PASSWORDS), ("Authorization", value))
    assert (error.status, error.body) == (401, "a user name and password are required")


# ---------------------------------------------------------------- checkers of twisted.cred


def test_our_checkers_are_checkers() -> None:
    from twisted.cred.checkers import ICredentialsChecker

    assert verifyObject(ICredentialsChecker, TokenChecker(TOKENS))
    assert verifyObject(ICredentialsChecker, PasswordChecker(PASSWORDS))
    assert verifyObject(IBearerToken, BearerToken(TOKEN))


def test_basic_with_a_file_of_passwords(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_bytes(b"anna:one\nj\xf6rg:two\n")
    check = basic_auth(FilePasswordDB(str(path)))
    assert principal(check, basic("anna", "one")) == "anna"
    assert refusal(check, basic("anna", "two")).status == 401
    assert refusal(check, basic("carl", "one")).status == 401
    # A name that is not UTF-8 is still a name.
    assert principal(check, basic(b"j\xf6rg", b"two")) == "j\\xf6rg"


def test_basic_with_the_database_in_memory() -> None:
    checker = InMemoryUsernamePasswordDatabaseDontUse(anna=b"one")
    assert principal(basic_auth(checker), basic("anna", "one")) == "anna"
    assert refusal(basic_auth(checker), basic("anna", "x")).status == 401


class _Checker:
    """Decides when the test says so."""

    credentialInterfaces = (IUsernamePassword, IBearerToken)

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked.append(credentials)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_checker_may_take_its_time() -> None:
    answer: defer.Deferred[bytes] = defer.Deferred()
    checker = _Checker(answer)
    results: list[Any] = []
    bearer_auth(checker)(request(("Authorization", f"Bearer {TOKEN}"))).addCallback(results.append)
    assert results == []
    assert checker.asked[0].token == TOKEN
    answer.callback(b"anna")
    assert results[0].principal == "anna"


def test_a_checker_that_fails_otherwise_is_no_refusal() -> None:
    """A database that is down does not make a password wrong: the client is answered 500."""
    results: list[Any] = []
    check = basic_auth(_Checker(RuntimeError("database down")))
    defer.maybeDeferred(check, request(basic("a", "b"))).addErrback(results.append)
    assert results[0].check(RuntimeError)


# ---------------------------------------------------------------- constant time


@pytest.mark.parametrize("token", [*TOKENS.values(), "wrong"])
def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """How long it takes does not say which one matched, nor how much of it (CVE-2021-33880)."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    checker = TokenChecker(TOKENS)
    monkeypatch.setattr(hmac, "compare_digest", counting)
    checker.requestAvatarId(BearerToken(token)).addErrback(lambda _: None)
    assert len(compared) == len(TOKENS)
    # Digests: of the same length, whatever the secrets' lengths are.
    assert {len(item) for pair in compared for item in pair} == {32}


@pytest.mark.parametrize("user", [*PASSWORDS, "nobody"])
def test_every_user_and_password_is_compared(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    compared: list[int] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return real(one, other)

    checker = PasswordChecker(PASSWORDS)
    monkeypatch.setattr(hmac, "compare_digest", counting)
    credentials = UsernamePassword(user.encode(), b"wrong")
    checker.requestAvatarId(credentials).addErrback(lambda _: None)
    assert compared == [32] * 2 * len(PASSWORDS)


# ---------------------------------------------------------------- secrets stay secret


def test_no_repr_has_a_secret() -> None:
    shown = " ".join(
        repr(one)
        for one in (
            BearerToken(TOKEN),
            TokenChecker(TOKENS),
            PasswordChecker(PASSWORDS),
            bearer_auth(TOKENS),
            basic_auth(PASSWORDS),
            request(("Authorization", f"Bearer {TOKEN}")),
            request(("Authorization", f"Bearer {TOKEN}")).headers,
        )
    )
    for secret in (*TOKENS.values(), "p:w", "plain.pass"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("check", "header", "secret"),
    [
        (bearer_auth(TOKENS), ("Authorization", "Bearer my.own.secret.000"), "my.own.secret"),
        (basic_auth(PASSWORDS), basic("anna", "my.own.secret"), "my.own.secret"),
        (basic_auth(PASSWORDS), basic("anna", "my.own.secret"), basic("anna", "my.own.secret")[1]),
    ],
)
def test_a_refusal_and_its_traceback_have_no_secret(
    check: Any, header: Any, secret: str, logged: Callable[[], str]
) -> None:
    failures: list[Failure] = []
    defer.maybeDeferred(check, request(header)).addErrback(failures.append)
    error = failures[0].value
    text = "".join(
        [
            str(error),
            repr(error),
            str(vars(error)),
            failures[0].getTraceback(),
            failures[0].getTraceback(detail="verbose"),
            *traceback.format_exception(error),  # type: ignore[arg-type]
        ]
    )
    assert secret not in text
    gc.collect()
    assert secret not in logged()
