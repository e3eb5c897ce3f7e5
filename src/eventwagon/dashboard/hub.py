"""Reads the trains while somebody looks, and sends to all browsers what one reading found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from ..display.text import said
from ..errors import EventwagonError
from ..runtime.bulkhead import Bulkhead, is_ours
from ..runtime.tasks import kept_up
from .clients import HELLO, Client, message
from .encoding import encode
from .jobs import Jobs
from .picture import unreadable
from .places import Opened, Place
from .shapes import Card, TrainShape, Trouble
from .watching import Log, TrainWatch

_LINGER = 15.0
"""Seconds for which the drivers stay open after the last one who looked has left."""
_TRAINS = 100
"""The most trains that are read."""
_AT_ONCE = 10
"""Trains that are read each second; if there are more, each is read less often, but not one that is looked at."""
_SELDOM = 5
"""Readings between two searches for new trains."""
_FIRST_ROWS = 200
"""Entries of the journal that a browser gets at first."""
_REOPEN = 10
"""Failed searches for trains in a row after which the drivers are opened anew."""
_SOON = 2.0
"""Seconds for which a list of all trains waits for one."""
_PATIENCE = 10.0
"""Seconds for one search, and for somebody who waits for the first reading."""


class Hub:
    """The one reader for all browsers. It works only while somebody looks, or a job is under way: then it has one task,
    which owns all others, and ends by itself some seconds after. `close` ends it at once. It belongs to one event
    loop."""

    def __init__(self, place: Place, *, every: float = 1.0) -> None:
        self.every = every
        self.jobs = Jobs(place)
        self.trouble: Trouble | None = None
        """Why the place itself can't be read."""
        self._place = place
        self._bulkhead = Bulkhead("dashboard")
        self._clients: set[Client] = set()
        self._passing = 0
        """Requests that look once."""
        self._left_at = 0.0
        self._watches: dict[str, TrainWatch] = {}
        self._known = False
        """The trains were searched for."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._jobs_under_way: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._poked: asyncio.Future[None] | None = None

    # --- who looks ------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        """Open streams."""
        return len(self._clients)

    @asynccontextmanager
    async def streaming(self, client: Client) -> AsyncIterator[None]:
        """While entered, the client gets its messages."""
        self._clients.add(client)
        self._wake()
        try:
            yield
        finally:
            self._clients.discard(client)
            self._left_at = self._now()

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """While entered, somebody looks once. Waits until the trains are known, or why not."""
        self._passing += 1
        self._wake()
        try:
            deadline = self._now() + _PATIENCE
            while not self._known and self.trouble is None and self._now() < deadline:
                await self._poke_or(0.05)
            yield
        finally:
            self._passing -= 1
            self._left_at = self._now()

    async def watch(self, name: str, *, journal: bool = True) -> TrainWatch | None:
        """The train, read within the last second or so, by whomever; None if there is none. Call it while `looking`."""
        watch = self._watches.get(name)
        if watch is not None:
            await watch.look(journal=journal, fresh=self.every)
        return watch

    async def cards(self) -> list[Card]:
        """All trains at a glance; one that does not answer soon, as it was. Call it while `looking`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON):
                await asyncio.gather(*(w.look(journal=False, fresh=2 * self.every) for w in self._watches.values()))
        return self._cards()

    def _cards(self) -> list[Card]:
        return [card for _, watch in sorted(self._watches.items()) if (card := watch.card()) is not None]

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        """Carry out a job, which raises nothing, to its end."""
        task = asyncio.get_running_loop().create_task(job, name="a job of the dashboard")
        self._jobs_under_way.add(task)
        task.add_done_callback(self._jobs_under_way.discard)
        self._wake()

    def end_those(self, which: Callable[[Client], bool]) -> None:
        """End the streams of these clients."""
        for client in [c for c in self._clients if which(c)]:
            client.end()

    async def close(self) -> None:
        """End all streams, jobs and readings."""
        self.end_those(lambda client: True)
        owned = [*self._jobs_under_way, *([] if self._task is None else [self._task])]
        for task in owned:
            task.cancel()
        if owned:
            await asyncio.wait(owned)

    # --- its tasks ------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # the app is served by another one
            self._loop, self._task, self._poked = loop, None, None
            self._jobs_under_way = set()
            self._clients = {c for c in self._clients if c.is_new}
            self._watches.clear()
        if self._task is None or self._task.done() or self._is_ending:
            self._is_ending, self._known = False, False
            self._task = loop.create_task(self._run(), name="the dashboard's reader")
        if self._poked is not None and not self._poked.done():
            self._poked.set_result(None)

    async def _poke_or(self, seconds: float) -> bool:
        """Wait so long, or until somebody comes. Returns whether somebody has come."""
        if self._poked is None or self._poked.done():
            self._poked = asyncio.get_running_loop().create_future()
        poked = self._poked
        await asyncio.wait([poked], timeout=seconds)
        return poked.done()

    def _is_wanted(self) -> bool:
        return bool(self._is_looked_at() or self._jobs_under_way or self._now() - self._left_at < _LINGER)

    def _is_looked_at(self) -> bool:
        return bool(self._clients or self._passing)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(kept_up(self._read_on, "reading the trains", self._bulkhead)),
                tasks.create_task(kept_up(self._send_on, "sending to browsers", self._bulkhead)),
            ]
            while self._is_wanted():  # noqa: ASYNC110 - it depends on the time
                await asyncio.sleep(0.5)
            self._is_ending = True  # who comes from now on begins anew
            for watch in self._watches.values():
                watch.rest()
            for task in owned:
                task.cancel()

    async def _read_on(self) -> None:
        while True:
            try:
                async with self._place.open() as opened:
                    await self._follow(opened)
            except (EventwagonError, OSError, TimeoutError) as e:
                self._failed(str(e) if isinstance(e, EventwagonError) else said(e))
            await asyncio.sleep(self.every)

    def _failed(self, why: str) -> None:
        self.trouble = Trouble(why, time.time() if self.trouble is None else self.trouble.since)
        for watch in self._watches.values():
            watch.failed(why)

    async def _follow(self, opened: Opened) -> None:
        """Read the trains there, until they can't be searched for any more."""
        looking: dict[str, asyncio.Task[None]] = {}
        failures, clock = 0, asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as tasks:
            while failures < _REOPEN:
                searched = clock()
                try:
                    await self._search(opened, tasks, looking)
                    failures, self.trouble, self._known = 0, None, True
                except BaseException as e:
                    if is_ours(e):
                        raise
                    failures += 1
                    self._failed(str(e) if isinstance(e, EventwagonError) else said(e))
                # on Kafka a search lists all topics of the cluster
                pause = self.every * (_SELDOM if looking and not failures else 1)
                await asyncio.sleep(max(0.0, searched + pause - clock()))
                await self._while_nobody_looks()
            for task in looking.values():
                task.cancel()

    async def _search(self, opened: Opened, tasks: asyncio.TaskGroup, looking: dict[str, asyncio.Task[None]]) -> None:
        """Begin to read new trains, and forget those that are gone."""
        async with asyncio.timeout(_PATIENCE):
            names = sorted(await opened.names())[:_TRAINS]
        for name in looking.keys() - set(names):
            looking.pop(name).cancel()
            self._watches.pop(name, None)
        for name in names:
            if name in looking:
                continue
            watch = self._watches.get(name)
            if watch is None:
                watch = self._watches[name] = TrainWatch(name, opened.source(name), self._place.shown)
            else:  # known from before: its curves go on
                watch.source = opened.source(name)
            looking[name] = tasks.create_task(self._look_on(watch))
        for name in self._watches.keys() - set(names):
            del self._watches[name]

    async def _look_on(self, watch: TrainWatch) -> None:
        while True:
            in_full = any(c.train == watch.name for c in self._clients)
            pause = self.every * (1 if in_full else max(1.0, len(self._watches) / _AT_ONCE))
            await watch.look(journal=in_full, fresh=0.9 * pause)
            await self._poke_or(pause)
            await self._while_nobody_looks()

    async def _while_nobody_looks(self) -> None:
        while not self._is_looked_at():
            await self._poke_or(60.0)

    async def _send_on(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            if clock() >= due:
                self._send(list(self._clients))
                due = clock() + self.every
            else:
                self._send([c for c in self._clients if c.is_new])
            await self._poke_or(max(0.0, min(due - clock(), 0.1 if self._is_waited_for() else self.every)))

    def _is_waited_for(self) -> bool:
        return any(client.is_new for client in self._clients)

    # --- messages -------------------------------------------------------------------------

    def _send(self, clients: list[Client]) -> None:
        """Send to each what is new to it; what is the same for several is encoded once."""
        clients = [c for c in clients if not c.is_new or self._is_ready(c)]
        made: dict[object, bytes] = {}

        def once(key: object, make: Callable[[], bytes]) -> bytes:
            if key not in made:
                made[key] = make()
            return made[key]

        for client in clients:
            if not client.allowed():
                client.end()
                continue
            parts = [HELLO, client.first] if client.is_new else []
            parts.append(once("trains", self._trains))
            if client.train is not None:
                parts += self._of_train(client, client.train, once)
            if client.jobs_seen != self.jobs.version:
                client.jobs_seen = self.jobs.version
                parts.append(once("jobs", lambda: message("jobs", encode({"jobs": self.jobs.newest_first()}))))
            client.is_new = False
            client.offer(b"".join(parts))

    def _is_ready(self, client: Client) -> bool:
        """Whether all is known, or somebody has waited long enough: an empty page would say that there is no train."""
        if not self._known and self.trouble is None:
            return False
        own = self._watches.get(client.train or "")
        is_complete = own is None or own.is_complete
        all_read = is_complete and all(w.full() is not None for w in self._watches.values())
        return all_read or self._now() > client.came_at + 2.0

    def _trains(self) -> bytes:
        return message("trains", encode({"at": time.time(), "trouble": self.trouble, "trains": self._cards()}))

    def _of_train(self, client: Client, name: str, once: Callable[[object, Callable[[], bytes]], bytes]) -> list[bytes]:
        watch = self._watches.get(name)
        if watch is None:
            return [once(("train", name), lambda: message("train", encode(self._missing(name))))]
        if (train := watch.full()) is None:
            return []
        parts = [once(("train", name), lambda: message("train", encode(train)))]
        parts += self._new_of(client, name, "past", "wagons", watch.past, once)
        parts += self._new_of(client, name, "journal", "rows", watch.journal, once, first=_FIRST_ROWS)
        return parts

    def _new_of(
        self,
        client: Client,
        train: str,
        what: str,
        field: str,
        log: Log[Any],
        once: Callable[[object, Callable[[], bytes]], bytes],
        *,
        first: int | None = None,
    ) -> list[bytes]:
        """What the client does not know yet of a list; `first`: at first only so many of the newest."""
        place = client.places.get(what)
        if place == log.place:
            return []
        client.places[what] = log.place

        def make() -> bytes:
            reset, rows = log.since(place)
            return message(what, encode({"reset": reset, field: rows if first is None or not reset else rows[-first:]}))

        return [once((what, train, place), make)]

    def _missing(self, name: str) -> TrainShape:
        why = "there is no such train here" if self.trouble is None else self.trouble.why
        trouble = Trouble(why, time.time() if self.trouble is None else self.trouble.since)
        return TrainShape(train=name, verdict=unreadable(why), trouble=trouble)
