"""Replays and undos in words."""

from __future__ import annotations

from ..contracts.manifest import Manifest
from ..contracts.replay import Replay
from ..event import wagon_name


def replay_in_words(replay: Replay, manifest: Manifest) -> str:
    """A replay, or an undo, of the train that is not over, in one line."""
    train, undo, n = manifest.train, replay.undo, replay.number
    state = "cancelled" if replay.cancelled else manifest.state_of(replay)
    where = f" to {wagon_name(train, replay.wagon)}" if replay.wagon else ""
    trouble, todo = replay.trouble, ""
    if state == "cancelled":
        how = "cancelled"
    elif undo is not None and state == "stopped":
        how, where, trouble = f"stopped at {undo.slice.channel or train}", "", undo.stopped
        todo = f": eventwagon undo {train} --resume {n}, or --cancel {n}"
    elif state == "waiting":
        how = "waits"
    elif undo is None:
        how = f"{replay.fed:,} of {replay.count:,} published"
    else:
        all_of_them = undo.done + replay.count + sum(each.count for each in undo.then)
        how = f"at {undo.slice.channel or train}, {undo.done + replay.fed:,} of {all_of_them:,} published"
    of = wagon_name(train, replay.undoes or replay.of.wagon)
    asked = f" (by {replay.by}: {replay.why})" if replay.by else f" ({replay.why})"
    return f"{replay.kind} {n} of {of}: {how}{where}{'; ' if trouble else ''}{trouble}{asked}{todo}"
