"""The switching half of the switcher: what moves the manifest, one compare-and-swap at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from ..cloudevents import rfc3339
from ..contracts.broker import Broker
from ..contracts.facts import BoundLifted, Decision, Entry, Listener, Switched, SwitchSeen, sound_entry
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Removal, changed, sound
from ..contracts.registry import Registry, Snapshot
from ..errors import Conflict, Defect, EventwagonError, TrainRemoved
from ..policy.edits import Edit, Ensure, Lift, as_of, bootstrap, created, kept, numbered_past, stepped_back, went_back
from ..settings import Settings
from .bulkhead import Bulkhead
from .removed_trains import removal_since

_PAUSE = 0.5
"""Seconds before a registry that was away is asked again."""
_MARGIN = 1_000_000
"""By how much the revision goes beyond the known one when a registry has stepped back: past all that any process of the
lost time may know, so that none of them can take a new manifest for one of its own, or overwrite it."""


class Switching:
    """What one process knows of a train's manifest, and how it changes it.

    `clock` gives wall-clock seconds, `by` is this process's name in the journal, `channels` the inner channels that
    this program declares, `tell` hears of every fact. A program that does not declare (it has no handlers) leaves that
    to one that does. `revision`: which code this program is, where it says so. `bulkhead` takes what its long tasks
    should not have met.
    """

    def __init__(
        self,
        train: str,
        settings: Settings,
        channels: tuple[str, ...],
        broker: Broker,
        registry: Registry,
        *,
        clock: Callable[[], float],
        by: str,
        tell: Listener,
        declares: bool = True,
        revision: str = "",
        bulkhead: Bulkhead | None = None,
    ) -> None:
        self._train = train
        self._settings = settings
        self._channels = channels
        self._broker = broker
        self._registry = registry
        self._clock = clock
        self._by = by
        self._declares = declares
        self._revision = revision
        self._tell = tell
        self._bulkhead = bulkhead or Bulkhead(train)
        self._snapshot = Snapshot(Manifest(train=train), 0)
        self._changed = asyncio.Event()
        self._told: Manifest | None = None
        """The manifest of the last switch that this process has told; None before it has read any."""
        self._lost: Snapshot | None = None
        """What was known before the registry stepped back, until the numbers used in it are written down."""
        self._switching = 0
        """Switches that are being stored here: what comes of them is told with their facts."""
        self.on_change: list[Callable[[Snapshot], None]] = []
        """Called with each newer snapshot, on the event loop."""

    @property
    def snapshot(self) -> Snapshot:
        """The newest manifest that this process has seen."""
        return self._snapshot

    def see(self, snapshot: Snapshot) -> None:
        """Take notice of a manifest; an older one than known is ignored: that may be late news."""
        if snapshot.revision > self._snapshot.revision:
            self._accept(snapshot)

    def _accept(self, snapshot: Snapshot) -> None:
        before, self._snapshot = self._snapshot, snapshot
        manifest = snapshot.manifest
        if manifest.epoch > before.manifest.epoch and before.revision > manifest.stepped_back_to:
            self._lost = before
            self._told = manifest
            self._tell(went_back(before.manifest, manifest, before.revision))
        self._tell_switch()
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in list(self.on_change):
            self._bulkhead.call("a listener to the manifest", partial(listener, snapshot))

    def _tell_switch(self) -> None:
        """Tell a switch that another process has made, once."""
        if self._switching:
            return
        before, now = self._told, self._snapshot.manifest
        if before is not None and now.turns < before.turns:
            return  # what has just been stored here is not seen yet
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
        """Read the newest manifest from the registry. Where it is older than what was known before the registry was
        asked, the registry has stepped back: then that one is taken over. Raises TrainRemoved where the known one said
        that the train is being removed, or it was removed since: then this is another train, or none."""
        known = self._snapshot
        found = await self._registry.read(self._train)
        if self._snapshot is known and found.revision < known.revision:
            if known.manifest.removal is not None:
                raise train_removed(self._train, known.manifest.removal)
            removal = await removal_since(self._registry, self._train, as_of(known.manifest))
            if removal is not None and self._snapshot is known:
                stops = known.manifest.stops + 1
                gone = msgspec.structs.replace(known.manifest, removal=removal, stops=stops)
                self._accept(Snapshot(gone, known.revision))
                raise train_removed(self._train, removal)
            await self._take_over(known, found)
        else:
            self.see(found)
        if self._lost is not None:
            await self._keep_numbers(self._lost)
        return self._snapshot

    async def _take_over(self, known: Snapshot, found: Snapshot) -> None:
        """Store the older manifest anew, under a revision that all processes take for newer."""
        plan = stepped_back(known, found, self._clock())
        try:
            stored = await self._registry.replace(
                self._train,
                sound(plan.manifest),
                expect=found.revision,
                entries=self._entries(plan.facts),
                keep=self._settings.keep,
                beyond=known.revision + _MARGIN,
            )
        except Conflict:
            await self.refresh()  # another was faster
            return
        if self._snapshot is known:
            self._accept(stored)  # whatever its revision: not every driver can go beyond the known one
        else:
            self.see(stored)

    async def _keep_numbers(self, lost: Snapshot) -> None:
        """Another process has found that the registry stepped back, and may not know of all numbers used before, nor of
        all that was paused."""
        await self.settle(lambda m: kept(lost.manifest, m))
        if self._lost is lost:  # it may have stepped back once more
            self._lost = None

    async def until(self, true: Callable[[Manifest], bool]) -> Manifest:
        """The first manifest seen, from now on, of which it is true."""
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
                async with self._registry.watch(self._train) as snapshots:
                    async for snapshot in snapshots:
                        self.see(snapshot)
                        if self._lost is not None or snapshot.revision < self._snapshot.revision:
                            await self.refresh()
            except EventwagonError:
                pass  # away for now; what is known stays good until the broker refuses
            await asyncio.sleep(_PAUSE)

    async def store(self, edit: Edit, *, base: Snapshot) -> Snapshot:
        """Make the edit's manifest the train's, with the facts that explain it, in one compare-and-swap.

        `base` is what the edit was made on. Raises Conflict when the train has moved on since, and Defect where what is
        to be stored could not be read again, or makes no sense; then nothing has changed.
        """
        if edit.manifest is base.manifest:
            return base
        manifest, entries = sound(edit.manifest), self._entries(edit.facts)
        if manifest.train != self._train:
            raise Defect(f"the manifest of train {manifest.train} was to be stored for train {self._train}")
        switches = any(isinstance(fact, Switched) for fact in edit.facts)
        self._switching += switches
        try:
            stored = await self._registry.replace(
                self._train, manifest, expect=base.revision, entries=entries, keep=self._settings.keep
            )
            if switches:
                self._told = manifest
        finally:
            self._switching -= switches
            self._tell_switch()
        self.see(stored)
        for fact in edit.facts:
            self._tell(fact)
        return self._snapshot

    def _entries(self, facts: Sequence[Decision]) -> list[Entry]:
        now = self._clock()
        return [sound_entry(Entry(now, self._by, fact)) for fact in facts]

    async def settle(self, edit: Callable[[Manifest], Edit]) -> Snapshot:
        """Apply an edit that says what has happened, again on the newest manifest as long as others come in between."""
        while True:
            try:
                return await self.store(edit(self._snapshot.manifest), base=self._snapshot)
            except Conflict:
                await self.refresh()

    async def note(self, *facts: Decision) -> None:
        """Write facts to the journal that change nothing in the manifest."""
        await self._registry.append(self._train, self._entries(facts), keep=self._settings.keep)
        for fact in facts:
            self._tell(fact)

    async def found(self) -> None:
        """See to it that the train has an active wagon: make the first, or finish what a dead founder began.

        Idempotent; any number of processes may do it at once. Raises BrokerError, RegistryError, TrainRemoved.
        """
        while True:
            base = self._snapshot
            if base.manifest.removal is not None:
                raise train_removed(self._train, base.manifest.removal)
            if base.manifest.active is not None:
                return
            start = Edit(base.manifest)
            if not base.manifest.in_state(State.PROVISIONING, State.READY):
                # one is opened; the train may have been there before, and its manifest lost or stepped back
                start = numbered_past(base.manifest, await self._broker.channels(self._train))
            bounds = self._broker.capabilities.bounds
            channels = self._channels if self._declares else None
            step = bootstrap(
                self._settings, start.manifest, channels, self._clock(), bounds=bounds, revision=self._revision
            )
            step = msgspec.structs.replace(step, facts=(*start.facts, *step.facts))
            try:
                await self.store(step, base=base)
                for task in step.tasks:
                    if isinstance(task, Ensure):
                        await self.create(task.number)
            except Conflict:
                await self.refresh()

    async def create(self, number: int) -> None:
        """Make the wagon's channels and write down that they take writes. Idempotent. Raises BrokerError."""
        manifest = self._snapshot.manifest
        wagon = manifest.wagon(number)
        if wagon is None or wagon.created_at is not None:
            return
        for channel in (*manifest.working_channels(wagon)[1:], manifest.dead_letters(wagon)):
            await self._broker.create(channel)
        await self._broker.create(manifest.ingress(wagon), capacity=wagon.capacity)
        await self.settle(lambda m: Edit(created(m, number, self._clock())))

    async def lift(self, task: Lift) -> None:
        """Take the bound off the wagon's ingress. Idempotent. Raises BrokerError."""
        manifest = self._snapshot.manifest
        wagon = manifest.wagon(task.number)
        if wagon is None or wagon.state is not State.ACTIVE:
            return
        await self._broker.unbound(manifest.ingress(wagon))

        def edit(m: Manifest) -> Edit:
            w = m.wagon(task.number)
            if w is None or w.capacity is None:
                return Edit(m)
            fact = BoundLifted(train=self._train, number=task.number, because=task.because)
            return Edit(changed(m, task.number, capacity=None), (fact,))

        await self.settle(edit)


def train_removed(train: str, removal: Removal) -> TrainRemoved:
    """What is told while a train is being removed, and after it by processes that knew of that."""
    by = f" by {removal.by}" if removal.by else ""
    return TrainRemoved(
        f"train {train} is removed{by}: {removal.why} (at {rfc3339(removal.at)[:19]}Z). If it stands still, `eventwagon "
        f"remove {train}` finishes that; then a new connection founds it anew: start this program again"
    )
