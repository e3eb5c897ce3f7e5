"""Processes per wagon when something goes wrong: crashes, hangs, killed parents, two orchestrators, pids given
again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.errors import Unavailable, UsageError
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.orchestrators.processes import orchestrator as module
from eventwagon.orchestrators.processes.records import (
    ProcessState,
    Stillness,
    UnitFiles,
    Want,
    created,
    held,
    is_alive,
    kill,
    take,
)
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.runtime.probe import PROBE
from tests.deployed import is_ready, until, until_deployed

ROOT = Path(__file__).parents[2]
TRAIN = "signups"
PATIENCE = 30.0


class Place:
    """A broker, and orchestrators over one directory of processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes = directory / "processes"
        self.held = directory / "held"
        self.held.mkdir()
        self.url = f"sqlite:///{directory}/trains"
        self.broker = SQLiteBroker(directory / "trains")

    def orchestrator(self, **options: Any) -> Subprocess:
        return Subprocess(
            **{
                "target": "tests.programs.held:signups",
                "url": self.url,
                "directory": self.processes,
                "environment": {"HELD": str(self.held)},
                "grace": 0.5,
                **options,
            }
        )

    async def spec(self, number: int = 1, workers: int = 1) -> WagonSpec:
        ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
        for channel in (ingress, dead):
            await self.broker.create(channel)
        return WagonSpec(
            train=TRAIN, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def give(self, spec: WagonSpec, **payload: str) -> None:
        await self.give_all(spec, payload)

    async def give_all(self, spec: WagonSpec, *payloads: dict[str, str]) -> None:
        """In one call: a consumer may get them together."""
        now = time.time()
        ids = new_ids(len(payloads), now)
        events = [Event(i, "t", "s", now, msgspec.json.encode(p)) for i, p in zip(ids, payloads, strict=True)]
        await self.broker.publish(spec.channels[0], events)

    def state(self, number: int = 1) -> ProcessState:
        found = UnitFiles(self.processes, TRAIN, number).state()
        assert found is not None
        return found

    def noted(self, name: str, number: int = 1) -> list[str]:
        try:
            return (self.held / f"{name}-{number}").read_text().splitlines()
        except FileNotFoundError:
            return []


@contextlib.asynccontextmanager
async def place(directory: Path) -> AsyncIterator[Place]:
    there = Place(directory)
    async with there.broker:
        yield there


def test_a_crashed_process_is_told_with_its_exit_code_and_last_words_and_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            await until_deployed(orchestrator, spec, is_ready)
            first = at.state().pid
            await at.give(spec, do="say", text="the last words")
            await until("said", lambda: at.noted("finished"))
            await at.give(spec, do="exit")
            told = await until_deployed(orchestrator, spec, lambda d: "exit code 3" in d.trouble, ensure=False)
            assert "the last words" in told.trouble
            await until_deployed(orchestrator, spec, is_ready)
            assert at.state().pid != first

    asyncio.run(scenario())


def test_an_event_that_always_kills_its_process_dies_and_takes_no_other_along(tmp_path: Path) -> None:
    """Two attempts: it kills its first process among others, which counts against none, and two more alone. The
    orchestrator starts each successor, which has what was in hand at once: all is over well within the visibility time
    of 30 s."""

    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec(workers=2)
            await until_deployed(orchestrator, spec, is_ready)
            said = [{"do": "say", "text": f"neighbour {n}"} for n in range(6)]
            began = time.monotonic()
            await at.give_all(spec, *said[:2], {"do": "exit"}, *said[2:])

            async def done() -> bool:
                (ingress,) = await at.broker.depth(spec.channels)
                return ingress.settled == 7

            async with asyncio.timeout(60):
                while not await done():
                    await orchestrator.ensure(spec)
                    await asyncio.sleep(0.02)
            took = time.monotonic() - began
            (dead,) = [event async for event in at.broker.read(spec.dead_letters)]
            assert msgspec.json.decode(dead.data) == {"do": "exit"}
            assert dead.extensions["deadbecause"] == "its process ended while it handled this event alone"
            exited = at.noted("exited")
            assert len(exited) == len(set(exited)) == 3
            assert len(at.noted("finished")) >= 6
            assert took < 25.0, f"{took:.1f} s"
            await until_deployed(orchestrator, spec, is_ready)

    asyncio.run(scenario())


def test_what_a_killed_process_had_in_hand_is_the_next_one_s_at_once(tmp_path: Path) -> None:
    """Its successor holds the unit's lock: it has certainly ended. Within the visibility time of 30 s by far."""

    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            await until_deployed(orchestrator, spec, is_ready)
            await at.give(spec, do="hold")
            await until("begun", lambda: at.noted("began"))
            os.kill(at.state().pid, signal.SIGKILL)
            began = time.monotonic()
            await until_deployed(orchestrator, spec, lambda _: len(at.noted("began")) == 2)
            assert time.monotonic() - began < 20.0
            assert len(set(at.noted("began"))) == 2
            (at.held / "free").touch()
            await until("finished", lambda: at.noted("finished"))

    asyncio.run(scenario())


def test_the_process_of_a_replay_runs_behind_those_of_new_events(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            for spec in (await at.spec(), msgspec.structs.replace(await at.spec(2), replay=1)):
                await until_deployed(orchestrator, spec, is_ready)
            news, past = (psutil.Process(at.state(number).pid).nice() for number in (1, 2))
            assert past == news + 10

    asyncio.run(scenario())


def test_a_program_that_does_not_load_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at:
            async with at.orchestrator(target="tests.programs.nowhere:signups") as orchestrator:
                spec = await at.spec()
                await until_deployed(
                    orchestrator, spec, lambda d: "there is no module 'tests.programs.nowhere'" in d.trouble
                )
            async with at.orchestrator(target="tests.programs.signups:register") as orchestrator:
                await until_deployed(orchestrator, spec, lambda d: "is a function, not a Train" in d.trouble)

    asyncio.run(scenario())


def test_the_probe_leaves_no_trace(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            stale = Channel(TRAIN, 1, PROBE)  # of a process that was killed while it probed
            await at.broker.create(stale)
            await at.broker.publish(stale, [Event(new_ids(1, 0.0)[0], "t", "s", 0.0, b"{}")])
            await until_deployed(orchestrator, spec, is_ready)
            assert sorted(c.name for c in await at.broker.channels(TRAIN)) == ["", DEAD]
            depths = await at.broker.depth([*spec.channels, spec.dead_letters])
            assert [(d.published, d.settled) for d in depths] == [(0, 0), (0, 0)]

    asyncio.run(scenario())


def test_a_process_that_never_yields_is_killed_and_replaced_and_its_neighbour_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator(hung_after=1.5) as orchestrator:
            spec, other = await at.spec(1), await at.spec(2)
            await until_deployed(orchestrator, spec, is_ready)
            await until_deployed(orchestrator, other, is_ready)
            first, neighbour = at.state(1), at.state(2)
            await at.give(spec, do="spin", seconds="60")
            await until("it spins", lambda: at.noted("began"))
            await until_deployed(orchestrator, spec, lambda d: "no sign of life" in d.trouble)
            await at.give(other, do="say", text="at work")
            await until("the neighbour works", lambda: at.noted("finished", 2))
            assert not is_alive(first)
            assert at.state(2).pid == neighbour.pid

    asyncio.run(scenario())


def test_two_orchestrators_never_start_a_wagon_twice_and_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT", 1.0)

    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as second:
            spec = await at.spec(workers=2)
            async with at.orchestrator() as first:
                for _ in range(20):
                    await asyncio.gather(first.ensure(spec), second.ensure(spec))
                await until_deployed(first, spec, is_ready)
                await until_deployed(second, spec, is_ready)
                began = at.state()
                ours = [p.pid for p in psutil.Process().children() if "processes.subprocess" in " ".join(p.cmdline())]
                assert ours == [began.pid]
            await until_deployed(second, spec, lambda d: d.ready and at.state().pid != began.pid)
            more = msgspec.structs.replace(spec, workers=3)
            await until_deployed(second, more, lambda d: d.ready and d.workers == 3)
        assert list(at.processes.iterdir()) == []

    asyncio.run(scenario())


PARENT = """
import asyncio, sys
from tests.scenarios.test_subprocess_orchestrator import place, until_deployed, is_ready
from pathlib import Path

async def main():
    async with place(Path(sys.argv[1])) as at, at.orchestrator() as orchestrator:
        spec = await at.spec()
        await until_deployed(orchestrator, spec, is_ready)
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def killed_parent(directory: Path, *, stop_child: bool = False) -> ProcessState:
    """Start an orchestrator in a process of its own, and kill that; what its child was."""
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            state = UnitFiles(directory / "processes", TRAIN, 1).state()
            assert state is not None
            if stop_child:
                os.kill(state.pid, signal.SIGSTOP)
        finally:
            parent.kill()
    return state


def test_children_end_with_a_killed_parent(tmp_path: Path) -> None:
    state = killed_parent(tmp_path / "here")
    lock = tmp_path / "here" / "processes" / "signups_v1.lock"
    asyncio.run(until("the child has ended", lambda: created(state.pid) is None and not held(lock)))


def test_an_orphan_that_does_not_end_is_found_and_ended_by_the_next_orchestrator(tmp_path: Path) -> None:
    orphan = killed_parent(tmp_path / "here", stop_child=True)
    (tmp_path / "here" / "held").rmdir()

    async def scenario() -> None:
        async with place(tmp_path / "here") as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            assert is_alive(orphan)
            assert list(await orchestrator.deployments(TRAIN)) == [1]
            await until_deployed(orchestrator, spec, lambda d: d.ready and at.state().pid != orphan.pid)
            assert not is_alive(orphan)
        assert list(at.processes.iterdir()) == []

    asyncio.run(scenario())


def test_a_stopped_process_is_removed_after_its_grace(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            await until_deployed(orchestrator, spec, is_ready)
            state = at.state()
            os.kill(state.pid, signal.SIGSTOP)
            await orchestrator.remove(TRAIN, 1, grace=0.1)
            assert not is_alive(state)
            assert await orchestrator.deployments(TRAIN) == {}

    asyncio.run(scenario())


def test_a_pid_given_again_is_never_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of a process long gone names a pid that now belongs to somebody else; its lock is held by yet
    another."""

    async def scenario(record: ProcessState) -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            files = UnitFiles(at.processes, TRAIN, 1)
            files.write(record)
            lock = take(files.lock_path)
            assert lock is not None
            try:
                with pytest.raises(Unavailable, match="is held by process"):
                    await orchestrator.remove(TRAIN, 1, grace=0.0)
            finally:
                os.close(lock)
            await orchestrator.remove(TRAIN, 1, grace=0.0)
            assert await orchestrator.deployments(TRAIN) == {}

    monkeypatch.setattr(module, "_KILL_PATIENCE", 0.5)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        since = created(stranger.pid)
        assert since is not None
        record = ProcessState(
            pid=stranger.pid, created=since - 60.0, owner="orchestrator-1-gone", begun=True, ready=True
        )
        assert not is_alive(record)
        assert not kill(record)
        asyncio.run(scenario(record))
        assert stranger.poll() is None
        stranger.communicate(b"\n", timeout=PATIENCE)


def test_what_processes_print_reaches_stderr_with_the_wagons_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec(3)
            await until_deployed(orchestrator, spec, is_ready)
            await at.give(spec, do="say", text="hello\nworld")
            await until("said", lambda: at.noted("finished", 3))
            await orchestrator.remove(TRAIN, 3, grace=5.0)

    asyncio.run(scenario())
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if line.endswith(("hello", "world"))] == [
        "signups_v3 | hello",
        "signups_v3 | world",
    ]


def test_logs_in_a_directory_stay_and_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator(logs=tmp_path / "logs") as orchestrator:
            spec = await at.spec()
            await until_deployed(orchestrator, spec, is_ready)
            for _ in range(3):
                await at.give(spec, do="say", text="x" * 200_000)
            await until("the log is turned", lambda: (tmp_path / "logs" / "signups_v1.log.1").exists())
            await at.give(spec, do="say", text="the end")
            await until("said", lambda: len(at.noted("finished")) == 4)
            await orchestrator.remove(TRAIN, 1, grace=5.0)

    asyncio.run(scenario())
    assert "the end" in (tmp_path / "logs" / "signups_v1.log").read_text()


def test_the_url_stands_on_no_command_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            spec = await at.spec()
            await until_deployed(orchestrator, spec, is_ready)
            line = psutil.Process(at.state().pid).cmdline()
            assert at.url not in " ".join(line)
            assert line[1:6] == [
                "-m",
                "eventwagon.orchestrators.processes.subprocess",
                "tests.programs.held:signups",
                TRAIN,
                "1",
            ]

    asyncio.run(scenario())


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="module:attribute"):
        Subprocess("signups", url="sqlite:///x")
    with pytest.raises(UsageError, match="memory"):
        Subprocess("app:signups", url="memory://")

    async def scenario() -> None:
        async with place(tmp_path) as at, at.orchestrator() as orchestrator:
            with pytest.raises(UsageError, match="number of workers"):
                await orchestrator.ensure(msgspec.structs.replace(await at.spec(), workers=None))

    asyncio.run(scenario())


def test_stillness_does_not_count_the_watchers_own_pause() -> None:
    still = Stillness()
    assert still.seconds("a", 1, 100.0) == 0.0
    assert still.seconds("a", 1, 100.5) == 0.5
    assert still.seconds("a", 1, 500.0) == 1.5
    assert still.seconds("a", 2, 500.5) == 0.0


def test_what_a_dead_orchestrator_wanted_of_a_unit_does_not_keep_a_new_train_from_it(tmp_path: Path) -> None:
    """A unit moves only on, but for records of a train that was there before: wagon 1 of the new one gets its
    process."""

    async def main() -> None:
        async with place(tmp_path) as there:
            spec = await there.spec(1)
            there.processes.mkdir()
            later = msgspec.structs.replace(spec, number=5, channels=(Channel(TRAIN, 5),))
            UnitFiles(there.processes, TRAIN, 1).write(Want(owner="orchestrator-gone", spec=later))
            async with there.orchestrator() as orchestrator:
                found = await until_deployed(orchestrator, spec, lambda d: d.ready)
                assert found.number == 1

    asyncio.run(main())
