"""The opening handshake's own rules: what a client sends, and whom a server admits.

RFC 6455 §4. The key, version and extension rules are Autobahn's; here is what it leaves open or
gets wrong: the Host header, the order and safety of what is sent, and the check of Origin and
Host against cross-site use and DNS rebinding.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import sha1
from ipaddress import IPv6Address, ip_address
from typing import Final

from wsframe.core.http import Headers, Request, check_header, check_target, check_token
from wsframe.core.uri import format_host_port
from wsframe.errors import InvalidHeader

__all__ = [
    "GENERATED",
    "Generated",
    "GivenHeaders",
    "Refusal",
    "RequestHeaders",
    "accept_key",
    "build_request",
    "check_headers",
    "check_subprotocols",
    "headers_elsewhere",
    "is_beyond_doubt",
    "judge_request",
    "parse_host",
    "parse_origin",
]

Origin = tuple[str, str, int | None]
"""Scheme, host and port, in lower case; the port is None for a scheme without a default."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ORIGIN_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_ADDRESS: Final = re.compile(r"([0-9a-f:.]+)(%[a-z0-9._~%-]+)?")
_KEY: Final = re.compile("[A-Za-z0-9+/]{22}==")
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")


class Generated(Enum):
    """The type of `GENERATED`."""

    GENERATED = "GENERATED"

    def __repr__(self) -> str:
        return self.value


GENERATED: Final = Generated.GENERATED
"""Given as the value of a header: the one that wsframe generates, in this place and this case."""

RequestHeaders = Mapping[str, str | Generated | None] | Iterable[tuple[str, str | Generated | None]]
"""The headers of an opening handshake: a mapping, or pairs. None suppresses the header."""

GENERATED_NAMES: Final = (
    "Host",
    "Upgrade",
    "Connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Origin",
    "User-Agent",
    "Authorization",
    "Cookie",
)
"""The headers that wsframe generates, in the order in which it sends them."""

_GENERATED: Final = frozenset(name.lower() for name in GENERATED_NAMES)
_NOT_TO_BE_SAID: Final = {
    "content-length": "an opening handshake has no body",
    "proxy-authorization": "it is for the proxy: put it into the proxy's URL",  # CVE-2023-32681
    "sec-websocket-accept": "it is the server's to say",
    "sec-websocket-extensions": "give compression=",
    "sec-websocket-protocol": "give subprotocols=",
    "transfer-encoding": "an opening handshake has no body",
}
_NOT_FOR_OTHERS: Final = frozenset({"host", "authorization", "cookie"})


def check_headers(headers: RequestHeaders) -> GivenHeaders:
    """Return the headers given as pairs, when all of them can be sent; see `build_request`.

    Raises `InvalidHeader`, which repeats no value, and TypeError.
    """
    given: object = headers
    if isinstance(given, str | bytes):
        raise TypeError("headers is a mapping or pairs of name and value, not one text")
    items = headers.items() if isinstance(headers, Mapping) else headers
    pairs: list[tuple[str, str | Generated | None]] = []
    seen: set[str] = set()
    for name, value in items:
        lower = check_header(name, "")[0].lower()
        if lower in _GENERATED and lower in seen:
            raise InvalidHeader(f"{name} is given twice")
        seen.add(lower)
        if isinstance(value, str):
            if lower in _NOT_TO_BE_SAID:
                raise InvalidHeader(f"{name} cannot be given: {_NOT_TO_BE_SAID[lower]}")
            pairs.append(check_header(name, value))
        elif value is None or value is GENERATED:
            if value is GENERATED and lower not in _GENERATED:
                raise InvalidHeader(f"{name} is not a header that is generated")
            pairs.append((name, value))
        else:
            kind = type(value).__name__
            raise TypeError(f"the value of header {name!r} is a str, GENERATED or None, not {kind}")
    return tuple(pairs)


