"""In the place of an ECS agent: moto runs no tasks, so this runs what services ask for as local processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import parse
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.orchestrators.aws import ECSServices
from tests.aws.support import Between


class Agent:
    """Looks at the services of a cluster and brings local processes to them: starts, and asks to end with SIGTERM, as
    ECS does; what has not ended after `stop_timeout` s is killed."""

    def __init__(self, clients: Clients, cluster: str, *, stop_timeout: float) -> None:
        self._clients = clients
        self._cluster = cluster
        self._stop_timeout = stop_timeout
        self._tasks: dict[tuple[str, str], list[asyncio.subprocess.Process]] = {}
        self._leaving: Counter[str] = Counter()
        """By service: tasks that were asked to end and run."""
        self._stopping: set[asyncio.Task[None]] = set()
        self.died = 0
        """Tasks that ended unasked."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._loop.cancel()
        await asyncio.wait([self._loop])
        for (service, _), processes in self._tasks.items():
            for process in processes:
                self._stop(service, process)
        while self._stopping:
            await asyncio.wait(self._stopping)
        if not self._loop.cancelled() and self._loop.exception():
            self._loop.result()

    def answering(self, clients: Clients) -> None:
        """This client's owner is told how many tasks run: moto does not know."""

        async def meddle(operation: str, given: dict[str, Any], ask: Callable[[], Awaitable[Any]]) -> Any:
            answer = await ask()
            if operation == "describe_services" and given["cluster"] == self._cluster:
                for service in answer["services"]:
                    service["runningCount"] = self._running(service["serviceName"])
            return answer

        Between(clients, meddle)

    def _running(self, service: str) -> int:
        alive = [p for (name, _), some in self._tasks.items() if name == service for p in some if p.returncode is None]
        return len(alive) + self._leaving[service]

    async def _run(self) -> None:
        while True:
            listed = await self._clients.call("ecs", "list_services", cluster=self._cluster)
            wanted: dict[tuple[str, str], int] = {}
            if listed["serviceArns"]:
                found = await self._clients.call(
                    "ecs", "describe_services", cluster=self._cluster, services=listed["serviceArns"]
                )
                for service in found["services"]:
                    if service["status"] == "ACTIVE":
                        wanted[service["serviceName"], service["taskDefinition"]] = service["desiredCount"]
            for key in wanted.keys() | self._tasks.keys():
                await self._bring(key, wanted.get(key, 0))
            await asyncio.sleep(0.2)

    async def _bring(self, key: tuple[str, str], count: int) -> None:
        had = self._tasks.get(key, [])
        processes = [each for each in had if each.returncode is None]
        self.died += len(had) - len(processes)
        while len(processes) > count:
            self._stop(key[0], processes.pop())
        while len(processes) < count:
            processes.append(await self._start(key[1]))
        self._tasks[key] = processes

    async def _start(self, definition: str) -> asyncio.subprocess.Process:
        found = await self._clients.call("ecs", "describe_task_definition", taskDefinition=definition)
        (container,) = found["taskDefinition"]["containerDefinitions"]
        environment = {each["name"]: each["value"] for each in container.get("environment", [])}
        program, *words = container["command"]
        assert program == "eventwagon"
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eventwagon",
            *words,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
        )

    def _stop(self, service: str, process: asyncio.subprocess.Process) -> None:
        self._leaving[service] += 1

        async def stop() -> None:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(self._stop_timeout):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
            self._leaving[service] -= 1

        task = asyncio.create_task(stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


def services_of(cluster: str, url: str, target: str, *, each: int, container: str = "worker") -> ECSServices:
    """The orchestrator over that cluster, with its user's task definition."""
    registry, place = DynamoDBRegistry.from_url(url), parse(url)
    return ECSServices(
        target,
        cluster=cluster,
        task=f"{cluster}-task",
        container=container,
        registry=registry,
        place=place,
        each=each,
    )


async def a_cluster(clients: Clients, name: str, environment: dict[str, str]) -> Any:
    """A cluster, and a user's task definition with a sidecar's settings left out."""
    await clients.call("ecs", "create_cluster", clusterName=name)
    return await clients.call(
        "ecs",
        "register_task_definition",
        family=f"{name}-task",
        cpu="256",
        memory="512",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        containerDefinitions=[
            {
                "name": "worker",
                "image": "acme/signups:1",
                "essential": True,
                "stopTimeout": 60,
                "environment": [{"name": name, "value": value} for name, value in environment.items()],
            }
        ],
    )
