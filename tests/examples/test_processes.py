"""What the examples' `run.py` share: their processes end with them, each once and in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = """
import asyncio, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
from examples.processes import Processes, run

async def main():
    async with Processes() as processes:
        await processes.start("part", sys.argv[1], sys.argv[2])

        async def is_up():
            return "up" in processes.log("part")

        await processes.until("it is up", is_up)
        print("are up", flush=True)
        if "dies" in sys.argv:
            await processes.until("nothing", lambda: asyncio.sleep(0, False))
        await asyncio.sleep(60)

sys.exit(run(main()))
"""
PART = """
import os, signal, sys, time
told = []
def tell(number, _):
    told.append(number)
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + chr(10))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, tell)
print("up", os.getpid(), flush=True)
while not told:
    time.sleep(0.01)
time.sleep(0.3)  # it finishes what it has begun
with open(sys.argv[1], "a") as file:
    file.write("finished" + chr(10))
"""


def example(folder: Path, *more: str) -> subprocess.Popen[str]:
    """It has just said that its part is up. In a group of its own, as a terminal would start it."""
    (folder / "part.py").write_text(PART)
    run = subprocess.Popen(
        [sys.executable, "-c", EXAMPLE, str(folder / "part.py"), str(folder / "told"), *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "are up\n"
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_each_process_gets_one_signal(number: signal.Signals, tmp_path: Path) -> None:
    """From a terminal the whole group is told. A second signal would cut short what it finishes."""
    with example(tmp_path) as run:
        os.killpg(run.pid, number)
        _, errors = run.communicate(timeout=20)
    assert (tmp_path / "told").read_text().split() == ["SIGTERM", "finished"]
    assert (run.returncode, errors) == (130, "interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody is told that its parent was killed")
def test_no_process_outlives_an_example_that_is_killed(tmp_path: Path) -> None:
    with example(tmp_path) as run:
        (part,) = psutil.Process(run.pid).children()
        run.kill()
        with suppress(psutil.NoSuchProcess):
            part.wait(20)
    assert not (tmp_path / "told").exists()


def test_a_part_that_was_killed_is_named_with_its_signal(tmp_path: Path) -> None:
    with example(tmp_path, "dies") as run:
        (part,) = psutil.Process(run.pid).children()
        part.kill()
        _, errors = run.communicate(timeout=20)
    assert run.returncode == 1
    assert errors.startswith("BROKEN: the process 'part' was ended by SIGKILL; the last that it wrote: up ")


@pytest.mark.parametrize("module", ["examples.orders.provider", "examples.mailing.provider"])
def test_a_port_that_is_taken_is_told_in_one_line(module: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", module, "--port", str(taken.getsockname()[1])]
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
    assert run.returncode == 1
    assert run.stderr.startswith("port ")
    assert len(run.stderr.splitlines()) == 1
