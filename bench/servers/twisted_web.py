"""`twisted.web.websocket`, on wsproto; it has no compression.

python twisted_web.py CERTIFICATE
"""

import gc
import json
import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.web.server import Site
from twisted.web.websocket import WebSocketResource

PLAIN = "tcp:0:interface=127.0.0.1:backlog=4096"
TLS = "ssl:0:interface=127.0.0.1:backlog=4096:privateKey={0}:certKey={0}"

subscribers = set()


class Peer:
    def __init__(self, path):
        self.path = path

    @classmethod
    def buildProtocol(cls, request):
        return cls(request.path)

    def negotiationStarted(self, transport):
        self.transport = transport

    def negotiationFinished(self):
        if self.path == b"/subscribe":
            subscribers.add(self)
        if self.path == b"/collect":
            gc.collect()

    def bytesMessageReceived(self, data):
        if self.path != b"/publish":
            self.transport.sendBytesMessage(data)
            return
        for subscriber in subscribers:
            subscriber.transport.sendBytesMessage(data)

    def textMessageReceived(self, message):
        self.transport.sendTextMessage(message)

    def pongReceived(self, payload):
        pass

    def connectionLost(self, reason):
        subscribers.discard(self)


async def main(reactor):
    resource = WebSocketResource(Peer)
    resource.isLeaf = True
    ports = {}
    for name, description in (("plain", PLAIN), ("tls", TLS.format(sys.argv[1]))):
        port = await serverFromString(reactor, description).listen(Site(resource))
        ports[name] = port.getHost().port
    print(json.dumps(ports), flush=True)
    await Deferred()


react(main)
