"""The train: what a program declares, and its connection to where it runs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self, TypeVar

import msgspec

from .broker import Broker, Depth
from .drivers import open_drivers
from .errors import ChannelGone, DeclarationDiffers, EventTooLarge, PublishError, UsageError
from .event import DEAD, Channel, Event, check_channel_name, check_train_name, new_ids
from .facts import Declared, Entry, Fact, Listener, StopRequested, SwitchRequested, log
from .limits import Limit
from .manifest import Manifest, Request
from .member import Membership, wagon_workers
from .observer import Observer
from .orchestrator import Orchestrator
from .payload import caller_names, encode, shape, type_name
from .registry import Member, Registry, Snapshot
from .settings import AtCap, Settings, make_settings
from .steps import LIVE, Plan
from .switcher import Switcher
from .worker import Handler
from .workers import Workers

_F = TypeVar("_F", bound=Callable[..., Any])
_CHUNK = 500
_logger = logging.getLogger("eventwagon")


class Train:
    """One logical flow: its name, its limit, its workers and its handlers. Declaring one does nothing yet.

    `limit` says when a wagon is full, `workers` who works, `spares` how many READY wagons are kept ahead; every further
    setting is a field of `Settings`, which has the units, the defaults and the reasons. `source` is the CloudEvents
    source of what is published (default: `/eventwagon/` and the name). Raises UsageError for a bad name or setting.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: Limit | None = None,
        workers: Workers | None = None,
        spares: int | None = None,
        at_cap: AtCap | None = None,
        source: str | None = None,
        **settings: Any,
    ) -> None:
        self.name = check_train_name(name)
        given = {"limit": limit, "workers": workers, "spares": spares, "at_cap": at_cap}
        self.settings: Settings = make_settings(**{k: v for k, v in given.items() if v is not None}, **settings)
        self.source = source or f"/eventwagon/{name}"
        self.handlers: dict[str, Handler] = {}
        """By inner channel name; the ingress's under the empty name."""

    def on(self, channel: str) -> Callable[[_F], _F]:
        """Register a handler: `@train.on("user_registrations")` (the train's own name: its ingress) or of an inner channel.

        The handler is `(payload)` or `(payload, ctx)`, sync (runs in a thread) or async; the payload's type is its
        annotation. It returns nothing; raising makes the event be tried again, `Reject` sends it to the dead letters.
        Declare channels in the order of the choreography, parents first. Raises UsageError.
        """
        name = "" if channel == self.name else check_channel_name(channel)
        if name in self.handlers:
            raise UsageError(f"train {self.name!r} has a handler for {channel!r} already: {self.handlers[name].name}")
        names = caller_names(1)

        def register(function: _F) -> _F:
            self.handlers[name] = Handler(name, function, shape(function, names))
            return function

        return register

    @property
    def channels(self) -> tuple[str, ...]:
        """The inner channels, in the order of their declaration."""
        return tuple(name for name in self.handlers if name)

    def connect(
        self,
        url: str | None = None,
        *,
        broker: Broker | None = None,
        registry: Registry | None = None,
        orchestrator: Orchestrator | None = None,
        listeners: Sequence[Listener] = (log,),
        clock: Callable[[], float] = time.time,
        redeclare: bool = False,
    ) -> Connection:
        """A connection to where the train runs, to be entered with `async with`.

        `url` names broker and registry (`sqlite:///var/trains`); or give both as objects. `orchestrator` gives wagons
        their workers; without one, processes that work attach by themselves. `listeners` hear of every fact.
        `redeclare`: make this program's settings the train's, where another has declared it differently.
        Raises UsageError.
        """
        if (url is None) == (broker is None or registry is None):
            raise UsageError("connect: give a URL, or a broker and a registry")
        if url is not None:
            made = open_drivers(url, clock=clock)
            broker, registry = broker or made.broker, registry or made.registry
        assert broker is not None and registry is not None  # noqa: S101, PT018 - for the type checker
        return Connection(self, broker, registry, orchestrator, listeners, clock, redeclare)

    @asynccontextmanager
    async def working(
        self, url: str, *, listeners: Sequence[Listener] = (log,), clock: Callable[[], float] = time.time
    ) -> AsyncIterator[tuple[Broker, Orchestrator]]:
        """The broker at `url`, and workers of this process at the wagons that they are told of: what the processes run
        that an orchestrator starts. They follow no manifest; each wagon has its spec's number of workers.

        Leaving is graceful, as of `Connection.running`. Raises UsageError, Unavailable, StorageBroken.
        """

        def tell(fact: Fact) -> None:
            for listener in listeners:
                listener(fact)

        async with (
            open_drivers(url, clock=clock).broker as broker,
            wagon_workers(self.name, self.settings, self.handlers, broker, shared=False, clock=clock, tell=tell) as (
                _,
                local,
            ),
        ):
            yield broker, local


