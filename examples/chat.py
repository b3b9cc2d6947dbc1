"""Chat: whatever one says goes to all the others.

python examples/chat.py              a conversation of three, in one process
python examples/chat.py server       the server alone, on port 8765
"""

import json
import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from wsframe import broadcast, connect, serve

people = set()


async def chat(connection):
    people.add(connection)
    try:
        async for message in connection:
            await broadcast(people - {connection}, message)
    finally:
        people.discard(connection)


async def converse(uri):
    names = ("Ada", "Grace", "Edsger")
    seats = {name: await connect(uri) for name in names}
    for name in names:  # a pong tells that the server has seated them
        await seats[name].ping()
    for name in names:
        await seats[name].send(json.dumps({"name": name, "text": f"I am {name}."}))
        for other in names:
            if other != name:
                heard = json.loads(await seats[other].recv())
                print(f"{other} hears {heard['name']}: {heard['text']}")
    for seat in seats.values():
        await seat.close()


async def main(reactor, role="both"):
    port = 8765 if role == "server" else 0
    async with serve(chat, f"tcp:{port}:interface=127.0.0.1") as server:
        if role == "server":
            print(f"listening on {server.addresses[0]}")
            await Deferred()  # until Ctrl-C
        await converse(f"ws://127.0.0.1:{server.addresses[0].port}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
