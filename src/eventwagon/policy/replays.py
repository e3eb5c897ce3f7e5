"""Replays: past events that are handled once more, in wagons of their own. Pure.

A replay's wagon is opened like any other, and never becomes active. Once it is ready it drains, and until it is sealed
one process publishes to it, the feeder: any that observes the train. If the broker refuses writes after a seal and
keeps the order, a lost feeder costs nothing: the wagon is sealed, and once it is gone the archive says which events it
got; another wagon takes the rest. The broker's totals can't say it: an event that was stored twice counts twice.
Elsewhere the next feeder goes on from the last batch that is known to be stored: that one batch may be published twice,
with the same ids.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from ..contracts.facts import (
    Decision,
    ReplayBegun,
    ReplayCancelled,
    ReplayEnded,
    ReplayRequested,
    ReplayTorn,
    WagonOpened,
)
from ..contracts.lifecycle import Move, State
from ..contracts.manifest import Manifest, moved, opened, replay_changed
from ..contracts.replay import Replay
from ..event import wagon_name
from .edits import Edit
from .undo import next_wagon, slice_over

ATTEMPTS = 3
"""A replay is given up after so many wagons in a row that never became ready."""
MOST_WAITING = 10
"""Replays and undos that are not over, in the manifest of a train."""
_WAGONS = 3
"""The most wagons of one replay at a time: one is fed, the others have failed and are not gone yet."""


def requested(manifest: Manifest, replay: Replay, which: str) -> Edit:
    """Add a replay, under the next number; it begins when those before it are over."""
    number = manifest.next_number
    fact = ReplayRequested(
        train=manifest.train,
        number=number,
        count=replay.count,
        which=which,
        because=replay.why,
        by=replay.by,
        revision=replay.revision,
        undoes=replay.undoes,
    )
    since = max((r.at for r in manifest.replays), default=manifest.replays_over)
    at = max(replay.at, since + 0.001)  # by these times they are told apart, whatever the clocks say
    replays = (*manifest.replays, msgspec.structs.replace(replay, number=number, at=at))
    return Edit(msgspec.structs.replace(manifest, replays=replays, next_number=number + 1), (fact,))


def cancelled(manifest: Manifest, number: int, because: str, by: str) -> Edit:
    """Publish nothing more of this replay. Idempotent; a replay that is over is left alone."""
    replay = manifest.replay(number)
    if replay is None or replay.cancelled:
        return Edit(manifest)
    fact = ReplayCancelled(train=manifest.train, number=number, because=because, by=by, undoes=replay.undoes)
    return Edit(replay_changed(manifest, number, cancelled=because), (fact,))


# --- feeding ------------------------------------------------------------------------------


def to_feed(manifest: Manifest) -> Replay | None:
    """The replay whose wagon waits for events, or is gone while nobody knows which it got; None if there is none."""
    for replay in manifest.replays[:1]:
        wagon = manifest.wagon(replay.wagon)
        if replay.torn and wagon is None:
            return replay
        if wagon is not None and wagon.state is State.DRAINING and wagon.sealed_at is None and manifest.feeds(wagon):
            return replay
    return None


def claimed(manifest: Manifest, replay: Replay, me: str, alive: Collection[str], *, exact: bool) -> Edit:
    """This process becomes the feeder, if there is none. If the one that was is lost, and it fed a wagon that can be
    sealed against it (`exact`), the wagon is given up instead. Nothing changes if the replay is not as it was seen."""
    now = manifest.replay(replay.number)
    if now is None or now != replay or now.feeder == me or now.feeder in alive:
        return Edit(manifest)
    if now.feeder and exact and not now.of.channel and not now.torn:
        return torn(manifest, now.number, now.feeder, f"{now.feeder}, which fed it, is gone")
    return Edit(replay_changed(manifest, now.number, feeder=me))


def fed(manifest: Manifest, number: int, me: str, count: int) -> Edit:
    """So many events of the replay are stored. Nothing changes if another process is the feeder by now."""
    replay = manifest.replay(number)
    if replay is None or replay.feeder != me or replay.torn or count <= replay.fed:
        return Edit(manifest)
    feeder = replay.feeder if count < replay.count else ""  # nothing more is published
    return Edit(replay_changed(manifest, number, fed=count, trouble="", feeder=feeder))


def let_go(manifest: Manifest, number: int, me: str, wagon: int = 0, count: int = 0) -> Edit:
    """The feeder stops; all that it published is counted: those counted before or, if it still feeds `wagon`, `count`
    events. (The next slice of an undo has the same number, and begins at 0.) Another may go on. Idempotent."""
    replay = manifest.replay(number)
    if replay is None or replay.feeder != me:
        return Edit(manifest)
    known = max(replay.fed, count) if wagon == replay.wagon else replay.fed
    return Edit(replay_changed(manifest, number, feeder="", fed=known))


def troubled(manifest: Manifest, number: int, me: str, because: str) -> Edit:
    """Why the feeder does not get on. Idempotent."""
    replay = manifest.replay(number)
    if replay is None or replay.feeder != me or replay.trouble == because:
        return Edit(manifest)
    return Edit(replay_changed(manifest, number, trouble=because))


def torn(manifest: Manifest, number: int, feeder: str, because: str) -> Edit:
    """Which events the wagon got is not known: it takes no more. Nothing changes if it has another feeder by now."""
    replay = manifest.replay(number)
    if replay is None or replay.feeder != feeder or replay.torn or not replay.wagon:
        return Edit(manifest)
    fact = ReplayTorn(train=manifest.train, number=number, wagon=replay.wagon, because=because, undoes=replay.undoes)
    return Edit(replay_changed(manifest, number, torn=True, feeder="", trouble=because), (fact,))


def recounted(manifest: Manifest, number: int, me: str, wagon: int, count: int) -> Edit:
    """The wagon that took no more is gone, and so many events of the replay are known to be stored. Nothing changes if
    that is for another process to say by now."""
    replay = manifest.replay(number)
    if replay is None or replay.feeder != me or not replay.torn or replay.wagon != wagon:
        return Edit(manifest)
    known = max(replay.fed, count)
    return Edit(replay_changed(manifest, number, torn=False, fed=known, wagon=0, feeder="", trouble=""))


# --- what an observer does ------------------------------------------------------------------


def run_replays(manifest: Manifest, now: float, archive: str = "") -> Edit:
    """Open, begin and end the wagons of the first replay, and end the replay once they are gone. `archive`: where the
    events of these wagons go in the end, as those of all others."""
    if not manifest.replays:
        return Edit(manifest)
    replay = manifest.replays[0]
    wagon = manifest.wagon(replay.wagon)
    if replay.torn and (wagon is None or wagon.state is State.FAILED):
        return Edit(manifest)  # once it is gone a feeder asks the archive what it got
    if replay.wagon and (wagon is None or wagon.state is State.FAILED):
        return _without_wagon(manifest, replay, lost=wagon is not None and wagon.ready_at is not None)
    if wagon is not None and wagon.state is State.READY:
        fact = ReplayBegun(train=manifest.train, number=replay.number, wagon=wagon.number, undoes=replay.undoes)
        manifest = moved(manifest, wagon.number, Move.FED, closed_at=now, closed_because=_why(replay, manifest.train))
        return Edit(replay_changed(manifest, replay.number, attempts=0), (fact,))
    if replay.wagon:
        return _over(manifest, replay) if replay.is_over and not _standing(manifest, replay) else Edit(manifest)
    if replay.is_over:
        return Edit(manifest) if _standing(manifest, replay) else _over(manifest, replay)
    if _standing(manifest, replay) >= _WAGONS:
        return Edit(manifest)
    return _opened(manifest, replay, now, archive)


def _standing(manifest: Manifest, replay: Replay) -> int:
    return sum(w.replay == replay.number for w in manifest.wagons)


def _why(replay: Replay, train: str) -> str:
    if replay.undo is not None:
        channel = replay.undo.slice.channel or train
        return f"undo {replay.name(train)} of {wagon_name(train, replay.undo.wagon)}: {channel}"
    return f"replay {replay.name(train)} of {wagon_name(train, replay.of.wagon)}"


def _opened(manifest: Manifest, replay: Replay, now: float, archive: str) -> Edit:
    because, number = _why(replay, manifest.train), manifest.next_number
    manifest = opened(
        manifest,
        now=now,
        because=because,
        capacity=None,
        revision=replay.revision,
        archive=archive,
        replay=replay.number,
        undoes=replay.undoes,
        undo_channel="" if replay.undo is None else replay.undo.slice.channel,
    )
    wagon = manifest.wagons[-1]
    fact = WagonOpened(train=manifest.train, number=number, because=because, revision=wagon.revision)
    replays = tuple(next_wagon(r, number) if r.number == replay.number else r for r in manifest.replays)
    return Edit(msgspec.structs.replace(manifest, replays=replays), (fact,))


def _without_wagon(manifest: Manifest, replay: Replay, *, lost: bool) -> Edit:
    """Its wagon is gone: drained, given up, or forgotten by a registry that stepped back."""
    if replay.is_over:
        return Edit(manifest) if _standing(manifest, replay) else _over(manifest, replay)
    failed = manifest.wagon(replay.wagon)
    attempts = replay.attempts + (1 if failed is not None and not lost else 0)
    if attempts >= ATTEMPTS:
        because = f"{attempts} wagons in a row never became ready: {failed.trouble if failed is not None else ''}"
        return Edit(replay_changed(manifest, replay.number, cancelled=because, wagon=0))
    return Edit(replay_changed(manifest, replay.number, wagon=0, feeder="", attempts=attempts))


def _over(manifest: Manifest, replay: Replay) -> Edit:
    """All that was fed is handled or dead. An undo may have more to do."""
    if replay.undo is None or replay.cancelled:
        return _ended(manifest, replay)
    edit = slice_over(manifest, replay, replay.undo)
    now = edit.manifest.replay(replay.number)
    if now != replay or replay.undo.stopped:
        return edit
    last = _ended(manifest, replay)
    return Edit(last.manifest, (*edit.facts, *last.facts))


def _ended(manifest: Manifest, replay: Replay) -> Edit:
    undo = replay.undo
    done = 0 if undo is None else undo.done
    fact: Decision = ReplayEnded(
        train=manifest.train,
        number=replay.number,
        fed=done + replay.fed,
        count=done + replay.count + (0 if undo is None else sum(each.count for each in undo.then)),
        dead=replay.dead,
        because=replay.cancelled,
        undoes=replay.undoes,
    )
    left = tuple(r for r in manifest.replays if r.number != replay.number)
    over = max(manifest.replays_over, replay.at)
    return Edit(msgspec.structs.replace(manifest, replays=left, replays_over=over), (fact,))
