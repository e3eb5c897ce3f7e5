"""Wagons are archived before they go: on the memory broker, in virtual time. What the files look like is tested with
real ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.archives.past import ArchivedEvents
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.facts import (
    ArchiveIncomplete,
    EventsRescued,
    OrphanRemoved,
    StepFailed,
    WagonArchived,
    WagonRemoved,
    sentence,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Wagon
from eventwagon.contracts.replay import PastEvents
from eventwagon.contracts.rows import Row, packed, row_of
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.drivers.memory.once import MemoryOnce
from eventwagon.errors import ChannelGone, EventTooLarge, StorageBroken, Unavailable
from eventwagon.event import ARCHIVE, DEAD, Channel, Event
from eventwagon.policy.digest import digest_of, together, written
from eventwagon.runtime.settled_rows import SettledRows
from eventwagon.testing.virtual_time import run
from tests.archives import MemoryArchive, in_memory, less
from tests.ledgers import MemoryLedger
from tests.support import World, until

URL = "file:///var/archive"


def program(**settings: Any) -> Train:
    """Numbers; negative ones are rejected, each seventh fails at its first attempt; the others emit one to `inner`."""
    train = Train(
        "t",
        **{"limit": Volume(10), "workers": Workers(total=4), "spares": 1, "archive": URL, "backoff": 0.01, **settings},
    )

    @train.on("t")
    async def first(n: int, ctx: Context) -> None:
        if n < 0:
            raise Reject("below zero")
        if n % 7 == 6 and ctx.attempt == 1:
            raise RuntimeError("not yet")
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None:
        pass

    return train


def numbers(archive: MemoryArchive, channel: str, outcome: str = "handled") -> list[int]:
    return sorted(int(row.data) for _, row in archive.rows if row.channel == channel and row.outcome == outcome)


async def drained(world: World, train: Train, *events: int) -> None:
    """It has handled these, and all wagons that it filled are gone."""
    async with world.running(train) as c:
        await c.publish_many(events)
        await c.wait_switched(await c.request_switch())
        await until(lambda: len(c.manifest.in_state(State.ACTIVE, State.READY)) == len(c.manifest.wagons))


def test_each_event_of_each_channel_has_a_row() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            await drained(world, program(), *range(40), -1, -2)
        assert numbers(archive, "") == [*range(40)]
        assert numbers(archive, "inner") == [*range(40)]
        assert numbers(archive, "", "dead") == [-2, -1]
        assert {row.because for _, row in archive.rows if row.outcome == "dead"} == {"rejected: below zero"}
        attempts = {int(row.data): row.attempts for _, row in archive.rows if row.channel == ""}
        assert all(attempts[n] == (2 if n % 7 == 6 else 1) for n in range(40))
        facts = world.of(WagonArchived)
        assert sum(fact.count for fact in facts) == len(archive.rows) == 82
        for fact in facts:
            rows = [row for number, row in archive.rows if number == fact.number]
            assert fact.digest == written(together(*(digest_of([row.id], row.channel) for row in rows)))
        assert not world.of(ArchiveIncomplete)
        assert not world.of(StepFailed)
        assert not [c for c in await world.broker.channels("t") if c.wagon in {f.number for f in facts}]

    run(main())


def test_without_an_archive_nothing_is_kept() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program(archive=None)) as c:
                await c.publish_many(range(40))
                await until(lambda: len(world.of(WagonRemoved)) >= 3)
                assert not [each for each in await world.broker.channels("t") if each.name == ARCHIVE]
        assert archive.rows == []

    run(main())


def test_an_archive_that_is_away_delays_removal_and_nothing_else() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            archive.away = True
            async with world.running(program()) as c:
                await c.publish_many(range(40))
                await until(lambda: len(c.manifest.in_state(State.REMOVING)) >= 3)
                await asyncio.sleep(60)
                assert not world.of(WagonRemoved)
                assert numbers(archive, "") == []
                told = [fact for fact in world.of(StepFailed) if "archive is away" in fact.because]
                assert 3 <= len(told) <= 6  # once for each wagon
                await c.publish_many(range(40, 60))  # it goes on
                await until(lambda: len(c.manifest.in_state(State.REMOVING)) >= 5)
                archive.away = False
                await c.wait_switched(await c.request_switch())
                await until(lambda: not c.manifest.in_state(State.DRAINING, State.DRAINED, State.REMOVING))
        assert numbers(archive, "") == [*range(60)]
        assert numbers(archive, "inner") == [*range(60)]

    run(main())


def test_what_reads_back_otherwise_keeps_the_channels() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            archive.spoils = less
            async with world.running(program()) as c:
                await c.publish_many(range(12))
                await until(lambda: world.of(StepFailed))
                assert "10 rows written, 9 read" in world.of(StepFailed)[0].because
                assert Channel("t", 1, ARCHIVE) in await world.broker.channels("t")
                archive.spoils = lambda file: file
                await until(lambda: world.of(WagonRemoved))
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_a_crash_before_it_is_recorded_writes_it_again_and_once() -> None:
    """The process that removes a wagon ends when the files are there, and before anything is recorded or deleted."""

    async def main() -> None:
        world = World()
        with in_memory() as archive:
            stuck = asyncio.Event()

            def end() -> None:
                stuck.set()
                raise Unavailable("it ends here")

            archive.on_finished = end
            async with world.running(program()) as c:
                await c.publish_many(range(12))
                await stuck.wait()
            archive.on_finished = lambda: None
            async with world.running(program()):
                await until(lambda: world.of(WagonRemoved))
        assert archive.written > 1
        assert numbers(archive, "") == [*range(10)]
        assert [fact.number for fact in world.of(WagonArchived)] == [1]

    run(main())


def test_rows_that_are_there_twice_are_archived_once() -> None:
    """A process dies between keeping rows and settling: the events are handled again."""

    async def main() -> None:
        world = World()
        keep = SettledRows.keep

        async def twice(self: SettledRows, settled: Sequence[Any], skipped: Any) -> None:
            await keep(self, settled, skipped)
            await keep(self, settled, skipped)

        with in_memory() as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr(SettledRows, "keep", twice)
            await drained(world, program(), *range(30))
        assert numbers(archive, "") == [*range(30)]
        assert numbers(archive, "inner") == [*range(30)]
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_what_was_settled_without_a_row_is_told() -> None:
    """By a worker of an older version, say."""

    async def main() -> None:
        world = World()
        keep = SettledRows.keep

        async def forgetful(self: SettledRows, settled: Sequence[Any], skipped: Any) -> None:
            await keep(self, [each for each in settled if each[0].event.data != b"3"], skipped)

        with in_memory() as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr(SettledRows, "keep", forgetful)
            await drained(world, program(), *range(12))
        assert 3 not in numbers(archive, "")
        [told] = world.of(ArchiveIncomplete)
        assert (told.number, told.missing) == (1, 2)
        assert "settled without a row: 1 event of the ingress, 1 event of inner" in told.because
        assert {fact.wagon.number: fact.wagon.archived for fact in world.of(WagonRemoved)} == {1: 18, 2: 4}

    run(main())


class Narrow(MemoryBroker):
    """It refuses messages of more than 3,000 bytes."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if any(len(event.data) > 3000 for event in events):
            raise EventTooLarge("more than 3,000 bytes")
        await super().publish(channel, events)


