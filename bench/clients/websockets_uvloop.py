"""websockets on uvloop: its asyncio client; texts are sent back.

python websockets_uvloop.py PORT CONNECTIONS
"""

import asyncio
import sys

import uvloop
from websockets.asyncio.client import connect


async def talk():
    async with connect(f"ws://127.0.0.1:{sys.argv[1]}/", compression=None) as connection:
        async for message in connection:
            if isinstance(message, str):
                await connection.send(message)


async def main():
    await asyncio.gather(*(talk() for _ in range(int(sys.argv[2]))))


uvloop.run(main())
