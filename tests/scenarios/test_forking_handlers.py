"""A handler that forks: the copy of its process ends with it, and never works in its parent's place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, sys
from eventwagon import Train, Workers

kind, where = sys.argv[1:]
train = Train("t", workers=Workers(total=2), visibility=60.0)
done = []

def fork(n):
    if n == 0:
        child = os.fork()
        if child == 0:
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status), flush=True)
    done.append(n)

if kind == "sync":
    @train.on("t")
    def handle(n: int) -> None:
        fork(n)
elif kind == "async":
    @train.on("t")
    async def handle(n: int) -> None:
        fork(n)
else:
    @train.on("t")
    async def handle(n: int) -> None:
        done.append(n)

    @train.every(1)
    async def tick():
        child = os.fork()
        if child == 0 and kind == "schedule raises":
            sys.exit(7)
        if child:
            _, status = os.waitpid(child, 0)
            print("child", os.waitstatus_to_exitcode(status), flush=True)
            done.append(4)

async def main():
    async with train.connect(where) as c, c.running():
        for n in range(4):
            await c.publish(n)
        async with asyncio.timeout(20):
            while len(done) < 4 + kind.startswith("schedule"):
                await asyncio.sleep(0.01)
        print("done", sorted(done)[:4], flush=True)

asyncio.run(main())
"""


def ran(kind: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(program), kind, f"sqlite:///{folder}/trains"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_copy_that_a_handler_makes_ends_as_it_was_told(kind: str, tmp_path: Path) -> None:
    said = ran(kind, tmp_path)
    assert (said.returncode, said.stdout) == (0, "child 7\ndone [0, 1, 2, 3]\n"), said.stderr[-2000:]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.parametrize(("kind", "code"), [("schedule raises", 7), ("schedule returns", 0)])
def test_a_copy_that_a_schedules_function_makes_ends(kind: str, code: int, tmp_path: Path) -> None:
    said = ran(kind, tmp_path)
    assert said.returncode == 0, said.stderr[-2000:]
    assert said.stdout.splitlines()[0] == f"child {code}"
    assert said.stdout.splitlines()[-1] == "done [0, 1, 2, 3]"
