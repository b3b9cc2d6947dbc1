"""NO_PROXY: which hosts an entry covers, and which entries are passed over."""

import ipaddress
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsframe.core.no_proxy import NoProxy, canonical_host

SEARCHED = settings(max_examples=200, deadline=None, database=None)

COVERED = [
    # names
    ("example.com", "example.com"),
    ("example.com", "www.example.com"),
    ("example.com", "a.b.example.com"),
    (".example.com", "www.example.com"),
    (".example.com", "example.com"),
    ("*.example.com", "www.example.com"),
    ("*.example.com", "a.b.example.com"),
    ("EXAMPLE.Com", "www.example.com"),
    ("example.com", "WWW.EXAMPLE.COM"),
    ("example.com.", "example.com"),
    ("example.com", "example.com."),
    (".example.com.", "www.example.com."),
    ("internal", "internal"),
    ("internal", "db.internal"),
    ("localhost", "localhost"),
    ("my_host.example", "my_host.example"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("xn--bcher-kva.example", "BÜCHER.example"),
    ("*.bücher.example", "www.bücher.example"),
    ("1.example", "1.example"),
    # everything
    ("*", "example.com"),
    ("*", "10.0.0.1"),
    ("*", "::1"),
    ("a,*", "example.com"),
    # addresses
    ("10.0.0.1", "10.0.0.1"),
    ("::1", "::1"),
    ("::1", "[::1]"),
    ("[::1]", "::1"),
    ("0:0:0:0:0:0:0:1", "::1"),
    ("::1", "0000:0000:0000:0000:0000:0000:0000:0001"),
    ("2001:DB8::A", "2001:db8:0::a"),
    ("10.0.0.1", "::ffff:10.0.0.1"),
    ("::ffff:10.0.0.1", "10.0.0.1"),
    ("::ffff:a00:1", "10.0.0.1"),
    ("[::ffff:10.0.0.1]", "::FFFF:0a00:0001"),
    # networks
    ("10.0.0.0/8", "10.255.0.1"),
    ("10.1.2.3/8", "10.255.0.1"),
    ("10.0.0.1/32", "10.0.0.1"),
    ("0.0.0.0/0", "8.8.8.8"),
    ("172.16.0.0/12", "172.31.255.255"),
    ("fd00::/8", "fd12::1"),
    ("FD00::1/8", "fd12::1"),
    ("::/0", "2001:db8::1"),
    ("2001:db8::/33", "2001:db8:7fff::1"),
    ("10.0.0.0/8", "::ffff:10.0.0.1"),
    ("::ffff:10.0.0.0/104", "10.255.0.1"),
    ("::ffff:0:0/96", "8.8.8.8"),
    # zones
    ("fe80::1", "fe80::1%eth0"),
    ("fe80::/10", "fe80::1%eth0"),
    ("fe80::1%eth0", "fe80::1%eth0"),
    ("[fe80::1%eth0]", "FE80::1%eth0"),
    # ports
    ("example.com:443", "example.com"),
    ("example.com:443", "www.example.com"),
    (".example.com:443", "www.example.com"),
    ("*.example.com:0443", "www.example.com"),
    ("10.0.0.1:443", "10.0.0.1"),
    ("[::1]:443", "::1"),
    ("example.com:", "example.com"),
    ("[::1]:", "::1"),
    # separators
    ("a b", "b"),
    ("a,b", "b"),
    (" a ,\tb\n", "b"),
    (",,a,,b,,", "b"),
    ("a \t, ,b", "a"),
]

UNCOVERED = [
    ("", "example.com"),
    (",", "example.com"),
    (" ", "example.com"),
    # names that only look like it
    ("example.com", "notexample.com"),
    (".example.com", "notexample.com"),
    ("*.example.com", "notexample.com"),
    ("*.example.com", "example.com"),
    ("example.com", "example.com.evil.example"),
    ("example.com", "example.org"),
    ("example.com", "com"),
    ("www.example.com", "example.com"),
    ("example.com", "example-com"),
    ("example.com", "examplexcom"),
    ("com", "example.comm"),
    # names and addresses are two things
    ("1", "10.0.0.1"),
    ("0.1", "10.0.0.1"),
    (".0.0.1", "10.0.0.1"),
    ("0.0.1", "10.0.0.1"),
    ("10.0.0.1", "10.0.0.1.example"),
    ("10.0.0.1", "10.0.0.10"),
    ("10.0.0.1", "10.0.0.2"),
    ("10.0.0.0/8", "10.example"),
    ("10.0.0.0/8", "11.0.0.1"),
    ("172.16.0.0/12", "172.32.0.0"),
    ("0.0.0.0/0", "::1"),
    ("0.0.0.0/0", "example.com"),
    ("::/0", "10.0.0.1"),
    ("::/0", "::ffff:10.0.0.1"),
    ("2001:db8::/33", "2001:db8:8000::1"),
    ("::ffff:10.0.0.0/104", "11.0.0.1"),
    ("::1", "::2"),
    ("::1", "127.0.0.1"),
    ("127.0.0.1", "::1"),
    ("127.0.0.1", "localhost"),
    ("localhost", "127.0.0.1"),
    # nothing goes direct unsaid
    ("", "localhost"),
    ("", "127.0.0.1"),
    ("", "::1"),
    # zones
    ("*.example.com", "::1%25.example.com"),
    ("example.com", "::1%.example.com"),
    (".example.com", "fe80::1%a.example.com"),
    ("eth0", "fe80::1%eth0"),
    ("fe80::1%eth0", "fe80::1%eth1"),
    ("fe80::1%eth0", "fe80::1%ETH0"),
    ("fe80::1%eth0", "fe80::1"),
    ("fe80::1%eth0", "fe80::2%eth0"),
    ("fe80::/10", "::1%fe80"),
    # ports
    ("example.com:80", "example.com"),
    ("10.0.0.1:80", "10.0.0.1"),
    ("[::1]:80", "::1"),
    # an address without brackets has no port
    ("::1:443", "::1"),
    # what is no host is covered by nothing
    ("*", ""),
    ("*", "."),
    ("*", "a b"),
    ("*", "127.1"),
    ("*", "["),
    ("*", "[]"),
    ("*", "\udcff"),
    ("*", "a" * 300),
]


@pytest.mark.parametrize(("text", "host"), COVERED)
def test_host_is_covered(text, host):
    """The entry that covers it is returned as it was written."""
    found = NoProxy.parse(text).matches(host, 443)
    assert found is not None
    assert found in text


@pytest.mark.parametrize(("text", "host"), UNCOVERED)
def test_host_is_not_covered(text, host):
    """It goes through the proxy."""
    assert NoProxy.parse(text).matches(host, 443) is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("*example.com", "star"),
        ("*:443", "star"),
        ("**", "star"),
        ("*.", "malformed host"),
        ("*.*.example.com", "malformed host"),
        ("www.*.com", "malformed host"),
        ("10.*", "malformed host"),
        ("192.168.*.*", "malformed host"),
        ("example.*", "malformed host"),
        ("..example.com", "malformed host"),
        (".", "malformed host"),
        ("a..b", "malformed host"),
        ("-a", "malformed host"),
        ("a;b", "malformed host"),
        ("a|b", "malformed host"),
        ("<local>", "malformed host"),
        ("127.1", "malformed host"),
        ("010.0.0.1", "malformed host"),
        ("10.0.0.1.", "malformed host"),
        ("1", "malformed host"),
        ("faß.example", "malformed host"),
        (":::", "malformed host"),
        ("[::1", "malformed host or port"),
        ("::1]", "malformed host"),
        ("[10.0.0.1]", "malformed host or port"),
        ("[example.com]", "malformed host or port"),
        ("[]", "malformed host or port"),
        ("fe80::1%", "malformed host"),
        ("fe80::1%a%b", "malformed host"),
        ("*.10.0.0.1", "no names"),
        (".10.0.0.1", "no names"),
        ("*.::1", "malformed host|no names"),
        (":443", "malformed host or port"),
        ("a:b", "malformed host or port"),
        ("a:1:", "malformed host"),
        ("a:0", "port that is not"),
        ("a:65536", "port that is not"),
        ("a:123456", "malformed host or port"),
        ("a:-1", "malformed host or port"),
        ("a:\uff1443", "malformed host or port"),
        ("10.0.0.0/33", "prefix"),
        ("fd00::/129", "prefix"),
        ("10.0.0.0/", "prefix"),
        ("10.0.0.0/x", "prefix"),
        ("10.0.0.0/-8", "prefix"),
        ("10.0.0.0/\uff18", "prefix"),
        ("10.0.0.0/255.0.0.0", "prefix"),
        ("10.0.0.0/8:443", "prefix"),
        ("10.0.0.0/8/8", "prefix"),
        ("10/8", "not a network"),
        ("example.com/8", "not a network"),
        ("/8", "not a network"),
        ("[fd00::]/8", "not a network"),
        ("fe80::%eth0/64", "zone"),
        ("http://example.com", "URL"),
        ("me@example.com", "URL"),
    ],
)
def test_entry_that_is_not_understood_is_passed_over_and_reported(entry, reason):
    """The list is shared with other programs; its other entries hold."""
    parsed = NoProxy.parse(f"first.example, {entry} last.example")
    assert parsed.entries == ("first.example", "last.example")
    (ignored,) = parsed.ignored
    assert ignored.number == 2
    assert ignored.text == ("" if "@" in entry else entry)
    assert any(each in ignored.reason for each in reason.split("|"))
    assert str(ignored).startswith("entry 2 ")
    assert parsed.matches("last.example", 443) == "last.example"
    for host in ("10.0.0.1", "::1", "example.com", "www.example.com", "fe80::1%eth0", "fd00::"):
        assert parsed.matches(host, 443) is None


