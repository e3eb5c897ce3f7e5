"""Metrics: the figures are those of the train, reconcile, and stay few."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eventwagon import Context, PublishTimeout, Reject, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import Fact, Switched, WagonDrained
from eventwagon.contracts.metering import ProcessFigures, TrainFigures
from eventwagon.contracts.registry import Member
from eventwagon.errors import Unavailable
from eventwagon.event import DEAD, Channel, Event
from eventwagon.metrics import INSTRUMENTS, Metrics
from eventwagon.policy.figures import reporter
from eventwagon.testing.virtual_time import run
from tests.scraped import Figures
from tests.support import World, until

INGRESS = "t_v{wagon}"


def train_of(**settings: Any) -> Train:
    train = Train("t", **{"limit": Volume(20), "workers": Workers(each=2), "backoff": 0.1, "attempts": 2, **settings})

    @train.on("t")
    async def first(n: int, ctx: Context) -> None:
        await asyncio.sleep(0.1)
        if n == 1:
            raise Reject("never")
        if n == 2:
            raise ValueError(n)
        await ctx.emit("inner", n)

    @train.on("inner")
    async def second(n: int) -> None: ...

    return train


async def settled(figures: Callable[[], Figures]) -> Figures:
    """Wait until nothing is outstanding."""
    while True:
        await asyncio.sleep(0.5)
        found = figures()
        if found.all("eventwagon_events_outstanding") and not found.sum("eventwagon_events_outstanding"):
            return found


def test_the_figures_reconcile() -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        async with world.connect(train_of(), meter=metrics) as connection, connection.running():
            await connection.publish_many(range(50))
            await settled(lambda: Figures.of(metrics))
            await until(lambda: len(world.of(WagonDrained)) == 2)
            await asyncio.sleep(40)  # the dead letters are looked at, at the latest with the next sweep
            found, wagons = Figures.of(metrics), len(connection.manifest.wagons)
        sent = "messaging_client_sent_messages_total"
        assert found.sum(sent, messaging_destination_template=INGRESS) == 50
        assert found.sum(sent, messaging_destination_template=f"{INGRESS}.inner") == 48
        assert found.sum(sent, messaging_destination_template=f"{INGRESS}.dead") >= 2
        assert found.sum("messaging_client_consumed_messages_total", messaging_destination_template=INGRESS) == 51
        took = "messaging_process_duration_seconds_count"
        assert found.one(took, messaging_destination_template=INGRESS, error_type="") == 48
        assert found.one(took, messaging_destination_template=INGRESS, error_type="ValueError") == 2
        assert found.one(took, messaging_destination_template=INGRESS, error_type="dead") == 1
        assert found.one(took, messaging_destination_template=f"{INGRESS}.inner") == 48
        spent = found.sum("messaging_process_duration_seconds_sum", messaging_destination_template=INGRESS)
        assert spent == pytest.approx(5.1)
        assert found.sum("eventwagon_event_wait_seconds_count") == 50
        assert found.sum("eventwagon_events_retried_total") == 1
        assert found.one("eventwagon_events_dead_total", eventwagon_reason="rejected") == 1
        assert found.one("eventwagon_events_dead_total", eventwagon_reason="ValueError") == 1
        assert found.one("eventwagon_dead_letters") == 2
        switches = world.of(Switched)
        assert found.sum("eventwagon_switches_total") == len(switches) == 3
        assert found.one("eventwagon_switches_total", eventwagon_cause="limit") == 2
        assert found.one("eventwagon_wagon_drain_duration_seconds_count") == 2
        assert found.one("eventwagon_wagon_drain_duration_seconds_sum") == pytest.approx(
            sum(fact.seconds for fact in world.of(WagonDrained))
        )
        assert found.one("eventwagon_wagons", eventwagon_wagon_state="active") == 1
        assert found.sum("eventwagon_wagons") == wagons
        assert found.one("eventwagon_pressure_ratio", eventwagon_limit="Volume(20)") == 0.5
        assert found.one("eventwagon_workers") == 2 * wagons
        assert found.one("eventwagon_info", messaging_system="memory") == 1
        assert found.one("eventwagon_observer_look_age_seconds") < 1

    run(main())


def test_waits_of_new_events_and_of_the_backlog_are_told_apart() -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        train = train_of(limit=Volume(10) | Wait(5.0), workers=Workers(each=1))
        async with world.connect(train, meter=metrics) as connection, connection.running():
            await connection.publish_many([0] * 25)
            await asyncio.sleep(0.55)
            found = Figures.of(metrics)
            assert found.one("eventwagon_promise_seconds") == 5
            limits = {s.labels["eventwagon_limit"] for s in found.samples if s.name == "eventwagon_pressure_ratio"}
            assert limits == {"Volume(10)", "Wait(5)"}
            outstanding = "eventwagon_events_outstanding"
            assert found.sum(outstanding, eventwagon_event_of="backlog") > 0
            assert found.sum(outstanding, eventwagon_event_of="new") > 0
            assert found.one("eventwagon_event_oldest_age_seconds", eventwagon_event_of="backlog") > 0.3
            assert found.one("eventwagon_wagon_drain_age_seconds") > 0.3
            await settled(lambda: Figures.of(metrics))
            found = Figures.of(metrics)
        count = "eventwagon_event_wait_seconds_count"
        assert found.one(count, eventwagon_event_of="new") == 5
        assert found.one(count, eventwagon_event_of="backlog") == 20
        waited = found.one("eventwagon_event_wait_seconds_sum", eventwagon_event_of="backlog")
        assert waited == pytest.approx(2 * sum(n * 0.1 for n in range(10)), rel=0.3)

    run(main())


def test_of_two_observers_one_reports_and_the_other_takes_over() -> None:
    async def main() -> None:
        world, ours, theirs = World(), Metrics(), Metrics()
        for each in (ours, theirs):
            each._clock = world.clock  # noqa: SLF001
        train = train_of()

        def reporting() -> list[bool]:
            return [bool(Figures.of(each).all("eventwagon_wagons_cap")) for each in (ours, theirs)]

        async with world.connect(train, meter=theirs) as second, second.running():
            await until(lambda: reporting() == [False, True])
            async with world.connect(train, meter=ours) as first:
                first.name = first._runtime.name  # noqa: SLF001
                async with first.running():
                    await asyncio.sleep(30)
                    for _ in range(20):
                        await asyncio.sleep(1)
                        assert sum(reporting()) == 1
                    for each in (ours, theirs):
                        assert Figures.of(each).one("eventwagon_observer_look_age_seconds") < 1
            await asyncio.sleep(30)
            assert reporting() == [False, True]
        assert reporting() == [False, False]

    run(main())


def test_two_observers_of_one_process_share_a_meter() -> None:
    async def main() -> None:
        world = World()
        metrics, train = Metrics(clock=world.clock), train_of()
        async with (
            world.connect(train, meter=metrics) as one,
            world.connect(train, meter=metrics) as two,
            one.running(),
            two.running(),
        ):
            await asyncio.sleep(20)
            for _ in range(40):
                await asyncio.sleep(0.11)
                assert Figures.of(metrics).all("eventwagon_wagons_cap") == [32]
            assert Figures.of(metrics).all("eventwagon_workers") == [2]

    run(main())


def test_the_first_observer_by_name_reports() -> None:
    members = [Member(name="a", roles=("work",)), Member(name="c", roles=("observe",)), Member(name="b/budgets")]
    assert reporter(members) == "c"
    assert reporter([*members, Member(name="b", roles=("work", "observe"))]) == "b"
    assert reporter(members[:1]) is None


def test_figures_that_are_old_are_not_exported() -> None:
    at = 1000.0
    metrics = Metrics(clock=lambda: at)
    metrics.looked("t", TrainFigures(train="t", at=1000.0, lasts=10.0, cap=3))
    at = 1010.0
    assert Figures.of(metrics).one("eventwagon_wagons_cap") == 3
    at = 1010.1
    assert not Figures.of(metrics).all("eventwagon_wagons_cap")


def test_dead_letters_are_not_missed_while_their_wagon_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert on their rise would take those that come back for new ones."""
    monkeypatch.setattr("eventwagon.runtime.observer._LETTERS_EVERY", 0.0)

    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        publish = world.broker.publish

        async def slowly(channel: Channel, events: Sequence[Event]) -> None:
            if channel == Channel("t", 0, DEAD):
                await asyncio.sleep(2)
            await publish(channel, events)

        monkeypatch.setattr(world.broker, "publish", slowly)
        async with world.connect(train_of(limit=Volume(5)), meter=metrics) as connection, connection.running():
            counts = [0.0]
            for _ in range(4):
                await connection.publish_many([1] * 5)
                for _ in range(20):
                    await asyncio.sleep(0.5)
                    counts += Figures.of(metrics).all("eventwagon_dead_letters")
            assert counts == sorted(counts)
            assert counts[-1] == 20
            assert len(connection.manifest.wagons) < 4

    run(main())


