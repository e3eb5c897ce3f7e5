"""Mutants: small deliberate breaks of the core, each of which the checker must catch. One that survives is a hole in
it.

Each is a context manager that patches the core for as long as it is entered. Not for production, of course.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from copy import copy
from itertools import count
from typing import Any, NamedTuple
from unittest import mock

import msgspec
from msgspec.structs import replace

from eventwagon import connection as connection_module
from eventwagon.bridge import Rules, event_of
from eventwagon.bridge import runner as bridge_module
from eventwagon.bridge.mapping import Unmapped
from eventwagon.bridge.runner import Bridge
from eventwagon.contracts import broker as broker_module
from eventwagon.contracts import manifest as manifest_module
from eventwagon.contracts import orchestrator as orchestrator_module
from eventwagon.contracts.broker import Delivery, Depth, proven_empty
from eventwagon.contracts.facts import Decision, Fact, WagonRemoved
from eventwagon.contracts.ledger import WagonRecord
from eventwagon.contracts.lifecycle import LIVE, Move, State
from eventwagon.contracts.manifest import RULE, Manifest, Wagon, changed, moved
from eventwagon.contracts.once import Standing
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.contracts.replay import PastEvent, Replay
from eventwagon.contracts.rows import Row
from eventwagon.contracts.timetable import Due
from eventwagon.contracts.undo import Slice, Undo
from eventwagon.drivers.memory import broker as memory_module
from eventwagon.drivers.memory.once import MemoryOnce
from eventwagon.errors import EventwagonError, PublishUncertain, Unavailable, UsageError
from eventwagon.errors import Failed as SomeFailed
from eventwagon.event import DEAD, UNDO, Channel, Event, born, new_ids
from eventwagon.policy import edits as edits_module
from eventwagon.policy import leading as leading_module
from eventwagon.policy import pause_on as pause_on_module
from eventwagon.policy import plan as plan_module
from eventwagon.policy import reconcile as reconcile_module
from eventwagon.policy import replays as replays_module
from eventwagon.policy import seen as seen_module
from eventwagon.policy import sizing as sizing_module
from eventwagon.policy.budgets import shares
from eventwagon.policy.demand import Demand
from eventwagon.policy.edits import Edit, Ensure, RemoveLeftover, sealed, spec_of
from eventwagon.policy.elastic import ElasticWagon, Sizing, size
from eventwagon.policy.latest_outcomes import LatestOutcomes, Outcomes
from eventwagon.policy.plan import Draft, Plan, plan
from eventwagon.policy.reconcile import Handed
from eventwagon.policy.replays import claimed, fed, recounted, run_replays
from eventwagon.policy.scale_to_zero import scale_to_zero
from eventwagon.policy.seen import ActiveAges, Seen
from eventwagon.policy.slices import slices_of
from eventwagon.policy.undo import slice_over
from eventwagon.runtime import archiving as archiving_module
from eventwagon.runtime import batching as batching_module
from eventwagon.runtime import budget_shares as budget_module
from eventwagon.runtime import bulkhead as bulkhead_module
from eventwagon.runtime import context as context_module
from eventwagon.runtime import feeding as feeding_module
from eventwagon.runtime import forming as forming_module
from eventwagon.runtime import handing_in as handing_in_module
from eventwagon.runtime import handler_runner as runner_module
from eventwagon.runtime import handling as handling_module
from eventwagon.runtime import in_process as in_process_module
from eventwagon.runtime import later as later_module
from eventwagon.runtime import membership as member_module
from eventwagon.runtime import observer as observer_module
from eventwagon.runtime import prefetch as prefetch_module
from eventwagon.runtime import recording as recording_module
from eventwagon.runtime import removal as removal_module
from eventwagon.runtime import runtime as runtime_module
from eventwagon.runtime import settling as settling_module
from eventwagon.runtime import switcher as switcher_module
from eventwagon.runtime import turns as turns_module
from eventwagon.runtime import undoing as undoing_module
from eventwagon.runtime import undos as undos_module
from eventwagon.runtime import wagon_consumer as consumer_module
from eventwagon.runtime.admission import Gate
from eventwagon.runtime.archiving import Archiver
from eventwagon.runtime.budget_shares import BudgetShares
from eventwagon.runtime.circuits import Circuits
from eventwagon.runtime.context import OUT
from eventwagon.runtime.due_events import DueEvents
from eventwagon.runtime.feeding import Feeder
from eventwagon.runtime.handing_in import HandIn
from eventwagon.runtime.handler import Handler
from eventwagon.runtime.handler_runner import HandlerRunner
from eventwagon.runtime.handling import begin
from eventwagon.runtime.lease import Lease
from eventwagon.runtime.listeners import Telling
from eventwagon.runtime.membership import Membership
from eventwagon.runtime.middleware import through
from eventwagon.runtime.observed import Handlings
from eventwagon.runtime.observer import Observer
from eventwagon.runtime.once import OnceGuard
from eventwagon.runtime.outcomes import Dead, Failed, Handled, Snoozed
from eventwagon.runtime.prefetch import Prefetcher
from eventwagon.runtime.publish_queue import Batch
from eventwagon.runtime.recording import Recorder
from eventwagon.runtime.removal import WagonRemover
from eventwagon.runtime.retrying import DeadLetters
from eventwagon.runtime.runtime import Runtime
from eventwagon.runtime.settled_rows import SettledRows
from eventwagon.runtime.settling import SettleQueue, Settler
from eventwagon.runtime.switcher import Switcher
from eventwagon.runtime.tasks import outcome_of
from eventwagon.runtime.train_state import TrainState
from eventwagon.runtime.wagon_channels import WagonChannels
from eventwagon.runtime.wagon_consumer import WagonConsumer
from eventwagon.runtime.worker_pool import WorkerPool
from eventwagon.workers import Elastic

from . import archive as archive_module
from . import cluster as cluster_module
from .guests import Close, DriversDefect


class Mutant(NamedTuple):
    """Called, it gives the context manager that breaks the core."""

    enter: Callable[[], AbstractContextManager[None]]
    breaks: str
    """The invariant that it must be caught by."""
    then: tuple[str, ...] = ()
    """Words of the errors that follow from it. Any other that the scenario did not throw: it fails by itself, which
    proves nothing."""

    def __call__(self) -> AbstractContextManager[None]:
        return self.enter()


FENCED: dict[str, Mutant] = {}
"""Those for brokers that refuse writes to sealed channels, by name."""
UNFENCED: dict[str, Mutant] = {}
"""Those for the lease fence."""
HOSTILE: dict[str, Mutant] = {}
"""Those without one of the bulkheads, for scenarios with hostile guests."""
RECORDED: dict[str, Mutant] = {}
"""Those of records, for trains with a ledger."""
STEPPING: dict[str, Mutant] = {}
"""Those for registries that step back."""
LEAVING: dict[str, Mutant] = {}
"""Those of processes that leave, for scenarios in which some do and nothing else goes wrong."""
HANGING: dict[str, Mutant] = {}
"""Those for scenarios in which some calls are never answered."""
PAUSED: dict[str, Mutant] = {}
"""Those for scenarios in which somebody pauses and resumes."""
RULED: dict[str, Mutant] = {}
"""Those for scenarios in which observers pause wagons that fail."""
BATCHED: dict[str, Mutant] = {}
"""Those for scenarios in which handlers take batches."""
LATER: dict[str, Mutant] = {}
"""Those for scenarios in which some events are for later."""
RETRIED: dict[str, Mutant] = {}
"""Those for scenarios in which somebody retries dead letters."""
REPLAYED: dict[str, Mutant] = {}
"""Those for scenarios in which somebody has past events handled once more."""
UNDONE: dict[str, Mutant] = {}
"""Those for scenarios in which somebody has wagons undone."""
AGAIN: dict[str, Mutant] = {}
"""Those for scenarios in which handlers publish."""
SURROUNDED: dict[str, Mutant] = {}
"""Those for scenarios in which middleware surrounds the handlers."""
MEASURED: dict[str, Mutant] = {}
"""Those for scenarios in which each process has a meter."""
ONCE: dict[str, Mutant] = {}
"""Those for scenarios in which the train remembers what was handled."""
ARCHIVED: dict[str, Mutant] = {}
"""Those for scenarios in which the train has an archive."""
MANY: dict[str, Mutant] = {}
"""Those for scenarios with many observers."""
BOUNDED: dict[str, Mutant] = {}
"""Those for scenarios in which the ingress has a concurrency."""
RENAMING: dict[str, Mutant] = {}
"""Those for scenarios in which channels get other names, or go."""
BRIDGED: dict[str, Mutant] = {}
"""Those for scenarios in which bridges read a flow that others write."""
DEFECTS: dict[str, Mutant] = {}
"""Those whose own failing must be seen though a bulkhead holds it up."""
RARE: dict[str, Mutant] = {}
"""Those that few seeds in thousands are hit by: they are caught in scenarios that are kept in the tests."""


def _mutant(
    name: str, breaks: str, into: dict[str, Mutant] = FENCED, *, then: tuple[str, ...] = ()
) -> Callable[[Callable[[], Iterator[None]]], Mutant]:
    def register(function: Callable[[], Iterator[None]]) -> Mutant:
        into[name] = Mutant(contextmanager(function), breaks, then)
        return into[name]

    return register


@_mutant("seal skipped", "I4")
def _seal_skipped() -> Iterator[None]:
    """The manifest says sealed; the broker was never asked to."""

    async def mutant(self: WagonChannels, number: int) -> None:
        await self._state.apply(lambda m: sealed(m, number, self._runtime.clock()))

    with mock.patch.object(WagonChannels, "seal", mutant):
        yield


@_mutant("an observer rests whatever goes on", "I7")
def _rests_always() -> Iterator[None]:
    """As at a train at which nothing happens: until the next sign of life in its process."""

    def mutant(seen: Seen, name: str, quiet: float) -> float:
        return 3600.0

    with mock.patch.object(observer_module, "pause", mutant):
        yield


@_mutant("nobody takes over from silent leaders", "I7", MANY)
def _follows_for_ever() -> Iterator[None]:
    """Who has once followed looks no more by itself."""
    pause_of_follower = leading_module.pause_of_follower

    def mutant(seen: Seen, name: str, roused: float) -> float:
        seconds = pause_of_follower(seen, name, roused)
        return 3600.0 if seconds > seen.settings.observe_every else seconds

    with mock.patch.object(observer_module, "pause_of_follower", mutant):
        yield


@_mutant("redirect before ready", "I3")
def _redirect_before_ready() -> Iterator[None]:
    """A wagon counts as ready when its channels stand, whether or not workers are attached."""

    def mutant(seen: Seen) -> Plan:
        served = {w.unit: Deployment(number=w.number, ready=True) for w in seen.manifest.in_state(*LIVE)}
        return plan(replace(seen, deployments=served))

    with mock.patch.object(observer_module, "plan", mutant):
        yield


@_mutant("emptiness read published before settled", "I5")
def _published_first() -> Iterator[None]:
    """The order that proves nothing: published totals first, settled ones after."""

    def mutant(first: Sequence[Depth], later: Sequence[Depth]) -> bool:
        return proven_empty(later, first)

    with mock.patch.object(observer_module, "proven_empty", mutant):
        yield


@_mutant("unknown depth read as zero", "I5")
def _unknown_is_zero() -> Iterator[None]:
    outstanding = broker_module.outstanding

    def known(depths: Sequence[Depth]) -> list[Depth]:
        return [
            d if d.published is not None and d.settled is not None else Depth(published=0, settled=0, waiting=0)
            for d in depths
        ]

    with (
        mock.patch.object(
            observer_module, "proven_empty", lambda first, later: proven_empty(known(first), known(later))
        ),
        mock.patch.object(observer_module, "outstanding", lambda depths: outstanding(known(depths))),
        mock.patch.object(removal_module, "outstanding", lambda depths: outstanding(known(depths))),
    ):
        yield


@_mutant("settle before emit", "I6")
def _settle_before_emit() -> Iterator[None]:
    """An event is settled first; what it emitted is stored after that."""
    settle = Settler._settle

    async def mutant(self: Settler, queue: SettleQueue, finished: Any) -> None:
        await settle(self, queue, [(delivery, ()) for delivery, _ in finished])
        for _, emitted in finished:
            for name, event in emitted:
                with suppress(EventwagonError):
                    channel = self.source.channel
                    await self._runtime.broker.publish(Channel(channel.train, channel.wagon, name), [event])

    with mock.patch.object(Settler, "_settle", mutant):
        yield


@_mutant("settle before the dead letter", "I6")
def _settle_before_burial() -> Iterator[None]:
    """What can't be handled is settled first, and put among the dead letters after that."""
    settle = Settler._settle

    async def mutant(self: Settler, queue: SettleQueue, finished: Any) -> None:
        is_dead = {id(delivery): any(name == DEAD for name, _ in emitted) for delivery, emitted in finished}
        await settle(self, queue, [(d, () if is_dead[id(d)] else emitted) for d, emitted in finished])
        for delivery, emitted in finished:
            if is_dead[id(delivery)]:
                with suppress(EventwagonError):
                    channel = Channel(self.source.channel.train, self.source.channel.wagon, DEAD)
                    await self._runtime.broker.publish(channel, [event for _, event in emitted])

    with mock.patch.object(Settler, "_settle", mutant):
        yield


