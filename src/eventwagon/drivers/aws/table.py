"""The table: items by `pk` and `sk`, in batches, read with strong consistency."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from .clients import TROUBLE, Clients
from .errors import AWSRefused, explain

Item = Mapping[str, Any]
"""Attributes as DynamoDB types them: {"S": text}, {"N": digits}, {"B": bytes}, {"BOOL": truth}."""
Key = tuple[str, str]

_WRITE, _READ, _WRITE_BYTES = 25, 100, 12_000_000
_AT_ONCE = 16
_TRIES = 8


class Table:
    """Reads and writes of one driver; it opens and closes the driver's clients. Every method raises one of TROUBLE
    unless its docstring says otherwise."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._name = clients.place.table
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._stack = AsyncExitStack()
        self.is_new = False
        """The table did not exist when this was entered."""

    async def __aenter__(self) -> Self:
        """Connect, and create the table if there is none. Raises Unavailable, StorageBroken."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._clients)
            await self._prepare()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _prepare(self) -> None:
        place, what = self._clients.place, f"looking for table {self._name}"
        try:
            while True:
                found = await self._described()
                if found == "ACTIVE":
                    return
                if found is None:
                    what = f"making table {self._name}"
                    await self._make()
                    self.is_new = True
                await asyncio.sleep(0.5)
        except TROUBLE as e:
            raise explain(e, what, place) from e

    async def _described(self) -> str | None:
        try:
            answer = await self._clients.call("dynamodb", "describe_table", TableName=self._name)
        except AWSRefused as e:
            if e.code == "ResourceNotFoundException":
                return None
            raise
        return str(answer["Table"]["TableStatus"])

    async def _make(self) -> None:
        keys = (("pk", "HASH"), ("sk", "RANGE"))
        try:
            await self._clients.call(
                "dynamodb",
                "create_table",
                TableName=self._name,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
                KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
                BillingMode="PAY_PER_REQUEST",
            )
        except AWSRefused as e:
            if e.code != "ResourceInUseException":  # another process was first
                raise

    async def get(self, key: Key) -> Item | None:
        answer = await self._call("get_item", Key=_key(key), ConsistentRead=True)
        return answer.get("Item")

    async def put(self, item: Item, *, only_if: str = "", expect: int = 0) -> None:
        """PutItem. A condition that fails is AWSRefused; `:expect` in it is that number."""
        given: dict[str, Any] = {"ConditionExpression": only_if} if only_if else {}
        if ":expect" in only_if:
            given["ExpressionAttributeValues"] = {":expect": {"N": str(expect)}}
        await self._call("put_item", Item=item, **given)

    async def update(self, key: Key, **given: Any) -> Item:
        """UpdateItem, with its own arguments; returns what ReturnValues asks for. A condition that fails is
        AWSRefused."""
        answer = await self._call("update_item", Key=_key(key), **given)
        found: Item = answer.get("Attributes", {})
        return found

    async def remove(self, key: Key) -> bool:
        """Delete one item; returns whether it existed. If many delete it at once, one gets True."""
        try:
            await self._call("delete_item", Key=_key(key), ConditionExpression="attribute_exists(pk)")
        except AWSRefused as e:
            if e.condition:
                return False
            raise
        return True

    async def transact(self, actions: Sequence[Mapping[str, Any]]) -> None:
        """TransactWriteItems: all of it or nothing."""
        async with self._turn:
            await self._clients.call("dynamodb", "transact_write_items", TransactItems=actions)

    async def put_all(self, items: Iterable[Item]) -> None:
        """Write them in any order. After a failure some may be written."""
        await self._write_all([{"PutRequest": {"Item": item}} for item in items])

    async def remove_all(self, keys: Iterable[Key]) -> None:
        """Delete them. Absent items are no error."""
        await self._write_all([{"DeleteRequest": {"Key": _key(key)}} for key in keys])

    async def _write_all(self, requests: Sequence[Mapping[str, Any]]) -> None:
        await together(self._write(part) for part in _parts(requests))

    async def _write(self, requests: Sequence[Mapping[str, Any]]) -> None:
        left: Sequence[Mapping[str, Any]] = requests
        for attempt in range(_TRIES):
            async with self._turn:
                answer = await self._clients.call("dynamodb", "batch_write_item", RequestItems={self._name: left})
            left = answer.get("UnprocessedItems", {}).get(self._name, [])
            if not left:
                return
            await asyncio.sleep(0.05 * 2**attempt)
        raise OSError(f"DynamoDB is too busy: {len(left)} of {len(requests)} items were not written")

    async def get_all(self, keys: Sequence[Key]) -> dict[Key, Item]:
        """The existing items."""
        found: dict[Key, Item] = {}
        await together(self._read(keys[at : at + _READ], found) for at in range(0, len(keys), _READ))
        return found

    async def _read(self, keys: Sequence[Key], found: dict[Key, Item]) -> None:
        left: dict[str, Any] = {"Keys": [_key(key) for key in dict.fromkeys(keys)], "ConsistentRead": True}
        for attempt in range(_TRIES):
            async with self._turn:
                answer = await self._clients.call("dynamodb", "batch_get_item", RequestItems={self._name: left})
            for item in answer.get("Responses", {}).get(self._name, []):
                found[item["pk"]["S"], item["sk"]["S"]] = item
            left = answer.get("UnprocessedKeys", {}).get(self._name, {})
            if not left:
                return
            if not answer.get("Responses", {}).get(self._name):
                await asyncio.sleep(0.05 * 2**attempt)
        raise OSError("DynamoDB is too busy to be read")

    async def pages(
        self,
        pk: str,
        *,
        backward: bool = False,
        only: str | None = None,
        names: Mapping[str, str] | None = None,
        size: int | None = None,
    ) -> AsyncIterator[Sequence[Item]]:
        """The items under `pk` in the order of `sk`, page by page. `only` lists the attributes wanted; `names` stands
        in for names that are reserved words of DynamoDB."""
        given: dict[str, Any] = {
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": pk}},
            "ConsistentRead": True,
            "ScanIndexForward": not backward,
        }
        if only:
            given["ProjectionExpression"] = only
        if names:
            given["ExpressionAttributeNames"] = names
        if size:
            given["Limit"] = size
        while True:
            answer = await self._call("query", **given)
            yield answer.get("Items", [])
            if not answer.get("LastEvaluatedKey"):
                return
            given["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def count(self, pk: str, *, most: int) -> tuple[int, bool]:
        """The number of items under `pk`, up to `most`, and whether these are all: 0 only if there is none."""
        answer = await self._call(
            "query",
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": pk}},
            ConsistentRead=True,
            Select="COUNT",
            Limit=most,
        )
        return int(answer["Count"]), not answer.get("LastEvaluatedKey")

    async def _call(self, operation: str, **given: Any) -> dict[str, Any]:
        async with self._turn:
            return await self._clients.call("dynamodb", operation, TableName=self._name, **given)


def _key(key: Key) -> dict[str, Any]:
    return {"pk": {"S": key[0]}, "sk": {"S": key[1]}}


def _parts(requests: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[Mapping[str, Any]]]:
    """In batches that fit into one call."""
    part: list[Mapping[str, Any]] = []
    size = 0
    for request in requests:
        item = request.get("PutRequest", {}).get("Item", {})
        own = sum(len(value.get("B", b"")) for value in item.values())
        if part and (len(part) == _WRITE or size + own > _WRITE_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += own
    if part:
        yield part


async def together(steps: Iterable[Any]) -> None:
    """The results of all. Raises the first failure once all have ended: nothing goes on in the background."""
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