def test_rows_that_the_broker_refuses_are_halved_and_at_last_lose_their_data() -> None:
    async def main() -> None:
        world = World()
        world.broker = Narrow(clock=world.clock)
        train = Train("t", limit=Volume(10), workers=Workers(total=4), archive=URL)

        @train.on("t")
        async def handle(data: bytes) -> None: ...

        with in_memory() as archive:
            async with world.running(train) as c:
                await c.publish_many([b"x" * 1000] * 5 + [b"y" * 2950] + [b"z" * 400] * 6)
                await until(lambda: world.of(WagonRemoved))
        rows = [row for _, row in archive.rows]
        assert Counter(len(row.data) for row in rows) == {1000: 5, 400: 4, 0: 1}
        assert [row.cut for row in rows if not row.data] == [2950]
        assert len(world.of(StepFailed)) == 1
        assert "without its data" in world.of(StepFailed)[0].because
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_a_train_that_a_publisher_founded() -> None:
    """Its first wagon was opened before anybody had declared an archive."""

    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.connect(Train("t")) as c:
                await c.publish_many(range(5))
                assert c.manifest.wagons[0].archive == ""
            await drained(world, program(), *range(5, 20))
        assert numbers(archive, "") == [*range(20)]
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_wagons_that_were_opened_without_one_are_removed_as_before() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program(archive=None)) as c:
                await c.publish_many(range(5))
            async with world.connect(program(), redeclare=True) as c, c.running():
                await c.publish_many(range(5, 40))
                await until(lambda: len(world.of(WagonArchived)) >= 1)
        assert numbers(archive, "")
        assert 0 not in numbers(archive, "")
        assert not world.of(ArchiveIncomplete)
        assert not world.of(EventsRescued)

    run(main())