@_mutant("the cap counts for nothing", "I10")
def _uncapped() -> Iterator[None]:
    def mutant(seen: Seen) -> Plan:
        return plan(replace(seen, settings=replace(seen.settings, wagons=1000)))

    with mock.patch.object(observer_module, "plan", mutant):
        yield


@_mutant("ready again without workers", "I3")
def _ready_again() -> Iterator[None]:
    """A wagon that lost its workers counts as ready all the same, since it once was."""
    known: set[int] = set()

    def mutant(seen: Seen) -> Plan:
        if seen.manifest.next_number == 2:
            known.clear()
        known.update(n for n, d in seen.deployments.items() if d.ready)
        coming = seen.manifest.in_state(State.PROVISIONING)
        again = {w.number: Deployment(number=w.number, ready=True) for w in coming if w.number in known}
        return plan(replace(seen, deployments={**seen.deployments, **again}))

    with mock.patch.object(observer_module, "plan", mutant):
        yield


@_mutant("ages by the wall clock", "I7", RARE)
def _ages_by_the_wall() -> Iterator[None]:
    """Each observer reckons at each look how long a wagon has been active, by its own wall clock and the time that
    another's wrote down."""

    def mutant(self: ActiveAges, manifest: Manifest, *, now: float, steady: float) -> dict[int, float]:
        return {w.number: 0.0 if w.active_at is None else max(0.0, now - w.active_at) for w in manifest.wagons}

    with mock.patch.object(ActiveAges, "look", mutant):
        yield


@_mutant("removal without a re-check", "I5")
def _no_recheck() -> Iterator[None]:
    """A sealed wagon at whose ingress nothing waits counts as empty: in flight and inner channels are not looked at,
    not then and not before its channels are deleted."""
    read = Observer._read

    async def mutant(self: Observer, manifest: Manifest) -> Any:
        readings, troubles = await read(self, manifest)
        sealed_before = {w.number for w in manifest.wagons if w.sealed_at is not None}
        return {
            n: msgspec.structs.replace(r, empty=n in sealed_before and r.waiting == 0) for n, r in readings.items()
        }, troubles

    with mock.patch.object(Observer, "_read", mutant), mock.patch.object(WagonRemover, "_late", return_value=0):
        yield


@_mutant("numbers used twice", "I2")
def _numbers_reused() -> Iterator[None]:
    """A new wagon takes the lowest number that no live one has."""
    opened = manifest_module.opened

    def mutant(manifest: Manifest, **more: Any) -> Manifest:
        taken = {w.number for w in manifest.wagons}
        free = next(n for n in range(1, manifest.next_number + 1) if n not in taken)
        new = opened(msgspec.structs.replace(manifest, next_number=free), **more)
        wagons = tuple(sorted(new.wagons, key=lambda w: w.number))
        return msgspec.structs.replace(new, wagons=wagons, next_number=max(w.number for w in wagons) + 1)

    def number(*args: Any, **more: Any) -> Any:
        before = args[1]
        manifest, fact = open_next(*args, **more)
        fresh = {w.number for w in manifest.wagons} - {w.number for w in before.wagons}
        return manifest, msgspec.structs.replace(fact, number=fresh.pop())

    open_next = edits_module.open_next
    with (
        mock.patch.object(edits_module, "opened", mutant),
        mock.patch.object(edits_module, "open_next", number),
        mock.patch.object(plan_module, "open_next", number),
    ):
        yield


@_mutant("spare leaked after a crash", "I7")
def _spare_leaked() -> Iterator[None]:
    """Only the observer that opened a wagon makes its channels; when it dies in between, nobody does."""

    def mutant(seen: Seen) -> Plan:
        made = plan(replace(seen, settings=replace(seen.settings, provision_timeout=1e9)))
        coming = {w.number for w in seen.manifest.wagons if w.state is State.PROVISIONING and w.created_at is None}
        tasks = tuple(t for t in made.tasks if not (isinstance(t, Ensure) and t.number in coming))
        return msgspec.structs.replace(made, tasks=tasks)

    with mock.patch.object(observer_module, "plan", mutant):
        yield


