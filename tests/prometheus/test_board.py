"""The board's queries on a real Prometheus that scrapes a real train, and how many series that makes."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from eventwagon import Breaker, Context, Reject, Train, Volume, Wait, Workers
from tests.prometheus.live import Live
from tests.prometheus.shipped import queries
from tests.servers.prometheus import PrometheusServer

pytestmark = pytest.mark.slow


def busy_train() -> Train:
    """One to which everything happens that the board shows: some events are retried, some rejected, some emitted."""
    train = Train(
        "busy",
        limit=Volume(40) | Wait(5.0),
        workers=Workers(each=4),
        backoff=0.05,
        breaker=Breaker(share=1.0),
    )

    @train.on("busy", concurrency=6)
    async def handle(n: int, ctx: Context) -> None:
        await asyncio.sleep(0.01)
        if n % 10 == 1:
            raise Reject("never")
        if n % 10 == 2 and ctx.attempt == 1:
            raise ValueError("not yet")
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None: ...

    return train


def test_each_query_of_the_board_returns_data(prometheus_server: PrometheusServer, tmp_path: Path) -> None:
    asked = dict.fromkeys(queries(train="busy"), False)
    assert len(asked) > 30

    def answered() -> bool:
        """Whether each query has returned numbers by now: not all have some at the same moment."""
        for (panel, expression), done in asked.items():
            if not done:
                found = prometheus_server.query(expression).values()
                asked[panel, expression] = any(math.isfinite(value) for value in found)
        return all(asked.values())

    async def main() -> None:
        live = Live(prometheus_server, busy_train(), tmp_path)

        async def published() -> None:
            await train.publish(0, after=3600)
            while True:
                await train.publish_many(range(20))
                await asyncio.sleep(0.1)

        async with live.process() as train:
            publishing = asyncio.create_task(published())
            try:
                await live.until("every query of the board has data", answered)
            except AssertionError:
                pytest.fail(f"no data: {[each for each, done in asked.items() if not done]}")
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)

    asyncio.run(main())


def test_many_wagons_are_as_few_series_as_some(prometheus_server: PrometheusServer, tmp_path: Path) -> None:
    train = Train(
        "many", limit=Volume(1), workers=Workers(each=1), wagons=32, spares=16, cooldown=0.0, observe_every=0.05
    )

    @train.on("many")
    async def handle(n: int) -> None: ...

    async def main() -> None:
        live, counts = Live(prometheus_server, train, tmp_path), []
        async with live.process(url="memory://") as connection:
            for number in (50, 1000):
                async with asyncio.timeout(120):
                    while connection.manifest.next_number <= number:
                        await connection.publish_many([1] * 16)
                switches = (
                    f'eventwagon_switches_total{{eventwagon_train="many",eventwagon_cause="limit"}} >= {number - 40}'
                )
                await live.until("they are scraped", lambda asked=switches: bool(prometheus_server.query(asked)))  # type: ignore[misc]
                (count,) = prometheus_server.query('count({job="many-run"})').values()
                counts.append(count)
        assert counts[0] > 100
        assert counts[1] <= counts[0] + 40  # a reason or an operation that the first ones did not meet

    asyncio.run(main())
