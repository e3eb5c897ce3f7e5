"""Sends the counts of this process, for the train's ledger."""

from __future__ import annotations

import asyncio

from ..contracts.registry import Member
from ..errors import Unavailable
from ..event import Channel
from .counting import Counters
from .runtime import Runtime
from .train_state import TrainState

KEPT = 600.0
"""Seconds for which the counts of a process stay after it has ended: the observers of a train that is down meanwhile
have as long to come back."""
_RENEW = KEPT / 2
_OF_TTL = 0.3
"""The part of `member_ttl` after which new figures of a wagon that still takes events are handed in."""


class HandIn:
    """Sends the counts of one process, in a check-in of their own: it stays when the process is gone, and replaces
    its earlier one. Figures of wagons that are cut off are handed in at once."""

    def __init__(self, runtime: Runtime, state: TrainState, counts: Counters) -> None:
        self._name = f"{runtime.name}/counts"
        self._train = runtime.train
        self._ttl = runtime.settings.member_ttl
        self._revision = runtime.revision
        self._state = state
        self._counts = counts
        self._said: dict[Channel, tuple[int, int, int]] = {}
        self._at = float("-inf")
        """When they were last handed in (the loop's time)."""

    async def hand_in(self, *, last: bool = False) -> None:
        """Hand them in if that is due, with `last` in any case. Raises Unavailable, StorageBroken."""
        manifest, now = self._state.snapshot.manifest, asyncio.get_running_loop().time()
        marks = self._counts.marks(manifest)
        if not marks and not self._said:
            return
        if marks and not last:
            new = {channel.wagon for channel, mark in marks.items() if self._said.get(channel) != mark}
            cut_off = any(w.number in new and w.closed_at is not None for w in manifest.wagons)
            if not cut_off and now < self._at + (_OF_TTL * self._ttl if new else _RENEW):
                return
        said = self._counts.said(manifest)
        member = Member(name=self._name, revision=self._revision, counts=said)
        try:
            async with asyncio.timeout(self._ttl):
                await self._state.registry.check_in(self._train, member, ttl=KEPT if said else 0)
        except TimeoutError:
            raise Unavailable(f"the registry has not taken the counts within member_ttl={self._ttl:g} s") from None
        self._said, self._at = marks, now
