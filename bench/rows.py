"""What is measured: one row of the table each, with the goals for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["server", "client", "idle"]

# The CPU time of a peer divided by ours, at least.
ONE_IN_FLIGHT = {"websockets": 1.7, "aiohttp": 1.2, "Node ws": 1.1, "picows": 0.75}
MANY_IN_FLIGHT = {"websockets": 2.0, "aiohttp": 1.4, "Node ws": 1.1, "picows": 1.0}
LARGE = {"websockets": 1.3, "aiohttp": 1.0, "Node ws": 1.1, "picows": 0.75}
EVERYBODY = ("Autobahn", "twisted.web", "websockets", "aiohttp", "picows", "Node ws")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the load does to one server (or client) at a time, and which goals hold for it."""

    name: str
    kind: Kind = "server"
    mode: str = "echo"  # of the load
    port: str = "plain"  # of the server: plain, tls or deflate
    connections: int = 100
    size: int = 128
    in_flight: int = 1
    seconds: float = 0.5
    warm_up: float = 0.1  # seconds before those
    flags: tuple[str, ...] = ()  # of the load
    goals: Mapping[str, float] = field(default_factory=dict)  # peer → ratio, at least
    most: float | None = None  # the figure of ours, at most
    rounds: int | None = None  # at most; None is as many as asked for

    @property
    def tls(self) -> bool:
        return self.port == "tls"

    @property
    def unit(self) -> str:
        if self.kind == "idle":
            return "KiB a connection"
        if self.mode in ("opening", "closing"):
            return "µs a handshake"
        return "µs a delivery" if self.mode == "fanout" else "µs a message"

    @property
    def arguments(self) -> list[str]:
        """What the load is told, beside the port."""
        told = ["--connections", self.connections]
        told += ["--seconds", self.seconds, "--warm-up", self.warm_up]
        if self.kind != "idle":
            told += ["--size", self.size, "--in-flight", self.in_flight]
        return [self.mode, *map(str, told), *(["--tls"] if self.tls else []), *self.flags]

    def over_tls(self) -> Row:
        return replace(self, name=f"{self.name}, TLS", port="tls")

    def shortened(self, scale: float, most: int) -> Row:
        """Return the same for another time, on so many connections at most."""
        return replace(
            self,
            seconds=self.seconds * scale,
            warm_up=self.warm_up * scale,
            connections=min(self.connections, most),
        )


_ECHO = (
    Row(name="echo 128 B, 1 in flight", goals=ONE_IN_FLIGHT),
    Row(name="echo 128 B, 32 in flight", in_flight=32, goals=MANY_IN_FLIGHT),
    Row(name="echo 64 KiB", connections=10, size=64 * 1024, goals=LARGE),
    Row(name="echo 1 MiB", connections=4, size=1024 * 1024, goals=LARGE),
)
_FANOUT = Row(
    name="fan-out to 1,000",
    mode="fanout",
    connections=1000,
    goals=dict.fromkeys(EVERYBODY, 2.0),
)
_OPENING = Row(name="opening handshake", mode="opening", connections=2000, goals={"aiohttp": 1.0})
_CLIENT = Row(
    name="client, echo 128 B, 1 in flight",
    kind="client",
    mode="serve",
    flags=("--text",),
    warm_up=0.3,  # each client is a new process, whose code is not compiled or cached yet
)
_IDLE = Row(
    name="memory, 10,000 idle",
    kind="idle",
    mode="idle",
    connections=10_000,
    seconds=20,  # what most send a ping in
    rounds=1,
)

WARMING = replace(_ECHO[0], name="warm-up")  # of a server that has just started
ROWS = (
    *_ECHO,
    *(row.over_tls() for row in _ECHO),
    Row(
        name="echo 1 KiB of JSON, deflate",
        port="deflate",
        size=1024,
        flags=("--deflate", "--text"),
        goals=ONE_IN_FLIGHT,
    ),
    _FANOUT,
    _FANOUT.over_tls(),
    replace(_FANOUT, name="fan-out to 10,000", connections=10_000, rounds=3),
    _OPENING,
    replace(_OPENING, name="opening handshake, TLS", port="tls", connections=300, goals={}),
    Row(name="opening and closing", mode="closing"),
    _CLIENT,
    replace(_CLIENT, name="client, echo 128 B, 32 in flight", in_flight=32),
    replace(_CLIENT, name="client, receive 128 B", in_flight=64, flags=("--push",)),
    replace(_IDLE, most=8.0),
    replace(_IDLE, name="memory, 10,000 idle, TLS", port="tls"),
)
