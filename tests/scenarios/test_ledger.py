"""The record of a wagon: complete, written once, before the wagon goes; and what happens if it can't be written."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest

from eventwagon import Connection, RecordFilter, Settings, Train, UsageError
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import Entry, StepFailed, WagonRemoved, WagonUnreconciled, WagonUnrecorded, log
from eventwagon.contracts.ledger import WagonRecord
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import DeclarationDiffers, RemovalRefused, Unavailable
from eventwagon.event import DEAD, Channel, Event
from eventwagon.policy.digest import digest_of, written
from eventwagon.policy.reconcile import JOURNAL
from eventwagon.runtime.handing_in import scope_of
from eventwagon.runtime.recording import PATIENCE, recover
from eventwagon.testing.virtual_time import run
from tests.ledgers import MemoryLedger, orders
from tests.support import World, until


@asynccontextmanager
async def running(world: World, train: Train, ledger: MemoryLedger | None, **roles: bool) -> AsyncIterator[Connection]:
    async with world.connect(train, ledger=ledger) as c, c.running(**roles):
        yield c


async def first_wagon(c: Connection) -> None:
    """Fills wagon 1, and has the train switch to the next one."""
    await c.publish_many(range(50))
    await c.publish_many(range(50, 60))


def test_a_record_has_what_happened() -> None:
    async def main() -> None:
        world, ledger, seen = World(), MemoryLedger(), list[tuple[int, str, str]]()
        train = orders(seen, revision="v1")
        stood = set[str]()

        async def look() -> None:
            stood.update(c.name for c in await world.broker.channels("orders") if c.wagon == 1)

        ledger.before_append = look
        async with running(world, train, ledger) as c, world.connect(train) as hand:
            await c.publish_many(range(20))
            await hand.pause("the warehouse moves", wagon=1, by="ada@desk")
            await asyncio.sleep(5.0)
            await hand.resume("moved", wagon=1, by="bob@desk")
            await c.publish_many(range(20, 50))
            await c.publish_many(range(50, 60))
            await until(lambda: c.manifest.wagon(1) is None)
        assert stood == {"", "ship", DEAD}  # the record comes before the channels go
        (record,) = [r for r in ledger.all() if r.number == 1]
        ingress, ship = record.channels
        assert (ingress.published, ingress.settled, ingress.counted, ingress.dead) == (50, 50, 50, 5)
        assert (ship.published, ship.settled, ship.counted, ship.dead) == (45, 45, 45, 0)
        assert ingress.retried == sum(n % 7 == 6 and n % 10 != 9 for n in range(50))
        assert (record.dead, record.letters_kept, record.unreconciled, record.difference) == (5, 5, "", 0)
        assert (record.revision, record.ended, [r.settled for r in record.ran]) == ("v1", "drained", [95])
        assert [r.revision for r in record.ran] == ["v1"]
        shipped = [i for wagon, name, i in seen if wagon == 1 and name == "ship"]
        assert ship.digest == written(digest_of(shipped, "ship"))
        assert ingress.waits.count == 50
        assert ingress.waits.most is not None
        assert ingress.waits.most < 6.0
        assert ingress.handlings.count == 50 + ingress.retried
        (hold,) = record.holds
        assert (hold.why, hold.by, hold.resumed_by, hold.train) == (
            "the warehouse moves",
            "ada@desk",
            "bob@desk",
            False,
        )
        assert hold.until is not None
        assert hold.until - hold.since == pytest.approx(5.0, abs=0.1)
        assert [b.by for b in record.by_hand][-2:] == ["ada@desk", "bob@desk"]
        assert record.closed_because == "50 of 50 events taken"
        assert record.journal_from is None
        times = (record.opened_at, record.active_at, record.closed_at, record.drained_at, record.recorded_at)
        opened, active, closed, drained, recorded = (at or math.nan for at in times)
        assert opened <= active < closed < drained <= recorded

    run(main())


def test_the_counts_of_a_process_that_has_left_are_there() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with running(world, orders(), ledger, work=False) as c:
            async with running(world, orders(), ledger, observe=False):
                await c.publish_many(range(30))
                await asyncio.sleep(1.0)
            await asyncio.sleep(20.0)  # its check-in is long over
            async with running(world, orders(), ledger, observe=False):
                await c.publish_many(range(30, 50))
                await c.publish_many(range(50, 60))
                await until(lambda: ledger.kept)
            (record,) = ledger.all()
        assert record.counted == record.settled == 95
        assert sorted(r.settled for r in record.ran) == [38, 57]

    run(main())


def test_without_a_ledger_nobody_counts_anything() -> None:
    async def main() -> None:
        world = World()
        async with running(world, orders(), None) as c:
            await first_wagon(c)
            await until(lambda: world.of(WagonRemoved))
            assert await world.registry.members(scope_of("orders")) == []
            with pytest.raises(UsageError, match=r"has no ledger: Train\(ledger="):
                [r async for r in c.records()]

    run(main())


def test_of_workers_that_hand_in_nothing_the_record_says_how_many_events_it_covers() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with (
            running(world, orders(), None, observe=False),  # it runs before the train has a ledger
            running(world, orders(), ledger, work=False) as c,
        ):
            await first_wagon(c)
            await until(lambda: world.of(WagonRemoved))
        (record,) = ledger.all()
        assert (record.counted, record.settled, record.unreconciled) == (0, 95, "")
        assert record.channels[0].digest == written(0)

    run(main())


def test_while_the_ledger_is_away_the_wagon_stays_and_events_are_handled() -> None:
    async def main() -> None:
        world, ledger, seen = World(), MemoryLedger(), list[tuple[int, str, str]]()
        async with running(world, orders(seen), ledger) as c:
            ledger.away = True
            await first_wagon(c)
            await until(lambda: any("the ledger can't take" in f.because for f in world.of(StepFailed)))
            await c.publish_many(range(100, 130))
            await until(lambda: len({i for _, name, i in seen if not name}) >= 54 + 27)
            await asyncio.sleep(60.0)
            assert c.manifest.wagon(1) is not None
            assert world.of(WagonRemoved) == []
            ledger.away = False
            await until(lambda: c.manifest.wagon(1) is None)
            assert world.of(WagonUnrecorded) == []
            assert ledger.all()[0].number == 1

    run(main())


def test_a_ledger_that_stays_away_keeps_no_wagon_for_ever_and_the_record_is_in_the_journal() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with running(world, orders(), ledger) as c:
            ledger.away = True
            await first_wagon(c)
            await asyncio.sleep(PATIENCE - 10)
            assert c.manifest.wagon(1) is not None
            await until(lambda: c.manifest.wagon(1) is None)
            (fact,) = world.of(WagonUnrecorded)
            assert (fact.record.settled, fact.because) == (95, "the ledger is away")
            ledger.away = False
            assert await recover(world.registry, ledger, "orders") == 1
            assert await recover(world.registry, ledger, "orders") == 1  # idempotent
            assert ledger.all() == [fact.record]

    run(main())


class CutShort(MemoryBroker):
    """A broker whose deletions of inner channels fail for a while."""

    fails = True

    async def delete(self, channel: Channel) -> None:
        if self.fails and channel.wagon == 1 and channel.name == "ship":
            raise Unavailable("not now")
        await super().delete(channel)


def test_a_record_that_only_the_journal_has_is_the_one_from_before_its_channels_went() -> None:
    """The removal is cut short after the ingress is gone, and another observer goes on. The record gets into the ledger
    by itself once that is back."""

    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        world.broker = broker = CutShort(clock=world.clock)
        train = orders()
        async with running(world, train, ledger) as c:
            ledger.away = True
            await first_wagon(c)
            await asyncio.sleep(PATIENCE)
            await until(lambda: any("not now" in f.because for f in world.of(StepFailed)), step=1.0)
        broker.fails = False
        async with running(world, orders(), ledger) as c:
            await until(lambda: c.manifest.wagon(1) is None, step=1.0)
            (fact,) = world.of(WagonUnrecorded)
            assert (fact.record.settled, fact.record.unreconciled) == (95, "")
            ledger.away = False
            await c.publish_many(range(200, 230))
            await c.wait_switched(await c.request_switch())
            await until(lambda: len(ledger.all()) >= 2, step=1.0)
            assert fact.record in ledger.all()

    run(main())


class Lagging(MemoryBroker):
    """A broker whose total of the ingress lags behind for a while."""

    lags = False

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        found = list(await super().depth(channels))
        if self.lags and [c.name for c in channels] == ["", "ship", DEAD]:
            found[0] = Depth(published=(found[0].published or 0) + 3, settled=found[0].settled)
        return found


@pytest.mark.parametrize("of", ["ledger", "figures"])
@pytest.mark.parametrize("asleep", [60.0, 1900.0])
def test_after_a_time_without_observers_a_hiccup_is_still_waited_for(of: str, asleep: float) -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        world.broker = broker = Lagging(clock=world.clock)
        ledger.away = True
        async with running(world, orders(), ledger) as c:
            await first_wagon(c)
            await until(lambda: any("the ledger can't take" in f.because for f in world.of(StepFailed)))
        await asyncio.sleep(asleep)
        ledger.away, broker.lags = of == "ledger", of == "figures"
        async with running(world, orders(), ledger) as c:
            await asyncio.sleep(8.0)
            ledger.away = broker.lags = False
            await until(lambda: c.manifest.wagon(1) is None, seconds=900)
        assert world.of(WagonUnrecorded) == []
        assert world.of(WagonUnreconciled) == []

    run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_record_in_the_journal_is_not_passed_over_since_that_could_not_be_read_once(fails: bool) -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        world.broker = broker = CutShort(clock=world.clock)
        async with running(world, orders(), ledger) as c:
            ledger.away = True
            await first_wagon(c)
            await asyncio.sleep(PATIENCE)
            await until(lambda: any("not now" in f.because for f in world.of(StepFailed)), step=1.0)
        (fact,) = world.of(WagonUnrecorded)
        entries, left = world.registry.entries, [fails]

        async def sometimes(train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
            if last == JOURNAL and left.pop():
                left.append(False)
                raise Unavailable("not read just now")
            left[:] = [False]
            async for entry in entries(train, last=last):
                yield entry

        broker.fails = ledger.away = False
        await asyncio.sleep(1900.0)
        with mock.patch.object(world.registry, "entries", sometimes):
            async with running(world, orders(), ledger) as c:
                await until(lambda: c.manifest.wagon(1) is None, step=1.0)
        assert [r for r in ledger.all() if r.number == 1] == [fact.record]
        assert (fact.record.settled, fact.record.unreconciled) == (95, "")

    run(main())


def test_an_unforced_removal_never_records_a_train_without_its_figures() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()

        class Off(MemoryBroker):
            off = False

            async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
                if self.off and DEAD in {c.name for c in channels}:
                    raise Unavailable("no figures now")
                return await super().depth(channels)

        world.broker = broker = Off(clock=world.clock)
        async with running(world, orders(), ledger) as c:
            await c.publish_many(range(10))
            await until(lambda: len(c.manifest.wagons) > 0)
        broker.off = True
        async with world.connect(orders(), ledger=ledger) as c:
            with pytest.raises(Unavailable):
                await c.remove("over")
            assert ledger.all() == []
            broker.off = False
            await c.remove("over", force=True)
        assert all(record.settled is not None for record in ledger.all())
        assert await world.registry.members(scope_of("orders")) == []

    run(main())


def test_an_answer_that_was_lost_writes_nothing_twice() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        ledger.deaf = True
        async with running(world, orders(), ledger) as c:
            await first_wagon(c)
            await until(lambda: ledger.kept)
            first = dict(ledger.kept)
            await until(lambda: c.manifest.wagon(1) is None)  # the next attempt finds it
        assert ledger.appends == 1
        assert ledger.kept == first

    run(main())


class Off(MemoryBroker):
    """A broker that has a wrong total of the ingress of wagon 1 where a record is made."""

    until = float("inf")

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        found = list(await super().depth(channels))
        if [c.name for c in channels] == ["", "ship", DEAD] and asyncio.get_running_loop().time() < self.until:
            found[0] = Depth(published=(found[0].published or 0) + 3, settled=found[0].settled)
        return found


def test_what_a_process_that_was_taken_for_dead_emits_during_the_removal_counts_as_left() -> None:
    """Between two attempts of the removal."""

    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        ledger.away = True
        async with running(world, orders(), ledger) as c:
            await first_wagon(c)
            await until(lambda: any("the ledger can't take" in f.because for f in world.of(StepFailed)))
            await world.broker.publish(Channel("orders", 1, "ship"), [Event("late", "T", "/s", 1.0, b"7")])
            ledger.away = False
            await until(lambda: c.manifest.wagon(1) is None, seconds=60)
        record = next(r for r in ledger.all() if r.number == 1)
        assert (record.unreconciled, record.difference) == ("", 0)
        assert [(r.name, r.left) for r in record.channels] == [("", 0), ("ship", 1)]
        assert world.of(WagonUnreconciled) == []

    run(main())


@pytest.mark.parametrize("lasting", [True, False])
def test_figures_that_do_not_reconcile(lasting: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        world.broker = broker = Off(clock=world.clock)
        async with running(world, orders(), ledger) as c:
            broker.until = asyncio.get_running_loop().time() + (PATIENCE * 2 if lasting else 100)
            await first_wagon(c)
            await asyncio.sleep(90)
            assert c.manifest.wagon(1) is not None
            assert ledger.all() == []
            await until(lambda: c.manifest.wagon(1) is None, seconds=PATIENCE)
        (record,) = ledger.all()
        if not lasting:
            assert (record.difference, record.unreconciled) == (0, "")
            assert world.of(WagonUnreconciled) == []
            return
        assert record.difference == 3
        assert record.unreconciled == "orders: published 53, settled 50, lost 0, left 0: +3"
        (fact,) = world.of(WagonUnreconciled)
        assert fact.because == record.unreconciled
        with caplog.at_level(logging.ERROR, "eventwagon"):
            log(fact)
        assert caplog.records[-1].levelno == logging.ERROR

    run(main())


def test_removing_the_train_records_what_stands() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with running(world, orders(), ledger) as c:
            await c.publish_many([n for n in range(20) if n % 10 != 9])
            await asyncio.sleep(5.0)
        async with world.connect(orders(), ledger=ledger) as c:
            ledger.away = True
            with pytest.raises(Unavailable, match="ledger can't take the record of orders_v1"):
                await c.remove("over")
            ledger.away = False
            await c.remove("over")
        (record,) = ledger.all()
        assert (record.ended, record.settled, record.counted) == ("removed with its train", 36, 36)

    run(main())


def test_a_broken_ledger_url_is_refused_where_it_is_written() -> None:
    for wrong in ("", "var/ledger", 3, b"sqlite:///x", "://", True, "\ud800"):
        with pytest.raises(UsageError, match="ledger="):
            Settings(ledger=wrong)  # type: ignore[arg-type]
    for url in ("redis://localhost", "nowhere://x", "memory://"):
        with pytest.raises(UsageError, match="ledger"):
            Train("t", ledger=url).connect("memory://")
    with pytest.raises(UsageError, match="connect: ledger"):
        Train("t").connect("memory://", ledger=object())  # type: ignore[arg-type]


def test_which_records() -> None:
    record = WagonRecord(train="t", number=2, opened_at=10.0, recorded_at=20.0, revision="v1", closed_because="Full")

    def takes(**given: Any) -> bool:
        return RecordFilter(**given).takes(record)

    assert takes()
    assert takes(wagon=2, revision="v1", reason="full", since=20.0, until=10.5)
    assert not any((takes(wagon=1), takes(revision=""), takes(reason="x"), takes(since=20.1), takes(until=10.0)))
    assert not takes(unreconciled=True)
    for wrong in ({"wagon": "2"}, {"revision": 2}, {"since": "now"}, {"unreconciled": 1}, {"until": float("nan")}):
        with pytest.raises(UsageError):
            RecordFilter(**wrong)


def test_a_process_without_the_trains_ledger_is_refused() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with running(world, orders(), ledger):
            for roles in ({"work": False}, {"observe": False}):
                with pytest.raises(
                    DeclarationDiffers, match=r"train 'orders': the train has a ledger, and this process"
                ):
                    async with running(world, orders(), None, **roles):
                        pass
        async with world.connect(orders(), redeclare=True) as c, c.running():
            assert not c.manifest.recorded
        async with running(world, orders(), ledger) as c:  # it has one again, and the others are told
            assert c.manifest.recorded

    run(main())


def test_an_observer_that_ran_before_without_a_ledger_removes_nothing_silently() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with (
            running(world, orders(), None, work=False) as observer,
            running(world, orders(), ledger, observe=False),
        ):
            await first_wagon(observer)
            await until(lambda: any("this process has none" in f.because for f in world.of(StepFailed)), seconds=60)
            assert observer.manifest.wagon(1) is not None
            await until(lambda: observer.manifest.wagon(1) is None, seconds=2 * PATIENCE)
        (fact,) = world.of(WagonUnrecorded)
        assert fact.number == 1
        async with running(world, orders(), ledger) as c:  # the next record takes that one with it
            assert await recover(c.registry, ledger, "orders") == 1
        assert [(r.number, r.settled) for r in ledger.all()] == [(1, 95)]

    run(main())


def test_a_train_with_a_ledger_is_removed_where_that_is_known() -> None:
    async def main() -> None:
        world, ledger = World(), MemoryLedger()
        async with running(world, orders(), ledger) as c:
            await c.publish_many(range(6))
            await asyncio.sleep(60.0)
        async with world.connect(Train("orders")) as hand:
            with pytest.raises(RemovalRefused, match="it has a ledger, which this process does not know"):
                await hand.remove()
        async with world.connect(orders(), ledger=ledger) as hand:
            await hand.remove()
        assert [(r.number, r.ended) for r in ledger.all()] == [(1, "removed with its train")]

    run(main())
