"""Children are undone before their parents, wherever and however handlers emitted them, with real workers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from eventwagon import BatchContext, Context, PastEvents, Train, Volume, Workers
from eventwagon.contracts.timetable import CHANNEL
from eventwagon.errors import Reject
from eventwagon.event import Event
from eventwagon.runtime.context import LATER, OUT

Place = tuple[str, str]
"""The channel and the event's id."""
CHANNELS = ("t", "a", "b", "c")


class Program:
    """Its handlers emit to any channel: payloads, whole `Event`s, the event itself, forks, and after others have."""

    def __init__(self, archive: Path, seed: int) -> None:
        self.seed = seed
        self.handled: list[Place] = []
        self.parents: dict[Place, Place] = {}
        self.undone: list[Place] = []
        self.train = train = Train(
            "t",
            limit=Volume(1000),
            workers=Workers(each=4),
            observe_every=0.02,
            archive=archive.as_uri(),
            attempts=1,
        )

        @train.on("t")
        async def first(left: int, ctx: Context) -> None:
            self._handle("t", left, ctx)

        @train.on("a")
        async def a(left: int, ctx: Context) -> None:
            self._handle("a", left, ctx)

        @train.on("b", batch=4, within=0.01)
        async def b(lefts: list[int], ctx: BatchContext) -> None:
            for index, (event, left) in enumerate(zip(ctx.events, lefts, strict=True)):
                self.handled.append(("b", event.id))
                if left:
                    ctx.emit("a", left - 1, of=index)
                    whole = Event(f"{event.id}-b", "int", "s", 1e9, b"%d" % (left - 1))
                    ctx.emit("b", whole, of=index)
                    self.parents["b", whole.id] = "b", event.id

        @train.on("c")
        def c(left: int, ctx: Context) -> None:
            self._handle("c", left, ctx)

        for channel in CHANNELS:
            self._undo(channel)

    def _undo(self, channel: str) -> None:
        @self.train.undo(channel)
        async def back(left: int, ctx: Context) -> None:
            self.undone.append((channel, ctx.event.id))

    def _handle(self, channel: str, left: int, ctx: Context) -> None:
        me = channel, ctx.event.id
        rng = random.Random(f"{self.seed} {me}")
        if rng.random() < 0.05:
            raise Reject("simulated")
        self.handled.append(me)
        for number in range(rng.randint(0, 3) if left else 0):
            to, how = rng.choice(CHANNELS[1:]), rng.choice(("payload", "whole", "later", "publish", "three"))
            if how == "publish":
                ctx.publish(left - 1)
            elif how == "whole":
                ctx.emit(to, Event(f"{ctx.event.id}-{number}", "int", "s", 1e9, b"%d" % (left - 1)))
            elif how == "later":
                ctx.emit(to, left - 1, after=0.01)
            else:
                for lone in range(3 if how == "three" else 0):  # whole ones use up numbers
                    ctx.emit(to, Event(f"{ctx.event.id}-{number}-{lone}", "int", "s", 1e9, b"0"))
                ctx.emit(to, left - 1)
        for place, event in ctx.emitted:
            to = event.extensions[CHANNEL] if place == LATER else place
            self.parents["t" if place.startswith(OUT) else to, event.id] = me


@pytest.mark.parametrize(("broker", "seed"), [("memory", 0), ("sqlite", 1)])
def test_children_are_undone_first_however_they_were_emitted(broker: str, seed: int, tmp_path: Path) -> None:
    url = "memory:" if broker == "memory" else f"sqlite:///{tmp_path / 'train'}"

    async def main() -> None:
        program = Program(tmp_path / "archive", seed)
        async with program.train.connect(url, listeners=[]) as c, c.running(), asyncio.timeout(60):
            await c.publish_many([3] * 30)
            while not await _quiet(program):
                pass
            await c.wait_drained(await c.request_switch())
            in_it = Counter(program.handled)
            undo = await c.undo.request(1)
            assert await c.undo.wait(undo.number) == ""
            standing = (await c.undo.preview(1)).count
        assert max(in_it.values()) == 1
        assert Counter(program.undone) == in_it
        assert standing == len(in_it) > 60
        turn = {place: number for number, place in enumerate(program.undone)}
        checked = 0
        for place in in_it:
            parent = program.parents.get(place)
            while parent is not None:
                if parent in turn:
                    assert turn[place] < turn[parent], f"{parent} was undone before {place}, which came from it"
                    checked += 1
                parent = program.parents.get(parent)
        assert checked > 60

    asyncio.run(main())


async def _quiet(program: Program) -> bool:
    """Nothing was handled for a while: nothing is waiting for its time."""
    before = len(program.handled)
    await asyncio.sleep(0.6)
    return bool(before) and len(program.handled) == before


def test_the_order_is_that_of_the_wagon_whatever_the_train_declares_since(tmp_path: Path) -> None:
    def train(channels: tuple[str, ...], undone: list[str]) -> Train:
        made = Train(
            "t", limit=Volume(100), observe_every=0.02, once=timedelta(hours=1), archive=(tmp_path / "a").as_uri()
        )

        @made.on("t")
        def first(number: int, ctx: Context) -> None:
            ctx.emit("x", number)

        for name in channels:
            made.on(name)(x if name == "x" else y)
        for name in ("t", "x", "y"):
            made.undo(name)(partial(_note, undone, name))
        return made

    def x(number: int, ctx: Context) -> None:
        ctx.emit("y", number)

    def y(number: int, ctx: Context) -> None: ...

    async def main() -> None:
        url, undone = f"sqlite:///{tmp_path / 'train'}", list[str]()
        async with (
            train(("x", "y"), []).connect(url, listeners=[]) as c,
            c.running(),
            asyncio.timeout(30),
        ):
            await c.publish_many(range(3))
            event = Event("twice", "int", "s", 1e9, b"7")
            await c.publish(event)
            await c.wait_drained(await c.request_switch())
            await c.publish(event)
            await c.wait_drained(await c.request_switch())
        other = train(("y", "x"), undone)
        async with other.connect(url, listeners=[], redeclare=True) as c, c.running(), asyncio.timeout(30):
            preview = await c.undo.preview(1)
            assert [(each.channel, each.handled) for each in preview.channels] == [("y", 4), ("x", 4), ("t", 4)]
            (skipped,) = [each for each in (await c.undo.preview(2)).channels if each.channel == "t"]
            assert (skipped.handled, skipped.others) == (0, {"skipped": 1})
            assert await c.replays.preview(PastEvents(wagon=2)) == 0
            undo = await c.undo.request(1)
            assert await c.undo.wait(undo.number) == ""
        assert undone == ["y"] * 4 + ["x"] * 4 + ["t"] * 4

    asyncio.run(main())


def _note(undone: list[str], channel: str, payload: int) -> None:
    undone.append(channel)
