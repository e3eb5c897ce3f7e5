"""Undos by order: previewed, requested, resumed, cancelled. `connection.undo` is one of these; observers go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import msgspec

from ..contracts.facts import (
    ArchiveIncomplete,
    ChannelUndone,
    ReplayEnded,
    ReplayRequested,
    WagonArchived,
    WagonRemoved,
)
from ..contracts.manifest import Manifest
from ..contracts.replay import EventSource, NothingKeptError, PastEvents, Replay
from ..contracts.undo import Kept, Slice, Undo
from ..display.text import count as counted
from ..errors import Unavailable, UsageError
from ..event import wagon_name
from ..policy.slices import slices_of
from ..policy.undo import resumed
from ..values import shown, whole
from .replaying import Replays
from .runtime import Runtime
from .train_state import TrainState
from .undoing import in_order, left_of, surveyed

_MOST_SLICES = 100
"""Each slice is a wagon, one after the other."""


class UndoChannel(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of a wagon that is to be undone."""

    channel: str
    """The ingress is called like the train."""
    handled: int
    """Events that are known to be handled: these are undone."""
    retried: int
    """How many of these were handled only when they came again: the attempts before may have done something, too."""
    others: dict[str, int]
    """Events that are not undone, by what is known of them: `dead` (a handler that took too long in the end is among
    them), `data not kept`, …"""
    has_handler: bool
    """There is an undo handler for it. Without one its events stay as they are."""
    undone: int = 0
    """How many of these an earlier undo is known to have undone, as far back as the journal goes; of several undos, the
    one that undid most. They would be undone once more."""


class UndoPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What an undo of a wagon would do."""

    wagon: int
    channels: tuple[UndoChannel, ...]
    """In the order in which they are undone, children before parents."""
    slices: int
    """How many wagons that takes, one after the other."""
    unknown: int | None
    """Events that were settled and are not in the archive, as far as is known: nobody knows what became of them, so
    they are not undone. None: whether there are any is not known."""
    unknown_because: str
    """What is said about them, or why nothing is known."""
    undone: tuple[int, ...]
    """Earlier undos of this wagon, as far back as the journal goes."""

    @property
    def count(self) -> int:
        """How many events would be undone."""
        return sum(each.handled for each in self.channels if each.has_handler)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Channels that have handled events, and no undo handler."""
        return tuple(each.channel for each in self.channels if each.handled and not each.has_handler)


class _Told(NamedTuple):
    """What the journal says of a wagon."""

    unknown: int | None
    """How many events the archive lacks; None: it does not say."""
    because: str
    rows: int
    """How many rows the archive was given."""
    undone: Mapping[int, Mapping[str, int]]
    """Earlier undos, and how many events each is known to have undone, by channel (the ingress's name is empty)."""
    order: Sequence[str]
    """The wagon's inner channels, parents before children; those of new wagons if it does not say."""


