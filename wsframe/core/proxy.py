"""Proxies: one proxy's address and credentials, and by which of them a URI is reached.

The keys of a mapping are those that apply to WebSockets: `ws`, `wss` and `all`, each alone or with
a host (`wss://example.org`). A mapping that has `http` or `https` is refused, because where such a
one is accepted its users go direct without noticing. The environment is looked at only by
`from_environment`, and only at what it is given.

The answer is a `Route`: the ways to try in order, each a chain of proxies, and why.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass, replace
from enum import Enum
from typing import Any, Final, Literal, get_args
from urllib.parse import quote, unquote

from wsframe.core.credentials import ProxyCredentials
from wsframe.core.http import Headers, HeadersLike
from wsframe.core.no_proxy import Host, NoProxy, canonical_host
from wsframe.core.uri import (
    WebSocketURI,
    basic_credentials,
    format_host_port,
    split_authority,
    to_ascii_host,
)
from wsframe.errors import InvalidHeader, InvalidProxy

__all__ = [
    "FROM_ENVIRONMENT",
    "MAX_HOPS",
    "SAID_BY_CONNECT",
    "Auth",
    "CredentialsSource",
    "Failover",
    "FromEnvironment",
    "Hop",
    "Proxies",
    "Proxy",
    "ProxySettings",
    "Route",
    "Rule",
    "Way",
    "from_environment",
]

MAX_HOPS: Final = 8
"""Proxies in one chain. Every hop costs a round trip or more, and nobody is known to need half as
many; a chain that a program extends by itself stops here and not at the end of memory."""

SAID_BY_CONNECT: Final = frozenset(
    {"host", "proxy-authorization", "content-length", "transfer-encoding"}
)
"""Header names, in lower case, that a CONNECT says itself and nobody adds to it."""

_PORTS: Final = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}
_HTTP: Final = frozenset({"http", "https"})
_SOCKS4: Final = frozenset({"socks4", "socks4a"})
_RESOLVE_HERE: Final = frozenset({"socks4", "socks5"})
_KINDS: Final = "a proxy's scheme is http, https, socks4, socks4a, socks5 or socks5h"
_KEYS: Final = ("ws", "wss", "all")
_HOST_KEY: Final = re.compile(r"(?P<scheme>wss?|all)://(?P<authority>[^/?#@]+)/?", re.IGNORECASE)
_QUOTABLE_KEY: Final = re.compile(r"[A-Za-z0-9_+.-]{0,40}(://[A-Za-z0-9.:*\[\]-]{0,253}/?)?")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_FORBIDDEN_INSIDE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SOCKET: Final = re.compile(r"[^/?#@:\[\]]+")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_LONGEST_SOCKS_FIELD: Final = 255  # bytes; RFC 1929 §2 counts them in one
_LONGEST_PATH: Final = 107  # bytes; sun_path on Linux, less the NUL (unix(7))


Auth = Literal["negotiate", "ntlm"]
"""A scheme of authentication that is used only where it is asked for."""

CredentialsSource = Callable[
    ["Proxy"], ProxyCredentials | Awaitable[ProxyCredentials | None] | None
]
"""What is asked for a proxy's credentials before each tunnel; None is for none."""


