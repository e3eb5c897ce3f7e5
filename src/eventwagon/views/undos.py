"""What an undo would do, in words."""

from __future__ import annotations

from collections.abc import Iterator

from ..display.text import count
from ..event import wagon_name
from ..runtime.undos import UndoPreview


def preview_in_words(preview: UndoPreview, train: str) -> Iterator[str]:
    """A preview, a line for each channel; then what is not undone."""
    for each in preview.channels:
        said = count(each.handled, "event") + (" to undo" if each.has_handler else " handled, and no undo handler")
        if each.retried:
            said += f", {each.retried:,} of them after failed attempts"
        if each.undone:
            said += f", {each.undone:,} of them were undone before"
        left = "".join(f"; {number:,} {what}, not undone" for what, number in sorted(each.others.items()))
        yield f"{each.channel}: {said}{left}"
    if preview.unknown is None:
        yield f"not known: {preview.unknown_because}"
    elif preview.unknown:
        yield f"not known what became of {count(preview.unknown, 'event')}, not undone: {preview.unknown_because}"
    if preview.undone:
        numbers = ", ".join(map(str, preview.undone))
        part = "" if all(each.undone >= each.handled for each in preview.channels if each.has_handler) else " in part"
        yield f"{wagon_name(train, preview.wagon)} was undone before{part}, by undo {numbers}"
