"""Sends the counts of this process, for the train's ledger."""

from __future__ import annotations

import asyncio

from ..contracts.ledger import ChannelCounts
from ..contracts.manifest import Manifest, Wagon
from ..contracts.registry import Member, Registry
from ..errors import Unavailable
from ..event import Channel
from ..policy.reconcile import Handed
from .counting import Counters
from .runtime import Runtime
from .train_state import TrainState

KEPT = 7 * 86_400.0
"""Seconds for which counts stay after their process has ended, unless the wagon's removal deletes them."""
_RENEW = KEPT / 2
_OF_TTL = 0.3
"""The part of `member_ttl` after which new figures of a wagon that still takes events are handed in, and the longest
that one wagon's may take: checking in waits for it."""


def scope_of(train: str) -> str:
    """Under this name the registry keeps the counts of a train's processes, apart from their check-ins, which everybody
    reads all the time."""
    return f"0counts-{train}"


class HandIn:
    """Sends the counts of one process, in a check-in for each wagon. Figures of wagons that are cut off are handed in
    at once."""

    def __init__(self, runtime: Runtime, state: TrainState, counts: Counters) -> None:
        self._name = runtime.name
        self._scope = scope_of(runtime.train)
        self._ttl = runtime.settings.member_ttl
        self._revision = runtime.revision
        self._state = state
        self._counts = counts
        self._known: dict[Channel, tuple[int, int, int]] = {}
        """The marks of what was handed in."""
        self._at: dict[int, float] = {}
        """By wagon: when that was (the loop's time)."""

    async def hand_in(self, *, last: bool = False) -> None:
        """Hand in what is due, with `last` all that is new. Raises Unavailable, StorageBroken."""
        manifest = self._state.snapshot.manifest
        if manifest.removal is not None:  # nothing may be made anew of a train that goes
            return
        marks = self._counts.marks(manifest)
        self._known = {channel: mark for channel, mark in self._known.items() if channel in marks}
        for wagon in manifest.wagons:
            mine = {channel: mark for channel, mark in marks.items() if channel.wagon == wagon.number}
            if mine and self._is_due(wagon, mine, last=last):
                await self._send(wagon.number, self._counts.said(wagon))
                self._known |= mine
                self._at[wagon.number] = asyncio.get_running_loop().time()
        self._at = {number: at for number, at in self._at.items() if manifest.wagon(number) is not None}

    def _is_due(self, wagon: Wagon, marks: dict[Channel, tuple[int, int, int]], *, last: bool) -> bool:
        is_new = any(self._known.get(channel) != mark for channel, mark in marks.items())
        if is_new and (last or wagon.closed_at is not None):
            return True
        ago = asyncio.get_running_loop().time() - self._at.get(wagon.number, float("-inf"))
        return ago >= (_OF_TTL * self._ttl if is_new else _RENEW)

    async def _send(self, number: int, counts: tuple[ChannelCounts, ...]) -> None:
        member = Member(name=f"{self._name}/{number}", revision=self._revision, counts=counts)
        try:
            async with asyncio.timeout(_OF_TTL * self._ttl):
                await self._state.registry.check_in(self._scope, member, ttl=KEPT)
        except TimeoutError:
            raise Unavailable(f"the registry has not taken the counts within {_OF_TTL * self._ttl:g} s") from None


async def handed_in(registry: Registry, train: str, wagon: Wagon) -> list[Handed]:
    """What processes have handed in of this wagon, also those that have ended. Raises Unavailable, StorageBroken."""
    found = []
    for member in await registry.members(scope_of(train)):
        mine = {c.channel: c for c in member.counts if (c.wagon, c.opened_at) == (wagon.number, wagon.opened_at)}
        if mine:
            found.append(Handed(member.name.rpartition("/")[0], member.revision, mine))
    return found


async def drop_handed_in(registry: Registry, manifest: Manifest, number: int) -> None:
    """Delete what was handed in of this wagon. Idempotent. Raises Unavailable, StorageBroken."""
    scope = scope_of(manifest.train)
    for member in await registry.members(scope):
        if any(counts.wagon == number for counts in member.counts):
            await registry.check_in(scope, Member(name=member.name), ttl=0)
