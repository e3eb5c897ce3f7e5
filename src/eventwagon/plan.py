"""All policy: what should happen next to a train, as a function of what is known. No I/O, no clock, no await.

Observers call `plan` at each look; publishers call `when_full` when the broker says that the active wagon is full.
Both return the next manifest, to be stored by one compare-and-swap together with the facts that explain it, and the
tasks to be carried out once it is stored. Simulator, tests, `eventwagon why` and production run this same code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from .event import Channel
from .facts import (
    ChannelsAdded,
    Decision,
    Declared,
    Discarded,
    DrainUnproven,
    OpenRefused,
    ProvisioningFailed,
    StepFailed,
    Switched,
    SwitchRefused,
    WagonDrained,
    WagonOpened,
    WagonReady,
    WagonSealed,
    WorkersLost,
)
from .lifecycle import Move, State
from .limits import Pressure, capacity
from .manifest import Manifest, Wagon, changed, moved, opened, switched
from .orchestrator import Deployment, WagonSpec
from .reading import Reading
from .registry import Member
from .settings import Settings

_LIVE = (State.PROVISIONING, State.READY, State.ACTIVE, State.DRAINING)


class Provision(msgspec.Struct, frozen=True):
    """Make the wagon's channels and ask for its workers; for a wagon that has them, look that they are still there."""

    number: int


class AddChannels(msgspec.Struct, frozen=True):
    """Make channels that were declared after the wagon was opened."""

    number: int
    channels: tuple[str, ...]


class Seal(msgspec.Struct, frozen=True):
    """Seal the wagon's ingress."""

    number: int


class Lift(msgspec.Struct, frozen=True):
    """Take the bound off the wagon's ingress."""

    number: int
    because: str


class Remove(msgspec.Struct, frozen=True):
    """Move its dead letters out, write its record, end its workers, delete its channels."""

    number: int


class RemoveLeftover(msgspec.Struct, frozen=True):
    """Remove what belongs to no wagon in the manifest: workers of that number, and these channels."""

    number: int
    channels: tuple[Channel, ...] = ()


Refusal = SwitchRefused | OpenRefused | DrainUnproven | StepFailed
"""What was not done, and why."""

Task = Provision | AddChannels | Seal | Lift | Remove | RemoveLeftover


