"""What one process may use now of each budget: how many handlings at a time, and how many events in a second.

`BudgetShares` agrees with the other processes on how much that is. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from ..policy.budgets import Waiting, burst, parts, turn_seconds
from .turns import Turns

LEASE_LOST = "the process could not renew its part of the budget in time"
"""Why handlings under a concurrency budget are cut short."""
_RECENT = 1.0
"""Seconds for which a budget that had no room counts as short."""
_MEASURED = 2.0
"""Seconds over which the rate of events is measured."""
_AHEAD = 0.05
"""Seconds of work that are fetched ahead."""
_TICK = 0.001
"""The shortest timer, in seconds: of a fast rate several events may begin at each."""
_WHOLE = 1.0 - 1e-6


class Pool(Protocol):
    """The part of a pool of workers that is used here."""

    @property
    def target(self) -> int: ...


class Watcher(NamedTuple):
    """A channel of a served wagon that has a budget, and the workers that handle its events."""

    pool: Pool
    waits: Callable[[], bool]
    """Whether an event of it waits, as far as this process knows."""
    on_room: Callable[[int], object]
    """Called when so many more events may begin."""
    on_change: Callable[[], object]
    """Called when this process may use more, or less."""
    on_lost: Callable[[], object]
    """Called when nothing may be used any more, so that handlings under way must end."""
    wagon: Callable[[], Waiting]
    """Which wagon it is."""
    ready: Callable[[Part], int]
    """How many of its events could begin now if this part had room, as far as this process knows; 0 if its pool works
    for other wagons too. One that may have to be fetched first counts."""


class Part:
    """This process's part of one budget: `held` of the whole `of`. It holds nothing at first, and uses what it holds
    until `until`, in the event loop's time."""

    def __init__(self, name: str, of: float) -> None:
        self.name = name
        self.of = of
        self.held = 0.0
        self.until = -math.inf
        """Written by BudgetShares."""
        self.on_need: Callable[[], object] = lambda: None
        """Called when BudgetShares should look: more is wanted, or something can be given up."""
        self.watchers: list[Watcher] = []
        self.refused_at = self.used_at = -math.inf
        """When an event last waited for it, and when it was last used."""
        self._turns = Turns(self._tell_left)
        self._time = asyncio.get_running_loop().time

    def has_room(self, pool: Pool | None = None) -> bool:
        """One more event may begin, in this pool of workers. If not, that one waits is noted."""
        now = self._time()
        if now < self.until and self._room(now) - self._turns.kept_for_others(pool) >= 1.0:
            return True
        is_new = now - self.refused_at > _RECENT
        self.refused_at = now
        if is_new:
            self.on_need()
        return False

    @property
    def is_open(self) -> bool:
        """There is room for an event, kept or not."""
        now = self._time()
        return now < self.until and self._room(now) >= 1.0

    @property
    def is_short(self) -> bool:
        """An event waits for it, or did lately."""
        now = self._time()
        if now - self.refused_at <= _RECENT:
            return True
        return not self.is_open and any(watcher.waits() for watcher in self.watchers)

    def lose(self) -> None:
        """It could not be renewed in time: nothing of it may be used."""
        self.grant(0.0)

    def grant(self, held: float) -> None:
        """This process holds so much from now on."""
        if held != self.held:
            self.held = held
            self._tell_change()

    def _tell_change(self) -> None:
        self._give_turns()
        for watcher in list(self.watchers):
            watcher.on_change()

    def _tell_room(self, count: int) -> None:
        self._give_turns()
        for watcher in list(self.watchers):
            watcher.on_room(count)

    def _give_turns(self) -> None:
        """Keep the room that there is for those whose turn it is. A pool that all wagons share has its own order."""
        ready = dict[object, tuple[int, Waiting]]()
        if any(watcher.pool is not self.watchers[0].pool for watcher in self.watchers):
            for watcher in self.watchers:
                if number := watcher.ready(self):
                    number += ready[watcher.pool][0] if watcher.pool in ready else 0
                    ready[watcher.pool] = number, watcher.wagon()
        self._turns.give(self._room(self._time()), ready)

    def _tell_left(self) -> None:
        """Room that was kept for some is anybody's."""
        room = int(self._room(self._time())) - self._turns.kept_for_others(None)
        for watcher in list(self.watchers) if room >= 1 else ():
            watcher.on_room(room)

    # --- what the two kinds do ----------------------------------------------------------------

    def begin(self, events: int, watcher: Watcher | None = None) -> None:
        """A handling of so many events begins."""
        if watcher is not None:
            self._turns.began(watcher.pool, is_new=watcher.wagon().is_new)

    def end(self) -> None:
        """A handling has ended, and everything that it started."""

    @property
    def in_use(self) -> float:
        """What is used whether or not it is held."""
        return 0.0

    @property
    def used(self) -> float:
        """What is used, for people: handlings under way, or events begun in a second lately."""
        return self.in_use

    @property
    def ahead(self) -> int:
        """How many events to fetch ahead. At least one, which shows that something waits."""
        return 1

    @property
    def owes(self) -> bool:
        """More was used than was there, which is yet to be made up for."""
        return False

    def unit(self, of: float) -> float:
        """What of a budget of that size is not divided any further."""
        return 1.0

    def turn(self, of: float) -> float:
        """Seconds that a turn lasts where there is not a unit for each process."""
        return turn_seconds()

    def wants(self) -> float:
        """What could be used now. Called once for each look."""
        return 0.0

    def _room(self, now: float) -> float:
        """How many events may begin; for others too."""
        return 0.0


