"""The ECS orchestrator against moto's control plane. moto runs no tasks: an agent of the test's own runs them as local
processes."""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import msgspec
import pytest

from eventwagon.contracts.orchestrator import Deployment, Orchestrator, WagonSpec
from eventwagon.contracts.registry import Member
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import Place, parse
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.aws import ECSServices
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from tests.aws.agent import Agent, a_cluster, services_of
from tests.aws.held import Held
from tests.aws.support import clients_of
from tests.held import PROGRAM, TRAIN
from tests.observed import Declared, Observed
from tests.programs.held import signups
from tests.servers.moto import MotoServer


class ECSHarness(Held):
    """ECS as far as moto goes, tasks by the test's agent."""

    def __init__(self, server: MotoServer, directory: Path) -> None:
        super().__init__(server, directory)
        self.cluster = f"c{token_hex(4)}"

    def services(self) -> ECSServices:
        """The orchestrator itself."""
        return services_of(self.cluster, self.url, PROGRAM, each=1)

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        services = self.services()
        self._agent.answering(clients_of(services))
        return Observed(self._declared, services)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        enter = self._stack.enter_async_context
        registry = await enter(DynamoDBRegistry.from_url(self.url))
        self._declared = Declared(signups, self.broker, registry)
        await self._declared.begin()
        await a_cluster(clients_of(self.broker), self.cluster, self.environment)
        self._agent = await enter(Agent(clients_of(self.broker), self.cluster, stop_timeout=20))
        self.orchestrator: Orchestrator = await enter(self.another())
        return self

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        await self._declared.wagons(number)
        return await super().spec(number, workers=workers)


