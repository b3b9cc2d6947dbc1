"""Every exception that wsframe raises.

The tree, with the side that is to blame in the type rather than in the text::

    WSFrameError
    ├── InvalidURI (ValueError)             the URI given cannot be used
    ├── InvalidHeader (ValueError)          a header, path or subprotocol given cannot be sent
    ├── InvalidProxy (ValueError)           the proxy setting given cannot be used
    ├── InvalidTLSOptions (ValueError)      a certificate, key or other TLS option cannot be used
    ├── InvalidTokenFile (ValueError)       a file of secrets is malformed or readable by others
    ├── OpenError                           no connection came about; `phase` says where it ended
    │   ├── NameLookupFailed                phase dns
    │   ├── TCPConnectFailed                phase tcp
    │   ├── TLSFailed                       phase tls; with a proxy: ProxyTLSFailed
    │   ├── ProxyError                      phase proxy; carries the proxy and what it answered
    │   │   ├── ProxyUnreachable            the proxy itself is not connected to; phase dns, tcp
    │   │   ├── ProxyTLSFailed (TLSFailed)  phase proxy-tls
    │   │   ├── ProxyTimeout (OpenTimeout)  the deadline passed on the way to it, or with it
    │   │   ├── ProxyCredentialsFailed      its credentials were not to be had; it was told nothing
    │   │   ├── ProxyAuthRequired           it asks for credentials, and there were none that fit
    │   │   ├── ProxyAuthRefused            it did not take the credentials
    │   │   ├── ProxyRefused                any other refusal
    │   │   │   └── TargetUnreachable       it tried, and says that it cannot reach the target
    │   │   └── BadProxyAnswer              not HTTP, not SOCKS, cut short, or over a limit
    │   ├── HandshakeRefused                the server answered with a status other than 101
    │   ├── BadHandshake                    the server answered 101, or something, that is not valid
    │   ├── OpenTimeout (TimeoutError)      the deadline passed; `phase` is what it passed in
    │   └── OpenCancelled                   the attempt was cancelled
    ├── ConnectionClosed                    the WebSocket is closed; code, reason, who began
    │   ├── ConnectionClosedOK              closed normally (1000, 1001, or without a code)
    │   └── ConnectionClosedError           anything else
    ├── HookTimeout (TimeoutError)          a hook of a client that stays connected took too long
    ├── ReceiveTimeout (TimeoutError)       recv(timeout) waited that long in vain; nothing is lost
    ├── ConcurrencyError (RuntimeError)     two callers where only one can be served
    ├── SendBufferFull                      more is waiting to be sent than the options allow
    ├── NotSent                             a message for a client's outbox was never sent
    │   └── OutboxFull                      there was no room, or newer ones took its place
    └── Reject                              raised by `process_request` to refuse a client
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal, NamedTuple

__all__ = [
    "AddressFailure",
    "BadHandshake",
    "BadProxyAnswer",
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "HandshakeRefused",
    "HookTimeout",
    "InvalidHeader",
    "InvalidProxy",
    "InvalidTLSOptions",
    "InvalidTokenFile",
    "InvalidURI",
    "NameLookupFailed",
    "NotSent",
    "OpenCancelled",
    "OpenError",
    "OpenTimeout",
    "OutboxFull",
    "Phase",
    "ProxyAuthRefused",
    "ProxyAuthRequired",
    "ProxyCredentialsFailed",
    "ProxyError",
    "ProxyRefused",
    "ProxyTLSFailed",
    "ProxyTimeout",
    "ProxyUnreachable",
    "ReceiveTimeout",
    "Reject",
    "SendBufferFull",
    "Side",
    "TCPConnectFailed",
    "TLSFailed",
    "TargetUnreachable",
    "WSFrameError",
]

Phase = Literal["dns", "tcp", "proxy-tls", "proxy", "tls", "handshake"]
"""The link of the chain of endpoints in which an attempt to open ended."""

Side = Literal["local", "remote"]
"""Which end of a connection did something: this one or the peer."""

OK_CODES = frozenset({1000, 1001, 1005})
"""Close codes of a normal end: done, going away, and a Close frame without a code."""


def printable(text: str) -> str:
    """Return a peer's text as it may stand in an error: what a terminal would obey is escaped."""
    return text if text.isprintable() else repr(text)[1:-1]


def status_text(status: int) -> str:
    """Return an HTTP status with the phrase that is registered for it, if any is."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


class WSFrameError(Exception):
    """The root of all errors of wsframe."""


class InvalidURI(WSFrameError, ValueError):
    """The text is not a ws:// or wss:// URI that can be connected to."""


class InvalidHeader(WSFrameError, ValueError):
    """A header name or value, a path, or a subprotocol cannot be put into a handshake."""


