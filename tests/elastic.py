"""A train whose workers follow the traffic, on Pods that take their time, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

import msgspec

from eventwagon import Context, Elastic, Limit, Switched, Train, Wait, Workers
from eventwagon.contracts.broker import Broker
from eventwagon.contracts.facts import Fact, WagonScaled
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.in_process import InProcess
from eventwagon.runtime.membership import wagon_workers
from eventwagon.runtime.runtime import Runtime
from tests.support import World


class SlowPods:
    """An orchestrator whose Pods of `step` workers are there `start` seconds after they were asked for. They are tasks
    of this process."""

    def __init__(self, train: Train, broker: Broker, clock: Callable[[], float], *, start: float, step: int) -> None:
        self._train, self._broker, self._clock = train, broker, clock
        self._start = start
        self.step = step
        self._specs: dict[int, WagonSpec] = {}
        self._pods: dict[int, list[float]] = {}
        """By unit: when each Pod is there, by the loop's time."""
        self._paid, self._paid_until = 0.0, 0.0
        self._stack = AsyncExitStack()
        self.most = 0
        """The most Pods that there were at any time."""

    async def __aenter__(self) -> Self:
        train = self._train
        _, self._local = await self._stack.enter_async_context(
            wagon_workers(
                Runtime(
                    train=train.name,
                    settings=train.settings,
                    broker=self._broker,
                    clock=self._clock,
                    tell=lambda _: None,
                    bulkhead=Bulkhead(train.name),
                    handlers=train.handlers,
                ),
                shared=False,
            )
        )
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._tasks = tasks
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def pods(self) -> int:
        return sum(map(len, self._pods.values()))

    def paid(self) -> float:
        """Pod-seconds, from when each Pod was asked for until it was gone."""
        now = asyncio.get_running_loop().time()
        self._paid += self.pods * (now - self._paid_until)
        self._paid_until = now
        return self._paid

    async def ensure(self, spec: WagonSpec) -> None:
        self.paid()
        known = self._specs.get(spec.unit)
        if known is not None and known.number > spec.number:
            return
        self._specs[spec.unit] = spec
        pods = self._pods.setdefault(spec.unit, [])
        wanted = math.ceil((spec.workers or 0) / self.step)
        while len(pods) < wanted:
            pods.append(asyncio.get_running_loop().time() + self._start)
            self._tasks.create_task(self._later(spec.unit))
        del pods[wanted:]  # the newest first: those that are not there yet
        self.most = max(self.most, self.pods)
        await self._apply(spec.unit)

    async def _later(self, unit: int) -> None:
        await asyncio.sleep(self._start)
        if unit in self._specs:
            await self._apply(unit)

    async def _apply(self, unit: int) -> None:
        spec, there = self._specs[unit], self._there(unit)
        if there or spec.workers == 0:
            await self._local.ensure(msgspec.structs.replace(spec, workers=there * self.step))

    def _there(self, unit: int) -> int:
        now = asyncio.get_running_loop().time()
        return sum(at <= now + 1e-6 for at in self._pods[unit])

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        local: InProcess = self._local
        found = await local.deployments(train)
        nothing = {u: Deployment(number=s.number, ready=False, trouble="Pods start") for u, s in self._specs.items()}
        return {
            unit: msgspec.structs.replace(
                found.get(unit, nothing[unit]),
                workers=len(self._pods[unit]) * self.step,
                attached=self._there(unit) * self.step if unit in found else 0,
            )
            for unit in self._specs
        }

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        await self._local.remove(train, unit, grace=grace)
        self.paid()
        self._specs.pop(unit, None)
        self._pods.pop(unit, None)


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

    pods = SlowPods(train, world.broker, world.clock, start=start, step=step)
    async with world.connect(train, orchestrator=pods) as c, c.running():
        await c.found()
        await asyncio.sleep(warm_up + start)
        standing = pods.pods
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
        while loop.time() < ended + rest and pods.pods > standing:
            await asyncio.sleep(0.1)
        beyond = pods.paid() - paid - standing * (loop.time() - ended)
    waits = sorted(done[n] - began - at for n, at in enumerate(arrivals) if n in done)
    return Burst(
        on_time=sum(w <= slo + 1e-6 for w in waits) / len(arrivals),
        p99=waits[int(0.99 * len(waits))],
        paid=paid - before,
        beyond=beyond,
        most=pods.most,
        scalings=len(world.of(WagonScaled)),
        switches=len(world.of(Switched)),
        lost=len(arrivals) - len(done),
        twice=runs - len(done),
        facts=list(world.facts),
    )
