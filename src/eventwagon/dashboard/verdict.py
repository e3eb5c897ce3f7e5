"""How a train is, in one word and one sentence: what somebody woken at night must read first. Pure."""

from __future__ import annotations

from ..contracts.lifecycle import State
from ..display.text import count, span
from ..views.notes import Note
from ..views.train import View
from .shapes import Verdict, Waits

_DYING = 0.1
"""The share of dead letters among the settled events of live wagons that deserves a look."""


def verdict_of(
    view: View,
    waits: Waits,
    promise: float | None,
    notes: list[Note],
    *,
    waiting: int | None,
    at_work: int | None,
    settled: float | None,
) -> Verdict:
    """The worst that is known of the train, or that all is well. `notes`: all sentences on its state; `at_work`: events
    in flight and in inner channels; `settled`: events per second."""
    sentence = _waits(waits, promise, waiting)
    active = next((w for w in view.wagons if w.state == State.ACTIVE), None)
    if view.version == 0:
        return Verdict("unknown", "empty", "No program has run this train yet.")
    if view.removal:
        return Verdict("warn", "removing", f"The train is being removed: {view.removal}.")
    if view.dead_lost or any(w.lost for w in view.wagons):
        return Verdict("bad", "losing", f"Events were lost: {_first(notes, 'bad')}. {sentence}")
    if view.refusing:
        return Verdict("bad", "refusing", f"Publishers are refused: {view.refusing}.")
    if not any("observe" in m.roles for m in view.members):
        return Verdict("bad", "unwatched", f"No observer is alive: no wagon is switched or drained. {sentence}")
    if active is None:
        why = view.wagons[0].reason if view.wagons else "none was opened yet"
        return Verdict("warn", "starting", f"No wagon takes events yet: {why}.")
    if view.paused:
        return Verdict("warn", "paused", f"The whole train was paused {view.paused}. {sentence}")
    works = any(w.workers for w in view.wagons) or any({"work", "serve"} & set(m.roles) for m in view.members)
    if waiting and not works and not settled:
        return Verdict(
            "bad", "no workers", f"No worker is alive; {count(waiting, 'event')} {'waits' if waiting == 1 else 'wait'}."
        )
    new = waits.new.expected if waits.new.expected is not None else waits.new.oldest
    if promise is not None and new is not None and new > promise:
        return Verdict("bad", "late", sentence)
    if view.at_risk:
        return Verdict("bad", "at risk", f"The promise to new events can't be kept: {view.at_risk}. {sentence}")
    for level in ("bad", "alert", "warn"):
        if text := _first(notes, level):
            return Verdict("bad" if level == "bad" else "warn", "attention", f"{_capital(text)}. {sentence}")
    dead, done = (
        sum(n or 0 for n in figures) for figures in zip(*((w.dead, w.settled) for w in view.wagons), strict=True)
    )
    if dead and dead >= _DYING * done:
        died = f"{count(dead, 'event')} of the live wagons went to the dead letters; {done:,} were settled"
        return Verdict("warn", "attention", f"{died}. {sentence}")
    if waiting == 0 and at_work == 0:
        return Verdict("ok", "idle", "No event waits.")
    if waiting is None:
        return Verdict("unknown", "unknown", "The broker does not know how many events wait.")
    return Verdict("ok", "working" if promise is None else "on time", sentence)


def _first(notes: list[Note], level: str) -> str:
    return next((note.text for note in notes if note.level == level), "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _waits(waits: Waits, promise: float | None, waiting: int | None) -> str:
    new = waits.new.expected if waits.new.expected is not None else waits.new.oldest
    promised = "" if promise is None else f"; {span(promise)} are promised"
    if new is None:
        first = f"How long new events wait is not known{promised}"
    elif waits.new.expected is None and new > 0:  # nothing is settled: they may wait much longer
        first = f"New events have waited {span(new)} so far{promised}"
    else:
        first = f"New events wait {span(new)}{promised}"
    known = [age for age in (waits.new.oldest, waits.backlog.oldest) if age is not None]
    if waiting == 0 or not known:
        return f"{first}."
    return f"{first}. The oldest event waits {span(max(known))}."
