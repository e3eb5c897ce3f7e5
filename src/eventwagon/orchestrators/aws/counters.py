"""The handling counts of each wagon that a Lambda function serves. A call knows only its own batch, so calls add their
counts to the table, where observers read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...contracts.orchestrator import Work
from ...drivers.aws.errors import AWSRefused
from ...drivers.aws.table import Key, Table

_NONE = {"N": "0"}


class HandlingCounts(NamedTuple):
    """The counts of one wagon, from all calls so far."""

    handled: int = 0
    """Handlings that ended well."""
    failed: int = 0
    work: Work = Work()
    """Events in calls whose duration was measured, and how long they took. A call counts as one worker, although it
    handles several events at a time."""


class Counters:
    """Handling counts by train and wagon. A late call creates no counters for a wagon that has none, so none are left
    behind."""

    def __init__(self, table: Table, prefix: str) -> None:
        self._table = table
        self._prefix = prefix

    async def open(self, train: str, wagon: int) -> None:
        """Create the counters of a wagon. Existing counters stay as they are."""
        pk, sk = self._key(train, wagon)
        item = {"pk": {"S": pk}, "sk": {"S": sk}, "handled": {"N": "0"}, "failed": {"N": "0"}}
        try:
            await self._table.put(item, only_if="attribute_not_exists(pk)")
        except AWSRefused as e:
            if not e.condition:
                raise

    async def add(self, train: str, wagon: int, handled: int, failed: int, seconds: float) -> None:
        """Add the counts of a call. Not idempotent."""
        values = {"handled": handled, "failed": failed, "timed": handled + failed, "seconds": f"{seconds:.6f}"}
        given: dict[str, Any] = {
            "UpdateExpression": "ADD " + ", ".join(f"{name} :{name}" for name in values),
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeValues": {f":{name}": {"N": str(value)} for name, value in values.items()},
        }
        try:
            await self._table.update(self._key(train, wagon), **given)
        except AWSRefused as e:
            if not e.condition:
                raise

    async def of(self, train: str) -> Mapping[int, HandlingCounts]:
        """The counts by wagon."""
        found: dict[int, HandlingCounts] = {}
        async for page in self._table.pages(f"{self._prefix}:tallies:{train}"):
            found |= {int(item["sk"]["S"]): _counted(item) for item in page}
        return found

    async def remove(self, train: str, wagon: int) -> None:
        """Delete the counters. Absent ones are no error."""
        await self._table.remove(self._key(train, wagon))

    def _key(self, train: str, wagon: int) -> Key:
        return f"{self._prefix}:tallies:{train}", f"{wagon:015d}"


def _counted(item: Mapping[str, Any]) -> HandlingCounts:
    """Functions of an earlier release write no durations."""
    count, seconds = int(item.get("timed", _NONE)["N"]), float(item.get("seconds", _NONE)["N"])
    squares = seconds * seconds / count if count else 0.0  # how evenly they took is not known
    work = Work(count=count, seconds=seconds, squares=squares)
    return HandlingCounts(int(item["handled"]["N"]), int(item["failed"]["N"]), work)
