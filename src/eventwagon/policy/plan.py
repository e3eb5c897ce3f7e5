"""All policy: what should happen next to a train, as a function of what is known. No I/O, no clock, no await.

Observers call `plan` at each look. It returns the next manifest, to be stored in one compare-and-swap together with the
facts that explain it, and the tasks to carry out once it is stored. Production, the tests, the simulation, and
`eventwagon why --look`, which replays a stored look, share this code.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..contracts.facts import (
    NOBODY_ATTACHED,
    WHILE_PAUSED,
    ChannelsDropped,
    ChannelThreatened,
    ChannelUnserved,
    Decision,
    DrainGivenUp,
    DrainUnproven,
    EventsLost,
    OpenRefused,
    SealWaits,
    StepFailed,
    SwitchRefused,
    WagonDrained,
    WagonReady,
    WorkersLost,
)
from ..contracts.lifecycle import LIVE, Move, State
from ..contracts.manifest import Manifest, Wagon, changed, check, moved
from ..contracts.orchestrator import Deployment
from ..contracts.reading import Reading
from ..event import wagon_name
from ..limits import Pressure, measured
from .canary import judge_canary
from .edits import (
    AddChannels,
    Edit,
    Ensure,
    Lift,
    Refusal,
    Remove,
    RemoveLeftover,
    Seal,
    Task,
    at_cap,
    attempt_failed,
    attempt_pause,
    not_wanted,
    numbered_past,
    open_next,
    open_pause,
    switch_to,
)
from .losses import GONE
from .pause_on import pause_failing
from .replays import run_replays
from .scale_to_zero import scale_to_zero
from .scheduling import expected_switches
from .seen import Seen
from .sizing import no_room_for_one_more, scaled

_EXHAUSTED = "can take no more events"
_UNDELIVERABLE = "can deliver no more events: the broker has lost what records its claims, or their topic"
_NOT_OPENED = "the next wagon is not opened yet"


class Plan(Edit, frozen=True):
    """What `plan` decides: an edit of the manifest, and why some things were not done.

    `facts` explain the change; `refusals` say what was not done and why, anew at each look.
    """

    refusals: tuple[Refusal, ...] = ()
    next_wanted: bool = False
    """The active wagon is filling, or a switch was requested."""
    defects: tuple[tuple[str, Exception], ...] = ()
    """Phases that failed by a defect of ours, each with its error: they decided nothing."""
    at_risk: bool = False
    """Events that are promised something have to wait, or will have to."""


# The phases of a plan, in this order. Each works on the manifest as the earlier phases have left it.
#
# - numbering comes first: no phase may open a wagon under a number that a forgotten wagon has used.
# - provisioning: wagons become READY, or stop being so, before ingestion is redirected to one of them (I3).
# - looking at channels, making channels anew, counting what was lost: these treat wagons as the look saw them. They
#   come before the phases that move wagons on, so that a wagon proven empty in this look has its losses reported too.
# - replaying comes before draining, which seals a wagon once nothing more is to be published to it.
# - judging new code comes before the switch: if it requests the way back, the same plan can switch.
# - pausing by rule comes after it: new code that fails is both gone back from and paused.
# - switching: redirects ingestion to a READY wagon or says why not, and finds out whether a next wagon is wanted.
# - draining comes after the switch: a wagon that was just cut off is sealed by the same plan. It also finds the units
#   that stay warm.
# - opening needs both results: whether a wagon is wanted, and which units are warm.
# - scaling comes after opening: a wagon that was just opened gets its size at once.
# - sending workers home comes after opening: a wagon falls asleep only if it is the only one.
# - sweeping comes last: it removes what belongs to no wagon in the manifest that will be stored.
#
# If a phase fails by a defect of ours, only that phase is undone: a bug in a rule about spares must not stop sealing.


def plan(seen: Seen) -> Plan:
    """What an observer should do next, given this look. Pure: the same look gives the same plan. An error in a phase is
    not raised: it is among the plan's defects."""
    if seen.manifest.removal is not None:
        return Plan(seen.manifest)  # its remover does the rest
    draft = Draft(seen)
    draft.attempt("numbering", draft.number)
    draft.attempt("provisioning", draft.provision)
    draft.attempt("looking at channels", draft.channels)
    draft.attempt("making channels anew", draft.restore)
    draft.attempt("judging new code", lambda: draft.follow(judge_canary(draft.manifest, seen.deployments, seen.now)))
    draft.attempt("pausing by rule", lambda: draft.follow(_paused_by_rule(seen, draft.manifest)))
    draft.attempt("counting what was lost", draft.losses)
    draft.attempt("replaying", lambda: draft.follow(_replayed(seen, draft.manifest)))
    draft.attempt("switching", draft.switch)
    draft.attempt("draining", draft.drain)
    draft.attempt("opening", draft.open)
    draft.attempt("scaling", lambda: draft.scale(seen))
    if seen.orchestrated:
        draft.attempt("sending workers home", lambda: draft.follow(scale_to_zero(seen, draft.manifest)))
    draft.attempt("sweeping", draft.sweep)
    return draft.plan()


