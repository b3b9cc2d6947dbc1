"""HTTP heads: their parts, the check of every part, and the bytes they are on the wire.

A head is what precedes the WebSocket or the tunnel: a start line and header fields (RFC 9112).
The checks are stricter than HTTP in one way: bytes that some parsers take for the end of a line
(all control characters, and 0x85) are refused everywhere, so that no head means two different
things to two readers (CVE-2026-44546).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from wsframe.errors import InvalidHeader

__all__ = [
    "BadAnswer",
    "Headers",
    "HeadersLike",
    "Request",
    "RequestHeadError",
    "RequestHeadReader",
    "Response",
    "check_header",
    "check_reason",
    "check_target",
    "check_token",
    "phrase",
]

HeadersLike = Mapping[str, str] | Iterable[tuple[str, str]]
"""What is accepted where headers are given: a mapping, or pairs when order or repeats matter."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
_BAD_IN_VALUE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f\x85]")
_FIELD: Final = re.compile("([!#$%&'*+\\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f\x85]*)")
"""A header line in which nothing is to be refused; `check_header` says the same, with reasons."""

_BAD_IN_TARGET: Final = re.compile(r"[^\x21-\x7e]")
_HEAD_END: Final = b"\r\n\r\n"
_OURS: Final = frozenset({"connection", "content-length", "transfer-encoding"})


def phrase(status: int) -> str:
    """Return the reason phrase of an HTTP status, or an empty text for one without a name."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def check_token(text: str, what: str) -> str:
    """Return `text` when it is an HTTP token (RFC 9110 §5.6.2); `what` names it in the error.

    The text itself is not repeated in the error: clients put secrets into subprotocols, and a
    header written as one text has its value in it.
    """
    if not text:
        raise InvalidHeader(f"{what} is empty")
    if not _TOKEN.fullmatch(text):
        found = next(char for char in text if not _TOKEN.fullmatch(char))
        raise InvalidHeader(f"{what} has {found!r}, which no token has (RFC 9110 §5.6.2)")
    return text


def check_header(name: str, value: str) -> tuple[str, str]:
    """Return the pair, the value without outer blanks, when it can be put into a head.

    Raises `InvalidHeader` for a name that is not a token, and for a value with a control
    character or with a character that ISO 8859-1 cannot express. The value itself is not
    repeated in the error: it may be a secret.
    """
    if not isinstance(name, str):
        raise TypeError(f"a header name is a str, not {type(name).__name__}")
    check_token(name, "header name")
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} is a str, not {type(value).__name__}")
    if _BAD_IN_VALUE.search(value):
        raise InvalidHeader(f"the value of header {name!r} has a control character")
    if any(ord(char) > 0xFF for char in value):
        raise InvalidHeader(f"the value of header {name!r} is not ISO 8859-1")
    return name, value.strip(" \t")


def check_reason(reason: str) -> str:
    """Return a reason phrase (RFC 9112 §4) when it can be put into a head."""
    if _BAD_IN_VALUE.search(reason):
        raise InvalidHeader("the reason phrase has a control character")
    if any(ord(char) > 0xFF for char in reason):
        raise InvalidHeader("the reason phrase is not ISO 8859-1")
    return reason


def check_target(target: str) -> str:
    """Return a request target (RFC 9112 §3.2.1) when it is a path, in visible ASCII characters.

    It is not repeated in the error: its query may be a secret.
    """
    if not target.startswith("/"):
        raise InvalidHeader("the request target does not begin with a slash")
    if _BAD_IN_TARGET.search(target):
        raise InvalidHeader("the request target has a blank, a control or a non-ASCII character")
    if "#" in target:
        raise InvalidHeader("the request target has a fragment")
    return target


class Headers(Mapping[str, str]):
    """Header fields in the order they came, found by name in any case.

    `headers[name]` joins repeated fields with ", " as RFC 9110 §5.3 says; `get_all(name)` gives
    them one by one, and `pairs` everything as received. The whole is immutable.
    """

    # Either the pairs, and what was made of them to find a name, or one text.
    __slots__ = ("_index", "_pairs", "_text")

    _index: dict[str, list[str]] | None
    _pairs: tuple[tuple[str, str], ...]
    _text: str | None

    def __init__(self, headers: HeadersLike = ()) -> None:
        items = headers.items() if isinstance(headers, Mapping) else headers
        self._pairs = tuple([check_header(name, value) for name, value in items])
        self._index = self._text = None

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Headers:
        """Return the fields of a head, given its lines without their ends.

        Raises `InvalidHeader` as the constructor does, and for a line without a colon.
        """
        pairs = []
        for line in lines:
            found = _FIELD.fullmatch(line)
            if found is not None:
                name, value = found.groups()
                pairs.append((name, value.strip(" \t")))
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise InvalidHeader("a header line has no colon")
            pairs.append(check_header(name, value))
        headers = cls()
        headers._pairs = tuple(pairs)
        return headers

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every field as received, its name and its value."""
        if self._text is None:
            return self._pairs
        # No name has a colon, and no value the end of a line.
        lines = self._text.split("\n") if self._text else []
        return tuple([(name, value) for name, _, value in (line.partition(":") for line in lines)])

    def pack(self) -> None:
        """Keep the fields as one text from now on, in a fifth of the memory; to read takes longer.

        For what is kept for hours and asked for seldom.
        """
        if self._text is None:
            self._text = "\n".join([f"{name}:{value}" for name, value in self._pairs])
            self._pairs, self._index = (), None

    @property
    def _by_name(self) -> dict[str, list[str]]:
        if self._index is not None:
            return self._index
        by_name: dict[str, list[str]] = {}
        for name, value in self.pairs:
            by_name.setdefault(name.lower(), []).append(value)
        if self._text is None:
            self._index = by_name
        return by_name

    def get_all(self, name: str) -> list[str]:
        """Return the values of every field of that name, in order; empty when there is none."""
        return list(self._by_name.get(name.lower(), ()))

    def tokens(self, name: str) -> list[str]:
        """Return the comma-separated parts of every field of that name, without blanks."""
        values = self._by_name.get(name.lower(), ())
        parts = (part.strip(" \t") for value in values for part in value.split(","))
        return [part for part in parts if part]

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._by_name[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):
            return self.pairs == other.pairs
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        # Values may be secrets: only the names are shown.
        return f"<Headers {', '.join(name for name, _ in self.pairs)}>"


