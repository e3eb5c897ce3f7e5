"""The words: the glossary lists those in use, and words that the project has given up occur nowhere."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import eventwagon
from tests.docs.documents import DOCUMENTS, ROOT, name, prose
from tests.docs.test_shell import COMMANDS, OPTIONS

INDEX = ROOT / "docs" / "index.md"
MODULES = ("broker", "facts", "manifest", "orchestrator", "registry", "timetable")
"""Of `contracts`: where the names are that the package itself does not export."""

GIVEN_UP = re.compile(
    r"\b(crews?|keepers?|pok(?:e[sd]?|ing)|stumbl\w+|nudg\w+|tallies|tally|lanes?|parcels?|newcomers?"
    r"|hands(?! (?:out|over)\b))\b",
    re.IGNORECASE,
)
PAST = ("CHANGELOG.md",)
"""Tells what was."""
MEASURES = (
    "docs/benchmarks.md",
    "docs/comparison.md",
    "docs/demo.md",
    "docs/images/demo-",
    "docs/index.md",
    "docs/lab.md",
    "src/eventwagon/cli/",
    "src/eventwagon/lab/",
)
"""Says "newcomers" of the measured set."""


class Word(NamedTuple):
    """A row of the glossary."""

    word: str
    meaning: str
    code: list[str]


def glossary() -> list[Word]:
    """The glossary, row by row."""
    section = INDEX.read_text().partition("\n## Glossary\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| *(.*?) *\|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| ") - 2, "a row that is none"  # the head and the line below it
    return [Word(word, meaning, re.findall(r"`([^`]+)`", code)) for word, meaning, code in rows]


WORDS = glossary()
TEXT = re.sub(r"(?s)\n## Glossary\n.*?\n## ", "\n## ", "\n".join(prose(d) for d in DOCUMENTS))


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.word)
def test_a_word_of_the_glossary_is_used_and_explained_in_one_sentence(row: Word) -> None:
    assert not re.search(r"[.!?](?: |$)", row.meaning), "one sentence, without a full stop"
    stem = re.escape(row.word.removesuffix("s").removesuffix("e")).replace("\\ ", "\\s+")
    assert len(re.findall(rf"\b{stem}", TEXT, re.IGNORECASE)) >= 2, "the documents do without it"


@pytest.mark.parametrize(("word", "code"), [(row.word, code) for row in WORDS for code in row.code])
def test_a_word_of_the_glossary_names_what_exists(word: str, code: str) -> None:
    if code.startswith("--"):
        assert code in OPTIONS
    elif code.startswith("eventwagon "):
        assert code.removeprefix("eventwagon ") in COMMANDS
    else:
        kind, _, member = code.partition(".")
        assert hasattr(_find(kind), member or "__doc__"), code


def test_the_glossary_lists_no_word_twice() -> None:
    words = [row.word for row in WORDS]
    assert sorted(set(words)) == sorted(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_documents_do_without_words_that_were_given_up(document: Path) -> None:
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose(document))  # names in code and links stay as they are
    assert _given_up(text, document) == []


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=name)
def test_pictures_do_without_words_that_were_given_up(picture: Path) -> None:
    assert _given_up(picture.read_text(), picture) == []


@pytest.mark.parametrize("source", sorted((ROOT / "src").rglob("*.py")), ids=name)
def test_docstrings_helps_and_messages_do_without_words_that_were_given_up(source: Path) -> None:
    assert [w for text in _sentences(source) for w in _given_up(text, source)] == []


def _given_up(text: str, where: Path) -> list[str]:
    path = name(where)
    if path in PAST:
        return []
    found = [match[0] for match in GIVEN_UP.finditer(text)]
    if path.startswith(MEASURES):
        found = [word for word in found if "newcomer" not in word.lower()]
    return found


def _sentences(source: Path) -> Iterator[str]:
    """Docstrings, help texts and messages: the strings of more than one word, without names in code."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield re.sub(r"`[^`]*`", "", node.value)


def _find(kind: str) -> object:
    if hasattr(eventwagon, kind):
        return getattr(eventwagon, kind)
    rooms = [importlib.import_module(f"eventwagon.contracts.{each}") for each in MODULES]
    actors = [importlib.import_module(f"eventwagon.runtime.{each}") for each in ("observer", "switcher")]
    (found, *_) = [vars(room)[kind] for room in (*rooms, *actors, eventwagon.event) if kind in vars(room)]
    return found
