"""Batches: whatever their handler does, each event is handled, dies or comes again as it should."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventwagon import BatchContext, EventDied, Failed, Reject, Retry, Snooze, Train, Volume, Workers
from eventwagon.contracts.broker import Delivery
from eventwagon.event import Channel, Event
from eventwagon.runtime.forming import Forming, is_alone
from eventwagon.testing.virtual_time import run
from tests.support import World

ATTEMPTS = 3

FATES = st.sampled_from(
    [
        *["good"] * 6,
        "fails",  # named, at each attempt
        "fails once",  # named, at the first
        "rejects",
        "retries",
        "snoozes",
        "breaks",  # the whole batch, at each attempt
        "breaks once",
        "hangs",
        "rejects all",
        "garbled",
    ]
)


def dies(fate: str) -> bool:
    return fate in ("fails", "rejects", "breaks", "hangs", "rejects all", "garbled")


@given(
    fates=st.lists(FATES, min_size=1, max_size=40),
    batch=st.integers(1, 12),
    within=st.sampled_from([0, 0.05, 1.0]),
    workers=st.integers(1, 3),
    shared=st.booleans(),
)
def test_whatever_fails_no_event_is_lost_and_no_innocent_dies(
    fates: list[str], batch: int, within: float, workers: int, shared: bool
) -> None:
    handled, emitted, snoozed = Counter[int](), list[int](), Counter[int]()

    async def main() -> None:
        world = World()
        train = Train(
            "t",
            limit=Volume(1000),
            workers=Workers(total=workers) if shared else Workers(each=workers),
            attempts=ATTEMPTS,
            backoff=0.1,
            handler_timeout=1.0,
            breaker=None,
        )

        @train.on("t", batch=batch, within=within)
        async def many(some: list[int], ctx: BatchContext) -> None:
            assert 0 < len(some) <= batch
            assert ctx.attempt == 1 or len(some) == 1
            mine = [fates[n] for n in some]
            if "hangs" in mine:
                await asyncio.sleep(100)
            if "breaks" in mine or ("breaks once" in mine and ctx.attempt == 1):
                raise ValueError("all")
            if "rejects all" in mine:
                raise Reject("all")
            errors: dict[int, BaseException] = {}
            for index, n in enumerate(some):
                ctx.emit("out", n, of=index)
                match fates[n]:
                    case "fails":
                        errors[index] = ValueError("it")
                    case "fails once" if ctx.attempt == 1:
                        errors[index] = ValueError("it")
                    case "retries" if ctx.attempt == 1:
                        errors[index] = Retry(0.5)
                    case "rejects":
                        errors[index] = Reject("it")
                    case "snoozes" if snoozed[n] < 2:
                        snoozed[n] += 1
                        errors[index] = Snooze(0.5)
                    case _:
                        handled[n] += 1
            if errors:
                raise Failed(errors)

        @train.on("out")
        async def out(n: int) -> None:
            emitted.append(n)

        async with world.running(train) as connection:
            for n, fate in enumerate(fates):
                data = b"x" if fate == "garbled" else b"%d" % n
                await connection.publish(Event(str(n), "int", "/x", 1.0, data))
            async with asyncio.timeout(600):
                while True:
                    depths = await world.broker.depth([Channel("t", 1), Channel("t", 1, "out")])
                    if all(depth.settled == depth.published for depth in depths):
                        break
                    await asyncio.sleep(0.1)
            dead = [(int(fact.id), fact.attempts) for fact in world.of(EventDied)]
        expected = {n for n, fate in enumerate(fates) if dies(fate)}
        assert {n for n, _ in dead} == expected
        assert len(dead) == len(expected)
        assert all(attempts <= ATTEMPTS for _, attempts in dead)
        assert all(attempts == ATTEMPTS for n, attempts in dead if fates[n] in ("fails", "breaks", "hangs"))
        assert {*handled} == {n for n in range(len(fates)) if n not in expected}
        assert set(handled.values()) <= {1}
        assert sorted(emitted) == sorted(handled)

    run(main())


@given(
    arrivals=st.lists(st.tuples(st.floats(0, 2), st.lists(st.sampled_from([1, 1, 1, 2]), max_size=6)), max_size=20),
    most=st.integers(1, 5),
    within=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_what_forms_is_bounded_in_size_and_time(
    arrivals: list[tuple[float, list[int]]], most: int, within: float
) -> None:
    """No batch is too large, no event waits too long, none is lost, and those that are alone do not wait at all."""

    async def main() -> None:
        loop, came, ready = asyncio.get_running_loop(), dict[str, float](), list[str]()

        def on_ready(deliveries: object) -> None:
            assert isinstance(deliveries, list | tuple)
            assert 0 < len(deliveries) <= most
            for delivery in deliveries:
                waited = loop.time() - came[delivery.event.id]
                assert waited <= (0 if is_alone(delivery) else within) + 1e-6
                ready.append(delivery.event.id)

        forming = Forming(most, within, on_ready)
        for pause, attempts in arrivals:
            some = []
            for attempt in attempts:
                event = Event(str(len(came)), "x", "/x", 1.0, b"")
                came[event.id] = loop.time()
                some.append(Delivery(event, attempt, None))
            forming.add(some)
            assert len(forming) < most
            await asyncio.sleep(pause)
        await asyncio.sleep(within + 0.1)
        assert sorted(ready) == sorted(came)
        assert len(forming) == 0

    run(main())