class Plan(msgspec.Struct, frozen=True):
    """The next manifest (the same object when nothing changes), why, and what to do once it is stored.

    `facts` explain the change; `refusals` explain what was not done, at each look anew.
    """

    manifest: Manifest
    facts: tuple[Decision, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    tasks: tuple[Task, ...] = ()


def plan(
    settings: Settings,
    manifest: Manifest,
    readings: Mapping[int, Reading],
    deployments: Mapping[int, Deployment],
    members: Sequence[Member],
    now: float,
    *,
    bounds: bool,
    leftovers: Sequence[Channel] = (),
) -> Plan:
    """What an observer that sees all this should do next.

    `readings` and `deployments` by wagon number, `now` in seconds since the epoch, `bounds`: the broker holds a
    channel's capacity exactly, `leftovers`: channels found that may belong to no wagon. The manifest must have been
    read before the readings were taken: a wagon counts as proven empty only if it was already known to be sealed.
    """
    draft = _Draft(settings, manifest, readings, deployments, members, now, bounds)
    draft.provision()
    draft.switch()
    draft.open()
    draft.drain()
    draft.sweep(leftovers)
    return draft.plan()


class _Draft:
    """A plan in the making."""

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        readings: Mapping[int, Reading],
        deployments: Mapping[int, Deployment],
        members: Sequence[Member],
        now: float,
        bounds: bool,
    ) -> None:
        self.settings = settings
        self.manifest = manifest
        self.readings = readings
        self.deployments = deployments
        self.members = members
        self.now = now
        self.bounds = bounds
        self.facts: list[Decision] = []
        self.refusals: list[Refusal] = []
        self.tasks: list[Task] = []
        self.next_wanted = False

    def plan(self) -> Plan:
        return Plan(self.manifest, tuple(self.facts), tuple(self.refusals), tuple(self.tasks))

    def provision(self) -> None:
        """Wagons on their way to READY, and those that fell back from it."""
        for wagon in self.manifest.in_state(State.READY):
            deployment = self.deployments.get(wagon.number)
            if deployment is None or not deployment.ready:
                why = (deployment.trouble if deployment else "") or "no workers are attached to it any more"
                self.manifest = moved(self.manifest, wagon.number, Move.LOST, retry_at=self.now, ready_at=None)
                self.facts.append(WorkersLost(train=self.manifest.train, number=wagon.number, because=why))
        for wagon in self.manifest.in_state(State.PROVISIONING):
            deployment = self.deployments.get(wagon.number)
            if wagon.created_at is not None and deployment is not None and deployment.ready:
                self.manifest = moved(self.manifest, wagon.number, Move.MADE_READY, ready_at=self.now)
                took = self.now - wagon.opened_at
                self.facts.append(WagonReady(train=self.manifest.train, number=wagon.number, seconds=took))
            elif self.now > wagon.retry_at + self.settings.provision_timeout:
                why = (deployment.trouble if deployment else "") or (
                    "no workers are attached to it; is a process running with `eventwagon run` or `work`?"
                )
                because = f"not ready within {self.settings.provision_timeout:g} s: {why}"
                failed = attempt_failed(self.settings, self.manifest, wagon.number, self.now, because)
                self.manifest = failed.manifest
                self.facts.extend(failed.facts)
        for wagon in self.manifest.in_state(*_LIVE):
            if wagon.state is not State.PROVISIONING or self.now >= wagon.retry_at:
                self.tasks.append(Provision(wagon.number))
            missing = tuple(c for c in self.manifest.channels if c not in wagon.channels)
            if missing and wagon.created_at is not None:
                self.tasks.append(AddChannels(wagon.number, missing))

    def switch(self) -> None:
        """Redirect ingestion when the active wagon is full and another is ready, or say why not."""
        active = self.manifest.active
        if active is None:
            return
        pressure, asked = self.pressure(active), self.manifest.request
        full = pressure.value >= 1 or asked is not None
        because = f"asked for: {asked.why}" if asked else pressure.why
        self.next_wanted = full or pressure.value >= self.settings.prepare
        if not full:
            if self.manifest.refusing:
                self.manifest = msgspec.structs.replace(self.manifest, refusing="")
            return
        refusal = self.why_not(active, exact=asked is not None or self.exactly_full(active))
        if refusal is None:
            ready = self.manifest.in_state(State.READY)[0]
            self.manifest = switched(self.manifest, to=ready.number, now=self.now, because=because)
            self.facts.append(
                Switched(
                    train=self.manifest.train,
                    old=active.number,
                    new=ready.number,
                    pressure=pressure.value,
                    because=because,
                )
            )
            self.next_wanted = False
            return
        self.refusals.append(
            SwitchRefused(
                train=self.manifest.train,
                number=active.number,
                pressure=pressure.value,
                figures=because,
                because=refusal,
            )
        )
        refusing = refusal if at_cap(self.settings, self.manifest) and self.settings.at_cap == "refuse" else ""
        if refusing != self.manifest.refusing:
            self.manifest = msgspec.structs.replace(self.manifest, refusing=refusing)

    def why_not(self, active: Wagon, *, exact: bool) -> str | None:
        """Why ingestion can't be redirected now, in words that stay the same while the reason does."""
        since = active.active_at if active.active_at is not None else active.opened_at
        if not exact and 0 <= self.now - since < self.settings.cooldown:
            return f"the cooldown of {self.settings.cooldown:g} s is not over"
        if self.manifest.in_state(State.READY):
            return None
        coming = self.manifest.in_state(State.PROVISIONING)
        if coming:
            return f"{coming[0].name} is not ready yet" + (f" ({coming[0].trouble})" if coming[0].trouble else "")
        if at_cap(self.settings, self.manifest):
            return f"the cap of {self.settings.wagons} live wagons is reached"
        return "the next wagon is not opened yet"

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
        try:
            pressure = self.settings.limit.measure(reading)
            if not math.isnan(pressure.value):
                return pressure
            why = "it measured NaN"
        except Exception as e:  # noqa: BLE001 - a user's own limit may fail in any way; the train must go on
            why = f"{type(e).__name__}: {e}"
        self.refusals.append(StepFailed(train=self.manifest.train, step=f"limit {self.settings.limit!r}", because=why))
        return Pressure(0.0, "the limit failed")

    def open(self) -> None:
        """Open the next wagon where one is wanted, put away spares that are not."""
        standing = self.manifest.in_state(State.PROVISIONING, State.READY)
        wanted = max(self.settings.spares, 1 if self.next_wanted else 0)
        ready = self.manifest.in_state(State.READY)
        for wagon in ready[max(self.settings.spares, 1) :]:
            why = f"{len(ready)} wagons are ready, {max(self.settings.spares, 1)} at most are wanted"
            self.manifest = moved(self.manifest, wagon.number, Move.DISCARDED, closed_at=self.now, closed_because=why)
            self.facts.append(Discarded(train=self.manifest.train, number=wagon.number, because=why))
        if len(standing) >= wanted or self.manifest.active is None:
            return
        if at_cap(self.settings, self.manifest):
            why = f"the cap of {self.settings.wagons} live wagons is reached"
            self.refusals.append(OpenRefused(train=self.manifest.train, because=why))
        elif self.now < self.manifest.open_not_before:
            why = f"{self.manifest.failed_opens} in a row never got ready; the next is tried after a pause"
            self.refusals.append(OpenRefused(train=self.manifest.train, because=why))
        else:
            why = (
                f"a spare of {self.settings.spares} is wanted"
                if not self.next_wanted
                else f"the active wagon fills: {self.pressure_words()}"
            )
            self.manifest, fact = open_next(self.settings, self.manifest, self.now, why, bounds=self.bounds)
            self.facts.append(fact)
            self.tasks.append(Provision(fact.number))

    def pressure_words(self) -> str:
        if self.manifest.request is not None:
            return f"a switch was asked for ({self.manifest.request.why})"
        active = self.manifest.active
        return self.pressure(active).why if active else ""

    def drain(self) -> None:
        """Cut-off wagons: seal, prove empty, remove."""
        for wagon in self.manifest.in_state(State.DRAINING):
            reading = self.readings.get(wagon.number)
            if wagon.sealed_at is None:
                self.tasks.append(Seal(wagon.number))
            elif reading is not None and reading.empty:
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
                        seconds=self.now - (wagon.closed_at or self.now),
                    )
                )
            elif reading is not None and reading.outstanding_in_all is None:
                why = "a figure of one of its channels is unknown"
                self.refusals.append(DrainUnproven(train=self.manifest.train, number=wagon.number, because=why))
        attached = {a.number for m in self.members for a in m.attachments}
        for wagon in self.manifest.in_state(State.DRAINED, State.FAILED):
            since = wagon.drained_at or wagon.closed_at or 0.0
            if wagon.number not in attached or self.now > since + self.settings.grace:
                self.tasks.append(Remove(wagon.number))

    def sweep(self, leftovers: Sequence[Channel]) -> None:
        """Numbers below the next that stand in the manifest no more were removed: what is left of them can go."""
        known = {w.number for w in self.manifest.wagons}

        def gone(number: int) -> bool:
            return 0 < number < self.manifest.next_number and number not in known

        numbers = {n for n in self.deployments if gone(n)} | {c.wagon for c in leftovers if gone(c.wagon)}
        for number in sorted(numbers):
            self.tasks.append(RemoveLeftover(number, tuple(c for c in leftovers if c.wagon == number)))


