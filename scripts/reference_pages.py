"""The reference pages of the site: the public API from its docstrings, the commands from their parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer.main

import eventwagon
from eventwagon.cli.app import app
from eventwagon.contracts import lifecycle

PACKAGE = "eventwagon"


class Page(NamedTuple):
    """A page of the API: an introduction, and names in groups. A name without a module is the package's own."""

    title: str
    about: str
    groups: dict[str, str]


API = {
    "trains": Page(
        "Train, connections, contexts",
        "To declare a train, to publish, to steer. By call, with examples: "
        "[Train and Connection](../docs/connection.md), [handlers](../docs/index.md#handlers).",
        {
            "Declare": "Train",
            "Connect": "Connection BlockingConnection",
            "In a handler": "Context BatchContext Next Retry Snooze Reject Failed",
        },
    ),
    "settings": Page(
        "Limits, workers, settings",
        "When a wagon is full, who works, and what can be set. With examples: [limits and settings]"
        "(../docs/limits.md), [workers](../docs/workers.md), [a wagon that fails](../docs/guides/bad-wagon.md).",
        {
            "Limits": "Volume Age Lag Throughput Wait",
            "Limits of your own": "Limit Reading Pressure",
            "Workers": "Workers Elastic",
            "Handlers and pauses": "Budget Breaker PauseOn",
            "Settings of a train": "Settings",
        },
    ),
    "events": Page(
        "Events, dead letters, records",
        "What a program reads and writes besides its payloads.",
        {
            "Events": "Event Waiting PastEvents",
            "Dead letters": "DeadLetters DeadLetter DeadFilter DeadGroup DeadPreview DeadDone",
            "The ledger": "WagonRecord RecordFilter",
            "Undo": "Undone UndoPreview UndoChannel",
            "Logging": "JsonFormatter",
        },
    ),
    "errors": Page(
        "Errors",
        "As a table with what to do: [errors](../docs/index.md#errors). `Reject`, `Retry` and `Snooze`, which handlers "
        "raise, are with the [contexts](trains.md#in-a-handler).",
        {
            "The root, and a program's mistakes": "EventwagonError UsageError DeclarationDiffers UnknownTrain "
            "EndedEarly Defect",
            "Publishing": "PublishError EventRefused EventTooLarge TrainFull TrainPaused TrainRemoved PublishTimeout",
            "Of a broker": "BrokerError Sealed ChannelFull ChannelGone PublishUncertain Unavailable StorageBroken "
            "Displaced",
            "Of a registry": "RegistryError Conflict BrokenManifest",
            "Steering": "RemovalRefused DeadLettersChanged",
        },
    ),
    "facts": Page(
        "Facts",
        "What listeners receive and the journal stores, each with its figures. In one table: "
        "[the names](../docs/index.md#the-public-names).",
        {
            "In general": "Fact Listener Entry UnknownFact",
            "A train": "Declared ChannelsAdded ChannelsDropped NumbersSkipped RegistrySteppedBack StepFailed "
            "DefectFound StopRequested RemovalAsked RemovalGivenUp",
            "A wagon begins": "WagonOpened OpenRefused ProvisioningFailed WagonReady WorkersLost WorkersCrashed "
            "WagonScaled PromiseAtRisk FellAsleep WokenUp",
            "A switch": "Switched SwitchRequested SwitchRefused SwitchSeen SwitchWithdrawn SwitchGivenUp BoundLifted "
            "WatchDropped WatchEnded WentBack",
            "A wagon ends": "SealWaits WagonSealed WagonDrained DrainUnproven DrainGivenUp Discarded WagonArchived "
            "ArchiveIncomplete WagonRemoved WagonUnreconciled WagonUnrecorded OrphanRemoved",
            "Events": "EventRetried EventSnoozed EventDied EventsLate EventsLost EventsRescued EventsSkipped "
            "ClaimsReturned HandlerOverran ChannelThreatened ChannelUnserved BreakerOpened BreakerClosed "
            "DeliveryPaused DeliveryResumed DeadLettersRetried DeadLettersDropped DeadLettersLost",
            "Replay and undo": "ReplayRequested ReplayBegun ReplayTorn ReplayCancelled ReplayEnded ChannelUndone "
            "UndoStopped UndoResumed",
            "The bridge": "BridgeHeldUp BridgeWentOn",
        },
    ),
    "testing": Page(
        "eventwagon.testing",
        "The real train in memory and in virtual time. With examples: [testing](../docs/guides/testing.md).",
        {
            "A train under test": "testing.running testing.RunningTrain testing.RunTrain testing.NotIdle "
            "testing.DeadLetter testing.FakeContext",
            "Failures": "testing.PlannedFailure testing.UnexpectedDeath",
            "Virtual time": "testing.in_virtual_time testing.run testing.Deadlock",
        },
    ),
    "bridge": Page(
        "Bridge and outbox",
        "Flows that others write, and events in your own transaction. With examples: [bridge](../docs/bridge.md), "
        "[outbox](../docs/outbox.md), [once](../docs/once.md#effect-and-record-in-one-transaction).",
        {
            "A source": "bridge.Source bridge.Record bridge.Lag bridge.Begin bridge.open_source",
            "The bridge": "bridge.Bridge bridge.Rules bridge.event_of bridge.Unmapped",
            "The outbox": "outbox.create_table outbox.add outbox.add_async",
            "One transaction": "transactions.in_transaction",
        },
    ),
    "additions": Page(
        "Dependencies, tracing, metrics",
        "With examples: [dependencies](../docs/guides/dependencies.md), [traces](../docs/traces.md), "
        "[metrics](../docs/metrics.md).",
        {
            "Dependencies": "depends.injected depends.provider",
            "Tracing": "tracing.trace",
            "Metrics": "metrics.Metrics metrics.Meter metrics.ProcessFigures metrics.TrainFigures metrics.Instrument "
            "metrics.gathering metrics.serving",
        },
    ),
    "orchestrators": Page(
        "Orchestrators",
        "In a program; from the command line use their URLs: [Kubernetes](../docs/orchestrators/kubernetes.md), "
        "[AWS](../docs/orchestrators/aws.md), [any command](../docs/orchestrators/command.md).",
        {
            "Kubernetes": "orchestrators.kubernetes.Kubernetes",
            "AWS": "orchestrators.aws.LambdaMappings orchestrators.aws.ECSServices orchestrators.aws.Place "
            "orchestrators.aws.handler",
            "A command": "orchestrators.processes.command.Command orchestrators.processes.command.CheckIn "
            "orchestrators.processes.command.Http orchestrators.processes.command.Line "
            "orchestrators.processes.command.Tcp",
        },
    ),
    "contracts": Page(
        "Contracts for drivers",
        "The seams, whose docstrings are the contract. How to write one, with a complete example: "
        "[drivers](../docs/drivers.md).",
        {
            "A broker": "contracts.broker.Broker contracts.broker.Subscription contracts.broker.Delivery "
            "contracts.broker.Capabilities contracts.broker.Depth contracts.broker.Inspectable "
            "contracts.broker.Finding",
            "A registry": "contracts.registry.Registry contracts.registry.Snapshot contracts.registry.Changes "
            "contracts.registry.Member",
            "An orchestrator": "contracts.orchestrator.Orchestrator contracts.orchestrator.WagonSpec "
            "contracts.orchestrator.Deployment contracts.orchestrator.InSteps",
            "Found by a URL": "drivers.Address drivers.Drivers drivers.Program drivers.open_drivers "
            "drivers.open_orchestrator",
            "The suites": "testing.conformance.broker_checks testing.conformance.registry_checks "
            "testing.conformance.orchestrator_checks testing.conformance.once_checks "
            "testing.conformance.timetable_checks testing.conformance.source_checks testing.conformance.Harness "
            "testing.conformance.Check testing.conformance.CheckFailed",
        },
    ),
}
_MADE_BY_US = (
    "BatchContext",
    "BlockingConnection",
    "Connection",
    "Context",
    "DeadLetters",
    "testing.RunningTrain",
)
"""No program calls their constructors."""
PANELS = {
    "Run": "Run a train",
    "Use": "Publish and look",
    "Steer": "Steer",
    "See": "See, compare, plan",
}


