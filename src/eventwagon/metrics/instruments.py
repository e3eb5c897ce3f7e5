"""The list of all instruments. Prometheus, OpenTelemetry and docs/metrics.md are made from it.

Names, units and labels are OpenTelemetry's. Where its conventions for messaging have an instrument, that is used.
Prometheus's names follow from them by OpenTelemetry's own rules, so that a dashboard fits both ways.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
TEMPLATE = "messaging.destination.template"
ERROR = "error.type"
TRAIN = "eventwagon.train"
OF = "eventwagon.event.of"
STATE = "eventwagon.event.state"
WAGON_STATE = "eventwagon.wagon.state"
LIMIT = "eventwagon.limit"
CAUSE = "eventwagon.cause"
REASON = "eventwagon.reason"
BUDGET = "eventwagon.budget"
ROLE = "eventwagon.role"
REPLAY_KIND = "eventwagon.replay.kind"
REPLAY_STATE = "eventwagon.replay.state"
SOURCE = "eventwagon.bridge.source"
OUTCOME = "eventwagon.bridge.outcome"
VERSION = "eventwagon.version"
REVISION = "eventwagon.revision"

LABELS = {
    SYSTEM: "The broker's system: `redis`, `kafka`, `pulsar`, `aws_sqs`, `sqlite`, `memory`; of another package's "
    "driver the package's name.",
    OPERATION: "The method of `Broker` or `Subscription`: `publish`, `receive`, `settle`, `release`, `depth`, `seal` "
    "…; `process` for handlers.",
    OPERATION_TYPE: "`send`, `receive`, `settle`, `create` or `process`; empty for other operations.",
    TEMPLATE: "The channel without its wagon's number: `orders_v{wagon}`, `orders_v{wagon}.ship`, "
    "`orders_v{wagon}.dead`. No label ever names a wagon.",
    ERROR: "The class of the error; for handlers also `timeout`, `dead` (no attempt can succeed) and `failed`. Empty: "
    "there was none.",
    TRAIN: "The train's name.",
    OF: "`new`: of the active wagon. `backlog`: of wagons that are cut off from new events.",
    STATE: "`waiting` and `in_flight` count the ingress, `inside` the events in inner channels.",
    WAGON_STATE: "`provisioning`, `ready`, `active`, `draining`, `drained`, `removing` or `failed`.",
    LIMIT: "The limit as declared, each part of a joined one by itself: `Wait(2)`, `Volume(100)`.",
    CAUSE: "`first` (the train was founded), `limit`, `request` (somebody asked), `trouble` (a channel was gone or "
    "took no more).",
    REASON: "One of a fixed list; see the instrument.",
    BUDGET: "What is bounded, with the budget's name: `concurrency=32 payments-db`; of a handler's own options, with "
    "its channel: `rate=20/s of labels`.",
    SOURCE: "Where a bridge reads, without options and secrets: `kafka://host:9092/orders`.",
    OUTCOME: "`published`, or `dead`: it could not be mapped, and is in the dead letters.",
    VERSION: "The version of eventwagon.",
    REVISION: "The revision of the program's code; empty: it has none.",
    ROLE: "`observe`, `work`, `serve` or `publish`.",
    REPLAY_KIND: "`replay` or `undo`.",
    REPLAY_STATE: "`running`, `waiting` for those before it, or `stopped`: an undo that goes on once it is resumed.",
}
"""What each label says."""

_CALLS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The bounds that the conventions advise."""
_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)
_PHASES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument. `by` says who exports it: each `process` for itself, or the one `observer` that reports on the
    whole train."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...]
    by: Literal["process", "observer"] = "process"
    bounds: tuple[float, ...] = ()

    @property
    def in_prometheus(self) -> str:
        """The name in Prometheus, which ends in the unit."""
        unit = {"s": "_seconds", "1": "_ratio"}.get(self.unit, "")
        return prometheus_name(self.name) + unit + ("_total" if self.kind == "counter" else "")


def prometheus_name(name: str) -> str:
    """A name or label as Prometheus takes it."""
    return name.replace(".", "_")


