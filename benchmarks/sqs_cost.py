"""What SQS and DynamoDB would bill: requests and request units counted on moto, and list prices.

    python -m benchmarks.sqs_cost

Counts are of this code, so they are exact for what it does; how AWS batches receives may differ. moto has no bill.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from secrets import token_hex
from typing import Any

from eventwagon import Train, Volume, Workers
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.clients import Clients
from eventwagon.event import Channel, Event, new_ids
from tests.servers.moto import MotoServer

PRICES = {"write units": 0.625, "read units": 0.125, "SQS requests": 0.40}
"""US dollars a million in us-east-1: DynamoDB on demand (aws.amazon.com/dynamodb/pricing/on-demand, since November
2024), SQS standard queues (aws.amazon.com/sqs/pricing, as of 2026). Without the free tier, storage and traffic."""
MONTH = 30 * 86_400
_EVENTS = 100
_SECONDS = 30.0


class Bill:
    """Counts what clients ask for while it is entered, as AWS bills it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Bill:
        self._real = Clients.call
        real, bill = Clients.call, self

        async def call(clients: Clients, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
            answer: dict[str, Any] = await real(clients, service, operation, **given)
            bill.add(service, operation, given, answer)
            return answer

        Clients.call = call  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        Clients.call = self._real  # type: ignore[method-assign]

    def add(self, service: str, operation: str, given: dict[str, Any], answer: dict[str, Any]) -> None:
        """One request that was answered."""
        self.calls[operation] += 1
        if service == "sqs":
            sent = sum(len(entry.get("MessageBody", "")) for entry in given.get("Entries", []))
            got = sum(len(message["Body"]) for message in answer.get("Messages", []))
            self.counts["SQS requests"] += max(1, math.ceil(max(sent, got) / 65_536))
        elif operation == "batch_write_item":
            for request in (each for some in given["RequestItems"].values() for each in some):
                self.counts["write units"] += _units(request.get("PutRequest", {}).get("Item"), 1024)
        elif operation in ("put_item", "update_item", "delete_item"):
            self.counts["write units"] += _units(given.get("Item"), 1024)
        elif operation == "batch_get_item":
            for table, asked in given["RequestItems"].items():
                found = answer["Responses"].get(table, [])
                missing = len(asked["Keys"]) - len(found)
                self.counts["read units"] += missing + sum(_units(item, 4096) for item in found)
        elif operation == "query":
            self.counts["read units"] += _units(answer.get("Items"), 4096)
        elif operation == "get_item":
            self.counts["read units"] += _units(answer.get("Item"), 4096)

    def dollars(self) -> float:
        """At the list prices."""
        return sum(PRICES[what] * count / 1e6 for what, count in self.counts.items())


def _units(items: object, size: int) -> int:
    """Of what one request reads or writes; deleting is billed by what is deleted, here up to a KiB."""
    return max(1, math.ceil(_bytes(items) / size))


def _bytes(value: object) -> int:
    if isinstance(value, dict):
        return sum(len(str(name)) + _bytes(each) for name, each in value.items())
    if isinstance(value, list):
        return sum(map(_bytes, value))
    return len(value) if isinstance(value, (str, bytes)) else 1


def events(count: int) -> list[Event]:
    """Of half a KiB."""
    return [Event(id=new, type="t", source="s", time=0.0, data=b'"%s"' % (b"x" * 510)) for new in new_ids(count, 0.0)]


async def per_event(url: str, together: int) -> Bill:
    """Events through one channel, published, received and settled so many in a call."""
    channel = Channel(f"cost_{token_hex(4)}", 1)
    async with SQSBroker.from_url(url) as broker:
        await broker.create(channel)
        await broker.publish(channel, events(1))
        async with broker.consume(channel, visibility=600) as consumer:
            await consumer.settle(await consumer.receive(1, 1.0))
            with Bill() as bill:
                for _ in range(_EVENTS // together):
                    await broker.publish(channel, events(together))
                    left = together
                    while left:
                        got = await consumer.receive(min(10, left), 1.0)
                        await consumer.settle(got)
                        left -= len(got)
        await broker.delete(channel)
    return bill


async def looks(url: str) -> Bill:
    """An observer's look at the depth of one channel on which nothing happens."""
    channel = Channel(f"cost_{token_hex(4)}", 1)
    async with SQSBroker.from_url(url) as broker:
        await broker.create(channel)
        await broker.depth([channel])
        with Bill() as bill:
            await broker.depth([channel])
        await broker.delete(channel)
    return bill


async def idle(url: str, observe_every: float) -> Bill:
    """A train with nothing to do: one process that observes and works, ingress and one inner channel."""
    name = f"cost_{token_hex(4)}"
    train = Train(name, limit=Volume(1_000), workers=Workers(total=4), spares=0, observe_every=observe_every)

    async def nothing(payload: str) -> None: ...

    train.on(name)(nothing)
    train.on("mail")(nothing)
    async with train.connect(url) as connection, connection.running():
        await connection.publish("x")
        await asyncio.sleep(10.0)
        with Bill() as bill:
            await asyncio.sleep(_SECONDS)
    return bill


def show(what: str, bill: Bill, by: float) -> None:
    """One line: counts and dollars, times `by`."""
    counts = ", ".join(f"{count * by:,.2f} {name}" for name, count in sorted(bill.counts.items()))
    print(f"{what:44} {counts}\n{'':44} ${bill.dollars() * by:.2f}; calls: {dict(bill.calls)}")


async def main(url: str) -> None:
    """Count, and print what it comes to."""
    for together in (1, 10, 100):
        bill = await per_event(url, together)
        show(f"an event, {together} in a call", bill, 1 / _EVENTS)
        show("  a million of them", bill, 1e6 / _EVENTS)
    show("a look at the depth of an idle channel", await looks(url), 1)
    for observe_every in (1.0, 5.0):  # moto is too slow for the default of 0.1
        show(f"a month idle, observe_every={observe_every}", await idle(url, observe_every), MONTH / _SECONDS)


if __name__ == "__main__":
    with MotoServer() as server:
        asyncio.run(main(server.url))
