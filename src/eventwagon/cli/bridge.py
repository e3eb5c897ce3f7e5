"""`bridge`: reads a flow that others write, and publishes each record into a train."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.progress import Progress, TextColumn
from rich.text import Text

from ..bridge.mapping import Rules, Unmapped, event_of
from ..bridge.opening import open_source
from ..bridge.runner import Bridge
from ..bridge.source import Begin, Source
from ..connection import Connection
from ..display.redaction import shown
from ..display.text import count, local_time, span
from ..errors import UsageError
from ..event import Event
from ..metrics.serving import LOOPBACK
from ..runtime.handler import Handler
from ..tracing.exporting import exporting
from ..values import shown as value_shown
from .completion import NAMED
from .console import DEFAULT_URL, Code, Ended, Url, beside, err, job, line, out
from .fitting import Misfit, decoded
from .health import Health
from .scraped import MetricsHost, MetricsPort, Scraped
from .serve import HealthHost, HealthPort, LogFormat, LogLevel, asked_to_end, is_json, level_of, set_up_logging
from .target import load_train, reached
from .times import time_given

_EVERY = 0.5
"""Seconds between two updates of the line in a terminal."""
_LOG_EVERY = 60.0
"""Seconds between two lines of the log about the progress."""
_AHEAD = 60.0
"""Seconds that --from may lie ahead: clocks differ."""
_logger = logging.getLogger("eventwagon.bridge")


@job
async def bridge(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Where to read: redis://HOST/STREAM?group=NAME, kafka://HOST/TOPIC?group=NAME, sqs://REGION/QUEUE, "
            "postgresql://HOST/DATABASE?table=outbox, - (JSON Lines from stdin), or env:NAME (the environment variable "
            "that holds the URL, for one with a password).",
        ),
    ],
    target: Annotated[str, NAMED],
    url: Url = DEFAULT_URL,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="FROM",
            help="Where an event's subject comes from: key, header:NAME or body:FIELD. Default: its own, else the key.",
        ),
    ] = "",
    event_type: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="FROM",
            help="Where its type comes from: key, header:NAME or body:FIELD; anything else is the type itself. "
            "Default: its own.",
        ),
    ] = "",
    channel: Annotated[
        str,
        typer.Option(
            "--channel", metavar="NAME", help="The inner channel that the events are for. Default: the ingress."
        ),
    ] = "",
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Where a new group begins: earliest, latest, or a time, say 2027-01-31T18:00:00+01:00. A group that "
            "has a position goes on from there. Default: a new group is refused.",
        ),
    ] = None,
    dry_run: Annotated[
        int | None,
        typer.Option(
            "--dry-run", min=1, max=1000, metavar="NUMBER", help="Show what becomes of so many records; take none."
        ),
    ] = None,
    no_observe: Annotated[
        bool,
        typer.Option(
            "--no-observe",
            help="Don't observe the train: others do. It does only if TARGET is a program with the train's handlers.",
        ),
    ] = False,
    health_port: HealthPort = None,
    health_host: HealthHost = "",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Read a flow that others write, and publish each record into a train; its producers stay as they are.

    It joins the consumer group of the old workers: to cut over stop them and start the bridge, to go back do the
    reverse. A record is committed once its event is stored. What can't be an event goes to the train's dead letters.

    Ctrl-C and SIGTERM end it gracefully: it finishes its batch, commits, and leaves the group. A second signal ends it
    at once. Stdin may end by itself.
    """
    level, as_json = level_of(log_level), is_json(log_format)
    where = open_source(_url(source), _begin(begin))
    train = load_train(target) if ":" in target else None
    observes = not no_observe and train is not None and "" in train.handlers  # else it does not know the channels
    set_up_logging(level, as_json=as_json)
    health, scraped = Health(health_port, health_host), Scraped(metrics_port, metrics_host)
    with exporting("eventwagon bridge"), asked_to_end() as asked:
        async with AsyncExitStack() as stack:
            if dry_run is not None:
                c = await stack.enter_async_context(reached(target, url) if train is None else train.connect(url))
                rules = _rules(c, where, key, event_type, channel)
                handler = train.handlers.get(channel) if train is not None else None
                await _show(await stack.enter_async_context(where), rules, dry_run, handler)
                return
            await stack.enter_async_context(scraped.answering())
            meter = scraped.meter
            c = await stack.enter_async_context(
                reached(target, url, meter=meter) if train is None else train.connect(url, meter=meter)
            )
            rules = _rules(c, where, key, event_type, channel)
            await stack.enter_async_context(where)
            health.expect([c.train.name])
            await stack.enter_async_context(health)
            if observes:
                await stack.enter_async_context(c.running(work=False))
            await stack.enter_async_context(health.watching(c, observes=observes, works=False))
            bridge = Bridge(where, c, rules)
            if meter is not None:
                stack.callback(meter.add(bridge.points))
            await _run(bridge, c, url, observes, asked)


def _url(source: str) -> str:
    """The URL itself, of a source that is given as an environment variable. Raises UsageError."""
    if not source.startswith("env:"):
        return source
    if not (url := os.environ.get(source.removeprefix("env:"), "")):
        raise UsageError(f"SOURCE {value_shown(source)}: there is no environment variable of this name, or it is empty")
    return url


