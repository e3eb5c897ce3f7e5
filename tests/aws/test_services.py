"""The ECS orchestrator against moto's control plane. moto runs no tasks: an agent of the test's own runs them as local processes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from secrets import token_hex
from typing import Self

import msgspec
import pytest

from eventwagon._aws.place import parse
from eventwagon.brokers.sqs import SQSBroker
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.lifecycle import Move
from eventwagon.manifest import moved, opened, switched
from eventwagon.orchestrator import Deployment, Orchestrator, WagonSpec
from eventwagon.orchestrators.aws import ECSServices
from eventwagon.registries.dynamodb import DynamoDBRegistry
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from tests.aws.agent import Agent, a_cluster
from tests.servers.moto import MotoServer

TRAIN = "signups"


class ECSHarness:
    """ECS as far as moto goes, tasks by the test's agent; the handlers of `tests.programs.held` are held and watched through files."""

    outlives = True
    warm = False
    idles = False
    revision = ""

    def __init__(self, server: MotoServer, directory: Path, *, each: int = 1) -> None:
        self._each = each
        prefix = f"p{token_hex(4)}"
        self._held = directory / "held"
        self._url = server.url.replace("/ew?", f"/{prefix}?") + "&poll=0.2"
        self._cluster = f"c{token_hex(4)}"
        self._broker = SQSBroker.from_url(self._url)
        self._registry = DynamoDBRegistry.from_url(self._url)
        self._stack = AsyncExitStack()

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        return ECSServices(
            "tests.programs.held:signups",
            cluster=self._cluster,
            task=f"{self._cluster}-task",
            container="worker",
            registry=DynamoDBRegistry.from_url(self._url),
            place=parse(self._url),
            each=self._each,
        )

    async def __aenter__(self) -> Self:
        self._held.mkdir()
        enter = self._stack.enter_async_context
        await enter(self._broker)
        await enter(self._registry)
        await a_cluster(self._broker._clients, self._cluster, {"EVENTWAGON_URL": self._url, "HELD": str(self._held)})
        self._agent = await enter(Agent(self._broker._clients, self._cluster, stop_timeout=20))
        self.orchestrator: Orchestrator = await enter(self.another())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        await self._stack.aclose()

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        """The manifest too: the workers of ECS follow it."""
        ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
        for channel in (ingress, dead):
            await self._broker.create(channel)
        snapshot = await self._registry.read(TRAIN)
        manifest = snapshot.manifest
        while manifest.next_number <= number:
            new = manifest.next_number
            manifest = opened(manifest, now=time.time(), because="", capacity=None)
            manifest = moved(manifest, new, Move.MADE_READY, created_at=time.time())
            if manifest.active is None:
                manifest = switched(manifest, to=new, now=time.time(), because="")
        if manifest is not snapshot.manifest:
            await self._registry.replace(TRAIN, manifest, expect=snapshot.revision)
        return WagonSpec(
            train=TRAIN, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def give(self, spec: WagonSpec, count: int) -> None:
        now = time.time()
        await self._broker.publish(spec.channels[0], [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)])

    def _count(self, name: str, number: int) -> int:
        try:
            return len((self._held / f"{name}-{number}").read_text().splitlines())
        except FileNotFoundError:
            return 0

    async def at_work(self, number: int) -> int:
        return self._count("began", number) - self._count("finished", number) - self._count("ended", number)

    async def finished(self, number: int) -> int:
        return self._count("finished", number)

    async def ended(self, number: int) -> int:
        return self._count("ended", number)

    async def incarnation(self, unit: int) -> object:
        raise NotImplementedError  # not warm: nobody asks

    async def let_go(self) -> None:
        (self._held / "free").touch()


# By the workers of a task that suit the check. The others start many processes and would say more of this test's agent than of
# ECS; those that hold an event in each of several processes can't be sure of that: a process fetches one event ahead.
_HELD = {"ensure_makes_ready": 2, "remove_waits": 2, "leftovers_are_found": 1, "scaled_to_zero": 2}


