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
from .publish_settings import PublishSettings
from .runtime import Runtime
from .switcher import Switcher
from .train_state import TrainState
from .wagon_channels import WagonChannels

_OPEN_MOST = 32
"""The most trains whose manifests are followed while nothing is published to them."""


class TrainPublisher:
    """Publishes to the trains at one URL, for the handlers of one process. Enter it before they run, and leave it, in
    the same task, after they have ended. A train costs nothing before the first event for it; from then on its manifest
    is followed until 32 others were published to since.

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
        self._settings = {runtime.train: runtime.publishing}
        self._open: dict[str, _Open] = {}
        """By name, the least recently used first."""
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
            each.end()

    def destination(self, to: Destination | None) -> Destination:
        """See Publisher."""
        if to is None:
            return self._known[self._runtime.train]
        train = destination_of(to)
        return self._known.setdefault(train.name, train)

    def max_event_bytes(self, to: Destination) -> int:
        """See Publisher."""
        known = self._settings.get(to.name)
        return (to.settings if known is None else known.now).max_event_bytes

    async def publish(self, train: str, events: list[Event]) -> None:
        """See Publisher. The handlers' own train refuses nothing: what they publish belongs to an event that it has
        accepted, and which would wait for room in a wagon that waits for it."""
        if train == self._runtime.train and self._switcher is not None:
            await self._publish(train, self._switcher, events)
            return
        it = self._opened(train)
        it.publishing += 1
        try:
            await self._publish(train, await _opening(it), events)
        except TrainRemoved:
            it.leave.set()  # the next attempt founds it anew, as any new publisher does
            raise
        finally:
            it.publishing -= 1
            self._end_idle()

    async def _publish(self, train: str, switcher: Switcher, events: list[Event]) -> None:
        try:
            until = asyncio.get_running_loop().time() + self._runtime.settings.publish_timeout
            await switcher.publish(list(events), deadline=until)
            events.clear()
        except (TrainFull, TrainPaused) as e:
            del events[: e.accepted]
            if train != self._runtime.train:
                raise
            await self._readmit(switcher, events)
        except (EventwagonError, asyncio.CancelledError) as e:
            del events[: getattr(e, "accepted", 0)]
            raise

    async def _readmit(self, switcher: Switcher, events: list[Event]) -> None:
        try:
            await switcher.readmit(events)
        except (ChannelGone, Sealed) as e:  # of the active wagon, not of that whose event is handled
            raise Unavailable(str(e)) from e
        events.clear()

    def _opened(self, train: str) -> _Open:
        """The train, which is opened if it is not; from now on it is the one used last."""
        it = self._open.pop(train, None)
        if it is None or it.leave.is_set():
            it = _Open()
            it.task = self._tasks.create_task(self._hold(train, it), context=self._context.copy())
        self._open[train] = it
        return it

    def _end_idle(self) -> None:
        """End the least recently used trains beyond the limit; never one that is being published to."""
        over = len(self._open) - _OPEN_MOST
        idle = [name for name, it in self._open.items() if not it.publishing] if over > 0 else []
        for name in idle[:over]:
            self._open.pop(name).end()

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
            if self._open.get(train) is it:
                del self._open[train]

    def _runtime_of(self, train: str, bulkhead: Bulkhead) -> Runtime:
        mine, to = self._runtime, self._known[train]
        return Runtime(
            train=train,
            settings=to.settings,
            publishing=self._settings.setdefault(train, PublishSettings(to.settings)),
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
        self.publishing = 0
        """How many calls publish to it, or wait until it is open."""

    def end(self) -> None:
        """Stop following it. Idempotent."""
        self.leave.set()
        if self.task is not None and not self.switcher.done():
            self.task.cancel()


async def _opening(it: _Open) -> Switcher:
    """The train's switcher, once it is open. Raises EventwagonError."""
    await asyncio.wait([it.switcher])  # which a cancelled waiter must not cancel
    try:
        return it.switcher.result()
    except EventwagonError as e:
        raise own(e, 0) from e.__cause__
