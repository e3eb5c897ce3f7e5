"""Handlers of batches: what they get and when, what comes of each event, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventwagon import (
    BatchContext,
    Breaker,
    Connection,
    Context,
    Event,
    EventDied,
    Failed,
    Reject,
    Retry,
    Snooze,
    Train,
    Unavailable,
    UsageError,
    Volume,
    Workers,
)
from eventwagon.cloudevents import BATCH
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.facts import BreakerOpened, EventRetried, EventSnoozed, StepFailed
from eventwagon.drivers.memory.broker import MemorySubscription
from eventwagon.event import Channel, child_id, new_ids
from eventwagon.testing.virtual_time import run
from tests.batches import try_batches
from tests.programs.killers import KILLS, batches
from tests.support import World, left_behind, until


class Row(msgspec.Struct):
    n: int


def train_of(**settings: Any) -> Train:
    return Train("t", **{"limit": Volume(10_000), "workers": Workers(each=1), "backoff": 0.1, **settings})


def now() -> float:
    return asyncio.get_running_loop().time()


# --- what a batch is -------------------------------------------------------------------------


def test_a_full_batch_is_handled_at_once_and_what_is_left_waits() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[tuple[float, list[int]]]()

        @train.on("t", batch=5, within=2)
        async def rows(some: list[Row]) -> None:
            seen.append((now(), [row.n for row in some]))

        async with world.running(train) as connection:
            began = now()
            await connection.publish_many(Row(n) for n in range(12))
            await until(lambda: len(seen) == 3)
        assert [ns for _, ns in seen] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
        assert [round(at - began) for at, _ in seen] == [0, 0, 2]

    run(main())


@pytest.mark.parametrize("within", [0, 0.3, 5])
def test_the_first_event_waits_no_longer_than_within(within: float) -> None:
    """Others that trickle in do not make it wait longer."""

    async def main() -> None:
        world, train, waited = World(), train_of(workers=Workers(each=3)), list[float]()

        @train.on("t", batch=1000, within=within)
        async def rows(some: list[float]) -> None:
            waited.append(now() - min(some))

        async with world.running(train) as connection:
            for _ in range(100):
                await connection.publish(now())
                await asyncio.sleep(0.2)
            await asyncio.sleep(within + 1)
        assert max(waited) <= within + 0.05
        if within >= 0.3:
            assert len(waited) < 60

    run(main())


def test_half_a_second_is_the_default() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[float]()

        @train.on("t", batch=1000)
        async def rows(some: list[Row]) -> None:
            seen.append(now())

        async with world.running(train) as connection:
            began = now()
            await connection.publish(Row(1))
            await until(lambda: seen)
        assert 0.49 < seen[0] - began < 0.55

    run(main())


def test_a_batch_that_forms_takes_no_worker_from_others() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(workers=Workers(total=1)), list[tuple[str, float]]()

        @train.on("t")
        async def split(n: int, ctx: Context) -> None:
            seen.append(("single", now()))
            await ctx.emit("rows", n)

        @train.on("rows", batch=1000, within=5)
        async def rows(some: list[int]) -> None:
            seen.append(("batch", now()))

        async with world.running(train) as connection:
            began = now()
            for n in range(10):
                await connection.publish(n)
                await asyncio.sleep(0.1)
            await until(lambda: "batch" in dict(seen))
        singles = [at - began for what, at in seen if what == "single"]
        assert max(at - n * 0.1 for n, at in enumerate(singles)) < 0.05
        assert [round(at - began) for what, at in seen if what == "batch"] == [5]

    run(main())


def test_busy_workers_find_full_batches() -> None:
    """Slow batches: while all workers are busy nothing is fetched that would be half a batch."""

    async def main() -> None:
        world, train, sizes = World(), train_of(workers=Workers(each=2)), list[int]()

        @train.on("t", batch=50, within=0.1)
        async def rows(some: list[Row]) -> None:
            sizes.append(len(some))
            await asyncio.sleep(1)

        async with world.running(train) as connection:
            await connection.publish_many(Row(n) for n in range(1000))
            await until(lambda: sum(sizes) == 1000)
        assert len(sizes) <= 22

    run(main())


def test_a_batch_larger_than_one_receive() -> None:
    async def main() -> None:
        world, train, sizes = World(), train_of(), list[int]()

        @train.on("t", batch=5000, within=1)
        async def rows(some: Sequence[int]) -> None:
            sizes.append(len(some))

        async with world.running(train) as connection:
            await connection.publish_many(range(5000))
            await until(lambda: sizes)
        assert sizes == [5000]

    run(main())


def test_sync_handlers_of_batches_run_in_threads() -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        world, train, seen = World(clock=time.time), train_of(backoff=0.0), list[int]()

        @train.on("t", batch=10, within=0.05)
        def rows(some: list[Row], ctx: BatchContext) -> None:
            for index, row in enumerate(some):
                ctx.emit("next", row, of=index)
            if Row(3) in some and ctx.attempt == 1:
                raise Failed({some.index(Row(3)): ValueError("three")})

        @train.on("next")
        async def collect(row: Row) -> None:
            seen.append(row.n)

        async with world.running(train) as connection:
            await connection.publish_many(Row(n) for n in range(25))
            await until(lambda: len(seen) >= 25)
        assert sorted(seen) == [*range(25)]

    asyncio.run(main())


def test_the_context_tells_of_all_events() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[BatchContext]()

        @train.lifespan
        async def opened() -> Any:
            yield "pool"

        @train.on("t", batch=3)
        async def rows(some: list[Row], ctx: BatchContext) -> None:
            assert [event.data for event in ctx.events] == [b'{"n":%d}' % row.n for row in some]
            seen.append(ctx)

        async with world.running(train) as connection:
            ids = [await connection.publish(Row(n)) for n in range(3)]
            await until(lambda: seen)
        ctx = seen[0]
        assert (ctx.train, ctx.wagon, ctx.channel, ctx.state, ctx.attempt) == ("t", 1, "", "pool", 1)
        assert [event.id for event in ctx.events] == ids

    run(main())


# --- what comes of each event ----------------------------------------------------------------


def test_those_that_are_named_fail_each_in_its_own_way() -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(attempts=3), list[tuple[float, list[int], int]]()
        bad: Mapping[int, BaseException] = {
            2: ValueError("two"),
            3: Reject("three"),
            5: Retry(7.0, "five"),
            7: Snooze(4.0, "seven"),
        }

        @train.on("t", batch=10, within=0.2)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            calls.append((now(), list(some), ctx.attempt))
            for index, n in enumerate(some):
                ctx.emit("done", n, of=index)
            again = {2, 5, 7} if len(calls) > 1 else set()
            if errors := {i: bad[n] for i, n in enumerate(some) if n in bad and n not in again - {2}}:
                raise Failed(errors)

        done = list[int]()

        @train.on("done")
        async def collect(n: int) -> None:
            done.append(n)

        async with world.running(train) as connection:
            began = now()
            await connection.publish_many(range(10))
            await asyncio.sleep(20)
        assert calls[0][1:] == ([*range(10)], 1)
        times = {n: [round(at - began) for at, ns, _ in calls[1:] if n in ns] for n in range(10)}
        assert (times[5], times[7], len(times[2])) == ([7], [4], 2)
        assert {n for n in range(10) if times[n]} == {2, 5, 7}
        assert sorted(done) == [0, 1, 4, 5, 6, 7, 8, 9]  # what a failed one emitted was not stored
        deaths = {death.because: death.attempts for death in world.of(EventDied)}
        assert deaths == {"rejected: three": 1, "ValueError: two": 3}
        assert [(fact.pause, fact.because) for fact in world.of(EventSnoozed)] == [(4.0, "seven")]

    run(main())


def test_after_a_failed_batch_its_events_come_one_by_one_and_only_the_guilty_dies() -> None:
    async def main() -> None:
        world, train, calls, done = World(), train_of(attempts=3), list[tuple[list[int], int]](), set[int]()

        @train.on("t", batch=20, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            calls.append((list(some), ctx.attempt))
            if 13 in some:
                raise ValueError("unlucky")
            done.update(some)

        async with world.running(train) as connection:
            await connection.publish_many(range(20))
            await until(lambda: world.of(EventDied))
            await until(lambda: len(done) == 19)
        assert calls[0] == ([*range(20)], 1)
        assert all(len(ns) == 1 and attempt > 1 for ns, attempt in calls[1:])
        assert len(calls) == 1 + 20 + 1
        assert [(fact.attempts, fact.because) for fact in world.of(EventDied)] == [(3, "ValueError: unlucky")]
        assert done == {*range(20)} - {13}

    run(main())


def test_a_reject_of_a_whole_batch_kills_only_the_event_that_is_rejected_alone() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(), set[int]()

        @train.on("t", batch=20, within=0.1)
        async def rows(some: list[int]) -> None:
            if 13 in some:
                raise Reject("unlucky")
            done.update(some)

        async with world.running(train) as connection:
            await connection.publish_many(range(20))
            await until(lambda: len(done) == 19)
            await until(lambda: world.of(EventDied))
        assert [(fact.attempts, fact.because) for fact in world.of(EventDied)] == [(2, "rejected: unlucky")]

    run(main())


def test_a_snoozed_batch_comes_again_as_one_and_loses_no_attempt() -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(), list[tuple[int, int]]()

        @train.on("t", batch=20, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            calls.append((len(some), ctx.attempt))
            if len(calls) < 3:
                raise Snooze(1.0, "not yet")

        async with world.running(train) as connection:
            await connection.publish_many(range(20))
            await until(lambda: len(calls) == 3)
        assert calls == [(20, 1)] * 3

    run(main())


@pytest.mark.parametrize("index", [10, 2**70])
def test_an_index_that_no_payload_has_fails_the_whole_batch(index: int) -> None:
    async def main() -> None:
        world, train, done = World(), train_of(), set[int]()

        @train.on("t", batch=10, within=0.1)
        async def rows(some: list[int]) -> None:
            if len(some) > 1:
                raise Failed({0: Reject("innocent"), index: ValueError("n")})
            done.update(some)

        async with world.running(train) as connection:
            await connection.publish_many(range(10))
            await until(lambda: len(done) == 10)
        assert not world.of(EventDied)
        assert {fact.because for fact in world.of(EventRetried)} == {
            f"it raised Failed for payload {index}, and the batch has 10 payloads"
        }

    run(main())


@pytest.mark.parametrize(
    "errors",
    [{}, None, [], {-1: ValueError()}, {True: ValueError()}, {"1": ValueError()}, {1: "no"}, {1: ValueError}, {1.0: 1}],
)
def test_what_failed_can_not_hold_is_refused_where_it_is_made(errors: Any) -> None:
    with pytest.raises(UsageError, match=r"Failed: .*Failed\({3"):
        Failed(errors)


def test_what_failed_says() -> None:
    assert str(Failed({3: ValueError("x"), 7: Reject("y")})) == "3: ValueError: x; 7: Reject: y"
    assert str(Failed({n: KeyError(n) for n in range(9)})).endswith(" and 6 more")


def test_failed_may_be_returned_or_come_in_a_group_and_may_be_a_lie() -> None:
    class Hollow(Failed):
        def __init__(self) -> None:
            pass

    class Liar(Failed):
        def __init__(self, errors: Any) -> None:
            self.errors = errors

    async def main() -> None:
        world, train, done = World(), train_of(attempts=2), list[int]()

        @train.on("t", batch=2, within=0.1)
        async def rows(some: list[int]) -> object:
            bad = {i: Reject(str(n)) for i, n in enumerate(some) if n % 2}
            if 8 in some and len(some) > 1:
                raise Hollow
            if 6 in some and len(some) > 1:
                raise Liar({"0": ValueError(), 1: "no error"})
            if 4 in some and len(some) > 1:
                raise Liar([1])
            done.extend(n for n in some if n % 2 == 0)
            if bad and some[0] < 4:
                return Failed(bad)
            if bad:
                raise BaseExceptionGroup("g", [Failed(bad)])
            return None

        async with world.running(train) as connection:
            await connection.publish_many(range(10))
            await until(lambda: len(world.of(EventDied)) == 5)
            await until(lambda: len(done) == 5)
        assert {fact.because for fact in world.of(EventDied)} == {f"rejected: {n}" for n in (1, 3, 5, 7, 9)}

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError(), GeneratorExit()])
def test_any_exception_may_be_named(error: BaseException) -> None:
    async def main() -> None:
        world, train, done = World(), train_of(attempts=2), set[int]()

        @train.on("t", batch=4, within=0.1)
        async def rows(some: list[int]) -> None:
            done.update(some)
            if 2 in some:
                raise Failed({some.index(2): error})

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await until(lambda: world.of(EventDied))
        assert [fact.attempts for fact in world.of(EventDied)] == [2]

    run(main())


@pytest.mark.parametrize("options", [{"retry_on": OSError}, {"dead_on": Exception}])
def test_one_that_asks_for_another_attempt_gets_it_whatever_is_retried(options: dict[str, Any]) -> None:
    """As in a handler of single events, `Retry` is no error that the options are about."""

    async def main() -> None:
        world, train, calls = World(), train_of(), list[list[int]]()

        @train.on("t", batch=4, within=0.1, **options)
        async def rows(some: list[int]) -> None:
            calls.append(some)
            if some == [0, 1]:
                raise Failed({1: Retry(after=0.5)})

        async with world.running(train) as connection:
            await connection.publish_many(range(2))
            await until(lambda: len(calls) == 2)
        assert (calls, world.of(EventDied)) == ([[0, 1], [1]], [])

    run(main())


def test_what_can_not_be_decoded_dies_alone_and_indexes_are_those_of_the_list() -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(), list[list[int]]()

        @train.on("t", batch=6, within=0.1)
        async def rows(some: list[Row]) -> None:
            calls.append([row.n for row in some])
            some.clear()  # the list is the handler's own
            raise Failed({1: Reject("second")})

        async with world.running(train) as connection:
            ids = new_ids(6, world.clock())
            data = [b"no", b'{"n":1}', b"{}", b'{"n":3}', b'{"n":4}', b'{"n":"5"}']
            await connection.publish_many(Event(i, "Row", "/x", 1.0, d) for i, d in zip(ids, data, strict=True))
            await until(lambda: len(world.of(EventDied)) == 4)
        assert calls == [[1, 3, 4]]
        deaths = {fact.id: fact.because for fact in world.of(EventDied)}
        assert deaths[ids[3]] == "rejected: second"
        assert all("can't be decoded" in deaths[ids[n]] for n in (0, 2, 5))

    run(main())


def test_a_batch_of_nothing_that_can_be_decoded_calls_nobody() -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t", batch=3, within=0.1)
        async def rows(some: list[Row]) -> None:
            raise AssertionError(some)

        async with world.running(train) as connection:
            await connection.publish_many(Event(i, "Row", "/x", 1.0, b"no") for i in new_ids(3, world.clock()))
            await until(lambda: len(world.of(EventDied)) == 3)

    run(main())


@pytest.mark.parametrize("whole", [Reject("all"), ValueError("all")])
def test_a_batch_of_which_one_payload_is_left_loses_no_event(whole: Exception) -> None:
    async def main() -> None:
        world, train = World(), train_of(attempts=2)

        @train.on("t", batch=2, within=0.1)
        async def rows(some: list[Row]) -> None:
            raise whole

        async with world.running(train) as connection:
            ids = new_ids(2, world.clock())
            await connection.publish_many(
                Event(i, "Row", "/x", 1.0, data) for i, data in zip(ids, (b"no", b'{"n":1}'), strict=True)
            )
            await until(lambda: {fact.id for fact in world.of(EventDied)} == {*ids})

    run(main())


def test_events_of_one_message_are_in_one_list_and_settle_once() -> None:
    async def main() -> None:
        world, train, calls, done = World(), train_of(), list[list[int]](), list[int]()

        @train.on("t", batch=3, within=0.1)
        async def rows(some: list[Row], ctx: BatchContext) -> None:
            calls.append([row.n for row in some])
            for index, row in enumerate(some):
                ctx.emit("done", row.n, of=index)
            if ctx.attempt == 1:
                raise Failed({i: Reject("ten") for i, row in enumerate(some) if row.n == 10})
            assert not any(row.n == 10 for row in some)

        @train.on("done")
        async def collect(n: int) -> None:
            done.append(n)

        documents = [
            b'{"specversion":"1.0","id":"%d","type":"Row","source":"/x","data":{"n":%d}}' % (n, n) for n in (10, 11, 12)
        ]
        async with world.running(train) as connection:
            several = Event(
                new_ids(1, world.clock())[0],
                "unknown",
                "unknown",
                1.0,
                b"[" + b",".join([*documents, b'"x"']) + b"]",
                content_type=BATCH,
            )
            single = [Event(i, "Row", "/x", 1.0, b'{"n":%d}' % n) for n, i in enumerate(new_ids(2, world.clock()))]
            await connection.publish_many([single[0], several, single[1]])
            await until(lambda: sorted(done) == [0, 1, 11, 12])
            await until(lambda: len(world.of(EventDied)) == 2)
            (depth,) = await world.broker.depth([Channel("t", 1)])
        assert calls == [[0, 10, 11, 12, 1]]
        assert (depth.published, depth.settled) == (3, 3)
        assert {fact.because.partition(":")[0] for fact in world.of(EventDied)} == {"rejected", "can't be decoded"}

    run(main())


def test_a_message_of_several_comes_again_whole_if_one_of_them_fails() -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(), list[tuple[list[int], int]]()

        @train.on("t", batch=3, within=0.1)
        async def rows(some: list[Row], ctx: BatchContext) -> None:
            calls.append(([row.n for row in some], ctx.attempt))
            if ctx.attempt == 1:
                raise Failed({some.index(Row(11)): ValueError("once")})

        documents = [
            b'{"specversion":"1.0","id":"%d","type":"Row","source":"/x","data":{"n":%d}}' % (n, n) for n in (10, 11)
        ]
        async with world.running(train) as connection:
            data = b"[" + b",".join(documents) + b"]"
            ids = new_ids(2, world.clock())
            await connection.publish_many(
                [Event(ids[0], "x", "x", 1.0, data, content_type=BATCH), Event(ids[1], "Row", "/x", 1.0, b'{"n":1}')]
            )
            await until(lambda: len(calls) == 2)
        assert calls == [([10, 11, 1], 1), ([10, 11], 2)]

    run(main())


# --- emits --------------------------------------------------------------------------------------


def test_ids_of_what_is_emitted_derive_from_the_right_event() -> None:
    async def main() -> None:
        world, train, got = World(), train_of(), dict[str, int]()
        parents = list[Event]()

        @train.on("t", batch=4, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            if len(some) > 1:
                parents.extend(ctx.events)
            for index, n in enumerate(some):
                await ctx.emit("done", n, of=index, subject=f"s{n}", extensions={"n": str(n)})
                ctx.emit("done", n, of=index)
            if len(some) > 1:
                raise ValueError("once")  # the attempt one by one emits the same ids

        @train.on("done")
        async def collect(n: int, ctx: Context) -> None:
            got[ctx.event.id] = n

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await until(lambda: len(got) == 8)
        assert got == {child_id(parent, "done", k): n for n, parent in enumerate(parents) for k in (0, 1)}

    run(main())


@pytest.mark.parametrize("of", [4, -1, True, "0", None, 0.0, 2**70])
def test_emits_of_no_event_are_refused(of: Any) -> None:
    async def main() -> None:
        world, train, said = World(), train_of(), list[str]()

        @train.on("t", batch=4, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            with pytest.raises(UsageError) as refused:
                ctx.emit("done", 1, of=of)
            said.append(str(refused.value))
            with pytest.raises(UsageError, match="no handler is declared for it"):
                ctx.emit("nowhere", 1, of=0)

        @train.on("done")
        async def collect(n: int) -> None:
            raise AssertionError(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await until(lambda: said)
        assert "is no index of the batch, which has 4 payloads" in said[0]

    run(main())


def test_nothing_is_emitted_once_the_handler_has_ended() -> None:
    async def main() -> None:
        world, train, kept = World(), train_of(), list[BatchContext]()

        @train.on("t", batch=2, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            ctx.emit("done", 1, of=0)
            kept.append(ctx)

        @train.on("done")
        async def collect(n: int) -> None:
            pass

        async with world.running(train) as connection:
            await connection.publish_many(range(2))
            await until(lambda: kept)
            await asyncio.sleep(1)
            for index in (0, 1):
                with pytest.raises(UsageError, match="has ended"):
                    kept[0].emit("done", 1, of=index)

    run(main())


# --- time, ends, outages ----------------------------------------------------------------------


def test_the_timeout_is_for_the_call_and_a_batch_that_hangs_is_taken_apart() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(handler_timeout=1.0, attempts=3), set[int]()

        @train.on("t", batch=10, within=0.1)
        async def rows(some: list[int]) -> None:
            if 4 in some:
                await asyncio.sleep(100)
            done.update(some)

        async with world.running(train) as connection:
            began = now()
            await connection.publish_many(range(10))
            await until(lambda: len(done) == 9)
            await until(lambda: world.of(EventDied))
            assert now() - began < 10
        assert [fact.because for fact in world.of(EventDied)] == ["not finished after handler_timeout=1 s"]

    run(main())


@pytest.mark.parametrize("leave_after", [0.0, 0.3, 1.05, 1.5])
def test_a_process_that_leaves_gives_back_what_forms_and_what_is_under_way(leave_after: float) -> None:
    async def main() -> None:
        world, train, done = World(), train_of(grace=0.2), list[int]()

        @train.on("t", batch=10, within=1.0)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            assert ctx.attempt == 1
            await asyncio.sleep(2)
            done.extend(some)

        async with world.connect(train) as connection:
            async with connection.running():
                await connection.publish_many(range(5))
                await asyncio.sleep(leave_after)
            (depth,) = await world.broker.depth([Channel("t", 1)])
            assert (depth.waiting, depth.in_flight) == (5, 0)
            assert not done
            async with connection.running():
                await until(lambda: sorted(done) == [*range(5)])

    run(main())


def test_a_pause_gives_back_what_forms() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(), list[int]()

        @train.on("t", batch=10, within=3.0)
        async def rows(some: list[int]) -> None:
            done.extend(some)

        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await asyncio.sleep(0.5)
            await connection.pause()
            await asyncio.sleep(10)
            (depth,) = await world.broker.depth([Channel("t", 1)])
            assert (depth.waiting, depth.in_flight, done) == (5, 0, [])
            await connection.resume()
            await until(lambda: sorted(done) == [*range(5)])

    run(main())


def test_claims_are_kept_while_a_batch_forms() -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(visibility=1.0), list[list[int]]()

        @train.on("t", batch=10, within=5.0)
        async def rows(some: list[int]) -> None:
            calls.append(list(some))
            await asyncio.sleep(5.0)

        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await asyncio.sleep(15)
        assert calls == [[*range(5)]]

    run(main())


def test_a_breaker_counts_calls_so_that_one_bad_batch_opens_nothing() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(breaker=Breaker(last=20, least=5, events=3)), set[int]()

        @train.on("t", batch=100, within=0.1)
        async def rows(some: list[int]) -> None:
            done.update(n for n in some if n % 10)
            if bad := {i: Reject("ten") if n % 20 else ValueError("n") for i, n in enumerate(some) if n % 10 == 0}:
                raise Failed(bad)

        async with world.running(train) as connection:
            await connection.publish_many(n for n in range(100) if n % 10 or n < 30)
            await until(lambda: len(done) == 90)
            await until(lambda: len(world.of(EventDied)) == 3)
        assert not world.of(BreakerOpened)

    run(main())


def test_in_an_outage_the_breaker_opens_and_nothing_dies() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(workers=Workers(each=4), breaker=Breaker(last=6, least=3)), set[int]()
        up, attempts = now() + 300.0, set[int]()

        @train.on("t", batch=10, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            attempts.update({ctx.attempt} if len(some) > 1 else ())
            if now() < up:
                raise ConnectionError("down")
            done.update(some)

        async with world.running(train) as connection:
            await connection.publish_many(range(300))
            await until(lambda: len(done) == 300, seconds=600)
        assert world.of(BreakerOpened)
        assert not world.of(EventDied)
        assert attempts == {1}

    run(main())


def test_figures_count_events_and_share_the_time_of_a_batch() -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t", batch=100, within=0.1)
        async def rows(some: list[int]) -> None:
            await asyncio.sleep(1.0)
            if 7 in some:
                raise Failed({some.index(7): Reject("seven")})

        async with world.running(train) as connection:
            await connection.publish_many(range(100))
            await until(lambda: world.of(EventDied))
            await asyncio.sleep(10)
            deployment = next(d for m in await connection.members() for d in m.attachments)
        assert (deployment.handled, deployment.failed, deployment.in_hand) == (99, 1, 0)
        assert deployment.work is not None
        assert deployment.work.count == 100
        assert deployment.work.seconds == pytest.approx(1.0, rel=0.05)

    run(main())


def test_a_batch_that_fails_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t", batch=50, within=0.1)
        async def rows(some: list[int]) -> None:
            if len(some) > 1:
                raise ValueError("all")

        async with world.running(train) as connection:
            await connection.publish_many(range(50))
            await until(lambda: len(world.of(EventRetried)) == 50)

    with caplog.at_level(logging.WARNING):
        run(main())
    lines = [record.getMessage() for record in caplog.records if "failed on event" in record.getMessage()]
    assert len(lines) == 1
    assert "and 49 more of its batch at attempt 1: ValueError: all" in lines[0]


# --- budgets and options -------------------------------------------------------------------------


def test_concurrency_counts_calls_and_rate_counts_events() -> None:
    async def main() -> None:
        world, train = World(), train_of(workers=Workers(each=4))
        busy, most, begun = 0, 0, list[tuple[float, int]]()

        @train.on("t", batch=10, within=0.1, concurrency=2, rate=50)
        async def rows(some: list[int]) -> None:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            begun.append((now(), len(some)))
            await asyncio.sleep(0.3)
            busy -= 1

        async with world.running(train) as connection:
            await connection.publish_many(range(500))
            await until(lambda: sum(size for _, size in begun) == 500)
        assert most == 2
        assert len(begun) < 60
        assert 8.5 < begun[-1][0] - begun[0][0] < 11.5

    run(main())


def test_a_message_of_several_survives_one_whose_exception_is_never_retried() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(), list[int]()

        @train.on("t", batch=3, within=0.1, dead_on=KeyError)
        async def rows(some: list[Row], ctx: BatchContext) -> None:
            for index, row in enumerate(some):
                ctx.emit("done", row.n, of=index)
            raise Failed({some.index(Row(11)): KeyError("n")})

        @train.on("done")
        async def collect(n: int) -> None:
            done.append(n)

        documents = [
            b'{"specversion":"1.0","id":"%d","type":"Row","source":"/x","data":{"n":%d}}' % (n, n) for n in (10, 11)
        ]
        async with world.running(train) as connection:
            data = b"[" + b",".join(documents) + b"]"
            await connection.publish(Event(new_ids(1, 1.0)[0], "x", "x", 1.0, data, content_type=BATCH))
            await until(lambda: world.of(EventDied))
            await until(lambda: done == [10])
        assert [(fact.id, fact.attempts) for fact in world.of(EventDied)] == [("11", 1)]

    run(main())


def test_exceptions_that_are_never_retried_kill_only_the_event_that_raises_them() -> None:
    async def main() -> None:
        world, train, done = World(), train_of(), set[int]()

        @train.on("t", batch=10, within=0.1, dead_on=(KeyError, TimeoutError), timeout=1)
        async def rows(some: list[int]) -> None:
            if 1 in some:
                raise KeyError("whole")
            if 2 in some:
                await asyncio.sleep(10)
            done.update(n for n in some if n != 3)
            if 3 in some:
                raise Failed({some.index(3): KeyError("named")})

        async with world.running(train) as connection:
            await connection.publish_many(range(10))
            await until(lambda: len(done) == 7)
            await until(lambda: len(world.of(EventDied)) == 3)
        assert {fact.attempts for fact in world.of(EventDied)} == {2}

    run(main())


# --- what a dead process had in hand ------------------------------------------------------------


def mark_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The broker takes so long to mark a claim."""
    alone = MemorySubscription.alone

    async def slow(self: MemorySubscription, delivery: Delivery) -> bool:
        await asyncio.sleep(seconds)
        return await alone(self, delivery)

    monkeypatch.setattr(MemorySubscription, "alone", slow)


