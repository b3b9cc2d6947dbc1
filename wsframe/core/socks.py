"""The handshakes with SOCKS proxies: SOCKS4, SOCKS4a, SOCKS5 (RFC 1928, RFC 1929).

The proxy's scheme says who looks the target's name up. Under `socks4` and `socks5` it is this side,
beforehand: the handshake takes an address. Under `socks4a` and `socks5h` it is the proxy, and the
name goes to it as it is. What does not fit is an error before a byte is sent; there is no way from
one to the other, for it would tell the local name service what only the proxy was to know
(CVE-2023-38545).

Each handshake is a script, a generator that reads like the RFC: it yields what to send and how many
bytes of the answer it wants next, and it ends when the tunnel is open.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from inspect import GEN_CLOSED, getgeneratorstate
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from wsframe.core.proxy import Proxy
from wsframe.core.tunnel import Step
from wsframe.core.uri import format_host_port, to_ascii_host
from wsframe.errors import (
    BadProxyAnswer,
    InvalidProxy,
    ProxyAuthRefused,
    ProxyAuthRequired,
    ProxyError,
    ProxyRefused,
    TargetUnreachable,
)

__all__ = ["SOCKS4", "SOCKS5"]

_CONNECT: Final = 1
_LONGEST: Final = 255
"""Bytes of a name, user name or password; its length is one byte (RFC 1928 §5, RFC 1929 §2)."""

_GRANTED_4: Final = 90
_REFUSALS_4: Final = {
    91: "refused or failed",
    92: "it cannot ask identd on this host",
    93: "identd on this host names another user",
}

_IPV4, _NAME, _IPV6 = 1, 3, 4
_NO_AUTH, _USER_PASSWORD, _NO_METHOD = 0, 2, 0xFF
_REFUSALS_5: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
_UNREACHABLE_5: Final = frozenset({3, 4, 5, 6})

_Script = Generator[tuple[bytes, int], bytes, str]
"""It returns how the proxy agreed."""


@dataclass(frozen=True)
class _Talk:
    """Who talks to whom about what, for the text of errors."""

    protocol: str
    proxy: str
    target: str

    def bad(self, text: str) -> BadProxyAnswer:
        return BadProxyAnswer(f"{self.proxy}: {text}", proxy=self.proxy)

    def auth(self, kind: type[ProxyError], text: str) -> ProxyError:
        return kind(f"{self.proxy} {text}", proxy=self.proxy)

    def refusal(self, kind: type[ProxyError], code: int, meaning: str | None) -> ProxyError:
        said = f"{meaning or 'no known reason'} ({self.protocol} code {code})"
        text = f"{self.proxy} opens no tunnel to {self.target}: {said}"
        return kind(text, proxy=self.proxy, code=code)


class _Handshake:
    """What the versions have in common: bytes are held until the script's next share is there."""

    __slots__ = ("_held", "_script", "_talk", "_wanted", "request")

    def __init__(self, talk: _Talk, script: _Script) -> None:
        self._talk = talk
        self._script = script
        self._held = bytearray()
        self.request, self._wanted = next(script)

    def refusal(self) -> None:
        """Return None: the code of a refusal comes in two bytes, and ends it."""

    def receive(self, data: bytes) -> Step:
        """Take the proxy's bytes in (`b""`: the end); return what follows from them."""
        if getgeneratorstate(self._script) == GEN_CLOSED:
            raise RuntimeError("the handshake is over")
        if not data:
            self._script.close()
            raise self._talk.bad("the connection ended before the answer was complete")
        self._held += data
        send = b""
        while len(self._held) >= self._wanted:
            share = bytes(self._held[: self._wanted])
            del self._held[: self._wanted]
            try:
                more, self._wanted = self._script.send(share)
            except StopIteration as agreed:
                return Step(send, bytes(self._held), detail=agreed.value)
            send += more
        return Step(send)