@dataclass(frozen=True, repr=False)
class Proxy:
    """One proxy: HTTP (CONNECT, RFC 9110 §9.3.6), HTTP within TLS, SOCKS4, 4a, 5 or 5h.

    `host` is as in `WebSocketURI`. `scheme` is the kind; under "socks4" and "socks5" names are
    resolved here, under all others by the proxy. `user` and `password` are decoded; None when
    there are none. In place of them an HTTP proxy can have a bearer `token` (RFC 6750).

    `headers` are added to the CONNECT of an HTTP proxy. `via` is the proxy through which this
    one is reached, and so on, up to `MAX_HOPS`. `path` is the absolute path of the Unix socket
    on which the proxy listens; then the port says nothing, and the host is no more than the name
    in the certificate of an https proxy.

    `credentials`, in place of user, password and token, is called with this Proxy before each
    tunnel, and returns `ProxyCredentials`, or None for none, or a coroutine, Deferred or other
    awaitable of these. So a token that lives shortly is fresh, and what a proxy refused is asked
    for anew with the next attempt. The call must not block; what is awaited is within the deadline
    of the attempt, and cancelled with it. What it raises ends the attempt, before anything is sent,
    as `ProxyCredentialsFailed`, which names the exception's type and not its text. The callable is
    compared and hashed with the Proxy.

    `auth` is the scheme for an HTTP proxy, "negotiate" (RFC 4559) or "ntlm", and takes the extra
    `wsframe[negotiate]`. None is what the proxy asks for of Bearer, Digest and Basic, never these
    two. With "negotiate", Kerberos takes the ticket of whoever runs this program where there is no
    user, that of the user where there is no password; with a password it may come to NTLM. NTLM
    takes both; a domain stands before the user's name with a backslash. Nothing is sent before the
    proxy has asked, and a proxy that asks for another scheme gets nothing.

    `str()` and `repr()` show no credentials, the user's name among them: with some proxies it is
    the key. Nor do they show headers.

    Raises `InvalidProxy`.
    """

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    scheme: str = "http"
    _: KW_ONLY
    token: str | None = None
    headers: HeadersLike = ()
    via: Proxy | None = None
    path: str | None = None
    credentials: CredentialsSource | None = None
    auth: Auth | None = None

    def __post_init__(self) -> None:
        if self.scheme not in _PORTS:
            raise InvalidProxy(_KINDS)
        if not 0 < self.port < 65536:
            raise InvalidProxy(f"a proxy's port is from 1 to 65535, not {self.port}")
        # Errors are raised outside of the handlers: what they would hang on to quotes its input.
        host = ""
        with suppress(ValueError):
            host = to_ascii_host(self.host)
        if not host:
            raise InvalidProxy("the proxy has a malformed host")
        object.__setattr__(self, "host", host)
        self._check_source()
        self._check_credentials()
        self._check_auth()
        self._check_headers()
        self._check_path()
        self._check_via()

    def _check_credentials(self) -> None:
        if self.user is None and self.password is not None:
            raise InvalidProxy("the proxy has a password and no user name")
        if self.token is not None:
            if self.user is not None:
                raise InvalidProxy("the proxy has a token and a user name; it takes one of them")
            if self.scheme not in _HTTP:
                raise InvalidProxy("a token is for http and https proxies; SOCKS has none")
            if not _TOKEN.fullmatch(self.token):
                raise InvalidProxy("the proxy's token is malformed (RFC 6750 §2.1)")
        elif self.scheme in _HTTP:
            wrong = ""
            try:
                basic_credentials(self.user or "", self.password or "")
            except ValueError as error:
                wrong = str(error)
            if wrong:
                raise InvalidProxy(f"the proxy {wrong}")
        else:
            self._check_socks_credentials()

    def _check_source(self) -> None:
        if self.credentials is None:
            return
        if not callable(self.credentials):
            raise TypeError(f"credentials is a callable, not {type(self.credentials).__name__}")
        hashable = True
        try:
            hash(self.credentials)
        except TypeError:
            hashable = False
        if not hashable:
            raise TypeError("credentials is a callable that can be hashed, as a Proxy can")
        if not (self.user is None and self.password is None and self.token is None):
            raise InvalidProxy("the proxy has credentials and a callable for them; it takes one")

    def _check_auth(self) -> None:
        if self.auth is None:
            return
        if self.auth not in get_args(Auth):
            raise InvalidProxy("a proxy's auth is 'negotiate', 'ntlm' or None")
        if self.scheme not in _HTTP:
            raise InvalidProxy("auth is for http and https proxies; SOCKS has none of these")
        if self.token is not None:
            raise InvalidProxy(f"auth={self.auth!r} takes a user name and password, and no token")
        if self.auth == "ntlm" and self.credentials is None and self.password is None:
            raise InvalidProxy("auth='ntlm' takes a user name and password")

    def _check_socks_credentials(self) -> None:
        if self.user is None:
            return
        secrets = [self.user]
        if self.scheme not in _SOCKS4:
            secrets.append(self.password or "")
        elif self.password is not None:
            raise InvalidProxy("SOCKS4 has a user name and no password; SOCKS5 has both")
        for secret in secrets:
            if _FORBIDDEN_INSIDE.search(secret):
                raise InvalidProxy("the proxy has a control character in the credentials")
            if not 0 < len(secret.encode()) <= _LONGEST_SOCKS_FIELD:
                raise InvalidProxy(
                    "SOCKS has user name and password of 1 to 255 bytes each (RFC 1929 §2)"
                )

    def _check_headers(self) -> None:
        wrong = ""
        try:
            headers = Headers(self.headers)
        except InvalidHeader as error:
            wrong = str(error)
        if wrong:
            raise InvalidProxy(f"the proxy's headers: {wrong}")
        if headers and self.scheme not in _HTTP:
            raise InvalidProxy("headers are for http and https proxies; SOCKS has none")
        for name in headers:
            if name == "proxy-authorization":
                raise InvalidProxy("Proxy-Authorization is made of user and password, or token")
            if name in SAID_BY_CONNECT:
                raise InvalidProxy(f"the header {name!r} is said by the CONNECT itself")
        object.__setattr__(self, "headers", headers.pairs)

    def _check_path(self) -> None:
        if self.path is None:
            return
        if not self.path.startswith("/") or self.path.endswith("/"):
            raise InvalidProxy("the path of a proxy's Unix socket is absolute and names a file")
        if _FORBIDDEN_INSIDE.search(self.path):
            raise InvalidProxy("the path of the proxy's Unix socket has a control character")
        if len(self.path.encode()) > _LONGEST_PATH:
            raise InvalidProxy(
                f"the path of the proxy's Unix socket has more than {_LONGEST_PATH} bytes"
            )

    def _check_via(self) -> None:
        if self.via is None:
            return
        if not isinstance(self.via, Proxy):
            raise TypeError(f"via is a Proxy, not {type(self.via).__name__}")
        if self.path is not None:
            raise InvalidProxy("a Unix socket is not reached through another proxy")
        if "%" in self.host:
            raise InvalidProxy("the zone of the address means nothing to the proxy before it")
        if ":" in self.host and self.via.scheme in _SOCKS4:
            raise InvalidProxy("the proxy has an IPv6 address, and SOCKS4 before it knows none")
        if len(self.hops) > MAX_HOPS:
            raise InvalidProxy(f"the chain has more than {MAX_HOPS} proxies")

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        token: str | None = None,
        headers: HeadersLike = (),
        via: Proxy | None = None,
        credentials: CredentialsSource | None = None,
        auth: Auth | None = None,
    ) -> Proxy:
        """Return the proxy of a URL such as http://user:password@host:8080.

        The port may be left out when it is the scheme's own: 80, 443 or 1080. Credentials are
        percent-decoded. The other arguments are the fields of those names.

        A proxy on a Unix socket has the path, percent-encoded, in the place of the host:
        http+unix://%2Frun%2Fproxy.sock, and likewise with every other scheme. Of the spellings
        in use this one is a URL to everybody. What curl and git take for SOCKS is understood too:
        socks5h://localhost/run/proxy.sock.

        Raises `InvalidProxy`; its text never repeats the URL, which may hold a password.
        """
        if not isinstance(url, str):
            raise TypeError(f"a proxy is a URL or a Proxy, not {type(url).__name__}")
        if _FORBIDDEN.search(url):
            raise InvalidProxy("the proxy URL has a blank or a control character")
        scheme, colon, rest = url.partition("://")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise InvalidProxy("the proxy URL has no scheme; it begins with http://")
        scheme, plus, transport = scheme.lower().partition("+")
        if scheme == "socks":
            raise InvalidProxy("socks:// does not say which; write socks5h:// or socks4a://")
        if scheme not in _PORTS or (plus and transport != "unix"):
            raise InvalidProxy(f"{_KINDS}, with +unix behind it for a Unix socket")
        info, at, where = rest.rpartition("@")
        path: str | None = None
        if plus:
            where, path = "localhost", _socket_path(where.removesuffix("/"))
        else:
            authority, slash, tail = where.partition("/")
            if tail and scheme not in _HTTP and authority.lower() == "localhost":
                where, path = authority, _socket_path(quote(f"/{tail}", safe="%?#"))
            elif slash and not tail:
                where = authority
        if any(mark in info + where for mark in "/?#"):
            raise InvalidProxy(
                "a proxy URL has no path, query or fragment;"
                " in its credentials, '/', '?' and '#' are percent-encoded"
            )
        user, password = _credentials(info) if at else (None, None)
        wrong = ""
        try:
            _, _, host, port = split_authority(where)
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise InvalidProxy(f"the proxy URL {wrong}")
        return cls(
            host,
            _PORTS[scheme] if port is None else port,
            user,
            password,
            scheme,
            token=token,
            headers=headers,
            via=via,
            path=path,
            credentials=credentials,
            auth=auth,
        )

    def with_credentials(self, given: ProxyCredentials | None) -> Proxy:
        """Return this proxy with what its callable gave, in place of the callable.

        Raises `InvalidProxy` when it is nothing for a proxy of this kind.
        """
        given = given or ProxyCredentials()
        user, password, token = given.user, given.password, given.token
        return replace(self, user=user, password=password, token=token, credentials=None)

    @property
    def hops(self) -> Way:
        """The proxies on the way, the one that is connected to first, this one last."""
        hops = []
        proxy: Proxy | None = self
        while proxy is not None:
            hops.append(proxy)
            proxy = proxy.via
        return tuple(reversed(hops))

    @property
    def resolves(self) -> bool:
        """Whether the proxy is given names; if not, it is given addresses, looked up here."""
        return self.scheme not in _RESOLVE_HERE

    def __str__(self) -> str:
        """Return the proxy's own URL, without credentials and without what it is reached by."""
        if self.path is not None:
            return f"{self.scheme}+unix://{quote(self.path, safe='')}"
        return f"{self.scheme}://{format_host_port(self.host, self.port)}"

    def __repr__(self) -> str:
        return f"<Proxy {_way_text(self.hops)}>"


