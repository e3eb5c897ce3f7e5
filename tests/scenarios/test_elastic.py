"""Workers that follow the traffic: the real observer, plan and workers, in virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from eventwagon import Context, Elastic, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import DefectFound, PromiseAtRisk, Switched, WagonScaled, sentence
from eventwagon.contracts.lifecycle import LIVE
from eventwagon.lab.scenarios import SCENARIOS
from eventwagon.lab.strategies.pods import SimulatedPods
from eventwagon.policy.edits import asked_of
from eventwagon.policy.sizing import DemandMeter
from eventwagon.testing.virtual_time import run
from tests.elastic import burst
from tests.support import World, journal, until


def rising(low: float, high: float, *, seconds: float, seed: int = 1) -> list[float]:
    """Arrivals by chance: a fifth of the time at `low` a second, two fifths at `high`, then at half of that."""
    chance, at, arrivals = random.Random(seed), 0.0, list[float]()
    while at < seconds:
        arrivals.append(at)
        rate = low if at < seconds / 5 else high if at < 3 * seconds / 5 else high / 2
        at += chance.expovariate(rate)
    return arrivals


def test_a_burst_is_met_by_scaling_in_place() -> None:
    """From 10 to 120 events/s, which take 12 workers; four stand in each wagon, more are there after 2 s."""
    came = run(burst(rising(10, 120, seconds=30), elastic=Elastic(4, 64), start=2.0))
    assert (came.lost, came.twice) == (0, 0)
    assert came.on_time >= 0.97
    assert came.switches <= 2
    assert came.most <= 16
    assert came.beyond <= 40  # Pod-seconds after the burst, beyond those that stand
    assert came.scalings <= 20


@pytest.mark.parametrize(("start", "on_time", "paid"), [(2.0, 0.99, 280), (10.0, 0.85, 400)])
def test_two_standing_pods_in_one_wagon_meet_a_sale(start: float, on_time: float, paid: float) -> None:
    """A minute of 3,750 events, at most 132 a second; the standing Pods handle 80."""
    arrivals = SCENARIOS["black-friday"].arrivals(3750, 60.0, 1)
    came = run(burst(arrivals, elastic=Elastic(8, 64), start=start, spares=0))
    assert (came.lost, came.twice) == (0, 0)
    assert came.on_time >= on_time
    assert came.paid <= paid
    assert came.beyond <= 30


def test_workers_follow_the_traffic_where_machines_are_asked_for() -> None:
    """A train that says nothing of workers, and promises two seconds. Eight shared ones would have most events late."""
    came = run(burst(rising(10, 120, seconds=30), start=2.0, step=1, spares=0))
    assert (came.lost, came.twice) == (0, 0)
    assert came.on_time >= 0.97
    assert came.scalings >= 2


def test_programs_agree_though_only_one_asks_for_machines() -> None:
    async def main() -> None:
        world = World()

        def declared() -> Train:
            train = Train("elastic", limit=Wait(2.0))

            @train.on("elastic")
            async def handle(number: int, ctx: Context) -> None:
                pass

            return train

        train = declared()
        pods = SimulatedPods(train, world.broker, world.clock, start=1.0, step=1)
        async with world.connect(train, orchestrator=pods) as c, c.running():
            async with world.connect(declared()) as other, other.running(observe=False, work=False):
                await other.publish(1)
                assert other.manifest.declared == c.manifest.declared
            await until(lambda: c.manifest.active is not None and pods.workers == 2)

    run(main())


def test_where_workers_come_late_new_events_get_them() -> None:
    """The same where they take 10 s: no workers can be there in time, so the burst goes from wagon to wagon."""
    came = run(burst(rising(10, 120, seconds=30), elastic=Elastic(4, 64), start=10.0, rest=1.0))
    assert (came.lost, came.twice) == (0, 0)
    assert came.switches >= 1
    assert came.on_time > 0.55  # one queue with four standing workers: see the next assertion
    queue = run(
        burst(
            rising(10, 120, seconds=30), elastic=Elastic(4, 64, promise=2.0), start=10.0, limit=Volume(10**6), spares=0,
            rest=1.0,
        )
    )  # fmt: skip
    assert came.on_time > queue.on_time + 0.1
    (risk, *_) = [f for f in came.facts if isinstance(f, PromiseAtRisk)]
    assert "least=" in risk.because


def test_calm_traffic_is_left_alone() -> None:
    chance, at, arrivals = random.Random(5), 0.0, list[float]()
    while at < 60:
        arrivals.append(at)
        at += chance.expovariate(12.0)
    came = run(burst(arrivals, elastic=Elastic(2, 64), start=2.0, step=1))
    assert came.scalings <= 2  # the onset is one
    assert came.switches == 0
    assert came.on_time == 1.0


def test_ten_events_at_once_are_left_alone() -> None:
    came = run(burst([5.0] * 10, elastic=Elastic(2, 64), start=2.0, step=1))
    assert (came.scalings, came.switches) == (0, 0)
    assert came.on_time == 1.0


@pytest.mark.parametrize(("limit", "within"), [(Wait(2.0), 2.1), (Volume(10_000), 1.5)])
@pytest.mark.parametrize("spares", [0, 1])
def test_events_stored_before_the_first_process_count_at_once(limit: Wait | Volume, within: float, spares: int) -> None:
    """Two hundred, 0.1 s of work each, of which two workers handle twenty a second."""

    async def main() -> None:
        world, done = World(), 0

        def declared() -> Train:
            workers = Workers(each=Elastic(2, 64, promise=2.0))
            train = Train("elastic", limit=limit, workers=workers, spares=spares)

            @train.on("elastic")
            async def handle(number: int, ctx: Context) -> None:
                nonlocal done
                await asyncio.sleep(0.1)
                done += 1

            return train

        async with world.connect(declared()) as c:
            await c.publish_many(range(200))
        await asyncio.sleep(30.0)
        async with world.running(declared()):
            await until(lambda: done == 200, seconds=within)

    run(main())


def test_one_burst_is_one_promise_at_risk() -> None:
    """Work of very different length: whether it can be done in time changes from look to look."""
    chance = random.Random(4)
    arrivals, works = rising(5, 150, seconds=50), [chance.lognormvariate(-1.5, 1.2) for _ in range(5000)]
    came = run(burst(arrivals, elastic=Elastic(2, 64), start=1.0, step=1, service=works.__getitem__, rest=10.0))
    assert (came.lost, came.twice) == (0, 0)
    assert len([f for f in came.facts if isinstance(f, PromiseAtRisk)]) == 1


def test_the_most_is_kept_and_what_is_missing_is_told_once() -> None:
    """120 events/s need 12 workers; 8 are allowed, 4 of them for the spare."""
    came = run(burst(rising(10, 120, seconds=15), elastic=Elastic(4, 8), start=1.0, rest=1.0))
    assert (came.lost, came.twice) == (0, 0)
    assert came.most <= 2 + 1  # Pods: those of a drained wagon are there until they have left
    told = [f for f in came.facts if isinstance(f, PromiseAtRisk)]
    assert len(told) == 1
    assert "most=8" in told[0].because
    assert "would be needed" in told[0].because


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("most", "spares", "on_time", "scalings"), [(64, 0, 0.2, 2.0), (64, 1, 0.99, 2.6)])
def test_wagons_that_are_soon_full_hand_their_workers_on(
    most: int, spares: int, on_time: float, scalings: float, seed: int
) -> None:
    """Sixty events a second fill a wagon each second, and Pods take as long. The next wagon gets the workers of one
    that has drained, so the traffic is calm for them: so many scalings a switch. Without a spare the share on time
    is a matter of chance."""
    chance, at, arrivals = random.Random(seed), 0.0, list[float]()
    while at < 30:
        at += chance.expovariate(60.0)
        arrivals.append(at)
    came = run(
        burst(
            arrivals,
            elastic=Elastic(2, most, promise=2.0),
            limit=Volume(60),
            start=1.0,
            step=1,
            spares=spares,
            rest=30.0,
        )
    )
    assert (came.lost, came.twice) == (0, 0)
    assert came.switches >= 25
    assert came.on_time >= on_time
    assert came.scalings <= scalings * came.switches


@pytest.mark.parametrize("limit", [Volume(150), Wait(2.0)])
@pytest.mark.parametrize("spares", [0, 1])
def test_a_small_budget_in_one_process(limit: Volume | Wait, spares: int) -> None:
    """From 10 to 150 events/s, of which six workers handle 60: `least` is kept, never more than `most` are asked for,
    no calm is claimed that was not there, and the burst takes no longer than `most` workers for half of the time."""

    async def main() -> None:
        world, done = World(), 0
        train = Train("elastic", limit=limit, workers=Workers(each=Elastic(2, 6, promise=2.0)), spares=spares)

        @train.on("elastic")
        async def handle(number: int, ctx: Context) -> None:
            nonlocal done
            await asyncio.sleep(0.1)
            done += 1

        async with world.running(train) as c:
            begun, seen = asyncio.get_running_loop().time(), set[int]()
            for number in range(500):
                await c.publish(number)
                await asyncio.sleep(0.1 if number < 50 else 1 / 150)
                seen |= {sum(asked_of(train.settings.workers, w) or 0 for w in c.manifest.in_state(*LIVE))}
            risen = begun + 5
            await until(lambda: done == 500)
            assert asyncio.get_running_loop().time() - risen <= 450 * 0.1 / 3
            assert max(seen) <= 6
            for entry in await journal(c):
                if isinstance(entry.fact, WagonScaled):
                    assert entry.fact.workers >= 2
                    assert "for 10 s" not in entry.fact.because

    run(main())


def test_a_defect_in_the_estimates_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers stay as they are; the wagon is cut off, sealed, drained and removed, and the defect is told once."""

    def fails(*args: object, **more: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr(DemandMeter, "look", fails)

    async def main() -> None:
        world, done = World(), 0
        train = Train("elastic", limit=Volume(5), workers=Workers(each=Elastic(2, 32, promise=2.0)))

        @train.on("elastic")
        async def handle(number: int, ctx: Context) -> None:
            nonlocal done
            done += 1

        async with world.running(train) as c:
            await c.publish_many(range(12))
            await until(lambda: done == 12)
            await c.wait_drained(2)
            assert [f.step for f in world.of(DefectFound)] == ["measuring the traffic"]

    run(main())


@pytest.mark.parametrize("limit", [Wait(2.0), Volume(10_000)])
def test_crews_in_processes_that_a_user_runs(limit: Wait | Volume) -> None:
    """Without an orchestrator: two processes divide each wagon's workers, and they grow and shrink with the traffic."""

    async def main() -> None:
        world, done = World(), 0
        workers = Workers(each=Elastic(2, 32, promise=2.0))
        train = Train("elastic", limit=limit, workers=workers, spares=0)

        @train.on("elastic")
        async def handle(number: int, ctx: Context) -> None:
            nonlocal done
            await asyncio.sleep(0.1)
            done += 1

        async with world.running(train) as c, world.running(train):
            await c.publish_many(range(5))
            for _ in range(400):
                await c.publish(0)
                await c.publish(0)
                await c.publish(0)
                await c.publish(0)
                await asyncio.sleep(0.05)
            assert c.manifest.active is not None
            grown = c.manifest.active.workers or 0
            assert 8 <= grown <= 16  # 80 events/s, 0.1 s each
            members = await world.registry.members("elastic")
            at_work = sum(a.workers for m in members for a in m.attachments if a.number == c.manifest.active.number)
            assert at_work == grown
            assert done >= 1500
            await until(lambda: c.manifest.active and c.manifest.active.workers == 2, seconds=60)
            told = [e.fact for e in await journal(c) if isinstance(e.fact, WagonScaled)]
            assert len(told) <= 12
            assert any("events/s" in sentence(fact) for fact in told)
            assert not world.of(PromiseAtRisk)
            if isinstance(limit, Volume):
                assert len(world.of(Switched)) <= 2  # the first wagon, told by both processes

    run(main())
