"""The in-process orchestrator: a unit of workers are tasks of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Protocol, Self

from ..contracts.orchestrator import Deployment, WagonSpec
from ..display.text import said
from ..errors import EventwagonError
from .bulkhead import Bulkhead, is_ours

_PAUSES = (0.05, 5.0)

_Unit = tuple[str, int]
"""A train's name and the number of a unit of workers."""


class Serving(Protocol):
    """A wagon's workers, attached and at work."""

    @property
    def workers(self) -> int:
        """How many are its own, or are at it now where they are shared."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not served any more; empty while it is."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the inner channels that consumers are attached to."""
        ...

    @property
    def missing(self) -> tuple[str, ...]:
        """The inner channels of the wagon that there is no handler for."""
        ...

    @property
    def handled(self) -> int:
        """Handlings that ended well."""
        ...

    @property
    def failed(self) -> int:
        """Handlings that failed."""
        ...

    @property
    def open(self) -> dict[str, str]:
        """Channels whose circuit breaker is open, and why."""
        ...

    @property
    def paused(self) -> bool:
        """It hands out nothing, since its wagon is paused."""
        ...

    on_trouble: Callable[[], object]
    """Called when it can't be served any more, for it to be started anew."""

    async def update(self, spec: WagonSpec) -> None:
        """Bring it to a changed spec. Idempotent; a handler in flight is not ended."""
        ...

    async def end(self, grace: float, *, drained: bool = False) -> None:
        """Take nothing more, let handlers in flight finish for `grace` s, give the rest back. Idempotent. `drained`:
        nothing can come there any more."""
        ...


Start = Callable[[WagonSpec], Awaitable[Serving]]
"""Attach workers to a wagon's channels; returns when they are attached. Raises EventwagonError."""


class InProcess:
    """Starts a wagon's workers as tasks of this process, with `start`. Leaving it ends all, within `grace` seconds
    each."""

    def __init__(self, start: Start, *, grace: float = 30.0, bulkhead: Bulkhead | None = None) -> None:
        self._start = start
        self._grace = grace
        self._specs: dict[_Unit, WagonSpec] = {}
        self._wanted: dict[_Unit, asyncio.Event] = {}
        self._servings: dict[_Unit, tuple[int, Serving]] = {}
        """Which wagon is served, and how."""
        self._ending: set[_Unit] = set()
        self._trouble: dict[_Unit, str] = {}
        self._keepers: dict[_Unit, asyncio.Task[None]] = {}
        self._bulkhead = bulkhead
        self._stack = AsyncExitStack()
        self.on_change: Callable[[], None] = lambda: None
        """Called when a unit's workers became ready, failed, moved or ended."""

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
        if known == spec or (known is not None and known.number > spec.number):
            return
        self._specs[unit] = spec
        self._wanted.setdefault(unit, asyncio.Event()).set()
        if unit not in self._keepers:
            self._keepers[unit] = self._tasks.create_task(self._keep(unit))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        return {
            unit: self._deployment((name, unit), spec) for (name, unit), spec in self._specs.items() if name == train
        }

    def _deployment(self, unit: _Unit, spec: WagonSpec) -> Deployment:
        trouble = self._trouble.get(unit, "")
        if unit not in self._servings:
            return Deployment(number=spec.number, ready=False, revision=spec.revision, trouble=trouble)
        number, serving = self._servings[unit]
        trouble = trouble or serving.trouble
        return Deployment(
            number=number,
            ready=not trouble,
            workers=serving.workers,
            missing=serving.missing,
            revision=spec.revision,
            trouble=trouble,
            handled=serving.handled,
            failed=serving.failed,
            channels=serving.channels,
            open=serving.open,
            paused=serving.paused,
        )

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove."""
        key = train, unit
        keeper = self._keepers.pop(key, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if key in self._servings:
            await self._leave(key, grace)
        if key not in self._keepers:  # unless it was asked for again meanwhile
            for known in (self._specs, self._wanted, self._trouble):
                known.pop(key, None)
        self.on_change()

    async def _leave(self, unit: _Unit, grace: float, *, drained: bool = False) -> None:
        """End what serves now, if it still is that in the end."""
        ending = self._servings[unit]
        self._ending.add(unit)
        await ending[1].end(grace, drained=drained)
        if self._servings.get(unit) is ending:
            del self._servings[unit]
            self._ending.discard(unit)

    async def _keep(self, unit: _Unit) -> None:
        """Bring one unit's workers to what its spec says, each time that it changes; again where that failed."""
        pause = _PAUSES[0]
        while True:
            wanted = self._wanted[unit]
            wanted.clear()
            try:
                await self._bring(unit)
            except BaseException as e:
                if is_ours(e):
                    raise
                if not isinstance(e, EventwagonError):
                    self._caught(unit, "starting or changing", e)
                self._trouble[unit] = str(e) if isinstance(e, EventwagonError) else said(e)
                self.on_change()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wanted.wait()
                pause = min(_PAUSES[1], pause * 2)
                continue
            self._trouble.pop(unit, None)
            self.on_change()
            pause = _PAUSES[0]
            await wanted.wait()

    async def _bring(self, unit: _Unit) -> None:
        spec = self._specs[unit]
        if unit in self._servings:
            number, serving = self._servings[unit]
            if number != spec.number or spec.workers == 0 or serving.trouble or unit in self._ending:
                moved_on = number != spec.number  # which a unit does when its wagon is drained
                await self._leave(unit, 0.0 if serving.trouble else self._grace, drained=moved_on)
        if unit in self._servings:
            await self._servings[unit][1].update(spec)
        elif spec.workers != 0:
            serving = await self._start(spec)
            serving.on_trouble = self._wanted[unit].set
            self._servings[unit] = spec.number, serving

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for unit in list(self._specs):
                tasks.create_task(self._end(unit))

    async def _end(self, unit: _Unit) -> None:
        """Each ends for itself: what one raises keeps no other from ending gracefully."""
        try:
            await self.remove(*unit, grace=self._grace)
        except BaseException as e:
            if is_ours(e):
                raise
            self._caught(unit, "ending", e)

    def _caught(self, unit: _Unit, doing: str, error: BaseException) -> None:
        (self._bulkhead or Bulkhead(unit[0])).report(f"{doing} unit {unit[1]}", error)
