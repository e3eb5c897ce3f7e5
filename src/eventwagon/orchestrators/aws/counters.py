"""The handling counts of each wagon that a Lambda function serves. A call knows only its own batch, so calls add their
counts to the table, where observers read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...drivers.aws.errors import AWSRefused
from ...drivers.aws.table import Key, Table


class Counters:
    """Handlings that ended well and handlings that failed, by train and wagon. A wagon without counters gets none from
    a late call, so nothing is left behind."""

    def __init__(self, table: Table, prefix: str) -> None:
        self._table = table
        self._prefix = prefix

    async def open(self, train: str, wagon: int) -> None:
        """Count from now on. Existing counters stay as they are."""
        pk, sk = self._key(train, wagon)
        item = {"pk": {"S": pk}, "sk": {"S": sk}, "handled": {"N": "0"}, "failed": {"N": "0"}}
        try:
            await self._table.put(item, only_if="attribute_not_exists(pk)")
        except AWSRefused as e:
            if not e.condition:
                raise

    async def add(self, train: str, wagon: int, handled: int, failed: int) -> None:
        """Add to the counters. Not idempotent."""
        given: dict[str, Any] = {
            "UpdateExpression": "ADD handled :handled, failed :failed",
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeValues": {":handled": {"N": str(handled)}, ":failed": {"N": str(failed)}},
        }
        try:
            await self._table.update(self._key(train, wagon), **given)
        except AWSRefused as e:
            if not e.condition:
                raise

    async def of(self, train: str) -> Mapping[int, tuple[int, int]]:
        """By wagon: how many handlings ended well, and how many failed."""
        found: dict[int, tuple[int, int]] = {}
        async for page in self._table.pages(f"{self._prefix}:tallies:{train}"):
            found |= {int(item["sk"]["S"]): (int(item["handled"]["N"]), int(item["failed"]["N"])) for item in page}
        return found

    async def remove(self, train: str, wagon: int) -> None:
        """Delete the counters. Absent ones are no error."""
        await self._table.remove(self._key(train, wagon))

    def _key(self, train: str, wagon: int) -> Key:
        return f"{self._prefix}:tallies:{train}", f"{wagon:015d}"
