"""Members whose process has certainly ended: what they still claim is given back at once.

Proof is that the process is gone from the machine that it shared with this one. A process that is merely silent keeps what
it claims until the visibility time ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from .broker import Broker
from .errors import EventwagonError
from .facts import ClaimsReturned, Listener, StepFailed
from .lifecycle import LIVE
from .process import Process, this_process, why_ended
from .registry import Member, Registry
from .switching import Switching

_MOST = 1000
"""Members that are no longer listed, and whose end is not proven yet."""


class Ended:
    """What one process of a train sees of the end of others. Any number may look at once: giving back is idempotent."""

    def __init__(self, train: str, broker: Broker, registry: Registry, switching: Switching, *, tell: Listener) -> None:
        self._train = train
        self._broker = broker
        self._registry = registry
        self._switching = switching
        self._tell = tell
        self._here = this_process()
        self._known: dict[str, Process] = {}
        """Members on this machine, those included that are not listed any more."""
        self._under_way: set[str] = set()
        self._failing: dict[str, str] = {}
        """By member, why giving back failed the last time."""

    async def settle(self) -> None:
        """Give back what all of them claim that can be seen to have ended; returns when that is done or has failed. Raises
        Unavailable, StorageBroken where the members can't be read."""
        found = self._find(await self._registry.members(self._train))
        await asyncio.gather(*(self._give_back(name, why) for name, why in found.items()))

    def look(self, members: Sequence[Member], tasks: asyncio.TaskGroup) -> None:
        """The same for these members, and for those listed before; in `tasks`. What fails is told, and tried again at the next
        look."""
        for name, why in self._find(members).items():
            tasks.create_task(self._give_back(name, why))

    def _find(self, members: Sequence[Member]) -> Mapping[str, str]:
        """Why, by name."""
        here = self._here
        if here is None:
            return {}
        for m in members:
            if m.process is not None and m.process != here and m.process.boot == here.boot:
                self._known[m.name] = m.process
        if len(self._known) > len(members) + _MOST:
            for name in list(self._known)[: len(self._known) - len(members) - _MOST]:
                del self._known[name]
        found = {name: why for name, process in self._known.items() if (why := why_ended(process, here))}
        found = {name: why for name, why in found.items() if name not in self._under_way}
        self._under_way.update(found)
        return found

    async def _give_back(self, name: str, why: str) -> None:
        try:
            count = await self._reclaim(name)
            await self._registry.check_in(self._train, Member(name=name), ttl=0)
            if count:
                await self._switching.note(ClaimsReturned(train=self._train, owner=name, count=count, because=why))
        except EventwagonError as e:
            if self._failing.get(name) != str(e):
                self._failing[name] = str(e)
                self._tell(StepFailed(train=self._train, step=f"giving back what {name} had", because=str(e)))
        else:
            self._failing.pop(name, None)
            self._known.pop(name, None)
        finally:
            self._under_way.discard(name)

    async def _reclaim(self, name: str) -> int:
        if not self._broker.capabilities.reclaims:
            return 0
        manifest = self._switching.snapshot.manifest
        channels = [c for wagon in manifest.in_state(*LIVE) for c in manifest.working_channels(wagon)]
        counts = await asyncio.gather(*(self._broker.reclaim(c, name) for c in channels), return_exceptions=True)
        for outcome in counts:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(count for count in counts if not isinstance(count, BaseException))
