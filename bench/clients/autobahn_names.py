"""Autobahn's classes on Twisted, stock or wsframe's under the same names; texts are sent back.

python autobahn_names.py PORT CONNECTIONS autobahn.twisted.websocket|wsframe.protocol [corked]
"""

import sys
from importlib import import_module

if "corked" in sys.argv:
    from wsframe.reactor import install

    install()

from twisted.internet import reactor

library = import_module(sys.argv[3])
port = int(sys.argv[1])


class Peer(library.WebSocketClientProtocol):
    def onMessage(self, payload, isBinary):
        if not isBinary:
            self.sendMessage(payload)


factory = library.WebSocketClientFactory(f"ws://127.0.0.1:{port}/")
factory.protocol = Peer
for _ in range(int(sys.argv[2])):
    reactor.connectTCP("127.0.0.1", port, factory)
reactor.run()
