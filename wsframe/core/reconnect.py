"""Staying connected as one table: the states of a client, what can happen, and what follows.

Nothing here waits or connects. The caller tells what happened and does what is answered, in that
order. What is not in the table cannot happen, and raises `Unexpected`: a fault of the caller's.

`RETRY` and `GIVE_UP` are the two answers of `core.retry` to a failure, whichever it was: of the
preparation, of the attempt, or of the open connection. `ENDED` is said in the states that wait for
something to come to its end, and there only.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TABLE", "Input", "Output", "Reconnect", "State", "Unexpected", "diagram"]


class State(enum.Enum):
    """What a client that stays connected is doing."""

    STOPPED = "stopped"
    PREPARING = "preparing"
    CONNECTING = "connecting"
    RESUMING = "resuming"
    OPEN = "open"
    WAITING = "waiting"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    GAVE_UP = "gave up"


class Input(enum.Enum):
    """What can happen to it."""

    START = "start"
    STOP = "stop"
    PREPARED = "prepared"
    OPENED = "opened"
    RESUMED = "resumed"
    RETRY = "retry"
    GIVE_UP = "give up"
    WAITED = "waited"
    ENDED = "ended"


class Output(enum.Enum):
    """What is to be done about it, by whoever has sockets and a clock."""

    PREPARE = "prepare"
    """Run the hook before the attempt."""

    CONNECT = "connect"
    """Open the WebSocket."""

    RESUME = "resume"
    """Run the hook after the opening, then send what waited in the outbox."""

    SERVE = "serve"
    """Run the handler, and let the connection be used."""

    WAIT = "wait"
    """Arm the timer."""

    CANCEL = "cancel"
    """Cancel the hook, the attempt or the timer; whichever it is."""

    CLOSE = "close"
    """Begin the closing handshake."""

    STOPPED = "say stopped"
    """Tell those who wait that it has stopped, as it was told to."""

    GAVE_UP = "say gave up"
    """Tell those who wait that it has given up, and why."""


_S, _I, _O = State, Input, Output

TABLE: Final[dict[tuple[State, Input], tuple[State, tuple[Output, ...]]]] = {
    # At rest.
    (_S.STOPPED, _I.START): (_S.PREPARING, (_O.PREPARE,)),
    (_S.STOPPED, _I.STOP): (_S.STOPPED, (_O.STOPPED,)),
    (_S.GAVE_UP, _I.START): (_S.PREPARING, (_O.PREPARE,)),
    (_S.GAVE_UP, _I.STOP): (_S.STOPPED, (_O.STOPPED,)),
    # One attempt.
    (_S.PREPARING, _I.PREPARED): (_S.CONNECTING, (_O.CONNECT,)),
    (_S.PREPARING, _I.RETRY): (_S.WAITING, (_O.WAIT,)),
    (_S.PREPARING, _I.GIVE_UP): (_S.GAVE_UP, (_O.GAVE_UP,)),
    (_S.PREPARING, _I.STOP): (_S.STOPPING, (_O.CANCEL,)),
    (_S.CONNECTING, _I.OPENED): (_S.RESUMING, (_O.RESUME,)),
    (_S.CONNECTING, _I.RETRY): (_S.WAITING, (_O.WAIT,)),
    (_S.CONNECTING, _I.GIVE_UP): (_S.GAVE_UP, (_O.GAVE_UP,)),
    (_S.CONNECTING, _I.STOP): (_S.STOPPING, (_O.CANCEL,)),
    # The connection is open; at first it is only the hook's.
    (_S.RESUMING, _I.RESUMED): (_S.OPEN, (_O.SERVE,)),
    (_S.RESUMING, _I.RETRY): (_S.WAITING, (_O.WAIT,)),
    (_S.RESUMING, _I.GIVE_UP): (_S.GAVE_UP, (_O.GAVE_UP,)),
    (_S.RESUMING, _I.STOP): (_S.STOPPING, (_O.CANCEL, _O.CLOSE)),
    (_S.OPEN, _I.RETRY): (_S.WAITING, (_O.WAIT,)),
    (_S.OPEN, _I.GIVE_UP): (_S.GAVE_UP, (_O.GAVE_UP,)),
    (_S.OPEN, _I.STOP): (_S.STOPPING, (_O.CLOSE,)),
    # Between two attempts.
    (_S.WAITING, _I.WAITED): (_S.PREPARING, (_O.PREPARE,)),
    (_S.WAITING, _I.STOP): (_S.STOPPED, (_O.CANCEL, _O.STOPPED)),
    # On the way down; it may be wanted again before it is there.
    (_S.STOPPING, _I.STOP): (_S.STOPPING, ()),
    (_S.STOPPING, _I.START): (_S.RESTARTING, ()),
    (_S.STOPPING, _I.ENDED): (_S.STOPPED, (_O.STOPPED,)),
    (_S.RESTARTING, _I.STOP): (_S.STOPPING, ()),
    (_S.RESTARTING, _I.ENDED): (_S.PREPARING, (_O.STOPPED, _O.PREPARE)),
}
"""From a state and an input to the next state and what is to be done, in order."""

for _state in State:
    # Who starts what runs already gets what he wants.
    TABLE.setdefault((_state, Input.START), (_state, ()))


class Unexpected(Exception):
    """An input that the state has no row for: a fault of the caller's."""


class Reconnect:
    """One client's place in the table."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = State.STOPPED

    def feed(self, what: Input) -> tuple[Output, ...]:
        """Take an input; return what is to be done, in order. The state is the next one already."""
        row = TABLE.get((self.state, what))
        if row is None:
            raise Unexpected(f"{what.name} in the state {self.state.name}")
        self.state, outputs = row
        return outputs


def diagram() -> str:
    """Return the table as a Mermaid state diagram; rows that change nothing are left out."""
    lines = ["stateDiagram-v2", "    [*] --> STOPPED"]
    for (state, what), (after, outputs) in TABLE.items():
        if state is after and not outputs:
            continue
        doing = ", ".join(output.value for output in outputs)
        said = f"{what.value} / {doing}" if doing else what.value
        lines.append(f"    {state.name} --> {after.name}: {said}")
    return "\n".join(lines) + "\n"
