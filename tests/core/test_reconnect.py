"""The table of a client that stays connected: every row, what has none, and its diagram."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsframe.core.reconnect import TABLE, Input, Output, Reconnect, State, Unexpected, diagram

DOCS = Path(__file__).resolve().parents[2] / "docs" / "staying-connected.md"
ENDING = {State.STOPPING, State.RESTARTING}
AT_REST = {State.STOPPED, State.GAVE_UP}


def at(state: State) -> Reconnect:
    machine = Reconnect()
    machine.state = state
    return machine


def test_it_begins_stopped() -> None:
    assert Reconnect().state is State.STOPPED


@pytest.mark.parametrize(("state", "what"), TABLE, ids=lambda value: value.name)
def test_each_row_leads_where_it_says(state: State, what: Input) -> None:
    machine = at(state)
    after, outputs = TABLE[state, what]
    assert machine.feed(what) == outputs
    assert machine.state is after


@pytest.mark.parametrize(
    ("state", "what"),
    [(state, what) for state in State for what in Input if (state, what) not in TABLE],
    ids=lambda value: value.name,
)
def test_what_has_no_row_is_refused_and_changes_nothing(state: State, what: Input) -> None:
    machine = at(state)
    with pytest.raises(Unexpected, match=f"{what.name} in the state {state.name}"):
        machine.feed(what)
    assert machine.state is state


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_it_can_be_started_and_stopped_in_every_state(state: State) -> None:
    for what in (Input.START, Input.STOP):
        at(state).feed(what)


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_stop_ends_at_stopped_after_at_most_one_end(state: State) -> None:
    machine = at(state)
    told = list(machine.feed(Input.STOP))
    if machine.state is not State.STOPPED:
        told += machine.feed(Input.ENDED)
    assert machine.state is State.STOPPED
    assert told.count(Output.STOPPED) == 1


@pytest.mark.parametrize("state", [state for state in State if state not in AT_REST | ENDING])
def test_whatever_runs_is_cancelled_or_closed_by_a_stop(state: State) -> None:
    assert {Output.CANCEL, Output.CLOSE} & set(at(state).feed(Input.STOP))


@given(st.lists(st.sampled_from(Input), max_size=60))
def test_no_order_of_what_happens_loses_a_stop_or_serves_twice(inputs: list[Input]) -> None:
    machine = Reconnect()
    serving = False
    for what in inputs:
        if (machine.state, what) not in TABLE:
            continue
        before = machine.state
        outputs = machine.feed(what)
        if before is State.OPEN:
            serving = machine.state is State.OPEN
        if Output.SERVE in outputs:
            assert not serving
            serving = True
        if Output.CONNECT in outputs:
            assert before is State.PREPARING
        if Output.WAIT in outputs:
            assert machine.state is State.WAITING
        if Output.STOPPED in outputs:
            assert what in (Input.STOP, Input.ENDED)


def test_the_docs_show_the_table() -> None:
    """Write it anew with: python -c "import wsframe.core.reconnect as r; print(r.diagram())"."""
    assert f"```mermaid\n{diagram()}```" in DOCS.read_text(encoding="utf-8")
