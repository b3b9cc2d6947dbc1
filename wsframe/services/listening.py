"""What the listening services share: their options, who may connect, and how they end."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage

from wsframe.auth import bearer_auth
from wsframe.clock import global_reactor, use_monotonic_clock
from wsframe.core.http import Request, Response
from wsframe.handling import Handler
from wsframe.options import DEFAULT_SERVER_OPTIONS, MAX_WORKERS, ServerOptions
from wsframe.protocol import Accept
from wsframe.server import Server, WebSocketServerService
from wsframe.services.sockets import SHAREABLE, endpoint_kind
from wsframe.services.tracing import TRACE_FLAGS, TRACE_PARAMETERS, Tracing
from wsframe.token_files import load_tokens

__all__ = [
    "ListeningOptions",
    "ListeningService",
    "Route",
    "cut_on_next_signal",
    "naming",
    "seconds",
]

_log = Logger(namespace="wsframe.services")

DEFAULT_LISTEN: Final = "tcp:8765:interface=127.0.0.1"

SUBPROTOCOL: Final = "wsframe"
"""What a page offers beside the subprotocol that carries its token: one that is not answered with
a subprotocol it offered fails in the browser, and the token is not to be said back."""

Route = Callable[[Request], Response | None]
"""Answers a request on one path: as `process_request` does."""


def seconds(options: usage.Options, name: str) -> float:
    """Return the seconds that an option says; the limits are those of `wsframe.options`.

    Raises UsageError for what is not a number.
    """
    try:
        return float(options[name])
    except ValueError:
        raise usage.UsageError(f"--{name}: {options[name]!r} is not a number") from None


def _whole(options: usage.Options, name: str, which: str, most: float = inf) -> int:
    given = options[name]
    try:
        number = int(given)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise usage.UsageError(f"--{name}: {given!r} is not a whole number {which}")
    return number


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Turn what a wrong value raises into a UsageError that names the option."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise usage.UsageError(f"--{option}: {error}") from None


class ListeningOptions(usage.Options):
    """The options of every listening service."""

    shares_nothing = False
    """Whether a connection needs to know of no other, so that they may be in several processes:
    then a service takes `--workers`. One that hands messages on from client to client, or keeps
    anything that all of them see, would silently fall apart into as many services."""

    number: int | None = None
    """Which worker this process is, from 1; None where there are none, and in the parent."""

    optParameters = [  # noqa: RUF012 - Twisted's way
        [
            "token-file",
            None,
            None,
            "File with a name:token a line; clients need one of the tokens.",
        ],
        [
            "max-message-size",
            None,
            DEFAULT_SERVER_OPTIONS.max_message_size,
            "Largest message received, in bytes.",
        ],
        [
            "ping-interval",
            None,
            DEFAULT_SERVER_OPTIONS.ping_interval,
            "Seconds between keepalive pings; 0 sends none.",
        ],
        [
            "ping-timeout",
            None,
            DEFAULT_SERVER_OPTIONS.ping_timeout,
            "Seconds without a sign of life after a ping until a client is given up.",
        ],
        [
            "workers",
            None,
            1,
            "Processes that share the ports; more than 1 only where connections share nothing.",
        ],
        *TRACE_PARAMETERS,
    ]

    optFlags = [  # noqa: RUF012 - Twisted's way
        ["allow-anonymous", None, "Listen beyond this machine although no token is asked for."],
        *TRACE_FLAGS,
    ]

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[str] | None = None
        self.directory = "."
        self["listen"] = []
        self["origin"] = []
        self["host"] = []

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Take the command line; it is kept for the workers, with the directory it was given in."""
        self.arguments = None if options is None else list(options)
        with suppress(OSError):  # it may be gone
            self.directory = str(Path.cwd())
        super().parseOptions(options)

    def opt_listen(self, description: str) -> None:
        """Endpoint, such as tcp:8765; may be repeated. [default: tcp:8765:interface=127.0.0.1]."""
        self["listen"].append(description)

    def opt_origin(self, origin: str) -> None:
        """Origin of another site whose pages may connect; may be repeated."""
        self["origin"].append(origin)

    def opt_host(self, host: str) -> None:
        """Name under which this server is reached; may be repeated."""
        self["host"].append(host)

    def postOptions(self) -> None:
        """Check everything now, while there is somebody to read the answer."""
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self.workers = self._count_workers()
        with naming("token-file"):
            self.tokens = None if self["token-file"] is None else load_tokens(self["token-file"])
        for description in self["listen"]:
            kind = endpoint_kind(description)
            if self.number is None or kind != "systemd":  # only the parent was given the socket
                _check_endpoint(description)
            if self.workers > 1 and kind not in SHAREABLE:
                raise usage.UsageError(
                    f"--listen {description}: several workers can listen on tcp, tcp6 and ssl only,"
                    " where each has a socket of its own for the same port (SO_REUSEPORT), and on"
                    " unix and systemd, where they share one"
                )
            if self.loopback_only and not _is_local(description):
                raise usage.UsageError(
                    f"--listen {description}: without --token-file a service listens on this "
                    "machine only: add :interface=127.0.0.1, or say --allow-anonymous"
                )
        self.endpoints: Sequence[str | IStreamServerEndpoint] = self["listen"]
        self.server_options = self.build_options()
        if self.number is None:
            self.tracing = Tracing(self, opens=self.workers == 1)
        else:
            self.tracing = Tracing(self, suffix=f".{self.number}")

    def _count_workers(self) -> int:
        count = _whole(self, "workers", f"from 1 to {MAX_WORKERS}", most=MAX_WORKERS)
        if count > 1 and not self.shares_nothing:
            raise usage.UsageError(
                f"--workers {count}: the connections of this service share what is in the memory "
                "of one process, and there is no backplane to carry it to others: clients of "
                "different workers would not see each other"
            )
        return count

    @property
    def loopback_only(self) -> bool:
        """Whether nobody from elsewhere may connect."""
        return self.tokens is None and not self["allow-anonymous"]

    def build_options(self) -> ServerOptions:
        """Return the `ServerOptions` that the command line amounts to."""
        size = _whole(self, "max-message-size", "of bytes, at least 1")
        fields: dict[str, Any] = {}
        options = DEFAULT_SERVER_OPTIONS
        for option, field, value in (
            ("max-message-size", "max_message_size", size),
            ("ping-interval", "ping_interval", seconds(self, "ping-interval") or None),
            ("ping-timeout", "ping_timeout", seconds(self, "ping-timeout")),
            ("origin", "origins", tuple(self["origin"])),
            ("host", "hosts", tuple(self["host"]) or None),
        ):
            fields[field] = value
            with naming(option):
                options = replace(DEFAULT_SERVER_OPTIONS, **fields)
        return options


