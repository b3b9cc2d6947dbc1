"""The figures of this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import pytest

from wsframe.monitor.report import InvalidReport, decode, encode_binary, encode_json
from wsframe.monitor.sampler import Sampler


class Interfaces:
    """Network counters that a test sets: name to (sent, received)."""

    def __init__(self, **counters: tuple[int, int]) -> None:
        self.counters = counters

    def __call__(self, *, pernic: bool) -> dict[str, SimpleNamespace]:
        return {
            name: SimpleNamespace(bytes_sent=sent, bytes_recv=received)
            for name, (sent, received) in self.counters.items()
        }


def ticking(*times: float) -> Callable[[], float]:
    """Return a clock that shows these times, one after the other."""
    remaining: Iterator[float] = iter(times)
    return lambda: next(remaining)


def refuse(*args: object, **named: object) -> NoReturn:
    """Fail as psutil does where a figure is hidden."""
    raise PermissionError(13, "hidden")


def test_sample_has_the_figures_of_this_machine() -> None:
    """What psutil says, in the fields where it belongs."""
    before = time.time()
    report = Sampler("agent-1", 2.0).sample()
    assert (report.name, report.interval) == ("agent-1", 2.0)
    assert before <= report.time <= time.time()
    assert report.cpu_count == psutil.cpu_count() == len(report.per_cpu)
    assert report.memory_total == psutil.virtual_memory().total
    assert 0 < report.memory_used < report.memory_total
    assert 0 < report.memory_available < report.memory_total
    assert report.disk_total == psutil.disk_usage("/").total
    assert report.processes > 0
    assert report.uptime > 0
    assert report.hostname
    assert report.platform


def test_sample_can_be_sent() -> None:
    """In both encodings."""
    report = Sampler("a", 1.0).sample()
    assert decode(encode_json(report)) == decode(encode_binary(report)) == report


def test_sampling_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure over a time is one since the sample before."""

    def wait(seconds: float) -> None:
        raise AssertionError(f"it waits for {seconds} s")

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(AssertionError, match="it waits"):
        psutil.cpu_percent(interval=0.1)
    sampler = Sampler("a", 1.0)
    for _ in range(5):
        sampler.sample()


def test_processor_figures_ask_psutil_not_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to begin with, then once per sample."""
    asked: list[dict[str, Any]] = []

    def cpu_percent(**named: Any) -> Any:
        asked.append(named)
        return [130.0, -5.0] if named.get("percpu") else 101.0

    monkeypatch.setattr(psutil, "cpu_percent", cpu_percent)
    sampler = Sampler("a", 1.0)
    assert len(asked) == 2
    report = sampler.sample()
    assert len(asked) == 4
    assert all(named["interval"] is None for named in asked)
    assert (report.cpu_percent, report.per_cpu) == (100.0, (100.0, 0.0))


def test_busy_processor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work between two samples shows in the second."""
    sampler = Sampler("a", 1.0)
    sampler.sample()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert sampler.sample().cpu_percent > 0


def test_network_rates_are_zero_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing yet to take the difference from."""
    monkeypatch.setattr(psutil, "net_io_counters", Interfaces(eth0=(1000, 2000)))
    report = Sampler("a", 1.0).sample()
    assert (report.net_sent, report.net_received) == (0.0, 0.0)


def test_network_rates_are_differences_over_monotonic_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wall clock, which runs backwards here, has no part in it."""
    interfaces = Interfaces(eth0=(1000, 2000), wlan0=(0, 0))
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, clock=ticking(9e8, 1e8), monotonic=ticking(10.0, 14.0))
    sampler.sample()
    interfaces.counters = {"eth0": (1400, 2100), "wlan0": (0, 100)}
    report = sampler.sample()
    assert (report.net_sent, report.net_received) == (100.0, 50.0)


