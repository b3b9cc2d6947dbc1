"""Which agents there are, and what the dashboards are told."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsframe.errors import WSFrameError
from wsframe.monitor.registry import (
    NameChanged,
    NameTaken,
    Registry,
    ReportRefused,
    TooManyAgents,
    Update,
)
from wsframe.monitor.report import Report


def make_report(name: str = "a", **changes: Any) -> Report:
    """Return a valid report."""
    fields: dict[str, Any] = {
        "name": name,
        "time": 5.0,
        "interval": 1.0,
        "cpu_percent": 12.5,
        "cpu_count": 2,
        "per_cpu": (10.0, 15.0),
        "memory_total": 100,
        "memory_used": 60,
        "memory_available": 40,
        "swap_total": 10,
        "swap_used": 1,
        "load": (0.1, 0.2, 0.3),
        "disk_total": 1000,
        "disk_used": 10,
        "net_sent": 1.5,
        "net_received": 2.5,
        "processes": 7,
        "uptime": 99.0,
        "hostname": "host",
        "platform": "Linux",
    }
    return Report(**{**fields, **changes})


def make_registry(max_agents: int = 10) -> Registry:
    """Return a registry in which ten seconds are too long."""
    return Registry(client_timeout=10.0, max_agents=max_agents)


def put(registry: Registry, connection_id: str, name: str, now: float, who: str = "p") -> Update:
    """Report under a name."""
    return registry.report(connection_id, who, f"peer-{connection_id}", make_report(name), now)


def messages(update: Update | None) -> list[dict[str, Any]]:
    """Return the messages of an update, decoded."""
    assert update is not None
    return [json.loads(message) for message in update.messages]


def statuses(registry: Registry) -> dict[str, str]:
    """Return the status of each agent."""
    return {agent.name: agent.status for agent in registry.agents()}


def test_first_report_brings_an_agent_online() -> None:
    """Everything known of the agent is in the update."""
    registry = make_registry()
    registry.connected("c1", 1.0)
    agent = put(registry, "c1", "a", 2.0).agent
    assert agent.report == make_report("a")
    assert (agent.status, agent.principal, agent.peer) == ("online", "p", "peer-c1")
    assert (agent.since, agent.last_report, agent.reason) == (2.0, 2.0, None)
    assert registry.agents() == (agent,)
    assert registry.online == 1


def test_further_report_keeps_since_and_moves_last_report() -> None:
    """An agent is online since its first report."""
    registry = make_registry()
    put(registry, "c1", "a", 2.0)
    agent = put(registry, "c1", "a", 7.0).agent
    assert (agent.since, agent.last_report) == (2.0, 7.0)


def test_report_message_has_the_whole_agent() -> None:
    """The message is JSON of the documented form."""
    update = put(make_registry(), "c1", "a", 2.0)
    assert messages(update) == [
        {
            "type": "report",
            "now": 2.0,
            "agent": {
                "name": "a",
                "status": "online",
                "principal": "p",
                "peer": "peer-c1",
                "since": 2.0,
                "last_report": 2.0,
                "reason": None,
                "report": {
                    **make_report("a").as_dict(),
                    "per_cpu": [10.0, 15.0],
                    "load": [0.1, 0.2, 0.3],
                },
            },
        }
    ]


def test_state_message_lists_all_agents_by_name() -> None:
    """Online and gone, sorted."""
    registry = make_registry()
    put(registry, "c1", "b", 1.0)
    put(registry, "c2", "a", 2.0)
    registry.gone("c1", "lost", 3.0)
    state = json.loads(registry.state_message(4.0))
    assert (state["type"], state["now"]) == ("state", 4.0)
    assert [(agent["name"], agent["status"]) for agent in state["agents"]] == [
        ("a", "online"),
        ("b", "gone"),
    ]


def test_state_message_is_the_snapshot() -> None:
    """The same content as text and as a value."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    snapshot = registry.snapshot(2.0)
    assert json.loads(registry.state_message(2.0)) == json.loads(json.dumps(snapshot))


def test_state_message_of_no_agents_is_empty() -> None:
    """A dashboard may come before any agent."""
    assert make_registry().snapshot(1.0) == {"type": "state", "now": 1.0, "agents": []}


def test_gone_agent_stays_with_time_and_reason() -> None:
    """The last report and its time are kept."""
    registry = make_registry()
    put(registry, "c1", "a", 2.0)
    update = registry.gone("c1", "connection lost", 5.0)
    assert update is not None
    agent = update.agent
    assert (agent.status, agent.since, agent.reason) == ("gone", 5.0, "connection lost")
    assert agent.last_report == 2.0
    assert registry.agents() == (agent,)
    assert registry.online == 0
    (message,) = messages(update)
    assert (message["type"], message["now"], message["agent"]["name"]) == ("gone", 5.0, "a")
    assert message["agent"]["reason"] == "connection lost"


def test_gone_of_an_unknown_connection_is_nothing() -> None:
    """The service need not keep track of whom it told."""
    assert make_registry().gone("c1", "lost", 1.0) is None