class Slots(Part):
    """Handlings at a time."""

    def __init__(self, name: str, of: float) -> None:
        super().__init__(name, of)
        self.busy = 0
        """Handlings under way, including functions that go on in their threads."""
        self._peak = 0
        """The most since the last look."""

    def _room(self, now: float) -> float:
        return self.held - self.busy

    def begin(self, events: int, watcher: Watcher | None = None) -> None:
        super().begin(events, watcher)
        self.busy += 1
        self._peak = max(self._peak, self.busy)

    def end(self) -> None:
        self.busy -= 1
        self.used_at = self._time()
        if self.busy >= self.held:
            self.on_need()
        else:
            self._tell_room(1)

    def lose(self) -> None:
        super().lose()
        for watcher in list(self.watchers) if self.busy else ():
            watcher.on_lost()

    @property
    def in_use(self) -> float:
        return self.busy

    @property
    def ahead(self) -> int:
        return max(1, int(self.held))

    def wants(self) -> float:
        peak, self._peak = self._peak, self.busy
        if not self.is_short:
            return peak
        workers = sum({id(watcher.pool): watcher.pool.target for watcher in self.watchers}.values())
        return min(self.of, max(peak, workers))


class Tokens(Part):
    """Events begun in a second."""

    def __init__(self, name: str, of: float) -> None:
        super().__init__(name, of)
        self._tokens = 0.0
        """Events that may begin now. Less than 0 after a batch that began more than there were."""
        self._at = self._time()
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._since = self._at
        self._rate = 0.0

    def grant(self, held: float) -> None:
        self._refill(self._time())
        if not held:
            self._tokens = min(0.0, self._tokens)  # what a batch has used up stays used up
        super().grant(held)
        if self._timer is not None:
            self._timer.cancel()  # it was set for another rate
            self._timer = None
        self._arm()

    def _refill(self, now: float) -> None:
        if self.held:
            self._tokens = min(burst(self.held), self._tokens + (now - self._at) * self.held)
        self._at = now

    def _room(self, now: float) -> float:
        self._refill(now)
        self._arm()
        return self._tokens / _WHOLE

    def begin(self, events: int, watcher: Watcher | None = None) -> None:
        super().begin(events, watcher)
        now = self._time()
        self._refill(now)
        self._tokens -= events  # a batch may use up more than there is: the next event waits longer
        self._count += events
        self.used_at = now
        self._arm()

    def _arm(self) -> None:
        """Set the timer for the next event that may begin."""
        if self._timer is None and self.held and self._tokens < _WHOLE:
            pause = max(_TICK, (1.0 - self._tokens) / self.held)
            self._timer = asyncio.get_running_loop().call_later(pause, self._due)

    def _due(self) -> None:
        self._timer = None
        self._refill(self._time())
        if self._tokens >= _WHOLE:
            self._tell_room(int(self._tokens + 1e-6))
        else:
            self._arm()

    @property
    def used(self) -> float:
        return self._rate

    @property
    def ahead(self) -> int:
        return 1 + int(self.held * _AHEAD)

    @property
    def owes(self) -> bool:
        self._refill(self._time())
        return self._tokens < 0.0

    def unit(self, of: float) -> float:
        return of / parts(of)

    def turn(self, of: float) -> float:
        return turn_seconds(of)

    def wants(self) -> float:
        now = self._time()
        if (passed := now - self._since) >= _MEASURED:
            self._rate, self._count, self._since = self._count / passed, 0, now
        if self.is_short or self.owes:
            return self.of
        return min(self.of, max(self._rate, self._count / _MEASURED) * 1.2)


class ChannelBudget:
    """The parts of all budgets of one channel: an event may begin if there is room in each. Each wagon has its own of
    the same parts."""

    __slots__ = ("_watcher", "parts")

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._watcher: Watcher | None = None

    @property
    def blocked(self) -> bool:
        """No event may begin now. Ask only while one waits: that is noted."""
        pool = None if self._watcher is None else self._watcher.pool
        return not all([part.has_room(pool) for part in self.parts])  # noqa: C419 - all of them note it

    def blocked_beside(self, part: Part) -> bool:
        """Another part than this one has no room."""
        return any(not each.is_open for each in self.parts if each is not part)

    @property
    def ahead(self) -> int:
        """How many events to fetch ahead at most."""
        return min(part.ahead for part in self.parts)

    @property
    def short(self) -> str:
        """The budgets for which events have waited lately; empty if there are none."""
        return ", ".join(part.name for part in self.parts if part.is_short)

    def begin(self, events: int = 1) -> None:
        """A handling of so many events begins."""
        for part in self.parts:
            part.begin(events, self._watcher)

    def end(self) -> None:
        """A handling has ended, and everything that it started."""
        for part in self.parts:
            part.end()

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """While entered, the watcher is told of changes, and events begin in its name."""
        self._watcher = watcher
        for part in self.parts:
            part.watchers.append(watcher)
        try:
            yield
        finally:
            self._watcher = None
            for part in self.parts:
                part.watchers.remove(watcher)
