"""A queue of SQS, as moto emulates it, bridged into a train; in long runs also one of ElasticMQ."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from eventwagon.bridge.sources.sqs import open_sqs
from eventwagon.contracts.address import Address
from eventwagon.drivers.aws.clients import Clients
from eventwagon.errors import StorageBroken, Unavailable, UsageError
from eventwagon.testing.conformance import Check, SourceHarness, Undeclared, source_checks
from tests.aws import iam
from tests.bridge.support import (
    CrashesBeforeCommit,
    QueueFlow,
    SQSServer,
    bridging,
    crashing,
    letters,
    numbered,
    queue_flow,
    shop,
    stored,
    until,
)
from tests.servers.moto import ENVIRONMENT, MotoServer

Request = Callable[[], Awaitable[dict[str, Any]]]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session", params=["moto", pytest.param("elasticmq", marks=pytest.mark.soak)])
def sqs_server(request: pytest.FixtureRequest) -> SQSServer:
    """What both can do."""
    server: SQSServer = request.getfixturevalue(f"{request.param}_server")
    return server


@asynccontextmanager
async def given_up_after(server: SQSServer, receives: int) -> AsyncIterator[tuple[QueueFlow, str]]:
    """A queue with a dead-letter queue, and that one's URL."""
    async with queue_flow(server) as dead:
        policy = {"deadLetterTargetArn": await dead.attribute("QueueArn"), "maxReceiveCount": str(receives)}
        async with queue_flow(server, RedrivePolicy=json.dumps(policy)) as flow:
            yield flow, dead.at


