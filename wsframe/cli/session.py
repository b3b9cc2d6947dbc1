"""The session of `wsframe connect`: the opening, sending and receiving at once, the end."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from wsframe.cli import arguments, handshake, reactor
from wsframe.cli.failure import described, lines_of, secrets_of
from wsframe.cli.messages import Write, as_bytes, as_json, as_line, json_line, on_terminal
from wsframe.cli.sources import BytesSource, InputError, LineSource, Source, TypedSource
from wsframe.cli.streams import Input, Output, open_standard
from wsframe.cli.terminal import Terminal, is_terminal
from wsframe.client import connect
from wsframe.connection import Connection
from wsframe.core.proxy import ProxySettings, Route
from wsframe.core.uri import WebSocketURI
from wsframe.errors import (
    OK_CODES,
    ConnectionClosed,
    InvalidHeader,
    InvalidProxy,
    OpenCancelled,
    WSFrameError,
)
from wsframe.options import ClientOptions
from wsframe.trace import Trace

__all__ = ["run"]

FAILED: Final = 1
NOT_NORMAL: Final = 3

GOODBYE: Final = 1.0
"""Seconds in which a terminal that the command leaves in a hurry takes what it is to show."""


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Hold the session that the arguments ask for; return the exit status."""
    open_standard()
    wrong = ""
    try:
        settings = arguments.proxy_settings(options)
        session = _Session(options, settings, arguments.chosen_route(options, settings))
        return reactor.run(session.run)
    except (InvalidHeader, InvalidProxy, _Usage, handshake.Contradiction) as error:
        wrong = str(error)
    except InputError as error:
        _say(f"wsframe: {error}")
        return FAILED
    return parser.error(wrong)


