"""One run: the processes of a scenario, the trouble, the healing, and the rest that must follow."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import msgspec

from eventwagon import breaker as breaker_module
from eventwagon import connection as connection_module
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.once import OnceRecord
from eventwagon.contracts.orchestrator import Orchestrator
from eventwagon.contracts.timetable import Timetable
from eventwagon.drivers.memory.once import MemoryOnce
from eventwagon.errors import Conflict, EventwagonError
from eventwagon.event import ARCHIVE, DEAD, Channel, new_ids
from eventwagon.policy.pausing import resting, resumed
from eventwagon.policy.undo import resumed as undo_resumed
from eventwagon.runtime import feeding as feeding_module
from eventwagon.runtime import handler_runner as runner_module
from eventwagon.runtime import local_workers as local_workers_module
from eventwagon.runtime import prefetch as prefetch_module
from eventwagon.runtime import runtime as runtime_module
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.worker_pool import WorkerPool
from eventwagon.testing.virtual_time import Deadlock

from .archive import archiving
from .cluster import Cluster, GatedOrchestrator
from .gate import Gate
from .guests import is_thrown
from .history import Faulted, Healed, Rested
from .loop import PROCESS, SimulationLoop, StandsStill, close
from .once import GatedOnce
from .process import TRAIN, Process, Slot
from .scenario import INNER, Scenario
from .timetable import GatedTimetable, TruthTimetable
from .truth import EPOCH
from .world import Ambush, World

REST_WITHIN = 900.0
"""Seconds after the trouble, and after anything was done since, within which the train must be at rest: pauses after
failed attempts go up to 300 s, and an event that kills its process does so at each of its attempts."""
LEAVE_WITHIN = 60.0
_PATIENCE = 30.0
"""Seconds for which a breaker that opens soon keeps what always fails."""
QUIET = 10.0
"""Seconds of rest over which calls are counted."""


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: what stood when the train was at rest, or was not."""

    reached: bool
    after: float
    """Virtual seconds from the healing."""
    lacking: tuple[str, ...]
    """Why it was not at rest."""
    manifest: Manifest
    dead: dict[str, str]
    """The dead letters that are kept: id → key."""
    calls: dict[str, int]
    """Calls of all processes in the quiet seconds at rest."""
    quiet: float
    left_behind: tuple[str, ...]
    """What was still there after every process had been asked to leave."""
    short: tuple[str, ...] = ()
    """Pools of workers that were not of their size at rest."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a scenario."""

    scenario: Scenario
    history: Any
    rest: Rest
    unexpected: tuple[str, ...]
    """Errors that nobody caught, or that a bulkhead held up though nothing in the scenario threw them."""
    longest_journal: int
    seconds: float
    """Virtual."""
    foreign: tuple[str, ...] = ()
    """Those of the unexpected, and of what ended processes, that nothing in the scenario threw."""

    @property
    def faults(self) -> Counter[str]:
        """The faults that took effect, by kind."""
        return Counter(f.kind for f in self.history.of(Faulted))


