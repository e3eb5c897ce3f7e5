"""How long a wagon's Pods take, beside the bare `kubectl apply` of the same Pod; and what warm Pods and a spare
save."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, changed, opened
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.opening import open_drivers
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.orchestrators.kubernetes import Kubernetes
from tests.programs.pods import Notes, burst, held
from tests.servers.install import Missing, kubernetes
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import PODS, WORKER, worker_image
from tests.servers.redis import RedisServer

from .kit import Aim, Benchmark, Line, Run

_POLL = 0.02
_LOOK = 0.5
"""Seconds for which a worker that has nothing to do looks for events before it sees that it should leave: it is told so
at moments that are spread evenly over them."""


async def run(how: Run) -> list[Line]:
    try:
        programs = kubernetes()
    except Missing:
        return []
    rounds = how.pick(8, 3)
    with Cluster(programs) as cluster:
        cluster.load(worker_image([PODS], "v1"))
        config = [f"bind 127.0.0.1 {cluster.host}", "protected-mode no"]
        with RedisServer(Path(how.directory), config=config) as redis:
            url = f"redis://{cluster.host}:{redis.port}/0"
            cluster.kubectl("create", "secret", "generic", "train", f"--from-literal=EVENTWAGON_URL={url}")
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
            async with _place(cluster, url, 3 * rounds + 1) as place:
                return await _measure(place, rounds)


async def _measure(place: _Place, rounds: int) -> list[Line]:
    await place.cold(place.specs.pop(0))  # what is done once: pages of the image, the first Pod's network
    await place.remove(1)
    cold, bare, given, reused, switches = [], [], [], [], []
    for n in range(rounds):
        first, second = place.specs.pop(0), place.specs.pop(0)
        cold.append(await place.cold(first))
        await place.work(first)
        await asyncio.sleep(n / rounds * _LOOK)
        told, ready = await place.reused(first, second)
        given.append(told)
        reused.append(ready)
        await place.remove(first.unit)
        bare.append(await place.bare(place.specs.pop(0)))
        switches.append(await place.switch(n / rounds))
    start = "ensure → ready, cold"
    return [
        Line(
            what=start,
            against="kubectl apply → Ready",
            unit="s",
            ours=cold,
            theirs=bare,
            aim=Aim("ratio", most=1.2),
            note="the same Pod with the same probe; ours also waits for the worker's check-in",
        ),
        Line(
            what="warm Pods given to another wagon",
            against="kubectl apply → Ready",
            unit="s",
            ours=given,
            theirs=bare,
            note="until the orchestrator tells it of the new wagon; no Pod is made",
        ),
        Line(
            what="ensure → ready, warm Pods",
            against=start,
            unit="s",
            ours=reused,
            theirs=cold,
            aim=Aim("ratio", most=0.5),
            note="of a wagon that gets the Pod of one that is drained, from the manifest's write on that says so, "
            "until the worker itself has checked in there; its last look at the wagon before is part of it",
        ),
        Line(
            what="a switch with a spare",
            against=start,
            unit="s",
            ours=switches,
            theirs=cold,
            aim=Aim("ours", most=0.1),
            note="from the request to the manifest that names the spare as the active one: the request's own write, "
            f"the wait for the observer's next look (up to {burst.settings.observe_every:g} s, spread evenly), that "
            "look, and its write",
        ),
    ]


class _Place:
    """An orchestrator on the cluster, wagons of `held` that its workers find in the manifest, and `burst` with a
    spare."""

    def __init__(
        self, cluster: Cluster, url: str, broker: Broker, registry: Registry, orchestrator: Kubernetes
    ) -> None:
        self._cluster = cluster
        self._url = url
        self._broker = broker
        self._registry = registry
        self._orchestrator = orchestrator
        self.specs: list[WagonSpec] = []

    async def open(self, count: int) -> None:
        """So many wagons."""
        notes = Notes(self._url)
        async with notes.redis:
            await notes.let_go()
        manifest = Manifest(train=held.name, declared=held.settings.declared(), channels=held.channels)
        for number in range(1, count + 1):
            ingress, dead = Channel(held.name, number), Channel(held.name, number, DEAD)
            for channel in (ingress, dead):
                await self._broker.create(channel)
            manifest = changed(
                opened(manifest, now=time.time(), because="a benchmark", capacity=None), number, created_at=time.time()
            )
            self.specs.append(
                WagonSpec(
                    train=held.name, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=1
                )
            )
        await self._registry.replace(held.name, manifest, expect=0)

    async def cold(self, spec: WagonSpec) -> float:
        began = time.perf_counter()
        await self._orchestrator.ensure(spec)
        await self._ready(spec)
        return time.perf_counter() - began

    async def work(self, spec: WagonSpec) -> None:
        """Let it handle an event."""
        now = time.time()
        await self._broker.publish(spec.channels[0], [Event(new_ids(1, now)[0], "t", "s", now, b"{}")])
        while (await self._broker.depth(spec.channels))[0].settled != 1:  # noqa: ASYNC110 - a Pod does it
            await asyncio.sleep(_POLL)

    async def reused(self, first: WagonSpec, second: WagonSpec) -> tuple[float, float]:
        """The unit of the first is given to the second, in the manifest and then by `ensure`, as observers do it:
        seconds until the orchestrator tells so, from `ensure` on, and until a worker has said that it is there, from
        the manifest on."""
        second = msgspec.structs.replace(second, unit=first.unit)
        snapshot = await self._registry.read(held.name)
        manifest = changed(snapshot.manifest, first.number, state=State.DRAINED, drained_at=time.time())
        manifest = changed(manifest, second.number, reuses=first.unit)
        began = time.perf_counter()
        await self._registry.replace(held.name, manifest, expect=snapshot.version)
        asked = time.perf_counter()
        await self._orchestrator.ensure(second)
        assert (await self._orchestrator.deployments(held.name))[second.unit].number == second.number
        told = time.perf_counter()
        await self._ready(second)
        return told - asked, time.perf_counter() - began

    async def bare(self, spec: WagonSpec) -> float:
        template: dict[str, Any] = self._orchestrator._template.deployment(spec)["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": template["spec"]}
        kubectl = self._cluster.kubectl
        began = time.perf_counter()
        await asyncio.to_thread(kubectl, "apply", "-f", "-", stdin=json.dumps(pod))
        await asyncio.to_thread(kubectl, "wait", "--for=condition=Ready", "pod/bare", "--timeout=60s")
        took = time.perf_counter() - began
        await asyncio.to_thread(kubectl, "delete", "pod", "bare", "--grace-period=5")
        return took

    async def switch(self, share: float) -> float:
        """Of `burst`, whose spare stands; asked for when so much of the time between two looks is over. It is observed
        only meanwhile: what else is measured has no observer beside it."""
        orchestrator = _orchestrator("pods:burst", self._url, handler_timeout=burst.settings.handler_timeout)
        async with burst.connect(self._url, orchestrator=orchestrator, listeners=()) as train, train.running():

            async def spare() -> int:
                while not train.manifest.ready:  # noqa: ASYNC110 - Pods get ready elsewhere
                    await asyncio.sleep(_POLL)
                return train.manifest.ready[0].number

            async with asyncio.timeout(60):
                await spare()
                await asyncio.sleep(1.0 + share * burst.settings.observe_every)
                number = await spare()
                began = time.perf_counter()
                before = await train.request_switch()
                assert await train.wait_switched(before) == number
                took = time.perf_counter() - began
                await train.wait_drained(before)
                await spare()
        return took

    async def remove(self, unit: int) -> None:
        await self._orchestrator.remove(held.name, unit, grace=0.0)

    async def _ready(self, spec: WagonSpec) -> None:
        async with asyncio.timeout(60):
            while True:
                found = (await self._orchestrator.deployments(held.name)).get(spec.unit)
                if found is not None and found.ready and found.number == spec.number:
                    return
                await asyncio.sleep(_POLL)


@contextlib.asynccontextmanager
async def _place(cluster: Cluster, url: str, count: int) -> AsyncIterator[_Place]:
    drivers = open_drivers(url)
    async with drivers.broker as broker, drivers.registry as registry, _orchestrator("pods:held", url) as orchestrator:
        place = _Place(cluster, url, broker, registry, orchestrator)
        await place.open(count)
        yield place


def _orchestrator(target: str, url: str, **given: Any) -> Kubernetes:
    """One whose Pods run `target`."""
    return Kubernetes(
        target,
        registry=open_drivers(url).registry,
        secret="train",  # noqa: S106 - its name
        image=f"{WORKER}:v1",
        namespace="default",
        **given,
    )


BENCHMARK = Benchmark(
    "kubernetes", "a wagon's Pods until they are ready, beside the bare Pod; warm ones, and a spare", run
)
