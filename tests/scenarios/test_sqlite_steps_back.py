"""A train's registry file that was copied back: while nobody ran, and under living processes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import apsw
import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.contracts.facts import EventsLost, Fact, RegistrySteppedBack
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.errors import Conflict
from tests.support import journal, until

TRAIN = "signups"


def a_train(handled: list[int]) -> Train:
    train = Train(TRAIN, limit=Volume(100_000), workers=Workers(total=4))

    @train.on(TRAIN)
    async def handle(event: int) -> None:
        handled.append(event)

    return train


async def switched(connection: Connection) -> int:
    manifest = (await connection.refresh()).manifest
    before = manifest.active.number if manifest.active else 0
    await connection.request_switch("by hand")
    async with asyncio.timeout(30):
        while (now := (await connection.refresh()).manifest.active) is None or now.number <= before:
            await asyncio.sleep(0.02)
    return now.number


def copied(file: Path, to: Path) -> None:
    """As somebody does who restores one file: the others beside it belong to the newer one."""
    for suffix in ("-wal", "-shm"):
        Path(f"{to}{suffix}").unlink(missing_ok=True)
    shutil.copy(file, to.with_suffix(".new"))
    to.with_suffix(".new").replace(to)


def saved(file: Path, to: Path) -> None:
    """A copy with all that was committed."""
    with apsw.Connection(str(file)) as source, apsw.Connection(str(to)) as target:
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step()
        target.pragma("journal_mode", "wal")
    source.close()
    target.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("living", [True, False], ids=["under living processes", "while nobody ran"])
def test_a_file_that_was_copied_back(tmp_path: Path, living: bool) -> None:
    """The wagon that it names is drained and removed since, and those that are it does not know: all events are
    handled, and no number is used twice."""
    file, copy = tmp_path / "data" / TRAIN / "train.db", tmp_path / "older.db"

    async def main() -> None:
        handled: list[int] = []
        facts: list[Fact] = []
        url = f"sqlite:///{tmp_path}/data"
        train = a_train(handled)

        async def first(connection: Connection) -> int:
            await connection.publish(1)
            await until(lambda: 1 in handled)
            saved(file, copy)
            await switched(connection)
            number = await switched(connection)
            async with asyncio.timeout(30):
                while len((await connection.refresh()).manifest.wagons) > 1:
                    await asyncio.sleep(0.05)
            return number

        async def then(connection: Connection, used: int) -> None:
            await connection.publish(2, timeout=20)
            await until(lambda: {1, 2, 3} <= set(handled), seconds=30)
            new = [await switched(connection), await switched(connection)]
            assert min(new) > used
            await connection.publish(4, timeout=20)
            await until(lambda: 4 in handled, seconds=30)
            async with asyncio.timeout(60):
                while {c.wagon for c in await connection.broker.channels(TRAIN)} - {0} != {new[-1]}:
                    await asyncio.sleep(0.1)

        if living:
            async with (
                train.connect(url, listeners=[facts.append]) as connection,
                connection.running(),
                a_train(handled).connect(url) as follower,
            ):
                used = await first(connection)
                copied(copy, file)
                await connection.publish(3, timeout=20)
                await then(follower, used)
                assert [f for f in facts if isinstance(f, RegistrySteppedBack)]
                assert [e for e in await journal(connection) if isinstance(e.fact, RegistrySteppedBack)]
        else:
            async with train.connect(url) as connection, connection.running():
                used = await first(connection)
            async with train.connect(url) as connection:
                await connection.publish(3)  # stands in a wagon that the older manifest does not know
            copied(copy, file)
            async with train.connect(url, listeners=[facts.append]) as connection, connection.running():
                await then(connection, used)
                await until(lambda: any(isinstance(f, EventsLost) for f in facts), seconds=30)
                assert [f.number for f in facts if isinstance(f, EventsLost)] == [1]

    asyncio.run(main())


def test_a_version_beyond_the_known_one(tmp_path: Path) -> None:
    """Compare-and-swap still holds, and who watches hears of it."""

    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry, registry.watch(TRAIN) as watching:
            one = await registry.replace(TRAIN, Manifest(train=TRAIN), expect=0, beyond=1000)
            assert one.version == 1001
            while (await anext(watching)).version < 1001:
                pass
            with pytest.raises(Conflict):
                await registry.replace(TRAIN, Manifest(train=TRAIN), expect=1, beyond=5000)
            two = await registry.replace(TRAIN, Manifest(train=TRAIN), expect=1001, beyond=5)
            assert two.version == 1002
            assert await registry.read(TRAIN) == two == await anext(watching)

    asyncio.run(main())