# --- messaging, by OpenTelemetry's conventions ------------------------------------------------

_MESSAGING = (SYSTEM, OPERATION, OPERATION_TYPE, TEMPLATE, ERROR, TRAIN)

OPERATION_DURATION = Instrument(
    name="messaging.client.operation.duration",
    kind="histogram",
    unit="s",
    help="How long calls to the broker took. Those of `receive` include the wait for an event.",
    labels=_MESSAGING,
    bounds=_CALLS,
)
SENT = Instrument(
    name="messaging.client.sent.messages",
    kind="counter",
    unit="{message}",
    help="Events that the broker has stored: published, emitted by handlers, and dead letters, which are stored again "
    "when their wagon is removed. Those of calls that failed are not counted.",
    labels=(SYSTEM, OPERATION, TEMPLATE, TRAIN),
)
CONSUMED = Instrument(
    name="messaging.client.consumed.messages",
    kind="counter",
    unit="{message}",
    help="Events received, each time that they were.",
    labels=(SYSTEM, OPERATION, TEMPLATE, TRAIN),
)
PROCESS_DURATION = Instrument(
    name="messaging.process.duration",
    kind="histogram",
    unit="s",
    help="How long handlers took, for an event or for a batch.",
    labels=(SYSTEM, OPERATION, TEMPLATE, ERROR, TRAIN),
    bounds=_CALLS,
)

# --- what each process knows ------------------------------------------------------------------