class InvalidProxy(WSFrameError, ValueError):
    """The proxy setting cannot be used; the text says what would be right."""


class InvalidTLSOptions(WSFrameError, ValueError):
    """A file or a value of the TLS options cannot be used; the text names the option."""


class InvalidTokenFile(WSFrameError, ValueError):
    """A file of tokens or passwords is malformed, or others than its owner may read it."""


class OpenError(WSFrameError):
    """No open WebSocket came about.

    `phase` is the link of the chain in which the attempt ended, None when it is not known.
    `others` are what the ways before failed with, where a list of proxies was tried. `at_deadline`
    says whether the time was waited out, also for a refusal whose body did not end.
    """

    phase: Phase | None = None
    others: tuple[OpenError, ...] = ()
    at_deadline: bool = False

    def __init__(self, message: str, *, phase: Phase | None = None) -> None:
        super().__init__(message)
        if phase is not None:
            self.phase = phase


class NameLookupFailed(OpenError):
    """The host name has no address, or the name service did not answer."""

    phase = "dns"


class AddressFailure(NamedTuple):
    """One address that was tried, as host:port or a Unix socket's path, and what came of it."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class TCPConnectFailed(OpenError):
    """No address of the host accepted a TCP (or UNIX socket) connection.

    `attempts` has an `AddressFailure` for each address tried, in the order of their ends.
    """

    phase = "tcp"

    def __init__(self, message: str, *, attempts: tuple[AddressFailure, ...] = ()) -> None:
        super().__init__(message)
        self.attempts = attempts


class TLSFailed(OpenError):
    """The TLS handshake failed: certificate, host name, or protocol.

    `certificate` says whether the peer's certificate was not accepted here, its host name
    included; otherwise the handshake was cut off, or ended in an error of the protocol.
    """

    phase: Phase | None = "tls"

    def __init__(
        self, message: str, *, phase: Phase | None = None, certificate: bool = False
    ) -> None:
        super().__init__(message, phase=phase)
        self.certificate = certificate


class ProxyError(OpenError):
    """The proxy did not open the tunnel.

    `proxy` is the proxy without its password, `status` the HTTP status of its answer (None when
    there was none), `headers` and `body` what came with it; the body is cut at a limit. `code` is
    the reply code of a SOCKS proxy (RFC 1928 §6; 91 to 93 with SOCKS4), None when there was none.
    """

    phase: Phase | None = "proxy"

    def __init__(
        self,
        message: str,
        *,
        proxy: str,
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        code: int | None = None,
        phase: Phase | None = None,
    ) -> None:
        OpenError.__init__(self, message, phase=phase)
        self.proxy = proxy
        self.status = status
        self.headers = headers
        self.body = body
        self.code = code


class ProxyUnreachable(ProxyError):
    """The proxy itself has no address, or no address of it accepted a connection.

    `phase` is "dns" or "tcp"; `attempts` are as in `TCPConnectFailed`.
    """

    def __init__(
        self,
        message: str,
        *,
        proxy: str,
        phase: Phase,
        attempts: tuple[AddressFailure, ...] = (),
    ) -> None:
        super().__init__(message, proxy=proxy, phase=phase)
        self.attempts = attempts


class ProxyTLSFailed(ProxyError, TLSFailed):
    """The TLS handshake with an https proxy failed; `certificate` is as in `TLSFailed`."""

    phase = "proxy-tls"

    def __init__(self, message: str, *, proxy: str, certificate: bool = False) -> None:
        super().__init__(message, proxy=proxy)
        self.certificate = certificate


class ProxyCredentialsFailed(ProxyError):
    """The credentials for the proxy were not to be had, or cannot be used; it was given none.

    What was asked for them failed: `Proxy.credentials`, or Kerberos. The text names the kind of an
    exception from outside of wsframe and not what it says, which may be a secret.
    """


class ProxyAuthRequired(ProxyError):
    """The proxy asks for credentials, and none were given, or none of a kind that it takes."""


class ProxyAuthRefused(ProxyError):
    """The proxy was given credentials and did not take them."""


class ProxyRefused(ProxyError):
    """The proxy answered with a status that is neither 2xx nor 407, or with a SOCKS code."""


class TargetUnreachable(ProxyRefused):
    """The proxy was willing and says that the target is not: unreachable, or refusing."""


class BadProxyAnswer(ProxyError):
    """The proxy's answer is neither HTTP nor SOCKS, was cut short, or exceeds a limit."""


class HandshakeRefused(OpenError):
    """The server answered the opening handshake with a status other than 101.

    `status`, `reason`, `headers` (pairs in the order received) and `body` (cut at
    `ClientOptions.max_refusal_body` bytes) are the server's. `note` is what the text says more:
    why a redirect was not followed.
    """

    phase = "handshake"

    def __init__(
        self,
        status: int,
        reason: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes,
        *,
        note: str = "",
    ) -> None:
        # Nothing in the server's words: some repeat what they were sent, tokens included.
        text = f"server answered {status_text(status)}"
        super().__init__(f"{text}; {note}" if note else text)
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body


