"""A pause by hand: nothing is handed out, what was fetched goes back, publishing goes on, and all is handled in the
end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon import Context, Lag, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import DeliveryPaused, DeliveryResumed, Switched
from eventwagon.contracts.lifecycle import State
from eventwagon.errors import TrainPaused, UsageError
from eventwagon.testing.virtual_time import run
from tests.support import World, until

WORKERS = [Workers(total=4), Workers(each=2)]
A_MOMENT = 0.05
"""Seconds for the news of a manifest, in memory."""


class Log:
    """What was begun and what was finished, by wagon, and with which attempt."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.done: list[tuple[int, int]] = []
        self.attempts: set[int] = set()

    def of(self, wagon: int) -> list[int]:
        return [n for number, n in self.begun if number == wagon]


def program(log: Log, *, seconds: float = 0.2, **settings: Any) -> Train:
    defaults: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(total=4)}
    train = Train("t", **{**defaults, **settings})

    @train.on("t")
    async def handle(n: int, ctx: Context) -> None:
        log.begun.append((ctx.wagon, n))
        log.attempts.add(ctx.attempt)
        await asyncio.sleep(seconds)
        log.done.append((ctx.wagon, n))

    return train


@pytest.mark.parametrize("workers", WORKERS, ids=repr)
@pytest.mark.parametrize("wagon", [None, 1])
def test_handlers_in_flight_finish_and_nothing_more_is_begun_until_it_is_resumed(
    workers: Workers, wagon: int | None
) -> None:
    async def main() -> None:
        world, log = World(), Log()
        train = program(log, workers=workers)
        async with (
            world.running(train) as c,
            world.running(program(log, workers=workers)),
            world.connect(train) as hand,
        ):
            await c.publish_many(range(100))
            await until(lambda: len(log.done) > 5)
            await hand.pause("maintenance", wagon=wagon, by="ada")
            await asyncio.sleep(A_MOMENT)
            begun = len(log.begun)
            await asyncio.sleep(0.3)
            assert len(log.done) == begun  # what was in flight has finished
            await c.publish(100)  # publishing goes on
            await asyncio.sleep(60.0)
            assert len(log.begun) == begun
            assert list(await hand.heedless()) == []
            depth = (await c.depths())[1][""]
            assert (depth.in_flight, depth.waiting) == (0, 101 - begun)  # nothing stays claimed
            assert await hand.resume("done", wagon=wagon, by="bob")
            await until(lambda: len(log.done) == 101)
        assert sorted(n for _, n in log.done) == list(range(101))  # each once
        assert log.attempts == {1}
        assert [(f.number, f.by) for f in world.of(DeliveryPaused)] == [(wagon, "ada")]
        assert [(f.number, f.by, round(f.seconds)) for f in world.of(DeliveryResumed)] == [(wagon, "bob", 60)]

    run(main())


@pytest.mark.parametrize("workers", WORKERS, ids=repr)
def test_other_wagons_feel_nothing(workers: Workers) -> None:
    """The wagon before it is paused while its workers are shared with the active one: all workers are free for that."""

    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log, workers=workers)) as c:
            await c.publish_many(range(200))
            await until(lambda: log.begun)
            await c.wait_switched(await c.request_switch())
            await c.pause(wagon=1)
            await asyncio.sleep(A_MOMENT)
            before = len(log.of(1))
            began = asyncio.get_running_loop().time()
            await c.publish_many(range(1000, 1040))
            await until(lambda: len(log.of(2)) == 40)
            count = workers.total or workers.own or 1
            assert asyncio.get_running_loop().time() - began < 40 / count * 0.2 + 0.5
            assert len(log.of(1)) == before
            assert c.manifest.wagons[0].state is State.DRAINING  # not forced
            await c.resume(wagon=1)
            await c.wait_drained(1)
            assert len(log.of(1)) == 200

    run(main())


def test_it_survives_all_processes() -> None:
    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log)) as c:
            await c.publish_many(range(20))
            await c.pause()
        begun = len(log.begun)
        for _ in range(2):
            async with world.running(program(log)) as c:
                await c.wait_switched(await c.request_switch())  # a wagon that is opened meanwhile is paused too
                await c.publish_many(range(100, 110))
                await asyncio.sleep(10.0)
                assert len(log.begun) == begun
        async with world.running(program(log)) as c:
            await c.resume()
            await until(lambda: len(log.done) == 40)

    run(main())


@pytest.mark.parametrize("limit", [Volume(5), Lag(5), Wait(1.0), Volume(5) | Wait(1.0)], ids=repr)
def test_a_paused_train_opens_no_wagon_after_wagon(limit: Any) -> None:
    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log, limit=limit, seconds=0.01, spares=1)) as c:
            await c.publish(0)
            await until(lambda: log.done)
            await c.pause()
            for n in range(1, 200):
                await c.publish(n)
                await asyncio.sleep(0.1)
            assert c.manifest.next_number <= 4
            await c.resume()
            await until(lambda: len(log.done) == 200)
            await c.publish(200)
            await until(lambda: len(log.done) == 201)
            assert len(world.of(Switched)) < 8

    run(main())


