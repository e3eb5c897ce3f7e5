"""The documents hang together: generated parts, links, names of tests and checks, public names."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args

import pytest

import eventwagon
from eventwagon import testing
from eventwagon.contracts.facts import DECISIONS, Fact
from eventwagon.errors import EventwagonError
from eventwagon.limits import parse_limit
from eventwagon.options import Options
from eventwagon.settings import Settings
from eventwagon.testing.conformance import broker_checks, orchestrator_checks, registry_checks
from tests.docs.documents import DOCUMENTS, ROOT, name, prose
from tests.simulation.crash_points import POINTS


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return set(map(_anchor, heads))


def _anchor(head: str) -> str:
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


def test_generated_parts_are_up_to_date() -> None:
    command = [sys.executable, "scripts/docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_resolve(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        to = (document.parent / path).resolve() if path else document
        assert to.exists(), f"{name(document)}: {target} does not exist"
        assert to.is_relative_to(ROOT), f"{name(document)}: {target} leads out of the project"
        assert not anchor or anchor in anchors(to), f"{name(document)}: {target} has no such heading"


def test_every_document_is_linked_to() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)]+)\)", prose(document))
    }
    assert [name(d) for d in DOCUMENTS if d not in linked and d.name not in ("README.md", "index.md")] == []


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    promises, _, end = text.partition("\n## Which tests hold what\n")
    rows = re.findall(r"^\| \[[^]]*\]\(#([^)]+)\)[^|]*\| (.+) \|$", end, re.MULTILINE)
    assert len(rows) == end.count("\n|") - 2, "a row without a link to its promise"  # the head and the line below it
    tests = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests |= {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}
    checks = {str(c) for c in (*broker_checks(), *registry_checks(), *orchestrator_checks())}
    for promise, held in rows:
        names, files = set(re.findall(r"`([a-z0-9_]+)`", held)), re.findall(r"`([a-z0-9_/]+\.py)`", held)
        assert names or files, f"{promise} names no test"
        assert all((ROOT / file).is_file() for file in files), f"{promise}: {files}"
        assert {n for n in names if n.startswith("test_")} <= tests, f"{promise}: {names - tests} exist no more"
        killed = " ".join(re.findall(r"`test_killed` at (`\w+`(?:(?:, | and )`(?!test_)\w+`)*)", held))
        killed_at = set(re.findall(r"`(\w+)`", killed))
        assert killed_at <= {point.name for point in POINTS}, f"{promise}: {killed_at} are not all crash points"
        assert not promise.startswith("i") or names <= tests | checks, f"{promise}: {names - tests - checks}"
    heads = re.findall(r"^## (I\d+: .*)$", promises, re.MULTILINE)
    assert [head.partition(":")[0] for head in heads] == [f"I{n}" for n in range(1, 11)]
    rules = re.findall(r"^### (.*)$", promises, re.MULTILINE)
    assert {_anchor(head) for head in (*heads, *rules)} <= {promise for promise, _ in rows}, "a promise without a row"


def test_public_names() -> None:
    assert eventwagon.__all__ == sorted(eventwagon.__all__)
    exec(f"from eventwagon import {', '.join(eventwagon.__all__)}", {})  # noqa: S102 - our own names
    public = {n for n, value in vars(eventwagon).items() if not n.startswith("_") and not inspect.ismodule(value)}
    assert public == set(eventwagon.__all__)
    listed = (ROOT / "docs" / "index.md").read_text()
    for public_name in eventwagon.__all__:
        assert f"| `{public_name}` |" in listed
    own = {kind.__name__ for kind in _tree(EventwagonError) if kind.__module__ == EventwagonError.__module__}
    assert own | {"Defect", "Reject", "Retry", "Snooze", "Failed"} <= public
    exceptions = {n for n in public if inspect.isclass(kind := vars(eventwagon)[n]) and issubclass(kind, Exception)}
    assert [n for n in sorted(exceptions) if f"| `{n}` |" not in listed.partition("\n## Errors\n")[2]] == []
    assert {fact.__name__ for fact in (*DECISIONS, *get_args(Fact))} | {"Entry", "Listener"} <= public
    for public_name in public - {"Fact", "Listener"}:
        assert vars(getattr(eventwagon, public_name))["__doc__"], f"{public_name} has no docstring"


def test_errors_named_in_the_docs_exist() -> None:
    known = {kind.__name__ for kind in _tree(EventwagonError)} | {fact.__name__ for fact in DECISIONS}
    for document in DOCUMENTS:
        for said in re.findall(
            r"`(Publish[A-Z]\w+|Train(?!State)[A-Z]\w+|Storage\w+|Unavailable|Channel[A-Z]\w+)`", prose(document)
        ):
            assert said in known, f"{name(document)}: {said}"


def test_limits_written_in_the_docs_can_be_read() -> None:
    text = "\n".join(prose(d) for d in DOCUMENTS)
    for said in re.findall(r"--limit '([^']+)'", text):
        parse_limit(said)


def test_settings_named_in_the_docs_exist() -> None:
    text = "\n".join(prose(d) for d in DOCUMENTS)
    for said in re.findall(r"`([a-z_]+)=[^`]*`", text):
        known = {
            *Settings.__struct_fields__,
            *inspect.signature(testing.running).parameters,
            *inspect.signature(eventwagon.Context.fake).parameters,
            *Options.__struct_fields__,
            *inspect.signature(eventwagon.PauseOn).parameters,
            "each",
            "synchronous",
            "total",
            "most",
            "floor",
            "per_pod",
            "seconds",
            "low",
            "cut",
            "tried",
            "fences",
            "observe",
            "work",
            "extensions",  # of `emit`
            "after",  # of Retry and Snooze
            "id",  # of `publish`, and of sources
            "timeout",  # of `publish`
        }
        assert said in known, said


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_sound(picture: Path) -> None:
    root = ET.fromstring(picture.read_text())  # noqa: S314 - our own file
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in picture.read_text()


def _tree(kind: type[BaseException]) -> list[type[BaseException]]:
    return [kind, *(k for child in kind.__subclasses__() for k in _tree(child))]