class Simulation:
    """One run: it starts the processes, heals the world, and waits for the train to come to rest."""

    def __init__(
        self, scenario: Scenario, loop: SimulationLoop, ambush: Ambush | None, left_over: Sequence[Channel]
    ) -> None:
        self.world = world = World(
            scenario,
            loop,
            ambush,
            orchestrator=self._orchestrator,
            timetable=self._timetable,
            kept=self._kept,
            once=self._once,
        )
        self.once = MemoryOnce(clock=lambda: EPOCH + loop.time())
        self.timetable = TruthTimetable(world.record)
        self.slots = [Slot(program, scenario) for program in scenario.programs]
        self.cluster = Cluster(world, keep=self.supervise)
        self._left_over = left_over
        self._lived: list[Process] = []

    def _orchestrator(self, gate: Gate) -> Orchestrator | None:
        return GatedOrchestrator(gate, self.cluster) if self.world.scenario.orchestrated else None

    def _timetable(self, gate: Gate) -> Timetable:
        return GatedTimetable(gate, self.timetable)

    def _once(self, gate: Gate) -> OnceRecord:
        return GatedOnce(gate, self.once)

    def _kept(self) -> int:
        return self.timetable.count(TRAIN)

    def bury(self) -> None:
        """After the run: what the killed ones held on to. Their clean-up is cut short, and what that says is no
        news."""
        with warnings.catch_warnings(), mock.patch.object(sys, "unraisablehook"):
            warnings.simplefilter("ignore")
            for process in self._lived:
                process.bury()
            self._lived.clear()
            for task in asyncio.all_tasks(self.world.loop):  # only where the run itself did not come to its end
                close(task)
            gc.collect(0)  # all of this run is in the youngest generation: the collector was off

    async def run(self) -> Rest:
        """All of it."""
        async with asyncio.TaskGroup() as tasks:
            for slot in self.slots:
                tasks.create_task(self.supervise(slot))
            rolling_out = tasks.create_task(self._roll_out())
            tasks.create_task(self._step_back())
            tasks.create_task(self._write())
            for channel in self._left_over:
                tasks.create_task(self._rise(channel))
            scenario = self.world.scenario
            last = max([0.0, *(a.at for a in scenario.arrivals), *(w.at for w in scenario.writes)])
            await asyncio.sleep(last + self.world.scenario.calm_after)
            self.world.healed = True
            self.world.record(Healed)
            for process in self._living():
                process.resume()
            await self._finish_renaming(rolling_out)
            rest = await self._rest()
            self.world.ending = True
            for process in self._living():
                process.asked_to_end.set()
            left = await self._leave()
            for process in self._living():  # those that would not
                process.crash(0.0)
            await self.cluster.finished()
        return msgspec.structs.replace(rest, left_behind=tuple(left))

    async def _roll_out(self) -> None:
        """One after another, the processes are replaced by those of the new version."""
        if self.world.scenario.grows_at is None:
            return
        await asyncio.sleep(self.world.scenario.grows_at)
        await self._replace_all(1 if self.world.scenario.renames is None or self.world.scenario.patient else 2)

    async def _replace_all(self, version: int) -> None:
        for slot in self._slots():
            slot.version = version
            if slot.now is not None and slot.now.version != version:
                slot.now.asked_to_end.set()
            await asyncio.sleep(0.5 if self.world.scenario.renames is None else 2.0)

    async def _finish_renaming(self, rolling_out: asyncio.Task[None]) -> None:
        """Old channels are worked off by a version that has handlers for them, which then goes: when nothing is on its
        way there either, since what arrived later would be kept and told until such a version came back."""
        renames = self.world.scenario.renames
        if renames is None:
            return
        await rolling_out
        await self._replace_all(1)
        until = self.world.loop.time() + REST_WITHIN
        while self.world.loop.time() < until:
            await asyncio.sleep(1.0)
            await self._resume_all()
            old = [c for c in self.world.broker.all_channels() if c.name in INNER and c.name not in renames]
            depths = [self.world.broker.depth_now(c) for c in old]
            running = all(slot.now is not None and slot.now.version == 1 and slot.now.is_up for slot in self._slots())
            if running and not self.world.arriving and all(d.published == d.settled for d in depths):
                break
        await self._replace_all(2)

    async def _step_back(self) -> None:
        """The registry is restored from older copies."""
        began = self.world.loop.time()
        for at, versions in self.world.scenario.steps_back:
            await asyncio.sleep(began + at - self.world.loop.time())
            self.world.registry.back(TRAIN, versions)

    async def _write(self) -> None:
        """Producers outside write records, whatever becomes of the train."""
        began = self.world.loop.time()
        for written in self.world.scenario.writes:
            await asyncio.sleep(max(0.0, began + written.at - self.world.loop.time()))
            if self.world.flow is not None:
                self.world.flow.write(written.count)

    async def _rise(self, channel: Channel) -> None:
        """A stale process makes a channel anew when its wagon is gone."""
        while (m := self.world.registry.newest(TRAIN).manifest).next_number <= channel.wagon or m.wagon(channel.wagon):
            await asyncio.sleep(0.05)
        await self.world.broker.create(channel)

    async def supervise(self, slot: Slot) -> None:
        """Keep a process in the slot until it is closed or the run ends: whatever ends is started again."""
        while not (self.is_ending() or slot.closed):
            slot.now = process = Process(self.world, slot)
            self._lived.append(process)
            process.start()
            await process.finished.wait()
            slot.now = None
            if not (self.is_ending() or slot.closed):
                await asyncio.sleep(min(0.5, process.back_after) if self.world.healed else process.back_after)

    def is_ending(self) -> bool:
        """Every process was asked to leave."""
        return self.world.ending

    def _living(self) -> list[Process]:
        return [slot.now for slot in self._slots() if slot.now is not None]

    def _slots(self) -> list[Slot]:
        return [*self.slots, *self.cluster.slots()]

    async def _rest(self) -> Rest:
        """Wait for rest, then listen for some quiet seconds."""
        healed_at = self.world.loop.time()
        lacking: list[str] = []
        calls: dict[str, int] = {}
        until, done = healed_at + REST_WITHIN, self._done()
        while self.world.loop.time() < until:
            await asyncio.sleep(1.0)
            await self._resume_all()
            if (now := self._done()) != done:
                until, done = self.world.loop.time() + REST_WITHIN, now
            lacking = self.lacking()
            if lacking:
                continue
            before, start = self._calls(), self.world.registry.newest(TRAIN).version
            await asyncio.sleep(QUIET)
            lacking = self.lacking()
            if not lacking and self.world.registry.newest(TRAIN).version == start:
                calls = dict(self._calls() - before)
                self.world.record(Rested)
                break
        return Rest(
            reached=not lacking,
            after=self.world.loop.time() - healed_at,
            lacking=tuple(lacking),
            manifest=self.world.registry.newest(TRAIN).manifest,
            dead=self._dead(),
            calls=calls,
            quiet=QUIET,
            left_behind=(),
            short=tuple(lack for process in self._living() for lack in process.short(at_rest=not lacking)),
        )

    def _done(self) -> tuple[object, ...]:
        """How far it is: what changes with each event that is settled, each record of the flow that is committed, each
        wagon of an undo, and each replay."""
        settled = {
            channel: self.world.broker.depth_now(channel).settled
            for channel in self.world.broker.all_channels()
            if channel.name in ("", *INNER)
        }
        replays = self.world.registry.newest(TRAIN).manifest.replays
        steps = [(r.number, 0 if r.undo is None else r.undo.step) for r in replays]
        committed = 0 if self.world.flow is None else len(self.world.flow.committed)
        return committed, sum(count or 0 for count in settled.values()), *steps

    async def _resume_all(self) -> None:
        """Somebody ends every pause, from outside, and lets undos go on."""
        while True:
            snapshot = self.world.registry.newest(TRAIN)
            manifest = snapshot.manifest
            for number in (None, *(w.number for w in manifest.wagons)):
                manifest = resumed(manifest, number, self.world.loop.time(), "", "").manifest
            for replay in manifest.replays:
                manifest = undo_resumed(manifest, replay.number, None, "", "").manifest
            if manifest is snapshot.manifest:
                return
            with suppress(Conflict):  # another was faster
                await self.world.registry.replace(TRAIN, manifest, expect=snapshot.version)
                return

    def _calls(self) -> Counter[str]:
        calls: Counter[str] = Counter()
        for process in self._living():
            calls.update(process.calls)
        return calls

    def _dead(self) -> dict[str, str]:
        return {
            event.id: event.data.decode()[1:-1]
            for channel in self.world.broker.all_channels()
            if channel.name == DEAD
            for event in self.world.broker.contents(channel)
        }

    def lacking(self) -> list[str]:
        """Why the train is not at rest: one active wagon, its spares, and nothing else."""
        manifest, settings = self.world.registry.newest(TRAIN).manifest, self.world.scenario.settings
        spares = int(settings["spares"])
        said = []
        ready = len([w for w in manifest.spares if w.state is State.READY])
        said += [f"replay {r.number} is not over: {r.fed} of {r.count} fed, {r.trouble}" for r in manifest.replays]
        if manifest.active is None:
            said.append("no wagon is active")
        if not spares <= ready <= max(1, spares):
            said.append(f"{ready} wagons are ready, {spares} are wanted")
        said += [
            f"wagon {w.number} is {w.state}" for w in manifest.wagons if w.state not in (State.READY, State.ACTIVE)
        ]
        if manifest.request is not None:
            said.append("a switch was asked for and is not made")
        if manifest.refusing:
            said.append("publishers are refused")
        if resting(manifest):
            said.append("some of it is paused")
        if self.world.scenario.renames is not None:
            undeclared = {(w.number, c) for w in manifest.wagons for c in w.channels if c not in manifest.channels}
            said += [f"{wagon} still has {name}, which nobody declares" for wagon, name in sorted(undeclared)]
        channels = {Channel(TRAIN, 0, DEAD)}
        for wagon in manifest.wagons:
            channels |= {*manifest.working_channels(wagon), manifest.dead_letters(wagon)}
            channels |= {manifest.rows(wagon)} if wagon.archive else set()
            # one that it has lost, since nobody declares it any more, goes with the wagon
            dropped = [
                c
                for c in self.world.broker.all_channels()
                if c.wagon == wagon.number and c.name not in ("", DEAD, ARCHIVE)
            ]
            if self.world.scenario.renames is not None:
                channels |= {*dropped}
            for channel in dict.fromkeys([*manifest.working_channels(wagon), *(c for c in dropped if c in channels)]):
                depth = self.world.broker.depth_now(channel)
                if depth.published != depth.settled or depth.published is None:
                    said.append(f"{channel}: {depth.waiting} events wait, {depth.in_flight} are in hand")
        said += self.cluster.left_over()
        said += [f"channel {c} is left over" for c in self.world.broker.all_channels() if c not in channels]
        said += [
            f"{process} is still attached to {channel}"
            for (process, channel) in self.world.broker.attached
            if channel not in channels
        ]
        if kept := self.world.kept():
            said.append(f"{kept} events are kept for later")
        if self.world.flow is not None and (left := self.world.flow.left()):
            said.append(f"{len(left)} records of the flow are not committed, {left[0].position} the first")
        if any(slot.arrivals for slot in self.slots) or any(p.publishing for p in self._living()):
            said.append("some processes have not published yet")
        if self.world.arriving:
            said.append("some calls are still on their way")
        return said

    async def _leave(self) -> list[str]:
        """All were asked to: say what is left when they had time for it."""
        deadline = self.world.loop.time() + LEAVE_WITHIN
        while self._living() and self.world.loop.time() < deadline:
            await asyncio.sleep(0.5)
        left = [f"process {p.name} does not end" for p in self._living()]
        left += [f"a consumer of {process} at {channel}" for (process, channel) in self.world.broker.attached]
        members = await self.world.registry.members(TRAIN)
        left += [f"member {m.name}" for m in members if not m.counts]  # what a process did is known for a while
        for channel in self.world.broker.all_channels():
            depth = self.world.broker.depth_now(channel)
            if depth.in_flight and channel.name != DEAD:  # a retry that was cut off: these claims end by themselves
                left.append(f"{depth.in_flight} claimed in {channel}")
        return left


