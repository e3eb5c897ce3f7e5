"""How many workers wagons get that follow the traffic, by example, and how the plan stores that."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventwagon import Elastic, Settings, Volume, Wait, Workers
from eventwagon.contracts.facts import OpenRefused, PromiseAtRisk, WagonOpened, WagonScaled
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Pause
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.reading import Reading
from eventwagon.policy.demand import Coming, Demand
from eventwagon.policy.edits import Lift, asked_of
from eventwagon.policy.elastic import ElasticWagon, outlook, size
from eventwagon.policy.plan import plan
from eventwagon.policy.seen import Ages
from tests.unit.plans import NOW, look, manifest, one, reading, wagon

STEADY = Demand(rate=100.0, peak=100.0, service=0.1, spread=0.5, start=2.0)
"""Ten workers' work."""
SETTINGS = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(2, 64)), spares=1)


def test_the_rate_alone_sizes_the_active_wagon() -> None:
    sized = ElasticWagon(1, "active", 4, asked=2, present=2)
    assert size(Elastic(2, 64), STEADY, [sized], promise=2.0, cuts=False).workers == {1: 12}
    assert size(Elastic(2, 64, headroom=2.0), STEADY, [sized], promise=2.0, cuts=False).workers == {1: 20}
    assert size(Elastic(2, 64), STEADY, [sized], promise=2.0, step=8, cuts=False).workers == {1: 16}
    rising = msgspec.structs.replace(STEADY, trend=10.0)
    assert size(Elastic(2, 64), rising, [sized], promise=2.0, cuts=False).workers[1] >= 15


def test_workers_go_after_a_calm_and_not_those_in_need() -> None:
    calm = msgspec.structs.replace(STEADY, rate=10.0, peak=10.0)
    assert size(Elastic(2, 64), calm, [ElasticWagon(1, "active", 0, 20, 20)], promise=2.0).workers == {1: 2}
    assert size(Elastic(2, 64), calm, [ElasticWagon(1, "active", 15, 20, 20)], promise=2.0).workers == {1: 15}
    assert size(Elastic(2, 64), calm, [ElasticWagon(1, "active", None, 20, 20)], promise=2.0).workers == {1: 20}
    assert size(Elastic(2, 64), calm, [ElasticWagon(1, "active", 0, 20, 20, grown=1.0)], promise=2.0).workers == {1: 20}
    assert size(Elastic(2, 64), calm, [ElasticWagon(1, "active", 0, 20, 20, paused=True)], promise=2.0).workers == {
        1: 20
    }
    early = msgspec.structs.replace(calm, peak=None)
    assert size(Elastic(2, 64), early, [ElasticWagon(1, "active", 0, 20, 20)], promise=2.0).workers == {1: 20}


def test_a_backlog_is_drained_within_what_was_asked_for() -> None:
    sizes = [ElasticWagon(1, "draining", 400, 4, 4, closed=2.0), ElasticWagon(2, "active", 0, 12, 12)]
    # when further workers are there, in 2 s, 32 s of work are left
    assert size(Elastic(2, 64, drain_within=10.0), STEADY, sizes, promise=2.0).workers[1] == 6
    assert size(Elastic(2, 64, drain_within=6.0), STEADY, sizes, promise=2.0).workers[1] == 16
    assert size(Elastic(2, 64, drain_within=4.0), STEADY, sizes, promise=2.0).workers[1] == 32
    assert size(Elastic(2, 16, drain_within=4.0), STEADY, sizes, promise=2.0).workers == {1: 4, 2: 12}
    few = [ElasticWagon(1, "draining", 1, 10, 10, closed=2.0), ElasticWagon(2, "active", 0, 12, 12)]
    assert size(Elastic(2, 64), STEADY, few, promise=2.0).workers[1] == 2


BUSY = msgspec.structs.replace(STEADY, rate=150.0, peak=150.0, start=0.1)
"""Fifteen workers' work, which come at once."""


