"""Reads a source's arrivals at a bounded rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from ...contracts.address import Address
from ...display.redaction import shown
from ...errors import UsageError
from .recorded import Arrival, Recorded

RATE = 20_000
"""Records a second, unless asked otherwise."""
ROOM = 20_000_000
"""Bytes a second."""


class Source(Protocol):
    """A flow whose records can be looked at. Reading changes nothing there: no group is joined, nothing is
    committed."""

    title: str
    """Names the flow in output."""
    is_live: bool
    """Its newest record is about as old as now. Otherwise `last` counts back from its newest record."""

    def batches(self, since: float) -> AsyncIterator[Sequence[Arrival | None]]:
        """The records from `since` (seconds since the epoch) until now, in batches of at most some thousands; None
        stands for a record without a time. Raises UsageError, Unavailable, StorageBroken."""
        ...


def source_at(where: str, *, field: str) -> Source:
    """The source that `where` names: `kafka://host/topic`, `redis://host/stream`, or the path of a file of JSON lines,
    whose field `field` holds the time (empty: the usual names). Raises UsageError."""
    scheme, slashes, _ = where.partition("://")
    if not slashes:
        from .json_lines import JsonLines

        return JsonLines(where, field)
    if field:
        raise UsageError(f"--time-field {field}: it is for a file of JSON lines; {scheme}:// has times of its own")
    address = Address.of(where)
    if address.scheme == "kafka":
        from .kafka import KafkaTopic

        return KafkaTopic(address)
    if address.scheme.partition("+")[0] in ("redis", "rediss", "valkey", "valkeys"):
        from .redis import RedisStream

        return RedisStream(address)
    raise UsageError(
        f"--source {shown(where)}: give kafka://host:9092/TOPIC, redis://host:6379/STREAM, or a file of JSON lines"
    )


async def read(source: Source, *, last: float, rate: int, say: Callable[[int], None]) -> Recorded:
    """The arrivals of the last `last` seconds, sorted, at most `rate` records and `ROOM` bytes a second. `say` receives
    how many there are, after each batch. Raises UsageError if there is none."""
    since = time.time() - last if source.is_live else 0.0
    recorded = Recorded(source.title, last)
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for batch in source.batches(since):
        for arrival in batch:
            if arrival is None:
                recorded.unknown += 1
            elif arrival.at >= since:  # a topic's times need not be sorted
                recorded.add(arrival)
        say(len(recorded))
        due += max(len(batch) / rate, sum(each.size for each in batch if each is not None) / ROOM)
        await asyncio.sleep(max(0.0, due - loop.time()))
    if not recorded and recorded.unknown:
        raise UsageError(f"{source.title}: none of {recorded.unknown:,} records has a time")
    if not recorded:
        raise UsageError(f"{source.title} has no records in the last {last:,.0f} s; see --last")
    recorded.sort()
    if not source.is_live:
        recorded.keep_last(last)
    return recorded
