"""How long a wagon's Pods take, beside the bare `kubectl apply` of the same Pod."""

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

from eventwagon.drivers import open_drivers
from eventwagon.event import DEAD, Channel
from eventwagon.manifest import Manifest, changed, opened
from eventwagon.orchestrator import WagonSpec
from eventwagon.orchestrators.kubernetes import Kubernetes
from tests.programs.pods import held
from tests.servers.install import Missing, kubernetes
from tests.servers.kubernetes.cluster import Cluster
from tests.servers.kubernetes.image import WORKER, worker_image
from tests.servers.redis import RedisServer

from .kit import Aim, Benchmark, Line, Run

_PROGRAM = Path(__file__).parents[1] / "tests" / "programs" / "pods.py"


async def run(how: Run) -> list[Line]:
    try:
        programs = kubernetes()
    except Missing:
        return []
    rounds = how.pick(8, 3)
    with Cluster(programs) as cluster:
        cluster.load(worker_image([_PROGRAM], "v1"))
        config = [f"bind 127.0.0.1 {cluster.host}", "protected-mode no"]
        with RedisServer(Path(how.directory), config=config) as redis:
            url = f"redis://{cluster.host}:{redis.port}/0"
            cluster.kubectl("create", "secret", "generic", "train", f"--from-literal=EVENTWAGON_URL={url}")
            os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
            async with _wagons(url, 2 * rounds + 2) as (orchestrator, specs):
                return await _measure(cluster, orchestrator, specs, rounds)


async def _measure(cluster: Cluster, orchestrator: Kubernetes, specs: list[WagonSpec], rounds: int) -> list[Line]:
    await _cold(orchestrator, specs.pop())  # what is done once: pages of the image, the first Pod's network
    cold, bare, given = [], [], []
    for _ in range(rounds):
        wagon = specs.pop()
        cold.append(await _cold(orchestrator, wagon, keep=True))
        given.append(await _given(orchestrator, wagon))
        await orchestrator.remove(held.name, wagon.unit, grace=0.0)
        bare.append(await _bare(cluster, orchestrator, specs.pop()))
    return [
        Line(
            what="ensure → ready, cold", against="kubectl apply → Ready", unit="s", ours=cold, theirs=bare,
            aim=Aim("ratio", most=1.2), note="the same Pod with the same probe; ours also waits for the worker's check-in",
        ),
        Line(
            what="warm Pods given to another wagon", against="kubectl apply → Ready", unit="s", ours=given, theirs=bare,
            note="until the orchestrator tells it of the new wagon; no Pod is made",
        ),
    ]  # fmt: skip


async def _cold(orchestrator: Kubernetes, spec: WagonSpec, *, keep: bool = False) -> float:
    began = time.perf_counter()
    await orchestrator.ensure(spec)
    while not (await orchestrator.deployments(held.name))[spec.unit].ready:  # noqa: ASYNC110 - as observers do
        await asyncio.sleep(0.02)
    took = time.perf_counter() - began
    if not keep:
        await orchestrator.remove(held.name, spec.unit, grace=0.0)
    return took


async def _given(orchestrator: Kubernetes, spec: WagonSpec) -> float:
    began = time.perf_counter()
    number = spec.number + 1000
    await orchestrator.ensure(msgspec.structs.replace(spec, number=number))
    assert (await orchestrator.deployments(held.name))[spec.unit].number == number
    return time.perf_counter() - began


async def _bare(cluster: Cluster, orchestrator: Kubernetes, spec: WagonSpec) -> float:
    template: dict[str, Any] = orchestrator._template.deployment(spec)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare"}, "spec": template["spec"]}
    began = time.perf_counter()
    await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", stdin=json.dumps(pod))
    await asyncio.to_thread(cluster.kubectl, "wait", "--for=condition=Ready", "pod/bare", "--timeout=60s")
    took = time.perf_counter() - began
    await asyncio.to_thread(cluster.kubectl, "delete", "pod", "bare", "--grace-period=5")
    return took


@contextlib.asynccontextmanager
async def _wagons(url: str, count: int) -> AsyncIterator[tuple[Kubernetes, list[WagonSpec]]]:
    """An orchestrator, and so many wagons that its workers find in the manifest."""
    drivers = open_drivers(url)
    async with drivers.broker as broker, drivers.registry as registry:
        manifest = Manifest(train=held.name, declared=held.settings.declared(), channels=held.channels)
        for number in range(1, count + 1):
            for name in ("", DEAD):
                await broker.create(Channel(held.name, number, name))
            manifest = changed(
                opened(manifest, now=time.time(), because="a benchmark", capacity=None), number, created_at=time.time()
            )
        await registry.replace(held.name, manifest, expect=0)
        specs = [
            WagonSpec(
                train=held.name,
                number=number,
                unit=number,
                channels=(Channel(held.name, number),),
                dead_letters=Channel(held.name, number, DEAD),
                workers=1,
            )
            for number in range(1, count + 1)
        ]
        orchestrator = Kubernetes(
            "pods:held",
            registry=open_drivers(url).registry,
            secret="train",  # noqa: S106 - its name
            image=f"{WORKER}:v1",
            namespace="default",
        )
        async with orchestrator:
            yield orchestrator, specs


BENCHMARK = Benchmark("kubernetes", "a wagon's Pods until they are ready, beside the bare Pod", run)
