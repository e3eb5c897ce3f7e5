"""`doctor`: what a broker and a registry can do, and what this user may do there, tried on a probe channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from secrets import randbelow
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from ..broker import Broker, Capabilities
from ..drivers import open_drivers
from ..errors import ChannelGone, Conflict, EventwagonError, Sealed
from ..event import Channel, Event, new_ids
from ..manifest import Manifest
from ..registry import Member, Registry
from .console import AsJson, Code, Ended, job, json_line, listing, out, words

_TRAIN = "eventwagon-doctor"
"""Never listed among the trains: it has no manifest."""
_PATIENCE = 15.0
"""Seconds for one step."""
_EVENTS = 3

_MEANS = {
    "fences": ("the broker itself refuses writes after the seal", "leases stand in; removal waits for keep_drained"),
    "bounds": ("Volume(n) is exact", "a wagon may take a little more than Volume(n)"),
    "totals": (
        "emptiness is proven by totals",
        "totals are estimates; where they are unknown, no wagon is proven empty",
    ),
    "durable": ("what was accepted survives this process", "nothing survives this process"),
    "shared": ("other processes reach the same channels", "for one process only"),
    "reclaims": (
        "what a process that has surely ended had in hand comes back at once",
        "what an ended process had in hand comes back after the visibility time, or when the server notices",
    ),
    "ordered": ("events come in the order of their publishing", "in order within a partition only"),
}


class Step(msgspec.Struct, frozen=True):
    """One thing that was tried. `seconds` is how long it took; `problem` is empty where it worked."""

    what: str
    seconds: float = 0.0
    problem: str = ""
    skipped: bool = False


class Examination:
    """Tries one thing after the other; what needs something that failed is skipped."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @property
    def well(self) -> bool:
        """Nothing failed so far."""
        return not any(step.problem for step in self.steps)

    async def attempt(self, what: str, call: Callable[[], Awaitable[object]], *, always: bool = False) -> None:
        """Try it, unless something failed before."""
        if not self.well and not always:
            self.steps.append(Step(what, skipped=True))
            return
        began = time.perf_counter()
        problem = ""
        try:
            async with asyncio.timeout(_PATIENCE):
                await call()
        except TimeoutError:
            problem = f"no answer within {_PATIENCE:g} s"
        except EventwagonError as e:
            problem = str(e) or type(e).__name__
        self.steps.append(Step(what, time.perf_counter() - began, problem))


class _Wrong(EventwagonError):
    """It answered, and not as its contract says."""


async def examine_broker(broker: Broker, examination: Examination) -> None:
    """Make a channel, use it as a wagon's is used, remove it. The broker is entered."""
    attempt = examination.attempt
    channel = Channel(_TRAIN, 1 + randbelow(10**9))
    now = time.time()
    events = [Event(name, "eventwagon.probe", "eventwagon/doctor", now, b"{}") for name in new_ids(_EVENTS, now)]

    async def browse() -> None:
        found = [event.id async for event in broker.read(channel)]
        if sorted(found) != sorted(event.id for event in events):
            raise _Wrong(f"{len(found)} events stand there, not the {_EVENTS} that were published")

    async def consume() -> None:
        async with broker.consume(channel, visibility=60.0) as consumer:
            got = 0
            while got < _EVENTS:
                some = await consumer.receive(_EVENTS - got, _PATIENCE)
                if not some:
                    raise _Wrong(f"{got} of {_EVENTS} events came")
                await consumer.extend(some)
                await consumer.settle(some)
                got += len(some)

    async def figures() -> None:
        (depth,) = await broker.depth([channel])
        if broker.capabilities.totals and (depth.published, depth.settled) != (_EVENTS, _EVENTS):
            raise _Wrong(f"the totals are {depth.published} published, {depth.settled} settled; expected {_EVENTS}")

    async def refused() -> None:
        try:
            await broker.publish(channel, events[:1])
        except (Sealed, ChannelGone):
            return
        raise _Wrong("an event was accepted")

    async def listed() -> None:
        if channel not in list(await broker.channels(_TRAIN)):
            raise _Wrong(f"channel {channel} is not listed")

    await attempt("create a channel", lambda: broker.create(channel))
    await attempt("list channels", listed)
    await attempt(f"publish {_EVENTS} events", lambda: broker.publish(channel, events))
    await attempt("browse them", browse)
    await attempt("receive, extend and settle them", consume)
    await attempt("read the totals", figures)
    await attempt("seal the channel", lambda: broker.seal(channel))
    if broker.capabilities.fences:
        await attempt("be refused when publishing after the seal", refused)
    await attempt("delete the channel", lambda: broker.delete(channel), always=True)
    await attempt("be refused when publishing after the deletion", refused)


