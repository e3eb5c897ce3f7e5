"""Callers of one connection share no fate: what is refused, fails or hangs for one is no matter of the others. In
virtual time."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from eventwagon import Event, Train, Volume, connection
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import (
    EventRefused,
    EventTooLarge,
    EventwagonError,
    PublishError,
    PublishTimeout,
    PublishUncertain,
    Unavailable,
)
from eventwagon.event import Channel
from eventwagon.runtime.switcher import Switcher
from eventwagon.runtime.train_state import TrainState
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, runtime_of, signups, until


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Minding(MemoryBroker):
    """Does `bad(event)` for each event before it stores a call; keeps the size of each call."""

    def __init__(self, bad: Callable[[Event], object], *, fences: bool = True) -> None:
        super().__init__(fences=fences)
        self.bad = bad
        self.calls: list[int] = []
        self.stored: list[bytes] = []

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        self.calls.append(len(events))
        for event in events:
            wait = self.bad(event)
            if isinstance(wait, asyncio.Future):
                await wait
        await super().publish(channel, events)
        self.stored += [event.data for event in events]


@asynccontextmanager
async def publishing(broker: MemoryBroker, **settings: object) -> AsyncIterator[World]:
    world = World()
    world.broker = broker
    async with world.connect(Train("t", limit=Volume(10**6), **settings)) as world.publisher:  # type: ignore[arg-type, attr-defined]
        await world.publisher.publish(b"first")  # type: ignore[attr-defined]
        yield world


def refusing(error: Callable[[], BaseException]) -> Callable[[Event], None]:
    def bad(event: Event) -> None:
        if event.data.startswith(b"bad"):
            raise error()

    return bad


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda: EventRefused("never"), EventRefused),
        (lambda: EventTooLarge("never"), EventTooLarge),
        (lambda: "\ud800".encode(), PublishError),
        (lambda: TypeError("no bytes"), PublishError),
        (lambda: struct.error("out of range"), PublishError),
        (lambda: RecursionError("too deep"), PublishError),
        (Unprintable, PublishError),
        (lambda: BaseExceptionGroup("several", [asyncio.CancelledError()]), PublishError),
    ],
)
def test_only_the_caller_of_a_refused_event_is_told(
    error: Callable[[], BaseException], expected: type[PublishError], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        broker = Minding(refusing(error))
        async with publishing(broker) as world:
            c = world.publisher  # type: ignore[attr-defined]
            before = len(broker.calls)
            singles = [c.publish(b"bad" if i in (3, 17) else b"%d" % i) for i in range(40)]
            answers = await asyncio.gather(*singles, c.publish_many([b"x", b"y", b"bad", b"z"]), return_exceptions=True)
            for i, answer in enumerate(answers[:40]):
                assert isinstance(answer, expected if i in (3, 17) else str), i
            many = answers[40]
            assert isinstance(many, expected)
            assert many.accepted == 2
            assert broker.stored == [b"first", *(b"%d" % i for i in range(40) if i not in (3, 17)), b"x", b"y"]
            assert len(broker.calls) - before < 40
            assert await c.publish(b"after")
            if expected is PublishError:
                assert "may have been stored" in str(answers[3])
                async with c.running(observe=False, work=False):
                    async with asyncio.timeout(5):
                        while not (members := await c.members()):
                            await asyncio.sleep(0.01)
                    assert members[0].caught >= 3

    with caplog.at_level(logging.ERROR):
        run(main())
    if expected is PublishError:
        assert "Traceback" in caplog.text
        assert len(caplog.records) == 1


def test_a_cancellation_that_nobody_sent_is_weather() -> None:
    async def main() -> None:
        errors = [asyncio.CancelledError("a connection of the driver's"), PublishUncertain("lost")]

        def bad(event: Event) -> None:
            if event.data == b"bad" and errors:
                raise errors.pop(0)

        async with publishing(Minding(bad)) as world:
            assert await world.publisher.publish(b"bad", timeout=5)  # type: ignore[attr-defined]
            assert not errors

    run(main())


# --- hanging answers ----------------------------------------------------------------------


@pytest.mark.parametrize("fences", [True, False])
def test_a_hanging_answer_holds_up_nobody_else(fences: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        never = loop.create_future()
        broker = Minding(lambda event: never if event.data == b"hangs" else None, fences=fences)
        async with publishing(broker) as world, asyncio.TaskGroup() as tasks:
            c = world.publisher  # type: ignore[attr-defined]
            began = loop.time()
            hanging = tasks.create_task(_outcome(c.publish(b"hangs", timeout=20)))
            await asyncio.sleep(0.01)
            for i, timeout in enumerate((30, 1, 0.3)):
                assert await _outcome(c.publish(b"%d" % i, timeout=timeout)) is None
            assert loop.time() - began < 0.5
            for i in range(100):
                assert await _outcome(c.publish(b"and %d" % i, timeout=0.1)) is None
            assert loop.time() - began < 1
            assert isinstance(await hanging, PublishTimeout)
            assert loop.time() - began == pytest.approx(20, abs=0.01)

    run(main())


def test_those_in_one_call_wait_each_until_its_own_deadline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        never = loop.create_future()
        async with publishing(Minding(lambda event: never if event.data == b"hangs" else None)) as world:
            c = world.publisher  # type: ignore[attr-defined]
            began = loop.time()

            async def ends(data: bytes, timeout: float) -> float:
                assert isinstance(await _outcome(c.publish(data, timeout=timeout)), PublishTimeout)
                return loop.time() - began

            took = await asyncio.gather(ends(b"a", 3), ends(b"hangs", 20), ends(b"b", 0.5))
            assert took == pytest.approx([3, 20, 0.5], abs=0.01)

    run(main())


def test_a_late_answer_is_an_answer() -> None:
    """A call that others have gone past is accepted all the same when its answer comes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        slow = loop.create_future()
        broker = Minding(lambda event: slow if event.data == b"slow" else None)
        async with publishing(broker) as world, asyncio.TaskGroup() as tasks:
            c = world.publisher  # type: ignore[attr-defined]
            waiting = tasks.create_task(_outcome(c.publish(b"slow", timeout=20)))
            await asyncio.sleep(0.01)
            await c.publish(b"other", timeout=2)
            await asyncio.sleep(5)
            assert not waiting.done()
            slow.set_result(None)
            assert await waiting is None
            assert broker.stored == [b"first", b"other", b"slow"]
            await c.publish(b"last")

    run(main())


