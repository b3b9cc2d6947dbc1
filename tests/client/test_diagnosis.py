"""What a server answers 101 to is found by changing one thing at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from integration.peers import free_port
from integration.picky import Picky, Rule, has, has_not
from integration.raw import RawServer, Stepped, accept_raw, eventually, header, within
from twisted.internet import defer

from wsframe.client.diagnosis import CLOSE_WAIT, Diagnosis, Trial, diagnose
from wsframe.errors import (
    HandshakeRefused,
    InvalidURI,
    OpenCancelled,
    OpenTimeout,
    TCPConnectFailed,
)
from wsframe.options import ClientOptions, Deflate


async def diagnosed(rule: Rule, refusal: bytes | None = None, **arguments: Any) -> Diagnosis:
    async with Picky(rule, refusal) as server:
        uri = arguments.pop("uri", "ws://127.0.0.1:{port}/path").format(port=server.port)
        return await within(diagnose(uri, **arguments))


@pytest.mark.parametrize(
    ("rule", "arguments", "cures"),
    [
        (
            has_not("Sec-WebSocket-Protocol"),
            {"subprotocols": ["v2", "v1"]},
            ["no subprotocol"],
        ),
        (
            lambda head: header(head, "Sec-WebSocket-Protocol") == "v1",
            {"subprotocols": ["v2", "v1"]},
            ["subprotocol 2 of 2 alone"],
        ),
        (has("Sec-WebSocket-Protocol"), {}, ["a subprotocol (chat)"]),
        (has_not("Origin"), {"origin": "https://a.example"}, ["no Origin"]),
        (has_not("Origin"), {"headers": {"Origin": "https://a.example"}}, ["no Origin"]),
        (
            lambda head: (header(head, "Origin") or "").startswith("http://127.0.0.1:"),
            {},
            ["the server's own Origin (http://127.0.0.1:{port})"],
        ),
        (has_not("Sec-WebSocket-Extensions"), {"compression": Deflate()}, ["no extension"]),
        (has("Sec-WebSocket-Extensions"), {}, ["the extension permessage-deflate"]),
        (
            lambda head: "Mozilla" in (header(head, "User-Agent") or ""),
            {},
            ["a browser's User-Agent"],
        ),
        (has_not("User-Agent"), {"headers": {"User-Agent": "x"}}, ["no User-Agent"]),
        (
            lambda head: "wsframe" not in (header(head, "User-Agent") or ""),
            {},
            ["a browser's User-Agent", "no User-Agent"],
        ),
        (
            has_not("Authorization"),
            {"headers": {"Authorization": "Bearer s3cret"}},
            ["no token, password or cookie"],
        ),
        (
            has_not("Authorization"),
            {"uri": "ws://user:s3cret@127.0.0.1:{port}/"},
            ["no token, password or cookie"],
        ),
        (has_not("Cookie"), {"headers": {"cookie": "a=s3cret"}}, ["no token, password or cookie"]),
        (lambda head: False, {}, []),
    ],
)
@pytest_twisted.ensureDeferred
async def test_single_change_that_cures_is_found(
    rule: Rule, arguments: dict[str, Any], cures: list[str]
) -> None:
    async with Picky(rule) as server:
        arguments = {"uri": "ws://127.0.0.1:{port}/path", **arguments}
        arguments["uri"] = arguments["uri"].format(port=server.port)
        diagnosis = await within(diagnose(**arguments))
        cures = [cure.format(port=server.port) for cure in cures]
    assert not diagnosis.opened
    assert list(diagnosis.cures) == cures
    first = diagnosis.trials[0]
    assert (first.change, first.status) == ("", 502)
    assert isinstance(first.error, HandshakeRefused)
    for cure in cures:
        assert cure in diagnosis.finding
    # And as JSON, and in words, without any secret.
    read = json.loads(json.dumps(diagnosis.as_dict()))
    assert read["cures"] == cures
    assert "s3cret" not in str(diagnosis) + json.dumps(read) + repr(diagnosis)


@pytest_twisted.ensureDeferred
async def test_each_trial_differs_in_one_thing() -> None:
    async with Picky(lambda head: False) as server:
        uri = f"ws://127.0.0.1:{server.port}/path"
        given = {"X-A": "1", "user-agent": "mine"}
        diagnosis = await within(diagnose(uri, headers=given, subprotocols=["v1"]))
        first, *others = [set(head.split("\r\n")[1:]) for head in server.heads]
    assert len(others) == len(diagnosis.trials) - 1 == 5

    def names(lines: set[str]) -> set[str]:
        found = {line.partition(":")[0].lower() for line in lines if line}
        return found - {"sec-websocket-key"}

    for lines in others:
        assert len(names(lines ^ first)) == 1, lines ^ first


@pytest_twisted.ensureDeferred
async def test_server_that_answers_101_is_asked_once_and_left_in_order() -> None:
    async with Picky(lambda head: True) as server:
        told: list[Trial] = []
        diagnosis = await within(diagnose(f"ws://127.0.0.1:{server.port}/", on_trial=told.append))
        assert len(server.heads) == 1
    assert diagnosis.opened
    assert tuple(told) == diagnosis.trials
    assert [phase.phase for phase in told[0].phases] == ["tcp", "handshake"]
    assert "nothing had to be changed" in str(diagnosis)


@pytest.mark.parametrize("refusal", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_server_that_answers_nothing_or_garbage_is_diagnosed_too(refusal: bytes) -> None:
    diagnosis = await diagnosed(has_not("User-Agent"), refusal)
    assert diagnosis.cures == ("no User-Agent",)
    assert diagnosis.trials[0].status is None


@pytest_twisted.ensureDeferred
async def test_what_fails_before_the_handshake_is_told_with_its_phase() -> None:
    diagnosis = await within(diagnose(f"ws://127.0.0.1:{free_port()}/"))
    (trial,) = diagnosis.trials
    assert isinstance(trial.error, TCPConnectFailed)
    assert "the handshake was not reached" in str(diagnosis)


@pytest_twisted.ensureDeferred
async def test_each_trial_has_the_deadline_to_itself() -> None:
    clock = Stepped()
    async with RawServer() as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        diagnosing = diagnose(uri, reactor=clock, options=ClientOptions(open_timeout=5))
        for _ in range(6):
            raw = await server.accepted()
            await raw.read_head()
            clock.advance(5)
        diagnosis = await within(diagnosing)
    assert {type(trial.error) for trial in diagnosis.trials} == {OpenTimeout}
    assert [round(trial.seconds) for trial in diagnosis.trials] == [5] * 6
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_it_can_be_cancelled() -> None:
    async with RawServer() as server:
        diagnosing = diagnose(f"ws://127.0.0.1:{server.port}/")
        raw = await server.accepted()
        await raw.read_head()
        diagnosing.cancel()
        with pytest.raises((OpenCancelled, defer.CancelledError)):
            await diagnosing
        await within(raw.ended())


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidURI):
        diagnose("http://x/")
    with pytest.raises(TypeError, match="header"):
        diagnose("ws://x/", header={})


@pytest_twisted.ensureDeferred
async def test_server_that_answers_no_close_frame_is_not_waited_for() -> None:
    clock = Stepped()
    async with RawServer() as server:
        running = diagnose(f"ws://127.0.0.1:{server.port}/", reactor=clock)
        raw = await accept_raw(server)
        await raw.read_close()
        clock.advance(CLOSE_WAIT)
        await eventually(lambda: clock.advance(0) or running.called)
        assert (await running).opened
        await raw.drop()
