"""docs/guides/testing.md: its tests pass under pytest, as a reader would have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.documents import ROOT
from tests.docs.test_snippets import save


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    save(ROOT / "docs" / "guides" / "testing.md", tmp_path)
    path = os.pathsep.join([str(ROOT / "src"), str(tmp_path)])
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_eventwagon", "-W", "error"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
