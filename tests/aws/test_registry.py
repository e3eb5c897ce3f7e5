"""What the registry does where the answer to a write is lost, or others are quicker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError  # type: ignore[import-untyped]

from eventwagon.contracts import facts
from eventwagon.contracts.facts import Entry
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.errors import Conflict, StorageBroken, Unavailable
from tests.aws.support import Between, clients_of, refused
from tests.servers.moto import MotoServer

Ask = Callable[[], Any]


def test_a_write_whose_answer_says_conflict_with_itself_has_succeeded(moto_server: MotoServer) -> None:
    """The client asks again when an answer is lost; the second time its own first write stands in the way."""

    async def run() -> None:
        train = f"test_{token_hex(5)}"

        async def twice(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation == "put_item" and "ConditionExpression" in request:
                await ask()
            return await ask()

        async with DynamoDBRegistry.from_url(moto_server.url) as registry:
            Between(clients_of(registry), twice)
            entry = Entry(1.0, "test", facts.OrphanRemoved(train=train, what="x"))
            one = await registry.replace(train, Manifest(train=train), expect=0, entries=[entry])
            assert await registry.read(train) == one
            assert [e async for e in registry.entries(train)] == [entry]
            with pytest.raises(Conflict):
                await registry.replace(train, Manifest(train=train), expect=0)

    asyncio.run(run())


def test_entries_whose_writer_died_after_the_swap_are_read_and_kept(moto_server: MotoServer) -> None:
    """They stand with the manifest, and the next writer takes them into the journal."""

    async def run() -> None:
        train = f"test_{token_hex(5)}"

        async def die(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation == "batch_write_item":
                raise refused("AccessDeniedException")
            return await ask()

        def entry(what: str) -> Entry:
            return Entry(1.0, "test", facts.OrphanRemoved(train=train, what=what))

        one, two, three = map(entry, "123")
        url = moto_server.url
        async with DynamoDBRegistry.from_url(url) as dying, DynamoDBRegistry.from_url(url) as registry:
            Between(clients_of(dying), die)
            stored = await dying.replace(train, Manifest(train=train), expect=0, entries=[one])
            await registry.append(train, [two])
            assert [e async for e in registry.entries(train)] == [one, two]
            await registry.replace(train, Manifest(train=train), expect=stored.version, entries=[three])
            assert [e async for e in registry.entries(train)] == [one, two, three]

    asyncio.run(run())


def test_trouble_is_told(moto_server: MotoServer) -> None:
    async def run() -> None:
        train = f"test_{token_hex(5)}"
        error: Exception = refused("ThrottlingException")

        async def fail(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            raise error

        async with DynamoDBRegistry.from_url(moto_server.url) as registry:
            Between(clients_of(registry), fail)
            with pytest.raises(Unavailable, match="ThrottlingException"):
                await registry.replace(train, Manifest(train=train), expect=0)
            error = refused("AccessDeniedException")
            with pytest.raises(StorageBroken, match="AWS does not allow it"):
                await registry.read(train)
            error = ReadTimeoutError(endpoint_url="http://x")
            with pytest.raises(Unavailable):
                await registry.members(train)

    asyncio.run(run())


def test_a_clock_that_is_wrong_by_more_than_answers_hide_is_corrected(moto_server: MotoServer) -> None:
    """Members of a host whose clock is an hour late live as long as they say."""

    async def run() -> None:
        train = f"test_{token_hex(5)}"
        late = DynamoDBRegistry.from_url(moto_server.url, clock=lambda: time.time() - 3600)
        async with late, DynamoDBRegistry.from_url(moto_server.url) as right:
            await late.check_in(train, Member(name="late"), ttl=60)
            assert [member.name for member in await right.members(train)] == ["late"]
            await right.check_in(train, Member(name="gone"), ttl=0.01)
            await asyncio.sleep(4)
            assert [member.name for member in await late.members(train)] == ["late"]

    asyncio.run(run())