@_mutant("leftovers never swept", "I7")
def _no_sweep() -> Iterator[None]:
    with mock.patch.object(Draft, "sweep", return_value=None):
        yield


@_mutant("workers of a removed wagon kept", "I7")
def _workers_kept() -> Iterator[None]:
    with mock.patch.object(WagonRemover, "_end_workers"):
        yield


@_mutant("sent home for ever", "I7")
def _never_woken() -> Iterator[None]:
    """An idle train's workers are sent home, and nobody calls them back."""

    def mutant(seen: Seen, manifest: Manifest) -> Edit:
        asleep = manifest.active is not None and manifest.active.asleep_at is not None
        return Edit(manifest) if asleep else scale_to_zero(seen, manifest)

    with mock.patch.object(plan_module, "scale_to_zero", mutant):
        yield


@_mutant("draining wagons of elastic wagons get no workers", "I7")
def _starved() -> Iterator[None]:
    """They never come to an end."""

    def mutant(elastic: Elastic, demand: Demand, wagons: Sequence[ElasticWagon], **more: Any) -> Sizing:
        found = size(elastic, demand, wagons, **more)
        none = {c.number: 0 for c in wagons if c.state == "draining"}
        return replace(found, workers={**found.workers, **none})

    with mock.patch.object(sizing_module, "size", mutant):
        yield


@_mutant("elastic wagons share no budget", "budget")
def _no_budget() -> Iterator[None]:
    """Each has what it wants, as if it were alone."""

    def mutant(elastic: Elastic, demand: Demand, wagons: Sequence[ElasticWagon], **more: Any) -> Sizing:
        alone = [size(elastic, demand, [wagon], **more) for wagon in wagons]
        return replace(
            size(elastic, demand, wagons, **more), workers={n: w for s in alone for n, w in s.workers.items()}
        )

    with mock.patch.object(sizing_module, "size", mutant):
        yield


@_mutant("new events take the least of the others", "budget")
def _below_least() -> Iterator[None]:
    """Where workers are short the active wagon has all but one of each other wagon."""

    def mutant(elastic: Elastic, demand: Demand, wagons: Sequence[ElasticWagon], **more: Any) -> Sizing:
        found = size(elastic, demand, wagons, **more)
        if sum(found.workers.values()) < elastic.most:
            return found
        one = {c.number: 1 if c.state != "active" else found.workers[c.number] for c in wagons}
        return replace(found, workers=one)

    with mock.patch.object(sizing_module, "size", mutant):
        yield