def test_it_comes_again_in_batches_with_no_others_in_them_or_beside_them() -> None:
    async def main() -> None:
        world, train = World(), train_of(workers=Workers(total=4), visibility=2.0)
        seen, beside, under_way = list[list[int]](), 0, 0

        @train.on("t", batch=10)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            nonlocal beside, under_way
            assert ctx.attempt == 1
            seen.append(some)
            is_suspect = min(some) < 40
            under_way += 1
            beside = max(beside, (under_way - 1) * is_suspect)
            await asyncio.sleep(1.0)
            beside = max(beside, (under_way - 1) * is_suspect)
            under_way -= 1

        await left_behind(world, train, range(40))
        async with world.running(train) as connection:
            await connection.publish_many(range(40, 240))
            await until(lambda: sum(map(len, seen)) == 240)
        suspects = [some for some in seen if min(some) < 40]
        assert sorted(n for some in suspects for n in some) == list(range(40))
        assert len(suspects) <= 10
        assert beside == 0

    run(main())


def test_with_one_attempt_each_of_them_is_a_batch_of_its_own() -> None:
    """It would die if its batch ended the next process, too."""

    async def main() -> None:
        world, train, sizes = World(), train_of(attempts=1, visibility=2.0), list[int]()

        @train.on("t", batch=10)
        async def rows(some: list[int]) -> None:
            sizes.append(len(some))

        await left_behind(world, train, range(12))
        async with world.running(train):
            await until(lambda: sum(sizes) == 12)
        assert sizes == [1] * 12

    run(main())


