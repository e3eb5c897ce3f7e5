"""The course of an undo. Pure.

A slice is fed like a replay (policy/replays.py), and is over when its wagons are gone. If all its events are known to
be undone, the next one begins; if not, the undo stops until somebody resumes it.
"""

from __future__ import annotations

import msgspec

from ..contracts.facts import ChannelUndone, UndoResumed, UndoStopped
from ..contracts.manifest import Manifest, replay_changed
from ..contracts.replay import Replay
from ..contracts.undo import Slice, Undo
from ..display.text import count as counted
from ..event import wagon_name
from .edits import Edit


def slice_over(manifest: Manifest, replay: Replay, undo: Undo) -> Edit:
    """The wagons of a slice are gone: stop, or begin the next slice. After the last one only the fact says it."""
    if undo.stopped:
        return Edit(manifest)
    channel = undo.slice.channel or manifest.train
    dead, why = replay.dead - undo.dead, undo.unsure
    if forgotten := [n for n in undo.opened if n not in undo.wagons]:
        why = f"the registry stepped back, and forgot {wagon_name(manifest.train, forgotten[0])}"
    if dead:
        why = counted(dead, "dead letter")
    if why:
        fact = UndoStopped(train=manifest.train, number=replay.number, channel=channel, because=why)
        stopped = msgspec.structs.replace(undo, stopped=why)
        return Edit(replay_changed(manifest, replay.number, undo=stopped, trouble=f"stopped: {why}"), (fact,))
    over = ChannelUndone(
        train=manifest.train,
        number=replay.number,
        wagon=undo.wagon,
        channel=channel,
        level=undo.slice.level,
        count=undo.whole - undo.left,
        left=undo.left,
    )
    if undo.then:
        manifest = _begun(manifest, replay, undo, undo.then[0], undo.then[1:], again=False)
    return Edit(manifest, (over,))


def resumed(
    manifest: Manifest,
    number: int,
    again: Slice | None,
    because: str,
    by: str,
    *,
    left: int = 0,
    step: int | None = None,
) -> Edit:
    """Go on with an undo that has stopped: first with `again`, the rest of the slice, or leave `left` events as they
    are. Idempotent; nothing changes if it is not at `step` any more: somebody else has resumed it, and it has stopped
    elsewhere."""
    replay = manifest.replay(number)
    if replay is None or replay.undo is None or not replay.undo.stopped or replay.cancelled:
        return Edit(manifest)
    undo = replay.undo
    if step not in (None, undo.step):
        return Edit(manifest)
    count = 0 if again is None else again.count
    fact = UndoResumed(train=manifest.train, number=number, again=count, left=left, because=because, by=by)
    if again is not None:
        return Edit(_begun(manifest, replay, undo, again, undo.then, again=True), (fact,))
    going = msgspec.structs.replace(undo, dead=replay.dead, stopped="", unsure="", opened=undo.wagons, left=left)
    return Edit(replay_changed(manifest, number, undo=going, trouble=""), (fact,))


def next_wagon(replay: Replay, number: int) -> Replay:
    """The replay that has opened wagon `number`."""
    changes: dict[str, object] = {"wagon": number, "start": replay.fed}
    if replay.undo is not None:
        changes["undo"] = msgspec.structs.replace(replay.undo, opened=(*replay.undo.opened, number))
    return msgspec.structs.replace(replay, **changes)


def _begun(
    manifest: Manifest, replay: Replay, undo: Undo, following: Slice, then: tuple[Slice, ...], *, again: bool
) -> Manifest:
    """Let the replay begin that slice, which is the rest of the present one (`again`) or the next."""
    return replay_changed(
        manifest,
        replay.number,
        count=following.count,
        fed=0,
        wagon=0,
        start=0,
        feeder="",
        torn=False,
        attempts=0,
        trouble="",
        undo=msgspec.structs.replace(
            undo,
            slice=following,
            then=then,
            step=undo.step + 1,
            done=undo.done + replay.fed - (following.count if again else 0),
            dead=replay.dead,
            wagons=undo.wagons if again else (),
            opened=undo.wagons if again else (),
            unsure="",
            stopped="",
            left=0,
            whole=undo.whole if again else following.count,
        ),
    )