def titles() -> list[tuple[str, str]]:
    """The names and titles of the API's pages."""
    return [(name, page.title) for name, page in API.items()]


def pages() -> Iterator[tuple[str, str]]:
    """All pages with their Markdown. Raises SystemExit if a public name is on no page, or on two."""
    listed = [name for page in API.values() for group in page.groups.values() for name in group.split()]
    own = [name for name in listed if "." not in name]
    if sorted(own) != eventwagon.__all__:
        wrong = {name for name in {*own, *eventwagon.__all__} if own.count(name) != 1 or name not in eventwagon.__all__}
        raise SystemExit(f"scripts/reference_pages.py: not on exactly one page, or not public: {', '.join(wrong)}")
    yield "index", overview()
    yield "commands", commands()
    for name, page in API.items():
        yield name, _api(name, page)


def overview() -> str:
    """What there is."""
    rows = "".join(f"| [{page.title}]({name}.md) | {'; '.join(page.groups)} |\n" for name, page in API.items())
    return (
        "# Reference\n\nThe public API as its docstrings have it, the commands as their parser has them. All times are "
        "in seconds.\n\n| API | what |\n| --- | --- |\n" + rows + "\n- [Commands](commands.md): every option\n"
        "- [Settings](../docs/limits.md#all-settings), [handlers' options](../docs/handlers.md), "
        "[metrics](../docs/metrics.md)\n"
        "- [Brokers](../docs/brokers/index.md): URLs, options, what each can do\n"
        "- [Glossary](../docs/index.md#glossary), [payloads](../docs/index.md#payloads), "
        "[attributes of an event](../docs/index.md#attributes-of-an-event)\n"
    )


