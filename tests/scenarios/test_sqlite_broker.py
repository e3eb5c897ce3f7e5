"""What is special to the SQLite broker: threads, clocks, claims, statements."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any, NoReturn

import apsw
import pytest

from eventwagon.contracts.broker import Delivery
from eventwagon.drivers.sqlite import SQLiteBroker, SQLiteRegistry, actor, storage, turn
from eventwagon.errors import Unavailable
from eventwagon.event import LATEST, Channel, Event, checked
from tests.sqlite import DEAD, INGRESS, INNER, Clock, broker_with, events


def test_deleting_one_channel_keeps_the_others_of_its_wagon(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS, INNER, DEAD) as broker:
            for channel in (INGRESS, INNER, DEAD):
                await broker.publish(channel, events(2))
            await broker.delete(INGRESS)
            assert await broker.channels("signups") == [DEAD, INNER]
            assert len([event async for event in broker.read(INNER)]) == 2
            await broker.delete(INNER)
            await broker.delete(DEAD)
            assert await broker.channels("signups") == []
            assert not (tmp_path / "signups" / "v1.db").exists()

    asyncio.run(main())


ODD_ROWS: list[tuple[object, ...]] = [
    (b"\xff", "t", "s", 1.0, None, "a/b", None, b"blob id"),
    ("i", b"Z\xfcrich", "s", 1.0, None, "a/b", None, b"latin"),
    ("i", "t", "s", "yesterday", None, "a/b", None, b"time"),
    ("", "", "", 9e999, "", "", None, b"left out"),
    ("i", "t", "s", 1.0, None, "a/b", "{", b"extensions"),
    ("i", "t", "s", 1.0, None, "a/b", '{"a": 1}', b"numbers"),
    ("i", "t", "s", 1.0, None, "a/b", "[" * 5000, b"deep"),
    ("i", "t", "s", 1.0, 5, "a/b", '{"Bad-Name": "x"}', "text"),
]


def test_rows_that_others_wrote_end_no_receive_and_no_reading(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INNER) as broker:
            await broker.publish(INNER, events(1))
            db = apsw.Connection(str(tmp_path / "signups" / "v1.db"))
            for row in ODD_ROWS:
                sql = (
                    "INSERT INTO event SELECT channel, max(seq) + 1,?,CAST(? AS TEXT),?,?,?,?,?,? FROM event "
                    "GROUP BY channel"
                )
                db.execute(sql, row)
            db.close()
            await broker.publish(INNER, events(1))
            found = [event async for event in broker.read(INNER)]
            async with broker.consume(INNER, visibility=60.0) as consumer:
                got: list[Delivery] = []
                while len(got) < 10:
                    got += await consumer.receive(20, 5.0)
                assert [d.event for d in got] == found
                await consumer.release(got)
                again = await consumer.receive(20, 5.0)
                assert sorted(d.event.id for d in again) == sorted(e.id for e in found)
                await consumer.settle(again)
            (depth,) = await broker.depth([INNER])
            assert (depth.published, depth.settled) == (10, 10)
        for event in found:
            assert checked(event, 10**9) == event
        bad = [e for e in found if "undecodable" in e.extensions]
        assert [e.data for e in bad] == [b"blob id", b"latin", b"extensions", b"numbers", b"deep", b"text"]
        assert [e.id for e in bad][:2] == ["signups_v1.welcome/2", "signups_v1.welcome/3"]
        time, left_out = [e for e in found[1:-1] if e not in bad]
        assert (time.id, time.time, time.data) == ("i", 0.0, b"time")
        assert left_out == Event("signups_v1.welcome/5", "unknown", "unknown", LATEST, b"left out")

    asyncio.run(main())


def test_deleting_and_creating_at_once_ends_in_one_or_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteBroker(tmp_path) as one, SQLiteBroker(tmp_path) as two:
            for _ in range(30):
                await asyncio.gather(one.create(INGRESS), two.create(INNER), one.delete(INGRESS), two.delete(INNER))
                await asyncio.gather(one.create(INGRESS), two.create(INGRESS))
                await two.publish(INGRESS, events(1))
                assert [event async for event in one.read(INGRESS)]
                await asyncio.gather(one.delete(INGRESS), two.delete(INGRESS))
                await asyncio.gather(one.delete(INNER), two.delete(INNER))
                assert await one.channels("signups") == []

    asyncio.run(main())


def test_threads_and_handles_grow_with_live_wagons_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "IDLE", 0.2)

    def handles() -> int:
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH208, PTH112

    async def main() -> None:
        async with SQLiteBroker(tmp_path, sync="normal") as broker, SQLiteBroker(tmp_path, sync="normal") as other:
            for wagon in range(1, 201):
                channel = Channel("signups", wagon)
                await broker.create(channel)
                await other.publish(channel, events(1))
                async with broker.consume(channel, visibility=30) as consumer:
                    await consumer.settle(await consumer.receive(1, 1))
                await broker.seal(channel)
                await broker.delete(channel)
                if wagon == 10:
                    await asyncio.sleep(0.5)
                    before = threading.active_count(), handles()
            await asyncio.sleep(0.5)
            assert threading.active_count() <= before[0]
            assert handles() <= before[1]
            assert not list((tmp_path / "signups").iterdir())

    threads = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == threads


# --- turns --------------------------------------------------------------------------------


def test_concurrent_publishers_share_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = 0
    connect = storage.connect

    def commit() -> bool:
        nonlocal commits
        commits += 1
        return False  # go on

    def counted(*given: Any, **options: Any) -> Any:
        if (db := connect(*given, **options)) is not None:
            db.set_commit_hook(commit)
        return db

    async def main() -> None:
        nonlocal commits
        monkeypatch.setattr(actor, "connect", counted)
        async with broker_with(tmp_path, INGRESS) as broker:
            assert commits  # the channel's own
            commits = 0

            async def publisher() -> None:
                for event in events(10):
                    await broker.publish(INGRESS, [event])

            await asyncio.gather(*(publisher() for _ in range(64)))
            assert 0 < commits < 640 / 8

    asyncio.run(main())


def test_one_publisher_s_bad_event_harms_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            (bad,) = events(1)
            bad = Event(id=bad.id, type="\ud800", source="s", time=0, data=b"")
            results = await asyncio.gather(
                broker.publish(INGRESS, events(100)),
                broker.publish(INGRESS, [*events(100), bad]),
                broker.publish(INGRESS, events(1)),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [type(None), UnicodeEncodeError, type(None)]
            assert len([event async for event in broker.read(INGRESS)]) == 101

    asyncio.run(main())


def test_a_cancelled_receive_leaves_nothing_claimed(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=600) as consumer:
            await broker.publish(INGRESS, events(5))
            lock = apsw.Connection(str(tmp_path / "signups" / "v1.db"))
            lock.execute("BEGIN IMMEDIATE")
            receiving = asyncio.create_task(consumer.receive(5, 10))
            await asyncio.sleep(0.1)  # it waits for the lock
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            lock.execute("ROLLBACK")
            lock.close()
            got = await consumer.receive(5, 10)
            assert [delivery.attempt for delivery in got] == [1] * 5

    asyncio.run(main())


def test_leaving_finishes_what_was_begun_and_refuses_what_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS, INNER) as broker, broker.consume(INNER, visibility=30) as consumer:
            waiting = asyncio.create_task(consumer.receive(1, 60))
            await asyncio.sleep(0.05)
            publishing = asyncio.create_task(broker.publish(INGRESS, events(100)))
            await asyncio.sleep(0)
            await broker.__aexit__()
            await publishing
            with pytest.raises(Unavailable, match="closed"):
                await waiting
            with pytest.raises(Unavailable, match="not open"):
                await broker.publish(INGRESS, events(1))
        async with SQLiteBroker(tmp_path) as broker:
            assert (await broker.depth([INGRESS]))[0].published == 100

    asyncio.run(main())


def test_an_idle_file_is_closed_and_opened_again_on_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "IDLE", 0.05)

    async def main() -> None:
        threads = threading.active_count()
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=30) as consumer:
            for _ in range(3):
                await asyncio.sleep(0.3)
                assert threading.active_count() <= threads + 1  # the loop's own helper
                await broker.publish(INGRESS, events(1))
                assert len(await consumer.receive(1, 5)) == 1

    asyncio.run(main())


# --- claims -------------------------------------------------------------------------------


def test_a_clock_set_back_holds_no_claim(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with broker_with(tmp_path, INGRESS, clock=clock) as broker:
            await broker.publish(INGRESS, events(2))
            async with broker.consume(INGRESS, visibility=30) as consumer:
                got = await consumer.receive(2, 1)
                await consumer.release(got[:1], delay=20)
                waiting = asyncio.create_task(consumer.receive(2, 10))
                await asyncio.sleep(0.05)
                clock.now -= 3600
                got = [*await waiting, *await consumer.receive(2, 1)]
                assert [(d.attempt, d.suspect) for d in got] == [(1, True), (2, False)]
                assert await consumer.receive(2, 0.1) == []  # claimed anew
                clock.now += 31
                assert [len(await consumer.receive(2, 1)) for _ in range(3)] == [1, 1, 0]

    asyncio.run(main())


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_what_comes_back_and_what_is_new_don_t_starve_each_other(tmp_path: Path, limit: int) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=30) as consumer:
            await broker.publish(INGRESS, events(100))
            poison = await consumer.receive(20, 1)
            await consumer.release(poison)
            new, again = 0, 0
            for _ in range(40 // limit):
                got = await consumer.receive(limit, 1)
                new += sum(delivery.attempt == 1 for delivery in got)
                again += sum(delivery.attempt > 1 for delivery in got)
                await consumer.release([delivery for delivery in got if delivery.attempt > 1])
            assert new >= 10
            assert again >= 10

    asyncio.run(main())


def test_a_file_of_an_earlier_release_is_used_as_it_is(tmp_path: Path) -> None:
    """It gets the column that it lacks with the first write; the release that made it goes on with it."""

    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(4))
            async with broker.consume(INGRESS, visibility=600) as consumer:
                await consumer.receive(1, 1)
        file = apsw.Connection(str(tmp_path / "signups" / "v1.db"))
        file.execute("ALTER TABLE claim DROP COLUMN owner; UPDATE claim SET until=1.0")
        async with SQLiteBroker(tmp_path) as broker:
            assert (await broker.depth([INGRESS]))[0].waiting == 4
            async with broker.consume(INGRESS, visibility=600, owner="gone") as consumer:
                (suspect,) = await consumer.receive(10, 1)
                assert (suspect.attempt, suspect.suspect) == (1, True)
                assert len(await consumer.receive(1, 1)) == 1
                file.execute(  # as the earlier release claims
                    "INSERT INTO claim (channel, seq, held, until, since, attempt, ticket) VALUES (1, 3, 1, 2e9, 2e9, "
                    "1, 9);UPDATE channel SET received=3"
                )
                file.close()
                await broker.reclaim(INGRESS, "gone")
                got = [d for _ in range(3) for d in await consumer.receive(10, 1)]
                assert sorted((d.token[1], d.attempt, d.suspect) for d in got) == [
                    (1, 1, True),
                    (2, 1, True),
                    (4, 1, False),
                ]

    asyncio.run(main())


def test_many_suspects_and_many_others_take_turns(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            await broker.publish(INGRESS, events(300))
            async with broker.consume(INGRESS, visibility=600, owner="gone") as consumer:
                await consumer.receive(100, 1)
            await broker.reclaim(INGRESS, "gone")
            async with broker.consume(INGRESS, visibility=600) as consumer:
                again = await consumer.receive(10, 1)
                await consumer.release(await consumer.receive(10, 1))
                kinds = [[(d.suspect, d.attempt) for d in await consumer.receive(10, 1)] for _ in range(6)]
            assert [d.suspect for d in again] == [True]
            assert kinds[0::2] == [[(True, 1)]] * 3
            assert all(len(batch) == 10 and not any(suspect for suspect, _ in batch) for batch in kinds[1::2])
            assert {attempt for batch in kinds[1::2] for _, attempt in batch} == {1, 2}

    asyncio.run(main())


def test_a_stale_repeat_of_a_release_leaves_the_next_holder_s_claim(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=30) as consumer:
            await broker.publish(INGRESS, events(1))
            first = await consumer.receive(1, 1)
            await consumer.release(first, tried=False)
            second = await consumer.receive(1, 1)
            assert second[0].attempt == first[0].attempt  # so the attempt alone can't tell them apart
            await consumer.release(first, tried=False)
            assert await consumer.receive(1, 0.05) == []

    asyncio.run(main())


def test_deliveries_of_a_deleted_channel_mean_nothing_to_its_successor(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS, INNER) as broker, broker.consume(INNER, visibility=30) as consumer:
            await broker.publish(INNER, events(1))
            old = await consumer.receive(1, 1)
            await broker.delete(INNER)
            await broker.create(INNER)
            await broker.publish(INNER, events(1))
            new = await consumer.receive(1, 1)
            await consumer.release(old)
            await consumer.settle(old)
            (depth,) = await broker.depth([INNER])
            assert (depth.published, depth.settled, depth.in_flight) == (1, 0, 1)
            await consumer.settle(new)

    asyncio.run(main())


def test_large_events_come_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "BATCH_BYTES", 100_000)

    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=30) as consumer:
            large = [Event(id=str(n), type="t", source="s", time=0, data=os.urandom(30_000)) for n in range(10)]
            await broker.publish(INGRESS, large)
            got: list[Delivery] = []
            while len(got) < 10:
                some = await consumer.receive(100, 1)
                assert 1 <= len(some) <= 3
                got += some
            assert [delivery.event for delivery in got] == large
            assert [event async for event in broker.read(INGRESS)] == large

    asyncio.run(main())


def test_batches_take_few_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of SQLite hands over the interpreter's lock, and a busy event loop may give it back milliseconds
    later."""
    steps = 0

    class Counting(apsw.Connection):
        def execute(self, *arguments: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            cursor = super().execute(*arguments, **named)
            cursor.row_trace = count_row
            return cursor

    def count_row(cursor: apsw.Cursor, row: Any) -> Any:
        nonlocal steps
        steps += 1
        return row

    monkeypatch.setattr(apsw, "Connection", Counting)

    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker, broker.consume(INGRESS, visibility=30) as consumer:
            before = steps
            await broker.publish(INGRESS, events(1000))
            got = await consumer.receive(1000, 5)
            await consumer.settle(got)
            assert len(got) == 1000
            assert steps - before < 100

    asyncio.run(main())


def test_others_can_read_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with broker_with(tmp_path, INGRESS) as broker:
            event = Event("1", "user.registered", "web", 1.5, b'{"a":1}', "key", extensions={"traceparent": "00"})
            await broker.publish(INGRESS, [event])

    asyncio.run(main())
    with sqlite3.connect(tmp_path / "signups" / "v1.db") as db:
        row = db.execute(
            "SELECT e.id, type, source, time, subject, content_type, extensions, data FROM event e"
            " JOIN channel c ON c.id = e.channel WHERE c.name = ''"
        ).fetchone()
        assert row == (
            "1",
            "user.registered",
            "web",
            1.5,
            "key",
            "application/json",
            '{"traceparent":"00"}',
            b'{"a":1}',
        )
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.close()


def test_the_library_that_is_used_is_new_enough() -> None:
    storage.check_version()


def test_a_receive_that_is_cancelled_as_it_is_answered_gives_its_events_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        channel = Channel("t", 1)
        async with SQLiteBroker(tmp_path) as broker:
            await broker.create(channel)
            async with broker.consume(channel, visibility=60) as subscription:
                receiving = asyncio.create_task(subscription.receive(10, 30))
                await asyncio.sleep(0.05)
                deliver = actor.Actor.deliver

                def cancelling(self: actor.Actor, answers: list[actor.Answer], idle: bool) -> None:
                    deliver(self, answers, idle)
                    if any(isinstance(value, list) and value for _, value, _ in answers):
                        receiving.cancel()

                monkeypatch.setattr(actor.Actor, "deliver", cancelling)
                await broker.publish(channel, [Event("1", "T", "/", 1.0, b"{}")])
                with pytest.raises(asyncio.CancelledError):
                    await receiving
                monkeypatch.undo()
                (again,) = await subscription.receive(10, 10)
                assert (again.event.id, again.attempt) == ("1", 1)

    asyncio.run(main())


def test_a_folder_that_can_not_be_listed_for_want_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(folder))

    async def main() -> None:
        async with SQLiteBroker(tmp_path) as broker, SQLiteRegistry(tmp_path) as registry:
            monkeypatch.setattr(os, "scandir", full)
            for listing in (broker.channels("t"), registry.trains()):
                with pytest.raises(Unavailable, match="can't be listed: this process has no file descriptor left"):
                    await listing

    asyncio.run(main())
