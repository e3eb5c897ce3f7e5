"""Elastic workers: from a look at a train to the number of workers of each wagon. Pure.

`DemandMeter` is an observer's memory: it estimates the demand. `scaled` is a phase of the plan: it stores the result of
`size` in the manifest, where observers, orchestrators and self-attaching processes read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ..contracts.facts import Decision, PromiseAtRisk, WagonScaled
from ..contracts.lifecycle import LIVE, State
from ..contracts.manifest import Manifest, Wagon, changed
from ..contracts.orchestrator import Deployment
from ..contracts.reading import Reading, Sample
from ..event import wagon_name
from ..settings import Settings
from ..workers import Workers
from .demand import Demand, Peak, Starts, Works, arrival_rate, calm_for
from .edits import Edit, asked_of
from .elastic import ElasticWagon, outlook, size
from .seen import Seen

_SURE = 20
"""After this many settled events, the number of handlings per event is considered known."""


class DemandMeter:
    """Estimates the demand for workers from all looks of one observer. Pure, no clock."""

    def __init__(self) -> None:
        self._works = Works()
        self._starts = Starts()
        self._peak = Peak()
        self._handlings = 1.0

    def look(
        self,
        settings: Settings,
        manifest: Manifest,
        readings: Mapping[int, Reading],
        deployments: Mapping[int, Deployment],
        arrived: Sequence[Sample],
        *,
        now: float,
        steady: float,
    ) -> tuple[Demand, Mapping[int, Reading]]:
        """Take in one look; returns the demand, and the readings with the outlook for new events added. `arrived`: the
        samples of all wagons together. `now` is in seconds since the epoch, `steady` in seconds of a clock that only
        goes forward."""
        if settings.workers.elastic is None or settings.promise is None:
            return Demand(), readings
        self._works.add({str(unit): d.work for unit, d in deployments.items() if d.work is not None}, steady)
        seen = elastic_wagons(settings.workers, manifest, readings, deployments, now)
        units = {w.number: w.unit for w in manifest.wagons}
        self._starts.look([(units[c.number], c.asked, c.present) for c in seen if not c.paused], steady)
        rate, start = arrival_rate(arrived), self._starts.usual
        calm = calm_for(start)
        mean, spread = self._service(readings, seen)
        demand = Demand(
            rate=None if rate is None else rate.now,
            trend=0.0 if rate is None else rate.trend,
            peak=self._peak.look(None if rate is None else rate.now, calm, steady),
            calm=calm,
            service=mean,
            spread=spread,
            start=start,
            coming={
                c.number: on_way
                for c in seen
                if (on_way := self._starts.coming(units[c.number], 0.0 if start is None else start))
            }
            if start is not None
            else {},
        )
        active, ahead = manifest.active, outlook(demand, seen, promise=settings.promise)
        if active is None or ahead is None or active.number not in readings:
            return demand, readings
        expects = msgspec.structs.replace(readings[active.number], wait=ahead.wait, relief=ahead.relief)
        return demand, {**readings, active.number: expects}

    def _service(self, readings: Mapping[int, Reading], seen: Sequence[ElasticWagon]) -> tuple[float | None, float]:
        """Seconds of work per published event, summed over all channels, and the spread as a share of it. If workers do
        not report it: the number of workers divided by the rate at which they settle events during a backlog."""
        emitted = sum(r.emitted for r in readings.values())
        settled = sum(r.settled or 0 for r in readings.values())
        if settled >= _SURE:
            self._handlings = 1.0 + emitted / settled
        if (mean := self._works.mean) is not None:
            return mean[0] * self._handlings, mean[1] / mean[0] if mean[0] else 0.0
        for each in seen:
            rate = readings[each.number].settle_rate if each.number in readings else None
            if each.state == "active" and rate and each.present:
                return each.present / rate, 1.0
        return None, 1.0


def elastic_wagons(
    workers: Workers,
    manifest: Manifest,
    readings: Mapping[int, Reading],
    deployments: Mapping[int, Deployment],
    now: float,
) -> list[ElasticWagon]:
    """The live wagons as input for `size`, oldest first, without those for replays: nothing is promised to these, and
    they keep the workers with which they began. A sleeping wagon counts as paused."""
    states: dict[State, Literal["active", "draining"]] = {State.ACTIVE: "active", State.DRAINING: "draining"}
    found = []
    for wagon in manifest.in_state(*LIVE):
        if wagon.replay:
            continue
        d, reading = deployments.get(wagon.unit), readings.get(wagon.number)
        serves = d is not None and d.number == wagon.number
        present = 0 if d is None or not serves else d.workers if d.attached is None else d.attached
        found.append(
            ElasticWagon(
                number=wagon.number,
                name=wagon_name(manifest.train, wagon.number),
                state=states.get(wagon.state, "spare"),
                outstanding=None if reading is None else reading.outstanding_in_all,
                asked=_asked(workers, manifest, wagon),
                present=present,
                grown=now - wagon.grown_at if wagon.grown_at is not None else float("inf"),
                active=now - wagon.active_at if wagon.active_at is not None and wagon.turn > 1 else float("inf"),
                closed=max(0.0, now - wagon.closed_at) if wagon.closed_at is not None else 0.0,
                paused=manifest.pause_of(wagon) is not None or wagon.asleep_at is not None,
            )
        )
    return found


def _asked(workers: Workers, manifest: Manifest, wagon: Wagon) -> int:
    """Workers asked for. A wagon that takes over another's workers begins with the same number."""
    if wagon.workers is None:
        for other in reversed(manifest.wagons):
            if other.unit == wagon.unit and other.workers is not None:
                return other.workers
    return asked_of(workers, wagon) or 0


