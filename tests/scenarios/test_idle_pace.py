"""A train at which nothing happens is looked at less often, and at full pace with the first sign of life."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventwagon import Volume
from eventwagon.contracts.facts import Switched
from eventwagon.runtime.observer import Observer
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When observers looked."""
    times: list[float] = []
    look = Observer.look

    async def noted(self: Observer, tasks: asyncio.TaskGroup) -> None:
        times.append(asyncio.get_running_loop().time())
        await look(self, tasks)

    monkeypatch.setattr(Observer, "look", noted)
    return times


async def looks_in(looks: list[float], seconds: float) -> int:
    before = len(looks)
    await asyncio.sleep(seconds)
    return len(looks) - before


def test_an_idle_train_is_looked_at_a_twentieth_as_often(looks: list[float]) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            assert await looks_in(looks, 2.0) >= 19
            await asyncio.sleep(30.0)
            assert await looks_in(looks, 20.0) <= 11
            await connection.publish(SignUp("b"))
            assert await looks_in(looks, 2.0) >= 19

    run(main())


def test_two_processes_both_look_at_full_pace(looks: list[float]) -> None:
    async def main() -> None:
        world = World()
        async with world.running(signups([])) as connection, world.running(signups([]), observe=False):
            await connection.publish(SignUp("a"))
            await asyncio.sleep(30.0)
            assert await looks_in(looks, 10.0) >= 95

    run(main())


async def _published_here(world: World, connection: Any) -> None:
    await connection.publish_many([SignUp(str(n)) for n in range(10)])


async def _published_elsewhere(world: World, connection: Any) -> None:
    async with world.connect(signups([], limit=Volume(10), spares=1)) as other:
        await other.publish_many([SignUp(str(n)) for n in range(10)])


async def _asked_for_elsewhere(world: World, connection: Any) -> None:
    async with world.connect(signups([], limit=Volume(10), spares=1)) as other:
        await other.publish(SignUp("a"))
        await other.request_switch("to see it")


@pytest.mark.parametrize("sign", [_published_here, _published_elsewhere, _asked_for_elsewhere])
def test_after_long_idleness_a_switch_comes_as_soon_as_ever(sign: Any, looks: list[float]) -> None:
    """As many events as the wagon may take, or a request, from this process or another one."""

    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, limit=Volume(10), spares=1)) as connection:
            await connection.found()
            await asyncio.sleep(60.25)
            assert await looks_in(looks, 10.0) <= 6
            began = asyncio.get_running_loop().time()
            await sign(world, connection)
            await until(lambda: world.of(Switched), seconds=10.0)
            assert asyncio.get_running_loop().time() - began <= 0.2
            assert await looks_in(looks, 2.0) >= 19

    run(main())
