"""One process of a train: what it does there, its check-in, and its workers at the wagons of the manifest."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec

from ..backoff import Backoff
from ..contracts.facts import BreakerClosed, BreakerOpened, Entry, Fact, HandlerOverran
from ..contracts.lifecycle import LIVE
from ..contracts.manifest import Wagon
from ..contracts.metering import ProcessFigures
from ..contracts.orchestrator import Deployment
from ..contracts.process import this_pod, this_process
from ..contracts.registry import Member, Peer, peers_of
from ..display.text import as_line, said
from ..errors import Unavailable
from ..event import wagon_name
from ..limits import slo
from ..policy.demand import FEW
from ..policy.edits import asked_of, spec_of
from ..policy.pausing import resting
from ..policy.scheduling import may_serve, served_first, share, within
from .budget_shares import agreed_budgets
from .bulkhead import is_ours
from .ended import EndedMembers
from .handing_in import HandIn
from .in_process import InProcess
from .lifespan import alive
from .local_workers import LocalWorkers
from .runtime import Runtime, Steps
from .train_state import TrainState

_logger = logging.getLogger("eventwagon")

_WORKING = {"work", "serve"}
"""Roles that a process has only while its lifespan is open: the others divide the workers without it."""
_OPEN_AGAIN = (0.5, 10.0)
"""Seconds before a lifespan that failed to open is opened again: they double."""
_SLOW = 5.0
"""Seconds after which a lifespan that is still opening is warned of."""
_NEWS_MOST = 100
"""How many facts are kept for the journal while the registry is away: the latest."""
_LOOK_UNDER_WATCH = 0.5
"""Seconds between two check-ins with fresh counts while new code is watched, or handlings fail and `pause_on` counts
them."""


@asynccontextmanager
async def wagon_workers(
    runtime: Runtime, *, shared: bool, most: int | None = None
) -> AsyncIterator[tuple[LocalWorkers, InProcess]]:
    """This process's workers, which are told wagon by wagon what to serve. With `shared` they are one pool, empty at
    first; otherwise each wagon has as many workers of its own as its spec says, and at most `most` handlers run at a
    time for all of them. Leaving ends them all, within `grace`."""
    settings = runtime.settings
    async with (
        LocalWorkers(runtime, shared=0 if shared else None, slo=slo(settings.limit), most=most) as workers,
        InProcess(workers.serve, grace=settings.grace, bulkhead=runtime.bulkhead) as local,
    ):
        yield workers, local


class Membership:
    """Checks a process in. If it works, keeps its workers attached to every live wagon.

    The processes that work divide the workers between them: those of `Workers(total=…)`, and each wagon's own, which
    the processes with the wagon's code divide. Workers are moved when a process comes or goes; that never ends a
    handler in flight. With `post`, a unit and a number of workers, the process works only for the wagon that this unit
    serves, with that many workers, and takes no part in the division.
    """

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        *,
        roles: tuple[str, ...],
        post: tuple[int, int] | None = None,
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._settings = runtime.settings
        self._name = runtime.name
        self._revision = runtime.revision
        self._bulkhead = runtime.bulkhead
        self._orchestrator = runtime.orchestrator if "observe" in roles else None
        self._registry = state.registry
        self._state = state
        self._roles = roles
        self._post = post
        self._steps = Steps(runtime)
        """Steps that failed the last time."""
        self._ended = EndedMembers(runtime, state)
        self._counts = None if runtime.counters is None else HandIn(runtime, state, runtime.counters)
        self._process = this_process()
        self._pod = this_pod()
        self._woken = asyncio.Event()
        self._said: object = None
        self._due = 0.0
        self._failed = 0
        """Failed handlings here, at the last check-in."""
        self._fails = False
        """Some have failed since the check-in before, and `pause_on` counts them."""
        self._shared_workers = 0
        self._local_workers: LocalWorkers | None = None
        self._resting: frozenset[int] = frozenset()
        """Wagons that are paused."""
        self._leaving: set[int] = set()
        self._news: deque[Entry] = deque(maxlen=_NEWS_MOST)
        """Facts of the workers for the journal."""
        self.attachments: tuple[Deployment, ...] = ()
        """What this process's workers do, wagon by wagon."""
        self._closed_because = ""
        """Why this process handles nothing: its lifespan is not open. Empty if it is."""
        self.observing: asyncio.Task[None] | None = None
        """The task that observes in this process, if any: this process checks out after it. Written by Connection."""
        self.on_check_in: Callable[[], None] = lambda: None
        """Called when what this process says of its workers has changed."""

    @property
    def trouble(self) -> str:
        """Why this process is unhealthy: a defect that it found, or its lifespan is not open. Empty if there is
        nothing."""
        return self._bulkhead.trouble or self._closed_because

    @property
    def figures(self) -> ProcessFigures:
        """What this process's workers do now. From any thread."""
        return ProcessFigures() if self._local_workers is None else self._local_workers.figures

    def wake(self, _: object = None) -> None:
        """Something changed: look now."""
        self._woken.set()

    def _heed(self, _: object = None) -> None:
        """The manifest has changed. A pause counts from this moment on, whatever else has to wait."""
        if self._local_workers is not None:
            manifest = self._state.snapshot.manifest
            numbers = resting(manifest)
            for wagon in manifest.wagons:
                if wagon.number in numbers - self._resting and (pause := manifest.pause_of(wagon)) is not None:
                    by = f" by {pause.by}" if pause.by else ""
                    name = wagon_name(self._train, wagon.number)
                    words = f"{name} is paused{by}: {pause.why}; nothing of it is handed out here"
                    _logger.warning("%s: %s", self._train, as_line(words))
                elif wagon.number in self._resting - numbers:
                    name = wagon_name(self._train, wagon.number)
                    _logger.info("%s: %s is resumed: its events are handed out again", self._train, name)
            self._resting = numbers
            self._local_workers.pause(numbers)
        self.wake()

    async def run(self) -> None:
        """Be a member until cancelled; then, or if anything else ends it, leave gracefully and check out. An error in a
        step does not end it: it is reported, and the step is tried again."""
        self._state.on_change.append(self._heed)
        try:
            if "work" in self._roles or self._post is not None:
                await self._work()
            else:
                await self._watch(None, None)
        finally:
            self._state.on_change.remove(self._heed)
            if self.observing is not None and not self.observing.done():
                await self._stay()
            if self._counts is not None:
                with self._steps.going_on("handing in its counts"):
                    await self._counts.hand_in(last=True)
            with self._steps.going_on("checking out"):  # it expires by itself
                async with asyncio.timeout(self._settings.member_ttl):
                    await self._registry.check_in(self._train, Member(name=self._name), ttl=0)

    async def _stay(self) -> None:
        """Stay a member until the observer has ended what it has begun, for at most `member_ttl`: others take over what
        one that is gone has left."""
        assert self.observing is not None  # noqa: S101 - for the type checker
        ttl = self._settings.member_ttl
        with self._steps.going_on("checking in for the last time"):
            async with asyncio.timeout(ttl):
                await self._registry.check_in(self._train, Member(name=self._name, roles=("observe",)), ttl=ttl)
        await asyncio.wait([self.observing], timeout=ttl)

    async def _work(self) -> None:
        shared = self._settings.workers.total is not None and self._post is None
        with self._steps.going_on("giving back what ended processes had"):  # else observers do, or their claims expire
            async with asyncio.timeout(self._settings.member_ttl):
                await self._ended.give_back()
        most = self._settings.workers.in_process if self._post is None else None
        async with (
            self._opened() as state,
            agreed_budgets(self._runtime, self._registry) as budgets,
        ):
            runtime = dataclasses.replace(self._runtime, tell=self._hear, state=state, budgets=budgets)
            async with wagon_workers(runtime, shared=shared, most=most) as (local_workers, local):
                local.on_change = self.wake
                self._local_workers = local_workers
                self._heed()
                await self._watch(local_workers, local)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        """What the program's lifespan yields. Until it has, this process checks in, says why it handles nothing, and
        tries again."""
        opening, pauses = self._runtime.opening, Backoff(*_OPEN_AGAIN)
        if opening is None:
            yield None
            return
        async with AsyncExitStack() as stack:
            self._closed_because = "what its lifespan opens is not open yet"
            async with asyncio.TaskGroup() as beside:
                watching = beside.create_task(self._watch(None, None))
                while self._closed_because:
                    try:
                        state = await self._entered(stack, alive(opening, self._settings.grace, self._bulkhead))
                        self._closed_because = ""
                    except BaseException as e:
                        if is_ours(e):
                            raise
                        self._bulkhead.report("opening its lifespan", e)
                        self._closed_because = f"its lifespan can't be opened: {said(e)}"
                        self.wake()
                        await asyncio.sleep(pauses.next())
                watching.cancel()
            yield state

    async def _entered(self, stack: AsyncExitStack, lifespan: AbstractAsyncContextManager[Any]) -> Any:
        slow = asyncio.get_running_loop().call_later(_SLOW, self._tell_slow)
        try:
            return await stack.enter_async_context(lifespan)
        finally:
            slow.cancel()

    def _tell_slow(self) -> None:
        _logger.warning(
            "%s: its lifespan has been opening for %g s; this process handles nothing until it has", self._train, _SLOW
        )

    def _hear(self, fact: Fact) -> None:
        """A fact about this process's workers. Those that operators ask for also go to the journal and into the next
        check-in."""
        self._runtime.tell(fact)
        if isinstance(fact, BreakerOpened | BreakerClosed | HandlerOverran):
            self._news.append(Entry(self._runtime.clock(), self._name, fact))
            self.wake()

    async def _write_news(self) -> None:
        if self._news:
            entries = list(self._news)
            with self._runtime.reach.asking():
                await self._registry.append(self._train, entries, keep=self._settings.keep)
            for entry in entries:
                if self._news and self._news[0] is entry:  # the oldest may have gone for newer ones meanwhile
                    self._news.popleft()

    async def _watch(self, local_workers: LocalWorkers | None, local: InProcess | None) -> None:
        async with asyncio.TaskGroup() as leaving:
            while True:
                self._woken.clear()
                if local_workers is not None and local is not None:
                    with self._steps.going_on("looking after its wagons"):
                        await self._attend(local_workers, local, leaving)
                with self._steps.going_on("a check-in"):
                    await self._check_in(local)
                if self._counts is not None:
                    with self._steps.going_on("handing in its counts"):
                        await self._counts.hand_in()
                with self._steps.going_on("writing to the journal"):
                    await self._write_news()
                pause = self._settings.member_ttl / 3
                if self._state.snapshot.manifest.watch is not None or self._fails:
                    pause = min(pause, _LOOK_UNDER_WATCH)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _attend(self, local_workers: LocalWorkers, local: InProcess, leaving: asyncio.TaskGroup) -> None:
        """Attach this process's share of the workers to every live wagon, and detach workers from drained ones."""
        peers = await self._peers()
        names = sorted(peers)
        local_workers.has_peers = self._post is not None or len(names) > 1
        workers = self._settings.workers
        if workers.total is not None and self._post is None:
            index, count = names.index(self._name), len(names)
            self._shared_workers = share(workers.total, index, count)
            local_workers.resize(self._shared_workers, share(workers.floors, index, count))
        manifest = self._state.snapshot.manifest
        live = [w for w in manifest.in_state(*LIVE) if self._post is None or w.unit == self._post[0]]
        own = self._own_workers(live, peers)
        for wagon in live:
            if wagon.created_at is None:
                continue
            with self._steps.going_on(f"attaching to {wagon_name(self._train, wagon.number)}"):
                await local.ensure(spec_of(manifest, wagon, workers=own.get(wagon.number)))
        units = {w.unit for w in live}
        for unit, found in (await local.deployments(self._train)).items():
            # warm workers of a wagon that a registry forgot: a spec for an earlier wagon of their unit changes nothing
            forgotten = manifest.epoch > 0 and manifest.wagon(found.number) is None
            if (unit not in units or forgotten) and unit not in self._leaving:
                self._leaving.add(unit)
                leaving.create_task(self._leave(local, unit))

    def _own_workers(self, live: Sequence[Wagon], peers: Mapping[str, str]) -> Mapping[int, int]:
        """How many workers each wagon should have here, by number; empty if the wagons share them."""
        if self._post is not None:
            return {wagon.number: self._post[1] for wagon in live}
        workers, names, shares = self._settings.workers, sorted(peers), dict[int, int]()
        for wagon in sorted(live, key=served_first):
            if (each := asked_of(workers, wagon)) is not None:
                able = [n for n in names if n == self._name or may_serve(peers[n], wagon.revision)]
                shares[wagon.number] = share(each, able.index(self._name), len(able), turn=wagon.number)
        return within(workers.in_process, shares)

    async def _peers(self) -> dict[str, str]:
        """The processes that divide the workers between them, this one included: their names and the revision of their
        code."""
        peers: Sequence[Peer] = ()
        if self._post is None:
            with self._runtime.reach.asking():
                peers = await peers_of(self._registry, self._train)
        return {p.name: p.revision for p in peers if "work" in p.roles} | {self._name: self._revision}

    async def _leave(self, local: InProcess, unit: int) -> None:
        try:
            with self._steps.going_on(f"leaving unit {unit}"):
                await local.remove(self._train, unit, grace=self._settings.grace)
        finally:
            self._leaving.discard(unit)

    async def _check_in(self, local: InProcess | None) -> None:
        """Report what this process does, when that has changed and well before the last check-in expires."""
        manifest = self._state.snapshot.manifest
        found = await local.deployments(self._train) if local is not None else {}
        self.attachments = attachments = tuple(
            msgspec.structs.replace(a, losses=wagon.losses) if (wagon := manifest.wagon(a.number)) is not None else a
            for a in _in_order(found)
        )
        deployed: tuple[Deployment, ...] = ()
        if self._orchestrator is not None:
            with self._steps.going_on("asking the orchestrator for the check-in"):
                deployed = _in_order(await self._orchestrator.deployments(self._train))
        counts = self._settings.pause_on is not None
        failed = sum(a.failed - a.uncounted for a in attachments)
        self._fails, self._failed = counts and failed > self._failed, failed
        watch, own = manifest.watch, self._settings.workers.total is None or self._post is not None
        saying = (
            tuple(
                (
                    a.number,
                    a.ready,
                    a.trouble,
                    a.channels,
                    a.losses,
                    a.missing,
                    a.open,
                    a.paused,
                    a.crashes,
                    a.workers if own else 0,
                    own and a.work is not None and a.work.count >= FEW,
                    (a.handled, a.failed) if watch and a.number == watch.number else None,
                    a.failed - a.uncounted if counts else None,
                )
                for a in (*attachments, *deployed)
            ),
            self.trouble,
            self._local_workers.held if self._local_workers is not None else 0,
        )
        now = asyncio.get_running_loop().time()
        if saying == self._said and now < self._due:
            return
        handlers = self._runtime.handlers
        me = Member(
            name=self._name,
            roles=self._roles if not self._closed_because else tuple(set(self._roles) - _WORKING),
            version=self._state.snapshot.version,
            revision=self._revision,
            shared_workers=self._shared_workers,
            attachments=attachments,
            deployed=deployed,
            channels=tuple(name for name in handlers if name) if handlers else None,
            undoes=tuple(self._runtime.undo_handlers) if handlers else None,
            caught=self._bulkhead.caught,
            held=self._local_workers.held if self._local_workers is not None else 0,
            trouble=self.trouble,
            process=self._process,
            pod=self._pod,
        )
        ttl = self._settings.member_ttl
        try:
            with self._runtime.reach.asking():
                async with asyncio.timeout(ttl):
                    await self._registry.check_in(self._train, me, ttl=ttl)
        except TimeoutError:
            raise Unavailable(f"the registry has not answered a check-in within member_ttl={ttl:g} s") from None
        news, self._said = saying != self._said, saying
        self._due = now + self._settings.member_ttl / 3 * 0.9
        if news:
            self.on_check_in()


def _in_order(deployments: Mapping[int, Deployment]) -> tuple[Deployment, ...]:
    """In the order of a check-in: by unit, so that an unchanged state gives an equal check-in."""
    return tuple(d for _, d in sorted(deployments.items()))
