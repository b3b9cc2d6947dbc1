"""Tokens: one client proves who it is, two others are refused and learn why."""

import secrets

from twisted.internet.task import react

from wsframe import HandshakeRefused, bearer_auth, connect, serve

TOKENS = {"alice": secrets.token_urlsafe(32)}


async def greet(connection):
    await connection.send(f"Hello, {connection.principal}!")


async def visit(uri, name, token):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with connect(uri, headers=headers) as connection:
            print(f"{name} was told: {await connection.recv()}")
    except HandshakeRefused as refusal:
        print(f"{name} was refused: {refusal.status}, {refusal.body.decode().strip()}")


async def main(reactor):
    check = bearer_auth(TOKENS)
    async with serve(greet, "tcp:0:interface=127.0.0.1", process_request=check) as server:
        uri = f"ws://127.0.0.1:{server.addresses[0].port}"
        await visit(uri, "Alice", TOKENS["alice"])
        await visit(uri, "Mallory", "an-invented-token")
        await visit(uri, "Nobody", None)


if __name__ == "__main__":
    react(main)
