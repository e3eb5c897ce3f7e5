"""Calls that several callers share, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.background import Background
from eventwagon.drivers.kafka.merged import Merged
from eventwagon.errors import Unavailable
from eventwagon.testing.virtual_time import run


class Asked:
    """Calls that take a second: what each was for, and when it began."""

    def __init__(self, *, rate: float) -> None:
        self.calls = list[tuple[float, set[str]]]()
        self.failure: Exception | None = None
        self.background = Background()
        self.merged = Merged(self.call, self.background, rate=rate)

    async def call(self, keys: set[str]) -> dict[str, float]:
        began = asyncio.get_running_loop().time()
        self.calls.append((began, keys))
        await asyncio.sleep(1.0)
        if self.failure is not None:
            raise self.failure
        return dict.fromkeys(keys, began)


def test_who_asks_at_the_same_time_shares_a_call() -> None:
    async def check() -> None:
        asked = Asked(rate=10)
        ab, bc = await asyncio.gather(asked.merged.of("ab"), asked.merged.of("bc"))
        assert (set(ab), set(bc)) == ({"a", "b"}, {"b", "c"})
        assert [keys for _, keys in asked.calls] == [{"a", "b", "c"}]

    run(check())


def test_an_answer_is_never_older_than_the_question() -> None:
    async def check() -> None:
        asked = Asked(rate=10)
        first = asyncio.create_task(asked.merged.of("a"))
        await asyncio.sleep(0.5)
        now = asyncio.get_running_loop().time()
        assert (await asked.merged.of("a"))["a"] >= now
        await first
        assert len(asked.calls) == 2

    run(check())


def test_few_calls_are_made_however_many_ask() -> None:
    async def check() -> None:
        asked, loop = Asked(rate=5), asyncio.get_running_loop()
        began = loop.time()

        async def ask(name: str) -> None:
            while loop.time() < began + 20:
                before = loop.time()
                assert before <= (await asked.merged.of([name]))[name] <= before + 1 / 5 + 1e-6
                await asyncio.sleep(0.1)

        await asyncio.gather(*(ask(f"train {number}") for number in range(40)))
        assert len(asked.calls) <= 5 + 5 * (loop.time() - began)

    run(check())


def test_no_call_for_nothing() -> None:
    async def check() -> None:
        asked = Asked(rate=1)
        assert await asked.merged.of(()) == {}
        assert asked.calls == []

    run(check())


def test_a_caller_that_goes_takes_nobody_along() -> None:
    async def check() -> None:
        asked = Asked(rate=1)
        goes, stays = asyncio.create_task(asked.merged.of("a")), asyncio.create_task(asked.merged.of("b"))
        await asyncio.sleep(0.5)
        goes.cancel()
        assert set(await stays) == {"b"}

    run(check())


def test_a_failure_is_told_to_all_who_asked_and_to_nobody_later() -> None:
    async def check() -> None:
        asked = Asked(rate=10)
        asked.failure = RuntimeError("broken")
        for failed in await asyncio.gather(asked.merged.of("a"), asked.merged.of("b"), return_exceptions=True):
            assert failed is asked.failure
        asked.failure = None
        assert set(await asked.merged.of("a")) == {"a"}

    run(check())


def test_who_waits_for_a_call_that_its_owner_ends_is_told() -> None:
    """It may be under way, or wait for its turn; who asks afterwards gets an answer."""

    async def check() -> None:
        asked = Asked(rate=1)
        waiting = [asyncio.create_task(asked.merged.of("a"))]
        await asyncio.sleep(0.5)
        waiting.append(asyncio.create_task(asked.merged.of("b")))
        await asyncio.sleep(0.1)
        asked.background.cancel()
        for failed in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(failed, Unavailable)
        assert set(await asked.merged.of("c")) == {"c"}

    run(check())


def test_a_cancelled_caller_is_cancelled() -> None:
    async def check() -> None:
        asked = Asked(rate=1)
        caller = asyncio.create_task(asked.merged.of("a"))
        await asyncio.sleep(0.5)
        caller.cancel()
        asked.background.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    run(check())
