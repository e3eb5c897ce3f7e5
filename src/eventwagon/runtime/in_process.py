"""The in-process orchestrator: it runs a unit's workers as tasks of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Self

from ..backoff import Backoff
from ..contracts.orchestrator import Deployment, WagonSpec
from ..display.text import said
from ..errors import EventwagonError
from .bulkhead import Bulkhead, is_ours
from .wagon_consumer import WagonConsumer

_PAUSES = (0.05, 5.0)

_Unit = tuple[str, int]
"""A train's name and the number of a unit of workers."""


Start = Callable[[WagonSpec], Awaitable[WagonConsumer]]
"""Attaches workers to a wagon's channels, and returns when they are attached. Raises EventwagonError."""


class InProcess:
    """Starts a wagon's workers in this process, with `start`. Leaving it ends all of them, within `grace` seconds
    each."""

    def __init__(self, start: Start, *, grace: float = 30.0, bulkhead: Bulkhead | None = None) -> None:
        self._start = start
        self._grace = grace
        self._specs: dict[_Unit, WagonSpec] = {}
        self._wanted: dict[_Unit, asyncio.Event] = {}
        self._consumers: dict[_Unit, tuple[int, WagonConsumer]] = {}
        """By unit: the number of the wagon that it serves, and its consumer."""
        self._ending: set[_Unit] = set()
        self._trouble: dict[_Unit, str] = {}
        self._supervisors: dict[_Unit, asyncio.Task[None]] = {}
        self._bulkhead = bulkhead
        self._stack = AsyncExitStack()
        self.on_change: Callable[[], None] = lambda: None
        """Called when a unit's workers became ready, failed, moved to another wagon or ended, and once it is known how
        long their events take."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.push_async_callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        unit = spec.train, spec.unit
        known = self._specs.get(unit)
        if known == spec or (known is not None and spec.is_behind(known.number)):
            return
        self._specs[unit] = spec
        self._wanted.setdefault(unit, asyncio.Event()).set()
        if unit not in self._supervisors:
            self._supervisors[unit] = self._tasks.create_task(self._supervise(unit))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        return {
            unit: self._deployment((name, unit), spec) for (name, unit), spec in self._specs.items() if name == train
        }

    def _deployment(self, unit: _Unit, spec: WagonSpec) -> Deployment:
        trouble = self._trouble.get(unit, "")
        if unit not in self._consumers:
            return Deployment(number=spec.number, ready=False, revision=spec.revision, trouble=trouble)
        number, consumer = self._consumers[unit]
        trouble = trouble or consumer.trouble
        return Deployment(
            number=number,
            ready=not trouble,
            workers=consumer.workers,
            missing=consumer.missing,
            revision=spec.revision,
            trouble=trouble,
            handled=consumer.handled,
            failed=consumer.failed,
            uncounted=consumer.uncounted,
            skipped=consumer.skipped,
            work=consumer.work,
            in_hand=consumer.in_hand,
            channels=consumer.channels,
            open=consumer.open,
            at_budget=consumer.at_budget,
            paused=consumer.paused,
        )

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove."""
        key = train, unit
        supervisor = self._supervisors.pop(key, None)
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        if key in self._consumers:
            await self._leave(key, grace)
        if key not in self._supervisors:  # unless it was asked for again meanwhile
            for known in (self._specs, self._wanted, self._trouble):
                known.pop(key, None)
        self.on_change()

    async def _leave(self, unit: _Unit, grace: float, *, drained: bool = False) -> None:
        """End the unit's consumer."""
        ending = self._consumers[unit]
        self._ending.add(unit)
        await ending[1].end(grace, drained=drained)
        if self._consumers.get(unit) is ending:
            del self._consumers[unit]
            self._ending.discard(unit)

    async def _supervise(self, unit: _Unit) -> None:
        """Reconcile one unit's workers with its spec whenever that changes; with backoff after a failure."""
        backoff = Backoff(*_PAUSES)
        while True:
            wanted = self._wanted[unit]
            wanted.clear()
            try:
                await self._reconcile(unit)
            except BaseException as e:
                if is_ours(e):
                    raise
                if not isinstance(e, EventwagonError):
                    self._caught(unit, "starting or changing", e)
                self._trouble[unit] = str(e) if isinstance(e, EventwagonError) else said(e)
                self.on_change()
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff.next()):
                        await wanted.wait()
                continue
            self._trouble.pop(unit, None)
            self.on_change()
            backoff.reset()
            await wanted.wait()

    async def _reconcile(self, unit: _Unit) -> None:
        spec = self._specs[unit]
        if unit in self._consumers:
            number, consumer = self._consumers[unit]
            if number != spec.number or spec.workers == 0 or consumer.trouble or unit in self._ending:
                moved_on = number != spec.number  # which a unit does when its wagon is drained
                await self._leave(unit, 0.0 if consumer.trouble else self._grace, drained=moved_on)
        if unit in self._consumers:
            await self._consumers[unit][1].update(spec)
        elif spec.workers != 0:
            consumer = await self._start(spec)
            consumer.on_trouble = self._wanted[unit].set
            consumer.state.on_known = lambda: self.on_change()
            self._consumers[unit] = spec.number, consumer

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for unit in list(self._specs):
                tasks.create_task(self._end(unit))

    async def _end(self, unit: _Unit) -> None:
        """If one raises, the others still end gracefully."""
        try:
            await self.remove(*unit, grace=self._grace)
        except BaseException as e:
            if is_ours(e):
                raise
            self._caught(unit, "ending", e)

    def _caught(self, unit: _Unit, doing: str, error: BaseException) -> None:
        (self._bulkhead or Bulkhead(unit[0])).report(f"{doing} unit {unit[1]}", error)