def test_first_entry_that_covers_is_told():
    """In the order written, though another one fits better."""
    parsed = NoProxy.parse("COM, example.com")
    assert parsed.matches("example.com", 443) == "COM"
    assert parsed.matches("example.com", 80) == "COM"


def test_port_limits_an_entry_to_it():
    """And another entry may say more."""
    parsed = NoProxy.parse("example.com:8443,[::1]:8443,10.0.0.1:8443")
    for host in ("example.com", "www.example.com", "::1", "10.0.0.1", "::ffff:10.0.0.1"):
        assert parsed.matches(host, 8443) is not None
        assert parsed.matches(host, 443) is None


@pytest.mark.parametrize(
    "text",
    [
        "http://us3r:s3cret@p:1",
        "a,us3r:s3cret@p",
        "http://us3r:a,s3cret@p",
        "us3r:s3cret b@c ::us3r",
    ],
)
def test_proxy_url_in_the_wrong_variable_is_not_repeated(text):
    """Neither whole nor in pieces."""
    parsed = NoProxy.parse(text)
    shown = f"{parsed!r} {parsed} {parsed.ignored} {[str(each) for each in parsed.ignored]}"
    assert parsed.ignored
    assert "s3cret" not in shown
    assert "us3r" not in shown


def test_list_is_shown_by_its_size():
    """Whatever its text is."""
    assert repr(NoProxy.parse("a,b,c:x")) == "<NoProxy 2 entries, 1 ignored>"