def test_a_program_with_another_archive_is_refused() -> None:
    async def main() -> None:
        world = World()
        with in_memory():
            async with world.running(program()):
                pass
            for other in (None, "file:///elsewhere"):
                with pytest.raises(Exception, match="archive='file:///var/archive' there"):
                    async with world.running(program(archive=other)):
                        pass

    run(main())


def test_channels_that_somebody_deleted_are_told_and_the_wagon_goes() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program()) as c:
                await c.publish_many(range(5))
                await asyncio.sleep(5)
                await world.broker.delete(Channel("t", 1, ARCHIVE))
                await c.publish_many(range(5, 12))  # the next row makes it anew
                await until(lambda: world.of(WagonRemoved))
        assert numbers(archive, "") == [*range(5, 10)]
        [told] = world.of(ArchiveIncomplete)
        assert told.missing == 10

    run(main())


def test_rows_of_a_wagon_that_nobody_knows_get_files_of_their_own() -> None:
    """They are no events: nothing of them is published anew."""

    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program()) as c:
                await c.publish_many(range(12))
                await until(lambda: world.of(WagonRemoved))
                channel = Channel("t", 1, ARCHIVE)
                late = row_of(Event("late", "T", "/s", 1.0, b"99"), "", "handled", 1, 2.0)
                await world.broker.create(channel)
                await world.broker.publish(channel, [packed([late], "t")])
                await until(lambda: 99 in numbers(archive, ""), seconds=120)
                await until(lambda: world.of(OrphanRemoved))
                assert channel not in await world.broker.channels("t")
        assert numbers(archive, "") == [*range(10), 99]
        assert not world.of(EventsRescued)

    run(main())


def test_rows_are_kept_while_no_program_names_an_archive() -> None:
    """Nor do they say themselves where to write: anybody might have put them there."""

    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program(archive=None)) as c:
                await c.publish_many(range(12))
                await until(lambda: world.of(WagonRemoved))
                channel = Channel("t", 1, ARCHIVE)
                late = row_of(Event("late", "T", "/s", 1.0, b"99"), "", "handled", 1, 2.0)
                await world.broker.create(channel)
                await world.broker.publish(channel, [packed([late], "t")])
                await until(lambda: world.of(StepFailed), seconds=120)
                assert "holds rows for an archive, and this program names none" in world.of(StepFailed)[0].because
                assert channel in await world.broker.channels("t")
            async with world.connect(program(), redeclare=True) as c, c.running():
                await until(lambda: world.of(OrphanRemoved), seconds=120)
        assert numbers(archive, "") == [99]

    run(main())


def test_a_message_that_is_no_row_is_told() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program()) as c:
                await c.publish_many(range(5))
                await asyncio.sleep(1)
                await world.broker.publish(Channel("t", 1, ARCHIVE), [Event("x", "T", "/s", 1.0, b"?")])
                await c.publish_many(range(5, 12))
                await until(lambda: world.of(WagonRemoved))
        assert numbers(archive, "") == [*range(10)]
        assert "1 message in t_v1.archive-rows could not be read" in world.of(ArchiveIncomplete)[0].because

    run(main())


