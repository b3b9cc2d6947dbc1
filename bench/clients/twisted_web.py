"""`twisted.web.websocket`, on wsproto; texts are sent back.

python twisted_web.py PORT CONNECTIONS
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.websocket import WebSocketClientEndpoint


class Peer:
    @classmethod
    def buildProtocol(cls, url):  # noqa: ARG003 - as the interface names it
        return cls()

    def negotiationStarted(self, transport):
        self.transport = transport

    def negotiationFinished(self):
        pass

    def bytesMessageReceived(self, data):
        pass

    def textMessageReceived(self, message):
        self.transport.sendTextMessage(message)

    def pongReceived(self, payload):
        pass

    def connectionLost(self, reason):
        pass


async def main(reactor):
    endpoint = WebSocketClientEndpoint.new(reactor, f"ws://127.0.0.1:{sys.argv[1]}/")
    for _ in range(int(sys.argv[2])):
        await endpoint.connect(Peer)
    await Deferred()


react(main)
