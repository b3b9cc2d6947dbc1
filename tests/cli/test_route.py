"""`wsframe route` without --check: what it reads, what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from wsframe.cli import main
from wsframe.cli.arguments import Parser, add_proxies, add_uri, proxy_settings
from wsframe.core.proxy import Proxy, ProxySettings
from wsframe.core.uri import parse_uri

ROOT = Path(__file__).resolve().parents[2]
URI = "wss://example.org/feed?s3cret"
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with an environment that says nothing of proxies."""
    for scheme in ("ws", "wss", "http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
            monkeypatch.delenv(name, raising=False)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what `wsframe route` prints for a command that can be carried out."""
    assert main(["route", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what is said of a command that cannot be."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert SECRET not in err
    return err


def settings(*arguments: str) -> ProxySettings:
    parser = Parser()
    add_uri(parser)
    add_proxies(parser)
    return proxy_settings(parser.parse_args([URI, *arguments]))


def test_without_proxies_it_is_direct(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, URI) == (
        "wss://example.org:443: direct, because no proxy is set for it\n"
        "  1. example.org:443 (name resolved here)\n"
    )


def test_proxies_are_those_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable that decided, and without what is secret in it."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://us3r:{SECRET}@p:3128")
    out = said(capsys, URI)
    assert out == (
        "wss://example.org:443: 1 way, because of the environment variable HTTPS_PROXY\n"
        "  1. http://p:3128 (name resolved here)"
        " > example.org:443 (name resolved by http://p:3128)\n"
    )
    monkeypatch.setenv("no_proxy", "example.org")
    assert "direct, because of the entry 'example.org' of no_proxy" in said(capsys, URI)


def test_proxy_that_is_given_goes_before_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://p:3128")
    monkeypatch.setenv("no_proxy", "*")
    out = said(capsys, URI, "--proxy", f"socks5h://us3r:{SECRET}@q")
    assert "1 way, because of the option --proxy\n" in out
    assert "socks5h://q:1080" in out
    assert SECRET not in out
    assert "us3r" not in out


def test_proxies_given_one_after_the_other_are_ways_in_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = said(capsys, URI, "--proxy", "http://a", "--proxy", "http://b")
    assert "2 ways, in order" in out
    assert out.index("1. http://a:80") < out.index("2. http://b:80")


def test_proxies_with_a_comma_between_them_are_a_chain() -> None:
    """A comma that is part of a URL is not one between two."""
    a = Proxy("a", 80, "u,v", "x,y")
    b = Proxy("b", 1080, scheme="socks5h", via=a)
    c = Proxy("localhost", 80, path="/run/c,d")
    assert settings("--proxy", "http://u,v:x,y@a,socks5h://b").choose(parse_uri(URI)).ways == (
        (a, b),
    )
    assert settings("--proxy", "http+unix://%2Frun%2Fc,d").choose(parse_uri(URI)).ways == ((c,),)


@pytest.mark.parametrize("given", [[], ["--proxy", "http://q"]], ids=["environment", "option"])
def test_hosts_to_reach_directly_can_be_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """In place of the variable's."""
    monkeypatch.setenv("all_proxy", "http://p")
    monkeypatch.setenv("no_proxy", "example.com")
    out = said(capsys, URI, *given, "--no-proxy", "example.org")
    assert "direct, because of the entry 'example.org' of --no-proxy" in out
    out = said(capsys, "ws://example.com/", *given, "--no-proxy", "example.org")
    assert "direct" not in out


def test_empty_list_of_hosts_takes_the_variables_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"all_proxy": "http://p", "no_proxy": "org", "NO_PROXY": "org"}.items():
        monkeypatch.setenv(name, value)
    assert "because of the environment variable all_proxy" in said(capsys, URI, "--no-proxy", "")


def test_json_is_the_route(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--proxy", f"http://us3r:{SECRET}@a,socks5://b", "--no-proxy", "x y/0"]
    out = said(capsys, URI, "--json", *given)
    found = json.loads(out)
    assert (found["rule"], found["name"]) == ("option", "--proxy")
    assert found["ways"] == [
        [
            {"to": "http://a:80", "lookup": "here", "by": None},
            {"to": "socks5://b:1080", "lookup": "proxy", "by": "http://a:80"},
            {"to": "example.org:443", "lookup": "here", "by": None},
        ]
    ]
    assert len(found["notes"]) == 1
    assert "checks" not in found
    assert SECRET not in out


# --- credentials in a file ------------------------------------------------------------------------


def private(path: Path, text: str = f"us3r:{SECRET}\n", mode: int = 0o600) -> str:
    path.touch(mode=mode)
    path.write_text(text)
    return str(path)


def test_credentials_come_from_a_private_file(tmp_path: Path) -> None:
    file = private(tmp_path / "auth")
    found = settings("--proxy", "http://p", "--proxy-auth-file", file)
    assert found.choose(parse_uri(URI)).ways == ((Proxy("p", 80, "us3r", SECRET),),)


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--proxy", "http://a,http://b"],
        ["--proxy", "http://a", "--proxy", "http://b"],
    ],
    ids=["no proxy", "a chain", "two ways"],
)
def test_credentials_in_a_file_are_for_one_proxy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, given: list[str]
) -> None:
    file = private(tmp_path / "auth")
    err = refused(capsys, "route", URI, *given, "--proxy-auth-file", file)
    assert "--proxy-auth-file is for one --proxy" in err


