"""A compacted log, without a server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from eventwagon.drivers.kafka.compacted import CompactedLog
from eventwagon.drivers.kafka.following import LogClock, LogGone
from eventwagon.drivers.kafka.later import Later


def test_a_record_that_is_stored_before_what_was_read() -> None:
    """Somebody has made the topic anew, or a replica that lacked its end leads it: the writer is told."""

    async def main() -> None:
        sent: list[Any] = []
        client: Any = SimpleNamespace(
            sender=SimpleNamespace(send=lambda topic, partition, value, report, *, key: sent.append(report))
        )
        log = CompactedLog(client, "t.0later", Later(1000), LogClock())
        log.next = 10
        done = log.append(b"t", None)
        sent[0](None, SimpleNamespace(offset=lambda: 0, timestamp=lambda: (1, 5)))
        with pytest.raises(LogGone, match="went back to offset 0"):
            await asyncio.wait_for(done, 30)

    asyncio.run(main())