def test_no_wagon_is_squeezed_below_least() -> None:
    sizes = [
        ElasticWagon(1, "draining", 250, 5, 5),
        ElasticWagon(2, "active", 0, 2, 2),
        ElasticWagon(3, "spare", None, 2, 2),
    ]
    assert size(Elastic(2, 9), BUSY, sizes, promise=2.0).workers == {1: 2, 2: 2, 3: 2}  # as long as 1 has its five
    gone = [sizes[0]._replace(asked=2, present=2), *sizes[1:]]
    found = size(Elastic(2, 9), BUSY, gone, promise=2.0)
    assert found.workers == {1: 2, 2: 5, 3: 2}
    assert "most=9" in found.why[2]
    assert size(Elastic(2, 6), BUSY, gone, promise=2.0).workers == {1: 2, 2: 2, 3: 2}
    # in Pods of four there are two Pods for three wagons
    pods = [c._replace(asked=4, present=4) for c in sizes[:2]] + [sizes[2]._replace(asked=0, present=0)]
    assert size(Elastic(2, 9), BUSY, pods, promise=2.0, step=4).workers == {1: 4, 2: 4, 3: 0}


def test_a_draining_wagon_gives_only_what_new_events_need() -> None:
    """Not what the active wagon keeps until a calm is over."""
    quiet = msgspec.structs.replace(BUSY, rate=5.0, peak=None, start=30.0)
    sizes = [ElasticWagon(1, "draining", 250, 5, 5), ElasticWagon(2, "active", 0, 5, 1, grown=0.5)]
    assert size(Elastic(2, 8), quiet, sizes, promise=2.0).workers == {1: 5, 2: 3}


def test_where_workers_come_at_once_a_backlog_has_those_that_nobody_needs() -> None:
    """Where they would come when it is done, a draining wagon keeps what it has."""
    quiet = msgspec.structs.replace(BUSY, rate=5.0, peak=150.0)
    sizes = [ElasticWagon(1, "draining", 250, 2, 2), ElasticWagon(2, "active", 0, 10, 10, grown=3.0)]
    assert size(Elastic(2, 64), quiet, sizes, promise=2.0).workers == {1: 13, 2: 10}
    late = msgspec.structs.replace(quiet, start=15.0)
    assert size(Elastic(2, 64), late, sizes, promise=2.0).workers == {1: 2, 2: 10}
    # the active wagon gives up those that it keeps for a calm; wagon 1 gets them once they have left
    assert size(Elastic(2, 12), quiet, sizes, promise=2.0).workers == {1: 2, 2: 2}
    left = [sizes[0], sizes[1]._replace(asked=2, present=2)]
    assert size(Elastic(2, 12), quiet, left, promise=2.0).workers == {1: 10, 2: 2}


def test_late_events_of_a_draining_wagon_get_workers_and_are_told() -> None:
    """Two hundred at once, cut off in the look that saw them; two workers handle 40 until others are there."""
    once = msgspec.structs.replace(STEADY, rate=10.0, peak=10.0)
    sizes = [ElasticWagon(1, "draining", 202, 2, 2), ElasticWagon(2, "active", 0, 2, 2)]
    found = size(Elastic(2, 64), once, sizes, promise=2.0)
    assert found.workers == {1: 16, 2: 2}
    assert "its 202 events need 11 workers" in found.short
    assert found.short.endswith("least=11 would be needed")
    assert size(Elastic(2, 8), once, sizes, promise=2.0).short.endswith("least=11, most=22 would be needed")
    # a second later the same are asked for: they are on their way
    later = sizes[0]._replace(outstanding=182, asked=16, closed=1.0)
    coming = msgspec.structs.replace(once, coming={1: (Coming(16, 1.0),)})
    assert size(Elastic(2, 64), coming, [later, sizes[1]], promise=2.0).workers == {1: 16, 2: 2}
    nearly = ElasticWagon(1, "draining", 14, 2, 2, closed=1.5)
    assert size(Elastic(2, 64), once, [nearly, sizes[1]], promise=1.9).short.endswith("least=3 would be needed")
    retried = ElasticWagon(1, "draining", 1, 2, 2, closed=30.0)
    assert not size(Elastic(2, 64), once, [retried, sizes[1]], promise=2.0).short


@pytest.mark.parametrize("start", [0.5, 2.0])
@pytest.mark.parametrize("service", [0.1, 0.25])
def test_workers_for_a_backlog_are_asked_for_once(start: float, service: float) -> None:
    """Looked at ten times a second until it is done, which is in time, or as late as the start-up makes it."""
    elastic, at, asked, left, scalings = Elastic(2, 99, drain_within=3.0), 0.0, 2, 200.0, 0
    while left >= 1:
        there = asked if at >= start else 2
        demand = Demand(rate=5.0, service=service, start=start, coming={1: (Coming(asked, max(0.0, start - at)),)})
        wagons = [ElasticWagon(1, "draining", round(left), asked, there, closed=at), ElasticWagon(2, "active", 0, 2, 2)]
        wanted = size(elastic, demand, wagons, promise=2.0).workers[1]
        scalings += wanted > asked
        asked = max(asked, wanted)
        left, at = left - there * 0.1 / service, at + 0.1
    assert scalings == 1
    assert at <= 3.0 + service


