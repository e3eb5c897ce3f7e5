"""What a retry or drop of dead letters would leave out, and what became of it: the sentences that the command line
prints and the dashboard shows."""

from __future__ import annotations

from ..display.text import count
from ..policy.letters import DeadPreview
from ..runtime.retrying import DeadDone


def left_out(preview: DeadPreview, command: str = "") -> list[str]:
    """What a retry leaves where it is, and why. `command`: what goes before its option, if that is not known."""
    notes = []
    if preview.quarantined:
        notes.append(
            f"{count(preview.quarantined, 'dead letter')} died again after "
            f"{count(preview.retries, 'retry', 'retries')} and will not be retried; "
            f"{command}--retries {preview.retries + 1} allows one more"
        )
    if preview.cut:
        notes.append(f"{count(preview.cut, 'dead letter')} can't be retried: the end of the data was cut off")
    if preview.of_undos:
        notes.append(
            f"{count(preview.of_undos, 'dead letter')} could not be undone, and will not be handled: resume the undo "
            "(`eventwagon undo`) or, if it is over, drop them"
        )
    return notes


def done_with(verb: str, done: DeadDone) -> str:
    """How many were published again (`retry`) or deleted."""
    return f"{count(done.count, 'dead letter')} {'published again' if verb == 'retry' else 'deleted'}"


def stayed(done: DeadDone) -> str:
    """What was not done; empty if all was."""
    said = []
    if done.refused:
        said.append(f"the broker refuses {count(done.refused, 'event')}, which stay")
    if done.left:
        said.append(f"{count(done.left, 'dead letter')} could not be had: another process works on them, or has")
    return f"{'; '.join(said)}. Look again" if said else ""
