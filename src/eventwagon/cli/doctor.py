"""`doctor`: tries a broker and a registry with a probe channel; reports capabilities, missing rights, and the server's
settings that matter to events."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from secrets import token_hex
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..contracts.address import options_of
from ..contracts.broker import Broker, Capabilities, Finding, Inspectable, Named, Severity
from ..contracts.manifest import Manifest
from ..contracts.registry import Member, Registry
from ..display.redaction import shown
from ..display.text import escaped
from ..drivers.opening import Drivers, open_drivers
from ..errors import ChannelGone, Conflict, EventwagonError, Sealed, Unavailable, UsageError
from ..event import Channel, Event, new_ids
from ..values import split_url
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, job, json_line, out, say, words

_TRAIN = "eventwagon-doctor"
"""The beginning of the probe train's name. That train has no manifest, so it is never listed among the trains."""
_PATIENCE = 15.0
"""Timeout of a step, in seconds."""
_EVENTS = 3

_MEANS = {
    "fences": (
        "the broker itself refuses writes after the seal",
        "publishers use leases instead; removal waits for keep_drained",
    ),
    "bounds": (
        "Volume(n) is exact",
        "a wagon takes more than Volume(n): all that comes in before an observer notices, and the rest of a large call",
    ),
    "totals": (
        "emptiness is proven by totals",
        "totals are estimates; where they are unknown, no wagon is proven empty",
    ),
    "durable": ("accepted events survive this process", "no event survives this process"),
    "shared": ("other processes reach the same channels", "for one process only"),
    "reclaims": (
        "the events of a process that has provably ended come back at once",
        "the events of an ended process come back after the visibility time, or when the server notices",
    ),
    "losses": (
        "events that the server removes are counted and reported",
        "the broker does not count events that its server loses; a running observer reports them when totals fall",
    ),
    "ordered": ("events come in the order of their publishing", "in order within a partition only"),
}


_SIGNS: dict[Severity, tuple[str, str, str]] = {
    "loses": ("✗", "loses events", "bold red"),
    "costs": ("!", "costs", "yellow"),
    "unknown": ("?", "can't be seen", "cyan"),
    "fine": ("✓", "fine", "green"),
}
"""Mark, label and style of each severity, the most serious first."""


class Step(msgspec.Struct, frozen=True):
    """One step of an examination. `seconds` is how long it took; `problem` is empty if it succeeded."""

    what: str
    seconds: float = 0.0
    problem: str = ""
    skipped: bool = False
    answered: bool = True
    """False: the server gave no answer."""


class Examination:
    """Runs steps in turn and records their results. After a failure it skips the steps that follow, except those that
    always run."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.findings: dict[Finding, None] = {}

    @property
    def well(self) -> bool:
        """True as long as no step has failed."""
        return not any(step.problem for step in self.steps)

    async def attempt(
        self, what: str, call: Callable[[], Awaitable[object]], *, always: bool = False, makes: bool = False
    ) -> None:
        """Run `call` as the step named `what`. It is skipped if an earlier step failed, unless `always` is set. A call
        that `makes` something is finished even if this is cancelled, since what is half made can't be removed. Errors
        of drivers and timeouts become the step's `problem`; they are not raised."""
        if not self.well and not always:
            self.steps.append(Step(what, skipped=True))
            return
        began = time.perf_counter()
        problem, answered = "", True
        try:
            if makes:
                await _finish(call)
            else:
                async with asyncio.timeout(_PATIENCE):
                    await call()
        except TimeoutError:
            problem, answered = f"no answer within {_PATIENCE:g} s", False
        except EventwagonError as e:
            problem, answered = str(e) or type(e).__name__, not isinstance(e, Unavailable)
        self.steps.append(Step(what, time.perf_counter() - began, problem, answered=answered))

    async def inspect(
        self, driver: object, channels: Sequence[Channel], *, of: str = "the server's", fine: bool = True
    ) -> None:
        """Read the settings of the driver's server, if the driver can. `fine`: also keep the settings that are
        correct."""

        async def look(asked: Inspectable) -> None:
            found = await asked.inspect(channels)
            known = {(finding.what, finding.severity) for finding in self.findings}  # figures may have changed since
            new = [f for f in found if (f.what, f.severity) not in known and (fine or f.severity != "fine")]
            self.findings.update(dict.fromkeys(new))

        if isinstance(driver, Inspectable):
            await self.attempt(f"read {of} settings", lambda: look(driver), always=True)


