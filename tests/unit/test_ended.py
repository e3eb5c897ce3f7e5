"""Who gives back what an ended process had: once it works, however often it failed before."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.brokers.memory import MemoryBroker
from eventwagon.ended import Ended
from eventwagon.errors import Unavailable
from eventwagon.event import Channel
from eventwagon.facts import ClaimsReturned, Fact, StepFailed
from eventwagon.process import this_process
from eventwagon.registries.memory import MemoryRegistry
from eventwagon.registry import Member
from eventwagon.testing.virtual_time import VirtualClock, run

HERE = this_process()
pytestmark = pytest.mark.skipif(HERE is None, reason="this system does not say enough of its processes")


class Flaky(MemoryBroker):
    failures = 2

    async def reclaim(self, channel: Channel, owner: str) -> int:
        if self.failures:
            self.failures -= 1
            raise Unavailable("no way through")
        return await super().reclaim(channel, owner)


def test_what_fails_is_told_once_and_tried_again_and_the_dead_are_checked_out() -> None:
    assert HERE is not None
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    told: list[Fact] = []

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = Flaky(clock=clock), MemoryRegistry(clock=clock)
        train = Train("t", limit=Volume(10), workers=Workers(each=1))
        train.on("t")(lambda payload: None)
        async with train.connect(broker=broker, registry=registry, listeners=(), clock=clock) as connection:
            await connection.publish_many(range(3))
            async with broker.consume(Channel("t", 1), visibility=600, owner="box-1") as consumer:
                assert len(await consumer.receive(2, 1.0)) == 2
            for name, process in (("box-1", gone), ("box-2", HERE), ("box-3", None)):
                await registry.check_in("t", Member(name=name, process=process), ttl=600)
            ended = Ended("t", broker, registry, cast(Any, connection)._switcher, tell=told.append)
            for _ in range(5):
                async with asyncio.TaskGroup() as tasks:
                    ended.look(await registry.members("t"), tasks)
            assert [type(fact) for fact in told] == [StepFailed]
            entries = [entry.fact async for entry in registry.entries("t")]
            assert [(f.owner, f.count) for f in entries if isinstance(f, ClaimsReturned)] == [("box-1", 2)]
            assert [member.name for member in await registry.members("t")] == ["box-2", "box-3"]
            (depth,) = await broker.depth([Channel("t", 1)])
            assert (depth.waiting, depth.in_flight) == (3, 0)

    run(main())