def test_only_so_many_calls_hang_at_a_time_and_all_are_answered() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        never = loop.create_future()
        under_way = most = 0

        class Hanging(MemoryBroker):
            async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                try:
                    if any(event.data == b"hangs" for event in events):
                        await never
                    await super().publish(channel, events)
                finally:
                    under_way -= 1

        async with publishing(Hanging()) as world, asyncio.TaskGroup() as tasks:
            c = world.publisher  # type: ignore[attr-defined]
            calls = []
            for _ in range(30):
                calls.append(tasks.create_task(_outcome(c.publish(b"hangs", timeout=20))))
                await asyncio.sleep(0.3)
            assert 4 < most <= 8
            assert all([isinstance(await call, PublishTimeout) for call in calls])
            assert await _outcome(c.publish(b"good", timeout=5)) is None
            assert len(asyncio.all_tasks()) < 12

    run(main())


def test_leaving_while_calls_hang_tells_their_callers() -> None:
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        calls = []
        async with publishing(Minding(lambda event: never if event.data == b"hangs" else None)) as world:
            c = world.publisher  # type: ignore[attr-defined]
            for _ in range(3):
                calls.append(asyncio.create_task(_outcome(c.publish(b"hangs", timeout=20))))
                await asyncio.sleep(1)
        errors = [await call for call in calls]
        assert all(isinstance(error, PublishTimeout) and "closed" in str(error) for error in errors)
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_registry_that_hangs_holds_nobody_past_the_deadline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Slow(MemoryRegistry):
            hangs = False

            async def read(self, train: str) -> Snapshot:
                if self.hangs:
                    await loop.create_future()
                return await super().read(train)

        world = World()
        world.registry = registry = Slow(clock=world.clock)
        async with world.connect(Train("t", limit=Volume(10**6))) as c:
            await c.publish(0)
            await world.broker.seal(Channel("t", 1))
            registry.hangs = True
            began = loop.time()
            for _ in range(3):
                assert isinstance(await _outcome(c.publish(1, timeout=2)), PublishTimeout)
            assert loop.time() - began == pytest.approx(6, abs=0.1)
            with pytest.raises(Unavailable, match="no answer"):
                await c.request_switch()
            assert loop.time() - began == pytest.approx(36, abs=0.1)

    run(main())


