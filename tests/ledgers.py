"""A ledger in memory, which can be away, and programs whose wagons are recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from eventwagon import Context, Reject, Retry, Train, Volume, Workers
from eventwagon.contracts.ledger import WagonRecord, decode_record, encode_record
from eventwagon.errors import Unavailable


async def _nothing() -> None:
    pass


class MemoryLedger:
    """Keeps records as others would: as text, each once."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int, float], bytes] = {}
        self.away = False
        self.deaf = False
        """It stores, and its answers are lost."""
        self.appends = 0
        self.before_append: Callable[[], Awaitable[None]] = _nothing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("the ledger is away")

    async def append(self, record: WagonRecord) -> WagonRecord:
        self._answer()
        await self.before_append()
        self.appends += 1
        key = record.train, record.number, record.opened_at
        found = decode_record(self.kept.setdefault(key, encode_record(record)))
        if self.deaf:
            raise Unavailable("the answer was lost")
        return found

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        self._answer()
        return tuple(r for r in self.all() if (r.train, r.number) == (train, number))

    async def records(self, train: str) -> AsyncIterator[WagonRecord]:
        self._answer()
        for record in self.all():
            if record.train == train:
                yield record

    def all(self) -> list[WagonRecord]:
        return [decode_record(data) for data in self.kept.values()]


def orders(seen: list[tuple[int, str, str]] | None = None, **settings: Any) -> Train:
    """Orders, each shipped. Every tenth dies, every seventh is retried once. `seen` gets wagon, channel and id of what
    ended well."""
    given: dict[str, Any] = {"limit": Volume(50), "workers": Workers(total=4), **settings}
    train = Train("orders", **given)

    @train.on("orders")
    async def order(n: int, ctx: Context) -> None:
        if n % 10 == 9:
            raise Reject("no such article")
        if n % 7 == 6 and ctx.attempt == 1:
            raise Retry(0.01)
        await ctx.emit("ship", n)
        if seen is not None:
            seen.append((ctx.wagon, "", ctx.event.id))

    @train.on("ship")
    async def ship(n: int, ctx: Context) -> None:
        if seen is not None:
            seen.append((ctx.wagon, "ship", ctx.event.id))

    return train
