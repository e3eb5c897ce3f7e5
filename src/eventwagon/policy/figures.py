"""The figures of a whole train, as meters get them, from one look of an observer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..contracts.broker import Depth
from ..contracts.lifecycle import LIVE, State
from ..contracts.manifest import Manifest, Pause, Wagon
from ..contracts.metering import TrainFigures
from ..contracts.reading import Reading
from ..contracts.registry import Member
from ..event import DEAD, Channel
from ..limits import All, Any_, Limit, Pressure, measured, written
from ..settings import Settings
from ..values import sum_of
from .seen import Seen

LASTS = 10.0
"""Seconds after which the figures of a look are too old, at the least."""
_ROLES = ("observe", "work", "serve", "publish")
_NEW, _BACKLOG = "new", "backlog"
_KINDS = ("replay", "undo")
_STATES = ("running", "waiting", "stopped")


def reporter(members: Sequence[Member]) -> str | None:
    """The name of the one observer that reports on the train: the first by name of those that are alive, so that no sum
    over processes counts a train twice. None if none has checked in."""
    return min((m.name for m in members if "observe" in m.roles), default=None)


def figures_of(seen: Seen, *, dead_letters: int | None = None, later: int | None = None) -> TrainFigures:
    """The figures of the train at this look."""
    settings, manifest, readings = seen.settings, seen.manifest, seen.readings
    draining = manifest.in_state(State.DRAINING)
    open_ = {name for d in seen.deployments.values() for name in d.open}
    return TrainFigures(
        train=manifest.train,
        at=seen.now,
        lasts=max(LASTS, 10 * settings.observe_every),
        wagons={state.value: len(manifest.in_state(state)) for state in State},
        cap=settings.wagons,
        outstanding=dict(_outstanding(manifest, readings)),
        oldest=dict(_oldest(manifest, readings)),
        predicted=dict(_predicted(settings, manifest, readings)),
        promise=settings.promise,
        pressures={
            limit: float(found.value)
            for limit, found in pressures_of(settings.limit, _reading(manifest.active, readings))
        },
        drain_age=max((seen.now - w.closed_at for w in draining if w.closed_at is not None), default=0.0),
        breakers={name: name in open_ for name in ("", *manifest.channels)},
        dead_letters=dead_letters,
        later=later,
        replays=_replays(manifest),
        replay_left={kind: sum(r.left for r in manifest.replays if r.kind == kind) for kind in _KINDS},
        paused=manifest.paused is not None or any(w.paused is not None for w in manifest.wagons),
        wagons_paused=sum(manifest.pause_of(w) is not None for w in manifest.in_state(*LIVE)),
        pause_age=max((max(0.0, seen.now - pause.at) for pause in _pauses(manifest)), default=0.0),
        refusing=bool(manifest.refusing) or (manifest.paused is not None and manifest.paused.publishing),
        processes={role: sum(role in m.roles for m in seen.members) for role in _ROLES},
    )


def _replays(manifest: Manifest) -> dict[tuple[str, str], int]:
    """How many replays and undos there are of each kind and state."""
    states: list[tuple[str, str]] = [(r.kind, manifest.state_of(r)) for r in manifest.replays]
    return {(kind, state): states.count((kind, state)) for kind in _KINDS for state in _STATES}


def _pauses(manifest: Manifest) -> list[Pause]:
    found = [manifest.paused, *(w.paused for w in manifest.in_state(*LIVE))]
    return [pause for pause in found if pause is not None]


def letters_in(manifest: Manifest) -> list[Channel]:
    """The channels that hold the train's dead letters. Those of a wagon that is being removed count until they are in
    the train's own channel; that comes last, so that a letter which moves meanwhile is not missed."""
    wagons = manifest.in_state(State.ACTIVE, State.DRAINING, State.DRAINED, State.REMOVING)
    return [*(manifest.dead_letters(w) for w in wagons if w.letters_kept == 0), Channel(manifest.train, 0, DEAD)]


def letters_kept(depths: Iterable[Depth]) -> int:
    """How many dead letters the channels of these depths hold."""
    return sum(max(0, (d.published or 0) - (d.settled or 0)) for d in depths)


def _reading(wagon: Wagon | None, readings: Mapping[int, Reading]) -> Reading | None:
    return None if wagon is None else readings.get(wagon.number)


def _parts(manifest: Manifest, readings: Mapping[int, Reading]) -> Iterator[tuple[str, list[Reading | None]]]:
    """The readings of the active wagon, and of the draining ones; None for one that could not be read."""
    for of, state in ((_NEW, State.ACTIVE), (_BACKLOG, State.DRAINING)):
        yield of, [readings.get(w.number) for w in manifest.in_state(state)]


def _outstanding(manifest: Manifest, readings: Mapping[int, Reading]) -> Iterator[tuple[tuple[str, str], int]]:
    for of, found in _parts(manifest, readings):
        waiting = sum_of([None if r is None else r.waiting for r in found])
        in_flight = sum_of([None if r is None else r.in_flight for r in found])
        inside = sum_of([None if r is None else sum_of(list(r.inner.values())) for r in found])
        for state, count in (("waiting", waiting), ("in_flight", in_flight), ("inside", inside)):
            if count is not None:
                yield (of, state), count


def _oldest(manifest: Manifest, readings: Mapping[int, Reading]) -> Iterator[tuple[str, float]]:
    for of, found in _parts(manifest, readings):
        known = [r.oldest_age for r in found if r is not None and r.oldest_age is not None]
        none_waits = all(r is not None and r.waiting == 0 for r in found)
        if known or none_waits:
            yield of, max(known, default=0.0)


def _predicted(settings: Settings, manifest: Manifest, readings: Mapping[int, Reading]) -> Iterator[tuple[str, float]]:
    active = _reading(manifest.active, readings)
    if active is not None and (wait := active.wait if active.wait is not None else _to_settle(active)) is not None:
        yield _NEW, wait
    waits: list[float] = []
    for wagon in manifest.in_state(State.DRAINING):
        reading = readings.get(wagon.number)
        if reading is None or (wait := _to_settle(reading)) is None:
            return
        waits.append(wait)
    shared = settings.workers.total is not None
    yield _BACKLOG, sum(waits) if shared else max(waits, default=0.0)


def _to_settle(reading: Reading) -> float | None:
    """Seconds until all its events are settled, at the rate at which that goes now. None: not known."""
    if reading.outstanding == 0:
        return 0.0
    if reading.outstanding is None or not reading.settle_rate:
        return None
    return reading.outstanding / reading.settle_rate


def pressures_of(limit: Limit, reading: Reading | None) -> Iterator[tuple[str, Pressure]]:
    """How full the wagon is by each part of the limit, as that is written. A part that fails is left out."""
    if isinstance(limit, Any_ | All):
        yield from pressures_of(limit.a, reading)
        yield from pressures_of(limit.b, reading)
    elif reading is not None:
        pressure, faults = measured(limit, reading)
        if not faults:
            yield written(limit), pressure
