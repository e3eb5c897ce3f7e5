"""A train under test: the real publishers, observers and workers, in memory, with a record of what happened."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Unpack, get_args

from ..connection import Connection
from ..contracts.facts import EventDied, EventRetried, EventSnoozed, Fact, log
from ..display.text import count, said
from ..drivers.memory.registry import MemoryRegistry
from ..errors import UsageError
from ..event import Channel, Event
from ..payload import codec
from ..runtime.lifespan import Opening
from ..settings import Settings, make_settings
from ..settings_given import GivenSettings
from ..train import Train
from ..values import is_a, real, shown, whole
from .faults import Fault, Faults, Threads, watched
from .patient_loop import PatientLoop
from .recording import RecordingBroker, Unfinished
from .virtual_time import EPOCH, VirtualLoop

WhenDead = Literal["raise", "keep"]

_IN_TESTS: GivenSettings = {"attempts": 5, "breaker": None, "grace": 1.0}
"""What differs from the defaults in a test: no handler's failure is an outage there, and nothing is waited for long."""
_OBSERVE_EVERY = 1.0
"""The time between two passes of the observer in virtual time: an hour of them has to be computed."""
_RECEIVE = 0.02
"""Seconds that a receive takes at most in the real time: leaving a train waits for it."""
_PATIENCE = 10.0
_PATIENCE_IN_VIRTUAL_TIME = 3600.0
_FIRST = 1.0
"""Seconds at the beginning of a long time, in which observers look at least once."""
_LAST = 3600.0
"""Seconds of a long time that are computed step by step, in some seconds; a day would take minutes."""
_LOOK = 1.0
_SWITCH = 30.0
"""Seconds within which a wagon becomes ready, in the loop's time."""
_LISTED = 10
"""Events that a message names one by one."""


class NotIdle(AssertionError):
    """The train under test did not become idle in time, or can't: the message says what is left and why."""


class UnexpectedDeath(AssertionError):
    """An event went to the dead letters, and the test did not say `dead="keep"`. Its cause is what the handler raised,
    if it raised anything."""


class PlannedFailure(Exception):
    """A test wanted this handling to fail: `RunningTrain.fail`."""

    def __init__(self, why: str = "the test wants it") -> None:
        super().__init__(why)


@dataclass(frozen=True)
class DeadLetter:
    """An event that could not be handled."""

    payload: Any
    because: str
    channel: str
    """As in `Train.on`."""
    attempts: int
    wagon: int = field(repr=False)
    id: str = field(repr=False)
    event: Event = field(repr=False)


_plain = codec(Any)[1]
_OWN_LIFESPAN = object()
"""The default of `state`: what the train's own lifespan opens."""


