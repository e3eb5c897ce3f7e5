"""The CloudFormation template: its policies are the shipped ones, and with what moto makes of it a train runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import yaml

from eventwagon.contracts.facts import WagonSealed
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import Place, parse
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.errors import StorageBroken
from eventwagon.event import Channel
from eventwagon.orchestrators.aws import LambdaMappings
from tests.aws import iam
from tests.aws.agent import Agent
from tests.aws.support import clients_of
from tests.aws.test_policies import a_spec
from tests.programs.sign_ups import train
from tests.servers.moto import MotoServer
from tests.support import journal

TEMPLATE = iam.POLICIES / "eventwagon.yaml"
PATIENCE = 150.0
_WORDS = {
    "${AWS::Region}": "REGION",
    "${AWS::AccountId}": "ACCOUNT",
    "${AWS::Partition}": "aws",
    "${Prefix}": "PREFIX",
    "${TableName}": "TABLE",
    "${Function}": "FUNCTION",
    "${Cluster}": "CLUSTER",
    "WorkerRole.Arn": "TASK_ROLE_ARN",
    "ExecutionRole.Arn": "EXECUTION_ROLE_ARN",
}


class _Loader(yaml.SafeLoader):
    """Functions as what they are given, what they name as the placeholders of the JSON files."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        text = str(node.value)
        for word, placeholder in _WORDS.items():
            text = text.replace(word, placeholder)
        return text
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


_Loader.add_multi_constructor("!", _function)


def resources() -> dict[str, Any]:
    """What the template says of each."""
    found: dict[str, Any] = yaml.load(TEMPLATE.read_text(), _Loader)["Resources"]  # noqa: S506 - a SafeLoader
    return found


def _plain(statement: Mapping[str, Any]) -> dict[str, Any]:
    """With lists where policies may have one value or several."""
    plain: dict[str, Any] = {
        name: iam.listed(value) for name, value in statement.items() if name in ("Action", "Resource")
    }
    conditions = statement.get("Condition", {})
    plain["Condition"] = {o: {key: iam.listed(v) for key, v in keys.items()} for o, keys in conditions.items()}
    return {**statement, **plain}


@pytest.mark.parametrize(
    ("logical", "file"),
    [
        ("PublisherPolicy", "publisher"),
        ("WorkerPolicy", "worker"),
        ("ObserverPolicy", "observer"),
        ("FunctionPolicy", "function"),
        ("ECSPolicy", "ecs-orchestrator"),
        ("LambdaPolicy", "lambda-orchestrator"),
    ],
)
def test_its_policies_are_the_shipped_ones(logical: str, file: str) -> None:
    found = resources()[logical]["Properties"]["PolicyDocument"]
    shipped = json.loads((iam.POLICIES / f"{file}-policy.json").read_text())
    assert found["Version"] == shipped["Version"]
    assert [_plain(each) for each in found["Statement"]] == [_plain(each) for each in shipped["Statement"]]


class Stack:
    """The template, made by moto."""

    def __init__(self, clients: Clients) -> None:
        self.name = f"s{token_hex(4)}"
        self.prefix = f"p{token_hex(4)}"
        self._clients = clients

    async def make(self, **given: str) -> None:
        values = {"Prefix": self.prefix, "TableName": self.prefix, "Image": "acme/signups:1", **given}
        parameters = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
        body = TEMPLATE.read_text()
        await self._call("create_stack", StackName=self.name, TemplateBody=body, Parameters=parameters)
        (stack,) = (await self._call("describe_stacks", StackName=self.name))["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        self.outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        found = await self._call("describe_stack_resources", StackName=self.name)
        made = [
            each for each in found["StackResources"] if "LogicalResourceId" in each
        ]  # not so where a condition fails
        self.resources = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in made}

    async def _call(self, operation: str, **given: Any) -> dict[str, Any]:
        return await self._clients.call("cloudformation", operation, **given)

    async def attached(self, role: str) -> list[Mapping[str, Any]]:
        """The statements of our policies that the template gives to a role, their functions resolved: moto makes roles
        and policies, and does not attach these to those."""
        named = resources()[role]["Properties"]["ManagedPolicyArns"]
        flat = [each for some in named for each in iam.listed(some)]
        return [s for each in flat if each in self.resources for s in await self.statements(self.resources[each])]

    async def statements(self, arn: str) -> list[Mapping[str, Any]]:
        given = {"PolicyArn": arn, "VersionId": "v1"}
        version = (await self._clients.call("iam", "get_policy_version", **given))["PolicyVersion"]
        document = version["Document"]
        document = json.loads(document) if isinstance(document, str) else document
        return [{**each, "Sid": f"{arn}:{each['Sid']}"} for each in document["Statement"]]


