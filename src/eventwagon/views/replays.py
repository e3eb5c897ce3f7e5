"""Replays in words."""

from __future__ import annotations

from ..contracts.replay import Replay
from ..event import wagon_name
from .undos import undo_in_words


def replay_in_words(replay: Replay, train: str, *, waits: bool) -> str:
    """A replay, or an undo, that is not over, in one line."""
    if replay.undo is not None:
        return undo_in_words(replay, replay.undo, train, waits=waits)
    how = "cancelled" if replay.cancelled else "waits" if waits else f"{replay.fed:,} of {replay.count:,} published"
    where = f" to {wagon_name(train, replay.wagon)}" if replay.wagon else ""
    trouble = f"; {replay.trouble}" if replay.trouble else ""
    asked = f" (by {replay.by}: {replay.why})" if replay.by else f" ({replay.why})"
    return f"replay {replay.number} of {wagon_name(train, replay.of.wagon)}: {how}{where}{trouble}{asked}"
