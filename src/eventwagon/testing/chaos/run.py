"""One chaos run, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ...connection import Connection
from ...errors import EventwagonError
from ...facts import Switched
from ...lifecycle import State
from ...manifest import Manifest
from ...train import Train
from .cast import Cast
from .judge import Verdict, left_over, lost, read_books
from .plan import ROLES, strikes
from .program import NOTES, VOLUME

_PUBLISHERS, _OBSERVERS, _WORKERS = 4, 2, 3
_LOOK = 0.05


class ChaosFailed(AssertionError):
    """Something must not be so, or a deadline passed; the message is a report."""


class Chaos:
    """Four publishers, two observers, and workers: with `isolated` a process per wagon, without three that share the work.

    `directory` must be empty and on a local disk. `patience`: seconds without a switch, or of healing, that count as a
    hang.
    """

    def __init__(
        self, directory: Path, *, switches: int, plan: int, isolated: bool, patience: float = 60.0, volume: int = 80
    ) -> None:
        self._directory = directory
        self._url = f"sqlite:///{directory}/trains"
        self._switches = switches
        self._plan = plan
        self._isolated = isolated
        self._patience = patience
        notes = directory / "notes"
        self._notes = notes
        self._cast = Cast(self._url, directory, {NOTES: str(notes), VOLUME: str(volume)}, isolated=isolated)

    async def run(self, *, say: Callable[[str], None] = lambda line: None) -> Verdict:
        """Run it. Raises ChaosFailed on a hang, or when a process ended by itself."""
        self._notes.mkdir(parents=True)
        began = time.monotonic()
        try:
            for role, count in (("publisher", _PUBLISHERS), ("observer", _OBSERVERS), ("worker", _WORKERS)):
                for number in range(0 if role == "worker" and self._isolated else count):
                    self._cast.start(role, f"{role}-{number + 1}")  # type: ignore[arg-type]
            async with Train("chaos").connect(self._url, listeners=()) as train:
                await self._struggle(train, say)
                say(f"healing after {time.monotonic() - began:.0f} s")
                self._cast.heal()
                await asyncio.to_thread(self._cast.end, "publisher")
                await self._until(train, "all that was accepted handled", lambda: self._quiet(train))
                self._cast.of("worker")  # to know the last of them
                await train.request_stop("the end of the chaos")
                for role in ("worker", "observer"):
                    await asyncio.to_thread(self._cast.end, role)  # type: ignore[arg-type]
                dead = {event.id async for event in train.dead_letters()}
                switches = await self._count(train)
                numbers = {w.number for w in (await train.refresh()).manifest.wagons}
        except BaseException:
            self._cast.kill_all()
            raise
        if self._cast.unexpected():
            raise ChaosFailed("\n".join([f"plan {self._plan}:", *self._cast.unexpected(), await self._outputs()]))
        books = read_books(self._notes)
        handled = books.taken.keys() & books.confirmed.keys()
        return Verdict(
            plan=self._plan,
            seconds=time.monotonic() - began,
            switches=switches,
            kills=dict(self._cast.kills),
            stops=dict(self._cast.stops),
            tried=len(books.tried),
            accepted=len(books.accepted),
            handled=len(handled),
            twice=sum(1 for count in books.taken.values() if count > 1),
            dead=len(dead),
            lost=lost(books, dead),
            left_over=left_over(self._directory / "trains", self._directory / "processes", numbers, self._cast.known),
        )

    async def _struggle(self, train: Connection, say: Callable[[str], None]) -> None:
        """Strike until there were enough switches."""
        active, moved, told = 0, time.monotonic(), 0
        plan = strikes(self._plan)
        blow = next(plan)
        due = time.monotonic() + 3.0  # all have begun
        while active <= self._switches:
            now = time.monotonic()
            self._cast.mend(now)
            if now >= due:
                self._cast.strike(blow, now)
                blow = next(plan)
                due = now + blow.pause
            found = train.manifest.active
            if found is not None and found.number > active:
                active, moved = found.number, now
            elif now - moved > self._patience:
                raise ChaosFailed(await self._report(train, f"no switch for {self._patience:g} s"))
            if active >= told + 50:
                told = active
                say(f"wagon {active}")
            await asyncio.sleep(_LOOK)

    async def _quiet(self, train: Connection) -> bool:
        """Only the active wagon and its spares are left, and nothing waits anywhere."""
        manifest = (await train.refresh()).manifest
        if len(manifest.in_state(State.ACTIVE, State.READY)) != len(manifest.wagons) or manifest.active is None:
            return False
        depths = [d for of in (await train.depths()).values() for name, d in of.items() if name != "dead"]
        return all(d.published is not None and d.published == d.settled for d in depths)

    async def _until(self, train: Connection, what: str, true: Callable[[], Awaitable[bool]]) -> None:
        until = time.monotonic() + self._patience
        while True:
            self._cast.mend(time.monotonic())
            try:
                if await true():
                    return
            except EventwagonError as e:
                what = f"{what} ({e})"
            if time.monotonic() > until:
                raise ChaosFailed(await self._report(train, f"{what}: not within {self._patience:g} s"))
            await asyncio.sleep(_LOOK)

    async def _count(self, train: Connection) -> int:
        switches = 0
        async for entry in train.journal():
            if isinstance(entry.fact, Switched) and entry.fact.old is not None:
                switches += 1
        return switches

    # --- when it hangs --------------------------------------------------------------------

    async def _report(self, train: Connection, what: str) -> str:
        """Who waits for what."""
        self._cast.traces()
        await asyncio.sleep(0.5)  # for them to be written
        lines = [f"plan {self._plan}: {what}"]
        try:
            manifest: Manifest = (await train.refresh()).manifest
            lines += [f"  {w.name}: {w.state}, trouble: {w.trouble or 'none'}" for w in manifest.wagons]
            lines += [f"  depths of wagon {n}: {of}" for n, of in (await train.depths()).items()]
            lines += [f"  {member}" for member in await train.members()]
            lines += [f"  {entry}" async for entry in train.journal(last=15)]
        except EventwagonError as e:
            lines.append(f"  the train can't be looked at: {e}")
        for role in ROLES:
            for actor in self._cast.of(role):
                lines.append(f"  {actor.name} pid {actor.pid}: {actor.process.status()}")
        return "\n".join([*lines, await self._outputs()])

    async def _outputs(self) -> str:
        def read() -> str:
            files = [*sorted(self._directory.glob("*.out")), *sorted(self._directory.glob("processes/*"))]
            kept = [p for p in files if p.is_file() and p.stat().st_size]
            return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-6000:]}" for p in kept)

        return await asyncio.to_thread(read)
