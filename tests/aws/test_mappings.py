"""The Lambda orchestrator against moto's control plane. moto enables a mapping at once and runs no function: what it
answers to the probe is put there by the test. Functions are called in test_handler.py, and by a poller in
test_lambda.py."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import msgspec
import pytest

from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.drivers.aws import SQSBroker
from eventwagon.errors import StorageBroken, UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.aws import LambdaMappings
from eventwagon.orchestrators.aws.units import Unit, Units
from tests.aws.poller import a_function
from tests.aws.support import clients_of
from tests.servers.moto import MotoServer

READY = '{"ready": true, "trouble": ""}'


def tell(server: MotoServer, path: str, what: dict[str, Any]) -> None:
    """Tell moto itself something."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    connection.request("POST", f"/moto-api/{path}", json.dumps(what))
    assert connection.getresponse().status in (200, 201)
    connection.close()


def answers(server: MotoServer, *bodies: str) -> None:
    """What calls of a function get from now on."""
    tell(server, "static/lambda-simple/response", {"results": list(bodies), "region": "eu-west-1"})


@asynccontextmanager
async def function(server: MotoServer) -> AsyncIterator[tuple[str, LambdaMappings, SQSBroker]]:
    """A function, the orchestrator that maps to it, and the broker."""
    tell(server, "config", {"lambda": {"use_docker": False}})
    name = f"f_{token_hex(4)}"
    async with (
        SQSBroker.from_url(server.url) as broker,
        LambdaMappings(name, broker.place, look_every=0.0) as mappings,
    ):
        await a_function(clients_of(mappings), name, timeout=20)
        yield name, mappings, broker


async def a_wagon(broker: SQSBroker, train: str, number: int = 1, *, workers: int = 5) -> WagonSpec:
    channels = Channel(train, number), Channel(train, number, "second")
    for channel in (*channels, Channel(train, number, DEAD)):
        await broker.create(channel)
    dead = Channel(train, number, DEAD)
    return WagonSpec(train=train, number=number, unit=number, channels=channels, dead_letters=dead, workers=workers)


async def attribute(broker: SQSBroker, channel: Channel, name: str) -> str:
    """An attribute of the channel's queue, as AWS has it."""
    call = clients_of(broker).call
    url = (await call("sqs", "get_queue_url", QueueName=broker.place.queue(channel)))["QueueUrl"]
    answer = await call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=[name])
    return str(answer["Attributes"][name])


async def standing(broker: SQSBroker, spec: WagonSpec) -> list[dict[str, Any]]:
    """The mappings of the wagon's channels, as AWS lists them."""
    found: list[dict[str, Any]] = []
    for channel in spec.channels:
        source = await attribute(broker, channel, "QueueArn")
        answer = await clients_of(broker).call("lambda", "list_event_source_mappings", EventSourceArn=source)
        found += [each for each in answer["EventSourceMappings"] if each["State"] != "Deleting"]
    return found


async def seen(mappings: LambdaMappings, spec: WagonSpec) -> Deployment | None:
    return (await mappings.deployments(spec.train)).get(spec.unit)


