"""The dashboard page and the headers it is to be served with.

The page is one file without any outside resource. Its content security policy names the one style
sheet and the one script by their hashes, so that nothing else is ever run or applied, whatever an
agent calls itself. The page opens its feed with the subprotocol `wsframe.feed`, at `feed` next to
its own address; it sends a token as a second subprotocol, `bearer.` and the token in base64url,
because a page can set no header of an opening handshake.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

__all__ = ["PAGE", "PAGE_HEADERS"]


def _source(element: str) -> str:
    """Return the source expression that allows the page's one inline `element`."""
    found = re.findall(rb"<%b>(.*?)</%b>" % ((element.encode(),) * 2), PAGE, re.DOTALL)
    if len(found) != 1:
        raise RuntimeError(f"page.html must have exactly one <{element}>, not {len(found)}")
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[0]).digest()).decode()}'"


# A browser takes CR LF for LF before it hashes, so a check-out that made it CR LF is put right.
PAGE: Final[bytes] = Path(__file__).with_name("page.html").read_bytes().replace(b"\r\n", b"\n")
"""The page: HTML in UTF-8."""

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_source('style')}",
        f"script-src {_source('script')}",
        # In CSP level 3 this covers ws: and wss: of the page's own host and port.
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

PAGE_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # The hashes in the policy are those of this very page: an old copy must not meet new ones.
    ("Cache-Control", "no-store"),
)
"""The header fields of the answer that carries `PAGE`, apart from its length."""
