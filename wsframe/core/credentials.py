"""The credentials for one proxy, as a callable returns them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

__all__ = ["ProxyCredentials"]


@dataclass(frozen=True, repr=False)
class ProxyCredentials:
    """A user name and password, or a bearer token, for one proxy; see `Proxy.credentials`.

    The fields are as in `Proxy`, and checked against the kind of the proxy when they are used.
    `repr()` shows none of them.
    """

    user: str | None = None
    password: str | None = None
    _: KW_ONLY
    token: str | None = None

    def __post_init__(self) -> None:
        for name in ("user", "password", "token"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} is a text or None, not {type(value).__name__}")

    def __repr__(self) -> str:
        return "<ProxyCredentials>"
