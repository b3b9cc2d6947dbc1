"""The CONNECT handshake with an HTTP proxy (RFC 9110 §9.3.6): bytes out, bytes in, the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from wsframe.core.http import Headers, HeadersLike
from wsframe.core.http_answer import Answer, AnswerReader, BadAnswer
from wsframe.core.negotiate import ContextFailed, Leg, Negotiation, SecurityContext
from wsframe.core.proxy import SAID_BY_CONNECT, Proxy
from wsframe.core.proxy_auth import BadChallenge, ProxyAuth, keeps_connection, read_challenges
from wsframe.core.tunnel import Step
from wsframe.core.uri import format_host_port, to_ascii_host
from wsframe.errors import (
    BadProxyAnswer,
    InvalidHeader,
    InvalidProxy,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyCredentialsFailed,
    ProxyError,
    ProxyRefused,
    status_text,
)

__all__ = ["HTTPConnect"]

MAX_SKIPPED_BODY: Final = 64 * 1024
"""Bytes of the body of a 407 that are read past where the next leg has to follow on the same
connection; nobody sees them. Pages that explain the log-in have some kilobytes."""


class HTTPConnect:
    """One CONNECT through one proxy: a `TunnelHandshake`.

    The proxy's token, or its password in Basic, goes out with the first request, or, where
    `unasked` is false, with none before the proxy has asked. A 407 is answered with what it asks
    for, as `ProxyAuth` does it: on the same connection where the proxy keeps it, else on a new one.

    Where the proxy is marked with `auth`, nothing goes out unasked, and a 407 is answered in that
    scheme alone, by a `SecurityContext` that `new_context` makes. Its steps are the `work` of ours.
    The token that may come with the end (RFC 4559 §5) is not looked at: who the proxy is, TLS says.

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
        new_context: Callable[[], SecurityContext] | None = None,
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
            if name in SAID_BY_CONNECT:
                raise InvalidHeader(f"header {name!r} is said by the CONNECT itself")
        self._max_head = max_head
        self._max_body = max_body
        self._auth = ProxyAuth(proxy, self._target)
        self._negotiation: Negotiation | None = None
        if proxy.auth is not None:
            if new_context is None:
                raise InvalidProxy(f"auth={proxy.auth!r} takes a security context")
            self._negotiation = Negotiation(proxy.auth, new_context)
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
        max_body = self._max_body
        if self._negotiation is not None:
            max_body = max(max_body, MAX_SKIPPED_BODY)
        self._reader = AnswerReader(tunnel=True, max_head=self._max_head, max_body=max_body)

    def receive(self, data: bytes) -> Step:
        """Take the proxy's bytes in (`b""`: the end); return what follows from them."""
        # A proxy that says it keeps a connection may end it all the same; not one that has begun
        # to answer.
        kept, self._kept = self._kept, False
        if kept and not data:
            again = self._again()
            if again is not None:
                return again
        try:
            answer = self._reader.receive(data)
        except BadAnswer as error:
            raise self._bad(str(error)) from None
        if answer is None:
            return self._without_its_body() or Step()
        if answer.switched:
            detail = f"HTTP {answer.status}, {self._scheme}".rstrip(", ")
            return Step(leftover=answer.trailing, detail=detail)
        return self._refused(answer)

    def _without_its_body(self) -> Step | None:
        """Return the answer to a 407 whose body has no end but that of the connection.

        Some proxies send none, and wait for the next request; as this connection cannot be used
        again, there is nothing to wait for. None when there is no answer: then the body is told.
        """
        answer = self._reader.so_far() if self._reader.endless else None
        if answer is None or answer.status != 407:
            return None
        return self._answer(answer)

    def refusal(self) -> ProxyError | None:
        """Return the refusal whose body is still to come, None where there is none."""
        answer = self._reader.so_far()
        return None if answer is None or answer.switched else self._error(answer)

    def _again(self) -> Step | None:
        """Return how to go on where the connection ended before any answer, None for not at all."""
        if self._negotiation is None:
            self._listen()
            return Step(reconnect=True)
        return self._make(self._negotiation.again(), self._negotiation, kept=False)

    def _answer(self, answer: Answer) -> Step | None:
        """Return the answer to a 407, None when there is none (any more)."""
        if self._negotiation is not None:
            return self._negotiate(answer, self._negotiation)
        credentials = self._auth.answer(answer.headers, complete=answer.reusable)
        if credentials is None:
            return None
        return self._send(credentials.value, kept=credentials.same_connection)

    def _negotiate(self, answer: Answer, negotiation: Negotiation) -> Step | None:
        kept = answer.reusable and keeps_connection(answer.headers)
        challenges = read_challenges(self._proxy, answer.headers)
        wrong, leg = "", None
        try:
            leg = negotiation.answer(challenges, kept=kept)
        except BadChallenge as error:
            wrong = str(error)
        if wrong:
            raise self._bad(wrong)
        return self._make(leg, negotiation, kept=kept)

    def _make(self, leg: Leg | None, negotiation: Negotiation, *, kept: bool) -> Step | None:
        """Return the work that a leg is, None for none."""

        def work(leg: Leg) -> Callable[[], Step]:
            token = leg.run()
            return lambda: self._made(leg, token, negotiation, kept=kept)

        return None if leg is None else Step(work=partial(work, leg))

    def _made(
        self, leg: Leg, token: bytes | ContextFailed, negotiation: Negotiation, *, kept: bool
    ) -> Step:
        if isinstance(token, bytes):
            return self._send(negotiation.say(token), kept=kept)
        if leg.token is not None:
            raise self._bad(f"its token for {self._proxy.auth} cannot be used: {token}")
        text = f"{self._proxy}: the authentication ({self._proxy.auth}) cannot begin: {token}"
        raise ProxyCredentialsFailed(text, proxy=str(self._proxy))

    def _send(self, credentials: str, *, kept: bool) -> Step:
        self._begin(credentials)
        self._kept = kept
        return Step(self.request) if kept else Step(reconnect=True)

    def _bad(self, text: str) -> BadProxyAnswer:
        return BadProxyAnswer(f"{self._proxy}: {text}", proxy=str(self._proxy))

    def _refused(self, answer: Answer) -> Step:
        step = self._answer(answer) if answer.status == 407 else None
        if step is None:
            raise self._error(answer)
        return step

    def _error(self, answer: Answer) -> ProxyError:
        kind: type[ProxyError] = ProxyRefused
        sent = self._auth.sent or (self._negotiation is not None and self._negotiation.sent)
        if answer.status == 401 and sent:
            kind = ProxyAuthRefused  # tinyproxy's way to say that the password is wrong
        elif answer.status == 407:
            kind = ProxyAuthRefused if sent else ProxyAuthRequired
        return kind(
            f"{self._proxy} answered {status_text(answer.status)} to CONNECT {self._target}",
            proxy=str(self._proxy),
            status=answer.status,
            headers=answer.headers.pairs,
            body=answer.body[: self._max_body],
        )
