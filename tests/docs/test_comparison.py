"""docs/comparison.md is what its script makes of the results that are kept beside it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.docs.documents import ROOT


def test_the_comparison_is_made_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("comparison", ROOT / "scripts" / "comparison.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    found = script.kept()
    again = "run python scripts/comparison.py"
    assert script.DOCUMENT.read_text(encoding="utf-8") == script.document(found), again
    assert script.PICTURE.read_text(encoding="utf-8") == script.picture(found), again
