"""What must hold for any head, of a request or of an answer, held against h11.

h11 reads it in one piece and without our limits; ours get it cut anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Final

import h11

from wsframe.core.http import RequestHeadError, RequestHeadReader
from wsframe.core.http_answer import Answer, AnswerReader, BadAnswer

MAX_HEAD: Final = 400
MAX_COUNT: Final = 8
MAX_BODY: Final = 60


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read_by_h11(data: bytes, connection: h11.Connection) -> list[Any]:
    """Return the events of what h11 is given in one piece; the last may be its error."""
    events: list[Any] = []
    try:
        connection.receive_data(data)
        while not events or events[-1] not in (h11.NEED_DATA, h11.PAUSED):
            events.append(connection.next_event())
            if type(events[-1]) in (h11.EndOfMessage, h11.ConnectionClosed):
                break
    except h11.RemoteProtocolError as error:
        events.append(error)
    return events


def same(pairs: Iterable[tuple[bytes, bytes]], ours: Any) -> bool:
    """Whether h11's pairs are those of our headers."""
    theirs = [(name.lower().decode(), value.decode("latin-1")) for name, value in pairs]
    return theirs == [(name.lower(), value) for name, value in ours.pairs]


def judged(pieces: list[bytes], reader: RequestHeadReader) -> Any:
    """Return the status of a refusal, or the request with what it is made of, or None."""
    taken = 0
    for place, piece in enumerate(pieces):
        try:
            complete = reader.receive(piece)
        except RequestHeadError as error:
            return error.status
        taken += len(piece)
        if complete is not None:
            request, head, rest = complete
            assert len(head) <= MAX_HEAD
            return request, head, rest + b"".join(pieces[place + 1 :])
        assert taken <= MAX_HEAD, "more is held than a head may have"
    return None


def request_of(data: bytes, cuts: Iterable[int] = ()) -> Any:
    return judged(cut_at(data, cuts), RequestHeadReader(MAX_HEAD, MAX_COUNT))


def check_request(data: bytes, cuts: Iterable[int]) -> None:
    """Fail unless it is judged the same however it is cut, and if admitted is the same to h11."""
    found = request_of(data)
    assert request_of(data, cuts) == found
    if not isinstance(found, tuple):
        assert found is None or 400 <= found < 600
        return
    request, head, rest = found
    assert head + rest == data
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10 * MAX_HEAD)
    theirs = read_by_h11(head, connection)[0]
    assert isinstance(theirs, h11.Request)
    assert theirs.method == request.method.encode()
    assert theirs.target == request.target.encode()
    assert same(theirs.headers.raw_items(), request.headers)


def answered(data: bytes, cuts: Iterable[int] = (), *, tunnel: bool, end: bool) -> Any:
    """Return the answer with all that followed it, "bad", or None."""
    reader = AnswerReader(tunnel=tunnel, max_head=MAX_HEAD, max_body=MAX_BODY)
    pieces = [piece for piece in cut_at(data, cuts) if piece]
    for place, piece in enumerate([*pieces, b""] if end else pieces):
        try:
            answer = reader.receive(piece)
        except BadAnswer:
            return "bad"
        if answer is not None:
            assert len(answer.body) <= MAX_BODY
            trailing = answer.trailing + b"".join(pieces[place + 1 :]) * answer.switched
            return answer.status, answer.reason, answer.headers, answer.body, trailing, answer
    return None


def asked(tunnel: bool) -> h11.Connection:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * MAX_HEAD)
    if tunnel:
        request = h11.Request(method="CONNECT", target="x:1", headers=[("Host", "x:1")])
    else:
        upgrade = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
        request = h11.Request(method="GET", target="/", headers=upgrade)
    connection.send(request)
    connection.send(h11.EndOfMessage())
    return connection


def check_answer(data: bytes, cuts: Iterable[int], *, tunnel: bool, end: bool) -> None:
    """Fail unless it is read the same however it is cut, and has what h11 has found in it."""
    found = answered(data, tunnel=tunnel, end=end)
    again = answered(data, cuts, tunnel=tunnel, end=end)
    assert (again[:5] if isinstance(again, tuple) else again) == (
        found[:5] if isinstance(found, tuple) else found
    )
    if not isinstance(found, tuple):
        return
    status, reason, headers, body, trailing, answer = found
    assert isinstance(answer, Answer)
    connection = asked(tunnel)
    events = read_by_h11(data, connection)
    heads = [one for one in events if isinstance(one, h11.InformationalResponse | h11.Response)]
    theirs = heads[-1]
    assert (theirs.status_code, theirs.reason.decode("latin-1")) == (status, reason)
    assert same(theirs.headers.raw_items(), headers)
    if answer.switched:
        assert trailing == connection.trailing_data[0]
    else:
        sent = b"".join(bytes(one.data) for one in events if isinstance(one, h11.Data))
        assert sent[:MAX_BODY] == body