@pytest.mark.parametrize(
    ("spellings", "canonical"),
    [
        (["Example.COM", "example.com."], "example.com"),
        (["bücher.example", "XN--bcher-kva.example."], "xn--bcher-kva.example"),
        (["10.0.0.1", "::ffff:10.0.0.1", "::FFFF:A00:1"], ipaddress.IPv4Address("10.0.0.1")),
        (["::1", "0:0::1"], ipaddress.IPv6Address("::1")),
        (["fe80::1%e0", "FE80:0::1%e0"], ipaddress.IPv6Address("fe80::1%e0")),
    ],
)
def test_spellings_of_a_host_have_one_form(spellings, canonical):
    """So that they can be compared."""
    assert {canonical_host(each) for each in spellings} == {canonical}


LABEL = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
ADDRESS = st.ip_addresses().map(str)
HOST = st.one_of(NAME, ADDRESS)
ENTRY = st.one_of(
    HOST,
    st.builds("{}{}".format, st.sampled_from([".", "*.", "*"]), NAME),
    st.builds("{}:{}".format, NAME, st.integers(0, 70000)),
    st.builds("{}/{}".format, ADDRESS, st.integers(0, 130)),
    st.builds("[{}]".format, ADDRESS),
    st.text(alphabet="ab.*:/[]%@1 -", max_size=8),
    st.text(max_size=8),
)
LIST = st.lists(ENTRY, max_size=6).map(",".join)


