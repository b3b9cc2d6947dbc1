"""URIs, parsed strictly, so that what is connected to is what was meant (RFC 6455 §3)."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote, unquote

from wsframe.errors import InvalidURI

__all__ = [
    "WebSocketURI",
    "basic_credentials",
    "format_host_port",
    "parse_target",
    "parse_uri",
    "split_authority",
    "target_uri",
    "to_ascii_host",
]

_PORTS: Final = {"ws": 80, "wss": 443}
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_LONGEST_NAME: Final = 253  # characters (RFC 1035 §2.3.4, less the root and the first length)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ZONE: Final = re.compile(r"[A-Za-z0-9._~-]+")
_TWO_MEANINGS: Final = re.compile("[ß\u1e9e\u03c2\u200c\u200d]")
"""What IDNA 2003 maps or drops and IDNA 2008 does not: with it, a name is two different ones."""
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_FORBIDDEN_SECRET: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_AUTHORITY: Final = re.compile(
    r"(?:(?P<info>.*)@)?(?P<host>\[[^\[\]@]*\]|[^\[\]@:]*)(?::(?P<port>[0-9]{0,5}))?", re.DOTALL
)
_AS_WEBSOCKET: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_AFTER_AUTHORITY: Final = re.compile("[/?#]")
_HINTS: Final = {"http": "use ws:// instead", "https": "use wss:// instead"}
_TARGET_SAFE: Final = "!$%&'()*+,/:;=?@[]~-._"
_SOCKET: Final = re.compile(r"[^/?#@:\[\]]+")
_LONGEST_SOCKET: Final = 107  # bytes; sun_path on Linux, less the NUL (unix(7))


@dataclass(frozen=True, repr=False)
class WebSocketURI:
    """The parts of a ws:// or wss:// URI.

    `host` is in lower case, in ASCII (IDNA), an IPv6 address without its brackets; `port` is
    always a number; `target` is the path and query as they go into the request line. `user` and
    `password` are decoded, None when not given. `unix_path` is the Unix socket that the server
    listens on, None for TCP; `host` is "localhost" then. `str()` and `repr()` show neither the
    credentials nor the query, which may be secret.
    """

    secure: bool
    host: str
    port: int
    target: str
    user: str | None = None
    password: str | None = None
    unix_path: str | None = None

    @property
    def scheme(self) -> str:
        """Return "wss" or "ws"."""
        return "wss" if self.secure else "ws"

    def __str__(self) -> str:
        path = self.target.partition("?")[0]
        if self.unix_path is not None:
            return f"{self.scheme}+unix://{quote(self.unix_path, safe='')}{path}"
        port = None if self.port == _PORTS[self.scheme] else self.port
        return f"{self.scheme}://{format_host_port(self.host, port)}{path}"

    def __repr__(self) -> str:
        return f"<WebSocketURI {self}>"


def format_host_port(host: str, port: int | None) -> str:
    """Return "host:port", or "host" when port is None; an IPv6 address is put in brackets."""
    if ":" in host:
        host = f"[{host}]"
    return host if port is None else f"{host}:{port}"


def basic_credentials(user: str, password: str) -> str:
    """Return the value of an Authorization header for Basic (RFC 7617), in UTF-8.

    Raises ValueError with a predicate ("has a colon …") that repeats neither.
    """
    if ":" in user:
        raise ValueError("has a colon in the user name (RFC 7617 §2)")
    if _FORBIDDEN_SECRET.search(user + password):
        raise ValueError("has a control character in the credentials (RFC 7617 §2)")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def to_ascii_host(host: str) -> str:
    """Return a host name or address in lower-case ASCII; raise ValueError when it is neither.

    Names beyond ASCII are encoded (IDNA 2003), save those that IDNA 2008 encodes otherwise: for
    them the encoded name has to be given. IPv6 is given without brackets; a zone ("fe80::1%eth0")
    is kept.
    """
    if len(host) > _LONGEST_NAME + 1:
        raise ValueError("the host name is too long")
    address, percent, zone = host.partition("%")
    if ":" in host:
        IPv6Address(address)
        if percent and not _ZONE.fullmatch(zone):
            raise ValueError("the zone of an IPv6 address is malformed")
        return address.lower() + percent + zone
    if not host.isascii():
        if _TWO_MEANINGS.search(host):
            raise ValueError("the host name has two encodings; give the one that is meant (xn--…)")
        host = host.encode("idna").decode("ascii")
    host = host.lower()
    name = host.removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError("the host name is malformed")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        # 127.1, 2130706433 and 0x7f.1 mean an address to some resolvers and a name to others.
        IPv4Address(host)
    return host


def split_authority(text: str) -> tuple[str | None, str | None, str, int | None]:
    """Return user, password, host and port of "user:password@host:port" (RFC 3986 §3.2).

    The host is as from `to_ascii_host`, the credentials are decoded; what is not there is None.

    Raises ValueError with a predicate ("has no host") that quotes nothing of the text. Nor does
    an error of another function hang on to it: it is raised outside of the handlers.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("has a malformed host or port")
    if not found["host"]:
        raise ValueError("has no host")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("has a port that is not from 1 to 65535")
    user = password = None
    try:
        host = to_ascii_host(unquote(found["host"].strip("[]")))
    except ValueError:
        host = ""
    if not host or (":" in host) != found["host"].startswith("["):
        raise ValueError("has a malformed host")
    if found["info"] is not None:
        first, colon, second = found["info"].partition(":")
        user, password = unquote(first), unquote(second) if colon else None
        if "\ufffd" in user + (password or ""):
            raise ValueError("has credentials that are not UTF-8")
        basic_credentials(user, password or "")
    return user, password, host, port