Way = tuple[Proxy, ...]
"""The proxies of one chain, the one that is connected to first; empty: direct."""


def _way_text(way: Way) -> str:
    return " > ".join(str(proxy) for proxy in way) or "direct"


def _credentials(info: str) -> tuple[str, str | None]:
    first, colon, second = info.partition(":")
    user, password = unquote(first), unquote(second) if colon else None
    if "\ufffd" in user + (password or ""):
        raise InvalidProxy("the proxy URL has credentials that are not UTF-8")
    return user, password


def _socket_path(text: str) -> str:
    if not _SOCKET.fullmatch(text):
        raise InvalidProxy(
            "the path of a proxy's Unix socket is percent-encoded: http+unix://%2Frun%2Fproxy.sock"
        )
    path = unquote(text)
    if "\ufffd" in path:
        raise InvalidProxy("the path of the proxy's Unix socket is not UTF-8")
    return path


class FromEnvironment(Enum):
    """The type of `FROM_ENVIRONMENT`."""

    FROM_ENVIRONMENT = "FROM_ENVIRONMENT"

    def __repr__(self) -> str:
        return self.value


FROM_ENVIRONMENT: Final = FromEnvironment.FROM_ENVIRONMENT
"""Given as `proxies=`: what the environment says; see `from_environment`."""

