"""Replays and undos in words."""

from __future__ import annotations

from ..contracts.replay import Replay
from ..event import wagon_name


def replay_in_words(replay: Replay, train: str, *, waits: bool) -> str:
    """A replay, or an undo, that is not over, in one line."""
    undo = replay.undo
    stopped = "" if undo is None else undo.stopped
    if replay.cancelled:
        how = "cancelled"
    elif undo is not None and stopped:
        how = f"stopped at {undo.slice.channel or train}, until somebody resumes or cancels it"
    elif waits:
        how = "waits"
    elif undo is None:
        how = f"{replay.fed:,} of {replay.count:,} published"
    else:
        all_of_them = undo.done + replay.count + sum(each.count for each in undo.then)
        how = f"at {undo.slice.channel or train}, {undo.done + replay.fed:,} of {all_of_them:,} published"
    kind, of = ("replay", replay.of.wagon) if undo is None else ("undo", undo.wagon)
    where = f" to {wagon_name(train, replay.wagon)}" if replay.wagon and not stopped else ""
    trouble = f"; {stopped or replay.trouble}" if stopped or replay.trouble else ""
    asked = f" (by {replay.by}: {replay.why})" if replay.by else f" ({replay.why})"
    n = replay.number
    todo = f": eventwagon undo {train} --resume {n}, or --cancel {n}" if stopped and not replay.cancelled else ""
    return f"{kind} {replay.number} of {wagon_name(train, of)}: {how}{where}{trouble}{asked}{todo}"