@contextmanager
def between(meddle: Callable[[str, dict[str, Any], Request], Awaitable[dict[str, Any]]]) -> Iterator[None]:
    """While entered `meddle` answers requests, as moto can't give such answers."""
    real = Clients.call

    async def call(clients: Clients, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
        return await meddle(operation, given, lambda: real(clients, service, operation, **given))

    Clients.call = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        Clients.call = real  # type: ignore[method-assign]


def not_hidden(given: dict[str, Any], *, fault: bool = False) -> dict[str, Any]:
    """SQS's answer when it hides none of them."""
    failed = [
        {"Id": each["Id"], "SenderFault": fault, "Code": "InternalError", "Message": "try again"}
        for each in given["Entries"]
    ]
    return {"Successful": [], "Failed": failed}


async def all_of(source: Any, number: int) -> list[Any]:
    """As many records."""
    held: list[Any] = []
    async with asyncio.timeout(20):
        while len(held) < number:
            held += await source.read(100, 1.0) or ()
    return held


def warnings(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if text in each.getMessage()]


@pytest.mark.parametrize("check", source_checks(), ids=str)
def test_conformance(check: Check[SourceHarness], sqs_server: SQSServer) -> None:
    try:
        asyncio.run(check.run(lambda: queue_flow(sqs_server)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_messages_become_events_and_are_deleted(sqs_server: SQSServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with queue_flow(sqs_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            attributes = {"tenant": {"DataType": "String", "StringValue": "blue"}}
            sent = await flow.clients.call(
                "sqs", "send_message", QueueUrl=flow.at, MessageBody='{"n": 1}', MessageAttributes=attributes
            )
            await flow.write([b'{"specversion":"1.0","id":7}'])  # no event: its id is a number
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed + bridge.buried == 2, "both")
            found = await stored(c)
            (event,) = [each for each in found if each.data == b'{"n": 1}']
            assert event.id == f"sqs/{flow.queue}/{sent['MessageId']}"
            assert event.extensions["tenant"] == "blue"
            async with flow.open() as source:
                assert (await source.lag()).records == 0
            assert len(found) + len(await letters(c)) == 2

    asyncio.run(main())


@pytest.mark.slow
def test_killed_between_publishing_and_deleting(sqs_server: SQSServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with queue_flow(sqs_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            values = numbered(120)
            await flow.write(values)
            for commits in (0, 1):
                with pytest.raises(UsageError, match="crashed"):
                    await crashing(CrashesBeforeCommit(flow.open(), commits), c)
            async with bridging(flow.open(), c), flow.open() as other, asyncio.timeout(60):
                while (await other.lag()).records:
                    await asyncio.sleep(0.2)
            found = await stored(c)
            assert {event.data for event in found} == set(values)
            assert len({event.id for event in found}) == len(values)

    asyncio.run(main())


def test_what_is_held_long_is_not_seen_by_others(sqs_server: SQSServer) -> None:
    async def main() -> None:
        async with queue_flow(sqs_server) as flow, flow.open() as source, flow.open() as other:
            await flow.write(numbered(15))
            held: list[Any] = []
            while len(held) < 15:
                held += await source.read(100, 1.0) or ()
            await asyncio.sleep(3.5)  # longer than the queue hides them
            assert await other.read(100, 1.0) == []
            await source.commit(held)

    asyncio.run(main())


@pytest.mark.slow
def test_what_could_not_be_hidden_is_tried_again_in_time_and_told(
    sqs_server: SQSServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventwagon.bridge")
    left = [4]  # requests: two rounds of two

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation == "change_message_visibility_batch" and left[0]:
            left[0] -= 1
            return not_hidden(given)
        return await request()

    async def main() -> None:
        async with queue_flow(sqs_server) as flow, flow.open() as source, flow.open() as other:
            await flow.write_at_once(numbered(15))
            held = await all_of(source, 15)
            with between(meddle):
                await asyncio.sleep(3.5)  # longer than the queue hides them
                assert await other.read(100, 1.0) == []
                assert left == [0]
                await source.commit(held)

    asyncio.run(main())
    (told,) = warnings(caplog, "could not be hidden again")
    assert "InternalError try again" in told
    assert warnings(caplog, "it hides its messages again")


def test_all_are_hidden_whatever_becomes_of_the_first(
    sqs_server: SQSServer,
) -> None:
    refused, asked = set[str](), Counter[str]()

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation != "change_message_visibility_batch":
            return await request()
        receipts = {each["ReceiptHandle"] for each in given["Entries"]}
        asked.update(receipts)
        if len(refused) < 80 or receipts & refused:  # more than what is sent at a time
            refused.update(receipts)
            raise OSError("cut")
        return await request()

    async def main() -> None:
        async with queue_flow(sqs_server) as flow, flow.open() as source:
            await flow.write_at_once(numbered(95))
            await all_of(source, 95)
            with between(meddle):
                await until(lambda: len(asked) == 95, "all are tried", patience=1.9)

    asyncio.run(main())


@pytest.mark.slow
def test_what_others_see_is_not_received_again(sqs_server: SQSServer, caplog: pytest.LogCaptureFixture) -> None:
    fault = [False]

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation == "change_message_visibility_batch":
            return not_hidden(given, fault=fault[0])
        return await request()

    async def main() -> None:
        for fault[0] in (False, True):
            async with given_up_after(sqs_server, 1) as (flow, dead), flow.open() as source:
                await flow.write_at_once(numbered(15))
                held = await all_of(source, 15)
                with between(meddle):
                    await asyncio.sleep(2.5)  # longer than the queue hides them
                    assert await source.read(100, 0.1) == []
                await source.commit(held)
                assert await source.read(100, 0.1) == []
                assert await flow.attribute("ApproximateNumberOfMessages", dead) == "0"
                assert await flow.attribute("ApproximateNumberOfMessages") == "0"

    asyncio.run(main())
    assert len(warnings(caplog, "messages to others that the bridge holds")) == 2


def test_a_few_more_than_a_request_holds_come_at_once(sqs_server: SQSServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            queue_flow(sqs_server) as flow,
            shop().connect(f"sqlite:///{tmp_path}") as c,
            bridging(flow.open(), c) as bridge,
        ):
            for number, total in ((15, 15), (25, 40)):
                await flow.write_at_once(numbered(number))
                await until(lambda total=total: bridge.passed == total, "all", patience=0.8)  # type: ignore[misc]

    asyncio.run(main())


@pytest.mark.slow
def test_a_group_of_a_fifo_queue_waits_for_nothing(sqs_server: SQSServer, tmp_path: Path) -> None:
    requests = Counter[str]()

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        requests[operation] += 1
        return await request()

    async def main() -> None:
        fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        async with queue_flow(sqs_server, options="visibility=60", suffix=".fifo", **fifo) as flow:
            await flow.write_at_once(numbered(100), MessageGroupId="customer-7")
            async with shop().connect(f"sqlite:///{tmp_path}") as c:
                with between(meddle):
                    async with bridging(flow.open(), c) as bridge:
                        await until(lambda: bridge.passed == 100, "all", patience=5)
                found = await stored(c)
                assert [event.data for event in found] == numbered(100)
                assert {event.subject for event in found} == {"customer-7"}
            assert requests["receive_message"] < 30  # each costs

    asyncio.run(main())


@pytest.mark.slow
def test_a_request_without_an_answer_holds_nothing_back(
    sqs_server: SQSServer,
) -> None:
    hangs = [1]

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation == "receive_message" and not given["WaitTimeSeconds"] and hangs[0]:
            hangs[0] -= 1
            await asyncio.Event().wait()
        return await request()

    async def main() -> None:
        async with queue_flow(sqs_server) as flow, flow.open() as source:
            await flow.write_at_once(numbered(30))
            with between(meddle):
                async with asyncio.timeout(2):
                    held = await all_of(source, 30)
            assert hangs == [0]
            await source.commit(held)
            assert await source.read(10, 1.0) == []

    asyncio.run(main())


def test_what_is_not_deleted_is_told_and_the_others_are(
    sqs_server: SQSServer,
) -> None:
    left = [8]

    async def meddle(operation: str, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation == "delete_message_batch" and left[0]:
            left[0] -= 1
            return not_hidden(given)
        return await request()

    async def main() -> None:
        async with queue_flow(sqs_server, options="visibility=60") as flow, flow.open() as source:
            await flow.write_at_once(numbered(95))
            held = await all_of(source, 95)
            with between(meddle), pytest.raises(Unavailable, match="deleting 10 messages: InternalError"):
                await source.commit(held)
            assert await flow.attribute("ApproximateNumberOfMessagesNotVisible") == "80"
            await source.commit(held)
            assert await flow.attribute("ApproximateNumberOfMessagesNotVisible") == "0"

    asyncio.run(main())


@pytest.mark.parametrize(("receives", "warned"), [(1, True), (2, True), (3, False)])
def test_a_queue_that_gives_up_early_is_told(
    receives: int, warned: bool, sqs_server: SQSServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with given_up_after(sqs_server, receives) as (flow, _), flow.open():
            pass

    asyncio.run(main())
    assert bool(warnings(caplog, f"maxReceiveCount {receives}:")) is warned


@pytest.mark.slow
def test_the_shipped_policy_suffices(sqs_server: SQSServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventwagon.bridge")

    async def main() -> None:
        async with queue_flow(sqs_server) as flow:
            account = iam.Iam()
            account.policies["bridge"] = iam.statements("bridge", QUEUE=flow.queue)
            (statement,) = account.policies["bridge"]
            listed = [each for each in statement["Action"] if each != "sqs:GetQueueAttributes"]
            account.policies["blind"] = [{**statement, "Action": listed}]
            account.policies["reader"] = [{**statement, "Action": ["sqs:GetQueueUrl", "sqs:ReceiveMessage"]}]
            await flow.write_at_once(numbered(5))
            with account.enforced():
                with iam.acting("reader"):
                    async with flow.open() as source:
                        held = await all_of(source, 5)
                        with pytest.raises(StorageBroken, match=r"DeleteMessage.*bridge-policy\.json"):
                            await source.commit(held)
                await asyncio.sleep(2)  # it may not give them back
                account.denied.clear()
                with iam.acting("bridge"):
                    async with flow.open() as source:
                        held = await all_of(source, 5)
                        await source.lag()
                        await asyncio.sleep(1)  # they are hidden again
                        await source.commit(held)
                assert account.denied == []
                assert {action for role, _, action in account.used if role == "bridge"} == set(statement["Action"])
                with iam.acting("blind"):
                    async with flow.open() as source:
                        assert await source.read(10, 0.1) == []

    asyncio.run(main())
    assert warnings(caplog, "its lag is unknown")


@pytest.mark.parametrize("raw", ["false", "true"])
def test_notifications_of_sns(
    raw: str, moto_server: MotoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        sns = "false" if raw == "true" else "true"
        async with queue_flow(moto_server, options=f"sns={sns}") as flow:
            topic = (await flow.clients.call("sns", "create_topic", Name=flow.queue))["TopicArn"]
            await flow.clients.call(
                "sns",
                "subscribe",
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=await flow.attribute("QueueArn"),
                Attributes={"RawMessageDelivery": raw},
            )
            sent = await flow.clients.call(
                "sns",
                "publish",
                TopicArn=topic,
                Message='{"n": 1}',
                Subject="an order",
                MessageAttributes={"Tenant-Id": {"DataType": "String", "StringValue": "blue"}},
            )
            async with shop().connect(f"sqlite:///{tmp_path}") as c, bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed, "it")
                (event,) = await stored(c)
                assert event.data == b'{"n": 1}'
                assert event.extensions["tenantid"] == "blue"
                if raw == "false":
                    assert event.id == f"sns/{flow.queue}/{sent['MessageId']}"
                    assert event.extensions["snssubject"] == "an order"
                    for body in (
                        b'{"n": 1}',
                        b'{"Type":"Notification","MessageId":"' + b"x" * 200 + b'","Message":""}',
                    ):
                        await flow.write([body])
                    await until(lambda: bridge.buried == 2, "what is none")
                    for letter in await letters(c):
                        assert letter.extensions["deadbecause"].startswith("it is no notification of SNS")

    asyncio.run(main())


@pytest.mark.parametrize(("settings", "fits"), [({}, False), ({"max_event_bytes": 1_100_000}, True)])
def test_a_large_message(settings: dict[str, int], fits: bool, sqs_server: SQSServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            queue_flow(sqs_server, MaximumMessageSize="1048576") as flow,
            shop(**settings).connect(f"sqlite:///{tmp_path}") as c,
        ):
            await flow.write([b"x" * 1_000_000])
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: bridge.passed + bridge.buried, "it")
            assert bool(bridge.passed) is fits
            assert ["undecodable" in letter.extensions for letter in await letters(c)] == ([] if fits else [True])

    asyncio.run(main())


def test_an_envelope_of_sns_is_told(sqs_server: SQSServer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with queue_flow(sqs_server) as flow, flow.open() as source:
            await flow.write([b'{\n  "Type" : "Notification",\n  "MessageId" : "1",\n  "Message" : "x"\n}'] * 3)
            await source.commit(await all_of(source, 3))

    asyncio.run(main())
    assert len(warnings(caplog, "add sns=true")) == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqs://eu-west-1", "name the queue"),
        ("sqs://eu-west-1/a/b", "name the queue"),
        ("sqs://k:s@eu-west-1/a", "no keys in the URL"),
        ("sqs://eu-west-1/a?group=g", "unknown option group"),
        ("sqs://eu-west-1/a?visibility=0", "visibility="),
        ("sqs://eu-west-1/a?sns=perhaps", "sns="),
    ],
)
def test_bad_urls(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_sqs(Address.of(url), None)


def test_no_such_queue_and_no_position(moto_server: MotoServer) -> None:
    async def main() -> None:
        url = f"sqs://eu-west-1/nowhere?endpoint={moto_server.endpoint}"
        with pytest.raises(UsageError, match="there is no queue nowhere in eu-west-1 in account 123456789012"):
            async with open_sqs(Address.of(url), None):
                pass
        with pytest.raises(UsageError, match="a queue has no positions"):
            open_sqs(Address.of(url), "earliest")

    asyncio.run(main())