@pytest.mark.parametrize("check", orchestrator_checks(moment=1.0, patience=60.0), ids=str)
def test_ecs(check: Check[Harness], moto_server: MotoServer, tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: ECSHarness(moto_server, tmp_path)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


async def service(clients: Clients, cluster: str, name: str) -> dict[str, Any] | None:
    """The service as ECS shows it; None if there is none."""
    answer = await clients.call("ecs", "describe_services", cluster=cluster, services=[name])
    standing = [each for each in answer["services"] if each["status"] != "INACTIVE"]
    return dict(standing[0]) if standing else None


def test_a_service_is_the_users_task_with_a_command(moto_server: MotoServer, tmp_path: Path) -> None:
    async def run() -> None:
        harness = ECSHarness(moto_server, tmp_path)
        async with harness.broker:
            clients = clients_of(harness.broker)
            await a_cluster(clients, harness.cluster, {"A": "1"})
            async with harness.services() as services:
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
                first = await service(clients, harness.cluster, name)
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
                said = Deployment(number=3, ready=True, workers=2, channels=("a",), missing=("b",), losses=1)
                async with DynamoDBRegistry.from_url(harness.url) as registry:
                    await registry.check_in(TRAIN, Member(name="w", roles=("serve",), attachments=(said,)), ttl=60.0)
                deployment = (await services.deployments(TRAIN))[2]
                assert deployment == msgspec.structs.replace(said, revision=spec.revision, paused=False)
                async with DynamoDBRegistry.from_url(harness.url) as registry:
                    await registry.check_in(TRAIN, Member(name="w", roles=("serve",)), ttl=60.0)
                await services.ensure(msgspec.structs.replace(spec, workers=0))
                idle = await service(clients, harness.cluster, name)
                assert idle is not None
                assert (idle["desiredCount"], idle["taskDefinition"]) == (0, first["taskDefinition"])
                assert (await services.deployments(TRAIN))[2] == Deployment(number=3, ready=False)
                other = services_of(harness.cluster, harness.url, PROGRAM, each=1, container="other")
                async with other:
                    with pytest.raises(UsageError, match="has no container 'other'; there are: worker"):
                        await other.ensure(spec)
                await clients.call("ecs", "delete_service", cluster=harness.cluster, service=name, force=True)
                await services.ensure(spec)
                assert "there is no service" in (await services.deployments(TRAIN))[2].trouble
                await services.ensure(spec)  # somebody has deleted it by hand
                assert await service(clients, harness.cluster, name) is not None
                await services.remove(TRAIN, 2, grace=1.0)
                await services.remove(TRAIN, 2, grace=1.0)
                assert await service(clients, harness.cluster, name) is None
                left = await clients.call("ecs", "list_task_definitions", familyPrefix=name, status="ACTIVE")
                assert left["taskDefinitionArns"] == []
                assert await services.deployments(TRAIN) == {}

    asyncio.run(run())


def test_it_is_ready_with_enough_of_its_workers(moto_server: MotoServer, tmp_path: Path) -> None:
    """Where workers follow the traffic a wagon need not wait for those that were asked for just now."""

    async def run() -> None:
        harness = ECSHarness(moto_server, tmp_path)
        async with harness.broker, harness.services() as services, DynamoDBRegistry.from_url(harness.url) as registry:
            await a_cluster(clients_of(harness.broker), harness.cluster, {"A": "1"})
            channel, dead = Channel(TRAIN, 4), Channel(TRAIN, 4, DEAD)
            spec = WagonSpec(train=TRAIN, number=4, unit=4, channels=(channel,), dead_letters=dead, workers=6, enough=2)

            async def ready(workers: int, enough: int | None = 2) -> bool:
                await services.ensure(msgspec.structs.replace(spec, enough=enough))
                said = tuple(Deployment(number=4, ready=True, workers=1) for _ in range(workers))
                await registry.check_in(TRAIN, Member(name="w", roles=("serve",), attachments=said), ttl=60.0)
                found = (await services.deployments(TRAIN))[4]
                assert found.ready or f"{workers} of 6 workers have checked in" in found.trouble
                assert found.workers == workers
                return found.ready

            assert not await ready(0)
            assert not await ready(1)
            assert await ready(2)
            assert await ready(5)
            assert not await ready(5, None)
            assert await ready(6, None)
            assert await ready(6, 9)  # more than it should have is never needed
            await ready(0)
            await services.remove(TRAIN, 4, grace=0.0)

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
    assert services.options == {
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


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{wagon}", "there are only {target}, {unit}, {each}"),
        ("{}", "there are only"),
        ("{0}", "there are only"),
        ("{unit", "expected '}'"),
        ("unit}", "Single '}'"),
        ("{", "Single '{'"),
        ('{"a": 1}', "there are only"),
        ("{unit:>10}", "as they are"),
        ("{unit:{each}}", "as they are"),
        ("{unit!r}", "as they are"),
        ("{unit.numerator}", "there are only"),
        ("{unit[0]}", "there are only"),
        ("{target.__class__.__init__.__globals__}", "there are only"),
        ("{unit }", "there are only"),
    ],
)
def test_a_command_that_can_not_be_filled_in_is_refused_before_anything_is_made(word: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as refused:
        _services(command=["sh", "-c", word])
    assert repr(word) in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"command": "eventwagon work"}, "give a list of words"),
        ({"command": []}, "give a list of words"),
        ({"command": ["sh", 1]}, "give a list of words"),
        (
            {"options": {"desiredCount": 3, "cluster": "other", "launchType": "EC2"}},
            "cluster, desiredCount can't be set",
        ),
        ({"cluster": ""}, "cluster=''"),
        ({"task": ""}, "task=''"),
        ({"container": ""}, "container=''"),
        ({"each": 0}, "each=0"),
    ],
)
def test_what_could_only_fail_later_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        _services(**given)


def test_braces_may_stand_in_a_command(moto_server: MotoServer) -> None:
    async def run() -> None:
        place, cluster = parse(moto_server.url), f"c{token_hex(4)}"
        services = _services(cluster=cluster, task=f"{cluster}-task", place=place, command=["sh", '{{"u": {unit}}}'])
        async with services:
            await a_cluster(clients_of(services), cluster, {})
            train = f"t_{token_hex(4)}"
            channel, dead = Channel(train, 1), Channel(train, 1, DEAD)
            spec = WagonSpec(train=train, number=1, unit=1, channels=(channel,), dead_letters=dead, workers=1)
            await services.ensure(spec)
            found = await clients_of(services).call(
                "ecs", "describe_task_definition", taskDefinition=services.name(train, 1)
            )
            assert found["taskDefinition"]["containerDefinitions"][0]["command"] == ["sh", '{"u": 1}']
            await services.remove(train, 1, grace=1.0)

    asyncio.run(run())


def _services(**given: Any) -> ECSServices:
    place = given.pop("place", Place())
    names = {"cluster": "main", "task": "signups", "container": "worker"}
    return ECSServices("app:signups", registry=DynamoDBRegistry(place), place=place, **(names | given))