@_mutant("retry with a new id", "I1")
def _new_id() -> Iterator[None]:
    """After an uncertain publish the events are sent again under new ids."""
    publish = Switcher._publish
    uncertain: set[str] = set()
    count = 0

    def ids(number: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(number, "big")

    async def mutant(self: Switcher, wagon: Wagon, events: Sequence[Event], *rest: Any) -> None:
        again = [msgspec.structs.replace(e, id=new_ids(1, e.time, ids)[0]) if e.id in uncertain else e for e in events]
        try:
            await publish(self, wagon, again, *rest)
        except PublishUncertain:
            uncertain.update(e.id for e in events)
            raise

    with mock.patch.object(Switcher, "_publish", mutant):
        yield


@_mutant("half deleted taken for unknown", "I7")
def _half_deleted_kept() -> Iterator[None]:
    """A listed channel that is gone keeps its wagon from being removed, for ever."""
    move = WagonRemover._move_dead_letters

    async def mutant(self: WagonRemover, channel: Channel) -> int | None:
        moved = await move(self, channel)
        if moved is None and channel in await self._broker.channels(self._train):
            raise Unavailable(f"{channel} can't be read")
        return moved

    with mock.patch.object(WagonRemover, "_move_dead_letters", mutant):
        yield


@_mutant("attached to all that was known", "I3", RARE)
def _attached_to_fewer() -> Iterator[None]:
    """A process's word counts for channels, too, that the wagon got after it was given."""

    def mutant(self: Draft, wagon: Wagon) -> Deployment | None:
        found = deployment(self, wagon)
        return self.deployments.get(wagon.unit) if found and "not attached" in found.trouble else found

    deployment = Draft.deployment
    with mock.patch.object(Draft, "deployment", mutant):
        yield


@_mutant("ready again on an old word", "I3", RARE)
def _old_word() -> Iterator[None]:
    """What a process said of a wagon before it lost its workers makes it ready again."""
    said = seen_module.checked_in

    def mutant(members: Sequence[Member], manifest: Manifest) -> Any:
        wagons = tuple(msgspec.structs.replace(w, losses=0) for w in manifest.wagons)
        return said(members, msgspec.structs.replace(manifest, wagons=wagons))

    with mock.patch.object(observer_module, "checked_in", mutant):
        yield


@_mutant("check-ins say nothing of channels", "I3", RARE)
def _channels_unsaid() -> Iterator[None]:
    """An orchestrator reports that a wagon's workers are attached, and not to what."""
    joined = orchestrator_module.together

    def mutant(found: Sequence[Deployment]) -> Deployment:
        return msgspec.structs.replace(joined(found), channels=None)

    with mock.patch.object(cluster_module, "together", mutant):
        yield


@_mutant("removal begun with a way back", "I5")
def _removal_unfenced() -> Iterator[None]:
    """Channels of a wagon go while another observer may still find it draining again."""
    remove = WagonRemover.remove

    async def mutant(self: WagonRemover, wagon: Wagon) -> None:
        late = 0
        if wagon.state is State.DRAINED:
            channels = self._state.snapshot.manifest.working_channels(wagon)
            late = await self._late(channels, await self._standing(wagon))
        await remove(self, wagon if late else msgspec.structs.replace(wagon, state=State.REMOVING))

    def taken(manifest: Manifest, wagon: Wagon, by: str) -> Edit:
        return Edit(changed(manifest, wagon.number, remover=by)) if manifest.wagon(wagon.number) else Edit(manifest)

    def gone(manifest: Manifest, number: int, by: str, told: Sequence[Decision] = ()) -> Edit:
        standing = manifest.wagon(number)
        if standing is not None and standing.state is State.DRAINED:
            manifest = moved(manifest, number, Move.REMOVAL_BEGUN)
        return edits_module.removed(manifest, number, by, told)

    with (
        mock.patch.object(WagonRemover, "remove", mutant),
        mock.patch.object(removal_module, "removal_taken_over", taken),
        mock.patch.object(removal_module, "removed", gone),
    ):
        yield


@_mutant("two remove a wagon at once", "I5")
def _two_removers() -> Iterator[None]:
    """Each observer takes the removal over from the other."""

    def taken(manifest: Manifest, wagon: Wagon, by: str) -> Edit:
        return Edit(changed(manifest, wagon.number, remover=by)) if manifest.wagon(wagon.number) else Edit(manifest)

    with (
        mock.patch.object(WagonRemover, "is_anothers", return_value=False),
        mock.patch.object(removal_module, "removal_taken_over", taken),
    ):
        yield


@_mutant("dead letters not moved out", "I5")
def _dead_letters_dropped() -> Iterator[None]:
    async def mutant(self: WagonRemover, channel: Channel) -> int:
        return 0

    with mock.patch.object(WagonRemover, "_move_dead_letters", mutant):
        yield


@_mutant("two active", "alive", then=("are all active",))
def _two_active() -> Iterator[None]:
    """The switch activates the new wagon and forgets to cut the old one off: the core refuses to store that, as a
    defect of its own."""
    switched = manifest_module.switched

    def mutant(manifest: Manifest, *, to: int, now: float, because: str) -> Manifest:
        if manifest.active is None:
            return switched(manifest, to=to, now=now, because=because)
        return moved(manifest, to, Move.ACTIVATED, active_at=now)

    with mock.patch.object(edits_module, "switched", mutant):
        yield


@_mutant("any program serves any wagon", "I3")
def _any_code() -> Iterator[None]:
    with mock.patch.object(consumer_module, "why_not_served", return_value=""):
        yield


@_mutant("switched to a spare with other code", "I3")
def _any_spare() -> Iterator[None]:
    """Spares of other code are neither put away nor passed over."""
    ready = property(lambda self: self.in_state(State.READY))
    with mock.patch.object(Manifest, "ready", ready), mock.patch.object(Draft, "put_away"):
        yield


@_mutant("a switch that nobody explains", "I9")
def _unexplained() -> Iterator[None]:
    store = TrainState.store

    async def mutant(self: TrainState, edit: Edit, *, base: Any) -> Any:
        return await store(self, Edit(edit.manifest), base=base)

    with mock.patch.object(TrainState, "store", mutant):
        yield


@_mutant("lease ignored", "I4", UNFENCED)
def _lease_ignored() -> Iterator[None]:
    """Publishers take no lease, and observers wait for none."""

    async def nothing(self: Lease) -> None:
        pass

    @asynccontextmanager
    async def sending(self: Lease, number: int) -> Any:
        yield

    with (
        mock.patch.object(Lease, "hold", nothing),
        mock.patch.object(Lease, "sending", sending),
        mock.patch.object(Draft, "stale_publishers", return_value=False),
    ):
        yield


@_mutant("late events not rescued", "I5", UNFENCED)
def _not_rescued() -> Iterator[None]:
    """Nobody looks again before a drained wagon is removed."""

    async def nothing(self: WagonRemover, *of: Any) -> int:
        return 0

    with mock.patch.object(WagonRemover, "_late", nothing), mock.patch.object(WagonRemover, "_rescue", nothing):
        yield


@_mutant("no bulkhead around handlers", "alive", HOSTILE, then=("is shutting down",))
def _handlers_unchecked() -> Iterator[None]:
    """What a handler raises that is no Exception is raised at its worker."""

    def mutant(*args: Any) -> Any:
        outcome = begin(*args)
        return _checked(outcome) if isinstance(outcome, Handled | Dead | Failed | Snoozed) else _later(outcome)

    async def _later(outcome: Any) -> Any:
        return _checked(await outcome)

    def _checked(outcome: Any) -> Any:
        if isinstance(outcome, Failed) and outcome.error is not None and not isinstance(outcome.error, Exception):
            raise Close from outcome.error  # which no bulkhead behind it may stop
        return outcome

    def unless_ending(self: Settler, queue: Any) -> None:
        """A group that comes down takes no task, and the coroutine that it is handed is left behind."""
        tasks: Any = self._tasks
        if not tasks._aborting:
            go(self, queue)

    go = Settler._go
    ours = mock.patch.object(bulkhead_module, "_closes", lambda error: isinstance(error, Close))
    with ours, mock.patch.object(runner_module, "begin", mutant), mock.patch.object(Settler, "_go", unless_ending):
        yield


@_mutant("a worker that ends is not replaced", "pool", HOSTILE)
def _workers_lost() -> Iterator[None]:
    """What a handler that was cut short, or has cancelled its own task, leaves behind ends its worker; nobody takes its
    place."""

    async def mutant(self: HandlerRunner, worker: Any, source: Any) -> None:
        raise asyncio.CancelledError

    resized: list[bool] = []
    resize, fill = WorkerPool.resize, WorkerPool._fill

    def filled(self: WorkerPool) -> None:
        if resized:
            fill(self)

    def once(self: WorkerPool, target: int) -> None:
        resized.append(True)
        try:
            resize(self, target)
        finally:
            resized.pop()

    with (
        mock.patch.object(HandlerRunner, "after_cut", mutant),
        mock.patch.object(WorkerPool, "resize", once),
        mock.patch.object(WorkerPool, "_fill", filled),
    ):
        yield


@_mutant("emits refused together", "strangers", HOSTILE)
def _emits_together() -> Iterator[None]:
    """Where the broker refuses one event of a batch, all that travelled with it are taken for refused."""

    async def mutant(self: Settler, name: str, part: Sequence[tuple[int, Event]], refused: Any) -> None:
        channel = Channel(self.source.channel.train, self.source.channel.wagon, name)
        events = [event for _, event in part]
        try:
            await self._insist("emitting", lambda: self._emit(channel, events))
        except Exception as e:  # noqa: BLE001 - as in what it stands for
            refused.update({place: (name, e) for place, _ in part})

    with mock.patch.object(Settler, "_store", mutant):
        yield


def _only_ours(error: BaseException) -> bool:
    """What passes where there is no bulkhead: all that a driver should not raise."""
    return not isinstance(error, EventwagonError)


async def _not_kept_up(work: Callable[[], Awaitable[object]], *_: object) -> None:
    """The outermost bulkhead of a long task, taken out."""
    await work()


@_mutant("no bulkhead around looks", "alive", HOSTILE)
def _looks_unchecked() -> Iterator[None]:
    with (
        mock.patch.object(observer_module, "is_ours", _only_ours),
        mock.patch.object(connection_module, "kept_up", _not_kept_up),
    ):
        yield


@_mutant("no bulkhead around repeated steps", "alive", HOSTILE)
def _steps_unchecked() -> Iterator[None]:
    """Check-ins, ticks, due events, shares of budgets."""
    with (
        mock.patch.object(runtime_module, "is_ours", _only_ours),
        mock.patch.object(connection_module, "kept_up", _not_kept_up),
    ):
        yield


@_mutant("no bulkhead around units", "alive", HOSTILE)
def _units_unchecked() -> Iterator[None]:
    with (
        mock.patch.object(in_process_module, "is_ours", _only_ours),
        mock.patch.object(connection_module, "kept_up", _not_kept_up),
    ):
        yield


@_mutant("no bulkhead around publishing", "alive", HOSTILE)
def _sender_unchecked() -> Iterator[None]:
    """What a driver raises that it should not ends the task that sends."""

    def mutant(self: Switcher, batch: Any, count: int, error: BaseException) -> None:
        raise error

    with (
        mock.patch.object(Switcher, "_refuse_unexpected", mutant),
        mock.patch.object(switcher_module, "kept_up", _not_kept_up),
    ):
        yield


@_mutant("publishes refused together", "strangers", HOSTILE)
def _publishes_together() -> Iterator[None]:
    """Where the broker refuses one event of a batch, all that travelled with it are refused."""

    def mutant(self: Batch, count: int, error: EventwagonError) -> bool:
        self.fail(error)
        return True

    with mock.patch.object(Batch, "refuse", mutant):
        yield


@_mutant("no bulkhead around listeners", "alive", HOSTILE)
def _listeners_unchecked() -> Iterator[None]:
    def mutant(self: Telling, fact: Fact) -> None:
        for listener in self._listeners:
            listener(fact)

    with mock.patch.object(Telling, "__call__", mutant):
        yield


@_mutant("each claim that runs out counts", "strangers", HOSTILE)
def _deaths_count() -> Iterator[None]:
    """All that a process had in hand when it died loses an attempt."""

    def mutant(self: Any, hold: Any, due: float) -> None:
        self.give_back(hold, due, hold.attempt + 1, suspect=True)

    with mock.patch.object(memory_module.MemoryQueue, "run_out", mutant):
        yield


@_mutant("suspects beside others", "strangers", HOSTILE)
def _not_alone() -> Iterator[None]:
    """A suspect's claim counts, and others are handled beside it."""

    @asynccontextmanager
    async def mutant(self: Gate) -> Any:
        yield True

    with mock.patch.object(Gate, "alone", mutant):
        yield


@_mutant("a batch is settled whatever failed", "I6", BATCHED)
def _named_are_settled() -> Iterator[None]:
    """Those that the handler names as failed are settled with the others."""
    with mock.patch.object(batching_module, "_named", lambda error: {} if type(error) is SomeFailed else None):
        yield


@_mutant("a failed batch comes again as a batch", "strangers", BATCHED)
def _never_taken_apart() -> Iterator[None]:
    """The bad event makes the others fail again and again, until they are dead."""

    def mutant(delivery: Delivery) -> bool:
        return delivery.suspect

    with (
        mock.patch.object(forming_module, "is_alone", mutant),
        mock.patch.object(prefetch_module, "is_alone", mutant),
    ):
        yield


@_mutant("of a batch of suspects the first is handled", "I7", BATCHED)
def _others_forgotten() -> Iterator[None]:
    """The others are neither handled nor given back, though their claims are marked."""
    mark = HandlerRunner._marked

    async def mutant(self: HandlerRunner, worker: Any, settler: Settler, delivery: Delivery) -> bool:
        marked = await mark(self, worker, settler, delivery)
        worker.others = ()
        return marked

    with mock.patch.object(HandlerRunner, "_marked", mutant):
        yield


@_mutant("what has passed middleware counts as handled", "I6", SURROUNDED)
def _swallowed() -> Iterator[None]:
    """What the handler raised is lost on the way."""

    async def mutant(*args: Any, **more: Any) -> None:
        with suppress(Exception):
            await through(*args, **more)

    with mock.patch.object(handling_module, "through", mutant):
        yield


@_mutant("a registry's step back taken for late news", "I7", STEPPING)
def _step_back_ignored() -> Iterator[None]:
    async def mutant(self: TrainState) -> Snapshot:
        self.see(await self.registry.read(self._train))
        return self.snapshot

    with mock.patch.object(TrainState, "refresh", mutant):
        yield


@_mutant("wagons of the lost time dropped", "I7", STEPPING)
def _lost_wagons_dropped() -> Iterator[None]:
    """What stands in channels that the older manifest does not know goes with them."""

    async def mutant(self: WagonRemover, task: RemoveLeftover) -> None:
        for channel in task.channels:
            await self._broker.delete(channel)

    with mock.patch.object(WagonRemover, "leftover", mutant):
        yield


@_mutant("numbers of the lost time used again", "I2", STEPPING)
def _numbers_forgotten() -> Iterator[None]:
    with (
        mock.patch.object(edits_module, "numbers_kept", lambda known, manifest: manifest),
        mock.patch.object(plan_module, "numbered_past", lambda manifest, channels: Edit(manifest)),
    ):
        yield


@_mutant("a wagon with a strange channel is not served", "I7", RENAMING)
def _strange_channels() -> Iterator[None]:
    """A program without a handler for one of a wagon's channels keeps away from the whole wagon."""
    attach = WagonConsumer.attach

    async def mutant(self: WagonConsumer) -> None:
        if self.missing:
            raise UsageError(f"this program has no handler for {', '.join(self.missing)}")
        await attach(self)

    with mock.patch.object(WagonConsumer, "attach", mutant):
        yield


@_mutant("a channel that nobody declares stays", "I7", RENAMING)
def _undeclared_stays() -> Iterator[None]:
    with mock.patch.object(Draft, "channels", return_value=None):
        yield


@_mutant("a removal forgotten with the registry", "I7", RARE)
def _removal_forgotten() -> Iterator[None]:
    """A wagon that is being removed, or is gone, is what the registry says of it where that steps back."""
    with mock.patch.object(edits_module, "removals_kept", lambda known, manifest: manifest):
        yield


@_mutant("channels of the lost time made anew", "I1", RARE)
def _made_anew() -> Iterator[None]:
    """A wagon that was removed, or is being removed, begins anew where the registry steps back to its beginning."""
    with (
        mock.patch.object(edits_module, "removals_kept", lambda known, manifest: manifest),
        mock.patch.object(edits_module, "unmade_given_up", lambda manifest, now: Edit(manifest)),
    ):
        yield


@_mutant("an active wagon that is gone or sealed is kept", "I7", RARE)
def _dead_end_kept() -> Iterator[None]:
    async def nothing(self: Switcher, *_: object, **__: object) -> None:
        pass

    with (
        mock.patch.object(Switcher, "_ask_for_next", nothing),
        mock.patch.object(Draft, "broken", return_value=""),
    ):
        yield


@_mutant("a worker whose handler was cut short works no more", "pool", HOSTILE)
def _workers_parked() -> Iterator[None]:
    """All but one of each pool: the work goes on, and the pool has its size."""
    after_cut = HandlerRunner.after_cut
    parked: Counter[HandlerRunner] = Counter()

    async def mutant(self: HandlerRunner, worker: Any, source: Any) -> None:
        await after_cut(self, worker, source)
        pool = self._pool
        if parked[self] + 1 < pool.size:
            parked[self] += 1
            while not pool.closed and pool.size <= pool.target:  # until it is to end
                await asyncio.sleep(1.0)
            parked[self] -= 1

    with mock.patch.object(HandlerRunner, "after_cut", mutant):
        yield


@_mutant("a stained worker goes on", "strangers", HOSTILE)
def _stains_stay() -> Iterator[None]:
    """A worker whose context a handler has changed takes the next event in it."""
    turns = WorkerPool._turns

    async def mutant(self: WorkerPool, worker: Any) -> bool:
        await turns(self, worker)
        return False

    with mock.patch.object(WorkerPool, "_turns", mutant):
        yield


@_mutant("a defect is charged to all that travelled together", "strangers", HOSTILE)
def _defects_charged() -> Iterator[None]:
    """Where the driver fails on emits, each event that emitted some of them loses an attempt."""
    store = Settler._store

    async def mutant(self: Settler, name: str, part: Sequence[tuple[int, Event]], refused: Any, **more: Any) -> None:
        insist = self._insist

        async def insisted(step: str, call: Any) -> None:
            try:
                await insist(step, call)
            except DriversDefect as e:
                if name == DEAD:
                    raise
                refused.update({place: (name, e) for place, _ in part})

        charged: Any = copy(self)
        charged._insist = insisted
        await store(charged, name, part, refused, **more)

    with mock.patch.object(Settler, "_store", mutant):
        yield


@_mutant("a snooze is an attempt", "strangers", HOSTILE)
def _snoozes_count() -> Iterator[None]:
    def mutant(self: Settler, delivery: Any, pause: float, because: str) -> None:
        self._queue_return(delivery, pause, tried=True)

    with mock.patch.object(Settler, "snooze", mutant):
        yield


@_mutant("an open circuit is never probed", "I7", HOSTILE)
def _never_probed() -> Iterator[None]:
    with mock.patch.object(Circuits, "_look"):
        yield


@_mutant("the pause that a handler asks for is ignored", "pause", HOSTILE)
def _pauses_ignored() -> Iterator[None]:
    failed = Circuits.failed

    def mutant(self: Circuits, *of: Any, because: str, after: float | None = None, **others: Any) -> Any:
        return failed(self, *of, because=because, **others)

    with mock.patch.object(Circuits, "failed", mutant):
        yield


@_mutant("leaving waits for what can't be stored", "I7", RARE)
def _left_under_way() -> Iterator[None]:
    """Who leaves gives back what has not begun to be stored, and no more."""
    give_back = Settler.give_back_unstored

    def mutant(self: Settler) -> None:
        for queue in self._emitting.values():
            queue.called_off = True  # as if that had been done already
        give_back(self)

    with mock.patch.object(Settler, "give_back_unstored", mutant):
        yield


@_mutant("leaving gives nothing back", "I7", LEAVING)
def _nothing_given_back() -> Iterator[None]:
    """Who leaves a wagon cancels the receives, and what was fetched is left to run out."""
    leave = WagonConsumer._leave

    async def mutant(self: WagonConsumer, grace: float) -> None:
        for fetching in self._fetching:
            fetching.cancel()
        with mock.patch.object(self._channels, "give_back"):
            await leave(self, grace)

    with mock.patch.object(WagonConsumer, "_leave", mutant):
        yield


@_mutant("settling waits for ever", "I7", HANGING)
def _settling_waits() -> Iterator[None]:
    """A call of the broker's that is never answered is never given up."""
    begin = Settler.__init__

    def mutant(self: Settler, runtime: Runtime, *rest: Any, **more: Any) -> None:
        patient = msgspec.structs.replace(runtime.settings, publish_timeout=1e9)
        begin(self, dataclasses.replace(runtime, settings=patient), *rest, **more)

    with mock.patch.object(Settler, "__init__", mutant):
        yield


@_mutant("moving dead letters on waits for ever", "I7", RARE)
def _moving_waits() -> Iterator[None]:
    """An observer that moves a wagon's dead letters on never gives up a call that is never answered."""

    async def mutant(self: WagonRemover, kept: Any, letters: Sequence[Event]) -> None:
        await self._broker.publish(kept, letters)

    with mock.patch.object(WagonRemover, "_publish", mutant):
        yield


@_mutant("a channel that nobody serves goes with what came late", "I5", RARE)
def _unserved_not_rescued() -> Iterator[None]:
    """Only in the ingress somebody looks for what came after the last look."""
    rescue = WagonRemover._rescue

    async def mutant(self: WagonRemover, channel: Channel) -> int:
        return 0 if channel.name else await rescue(self, channel)

    with mock.patch.object(WagonRemover, "_rescue", mutant):
        yield


@_mutant("figures that come too late for a record are a defect", "alive", RARE)
def _late_figures_fail() -> Iterator[None]:
    """A call that takes too long is no outage like others."""

    async def mutant(call: Callable[[], Awaitable[Any]], seconds: float, step: str) -> Any:
        async with asyncio.timeout(seconds):
            return await call()

    with mock.patch.object(recording_module, "in_time", mutant):
        yield


@_mutant("removed from the timetable before it is published", "I1", LATER)
def _removed_before_published() -> Iterator[None]:
    publish = DueEvents._publish

    async def mutant(self: DueEvents, due: Due, deadline: float) -> None:
        await self._remove(list(zip(due.keys, due.events, strict=True)), due)
        await publish(self, due, deadline)

    with mock.patch.object(DueEvents, "_publish", mutant):
        yield


@_mutant("replayed events are counted before they are published", "replay", REPLAYED)
def _counted_first() -> Iterator[None]:
    """The feeder writes down that a batch is stored, and then stores it."""

    async def mutant(self: Feeder, replay: Any, channel: Channel, events: Sequence[Event], count: int) -> None:
        await self._state.apply(lambda m: fed(m, replay.number, self._runtime.name, count))
        await self._publish(replay, channel, events, count - len(events))

    with mock.patch.object(Feeder, "_store", mutant):
        yield


@_mutant("the next feeder goes on from what was written down", "replay", REPLAYED)
def _not_torn() -> Iterator[None]:
    """The next feeder goes on in the same wagon, from the last batch that was written down."""

    def mutant(*arguments: Any, exact: bool) -> Edit:
        return claimed(*arguments, exact=False)

    with mock.patch.object(feeding_module, "claimed", mutant):
        yield


@_mutant("copies in a wagon count as published", "replay", RARE)
def _copies_counted() -> Iterator[None]:
    """Of a wagon whose feeder was lost the broker's total is taken for the number of events that it got."""

    async def mutant(self: Feeder, replay: Replay) -> None:
        removed = [e.fact async for e in self._state.registry.entries(self._train) if isinstance(e.fact, WagonRemoved)]
        got = sum(fact.wagon.published or 0 for fact in removed if fact.wagon.number == replay.wagon)
        count = min(replay.count, replay.start + got)
        await self._state.apply(lambda m: recounted(m, replay.number, self._runtime.name, replay.wagon, count))

    with mock.patch.object(Feeder, "_recount", mutant):
        yield


@_mutant("a wagon for a replay takes new events", "replay", REPLAYED)
def _replay_as_spare() -> Iterator[None]:
    """It counts as a spare."""

    def mutant(self: Manifest) -> list[Wagon]:
        return self.in_state(State.PROVISIONING, State.READY)

    with (
        mock.patch.object(Manifest, "spares", property(mutant)),
        mock.patch.object(plan_module, "run_replays", _only_opened),
    ):
        yield


def _only_opened(manifest: Manifest, *rest: Any) -> Edit:
    replay = manifest.replays[0] if manifest.replays else None
    return Edit(manifest) if replay is None or replay.wagon else run_replays(manifest, *rest)


@_mutant("a wagon is sealed while it is fed", "replay", REPLAYED)
def _sealed_while_fed() -> Iterator[None]:
    """What is left of a replay is not published when its wagon is sealed early, and counts as published."""

    def mutant(manifest: Manifest, number: int, feeder: str, because: str) -> Edit:
        replay = manifest.replay(number)
        count = 0 if replay is None else replay.count
        return fed(manifest, number, feeder, count)

    with mock.patch.object(feeding_module, "torn", mutant):
        yield


@_mutant("an undo goes on after dead letters", "undo", UNDONE)
def _never_stopped() -> Iterator[None]:
    """What came before is undone though not all that came from it is."""

    def mutant(manifest: Manifest, replay: Replay, undo: Undo) -> Edit:
        replace = msgspec.structs.replace
        return slice_over(manifest, replay, replace(undo, dead=replay.dead, unsure="", opened=undo.wagons))

    with mock.patch.object(replays_module, "slice_over", mutant):
        yield


@_mutant("parents are undone first", "undo", UNDONE)
def _parents_first() -> Iterator[None]:
    """The slices are the other way round."""

    def mutant(*given: Any) -> tuple[Slice, ...]:
        return slices_of(*given)[::-1]

    with mock.patch.object(undos_module, "slices_of", mutant):
        yield


@_mutant("what came to an earlier channel does not say so", "undo", UNDONE)
def _levels_forgotten() -> Iterator[None]:
    """Its parent is undone together with it."""
    with mock.patch.object(undoing_module, "level_of", return_value=0):
        yield


@_mutant("what is replayed forgets how deep it was", "undo", RARE)
def _replayed_on_one_level() -> Iterator[None]:
    """Undoing the replay's wagon takes it for a chain's beginning."""
    with mock.patch.object(feeding_module, "level_of", return_value=0):
        yield


@_mutant("what died or was skipped is undone, too", "undo", UNDONE)
def _dead_undone() -> Iterator[None]:
    """Everything that is kept counts as handled."""
    read = undoing_module._read

    async def mutant(*given: Any) -> AsyncIterator[PastEvent]:
        async for past in read(*given):
            yield past._replace(outcome="handled")

    with mock.patch.object(undoing_module, "_read", mutant):
        yield


@_mutant("the next slice of an undo does not wait for the one before", "undo", UNDONE)
def _not_waited_for() -> Iterator[None]:
    """It begins when the one before is published."""

    def mutant(manifest: Manifest, replay: Replay) -> int:
        return 0 if replay.undo is not None else sum(w.replay == replay.number for w in manifest.wagons)

    def over(manifest: Manifest, replay: Replay, undo: Undo) -> Edit:
        return slice_over(manifest, replay, msgspec.structs.replace(undo, opened=undo.wagons))

    with (
        mock.patch.object(replays_module, "_standing", mutant),
        mock.patch.object(replays_module, "slice_over", over),
    ):
        yield


@_mutant("handlers get what is to be undone", "undo", UNDONE)
def _handled_again() -> Iterator[None]:
    """The workers of an undo's wagon don't know what it is for."""

    def mutant(*given: Any, **more: Any) -> WagonSpec:
        return msgspec.structs.replace(spec_of(*given, **more), undoes=0)

    def begun(handler: Handler, event: Event, *rest: Any) -> Any:
        marks = {name: value for name, value in event.extensions.items() if name != UNDO}
        return begin(handler, msgspec.structs.replace(event, extensions=marks), *rest)

    with (
        mock.patch.object(member_module, "spec_of", mutant),
        mock.patch.object(observer_module, "spec_of", mutant),
        mock.patch.object(runner_module, "begin", begun),
    ):
        yield


@_mutant("dead letters are settled before they are published", "I1", RETRIED)
def _settled_before_published() -> Iterator[None]:
    """An operator who dies in between, or who is refused, loses them."""
    publish = DeadLetters._publish
    work = DeadLetters._work

    async def first(self: DeadLetters, channel: Any, subscription: Any, deliveries: Any, order: Any) -> Any:
        await subscription.settle(deliveries)
        return await work(self, channel, subscription, deliveries, order)

    async def then(self: DeadLetters, *given: Any) -> None:
        await asyncio.sleep(0.5)
        await publish(self, *given)

    with mock.patch.object(DeadLetters, "_work", first), mock.patch.object(DeadLetters, "_publish", then):
        yield


@_mutant("an event that died again is taken for its earlier letter", "I1", RETRIED)
def _told_by_id_alone() -> Iterator[None]:
    """It is settled, as a copy of what was published: nothing is left of it."""
    meet = DeadLetters._meet

    async def mutant(self: DeadLetters, channel: Any, subscription: Any, held: Any, missing: int, order: Any) -> None:
        marks = {death[:2] for death in order.deaths}

        class Alike(set[Any]):
            def __contains__(self, death: Any) -> bool:
                return death[:2] in marks

        order.deaths = Alike(order.deaths)
        await meet(self, channel, subscription, held, missing + 1, order)

    with mock.patch.object(DeadLetters, "_meet", mutant):
        yield


@_mutant("emitted for later and not kept", "I6", LATER)
def _emitted_and_not_kept() -> Iterator[None]:
    """It is kept when its event was settled: a process that dies in between loses it."""
    kept = later_module.store_emitted

    async def mutant(runtime: Runtime, events: Sequence[Event]) -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: asyncio.ensure_future(kept(runtime, events)))

    with mock.patch.object(settling_module, "store_emitted", mutant):
        yield