async def _finish(call: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(call())
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=deadline - asyncio.get_running_loop().time())
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        elif not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it: the caller reports it


class _Wrong(EventwagonError):
    """A driver's answer violates its contract."""


async def examine(drivers: Drivers, *, together: bool = False) -> dict[str, Examination]:
    """Connect to broker and registry, try everything that a train does, and delete what was created, even if a step
    fails or this is cancelled. Returns an examination for `broker` and one for `registry`. `together`: they are on one
    server; if it does not answer the broker, it is not asked again."""
    found = {"broker": Examination(), "registry": Examination()}
    for_broker, for_registry = found["broker"], found["registry"]
    broker, registry = drivers
    train = f"{_TRAIN}-{token_hex(4)}"
    async with AsyncExitStack() as stack:

        async def reach(driver: AbstractAsyncContextManager[Any], ask: Callable[[], Awaitable[object]]) -> None:
            """Some drivers connect with their first call only. An error that is an answer is left to its own step."""
            await stack.enter_async_context(driver)
            try:
                await ask()
            except Unavailable:
                raise
            except EventwagonError:
                pass

        await for_broker.attempt("connect", lambda: reach(broker, lambda: broker.channels(train)))
        if together and not _is_connected(for_broker):
            for_registry.steps.append(Step("connect", skipped=True))
        else:
            await for_registry.attempt("connect", lambda: reach(registry, lambda: registry.read(train)))
        is_broker_there, is_registry_there = _is_connected(for_broker), _is_connected(for_registry)

        async def leave() -> None:
            if is_registry_there:
                await for_registry.attempt(
                    "leave nothing behind", lambda: registry.delete(train), always=True, makes=True
                )

        try:
            trains = await examine_registry(registry, for_registry, train) if is_registry_there else []
            if is_broker_there:
                await examine_broker(broker, for_broker, train)
            if is_registry_there:
                await for_registry.inspect(registry, [Channel(train, 1)])
            if trains and is_broker_there:
                await examine_trains(drivers, for_broker, for_registry, trains)
        except BaseException:
            await leave()
            for step in (*for_broker.steps, *for_registry.steps):
                if step.problem:  # nobody sees them otherwise, and something may be left behind
                    say(f"{step.what}: {step.problem}")
            raise
        await leave()
    of_broker = {(finding.what, finding.severity) for finding in for_broker.findings}
    for finding in [f for f in for_registry.findings if (f.what, f.severity) in of_broker]:
        del for_registry.findings[finding]  # the same server
    return found


async def examine_trains(
    drivers: Drivers, for_broker: Examination, for_registry: Examination, trains: Sequence[str]
) -> None:
    """Inspect the channels of the existing `trains`; adds only settings that cost or lose events and were not found for
    the probe channel."""
    broker, registry = drivers
    channels = list[Channel]()

    async def known() -> None:
        for train in trains:
            channels.extend(await broker.channels(train))

    await for_broker.attempt("list all trains' channels", known, always=True)
    await for_broker.inspect(broker, channels, of="the trains'", fine=False)
    await for_registry.inspect(registry, [Channel(train, 1) for train in trains], of="the trains'", fine=False)


