"""Events for later on Kafka: the suite, processes that are killed, compaction, a server that is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from eventwagon.contracts.broker import Finding
from eventwagon.contracts.timetable import key
from eventwagon.drivers.kafka import KafkaBroker, timetable
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.compacted import CompactedLog
from eventwagon.drivers.kafka.reader import Reader
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.drivers.kafka.timetable import KafkaTimetable
from eventwagon.errors import EventTooLarge, StorageBroken, Unavailable
from eventwagon.event import Channel, Event
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.testing.conformance import Check, timetable_checks
from tests.kafka.support import patiently, topics
from tests.kafka.test_transactions import Transactional
from tests.programs.reminders import reminders
from tests.scenarios.test_later_processes import handled_in, lines, nothing_is_lost_by_kills
from tests.servers.kafka import KafkaServer
from tests.servers.server import Server

CHECKS = timetable_checks(lease=2.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One that soon compacts what may be compacted; a test may kill it, and starts it again."""
    with KafkaServer(tmp_path_factory.mktemp("kafka"), config={"log.cleaner.backoff.ms": "100"}) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_timetable(check: Check[Any], kafka_server: Server) -> None:
    asyncio.run(check.run(lambda: KafkaBroker.from_url(kafka_server.url)))


def test_timetable_of_the_registry(kafka_server: Server) -> None:
    check = next(check for check in CHECKS if str(check) == "another_process_sees_the_same")
    asyncio.run(check.run(lambda: KafkaRegistry.from_url(kafka_server.url)))


def test_nothing_is_lost_by_kills(kafka_server: Server, tmp_path: Path) -> None:
    url = f"{kafka_server.url}?topic_prefix=kills."
    asyncio.run(nothing_is_lost_by_kills(url, handled_in(tmp_path)))


