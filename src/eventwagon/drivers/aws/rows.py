"""The account of what the queues hold: a table knows which events were accepted and are not settled.

An event has a row from before it is sent until it is settled, by its key, in one of a few partitions of its channel. So
"no row" means "nothing outstanding", whatever the queue says; and an event whose message was lost can be sent again.
Two counters say roughly how many events were published and settled. Each call of a publisher or worker writes to one of
several items with these counters, and their sum counts; docs/decisions explains why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from hashlib import blake2b
from random import choice
from typing import Any, Literal

import msgspec

from ...event import Channel
from .errors import AWSRefused
from .place import Place
from .table import Item, Key, Table, together
from .wire import Letter

PARTS = 4
"""Partitions of a channel's rows, and of its counters: DynamoDB writes about a thousand items a second in each. Fixed:
all processes that use a channel must agree on it."""
_KNOWN = 4096


class Counted(msgspec.Struct, frozen=True):
    """A channel's counters. `settled` may be slightly off in both directions, `published` slightly high, since requests
    are repeated."""

    published: int
    settled: int
    sealed: bool = False


class Found(msgspec.Struct, frozen=True):
    """An event's row: the event, and its notes (`note`)."""

    body: bytes
    tried: int
    given_back: str
    suspect: bool


class Rows:
    """The rows and counters of all channels at one place."""

    def __init__(self, table: Table, place: Place) -> None:
        self._table = table
        self._prefix = place.prefix
        self._found: dict[Channel, tuple[Key, ...]] = {}
        """The items with the counters of channels that were used."""

    def totals(self, channel: Channel) -> tuple[Key, ...]:
        """The items with its counters, each under a partition key of its own."""
        return tuple((f"{self._prefix}:channel:{channel}:{part}", "totals") for part in range(PARTS))

    def single(self, channel: Channel) -> Key:
        """The one item with its counters, where an earlier release has made it."""
        return f"{self._prefix}:channel:{channel}", "totals"

    def _listed(self, channel: Channel) -> Key:
        return f"{self._prefix}:channels:{channel.train}", str(channel)

    def _row(self, channel: Channel, key: str) -> Key:
        part = blake2b(key.encode(), digest_size=1).digest()[0] % PARTS
        return self._part(channel, part), key

    def _part(self, channel: Channel, part: int) -> str:
        return f"{self._prefix}:events:{channel}:{part}"

    # --- channels -----------------------------------------------------------------------------

    async def list(self, channel: Channel) -> None:
        """Record that the channel exists, so that it is found even if its creator dies."""
        pk, sk = self._listed(channel)
        wagon = {"N": str(channel.wagon)}
        await self._table.put({"pk": {"S": pk}, "sk": {"S": sk}, "wagon": wagon, "channel": {"S": channel.name}})

    async def open(self, channel: Channel) -> None:
        """It accepts events from now on. An open channel keeps its counters and seal."""
        if await self._table.get(self.single(channel)):
            return
        await together(
            self._table.update(
                key,
                UpdateExpression="SET published = if_not_exists(published, :none), settled = if_not_exists(settled, "
                ":none)",
                ExpressionAttributeValues={":none": {"N": "0"}},
            )
            for key in self.totals(channel)
        )

    async def close(self, channel: Channel) -> None:
        """It accepts no events any more."""
        await self._table.remove_all([*self.totals(channel), self.single(channel)])
        self._found.pop(channel, None)

    async def forget(self, channel: Channel) -> None:
        """Remove all of its items."""
        for part in range(PARTS):
            async for page in self._table.pages(self._part(channel, part), only="pk, sk"):
                await self._table.remove_all((item["pk"]["S"], item["sk"]["S"]) for item in page)
        await self._table.remove(self._listed(channel))

    async def seal(self, channel: Channel) -> None:
        """From now on `admit` refuses. Done once all its items are marked, because each call of `admit` checks one of
        them. An absent channel is no error."""
        await together(
            self._change(
                key,
                UpdateExpression="SET sealed = :yes",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeValues={":yes": {"BOOL": True}},
            )
            for key in (*self.totals(channel), self.single(channel))
        )

    async def channels(self, train: str) -> Sequence[Channel]:
        """The listed channels, including half-deleted ones."""
        found: list[Channel] = []
        async for page in self._table.pages(f"{self._prefix}:channels:{train}"):
            found += [Channel(train, int(item["wagon"]["N"]), item["channel"]["S"]) for item in page]
        return found

    async def counted(self, channels: Sequence[Channel]) -> dict[Channel, Counted]:
        """The whole counters of the existing channels. If a sum is the same in two reads, it did not change in between:
        counters only grow."""
        asked = {
            channel: self._found.get(channel) or (*self.totals(channel), self.single(channel)) for channel in channels
        }
        items = await self._table.get_all([key for keys in asked.values() for key in keys])
        counted: dict[Channel, Counted] = {}
        for channel, keys in asked.items():
            found = {key: items[key] for key in keys if key in items}
            if self.single(channel) not in found and len(found) < PARTS:
                self._found.pop(channel, None)
                continue
            self._found[channel] = tuple(found)
            counted[channel] = Counted(
                sum(int(item["published"]["N"]) for item in found.values()),
                sum(int(item["settled"]["N"]) for item in found.values()),
                all("sealed" in item for item in found.values()),
            )
        while len(self._found) > _KNOWN:
            del self._found[next(iter(self._found))]
        return counted

    async def _add(self, channel: Channel, counter: str, count: int, *, only_if: str) -> bool:
        """Add to one of its items; False if that does not exist or does not meet the condition."""
        while True:
            known = channel in self._found
            changed = await self._change(
                choice(self._found.get(channel) or self.totals(channel)),
                UpdateExpression=f"ADD {counter} :count",
                ConditionExpression=only_if,
                ExpressionAttributeValues={":count": {"N": str(count)}},
            )
            if changed or known or not await self.counted([channel]):
                return changed

    async def _change(self, key: Key, **given: Any) -> bool:
        """Update an item; False if the condition does not hold."""
        try:
            await self._table.update(key, **given)
        except AWSRefused as e:
            if not e.condition:
                raise
            return False
        return True

    # --- events -------------------------------------------------------------------------------

    async def put(self, channel: Channel, letters: Iterable[Letter]) -> None:
        """Write rows for them; an existing row of an event is written again."""
        rows: dict[Key, Item] = {}
        for one in letters:
            pk, sk = self._row(channel, one.key)
            rows[pk, sk] = {"pk": {"S": pk}, "sk": {"S": sk}, "body": {"B": one.body.encode()}}
        await self._table.put_all(rows.values())

    async def admit(self, channel: Channel, count: int) -> Literal["admitted", "sealed", "gone"]:
        """Count this many events as published, unless the channel is sealed or gone, in one step."""
        still_open = "attribute_exists(pk) AND attribute_not_exists(sealed)"
        if await self._add(channel, "published", count, only_if=still_open):
            return "admitted"
        return "sealed" if await self.counted([channel]) else "gone"

    async def remove(self, channel: Channel, keys: Iterable[str]) -> None:
        """Delete the rows of these events. Absent rows are no error."""
        await self._table.remove_all(dict.fromkeys(self._row(channel, key) for key in keys))

    async def take(self, channel: Channel, keys: Sequence[str]) -> int:
        """Settle them. Returns how many were not settled yet: each counts once, whoever settles it."""
        gone = await asyncio.gather(*(self._table.remove(self._row(channel, key)) for key in dict.fromkeys(keys)))
        return sum(gone)

    async def settled(self, channel: Channel, count: int) -> bool:
        """Count this many events as settled; False if the channel is gone."""
        return await self._add(channel, "settled", count, only_if="attribute_exists(pk)")

    async def note(
        self, channel: Channel, key: str, tried: int, *, given_back: str = "", suspect: bool = False
    ) -> bool:
        """Record how many attempts count so far. `given_back`: the receive of the message after which it was last given
        back, if it was, and whether it is a suspect. False if the event was settled meanwhile."""
        values: dict[str, dict[str, str | bool]] = {":tried": {"N": str(tried)}}
        change = "SET tried = :tried"
        if given_back:
            change += ", given_back = :by, suspect = :suspect"
            values |= {":by": {"S": given_back}, ":suspect": {"BOOL": suspect}}
        return await self._change(
            self._row(channel, key),
            UpdateExpression=change,
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues=values,
        )

    async def find(self, channel: Channel, keys: Sequence[str]) -> Mapping[str, Found]:
        """The unsettled events."""
        items = await self._table.get_all([self._row(channel, key) for key in keys])
        return {sk: _found(item) for (_, sk), item in items.items()}

    async def count(self, channel: Channel, *, most: int) -> tuple[int, bool]:
        """How many events have rows, up to `most` in each part, and whether these are all: 0 only if none has a row."""
        parts = (self._table.count(self._part(channel, part), most=most) for part in range(PARTS))
        counts = await asyncio.gather(*parts)
        return sum(count for count, _ in counts), all(whole for _, whole in counts)

    async def browse(self, channel: Channel) -> AsyncIterator[tuple[str, bytes]]:
        """Keys and bodies, ordered by key."""
        streams = [self._stream(channel, part) for part in range(PARTS)]
        try:
            heads = list(await asyncio.gather(*(_next(stream) for stream in streams)))
            while any(heads):
                _, at = min((head[0], at) for at, head in enumerate(heads) if head)
                first = heads[at]
                assert first is not None  # noqa: S101 - for the type checker
                yield first
                heads[at] = await _next(streams[at])
        finally:
            for stream in streams:
                await stream.aclose()

    async def _stream(self, channel: Channel, part: int) -> AsyncGenerator[tuple[str, bytes], None]:
        async for page in self._table.pages(self._part(channel, part)):
            for item in page:
                yield item["sk"]["S"], item["body"]["B"]

    async def may_resend(self, channel: Channel, now: float, pause: float) -> bool:
        """Whether it is this process's turn to send again what the queue has lost. One process does it every `pause`
        seconds."""
        return await self._change(
            (self._found.get(channel) or self.totals(channel))[0],
            UpdateExpression="SET resent = :now",
            ConditionExpression="attribute_exists(pk) AND (attribute_not_exists(resent) OR resent < :before)",
            ExpressionAttributeValues={":now": {"N": f"{now:.3f}"}, ":before": {"N": f"{now - pause:.3f}"}},
        )


def _found(item: Item) -> Found:
    return Found(
        item["body"]["B"],
        int(item["tried"]["N"]) if "tried" in item else 0,
        item["given_back"]["S"] if "given_back" in item else "",
        bool(item["suspect"]["BOOL"]) if "suspect" in item else False,
    )


async def _next(stream: AsyncGenerator[tuple[str, bytes], None]) -> tuple[str, bytes] | None:
    return await anext(stream, None)
