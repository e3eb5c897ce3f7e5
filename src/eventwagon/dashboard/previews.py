"""What an order would do, in figures, before somebody confirms it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..contracts.lifecycle import State
from ..display.text import count
from ..values import sum_of
from .shapes import TrainShape, WagonShape


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What is concerned."""

    waiting: int | None
    in_flight: int | None
    inside: int | None
    wagons: int
    workers: int
    processes: int


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What an order would do. `refused`: why it can't be done now; empty: it can."""

    verb: str
    wagon: int | None
    allowed: bool
    refused: str
    title: str
    effects: Sequence[str]
    warnings: Sequence[str]
    counts: Counts


_TITLES = {"switch": "Switch", "pause": "Pause", "resume": "Resume", "drain": "Drain"}


def preview_of(train: TrainShape, verb: str, wagon: int | None, publishing: bool) -> Preview:
    """What `verb` would do to the train, or to this wagon, as it was at the last reading."""
    concerned = _concerned(train, verb, wagon)
    waiting, in_flight, inside = (sum_of([getattr(w, name) for w in concerned]) for name in _COUNTED)
    counts = Counts(
        waiting=waiting,
        in_flight=in_flight,
        inside=inside,
        wagons=len(concerned),
        workers=sum(w.workers for w in concerned),
        processes=sum(bool({"work", "serve"} & set(m.roles)) for m in train.members),
    )
    what = next((w.name for w in train.wagons if w.number == wagon), train.train)
    refused = _refused(train, verb, wagon, what, publishing)
    effects, warnings = _SAYS[verb](train, wagon, counts, publishing)
    return Preview(
        verb=verb,
        wagon=wagon,
        allowed=not refused,
        refused=refused,
        title=f"{_TITLES[verb]} {what}",
        effects=effects,
        warnings=warnings,
        counts=counts,
    )


_COUNTED = ("waiting", "in_flight", "inside")


def _concerned(train: TrainShape, verb: str, wagon: int | None) -> list[WagonShape]:
    if wagon is not None:
        return [w for w in train.wagons if w.number == wagon]
    if verb == "switch":
        return [w for w in train.wagons if w.state == State.ACTIVE.value]
    if verb == "drain":
        return [w for w in train.wagons if w.state in (State.ACTIVE.value, State.DRAINING.value)]
    return list(train.wagons)


def _refused(train: TrainShape, verb: str, wagon: int | None, what: str, publishing: bool) -> str:
    if train.trouble is not None:
        return f"{train.train} can't be read: {train.trouble.why}"
    if train.removing:
        return f"{train.train} is being removed"
    if wagon is not None and all(w.number != wagon for w in train.wagons):
        return f"there is no wagon {wagon} any more"
    pause = _own_pause(train, wagon)
    if verb == "pause" and pause is not None and not (publishing and not pause):
        return f"{what} is paused already"
    if verb == "resume" and pause is None:
        return f"{what} is not paused{'' if wagon is None else ' by itself'}"
    if verb in ("switch", "drain") and train.active is None:
        return "no wagon is active yet"
    return ""


def _own_pause(train: TrainShape, wagon: int | None) -> bool | None:
    """Whether the train's or the wagon's own pause refuses publishers, too; None: it is not paused."""
    if wagon is None:
        return None if train.pause is None else train.pause.publishing
    pause = next((w.pause for w in train.wagons if w.number == wagon), None)
    return None if pause is None or pause.whole else pause.publishing


def _events(n: int | None, one: str, many: str) -> str:
    """`1 event waits`, `2 events wait`."""
    return f"{count(n, 'event')} {one if n == 1 else many}"


def _unwatched(train: TrainShape) -> list[str]:
    if any("observe" in m.roles for m in train.members):
        return []
    return ["No observer is alive: the switch is requested, and made once one is."]


def _next(train: TrainShape) -> str:
    ready = [w.name for w in train.wagons if w.state == State.READY.value and w.revision == train.revision]
    if ready:
        return f"New events go to {ready[0]}, which is ready."
    coming = [w.name for w in train.wagons if w.state == State.PROVISIONING.value]
    if coming:
        return f"New events go to {coming[0]} as soon as it is ready."
    return "The next wagon is opened, and new events go there as soon as it is ready."


def _switch(train: TrainShape, wagon: int | None, n: Counts, publishing: bool) -> tuple[list[str], list[str]]:
    active = next((w.name for w in train.wagons if w.number == train.active), "The active wagon")
    effects = [
        _next(train),
        f"{active} takes no more events; {_events(n.waiting, 'waits', 'wait')} in it, and it drains.",
    ]
    warnings = _unwatched(train)
    if train.asked:
        warnings.append(f"A switch is requested already: {train.asked}")
    if train.cap is not None and len(train.wagons) >= train.cap:
        warnings.append(
            f"The train is at its cap of {count(train.cap, 'wagon')}: no other is opened until one is gone."
        )
    return effects, warnings


def _drain(train: TrainShape, wagon: int | None, n: Counts, publishing: bool) -> tuple[list[str], list[str]]:
    left = sum_of([n.waiting, n.in_flight, n.inside])
    effects = [
        _next(train),
        f"{_events(left, 'is', 'are')} still to be handled in {count(n.wagons, 'wagon')}; what is empty is removed.",
    ]
    warnings = _unwatched(train)
    if not n.processes and not n.workers:
        warnings.append("No worker is alive: no event is handled until one is.")
    paused = [w.name for w in train.wagons if w.pause is not None]
    if paused:
        warnings.append(f"{', '.join(paused[:5])} drain only once they are resumed.")
    if train.open:
        names = ", ".join(name or "the ingress" for name in train.open)
        warnings.append(f"The circuit breaker of {names} is open: its events are handled one at a time.")
    return effects, warnings


def _pause(train: TrainShape, wagon: int | None, n: Counts, publishing: bool) -> tuple[list[str], list[str]]:
    effects = [
        f"No more events are handed out: {_events(n.waiting, 'waits', 'wait')} until it is resumed.",
        f"{_events(n.in_flight, 'is', 'are')} handed out: handlers finish, and what was fetched ahead goes back.",
        "Publishers are refused (TrainPaused)." if publishing else "New events are still stored.",
    ]
    warnings = []
    if wagon is None:
        warnings.append("While the whole train is paused, its limit switches no wagons.")
    elif train.active == wagon:
        warnings.append("It is the active wagon: new events wait in it.")
    return effects, warnings


def _resume(train: TrainShape, wagon: int | None, n: Counts, publishing: bool) -> tuple[list[str], list[str]]:
    effects = [f"{_events(n.waiting, 'is', 'are')} handed out at once, retries that became due included."]
    warnings = []
    if wagon is not None and train.pause is not None:
        warnings.append("The whole train is paused, too: resume it as well.")
    still = [w.name for w in train.wagons if w.pause is not None and not w.pause.whole]
    if wagon is None and still:
        warnings.append(f"{', '.join(still[:5])} stay paused by themselves.")
    if train.open:
        names = ", ".join(name or "the ingress" for name in train.open)
        warnings.append(f"The circuit breaker of {names} is open.")
    return effects, warnings


_SAYS = {"switch": _switch, "drain": _drain, "pause": _pause, "resume": _resume}