def _unheard(_: object) -> None:
    """Keeps nothing of what it is told, as a mock would."""


class _Os:
    """Stands in for `os` where the core names processes: one name for one run."""

    def __init__(self) -> None:
        self._count = 0

    def getpid(self) -> int:
        self._count += 1
        return self._count

    def urandom(self, count: int) -> bytes:
        actor = PROCESS.get()
        return (actor.name if actor else "?").encode().ljust(count, b"\0")[:count]


class _Socket:
    def gethostname(self) -> str:
        actor = PROCESS.get()
        return actor.name if actor else "?"


class _Random:
    """Stands in for `random` where the core makes a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def Random(self) -> random.Random:  # noqa: N802 - as in the module that it stands for
        actor = PROCESS.get()
        return random.Random(f"{self._seed} {actor.name if actor else '?'} crew")


@contextmanager
def _seeded(seed: int, *, patience: float) -> Iterator[None]:
    """Everything in the core that draws from the system draws from the seed."""
    rng = random.Random(f"{seed} ids")

    def ids(count: int, now: float) -> list[str]:
        return new_ids(count, now, rng.randbytes)

    class Ids:
        """Stands in for NewIds."""

        def next(self, now: float) -> str:
            return ids(1, now)[0]

    with (
        mock.patch.object(connection_module, "os", _Os()),
        mock.patch.object(connection_module, "socket", _Socket()),
        mock.patch.object(connection_module, "new_ids", ids),
        mock.patch.object(connection_module, "NewIds", Ids),
        mock.patch.object(runtime_module, "random", _Random(seed)),
        mock.patch.object(prefetch_module, "_RECEIVE", 5.0),
        mock.patch.object(feeding_module, "_AHEAD", 4),
        mock.patch.object(local_workers_module, "WorkerPool", _WorkerPool),
        mock.patch.object(breaker_module, "PATIENCE", patience),
        _quietly(),
    ):
        yield


class _WorkerPool(WorkerPool):
    """Workers that their process knows of."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        actor = PROCESS.get()
        if isinstance(actor, Process):
            actor.pools.append(self.state)


