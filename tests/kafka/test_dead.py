"""Claims on Kafka of processes that were killed, with the server killed in between."""

from __future__ import annotations

import asyncio

from tests.kafka.support import LONG, events, holding, take
from tests.programs.claimer import claiming
from tests.servers.kafka import KafkaServer


def test_a_killed_process_s_claims_come_back_at_once(own_kafka: KafkaServer) -> None:
    """At once when they are reclaimed, with their attempts; a suspect that was alone has one more. What others claim
    stays theirs."""

    async def main() -> None:
        async with (
            holding(own_kafka.url, *events(20)) as (broker, channel),
            claiming(own_kafka.url, channel.train, 12, owner="a") as (_, first),
            claiming(own_kafka.url, channel.train, 8, owner="b") as (process, others),
        ):
            assert {(attempt, suspect) for _, attempt, suspect in [*first, *others]} == {(1, False)}
            process.kill()
            await process.wait()
            await broker.reclaim(channel, "b")
            async with broker.consume(channel, visibility=LONG) as consumer:
                async with asyncio.timeout(30):
                    got = await take(consumer, 8)
                assert [(d.attempt, d.suspect) for d in got] == [(1, True)] * 8
                await consumer.release(got[:1], tried=False)
                async with claiming(own_kafka.url, channel.train, 1, owner="c", alone=True) as (_, poison):
                    assert [poison[0][1:]] == [(1, True)]
                await asyncio.to_thread(own_kafka.kill)
                await asyncio.to_thread(own_kafka.start)
                async with asyncio.timeout(60.0):
                    await broker.reclaim(channel, "c")
                    (again,) = await take(consumer, 1)
                assert (again.event.id, again.attempt, again.suspect) == (got[0].event.id, 2, True)
                assert await consumer.receive(20, 0.5) == []
                await consumer.settle([again, *got])
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.settled, depth.in_flight) == (20, 8, 12)

    asyncio.run(main())
