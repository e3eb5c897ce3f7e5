"""How often a process looks for events that are due."""

from __future__ import annotations

import asyncio
from typing import cast

from eventwagon import Train
from eventwagon.contracts.lifecycle import State as Phase
from eventwagon.contracts.timetable import Due, Timetable
from eventwagon.drivers.memory import MemoryBroker
from eventwagon.runtime.due_events import DueEvents
from eventwagon.runtime.pulse import Pulse
from eventwagon.runtime.switcher import Switcher
from eventwagon.runtime.train_state import TrainState
from eventwagon.testing.virtual_time import VirtualClock, run
from tests.support import runtime_of
from tests.unit.plans import manifest, wagon


class Looks:
    """A timetable that notes when it is looked at. Something waits, until `waits_until`."""

    def __init__(self, waits_until: float = 0.0) -> None:
        self.at: list[float] = []
        self._waits_until = waits_until

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        now = asyncio.get_running_loop().time()
        self.at.append(now)
        next_at = self._waits_until if now < self._waits_until else None
        return Due(events=(), keys=(), until=now, now=now, next_at=next_at)


class Snapshot:
    manifest = manifest(wagon(1, Phase.ACTIVE))


class State:
    snapshot = Snapshot()


def looks(
    seconds: float, *, beats: tuple[float, ...] = (), wakes: tuple[float, ...] = (), waits: float = 0
) -> list[float]:
    """When it looks within so many seconds, with signs of life and calls of `wake` at these times."""

    async def main() -> list[float]:
        loop, pulse, timetable = asyncio.get_running_loop(), Pulse(), Looks(waits)
        runtime = runtime_of(Train("t"), MemoryBroker(), clock=VirtualClock(), pulse=pulse)
        due = DueEvents(runtime, cast(TrainState, State()), cast(Switcher, None), cast(Timetable, timetable))
        for at in beats:
            loop.call_at(at, pulse.beat)
        for at in wakes:
            loop.call_at(at, due.wake)
        pulse.beat()
        try:
            async with asyncio.timeout(seconds):
                await due.run()
        except TimeoutError:
            pass
        return timetable.at

    return run(main(), start=0.0)


def test_it_looks_twice_a_second_and_less_often_where_nothing_happens() -> None:
    assert looks(9.9) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.0, 9.0]


def test_a_sign_of_life_ends_the_pause() -> None:
    assert looks(7.2, beats=(5.7,))[6:] == [3.0, 5.0, 5.7, 6.2, 6.7]


def test_what_is_published_here_for_later_ends_the_pause() -> None:
    assert looks(8.0, wakes=(5.3,))[6:] == [3.0, 5.0, 5.3, 7.3]


def test_while_something_waits_it_does_not_rest() -> None:
    found = looks(12.0, waits=10.25)
    assert found == [at / 2 for at in range(21)] + [10.25]