@dataclass(frozen=True, slots=True)
class Request:
    """The head of an opening handshake, or of any other GET or HEAD on a server's port.

    `target` is the request target as sent, `path` its path with percent-encoding decoded,
    `query` the text behind the question mark, undecoded. `peer` names the client's address.
    """

    method: str
    target: str
    headers: Headers
    peer: str = ""
    path: str = field(init=False)
    query: str = field(init=False)

    def __post_init__(self) -> None:
        path, _, query = self.target.partition("?")
        object.__setattr__(self, "path", unquote(path))
        object.__setattr__(self, "query", query)

    @property
    def is_upgrade(self) -> bool:
        """Whether the client asks for a WebSocket (RFC 6455 §4.2.1, items 3 and 4)."""
        return "websocket" in [token.lower() for token in self.headers.tokens("Upgrade")] and (
            "upgrade" in [token.lower() for token in self.headers.tokens("Connection")]
        )

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols offered, in the client's order of preference."""
        return tuple(self.headers.tokens("Sec-WebSocket-Protocol"))

    def __repr__(self) -> str:
        # The query may carry a token.
        return f"<Request {self.method} {self.path!r} from {self.peer}>"


@dataclass(frozen=True)
class Response:
    """A complete HTTP answer: status, headers, body.

    For a server it is what `process_request` returns to answer something else than 101; for a
    client it is the head of the answer to its opening handshake, with an empty body.
    """

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    reason: str | None = None

    def __post_init__(self) -> None:
        if not 100 <= self.status <= 599:
            raise ValueError(f"{self.status} is not an HTTP status")
        if not isinstance(self.body, bytes):
            raise TypeError(f"the body of an answer is bytes, not {type(self.body).__name__}")
        if self.reason is not None:
            check_reason(self.reason)
        if type(self.headers) is not Headers:  # pairs or a mapping, where the types are not checked
            object.__setattr__(self, "headers", Headers(self.headers))

    @classmethod
    def text(cls, status: int, body: str | None = None, headers: HeadersLike = ()) -> Response:
        """Return an answer in plain text; `body` None gives the status' own phrase."""
        given = Headers(headers)
        pairs = list(given.pairs)
        if "Content-Type" not in given:
            pairs.append(("Content-Type", "text/plain; charset=utf-8"))
        if body is None:
            body = f"{status} {phrase(status)}".rstrip()
        body = body.removesuffix("\n")
        return cls(status, Headers(pairs), f"{body}\n".encode())

    def encode(self, *, with_body: bool = True) -> bytes:
        """Return the bytes of an answer after which the connection is closed.

        Content-Length and Connection are ours to say; those given are dropped. A status that has
        no body (RFC 9110 §6.4.1) is sent without one. A client that guesses at content types is
        told not to (X-Content-Type-Options).
        """
        reason = phrase(self.status) if self.reason is None else self.reason
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        lines += [
            f"{name}: {value}" for name, value in self.headers.pairs if name.lower() not in _OURS
        ]
        if "X-Content-Type-Options" not in self.headers:
            lines.append("X-Content-Type-Options: nosniff")
        if self.status < 200 or self.status in {204, 304}:
            with_body = False
        else:
            lines.append(f"Content-Length: {len(self.body)}")
        # Who sends Upgrade names it in Connection too (RFC 9110 §7.8).
        lines.append(f"Connection: {'Upgrade, close' if 'Upgrade' in self.headers else 'close'}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + self.body if with_body else head


class BadAnswer(Exception):
    """What came is not an HTTP answer, or exceeds a limit; the text says which."""


class RequestHeadError(Exception):
    """A request head that is answered with an error; `status` is the answer's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RequestHeadReader:
    """Collect the bytes of one request head, within limits, and take it apart.

    `receive(data)` returns None while the head is incomplete, and then, once, the `Request` with
    its own bytes and those that came behind it. It raises `RequestHeadError`: 431 over `max_size`
    bytes or `max_count` fields (RFC 6585 §5), 400 for control bytes and malformed lines, 405, 501
    or 505 for what is never spoken here. What is too large, and what does not begin as a request
    (TLS on the wrong port, say), is refused before the head ends. The outcome depends on the bytes
    alone and not on how they were cut, and the time is linear in them. `raw` is the head, once it
    is complete.
    """

    __slots__ = ("_data", "_max_count", "_max_size", "_peer", "_searched", "raw")

    def __init__(self, max_size: int, max_count: int, peer: str = "") -> None:
        self._max_size = max_size
        self._max_count = max_count
        self._peer = peer
        self.raw = b""
        self._data: bytearray | None = None
        self._searched = 0

    def receive(self, data: bytes) -> tuple[Request, bytes, bytes] | None:
        """Take bytes in; return the request, its head's bytes and what follows, when complete."""
        came: bytes | bytearray = data  # nearly always a whole head: no copy is made of it
        if self._data is not None:
            self._data += data
            came = self._data
        if came and not 0x41 <= came[0] <= 0x5A:
            raise RequestHeadError(400, "this is not an HTTP request")
        end = came.find(_HEAD_END, self._searched)
        size = len(came) if end < 0 else end + len(_HEAD_END)
        if size > self._max_size:
            raise RequestHeadError(431, f"the head is larger than {self._max_size} bytes")
        if end < 0:
            # The terminator may be cut in two: search again from its possible start.
            self._searched = max(0, size - len(_HEAD_END) + 1)
            if self._data is None:
                self._data = bytearray(data)
            return None
        self._data = None
        self.raw, rest = bytes(came[:size]), bytes(came[size:])
        return self._parse(self.raw), self.raw, rest

    def _parse(self, head: bytes) -> Request:
        lines = head[: -len(_HEAD_END)].decode("latin-1").split("\r\n")
        if len(lines) - 1 > self._max_count:
            raise RequestHeadError(431, f"the head has more than {self._max_count} fields")
        method, target = _parse_request_line(lines[0])
        del lines[0]
        try:
            headers = Headers.parse(lines)
        except InvalidHeader as error:
            raise RequestHeadError(400, str(error)) from None
        _check_framing(headers)
        return Request(method, target, headers, self._peer)


def _parse_request_line(line: str) -> tuple[str, str]:
    parts = line.split(" ")
    if len(parts) != 3:
        raise RequestHeadError(400, "the request line is malformed")
    method, target, version = parts
    if not _TOKEN.fullmatch(method):
        raise RequestHeadError(400, "the request line is malformed")
    if version != "HTTP/1.1":
        # A WebSocket needs 1.1 (RFC 6455 §4.2.1); health checks that speak 1.0 are told so.
        status = 505 if re.fullmatch(r"HTTP/\d\.\d", version) else 400
        raise RequestHeadError(status, "only HTTP/1.1 is spoken here")
    if method not in {"GET", "HEAD"}:
        raise RequestHeadError(405, "only GET is allowed here")
    try:
        return method, check_target(target)
    except InvalidHeader as error:
        raise RequestHeadError(400, str(error)) from None


def _check_framing(headers: Headers) -> None:
    """Refuse a body: a GET here has none, and a disputed length is how requests are smuggled."""
    if "Transfer-Encoding" in headers:
        raise RequestHeadError(501, "a body is not accepted here")
    if any(value != "0" for value in headers.get_all("Content-Length")):
        raise RequestHeadError(413, "a body is not accepted here")
    if len(headers.get_all("Host")) != 1:
        raise RequestHeadError(400, "there must be exactly one Host header")