def at_cap(settings: Settings, manifest: Manifest) -> bool:
    """No further wagon may be opened: as many live as may, and none of them is on its way to be the next."""
    return len(manifest.wagons) >= settings.wagons and not manifest.in_state(State.PROVISIONING, State.READY)


def spec_of(manifest: Manifest, wagon: Wagon, *, workers: int | None) -> WagonSpec:
    """What the manifest says that a wagon's workers should serve; `workers` of its own, or None for a shared crew."""
    return WagonSpec(
        train=manifest.train,
        number=wagon.number,
        channels=tuple(manifest.working_channels(wagon)),
        dead_letters=manifest.dead_letters(wagon),
        workers=workers,
        cut_off_at=wagon.closed_at,
    )


def open_next(
    settings: Settings, manifest: Manifest, now: float, because: str, *, bounds: bool
) -> tuple[Manifest, WagonOpened]:
    """The manifest with the next wagon, bounded exactly where limit and broker allow it."""
    bound = capacity(settings.limit) if bounds else None
    number = manifest.next_number
    return opened(manifest, now=now, because=because, capacity=bound), WagonOpened(
        train=manifest.train, number=number, because=because
    )


# --- founding -----------------------------------------------------------------------------


def found(
    settings: Settings, manifest: Manifest, channels: tuple[str, ...] | None, now: float, *, bounds: bool
) -> Plan:
    """The first wagon of a train that has none, or of one whose founder died half-way.

    `channels` is None where the founder declares nothing (it only publishes): then its settings count for nothing
    either, and the first wagon is not bounded. The first wagon takes events as soon as its channels do: there is nothing
    to redirect from, and what is published before workers come is stored.
    """
    facts: list[Decision] = []
    if not manifest.declared and channels is not None:
        manifest = msgspec.structs.replace(manifest, declared=settings.declared(), channels=channels)
        facts.append(Declared(train=manifest.train, settings=dict(manifest.declared), channels=channels))
    if not manifest.wagons:
        why = "the train's first wagon"
        manifest, fact = open_next(settings, manifest, now, why, bounds=bounds and channels is not None)
        facts.append(fact)
    first = manifest.wagons[0]
    if first.state is State.PROVISIONING and first.created_at is not None and manifest.active is None:
        why = "the first wagon takes events as soon as its channels do"
        manifest = moved(manifest, first.number, Move.MADE_READY, ready_at=now)
        manifest = switched(manifest, to=first.number, now=now, because=why)
        facts.append(Switched(train=manifest.train, old=None, new=first.number, pressure=0.0, because=why))
    tasks = (Provision(first.number),) if first.created_at is None else ()
    return Plan(manifest, tuple(facts), (), tasks)


