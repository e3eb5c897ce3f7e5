"""A channel gets another name, or goes, while a wagon has it: no wagon is left unserved. In virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from eventwagon import Connection, Context, Train, Workers
from eventwagon.contracts.facts import ChannelsDropped, ChannelUnserved
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def program(done: list[str], *names: str, fails: bool = False, ingress: bool = True, **settings: object) -> Train:
    """Hands each event on through the channels of these names."""
    train = Train("t", workers=Workers(total=4), cooldown=0.0, **settings)  # type: ignore[arg-type]

    async def first(n: int, ctx: Context) -> None:
        for name in names[:1]:
            await ctx.emit(name, n)
        done.append(f"{n}")

    if ingress:
        train.on("t")(first)
    for here, after in zip(names, (*names[1:], ""), strict=True):
        train.on(here)(_handler(done, here, after, fails))
    return train


def _handler(done: list[str], here: str, after: str, fails: bool) -> Callable[[int, Context], Awaitable[None]]:
    async def hand_on(n: int, ctx: Context) -> None:
        if fails:
            raise RuntimeError("not now")
        if after:
            await ctx.emit(after, n)
        done.append(f"{n} {here}")

    return hand_on


def channels(connection: Connection) -> list[tuple[str, ...]]:
    return [w.channels for w in connection.manifest.wagons]


def test_a_renamed_channel_is_served_and_the_old_one_goes_when_it_is_empty(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, done = World(), list[str]()
        async with world.running(program(done, "mail")) as c:
            await c.publish(1)
            await until(lambda: done == ["1", "1 mail"])
        with caplog.at_level(logging.WARNING, "eventwagon"):
            async with (
                world.connect(program(done, "email"), redeclare=True) as c,
                c.running(),
            ):
                await c.publish(2)
                await until(lambda: done[2:] == ["2", "2 email"])
                await until(lambda: channels(c) == [("email",)])
                old = await c.request_switch()
                await c.wait_drained(old)
                assert await standing(world) == ["t_v2", "t_v2.dead", "t_v2.email"]
        assert [f.channels for f in world.of(ChannelsDropped)] == [("mail",)]
        assert not world.of(ChannelUnserved)
        assert any("no handler for channel mail of wagon 1" in line for line in caplog.messages)

    run(main())


async def standing(world: World) -> list[str]:
    return sorted(map(str, await world.broker.channels("t")))


def test_what_is_in_a_dropped_channel_stays_and_is_told_until_a_program_with_a_handler_comes() -> None:
    async def main() -> None:
        world, done = World(), list[str]()
        async with world.running(program(done, "mail", fails=True, attempts=1000, backoff=30.0)) as c:
            await c.publish(1)
            await until(lambda: done == ["1"])
        async with world.connect(program(done, "email"), redeclare=True) as c, c.running():
            await c.publish(2)
            await until(lambda: "2 email" in done)
            await until(lambda: len(world.of(ChannelUnserved)) == 1)
            old = await c.request_switch()
            await c.wait_switched(old)
            await asyncio.sleep(60)
            (wagon, _) = c.manifest.wagons
            assert (wagon.number, wagon.channels, wagon.sealed_at is not None) == (1, ("mail", "email"), True)
            (fact,) = world.of(ChannelUnserved)
            assert (fact.number, fact.channel, fact.count) == (1, "mail", 1)
            members = await c.members()
            assert [a.missing for m in members for a in m.attachments if a.number == 1] == [("mail",)]
            async with world.connect(program(done, "email", "mail"), redeclare=True) as other, other.running():
                await other.wait_drained(old)
        assert done.count("1 mail") == 1

    run(main())


def test_old_and_new_programs_side_by_side_serve_each_others_wagons() -> None:
    async def main() -> None:
        world, done = World(), list[str]()
        async with (
            world.running(program(done, "mail")) as old,
            world.connect(program(done, "email"), redeclare=True) as new,
            new.running(),
        ):
            for n in range(30):
                await old.publish(n)
                if n % 10 == 5:
                    at = await new.request_switch()
                    await new.wait_switched(at)
            await until(lambda: sum(" " in line for line in done) == 30)
            assert {line.split()[1] for line in done if " " in line} == {"mail", "email"}
            await new.wait_drained(3)

    run(main())


def test_renamed_twice_and_back() -> None:
    async def main() -> None:
        world, done = World(), list[str]()
        for n, name in enumerate(("mail", "email", "post", "mail")):
            async with world.connect(program(done, name), redeclare=True) as c, c.running():
                await c.publish(n)
                await until(lambda n=n, name=name: f"{n} {name}" in done)  # type: ignore[misc]
                await until(lambda name=name: channels(c) == [(name,)])  # type: ignore[misc]
        async with world.running(program(done, "mail")) as c:
            await c.request_switch()
            await c.wait_drained(1)

    run(main())


def test_a_declared_channel_without_a_handler_anywhere_keeps_a_wagon_from_being_ready() -> None:
    async def main() -> None:
        world, done = World(), list[str]()
        async with world.running(program(done, "mail")) as old:
            await old.publish(1)
            await until(lambda: "1 mail" in done)
            async with world.connect(program(done, "email"), redeclare=True) as new, new.running(work=False):
                await asyncio.sleep(1)
                at = await new.request_switch()
                await asyncio.sleep(10)
                assert new.manifest.active is not None
                assert new.manifest.active.number == at
                spare = new.manifest.wagons[-1]
                assert spare.number != at
            async with world.connect(program(done, "email"), redeclare=True) as new, new.running():
                await new.wait_switched(at)

    run(main())