@pytest.mark.parametrize("within", [0.0, 0.5, 30.0])
def test_they_hold_up_no_backlog_and_it_holds_up_none_of_them(within: float) -> None:
    """Both come in full batches, and neither waits for the other to fill one."""

    async def main() -> None:
        world, train, seen = World(), train_of(visibility=2.0), list[list[int]]()

        @train.on("t", batch=100, within=within)
        async def rows(some: list[int]) -> None:
            seen.append(some)
            await asyncio.sleep(0.1)

        await left_behind(world, train, range(150))
        async with world.connect(train) as connection:
            await connection.publish_many(range(150, 5_150))
        began = now()
        async with world.running(train):
            await until(lambda: sum(map(len, seen)) == 5_150)
        suspects = [len(some) for some in seen if min(some) < 150]
        assert sum(suspects) == 150
        assert len(suspects) <= 4
        assert len(seen) - len(suspects) <= 5_000 / 100 + 3
        assert now() - began < len(seen) * 0.1 + 4.0

    run(main())


def test_what_there_was_no_time_to_mark_does_not_wait_for_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world, train, sizes = World(), train_of(visibility=2.0), list[int]()

        @train.on("t", batch=100, within=30)
        async def rows(some: list[int]) -> None:
            sizes.append(len(some))

        await left_behind(world, train, range(60))
        mark_slowly(monkeypatch, 0.02)
        began = now()
        async with world.running(train):
            await until(lambda: sum(sizes) == 60)
        assert now() - began < 15.0

    run(main())


