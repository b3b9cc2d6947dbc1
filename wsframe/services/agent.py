"""ws-agent: reports this machine's figures to a monitor, and comes back whenever it is cut off."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Final

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.python import usage

from wsframe.client import WebSocketClientService
from wsframe.clock import use_monotonic_clock
from wsframe.connection import Connection
from wsframe.core.proxy import Proxy, ProxySettings, from_environment
from wsframe.core.retry import RetryPolicy, Verdict, judge, retry_after
from wsframe.core.uri import parse_uri
from wsframe.endpoints import TLSOptions
from wsframe.errors import InvalidProxy, InvalidTokenFile, ReceiveTimeout
from wsframe.monitor.report import check_field, encode_binary
from wsframe.monitor.sampler import Sampler
from wsframe.options import DEFAULT_CLIENT_OPTIONS, DEFAULT_RETRY_POLICY
from wsframe.services.listening import cut_on_next_signal, naming, seconds
from wsframe.services.tracing import TRACE_FLAGS, TRACE_PARAMETERS, Tracing
from wsframe.token_files import load_password, load_tokens

__all__ = ["AgentService", "Options", "makeService"]

PATIENCE: Final = 60.0
"""Seconds until an agent tries again what a policy would give up for, such as a token that the
monitor does not know (yet): nobody sits beside an agent, who repairs it does so elsewhere."""


def _never_give_up(failure: Exception) -> Verdict | None:
    final = judge(DEFAULT_RETRY_POLICY, failure, time.time()).gives_up
    return retry_after(PATIENCE) if final else None


RETRIES: Final = RetryPolicy(max_delay=5.0, judge=_never_give_up)
"""An agent is back soon after its monitor: a dashboard with holes is what it is there to avoid."""


class Options(usage.Options):
    """The options of `twistd ws-agent`."""

    synopsis = "--server URI [--token-file FILE] [--name NAME] [--proxy URL] [options]"

    optParameters = [  # noqa: RUF012 - Twisted's way
        ["server", None, None, "The monitor: a ws:// or wss:// URI, such as ws://host:8765/agent."],
        ["token-file", None, None, "File with a name:token a line; the one for --name is sent."],
        ["name", None, None, "The name to report under. [default: this machine's]"],
        ["interval", None, 2.0, "Seconds between reports."],
        [
            "proxy",
            None,
            None,
            "Proxy to go through, such as http://proxy:3128. [default: the environment's]",
        ],
        ["proxy-auth-file", None, None, "File with the user:password for the proxy."],
        ["ca", None, None, "File with the authorities for wss. [default: the system's]"],
        ["proxy-ca", None, None, "The same for an https proxy. [default: the system's]"],
        ["certificate", None, None, "File with our certificate and its key, for the monitor."],
        [
            "ping-interval",
            None,
            DEFAULT_CLIENT_OPTIONS.ping_interval,
            "Seconds between keepalive pings; 0 sends none.",
        ],
        [
            "ping-timeout",
            None,
            DEFAULT_CLIENT_OPTIONS.ping_timeout,
            "Seconds without a sign of life after a ping until the monitor is given up.",
        ],
        *TRACE_PARAMETERS,
    ]

    optFlags = TRACE_FLAGS

    def postOptions(self) -> None:
        """Check everything now, while there is somebody to read the answer."""
        if self["server"] is None:
            raise usage.UsageError("--server is required")
        with naming("server"):
            self.uri = parse_uri(self["server"])
        if self.uri.target == "/":
            self.uri = replace(self.uri, target="/agent")
        with naming("proxy"):
            proxy = None if self["proxy"] is None else Proxy.parse(self["proxy"])
        with naming("proxy-auth-file"):
            proxy = _with_credentials(proxy, self["proxy-auth-file"])
        try:
            self.proxies = from_environment(os.environ) if proxy is None else ProxySettings(proxy)
            self.proxies.choose(self.uri)
        except InvalidProxy as error:
            raise usage.UsageError(str(error)) from None
        name = os.uname().nodename if self["name"] is None else self["name"]
        with naming("name"):
            check_field("name", name)
        with naming("interval"):
            self.interval = seconds(self, "interval")
            self.sampler = Sampler(name, self.interval)
        with naming("token-file"):
            path = self["token-file"]
            self.token = None if path is None else _token(path, name)
        self.tls = self._tls()
        with naming("proxy-ca"):
            self.proxy_tls = TLSOptions(ca=self["proxy-ca"]) if self["proxy-ca"] else None
        with naming("ping-interval"):
            interval = seconds(self, "ping-interval") or None
            self.client_options = replace(DEFAULT_CLIENT_OPTIONS, ping_interval=interval)
        with naming("ping-timeout"):
            timeout = seconds(self, "ping-timeout")
            self.client_options = replace(self.client_options, ping_timeout=timeout)
        self.tracing = Tracing(self)

    def _tls(self) -> TLSOptions | None:
        given = {name: self[name] for name in ("ca", "certificate") if self[name] is not None}
        if given and not self.uri.secure:
            raise usage.UsageError(f"--{' and --'.join(given)}: for a wss:// monitor")
        for name, path in given.items():  # each by itself, so that the error names it
            with naming(name):
                TLSOptions(**{name: path})
        return TLSOptions(**given) if given else None


def _with_credentials(proxy: Proxy | None, auth_file: str | None) -> Proxy | None:
    if auth_file is None:
        return proxy
    if proxy is None:
        raise InvalidProxy("it is given without --proxy")
    user, password = load_password(auth_file)
    return replace(proxy, user=user, password=password)


def _token(path: str, name: str) -> str:
    tokens = load_tokens(path)
    if len(tokens) == 1:
        return next(iter(tokens.values()))
    if name not in tokens:
        raise InvalidTokenFile(f"{path} has several tokens and none for the name {name}")
    return tokens[name]


class AgentService(WebSocketClientService):
    """Sends a report at once and then every interval, for as long as the monitor listens."""

    def __init__(self, options: Options) -> None:
        self._sampler = options.sampler
        self._interval = options.interval
        self._tracing = options.tracing
        headers = {} if options.token is None else {"Authorization": f"Bearer {options.token}"}
        super().__init__(
            options.uri,
            self._report,
            headers=headers,
            proxies=options.proxies,
            tls=options.tls,
            proxy_tls=options.proxy_tls,
            options=options.client_options,
            retry=RETRIES,
        )

    async def _report(self, connection: Connection) -> None:
        while True:
            await connection.send(encode_binary(self._sampler.sample()))
            await self._pause(connection)

    async def _pause(self, connection: Connection) -> None:
        """Wait until the next report. The monitor has nothing to say but its end."""
        end = self._now() + self._interval
        while (left := end - self._now()) > 0:
            try:
                await connection.recv(timeout=left)
            except ReceiveTimeout:
                return

    def startService(self) -> None:
        """Begin to connect, and to write the trace that is asked for."""
        self._tracing.start(self)
        use_monotonic_clock(self._reactor)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Close and end; a second SIGTERM meanwhile is immediate."""
        self._tracing.stop()
        connection = self.connection
        stopping = super().stopService()
        if connection is None:
            return stopping
        restore = cut_on_next_signal(connection.abort)
        return stopping.addBoth(lambda _: restore())


def makeService(options: Options) -> IService:
    """Return the service (called by twistd)."""
    return AgentService(options)
