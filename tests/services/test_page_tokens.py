"""A page's script, which can set no header, proves itself with a subprotocol at every service."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from wsframe.client import connect
from wsframe.errors import HandshakeRefused
from wsframe.services import broadcast, echo, monitor

from .processes import TOKEN, token_file


@pytest.mark.parametrize(("module", "path"), [(echo, "/"), (broadcast, "/"), (monitor, "/feed")])
@pytest_twisted.ensureDeferred
async def test_a_page_gets_a_subprotocol_back_and_never_its_token(
    tmp_path: Path, module: Any, path: str
) -> None:
    """With the token 101 and `wsframe`; with another one 401."""
    options = module.Options()
    arguments = ["--listen", "tcp:0:interface=127.0.0.1", "--token-file", str(token_file(tmp_path))]
    options.parseOptions(arguments)
    service = module.makeService(options)
    service.startService()
    try:
        url = f"ws://127.0.0.1:{service.server.addresses[0].port}{path}"
        token = base64.urlsafe_b64encode(TOKEN.encode()).decode().rstrip("=")
        async with connect(url, subprotocols=["wsframe", f"bearer.{token}"]) as connection:
            assert connection.subprotocol == "wsframe"
        with pytest.raises(HandshakeRefused) as caught:
            await connect(url, subprotocols=["wsframe", "bearer.b3RoZXI"])
        assert caught.value.status == 401
    finally:
        await service.stopService()