EVENT_WAIT = Instrument(
    name="eventwagon.event.wait",
    kind="histogram",
    unit="s",
    help="From an event's time until its first handling began, at the ingress; not of events that are replayed.",
    labels=(TRAIN, OF),
    bounds=_WAITS,
)
RETRIED = Instrument(
    name="eventwagon.events.retried",
    kind="counter",
    unit="{event}",
    help="Failed handlings after which the event comes again.",
    labels=(TRAIN, TEMPLATE),
)
SKIPPED = Instrument(
    name="eventwagon.events.skipped",
    kind="counter",
    unit="{event}",
    help="Events that came again within `once` and were settled, because they had been handled.",
    labels=(TRAIN, TEMPLATE),
)
DEAD_EVENTS = Instrument(
    name="eventwagon.events.dead",
    kind="counter",
    unit="{event}",
    help="Events that went to the dead letters. Reasons: `rejected`, `undecodable`, `timeout`, `killed_its_process`, "
    "the class of the last error, or `other`.",
    labels=(TRAIN, TEMPLATE, REASON),
)
LOST = Instrument(
    name="eventwagon.events.lost",
    kind="counter",
    unit="{event}",
    help="Events (`event`) and dead letters (`dead_letter`) that disappeared from the broker.",
    labels=(TRAIN, REASON),
)
SWITCHES = Instrument(
    name="eventwagon.switches",
    kind="counter",
    unit="{switch}",
    help="Switches that this process made.",
    labels=(TRAIN, CAUSE),
)
REFUSALS = Instrument(
    name="eventwagon.refusals",
    kind="counter",
    unit="{refusal}",
    help="Steps that were due and not taken, counted once while the reason lasts, by each observer that met them. "
    "Reasons: `paused`, `cap`, `next_wagon_not_ready`, `cooldown`, `never_ready`, `provisioning_failed`, "
    "`workers_lost`, `stale_publisher`, `drain_unproven`, `unserved_channel`, `threatened_channel`, "
    "`promise_at_risk`, `step_failed`, `defect`, `other`.",
    labels=(TRAIN, REASON),
)
READY_TIME = Instrument(
    name="eventwagon.wagon.ready.duration",
    kind="histogram",
    unit="s",
    help="From a wagon's opening until it was ready.",
    labels=(TRAIN,),
    bounds=_PHASES,
)
DRAIN_TIME = Instrument(
    name="eventwagon.wagon.drain.duration",
    kind="histogram",
    unit="s",
    help="From a wagon's cut-off until it was proven empty.",
    labels=(TRAIN,),
    bounds=_PHASES,
)
UNPROVEN = Instrument(
    name="eventwagon.drains.unproven",
    kind="counter",
    unit="{wagon}",
    help="Sealed wagons that could not be proven empty, or were given up.",
    labels=(TRAIN,),
)
BREAKERS_OPENED = Instrument(
    name="eventwagon.breakers.opened",
    kind="counter",
    unit="{breaker}",
    help="Circuit breakers that opened.",
    labels=(TRAIN, TEMPLATE),
)
REPLAYED = Instrument(
    name="eventwagon.replay.events",
    kind="counter",
    unit="{event}",
    help="Events that replays and undos have published, counted when they are over.",
    labels=(TRAIN, REPLAY_KIND),
)
WORKERS = Instrument(
    name="eventwagon.workers",
    kind="gauge",
    unit="{worker}",
    help="Workers of this process.",
    labels=(TRAIN,),
)
BUSY = Instrument(
    name="eventwagon.workers.busy",
    kind="gauge",
    unit="{worker}",
    help="Workers whose handler is under way.",
    labels=(TRAIN,),
)
BUDGET_USED = Instrument(
    name="eventwagon.budget.used",
    kind="gauge",
    unit="{use}",
    help="What this process uses of a budget: handlings under way of a concurrency, events a second of a rate.",
    labels=(TRAIN, BUDGET),
)
BUDGET_HELD = Instrument(
    name="eventwagon.budget.held",
    kind="gauge",
    unit="{use}",
    help="What this process may use of a budget now.",
    labels=(TRAIN, BUDGET),
)
PUBLISHERS_HELD = Instrument(
    name="eventwagon.publishers.held",
    kind="gauge",
    unit="{call}",
    help="Publish calls of this process that wait because the train or the broker takes no events now.",
    labels=(TRAIN,),
)
LOOK_AGE = Instrument(
    name="eventwagon.observer.look.age",
    kind="gauge",
    unit="s",
    help="Since the last complete look of this process's observer, or since it started. Each observer exports it.",
    labels=(TRAIN,),
)
BRIDGED = Instrument(
    name="eventwagon.bridge.records",
    kind="counter",
    unit="{record}",
    help="Records that this process's bridge has carried into the train.",
    labels=(TRAIN, SOURCE, OUTCOME),
)
BRIDGE_LAG = Instrument(
    name="eventwagon.bridge.lag",
    kind="gauge",
    unit="{record}",
    help="Records in the source that are not committed: on Kafka of the partitions that this bridge reads, on Redis of "
    "the whole group. Missing if the source does not know.",
    labels=(TRAIN, SOURCE),
)
BRIDGE_LAG_AGE = Instrument(
    name="eventwagon.bridge.lag.age",
    kind="gauge",
    unit="s",
    help="How long the oldest of these records has been in the source; 0 if there is none.",
    labels=(TRAIN, SOURCE),
)
BRIDGE_HELD_UP = Instrument(
    name="eventwagon.bridge.held_up",
    kind="gauge",
    unit="",
    help="1 while a bridge can't read, publish or commit, and tries again.",
    labels=(TRAIN, SOURCE),
)
INFO = Instrument(
    name="eventwagon.info",
    kind="gauge",
    unit="",
    help="Always 1. The labels say what runs.",
    labels=(TRAIN, SYSTEM, VERSION, REVISION),
)

# --- the whole train, from one observer -------------------------------------------------------

