"""A train on a real broker whose wagons are recorded, for any of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from eventwagon.contracts.ledger import WagonRecord
from eventwagon.policy.digest import digest_of, written
from tests.ledgers import orders


async def recorded(url: str, directory: Path | None) -> WagonRecord:
    """Fill wagon 1 of a train at the URL, with two processes, and return its record once it is removed. `directory`:
    of the ledger; None: the train's own. What the record says is held against what the handlers saw."""
    seen: list[tuple[int, str, str]] = []
    ledger = None if directory is None else f"sqlite:///{directory}"
    given = {"ledger": ledger, "keep_drained": 0.0, "lease": 0.5, "member_ttl": 2.0}
    first, second = orders(seen, **given), orders(seen, **given)
    async with (
        first.connect(url, listeners=()) as c,
        c.running(),
        second.connect(url, listeners=()) as other,
        other.running(observe=False),
    ):
        ids = [await c.publish(n) for n in range(50)]
        assert c.manifest.wagon(1) is not None
        await c.request_switch("an audit", by="ada@desk")
        async with asyncio.timeout(60):
            while c.manifest.wagon(1) is not None:
                await asyncio.sleep(0.05)
        (record,) = [r async for r in c.records() if r.number == 1]
    ingress, ship = record.channels
    assert (ingress.published, ingress.settled, record.dead) == (50, 50, 5)
    assert (ship.published, ship.settled) == (45, 45)
    assert (record.unreconciled, record.difference) == ("", 0)
    assert record.counted == record.settled
    assert ingress.digest == written(digest_of(ids))
    assert ship.digest == written(digest_of([i for _, name, i in seen if name], "ship"))
    assert sum(r.settled for r in record.ran) == 95
    return record