@_mutant("passed on to its channel after it is settled", "I6", LATER)
def _passed_on_late() -> Iterator[None]:
    pass_on = Settler.pass_on

    def mutant(self: Settler, delivery: Delivery) -> None:
        done = self.done
        self.done = lambda delivery, emitted: done(delivery, ())  # type: ignore[method-assign]
        try:
            pass_on(self, delivery)
        finally:
            del self.done

    with mock.patch.object(Settler, "pass_on", mutant):
        yield


@_mutant("due by the clock of its process", "later", LATER)
def _due_by_own_clock() -> Iterator[None]:
    """What is due is reckoned from this process's wall clock, which may be off by an hour."""

    async def mutant(runtime: Runtime, events: Sequence[Event]) -> None:
        assert runtime.timetable is not None
        now = runtime.clock()
        await runtime.timetable.add(runtime.train, [replace(event, time=now + event.time) for event in events])

    with mock.patch.object(settling_module, "store_emitted", mutant):
        yield


@_mutant("a pause is not heeded", "paused", PAUSED)
def _pause_not_heeded() -> Iterator[None]:
    with mock.patch.object(member_module, "resting", return_value=frozenset()), _specs_silent():
        yield


@_mutant("what was fetched before a pause is handed out", "paused", PAUSED)
def _fetched_handed_out() -> Iterator[None]:
    """Only fetching stops."""

    def mutant(self: Prefetcher) -> float | None:
        if self.source.circuit.held:
            return None
        if self.buffer:
            return born(self.buffer[0].event)
        return self.remembered if self.remembered is not None or not self.aside else born(self.aside[0].event)

    def heed(self: WagonConsumer) -> None:
        self.state.paused = self.state.spec.paused or self._paused_here
        self._pool.state.wake_all()
        self._channels.look()

    began = mock.patch.object(Prefetcher, "began", property(mutant))
    with began, mock.patch.object(WagonConsumer, "_heed_pause", heed):
        yield


