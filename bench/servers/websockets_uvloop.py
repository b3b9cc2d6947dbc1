"""websockets on uvloop: its asyncio server, and `broadcast`.

python websockets_uvloop.py CERTIFICATE
"""

import asyncio
import gc
import json
import logging
import ssl
import sys

import uvloop
from websockets.asyncio.server import broadcast, serve

# Connections that are cut, as the load's are at the end, would be written down with tracebacks.
logging.getLogger("websockets").addHandler(logging.NullHandler())
logging.getLogger("websockets").setLevel(logging.CRITICAL)

subscribers = set()


async def talk(connection):
    path = connection.request.path
    if path == "/subscribe":
        subscribers.add(connection)
    if path == "/collect":
        gc.collect()
    try:
        if path == "/publish":
            async for message in connection:
                broadcast(subscribers, message)
        async for message in connection:
            await connection.send(message)
    finally:
        subscribers.discard(connection)


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    servers = {
        "plain": await serve(talk, "127.0.0.1", 0, backlog=4096, compression=None),
        "tls": await serve(talk, "127.0.0.1", 0, backlog=4096, compression=None, ssl=context),
        "deflate": await serve(talk, "127.0.0.1", 0, backlog=4096),
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    print(json.dumps(ports), flush=True)
    await asyncio.Future()


uvloop.run(main())
