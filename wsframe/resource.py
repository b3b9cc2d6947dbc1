"""`WebSocketResource`: WebSockets at a resource of a `twisted.web` site, beside its pages."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request as WebRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from wsframe.awaiting import Awaitable
from wsframe.clock import global_reactor
from wsframe.connection import Connection
from wsframe.core.closing import check_close
from wsframe.handling import Handler
from wsframe.options import DEFAULT_SERVER_OPTIONS, Deflate, ServerOptions
from wsframe.protocol import ProcessRequest
from wsframe.server import Connections
from wsframe.trace import Trace

__all__ = ["WebSocketResource"]


class WebSocketResource(Resource):
    """A resource of a `twisted.web` site at which WebSockets are served, beside its pages.

    The arguments are those of `serve`, except for what the site decides. `close` ends its
    connections; the site knows nothing of them once they are open.
    """

    isLeaf = True

    def __init__(
        self,
        handler: Handler,
        *,
        process_request: ProcessRequest | None = None,
        compression: Deflate | None = None,
        trace: Trace | None = None,
        options: ServerOptions = DEFAULT_SERVER_OPTIONS,
        reactor: IReactorTime | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor or global_reactor()
        self._connections = Connections(
            handler, options, self._reactor, process_request, compression, trace
        )

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that are open, or closing."""
        return self._connections.open

    @property
    def trace(self) -> Trace | None:
        """What the connections are written down in, None for nothing.

        It may be set at any moment, and holds for the open connections, too.
        """
        return self._connections.trace

    @trace.setter
    def trace(self, trace: Trace | None) -> None:
        self._connections.trace = trace

    def close(self, code: int = 1001, reason: str = "") -> Awaitable[None]:
        """Close every connection; fires as `Server.close` does."""
        check_close(code, reason)
        result: Awaitable[None] = Awaitable()
        self._connections.drain(code, reason).addBoth(result.callback)
        return result

    def render(self, request: IRequest) -> Any:
        """Take the transport over from the site, and begin the opening handshake on it."""
        web = cast(WebRequest, request)
        if getattr(web.channel, "transport", None) is None or web.clientproto != b"HTTP/1.1":
            # HTTP/2 has no Upgrade (RFC 8441 is another handshake).
            web.setResponseCode(426)
            web.setHeader(b"upgrade", b"websocket")
            return b"this is a WebSocket endpoint\n"
        # In the next turn the site has put aside what the client sent behind the request.
        self._reactor.callLater(0, self._take_over, web)
        return NOT_DONE_YET

    def _take_over(self, web: WebRequest) -> None:
        channel: Any = web.channel
        if channel is None or channel.transport is None:
            return  # the client left
        transport: Any = channel.transport
        protocol: Any = self._connections.factory.buildProtocol(transport.getPeer())
        channel.setTimeout(None)
        leftover = b"".join(channel._dataBuffer)
        # The channel is the transport's producer and its protocol; both are ours from now on.
        transport.unregisterProducer()
        _replace_protocol(transport, channel, protocol)
        protocol.makeConnection(transport)
        transport.resumeProducing()
        lines = [web.method + b" " + web.uri + b" HTTP/1.1"]
        for name, values in web.requestHeaders.getAllRawHeaders():
            lines += [name + b": " + value for value in values]
        protocol.dataReceived(b"\r\n".join([*lines, b"", b""]) + leftover)


def _replace_protocol(transport: Any, channel: Any, protocol: Any) -> None:
    """Make the transport talk to `protocol` where it talked to the site's channel."""
    for attribute in ("wrappedProtocol", "protocol"):
        current = getattr(transport, attribute, None)
        if current is channel or getattr(current, "_channel", None) is channel:
            setattr(transport, attribute, protocol)
            return
    raise RuntimeError("the site's transport is of an unknown kind")
