"""Where the trains of real processes run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orders import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    there = Place(tmp_path)
    monkeypatch.setenv("HANDLED", str(there.handled))
    return there
