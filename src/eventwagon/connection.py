"""A program's connection to a train: to publish to it, run it, control it and watch it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, Protocol, Self, TypeVar, cast

import msgspec

from .archives.opening import open_archive
from .archives.past import past_events
from .contracts.broker import Broker, Depth
from .contracts.facts import Declared, Entry, Listener, StopRequested
from .contracts.ledger import Ledger, WagonRecord
from .contracts.lifecycle import LIVE
from .contracts.manifest import RULE, Manifest, Pause, Request, gone_by
from .contracts.metering import Meter, ProcessFigures
from .contracts.orchestrator import Delivering, Deployment, InSteps, Orchestrator
from .contracts.process import this_user
from .contracts.registry import Member, Registry, Snapshot
from .contracts.replay import EventSource
from .contracts.timetable import Waiting, timetable_of
from .descriptors import needed
from .display.redaction import redacted
from .display.text import said, span
from .errors import (
    DeclarationDiffers,
    EventwagonError,
    PublishError,
    PublishTimeout,
    PublishUncertain,
    Unavailable,
    UsageError,
)
from .event import CheckedEvents, Event, check_word, checked, fitting, new_ids, wagon_name
from .payload import encode, type_name
from .policy.edits import Edit, archive_declared, differences, differing, once_declared, switch_asked, switch_withdrawn
from .policy.pausing import Heedless, heedless, paused, resumed
from .policy.record_filter import RecordFilter
from .policy.recorded import ELSEWHERE, recording_declared
from .runtime.bulkhead import Bulkhead, is_ours
from .runtime.counting import Counters
from .runtime.dead_letters import kept
from .runtime.depths import depths_of
from .runtime.due_events import DueEvents
from .runtime.feeding import Feeder
from .runtime.handler import Handler
from .runtime.ids import NewIds
from .runtime.later import Later
from .runtime.lifespan import Opening
from .runtime.listeners import Telling
from .runtime.membership import Membership
from .runtime.middleware import Middleware, publish_through
from .runtime.observed import Metering, observed
from .runtime.observer import Observer
from .runtime.once import once_for
from .runtime.payload_batches import Attributes, Make, batches, check_payloads
from .runtime.publish_settings import PublishSettings
from .runtime.publisher import TrainPublisher
from .runtime.reach import Reach
from .runtime.replaying import Replays
from .runtime.retrying import DeadLetters
from .runtime.runtime import Runtime
from .runtime.switcher import Switcher
from .runtime.tasks import InOwnTask, kept_up
from .runtime.teardown import RemovedTrain, Teardown
from .runtime.ticking import Ticking
from .runtime.train_state import TrainState
from .runtime.undos import Undos
from .runtime.wagon_channels import WagonChannels
from .schedules import Schedule, check_channels
from .seldom import Seldom, counted_in
from .settings import Settings
from .times import When, when
from .tracing import switch_traces
from .values import check_revision, is_a, real, shown, text, whole

_logger = logging.getLogger("eventwagon")

Payload = TypeVar("Payload")

_LONGEST = 1e9
"""Seconds; a longer timeout is a mistake."""
_FOUNDING = 1.0
"""Seconds for which callers wait while another caller in this process founds the train, before one does so too."""
_PAUSE = 0.1
"""Seconds before founding is retried while the broker or registry can't be reached."""


class Declaration(Protocol):
    """What a connection needs to know of a train: a `Train` is one."""

    name: str
    settings: Settings
    source: str
    handlers: dict[str, Handler]
    undo_handlers: dict[str, Handler]
    opening: Opening | None
    around_publishing: list[Middleware]
    revision: str
    schedules: dict[str, Schedule]

    @property
    def channels(self) -> tuple[str, ...]:
        """The inner channels, in the order of their declaration."""
        ...


def check_runnable(train: Declaration, *, observe: bool, work: bool) -> None:
    """Whether a program with this declaration can observe the train, or work for it. Raises UsageError."""
    if work and "" not in train.handlers:
        raise UsageError(f"train {train.name!r} has no handler for its ingress: add @train.on({train.name!r})")
    if observe:
        check_channels(train.schedules.values(), train.handlers)


