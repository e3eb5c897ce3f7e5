"""A train that never pauses and never ends, under test in virtual time: `idle` says so instead of hanging."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon import Context, Train, testing


def test_a_chain_without_end_is_not_idle() -> None:
    chain = Train("chain")

    @chain.on("chain")
    async def go_on(number: int, ctx: Context) -> None:
        await ctx.publish(number + 1)

    async def story() -> None:
        async with testing.running(chain) as train:
            await train.publish(1)
            await train.idle(within=1)

    with pytest.raises(testing.NotIdle, match="not idle within 1 s"):
        testing.run(story())


def test_a_handler_that_spins_is_cut_short() -> None:
    spins = Train("spins", attempts=1, handler_timeout=0.5)

    @spins.on("spins")
    async def spin(number: int) -> None:
        while True:
            await asyncio.sleep(0)

    async def story() -> None:
        async with testing.running(spins, dead="keep") as train:
            await train.publish(1)
            await train.idle()
            assert [letter.payload for letter in train.dead] == [1]

    testing.run(story())
