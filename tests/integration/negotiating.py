"""A proxy of the test's own that asks for NTLM or Negotiate, and has pyspnego's acceptor judge.

The acceptor knows the users in the file that NTLM_USER_FILE names, and checks the proof of the
password. It shares code with the initiator only where a token is packed.
"""

from __future__ import annotations

import base64
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from .proxies import PASSWORD, USER, RecordingProxy
from .raw import Raw, header

BODY = b"please log in"


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the acceptor know one user, alone and in a domain."""
    pytest.importorskip("spnego")
    file = tmp_path / "accounts"
    file.write_text(f":{USER}:{PASSWORD}\nDOM:{USER}:{PASSWORD}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(file))


class NegotiatingProxy(RecordingProxy):
    """Opens the tunnel for a proof on one connection.

    `closing` are the numbers of its questions after which it ends the connection, saying so;
    `dropping` those after which it does so without; counted over all connections from 0.
    `refused` is how often a proof was wrong, `body` what comes with a question.
    """

    def __init__(
        self,
        scheme: str,
        *,
        closing: Container[int] = (),
        dropping: Container[int] = (),
        certificate: Any = None,
    ) -> None:
        super().__init__(certificate)
        self.scheme = scheme
        self.closing = closing
        self.dropping = dropping
        self.questions = 0
        self.refused = 0
        self.body = BODY

    async def _serve(self, client: Raw) -> None:
        import spnego

        acceptor: Any = None
        while True:
            head = await client.read_head()
            self.requests.append(head)
            scheme, _, token = (header(head, "Proxy-Authorization") or "").partition(" ")
            answer = b""
            if scheme == self.scheme:
                if acceptor is None:
                    acceptor = spnego.server(protocol=scheme.lower())
                try:
                    answer = acceptor.step(base64.b64decode(token, validate=True)) or b""
                except spnego.exceptions.SpnegoError:
                    self.refused += 1
                    acceptor = None
                else:
                    if acceptor.complete:
                        await self._open(client, head)
                        return
            if not self._ask(client, answer):
                return

    def _ask(self, client: Raw, token: bytes) -> bool:
        """Send a 407; return whether the connection goes on."""
        number, self.questions = self.questions, self.questions + 1
        value = f"{self.scheme} {base64.b64encode(token).decode()}".rstrip()
        close = "Connection: close\r\n" if number in self.closing else ""
        client.write(
            f"HTTP/1.1 407 Who\r\nProxy-Authenticate: {value}\r\n{close}"
            f"Content-Length: {len(self.body)}\r\n\r\n".encode()
            + self.body
        )
        if number in self.closing or number in self.dropping:
            client.finish()
            return False
        return True