def test_a_wagon_gets_a_mapping_for_each_channel_and_loses_them(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with function(moto_server) as (name, mappings, broker):
            spec = await a_wagon(broker, f"train_{token_hex(4)}")
            await mappings.remove(spec.train, 1, grace=0.0)
            answers(moto_server, READY)
            await mappings.ensure(spec)
            await mappings.ensure(spec)
            found = await standing(broker, spec)
            assert len(found) == 2
            for each in found:
                assert each["FunctionArn"].endswith(f":function:{name}")
                assert each["BatchSize"] == 10
                assert each["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
                assert each["ScalingConfig"] == {"MaximumConcurrency": 5}
            assert await attribute(broker, spec.channels[0], "VisibilityTimeout") == "120"  # six times the function's
            await broker.create(spec.channels[0])  # the broker takes its queue as it is
            assert await seen(mappings, spec) == Deployment(number=1, ready=True, workers=5, paused=False)
            await mappings.remove(spec.train, 1, grace=5.0)
            await mappings.remove(spec.train, 1, grace=5.0)
            assert await standing(broker, spec) == []
            assert await mappings.deployments(spec.train) == {}

    asyncio.run(run())


def test_workers_and_the_cut_to_zero(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with function(moto_server) as (_, mappings, broker):
            spec = await a_wagon(broker, f"train_{token_hex(4)}", workers=1)
            answers(moto_server, READY)
            for workers, concurrency, state in (
                (1, 2, "Enabled"),
                (7, 7, "Enabled"),
                (0, 2, "Disabled"),
                (3, 3, "Enabled"),
            ):
                spec = msgspec.structs.replace(spec, workers=workers)
                await mappings.ensure(spec)
                found = await standing(broker, spec)
                assert [each["ScalingConfig"]["MaximumConcurrency"] for each in found] == [concurrency] * 2
                assert [each["State"] for each in found] == [state] * 2
                assert await seen(mappings, spec) == Deployment(
                    number=1, ready=workers > 0, workers=workers, paused=False
                )
            await mappings.remove(spec.train, 1, grace=0.0)

    asyncio.run(run())


def test_a_paused_wagon_s_mappings_are_disabled_until_it_is_resumed(moto_server: MotoServer) -> None:
    """It stays ready: a pause is no failed attempt."""

    async def run() -> None:
        async with function(moto_server) as (_, mappings, broker):
            spec = await a_wagon(broker, f"train_{token_hex(4)}", workers=3)
            answers(moto_server, READY)
            for paused, state in ((False, "Enabled"), (True, "Disabled"), (False, "Enabled")):
                spec = msgspec.structs.replace(spec, paused=paused)
                await mappings.ensure(spec)
                assert [each["State"] for each in await standing(broker, spec)] == [state] * 2
                assert await seen(mappings, spec) == Deployment(number=1, ready=True, workers=3, paused=paused)
            await mappings.remove(spec.train, 1, grace=0.0)

    asyncio.run(run())


def test_a_unit_that_serves_the_next_wagon_lets_go_of_the_last(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with function(moto_server) as (_, mappings, broker):
            train = f"train_{token_hex(4)}"
            first, second = await a_wagon(broker, train), await a_wagon(broker, train, 2)
            await mappings.ensure(first)
            second = msgspec.structs.replace(second, unit=1)
            await mappings.ensure(second)
            assert await standing(broker, first) == []
            assert len(await standing(broker, second)) == 2
            for each in await standing(broker, second):  # somebody has deleted them by hand
                await clients_of(broker).call("lambda", "delete_event_source_mapping", UUID=each["UUID"])
            await mappings.ensure(second)
            assert len(await standing(broker, second)) == 2
            await mappings.ensure(first)  # by an observer that is late
            assert await standing(broker, first) == []
            assert list(await mappings.deployments(train)) == [1]
            assert (await mappings.deployments(train))[1].number == 2
            await mappings.remove(train, 1, grace=0.0)

    asyncio.run(run())


def test_what_another_process_left_is_listed_and_removed(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with function(moto_server) as (name, mappings, broker):
            spec, units = (
                await a_wagon(broker, f"train_{token_hex(4)}"),
                Units(broker.table, broker.place.prefix, "lambda"),
            )
            await units.put(Unit(spec))  # it died right here
            async with LambdaMappings(name, mappings.place) as other:
                assert list(await other.deployments(spec.train)) == [1]
                await other.ensure(spec)
                await units.put(Unit(spec))  # or made them and did not write that down
            await mappings.remove(spec.train, 1, grace=0.0)
            assert await standing(broker, spec) == []
            assert await mappings.deployments(spec.train) == {}

    asyncio.run(run())


def test_a_wagon_that_is_not_ready_says_why(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with function(moto_server) as (name, mappings, broker):
            spec = await a_wagon(broker, f"train_{token_hex(4)}")
            answers(moto_server, '{"ready": false, "trouble": "no handler for second"}', "Internal error", READY)
            await mappings.ensure(spec)
            for trouble in ("no handler for second", f"{name} does not answer a probe, but: Internal error"):
                found = await seen(mappings, spec)
                assert found is not None
                assert (found.ready, found.trouble) == (False, trouble)
            assert await seen(mappings, spec) == Deployment(number=1, ready=True, workers=5, paused=False)
            missing = msgspec.structs.replace(spec, channels=(Channel(spec.train, 99),))
            await mappings.ensure(missing)
            found = await seen(mappings, spec)
            assert found is not None
            assert found.trouble == f"channel {spec.train}_v99 has no queue"
            await mappings.remove(spec.train, 1, grace=0.0)
            assert await standing(broker, spec) == []
            mappings.function = "absent"
            with pytest.raises(StorageBroken, match=f"mapping {spec.train}_v1"):
                await mappings.ensure(spec)

    asyncio.run(run())


def test_a_url_names_place_and_function() -> None:
    mappings = LambdaMappings.from_url("lambda://eu-west-1/acme/work?table=trains&batch=5")
    assert (mappings.function, mappings.place.prefix, mappings.place.table) == ("work", "acme", "trains")
    assert LambdaMappings.from_url("lambda://eu-west-1/work").place.prefix == "eventwagon"
    for url, says in (
        ("lambda://eu-west-1/", "write lambda://eu-west-1/prefix/function"),
        ("lambda://eu-west-1/a/b?batch=11", "batch='11'"),
        ("lambda://eu-west-1/a/b:2", "without version"),
    ):
        with pytest.raises(UsageError, match=says):
            LambdaMappings.from_url(url)
