"""Commands whose orchestrator was killed: what it started is found and ended, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest

from eventwagon.orchestrators.processes.records import RUN, Run, UnitFiles, created, is_alive, started_by
from tests.commands import GRACEFUL, PATIENCE, ROOT, TRAIN, Place, spec
from tests.deployed import is_ready, until, until_deployed


@pytest.fixture
def at(tmp_path: Path) -> Place:
    return Place(tmp_path)


PARENT = """
import asyncio, sys
from pathlib import Path
from tests.commands import *
from tests.deployed import *

async def main():
    async with Place(Path(sys.argv[1])).command(GRACEFUL, stop=sys.argv[2:]) as orchestrator:
        await until_deployed(orchestrator, spec(workers=2), is_ready)
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def killed(
    at: Place, *, supervisor: signal.Signals | None = None, stop: Sequence[str] = ()
) -> AsyncIterator[Run]:
    """An orchestrator in a process of its own was killed, and its supervisor stopped or killed; what that had
    started."""
    argv = [sys.executable, "-c", PARENT, str(at.processes.parent), *stop]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220 - we wait for its word
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            state = UnitFiles(at.processes, TRAIN, 1).state()
            assert state is not None
            if supervisor is not None:
                os.kill(state.pid, supervisor)
            run = at.run
        finally:
            parent.kill()
    try:
        yield run
        assert not is_alive(state)
        assert started_by(run) == []
        assert list(at.processes.iterdir()) == []
    finally:
        for pid in started_by(run):
            os.kill(pid, signal.SIGKILL)


def test_copies_end_gracefully_with_a_killed_parent(at: Place) -> None:
    async def scenario() -> None:
        async with killed(at) as run:
            await until("the copies have ended", lambda: not started_by(run))
            assert sorted(at.noted("ended")) == sorted(at.noted("began"))
            async with at.command(GRACEFUL) as next_one:
                await next_one.remove(TRAIN, 1, grace=0.0)  # what is left are records

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "supervisor", [signal.SIGKILL, signal.SIGSTOP], ids=["supervisor killed", "supervisor stopped"]
)
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_orphans_are_found_and_ended_by_the_next_orchestrator(
    at: Place, supervisor: signal.Signals, wanted: bool
) -> None:
    async def scenario() -> None:
        async with killed(at, supervisor=supervisor) as run:
            orphans = started_by(run)
            assert len(orphans) >= 2  # the shells, and what they run just now
            async with at.command(GRACEFUL) as next_one:
                assert list(await next_one.deployments(TRAIN)) == [1]
                if wanted:
                    await until_deployed(next_one, spec(workers=2), lambda d: d.ready and at.run != run)
                    assert not any(created(pid) for pid in orphans)
                else:
                    await next_one.remove(TRAIN, 1, grace=10.0)
            if supervisor == signal.SIGKILL:  # asked first, they ended by themselves
                assert len({str(pid) for pid in orphans} & set(at.noted("ended"))) == 2

    asyncio.run(scenario())


def test_containers_of_a_killed_keeper_are_stopped(at: Place) -> None:
    stop = ["touch", f"{at.notes}/stop-{{copy}}"]

    async def scenario() -> None:
        async with killed(at, supervisor=signal.SIGKILL, stop=stop), at.command("exit 1") as next_one:
            await next_one.remove(TRAIN, 1, grace=10.0)
            assert {"stop-1", "stop-2"} <= {path.name for path in at.notes.iterdir()}

    asyncio.run(scenario())


def test_who_is_not_of_that_run_is_never_signalled(at: Place) -> None:
    """The record of a supervisor long gone: its token stands in nobody's environment, whatever pids were given
    again."""

    async def scenario() -> None:
        async with at.command(GRACEFUL) as orchestrator:
            UnitFiles(at.processes, TRAIN, 1).write(Run(token="of a run long gone"))  # noqa: S106
            assert list(await orchestrator.deployments(TRAIN)) == [1]
            await orchestrator.remove(TRAIN, 1, grace=0.0)
            assert await orchestrator.deployments(TRAIN) == {}

    environment = {**os.environ, RUN: "of another run"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment) as stranger:
        asyncio.run(scenario())
        assert stranger.poll() is None
        stranger.communicate(b"\n", timeout=PATIENCE)


def test_two_orchestrators_start_a_unit_once(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(GRACEFUL) as first, at.command(GRACEFUL) as second:
            for _ in range(20):
                await asyncio.gather(first.ensure(spec()), second.ensure(spec()))
            await until_deployed(first, spec(), is_ready)
            await until_deployed(second, spec(), is_ready)
            assert len(at.noted("began")) == 1
            supervisors = [p for p in psutil.Process().children() if "processes.command" in " ".join(p.cmdline())]
            assert len(supervisors) == 1

    asyncio.run(scenario())
