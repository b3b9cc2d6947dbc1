"""`tunnel:` descriptions: what they come to, and errors that repeat no password."""

from __future__ import annotations

import subprocess
import sys
import traceback
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin
from zope.interface.verify import verifyObject

from twisted.plugins import wsframe_plugins
from wsframe.endpoints.description import parse_tunnel


def described(description: str) -> Any:
    return clientFromString(MemoryReactorClock(), description)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (
            r"tunnel:example.com:443:proxy=http\://user\:pw@gw\:8080",
            "example.com:443 through http://gw:8080",
        ),
        (r"tunnel:host=h:port=22:proxy=socks5h\://gw", "h:22 through socks5h://gw:1080"),
        (r"tunnel:h:port=22:proxy=socks5h\://gw", "h:22 through socks5h://gw:1080"),
        (r"tunnel:\:\:1:443:proxy=http\://gw", "[::1]:443 through http://gw:80"),
        (r"tunnel:[\:\:1]:443:proxy=http\://gw", "[::1]:443 through http://gw:80"),
        (r"tunnel:h:443:proxy=http\://[2001\:db8\:\:1]\:8080", "through http://[2001:db8::1]:8080"),
        (r"tunnel:h:443:proxy=http+unix\://%2Frun%2Fp.sock", "through http+unix://%2Frun%2Fp.sock"),
        (r"tunnel:h:443:proxy=http\://a\:1 http\://b\:2", "h:443 by the first of 2 ways"),
        (r"tunnel:h:443:proxy=http\://u\:p=w@gw", "h:443 through http://gw:80"),
    ],
)
def test_description_is_an_endpoint(description: str, text: str) -> None:
    """Found by Twisted, as every kind of endpoint is."""
    assert text in repr(described(description))


def test_via_is_the_chain_by_which_each_proxy_is_reached() -> None:
    """The first to be connected to stands first, and before every proxy of the list."""
    endpoint = described(r"tunnel:h:443:via=socks5\://a https\://b:proxy=http\://c\:1 http\://d\:1")
    ways = list(endpoint._endpoint._ways)
    assert [[str(proxy) for proxy in way] for way in ways] == [
        ["socks5://a:1080", "https://b:443", "http://c:1"],
        ["socks5://a:1080", "https://b:443", "http://d:1"],
    ]


def test_environment_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked as for https://."""
    monkeypatch.setenv("https_proxy", "http://gw:3128")
    monkeypatch.setenv("no_proxy", "direct.example")
    monkeypatch.delenv("wss_proxy", raising=False)
    assert "through http://gw:3128" in repr(described("tunnel:h:443:proxy=environment"))
    assert "HostEndpoint" in repr(described("tunnel:direct.example:443:proxy=environment"))
    with pytest.raises(ValueError, match="has no proxy"):
        described("tunnel:h:443")


def test_timeout_is_seconds_and_30_when_it_is_not_said() -> None:
    given = described(r"tunnel:h:443:proxy=http\://gw:timeout=2.5")
    assert given._seconds == 2.5
    assert described(r"tunnel:h:443:proxy=http\://gw")._seconds == 30


def test_description_is_wrapped_by_twisteds_tls() -> None:
    """With one more level of escapes, which Twisted's own function makes."""
    inner = r"tunnel:h:443:proxy=http\://user\:pw@gw\:8080"
    quoted = quoteStringArgument(inner)
    assert quoted == r"tunnel\:h\:443\:proxy=http\\\://user\\\:pw@gw\\\:8080"
    wrapped = described(f"tls:h:443:endpoint={quoted}")
    assert "h:443 through http://gw:8080" in repr(wrapped._wrappedEndpoint)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (r"tunnel", "has no host"),
        (r"tunnel:", "has no host"),
        (r"tunnel:h", "has no port"),
        (r"tunnel:h::proxy=http\://gw", "has no port"),
        (r"tunnel:h:https:proxy=http\://gw", "port is a number"),
        (r"tunnel:h:0:proxy=http\://gw", "from 1 to 65535"),
        (r"tunnel:h:99999:proxy=http\://gw", "from 1 to 65535"),
        (r"tunnel:a b:443:proxy=http\://gw", "malformed host"),
        (r"tunnel:h:443:proxy=", "has no proxy"),
        (r"tunnel:h:443:proxy= ", "has no proxy"),
        (r"tunnel:h:443:host=h:proxy=http\://gw", "once each"),
        (r"tunnel:h:443:proxy=http://us3r:planted@gw:8080", "a colon in a value is written"),
        (r"tunnel:host=h:port=443:proxy=http://us3r:s3c=r3t@gw", "host, port, proxy, via"),
        (r"tunnel:h:443:proxy=http\://us3r:s3c=r3t@gw", "takes the names"),
        (r"tunnel:h:443:proxy=us3r\:planted@gw\:8080", "no scheme"),
        (r"tunnel:h:443:proxy=http\://us3r\:planted@gw\:port", "malformed host or port"),
        (r"tunnel:h:443:proxy=http\://gw:via=http\://us3r\:planted@\:1", "has no host"),
        (r"tunnel:h:443:proxy=environment:via=http\://us3r\:planted@gw", "via is for proxies"),
        (r"tunnel:h:443:proxy=http\://gw:timeout=planted", "number of seconds"),
        (r"tunnel:h:443:proxy=http\://gw:timeout=0", "number of seconds"),
        (r"tunnel:h:443:proxy=http\://gw:timeout=nan", "number of seconds"),
        (r"tunnel:h:443:proxy=http\://gw:timeout=inf", "at most a year"),
        (r"tunnel:h:443:proxy=http\://gw:reactor=planted:self=planted", "takes the names"),
    ],
)
def test_wrong_description_is_a_value_error_without_its_secrets(
    description: str, text: str
) -> None:
    """Not even those that a forgotten escape has put into another place."""
    with pytest.raises(ValueError, match=text) as caught:
        described(description)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("planted", "s3c", "r3t", "us3r"):
        assert secret not in shown


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(st.text() | st.sampled_from(["h", "::1", "443"]), max_size=3),
    st.dictionaries(
        st.sampled_from(["host", "port", "proxy", "via", "timeout"]) | st.text(),
        st.text() | st.sampled_from(["environment", "http://gw", "socks5h://u:p@gw http://b", "3"]),
    ),
)
def test_any_parts_give_an_endpoint_or_a_value_error(
    args: list[str], named: dict[str, str]
) -> None:
    """Whatever an operator writes."""
    with suppress(ValueError):
        endpoint = parse_tunnel(MemoryReactorClock(), *args, **named)
        assert IStreamClientEndpoint.providedBy(endpoint)


def test_plugin_is_what_twisted_looks_for() -> None:
    plugin = wsframe_plugins.tunnel_description
    for interface in (IPlugin, IStreamClientEndpointStringParserWithReactor):
        verifyObject(interface, plugin)
    assert plugin.prefix == "tunnel"
    made = plugin.parseStreamClient(MemoryReactorClock(), "h", "443", proxy="http://gw")
    assert "h:443 through http://gw:80" in repr(made)


def test_listing_the_plugins_imports_nothing_of_wsframe() -> None:
    """`twistd --help` and every other description stay as quick as they were."""
    code = (
        "import sys; import twisted.plugins.wsframe_plugins as plugins;"
        "assert plugins.tunnel_description.prefix;"
        "assert 'wsframe' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
