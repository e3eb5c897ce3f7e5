"""The suite of sources on one that keeps the contract, and on some that each break a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from eventwagon.bridge import Lag, Record
from eventwagon.testing.conformance import Check, CheckFailed, SourceHarness, source_checks
from tests.bridge.memory import MemorySource, memory_flow

CHECKS = {str(check): check for check in source_checks(patience=1.0)}


@pytest.mark.parametrize("check", CHECKS.values(), ids=str)
def test_a_source_that_keeps_the_contract_passes(check: Check[SourceHarness]) -> None:
    asyncio.run(check.run(memory_flow))


class CommitsNothing(MemorySource):
    async def commit(self, records: Sequence[Record]) -> None:
        pass


class CommitsAll(MemorySource):
    """As one that commits up to where it has read."""

    async def commit(self, records: Sequence[Record]) -> None:
        await super().commit([each for each in self.flow.records if each.position in self.flow.held])


class HoldsNothing(MemorySource):
    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        found = await super().read(limit, wait)
        self.flow.held.clear()
        return found


class KeepsWhatItHeld(MemorySource):
    async def __aexit__(self, *exc: object) -> None:
        pass


class PeekTakes(MemorySource):
    async def peek(self, limit: int) -> Sequence[Record]:
        return await self.read(limit, 0.0) or []


class ReadsMore(MemorySource):
    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        return await super().read(limit + 1, wait)


class NamesAllAlike(MemorySource):
    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        return [msgspec.structs.replace(each, position="here") for each in await super().read(limit, wait) or []]


class SaysMilliseconds(MemorySource):
    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        return [msgspec.structs.replace(each, time=7.5) for each in await super().read(limit, wait) or []]


class Ends(MemorySource):
    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        return await super().read(limit, wait) or None


class CountsTheHeldAsDone(MemorySource):
    async def lag(self) -> Lag:
        return Lag(records=len(self.flow.free()))


@pytest.mark.parametrize(
    ("kind", "caught_by"),
    [
        (CommitsNothing, "what_is_committed_never_comes_again"),
        (CommitsAll, "what_is_committed_never_comes_again"),
        (HoldsNothing, "what_is_read_is_held"),
        (HoldsNothing, "a_read_takes_no_more_than_its_limit"),
        (KeepsWhatItHeld, "what_is_not_committed_comes_again"),
        (PeekTakes, "a_peek_takes_nothing"),
        (ReadsMore, "a_read_takes_no_more_than_its_limit"),
        (NamesAllAlike, "records_come_as_they_were_written"),
        (SaysMilliseconds, "records_come_as_they_were_written"),
        (Ends, "an_empty_source_gives_nothing"),
        (CountsTheHeldAsDone, "the_lag_is_what_is_not_committed"),
    ],
)
def test_a_source_that_breaks_it_is_caught(kind: type[MemorySource], caught_by: str) -> None:
    with pytest.raises(CheckFailed):
        asyncio.run(CHECKS[caught_by].run(lambda: memory_flow(kind)))
