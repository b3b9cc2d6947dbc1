"""Answers to a proxy's 407: Basic, Bearer and Digest (RFC 9110 §11, RFC 7617, RFC 6750, RFC 7616).

A proxy challenges, and is answered with the strongest scheme that it knows and there are
credentials for: Bearer where there is a token; else Digest, with SHA-256, SHA-512-256 or MD5; else
Basic. No scheme is answered twice, save Digest when the proxy says that only its nonce was stale,
and that once: a proxy that asks for ever is given up.

Negotiate and NTLM are in `wsframe.core.negotiate`: they are asked for by `Proxy.auth`, and then
nothing here is sent.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from wsframe.core.http import Headers
from wsframe.core.proxy import Proxy
from wsframe.core.uri import basic_credentials
from wsframe.errors import BadProxyAnswer, InvalidProxy

__all__ = [
    "BadChallenge",
    "Challenge",
    "Credentials",
    "ProxyAuth",
    "digest_credentials",
    "keeps_connection",
    "parse_challenges",
    "read_challenges",
]

MAX_CHALLENGES: Final = 16_384
"""Characters in all challenges of one answer. Real ones have some hundred."""

_BAD: Final = re.compile("[^\t\x20-\x7e\x80-\x84\x86-\xff]")  # as in wsframe.core.http
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 §5.6.2
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+"'
# Possessive (*+): what does not match is found out in linear time.
_ELEMENTS: Final = re.compile(rf'((?:[^",]|{_QUOTED})*+)(,|$)')
_PARAM: Final = re.compile(rf'({_NAME})[ \t]*=[ \t]*({_QUOTED}|[^",]*+)')
_SCHEME: Final = re.compile(rf"({_NAME})(?:[ \t]+(.+))?")
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")

_HASHES: Final = {
    name: library
    for name, library in {"SHA-256": "sha256", "SHA-512-256": "sha512_256", "MD5": "md5"}.items()
    if library in hashlib.algorithms_available
}
"""The algorithms of Digest (RFC 7616 §6.1), the preferred first.

SHA-512-256 comes second because it has two meanings in the field: the RFC's own example is computed
with another function than the one of that name (erratum 4897).
"""


class BadChallenge(Exception):
    """A challenge is malformed or cannot be answered; the text says why and quotes none of it."""


@dataclass(frozen=True)
class Challenge:
    """One challenge: its scheme and the names of its parameters in lower case.

    `token68` is what some schemes have in place of parameters (RFC 9110 §11.2).
    """

    scheme: str
    params: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""


@dataclass(frozen=True)
class Credentials:
    """The answer to a challenge: the `value` of Proxy-Authorization, never shown.

    `same_connection` says whether the next request may go out on the connection that the challenge
    came on. On another one it is worth the same.
    """

    value: str = field(repr=False)
    same_connection: bool


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Return all challenges in the values of Proxy-Authenticate fields, in order.

    Empty elements are skipped, and a value without quotes may have blanks. Raises `BadChallenge`
    for what has two readings or none, for control characters, and for more than `MAX_CHALLENGES`
    characters.
    """
    texts = list(values)
    if sum(map(len, texts)) > MAX_CHALLENGES:
        raise BadChallenge("the challenges are too large")
    return tuple(challenge for text in texts for challenge in _parse_field(text))


def read_challenges(proxy: Proxy, headers: Headers) -> tuple[Challenge, ...]:
    """Return the challenges of a 407 with these headers.

    Raises `BadProxyAnswer` when they are malformed.
    """
    wrong = ""
    try:
        return parse_challenges(headers.get_all("Proxy-Authenticate"))
    except BadChallenge as error:
        wrong = str(error)
    text, pairs = f"{proxy}: {wrong}", headers.pairs
    raise BadProxyAnswer(text, proxy=str(proxy), status=407, headers=pairs)


def keeps_connection(headers: Headers) -> bool:
    """Return whether an answer with these headers leaves the connection to the next request."""
    said = headers.tokens("Connection") + headers.tokens("Proxy-Connection")
    return "close" not in (token.lower() for token in said)


