"""Autobahn's classes on Twisted: stock, or wsframe's under the same names.

python autobahn_names.py CERTIFICATE autobahn.twisted.websocket|wsframe.protocol [corked]
"""

import gc
import json
import sys
from importlib import import_module

if "corked" in sys.argv:
    from wsframe.reactor import install

    install()

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react

library = import_module(sys.argv[2])

PLAIN = "tcp:0:interface=127.0.0.1:backlog=4096"
TLS = "ssl:0:interface=127.0.0.1:backlog=4096:privateKey={0}:certKey={0}"

subscribers = set()


class Peer(library.WebSocketServerProtocol):
    path = None

    def onConnect(self, request):
        self.path = request.path

    def onOpen(self):
        if self.path == "/subscribe":
            subscribers.add(self)
        if self.path == "/collect":
            gc.collect()

    def onMessage(self, payload, isBinary):
        if self.path != "/publish":
            self.sendMessage(payload, isBinary)
            return
        prepared = self.factory.prepareMessage(payload, isBinary)
        for subscriber in subscribers:
            subscriber.sendPreparedMessage(prepared)

    def onClose(self, wasClean, code, reason):
        subscribers.discard(self)


def accept(offers):
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def factory(**options):
    made = library.WebSocketServerFactory()
    made.protocol = Peer
    made.setProtocolOptions(maxConnections=11_000, **options)
    return made


async def main(reactor):
    listening = {
        "plain": (PLAIN, factory()),
        "tls": (TLS.format(sys.argv[1]), factory()),
        "deflate": (PLAIN, factory(perMessageCompressionAccept=accept)),
    }
    ports = {}
    for name, (description, made) in listening.items():
        port = await serverFromString(reactor, description).listen(made)
        ports[name] = port.getHost().port
    print(json.dumps(ports), flush=True)
    await Deferred()


react(main)