def test_a_wagon_that_will_soon_be_done_keeps_its_workers() -> None:
    """They serve the next one, unless new events need them sooner."""
    idle = msgspec.structs.replace(STEADY, rate=10.0, peak=10.0)
    wagons = [ElasticWagon(1, "draining", 3, 9, 9, closed=0.1), ElasticWagon(2, "active", 0, 2, 2)]
    assert size(Elastic(2, 64), idle, wagons, promise=2.0).workers == {1: 9, 2: 2}
    assert size(Elastic(2, 11), STEADY, wagons, promise=2.0).workers == {1: 2, 2: 2}  # 2 gets them once they are free
    stays = [wagons[0]._replace(closed=2.0), wagons[1]]
    assert size(Elastic(2, 64), idle, stays, promise=2.0).workers == {1: 3, 2: 2}


def test_if_switches_come_fast_workers_are_not_asked_for_one_by_one() -> None:
    busy = [ElasticWagon(2, "active", 0, 10, 10, grown=0.5, active=1.0)]
    assert size(Elastic(2, 64), STEADY, busy, promise=2.0).workers == {2: 10}
    assert size(Elastic(2, 64), STEADY, [busy[0]._replace(active=20.0)], promise=2.0).workers == {2: 12}
    assert size(Elastic(2, 64), STEADY, [busy[0]._replace(grown=2.0)], promise=2.0).workers == {2: 12}
    more = msgspec.structs.replace(STEADY, rate=130.0)
    assert size(Elastic(2, 64), more, busy, promise=2.0).workers == {2: 16}


def test_a_calm_is_claimed_only_if_it_was_there() -> None:
    """The rate has not been higher for ten seconds; but its rise was 1.4 s ago, and more was expected."""
    demand = msgspec.structs.replace(BUSY, rate=152.0, peak=152.0)
    sized = ElasticWagon(1, "active", 12, 25, 25, grown=1.4)
    assert size(Elastic(2, 64), demand, [sized], promise=2.0).workers == {1: 25}
    more_than_came = size(Elastic(2, 64), demand, [sized._replace(grown=2.5)], promise=2.0)
    assert more_than_came.workers[1] < 25
    assert "no more than 152 events/s in the rise of 2.5 s ago" in more_than_came.why[1]
    calm = size(Elastic(2, 64), demand, [sized._replace(grown=10.0)], promise=2.0)
    assert calm.workers == more_than_came.workers
    assert "no more than 152 events/s for 10 s" in calm.why[1]


def test_a_spare_that_grew_stays_so_until_new_events_have_met_it() -> None:
    sizes = [ElasticWagon(1, "active", 3, 12, 12), ElasticWagon(2, "spare", None, 6, 6, grown=0.1)]
    assert size(Elastic(2, 64), STEADY, sizes, promise=2.0).workers[2] == 6
    assert size(Elastic(2, 64), STEADY, [sizes[0], sizes[1]._replace(grown=2.0)], promise=2.0).workers[2] == 2


def test_what_is_on_its_way_shortens_the_wait() -> None:
    sized = ElasticWagon(1, "active", 100, asked=4, present=4)
    alone = outlook(STEADY, [sized], promise=2.0)
    helped = outlook(
        msgspec.structs.replace(STEADY, coming={1: (Coming(40, 0.5),)}), [sized._replace(asked=40)], promise=2.0
    )
    assert alone is not None
    assert helped is not None
    assert alone.wait == pytest.approx(97 * 0.1 / 4)
    assert helped.wait == pytest.approx(0.5 + (97 - 20) * 0.1 / 40)
    assert not alone.relief
    spare = ElasticWagon(2, "spare", None, 4, 4)
    assert outlook(STEADY, [sized, spare], promise=2.0) == (alone.wait, True)


def test_events_that_take_longer_than_promised_are_told() -> None:
    slow = msgspec.structs.replace(STEADY, service=3.0)
    found = size(Elastic(2, 64), slow, [ElasticWagon(1, "active", 0, 2, 2)], promise=2.0)
    assert "more than the 2 s" in found.short


