"""The switcher. Its routing half, here, sends each event straight to the active wagon; its switching half moves the manifest.

Both live in every process that publishes: there is no central router and no extra hop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from .broker import Broker
from .errors import (
    ChannelFull,
    ChannelGone,
    Conflict,
    EventwagonError,
    PublishTimeout,
    PublishUncertain,
    Sealed,
    TrainFull,
    Unavailable,
)
from .event import Channel, Event
from .facts import Listener
from .gathering import Batch, Gathering, Parcel
from .lease import Lease
from .lifecycle import State
from .manifest import Wagon
from .registry import Registry
from .settings import Settings
from .steps import Full, Lift, Plan, when_full
from .switching import Switching

_PAUSE_FIRST = 0.01
_PAUSE_MOST = 0.5


class Switcher(Switching):
    """One train's switcher in one process. Enter it before use; it ends its own tasks on leaving. Made like `Switching`."""

    def __init__(
        self,
        train: str,
        settings: Settings,
        channels: tuple[str, ...],
        broker: Broker,
        registry: Registry,
        *,
        clock: Callable[[], float],
        by: str,
        tell: Listener,
        declares: bool = True,
        revision: str = "",
    ) -> None:
        super().__init__(
            train, settings, channels, broker, registry,
            clock=clock, by=by, tell=tell, declares=declares, revision=revision,
        )  # fmt: skip
        self._publishes = asyncio.Event()
        self._gathering = Gathering(self._late)
        self._held_since: tuple[int, float] | None = None
        self._trouble = ""
        self._lease: Lease | None = None
        self._stack = AsyncExitStack()
        self.on_full: list[Callable[[], None]] = []
        """Called when publishers are held at a full wagon: an observer in this process looks at once."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.see(await self._registry.read(self._train))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            owned = [tasks.create_task(work()) for work in (self._follow, self._send, self._get_ready)]
            if not self._broker.capabilities.fences:
                self._lease = Lease(self._train, self._by, self._registry, self._settings.lease, self.refresh)
                owned.append(tasks.create_task(self._lease.follow(lambda: self._changed.wait())))
                stack.push_async_callback(self._lease.give_up)
            stack.callback(lambda: [task.cancel() for task in owned])
            closed = Unavailable(f"train {self._train}: the connection is closed")
            stack.callback(self._gathering.close, closed)
            self._gathering.open()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def publish(self, events: Sequence[Event], *, timeout: float) -> None:
        """Send the events to the active wagon; stored when it returns.

        Calls made while one is under way travel together in the next. Raises TrainFull, PublishTimeout, StorageBroken.
        Cancelling the caller does not call back what is already on its way.
        """
        if not events:
            return
        parcel = self._gathering.add(events, asyncio.get_running_loop().time() + timeout)
        self._publishes.set()
        try:
            await parcel.done
        finally:
            self._gathering.forget(parcel)

    def _late(self, parcel: Parcel) -> PublishTimeout:
        left = len(parcel.events) - parcel.accepted
        message = f"train {self._train}: {left} of {len(parcel.events)} events not surely accepted in time"
        why = self._trouble or "the broker has not answered"
        return PublishTimeout(f"{message}: {why}", accepted=parcel.accepted)

    async def _send(self) -> None:
        while True:
            await self._gathering.wanted.wait()
            self._gathering.wanted.clear()
            while batch := self._gathering.take(self._settings.publish_batch):
                try:
                    await self._deliver(batch)
                finally:
                    batch.fail(PublishTimeout(f"train {self._train}: the connection was closed on the way"))

    async def _get_ready(self) -> None:
        """Have the broker connect to a READY wagon before it is the active one, so that the switch costs nothing. Only where
        something is published."""
        await self._publishes.wait()
        known: set[int] = set()
        while True:
            changed = self._changed
            ready = {wagon.number for wagon in self._snapshot.manifest.in_state(State.READY)}
            for number in sorted(ready - known):
                with suppress(EventwagonError, TimeoutError):  # the first publish says it, if it lasts
                    async with asyncio.timeout(self._settings.publish_timeout):
                        await self._broker.publish(Channel(self._train, number), [])
            known = ready
            await changed.wait()

    async def _deliver(self, batch: Batch) -> None:
        """Send until every parcel is accepted or refused, or its caller waits no more."""
        pause = _PAUSE_FIRST
        while batch.waits():
            try:
                if self._lease is not None:
                    await self._lease.hold()
            except Unavailable as e:
                self._trouble = str(e)
                await self._pause(batch, pause)
                continue
            wagon = self._snapshot.manifest.active
            if wagon is None:
                self._trouble = "the train has no active wagon yet"
                await self._pause(batch, pause)
                continue
            if self._snapshot.manifest.refusing:
                batch.fail(TrainFull(f"train {self._train}: {self._snapshot.manifest.refusing}"))
                return
            events = batch.events
            try:
                await self._publish(wagon, events, batch.patience)
            except ChannelFull as e:
                batch.accept(e.accepted)
                self._trouble = f"{wagon.name} is full and the next wagon is not ready"
                if not await self._next_after_full(batch, wagon):
                    await self._pause(batch, pause)
                    pause = min(_PAUSE_MOST, pause * 2)
            except (Sealed, ChannelGone) as e:
                if isinstance(e, Sealed):
                    batch.accept(e.accepted)
                self._trouble = str(e)
                if await self._refreshed(wagon) == wagon.number:
                    await self._pause(batch, pause)
            except (PublishUncertain, Unavailable) as e:
                self._trouble = str(e)
                await self._pause(batch, pause)
                pause = min(_PAUSE_MOST, pause * 2)
            except EventwagonError as e:
                batch.fail(e)
                return
            else:
                batch.accept(len(events))
                self._held_since, self._trouble = None, ""

    async def readmit(self, events: Sequence[Event]) -> None:
        """Publish anew what stood in a channel that is about to be deleted. It was accepted once, so neither the cap nor a
        bound may refuse it now. May store some of them more than once, under the same ids. Raises BrokerError."""
        left = events
        while left:
            if self._lease is not None:
                await self._lease.hold()
            wagon = self._snapshot.manifest.active
            if wagon is None:
                raise Unavailable(f"train {self._train} has no active wagon yet")
            until = asyncio.get_running_loop().time() + self._settings.publish_timeout
            try:
                await self._publish(wagon, left, until)
                return
            except ChannelFull as e:
                left = left[e.accepted :]
                await self.lift(Lift(wagon.number, "events that were accepted before are published anew"))
            except (Sealed, ChannelGone) as e:
                if isinstance(e, Sealed):
                    left = left[e.accepted :]
                if left and await self._refreshed(wagon) == wagon.number:
                    raise

    async def _publish(self, wagon: Wagon, events: Sequence[Event], until: float) -> None:
        """One call to the broker, for no longer than anybody waits for its answer."""
        channel = Channel(self._train, wagon.number)
        try:
            async with asyncio.timeout_at(until):
                if self._lease is None:
                    await self._broker.publish(channel, events)
                else:
                    async with self._lease.sending(wagon.turn):
                        await self._broker.publish(channel, events)
        except TimeoutError:
            raise PublishUncertain("the broker has not answered in time") from None

    async def _refreshed(self, wagon: Wagon) -> int | None:
        """The number of the active wagon, read anew; that of `wagon` when the registry can't be asked."""
        try:
            active = (await self.refresh()).manifest.active
        except EventwagonError:
            return wagon.number
        return active.number if active else None

    async def _next_after_full(self, batch: Batch, wagon: Wagon) -> bool:
        """Redirect from a full wagon, or lift its bound; False when there is nothing to do but wait."""
        try:
            if await self._refreshed(wagon) != wagon.number:
                return True
            now = asyncio.get_running_loop().time()
            if self._held_since is None or self._held_since[0] != wagon.number:
                self._held_since = (wagon.number, now)
            what = when_full(self._settings, self._snapshot.manifest, now - self._held_since[1], self._clock())
            match what:
                case Full(because=because):
                    batch.fail(TrainFull(f"train {self._train}: {because}"))
                    return True
                case Plan(tasks=(Lift() as lift,)):
                    await self.lift(lift)
                    return True
                case Plan():
                    await self.store(what, base=self._snapshot)
                    return True
                case None:
                    for listener in self.on_full:
                        listener()
                    return False
        except Conflict:
            await self._refreshed(wagon)
            return True
        except EventwagonError:
            return False

    async def _pause(self, batch: Batch, seconds: float) -> None:
        """Wait for a newer manifest, but not past the next deadline."""
        now = asyncio.get_running_loop().time()
        until = min(now + seconds, batch.deadline)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()
