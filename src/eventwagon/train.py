"""The train: what a program declares."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta, tzinfo
from functools import partial
from typing import Any, Never, TypeVar, Unpack

from . import tracing
from .blocking import BlockingConnection
from .connection import Connection
from .contracts.broker import Broker
from .contracts.facts import Listener, log
from .contracts.ledger import Ledger, ledger_of
from .contracts.metering import Meter
from .contracts.once import once_of
from .contracts.orchestrator import Orchestrator
from .contracts.registry import Registry
from .contracts.timetable import timetable_of
from .drivers.opening import open_drivers, open_ledger
from .errors import UsageError
from .event import check_channel_name, check_train_name, check_word
from .limits import Limit
from .options import Budget, check_budgets, make_options
from .payload import caller_names, name_of, shape
from .runtime.batching import checked_shape
from .runtime.budget_shares import agreed_budgets
from .runtime.budgets import ChannelBudget
from .runtime.bulkhead import Bulkhead
from .runtime.handler import Handler
from .runtime.lifespan import Opening, alive, opening_of
from .runtime.listeners import Telling
from .runtime.membership import wagon_workers
from .runtime.middleware import Middleware, check_middleware
from .runtime.observed import Metering, observed
from .runtime.once import once_for
from .runtime.publish_settings import PublishSettings
from .runtime.publisher import TrainPublisher
from .runtime.runtime import Runtime
from .schedules import Schedule, make_schedule
from .settings import NO_LEDGER, AtCap, Auto, Settings, make_settings
from .settings_given import FurtherSettings
from .values import check_revision, is_a, items, must_be, plain
from .workers import Workers

REVISION = "EVENTWAGON_REVISION"
URL = "EVENTWAGON_URL"

_F = TypeVar("_F", bound=Callable[..., Any])
_H = TypeVar("_H", bound=Callable[[Any], object] | Callable[[Any, Any], object])
"""A handler: `(payload)` or `(payload, ctx)`."""


class Train:
    """One logical flow: its name, limit, workers and handlers. Declaring a train does nothing yet.

    `limit` says when a wagon is full, `workers` how many workers there are and whether wagons share them, `spares` how
    many READY wagons are kept ahead. Every further setting is a field of `Settings`, with its unit, default and reason.
    `source` is the CloudEvents source of published events (default: `/eventwagon/` and the name). `revision` names the
    code of this program, which then serves no wagon that was opened for other code (default: the environment variable
    `EVENTWAGON_REVISION`, or none). Raises UsageError for a bad name or setting.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: Limit | None = None,
        workers: Workers | None = None,
        spares: int | Auto | None = None,
        at_cap: AtCap | None = None,
        source: str | None = None,
        revision: str | None = None,
        **settings: Unpack[FurtherSettings],
    ) -> None:
        self.name = check_train_name(name)
        given = {"limit": limit, "workers": workers, "spares": spares, "at_cap": at_cap}
        self.settings: Settings = make_settings(**{k: v for k, v in given.items() if v is not None}, **settings)
        self.revision: str = check_revision(os.environ.get(REVISION, "") if revision is None else revision)
        self.source = f"/eventwagon/{self.name}" if source is None else check_word("source", source)
        self.handlers: dict[str, Handler] = {}
        """By inner channel name; the ingress has the empty name."""
        self.undo_handlers: dict[str, Handler] = {}
        """The same for undoing."""
        self.around_handling: list[Middleware] = []
        """What `middleware` has registered, the outermost first."""
        self.around_publishing: list[Middleware] = []
        """What `publish_middleware` has registered, the outermost first."""
        self.opening: Opening | None = None
        """What `lifespan` has registered."""
        self.schedules: dict[str, Schedule] = {}
        """What `every` has registered, by name."""
        self._lifespan: object = None
        """The function itself."""
        tracing.trace_if_wanted(self)

    def __repr__(self) -> str:
        handled = ", ".join(name or self.name for name in self.handlers) or "none"
        return f"<Train {self.name}: limit {self.settings.limit!r}, {self.settings.workers!r}, handlers: {handled}>"

    def lifespan(self, function: _F) -> _F:
        """Register what each process that works opens before it handles events, and closes after its last handler has
        ended: a pool of database connections, a client, a model. `@train.lifespan` above an async generator without
        arguments that yields once; what it yields is `ctx.state` of every handler.

        Each process that works enters it once, whatever started it: `run`, `work`, `subprocess:`, a Pod, Lambda. In
        a program each `running()` enters it. Publishers and observers do not. While entering fails or hangs, the
        process handles nothing. In `running` the failure is logged with its traceback, `status` shows it, and it is
        tried again; a process that an orchestrator started ends and is started again. Raises UsageError for a
        second function, and for one of another kind, as far as that can be seen."""
        if self.opening is not None and not _is_same_cell(self._lifespan, function):
            raise UsageError(f"train {self.name!r} has a lifespan already: open everything in one")
        self.opening, self._lifespan = opening_of(function), function
        return function

    def middleware(self, function: _F) -> _F:
        """Register a function around every handler of the train: `async def log(ctx, call_next)`. `await call_next()`
        runs the handler, in its thread if it is sync; see docs/middleware.md.

        The function registered first is the outermost. What it raises is dealt with as if the handler had raised it.
        If it does not await `call_next()`, the handler does not run, and the event counts as handled. Around a handler
        of batches it runs once for each batch. Raises UsageError for anything but an async function of two arguments.
        """
        check_middleware(function, "async def log(ctx, call_next)")
        _register(self.around_handling, function)
        for handler in (*self.handlers.values(), *self.undo_handlers.values()):
            handler.is_plain = False
        return function

    def publish_middleware(self, function: _F) -> _F:
        """Register a function around what this program publishes to the train by its connections:
        `async def trace(events, call_next)`. `await call_next(events)` stores them; see docs/middleware.md.

        `events` is a list of what goes to the broker in one call. It may pass on other events with the same ids in the
        same order. The function registered first is the outermost. What it raises, `publish` raises. If it does not
        await `call_next(events)`, nothing is stored, and `publish` returns all the same. Raises UsageError for anything
        but an async function of two arguments.
        """
        check_middleware(function, "async def trace(events, call_next)")
        _register(self.around_publishing, function)
        return function

    def on(
        self,
        channel: str,
        *,
        concurrency: int | None = None,
        rate: str | float | None = None,
        budget: Budget | Sequence[Budget] | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        backoff: float | None = None,
        backoff_most: float | None = None,
        dead_on: type[Exception] | Sequence[type[Exception]] = (),
        retry_on: type[Exception] | Sequence[type[Exception]] | None = None,
        batch: int | None = None,
        within: float | None = None,
        **unknown: Never,
    ) -> Callable[[_H], _H]:
        """Register the handler of a channel: the train's own name for the ingress, as in
        `@train.on("user_registrations")`, or the name of an inner channel.

        The handler takes `(payload)` or `(payload, ctx)`, is sync (runs in a thread) or async, and returns nothing. The
        annotation of `payload` is its type. If the handler raises, the event is retried; `Reject` sends it to the dead
        letters. With `batch` it takes a list of payloads (see docs/batches.md). Declare channels in the order of the
        choreography, parents first.

        The options replace the train's settings for this handler; times are in seconds. `concurrency`: how many events
        of the channel are handled at a time, `rate`: how many begin in a second (`"20/s"`, `"300/min"`, or a number),
        in all processes and wagons together. `budget`: one or several `Budget`s that channels share. `timeout`: how
        long it may take for one event. `attempts`, `backoff`, `backoff_most`: how its failed events are retried.
        `dead_on`: exceptions after which the event goes to the dead letters at once. `retry_on`: if given, only these
        are retried. A handling that takes longer than it may counts as a TimeoutError.

        Raises UsageError, also for any other keyword, and if the channel has a handler; one of the same name in
        `__main__` (a notebook's cell that runs again) is replaced.
        """
        if inspect.isroutine(channel):
            raise UsageError(f"train {self.name!r}: name the handler's channel: @train.on({self.name!r})")
        name = self._inner(channel)
        channel, names = name or self.name, caller_names(1)
        options = make_options(
            f"handler of {channel!r}",
            concurrency=concurrency,
            rate=rate,
            budget=() if budget is None else budget,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            backoff_most=backoff_most,
            dead_on=dead_on,
            retry_on=retry_on,
            batch=batch,
            within=within,
            **unknown,
        )
        try:
            self.settings.retries_of(options)
            others = (handler for other, handler in self.handlers.items() if other != name)
            check_budgets((b for handler in others for b in handler.options.budget), options.budget)
        except UsageError as e:
            raise UsageError(f"handler of {channel!r}: {e}") from None

        def register(function: _H) -> _H:
            if name in self.handlers and not _is_same_cell(self.handlers[name].call, function):
                raise UsageError(
                    f"train {self.name!r} has a handler for {channel!r} already: {self.handlers[name].name}"
                )
            if options.batch is not None and (by := getattr(function, "takes_one_event", None)) is not None:
                raise UsageError(f"handler of {channel!r}: {by} takes one event at a time: leave batch= out")
            form = checked_shape(shape(function, names), options, f"handler of {channel!r}")
            self.handlers[name] = Handler(name, function, form, options, self.around_handling)
            return function

        return register

    def undo(
        self,
        channel: str,
        *,
        timeout: float | None = None,
        attempts: int | None = None,
        backoff: float | None = None,
        backoff_most: float | None = None,
        dead_on: type[Exception] | Sequence[type[Exception]] = (),
        retry_on: type[Exception] | Sequence[type[Exception]] | None = None,
        **unknown: Never,
    ) -> Callable[[_H], _H]:
        """Register the undo handler of a channel, which takes back what its handler did: `@train.undo("bill")`. It runs
        only when somebody has a wagon undone (`connection.undo`, `eventwagon undo`; docs/undo.md).

        Declare it below the channel's handler. It takes `(payload)` or `(payload, ctx)` as that does, one event at a
        time: the event as it was handled, with its id, time and data. `ctx.undone` says in which wagon, and at which
        attempt. It can't emit; it may publish. It may run more than once for an event, as any handler may. The options
        are those of `on`. The train needs an archive. Raises UsageError.
        """
        if inspect.isroutine(channel):
            raise UsageError(f"train {self.name!r}: name the channel that is undone: @train.undo({self.name!r})")
        name = self._inner(channel)
        channel, names = name or self.name, caller_names(1)
        where = f"undo handler of {channel!r}"
        if self.settings.archive is None:
            raise UsageError(
                f"{where}: only an archive knows what was handled: declare the train with archive='file:///…' or "
                "'s3://…'"
            )
        if name not in self.handlers:
            raise UsageError(f"{where}: train {self.name!r} has no handler for {channel!r} (yet): declare that first")
        options = make_options(
            where,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            backoff_most=backoff_most,
            dead_on=dead_on,
            retry_on=retry_on,
        )
        if unknown:
            raise UsageError(f"{where}: it takes no {', '.join(unknown)}: events are undone one at a time")
        try:
            self.settings.retries_of(options)
        except UsageError as e:
            raise UsageError(f"{where}: {e}") from None

        def register(function: _H) -> _H:
            known = self.undo_handlers.get(name)
            if known is not None and not _is_same_cell(known.call, function):
                raise UsageError(f"train {self.name!r} has an undo handler for {channel!r} already: {known.name}")
            form = checked_shape(shape(function, names), options, where)
            self.undo_handlers[name] = Handler(name, function, form, options, self.around_handling, undoes=True)
            return function

        return register

    def every(
        self,
        when: str | float | timedelta,
        *,
        tz: str | tzinfo | None = None,
        name: str | None = None,
        channel: str | None = None,
    ) -> Callable[[_F], _F]:
        """Register a schedule: at each tick, what the function returns is published as one event, however many
        processes run the train. `@train.every("*/5 * * * *")` above a function without arguments, or with one: the time
        of the tick (an aware datetime in UTC). If it returns None, the tick is left out.

        `when` is a cron expression (needs `eventwagon[cron]`), evaluated in the time zone `tz` (default UTC), or an
        interval in seconds or as a timedelta, of at least 1 s, counted from 1970. `name` is what the processes know the
        schedule by (default: the function's name). `channel` is an inner channel instead of the ingress.

        Observers call the function; several may call it for one tick, and one event is kept. Put the work into the
        handler. If no observer runs, missed ticks are not made up for, except the last one. See docs/later.md. Raises
        UsageError, also for a name that is taken."""
        inner = "" if channel is None else self._inner(channel)

        def register(function: _F) -> _F:
            schedule = make_schedule(when, function, tz=tz, name=name, channel=inner)
            known = self.schedules.get(schedule.name)
            if known is not None and not _is_same_cell(known.function, function):
                raise UsageError(f"train {self.name!r} has a schedule {schedule.name!r} already: give another name=")
            self.schedules[schedule.name] = schedule
            return function

        return register

    def _inner(self, channel: str) -> str:
        """The inner channel's name; empty for the ingress, which has the train's. Raises UsageError."""
        return "" if plain(channel) == self.name else check_channel_name(channel)

    @property
    def longest_timeout(self) -> float:
        """How long a handler may take for one event, in seconds: the longest of all handlers'."""
        all_of_them = (*self.handlers.values(), *self.undo_handlers.values())
        given = (handler.options.timeout for handler in all_of_them)
        return max([self.settings.handler_timeout, *(seconds for seconds in given if seconds is not None)])

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
        meter: Meter | None = None,
        ledger: Ledger | None = None,
    ) -> Connection:
        """Return a connection to the train's broker and registry. Enter it with `async with`.

        `url` names broker and registry (`sqlite:///var/trains`); or pass both as objects. Without any of them, the
        environment variable `EVENTWAGON_URL` names them. `orchestrator` starts the
        workers of each wagon; without one, working processes attach to wagons by themselves. Each of `listeners` is
        called with every fact. `redeclare`: if another program has declared the train differently, store this program's
        settings instead. `meter` measures what the connection does: a `Metrics`, or your own (docs/metrics.md).
        `ledger` keeps the wagons' records instead of the one that the setting names. Raises UsageError, and Unavailable
        if this process may open no more files.
        """
        if url is None and broker is None and registry is None:
            url = _url_of_environment()
        if (url is None) == (broker is None or registry is None):
            raise UsageError("connect: give a URL, or a broker and a registry")
        given = plain(url)
        if url is not None and given is None:
            raise UsageError(f"connect: the URL must be a str, say 'sqlite:///var/trains', not a {type(url).__name__}")
        heard = items("connect: listeners", listeners) if is_a(listeners, list, tuple) else (None,)
        if not all(map(callable, heard)):
            raise UsageError("connect: listeners must be a list of functions, each of which takes a fact")
        if given is not None:
            made = open_drivers(given, clock=clock)
            broker, registry = broker or made.broker, registry or made.registry
        assert broker is not None and registry is not None  # noqa: S101, PT018 - for the type checker
        must_be(Broker, broker, "connect: broker")
        must_be(Registry, registry, "connect: registry")
        if orchestrator is not None:
            must_be(Orchestrator, orchestrator, "connect: orchestrator")
        if meter is not None:
            must_be(Meter, meter, "connect: meter")
        if ledger is not None:
            must_be(Ledger, ledger, "connect: ledger")
        elif self.settings.ledger is None:
            ledger = ledger_of(broker)
        elif self.settings.ledger != NO_LEDGER:
            ledger = open_ledger(self.settings.ledger, clock=clock)
        tracing.connected(self, broker)
        return Connection(self, broker, registry, orchestrator, heard, clock, redeclare, meter, ledger)

    def connect_blocking(self, url: str | None = None, *, listeners: Sequence[Listener] = (log,)) -> BlockingConnection:
        """Return a connection that publishes from programs without an event loop (Django, Flask, scripts, Celery).

        `url` as for `connect`; if it is left out, `EVENTWAGON_URL` is read when the connection opens, which is at its
        first call or where it is entered (`with`). Listeners are called in the connection's own thread. Raises
        UsageError.
        """
        if url is not None:
            self.connect(url, listeners=listeners)  # to refuse a mistake here and not at the first event
        return BlockingConnection(self.name, partial(self.connect, url, listeners=listeners))

    @asynccontextmanager
    async def working(
        self,
        url: str,
        *,
        owner: str = "",
        listeners: Sequence[Listener] = (log,),
        clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
    ) -> AsyncIterator[tuple[Broker, Orchestrator]]:
        """For processes started by an orchestrator: the broker at `url`, and an in-process orchestrator that attaches
        this process's workers to wagons by their `WagonSpec`s. The process does not follow the manifest; each wagon
        gets the number of workers in its spec. The workers claim events under the name `owner`, which
        no other process should have: if one of them has provably ended, the claims of both are given back.

        Leaving is graceful, as in `Connection.running`. Raises UsageError, Unavailable, StorageBroken.
        """
        if meter is not None:
            must_be(Meter, meter, "working: meter")
        drivers, metering = open_drivers(url, clock=clock), Metering.of(meter, self.name)
        once = once_for(self.name, self.settings, self.handlers, drivers.broker, drivers.registry)
        tracing.connected(self, drivers.broker)
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(drivers.broker)
            runtime = Runtime(
                train=self.name,
                settings=self.settings,
                publishing=PublishSettings(self.settings),
                broker=observed(broker, metering),
                clock=clock,
                tell=Telling(self.name, listeners if metering is None else [*listeners, metering.heard]),
                bulkhead=Bulkhead(self.name),
                handlers=self.handlers,
                undo_handlers=self.undo_handlers,
                opening=self.opening,
                name=owner,
                revision=self.revision,
                timetable=timetable_of(broker),
                once=once,
                metering=metering,
            )
            publisher = await stack.enter_async_context(
                TrainPublisher(runtime, lambda: open_drivers(url, clock=clock).registry)
            )
            state = await stack.enter_async_context(alive(self.opening, self.settings.grace, runtime.bulkhead))
            budgets: Mapping[str, ChannelBudget] = {}
            is_bounded = any(handler.options.is_bounded for handler in self.handlers.values())
            if is_bounded or (once is not None and once_of(broker) is None):
                registry = await stack.enter_async_context(drivers.registry)
                if is_bounded:
                    budgets = await stack.enter_async_context(agreed_budgets(runtime, registry))
            runtime = dataclasses.replace(runtime, state=state, budgets=budgets, publisher=publisher)
            workers, local = await stack.enter_async_context(wagon_workers(runtime, shared=False))
            if metering is not None:
                stack.enter_context(metering.joined(broker, self.revision, lambda: workers.figures))
            yield broker, local


def _url_of_environment() -> str:
    if url := os.environ.get(URL):
        return url
    raise UsageError(f"connect: give a URL, say connect('sqlite:///var/trains'), or set the environment's {URL}")


def _register(known: list[Middleware], function: Middleware) -> None:
    """Add it, or replace the one of the same cell. Raises UsageError if it is there already."""
    if function in known:
        raise UsageError(f"middleware {name_of(function)!r} is registered already")
    for place, each in enumerate(known):
        if _is_same_cell(each, function):
            known[place] = function
            return
    known.append(function)


def _is_same_cell(known: object, new: object) -> bool:
    """Whether both are the same function of a program that is typed in: a cell that runs again makes it anew."""
    places = [(getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (known, new)]
    is_typed_in = not hasattr(sys.modules["__main__"], "__file__")
    return is_typed_in and places[0] == places[1] and places[0][0] == "__main__" and bool(places[0][1])
