"""By hand: how fast the bridge carries records, beside the source alone and the train alone.

python -m benchmarks.bridge                       # 100,000 records from Kafka and from Redis into a train on Redis
python -m benchmarks.bridge --rounds 9            # the median of nine rounds as well
python -m benchmarks.bridge --records 20000 --train Kafka --train SQLite
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from redis.asyncio import Redis

from eventwagon import Connection, Train
from eventwagon.bridge import Bridge, Record, Rules, Source, event_of, open_source
from eventwagon.event import Event
from eventwagon.limits import Volume

from .places import place

BODY = b'{"order": %d, "customer": "ada", "amount": 12.5, "items": [1, 2, 3], "note": "leave it at the door"}'
PARTITIONS = 4


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--source", action="append", choices=["Kafka", "Redis"])
    parser.add_argument("--train", action="append", choices=["Kafka", "Redis", "SQLite"])
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    print(f"{asked.records:,} records of {len(BODY)} bytes on {os.cpu_count()} cores, records a second")
    for source in asked.source or ["Kafka", "Redis"]:
        for train in asked.train or ["Redis"]:
            shares = [await compare(source, train, asked.records) for _ in range(asked.rounds)]
            print(f"{source} into {train}: median {median(shares):.0%} of the slower one")


async def compare(source: str, train: str, count: int) -> float:
    """Print the three rates, the bridge's share of the slower of the others, and its CPU time beside theirs. The train
    has room for all in one wagon. Returns the share."""
    with tempfile.TemporaryDirectory() as directory:
        async with place(source, Path(directory)) as read_at, place(train, Path(directory)) as publish_at:
            if read_at is None or publish_at is None:
                raise SystemExit(1)
            url = await (on_kafka if source == "Kafka" else on_redis)(read_at, count)
            read, records = await read_all(open_source(f"{url}&group=alone", "earliest"), count)
            rules = Rules(source="benchmark", most=1 << 20)
            events = [event for event in (event_of(each, rules) for each in records) if isinstance(event, Event)]
            async with connected(publish_at) as c:
                watch = Watch()
                await c.publish_many(events)
                published = watch.rate(count)
            async with connected(publish_at) as c:
                carried = await carry(open_source(f"{url}&group=bridge", "earliest"), c, count)
    share = carried.speed / min(read.speed, published.speed)
    print(f"{source} into {train}: source alone {read}, train alone {published}, bridge {carried}: ", end="")
    print(f"{share:.0%} of the slower one, {carried.cpu / (read.cpu + published.cpu):.2f} times the CPU time of both")
    return share


class Rate(NamedTuple):
    speed: float
    """Records a second."""
    cpu: float
    """Seconds of CPU time a record, of all threads of this process."""

    def __str__(self) -> str:
        return f"{self.speed:,.0f} ({self.cpu * 1e6:.1f} µs CPU)"


class Watch:
    """Measures from now on."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def rate(self, count: int) -> Rate:
        return Rate(count / (time.perf_counter() - self._began), (time.process_time() - self._cpu) / count)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    async with Train(f"bench_{token_hex(4)}", limit=Volume(10**9)).connect(url) as c:
        await c.found()
        yield c


async def read_all(source: Source, count: int) -> tuple[Rate, list[Record]]:
    """From the first read to the last commit."""
    got: list[Record] = []
    async with source:
        while not (some := await source.read(1000, 0.5)):
            pass  # joining the group is not measured
        watch, first = Watch(), len(some)
        while True:
            got += some
            await source.commit(some)
            if len(got) >= count:
                return watch.rate(count - first), got
            some = await source.read(1000, 0.5) or []


async def carry(source: Source, c: Connection, count: int) -> Rate:
    """From the first event that is published to the last."""
    async with source, asyncio.TaskGroup() as tasks:
        asked = asyncio.Event()
        bridge = Bridge(source, c, Rules(source=source.name, most=c.publishing.now.max_event_bytes))
        running = tasks.create_task(bridge.run(asked))
        while not bridge.passed:  # noqa: ASYNC110 - a counter, and no event
            await asyncio.sleep(0.001)
        watch, first = Watch(), bridge.passed
        while bridge.passed < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        rate = watch.rate(count - first)
        asked.set()
        await running
    return rate


async def on_kafka(url: str, count: int) -> str:
    """A topic with so many records."""
    servers, topic = urlsplit(url).netloc, f"bench-{token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    new = NewTopic(topic, PARTITIONS, 1)
    await asyncio.wrap_future(admin.create_topics([new])[topic])

    def fill() -> None:
        producer = Producer({"bootstrap.servers": servers, "linger.ms": 5, "log_level": 0})
        for number in range(count):
            while True:
                try:
                    producer.produce(topic, BODY % number, key=b"%d" % (number % 1000))
                    break
                except BufferError:
                    producer.poll(0.05)
        producer.flush()

    await asyncio.to_thread(fill)
    return f"kafka://{servers}/{topic}?assignor=eager"


async def on_redis(url: str, count: int) -> str:
    """A stream with so many entries."""
    stream = f"bench-{token_hex(4)}"
    async with Redis.from_url(url) as client:
        for start in range(0, count, 1000):
            pipe: Any = client.pipeline(transaction=False)
            for number in range(start, min(count, start + 1000)):
                pipe.xadd(stream, {"data": BODY % number})
            await pipe.execute()
    return f"redis://{urlsplit(url).netloc}/{stream}?idle=60"


if __name__ == "__main__":
    asyncio.run(main())
