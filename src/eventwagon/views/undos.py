"""Undos in words."""

from __future__ import annotations

from collections.abc import Iterator

from ..contracts.replay import Replay
from ..contracts.undo import Undo
from ..display.text import count
from ..event import wagon_name
from ..runtime.undos import UndoPreview


def undo_in_words(replay: Replay, undo: Undo, train: str, *, waits: bool) -> str:
    """An undo that is not over, in one line."""
    all_of_them = undo.done + replay.count + sum(each.count for each in undo.then)
    if replay.cancelled:
        how = "cancelled"
    elif undo.stopped:
        how = f"stopped at {undo.slice.channel or train}"
    elif waits:
        how = "waits"
    else:
        how = f"at {undo.slice.channel or train}, {undo.done + replay.fed:,} of {all_of_them:,} published"
    where = f" to {wagon_name(train, replay.wagon)}" if replay.wagon and not undo.stopped else ""
    trouble = f"; {undo.stopped or replay.trouble}" if undo.stopped or replay.trouble else ""
    asked = f" (by {replay.by}: {replay.why})" if replay.by else f" ({replay.why})"
    return f"undo {replay.number} of {wagon_name(train, undo.wagon)}: {how}{where}{trouble}{asked}"


def preview_in_words(preview: UndoPreview, train: str) -> Iterator[str]:
    """A preview, a line for each channel; then what is not undone."""
    for each in preview.channels:
        said = count(each.handled, "event") + (" to undo" if each.has_handler else " handled, and no undo handler")
        if each.retried:
            said += f", {each.retried:,} of them after failed attempts"
        left = "".join(f"; {number:,} {what}, not undone" for what, number in sorted(each.others.items()))
        yield f"{each.channel}: {said}{left}"
    if preview.unknown is None:
        yield f"not known: {preview.unknown_because}"
    elif preview.unknown:
        yield f"not known what became of {count(preview.unknown, 'event')}, not undone: {preview.unknown_because}"
    if preview.undone:
        numbers = ", ".join(map(str, preview.undone))
        yield f"{wagon_name(train, preview.wagon)} was undone before, by undo {numbers}"
