"""`eventwagon bridge`, killed again and again between publishing and committing, on each real source: nothing is lost,
and what comes twice was in a bridge's hands when it was killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions

from tests.bridge.support import (
    SQSServer,
    kafka_flow,
    letters,
    numbered,
    outbox_flow,
    queue_flow,
    redis_flow,
    stored,
)
from tests.programs.killed_bridge import orders
from tests.servers.postgresql import PostgresServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server

RECORDS, BATCH = 100_000, 2 * orders.settings.publish_batch
COMMITTED = (0, 0, *[RECORDS // 12] * 8)
"""For each bridge that is killed: how many records it commits before. The second gets what the first had, too."""
PATIENCE = 600.0
ROOT = Path(__file__).parents[2]
TARGET = "tests.programs.killed_bridge:orders"


class Filled(NamedTuple):
    """A source that holds all records."""

    arguments: Sequence[str]
    """For `eventwagon bridge`."""
    left: Callable[[], Awaitable[int]]
    """How many are not committed, by the server's own word."""


@asynccontextmanager
async def redis(server: Server) -> AsyncIterator[Filled]:
    async with redis_flow(server, claim=2.0) as flow:
        async with flow.client.pipeline(transaction=False) as pipeline:
            for value in numbered(RECORDS):
                pipeline.xadd(flow.stream, {"data": value})
            await pipeline.execute()

        async def left() -> int:
            (group,) = await flow.client.xinfo_groups(flow.stream)
            return int(group["lag"] + group["pending"])

        yield Filled([flow.url, TARGET, "--from", "earliest"], left)


@asynccontextmanager
async def kafka(server: Server) -> AsyncIterator[Filled]:
    async with kafka_flow(server, partitions=4, options="&session.timeout.ms=6000") as flow:
        for partition in range(4):
            await asyncio.to_thread(flow.send, numbered(RECORDS)[partition::4], partition=partition)
        group = f"workers-{flow.topic}"

        async def left() -> int:
            asked = flow.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
            partitions = (await asyncio.wrap_future(asked)).topic_partitions
            return RECORDS - sum([max(0, int(each.offset)) for each in partitions])

        yield Filled([flow.url, TARGET, "--from", "earliest"], left)


@asynccontextmanager
async def postgresql(server: PostgresServer) -> AsyncIterator[Filled]:
    async with outbox_flow(server) as flow:
        await flow.execute(
            f"INSERT INTO {flow.table} (id, type, payload) SELECT gen_random_uuid(), 'placed', "  # noqa: S608
            "convert_to(format('{\"n\": %%s}', n), 'UTF8') FROM generate_series(0, %s) n",
            RECORDS - 1,
        )
        yield Filled([flow.url, TARGET], flow.left)


@asynccontextmanager
async def sqs(server: SQSServer) -> AsyncIterator[Filled]:
    async with queue_flow(server, options="visibility=20") as flow:
        await asyncio.gather(*[flow.write_at_once(numbered(RECORDS)[part::8]) for part in range(8)])

        async def left() -> int:
            counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
            return sum([int(await flow.attribute(name)) for name in counts])

        yield Filled([flow.url, TARGET], left)


async def started(log: Path, *arguments: str) -> Process:
    with log.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=ROOT, stdout=PIPE, stderr=file, limit=2**20
        )


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fixture", "fill"),
    [("redis_server", redis), ("kafka_server", kafka), ("postgresql_server", postgresql), ("elasticmq_server", sqs)],
    ids=["redis", "kafka", "postgresql", "sqs"],
)
def test_killed_between_publishing_and_committing(
    fixture: str,
    fill: Callable[[Any], AbstractAsyncContextManager[Filled]],
    own_redis: RedisServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    log = tmp_path / "bridges.log"

    async def killed(committed: int, arguments: Sequence[str]) -> list[int]:
        """What it had published and not committed."""
        process = await started(log, "tests.programs.killed_bridge", str(committed), *arguments)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE):
                held: list[int] = json.loads(await process.stdout.readline())
        finally:
            process.kill()
        assert await process.wait() == -signal.SIGKILL
        return held

    async def finishing(filled: Filled, arguments: Sequence[str]) -> None:
        """By the command itself."""
        process = await started(log, "eventwagon", "bridge", *arguments)
        try:
            async with asyncio.timeout(PATIENCE):
                while await filled.left():
                    await asyncio.sleep(0.2)
                process.terminate()
                assert await process.wait() == 0
        except BaseException:
            process.kill()
            raise

    async def main() -> None:
        began = time.monotonic()
        async with fill(server) as filled, orders.connect(own_redis.url) as c:
            arguments = [*filled.arguments, "--url", own_redis.url]
            written = time.monotonic()
            held = [await killed(committed, arguments) for committed in COMMITTED]
            await finishing(filled, arguments)
            ended = time.monotonic()
            assert await filled.left() == 0
            assert await letters(c) == []
            events = await stored(c)
        times = Counter(json.loads(event.data)["n"] for event in events)
        again = times - Counter(range(RECORDS))
        print(
            f"{request.node.callspec.id}: {RECORDS:,} records written in {written - began:.0f} s and bridged in "
            f"{ended - written:.0f} s, {len(held)} kills, {RECORDS - len(times)} lost, {again.total():,} came again"
        )
        assert times.keys() == set(range(RECORDS))
        assert len({event.id for event in events}) == RECORDS  # so what came again has the same id
        assert again == Counter(number for each in held for number in each)
        assert all(0 < len(each) <= BATCH for each in held)

    server = request.getfixturevalue(fixture)
    try:
        asyncio.run(main())
    except BaseException:
        print("".join(log.read_text().splitlines(keepends=True)[-40:]) if log.exists() else "no bridge was started")
        raise