@pytest.mark.timeout(PATIENCE + 60)
def test_a_train_runs_on_ecs_with_what_it_makes(
    moto_server: MotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observer's and the workers' tasks run as local processes, as their definitions say; the test publishes, with
    the publisher's policy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint)
    monkeypatch.setenv("HANDLED", str(tmp_path))
    judge = iam.Iam()

    def handled() -> set[int]:
        return {int(line.split()[1]) for file in tmp_path.iterdir() for line in file.read_text().splitlines()}

    async def publish(url: str) -> None:
        async with train.connect(url) as connection:
            await connection.publish_many([{"n": n} for n in range(1, 21)], timeout=PATIENCE)
            with iam.acting(""):
                full = await connection.request_switch("to see a wagon go")
            number = await connection.wait_switched(full)
            await connection.publish_many([{"n": n} for n in range(21, 29)], timeout=PATIENCE)
            while handled() != set(range(1, 29)):
                await asyncio.sleep(0.3)
            with iam.acting(""):
                while not any(isinstance(e.fact, WagonSealed) for e in await journal(connection)):
                    await asyncio.sleep(0.3)
            assert number == 2

    async def run() -> None:
        async with Clients(Place(region=iam.REGION, endpoint=moto_server.endpoint)) as clients:
            stack = Stack(clients)
            subnets = (await clients.call("ec2", "describe_subnets"))["Subnets"][:2]
            groups = (await clients.call("ec2", "describe_security_groups"))["SecurityGroups"]
            await stack.make(
                Workers="ecs",
                Train="tests.programs.sign_ups:train",
                Each="2",
                Subnets=",".join(each["SubnetId"] for each in subnets),
                SecurityGroups=groups[0]["GroupId"],
            )
            url = stack.outputs["Url"]
            assert parse(url) == Place(region=iam.REGION, prefix=stack.prefix, table=stack.prefix)
            judge.policies["publisher"] = await stack.statements(stack.outputs["PublisherPolicy"])
            async with Agent(clients, stack.outputs["Cluster"], stop_timeout=15), asyncio.timeout(PATIENCE):
                registry = DynamoDBRegistry.from_url(url)
                async with registry:
                    while (await registry.read(train.name)).manifest.active is None:  # the observer goes first
                        await asyncio.sleep(0.3)
                with iam.acting("publisher"):
                    publishing = asyncio.create_task(publish(url))
                await publishing
                services = await clients.call("ecs", "list_services", cluster=stack.outputs["Cluster"])
                names = {arn.rpartition("/")[2] for arn in services["serviceArns"]}
                assert f"{stack.prefix}-{stack.name}-observer" in names
                assert any(name.startswith(f"{stack.prefix}-{train.name}-") for name in names)

    with judge.enforced():
        asyncio.run(run())
    assert not judge.denied


def test_a_function_is_mapped_with_what_it_makes(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint)
    judge = iam.Iam()

    async def run() -> None:
        async with Clients(Place(region=iam.REGION, endpoint=moto_server.endpoint)) as clients:
            stack = Stack(clients)
            await stack.make(
                Workers="lambda", FunctionImage="1.dkr.ecr.eu-west-1.amazonaws.com/signups:1", Subnets="subnet-1"
            )
            judge.policies["observer"] = await stack.attached("ObserverRole")
            judge.policies["function"] = await stack.attached("FunctionRole")
            found = await clients.call(
                "ecs", "describe_task_definition", taskDefinition=stack.resources["ObserverTask"]
            )
            command = found["taskDefinition"]["containerDefinitions"][0]["command"]
            assert command[:2] == ["eventwagon", "observe"]
            mappings = LambdaMappings.from_url(command[4])
            iam.know_mappings(clients_of(mappings))
            function = await clients.call("lambda", "get_function_configuration", FunctionName=mappings.function)
            assert function["Timeout"] == 60
            assert function["Environment"]["Variables"]["EVENTWAGON_URL"] == stack.outputs["Url"]
            broker, registry = SQSBroker(mappings.place), DynamoDBRegistry(mappings.place)
            async with mappings, broker, registry:
                spec = a_spec(f"train_{token_hex(4)}")
                with iam.acting("observer"):
                    await broker.create(spec.channels[0])
                    await mappings.ensure(spec)
                    await mappings.remove(spec.train, 1, grace=0.0)
                with iam.acting("function"), pytest.raises(StorageBroken, match="AWS does not allow it"):
                    await registry.read(spec.train)

    with judge.enforced():
        asyncio.run(run())


def test_without_workers_it_is_a_table_and_policies(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with Clients(Place(region=iam.REGION, endpoint=moto_server.endpoint)) as clients:
            stack = Stack(clients)
            await stack.make(Image="")
            assert stack.resources.keys() == {
                *("Table", "PublisherPolicy", "WorkerPolicy", "ObserverPolicy", "FunctionPolicy")
            }
            table = (await clients.call("dynamodb", "describe_table", TableName=stack.prefix))["Table"]
            assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
            place = Place(region=iam.REGION, prefix=stack.prefix, table=stack.prefix, endpoint=moto_server.endpoint)
            async with SQSBroker(place) as broker:
                await broker.create(Channel("t", 1))
                await broker.delete(Channel("t", 1))

    asyncio.run(run())