class Connection:
    """A train, connected to its broker and registry. Made by `Train.connect`; enter it once, before use.

    It belongs to the event loop that enters it: any task of that loop may use and close it. All methods raise
    UsageError when called from another loop or thread or in a forked process, and Unavailable while it is not open. A
    method without a timeout that calls the broker or registry raises Unavailable if there is no answer within
    `publish_timeout`. Methods that wait for something to happen (`wait_…`, `stopped`, `released`) have no time limit.
    """

    def __init__(
        self,
        train: Declaration,
        broker: Broker,
        registry: Registry,
        orchestrator: Orchestrator | None,
        listeners: Sequence[Listener],
        clock: Callable[[], float],
        redeclare: bool,
        meter: Meter | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        bounded = [name or train.name for name, handler in train.handlers.items() if handler.options.is_bounded]
        given: object = orchestrator
        if bounded and isinstance(given, Delivering):
            raise UsageError(
                f"handler of {bounded[0]!r}: {given.platform} delivers the events by itself, so concurrency=, "
                "rate= and budget= can't be kept to: leave them out, or use another orchestrator"
            )
        if train.settings.once is not None and isinstance(given, Delivering):
            raise UsageError(
                f"train {train.name!r}: {given.platform} delivers the events by itself, so once= can't be kept to: "
                "leave it out, or use another orchestrator"
            )
        if train.undo_handlers and isinstance(given, Delivering):
            raise UsageError(
                f"train {train.name!r}: {given.platform} delivers the events by itself, and knows handlers only: leave "
                "@train.undo out, or use another orchestrator"
            )
        self.train = train
        self.broker = broker
        self.registry = registry
        self.name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}"
        """This process's name among the members and in the journal."""
        self._orchestrator = orchestrator
        self._clock = clock
        self._bulkhead = Bulkhead(train.name)
        self._redeclare = redeclare
        self._life: Literal["new", "opening", "open", "closed"] = "new"
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the connection belongs to, while it is open."""
        self._process = os.getpid()
        self._ids = NewIds()
        self._opened: InOwnTask[None] | None = None
        metering = Metering.of(meter, train.name)
        settings = (
            train.settings.orchestrated(orchestrator.step) if isinstance(orchestrator, InSteps) else train.settings
        )
        self.publishing = PublishSettings(settings)
        """The settings by which this connection publishes: `publishing.now`."""
        self._reached = Seldom(2)
        self._runtime = Runtime(
            train=train.name,
            settings=settings,
            publishing=self.publishing,
            broker=observed(broker, metering),
            clock=clock,
            tell=Telling(train.name, listeners if metering is None else [*listeners, metering.heard]),
            bulkhead=self._bulkhead,
            handlers=train.handlers,
            undo_handlers=train.undo_handlers,
            opening=train.opening,
            name=self.name,
            revision=train.revision,
            orchestrator=orchestrator,
            timetable=timetable_of(broker, registry),
            once=once_for(train.name, train.settings, train.handlers, broker, registry),
            metering=metering,
            ledger=ledger,
            counters=None if ledger is None else Counters(),
            switch_traces=switch_traces(train.around_publishing),
            archives=open_archive,
            reach=Reach(self._tell_reached),
        )
        self._state = TrainState(self._runtime, registry)
        self._later = Later(self._runtime, self._state)
        self._channels = WagonChannels(self._runtime, self._state)
        self._switcher = Switcher(self._runtime, self._state)
        self._dead = DeadLetters(self._runtime, self._state, self._switcher, here=self._here, asked=_asked)
        url = train.settings.archive
        past: EventSource | None = past_events(url, train.name, self._runtime.archives)
        self._past = past
        self._replays = Replays(
            self._runtime, self._state, past, here=self._here, asked=_asked, answering=self._answering
        )
        self._undos = Undos(
            self._runtime,
            self._state,
            past,
            self._replays,
            here=self._here,
            asked=_asked,
            answering=self._answering,
        )
        self._founded = False
        self._runs = False
        self._is_running = False
        self._observer: Observer | None = None
        self._due_events: DueEvents | None = None
        self._membership: Membership | None = None
        self._founding = asyncio.Lock()

    def __repr__(self) -> str:
        runs = ", running" if self._runs else ""
        return f"<Connection of {self.train.name} to {type(self.broker).__name__}: {self._life}{runs}>"

    async def __aenter__(self) -> Self:
        if self._life != "new":
            raise UsageError(
                f"this connection to train {self.train.name!r} was entered before: make another with `connect`"
            )
        self._life = "opening"
        try:
            opened = InOwnTask(self._open(), f"the connection to train {self.train.name!r}")
            with needed(f"train {self.train.name}"):
                await opened.__aenter__()
        except BaseException:
            self._life = "new"
            raise
        self._opened, self._loop, self._process = opened, asyncio.get_running_loop(), os.getpid()
        self._life = "open"
        self._stops = self._state.snapshot.manifest.stops
        return self

    async def __aexit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        if self._life == "open" and self._opened is not None:
            self._here()
            self._life, self._loop = "closed", None
            await self._opened.__aexit__(kind, *exc)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._runtime.broker)
            await stack.enter_async_context(self.registry)
            if self._runtime.ledger is not None:
                await stack.enter_async_context(self._runtime.ledger)
            if self._orchestrator is not None:
                await stack.enter_async_context(self._orchestrator)
            async with self._answering():
                await stack.enter_async_context(self._state)
                await stack.enter_async_context(self._switcher)
            if self._runtime.metering is not None:
                stack.enter_context(self._runtime.metering.joined(self.broker, self.train.revision, self._figures))
            yield

    def _tell_reached(self, after: float) -> None:
        """The warnings of what failed meanwhile do not say when it is over."""
        left_out = self._reached.left_out("reached")  # a server may be slow at each call
        if left_out is not None:
            text = f"{self.train.name}: the broker or the registry answers again, after {span(after)}"
            _logger.info("%s", counted_in(text, left_out))

    def _figures(self) -> ProcessFigures:
        """What this connection does now, for its meter. From any thread."""
        membership, observer = self._membership if self._is_running else None, self._observer
        return msgspec.structs.replace(
            ProcessFigures() if membership is None else membership.figures,
            publishers_held=self._switcher.held,
            look_age=None if observer is None else observer.look_age,
        )

    def _here(self) -> asyncio.AbstractEventLoop:
        """The running event loop, which must be the one that this connection belongs to. Raises UsageError,
        Unavailable."""
        loop = asyncio._get_running_loop()
        if loop is None or loop is not self._loop:
            raise self._misused()
        return loop

    def _misused(self) -> EventwagonError:
        this = f"this connection to train {self.train.name!r}"
        if os.getpid() != self._process:
            return UsageError(f"{this} belongs to process {self._process}: open another one after a fork")
        match self._life:
            case "new" | "opening":
                return Unavailable(f"{this} is not open: enter it with `async with`")
            case "closed":
                return Unavailable(f"{this} is closed: make another one with `connect`")
            case "open":
                return UsageError(
                    f"{this} belongs to another event loop: use it there (asyncio.run_coroutine_threadsafe), or open "
                    "another one in this one"
                )

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Limit calls to the broker and registry that have no deadline of their own. Raises Unavailable."""
        seconds = self.train.settings.publish_timeout
        try:
            async with asyncio.timeout(seconds) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise Unavailable(
                f"train {self.train.name}: no answer from the broker or the registry within {seconds:g} s"
            ) from None

    # --- publishing -----------------------------------------------------------------------

    async def publish(
        self,
        payload: object,
        *,
        subject: str | None = None,
        event_type: str | None = None,
        id: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
        timeout: float | None = None,
        at: datetime | float | None = None,
        after: timedelta | float | None = None,
    ) -> str:
        """Publish one event to the active wagon. Returns its id once the broker has stored it.

        `payload` is any value that JSON can hold (dataclass, msgspec Struct, attrs, Pydantic …), `bytes`, or an
        `Event`, which is sent unchanged. If this program has the handler of the ingress, the payload must be of that
        handler's type. `subject` is the key. After an uncertain result, publish again with the same `id`: it marks the
        duplicate. `timeout` is in seconds, default `publish_timeout`. Raises UsageError, EventRefused (EventTooLarge is
        one), TrainFull, TrainPaused, TrainRemoved, PublishTimeout, StorageBroken, and PublishError when the broker's
        driver fails in an unforeseen way.

        With `at` (an aware datetime, or seconds since the epoch) or `after` (seconds, or a timedelta) the event is kept
        until then and published by an observer; its `time` is when it is due. It returns once the event is kept, and
        `cancel` takes the id. A time that is over means now. See docs/later.md.
        """
        later = None if at is None and after is None else when(at, after)
        event = self._made(payload, subject, event_type, id)
        if later is not None:
            event = self._due(event, later, gets_id=id is None and event is not payload)
            await self._keep(event, later, timeout)
            return event.id
        await self._send([event], timeout)
        return event.id

    def _made(self, payload: object, subject: str | None, event_type: str | None, event_id: str | None) -> Event:
        """The event of one `publish`. From any thread. Raises UsageError, EventTooLarge."""
        if (event_id is not None or subject is not None or event_type is not None) and is_a(payload, Event):
            raise UsageError("publish of an Event: it has its own id, type and subject; change them there")
        now = self._clock()
        return self._event(
            payload,
            self._ids.next(now) if event_id is None else check_word("id", event_id),
            now,
            None if subject is None else check_word("subject", subject),
            None if event_type is None else check_word("type", event_type),
        )

    def _due(self, event: Event, later: When, *, gets_id: bool) -> Event:
        """The event with the time at which it is due, by this process's clock; an id that nobody has chosen has that
        time too. Raises UsageError."""
        due = later.due(self._clock())
        return msgspec.structs.replace(event, time=due, id=self._ids.next(due) if gets_id else event.id)

    async def _keep(self, event: Event, later: When, timeout: float | None) -> None:
        """Keep the event until it is due, inside of the middleware."""
        deadline = self._here().time() + (
            self.train.settings.publish_timeout if timeout is None else check_timeout(timeout)
        )
        _ = self._later.timetable  # without one, refuse before anything is founded

        async def keep(events: Sequence[Event]) -> None:
            if not self._founded:
                await self._found_by(deadline)
            if not await self._later.keep(later, events[0], deadline):
                await self._switcher.publish(events, deadline=deadline)
            elif self._due_events is not None:
                self._due_events.wake()

        around = self.train.around_publishing
        if around:
            await publish_through(around, keep, [event], self.publishing.now.max_event_bytes)
        else:
            await keep([event])

    async def publish_many(
        self,
        payloads: Iterable[Payload] | AsyncIterable[Payload],
        *,
        subject: Callable[[Payload], str | None] | None = None,
        id: Callable[[Payload], str] | None = None,  # noqa: A002 - as in `publish`
        timeout: float | None = None,
    ) -> int:
        """Publish many events, in order, batch by batch. Returns their number. It waits for each batch; this is the
        backpressure.

        Payloads are as for `publish`. `subject` and `id` are functions that return the attribute for a payload; where
        `subject` returns None, the event has none. A batch has at most `publish_batch` events and about 1 MiB. An
        asynchronous iterable is read in a task of its own, which stops reading while a batch is being sent. Items of a
        slow iterable are sent within 0.1 s, however few. The iterable is closed at the end, also on errors. A plain
        iterable that blocks in `next` blocks the event loop. `timeout`, in seconds, applies to each batch, from the
        moment it is sent.

        The attribute `accepted` of every exception is the number of leading payloads that were stored. This holds for
        the errors of `publish`, for exceptions of the iterable, of `subject` and of `id` (which also get a note; that
        of the functions names the payload's index), and for CancelledError (the batch being sent may still be stored;
        `asyncio.timeout` puts the CancelledError in the `__cause__` of its TimeoutError). If a payload can't be
        published, or the iterable or a function fails, all payloads before it are stored first. To be able to publish
        again after an uncertain result, give `id`, or pass Events: their ids stay the same.
        """
        self._here()
        check_payloads(payloads)
        if timeout is not None:
            check_timeout(timeout)
        make, accepted = self._making(payloads, subject, id), 0
        try:
            async with aclosing(batches(payloads, make, self.train.settings.publish_batch)) as made:
                async for events in made:
                    try:
                        await self._send(events, timeout)
                    except BaseException as e:
                        accepted += accepted_by(e)
                        raise
                    accepted += len(events)
        except BaseException as e:
            say_accepted(e, accepted)
            raise
        return accepted

    def _making(
        self, payloads: object, subject: Callable[[Any], str | None] | None, event_id: Callable[[Any], str] | None
    ) -> Make:
        """The function that makes the events of one `publish_many`. Raises UsageError."""
        if subject is None and event_id is None:
            most = self.publishing.now.max_event_bytes
            return cast("Make", iter) if type(payloads) is CheckedEvents and payloads.most <= most else self._events
        attributes = Attributes(subject, event_id)

        def make(payloads: Sequence[object]) -> Iterator[Event]:
            now = self._clock()
            for payload, new in zip(payloads, new_ids(len(payloads), now), strict=True):
                own, about = attributes.of(payload)
                yield self._event(payload, own or new, now, about, None)

        return make

    def _events(self, payloads: Sequence[object]) -> Iterator[Event]:
        if set(map(type, payloads)) == {Event}:  # they have ids
            most = self.publishing.now.max_event_bytes
            return (checked(event, most) for event in cast("Sequence[Event]", payloads))
        now = self._clock()
        ids = new_ids(len(payloads), now)
        return (self._event(payload, own, now, None, None) for payload, own in zip(payloads, ids, strict=True))

    def _event(self, payload: object, event_id: str, now: float, subject: str | None, event_type: str | None) -> Event:
        """The event for a payload; the other attributes have been checked already. Raises UsageError, EventTooLarge."""
        most = self.publishing.now.max_event_bytes
        if issubclass(type(payload), Event):
            return checked(cast("Event", payload), most)
        ingress = self.train.handlers.get("")
        data, content_type = ingress.encode(payload) if ingress else encode(payload)
        kind = type_name(payload) if event_type is None else event_type
        return fitting(Event(event_id, kind, self.train.source, now, data, subject, content_type), most)

    async def _send(self, events: Sequence[Event], timeout: float | None, *, surrounded: bool = False) -> None:
        """Store the events, inside of the middleware unless that surrounds the call."""
        if self.train.around_publishing and not surrounded:
            store = partial(self._send, timeout=timeout, surrounded=True)
            await publish_through(self.train.around_publishing, store, events, self.publishing.now.max_event_bytes)
            return
        loop = asyncio._get_running_loop()  # `_here` inlined: every publish comes through here
        if loop is None or loop is not self._loop:
            raise self._misused()
        seconds = self.train.settings.publish_timeout if timeout is None else check_timeout(timeout)
        deadline = loop.time() + seconds
        if not self._founded:
            await self._found_by(deadline)
        await self._switcher.publish(events, deadline=deadline)

    async def _found_by(self, deadline: float) -> None:
        """Found the train; retry while the broker or registry can't be reached. Raises PublishError, and whatever
        founding raises."""
        why = "no answer"
        patience = (deadline - asyncio.get_running_loop().time()) / 2
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._found(min(_FOUNDING, patience))
                    except (Unavailable, PublishUncertain, TimeoutError) as e:
                        why = str(e)
                    except asyncio.CancelledError as e:
                        if is_ours(e):
                            raise
                        # something that a driver awaited was cancelled
                        self._bulkhead.report("founding the train", e)
                    await asyncio.sleep(_PAUSE)
        except EventwagonError:
            raise
        except TimeoutError:
            raise PublishTimeout(
                f"train {self.train.name}: it was not founded in time, no event was stored: {why}"
            ) from None
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report("founding the train", e)
            raise PublishError(f"train {self.train.name} can't be founded, no event was stored: {said(e)}") from e

    async def found(self) -> None:
        """Create the train with its first wagon, unless it exists. Publishing does this by itself. Idempotent."""
        self._here()
        async with self._answering():
            await self._found()

    async def _found(self, patience: float = _FOUNDING) -> None:
        """One caller founds the train while the others wait. After `patience` seconds another one does so too, since
        the first may hang; any number may do it at once."""
        while not self._founded:
            turn = self._founding
            try:
                async with asyncio.timeout(patience):
                    await turn.acquire()
            except TimeoutError:
                if self._founding is turn:
                    self._founding = asyncio.Lock()
                continue
            try:
                if not self._founded:
                    await self._channels.bootstrap()
                    self._founded = True
                    self._warn_of_differences()
            finally:
                turn.release()

    def _warn_of_differences(self) -> None:
        if self.train.handlers and self.manifest.declared and (differs := self._differing()):
            _logger.warning(
                "train %s was declared differently (%s): publishing follows the train's own declaration",
                self.train.name,
                differences(differs),
            )

    async def cancel(self, event_id: str) -> bool:
        """Cancel an event that was published with `at` or `after`, or emitted with `after`. Returns True if it waited:
        it will not be published. Returns False if no such event waits, or if its publishing has begun: it may be
        handled. Idempotent. Raises UsageError, also if nothing keeps events for later."""
        event_id = check_word("id", event_id)
        self._here()
        async with self._answering():
            return await self._later.cancel(event_id)

    async def later(self) -> Waiting:
        """How many events wait for their time, and when the next is due. Raises UsageError if nothing keeps events for
        later."""
        self._here()
        async with self._answering():
            return await self._later.waiting()

    def later_events(self) -> AsyncIterator[Event]:
        """The events that wait for their time, the earliest first; `time` is when each is due. Raises UsageError if
        nothing keeps events for later."""
        self._here()
        return self._later.entries()

    async def ticks(self) -> Mapping[str, float]:
        """The latest tick that was recorded of each schedule (`Train.every`), by the schedule's name, in seconds since
        the epoch: those of other programs too. Raises UsageError if nothing keeps events for later."""
        self._here()
        async with self._answering():
            return await self._later.ticks()

    # --- running --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(
        self, *, observe: bool = True, work: bool = True, wagon: int | None = None, workers: int | None = None
    ) -> AsyncIterator[None]:
        """While entered, this process observes the train, works for it, or both.

        With an orchestrator, the orchestrator starts the workers, and this process does not work. With `wagon`, this
        process works for that wagon only, with `workers` workers (default: all of `Workers`), in addition to the
        processes that share the workers. Once that wagon is drained, it works for the wagon that takes over its warm
        workers (`reuse`), if any.

        Leaving is graceful: handlers in flight finish (within `grace`), other claimed events are given back. If the
        tasks of `running` are cancelled from outside, the task that entered it is cancelled too, and leaving raises
        EndedEarly. Raises DeclarationDiffers, and UsageError if this process should work but the program has no handler
        for the ingress, or if entered twice."""
        self._here()
        work = work and self._orchestrator is None
        post = self._post(wagon, workers) if work else None
        check_runnable(self.train, observe=observe, work=work)
        if observe and self.train.settings.archive is not None:
            open_archive(self.train.settings.archive)  # to refuse a mistake here, not when the first wagon is drained
        if observe and self.train.schedules:
            _ = self._later.timetable
        if self._runs:
            raise UsageError(f"this connection already runs train {self.train.name!r}; open another one")
        self._runs = True
        try:
            async with self._run(observe=observe, work=work, post=post):
                yield
        finally:
            self._runs = False

    @asynccontextmanager
    async def _run(self, *, observe: bool, work: bool, post: tuple[int, int] | None) -> AsyncIterator[None]:
        async with self._answering():
            await self._agree()
        if observe and self.train.settings.archive is not None:
            try:
                await open_archive(self.train.settings.archive).prepare()
            except Unavailable as e:  # an archive that is away delays removal and nothing else
                _logger.warning("train %s: %s; until it is there, drained wagons wait", self.train.name, e)
        runtime, ours = self._runtime, self.train.settings.workers
        if runtime.settings.workers is not ours:
            if observe:
                _logger.info(
                    "train %s: no workers were set, and its limit promises a wait: %r, which follow the traffic",
                    self.train.name,
                    runtime.settings.workers,
                )
        elif (settings := runtime.settings.agreed(self.manifest.declared)) is not runtime.settings:
            runtime = dataclasses.replace(runtime, settings=settings)
            _logger.info(
                "train %s: no workers were set, and the train was declared when %r was the default: it keeps them; "
                "redeclare it (--redeclare) for %r",
                self.train.name,
                settings.workers,
                ours,
            )
        does = {"observe": observe, "work": work and post is None, "serve": post is not None}
        roles = tuple(role for role, on in does.items() if on)
        async with AsyncExitStack() as stack:
            if work:
                publisher = TrainPublisher(runtime, lambda: nullcontext(self.registry), self._switcher)
                held = InOwnTask(publisher, f"publishing for the handlers of train {self.train.name!r}")
                runtime = dataclasses.replace(runtime, publisher=await stack.enter_async_context(held))
            await stack.enter_async_context(self._active(runtime, roles, post))
            yield

    @asynccontextmanager
    async def _active(
        self, runtime: Runtime, roles: tuple[str, ...], post: tuple[int, int] | None
    ) -> AsyncIterator[None]:
        observe = "observe" in roles
        membership = Membership(runtime, self._state, roles=roles, post=post)
        self._membership = membership
        held = InOwnTask(asyncio.TaskGroup(), f"running train {self.train.name!r}")
        async with held as tasks:
            owned = [tasks.create_task(kept_up(membership.run, "working and checking in", self._bulkhead))]
            if observe:
                observer = Observer(runtime, self._state, self._switcher)
                self._observer = observer
                membership.on_check_in = observer.wake
                self._switcher.on_full.append(observer.wake)
                membership.observing = tasks.create_task(kept_up(observer.run, "observing", self._bulkhead))
                owned.append(membership.observing)
                feeding = kept_up(Feeder(runtime, self._state, self._past).run, "feeding replays", self._bulkhead)
                owned.append(tasks.create_task(feeding))
                if runtime.timetable is not None:
                    due_events = self._due_events = DueEvents(runtime, self._state, self._switcher, runtime.timetable)
                    publishing = kept_up(due_events.run, "publishing events that are due", self._bulkhead)
                    owned.append(tasks.create_task(publishing))
                    if schedules := self.train.schedules:
                        ticking = Ticking(
                            runtime,
                            self._state,
                            runtime.timetable,
                            schedules,
                            self.train.source,
                            around=self.train.around_publishing,
                            on_recorded=due_events.wake,
                        )
                        owned.append(tasks.create_task(kept_up(ticking.run, "recording ticks", self._bulkhead)))
            for task in owned:
                task.add_done_callback(held.end)
            self._is_running = True
            try:
                yield
            finally:
                self._is_running = False
                for task in reversed(owned):
                    task.cancel()
                if observe:
                    self._observer = self._due_events = None
                    self._switcher.on_full.remove(observer.wake)

    def _post(self, wagon: int | None, workers: int | None) -> tuple[int, int] | None:
        if wagon is None and workers is None:
            return None
        if wagon is None or wagon < 1 or (workers is not None and workers < 1):
            raise UsageError(
                f"wagon={wagon}, workers={workers}: give a wagon's number, and with it at least one worker"
            )
        own = self.train.settings.workers
        return wagon, workers or own.own or own.total or 1

    async def released(self, number: int) -> None:
        """Return when the workers of wagon `number` are no longer needed: it is drained, failed or removed, and no
        other wagon has taken them over."""
        self._here()
        await self._state.until(lambda m: m.next_number > number and all(w.unit != number for w in m.in_state(*LIVE)))

    async def _agree(self) -> None:
        """Found the train, or compare this program's declaration with the one it was founded with."""
        await self._channels.bootstrap()
        self._founded = True
        await self._state.refresh()
        await self._agree_on_settings()
        await self._agree_on_ledger()

    async def _agree_on_settings(self) -> None:
        declared, channels = self.train.settings.declared(), self.train.channels
        differs = self._differing()
        if not differs:
            return
        if self.manifest.declared and not self._redeclare:
            raise DeclarationDiffers(
                f"train {self.train.name!r} was declared differently: {differences(differs)}. Make the programs agree, "
                "or redeclare the train with redeclare=True (--redeclare)"
            )
        by = this_user() if self.manifest.declared else ""
        fact = Declared(train=self.train.name, settings=declared, channels=channels, by=by)

        def edit(m: Manifest) -> Edit:
            if not m.declared:
                m = archive_declared(m, self.train.settings.archive or "")
            m = once_declared(m, self.train.settings, self._runtime.clock())
            return Edit(msgspec.structs.replace(m, declared=declared, channels=channels), (fact,))

        await self._state.apply(edit)

    async def _agree_on_ledger(self) -> None:
        """A train has a ledger as soon as one of its processes has. One without would keep records from being complete,
        or from being written."""
        recorded = self._runtime.ledger is not None
        if self.manifest.recorded and not recorded and not self._redeclare:
            raise DeclarationDiffers(
                f"train {self.train.name!r}: {ELSEWHERE}, or have all go on without one with redeclare=True "
                "(--redeclare)"
            )
        by = this_user() if self.manifest.declared else ""
        if recorded or self._redeclare:
            await self._state.apply(lambda m: recording_declared(m, recorded=recorded, by=by))

    def _differing(self) -> dict[str, tuple[str, str]]:
        ours = self.train.settings
        return differing(
            self.manifest, ours if self._redeclare else ours.agreed(self.manifest.declared), self.train.channels
        )

    async def stopped(self) -> None:
        """Return once the train's processes have been asked to stop (`request_stop`)."""
        self._here()
        await self._state.until(lambda m: m.stops > self._stops)

    # --- control --------------------------------------------------------------------------

    async def request_switch(
        self,
        why: str = "by hand",
        *,
        revision: str | None = None,
        watch_errors: float | None = None,
        by: str | None = None,
    ) -> int:
        """Request a switch now, whatever the limit says; an observer carries it out. Returns the number of the wagon
        that was active. Idempotent until it is done.

        With `revision`, the next wagon and those after it run that code, and the switch happens when such a wagon is
        ready. If none becomes ready, the request is given up. With `watch_errors`, a share above 0 and at most 1, the
        train switches back by itself if more than that share of the new wagon's handlings fail, out of at least twenty.
        `by` names who asks, for the journal; default: this process's user at this host. Raises UsageError.
        """
        why, by = _reason(why), _asker(by)
        if revision is not None and not check_revision(revision):
            raise UsageError("revision '': name the code that should serve the next wagon, or leave the revision out")
        watch = None if watch_errors is None else real("watch_errors", watch_errors)
        if watch is not None and (revision is None or watch > 1):
            raise UsageError(f"watch_errors={watch_errors}: give a share above 0 and at most 1, and a revision")
        self._here()
        request = Request(why, self._clock(), revision, watch, by)
        async with self._answering():
            await self._found()
            while (  # noqa: ASYNC110 - there is nothing to wait on yet
                before := (await self._state.refresh()).manifest.active
            ) is None:
                await asyncio.sleep(_PAUSE)  # the registry has stepped back, and an observer opens the next
            if watch is not None and self.manifest.revision_before(revision or "") is None:
                raise UsageError(
                    f"{wagon_name(self.train.name, before.number)} runs revision {revision} already, and there is no "
                    "other to go back to: leave watch_errors (--watch-errors) out"
                )
            await self._state.apply(lambda m: switch_asked(m, request))
        return before.number

    async def withdraw_switch(self, why: str = "by hand", *, by: str | None = None) -> bool:
        """Withdraw the requested switch: the active wagon goes on, and new wagons run its code. Returns False if none
        was requested, or it has been made meanwhile. `by` as in `request_switch`. Idempotent. Raises UsageError, also
        if the active wagon takes no more events, so that the train needs the switch."""
        why, by = _reason(why), _asker(by)
        self._here()
        async with self._answering():
            before = (await self._state.refresh()).manifest
            after = (await self._state.apply(lambda m: switch_withdrawn(m, why, by))).manifest
        active = after.active
        if after.request is not None and active is not None and active.found_sealed:
            raise UsageError(
                f"{wagon_name(self.train.name, active.number)} takes no more events: its switch can't be withdrawn"
            )
        if before.request is None or active is None or before.active is None:
            return False
        return active.number == before.active.number

    async def request_stop(self, why: str = "by hand", *, by: str | None = None) -> None:
        """Ask every process that runs this train (`running`) to stop gracefully. Publishing stays possible. `by` as in
        `request_switch`. Not idempotent. Raises UsageError."""
        self._here()
        fact = StopRequested(train=self.train.name, because=_reason(why), by=_asker(by))
        async with self._answering():
            await self._state.refresh()
            await self._state.apply(lambda m: Edit(msgspec.structs.replace(m, stops=m.stops + 1), (fact,)))

    async def pause(
        self, why: str = "by hand", *, wagon: int | None = None, publishing: bool = False, by: str | None = None
    ) -> None:
        """Pause the train, or one wagon: each process that sees the pause stops handing out events at once. Handlers in
        flight finish; fetched events go back without an attempt. The pause lasts until `resume`, across all restarts.

        Publishing goes on. With `publishing`, which is for the whole train only, publishers get TrainPaused. While the
        train is paused no limit opens or switches wagons. `by` as in `request_switch`. Idempotent: the first caller
        stays on record. Raises UsageError, also if there is no such wagon."""
        if wagon is not None:
            wagon = whole("wagon", wagon)
        if not isinstance(publishing, bool):
            raise UsageError(f"publishing={publishing!r}: give True or False")
        if publishing and wagon is not None:
            raise UsageError(
                "publishing goes to the train, not to a wagon: pause it for the whole train, or leave it out"
            )
        pause = Pause(why=_reason(why), at=self._clock(), by=_asker(by), publishing=publishing)
        self._here()
        async with self._answering():
            self._find(await self._state.refresh(), wagon)
            await self._state.apply(lambda m: paused(m, wagon, pause))

    async def resume(self, why: str = "by hand", *, wagon: int | None = None, by: str | None = None) -> bool:
        """End the pause of the train, or that of one wagon; neither ends the other. A wagon whose own pause was ended
        is not paused by `pause_on` again. Returns False if it was not paused.
        `by` as in `request_switch`. Raises UsageError, also if there is no such wagon."""
        why, by = _reason(why), _asker(by)
        if wagon is not None:
            wagon = whole("wagon", wagon)
        self._here()
        async with self._answering():
            manifest = self._find(await self._state.refresh(), wagon)
            await self._state.apply(lambda m: resumed(m, wagon, self._clock(), why, by))
        return manifest.own_pause(wagon) is not None

    def _find(self, snapshot: Snapshot, wagon: int | None) -> Manifest:
        """The manifest. Raises UsageError if it has no such wagon."""
        manifest = snapshot.manifest
        if wagon is not None and manifest.wagon(wagon) is None:
            name = self.train.name
            there = ", ".join(wagon_name(name, w.number) for w in manifest.wagons) or "none"
            raise UsageError(f"there is no wagon {wagon_name(name, wagon)}; there are: {there}")
        return manifest

    async def heedless(self) -> Sequence[Heedless]:
        """The processes that still work for paused wagons, by their own reports. Empty once all follow the pause."""
        self._here()
        async with self._answering():
            manifest = (await self._state.refresh()).manifest
            return list(heedless(manifest, await self.registry.members(self.train.name)))

    async def remove(
        self, why: str = "by hand", *, force: bool = False, timeout: float = 60.0, by: str | None = None
    ) -> RemovedTrain:
        """Remove the train and everything it owns: channels, dead letters, journal, members, the units of this
        connection's orchestrator, and last its manifest. Idempotent: call it again to finish an interrupted removal.

        It refuses while events or dead letters are left, or while processes run the train. With `force` it asks those
        processes to stop, waits up to `timeout` seconds, and deletes what is left.

        First stop programs that only publish: if the broker refuses writes to sealed channels, they can't be seen.
        Connected ones have 2 seconds (or twice as long as their registry takes to show a change, if that is longer) to
        learn of the removal; they then raise TrainRemoved. One that was suspended meanwhile raises it once it goes on:
        the registry remembers who removed which train, and when. A program that starts later founds the train anew.

        From then on, publishing on this connection raises TrainRemoved. Raises RemovalRefused, UsageError,
        StorageBroken, and Unavailable, also if channels are left; then call it again."""
        why, by = _reason(why), _asker(by)
        check_timeout(timeout)
        self._here()
        if self._runs:
            raise UsageError(f"this connection runs train {self.train.name!r}: leave `running()` before it is removed")
        teardown = Teardown(self._runtime, self._state)
        return await teardown.run(why, by, force=force, patience=timeout)

    async def wait_switched(self, number: int) -> int:
        """Wait until wagon `number` is no longer active; return the number of the active wagon."""
        self._here()
        manifest = await self._state.until(lambda m: m.active is not None and m.active.number != number)
        return manifest.active.number if manifest.active else 0

    async def wait_answered(self) -> int:
        """Wait until no request for a switch is open (done or given up); return the number of the active wagon."""
        self._here()
        manifest = await self._state.until(lambda m: m.request is None and m.active is not None)
        return manifest.active.number if manifest.active else 0

    async def wait_drained(self, number: int) -> None:
        """Wait until wagon `number` is drained and removed, and so are all wagons that were active before it (numbers
        are not always in that order). Spares don't count."""
        self._here()
        await self._state.until(gone_by(self.manifest, number))

    # --- state ----------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """The newest manifest that this process has seen."""
        return self._state.snapshot.manifest

    @property
    def attachments(self) -> tuple[Deployment, ...]:
        """What this process's own workers are doing, wagon by wagon. Empty if it does not work."""
        return self._membership.attachments if self._membership is not None and self._is_running else ()

    @property
    def trouble(self) -> str:
        """Why this process is unhealthy: a defect of eventwagon that it found, its lifespan is not open, or the broker
        or registry is `unreachable`. Empty if there is nothing."""
        found = self._membership.trouble if self._membership is not None else self._bulkhead.trouble
        return found or self.unreachable

    @property
    def unreachable(self) -> str:
        """Since when the train's broker or registry has not answered, and why, if that is longer than three seconds;
        empty otherwise. Noticed by what a process asks all the time: the manifest, and its check-ins while it is
        `running`."""
        return self._runtime.reach.trouble

    @property
    def not_observing(self) -> str:
        """Why this process does not observe the train at present. Empty while it does."""
        return self._observer.trouble if self._observer is not None else "it does not observe the train"

    async def refresh(self) -> Snapshot:
        """Read the manifest from the registry."""
        self._here()
        async with self._answering():
            return await self._state.refresh()

    async def members(self) -> Sequence[Member]:
        """The processes of the train that are alive."""
        self._here()
        async with self._answering():
            return [m for m in await self.registry.members(self.train.name) if m.is_process]

    async def depths(self) -> Mapping[int, Mapping[str, Depth]]:
        """The depth of each channel of each live wagon: by the wagon's number, then by the channel's name. The
        ingress's name is empty; `dead` holds the dead letters."""
        self._here()
        async with self._answering():
            return await depths_of(self.broker, self.manifest)

    def journal(self, *, last: int | None = None) -> AsyncIterator[Entry]:
        """The journal's entries, oldest first: decisions and events of the train, with figures. `last`: only that many,
        the newest."""
        self._here()
        return self.registry.entries(self.train.name, last=last)

    async def records(self, which: RecordFilter | None = None) -> AsyncIterator[WagonRecord]:
        """The permanent records of the train's wagons in its ledger, in the order in which they were written; with
        `which`, only those that meet it. Raises UsageError if the train has no ledger, and StorageBroken."""
        self._here()
        ledger = self._runtime.ledger
        if ledger is None:
            raise UsageError(f"train {self.train.name!r} has no ledger: Train(ledger='sqlite:///var/ledger') gives one")
        async for record in ledger.records(self.train.name):
            if which is None or which.takes(record):
                yield record

    @property
    def dead(self) -> DeadLetters:
        """The train's dead letters: to look at them, publish them again, or delete them. See docs/dead-letters.md."""
        return self._dead

    @property
    def replays(self) -> Replays:
        """The train's replays: past events that are handled once more. See docs/replay.md."""
        return self._replays

    @property
    def undo(self) -> Undos:
        """The train's undos: what a wagon has handled is taken back by undo handlers. See docs/undo.md."""
        return self._undos

    async def dead_letters(self) -> AsyncIterator[Event]:
        """All dead letters: first those that were moved out of removed wagons, then those of live wagons.

        The extensions `deadbecause`, `deadchannel`, `deadwagon`, `deadattempts` and `deadat` of each say why, where and
        when it died. The same id may occur twice after a process died or was suspended.
        """
        self._here()
        async for event in kept(self.broker, self.manifest):
            yield event