@_mutant("a pause waits for who else is alive", "paused", PAUSED)
def _pause_waits() -> Iterator[None]:
    """A process that works hears of it only when it next looks after its wagons."""
    with mock.patch.object(Membership, "_heed", Membership.wake):
        yield


@_mutant("the end of a pause is not heard", "I7", PAUSED)
def _resume_not_heard() -> Iterator[None]:
    heed = WagonConsumer._heed_pause

    def mutant(self: WagonConsumer) -> None:
        if not self.paused:
            heed(self)

    with mock.patch.object(WagonConsumer, "_heed_pause", mutant):
        yield


@_mutant("limits are heeded while a train is paused", "paused", PAUSED)
def _limits_heeded() -> Iterator[None]:
    with mock.patch.object(Draft, "on_hold", return_value=False):
        yield


@_mutant("what the rule pauses goes on", "paused", RULED)
def _rule_not_heeded() -> Iterator[None]:
    def mutant(manifest: Manifest) -> frozenset[int]:
        return frozenset(w.number for w in manifest.wagons if (p := manifest.pause_of(w)) is not None and p.by != RULE)

    with mock.patch.object(member_module, "resting", mutant), _specs_silent():
        yield


@_mutant("the rule does not take a person's word", "rule", RULED)
def _rule_pauses_again() -> Iterator[None]:
    is_judged = pause_on_module._is_judged

    def mutant(manifest: Manifest, wagon: Wagon) -> bool:
        return is_judged(manifest, msgspec.structs.replace(wagon, resumed_at=None))

    with mock.patch.object(pause_on_module, "_is_judged", mutant):
        yield