class BadHandshake(OpenError):
    """The server's answer to the opening handshake is not a valid one."""

    phase = "handshake"


class OpenTimeout(OpenError, TimeoutError):
    """The connection was not open at the deadline; `phase` says what it was waiting for.

    In phase tcp, `attempts` are the addresses that had been tried, as in `TCPConnectFailed`; after
    those that had failed come those that had not answered.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: Phase | None = None,
        attempts: tuple[AddressFailure, ...] = (),
    ) -> None:
        OpenError.__init__(self, message, phase=phase)
        self.attempts = attempts


class ProxyTimeout(ProxyError, OpenTimeout):
    """The deadline passed while the proxy was connected to, or was to answer; `phase` says which.

    An OpenTimeout without this kind passed when the tunnel was open already, or without a proxy.
    """

    def __init__(
        self,
        message: str,
        *,
        proxy: str,
        phase: Phase | None = None,
        attempts: tuple[AddressFailure, ...] = (),
    ) -> None:
        ProxyError.__init__(self, message, proxy=proxy, phase=phase)
        self.attempts = attempts


class OpenCancelled(OpenError):
    """The attempt to open was cancelled; `phase` says what it was waiting for.

    `proxy` is the proxy that it was waiting for, without its password, None for none. `attempts`
    are as in `OpenTimeout`. `refusal` is what is known of a refusal that had begun to come, None
    where there is none; at a deadline it is told in place of the timeout.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: Phase | None = None,
        proxy: str | None = None,
        attempts: tuple[AddressFailure, ...] = (),
        refusal: ProxyError | None = None,
    ) -> None:
        super().__init__(message, phase=phase)
        self.proxy = proxy
        self.attempts = attempts
        self.refusal = refusal


class ConnectionClosed(WSFrameError):
    """The WebSocket is closed.

    `code` and `reason` are those of the Close frame that began the closing handshake: 1005 when
    that frame had no code, 1006 when there was no Close frame at all (RFC 6455 §7.1.5).
    `by` is the side that began, None when neither did and the transport was just lost. `clean`
    says whether both Close frames were seen (RFC 6455 §7.1.4).
    """

    def __init__(self, code: int, reason: str, *, by: Side | None, clean: bool) -> None:
        who = {"local": "closed by this side", "remote": "closed by the peer", None: "lost"}[by]
        text = f"{who} with code {code}"
        if reason:
            text += f": {reason!r}"
        if by is not None and not clean:
            text += " (closing handshake not completed)"
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.by = by
        self.clean = clean

    @staticmethod
    def of(code: int, reason: str, *, by: Side | None, clean: bool) -> ConnectionClosed:
        """Return the subclass that fits the code."""
        kind = ConnectionClosedOK if code in OK_CODES else ConnectionClosedError
        return kind(code, reason, by=by, clean=clean)

    def again(self) -> ConnectionClosed:
        """Return another one that says the same: one that is raised twice grows its traceback."""
        return type(self)(self.code, self.reason, by=self.by, clean=self.clean)


class ConnectionClosedOK(ConnectionClosed):
    """The WebSocket ended normally: code 1000, 1001, or a Close frame without a code."""


class ConnectionClosedError(ConnectionClosed):
    """The WebSocket ended with any other code, or without a Close frame."""


class HookTimeout(WSFrameError, TimeoutError):
    """A hook of a client that stays connected took longer than `ServiceOptions.hook_timeout`."""


class ReceiveTimeout(WSFrameError, TimeoutError):
    """No message arrived in the time given to `recv`; the next `recv` goes on from there."""


class ConcurrencyError(WSFrameError, RuntimeError):
    """Two calls wait where only one can be served, such as two `recv` on one connection."""


class SendBufferFull(WSFrameError):
    """The bytes that wait to be sent exceed the limit in the options; nothing was sent."""


class NotSent(WSFrameError):
    """A message that waited in the outbox of a client was never handed to a connection."""


class OutboxFull(NotSent):
    """The outbox has no room for the message, or made room for newer ones with its place."""


class Reject(WSFrameError):
    """Raised by `process_request` to refuse an opening handshake.

    `status` is an HTTP status of 300 or more, `body` the text of the answer (None: the
    status' own phrase), `headers` are added to it.
    """

    def __init__(
        self, status: int, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        if not 300 <= status <= 599:
            raise ValueError(f"a refusal has a status from 300 to 599, not {status}")
        super().__init__(f"refused with {status}")
        self.status = status
        self.body = body
        self.headers = dict(headers or {})