async def examine_broker(broker: Broker, examination: Examination, train: str) -> None:
    """Create a channel of `train`, use it as a wagon's channel is used, and delete it. The broker is open."""
    attempt = examination.attempt
    channel = Channel(train, 1)
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
        if channel not in list(await broker.channels(train)):
            raise _Wrong(f"channel {channel} is not listed")

    async def delete() -> None:
        try:
            await broker.delete(channel)
        except EventwagonError as e:
            name = broker.name_of(channel) if isinstance(broker, Named) else str(channel)
            raise _Wrong(f"{e}; {name} may be left behind: remove it by hand") from e

    try:
        await attempt("create a channel", lambda: broker.create(channel), makes=True)
        await examination.inspect(broker, [channel])
        await attempt("list channels", listed)
        await attempt(f"publish {_EVENTS} events", lambda: broker.publish(channel, events), makes=True)
        await attempt("browse them", browse)
        await attempt("receive, extend and settle them", consume)
        await attempt("read the totals", figures)
        await attempt("seal the channel", lambda: broker.seal(channel), makes=True)
        if broker.capabilities.fences:
            await attempt("be refused when publishing after the seal", refused)
    finally:
        await attempt("delete the channel", delete, always=True, makes=True)
    await attempt("be refused when publishing after the deletion", refused)


async def examine_registry(registry: Registry, examination: Examination, train: str) -> Sequence[str]:
    """Check in and out, and try a compare-and-swap that must fail. Returns the names of the existing trains. The
    registry is open."""
    member = Member(name="doctor")
    trains = list[str]()

    async def swap() -> None:
        try:
            await registry.replace(train, Manifest(train=train), expect=7)
        except Conflict:
            return
        raise _Wrong("a compare-and-swap on a wrong version succeeded")

    async def there() -> None:
        if member not in list(await registry.members(train)):
            raise _Wrong("a member that has just checked in is not listed")

    async def known() -> None:
        trains.extend(await registry.trains())

    async def readable() -> None:
        for each in trains:
            await registry.read(each)

    async def attended() -> None:
        for each in trains:
            await registry.members(each)

    async def written() -> None:
        for each in trains:
            async for _ in registry.entries(each, last=1):
                pass

    await examination.attempt("list the trains", known)
    await examination.attempt("check in", lambda: registry.check_in(train, member, ttl=60.0), makes=True)
    await examination.attempt("list the members", there)
    await examination.attempt("be refused a compare-and-swap on a wrong version", swap, makes=True)
    await examination.attempt("check out", lambda: registry.check_in(train, member, ttl=0.0))
    await examination.attempt("read each train's manifest", readable, always=bool(trains))
    await examination.attempt("list each train's members", attended, always=bool(trains))
    await examination.attempt("read each train's journal", written, always=bool(trains))
    return trains


@contextmanager
def _ended_gently() -> Iterator[None]:
    """SIGTERM cancels the current task, as Ctrl-C does, so that it removes what it created."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None, "called in one"  # noqa: S101 - for mypy
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)


@job
async def doctor(
    ctx: typer.Context,
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="URL of the broker and registry to check: redis://host:6379, kafka://host:9092 … If it contains a "
            "password, set EVENTWAGON_URL instead: every user of this machine can read the command line.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Check a broker and a registry: what they can do, whether this user has all the rights that a train needs, and
    which of the server's settings endanger events.

    It creates a probe channel, publishes, browses, consumes, seals, deletes, tries the registry, and reads the server's
    settings, also for the channels of existing trains. It prints each step, with the error or the missing right if it
    fails, and each setting that matters, with its meaning and what to do.

    It exits with 1 if a step fails or a setting loses events. It deletes what it created, even if it is interrupted,
    with one exception: on AWS, a missing table is created and kept.
    """
    source = ctx.get_parameter_source("url")
    if place is not None and source is not None and source.name == "COMMANDLINE":
        raise UsageError("give the URL as an argument or with --url, not both")
    url = place if place is not None else url
    drivers = open_drivers(url)
    with _ended_gently():
        found = await examine(drivers, together="registry" not in options_of(url))
    findings = [finding for examination in found.values() for finding in examination.findings]
    is_all_there = all(examination.well for examination in found.values())
    losses = sum(finding.severity == "loses" for finding in findings)
    capabilities = drivers.broker.capabilities
    if as_json:
        report = {
            "url": escaped(shown(url)),
            "capabilities": capabilities,
            "tried": _is_connected(found["broker"]),
            "means": dict(_meanings(capabilities)),
            "steps": {name: examination.steps for name, examination in found.items()},
            "findings": {name: list(examination.findings) for name, examination in found.items()},
            "well": is_all_there and not losses,
        }
        json_line(report)
    else:
        _show(url, capabilities, found)
    problems = []
    if silent := [name for name, examination in found.items() if not examination.steps[0].answered]:
        who = f"the {silent[0]} does not answer" if len(silent) == 1 else "neither the broker nor the registry answers"
        reached = ": is it running, can it be reached from here, and are host and port right?"
        problems.append(f"{who}{reached if split_url(url).hostname else ': see above'}")
    elif not is_all_there:
        is_reached = all(_is_connected(examination) for examination in found.values())
        lacking = "lacks something that a train needs" if is_reached else "could not be examined: see above"
        problems.append(f"the broker {lacking}")
    if losses:
        problems.append(f"{losses} setting{'s' if losses > 1 else ''} of the server can lose events")
    if problems:
        raise Ended(Code.FAILED, "; ".join(problems))


