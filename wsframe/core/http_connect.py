"""The CONNECT handshake with an HTTP proxy (RFC 9110 §9.3.6): bytes out, bytes in, the rest."""

from __future__ import annotations

from wsframe.core.http import Headers, HeadersLike
from wsframe.core.http_answer import Answer, AnswerReader, BadAnswer
from wsframe.core.proxy import Proxy
from wsframe.core.proxy_auth import ProxyAuth
from wsframe.core.tunnel import Step
from wsframe.core.uri import format_host_port, to_ascii_host
from wsframe.errors import (
    BadProxyAnswer,
    InvalidHeader,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    ProxyRefused,
    printable,
)

__all__ = ["HTTPConnect"]

_OURS = frozenset({"host", "proxy-authorization", "content-length", "transfer-encoding"})


class HTTPConnect:
    """One CONNECT through one proxy: a `TunnelHandshake`.

    The proxy's token, or its password in Basic, goes out with the first request, or, where
    `unasked` is false, with none before the proxy has asked. A 407 is answered with what it asks
    for, as `ProxyAuth` does it: on the same connection where the proxy keeps it, else on a new one.

    Only 407 is a question for the proxy's credentials: a server's 401 never gets them a second
    time (CVE-2026-86414).

    Raises `ProxyError` of the fitting kind from `receive`; `InvalidHeader` and `InvalidProxy` from
    the constructor.
    """

    request: bytes

    def __init__(
        self,
        proxy: Proxy,
        host: str,
        port: int,
        *,
        headers: HeadersLike = (),
        unasked: bool = True,
        max_head: int,
        max_body: int,
    ) -> None:
        try:
            host = to_ascii_host(host)
        except ValueError:
            raise InvalidHeader("the tunnel's target host is malformed") from None
        if "%" in host:
            raise InvalidHeader(
                "the zone of an IPv6 address means nothing to a proxy (RFC 6874 §4)"
            )
        if not 0 < port < 65536:
            raise InvalidHeader(f"the tunnel's target port is from 1 to 65535, not {port}")
        self._proxy = proxy
        self._target = format_host_port(host, port)
        self._extra = Headers(headers)
        for name in self._extra:
            if name in _OURS:
                raise InvalidHeader(f"header {name!r} is said by the CONNECT itself")
        self._limits = max_head, max_body
        self._auth = ProxyAuth(proxy, self._target)
        self._kept = False
        self._begin(self._auth.unasked() if unasked else None)

    def _begin(self, credentials: str | None) -> None:
        """Make the request with these credentials, and wait for its answer."""
        self._scheme = "" if credentials is None else credentials.partition(" ")[0]
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if credentials is not None:
            lines.append(f"Proxy-Authorization: {credentials}")
        lines += [f"{name}: {value}" for name, value in self._extra.pairs]
        self.request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._listen()

    def _listen(self) -> None:
        max_head, max_body = self._limits
        self._reader = AnswerReader(tunnel=True, max_head=max_head, max_body=max_body)

    def receive(self, data: bytes) -> Step:
        """Take the proxy's bytes in (`b""`: the end); return what follows from them."""
        # A proxy that says it keeps a connection may end it all the same; not one that has begun
        # to answer.
        kept, self._kept = self._kept, False
        if kept and not data:
            self._listen()
            return Step(reconnect=True)
        try:
            answer = self._reader.receive(data)
        except BadAnswer as error:
            text = f"{self._proxy}: {error}"
            raise BadProxyAnswer(text, proxy=str(self._proxy)) from None
        if answer is None:
            return Step()
        if answer.switched:
            detail = f"HTTP {answer.status}, {self._scheme}".rstrip(", ")
            return Step(leftover=answer.trailing, detail=detail)
        return self._refused(answer)

    def _refused(self, answer: Answer) -> Step:
        kind: type[ProxyError] = ProxyRefused
        if answer.status == 401 and self._auth.sent:
            kind = ProxyAuthRefused  # tinyproxy's way to say that the password is wrong
        elif answer.status == 407:
            credentials = self._auth.answer(answer.headers, complete=answer.reusable)
            if credentials is not None:
                self._begin(credentials.value)
                self._kept = credentials.same_connection
                return Step(self.request) if self._kept else Step(reconnect=True)
            kind = ProxyAuthRefused if self._auth.sent else ProxyAuthRequired
        said = f"{answer.status} {printable(answer.reason)}".rstrip()
        raise kind(
            f"{self._proxy} answered {said} to CONNECT {self._target}",
            proxy=str(self._proxy),
            status=answer.status,
            headers=answer.headers.pairs,
            body=answer.body,
        )
