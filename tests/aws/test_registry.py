"""What the registry does where the answer to a write is lost, or others are quicker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError  # type: ignore[import-untyped]

from eventwagon import facts
from eventwagon.errors import Conflict, StorageBroken, Unavailable
from eventwagon.facts import Entry
from eventwagon.manifest import Manifest
from eventwagon.registries.dynamodb import DynamoDBRegistry
from eventwagon.registry import Member
from tests.aws.support import Between, refused
from tests.servers.moto import MotoServer

Ask = Callable[[], Any]


def test_a_write_whose_answer_says_conflict_with_itself_has_succeeded(moto_server: MotoServer) -> None:
    """The client asks again when an answer is lost; the second time its own first write stands in the way."""

    async def run() -> None:
        train = f"test_{token_hex(5)}"

        async def twice(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation == "transact_write_items":
                await ask()
            return await ask()

        async with DynamoDBRegistry.from_url(moto_server.url) as registry:
            Between(registry._clients, twice)
            entry = Entry(1.0, "test", facts.OrphanRemoved(train=train, what="x"))
            one = await registry.replace(train, Manifest(train=train), expect=0, entries=[entry])
            assert await registry.read(train) == one
            assert [e async for e in registry.entries(train)] == [entry]
            with pytest.raises(Conflict):
                await registry.replace(train, Manifest(train=train), expect=0)

    asyncio.run(run())


def test_busy_transactions_are_tried_again_and_trouble_is_told(moto_server: MotoServer) -> None:
    async def run() -> None:
        train = f"test_{token_hex(5)}"
        left, error = 2, refused("TransactionInProgressException")

        async def busy(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            nonlocal left
            if operation == "transact_write_items" and left:
                left -= 1
                raise error
            return await ask()

        async with DynamoDBRegistry.from_url(moto_server.url) as registry:
            Between(registry._clients, busy)
            error = refused("ThrottlingException")
            await registry.replace(train, Manifest(train=train), expect=0)
            left, error = 1, refused("AccessDeniedException")
            with pytest.raises(StorageBroken, match="AWS does not allow it"):
                await registry.replace(train, Manifest(train=train), expect=1)
            left, error = 1, ReadTimeoutError(endpoint_url="http://x")
            with pytest.raises(Unavailable):
                await registry.replace(train, Manifest(train=train), expect=1)

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
