"""Our orchestrators against the suite."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Self

import psutil
import pytest

from eventwagon.contracts.orchestrator import Orchestrator, WagonSpec
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.orchestrators.processes.command import Command, Line
from eventwagon.orchestrators.processes.records import UnitFiles
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.payload import shape
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.context import Context
from eventwagon.runtime.handler import Handler
from eventwagon.runtime.in_process import InProcess
from eventwagon.runtime.local_workers import LocalWorkers
from eventwagon.runtime.publish_settings import PublishSettings
from eventwagon.runtime.runtime import Runtime
from eventwagon.settings import Settings
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from eventwagon.testing.virtual_time import VirtualClock, run
from eventwagon.workers import Workers
from tests.held import PROGRAM, TRAIN, Held, a_wagon, given


class InProcessHarness:
    """The in-process orchestrator over the real workers, on a broker in memory."""

    outlives = False
    warm = True
    idles = True
    ends = True
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
        settings = Settings(workers=Workers(each=1), handler_timeout=1e9)
        handlers = {"": Handler("", self._handle, shape(self._handle))}
        runtime = Runtime(
            train=TRAIN,
            handlers=handlers,
            settings=settings,
            publishing=PublishSettings(settings),
            broker=self._broker,
            clock=self._clock,
            tell=lambda fact: None,
            bulkhead=Bulkhead(TRAIN),
            revision=self.revision,
        )
        workers = await self._stack.enter_async_context(LocalWorkers(runtime, shared=None))
        self.orchestrator: Orchestrator = await self._stack.enter_async_context(InProcess(workers.serve))
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
        return await a_wagon(self._broker, TRAIN, number, workers=workers)

    async def give(self, spec: WagonSpec, count: int) -> None:
        await given(self._broker, spec, count, self._clock())

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


class SubprocessHarness(Held[SQLiteBroker]):
    """A process per wagon, on SQLite; the handlers of `tests.programs.held` are held and watched through files."""

    outlives = False
    warm = True
    idles = True
    ends = True
    revision = "v2"

    def __init__(self, directory: Path) -> None:
        super().__init__(SQLiteBroker(directory / "trains"), directory)
        self._directory = directory
        self._url = f"sqlite:///{directory}/trains"

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.orchestrator: Orchestrator = await self._stack.enter_async_context(self._driver())
        return self

    def _driver(self) -> AbstractAsyncContextManager[Orchestrator]:
        return Subprocess(
            PROGRAM,
            url=self._url,
            directory=self._directory / "processes",
            environment={"HELD": str(self._held)},
            grace=0.5,
        )

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        assert list((self._directory / "processes").iterdir()) == []

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        raise NotImplementedError

    async def incarnation(self, unit: int) -> object:
        state = UnitFiles(self._directory / "processes", TRAIN, unit).state()
        return state and state.pid


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

    async def ended(self, number: int) -> int:
        unfinished = Counter(self._pids("began", number)) - Counter(self._pids("finished", number))
        return sum(not psutil.pid_exists(int(pid)) for pid in unfinished)


@pytest.mark.parametrize("check", orchestrator_checks(moment=0.3, patience=30.0), ids=str)
def test_command(check: Check[Harness], tmp_path: Path) -> None:
    try:
        asyncio.run(check.run(lambda: CommandHarness(tmp_path)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))
