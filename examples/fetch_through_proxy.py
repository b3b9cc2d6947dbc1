"""Fetch a page through a proxy, with Twisted's own Agent, which knows nothing of wsframe.

Without arguments it serves a page and a SOCKS proxy itself:

    python fetch_through_proxy.py
    python fetch_through_proxy.py https://example.org/ http://user:password@gateway:3128
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import react
from twisted.protocols.socks import SOCKSv4Factory
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import Site

from wsframe import OpenError, ProxiedAgentEndpointFactory


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"A page from %s" % request.uri


class Body(Protocol):
    def __init__(self):
        self.whole = Deferred()
        self.data = b""

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.whole.callback(self.data)


async def main(reactor, url=None, proxy=None):
    if url is None:
        page = reactor.listenTCP(0, Site(Page()), interface="127.0.0.1")
        socks = reactor.listenTCP(0, SOCKSv4Factory(None), interface="127.0.0.1")
        url = f"http://localhost:{page.getHost().port}/"
        proxy = f"socks4a://127.0.0.1:{socks.getHost().port}"
    pool = HTTPConnectionPool(reactor)
    factory = ProxiedAgentEndpointFactory(reactor, proxies=proxy)
    agent = Agent.usingEndpointFactory(reactor, factory, pool)
    try:
        response = await agent.request(b"GET", url.encode())
        response.deliverBody(body := Body())
        print(response.code, (await body.whole).decode())
    except OpenError as error:
        print(f"no connection, in phase {error.phase}: {error}")
    await pool.closeCachedConnections()


if __name__ == "__main__":
    react(main, sys.argv[1:])
