"""Looks at the trains of a URL from outside, for trains whose own processes export nothing: consumers in other
languages, functions, programs that you can't change. It only reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager

import msgspec

from ..contracts.address import Drivers
from ..contracts.facts import Entry
from ..contracts.lifecycle import State
from ..contracts.metering import Meter, ProcessFigures
from ..contracts.timetable import timetable_of
from ..display.text import said
from ..errors import EventwagonError
from ..policy.figures import figures_of, letters_in, letters_kept
from ..policy.onlooking import Onlooking
from ..runtime.bulkhead import Bulkhead, is_ours
from ..runtime.observed import system_of
from ..settings import Settings

_JOURNAL = 100
"""The newest entries that are read at each look. What more has happened since the last one is not counted."""
_PATIENCE = 10.0
"""Seconds for one look at one train."""


@asynccontextmanager
async def onlooking(
    drivers: Drivers,
    meter: Meter,
    settings_of: Callable[[str, Mapping[str, str]], Settings],
    *,
    trains: Sequence[str] = (),
    every: float = 5.0,
) -> AsyncIterator[None]:
    """While entered, tell the meter every so many seconds of each train, or of those with these names. `settings_of`
    returns a train's settings from its name and declaration. A train that can't be read is logged, and its figures get
    too old; the others go on. Raises Unavailable and StorageBroken on entering."""
    bulkhead = Bulkhead("metrics")
    known: dict[str, Onlooker] = {}

    async def look() -> None:
        names = set(await drivers.registry.trains())
        if missing := sorted(set(trains) - names):
            bulkhead.warn("missing", f"there is no train {', '.join(missing)}; {_there_are(names)}")
        names &= set(trains) or names
        for name in known.keys() - names:
            known.pop(name).leave()
        for name in sorted(names):
            if name not in known:
                known[name] = Onlooker(name, drivers, meter, settings_of, every)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await known[name].look()
            except BaseException as e:
                if is_ours(e):
                    raise
                failed(f"a look at train {name}", e)

    def failed(what: str, error: BaseException) -> None:
        if isinstance(error, EventwagonError | TimeoutError):
            bulkhead.warn(what, f"{what} failed: {said(error)}")
        else:
            bulkhead.report(what, error)

    async def again() -> None:
        while True:
            try:
                async with asyncio.timeout(_PATIENCE * (1 + len(known))):
                    await look()
            except BaseException as e:
                if is_ours(e):
                    raise
                failed("finding the trains", e)
            await asyncio.sleep(every)

    async with drivers.broker, drivers.registry:
        looking = asyncio.create_task(again())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            for each in known.values():
                each.leave()


def _there_are(names: Set[str]) -> str:
    return f"there are {', '.join(sorted(names)[:10])}" if names else "none has run there yet"


class Onlooker:
    """Looks at one train."""

    def __init__(
        self,
        train: str,
        drivers: Drivers,
        meter: Meter,
        settings_of: Callable[[str, Mapping[str, str]], Settings],
        every: float,
    ) -> None:
        self._train = train
        self._broker, self._registry = drivers.broker, drivers.registry
        self._timetable = timetable_of(drivers.broker, drivers.registry)
        self._meter = meter
        self._settings_of = settings_of
        self._every = every
        self._onlooking = Onlooking()
        self._last: Entry | None = None
        """The newest entry of the journal that was read."""
        self._begun = False
        self._now = ProcessFigures()
        self._leave = meter.joined(train, system_of(drivers.broker), "", lambda: self._now)

    def leave(self) -> None:
        """Take back all gauges of the train."""
        self._leave()
        self._meter.looked(self._train, None)

    async def look(self) -> None:
        """Read everything once, and tell the meter. Raises EventwagonError."""
        manifest = (await self._registry.read(self._train)).manifest
        settings = self._settings_of(self._train, manifest.declared)
        members = await self._registry.members(self._train)
        wagons = manifest.in_state(State.ACTIVE, State.DRAINING)
        channels = {w.number: manifest.working_channels(w) for w in wagons}
        letters = letters_in(manifest)
        asked = [*(c for of in channels.values() for c in of), *letters]
        found = dict(zip(asked, await self._broker.depth(asked), strict=True))
        depths = {number: [found[c] for c in of] for number, of in channels.items()}
        later = None if self._timetable is None else (await self._timetable.waiting(self._train)).count
        seen = self._onlooking.see(
            settings,
            self._broker.capabilities,
            manifest,
            depths,
            members,
            now=time.time(),
            steady=asyncio.get_running_loop().time(),
        )
        figures = figures_of(
            seen,
            dead_letters=letters_kept(map(found.__getitem__, letters)),
            later=later,
        )
        if settings.declared().get("limit") != manifest.declared.get("limit"):  # a limit of the user's own
            figures = msgspec.structs.replace(figures, pressures={}, promise=None)
        self._meter.looked(self._train, msgspec.structs.replace(figures, lasts=max(figures.lasts, 3 * self._every)))
        self._now = ProcessFigures(
            workers=sum(d.workers for d in seen.deployments.values()),
            busy=sum(d.in_hand for d in seen.deployments.values()),
        )
        await self._read_journal()

    async def _read_journal(self) -> None:
        """Tell the meter what has happened since the last look; what had happened before the first is not counted."""
        entries = [entry async for entry in self._registry.entries(self._train, last=_JOURNAL)]
        if self._begun:
            known = next((n for n in range(len(entries), 0, -1) if entries[n - 1] == self._last), 0)
            for entry in entries[known:]:
                self._meter.heard(entry.fact)
        self._begun = True
        self._last = entries[-1] if entries else self._last
