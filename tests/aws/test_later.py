"""Events for later in DynamoDB: many of them, and the answers that moto does not give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Context, Train, Workers
from eventwagon.drivers.aws import SQSBroker
from eventwagon.errors import EventTooLarge, Unavailable
from eventwagon.event import Event
from tests.aws.support import QUICK, Between, clients_of, refused
from tests.servers.moto import MotoServer
from tests.support import until


def an_event(n: int, due: float, size: int = 1) -> Event:
    return Event(f"e{n:03}", "happened", "/t", due, b"x" * size)


def test_many_and_large_ones(moto_server: MotoServer) -> None:
    async def main() -> None:
        train = f"t{token_hex(4)}"
        async with SQSBroker.from_url(moto_server.url) as broker:
            timetable, now = broker.timetable, await broker.timetable.now("t")
            large = [an_event(n, now - 10 + n / 100, 200_000) for n in range(8)]
            await timetable.add(train, [*large, *(an_event(n, now + 500) for n in range(100, 120))])
            assert (await timetable.waiting(train)).count == 28
            found = list[str]()
            for _ in range(3):
                due = await timetable.claim(train, limit=100, most_bytes=700_000, lease=60.0)
                assert len(due.events) <= 3
                found += [event.id for event in due.events]
            assert found == [event.id for event in large]
            assert await timetable.clear(train) == 28

    asyncio.run(main())


def test_one_that_no_item_can_hold_is_refused_and_not_tried_for_ever(moto_server: MotoServer) -> None:
    async def main() -> None:
        train = f"t{token_hex(4)}"
        async with SQSBroker.from_url(moto_server.url) as broker:
            timetable, now = broker.timetable, await broker.timetable.now("t")
            with pytest.raises(EventTooLarge, match="up to 390,000"):
                await timetable.add(train, [an_event(1, now), an_event(2, now, 420_000)])
            assert (await timetable.waiting(train)).count == 0

    asyncio.run(main())


def test_transactions_that_meet_are_repeated(moto_server: MotoServer) -> None:
    """Another transaction has the item in hand: not a condition that failed."""

    async def main() -> None:
        train, left = f"t{token_hex(4)}", 2

        async def meddle(operation: str, _: dict[str, Any], ask: Callable[[], Any]) -> Any:
            nonlocal left
            if operation == "transact_write_items" and left:
                left -= 1
                error = refused("TransactionCanceledException")
                error.text = "Transaction cancelled [None, TransactionConflict]"
                raise error
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as broker:
            Between(clients_of(broker), meddle)
            now = await broker.timetable.now(train)
            await broker.timetable.add(train, [an_event(1, now - 1)])
            assert left == 0
            due = await broker.timetable.claim(train, limit=5, most_bytes=1000, lease=60.0)
            assert [event.id for event in due.events] == ["e001"]
            left = 100
            with pytest.raises(Unavailable, match="TransactionConflict"):
                await broker.timetable.add(train, [an_event(2, now - 1)])

    asyncio.run(main())


def test_a_train_publishes_what_is_due(moto_server: MotoServer) -> None:
    async def main() -> None:
        got: list[int] = []
        train = Train(f"train_{token_hex(4)}", workers=Workers(each=2), **QUICK)

        @train.on(train.name)
        async def handle(number: int, ctx: Context) -> None:
            await ctx.emit("more", number + 1, after=0.5)

        @train.on("more")
        async def more(number: int) -> None:
            got.append(number)

        async with train.connect(f"{moto_server.url}&resend=3&poll=0.3") as c, c.running():
            await c.publish(1, after=0.5)
            cancelled = await c.publish(5, after=500)
            await until(lambda: got == [2], step=0.1)
            assert await c.cancel(cancelled)
            assert (await c.later()).count == 0

    asyncio.run(main())
