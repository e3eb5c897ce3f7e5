"""Dead letters are kept in keys that a server may evict, and a hand may delete."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Connection, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import DeadLettersLost
from eventwagon.runtime.observer import Observer
from eventwagon.views.train import look
from tests.redis.support import raw
from tests.servers.server import Server
from tests.support import journal


@pytest.mark.timeout(120)
def test_evicted_dead_letters_are_told(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of a live wagon's, by hand; then all of the removed ones'."""
    url, name = f"{redis_server.url}?prefix={token_hex(4)}", "letters"
    train = Train(name, limit=Volume(1000), workers=Workers(total=1), observe_every=0.1, keep_drained=0.2)
    defaults: Any = Observer.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sweep_every", 1.0)

    @train.on(name)
    async def handle(n: int) -> None:
        raise Reject("no")

    async def told(c: Connection, count: int) -> list[tuple[int, int, int]]:
        while True:
            found = [e.fact for e in await journal(c) if isinstance(e.fact, DeadLettersLost)]
            if len(found) >= count:
                return [(fact.number, fact.count, fact.total) for fact in found]
            await asyncio.sleep(0.1)

    async def main() -> None:
        async with train.connect(url, listeners=()) as c, c.running(), raw(redis_server) as server, asyncio.timeout(90):
            await c.publish_many(range(5))
            key = f"{c.broker.server.prefix}:{{{name}_v1}}.dead"  # type: ignore[attr-defined]
            while await server.xlen(key) < 5:
                await asyncio.sleep(0.05)
            await server.xtrim(key, maxlen=3, approximate=False)
            assert await told(c, 1) == [(1, 2, 2)]
            assert (await look(c, url)).dead_lost == 2
            await c.wait_switched(await c.request_switch())
            await c.wait_drained(1)
            kept = f"{c.broker.server.prefix}:{{{name}}}.dead"  # type: ignore[attr-defined]
            assert await server.xlen(kept) == 3
            await asyncio.sleep(2.5)  # an observer has seen them
            await server.delete(kept, f"{kept}:meta")
            assert await told(c, 2) == [(1, 2, 2), (0, 3, 3)]
            view = await look(c, url)
            assert (view.dead, view.dead_lost) == (0, 2 + 3)
            await asyncio.sleep(2.5)
            assert len(await told(c, 2)) == 2

    asyncio.run(main())