def test_a_pause_gives_them_back_and_begins_no_batch_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they wait for one another, and while their claims are marked."""
    alone, marks = MemorySubscription.alone, 0

    async def main() -> None:
        world, train, done = World(), train_of(visibility=600.0), list[int]()

        @train.on("t", batch=10)
        async def rows(some: list[int]) -> None:
            done.extend(some)

        async def slow(self: MemorySubscription, delivery: Delivery) -> bool:
            nonlocal marks
            stands = await alone(self, delivery)
            marks += 1
            await asyncio.sleep(0.05)
            return stands

        async def given_back() -> bool:
            (depth,) = await world.broker.depth([Channel("t", 1)])
            return (depth.waiting, depth.in_flight, done) == (5, 0, [])

        await left_behind(world, train, range(5))
        monkeypatch.setattr(MemorySubscription, "alone", slow)
        async with world.running(train) as connection:
            await asyncio.sleep(0.3)
            await connection.pause()
            await asyncio.sleep(2.0)
            assert await given_back()
            assert marks == 0
            await connection.resume()
            await until(lambda: marks > 0)
            await connection.pause()
            await asyncio.sleep(2.0)
            assert marks < 5
            assert await given_back()
            await connection.resume()
            await until(lambda: sorted(done) == [*range(5)])

    run(main())


@pytest.mark.parametrize("first", [1, 3])
def test_if_a_claim_can_not_be_marked_no_other_is_tried(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    alone, asked = MemorySubscription.alone, 0

    async def away(self: MemorySubscription, delivery: Delivery) -> bool:
        nonlocal asked
        asked += 1
        if asked == first:
            raise Unavailable("it is away")
        return await alone(self, delivery)

    async def main() -> None:
        world, train, seen = World(), train_of(visibility=600.0), list[list[int]]()

        @train.on("t", batch=10)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            assert ctx.attempt == 1
            seen.append(some)

        await left_behind(world, train, range(10))
        monkeypatch.setattr(MemorySubscription, "alone", away)
        async with world.running(train):
            await until(lambda: sum(map(len, seen)) == 10)
        assert len(world.of(StepFailed)) == 1
        assert sorted(n for some in seen for n in some) == [*range(10)]

    run(main())


def test_a_worker_that_is_cancelled_amid_the_marks_costs_none_of_them_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, marks = MemorySubscription.alone, 0

    async def cut(self: MemorySubscription, delivery: Delivery) -> bool:
        nonlocal marks
        stands = await alone(self, delivery)
        marks += 1
        if marks == 5 and (task := asyncio.current_task()) is not None:
            task.cancel()
        await asyncio.sleep(0.001)
        return stands

    async def main() -> None:
        world, train, attempts = World(), train_of(visibility=2.0), list[int]()

        @train.on("t", batch=10)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            attempts.extend([ctx.attempt] * len(some))

        await left_behind(world, train, range(10))
        monkeypatch.setattr(MemorySubscription, "alone", cut)
        async with world.running(train):
            await until(lambda: len(attempts) == 10)
        assert attempts == [1] * 10

    run(main())


def test_a_broker_that_marks_claims_slowly_gets_smaller_batches_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other workers wait for the marks. What there is no time for comes again."""

    async def main() -> None:
        world, train, sizes = World(), train_of(visibility=2.0), list[int]()

        @train.on("t", batch=10)
        async def rows(some: list[int]) -> None:
            sizes.append(len(some))

        await left_behind(world, train, range(12))
        mark_slowly(monkeypatch, 0.1)
        async with world.running(train):
            await until(lambda: sum(sizes) == 12)
        assert 1 < max(sizes) <= 4
        assert world.of(StepFailed) == []

    run(main())


