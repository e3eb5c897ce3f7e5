"""Writes the record of a wagon into the train's ledger, before the wagon is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from ..contracts.broker import Depth
from ..contracts.facts import Decision, Entry, WagonUnreconciled, WagonUnrecorded
from ..contracts.ledger import Ledger, WagonRecord
from ..contracts.manifest import Wagon
from ..contracts.registry import Registry
from ..errors import Unavailable
from ..event import Channel, wagon_name
from ..policy.reconcile import JOURNAL, Handed, are_complete, may_still_reconcile, record_of, without_sketches
from ..policy.recorded import ELSEWHERE
from .bulkhead import is_ours
from .handing_in import drop_handed_in, handed_in
from .in_time import in_time
from .runtime import Runtime, why_failed
from .train_state import TrainState

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds for which a wagon's removal waits for the ledger, or for figures that reconcile. A cap that is full of wagons
hurts more than a record that is not in its place."""
_ATTEMPTS = 3
"""Failures to read a wagon's figures, or the journal, after which it may be recorded without them."""


class _Elsewhere:
    """Stands for the ledger in a process that has none, of a train that has one: it never answers. So the wagon waits
    for an observer with the ledger, and its record goes into the journal if none comes."""

    async def append(self, record: WagonRecord) -> WagonRecord:
        raise Unavailable(ELSEWHERE)

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        raise Unavailable(ELSEWHERE)