class Undos:
    """The undos of a train: what a wagon has handled is taken back. All its methods raise UsageError, Unavailable and
    StorageBroken."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        source: EventSource | None,
        replays: Replays,
        *,
        here: Callable[[], object],
        asked: Callable[[str, str | None], tuple[str, str]],
        answering: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._source = source
        self._replays = replays
        self._here = here
        self._asked = asked
        """The checked reason, and who asks."""
        self._answering = answering

    async def preview(self, wagon: int) -> UndoPreview:
        """What an undo of this wagon would do. Reads all that the archive has of it. Changes nothing."""
        preview, _, _ = await self._previewed(wagon)
        return preview

    async def request(
        self,
        wagon: int,
        why: str = "by hand",
        *,
        partial: bool = False,
        again: bool = False,
        by: str | None = None,
    ) -> Replay:
        """Have undone what this wagon is known to have handled, children before parents. Observers open a wagon for
        each channel, publish its events to it, and begin with the next one when all are undone. This process may end.

        An undo takes its turn with the train's replays: one runs at a time. It stops if an event can't be undone, until
        it is resumed or cancelled. `partial`: leave as they are channels without an undo handler, and events that the
        archive lacks. `again`: though the wagon was undone before. `why` and `by` are for the journal. Raises
        UsageError if an undo handler or an event is missing, if nothing is to be undone, or if the wagon is an undo's
        own. Not idempotent; but a wagon that was undone, or waits
        for it, is refused without `again`. After Unavailable look at `standing`: it may have been stored.
        """
        why, by = self._asked(why, by)
        self._here()
        async with self._answering():
            before = (await self._state.refresh()).manifest.replays_over
        preview, kept, slices = await self._previewed(wagon)
        name = wagon_name(self._train, preview.wagon)
        if preview.lacking and not partial:
            raise UsageError(
                f"train {self._train} has no undo handler for {', '.join(preview.lacking)}: add "
                f"@train.undo({preview.lacking[0]!r}), or leave these channels as they are (partial)"
            )
        if preview.unknown and not partial:
            raise UsageError(
                f"{preview.unknown:,} of the events that were settled in {name} are not in the archive "
                f"({preview.unknown_because}), so they can't be undone: leave them as they are (partial)"
            )
        if preview.undone and not again:
            raise UsageError(
                f"{name} was undone before, by undo {', '.join(map(str, preview.undone))}: say so if it is to be "
                "undone once more (again)"
            )
        if not slices:
            raise UsageError(f"nothing to undo: no event is known to have been handled in {name}")
        if len(slices) > _MOST_SLICES:
            raise UsageError(
                f"{name} can't be undone: its events led to one another over {len(slices):,} steps, and only "
                f"{_MOST_SLICES} can be undone one after the other"
            )
        made = Replay(
            number=0,
            of=PastEvents(wagon=preview.wagon, outcome="handled"),
            count=slices[0].count,
            why=why,
            at=self._runtime.clock(),
            by=by,
            undo=Undo(wagon=preview.wagon, kept=kept, slice=slices[0], then=slices[1:], whole=slices[0].count),
        )

        def check(m: Manifest) -> None:
            if again:
                return
            if any(r.undo is not None and r.undo.wagon == preview.wagon for r in m.replays):
                raise UsageError(f"{name} is being undone already")
            if m.replays_over > before:
                raise UsageError(f"a replay or an undo has ended meanwhile, perhaps of {name}: request this anew")

        return await self._replays.add(made, self._words(slices), check)

    async def resume(
        self, number: int, why: str = "by hand", *, without_failed: bool = False, by: str | None = None
    ) -> int:
        """Go on with an undo that has stopped: first with those events of the slice that are not known to be undone.
        Returns how many. `without_failed`: leave these as they are, and go on with what comes before them. Their dead
        letters stay in either case: drop them. Raises UsageError if it has not stopped."""
        why, by = self._asked(why, by)
        number = whole("number", number)
        self._here()
        async with self._answering():
            replay = (await self._state.refresh()).manifest.replay(number)
        undo = None if replay is None else replay.undo
        if replay is None or undo is None:
            raise UsageError(f"train {self._train} has no undo {number} now")
        if not undo.stopped or replay.cancelled:
            raise UsageError(f"undo {number} has not stopped")
        rest = await self._rest(undo)
        left = 0 if rest is None or not without_failed else rest.count
        again = None if without_failed else rest
        async with self._answering():
            await self._state.apply(lambda m: resumed(m, number, again, why, by, left=left, step=undo.step))
        return 0 if again is None else again.count

    async def cancel(self, number: int, why: str = "by hand", *, by: str | None = None) -> bool:
        """Undo nothing more; what was published to the undo's wagons is undone. Returns False if it is over already.
        Idempotent. Raises UsageError if it is a replay."""
        return await self._replays.cancel_any(number, why, by, kind="undo")

    @property
    def standing(self) -> Sequence[Replay]:
        """Those that are not over, as this process last saw them."""
        return [each for each in self._replays.standing if each.undo is not None]

    async def wait(self, number: int) -> str:
        """Return once this undo is over or has stopped. Returns why it has stopped; empty if it is over."""
        number = whole("number", number)
        self._here()
        async with self._answering():
            self._replays.check((await self._state.refresh()).manifest, number, "undo")
        seen = ""

        def done(m: Manifest) -> bool:
            nonlocal seen
            replay = m.replay(number)
            seen = "" if replay is None or replay.undo is None else replay.undo.stopped
            return replay is None or bool(seen)

        await self._state.until(done)
        return seen

    # --- reading what is kept -----------------------------------------------------------------------

    async def _previewed(self, wagon: int) -> tuple[UndoPreview, tuple[Kept, ...], tuple[Slice, ...]]:
        """The preview, where the wagon's events are kept, and the slices of those that would be undone."""
        wagon = whole("wagon", wagon)
        self._here()
        source = self._past()
        async with self._answering():
            manifest = (await self._state.refresh()).manifest
        if manifest.wagon(wagon) is not None:
            raise UsageError(
                f"{wagon_name(self._train, wagon)} is not gone yet: undo it when it is drained and archived (pause it, "
                "if it must not go on)"
            )
        told = await self._told(wagon, manifest.channels)
        order = in_order(told.order, await source.channels(wagon))
        kept = [Kept(wagon, c, await source.parts(wagon, c)) for c in order]
        kept = [each for each in kept if each.parts]
        surveys = [(each.channel, await surveyed(source, self._train, each)) for each in kept]
        unknown, because = told.unknown, told.because
        if told.rows > (rows := sum(survey.rows for _, survey in surveys)):
            gone = told.rows - rows
            unknown = (unknown or 0) + gone
            because = "; ".join([*filter(None, [because]), f"{counted(gone, 'row')} of the archive are gone from it"])
        handlers = await self._handlers()
        channels = tuple(
            UndoChannel(
                channel=channel or self._train,
                handled=len(survey.handled),
                retried=survey.retried,
                others=dict(survey.others),
                has_handler=channel in handlers,
                undone=min(
                    len(survey.handled), max((each.get(channel, 0) for each in told.undone.values()), default=0)
                ),
            )
            for channel, survey in reversed(surveys)
        )
        slices = slices_of([c for c, _ in surveys], {c: survey.levels for c, survey in surveys if c in handlers})
        preview = UndoPreview(
            wagon=wagon,
            channels=channels,
            slices=len(slices),
            unknown=unknown,
            unknown_because=because,
            undone=tuple(told.undone),
        )
        return preview, tuple(kept), slices

    async def _rest(self, undo: Undo) -> Slice | None:
        """What is left of a slice: all that is not known to be undone in its wagons. None: nothing."""
        source = self._past()
        wagons = []
        for number in undo.wagons:
            try:
                wagons.append(Kept(number, "", await source.parts(number, "")))
            except NothingKeptError:  # nothing was settled there
                continue
        left = await left_of(source, undo, self._train, wagons)
        if not left:
            return None
        return msgspec.structs.replace(undo.slice, count=left, without=tuple(wagons))

    def _past(self) -> EventSource:
        if self._source is None:
            raise Unavailable(f"train {self._train} has no archive: what was handled is kept only with archive=")
        return self._source

    async def _handlers(self) -> Collection[str]:
        """The channels that can be undone, the ingress with an empty name: those of this program, or of the processes
        that work for the train."""
        if self._runtime.handlers:
            return self._runtime.undo_handlers.keys()
        async with self._answering():
            members = await self._state.registry.members(self._train)
        revision = self._state.snapshot.manifest.revision
        told = [m.undoes for m in members if m.undoes is not None and {"work", "serve"} & {*m.roles}]
        of_new = [
            m.undoes
            for m in members
            if m.undoes is not None and m.revision == revision and {"work", "serve"} & {*m.roles}
        ]
        found = of_new or told
        if not found:
            raise UsageError(
                f"no process works for train {self._train}, so its undo handlers are not known: name the program "
                "(module:attribute), or let it run"
            )
        return set[str]().union(*found)

    async def _told(self, wagon: int, order: Sequence[str]) -> _Told:
        """What the journal says of this wagon. `order`: that of the channels of new wagons."""
        unknown, because = None, "the journal no longer says whether the archive has all events"
        if not self._runtime.broker.capabilities.totals:
            because = "this broker does not count, so nobody knows whether the archive has all events"
        written = set[tuple[str, int]]()
        incomplete = False
        requests: list[int] = []
        settled, told = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
        """By undo and channel: what was undone in wagons that are gone, and the slices that are over."""
        async for entry in self._state.registry.entries(self._train):
            match entry.fact:
                case WagonArchived(number=number, digest=digest, count=count) if number == wagon:
                    written.add((digest, count))  # rows that came late are told once more, perhaps twice
                    if self._runtime.broker.capabilities.totals and not incomplete:
                        unknown, because = 0, ""
                case ArchiveIncomplete(number=number, missing=missing, because=why) if number == wagon:
                    unknown, because, incomplete = missing, why, True
                case WagonRemoved(wagon=removed) if removed.number == wagon:
                    order = removed.channels
                case WagonRemoved(wagon=removed, dead=dead) if removed.undoes == wagon and dead is not None:
                    done = (removed.settled or 0) - dead - removed.letters_taken
                    settled[removed.replay, removed.undo_channel] += max(0, done)
                case ChannelUndone(number=number, wagon=of, channel=channel, count=count) if of == wagon:
                    told[number, "" if channel == self._train else channel] += count
                case ReplayRequested(number=number, undoes=of) if of == wagon:
                    requests.append(number)
                case ReplayEnded(number=number, undoes=of, fed=0) if of == wagon:
                    requests = [each for each in requests if each != number]  # cancelled before it did anything
        undone = {
            number: {channel: count for (of, channel), count in (settled | told).items() if of == number}
            for number in requests
        }
        return _Told(unknown, because, sum(count for _, count in written), undone, order)

    def _words(self, slices: Sequence[Slice]) -> str:
        counts: dict[str, int] = {}
        for each in slices:
            name = each.channel or self._train
            counts[name] = counts.get(name, 0) + each.count
        return ", ".join(f"{shown(name)}: {count:,}" for name, count in counts.items())