def test_a_train_that_is_removed_is_archived_first() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program()) as c:
                await c.publish_many(range(15))
                await until(lambda: numbers(archive, "") == [*range(10)])
                await asyncio.sleep(5)
            async with world.connect(Train("t")) as hand:
                archive.away = True
                with pytest.raises(Unavailable, match=r"train t is not removed: the archive is away\. Remove it where"):
                    await hand.remove()
                assert hand.manifest.removal is None  # nothing was begun
                archive.away = False
                await hand.remove()
            assert await world.broker.channels("t") == []
        assert numbers(archive, "") == [*range(15)]
        assert numbers(archive, "inner") == [*range(15)]

    run(main())


def test_by_force_it_is_removed_without() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            archive.away = True
            async with world.running(program()) as c:
                await c.publish_many(range(5))
                await asyncio.sleep(5)
            async with world.connect(Train("t")) as hand:
                await hand.remove(force=True)
            assert await world.broker.channels("t") == []
        assert archive.rows == []

    run(main())


def test_an_event_that_could_not_be_settled_at_once_has_one_row() -> None:
    """The driver fails on it again and again; it was handled once."""

    async def main() -> None:
        world = World()
        left = 3
        kept: list[Row] = []
        keep = SettledRows.keep

        async def seen(self: SettledRows, settled: Sequence[tuple[Delivery, Any]], skipped: Any) -> None:
            kept.extend(row_of(d.event, "", "handled", 1, 1.0) for d, _ in settled)
            await keep(self, settled, skipped)

        train = Train("t", limit=Volume(1), workers=Workers(total=1), archive=URL)
        handled = []

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        with in_memory() as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr(SettledRows, "keep", seen)
            async with world.running(train) as c:
                settle = MemorySubscription.settle

                async def fails(self: Any, deliveries: Sequence[Delivery]) -> None:
                    nonlocal left
                    if left and any(d.event.data == b"0" for d in deliveries):
                        left -= 1
                        raise TypeError("a defect")
                    await settle(self, deliveries)

                patch.setattr(MemorySubscription, "settle", fails)
                await c.publish(0)
                await c.publish(1)
                await until(lambda: 0 in numbers(archive, ""))
        assert left == 0
        assert handled.count(0) == 1
        assert [row.data for row in kept].count(b"0") == 1

    run(main())


def test_events_for_later_that_pass_through_the_ingress() -> None:
    """They count there as settled: each has a row that says that it went on."""

    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(10), workers=Workers(total=4), archive=URL)

        @train.on("t")
        async def first(n: int, ctx: Context) -> None:
            await ctx.emit("inner", n, after=5.0)

        @train.on("inner")
        async def inner(n: int) -> None: ...

        with in_memory() as archive:
            async with world.running(train) as c:
                await c.publish_many(range(5))
                await asyncio.sleep(10.0)
                await c.wait_switched(await c.request_switch())
                await until(lambda: world.of(WagonRemoved))
        assert numbers(archive, "") == [*range(5)]
        assert numbers(archive, "", "passed") == [*range(5)]
        assert numbers(archive, "inner") == [*range(5)]
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_a_wagon_that_was_never_used_leaves_no_file() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:
            async with world.running(program(spares=1)) as c:
                await until(lambda: len(c.manifest.ready) == 1)
                for _ in range(2):
                    await c.wait_switched(await c.request_switch())
                await until(lambda: len(world.of(WagonRemoved)) == 2)
        assert archive.stored == {}
        assert [fact.count for fact in world.of(WagonArchived)] == [0, 0]

    run(main())


def test_the_record_of_a_wagon_says_how_much_was_archived() -> None:
    async def main() -> None:
        world = World()
        with in_memory():
            await drained(world, program(), *range(10))
        wagon: Wagon = world.of(WagonRemoved)[0].wagon
        assert wagon.archive == URL
        assert wagon.archived == 20
        assert sentence(world.of(WagonArchived)[0]) == "t_v1 archived at memory: 20 rows in 2 files, 20 bytes"

    run(main())


def test_it_is_refused_when_observing_begins_where_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "eventwagon.archives.parquet", None)

    async def main() -> None:
        world = World()
        with pytest.raises(Exception, match=r"pip install 'eventwagon\[archive\]'"):
            async with world.running(program()):
                pass
        async with world.running(program(), observe=False):  # workers need none
            pass

    run(main())


