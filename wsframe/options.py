"""Every limit and wait of wsframe: its unit, its default, and the reason for that default.

All options are frozen dataclasses. Times are in seconds, sizes in bytes. Where None is allowed
its meaning is said. Values are checked when the object is made, so that a wrong one is an error
where it was written and not hours later. `RetryPolicy` is at home in `wsframe.core.retry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from wsframe.core.checks import check_counts, check_seconds
from wsframe.core.http import check_header, check_token
from wsframe.core.opening import parse_host, parse_origin
from wsframe.core.outbox import OUTBOX_POLICIES, OutboxPolicy
from wsframe.core.retry import RetryPolicy
from wsframe.errors import InvalidHeader

__all__ = [
    "ClientOptions",
    "ConnectionOptions",
    "Deflate",
    "RetryPolicy",
    "ServerOptions",
    "ServiceOptions",
    "TCPKeepalive",
    "WorkerOptions",
]

KIB: Final = 1024
MIB: Final = 1024 * 1024


def _check_flag(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")


def _check_header_value(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text or None, not {value!r}")
    try:
        check_header("X", value)
    except InvalidHeader:
        raise InvalidHeader(f"{name} cannot be the value of a header: {value!r}") from None


T = TypeVar("T")


def _as_tuple(owner: object, name: str, kind: type[T]) -> tuple[T, ...]:
    value = getattr(owner, name)
    result = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
    if not all(isinstance(item, kind) for item in result):
        raise TypeError(f"{name} is a sequence of {kind.__name__}, not {value!r}")
    object.__setattr__(owner, name, result)
    return result


@dataclass(frozen=True, kw_only=True)
class TCPKeepalive:
    """The probes that the kernel sends on an idle TCP connection.

    Unlike a ping they cost no bytes of the WebSocket and wake no application, but they reach the
    next hop only, such as a proxy, and are answered by a process that hangs.
    """

    idle: int = 60
    """Seconds without traffic until the first probe. Linux waits two hours, which is longer than
    any address translator remembers a connection."""

    interval: int = 15
    """Seconds between probes that are not answered."""

    count: int = 4
    """Probes without an answer after which the connection is dead: found in 2 minutes."""

    def __post_init__(self) -> None:
        check_counts(self, "idle", "interval", most=32_767)  # what Linux takes
        check_counts(self, "count", most=127)

    @property
    def longest(self) -> int:
        """Seconds until a dead peer is found."""
        return self.idle + self.interval * self.count


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """What holds for an open connection of either role."""

    max_message_size: int = MIB
    """Bytes of one received message, after decompression; a larger one is closed with 1009.
    1 MiB is the default of `websockets` and of Autobahn's own advice; Autobahn's default is
    unlimited, which is CVE-2026-44545."""

    max_fragments: int = 1024
    """Frames of one received message; more are closed with 1008. A sender that streams 1 MiB in
    pieces of 1 KiB fits; a million empty fragments do not (CVE-2026-48779)."""

    receive_queue: int = 64
    """Messages that wait for `recv` before reading from the transport is paused. Enough to smooth
    a burst, small enough that a slow reader's peer learns of it soon. What one read from the
    transport brings (64 KiB) may exceed it once."""

    receive_buffer: int = MIB
    """Bytes that wait for `recv` before reading is paused: one message of the largest size."""

    send_buffer: int = 4 * MIB
    """Bytes that may wait to be sent. `send` waits long before, at the 64 KiB of Twisted's
    transport (up to 1 MiB where large frames came); this bounds what several waiting senders, or
    a broadcast, can add; a call of `send` that waits counts 400 bytes more than its message has,
    which is what it holds. A broadcast's subscriber that exceeds it is closed with 1008 and loses
    nobody else anything."""

    ping_interval: float | None = 20.0
    """Seconds between keepalive pings; None sends none. Below the 30 to 60 s after which proxies
    and address translators forget an idle connection; the default of `websockets`."""

    ping_timeout: float | None = 20.0
    """Seconds that a peer may be silent after a ping before the connection is given up (1011); None
    waits for ever. A dead peer is found within interval + timeout."""

    pong_timeout: float | None = None
    """Seconds that the pong itself may take, whatever else the peer sends, before the connection is
    given up (1011). None: any byte is a sign of life, because a pong has to wait behind a long
    message. Set it where a feed flows on though the way to its sender is broken."""

    message_timeout: float | None = None
    """Seconds without a complete message from the peer before the connection is closed with 3008
    ("timeout" in IANA's registry of close codes); time in which the application has reading paused
    does not count. None waits for ever: only the application knows how often it is to hear
    something."""

    write_timeout: float | None = 60.0
    """Seconds that a full send buffer may wait without the peer taking any of it before the
    connection is aborted (1006); None waits for ever. Holds off a peer that sends and never reads.
    A slow one that goes on reading is left alone: Linux tells how much it took; elsewhere it has to
    take what one write left, 128 KiB or one larger message. The default of nginx's `send_timeout`,
    and beyond ping_interval + ping_timeout, so that a dead peer is called dead."""

    tcp_keepalive: TCPKeepalive | None = TCPKeepalive()
    """Probes that the kernel sends while nothing else is sent; None leaves the system's setting.
    They find a dead hop where pings are off. On Linux data that is not acknowledged for as long
    (at least `write_timeout`) ends the connection, too (TCP_USER_TIMEOUT), unless `write_timeout`
    is None. Without effect on Unix sockets."""

    close_timeout: float = 10.0
    """Seconds for the closing handshake and the end of TCP after it; then TCP is aborted. The
    default of `websockets`; Autobahn's 1 s cuts off peers on slow links."""

    pending_pings: int = 16
    """Calls of `ping()` that may wait for their pong at once. Each holds some bytes for as long
    as the peer likes; nobody measures latency sixteen times over."""

    def __post_init__(self) -> None:
        check_counts(
            self,
            "max_message_size",
            "max_fragments",
            "receive_queue",
            "receive_buffer",
            "send_buffer",
            "pending_pings",
        )
        check_seconds(
            self,
            "close_timeout",
            optional=(
                "ping_interval",
                "ping_timeout",
                "pong_timeout",
                "message_timeout",
                "write_timeout",
            ),
        )
        if not isinstance(self.tcp_keepalive, TCPKeepalive | None):
            raise TypeError(f"tcp_keepalive is a TCPKeepalive or None, not {self.tcp_keepalive!r}")


@dataclass(frozen=True, kw_only=True)
class ClientOptions(ConnectionOptions):
    """What holds for a connection that this side opens."""

    open_timeout: float = 10.0
    """Seconds from the first name look-up to the open WebSocket, over all links of the chain. The
    default of `websockets`; one deadline, because a user waits for the whole."""

    max_head_size: int = 16 * KIB
    """Bytes of the head of an answer, the server's or a proxy's. h11's own default; nginx and
    Apache send at most 8 KiB."""

    max_refusal_body: int = 8 * KIB
    """Bytes kept of the body of a refusal: enough for a message that explains, not for a page."""

    user_agent: str | None = "wsframe"
    """The User-Agent header; None sends none."""

    max_redirects: int = 0
    """Redirects followed, one after the other; 0 follows none, as a redirect can lead anywhere and
    browsers follow none either. They all have the one `open_timeout`."""

    proxy_auth_unasked: bool = True
    """Whether an HTTP proxy gets its token, or its password in Basic, with the first request. That
    saves a round trip and is what curl does. False waits for the proxy to ask: one that takes
    Digest then never sees the password."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_flag(self, "proxy_auth_unasked")
        check_seconds(self, "open_timeout")
        check_counts(self, "max_head_size", "max_refusal_body")
        check_counts(self, "max_redirects", least=0)
        _check_header_value(self, "user_agent")


@dataclass(frozen=True, kw_only=True)
class ServerOptions(ConnectionOptions):
    """What holds for a server and the connections it accepts."""

    subprotocols: tuple[str, ...] = ()
    """Subprotocols spoken, the preferred first. The first of them that the client offers is
    taken; a client that offers none of them is served without one (RFC 6455 §4.2.2)."""

    origins: tuple[str, ...] = ()
    """Origins of other sites whose pages may connect, such as "https://app.example.org"; "*"
    admits every one. Pages of the server's own host need not be listed."""

    hosts: tuple[str, ...] | None = None
    """Host names this server is reached by, without a port. None: browsers are admitted by
    address, by `localhost` and its subdomains, and any other client by any name; that stops DNS
    rebinding (CVE-2019-13611) without configuration. Once given, every client must name one. An
    IPv6 address is in brackets."""

    require_origin: bool = False
    """Whether a client without an Origin header (which no browser is) is refused."""

    max_connections: int = 10_000
    """Connections at a time; further ones are answered 503. Half of 20,000 open files, which leaves
    room to say no and for everything else; where a process may open fewer (`ulimit -n` is often
    1024), set it below that."""

    open_timeout: float = 10.0
    """Seconds from accepting TCP to the end of the opening handshake, `process_request` included.
    Holds off clients that drip a head byte by byte (slowloris)."""

    max_head_size: int = 16 * KIB
    """Bytes of the opening handshake's head; a larger one is answered 431. Browsers with many
    cookies stay below 8 KiB; Node's and h11's limit is 16 KiB."""

    max_head_count: int = 100
    """Header fields in the opening handshake; more are answered 431. Apache's limit."""

    drain_timeout: float = 10.0
    """Seconds that `Server.close` gives its handlers to end after the Close frame; then they are
    cancelled and TCP is aborted. Below the 30 s after which orchestrators kill."""

    backlog: int = 1024
    """Connections that the kernel queues for us, where the endpoint does not say its own. Twisted
    takes 50, which loses clients when thousands reconnect at once; the kernel allows 4096."""

    server_header: str | None = None
    """The Server header of the answers; None sends none, so that nobody is told versions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seconds(self, "open_timeout", "drain_timeout")
        check_counts(self, "max_connections", "max_head_size", "max_head_count")
        check_counts(self, "backlog", most=0x7FFFFFFF)  # what listen() can be told
        _check_flag(self, "require_origin")
        _check_header_value(self, "server_header")
        for name in _as_tuple(self, "subprotocols", str):
            check_token(name, "subprotocols: a name")
        for origin in _as_tuple(self, "origins", str):
            if origin != "*" and parse_origin(origin) is None:
                raise InvalidHeader(
                    f"origins: {origin!r} is not an origin such as https://example.org"
                )
        if self.hosts is not None:
            for host in _as_tuple(self, "hosts", str):
                parsed = parse_host(host)
                if parsed is None or parsed[1] is not None:
                    raise InvalidHeader(f"hosts: {host!r} is not a host name without a port")
            if not self.hosts:
                raise ValueError(
                    "hosts is empty, so that nobody is admitted; None asks for no name"
                )


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """What holds for a client that stays connected, beside each of its connections."""

    outbox_messages: int = 1000
    """Messages of `send` that may wait for a connection, and as many again that are in flight. An
    agent with a report a second is disconnected for a quarter of an hour before it is full."""

    outbox_bytes: int = 4 * MIB
    """Bytes of the messages that wait, and as many again of those in flight: as `send_buffer`."""

    outbox_policy: OutboxPolicy = "refuse"
    """What happens to a message too many: "refuse" it, so that its sender learns of it, or
    "drop-oldest", for readings of which only the latest count."""

    confirm_interval: float | None = 1.0
    """Seconds until a ping asks whether what was sent has arrived, where nothing did so before;
    what was confirmed is not reported as in flight when the connection ends. One small frame a
    second at most, and none while nothing is sent. None sends none."""

    hook_timeout: float | None = 30.0
    """Seconds that a hook may take, before an attempt or after the opening: a token from a slow
    server is there by then. None waits for ever."""

    def __post_init__(self) -> None:
        check_counts(self, "outbox_messages", "outbox_bytes")
        check_seconds(self, optional=("confirm_interval", "hook_timeout"))
        if self.outbox_policy not in OUTBOX_POLICIES:
            policies = " or ".join(map(repr, OUTBOX_POLICIES))
            raise ValueError(f"outbox_policy is {policies}, not {self.outbox_policy!r}")


DEFAULT_SERVICE_OPTIONS: Final = ServiceOptions()


MAX_WORKERS: Final = 256
"""Processes of one service: as many as the largest machines have cores; more gain nothing. The
parent has four pipes and a socket for every port open for each, which for this many is more than
1024 files (`ulimit -n`)."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What holds for the processes that serve one service together, and for the one above them."""

    first_delay: float = 0.5
    """Seconds: the largest wait before a worker that died is replaced; one that had served for
    `stable_after` is replaced at once. Each wait is drawn from the upper half of the largest, so
    that workers that died together do not start together, and none spins."""

    factor: float = 2.0
    """What the largest wait is multiplied by after each further death in a row, from 1 to 10."""

    max_delay: float = 30.0
    """Seconds: the largest wait of all. The start of a process costs about half a second of a
    core, which every 15 to 30 seconds is little."""

    stable_after: float = 10.0
    """Seconds that a worker must have served for its earlier deaths to be forgotten."""

    max_failures: int = 10
    """Deaths in a row of every single worker after which the service ends, with exit status 1: in
    two to four minutes, with the waits above. While one of them is stable, the others are replaced
    for ever."""

    start_timeout: float = 60.0
    """Seconds that a worker may take until it listens; then it is killed. It takes about half a
    second of a core; where a hundred of them start on a machine that boots, half a minute."""

    silence_timeout: float | None = 30.0
    """Seconds without a sign of life after which a worker that listened is killed and replaced: its
    loop is blocked, and what the kernel gives it waits for ever. A blocked loop that goes on after
    all loses nothing, and a worker that is killed loses all its connections; hence no less than
    gunicorn's 30. Time in which the parent itself did not run is not counted. None waits for
    ever, as who attaches a debugger to a worker wants it."""

    drain_grace: float = 5.0
    """Seconds beyond `ServerOptions.drain_timeout` until a worker that was told to end is killed.
    Its own deadline comes first; what follows it is the end of an interpreter. Together they are
    below the 30 s after which orchestrators kill."""

    cut_grace: float = 1.0
    """Seconds after the second signal until a worker that is still there is killed, that one which
    hangs has to say where, and that the output of one that ended is waited for: what it started may
    hold that open."""

    def __post_init__(self) -> None:
        check_seconds(
            self,
            "first_delay",
            "max_delay",
            "stable_after",
            "start_timeout",
            "drain_grace",
            "cut_grace",
            optional=("silence_timeout",),
        )
        check_counts(self, "max_failures")
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float):
            raise TypeError(f"factor is a number, not {self.factor!r}")
        if not 1 <= self.factor <= 10:
            raise ValueError(f"factor must be from 1 to 10, not {self.factor!r}")