def _parse_field(text: str) -> Iterator[Challenge]:
    if _BAD.search(text):
        raise BadChallenge("a challenge has a character that no header has")
    scheme, params, token68 = "", dict[str, str](), ""
    for element in _split(text):
        param = _PARAM.fullmatch(element)
        if param is None:
            begun = _SCHEME.fullmatch(element)
            if begun is None:
                raise BadChallenge("a challenge is malformed")
            if scheme:
                yield Challenge(scheme, params, token68)
            scheme, params, token68 = begun[1].lower(), {}, ""
            rest = begun[2] or ""
            if not rest:
                continue
            if _TOKEN68.fullmatch(rest):
                token68 = rest
                continue
            param = _PARAM.fullmatch(rest)
        if param is None or not scheme or token68:
            raise BadChallenge("a challenge is malformed")
        name = param[1].lower()
        if name in params:
            raise BadChallenge("a challenge has a parameter twice")
        params[name] = _unquote(param[2])
    if scheme:
        yield Challenge(scheme, params, token68)


def _split(text: str) -> Iterator[str]:
    """Yield the elements between commas that are not in quotes, without the empty ones."""
    position = 0
    while position < len(text):
        found = _ELEMENTS.match(text, position)
        if found is None:
            raise BadChallenge("a challenge has a quotation mark without its other half")
        position = found.end()
        if element := found[1].strip(" \t"):
            yield element


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value.rstrip(" \t")
    return re.sub(r"\\(.)", r"\1", value[1:-1])