PREDICTED = Instrument(
    name="eventwagon.wait.predicted",
    kind="gauge",
    unit="s",
    help="How long an event that is published now will wait (`new`), and how long the last event of the backlog still "
    "will. Missing while no settle rate is known.",
    labels=(TRAIN, OF),
    by="observer",
)
PROMISE = Instrument(
    name="eventwagon.promise",
    kind="gauge",
    unit="s",
    help="How long new events may wait, as declared. Missing if the train promises nothing.",
    labels=(TRAIN,),
    by="observer",
)
OLDEST = Instrument(
    name="eventwagon.event.oldest.age",
    kind="gauge",
    unit="s",
    help="How long the oldest waiting event of the ingress has waited; 0 if none waits.",
    labels=(TRAIN, OF),
    by="observer",
)
OUTSTANDING = Instrument(
    name="eventwagon.events.outstanding",
    kind="gauge",
    unit="{event}",
    help="Events that are published and not settled. A figure that the broker does not know is missing.",
    labels=(TRAIN, OF, STATE),
    by="observer",
)
WAGONS = Instrument(
    name="eventwagon.wagons",
    kind="gauge",
    unit="{wagon}",
    help="Live wagons.",
    labels=(TRAIN, WAGON_STATE),
    by="observer",
)
CAP = Instrument(
    name="eventwagon.wagons.cap",
    kind="gauge",
    unit="{wagon}",
    help="The most wagons that may be live at a time.",
    labels=(TRAIN,),
    by="observer",
)
PRESSURE = Instrument(
    name="eventwagon.pressure",
    kind="gauge",
    unit="1",
    help="How full the active wagon is by each limit: 0 empty, 1 full.",
    labels=(TRAIN, LIMIT),
    by="observer",
)
DRAIN_AGE = Instrument(
    name="eventwagon.wagon.drain.age",
    kind="gauge",
    unit="s",
    help="Since the cut-off of the wagon that has been draining longest; 0 if none drains.",
    labels=(TRAIN,),
    by="observer",
)
BREAKERS_OPEN = Instrument(
    name="eventwagon.breakers.open",
    kind="gauge",
    unit="{breaker}",
    help="1 if a process has the channel's circuit breaker open, 0 if none has.",
    labels=(TRAIN, TEMPLATE),
    by="observer",
)
DEAD_LETTERS = Instrument(
    name="eventwagon.dead_letters",
    kind="gauge",
    unit="{event}",
    help="Dead letters that are kept, read every few seconds.",
    labels=(TRAIN,),
    by="observer",
)
DUE_LATER = Instrument(
    name="eventwagon.events.later",
    kind="gauge",
    unit="{event}",
    help="Events that wait for their time, read every few seconds. Missing if nothing can keep them.",
    labels=(TRAIN,),
    by="observer",
)
REPLAYS = Instrument(
    name="eventwagon.replays",
    kind="gauge",
    unit="{replay}",
    help="Replays and undos that are not over.",
    labels=(TRAIN, REPLAY_KIND, REPLAY_STATE),
    by="observer",
)
REPLAY_LEFT = Instrument(
    name="eventwagon.replay.events.left",
    kind="gauge",
    unit="{event}",
    help="Events that replays and undos have still to publish.",
    labels=(TRAIN, REPLAY_KIND),
    by="observer",
)
PAUSED = Instrument(
    name="eventwagon.paused",
    kind="gauge",
    unit="",
    help="1 if the train, or one of its wagons, is paused.",
    labels=(TRAIN,),
    by="observer",
)
WAGONS_PAUSED = Instrument(
    name="eventwagon.wagons.paused",
    kind="gauge",
    unit="{wagon}",
    help="Live wagons that are paused, by hand or by rule; all of them while the train is.",
    labels=(TRAIN,),
    by="observer",
)
PAUSE_AGE = Instrument(
    name="eventwagon.wagon.pause.age",
    kind="gauge",
    unit="s",
    help="Since the beginning of the pause that has lasted longest; 0 if nothing is paused.",
    labels=(TRAIN,),
    by="observer",
)
REFUSING = Instrument(
    name="eventwagon.refusing",
    kind="gauge",
    unit="",
    help="1 while publishers are refused: at the cap, or while the train is paused for them too.",
    labels=(TRAIN,),
    by="observer",
)
PROCESSES = Instrument(
    name="eventwagon.processes",
    kind="gauge",
    unit="{process}",
    help="Processes that are alive, by what they do; one that observes and works counts as both.",
    labels=(TRAIN, ROLE),
    by="observer",
)

INSTRUMENTS: tuple[Instrument, ...] = tuple(each for each in globals().values() if isinstance(each, Instrument))
"""All of them, in the order of this file."""