# --- a full wagon, seen by a publisher ----------------------------------------------------


class Full(msgspec.Struct, frozen=True):
    """Publishers are refused: the train is at its cap."""

    because: str


def when_full(settings: Settings, manifest: Manifest, held: float, now: float) -> Plan | Full | None:
    """What a publisher does that the broker told that the active wagon is exactly full, `held` seconds ago.

    A plan (switch, or go on past the limit), Full (refuse the event), or None (wait for the next wagon).
    """
    active = manifest.active
    if active is None:
        return None
    figures = f"{active.capacity:,} of {active.capacity:,} events taken" if active.capacity else "its channel is full"
    ready = manifest.in_state(State.READY)
    if ready:
        fact = Switched(train=manifest.train, old=active.number, new=ready[0].number, pressure=1.0, because=figures)
        return Plan(switched(manifest, to=ready[0].number, now=now, because=figures), (fact,))
    capped = at_cap(settings, manifest)
    if capped and settings.at_cap == "refuse":
        return Full(f"the cap of {settings.wagons} live wagons is reached, and the active one is full ({figures})")
    if capped:
        return Plan(manifest, tasks=(Lift(active.number, f"the cap of {settings.wagons} live wagons is reached"),))
    if held >= settings.hold:
        why = f"publishers were held for {held:.1f} s and the next wagon is not ready"
        return Plan(manifest, tasks=(Lift(active.number, why),))
    return None


# --- what came of the tasks ---------------------------------------------------------------


def created(manifest: Manifest, number: int, now: float) -> Manifest:
    """The wagon's channels take writes. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.created_at is not None:
        return manifest
    return changed(manifest, number, created_at=now)


def channels_added(manifest: Manifest, number: int, channels: tuple[str, ...]) -> Plan:
    """The wagon has these inner channels too. Idempotent; a wagon that is past draining is left alone."""
    wagon = manifest.wagon(number)
    new = tuple(c for c in channels if wagon is not None and c not in wagon.channels)
    if wagon is None or not new or wagon.state not in _LIVE:
        return Plan(manifest)
    fact = ChannelsAdded(train=manifest.train, number=number, channels=new)
    return Plan(changed(manifest, number, channels=(*wagon.channels, *new)), (fact,))


def attempt_failed(settings: Settings, manifest: Manifest, number: int, now: float, because: str) -> Plan:
    """An attempt at provisioning failed: again after a doubled pause, or given up after the last."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state is not State.PROVISIONING:
        return Plan(manifest)
    attempt = wagon.attempts + 1
    train = manifest.train
    if attempt < settings.provision_attempts or manifest.active is None:
        pause = min(30.0, 0.5 * 2.0 ** (attempt - 1))
        manifest = changed(manifest, number, attempts=attempt, retry_at=now + pause, trouble=because)
        fact = ProvisioningFailed(train=train, number=number, attempt=attempt, because=because, pause=pause)
        return Plan(manifest, (fact,))
    manifest = moved(manifest, number, Move.GIVEN_UP, attempts=attempt, trouble=because, closed_at=now)
    failed = manifest.failed_opens + 1
    manifest = msgspec.structs.replace(
        manifest, failed_opens=failed, open_not_before=now + min(300.0, 5.0 * 2.0 ** (failed - 1))
    )
    return Plan(
        manifest, (ProvisioningFailed(train=train, number=number, attempt=attempt, because=because, pause=None),)
    )


def sealed(manifest: Manifest, number: int, now: float) -> Plan:
    """The broker refuses every further publish to the wagon's ingress. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state is not State.DRAINING or wagon.sealed_at is not None:
        return Plan(manifest)
    fact = WagonSealed(train=manifest.train, number=number, seconds=now - (wagon.closed_at or now))
    return Plan(changed(manifest, number, sealed_at=now), (fact,))


def removed(manifest: Manifest, number: int) -> Manifest:
    """The wagon is gone. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state not in (State.DRAINED, State.FAILED):
        return manifest
    return moved(manifest, number, Move.REMOVED)