class RunningTrain:
    """A train under test, made by `running`. Channels are named as in `Train.on`; without a name, the train's own is
    meant, where published events go.

    `publish` and `publish_many` are those of its `connection`, which has everything else that a program can do. `facts`
    lists what listeners were told, in order.
    """

    def __init__(self, train: Train, *, dead: WhenDead) -> None:
        self._faults, self._clock = Faults(), _Clock()
        self._broker = RecordingBroker(train.name, clock=self._clock, patience=math.inf if _is_virtual() else _RECEIVE)
        train.handlers = watched(train.handlers, self._faults, Threads() if _is_virtual() else None)
        train.opening = _watched_opening(train.opening, self._note_opening)
        self.connection: Connection = train.connect(
            broker=self._broker,
            registry=MemoryRegistry(clock=self._clock),
            listeners=[log, self._hear],
            clock=self._clock,
        )
        """For everything else that a program can do: pause, manifest, journal …"""
        self.publish = self.connection.publish
        """See `Connection.publish`."""
        self.publish_many = self.connection.publish_many
        """See `Connection.publish_many`."""
        self.facts: list[Fact] = []
        """What listeners were told, in order."""
        self._train = train
        self._raises = dead == "raise"
        self._told = 0
        """Dead letters that were raised already."""
        self._handlings: dict[str, int] = {}
        self._not_opened: BaseException | None = None

    def __repr__(self) -> str:
        unfinished, dead = len(self._broker.unfinished()), len(self._broker.letters)
        return f"<RunningTrain {self._train.name}: {len(self._broker.handled)} handled, {dead} dead, {unfinished} left>"

    @property
    def clock(self) -> Callable[[], float]:
        """The train's wall clock: `train.clock()` returns seconds since the epoch. `advance` moves it."""
        return self._clock

    # --- what happened ------------------------------------------------------------------------------

    def handled(self, channel: str | None = None) -> list[Any]:
        """The payloads that were handled in a channel and settled, in this order. An event that was handled twice is
        there twice. Raises UsageError if the train has no such channel."""
        name = self._name(channel)
        return [self._payload(name, event) for c, event in self._broker.handled if c.name == name]

    def published(self, *, to: Train | None = None) -> list[Any]:
        """The payloads that were published to the train, in order; with `to`, those that handlers have published to
        that train (`ctx.publish(payload, to=billing)`), which does not run in this test. Raises UsageError."""
        if to is not None and not is_a(to, Train):
            raise UsageError(f"published: to={shown(to)}: give a Train")
        train = self._train if to is None else to
        return [_payload(train, "", event) for event in self._stored("", train.name)]

    def emitted(self, channel: str) -> list[Any]:
        """The payloads that handlers emitted to a channel and that were stored, in order; failed attempts emit nothing.
        Raises UsageError."""
        name = self._name(channel)
        if not name:
            raise UsageError(f"nothing is emitted to {self._train.name!r}, where events are published: see published()")
        return [self._payload(name, event) for event in self._stored(name, self._train.name)]

    def events(self, channel: str | None = None) -> list[Event]:
        """The events themselves that were published or emitted to a channel, in order: ids, subjects, extensions.
        Raises UsageError."""
        name = self._name(channel)
        return self._stored(name, self._train.name)

    @property
    def dead(self) -> list[DeadLetter]:
        """The events that could not be handled, in order."""
        return list(map(self._letter, self._broker.letters))

    @property
    def errors(self) -> list[Exception]:
        """What handlers have raised, in order, without Reject, Retry and Snooze. Each has its traceback."""
        return [error for _, error in self._faults.raised]

    def attempts(self, id: str) -> int:  # noqa: A002 - the attribute's name in CloudEvents
        """How often the event with this id was handled, well or not."""
        return self._handlings.get(id, 0) + sum(event.id == id for _, event in self._broker.handled)

    # --- what may happen ----------------------------------------------------------------------------

    def fail(
        self,
        channel: str | None = None,
        *,
        times: int | None = 1,
        error: BaseException | type[BaseException] = PlannedFailure,
        afterwards: bool = False,
    ) -> None:
        """Let the next handlings of a channel fail with `error`: so many (`times`), or all (None). The handler is not
        called; with `afterwards` it runs to its end first, as when a process dies before it has settled the event.
        `Reject`, `Retry` and `Snooze` mean what they always do. Calls add up. Raises UsageError."""
        name = self._name(channel)
        if not isinstance(error, BaseException) and not (isinstance(error, type) and issubclass(error, BaseException)):
            raise UsageError(f"fail: error={shown(error)}: give an exception or its class")
        left = None if times is None else whole("fail: times", times)
        self._faults.plan(name, Fault(error, left, afterwards=bool(afterwards)))

    async def redeliver(self, id: str) -> None:  # noqa: A002 - the attribute's name in CloudEvents
        """Deliver an event again with the same id, as may happen after a crash: what is done twice must do no harm.
        Raises UsageError if no event of that id was published or emitted."""
        found = next(((c, event) for c, event in reversed(self._broker.stored) if event.id == id), None)
        if found is None:
            known = ", ".join(event.id for _, event in self._broker.stored[-_LISTED:]) or "none"
            raise UsageError(f"redeliver: no event has the id {shown(id)}; the latest: {known}")
        channel, event = found
        queue = self._broker.queues.get(channel)
        if queue is None or queue.sealed:
            active = self.connection.manifest.active
            channel = Channel(channel.train, active.number if active else channel.wagon, channel.name)
        await self._broker.store_again(channel, event)

    async def switch(self) -> int:
        """Switch to the next wagon now. Returns its number. Events of the former one are still handled there."""
        async with asyncio.timeout(_SWITCH):
            return await self.connection.wait_switched(await self.connection.request_switch("by the test"))

    # --- time -----------------------------------------------------------------------------------------

    async def idle(self, within: float | None = None) -> None:
        """Wait until every event is handled or dead, or waits for a later time that its handler or publisher asked for
        (`Snooze`, `after`). Retries are waited for; while time is real they come at once.

        `within`: seconds of the loop's time; by default 10 s of the real time, or an hour of virtual time. Raises
        NotIdle with what is left, and UnexpectedDeath for events that have died since the last call, unless the test
        says `dead="keep"`.
        """
        __tracebackhide__ = True
        patience = _Patience(None if within is None else real("idle: within", within))
        while not self._broker.is_idle:
            if self._not_opened is not None:
                raise NotIdle(
                    f"train {self._train.name!r} handles nothing: its lifespan failed: {said(self._not_opened)}"
                ) from self._not_opened
            if (waited := patience.over()) is not None:
                raise NotIdle(self._left(waited)) from (self.errors[-1] if self.errors else None)
            if not _jumps():
                self._broker.hurry(_PATIENCE_IN_VIRTUAL_TIME, postponed=False)
            await self._broker.change(patience.until)
        self._check_deaths()

    async def advance(self, seconds: float) -> None:
        """Let time pass. In virtual time everything happens meanwhile that would; of more than two hours only in the
        last one: what was due before comes then. While time is real this returns at once: `clock` is so much later, and
        events that wait for a later time come so much sooner; limits (`Age`) and timeouts go by the real time, and
        a schedule's tick comes within a second. Then call `idle`. Raises UsageError."""
        seconds = real("advance: seconds", seconds)
        passes = 0.0 if not _jumps() else _LAST if seconds > 2 * _LAST else seconds
        if passes < seconds:
            if passes:  # a schedule begins with the first tick after an observer has seen it
                await asyncio.sleep(_FIRST)
                seconds -= _FIRST
            self._clock.offset += seconds - passes
            self._broker.hurry(seconds - passes, postponed=True)
        await asyncio.sleep(passes)

    # --- inside -----------------------------------------------------------------------------------

    def _check_deaths(self) -> None:
        """Raise UnexpectedDeath for events that have died since the last call, unless the test said `dead="keep"`."""
        __tracebackhide__ = True
        letters, self._told = self._broker.letters[self._told :], len(self._broker.letters)
        if not letters or not self._raises:
            return
        dead = list(map(self._letter, letters))
        lines = [
            f"  {letter.channel}: {shown(letter.payload)} after {count(letter.attempts, 'attempt')}: {letter.because}"
            for letter in dead
        ]
        raise UnexpectedDeath(
            f"{count(len(dead), 'event')} of train {self._train.name!r} died; if the test is about that, say "
            "testing.running(train, dead='keep'):\n" + "\n".join(_first(lines))
        ) from self._faults.cause(self._name(dead[-1].channel), dead[-1].because)

    def _hear(self, fact: Fact) -> None:
        self.facts.append(fact)
        if isinstance(fact, EventSnoozed):
            self._broker.postponed.add(fact.id)
        elif isinstance(fact, EventRetried | EventDied):
            self._handlings[fact.id] = self._handlings.get(fact.id, 0) + 1

    def _note_opening(self, error: BaseException | None) -> None:
        """The lifespan was entered, or could not be."""
        self._not_opened = error
        self._broker.notify()

    def _name(self, channel: str | None) -> str:
        """The channel's name inside a wagon; the ingress's is empty."""
        if channel is None or channel in ("", self._train.name):
            return ""
        if is_a(channel, str) and channel in self._train.handlers:
            return channel
        there = ", ".join([self._train.name, *self._train.channels])
        raise UsageError(f"train {self._train.name!r} has no channel {shown(channel)}; there are: {there}")

    def _stored(self, name: str, train: str) -> list[Event]:
        return [event for c, event in self._broker.stored if c.name == name and c.train == train]

    def _payload(self, name: str, event: Event) -> Any:
        return _payload(self._train, name, event)

    def _letter(self, event: Event) -> DeadLetter:
        why = event.extensions
        name = why.get("deadchannel", "")
        return DeadLetter(
            payload=self._payload(name, event),
            because=why.get("deadbecause", ""),
            channel=name or self._train.name,
            attempts=int(why.get("deadattempts", "0")),
            wagon=int(why.get("deadwagon", "0")),
            id=event.id,
            event=event,
        )

    def _left(self, seconds: float) -> str:
        """What is left after `seconds`, in words."""
        left = self._broker.unfinished()
        lines = list(_first([self._line(each) for each in left]))
        if self.connection.manifest.paused is not None:
            lines.append("  the train is paused")
        if self.connection.trouble:
            lines.append(f"  {self.connection.trouble}")
        if self.errors:
            lines.append(f"  the last error of a handler: {said(self.errors[-1])}")
        what = f"{count(len(left), 'event')} left" if left else "nothing is left now"
        return f"train {self._train.name!r} was not idle within {seconds:g} s: {what}\n" + "\n".join(lines)

    def _line(self, left: Unfinished) -> str:
        name = left.channel.name
        state = "taken" if left.is_claimed else f"comes again in {left.due_in:.1f} s" if left.due_in else "waits"
        payload = shown(self._payload(name, left.event))
        return f"  {name or self._train.name}: {payload} {state} (id {left.event.id}, wagon {left.channel.wagon})"