def _say(line: str) -> None:
    """Say something to whoever reads the errors; if nobody does, the messages still go on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class _Usage(Exception):
    """Two arguments contradict each other."""


class _Session:
    """One connection, from the opening to the end."""

    def __init__(self, options: argparse.Namespace, settings: ProxySettings, route: Route) -> None:
        if options.chunk is not None and not options.binary:
            raise _Usage("--chunk is for --binary")
        self._options = options
        self._settings = settings
        self._route = route
        self._uri: WebSocketURI = options.uri
        self._handshake = handshake.said(options)
        self._trace: Trace | None = None
        if options.trace is not None:
            try:
                self._trace = Trace(options.trace, frames=options.trace_frames)
            except (OSError, ValueError) as error:
                raise _Usage(f"argument --trace: {error}") from None
        elif options.trace_frames:
            raise _Usage("--trace-frames is for --trace")

    async def run(self, this: Any) -> int:
        """Open, talk, say how it ended; return the exit status."""
        self._reactor = this
        self._output = Output(this, 1)
        try:
            connection = await self._open()
        except (OpenCancelled, InvalidHeader, InvalidProxy):
            raise
        except (WSFrameError, ValueError) as error:  # ValueError: a host that no certificate has
            await self._say_failed(error)
            return FAILED
        await self._say_opened(connection)
        closed = await self._talk(connection)
        if self._options.json:
            await self._output.write(json_line(_end(closed)))
        await self._output.flush()
        self._tell(_sentence(str(closed)))
        return 0 if closed.code in OK_CODES and closed.clean else NOT_NORMAL

    # ---------------------------------------------------------------- opening

    def _open(self) -> Deferred[Connection]:
        options = self._options
        return connect(
            self._uri,
            **self._handshake,
            trace=self._trace,
            proxies=self._settings,
            tls=arguments.tls(options),
            proxy_tls=arguments.proxy_tls(options),
            options=_client_options(options),
            reactor=self._reactor,
        )

    async def _say_opened(self, connection: Connection) -> None:
        spoken = "" if connection.subprotocol is None else f", {connection.subprotocol}"
        self._tell(f"Connected to {self._uri}{spoken}")
        if self._options.json:
            opened = {
                "type": "open",
                "uri": str(self._uri),
                "subprotocol": connection.subprotocol,
                "headers": [list(pair) for pair in connection.response.headers.pairs],
            }
            await self._output.write(json_line(opened))

    async def _say_failed(self, error: Exception) -> None:
        told = described(error, self._secrets())
        where = "" if told["phase"] is None else f" in phase {told['phase']}"
        through = "" if told["proxy"] is None else f" with proxy {told['proxy']}"
        _say(f"wsframe: failed{where}{through}: {told['kind']}: {told['message']}")
        for line in lines_of(told):
            _say(f"  {line}")
        if self._options.json:
            self._output.put(json_line({"type": "error", **told}))
            await self._output.flush()

    def _secrets(self) -> Iterator[str]:
        """Yield what a refusal may repeat, and nobody is to read over a shoulder."""
        for way in self._route.ways:
            yield from secrets_of(way)
        yield from handshake.secrets(self._options)

    def _tell(self, line: str) -> None:
        if not self._options.quiet:
            _say(line)

    # ---------------------------------------------------------------- talking

    async def _talk(self, connection: Connection) -> ConnectionClosed:
        wrong: list[BaseException] = []

        def ended(failure: Failure) -> None:
            if not failure.check(CancelledError) and failure.value is not None:
                wrong.append(failure.value)
            connection.close()

        with ExitStack() as stack:
            terminal = None
            if is_terminal():
                terminal = stack.enter_context(Terminal(self._reactor, self._output))
            sending = ensureDeferred(self._send(connection, self._source(terminal)))
            stack.callback(sending.cancel)
            sending.addErrback(ended)
            receiving = ensureDeferred(self._receive(connection, terminal))
            self._output.failed = receiving.cancel
            try:
                await receiving
            except (CancelledError, OSError):
                stack.close()  # whoever presses Ctrl-C again has a terminal in order
                await connection.close()
                with suppress(defer.TimeoutError):
                    await ensureDeferred(self._output.flush()).addTimeout(GOODBYE, self._reactor)
                raise
        if wrong:
            raise wrong[0]
        return await connection.when_closed()

    def _source(self, terminal: Terminal | None) -> Source:
        source = Input(self._reactor, 0)
        if terminal is not None:
            return TypedSource(source, terminal, binary=self._options.binary)
        if self._options.binary:
            return BytesSource(source, self._options.chunk)
        return LineSource(source)

    async def _send(self, connection: Connection, source: Source) -> None:
        with suppress(ConnectionClosed):
            while (message := await source.next()) is not None:
                await connection.send(message)
            if not isinstance(source, TypedSource):
                wait = self._options.wait
                if wait == math.inf:
                    return
                if wait is None:
                    await _until_silent(connection)
                else:
                    await deferLater(self._reactor, wait)
            connection.close()

    async def _receive(self, connection: Connection, terminal: Terminal | None) -> None:
        write = _writing(self._options, terminal)
        with suppress(ConnectionClosed):
            while True:
                written = write(await connection.recv())
                if terminal is not None:
                    terminal.above(written)
                    await self._output.write(b"")
                else:
                    await self._output.write(written)


async def _until_silent(connection: Connection) -> None:
    """Wait until a ping comes back and no message has come since the one before it.

    One ping is not enough: a pong is sent when the ping is read, which may be before the messages
    that were read with it are answered.
    """
    await connection.ping()
    received = -1
    while received != connection.counts.received:
        received = connection.counts.received
        await connection.ping()


def _writing(options: argparse.Namespace, terminal: Terminal | None) -> Write:
    if options.json:
        return as_json
    if terminal is not None:
        return partial(on_terminal, prefix="< ")
    if os.isatty(1):
        return on_terminal
    return as_bytes if options.binary else as_line


def _client_options(options: argparse.Namespace) -> ClientOptions:
    result: ClientOptions = options.client_options
    if options.ping is not None:
        result = replace(result, ping_interval=options.ping or None)
    if options.max_size is not None:
        result = replace(result, max_message_size=options.max_size)
    return result


def _end(closed: ConnectionClosed) -> dict[str, Any]:
    return {
        "type": "close",
        "code": closed.code,
        "reason": closed.reason,
        "by": closed.by,
        "clean": closed.clean,
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
