"""aiohttp on uvloop: `ws_connect`; texts are sent back.

python aiohttp_uvloop.py PORT CONNECTIONS
"""

import asyncio
import sys

import aiohttp
import uvloop


async def talk(session):
    async with session.ws_connect(f"http://127.0.0.1:{sys.argv[1]}/") as connection:
        async for message in connection:
            if message.type is aiohttp.WSMsgType.TEXT:
                await connection.send_str(message.data)


async def main():
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(talk(session) for _ in range(int(sys.argv[2]))))


uvloop.run(main())