def test_file_that_others_can_read_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = private(tmp_path / "auth", mode=0o644)
    err = refused(capsys, "route", URI, "--proxy", "http://a", "--proxy-auth-file", file)
    assert "chmod 600" in err


# --- wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: VERB"),
        (["rout"], "invalid choice"),
        ([f"http://u:{SECRET}@p"], "invalid choice: 'http://...@p'"),
        (["route"], "required: URI"),
        (["route", f"https://u:{SECRET}@example.org"], "use wss://"),
        (["route", f"ws://u:{SECRET}@example.org:x"], "malformed host or port"),
        (["route", "ws://a", f"http://u:{SECRET}@p"], "unrecognized arguments: http://...@p"),
        (["route", "ws://a", f"http://u:a {SECRET}\n@p"], "unrecognized arguments: http://...@p"),
        (["route", "ws://a", f"u:{SECRET}@p:1"], "unrecognized arguments: ...@p:1"),
        (["route", "ws://a", f"--pro=http://u:{SECRET}@p"], "unrecognized arguments"),
        (["route", "ws://a", f"--json=http://u:{SECRET}@p"], "ignored explicit argument"),
        (["route", "ws://a", "--proxy", f"ftp://u:{SECRET}@p"], "argument --proxy: a proxy's"),
        (["route", "ws://a", "--proxy", f"http://u:{SECRET}@p:x"], "--proxy: the proxy URL has"),
        (["route", "ws://a", "--proxy", ""], "argument --proxy: the proxy URL has no scheme"),
        (["route", "ws://a", "--proxy", "p:3128"], "it begins with http://"),
        (["route", "ws://a", "--proxy", "http://a,b"], "malformed host"),
        (["route", "ws://a", "--proxy", ",".join(["http://a"] * 9)], "more than 8"),
        (["route", "ws://a", "--proxy-auth-file", "/nonexistent"], "No such file"),
        (["route", "ws://a", "--timeout", f"http://u:{SECRET}@p"], "not a number of seconds"),
        (["route", "ws://a", "--timeout", "0"], "above 0"),
        (["route", "ws://a", "--timeout", "nan"], "above 0"),
        (["route", "ws://a", "--ca", "/nonexistent"], "argument --ca: [Errno 2]"),
        (["route", "ws://a", "--proxy-ca", "/dev/null"], "/dev/null has no certificate"),
    ],
)
def test_wrong_usage_is_said_without_any_password(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert text in refused(capsys, *arguments)


def test_malformed_certificate_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "malformed certificate" in refused(capsys, "route", URI, "--ca", str(file))


def test_malformed_variable_that_decides_is_said_without_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that decides nothing is nobody's business."""
    monkeypatch.setenv("https_proxy", f"ftp://u:{SECRET}@p")
    assert "the environment variable https_proxy" in refused(capsys, "route", URI)
    assert "direct" in said(capsys, "ws://example.org/")


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["connect", "diagnose", "route"])
def test_manual_has_every_option(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    out, _ = capsys.readouterr()
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", out, re.MULTILINE)) - {"--help"}
    manual = (ROOT / "docs/command.md").read_text(encoding="utf-8")
    section = manual.partition(f"`wsframe {verb} URI`\n")[2].partition("\n## ")[0]
    table = section.partition("| option |")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    assert {option for cell in cells for option in re.findall("`(--[a-z-]+)", cell)} == options


def test_program_in_the_manual_prints_the_route(capsys: pytest.CaptureFixture[str]) -> None:
    manual = (ROOT / "docs/command.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", manual, re.MULTILINE | re.DOTALL)
    exec(program, {})  # noqa: S102 - our own manual
    assert "wss://example.org:443: direct" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--version"], ["wsframe "]),
        (["--help"], ["connect", "route", "exit status:", "130"]),
        (["connect", "--help"], ["can be seen by all users", "Ctrl-D", "exit status:", "143"]),
        (["route", "--help"], ["URL[,URL...]", "can be seen by all users", "not opened"]),
    ],
)
def test_help_says_what_is_to_be_known(
    capsys: pytest.CaptureFixture[str], arguments: list[str], texts: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in texts:
        assert text in out
