"""Looks at the pages of a built site for faults that the generator does not report."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
"""Elements without an end."""
_ITEM = re.compile(r"\n\s*((?:\d+\.|[-*+]) [^\n]{0,40})")


def faults(site: Path) -> list[str]:
    """What is wrong, a line for each; empty: the site is sound."""
    pages = {path: path.read_text() for path in sorted(site.rglob("*.html"))}
    found = [f"{path.relative_to(site)}: {fault}" for path, text in pages.items() for fault in page_faults(text)]
    return [*found, *broken_links(site, pages)]


def page_faults(text: str) -> Iterator[str]:
    """Elements of a page that are not closed, and list items that became text of a paragraph."""
    page = _Page()
    page.feed(text)
    page.close()
    yield from page.found
    for tag, line in page.open:
        yield f"<{tag}> of line {line} is not closed"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, int]] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append((tag, self.getpos()[0]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if tag not in (each for each, _ in self.open):
            self.found.append(f"line {self.getpos()[0]}: </{tag}> closes nothing")
            return
        while self.open[-1][0] != tag:
            self.found.append("<{}> of line {} is not closed".format(*self.open.pop()))
        self.open.pop()

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "p" in tags and not {"code", "pre"} & set(tags) and (item := _ITEM.search(data)):
            self.found.append(f"line {self.getpos()[0]}: a list item in a paragraph: {item[1].strip()!r}")


def broken_links(site: Path, pages: dict[Path, str]) -> Iterator[str]:
    """Each link within the site that leads nowhere: the generator does not look into docstrings."""
    texts = {path: text for path, text in pages.items() if path.name != "404.html"}
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        for link in sorted(set(re.findall(r'\b(?:href|src)="([^"]*)"', text))):
            target, _, anchor = html.unescape(link).partition("#")
            if ":" in target or target.startswith("//"):
                continue
            to = (path.parent / urllib.parse.unquote(target)).resolve() if target else path
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file():
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif (
                anchor
                and not anchor.startswith("__")
                and to in anchors
                and urllib.parse.unquote(anchor) not in anchors[to]
            ):
                yield f"{path.relative_to(site)}: {link} has no such anchor"
