"""Check-ins of a train's processes, on a real server: apart from its manifest, and read when somebody asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

import pytest
from confluent_kafka import Producer

from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member, encode_member
from eventwagon.drivers.kafka import KafkaRegistry, check_ins
from eventwagon.drivers.kafka.admin import LOG_TIME, Admin
from eventwagon.drivers.kafka.manifests import LiveMembers, MemberCheckIn, StillThere, encode
from tests.kafka.support import topics
from tests.servers.server import Server

TTL = 60.0


@asynccontextmanager
async def train(server: Server, *, partitions: int = 0) -> AsyncIterator[tuple[KafkaRegistry, str, Admin]]:
    """A registry and the name of a new train, whose topic has so many partitions; 0: as this release makes it."""
    name = f"t{token_hex(5)}"
    async with topics(server.url) as admin, KafkaRegistry.from_url(server.url) as registry:
        if partitions:
            await admin.create(f"{name}.0manifest", partitions, LOG_TIME)
        await registry.replace(name, Manifest(train=name), expect=0)
        try:
            yield registry, name, admin
        finally:
            await registry.delete(name)


def write(server: Server, topic: str, partition: int, record: bytes) -> None:
    producer = Producer({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0]})
    producer.produce(topic, record, b"r-somebody", partition)
    assert producer.flush(10) == 0


def names(members: object) -> list[str]:
    return [member.name for member in members]  # type: ignore[attr-defined]


@pytest.mark.parametrize("partitions", [0, 1])
def test_who_has_nothing_new_to_say_stays_as_he_was(kafka_server: Server, partitions: int) -> None:
    """Also for who reads only then, and in a topic that an earlier release has made."""

    async def main() -> None:
        async with train(kafka_server, partitions=partitions) as (registry, name, _):
            one, two = Member(name="one", roles=("work",)), Member(name="two", version=3)
            for _ in range(3):
                await registry.check_in(name, one, ttl=TTL)
                await registry.check_in(name, two, ttl=TTL)
                assert await registry.members(name) == [one, two]
            async with KafkaRegistry.from_url(kafka_server.url) as late:
                assert await late.members(name) == [one, two]
                await late.check_in(name, two, ttl=0)
                assert await registry.members(name) == [one]
                await registry.check_in(name, changed := Member(name="one", version=4), ttl=TTL)
                assert await late.members(name) == [changed]

    asyncio.run(main())


def test_check_ins_are_not_in_the_log_that_all_follow(kafka_server: Server) -> None:
    async def main() -> None:
        async with train(kafka_server) as (registry, name, admin):
            topic = f"{name}.0manifest"
            before = await admin.ends([(topic, 0)])
            for _ in range(5):
                await registry.check_in(name, Member(name="one"), ttl=TTL)
            assert await admin.ends([(topic, 0), (topic, 1)]) == before | {(topic, 1): 5}

    asyncio.run(main())


def test_old_check_ins_are_deleted(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_ins, "_MANY", 20)
    monkeypatch.setattr(check_ins, "_KEPT", 100)

    async def main() -> None:
        async with train(kafka_server) as (registry, name, admin):
            place = (f"{name}.0manifest", 1)
            stays = Member(name="stays")
            async with asyncio.timeout(30):
                while not (await admin.starts([place]))[place]:
                    for n in range(10):
                        await registry.check_in(name, Member(name=f"m{n}"), ttl=0.2)
                    await registry.members(name)
            await registry.check_in(name, stays, ttl=TTL)
            async with KafkaRegistry.from_url(kafka_server.url) as late:
                assert "stays" in names(await late.members(name))

    asyncio.run(main())


def test_what_somebody_else_wrote_hides_nobody(kafka_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with train(kafka_server) as (registry, name, _):
            await registry.check_in(name, Member(name="one"), ttl=TTL)
            await asyncio.to_thread(write, kafka_server, f"{name}.0manifest", 1, b"\xff\xffnonsense")
            await registry.check_in(name, Member(name="two"), ttl=TTL)
            assert names(await registry.members(name)) == ["one", "two"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "a record that is no check-in" in caplog.text


def test_a_process_of_an_earlier_release_is_seen_and_told(
    kafka_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It checks in where it always did, and knows of no other place."""

    async def main() -> None:
        async with train(kafka_server) as (registry, name, _):
            await registry.check_in(name, Member(name="one"), ttl=TTL)
            earlier = encode(MemberCheckIn("earlier", encode_member(Member(name="earlier")), 60_000))
            await asyncio.to_thread(write, kafka_server, f"{name}.0manifest", 0, earlier)
            await registry.read(name)
            for _ in range(2):
                assert names(await registry.members(name)) == ["earlier", "one"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert caplog.text.count("a process of an earlier release works for this train") == 1


def test_who_was_silent_for_long_is_remembered_for_a_minute() -> None:
    """A process that stood still goes on with less than a whole check-in."""
    members = LiveMembers()
    members.apply(StillThere("unknown", 1000), 0)
    members.apply(MemberCheckIn("one", b"says", 1000), 0)
    assert members.alive(999) == [b"says"]
    assert members.alive(1000) == []
    members.apply(StillThere("one", 1000), 50_000)
    assert members.alive(50_999) == [b"says"]
    members.apply(MemberCheckIn("two", b"other", 1), 51_000 + 60_000)
    members.apply(StillThere("one", 1000), 51_000 + 60_000)
    assert members.alive(51_000 + 60_000) == [b"other"]
