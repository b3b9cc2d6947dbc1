"""wsframe's async API: `connect`, `async for`, `await send`; texts are sent back.

python wsframe_async.py PORT CONNECTIONS [corked]
"""

import sys

if "corked" in sys.argv:
    from wsframe.reactor import install

    install()

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from wsframe import connect

URI = f"ws://127.0.0.1:{sys.argv[1]}/"


async def talk():
    async with connect(URI) as connection:
        async for message in connection:
            if isinstance(message, str):
                await connection.send(message)


async def main(reactor):
    await gatherResults([Deferred.fromCoroutine(talk()) for _ in range(int(sys.argv[2]))])


react(main)
