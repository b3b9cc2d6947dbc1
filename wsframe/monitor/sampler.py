"""The real figures of this machine, taken from psutil."""

from __future__ import annotations

import platform
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import psutil

from wsframe.monitor.report import Report, check_field

__all__ = ["Sampler"]

_T = TypeVar("_T")

# What psutil raises where a machine hides a figure (containers, jails, missing permissions) or has
# none; a missing attribute is how it says that the operating system lacks the figure altogether.
# RuntimeWarning is only ever raised where the process turns warnings into errors.
_UNAVAILABLE: Final = (
    psutil.Error,
    OSError,
    RuntimeError,
    AttributeError,
    LookupError,
    ValueError,
    RuntimeWarning,
)
_LOOPBACK: Final = re.compile(r"lo\d*|Loopback .*")
_TEXT_LIMIT: Final = 255
_MOST_CPUS: Final = 1024
_RATE_LIMIT: Final = 1e15

_NO_CPUS: Final[tuple[float, ...]] = ()
_NO_COUNTERS: Final[Mapping[str, tuple[int, int]]] = {}


class Sampler:
    """Takes the figures of this machine, one `Report` per call of `sample`.

    `name` is the agent's name and `interval` the seconds between two reports: both go into the
    reports as they are, and raise `InvalidReport` if a report does not allow them. `clock` gives
    seconds since the epoch, `monotonic` seconds that never jump.

    Processor and network figures are those since the sample before, or since the sampler was made.
    psutil keeps the processor times of the sample before once per thread of the process, so use one
    sampler in a process, always in the thread that made it. Nothing here waits. A figure that this
    machine does not give is zero, or empty.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name: str = check_field("name", name)
        self._interval: float = check_field("interval", interval)
        self._clock = clock
        self._monotonic = monotonic
        self._hostname = _printable(_reading(socket.gethostname, ""))
        self._platform = _printable(_reading(_platform, ""))
        self._traffic: tuple[float, Mapping[str, tuple[int, int]]] | None = None
        # The first call of each only starts the count and has nothing to say.
        _reading(_cpu_percent, 0.0)
        _reading(_per_cpu, _NO_CPUS)

    def sample(self) -> Report:
        """Return the figures of this moment."""
        now = self._clock()
        memory_total, memory_used, memory_available = _reading(_memory, (0, 0, 0))
        swap_total, swap_used = _reading(_swap, (0, 0))
        disk_total, disk_used = _reading(_disk, (0, 0))
        sent, received = self._rates()
        return Report(
            name=self._name,
            time=now,
            interval=self._interval,
            cpu_percent=_percent(_reading(_cpu_percent, 0.0)),
            cpu_count=_reading(_cpu_count, 0),
            per_cpu=tuple(map(_percent, _reading(_per_cpu, _NO_CPUS)))[:_MOST_CPUS],
            memory_total=memory_total,
            memory_used=memory_used,
            memory_available=memory_available,
            swap_total=swap_total,
            swap_used=swap_used,
            load=_reading(_load, (0.0, 0.0, 0.0)),
            disk_total=disk_total,
            disk_used=disk_used,
            net_sent=sent,
            net_received=received,
            processes=_reading(_processes, 0),
            # The wall clock may be set to before the machine started.
            uptime=max(0.0, now - _reading(_boot_time, now)),
            hostname=self._hostname,
            platform=self._platform,
        )

    def _rates(self) -> tuple[float, float]:
        now, counters = self._monotonic(), _reading(_counters, _NO_COUNTERS)
        before, self._traffic = self._traffic, (now, counters)
        if before is None or now <= before[0]:
            return 0.0, 0.0
        elapsed = now - before[0]
        # Each interface on its own: the counters of one that comes or goes are no traffic.
        both = [(counters[name], old) for name, old in before[1].items() if name in counters]
        return (
            min(_RATE_LIMIT, _growth((new[0], old[0]) for new, old in both) / elapsed),
            min(_RATE_LIMIT, _growth((new[1], old[1]) for new, old in both) / elapsed),
        )


def _reading(read: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return read()
    except _UNAVAILABLE:
        return otherwise


def _growth(counts: Iterable[tuple[int, int]]) -> int:
    # A counter that is below what it was has been reset.
    return sum(max(0, new - old) for new, old in counts)


def _percent(value: float) -> float:
    return min(100.0, max(0.0, value))


def _printable(text: str) -> str:
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return shown.encode()[:_TEXT_LIMIT].decode(errors="ignore")


def _platform() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}".strip()


def _cpu_percent() -> float:
    return psutil.cpu_percent(interval=None)


def _per_cpu() -> tuple[float, ...]:
    return tuple(psutil.cpu_percent(interval=None, percpu=True))


def _cpu_count() -> int:
    return psutil.cpu_count() or 0


def _memory() -> tuple[int, int, int]:
    memory = psutil.virtual_memory()
    return memory.total, memory.used, memory.available


def _swap() -> tuple[int, int]:
    swap = psutil.swap_memory()
    return swap.total, swap.used


def _disk() -> tuple[int, int]:
    disk = psutil.disk_usage("/")
    return disk.total, disk.used


def _load() -> tuple[float, float, float]:
    return psutil.getloadavg()


def _processes() -> int:
    return len(psutil.pids())


def _boot_time() -> float:
    return psutil.boot_time()


def _counters() -> dict[str, tuple[int, int]]:
    return {
        name: (counted.bytes_sent, counted.bytes_recv)
        for name, counted in psutil.net_io_counters(pernic=True).items()
        if _LOOPBACK.fullmatch(name) is None
    }