def test_reset_counters_never_give_a_negative_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each counter of each interface stands for itself."""
    interfaces = Interfaces(eth0=(1000, 2000), wlan0=(0, 0))
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, monotonic=ticking(0.0, 1.0))
    sampler.sample()
    interfaces.counters = {"eth0": (5, 2010), "wlan0": (7, 0)}
    report = sampler.sample()
    assert (report.net_sent, report.net_received) == (7.0, 10.0)


def test_interface_that_comes_or_goes_is_no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters of a new interface may begin anywhere."""
    interfaces = Interfaces(eth0=(1000, 2000), tun0=(50, 50))
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, monotonic=ticking(0.0, 1.0))
    sampler.sample()
    interfaces.counters = {"eth0": (1001, 2002), "wlan0": (10**9, 10**9)}
    report = sampler.sample()
    assert (report.net_sent, report.net_received) == (1.0, 2.0)


@pytest.mark.parametrize("name", ["lo", "lo0", "Loopback Pseudo-Interface 1"])
def test_loopback_is_no_network(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A machine that talks to itself uses no network."""
    interfaces = Interfaces(**{name: (0, 0), "local0": (0, 0)})
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, monotonic=ticking(0.0, 1.0))
    sampler.sample()
    interfaces.counters = {name: (500, 500), "local0": (3, 4)}
    report = sampler.sample()
    assert (report.net_sent, report.net_received) == (3.0, 4.0)


def test_two_samples_at_one_moment_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is divided by zero."""
    interfaces = Interfaces(eth0=(0, 0))
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, monotonic=ticking(5.0, 5.0))
    sampler.sample()
    interfaces.counters = {"eth0": (500, 500)}
    assert sampler.sample().net_sent == 0.0


def test_impossible_rate_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report could not carry it."""
    interfaces = Interfaces(eth0=(0, 0))
    monkeypatch.setattr(psutil, "net_io_counters", interfaces)
    sampler = Sampler("a", 1.0, monotonic=ticking(0.0, 1e-9))
    sampler.sample()
    interfaces.counters = {"eth0": (2**62, 2**62)}
    report = sampler.sample()
    assert report.net_sent == report.net_received == 1e15


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("cpu_percent", ("cpu_percent", "per_cpu")),
        ("cpu_count", ("cpu_count",)),
        ("virtual_memory", ("memory_total", "memory_used", "memory_available")),
        ("swap_memory", ("swap_total", "swap_used")),
        ("disk_usage", ("disk_total", "disk_used")),
        ("getloadavg", ("load",)),
        ("net_io_counters", ("net_sent", "net_received")),
        ("pids", ("processes",)),
        ("boot_time", ("uptime",)),
    ],
)
@pytest.mark.parametrize("missing", [False, True], ids=["hidden", "missing"])
def test_figure_that_is_not_given_is_zero(
    monkeypatch: pytest.MonkeyPatch, function: str, fields: tuple[str, ...], *, missing: bool
) -> None:
    """Hidden from this process, or unknown to the operating system."""
    if missing:
        monkeypatch.delattr(psutil, function)
    else:
        monkeypatch.setattr(psutil, function, refuse)
    sampler = Sampler("a", 1.0)
    sampler.sample()
    report = sampler.sample()
    for field in fields:
        value = getattr(report, field)
        assert not any(value) if isinstance(value, tuple) else value == 0


def test_processor_count_that_is_unknown_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is how psutil says so."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)
    assert Sampler("a", 1.0).sample().cpu_count == 0


def test_clock_before_the_start_of_the_machine_gives_no_uptime() -> None:
    """A clock that was set back is no reason to fail."""
    assert Sampler("a", 1.0, clock=lambda: 5.0).sample().uptime == 0.0


def test_hostname_is_made_printable_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report refuses what the system may allow."""
    monkeypatch.setattr(socket, "gethostname", lambda: "a\x1b[31m\udcff" + "é" * 200)
    hostname = Sampler("a", 1.0).sample().hostname
    assert hostname.startswith("a?[31m?é")
    assert 250 < len(hostname.encode()) <= 255


@pytest.mark.parametrize(("name", "interval"), [("", 1.0), ("a b", 1.0), ("a", 0.0)])
def test_wrong_name_or_interval_is_refused_at_once(name: str, interval: float) -> None:
    """Not at the first sample."""
    with pytest.raises(InvalidReport):
        Sampler(name, interval)
