"""Every fenced block is run or checked by a test, or says why not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from eventwagon import outbox
from tests.docs.documents import DOCUMENTS, ROOT, all_blocks, blocks, name
from tests.docs.walk import WALKED, missing

FORMS = {"console", "mermaid", "python", "sh", "sql", "text", "toml", "yaml"}
REASONS = {"URLs", "a configuration", "a sketch", "an example of output", "other programs"}
"""Why a block is not run. Configurations are parsed below."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_block_is_run_or_says_why_not(document: Path) -> None:
    """Python runs (test_snippets), or is a fragment that compiles. What is typed is understood by the parser
    (test_shell), and run where the document is walked through."""
    fences = len(re.findall(r"^ *(?:```|~~~)", document.read_text(), re.MULTILINE))
    assert fences == 2 * len(all_blocks(document)), "a fence that this test does not read: ```KIND, and marks above it"
    for block in all_blocks(document):
        where = f"{name(document)}:{block.line}"
        kind, _, why = block.mark.partition(": ")
        assert block.kind in FORMS, f"{where}: of which kind is it?"
        if block.kind == "python":
            assert kind in ("", "file", "fragment"), where
        elif block.kind == "sh":
            assert kind in ("", "fragment") or name(document) in WALKED, f"{where}: no test walks through this document"
        elif kind == "output":
            assert name(document) in WALKED, f"{where}: no test compares it"
        elif kind != "generated":
            assert kind == "not run", f"{where}: say why it is not run: {REASONS}"
            assert why in REASONS, f"{where}: {why!r} is not in {REASONS}"


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(b.kind in ("toml", "yaml", "sql") for b in all_blocks(d))], ids=name
)
def test_configurations_are_sound(document: Path) -> None:
    for block in blocks(document, "toml"):
        assert tomllib.loads(block.text)
    for block in blocks(document, "yaml"):
        assert list(yaml.safe_load_all(block.text))
    for block in blocks(document, "sql"):
        (table,) = set(re.findall(r"INSERT INTO (\w+)", block.text))
        assert f' "{table}" ' in outbox.create_table(table)


def test_what_is_walked_through_is_there() -> None:
    for document, test in WALKED.items():
        assert (ROOT / document).is_file()
        assert document in (ROOT / test).read_text()


def test_a_walk_compares_words_and_order_not_numbers() -> None:
    printed = "orders_v1  draining  31/100  4.2 s\nvm-12-ab12 works for train orders\n1 process ended\n"
    assert missing("orders_v1 draining 100/100 0.1 s\nhost-7-00ff works\n1 process ended", printed) == []
    assert missing("orders_v2 draining 100/100", printed) == ["orders_v2 draining 100/100"]
    assert missing("2 processes ended", printed) == ["2 processes ended"]
    assert missing("1 process ended\norders_v1 draining", printed) == ["orders_v1 draining"]