class Connection:
    """A train where it runs. Made by `Train.connect`; enter it before use."""

    def __init__(
        self,
        train: Train,
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
        )
        self._founded = False
        self._is_running = False
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
        as it is. `subject` is the key. Give `id` to publish again what was uncertain: the same id marks a duplicate.
        `timeout` in seconds, default `publish_timeout`. Raises UsageError, EventTooLarge, TrainFull, PublishTimeout,
        StorageBroken.
        """
        event = self._event(payload, id or new_ids(1, self._clock())[0], self._clock(), subject, event_type)
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
            async for chunk in _chunks(payloads):
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
        if isinstance(payload, Event):
            event = payload
            if not math.isfinite(event.time):
                raise UsageError(f"event {event.id}: its time is {event.time}")
        else:
            data, content_type = encode(payload)
            event = Event(
                event_id, event_type or type_name(payload), self.train.source, now, data, subject, content_type
            )
        if event.size > self.train.settings.max_event_bytes:
            raise EventTooLarge(
                f"event {event.id} has {event.size:,} bytes, more than max_event_bytes="
                f"{self.train.settings.max_event_bytes:,}: send a reference to the data, or raise the setting"
            )
        return event

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
                if self.train.handlers and self.manifest.declared and (differing := self._differing()):
                    _logger.warning(
                        "train %s was declared differently (%s): what is published follows the train's own declaration",
                        self.train.name,
                        _said(differing),
                    )

    # --- running --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, *, observe: bool = True, work: bool = True, wagon: int | None = None, workers: int | None = None
    ) -> AsyncIterator[None]:
        """While entered, this process observes the train, works for it, or both.

        With an orchestrator, that one gives wagons their workers, and this process does not work. With `wagon`, it works
        for that wagon alone, with `workers` workers (default: all of `Workers`), besides those that divide the work.
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
            orchestrator=self._orchestrator if observe else None,
        )
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
            finally:
                self._is_running = False
                for task in reversed(owned):
                    task.cancel()
                if observe:
                    self._switcher.on_full.remove(observer.poke)

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
        """Return when wagon `number` needs no workers any more: drained, failed or removed."""
        await self._until(lambda m: m.next_number > number and ((w := m.wagon(number)) is None or w.state not in LIVE))

    async def _agree(self) -> None:
        """Found the train, or hold this program's declaration against the one it was founded with."""
        await self._switcher.found()
        self._founded = True
        await self._switcher.refresh()
        declared, channels = self.train.settings.declared(), self.train.channels
        differing = self._differing()
        if not differing:
            return
        if self.manifest.declared and not self._redeclare:
            raise DeclarationDiffers(
                f"train {self.train.name!r} was declared differently: {_said(differing)}. Make the programs agree, or "
                "declare it anew with redeclare=True (--redeclare)"
            )
        fact = Declared(train=self.train.name, settings=declared, channels=channels)

        def edit(m: Manifest) -> Plan:
            return Plan(msgspec.structs.replace(m, declared=declared, channels=channels), (fact,))

        await self._switcher.settle(edit)

    def _differing(self) -> dict[str, tuple[str, str]]:
        """What the train was declared with and what this program says, where they differ."""
        theirs = {**self.manifest.declared, "channels": ", ".join(self.manifest.channels)}
        ours = {**self.train.settings.declared(), "channels": ", ".join(self.train.channels)}
        return {name: (theirs.get(name, ""), value) for name, value in ours.items() if theirs.get(name, "") != value}

    async def stopped(self) -> None:
        """Return when the train's processes are asked to end (`request_stop`)."""
        await self._until(lambda m: m.stops > self._stops)

    async def _until(self, true: Callable[[Manifest], bool]) -> None:
        changed = asyncio.Event()

        def look(_: Snapshot) -> None:
            changed.set()

        self._switcher.on_change.append(look)
        try:
            while not true(self._switcher.snapshot.manifest):
                changed.clear()
                await changed.wait()
        finally:
            self._switcher.on_change.remove(look)

    # --- by hand --------------------------------------------------------------------------

    async def request_switch(self, why: str = "by hand") -> int:
        """Ask for a switch now, whatever the limit says; an observer carries it out. Returns the number of the wagon that
        was active. Idempotent until it is done."""
        await self.found()
        now = self._clock()
        before = (await self._switcher.refresh()).manifest.active
        fact = SwitchRequested(train=self.train.name, because=why)

        def edit(m: Manifest) -> Plan:
            if m.request is not None:
                return Plan(m)
            return Plan(msgspec.structs.replace(m, request=Request(why, now)), (fact,))

        await self._switcher.settle(edit)
        assert before is not None  # noqa: S101 - `found` saw to it
        return before.number

    async def request_stop(self, why: str = "by hand") -> None:
        """Ask every process that runs this train (`running`) to end gracefully. Events go on being stored."""
        fact = StopRequested(train=self.train.name, because=why)
        await self._switcher.refresh()
        await self._switcher.settle(lambda m: Plan(msgspec.structs.replace(m, stops=m.stops + 1), (fact,)))

    async def wait_switched(self, number: int) -> int:
        """Return when wagon `number` is no longer the active one: the number of the one that is."""
        await self._until(lambda m: m.active is not None and m.active.number != number)
        active = self._switcher.snapshot.manifest.active
        return active.number if active else 0

    async def wait_drained(self, number: int) -> None:
        """Return when every wagon up to `number` is drained and removed."""
        await self._until(lambda m: all(w.number > number for w in m.wagons))

    # --- seeing ---------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The newest manifest that this process has seen."""
        return self._switcher.snapshot.manifest

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


def _said(differing: Mapping[str, tuple[str, str]]) -> str:
    return "; ".join(
        f"{name}={theirs or 'none'} there, {ours or 'none'} here" for name, (theirs, ours) in differing.items()
    )


async def _chunks(payloads: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[list[object]]:
    chunk: list[object] = []
    if isinstance(payloads, AsyncIterable):
        async for payload in payloads:
            chunk.append(payload)
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    else:
        for payload in payloads:
            chunk.append(payload)
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