def test_storage_that_is_broken_is_told_with_its_reason() -> None:
    async def main() -> None:
        world = World()
        with in_memory() as archive:

            def broken() -> None:
                raise StorageBroken("somebody else's file: move it away")

            archive.on_finished = broken
            async with world.running(program()) as c:
                await c.publish_many(range(12))
                await until(lambda: world.of(StepFailed))
                assert world.of(StepFailed)[0].step == "remove t_v1"
                assert "move it away" in world.of(StepFailed)[0].because

    run(main())


class Defective(MemoryBroker):
    """Its driver fails on the first rows that it is given."""

    left = 3

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.name == ARCHIVE and self.left:
            self.left -= 1
            raise TypeError("a defect")
        await super().publish(channel, events)


def test_a_defect_of_the_driver_costs_no_row_and_no_second_handling() -> None:
    async def main() -> None:
        world, handled = World(), list[int]()
        world.broker = Defective(clock=world.clock)
        train = Train("t", limit=Volume(10), workers=Workers(total=4), archive=URL)

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        with in_memory() as archive:
            await drained(world, train, *range(10))
        assert sorted(handled) == [*range(10)]
        assert numbers(archive, "") == [*range(10)]

    run(main())


def test_workers_that_leave_while_rows_can_not_be_stored_lose_none() -> None:
    """Nothing is settled without a row: the events come again."""

    class Away(MemoryBroker):
        away = True

        async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
            if channel.name == ARCHIVE and self.away:
                raise Unavailable("it is away")
            await super().publish(channel, events)

    async def main() -> None:
        world = World()
        world.broker = broker = Away(clock=world.clock)
        with in_memory() as archive:
            async with world.running(program(grace=1.0)) as c:
                await c.publish_many(range(10))
                await asyncio.sleep(2)
                assert (await world.broker.depth([Channel("t", 1)]))[0].settled == 0
            broker.away = False
            await drained(world, program(), 10)
        assert numbers(archive, "") == [*range(11)]
        assert numbers(archive, "inner") == [*range(11)]
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_events_that_share_an_id_have_a_row_each() -> None:
    """Two sources number alike, and one source uses an id for two events: all are handled, and all are archived."""

    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(4), workers=Workers(total=2), archive=URL)

        @train.on("t")
        async def handle(event: Event) -> None: ...

        sent = [
            Event("1", "T", "/shop", 1.0, b'"created"'),
            Event("1", "T", "/mobile", 1.0, b'"created"'),
            Event("1", "T", "/shop", 2.0, b'"paid"'),
            Event("1", "Paid", "/shop", 2.0, b'"paid"'),
        ]
        with in_memory() as archive:
            async with world.running(train) as c:
                await c.publish_many(sent)
                await c.publish(Event("5", "T", "/shop", 1.0, b"1"))
                await until(lambda: world.of(WagonRemoved))
        rows = [(row.type, row.source, row.data) for number, row in archive.rows if number == 1]
        assert Counter(rows) == {(e.type, e.source, e.data): 1 for e in sent}
        [archived] = [fact for fact in world.of(WagonArchived) if fact.number == 1]
        assert archived.count == 4
        assert archived.digest == written(digest_of(["1"] * 4))

    run(main())