def headers_elsewhere(headers: GivenHeaders) -> GivenHeaders:
    """Return what of the headers given may be said to another origin than they were given for.

    That is how the generated ones are sent, but for a Host, an Authorization and a Cookie, which
    are another server's. Any other header may be a token under whatever name.
    """
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() in _GENERATED
        and not (isinstance(value, str) and name.lower() in _NOT_FOR_OTHERS)
    )


GivenHeaders = tuple[tuple[str, str | Generated | None], ...]
"""Headers as from `check_headers`."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not admitted, and the status that says so."""

    status: int
    reason: str


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return host and port (None: not given) of a Host header.

    The host is in lower case; an IPv6 address has no brackets, is in its shortest form, and has
    lost its zone, which says nothing to another machine. Returns None for what is not a host (RFC
    9110 §7.2).
    """
    text = text.lower()
    host: str
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        found = _ADDRESS.fullmatch(host)
        if not bracket or found is None or (port and not port.startswith(":")):
            return None
        try:
            host = IPv6Address(found[1]).compressed
        except ValueError:
            return None
        port = port[1:]
    else:
        host, _, port = text.partition(":")
        if not _HOST_NAME.fullmatch(host):
            return None
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        return None
    return host, int(port)


def parse_origin(text: str) -> Origin | None:
    """Return the parts of an Origin header (RFC 6454 §6.2), None for "null" and anything odd."""
    scheme, _, authority = text.lower().partition("://")
    parsed = parse_host(authority)
    if parsed is None or not _ORIGIN_SCHEME.fullmatch(scheme):
        return None
    host, port = parsed
    return scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else port


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=16)  # the options of a server, asked for at every request
def _names(hosts: tuple[str, ...]) -> frozenset[str]:
    parsed = [parse_host(host) for host in hosts]
    return frozenset(found[0].removesuffix(".") for found in parsed if found is not None)


@lru_cache(maxsize=16)
def _origins(origins: tuple[str, ...]) -> frozenset[Origin | None]:
    return frozenset(parse_origin(origin) for origin in origins)


def _is_local_name(host: str) -> bool:
    name = host.removesuffix(".")
    return _is_address(host) or name == "localhost" or name.endswith(".localhost")


def judge_request(
    request: Request,
    *,
    origins: Collection[str],
    hosts: Collection[str] | None,
    require_origin: bool,
) -> Refusal | None:
    """Return why a request is not admitted by its Host and Origin headers, or None when it is.

    The arguments are those of `ServerOptions`. A page of a foreign site is refused (cross-site
    WebSocket hijacking), and so is a page that reached us under a name that is not ours (DNS
    rebinding): its Origin and Host agree with each other, so only the name can give it away.
    """
    host = parse_host(request.headers.get("Host", ""))
    if host is None:
        return Refusal(400, "the Host header is malformed")
    name, port = host
    # What is no handshake is a page, or a health check, which comes by an address.
    if hosts is not None and name.removesuffix(".") not in _names(tuple(hosts)):
        by_address = not request.is_upgrade and _is_local_name(name)
        if not by_address:
            return Refusal(421, "this server is not known by that Host; see the option hosts")
    given = request.headers.get_all("Origin")
    if not given:
        if require_origin:
            return Refusal(403, "an Origin header is required")
        return None
    if "*" in origins and len(given) == 1:
        return None
    origin = parse_origin(given[0]) if len(given) == 1 else None
    if origin is None:
        return Refusal(403, "this Origin is not admitted")
    if origin in _origins(tuple(origins)):
        return None
    scheme, origin_host, origin_port = origin
    if port is None:
        # Behind a TLS proxy we do not know our own scheme: the origin's says the default port.
        port = _DEFAULT_PORTS.get(scheme)
    # An app's scheme of its own ("capacitor://localhost") is never ours, whatever its host is.
    if port is None or (origin_host, origin_port) != (name, port):
        return Refusal(403, "this Origin is not admitted; see the option origins")
    if hosts is None and not _is_local_name(name):
        return Refusal(421, "this server is not known by that Host; see the option hosts")
    return None


def is_beyond_doubt(request: Request) -> bool:
    """Return whether nobody could refuse this upgrade, or read it otherwise, by RFC 6455 §4.2.1.

    That is for a request for which `judge_request` has nothing to say, and `is_upgrade` yes. All
    others are for who knows the old versions, and what to answer to each mistake.
    """
    headers = request.headers
    if headers.get_all("Sec-WebSocket-Version") != ["13"] or request.target.startswith("//"):
        return False
    keys = headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        return False
    origins = headers.get_all("Origin")
    if origins and (len(origins) > 1 or parse_origin(origins[0]) is None):
        return False
    if "Sec-WebSocket-Protocol" in headers:
        offered = [name.strip() for name in headers["Sec-WebSocket-Protocol"].split(",")]
        if "" in offered or len(set(offered)) != len(offered):
            return False
    return len(headers.get_all("Sec-WebSocket-Extensions")) <= 1


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a key (RFC 6455 §4.2.2)."""
    digest = sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode("ascii")


