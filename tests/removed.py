"""A train that lives, is removed and founded anew, on any broker: for the tests on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.timetable import timetable_of
from eventwagon.errors import RemovalRefused
from tests.support import until


async def lives_and_is_removed(name: str, url: str, left: Callable[[], Awaitable[list[str]]], **settings: Any) -> None:
    """It handles events in several wagons, one dies; it is refused to be removed, then removed by force and founded
    anew; each time nothing may be `left`."""
    handled: list[int] = []

    async def left_of_it() -> list[str]:
        """Without the journal in which all trains of a registry stand that were removed."""
        return [each for each in await left() if "0removed" not in each]

    defaults: dict[str, Any] = {"limit": Volume(10), "workers": Workers(total=4), "keep_drained": 0.5}
    train = Train(name, **{**defaults, **settings})

    @train.on(name)
    async def first(n: int, ctx: Context) -> None:
        if n < 0:
            raise Reject("below zero")
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None:
        handled.append(n)

    async def lives(*events: int) -> None:
        handled.clear()
        async with train.connect(url, listeners=()) as c, c.running():
            if -1 in events and timetable_of(c.broker, c.registry) is not None:
                await c.publish(7, after=900)
            await c.publish_many(events)
            await until(lambda: set(handled) == {n for n in events if n >= 0}, seconds=60)
            await c.wait_switched(await c.request_switch())
        assert await left_of_it(), "a test that sees nothing of a train that stands proves nothing"

    async def is_removed(*, refused: bool) -> None:
        ledger = settings.get("ledger")
        async with Train(name, ledger=ledger).connect(url, listeners=()) as hand, asyncio.timeout(60):
            if refused:
                with pytest.raises(RemovalRefused, match="1 dead letter in "):
                    await hand.remove()
            removed = await hand.remove(force=refused)
            assert removed.later == (refused and timetable_of(hand.broker, hand.registry) is not None)
        assert removed.existed
        assert removed.channels >= 3
        assert await left_of_it() == []

    await lives(-1, *range(15))
    await is_removed(refused=True)
    await lives(1)
    await is_removed(refused=False)
    async with Train(name).connect(url, listeners=()) as hand:
        assert not (await hand.remove()).existed
    assert await left_of_it() == []