def test_a_process_that_an_orchestrator_started_emits_for_later(
    kafka_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches nothing but the broker."""
    url, handled = f"{kafka_server.url}?topic_prefix=started.", handled_in(tmp_path)
    monkeypatch.setenv("HANDLED", str(handled))

    async def main() -> None:
        orchestrator = Subprocess("tests.programs.reminders:reminders", url=url, directory=tmp_path / "run", grace=5.0)
        async with reminders.connect(url, orchestrator=orchestrator, listeners=()) as c, c.running():
            name = await c.publish("n1", after=0.5)
            async with asyncio.timeout(60):
                while len(found := [line for line in lines(handled) if line.payload == "n1"]) < 2:
                    await asyncio.sleep(0.1)
        first, again = sorted(found, key=lambda line: line.at)
        assert (first.channel, first.id, again.channel) == ("-", name, "again")
        assert again.at - first.at > 1.5

    asyncio.run(main())


def test_two_processes_that_claim_get_different_events(kafka_server: Server) -> None:
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other):
            now = await one.timetable.now(train)
            due = [event(f"e{n}", now + n / 500) for n in range(1000)]
            await one.timetable.add(train, due)
            got = Counter[str]()

            async def work(timetable: KafkaTimetable) -> None:
                async with asyncio.timeout(30):
                    while (await timetable.waiting(train)).count:
                        found = await timetable.claim(train, limit=20, most_bytes=1 << 20, lease=60.0)
                        assert all(e.time <= found.now for e in found.events)
                        got.update(e.id for e in found.events)
                        await timetable.remove(train, found.keys, until=found.until)

            await asyncio.gather(work(one.timetable), work(other.timetable))
            assert got == Counter(f"e{n}" for n in range(1000))
            await one.timetable.clear(train)

    asyncio.run(main())


def test_compaction_changes_nothing(server: KafkaServer) -> None:
    """A reader that starts after the log was compacted knows the same as one that has read everything."""
    train, topic = "t", "t.0later"

    async def main(url: str) -> None:
        async with pair(url) as (live, dying), topics(url) as admin:
            timetable = live.timetable
            now = await timetable.now(train)
            await timetable.add(train, [event(f"e{n}", now - 10.0 + n) for n in range(8)])
            await timetable.add(train, [event(f"far{n}", now + 1000.0 + n) for n in range(8)])
            await dying.timetable.add(train, [event("far0", now - 50.0), event("far1", now + 5.0)])  # kept already
            for tick in range(3):
                await timetable.tick(train, "s", now + tick, event(f"tick{tick}", now - 20.0))
            for _ in range(3):
                due = await timetable.claim(train, limit=4, most_bytes=1 << 20, lease=0.2)
                await timetable.remove(train, due.keys[:3], until=due.until)
                await asyncio.sleep(0.3)
            assert await timetable.cancel(train, [key("far2"), key("far3")])
            before = await found(timetable, train)
            for name, value in (
                ("min.compaction.lag.ms", "0"),
                ("delete.retention.ms", "0"),
                ("min.cleanable.dirty.ratio", "0.001"),
                ("segment.ms", "50"),
            ):
                await admin.alter(topic, name, value)
            size = await records(admin, topic)
            async with asyncio.timeout(60):
                while await records(admin, topic) > 25:
                    await asyncio.sleep(0.2)
                    await live.wagons.client.sender.one(topic, 0, None, key=b"t")  # a new segment begins
            assert size > 50
            for name, value in (("min.compaction.lag.ms", "3600000"), ("delete.retention.ms", "86400000")):
                await admin.alter(topic, name, value)
            assert await found(timetable, train) == before
            async with KafkaBroker.from_url(url) as fresh:
                assert await found(fresh.timetable, train) == before
                assert not await fresh.timetable.tick(train, "s", now + 2, None)
                once = next(name for name, *_ in before[0] if name.startswith("e"))
                assert not await fresh.timetable.cancel(train, [key(once)])  # it was claimed: perhaps it was published
                assert await fresh.timetable.cancel(train, [key("far0")])

    asyncio.run(main(server.url))


def test_what_is_kept_survives_the_server(server: KafkaServer) -> None:
    async def main() -> None:
        async with KafkaBroker.from_url(f"{server.url}?timeout=3") as broker:
            now = await broker.timetable.now("u")
            kept = event("one", now - 1.0)
            await broker.timetable.add("u", [kept])
            assert (await broker.timetable.waiting("u")).count == 1
            await asyncio.to_thread(server.kill)
            calls = (
                broker.timetable.claim("u", limit=5, most_bytes=1000, lease=5.0),
                broker.timetable.add("u", [event("two", now)]),
            )
            failed = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in failed] == [Unavailable] * 2
            await asyncio.to_thread(server.start)
            got = list[Event]()

            async def claim() -> None:
                got.extend((await broker.timetable.claim("u", limit=5, most_bytes=1000, lease=5.0)).events)

            await patiently(claim)
            assert kept in got

    asyncio.run(main())


def test_a_topic_that_somebody_deletes(kafka_server: Server) -> None:
    """The loss is told once, with its extent; what is added afterwards is kept."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other), topics(kafka_server.url) as admin:
            now = await one.timetable.now(train)
            await one.timetable.add(train, [event(f"e{n}", now + 100.0) for n in range(3)])
            assert (await one.timetable.waiting(train)).count == 3
            assert (await other.timetable.waiting(train)).count == 3
            await admin.delete(f"{train}.0later")
            while await admin.describe(f"{train}.0later") is not None:
                await asyncio.sleep(0.05)
            with pytest.raises(StorageBroken, match=r"deleted by somebody while 3 events waited there.*they are lost"):
                await one.timetable.claim(train, limit=5, most_bytes=1000, lease=5.0)
            assert (await one.timetable.claim(train, limit=5, most_bytes=1000, lease=5.0)).next_at is None
            await one.timetable.add(train, [event("new", now + 50.0)])
            with pytest.raises(StorageBroken, match="3 events"):
                await other.timetable.claim(train, limit=5, most_bytes=1000, lease=5.0)
            for broker in (one, other):
                assert [e.id async for e in broker.timetable.entries(train)] == ["new"]
            assert await one.timetable.clear(train) == 1

    asyncio.run(main())


def test_a_topic_that_is_deleted_and_filled_anew(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its end says nothing: there are more records than before."""
    train = f"t{token_hex(5)}"
    monkeypatch.setattr(timetable, "_LOOK", 0.0)

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other), topics(kafka_server.url) as admin:
            now = await one.timetable.now(train)
            await one.timetable.add(train, [event("old", now + 100.0)])
            assert (await one.timetable.waiting(train)).count == 1
            assert (await one.timetable.waiting(train)).count == 1
            await admin.delete(f"{train}.0later")
            await other.timetable.add(train, [event(f"e{n}", now + 50.0) for n in range(20)])
            with pytest.raises(StorageBroken, match="1 event waited there"):
                await one.timetable.waiting(train)
            assert (await one.timetable.waiting(train)).count == 20
            assert await one.timetable.clear(train) == 20

    asyncio.run(main())


def test_calls_that_are_cancelled_at_any_moment(kafka_server: Server) -> None:
    """What they began may be done; afterwards all readers know the same."""
    train, rng = f"t{token_hex(5)}", random.Random(3)

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other):
            now = await one.timetable.now(train)
            assert (await other.timetable.waiting(train)).count == 0

            async def call(timetable: KafkaTimetable, n: int) -> None:
                match n % 5:
                    case 0:
                        await timetable.add(train, [event(f"e{n % 50}", now + n)])
                    case 1:
                        await timetable.claim(train, limit=5, most_bytes=1000, lease=0.1)
                    case 2:
                        await timetable.cancel(train, [key(f"e{n % 50}"), key(f"e{rng.randrange(50)}")])
                    case 3:
                        await timetable.tick(train, "s", float(n), event(f"t{n}", now + 60.0))
                    case _:
                        await timetable.waiting(train)

            async def some() -> None:
                for n in range(200):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(rng.random() * 0.006):
                            await call(one.timetable, n)

            await asyncio.gather(*(some() for _ in range(3)))
            async with KafkaBroker.from_url(kafka_server.url) as fresh:
                known = [await found(broker.timetable, train) for broker in (one, other, fresh)]
            assert known[0] == known[1] == known[2]
            assert known[0][0]
            await one.timetable.clear(train)

    asyncio.run(main())


def test_doctor_looks_at_the_topic(kafka_server: Server) -> None:
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with KafkaBroker.from_url(kafka_server.url) as broker, topics(kafka_server.url) as admin:
            await broker.timetable.now(train)
            found = await broker.inspect([Channel(train, 1)])
            assert not [each for each in found if each.severity == "loses"]
            assert [each for each in found if "cleanup.policy=compact" in each.what and each.severity == "fine"]
            await admin.alter(f"{train}.0later", "cleanup.policy", "delete")
            loses = list[Finding]()
            async with asyncio.timeout(10):  # the broker that is asked may learn of the change a moment later
                while not loses:
                    loses = [each for each in await broker.inspect([Channel(train, 1)]) if each.severity == "loses"]
            (wrong,) = loses
            assert wrong.what == "cleanup.policy=delete"
            assert "--add-config cleanup.policy=compact" in wrong.todo
            await broker.timetable.clear(train)

    asyncio.run(main())


def test_a_topic_that_loses_events_is_refused(kafka_server: Server) -> None:
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with KafkaBroker.from_url(kafka_server.url) as broker, topics(kafka_server.url) as admin:
            await admin.create(f"{train}.0later", 1, {"retention.ms": "1000"})
            async with asyncio.timeout(20):
                while await admin.configuration(f"{train}.0later") is None:  # not known there yet
                    await asyncio.sleep(0.05)
            with pytest.raises(StorageBroken, match=r"cleanup.policy=delete .*set .*cleanup.policy=compact"):
                await broker.timetable.add(train, [event("one", 5.0)])
            await broker.timetable.clear(train)

    asyncio.run(main())


def test_events_that_do_not_fit_into_memory(kafka_server: Server) -> None:
    """They are read again when they are due, and when they are listed."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(kafka_server.url) as (one, _):
            small = KafkaBroker(kafka_server.url.removeprefix("kafka://"), cache=3000)
            now = await one.timetable.now(train)
            kept = [event(f"e{n:02}", now - 50.0 + n, b"x" * 700) for n in range(40)]
            await one.timetable.add(train, kept[::2] + kept[1::2])
            async with small:
                assert [e async for e in small.timetable.entries(train)] == kept
                got = list[Event]()
                while more := (await small.timetable.claim(train, limit=7, most_bytes=1 << 20, lease=60.0)).events:
                    got += more
                assert got == kept
            large = event("large", now, b"x" * 1_100_000)
            with pytest.raises(EventTooLarge, match="event large takes 1,100,"):
                await one.timetable.add(train, [event("other", now), large])
            assert (await one.timetable.waiting(train)).count == 40
            await one.timetable.clear(train)

    asyncio.run(main())


def test_records_of_others(kafka_server: Server) -> None:
    """A record that can't be read goes on as one that can't be decoded, once."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            await broker.timetable.now(train)
            await broker.wagons.client.sender.one(f"{train}.0later", 0, b"\xc1junk", key=b"strange")
            due = await broker.timetable.claim(train, limit=5, most_bytes=1000, lease=5.0)
            assert [(e.data, "undecodable" in e.extensions) for e in due.events] == [(b"\xc1junk", True)]
            await broker.timetable.remove(train, due.keys, until=due.until)
            assert (await broker.timetable.waiting(train)).count == 0
            await broker.timetable.clear(train)

    asyncio.run(main())


def test_ticks_that_the_client_sends_twice(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are recorded, and keep their events, which can be cancelled."""
    train, append = f"t{token_hex(5)}", CompactedLog.append

    def twice(log: CompactedLog, name: bytes, record: bytes | None) -> asyncio.Future[Any]:
        if record is not None:
            append(log, name, record)
        return append(log, name, record)

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other):
            with monkeypatch.context() as patched:
                patched.setattr(CompactedLog, "append", twice)
                assert await one.timetable.tick(train, "s", 1.0, None)
                assert await one.timetable.tick(train, "s", 2.0, event("t2", 2.0))
            assert await other.timetable.latest_of_all(train) == {"s": 2.0}
            assert [(await each.timetable.waiting(train)).count for each in (one, other)] == [1, 1]
            assert await other.timetable.cancel(train, [key("t2")])
            assert await one.timetable.latest(train, "s") == 2.0
            await one.timetable.clear(train)

    asyncio.run(main())


def test_a_transaction_of_others_holds_up_nobody_for_good(kafka_server: Server) -> None:
    """Its mark is the last record, which no reader gets: after one call that waits in vain the log is read anew."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with KafkaBroker.from_url(f"{kafka_server.url}?timeout=2") as broker:
            await broker.timetable.add(train, [event("ours", await broker.timetable.now(train))])
            assert (await broker.timetable.waiting(train)).count == 1
            theirs = await asyncio.to_thread(Transactional, kafka_server)
            await asyncio.to_thread(theirs.begin, f"{train}.0later", b"1", key=b"theirs")
            await asyncio.to_thread(theirs.commit)
            for _ in range(2):  # the mark may come a moment after the commit
                with suppress(Unavailable):
                    await broker.timetable.waiting(train)
            due = await broker.timetable.claim(train, limit=5, most_bytes=1000, lease=5.0)
            assert "ours" in {e.id for e in due.events}
            await broker.timetable.clear(train)

    asyncio.run(main())


def test_the_topic_s_clock_decides(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose clock is wrong adds and claims at the right time."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other):
            right = time.time()
            monkeypatch.setattr(time, "time", lambda: right - 3600.0)
            now = await one.timetable.now(train)
            assert abs(now - right) < 5.0
            await one.timetable.add(train, [event("due", now - 1.0), event("later", now + 600.0)])
            monkeypatch.setattr(time, "time", lambda: right + 3600.0)
            due = await other.timetable.claim(train, limit=5, most_bytes=1000, lease=1000.0)
            assert [e.id for e in due.events] == ["due"]
            assert due.next_at is not None
            assert 500.0 < due.next_at - due.now < 601.0
            await one.timetable.clear(train)

    asyncio.run(main())


def test_a_process_that_slept_reads_anew(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction may have overtaken it: it does not go on where it was."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(kafka_server.url) as (one, other):
            now = await one.timetable.now(train)
            await one.timetable.add(train, [event("one", now + 60.0)])
            await one.timetable.waiting(train)
            assert not await other.timetable.cancel(train, [key("two")])
            read = list[str]()

            class Log(CompactedLog):
                async def attach(self) -> int:
                    read.append(self.topic)
                    return await super().attach()

            monkeypatch.setattr(timetable, "CompactedLog", Log)
            monkeypatch.setattr(timetable, "_STALE", 0.0)
            assert await other.timetable.cancel(train, [key("one")])
            assert (await one.timetable.waiting(train)).count == 0
            assert len(read) == 2
            await one.timetable.clear(train)

    asyncio.run(main())


def test_a_consumer_that_gets_nothing_more_is_replaced(kafka_server: Server) -> None:
    """As after an outage in which the topic was deleted and made anew."""
    train = f"t{token_hex(5)}"

    async def main() -> None:
        async with pair(f"{kafka_server.url}?timeout=2") as (one, other):
            now = await one.timetable.now(train)
            await one.timetable.add(train, [event("one", now + 60.0)])
            assert (await other.timetable.waiting(train)).count == 1
            other.timetable._client().tail.hold(f"{train}.0later", 0)  # noqa: SLF001
            await asyncio.sleep(0.2)
            await one.timetable.add(train, [event("two", now + 60.0)])
            with suppress(Unavailable):
                await other.timetable.waiting(train)
            assert (await other.timetable.waiting(train)).count == 2
            await one.timetable.clear(train)

    asyncio.run(main())


def event(name: str, due: float, data: bytes = b"1") -> Event:
    return Event(name, "happened", "/tests", due, data)


@asynccontextmanager
async def pair(url: str) -> AsyncIterator[tuple[KafkaBroker, KafkaBroker]]:
    """Two processes' views of one cluster."""
    async with KafkaBroker.from_url(url) as one, KafkaBroker.from_url(url) as other:
        yield one, other


async def found(timetable: KafkaTimetable, train: str) -> tuple[list[tuple[str, float]], float | None]:
    """What it knows: events with their times, and the latest tick."""
    return [(e.id, e.time) async for e in timetable.entries(train)], await timetable.latest(train, "s")


async def records(admin: Admin, topic: str) -> int:
    """How many records are left."""
    reader = Reader(admin, admin.options.consumer(wait=5))
    try:
        return len(await reader.range(topic, 0, 0, (await admin.ends([(topic, 0)]))[topic, 0] or 0))
    finally:
        await reader.close()
