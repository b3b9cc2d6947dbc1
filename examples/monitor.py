"""Monitor: an agent reports this machine's load to a station, and a dashboard shows it."""

import json
from functools import partial

from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from wsframe import WebSocketClientService, WebSocketServerService, broadcast
from wsframe.monitor.report import decode, encode_json
from wsframe.monitor.sampler import Sampler

dashboards = set()


async def station(connection):
    if connection.request.path == "/feed":
        dashboards.add(connection)
        await connection.when_closed()
        dashboards.discard(connection)
        return
    async for message in connection:
        report = decode(message)  # an invalid report ends the connection with 1011
        figures = {"name": report.name, "cpu": report.cpu_percent, "used": report.memory_used}
        broadcast(dashboards, json.dumps(figures))


async def agent(connection):
    sampler = Sampler("this-machine", interval=0.2)
    while True:
        await connection.send(encode_json(sampler.sample()))
        await deferLater(reactor, 0.2)


async def dashboard(done, connection):
    for _ in range(3):
        figures = json.loads(await connection.recv())
        print(f"{figures['name']}: CPU {figures['cpu']:.0f} %, {figures['used'] >> 20} MiB used")
    done.callback(None)


async def main(_):
    done = Deferred()
    services = MultiService()
    server = WebSocketServerService(station, "tcp:0:interface=127.0.0.1")
    server.setServiceParent(services)
    services.startService()
    uri = f"ws://127.0.0.1:{(await server.when_listening()).addresses[0].port}"
    for path, handler in (("agent", agent), ("feed", partial(dashboard, done))):
        WebSocketClientService(f"{uri}/{path}", handler).setServiceParent(services)
    await done
    await services.stopService()


if __name__ == "__main__":
    react(main)
