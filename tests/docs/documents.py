"""The project's documents, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for folder in ("", "docs", "examples")
    for path in sorted((ROOT / folder).glob("**/*.md" if folder else "*.md"))
]

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<kind>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block. `mark` is the HTML comment right above it: `fragment`, `file: NAME`, `not run: WHY`, those of
    `tests/docs/walk.py`, or nothing."""

    kind: str
    text: str
    mark: str
    line: int


def name(document: Path) -> str:
    """As tests are called by."""
    return str(document.relative_to(ROOT))


def all_blocks(document: Path) -> list[Block]:
    """The fenced blocks, in order; those in lists without their indentation."""
    text = document.read_text()
    return [
        Block(m["kind"], dedent(m["text"]), m["mark"] or "", text.count("\n", 0, m.start("text")) + 1)
        for m in _BLOCK.finditer(text)
    ]


def blocks(document: Path, kind: str) -> list[Block]:
    """The fenced blocks of this kind, in order."""
    return [block for block in all_blocks(document) if block.kind == kind]


def prose(document: Path) -> str:
    """The document without its fenced blocks, and without what only the site shows."""
    return re.sub(r"^<!-- site: .* -->$", "", _BLOCK.sub("", document.read_text()), flags=re.MULTILINE)


def having(kind: str) -> list[Path]:
    """The documents that have a block of this kind."""
    return [d for d in DOCUMENTS if blocks(d, kind)]