_One = str | Proxy | Sequence[str | Proxy] | None

Proxies = str | Proxy | Sequence[str | Proxy] | Mapping[str, _One] | FromEnvironment | None
"""A URL or Proxy for everything, a list of them to try in order, or a mapping; None: direct."""

Rule = Literal["no_proxy", "key", "variable", "option", "socket", "default"]
"""What decided a route: a NO_PROXY list, a key of `proxies=`, an environment variable, an option
of a command, that the server is on a Unix socket of this machine, or nothing."""


@dataclass(frozen=True)
class Hop:
    """One step on a way: what is connected to, and who looks up its name.

    `to` is a proxy's URL without credentials, or the target as host:port. `lookup` is "here",
    "proxy" (then `by` is that proxy's URL), or "none": an address or a Unix socket.
    """

    to: str
    lookup: Literal["here", "proxy", "none"]
    by: str | None = None

    def __str__(self) -> str:
        who = {"here": "name resolved here", "proxy": f"name resolved by {self.by}"}
        return f"{self.to} ({who[self.lookup]})" if self.lookup in who else self.to


@dataclass(frozen=True)
class Route:
    """How a URI is reached, and why so.

    `ways` are to be tried in order; each is a tuple of proxies, the one that is connected to
    first, and the empty tuple is the direct way. There is always one, and a direct one only
    alone: no failure leads past the proxies.

    `rule` is what decided, `name` the key, variable or option, or the name of the NO_PROXY list,
    and `entry` the entry of that list. `notes` are what was passed over in the settings.
    `unix_path` is the Unix socket that the server listens on, None for TCP.
    """

    scheme: str
    host: str
    port: int
    ways: tuple[Way, ...] = ((),)
    rule: Rule = "default"
    name: str | None = None
    entry: str | None = None
    notes: tuple[str, ...] = ()
    unix_path: str | None = None

    @property
    def direct(self) -> bool:
        """Whether no proxy is used."""
        return self.ways == ((),)

    @property
    def why(self) -> str:
        """What decided, in words."""
        return {
            "no_proxy": f"the entry {self.entry!r} of {self.name}",
            "key": f"the key {self.name!r} of the proxies given",
            "variable": f"the environment variable {self.name}",
            "option": f"the option {self.name}",
            "socket": "the server is on a Unix socket, to which no proxy leads",
            "default": "no proxy is set for it",
        }[self.rule]

    def hops(self, way: Way) -> tuple[Hop, ...]:
        """Return the steps of a way, to the target itself."""
        return tuple(self._hops(way))

    def _hops(self, way: Way) -> Iterator[Hop]:
        before: Proxy | None = None
        for proxy in way:
            yield _hop(str(proxy), None if proxy.path is not None else proxy.host, before)
            before = proxy
        if self.unix_path is not None:
            yield Hop(self.unix_path, "none")
        else:
            yield _hop(format_host_port(self.host, self.port), self.host, before)

    def explain(self) -> str:
        """Return the whole in words, a line for each way and each note; without credentials."""
        target = f"{self.scheme}://{format_host_port(self.host, self.port)}"
        if self.unix_path is not None:
            target = f"{self.scheme}+unix://{quote(self.unix_path, safe='')}"
        count = len(self.ways)
        how = "direct" if self.direct else f"{count} way{'s, in order' if count > 1 else ''}"
        lines = [f"{target}: {how}, because of {self.why}"]
        if self.rule in {"default", "socket"}:
            lines = [f"{target}: {how}, because {self.why}"]
        lines += [
            f"  {number}. {' > '.join(str(hop) for hop in self.hops(way))}"
            for number, way in enumerate(self.ways, 1)
        ]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the whole as JSON knows it: each way as the list of its hops; no credentials."""
        return {
            "scheme": self.scheme,
            "host": self.host,
            "port": self.port,
            "direct": self.direct,
            "rule": self.rule,
            "name": self.name,
            "entry": self.entry,
            "why": self.why,
            "ways": [[asdict(hop) for hop in self.hops(way)] for way in self.ways],
            "notes": list(self.notes),
        }


def _compared(host: str) -> Host:
    """Return the host as keys are compared with it; a URI made by hand may have any."""
    try:
        return canonical_host(host)
    except ValueError:
        return host


def _hop(to: str, host: str | None, before: Proxy | None) -> Hop:
    """Return the step to what is at `host` (None: a Unix socket), asked of the proxy before."""
    if host is None or not isinstance(_compared(host), str):
        return Hop(to, "none")
    if before is None or not before.resolves:
        return Hop(to, "here")
    return Hop(to, "proxy", str(before))


@dataclass(frozen=True)
class _Choice:
    """What one key or variable says. `wrong` is why it cannot be used."""

    name: str
    ways: tuple[Way, ...]
    wrong: str = ""

    def __str__(self) -> str:
        if self.wrong:
            return f"{self.name}=invalid"
        return f"{self.name}={' | '.join(_way_text(way) for way in self.ways)}"


_Key = tuple[str, Host | None, int | None]
"""The scheme or "all", and the host and port to which a key is limited."""


class ProxySettings:
    """The proxies set once for a client, and the choice among them for each URI.

    `proxies` is a URL or a `Proxy` for everything, a list of them to be tried in order, None, or
    a mapping of such values. Its keys, those that go first at the top:

    - "wss://example.org:8443" or "wss://example.org" (or with ws) for one host,
    - "all://example.org:8443" or "all://example.org",
    - "wss" or "ws",
    - "all".

    The host is matched exactly, not with what is below it, in any spelling: case, IDNA, a
    trailing dot, an IPv6 address (in brackets). A value of None says "direct" and ends the
    search. Every value is parsed when the settings are made.

    `no_proxy` is a list of hosts reached without a proxy, whatever the keys say; as a text it is
    read by `NoProxy.parse`.

    `failover` remembers which ways failed lately, for everything that uses these settings.

    Raises `InvalidProxy`.
    """

    __slots__ = ("_by_key", "_no_proxy", "_no_proxy_name", "_notes", "_rule", "failover")

    def __init__(self, proxies: Proxies = None, *, no_proxy: str | NoProxy | None = None) -> None:
        if isinstance(proxies, FromEnvironment):
            raise TypeError("FROM_ENVIRONMENT is resolved with from_environment(os.environ)")
        given: Mapping[str, _One]
        if proxies is None:
            given = {}
        elif isinstance(proxies, Mapping):
            given = proxies
        else:
            given = {"all": proxies}
        by_key: dict[_Key, _Choice] = {}
        for name, value in _checked_keys(given):
            key = _key(name)
            if key in by_key:
                raise InvalidProxy(f"the keys {by_key[key].name!r} and {name!r} are the same")
            by_key[key] = _Choice(name, _ways(value))
        self._set("key", by_key, no_proxy, "no_proxy", ())

    def _set(
        self,
        rule: Rule,
        by_key: dict[_Key, _Choice],
        no_proxy: str | NoProxy | None,
        no_proxy_name: str,
        notes: tuple[str, ...],
    ) -> None:
        if not isinstance(no_proxy, NoProxy):
            no_proxy = NoProxy.parse(no_proxy or "")
        self.failover = Failover()
        self._rule = rule
        self._by_key = by_key
        self._no_proxy = no_proxy
        self._no_proxy_name = no_proxy_name
        passed_over = (f"{no_proxy_name}: {ignored}; passed over" for ignored in no_proxy.ignored)
        self._notes = (*notes, *passed_over)

    def choose(self, uri: WebSocketURI) -> Route:
        """Return the route to the URI.

        Raises `InvalidProxy` when it is decided by an environment variable that is malformed.
        """
        ways: tuple[Way, ...] = ((),)
        rule: Rule = "default"
        name: str | None = None
        if uri.unix_path is not None:  # on this machine: no proxy leads there
            path = uri.unix_path
            return Route(uri.scheme, uri.host, uri.port, rule="socket", unix_path=path)
        entry = self._no_proxy.matches(uri.host, uri.port)
        if entry is not None:
            rule, name = "no_proxy", self._no_proxy_name
        else:
            choice = self._decide(uri)
            if choice is not None:
                if choice.wrong:
                    raise InvalidProxy(choice.wrong)
                ways, rule, name = choice.ways, self._rule, choice.name
        return Route(uri.scheme, uri.host, uri.port, ways, rule, name, entry, self._notes)

    def _decide(self, uri: WebSocketURI) -> _Choice | None:
        host = _compared(uri.host)
        schemes = (uri.scheme, "all")
        keys: list[_Key] = [(s, host, port) for s in schemes for port in (uri.port, None)]
        keys += [(s, None, None) for s in schemes]
        return next((self._by_key[key] for key in keys if key in self._by_key), None)

    def __repr__(self) -> str:
        routes = ", ".join(str(choice) for choice in self._by_key.values()) or "direct"
        if self._no_proxy.rules:
            routes += f", but {len(self._no_proxy.rules)} entries in {self._no_proxy_name}"
        return f"<ProxySettings {routes}>"


def _checked_keys(given: Mapping[str, _One]) -> list[tuple[str, _One]]:
    """Return the items; the error names the keys that apply to WebSockets."""
    unknown = [
        repr(key) if _QUOTABLE_KEY.fullmatch(str(key)) else "(not shown)"
        for key in given
        if key not in _KEYS and not _HOST_KEY.fullmatch(str(key))
    ]
    if unknown:
        raise InvalidProxy(
            f"the keys {', '.join(unknown)} do not apply to WebSockets;"
            " use 'ws', 'wss' or 'all', or for one host 'wss://example.org'"
        )
    return list(given.items())


def _key(name: str) -> _Key:
    found = _HOST_KEY.fullmatch(name)
    if found is None:
        return name, None, None
    host: Host = ""
    with suppress(ValueError):
        _, _, text, port = split_authority(found["authority"])
        host = canonical_host(text)
    if not host:
        raise InvalidProxy("a key of the proxies has a malformed host or port")
    return found["scheme"].lower(), host, port


def _ways(value: _One) -> tuple[Way, ...]:
    if value is None:
        return ((),)
    if isinstance(value, list | tuple):
        if not value:
            raise InvalidProxy("an empty list of proxies says neither which nor direct (None)")
        if None in value:
            raise InvalidProxy("a list of proxies has no None: no failure leads past the proxies")
        return tuple(_proxy(each).hops for each in value)
    return (_proxy(value).hops,)


def _proxy(value: object) -> Proxy:
    # Proxy.parse refuses what is neither, with a TypeError.
    return value if isinstance(value, Proxy) else Proxy.parse(value)  # type: ignore[arg-type]


_VARIABLES: Final = {
    "wss": ("wss_proxy", "https_proxy", "all_proxy"),
    "ws": ("ws_proxy", "http_proxy", "all_proxy"),
}


def from_environment(environ: Mapping[str, str]) -> ProxySettings:
    """Return the settings that an environment, such as `os.environ`, holds.

    For wss:// the first that is set of `wss_proxy`, `https_proxy` and `all_proxy`, for ws:// of
    `ws_proxy`, `http_proxy` and `all_proxy`; `no_proxy` lists the hosts reached directly. Of
    each name the lower-case spelling goes before the upper-case one. An empty value is as none.
    A value without a scheme ("proxy:3128") is an HTTP proxy.

    Where REQUEST_METHOD is set, a web server runs this process for a request (CGI) and puts the
    request's headers into variables named HTTP_…: there `HTTP_PROXY` is a client's "Proxy:"
    header, and is passed over (CVE-2016-5385). No other name here can be made by a header:
    HTTPS_PROXY, ALL_PROXY, WS_PROXY and NO_PROXY do not begin with HTTP_, and lower case is not
    what a server makes. Where variables have no case (Windows), `http_proxy` is HTTP_PROXY too.

    A variable that is malformed is `InvalidProxy` when it decides a URI's route, raised by
    `choose`: others may be meant for other programs. The error names the variable and not its
    value, which may hold a password.
    """
    # The names as they are stored: to look one up would not tell case on Windows.
    stored = {name: value for name, value in environ.items() if value.strip()}
    notes: tuple[str, ...] = ()
    if "REQUEST_METHOD" in list(environ) and "HTTP_PROXY" in stored:
        del stored["HTTP_PROXY"]
        notes = ("HTTP_PROXY: may be a request's header, as REQUEST_METHOD is set; passed over",)
    by_key: dict[_Key, _Choice] = {}
    for scheme, variables in _VARIABLES.items():
        name = _first_set(stored, variables)
        if name is not None:
            by_key[scheme, None, None] = _variable(name, stored[name])
    settings = ProxySettings()
    no_proxy = _first_set(stored, ("no_proxy",)) or "no_proxy"
    settings._set("variable", by_key, stored.get(no_proxy), no_proxy, notes)
    return settings


def _first_set(stored: Mapping[str, str], variables: tuple[str, ...]) -> str | None:
    spellings = (name for each in variables for name in (each, each.upper()))
    return next((name for name in spellings if name in stored), None)


def _variable(name: str, value: str) -> _Choice:
    try:
        proxy = Proxy.parse(value if "://" in value else f"http://{value}")
    except InvalidProxy as error:
        return _Choice(name, (), f"the environment variable {name}: {error}")
    return _Choice(name, (proxy.hops,))


class Failover:
    """Which ways failed lately; so that a proxy that is down is not waited for every time.

    A way that failed goes behind the others for `retry_after` seconds, and then has its old
    place again: the first proxy is returned to when it may have recovered. Nothing is ever left
    out, so when all have failed, all are tried. The default of 60 s: a dead proxy costs one
    attempt's time a minute, and a recovered one is idle for a minute at most.

    At most `max_remembered` failures are kept, the latest ones; 256 is far more than the
    proxies that anybody writes into a configuration.

    `now` is in seconds on a clock that does not go back.
    """

    __slots__ = ("_max", "_retry_after", "_until")

    def __init__(self, *, retry_after: float = 60.0, max_remembered: int = 256) -> None:
        if not 0 < retry_after <= 366 * 24 * 3600:  # NaN is neither
            raise ValueError(f"retry_after is above 0 and at most a year, not {retry_after}")
        if max_remembered < 1:
            raise ValueError(f"max_remembered is at least 1, not {max_remembered}")
        self._retry_after = retry_after
        self._max = max_remembered
        self._until: dict[Way, float] = {}

    def order(self, ways: Sequence[Way], now: float) -> tuple[Way, ...]:
        """Return the ways in the order in which to try them now."""
        # Of those that failed, the one that failed first may be back first.
        return tuple(sorted(ways, key=lambda way: max(self._until.get(way, now) - now, 0.0)))

    def failed(self, way: Way, now: float) -> None:
        """Note that a way did not lead to the target because of a proxy on it."""
        self._until.pop(way, None)
        self._until[way] = now + self._retry_after
        while len(self._until) > self._max:
            del self._until[next(iter(self._until))]

    def worked(self, way: Way) -> None:
        """Note that a way led to the target."""
        self._until.pop(way, None)

    def __repr__(self) -> str:
        return f"<Failover {len(self._until)} failed>"
