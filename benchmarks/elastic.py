"""The same burst on one cluster: elastic wagons, wagons of a fixed size, and one queue of three fixed Pods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from eventwagon import Train
from eventwagon.connection import Connection
from eventwagon.drivers.opening import open_drivers
from eventwagon.lab.scenarios import SCENARIOS
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.cluster import Cluster as Api
from eventwagon.orchestrators.kubernetes.errors import is_ready
from tests.servers.install import Missing, kubernetes
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import WORKER, worker_image
from tests.servers.redis import RedisServer

from .kit import Aim, Benchmark, Line, Run, percentile
from .paced import NOTES, PER_POD, PROMISE, STANDING, TRAINS

_LOOK = 0.2
_CALM = 120.0
"""Seconds after the last event within which the standing Pods alone are left, or it is said that it was not."""
_PROGRAM = Path(__file__).with_name("paced.py")


class Outcome(msgspec.Struct, frozen=True):
    """What a burst came to. A Pod-second runs from when a Pod is asked for until it is gone."""

    on_time: float
    p99: float
    until_done: float
    """Pod-seconds until the last event was handled."""
    beyond_rest: float
    """Pod-seconds beyond the standing Pods, until only these are left."""
    most: int
    """Pods at a time."""


class Burst(msgspec.Struct, frozen=True):
    """Arrivals in the shape of `black-friday`, on Pods that need so long to begin."""

    events: int
    seconds: float
    start: float
    """Seconds of sleep before a Pod's worker begins."""
    on_time: float
    """The aims: at least this share of all events is on time, …"""
    until_done: float
    """… with at most so many Pod-seconds until done."""

    def __str__(self) -> str:
        slow = f", {self.start:g} s more to begin" if self.start else ""
        return f"{self.events} events in {self.seconds:g} s{slow}"


_BURSTS = (
    Burst(3750, 60.0, 0.0, 0.97, 280.0),
    Burst(3750, 60.0, 8.0, 0.85, 400.0),
    Burst(11250, 180.0, 0.0, 0.99, 720.0),
)


async def run(how: Run) -> list[Line]:
    try:
        programs = kubernetes()
    except Missing:
        return []
    lines: list[Line] = []
    with Cluster(programs) as cluster:
        cluster.load(worker_image([_PROGRAM], "bench"))
        config = [f"bind 127.0.0.1 {cluster.host}", "protected-mode no"]
        with RedisServer(Path(how.directory), config=config) as redis:
            url = f"redis://{cluster.host}:{redis.port}/0"
            cluster.kubectl("create", "secret", "generic", "train", f"--from-literal=EVENTWAGON_URL={url}")
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
            for burst in _BURSTS[: how.pick(3, 1)]:
                lines += await _compare(url, burst, how.pick(3, 1))
    return lines


async def _compare(url: str, burst: Burst, rounds: int) -> list[Line]:
    got: dict[str, list[Outcome]] = {name: [] for name in TRAINS}
    for _ in range(rounds):
        for name, train in TRAINS.items():
            got[name].append(await _Trial(url, train, burst).run())
    figures: dict[str, tuple[str, Callable[[Outcome], float]]] = {
        "on time": ("share", lambda o: o.on_time),
        "p99": ("s", lambda o: o.p99),
        "Pod-seconds until done": ("Pod-s", lambda o: o.until_done),
        "Pod-seconds beyond rest": ("Pod-s", lambda o: o.beyond_rest),
        "Pods at most": ("Pods", lambda o: float(o.most)),
    }
    aims = {"on time": Aim("ours", least=burst.on_time), "Pod-seconds until done": Aim("ours", most=burst.until_done)}
    return [
        Line(
            what=f"elastic wagons, {burst}: {what}",
            against=against,
            unit=unit,
            ours=[of(o) for o in got["elastic"]],
            theirs=[of(o) for o in got[name]],
            aim=aims.get(what) if name == "queue" else None,
        )
        for name, against in (("queue", "one queue, three Pods"), ("fixed", "wagons of one Pod, reused"))
        for what, (unit, of) in figures.items()
    ]