class Scaled(Edit, frozen=True):
    """The manifest with the numbers of workers."""

    at_risk: bool = False
    """Events that are promised something have to wait, or will have to."""


def scaled(seen: Seen, manifest: Manifest) -> Scaled:
    """Store in the manifest how many workers each live wagon should have. `manifest` is the look's manifest as the
    earlier phases have left it."""
    settings = seen.settings
    elastic, promise = settings.workers.elastic, settings.promise
    if elastic is None or promise is None:
        # declared anew; if this process alone has no orchestrator, others may still find the promise at risk
        if manifest.at_risk and not settings.follows_if_orchestrated:
            manifest = msgspec.structs.replace(manifest, at_risk="")
        return Scaled(manifest)
    standing = elastic_wagons(settings.workers, manifest, seen.readings, seen.deployments, seen.now)
    took = {w.number for w in seen.manifest.in_state(State.ACTIVE, State.DRAINING)}
    # a wagon that this plan has just made active held nothing at the look
    standing = [c if c.number in took else c._replace(outstanding=0) for c in standing]
    replaying = sum(asked_of(settings.workers, w) or 0 for w in manifest.in_state(*LIVE) if w.replay)
    sizing = size(
        elastic.without(replaying) if replaying else elastic,
        seen.demand,
        standing,
        promise=promise,
        step=seen.step,
        reuse=bool(settings.reuse),
        cuts=settings.cuts_by_wait,
    )
    facts: list[Decision] = []
    for each in standing:
        wanted, wagon = sizing.workers[each.number], manifest.wagon(each.number)
        if wagon is None or wanted == asked_of(settings.workers, wagon):
            continue
        grown = seen.now if wanted > each.asked else wagon.grown_at
        manifest = changed(manifest, each.number, workers=wanted, grown_at=grown)
        if wanted != each.asked:
            why = sizing.why[each.number]
            facts.append(
                WagonScaled(train=manifest.train, number=each.number, was=each.asked, workers=wanted, because=why)
            )
    active, at_risk = manifest.active, bool(sizing.short or sizing.pressed)
    if active is not None and sizing.short and not manifest.at_risk:
        manifest = msgspec.structs.replace(manifest, at_risk=sizing.short)
        facts.append(PromiseAtRisk(train=manifest.train, number=active.number, because=sizing.short))
    elif manifest.at_risk and not at_risk and seen.ages.safe >= seen.demand.calm:  # one burst is told once
        manifest = msgspec.structs.replace(manifest, at_risk="")
    return Scaled(manifest, tuple(facts), at_risk=at_risk)


def no_room_for_one_more(workers: Workers, manifest: Manifest, step: int) -> bool:
    """Whether one more live wagon would tie up more than half of all workers by `least`, rounded up to a multiple of
    `step`."""
    elastic, live = workers.elastic, sum(not w.replay for w in manifest.in_state(*LIVE))
    return elastic is not None and 2 * (live + 1) * elastic.rounded(step) > elastic.most


def counts(settings: Settings, manifest: Manifest) -> Mapping[int, int]:
    """How many workers each live wagon should have, by wagon number."""
    return {w.number: asked_of(settings.workers, w) or 0 for w in manifest.in_state(*LIVE)}