def _api(name: str, page: Page) -> str:
    text = f"# {page.title}\n\n{page.about}\n"
    for group, names in page.groups.items():
        text += f"\n## {group}\n"
        for each in names.split():
            text += f"\n::: {PACKAGE}.{each}\n"
            if name == "errors":
                text += "    options:\n      show_bases: true\n"
            if each in _MADE_BY_US:
                text += "    options:\n      merge_init_into_class: false\n"
    return text


def commands() -> str:
    """Every command with its options, as `--help` has them."""
    group: Any = typer.main.get_command(app)
    text = (
        "# Commands\n\nGenerated from the parser: `eventwagon COMMAND --help` says the same. What they do in practice: "
        "[operations](../docs/operations.md).\n"
    )
    for panel, title in PANELS.items():
        listed = [(name, each) for name, each in group.commands.items() if each.rich_help_panel == panel]
        text += f"\n## {title}\n"
        for name, each in listed:
            text += f"\n### eventwagon {name}\n\n{_markdown(each.help)}\n\n{_options(each)}"
            text += _example(each)
    if {each.rich_help_panel for each in group.commands.values()} != set(PANELS):
        raise SystemExit("scripts/reference_pages.py: PANELS is not what the commands have")
    return text


def _options(command: Any) -> str:
    rows = ""
    for each in command.params:
        if getattr(each, "hidden", False):
            continue
        named = [] if each.param_type_name == "argument" else [*each.opts, *each.secondary_opts]
        how = " ".join(filter(None, [", ".join(named), "" if getattr(each, "is_flag", False) else each.metavar]))
        default = "" if each.default in (None, "", False, ()) or callable(each.default) else f"`{each.default}`"
        about = _markdown(each.help or "").replace("\n", " ")
        if each.envvar:
            about += f" Or in the environment: `{each.envvar}`."
        rows += f"| `{how}` | {about.replace('|', '&#124;')} | {default} |\n"
    return f"| argument or option | what | default |\n| --- | --- | --- |\n{rows}" if rows else ""


def _example(command: Any) -> str:
    text = re.sub(r"\[/?bold\]", "", command.epilog or "").removeprefix("Example: ")
    return f"\n```sh\n{text}\n```\n" if text else ""


def _markdown(text: str) -> str:
    """A help text, whose capitals, angles and stars are no markup."""
    escaped = re.sub(r"([<>*_])", r"\\\1", re.sub(r"\[/?bold\]", "", text)).strip()
    return re.sub(r"\bdocs/([\w/-]+)\.md\b", r"[\1](../docs/\1.md)", escaped)


_AT = {
    "provisioning": (90, 40),
    "ready": (330, 40),
    "active": (570, 40),
    "draining": (570, 180),
    "drained": (330, 180),
    "removing": (90, 180),
    "failed": (330, 300),
    "gone": (90, 300),
}
"""Where the states stand in the picture."""
_ARROWS = {
    ("provisioning", "ready"): ("M150 32H268", (210, 24), ""),
    ("ready", "provisioning"): ("M270 48H152", (210, 64), ""),
    ("ready", "active"): ("M390 40H508", (450, 32), ""),
    ("active", "draining"): ("M570 60V158", (578, 114), "start"),
    ("ready", "draining"): ("M360 60L520 158", (430, 126), "end"),
    ("draining", "drained"): ("M510 188H392", (450, 204), ""),
    ("drained", "draining"): ("M390 172H508", (450, 164), ""),
    ("drained", "removing"): ("M270 180H152", (210, 172), ""),
    ("removing", "gone"): ("M90 200V278", (98, 244), "start"),
    ("provisioning", "failed"): ("M120 60L300 278", (184, 118), "start"),
    ("draining", "failed"): ("M540 200L392 290", (470, 262), "start"),
    ("failed", "gone"): ("M270 300H152", (210, 292), ""),
}
"""Where the arrows go, and where the words at them stand."""


def lifecycle_picture() -> str:
    """The transition table as a picture in the colours of the page. Raises SystemExit if they differ."""
    moves: dict[tuple[str, str], list[str]] = {}
    for (state, move), to in lifecycle.TRANSITIONS.items():
        moves.setdefault((str(state), str(to or "gone")), []).append(str(move))
    if set(moves) != set(_ARROWS):
        raise SystemExit("scripts/reference_pages.py: the arrows are not those of contracts/lifecycle.py")
    parts = []
    for pair, (line, (x, y), side) in _ARROWS.items():
        parts.append(f'<path d="{line}"/>')
        for row, move in enumerate(reversed(moves[pair])):
            parts.append(f'<text x="{x}" y="{y - 15 * row}" class="move {side}">{move}</text>')
    for name, (x, y) in _AT.items():
        parts.append(f'<rect x="{x - 60}" y="{y - 20}" width="120" height="40" rx="8" class="{name}"/>')
        parts.append(f'<text x="{x}" y="{y + 5}">{name}</text>')
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8Z" class="full"/></marker></defs>'
    )
    return (
        '<div class="lifecycle"><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 330" role="img" '
        f'aria-label="The states of a wagon; the table below says the same">{tip}{"".join(parts)}</svg></div>\n'
    )
