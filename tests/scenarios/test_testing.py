"""The test kit: what a program's own tests see of its train, in virtual time and in a loop of the real time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from eventwagon import Context, Event, EventRetried, Reject, Retry, Snooze, Train, Volume, Workers, testing
from eventwagon.errors import TrainPaused, UsageError
from eventwagon.testing import kit

Run = Callable[[Coroutine[Any, Any, None]], None]
in_any_loop = pytest.mark.parametrize("run", [testing.run, asyncio.run], ids=["virtual", "real"])


@dataclass(frozen=True)
class Order:
    id: int
    price: float = 1.0


def shop(**settings: Any) -> Train:
    """Orders are shipped, and what is shipped is mailed. Order 13 can't be handled, and 14 is refused."""
    train = Train("orders", **settings)

    @train.on("orders")
    async def ship(order: Order, ctx: Context) -> None:
        await ctx.emit("mail", f"order {order.id}", subject="mail")
        if order.id == 13:
            raise ValueError("no order has that number")
        if order.id == 14:
            raise Reject("not for sale")

    @train.on("mail")
    def mail(text: str) -> None:
        time.sleep(0.001)

    return train


@in_any_loop
def test_what_is_published_to_other_trains_is_shown_and_not_waited_for(run: Run) -> None:
    billing, unknown, orders = Train("billing"), Train("unknown"), Train("orders")

    @billing.on("billing")
    async def bill(order: Order) -> None: ...

    @orders.on("orders")
    async def ship(order: Order, ctx: Context) -> None:
        ctx.publish(order, to=billing)
        ctx.publish({"id": order.id}, to=unknown)

    async def story() -> None:
        async with testing.running(orders) as t:
            await t.publish(Order(1))
            await t.idle()
            assert t.published() == t.handled() == [Order(1)]
            assert len(t.events()) == 1
            assert t.published(to=billing) == [Order(1)]
            assert t.published(to=unknown) == [{"id": 1}]
            with pytest.raises(UsageError, match="give a Train"):
                t.published(to="billing")  # type: ignore[arg-type]

    run(story())


@in_any_loop
def test_it_shows_what_happened(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop()) as t:
            first = await t.publish(Order(1))
            await t.publish_many([Order(2), Order(3)])
            await t.idle()
            assert t.published() == [Order(1), Order(2), Order(3)]
            assert sorted(t.handled(), key=lambda order: order.id) == [Order(1), Order(2), Order(3)]
            assert t.handled("orders") == t.handled()
            assert set(t.handled("mail")) == set(t.emitted("mail")) == {"order 1", "order 2", "order 3"}
            assert [event.subject for event in t.events("mail")] == ["mail"] * 3
            assert t.events()[0].id == first
            assert (t.dead, t.errors, t.attempts(first)) == ([], [], 1)
            assert repr(t) == "<RunningTrain orders: 6 handled, 0 dead, 0 left>"

    began = time.monotonic()
    run(story())
    assert time.monotonic() - began < 5


@in_any_loop
def test_retries_take_no_time(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop(backoff=60.0, backoff_most=600.0)) as t:
            t.fail(times=2)
            t.fail("mail", error=TimeoutError)
            it = await t.publish(Order(1))
            await t.idle()
            assert (t.handled(), t.handled("mail"), t.emitted("mail")) == ([Order(1)], ["order 1"], ["order 1"])
            assert t.attempts(it) == 3
            assert [type(error) for error in t.errors] == [testing.PlannedFailure, testing.PlannedFailure, TimeoutError]
            assert sum(isinstance(fact, EventRetried) for fact in t.facts) == 3

    began = time.monotonic()
    run(story())
    assert time.monotonic() - began < 5


