"""Events for later in the DynamoDB table.

Each event has two items, written and deleted in one transaction: one under `later`, in the order in which events are
due, and one under `later-keys`, which says where that is. A claim is an attribute of the former (`held`: when it ends,
in milliseconds). `later-series` has the latest tick of each series. Times are the service's, as precisely as the date
of its answers shows them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from ...contracts.timetable import Due, Waiting, decode, encode, key_of
from ...errors import EventTooLarge, Unavailable
from ...event import Event
from .clients import TROUBLE, Clients
from .errors import AWSRefused, explain
from .place import Place
from .table import Item, Table, together
from .wire import MOST_BYTES

_DIGITS = 15  # of a time in milliseconds
_TRIES = 6
_AT_ONCE = 100  # calls that are prepared at a time
_FREE = "attribute_exists(pk) AND (attribute_not_exists(held) OR held <= :now)"


class DynamoDBTimetable:
    """Timetables in the table of a broker or a registry, which opens and closes it."""

    def __init__(self, clients: Clients, table: Table, place: Place) -> None:
        self._clients = clients
        self._table = table
        self._place = place

    def _pk(self, what: str, train: str) -> str:
        return f"{self._place.prefix}:{what}:{train}"

    async def now(self, train: str) -> float:
        return self._clients.now()

    async def add(self, train: str, events: Sequence[Event]) -> None:
        puts = [self._puts(train, event) for event in events]
        try:
            await _in_parts(self._transact(each) for each in puts)
        except TROUBLE as e:
            raise explain(e, f"keeping events of {train} for later", self._place) from e

    def _puts(self, train: str, event: Event) -> list[Mapping[str, Any]]:
        """Raises EventTooLarge."""
        name, encoded = key_of(event), encode(event)
        if len(name) + len(encoded) > MOST_BYTES:
            raise EventTooLarge(
                f"event {event.id} has {len(encoded):,} bytes; to be kept for later it may have up to {MOST_BYTES:,}"
            )
        digest = _digest(name)
        entry = f"{max(0, math.ceil(event.time * 1000)):0{_DIGITS}d}.{digest}"
        known = {**_item(self._pk("later-keys", train), digest), "entry": {"S": entry}}
        kept = {**_item(self._pk("later", train), entry), "key": {"S": name}, "event": {"B": encoded}}
        return [self._put(known, ConditionExpression="attribute_not_exists(pk)"), self._put(kept)]

    def _put(self, item: Item, **given: Any) -> Mapping[str, Any]:
        return {"Put": {"TableName": self._place.table, "Item": item, **given}}

    def _delete(self, pk: str, sk: str, **given: Any) -> Mapping[str, Any]:
        return {"Delete": {"TableName": self._place.table, "Key": _item(pk, sk), **given}}

    async def _transact(self, actions: Sequence[Mapping[str, Any]]) -> bool:
        """Do all of it, or nothing: then a condition does not hold, and it returns False. Raises one of TROUBLE."""
        for attempt in range(_TRIES):
            try:
                await self._table.transact(actions)
                return True
            except AWSRefused as e:
                if e.code != "TransactionCanceledException":
                    raise
                if "ConditionalCheckFailed" in e.text:
                    return False
                if attempt == _TRIES - 1:
                    raise Unavailable(f"{self._place}: {e.code}: {e.text}") from e
            await asyncio.sleep(0.05 * 2**attempt)  # another transaction has one of the items in hand
        raise AssertionError

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        now = self._clients.now()
        try:
            first = await self._first(train)
            if first is None or first > now:
                return Due(events=(), keys=(), until=now, now=now, next_at=first)
            held = math.ceil((now + lease) * 1000)
            free, following = await self._free(train, now, limit, most_bytes)
            taken = await asyncio.gather(*(self._hold(item, now, held) for item in free))
        except TROUBLE as e:
            raise explain(e, f"looking for events of {train} that are due", self._place) from e
        ours = [item for item, is_ours in zip(free, taken, strict=True) if is_ours]
        keys = [item["key"]["S"] for item in ours]
        events = [decode(item["event"]["B"], kept_as=name) for item, name in zip(ours, keys, strict=True)]
        return Due(events=events, keys=keys, until=held / 1000, now=now, next_at=following)

    async def _first(self, train: str) -> float | None:
        """When the earliest event is due, claimed or not."""
        async for page in self._table.pages(self._pk("later", train), only="sk", size=1):
            return _due(page[0]) if page else None
        return None

    async def _free(self, train: str, now: float, limit: int, most_bytes: int) -> tuple[list[Item], float | None]:
        """What is due and not claimed, and when the next event is due or its claim ends."""
        found: list[Item] = []
        following = math.inf
        async for page in self._table.pages(self._pk("later", train), size=limit):
            for item in page:
                due = _due(item)
                if due <= now and (until := _held(item)) > now:
                    following = min(following, until)
                    continue
                most_bytes -= len(item["event"]["B"])
                if due > now or len(found) == limit or (found and most_bytes < 0):
                    return found, min(following, due)
                found.append(item)
        return found, None if following == math.inf else following

    async def _hold(self, item: Item, now: float, held: int) -> bool:
        """Claim one event. Returns False if another process was first."""
        key = item["pk"]["S"], item["sk"]["S"]
        values = {":held": {"N": str(held)}, ":now": {"N": str(math.floor(now * 1000))}}
        try:
            await self._table.update(
                key,
                UpdateExpression="SET held = :held",
                ConditionExpression=_FREE,
                ExpressionAttributeValues=values,
            )
        except AWSRefused as e:
            if not e.condition:
                raise
            return False
        return True

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        try:
            places = await self._places(train, keys)
            values = {":held": {"N": str(round(until * 1000))}}
            under: dict[str, Any] = {"ConditionExpression": "held = :held", "ExpressionAttributeValues": values}
            await _in_parts(self._transact(self._deletes(train, *place, **under)) for place in places)
        except TROUBLE as e:
            raise explain(e, f"removing published events of {train} from its timetable", self._place) from e

    def _deletes(self, train: str, digest: str, entry: str, **given: Any) -> list[Mapping[str, Any]]:
        return [
            self._delete(self._pk("later", train), entry, **given),
            self._delete(self._pk("later-keys", train), digest),
        ]

    async def _places(self, train: str, keys: Sequence[str]) -> list[tuple[str, str]]:
        """The digest of each of these keys that is kept, and where its event is."""
        pk = self._pk("later-keys", train)
        found = await self._table.get_all([(pk, _digest(name)) for name in dict.fromkeys(keys)])
        return [(digest, item["entry"]["S"]) for (_, digest), item in found.items()]

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        cancelled = False
        try:
            for digest, entry in await self._places(train, keys):
                item = await self._table.get((self._pk("later", train), entry))
                if item is None or (until := _held(item)) > self._clients.now():
                    continue
                if until:
                    given: dict[str, Any] = {
                        "ConditionExpression": "held = :held",
                        "ExpressionAttributeValues": {":held": item["held"]},
                    }
                else:
                    given = {"ConditionExpression": "attribute_exists(pk) AND attribute_not_exists(held)"}
                done = await self._transact(self._deletes(train, digest, entry, **given))
                cancelled = cancelled or (done and not until)
        except TROUBLE as e:
            raise explain(e, f"cancelling an event of {train}", self._place) from e
        return cancelled

    async def waiting(self, train: str) -> Waiting:
        try:
            pages = self._table.pages(self._pk("later-keys", train), only="sk")
            count = sum([len(page) async for page in pages])
            return Waiting(count=count, next_at=await self._first(train) if count else None, now=self._clients.now())
        except TROUBLE as e:
            raise explain(e, f"looking at the timetable of {train}", self._place) from e

    async def entries(self, train: str) -> AsyncIterator[Event]:
        try:
            async for page in self._table.pages(self._pk("later", train)):
                for item in page:
                    yield decode(item["event"]["B"], kept_as=item["key"]["S"])
        except TROUBLE as e:
            raise explain(e, f"reading the timetable of {train}", self._place) from e

    async def latest(self, train: str, series: str) -> float | None:
        try:
            item = await self._table.get((self._pk("later-series", train), series))
        except TROUBLE as e:
            raise explain(e, f"looking for the last tick of {series}", self._place) from e
        return None if item is None else float(item["tick"]["S"])

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        found: dict[str, float] = {}
        try:
            async for page in self._table.pages(self._pk("later-series", train)):
                found |= {item["sk"]["S"]: float(item["tick"]["S"]) for item in page}
        except TROUBLE as e:
            raise explain(e, f"looking for the last ticks of {train}", self._place) from e
        return found

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        try:
            item = await self._table.get((self._pk("later-series", train), series))
            if item is not None and float(item["tick"]["S"]) >= at:
                return False
            new = {**_item(self._pk("later-series", train), series), "tick": {"S": repr(at)}}
            if item is None:
                return await self._transact([self._put(new, ConditionExpression="attribute_not_exists(pk)")])
            unchanged = {
                "ConditionExpression": "tick = :before",
                "ExpressionAttributeValues": {":before": item["tick"]},
            }
            puts = [] if event is None else self._puts(train, event)
            return await self._transact([self._put(new, **unchanged), *puts])
        except TROUBLE as e:
            raise explain(e, f"recording a tick of {series}", self._place) from e

    async def clear(self, train: str) -> int:
        count = 0
        try:
            for what in ("later", "later-keys", "later-series"):
                async for page in self._table.pages(self._pk(what, train), only="pk, sk"):
                    count += len(page) if what == "later" else 0
                    await self._table.remove_all((item["pk"]["S"], item["sk"]["S"]) for item in page)
        except TROUBLE as e:
            raise explain(e, f"deleting the timetable of {train}", self._place) from e
        return count


def _item(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _digest(name: str) -> str:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _due(item: Item) -> float:
    return int(item["sk"]["S"][:_DIGITS]) / 1000


def _held(item: Item) -> float:
    """When its claim ends; 0: it was never claimed."""
    return int(item["held"]["N"]) / 1000 if "held" in item else 0.0


async def _in_parts(steps: Iterable[Any]) -> None:
    """Take these steps, some of them at a time."""
    left = list(steps)
    try:
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            await together(some)
    finally:
        for step in left:
            step.close()
