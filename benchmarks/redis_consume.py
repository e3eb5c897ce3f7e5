"""What receiving and settling on Redis costs over the bare client's, and the whole path."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from eventwagon.event import Event

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, unused
from .our_side import new_channel, receive_and_settle
from .path import whole
from .places import place
from .redis_publish import pipelined
from .sqlite_publish import batches


async def run(how: Run) -> list[Line]:
    rounds = how.pick(9, 5)
    with how.scratch() as directory:
        async with place("Redis", directory) as url:
            if url is None:
                return []
            lines = [await _batches(url, size, how.pick(30_000, 10_000), rounds) for size in (100, 1000)]
            count = how.pick(30_000, 10_000)
            path, raw = await in_turn(how.pick(7, 3), lambda: whole(url, count), lambda: _raw_path(url, count))
            lines.append(
                Line(
                    what="whole path",
                    against="redis-py: XADD, XREADGROUP, XACK, XDEL",
                    unit="events/s",
                    ours=path,
                    theirs=raw,
                    aim=Aim("ours", least=25_000),
                )
            )
            return lines


async def _batches(url: str, size: int, count: int, rounds: int) -> Line:
    work = batches(size, count // size)

    async def ours() -> float:
        async with new_channel(url) as (broker, channel):
            for batch in work:
                await broker.publish(channel, batch)
            return await receive_and_settle(broker, channel, size, count)

    async def raw() -> float:
        async with Redis.from_url(url) as redis:
            stream = await _filled(redis, work)
            watch = Stopwatch()
            await _drain(redis, stream, size, count)
            speed = count / watch.seconds
            await redis.delete(stream)
            return speed

    mine, theirs = await in_turn(rounds, ours, raw)
    return Line(
        what=f"receive and settle {size:,}",
        against="redis-py: XREADGROUP, XACK, XDEL",
        unit="events/s",
        ours=mine,
        theirs=theirs,
        aim=Aim("ratio", least=0.8),
    )


async def _filled(redis: Redis, work: list[list[Event]]) -> str:
    stream = unused("raw")
    await redis.xgroup_create(stream, "group", "0", mkstream=True)
    await pipelined(redis, stream, work)
    return stream


async def _drain(redis: Redis, stream: str, size: int, count: int) -> None:
    done = 0
    while done < count:
        found: Any = await redis.xreadgroup("group", "consumer", {stream: ">"}, count=size)
        entries = found[0][1]
        ids = [entry for entry, _ in entries]
        pipeline = redis.pipeline(transaction=False)
        pipeline.xack(stream, "group", *ids)
        pipeline.xdel(stream, *ids)
        await pipeline.execute()
        done += len(ids)


async def _raw_path(url: str, count: int) -> float:
    """Stored and fetched in batches of 500, and nothing else done with them."""
    work = batches(500, count // 500)
    async with Redis.from_url(url) as redis:
        watch = Stopwatch()
        stream = await _filled(redis, work)
        await _drain(redis, stream, 500, count)
        speed = count / watch.seconds
        await redis.delete(stream)
        return speed


BENCHMARK = Benchmark(
    "redis-consume", "receiving and settling on Redis, and publish → handle → settle, against the bare client", run
)
