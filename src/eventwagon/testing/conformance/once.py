"""The suite for records of handled events: claims, the window, what holders may give up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from secrets import token_bytes, token_hex
from typing import Any

from ...contracts.once import BYTES, OnceRecord, Standing, once_of
from .check import Body, Check, Make, Suite, holds, identity, same, sentence, together

OURS, HANDLED, CLAIMED = Standing.OURS, Standing.HANDLED, Standing.CLAIMED


class OnceTrial:
    """A record under trial, a train name unique to the check, and the steps that checks share."""

    def __init__(self, record: OnceRecord, another: Callable[[], AbstractAsyncContextManager[Any]], brief: float):
        self.record = record
        self.another = another
        """Another process's view of its store."""
        self.brief = brief
        self.train = f"check_{token_hex(6)}"

    def keys(self, count: int) -> list[bytes]:
        """Keys that nobody has used."""
        return [token_bytes(BYTES) for _ in range(count)]

    async def claim(self, *keys: bytes, holder: str = "one", lease: float = 60.0) -> list[Standing]:
        """Their standings, claimed."""
        return list(await self.record.claim(self.train, keys, holder=holder, lease=lease))

    async def handled(self, *keys: bytes, window: float = 60.0) -> None:
        """Record them."""
        await self.record.record(self.train, keys, window=window)


def once_checks(*, brief: float = 0.5) -> Sequence[Check[Any]]:
    """Every check of the contract of a record of handled events, for a broker or registry that has one. `brief`: the
    shortest lease and window that the driver keeps reliably, in seconds."""

    def make_check(body: Body[OnceTrial], requires: tuple[str, ...]) -> Check[Any]:
        async def start(check: Check[Any], make: Make[Any]) -> None:
            async with make() as store:
                record = once_of(store)
                assert record is not None  # noqa: S101 - for the type checker
                await body(OnceTrial(record, make, brief))

        return Check(identity(body), sentence(body), requires, start)

    return [make_check(body, requires) for body, requires in suite.bodies]


suite: Suite[OnceTrial] = Suite()


@suite.check()
async def what_was_handled_is_known(t: OnceTrial) -> None:
    """What was recorded is known as handled to every holder, the one that claimed it included, and stays so."""
    one, two, three = t.keys(3)
    same(await t.claim(one, two), [OURS, OURS], "claiming new keys")
    await t.handled(one)
    await t.handled(one)
    same(await t.claim(one, two, three), [HANDLED, OURS, OURS], "claiming them again")
    same(await t.claim(three, one, holder="two"), [CLAIMED, HANDLED], "claiming them as another")
    same(await t.record.count(t.train), 1, "how many it remembers")


@suite.check()
async def what_nobody_claimed_can_be_recorded(t: OnceTrial) -> None:
    """A key can be recorded though nobody, or another holder, has claimed it."""
    one, two = t.keys(2)
    await t.claim(two)
    await t.handled(one, two)
    same(await t.claim(one, two), [HANDLED, HANDLED], "claiming them")


@suite.check()
async def one_holder_at_a_time(t: OnceTrial) -> None:
    """Of any number of holders that claim a key at once, one gets it."""
    keys = t.keys(3)
    found = await together(*(t.claim(*keys, holder=f"h{n}") for n in range(8)))
    for place in range(3):
        standings = [standing[place] for standing in found]
        same(standings.count(OURS), 1, "how many got the key")
        same(standings.count(CLAIMED), 7, "how many did not")


@suite.check()
async def a_claim_runs_out(t: OnceTrial) -> None:
    """A claim that is not extended runs out, and an extended one does not."""
    one, two = t.keys(2)
    await t.claim(one, two, lease=t.brief)
    await t.claim(two, lease=60.0)
    same(await t.claim(two, holder="two"), [CLAIMED], "claiming it as another")
    await asyncio.sleep(t.brief * 1.3)
    same(await t.claim(one, two, holder="two"), [OURS, CLAIMED], "claiming them as another, later")
    same(await t.claim(one), [CLAIMED], "claiming what another has claimed since")


