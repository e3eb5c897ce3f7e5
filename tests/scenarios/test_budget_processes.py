"""Budgets of real processes, on SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bounded import CONCURRENCY, at_a_time, check, shared
from tests.orders import Place, settled
from tests.programs.bounded import bounded


@pytest.mark.timeout(180)
def test_three_processes_share_a_rate_and_a_concurrency_and_one_is_killed(tmp_path: Path) -> None:
    check(asyncio.run(shared(f"sqlite:///{tmp_path}/trains", tmp_path)))


@pytest.mark.timeout(180)
def test_wagons_with_processes_of_their_own_share_it_too(place: Place) -> None:
    async def main() -> None:
        async with place.running("tests.programs.bounded:bounded", bounded) as (c, _):
            await c.publish_many(range(60))
            number = await c.request_switch("for the test")
            await c.wait_switched(number)
            await c.publish_many(range(60, 120))
            await asyncio.sleep(4)
            await c.wait_drained(number)
            await settled(lambda: len(ends()) >= 120)

    def ends() -> list[str]:
        text = "".join(file.read_text() for file in place.handled.iterdir())
        return [line for line in text.splitlines() if line.startswith("end ")]

    asyncio.run(main())
    files = [file.read_text().splitlines() for file in place.handled.iterdir()]
    assert len([file for file in files if any(line.startswith("begin") for line in file)]) == 2
    assert 2 <= at_a_time([line for file in files for line in file]) <= CONCURRENCY