@SEARCHED
@given(st.one_of(LIST, st.text()), st.one_of(HOST, st.text()), st.integers(0, 65535))
def test_any_text_is_read_and_any_host_looked_up(text, host, port):
    """Nothing is raised; every entry is either understood or ignored; what matches is one."""
    parsed = NoProxy.parse(text)
    count = len(parsed.entries) + len(parsed.ignored)
    assert count == len([each for each in text.replace(",", " ").split() if each])
    found = parsed.matches(host, port)
    assert found is None or found in parsed.entries


@SEARCHED
@given(LIST, HOST, st.sampled_from([80, 443]))
def test_reading_is_stable(text, host, port):
    """What was understood is understood again, and means the same, also in other letters."""
    parsed = NoProxy.parse(text)
    again = NoProxy.parse(" ".join(parsed.entries))
    assert again.ignored == ()
    assert again.entries == parsed.entries
    found = parsed.matches(host, port)
    assert again.matches(host, port) == found
    assert NoProxy.parse(text).matches(host.upper(), port) == found
    if ":" in host:
        assert parsed.matches(f"[{host}]", port) == found
    elif not host[-1].isdigit():
        assert parsed.matches(f"{host}.", port) == found


@SEARCHED
@given(LIST, NAME, st.sampled_from([80, 443]))
def test_what_is_below_a_covered_name_is_covered(text, name, port):
    """By the same entry or one before it."""
    parsed = NoProxy.parse(text)
    if parsed.matches(name, port) is not None:
        assert parsed.matches(f"www.{name}", port) is not None


@SEARCHED
@given(st.lists(st.one_of(NAME, NAME.map(".{}".format)), max_size=5), NAME)
def test_names_are_covered_as_by_urllib(entries, name):
    """On what the standard library knows: names, with or without a leading dot."""
    text = ",".join(entries)
    theirs = urllib.request.proxy_bypass_environment(name, {"no": text})
    assert (NoProxy.parse(text).matches(name, 443) is not None) == bool(theirs)


@SEARCHED
@given(ADDRESS, st.integers(0, 128), ADDRESS)
def test_networks_hold_what_ipaddress_says(base, length, address):
    """Of the same family, and without mapped addresses, which are another matter."""
    network = ipaddress.ip_interface(f"{base}/{min(length, 32 if '.' in base else 128)}").network
    target = ipaddress.ip_address(address)
    for each in (target, network[0], network[-1]):
        if getattr(each, "ipv4_mapped", None) or getattr(network[0], "ipv4_mapped", None):
            continue
        covered = NoProxy.parse(f"{base}/{network.prefixlen}").matches(str(each), 1) is not None
        assert covered == (each in network)