class Recorder:
    """Writes records, each once: what was written first stays."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._state = state
        self._ledger = runtime.ledger or _Elsewhere()
        self._since: dict[int, float] = {}
        """By wagon: when its record was first to be written (the loop's time)."""
        self._failures: dict[int, int] = {}
        """By wagon: how often its figures could not be read."""
        self._unread: dict[int, int] = {}
        """By wagon: how often the journal could not be read for it."""
        self._not_in_journal: set[int] = set()
        """Wagons whose record was looked for in the journal."""
        self._owes = True
        """The journal may have records that the ledger could not take."""

    @property
    def is_wanted(self) -> bool:
        """Whether the train has a ledger, as this process or the manifest knows."""
        return self._runtime.ledger is not None or self._state.snapshot.manifest.recorded

    async def record(
        self,
        wagon: Wagon,
        *,
        left: int | None = 0,
        ended: str,
        lost: Sequence[Channel] = (),
        at_once: bool = False,
        force: bool = False,
    ) -> tuple[Decision, ...]:
        """Write the wagon's record while its channels stand. It is durable when this returns: in the ledger, or, if
        that can't take it in time, in the journal. Returns what has to be told with the wagon's removal. Idempotent: a
        record that was written stays as it is.

        `left` as for `record_of`; `lost`: channels of the wagon that the manifest names no more. Raises Unavailable
        while the ledger does not answer or the figures do not reconcile, for at most `PATIENCE` from the first call on;
        then the wagon may go all the same. `at_once`, for a train that is removed: figures are not waited for, and only
        with `force` it may go without its records.
        """
        late = at_once or self._is_late(wagon)
        name = wagon_name(self._runtime.train, wagon.number)
        kept, away = await self._try(f"reading the record of {name}", partial(self._written, wagon))
        if kept is None:
            if away and not late and wagon.number in self._not_in_journal:
                raise self._waits(name, away, at_once=at_once)
            entries = await self._entries(wagon, late=late, force=force)
            made = earlier = _unrecorded(entries or (), wagon)
            if made is None:
                self._not_in_journal.add(wagon.number)
                if away and not late:
                    raise self._waits(name, away, at_once=at_once)
                made = await self._made(wagon, left, ended, lost, entries, late=late, lenient=force or not at_once)
            if not away:
                kept, away = await self._try(f"recording {name}", partial(self._ledger.append, made))
            if kept is None:
                self._owes = True
                if earlier is None:
                    if not late or (at_once and not force):
                        raise self._waits(name, away, at_once=at_once)
                    record = without_sketches(made)
                    fact = WagonUnrecorded(train=made.train, number=made.number, record=record, because=away)
                    await self._state.note(fact)
                return ()
            if self._owes:
                await self._try("moving records from the journal to the ledger", self._recover)
        if kept.unreconciled:
            why, difference = kept.unreconciled, kept.difference
            return (WagonUnreconciled(train=kept.train, number=kept.number, difference=difference, because=why),)
        return ()

    def _is_late(self, wagon: Wagon) -> bool:
        """Whether its record has been due for too long: by this process's clock, or, after many observers that each
        began anew, by the time since it was drained. That may have passed while nobody tried, so that this process
        tries for a while first."""
        now, manifest = asyncio.get_running_loop().time(), self._state.snapshot.manifest
        self._since = {n: at for n, at in self._since.items() if manifest.wagon(n) is not None}
        self._not_in_journal &= self._since.keys()
        self._failures = {n: count for n, count in self._failures.items() if n in self._since}
        self._unread = {n: count for n, count in self._unread.items() if n in self._since}
        waited = now - self._since.setdefault(wagon.number, now)
        drained = wagon.drained_at if wagon.drained_at is not None else self._runtime.clock()
        return waited >= PATIENCE or (waited >= PATIENCE / 10 and self._runtime.clock() - drained >= 3 * PATIENCE)

    def _waits(self, name: str, away: str, *, at_once: bool) -> Unavailable:
        until = "" if at_once else f". The wagon stays until it can, for {PATIENCE / 60:.0f} minutes"
        return Unavailable(f"the ledger can't take the record of {name}: {away}{until}")

    async def _in_time(self, call: Callable[[], Awaitable[T]], step: str) -> T:
        return await in_time(call, self._runtime.settings.publish_timeout, step)

    async def _try(self, step: str, call: Callable[[], Awaitable[T]]) -> tuple[T | None, str]:
        """What the call returns, or why it failed."""
        try:
            return await self._in_time(call, step), ""
        except BaseException as e:
            if is_ours(e):
                raise
            return None, why_failed(self._runtime, step, e)

    async def _written(self, wagon: Wagon) -> WagonRecord | None:
        found = await self._ledger.read(self._runtime.train, wagon.number)
        return next((r for r in found if r.opened_at == wagon.opened_at), None)

    async def _recover(self) -> None:
        if self._runtime.ledger is not None:
            await recover(self._state.registry, self._runtime.ledger, self._runtime.train)
        self._owes = False

    async def _entries(self, wagon: Wagon, *, late: bool, force: bool) -> list[Entry] | None:
        """The newest entries of the journal. If they can't be read: None with `force`, or if it is late and they could
        not be read several times, since they may have the wagon's record; else raises Unavailable."""
        registry, train = self._state.registry, self._runtime.train

        async def read() -> list[Entry]:
            return [e async for e in registry.entries(train, last=JOURNAL)]

        try:
            return await self._in_time(read, f"reading the journal of {train}")
        except BaseException as e:
            failures = self._unread[wagon.number] = self._unread.get(wagon.number, 0) + 1
            if is_ours(e) or not late or (failures < _ATTEMPTS and not force):
                raise
            why_failed(self._runtime, "reading the journal", e)
            return None

    async def _depths(self, wagon: Wagon, channels: Sequence[Channel], *, lenient: bool) -> dict[Channel, Depth]:
        """The figures of the channels. They are unknown only if `lenient`, and after some attempts."""
        step = f"reading the figures of {wagon_name(self._runtime.train, wagon.number)}"
        try:
            depths = await self._in_time(partial(self._runtime.broker.depth, channels), step)
            return dict(zip(channels, depths, strict=True))
        except BaseException as e:
            failures = self._failures[wagon.number] = self._failures.get(wagon.number, 0) + 1
            if is_ours(e) or not lenient or failures < _ATTEMPTS:
                raise
            why_failed(self._runtime, step, e)
            return dict.fromkeys(channels, Depth())

    async def _made(
        self,
        wagon: Wagon,
        left: int | None,
        ended: str,
        lost: Sequence[Channel],
        entries: Sequence[Entry] | None,
        *,
        late: bool,
        lenient: bool,
    ) -> WagonRecord:
        """The record; with the last counts of workers if they come soon. Raises Unavailable if looking again may make
        it reconcile, unless it is late."""
        manifest = self._state.snapshot.manifest
        channels = [*manifest.working_channels(wagon), *lost, manifest.dead_letters(wagon)]
        depths = await self._depths(wagon, channels, lenient=late and lenient)
        record = record_of(
            manifest,
            wagon,
            depths=depths,
            handed=await self._handed(wagon, depths, late=late),
            entries=entries,
            now=self._runtime.clock(),
            by=self._runtime.name,
            left=left,
            ended=ended,
        )
        if record.unreconciled and not late:
            gone = [c for c in channels if depths[c] == Depth()]
            if gone:
                there = set(await self._runtime.broker.channels(self._runtime.train))
                gone = [c for c in gone if c not in there]
            if may_still_reconcile(record, gone):
                raise Unavailable(
                    f"the figures of {wagon_name(manifest.train, wagon.number)} do not reconcile: "
                    f"{record.unreconciled}. The wagon stays until they do, for {PATIENCE / 60:.0f} minutes"
                )
        return record

    async def _handed(self, wagon: Wagon, depths: Mapping[Channel, Depth], *, late: bool) -> list[Handed]:
        """What workers have handed in: all, if the last of it comes within `member_ttl`."""
        registry, train, ttl = self._state.registry, self._runtime.train, self._runtime.settings.member_ttl
        step = f"reading the counts of workers of {wagon_name(train, wagon.number)}"
        loop = asyncio.get_running_loop()
        until = loop.time() + ttl
        while True:
            handed: list[Handed] = []
            try:
                handed = await self._in_time(partial(handed_in, registry, train, wagon), step)
            except BaseException as e:
                if is_ours(e) or not late:
                    raise
                why_failed(self._runtime, step, e)
            if late or loop.time() >= until or are_complete(handed, depths):
                return handed
            await asyncio.sleep(ttl / 20)

    async def forget(self, wagon: Wagon) -> None:
        """Delete what workers have handed in of this wagon. Idempotent. Raises Unavailable, StorageBroken."""
        await drop_handed_in(self._state.registry, self._state.snapshot.manifest, wagon.number)


def _unrecorded(entries: Sequence[Entry], wagon: Wagon) -> WagonRecord | None:
    """The wagon's record, if an earlier attempt has put it into the journal: some channels may be gone by now."""
    for entry in reversed(entries):
        if isinstance(fact := entry.fact, WagonUnrecorded):
            record = fact.record
            if (record.number, record.opened_at) == (wagon.number, wagon.opened_at):
                return record
    return None


async def recover(registry: Registry, ledger: Ledger, train: str) -> int:
    """Put the records into the ledger that it could not take when their wagons were removed, from the journal. Returns
    how many are there now. Idempotent. Raises Unavailable, StorageBroken."""
    count = 0
    async for entry in registry.entries(train):
        if isinstance(entry.fact, WagonUnrecorded):
            await ledger.append(entry.fact.record)
            count += 1
    return count
