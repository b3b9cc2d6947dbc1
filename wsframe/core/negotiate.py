"""Authentication in several legs: Negotiate (RFC 4559) and NTLM ([MS-NTHT]).

What the tokens say is the business of a security context; here is which 407 asks for the next one,
and when it is over. NTLM authenticates the connection and not the request, and so do many proxies
with Negotiate: when the connection ends in between, all starts again from the first leg.

Only until the second leg, which proves a password: to a proxy that ends the connection in place of
saying no we would send a wrong one over and over, and directories lock an account after some five.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from wsframe.core.proxy_auth import BadChallenge, Challenge

__all__ = ["MAX_LEGS", "ContextFailed", "Leg", "Negotiation", "SecurityContext"]

MAX_LEGS: Final = 8
"""Tokens sent in the course of one tunnel, on all its connections. Kerberos takes one, NTLM two,
NTLM within SPNEGO two or three; the rest is for starting again."""

_NAMES: Final = {"negotiate": "Negotiate", "ntlm": "NTLM"}


class ContextFailed(Exception):
    """A security context cannot go on; the text says why, and has no credentials in it."""


class SecurityContext(Protocol):
    """One side of one authentication, as of GSSAPI (RFC 2743 §2.2.1)."""

    @property
    def complete(self) -> bool:
        """Whether this side has nothing more to say."""
        ...

    def step(self, token: bytes | None) -> bytes | None:
        """Take the proxy's token, None at the beginning; return the next one for it, if any.

        This may block. Raises `ContextFailed`; the text of any other exception is not shown.
        """
        ...


@dataclass(frozen=True)
class Leg:
    """One step to be made: of which context, with which token of the proxy's (None: the first)."""

    context: SecurityContext
    token: bytes | None = field(default=None, repr=False)

    def run(self) -> bytes | ContextFailed:
        """Return the token to send, or why there is none. It may block, and never raises."""
        try:
            token = self.context.step(self.token)
        except ContextFailed as error:
            return ContextFailed(str(error))  # without what it hangs on to
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold a secret
            return ContextFailed(type(error).__name__)
        return token or ContextFailed("there is nothing left to say")


class Negotiation:
    """What was said in one scheme to one proxy for one tunnel.

    `scheme` is "negotiate" or "ntlm"; no other one is answered, so that a proxy cannot talk us
    down to a weaker one. `new_context` makes a context for each start, and does not block.

    Run the `Leg` that `answer` or `again` returns, and give its token to `say`.
    """

    __slots__ = ("_context", "_legs", "_new_context", "_said", "_scheme")

    def __init__(self, scheme: str, new_context: Callable[[], SecurityContext]) -> None:
        self._scheme = scheme
        self._new_context = new_context
        self._context: SecurityContext | None = None
        self._legs = 0  # in all contexts
        self._said = 0  # in this one

    @property
    def sent(self) -> bool:
        """Whether the proxy has been given a token: then a 407 may be a refusal."""
        return self._legs > 0

    def answer(self, challenges: tuple[Challenge, ...], *, kept: bool) -> Leg | None:
        """Return the step that a 407 asks for, None when there is none (any more).

        `kept` says whether the next request may go out on the same connection.

        Raises `BadChallenge` for a token that is not in Base64.
        """
        asked = [challenge for challenge in challenges if challenge.scheme == self._scheme]
        if not asked or self._legs >= MAX_LEGS:
            return None
        token = asked[0].token68
        if self._context is None:
            return self._start()  # a token here would be a hint (RFC 4178 §4.2.1), not needed
        if not token or self._context.complete:
            return None
        return Leg(self._context, _decode(token)) if kept else self.again()

    def again(self) -> Leg | None:
        """Return the step to start with when the connection ended in between, None to give up."""
        if self._context is None or self._said > 1 or self._legs >= MAX_LEGS:
            return None
        return self._start()

    def say(self, token: bytes) -> str:
        """Return the value of Proxy-Authorization that carries the token, and count it."""
        self._legs += 1
        self._said += 1
        return f"{_NAMES[self._scheme]} {base64.b64encode(token).decode()}"

    def _start(self) -> Leg:
        self._context = self._new_context()
        self._said = 0
        return Leg(self._context)


def _decode(token: str) -> bytes:
    # The error of the decoder has no part of the token, and is not kept all the same.
    data = None
    with suppress(binascii.Error, ValueError):
        data = base64.b64decode(token, validate=True)
    if not data:
        raise BadChallenge("a challenge has a token that is not in Base64")
    return data
