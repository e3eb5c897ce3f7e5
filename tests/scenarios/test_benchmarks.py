"""The benchmarks that look into the core run, whatever they measure: the short ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["observer", "sqlite-callers"])
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "--only", name, "--dir", str(tmp_path)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = json.loads(ran.stdout)["benchmarks"]
    assert all(line["ours"] and min(line["ours"]) > 0 for line in found["lines"])
