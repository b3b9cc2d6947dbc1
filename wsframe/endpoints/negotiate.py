"""Negotiate and NTLM by pyspnego, the extra `wsframe[negotiate]`.

It writes its tokens to its own logger, "spnego", at the level DEBUG: who has that one written out
has proofs of passwords in the log.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from wsframe.core.negotiate import ContextFailed
from wsframe.core.proxy import Proxy
from wsframe.errors import InvalidProxy

__all__ = ["SpnegoContext", "check_installed"]

_SERVICE: Final = "HTTP"
"""The service in a proxy's Kerberos name, HTTP/host (RFC 4559 §4.1)."""


def check_installed(proxy: Proxy) -> None:
    """Raise `InvalidProxy` when what the proxy's `auth` takes is not installed."""
    if proxy.auth is None:
        return
    if find_spec("spnego") is None:
        raise InvalidProxy(f"auth={proxy.auth!r} takes pyspnego: pip install wsframe[negotiate]")
    ticket = proxy.auth == "negotiate" and proxy.credentials is None and proxy.password is None
    if ticket and not all(map(find_spec, ("gssapi", "krb5"))):
        raise InvalidProxy(
            "auth='negotiate' without a password takes Kerberos: pip install pyspnego[kerberos]"
        )


class SpnegoContext:
    """A `SecurityContext` of pyspnego's for one authentication with one proxy.

    It asks for no delegation, so that a ticket is of no use to the proxy with anybody else, and
    for no mutual authentication, as most proxies do not send their half with the end of a CONNECT.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._context: Any = None

    @property
    def complete(self) -> bool:
        """Whether this side has nothing more to say."""
        return self._context is not None and bool(self._context.complete)

    def step(self, token: bytes | None) -> bytes | None:
        """Take the proxy's token, return ours. It may ask a KDC and name servers, and block."""
        failed: ContextFailed
        try:
            if self._context is None:
                self._context = self._begin()
            answer: bytes | None = self._context.step(token)
        except Exception as error:  # noqa: BLE001 - pyspnego's, GSSAPI's, and those of bad tokens
            failed = _failure(error)
        else:
            return answer
        raise failed  # outside of the handler: what is raised there may name the user

    def _begin(self) -> Any:
        spnego = import_module("spnego")
        return spnego.client(
            self._proxy.user,
            self._proxy.password,
            hostname=self._proxy.host,
            service=_SERVICE,
            context_req=spnego.ContextReq.none,
            protocol=self._proxy.auth,
        )


def _failure(error: BaseException) -> ContextFailed:
    """Return the kinds of what went wrong, and GSSAPI's numbers for it, but none of its text."""
    kinds: list[str] = []
    cause: Any = error
    while cause is not None and len(kinds) < 4:
        kinds.append(type(cause).__name__)
        error, cause = cause, getattr(cause, "base_error", None)
    codes = [getattr(error, name, None) for name in ("maj_code", "min_code")]
    said = ", ".join(str(code) for code in codes if isinstance(code, int))
    return ContextFailed(", ".join(kinds) + (f" (GSSAPI {said})" if said else ""))
