"""wsframe's async API: `serve`, `async for`, `await send`, and `broadcast`.

python wsframe_async.py CERTIFICATE [corked]
"""

import gc
import json
import sys

if "corked" in sys.argv:
    from wsframe.reactor import install

    install()

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from wsframe import Deflate, ServerOptions, broadcast, serve

# One more than 10,000 subscribers connects: who publishes.
OPTIONS = ServerOptions(max_connections=11_000)
PLAIN = "tcp:0:interface=127.0.0.1:backlog=4096"
TLS = "ssl:0:interface=127.0.0.1:backlog=4096:privateKey={0}:certKey={0}"

subscribers = set()


async def talk(connection):
    if connection.request.target == "/subscribe":
        subscribers.add(connection)
    if connection.request.target == "/collect":
        gc.collect()
    if connection.request.target == "/publish":
        async for message in connection:
            broadcast(subscribers, message)
    async for message in connection:
        await connection.send(message)
    subscribers.discard(connection)


async def main(reactor):
    servers = {
        "plain": await serve(talk, PLAIN, options=OPTIONS),
        "tls": await serve(talk, TLS.format(sys.argv[1]), options=OPTIONS),
        "deflate": await serve(talk, PLAIN, compression=Deflate(), options=OPTIONS),
    }
    ports = {name: server.addresses[0].port for name, server in servers.items()}
    print(json.dumps(ports), flush=True)
    await Deferred()


react(main)
