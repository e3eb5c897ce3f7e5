"""The observer: looks at the wagons, lets `plan` decide, carries it out. Any number may run at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import NamedTuple

import msgspec

from ..backoff import pause_after
from ..contracts.broker import Depth, outstanding, proven_empty
from ..contracts.facts import (
    ChannelThreatened,
    ChannelUnserved,
    DefectFound,
    EventsLost,
    StepFailed,
    SwitchRefused,
    WorkersCrashed,
)
from ..contracts.lifecycle import LIVE, State
from ..contracts.manifest import Manifest, Wagon
from ..contracts.orchestrator import Deployment, InSteps
from ..contracts.reading import History, Reading
from ..contracts.registry import Member, Polling
from ..display.text import count, said
from ..errors import BrokerError, Conflict, Defect, Displaced, EventwagonError
from ..event import DEAD, Channel, wagon_name
from ..limits import slo
from ..policy.crashes import Crash, Crashes
from ..policy.demand import Demand
from ..policy.edits import (
    AddChannels,
    Ensure,
    Lift,
    Refusal,
    Remove,
    RemoveLeftover,
    Seal,
    Task,
    attempt_failed,
    forgotten_told,
    letters_lost,
    load_of,
    spec_of,
    words,
)
from ..policy.figures import letters_in, letters_kept
from ..policy.latest_outcomes import LatestOutcomes, Outcomes
from ..policy.leading import pause_of_follower
from ..policy.losses import GONE, LETTERS_REMOVED, Losses, of_letters
from ..policy.pace import pause
from ..policy.pause_on import judged
from ..policy.pausing import resting
from ..policy.plan import plan
from ..policy.scheduling import allocate
from ..policy.seen import ActiveAges, Ages, Seen, checked_in, since_losses, take_readings
from ..policy.sizing import DemandMeter, counts
from ..values import shown
from .bulkhead import is_ours
from .ended import EndedMembers
from .looks import Looks
from .recording import Recorder
from .removal import WagonRemover
from .reporting import Reporter
from .runtime import Runtime
from .switcher import Switcher
from .tasks import to_the_end
from .train_state import TrainState
from .wagon_channels import WagonChannels

_Key = tuple[type[Task], int]
"""A task and its wagon."""
_SWEEP_AGAIN = 5.0
"""Seconds before leftovers that could not be removed are looked for again."""
_AGAIN = 60.0
"""Seconds before a lasting failure is reported again, if its text has changed."""

_LATE = 10.0
"""Seconds without a look after which this process does not count as observing."""

_CHANGE_TO_THE_END = 2.0
"""Seconds that a change which has begun still has when its process stops: where the store can't do it in one step, its
entries in the journal come after it, and would be missing."""
_REMOVAL_TO_THE_END = 5.0
"""Seconds that a removal still has when its process stops: another process that finishes it would move again the dead
letters that have been moved. Meanwhile the process stays a member, or the other would begin at once."""
_OF_TTL = 0.8
"""It has no longer than this part of `member_ttl`, since the process does not check in any more."""

_LETTERS_EVERY = 5.0
"""Seconds between looks at the dead letters, where the broker counts them exactly."""
_LETTERLESS = "the train's own dead letters take what dies in that wagon"

_REST_MOST = 5.0
"""The longest pause before a background task that failed is tried again, in seconds."""


class _FailedTask(NamedTuple):
    """A background task that failed: the fact that is reported, until when it pauses (the loop's time), and how often
    it failed in a row."""

    fact: Refusal
    until: float
    failures: int


class _Told(NamedTuple):
    """A refusal that persists: the reason that was reported, and when."""

    because: str
    at: float


class Observer:
    """Watches one train. `run` looks again and again.

    Without an orchestrator, workers are processes that attach by themselves and say so in their check-ins.
    """

    def __init__(self, runtime: Runtime, state: TrainState, switcher: Switcher, *, sweep_every: float = 30.0) -> None:
        self._name = runtime.name
        self._train = runtime.train
        self._settings = runtime.settings
        self._broker = runtime.broker
        self._orchestrator = runtime.orchestrator
        self._in_steps = runtime.orchestrator if isinstance(runtime.orchestrator, InSteps) else None
        self._hears_late = isinstance(state.registry, Polling)
        """What others change is seen late: their changes are polled for."""
        self._clock = runtime.clock
        self._tell = runtime.tell
        self._pulse = runtime.pulse
        self._bulkhead = runtime.bulkhead
        self._state = state
        self._sweep_every = sweep_every
        self._looks = Looks(runtime.train, runtime.bulkhead)
        self._swept = float("-inf")
        self._channels = WagonChannels(runtime, state)
        self._counts_exactly = self._broker.capabilities.totals and not self._broker.capabilities.losses
        self._losses = Losses(totals=self._counts_exactly)
        self._letters = Losses(totals=self._counts_exactly)
        """The same for dead letters, by wagon; 0: those of removed wagons."""
        self._letters_at = float("-inf")
        """When the dead letters were last looked at (the loop's time)."""
        self._remover = WagonRemover(runtime, state, switcher, self._letters, Recorder(runtime, state))
        self._ended = EndedMembers(runtime, state)
        self._reporter = None if runtime.metering is None else Reporter(runtime, runtime.metering)
        self._letters_kept: int | None = None
        """Dead letters at the last look at them; None: not looked at yet."""
        self._history = History()
        self._meter = DemandMeter()
        self._crashes = Crashes()
        self._active_ages = ActiveAges()
        self._outcomes = LatestOutcomes()
        self._refused: dict[tuple[object, ...], _Told] = {}
        """The refusals of the last look, and what was reported of each."""
        self._since: dict[int | str, tuple[object, float]] = {}
        """What each age is about, as the last look saw it, and since when it has been so (the loop's time)."""
        self._under_way: set[_Key] = set()
        """Background tasks that run now."""
        self._failing: dict[_Key, _FailedTask] = {}
        """Background tasks that failed, and have not succeeded since."""
        self._passing_since: float | None = None
        """Since when a switch has been refused for a reason that is an ordinary part of switching."""
        self._woken = asyncio.Event()
        self._letterless: Mapping[Channel, str] = {}
        """Wagons' channels for dead letters that had vanished, or took no more, at the last look at them, and why."""
        self._irreplaceable: dict[Channel, str] = {}
        """Inner channels that have vanished and can't be created again, and why."""
        self._alive = frozenset[str]()
        """The members of the train at the last look."""
        self._epoch: int | None = None
        """The manifest's epoch at the last look."""
        self._counts: Mapping[int, int] = {}
        """How many workers the orchestrator should run for each wagon."""
        self._pause = self._settings.observe_every
        """Seconds until the next look, by the last one."""
        self._is_resting = False
        """A sign of life ends this pause."""
        self._roused = float("-inf")
        """When an event in this process ended a rest (the loop's time)."""
        self._wanted = False
        """The last plan wanted the next wagon."""
        self._at_risk = False
        """The last plan found a promise at risk."""
        self._began: float | None = None
        """When it began to look (the loop's time)."""
        self._time: Callable[[], float] = time.monotonic
        """The loop's, once it runs."""
        self._looked: float | None = None
        """When the last complete look ended."""
        self._look_failed = ""
        """Why the last look failed; empty if it did not."""

    @property
    def trouble(self) -> str:
        """Why the train is not observed now; empty if it is."""
        if self._looked is None:
            return f"it has not looked at the train yet{self._look_failed and ': '}{self._look_failed}"
        ago = asyncio.get_running_loop().time() - self._looked
        if ago <= max(_LATE, 10 * self._settings.observe_every):
            return ""
        return f"it last looked at the train {ago:.0f} s ago{self._look_failed and ': '}{self._look_failed}"

    @property
    def look_age(self) -> float | None:
        """Seconds since the last complete look, or since it began; None: it has not begun."""
        since = self._began if self._looked is None else self._looked
        return None if since is None else self._time() - since

    def wake(self) -> None:
        """Look now, without waiting for the next turn."""
        self._woken.set()

    async def run(self) -> None:
        """Look until cancelled. A failure is reported, and the next look tries again. An unexpected exception is logged
        and counted, and ends nothing."""
        self._time = asyncio.get_running_loop().time
        self._began = self._time()
        try:
            await self._run()
        finally:
            if self._reporter is not None:
                self._reporter.end()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._woken.clear()
                self._pause, self._is_resting = self._settings.observe_every, False
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
                        await self._note_or_tell(fact)
                    self._refused |= standing  # the other refusals were not looked at
                await self._wait()

    async def _wait(self) -> None:
        """Pause until the next look."""
        began = self._time()
        with suppress(TimeoutError), self._pulse.ending(self._woken) if self._is_resting else nullcontext():
            async with asyncio.timeout(self._pause):
                await self._woken.wait()
        if self._is_resting and self._pulse.event_at >= began:
            self._roused = self._time()

    async def look(self, tasks: asyncio.TaskGroup) -> None:
        """Read the state, decide, store the decision, carry it out. What may take long goes on in `tasks`. Raises
        Conflict if another observer was faster."""
        await self._channels.bootstrap()
        base = await self._state.refresh()
        members = await self._state.registry.members(self._train)
        self._alive = frozenset(m.name for m in members)
        self._ended.look(members, tasks)
        deployments, unasked = await self._deployments(members, base.manifest)
        if self._epoch is not None and base.manifest.epoch > self._epoch:
            await self._after_stepping_back(base.manifest)
        self._epoch = base.manifest.epoch
        readings, troubles = await self._read(base.manifest)
        now, steady = self._clock(), asyncio.get_running_loop().time()
        demand = Demand()
        try:
            demand, readings = self._meter.look(
                self._settings, base.manifest, readings, deployments, self._history.of(0), now=now, steady=steady
            )
        except Exception as e:  # noqa: BLE001 - the numbers of workers stay; sealing and draining wait for none
            troubles.append(self._broke("measuring the traffic", e))
        seen = Seen(
            now=now,
            settings=self._settings,
            capabilities=self._broker.capabilities,
            manifest=base.manifest,
            readings=readings,
            deployments=deployments,
            members=members,
            ages=self._ages(base.manifest, readings),
            leftovers=await self._leftovers(),
            demand=demand,
            outcomes=self._judge(base.manifest, deployments, members, steady),
            step=1 if self._in_steps is None else self._in_steps.step,
            orchestrated=self._orchestrator is not None,
        )
        self._looks.keep(seen)
        if not seen.ages.idle:  # events that came to other processes
            self._pulse.news()
        if self._reporter is not None:
            self._reporter.look(seen, self._letters_kept, tasks)
        if not unasked:
            self._crashes.look(self._name, deployments, members, {w.unit for w in base.manifest.wagons})
        decided = plan(seen)
        await to_the_end(partial(self._state.store, decided, base=base), _CHANGE_TO_THE_END)
        self._wanted, self._at_risk = decided.next_wanted, decided.at_risk
        try:
            self._counts = self._allocated(decided.manifest, readings, deployments)
        except Exception as e:  # noqa: BLE001 - the last division stands; sealing and draining wait for none
            troubles.append(self._broke("dividing the workers", e))
        troubles += [
            ChannelThreatened(train=self._train, number=channel.wagon, channel=channel.name, because=why)
            for channel, why in self._letterless.items()
            if decided.manifest.wagon(channel.wagon) is not None
        ]
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
        if decided.facts or new:
            self._looks.log_newest(f"a look: {count(len(decided.facts), 'change')}, {count(len(new), 'new refusal')}")
        if new:
            await self._state.note(*new)
        self._refused = standing
        self._tell_lasting(refusals)
        begun = [*map(type, decided.tasks), *(kind for kind, _ in self._under_way)]
        is_steady = decided.manifest is base.manifest and not refusals and all(kind is Ensure for kind in begun)
        self._pause, self._is_resting = self._pause_after(seen, is_steady)
        if crashes := self._crashes.due(steady):
            await self._state.note(*(self._crashed(crash) for crash in crashes))
            self._crashes.reported(crashes, steady)

    def _pause_after(self, seen: Seen, is_steady: bool) -> tuple[float, bool]:
        """How long to wait after this look, and whether a sign of life ends that. `is_steady`: it changed and refused
        nothing; to ensure what stands changes nothing either."""
        every = self._settings.observe_every
        if self._hears_late:
            return every, False
        rest = pause(seen, self._name, self._pulse.quiet) if is_steady else every
        if rest > every:
            return rest, True
        if self._failing or any(kind is not Ensure for kind, _ in self._under_way):
            return every, False  # nobody else goes on with it
        return pause_of_follower(seen, self._name, self._time() - self._roused), False

    def _crashed(self, crash: Crash) -> WorkersCrashed:
        return WorkersCrashed(train=self._train, number=crash.number, count=crash.times, because=crash.because)

    # --- seeing ---------------------------------------------------------------------------

    async def _deployments(
        self, members: Sequence[Member], manifest: Manifest
    ) -> tuple[Mapping[int, Deployment], list[Refusal]]:
        """What runs, by unit: as the orchestrator reports it, or as processes that attach by themselves check in. While
        the orchestrator can't be asked, spares count as ready if the manifest says so: sealing, draining and switching
        go on."""
        said = checked_in(members, manifest)
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
                d = msgspec.structs.replace(d, handled=own.handled, failed=own.failed, uncounted=own.uncounted)
            d = msgspec.structs.replace(d, work=d.work or own.work)
            found[unit] = msgspec.structs.replace(d, missing=d.missing or own.missing)
        wagons = {w.number: w for w in manifest.wagons}
        return {u: since_losses(d, wagons[d.number]) if d.number in wagons else d for u, d in found.items()}, []

    def _judge(
        self, manifest: Manifest, deployments: Mapping[int, Deployment], members: Sequence[Member], now: float
    ) -> Mapping[int, Outcomes]:
        """How the latest handlings of the wagons ended that `pause_on` may pause."""
        rule = self._settings.pause_on
        return self._outcomes.look(
            judged(rule, manifest),
            deployments,
            members,
            enough=rule.of if rule is not None else 0,
            now=now,
            span=self._settings.member_ttl / 2,  # each process reports within a third of it
        )

    async def _read(self, manifest: Manifest) -> tuple[Mapping[int, Reading], list[Refusal]]:
        """A reading of each wagon that has taken events, and what could not be read. Read the manifest before: see
        `Seen`."""
        steady = asyncio.get_running_loop().time()
        ages = self._active_ages.look(manifest, now=self._clock(), steady=steady)
        wagons = manifest.in_state(State.ACTIVE, State.DRAINING)
        channels = {w.number: manifest.working_channels(w) for w in wagons}
        depths, troubles = await self._depths(channels)
        troubles += [
            ChannelThreatened(train=self._train, number=number, channel=channel.name, because=depth.trouble)
            for number, of in depths.items()
            for channel, depth in zip(channels[number], of, strict=True)
            if depth.trouble
        ]
        now, steady = self._clock(), asyncio.get_running_loop().time()
        await self._look_for_losses(
            wagons, {c: d for n, of in depths.items() for c, d in zip(channels[n], of, strict=True)}
        )
        gone, missing, stuck = self._losses.vanished, self._losses.missing, self._losses.undeliverable
        self._irreplaceable = {c: why for c, why in self._irreplaceable.items() if c in missing}
        irreplaceable = self._irreplaceable
        if self._broker.capabilities.losses:  # its account outlives it: no inner channel can be created again
            irreplaceable = {c: "" for c in missing if c.name}
        missing -= irreplaceable.keys()
        readings = take_readings(
            wagons,
            depths,
            self._history,
            settings=self._settings,
            manifest=manifest,
            ages=ages,
            paused=resting(manifest),
            now=now,
            steady=steady,
        )
        standing = {n: [d for c, d in zip(channels[n], of, strict=True) if c not in gone] for n, of in depths.items()}
        hopeful = {
            w.number: [c for c in channels[w.number] if c not in gone]
            for w in wagons
            if w.sealed_at is not None and w.number in depths and outstanding(standing[w.number]) == 0
        }
        later, _ = await self._depths(hopeful)
        return {
            w.number: msgspec.structs.replace(
                readings[w.number],
                outstanding_in_all=outstanding(standing[w.number]),
                empty=w.number in later and proven_empty(standing[w.number], later[w.number]),
                missing=tuple(c.name for c in channels[w.number] if c in missing),
                irreplaceable={c.name: irreplaceable[c] for c in channels[w.number] if c in irreplaceable},
                vanished={c.name: gone[c] for c in channels[w.number] if c in gone},
                exhausted=tuple(
                    c.name for c, d in zip(channels[w.number], depths[w.number], strict=True) if d.exhausted
                ),
                undeliverable={c.name: stuck[c] for c in channels[w.number] if c in stuck},
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
        """Find the wagons that the older manifest does not have. Those that still exist are swept at once, and their
        events published again; the events of the others are reported as lost."""
        self._swept = float("-inf")
        there = set(await self._broker.channels(self._train))
        unlisted = [c for c in (*self._losses.held, *self._letters.held) if c not in there]
        depths = await self._broker.depth(unlisted) if unlisted else ()
        there |= {c for c, depth in zip(unlisted, depths, strict=True) if depth != Depth()}
        known = {0, *(w.number for w in manifest.wagons)}
        lost, letters = self._losses.without(known, there), self._letters.without(known, there)
        await self._state.apply(lambda m: forgotten_told(m, lost, letters))

    async def _depths(
        self, channels: Mapping[int, Sequence[Channel]]
    ) -> tuple[dict[int, Sequence[Depth]], list[Refusal]]:
        """The depths of each wagon's channels, in one call if possible. If that fails, each wagon is read by itself: a
        wagon that fails is reported, and the others are used."""
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
                troubles.append(self._met(f"reading {wagon_name(self._train, number)}", e))
        return found, troubles

    def _ages(self, manifest: Manifest, readings: Mapping[int, Reading]) -> Ages:
        """How long things have been as they are, by this process's own steady clock."""
        now = asyncio.get_running_loop().time()
        active = manifest.active
        reading = readings.get(active.number) if active is not None else None
        same = {State.REMOVING: State.DRAINED}  # an observer that goes on with a removal does not wait again
        being: dict[int | str, object] = {
            w.number: (same.get(w.state, w.state), w.attempts, w.losses) for w in manifest.wagons
        }
        being["failed_opens"] = manifest.failed_opens
        being["wanted"] = self._wanted
        being["at_risk"] = self._at_risk
        being["idle"] = (reading.number, reading.published, reading.outstanding_in_all) if reading is not None else None
        self._since = {
            key: known if (known := self._since.get(key)) is not None and known[0] == what else (what, now)
            for key, what in being.items()
        }
        ages = {key: now - since for key, (_, since) in self._since.items()}
        return Ages(
            wagons={w.number: ages[w.number] for w in manifest.wagons},
            failed_opens=ages["failed_opens"],
            unwanted=0.0 if self._wanted else ages["wanted"],
            idle=ages["idle"],
            safe=0.0 if self._at_risk else ages["at_risk"],
        )

    async def _leftovers(self) -> Sequence[Channel]:
        now = asyncio.get_running_loop().time()
        if now - self._swept < self._sweep_every:
            if self._counts_exactly and now - self._letters_at >= _LETTERS_EVERY:
                with suppress(BrokerError):
                    await self._look_for_lost_letters(None)
            return ()
        self._swept = now
        channels = await self._broker.channels(self._train)
        with suppress(BrokerError):  # at the next sweep, then
            await self._look_for_lost_letters(channels)
        return channels

    async def _look_for_lost_letters(self, there: Sequence[Channel] | None) -> None:
        """`there`: the train's channels that the broker has, if somebody has just asked."""
        self._letters_at = asyncio.get_running_loop().time()
        manifest = self._state.snapshot.manifest
        wagons = manifest.in_state(State.ACTIVE, State.DRAINING, State.DRAINED)
        ending = {w.number for w in manifest.in_state(State.REMOVING, State.FAILED)}
        channels = [Channel(self._train, 0, DEAD), *map(manifest.dead_letters, wagons)]
        kept = letters_in(manifest)
        asked = list(dict.fromkeys([*kept, *channels]))
        depth_of = dict(zip(asked, await self._broker.depth(asked), strict=True))
        self._letters_kept = letters_kept(depth_of[c] for c in kept)
        found = [depth_of[c] for c in channels]
        if there is None:  # the train's own channel is made with the first removed wagon that had any
            doubtful = any(
                d == Depth() and (c.wagon or c in self._letters.held) for c, d in zip(channels, found, strict=True)
            )
            there = await self._broker.channels(self._train) if doubtful else ()
        took = {0: manifest.letters_taken, **{w.number: w.letters_taken for w in wagons}}
        if any((d.settled or 0) > took[c.wagon] for c, d in zip(channels, found, strict=True)):
            manifest = (await self._state.refresh()).manifest  # has somebody had some retried or dropped since?
            took = {0: manifest.letters_taken} | {w.number: w.letters_taken for w in manifest.wagons}
        depths = {
            c: of_letters(d, exact=self._counts_exactly, taken=took.get(c.wagon, 0))
            for c, d in zip(channels, found, strict=True)
        }
        told = {0: manifest.letters_lost, **{w.number: w.letters_lost for w in wagons}}
        self._letters.look(depths, there, told, now=asyncio.get_running_loop().time(), ending=ending)
        self._letterless = {
            c: f"{'it has ' + GONE if c in self._letters.missing else d.trouble}; {_LETTERLESS}"
            for c, d in zip(channels, found, strict=True)
            if c.wagon and (d.exhausted or c in self._letters.missing)
        }
        lost = {number: self._letters.of(number) for number in told}
        if any(lost[number] > count for number, count in told.items()):
            why = {number: self._letters.why(number, LETTERS_REMOVED) for number in told}
            await self._state.apply(lambda m: letters_lost(m, lost, why))

    # --- saying ---------------------------------------------------------------------------

    def _new(self, refusals: Sequence[Refusal]) -> tuple[list[Refusal], dict[tuple[object, ...], _Told]]:
        """The refusals that are new since the last look, and all that persist once those are reported.

        Each is reported once while it persists, with its first figures. If the text of an error changes from look to
        look, it is reported once a minute. A defect is reported only once, however often it occurs.
        """
        now = asyncio.get_running_loop().time()
        standing: dict[tuple[object, ...], _Told] = {}
        new: list[Refusal] = []
        for fact in refusals:
            key = _kind(fact)
            told = standing.get(key) or self._refused.get(key)
            lasts = isinstance(fact, DefectFound)
            if told is None or (not lasts and told.because != fact.because and now - told.at >= _AGAIN):
                new.append(fact)
                told = _Told(fact.because, now)
            standing[key] = told
        for key, told in self._refused.items():
            if key[0] is DefectFound:
                standing.setdefault(key, told)
        return new, standing

    async def _note_or_tell(self, fact: Refusal) -> None:
        """Of looks that fail only defects are worth an entry. If the registry is away it is told without."""
        if isinstance(fact, DefectFound):
            try:
                await self._state.note(fact)
                return
            except BaseException as e:
                if is_ours(e):
                    raise
                self._bulkhead.report("writing down a defect", e)
        self._tell(fact)

    def _tell_lasting(self, refusals: Sequence[Refusal]) -> None:
        """Report an ordinary reason against a switch again, to listeners only, if it lasts."""
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
        return self._met(words(task, self._train), error)

    def _met(self, step: str, error: BaseException) -> Refusal:
        """The failure of a step, as a fact. An exception that no broker, registry or orchestrator should raise is
        logged with its traceback, too."""
        if isinstance(error, EventwagonError):
            return StepFailed(train=self._train, step=step, because=str(error))
        self._bulkhead.report(step, error)
        if isinstance(error, Defect):
            self._looks.report()
            return DefectFound(train=self._train, step=step, because=said(error))
        return StepFailed(train=self._train, step=step, because=said(error))

    def _broke(self, step: str, error: Exception) -> Refusal:
        """The failure of a step of the policy. The policy calls nothing but itself, so whatever it raises is a defect
        of eventwagon."""
        if not isinstance(error, Defect):
            cause, error = error, Defect(said(error))
            error.__cause__ = cause
        return self._met(step, error)

    # --- doing ----------------------------------------------------------------------------

    async def _carry_out(self, task: Task, tasks: asyncio.TaskGroup) -> None:
        match task:
            case AddChannels(number=number, channels=names, anew=True):
                displaced = await self._channels.make_anew(number, names)
                self._irreplaceable |= displaced
                self._made(number)
                if displaced:
                    raise Displaced("; ".join(displaced.values()))
            case AddChannels(number=number, channels=names):
                await self._channels.add(number, names)
                self._made(number)
            case Seal(number=number):
                await self._channels.seal(number)
            case Lift(number=number):
                await self._channels.lift(task)
                self._made(number)
            case Remove() if self._is_anothers(task):
                pass
            case Ensure() | Remove() | RemoveLeftover():
                key = _key(task)
                if key not in self._under_way and not self._rests(key):
                    self._under_way.add(key)
                    tasks.create_task(self._in_background(key, task))

    def _is_anothers(self, task: Remove) -> bool:
        wagon = self._state.snapshot.manifest.wagon(task.number)
        return wagon is not None and self._remover.is_anothers(wagon, self._alive)

    async def _in_background(self, key: _Key, task: Ensure | Remove | RemoveLeftover) -> None:
        """Carry out a task in the background: starting a wagon's workers may take long, and ending them the whole
        grace. The next look asks again for what is not done."""
        try:
            if isinstance(task, Ensure):
                await self._provision(task.number)
            else:
                await self._end(task)
        except Conflict:
            self.wake()
        except BaseException as e:
            if is_ours(e):
                raise
            failures = self._failing[key].failures + 1 if key in self._failing else 1
            pause = pause_after(failures, self._settings.observe_every, _REST_MOST)
            until = asyncio.get_running_loop().time() + pause
            self._failing[key] = _FailedTask(self._failed(task, e), until, failures)
            if isinstance(task, RemoveLeftover):  # only a sweep finds leftovers: let the next one come soon
                self._swept = min(self._swept, asyncio.get_running_loop().time() - self._sweep_every + _SWEEP_AGAIN)
        else:
            self._failing.pop(key, None)
            if isinstance(task, Remove):  # there may be room for the next wagon; don't wait for the next look
                self.wake()
        finally:
            self._under_way.discard(key)

    def _rests(self, key: _Key) -> bool:
        """Whether it failed a moment ago and is still pausing; the pauses grow."""
        failing = self._failing.get(key)
        return failing is not None and asyncio.get_running_loop().time() < failing.until

    def _forget_failing(self, tasks: Sequence[Task]) -> None:
        """Forget the failures of tasks that are no longer due: another observer has done them. Leftovers are kept,
        since only some looks search for them."""
        wanted = {_key(task) for task in tasks}
        for key in [key for key in self._failing if key not in wanted and key[0] is not RemoveLeftover]:
            del self._failing[key]

    async def _provision(self, number: int) -> None:
        try:
            await self._channels.create(number)
            self._made(number)
            await self._ensure(number)
        except Conflict:
            raise
        except Exception as e:
            now, why = self._clock(), str(e) if isinstance(e, EventwagonError) else said(e)
            await self._state.apply(lambda m: attempt_failed(self._settings, m, number, now, why))
            raise

    def _made(self, number: int) -> None:
        """Channels of this wagon were created. If this process was paused meanwhile, the wagon may have been removed:
        then sweep them at once."""
        if self._state.snapshot.manifest.wagon(number) is None:
            self._swept = float("-inf")
            self.wake()

    async def _ensure(self, number: int) -> None:
        manifest = self._state.snapshot.manifest
        wagon = manifest.wagon(number)
        if self._orchestrator is None or wagon is None or wagon.created_at is None:
            return
        elastic = self._settings.workers.elastic
        enough = None if elastic is None else elastic.least
        spec = spec_of(manifest, wagon, workers=self._counts.get(number, 0), enough=enough)
        if wagon.asleep_at is not None:
            spec = msgspec.structs.replace(spec, workers=0, idle=False)
        await self._orchestrator.ensure(spec)

    def _allocated(
        self, manifest: Manifest, readings: Mapping[int, Reading], deployments: Mapping[int, Deployment]
    ) -> Mapping[int, int]:
        if self._orchestrator is None:
            return {}
        if self._settings.workers.elastic is not None:
            return counts(self._settings, manifest)
        now = self._clock()
        loads = [
            load_of(
                wagon,
                readings.get(wagon.number),
                deployments.get(wagon.unit),
                now,
                paused=manifest.pause_of(wagon) is not None,
            )
            for wagon in sorted(
                manifest.in_state(*LIVE),
                key=lambda w: (w.closed_at is None, w.replay, w.turn if w.closed_at else 0),
            )
        ]
        return allocate(self._settings.workers, loads, slo=slo(self._settings.limit), now=now)

    async def _end(self, task: Remove | RemoveLeftover) -> None:
        if isinstance(task, RemoveLeftover):
            await self._remover.leftover(task)
            return
        wagon = self._state.snapshot.manifest.wagon(task.number)
        if wagon is not None and wagon.state in (State.DRAINED, State.REMOVING, State.FAILED):
            within = min(_REMOVAL_TO_THE_END, _OF_TTL * self._settings.member_ttl)
            await to_the_end(partial(self._remover.remove, wagon), within)


def _kind(fact: Refusal) -> tuple[object, ...]:
    """The key by which a refusal is recognised at the next look."""
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