class SOCKS4(_Handshake):
    """One CONNECT through one SOCKS4 or SOCKS4a proxy: a `TunnelHandshake`.

    `proxy` has the scheme `socks4`, and `host` is an IPv4 address, or `socks4a`, and `host` is a
    name or an IPv4 address. There is no IPv6. The proxy's user name is sent as the user id; there
    is no password.

    Raises `InvalidProxy` for credentials that cannot be sent, ValueError for the rest. `receive`
    raises `ProxyError` of the fitting kind. The protocol has no RFC; its description is
    https://www.openssh.org/txt/socks4.protocol, that of the extension socks4a.protocol there.
    """

    __slots__ = ()

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        target = _check_target(proxy, ("socks4", "socks4a"), host, port)
        if isinstance(target, IPv6Address):
            raise ValueError("SOCKS4 has no IPv6; use SOCKS5, or an IPv4 address of the target")
        # 0.0.0.x announces a name to SOCKS4a: the proxy would wait for it for ever.
        if isinstance(target, IPv4Address) and target.packed[:3] == bytes(3) and target.packed[3]:
            raise ValueError("an address in 0.0.0.0/24 cannot be told to a SOCKS4 proxy")
        if proxy.password is not None:
            raise InvalidProxy("SOCKS4 has no password, only a user name; use SOCKS5")
        user = b"" if proxy.user is None else _credential(proxy.user, "user name")
        if 0 in user:
            raise InvalidProxy("the user name for a SOCKS4 proxy has a NUL")
        talk = _Talk("SOCKS4", str(proxy), format_host_port(str(target), port))
        if isinstance(target, str):
            address, name = bytes([0, 0, 0, 1]), target.encode("ascii") + b"\0"
        else:
            address, name = target.packed, b""
        request = bytes([4, _CONNECT]) + port.to_bytes(2, "big") + address + user + b"\0" + name
        super().__init__(talk, _script_4(talk, request, named=bool(user)))


def _script_4(talk: _Talk, request: bytes, *, named: bool) -> _Script:
    version, code = yield request, 2
    if version not in {0, 4}:  # 0 in the description, 4 in some servers
        raise talk.bad(f"the answer has version {version}, which is not SOCKS4's")
    if code == 93:
        kind = ProxyAuthRefused if named else ProxyAuthRequired
        raise talk.refusal(kind, code, _REFUSALS_4[code])
    if code != _GRANTED_4:
        raise talk.refusal(ProxyRefused, code, _REFUSALS_4.get(code))
    yield b"", 6  # a port and an address that mean nothing for CONNECT
    return "SOCKS4, user name" if named else "SOCKS4"


class SOCKS5(_Handshake):
    """One CONNECT through one SOCKS5 proxy (RFC 1928): a `TunnelHandshake`.

    `proxy` has the scheme `socks5`, and `host` is an address, or `socks5h`, and `host` is a name
    or an address. With a user name and a password, each of 1 to 255 bytes in UTF-8, the proxy may
    choose between them (RFC 1929) and no authentication; without, only the latter is offered.

    Raises `InvalidProxy` for credentials that cannot be sent, ValueError for the rest. `receive`
    raises `ProxyError` of the fitting kind.
    """

    __slots__ = ()

    def __init__(self, proxy: Proxy, host: str, port: int) -> None:
        target = _check_target(proxy, ("socks5", "socks5h"), host, port)
        login = None
        if proxy.user is not None:
            user = _credential(proxy.user, "user name")
            password = _credential(proxy.password or "", "password")
            login = bytes([1, len(user)]) + user + bytes([len(password)]) + password
        if isinstance(target, str):
            name = target.encode("ascii")
            address = bytes([_NAME, len(name)]) + name
        else:
            address = bytes([_IPV4 if target.version == 4 else _IPV6]) + target.packed
        request = bytes([5, _CONNECT, 0]) + address + port.to_bytes(2, "big")
        talk = _Talk("SOCKS5", str(proxy), format_host_port(str(target), port))
        super().__init__(talk, _script_5(talk, login, request))


