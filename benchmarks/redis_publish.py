"""What publishing to Redis costs over the bare client's pipelined XADDs."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from eventwagon.event import Event

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, orders, unused
from .our_side import callers, new_channel, one_after_the_other, through_train
from .places import place
from .sqlite_publish import batches

_AIM = Aim("ratio", least=1.5)
_CALLERS = 64


async def run(how: Run) -> list[Line]:
    rounds = how.pick(9, 5)
    with how.scratch() as directory:
        async with place("Redis", directory) as url:
            if url is None:
                return []
            lines = [await _batches(url, size, how.pick(30_000, 10_000), rounds) for size in (10, 100, 1000)]
            lines.append(await _tasks(url, how.pick(200, 80), rounds))
            lines.append(await _many(url, how.pick(30_000, 10_000), rounds))
            lines.append(await _callers(url, how.pick(200, 80), rounds))
            return lines


async def _batches(url: str, size: int, count: int, rounds: int) -> Line:
    work = batches(size, count // size)

    mine, theirs = await in_turn(rounds, lambda: one_after_the_other(url, work), lambda: _raw(url, work))
    return _line(f"batches of {size:,}", mine, theirs)


async def _tasks(url: str, each: int, rounds: int) -> Line:
    """One event a call, all calls on one connection at once."""
    work = batches(1, each * _CALLERS)

    async def ours() -> float:
        async with new_channel(url) as (broker, channel):
            left = iter(work)

            async def call() -> None:
                for batch in left:
                    await broker.publish(channel, batch)

            watch = Stopwatch()
            await asyncio.gather(*(call() for _ in range(_CALLERS)))
            return len(work) / watch.seconds

    mine, theirs = await in_turn(rounds, ours, lambda: _raw(url, batches(_CALLERS, each)))
    return _line(f"{_CALLERS} tasks at the broker", mine, theirs)


async def _many(url: str, count: int, rounds: int) -> Line:
    """From payloads: encoding, ids and the way to the wagon included, which the other side is spared."""
    work = orders(count)

    mine, theirs = await in_turn(
        rounds,
        lambda: through_train(url, count, lambda connection: connection.publish_many(work)),
        lambda: _raw(url, batches(500, count // 500)),
    )
    return _line("publish_many()", mine, theirs)


async def _callers(url: str, each: int, rounds: int) -> Line:
    work = orders(each)

    mine, theirs = await in_turn(
        rounds,
        lambda: through_train(url, each * _CALLERS, callers(_CALLERS, work)),
        lambda: _raw(url, batches(_CALLERS, each)),
    )
    return _line(f"{_CALLERS} callers of publish()", mine, theirs)


async def _raw(url: str, work: list[list[Event]]) -> float:
    """A pipeline of one XADD for each event of a batch, with the same fields."""
    async with Redis.from_url(url) as redis:
        stream = unused("raw")
        watch = Stopwatch()
        await pipelined(redis, stream, work)
        speed = sum(map(len, work)) / watch.seconds
        await redis.delete(stream)
        return speed


async def pipelined(redis: Redis, stream: str, work: list[list[Event]]) -> None:
    """One XADD for each event, a pipeline for each batch."""
    for batch in work:
        pipeline = redis.pipeline(transaction=False)
        for e in batch:
            pipeline.xadd(
                stream,
                {
                    "specversion": "1.0",
                    "id": e.id,
                    "source": e.source,
                    "type": e.type,
                    "time": "2026-01-31T23:59:59.500000Z",
                    "datacontenttype": e.content_type,
                    "data": e.data,
                },
            )
        await pipeline.execute()


def _line(what: str, mine: list[float], theirs: list[float]) -> Line:
    return Line(what=what, against="redis-py, pipelined XADD", unit="events/s", ours=mine, theirs=theirs, aim=_AIM)


BENCHMARK = Benchmark(
    "redis-publish",
    "publishing to Redis in batches, by publish_many() and by 64 callers, against the bare client's pipelines of XADD",
    run,
)