@suite.check()
async def claims_are_given_up_by_their_holder(t: OnceTrial) -> None:
    """A holder gives up its own claims, and nothing else."""
    one, two, three = t.keys(3)
    await t.claim(one, two)
    await t.handled(two)
    await t.record.release(t.train, [one, two, three], holder="two")
    same(await t.claim(one, holder="two"), [CLAIMED], "after another gave it up")
    await t.record.release(t.train, [one, two, three], holder="one")
    await t.record.release(t.train, [one], holder="one")
    same(await t.claim(one, two, three, holder="two"), [OURS, HANDLED, OURS], "after its holder gave it up")


@suite.check()
async def the_window_ends(t: OnceTrial) -> None:
    """A handled event is forgotten when its window is over; recorded again, it is remembered for longer."""
    one, two = t.keys(2)
    await t.handled(one, two, window=t.brief)
    await t.handled(two, window=60.0)
    await asyncio.sleep(t.brief * 1.3)
    same(await t.claim(one, two), [OURS, HANDLED], "claiming them after that")


@suite.check()
async def what_is_over_goes(t: OnceTrial) -> None:
    """What is over does not stay: the record holds no more than what was handled within the window."""
    for _ in range(3):
        await t.handled(*t.keys(200), window=t.brief)
    await asyncio.sleep(t.brief * 1.3)
    for _ in range(4):
        await t.handled(*t.keys(200))
    same(await t.record.count(t.train), 800, "how many it remembers")


@suite.check()
async def another_process_sees_the_same(t: OnceTrial) -> None:
    """Another process's claims and records are seen at once."""
    one, two, three = t.keys(3)
    await t.claim(one)
    await t.handled(two)
    async with t.another() as store:
        record = once_of(store)
        assert record is not None  # noqa: S101 - for the type checker
        found = await record.claim(t.train, [one, two, three], holder="two", lease=60.0)
        same(list(found), [CLAIMED, HANDLED, OURS], "claiming them there")
        same(await t.claim(three), [CLAIMED], "claiming here what was claimed there")
        await record.record(t.train, [three], window=60.0)
        same(await t.claim(three), [HANDLED], "claiming here what was handled there")


@suite.check()
async def trains_are_apart(t: OnceTrial) -> None:
    """Trains know nothing of one another, and clearing one forgets everything of it alone. Both ways of clearing what
    is not there are no errors."""
    other = f"{t.train}x"
    one, two = t.keys(2)
    await t.record.clear(t.train)
    same(await t.record.count(t.train), 0, "how many it remembers at first")
    await t.claim(one)
    await t.handled(two)
    same(list(await t.record.claim(other, [one, two], holder="two", lease=60.0)), [OURS, OURS], "the other train's")
    await t.record.record(other, [one], window=60.0)
    await t.record.clear(t.train)
    same(await t.record.count(t.train), 0, "how many it remembers")
    same(await t.claim(one, two, holder="two"), [OURS, OURS], "claiming them again")
    same(await t.record.count(other), 1, "how many the other remembers")
    await t.record.clear(t.train)
    await t.record.clear(other)


@suite.check()
async def many_at_once(t: OnceTrial) -> None:
    """Thousands of keys in one call keep their order, and no keys at all are no error."""
    keys = t.keys(2_500)
    await t.handled(*keys[::2])
    found = await t.claim(*keys)
    holds(found[::2] == [HANDLED] * 1_250 and found[1::2] == [OURS] * 1_250, "the standings are out of order")
    same(await t.claim(), [], "claiming nothing")
    await t.handled()
    await t.record.release(t.train, [], holder="one")
    await t.record.release(t.train, keys, holder="one")
    same(await t.record.count(t.train), 1_250, "how many it remembers")