def _reason(why: str) -> str:
    """The reason as it is stored and shown. Raises UsageError."""
    why = text("the reason", why)
    if not why.strip():
        raise UsageError("give the reason in a few words, or leave it out")
    return redacted(why)


def _asked(why: str, by: str | None) -> tuple[str, str]:
    """The reason and who asks. Raises UsageError."""
    return _reason(why), _asker(by)


def _asker(by: str | None) -> str:
    """Who requests a change, for the journal; a blank name counts as none. It proves nothing: anyone with write access
    to the registry can write any name. Raises UsageError."""
    if by == RULE:
        raise UsageError(f"by={RULE!r} stands for the rule pause_on: give another name")
    return redacted((by is not None and text("by", by, most=200)) or this_user())


def check_timeout(timeout: float) -> float:
    """Return `timeout`, or raise UsageError unless it is a number of seconds."""
    if is_a(timeout, bool) or not is_a(timeout, int, float) or not 0 < timeout <= _LONGEST:
        raise UsageError(f"timeout={shown(timeout)}: give a number of seconds above 0, at most {_LONGEST:g}")
    return timeout


def accepted_by(error: BaseException) -> int:
    """How many events were stored by the call that raised this."""
    with suppress(Exception):
        accepted = getattr(error, "accepted", 0)
        return accepted if type(accepted) is int else 0
    return 0


def say_accepted(error: BaseException, accepted: int) -> None:
    """Add to the error, of whatever class, how many events were stored."""
    with suppress(Exception):
        error.accepted = accepted  # type: ignore[attr-defined]
    with suppress(Exception):
        if isinstance(error, EventwagonError):
            return
        error.add_note(f"eventwagon: publish_many had stored {accepted} of the leading events")
