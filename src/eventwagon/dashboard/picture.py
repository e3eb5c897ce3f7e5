"""From one reading of a train to what the page shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ..contracts.broker import Depth, outstanding
from ..contracts.facts import Entry, OpenRefused, Switched, SwitchRefused, WagonOpened, WagonRemoved, sentence
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Pause, Wagon
from ..contracts.metering import TrainFigures
from ..contracts.reading import Reading, Sample
from ..contracts.registry import Member
from ..display.text import plain
from ..event import DEAD
from ..policy.figures import pressures_of
from ..policy.seen import Seen, age_in
from ..values import sum_of
from ..views.notes import Note, conditions, later_note, losses, who_is_there
from ..views.train import Found, View, WagonView, removed_wagon
from ..workers import ORCHESTRATED
from .curves import Point
from .shapes import (
    BudgetShape,
    ChannelShape,
    Fill,
    LaterShape,
    MemberShape,
    NoteShape,
    Past,
    PauseShape,
    Refusal,
    TrainShape,
    Verdict,
    WagonShape,
    Waiting,
    Waits,
)
from .verdict import verdict_of

_WINDOW = 10.0
"""Seconds over which rates are taken."""
_LEVELS = {"bad": "bad", "alert": "warn", "warn": "warn", "request": "info", "info": "info"}
_WORST_FIRST = {"bad": 0, "warn": 1, "info": 2}


class Measures(NamedTuple):
    """What was measured over several readings."""

    seen: Seen
    figures: TrainFigures
    together: Sequence[Sample]
    """Of all wagons together."""
    paces: Mapping[int, float]
    """Events that each wagon settles per second in all its channels, by number."""


def train_of(found: Found, view: View, measures: Measures, check_ins: Sequence[Member]) -> TrainShape:
    """The train as the page gets it, without its refusal, and since when the verdict is what it is. `check_ins`: those
    on budgets included."""
    manifest, seen, figures = found.snapshot.manifest, measures.seen, measures.figures
    wagons = [_wagon(w, found, measures) for w in view.wagons]
    waiting, in_flight, inside = (sum_of(getattr(w, name) for w in view.wagons) for name in _COUNTED)
    draining = [w for w in wagons if w.state == State.DRAINING.value]
    waits = Waits(
        Waiting(figures.predicted.get("new"), figures.oldest.get("new")),
        Waiting(_longest(w.drain_left for w in draining), _longest(w.oldest_age for w in draining)),
    )
    arrivals, settled = _rates(measures.together)
    notes = [*losses(view, view.wagons), *later_note(view), *conditions(view, view.wagons)]
    active = manifest.active
    declared = manifest.declared
    return TrainShape(
        train=view.train,
        verdict=verdict_of(
            view, waits, figures.promise, notes, waiting=waiting, at_work=sum_of((in_flight, inside)), settled=settled
        ),
        waits=waits,
        promise=figures.promise,
        oldest_age=_longest(w.oldest_age for w in wagons if w.state in _WITH_EVENTS),
        waiting=waiting,
        in_flight=in_flight,
        inside=inside,
        dead=view.dead,
        arrivals=arrivals,
        settled=settled,
        active=None if active is None else active.number,
        states={state.value: n for state in State if (n := len(manifest.in_state(state)))},
        processes=len(view.members),
        paused=manifest.paused is not None,
        removing=manifest.removal is not None,
        at=view.at,
        version=view.version,
        url=view.url,
        revision=manifest.revision,
        channels=view.channels,
        declared=view.declared,
        limit=declared.get("limit"),
        workers_text=f"{ORCHESTRATED!r} by default" if view.elastic_by_default else declared.get("workers", ""),
        cap=seen.settings.wagons,
        head=who_is_there(view),
        notes=sorted((_note(note) for note in notes), key=lambda note: _WORST_FIRST[note.level]),
        asked=view.asked,
        watched=view.watched,
        refusing=view.refusing,
        at_risk=view.at_risk,
        removal=view.removal,
        stepped_back=view.stepped_back,
        pause=_pause(manifest.paused, whole=True),
        open=view.open,
        at_budget=view.at_budget,
        crashed=view.crashed,
        threatened=view.threatened,
        budgets=_budgets(check_ins),
        schedules=view.schedules,
        replays=view.replays,
        later=LaterShape(view.later, view.later_next),
        dead_lost=view.dead_lost,
        members=[_member(m) for m in view.members],
        wagons=wagons,
    )


_WITH_EVENTS = (State.ACTIVE.value, State.DRAINING.value)
_COUNTED = ("waiting", "in_flight", "inside")


def point_of(train: TrainShape) -> Point:
    """The train's figures, for its curves."""
    return (
        round(train.at, 3),
        train.arrivals,
        train.settled,
        train.waits.new.expected if train.waits.new.expected is not None else train.waits.new.oldest,
        train.waits.backlog.expected,
        train.oldest_age,
        train.waiting,
        train.in_flight,
    )


