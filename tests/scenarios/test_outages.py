"""A service behind the handlers goes away and comes back: nobody dies of it, strangers go on, and it is told. Virtual
time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from eventwagon import Breaker, Context, Reject, Retry, Snooze, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import (
    BreakerClosed,
    BreakerOpened,
    EventDied,
    EventRetried,
    EventSnoozed,
    log,
    sentence,
)
from eventwagon.testing.virtual_time import run
from eventwagon.views.train import look
from tests.support import World, journal, until

AWAY = 300.0
SOON = 31.0
"""Seconds after the service is back within which all is done: the longest pause and a little."""


class Mail:
    """A train whose inner channel `mail` needs a service; `up` says whether it is there at a moment (s since the
    start)."""

    def __init__(self, world: World, up: Callable[[float], bool], **settings: object) -> None:
        self.world = world
        self.began = world.clock()
        self.sent: dict[int, float] = {}
        self.calls = 0
        self.others: dict[int, float] = {}
        self.train = Train("t", **settings)  # type: ignore[arg-type]

        @self.train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            await ctx.emit("mail", n)
            await ctx.emit("other", n)

        @self.train.on("mail")
        async def mail(n: int, ctx: Context) -> None:
            self.calls += 1
            await asyncio.sleep(0.01)
            if not up(self.now()):
                raise ConnectionError("away")
            self.sent.setdefault(n, self.now())

        @self.train.on("other")
        async def other(n: int) -> None:
            self.others[n] = self.now()

    def now(self) -> float:
        return self.world.clock() - self.began


def after(seconds: float) -> Callable[[float], bool]:
    return lambda now: now >= seconds


@pytest.mark.parametrize(
    ("events", "processes"), [*((n, 1) for n in (1, 2, 3, 4, 6, 10, 20, 300)), *((n, 2) for n in (1, 4, 300))]
)
def test_five_minutes_without_a_service_kill_nothing(events: int, processes: int) -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(AWAY))
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(world.running(mail.train)) for _ in range(processes)]
            await connections[0].publish_many(range(events))
            await until(lambda: len(mail.sent) == events, seconds=AWAY + SOON, step=0.1)
        assert not world.of(EventDied)
        assert len(mail.others) == events
        assert max(mail.others.values()) < 1.0, "the rest of the train goes on"
        assert mail.calls < 3 * events + 250 * processes, "it is not hammered"

    run(main())


@pytest.mark.parametrize("every", [0.05, 1.0, 7.0, 25.0])
def test_nor_do_they_where_events_trickle_in_before_and_meanwhile(every: float) -> None:
    async def main() -> None:
        world, count = World(), int(min(2000, 900.0 / every))
        mail = Mail(world, lambda now: not 200.0 <= now < 200.0 + AWAY)
        async with world.running(mail.train) as c:
            for n in range(count):
                await c.publish(n)
                await asyncio.sleep(every)
            await until(lambda: len(mail.sent) == count, seconds=200.0 + AWAY + SOON, step=0.1)
        assert not world.of(EventDied)
        late = [at for at in mail.sent.values() if at >= 200.0 + AWAY]
        for n, at in mail.sent.items():
            assert at <= max(200.0 + AWAY, n * (every + 0.01)) + SOON, (n, at)
        assert late or count * every < 200.0

    run(main())


@pytest.mark.parametrize("events", [1, 5, 100])
def test_nor_do_they_where_processes_restart_meanwhile(events: int) -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(AWAY))
        async with world.connect(mail.train) as c:
            await c.publish_many(range(events))
        for seconds in (3.0, 10.0, 40.0, 1.0, 100.0, 90.0):
            async with world.running(mail.train):
                await asyncio.sleep(seconds)
        async with world.running(mail.train):
            await until(lambda: len(mail.sent) == events, seconds=AWAY + SOON, step=0.1)
        assert not world.of(EventDied)

    run(main())


def test_a_service_that_hangs_is_an_outage_too() -> None:
    async def main() -> None:
        world, sent = World(), set[int]()
        train = Train("t", handler_timeout=5.0)

        @train.on("t")
        async def handle(n: int) -> None:
            if world.clock() - began < AWAY:
                await asyncio.Event().wait()
            sent.add(n)

        began = world.clock()
        async with world.running(train) as c:
            await c.publish_many(range(50))
            await until(lambda: len(sent) == 50, seconds=AWAY + SOON, step=0.1)
        assert not world.of(EventDied)
        assert len(world.of(BreakerOpened)) == 1

    run(main())


def test_twenty_seconds_are_over_after_thirty_five() -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(20.0))
        async with world.running(mail.train) as c:
            await c.publish_many(range(300))
            await until(lambda: len(mail.sent) == 300, seconds=35.0)
        assert not world.of(EventDied)

    run(main())


@pytest.mark.parametrize("bad", [0, 7, 50])
def test_a_poison_event_among_healthy_ones_is_dead_within_a_minute(bad: int) -> None:
    async def main() -> None:
        world, handled = World(), set[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int) -> None:
            if n == bad:
                raise ValueError("poison")
            handled.add(n)

        async with world.running(train) as c:
            await c.publish_many(range(100))
            await until(lambda: world.of(EventDied), seconds=60.0)
            assert len(handled) == 99
            assert not world.of(BreakerOpened)

    run(main())


def test_bad_events_of_two_processes_die_while_good_ones_come() -> None:
    async def main() -> None:
        world, handled = World(), set[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(0.05)
            if n % 100 == 13:
                raise ValueError("poison")
            handled.add(n)

        async with world.running(train) as c, world.running(train):
            for n in range(500):
                await c.publish(n)
                await asyncio.sleep(0.2)
                dead = {fact.id for fact in world.of(EventDied)}
                assert len(dead) >= (n - 13 - 300) // 100
            await asyncio.sleep(60.0)
        assert len(world.of(EventDied)) >= 4
        assert not world.of(BreakerOpened)

    run(main())


def test_alone_a_poison_event_dies_after_ten_minutes() -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(1e9))
        async with world.running(mail.train) as c:
            await c.publish(1)
            await asyncio.sleep(600.0)
            assert not world.of(EventDied)
            await until(lambda: world.of(EventDied), seconds=35.0)
            (letter,) = [x async for x in c.dead_letters()]
        assert int(letter.extensions["deadattempts"]) == mail.calls
        assert world.of(EventDied)[0].attempts == mail.calls
        assert mail.calls < 60

    run(main())


def test_a_channel_of_nothing_but_bad_events_comes_to_an_end() -> None:
    """Its breaker opens as if its service were away, and no success ever closes it."""

    async def main() -> None:
        world = World()
        mail = Mail(world, after(1e9))
        async with world.running(mail.train) as c:
            await c.publish_many(range(30))
            await until(lambda: world.of(BreakerOpened), seconds=60.0)
            await asyncio.sleep(540.0)
            assert not world.of(EventDied)
            await until(lambda: len(world.of(EventDied)) == 30, seconds=4 * 3600.0, step=10.0)

    run(main())


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_attempts_that_were_given_are_kept_to(attempts: int) -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(1e9), attempts=attempts, backoff=0.05)
        async with world.running(mail.train) as c:
            await c.publish_many(range(3))
            await until(lambda: len(world.of(EventDied)) == 3, seconds=2.0)
        assert mail.calls == 3 * attempts

    run(main())


def test_a_death_says_how_many_attempts_did_not_count() -> None:
    async def main() -> None:
        world, calls = World(), Counter[str]()
        train = Train("t", attempts=2, breaker=Breaker(last=5, least=5, sparse=0.0))

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            calls[ctx.event.id] += 1
            if n < 5:
                raise ValueError("poison")

        async with world.running(train) as c:
            await c.publish_many(range(5))
            await until(lambda: world.of(BreakerOpened), seconds=5.0)
            for n in range(5, 100):
                await c.publish(n)
                await asyncio.sleep(0.3)
            deaths = world.of(EventDied)
        assert len(deaths) == 5
        assert all(death.attempts == calls[death.id] == death.uncounted + 2 for death in deaths)
        assert len({death.uncounted > 0 for death in deaths}) == 2
        for death in deaths:
            uncounted = f", of which {death.uncounted} did not count because the channel did not work"
            says = f"is dead after {death.attempts} attempts{uncounted if death.uncounted else ''}: ValueError"
            assert says in sentence(death)

    run(main())


def test_bad_events_do_not_keep_the_channel_closed_to_good_ones() -> None:
    async def main() -> None:
        world, handled = World(), set[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int) -> None:
            if n < 40:
                raise ValueError("poison")
            handled.add(n)

        async with world.running(train) as c:
            await c.publish_many(range(40))
            await until(lambda: world.of(BreakerOpened), seconds=5.0)
            await asyncio.sleep(60.0)
            await c.publish_many(range(40, 60))
            await until(lambda: len(handled) == 20, seconds=60.0)
            for n in range(60, 1060):  # as long as others go through, the bad ones die in the end
                await c.publish(n)
                await asyncio.sleep(0.3)
            assert len(world.of(EventDied)) == 40
        assert len(handled) == 1020

    run(main())


def test_events_that_fail_at_their_first_attempt_only_get_through() -> None:
    async def main() -> None:
        world, handled = World(), set[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if ctx.attempt == 1:
                raise ValueError("at first")
            handled.add(n)

        async with world.running(train) as c:
            await c.publish_many(range(100))
            await until(lambda: len(handled) == 100, seconds=60.0)

    run(main())


@pytest.mark.parametrize("limit", [Volume(50), Wait(2.0)])
@pytest.mark.parametrize("workers", [Workers(total=8, floor=1), Workers(each=2)])
def test_all_wagons_of_a_process_share_the_breaker_and_go_on_together(limit: Volume | Wait, workers: Workers) -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, lambda now: not 5.0 <= now < 60.0, limit=limit, workers=workers, spares=1)
        async with world.running(mail.train) as c:
            for n in range(400):
                await c.publish(n)
                await asyncio.sleep(0.05)
            assert len(mail.others) > 390
            assert len(c.manifest.wagons) > 1
            await until(lambda: len(mail.sent) == 400, seconds=60.0)
            assert len(world.of(BreakerOpened)) == 1
            await until(lambda: len(c.manifest.wagons) <= 3)
        assert not world.of(EventDied)

    run(main())


def test_while_it_is_open_nothing_is_fetched_and_nothing_held() -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(AWAY))
        async with world.running(mail.train) as c:
            await c.publish_many(range(1000))
            await asyncio.sleep(100.0)
            calls = mail.calls
            await asyncio.sleep(100.0)
            assert 9 <= mail.calls - calls <= 21, "a probe each five to ten seconds"
            assert (await c.depths())[1]["mail"].in_flight == 0, "other processes can have them"

    run(main())


def test_without_a_breaker_there_is_none() -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(3.0), breaker=None)
        async with world.running(mail.train) as c:
            await c.publish_many(range(100))
            await until(lambda: len(mail.sent) == 100, seconds=15.0)
        assert not world.of(BreakerOpened)

    run(main())


def test_its_figures_are_settings() -> None:
    async def main() -> None:
        world = World()
        figures = Breaker(last=4, least=2, events=2, share=0.5, pause=0.1, pause_most=0.2)
        mail = Mail(world, after(3.0), breaker=figures)
        async with world.running(mail.train) as c:
            await c.publish_many(range(10))
            await until(lambda: len(mail.sent) == 10, seconds=6.0)
        assert world.of(BreakerOpened)[0].because.startswith("4 of the last 4 handlings failed, over 4 events")
        assert world.of(BreakerClosed)[0].failed_probes > 10

    run(main())


# --- told ---------------------------------------------------------------------------------------


def test_it_is_told_in_the_log_the_journal_and_the_status(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        mail = Mail(world, after(30.0))
        async with world.running(mail.train) as c, world.connect(mail.train) as other:
            await c.publish_many(range(100))
            await asyncio.sleep(5.0)
            view = await look(other, "memory://")
            (why,) = view.open["mail"]
            assert why == "20 of the last 20 handlings failed, over 20 events; the last: ConnectionError: away"
            assert [sentence(e.fact) for e in await journal(other) if isinstance(e.fact, BreakerOpened)] == [
                f"the circuit breaker of mail opened: {why}; one event at a time is tried from now on, and no attempt "
                "is counted"
            ]
            await until(lambda: len(mail.sent) == 100)
            await asyncio.sleep(0.1)
            assert (await look(other, "memory://")).open == {}
            (closed,) = [e for e in await journal(other) if isinstance(e.fact, BreakerClosed)]
            assert closed.by == c.name
            assert "closed after" in sentence(closed.fact)
        for fact in (*world.of(BreakerOpened), *world.of(BreakerClosed)):
            log(fact)

    with caplog.at_level(logging.INFO, logger="eventwagon"):
        run(main())
    assert [r.levelname for r in caplog.records if "circuit breaker" in r.message] == ["WARNING", "INFO"]


# --- what a handler may ask for -----------------------------------------------------------------


def test_a_retry_comes_when_it_was_asked_for_and_counts() -> None:
    async def main() -> None:
        world, at = World(), list[float]()
        train = Train("t", attempts=3)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            at.append(world.clock())
            raise Retry(after=[5.0, 0.0, 1.0][ctx.attempt - 1], because="busy")

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: world.of(EventDied))
        assert [round(b - a) for a, b in pairwise(at)] == [5, 0]
        assert [fact.because for fact in world.of(EventRetried)] == ["busy", "busy"]
        assert world.of(EventDied)[0].because == "busy"

    run(main())


def test_a_retry_without_a_pause_takes_the_usual_one() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", attempts=2)

        @train.on("t")
        async def handle(_: int) -> None:
            raise Retry

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: world.of(EventDied))
        assert 0.25 <= world.of(EventRetried)[0].pause <= 0.5

    run(main())


def test_a_snooze_counts_no_attempt_and_is_no_failure() -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", attempts=1)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            seen.append(ctx.attempt)
            if len(seen) < 50:
                async with asyncio.TaskGroup() as group:
                    group.create_task(later())

        async def later() -> None:
            raise Snooze(10.0, "not yet")

        async with world.running(train) as c:
            began = world.clock()
            await c.publish(1)
            await until(lambda: len(seen) == 50, seconds=600.0)
            assert 490 <= world.clock() - began <= 492
            await asyncio.sleep(5.0)  # a check-in
            (attached,) = c.attachments
            assert (attached.handled, attached.failed) == (1, 0)
        assert set(seen) == {1}
        assert {fact.because for fact in world.of(EventSnoozed)} == {"not yet"}

    run(main())


def test_sync_handlers_may_ask_for_it_too() -> None:
    """In real time: they run in threads."""

    async def main() -> None:
        world, seen = World(time.time), list[tuple[int, float]]()
        train = Train("t", attempts=2)

        @train.on("t")
        def handle(_: int, ctx: Context) -> None:
            seen.append((ctx.attempt, time.monotonic()))
            if len(seen) == 1:
                raise Snooze(0.2)
            if len(seen) == 2:
                raise Retry(0.1)

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: len(seen) == 3, seconds=10.0)
        assert [attempt for attempt, _ in seen] == [1, 1, 2]
        pauses = [b - a for (_, a), (_, b) in pairwise(seen)]
        assert pauses[0] >= 0.2
        assert pauses[1] >= 0.1
        assert not world.of(EventDied)

    asyncio.run(main())


def test_rejects_and_snoozes_do_not_open_the_breaker() -> None:
    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t")

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if n % 2:
                raise Reject("no")
            if world.clock() - began < 30:
                raise Snooze(1.0)
            done.append(n)

        began = world.clock()
        async with world.running(train) as c:
            await c.publish_many(range(100))
            await until(lambda: len(done) == 50)
        assert not world.of(BreakerOpened)
        assert len(world.of(EventDied)) == 50

    run(main())


def test_a_wrong_pause_is_a_failed_attempt() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", attempts=1)

        @train.on("t")
        async def handle(_: int) -> None:
            raise Snooze(float("nan"))

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: world.of(EventDied))
        assert "Snooze: after must be a number of seconds from 0 to 43,200, not nan" in world.of(EventDied)[0].because

    run(main())


def test_a_wagon_with_code_on_trial_has_no_breaker() -> None:
    """What only that code may handle must come to an end, though all of it fails."""

    async def main() -> None:
        world, handled = World(), set[int]()

        def program(revision: str) -> Train:
            train = Train(
                "t", limit=Volume(1000), workers=Workers(total=4), revision=revision, attempts=3, backoff=0.01
            )

            @train.on("t")
            async def handle(n: int) -> None:
                if revision == "bad":
                    raise ValueError("a bug")
                handled.add(n)

            return train

        async with world.running(program("good")) as c, world.running(program("bad")) as other:
            await c.publish_many(range(30))
            await c.request_switch("a bad release", revision="bad", watch_errors=0.1)
            bad = await c.wait_answered()
            await other.publish_many(range(100, 150))
            await c.wait_switched(bad)
            await c.wait_drained(bad)
            assert len({letter.id async for letter in c.dead_letters()}) == 50
        assert not world.of(BreakerOpened)

    run(main())
