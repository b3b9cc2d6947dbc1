"""Masks by the fastest means that is installed, chosen by size."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any, Final

from autobahn.websocket.xormasker import create_xor_masker  # type: ignore[attr-defined]

from wsframe.core import frames

try:
    import _nvx_xormasker as _native  # type: ignore[import-not-found]
except ImportError:  # a build of Autobahn without its native part
    _native = None

__all__ = ["apply_mask", "mask_key", "mask_long"]

_DRAWN: Final = 1024
"""Random bytes drawn at a time: the keys of 256 frames for the price of one system call."""

LARGE: Final = 16 * 1024
"""Bytes from which a copy takes longer than what avoids it."""

_drawn = bytearray()

# A child must not use the keys of its parent.
os.register_at_fork(after_in_child=_drawn.clear)


def mask_key() -> bytes:
    """Return the four bytes of a new key, from the system's random source (RFC 6455 §10.3)."""
    if not _drawn:
        _drawn.extend(os.urandom(_DRAWN))
    key = bytes(_drawn[-4:])
    del _drawn[-4:]
    return key


def mask_long(payload: bytes, key: bytes) -> bytes | bytearray:
    """Return the payload masked; for payloads from `frames.SHORT` bytes on.

    Autobahn's own wrapper around the same function makes twice as many copies.
    """
    if _native is None:
        masked: bytes = create_xor_masker(key, len(payload)).process(payload)
        return masked
    if len(payload) >= LARGE:
        return _mask_large(payload, key)
    library: Any = _native.lib
    result = bytearray(payload)
    masker = library.nvx_xormask_new(key)
    try:
        library.nvx_xormask_set_impl(masker, 2)  # SSE2, where the processor has it
        view = _native.ffi.from_buffer("uint8_t[]", result)
        library.nvx_xormask_process(masker, view, len(result))
    finally:
        library.nvx_xormask_free(masker)
    return result


def _mask_large(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked, with one copy: what a `BytesIO` has alone it gives away as it is.

    A bytearray would have to be copied once more, and takes less for what is not `LARGE`.
    """
    library: Any = _native.lib
    result = BytesIO(payload)
    masker = library.nvx_xormask_new(key)
    try:
        library.nvx_xormask_set_impl(masker, 2)
        with result.getbuffer() as view, _native.ffi.from_buffer("uint8_t[]", view) as octets:
            library.nvx_xormask_process(masker, octets, len(payload))
    finally:
        library.nvx_xormask_free(masker)
    return result.getvalue()


def apply_mask(payload: bytes, key: bytes) -> bytes | bytearray:
    """Return the payload masked, whatever its size."""
    return (mask_long if len(payload) >= frames.SHORT else frames.mask_payload)(payload, key)
