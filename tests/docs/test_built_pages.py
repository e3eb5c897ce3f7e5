"""The check of what the site's generator made: it finds what the generator does not report."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.docs.documents import ROOT


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of `scripts`."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return __import__


@pytest.fixture
def faults(scripts: Callable[[str], Any]) -> Callable[[str], list[str]]:
    """Of one page."""
    page_faults: Callable[[str], Iterator[str]] = scripts("built_pages").page_faults
    return lambda text: list(page_faults(text))


@pytest.mark.parametrize(
    "text",
    [
        "<ul><li>1. one<br>\n<code>a\n2. b</code></li></ul>",
        "<p>one\n<code>7. x</code> is 7. and</p>",
        '<svg><path d="M0"/></svg><img src="a.png">',
        "<pre>\n- one\n</pre>",
    ],
)
def test_a_sound_page_has_no_faults(faults: Callable[[str], list[str]], text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<li>\n<code> id=None</li>", ["<code> of line 2 is not closed"]),
        ("<p><code>a", ["<p> of line 1 is not closed", "<code> of line 1 is not closed"]),
        ("a</code>", ["line 1: </code> closes nothing"]),
        ("<p>six\n7. <strong>Publish</strong></p>", ["line 1: a list item in a paragraph: '7.'"]),
        ("<p>one <a>two</a>\n- three</p>", ["line 1: a list item in a paragraph: '- three'"]),
    ],
)
def test_a_fault_is_found(faults: Callable[[str], list[str]], text: str, found: list[str]) -> None:
    assert faults(text) == found


def test_a_list_goes_on_after_an_item_of_two_paragraphs(scripts: Callable[[str], Any]) -> None:
    """Python-Markdown takes an item without an empty line above for text of the paragraph before it."""
    text = "1. one\n\n   more\n2. two\n3. three"
    lines = list(scripts("make_site").indented(text.split("\n"), lambda line: line))
    assert lines == ["1. one", "", "    more", "", "2. two", "3. three"]


def test_the_documents_have_headings_that_the_generator_bears() -> None:
    """Zensical takes ` id=…` in a heading for an attribute, and drops it with the end of the code."""
    bad = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in (ROOT / "docs").rglob("*.md")
        for line in path.read_text().splitlines()
        if line.startswith("#") and " id=" in line
    ]
    assert bad == []


def test_a_numbered_list_after_a_list_with_dashes_is_numbered() -> None:
    """Python-Markdown makes one list of both, unless it is told not to."""
    settings = tomllib.loads((ROOT / "docs" / "site" / "zensical.toml").read_text())
    assert "sane_lists" in settings["project"]["markdown_extensions"]