@contextmanager
def _quietly() -> Iterator[None]:
    """What eventwagon logs of guests and defects is not to be read by anybody."""
    logger = logging.getLogger("eventwagon")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _held_up(loop: SimulationLoop) -> Iterator[None]:
    """Notes what a bulkhead holds up though the scenario did not throw it: else a defect of ours would hide behind
    it."""
    report = Bulkhead.report

    def noted(self: Bulkhead, step: str, error: BaseException) -> None:
        if not isinstance(error, EventwagonError) and not is_thrown(error):
            loop.note(step, error)
        report(self, step, error)

    with mock.patch.object(Bulkhead, "report", noted):
        yield


def simulate(scenario: Scenario, *, ambush: Ambush | None = None, left_over: Sequence[Channel] = ()) -> Run:
    """Run a scenario. Deterministic: the same scenario gives the same history.

    `ambush` is asked at each call of a process (its name, its first role, the call, the manifest as it is) for a fault
    of its own. The channels `left_over` rise again when their wagons are gone.
    """
    collecting = gc.isenabled()
    gc.disable()  # finalizers at a moment of the collector's choice would be no one's seed
    try:
        run = _simulated(scenario, ambush, left_over)
        with mock.patch.object(sys, "unraisablehook", _unheard):
            gc.collect(1)  # what a clean-up that was cut short still held on to
        return run
    finally:
        if collecting:
            gc.enable()


