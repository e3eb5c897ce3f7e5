"""Members whose process has certainly ended: their claimed events are given back at once.

The proof: the process is gone from the machine that it shared with this one, or the orchestrator saw it end. A process
that is only silent keeps its claims until the visibility time ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from ..contracts.facts import ClaimsReturned
from ..contracts.lifecycle import LIVE
from ..contracts.orchestrator import Witness
from ..contracts.process import Pod, Process, this_process, why_ended
from ..contracts.registry import Member
from .budget_shares import SHARED, holds_for
from .bulkhead import is_ours
from .runtime import Runtime, report_failure, why_failed
from .tasks import all_of
from .train_state import TrainState

_WITHIN = 30.0
"""The longest that giving back what one process had may take, in seconds."""
_MOST = 1000
"""How many members are remembered: those that are no longer listed and may still run, and those that have ended."""


class EndedMembers:
    """What one process knows about the end of others, from its own machine and from its orchestrator, if that is a
    Witness. Any number of processes may look at once: giving back is idempotent."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._broker = runtime.broker
        self._state = state
        orchestrator: object = runtime.orchestrator
        self._witness = orchestrator if isinstance(orchestrator, Witness) else None
        self._here = this_process()
        self._known: dict[str, tuple[Process | None, Pod | None]] = {}
        """Members on this machine and in Pods, including those that are no longer listed."""
        self._given_back: dict[str, None] = {}
        """The latest members whose claims were given back. One that checks in after that is alive, whatever an
        orchestrator says. So a wrong proof, after a clock was set back, harms a process once."""
        self._under_way: set[str] = set()
        self._failing: dict[str, str] = {}
        """By member, why giving back failed the last time."""

    async def give_back(self) -> None:
        """Give back the claims of all members that have provably ended. Returns when that is done or has failed. Raises
        Unavailable or StorageBroken if the members can't be read."""
        with self._runtime.reach.asking():
            members = await self._state.registry.members(self._train)
        found = self._find(members)
        await asyncio.gather(*(self._give_back(name, why) for name, why in found.items()))

    def look(self, members: Sequence[Member], tasks: asyncio.TaskGroup) -> None:
        """Do the same in `tasks`, for these members and for those listed before. Failures are reported and retried at
        the next look."""
        for name, why in self._find(members).items():
            tasks.create_task(self._give_back(name, why))

    def _find(self, members: Sequence[Member]) -> Mapping[str, str]:
        """The members that have provably ended, and the proof, by name."""
        here = self._here
        for m in members:
            is_near = m.process is not None and here is not None and m.process != here and m.process.boot == here.boot
            pod = m.pod if self._witness is not None and m.name not in self._given_back else None
            if is_near or pod is not None:
                self._known[m.name] = m.process, pod
        if len(self._known) > len(members) + _MOST:
            for name in list(self._known)[: len(self._known) - len(members) - _MOST]:
                del self._known[name]
        found = {
            name: why
            for name, (process, pod) in self._known.items()
            if name not in self._under_way and (why := why_ended(process, here) or self._seen_to_end(pod))
        }
        self._under_way.update(found)
        return found

    def _seen_to_end(self, pod: Pod | None) -> str:
        if self._witness is None or pod is None:
            return ""
        try:
            return self._witness.why_ended(pod)
        except BaseException as e:
            if is_ours(e):
                raise
            self._runtime.bulkhead.report("asking the orchestrator which processes have ended", e)
            return ""

    async def _give_back(self, name: str, why: str) -> None:
        try:
            async with asyncio.timeout(_WITHIN):
                count = await self._reclaim(name)
                await self._check_out(name)
                if count:
                    await self._state.note(ClaimsReturned(train=self._train, owner=name, count=count, because=why))
        except BaseException as e:
            if is_ours(e):
                raise
            self._failed(name, e)
        else:
            self._failing.pop(name, None)
            self._known.pop(name, None)
            self._given_back[name] = None
            if len(self._given_back) > _MOST:
                del self._given_back[next(iter(self._given_back))]
        finally:
            self._under_way.discard(name)

    async def _check_out(self, name: str) -> None:
        """Remove its check-ins: that of the process, and what it said that it holds of budgets."""
        registry = self._state.registry
        await registry.check_in(self._train, Member(name=name), ttl=0)
        for scope in (self._train, SHARED):
            for member in await registry.members(scope):
                if holds_for(member.name, name):
                    await registry.check_in(scope, Member(name=member.name), ttl=0)

    def _failed(self, name: str, error: BaseException) -> None:
        """Report the failure, once while its reason stays the same."""
        because = why_failed(self._runtime, "giving back what an ended process had", error)
        if self._failing.get(name) != because:
            self._failing[name] = because
            report_failure(self._runtime, f"giving back what {name} had", because)

    async def _reclaim(self, name: str) -> int:
        if not self._broker.capabilities.reclaims:
            return 0
        manifest = self._state.snapshot.manifest
        channels = [c for wagon in manifest.in_state(*LIVE) for c in manifest.working_channels(wagon)]
        return sum(await all_of([partial(self._broker.reclaim, channel, name) for channel in channels]))