@pytest.mark.parametrize(
    "check", [c for c in orchestrator_checks(moment=1.0, patience=60.0) if str(c) in _HELD], ids=str
)
def test_ecs(check: Check[Harness], moto_server: MotoServer, tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: ECSHarness(moto_server, tmp_path, each=_HELD[str(check)])))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_a_service_is_the_users_task_with_a_command(moto_server: MotoServer, tmp_path: Path) -> None:
    async def run() -> None:
        harness = ECSHarness(moto_server, tmp_path)
        async with SQSBroker.from_url(harness._url) as broker, harness._registry:
            clients = broker._clients
            await a_cluster(clients, harness._cluster, {"A": "1"})
            services = harness.another()
            assert isinstance(services, ECSServices)
            async with services:
                spec = WagonSpec(
                    train=TRAIN,
                    number=3,
                    unit=2,
                    channels=(Channel(TRAIN, 3),),
                    dead_letters=Channel(TRAIN, 3, DEAD),
                    workers=2,
                )
                name = services.name(TRAIN, 2)
                await services.ensure(spec)
                await services.ensure(spec)
                first = await services._service(name)
                assert first is not None
                assert first["desiredCount"] == 2
                found = await clients.call("ecs", "describe_task_definition", taskDefinition=first["taskDefinition"])
                (container,) = found["taskDefinition"]["containerDefinitions"]
                assert container["command"] == [
                    *("eventwagon", "work", "tests.programs.held:signups", "--wagon", "2", "--workers", "1")
                ]
                assert (container["image"], container["stopTimeout"]) == ("acme/signups:1", 60)
                assert container["environment"] == [{"name": "A", "value": "1"}]
                deployment = (await services.deployments(TRAIN))[2]
                assert (deployment.number, deployment.ready) == (3, False)
                assert deployment.trouble.startswith(
                    "0 of 2 workers have checked in as attached; ECS runs 0 of 2 tasks"
                )
                await services.ensure(msgspec.structs.replace(spec, workers=0))
                idle = await services._service(name)
                assert idle is not None
                assert (idle["desiredCount"], idle["taskDefinition"]) == (0, first["taskDefinition"])
                assert (await services.deployments(TRAIN))[2] == Deployment(number=3, ready=False)
                with pytest.raises(UsageError, match="has no container 'other'; there are: worker"):
                    services._container = "other"
                    await services.ensure(spec)
                services._container = "worker"
                await clients.call("ecs", "delete_service", cluster=harness._cluster, service=name, force=True)
                await services.ensure(spec)
                assert "there is no service" in (await services.deployments(TRAIN))[2].trouble
                await services.ensure(spec)  # somebody has deleted it by hand
                assert await services._service(name) is not None
                await services.remove(TRAIN, 2, grace=1.0)
                await services.remove(TRAIN, 2, grace=1.0)
                assert await services._service(name) is None
                left = await clients.call("ecs", "list_task_definitions", familyPrefix=name, status="ACTIVE")
                assert left["taskDefinitionArns"] == []
                assert await services.deployments(TRAIN) == {}

    asyncio.run(run())


def test_a_url_names_place_cluster_and_task() -> None:
    registry = DynamoDBRegistry()
    url = "ecs://eu-west-1/acme/main?task=signups&container=worker&each=4&launch=FARGATE&subnets=a,b&groups=c&table=trains"
    services = ECSServices.from_url(url, "app:signups", registry=registry)
    assert (services.place.prefix, services.place.table, services.name("signups", 7)) == (
        "acme",
        "trains",
        "acme-signups-7",
    )
    assert services._options == {
        "launchType": "FARGATE",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["a", "b"], "securityGroups": ["c"]}},
    }
    for wrong, says in (
        ("ecs://eu-west-1/acme/main?task=signups", "write ecs://"),
        ("ecs://eu-west-1/acme/main?task=t&container=c&each=x", "each='x'"),
        ("ecs://eu-west-1/acme/main?task=t&container=c&nothing=1", "unknown option nothing"),
    ):
        with pytest.raises(UsageError, match=says):
            ECSServices.from_url(wrong, "app:signups", registry=registry)