def test_a_few_long_events_are_no_risk() -> None:
    """In the mean over all an event takes longer than promised, but most take a moment; and where nothing comes any
    more, nothing is at risk."""
    idle = [ElasticWagon(1, "active", 0, 2, 2)]
    few_long = msgspec.structs.replace(STEADY, rate=1.0, peak=1.0, service=2.1, spread=4.0)
    assert not size(Elastic(2, 64), few_long, idle, promise=2.0).short
    all_long = msgspec.structs.replace(few_long, spread=0.2)
    assert "more than the 2 s" in size(Elastic(2, 64), all_long, idle, promise=2.0).short
    over = msgspec.structs.replace(all_long, rate=0.0, peak=0.0)
    assert not size(Elastic(2, 64), over, idle, promise=2.0).short
    in_hand = [ElasticWagon(1, "draining", 2, 2, 2, closed=5.0), ElasticWagon(2, "active", 0, 2, 2)]
    long = msgspec.structs.replace(few_long, service=1.5, spread=0.2)
    assert not size(Elastic(2, 64), long, in_hand, promise=2.0).short
    assert size(Elastic(2, 64), long, [in_hand[0]._replace(outstanding=6), in_hand[1]], promise=2.0).short


def test_too_few_workers_are_told_only_if_events_have_to_wait() -> None:
    """The first few handlings were long ones, so more workers seem to be needed than there may be."""
    seem = msgspec.structs.replace(STEADY, rate=1.0, peak=1.0, service=3.0, spread=1.5)
    idle = [ElasticWagon(1, "active", 0, 2, 2), ElasticWagon(2, "spare", None, 2, 2)]
    assert not size(Elastic(2, 4), seem, idle, promise=5.0).short
    waits = [idle[0]._replace(outstanding=9), idle[1]]
    assert "most=4 and 2 of them" in size(Elastic(2, 4), seem, waits, promise=5.0).short


def test_events_that_came_at_once_get_the_workers_that_they_need() -> None:
    """Nobody could have asked for them in time. If the rate brought them, as many again: late events are late."""
    once = msgspec.structs.replace(STEADY, rate=0.0, peak=0.0, start=0.1)
    held = [ElasticWagon(1, "active", 200, 2, 2)]
    assert size(Elastic(2, 64), once, held, promise=2.0, cuts=False).workers == {1: 20}
    stored = msgspec.structs.replace(once, rate=None, peak=None, start=None)
    found = size(Elastic(2, 64), stored, held, promise=2.0, cuts=False)
    assert found.workers == {1: 16}  # those that are there will have handled 40 when others come
    assert found.why[1].startswith("the arrival rate is not known yet, 0.1 s of work each")
    rising = [ElasticWagon(1, "active", 200, 12, 12)]
    assert size(Elastic(2, 64), STEADY, rising, promise=2.0, cuts=False).workers[1] <= 12 + 20


def test_a_backlog_that_is_worked_off_in_time_is_no_risk() -> None:
    """Three hundred events at once, after which none comes: as many workers as may be there keep the promise."""
    once = msgspec.structs.replace(STEADY, rate=0.0, peak=0.0, service=0.05, start=0.1)
    held = [ElasticWagon(1, "active", 300, 2, 2)]
    assert not size(Elastic(2, 64), once, held, promise=2.0).short
    late = msgspec.structs.replace(once, start=2.0)
    short = size(Elastic(2, 64), late, held, promise=2.0).short
    assert short.startswith("new events need 8 workers")
    assert short.endswith("least=8 would be needed")
    assert size(Elastic(2, 8), late, held, promise=2.0).short.endswith("least=8, most=16 would be needed")


def test_wait_counts_what_is_on_its_way_and_whether_the_next_wagon_can_take_over() -> None:
    waits = Reading(number=1, at=0.0, age=1.0, published=100, settled=0, wait=3.0)
    assert Wait(2.0).measure(waits).value == 3.0
    assert Wait(2.0).measure(msgspec.structs.replace(waits, relief=False)).value < 1
    assert Wait(2.0).measure(msgspec.structs.replace(waits, wait=0.1, crowding=1.0)).value == pytest.approx(0.1)


