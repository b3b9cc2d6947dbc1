"""How long each phase of an opening took, as those who watch it are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsframe.errors import Phase

__all__ = ["Observe", "PhaseDone"]


@dataclass(frozen=True)
class PhaseDone:
    """One phase of an opening that has succeeded.

    `to` is what the phase was about: host:port, the path of a Unix socket, or a proxy's URL without
    credentials. `seconds` is its own time, without that of the phases before it. `detail` is what
    came of it, such as the addresses found or the version of TLS; "" where there is nothing to say.
    """

    phase: Phase
    to: str
    seconds: float
    detail: str = ""


Observe = Callable[[PhaseDone], None]
"""What is called with each phase that is done, in order. What it raises is logged."""