def _simulated(scenario: Scenario, ambush: Ambush | None, left_over: Sequence[Channel]) -> Run:
    loop = SimulationLoop()
    try:
        with (
            _seeded(scenario.seed, patience=_PATIENCE if scenario.breaker else breaker_module.PATIENCE),
            _held_up(loop),
            ExitStack() as stack,
        ):
            simulation = Simulation(scenario, loop, ambush, left_over)
            world = simulation.world
            try:
                stack.enter_context(archiving(world.record))
                if scenario.undoes:  # the past is kept without an archive
                    stack.enter_context(mock.patch.object(runner_module, "order_of", lambda spec: spec.channels))
                rest = loop.run_until_complete(simulation.run())
            except (StandsStill, Deadlock) as e:
                rest = _stuck(world, str(e))
            run = Run(
                scenario=scenario,
                history=world.history,
                rest=rest,
                unexpected=tuple(loop.unexpected),
                longest_journal=world.registry.longest.get(TRAIN, 0),
                seconds=loop.time(),
                foreign=tuple(loop.foreign),
            )
            loop.close()
            simulation.bury()
            return run
    finally:
        loop.close()


def _stuck(world: World, why: str) -> Rest:
    return Rest(
        reached=False,
        after=0.0,
        lacking=(why,),
        manifest=world.registry.newest(TRAIN).manifest,
        dead={},
        calls={},
        quiet=0.0,
        left_behind=(),
    )
