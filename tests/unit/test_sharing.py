"""Things that several owners use together."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.sharing import Shared


class Thing:
    """Takes a moment to close."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.closed = True


def test_the_first_makes_it_and_the_last_closes_it() -> None:
    async def main() -> None:
        shared = Shared[Thing]()
        async with shared.use("a", Thing) as first:
            async with shared.use("a", Thing) as second, shared.use("b", Thing) as other:
                assert first is second
                assert first is not other
            assert [other.closed, first.closed] == [True, False]
        assert [first.closed] == [True]
        async with shared.use("a", Thing) as anew:
            assert anew is not first

    asyncio.run(main())


def test_whoever_comes_while_it_is_closed_gets_a_new_one() -> None:
    async def main() -> None:
        shared = Shared[Thing]()
        left = asyncio.Event()

        async def one() -> Thing:
            async with shared.use("a", Thing) as thing:
                left.set()
            return thing

        leaving = asyncio.create_task(one())
        await left.wait()
        await asyncio.sleep(0)
        async with shared.use("a", Thing) as thing:
            assert await leaving is not thing
            assert not thing.closed

    asyncio.run(main())


def test_a_users_error_closes_nothing_of_the_others() -> None:
    async def main() -> None:
        shared = Shared[Thing]()

        async def fail() -> None:
            async with shared.use("a", Thing):
                raise ValueError

        async with shared.use("a", Thing) as thing:
            with pytest.raises(ValueError):
                await fail()
            assert not thing.closed

    asyncio.run(main())


def test_each_event_loop_has_its_own() -> None:
    shared, seen = Shared[Thing](), list[Thing]()

    async def use() -> None:
        async with shared.use("a", Thing) as thing:
            seen.append(thing)

    async def left_open() -> None:
        seen.append(await shared.use("a", Thing).__aenter__())

    for main in (use, left_open, use):
        asyncio.run(main())
    assert len({id(thing) for thing in seen}) == 3
