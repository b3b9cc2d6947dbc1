"""picows on uvloop: `ws_connect` with a `WSListener`; texts are sent back.

python picows_uvloop.py PORT CONNECTIONS
"""

import asyncio
import sys

import uvloop
from picows import WSListener, WSMsgType, ws_connect


class Peer(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type is WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_memoryview())


async def main():
    for _ in range(int(sys.argv[2])):
        await ws_connect(Peer, f"ws://127.0.0.1:{sys.argv[1]}/")
    await asyncio.Future()


uvloop.run(main())
