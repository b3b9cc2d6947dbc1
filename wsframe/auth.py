"""Checks for `process_request`: bearer tokens and Basic, in constant time, over `twisted.cred`.

Each check returns an `Accept` with the principal, or raises `Reject(401)` with the challenge that
HTTP asks for. Any `ICredentialsChecker` can stand behind them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from zope.interface import Attribute, implementer

from wsframe.core.http import Request
from wsframe.errors import Reject
from wsframe.protocol import Accept

__all__ = [
    "BearerToken",
    "IBearerToken",
    "PasswordChecker",
    "TokenChecker",
    "basic_auth",
    "bearer_auth",
]

_REALM: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")


class IBearerToken(ICredentials):
    """Credentials that are one secret text (RFC 6750)."""

    token = Attribute("The token, a str.")


@implementer(IBearerToken)
class BearerToken:
    """A token as it was sent. Its repr does not show it."""

    __slots__ = ("token",)

    def __init__(self, token: str) -> None:
        self.token = token


def _digest(secret: str) -> bytes:
    # Of equal length whatever the secret's: not even that can be measured.
    return hashlib.sha256(secret.encode()).digest()


@implementer(ICredentialsChecker)
class TokenChecker:
    """Knows a token's name. `tokens` maps names to tokens, as `load_tokens` gives them."""

    credentialInterfaces = (IBearerToken,)

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._digests: Final = [(name, _digest(token)) for name, token in tokens.items()]

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Fire with the token's name, or fail with UnauthorizedLogin.

        Every token is compared, whichever matches (CVE-2021-33880).
        """
        given = _digest(credentials.token)
        found = None
        for name, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = name
        return fail(UnauthorizedLogin()) if found is None else succeed(found)

    def __repr__(self) -> str:
        return f"<TokenChecker of {len(self._digests)} tokens>"


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Knows users' passwords. `passwords` maps user names to passwords."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._digests: Final = [
            (user, _digest(user), _digest(password)) for user, password in passwords.items()
        ]

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        """Fire with the user's name, or fail with UnauthorizedLogin; every pair is compared."""
        given_user = hashlib.sha256(credentials.username).digest()
        given_password = hashlib.sha256(credentials.password).digest()
        found = None
        for name, user, password in self._digests:
            if hmac.compare_digest(given_user, user) & hmac.compare_digest(
                given_password, password
            ):
                found = name
        return fail(UnauthorizedLogin()) if found is None else succeed(found)

    def __repr__(self) -> str:
        return f"<PasswordChecker of {len(self._digests)} users>"


ProcessRequest = Callable[[Request], Deferred[Accept]]


def bearer_auth(
    tokens: Mapping[str, str] | Any,
    *,
    header: str | None = None,
    subprotocol: bool = False,
    realm: str = "wsframe",
) -> ProcessRequest:
    """Return a `process_request` that admits clients with a bearer token.

    `tokens` maps names to tokens, or is an `ICredentialsChecker` for `IBearerToken`. The token is
    looked for in "Authorization: Bearer …" (RFC 6750); then in the header named by `header`, None
    for none; then, when `subprotocol` is true, among the subprotocols offered, as "bearer." and
    the token in unpadded base64url: a page's script can send no other header.
    """
    checker = TokenChecker(tokens) if isinstance(tokens, Mapping) else tokens
    challenge = f'Bearer realm="{_check_realm(realm)}"'

    def check(request: Request) -> Deferred[Accept]:
        token = _bearer_token(request, header, subprotocol)
        if token is None:
            raise Reject(401, "a token is required", {"WWW-Authenticate": challenge})
        challenge_error = f'{challenge}, error="invalid_token"'
        return _ask(checker, BearerToken(token), "this token is not valid", challenge_error)

    return check


def basic_auth(passwords: Mapping[str, str] | Any, *, realm: str = "wsframe") -> ProcessRequest:
    """Return a `process_request` that admits clients with a user name and password (RFC 7617).

    `passwords` maps user names to passwords, or is an `ICredentialsChecker` for
    `IUsernamePassword`, such as `twisted.cred.checkers.FilePasswordDB`.
    """
    checker = PasswordChecker(passwords) if isinstance(passwords, Mapping) else passwords
    challenge = f'Basic realm="{_check_realm(realm)}", charset="UTF-8"'

    def check(request: Request) -> Deferred[Accept]:
        scheme, value = _authorization(request)
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        user, colon, password = decoded.partition(b":")
        if scheme != "basic" or not colon:
            raise Reject(
                401, "a user name and password are required", {"WWW-Authenticate": challenge}
            )
        credentials = UsernamePassword(user, password)
        return _ask(checker, credentials, "user name or password are wrong", challenge)

    return check


def _check_realm(realm: str) -> str:
    if not _REALM.fullmatch(realm):
        raise ValueError("a realm has neither quotes, backslashes nor control characters")
    return realm


def _authorization(request: Request) -> tuple[str, str]:
    """Return the scheme, in lower case, and the rest; both are empty without the header."""
    values = request.headers.get_all("Authorization")
    if len(values) > 1:
        # A proxy before us may judge by another one than we would.
        raise Reject(400, "there is more than one Authorization header")
    scheme, _, rest = (values[0] if values else "").partition(" ")
    return scheme.lower(), rest.strip()


def _bearer_token(request: Request, header: str | None, subprotocol: bool) -> str | None:
    scheme, token = _authorization(request)
    if scheme == "bearer" and token:
        return token
    if header is not None and request.headers.get(header):
        return request.headers[header]
    if subprotocol:
        for offered in request.subprotocols:
            prefix, dot, encoded = offered.partition(".")
            if prefix == "bearer" and dot:
                padded = encoded + "=" * (-len(encoded) % 4)
                try:
                    return base64.urlsafe_b64decode(padded).decode() or None
                except (binascii.Error, ValueError):
                    return None
    return None


def _ask(checker: Any, credentials: object, text: str, challenge: str) -> Deferred[Accept]:
    def accepted(avatar: Any) -> Accept:
        if isinstance(avatar, bytes):
            avatar = avatar.decode(errors="backslashreplace")
        return Accept(str(avatar))

    def refused(failure: Any) -> Any:
        failure.trap(LoginFailed)
        raise Reject(401, text, {"WWW-Authenticate": challenge}) from None

    asked: Deferred[Any] = maybeDeferred(checker.requestAvatarId, credentials)
    return cast("Deferred[Accept]", asked.addCallbacks(accepted, refused))
