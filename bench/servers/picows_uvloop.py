"""picows on uvloop: a `WSListener`, which sends on each connection; it has no compression.

python picows_uvloop.py CERTIFICATE
"""

import asyncio
import gc
import json
import ssl
import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server

subscribers = set()


class Peer(WSListener):
    def __init__(self, path):
        self.path = path

    def on_ws_connected(self, transport):
        self.transport = transport
        if self.path == b"/subscribe":
            subscribers.add(self)
        if self.path == b"/collect":
            gc.collect()

    def on_ws_frame(self, transport, frame):
        kind = frame.msg_type
        if kind is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif self.path != b"/publish":
            transport.send(kind, frame.get_payload_as_memoryview())
        else:
            message = frame.get_payload_as_bytes()
            for subscriber in subscribers:
                subscriber.transport.send(kind, message)

    def on_ws_disconnected(self, transport):
        subscribers.discard(self)


def listener(request):
    return Peer(request.path)


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    servers = {
        "plain": await ws_create_server(listener, "127.0.0.1", 0, backlog=4096),
        "tls": await ws_create_server(listener, "127.0.0.1", 0, backlog=4096, ssl=context),
    }
    ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    print(json.dumps(ports), flush=True)
    await asyncio.Future()


uvloop.run(main())
