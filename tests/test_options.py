"""The options: good values are kept, and nonsense is refused by the name of its field."""

import dataclasses
import math

import pytest

from wsframe.core.retry import RETRY
from wsframe.options import (
    DEFAULT_CLIENT_OPTIONS,
    DEFAULT_RETRY_POLICY,
    DEFAULT_SERVER_OPTIONS,
    ClientOptions,
    ConnectionOptions,
    Deflate,
    RetryPolicy,
    ServerOptions,
    TCPKeepalive,
    WorkerOptions,
)

KINDS = (ConnectionOptions, ClientOptions, ServerOptions, RetryPolicy, Deflate, WorkerOptions)
FIELDS = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]

NO_NUMBERS = [True, False, "1", b"1", [1], 1j, object()]
NONSENSE = {
    "int": [0, -1, 1.0, math.nan, None, *NO_NUMBERS],
    "float": [0, 0.0, -0.0, -1, math.nan, math.inf, -math.inf, 1e9, 10**400, None, *NO_NUMBERS],
    "bool": [0, 1, None, "false", []],
    "tuple[str, ...]": [3, None, "abc", b"abc", [1], [None], ["a", b"b"]],
    "TCPKeepalive | None": [*NO_NUMBERS, 60, (60, 15, 4)],
    "str": [3, b"a", ["a"], True, "a\r\nB: c", "a\x00", "€", "a\x85"],
}
NONSENSE["float | None"] = [value for value in NONSENSE["float"] if value is not None]
NONSENSE["tuple[str, ...] | None"] = [v for v in NONSENSE["tuple[str, ...]"] if v is not None]
NONSENSE["str | None"] = NONSENSE["str"]
NONSENSE["int | None"] = [value for value in NONSENSE["int"] if value is not None]
NONSENSE["Mapping[int, Verdict]"] = [
    *(None, "abc", [], [4000], {"4000": RETRY}, {True: RETRY}, {4000: True}, {4000: None}),
    *({0: RETRY}, {101: RETRY}, {5000: RETRY}, {4000.0: RETRY}),
]
NONSENSE["Callable[[Exception], Verdict | None] | None"] = [True, "abc", RETRY, [print]]
FROM_ZERO = {"max_redirects", "threshold"}
NARROW = {
    "client_max_window_bits": [9, 15],
    "server_max_window_bits": [9, 15],
    "mem_level": [1, 9],
    "factor": [1, 1.5, 10],
    **{name: [0, 10**6] for name in FROM_ZERO},
}
SENSE = {
    "int": [1, 10**6],
    "float": [1, 0.001, 366 * 24 * 3600],
    "float | None": [1, 0.001, None],
    "bool": [True, False],
    "TCPKeepalive | None": [None, TCPKeepalive(idle=1, interval=1, count=1)],
    "str | None": [None, "", "wsframe/1 (é)"],
    "tuple[str, ...]": [()],
    "tuple[str, ...] | None": [None],
    "int | None": [1, 10**6, None],
    "Mapping[int, Verdict]": [{}],
    "Callable[[Exception], Verdict | None] | None": [None, print],
}


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_nonsense_is_refused_by_name(kind, field):
    """Every field of every kind, and every sort of nonsense."""
    for value in NONSENSE[field.type]:
        if field.name in FROM_ZERO and value == 0 and type(value) is int:
            continue
        with pytest.raises((TypeError, ValueError), match=rf"^{field.name}\b"):
            kind(**{field.name: value})


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_sense_is_kept(kind, field):
    """The borders of what is allowed are allowed."""
    for value in NARROW.get(field.name, SENSE[field.type]):
        assert getattr(kind(**{field.name: value}), field.name) == value


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "name", ""))
def test_options_cannot_be_changed(kind, field):
    """Nor shared by mistake; they can be put into sets."""
    options = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, field.name, 1)
    assert hash(options) == hash(kind())


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_given_by_name(kind):
    """A number alone would say nothing."""
    with pytest.raises(TypeError):
        kind(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("subprotocols", ["a b"]),
        ("subprotocols", [""]),
        ("subprotocols", ["a\r\nb"]),
        ("origins", ["example.org"]),
        ("origins", ["https://example.org/"]),
        ("origins", ["https://*.example.org"]),
        ("origins", ["null"]),
        ("origins", ["https://bücher.example"]),
        ("hosts", []),
        ("hosts", ["example.org:80"]),
        ("hosts", ["https://example.org"]),
        ("hosts", ["::1"]),
        ("hosts", ["*"]),
        ("hosts", ["bücher.example"]),
        ("hosts", ["good.example", ""]),
        ("backlog", 2**31),
    ],
)
def test_server_option_that_would_never_match_is_refused(name, value):
    """Rather than admitting nobody without a word."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        ServerOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("subprotocols", ("chat", "chat.v2")),
        ("origins", ("*",)),
        ("origins", ("https://example.org", "http://[::1]:80", "chrome-extension://abc")),
        ("hosts", ("example.org", "127.0.0.1", "[::1]", "Example.ORG.")),
        ("backlog", 2**31 - 1),
    ],
)
def test_server_option_is_kept(name, value):
    """As a tuple, from any sequence and from an iterator."""
    assert getattr(ServerOptions(**{name: value}), name) == value
    if isinstance(value, tuple):
        assert getattr(ServerOptions(**{name: list(value)}), name) == value
        assert getattr(ServerOptions(**{name: iter(value)}), name) == value


@pytest.mark.parametrize("factor", [0.9, 10.1, 0])
def test_factor_outside_its_bounds_is_refused(factor):
    """Below 1 the waits would shrink; above 10 the second one is the cap."""
    with pytest.raises(ValueError, match=r"^factor must be from 1 to 10"):
        RetryPolicy(factor=factor)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client_max_window_bits", 8),
        ("server_max_window_bits", 8),
        ("client_max_window_bits", 16),
        ("server_max_window_bits", 16),
        ("mem_level", 10),
    ],
)
def test_window_that_zlib_does_not_have_is_refused(name, value):
    """8 is in RFC 7692, but zlib makes 9 of it and the peer could not read that."""
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        Deflate(**{name: value})


def test_defaults_are_the_classes_own():
    """What is used where nothing is given."""
    assert ClientOptions() == DEFAULT_CLIENT_OPTIONS
    assert ServerOptions() == DEFAULT_SERVER_OPTIONS
    assert RetryPolicy() == DEFAULT_RETRY_POLICY


@pytest.mark.parametrize("name", ["idle", "interval", "count"])
def test_probes_are_counted_as_the_kernel_counts_them(name):
    """It takes whole seconds, and up to a limit."""
    for value in [*NONSENSE["int"], 1.5, 32_768 if name != "count" else 128]:
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            TCPKeepalive(**{name: value})
    most = 127 if name == "count" else 32_767
    assert getattr(TCPKeepalive(**{name: most}), name) == most


def test_probes_end_after_the_last():
    """From the last traffic on."""
    assert TCPKeepalive(idle=10, interval=3, count=5).longest == 25


def test_defaults_bound_everything():
    """Nothing that a peer can make grow is without a limit, and every wait ends."""
    # A client that stays connected tries for ever unless told otherwise: one wait after another.
    # How long a pong or a message may take only the application knows.
    for_ever = {"max_attempts", "max_elapsed", "pong_timeout", "message_timeout"}
    for kind, field in FIELDS:
        if field.name in for_ever:
            assert field.default is None
            continue
        assert field.type not in {"int", "float", "float | None"} or field.default is not None, kind