DEFAULT_WORKER_OPTIONS: Final = WorkerOptions()


@dataclass(frozen=True, kw_only=True)
class Deflate:
    """Compression with permessage-deflate (RFC 7692): what is offered, and what is accepted.

    A connection has a compressor and a decompressor of its own once there is something to compress:
    48 KiB with the defaults, 243 KiB with zlib's own. A side that begins every message with an
    empty window has none between two messages, and one that only ever broadcasts has none at all.
    For a feed of 1 KiB of JSON (a compressor, a decompressor, what remains of a message)::

        window bits     9         11        12        13        15        no context takeover
        compressor      23 KiB    29 KiB    37 KiB    53 KiB    144 KiB   none
        decompressor    7 KiB     9 KiB     12 KiB    15 KiB    40 KiB    none
        remains         26 %      19 %      20 %      20 %      19 %      31 %
    """

    client_no_context_takeover: bool = False
    """Whether a client begins every message with an empty window: less memory, larger messages."""

    server_no_context_takeover: bool = False
    """The same for a server. Either side is asked for it by the other, and does it itself."""

    client_max_window_bits: int = 12
    """From 9 to 15: the client's window has at most 2 to that power bytes. 12, 4 KiB, is the
    default of `websockets`: four messages of 1 KiB, and larger ones gain next to nothing."""

    server_max_window_bits: int = 12
    """The same for the server's window."""

    mem_level: int = 5
    """From 1 to 9: the memory of this side's compressor beside its window, 2 to that power plus 9
    bytes. 5 is the default of `websockets`, 8 that of zlib: 58 KiB more, for 1 % less of a message
    of 64 KiB and nothing of one of 1 KiB. With the extra `wsframe[speedups]` a compressor takes
    62 KiB from level 5 on, and as before below it."""

    threshold: int = 64
    """Bytes below which a message is sent as it is. 64 bytes of JSON that refer to nothing before
    them lose a sixth, 32 bytes nothing; and a packet has 52 bytes before the first of them."""

    def __post_init__(self) -> None:
        for name in ("client_no_context_takeover", "server_no_context_takeover"):
            _check_flag(self, name)
        windows = ("client_max_window_bits", "server_max_window_bits")
        check_counts(self, *windows, least=9, most=15)
        check_counts(self, "mem_level", most=9)
        check_counts(self, "threshold", least=0)


def check_compression(given: object) -> Deflate | None:
    """Return what was given as `compression=` when it can be: a `Deflate`, or None."""
    if given is not None and not isinstance(given, Deflate):
        raise TypeError(f"compression is a Deflate, not {type(given).__name__}")
    return given


DEFAULT_SERVER_OPTIONS: Final = ServerOptions()
DEFAULT_CLIENT_OPTIONS: Final = ClientOptions()
DEFAULT_RETRY_POLICY: Final = RetryPolicy()
