"""The way from handlers to the active wagons of trains: what `Context.publish` leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import copy_context
from typing import Self

from ..contracts.registry import Registry
from ..display.text import said
from ..errors import (
    ChannelGone,
    EventwagonError,
    PublishError,
    Sealed,
    TrainFull,
    TrainPaused,
    TrainRemoved,
    Unavailable,
)
from ..event import Event
from .bulkhead import Bulkhead, is_ours
from .context import Destination, NamedTrain, destination_of
from .publish_queue import own
from .runtime import Runtime
from .switcher import Switcher
from .train_state import TrainState
from .wagon_channels import WagonChannels


class TrainPublisher:
    """Publishes to the trains at one URL, for the handlers of one process. Enter it before they run, and leave it, in
    the same task, after they have ended. A train costs nothing before the first event for it; from then on its manifest
    is followed until the end.

    `registry` makes a context manager of the registry. `switcher`: that of the handlers' own train, if there is one.
    """

    def __init__(
        self,
        runtime: Runtime,
        registry: Callable[[], AbstractAsyncContextManager[Registry]],
        switcher: Switcher | None = None,
    ) -> None:
        self._runtime = runtime
        self._registry = registry
        self._switcher = switcher
        self._known: dict[str, Destination] = {
            runtime.train: NamedTrain(runtime.train, runtime.settings, runtime.handlers)
        }
        self._open: dict[str, _Open] = {}
        self._context = copy_context()  # of no event
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.callback(self._leave)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def _leave(self) -> None:
        for each in self._open.values():
            each.leave.set()
            if each.task is not None and not each.switcher.done():
                each.task.cancel()

    def destination(self, to: Destination | None) -> Destination:
        """See Publisher."""
        if to is None:
            return self._known[self._runtime.train]
        train = destination_of(to)
        return self._known.setdefault(train.name, train)

    async def publish(self, train: str, events: list[Event]) -> None:
        """See Publisher. The handlers' own train refuses nothing: what they publish belongs to an event that it has
        accepted, and which would wait for room in a wagon that waits for it."""
        switcher = await self._switcher_of(train)
        try:
            until = asyncio.get_running_loop().time() + self._runtime.settings.publish_timeout
            await switcher.publish(list(events), deadline=until)
            events.clear()
        except (TrainFull, TrainPaused) as e:
            del events[: e.accepted]
            if train != self._runtime.train:
                raise
            await self._readmit(switcher, events)
        except TrainRemoved:
            if train in self._open:
                self._open[train].leave.set()  # the next attempt founds it anew, as any new publisher does
            raise
        except (EventwagonError, asyncio.CancelledError) as e:
            del events[: getattr(e, "accepted", 0)]
            raise

    async def _readmit(self, switcher: Switcher, events: list[Event]) -> None:
        try:
            await switcher.readmit(events)
        except (ChannelGone, Sealed) as e:  # of the active wagon, not of that whose event is handled
            raise Unavailable(str(e)) from e
        events.clear()

    async def _switcher_of(self, train: str) -> Switcher:
        """The train's switcher; opens it first. Raises EventwagonError."""
        if train == self._runtime.train and self._switcher is not None:
            return self._switcher
        it = self._open.get(train)
        if it is None or it.leave.is_set():
            it = self._open[train] = _Open()
            it.task = self._tasks.create_task(self._hold(train, it), context=self._context.copy())
        await asyncio.wait([it.switcher])  # which a cancelled waiter must not cancel
        try:
            return it.switcher.result()
        except EventwagonError as e:
            raise own(e, 0) from e.__cause__

    async def _hold(self, train: str, it: _Open) -> None:
        """Follow the train's manifest until it is left. What opening raises is the waiters'."""
        bulkhead = Bulkhead(train)
        try:
            runtime = self._runtime_of(train, bulkhead)
            async with (
                self._registry() as registry,
                TrainState(runtime, registry) as state,
                Switcher(runtime, state) as switcher,
            ):
                await WagonChannels(runtime, state).bootstrap()
                it.switcher.set_result(switcher)
                await it.leave.wait()
        except BaseException as e:
            if is_ours(e):
                it.switcher.cancel()
                raise
            if it.switcher.done():
                bulkhead.report("publishing for handlers", e)
            else:
                refused = e if isinstance(e, EventwagonError) else PublishError(f"train {train}: {said(e)}")
                if refused is not e:
                    bulkhead.report("connecting to publish for handlers", e)
                it.switcher.set_exception(refused)
                it.switcher.exception()  # looked at: there may be no waiter any more
        finally:
            it.leave.set()

    def _runtime_of(self, train: str, bulkhead: Bulkhead) -> Runtime:
        mine, to = self._runtime, self._known[train]
        return Runtime(
            train=train,
            settings=to.settings,
            broker=mine.broker,
            clock=mine.clock,
            tell=mine.tell,
            bulkhead=bulkhead,
            handlers=to.handlers,
            name=mine.name,
            rng=mine.rng,
        )


class _Open:
    """One train that is published to."""

    def __init__(self) -> None:
        self.switcher: asyncio.Future[Switcher] = asyncio.get_running_loop().create_future()
        self.leave = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
