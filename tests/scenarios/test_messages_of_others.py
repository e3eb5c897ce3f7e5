"""What workers make of a message that holds several events, and of one that can't be decoded. In virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from eventwagon import Context, Event, Reject, Train, Volume, Workers
from eventwagon.cloudevents import BATCH, undecodable
from eventwagon.contracts.facts import EventDied, EventRetried
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def batch(*payloads: object, name: str = "batch") -> Event:
    events = [
        {"specversion": "1.0", "id": f"{name} {n}", "source": "/s", "type": "t", "data": p}
        for n, p in enumerate(payloads)
    ]
    return Event(name, "unknown", "unknown", 1.0, json.dumps(events).encode(), None, BATCH)


async def dead(connection: Any, count: int) -> list[Event]:
    while len(letters := [e async for e in connection.dead_letters()]) < count:
        await asyncio.sleep(0.1)
    return letters


def test_events_of_one_message_are_handled_one_by_one_and_a_bad_one_dies_alone() -> None:
    async def main() -> None:
        world, seen, inner = World(), list[tuple[str, int]](), list[tuple[int, str]]()
        train = Train("t", limit=Volume(100), workers=Workers(each=1), attempts=2)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            seen.append((ctx.event.id, n))
            if n == 2:
                raise Reject("no")
            ctx.emit("inner", n)

        @train.on("inner")
        async def keep(n: int, ctx: Context) -> None:
            inner.append((n, ctx.event.source))

        async with world.running(train) as connection:
            await connection.publish(batch(1, 2, "three", 4))
            await connection.publish(5)
            letters = await dead(connection, 2)
            await until(lambda: len(inner) == 3)
        assert [n for _, n in seen] == [1, 2, 4, 5]
        assert [name for name, _ in seen[:3]] == ["batch 0", "batch 1", "batch 3"]
        assert sorted(n for n, _ in inner) == [1, 4, 5]
        assert {source for n, source in inner if n < 5} == {"/s"}
        assert {(e.id, e.data) for e in letters} == {("batch 1", b"2"), ("batch 2", b'"three"')}
        assert {e.extensions["deadattempts"] for e in letters} == {"1"}
        assert sorted(fact.id for fact in world.of(EventDied)) == ["batch 1", "batch 2"]

    run(main())


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_one_that_fails_brings_its_message_again_and_at_last_to_the_dead_letters(kind: str) -> None:
    async def main() -> None:
        world, seen = World(), Counter[int]()
        train = Train("t", limit=Volume(100), workers=Workers(each=1), attempts=2)

        def work(n: int) -> None:
            seen[n] += 1
            if n == 2 or (n == 4 and seen[4] == 1):
                raise ValueError("no")

        if kind == "sync":
            train.on("t")(work)
        else:

            @train.on("t")
            async def handle(n: int) -> None:
                work(n)

        async with world.running(train) as connection:
            bad = batch(1, 2, 3)
            await connection.publish(bad)
            await connection.publish(batch(4, 5, name="other"))
            (letter,) = await dead(connection, 1)
            await until(lambda: seen[5] == 1)
        assert (letter.id, letter.data, letter.extensions["deadattempts"]) == (bad.id, bad.data, "2")
        assert seen == {1: 2, 2: 2, 4: 2, 5: 1}
        assert Counter(fact.id for fact in world.of(EventRetried)) == {"batch": 1, "other": 1}

    run(main())


def test_a_batch_is_cut_short_like_one_event() -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(each=1), attempts=1, handler_timeout=2.0)

        @train.on("t")
        async def handle(n: int) -> None:
            seen.append(n)
            if n == 2:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    return  # swallowed

        async with world.running(train) as connection:
            await connection.publish(batch(1, 2, 3))
            (letter,) = await dead(connection, 1)
            await connection.publish(4)
            await until(lambda: 4 in seen)
        assert seen == [1, 2, 4]
        assert letter.id == "batch"

    run(main())


def test_an_empty_batch_is_done() -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(each=1))

        @train.on("t")
        async def handle(n: int) -> None:
            seen.append(n)

        async with world.running(train) as connection:
            await connection.publish(batch())
            await connection.publish(1)
            await until(lambda: seen == [1])
            depths = await connection.depths()
            while any(d.published != d.settled for by_channel in depths.values() for d in by_channel.values()):
                await asyncio.sleep(0.1)
                depths = await connection.depths()
            assert [e async for e in connection.dead_letters()] == []

    run(main())


def test_what_can_not_be_decoded_dies_at_once_whatever_its_handler_takes() -> None:
    async def main() -> None:
        world, seen = World(), list[bytes]()
        train = Train("t", limit=Volume(100), workers=Workers(each=1))

        @train.on("t")
        async def handle(raw: bytes) -> None:
            seen.append(raw)

        async with world.running(train) as connection:
            because = "source is no UTF-8 from byte 1 on"
            letter = undecodable(
                b"\xff", [("ce_source", b"Z\xfcrich")], position="t_v1/0/7", written=5.0, because=because
            )
            await connection.publish(letter)
            (first,) = await dead(connection, 1)
            await connection.publish(first)  # as it is it can't be decoded the next time either
            assert len(await dead(connection, 2)) == 2
        assert seen == []
        assert (first.id, first.data, first.extensions["undecodable"]) == ("t_v1/0/7", b"\xff", "t_v1/0/7")
        assert first.extensions["deadbecause"] == f"can't be decoded: {because}"
        assert first.extensions["rawheaders"] == '[["ce_source", {"base64": "WvxyaWNo"}]]'
        assert [fact.because for fact in world.of(EventDied)] == [first.extensions["deadbecause"]] * 2

    run(main())


def test_a_large_batch_keeps_no_other_waiting() -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(each=2))

        @train.on("t")
        async def handle(n: int) -> None:
            seen.append(n)

        async with world.running(train) as connection:
            await connection.publish_many([batch(*range(2000)), batch(*range(5000, 7000), name="second")])
            await until(lambda: len(seen) == 4000)
        assert seen != [*range(2000), *range(5000, 7000)]
        assert sorted(seen) == [*range(2000), *range(5000, 7000)]

    run(main())