def _meanings(capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    for name in Capabilities.__struct_fields__:
        has, lacks = _MEANS[name]
        yield name, has if getattr(capabilities, name) else lacks


def _is_connected(examination: Examination) -> bool:
    first = examination.steps[0]
    return not first.problem and not first.skipped


def _show(url: str, capabilities: Capabilities, found: dict[str, Examination]) -> None:
    console = out()
    console.print(words(shown(url), "bold"), soft_wrap=True)
    console.print()
    longest = max(map(len, Capabilities.__struct_fields__))
    is_tried = _is_connected(found["broker"])
    head, note = "what the driver declares", "not tried: no connection"
    if is_tried:
        head, note = "what the broker can do", "–: not here, and what that means"
    console.print(Text.assemble((head, "bold"), (f" ({note})", "dim")))
    for name, means in _meanings(capabilities):
        has = getattr(capabilities, name)
        mark = (_mark(True) if has else Text("–", style="yellow")) if is_tried else Text("-")
        _item(console, mark, f"{name:{longest}}", Text(means))
    for name, examination in found.items():
        console.print(f"\n[bold]{name}[/]")
        for step in examination.steps:
            if step.skipped:
                _item(console, Text("-"), "", words(f"{step.what}: not tried", "dim"))
            elif step.problem:
                _item(console, _mark(False), "", words(f"{step.what}: {step.problem}"))
            else:
                took = (f"{step.seconds * 1000:.0f} ms", "dim")
                _item(console, _mark(True), "", Text.assemble(words(step.what), " ", took))
    for name, examination in found.items():
        if examination.findings:
            console.print(f"\n[bold]the {name}'s settings[/]")
            _show_findings(console, examination.findings)


def _show_findings(console: Console, findings: Iterable[Finding]) -> None:
    order = list(_SIGNS)
    for finding in sorted(findings, key=lambda finding: order.index(finding.severity)):
        sign, called, style = _SIGNS[finding.severity]
        text = Text.assemble(words(finding.what, "bold"), ": ", words(finding.means))
        if finding.todo:
            text.append("\n" if console.is_terminal else " ").append("→ ", "bold").append_text(words(finding.todo))
        _item(console, Text(sign, style=style), f"{called:13}", text, style)


def _item(console: Console, mark: Text, head: str, text: Text, style: str = "") -> None:
    """Print a mark, a label and an indented text; on one line if the output is no terminal."""
    if not console.is_terminal:
        console.print(Text.assemble(mark, " ", (head, style), " " * bool(head), text), soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 1))
    cells = [mark, Text(head, style), text] if head else [mark, text]
    for _ in cells[1:]:
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(*cells)
    console.print(grid)


def _mark(well: bool) -> Text:
    return Text("✓", style="green") if well else Text("✗", style="red")
