"""What attackers cost: the server's memory, and the latency of the innocents beside them.

    python bench/hostile.py [--seconds 2] [--only NAME ...] [--json FILE] [--smoke]

For every attack there is a new server, a process of its own with the default options, that echoes.
Innocents exchange a small message with it, fifty times a second each, and time the round trip.
Then the attacker comes, another process, four times or more. The server has the last core for
itself; on the first one the attacker yields to the innocents.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine

HOST = "127.0.0.1"
KIB, MIB = 1 << 10, 1 << 20
INNOCENTS = 20
EVERY = 0.02
"""Seconds between two messages of an innocent."""

ROUNDS, MOST_ROUNDS = 4, 16
"""Attacks on one server, and how many more there are at most while each leaves more: what the first
ones leave may be the allocator's, which keeps up to what it ever had, or wait for the garbage
collector; what each one adds is a leak."""

SETTLE = 20.0
"""Seconds at most until the server has forgotten an attacker that has gone."""

SERVER = """
import json, sys
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from wsframe import Deflate, ServerOptions, serve

given = json.loads(sys.argv[1])
log = textFileLogObserver(open(given["log"], "w"))
globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)

async def echo(connection):
    async for message in connection:
        await connection.send(message)

async def main(reactor):
    compression = Deflate() if given["deflate"] else None
    options = ServerOptions(**given["options"])
    listen = "tcp:0:interface=127.0.0.1"
    async with serve(echo, listen, options=options, compression=compression) as server:
        print(server.addresses[0].port, flush=True)
        await Deferred()

react(main)
"""

# --------------------------------------------------------------------------- what an attacker says

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
NO_MASK = b"\0\0\0\0"  # a mask that leaves the payload as it is: the attacker saves its own time


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, length: int | None = None
) -> bytes:
    """Return a client's frame; `length` says something else than the truth."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2)
    else:
        head += b"\xff" + size.to_bytes(8)
    return head + NO_MASK + payload


def request(port: int, *lines: str) -> bytes:
    return "\r\n".join(
        [
            "GET / HTTP/1.1",
            f"Host: {HOST}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
            *lines,
            "\r\n",
        ]
    ).encode("latin-1")


DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def deflated(size: int) -> bytes:
    """Return so many zeros, compressed: a thousandth of them."""
    compress = zlib.compressobj(9, wbits=-12)
    chunk = bytes(MIB)
    parts = [compress.compress(chunk[: min(MIB, size - at)]) for at in range(0, size, MIB)]
    return b"".join([*parts, compress.flush(zlib.Z_SYNC_FLUSH)])[:-4]


