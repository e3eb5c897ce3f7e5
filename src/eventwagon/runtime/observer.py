"""The observer: looks at the wagons, lets `plan` decide, carries it out. Any number may run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from ..contracts.broker import Broker, Depth, outstanding, proven_empty
from ..contracts.facts import (
    ChannelThreatened,
    ChannelUnserved,
    DefectFound,
    EventsLost,
    Listener,
    StepFailed,
    SwitchRefused,
)
from ..contracts.lifecycle import LIVE, State
from ..contracts.manifest import Manifest, Wagon
from ..contracts.orchestrator import Deployment, Orchestrator
from ..contracts.reading import History, Reading, Sample, busy_rate
from ..contracts.registry import Attachment, Member, Registry
from ..display.text import said
from ..errors import Conflict, Defect, EventwagonError
from ..event import Channel
from ..limits import slo
from ..policy.edits import (
    IDLE,
    UNWANTED,
    AddChannels,
    Lift,
    Provision,
    Refusal,
    Remove,
    RemoveLeftover,
    Seal,
    Task,
    attempt_failed,
    channels_added,
    forgotten_told,
    load_of,
    sealed,
    spec_of,
)
from ..policy.losses import Losses
from ..policy.pausing import resting
from ..policy.plan import plan
from ..policy.scheduling import allocate
from ..settings import Settings
from ..values import shown
from .bulkhead import Bulkhead, is_ours
from .ended import Ended
from .removal import Remover
from .switcher import Switcher

_Key = tuple[type[Task], int]
"""A task and its wagon."""
_SWEEP_AGAIN = 5.0
"""Seconds after which leftovers that could not be removed are looked for again."""
_AGAIN = 60.0
"""Seconds after which a failure that lasts is told again where its words have changed."""

_LATE = 10.0
"""Seconds without a look after which this process does not count as observing."""

_REST_MOST = 5.0
"""Seconds after which what failed aside is tried again at the latest."""


class _Failing(NamedTuple):
    """What failed aside: what is told of it, until when (the loop's time) it rests, and for how many seconds."""

    fact: Refusal
    until: float
    pause: float


class _Told(NamedTuple):
    """A refusal that stands: what was told of it, and when."""

    because: str
    at: float


class Observer:
    """Watches one train. `run` looks again and again.

    Without an `orchestrator`, workers are processes that attach by themselves and say so in their check-ins.
    """

    def __init__(
        self,
        train: str,
        settings: Settings,
        broker: Broker,
        registry: Registry,
        switcher: Switcher,
        *,
        orchestrator: Orchestrator | None,
        clock: Callable[[], float],
        tell: Listener,
        sweep_every: float = 30.0,
        bulkhead: Bulkhead | None = None,
    ) -> None:
        self._train = train
        self._settings = settings
        self._broker = broker
        self._registry = registry
        self._switcher = switcher
        self._orchestrator = orchestrator
        self._clock = clock
        self._tell = tell
        self._sweep_every = sweep_every
        self._bulkhead = bulkhead or Bulkhead(train)
        self._swept = float("-inf")
        self._remover = Remover(train, settings, broker, switcher, orchestrator, clock)
        self._ended = Ended(
            train, broker, registry, switcher, tell=tell, orchestrator=orchestrator, bulkhead=self._bulkhead
        )
        self._history = History()
        self._refused: dict[tuple[object, ...], _Told] = {}
        """What stood at the last look, and what of it was told."""
        self._seen: dict[int, tuple[object, float]] = {}
        self._under_way: set[_Key] = set()
        """What is done aside now."""
        self._failing: dict[_Key, _Failing] = {}
        """What was done aside, failed, and has not succeeded since."""
        self._passing_since: float | None = None
        """Since when a switch has not been made for a reason that is an ordinary part of it."""
        self._poked = asyncio.Event()
        self._losses = Losses(totals=broker.capabilities.totals and not broker.capabilities.losses)
        self._epoch: int | None = None
        """The manifest's, at the last look."""
        self._counts: Mapping[int, int] = {}
        """How many workers each wagon should have of its orchestrator."""
        self._wanted = False
        """The last plan wanted the next wagon."""
        self._looked: float | None = None
        """When a look was last made to its end."""
        self._look_failed = ""
        """Why the last one was not."""

    @property
    def trouble(self) -> str:
        """Why the train is not observed now; empty while it is."""
        if self._looked is None:
            return f"it has not looked at the train yet{self._look_failed and ': '}{self._look_failed}"
        ago = asyncio.get_running_loop().time() - self._looked
        if ago <= max(_LATE, 10 * self._settings.observe_every):
            return ""
        return f"it last looked at the train {ago:.0f} s ago{self._look_failed and ': '}{self._look_failed}"

    def poke(self) -> None:
        """Look now, not only when it is time."""
        self._poked.set()

    async def run(self) -> None:
        """Look until cancelled. What fails is told, and tried again at the next look; what should never be raised is
        logged and counted, and ends nothing."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._poked.clear()
                try:
                    await self.look(tasks)
                    self._looked, self._look_failed = asyncio.get_running_loop().time(), ""
                except Conflict:
                    continue  # another moved the manifest meanwhile: look again at once
                except BaseException as e:
                    if is_ours(e):
                        raise
                    met = self._met("a look", e)
                    self._look_failed = met.because
                    new, standing = self._new([met])
                    for fact in new:
                        self._tell(fact)
                    self._refused |= standing  # what else stands was not looked at
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.observe_every):
                        await self._poked.wait()

    async def look(self, tasks: asyncio.TaskGroup) -> None:
        """Read what is, decide, store the decision, carry it out; what may take long goes on in `tasks`. Raises
        Conflict when another was faster."""
        await self._switcher.found()
        base = await self._switcher.refresh()
        members = await self._registry.members(self._train)
        self._ended.look(members, tasks)
        deployments, unasked = await self._deployments(members, base.manifest)
        if self._epoch is not None and base.manifest.epoch > self._epoch:
            await self._after_stepping_back(base.manifest)
        self._epoch = base.manifest.epoch
        readings, troubles = await self._read(base.manifest)
        decided = plan(
            self._settings,
            base.manifest,
            readings,
            deployments,
            members,
            self._clock(),
            bounds=self._broker.capabilities.bounds,
            fences=self._broker.capabilities.fences,
            ages=self._ages(base.manifest, readings),
            leftovers=await self._leftovers(),
            orchestrated=self._orchestrator is not None,
        )
        await self._switcher.store(decided, base=base)
        self._wanted = decided.next_wanted
        try:
            self._counts = self._allocated(decided.manifest, readings, deployments)
        except Exception as e:  # noqa: BLE001 - the last division stands; sealing and draining wait for none
            troubles.append(self._broke("dividing the workers", e))
        refusals = [*unasked, *troubles, *decided.refusals, *(self._broke(*each) for each in decided.defects)]
        for task in decided.tasks:
            try:
                await self._carry_out(task, tasks)
            except Conflict:
                raise
            except BaseException as e:
                if is_ours(e):
                    raise
                refusals.append(self._failed(task, e))
        self._forget_failing(decided.tasks)
        refusals += [failing.fact for failing in self._failing.values()]
        new, standing = self._new(refusals)
        if new:
            await self._switcher.note(*new)
        self._refused = standing
        self._tell_lasting(refusals)

    # --- seeing ---------------------------------------------------------------------------

    async def _deployments(
        self, members: Sequence[Member], manifest: Manifest
    ) -> tuple[Mapping[int, Deployment], list[Refusal]]:
        """What runs, by unit: as the orchestrator says, or as the processes say that attach by themselves. While an
        orchestrator can't be asked what the manifest says stands: nobody is kept from sealing, draining and switching
        to a spare."""
        said = _said_of_themselves(members, manifest)
        if self._orchestrator is None:
            return said, []
        try:
            found = dict(await self._orchestrator.deployments(self._train))
            if wrong := [d for d in found.values() if not isinstance(d, Deployment)]:
                raise TypeError(f"the orchestrator gave {shown(wrong[0])}, which is no Deployment")
        except BaseException as e:
            if is_ours(e):
                raise
            spares = manifest.in_state(State.READY)
            standing = {w.unit: Deployment(number=w.number, ready=True, revision=w.revision) for w in spares}
            return standing, [self._met("asking the orchestrator", e)]
        for unit, own in said.items():  # processes that an orchestrator started may check in too: counts, and channels
            d = found.get(unit)
            if d is None or d.number != own.number:
                continue
            if d.channels is None:
                d = msgspec.structs.replace(d, channels=own.channels)
            if not (d.handled or d.failed):
                d = msgspec.structs.replace(d, handled=own.handled, failed=own.failed)
            found[unit] = msgspec.structs.replace(d, missing=d.missing or own.missing)
        return found, []

    async def _read(self, manifest: Manifest) -> tuple[Mapping[int, Reading], list[Refusal]]:
        """A reading of each wagon that has taken events, and what could not be read. The manifest was read before: see
        `plan`."""
        wagons = manifest.in_state(State.ACTIVE, State.DRAINING)
        channels = {w.number: manifest.working_channels(w) for w in wagons}
        depths, troubles = await self._depths(channels)
        troubles += [
            ChannelThreatened(train=self._train, number=number, channel=channel.name, because=depth.trouble)
            for number, of in depths.items()
            for channel, depth in zip(channels[number], of, strict=True)
            if depth.trouble
        ]
        now = self._clock()
        await self._look_for_losses(
            wagons, {c: d for n, of in depths.items() for c, d in zip(channels[n], of, strict=True)}
        )
        gone, missing = self._losses.vanished, self._losses.missing
        if self._broker.capabilities.losses:  # what it knows of an inner channel outlives that: none can be made anew
            missing = frozenset(c for c in missing if not c.name)
        samples: dict[int, Sample] = {}
        paused = resting(manifest)
        for number, of in depths.items():
            ingress = of[0]
            if ingress.published is not None and ingress.settled is not None:
                # what waits in a paused wagon is no backlog that shows how fast workers are
                waiting = 0 if number in paused else ingress.waiting or 0
                samples[number] = Sample(now, ingress.published, ingress.settled, waiting)
        self._history.add_all(samples, now)
        self._history.keep({w.number for w in wagons})
        standing = {n: [d for c, d in zip(channels[n], of, strict=True) if c not in gone] for n, of in depths.items()}
        hopeful = {
            w.number: [c for c in channels[w.number] if c not in gone]
            for w in wagons
            if w.sealed_at is not None and w.number in depths and outstanding(standing[w.number]) == 0
        }
        later, _ = await self._depths(hopeful)
        crowding = len(manifest.wagons) / self._settings.wagons
        crew = busy_rate(self._history.of(0)) if self._settings.workers.total is not None else None
        return {
            w.number: msgspec.structs.replace(
                self._reading(w, depths[w.number], now, crowding, crew),
                outstanding_in_all=outstanding(standing[w.number]),
                empty=w.number in later and proven_empty(standing[w.number], later[w.number]),
                missing=tuple(c.name for c in channels[w.number] if c in missing),
                vanished={c.name: gone[c] for c in channels[w.number] if c in gone},
                lost=self._losses.of(w.number),
                lost_because=self._losses.why(w.number),
            )
            for w in wagons
            if w.number in depths
        }, troubles

    async def _look_for_losses(self, wagons: Sequence[Wagon], depths: Mapping[Channel, Depth]) -> None:
        doubtful = any(depth == Depth() for depth in depths.values())
        there = set(await self._broker.channels(self._train)) if doubtful else set()
        told = {w.number: w.lost for w in wagons}
        self._losses.look(depths, there, told, now=asyncio.get_running_loop().time())

    async def _after_stepping_back(self, manifest: Manifest) -> None:
        """Wagons that the older manifest does not have: what stands of them is swept at once, their events published
        anew; what does not is told."""
        self._swept = float("-inf")
        there = set(await self._broker.channels(self._train))
        unlisted = [c for c in self._losses.held if c not in there]
        depths = await self._broker.depth(unlisted) if unlisted else ()
        there |= {c for c, depth in zip(unlisted, depths, strict=True) if depth != Depth()}
        lost = self._losses.without({w.number for w in manifest.wagons}, there)
        await self._switcher.settle(lambda m: forgotten_told(m, lost))

    async def _depths(
        self, channels: Mapping[int, Sequence[Channel]]
    ) -> tuple[dict[int, Sequence[Depth]], list[Refusal]]:
        """The depths of each wagon's channels; a wagon that can't be read keeps none of the others from it."""
        if not channels:
            return {}, []
        try:
            asked = [c for of in channels.values() for c in of]
            flat = dict(zip(asked, await self._broker.depth(asked), strict=True))
            return {number: [flat[c] for c in of] for number, of in channels.items()}, []
        except BaseException as e:
            if is_ours(e):
                raise
        found: dict[int, Sequence[Depth]] = {}
        troubles: list[Refusal] = []
        for number, of in channels.items():
            try:
                found[number] = [depth for _, depth in zip(of, await self._broker.depth(of), strict=True)]
            except BaseException as e:
                if is_ours(e):
                    raise
                troubles.append(self._met(f"reading wagon_{number}", e))
        return found, troubles

    def _reading(
        self,
        wagon: Wagon,
        depths: Sequence[Depth],
        now: float,
        crowding: float,
        crew: float | None,
    ) -> Reading:
        """`crew`: the settle rate of the workers that all wagons share."""
        shared = self._settings.workers.total is not None
        ingress = depths[0]
        samples = self._history.of(wagon.number)
        return Reading(
            number=wagon.number,
            at=now,
            age=max(0.0, now - wagon.active_at) if wagon.active_at is not None else 0.0,
            published=ingress.published,
            settled=ingress.settled,
            waiting=ingress.waiting,
            in_flight=ingress.in_flight,
            oldest_age=None if ingress.oldest_at is None else max(0.0, now - ingress.oldest_at),
            newest_age=None if ingress.newest_at is None else max(0.0, now - ingress.newest_at),
            settle_rate=crew if shared else busy_rate(samples),
            inner={name: outstanding([depth]) for name, depth in zip(wagon.channels, depths[1:], strict=True)},
            samples=samples,
            crowding=crowding,
        )

    def _ages(self, manifest: Manifest, readings: Mapping[int, Reading]) -> Mapping[int, float]:
        """How long each wagon has been seen in its state and attempt, by this process's own steady clock; and the train
        in what stands under the other keys."""
        now = asyncio.get_running_loop().time()
        active = manifest.active
        reading = readings.get(active.number) if active is not None else None
        same = {State.REMOVING: State.DRAINED}  # whoever goes on with a removal waits for nothing anew
        being: dict[int, object] = {w.number: (same.get(w.state, w.state), w.attempts) for w in manifest.wagons}
        being[0] = manifest.failed_opens
        being[UNWANTED] = self._wanted
        being[IDLE] = (reading.number, reading.published, reading.outstanding_in_all) if reading is not None else None
        self._seen = {
            number: known if (known := self._seen.get(number)) is not None and known[0] == what else (what, now)
            for number, what in being.items()
        }
        return {number: now - since for number, (_, since) in self._seen.items()}

    async def _leftovers(self) -> Sequence[Channel]:
        now = asyncio.get_running_loop().time()
        if now - self._swept < self._sweep_every:
            return ()
        self._swept = now
        return await self._broker.channels(self._train)

    # --- saying ---------------------------------------------------------------------------

    def _new(self, refusals: Sequence[Refusal]) -> tuple[list[Refusal], dict[tuple[object, ...], _Told]]:
        """Those to be told: what did not stand at the last look, once for as long as it lasts, with its first figures;
        and what stands once they are told. The words of an error may change at each look: that is told once a minute. A
        defect is told once, however often it is met."""
        now = asyncio.get_running_loop().time()
        standing: dict[tuple[object, ...], _Told] = {}
        new: list[Refusal] = []
        for fact in refusals:
            key = _kind(fact)
            told = standing.get(key) or self._refused.get(key)
            if told is None or (told.because != fact.because and now - told.at >= _AGAIN):
                new.append(fact)
                told = _Told(fact.because, now)
            standing[key] = told
        for key, told in self._refused.items():
            if key[0] is DefectFound:
                standing.setdefault(key, told)
        return new, standing

    def _tell_lasting(self, refusals: Sequence[Refusal]) -> None:
        """What is an ordinary part of a switch is told again, to listeners only, when it has lasted."""
        now = asyncio.get_running_loop().time()
        lasting = next((r for r in refusals if isinstance(r, SwitchRefused) and r.passing), None)
        if lasting is None:
            self._passing_since = None
        elif self._passing_since is None:
            self._passing_since = now
        elif now - self._passing_since >= self._settings.provision_timeout:
            self._tell(msgspec.structs.replace(lasting, lasted=now - self._passing_since))
            self._passing_since = now + _AGAIN

    def _failed(self, task: Task, error: BaseException) -> Refusal:
        return self._met(f"{type(task).__name__.lower()} of wagon_{task.number}", error)

    def _met(self, step: str, error: BaseException) -> Refusal:
        """What came of a step that failed, as a fact. What is no trouble of a broker's, a registry's or an
        orchestrator's is logged with its traceback, too."""
        if isinstance(error, EventwagonError):
            return StepFailed(train=self._train, step=step, because=str(error))
        self._bulkhead.report(step, error)
        if isinstance(error, Defect):
            return DefectFound(train=self._train, step=step, because=said(error))
        return StepFailed(train=self._train, step=step, because=said(error))

    def _broke(self, step: str, error: Exception) -> Refusal:
        """What policy raised, which calls nothing but itself: a defect of ours, whatever it is."""
        if not isinstance(error, Defect):
            cause, error = error, Defect(said(error))
            error.__cause__ = cause
        return self._met(step, error)

    # --- doing ----------------------------------------------------------------------------

    async def _carry_out(self, task: Task, tasks: asyncio.TaskGroup) -> None:
        match task:
            case AddChannels(number=number, channels=names):
                for name in names:
                    await self._broker.create(Channel(self._train, number, name))
                await self._switcher.settle(lambda m: channels_added(m, number, names))
                self._made(number)
            case Seal(number=number):
                await self._broker.seal(Channel(self._train, number))
                await self._switcher.settle(lambda m: sealed(m, number, self._clock()))
            case Lift(number=number):
                await self._switcher.lift(task)
                self._made(number)
            case Provision() | Remove() | RemoveLeftover():
                key = _key(task)
                if key not in self._under_way and not self._rests(key):
                    self._under_way.add(key)
                    tasks.create_task(self._aside(key, task))

    async def _aside(self, key: _Key, task: Provision | Remove | RemoveLeftover) -> None:
        """Starting a wagon's workers may take long, ending them the whole grace: nothing else waits for it. The next
        look asks again for what is not done."""
        try:
            if isinstance(task, Provision):
                await self._provision(task.number)
            else:
                await self._end(task)
        except Conflict:
            self.poke()
        except BaseException as e:
            if is_ours(e):
                raise
            before = self._failing.get(key)
            pause = min(_REST_MOST, 2 * before.pause if before else self._settings.observe_every)
            until = asyncio.get_running_loop().time() + pause
            self._failing[key] = _Failing(self._failed(task, e), until, pause)
            if isinstance(task, RemoveLeftover):  # found by a sweep only: the next one comes soon
                self._swept = min(self._swept, asyncio.get_running_loop().time() - self._sweep_every + _SWEEP_AGAIN)
        else:
            self._failing.pop(key, None)
            if isinstance(task, Remove):  # there may be room for the next wagon; the others wait for no look
                self.poke()
        finally:
            self._under_way.discard(key)

    def _rests(self, key: _Key) -> bool:
        """It failed a moment ago: it is tried again after a pause that grows."""
        failing = self._failing.get(key)
        return failing is not None and asyncio.get_running_loop().time() < failing.until

    def _forget_failing(self, tasks: Sequence[Task]) -> None:
        """What another has done meanwhile is not asked for any more. Leftovers are asked for at some looks only."""
        wanted = {_key(task) for task in tasks}
        for key in [key for key in self._failing if key not in wanted and key[0] is not RemoveLeftover]:
            del self._failing[key]

    async def _provision(self, number: int) -> None:
        try:
            await self._switcher.create(number)
            self._made(number)
            await self._ensure(number)
        except Conflict:
            raise
        except Exception as e:
            now, why = self._clock(), str(e) if isinstance(e, EventwagonError) else said(e)
            await self._switcher.settle(lambda m: attempt_failed(self._settings, m, number, now, why))
            raise

    def _made(self, number: int) -> None:
        """Its channels were made, or made anew: in a process that stood still, maybe of a wagon that was removed
        meanwhile. Then they are swept at once."""
        if self._switcher.snapshot.manifest.wagon(number) is None:
            self._swept = float("-inf")
            self.poke()

    async def _ensure(self, number: int) -> None:
        manifest = self._switcher.snapshot.manifest
        wagon = manifest.wagon(number)
        if self._orchestrator is None or wagon is None or wagon.created_at is None:
            return
        spec = spec_of(manifest, wagon, workers=self._counts.get(number, 0))
        if wagon.asleep_at is not None:
            spec = msgspec.structs.replace(spec, workers=0, idle=False)
        await self._orchestrator.ensure(spec)

    def _allocated(
        self, manifest: Manifest, readings: Mapping[int, Reading], deployments: Mapping[int, Deployment]
    ) -> Mapping[int, int]:
        if self._orchestrator is None:
            return {}
        now = self._clock()
        loads = [
            load_of(
                wagon,
                readings.get(wagon.number),
                deployments.get(wagon.unit),
                now,
                paused=manifest.pause_of(wagon) is not None,
            )
            for wagon in sorted(manifest.in_state(*LIVE), key=lambda w: (w.closed_at is None, w.closed_at or 0.0))
        ]
        return allocate(self._settings.workers, loads, slo=slo(self._settings.limit), now=now)

    async def _end(self, task: Remove | RemoveLeftover) -> None:
        if isinstance(task, RemoveLeftover):
            await self._remover.leftover(task)
            return
        wagon = self._switcher.snapshot.manifest.wagon(task.number)
        if wagon is not None and wagon.state in (State.DRAINED, State.REMOVING, State.FAILED):
            await self._remover.remove(wagon)


def _kind(fact: Refusal) -> tuple[object, ...]:
    """By what a refusal is known again at the next look."""
    number = getattr(fact, "number", None)
    match fact:
        case StepFailed(step=step) | DefectFound(step=step):
            return type(fact), step
        case EventsLost():
            return type(fact), number
        case ChannelUnserved(channel=channel) | ChannelThreatened(channel=channel):
            return type(fact), number, channel
        case _:
            return type(fact), number, fact.because


def _key(task: Task) -> _Key:
    return type(task), task.number


def _said_of_themselves(members: Sequence[Member], manifest: Manifest) -> dict[int, Deployment]:
    """What processes say in their check-ins of the live wagons that they serve, by unit."""
    found: dict[int, list[Attachment]] = {}
    for member in members:
        for a in member.attachments:
            wagon = manifest.wagon(a.number)
            if wagon is None or wagon.state not in LIVE:
                continue  # it leaves by itself
            if a.ready and a.losses is not None and a.losses < wagon.losses:
                a = msgspec.structs.replace(a, ready=False, trouble="they were attached before it lost its workers")
            found.setdefault(wagon.unit, []).append(a)
    return {unit: _together(attachments) for unit, attachments in found.items()}


def _together(attachments: Sequence[Attachment]) -> Deployment:
    """One wagon's workers in several processes: ready where one process is, attached to what they are attached to
    together."""
    ready = [a for a in attachments if a.ready]
    asked = ready or attachments
    attached = [a.channels for a in asked if a.channels is not None]
    return Deployment(
        number=attachments[0].number,
        ready=bool(ready),
        workers=sum(a.workers for a in attachments),
        trouble="" if ready else next((a.trouble for a in attachments if a.trouble), ""),
        handled=sum(a.handled for a in attachments),
        failed=sum(a.failed for a in attachments),
        channels=tuple(sorted({c for each in attached for c in each})) if len(attached) == len(asked) else None,
        missing=tuple(c for c in asked[0].missing if all(c in a.missing for a in asked)),
        open={name: why for a in attachments for name, why in a.open.items()},
        paused=all(a.paused for a in asked),
    )