@_mutant("the rule counts totals as if they were new at each look", "rule", RULED)
def _totals_counted_again() -> Iterator[None]:
    look = LatestOutcomes.look

    def mutant(self: LatestOutcomes, *given: Any, **more: Any) -> Any:
        self._totals = dict.fromkeys(self._totals, Outcomes(0, 0))
        return look(self, *given, **more)

    with mock.patch.object(LatestOutcomes, "look", mutant):
        yield


@contextmanager
def _specs_silent() -> Iterator[None]:
    """What wagons should have says nothing of pauses."""
    spec_of = edits_module.spec_of

    def silent(*of: Any, **more: Any) -> Any:
        return msgspec.structs.replace(spec_of(*of, **more), paused=False)

    with mock.patch.object(member_module, "spec_of", silent):
        yield


@_mutant("a budget is divided by what each has seen", "concurrency", BOUNDED)
def _divided_by_view() -> Iterator[None]:
    """Each process takes its share of those that it knows of at once, newcomers too."""

    def mutant(total: int, me: str, claims: Any, **_: Any) -> int:
        return shares(total, {name: claim.wants for name, claim in claims.items()})[me]

    at_once = mock.patch.object(budget_module, "granted", lambda total, asked, held, others: asked)
    with mock.patch.object(budget_module, "due", mutant), at_once:
        yield


@_mutant("what was asked for of a budget is used without a second look", "concurrency", BOUNDED)
def _no_second_look() -> Iterator[None]:
    with mock.patch.object(budget_module, "granted", lambda total, asked, held, others: asked):
        yield


@_mutant("room of a budget is kept for one wagon for ever", "I7", RARE)
def _kept_for_ever() -> Iterator[None]:
    with mock.patch.object(turns_module, "_KEPT", 1e9):
        yield


@_mutant("a budget is used though its lease has ended", "concurrency", RARE)
def _part_used_on() -> Iterator[None]:
    """A process that can't renew it goes on."""
    with mock.patch.object(BudgetShares, "_lose"), mock.patch.object(budget_module, "_LEASE", 1e6):
        yield


@_mutant("what is under way when a lease ends goes on", "concurrency", RARE)
def _lost_not_cut() -> Iterator[None]:
    with mock.patch.object(WorkerPool, "cut_channel"):
        yield


def _defective(error: Callable[[], BaseException]) -> Iterator[None]:
    """Each fifth look raises this, which the bulkhead around looks holds up: nothing but the record of that shows
    it."""
    looks = count(1)

    def mutant(seen: Seen) -> Plan:
        if next(looks) % 5 == 0:
            raise error()
        return plan(seen)

    with mock.patch.object(observer_module, "plan", mutant):
        yield


@_mutant("a cancellation that nobody sent", "alive", DEFECTS, then=("CancelledError",))
def _strays() -> Iterator[None]:
    yield from _defective(asyncio.CancelledError)


@_mutant("a group of what is no Exception", "alive", DEFECTS, then=("BaseExceptionGroup",))
def _groups() -> Iterator[None]:
    yield from _defective(lambda: BaseExceptionGroup("a defect", [GeneratorExit()]))


@_mutant("a wrong argument", "alive", DEFECTS, then=("AttributeError",))
def _wrong_argument() -> Iterator[None]:
    """Each fifth call of one kind has one; it fails in a file of the simulation."""
    settle_all = Settler._settle_all
    calls = count(1)

    async def mutant(self: Settler, deliveries: list[Any]) -> None:
        if next(calls) % 5 == 0:
            try:
                await self.source.subscription.settle([None])  # type: ignore[list-item]
            except AttributeError as e:
                self._runtime.bulkhead.report("settling", e)
        await settle_all(self, deliveries)

    with mock.patch.object(Settler, "_settle_all", mutant):
        yield


@_mutant("published by a handler after its event is settled", "I6", AGAIN)
def _published_late() -> Iterator[None]:
    """A process that dies in between loses it."""
    way = Settler._way

    def mutant(self: Settler, name: str, events: list[Event]) -> tuple[str, Callable[[], Awaitable[None]]]:
        step, store = way(self, name, list(events))
        if not name.startswith(OUT):
            return step, store

        async def later() -> None:
            asyncio.get_running_loop().call_later(1.0, lambda: asyncio.ensure_future(outcome_of(store)))

        return step, later

    with mock.patch.object(Settler, "_way", mutant):
        yield


@_mutant("published by a handler under a new id each time", "I1", AGAIN)
def _published_under_new_ids() -> Iterator[None]:
    number = count()
    with mock.patch.object(
        context_module, "published_id", lambda parent, train, index: f"{parent.id}-{train}-{index}-{next(number)}"
    ):
        yield


@_mutant("failed handlings are not measured", "measured", MEASURED)
def _failed_unmeasured() -> Iterator[None]:
    with mock.patch.object(HandlerRunner, "_measure"):
        yield


@_mutant("wagons go without a record", "ledger", RECORDED)
def _unrecorded() -> Iterator[None]:
    async def mutant(self: Recorder, wagon: Wagon, **_: object) -> tuple[Decision, ...]:
        return ()

    with mock.patch.object(Recorder, "record", mutant):
        yield


@_mutant("a crash between record and removal writes another record", "ledger", RECORDED)
def _recorded_twice() -> Iterator[None]:
    """Each attempt is a record of its own."""
    make = reconcile_module.record_of

    def mutant(manifest: Manifest, wagon: Wagon, **given: Any) -> WagonRecord:
        return replace(make(manifest, wagon, **given), opened_at=given["now"])

    with mock.patch.object(recording_module, "record_of", mutant):
        yield


@_mutant("recorded when its channels are gone", "ledger", RECORDED)
def _recorded_late() -> Iterator[None]:
    record = WagonRemover._record

    async def mutant(self: WagonRemover, wagon: Wagon, *given: Any) -> Sequence[Decision]:
        await self._delete(self._state.snapshot.manifest.ingress(wagon))
        return await record(self, wagon, *given)

    with mock.patch.object(WagonRemover, "_record", mutant):
        yield


@_mutant("what a process settled last is not counted", "ledger", RECORDED)
def _last_uncounted() -> Iterator[None]:
    """It hands in nothing when it leaves."""
    hand_in = HandIn.hand_in

    async def mutant(self: HandIn, *, last: bool = False) -> None:
        if not last:
            await hand_in(self)

    with mock.patch.object(HandIn, "hand_in", mutant):
        yield


@_mutant("of several processes only one is counted", "ledger", RECORDED)
def _counts_of_one() -> Iterator[None]:
    handed_in = handing_in_module.handed_in

    async def mutant(*given: Any) -> list[Handed]:
        return (await handed_in(*given))[:1]

    with mock.patch.object(recording_module, "handed_in", mutant):
        yield


