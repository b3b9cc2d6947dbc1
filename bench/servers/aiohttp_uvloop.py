"""aiohttp on uvloop: `WebSocketResponse`.

python aiohttp_uvloop.py CERTIFICATE
"""

import asyncio
import gc
import json
import ssl
import sys

import uvloop
from aiohttp import WSMsgType, web

subscribers = set()


def application(compress):
    async def talk(request):
        connection = web.WebSocketResponse(compress=compress)
        await connection.prepare(request)
        if request.path == "/subscribe":
            subscribers.add(connection)
        if request.path == "/collect":
            gc.collect()
        publishing = request.path == "/publish"
        try:
            async for message in connection:
                if publishing:
                    for subscriber in subscribers:
                        await subscriber.send_frame(message.data, message.type)
                elif message.type is WSMsgType.BINARY:
                    await connection.send_bytes(message.data)
                else:
                    await connection.send_str(message.data)
        finally:
            subscribers.discard(connection)
        return connection

    made = web.Application()
    made.router.add_get("/{path}", talk)
    return made


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    ports = {}
    for name, compress in (("plain", False), ("tls", False), ("deflate", True)):
        runner = web.AppRunner(application(compress), access_log=None)
        await runner.setup()
        tls = context if name == "tls" else None
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096, ssl_context=tls)
        await site.start()
        ports[name] = runner.addresses[0][1]
    print(json.dumps(ports), flush=True)
    await asyncio.Future()


uvloop.run(main())