def _begin(text: str | None) -> Begin:
    """Raises UsageError."""
    if text is None or text in ("earliest", "latest"):
        return text  # type: ignore[return-value]  # mypy does not narrow a str to these
    try:
        at = time_given("--from", text)
    except UsageError as e:
        raise UsageError(f"{e}, earliest or latest") from None
    if at is None:
        return None
    if not 0 <= at.timestamp() <= time.time() + _AHEAD:
        raise UsageError(f"--from {value_shown(text)}: give a time between 1970 and now")
    return at.timestamp()


def _rules(c: Connection, source: Source, key: str, event_type: str, channel: str) -> Rules:
    """Raises UsageError."""
    rules = Rules.parse(source.name, c.publishing.now.max_event_bytes, key=key, kind=event_type, channel=channel)
    channels = c.manifest.channels or c.train.channels
    if channel and channel not in channels:
        there = ", ".join(channels) or "none"
        raise UsageError(f"--channel {value_shown(channel)}: the train has no such inner channel; there are: {there}")
    return rules


async def _run(bridge: Bridge, c: Connection, url: str, observes: bool, asked: asyncio.Event) -> None:
    name = c.train.name
    does = "observes it" if observes else "does not observe it"
    text = "bridge from %s into train %s at %s; %s; Ctrl-C ends it"
    _logger.info(text, bridge.source.name, name, shown(url), does)
    async with asyncio.TaskGroup() as tasks:
        helpers = [tasks.create_task(_log(bridge)), tasks.create_task(_stopped(c, asked))]
        async with _line(bridge):
            await bridge.run(asked)
        for task in helpers:
            task.cancel()
    dead = f", {count(bridge.buried, 'dead letter')}" if bridge.buried else ""
    line(f"published {count(bridge.passed, 'event')} to {name}{dead}")
    if bridge.waits_for:
        raise Ended(Code.FAILED, f"it ended while it was held up: {bridge.waits_for}")


async def _stopped(c: Connection, asked: asyncio.Event) -> None:
    await c.stopped()
    _logger.info("%s: ending: the train's processes were asked to", c.name)
    asked.set()


@asynccontextmanager
async def _line(bridge: Bridge) -> AsyncIterator[None]:
    """In a terminal: one line with the progress, while entered."""
    # the log's own console: it prints lines above the progress, and not into it
    console = next((each.console for each in logging.getLogger().handlers if isinstance(each, RichHandler)), err())
    if not console.is_terminal:
        yield
        return
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("")

        async def update() -> None:
            loop = asyncio.get_running_loop()
            before, at, rate = 0, loop.time(), 0.0
            while True:
                await asyncio.sleep(_EVERY)
                done, now = bridge.passed + bridge.buried, loop.time()
                rate += ((done - before) / (now - at) - rate) / 4
                before, at = done, now
                progress.update(task, description=Text(_progress(bridge, rate)).markup)

        async with asyncio.TaskGroup() as tasks:
            updating = tasks.create_task(update())
            try:
                yield
            finally:
                updating.cancel()


async def _log(bridge: Bridge) -> None:
    """Log the progress from time to time, unless nothing has happened."""
    before = 0
    while True:
        await asyncio.sleep(_LOG_EVERY)
        done = bridge.passed + bridge.buried
        if done != before or bridge.trouble:
            _logger.info("bridge from %s: %s", bridge.source.name, _progress(bridge, (done - before) / _LOG_EVERY))
        before = done


def _progress(bridge: Bridge, rate: float) -> str:
    parts = [f"{count(bridge.passed, 'event')} published", f"{rate:,.0f}/s"]
    if bridge.buried:
        parts.append(count(bridge.buried, "dead letter"))
    if bridge.lag.records is not None:
        parts.append(f"{count(bridge.lag.records, 'record')} behind")
    if bridge.lag.seconds:
        parts.append(f"the oldest for {span(bridge.lag.seconds)}")
    if bridge.trouble:
        parts.append(f"held up: {bridge.trouble}")
    return ", ".join(parts)


async def _show(source: Source, rules: Rules, number: int, handler: Handler | None) -> None:
    """Print what becomes of the next records, and which ones `handler` would never handle; None: it is not known."""
    records = await source.peek(number)
    console, dead = out(), 0
    for record in records:
        outcome = event_of(record, rules)
        because = _because(outcome, handler)
        dead += bool(because)
        text = f"DEAD LETTER: {because}" if because else ""
        if isinstance(outcome, Event):
            text = f"{text}; {_content(outcome)}" if text else _described(outcome)
        if console.is_terminal:
            console.print(beside(Text(record.position), text))
        else:
            line(f"{record.position}  {text}")
    line(f"{count(len(records), 'record')} shown, none taken" + (f"; {count(dead, 'dead letter')}" if dead else ""))


def _because(outcome: Event | Unmapped, handler: Handler | None) -> str:
    """Why it would be a dead letter; empty: it would not, as far as can be seen without handling it."""
    if isinstance(outcome, Unmapped):
        return outcome.because
    try:
        if handler is not None:
            decoded(handler, outcome)
    except Misfit as e:
        return str(e)
    return ""


def _described(outcome: Event) -> str:
    words = [f"id={outcome.id}", f"type={outcome.type}", f"source={outcome.source}", f"time={local_time(outcome.time)}"]
    if outcome.subject is not None:
        words.append(f"subject={outcome.subject}")
    words += [f"{name}={value}" for name, value in outcome.extensions.items()]
    return f"{' '.join(words)} {_content(outcome)}"


def _content(event: Event) -> str:
    data = event.data[:200].decode("utf-8", "replace") + ("…" if len(event.data) > 200 else "")
    return f"{event.content_type}: {data}"