def test_one_of_them_whose_claim_has_expired_is_not_handled_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, gone = MemorySubscription.alone, list[int]()

    async def expired(self: MemorySubscription, delivery: Delivery) -> bool:
        if int(delivery.event.data) in (3, 5) and len(gone) < 2:
            gone.append(int(delivery.event.data))
            return False
        return await alone(self, delivery)

    async def main() -> None:
        world, train, seen = World(), train_of(visibility=2.0), list[list[int]]()

        @train.on("t", batch=10)
        async def rows(some: list[int]) -> None:
            seen.append(some)

        await left_behind(world, train, range(10))
        monkeypatch.setattr(MemorySubscription, "alone", expired)
        async with world.running(train):
            await until(lambda: sum(map(len, seen)) == 10)
        assert {3, 5} == {*gone}
        assert not {3, 5} & {*seen[0]}
        assert sorted(n for some in seen for n in some) == list(range(10))

    run(main())


def test_a_batch_of_them_that_fails_is_taken_apart_like_any() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(attempts=3, visibility=2.0), list[tuple[int, list[int]]]()

        @train.on("t", batch=10)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            seen.append((ctx.attempt, some))
            if 7 in some:
                raise ValueError("the whole batch")

        await left_behind(world, train, range(10))
        async with world.running(train) as connection:
            await until(lambda: len(world.of(EventDied)) == 1)
            assert [int(letter.data) async for letter in connection.dead_letters()] == [7]
        assert seen[0][0] == 1
        assert len(seen[0][1]) > 1
        assert all(len(some) == 1 for attempt, some in seen if attempt > 1)
        assert {n for _, some in seen for n in some} == set(range(10))

    run(main())