@in_any_loop
def test_a_death_fails_the_test_and_shows_the_error(run: Run) -> None:
    async def idle() -> None:
        async with testing.running(shop()) as t:
            await t.publish(Order(13))
            await t.idle()

    async def at_the_end() -> None:
        async with testing.running(shop()) as t:
            await t.publish(Order(13))
            while not t.dead:
                await asyncio.sleep(0.1)
                await t.advance(30)

    for story in (idle, at_the_end):
        with pytest.raises(testing.UnexpectedDeath) as found:
            run(story())
        assert "orders: Order(id=13, price=1.0) after 5 attempts: ValueError: no order has" in str(found.value)
        assert isinstance(found.value.__cause__, ValueError)
        assert any(frame.name == "ship" for frame in found.traceback) or found.value.__cause__.__traceback__


@in_any_loop
def test_a_test_of_deaths_looks_at_them(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop(), dead="keep", attempts=2) as t:
            it = await t.publish(Order(13))
            await t.publish(Order(14))
            await t.publish(Order(15))
            await t.idle()
            rejected, failed = sorted(t.dead, key=lambda letter: letter.attempts)
            assert (rejected.payload, rejected.because, rejected.attempts) == (Order(14), "rejected: not for sale", 1)
            assert (failed.id, failed.because) == (it, "ValueError: no order has that number")
            assert (failed.attempts, failed.channel, failed.wagon) == (2, "orders", 1)
            assert repr(failed) == (
                "DeadLetter(payload=Order(id=13, price=1.0), because='ValueError: no order has that number', "
                "channel='orders', attempts=2)"
            )
            assert t.handled() == [Order(15)]
            assert t.emitted("mail") == ["order 15"], "what failed emitted nothing"
            assert t.attempts(it) == 2

    run(story())


@in_any_loop
def test_what_is_to_come_later_comes_when_time_has_passed(run: Run) -> None:
    train, seen = Train("t"), list[float]()

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise Snooze(3600)
        if len(seen) == 2:
            raise Retry(after=600)

    async def story() -> None:
        async with testing.running(train) as t:
            began = t.clock()
            await t.publish(1)
            await t.idle()
            assert (len(seen), t.handled()) == (1, [])
            await t.advance(1800)
            await t.idle()
            assert len(seen) == 1
            await t.advance(1900)
            await t.idle()
            assert (len(seen), t.handled()) == (3, [1])
            assert 3700 <= t.clock() - began < 4400

    run(story())


@in_any_loop
def test_what_is_delivered_twice_is_handled_twice_under_one_id(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop()) as t:
            it = await t.publish(Order(1))
            await t.idle()
            await t.redeliver(it)
            await t.redeliver(t.events("mail")[0].id)
            await t.idle()
            assert t.handled() == [Order(1)] * 2
            assert t.published() == [Order(1)]
            assert t.handled("mail") == ["order 1"] * 3
            assert len({event.id for event in t.events("mail")}) == 1
            assert t.attempts(it) == 2
            with pytest.raises(UsageError, match=f"no event has the id 'x'; the latest: {it}"):
                await t.redeliver("x")

    run(story())


@in_any_loop
def test_a_failure_afterwards_lets_the_handler_run_first(run: Run) -> None:
    train, seen = Train("t"), list[int]()

    @train.on("t")
    def handle(number: int) -> None:
        seen.append(number)

    async def story() -> None:
        async with testing.running(train, dead="keep") as t:
            t.fail(times=2, afterwards=True)
            await t.publish(1)
            await t.idle()
            assert (seen, t.handled()) == ([1, 1, 1], [1])
            t.fail(times=None)
            await t.publish(2)
            await t.idle()
            assert (seen, len(t.dead)) == ([1, 1, 1], 1)

    run(story())


@in_any_loop
def test_wagons_switch(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop()) as t:
            it = await t.publish(Order(1))
            await t.idle()
            assert await t.switch() == 2
            await t.publish(Order(2))
            await t.redeliver(it)
            await t.idle()
            assert sorted(order.id for order in t.handled()) == [1, 1, 2]

    run(story())


def test_limits_and_timeouts_work_in_virtual_time() -> None:
    train = Train("t", limit=Volume(2), workers=Workers(each=1))

    @train.on("t")
    async def handle(number: int) -> None:
        await asyncio.sleep(30 if number else 3600)

    async def story() -> None:
        async with testing.running(train, dead="keep", attempts=1) as t:
            await t.publish_many([1, 2, 3, 0])
            await t.idle()
            assert sorted(t.handled()) == [1, 2, 3]
            assert [letter.because for letter in t.dead] == ["not finished after handler_timeout=60 s"]
            assert t.connection.manifest.next_number > 2

    testing.run(story())


