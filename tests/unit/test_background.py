"""What drivers share: pauses that double, and tasks with an owner."""

from __future__ import annotations

import asyncio

from eventwagon.background import Background
from eventwagon.backoff import Backoff, pause_after
from eventwagon.testing.virtual_time import run


def test_pauses_double_up_to_the_most_until_reset() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [pause_after(failures, 0.5, 3.0) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5
    assert pause_after(10**9, 0.5, 3.0) == 3.0


def test_background_tasks_outlive_their_callers_and_end_with_their_owner() -> None:
    async def main() -> None:
        background, ended = Background(), list[str]()

        async def work(name: str, seconds: float) -> str:
            try:
                await asyncio.sleep(seconds)
                if name == "starts another":
                    background.start(work("another", 1.0))
            finally:
                ended.append(name)
            return name

        caller = asyncio.create_task(asyncio.wait_for(asyncio.shield(background.start(work("a", 1.0))), 0.5))
        await asyncio.wait([caller])
        assert isinstance(caller.exception(), TimeoutError)
        assert len(background) == 1
        background.start(work("starts another", 2.0))
        await background.wait()
        assert ended == ["a", "starts another", "another"]
        assert len(background) == 0
        task = background.start(work("hangs", 1e9))
        await asyncio.sleep(0)
        background.cancel()
        await background.wait()
        assert task.cancelled()
        assert ended[-1] == "hangs"

    run(main())
