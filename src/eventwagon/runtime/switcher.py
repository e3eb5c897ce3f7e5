"""The switcher sends each event straight to the active wagon. It lives in every process that publishes: there is no
central router and no extra hop.

The switch itself is one write of the manifest (`train_state`), which an observer makes; publishers make it themselves
at a wagon that is exactly full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Self

from ..backoff import Backoff
from ..contracts.broker import Troubled
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Request, Wagon
from ..contracts.registry import peers_of
from ..display.text import said
from ..errors import (
    ChannelFull,
    ChannelGone,
    Conflict,
    EventRefused,
    EventwagonError,
    PublishError,
    PublishTimeout,
    PublishUncertain,
    Sealed,
    StorageBroken,
    TrainFull,
    Unavailable,
)
from ..event import Channel, Event, wagon_name
from ..policy.edits import Edit, Full, Lift, active_sealed, when_full
from .bulkhead import is_ours
from .lease import Lease
from .publish_queue import Batch, PublishCall, PublishQueue, fitting
from .runtime import Runtime
from .tasks import kept_up
from .train_state import TrainState, no_publishing
from .wagon_channels import WagonChannels

_PAUSE_FIRST = 0.01
_PAUSE_MOST = 0.5
_REFUSED_LONG = 1.0
"""The broker must refuse the active wagon for this many seconds before the next one is requested: a switch takes
less."""
_SOON = 1.0
"""Seconds that the registry has to say who is alive, before a wagon goes on past its limit."""
_SENDERS_MOST = 8
"""The most calls to the broker that may hang while a further one is tried."""


class _Sender:
    """A task that delivers batches. `since`: when it began to wait for the answer to its own batch, on the event loop's
    clock; None if it waits for none, or for something that all senders wait for."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since: float | None = None


