"""A whole train whose wagons have processes of their own, and processes that work for one wagon."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.contracts.facts import WorkersCrashed
from eventwagon.errors import UsageError
from eventwagon.event import Channel
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.testing.virtual_time import run
from eventwagon.views.train import look
from tests.programs.killers import killers
from tests.programs.numbers import numbers
from tests.support import World, signups, until


async def settled(connection: Connection, number: int) -> int:
    depth = (await connection.broker.depth([Channel(connection.train.name, number)]))[0]
    return depth.settled or 0


def test_each_wagon_in_its_process_through_three_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volume(50), 160 events: wagons 1 to 3 take 50 each, in three processes, and all is handled; nothing is left
    over."""
    monkeypatch.setenv("HANDLED", str(tmp_path / "handled"))
    (tmp_path / "handled").mkdir()
    url = f"sqlite:///{tmp_path}/trains"
    processes = tmp_path / "processes"

    async def scenario() -> None:
        orchestrator = Subprocess("tests.programs.numbers:numbers", url=url, directory=processes, grace=5.0)
        connection = numbers.connect(url, orchestrator=orchestrator, listeners=())
        async with asyncio.timeout(150), connection as train, train.running():
            assert await train.publish_many(str(n) for n in range(160)) == 160
            await train.wait_drained(3)
            while await settled(train, 4) < 10:
                await asyncio.sleep(0.02)
            workers = [d.workers for d in (await orchestrator.deployments("numbers")).values()]
            assert sum(workers) <= 6
            assert all(m.roles == ("observe",) for m in await train.members())

    asyncio.run(scenario())
    lines = [line.split() for file in (tmp_path / "handled").iterdir() for line in file.read_text().splitlines()]
    assert sorted(int(number) for _, _, number in lines) == list(range(160))
    by_wagon = {wagon: {pid for pid, w, _ in lines if w == wagon} for _, wagon, _ in lines}
    assert sorted(by_wagon) == ["1", "2", "3", "4"]
    pids = [pid for of in by_wagon.values() for pid in of]
    assert len(set(pids)) == len(pids) == 4
    assert list(processes.iterdir()) == []


def test_a_process_that_ends_by_itself_is_told_in_the_log_the_journal_and_status(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/trains"

    async def scenario() -> None:
        orchestrator = Subprocess("tests.programs.killers:killers", url=url, directory=tmp_path / "run", grace=5.0)
        async with (
            asyncio.timeout(60),
            killers.connect(url, orchestrator=orchestrator) as train,
            train.running(),
        ):
            await train.publish("kill")
            told: list[WorkersCrashed] = []
            while not told:
                await asyncio.sleep(0.05)
                told = [entry.fact async for entry in train.journal() if isinstance(entry.fact, WorkersCrashed)]
            assert told[0].number == 1
            assert told[0].because.startswith("its process was killed by signal 9")
            while not (crashed := (await look(train, url)).crashed):
                await asyncio.sleep(0.05)
            assert "its process was killed by signal 9" in crashed[0]

    with caplog.at_level(logging.WARNING, "eventwagon"):
        asyncio.run(scenario())
    assert (
        "a process of the workers of killers_v1 ended by itself, and another is started: its process was" in caplog.text
    )


async def one_wagon(world: World, train: Train, handled: list[str]) -> None:
    async with world.connect(train) as publisher, world.running(train, work=False):
        await publisher.publish_many({"email": f"{n}@x"} for n in range(3))
        async with world.connect(train) as c, c.running(observe=False, wagon=1, workers=2):
            await until(lambda: len(handled) == 3)
            members = {m.roles: m for m in await publisher.members()}
            assert [(a.number, a.workers) for a in members[("serve",)].attachments] == [(1, 2)]
            await publisher.publish_many({"email": f"{n}@y"} for n in range(150))
            released = asyncio.create_task(c.released(1))
            async with world.running(train, observe=False):  # wagon 2 needs workers to be ready
                await released
                await until(lambda: len(handled) == 153)


def test_a_process_can_work_for_one_wagon_beside_those_that_share() -> None:
    handled: list[str] = []
    world = World()
    run(one_wagon(world, signups(handled, limit=Volume(100), workers=Workers(total=4)), handled))


def test_one_wagon_needs_its_number_and_workers() -> None:
    async def scenario() -> None:
        world = World()
        for wagon, workers in ((0, 2), (1, 0)):
            with pytest.raises(UsageError, match="a wagon's number"):
                async with world.connect(signups([])) as c, c.running(observe=False, wagon=wagon, workers=workers):
                    pass

    run(scenario())
