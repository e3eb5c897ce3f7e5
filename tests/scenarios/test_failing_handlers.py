"""Handlers that fail, hang or take long: retries, dead letters, claims, and the wagons beside. In virtual time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from itertools import pairwise

import pytest

from eventwagon import Context, Event, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import EventDied, EventRetried, WagonRemoved
from eventwagon.testing.virtual_time import run
from tests.support import World, signups, until


def test_retries_then_dead_letters_that_outlive_their_wagon() -> None:
    async def main() -> None:
        world, attempts = World(), Counter[str]()
        train = Train("t", limit=Volume(4), workers=Workers(each=2), spares=1, attempts=3)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            attempts[what] += 1
            if what == "poison":
                raise ValueError("can't\nbe")
            if what == "no":
                raise Reject("not for us")
            if what == "second time" and ctx.attempt == 1:
                raise RuntimeError

        async with world.running(train) as connection:
            ids = {what: await connection.publish(what) for what in ("poison", "no", "second time", "fine")}
            await connection.publish("next wagon")
            await connection.wait_drained(1)
            dead = {e.id: e for e in [e async for e in connection.dead_letters()]}
        assert attempts == {"poison": 3, "no": 1, "second time": 2, "fine": 1, "next wagon": 1}
        assert dead.keys() == {ids["poison"], ids["no"]}
        poison = dead[ids["poison"]]
        assert poison.data == b'"poison"'
        assert poison.extensions["deadbecause"] == "ValueError: can't; be"
        assert poison.extensions["deadattempts"] == "3"
        assert poison.extensions["deadwagon"] == "1"
        assert dead[ids["no"]].extensions["deadbecause"] == "rejected: not for us"
        assert world.of(WagonRemoved)[0].dead == 2
        assert len(world.of(EventDied)) == 2
        pauses = [f.pause for f in world.of(EventRetried) if f.attempt == 2]
        assert all(0 <= p <= 1.0 for p in pauses)

    run(main())


def test_each_death_is_one_line_with_everything_in_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(each=1), attempts=2, backoff=0.0)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            if what == "no":
                raise Reject("not for us")
            await ctx.emit("mail", what)

        @train.on("mail")
        async def mail(what: str) -> None:
            raise ValueError("what\nelse")

        async with (
            train.connect(broker=world.broker, registry=world.registry, clock=world.clock) as connection,
            connection.running(),
        ):
            await connection.publish("no", id="1")
            await connection.publish("yes", id="2")
            await connection.publish(Event("3", "?", "/elsewhere", 1.0, b"\xff not json"))
            while len([e async for e in connection.dead_letters()]) < 3:
                await asyncio.sleep(0.1)

    with caplog.at_level(logging.WARNING, logger="eventwagon"):
        run(main())
    levels = [r.levelname for r in caplog.records if r.levelno >= logging.WARNING and "mail failed" not in r.message]
    assert sorted(levels) == ["ERROR", "ERROR", "WARNING"]
    deaths = "\n".join(f"{r.levelname} {bool(r.exc_info)} {r.getMessage()}" for r in caplog.records)
    lists = "; `eventwagon dead t` lists it"
    mail = r"ERROR True t: mail of t_v1: event \S+ is dead after 2 attempts: ValueError: what; else \(handler \S+mail\)"
    rejected = (
        r"WARNING False t: ingress of t_v1: event 1 is dead after 1 attempt: rejected: not for us \(handler \S+\)"
    )
    undecoded = (
        r"ERROR False t: ingress of t_v1: event 3 is dead after 1 attempt: can't be decoded for .* \(handler \S+\)"
    )
    assert all(re.search(f"^{death}{lists}$", deaths, re.MULTILINE) for death in (mail, rejected, undecoded)), deaths


def test_what_does_not_decode_goes_to_the_dead_letters_with_its_bytes() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            foreign = Event("my-id", "?", "/elsewhere", 1.0, b"\xff not json")
            await connection.publish(foreign)
            await connection.publish(Event("other-id", "?", "/elsewhere", 1.0, b'{"wrong": "shape"}'))
            await until(lambda: len(world.of(EventDied)) == 2)
            await asyncio.sleep(1)
            dead = [e async for e in connection.dead_letters()]
        assert [e.data for e in dead if e.id == "my-id"] == [b"\xff not json"]
        assert all("can't be decoded" in e.extensions["deadbecause"] for e in dead)
        assert handled == []

    run(main())


def test_a_handler_that_hangs_is_cut_short_and_tried_again() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), handler_timeout=5.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                await asyncio.Event().wait()

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: attempts == [1, 2])
        assert "handler_timeout=5" in world.of(EventRetried)[0].because

    run(main())


def test_each_of_many_handlers_that_hang_is_cut_short_in_time() -> None:
    """Also while `grace` is not over for one that was cut short before."""

    async def main() -> None:
        world, began = World(), list[float]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), attempts=1, handler_timeout=4.0, grace=30.0)

        @train.on("t")
        async def handle(_: int) -> None:
            began.append(asyncio.get_running_loop().time())
            await asyncio.Event().wait()

        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await until(lambda: len(world.of(EventDied)) == 5)
        assert [round(b - a, 1) for a, b in pairwise(began)] == [4.0] * 4

    run(main())


def test_long_handlers_keep_their_claim() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=2), visibility=3.0, handler_timeout=60.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            await asyncio.sleep(30)

        async with world.running(train) as connection:
            await connection.publish(1)
            await asyncio.sleep(40)
        assert attempts == [1]

    run(main())


def test_i8_poison_in_one_wagon_does_not_slow_the_next() -> None:
    async def main() -> None:
        world, waits = World(), list[float]()
        train = Train("t", limit=Volume(50), workers=Workers(each=2), spares=1, attempts=10, handler_timeout=1.0)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            if what == "poison":
                await asyncio.sleep(3600)
            waits.append(world.clock() - ctx.event.time)

        async with world.running(train) as connection:
            await connection.publish_many("poison" for _ in range(50))
            await connection.publish_many("fine" for _ in range(40))
            await until(lambda: len(waits) == 40)
        assert max(waits) < 0.5

    run(main())


def test_a_handler_that_outlasts_the_grace_is_cut_and_its_event_comes_again_untried() -> None:
    """That its process ended was no failure of the event's."""

    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=1), grace=2.0, backoff=0.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if len(attempts) == 1:
                await asyncio.sleep(30)

        async with world.running(train) as connection:
            await connection.publish(1)
            await asyncio.sleep(1)
        async with world.running(train):
            await until(lambda: attempts == [1, 1])

    run(main())
