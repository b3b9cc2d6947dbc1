"""The opening handshake's own rules: what a client sends, and whom a server admits.

RFC 6455 §4. The key, version and extension rules are Autobahn's; here is what it leaves open or
gets wrong: the Host header, the order and safety of what is sent, and the check of Origin and
Host against cross-site use and DNS rebinding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from wsframe.core.http import Headers, HeadersLike, Request, check_target, check_token
from wsframe.core.uri import format_host_port
from wsframe.errors import InvalidHeader

__all__ = [
    "Refusal",
    "build_request",
    "check_subprotocols",
    "judge_request",
    "parse_host",
    "parse_origin",
]

Origin = tuple[str, str, int | None]
"""Scheme, host and port, in lower case; the port is None for a scheme without a default."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ORIGIN_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_ADDRESS: Final = re.compile(r"([0-9a-f:.]+)(%[a-z0-9._~%-]+)?")
_HOST_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")

RESERVED: Final = frozenset(
    {
        "connection",
        "host",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "content-length",
        "upgrade",
    }
)
"""Headers that the handshake itself says; given a second time they would contradict it."""


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


def _names(hosts: Collection[str]) -> set[str]:
    parsed = [parse_host(host) for host in hosts]
    return {found[0].removesuffix(".") for found in parsed if found is not None}


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
    by_address = not request.is_upgrade and _is_local_name(name)
    if hosts is not None and not by_address and name.removesuffix(".") not in _names(hosts):
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
    if origin in {parse_origin(known) for known in origins}:
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
    headers: HeadersLike = (),
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    extensions: Sequence[str] = (),
    user_agent: str | None = None,
    version: int = 13,
) -> tuple[Request, bytes]:
    """Return the opening handshake's request and its bytes (RFC 6455 §4.1).

    `headers` follow in the order and case given; a User-Agent among them takes the place of
    `user_agent`. The Host header has a port only when it is not the scheme's own (RFC 9110 §7.2);
    an IPv6 address has its brackets and no zone (RFC 6874 §4).

    Raises `InvalidHeader`, also for a second Origin, for a header that the handshake says itself,
    and for Proxy-Authorization, which is nobody's business behind the proxy (CVE-2023-32681).
    """
    extra = Headers(headers)
    for name in extra:
        if name in RESERVED:
            raise InvalidHeader(f"header {name!r} is said by the handshake itself")
    if "Proxy-Authorization" in extra:
        raise InvalidHeader("Proxy-Authorization is for the proxy: put it into the proxy's URL")
    if len(extra.get_all("Origin")) + (origin is not None) > 1:
        raise InvalidHeader("Origin is given twice")
    default_port = port == _DEFAULT_PORTS["wss" if secure else "ws"]
    pairs = [
        ("Host", format_host_port(host.partition("%")[0], None if default_port else port)),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", str(version)),
    ]
    if subprotocols:
        pairs.append(("Sec-WebSocket-Protocol", ", ".join(check_subprotocols(subprotocols))))
    if extensions:
        pairs.append(("Sec-WebSocket-Extensions", ", ".join(extensions)))
    if origin is not None:
        pairs.append(("Origin", origin))
    if user_agent is not None and "User-Agent" not in extra:
        pairs.append(("User-Agent", user_agent))
    pairs += extra.pairs
    request = Request("GET", check_target(target), Headers(pairs))
    lines = [f"GET {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.pairs]
    return request, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
