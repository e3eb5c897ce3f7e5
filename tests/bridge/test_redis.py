"""A stream of a real Redis, bridged into a train: cut over and back, crashes, poison, a full train, outages."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from redis.asyncio import Redis

from eventwagon import BridgeHeldUp, BridgeWentOn, Volume, Wait
from eventwagon.bridge import open_source
from eventwagon.bridge.sources import redis
from eventwagon.errors import StorageBroken, UsageError
from eventwagon.metrics import Metrics
from tests.bridge.support import (
    CrashesBeforeCommit,
    RedisFlow,
    bridging,
    crashing,
    gated,
    letters,
    numbered,
    redis_flow,
    shop,
    stored,
    until,
)
from tests.servers.redis import RedisServer
from tests.servers.server import Server


async def old_worker(flow: RedisFlow, done: list[bytes], stop: asyncio.Event) -> None:
    """As the programs that the bridge takes over from: reads, handles, acknowledges."""
    while not stop.is_set():
        found = await flow.client.xreadgroup("workers", "old", {flow.stream: ">"}, count=20, block=50)
        for _, entries in found:
            for name, fields in entries:
                done.append(fields[b"data"])
                await flow.client.xack(flow.stream, "workers", name)


async def writing(flow: RedisFlow, values: list[bytes], pause: float = 0.005) -> None:
    for start in range(0, len(values), 10):
        await flow.write(values[start : start + 10])
        await asyncio.sleep(pause)


def test_cut_over_and_back_under_load_loses_nothing(redis_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with redis_flow(redis_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.client.xgroup_create(flow.stream, "workers", "0", mkstream=True)
            done, values = list[bytes](), numbered(3000)
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(writing(flow, values))
                for turn in range(4):
                    if turn % 2 == 0:
                        stop, before = asyncio.Event(), len(done)
                        old = tasks.create_task(old_worker(flow, done, stop))
                        await until(lambda: len(done) > before + 200, "the old worker's turn")  # noqa: B023
                        stop.set()
                        await old
                    else:
                        async with bridging(open_source(flow.url), c) as bridge:
                            await until(lambda: bridge.passed > 200, "the bridge's turn")
                await writer
                async with bridging(open_source(flow.url), c):
                    await until_read(flow)
            bridged = [event.data for event in await stored(c)]
            assert sorted(done + bridged) == sorted(values)  # each once: nobody was killed

    asyncio.run(main())


async def until_read(flow: RedisFlow) -> None:
    async with asyncio.timeout(30):
        while True:
            groups = await flow.client.xinfo_groups(flow.stream)
            if groups and groups[0]["lag"] == 0 and groups[0]["pending"] == 0:
                return
            await asyncio.sleep(0.05)


def test_a_crash_between_publish_and_commit_repeats_one_batch_with_the_same_ids(
    redis_server: Server, tmp_path: Path
) -> None:
    async def main() -> None:
        train = shop(publish_batch=50)  # a batch of the bridge: 100
        async with redis_flow(redis_server) as flow, train.connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(1000))
            for kill in range(2):
                with pytest.raises(UsageError, match="crashed"):
                    await crashing(CrashesBeforeCommit(flow.open(), kill), c)
            async with bridging(flow.open(), c):
                await until_read(flow)
            events = await stored(c)
            by_id = {event.id: event.data for event in events}
            assert sorted(by_id.values()) == sorted(numbered(1000))
            assert len(by_id) == 1000
            assert 0 < len(events) - 1000 <= 2 * 100

    asyncio.run(main())


def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(
    redis_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with redis_flow(redis_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(10))
            await flow.client.xadd(flow.stream, {"data": b"\x00\xff", "ce_id": b"\xff", "x": b"1"})
            await flow.client.xadd(flow.stream, {"data": b"x" * 300_000})
            await flow.client.xadd(flow.stream, {b"\xff": b"1", b"b": b"2"})
            await flow.write(numbered(10, 10))
            async with bridging(flow.open(), c) as bridge:
                await until_read(flow)
            assert (bridge.passed, bridge.buried) == (20, 3)
            assert [event.data for event in await stored(c)] == numbered(20)
            dead = await letters(c)
            assert [letter.data[:2] for letter in dead] == [b"\x00\xff", b"xx", b""]
            assert [len(letter.data) for letter in dead] == [2, 300_000, 0]
            assert all(letter.id == letter.extensions["undecodable"] for letter in dead)
            assert all(f"redis/{flow.stream}/" in letter.id for letter in dead)

    asyncio.run(main())
    assert any("is in the dead letters" in said.message for said in caplog.records)


def test_entries_of_several_fields(redis_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with redis_flow(redis_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.client.xadd(flow.stream, {"id": "7", "name": "ada"})
            await flow.client.xadd(flow.stream, {"anything": b'{"a": 1}'})
            await flow.client.xadd(flow.stream, {"data": b'{"a": 2}', "Tenant": "t"})
            async with bridging(flow.open(), c):
                await until_read(flow)
            first, second, third = await stored(c)
            assert (first.data, second.data, third.data) == (b'{"id": "7", "name": "ada"}', b'{"a": 1}', b'{"a": 2}')
            assert third.extensions == {"tenant": "t"}
            await flow.client.xadd(flow.stream, {"payload": b"1", "data": "2"})
            async with bridging(open_source(f"{flow.url}&field=payload"), c):
                await until_read(flow)
            assert (await stored(c))[-1].data == b"1"

    asyncio.run(main())


def test_a_full_train_holds_the_bridge_and_its_claims(
    redis_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        train, gate = gated(limit=Volume(100), wagons=2, at_cap="refuse", publish_batch=25)
        async with redis_flow(redis_server) as flow, train.connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(500))
            async with c.running(), bridging(flow.open(), c) as bridge:
                await until(lambda: "the cap of 2" in bridge.trouble, "the train is full")
                (group,) = await flow.client.xinfo_groups(flow.stream)
                assert bridge.passed == 200
                assert group["pending"] <= 100  # two batches are held, and no more is read
                async with flow.open() as other:  # for longer than idle: nobody takes over what is held
                    await asyncio.sleep(3 * flow.claim)
                    taken = await other.read(500, 0.2)
                    assert taken is not None
                    assert len(taken) == 300 - group["pending"]
                    await other.commit(taken)
                async with asyncio.timeout(30):
                    while not any(isinstance(each.fact, BridgeHeldUp) for each in [e async for e in c.journal()]):
                        await asyncio.sleep(0.1)
                (named,) = [member for member in await c.members() if "bridge" in member.roles]
                assert flow.stream in named.trouble
                assert "the cap of 2" in named.trouble
                gate.set()
                await until_read(flow)
                await until(lambda: not bridge.trouble, "it goes on")
                assert bridge.passed == 200 + group["pending"]
            assert not [member for member in await c.members() if "bridge" in member.roles]
            told = [entry.fact async for entry in c.journal()]
            assert any(isinstance(fact, BridgeHeldUp) and "the cap of 2" in fact.because for fact in told)
            assert any(isinstance(fact, BridgeWentOn) and fact.seconds > 1 for fact in told)

    asyncio.run(main())
    assert sum("reads no more until the train takes events" in said.message for said in caplog.records) == 1


def test_an_outage_of_the_train_is_waited_for(redis_server: Server, own_redis: RedisServer) -> None:
    async def main() -> None:
        train = shop(publish_timeout=1.0, publish_batch=100)
        async with redis_flow(redis_server) as flow, train.connect(own_redis.url) as c:
            values = numbered(3000)
            async with bridging(flow.open(), c) as bridge, asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(writing(flow, values, 0.01))
                await until(lambda: bridge.passed > 300, "it runs")
                await asyncio.to_thread(own_redis.kill)
                await until(lambda: bool(bridge.trouble), "the outage is told")
                await asyncio.to_thread(own_redis.start)
                await writer
                await until_read(flow)
            by_id = {event.id: event.data for event in await stored(c)}
            assert sorted(by_id.values()) == sorted(values)

    asyncio.run(main())


def test_a_server_and_a_group_that_vanish_are_waited_for(own_redis: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with shop().connect(f"sqlite:///{tmp_path}") as c, redis_flow(own_redis) as flow:
            async with bridging(open_source(f"{flow.url}&timeout=1", "earliest"), c) as bridge:
                await flow.write(numbered(100))
                await until(lambda: bridge.passed == 100, "it runs")
                await flow.client.xgroup_destroy(flow.stream, "workers")
                await until(lambda: "is gone" in bridge.trouble, "the missing group is told")
                await flow.client.xgroup_create(flow.stream, "workers", "$")
                await until(lambda: not bridge.trouble, "it goes on")
                await asyncio.to_thread(own_redis.kill)
                await until(lambda: "can't be reached" in bridge.trouble, "the server is missed")
                await asyncio.to_thread(own_redis.start)
                await flow.write(numbered(100, 100))
                await until(lambda: bridge.passed == 200, "it goes on")
            assert sorted(event.data for event in await stored(c)) == sorted(numbered(200))

    asyncio.run(main())


def test_what_a_hanging_server_gave_and_nobody_got_is_read(own_redis: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(publish_batch=50).connect(f"sqlite:///{tmp_path}") as c, redis_flow(own_redis, 60.0) as flow:
            values = numbered(1500)
            async with bridging(open_source(f"{flow.url}&timeout=0.5", "earliest"), c) as bridge:
                async with asyncio.TaskGroup() as tasks:
                    writer = tasks.create_task(writing(flow, values))
                    for turn in range(2):
                        await until(lambda: bridge.passed > 100 + 300 * turn, "it runs")  # noqa: B023
                        await asyncio.to_thread(own_redis.pause)
                        await until(lambda: bool(bridge.trouble), "it is told")
                        await asyncio.to_thread(own_redis.resume)
                    await writer
                await until_read(flow)  # long before idle is over
            by_id = {event.id: event.data for event in await stored(c)}
            assert sorted(by_id.values()) == sorted(values)

    asyncio.run(main())


def test_a_promise_that_is_broken_before_the_train_is_told(
    redis_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with redis_flow(redis_server) as flow, shop(limit=Wait(2.0)).connect(f"sqlite:///{tmp_path}") as c:
            await flow.client.xadd(flow.stream, {"data": b"{}"}, id="1700000000000-1")
            await flow.client.xgroup_create(flow.stream, "workers", "0")
            async with bridging(flow.open(), c):
                await until(lambda: any("are late before" in said.message for said in caplog.records), "it warns")

    caplog.set_level(logging.INFO)
    asyncio.run(main())


def test_a_group_that_is_not_there_is_refused(redis_server: Server) -> None:
    async def main(url: str) -> str:
        with pytest.raises((UsageError, StorageBroken)) as refused:
            async with open_source(url):
                pass
        return str(refused.value)

    async def all_of_them() -> None:
        async with redis_flow(redis_server) as flow:
            assert f"there is no stream '{flow.stream}' in database 0" in await main(flow.url)
            await flow.client.xadd(flow.stream, {"data": "1"})
            assert "it has none" in await main(flow.url)
            await flow.client.xgroup_create(flow.stream, "workrs", "0", mkstream=True)
            assert "there are: workrs" in await main(flow.url)
        async with Redis(host=redis_server.host, port=redis_server.port) as client:
            await client.set(flow.stream, "text")
            assert "is no stream" in await main(flow.url)
            await client.delete(flow.stream)

    asyncio.run(all_of_them())


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/?group=g",
        "redis://h/s",
        "redis://h/s?group=g&gruop=x",
        "redis://h/s?group=g&idle=nan",
        "redis+sentinel://h/main?group=g",
        "redis+unix:///socket?group=g",
        "kafka://h/?group=g",
        "kafka://h/t",
        "kafka://h/a/b?group=g",
        "kafka://h/t?group=g&assignor=best",
        "kafka://u:secret@h/t?group=g",
        "kafka://h/t?group=g&nothing=1",
        "kafka://h/t?group=g&session.timeout.ms=soon",
        "kafka://h/t?group=g&session.timeout.ms=400000",
        "kafka://h/t?group=g&group.id=other",
        "kafka://h/t?group=g&enable.auto.commit=true",
        "stdin:?x=1",
        "nowhere://h/t",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_source(url)
    assert "secret" not in str(refused.value)


def test_a_wrong_option_is_refused_with_the_names_of_all_that_there_are() -> None:
    known = "redis knows group, stream, field, idle, db, prefix"
    with pytest.raises(UsageError, match=rf"unknown option gruop \(did you mean group\?\); {known}"):
        open_source("redis://h/s?group=g&gruop=x")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@h:1,h2:2/s/t:u?group=g&idle=5&db=3",
        "redis+sentinel://h,h2/main/s?group=g",
        "redis+unix:///run/redis.sock?group=g&stream=s&db=1",
        "rediss://h/s?group=g&ssl_cert_reqs=none",
        "valkey://h/s?group=g&cluster=true",
        "kafka://h:1,h2/t?group=g&assignor=cooperative&session.timeout.ms=6000",
    ],
)
def test_the_forms_of_a_url(url: str) -> None:
    source = open_source(url, "latest")
    assert "secret" not in source.name
    assert "?" not in source.name


def test_the_figures_are_exported(redis_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        metrics = Metrics()
        async with redis_flow(redis_server) as flow, shop().connect(f"sqlite:///{tmp_path}", meter=metrics) as c:
            await flow.write([*numbered(3), b"x" * 300_000])
            async with bridging(flow.open(), c) as bridge:
                forget = metrics.add(bridge.points)
                await until_read(flow)
                await until(lambda: bridge.lag.records == 0, "the lag is read", patience=10)
                found = {family.instrument.name: dict(family.series) for family in metrics.collect()}
                forget()
            labels = "orders", f"redis://{redis_server.host}:{redis_server.port}/{flow.stream}"
            assert found["eventwagon.bridge.records"] == {(*labels, "published"): 3, (*labels, "dead"): 1}
            assert found["eventwagon.bridge.lag"] == found["eventwagon.bridge.lag.age"] == {labels: 0}
            assert found["eventwagon.bridge.held_up"] == {labels: 0}

    asyncio.run(main())


@pytest.mark.parametrize("may_eval", [True, False])
def test_consumers_of_killed_bridges_are_removed_once_they_hold_nothing(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_eval: bool
) -> None:
    monkeypatch.setattr(redis, "_FORGOTTEN", 1.0)
    long_gone, holds, lives = "eventwagon-a-host-1-00ff", "eventwagon-a-host-2-00ff", "eventwagon-a-host-3-00ff"
    others = {"old", "eventwagon-worker", "my-eventwagon-a-1-00ff"}

    async def main() -> None:
        async with redis_flow(redis_server, claim=60) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(6))
            await flow.client.xgroup_create(flow.stream, "workers", "0")

            async def reads(consumer: str) -> bytes:
                ((_, ((name, _),)),) = await flow.client.xreadgroup("workers", consumer, {flow.stream: ">"}, count=1)
                return bytes(name)

            for consumer in (long_gone, *others):
                await flow.client.xack(flow.stream, "workers", await reads(consumer))
            held = await reads(holds)
            await asyncio.sleep(1.2)
            await flow.client.xack(flow.stream, "workers", await reads(lives))
            await flow.write(numbered(3))
            may = "+@all" if may_eval else "+@all -eval -evalsha"
            await flow.client.execute_command("ACL", "SETUSER", "some", "reset", "on", ">any", "~*", *may.split())
            url = flow.url.replace("redis://", "redis://some:any@")
            async with bridging(open_source(url), c) as bridge:
                await until(lambda: bridge.passed == 3, "it goes on in any case")
                found = {each["name"].decode() for each in await flow.client.xinfo_consumers(flow.stream, "workers")}
            ours = {each for each in found if each not in {long_gone, holds, lives, *others}}
            assert len(ours) == 1
            assert found - ours == {holds, lives, *others} | (set() if may_eval else {long_gone})
            (pending,) = await flow.client.xpending_range(flow.stream, "workers", "-", "+", 9)
            assert (pending["message_id"], pending["consumer"].decode()) == (held, holds)
            await flow.client.acl_deluser("some")

    asyncio.run(main())


def test_a_quiet_bridge_that_was_taken_for_killed_goes_on(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis below 7.2 counts a consumer as idle that finds nothing."""
    monkeypatch.setattr(redis, "_FORGOTTEN", -1.0)

    async def main() -> None:
        async with redis_flow(redis_server, claim=60) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(1))
            async with bridging(flow.open(), c) as quiet:
                await until(lambda: quiet.passed == 1, "it has begun")
                (before,) = await flow.client.xinfo_consumers(flow.stream, "workers")
                async with bridging(flow.open(), c):
                    await asyncio.sleep(0.3)
                assert quiet.passed == 1
                await flow.write(numbered(500))
                await until_read(flow)
                (after,) = await flow.client.xinfo_consumers(flow.stream, "workers")
            assert (quiet.passed, after["name"]) == (501, before["name"])
            assert len(await stored(c)) == 501

    asyncio.run(main())
