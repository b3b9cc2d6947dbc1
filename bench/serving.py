"""Programs that are measured: each on its core, with its CPU time and its memory."""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1

CORES = sorted(os.sched_getaffinity(0))
LOAD_CORE, SERVER_CORE = CORES[0], CORES[-1]


class Failed(Exception):
    """A program ended, or said nothing, when it was to go on."""


def _end_with_parent() -> None:
    """In the child: be killed with the bench, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Program:
    """A program on one core, spoken with in lines."""

    def __init__(self, command: Sequence[str | Path], core: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        # A child inherits the core; set afterwards, the threads it has by then would keep theirs.
        os.sched_setaffinity(0, {core})
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - we have one thread
            )
        except BaseException:
            self._errors.close()
            raise
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})
        self._rest = b""
        self._clock = ctypes.c_int()
        LIBC.clock_getcpuclockid(self._process.pid, ctypes.byref(self._clock))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def line(self, timeout: float = 120) -> str:
        """Return the next line it prints; raise Failed when there is none."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise Failed(f"{self._process.args}: nothing for {timeout} s")
                read = self._process.stdout.read(4096)
                if not read:
                    raise Failed(f"{self._process.args}: {self.last_words()}")
                self._rest += read
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def tell(self, line: str) -> None:
        """Write a line to it; raise Failed when it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError:
            raise Failed(f"{self._process.args}: {self.last_words()}") from None

    def last_words(self) -> str:
        """Return the last line of what it complained of."""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else "it ended"

    def cpu(self) -> float:
        """Return the seconds that all its threads have run, in user mode and in the kernel."""
        try:
            return time.clock_gettime(self._clock.value)
        except OSError:
            raise Failed(f"{self._process.args}: {self.last_words()}") from None

    def memory(self) -> int:
        """Return the bytes it has in memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def settle(self, patience: float = 10) -> None:
        """Wait until it rests, such as from the end of thousands of connections."""
        deadline = time.monotonic() + patience
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.03)
            after = self.cpu()
            if after - before < 0.001:
                return
            before = after

    def wait(self, patience: float = 10) -> None:
        """Wait until it has ended of itself; raise Failed when it does not."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self._process.args}: it does not end") from None

    def end(self) -> None:
        """Kill it, if it runs, and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()
