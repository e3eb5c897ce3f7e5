"""Our orchestrators against the suite."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Self

import psutil
import pytest

from eventwagon._processes.records import UnitFiles
from eventwagon.brokers.memory import MemoryBroker
from eventwagon.brokers.sqlite import SQLiteBroker
from eventwagon.crew import Crew
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.orchestrator import Orchestrator, WagonSpec
from eventwagon.orchestrators.command import Command, Line
from eventwagon.orchestrators.in_process import InProcess
from eventwagon.orchestrators.subprocess import Subprocess
from eventwagon.payload import shape
from eventwagon.settings import Settings
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from eventwagon.testing.virtual_time import VirtualClock, run
from eventwagon.worker import Context, Handler
from eventwagon.workers import Workers

TRAIN = "signups"


class InProcessHarness:
    """The in-process orchestrator over the real crew, on a broker in memory."""

    outlives = False
    warm = True
    idles = True
    revision = "v2"

    def __init__(self) -> None:
        self._clock = VirtualClock()
        self._broker = MemoryBroker()
        self._stack = AsyncExitStack()
        self._free = asyncio.Event()
        self._at_work: Counter[int] = Counter()
        self._finished: Counter[int] = Counter()
        self._ended: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        settings = Settings(workers=Workers(each=1), handler_timeout=1e6)
        handlers = {"": Handler("", self._handle, shape(self._handle))}
        crew = Crew(
            TRAIN,
            handlers,
            settings,
            self._broker,
            slo=None,
            shared=None,
            revision=self.revision,
            clock=self._clock,
            tell=lambda fact: None,
        )
        await self._stack.enter_async_context(crew)
        self.orchestrator: Orchestrator = await self._stack.enter_async_context(InProcess(crew.serve))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _handle(self, payload: dict[str, int], ctx: Context) -> None:
        self._at_work[ctx.wagon] += 1
        try:
            await self._free.wait()
            self._finished[ctx.wagon] += 1
        except asyncio.CancelledError:
            self._ended[ctx.wagon] += 1
            raise
        finally:
            self._at_work[ctx.wagon] -= 1

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        raise NotImplementedError

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
        for channel in (ingress, dead):
            await self._broker.create(channel)
        return WagonSpec(
            train=TRAIN, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def give(self, spec: WagonSpec, count: int) -> None:
        now = self._clock()
        events = [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)]
        await self._broker.publish(spec.channels[0], events)

    async def at_work(self, number: int) -> int:
        return self._at_work[number]

    async def finished(self, number: int) -> int:
        return self._finished[number]

    async def ended(self, number: int) -> int:
        return self._ended[number]

    async def incarnation(self, unit: int) -> object:
        return "this process"

    async def let_go(self) -> None:
        self._free.set()


@pytest.mark.parametrize("check", orchestrator_checks(moment=5.0, patience=600.0), ids=str)
def test_in_process(check: Check[Harness]) -> None:
    try:
        run(check.run(InProcessHarness))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


class SubprocessHarness:
    """A process per wagon, on SQLite; the handlers of `tests.programs.held` are held and watched through files."""

    outlives = False
    warm = True
    idles = True
    revision = "v2"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = directory / "held"
        self._url = f"sqlite:///{directory}/trains"
        self._broker = SQLiteBroker(directory / "trains")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._held.mkdir()
        await self._stack.enter_async_context(self._broker)
        self.orchestrator: Orchestrator = await self._stack.enter_async_context(self._driver())
        return self

    def _driver(self) -> AbstractAsyncContextManager[Orchestrator]:
        return Subprocess(
            "tests.programs.held:signups",
            url=self._url,
            directory=self._directory / "processes",
            environment={"HELD": str(self._held)},
            grace=0.5,
        )

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        await self._stack.aclose()
        assert list((self._directory / "processes").iterdir()) == []

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        raise NotImplementedError

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
        for channel in (ingress, dead):
            await self._broker.create(channel)
        return WagonSpec(
            train=TRAIN, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def give(self, spec: WagonSpec, count: int) -> None:
        now = time.time()
        events = [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)]
        await self._broker.publish(spec.channels[0], events)

    def _pids(self, name: str, number: int) -> list[str]:
        try:
            return (self._held / f"{name}-{number}").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _count(self, name: str, number: int) -> int:
        return len(self._pids(name, number))

    async def at_work(self, number: int) -> int:
        return self._count("began", number) - self._count("finished", number) - self._count("ended", number)

    async def finished(self, number: int) -> int:
        return self._count("finished", number)

    async def ended(self, number: int) -> int:
        return self._count("ended", number)

    async def incarnation(self, unit: int) -> object:
        state = UnitFiles(self._directory / "processes", TRAIN, unit).state()
        return state and state.pid

    async def let_go(self) -> None:
        (self._held / "free").touch()


@pytest.mark.parametrize("check", orchestrator_checks(moment=0.3, patience=30.0), ids=str)
def test_subprocess(check: Check[Harness], tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: SubprocessHarness(tmp_path)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


class CommandHarness(SubprocessHarness):
    """As many copies of `tests.programs.consumer` as workers. One that is killed can't say so: its pid does."""

    warm = False
    idles = False

    def _driver(self) -> AbstractAsyncContextManager[Orchestrator]:
        return Command(
            [sys.executable, "-m", "tests.programs.consumer"],
            url=self._url,
            ready=Line("attached"),
            directory=self._directory / "processes",
            environment={"HELD": str(self._held)},
            grace=0.5,
        )

    async def at_work(self, number: int) -> int:
        return self._count("began", number) - self._count("finished", number) - await self.ended(number)

    async def ended(self, number: int) -> int:
        unfinished = Counter(self._pids("began", number)) - Counter(self._pids("finished", number))
        return sum(not psutil.pid_exists(int(pid)) for pid in unfinished)


@pytest.mark.parametrize("check", orchestrator_checks(moment=0.3, patience=30.0), ids=str)
def test_command(check: Check[Harness], tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: CommandHarness(tmp_path)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))
