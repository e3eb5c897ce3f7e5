"""Lines of documents end within 120 columns. ruff holds that of code (E501)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, blocks, name, prose

MOST = 120


def _may_be_long(line: str) -> bool:
    """Tables, pictures, headings (of a signature, say) and a single long word, such as a link, can't be wrapped."""
    return line.lstrip().startswith(("|", "![", "#")) or " " not in line.strip().removeprefix("- ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_lines_end_within_120_columns(document: Path) -> None:
    kinds = ("python", "sh", "yaml", "")
    code = [line for kind in kinds for block in blocks(document, kind) for line in block.text.splitlines()]
    written = [line for line in prose(document).splitlines() if not _may_be_long(line)]
    assert not [line for line in (*written, *code) if len(line) > MOST]