@_mutant("settled events are counted twice", "ledger", RECORDED)
def _counted_early() -> Iterator[None]:
    """The first of each batch."""
    settle = Settler._settle_now

    async def mutant(self: Settler, deliveries: list[Delivery]) -> None:
        if self.source.counter is not None:
            self.source.counter.settled(deliveries[:1], 0)
        await settle(self, deliveries)

    with mock.patch.object(Settler, "_settle_now", mutant):
        yield


@_mutant("what was handled last is not measured", "measured", MEASURED)
def _last_unmeasured() -> Iterator[None]:
    """The meter is told when a batch is settled, and not once more at the end."""
    tell = Handlings.tell

    def mutant(self: Handlings, channel: Channel, *, late: bool) -> None:
        if len(self.seconds) > 1:
            tell(self, channel, late=late)

    with mock.patch.object(Handlings, "tell", mutant):
        yield


@_mutant("handled and not recorded", "once", ONCE)
def _handled_unrecorded() -> Iterator[None]:
    async def mutant(self: OnceGuard, deliveries: object) -> None:
        pass

    with mock.patch.object(OnceGuard, "record", mutant):
        yield


@_mutant("copies are handled side by side", "once", ONCE)
def _copies_together() -> Iterator[None]:
    """Only what was handled is skipped; what others have claimed is handled here, too."""
    claim = MemoryOnce.claim

    async def mutant(self: MemoryOnce, *given: Any, **more: Any) -> Sequence[Standing]:
        found = await claim(self, *given, **more)
        return [Standing.OURS if standing is Standing.CLAIMED else standing for standing in found]

    with mock.patch.object(MemoryOnce, "claim", mutant):
        yield


@_mutant("recorded before what it emitted is stored", "I1", ONCE)
def _recorded_before_stored() -> Iterator[None]:
    """A process that dies in between loses what the event emitted: it is skipped when it comes again."""
    settle = Settler._settle

    async def mutant(self: Settler, queue: SettleQueue, finished: Sequence[tuple[Delivery, Any]]) -> None:
        if self.source.once is not None:
            await self.source.once.record([delivery for delivery, _ in finished])
        await settle(self, queue, finished)

    with mock.patch.object(Settler, "_settle", mutant):
        yield


@_mutant("the dead are recorded as handled", "I1", ONCE)
def _dead_recorded() -> Iterator[None]:
    """What is retried is skipped, and gone."""
    with mock.patch.object(OnceGuard, "died"):
        yield


@_mutant("settled before its row is kept", "archive", ARCHIVED)
def _row_late() -> Iterator[None]:
    """A process that dies in between leaves no row."""
    keep = SettledRows.keep

    async def mutant(self: SettledRows, *given: Any) -> None:
        asyncio.get_running_loop().call_later(
            1.0, lambda: asyncio.ensure_future(outcome_of(lambda: keep(self, *given)))
        )

    with mock.patch.object(SettledRows, "keep", mutant):
        yield


@_mutant("a wagon goes though its archive is away", "archive", ARCHIVED)
def _archive_passed_over() -> Iterator[None]:
    archive = Archiver.archive

    async def mutant(self: Archiver, wagon: Wagon) -> None:
        with suppress(Unavailable):
            await archive(self, wagon)

    with mock.patch.object(Archiver, "archive", mutant):
        yield


@_mutant("rows that a crash left twice are archived twice", "archive", ARCHIVED)
def _rows_twice() -> Iterator[None]:
    new = archiving_module._Tally.new

    def mutant(self: Any, rows: Sequence[Row]) -> Sequence[Row]:
        before = dict(self.counts)
        new(self, rows)
        for row in rows:
            before[row.channel] = before.get(row.channel, 0) + 1
        self.counts = before
        self.digests = {**self.digests, **dict.fromkeys({row.channel for row in rows}, 0)}
        return rows

    with (
        mock.patch.object(archiving_module._Tally, "new", mutant),
        mock.patch.object(archive_module, "digest_of", return_value=0),
    ):
        yield


@_mutant("what is dead is archived as handled", "archive", ARCHIVED)
def _dead_as_handled() -> Iterator[None]:
    keep = SettledRows.keep

    async def mutant(self: SettledRows, settled: Sequence[Any], skipped: Any) -> None:
        await keep(self, [(delivery, ()) for delivery, _ in settled], skipped)

    with mock.patch.object(SettledRows, "keep", mutant):
        yield


@_mutant("committed before it is published", "bridge", BRIDGED)
def _committed_first() -> Iterator[None]:
    """A bridge that dies in between loses the batch."""
    pass_on = Bridge._pass_on

    async def mutant(self: Bridge, batch: Any) -> bool:
        with suppress(EventwagonError):
            await self.source.commit(batch.records)
        return await pass_on(self, batch)

    with mock.patch.object(Bridge, "_pass_on", mutant):
        yield


@_mutant("what can't be mapped is dropped", "bridge", BRIDGED)
def _unmapped_dropped() -> Iterator[None]:
    """It leaves no dead letter."""
    with mock.patch.object(Bridge, "_bury"):
        yield


@_mutant("committed past the part of a batch that is stored", "bridge", BRIDGED)
def _committed_past() -> Iterator[None]:
    """Where some of a batch is stored, all of it is committed."""
    store = Bridge._store

    async def mutant(self: Bridge, batch: Any) -> BaseException | None:
        error = await store(self, batch)
        if error is not None and batch.done:
            batch.done = len(batch.records)
        return error

    with mock.patch.object(Bridge, "_store", mutant):
        yield


@_mutant("the next batch is published before this one is committed", "bridge", BRIDGED)
def _committed_late() -> Iterator[None]:
    """Faster, and a kill repeats two."""
    insist = Bridge._insist

    async def mutant(self: Bridge, step: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if step != "committing":
            return await insist(self, step, call)
        before = getattr(self, "under_way", None)
        self.under_way = asyncio.ensure_future(insist(self, step, call))  # type: ignore[attr-defined]
        return await before if before is not None else (None,)

    with mock.patch.object(Bridge, "_insist", mutant):
        yield


@_mutant("a record that is read again is another event", "bridge", BRIDGED)
def _ids_of_readings() -> Iterator[None]:
    readings = count()

    def mutant(record: Any, rules: Rules) -> Event | Unmapped:
        outcome = event_of(record, rules)
        return outcome if isinstance(outcome, Unmapped) else replace(outcome, id=f"{outcome.id}-{next(readings)}")

    with mock.patch.object(bridge_module, "event_of", mutant):
        yield


@_mutant("dead letters of a batch are stored before its events", "bridge", BRIDGED)
def _letters_first() -> Iterator[None]:
    """They come again from a bridge that was asked to end while the train takes no events."""

    store, bury = Bridge._store, Bridge._bury
    gone: list[Unmapped] = []

    async def mutant(self: Bridge, batch: Any) -> BaseException | None:
        try:
            for outcome in batch.outcomes[batch.done :]:
                if isinstance(outcome, Unmapped):
                    await once(self, outcome)
        except EventwagonError as e:
            return e
        return await store(self, batch)

    async def once(self: Bridge, refused: Unmapped) -> None:
        if not any(refused is one for one in gone):
            await bury(self, refused)
            gone.append(refused)

    with mock.patch.object(Bridge, "_store", mutant), mock.patch.object(Bridge, "_bury", once):
        yield


@_mutant("an event that the broker refuses is tried for ever", "I7", BRIDGED)
def _refused_for_ever() -> Iterator[None]:
    """What comes after it is not published."""
    with mock.patch.object(bridge_module, "EventRefused", ()), mock.patch.object(bridge_module, "_DEFECTS", 10**9):
        yield


@_mutant("a call of the source that fails ends its bridge", "alive", BRIDGED, then=("Unavailable", "simulated"))
def _ends_at_trouble() -> Iterator[None]:
    async def mutant(self: Bridge, step: str, call: Callable[[], Awaitable[Any]]) -> Any:
        return (await call(),)

    with mock.patch.object(Bridge, "_insist", mutant):
        yield


ALL: dict[str, Mutant] = {
    **FENCED,
    **UNFENCED,
    **HOSTILE,
    **LEAVING,
    **HANGING,
    **PAUSED,
    **RULED,
    **LATER,
    **RETRIED,
    **REPLAYED,
    **UNDONE,
    **AGAIN,
    **DEFECTS,
    **STEPPING,
    **RENAMING,
    **BATCHED,
    **SURROUNDED,
    **MEASURED,
    **RECORDED,
    **ARCHIVED,
    **BOUNDED,
    **BRIDGED,
    **MANY,
    **ONCE,
    **RARE,
}
"""Each of them, by name."""
