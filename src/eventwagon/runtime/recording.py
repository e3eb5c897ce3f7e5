"""Writes the record of a wagon into the train's ledger, before the wagon is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..contracts.broker import Depth
from ..contracts.facts import Decision, Entry, WagonUnreconciled, WagonUnrecorded
from ..contracts.ledger import ChannelCounts, Ledger, WagonRecord
from ..contracts.manifest import Manifest, Wagon
from ..contracts.registry import Member, Registry
from ..errors import Unavailable
from ..event import wagon_name
from ..policy.reconcile import Handed, counts_wanted, may_still_reconcile, record_of
from .bulkhead import is_ours
from .runtime import Runtime, why_failed
from .train_state import TrainState

PATIENCE = 600.0
"""Seconds for which a wagon's removal waits for the ledger, or for figures that reconcile. A cap that is full of wagons
hurts more than a record that is not in its place."""
_JOURNAL = 5_000
"""Entries of the journal that are read for one record, the newest."""


class SeenCounts:
    """The counts that observers have seen in check-ins, of the wagons that stand. Those of processes that are gone
    stay."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, float], dict[str, dict[str, ChannelCounts]]] = {}
        """By wagon: by process, by channel."""
        self._revisions: dict[str, str] = {}
        self._news = asyncio.Event()

    def look(self, members: Sequence[Member], manifest: Manifest) -> None:
        """Remember what these hand in about the manifest's wagons, and forget the others."""
        standing = {(w.number, w.opened_at) for w in manifest.wagons}
        for gone in self._of.keys() - standing:
            del self._of[gone]
        for member in members:
            for counts in member.counts:
                if (counts.wagon, counts.opened_at) not in standing:
                    continue
                known = self._of.setdefault((counts.wagon, counts.opened_at), {}).setdefault(member.name, {})
                before = known.get(counts.channel)
                if before is None or before.settled <= counts.settled:
                    known[counts.channel] = counts
                    self._revisions[member.name] = member.revision
                    if before != counts:
                        self._news.set()
        named = {name for each in self._of.values() for name in each}
        for name in self._revisions.keys() - named:
            del self._revisions[name]

    def of(self, wagon: Wagon) -> list[Handed]:
        """What is known of this wagon."""
        found = self._of.get((wagon.number, wagon.opened_at), {})
        return [
            Handed(name.removesuffix("/counts"), self._revisions.get(name, ""), dict(counts))
            for name, counts in sorted(found.items())
        ]

    async def more(self) -> None:
        """Return when a look has found something new."""
        self._news.clear()
        await self._news.wait()


class Recorder:
    """Writes records, each once: what was written first stays."""

    def __init__(self, runtime: Runtime, state: TrainState, ledger: Ledger, counts: SeenCounts) -> None:
        self._runtime = runtime
        self._state = state
        self._ledger = ledger
        self._counts = counts
        self._since: dict[int, float] = {}
        """By wagon: when its record was first to be written (the loop's time)."""

    async def record(
        self, wagon: Wagon, *, left: int | None = 0, ended: str, at_once: bool = False
    ) -> tuple[Decision, ...]:
        """Write the wagon's record while its channels stand. Returns what has to be told with its removal. Idempotent:
        a record that was written stays as it is.

        `left` as for `record_of`. Raises Unavailable while the ledger does not answer or the figures do not reconcile,
        for at most `PATIENCE` from the first call on; then the wagon may go all the same. `at_once`: that time is over.
        """
        time = asyncio.get_running_loop().time
        standing = {w.number for w in self._state.snapshot.manifest.wagons}
        self._since = {n: at for n, at in self._since.items() if n in standing}
        late = at_once or time() - self._since.setdefault(wagon.number, time()) >= PATIENCE
        train, name = self._runtime.train, wagon_name(self._runtime.train, wagon.number)
        kept, away = None, ""
        try:
            kept = await self._written(wagon)
        except BaseException as e:
            if is_ours(e):
                raise
            away = self._why(f"reading the record of {name}", e)
        if kept is None:
            made = await self._made(wagon, left, ended, late=late)
            try:
                async with asyncio.timeout(self._runtime.settings.publish_timeout):
                    kept = await self._ledger.append(made)
            except BaseException as e:
                if is_ours(e):
                    raise
                away = self._why(f"recording {name}", e)
            if kept is None:
                if not late:
                    raise Unavailable(
                        f"the ledger can't take the record of {name}: {away}. The wagon stays until it can, for "
                        f"{PATIENCE / 60:.0f} minutes"
                    )
                return (WagonUnrecorded(train=train, number=wagon.number, record=made, because=away),)
        if kept.unreconciled:
            why, difference = kept.unreconciled, kept.difference
            return (WagonUnreconciled(train=train, number=wagon.number, difference=difference, because=why),)
        return ()

    def _why(self, step: str, error: BaseException) -> str:
        return why_failed(self._runtime, step, error)

    async def _written(self, wagon: Wagon) -> WagonRecord | None:
        async with asyncio.timeout(self._runtime.settings.publish_timeout):
            found = await self._ledger.read(self._runtime.train, wagon.number)
        return next((r for r in found if r.opened_at == wagon.opened_at), None)

    async def _made(self, wagon: Wagon, left: int | None, ended: str, *, late: bool) -> WagonRecord:
        """The record; with the last counts of workers if they come soon. Raises Unavailable if looking again may make
        it reconcile, unless it is late."""
        manifest = self._state.snapshot.manifest
        channels = [*manifest.working_channels(wagon), manifest.dead_letters(wagon)]
        depths, entries = dict.fromkeys(channels, Depth()), list[Entry]()
        try:
            async with asyncio.timeout(self._runtime.settings.publish_timeout):
                depths.update(zip(channels, await self._runtime.broker.depth(channels), strict=True))
                entries = [e async for e in self._state.registry.entries(self._runtime.train, last=_JOURNAL)]
        except BaseException as e:
            if is_ours(e) or not late:
                raise
            self._why(f"reading the figures of {wagon_name(manifest.train, wagon.number)}", e)

        def made() -> WagonRecord:
            return record_of(
                manifest,
                wagon,
                depths=depths,
                handed=self._counts.of(wagon),
                entries=entries,
                now=self._runtime.clock(),
                by=self._runtime.name,
                left=left,
                ended=ended,
            )

        record = made()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._runtime.settings.member_ttl):
                while counts_wanted(record) and not late:
                    await self._counts.more()
                    record = made()
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


async def recover(registry: Registry, ledger: Ledger, train: str) -> int:
    """Put the records into the ledger that it could not take when their wagons were removed, from the journal. Returns
    how many are there now. Idempotent. Raises Unavailable, StorageBroken."""
    count = 0
    async for entry in registry.entries(train):
        if isinstance(entry.fact, WagonUnrecorded):
            await ledger.append(entry.fact.record)
            count += 1
    return count
