"""A peer for the tests, on the `websockets` library: reads commands, writes answers, as JSON lines.

listen {subprotocols, token, max_size, deflate} -> {port}; a client without that Bearer token
                                                gets 401; deflate is a truth value
accepted                                     -> {path, subprotocol, headers} of the next client
open {url, subprotocols, headers, max_size}  -> {subprotocol, headers}, or {refused: status}
send {text | hex | size | parts, as_text}    -> {}; parts are sent as the fragments of one message
recv                                         -> {kind, size, sha, text}
ping {text}                                  -> {} when its pong came
close {code, reason}                         -> {code, reason} when closed
closed                                       -> {code, reason} when closed
abort                                        -> {}; TCP ends without a Close frame
"""

from __future__ import annotations

import asyncio
import hashlib
import http
import json
import sys
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

MIB = 1024 * 1024


class Peer:
    def __init__(self) -> None:
        self.server: Any = None
        self.ws: Any = None
        self.clients: asyncio.Queue[Any] = asyncio.Queue()

    async def listen(
        self,
        subprotocols: Any = None,
        token: str | None = None,
        max_size: int = 2 * MIB,
        deflate: bool = True,
    ) -> Any:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()

        async def handler(ws: Any) -> None:
            self.clients.put_nowait(ws)
            await ws.wait_closed()

        def judge(ws: Any, request: Any) -> Any:
            if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
                return ws.respond(http.HTTPStatus.UNAUTHORIZED, "wrong token\n")
            return None

        self.server = await serve(
            handler,
            "127.0.0.1",
            0,
            subprotocols=subprotocols,
            process_request=judge,
            max_size=max_size,
            compression="deflate" if deflate else None,
            ping_interval=None,
        )
        return {"port": self.server.sockets[0].getsockname()[1]}

    async def accepted(self) -> Any:
        self.ws = await self.clients.get()
        request = self.ws.request
        return {
            "path": request.path,
            "subprotocol": self.ws.subprotocol,
            "headers": {name.lower(): value for name, value in request.headers.raw_items()},
        }

    async def open(
        self, url: str, subprotocols: Any = None, headers: Any = None, max_size: int = 2 * MIB
    ) -> Any:
        try:
            self.ws = await connect(
                url,
                subprotocols=subprotocols,
                additional_headers=headers,
                max_size=max_size,
                ping_interval=None,
                proxy=None,
            )
        except InvalidStatus as error:
            return {"refused": error.response.status_code}
        pairs = self.ws.response.headers.raw_items()
        return {
            "subprotocol": self.ws.subprotocol,
            "headers": {name.lower(): value for name, value in pairs},
        }

    async def send(
        self,
        text: str | None = None,
        hex: str | None = None,  # noqa: A002 - the name in the command
        size: int | None = None,
        parts: list[str] | None = None,
        as_text: bool = False,
    ) -> Any:
        if parts is not None:
            await self.ws.send(iter(parts))
        elif text is not None:
            await self.ws.send(text)
        else:
            data = bytes.fromhex(hex) if hex is not None else bytes(size or 0)
            await self.ws.send(data, text=as_text)
        return {}

    async def recv(self) -> Any:
        message = await self.ws.recv()
        data = message.encode() if isinstance(message, str) else message
        return {
            "kind": "text" if isinstance(message, str) else "binary",
            "size": len(data),
            "sha": hashlib.sha256(data).hexdigest(),
            "text": data[:1000].decode(errors="replace"),
        }

    async def ping(self, text: str) -> Any:
        await (await self.ws.ping(text))
        return {}

    async def close(self, code: int = 1000, reason: str = "") -> Any:
        await self.ws.close(code, reason)
        return await self.closed()

    async def closed(self) -> Any:
        try:
            while True:
                await self.ws.recv()
        except ConnectionClosed:
            pass
        await self.ws.wait_closed()
        return {"code": self.ws.close_code, "reason": self.ws.close_reason}

    async def abort(self) -> Any:
        self.ws.transport.abort()
        return {}


async def main() -> None:
    peer = Peer()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        arguments = json.loads(line)
        try:
            answer = await getattr(peer, arguments.pop("do"))(**arguments)
        except Exception as error:  # noqa: BLE001 - the test is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