def test_of_a_batch_of_them_that_ends_the_next_process_each_comes_alone(tmp_path: Path) -> None:
    """The one that kills dies after as many attempts as by itself; the others are handled, at the cost of one."""
    url = f"sqlite:///{tmp_path}/trains"
    command = [sys.executable, "-m", "eventwagon", "run", "tests.programs.killers:batches", "--url", url]
    (tmp_path / "calls").touch()

    def calls() -> list[tuple[int, list[int]]]:
        lines = [[*map(int, line.split())] for line in (tmp_path / "calls").read_text().splitlines()]
        return [(attempt, some) for attempt, *some in lines]

    def handled() -> list[tuple[int, list[int]]]:
        return [(attempt, some) for attempt, some in calls() if KILLS not in some]

    async def letters(connection: Connection) -> list[int]:
        return [int(letter.data) async for letter in connection.dead_letters()]

    async def main() -> None:
        deaths, dead = 0, list[int]()
        async with batches.connect(url, listeners=()) as connection:
            await connection.publish_many(range(10))
            while len(handled()) < 9 or not (dead := await letters(connection)):
                process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "CALLS": str(tmp_path)})
                try:
                    while process.returncode is None and (len(handled()) < 9 or not await letters(connection)):
                        await asyncio.sleep(0.1)
                finally:
                    if process.returncode is None:
                        process.terminate()
                deaths += await process.wait() == -signal.SIGKILL
            assert dead == [KILLS]
            assert deaths == 4
            killed = [(attempt, len(some)) for attempt, some in calls() if KILLS in some]
            assert killed[0] == (1, 10)
            assert killed[1][1] > 1
            assert killed[1:] == [(1, killed[1][1]), (2, 1), (3, 1)]
            assert sorted(n for _, some in handled() for n in some) == [n for n in range(10) if n != KILLS]
            assert all(attempt == 1 or len(some) == 1 for attempt, some in handled())

    asyncio.run(main())


