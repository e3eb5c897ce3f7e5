"""While a train is paused no figure, limit or setting has a wagon opened or switched but for spares and by hand."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Age, Lag, Reading, Settings, Throughput, Volume, Wait, Workers
from eventwagon.contracts.facts import Switched, WagonOpened
from eventwagon.contracts.lifecycle import LIVE, State
from eventwagon.contracts.manifest import Manifest, Pause, Request
from eventwagon.contracts.reading import Sample
from eventwagon.limits import Limit
from eventwagon.policy.edits import Edit, Full, Lift, load_of, when_full
from eventwagon.policy.plan import plan
from eventwagon.policy.scheduling import allocate
from tests.unit.plans import NOW, look, manifest, ready, wagon

_LIMITS: st.SearchStrategy[Limit] = st.sampled_from(
    [Volume(1), Volume(1000), Lag(3), Wait(0.5), Age(1.0), Throughput(1.0, seconds=1.0), Volume(50) | Lag(3)]
)
_COUNT = st.none() | st.integers(0, 10_000)
_SECONDS = st.none() | st.floats(0, 1e6)


@st.composite
def _trains(draw: Any) -> Manifest:
    """An active wagon, others in any state, and the pause of all."""
    states = draw(st.lists(st.sampled_from([s for s in State if s is not State.ACTIVE]), max_size=4))
    place = draw(st.integers(0, len(states)))
    states.insert(place, State.ACTIVE)
    wagons = [wagon(n + 1, state, capacity=draw(st.none() | st.just(1))) for n, state in enumerate(states)]
    return manifest(*wagons, paused=Pause(why="moving", at=NOW), turns=len(wagons))


@st.composite
def _readings(draw: Any, number: int) -> Reading:
    published, settled = draw(_COUNT), draw(_COUNT)
    samples = tuple(Sample(NOW - 10 + n, 1000 * n, 0, 0) for n in range(10)) if draw(st.booleans()) else ()
    return Reading(
        number=number,
        at=NOW,
        age=draw(st.floats(0, 1e6)),
        published=published,
        settled=settled,
        waiting=draw(_COUNT),
        oldest_age=draw(_SECONDS),
        newest_age=draw(_SECONDS),
        settle_rate=draw(_SECONDS),
        outstanding_in_all=draw(_COUNT),
        samples=samples,
    )


@given(data=st.data(), m=_trains(), limit=_LIMITS, spares=st.integers(0, 2), reuse=st.booleans())
def test_nothing_but_spares_is_opened_and_nothing_switched(
    data: st.DataObject, m: Manifest, limit: Limit, spares: int, reuse: bool
) -> None:
    settings = Settings(limit=limit, workers=Workers(each=1), spares=spares, reuse=reuse, wagons=8)
    readings = [data.draw(_readings(w.number)) for w in m.wagons]
    deployments = ready(*(w.number for w in m.in_state(*LIVE)))
    ages = dict.fromkeys(range(1, 9), 1e6)
    long = look(m, readings, deployments, settings=settings, ages=ages, failed_opens=1e6, unwanted=1e6, idle=1e6)
    decided = plan(long)
    assert decided.defects == ()
    assert not any(isinstance(fact, Switched) for fact in decided.facts)
    opened = [fact for fact in decided.facts if isinstance(fact, WagonOpened)]
    assert len(decided.manifest.in_state(State.PROVISIONING, State.READY)) <= max(
        spares + reuse, len(m.in_state(State.PROVISIONING, State.READY)), spares
    )
    assert all("fills" not in fact.because for fact in opened)
    full = when_full(settings, m, data.draw(st.floats(0, 100)), NOW)
    assert isinstance(full, Full) or (
        isinstance(full, Edit) and full.manifest is m and all(isinstance(task, Lift) for task in full.tasks)
    )


@given(m=_trains(), limit=_LIMITS)
def test_a_switch_by_hand_is_made_where_a_wagon_is_ready(m: Manifest, limit: Limit) -> None:
    m = msgspec.structs.replace(m, request=Request("by hand", NOW))
    settings = Settings(limit=limit, workers=Workers(each=1), wagons=8)
    deployments = ready(*(w.number for w in m.in_state(*LIVE)))
    decided = plan(look(m, [], deployments, settings=settings))
    assert any(isinstance(fact, Switched) for fact in decided.facts) == bool(m.in_state(State.READY))


@given(data=st.data(), total=st.integers(1, 12), floor=st.integers(0, 1), slo=st.none() | st.floats(0.1, 100))
def test_paused_wagons_get_no_worker_while_another_could_use_it(
    data: st.DataObject, total: int, floor: int, slo: float | None
) -> None:
    states = [State.DRAINING] * data.draw(st.integers(0, 4)) + [State.ACTIVE]
    m = manifest(*(wagon(n + 1, state) for n, state in enumerate(states)))
    rests = data.draw(st.sets(st.integers(1, len(states))))
    loads = [load_of(w, data.draw(_readings(w.number)), None, NOW, paused=w.number in rests) for w in m.wagons]
    given_ = allocate(Workers(total=total, floor=floor), loads, slo=slo, now=NOW)
    assert sum(given_.values()) <= total
    for load in loads:
        if load.number in rests and given_[load.number]:
            others = [o for o in loads if o.number not in rests]
            assert all(given_[o.number] >= min(total, o.outstanding or 0) or o.outstanding is None for o in others)
            assert load.state == "active", "what nobody needs stays with the new events"