def test_publishers_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        train = train_of()
        async with world.connect(train, meter=metrics) as connection:
            await connection.found()
            monkeypatch.setattr(world.broker, "publish", _away)
            calls = [asyncio.create_task(connection.publish(n, timeout=5)) for n in range(3)]
            await asyncio.sleep(1)
            assert Figures.of(metrics).one("eventwagon_publishers_held") == 3
            assert {type(e) for e in await asyncio.gather(*calls, return_exceptions=True)} == {PublishTimeout}
            assert Figures.of(metrics).one("eventwagon_publishers_held") == 0
        found = Figures.of(metrics)
        assert not found.all("eventwagon_publishers_held"), "the connection is closed"
        assert found.sum("messaging_client_operation_duration_seconds_count", error_type="Unavailable") > 0

    run(main())


async def _away(*_: object) -> None:
    raise Unavailable("away")


def test_budgets_and_events_for_later_and_a_pause() -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        train = Train("t", workers=Workers(each=8))

        @train.on("t", concurrency=3)
        async def slow(n: int) -> None:
            await asyncio.sleep(60)

        async with world.connect(train, meter=metrics) as connection, connection.running():
            await connection.publish_many(range(6))
            await connection.publish(7, after=3600)
            await asyncio.sleep(20)
            found = Figures.of(metrics)
            assert found.one("eventwagon_budget_used", eventwagon_budget="concurrency=3 of t") == 3.0
            assert found.all("eventwagon_budget_held") == [3.0]
            assert found.one("eventwagon_workers_busy") == 3
            assert found.one("eventwagon_workers") == 8
            assert found.one("eventwagon_events_later") == 1
            assert found.one("eventwagon_paused") == 0
            await connection.pause("maintenance", publishing=True)
            await asyncio.sleep(5)
            found = Figures.of(metrics)
            assert found.one("eventwagon_paused") == found.one("eventwagon_refusing") == 1

    run(main())


