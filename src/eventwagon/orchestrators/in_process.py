"""The in-process orchestrator: a wagon's workers are tasks of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Protocol, Self

from ..errors import EventwagonError
from ..orchestrator import Deployment, WagonSpec

_PAUSES = (0.05, 5.0)


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
        self._specs: dict[int, WagonSpec] = {}
        self._wanted: dict[int, asyncio.Event] = {}
        self._servings: dict[int, Serving] = {}
        self._trouble: dict[int, str] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
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
        number = spec.number
        if self._specs.get(number) == spec:
            return
        self._specs[number] = spec
        self._wanted.setdefault(number, asyncio.Event()).set()
        if number not in self._keepers:
            self._keepers[number] = self._tasks.create_task(self._keep(number))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        found = {}
        for number, spec in self._specs.items():
            if spec.train == train:
                serving = self._servings.get(number)
                trouble = self._trouble.get(number, "") or (serving.trouble if serving else "")
                found[number] = Deployment(
                    number=number,
                    ready=serving is not None and not trouble,
                    workers=serving.workers if serving else 0,
                    trouble=trouble,
                )
        return found

    async def remove(self, train: str, number: int, *, grace: float) -> None:
        """See Orchestrator.remove."""
        keeper = self._keepers.pop(number, None)
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        serving = self._servings.get(number)
        if serving is not None:
            await serving.end(grace)
        if number not in self._keepers:  # unless it was asked for again meanwhile
            for known in (self._specs, self._wanted, self._servings, self._trouble):
                known.pop(number, None)
        self.on_change()

    async def _keep(self, number: int) -> None:
        """Bring one wagon's workers to what its spec says, each time that it changes; again where that failed."""
        pause = _PAUSES[0]
        while True:
            wanted = self._wanted[number]
            wanted.clear()
            try:
                await self._bring(number)
            except EventwagonError as e:
                self._trouble[number] = str(e)
                self.on_change()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await wanted.wait()
                pause = min(_PAUSES[1], pause * 2)
                continue
            self._trouble.pop(number, None)
            self.on_change()
            pause = _PAUSES[0]
            await wanted.wait()

    async def _bring(self, number: int) -> None:
        spec = self._specs[number]
        serving = self._servings.get(number)
        if serving is not None and serving.trouble:
            await serving.end(0.0)
            serving = None
        if serving is None:
            self._servings[number] = await self._start(spec)
        else:
            await serving.update(spec)

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in list(self._specs):
                tasks.create_task(self.remove(self._specs[number].train, number, grace=self._grace))
