"""A program's connection to a train where it runs: to publish, to run it, to steer it, to look at it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol, Self

import msgspec

from .broker import Broker, Depth
from .errors import ChannelGone, DeclarationDiffers, PublishError, UsageError
from .event import DEAD, Channel, Event, check_word, checked, fitting, new_ids
from .facts import Declared, Entry, Fact, Listener, StopRequested
from .gathering import chunks
from .lifecycle import LIVE
from .manifest import Manifest, Request, gone_by
from .member import Membership
from .observer import Observer
from .orchestrator import Orchestrator
from .payload import encode, type_name
from .registry import Attachment, Member, Registry, Snapshot
from .settings import Settings
from .steps import Plan, differing, said, switch_asked
from .switcher import Switcher
from .worker import Handler

_logger = logging.getLogger("eventwagon")


class Declaration(Protocol):
    """What a connection needs to know of a train: a `Train` is one."""

    name: str
    settings: Settings
    source: str
    handlers: dict[str, Handler]
    revision: str

    @property
    def channels(self) -> tuple[str, ...]:
        """The inner channels, in the order of their declaration."""
        ...


class Connection:
    """A train where it runs. Made by `Train.connect`; enter it before use."""

    def __init__(
        self,
        train: Declaration,
        broker: Broker,
        registry: Registry,
        orchestrator: Orchestrator | None,
        listeners: Sequence[Listener],
        clock: Callable[[], float],
        redeclare: bool,
    ) -> None:
        self.train = train
        self.broker = broker
        self.registry = registry
        self.name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}"
        """This process's name among the members and in the journal."""
        self._orchestrator = orchestrator
        self._listeners = list(listeners)
        self._clock = clock
        self._redeclare = redeclare
        self._stack = AsyncExitStack()
        self._switcher = Switcher(
            train.name,
            train.settings,
            train.channels,
            broker,
            registry,
            clock=clock,
            by=self.name,
            tell=self._tell,
            declares=bool(train.handlers),
            revision=train.revision,
        )
        self._founded = False
        self._is_running = False
        self._membership: Membership | None = None
        self._founding = asyncio.Lock()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.broker)
            await stack.enter_async_context(self.registry)
            if self._orchestrator is not None:
                await stack.enter_async_context(self._orchestrator)
            await stack.enter_async_context(self._switcher)
            self._stack = stack.pop_all()
        self._stops = self._switcher.snapshot.manifest.stops
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    # --- publishing -----------------------------------------------------------------------

    async def publish(
        self,
        payload: object,
        *,
        subject: str | None = None,
        event_type: str | None = None,
        id: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
        timeout: float | None = None,
    ) -> str:
        """Publish one event to the active wagon; stored when it returns. Returns its id.

        `payload` is anything JSON can hold (dataclass, msgspec Struct, attrs, Pydantic …), `bytes`, or an `Event`, taken
        as it is. Where this program has the train's handler of the ingress, it must be of that handler's type. `subject` is
        the key. Give `id` to publish again what was uncertain: the same id marks a duplicate.
        `timeout` in seconds, default `publish_timeout`. Raises UsageError, EventTooLarge, TrainFull, PublishTimeout,
        StorageBroken.
        """
        if (id is not None or subject is not None or event_type is not None) and isinstance(payload, Event):
            raise UsageError("publish of an Event: it has its own id, type and subject; change them there")
        now = self._clock()
        event = self._event(
            payload,
            new_ids(1, now)[0] if id is None else check_word("id", id),
            now,
            None if subject is None else check_word("subject", subject),
            None if event_type is None else check_word("type", event_type),
        )
        await self._send([event], timeout)
        return event.id

    async def publish_many(
        self, payloads: Iterable[object] | AsyncIterable[object], *, timeout: float | None = None
    ) -> int:
        """Publish many, in order, a batch at a time; returns how many. Waits for each batch: that is the backpressure.

        Payloads as for `publish`. On an error, its `accepted` says how many of the leading ones were stored.
        """
        accepted = 0
        try:
            async for chunk in chunks(payloads):
                now = self._clock()
                ids = new_ids(len(chunk), now)
                events = [self._event(p, i, now, None, None) for p, i in zip(chunk, ids, strict=True)]
                await self._send(events, timeout)
                accepted += len(chunk)
        except PublishError as e:
            e.accepted += accepted
            raise
        return accepted

    def _event(self, payload: object, event_id: str, now: float, subject: str | None, event_type: str | None) -> Event:
        """The event of a payload; the other attributes have been checked. Raises UsageError, EventTooLarge."""
        most = self.train.settings.max_event_bytes
        if isinstance(payload, Event):
            return checked(payload, most)
        ingress = self.train.handlers.get("")
        data, content_type = ingress.encode(payload) if ingress else encode(payload)
        kind = type_name(payload) if event_type is None else event_type
        return fitting(Event(event_id, kind, self.train.source, now, data, subject, content_type), most)

    async def _send(self, events: Sequence[Event], timeout: float | None) -> None:
        if not self._founded:
            await self.found()
        await self._switcher.publish(
            events, timeout=self.train.settings.publish_timeout if timeout is None else timeout
        )

    async def found(self) -> None:
        """See to it that the train exists and has its first wagon. Publishing does it by itself. Idempotent."""
        async with self._founding:
            if not self._founded:
                await self._switcher.found()
                self._founded = True
                if self.train.handlers and self.manifest.declared and (differs := self._differing()):
                    _logger.warning(
                        "train %s was declared differently (%s): what is published follows the train's own declaration",
                        self.train.name,
                        said(differs),
                    )

    # --- running --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, *, observe: bool = True, work: bool = True, wagon: int | None = None, workers: int | None = None
    ) -> AsyncIterator[None]:
        """While entered, this process observes the train, works for it, or both.

        With an orchestrator, that one gives wagons their workers, and this process does not work. With `wagon`, it works
        for that wagon alone, with `workers` workers (default: all of `Workers`), besides those that divide the work; and
        when that one is drained, for the wagon that takes over its warm workers (`reuse`), if one does.
        Leaving is graceful: handlers in flight finish (within `grace`), the rest is given back. Raises DeclarationDiffers,
        UsageError (a program without a handler for the ingress can't work).
        """
        work = work and self._orchestrator is None
        post = self._post(wagon, workers) if work else None
        if work and "" not in self.train.handlers:
            raise UsageError(
                f"train {self.train.name!r} has no handler for its ingress: add @train.on({self.train.name!r})"
            )
        if self._is_running:
            raise UsageError(f"this connection runs train {self.train.name!r} already; open another for more")
        await self._agree()
        does = {"observe": observe, "work": work and post is None, "serve": post is not None}
        roles = tuple(role for role, on in does.items() if on)
        membership = Membership(
            self.train.name,
            self.train.settings,
            self.train.handlers,
            self.broker,
            self.registry,
            self._switcher,
            name=self.name,
            roles=roles,
            clock=self._clock,
            tell=self._tell,
            post=post,
            revision=self.train.revision,
            orchestrator=self._orchestrator if observe else None,
        )
        self._membership = membership
        failure: Exception | None = None
        async with asyncio.TaskGroup() as tasks:
            owned = [tasks.create_task(membership.run())]
            if observe:
                observer = Observer(
                    self.train.name,
                    self.train.settings,
                    self.broker,
                    self.registry,
                    self._switcher,
                    orchestrator=self._orchestrator,
                    clock=self._clock,
                    tell=self._tell,
                )
                membership.on_check_in = observer.poke
                self._switcher.on_full.append(observer.poke)
                owned.append(tasks.create_task(observer.run()))
            self._is_running = True
            try:
                yield
            except Exception as e:  # noqa: BLE001 - the caller's own: raised below as it is, not wrapped in a group
                failure = e
            finally:
                self._is_running = False
                for task in reversed(owned):
                    task.cancel()
                if observe:
                    self._switcher.on_full.remove(observer.poke)
        if failure is not None:
            raise failure

    def _post(self, wagon: int | None, workers: int | None) -> tuple[int, int] | None:
        if wagon is None and workers is None:
            return None
        if wagon is None or wagon < 1 or (workers is not None and workers < 1):
            raise UsageError(
                f"wagon={wagon}, workers={workers}: give a wagon's number, and with it at least one worker"
            )
        own = self.train.settings.workers
        return wagon, workers or own.each or own.total or 1

    async def released(self, number: int) -> None:
        """Return when the workers of wagon `number` are not needed any more: it is drained, failed or removed, and no other
        has taken them over."""
        await self._switcher.until(
            lambda m: m.next_number > number and all(w.unit != number for w in m.in_state(*LIVE))
        )

    async def _agree(self) -> None:
        """Found the train, or hold this program's declaration against the one it was founded with."""
        await self._switcher.found()
        self._founded = True
        await self._switcher.refresh()
        declared, channels = self.train.settings.declared(), self.train.channels
        differs = self._differing()
        if not differs:
            return
        if self.manifest.declared and not self._redeclare:
            raise DeclarationDiffers(
                f"train {self.train.name!r} was declared differently: {said(differs)}. Make the programs agree, or "
                "declare it anew with redeclare=True (--redeclare)"
            )
        fact = Declared(train=self.train.name, settings=declared, channels=channels)

        def edit(m: Manifest) -> Plan:
            return Plan(msgspec.structs.replace(m, declared=declared, channels=channels), (fact,))

        await self._switcher.settle(edit)

    def _differing(self) -> dict[str, tuple[str, str]]:
        return differing(self.manifest, self.train.settings, self.train.channels)

    async def stopped(self) -> None:
        """Return when the train's processes are asked to end (`request_stop`)."""
        await self._switcher.until(lambda m: m.stops > self._stops)

    # --- by hand --------------------------------------------------------------------------

    async def request_switch(
        self, why: str = "by hand", *, revision: str | None = None, watch_errors: float | None = None
    ) -> int:
        """Ask for a switch now, whatever the limit says; an observer carries it out. Returns the number of the wagon that
        was active. Idempotent until it is done.

        With `revision`, the next wagon and those after it run that code, and the switch is made when such a wagon is ready.
        If none gets ready it is given up. With `watch_errors`, a share above 0 and at most 1, the train goes back by itself
        when more than that of the new wagon's handlings fail, out of twenty or more. Raises UsageError.
        """
        if watch_errors is not None and (revision is None or not 0 < watch_errors <= 1):
            raise UsageError(f"watch_errors={watch_errors}: give a share above 0 and at most 1, and a revision")
        await self.found()
        before = (await self._switcher.refresh()).manifest.active
        request = Request(why, self._clock(), revision, watch_errors)
        await self._switcher.settle(lambda m: switch_asked(m, request))
        assert before is not None  # noqa: S101 - `found` saw to it
        return before.number

    async def request_stop(self, why: str = "by hand") -> None:
        """Ask every process that runs this train (`running`) to end gracefully. Events go on being stored."""
        fact = StopRequested(train=self.train.name, because=why)
        await self._switcher.refresh()
        await self._switcher.settle(lambda m: Plan(msgspec.structs.replace(m, stops=m.stops + 1), (fact,)))

    async def wait_switched(self, number: int) -> int:
        """Return when wagon `number` is no longer the active one: the number of the one that is."""
        manifest = await self._switcher.until(lambda m: m.active is not None and m.active.number != number)
        return manifest.active.number if manifest.active else 0

    async def wait_answered(self) -> int:
        """Return when no switch is asked for any more, done or given up: the number of the active wagon."""
        manifest = await self._switcher.until(lambda m: m.request is None and m.active is not None)
        return manifest.active.number if manifest.active else 0

    async def wait_drained(self, number: int) -> None:
        """Return when wagon `number` is drained and removed, and all that took events before it; numbers are not always the order. Spares
        don't count."""
        await self._switcher.until(gone_by(self.manifest, number))

    # --- seeing ---------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The newest manifest that this process has seen."""
        return self._switcher.snapshot.manifest

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """What this process's own workers do, wagon by wagon; none where it does not work."""
        return self._membership.attachments if self._membership is not None and self._is_running else ()

    async def refresh(self) -> Snapshot:
        """Read the manifest from the registry."""
        return await self._switcher.refresh()

    async def members(self) -> Sequence[Member]:
        """The processes of the train that are alive."""
        return await self.registry.members(self.train.name)

    async def depths(self) -> Mapping[int, Mapping[str, Depth]]:
        """What stands in each live wagon: by number, then by channel name (the ingress's is empty, `dead` its dead letters)."""
        manifest = self.manifest
        channels = [c for w in manifest.wagons for c in (*manifest.working_channels(w), manifest.dead_letters(w))]
        found: dict[int, dict[str, Depth]] = {w.number: {} for w in manifest.wagons}
        if channels:
            for channel, depth in zip(channels, await self.broker.depth(channels), strict=True):
                found[channel.wagon][channel.name] = depth
        return found

    def journal(self, *, last: int | None = None) -> AsyncIterator[Entry]:
        """What was decided and what happened, oldest first, with the figures; with `last`, only the newest."""
        return self.registry.entries(self.train.name, last=last)

    async def dead_letters(self) -> AsyncIterator[Event]:
        """All dead letters that are kept: those moved out of removed wagons, then those in live ones.

        Why, where and when each died stand in its extensions `deadbecause`, `deadchannel`, `deadwagon`, `deadattempts`,
        `deadat`. The same id may come twice after a crash.
        """
        live = [self.manifest.dead_letters(w) for w in self.manifest.wagons]
        for channel in (Channel(self.train.name, 0, DEAD), *live):
            try:
                async for event in self.broker.read(channel):
                    yield event
            except ChannelGone:
                continue

    def _tell(self, fact: Fact) -> None:
        for listener in self._listeners:
            listener(fact)