def _check_endpoint(description: str) -> None:
    """Raise UsageError for a description from which no endpoint can be made."""
    kind, *arguments = _SEPARATOR.split(description)
    ports = [one.removeprefix("port=") for one in arguments if re.match(r"port=|[^=]*$", one)]
    try:
        if not kind[:1].isalpha():
            raise ValueError("a description begins with the kind of endpoint, as in tcp:8765")
        if kind in _INTERNET and not (ports and _is_port(ports[0])):
            raise ValueError("the port is to be a whole number from 0 to 65535, as in tcp:8765")
        serverFromString(global_reactor(), description)
    except LookupError:
        text = "this process was given no such socket"
    except TypeError as error:  # the parser of this kind has other parameters
        unknown = _UNEXPECTED.search(str(error))
        text = f"{kind} has no argument {unknown[1]!r}" if unknown else str(error)
    except Exception as error:  # noqa: BLE001 - anybody's plugin, OpenSSL on a wrong file
        text = str(error)
    else:
        return
    raise usage.UsageError(f"--listen {description}: {text}")


def _is_port(text: str) -> bool:
    try:
        return 0 <= int(text) <= 65535
    except ValueError:
        return False


_UNEXPECTED: Final = re.compile(r"unexpected keyword argument '(\w+)'")
_INTERNET: Final = frozenset({"tcp", "tcp6", "ssl"})
_SEPARATOR: Final = re.compile(r"(?<!\\):")


