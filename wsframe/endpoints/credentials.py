"""Asking for a proxy's credentials before a tunnel is opened."""

from __future__ import annotations

import asyncio

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from wsframe.awaiting import relay, run
from wsframe.core.credentials import ProxyCredentials
from wsframe.core.proxy import Proxy
from wsframe.errors import InvalidProxy, OpenCancelled, ProxyCredentialsFailed, WSFrameError

__all__ = ["with_credentials"]


def with_credentials(proxy: Proxy) -> Deferred[Proxy]:
    """Ask the proxy's callable, where it has one; fires with the proxy and its credentials.

    Fails with `ProxyCredentialsFailed`. Cancelled, it fails at once, whatever the callable makes
    of it, and what comes later is dropped.
    """
    if proxy.credentials is None:
        return succeed(proxy)

    def cancel(_: Deferred[Proxy]) -> None:
        error = OpenCancelled("cancelled in phase proxy", phase="proxy", proxy=str(proxy))
        asked.errback(Failure(error))
        given.cancel()

    asked: Deferred[Proxy] = Deferred(cancel)
    given = run(proxy.credentials, proxy)
    given.addCallbacks(_taken, _failed, callbackArgs=(proxy,), errbackArgs=(proxy,))
    relay(given, asked)
    return asked


def _taken(given: object, proxy: Proxy) -> Proxy:
    wrong = ""
    if given is None or isinstance(given, ProxyCredentials):
        try:
            return proxy.with_credentials(given)
        except InvalidProxy as error:
            wrong = str(error)
    else:
        wrong = f"ProxyCredentials or None were due, not {type(given).__name__}"
    raise ProxyCredentialsFailed(f"{proxy}: its credentials: {wrong}", proxy=str(proxy))


def _failed(failure: Failure, proxy: Proxy) -> Failure:
    error = failure.value
    if not isinstance(error, Exception | asyncio.CancelledError):
        return failure  # a KeyboardInterrupt is nobody's answer
    # Texts of our own have no secrets. Of others only the kind is told.
    said = type(error).__name__
    if isinstance(error, WSFrameError):
        said = f"{said}: {error}"
    text = f"{proxy}: what was asked for its credentials raised {said}"
    return Failure(ProxyCredentialsFailed(text, proxy=str(proxy)))