def _replayed(seen: Seen, manifest: Manifest) -> Edit:
    return run_replays(manifest, seen.now, seen.settings.archive or "")


def _paused_by_rule(seen: Seen, manifest: Manifest) -> Edit:
    return pause_failing(seen.settings.pause_on, manifest, seen.outcomes, seen.now)


class Draft:
    """A plan in the making: the manifest as the phases so far have left it, and their results."""

    def __init__(self, seen: Seen) -> None:
        self.settings = seen.settings
        self.step = seen.step
        self.manifest = seen.manifest
        self.readings = seen.readings
        self.deployments = seen.deployments
        self.members = seen.members
        self.now = seen.now
        self.bounds = seen.capabilities.bounds
        self.fences = seen.capabilities.fences
        self.ages = seen.ages
        self.leftovers = seen.leftovers
        self.facts: list[Decision] = []
        self.refusals: list[Refusal] = []
        self.tasks: list[Task] = []
        self.next_wanted = False
        self.cut_off_before = {w.number for w in seen.manifest.in_state(State.DRAINING)}
        """Wagons that were cut off before this plan: `members` was read after their switch."""
        self.warm: list[int] = []
        """Units of wagons that this plan proved empty: their workers may serve the next wagon."""
        self.began_anew: set[int] = set()
        """Wagons that this plan made PROVISIONING: the ages are those of their time as READY."""
        self.defects: list[tuple[str, Exception]] = []
        self.at_risk = False

    def plan(self) -> Plan:
        return Plan(
            self.manifest,
            tuple(self.facts),
            tuple(self.tasks),
            tuple(self.refusals),
            self.next_wanted,
            tuple(self.defects),
            self.at_risk,
        )

    def attempt(self, step: str, decide: Callable[[], None]) -> None:
        """Run one phase. If it raises, or leaves a manifest that breaks a rule, it is undone and the defect noted; the
        next phase runs anyway."""
        before = self.manifest, self.facts[:], self.refusals[:], self.tasks[:], self.warm[:]
        try:
            decide()
            if self.manifest is not before[0]:
                check(self.manifest)
        except Exception as e:  # noqa: BLE001 - a defect of ours, whatever it is: the other phases go on
            self.manifest, self.facts, self.refusals, self.tasks, self.warm = before
            self.defects.append((step, e))

    def deployment(self, wagon: Wagon) -> Deployment | None:
        """The wagon's running workers. They are not ready while their unit serves another wagon, runs the wrong code,
        or is not attached to all channels that the wagon needs."""
        found = self.deployments.get(wagon.unit)
        if found is None or not found.ready:
            return found
        why = ""
        if found.number != wagon.number:
            why = f"its workers are still at {wagon_name(self.manifest.train, found.number)}"
        elif wagon.revision and found.revision and found.revision != wagon.revision:
            why = f"its workers run revision {found.revision}, not {wagon.revision}"
        elif missing := [c for c in found.missing if c in self.manifest.channels]:
            why = f"no process has a handler for {', '.join(missing)}"
        elif missing := self.unattached(wagon, found):
            why = f"its workers are not attached to {', '.join(missing)} yet"
        return msgspec.structs.replace(found, ready=False, trouble=why) if why else found

    def unattached(self, wagon: Wagon, found: Deployment) -> list[str]:
        """The declared channels of the wagon that its workers are not attached to. A channel that is no longer declared
        needs no workers."""
        if found.channels is None:
            return []
        return [c for c in wagon.channels if c not in found.channels and c in self.manifest.channels]

    def follow(self, edit: Edit) -> None:
        """Apply a change that was decided elsewhere."""
        self.manifest = edit.manifest
        self.facts.extend(edit.facts)

    def scale(self, seen: Seen) -> None:
        """Say how many workers each wagon should have."""
        found = scaled(seen, self.manifest)
        self.follow(found)
        self.at_risk = found.at_risk

    def age(self, wagon: Wagon) -> float:
        return 0.0 if wagon.number in self.began_anew else self.ages.wagons.get(wagon.number, 0.0)

    def number(self) -> None:
        """A manifest restored from an older copy does not know the channels created since: never use their names again.
        Another observer may just have created them; storing this plan shows that none has."""
        self.follow(numbered_past(self.manifest, self.leftovers))

    def provision(self) -> None:
        """Wagons become READY, stop being READY, or are given up; the workers of all live wagons are asked for."""
        for wagon in self.manifest.in_state(State.READY):
            deployment = self.deployment(wagon)
            if deployment is None or not deployment.ready:
                why = (deployment.trouble if deployment else "") or NOBODY_ATTACHED
                losses = wagon.losses + 1
                self.manifest = moved(self.manifest, wagon.number, Move.LOST, ready_at=None, losses=losses)
                self.facts.append(WorkersLost(train=self.manifest.train, number=wagon.number, because=why))
                self.began_anew.add(wagon.number)
        for wagon in self.manifest.in_state(State.PROVISIONING):
            deployment = self.deployment(wagon)
            if wagon.created_at is not None and deployment is not None and deployment.ready:
                self.manifest = moved(self.manifest, wagon.number, Move.MADE_READY, ready_at=self.now)
                again = wagon.losses > 0
                took = self.age(wagon) if again else max(0.0, self.now - wagon.opened_at)
                self.facts.append(WagonReady(train=self.manifest.train, number=wagon.number, seconds=took, again=again))
            elif self.age(wagon) > attempt_pause(wagon.attempts) + self.settings.provision_timeout:
                why = (deployment.trouble if deployment else "") or (
                    "no workers are attached to it; is a process running with `eventwagon run` or `work`?"
                )
                because = f"not ready within {self.settings.provision_timeout:g} s: {why}"
                self.follow(attempt_failed(self.settings, self.manifest, wagon.number, self.now, because))
        for wagon in self.manifest.in_state(*LIVE):
            if wagon.state is not State.PROVISIONING or self.age(wagon) >= attempt_pause(wagon.attempts):
                self.tasks.append(Ensure(wagon.number))
            missing = tuple(c for c in self.wanted_channels() if c not in wagon.channels)
            if missing and wagon.created_at is not None and not wagon.undoes:
                self.tasks.append(AddChannels(wagon.number, missing))

    def wanted_channels(self) -> tuple[str, ...]:
        """The declared channels, and those for which a live process has handlers: during a rolling update old and new
        programs work side by side, and each emits to its own channels."""
        theirs = sorted({c for m in self.members if "work" in m.roles or "serve" in m.roles for c in m.channels or ()})
        return (*self.manifest.channels, *(c for c in theirs if c not in self.manifest.channels))

    def channels(self) -> None:
        """Channels for which no process at their wagon has a handler. If such a channel is empty and no longer wanted,
        it is taken off the wagon's list and deleted along with the wagon. If it holds events, it stays and is reported.
        """
        wanted = set(self.wanted_channels())
        for wagon in self.manifest.in_state(State.READY, State.ACTIVE, State.DRAINING):
            found, reading = self.deployments.get(wagon.unit), self.readings.get(wagon.number)
            if found is None or not found.ready or found.number != wagon.number:
                continue
            held = dict.fromkeys(wagon.channels, 0) if wagon.state is State.READY else reading.inner if reading else {}
            unserved = [c for c in wagon.channels if c in found.missing and c in held]
            gone = tuple(c for c in unserved if c not in wanted and held[c] == 0)
            if gone:
                left = tuple(c for c in wagon.channels if c not in gone)
                self.manifest = changed(self.manifest, wagon.number, channels=left)
                self.facts.append(ChannelsDropped(train=self.manifest.train, number=wagon.number, channels=gone))
            self.refusals += [
                ChannelUnserved(
                    train=self.manifest.train,
                    number=wagon.number,
                    channel=c,
                    count=held[c],
                    because="no process that serves it has a handler for that channel",
                )
                for c in unserved
                if c not in gone and held[c] != 0
            ]

    def restore(self) -> None:
        """Recreate inner channels that have vanished from the broker: a wagon can't be served without them. The events
        in them are lost; `losses` reports how many."""
        for wagon in self.manifest.in_state(State.ACTIVE, State.DRAINING):
            reading = self.readings.get(wagon.number)
            if reading is None:
                continue
            missing = tuple(c for c in reading.missing if c)
            if missing:
                self.tasks.append(AddChannels(wagon.number, missing, anew=True))
            told = dict.fromkeys(missing, "it is created again")
            for c, why in reading.irreplaceable.items():
                told[c] = "it can't be created again" + (f": {why}" if why else "")
            self.refusals += [
                ChannelThreatened(
                    train=self.manifest.train, number=wagon.number, channel=c, because=f"it has {GONE}; {what}"
                )
                for c, what in told.items()
            ]

    def switch(self) -> None:
        """Redirect ingestion if the active wagon is full and another is ready, or say why not."""
        active = self.manifest.active
        if active is None:
            return
        pressure, asked = self.pressure(active), self.manifest.request
        broken = self.broken(active)
        full = pressure.value >= 1 or asked is not None or bool(broken)
        because = broken or (f"asked for: {asked.why}" if asked else pressure.why)
        self.next_wanted = (full or pressure.value >= self.settings.prepare) and not self.on_hold()
        if not full:
            if self.manifest.refusing:
                self.manifest = msgspec.structs.replace(self.manifest, refusing="")
            return
        exact = asked is not None or self.exactly_full(active) or bool(broken)
        refusal = self.why_not(active, exact=exact)
        if refusal is None:
            ready = self.manifest.ready[0]
            self.follow(switch_to(self.manifest, ready, now=self.now, pressure=pressure.value, because=because))
            self.next_wanted = False
            return
        self.refusals.append(
            SwitchRefused(
                train=self.manifest.train,
                number=active.number,
                pressure=pressure.value,
                figures=because,
                because=refusal,
                passing=not self.at_cap(active) and not self.on_hold(),
            )
        )
        capped = self.at_cap(active)
        fills = capped and self.settings.at_cap == "fill" and not self.on_hold()
        if fills and self.step > 1 and self.exactly_full(active):  # publishers elsewhere don't know this cap
            self.tasks.append(Lift(active.number, refusal))
        refusing = refusal if capped and self.settings.at_cap == "refuse" else ""
        if refusing != self.manifest.refusing:
            self.manifest = msgspec.structs.replace(self.manifest, refusing=refusing)

    def on_hold(self) -> bool:
        """Whether the train is paused and no switch was requested. No event is handled then, so one wagon after another
        would fill up. The active wagon takes all events until the train is resumed; then its limit counts again."""
        active = self.manifest.active
        broken = active is not None and self.broken(active)
        return self.manifest.paused is not None and self.manifest.request is None and not broken

    def why_not(self, active: Wagon, *, exact: bool) -> str | None:
        """Why ingestion can't be redirected now. The words stay the same while the reason does."""
        refuses = self.at_cap(active) and self.settings.at_cap == "refuse"
        if self.on_hold() and not refuses:
            return WHILE_PAUSED
        reading = self.readings.get(active.number)
        if not exact and reading is not None and reading.age < self.settings.cooldown:
            return f"the cooldown of {self.settings.cooldown:g} s is not over"
        if self.manifest.ready:
            return None
        coming = [w for w in self.manifest.spares if w.revision == self.manifest.revision]
        if coming:
            return self.not_ready(coming[0].number, coming[0].trouble)
        if self.at_cap(active):
            return f"the cap of {self.settings.wagons} live wagons is reached"
        return _NOT_OPENED

    def not_ready(self, number: int, trouble: str = "") -> str:
        return f"{wagon_name(self.manifest.train, number)} is not ready yet" + (f" ({trouble})" if trouble else "")

    def at_cap(self, active: Wagon) -> bool:
        """Whether no further wagon can be opened. An active wagon that can take no more events does not count towards
        the cap: without a next one the train would stand still, and wagons awaiting removal may hold events that only
        the next one can take over."""
        return at_cap(self.settings, self.manifest) and not self.is_dead_end(active)

    def broken(self, wagon: Wagon) -> str:
        """Why the wagon can't take or handle further events: its ingress, or an inner channel that can't be recreated,
        has vanished from the broker, or one of its channels is exhausted or undeliverable. Empty if it can."""
        reading = self.readings.get(wagon.number)
        if reading is None:
            return ""
        if "" in reading.missing or reading.irreplaceable:
            return f"a channel of it has {GONE}"
        if reading.undeliverable:
            return f"a channel of it {_UNDELIVERABLE}"
        return f"a channel of it {_EXHAUSTED}" if reading.exhausted else ""

    def is_dead_end(self, wagon: Wagon) -> bool:
        """Whether the wagon can never take another event."""
        return wagon.found_sealed or bool(self.broken(wagon))

    def exactly_full(self, active: Wagon) -> bool:
        reading = self.readings.get(active.number)
        return (
            active.capacity is not None
            and reading is not None
            and reading.published is not None
            and reading.published >= active.capacity
        )

    def pressure(self, active: Wagon) -> Pressure:
        reading = self.readings.get(active.number)
        if reading is None:
            return Pressure(0.0, "not looked at yet")
        pressure, faults = measured(self.settings.limit, reading)
        for fault in faults:
            step = f"measuring the limit {fault.limit}"
            self.refusals.append(StepFailed(train=self.manifest.train, step=step, because=fault.why))
        return pressure

    def open(self) -> None:
        """Open the next wagon if one is wanted, and discard spares that are not needed."""
        if self.manifest.active is None:
            return
        spares, most = self.settings.spares, self.settings.wagons  # "auto" follows the traffic: none goes at once
        if spares == "auto":
            spares = expected_switches(self.manifest, self.pressure_now(), self.now, self.settings.wagons - 1)
        else:
            most = max(spares, 1) + (1 if self.settings.reuse else 0)
        needed = 1 if self.next_wanted else 0
        self.put_away(max(spares, needed), most=most)
        crowded = self.crowded()
        if crowded and self.manifest.in_state(State.DRAINING):
            spares = 0  # open none for now: its workers would wait for a switch while events wait for workers
        elif crowded and self.settings.spares == "auto":
            spares = 1  # further ones would leave the active wagon too few workers to follow the traffic
        wanted = max(spares, needed)
        standing = len(self.manifest.spares)
        for unit in self.warm:
            # with no room, one kept warm on top of the spares would be a burden at the next switch
            kept = 0 if self.crowded() else spares + 1
            if standing < max(wanted, kept) and len(self.manifest.for_new_events) < self.settings.wagons:
                self.open_one("the workers of a drained wagon are kept warm", unit)
                standing += 1
        if standing >= wanted:
            return
        if len(self.manifest.for_new_events) - self.is_dead_end(self.manifest.active) >= self.settings.wagons:
            why = f"the cap of {self.settings.wagons} live wagons is reached"
            self.refusals.append(OpenRefused(train=self.manifest.train, because=why))
        elif self.ages.failed_opens < open_pause(self.manifest.failed_opens):
            why = f"{self.manifest.failed_opens} in a row never got ready; the next is tried after a pause"
            self.refusals.append(OpenRefused(train=self.manifest.train, because=why))
        else:
            self.open_one(f"a spare is missing ({spares} wanted)" if not self.next_wanted else self.why_next())

    def crowded(self) -> bool:
        """Whether one more live wagon would tie up more than half of all workers by `least`."""
        return no_room_for_one_more(self.settings.workers, self.manifest, self.step)

    def pressure_now(self) -> float:
        """How full the active wagon is."""
        active = self.manifest.active
        reading = self.readings.get(active.number) if active is not None else None
        return 0.0 if reading is None else measured(self.settings.limit, reading)[0].value

    def open_one(self, why: str, unit: int | None = None) -> None:
        self.manifest, fact = open_next(self.settings, self.manifest, self.now, why, bounds=self.bounds, unit=unit)
        self.facts.append(fact)
        self.tasks.append(Ensure(fact.number))
        self.refusals = [  # one of this look says that there is no next wagon
            msgspec.structs.replace(r, because=self.not_ready(fact.number))
            if isinstance(r, SwitchRefused) and r.because == _NOT_OPENED
            else r
            for r in self.refusals
        ]

    def put_away(self, wanted: int, *, most: int) -> None:
        """Discard wagons that were never active and are not needed: at once those with other code than is wanted now
        and those beyond `most`; those beyond `wanted` after `keep_warm` seconds without being needed."""
        for wagon in self.manifest.spares:
            if wagon.revision != self.manifest.revision:
                why = f"it has revision {wagon.revision or 'none'}, {self.manifest.revision or 'none'} is wanted now"
                self.follow(not_wanted(self.manifest, wagon, self.now, why))
        ready, keep = self.manifest.ready, self.settings.keep_warm
        calm = not self.next_wanted and self.ages.unwanted >= keep
        for place, wagon in enumerate(ready):
            if place >= most:
                why = f"{len(ready)} wagons are ready, {most} at most are wanted"
                self.follow(not_wanted(self.manifest, wagon, self.now, why))
            elif place >= (wanted if calm else max(wanted, 1)) and self.age(wagon) >= keep:
                why = f"it was ready for {keep:g} s and not needed"
                self.follow(not_wanted(self.manifest, wagon, self.now, why))

    def why_next(self) -> str:
        """Why a next wagon is wanted."""
        if self.manifest.request is not None:
            return f"a switch was requested ({self.manifest.request.why})"
        active = self.manifest.active
        if active is None:
            return ""
        if broken := self.broken(active):
            return f"the active wagon can't go on: {broken}"
        return f"the active wagon fills: {self.pressure(active).why}"

    def losses(self) -> None:
        """Report events that vanished without being settled. Each loss is reported once, by the first observer that
        sees it; the number of events is not always known."""
        for wagon in self.manifest.in_state(State.ACTIVE, State.DRAINING):
            reading = self.readings.get(wagon.number)
            if reading is None:
                continue
            lost = EventsLost(
                train=self.manifest.train,
                number=wagon.number,
                count=reading.lost - wagon.lost,
                total=reading.lost,
                because=reading.lost_because,
            )
            if reading.lost > wagon.lost:
                self.manifest = changed(self.manifest, wagon.number, lost=reading.lost)
                self.facts.append(lost)
            if None in reading.vanished.values():
                self.refusals.append(msgspec.structs.replace(lost, count=None))

    def drain(self) -> None:
        """Seal wagons that were cut off, prove them empty, and remove them."""
        for wagon in self.manifest.in_state(State.DRAINING):
            reading = self.readings.get(wagon.number)
            if wagon.sealed_at is None:
                if self.manifest.feeds(wagon):
                    continue
                if self.fences or (wagon.number in self.cut_off_before and not self.stale_publishers(wagon)):
                    self.tasks.append(Seal(wagon.number))
            elif reading is not None and reading.empty:
                if self.stays_warm(wagon):
                    self.warm.append(wagon.unit)
                self.manifest = moved(
                    self.manifest,
                    wagon.number,
                    Move.PROVEN_EMPTY,
                    drained_at=self.now,
                    published=reading.published,
                    settled=reading.settled,
                )
                self.facts.append(
                    WagonDrained(
                        train=self.manifest.train,
                        number=wagon.number,
                        published=reading.published,
                        settled=reading.settled,
                        seconds=max(0.0, self.now - (wagon.closed_at or self.now)),
                    )
                )
            elif reading is not None and (why := self.undrainable(reading)):
                totals = {"published": reading.published, "settled": reading.settled}
                self.manifest = moved(self.manifest, wagon.number, Move.GIVEN_UP, trouble=why, **totals)
                self.facts.append(DrainGivenUp(train=self.manifest.train, number=wagon.number, because=why))
            elif reading is not None and reading.outstanding_in_all is None:
                why = "a figure of one of its channels is unknown"
                self.refusals.append(DrainUnproven(train=self.manifest.train, number=wagon.number, because=why))
        attached = {a.number for m in self.members for a in m.attachments}
        for wagon in self.manifest.in_state(State.DRAINED, State.REMOVING, State.FAILED):
            found = self.deployments.get(wagon.unit)
            moving = found is not None and found.number == wagon.number and self.is_taken(wagon)
            left = not (moving or wagon.number in attached) or self.age(wagon) > self.settings.grace
            if left and (self.fences or self.age(wagon) >= self.settings.keep_drained):
                self.tasks.append(Remove(wagon.number))

    def undrainable(self, reading: Reading) -> str:
        """Why the wagon can never drain: an inner channel has vanished for good and can't be recreated, or one is
        exhausted, or events of any channel can't be delivered any more. Empty if it can drain."""
        if any(reading.undeliverable.values()):
            return f"a channel of it {_UNDELIVERABLE}"
        lost = sorted(reading.vanished.keys() & reading.irreplaceable.keys())
        if lost:
            return f"its channel {', '.join(lost)} has {GONE}; it can't be created again"
        exhausted = sorted(name for name in reading.exhausted if name)
        return f"its channel {', '.join(exhausted)} {_EXHAUSTED}" if exhausted else ""

    def stays_warm(self, wagon: Wagon) -> bool:
        """Whether this drained wagon's workers may serve the next one. Those of a discarded spare may not: it was one
        too many."""
        found = self.deployment(wagon)
        fits = wagon.active_at is not None and wagon.revision == self.manifest.revision
        return bool(self.settings.reuse) and fits and found is not None and found.ready

    def is_taken(self, wagon: Wagon) -> bool:
        """Whether another wagon already has its workers, or is to get them."""
        return any(w.unit == wagon.unit for w in self.manifest.in_state(*LIVE))

    def stale_publishers(self, wagon: Wagon) -> bool:
        """Whether a process may still publish to this wagon, if the broker does not refuse that.

        Each publishing process holds a lease, and its check-in says for which wagon. It blocks the seal until it checks
        in with a later wagon, or until its check-in expires, which outlives the lease and any send under it. Nobody can
        have published to a wagon that was never active.
        """
        if not wagon.turn:
            return False
        waiting = [m.name for m in self.members if "publish" in m.roles and m.publishing_to <= wagon.turn]
        if waiting:
            why = "a process that publishes has not seen the switch, and its lease has not run out"
            self.refusals.append(SealWaits(train=self.manifest.train, number=wagon.number, because=why))
        return bool(waiting)

    def sweep(self) -> None:
        """Remove the leftovers of removed wagons: numbers below the next one that are not in the manifest."""
        known = {w.number for w in self.manifest.wagons}
        units = {w.unit for w in self.manifest.wagons}

        def gone(number: int, known: set[int]) -> bool:
            return 0 < number < self.manifest.next_number and number not in known

        numbers = {u for u in self.deployments if gone(u, units)}
        numbers |= {c.wagon for c in self.leftovers if gone(c.wagon, known)}
        for number in sorted(numbers):
            channels = tuple(c for c in self.leftovers if c.wagon == number and gone(number, known))
            self.tasks.append(RemoveLeftover(number, channels))
