"""The CONNECT handshake with an HTTP proxy (RFC 9110 §9.3.6): bytes out, bytes in, the rest."""

from __future__ import annotations

from wsframe.core.http import Headers, HeadersLike
from wsframe.core.http_answer import AnswerReader, BadAnswer
from wsframe.core.proxy import Proxy
from wsframe.core.tunnel import Step
from wsframe.core.uri import basic_credentials, format_host_port, to_ascii_host
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

    Only 407 is a question for the proxy's credentials: they are sent with the request, and a
    server's 401 never gets them a second time (CVE-2026-86414).

    Raises `ProxyError` of the fitting kind from `receive`; `InvalidHeader` from the constructor.
    """

    def __init__(
        self,
        proxy: Proxy,
        host: str,
        port: int,
        *,
        headers: HeadersLike = (),
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
        extra = Headers(headers)
        for name in extra:
            if name in _OURS:
                raise InvalidHeader(f"header {name!r} is said by the CONNECT itself")
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if proxy.user is not None:
            credentials = basic_credentials(proxy.user, proxy.password or "")
            lines.append(f"Proxy-Authorization: {credentials}")
        lines += [f"{name}: {value}" for name, value in extra.pairs]
        self.request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._reader = AnswerReader(tunnel=True, max_head=max_head, max_body=max_body)

    def receive(self, data: bytes) -> Step:
        """Take the proxy's bytes in (`b""`: the end); return what follows from them."""
        try:
            answer = self._reader.receive(data)
        except BadAnswer as error:
            text = f"{self._proxy}: {error}"
            raise BadProxyAnswer(text, proxy=str(self._proxy)) from None
        if answer is None:
            return Step()
        if answer.switched:
            return Step(leftover=answer.trailing)
        kind: type[ProxyError] = ProxyRefused
        if answer.status == 401 and self._proxy.user is not None:
            kind = ProxyAuthRefused  # tinyproxy's way to say that the password is wrong
        elif answer.status == 407:
            kind = ProxyAuthRequired if self._proxy.user is None else ProxyAuthRefused
        said = f"{answer.status} {printable(answer.reason)}".rstrip()
        raise kind(
            f"{self._proxy} answered {said} to CONNECT {self._target}",
            proxy=str(self._proxy),
            status=answer.status,
            headers=answer.headers.pairs,
            body=answer.body,
        )
