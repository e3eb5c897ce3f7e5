"""The entry point of a Lambda function. moto calls none here: the test receives batches as a mapping would, calls the
function, and deletes what it does not report as failed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any, Self

import pytest

from eventwagon import Context, Failed, Reject, Train
from eventwagon.contracts.broker import Depth
from eventwagon.drivers.aws import SQSBroker
from eventwagon.errors import UsageError
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators import aws
from eventwagon.orchestrators.aws.handler import PROBE
from tests.aws.instance import Clock
from tests.aws.poller import record_of
from tests.aws.support import clients_of, events, queues_of
from tests.servers.moto import MotoServer


class Mapping:
    """Plays the event-source mapping of one queue, one batch at a time, on one instance of the function."""

    def __init__(self, train: Train, url: str, broker: SQSBroker) -> None:
        self.function = aws.handler(train, url=url)
        self._broker = broker
        self.thread = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self.function.close)
        self.thread.shutdown()

    async def call(self, event: dict[str, Any], seconds: float = 30.0) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self.function, event, Clock(seconds))

    async def batch(self, channel: Channel, *, visibility: int = 60) -> list[dict[str, Any]]:
        """The next batch, as the function sees it."""
        queue = self._broker.place.queue(channel)
        answer = await clients_of(self._broker).call(
            "sqs",
            "receive_message",
            QueueUrl=await queues_of(self._broker).url(channel),
            MaxNumberOfMessages=10,
            WaitTimeSeconds=5,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["All"],
            AttributeNames=["All"],
        )
        arn = f"arn:aws:sqs:eu-west-1:123456789012:{queue}"
        return [record_of(message, arn) for message in answer.get("Messages", [])]

    async def turn(self, channel: Channel, *, seconds: float = 30.0) -> tuple[int, list[str]]:
        """One batch worked off: how many it had, and the ids of the messages reported as failed."""
        records = await self.batch(channel)
        answer = await self.call({"Records": records}, seconds)
        failed = [each["itemIdentifier"] for each in answer["batchItemFailures"]]
        done = [record["receiptHandle"] for record in records if record["messageId"] not in failed]
        if done:
            await queues_of(self._broker).remove(channel, done)
        return len(records), failed


def a_train(handled: Counter[str]) -> Train:
    train = Train(f"train_{token_hex(4)}", attempts=2, backoff=0.001)

    @train.on(train.name)
    async def first(payload: dict[str, Any], ctx: Context) -> None:
        handled[f"first {payload['n']} {ctx.attempt}"] += 1
        match payload.get("do"):
            case "fail":
                raise RuntimeError("always")
            case "fail once":
                if ctx.attempt == 1:
                    raise RuntimeError("once")
            case "reject":
                raise Reject("never")
            case "hang":
                await asyncio.sleep(600)
        await ctx.emit("second", payload)

    @train.on("second")
    def second(payload: dict[str, Any]) -> None:
        handled[f"second {payload['n']}"] += 1

    return train


async def made(broker: SQSBroker, train: Train, *does: str) -> tuple[Channel, Channel, Channel]:
    """The wagon's channels, and an event for each word."""
    channels = Channel(train.name, 1), Channel(train.name, 1, "second"), Channel(train.name, 1, DEAD)
    for channel in channels:
        await broker.create(channel)
    for number, do in enumerate(does):
        await broker.publish(channels[0], events(1, json.dumps({"n": number, "do": do}).encode()))
    return channels


def test_a_batch_is_worked_off_in_part_and_the_rest_reported(moto_server: MotoServer) -> None:
    handled: Counter[str] = Counter()
    train = a_train(handled)

    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker, Mapping(train, moto_server.url, broker) as mapping:
            ingress, second, dead = await made(broker, train, "", "fail once", "reject", "fail", "")
            count, failed = await mapping.turn(ingress)
            assert (count, len(failed)) == (5, 2)
            (depth,) = await broker.depth([ingress])
            assert (depth.published, depth.settled) == (5, 3)
            assert [event.extensions["deadbecause"] async for event in broker.read(dead)] == ["rejected: never"]
            async with asyncio.timeout(30):  # what failed comes again after its pause
                left = 2
                while left:
                    count, failed = await mapping.turn(ingress)
                    left -= count
                    assert not failed  # handled, or dead after its second attempt
            assert await broker.depth([ingress]) == [Depth(published=5, settled=5, waiting=0, in_flight=0)]
            assert sorted([event.extensions["deadattempts"] async for event in broker.read(dead)]) == ["1", "2"]
            while (await broker.depth([second]))[0] != Depth(published=3, settled=3, waiting=0, in_flight=0):
                await mapping.turn(second)
            for channel in (ingress, second, dead):
                await broker.delete(channel)

    asyncio.run(run())
    first = ["first 0 1", "first 1 1", "first 1 2", "first 2 1", "first 3 1", "first 3 2", "first 4 1"]
    assert handled == Counter([*first, "second 0", "second 1", "second 4"])