def test_wait_says_how_its_mark_came_about() -> None:
    two_of_32 = Reading(number=1, at=0.0, age=1.0, published=100, settled=0, settle_rate=50.0, crowding=2 / 32)
    assert Wait(2.0).measure(two_of_32).why.endswith("; the mark is 1.09 s (2 s × 0.5 × 1.09 at 6% of the cap)")
    elastic = msgspec.structs.replace(two_of_32, wait=0.3)
    assert Wait(2.0, cut=0.75).measure(elastic).why.endswith("; the mark is 1.5 s (2 s × 0.75)")


def test_the_plan_stores_the_size_with_its_figures() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    deployments = {n: Deployment(number=n, ready=True, workers=2) for n in (1, 2)}
    seen = msgspec.structs.replace(look(m, [reading(1, 10, 5)], deployments, settings=SETTINGS), demand=STEADY)
    decided = plan(seen)
    scaled = one(decided.facts, WagonScaled)
    assert (scaled.number, scaled.was, scaled.workers) == (1, 2, 12)
    assert "100 events/s" in scaled.because
    active = decided.manifest.wagon(1)
    assert active is not None
    assert (active.workers, active.grown_at) == (12, NOW)
    again = plan(msgspec.structs.replace(seen, manifest=decided.manifest))
    assert not again.facts
    assert again.manifest is decided.manifest  # nothing to store


def test_a_wagon_that_takes_over_warm_workers_keeps_their_number() -> None:
    m = manifest(
        wagon(1, State.DRAINED, workers=9), wagon(2, State.ACTIVE, workers=12), wagon(3, State.PROVISIONING, reuses=1)
    )
    seen = look(m, [reading(2, 10, 10)], {2: Deployment(number=2, ready=True, workers=12)}, settings=SETTINGS)
    decided = plan(msgspec.structs.replace(seen, demand=Demand()))
    new = decided.manifest.wagon(3)
    assert new is not None
    assert asked_of(SETTINGS.workers, new) == 9
    assert not [f for f in decided.facts if isinstance(f, WagonScaled)]


def test_a_promise_at_risk_is_told_once_and_stands_until_it_is_over() -> None:
    settings = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(2, 4)), spares=1)
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    deployments = {n: Deployment(number=n, ready=True, workers=2) for n in (1, 2)}
    seen = look(m, [reading(1, 10, 5)], deployments, settings=settings)
    decided = plan(msgspec.structs.replace(seen, demand=STEADY))
    assert "would be needed" in one(decided.facts, PromiseAtRisk).because
    standing = msgspec.structs.replace(seen, manifest=decided.manifest)
    more = msgspec.structs.replace(STEADY, rate=120.0)
    assert not [f for f in plan(msgspec.structs.replace(standing, demand=more)).facts if isinstance(f, PromiseAtRisk)]
    calm = msgspec.structs.replace(standing, demand=msgspec.structs.replace(STEADY, rate=5.0, peak=5.0))
    assert plan(calm).manifest.at_risk
    assert plan(msgspec.structs.replace(calm, ages=Ages(safe=9.9))).manifest.at_risk
    assert not plan(msgspec.structs.replace(calm, ages=Ages(safe=10.0))).manifest.at_risk
    again = plan(msgspec.structs.replace(standing, demand=STEADY, ages=Ages(safe=10.0)))
    assert again.at_risk
    assert again.manifest.at_risk


@pytest.mark.parametrize(
    ("settings", "stands"),
    [
        (Settings(limit=Wait(2.0), workers=Workers(each=4), spares=1), False),
        (Settings(limit=Volume(100), workers=Workers(total=4), spares=1), False),
        # others of the train may have an orchestrator, and workers that follow the traffic
        (Settings(limit=Wait(2.0), spares=1), True),
    ],
)
def test_a_promise_that_is_no_longer_made_is_not_at_risk(settings: Settings, *, stands: bool) -> None:
    m = msgspec.structs.replace(manifest(wagon(1, State.ACTIVE), wagon(2, State.READY)), at_risk="too few workers")
    decided = plan(look(m, [reading(1, 0, 0)], settings=settings))
    assert bool(decided.manifest.at_risk) is stands
    assert not decided.at_risk


def test_a_spare_waits_while_its_workers_are_needed_for_a_backlog() -> None:
    draining, active = wagon(1, State.DRAINING, workers=4), wagon(2, State.ACTIVE, workers=2)
    for most, wagons, opened in (
        (6, (draining, active), False),
        (12, (draining, active), True),
        (6, (active,), True),
    ):
        settings = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(2, most)), spares=1)
        decided = plan(look(manifest(*wagons), [reading(1, 300, 10), reading(2, 0)], settings=settings))
        assert bool([f for f in decided.facts if isinstance(f, WagonOpened)]) is opened


