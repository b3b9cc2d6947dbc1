"""What is tested: a server or a client of wsframe that sends every message back.

    python -m conformance.testee server API REACTOR
    python -m conformance.testee client API REACTOR PORT AGENT

API is `async` or `autobahn`, REACTOR `default` or `corked`. A server prints its port and serves
until it is ended. A client takes the cases of the fuzzing server at PORT one by one, as AGENT, and
then has it write the reports. Both print their reactor.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any
from urllib.parse import quote

MIB = 1024 * 1024
APIS = {"async": "conformance.async_api", "autobahn": "conformance.autobahn_names"}
LIMITS: dict[str, Any] = {
    "max_message_size": 16 * MIB,  # 9.1.6, 9.2.6
    "max_fragments": 4 * MIB // 64 + 1,  # 9.3.1 and 9.4.1, with an empty frame at the end
    "send_buffer": 32 * MIB,  # the echo of the longest message, and what is around it
    "open_timeout": 60.0,  # the fuzzing server writes all its reports before it answers
}
"""What the suite needs beyond the defaults of `wsframe.options`; everything else is a default."""


async def serve(reactor: Any, api: Any) -> None:
    from twisted.internet.defer import Deferred

    print("listening on", await api.listen(reactor), flush=True)
    await Deferred()


async def take_cases(reactor: Any, api: Any, port: str, agent: str) -> None:
    fuzzer = f"ws://127.0.0.1:{port}"
    agent = quote(agent)
    count = int(await api.ask(reactor, f"{fuzzer}/getCaseCount"))
    for case in range(1, count + 1):
        await api.echo(reactor, f"{fuzzer}/runCase?case={case}&agent={agent}")
    await api.echo(reactor, f"{fuzzer}/updateReports?agent={agent}")


def main(role: str, api: str, reactor: str, *fuzzer: str) -> None:
    if reactor == "corked":
        import_module("wsframe.reactor").install()
    from twisted.internet import reactor as installed
    from twisted.internet.task import react

    print("reactor", type(installed).__name__, flush=True)
    react(serve if role == "server" else take_cases, (import_module(APIS[api]), *fuzzer))


if __name__ == "__main__":
    main(*sys.argv[1:])