def test_gone_of_a_connection_that_never_reported_is_nothing() -> None:
    """No agent went with it, and it is forgotten."""
    registry = make_registry()
    registry.connected("c1", 1.0)
    assert registry.gone("c1", "lost", 2.0) is None
    assert registry.expired(100.0) == []


def test_gone_twice_is_nothing_the_second_time() -> None:
    """The first reason stands."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    registry.gone("c1", "first", 2.0)
    assert registry.gone("c1", "second", 3.0) is None
    assert registry.agents()[0].reason == "first"


def test_gone_agent_comes_back() -> None:
    """Online again, since now, without a reason."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    registry.gone("c1", "lost", 2.0)
    update = put(registry, "c2", "a", 3.0)
    assert update.replaced is None
    assert (update.agent.status, update.agent.since, update.agent.reason) == ("online", 3.0, None)
    assert statuses(registry) == {"a": "online"}


def test_name_of_a_gone_agent_is_free_to_another_principal() -> None:
    """A name belongs to a live connection only."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0, who="p")
    registry.gone("c1", "lost", 2.0)
    assert put(registry, "c2", "a", 3.0, who="q").agent.principal == "q"


def test_same_principal_takes_the_name_over() -> None:
    """The connection that lost it is to be closed."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    update = put(registry, "c2", "a", 2.0)
    assert update.replaced == "c1"
    assert (update.agent.since, update.agent.peer) == (2.0, "peer-c2")
    assert put(registry, "c2", "a", 3.0).replaced is None


def test_end_of_a_replaced_connection_leaves_the_agent_online() -> None:
    """The agent belongs to the newer connection."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    put(registry, "c2", "a", 2.0)
    assert registry.gone("c1", "replaced", 3.0) is None
    assert statuses(registry) == {"a": "online"}


def test_replaced_connection_may_not_take_the_name_back() -> None:
    """Messages that were on their way when it was replaced change nothing."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    put(registry, "c2", "a", 2.0)
    with pytest.raises(NameTaken):
        put(registry, "c1", "a", 3.0)
    registry.gone("c2", "lost", 4.0)
    with pytest.raises(NameTaken):
        put(registry, "c1", "a", 5.0)
    assert statuses(registry) == {"a": "gone"}


def test_other_principal_is_refused_a_live_name() -> None:
    """The owner is not disturbed."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0, who="p")
    with pytest.raises(NameTaken) as caught:
        put(registry, "c2", "a", 2.0, who="q")
    assert caught.value.name == "a"
    assert registry.agents()[0].principal == "p"
    assert put(registry, "c1", "a", 3.0, who="p").replaced is None


def test_without_principals_anyone_takes_over() -> None:
    """None is the same principal as None."""
    registry = make_registry()
    registry.report("c1", None, "x", make_report(), 1.0)
    assert registry.report("c2", None, "y", make_report(), 2.0).replaced == "c1"


def test_connection_may_not_change_its_name() -> None:
    """The agent keeps the name it has."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0)
    with pytest.raises(NameChanged) as caught:
        put(registry, "c1", "b", 2.0)
    assert (caught.value.first, caught.value.name) == ("a", "b")
    assert statuses(registry) == {"a": "online"}


def test_refused_connection_may_report_under_a_free_name() -> None:
    """Being refused gives a connection no name."""
    registry = make_registry()
    put(registry, "c1", "a", 1.0, who="p")
    with pytest.raises(NameTaken):
        put(registry, "c2", "a", 2.0, who="q")
    assert put(registry, "c2", "b", 3.0, who="q").agent.name == "b"


def test_new_agent_is_refused_when_all_are_online() -> None:
    """Known agents report on."""
    registry = make_registry(max_agents=2)
    put(registry, "c1", "a", 1.0)
    put(registry, "c2", "b", 1.0)
    with pytest.raises(TooManyAgents) as caught:
        put(registry, "c3", "c", 2.0)
    assert (caught.value.name, caught.value.limit) == ("c", 2)
    assert put(registry, "c4", "a", 3.0).replaced == "c1"


def test_oldest_gone_is_dropped_for_a_new_agent() -> None:
    """The dashboards are told before they hear of the new one."""
    registry = make_registry(max_agents=2)
    put(registry, "c1", "a", 1.0)
    put(registry, "c2", "b", 1.0)
    registry.gone("c2", "lost", 2.0)
    registry.gone("c1", "lost", 3.0)
    update = put(registry, "c3", "c", 4.0)
    assert messages(update)[0] == {"type": "dropped", "now": 4.0, "name": "b"}
    assert [message["type"] for message in messages(update)] == ["dropped", "report"]
    assert statuses(registry) == {"a": "gone", "c": "online"}


def test_gone_again_counts_as_gone_last() -> None:
    """What counts is when it went, not when it first did."""
    registry = make_registry(max_agents=2)
    put(registry, "c1", "a", 1.0)
    registry.gone("c1", "lost", 2.0)
    put(registry, "c2", "b", 3.0)
    registry.gone("c2", "lost", 4.0)
    put(registry, "c3", "a", 5.0)
    registry.gone("c3", "lost", 6.0)
    put(registry, "c4", "c", 7.0)
    assert statuses(registry) == {"a": "gone", "c": "online"}


