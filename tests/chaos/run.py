"""One chaos run, from the first process to the verdict."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from eventwagon.connection import Connection
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.errors import EventwagonError
from eventwagon.train import Train

from .cast import Cast
from .judge import (
    Restored,
    Verdict,
    channels_left,
    files_left,
    lost,
    processes_left,
    read_books,
    reused,
    roots,
    unnamed_channels,
)
from .plan import ROLES, outages, strikes
from .program import NAME, NOTES, VOLUME

_PUBLISHERS, _OBSERVERS, _WORKERS = 4, 2, 3
_CALM = 5.0
"""Seconds without a switch from which on blows come more rarely."""
_LOOK = 0.05
_FORGETS = 4.0  # seconds that a restored server forgets, at the least
_AFTER = 3  # switches after it came back


class ChaosFailed(AssertionError):
    """Something must not be so, or a deadline passed; the message is a report."""


class Server(Protocol):
    """A server that a run may strike. Both methods block."""

    def kill(self) -> None:
        """Kill it at once; what it acknowledged must not be lost by that."""
        ...

    def start(self) -> None:
        """Start it again with its data; return when it answers."""
        ...


@runtime_checkable
class Restorable(Server, Protocol):
    """One that may be brought back with an older copy. The methods block."""

    def save(self) -> None:
        """Keep a copy of all that it has acknowledged by now, in place of the one before."""
        ...

    def restore(self) -> None:
        """Start it, after a kill, with the copy; return when it answers."""
        ...


class Chaos:
    """Four publishers, two observers, and workers: with `isolated` a process per wagon, without three that share the
    work.

    `directory` must be empty and on a local disk. `url`: the broker and registry (default: SQLite in the directory);
    the train has a name of its own, so a server may be shared. `pace`: seconds between blows, on average. `servers`:
    those that are killed and started again, `mean_up` seconds apart. `restores`: so many times the first of them (a
    Restorable) comes back with a copy that was taken some seconds before. `patience`: seconds without a switch, or of
    healing, that count as a hang.
    """

    def __init__(
        self,
        directory: Path,
        *,
        switches: int,
        plan: int,
        isolated: bool,
        url: str | None = None,
        servers: Sequence[Server] = (),
        pace: float = 0.45,
        mean_up: float = 8.0,
        patience: float = 60.0,
        volume: int = 80,
        restores: int = 0,
    ) -> None:
        self._directory = directory
        self._trains = directory / "trains"
        self._url = url or f"sqlite:///{self._trains}"
        self._name = f"chaos-{os.urandom(4).hex()}"
        self._switches = switches
        self._plan = plan
        self._isolated = isolated
        self._servers = list(servers)
        self._pace, self._mean_up = pace, mean_up
        self._restores = restores
        self._restored: list[Restored] = []
        self._under_way = False
        """The train has switched: there is something to forget."""
        self._patience = patience
        self._notes = directory / "notes"
        environment = {NOTES: str(self._notes), NAME: self._name, VOLUME: str(volume)}
        self._cast = Cast(self._name, self._url, directory, environment, isolated=isolated)

    async def run(self, *, say: Callable[[str], None] = lambda line: None) -> Verdict:
        """Run it. Raises ChaosFailed on a hang, or when a process ended by itself."""
        self._notes.mkdir(parents=True)
        began = time.monotonic()
        try:
            for role, count in (("publisher", _PUBLISHERS), ("observer", _OBSERVERS), ("worker", _WORKERS)):
                for number in range(0 if role == "worker" and self._isolated else count):
                    self._cast.start(role, f"{role}-{number + 1}")  # type: ignore[arg-type]
            async with Train(self._name).connect(self._url, listeners=()) as train:
                async with self._outages():
                    await self._struggle(train, say)
                say(f"healing after {time.monotonic() - began:.0f} s")
                self._cast.heal()
                await asyncio.to_thread(self._cast.end, "publisher")
                await self._until(train, "all that was accepted handled", lambda: self._quiet(train))
                self._cast.of("worker")  # to know the last of them
                await train.request_stop("the end of the chaos")
                for role in ("worker", "observer"):
                    await asyncio.to_thread(self._cast.end, role)  # type: ignore[arg-type]
                letters = [event async for event in train.dead_letters()]
                remaining = await channels_left(self._name, train.broker, train.registry, patience=10.0)
                manifest = (await train.refresh()).manifest
                numbers = {w.number for w in manifest.wagons}
        except BaseException:
            self._cast.kill_all()
            raise
        if self._cast.unexpected():
            raise ChaosFailed("\n".join([f"plan {self._plan}:", *self._cast.unexpected(), await self._outputs()]))
        books, dead = read_books(self._notes), roots(letters)
        handled = books.taken.keys() & books.confirmed.keys()
        missing, forgotten = lost(books, dead, self._restored)
        if self._trains.is_dir():
            remaining += files_left(self._trains / self._name, numbers)
        return Verdict(
            plan=self._plan,
            seconds=time.monotonic() - began,
            switches=manifest.turns - 1,  # the journal does not go back that far
            kills=dict(self._cast.kills),
            stops=dict(self._cast.stops),
            tried=len(books.tried),
            accepted=len(books.accepted),
            handled=len(handled),
            twice=sum(1 for count in books.taken.values() if count > 1),
            dead=len({letter.id for letter in letters}),
            lost=missing,
            left_over=remaining + processes_left(self._directory / "processes", self._cast.known),
            restored=len(self._restored),
            forgotten=forgotten,
            reused=reused(books),
        )

    @asynccontextmanager
    async def _outages(self) -> AsyncIterator[None]:
        """Kill servers and start them again, while entered; all run when it is left."""
        ending = asyncio.Event()

        async def strike() -> None:
            for outage in outages(self._plan, mean=self._mean_up):
                server = self._servers[min(len(self._servers) - 1, int(outage.which * len(self._servers)))]
                pause, start, copied = outage.pause, server.start, None
                if self._under_way and len(self._restored) < self._restores:
                    server = restorable = self._restorable()
                    pause, start, copied = max(_FORGETS, pause), restorable.restore, time.monotonic()
                    await asyncio.to_thread(restorable.save)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await ending.wait()
                        return
                await asyncio.to_thread(server.kill)
                killed = time.monotonic()
                self._cast.kills["server"] += 1
                await asyncio.sleep(outage.back)
                await asyncio.to_thread(start)
                if copied is not None:
                    self._restored.append(Restored(copied, killed))

        striking = asyncio.create_task(strike()) if self._servers else None
        try:
            yield
        finally:
            ending.set()
            if striking is not None:
                await striking

    def _restorable(self) -> Restorable:
        server = self._servers[0]
        if not isinstance(server, Restorable):
            raise TypeError("restores: the first server must be a Restorable")
        return server

    async def _struggle(self, train: Connection, say: Callable[[str], None]) -> None:
        """Strike until there were enough switches, also since a server forgot some, and a server was struck where one
        may be."""
        active, moved, told = 0, time.monotonic(), 0
        restored, since = 0, 0
        plan = strikes(self._plan, mean=self._pace)
        blow = next(plan)
        due = time.monotonic() + 3.0  # all have begun
        while (
            active <= self._switches
            or (self._servers and not self._cast.kills["server"])
            or restored < self._restores
            or (self._restores and since < _AFTER)
        ):
            now = time.monotonic()
            self._cast.mend(now)
            if now >= due:
                self._cast.strike(blow, now)
                blow = next(plan)
                # a slow machine struck as often as a fast one gets nowhere: the longer since a switch, the rarer
                due = now + blow.pause * (1 + max(0.0, now - moved - _CALM) / _CALM)
            found = train.manifest.active
            if len(self._restored) > restored:
                restored, since, moved = len(self._restored), 0, now
            if found is not None and found.number > active:
                active, moved, since = found.number, now, since + 1
                self._under_way = active > 1
            elif now - moved > self._patience:
                raise ChaosFailed(await self._report(train, f"no switch for {self._patience:g} s"))
            if active >= told + 50:
                told = active
                say(f"wagon {active}")
            await asyncio.sleep(_LOOK)

    async def _quiet(self, train: Connection) -> bool:
        """Only the active wagon and its spares are left, nothing waits anywhere, and what an observer that was stopped
        has made anew is swept."""
        manifest = (await train.refresh()).manifest
        if len(manifest.in_state(State.ACTIVE, State.READY)) != len(manifest.wagons) or manifest.active is None:
            return False
        depths = [d for of in (await train.depths()).values() for name, d in of.items() if name != "dead"]
        if await unnamed_channels(train.broker, manifest):
            return False
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

    # --- when it hangs --------------------------------------------------------------------

    async def _report(self, train: Connection, what: str) -> str:
        """Who waits for what."""
        self._cast.traces()
        await asyncio.sleep(2.0)  # for them to be written, and for a server that was just killed to come back
        lines = [f"plan {self._plan}: {what}"]
        try:
            manifest: Manifest = (await train.refresh()).manifest
            lines += [f"  wagon {w.number}: {w.state}, trouble: {w.trouble or 'none'}" for w in manifest.wagons]
            lines += [f"  depths of wagon {n}: {of}" for n, of in (await train.depths()).items()]
            lines += [f"  {member}" for member in await train.members()]
            lines += [f"  {entry}" async for entry in train.journal(last=15)]
        except EventwagonError as e:
            lines.append(f"  the train can't be looked at: {e}")
        for role in ROLES:
            for actor in self._cast.of(role):
                lines.append(f"  {actor.name} pid {actor.pid}: {actor.process.status()}")
        # what it waited for comes last: a log that is cut off keeps its end
        return "\n".join([await self._outputs(), *lines])

    async def _outputs(self) -> str:
        def read() -> str:
            files = [*sorted(self._directory.glob("*.out")), *sorted(self._directory.glob("processes/*"))]
            kept = [p for p in files if p.is_file() and p.stat().st_size]
            return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-6000:]}" for p in kept)

        return await asyncio.to_thread(read)
