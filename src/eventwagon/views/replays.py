"""Replays and undos, in words and as data."""

from __future__ import annotations

import msgspec

from ..contracts.manifest import Manifest
from ..contracts.replay import Kind, Replay
from ..event import wagon_name
from ..runtime.undos import UndoPreview


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A replay or an undo, as `replay --json` and `undo --json` print it: one that is not over, or a preview."""

    kind: Kind
    number: int | None = None
    """Null: it is a preview."""
    wagon: int
    """The wagon whose events are replayed or undone."""
    state: str = "preview"
    """`running`, `waiting`, `stopped`, `cancelled`; or `preview`."""
    count: int
    """How many events it publishes in all."""
    published: int = 0
    channel: str | None = None
    """That of the events that are published now; the ingress is called like the train."""
    to: int | None = None
    """The wagon that takes them; null: there is none now."""
    trouble: str = ""
    """Why it does not get on, or has stopped."""
    why: str = ""
    by: str = ""
    at: float | None = None
    """When it was requested, in seconds since the epoch."""
    preview: UndoPreview | None = None
    """Of an undo: what would be undone, by channel, and what not."""


def job_of(replay: Replay, manifest: Manifest) -> JobView:
    """A replay, or an undo, of the train that is not over, as data."""
    undo = replay.undo
    state = "cancelled" if replay.cancelled else manifest.state_of(replay)
    return JobView(
        kind=replay.kind,
        number=replay.number,
        wagon=replay.undoes or replay.of.wagon,
        state=state,
        count=replay.count + (0 if undo is None else undo.done + sum(each.count for each in undo.then)),
        published=replay.fed + (0 if undo is None else undo.done),
        channel=(replay.of.channel if undo is None else undo.slice.channel) or manifest.train,
        to=replay.wagon if manifest.wagon(replay.wagon) is not None else None,
        trouble=undo.stopped if undo is not None and state == "stopped" else replay.trouble,
        why=replay.why,
        by=replay.by,
        at=replay.at,
    )


def replay_in_words(replay: Replay, manifest: Manifest) -> str:
    """A replay, or an undo, of the train that is not over, in one line."""
    job, train = job_of(replay, manifest), manifest.train
    where = f" to {wagon_name(train, job.to)}" if job.to else ""
    done, todo = f"{job.published:,} of {job.count:,} published", ""
    if job.state == "cancelled":
        how = f"cancelled, {done}"
    elif job.state == "stopped":
        how, where = f"stopped at {job.channel}", ""
        todo = f": eventwagon undo {train} --resume {job.number}, or --cancel {job.number}"
    elif job.state == "waiting":
        how = "waits"
    else:
        how = done if job.kind == "replay" else f"at {job.channel}, {done}"
    trouble = f"; {job.trouble}" if job.trouble else ""
    asked = f" (by {job.by}: {job.why})" if job.by else f" ({job.why})"
    return f"{job.kind} {job.number} of {wagon_name(train, job.wagon)}: {how}{where}{trouble}{asked}{todo}"