def test_a_spare_that_stands_is_not_put_away_for_a_backlog() -> None:
    """Or it would be opened again as soon as it has gone, and so on."""
    wagons = wagon(1, State.DRAINING, workers=4), wagon(2, State.ACTIVE, workers=2), wagon(3, State.READY)
    settings = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(2, 12)), spares=1, keep_warm=0.0)
    decided = plan(look(manifest(*wagons), [reading(1, 300, 10), reading(2, 0), reading(3, 0)], settings=settings))
    assert [w.state for w in decided.manifest.wagons] == [State.DRAINING, State.ACTIVE, State.READY]


def test_no_more_wagons_live_than_can_each_have_a_pod() -> None:
    """Of twelve workers in Pods of four three wagons have one each, though six could have `least`."""
    wagons = [wagon(1, State.DRAINING), wagon(2, State.DRAINING), wagon(3, State.ACTIVE)]
    readings = [reading(1, 300, 10), reading(2, 300, 10), reading(3, 300, 10)]
    settings = Settings(limit=Volume(300), workers=Workers(each=Elastic(2, 12, promise=2.0)))
    seen = look(manifest(*wagons), readings, settings=settings)
    assert [f for f in plan(seen).facts if isinstance(f, WagonOpened)]
    whole = plan(msgspec.structs.replace(seen, settings=settings.orchestrated(4), step=4))
    assert not [f for f in whole.facts if isinstance(f, WagonOpened)]
    assert any("the cap of 3 live wagons is reached" in r.because for r in whole.refusals if isinstance(r, OpenRefused))


def test_where_pods_leave_room_for_fewer_wagons_the_observer_lifts_the_bound() -> None:
    """Publishers elsewhere don't know the Pods: they would be held at the full wagon."""
    wagons = [wagon(1, State.DRAINING), wagon(2, State.DRAINING), wagon(3, State.ACTIVE, capacity=300)]
    readings = [reading(1, 300, 10), reading(2, 300, 10), reading(3, 300, 10)]
    settings = Settings(limit=Volume(300), workers=Workers(each=Elastic(2, 12, promise=2.0)))
    seen = look(manifest(*wagons), readings, settings=settings.orchestrated(4))
    lifted = Lift(3, "the cap of 3 live wagons is reached")
    assert lifted in plan(msgspec.structs.replace(seen, step=4)).tasks
    refuses = msgspec.structs.replace(seen.settings, at_cap="refuse")
    refused = plan(msgspec.structs.replace(seen, settings=refuses, step=4))
    assert lifted not in refused.tasks
    assert refused.manifest.refusing == "the cap of 3 live wagons is reached"


@pytest.mark.parametrize(("spares", "opened"), [("auto", 3), (5, 5)])
def test_spares_that_were_not_asked_for_leave_half_of_the_workers(spares: Any, opened: int) -> None:
    """Wagon 1 took 10 s to get ready and is half full after a second: more switches are expected than there is room."""
    settings = Settings(limit=Volume(100), workers=Workers(each=Elastic(2, 16, promise=2.0)), spares=spares)
    active = wagon(2, State.ACTIVE, opened_at=NOW - 11, ready_at=NOW - 1, active_at=NOW - 1)
    decided = plan(look(manifest(active), [reading(2, 50)], settings=settings))
    for _ in range(8):
        decided = plan(look(decided.manifest, [reading(2, 50)], settings=settings))
    assert len(decided.manifest.in_state(State.PROVISIONING, State.READY)) == opened


def test_a_paused_wagon_keeps_its_size() -> None:
    pause = Pause(why="by hand", at=NOW)
    m = manifest(wagon(1, State.ACTIVE, workers=9, paused=pause), wagon(2, State.READY))
    deployments = {1: Deployment(number=1, ready=True, workers=9), 2: Deployment(number=2, ready=True, workers=2)}
    seen = look(m, [reading(1, 1000, 5)], deployments, settings=SETTINGS)
    decided = plan(msgspec.structs.replace(seen, demand=STEADY))
    active = decided.manifest.wagon(1)
    assert active is not None
    assert active.workers == 9
