"""Masks of every size, against the definition (RFC 6455 §5.3)."""

from __future__ import annotations

import os

import pytest

from wsframe.core import frames
from wsframe.protocol import masking
from wsframe.protocol.masking import LARGE, apply_mask, mask_long

SIZES = [frames.SHORT, frames.SHORT + 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 2]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, frames.SHORT - 1, *SIZES])
def test_a_mask_is_what_the_definition_says(size: int) -> None:
    payload, key = os.urandom(size), os.urandom(4)
    defined = bytes(octet ^ key[place % 4] for place, octet in enumerate(payload))
    assert apply_mask(payload, key) == defined


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_masked_is_left_as_it_was(
    size: int, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Autobahn has no native part: somebody else may still read it."""
    if not native:
        monkeypatch.setattr(masking, "_native", None)
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    copy = bytes(bytearray(payload))
    masked = mask_long(payload, b"\1\2\3\4")
    assert payload == copy
    assert masked != payload
    assert mask_long(bytes(masked), b"\1\2\3\4") == payload
