"""An echo server and its client, written for Autobahn; the import alone is wsframe's.

Start it with `server PORT` or `client PORT`, or with nothing for both in one process.
"""

import sys

from twisted.internet import reactor

from wsframe.protocol import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)


class MyServerProtocol(WebSocketServerProtocol):
    def onConnect(self, request):
        print("server: a client connects to", request.path)

    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)

    def onClose(self, wasClean, code, reason):
        print("server: closed", wasClean, code)


class MyClientProtocol(WebSocketClientProtocol):
    def onConnect(self, response):
        print("client: connected")

    def onOpen(self):
        self.sendMessage("Grüß Gott!".encode())
        self.sendMessage(bytes(3), isBinary=True)

    def onMessage(self, payload, isBinary):
        print("client: received", payload if isBinary else payload.decode())
        if isBinary:
            self.sendClose(1000, "done")

    def onClose(self, wasClean, code, reason):
        print("client: closed", wasClean, code)
        reactor.callLater(0.1, reactor.stop)


role, port = sys.argv[1:] or ("both", "0")
if role != "client":
    factory = WebSocketServerFactory()
    factory.protocol = MyServerProtocol
    port = reactor.listenTCP(int(port), factory, interface="127.0.0.1").getHost().port
    print("server: listening on", port, flush=True)
if role != "server":
    client = WebSocketClientFactory(f"ws://127.0.0.1:{port}/echo")
    client.protocol = MyClientProtocol
    reactor.connectTCP("127.0.0.1", int(port), client)
reactor.run()
