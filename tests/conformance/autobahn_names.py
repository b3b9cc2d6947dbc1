"""The testee in the classes that have Autobahn's names, set up as its users do."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet.defer import Deferred

from wsframe.options import ClientOptions, ServerOptions
from wsframe.protocol import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)

from .testee import LIMITS


class EchoServerProtocol(WebSocketServerProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class EchoClientProtocol(WebSocketClientProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


class QuestionProtocol(WebSocketClientProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.answer = payload.decode()


class ClientFactory(WebSocketClientFactory):
    """Calls back what was answered when the connection is gone."""

    answer = ""

    def __init__(self, uri: str, reactor: Any) -> None:
        super().__init__(uri, reactor=reactor, options=ClientOptions(**LIMITS))
        self.gone: Deferred[str] = Deferred()

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:
        self.gone.callback(self.answer)

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.gone.errback(reason)


def accept_offer(offers: list[Any]) -> Any:
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def accept_answer(answer: Any) -> Any:
    if isinstance(answer, PerMessageDeflateResponse):
        return PerMessageDeflateResponseAccept(answer)
    return None


async def listen(reactor: Any) -> int:
    factory = WebSocketServerFactory(reactor=reactor, options=ServerOptions(**LIMITS))
    factory.protocol = EchoServerProtocol
    factory.setProtocolOptions(perMessageCompressionAccept=accept_offer)
    return int(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port)


async def echo(reactor: Any, uri: str) -> None:
    await talk(reactor, uri, EchoClientProtocol)


async def ask(reactor: Any, uri: str) -> str:
    return await talk(reactor, uri, QuestionProtocol)


async def talk(reactor: Any, uri: str, protocol: type[WebSocketClientProtocol]) -> str:
    factory = ClientFactory(uri, reactor)
    factory.protocol = protocol
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=accept_answer,
    )
    there = urlsplit(uri)
    reactor.connectTCP(there.hostname, there.port, factory)
    return await factory.gone
