"""Hide the secrets of an opening handshake: in its heads, and where they are said again.

Names, order and case stay as they are, and so do the values that explain a refusal. What is hidden
is what lets somebody in: credentials, cookies, tokens, the values of a query.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from wsframe.core.trace import Body, End, Frame, Head, Record

__all__ = ["Redaction"]

HIDDEN: Final = "***"
"""What stands in the place of a secret; it does not tell how long it was."""

MIN_SECRET: Final = 6
"""Characters from which a secret is looked for in what follows the head: shorter ones occur by
chance, and are guessed rather than read."""

MAX_SECRETS: Final = 256
"""Secrets of a connection that are looked for; a head with more of them is an attack."""

LONG_TOKEN: Final = 32
"""Characters from which a subprotocol's name is taken for a secret. The longest registered with
IANA have half of that."""

_BREAK: Final = re.compile("(\r\n|\n|[\r\x0b\x0c\x1c-\x1e\x85])")  # whatever some parser breaks at
_SECRET_NAME: Final = re.compile(
    r"auth(?!enticate\s*$)|cookie|token|secret|passw|credential|session|signature|jwt|csrf|xsrf"
    r"|apikey|(?<!sec-websocket-)(?<![a-z0-9])key(?![a-z0-9])",
    re.IGNORECASE,
)
_SCHEMES: Final = r"bearer|basic|digest|negotiate|ntlm|token|apikey"
_SCHEME: Final = re.compile(rf"(?:{_SCHEMES}|hmac|aws4-hmac-sha256) +", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(
    rf"\b((?:{_SCHEMES}) +)([a-z0-9._~+/-]{{8,}}=*)(?![^\s,;])", re.IGNORECASE
)
_USER: Final = re.compile(r"(//)([^/?#\s]*)(@)")
_TOKEN_PREFIX: Final = re.compile(
    r"(?:.*\b(?:bearer|token|jwt|auth|authorization|api-key|apikey|key)[.:=-])(?=.)", re.IGNORECASE
)
_TOKEN_FOLLOWS: Final = frozenset(
    {"access_token", "auth", "authorization", "bearer", "jwt", "token"}
)
_ATTRIBUTES: Final = frozenset(
    {"domain", "expires", "httponly", "max-age", "partitioned", "path", "priority", "samesite"}
    | {"secure"}
)
_OF_THE_HANDSHAKE: Final = re.compile(
    r"\s*(?:upgrade|connection|host|sec-websocket-(?:key|accept|version|extensions))\s*", re.I
)
_A_WORD: Final = re.compile("[a-z]+")


class Redaction:
    """What is secret on one connection: learnt from its heads, hidden in them and behind them."""

    __slots__ = ("_pattern", "_secrets")

    def __init__(self) -> None:
        self._secrets: set[bytes] = set()
        self._pattern: re.Pattern[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Redaction of {len(self._secrets)} secrets>"

    def learn_request(self, target: str, headers: Iterable[tuple[str, str]]) -> None:
        """Learn the secrets of a request that is not among the records."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
        raw = f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1", "replace")
        self._head(Head(0.0, True, True, raw, True, False))

    @property
    def learnt(self) -> tuple[str, ...]:
        """What is hidden wherever it is said again."""
        return tuple(secret.decode("latin-1") for secret in self._secrets)

    def apply(self, record: Record) -> Record:
        """Return the record without secrets."""
        match record:
            case Head():
                return replace(record, raw=self._head(record))
            case Body() | Frame():
                return replace(record, start=self._payload(record.start, record.cut))
            case End():
                reason = self._payload(record.reason.encode(errors="surrogateescape"), cut=False)
                return replace(record, reason=reason.decode(errors="replace"))
            case _:
                return record

    def _learn(self, *secrets: str) -> None:
        for secret in secrets:
            for form in (secret.encode("latin-1"), unquote_to_bytes(secret)):
                if len(form) >= MIN_SECRET and len(self._secrets) < MAX_SECRETS:
                    self._secrets.add(form)
        self._pattern = None

    def _payload(self, data: bytes, cut: bool) -> bytes:
        """Hide what is known to be secret; of one that is cut off, its beginning."""
        if not self._secrets:
            return data
        if self._pattern is None:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))
        data = self._pattern.sub(HIDDEN.encode(), data)
        if cut:
            ends = (_overlap(data, secret) for secret in self._secrets)
            data = data[: len(data) - max(ends)]
        return data

    # ---------------------------------------------------------------- heads

    def _head(self, head: Head) -> bytes:
        parts = _BREAK.split(head.raw.decode("latin-1"))
        is_secret = False
        before = "\n"
        for index in range(0, len(parts), 2):
            line = parts[index]
            if index == 0:
                parts[0] = self._start_line(line)
                is_secret = parts[0] != line
            elif is_secret and line and (line[0] in " \t" or before not in {"\n", "\r\n"}):
                self._learn(line.strip())
                parts[index] = HIDDEN  # a folded line, or one that only some parser sees
            elif line:
                parts[index], is_secret = self._field(line)
            before = parts[index + 1] if index + 1 < len(parts) else ""
        return "".join(parts).encode("latin-1")

    def _start_line(self, line: str) -> str:
        method, blank, rest = line.partition(" ")
        target, last_blank, version = rest.rpartition(" ")
        if line.startswith("HTTP/") or not version.startswith("HTTP/"):
            return self._value(line)
        return method + blank + self._url(target) + last_blank + version

    def _field(self, line: str) -> tuple[str, bool]:
        """Return a header's line without its secrets, and whether it had any."""
        name, colon, rest = line.partition(":")
        value = rest.strip(" \t")
        blank = rest[: len(rest) - len(rest.lstrip(" \t"))]
        if not colon:
            shown = self._value(line)
            return shown, shown != line
        if _OF_THE_HANDSHAKE.fullmatch(name):
            return line, False
        if not value:  # it may follow on a folded line
            return line, bool(_SECRET_NAME.search(name)) or "protocol" in name.lower()
        if "protocol" in name.lower():
            return name + colon + self._subprotocols(rest), True
        if not _SECRET_NAME.search(name):
            shown = self._value(rest)
            return name + colon + shown, shown != rest
        if name.strip().lower() == "cookie":
            value = self._cookies(value)
        elif name.strip().lower() == "set-cookie":
            value = self._set_cookie(value)
        else:
            value = self._credentials(value)
        return name + colon + blank + value, True

    def _credentials(self, value: str) -> str:
        scheme = _SCHEME.match(value)
        secret = value if scheme is None else value[scheme.end() :]
        self._learn(secret, *_decoded(secret))
        return ("" if scheme is None else scheme[0]) + HIDDEN

    def _cookies(self, value: str) -> str:
        return ";".join(self._cookie(part) for part in value.split(";"))

    def _set_cookie(self, value: str) -> str:
        first, *attributes = value.split(";")
        deleted = first.endswith("=") and first.count("=") == 1
        parts = [first if deleted else self._cookie(first)]
        for part in attributes:
            known = part.partition("=")[0].strip().lower() in _ATTRIBUTES
            parts.append(part if known else self._cookie(part))
        return ";".join(parts)

    def _cookie(self, part: str) -> str:
        name, equals, secret = part.partition("=")
        if not secret.strip("= "):  # no name, but a secret alone, in base64
            name, equals, secret = part[: len(part) - len(part.lstrip())], "", part
        self._learn(secret.strip().strip('"'))
        return name + equals + HIDDEN if secret.strip() else part

    def _subprotocols(self, value: str) -> str:
        shown = []
        token_follows = False
        for part in value.split(","):
            token = part.strip(" \t")
            prefix = _TOKEN_PREFIX.match(token)
            if prefix is None and not token_follows and len(token) <= LONG_TOKEN:
                shown.append(part)
            else:
                kept = "" if prefix is None or prefix.end() > LONG_TOKEN else prefix[0]
                secret = token[len(kept) :]
                self._learn(token, secret, *_decoded(secret))
                blank = part[: len(part) - len(part.lstrip(" \t"))]
                shown.append(blank + kept + HIDDEN)
            token_follows = token.lower() in _TOKEN_FOLLOWS
        return ",".join(shown)

    def _value(self, text: str) -> str:
        """Hide what looks like a secret, or is known to be one, in a text that may have none."""

        def credentials(found: re.Match[str]) -> str:
            self._learn(found[2])
            return found[1] + HIDDEN

        text = _CREDENTIALS.sub(credentials, text)
        if "/" in text or "?" in text:
            text = self._url(text)
        return self._payload(text.encode("latin-1"), cut=False).decode("latin-1")

    def _url(self, text: str) -> str:
        """Hide the credentials, the values of the query and the fragment of a URL."""

        def user(found: re.Match[str]) -> str:
            self._learn(found[2], *found[2].split(":", 1)[1:])
            return found[1] + HIDDEN + found[3]

        text, sharp, fragment = _USER.sub(user, text).partition("#")
        path, mark, query = text.partition("?")
        if text.strip() not in {"?0", "?1"}:  # a boolean (RFC 8941 §3.3.6)
            text = path + mark + "&".join(map(self._parameter, query.split("&")))
        if not fragment:
            return text + sharp
        self._learn(fragment, *(part.partition("=")[2] for part in fragment.split("&")))
        return text + sharp + HIDDEN

    def _parameter(self, parameter: str) -> str:
        name, equals, value = parameter.partition("=")
        if not value.strip("="):  # it may be a token alone, in base64
            name, equals, value = "", "", parameter
        if not value:
            return parameter
        # Such as transport=websocket, but not password=swordfish.
        if _SECRET_NAME.search(name) or not _A_WORD.fullmatch(value):
            self._learn(value)
        return name + equals + HIDDEN


def _decoded(secret: str) -> list[str]:
    """Return what a secret in base64 says, whole and behind its colon (RFC 7617)."""
    try:
        padded = secret + "=" * (-len(secret) % 4)
        text = base64.b64decode(padded, altchars=b"-_" if re.search("[-_]", secret) else None)
    except (binascii.Error, ValueError):
        return []
    decoded = text.decode("latin-1")
    return [decoded, *decoded.split(":", 1)[1:]]


def _overlap(data: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of the data are a beginning of the secret."""
    for size in range(min(len(secret) - 1, len(data)), 0, -1):
        if data.endswith(secret[:size]):
            return size
    return 0
