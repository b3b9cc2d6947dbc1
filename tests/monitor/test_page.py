"""The dashboard page and its headers."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from wsframe.monitor.page import PAGE, PAGE_HEADERS, _source

TEXT = PAGE.decode()
HEADERS = dict(PAGE_HEADERS)
POLICY = dict(
    directive.split(" ", 1) for directive in HEADERS["Content-Security-Policy"].split("; ")
)


class Reader(HTMLParser):
    """Collects what a browser sees of the page: elements, their attributes, inline sources."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.feed(TEXT)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == self.cdata_elem:
            tag = self.elements[-1][0]
            self.inline[tag] = self.inline.get(tag, "") + data


READER = Reader()


@pytest.mark.parametrize("element", ["style", "script"])
def test_policy_allows_the_inline_source_by_its_hash_and_nothing_else(element: str) -> None:
    """The hash is that of what an HTML parser finds between the tags."""
    digest = hashlib.sha256(READER.inline[element].encode()).digest()
    assert POLICY[f"{element}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"


@pytest.mark.parametrize("element", ["object", "span"])
def test_policy_is_not_made_for_a_page_without_its_one_source(element: str) -> None:
    """None or several: a broken page is found at import, not in a browser."""
    with pytest.raises(RuntimeError, match=f"exactly one <{element}>"):
        _source(element)


def test_policy_denies_everything_by_default() -> None:
    """What is not named is not loaded, framed, or sent anywhere else."""
    del (rest := dict(POLICY))["style-src"], rest["script-src"]
    assert rest == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_headers_keep_the_page_from_caches_referrers_and_guesses() -> None:
    """The other headers, as they are sent."""
    assert HEADERS["Content-Type"] == "text/html; charset=utf-8"
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"
    assert HEADERS["Cache-Control"] == "no-store"
    assert len(HEADERS) == len(PAGE_HEADERS) == 5


def test_headers_can_be_sent() -> None:
    """No header has a control character or anything outside ASCII."""
    assert all(value.isascii() and value.isprintable() for pair in PAGE_HEADERS for value in pair)


def test_page_names_no_other_resource() -> None:
    """No address of any host, and no element that loads something."""
    assert "//" not in re.sub(r"(?m)(^|\s)// .*$|`?\w+://\$\{", "", TEXT)
    assert not {"link", "img", "iframe", "base", "object"} & {tag for tag, _ in READER.elements}
    assert not [attrs for _, attrs in READER.elements if {"src", "href", "action"} & attrs.keys()]
    assert "url(" not in TEXT
    assert "@import" not in TEXT


@pytest.mark.parametrize(
    "name",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"],
)
def test_page_never_turns_text_into_markup_or_code(name: str) -> None:
    """Names of agents are shown as text, whatever they are."""
    assert name not in TEXT


def test_page_has_no_inline_style_or_event_attributes() -> None:
    """The policy would ignore them."""
    names = {name for _, attrs in READER.elements for name in attrs}
    assert not [name for name in names if name == "style" or name.startswith("on")]


def test_page_has_the_marks_that_it_is_found_by() -> None:
    """The state of the connection, and one cell for every figure."""
    states = [attrs for _, attrs in READER.elements if attrs.get("id") == "connection"]
    assert [attrs["data-state"] for attrs in states] == ["connecting"]
    fields = {attrs["data-field"] for _, attrs in READER.elements if "data-field" in attrs}
    assert fields == {
        "agent",
        "status",
        "cpu",
        "cores",
        "memory",
        "load",
        "disk",
        "network",
        "processes",
        "uptime",
        "age",
    }


def test_page_has_lf_line_ends() -> None:
    """A browser hashes what it has made of the line ends."""
    assert b"\r" not in PAGE