async def examine_registry(registry: Registry, examination: Examination) -> None:
    """Check in and out, and try a compare-and-swap that must fail. Leaves no train. The registry is entered."""
    member = Member(name="doctor")

    async def swap() -> None:
        try:
            await registry.replace(_TRAIN, Manifest(train=_TRAIN), expect=7)
        except Conflict:
            return
        raise _Wrong("a compare-and-swap on a wrong revision succeeded")

    async def there() -> None:
        if member not in list(await registry.members(_TRAIN)):
            raise _Wrong("a member that has just checked in is not listed")

    async def readable() -> None:
        for train in await registry.trains():
            await registry.read(train)

    await examination.attempt("list the trains", registry.trains)
    await examination.attempt("check in", lambda: registry.check_in(_TRAIN, member, ttl=60.0))
    await examination.attempt("list the members", there)
    await examination.attempt("check out", lambda: registry.check_in(_TRAIN, member, ttl=0.0))
    await examination.attempt("be refused a compare-and-swap on a wrong revision", swap)
    await examination.attempt("read each train's manifest", readable, always=True)


@job
async def doctor(
    url: Annotated[
        str,
        typer.Argument(
            envvar="EVENTWAGON_URL",
            help="The broker and registry to try: redis://host:6379, kafka://host:9092 … With a password in it: in the "
            "environment, for all can read a command line.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a broker can do, and whether this user may do there all that a train needs.

    It connects, makes a probe channel, publishes, browses, consumes, seals, deletes, and tries the registry. Each step
    is printed; one that fails says what is wrong or which right is missing. Nothing is left behind but, on some
    brokers, an empty registry topic of the train eventwagon-doctor.
    """
    drivers = open_drivers(url)
    found = {"broker": Examination(), "registry": Examination()}
    async with AsyncExitStack() as stack:
        examination = found["broker"]
        await examination.attempt("connect", lambda: stack.enter_async_context(drivers.broker))
        if examination.well:
            await examine_broker(drivers.broker, examination)
        examination = found["registry"]
        await examination.attempt("connect", lambda: stack.enter_async_context(drivers.registry))
        if examination.well:
            await examine_registry(drivers.registry, examination)
    well = all(examination.well for examination in found.values())
    capabilities = drivers.broker.capabilities
    if as_json:
        report = {
            "url_scheme": url.partition(":")[0],
            "capabilities": capabilities,
            "steps": {name: examination.steps for name, examination in found.items()},
            "well": well,
        }
        json_line(report)
    else:
        _show(capabilities, found)
    if not well:
        raise Ended(Code.FAILED, "not everything that a train needs is there")


def _show(capabilities: Capabilities, found: dict[str, Examination]) -> None:
    console = out()
    rows: list[tuple[str | Text, ...]] = []
    for name in Capabilities.__struct_fields__:
        has, lacks = _MEANS[name]
        there = getattr(capabilities, name)
        rows.append((_mark(there), name, has if there else lacks))
    console.print(listing(("", "can", ""), rows, console.width))
    for name, examination in found.items():
        console.print(f"\n[bold]{name}[/]")
        for step in examination.steps:
            if step.skipped:
                console.print(words(f"- {step.what}: not tried", "dim"))
            elif step.problem:
                console.print(Text.assemble(_mark(False), words(f" {step.what}: {step.problem}")), soft_wrap=True)
            else:
                console.print(Text.assemble(_mark(True), f" {step.what} ", (f"{step.seconds * 1000:.0f} ms", "dim")))


def _mark(well: bool) -> Text:
    return Text("✓", style="green") if well else Text("✗", style="red")
