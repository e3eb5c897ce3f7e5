"""Workers that follow the traffic, in Pods of four workers: Pods come when the rate rises, and go when it is over."""

from __future__ import annotations

import asyncio

from eventwagon import Connection
from eventwagon.contracts.facts import WagonScaled
from tests.kubernetes.world import Looking, World, until
from tests.programs.pods import elastic

EVENTS = 1200


async def burst(world: World, train: Connection, looking: Looking) -> None:
    """100 events/s for 12 s take ten workers, three Pods; one Pod each stands at the active wagon and the spare."""

    async def pods() -> int:
        found = await looking.all("pods")
        return sum("deletionTimestamp" not in pod["metadata"] for pod in found.values())

    async def taken() -> int:
        return len(await looking.notes("taken"))

    async def stands() -> bool:
        await train.refresh()
        return await pods() == 2 and len(train.manifest.ready) == 1 and len(train.manifest.wagons) == 2

    await until("the active wagon and its spare stand", stands, 120)
    most = 0
    for number in range(0, EVENTS, 10):
        await train.publish_many(range(number, number + 10), timeout=60)
        most = max(most, await pods() if number % 100 == 0 else 0)
        await asyncio.sleep(0.1)

    async def all_taken() -> bool:
        return await taken() >= EVENTS

    await until("all is taken", all_taken, 120)
    assert sorted(int(number) for _, _, number in await looking.notes("taken")) == list(range(EVENTS))  # each once
    await until("the Pods that came are gone", stands, 180)
    scaled = [e.fact async for e in train.registry.entries("elastic") if isinstance(e.fact, WagonScaled)]
    assert max(fact.workers for fact in scaled) >= 8
    assert all(fact.workers % 4 == 0 for fact in scaled)
    assert most >= 3
    assert most <= 6  # of four workers each: 24 at the most


def test_pods_follow_the_traffic(world: World) -> None:
    async def main() -> None:
        orchestrator = world.orchestrator("pods:elastic", per_pod=4, handler_timeout=20.0)
        async with (
            world.looking() as looking,
            elastic.connect(world.url, orchestrator=orchestrator) as train,
            train.running(),
        ):
            await train.found()
            await burst(world, train, looking)

    asyncio.run(main())