def test_publishers_are_refused_where_that_was_asked_for() -> None:
    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log)) as c, world.connect(Train("t")) as publisher:
            await publisher.publish(0)
            await c.pause("audit", publishing=True, by="ada")
            await asyncio.sleep(A_MOMENT)
            with pytest.raises(TrainPaused, match=r"train t is paused, and so is publishing by ada: audit") as refused:
                await publisher.publish_many([1, 2, 3])
            assert refused.value.accepted == 0
            await c.resume()
            await asyncio.sleep(A_MOMENT)
            await publisher.publish(1)
            await until(lambda: len(log.done) == 2)

    run(main())


def test_what_can_not_be_paused_is_told() -> None:
    async def main() -> None:
        world = World()
        async with world.running(program(Log())) as c:
            with pytest.raises(UsageError, match=r"no wagon t_v7; there are: t_v1"):
                await c.pause(wagon=7)
            with pytest.raises(UsageError, match="publishing goes to the train, not to a wagon"):
                await c.pause(wagon=1, publishing=True)
            for wrong in (True, "1", 0, 1.5):
                with pytest.raises(UsageError, match="wagon"):
                    await c.pause(wagon=wrong)  # type: ignore[arg-type]
                with pytest.raises(UsageError, match="wagon"):
                    await c.resume(wagon=wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="publishing='yes'"):
                await c.pause(publishing="yes")  # type: ignore[arg-type]
            assert not await c.resume()
            assert not await c.resume(wagon=1)
            with pytest.raises(UsageError, match="the reason holds"):
                await c.pause("\x1b[2J")

    run(main())


def test_a_retry_that_is_due_meanwhile_waits_and_so_does_what_a_handler_emitted() -> None:
    async def main() -> None:
        world, seen = World(), list[tuple[str, int]]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), backoff=0.5)

        @train.on("t")
        async def first(n: int, ctx: Context) -> None:
            seen.append(("", ctx.attempt))
            await asyncio.sleep(0.1)
            if ctx.attempt == 1:
                raise ValueError("once")
            await ctx.emit("inner", n)
            await asyncio.sleep(1.0)

        @train.on("inner")
        async def inner(n: int, ctx: Context) -> None:
            seen.append(("inner", ctx.attempt))

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: seen == [("", 1)])
            await c.pause()
            await asyncio.sleep(30.0)
            assert seen == [("", 1)]
            await c.resume()
            await until(lambda: seen == [("", 1), ("", 2)])
            await c.pause()
            await asyncio.sleep(30.0)
            assert seen == [("", 1), ("", 2)]
            await c.resume()
            await until(lambda: seen == [("", 1), ("", 2), ("inner", 1)])

    run(main())


@pytest.mark.parametrize("after", [0.0, 0.001, 0.02, 0.1, 0.3, 0.52])
def test_pauses_at_any_moment_lose_nothing(after: float) -> None:
    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log, seconds=0.01)) as c, world.running(program(log, seconds=0.0)):
            await c.publish_many(range(500))
            for _ in range(6):
                await asyncio.sleep(after)
                await c.pause()
                await asyncio.sleep(after)
                await c.resume()
            await until(lambda: len(log.done) == 500)
        assert sorted(n for _, n in log.done) == list(range(500))
        assert log.attempts == {1}

    run(main())


def test_a_pause_holds_where_the_registry_is_away_right_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the manifest is heeded at once: nothing waits for who else is alive."""

    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log, seconds=0.05)) as c:
            await c.publish_many(range(100))
            await until(lambda: len(log.begun) > 4)

            async def away(*_: Any, **__: Any) -> Any:
                await asyncio.Event().wait()

            monkeypatch.setattr(world.registry, "members", away)
            await c.pause()
            await asyncio.sleep(A_MOMENT)
            begun = len(log.begun)
            await asyncio.sleep(1.0)
            assert len(log.begun) == begun
            monkeypatch.undo()
            await c.resume()
            await until(lambda: len(log.done) == 100, seconds=300)

    run(main())


def test_an_open_circuit_probes_nothing_while_it_is_paused() -> None:
    async def main() -> None:
        world, calls, works = World(), list[float](), list[bool]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2))

        @train.on("t")
        async def handle(n: int) -> None:
            calls.append(asyncio.get_running_loop().time())
            if not works:
                raise ConnectionError("down")

        async with world.running(train) as c:
            await c.publish_many(range(50))
            opened: Callable[[], bool] = lambda: any(a.open for a in c.attachments)  # noqa: E731
            await until(opened)
            await c.pause()
            await asyncio.sleep(A_MOMENT)
            before = len(calls)
            await asyncio.sleep(120.0)
            assert len(calls) == before
            works.append(True)
            await c.resume()
            await until(lambda: len(calls) >= before + 50, seconds=120)

    run(main())
