"""docs/howto/choose-a-limit.md: its figures are what the lab prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, blocks
from tests.docs.walk import Walk

DOCUMENT = "docs/howto/choose-a-limit.md"


@pytest.mark.slow
def test_the_figures_of_choosing_a_limit(tmp_path: Path) -> None:
    """Its `plan` takes more than a minute, and a Kafka with such a topic is not there."""
    with Walk(DOCUMENT, tmp_path, without=["--source", "eventwagon plan"]) as walk:
        walk.go()
        table, _plan = blocks(ROOT / DOCUMENT, "text")
        said = [re.split(r" {2,}", line)[:4] for line in table.text.splitlines()[1:]]
        run = [re.split(r" {2,}", line)[:4] for line in walk.printed.splitlines()]
        assert [row for row in said if row not in run] == [], "the share on time, the wait or the mean is another"
