"""The suite for sources of the bridge: what is read, committed, and read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from ...bridge.source import Lag, Record, Source
from ...errors import Unavailable, UsageError
from ...event import check_word
from .check import Body, Check, CheckFailed, Suite, Undeclared, holds, identity, same, sentence

_MANY = 20


class SourceHarness(Protocol):
    """One new and empty flow, with a group that has read nothing of it yet and begins at its first record."""

    claim: float
    """Seconds after which another reader gets what a dead one has read and not committed; a check waits twice as long.
    0: only when it has left."""
    ordered: bool
    """Records of one writer come in the order in which they were written."""

    def open(self) -> AbstractAsyncContextManager[Source]:
        """A new reader of the group, not entered yet. The first one that enters makes the group, if it must."""
        ...

    async def write(self, values: Sequence[bytes]) -> None:
        """Write records as their producers do, in this order; they can be read when it returns."""
        ...


class SourceTrial:
    """A source under trial, and the steps that checks share."""

    def __init__(self, harness: SourceHarness, patience: float, rereads: bool) -> None:
        self.harness = harness
        self.patience = patience
        self._rereads = rereads

    def needs_second_reading(self) -> None:
        """Raise Undeclared for a source that can be read once."""
        if not self._rereads:
            raise Undeclared("it can be read once")

    def order(self, values: Iterable[bytes]) -> list[bytes]:
        """The values as they came if the source keeps the order, otherwise sorted: two such lists can be compared."""
        return list(values) if self.harness.ordered else sorted(values)

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[Source]:
        """A new reader, entered."""
        async with self.harness.open() as source:
            yield source

    async def write(self, count: int = _MANY, first: int = 0) -> list[bytes]:
        """Numbered records."""
        values = [b'{"n": %d}' % (first + n) for n in range(count)]
        await self.harness.write(values)
        return values

    async def take(self, source: Source, count: int, *, limit: int = 500) -> list[Record]:
        """Exactly so many records, read in batches."""
        got: list[Record] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + self.patience
        while len(got) < count:
            some = await source.read(min(limit, count - len(got)), 0.2)
            if some is None or (not some and loop.time() > until):
                raise CheckFailed(f"expected {count} records, and after {len(got)} none came for {self.patience:g} s")
            holds(len(some) <= limit, f"asked for {limit} at most, {len(some)} came")
            got += some
        return got

    async def commit(self, source: Source, records: Sequence[Record]) -> None:
        """Commit them, again while the source is not available: a group may be changing."""
        until = asyncio.get_running_loop().time() + self.patience
        while True:
            try:
                await source.commit(records)
                return
            except Unavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
            await asyncio.sleep(0.1)

    async def nothing(self, source: Source, why: str, *, seconds: float = 1.0) -> None:
        """Raise CheckFailed if anything comes within these seconds."""
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            got = await source.read(100, min(left, 0.2))
            holds(not got, f"{why}: {len(got or ())} came")

    async def lag(self, source: Source, done: Callable[[Lag], bool]) -> None:
        """Wait until the lag is like this; a source may learn of it late."""
        until = asyncio.get_running_loop().time() + self.patience
        while not done(found := await source.lag()):
            holds(asyncio.get_running_loop().time() < until, f"the lag stays {found}")
            await asyncio.sleep(0.1)


def source_checks(*, patience: float = 20.0, rereads: bool = True) -> Sequence[Check[SourceHarness]]:
    """Every check of the contract of a source. `patience`: seconds for a record to come. Without `rereads` (stdin)
    those that read twice do not apply."""

    def make_check(body: Body[SourceTrial], requires: tuple[str, ...]) -> Check[SourceHarness]:
        async def start(
            check: Check[SourceHarness], make: Callable[[], AbstractAsyncContextManager[SourceHarness]]
        ) -> None:
            async with make() as harness:
                await body(SourceTrial(harness, patience, rereads))

        return Check(identity(body), sentence(body), requires, start)

    return [make_check(body, requires) for body, requires in suite.bodies]


suite: Suite[SourceTrial] = Suite()


@suite.check()
async def records_come_as_they_were_written(t: SourceTrial) -> None:
    """Records come with their bytes, in the order in which they were written, each with a position of its own that can
    be an event's id, and with a time."""
    values = [b'{"a": 1}', b'"\xc3\xa4 \\u0000"', b"[" + b"1," * 30_000 + b"1]", b"0"]
    async with t.reader() as source:
        await t.harness.write(values)
        got = await t.take(source, len(values))
        same(t.order(record.value for record in got), t.order(values), "values")
        same(len({record.position for record in got}), len(values), "different positions")
        for record in got:
            same(check_word("id", record.position), record.position, "a position")
            holds(record.time == 0 or record.time > 1e9, f"time {record.time} is not in seconds since 1970")
        check_word("source", source.name)
        await t.commit(source, got)