class Switcher:
    """One train's switcher in one process. Enter it before use, and leave it in the same task; leaving ends its tasks.
    Enter `state` before it, and leave `state` after it."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._state = state
        self._train = runtime.train
        self._settings = runtime.settings
        self._broker = runtime.broker
        self._bulkhead = runtime.bulkhead
        self._channels = WagonChannels(runtime, state)
        self._publishes = asyncio.Event()
        self._has_published = False
        self._queue = PublishQueue(self._late, self._held_up)
        self._held_since: tuple[int, float] | None = None
        self._refused_since: tuple[int, float] | None = None
        """Which active wagon the broker refuses to write to, and since when."""
        self._trouble = ""
        self._lease: Lease | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._senders: dict[asyncio.Task[None], None] = {}
        self._sender = _Sender()
        """The sender that takes new batches. Others still wait for the answer to their last batch."""
        self._short = False
        """No sender is free: the next one that has delivered its batch goes on."""
        self._stack = AsyncExitStack()
        self.on_full: list[Callable[[], None]] = []
        """Called when publishers are held at a full wagon: an observer in this process looks at once."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            tasks = self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            long = {"getting ready for the next wagon": self._get_ready}
            if not self._broker.capabilities.fences:
                self._lease = Lease(self._runtime, self._state)
                long["following with the lease"] = self._lease.follow
                stack.push_async_callback(self._give_up, self._lease)
            owned = [tasks.create_task(kept_up(work, what, self._bulkhead)) for what, work in long.items()]
            stack.callback(lambda: [task.cancel() for task in (*owned, *self._senders)])
            closed = Unavailable(f"train {self._train}: the connection is closed")
            stack.callback(self._queue.close, closed)
            self._start_sender(tasks)
            self._queue.open()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _give_up(self, lease: Lease) -> None:
        """Give up this process's lease, so that nobody waits for it. If the registry does not answer, the lease expires
        by itself."""
        try:
            async with asyncio.timeout(self._settings.lease):
                await lease.give_up()
        except TimeoutError:
            pass
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report("giving up the lease", e)

    @property
    def held(self) -> int:
        """Publish calls that wait because the train or the broker takes no events now."""
        return self._queue.unanswered if self._trouble else 0

    async def publish(self, events: Sequence[Event], *, deadline: float) -> None:
        """Send the events to the active wagon; they are stored when it returns. `deadline` is on the event loop's
        clock.

        Calls made while one is under way travel together in the next. Raises TrainFull, EventRefused, PublishTimeout,
        StorageBroken, and PublishError if the broker's driver failed in an unexpected way. The `accepted` of each
        error, CancelledError included, is how many of the leading events were stored. Cancelling the caller does not
        call back events that are already on their way.
        """
        if not events:
            return
        self._runtime.pulse.beat()
        call = self._queue.add(events, deadline)
        if not self._has_published:
            self._has_published = True
            self._publishes.set()
        try:
            await call.done
        except asyncio.CancelledError as e:
            e.accepted = call.accepted  # type: ignore[attr-defined]
            raise
        finally:
            self._queue.forget(call)

    def _late(self, call: PublishCall) -> PublishTimeout:
        left = len(call.events) - call.accepted
        message = f"train {self._train}: {left} of {len(call.events)} events not surely accepted in time"
        known = self._broker.trouble if isinstance(self._broker, Troubled) else ""
        why = known or self._trouble or "the broker has not answered"
        return PublishTimeout(f"{message}: {why}", accepted=call.accepted)

    # --- senders --------------------------------------------------------------------------

    def _start_sender(self, tasks: asyncio.TaskGroup) -> None:
        self._sender = sender = _Sender()
        self._short = False
        task = tasks.create_task(kept_up(lambda: self._send(sender), "sending", self._bulkhead))
        self._senders[task] = None
        task.add_done_callback(self._senders.pop)

    def _held_up(self, before: float) -> None:
        """Calls wait while the sender's own call has hung since `before` or longer: another sender takes over, and the
        first one ends with its batch."""
        since = self._sender.since
        if since is None or since > before or self._tasks is None:
            return
        if len(self._senders) < _SENDERS_MOST:
            self._start_sender(self._tasks)
        else:
            self._short = True

    async def _send(self, me: _Sender) -> None:
        """Deliver the gathered calls, batch by batch."""
        queue, most = self._queue, self._settings.publish_batch
        while True:
            if self._sender is not me:
                if not self._short:
                    return
                self._sender, self._short = me, False
            batch = queue.take(most)
            if batch is None:
                me.since = None
                queue.wanted.clear()
                await queue.wanted.wait()
                continue
            try:
                await self._deliver(batch, me)
            except BaseException as e:
                if is_ours(e):
                    raise
                batch.fail(PublishError(f"train {self._train}: {said(e)}: this may have been stored"))
                raise
            finally:
                if batch.waits():  # making an error costs more than a batch: its text is searched for secrets
                    batch.fail(PublishTimeout(f"train {self._train}: the connection was closed on the way"))

    async def _get_ready(self) -> None:
        """Have the broker connect to a READY wagon before it becomes active, so that the switch costs nothing. Waits
        for the first publish: without one there is nothing to prepare."""
        await self._publishes.wait()
        known: set[int] = set()
        while True:
            changed = self._state.next_change
            ready = {w.number for w in self._state.snapshot.manifest.spares if w.state is State.READY}
            for number in sorted(ready - known):
                try:
                    async with asyncio.timeout(self._settings.publish_timeout):
                        await self._broker.warm(Channel(self._train, number))
                except (EventwagonError, TimeoutError):
                    pass  # the first publish reports it, if it lasts
                except BaseException as e:
                    if is_ours(e):
                        raise
                    self._bulkhead.report("getting ready for the next wagon", e)
            known = ready
            await changed.wait()

    async def _deliver(self, batch: Batch, me: _Sender) -> None:
        """Send until every call is accepted or refused, or its caller no longer waits."""
        backoff, before = Backoff(_PAUSE_FIRST, _PAUSE_MOST), ""

        def pause() -> float:
            """The next pause. A different trouble begins with the first one."""
            nonlocal before
            if self._trouble != before:
                backoff.reset()
                before = self._trouble
            return backoff.next()

        me.since = asyncio.get_running_loop().time()
        while batch.waits():
            refused = self._refusal(self._state.snapshot.manifest) is not None  # then don't ask for a lease either
            trouble = None if refused else await self._unready()
            manifest = self._state.snapshot.manifest
            if (refusal := self._refusal(manifest)) is not None:
                batch.fail(refusal)
                return
            if trouble is not None:
                self._trouble = trouble
                await self._pause_for_all(batch, me, pause())
                continue
            wagon = manifest.active
            if wagon is None:
                self._trouble = "the train has no active wagon yet"
                if manifest.epoch:
                    await self._found_again()
                if self._state.snapshot.manifest.active is None:
                    await self._pause_for_all(batch, me, pause())
                continue
            events = batch.events
            try:
                await self._publish(wagon, events, batch.patience)
            except ChannelFull as e:
                batch.accept(e.accepted)
                self._trouble = f"{wagon_name(self._train, wagon.number)} is full and the next wagon is not ready"
                if not await self._next_after_full(batch, wagon):
                    await self._pause_for_all(batch, me, pause())
            except (Sealed, ChannelGone) as e:
                if isinstance(e, Sealed):
                    batch.accept(e.accepted)
                self._trouble = str(e)
                if await self._refreshed(wagon) == wagon.number:
                    self._trouble += ", though it is the train's active wagon; the next one is waited for"
                    await self._ask_for_next(wagon, e)
                    await self._pause(batch, pause())
            except (PublishUncertain, Unavailable) as e:
                self._trouble = str(e)
                await self._pause(batch, pause())
            except StorageBroken as e:
                batch.fail(e)
                return
            except EventRefused as e:
                batch.refuse(len(events), e)
            except asyncio.CancelledError as e:
                if is_ours(e):
                    raise
                self._bulkhead.report("publishing", e)  # something that the driver waited for was cancelled
                self._trouble = said(e)
                await self._pause(batch, pause())
            except BaseException as e:
                if is_ours(e):
                    raise
                self._refuse_unexpected(batch, len(events), e)
            else:
                batch.accept(len(events))
                self._runtime.reach.answered()
                self._held_since, self._refused_since, self._trouble = None, None, ""

    def _refusal(self, manifest: Manifest) -> PublishError | None:
        """The error that publishers get while the train takes no events; None while it does."""
        if (refusal := no_publishing(manifest)) is None and manifest.refusing:
            return TrainFull(f"train {self._train}: {manifest.refusing}")
        return refusal

    async def _unready(self) -> str | None:
        """Why this process can't publish at all now; None if it can."""
        if self._lease is None:
            return None
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._lease.hold()
        except Unavailable as e:
            return str(e)
        except TimeoutError:
            return "the lease on publishing can't be renewed: the registry has not answered in time"
        except BaseException as e:
            if is_ours(e):
                raise
            return self._noted("holding the lease", e)
        return None

    def _noted(self, what: str, error: BaseException) -> str:
        self._bulkhead.report(what, error)
        return said(error)

    def _refuse_unexpected(self, batch: Batch, count: int, error: BaseException) -> None:
        """The broker's driver raised what no driver should, probably because of one of these events, and perhaps after
        it had stored some. That event is found in the same way as one that is refused."""
        if count == 1:
            self._bulkhead.report("publishing", error)
        refused = PublishError(f"train {self._train}: {said(error)}: the event may have been stored")
        refused.__cause__ = error
        batch.refuse(count, refused)

    async def readmit(self, events: Sequence[Event]) -> None:
        """Publish again what was in a channel that is about to be deleted. It was accepted once, so neither the cap nor
        a bound may refuse it now. May store some events more than once, with the same ids. Raises BrokerError."""
        left = list(events)
        while left:
            if self._lease is not None:
                await self._lease.hold()
            wagon = self._state.snapshot.manifest.active
            if wagon is None:
                raise Unavailable(f"train {self._train} has no active wagon yet")
            until = asyncio.get_running_loop().time() + self._settings.publish_timeout
            some = fitting(left, self._settings.publish_batch)
            try:
                await self._publish(wagon, some, until)
                left = left[len(some) :]
            except ChannelFull as e:
                left = left[e.accepted :]
                await self._channels.lift(Lift(wagon.number, "events that were accepted before are published anew"))
            except (Sealed, ChannelGone) as e:
                if isinstance(e, Sealed):
                    left = left[e.accepted :]
                if left and await self._refreshed(wagon) == wagon.number:
                    await self._ask_for_next(wagon, e, patience=0.0)
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
        """The number of the active wagon, newly read; that of `wagon` if the registry can't be asked."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                active = (await self._state.refresh()).manifest.active
        except (EventwagonError, TimeoutError):
            return wagon.number
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report("reading the manifest", e)
            return wagon.number
        return active.number if active else None

    async def _found_again(self) -> None:
        """The registry has stepped back to a time before the first active wagon: found the train again."""
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._channels.bootstrap()
        except (EventwagonError, TimeoutError) as e:
            self._trouble = said(e)
        except (Exception, BaseExceptionGroup, SystemExit) as e:  # noqa: BLE001 - a bulkhead: the callers wait until their deadlines
            self._bulkhead.report("founding the train again", e)

    async def _ask_for_next(
        self, wagon: Wagon, error: Sealed | ChannelGone, *, patience: float = _REFUSED_LONG
    ) -> None:
        """The broker refuses the wagon that the newest manifest names as the active one: a registry that was restored
        from an older copy still names a wagon that was cut off since. Observers notice a channel that has vanished by
        themselves, but not one that is sealed."""
        now = asyncio.get_running_loop().time()
        if self._refused_since is None or self._refused_since[0] != wagon.number:
            self._refused_since = (wagon.number, now)
        if not isinstance(error, Sealed) or now - self._refused_since[1] < patience:
            return
        request = Request(
            f"{wagon_name(self._train, wagon.number)} is sealed, though it is the active one", self._runtime.clock()
        )
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                await self._state.apply(lambda m: active_sealed(m, wagon.number, request))
        except (EventwagonError, TimeoutError):
            pass  # requested again at the next attempt
        except (Exception, BaseExceptionGroup, SystemExit) as e:  # noqa: BLE001 - a bulkhead: the callers wait until their deadlines
            self._bulkhead.report("asking for the next wagon", e)

    async def _next_after_full(self, batch: Batch, wagon: Wagon) -> bool:
        """Redirect from a full wagon, or lift its bound. Returns False if there is nothing to do but wait."""
        try:
            if await self._refreshed(wagon) != wagon.number:
                return True
            now = asyncio.get_running_loop().time()
            if self._held_since is None or self._held_since[0] != wagon.number:
                self._held_since = (wagon.number, now)
            held, now = now - self._held_since[1], self._runtime.clock()
            what = when_full(self._runtime.publishing.now, self._state.snapshot.manifest, held, now)
            if isinstance(what, Edit) and any(isinstance(task, Lift) for task in what.tasks):
                observed = await self._is_observed()
                manifest = self._state.snapshot.manifest
                if manifest.active is None or manifest.active.number != wagon.number:
                    return True  # meanwhile the next one has come
                what = when_full(self._runtime.publishing.now, manifest, held, now, observed=observed)
            match what:
                case Full(because=because):
                    batch.fail(TrainFull(f"train {self._train}: {because}"))
                    return True
                case Edit(tasks=(Lift() as lift,)):
                    await self._channels.lift(lift)
                    return True
                case Edit():
                    await self._state.store(what, base=self._state.snapshot)
                    return True
                case None:
                    for listener in list(self.on_full):
                        self._bulkhead.call("a listener to full wagons", listener)
                    return False
        except Conflict:
            await self._refreshed(wagon)
            return True
        except EventwagonError:
            return False
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report("going on after a full wagon", e)
            return False

    async def _is_observed(self) -> bool:
        """Whether an observer is alive; True if the registry does not say so soon."""
        try:
            async with asyncio.timeout(_SOON):
                peers = await peers_of(self._state.registry, self._train)
        except (EventwagonError, TimeoutError):
            return True
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report("looking for observers", e)
            return True
        return any("observe" in each.roles for each in peers)

    async def _pause_for_all(self, batch: Batch, me: _Sender, seconds: float) -> None:
        """Wait for something that every batch has to wait for: no other sender takes over meanwhile."""
        me.since = None
        await self._pause(batch, seconds)
        me.since = asyncio.get_running_loop().time()

    async def _pause(self, batch: Batch, seconds: float) -> None:
        """Wait for a newer manifest, but not past the next deadline."""
        now = asyncio.get_running_loop().time()
        until = min(now + seconds, batch.deadline)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._state.next_change.wait()
