"""`wsframe connect`: sends what is typed or piped into it, and prints what comes."""

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

__all__ = ["add_to"]

DESCRIPTION: Final = """\
Open a WebSocket, send what comes from standard input, and print what the server sends.

At a terminal each line that is typed is a text message; the line is edited with the usual keys, and
the arrow keys bring back earlier ones. Ctrl-D on an empty line closes the connection.

Otherwise each line of the input is a text message, and each message that comes is printed with an
end of line. At the end of the input the connection is closed once the server is silent: when a ping
comes back, and no message has come since the ping before it. What the server sends at once, in
answer to the last line, is printed; one that takes its time needs --wait."""

EPILOG: Final = """\
exit status:
  0    the connection was closed with code 1000 or 1001, or without one
  1    it did not open, or the input or output failed
  2    an argument, or a variable of the environment, cannot be used
  3    the connection was closed with another code, or was lost
  130  Ctrl-C
  141  the reader of the output has gone
  143  SIGTERM"""

FAILED: Final = 1
NOT_NORMAL: Final = 3

GOODBYE: Final = 1.0
"""Seconds in which a terminal that the command leaves in a hurry takes what it is to show."""


def add_to(verbs: Any) -> None:
    """Add the verb to the command."""
    parser = verbs.add_parser(
        "connect",
        help="send what is typed or piped in, and print what comes",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    arguments.add_uri(parser)
    group = handshake.add_to(parser)
    arguments.add_timeout(group)
    arguments.add_trust(group)
    arguments.add_proxies(parser)
    group = parser.add_argument_group("trace")
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="write the opening handshake, as it was sent and received, to a file; no secrets",
    )
    group.add_argument("--trace-frames", action="store_true", help="and the frames")
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line: the opening, each message, the end",
    )
    group.add_argument(
        "--binary",
        action="store_true",
        help="send the input as one binary message, and print messages as they are, with nothing "
        "between them; at a terminal, lines are hexadecimal",
    )
    group.add_argument(
        "--chunk",
        metavar="BYTES",
        type=arguments.value_of(_count),
        help="with --binary: send a message for each so many bytes of the input",
    )
    group.add_argument(
        "--wait",
        metavar="SECONDS",
        type=arguments.value_of(_wait),
        help="at the end of the input, go on receiving for so long, whether or not the server is "
        "silent; inf: until it closes",
    )
    group.add_argument(
        "--ping",
        metavar="SECONDS",
        type=arguments.value_of(_seconds),
        help="send a keepalive ping this often; 0: none [default: 20]",
    )
    group.add_argument(
        "--max-size",
        metavar="BYTES",
        type=arguments.value_of(_count),
        help="the largest message that is taken [default: 1048576]",
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="do not say how it was opened and closed"
    )
    parser.set_defaults(run=partial(_run, parser))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 2**40):
        raise ValueError("it is not a number of bytes")
    return int(text)


def _wait(text: str) -> float:
    seconds = float("nan")
    with suppress(ValueError):
        seconds = float(text)
    if not seconds >= 0:
        raise ValueError("it is not a number of seconds")
    return seconds


def _seconds(text: str) -> float:
    seconds = _wait(text)
    if seconds == math.inf:
        raise ValueError("it is not a number of seconds")
    return seconds


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
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
