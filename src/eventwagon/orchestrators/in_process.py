"""The in-process orchestrator: a wagon's workers are tasks of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Protocol, Self

from ..errors import EventwagonError
from ..orchestrator import Deployment, WagonSpec

_PAUSES = (0.05, 5.0)

_Wagon = tuple[str, int]
"""A train's name and a wagon's number."""


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

    async def update(self, spec: WagonSpec) -> None:
        """Bring it to a changed spec. Idempotent; a handler in flight is not ended."""
        ...

    async def end(self, grace: float) -> None:
        """Take nothing more, let handlers in flight finish for `grace` s, give the rest back. Idempotent."""
        ...


Start = Callable[[WagonSpec], Awaitable[Serving]]
"""Attach workers to a wagon's channels; returns when they are attached. Raises EventwagonError."""


class InProcess:
    """Starts a wagon's workers as tasks of this process, with `start`. Leaving it ends all, within `grace` seconds each."""

    def __init__(self, start: Start, *, grace: float = 30.0) -> None:
        self._start = start
        self._grace = grace
        self._specs: dict[_Wagon, WagonSpec] = {}
        self._wanted: dict[_Wagon, asyncio.Event] = {}
        self._servings: dict[_Wagon, Serving] = {}
        self._trouble: dict[_Wagon, str] = {}
        self._keepers: dict[_Wagon, asyncio.Task[None]] = {}
        self._stack = AsyncExitStack()
        self.on_change: Callable[[], None] = lambda: None
        """Called when a wagon's workers became ready, failed or ended."""

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
        wagon = spec.train, spec.unit
        if self._specs.get(wagon) == spec:
            return
        self._specs[wagon] = spec
        self._wanted.setdefault(wagon, asyncio.Event()).set()
        if wagon not in self._keepers:
            self._keepers[wagon] = self._tasks.create_task(self._keep(wagon))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        found = {}
        for wagon, spec in self._specs.items():
            if spec.train == train:
                serving = self._servings.get(wagon)
                trouble = self._trouble.get(wagon, "") or (serving.trouble if serving else "")
                found[spec.number] = Deployment(
                    number=spec.number,
                    ready=serving is not None and not trouble,
                    workers=serving.workers if serving else 0,
                    trouble=trouble,
                )
        return found

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove."""
        wagon = train, unit
        keeper = self._keepers.pop(wagon, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        serving = self._servings.get(wagon)
        if serving is not None:
            await serving.end(grace)
        if wagon not in self._keepers:  # unless it was asked for again meanwhile
            for known in (self._specs, self._wanted, self._servings, self._trouble):
                known.pop(wagon, None)
        self.on_change()

    async def _keep(self, wagon: _Wagon) -> None:
        """Bring one wagon's workers to what its spec says, each time that it changes; again where that failed."""
        pause = _PAUSES[0]
        while True:
            wanted = self._wanted[wagon]
            wanted.clear()
            try:
                await self._bring(wagon)
            except EventwagonError as e:
                self._trouble[wagon] = str(e)
                self.on_change()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wanted.wait()
                pause = min(_PAUSES[1], pause * 2)
                continue
            self._trouble.pop(wagon, None)
            self.on_change()
            pause = _PAUSES[0]
            await wanted.wait()

    async def _bring(self, wagon: _Wagon) -> None:
        spec = self._specs[wagon]
        serving = self._servings.get(wagon)
        if serving is not None and serving.trouble:
            await serving.end(0.0)
            serving = None
        if serving is None:
            self._servings[wagon] = await self._start(spec)
        else:
            await serving.update(spec)

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for train, number in list(self._specs):
                tasks.create_task(self.remove(train, number, grace=self._grace))
