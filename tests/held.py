"""What the suite for orchestrators gives and counts: wagons, their events, and handlers that are held and watched."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Generic, Self, TypeVar

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.event import DEAD, Channel, Event, new_ids

B = TypeVar("B", bound=Broker)
TRAIN, PROGRAM = "signups", "tests.programs.held:signups"


async def a_wagon(broker: Broker, train: str, number: int, *, workers: int) -> WagonSpec:
    """A wagon of two channels, made."""
    ingress, dead = Channel(train, number), Channel(train, number, DEAD)
    for channel in (ingress, dead):
        await broker.create(channel)
    return WagonSpec(train=train, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers)


async def given(broker: Broker, spec: WagonSpec, count: int, now: float | None = None) -> None:
    """Publish `count` events to it, in one call."""
    now = time.time() if now is None else now
    await broker.publish(spec.channels[0], [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)])


class Held(Generic[B]):
    """The part of a harness that all have whose workers run `tests.programs.held`: its handlers note what they do in
    files."""

    def __init__(self, broker: B, directory: Path) -> None:
        self.broker = broker
        self._held = directory / "held"
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._held.mkdir()
        await self._stack.enter_async_context(self.broker)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        await self._stack.aclose()

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        return await a_wagon(self.broker, TRAIN, number, workers=workers)

    async def give(self, spec: WagonSpec, count: int) -> None:
        await given(self.broker, spec, count)

    def _pids(self, name: str, number: int) -> list[str]:
        try:
            return (self._held / f"{name}-{number}").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _count(self, name: str, number: int) -> int:
        return len(self._pids(name, number))

    async def at_work(self, number: int) -> int:
        return self._count("began", number) - self._count("finished", number) - await self.ended(number)

    async def finished(self, number: int) -> int:
        return self._count("finished", number)

    async def ended(self, number: int) -> int:
        return self._count("ended", number)

    async def let_go(self) -> None:
        (self._held / "free").touch()
