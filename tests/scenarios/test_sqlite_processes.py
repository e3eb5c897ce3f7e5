"""The SQLite broker between several processes: exact bounds, kills, stale handles, what a crash left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from eventwagon.drivers.sqlite import SQLiteBroker, actor
from eventwagon.errors import BrokerError, ChannelFull, ChannelGone, Sealed
from tests.sqlite import INGRESS, broker_with, events

spawn = multiprocessing.get_context("spawn")


# --- several processes --------------------------------------------------------------------


def publish_until_refused(directory: Path, batch: int, pipe: Connection) -> None:
    """A publishing process: says "ready", waits for "go", sends the ids that were accepted."""

    async def main() -> list[str]:
        accepted: list[str] = []
        async with SQLiteBroker(directory) as broker:
            await broker.depth([INGRESS])
            pipe.send("ready")
            pipe.recv()
            while True:
                some = events(batch)
                try:
                    await broker.publish(INGRESS, some)
                except ChannelFull as e:
                    return accepted + [event.id for event in some[: e.accepted]]
                except (Sealed, ChannelGone):
                    return accepted
                accepted += [event.id for event in some]

    pipe.send(asyncio.run(main()))


def claim_and_hang(directory: Path, visibility: float, owner: str, alone: bool, pipe: Connection) -> None:
    async def main() -> None:
        async with (
            SQLiteBroker(directory) as broker,
            broker.consume(INGRESS, visibility=visibility, owner=owner) as consumer,
        ):
            got = await consumer.receive(10, 5)
            if alone:
                assert await consumer.alone(got[0])
            pipe.send([delivery.event.id for delivery in got])
            await asyncio.sleep(60)

    asyncio.run(main())


def publish_and_tell(directory: Path, pipe: Connection) -> None:
    async def main() -> None:
        async with SQLiteBroker(directory) as broker:
            while True:
                some = events(20)
                await broker.publish(INGRESS, some)
                pipe.send([event.id for event in some])

    asyncio.run(main())


class Process:
    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=target, args=(*arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()

    async def hear(self) -> Any:
        if not await asyncio.to_thread(self.pipe.poll, 20):
            raise AssertionError("the process says nothing")
        return self.pipe.recv()

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self._process.join(10)
        assert self._process.exitcode is not None
        self._process.close()


def test_capacity_is_exact_between_processes(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteBroker(tmp_path) as broker:
            await broker.create(INGRESS, capacity=1003)
            publishers = [Process(publish_until_refused, tmp_path, batch) for batch in (1, 7, 50)]
            for publisher in publishers:
                assert await publisher.hear() == "ready"
            for publisher in publishers:
                publisher.pipe.send("go")
            accepted = [i for publisher in publishers for i in await publisher.hear()]
            assert len(accepted) == 1003
            assert {event.id async for event in broker.read(INGRESS)} == set(accepted)
            for publisher in publishers:
                publisher.end()

    asyncio.run(main())


def test_what_was_accepted_is_received_when_sealed_drained_and_deleted_in_a_race(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS, sync="normal") as broker:
            publishers = [Process(publish_until_refused, tmp_path, batch) for batch in (1, 10, 100)]
            for publisher in publishers:
                assert await publisher.hear() == "ready"
            for publisher in publishers:
                publisher.pipe.send("go")
            received: list[str] = []
            async with broker.consume(INGRESS, visibility=60) as consumer:
                await asyncio.sleep(0.3)
                await broker.seal(INGRESS)
                (depth,) = await broker.depth([INGRESS])
                while len(received) < (depth.published or 0):
                    got = await consumer.receive(500, 1)
                    received += [delivery.event.id for delivery in got]
                    await consumer.settle(got)
            await broker.delete(INGRESS)
            accepted = [i for publisher in publishers for i in await publisher.hear()]
            assert accepted
            assert sorted(received) == sorted(accepted)
            assert not list((tmp_path / "signups").iterdir())
            for publisher in publishers:
                publisher.end()

    asyncio.run(main())


def test_a_killed_publisher_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            publisher = Process(publish_and_tell, tmp_path)
            accepted = [i for _ in range(20) for i in await publisher.hear()]
            publisher.kill()
            with suppress(EOFError):
                while publisher.pipe.poll(0):
                    accepted += publisher.pipe.recv()
            assert set(accepted) <= {event.id async for event in broker.read(INGRESS)}
            await broker.publish(INGRESS, events(1))

    asyncio.run(main())


def test_a_killed_consumers_claims_come_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(10))
            hanging = Process(claim_and_hang, tmp_path, 0.5, "", False)
            claimed = await hanging.hear()
            hanging.kill()
            async with broker.consume(INGRESS, visibility=30) as consumer:
                got = [delivery for _ in claimed for delivery in await consumer.receive(10, 5)]
            assert [delivery.event.id for delivery in got] == claimed
            assert {(delivery.attempt, delivery.suspect) for delivery in got} == {(1, True)}

    asyncio.run(main())


def test_a_killed_process_s_claims_come_back_at_once_when_they_are_reclaimed(tmp_path: Path) -> None:
    """It had been given a suspect and said that it was alone: that counts, and only that."""

    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(10))
            async with broker.consume(INGRESS, visibility=0.1) as consumer:
                (first,) = await consumer.receive(1, 5)
                await asyncio.sleep(0.2)
            one = Process(claim_and_hang, tmp_path, 600.0, "box-1", True)
            assert await one.hear() == [first.event.id]
            two = Process(claim_and_hang, tmp_path, 600.0, "box-2", False)
            rest = await two.hear()
            one.kill()
            two.kill()
            async with broker.consume(INGRESS, visibility=30) as consumer:
                assert await consumer.receive(10, 0.1) == []
                waiting = asyncio.create_task(consumer.receive(10, 5))
                await asyncio.sleep(0.05)
                await broker.reclaim(INGRESS, "box-1")
                assert [(d.event.id, d.attempt, d.suspect) for d in await waiting] == [(first.event.id, 2, True)]
                assert await consumer.receive(10, 0.1) == []
                await broker.reclaim(INGRESS, "box-2")
                others = [delivery for _ in rest for delivery in await consumer.receive(10, 1)]
                assert [(d.event.id, d.attempt, d.suspect) for d in others] == [(event, 1, True) for event in rest]

    asyncio.run(main())


def test_another_process_s_events_arrive_soon(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            broker_with(tmp_path, INGRESS) as broker,
            SQLiteBroker(tmp_path) as other,
            broker.consume(INGRESS, visibility=30) as consumer,
        ):
            waiting = asyncio.create_task(consumer.receive(1, 10))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await other.publish(INGRESS, events(1))
            assert len(await waiting) == 1
            assert time.monotonic() - began < 1

    asyncio.run(main())


# --- files that come and go ---------------------------------------------------------------


def test_a_stale_handle_neither_stores_nor_creates(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, SQLiteBroker(tmp_path) as stale:
            await stale.publish(INGRESS, events(1))
            async with stale.consume(INGRESS, visibility=1) as consumer:
                got = await consumer.receive(1, 5)
                waiting = asyncio.create_task(consumer.receive(1, 30))
                await asyncio.sleep(0.05)
                await broker.delete(INGRESS)
                for use in (waiting, stale.publish(INGRESS, events(1)), consumer.settle(got), consumer.release(got)):
                    with pytest.raises(ChannelGone):
                        await use
            await stale.seal(INGRESS)
            assert not list((tmp_path / "signups").iterdir())
            await stale.create(INGRESS)
            (depth,) = await broker.depth([INGRESS])
            assert (depth.published, depth.waiting) == (0, 0)

    asyncio.run(main())


def test_files_removed_by_hand_take_no_more_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(1))
            for path in (tmp_path / "signups").iterdir():
                path.unlink()
            with pytest.raises(ChannelGone):
                await broker.publish(INGRESS, events(1))
            assert await broker.channels("signups") == []

    asyncio.run(main())


@pytest.mark.parametrize("left", [("v1.db-wal", "v1.db-shm"), ("v1.db",)])
def test_what_a_crash_left_of_a_wagon_is_found_deleted_or_made_whole(tmp_path: Path, left: tuple[str, ...]) -> None:
    async def main() -> None:
        folder = tmp_path / "signups"
        async with SQLiteBroker(tmp_path) as broker:
            for finish in (broker.delete, broker.create):
                folder.mkdir(exist_ok=True)
                for name in left:
                    (folder / name).touch()
                assert await broker.channels("signups") == [INGRESS]
                with pytest.raises(ChannelGone):
                    await broker.publish(INGRESS, events(1))
                await finish(INGRESS)
                if finish == broker.delete:
                    assert not list(folder.iterdir())
            await broker.publish(INGRESS, events(1))

    asyncio.run(main())


@pytest.mark.parametrize("finish", ["delete", "create"])
def test_a_crash_between_emptying_and_unlinking_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finish: str
) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(3))

            def crash(*_: object) -> None:
                raise OSError(5, "crash")

            with monkeypatch.context() as patch:
                patch.setattr(actor, "remove_dead", crash)
                with pytest.raises(BrokerError):
                    await broker.delete(INGRESS)
        async with SQLiteBroker(tmp_path) as broker:
            assert (tmp_path / "signups" / "v1.db").exists()
            with pytest.raises(ChannelGone):
                await broker.publish(INGRESS, events(1))
            assert await broker.channels("signups") == [INGRESS]
            await getattr(broker, finish)(INGRESS)
            assert await broker.channels("signups") == ([INGRESS] if finish == "create" else [])
            (depth,) = await broker.depth([INGRESS])
            assert depth.published == (0 if finish == "create" else None)

    asyncio.run(main())