def unreadable(why: str) -> Verdict:
    """The verdict on a train that can't be read."""
    return Verdict("unknown", "can't read", f"{why[:1].upper()}{why[1:]}")


def _rates(samples: Sequence[Sample]) -> tuple[float | None, float | None]:
    """Events published and settled per second over the last seconds; None until two looks show it."""
    if len(samples) < 2:
        return None, None
    last = samples[-1]
    first = next(s for s in samples if s.at >= last.at - _WINDOW)
    if first is last:  # nobody has looked for a while
        first = samples[-2]
    span = last.at - first.at
    if span <= 0:
        return None, None
    return round((last.published - first.published) / span, 2), round((last.settled - first.settled) / span, 2)


def _note(note: Note) -> NoteShape:
    return NoteShape(_LEVELS[note.level], note.text, note.todo)


def _pause(pause: Pause | None, *, whole: bool) -> PauseShape | None:
    if pause is None:
        return None
    return PauseShape(why=pause.why, at=pause.at, by=pause.by, publishing=pause.publishing, whole=whole)


def _member(m: Member) -> MemberShape:
    return MemberShape(
        name=m.name,
        roles=m.roles,
        version=m.version,
        revision=m.revision,
        workers=m.shared_workers or sum(a.workers for a in m.attachments),
        in_hand=sum(a.in_hand for a in m.attachments),
        held=m.held,
        caught=m.caught,
        trouble=m.trouble,
    )


def _budgets(members: Sequence[Member]) -> list[BudgetShape]:
    parts: dict[str, list[tuple[float, float, float]]] = {}
    for m in members:
        for name, part in m.budgets.items():
            parts.setdefault(name, []).append((part.of, part.held, part.wants))
    return [
        BudgetShape(name, min(p[0] for p in of), sum(p[1] for p in of), sum(p[2] for p in of), len(of))
        for name, of in sorted(parts.items())
    ]


def _longest(times: Iterable[float | None]) -> float | None:
    """The longest of the times; 0 if there are none, None if one is not known."""
    known = [0.0]
    for each in times:
        if each is None:
            return None
        known.append(each)
    return max(known)


def _wagon(view: WagonView, found: Found, measures: Measures) -> WagonShape:
    manifest, seen = found.snapshot.manifest, measures.seen
    wagon = manifest.wagon(view.number)
    assert wagon is not None  # noqa: S101 - the view is of this manifest
    reading = seen.readings.get(wagon.number)
    is_active = wagon.state is State.ACTIVE
    rate = _rates(reading.samples)[1] if reading is not None else None
    left = _outstanding(found.depths.get(wagon.number, {}))
    attached = [a for m in found.members for a in m.attachments if a.number == wagon.number]
    return WagonShape(
        number=wagon.number,
        name=view.name,
        state=view.state,
        published=view.published,
        limit=view.limit,
        fills=_fills(seen, manifest, reading) if is_active else (),
        waiting=view.waiting,
        in_flight=view.in_flight,
        settled=view.settled,
        inside=view.inside,
        dead=view.dead,
        lost=view.lost,
        workers=view.workers,
        wanted=wagon.workers,
        in_hand=sum(a.in_hand for a in attached),
        revision=view.revision,
        asleep=view.asleep,
        pause=_pause(wagon.paused or manifest.paused, whole=wagon.paused is None),
        age=view.age,
        reason=view.reason,
        rate=rate,
        oldest_age=_oldest(wagon, found.depths.get(wagon.number, {}), found.at),
        drain_left=_drain_left(wagon, left, measures.paces.get(wagon.number)),
        opened_at=wagon.opened_at,
        ready_at=wagon.ready_at,
        active_at=wagon.active_at,
        closed_at=wagon.closed_at,
        sealed_at=wagon.sealed_at,
        drained_at=wagon.drained_at,
        opened_because=wagon.opened_because,
        closed_because=wagon.closed_because,
    )


