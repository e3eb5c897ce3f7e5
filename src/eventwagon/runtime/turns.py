"""Whose turn it is where a budget has room for fewer events than wait for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from ..policy.budgets import Waiting, first, lead_after

_KEPT = 0.02
"""Seconds for which room is kept for a pool whose turn it is: its event may have to be fetched first."""
_REST = 0.2
"""Seconds for which a pool gets no turn after it let one lapse: its workers may be held up by something else."""


class Turns:
    """Keeps the room of one budget for the pools of workers whose turn it is. A pool is any object.

    Room that is kept is lost to nobody: it is anybody's when its pool has begun, or has not for a moment. `on_free` is
    called then.
    """

    def __init__(self, on_free: Callable[[], object]) -> None:
        self._on_free = on_free
        self._kept: dict[object, int] = {}
        """For how many events of each pool room is kept."""
        self._since: dict[object, float] = {}
        """Since when its pool could have begun one of them."""
        self._rests: dict[object, float] = {}
        """Until when a pool gets no turn."""
        self._timer: asyncio.TimerHandle | None = None
        self._lead = 0
        """See `policy.budgets.first`."""
        self._time = asyncio.get_running_loop().time

    def kept_for_others(self, pool: object) -> int:
        """For how many events of other pools room is kept."""
        return sum(self._kept.values()) - self._kept.get(pool, 0) if self._kept else 0

    def give(self, room: float, ready: Mapping[object, tuple[int, Waiting]]) -> None:
        """There is room for so many events. `ready`: how many of each pool could begin now. Turns that were not used
        are given anew, but not for longer."""
        now = self._time()
        left = {pool: number for pool, (number, _) in ready.items() if now >= self._rests.get(pool, -math.inf)}
        self._kept.clear()
        if room < sum(left.values()):
            lead = self._lead
            while room >= 1.0:
                pools = [pool for pool, number in left.items() if number]
                pool = pools[first([ready[pool][1] for pool in pools], lead=lead)]
                self._kept[pool] = self._kept.get(pool, 0) + 1
                left[pool] -= 1
                room, lead = room - 1.0, lead_after(lead, is_new=ready[pool][1].is_new)
        self._since = {pool: self._since.get(pool, now) for pool in self._kept}
        self._arm()

    def began(self, pool: object, *, is_new: bool) -> None:
        """An event of this pool has begun."""
        self._lead = lead_after(self._lead, is_new=is_new)
        self._rests.pop(pool, None)
        if pool not in self._kept:
            return
        self._kept[pool] -= 1
        self._since[pool] = self._time()
        if not self._kept[pool]:
            del self._kept[pool], self._since[pool]
        self._arm()
        if not self._kept:  # there may be more room by now than was kept
            asyncio.get_running_loop().call_soon(self._on_free)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._since:
            self._timer = asyncio.get_running_loop().call_at(min(self._since.values()) + _KEPT, self._lapse)

    def _lapse(self) -> None:
        """Workers had something else to do, or an event was not there any more."""
        self._timer = None
        now = self._time()
        for pool, since in list(self._since.items()):
            if now >= since + _KEPT:
                del self._kept[pool], self._since[pool]
                self._rests[pool] = now + _REST
        self._rests = {pool: until for pool, until in self._rests.items() if until > now}
        self._arm()
        self._on_free()
