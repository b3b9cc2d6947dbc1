"""A server that wants one thing of an opening handshake, and answers 502 to all others."""

from __future__ import annotations

from collections.abc import Callable

from .raw import Raw, RawServer, header, switching

Rule = Callable[[str], bool]


class Picky(RawServer):
    """A server that answers 101 where the rule holds for the head, and 502 elsewhere."""

    def __init__(self, rule: Rule, refusal: bytes | None = None) -> None:
        super().__init__(self._answer)
        self.heads: list[str] = []
        self._rule = rule
        self._refusal = refusal

    async def _answer(self, raw: Raw) -> None:
        head = await raw.read_head()
        self.heads.append(head)
        if self._rule(head):
            raw.write(switching(head))
            await raw.read_close()
            raw.write(b"\x88\x02\x03\xe8")
        elif self._refusal is None:
            raw.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nnope")
        else:
            raw.write(self._refusal)
        raw.finish()


def has(name: str) -> Rule:
    return lambda head: header(head, name) is not None


def has_not(name: str) -> Rule:
    return lambda head: header(head, name) is None