def _fills(seen: Seen, manifest: Manifest, reading: Reading | None) -> list[Fill]:
    if seen.settings.declared().get("limit") != manifest.declared.get("limit"):  # a limit of the user's own
        return []
    return [Fill(plain(limit), float(p.value), p.why) for limit, p in pressures_of(seen.settings.limit, reading)]


def _outstanding(depths: Mapping[str, Depth]) -> int | None:
    return outstanding([depth for name, depth in depths.items() if name != DEAD])


def _oldest(wagon: Wagon, depths: Mapping[str, Depth], now: float) -> float | None:
    """How long the oldest event has waited in any channel; 0: none waits."""
    working = [d for name, d in depths.items() if name != DEAD]
    if any(d.waiting is None or (d.waiting and d.oldest_at is None) for d in working):
        return None
    return max([0.0, *(age_in(wagon, d.oldest_at, now) or 0.0 for d in working)])


def _drain_left(wagon: Wagon, left: int | None, pace: float | None) -> float | None:
    if wagon.state is not State.DRAINING or left is None:
        return None
    if left == 0:
        return 0.0
    return left / pace if pace else None


def past_of(train: str, entry: Entry, fact: WagonRemoved) -> Past:
    """A removed wagon, by its final record."""
    w, view = fact.wagon, removed_wagon(train, fact)
    return Past(
        number=w.number,
        name=view.name,
        state=view.state,
        revision=w.revision,
        opened_at=w.opened_at,
        active_at=w.active_at,
        closed_at=w.closed_at,
        sealed_at=w.sealed_at,
        drained_at=w.drained_at,
        removed_at=entry.at,
        published=w.published,
        settled=w.settled,
        dead=fact.dead,
        lost=w.lost,
        opened_because=plain(w.opened_because),
        closed_because=plain(w.closed_because),
        reason=plain(view.reason),
    )


def refusal_after(refusal: Refusal | None, entry: Entry) -> Refusal | None:
    """The last refused decision, once this entry was written too."""
    match entry.fact:
        case SwitchRefused() as fact:
            return Refusal(
                at=entry.at,
                kind="switch",
                number=fact.number,
                pressure=fact.pressure,
                figures=fact.figures,
                because=fact.because,
                lasted=fact.lasted,
                sentence=sentence(fact),
                current=True,
            )
        case OpenRefused() as fact:
            return Refusal(
                at=entry.at,
                kind="open",
                number=None,
                pressure=None,
                figures="",
                because=fact.because,
                lasted=0.0,
                sentence=sentence(fact),
                current=True,
            )
        case Switched():
            return _over(refusal, "switch", entry.at)
        case WagonOpened():
            return _over(refusal, "open", entry.at)
        case _:
            return refusal


def _over(refusal: Refusal | None, kind: str, at: float) -> Refusal | None:
    if refusal is None or refusal.kind != kind or not refusal.current:
        return refusal
    return msgspec.structs.replace(refusal, current=False, lasted=refusal.lasted + max(0.0, at - refusal.at))


def channels_of(depths: Mapping[str, Depth]) -> list[ChannelShape]:
    """The channels of a wagon, the ingress first, in figures that reconcile."""
    return [
        ChannelShape(
            name=name,
            published=d.published,
            settled=d.settled,
            in_flight=d.in_flight,
            waiting=d.waiting,
            lost=d.lost,
            difference=_difference(d),
            oldest_at=d.oldest_at,
            newest_at=d.newest_at,
            trouble=d.trouble,
        )
        for name, d in depths.items()
    ]


def _difference(d: Depth) -> int | None:
    if d.published is None or d.settled is None or d.in_flight is None or d.waiting is None:
        return None
    return d.published - d.settled - d.in_flight - d.waiting


def balance_of(channels: Sequence[ChannelShape], past: Past | None) -> dict[str, object]:
    """Whether the figures of the ingress reconcile, and how."""
    if channels:
        c = channels[0]
        counts = [_count(n) for n in (c.published, c.settled, c.in_flight, c.waiting)]
        text = f"{counts[0]} published = {counts[1]} settled + {counts[2]} in flight + {counts[3]} waiting"
        if c.difference:
            text += f", and {c.difference:,} that were moving while the broker was asked"
        if c.difference is None:
            text += "; ? is not known"
        return {"ok": None if c.difference is None else c.difference == 0, "sentence": text}
    if past is None:
        return {"ok": None, "sentence": ""}
    known = past.published is not None and past.settled is not None
    text = f"{_count(past.published)} published = {_count(past.settled)} settled; nothing was left when it was removed"
    return {"ok": past.published == past.settled if known else None, "sentence": text}


def _count(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"