@in_any_loop
def test_the_lifespan_is_entered_or_replaced(run: Run) -> None:
    train, steps = Train("t"), list[str]()

    @train.lifespan
    async def opened() -> AsyncIterator[str]:
        steps.append("opened")
        yield "pool"
        steps.append("closed")

    @train.on("t")
    def handle(number: int, ctx: Context) -> None:
        steps.append(ctx.state)

    async def story() -> None:
        async with testing.running(train) as t:
            await t.publish(1)
            await t.idle()
        assert steps == ["opened", "pool", "closed"]
        for state in ("fake", None):
            async with testing.running(train, state=state) as t:
                await t.publish(1)
                await t.idle()
        assert steps[3:] == ["fake", None]

    run(story())


@in_any_loop
def test_a_lifespan_that_fails_is_said_at_once(run: Run) -> None:
    train = Train("t")

    @train.lifespan
    async def opened() -> AsyncIterator[str]:
        if not train.channels:
            raise OSError("no database")
        yield ""

    @train.on("t")
    async def handle(number: int) -> None: ...

    async def story() -> None:
        async with testing.running(train) as t:
            await t.publish(1)
            with pytest.raises(testing.NotIdle, match="its lifespan failed: OSError: no database") as found:
                await t.idle()
            assert isinstance(found.value.__cause__, OSError)

    run(story())


@in_any_loop
def test_what_is_left_is_said(run: Run) -> None:
    train, go = Train("t", workers=Workers(each=1)), asyncio.Event()

    @train.on("t")
    async def handle(number: int) -> None:
        await go.wait()

    async def story() -> None:
        async with testing.running(train) as t:
            ids = [await t.publish(number) for number in range(30)]
            with pytest.raises(testing.NotIdle) as found:
                await t.idle(within=0.5)
            said = str(found.value)
            assert said.startswith("train 't' was not idle within 0.5 s: 30 events left\n")
            assert f"  t: 0 taken (id {ids[0]}, wagon 1)" in said
            assert said.endswith("  and 20 others")
            go.set()
            await t.idle()
            await t.connection.pause()
            await t.publish(1)
            with pytest.raises(testing.NotIdle, match="the train is paused"):
                await t.idle(within=0.5)
            await t.connection.pause(publishing=True)
            await t.connection.resume()
            await t.idle()

    run(story())


def test_plain_handlers_run_in_threads_and_the_clock_waits_for_them() -> None:
    train, loop_thread, threads = Train("t", workers=Workers(each=40)), threading.get_ident(), set[int]()

    @train.on("t")
    def handle(number: int, ctx: Context) -> None:
        threads.add(threading.get_ident())
        time.sleep(0.05)
        ctx.emit("next", number)

    @train.on("next")
    async def after(number: int) -> None:
        await asyncio.to_thread(time.sleep, 0.01)

    async def story() -> None:
        async with testing.running(train) as t:
            began = t.clock()
            await t.publish_many(range(40))
            await t.idle()
            assert sorted(t.handled("next")) == list(range(40))
            assert t.clock() - began < 20, "the clock has not jumped while a thread was at work"
            assert loop_thread not in threads
            assert len(threads) > 8, "as many as there are workers"
            await asyncio.sleep(3600)

    testing.run(story())


def test_sockets_are_waited_for_in_virtual_time() -> None:
    train = Train("t", handler_timeout=5.0)

    async def story() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            word = await reader.readline()
            await asyncio.to_thread(time.sleep, 0.1)
            writer.write(word)
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        @train.on("t")
        async def ask(number: int, ctx: Context) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{number}\n".encode())
            assert int(await reader.readline()) == number
            writer.close()
            await writer.wait_closed()

        async with server, testing.running(train) as t:
            await t.publish_many(range(20))
            await t.idle()
            assert sorted(t.handled()) == list(range(20))

    testing.run(story())