def test_a_handler_of_batches_gets_the_batch_of_the_mapping(moto_server: MotoServer) -> None:
    calls = list[list[int]]()
    train = Train(f"train_{token_hex(4)}", attempts=3, backoff=0.001)

    @train.on(train.name, batch=10, within=0)
    async def rows(some: list[dict[str, Any]]) -> None:
        calls.append([row["n"] for row in some])
        bad: dict[int, BaseException] = {i: Reject("never") for i, row in enumerate(some) if row["do"] == "reject"}
        if len(some) > 1:
            bad |= {i: RuntimeError("once") for i, row in enumerate(some) if row["do"] == "fail once"}
        if bad:
            raise Failed(bad)

    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker, Mapping(train, moto_server.url, broker) as mapping:
            ingress, _, dead = await made(broker, train, "", "fail once", "reject", "", "")
            count, failed = await mapping.turn(ingress)
            assert (count, len(failed)) == (5, 1)
            assert [sorted(call) for call in calls] == [[0, 1, 2, 3, 4]]
            assert [event.extensions["deadbecause"] async for event in broker.read(dead)] == ["rejected: never"]
            count, failed = await mapping.turn(ingress)
            assert (count, failed, calls[1:]) == (1, [], [[1]])

    asyncio.run(run())


def test_what_time_does_not_suffice_for_is_given_back(moto_server: MotoServer) -> None:
    handled: Counter[str] = Counter()
    train = a_train(handled)

    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker, Mapping(train, moto_server.url, broker) as mapping:
            ingress, second, dead = await made(broker, train, "", "hang")
            count, failed = await mapping.turn(ingress, seconds=6.0)
            assert (count, len(failed)) == (2, 1)
            records = await mapping.batch(ingress)
            assert [json.loads(record["body"])["data"]["do"] for record in records] == ["hang"]
            assert [event.data async for event in broker.read(second)] == [b'{"n":0,"do":""}']
            for channel in (ingress, second, dead):
                await broker.delete(channel)

    asyncio.run(run())


def test_a_batch_that_comes_again_after_it_was_settled_is_not_handled_again(moto_server: MotoServer) -> None:
    """Lambda deletes after the function has returned; when that fails, the messages come again."""
    handled: Counter[str] = Counter()
    train = a_train(handled)

    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker, Mapping(train, moto_server.url, broker) as mapping:
            ingress, second, dead = await made(broker, train, "", "")
            records = await mapping.batch(ingress)
            assert await mapping.call({"Records": records}) == {"batchItemFailures": []}
            for record in records:
                record["attributes"]["ApproximateReceiveCount"] = "2"
            assert await mapping.call({"Records": records}) == {"batchItemFailures": []}
            for channel in (ingress, second, dead):
                await broker.delete(channel)

    asyncio.run(run())
    assert handled == Counter(["first 0 1", "first 1 1"])


def test_a_batch_of_a_wagon_that_is_gone_or_of_nobody_is_given_back(moto_server: MotoServer) -> None:
    train = a_train(Counter())

    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker, Mapping(train, moto_server.url, broker) as mapping:
            ingress, second, dead = await made(broker, train, "")
            records = await mapping.batch(ingress)
            for record in records:
                record["eventSourceARN"] += "0"
            answer = await mapping.call({"Records": records})
            assert answer == {"batchItemFailures": [{"itemIdentifier": records[0]["messageId"]}]}
            for channel in (ingress, second, dead):
                await broker.delete(channel)
            with pytest.raises(UsageError, match="takes batches of an SQS event-source mapping"):
                await mapping.call({"detail": "a timer"})

    asyncio.run(run())


def test_a_probe_says_whether_the_code_can_serve_the_channels(moto_server: MotoServer) -> None:
    train = a_train(Counter())

    async def run() -> None:
        nobody = "sqs://eu-west-1/ew?endpoint=http://127.0.0.1:9"
        async with (
            SQSBroker.from_url(moto_server.url) as broker,
            Mapping(train, moto_server.url, broker) as mapping,
            Mapping(train, nobody, broker) as away,
        ):
            assert await mapping.call({PROBE: ["", "second"]}) == {"ready": True, "trouble": ""}
            answer = await mapping.call({PROBE: ["", "third"]})
            assert answer == {"ready": False, "trouble": "this program has no handler for third"}
            answer = await away.call({PROBE: [""]}, seconds=12.0)
            assert not answer["ready"]
            assert "looking for table eventwagon" in answer["trouble"]

    asyncio.run(run())


def test_a_function_that_was_set_up_wrongly_says_so() -> None:
    function = aws.handler("tests.programs.signups:signups")
    answer = function({PROBE: [""]}, Clock(10))
    function.close()
    assert not answer["ready"]
    assert "EVENTWAGON_URL" in answer["trouble"]
    function = aws.handler("tests.programs.signups:nothing")
    with pytest.raises(UsageError, match="has no 'nothing'"):
        function({PROBE: [""]}, Clock(10))
    function.close()
