"""What type checkers say: nothing against the examples and the documents' code, and where a program is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, blocks, having, name

PROGRAM = """
from collections.abc import Awaitable, Callable
from typing import Any

from eventwagon import BatchContext, Context, Elastic, Train, Volume, Wait, Workers, testing


train = Train("t", limit=Wait(2.0) | Volume(100), workers=Workers(each=Elastic(2, 64)), spares="auto", attempts=None)
Train("t", atempts=3)  # refused
Train("t", attempts="3")  # refused
Train("t", backoff=1, breaker=None, wagons=4, reuse=True)
Train("t", breaker=True)  # refused
Train("t", limit=5)  # refused
Train("t", workers=5)  # refused
Train("t", at_cap="drop")  # refused


@train.on("t", concurrency=4, rate="20/s", dead_on=(ValueError, KeyError))
async def ship(order: int, ctx: Context) -> None:
    await ctx.emit("mail", order, subject="s")
    ctx.emit("mail")  # refused
    ctx.emit("mail", order, subjct="s")  # refused
    await ctx.emit(mail, "a text")
    ctx.emit(mail, order)  # refused
    ctx.emit(Thing().handle, order)  # refused
    ctx.emit(rows, b"one of a list", after=5)
    ctx.emit(rows, order)  # refused
    ctx.emit(order, order)  # refused


@train.on("mail", concurrency="4")  # refused
def mail(text: str) -> None: ...


@train.on("late", timeout=5, retry_on=OSError)
def late(text: str, ctx: Context | None = None) -> None: ...


@train.on("rows", batch=10)
async def rows(many: list[bytes], ctx: BatchContext) -> None:
    ctx.emit(late, "a text", of=0)
    ctx.emit(late, 7, of=0)  # refused


class Thing:
    async def handle(self, text: str) -> None: ...


train.on("method")(Thing().handle)
train.on("lambda")(lambda text: None)


def counted(handler: Callable[[Any, Context], Awaitable[None]]) -> Callable[[Any, Context], Awaitable[None]]:
    return handler


@train.on("counted")
@counted
async def under_a_decorator(order: int, ctx: Context) -> None: ...


@train.on("nothing")  # refused
async def takes_nothing() -> None: ...


@train.on("three")  # refused
async def takes_three(order: int, ctx: Context, more: int) -> None: ...


@train.on("keyword")  # refused
async def takes_a_keyword(order: int, *, more: int) -> None: ...


async def use() -> None:
    await ship("seven", Context.fake())  # refused
    await ship(7, Context.fake(state=1, attempt=2))
    Context.fake(attempt="2")  # refused
    async with train.connect("memory://") as connection:
        await connection.publish(7, subject="s")
        await connection.publish()  # refused
    async with testing.running(train, dead="keep", attempts=3) as t:
        letters: list[testing.DeadLetter] = t.dead
        number: int = await t.publish(7)  # refused
    async with testing.running(train, atempts=3):  # refused
        pass
    async with testing.running(train, dead="maybe"):  # refused
        pass
"""


Checker = Callable[..., list[str]]


def mypy(kept: Path, *files: Path) -> list[str]:
    """The errors that mypy finds in these files, as `FILE:LINE: …`. What it knows of our source is kept for the next
    call."""
    options = ["--strict", "--no-error-summary", "--hide-error-context", "--explicit-package-bases"]
    command = [sys.executable, "-m", "mypy", *options, f"--cache-dir={kept}", *map(str, files)]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    (files[0].parent / "mypy.ini").write_text("[mypy]\n[mypy-django.*]\nignore_missing_imports = True\n")
    done = subprocess.run(
        command, cwd=files[0].parent, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def pyright(_: Path, *files: Path) -> list[str]:
    """The same by pyright, in the build that brings its own node."""
    command = Path(sys.executable).with_name("basedpyright")
    if not command.exists():
        pytest.skip("basedpyright is not installed")
    directory = files[0].parent
    config = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT / "src")], "pythonVersion": "3.11"}
    (directory / "pyrightconfig.json").write_text(json.dumps({**config, "include": [str(file) for file in files]}))
    done = subprocess.run(
        [str(command), "--outputjson", "--pythonpath", sys.executable, "-p", str(directory)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(files), done.stdout + done.stderr
    return [
        f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in found["generalDiagnostics"]
        if each["severity"] == "error"
    ]


def code_of(document: Path) -> dict[str, str]:
    """The Python of a document by the names of its files; blocks that are no file get one."""
    stem = re.sub(r"\W", "_", name(document).removesuffix(".md"))
    return {
        block.mark.removeprefix("file: ") or f"block_{stem}_{number}.py": "\n" * block.line + block.text
        for number, block in enumerate(blocks(document, "python"))
        if block.mark != "fragment"
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    """The examples and the code of all documents, in as few directories as their names allow. Each has the files of
    the README beside them, unless a document has others of the same name."""
    readme = code_of(ROOT / "README.md")
    groups: list[dict[str, str]] = [{path.name: path.read_text() for path in sorted((ROOT / "examples").glob("*.py"))}]
    for document in having("python"):
        code = code_of(document)
        own = next((group for group in groups if all(group.get(file, text) == text for file, text in code.items())), {})
        if not own:
            groups.append(own)
        own.update(code)
    made = []
    for group in groups:
        directory = tmp_path_factory.mktemp("types")
        made.append([directory / file for file in {**readme, **group}])
        for file, text in {**readme, **group}.items():
            (directory / file).write_text(text)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_examples_and_documents_pass(checker: Checker, kept: Path, programs: list[list[Path]]) -> None:
    assert [error for files in programs for error in checker(kept, *files)] == []


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_what_is_wrong_is_found_where_it_is(checker: Checker, kept: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    lines = PROGRAM.splitlines()
    refused = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    found = {int(error.split(":")[1]): error for error in checker(kept, program)}
    assert {number: lines[number - 1] for number in refused - found.keys()} == {}
    assert [found[number] for number in found.keys() - refused] == []