def check_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Return the subprotocols as a tuple when each is a token and none occurs twice."""
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols is a sequence of names, not one text")
    result = tuple(check_token(name, "subprotocol") for name in subprotocols)
    if len(set(result)) != len(result):
        raise InvalidHeader("a subprotocol is named twice (RFC 6455 §4.1, item 10)")
    return result


def build_request(
    *,
    host: str,
    port: int,
    secure: bool,
    target: str,
    key: str,
    headers: RequestHeaders = (),
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Sequence[str] = (),
    user_agent: str | None = None,
    authorization: str | None = None,
    cookie: str | None = None,
    version: int = 13,
) -> tuple[Request, bytes]:
    """Return the opening handshake's request and its bytes (RFC 6455 §4.1).

    What is generated goes first, in the order of `GENERATED_NAMES`; `headers` follow in the order
    and case given. One of them that has a generated one's name stands for it: it is sent in its
    own place and case, with the value given, with the generated value where that is `GENERATED`,
    or, where it is None, not at all. A Host that `headers` begin with stays the first of all.

    The Host header has a port only when it is not the scheme's own (RFC 9110 §7.2); an IPv6
    address has its brackets and no zone (RFC 6874 §4).

    Raises `InvalidHeader`, also for a generated header that is given twice, for one that a client
    does not say or says otherwise (`subprotocols`), and for Proxy-Authorization, which is
    nobody's business behind the proxy.
    """
    given = check_headers(headers)
    named = {name.lower(): value for name, value in given}
    if origin is not None and isinstance(named.get("origin"), str):
        raise InvalidHeader("Origin is given twice")
    default_port = port == _DEFAULT_PORTS["wss" if secure else "ws"]
    generated = (
        format_host_port(host.partition("%")[0], None if default_port else port),
        "websocket",
        "Upgrade",
        key,
        str(version),
        ", ".join(check_subprotocols(subprotocols)) or None,
        ", ".join(extensions) or None,
        origin,
        user_agent,
        authorization,
        cookie,
    )
    value_of = dict(zip((name.lower() for name in GENERATED_NAMES), generated, strict=True))
    placed: list[tuple[str, str]] = []
    for name, value in given:
        text = value_of[name.lower()] if value is GENERATED else value
        if isinstance(text, str):
            placed.append((name, text))
    unplaced = [
        (name, value)
        for name, value in zip(GENERATED_NAMES, generated, strict=True)
        if value is not None and name.lower() not in named
    ]
    begins = 1 if placed and placed[0][0].lower() == "host" else 0
    pairs = [*placed[:begins], *unplaced, *placed[begins:]]
    request = Request("GET", check_target(target), Headers(pairs))
    lines = [f"GET {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.pairs]
    return request, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
