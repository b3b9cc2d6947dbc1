"""A machine of its own for the tests of look-ups: reads commands, writes answers, as JSON lines.

It runs in a network that it has for itself, with two DNS servers that know `NAMES`: `OURS`, which
/etc/resolv.conf names to this process, and `THEIRS`, which it names to the proxies.

open {proxy, name, reached, wait} -> {outcome, phase, ours, theirs}; the names each server was asked
answer {with}                     -> {}; from now on `OURS` answers so: see `DNSServer.answers`
stay                              -> {asked}; the names, until a service was connected
end                               -> {}; the proxies have ended
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import defer, stdio
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

from wsframe.client import WebSocketClientService, connect
from wsframe.errors import OpenError
from wsframe.options import ClientOptions, RetryPolicy

from .certificates import Authority
from .names import DNSServer
from .origins import echo_server
from .proxies import Proxies, TwistedSOCKS4
from .raw import within

OURS, THEIRS = "127.0.0.1", "127.0.0.2"
NSSWITCH = "hosts: files dns\n"
"""No multicast, no cache, no resolver of systemd: what files do not know goes to a DNS server."""
HOSTS = "127.0.0.1 localhost\n"


def resolv_conf(server: str) -> str:
    """Return what sends every look-up to that server, once, and adds no domain to any name."""
    return f"nameserver {server}\nsearch .\noptions timeout:1 attempts:1\n"


def files(server: str) -> dict[str, str]:
    """Return the files of /etc by which names are looked up at that server."""
    return {"hosts": HOSTS, "nsswitch.conf": NSSWITCH, "resolv.conf": resolv_conf(server)}


class Machine:
    def __init__(self, port: int, ours: DNSServer, theirs: DNSServer, proxies: Proxies) -> None:
        self.port = port
        self.ours = ours
        self.theirs = theirs
        self.proxies = proxies

    async def open(
        self,
        proxy: list[str] | None = None,
        name: str = "four.test",
        reached: str = "127.0.0.1",
        wait: float = 10.0,
    ) -> Any:
        outcome, phase = "open", None
        async with TwistedSOCKS4() as twisteds:
            url = None
            if proxy is not None and proxy[0] == "twisted":
                url = f"{proxy[1]}://{reached}:{twisteds.port}"
            elif proxy is not None:
                running = self.proxies.running(proxy[0], host="127.0.0.1")
                url = running.url(proxy[1], host=reached)
            self.ours.asked.clear()
            self.theirs.asked.clear()
            try:
                async with connect(
                    f"ws://{name}:{self.port}/",
                    proxies=url,
                    options=ClientOptions(open_timeout=wait),
                ) as connection:
                    await connection.send("x")
                    await connection.recv(10)
            except OpenError as error:
                outcome, phase = type(error).__name__, error.phase
        return {
            "outcome": outcome,
            "phase": phase,
            "ours": sorted(set(self.ours.asked)),
            "theirs": sorted(set(self.theirs.asked)),
        }

    async def answer(self, **arguments: Any) -> Any:
        self.ours.answers = arguments["with"]
        return {}

    async def stay(self) -> Any:
        opened: defer.Deferred[None] = defer.Deferred()

        async def handler(connection: Any) -> None:
            opened.callback(None)
            await connection.when_closed()

        self.ours.asked.clear()
        service = WebSocketClientService(
            f"ws://four.test:{self.port}/", handler, retry=RetryPolicy(first_delay=0.01)
        )
        service.startService()
        await within(opened)
        await service.stopService()
        return {"asked": self.ours.asked}

    async def end(self) -> Any:
        self.proxies.stop()
        return {}


class Commands(LineOnlyReceiver):
    delimiter = b"\n"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def lineReceived(self, line: bytes) -> None:
        arguments = json.loads(line)
        command = getattr(self._machine, arguments.pop("do"))
        done = defer.ensureDeferred(command(**arguments))
        done.addErrback(lambda failure: {"error": failure.getErrorMessage()})
        done.addCallback(lambda answer: self.sendLine(json.dumps(answer).encode()))


async def main(reactor: Any) -> None:
    proxies = Proxies(Authority(), files(THEIRS))
    async with DNSServer(OURS) as ours, DNSServer(THEIRS) as theirs, echo_server() as port:
        stdio.StandardIO(Commands(Machine(port, ours, theirs, proxies)))
        await defer.Deferred()  # until this process is ended


if __name__ == "__main__":
    react(lambda reactor: defer.ensureDeferred(main(reactor)))