def _socket_path(text: str) -> str:
    """Return the path of a Unix socket, percent-encoded in the place of the host."""
    if not _SOCKET.fullmatch(text):
        raise ValueError(
            "has no percent-encoded path of a Unix socket: ws+unix://%2Frun%2Fapp.sock/"
        )
    path = unquote(text)
    if "\ufffd" in path or "\0" in path:
        raise ValueError("has a Unix socket whose path is not UTF-8, or has a NUL")
    if not path.startswith("/") or len(path.encode()) > _LONGEST_SOCKET:
        raise ValueError(
            f"has a Unix socket whose path is relative or above {_LONGEST_SOCKET} bytes"
        )
    return path


def parse_uri(text: str) -> WebSocketURI:
    """Parse a ws:// or wss:// URI, or ws+unix:// or wss+unix:// for a server on a Unix socket.

    The latter have the path, percent-encoded, in the place of the host, as the URLs of proxies do:
    ws+unix://%2Frun%2Fapp.sock/chat?room=1. What is said to that server is "localhost".

    Characters beyond ASCII in path and query are percent-encoded; blanks, control characters and
    backslashes are refused, as are a fragment (RFC 6455 §3) and a missing host. The error names
    what is wrong, never the user information.

    Raises `InvalidURI`.
    """
    if not isinstance(text, str):
        raise TypeError(f"a URI is a str, not {type(text).__name__}")
    if _FORBIDDEN.search(text):
        raise InvalidURI("the URI has a blank, a control character or a backslash")
    if "#" in text:
        raise InvalidURI("the URI has a fragment (RFC 6455 §3)")
    scheme, colon, rest = text.partition("://")
    scheme, plus, transport = scheme.lower().partition("+")
    if not colon or scheme not in _PORTS or (plus and transport != "unix"):
        hint = _HINTS.get(scheme, "it begins with ws:// or wss://")
        raise InvalidURI(f"the URI is not a WebSocket's: {hint}")
    before, question, query = rest.partition("?")
    authority, _, path = before.partition("/")
    unix_path: str | None = None
    try:
        if plus:
            info, at, socket = authority.rpartition("@")
            authority, unix_path = f"{info}{at}localhost", _socket_path(socket)
        user, password, host, port = split_authority(authority)
    except ValueError as error:
        raise InvalidURI(f"the URI {error}") from None
    return WebSocketURI(
        secure=scheme == "wss",
        host=host,
        port=_PORTS[scheme] if port is None else port,
        target=quote(f"/{path}{question}{query}", safe=_TARGET_SAFE),
        user=user,
        password=password,
        unix_path=unix_path,
    )


def parse_target(text: str) -> WebSocketURI:
    """Return what "host:port", or a ws://, wss://, http:// or https:// URI, leads to.

    https:// is taken as wss:// and http:// as ws://, each with its own port where none is given.
    Plain host:port is taken as wss://: what goes through a tunnel is TLS as a rule. An IPv6 address
    is in brackets. The path, the query, the fragment and the user information of a URI are not a
    tunnel's business, and are left out.

    Raises `InvalidURI`; its text repeats nothing of a URI.
    """
    if not isinstance(text, str):
        raise TypeError(f"a target is a str or a WebSocketURI, not {type(text).__name__}")
    if _FORBIDDEN.search(text):
        raise InvalidURI("the target has a blank, a control character or a backslash")
    scheme, colon, rest = text.partition("://")
    if not colon:
        scheme, rest = "wss", text
        if _AFTER_AUTHORITY.search(text) or "@" in text:
            raise InvalidURI("the target is neither host:port nor a URI that begins with https://")
    elif scheme.lower() not in _AS_WEBSOCKET:
        raise InvalidURI("the target's scheme is ws, wss, http or https, or it is host:port")
    scheme = _AS_WEBSOCKET[scheme.lower()]
    host, port, wrong = "", None, ""
    try:
        _, _, host, port = split_authority(_AFTER_AUTHORITY.split(rest, maxsplit=1)[0])
    except ValueError as error:
        wrong = str(error)
    if not wrong and port is None and not colon:
        wrong = "has no port"
    if wrong:
        raise InvalidURI(f"the target {wrong}")
    return WebSocketURI(scheme == "wss", host, _PORTS[scheme] if port is None else port, "/")


def target_uri(host: str, port: int, *, secure: bool = True) -> WebSocketURI:
    """Return the target at a host (IPv6 without brackets) and port, checked as by `parse_target`.

    Raises `InvalidURI`.
    """
    # Raised outside of the handlers: what the error would hang on to quotes its input.
    ascii_host = ""
    with suppress(ValueError):
        ascii_host = to_ascii_host(host)
    if not ascii_host:
        raise InvalidURI("the target has a malformed host")
    if not 0 < port < 65536:
        raise InvalidURI("the target has a port that is not from 1 to 65535")
    return WebSocketURI(secure, ascii_host, port, "/")