def test_with_an_open_socket_time_is_real_and_the_train_does_not_wait() -> None:
    train, seen = Train("t", backoff=60.0), list[int]()

    @train.on("t")
    async def handle(number: int) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise Snooze(3600)

    async def story() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with server, testing.running(train, state="an idle pool") as t:
            began = t.clock()
            await t.publish(1)
            await t.idle()
            t.fail(times=2)
            await t.advance(3600)
            await t.idle()
            assert (seen, t.handled()) == ([1, 1], [1])
            assert t.clock() - began < 3610

    began = time.monotonic()
    testing.run(story())
    assert time.monotonic() - began < 5


def test_patience_ends_in_real_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "_PATIENCE", 0.5)
    train = Train("t")

    @train.on("t")
    def handle(number: int) -> None:
        time.sleep(2)

    async def story() -> None:
        async with testing.running(train) as t:
            await t.publish(1)
            with pytest.raises(testing.NotIdle, match=r"not idle within 0\.5 s: 1 event left"):
                await t.idle()

    testing.run(story())


@in_any_loop
def test_what_the_test_raises_comes_out_as_it_is(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop()) as t:
            await t.publish(Order(13))
            await t.advance(600)
            raise KeyError("of the test")

    with pytest.raises(KeyError, match="of the test"):
        run(story())

    async def cut() -> None:
        async with asyncio.timeout(1.0), testing.running(shop()) as t:
            await t.publish(Order(1))
            await t.connection.stopped()

    with pytest.raises(TimeoutError):
        run(cut())


@in_any_loop
def test_a_handler_that_hangs_does_not_hold_up_the_end(run: Run) -> None:
    train = Train("t")

    @train.on("t")
    async def handle(number: int) -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        async with testing.running(train) as t:
            await t.publish(1)
            await asyncio.sleep(0.1)

    began = time.monotonic()
    run(story())
    assert time.monotonic() - began < 4


@in_any_loop
def test_batches_of_cloudevents_are_events_of_their_own(run: Run) -> None:
    train = Train("t")

    @train.on("t")
    async def handle(number: int) -> None:
        if number == 2:
            raise Reject("two")

    async def story() -> None:
        head = {"specversion": "1.0", "source": "/s", "type": "n"}
        batch = json.dumps([{**head, "id": str(n), "data": n} for n in (1, 2, 3)]).encode()
        async with testing.running(train, dead="keep") as t:
            await t.publish(Event("b", "batch", "/s", 0.0, batch, content_type="application/cloudevents-batch+json"))
            await t.idle()
            assert (t.handled(), [letter.payload for letter in t.dead]) == ([1, 3], [2])

    run(story())


@in_any_loop
def test_nothing_is_changed_or_left_behind(run: Run) -> None:
    train, other = shop(), Train("other")
    before = (train.settings, dict(train.handlers), {n: h.call for n, h in train.handlers.items()}, train.opening)

    @other.on("other")
    async def handle(order: Order) -> None: ...

    async def story() -> None:
        async with testing.running(train) as one, testing.running(other) as two, testing.running(train) as three:
            one.fail(times=None, error=ValueError)
            await two.publish(Order(2))
            await three.publish(Order(3))
            await asyncio.gather(two.idle(), three.idle())
            assert (one.handled(), two.handled(), three.handled()) == ([], [Order(2)], [Order(3)])
        assert len(asyncio.all_tasks()) == 1

    run(story())
    assert before == (train.settings, train.handlers, {n: h.call for n, h in train.handlers.items()}, train.opening)


@in_any_loop
def test_settings_are_those_of_the_train_unless_the_test_gives_others(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop(max_event_bytes=2000)) as t:
            assert (t.connection.train.settings.max_event_bytes, t.connection.train.settings.attempts) == (2000, 5)
        async with testing.running(shop(attempts=3), max_event_bytes=4000, grace=7.0) as t:
            own = t.connection.train.settings
            assert (own.max_event_bytes, own.attempts, own.grace, own.breaker) == (4000, 3, 7.0, None)

    run(story())


