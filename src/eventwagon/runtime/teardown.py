"""The end of a train, by hand: removes everything that it has at the broker, the orchestrator and the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from ..contracts.broker import outstanding
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, TrainRemoval
from ..contracts.once import once_of
from ..contracts.registry import Polling
from ..contracts.replay import Replay
from ..display.text import count
from ..errors import RemovalRefused, StorageBroken, Unavailable
from ..event import ARCHIVE, DEAD, Channel
from ..policy.edits import as_of, removal_asked, removal_given_up
from ..policy.reconcile import TRAIN_REMOVED
from .archiving import Archiver
from .handing_in import scope_of
from .observed import unobserved
from .probe import PROBE
from .recording import Recorder, recover
from .removed_trains import remember
from .runtime import Runtime, report_failure
from .train_state import TrainState

_NEWS = 2.0
"""Seconds that the news of a removal may take to reach all processes; twice the registry's polling interval if that is
longer."""
_LOOK = 0.1
"""Seconds between two looks at who is still alive."""
_SWEEPS = 5
"""How often channels are deleted that are still listed, or that a process created and then ended."""
_SWEEP_AGAIN = 1.0
"""Seconds between two sweeps: brokers may list a channel for a while after its deletion."""


class RemovedTrain(msgspec.Struct, frozen=True):
    """What a removal has removed."""

    channels: int
    units: int
    existed: bool
    """The registry had a manifest of the train."""
    later: int = 0
    """Events that waited for their time."""
    replays: int = 0
    """Replays and undos that were not over."""


class Teardown:
    """Removes one train. Any process may repeat `run`, wherever an earlier one was cut short: the manifest, which says
    that the train is being removed, goes last."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._broker = runtime.broker
        self._orchestrator = runtime.orchestrator
        self._registry = state.registry
        self._state = state

    async def run(self, why: str, by: str, *, force: bool, patience: float) -> RemovedTrain:
        """Remove the train.

        It refuses while something is left. Then the manifest says that the train is being removed, so that publishers
        are refused and processes end; the channels are sealed and checked again; at last everything is deleted. `force`
        asks living processes to end, for `patience` seconds, and deletes what is left, also what is not archived yet.

        Raises RemovalRefused, and then the train goes on; UsageError if this process can't open an archive of its
        wagons; Unavailable and StorageBroken, and then call it again.
        """
        existed = bool((await self._registry.read(self._train)).version)
        manifest = (await self._state.refresh()).manifest if existed else Manifest(train=self._train)
        channels = await self._channels(manifest)
        standing = set(await self._broker.channels(self._train))
        if not force:
            await self._refuse_if_left(channels, manifest)
            self._refuse_if_alive(await self._alive())
            await self._refuse_if_archives_are_away(manifest)
            self._refuse_if_ledger_is_elsewhere(manifest)
        asked = TrainRemoval(why=why, at=self._runtime.clock(), by=by)
        if existed:
            manifest = (await self._state.apply(lambda m: removal_asked(m, asked))).manifest
            await self._end_processes(force, patience)
            channels = await self._channels(manifest)
        for wagon in manifest.in_state(State.ACTIVE, State.DRAINING):  # no spare: one may be needed yet
            await self._broker.seal(manifest.ingress(wagon))
        if not force:
            try:
                await self._refuse_if_left(channels, manifest)
            except RemovalRefused as e:
                if existed:
                    await self._give_up(f"{e}, stored at the last moment")
                raise
        units = await self._end_units(manifest)
        if not force:
            await self._archive(manifest, channels)
        if existed:
            await self._record((await self._state.refresh()).manifest, channels, force=force)
        for channel in channels:
            await self._broker.delete(channel)
        await self._let_it_be_known()
        standing.update(await self._sweep())
        timetable = self._runtime.timetable
        later = 0 if timetable is None else await timetable.clear(self._train)
        if (record := once_of(unobserved(self._broker), self._registry)) is not None:
            await record.clear(self._train)
        if existed:
            now = max(self._runtime.clock(), as_of(manifest) + 0.001)  # later than every time in the manifest
            gone = msgspec.structs.replace(manifest.removal or asked, at=now)
            await remember(self._state.registry, self._train, gone, me=self._runtime.name)
        await self._registry.delete(scope_of(self._train))
        await self._state.registry.delete(self._train)
        return RemovedTrain(len(standing), units, existed, later, len(_unfinished(manifest)))

    async def _record(self, manifest: Manifest, channels: Sequence[Channel], *, force: bool) -> None:
        """Write the records of the wagons that stand, and those that wait in the journal, if the train has a ledger.
        Raises Unavailable if it can't take one, unless `force` says that the train is to go all the same."""
        if self._runtime.ledger is None:
            return
        recorder = Recorder(self._runtime, self._state)
        try:
            for wagon in manifest.wagons:
                names = {DEAD, PROBE, ARCHIVE, *(c.name for c in manifest.working_channels(wagon))}
                lost = [c for c in channels if c.wagon == wagon.number and c.name not in names]
                told = await recorder.record(
                    wagon, left=None, ended=TRAIN_REMOVED, lost=lost, at_once=True, force=force
                )
                for fact in told:
                    self._runtime.tell(fact)
            await recover(self._registry, self._runtime.ledger, self._train)
        except (Unavailable, StorageBroken, TimeoutError) as e:
            if not force:
                raise Unavailable(
                    f"train {self._train} is not removed yet: {str(e) or 'no answer in time'}. Mend that and remove "
                    "the train again, or remove it with --force (force=True), without these records"
                ) from e
            report_failure(self._runtime, "recording the train's wagons", str(e) or "no answer in time")

    async def _refuse_if_archives_are_away(self, manifest: Manifest) -> None:
        """Ask the archives of its wagons before anything is begun that this process could not finish. Raises
        UsageError if it can't open one, Unavailable if one is away."""
        for url in {wagon.archive for wagon in manifest.wagons if wagon.archive and wagon.archived is None}:
            try:
                await self._runtime.archives(url).files(self._train)
            except Unavailable as e:
                raise Unavailable(
                    f"train {self._train} is not removed: {e}. Remove it where its archive can be reached, or with "
                    "--force (force=True), without archiving what is not archived yet"
                ) from e

    def _refuse_if_ledger_is_elsewhere(self, manifest: Manifest) -> None:
        """Raise RemovalRefused if the records of its wagons can't be written here."""
        if manifest.recorded and manifest.wagons and self._runtime.ledger is None:
            raise RemovalRefused(
                f"train {self._train} is not removed: it has a ledger, which this process does not know. Name the "
                "train's program (eventwagon remove module:attribute), or remove it with --force (force=True), without "
                "the records of its last wagons"
            )

    async def _archive(self, manifest: Manifest, channels: Sequence[Channel]) -> None:
        """Archive what the wagons have handled. Raises as `Archiver.archive`; then the train is not removed yet."""
        archiver = Archiver(self._runtime, self._state)
        for wagon in manifest.wagons:
            await archiver.archive(wagon)
        for channel in channels:
            if channel.name == ARCHIVE and manifest.wagon(channel.wagon) is None:
                await archiver.leftover(channel)

    async def _sweep(self) -> set[Channel]:
        """Delete the channels that are left or were created meanwhile, until there are none; returns them. Raises
        Unavailable if some remain; then the manifest still says that the train is being removed."""
        swept = set[Channel]()
        for sweep in range(_SWEEPS):
            if sweep:
                await asyncio.sleep(_SWEEP_AGAIN)
            left = await self._broker.channels(self._train)
            if not left:
                return swept
            swept.update(left)
            for channel in left:
                await self._broker.delete(channel)
        await asyncio.sleep(_SWEEP_AGAIN)
        if left := await self._broker.channels(self._train):
            raise Unavailable(
                f"train {self._train} is not removed yet: deleted {_SWEEPS} times, these channels are there again or "
                f"still: {', '.join(sorted(map(str, left)))}. End what makes them anew, or wait for the broker, and "
                f"remove the train again (eventwagon remove {self._train})"
            )
        return swept

    async def _channels(self, manifest: Manifest) -> list[Channel]:
        """All channels that exist, and all that the manifest names: an interrupted deletion may have left half of
        one."""
        named = [Channel(self._train, 0, DEAD)]
        for wagon in manifest.wagons:
            named += [*manifest.working_channels(wagon), manifest.dead_letters(wagon)]
        return list(dict.fromkeys([*await self._broker.channels(self._train), *named]))

    async def _alive(self) -> list[str]:
        members = await self._registry.members(self._train)
        return [
            f"{m.name} ({', '.join(m.roles) or 'no role'})"
            for m in members
            if m.name != self._runtime.name and m.is_process
        ]

    def _refuse_if_alive(self, alive: Sequence[str]) -> None:
        if alive:
            count = f"{len(alive)} processes of it are" if len(alive) > 1 else "a process of it is"
            raise RemovalRefused(
                f"train {self._train} is not removed: {count} alive: {', '.join(alive)}. End them (eventwagon stop "
                f"{self._train}, and whatever starts them again)"
            )

    async def _refuse_if_left(self, channels: Sequence[Channel], manifest: Manifest) -> None:
        """Raise RemovalRefused while events or dead letters are left, or if that is unknown (unknown is never empty);
        and while replays and undos are not over."""
        asked = [c for c in channels if c.name not in (PROBE, ARCHIVE)]
        depths = await self._broker.depth(asked)
        standing = set(await self._broker.channels(self._train))
        left = []
        alive = dead = False
        for channel, depth in zip(asked, depths, strict=True):
            held = outstanding([depth])
            if channel not in standing or held == 0:
                continue
            is_dead = channel.name == DEAD
            dead, alive = dead or is_dead, alive or not is_dead
            left.append(f"{count(held, 'dead letter' if is_dead else 'event')} in {channel}")
        timetable = self._runtime.timetable
        later = 0 if timetable is None else (await timetable.waiting(self._train)).count
        if later:
            left.append(f"{count(later, 'event')} for later (`eventwagon later {self._train}`)")
        for replay in _unfinished(manifest):
            state = {"waiting": "waits", "running": "runs", "stopped": "is stopped"}[manifest.state_of(replay)]
            how_to = f"`eventwagon {replay.kind} {self._train} --cancel {replay.number}`"
            left.append(f"{replay.kind} {replay.number}, which {state} ({how_to})")
        if left:
            how = " Have the events handled (eventwagon run, drain)." if alive else ""
            if dead:
                how += f" `eventwagon dead {self._train}` shows the dead letters, `dead retry` or `drop` takes them."
            raise RemovalRefused(
                f"train {self._train} is not removed: {', '.join(left)}.{how} "
                "To delete all that is left in it, remove it with --force (force=True)"
            )

    async def _end_processes(self, force: bool, patience: float) -> None:
        """Wait until no process is alive: some may have started meanwhile, and are asked to end. Without `force` the
        removal is given up if there are any."""
        until = asyncio.get_running_loop().time() + (patience if force else 0.0)
        while alive := await self._alive():
            if asyncio.get_running_loop().time() >= until:
                if not force:
                    await self._give_up(f"processes began meanwhile: {', '.join(alive)}")
                    self._refuse_if_alive(alive)
                return  # they know that it is gone, or find nothing when they go on
            await asyncio.sleep(_LOOK)

    async def _let_it_be_known(self) -> None:
        """Wait until the news has reached programs that only publish and that nobody sees. They must read in the
        manifest that the train is removed: an empty registry would look to them like one that has lost its data."""
        removal = self._state.snapshot.manifest.removal
        if removal is not None:
            news = max(_NEWS, 2 * self._registry.poll) if isinstance(self._registry, Polling) else _NEWS
            await asyncio.sleep(min(news, max(0.0, removal.at + news - self._runtime.clock())))

    async def _give_up(self, because: str) -> None:
        """The train goes on; with the next wagon if its active one is sealed by now."""
        await self._state.apply(lambda m: removal_given_up(m, self._runtime.clock(), because))

    async def _end_units(self, manifest: Manifest) -> int:
        if self._orchestrator is None:
            return 0
        units = {*await self._orchestrator.deployments(self._train), *(w.unit for w in manifest.wagons)}
        for unit in sorted(units):
            await self._orchestrator.remove(self._train, unit, grace=self._runtime.settings.grace)
        return len(units)


def _unfinished(manifest: Manifest) -> list[Replay]:
    """The replays and undos that have still something to publish. What they have published stands in their wagons."""
    return [r for r in manifest.replays if not r.cancelled and (r.left or manifest.state_of(r) == "stopped")]
