"""Every Python block in README and docs runs; those marked as fragments compile."""

from __future__ import annotations

import ast
import logging
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, blocks, having, name

README = ROOT / "README.md"


def save(document: Path, directory: Path) -> None:
    """The blocks that are files, under their names."""
    for block in blocks(document, "python"):
        if block.mark.startswith("file: "):
            (directory / block.mark.removeprefix("file: ")).write_text(block.text)


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a program sets up ends with it."""
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    loggers = [logging.getLogger(name) for name in ("", "eventwagon", "eventwagon.worker", "eventwagon.cli")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("document", having("python"), ids=name)
def test_python_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the document and in one directory, with the files of the README beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    save(README, tmp_path)
    save(document, tmp_path)
    known = set(sys.modules)
    try:
        for number, block in enumerate(blocks(document, "python")):
            where = f"{name(document)}:{block.line}"
            if block.mark == "fragment":
                compile(block.text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                continue
            path = tmp_path / f"block_{number}.py"
            path.write_text("\n" * block.line + block.text)
            try:
                runpy.run_path(str(path), run_name="__main__")
            except Exception as e:
                raise AssertionError(f"the block at {where} failed: {type(e).__name__}: {e}") from e
    finally:
        for module in set(sys.modules) - known:
            if getattr(sys.modules[module], "__file__", None) and str(tmp_path) in str(sys.modules[module].__file__):
                del sys.modules[module]


def test_the_suite_in_the_docs_passes_under_pytest(tmp_path: Path) -> None:
    """docs/drivers.md: the broker and its tests, as a reader would have them. A few of the checks: the rest run
    above."""
    save(ROOT / "docs" / "drivers.md", tmp_path)
    few = "publish_keeps_order or settle_counts_once or full_is_exact"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", few, "test_shelf.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed, 1 skipped" in done.stdout


def test_a_driver_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventwagon.drivers.opening import open_drivers

    document = ROOT / "docs" / "drivers.md"
    save(document, tmp_path)
    (toml,) = blocks(document, "toml")
    info = tmp_path / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    entries = toml.text.replace('[project.entry-points."eventwagon.drivers"]', "[eventwagon.drivers]").replace('"', "")
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert type(open_drivers("shelf://").broker).__name__ == "ShelfBroker"
    finally:
        sys.modules.pop("shelf", None)


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr or "WARNING" not in done.stderr
