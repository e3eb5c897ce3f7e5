"""The seam to metrics: what a meter is told, and that it hurts nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eventwagon import Reject, Train, UsageError, Volume, Workers
from eventwagon.contracts.facts import Fact
from eventwagon.contracts.metering import ProcessFigures, TrainFigures
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import Unavailable
from eventwagon.event import Channel, Event
from eventwagon.testing.virtual_time import run
from tests.support import World, until


class Noted:
    """A meter that notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int, float, str]] = []
        self.handlings: list[tuple[str, float, str, bool]] = []
        self.waits: list[float] = []
        self.facts: list[Fact] = []
        self.looks: list[TrainFigures | None] = []
        self.connections: list[tuple[str, str, str, Callable[[], ProcessFigures]]] = []

    def called(self, operation: str, channel: Channel, events: int, seconds: float, error: str) -> None:
        self.calls.append((operation, str(channel), events, seconds, error))

    def handled(
        self, channel: Channel, seconds: Sequence[float], waits: Sequence[float], error: str, late: bool
    ) -> None:
        self.handlings += [(str(channel), each, error, late) for each in seconds]
        self.waits += waits

    def heard(self, fact: Fact) -> None:
        self.facts.append(fact)

    def joined(
        self, train: str, system: str, revision: str, figures: Callable[[], ProcessFigures]
    ) -> Callable[[], None]:
        self.connections.append((train, system, revision, figures))
        return lambda: None

    def looked(self, train: str, figures: TrainFigures | None) -> None:
        self.looks.append(figures)

    def events(self, operation: str, channel: str) -> int:
        """How many events such calls moved."""
        return sum(events for o, c, events, _, _ in self.calls if (o, c) == (operation, channel))


class Raising:
    """A meter that fails at everything."""

    def called(self, *told: object) -> None:
        raise RuntimeError("called")

    def handled(self, *told: object) -> None:
        raise asyncio.CancelledError

    def heard(self, *told: object) -> None:
        raise SystemExit(1)

    def joined(self, *told: object) -> Callable[[], None]:
        raise ValueError("joined")

    def looked(self, *told: object) -> None:
        raise KeyError("looked")


def train_of(**settings: Any) -> Train:
    train = Train("t", **{"limit": Volume(10_000), "workers": Workers(each=2), "backoff": 0.1, **settings})

    @train.on("t")
    async def first(n: int) -> None:
        await asyncio.sleep(0.5)
        if n == 1:
            raise Reject("never")
        if n == 2:
            raise ValueError(n)

    return train


def test_each_call_and_each_handling_is_told() -> None:
    async def main() -> None:
        world, noted = World(), Noted()
        async with world.connect(train_of(attempts=2), meter=noted) as connection, connection.running():
            await connection.publish_many(range(10))
            await until(lambda: len(noted.handlings) == 11)
            await until(lambda: noted.events("settle", "t_v1") == 10)
        assert noted.events("publish", "t_v1") == 10
        assert noted.events("publish", "t_v1.dead") == 2
        assert noted.events("receive", "t_v1") == 11  # one of them twice
        assert noted.events("release", "t_v1") == 1
        assert Counter(error for _, _, error, _ in noted.handlings) == {"": 8, "dead": 1, "ValueError": 2}
        assert {round(seconds, 6) for _, seconds, _, _ in noted.handlings} == {0.5}
        assert not any(late for *_, late in noted.handlings)
        assert {"create", "consume", "depth"} <= {operation for operation, *_ in noted.calls}
        assert [fact for fact in world.facts if fact not in noted.facts] == []

    run(main())


def test_events_of_a_wagon_that_is_cut_off_are_late() -> None:
    async def main() -> None:
        world, noted = World(), Noted()
        train = train_of(limit=Volume(5), workers=Workers(each=1))
        async with world.connect(train, meter=noted) as connection, connection.running():
            await connection.publish_many([0] * 8)
            await until(lambda: len(noted.handlings) == 8)
        late = Counter((channel, late) for channel, _, _, late in noted.handlings)
        assert late["t_v2", False] == 3
        assert late["t_v1", True] >= 3

    run(main())


def test_a_handler_that_takes_too_long_and_one_of_batches() -> None:
    async def main() -> None:
        world, noted = World(), Noted()
        train = Train("t", limit=Volume(10_000), workers=Workers(each=1), attempts=1)

        @train.on("t", timeout=0.2)
        async def slow(n: int) -> None:
            await asyncio.sleep(1 if n else 0)

        rows = Train("rows", limit=Volume(10_000), workers=Workers(each=1), attempts=1)

        @rows.on("rows", batch=4, within=0.5)
        async def many(found: list[int]) -> None: ...

        async with world.connect(train, meter=noted) as one, one.running():
            await one.publish(1)
            await until(lambda: bool(noted.handlings))
        assert [(error, round(s, 3)) for _, s, error, _ in noted.handlings] == [("timeout", 0.2)]
        noted.handlings.clear()
        async with world.connect(rows, meter=noted) as two, two.running():
            await two.publish_many(range(4))
            await until(lambda: len(noted.waits) == 5)

    run(main())


def test_an_error_whose_class_has_no_name() -> None:
    class Nameless(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            raise RuntimeError("no name")

    class Odd(Exception, metaclass=Nameless): ...

    async def main() -> None:
        world, noted = World(), Noted()
        train = Train("t", limit=Volume(10_000), workers=Workers(each=1), attempts=1)

        @train.on("t")
        async def fails(n: int) -> None:
            raise Odd

        async with world.connect(train, meter=noted) as connection, connection.running():
            await connection.publish(1)
            await until(lambda: bool(noted.handlings))
        assert [error for _, _, error, _ in noted.handlings] == ["Odd"]

    run(main())


class Away(MemoryBroker):
    """Can't be reached while it is `away`."""

    away = False

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if self.away:
            raise Unavailable("away")
        await super().publish(channel, events)


def test_a_call_that_fails_is_told_with_its_error() -> None:
    async def main() -> None:
        world, noted = World(), Noted()
        broker = Away(clock=world.clock)
        async with world.connect(train_of(), broker=broker, meter=noted) as connection:
            await connection.found()
            broker.away = True
            with pytest.raises(Exception, match="away"):
                await connection.publish(1, timeout=0.1)
        assert {error for operation, *_, error in noted.calls if operation == "publish"} == {"Unavailable"}

    run(main())


def test_a_meter_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        async with world.connect(train_of(), meter=Raising()) as connection, connection.running():
            await connection.publish_many([0] * 5)

            async def done() -> bool:
                return (await connection.depths())[1][""].settled == 5

            while not await done():
                await asyncio.sleep(0.1)

    run(main())
    assert "the meter raised" in caplog.text


def test_without_a_meter_nothing_is_wrapped() -> None:
    world = World()
    connection = world.connect(train_of())
    assert connection._runtime.broker is world.broker  # noqa: SLF001
    assert connection._runtime.metering is None  # noqa: SLF001


def test_what_is_no_meter_is_refused() -> None:
    with pytest.raises(UsageError, match="connect: meter"):
        World().connect(train_of(), meter="prometheus")