@asynccontextmanager
async def running(
    train: Train, *, state: object = _OWN_LIFESPAN, dead: WhenDead = "raise", **settings: Unpack[GivenSettings]
) -> AsyncIterator[RunningTrain]:
    """Run a train in memory for a test: the real publishers, observer and workers. The train itself is not changed, and
    nothing is left behind; a test may run several trains.

    It runs in any event loop. In virtual time (`testing.run`, `testing.in_virtual_time`) no pause takes any time, and
    `advance` moves everything. While time is real (in the loop of another test framework, or with an open socket) only
    the pauses before retries are skipped, as long as the test waits in `idle`.

    `state` replaces what the train's lifespan yields, which is then not entered. `settings` replace the train's own
    in this test; unless given, a test has `attempts=5` if the train sets none, `breaker=None` and `grace=1.0`. With
    `dead="raise"` an event that dies fails the test, in `idle` or at the end; with `"keep"` the test looks at `dead`.

    Raises UsageError: a train without a handler for what is published, an unknown setting.
    """
    if not isinstance(train, Train):
        raise UsageError(f"testing.running: give a Train, not {shown(train)}")
    if not is_a(dead, str) or dead not in get_args(WhenDead):
        raise UsageError(f"testing.running: dead={shown(dead)}: give 'raise' or 'keep'")
    if asyncio._get_running_loop() is None:
        raise UsageError("testing.running: eventwagon runs on asyncio, and no event loop of it runs here (trio?)")
    own = copy.copy(train)
    own.settings = _settings(train.settings, settings)
    if state is not _OWN_LIFESPAN:
        own.opening = lambda: nullcontext(state)
    running = RunningTrain(own, dead=dead)
    async with running.connection, running.connection.running():
        yield running
    running._check_deaths()