class _Trial:
    """One train through one burst."""

    def __init__(self, url: str, train: Train, burst: Burst) -> None:
        self._url = url
        self._train = train
        self._burst = burst
        self._standing = STANDING[train.name]
        self._paid: list[tuple[float, int]] = []
        """When Pods were counted, and how many there were."""
        self._ready_pods = 0

    async def run(self) -> Outcome:
        burst, name = self._burst, self._train.name
        orchestrator = Kubernetes(
            f"paced:{name}",
            registry=open_drivers(self._url).registry,
            secret="train",  # noqa: S106 - its name
            image=f"{WORKER}:bench",
            namespace="default",
            per_pod=PER_POD,
            template=_slow(burst.start),
        )
        train = self._train
        async with Redis.from_url(self._url) as redis, Api("default") as api:
            await redis.delete(f"{NOTES}:{name}")
            async with train.connect(self._url, orchestrator=orchestrator, listeners=()) as c:
                async with c.running(work=False), self._counting(api):
                    await self._until(lambda: self._ready_pods == self._standing, "the standing Pods", 120)
                    await asyncio.sleep(2)
                    began = time.time()
                    await self._publish(c)
                    notes = await _all_handled(redis, name, burst.events, 10 * burst.seconds)
                    done = max(float(n[2]) for n in notes)
                    with contextlib.suppress(TimeoutError):
                        await self._until(lambda: self._paid[-1][1] <= self._standing, "rest", _CALM)
                    at_rest = time.time()
                await c.remove(force=True)
        waits = [float(n[2]) - float(n[1]) for n in notes]
        return Outcome(
            on_time=sum(w <= PROMISE for w in waits) / burst.events,
            p99=percentile(waits, 0.99),
            until_done=self._pod_seconds(began, done),
            beyond_rest=self._pod_seconds(began, at_rest) - self._standing * (at_rest - began),
            most=max(n for at, n in self._paid if at >= began),
        )

    @contextlib.asynccontextmanager
    async def _counting(self, api: Api) -> AsyncIterator[None]:
        """Count the Pods meanwhile."""

        async def count() -> None:
            while True:
                pods = (await api.request("GET", api.path("pods")))["items"]
                self._paid.append((time.time(), len(pods)))
                self._ready_pods = sum(map(is_ready, pods))
                await asyncio.sleep(_LOOK)

        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(count())
            yield
            counting.cancel()

    def _pod_seconds(self, since: float, until: float) -> float:
        paid = [(max(at, since), n) for at, n in self._paid if at <= until]
        ends = [at for at, _ in paid[1:]] + [until]
        return sum(n * max(0.0, end - at) for (at, n), end in zip(paid, ends, strict=True))

    async def _publish(self, c: Connection) -> None:
        burst, began = self._burst, asyncio.get_running_loop().time()
        arrivals = SCENARIOS["black-friday"].arrivals(burst.events, burst.seconds, 1)
        async with asyncio.TaskGroup() as tasks:
            for number, at in enumerate(arrivals):
                await asyncio.sleep(began + at - asyncio.get_running_loop().time())
                tasks.create_task(c.publish(number))

    async def _until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not true():  # noqa: ASYNC110 - the API server is asked again and again anyway
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {seconds:g} s") from None


async def _all_handled(redis: Any, name: str, events: int, seconds: float) -> list[list[str]]:
    """The notes of all events, once they are there: of each the first."""
    async with asyncio.timeout(seconds):
        while True:
            notes = [line.split() for line in await redis.lrange(f"{NOTES}:{name}", 0, -1)]
            if len(first := {n[0]: n for n in reversed(notes)}) >= events:
                return list(first.values())
            await asyncio.sleep(1.0)


def _slow(seconds: float) -> dict[str, Any] | None:
    """A Pod template whose worker begins so much later."""
    if not seconds:
        return None
    wait = {"name": "slow", "image": f"{WORKER}:bench", "command": ["sleep", f"{seconds:g}"]}
    return {"spec": {"initContainers": [wait]}}


BENCHMARK = Benchmark(
    "elastic",
    "a burst on a real cluster: elastic wagons beside wagons of a fixed size and one queue of fixed Pods",
    run,
)