@pytest.mark.slow
def test_hundreds_of_wagons_are_as_few_series_as_ten() -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        train = Train(
            "t", limit=Volume(1), workers=Workers(each=1), wagons=12, spares=6, cooldown=0.0, observe_every=0.5
        )

        @train.on("t")
        async def handle(n: int) -> None: ...

        counts = []
        async with world.connect(train, meter=metrics) as connection, connection.running():
            for number in (10, 300):
                while connection.manifest.next_number <= number:
                    await connection.publish_many([1] * 6)
                    await asyncio.sleep(1)
                await settled(lambda: Figures.of(metrics))
                counts.append(len(Figures.of(metrics).series))
            names = {value for _, labels in Figures.of(metrics).series for _, value in labels}
        assert counts[1] <= counts[0] + 40  # a reason or an operation that the first ten did not meet
        assert not [name for name in names if re.search(r"_v\d", name)]

    run(main())


def test_names_that_are_made_up_without_end_fill_nothing() -> None:
    metrics = Metrics()
    for n in range(5000):
        metrics.called("publish", Channel("t", n, f"c{n}"), 1, 0.1, f"E{n}")
        metrics.handled(Channel("t", n, f"c{n}"), [0.1], [], f"E{n}", late=False)
        metrics.heard(_died(f"E{n}: no"))
    found = Figures.of(metrics)
    count = "messaging_client_operation_duration_seconds_count"
    assert len(found.all(count)) <= 1001
    assert found.sum(count) == found.sum("messaging_client_sent_messages_total") == 5000
    assert found.sum("messaging_process_duration_seconds_count") == 5000
    assert found.sum("eventwagon_events_dead_total") == 5000
    assert len(found.all("eventwagon_events_dead_total")) <= 1001