@dataclass
class Target:
    """The server, for an attacker that has so many seconds."""

    port: int
    seconds: float
    deflate: bool
    max_connections: int
    threads: int
    sockets: list[socket.socket] = field(default_factory=list)
    end: float = 0.0

    def begin(self) -> None:
        """Say that the attack begins, and start the clock."""
        print("ready", flush=True)
        self.end = time.monotonic() + self.seconds

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    def tcp(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        try:
            connection.connect((HOST, self.port))
        except ConnectionResetError:  # it was accepted and cut before we have noticed
            connection.close()
            raise ConnectionResetError("reset") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def open(self, *lines: str, receive_buffer: int | None = None) -> socket.socket:
        """Return a connection of which the WebSocket is open."""
        connection = self.tcp(receive_buffer)
        connection.sendall(request(self.port, *lines, *([DEFLATE] if self.deflate else [])))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = connection.recv(1)
            if not received:
                raise ConnectionResetError("not admitted")
            head += received
        if b" 101 " not in head:
            raise ConnectionResetError(f"answered {head[9:12].decode()}")
        return connection


def told(connection: socket.socket) -> str:
    """Return what the server says last: a status, a close code, or how it just ends."""
    data = b""
    try:
        while True:
            received = connection.recv(MIB)
            if not received:
                return "end"
            data += received
            if data.startswith(b"HTTP/"):
                return data[9:12].decode()
            while len(data) >= 2:
                size, at = data[1] & 0x7F, 2
                if size >= 126:
                    at = 4 if size == 126 else 10
                    size = int.from_bytes(data[2:at])
                if len(data) < at + size:
                    break
                if data[0] == 0x80 | CLOSE:
                    return str(int.from_bytes(data[at : at + 2])) if size else "1005"
                data = data[at + size :]
    except TimeoutError:
        return "nothing"
    except OSError:
        return "reset"


def send(connection: socket.socket, data: bytes) -> bool:
    """Send as far as it is taken; return whether all was."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def over_and_over(target: Target, attack: Callable[[], str]) -> Counter[str]:
    """Attack in several threads until the time is over; count what was told."""
    answers: Counter[str] = Counter()
    target.begin()

    def attacking() -> None:
        while not target.over:
            try:
                answer = attack()
            except OSError as error:
                answer = str(error) if isinstance(error, ConnectionResetError) else "refused"
            answers[answer] += 1

    in_threads([attacking] * target.threads)
    return answers


def in_threads(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def saying(
    *given: bytes, made: Callable[[], list[bytes]] | None = None
) -> Callable[[Target], Counter[str]]:
    """Return an attack that opens a WebSocket and says all that, over and over.

    `made` returns what takes a while to be made.
    """

    def attack(target: Target) -> Counter[str]:
        payload = [*given, *(made() if made is not None else [])]

        def once() -> str:
            with target.open() as connection:
                for part in payload:
                    if not send(connection, part):
                        break
                return told(connection)

        return over_and_over(target, once)

    return attack


def asking(*lines: str, raw: bytes | None = None) -> Callable[[Target], Counter[str]]:
    """Return an attack that asks for a WebSocket with those lines, over and over."""

    def attack(target: Target) -> Counter[str]:
        def once() -> str:
            with target.tcp() as connection:
                send(connection, request(target.port, *lines) if raw is None else raw)
                return told(connection)

        return over_and_over(target, once)

    return attack


def held(
    payload: bytes, *, connections: int, read: bool = False, at_first: bytes = b""
) -> Callable[[Target], Counter[str]]:
    """Return an attack that keeps on saying the same over connections that stay open.

    It reads what comes back, or never any of it.
    """

    def attack(target: Target) -> Counter[str]:
        answers: Counter[str] = Counter()
        target.begin()

        def one() -> None:
            try:
                connection = target.open(receive_buffer=None if read else 4 * KIB)
            except OSError:
                answers["refused"] += 1  # or not answered in time
                return
            target.sockets.append(connection)
            if read:
                threading.Thread(target=drain, args=(connection,), daemon=True).start()
            send(connection, at_first)
            connection.settimeout(0.2)
            while not target.over:
                try:
                    connection.send(payload)
                except TimeoutError:
                    continue
                except OSError:
                    connection.settimeout(1)
                    answers[told(connection)] += 1
                    return
            answers["open"] += 1

        in_threads([one] * min(connections, 4 * target.threads))
        return answers

    return attack


def drain(connection: socket.socket) -> None:
    buffer = bytearray(MIB)
    with contextlib.suppress(OSError):
        while connection.recv_into(buffer):
            pass


def dripping(
    begin: Callable[[Target], tuple[socket.socket, bytes]], connections: int
) -> Callable[[Target], Counter[str]]:
    """Return an attack that sends single bytes over many connections, and never ends.

    `begin` opens a connection and returns it with what is dripped, which is repeated.
    """

    def attack(target: Target) -> Counter[str]:
        answers: Counter[str] = Counter()
        target.begin()
        dripped = [(*begin(target), [0]) for _ in range(connections)]
        for connection, _, _ in dripped:
            connection.setblocking(False)
        while dripped and not target.over:
            began = time.monotonic()
            for entry in list(dripped):
                connection, data, place = entry
                try:
                    connection.send(data[place[0] % len(data) :][:1])
                    place[0] += 1
                except BlockingIOError:
                    pass
                except OSError:
                    connection.settimeout(1)
                    answers[told(connection)] += 1
                    dripped.remove(entry)
            time.sleep(max(0.0, 0.001 - time.monotonic() + began))
        answers["open"] += len(dripped)
        return answers

    return attack


def slow_head(target: Target) -> tuple[socket.socket, bytes]:
    connection = target.tcp()
    connection.sendall(b"GET / HTTP/1.1\r\nA: ")
    return connection, b"x"


def slow_message(size: int) -> Callable[[Target], tuple[socket.socket, bytes]]:
    def begin(target: Target) -> tuple[socket.socket, bytes]:
        connection = target.open()
        connection.sendall(frame(BINARY, length=size))
        return connection, b"x"

    return begin


def waiting(count: Callable[[Target], int], data: bytes) -> Callable[[Target], Counter[str]]:
    """Return an attack of many connections that say a little and then nothing more."""

    def attack(target: Target) -> Counter[str]:
        answers: Counter[str] = Counter()
        target.begin()
        said = data or request(target.port)
        with selectors.DefaultSelector() as selector:
            for _ in range(count(target)):
                try:
                    connection = target.tcp()
                except ConnectionResetError as error:
                    answers[str(error)] += 1
                    continue
                send(connection, said)
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
                target.sockets.append(connection)
            while selector.get_map():
                over = target.over
                ready = selector.select(2 if over else 0.1)  # the last may be told a little later
                if over and not ready:
                    break
                for key, _ in ready:
                    selector.unregister(key.fileobj)
                    key.fileobj.settimeout(1)
                    answers[told_first(key.fileobj)] += 1
            answers["nothing"] += len(selector.get_map())
        return answers

    return attack


def told_first(connection: socket.socket) -> str:
    """Return what the server says first: a status, or how it ends."""
    try:
        return connection.recv(64)[9:12].decode() or "end"
    except OSError:
        return "reset"


def resetting(target: Target) -> Counter[str]:
    """Reset at any moment: before the head, after it, within a message, or behind it."""
    rolled = random.Random(1)  # noqa: S311 - the same attack every time

    def once() -> str:
        moment = rolled.randrange(4)
        connection = target.tcp() if moment < 2 else target.open()
        with connection:
            if moment == 1:
                connection.sendall(request(target.port))
            elif moment == 2:
                connection.sendall(frame(BINARY, bytes(1000), length=2000))
            elif moment == 3:
                connection.sendall(frame(BINARY, bytes(1000)) * 20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "left"

    return over_and_over(target, once)


@dataclass(frozen=True)
class Attack:
    """How it is done, and what it may cost.

    `expected` is what the attacker may be told, `allowed` how many MiB the peak may lie above what
    the server had before; `least` is how many seconds it takes to show anything.
    """

    run: Callable[[Target], Counter[str]]
    expected: frozenset[str]
    allowed: float = 16
    deflate: bool = False
    least: float = 0


def attacks(smoke: bool) -> dict[str, Attack]:
    """Return all attacks; in a smoke test the large ones are smaller."""
    fragments = 20_000 if smoke else 1_000_000
    many, some = (20, 5) if smoke else (500, 20)

    def bomb(begin: int, tail: bytes = b"", size: int = 16 if smoke else 64) -> list[bytes]:
        """Return a bomb whose first fragments have a byte each, so many; none is one frame."""
        whole = deflated(size * MIB - KIB) + tail
        if not begin:
            return [frame(BINARY, whole, rsv=4)]
        first = [frame(0, whole[at : at + 1], fin=False) for at in range(begin)]
        half = (begin + len(whole)) // 2
        last = [frame(0, whole[begin:half], fin=False), frame(0, whole[half:])]
        return [b"".join([frame(BINARY, rsv=4, fin=False), *first]), *last]

    bombs = {
        "deflate bomb, whole": saying(made=lambda: bomb(0)),
        "deflate bomb, in fragments": saying(made=lambda: bomb(1)),
        "deflate bomb, a byte a fragment": saying(made=lambda: bomb(1000)),
        "deflate bomb with a corrupt tail": saying(made=lambda: bomb(0, b"\xff" * 64)),
        "deflate below the limit, corrupt tail": saying(made=lambda: bomb(0, b"\xff" * 64, 1)),
    }
    inflating = frame(BINARY, deflated(MIB), rsv=4) * 200
    ends = {"end", "reset"}  # where a peer that is still sending is cut off
    return {
        "message over the limit": Attack(
            saying(frame(BINARY, bytes(MIB + 1))), frozenset({"1009"} | ends)
        ),
        "huge length declared": Attack(
            saying(frame(BINARY, bytes(64 * KIB), length=1 << 62)), frozenset({"1009"} | ends)
        ),
        "length of the limit, dripped": Attack(
            dripping(slow_message(MIB), some), frozenset({"open"})
        ),
        **{
            name: Attack(run, frozenset({"1007", "1009"} | ends), deflate=True)
            for name, run in bombs.items()
        },
        "a million empty fragments": Attack(
            saying(frame(TEXT, fin=False) + frame(0, fin=False) * fragments),
            frozenset({"1008"} | ends),
        ),
        "a million fragments of one byte": Attack(
            saying(frame(TEXT, b"x", fin=False) + frame(0, b"x", fin=False) * fragments),
            frozenset({"1008"} | ends),
        ),
        "pings, never reads": Attack(
            held(frame(PING, b"x" * 125) * 500, connections=some), frozenset({"open"})
        ),
        "pings, reads": Attack(
            held(frame(PING, b"x" * 125) * 500, connections=some, read=True), frozenset({"open"})
        ),
        "pongs that nobody asked for": Attack(
            held(frame(PONG, b"x" * 125) * 500, connections=some), frozenset({"open"})
        ),
        "echoes asked for, never read": Attack(
            held(frame(BINARY, bytes(60 * KIB)), connections=some), frozenset({"open"}), allowed=40
        ),
        "large echoes asked for, never read": Attack(
            held(frame(BINARY, bytes(MIB)), connections=some), frozenset({"open"}), allowed=120
        ),
        "messages of one byte, thousands a read": Attack(
            held(frame(BINARY, b"x") * 8000, connections=some, read=True), frozenset({"open"})
        ),
        "empty messages, never read": Attack(
            held(frame(TEXT) * 8000, connections=some), frozenset({"open"})
        ),
        "a message without end, empty pings between": Attack(
            held(frame(PING) * 8000, connections=some, at_first=frame(TEXT, b"x", fin=False)),
            frozenset({"open"}),
        ),
        "texts in two fragments of a byte, reads": Attack(
            held(
                (frame(TEXT, b"x", fin=False) + frame(0, b"y")) * 4000, connections=some, read=True
            ),
            frozenset({"open"}),
        ),
        "empty pings after a large frame, reads": Attack(
            held(
                frame(PING) * 40_000,
                connections=some,
                read=True,
                at_first=frame(BINARY, bytes(256 * KIB)),
            ),
            frozenset({"open"}),
        ),
        "messages that inflate to the limit, never read": Attack(
            held(inflating, connections=some), frozenset({"open"}), allowed=3 * some, deflate=True
        ),
        "text that is not UTF-8": Attack(
            saying(frame(TEXT, b"x" * 1000 + b"\xff")), frozenset({"1007"} | ends)
        ),
        "1 MiB of text, its last byte not UTF-8": Attack(
            saying(frame(TEXT, b"x" * (MIB - 1) + b"\xff")), frozenset({"1007"} | ends)
        ),
        "close frames by the thousand": Attack(
            saying(frame(CLOSE, b"\x03\xe8") * 10_000), frozenset({"1000"} | ends)
        ),
        "reserved bits and opcodes": Attack(
            saying(frame(11, b"x", rsv=7) * 1000), frozenset({"1002"} | ends)
        ),
        "heads dripped (slowloris)": Attack(
            dripping(slow_head, many), frozenset(ends), least=0.9 if smoke else 12
        ),
        "handshakes never finished": Attack(
            waiting(lambda _: 2 * many, b"GET / HTTP/1.1\r\nA: b\r\n"),
            frozenset(ends),
            least=0.9 if smoke else 12,
        ),
        "control bytes in heads": Attack(asking("A: b\x0bC: d"), frozenset({"400"})),
        "heads too large": Attack(asking("A: " + "x" * MIB), frozenset({"431"} | ends)),
        "heads without an end": Attack(
            asking(raw=b"GET /" + b"x" * MIB), frozenset({"431"} | ends)
        ),
        "too many headers": Attack(asking(*["A: b"] * 101), frozenset({"431"})),
        "extensions by the thousand": Attack(
            asking("Sec-WebSocket-Extensions: " + "permessage-deflate, " * 780),
            frozenset({"101"}),
            deflate=True,
        ),
        "parameters by the thousand": Attack(
            asking("Sec-WebSocket-Extensions: x" + ";a" * 7900), frozenset({"101", "400"})
        ),
        "subprotocols by the thousand": Attack(
            asking("Sec-WebSocket-Protocol: " + ", ".join(f"p{n}" for n in range(2200))),
            frozenset({"101", "400"}),
        ),
        "no HTTP at all": Attack(asking(raw=b"\x16\x03\x01" + bytes(1000)), frozenset({"400"})),
        "more connections than may be": Attack(
            waiting(lambda target: target.max_connections + 200, b""),
            frozenset({"101", "503"} | ends),
            allowed=400,
            least=0.3 if smoke else 20,
        ),
        "resets at any moment": Attack(resetting, frozenset({"left"} | ends)),
    }


def attack_now(name: str, given: dict[str, Any]) -> None:
    """Be the attacker: print what was told."""
    os.nice(10)
    target = Target(
        given["port"],
        given["seconds"],
        given["deflate"],
        given["max_connections"],
        given["threads"],
    )
    attack = attacks(given["smoke"])[name]
    answers = attack.run(target)
    print(json.dumps(answers), flush=True)
    os._exit(0)  # with all sockets at once, and no word


# ----------------------------------------------------------------------------------- the innocents


class Innocents(threading.Thread):
    """Clients that do no harm, and time the round trips of their messages.

    Each sends when its time has come, and not before the echo of its last message is there. The
    messages that it could not send meanwhile count with the time that they would have waited.
    """

    PAYLOAD = b"innocent"
    ANSWER = bytes([0x80 | TEXT, len(PAYLOAD)]) + PAYLOAD

    def __init__(self, port: int, count: int) -> None:
        super().__init__(daemon=True)
        target = Target(port, seconds=0, deflate=False, max_connections=0, threads=0)
        self._connections = [target.open() for _ in range(count)]
        for connection in self._connections:
            connection.setblocking(False)
        self._lock = threading.Lock()
        self._times: list[float] = []
        self._stopped = False
        self.lost = 0

    def run(self) -> None:
        said = frame(TEXT, self.PAYLOAD)
        began = time.perf_counter()
        due = {
            connection: began + EVERY * place / len(self._connections)
            for place, connection in enumerate(self._connections)
        }
        sent: dict[socket.socket, float] = {}
        selector = selectors.DefaultSelector()
        for connection in self._connections:
            selector.register(connection, selectors.EVENT_READ)
        while not self._stopped:
            now = time.perf_counter()
            for connection, moment in due.items():
                if connection not in sent and moment <= now:
                    sent[connection] = now
                    connection.send(said)
            ready = min((due[one] for one in due if one not in sent), default=now + EVERY)
            for key, _ in selector.select(max(0.0, ready - time.perf_counter())):
                connection = key.fileobj
                echoes = self._received(connection)
                now = time.perf_counter()
                if echoes is None or echoes > (connection in sent):
                    self.lost += 1
                    selector.unregister(connection)
                    del due[connection]
                elif echoes:
                    self._note(now - sent.pop(connection))
                    due[connection] = max(due[connection] + EVERY, now)

    def _received(self, connection: socket.socket) -> int | None:
        """Return how many echoes came, None at the end; the pings of the keepalive are answered."""
        try:
            received = connection.recv(KIB)
        except OSError:
            return None
        echoes = 0 if received else None
        while received:
            size = 2 + received[1]
            one, received = received[:size], received[size:]
            if one == self.ANSWER:
                echoes += 1
            elif one[0] == 0x80 | PING:
                connection.send(frame(PONG, one[2:]))
            else:
                return None
        return echoes

    def _note(self, took: float) -> None:
        with self._lock:
            while took > 0:
                self._times.append(took)
                took -= EVERY

    def taken(self) -> dict[str, float]:
        """Return what was timed since the last call, in milliseconds."""
        with self._lock:
            times, self._times = sorted(self._times), []
        if not times:
            return {"median": float("inf"), "p99": float("inf"), "max": float("inf")}
        return {
            "median": statistics.median(times) * 1e3,
            "p99": times[int(len(times) * 0.99)] * 1e3,
            "max": times[-1] * 1e3,
        }

    def stop(self) -> None:
        self._stopped = True
        self.join()
        for connection in self._connections:
            connection.close()


# --------------------------------------------------------------------------------------- the server


class Server:
    """The server's process, and what the kernel tells of it."""

    def __init__(self, log: Path, core: int, *, deflate: bool, options: dict[str, Any]) -> None:
        given = {"log": str(log), "deflate": deflate, "options": options}
        command = [sys.executable, "-c", SERVER, json.dumps(given)]
        self.log = log
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        os.sched_setaffinity(self.process.pid, {core})
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        self.port = int(line)
        self._proc = Path(f"/proc/{self.process.pid}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def descriptors(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    @property
    def cpu(self) -> float:
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str) -> float:
        """Return MiB: VmRSS now, VmHWM at its peak."""
        for line in (self._proc / "status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / KIB
        raise LookupError(what)

    def forget_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")

    def settled(self, descriptors: int) -> float | None:
        """Wait until it has only so many descriptors; return the seconds, None if it never has."""
        began = time.monotonic()
        while time.monotonic() - began < SETTLE:
            if self.descriptors <= descriptors:
                return time.monotonic() - began
            time.sleep(0.02)
        return None

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@dataclass
class Row:
    """What an attack cost; memory in MiB, times in milliseconds."""

    attack: str
    told: dict[str, int]
    expected: bool
    memory_before: float
    peak: float
    allowed: float
    left: list[float]
    before: dict[str, float]
    during: dict[str, float]
    server_cpu: float
    log: float
    settled: float | None
    innocents_lost: int
    alive: bool

    @property
    def faults(self) -> list[str]:
        """What was not as it must be."""
        found = {
            "the server died": not self.alive,
            "innocents lost their connections": self.innocents_lost > 0,
            "told otherwise": not self.expected,
            "memory": self.peak > self.allowed,
            "connections stay": self.settled is None,
            "a leak": grows(self.left),
        }
        return [name for name, true in found.items() if true]


def grows(left: list[float]) -> bool:
    """Whether the last attack left much more than the one before it."""
    return len(left) > 2 and left[-1] - left[-2] > max(4, left[0] / 2)


def worst(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in figures) for name in figures[0]}


def measured(server: Server, name: str, attack: Attack, given: dict[str, Any]) -> Row:
    """Attack the server, and tell."""
    smoke = given["smoke"]
    given = given | {
        "port": server.port,
        "deflate": attack.deflate,
        "seconds": max(given["seconds"], attack.least),
    }
    innocents = Innocents(server.port, INNOCENTS)
    innocents.start()
    try:
        time.sleep(0.1 if smoke else 1)
        innocents.taken()
        time.sleep(0.1 if smoke else 1)
        before = innocents.taken()
        descriptors, logged = server.descriptors, server.log.stat().st_size
        base = server.memory("VmRSS")
        server.forget_peak()
        answers: Counter[str] = Counter()
        settled = None
        left, during, shares = [], [], []
        for place in range(1 if smoke else MOST_ROUNDS):
            if place >= ROUNDS and not grows(left):
                break
            command = [sys.executable, __file__, "--attack", name, json.dumps(given)]
            attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            with attacker:
                attacker.stdout.readline()  # "ready"
                innocents.taken()
                began, spent = time.monotonic(), server.cpu
                said = attacker.stdout.readline()
            if not server.alive:
                break
            shares.append((server.cpu - spent) / (time.monotonic() - began))
            during.append(innocents.taken())
            answers += Counter(json.loads(said))
            settled = server.settled(descriptors)
            left.append(server.memory("VmRSS") - base)
        return Row(
            attack=name,
            told=dict(answers.most_common()),
            expected=bool(answers) and set(answers) <= attack.expected,
            memory_before=base,
            peak=server.memory("VmHWM") - base if server.alive else 0.0,
            allowed=attack.allowed,
            left=left,
            before=before,
            during=worst(during or [before]),
            server_cpu=max(shares, default=0.0),
            log=(server.log.stat().st_size - logged) / MIB,
            settled=settled,
            innocents_lost=innocents.lost,
            alive=server.alive,
        )
    finally:
        innocents.stop()


HEAD = (
    "| Attack | Told | Peak, MiB (allowed) | Left, MiB | Median, ms | p99, ms | Max, ms "
    "| Server CPU | Log, MiB | Gone after, s |\n|---|---|---|---|---|---|---|---|---|---|"
)


def as_line(row: Row) -> str:
    """Return a row of the table."""
    answers = ", ".join(f"{count} {what}" for what, count in row.told.items())
    ms = [f"{row.before[key]:.1f} → {row.during[key]:.1f}" for key in ("median", "p99", "max")]
    left = ", ".join(f"{value:+.1f}" for value in row.left)
    gone = "never" if row.settled is None else f"{row.settled:.1f}"
    cells = [
        row.attack + (f" **{'; '.join(row.faults)}**" if row.faults else ""),
        answers,
        f"{row.peak:+.1f} ({row.allowed:g})",
        left,
        *ms,
        f"{row.server_cpu:.0%}",
        f"{row.log:.1f}",
        gone,
    ]
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Let this process and those that it starts open as many files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        attack_now(arguments.attack[0], json.loads(arguments.attack[1]))
    from wsframe.options import DEFAULT_SERVER_OPTIONS  # not in every attacker: it takes its time

    described = machine.described("wsframe", "autobahn", "twisted")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    smoke = arguments.smoke
    # A smoke test waits for no deadline of ten seconds, and opens no ten thousand connections.
    options: dict[str, Any] = {"open_timeout": 0.5, "max_connections": 60} if smoke else {}
    given = {
        "seconds": 0.2 if smoke else arguments.seconds,
        "max_connections": options.get("max_connections", DEFAULT_SERVER_OPTIONS.max_connections),
        "threads": 2 if smoke else 8,
        "smoke": smoke,
    }
    print(machine.as_text(described), "\n")
    print(HEAD, flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as directory, many_files(), contextlib.ExitStack() as stack:
        servers: dict[bool, Server] = {}
        for name, attack in attacks(smoke).items():
            if arguments.only and not any(part in name for part in arguments.only):
                continue
            if not smoke:  # in a smoke test all share one, with or without compression
                stack.close()
                servers.clear()
            if attack.deflate not in servers:
                log = Path(directory) / f"log{len(rows)}"
                server = Server(log, cores[-1], deflate=attack.deflate, options=options)
                servers[attack.deflate] = server
                stack.callback(server.stop)
            rows.append(measured(servers[attack.deflate], name, attack, given))
            print(as_line(rows[-1]), flush=True)
    if arguments.json:
        found = [vars(row) | {"faults": row.faults} for row in rows]
        machine.write(arguments.json, described | {"seconds": given["seconds"], "rows": found})
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