@suite.check()
async def an_empty_source_gives_nothing(t: SourceTrial) -> None:
    """Without records `read` returns an empty sequence after its wait, and later records come all the same."""
    async with t.reader() as source:
        began = asyncio.get_running_loop().time()
        found = await source.read(10, 0.3)
        holds(found is not None, "it has ended, though its writers have not")
        same(list(found or ()), [], "records")
        holds(asyncio.get_running_loop().time() - began < t.patience, "it waited far too long")
        values = await t.write(3)
        same(t.order(record.value for record in await t.take(source, 3)), t.order(values), "values")


@suite.check()
async def a_read_takes_no_more_than_its_limit(t: SourceTrial) -> None:
    """`read` returns at most as many records as it is asked for, and none of them twice."""
    async with t.reader() as source:
        values = await t.write()
        got = await t.take(source, _MANY, limit=3)
        same(t.order(record.value for record in got), t.order(values), "values")
        await t.nothing(source, "what was read came again")


@suite.check()
async def what_is_not_committed_comes_again(t: SourceTrial) -> None:
    """What a reader has read and not committed comes again once it has left, with the same positions."""
    t.needs_second_reading()
    async with t.reader() as source:
        await t.write()
        first = {record.position: record.value for record in await t.take(source, _MANY)}
    await asyncio.sleep(2 * t.harness.claim)
    async with t.reader() as source:
        again = {record.position: record.value for record in await t.take(source, _MANY)}
    same(again, first, "records by position")


@suite.check()
async def what_is_committed_never_comes_again(t: SourceTrial) -> None:
    """After a commit of the first records exactly the others come again. A commit may be repeated, and be empty."""
    t.needs_second_reading()
    async with t.reader() as source:
        await t.write()
        got = await t.take(source, _MANY)
        values = [record.value for record in got]
        await t.commit(source, [])
        await t.commit(source, got[:5])
        await t.commit(source, got[:5])
        await t.commit(source, got[5:12])
    await asyncio.sleep(2 * t.harness.claim)
    async with t.reader() as source:
        again = await t.take(source, _MANY - 12)
        same(sorted(record.value for record in again), sorted(values[12:]), "values that come again")
        await t.nothing(source, "what was committed came again")
        await t.commit(source, again)
    async with t.reader() as source:
        await t.nothing(source, "all was committed, and something came")


@suite.check()
async def two_readers_share_the_records(t: SourceTrial) -> None:
    """Of two readers of a group each record goes to one, and nothing is left."""
    t.needs_second_reading()
    async with t.reader() as one, t.reader() as other:
        got: list[Record] = []
        values = await t.write(5 * _MANY)
        until = asyncio.get_running_loop().time() + t.patience
        while len({record.position for record in got}) < len(values):
            for source in (one, other):
                some = await source.read(7, 0.1)
                await t.commit(source, some or [])
                got += some or []
            holds(asyncio.get_running_loop().time() < until, f"{len(got)} of {len(values)} came")
        await t.nothing(one, "nothing should be left", seconds=0.5)
        await t.nothing(other, "nothing should be left", seconds=0.5)


@suite.check()
async def what_is_read_is_held(t: SourceTrial) -> None:
    """What was read and not committed goes to no other reader, however long that takes, while its reader is alive."""
    t.needs_second_reading()
    async with t.reader() as one:
        await t.write()
        held = await t.take(one, _MANY)
        async with t.reader() as other:
            pause = asyncio.create_task(asyncio.sleep(max(1.0, 2.5 * t.harness.claim)))
            while not pause.done():
                same(list(await other.read(10, 0.2) or []), [], "what another reader holds")
        await t.commit(one, held)


@suite.check()
async def a_peek_takes_nothing(t: SourceTrial) -> None:
    """`peek` shows the next records before the first `read`, as they will be read, and takes none. A source that can't
    do this refuses it."""
    t.needs_second_reading()
    values = await t.write()
    async with t.reader() as source:
        try:
            seen = await source.peek(5)
        except UsageError as e:
            raise Undeclared(str(e)) from None
        same(list(await source.peek(5)), list(seen), "a second peek")
        same(t.order(record.value for record in seen), t.order(values[:5]), "values")
    async with t.reader() as source:
        got = await t.take(source, _MANY)
        same([record.position for record in got[:5]], [record.position for record in seen], "positions")
        same(t.order(record.value for record in got), t.order(values), "values")


@suite.check()
async def the_lag_is_what_is_not_committed(t: SourceTrial) -> None:
    """The lag counts what is not committed, with the age of the oldest, and is 0 when all is. A figure may be
    unknown."""
    t.needs_second_reading()
    async with t.reader() as source:
        await t.write()
        got = await t.take(source, _MANY)
        await t.commit(source, got[:5])
        await t.lag(source, lambda lag: lag.records in (None, _MANY - 5))
        await t.lag(source, lambda lag: lag.seconds is None or 0 <= lag.seconds < 60)
        await t.commit(source, got[5:])
        await t.lag(source, lambda lag: lag.records in (None, 0) and lag.seconds in (None, 0.0))
