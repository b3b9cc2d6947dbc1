"""Autobahn's processor of permessage-deflate in our make: what it keeps, and its limits."""

from __future__ import annotations

import zlib

import pytest
from autobahn.exception import PayloadCorruptError, PayloadExceededError
from autobahn.websocket.compress import PerMessageDeflate

from wsframe.protocol.deflate import MessageDeflate, compress_message, whole

WORDS = b"the same words again and again, " * 20
TAIL = b"\0\0\xff\xff"


def made(
    *,
    server: bool = True,
    server_forgets: bool = False,
    client_forgets: bool = False,
    server_bits: int = 10,
    client_bits: int = 11,
    most: int | None = 10_000,
) -> MessageDeflate:
    agreed = PerMessageDeflate(
        server, server_forgets, client_forgets, server_bits, client_bits, 5, most
    )
    ours = whole(agreed)
    assert isinstance(ours, MessageDeflate)
    return ours


def read(compress: MessageDeflate, *parts: bytes, left: int | None = None) -> bytes:
    compress.start_decompress_message()
    output = b"".join(compress.decompress_message_data(part, left) for part in parts)
    compress.end_decompress_message()
    return output


def test_what_is_not_autobahns_deflate_is_left_as_it_is() -> None:
    other = object()
    assert whole(other) is other
    assert whole(None) is None
    ours = made()
    assert whole(ours) is ours


@pytest.mark.parametrize("server", [True, False])
def test_each_side_takes_its_own_window_and_understands_the_others(server: bool) -> None:
    ours, theirs = made(server=server), made(server=not server)
    assert ours.kind == (10 if server else 11, 5)
    for _ in range(3):
        assert read(theirs, ours.compress_message(WORDS)) == WORDS


@pytest.mark.parametrize("server", [True, False])
def test_a_side_that_forgets_keeps_nothing_between_messages(server: bool) -> None:
    """Whole messages come from the shared compressor; those in parts have one for as long."""
    ours = made(server=server, server_forgets=True, client_forgets=True)
    theirs = made(server=not server, server_forgets=True, client_forgets=True)
    data = ours.compress_message(WORDS)
    assert ours._compressor is None
    assert read(theirs, data) == WORDS
    assert theirs._inflation is None
    ours.start_compress_message()
    data = ours.compress_message_data(WORDS) + ours.compress_message_data(WORDS)
    data += ours.end_compress_message()
    assert ours._compressor is None
    assert read(theirs, data) == WORDS * 2


def test_a_side_that_does_not_forget_keeps_its_history_until_it_is_told_to() -> None:
    ours = made()
    first, second = ours.compress_message(WORDS), ours.compress_message(WORDS)
    assert len(second) < len(first)
    ours.forget()
    assert zlib.decompressobj(-10).decompress(ours.compress_message(WORDS) + TAIL) == WORDS


def test_the_limit_is_for_all_parts_of_a_message_and_not_for_several_messages() -> None:
    ours, theirs = made(most=len(WORDS)), made(server=False)
    for _ in range(3):
        data = theirs.compress_message(WORDS)
        assert read(ours, data[:9], data[9:]) == WORDS
    data = theirs.compress_message(WORDS + b"!")
    with pytest.raises(PayloadExceededError):
        read(ours, data[:9], data[9:])


def test_the_smaller_of_two_limits_holds() -> None:
    for most, left in ((None, len(WORDS) - 1), (len(WORDS) - 1, None), (1000, len(WORDS) - 1)):
        with pytest.raises(PayloadExceededError):
            read(made(most=most), made(server=False).compress_message(WORDS), left=left)
    assert read(made(most=None), made(server=False).compress_message(WORDS)) == WORDS


def test_what_is_corrupt_is_said_in_autobahns_terms() -> None:
    for wrong in (b"\xff\xff", made(server=False).compress_message(WORDS)[:-3]):
        with pytest.raises(PayloadCorruptError):
            read(made(), wrong)
    for call in (lambda c: c.decompress_message_data(b""), lambda c: c.end_decompress_message()):
        with pytest.raises(PayloadCorruptError, match="no message has begun"):
            call(made())


def test_any_processor_compresses_whole_messages() -> None:
    """Those of Autobahn's other extensions, and a subclass of an application's."""

    class Own(PerMessageDeflate):
        pass

    for processor in (Own(True, False, False, 10, 11, 5), made()):
        data = compress_message(whole(processor), WORDS)
        assert zlib.decompressobj(-10).decompress(data + TAIL) == WORDS