@in_any_loop
def test_what_makes_no_sense_is_refused(run: Run) -> None:
    async def refused(said: str, train: Any, **given: Any) -> None:
        with pytest.raises(UsageError, match=said):
            async with testing.running(train, **given):
                pass

    async def story() -> None:
        await refused("has no handler for its ingress", Train("t"))
        await refused("give a Train, not 'orders'", "orders")
        await refused("dead='ignore'", shop(), dead="ignore")
        await refused("unknown setting atempts", shop(), atempts=3)
        await refused("attempts must be", shop(), attempts=0)
        async with testing.running(shop()) as t:
            for wrong in ("ships", 7, ["mail"], "ORDERS"):
                with pytest.raises(UsageError, match="there are: orders, mail"):
                    t.handled(wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="nothing is emitted to 'orders'"):
                t.emitted("orders")
            for times in (0, -1, True, 1.5, float("nan")):
                with pytest.raises(UsageError, match="times must be a whole number"):
                    t.fail(times=times)  # type: ignore[arg-type]
            for error in ("no", int, None):
                with pytest.raises(UsageError, match="give an exception or its class"):
                    t.fail(error=error)  # type: ignore[arg-type]
            for seconds in (-1, float("nan"), "1", 0):
                with pytest.raises(UsageError):
                    await t.advance(seconds)  # type: ignore[arg-type]
                with pytest.raises(UsageError):
                    await t.idle(within=seconds)  # type: ignore[arg-type]
            await t.connection.pause(publishing=True)
            with pytest.raises(TrainPaused):
                await t.publish(Order(1))

    run(story())


def test_run_says_what_to_do() -> None:
    async def test() -> None: ...

    for wrong in (test, None, 7):
        with pytest.raises(UsageError, match="is no coroutine: call the async function"):
            testing.run(wrong)  # type: ignore[arg-type]
    for function in (lambda: None, test_run_says_what_to_do, 7):
        with pytest.raises(UsageError, match="is no async function"):
            testing.in_virtual_time(function)  # type: ignore[arg-type]


def test_run_says_what_to_do_inside_of_a_loop() -> None:
    async def nothing() -> None: ...

    async def story() -> None:
        with pytest.raises(UsageError, match="an event loop runs here already"):
            testing.run(nothing())

    asyncio.run(story())


@in_any_loop
def test_what_handlers_raise_hurts_nobody(run: Run) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    train = Train("t")
    errors = [
        Odd(),
        StopIteration(),
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        ExceptionGroup("g", [Odd()]),
    ]

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        await ctx.emit("plain", number)
        if number < len(errors):
            raise errors[number]

    @train.on("plain")
    def plain(number: int) -> None:
        if 10 <= number < 10 + len(errors):
            raise errors[number - 10]

    async def story() -> None:
        async with testing.running(train, dead="keep") as t:
            await t.publish_many([*range(len(errors)), *range(10, 10 + len(errors)), 99])
            await t.idle()
            assert 99 in t.handled("plain")
            assert len(t.dead) + len(t.handled("plain")) == 2 * len(errors) + 1

    run(story())


@testing.in_virtual_time
async def test_a_schedule_of_once_a_day_ticks_in_the_first_day() -> None:
    train = Train("reports")

    @train.every(86_400)
    def daily() -> str:
        return "tick"

    @train.on("reports")
    async def report(text: str) -> None: ...

    async with testing.running(train) as t:
        began = t.clock()
        await t.advance(86_400)  # at once, before anybody has looked
        await t.idle()
        assert t.handled() == ["tick"]
        assert t.clock() - began == pytest.approx(86_400, abs=5)


@testing.in_virtual_time
async def test_the_decorator_makes_a_plain_test() -> None:
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(86400)
    assert asyncio.get_running_loop().time() - before == pytest.approx(86400)


@testing.in_virtual_time
async def test_the_decorator_keeps_fixtures(tmp_path: Any) -> None:
    assert tmp_path.is_dir()
