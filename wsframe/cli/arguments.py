"""The arguments that verbs have in common: URI, proxies, whom to trust, how long to wait."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from wsframe.core.proxy import Proxy, ProxySettings, Route, from_environment
from wsframe.core.uri import WebSocketURI, parse_uri
from wsframe.errors import InvalidProxy
from wsframe.options import DEFAULT_CLIENT_OPTIONS, ClientOptions
from wsframe.token_files import load_password

if TYPE_CHECKING:
    from wsframe.endpoints import TLSOptions

__all__ = [
    "Parser",
    "add_proxies",
    "add_timeout",
    "add_trust",
    "add_uri",
    "chosen_route",
    "proxy_settings",
    "proxy_tls",
    "tls",
    "value_of",
]

PROXIES: Final = """\
Without --proxy they are those of the environment: wss_proxy, https_proxy or all_proxy for wss://,
ws_proxy, http_proxy or all_proxy for ws://, and no_proxy. What stands in --proxy, a password too,
can be seen by all users of this machine; what stands in a variable or a private file cannot."""

T = TypeVar("T")

_USER_INFORMATION: Final = re.compile(r"(?<=://).*@|(?<!\S)[^\s/]*:[^\s/]*@", re.DOTALL)
_NEXT_HOP: Final = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""A comma before a scheme stands in no proxy URL: in the credentials, "/" is percent-encoded."""
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\n.+?\n-----END CERTIFICATE-----", re.DOTALL
)


class Parser(argparse.ArgumentParser):
    """argparse's, save that no error quotes credentials and that nothing is abbreviated."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **arguments,
        )

    def error(self, message: str) -> NoReturn:
        """Argparse: say what is wrong, and end; what it quotes may be a URL."""
        super().error(_USER_INFORMATION.sub("...@", message))


def value_of(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return what reads the value of an argument as `type=`; argparse would quote a wrong one."""

    def read_or_say(text: str) -> T:
        wrong = ""
        try:
            return read(text)
        except (ValueError, OSError) as error:
            wrong = str(error)
        raise argparse.ArgumentTypeError(wrong)

    return read_or_say


def _proxy(text: str) -> Proxy:
    first, *others = _NEXT_HOP.split(text)
    proxy = Proxy.parse(first)
    for url in others:
        proxy = Proxy.parse(url, via=proxy)
    return proxy


def _options(text: str) -> ClientOptions:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("it is not a number of seconds") from None
    return replace(DEFAULT_CLIENT_OPTIONS, open_timeout=seconds)


def _authorities(path: str) -> Any:
    # A third of a second, for OpenSSL and Twisted's side of it; few name authorities.
    from OpenSSL import crypto
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    certificates = _CERTIFICATE.findall(Path(path).read_text("ascii", "replace"))
    if not certificates:
        raise ValueError(f"{path} has no certificate (PEM)")
    try:
        return trustRootFromCertificates([Certificate.loadPEM(each) for each in certificates])
    except (crypto.Error, ValueError):
        raise ValueError(f"{path} has a malformed certificate") from None


def add_uri(parser: argparse.ArgumentParser) -> None:
    """Add the URI, as `uri`."""
    parser.add_argument(
        "uri", metavar="URI", type=value_of(parse_uri), help="ws://... or wss://..."
    )


def add_proxies(parser: argparse.ArgumentParser) -> None:
    """Add what says by which proxies a URI is reached: see `proxy_settings`."""
    group = parser.add_argument_group(
        "proxies",
        PROXIES,
    )
    group.add_argument(
        "--proxy",
        metavar="URL[,URL...]",
        action="append",
        type=value_of(_proxy),
        help="an http, https, socks4, socks4a, socks5 or socks5h proxy, or a chain of them, first "
        "the one that is connected to first; given again: the next to try when this one fails",
    )
    group.add_argument(
        "--proxy-auth-file",
        metavar="FILE",
        type=value_of(load_password),
        help="a private file (chmod 600) with the user:password for the one --proxy",
    )
    group.add_argument(
        "--no-proxy",
        metavar="LIST",
        help="hosts reached directly, as in the variable no_proxy, in place of that; '*' is all",
    )


def add_trust(parser: argparse._ActionsContainer) -> None:
    """Add whom TLS trusts: see `tls` and `proxy_tls`."""
    parser.add_argument(
        "--ca",
        metavar="FILE",
        type=value_of(_authorities),
        help="the authorities (PEM) to verify the server by [default: the system's]",
    )
    parser.add_argument(
        "--proxy-ca",
        metavar="FILE",
        type=value_of(_authorities),
        help="the authorities (PEM) to verify https proxies by [default: the system's]",
    )


def add_timeout(parser: argparse._ActionsContainer) -> None:
    """Add how long to wait; `client_options` are the options that say so."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        dest="client_options",
        type=value_of(_options),
        default=DEFAULT_CLIENT_OPTIONS,
        help=f"how long an opening may take [default: {DEFAULT_CLIENT_OPTIONS.open_timeout:g}]",
    )


def proxy_settings(
    options: argparse.Namespace, environ: Mapping[str, str] = os.environ
) -> ProxySettings:
    """Return the proxies that the arguments, or else the environment, say.

    Raises `InvalidProxy`.
    """
    proxies: list[Proxy] = options.proxy or []
    if options.proxy_auth_file is not None:
        if len(proxies) != 1 or proxies[0].via is not None:
            raise InvalidProxy("--proxy-auth-file is for one --proxy, and not for a chain")
        user, password = options.proxy_auth_file
        proxies = [replace(proxies[0], user=user, password=password)]
    if proxies:
        return ProxySettings(proxies, no_proxy=options.no_proxy)
    if options.no_proxy is not None:
        environ = {name: value for name, value in environ.items() if name.lower() != "no_proxy"}
        environ["no_proxy"] = options.no_proxy
    return from_environment(environ)


def chosen_route(options: argparse.Namespace, settings: ProxySettings) -> Route:
    """Return the route to the URI; what the arguments have decided has their names.

    Raises `InvalidProxy`.
    """
    uri: WebSocketURI = options.uri
    route = settings.choose(uri)
    if route.rule == "key":
        return replace(route, rule="option", name="--proxy")
    if route.rule == "no_proxy" and options.no_proxy is not None:
        return replace(route, name="--no-proxy")
    return route


def tls(options: argparse.Namespace) -> TLSOptions | None:
    """Return what verifies the server, None for the system's authorities."""
    if options.ca is None or not options.uri.secure:
        return None
    return _trusting(options.ca)


def proxy_tls(options: argparse.Namespace) -> TLSOptions | None:
    """Return what says how https proxies are verified, None for the system's authorities."""
    return None if options.proxy_ca is None else _trusting(options.proxy_ca)


def _trusting(authorities: Any) -> TLSOptions:
    # Half a second, for Autobahn and TLS, which is there already where a way is opened.
    from wsframe.endpoints import TLSOptions

    return TLSOptions(ca=authorities)