def test_what_once_skips_is_not_archived_as_handled() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(2), workers=Workers(total=2), archive=URL, once=86_400)
        handled = list[int]()

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        with in_memory() as archive:
            async with world.running(train) as c:
                await c.publish(1, id="a")
                await until(lambda: handled == [1])
                for n, name in ((1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")):
                    await c.publish(n, id=name)
                await until(lambda: len(archive.rows) >= 4)
        assert handled == [1, 2, 3, 4, 5]
        assert [(row.id, row.outcome) for _, row in archive.rows if row.id == "a"] == [
            ("a", "handled"),
            ("a", "skipped"),
        ]
        source = ArchivedEvents(archive.open, URL, "t")
        past = [e async for events in source.events(1, "", [*archive.stored][:1]) for e in events]
        assert [(e.event.id, e.outcome) for e in past] == [("a", "handled"), ("a", "skipped")]
        assert [e.outcome for e in past if PastEvents(wagon=1).takes(e)] == ["handled"]

    run(main())


def test_what_was_recorded_as_its_process_left_is_archived_as_handled() -> None:
    """The record hangs on the first event; there is no time left to settle the second, which comes again."""

    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(2), archive=URL, once=86_400, grace=1.0)
        handled, hangs = list[int](), True
        record = MemoryOnce.record

        async def slow(self: MemoryOnce, *args: Any, **more: Any) -> None:
            nonlocal hangs
            if hangs:
                hangs = False
                await asyncio.Event().wait()
            await record(self, *args, **more)

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        with in_memory() as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryOnce, "record", slow)
            async with world.running(train) as c:
                await c.publish(1)
                await until(lambda: not hangs)
                await c.publish(2)
                await until(lambda: handled == [1, 2])
            async with world.running(train):
                await until(lambda: world.of(WagonArchived))
        assert handled.count(2) == 1
        assert 2 in numbers(archive, "")

    run(main())


@pytest.mark.parametrize("gone", [True, False])
def test_what_a_broker_without_totals_can_tell_is_told(gone: bool) -> None:
    async def main() -> None:
        world = World()
        with in_memory(), pytest.MonkeyPatch.context() as patch:
            async with world.running(program()) as c:
                await c.publish_many(range(8))
                await asyncio.sleep(5)
                known = world.broker.capabilities
                patch.setattr(world.broker, "capabilities", msgspec.structs.replace(known, totals=False))
                if gone:
                    await world.broker.delete(Channel("t", 1, ARCHIVE))
                else:
                    await world.broker.publish(Channel("t", 1, ARCHIVE), [Event("x", "T", "/s", 1.0, b"?")])
                await c.request_switch()
                await until(lambda: world.of(WagonRemoved))
        [told] = world.of(ArchiveIncomplete)
        assert told.missing is None
        assert ("is gone, and how many" if gone else "1 message in t_v1") in told.because

    run(main())


def test_rows_that_seem_to_be_gone_for_a_moment_are_archived() -> None:
    """A driver may take a channel for gone whose metadata have not arrived yet."""

    async def main() -> None:
        world = World()
        read, misses = MemoryBroker.read, [1]

        def misled(self: MemoryBroker, channel: Channel) -> Any:
            if channel.name == ARCHIVE and misses and misses.pop():
                raise ChannelGone(f"{channel} is not there")
            return read(self, channel)

        with in_memory() as archive, pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "read", misled)
            await drained(world, program(), *range(12))
        assert not misses
        assert numbers(archive, "") == [*range(12)]
        assert not world.of(ArchiveIncomplete)

    run(main())


def test_a_train_that_is_removed_has_no_record_before_it_is_archived() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        with in_memory() as archive:
            async with world.connect(program(), ledger=ledger) as c, c.running():
                await c.publish_many(range(5))
                await asyncio.sleep(5)
            async with world.connect(program(), ledger=ledger) as hand:
                archive.fails = True
                with pytest.raises(Unavailable, match="the archive is full"):
                    await hand.remove()
                assert not ledger.all()
                archive.fails = False
                await hand.remove()
            assert ledger.all()

    run(main())


def test_dead_letters_that_share_an_id_are_all_moved() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(10), workers=Workers(total=2), keep_drained=0.0)

        @train.on("t")
        async def handle(event: Event) -> None:
            raise Reject("no")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eventwagon.runtime.removal._MOVE_BATCH", 1)
            async with world.running(train) as c:
                await c.publish_many(
                    [Event("1", "T", source, 1.0, data) for source in ("/a", "/b") for data in (b"1", b"2")]
                )
                await c.request_switch()
                await until(lambda: world.of(WagonRemoved))
        kept = [e async for e in world.broker.read(Channel("t", 0, DEAD))]
        assert sorted((e.source, e.data) for e in kept) == [("/a", b"1"), ("/a", b"2"), ("/b", b"1"), ("/b", b"2")]

    run(main())
