"""The client: `connect` for one connection; a service, or a loop, to stay connected."""

from __future__ import annotations

from wsframe.client.attempt import Attempt
from wsframe.client.diagnosis import Diagnosis, Trial, diagnose
from wsframe.client.loop import Reconnecting, reconnecting
from wsframe.client.opening import ConnectArguments, Opening, connect
from wsframe.client.service import WebSocketClientService

__all__ = [
    "Attempt",
    "ConnectArguments",
    "Diagnosis",
    "Opening",
    "Reconnecting",
    "Trial",
    "WebSocketClientService",
    "connect",
    "diagnose",
    "reconnecting",
]
