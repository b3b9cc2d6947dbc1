"""How the command ends when it is interrupted, and when nobody takes what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from integration.raw import RawServer, within
from services.processes import Process

from cli.running import COMMAND

HANGING = """
import socket, sys, threading

def getaddrinfo(*arguments, **more):
    print("asked", flush=True)
    threading.Event().wait()

socket.getaddrinfo = getaddrinfo

from wsframe.cli import main

sys.exit(main(sys.argv[1:]))
"""
"""The command where the name service never answers."""


@pytest_twisted.ensureDeferred
async def test_ctrl_c_ends_a_check_in_order() -> None:
    async with RawServer() as proxy:
        given = ["--proxy", f"http://127.0.0.1:{proxy.port}", "--timeout", "600"]
        process = Process(*COMMAND, "route", "ws://example.org/", "--check", *given)
        raw = await proxy.accepted()
        await raw.read_head()
        process.signal(2)
        assert await process.ended() == 130
        await within(raw.ended())
    assert "Traceback" not in process.output
    assert process.output.splitlines()[-1].startswith("  tcp ")


@pytest_twisted.ensureDeferred
async def test_ctrl_c_does_not_wait_for_a_look_up() -> None:
    process = Process(
        sys.executable, "-c", HANGING, "route", "ws://example.org/", "--check", "--timeout", "600"
    )
    await process.says("asked")
    process.signal(2)
    assert await process.ended() == 130
    assert "Traceback" not in process.output


@pytest_twisted.ensureDeferred
async def test_timeout_does_not_wait_for_a_look_up() -> None:
    process = Process(
        sys.executable, "-c", HANGING, "route", "ws://example.org/", "--check", "--timeout", "0.05"
    )
    assert await process.ended() == 1
    assert "failed in phase dns" in process.output
    assert "OpenTimeout" in process.output


RUNNING = """
from wsframe.cli.reactor import run

async def succeed(reactor):
    return type(reactor).__name__

async def fail(reactor):
    raise LookupError("what it raised")

print({call})
"""


def test_what_runs_in_the_reactor_gives_its_result_or_its_error() -> None:
    for call, status, text in (("run(succeed)", 0, "Reactor"), ("run(fail)", 1, "what it raised")):
        done = subprocess.run(
            [sys.executable, "-c", RUNNING.format(call=call)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert text in (done.stderr if status else done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [["route", "ws://127.0.0.1:9/", "--check"], ["route", "ws://a/", "--json"]],
    ids=["check", "json"],
)
def test_reader_that_has_gone_ends_it_without_a_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run(
            [*COMMAND, "route", "ws://a/"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"wsframe: [Errno 28] No space left on device\n"


def test_output_that_is_closed_is_no_failure() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "route", "ws://a/", "--json"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