def _is_local(description: str) -> bool:
    """Return whether an endpoint description keeps to this machine, as far as it says."""
    kind, *arguments = _SEPARATOR.split(description)
    if kind not in _INTERNET:
        return True  # `ListeningService.started` looks at the address itself
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "interface" and equals:
            return _is_loopback(value.replace("\\:", ":"))
    return False


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ListeningService(WebSocketServerService):
    """A `WebSocketServerService` for twistd, made of `ListeningOptions` and routes.

    `routes` map paths to what answers there; a route returns None to go on to the WebSocket. With
    a token file every path in `guarded` needs a token. `/healthz` answers 200 to everybody.
    """

    def __init__(
        self,
        options: ListeningOptions,
        handler: Handler,
        routes: Mapping[str, Route],
        *,
        guarded: frozenset[str],
        server_options: ServerOptions | None = None,
    ) -> None:
        if options.workers > 1 and options.number is None:
            raise RuntimeError(
                "these options ask for workers: makeService is to return what in_workers returns"
            )
        given = server_options or options.server_options
        super().__init__(
            handler,
            options.endpoints,
            process_request=self._process_request,
            options=replace(given, subprotocols=(*given.subprotocols, SUBPROTOCOL)),
        )
        self._routes = {"/healthz": _healthy, **routes}
        self._guarded = guarded
        self._loopback_only = options.loopback_only
        self._tracing = options.tracing
        self._auth = (
            None
            if options.tokens is None
            else bearer_auth(options.tokens, header="X-Monitor-Token", subprotocol=True)
        )

    async def _process_request(self, request: Request) -> Accept | Response | None:
        route = self._routes.get(request.path)
        if route is None:
            return Response.text(404)
        accepted = None
        if self._auth is not None and request.path in self._guarded:
            accepted = await self._auth(request)
        answer = route(request)
        return accepted if answer is None else answer

    def started(self, server: Server) -> None:
        """The service listens; with nobody asked for a token, on this machine only."""
        if self._loopback_only:
            for address in server.addresses:
                if isinstance(address, IPv4Address | IPv6Address):
                    local = _is_loopback(address.host)
                else:
                    local = isinstance(address, UNIXAddress)
                if not local:
                    raise RuntimeError(
                        f"{address} is reachable from elsewhere and no token is asked for; "
                        "use --token-file, or say --allow-anonymous"
                    )
        super().started(server)

    def startService(self) -> None:
        """Begin to listen, and to write the trace that is asked for."""
        self._tracing.start(self)
        use_monotonic_clock(self.reactor)
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Drain; a second SIGTERM meanwhile is immediate."""
        self._tracing.stop()
        server = self.server
        stopping = super().stopService()
        if server is None or global_reactor() is not self.reactor:
            return stopping
        restore = cut_on_next_signal(server.abort)
        return stopping.addBoth(lambda _: restore())


def _healthy(_: Request) -> Response:
    return Response.text(200, "ok")


def cut_on_next_signal(cut: Callable[[], object]) -> Callable[[], None]:
    """Have the next SIGTERM or SIGINT call `cut`; return what ends that."""
    previous: dict[signal.Signals, Any] = {}
    reactor: Any = global_reactor()

    def tell(number: int) -> None:
        _log.warn("Second signal {number}: every connection is cut", number=number)
        cut()

    def received(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        reactor.callFromThread(tell, number)

    def restore() -> None:
        for number, handler in previous.items():
            if signal.getsignal(number) is received:
                signal.signal(number, handler or signal.SIG_DFL)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, received)
    except ValueError:
        pass  # not the main thread: then the signals are somebody else's
    return restore
