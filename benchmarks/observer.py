"""What one look of an observer costs with many live wagons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member, Registry
from eventwagon.drivers.opening import open_drivers
from eventwagon.event import Event, new_ids
from eventwagon.limits import Volume
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.observer import Observer
from eventwagon.runtime.publish_settings import PublishSettings
from eventwagon.runtime.runtime import Runtime
from eventwagon.runtime.switcher import Switcher
from eventwagon.runtime.train_state import TrainState
from eventwagon.settings import Settings

from .kit import Aim, Benchmark, Line, Run, Side, Stopwatch, in_turn, unused

_SETTINGS = Settings(limit=Volume(10**9), wagons=2000)


async def run(how: Run) -> list[Line]:
    lines = []
    with how.scratch() as directory:
        for name, url in (("memory", "memory://"), ("SQLite", f"sqlite:///{directory}")):
            drivers = open_drivers(url)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(drivers.broker)
                await stack.enter_async_context(drivers.registry)
                sides = [
                    await _looks(drivers.broker, drivers.registry, wagons, how.pick(15, 5), stack)
                    for wagons in (1, 10, 100)
                ]
                one, *more = await in_turn(how.pick(9, 3), *sides)
            for wagons, figures in ((1, one), (10, more[0]), (100, more[1])):
                line = Line(
                    what=f"{name}, {wagons} live",
                    against="1 live",
                    unit="ms a look",
                    ours=figures,
                    theirs=one,
                    aim=Aim("ratio", most=wagons) if wagons > 1 else None,
                )
                lines.append(line)
    return lines


async def _looks(broker: Broker, registry: Registry, wagons: int, times: int, stack: AsyncExitStack) -> Side:
    """The side: ms for a look at a train with so many live wagons, one of them active."""
    attached = tuple(Deployment(number=n, ready=True, workers=1) for n in range(1, wagons + 1))
    members = [Member(name="worker", roles=("work",), attachments=attached)]
    observer = await observer_of(broker, registry, wagons, members, stack)

    async def side() -> float:
        took = []
        async with asyncio.TaskGroup() as tasks:
            await observer.look(tasks)  # threads and files that were let go meanwhile are opened again
            for _ in range(times):
                watch = Stopwatch()
                await observer.look(tasks)
                took.append(watch.seconds * 1000)
                await asyncio.sleep(0.002)
        return median(took)

    return side


async def observer_of(
    broker: Broker, registry: Registry, wagons: int, members: Sequence[Member], stack: AsyncExitStack
) -> Observer:
    """The observer of a new train with so many live wagons: one active, the others sealed and with an event left."""
    train, now = unused("observer"), time.time()
    manifest = Manifest(
        train=train,
        wagons=tuple(_wagon(n, now, draining=n < wagons) for n in range(1, wagons + 1)),
        next_number=wagons + 1,
        declared=_SETTINGS.declared(),
    )
    for wagon in manifest.wagons:
        for channel in (manifest.ingress(wagon), manifest.dead_letters(wagon)):
            await broker.create(channel)
        await broker.publish(manifest.ingress(wagon), [Event(new_ids(1, now)[0], "Order", "/bench", now, b"{}")])
        if wagon.state is State.DRAINING:
            await broker.seal(manifest.ingress(wagon))
    await registry.replace(train, manifest, expect=0)
    for member in members:
        await registry.check_in(train, member, ttl=3600)
    runtime = Runtime(
        train=train,
        settings=_SETTINGS,
        publishing=PublishSettings(_SETTINGS),
        broker=broker,
        clock=time.time,
        tell=lambda _: None,
        bulkhead=Bulkhead(train),
        name="bench",
    )
    state = await stack.enter_async_context(TrainState(runtime, registry))
    return Observer(runtime, state, await stack.enter_async_context(Switcher(runtime, state)))


def _wagon(number: int, now: float, *, draining: bool) -> Wagon:
    return Wagon(
        number=number,
        state=State.DRAINING if draining else State.ACTIVE,
        opened_at=now,
        created_at=now,
        ready_at=now,
        active_at=now,
        closed_at=now if draining else None,
        sealed_at=now if draining else None,
    )


BENCHMARK = Benchmark("observer", "one look of an observer at 10 and 100 live wagons against a look at one", run)