class RunTrain(Protocol):
    """The type of `running`, for annotations of the fixture `running_train`."""

    def __call__(
        self, train: Train, *, state: object = ..., dead: WhenDead = "raise", **settings: Unpack[GivenSettings]
    ) -> AbstractAsyncContextManager[RunningTrain]:
        """See `running`."""
        ...


def _payload(train: Train, name: str, event: Event) -> Any:
    """As its handler gets it, or as plain JSON if there is none; the bytes, if they can't be decoded."""
    handler = train.handlers.get(name)
    try:
        return (_plain if handler is None else handler.decode)(event)
    except Exception:  # noqa: BLE001 - whatever a decoder raises: that is why it died
        return event.data


class _Clock:
    """A wall clock that a test may set forward. In virtual time it begins at a fixed date."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._loop = asyncio.get_running_loop() if _is_virtual() else None

    def __call__(self) -> float:
        now = time.time() if self._loop is None else EPOCH + self._loop.time()  # threads ask, too
        return now + self.offset


class _Patience:
    """How long to wait: so many seconds of the loop's time, or by default an hour of virtual time, and ten seconds of
    the real time."""

    def __init__(self, within: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._began, self._really_began = self._loop.time(), self._really()
        self._within = within

    @property
    def until(self) -> float:
        """The loop's time at which to look again."""
        if self._within is not None:
            return self._began + self._within
        return self._loop.time() + _LOOK

    def over(self) -> float | None:
        """The seconds after which patience was lost; None: it is not."""
        if self._within is not None:
            return self._within if self._loop.time() >= self.until else None
        if self._really() - self._really_began >= _PATIENCE:
            return _PATIENCE
        return _PATIENCE_IN_VIRTUAL_TIME if self._loop.time() - self._began >= _PATIENCE_IN_VIRTUAL_TIME else None

    def _really(self) -> float:
        if isinstance(self._loop, VirtualLoop):
            return self._loop.really_passed if isinstance(self._loop, PatientLoop) else 0.0
        return self._loop.time()


def _is_virtual() -> bool:
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


def _jumps() -> bool:
    """Whether the clock jumps at present: not while a socket is open."""
    loop = asyncio.get_running_loop()
    return not loop.has_sockets if isinstance(loop, PatientLoop) else isinstance(loop, VirtualLoop)


def _settings(settings: Settings, given: GivenSettings) -> Settings:
    """The train's settings in a test. Raises UsageError."""
    own: dict[str, Any] = {name: getattr(settings, name) for name in Settings.__struct_fields__}
    usual: dict[str, Any] = {**_IN_TESTS, "attempts": settings.attempts or _IN_TESTS["attempts"]}
    if _is_virtual():
        usual["observe_every"] = _OBSERVE_EVERY
    return make_settings(**{**own, **usual, "archive": None, **given})


def _watched_opening(opening: Opening | None, report: Callable[[BaseException | None], None]) -> Opening | None:
    """The same, which reports why it could not be entered, or None once it was."""
    if opening is None:
        return None
    made = opening

    @asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            try:
                state = await stack.enter_async_context(made())
            except Exception as e:
                report(e)
                raise
            report(None)
            yield state

    return opened


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _LISTED
    return lines if more <= 0 else [*lines[:_LISTED], f"  and {count(more, 'other')}"]