# --- cancelled callers --------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_cancelled_caller_hurts_nobody(steps: int) -> None:
    async def main() -> None:
        broker = Minding(refusing(lambda: EventRefused("never")))
        async with publishing(broker) as world, asyncio.TaskGroup() as tasks:
            c = world.publisher  # type: ignore[attr-defined]
            calls = [
                tasks.create_task(_outcome(c.publish(data)))
                for data in (b"a", b"cancelled", b"bad", b"b", b"c", b"cancelled")
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            calls[1].cancel()
            calls[5].cancel()
            outcomes = [await calls[i] for i in (0, 2, 3, 4)]
            assert outcomes[0] is outcomes[2] is outcomes[3] is None
            assert isinstance(outcomes[1], EventRefused)
            assert [d for d in broker.stored if d != b"cancelled"] == [b"first", b"a", b"b", b"c"]
            await c.publish(b"after")

    run(main())


# --- sizes of calls -----------------------------------------------------------------------


def test_no_call_is_larger_than_publish_batch_however_it_came_together() -> None:
    async def main() -> None:
        broker = Minding(lambda _: None)
        async with publishing(broker, publish_batch=7, max_event_bytes=2 << 20) as world:
            c = world.publisher  # type: ignore[attr-defined]
            calls = [c.publish(b"%d" % i) for i in range(30)]
            calls += [c.publish_many([b"m%d" % i for i in range(20)])]
            await asyncio.gather(*calls)
            runtime = runtime_of(c.train, broker, clock=world.clock)
            async with TrainState(runtime, world.registry) as state, Switcher(runtime, state) as switcher:
                deadline = asyncio.get_running_loop().time() + 5
                await switcher.publish([Event(str(i), "t", "/", 0.0, b"") for i in range(20)], deadline=deadline)
            assert max(broker.calls) == 7
            assert len(broker.stored) == 71

    run(main())


def test_no_call_has_more_than_a_mebibyte() -> None:
    async def main() -> None:
        most = 0

        class Weighing(MemoryBroker):
            async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
                nonlocal most
                most = max(most, sum(len(event.data) for event in events))
                await super().publish(channel, events)

        async with publishing(Weighing()) as world:
            c = world.publisher  # type: ignore[attr-defined]
            assert await c.publish_many(b"x" * 250_000 for _ in range(40)) == 40
            await asyncio.gather(*(c.publish(b"x" * 250_000) for _ in range(40)))
            assert 900_000 < most <= 1 << 20

    run(main())


# --- bulkheads of the publishing tasks ------------------------------------------------------


class Rotten(MemoryRegistry):
    """A registry whose calls raise what no driver should, as long as it is said."""

    error: BaseException | None = None

    async def read(self, train: str) -> Snapshot:
        self._rot()
        return await super().read(train)

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        self._rot()
        await super().check_in(train, member, ttl=ttl)

    def _rot(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("fences", [True, False])
@pytest.mark.parametrize(
    "error", [KeyError("rotten"), asyncio.CancelledError("not ours"), Unprintable()], ids=lambda e: type(e).__name__
)
def test_publishing_goes_on_after_whatever_the_registry_raises(fences: bool, error: BaseException) -> None:
    async def main() -> None:
        world = World()
        world.broker = MemoryBroker(fences=fences)
        world.registry = registry = Rotten(clock=world.clock)
        async with world.connect(Train("t", limit=Volume(10), hold=0.5)) as c:
            await c.publish(0)
            registry.error = error
            await asyncio.sleep(20)
            for i in range(12):
                with suppress(EventwagonError):
                    await c.publish(i, timeout=1)
            registry.error = None
            await asyncio.sleep(2)
            for i in range(3):
                assert await c.publish(i, timeout=5)

    run(main())


def test_listeners_can_not_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world, errors = World(), list[BaseException]()

        def hurt(*_: object) -> None:
            errors.append([SystemExit(1), asyncio.CancelledError(), Unprintable(), GeneratorExit()][len(errors) % 4])
            raise errors[-1]

        class HurtState(TrainState):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                self.on_change.append(hurt)

        class HurtSwitcher(Switcher):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                self.on_full.append(hurt)

        monkeypatch.setattr(connection, "TrainState", HurtState)
        monkeypatch.setattr(connection, "Switcher", HurtSwitcher)
        handled = list[str]()
        train = signups(handled, limit=Volume(5), spares=0)
        async with (
            train.connect(
                broker=world.broker, registry=world.registry, clock=world.clock, listeners=[hurt, world.facts.append]
            ) as c,
            c.running(),
        ):
            for i in range(40):
                await c.publish(SignUp(str(i)))
            await until(lambda: len(handled) == 40)
        assert len(errors) > 20

    run(main())


async def _outcome(call: object) -> EventwagonError | None:
    try:
        await call  # type: ignore[misc]
    except EventwagonError as e:
        return e
    return None