def _script_5(talk: _Talk, login: bytes | None, request: bytes) -> _Script:
    offered = [_NO_AUTH] if login is None else [_NO_AUTH, _USER_PASSWORD]
    version, method = yield bytes([5, len(offered), *offered]), 2
    _check_version_5(talk, version)
    if method == _USER_PASSWORD and login is not None:
        version, status = yield login, 2
        login = None  # who shows the variables of a traceback shows no password
        if version not in {1, 5}:  # 1 in RFC 1929, 5 in some servers
            raise talk.bad(f"the answer to the password has version {version}, not 1")
        if status != 0:
            raise talk.auth(ProxyAuthRefused, "did not accept the user name and password")
    elif method == _USER_PASSWORD:
        raise talk.auth(ProxyAuthRequired, "asks for a user name and password")
    elif method == _NO_METHOD and login is None:
        raise talk.auth(ProxyAuthRequired, "asks for authentication")
    elif method == _NO_METHOD:
        text = "accepts no user name and password, and asks for other authentication"
        raise talk.auth(ProxyAuthRequired, text)
    elif method != _NO_AUTH:
        raise talk.bad(f"it chose authentication method {method}, which was not offered")
    # A refusal may be cut short behind its code; and the byte behind that one, which is reserved,
    # is not zero with every server.
    version, code = yield request, 2
    _check_version_5(talk, version)
    if code != 0:
        kind = TargetUnreachable if code in _UNREACHABLE_5 else ProxyRefused
        raise talk.refusal(kind, code, _REFUSALS_5.get(code))
    _, address = yield b"", 2
    if address == _NAME:
        (length,) = yield b"", 1
    elif address in {_IPV4, _IPV6}:
        length = 4 if address == _IPV4 else 16
    else:
        raise talk.bad(f"the answer has an address of the unknown type {address}")
    yield b"", length + 2  # the proxy's own address and port, of no use here
    return "SOCKS5, user name and password" if method == _USER_PASSWORD else "SOCKS5"


def _check_version_5(talk: _Talk, version: int) -> None:
    if version != 5:
        raise talk.bad(f"the answer has version {version}, which is not SOCKS5's")


def _check_target(
    proxy: Proxy, schemes: tuple[str, str], host: str, port: int
) -> IPv4Address | IPv6Address | str:
    """Return the target as an address, or as a name where the proxy is to look it up."""
    by_address, by_name = schemes
    if proxy.scheme not in schemes:
        raise ValueError(f"the proxy's scheme is {by_address} or {by_name}, not {proxy.scheme}")
    if not 0 < port < 65536:
        raise ValueError(f"the tunnel's target port is from 1 to 65535, not {port}")
    try:
        name = to_ascii_host(host)
    except ValueError:
        name = ""
    if not name or len(name) > _LONGEST:
        raise ValueError("the tunnel's target host is malformed or too long")
    if "%" in name:
        raise ValueError("the zone of an IPv6 address means nothing to a proxy (RFC 6874 §4)")
    if ":" in name:
        return IPv6Address(name)
    if name.replace(".", "").isdigit():  # to_ascii_host lets no name be taken for an address
        return IPv4Address(name)
    if proxy.scheme != by_name:
        raise ValueError(f"{by_address} takes an address; {by_name} lets the proxy look names up")
    return name


def _credential(text: str, what: str) -> bytes:
    # The error of encode() has the text in it: nothing is raised in the handler.
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = None
    if data is None:
        raise InvalidProxy(f"the {what} for a SOCKS proxy cannot be encoded in UTF-8")
    if not 0 < len(data) <= _LONGEST:
        raise InvalidProxy(f"the {what} for a SOCKS proxy has 1 to {_LONGEST} bytes in UTF-8")
    return data
