"""The end of a wagon: its workers, its dead letters, its record, its channels. Every part may be repeated (I7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ..contracts.broker import Depth, outstanding
from ..contracts.facts import Decision, EventsRescued, OrphanRemoved
from ..contracts.lifecycle import LIVE, State
from ..contracts.manifest import Wagon
from ..display.text import said
from ..errors import ChannelGone, Conflict, EventRefused, EventwagonError, PublishUncertain, Unavailable
from ..event import ARCHIVE, DEAD, UNDO, Channel, Event, wagon_name
from ..policy.edits import (
    RemoveLeftover,
    found_late,
    letters_lost,
    letters_moved,
    removal_begun,
    removal_taken_over,
    removed,
)
from ..policy.losses import LETTERS_REMOVED, Losses, of_letters
from .archiving import Archiver
from .bulkhead import shown
from .dead_letters import died, smaller
from .halving import by_halves
from .in_time import in_time
from .probe import PROBE
from .publish_queue import fitting
from .recording import Recorder
from .runtime import Runtime
from .switcher import Switcher
from .train_state import TrainState

T = TypeVar("T")

_logger = logging.getLogger("eventwagon")
_MOVE_BATCH = 500
_DEFECTS = 3
"""After this many failures of a driver in a row the event itself counts as the cause."""
_STANDS_STILL = 300.0
"""Seconds beyond `grace` after which the removal of another process, which is alive, is taken over."""
_ARCHIVES = 3600.0
"""Seconds more that it may take until the wagon is archived: each that takes over uploads everything anew."""


class WagonRemover:
    """Removes wagons that are drained or failed, and leftovers of those that are gone."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        switcher: Switcher,
        letters: Losses,
        recorder: Recorder,
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._settings = runtime.settings
        self._broker = runtime.broker
        self._orchestrator = runtime.orchestrator
        self._state = state
        self._switcher = switcher
        self._archiver = Archiver(runtime, state)
        self._letters = letters
        """What its observer knows of the dead letters."""
        self._recorder = recorder
        """Writes the wagons' records, if the train has a ledger."""
        self._moved: dict[Channel, set[tuple[str, int]]] = {}
        """By channel: what an unfinished removal has moved already, so that the next attempt does not move it again."""
        self._others: dict[int, tuple[str, float]] = {}
        """By number: another process that removes the wagon, and since when this one knows (the loop's time)."""

    def is_anothers(self, wagon: Wagon, alive: Collection[str]) -> bool:
        """Whether the wagon's removal is to be left to another process. `alive`: the members of the train at this look.
        A process that has not checked in removes nothing: the others would take it for gone."""
        by, now = wagon.remover, asyncio.get_running_loop().time()
        standing = {w.number for w in self._state.snapshot.manifest.wagons}
        self._others = {n: known for n, known in self._others.items() if n in standing}
        if by in ("", self._runtime.name) or by not in alive:
            self._others.pop(wagon.number, None)
            return self._runtime.name not in alive
        for channel in [c for c in self._moved if c.wagon == wagon.number]:
            del self._moved[channel]
        known = self._others.get(wagon.number)
        if known is None or known[0] != by:
            known = self._others[wagon.number] = by, now
        uploads = bool(wagon.archive) and wagon.archived is None
        return now - known[1] < self._settings.grace + _STANDS_STILL + (_ARCHIVES if uploads else 0.0)

    async def remove(self, wagon: Wagon) -> None:
        """Remove a wagon that is drained, failed, or being removed. Idempotent. The parts, in this order, each
        repeatable: a last look, after which there is no way back; its workers, its archive, its dead letters, late
        events, its record in the ledger, its channels, its place in the manifest.

        The manifest names the process that removes it, since two that move dead letters at once would store them twice.
        Raises Conflict if another has taken it over.

        The last look is stored before anything is removed. An observer that was paused meanwhile either finds the wagon
        draining again, and leaves it alone, or can be as late as it likes: nothing can happen to a wagon in removal
        except its end.
        """
        me, manifest = self._runtime.name, self._state.snapshot.manifest
        if wagon.state is State.DRAINED:
            standing = await self._standing(wagon)
            # channels that it lost because nobody served them still exist
            working = manifest.working_channels(wagon)
            lost = [c for c in standing if c not in working and c.name not in (DEAD, PROBE, ARCHIVE)]
            if late := await self._late([*working, *lost], standing):
                names = tuple(c.name for c in lost)
                await self._state.apply(lambda m: found_late(m, wagon.number, late, names))
                return
            manifest = (await self._state.apply(lambda m: removal_begun(m, wagon, me))).manifest
        elif wagon.remover != me:
            manifest = (await self._state.apply(lambda m: removal_taken_over(m, wagon, me))).manifest
        now = manifest.wagon(wagon.number)
        if now is None or now.remover != me:
            return
        await self._end_workers(wagon.unit)
        await self._archiver.archive(now)
        (letters,) = await self._depths([manifest.dead_letters(wagon)])
        dead = await self._move_dead_letters(manifest.dead_letters(wagon))
        await self._tell_lost_letters(now, letters, dead)
        # if that channel is gone, it was deleted here and they were counted before, unless this removal begins only now
        uncounted = wagon.state in (State.DRAINED, State.FAILED) and wagon.created_at is not None
        if dead is not None or (uncounted and not wagon.letters_kept):
            known = None if letters.exhausted else dead  # the train's own has taken others
            await self._state.apply(lambda m: letters_moved(m, wagon.number, me, known))
        named = manifest.working_channels(wagon)
        lost = [c for c in await self._standing(wagon) if c not in named and c.name not in (DEAD, ARCHIVE)]
        if wagon.state is State.FAILED or self._state.snapshot.manifest.epoch:
            # in a time that the registry forgot it may have been in use
            told = await self._record(now, None, lost)
            await self._clear((*named, *lost))
        else:
            # sealed, and the last look found everything empty: since then only a publisher that the broker could not
            # refuse can have come, or, to a channel that nobody serves any more, a worker that was taken for dead: it
            # emitted what the process that handled the event in its place did not
            left = await self._rescue(manifest.ingress(wagon))
            for channel in lost:
                await self._broker.seal(channel)
                await self._rescue(channel)
            told = await self._record(now, left, lost)
            for channel in (*named, *lost):
                await self._delete(channel)
        if now.archive:
            await self._delete(manifest.rows(wagon))
        await self._delete(manifest.dead_letters(wagon))
        if self._recorder.is_wanted:
            await self._recorder.forget(wagon)
        await self._state.apply(lambda m: removed(m, wagon.number, me, told))

    async def _record(self, wagon: Wagon, left: int | None, lost: Sequence[Channel]) -> Sequence[Decision]:
        """Write the wagon's record; returns what is to be told with its removal. Raises Unavailable."""
        if not self._recorder.is_wanted:
            return ()
        now = self._state.snapshot.manifest.wagon(wagon.number) or wagon
        ended = "failed" if wagon.state is State.FAILED else "drained"
        return await self._recorder.record(now, left=left, ended=ended, lost=lost)

    async def _end_workers(self, unit: int) -> None:
        """End the unit's workers, unless they serve, or are to serve, a live wagon by now."""
        live = self._state.snapshot.manifest.in_state(*LIVE)
        if self._orchestrator is not None and all(w.unit != unit for w in live):
            await self._orchestrator.remove(self._train, unit, grace=self._settings.grace)

    async def _standing(self, wagon: Wagon) -> list[Channel]:
        """The wagon's channels that exist, whether or not the manifest names them."""
        found = await self._in_time(partial(self._broker.channels, self._train))
        return [c for c in found if c.wagon == wagon.number]

    async def _depths(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        return await self._in_time(partial(self._broker.depth, channels))

    async def _in_time(self, call: Callable[[], Awaitable[T]]) -> T:
        """For what only reads. If it never answers, another attempt is made: while the removal has this process's name,
        the others leave it alone for minutes, or an hour until the wagon is archived."""
        return await in_time(call, self._settings.publish_timeout, "looking at what is left of it")

    async def _late(self, channels: Sequence[Channel], standing: Sequence[Channel]) -> int:
        """The number of events that came after the wagon was proven empty: from a publisher that the broker could not
        refuse, or from a worker that was taken for dead. Raises Unavailable if a figure is unknown, since unknown is
        never empty (I5)."""
        left = [c for c in channels if c in standing]
        count = outstanding(await self._depths(left)) if left else 0
        if count is None:
            raise Unavailable(f"what stands in {', '.join(map(str, left))} is not known")
        return count

    async def _move_dead_letters(self, channel: Channel) -> int | None:
        """Move them into the train's own channel, where they stay. Returns how many, or None if the channel is gone.
        After a crash some may be there twice, with the same id. Raises Conflict if another process removes the wagon by
        now."""
        kept = Channel(self._train, 0, DEAD)
        moved = 0
        try:
            async for batch in self._batches(channel):
                await self._broker.create(kept)
                for some in self._parts(channel, batch, _MOVE_BATCH):
                    wagon = self._state.snapshot.manifest.wagon(channel.wagon)
                    if wagon is not None and wagon.remover != self._runtime.name:
                        raise Conflict(
                            f"{wagon_name(self._train, wagon.number)} is removed by {wagon.remover or 'nobody'} now"
                        )
                    await self._keep(kept, some)
                moved += len(batch)
        except ChannelGone:
            return None
        return moved

    async def _tell_lost_letters(self, before: Wagon, depth: Depth, found: int | None) -> None:
        """Compare what is known of the wagon's dead letters with those that were found. `depth`: of their channel,
        before they were moved; `found` is None if that is gone. Letters that somebody had retried or dropped meanwhile
        are not lost."""
        wagon = (await self._state.refresh()).manifest.wagon(before.number) or before
        exact = self._broker.capabilities.totals and not self._broker.capabilities.losses
        channel = Channel(self._train, wagon.number, DEAD)
        if found is None:  # it vanished, or an earlier attempt has moved them and deleted it
            if wagon.letters_kept is not None:  # else that attempt has compared them already
                found = max(wagon.letters_kept, len(self._moved.get(channel, ())))
        elif not exact:
            found = None
        if found is not None:
            found += max(0, wagon.letters_taken - before.letters_taken)
        total = self._letters.end(
            channel, of_letters(depth, exact=exact, taken=wagon.letters_taken), found, wagon.letters_lost
        )
        why = self._letters.why(wagon.number, LETTERS_REMOVED)
        if total > wagon.letters_lost:
            await self._state.apply(lambda m: letters_lost(m, {wagon.number: total}, {wagon.number: why}))

    def _parts(self, channel: Channel, events: Sequence[Event], most: int) -> Iterator[Sequence[Event]]:
        """The events that still have to be moved, in parts that fit into one call. Each part counts as moved when the
        next one is requested."""
        moved = self._moved.setdefault(channel, set())
        left = [event for event in events if _mark(event) not in moved]
        while left:
            some = fitting(left, most)
            yield some
            moved.update(map(_mark, some))
            left = left[len(some) :]

    async def _keep(self, kept: Channel, letters: Sequence[Event]) -> None:
        """Store the letters. One that the broker refuses is made smaller. Raises ChannelGone, Unavailable,
        StorageBroken."""

        async def store(some: Sequence[Event]) -> None:
            await _in_spite_of_defects(partial(self._publish, kept, some))

        async def alone(letter: Event, error: BaseException) -> None:
            if (less := smaller(letter, cut=True)) is None:
                raise error
            await self._keep(kept, [less])

        left = list(letters)
        while left:
            some = fitting(left, _MOVE_BATCH)
            left = left[len(some) :]
            await by_halves(some, store, alone, is_cause=_is_cause)

    async def _publish(self, channel: Channel, events: Sequence[Event]) -> None:
        """One call to the broker. If it never answers, the removal waits no longer than a publisher would."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._broker.publish(channel, events)
        except TimeoutError:
            raise PublishUncertain(f"storing in {channel}: the broker has not answered in time") from None

    async def _rescue(self, channel: Channel) -> int:
        """Publish again what a stale publisher still left there, so that nothing is lost. This is a last check: if the
        broker refuses writes to a sealed channel, it never finds anything. Returns how many events, with those of
        earlier attempts of this process."""
        count = dead = 0
        with suppress(ChannelGone):  # a step repeated after it was done
            async for batch in self._batches(channel):
                for some in self._parts(channel, batch, self._settings.publish_batch):
                    dead += await self._readmit(channel, some)
                    count += len(some)
        if count:
            await self._state.note(
                EventsRescued(train=self._train, number=channel.wagon, count=count - dead, dead=dead)
            )
        return len(self._moved.get(channel, ()))

    async def _readmit(self, channel: Channel, events: Sequence[Event]) -> int:
        """Publish them again, to the active wagon's channel of that name. Those that can never be published, or are for
        an inner channel that it does not have, go to the train's dead letters; returns how many."""
        wagon = self._state.snapshot.manifest.wagon(channel.wagon)
        dead = 0

        async def store(some: Sequence[Event]) -> None:
            if wagon is not None and wagon.replay:
                if wagon.undoes:
                    raise _NotForActiveError(f"it was for undo {wagon.replay}: the active wagon would handle it")
                raise _NotForActiveError(f"it was for replay {wagon.replay}: the active wagon takes no replayed events")
            if any(UNDO in event.extensions for event in some):
                raise _NotForActiveError("it was to be undone: the active wagon would handle it")
            try:
                if channel.name:
                    await _in_spite_of_defects(partial(self._emit_anew, channel, some))
                else:
                    await _in_spite_of_defects(partial(self._switcher.readmit, some))
            except ChannelGone as e:  # the active wagon's channel, not the one that is read: nothing may be deleted yet
                raise Unavailable(f"events of {channel} can't be published anew: {e}") from e

        async def alone(event: Event, error: BaseException) -> None:
            nonlocal dead
            why = str(error) if isinstance(error, _NotForActiveError) else said(error)
            because = f"it came late to {channel}, and could not be published anew: {why}"
            _, letter = died(event, channel.name, channel.wagon, because, 0, self._runtime.clock())
            kept = Channel(self._train, 0, DEAD)
            await self._broker.create(kept)
            await self._keep(kept, [letter])
            dead += 1

        await by_halves(events, store, alone, is_cause=_is_cause)
        return dead

    async def _emit_anew(self, channel: Channel, events: Sequence[Event]) -> None:
        """Publish them to the active wagon's inner channel of that name."""
        active = self._state.snapshot.manifest.active
        if active is None or active.number == channel.wagon:  # the latter after the registry stepped back
            raise Unavailable(f"train {self._train} has no active wagon yet that could take what {channel} holds")
        if channel.name not in active.channels:
            raise _NotForActiveError(f"{wagon_name(self._train, active.number)} has no channel {channel.name}")
        await self._publish(Channel(self._train, active.number, channel.name), events)

    async def leftover(self, task: RemoveLeftover) -> None:
        """Remove what belongs to no wagon in the manifest. Events found there are published again: a manifest that was
        restored from an older copy does not know their wagon. Idempotent."""
        await self._end_workers(task.number)
        await self._clear(sorted(task.channels, key=lambda c: bool(c.name)))
        what = ", ".join(map(str, task.channels)) or f"workers of {wagon_name(self._train, task.number)}"
        await self._state.note(OrphanRemoved(train=self._train, what=what))

    async def _clear(self, channels: Sequence[Channel]) -> None:
        """Delete channels that may contain events, the ingress first: events are published again, dead letters moved.
        An event that a handler still works on is found in the ingress, and everything else that the handler emits is
        stored by then."""
        for channel in channels:
            if not channel.name:
                await self._broker.seal(channel)
            if channel.name == DEAD:
                await self._move_dead_letters(channel)
            elif channel.name == ARCHIVE:
                await self._archiver.leftover(channel)
            elif channel.name != PROBE:
                await self._rescue(channel)
            await self._delete(channel)

    async def _delete(self, channel: Channel) -> None:
        await self._broker.delete(channel)
        self._moved.pop(channel, None)

    async def _batches(self, channel: Channel) -> AsyncIterator[list[Event]]:
        """The events in the channel. Raises ChannelGone."""
        batch: list[Event] = []
        async for event in self._broker.read(channel):
            batch.append(event)
            if len(batch) >= _MOVE_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch


class _NotForActiveError(Exception):
    """The active wagon can't take the events; the text says why."""


async def _in_spite_of_defects(call: Callable[[], Awaitable[None]]) -> None:
    """Call it, and repeat it after a few defects of the driver: only one that lasts counts as the event's fault."""
    for _ in range(_DEFECTS):
        try:
            await call()
            return
        except (Exception, BaseExceptionGroup) as e:
            if isinstance(e, EventwagonError | _NotForActiveError):
                raise
            _logger.warning("what a removed wagon held could not be published, and is tried again", exc_info=shown(e))
    await call()


def _mark(event: Event) -> tuple[str, int]:
    """The key by which an event, or a dead letter, is recognised in this process. Two may share an id."""
    said = (event.source, event.type, event.subject, event.data, frozenset(event.extensions.items()))
    return event.id, hash(said)


def _is_cause(error: BaseException) -> bool:
    """Whether the events of the call may be the cause of this error, which then does not pass by itself."""
    return isinstance(error, EventRefused) or not isinstance(error, EventwagonError)