def test_return_of_a_gone_agent_drops_nobody() -> None:
    """It has a place already."""
    registry = make_registry(max_agents=2)
    put(registry, "c1", "a", 1.0)
    put(registry, "c2", "b", 1.0)
    registry.gone("c1", "lost", 2.0)
    assert [message["type"] for message in messages(put(registry, "c3", "a", 3.0))] == ["report"]
    assert statuses(registry) == {"a": "online", "b": "online"}


def test_connection_that_never_reports_expires() -> None:
    """Its silence began when it connected."""
    registry = make_registry()
    registry.connected("c1", 100.0)
    assert registry.expired(109.9) == []
    assert registry.expired(110.0) == ["c1"]


def test_report_ends_a_silence() -> None:
    """The silence begins anew with each report."""
    registry = make_registry()
    registry.connected("c1", 100.0)
    put(registry, "c1", "a", 109.0)
    assert registry.expired(118.9) == []
    assert registry.expired(119.0) == ["c1"]


def test_refused_report_does_not_end_a_silence() -> None:
    """Only what is taken in counts."""
    registry = make_registry()
    put(registry, "c1", "a", 100.0)
    with pytest.raises(NameChanged):
        put(registry, "c1", "b", 109.0)
    assert registry.expired(110.0) == ["c1"]


def test_expired_connection_is_returned_until_it_is_gone() -> None:
    """The registry changes nothing by itself."""
    registry = make_registry()
    put(registry, "c1", "a", 100.0)
    assert registry.expired(200.0) == registry.expired(201.0) == ["c1"]
    assert statuses(registry) == {"a": "online"}
    registry.gone("c1", "silent", 202.0)
    assert registry.expired(300.0) == []


def test_replaced_connection_expires_like_any() -> None:
    """Whatever the service forgets to close is found."""
    registry = make_registry()
    put(registry, "c1", "a", 100.0)
    put(registry, "c2", "a", 105.0)
    assert registry.expired(110.0) == ["c1"]


def test_step_back_of_the_clock_expires_nobody() -> None:
    """A report from the future is not silence."""
    registry = make_registry()
    put(registry, "c1", "a", 5000.0)
    assert registry.expired(1400.0) == []


def test_connection_is_noted_once() -> None:
    """A second time is a mistake of the caller."""
    registry = make_registry()
    registry.connected("c1", 1.0)
    with pytest.raises(ValueError, match="known already"):
        registry.connected("c1", 2.0)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_timeout_must_be_a_time(timeout: float) -> None:
    """Nothing could be told from another value."""
    with pytest.raises(ValueError, match="client_timeout"):
        Registry(client_timeout=timeout)


def test_there_must_be_room_for_one_agent() -> None:
    """None at all is a mistake of the caller."""
    with pytest.raises(ValueError, match="max_agents"):
        Registry(client_timeout=1.0, max_agents=0)


@pytest.mark.parametrize("kind", [NameTaken, NameChanged, TooManyAgents])
def test_refusals_are_errors_of_wsframe(kind: type[Exception]) -> None:
    """One class catches all of them."""
    assert issubclass(kind, ReportRefused)
    assert issubclass(kind, WSFrameError)


def test_agent_cannot_be_changed() -> None:
    """What was handed out stays as it was."""
    agent = put(make_registry(), "c1", "a", 1.0).agent
    with pytest.raises(FrozenInstanceError):
        agent.status = "gone"  # type: ignore[misc]


def test_hostile_reason_and_principal_make_valid_messages() -> None:
    """Lone surrogates and markup are carried as escaped text."""
    registry = make_registry()
    registry.report("c1", "\ud800</script>", "\x1b[31m", make_report(), 1.0)
    update = registry.gone("c1", "\udfff\n", 2.0)
    assert update is not None
    assert update.messages[0].isascii()
    assert "\n" not in update.messages[0]
    assert messages(update)[0]["agent"]["reason"] == "\udfff\n"


actions = st.lists(
    st.tuples(
        st.sampled_from(["report", "gone"]),
        st.integers(0, 6).map(str),
        st.sampled_from("abcde"),
        st.sampled_from("pq"),
    ),
    max_size=60,
)


@given(actions)
def test_dashboard_that_follows_the_feed_knows_the_state(actions: list[tuple[str, ...]]) -> None:
    """Whatever happens: the messages add up to the snapshot, within the limit."""
    registry = make_registry(max_agents=3)
    seen: dict[str, Any] = {}
    for now, (action, connection_id, name, who) in enumerate(actions):
        update: Update | None
        if action == "gone":
            update = registry.gone(connection_id, "lost", float(now))
        else:
            try:
                update = put(registry, connection_id, name, float(now), who)
            except ReportRefused:
                continue
        for message in messages(update) if update is not None else []:
            if message["type"] == "dropped":
                del seen[message["name"]]
            else:
                seen[message["agent"]["name"]] = message["agent"]
        state = json.loads(registry.state_message(float(now)))
        assert sorted(seen.values(), key=lambda agent: agent["name"]) == state["agents"]
        assert len(seen) <= 3
