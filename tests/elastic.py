"""A train whose workers follow the traffic, on Pods that take their time, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from eventwagon import Context, Elastic, Limit, Switched, Train, Wait, Workers
from eventwagon.contracts.facts import Fact, WagonScaled
from eventwagon.lab.strategies.pods import SimulatedPods
from tests.support import World


class Burst(NamedTuple):
    """What became of one."""

    on_time: float
    p99: float
    paid: float
    """Pod-seconds from the first arrival until all was done."""
    beyond: float
    """Pod-seconds from then until the standing Pods alone are left, beyond those of the standing ones."""
    most: int
    scalings: int
    switches: int
    lost: int
    twice: int
    facts: Sequence[Fact]


async def burst(
    arrivals: Sequence[float],
    *,
    elastic: Elastic | None = None,
    start: float,
    step: int = 4,
    slo: float = 2.0,
    service: Callable[[int], float] = lambda _: 0.1,
    limit: Limit | None = None,
    spares: int = 1,
    rest: float = 300.0,
    warm_up: float = 20.0,
) -> Burst:
    """Publish each arrival in its time, once the train has stood for `warm_up` seconds. Without `elastic` the train
    sets no workers. `rest`: how long to wait at the most for the standing Pods alone to be left."""
    world = World()
    train = Train(
        "burst",
        limit=Wait(slo) if limit is None else limit,
        workers=None if elastic is None else Workers(each=elastic),
        spares=spares,
        keep_warm=10.0,
        provision_timeout=max(30.0, 4 * start),
        wagons=8,
    )
    done: dict[int, float] = {}
    runs = 0
    loop = asyncio.get_running_loop()

    @train.on("burst")
    async def handle(number: int, ctx: Context) -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(service(number))
        done.setdefault(number, loop.time())

    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, pods.workers // step)

    pods = SimulatedPods(train, world.broker, world.clock, start=start, step=step)
    pods.on_change = look
    async with world.connect(train, orchestrator=pods) as c, c.running():
        await c.found()
        await asyncio.sleep(warm_up + start)
        standing = pods.workers
        world.facts.clear()
        began, before = loop.time(), pods.paid()

        async with asyncio.TaskGroup() as tasks:
            for number, at in enumerate(arrivals):
                if (pause := began + at - loop.time()) > 0:
                    await asyncio.sleep(pause)
                tasks.create_task(c.publish(number))
        until = loop.time() + 600
        while len(done) < len(arrivals) and loop.time() < until:
            await asyncio.sleep(0.1)
        paid, ended = pods.paid(), loop.time()
        while loop.time() < ended + rest and pods.workers > standing:
            await asyncio.sleep(0.1)
        beyond = (pods.paid() - paid - standing * (loop.time() - ended)) / step
    waits = sorted(done[n] - began - at for n, at in enumerate(arrivals) if n in done)
    return Burst(
        on_time=sum(w <= slo + 1e-6 for w in waits) / len(arrivals),
        p99=waits[int(0.99 * len(waits))],
        paid=(paid - before) / step,
        beyond=beyond,
        most=most,
        scalings=len(world.of(WagonScaled)),
        switches=len(world.of(Switched)),
        lost=len(arrivals) - len(done),
        twice=runs - len(done),
        facts=list(world.facts),
    )