# --- on SQLite ----------------------------------------------------------------------------------


def test_batches_of_two_processes_of_which_one_is_killed(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    try_batches(f"sqlite:///{tmp_path}/trains", rows)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation", [int, Row, dict, list, Sequence, set[int], tuple[int, ...], dict[str, int], Any, None, "unannotated"]
)
def test_a_handler_of_batches_takes_a_list(annotation: Any) -> None:
    async def rows(some: Any) -> None: ...

    rows.__annotations__["some"] = annotation
    if annotation == "unannotated":
        del rows.__annotations__["some"]
    with pytest.raises(UsageError, match=r"handler of 't': with batch= it takes a list of payloads: annotate .*list\["):
        train_of().on("t", batch=10)(rows)


@pytest.mark.parametrize("annotation", [list[Row], Sequence[Row], "list[Row]", "Sequence[Row]", list[Any], list[Event]])
def test_lists_and_sequences_of_anything_are_taken(annotation: Any) -> None:
    async def rows(some: Any) -> None: ...

    rows.__annotations__["some"] = annotation
    train_of().on("t", batch=10)(rows)


def test_a_list_without_batch_is_one_payload() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[list[int]]()

        @train.on("t")
        async def numbers(some: list[int]) -> None:
            seen.append(some)

        async with world.running(train) as connection:
            await connection.publish([1, 2])
            await until(lambda: seen)
        assert seen == [[1, 2]]

    run(main())


def test_the_wrong_context_is_refused() -> None:
    async def single(n: int, ctx: BatchContext) -> None: ...
    async def many(ns: list[int], ctx: Context) -> None: ...

    with pytest.raises(UsageError, match="BatchContext only with batch="):
        train_of().on("t")(single)
    with pytest.raises(UsageError, match="with batch= ctx is a BatchContext"):
        train_of().on("t", batch=2)(many)


@pytest.mark.parametrize("given", [{"batch": 0}, {"batch": True}, {"batch": 10_001}, {"batch": "9"}, {"within": 1}])
def test_bad_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"handler of .t.: (batch|within)"):
        train_of().on("t", **given)