def _quote(value: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _new_cnonce() -> str:
    return os.urandom(16).hex()


def digest_credentials(
    challenge: Challenge,
    *,
    user: str,
    password: str,
    method: str,
    uri: str,
    cnonce: str,
    count: int = 1,
) -> str:
    """Return the answer to a Digest challenge (RFC 7616 §3.4; without qop as in RFC 2069).

    `uri` is the request target, which for CONNECT is host:port; `count` is how often the nonce has
    been used, this time included. The user name and the password are taken in UTF-8. The text has
    the characters of ISO 8859-1, as all text of headers has here.

    Raises `BadChallenge` when the challenge has no realm or nonce, or asks for what is not known
    here: another algorithm, or qop without "auth".
    """
    params = challenge.params
    algorithm, session = _algorithm(params)
    if "realm" not in params or not params.get("nonce"):
        raise BadChallenge("a Digest challenge has no realm or no nonce")
    realm, nonce = params["realm"], params["nonce"]
    for value in (realm, nonce, params.get("opaque", "")):
        if _BAD.search(value):
            raise BadChallenge("a challenge has a character that no header has")
    qop = None
    if "qop" in params:
        qop = "auth"
        if qop not in (option.strip().lower() for option in params["qop"].split(",")):
            raise BadChallenge("a Digest challenge asks for another qop than auth")
    elif session:
        raise BadChallenge("a Digest challenge has a session and no qop")

    def digest(*parts: bytes) -> bytes:
        hasher = hashlib.new(_HASHES[algorithm], b":".join(parts), usedforsecurity=False)
        return hasher.hexdigest().encode()

    name, realm_, nonce_, cnonce_ = user.encode(), *map(_octets, (realm, nonce, cnonce))
    first = digest(name, realm_, password.encode())
    if session:
        first = digest(first, nonce_, cnonce_)
    second = digest(method.encode(), uri.encode())
    middle = [nonce_]
    if qop is not None:
        middle += [b"%08x" % count, cnonce_, qop.encode()]
    response = digest(first, *middle, second).decode()

    hashed = params.get("userhash", "").lower() == "true"
    shown = f'username="{digest(name, realm_).decode()}"' if hashed else _user_name(user, params)
    said = [shown, f"realm={_quote(realm)}", f"nonce={_quote(nonce)}", f"uri={_quote(uri)}"]
    if "algorithm" in params:
        said.append(f"algorithm={algorithm}{'-sess' if session else ''}")
    if qop is not None:
        said += [f"qop={qop}", f"nc={count:08x}", f"cnonce={_quote(cnonce)}"]
    said.append(f'response="{response}"')
    if "opaque" in params:
        said.append(f"opaque={_quote(params['opaque'])}")
    if hashed:
        said.append("userhash=true")
    return "Digest " + ", ".join(said)


def _algorithm(params: Mapping[str, str]) -> tuple[str, bool]:
    """Return the algorithm and whether it is the -sess form."""
    name = params.get("algorithm", "MD5").upper()
    session = name.endswith("-SESS")
    name = name.removesuffix("-SESS")
    if name not in _HASHES:
        raise BadChallenge("a Digest challenge asks for an unknown algorithm")
    return name, session


def _octets(text: str) -> bytes:
    """Return the bytes that came as this text of a header."""
    return text.encode("latin-1")


def _user_name(user: str, params: Mapping[str, str]) -> str:
    if user.isascii():
        return f"username={_quote(user)}"
    if params.get("charset", "").lower() == "utf-8":
        return f"username*=UTF-8''{quote(user, safe='')}"
    # Proxies older than RFC 7616 take the bytes as they are.
    return f"username={_quote(user.encode().decode('latin-1'))}"


class ProxyAuth:
    """The credentials for one proxy, and what of them was sent in the course of one tunnel.

    `target` is the tunnel's, host:port. `cnonce` makes a new nonce of the client's.

    Ask `unasked` for what to send with the first request, and `answer` for what to send after each
    407, until it returns None.

    Raises `InvalidProxy` for credentials that no scheme can send.
    """

    __slots__ = ("_cnonce", "_nonces", "_proxy", "_sent", "_target")

    def __init__(
        self, proxy: Proxy, target: str, *, cnonce: Callable[[], str] = _new_cnonce
    ) -> None:
        self._proxy = proxy
        self._target = target
        self._cnonce = cnonce
        self._sent: set[str] = set()
        self._nonces: list[str] = []
        wrong = ""
        try:
            basic_credentials(proxy.user or "", proxy.password or "")
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise InvalidProxy(f"the proxy {wrong}")

    @property
    def sent(self) -> bool:
        """Whether the proxy has been given credentials: then a 407 is a refusal of them."""
        return bool(self._sent)

    def unasked(self) -> str | None:
        """Return the credentials for a request before any challenge, None when there are none.

        They are the token or, in Basic, the password; it is the caller's choice to send them to a
        proxy that might have asked for less.
        """
        if self._proxy.auth is not None:
            return None
        if self._proxy.token is not None:
            return self._send("bearer")
        return None if self._proxy.user is None else self._send("basic")

    def answer(self, headers: Headers, *, complete: bool = True) -> Credentials | None:
        """Return the answer to a 407 with these headers, None when there is none (any more).

        `complete` says whether the 407 was read to its end, so that another answer can follow it
        on this connection.

        Raises `BadProxyAnswer` when the challenges are malformed.
        """
        if self._proxy.auth is not None:
            return None
        if self._proxy.user is None and self._proxy.token is None:
            return None
        value = self._answer(read_challenges(self._proxy, headers))
        if value is None:
            return None
        return Credentials(value, complete and keeps_connection(headers))

    def _answer(self, challenges: tuple[Challenge, ...]) -> str | None:
        offered = {challenge.scheme for challenge in challenges}
        if self._proxy.token is not None:
            wanted = "bearer" in offered and "bearer" not in self._sent
            return self._send("bearer") if wanted else None
        digests = [challenge for challenge in challenges if challenge.scheme == "digest"]
        for challenge in sorted(digests, key=_weakness):
            value = self._digest(challenge)
            if value is not None:
                return value
        # Who did not take the digest of a password is not told the password.
        wanted = "basic" in offered and self._sent.isdisjoint({"basic", "digest"})
        return self._send("basic") if wanted else None

    def _send(self, scheme: str) -> str:
        self._sent.add(scheme)
        if scheme == "bearer":
            return f"Bearer {self._proxy.token}"
        return basic_credentials(self._proxy.user or "", self._proxy.password or "")

    def _digest(self, challenge: Challenge) -> str | None:
        """Return the answer to a Digest challenge that can be answered and was not yet."""
        nonce = challenge.params.get("nonce", "")
        stale = challenge.params.get("stale", "").lower() == "true"
        if self._nonces and not (stale and len(self._nonces) == 1 and nonce not in self._nonces):
            return None
        try:
            value = digest_credentials(
                challenge,
                user=self._proxy.user or "",
                password=self._proxy.password or "",
                method="CONNECT",
                uri=self._target,
                cnonce=self._cnonce(),
            )
        except BadChallenge:
            return None
        self._sent.add("digest")
        self._nonces.append(nonce)
        return value


def _weakness(challenge: Challenge) -> int:
    name = challenge.params.get("algorithm", "MD5").upper().removesuffix("-SESS")
    return list(_HASHES).index(name) if name in _HASHES else len(_HASHES)
