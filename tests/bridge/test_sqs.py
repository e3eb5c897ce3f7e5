"""A queue of SQS, as moto emulates it, bridged into a train."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from eventwagon.bridge.sources.sqs import open_sqs
from eventwagon.contracts.address import Address
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import Place
from eventwagon.errors import UsageError
from eventwagon.testing.conformance import Check, SourceHarness, Undeclared, source_checks
from tests.bridge.support import CrashesBeforeCommit, bridging, crashing, letters, numbered, shop, stored, until
from tests.servers.moto import ENVIRONMENT, MotoServer


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class QueueFlow:
    """A queue of its own."""

    claim = 2.0
    ordered = False

    def __init__(self, server: MotoServer, clients: Clients) -> None:
        self.queue = f"flow-{token_hex(4)}"
        self.clients = clients
        self.url = f"sqs://eu-west-1/{self.queue}?visibility=2&endpoint={server.endpoint}"
        self.at = ""

    def open(self) -> Any:
        return open_sqs(Address.of(self.url), None)

    async def write(self, values: Sequence[bytes]) -> None:
        for value in values:
            await self.clients.call("sqs", "send_message", QueueUrl=self.at, MessageBody=value.decode())


@asynccontextmanager
async def queue_flow(server: MotoServer) -> AsyncIterator[QueueFlow]:
    async with Clients(Place(region="eu-west-1", endpoint=server.endpoint)) as clients:
        flow = QueueFlow(server, clients)
        flow.at = (await clients.call("sqs", "create_queue", QueueName=flow.queue))["QueueUrl"]
        yield flow
        await clients.call("sqs", "delete_queue", QueueUrl=flow.at)


@pytest.mark.parametrize("check", source_checks(), ids=str)
def test_conformance(check: Check[SourceHarness], moto_server: MotoServer) -> None:
    try:
        asyncio.run(check.run(lambda: queue_flow(moto_server)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_messages_become_events_and_are_deleted(moto_server: MotoServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with queue_flow(moto_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
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
def test_killed_between_publishing_and_deleting(moto_server: MotoServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with queue_flow(moto_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
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


def test_what_is_held_long_is_not_seen_by_others(moto_server: MotoServer) -> None:
    async def main() -> None:
        async with queue_flow(moto_server) as flow, flow.open() as source, flow.open() as other:
            await flow.write(numbered(15))
            held: list[Any] = []
            while len(held) < 15:
                held += await source.read(100, 1.0) or ()
            await asyncio.sleep(3.5)  # longer than the queue hides them
            assert await other.read(100, 1.0) == []
            await source.commit(held)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqs://eu-west-1", "name the queue"),
        ("sqs://eu-west-1/a/b", "name the queue"),
        ("sqs://k:s@eu-west-1/a", "no keys in the URL"),
        ("sqs://eu-west-1/a?group=g", "unknown option group"),
        ("sqs://eu-west-1/a?visibility=0", "visibility="),
    ],
)
def test_bad_urls(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_sqs(Address.of(url), None)


def test_no_such_queue_and_no_position(moto_server: MotoServer) -> None:
    async def main() -> None:
        url = f"sqs://eu-west-1/nowhere?endpoint={moto_server.endpoint}"
        with pytest.raises(UsageError, match="there is no queue nowhere"):
            async with open_sqs(Address.of(url), None):
                pass
        with pytest.raises(UsageError, match="a queue has no positions"):
            open_sqs(Address.of(url), "earliest")

    asyncio.run(main())
