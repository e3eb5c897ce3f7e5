"""The manifest as one process knows it, and the way to change it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

import msgspec

from ..backoff import Backoff
from ..cloudevents import rfc3339
from ..contracts.facts import Decision, Entry, Switched, SwitchSeen, sound_entry
from ..contracts.manifest import Manifest, TrainRemoval, sound
from ..contracts.registry import Registry, Snapshot
from ..errors import (
    Conflict,
    Defect,
    EventwagonError,
    PublishError,
    TrainPaused,
    TrainRemoved,
    Unavailable,
)
from ..policy.edits import Edit, as_of, kept, stepped_back, went_back
from .removed_trains import removal_since
from .runtime import Runtime
from .tasks import kept_up

_PAUSE = 0.5
"""Seconds before a registry that was unavailable is asked again."""
_MARGIN = 1_000_000
"""How far the version goes beyond the known one when a registry has stepped back: past every version that a process of
the lost time may know, so that none of them can take a new manifest for one of its own, or overwrite it."""
_IN_VAIN_MOST = 20
"""How often in a row the registry may refuse a change that was made on the manifest which it still gives. Honest ones
do so for a moment at most, where a read lags behind."""
_IN_VAIN_FIRST = 0.01
"""Seconds before the next attempt after the first of these; they double."""


class TrainState:
    """The client of the train's manifest: what this process knows of it, and how it changes it, one compare-and-swap at
    a time.

    Enter it before use, and leave it in the same task: while entered, it follows the manifest.
    """

    def __init__(self, runtime: Runtime, registry: Registry) -> None:
        self.registry = registry
        """Also keeps the members and the journal. The manifest is changed only through this object."""
        self._runtime = runtime
        self._train = runtime.train
        self._tell = runtime.tell
        self._snapshot = Snapshot(Manifest(train=runtime.train), 0)
        self._next_change = asyncio.Event()
        self._told: Manifest | None = None
        """The manifest of the last switch that this process has reported; None before it has read any."""
        self._lost: Snapshot | None = None
        """What was known before the registry stepped back, until the numbers used in it are stored."""
        self._switching = 0
        """Switches that are being stored here: they are reported with their own facts."""
        self._refused: Manifest | None = None
        """The manifest on which the last refused change had been made, until the registry is asked again."""
        self._in_vain = 0
        """How many changes in a row were refused though nobody had made another."""
        self._in_vain_pauses = Backoff(_IN_VAIN_FIRST, _PAUSE)
        self._stack = AsyncExitStack()
        self.on_change: list[Callable[[Snapshot], None]] = []
        """Called with each newer snapshot, on the event loop."""

    async def __aenter__(self) -> Self:
        """Read the manifest. Raises Unavailable, StorageBroken."""
        async with AsyncExitStack() as stack:
            self.see(await self.registry.read(self._train))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            following = kept_up(self._follow, "following the manifest", self._runtime.bulkhead)
            stack.callback(tasks.create_task(following).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def snapshot(self) -> Snapshot:
        """The newest manifest that this process has seen."""
        return self._snapshot

    @property
    def next_change(self) -> asyncio.Event:
        """Set when a newer manifest is seen than the one that is known now."""
        return self._next_change

    def see(self, snapshot: Snapshot) -> None:
        """Take notice of a manifest. One that is older than the known one is ignored: it may be late news."""
        if snapshot.version > self._snapshot.version:
            self._accept(snapshot)

    def _accept(self, snapshot: Snapshot) -> None:
        before, self._snapshot = self._snapshot, snapshot
        manifest = snapshot.manifest
        if manifest.epoch > before.manifest.epoch and before.version > manifest.stepped_back_to:
            self._lost = before
            self._told = manifest
            self._tell(went_back(before.manifest, manifest, before.version))
        self._runtime.publishing.see(manifest.declared)
        self._runtime.pulse.news()
        self._tell_switch()
        self._next_change.set()
        self._next_change = asyncio.Event()
        for listener in list(self.on_change):
            self._runtime.bulkhead.call("a listener to the manifest", partial(listener, snapshot))

    def _tell_switch(self) -> None:
        """Report a switch that another process has made, once."""
        if self._switching:
            return
        before, now = self._told, self._snapshot.manifest
        if before is not None and now.turns < before.turns:
            return  # what has just been stored here was not seen yet
        self._told = now
        if before is None or before.active is None or now.active is None or now.turns <= before.turns:
            return
        if before.active.number == now.active.number:
            return  # a registry that stepped back: turns that were lost are counted on
        closed = next((w for w in now.wagons if w.turn == now.active.turn - 1), None)
        self._tell(
            SwitchSeen(
                train=self._train,
                old=before.active.number,
                new=now.active.number,
                because=closed.closed_because if closed is not None else "",
                revision=now.active.revision,
                skipped=now.turns - before.turns - 1,
            )
        )

    async def refresh(self) -> Snapshot:
        """Read the newest manifest from the registry. If it is older than the one known before the call, the registry
        has stepped back, and the older one is taken over. Raises TrainRemoved if the known manifest said that the train
        is being removed, or it was removed since: then this is another train, or none. Raises Defect if the registry
        refuses change after change as made on an older manifest, and gives no newer one."""
        await self._read()
        while (lost := self._lost) is not None:
            await self._keep_numbers(lost)
        return self._snapshot

    async def _read(self) -> None:
        """What `refresh` does, but without storing what another process that took over may not know."""
        while True:
            known = self._snapshot
            found = await self.registry.read(self._train)
            await self._judge_refusal(found)
            if self._snapshot is not known or found.version >= known.version:
                self.see(found)
                return
            if known.manifest.removal is not None:
                raise train_removed(self._train, known.manifest.removal)
            removal = await removal_since(self.registry, self._train, as_of(known.manifest))
            if self._snapshot is not known:
                continue  # another task has taken notice meanwhile, perhaps of the removal
            if removal is not None:
                stops = known.manifest.stops + 1
                gone = msgspec.structs.replace(known.manifest, removal=removal, stops=stops)
                self._accept(Snapshot(gone, known.version))
                raise train_removed(self._train, removal)
            try:
                await self._take_over(known, found)
                return
            except Conflict:
                pass  # another was faster

    async def _take_over(self, known: Snapshot, found: Snapshot) -> None:
        """Store the older manifest anew, under a version that all processes accept as newer. Raises Conflict."""
        plan = stepped_back(known, found, self._runtime.clock())
        beyond = known.version + _MARGIN
        stored = await self._replace(sound(plan.manifest), self._entries(plan.facts), base=found, beyond=beyond)
        if self._snapshot is known:
            self._accept(stored)  # whatever its version: not every driver can go beyond the known one
        else:
            self.see(stored)

    async def _keep_numbers(self, lost: Snapshot) -> None:
        """Another process has found that the registry stepped back. It may not know all numbers that were used before,
        nor all pauses: store them."""
        await self._apply(lambda m: kept(lost.manifest, m), self._read)
        if self._lost is lost:  # it may have stepped back once more
            self._lost = None

    async def _replace(
        self, manifest: Manifest, entries: Sequence[Entry], *, base: Snapshot, beyond: int = 0
    ) -> Snapshot:
        """The registry's compare-and-swap."""
        keep = self._runtime.settings.keep
        try:
            stored = await self.registry.replace(
                self._train, manifest, expect=base.version, entries=entries, keep=keep, beyond=beyond
            )
        except Conflict:
            self._refused = base.manifest
            raise
        self._refused, self._in_vain = None, 0
        return stored

    async def _judge_refusal(self, found: Snapshot) -> None:
        """Conflicts are tried again without end, since whoever was faster has made a change. Where nobody has, that
        would go on for ever. Raises Defect."""
        refused, self._refused = self._refused, None
        if refused is None:
            return
        if found.manifest != refused:
            self._in_vain = 0
            return
        self._in_vain += 1
        if self._in_vain == 1:
            self._in_vain_pauses.reset()
        if self._in_vain >= _IN_VAIN_MOST:
            raise Defect(
                f"train {self._train}: the registry has refused {self._in_vain} changes in a row as made on an older "
                f"manifest, and still gives the one that they were made on (version {found.version}): the "
                f"compare-and-swap of its driver ({type(self.registry).__name__}) is broken"
            )
        await asyncio.sleep(self._in_vain_pauses.next())

    async def until(self, true: Callable[[Manifest], bool]) -> Manifest:
        """The first manifest seen, from now on, for which it is true."""
        changed = asyncio.Event()

        def look(_: Snapshot) -> None:
            changed.set()

        self.on_change.append(look)
        try:
            while not true(self._snapshot.manifest):
                changed.clear()
                await changed.wait()
            return self._snapshot.manifest
        finally:
            self.on_change.remove(look)

    async def _follow(self) -> None:
        while True:
            try:
                async with self.registry.watch(self._train) as snapshots:
                    async for snapshot in snapshots:
                        self._runtime.reach.answered()
                        self.see(snapshot)
                        if self._lost is not None or snapshot.version < self._snapshot.version:
                            await self.refresh()
            except Unavailable as e:  # what is known stays valid until the broker refuses
                self._runtime.reach.failed(str(e))
            except EventwagonError:
                pass
            await asyncio.sleep(_PAUSE)

    async def store(self, edit: Edit, *, base: Snapshot) -> Snapshot:
        """Make the edit's manifest the train's, with the facts that explain it, in one compare-and-swap.

        `base` is the snapshot that the edit was made on. Raises Conflict if the train has moved on since, and Defect if
        the result could not be read again or breaks a rule; then nothing has changed.
        """
        if edit.manifest is base.manifest:
            return base
        facts, end_traces = self._traced(edit)
        manifest, entries = sound(edit.manifest), self._entries(facts)
        if manifest.train != self._train:
            raise Defect(f"the manifest of train {manifest.train} was to be stored for train {self._train}")
        switches = any(isinstance(fact, Switched) for fact in edit.facts)
        self._switching += switches
        try:
            stored = await self._replace(manifest, entries, base=base)
            if switches:
                self._told = manifest
        finally:
            self._switching -= switches
            self._tell_switch()
        for end in end_traces:
            end()
        self.see(stored)
        for fact in facts:
            self._tell(fact)
        return self._snapshot

    def _traced(self, edit: Edit) -> tuple[Sequence[Decision], Sequence[Callable[[], None]]]:
        """The edit's facts, with the ids of the traces of its switches, and what ends these."""
        traces = self._runtime.switch_traces
        if traces is None:
            return edit.facts, ()
        facts: list[Decision] = []
        ends: list[Callable[[], None]] = []
        for fact in edit.facts:
            wagon = edit.manifest.wagon(fact.new) if isinstance(fact, Switched) else None
            if isinstance(fact, Switched) and wagon is not None:
                fact, end = traces(fact, wagon)
                ends.append(end)
            facts.append(fact)
        return facts, ends

    def _entries(self, facts: Sequence[Decision]) -> list[Entry]:
        now = self._runtime.clock()
        return [sound_entry(Entry(now, self._runtime.name, fact)) for fact in facts]

    async def apply(self, edit: Callable[[Manifest], Edit]) -> Snapshot:
        """Apply an edit to the newest manifest, again after each conflict, until it is stored. Raises what `refresh`
        raises."""
        return await self._apply(edit, self.refresh)

    async def _apply(self, edit: Callable[[Manifest], Edit], again: Callable[[], Awaitable[object]]) -> Snapshot:
        while True:
            try:
                return await self.store(edit(self._snapshot.manifest), base=self._snapshot)
            except Conflict:
                await again()

    async def note(self, *facts: Decision) -> None:
        """Write facts to the journal that change nothing in the manifest."""
        await self.registry.append(self._train, self._entries(facts), keep=self._runtime.settings.keep)
        for fact in facts:
            self._tell(fact)


def no_publishing(manifest: Manifest) -> PublishError | None:
    """The error that publishers get while the train is being removed, or is paused with its publishing; else None."""
    if manifest.removal is not None:
        return train_removed(manifest.train, manifest.removal)
    pause = manifest.paused
    if pause is not None and pause.publishing:
        by = f" by {pause.by}" if pause.by else ""
        return TrainPaused(f"train {manifest.train} is paused, and so is publishing{by}: {pause.why}")
    return None


def train_removed(train: str, removal: TrainRemoval) -> TrainRemoved:
    """The error while a train is being removed, and after that for processes that knew it."""
    by = f" by {removal.by}" if removal.by else ""
    return TrainRemoved(
        f"train {train} is removed{by}: {removal.why} (at {rfc3339(removal.at)[:19]}Z). If it stands still, "
        f"`eventwagon remove {train}` finishes that; then a new connection founds it anew: start this program again"
    )