def _died(because: str) -> Fact:
    from eventwagon.contracts.facts import EventDied

    return EventDied(train="t", number=1, channel="", id="1", attempts=1, because=because)


HOSTILE = ["\ud800", "a\nb", 'a"b', "a\\b", "\x00\x1b[31m", "‮", "[/bold]", "é" * 500, "", " ", "{wagon}", "' or 1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_name_holds_a_scrape_can_be_read(text: str) -> None:
    metrics = Metrics()
    metrics.called("publish", Channel("t", 1), 1, 0.1, text)
    metrics.called("receive", Channel("t", 1), 1, 0.1, "")
    metrics.handled(Channel("t", 1), [0.1], [-5.0, 3.0, float("inf")], text, late=True)
    metrics.looked("t", TrainFigures(train="t", at=metrics.now, lasts=100.0, pressures={text: 0.5}))
    figures = ProcessFigures(workers=1, budgets={text: (1.0, 2.0)})
    leave = metrics.joined("t", text, text, lambda: figures)
    found = Figures.of(metrics)
    assert found.sum("messaging_client_sent_messages_total") == 1
    assert found.one("eventwagon_workers") == 1
    assert found.sum("eventwagon_pressure_ratio") == 0.5
    leave()
    leave()
    assert not Figures.of(metrics).all("eventwagon_workers")


def test_a_limit_that_fails_ends_neither_the_look_nor_the_report(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def measure(self, reading: object) -> Any:
            raise RuntimeError("no")

        def __repr__(self) -> str:
            return "Broken()"

    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        async with world.connect(train_of(limit=Broken()), meter=metrics) as connection, connection.running():
            await connection.publish(5)
            found = await settled(lambda: Figures.of(metrics))
            assert found.one("eventwagon_wagons_cap") == 32
            assert not found.all("eventwagon_pressure_ratio")

    caplog.set_level(logging.CRITICAL)
    run(main())


def test_each_instrument_has_the_kind_that_the_list_says() -> None:
    async def main() -> None:
        world = World()
        metrics = Metrics(clock=world.clock)
        async with world.connect(train_of(), meter=metrics) as connection, connection.running():
            await connection.publish_many(range(30))
            await settled(lambda: Figures.of(metrics))
            kinds = Figures.of(metrics).kinds
        listed = {each.in_prometheus.removesuffix("_total"): each.kind for each in INSTRUMENTS}
        assert kinds.items() <= listed.items()
        missing = {
            "eventwagon_promise_seconds",
            "eventwagon_budget_used",
            "eventwagon_budget_held",
            "eventwagon_breakers_opened",
            "eventwagon_drains_unproven",
            "eventwagon_events_lost",
            "eventwagon_events_skipped",
            "eventwagon_replay_events",
            "eventwagon_bridge_records",
            "eventwagon_bridge_lag",
            "eventwagon_bridge_lag_age_seconds",
            "eventwagon_bridge_held_up",
        }
        assert listed.keys() - kinds.keys() <= missing

    run(main())
